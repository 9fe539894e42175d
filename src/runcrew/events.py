"""Events: what happened, as small values, for those who subscribed; and the hub that brings them there.

An event is made only if somebody subscribed to its type (`hub.wants(Type)` first, then `hub.emit(…)`),
so that what nobody listens to costs one set lookup. Order holds for each emitting loop. Sinks run from
a bounded queue behind the emitter's back: a slow one loses the oldest events, and the hub counts them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeAlias
from weakref import WeakValueDictionary

from runcrew.errors import ConfigError, brief

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
        because = "" if self.error is None else f": {brief(self.error)}"
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
        what = brief(self.error)
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
        because = self.reason or ("" if self.error is None else brief(self.error))
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
        return f"{self.service}: {self.moment} hook {self.hook} failed: {brief(self.error)}"


@dataclass(frozen=True, slots=True)
class ThreadAbandoned(Event):
    """A call in a thread was given up: it goes on until it returns, and nobody waits for it."""

    run: str

    def __str__(self) -> str:
        return f"{self.service}: the thread of run {self.run} was abandoned"


@dataclass(frozen=True, slots=True)
class WorkerOpened(Event):
    """A worker is there, with its resource if it has one."""

    worker: int

    def __str__(self) -> str:
        return f"{self.service}: worker {self.worker} is there"


@dataclass(frozen=True, slots=True)
class WorkerGone(Event):
    """A worker has left, and its resource was taken down. `error`: what ended it, or what taking it down raised."""

    worker: int
    reason: str
    error: BaseException | None = None

    def __str__(self) -> str:
        because = "" if self.error is None else f": {brief(self.error)}"
        return f"{self.service}: worker {self.worker} is gone ({self.reason}){because}"


@dataclass(frozen=True, slots=True)
class OpeningFailed(Event):
    """A worker's resource could not be made; the next opening comes after `delay` seconds."""

    worker: int
    delay: float
    error: BaseException

    def __str__(self) -> str:
        return f"{self.service}: worker {self.worker} has no resource ({brief(self.error)}), next in {self.delay:.3g} s"


@dataclass(frozen=True, slots=True)
class RunRequeued(Event):
    """A run met an unhealthy resource, and waits for another one; `delay` seconds at least."""

    run: str
    attempt: int
    delay: float
    error: BaseException

    def __str__(self) -> str:
        what = brief(self.error)
        return f"{self.service}: attempt {self.attempt} met a faulty resource ({what}), again in {self.delay:.3g} s"


@dataclass(frozen=True, slots=True)
class Stalled(Event):
    """No worker is left that could do anything: all places are held by abandoned threads."""

    abandoned: int

    def __str__(self) -> str:
        return f"{self.service}: stalled: {self.abandoned} abandoned threads hold all places"


@dataclass(frozen=True, slots=True)
class Scaled(Event):
    """Scaling changed how many workers there should be. The rest is what that was decided from: see `Inputs`."""

    before: int
    after: int
    reason: str
    arrival: float | None
    completion: float
    busy: float
    utilisation: float
    waiting: int | None
    age: float
    demand: float

    def __str__(self) -> str:
        return f"{self.service}: {self.before} -> {self.after} workers: {self.reason}"


@dataclass(frozen=True, slots=True)
class LoopBlocked(Event):
    """A call kept the event loop from everything else for longer than is allowed."""

    job: str
    seconds: float
    stack: str

    def __str__(self) -> str:
        return f"{self.job} has blocked the event loop for {self.seconds:.3g} s:\n{self.stack}"


SinkCall: TypeAlias = Callable[[Any], Awaitable[Any] | None]


class Subscription:
    """One sink and what it hears. `cancel()` ends it; `dropped` counts what it was too slow for."""

    def __init__(self, hub: Hub, sink: SinkCall, types: tuple[type[Event], ...], context: Context) -> None:
        self._hub = hub
        self._sink = sink
        self.types = types
        self.dropped = 0
        self.errors = 0
        self._context = context
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
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # emitted while no loop runs: it waits for the next event
            return
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            # Not by the loop's task factory: an eager one would call the sink before the emitter has gone on.
            self._task = asyncio.Task(self._deliver(), loop=loop, name="runcrew-sink", context=self._context)

    async def _deliver(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while self._waiting:
            await self._hand_over(self._waiting.popleft(), task)

    async def _hand_over(self, event: Event, task: asyncio.Task[Any]) -> None:
        try:
            answer = self._sink(event)
            if answer is not None:
                await answer
        except GeneratorExit:  # thrown away with its loop
            raise
        except BaseException as error:  # all of it: a SystemExit in a task would end the loop
            if isinstance(error, asyncio.CancelledError) and task.cancelling():
                self.dropped += 1
                raise
            self.errors += 1
            _log.error("an event sink failed on %s", type(event).__name__, exc_info=error)

    def _delivering(self) -> asyncio.Task[None] | None:
        """The task that delivers on the running loop; None where there is none, and for the sink itself."""
        task = self._task
        if task is None or task.done() or task is asyncio.current_task():
            return None
        return task if task.get_loop() is asyncio.get_running_loop() else None

    def _give_up(self, task: asyncio.Task[None]) -> None:
        """It has had its time: what it has not heard by now is lost."""
        lost = len(self._waiting) + 1
        _log.warning("an event sink was too slow at the end: %d event(s) are lost", lost)
        self.dropped += len(self._waiting)
        self._waiting.clear()
        task.cancel()


class Watcher(Protocol):
    """Who keeps what it found out about who hears what."""

    def hubs_changed(self) -> None:
        """Find it out again."""
        ...


class Hub:
    """Where events are handed in and handed out. Each service has one; a child's hands on to its parent's."""

    #: Those who keep what they found out about who hears what: told when anything about that changes, anywhere.
    _watchers: ClassVar[WeakValueDictionary[int, Watcher]] = WeakValueDictionary()

    def __init__(self) -> None:
        self._parent: Hub | None = None
        self._subscriptions: tuple[Subscription, ...] = ()
        self._by_type: dict[type[Event], tuple[Subscription, ...]] = {}

    @property
    def parent(self) -> Hub | None:
        """The hub that hears everything that this one hears, or None."""
        return self._parent

    @parent.setter
    def parent(self, hub: Hub | None) -> None:
        self._parent = hub
        self._changed()

    def subscribe(self, sink: SinkCall, *types: type[Event], context: Context | None = None) -> Subscription:
        """Have `sink(event)` called for events of these types (none given: of every type).

        The sink is called on the event loop, after the emitter has gone on. An async sink is awaited.
        What it raises is logged and counted in `.errors`.
        context: whose context variables the sink sees, in a context of its own; None: those of the caller.
        Raises ConfigError for what cannot be called, and for what is no class of events.
        """
        if not callable(sink):
            raise ConfigError(f"sink: {sink!r} cannot be called: give a function that takes an event")
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, Event)):
                raise ConfigError(f"types: {kind!r} is not a class of events: see runcrew.events")
        own = copy_context() if context is None else context
        subscription = Subscription(self, sink, types or (Event,), own)
        self._subscriptions += (subscription,)
        self._by_type = {}
        self._changed()
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

    @property
    def dropped(self) -> int:
        """How many events the slow sinks of this hub have lost."""
        return sum(subscription.dropped for subscription in self._subscriptions)

    @classmethod
    def watch(cls, watcher: Watcher) -> None:
        """Have `watcher.hubs_changed()` called whenever who hears what may have changed; as long as it lives."""
        cls._watchers[id(watcher)] = watcher

    @classmethod
    def _changed(cls) -> None:
        for watcher in list(cls._watchers.values()):
            watcher.hubs_changed()

    def _heard_by(self, kind: type[Event]) -> tuple[Subscription, ...]:
        heard = self._by_type.get(kind)
        if heard is None:
            heard = self._by_type[kind] = tuple(s for s in self._subscriptions if issubclass(kind, s.types))
        return heard

    def _remove(self, subscription: Subscription) -> None:
        self._subscriptions = tuple(other for other in self._subscriptions if other is not subscription)
        self._by_type = {}
        self._changed()


async def flush(hubs: Iterable[Hub], timeout: float | None = None) -> None:
    """Wait until the sinks of these hubs have heard what was emitted.

    timeout: seconds that they have for it, None for as long as it takes. A sink that is not through by then is cut
    short, and what it has not heard is counted as dropped. Cancelling ends only the waiting.
    """
    late = {task: sub for hub in hubs for sub in hub._subscriptions if (task := sub._delivering()) is not None}
    if late:
        _, pending = await asyncio.wait(late, timeout=timeout)
        for task, subscription in late.items():
            if task in pending:
                subscription._give_up(task)
