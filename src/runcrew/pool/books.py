"""Books: what is counted of the runs of one life, and who is told of them."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import AbandonedCall
from runcrew.durations import text
from runcrew.errors import brief
from runcrew.events import Hub, RunEnded, RunRetried, RunStarted, ThreadAbandoned
from runcrew.insight import Digest, RunStats
from runcrew.job import Outcome, Run, Status
from runcrew.policies.counter import Numbers
from runcrew.policies.elapsed import Times
from runcrew.pool.tape import GROUP, Counted, Tape

if TYPE_CHECKING:
    from runcrew.pool.cycle import Cycle
    from runcrew.pool.floor import Floor

_log: Final = logging.getLogger("runcrew")

_SUCCEEDED: Final = Status.SUCCEEDED

#: Which digest is for which end.
_CUT: Final = 2
_KINDS: Final = {_SUCCEEDED: 0, Status.FAILED: 1, Status.TIMED_OUT: 1}

#: Of the failures within so many seconds, only the first is written into the log, and how many there were.
QUIET: Final = 1.0


class Books:
    """The plain numbers of one life. Its cycles count for themselves; what they hand in is added up here."""

    def __init__(self, floor: Floor, timed: bool) -> None:
        self._floor = floor
        self._hub = floor.home.hub
        self._name = floor.name
        # Cycles in threads hand in as well; a finalizer or signal handler may look in between.
        self._lock = threading.RLock()
        self._ended = dict.fromkeys(Status, 0)
        self._retries = 0
        self._begun = 0
        self._timed = 0
        self._total = self._last = self._most = 0.0
        self._least = float("inf")
        self._last_ended = 0.0
        #: How long runs took that succeeded, failed and were cut short; only where somebody asks for that.
        self._digests = (Digest(), Digest(), Digest()) if timed else None
        #: Of those that succeeded in groups: one value for each group.
        self._grouped = Digest()
        self.last_error: BaseException | None = None
        #: When a failure was last written into the log, and how many there have been since.
        self._logged = float("-inf")
        self._unlogged = 0
        #: Whether anybody hears of each run.
        self.tells = False
        self.hubs_changed()
        Hub.watch(self)

    def hubs_changed(self) -> None:
        """Find out, again, whether anybody hears of each run."""
        before = self.tells
        self.tells = _log.isEnabledFor(logging.DEBUG) or self._hub.wants(RunStarted) or self._hub.wants(RunEnded)
        if self.tells is not before:
            for cycle in self._floor.cycles():
                cycle.look_up()

    # --- counting ---------------------------------------------------------------------------

    def count(self, cycle: Cycle) -> None:
        """Take over what this cycle has counted. By the cycle itself, between two runs."""
        with self._lock:
            self._take(cycle)

    def _take(self, cycle: Cycle) -> None:
        if cycle.given_up:
            cycle.tape.forget()
        counted = cycle.tape.counted()
        if counted is None:
            return
        if self._digests is not None:
            _digest(cycle.tape, self._digests[0], self._grouped)
        self._ended[_SUCCEEDED] += counted.runs
        self._last_ended = self._floor.now()
        self._time(counted)
        cycle.tape.clear()

    def _time(self, counted: Counted) -> None:
        self._timed += counted.runs
        self._total += counted.total
        self._last = counted.last
        self._least, self._most = min(self._least, counted.least), max(self._most, counted.most)

    def close(self, cycle: Cycle) -> None:
        """The same for one in a thread, which has no run under way just now."""
        with self._lock:
            cycle.running = False
            self._take(cycle)

    def give_up(self, cycle: Cycle) -> bool:
        """Nobody waits for the run under way any more: whether there is one. It has been interrupted then."""
        with self._lock:
            if not cycle.running or cycle.given_up:
                return False
            self._take(cycle)
            cycle.given_up = True
            cycle.running = False
            self._ended[Status.INTERRUPTED] += 1
            return True

    def ended(self, cycle: Cycle, run: Run, outcome: Outcome[Any]) -> None:
        """A run ended, in a way that its cycle does not count for itself."""
        with self._lock:
            cycle.tape.before += 1
            self._ended[outcome.status] += 1
            self._retries += outcome.attempts - 1
            self._last_ended = outcome.ended
            if outcome.started is not None and outcome.status is not Status.SKIPPED:
                took = outcome.elapsed
                self._time(Counted(1, took, took, took, took))
                if self._digests is not None:
                    self._digests[_KINDS.get(outcome.status, _CUT)].add(took)
        if self.tells:
            self.tell_end(run, outcome)

    # --- looking ----------------------------------------------------------------------------

    def runs(self) -> RunStats:
        """The numbers as they stand, from any thread."""
        with self._lock:
            return self._runs(self._look())

    def _look(self) -> list[tuple[Cycle, bool, Tape]]:
        """What cycles have not handed in yet, each looked at once: whether a run is under way, and what has ended."""
        return [(cycle, cycle.running, cycle.tape.copy()) for cycle in self._floor.cycles()]

    def _runs(self, found: list[tuple[Cycle, bool, Tape]]) -> RunStats:
        counts, running = dict(self._ended), 0
        timed, total, last, last_ended = self._timed, self._total, self._last, self._last_ended
        least, most = self._least, self._most
        for cycle, runs, tape in found:
            running += runs
            pending = tape.counted()
            if pending is not None:
                counts[_SUCCEEDED] += pending.runs
                timed, total = timed + pending.runs, total + pending.total
                least, most = min(least, pending.least), max(most, pending.most)
                at = self._floor.instant(cycle.since + pending.total)
                if at >= last_ended:
                    last, last_ended = pending.last, at
        ended = sum(counts.values())
        # In a thread, a run may have ended before it is known that no other follows at once: it looks as if that one
        # were under way. So this never goes back while runs are under way; when none is, what has begun has ended.
        self._begun = max(self._begun, ended + running) if running else ended
        return RunStats(
            begun=self._begun,
            in_flight=self._begun - ended,
            retries=self._retries,
            elapsed_total=total,
            elapsed_last=last if timed else None,
            elapsed_min=least if timed else None,
            elapsed_max=most if timed else None,
            last_ended=last_ended or None,
            **{status.value: count for status, count in counts.items()},
        )

    def numbers(self) -> Numbers:
        """For a Counter that reads them here: see `runcrew.policies.counter.Source`."""
        return _numbers(self.runs())

    def times(self) -> Times:
        """The same for an Elapsed."""
        assert self._digests is not None
        with self._lock:
            good, bad, cut, grouped = Digest(), Digest(), Digest(), Digest()
            for digest, kept in zip((good, bad, cut, grouped), (*self._digests, self._grouped), strict=True):
                digest.merge(kept)
            found = self._look()
            for _, _, tape in found:
                _digest(tape, good, grouped)
            runs = self._runs(found)
        good.merge(grouped, GROUP)
        ended = None if runs.last_ended is None else self._floor.tick_at(runs.last_ended)
        return Times(good, bad, cut, runs.elapsed_last or 0.0, ended, _numbers(runs))

    # --- telling ----------------------------------------------------------------------------

    def tell_begin(self, run: Run) -> None:
        """A run begins."""
        _log.debug("%s: run %s begins", self._name, run.id, extra={"service": self._name, "run": run.id})
        if self._hub.wants(RunStarted):
            self._hub.emit(RunStarted(run.queued, self._name, run.id, run.cause))

    def tell_end(self, run: Run, outcome: Outcome[Any]) -> None:
        """A run has ended."""
        _log.debug(
            "%s: run %s %s after %s", self._name, run.id, outcome.status, text(outcome.elapsed),
            extra={"service": self._name, "run": run.id, "status": outcome.status.value},
        )  # fmt: skip
        if self._hub.wants(RunEnded):
            self._hub.emit(
                RunEnded(
                    outcome.ended, self._name, run.id, outcome.status, outcome.elapsed, outcome.attempts,
                    outcome.error, outcome.reason,
                )
            )  # fmt: skip

    def failed(self, run: Run, outcome: Outcome[Any], delay: float) -> None:
        """A run failed: that is never passed over in silence, nor does it flood the log."""
        self.last_error = outcome.error
        now = outcome.ended
        if now - self._logged < QUIET:
            self._unlogged += 1
            return
        others, self._unlogged, self._logged = self._unlogged, 0, now
        more = f" (and {others} others since the last such line)" if others else ""
        follows = f", its worker pauses for {text(delay)}" if delay else ""
        _log.warning(
            "%s: run %s %s%s%s: %s", self._name, run.id, outcome.status, follows, more,
            brief(outcome.error) if outcome.error is not None else outcome.reason,
            extra={"service": self._name, "run": run.id, "status": outcome.status.value},
        )  # fmt: skip

    def retried(self, run: Run, error: BaseException, delay: float, rule: str) -> None:
        """Another attempt of a run follows."""
        _log.debug(
            "%s: attempt %d of run %s failed, the next in %s by %s: %s",
            self._name, run.attempt, run.id, text(delay), rule, brief(error),
            extra={"service": self._name, "run": run.id, "attempt": run.attempt},
        )  # fmt: skip
        if self._hub.wants(RunRetried):
            self._hub.emit(RunRetried(self._floor.now(), self._name, run.id, run.attempt, delay, rule, error))

    def abandoned(self, run: Run, given: AbandonedCall) -> None:
        """A thread was left to itself."""
        said = "%s: the thread of run %s was abandoned"
        _log.warning(said, self._name, run.id, extra={"service": self._name, "run": run.id})
        if self._hub.wants(ThreadAbandoned):
            self._hub.emit(ThreadAbandoned(given.since, self._name, run.id))


def _digest(tape: Tape, singles: Digest, grouped: Digest) -> None:
    singles.add_many(tape.singles)
    grouped.add_many([took / GROUP for took in tape.groups])


def _numbers(runs: RunStats) -> Numbers:
    cut = runs.cancelled + runs.interrupted + runs.skipped
    return Numbers(runs.begun, runs.ended, runs.failed + runs.timed_out, cut)
