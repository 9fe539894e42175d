"""Retry: whether a failed run is attempted again, by which rule, and after how long.

Here is what is decided; `retrying.py` does it. Rules are asked in order and the first that matches is
charged, and it alone. So the budgets of several rules add up, and never multiply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from runcrew.durations import LONGEST, text
from runcrew.errors import ConfigError, brief
from runcrew.policies.backoff import Backoff, Constant, Custom, Exponential, checked
from runcrew.policies.guard import check_plain, log, named
from runcrew.policies.match import DEEPEST, FINAL, Matchable, Matcher, group_in, is_final, leaves_of


class Unlimited(Enum):
    """The type of `rc.UNLIMITED`, so that no number has to mean it."""

    UNLIMITED = "unlimited"

    def __repr__(self) -> str:
        return "rc.UNLIMITED"


#: Retry for as long as it takes.
UNLIMITED: Final = Unlimited.UNLIMITED

Mode: TypeAlias = Literal["cumulative", "consecutive", "total"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How many retries a rule may spend on one run, and what is counted.

    cumulative: all that this rule has made; a failure that another rule takes changes nothing.
    consecutive: those since another rule last took a failure.
    total: those of all rules together, so that this rule yields when the run as a whole has had enough.
    """

    retries: int
    mode: Mode = "cumulative"

    def __post_init__(self) -> None:
        """Raises ConfigError for what is no count from 0, and for an unknown mode."""
        given: object = self.retries
        if isinstance(given, bool) or not isinstance(given, int):
            raise ConfigError(
                f"retries: {self.retries!r} is not a count: give an integer, rc.UNLIMITED, or rc.Budget(n, mode)"
            )
        if self.retries < 0:
            raise ConfigError(f"retries: {self.retries!r} is negative: 0 means none, rc.UNLIMITED means without limit")
        if self.mode not in get_args(Mode):
            raise ConfigError(f"mode: {self.mode!r} is none of {', '.join(map(repr, get_args(Mode)))}")

    def __str__(self) -> str:
        return f"{self.retries}x" if self.mode == "cumulative" else f"{self.retries}x {self.mode}"


_DEFAULT_BACKOFF: Final = Exponential("1s", cap="30s", factor=2, jitter="full")


class Retry:
    """One retry rule: which errors, how often, with which waits. Immutable; any number of jobs may share one."""

    __slots__ = ("_classes", "_hint", "_matcher", "backoff", "budget", "key", "name")

    backoff: Exponential | Constant | Custom
    budget: Budget | Unlimited
    #: What the rule is called in messages: the name given, or a description of what it matches.
    name: str
    _matcher: Matcher
    _classes: tuple[type[Exception], ...]
    _hint: Callable[[Any], object] | None
    #: Under which an attempt store keeps its count: does not depend on where in a list the rule stands.
    key: str

    def __init__(
        self,
        *errors: Matchable,
        when: Callable[[Any], object] | None = None,
        retries: int | Unlimited | Budget = 3,
        backoff: Callable[[int], float] | Backoff = _DEFAULT_BACKOFF,
        hint: Callable[[Any], float | timedelta | None] | None = None,
        name: str | None = None,
    ) -> None:
        """
        errors: exception classes, or exception objects (the same object, or one that equals it). An error
            matches by itself or by its `__cause__`; a group of errors when every leaf does. They share one
            budget; `rc.retry_each` gives each its own.
        when: a plain function of the error, true where the rule means it; with errors, both must hold.
        retries: how many, after the first failure. 0 means none; `rc.UNLIMITED`; or a `rc.Budget`.
        backoff: `rc.Exponential`, `rc.Constant`, a function of how often this rule has retried already,
            or an object with `.delay(n)`.
        hint: a plain function of the matched error that gives the exact wait, or None to leave it to the
            backoff. Without one, an attribute `retry_after` of the error is used (seconds or a timedelta).
        name: what to call the rule, in messages and in an attempt store.

        Raises ConfigError for whatever of these makes no sense, and for a rule that can match nothing.
        """
        if name is not None and not _is_name(name):
            raise ConfigError(f"name: {name!r} is no name for a retry rule: give a word, or leave it out")
        if hint is not None:
            check_plain(hint, "hint", "the matched error")
        matcher = Matcher(errors, when)
        put = object.__setattr__
        put(self, "_matcher", matcher)
        put(self, "_classes", matcher.classes_only)
        put(self, "budget", retries if isinstance(retries, Unlimited | Budget) else Budget(retries))
        put(self, "backoff", checked(backoff))
        put(self, "_hint", hint)
        put(self, "name", name or _describe(errors, when, short=True))
        put(self, "key", name or _describe(errors, when, short=False))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a retry rule does not change: make another one (tried to set {name})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a retry rule does not change: make another one (tried to delete {name})")

    def __copy__(self) -> Retry:
        return self

    def __deepcopy__(self, memo: object) -> Retry:
        return self

    def matches(self, error: BaseException | None) -> bool:
        """Whether this rule would take the error, budget left aside. False for None and for what is final."""
        return bool(self._matcher.find(error))

    def __str__(self) -> str:
        often = "without limit" if isinstance(self.budget, Unlimited) else str(self.budget)
        return f"{self.name} {often} {self.backoff}"

    def __repr__(self) -> str:
        return f"<Retry {self}>"


def retry_each(*errors: Matchable, **options: Any) -> tuple[Retry, ...]:
    """One rule for each error, all with the same options, each with a budget of its own. None for none."""
    return tuple(Retry(error, **options) for error in errors)


#: How `retry=` is given: one rule, or rules in order; what `retry_each` gave may stand among them.
Rules: TypeAlias = Retry | Sequence[Retry | Sequence[Retry]]


# --- deciding ---------------------------------------------------------------------------

#: Under which an attempt store keeps the number of retries of all rules together.
TOTAL: Final = "*"


class RetryState(NamedTuple):
    """What one run has spent. A value: deciding makes the next one."""

    #: Retries made, by rule.
    counts: Mapping[str, int]
    #: The rule that took the last failure, and the wait that it gave.
    last: str | None = None
    previous: float | None = None
    #: Retries of all rules together.
    total: int = 0

    def saved(self) -> dict[str, int]:
        """As an attempt store keeps it."""
        return {**self.counts, TOTAL: self.total}

    @classmethod
    def restored(cls, kept: Mapping[str, int] | None) -> RetryState:
        """From what an attempt store kept. What is no count is left out, with a word in the log."""
        counts: dict[str, int] = {}
        given: Mapping[str, object] = kept or {}
        for key, count in given.items():
            if isinstance(count, int) and count >= 0:
                counts[key] = int(count)
            else:
                log.warning("an attempt store gave %r retries for the rule %s: not a count, left out", count, key)
        total = counts.pop(TOTAL, 0)
        return cls(counts, total=max(total, *counts.values(), 0))


FRESH: Final = RetryState({})


class Wait(NamedTuple):
    """Decided: try again after `delay` seconds."""

    delay: float
    #: The name of the rule that is charged.
    rule: str
    #: Whether the error itself said how long to wait.
    hinted: bool
    #: Out of which this was decided: the rules, which of them is charged, and what had been spent until then.
    rules: Sequence[Retry]
    position: int
    before: RetryState

    @property
    def state(self) -> RetryState:
        """What has been spent when this retry is counted in."""
        before, key = self.before, _key(self.rules, self.position)
        counts = _carried_on(self.rules, before.counts, key) if before.counts else {}
        counts[key] = counts.get(key, 0) + 1
        return RetryState(counts, key, self.delay, before.total + 1)

    @property
    def reason(self) -> str:
        """Why, in words."""
        rule, key = self.rules[self.position], _key(self.rules, self.position)
        asked = ", the wait is what the error asked for" if self.hinted else ""
        number = self.before.counts.get(key, 0) + 1
        if isinstance(rule.budget, Unlimited):
            return f"retry {number} by {rule.name}{asked}"
        number = self.before.total + 1 if rule.budget.mode == "total" else number
        return f"retry {number} of {rule.budget.retries} by {rule.name}{asked}"


class GiveUp(NamedTuple):
    """Decided: no further attempt. `error`: the run fails with this instead of with its own error."""

    reason: str
    error: ConfigError | None = None


#: What a NamedTuple does to make itself, without the call around it: one is made for every failure.
_wait: Final = cast("Callable[[type[Wait], tuple[Any, ...]], Wait]", tuple[Any, ...].__new__)


def decide(
    rules: Sequence[Retry], state: RetryState, error: BaseException | None, *, now: float, due: float | None = None
) -> Wait | GiveUp:
    """Whether to try again after `error`, by the rules in order, given what the run has spent.

    now, due: this instant and the run's deadline, on one scale; a wait that would last until the deadline
    is not begun. Changes nothing: a Wait carries the next state. Chance (jitter) comes from the clock.
    """
    if not isinstance(error, Exception):
        return GiveUp(f"{type(error).__name__} is never retried: it is no Exception")
    alone = error.__cause__ is None and not isinstance(error, BaseExceptionGroup)
    if isinstance(error, FINAL) or (not alone and is_final(error)):
        return GiveUp(f"{type(error).__name__} says that it is final")
    found, matched = 0, None
    if alone:
        for rule in rules:
            if isinstance(error, rule._classes) if rule._classes else rule._matcher.look(error):
                break
            found += 1
    else:
        found, matched = _assign(rules, error, {}, DEEPEST) or (len(rules), ())
    if found == len(rules):
        return GiveUp(f"no retry rule matches {type(error).__name__}")
    rule, made, previous = rules[found], 0, None
    if state.counts:
        key = _key(rules, found)
        made, previous = state.counts.get(key, 0), state.previous if state.last == key else None
    budget = rule.budget
    if budget is not UNLIMITED and (state.total if budget.mode == "total" else made) >= budget.retries:
        return GiveUp(f"the budget of {rule.name} is used up ({_retries(budget)})")
    hinted = _hint(rule, error) if matched is None else _longest_hint(rule, matched)
    try:
        delay = rule.backoff.delay(made, previous) if hinted is None else hinted
    except ConfigError as wrong:
        wrong.__cause__ = error
        return GiveUp(str(wrong), wrong)
    if due is not None and now + delay >= due:
        return GiveUp(f"a wait of {text(delay)} by {rule.name} would pass the deadline")
    return _wait(Wait, (delay, rule.name, hinted is not None, rules, found, state))


#: Where a rule stands in a list, and the errors that it means.
_Match: TypeAlias = tuple[int, Sequence[Exception]]


def _assign(rules: Sequence[Retry], error: BaseException, known: dict[int, _Match | None], deep: int) -> _Match | None:
    """The rule to charge: the first that takes the whole error.

    Failing that, of a group whose every leaf has some rule: the one of these that stands first. `known`
    holds what each group came to, and None for those under way: so a cycle ends. `deep`: so many groups may
    still be opened.
    """
    if not isinstance(error, Exception):
        return None
    for index, rule in enumerate(rules):
        if matched := rule._matcher.look(error, deep):
            return index, matched
    group = group_in(error)
    if group is None or len(rules) < 2 or not deep:
        return None
    if id(group) not in known:
        known[id(group)] = None
        leaves = [_assign(rules, leaf, known, deep - 1) for leaf in leaves_of(group)]
        known[id(group)] = None if None in leaves else min(filter(None, leaves), key=itemgetter(0))
    return known[id(group)]


def _key(rules: Sequence[Retry], index: int) -> str:
    """The rule's key; rules of one list that describe themselves alike are told apart by their order."""
    key = rules[index].key
    number = 1
    for before in rules[:index]:
        if before.key == key:
            number += 1
    return key if number == 1 else f"{key}#{number}"


def _carried_on(rules: Sequence[Retry], counts: Mapping[str, int], key: str) -> dict[str, int]:
    """The counts that stand when the rule under `key` takes a failure: not those of consecutive ones."""
    reset = [
        _key(rules, index)
        for index, rule in enumerate(rules)
        if isinstance(rule.budget, Budget) and rule.budget.mode == "consecutive"
    ]
    return {other: count for other, count in counts.items() if other == key or other not in reset}


def _longest_hint(rule: Retry, matched: Sequence[Exception]) -> float | None:
    """The longest wait that any of the matched errors asks for itself, or None."""
    asked = [hint for error in matched if (hint := _hint(rule, error)) is not None]
    return max(asked, default=None)


def _hint(rule: Retry, error: Exception) -> float | None:
    """The wait that a matched error asks for itself, or None. Users' code is asked here: guarded."""
    try:
        given = getattr(error, "retry_after", None) if rule._hint is None else rule._hint(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        log.exception("the wait hint of %s failed", rule.name)
        return None
    if given is None:
        return None
    span: object = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(span, bool) or not isinstance(span, int | float) or not 0 <= span < math.inf:
        log.warning(
            "the wait hint %.200r of %s is no span of seconds: %s waits by its backoff instead",
            given, brief(error), rule.name,
        )  # fmt: skip
        return None
    return float(min(span, LONGEST))


def _retries(budget: Budget) -> str:
    what = "none allowed" if budget.retries == 0 else "1 retry" if budget.retries == 1 else f"{budget.retries} retries"
    return what if budget.mode == "cumulative" else f"{what}, {budget.mode}"


def _is_name(given: object) -> bool:
    return isinstance(given, str) and given not in ("", TOTAL)


def _describe(errors: tuple[object, ...], when: object, *, short: bool) -> str:
    parts = [_error_name(error, short=short) for error in errors]
    said = "|".join(parts)
    if when is None:
        return said
    predicate = named(when) if short else f"{getattr(when, '__module__', None) or ''}.{named(when)}"
    return f"{said} when {predicate}" if said else f"when {predicate}"


def _error_name(error: object, *, short: bool) -> str:
    cls = error if isinstance(error, type) else type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    name = cls.__name__ if short else name
    if cls is error or not isinstance(error, BaseException):
        return name
    return f"{name}({brief(error).partition(': ')[2]!r})"
