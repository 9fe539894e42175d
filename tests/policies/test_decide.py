"""Whether a failed run is attempted again: the pure decision, its budgets, and what an attempt store keeps of it."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcrew as rc
from runcrew.durations import LONGEST
from runcrew.errors import ConfigError, NoRetry
from runcrew.policies import (
    UNLIMITED,
    Budget,
    Constant,
    Exponential,
    GiveUp,
    Retry,
    RetryState,
    Wait,
    decide,
    retry_each,
)

FRESH = RetryState({})
AT_ONCE = Constant(0)


class A(Exception):
    """One kind of error."""


class B(Exception):
    """Another."""


class C(Exception):
    """A third."""


def decisions(rules: Sequence[Retry], errors: Sequence[Exception], state: RetryState = FRESH) -> list[Wait | GiveUp]:
    """What is decided after each of these failures of one run, up to the first that ends it."""
    made: list[Wait | GiveUp] = []
    for error in errors:
        made.append(decide(rules, state, error, now=0.0))
        last = made[-1]
        if isinstance(last, GiveUp):
            break
        state = last.state
    return made


def retries(rules: Sequence[Retry], errors: Sequence[Exception]) -> int:
    """How many retries these failures get."""
    return sum(isinstance(decision, Wait) for decision in decisions(rules, errors))


# --- rules --------------------------------------------------------------------------------


@pytest.mark.parity("T3.22")
def test_the_first_rule_that_matches_is_charged_and_it_alone() -> None:
    """Rules are asked in order, and only the budget of the first that matches is spent."""
    rules = [Retry(ConnectionResetError, retries=1), Retry(ConnectionError, retries=5)]
    first, second = decisions(rules, [ConnectionResetError(), ConnectionResetError()])
    assert isinstance(first, Wait)
    assert {"ConnectionResetError": 1} == first.state.counts
    assert isinstance(second, GiveUp)
    assert "the budget of ConnectionResetError is used up (1 retry)" == second.reason
    other = decide(rules, first.state, ConnectionRefusedError(), now=0.0)
    assert isinstance(other, Wait)
    assert {"ConnectionResetError": 1, "ConnectionError": 1} == other.state.counts


@pytest.mark.parity("T3.23")
@pytest.mark.parametrize("rules", [[], [Retry(A)]])
def test_what_no_rule_names_is_permanent(rules: list[Retry]) -> None:
    """Without a rule that matches, there is no retry."""
    assert GiveUp("no retry rule matches B") == decide(rules, FRESH, B(), now=0.0)


def test_what_is_no_exception_is_permanent() -> None:
    """SystemExit, cancellations, and no error at all are never retried."""
    for error in (SystemExit(), asyncio.CancelledError(), None):
        decision = decide([Retry(Exception)], FRESH, error, now=0.0)
        assert isinstance(decision, GiveUp)
        assert "never retried" in decision.reason


def test_what_is_final_is_permanent_and_says_so() -> None:
    """NoRetry ends it, also as a cause."""
    error = A()
    error.__cause__ = NoRetry()
    for final in (error, NoRetry()):
        decision = decide([Retry(Exception)], FRESH, final, now=0.0)
        assert isinstance(decision, GiveUp)
        assert "final" in decision.reason


def test_what_is_final_is_not_offered_to_predicates() -> None:
    """A predicate is not asked about an error that nothing may retry."""

    def when(error: Exception) -> bool:
        raise AssertionError

    for final in (NoRetry(), ExceptionGroup("g", [A(), NoRetry()])):
        assert isinstance(decide([Retry(when=when)], FRESH, final, now=0.0), GiveUp)


def test_a_group_is_charged_to_the_first_rule_that_takes_all_of_it() -> None:
    """A rule that takes the whole group comes before rules that take parts of it."""
    rules = [Retry(A), Retry(A, B, name="both")]
    decision = decide(rules, FRESH, ExceptionGroup("g", [A(), B()]), now=0.0)
    assert isinstance(decision, Wait)
    assert "both" == decision.rule


@pytest.mark.parametrize("leaves", [[A(), B()], [B(), A()], [ExceptionGroup("inner", [B()]), A()]])
def test_a_group_is_charged_to_the_first_rule_that_takes_a_part_of_it(leaves: list[Exception]) -> None:
    """Where every leaf has some rule, the one of them that stands first is charged."""
    decision = decide([Retry(C), Retry(A), Retry(B)], FRESH, ExceptionGroup("g", leaves), now=0.0)
    assert isinstance(decision, Wait)
    assert {"A": 1} == {key.split(".")[-1]: count for key, count in decision.state.counts.items()}


def test_one_fatal_leaf_is_fatal_for_all_rules() -> None:
    """A leaf that no rule names makes the group permanent, and so does one that is final."""
    for leaf in (C(), NoRetry()):
        error = ExceptionGroup("g", [A(), ExceptionGroup("inner", [B(), leaf])])
        assert isinstance(decide([Retry(A), Retry(B)], FRESH, error, now=0.0), GiveUp)


def nested(leaf: Exception, depth: int) -> Exception:
    """An error under so many groups."""
    for _ in range(depth):
        leaf = ExceptionGroup("one more", [leaf])
    return leaf


@pytest.mark.parametrize("rules", [[Retry(KeyError)], [Retry(OSError), Retry(KeyError)]])
@pytest.mark.parametrize(("depth", "again"), [(64, True), (65, False), (2000, False)])
def test_groups_in_groups_are_opened_up_to_a_bound(rules: list[Retry], depth: int, again: bool) -> None:
    """A leaf under 64 groups is found; what lies deeper matches nothing, and is no RecursionError."""
    decision = decide(rules, FRESH, nested(KeyError(), depth), now=0)
    assert again == isinstance(decision, Wait)


@pytest.mark.virtual
@pytest.mark.parametrize("depth", [400, 2000])
async def test_too_deep_a_nest_stays_the_outcome(depth: int) -> None:
    """However deep the groups of a job's error lie: it is the job's own error that comes out, and no other."""
    error = nested(KeyError(), depth)

    async def job() -> None:
        raise error

    with pytest.raises(ExceptionGroup) as raised:
        await rc.call(job, retry=[Retry(KeyError), Retry(OSError)])
    assert raised.value is error


def test_a_group_that_is_the_cause_of_its_leaf_ends() -> None:
    """A ring of groups and causes is decided, not followed for ever."""
    leaf = C()
    group = ExceptionGroup("g", [A(), leaf])
    leaf.__cause__ = group
    assert isinstance(decide([Retry(A), Retry(B)], FRESH, group, now=0.0), GiveUp)


# --- budgets ------------------------------------------------------------------------------


@pytest.mark.parity("T3.3", "T3.15", "T3.16", "E3.4")
@pytest.mark.parametrize("budget", [0, 1, 2, 7])
def test_a_budget_is_that_many_retries(budget: int) -> None:
    """N retries after the first failure, counted from 0 for the backoff, and none after that."""
    rule = Retry(A, retries=budget, backoff=lambda n: float(n))
    made = decisions([rule], [A()] * (budget + 3))
    assert [*map(float, range(budget))] == [d.delay for d in made if isinstance(d, Wait)]
    assert isinstance(made[-1], GiveUp)
    assert budget + 1 == len(made)
    assert Budget(budget) == rule.budget


@pytest.mark.parity("T3.16", "E3.4")
def test_a_refusal_does_not_count() -> None:
    """Asking again when the budget is used up gives the same answer."""
    state = RetryState({"A": 2}, total=2)
    answers = [decide([Retry(A, retries=2, name="A")], state, A(), now=0.0) for _ in range(3)]
    assert [GiveUp("the budget of A is used up (2 retries)")] * 3 == answers


@pytest.mark.parity("T3.1", "T3.17", "E3.4")
def test_unlimited_never_refuses() -> None:
    """UNLIMITED goes on, the count growing by one each time; it is no number, and the default is 3."""
    made = decisions([Retry(A, retries=UNLIMITED, backoff=lambda n: float(n))], [A()] * 100)
    assert [*map(float, range(100))] == [d.delay for d in made if isinstance(d, Wait)]
    assert not isinstance(UNLIMITED, int)
    assert Budget(3) == Retry(A).budget


@pytest.mark.defect("D3.12", "D3.13")
def test_zero_means_none() -> None:
    """A budget of 0 is no retry at all: not the default, and not without limit."""
    assert 0 == retries([Retry(A, retries=0)], [A()])
    assert 0 == retries([Retry(A, retries=0), Retry(Exception, retries=9)], [A()])
    decision = decide([Retry(A, retries=0)], FRESH, A(), now=0.0)
    assert GiveUp("the budget of A is used up (none allowed)") == decision


@pytest.mark.parity("T3.18", "E3.4")
def test_a_fresh_state_has_the_whole_budget() -> None:
    """The state is a value: the one that a run began with still has all of its budget after it."""
    rule = Retry(A, retries=2)
    assert 2 == retries([rule], [A()] * 5)
    assert 2 == retries([rule], [A()] * 5)
    assert RetryState({}) == FRESH


@pytest.mark.parity("T3.44")
@pytest.mark.defect("D3.24")
def test_budgets_add() -> None:
    """Alternating errors get the sum of their budgets, never the product."""
    rules = [Retry(A, retries=3), Retry(B, retries=5)]
    assert 3 + 3 == retries(rules, [A(), B()] * 20)
    assert 3 + 5 == retries(rules, [A(), B(), A(), B(), A(), B(), B(), B(), B()])


@pytest.mark.defect("D3.15")
def test_consecutive_means_consecutive() -> None:
    """A consecutive budget begins again when another rule's failure comes between; a cumulative one does not."""
    consecutive = Retry(A, retries=Budget(2, "consecutive"), backoff=lambda n: float(n))
    cumulative = Retry(A, retries=Budget(2, "cumulative"))
    other = Retry(B, retries=UNLIMITED, backoff=AT_ONCE)
    errors = [A(), A(), B(), A(), A(), B(), A(), A(), A()]
    assert 8 == retries([consecutive, other], errors)
    assert 3 == retries([cumulative, other], errors)
    waits = [d.delay for d in decisions([consecutive, other], errors) if isinstance(d, Wait) and d.rule == "A"]
    assert [0.0, 1.0] * 3 == waits


def test_total_counts_the_retries_of_all_rules() -> None:
    """A total budget is spent by the retries of other rules too."""
    rules = [Retry(A, retries=Budget(3, "total")), Retry(B, retries=UNLIMITED)]
    assert 3 == retries(rules, [A()] * 9)
    assert 3 == retries(rules, [B(), B(), A(), A()])
    assert 20 == retries(rules, [B()] * 20)
    decision = decide(rules, RetryState({}, total=3), A(), now=0.0)
    assert GiveUp("the budget of A is used up (3 retries, total)") == decision


@pytest.mark.parity("T3.21")
def test_retry_each_gives_each_its_own_budget() -> None:
    """One rule for each error with the same options; none for none; several errors in one rule share."""
    each = retry_each(A, B, retries=2, backoff=AT_ONCE)
    assert 4 == retries(each, [A(), B(), A(), B(), A()])
    assert 2 == retries([Retry(A, B, retries=2, backoff=AT_ONCE)], [A(), B(), A(), B(), A()])
    assert [AT_ONCE, AT_ONCE] == [rule.backoff for rule in each]
    assert () == retry_each()


@pytest.mark.parity("T3.19")
def test_a_rule_is_a_value_for_any_number_of_jobs() -> None:
    """A rule cannot be changed, and what one run spends of it another still has."""
    rule = Retry(A, retries=1)
    with pytest.raises(AttributeError):
        rule.name = "other"
    with pytest.raises(AttributeError):
        del rule.budget
    assert rule is copy.copy(rule) is copy.deepcopy(rule)
    assert [1, 1] == [retries([rule], [A(), A()]) for _ in range(2)]


def test_equal_rules_in_a_list_have_budgets_of_their_own() -> None:
    """Two rules that describe themselves alike are told apart."""
    rules = [Retry(when=lambda e: isinstance(e, A), retries=1), Retry(when=lambda e: isinstance(e, B), retries=2)]
    made = decisions(rules, [A(), B(), B(), A()])
    assert 3 == sum(isinstance(d, Wait) for d in made)
    third = made[2]
    assert isinstance(third, Wait)
    assert [1, 2] == [*third.state.counts.values()]


@pytest.mark.defect("D3.11")
@pytest.mark.parametrize("given", [-1, -2, True, 2.0, "3", None, math.inf])
def test_what_is_no_count_is_refused(given: Any) -> None:
    """Negatives (also -1), floats, strings, None and bools are refused by value, never taken for a default."""
    with pytest.raises(ConfigError, match=r"retries: .* (not a count|negative)"):
        Retry(A, retries=given)
    with pytest.raises(ConfigError, match=r"retries: .* (not a count|negative)"):
        Budget(given)


def test_an_unknown_mode_is_refused() -> None:
    """The message lists the modes."""
    with pytest.raises(ConfigError, match="mode: 'each' is none of 'cumulative', 'consecutive', 'total'"):
        Budget(3, "each")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "*", 5])
def test_a_name_has_to_be_a_name(name: Any) -> None:
    """Empty names, other things and the one name that an attempt store keeps for itself are refused."""
    with pytest.raises(ConfigError, match="name"):
        Retry(A, name=name)


RULES = (
    Retry(A, retries=2, backoff=AT_ONCE),
    Retry(B, retries=Budget(3, "consecutive"), backoff=AT_ONCE),
    Retry(C, retries=Budget(6, "total"), backoff=AT_ONCE),
)


@settings(deadline=None)
@given(st.lists(st.sampled_from([A, B, C]), max_size=30))
def test_whatever_fails_budgets_hold(kinds: list[type[Exception]]) -> None:
    """For every sequence of failures: no rule passes its budget, counts agree, and a refusal has a reason."""
    made = [d for d in decisions(RULES, [kind() for kind in kinds]) if isinstance(d, Wait)]
    charged = [d.rule for d in made]
    assert charged == [kind.__name__ for kind in kinds[: len(made)]]
    assert charged.count("A") <= 2
    assert all(len([*run]) <= 3 for rule, run in itertools.groupby(charged) if rule == "B")
    for index, decision in enumerate(made):
        assert index + 1 == decision.state.total
        assert decision.rule != "C" or index < 6
    if len(made) < len(kinds):
        refused = kinds[len(made)].__name__
        spent = {
            "A": charged.count("A") == 2,
            "B": charged[-3:] == ["B"] * 3,
            "C": len(made) >= 6,
        }
        assert spent[refused]


# --- the wait -----------------------------------------------------------------------------


@pytest.mark.parity("T3.40")
def test_each_rule_waits_by_its_own_count() -> None:
    """The backoff of a rule is asked with how often that rule has retried, whatever others did."""
    rules = [
        Retry(A, retries=9, backoff=Exponential("1s", jitter="none")),
        Retry(B, retries=9, backoff=Exponential("10s", jitter="none")),
    ]
    made = decisions(rules, [A(), A(), B(), A(), B()])
    assert [1.0, 2.0, 10.0, 4.0, 20.0] == [d.delay for d in made if isinstance(d, Wait)]


def test_decorrelated_jitter_hears_of_its_own_wait_before() -> None:
    """A rule's last wait bounds its next one, and another rule's does not."""
    rules = [
        Retry(A, retries=UNLIMITED, backoff=Exponential("1s", jitter="decorrelated")),
        Retry(B, backoff=lambda n: 999),
    ]
    for previous in (1.0, 5.0):
        state = RetryState({"x": 1}, last=rules[0].key, previous=previous, total=1)
        delays = [decide(rules, state, A(), now=0.0) for _ in range(200)]
        assert max(d.delay for d in delays if isinstance(d, Wait)) <= previous * 3
    after_other = RetryState({rules[0].key: 1}, last=rules[1].key, previous=999.0, total=2)
    unknown = [decide(rules, after_other, A(), now=0.0) for _ in range(200)]
    assert max(d.delay for d in unknown if isinstance(d, Wait)) <= 3.0


class Busy(Exception):
    """An error that says how long to wait."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(7, 7.0), (0.25, 0.25), (0, 0.0), (timedelta(minutes=2), 120.0), (None, 1.0), (LONGEST * 10, LONGEST)],
)
def test_an_error_may_say_how_long_to_wait(asked: Any, waited: float) -> None:
    """`retry_after` of the matched error is the exact wait: seconds or a timedelta, None leaves it to the backoff."""
    error: Exception = ValueError()
    error.__cause__ = Busy(asked)
    decision = decide([Retry(Busy, backoff=Constant("1s"))], FRESH, error, now=0.0)
    assert isinstance(decision, Wait)
    assert waited == decision.delay
    assert (asked is not None) == decision.hinted == ("asked for" in decision.reason)


@pytest.mark.parametrize("asked", [math.nan, math.inf, -1, "120", True, timedelta(seconds=-1), lambda: 5])
def test_a_bad_hint_is_logged_and_not_taken(asked: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A hint that is no span of time is logged, and the backoff is used."""
    decision = decide([Retry(Busy, backoff=Constant("1s"))], FRESH, Busy(asked), now=0.0)
    assert isinstance(decision, Wait)
    assert 1.0 == decision.delay
    assert ["runcrew"] == [record.name for record in caplog.records]


def test_a_hint_that_raises_is_logged_and_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    """What a hint function or a property raises is logged, and the backoff is used."""

    class Property(Exception):
        @property
        def retry_after(self) -> float:
            raise RuntimeError("no answer")

    def hint(error: Exception) -> float:
        raise SystemExit

    rules = [Retry(Property, backoff=Constant("1s")), Retry(A, backoff=Constant("1s"), hint=hint)]
    for error in (Property(), A()):
        decision = decide(rules, FRESH, error, now=0.0)
        assert isinstance(decision, Wait)
        assert 1.0 == decision.delay
    assert 2 == len(caplog.records)


def test_a_hint_function_is_asked_about_the_matched_error() -> None:
    """hint= gets the error that the rule means, also out of a cause, and comes before the attribute."""
    asked: list[Exception] = []

    def hint(error: Exception) -> float | None:
        asked.append(error)
        return 4.0

    cause = Busy(9)
    error = ValueError()
    error.__cause__ = cause
    decision = decide([Retry(Busy, hint=hint)], FRESH, error, now=0.0)
    assert isinstance(decision, Wait)
    assert 4.0 == decision.delay
    assert [cause] == asked


def test_of_several_hints_the_longest_counts() -> None:
    """A group of errors waits until all of them may be tried again."""
    error = ExceptionGroup("g", [Busy(3), Busy(None), Busy(8), Busy(5)])
    decision = decide([Retry(Busy)], FRESH, error, now=0.0)
    assert isinstance(decision, Wait)
    assert 8.0 == decision.delay


async def async_hint(error: Exception) -> float:
    """Would give a coroutine."""
    return 1.0


@pytest.mark.parametrize("hint", [async_hint, 5])
def test_what_is_no_hint_is_refused(hint: Any) -> None:
    """A hint has to be a plain function."""
    with pytest.raises(ConfigError, match="hint"):
        Retry(A, hint=hint)


@pytest.mark.parametrize(("now", "again"), [(9.0, True), (10.0, False), (11.0, False)])
def test_a_wait_that_would_pass_the_deadline_is_not_begun(now: float, again: bool) -> None:
    """If the next attempt could begin only at the deadline or after it, it is given up at once."""
    decision = decide([Retry(A, backoff=Constant("5s"))], FRESH, A(), now=now, due=15.0)
    assert again == isinstance(decision, Wait)
    assert again or decision == GiveUp("a wait of 5s by A would pass the deadline")


def test_a_backoff_gone_wrong_ends_the_run_with_a_config_error() -> None:
    """A wait that is none fails the run with ConfigError from the job's own error."""
    error = A()
    decision = decide([Retry(A, backoff=lambda n: math.nan)], FRESH, error, now=0.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, ConfigError)
    assert error is decision.error.__cause__
    assert "nan" in decision.reason


def test_a_decision_carries_its_reason() -> None:
    """What was decided can be read: which retry, of how many, by which rule."""
    rules = [Retry(A, retries=5), Retry(B, retries=UNLIMITED), Retry(C, retries=Budget(9, "total"), name="third")]
    made = decisions(rules, [A(), A(), B(), C()])
    reasons = ["retry 1 of 5 by A", "retry 2 of 5 by A", "retry 1 by B", "retry 4 of 9 by third"]
    assert reasons == [decision.reason for decision in made]


def test_a_rule_says_what_it_is() -> None:
    """In words for people, by its name or by what it matches."""
    rule = Retry(ConnectionError, retries=5, backoff=Exponential("1s", cap="30s"))
    assert "ConnectionError 5x exponential 1s..30s full jitter" == str(rule)
    assert "<Retry db without limit constant 0s>" == repr(Retry(A, retries=UNLIMITED, backoff=AT_ONCE, name="db"))
    assert "A|B 2x consecutive constant 1s" == str(Retry(A, B, retries=Budget(2, "consecutive"), backoff=Constant(1)))
    assert "A('gone')" == Retry(A("gone")).name
    assert "A when callable" == Retry(A, when=callable).name


# --- what an attempt store keeps ------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.sampled_from([A, B, C]), max_size=12))
def test_a_kept_state_goes_on_where_it_was(kinds: list[type[Exception]]) -> None:
    """Counts survive being kept and restored at any point: the same retries are allowed as without."""
    straight = retries(RULES, [kind() for kind in kinds])
    state, made = FRESH, 0
    for kind in kinds:
        decision = decide(RULES, state, kind(), now=0.0)
        if isinstance(decision, GiveUp):
            break
        made += 1
        state = RetryState.restored(decision.state.saved())
    assert straight == made


@pytest.mark.defect("D3.23")
def test_a_kept_count_belongs_to_its_rule_wherever_it_stands() -> None:
    """Keys do not depend on the order of the rules, nor on rules that came or went."""
    first, second, new = Retry(A, retries=2), Retry(B, retries=9, name="b"), Retry(C)
    decision = decisions([first, second], [A(), A(), B()])[-1]
    assert isinstance(decision, Wait)
    kept = decision.state.saved()
    restored = RetryState.restored(kept)
    assert isinstance(decide([new, second, first], restored, A(), now=0.0), GiveUp)
    assert isinstance(decide([new, second, first], restored, B(), now=0.0), Wait)
    assert {"*": 3, "b": 1} == {key: count for key, count in kept.items() if not key.endswith("A")}


@pytest.mark.parametrize("kept", [None, {}, {"A": -1}, {"A": "2"}, {"A": None, "*": 1.5}])
def test_what_is_no_count_is_not_restored(kept: Mapping[str, int] | None) -> None:
    """A store that gives nonsense gives a fresh state."""
    assert FRESH == RetryState.restored(kept)


def test_a_total_is_at_least_each_count() -> None:
    """A store that lost the total does not make room for more."""
    assert 4 == RetryState.restored({"A": 4, "B": 1}).total
