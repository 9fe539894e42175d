"""Events: what happened, as small values, for those who subscribed; and the hub that brings them there.

An event is made only if somebody subscribed to its type (`hub.wants(Type)` first, then `hub.emit(…)`),
so that what nobody listens to costs one set lookup. Order holds for each emitting loop. Sinks run from
a bounded queue behind the emitter's back: a slow one loses the oldest events, and the hub counts them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

_log: Final = logging.getLogger("runcrew")

#: How many events may wait for one slow subscriber before the oldest is dropped.
BACKLOG: Final = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. `at` is in seconds since the epoch; `service` names the service it happened in."""

    at: float
    service: str


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """A service went from one state to the next."""

    old: str
    new: str
    error: BaseException | None = None

    def __str__(self) -> str:
        because = "" if self.error is None else f": {type(self.error).__name__}: {self.error}"
        return f"{self.service}: {self.old} -> {self.new}{because}"


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A run was accepted and begins."""

    run: str
    cause: str

    def __str__(self) -> str:
        return f"{self.service}: run {self.run} begins ({self.cause})"


@dataclass(frozen=True, slots=True)
class RunRetried(Event):
    """An attempt failed and another follows after `delay` seconds, by the rule named `rule`."""

    run: str
    attempt: int
    delay: float
    rule: str
    error: BaseException

    def __str__(self) -> str:
        what = f"{type(self.error).__name__}: {self.error}"
        return f"{self.service}: attempt {self.attempt} failed ({what}), next in {self.delay:.3g} s by {self.rule}"


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """A run has its outcome."""

    run: str
    status: str
    elapsed: float
    attempts: int
    error: BaseException | None = None
    reason: str = ""

    def __str__(self) -> str:
        because = self.reason or ("" if self.error is None else f"{type(self.error).__name__}: {self.error}")
        return f"{self.service}: run {self.run} {self.status} after {self.elapsed:.3g} s" + (because and f": {because}")


@dataclass(frozen=True, slots=True)
class TicksMissed(Event):
    """Ticks of an interval that were due while its job was still busy, or the loop blocked: they are not made up."""

    count: int

    def __str__(self) -> str:
        return f"{self.service}: {self.count} tick(s) missed"


@dataclass(frozen=True, slots=True)
class Restarted(Event):
    """A supervisor decided to restart a child that failed."""

    child: str
    delay: float
    error: BaseException | None
    reason: str

    def __str__(self) -> str:
        return f"{self.service}: restarts {self.child} in {self.delay:.3g} s ({self.reason})"


@dataclass(frozen=True, slots=True)
class HookFailed(Event):
    """A hook raised, or did not end in its time."""

    hook: str
    moment: str
    error: BaseException

    def __str__(self) -> str:
        return f"{self.service}: {self.moment} hook {self.hook} failed: {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True)
class ThreadAbandoned(Event):
    """A call in a thread was given up: it goes on until it returns, and nobody waits for it."""

    run: str

    def __str__(self) -> str:
        return f"{self.service}: the thread of run {self.run} was abandoned"


@dataclass(frozen=True, slots=True)
class LoopBlocked(Event):
    """A call kept the event loop from everything else for longer than is allowed."""

    job: str
    seconds: float
    stack: str

    def __str__(self) -> str:
        return f"{self.job} has blocked the event loop for {self.seconds:.3g} s:\n{self.stack}"


SinkCall: TypeAlias = Callable[[Any], Awaitable[None] | None]


class Subscription:
    """One sink and what it hears. `cancel()` ends it; `dropped` counts what it was too slow for."""

    def __init__(self, hub: Hub, sink: SinkCall, types: tuple[type[Event], ...]) -> None:
        self._hub = hub
        self._sink = sink
        self.types = types
        self.dropped = 0
        self.errors = 0
        self._waiting: deque[Event] = deque()
        self._task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Hear no more. Idempotent; what was queued is not delivered."""
        self._hub._remove(self)
        self._waiting.clear()

    def _put(self, event: Event) -> None:
        if len(self._waiting) >= BACKLOG:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(event)
        if self._task is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # emitted while no loop runs: it waits for the next one that does
                return
            self._task = loop.create_task(self._deliver(), name="runcrew-sink")

    async def _deliver(self) -> None:
        try:
            while self._waiting:
                event = self._waiting.popleft()
                try:
                    answer = self._sink(event)
                    if answer is not None:
                        await answer
                except Exception:
                    self.errors += 1
                    _log.exception("an event sink failed on %s", type(event).__name__)
        finally:
            self._task = None

    async def flush(self) -> None:
        """Wait until everything that was emitted so far has been delivered."""
        task = self._task
        if task is not None and task is not asyncio.current_task():
            await asyncio.wait([task])


class Hub:
    """Where events are handed in and handed out. Each service has one; a child's hands on to its parent's."""

    def __init__(self) -> None:
        #: The hub that hears everything that this one hears, or None.
        self.parent: Hub | None = None
        self._subscriptions: tuple[Subscription, ...] = ()
        self._by_type: dict[type[Event], tuple[Subscription, ...]] = {}

    def subscribe(self, sink: SinkCall, *types: type[Event]) -> Subscription:
        """Have `sink(event)` called for events of these types (none given: of every type).

        The sink is called on the event loop, after the emitter has gone on. An async sink is awaited.
        What it raises is logged and counted in `.errors`.
        """
        subscription = Subscription(self, sink, types or (Event,))
        self._subscriptions += (subscription,)
        self._by_type = {}
        return subscription

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody hears events of this type, here or above: ask before making one."""
        hub: Hub | None = self
        while hub is not None:
            if hub._subscriptions and hub._heard_by(kind):
                return True
            hub = hub.parent
        return False

    def emit(self, event: Event) -> None:
        """Queue an event for all who hear its type, here and above. Never waits, never raises for a sink's fault."""
        hub: Hub | None = self
        while hub is not None:
            for subscription in hub._heard_by(type(event)):
                subscription._put(event)
            hub = hub.parent

    async def flush(self) -> None:
        """Wait until the sinks of this hub have heard everything that was emitted so far."""
        for subscription in self._subscriptions:
            await subscription.flush()

    @property
    def dropped(self) -> int:
        """How many events the slow sinks of this hub have lost."""
        return sum(subscription.dropped for subscription in self._subscriptions)

    def _heard_by(self, kind: type[Event]) -> tuple[Subscription, ...]:
        heard = self._by_type.get(kind)
        if heard is None:
            heard = self._by_type[kind] = tuple(s for s in self._subscriptions if issubclass(kind, s.types))
        return heard

    def _remove(self, subscription: Subscription) -> None:
        self._subscriptions = tuple(other for other in self._subscriptions if other is not subscription)
        self._by_type = {}
