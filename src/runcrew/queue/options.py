"""What may be asked for with one submit, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from runcrew.durations import Duration, optional
from runcrew.errors import ConfigError
from runcrew.policies import Options, Retry, Rules

#: More urgent than usual; usual; less urgent than usual. Any whole number is a priority.
HIGH: Final = 10
NORMAL: Final = 0
LOW: Final = -10


class NowOptions(TypedDict, total=False):
    """What may be asked for with `run_now`."""

    #: For the attempt, from its start. None: none; left out: what the queue says.
    timeout: Duration | None
    #: For everything, from acceptance. None: none; left out: what the queue says.
    deadline: Duration | None


class SubmitOptions(NowOptions, total=False):
    """What may be asked for with one submit. What is left out is as the queue says."""

    #: The level that it waits in: higher is more urgent; default 0 (`rc.NORMAL`).
    priority: int
    #: Not before this span has passed, counted from acceptance. None: none.
    delay: Duration | None
    #: One attempt, whatever comes of it: it is neither retried nor put back.
    at_most_once: bool
    #: Rules for failures, in place of the queue's; () means none.
    retry: Rules


_KNOWN: Final = (*NowOptions.__annotations__, *SubmitOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a run. Spans in seconds; None means none."""

    timeout: float | None = None
    deadline: float | None = None
    delay: float | None = None
    at_most_once: bool = False
    rules: tuple[Retry, ...] = ()


NOTHING: Final = Terms()


def terms(usual: Terms, given: Mapping[str, Any]) -> Terms:
    """What holds for a submit with these options, where `usual` holds without.

    Raises ConfigError, naming value and remedy, for what is unknown or makes no sense.
    """
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise ConfigError(
            f"{unknown[0]}: no such option (there are {', '.join(dict.fromkeys(_KNOWN))}): "
            "keywords for the job itself go through functools.partial"
        )
    once = given.get("at_most_once", False)
    if not isinstance(once, bool):
        raise ConfigError(f"at_most_once: {once!r} is neither True nor False")
    rules = Options(retry=given["retry"]).retry if "retry" in given else () if once else usual.rules
    if once and rules:
        raise ConfigError("at_most_once: together with retry rules it contradicts itself: leave one of them out")
    return Terms(
        optional(given["timeout"], "timeout") if "timeout" in given else usual.timeout,
        optional(given["deadline"], "deadline") if "deadline" in given else usual.deadline,
        optional(given.get("delay"), "delay"),
        once,
        rules,
    )


def level(given: object) -> int:
    """A priority. Raises ConfigError for what is no whole number."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise ConfigError(f"priority: {given!r} is not a whole number: rc.HIGH is 10, rc.NORMAL 0, rc.LOW -10")
    return given
