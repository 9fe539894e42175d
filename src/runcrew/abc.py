"""The contracts, on one page: what one part of runcrew may expect of another, and what users may bring.

Everything here is structural: a class that has the members needs no base class.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, runtime_checkable

from runcrew.clock import Clock as Clock
from runcrew.job import Outcome, Run

#: Carries out one run: `await handler(run)` gives its outcome.
#:
#: It returns an Outcome for everything that the job does, also for its failure. It raises only for a
#: fault of its own, or `asyncio.CancelledError` when it is itself cancelled, and then nothing of that
#: run goes on (a thread that cannot be stopped is abandoned, counted and named).
Handler: TypeAlias = Callable[[Run], Awaitable[Outcome[Any]]]

#: Wraps a handler in another of the same shape. The first of several is outermost, everywhere.
Middleware: TypeAlias = Callable[[Handler], Handler]


@runtime_checkable
class Backend(Protocol):
    """Where a run happens: the event loop, a thread, later a process or a cluster."""

    async def handle(self, run: Run, /) -> Outcome[Any]:
        """Carry out one attempt of `run`, as a Handler."""
        ...


class Backoff(Protocol):
    """How long to wait before the next attempt."""

    def delay(self, n: int, /) -> float:
        """Seconds to wait after failure number `n`, counted from 0. Finite, never negative."""
        ...


@runtime_checkable
class Service(Protocol):
    """Lives from start to stop. The doors and the Supervisor are Services; so is any class with these members.

    A user's own service needs `start`, `stop` and `wait`; `name` is taken from its class where it has none.
    """

    async def start(self) -> None:
        """Become ready, then return. Raising means: this life failed."""

    async def stop(self, timeout: float | str | timedelta = "30s") -> Any:
        """End within `timeout`. Safe in every state, repeated and concurrent."""

    async def wait(self) -> Any:
        """Return when this life has ended well; raise what ended it otherwise.

        Raising `rc.Done` counts as a good end, `rc.StopTree` stops the whole tree.
        """


class AttemptStore(Protocol):
    """Keeps the retry state of a supervised service over its restarts, under the service's name."""

    def load(self, key: str, /) -> Mapping[str, int] | None:
        """What was saved under `key`, or None."""

    def save(self, key: str, state: Mapping[str, int], /) -> None:
        """Keep `state` (retries made, by rule) under `key`, in place of what was there."""

    def clear(self, key: str, /) -> None:
        """Forget what is kept under `key`; nothing happens where there is nothing."""


class Sink(Protocol):
    """Hears events. Called on the event loop, one event at a time; what it raises is logged and counted."""

    def __call__(self, event: Any, /) -> Awaitable[Any] | None:
        """Take one event. An async sink is awaited before it gets the next one."""
