"""Counter: how many runs have begun and how they ended, as middleware that is cheap and may be shared by everybody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from functools import reduce
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar

from runcrew.abc import Handler
from runcrew.job import Outcome, Run, Status
from runcrew.policies.retrying import being_cancelled

T = TypeVar("T")

#: So many notes are kept as they came before they become numbers, all together.
BATCH: Final = 2048

# What is noted of a run. Small numbers: a whole batch of them is counted as bytes.
BEGAN: Final = 0
SUCCEEDED: Final = 1
FAILED: Final = 2
CANCELLED: Final = 3
#: It never began on purpose. Counts as cancelled, and took no time.
SKIPPED: Final = 4

_KINDS: Final[dict[Any, int]] = {
    Status.SUCCEEDED: SUCCEEDED,
    Status.FAILED: FAILED,
    Status.TIMED_OUT: FAILED,
    Status.CANCELLED: CANCELLED,
    Status.INTERRUPTED: CANCELLED,
    Status.SKIPPED: SKIPPED,
}
#: Looked up once: a member of an Enum is no ordinary attribute.
_GOOD: Final = Status.SUCCEEDED


class Numbers(NamedTuple):
    """How many runs there have been, all of one moment."""

    started: int = 0
    #: Those that have ended, in whatever way.
    finished: int = 0
    #: Of these, those that failed or timed out.
    failed: int = 0
    #: Of these, those that were cancelled, interrupted or skipped.
    cancelled: int = 0

    @property
    def running(self) -> int:
        """How many are under way; never negative."""
        return self.started - self.finished

    @property
    def succeeded(self) -> int:
        """How many of the finished ones succeeded."""
        return self.finished - self.failed - self.cancelled


class Source(Protocol):
    """Who keeps the numbers of its runs itself, in place of a counter around each of them."""

    def numbers(self) -> Numbers:
        """The numbers as they stand, all of one moment. Called in any thread; it must not ask the counter."""
        ...


class Tally:
    """What Counter and Elapsed share: notes of runs, taken in from any thread, and the numbers that come of them."""

    # A note is an `append` to one list, which is one step that no thread sees half done, with the GIL and without
    # it: so what was noted has one order, and whatever is taken from the front of it is of one moment. The list is
    # never replaced; those who take from it do so one after the other, by a lock.

    __slots__ = ("__weakref__", "_busy", "_kept", "_lock", "_notes", "_sources")

    def __init__(self) -> None:
        self._notes: list[int] = []
        #: What has been counted here; replaced as a whole.
        self._kept = Numbers()
        #: By their ids.
        self._sources: dict[int, Any] = {}
        # Who has it may take it again: a signal handler may ask while its own thread is counting.
        self._lock = threading.RLock()
        self._busy = False

    def __repr__(self) -> str:
        now = self._numbers()
        return f"<{type(self).__name__}: {now.started} started, {now.finished} finished, {now.failed} failed>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not copied: a copy would not hear of what this one is around")

    # --- asking -------------------------------------------------------------------

    @property
    def started(self) -> int:
        """How many runs have begun."""
        return self._numbers().started

    @property
    def finished(self) -> int:
        """How many have ended, in whatever way."""
        return self._numbers().finished

    @property
    def failed(self) -> int:
        """How many have failed or timed out, or met middleware that raised."""
        return self._numbers().failed

    @property
    def cancelled(self) -> int:
        """How many were cancelled, interrupted or skipped."""
        return self._numbers().cancelled

    @property
    def succeeded(self) -> int:
        """How many have succeeded."""
        return self._numbers().succeeded

    @property
    def running(self) -> int:
        """How many are under way; never negative."""
        return self._numbers().running

    # --- counting -----------------------------------------------------------------

    def _numbers(self) -> Numbers:
        with self._lock:
            self._count()
            return self._summed()

    def _summed(self) -> Numbers:
        """What has been counted here and by the sources. The lock is held."""
        numbers = self._kept
        for source in self._sources.values():
            numbers = _sum(numbers, source.numbers())
        return numbers

    def _attach(self, source: Any) -> None:
        with self._lock:
            self._sources[id(source)] = source

    def _detach(self, source: Any) -> None:
        with self._lock:
            if id(source) in self._sources:
                self._keep(source)
                del self._sources[id(source)]

    def _keep(self, source: Any) -> None:
        """Add what a source has counted, for good. The lock is held."""
        self._kept = _sum(self._kept, source.numbers())

    def _count_unless_somebody_does(self) -> None:
        if len(self._notes) >= BATCH and self._lock.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._lock.release()

    def _count(self) -> None:
        """Count what was noted. The lock is held."""
        if self._busy:  # this very thread is at it, further out
            return
        self._busy = True
        try:
            taken = take(self._notes)
            notes = bytes(taken)
            self._timed(notes)
            self._kept = _sum(self._kept, numbers_of(notes))
        finally:
            self._busy = False

    def _timed(self, notes: bytes) -> None:
        """Hears what is being counted. The lock is held."""

    def _and(self, counter: Counter, handler: Handler) -> Handler | None:
        """One layer around `handler` for this one and for `counter`, if it can make one."""
        return None


class Counter(Tally):
    """Counts runs: `counter = rc.Counter()`, then `middleware=[counter]`, or `rc.wrap(job, counter)`.

    One may be around any number of jobs, in any number of services, loops and threads; it counts them all
    together, and can be read in any thread. Where it is around a retry, a run counts once; inside, each attempt
    counts. A run that is cancelled, or whose handler raises, has finished like any other.
    """

    __slots__ = ()

    def __call__(self, handler: Handler, /) -> Handler:
        """Wrap a handler so that its runs are counted here."""
        within = layer_of(handler)
        both = None if within is None else within[0]._and(self, within[1])
        if both is not None:
            return both
        notes, count = self._notes, self._count_unless_somebody_does

        async def counted(run: Run) -> Outcome[Any]:
            notes.append(BEGAN)  # written so, it is a single instruction
            try:
                outcome = await handler(run)
            except BaseException as error:
                notes.append(kind_of_error(run, error))
                count()
                raise
            try:
                good = outcome.status is _GOOD
            except AttributeError:
                good = False
            notes.append(SUCCEEDED if good else kind_of_outcome(outcome))
            if len(notes) >= BATCH:
                count()
            return outcome

        return as_layer(counted, self, handler)

    def snapshot(self) -> Numbers:
        """All the numbers, of one moment. In any thread; runs that begin and end meanwhile do not wait."""
        return self._numbers()

    def attach(self, source: Source, /) -> None:
        """From now on these numbers include those of `source`. Nothing happens where they do already."""
        self._attach(source)

    def detach(self, source: Source, /) -> None:
        """Add the final numbers of `source`, and let it go. Nothing happens where it is not attached."""
        self._detach(source)


def as_layer(layer: Handler, of: Tally, around: Handler) -> Handler:
    """Note on a layer what it does: where two of these meet, one can do the work of both, for half of the price."""
    vars(layer)["runcrew_layer"] = of, around
    return layer


def layer_of(handler: Handler) -> tuple[Tally, Handler] | None:
    """Whose layer this handler is, and around what; None: somebody else's."""
    noted: tuple[Tally, Handler] | None = getattr(handler, "runcrew_layer", None)
    return noted


def numbers_of(notes: bytes) -> Numbers:
    """What a batch of notes comes to."""
    began = notes.count(BEGAN)
    return Numbers(began, len(notes) - began, notes.count(FAILED), notes.count(CANCELLED) + notes.count(SKIPPED))


def take(notes: list[T], count: int | None = None) -> list[T]:
    """The first `count` of the list (None: all that it has now), taken out of it; others may go on appending."""
    taken = notes[:count]
    del notes[: len(taken)]
    return taken


def sum_of(several: Iterable[Numbers]) -> Numbers:
    """All of them together."""
    return reduce(_sum, several, Numbers())


def _sum(a: Numbers, b: Numbers) -> Numbers:
    return Numbers(a.started + b.started, a.finished + b.finished, a.failed + b.failed, a.cancelled + b.cancelled)


def kind_of_outcome(outcome: Any) -> int:
    """What an outcome counts as. What is none, from middleware of others, is a failure."""
    try:
        return _KINDS[outcome.status]
    except (AttributeError, KeyError, TypeError):
        return FAILED


def kind_of_error(run: Run, error: BaseException) -> int:
    """What a handler's end by an error counts as: cancelled where somebody asked for that, failed otherwise."""
    if isinstance(error, GeneratorExit):  # the coroutine is thrown away
        return CANCELLED
    if not isinstance(error, asyncio.CancelledError):
        return FAILED
    if run.why is not None:
        return CANCELLED
    # Told to end, and nobody asked for it: the time of the attempt is up.
    return FAILED if run.told or not being_cancelled() else CANCELLED
