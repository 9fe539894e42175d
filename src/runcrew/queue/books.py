"""Books: what is counted of the runs of one life, and who is told of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from operator import sub
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import AbandonedCall
from runcrew.durations import text
from runcrew.errors import brief
from runcrew.events import Hub, RunEnded, RunRequeued, RunRetried, RunStarted, ThreadAbandoned
from runcrew.insight import Collector, CollectorContract, Metrics, RunStats
from runcrew.job import Status
from runcrew.queue.decide import Again
from runcrew.queue.ticket import SUCCEEDED, More, Ticket

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

_log: Final = logging.getLogger("runcrew")

#: So many runs are counted together.
BATCH: Final = 512

_FAILED: Final = Status.FAILED
_TIMED_OUT: Final = Status.TIMED_OUT


class Books:
    """The plain numbers of one life; the collector, the events and the log hear of each run from here."""

    def __init__(self, desk: Desk, collector: CollectorContract) -> None:
        self._desk = desk
        self._hub = desk.home.hub
        self._name = desk.name
        self.collector = collector
        #: A run was accepted.
        self.arrived: Callable[[float], None] = (
            collector.arrived_in_bulk if isinstance(collector, Collector) else collector.arrived
        )
        #: By status, but for those that succeeded with their first attempt: they are what else has ended.
        self._ended = dict.fromkeys(Status, 0)
        #: Of those: when they were accepted, began and ended, in one list. Whoever adds to it calls `count` when it has
        #: become `limit` long: many are counted in one go, which is much cheaper. But who collects by means of
        #: his own hears of each.
        self.stamps: list[float] = []
        self.limit = 3 * BATCH if isinstance(collector, Collector) else 3
        self._counting = threading.RLock()
        self._timed = 0
        self._total = self._last = self._most = 0.0
        self._least = float("inf")
        #: When the last run ended that has been counted.
        self.last_ended = 0.0
        self.retries = 0
        self.never_started = 0
        self.requeued = 0
        self.dropped = 0
        #: Whether anybody hears of each run.
        self.tells = False
        self.hubs_changed()
        Hub.watch(self)

    def hubs_changed(self) -> None:
        """Find out, again, whether anybody hears of each run."""
        self.tells = _log.isEnabledFor(logging.DEBUG) or self._hub.wants(RunStarted) or self._hub.wants(RunEnded)

    # --- what happens ---------------------------------------------------------------------

    def ended(self, ticket: Ticket[Any], status: Status, now: float, waited: float | None) -> None:
        """A run ended, in whatever way."""
        self._ended[status] += 1
        started, more = ticket._started, ticket._more
        first = started if more is None or more.first_started is None else more.first_started
        with self._counting:
            self._count()  # in the order of their ends
            self.last_ended = now
            if first is not None:
                self._count_times([max(0.0, now - first)])
        if first is None and status is not Status.SKIPPED:
            self.never_started += 1
        if status is SUCCEEDED:
            assert started is not None
            self.collector.completed(ticket._queued, started, now, waited)
        elif status is _FAILED or status is _TIMED_OUT:
            self.collector.failed(ticket._queued, started, now, status, waited)
        else:
            self.collector.dropped(status, now)

    def retried(self, now: float) -> None:
        """Another attempt of a run follows."""
        self.retries += 1
        self.collector.retried(now)

    def count(self) -> None:
        """Count what has come together. In any thread: somebody may want to know."""
        with self._counting:
            self._count()

    def _count(self) -> None:
        stamps = self.stamps[:]
        del self.stamps[: len(stamps)]
        if not stamps:
            return
        queued, started, ended = stamps[0::3], stamps[1::3], stamps[2::3]
        elapsed = list(map(sub, ended, started))
        self.last_ended = ended[-1]
        self._count_times(elapsed)
        if isinstance(self.collector, Collector):
            self.collector.completed_many(elapsed, map(sub, started, queued), ended)
            return
        for one in zip(queued, started, ended, strict=True):
            self.collector.completed(*one)

    def _count_times(self, elapsed: list[float]) -> None:
        self._timed += len(elapsed)
        self._total += sum(elapsed)
        self._last = elapsed[-1]
        self._least, self._most = min(self._least, *elapsed), max(self._most, *elapsed)

    def metrics(self) -> Metrics:
        """What the collector has collected."""
        self.count()
        return self.collector.metrics()

    def ends_so_far(self) -> tuple[int, int, int]:
        """How many runs have come to an end of their own, were cut short, and ended before they began."""
        cut = self._ended[Status.CANCELLED] + self._ended[Status.INTERRUPTED] - self.never_started
        return self._desk.ended - cut - self.never_started, max(0, cut), self.never_started

    @property
    def without_worker(self) -> int:
        """How many have ended that no worker ever had: dropped, twins of others, cancelled while they waited."""
        return self.never_started + self._ended[Status.SKIPPED]

    def runs(self) -> RunStats:
        """The numbers as they stand."""
        desk = self._desk
        at_once = desk.ended - sum(self._ended.values())
        counts = {**self._ended, SUCCEEDED: self._ended[SUCCEEDED] + at_once}
        self.count()
        timed = self._timed > 0
        return RunStats(
            begun=desk.accepted,
            in_flight=desk.accepted - desk.ended,
            retries=self.retries,
            elapsed_total=self._total,
            elapsed_last=self._last if timed else None,
            elapsed_min=self._least if timed else None,
            elapsed_max=self._most if timed else None,
            last_ended=self.last_ended or None,
            **{status.value: count for status, count in counts.items()},
        )

    # --- telling --------------------------------------------------------------------------

    def tell_begin(self, ticket: Ticket[Any], worker: int) -> None:
        """An attempt begins."""
        attempt = ticket.attempts
        _log.debug(
            "%s: run %s, attempt %d, is taken by worker %d", self._name, ticket.id, attempt, worker,
            extra={"service": self._name, "run": ticket.id, "attempt": attempt},
        )  # fmt: skip
        told = ticket._more is not None and ticket._more.told
        if attempt == 1 and not told and self._hub.wants(RunStarted):
            cause = "submit" if ticket._more is None else ticket._more.cause
            self._hub.emit(RunStarted(self._desk.now(), self._name, ticket.id, cause))

    def tell_again(self, ticket: Ticket[Any], more: More, decided: Again, error: BaseException) -> None:
        """Another attempt follows."""
        _log.warning(
            "%s: attempt %d of run %s failed, the next in %s (%s): %s",
            self._name, more.attempt, ticket.id, text(decided.delay), decided.reason, brief(error),
            extra={"service": self._name, "run": ticket.id, "attempt": more.attempt},
        )  # fmt: skip
        now = self._desk.now()
        if decided.retry is None:
            if self._hub.wants(RunRequeued):
                self._hub.emit(RunRequeued(now, self._name, ticket.id, more.attempt, decided.delay, error))
        elif self._hub.wants(RunRetried):
            rule = decided.retry.rule
            self._hub.emit(RunRetried(now, self._name, ticket.id, more.attempt, decided.delay, rule, error))

    def tell_end(self, ticket: Ticket[Any]) -> None:
        """A run has its outcome."""
        outcome = ticket._outcome()
        _log.debug(
            "%s: run %s %s after %s", self._name, ticket.id, outcome.status, text(outcome.elapsed),
            extra={"service": self._name, "run": ticket.id, "status": outcome.status.value},
        )  # fmt: skip
        if self._hub.wants(RunEnded):
            self._hub.emit(
                RunEnded(
                    outcome.ended, self._name, ticket.id, outcome.status, outcome.elapsed, outcome.attempts,
                    outcome.error, outcome.reason,
                )
            )  # fmt: skip

    def abandoned(self, ticket: Ticket[Any], given: AbandonedCall) -> None:
        """A thread was left to itself."""
        said = "%s: the thread of run %s was abandoned"
        _log.warning(said, self._name, ticket.id, extra={"service": self._name, "run": ticket.id})
        if self._hub.wants(ThreadAbandoned):
            self._hub.emit(ThreadAbandoned(given.since, self._name, ticket.id))


class Guarded:
    """A collector of somebody's own: what it raises is logged, and changes nothing."""

    def __init__(self, collector: CollectorContract) -> None:
        self.inner = collector

    def arrived(self, at: float, /) -> None:
        """See CollectorContract, as for all of these."""
        self._call("arrived", at)

    def completed(self, queued: float, started: float, ended: float, waited: float | None = None, /) -> None:
        """A run succeeded."""
        self._call("completed", queued, started, ended, waited)

    def failed(
        self, queued: float, started: float | None, ended: float, status: Status, waited: float | None = None, /
    ) -> None:
        """A run failed for good."""
        self._call("failed", queued, started, ended, status, waited)

    def retried(self, at: float, /) -> None:
        """Another attempt follows."""
        self._call("retried", at)

    def dropped(self, status: Status, at: float, /) -> None:
        """A run ended without a result."""
        self._call("dropped", status, at)

    def metrics(self) -> Any:
        """Whatever it gives; what it raises comes out here, where somebody asked."""
        return self.inner.metrics()

    def _call(self, what: str, *args: Any) -> None:
        try:
            getattr(self.inner, what)(*args)
        except BaseException as error:  # all of it: a SystemExit here would end the loop
            _log.error("%s() of a collector failed: %s", what, brief(error), exc_info=error)
