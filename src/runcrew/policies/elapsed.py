"""Elapsed: how long runs take, as middleware that is cheap and may be shared by everybody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from runcrew.abc import Handler
from runcrew.clock import SYSTEM, current
from runcrew.insight import Digest, Summary
from runcrew.insight.digest import SCALE
from runcrew.job import Outcome, Run, Status
from runcrew.policies.counter import (
    BATCH,
    BEGAN,
    CANCELLED,
    FAILED,
    SKIPPED,
    SUCCEEDED,
    Counter,
    Numbers,
    Tally,
    as_layer,
    kind_of_error,
    kind_of_outcome,
    layer_of,
    sum_of,
    take,
)

_GOOD: Final = Status.SUCCEEDED
_system: Final = SYSTEM.ticker()
#: The kinds of notes for which there is a span.
_TIMED: Final = (SUCCEEDED, FAILED, CANCELLED)
_UNTIMED: Final = bytes((BEGAN, SKIPPED))


class Times(NamedTuple):
    """How long runs took. Nobody changes the digests once they have been handed out."""

    succeeded: Digest
    #: Of those that failed or timed out, and of those that were cancelled after they had begun.
    failed: Digest
    cancelled: Digest
    #: How long the run took that ended last, in seconds; and when that was, on `Clock.monotonic` (the scale of
    #: `loop.time()`). None: none has ended.
    last: float = 0.0
    ended: float | None = None
    #: The numbers of the same moment.
    numbers: Numbers = Numbers()


class TimedSource(Protocol):
    """Who keeps numbers and times of its runs itself."""

    def numbers(self) -> Numbers:
        """See `Source`."""
        ...

    def times(self) -> Times:
        """How long they took, and their numbers, all of one moment. Called in any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Timings:
    """What an Elapsed knows, all of one moment. Spans in seconds; 0 where nothing has ended yet."""

    numbers: Numbers
    #: How long the run took that ended last.
    last: float
    #: Of all that began and ended; of those that succeeded; of those that failed or timed out.
    all: Summary
    succeeded: Summary
    failed: Summary
    #: Of those that were cancelled or interrupted after they had begun.
    cancelled: Summary


class Elapsed(Tally):
    """Times runs: `elapsed = rc.Elapsed()`, then `middleware=[elapsed]`, or `rc.wrap(job, elapsed)`.

    It measures around what is inside of it, by the clock in force (`runcrew.clock`), and counts as a Counter does.
    Runs that failed, and runs that were cancelled after they had begun, count too, and can be told apart: see
    `snapshot`. Runs that were skipped never began, and are not timed. Memory is of a fixed size: percentiles come
    from a digest and are at most 1 % off; everything else is exact.
    """

    __slots__ = ("_digests", "_ended", "_last", "_lists")

    def __init__(self) -> None:
        super().__init__()
        #: How long runs took (scaled) that have ended and are not counted yet: that succeeded, failed, were cancelled.
        #: That is there before the run's note is: so for each note that is taken there is a span to be taken.
        self._lists: tuple[list[float], list[float], list[float]] = ([], [], [])
        #: What has been counted here, in the same order.
        self._digests = (Digest(), Digest(), Digest())
        #: When the last run ended here, on the monotonic clock, and how long it took.
        self._ended: float | None = None
        self._last = 0.0

    def __call__(self, handler: Handler, /) -> Handler:
        """Wrap a handler so that its runs are counted and timed here."""
        within = layer_of(handler)
        if within is not None and type(within[0]) is Counter:
            return self._and(within[0], within[1])
        notes, count = self._notes, self._count_unless_somebody_does
        spans, bad = self._lists[0], self._note_bad

        async def timed(run: Run) -> Outcome[Any]:
            clock = current()
            now = _system if clock is SYSTEM else clock.monotonic
            notes.append(BEGAN)
            began = now()
            try:
                outcome = await handler(run)
            except BaseException as error:
                bad(kind_of_error(run, error), began, now())
                raise
            ended = now()
            try:
                good = outcome.status is _GOOD
            except AttributeError:
                good = False
            if good:
                self._ended = ended
                spans.append((ended - began) * SCALE)
                notes.append(SUCCEEDED)
                if len(notes) >= BATCH:
                    count()
            else:
                bad(kind_of_outcome(outcome), began, ended)
            return outcome

        return as_layer(timed, self, handler)

    def _and(self, counter: Counter, handler: Handler) -> Handler:
        """The same for this one and a counter, next to one another."""
        notes, count = self._notes, self._count_unless_somebody_does
        spans, bad = self._lists[0], self._note_bad
        too, count_too = counter._notes, counter._count_unless_somebody_does

        async def timed_and_counted(run: Run) -> Outcome[Any]:
            clock = current()
            now = _system if clock is SYSTEM else clock.monotonic
            notes.append(BEGAN)
            too.append(BEGAN)
            began = now()
            try:
                outcome = await handler(run)
            except BaseException as error:
                kind = kind_of_error(run, error)
                bad(kind, began, now())
                too.append(kind)
                count_too()
                raise
            ended = now()
            try:
                good = outcome.status is _GOOD
            except AttributeError:
                good = False
            if good:
                self._ended = ended
                spans.append((ended - began) * SCALE)
                notes.append(SUCCEEDED)
                too.append(SUCCEEDED)
                if len(notes) >= BATCH or len(too) >= BATCH:
                    count()
                    count_too()
            else:
                kind = kind_of_outcome(outcome)
                bad(kind, began, ended)
                too.append(kind)
                count_too()
            return outcome

        return timed_and_counted

    # --- asking -------------------------------------------------------------------

    def snapshot(self) -> Timings:
        """All that is known, of one moment. In any thread; runs that begin and end meanwhile do not wait."""
        with self._lock:
            self._count()
            times = self._times()
            succeeded, failed, cancelled = self._merge(times)
            everything = _merged([succeeded, failed, cancelled])
            numbers, last = sum_of([self._kept, *(each.numbers for each in times)]), self._latest(times)
        return Timings(
            numbers, last, everything.snapshot(), succeeded.snapshot(), failed.snapshot(), cancelled.snapshot()
        )

    @property
    def total(self) -> float:
        """How long all runs that have ended took together."""
        return sum(digest.total for digest in self._each())

    @property
    def last(self) -> float:
        """How long the run took that ended last."""
        with self._lock:
            self._count()
            return self._latest(self._times())

    @property
    def average(self) -> float:
        """How long a run took on average."""
        each = self._each()
        count = sum(digest.count for digest in each)
        return sum(digest.total for digest in each) / count if count else 0.0

    @property
    def min(self) -> float:
        """How long the shortest run took."""
        return min((digest.min for digest in self._each() if digest.count), default=0.0)

    @property
    def max(self) -> float:
        """How long the longest run took."""
        return max(digest.max for digest in self._each())

    def percentile(self, q: float) -> float:
        """How long the quickest `q` percent of the runs took at most, by nearest rank and at most 1 % off.

        q: from 0 to 100. Raises ValueError otherwise.
        """
        if not 0.0 <= q <= 100.0:
            raise ValueError(f"no percentile {q!r}: give a number from 0 to 100, for instance 95")
        return _merged(self._each()).quantile(q / 100.0)

    @property
    def p50(self) -> float:
        """How long the quicker half of the runs took at most."""
        return self.percentile(50.0)

    @property
    def p95(self) -> float:
        """The same of 95 percent."""
        return self.percentile(95.0)

    @property
    def p99(self) -> float:
        """The same of 99 percent."""
        return self.percentile(99.0)

    def attach(self, source: TimedSource, /) -> None:
        """From now on what is told here includes the runs of `source`. Nothing happens where it does already."""
        self._attach(source)

    def detach(self, source: TimedSource, /) -> None:
        """Add what `source` has measured to the end, and let it go. Nothing happens where it is not attached."""
        self._detach(source)

    # --- counting -----------------------------------------------------------------

    def _note_bad(self, kind: int, began: float, ended: float) -> None:
        """A run did not succeed."""
        if kind != SKIPPED:
            self._ended = ended
            self._lists[kind - SUCCEEDED].append((ended - began) * SCALE)
        self._notes.append(kind)
        self._count_unless_somebody_does()

    def _timed(self, notes: bytes) -> None:
        latest = notes.rstrip(_UNTIMED)[-1:]
        for kind, spans, digest in zip(_TIMED, self._lists, self._digests, strict=True):
            taken = take(spans, notes.count(kind))
            if taken and latest == bytes((kind,)):
                self._last = taken[-1] / SCALE
            digest.add_scaled(taken)

    def _keep(self, source: Any) -> None:
        super()._keep(source)
        times: Times = source.times()
        for digest, theirs in zip(self._digests, times[:3], strict=True):
            digest.merge(theirs)
        if times.ended is not None and (self._ended is None or times.ended >= self._ended):
            self._last, self._ended = times.last, times.ended

    def _times(self) -> list[Times]:
        """Of all sources, each asked once. The lock is held."""
        return [source.times() for source in self._sources.values()]

    def _merge(self, times: list[Times]) -> list[Digest]:
        """Of runs that succeeded, failed, were cancelled; here and by the sources. The lock is held."""
        theirs = [(each.succeeded, each.failed, each.cancelled) for each in times]
        return [_merged(digests) for digests in zip(self._digests, *theirs, strict=True)]

    def _each(self) -> list[Digest]:
        with self._lock:
            self._count()
            return self._merge(self._times())

    def _latest(self, times: list[Times]) -> float:
        """The lock is held."""
        ended, span = self._ended, self._last
        for theirs in times:
            if theirs.ended is not None and (ended is None or theirs.ended >= ended):
                ended, span = theirs.ended, theirs.last
        return span


def _merged(digests: Iterable[Digest]) -> Digest:
    merged = Digest()
    for digest in digests:
        merged.merge(digest)
    return merged
