"""What follows an attempt that did not succeed: values in, decision out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.errors import NoRetry
from runcrew.job import Status
from runcrew.policies import Constant, Retry
from runcrew.policies.backoff import checked
from runcrew.queue.decide import Again, Asked, End, after_attempt

FAILED, TIMED_OUT = Status.FAILED, Status.TIMED_OUT


def asked(**changes: Any) -> Asked:
    """What a run may spend: three requeues with a second each, and no rules, but for what is said."""
    usual = Asked(at_most_once=False, rules=(), spent=None, requeues=0, most_requeues=3, requeue_backoff=Constant("1s"))
    return usual._replace(**changes)


def after(given: Asked, error: BaseException, *, status: Status = FAILED, **changes: Any) -> End | Again:
    """What follows a failure with `error` at the second 100."""
    usual: dict[str, Any] = {"faulty": False, "final": False, "now": 100.0, "due": None}
    return after_attempt(given, status, error, **{**usual, **changes})


def rule(error: type[Exception] = ValueError, retries: int = 2, delay: float = 5.0) -> tuple[Retry, ...]:
    """One rule."""
    return (Retry(error, retries=retries, backoff=Constant(delay)),)


@given(
    at_most_once=st.booleans(),
    has_rule=st.booleans(),
    requeues=st.integers(0, 5),
    most=st.integers(0, 4),
    status=st.sampled_from(Status),
    faulty=st.booleans(),
    final=st.booleans(),
    left=st.one_of(st.none(), st.floats(-10, 10)),
)
def test_another_attempt_follows_only_where_something_allows_it(
    at_most_once: bool, has_rule: bool, requeues: int, most: int, status: Status, faulty: bool, final: bool,
    left: float | None,
) -> None:  # fmt: skip
    """Never after a success or a request to end, never with at_most_once, never past a budget or the deadline; and
    where none of these says no, a faulty resource or a rule that fits says yes."""
    decided = after(
        asked(at_most_once=at_most_once, rules=rule() if has_rule else (), requeues=requeues, most_requeues=most),
        ValueError(), status=status, faulty=faulty, final=final, due=None if left is None else 100.0 + left,
    )  # fmt: skip
    failed = status in (FAILED, TIMED_OUT)
    delay = 1.0 if faulty else 5.0
    budget = requeues < most if faulty else has_rule
    in_time = left is None or delay < left
    if failed and not final and not at_most_once and budget and in_time:
        assert isinstance(decided, Again)
        assert delay == decided.delay
        assert faulty is (decided.retry is None)
        assert decided.reason
    else:
        assert isinstance(decided, End)
        assert decided.error is None


@pytest.mark.parametrize("most", [0, 1, 2, 7])
def test_so_many_requeues_and_not_one_more(most: int) -> None:
    """With `requeue=N` there are N + 1 attempts on resources that prove faulty."""
    requeues = 0
    while isinstance(after(asked(requeues=requeues, most_requeues=most), ValueError(), faulty=True), Again):
        requeues += 1
    assert most == requeues


def test_the_two_budgets_are_counted_apart() -> None:
    """A faulty resource spends no retry, and a retry spends no requeue."""
    spent = asked(rules=rule(retries=1), requeues=3)
    by_rule = after(spent, ValueError())
    assert isinstance(by_rule, Again)
    assert by_rule.retry is not None
    used_up = spent._replace(spent=by_rule.retry, requeues=0)
    assert isinstance(after(used_up, ValueError()), End)
    assert isinstance(after(used_up, ValueError(), faulty=True), Again)


def test_the_verdict_on_the_resource_goes_before_the_rules() -> None:
    """Where the resource is faulty it is that which is put down, also where a rule would fit."""
    decided = after(asked(rules=rule()), ValueError(), faulty=True)
    assert isinstance(decided, Again)
    assert (1.0, None) == (decided.delay, decided.retry)
    assert "put back 1 of 3" in decided.reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"final": True, "faulty": True}, "it was asked to end"),
        ({"faulty": True, "due": 101.0}, "no time left"),
        ({"due": 105.0}, "would pass the deadline"),
    ],
)
def test_the_end_of_a_run_says_why(changes: dict[str, Any], said: str) -> None:
    """A run that could have had another attempt says why it has none."""
    decided = after(asked(rules=rule()), ValueError(), **changes)
    assert isinstance(decided, End)
    assert said in decided.reason


def test_at_most_once_says_that_it_is_not_put_back() -> None:
    """With at_most_once a faulty resource is the end of the run."""
    decided = after(asked(at_most_once=True), ValueError(), faulty=True)
    assert End("at most once: it is not put back") == decided


def test_what_is_marked_final_is_not_retried() -> None:
    """NoRetry, and what no rule names, end the run."""
    for error in (NoRetry("final"), KeyError("unlisted")):
        assert isinstance(after(asked(rules=rule()), error), End)


def test_a_backoff_that_gives_nonsense_ends_the_run_with_a_config_error() -> None:
    """A run is not left hanging where the user's own backoff cannot say for how long to wait."""
    nonsense = checked(lambda n: -1.0)
    decided = after(asked(requeue_backoff=nonsense), ValueError(), faulty=True)
    assert isinstance(decided, End)
    assert decided.error is not None
