"""What a supervisor does about a child that ended: pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias, get_args

from runcrew.errors import ConfigError
from runcrew.workers import GiveUp, Restart, Restarts

#: What follows from a child's permanent error: stop all, go on without it, or start it again.
OnFailure = Literal["stop", "isolate", "restart"]


class End(Enum):
    """How a child ended."""

    WELL = "well"
    FAILED = "failed"
    #: It ended well, and asked for the end of the whole tree.
    STOP_TREE = "stop_tree"
    #: It failed, and the whole tree ends: a KeyboardInterrupt, which nobody wants to see restarted.
    INTERRUPT = "interrupt"

    @property
    def failed(self) -> bool:
        """Whether there is an error to keep."""
        return self is End.FAILED or self is End.INTERRUPT

    @property
    def stops_tree(self) -> bool:
        """Whether those above stop too."""
        return self is End.STOP_TREE or self is End.INTERRUPT


@dataclass(frozen=True, slots=True)
class CarryOn:
    """Leave the others alone."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopAll:
    """Stop all other children, and then itself. `error`: a further one, of the decision itself."""

    reason: str
    error: Exception | None = None


Decision: TypeAlias = CarryOn | StopAll | Restart


def on_child_end(end: End, on_failure: OnFailure, restarts: Restarts, now: float) -> Decision:
    """Decide about a child that ended at `now` (seconds, on a clock that only goes forward)."""
    match end:
        case End.WELL:
            return CarryOn("it ended well")
        case End.STOP_TREE:
            return StopAll("it asked for the end of the whole tree")
        case End.INTERRUPT:
            return StopAll("it ends the whole tree")
        case End.FAILED:
            if on_failure == "isolate":
                return CarryOn("its failure is its own")
            if on_failure == "stop":
                return StopAll("its failure ends the others")
            decision = restarts.failed(now)
            return StopAll(decision.reason, decision.error) if isinstance(decision, GiveUp) else decision


def check_on_failure(value: object) -> OnFailure:
    """`value`, if it is one of the three; raises ConfigError otherwise."""
    if value not in get_args(OnFailure):
        raise ConfigError(f'on_failure: {value!r} is not one of "stop", "isolate", "restart"')
    return value  # type: ignore[return-value]
