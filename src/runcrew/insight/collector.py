"""What a queue tells about its work, and the built-in place where that becomes numbers: `Collector`.

A collector of one's own has the methods of `CollectorContract`; `check_collector` says what is missing.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from operator import mul
from typing import Final, NoReturn, Protocol, TypeVar, cast, runtime_checkable

from runcrew import clock as clocks
from runcrew.errors import ConfigError
from runcrew.insight.digest import SCALE, Digest, Summary
from runcrew.insight.rates import Rate
from runcrew.job import Status

T = TypeVar("T")

#: So many calls of one kind are kept as they came before they become numbers, all together.
BATCH: Final = 512

_FAILED: Final = (Status.FAILED, Status.TIMED_OUT)
_DROPPED: Final = (Status.CANCELLED, Status.INTERRUPTED, Status.SKIPPED)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What became of the work, and how fast. Spans in seconds, rates in events per second, instants since the epoch.

    At every quiet point `arrived` equals the sum of the six ends (completed, failed, timed_out, cancelled,
    interrupted, skipped) plus `pending`.
    """

    #: When the counting began, and when this was asked.
    since: float
    at: float
    #: Accepted so far.
    arrived: int
    #: The six ways in which it ended. A failure is counted once, when the work has failed for good.
    completed: int
    failed: int
    timed_out: int
    cancelled: int
    interrupted: int
    skipped: int
    #: How often something was put back to be tried again.
    retried: int
    #: Accepted and not ended; never negative.
    pending: int
    #: Over the last minute, or the time since `since` where that is less; 0 where nothing happened in it.
    arrivals_per_s: float
    completions_per_s: float
    #: Failed and timed out.
    failures_per_s: float
    #: Of all that was completed, failed or timed out, from 0 to 1; both 0 where there was none.
    success_rate: float
    failure_rate: float
    #: How long the last attempt took, and how long there was waiting before it, of what was completed.
    execution: Summary
    wait: Summary
    #: The same of what failed or timed out. What never began waited, and took no time.
    failure_execution: Summary
    failure_wait: Summary


@runtime_checkable
class CollectorContract(Protocol):
    """What a queue calls, and when. Give an object with these methods as `collector=`.

    They are called on the queue's event loop, in between its work: so they must be quick, never wait, and are
    plain methods, not `async`. `metrics` is called by who asks the queue for its metrics, in any thread; whoever
    lets several queues share a collector may have all of them called in several threads at once.

    Instants are float seconds since the epoch. What a method raises is the queue's to log; no work suffers from it.
    """

    def arrived(self, at: float, /) -> None:
        """Something was accepted at `at`. Once for each, and before anything else is said of it."""
        ...

    def completed(self, queued: float, started: float, ended: float, waited: float | None = None, /) -> None:
        """It succeeded. `queued`: when it was accepted; `started`, `ended`: of its last attempt.

        waited: seconds that it spent waiting in total, where it had several attempts. None: `started - queued`.
        """
        ...

    def failed(
        self, queued: float, started: float | None, ended: float, status: Status, waited: float | None = None, /
    ) -> None:
        """It failed for good: `status` is failed or timed_out. `started` is None where its time was up before it began.

        waited: as above; None: `started - queued`, or `ended - queued` where it never began.
        """
        ...

    def retried(self, at: float, /) -> None:
        """It was put back at `at`, to be tried again."""
        ...

    def dropped(self, status: Status, at: float, /) -> None:
        """It ended without a result: `status` is cancelled, interrupted or skipped."""
        ...

    def metrics(self) -> Metrics:
        """The numbers as they stand."""
        ...


_METHODS: Final = ("arrived", "completed", "failed", "retried", "dropped", "metrics")


def check_collector(given: object) -> CollectorContract:
    """Give back what was given as `collector=`, if it can be one.

    Raises ConfigError, which names what is missing, for anything that lacks a method of `CollectorContract`,
    where one is `async` (nobody would await it), and for a class in place of an instance.
    """
    if isinstance(given, type):
        raise ConfigError(f"collector={given.__qualname__} is a class: give an instance, {given.__qualname__}()")
    missing = [name for name in _METHODS if not callable(getattr(given, name, None))]
    if missing:
        raise ConfigError(
            f"collector={given!r} lacks {', '.join(missing)}: give an object with the methods {', '.join(_METHODS)}"
        )
    waiting = [name for name in _METHODS if inspect.iscoroutinefunction(getattr(given, name))]
    if waiting:
        raise ConfigError(f"collector={given!r}: {', '.join(waiting)} must be a plain method, which nobody awaits")
    return cast("CollectorContract", given)


class Collector:
    """Counts, rates over the last minute, and percentiles, in memory that does not grow. What a queue uses by itself.

    Its clock starts when it is made. Each is independent of the others; one may serve several queues, also on
    several event loops, and `merge` adds up what several have counted. All methods may be called in any thread.
    """

    # A call only appends to a list; when `BATCH` are there, all are counted at once, which is many times cheaper
    # than to count each. Appending needs no lock, because a list is never replaced: whoever counts takes as many
    # items from its front as it had, by a slice and a `del`, while others go on appending at its end. Each of the
    # three is one step that no thread sees half done, with the GIL and without it.
    # Those who count take turns by a lock. Who came only to append does not wait for it: while it is taken,
    # somebody is counting already, and one of the next calls sees to what is left.

    __slots__ = ("_arrived", "_busy", "_completed", "_dropped", "_failed", "_lock", "_retried", "_tally")

    def __init__(self) -> None:
        self._tally = _Tally(clocks.current().now())
        # What has come and is not counted yet.
        self._arrived: list[float] = []
        self._completed: list[float] = []
        self._failed: list[_Failed] = []
        self._dropped: list[Status] = []
        self._retried: list[float] = []
        # Who has it may take it again: a signal handler may ask for metrics while its own thread is counting.
        self._lock = threading.RLock()
        self._busy = False

    # --- what a queue says ----------------------------------------------------------

    def arrived(self, at: float) -> None:
        """Something was accepted at `at`."""
        arrived = self._arrived
        arrived.append(at)
        if len(arrived) >= BATCH:
            self._count_unless_somebody_does()

    @property
    def arrived_in_bulk(self) -> Callable[[float], None]:
        """The same as `arrived`, as the cheapest callable there is, for those who say what becomes of each as well.

        It does not look how many have come together: what is said of an end does, and counts them too.
        """
        return self._arrived.append

    def completed(self, queued: float, started: float, ended: float, waited: float | None = None) -> None:
        """It succeeded: see `CollectorContract`."""
        completed = self._completed  # three floats for each: no garbage collector looks through them
        completed += ((ended - started) * SCALE, (started - queued if waited is None else waited) * SCALE, ended)
        if len(completed) >= 3 * BATCH:
            self._count_unless_somebody_does()

    def completed_many(self, elapsed: Iterable[float], waited: Iterable[float], ended: Iterable[float]) -> None:
        """Many have succeeded: how long each took and had waited, in seconds, and when it ended. As many of each."""
        scale = repeat(SCALE)
        with self._lock:
            self._tally.spans(list(map(mul, elapsed, scale)), list(map(mul, waited, scale)), list(ended))
            self._count()

    def failed(
        self, queued: float, started: float | None, ended: float, status: Status, waited: float | None = None
    ) -> None:
        """It failed for good: see `CollectorContract`. Raises ConfigError for another status."""
        if status not in _FAILED:
            _refuse(status, _FAILED)
        self._failed.append((queued, started, ended, status, waited))
        if len(self._failed) >= BATCH:
            self._count_unless_somebody_does()

    def retried(self, at: float) -> None:
        """It was put back at `at`, to be tried again."""
        self._retried.append(at)
        if len(self._retried) >= BATCH:
            self._count_unless_somebody_does()

    def dropped(self, status: Status, at: float) -> None:
        """It ended without a result: see `CollectorContract`. Raises ConfigError for another status."""
        if status not in _DROPPED:
            _refuse(status, _DROPPED)
        self._dropped.append(status)
        if len(self._dropped) >= BATCH:
            self._count_unless_somebody_does()

    # --- what a user asks -------------------------------------------------------------

    def metrics(self) -> Metrics:
        """The numbers as they stand, all of one moment. In any thread; those who record meanwhile do not wait."""
        with self._lock:
            self._count()
            return self._tally.metrics(clocks.current().now())

    def merge(self, other: Collector) -> None:
        """Count all that `other` has counted so far, as if it had happened here. `other` is left as it is.

        `since` becomes the earlier one of both. Raises ConfigError for itself, which would count everything twice.
        """
        if other is self:
            raise ConfigError("a collector cannot be merged with itself: give another one")
        theirs = _Tally(other._tally.since)
        with other._lock:  # one lock after the other: two who merge each other do not wait for ever
            other._count()
            theirs.merge(other._tally)
        with self._lock:
            self._tally.merge(theirs)

    # --- counting ---------------------------------------------------------------------

    def _count_unless_somebody_does(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._lock.release()

    def _count(self) -> None:
        """Count what has come. The lock is held."""
        if self._busy:  # this very thread is at it, further out
            return
        self._busy = True
        try:
            # Ends before arrivals: so nothing has ended that is not known to have arrived.
            self._tally.completed(_taken(self._completed))
            self._tally.failed(_taken(self._failed))
            self._tally.dropped(_taken(self._dropped))
            self._tally.retried += len(_taken(self._retried))
            self._tally.arrived(_taken(self._arrived))
        finally:
            self._busy = False


_Failed = tuple[float, float | None, float, Status, float | None]


class _Tally:
    """What has been counted. For one thread at a time."""

    __slots__ = (
        "arrivals",
        "arrivals_rate",
        "completions_rate",
        "ends",
        "execution",
        "failure_execution",
        "failure_wait",
        "failures_rate",
        "retried",
        "since",
        "wait",
    )

    def __init__(self, since: float) -> None:
        self.since = since
        self.arrivals = 0
        self.retried = 0
        self.ends = dict.fromkeys(Status, 0)
        self.arrivals_rate, self.completions_rate, self.failures_rate = Rate(since), Rate(since), Rate(since)
        self.execution, self.wait = Digest(), Digest()
        self.failure_execution, self.failure_wait = Digest(), Digest()

    def arrived(self, instants: list[float]) -> None:
        self.arrivals += len(instants)
        self.arrivals_rate.add_many(instants)

    def completed(self, flat: list[float]) -> None:
        """Three for each: how long it took, how long it waited (both scaled), and when it ended."""
        self.spans(flat[0::3], flat[1::3], flat[2::3])

    def spans(self, elapsed: list[float], waited: list[float], ended: list[float]) -> None:
        """The same in three lists, the first two of which may be changed."""
        self.ends[Status.SUCCEEDED] += len(ended)
        self.execution.add_scaled(elapsed)
        self.wait.add_scaled(waited)
        self.completions_rate.add_many(ended)

    def failed(self, batch: list[_Failed]) -> None:
        for _, _, _, status, _ in batch:
            self.ends[status] += 1
        self.failures_rate.add_many([ended for _, _, ended, _, _ in batch])
        self.failure_execution.add_many([ended - started for _, started, ended, _, _ in batch if started is not None])
        self.failure_wait.add_many(
            [
                (ended if started is None else started) - queued if waited is None else waited
                for queued, started, ended, _, waited in batch
            ]
        )

    def dropped(self, statuses: list[Status]) -> None:
        for status in statuses:
            self.ends[status] += 1

    def merge(self, other: _Tally) -> None:
        self.since = min(self.since, other.since)
        self.arrivals += other.arrivals
        self.retried += other.retried
        for status, count in other.ends.items():
            self.ends[status] += count
        self.arrivals_rate.merge(other.arrivals_rate)
        self.completions_rate.merge(other.completions_rate)
        self.failures_rate.merge(other.failures_rate)
        self.execution.merge(other.execution)
        self.wait.merge(other.wait)
        self.failure_execution.merge(other.failure_execution)
        self.failure_wait.merge(other.failure_wait)

    def metrics(self, now: float) -> Metrics:
        ends = self.ends
        completed, failures = ends[Status.SUCCEEDED], ends[Status.FAILED] + ends[Status.TIMED_OUT]
        ran = completed + failures
        return Metrics(
            since=self.since,
            at=now,
            arrived=self.arrivals,
            completed=completed,
            failed=ends[Status.FAILED],
            timed_out=ends[Status.TIMED_OUT],
            cancelled=ends[Status.CANCELLED],
            interrupted=ends[Status.INTERRUPTED],
            skipped=ends[Status.SKIPPED],
            retried=self.retried,
            pending=max(0, self.arrivals - sum(ends.values())),
            arrivals_per_s=self.arrivals_rate.per_second(now),
            completions_per_s=self.completions_rate.per_second(now),
            failures_per_s=self.failures_rate.per_second(now),
            success_rate=completed / ran if ran else 0.0,
            failure_rate=failures / ran if ran else 0.0,
            execution=self.execution.snapshot(),
            wait=self.wait.snapshot(),
            failure_execution=self.failure_execution.snapshot(),
            failure_wait=self.failure_wait.snapshot(),
        )


def _taken(items: list[T]) -> list[T]:
    """All that is in the list now, taken out of it. What is appended meanwhile stays."""
    count = len(items)
    if not count:
        return []
    taken = items[:count]
    del items[:count]
    return taken


def _refuse(status: Status, allowed: tuple[Status, ...]) -> NoReturn:
    raise ConfigError(f"status={status!r}: give one of {', '.join(each.value for each in allowed)}")
