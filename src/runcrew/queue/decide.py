"""What follows an attempt that did not succeed: the end of the run, or another attempt. Pure.

A queue makes further attempts for two reasons, and counts them apart: a rule says that the error is worth another
try; or the resource proved faulty, which is not the run's fault, so that it is put back for another worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from runcrew.errors import ConfigError
from runcrew.job import Status
from runcrew.policies import Backoff, GiveUp, Retry, RetryState, Wait, decide

_FRESH: Final = RetryState({})


class End(NamedTuple):
    """No further attempt. `error`: the run fails with this instead of with its own error."""

    reason: str
    error: ConfigError | None = None


class Again(NamedTuple):
    """Another attempt, `delay` seconds from now. `retry`: by which rule; None: it is put back."""

    delay: float
    reason: str
    retry: Wait | None


class Asked(NamedTuple):
    """What a run may spend, and has spent, on further attempts."""

    at_most_once: bool
    rules: Sequence[Retry]
    spent: Wait | None
    requeues: int
    most_requeues: int
    requeue_backoff: Backoff
    #: How often its process has died in it; and how often that may be before it is given up.
    deaths: int = 0
    most_deaths: int = 1


def after_attempt(
    asked: Asked,
    status: Status,
    error: BaseException | None,
    *,
    faulty: bool,
    final: bool,
    now: float,
    due: float | None,
) -> End | Again:
    """What follows an attempt that ended as `status`, with `error`.

    faulty: whether the error says that the resource is. final: whether the run has been asked to end.
    now, due: this instant and the run's deadline, on one scale.
    """
    if status is not Status.FAILED and status is not Status.TIMED_OUT:
        return End("")
    if final:
        return End("it was asked to end" if asked.rules or faulty else "")
    if asked.deaths >= max(1, asked.most_deaths):
        more = asked.rules or faulty
        return End(f"given up: its process has died {asked.deaths} time(s) in it (max_deaths)" if more else "")
    if asked.at_most_once:
        return End("at most once: it is not put back" if faulty else "")
    if faulty:
        return _put_back(asked, now, due)
    if not asked.rules:
        return End("")
    decided = decide(asked.rules, _FRESH if asked.spent is None else asked.spent.state, error, now=now, due=due)
    if isinstance(decided, GiveUp):
        return End(decided.reason, decided.error)
    return Again(decided.delay, decided.reason, decided)


def _put_back(asked: Asked, now: float, due: float | None) -> End | Again:
    if asked.requeues >= asked.most_requeues:
        tries = f"{asked.requeues + 1} resource(s) proved faulty with it"
        return End(f"given up: {tries}, and it may be put back {asked.most_requeues} time(s)")
    try:
        delay = asked.requeue_backoff.delay(asked.requeues)
    except ConfigError as error:
        return End(str(error), error)
    if due is not None and now + delay >= due:
        return End("its resource proved faulty, and there is no time left for another attempt")
    return Again(delay, f"put back {asked.requeues + 1} of {asked.most_requeues}: its resource proved faulty", None)
