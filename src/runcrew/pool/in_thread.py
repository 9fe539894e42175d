"""Cycles in threads: a plain job is called again and again in the thread of its worker.

The loop hears of that only when there is something to hear: a run that did not succeed, or the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import NoThread, gave_awaitable
from runcrew.job import Job, Outcome, Run, Status, enter_unmade
from runcrew.pool.cycle import BATCH, Cycle
from runcrew.workers import OwnThread, Worker

if TYPE_CHECKING:
    from runcrew.pool.floor import Floor

#: How long runs follow one another before the rest is looked at, in seconds.
SLICE: Final = 0.001

#: Runs that take less than that, in seconds, are timed in groups of so many: reading the time would cost as much as
#: they do. Where a group takes long all the same, one of its runs has: the others are taken to be as short as before.
TINY: Final = 2e-6
GROUP: Final = 16

_GROUP: Final = [*range(1, GROUP + 1)]


class ThreadCycle(Cycle):
    """A plain job with nothing around it, in the thread of its worker."""

    def __init__(self, floor: Floor, worker: Worker, job: Job, call: Callable[[], object]) -> None:
        super().__init__(floor, worker, job)
        self._call = call
        self._in = self.context()
        #: What came of the last run, where that is for the loop to hear.
        self._heard: tuple[Run, Outcome[Any]] | None = None
        #: Whether it comes back after each run, since somebody wants to hear of it.
        self._one_by_one = False
        #: How many runs are timed together, how long each of them has taken, and whether that is not to be done.
        self._size = 1
        self._typical = 0.0
        self._alone = False
        self._thread: OwnThread | None = None

    def begin(self) -> None:
        """See Cycle. On the loop, like all but what is in the thread."""
        if not self.goes_on:
            self.floor.ended(self)
            return
        self._heard = None
        self._one_by_one = self.floor.books.tells
        if self._one_by_one:
            self.since = self.tick()
            self.floor.books.tell_begin(self.as_run())
        try:
            self._thread = self.floor.group.thread_of(self.worker)
            self._thread.hand([self])
        except NoThread as error:
            run = self.as_run()
            self._go_on(self.floor.run_ended(self, run, run.finished(Status.FAILED, self.floor.now(), error=error)))

    def _go_on(self, delay: float) -> None:
        if self.goes_on and delay:
            self.pause(delay, self.begin)
        else:
            self.begin()

    # --- in the thread ----------------------------------------------------------------------

    def do(self) -> None:
        """See Work."""
        self._in.run(self._work)

    def _work(self) -> None:
        enter_unmade(self)
        books, closed = self.floor.books, self.floor.loop.is_closed
        while not self.told and not closed() and self._some():
            if books.tells:
                return

    def _some(self) -> bool:
        """As many runs as there is time for. Whether all of them have succeeded."""
        call, now = self._call, self.tick
        began = self.since = now()
        ends, n = began + SLICE, 0
        self.running = True
        try:
            while began < ends and len(self.times) < BATCH:
                tokens: list[int] = _GROUP[: self._size]
                self.tokens = tokens
                if self.told:  # who tells it says so first, and clears these next
                    break
                n = 0
                for n in tokens:  # noqa: B007 - it counts
                    value = call()
                    if value is not None and (error := gave_awaitable(self.job.name, value)) is not None:
                        raise error
                ended = now()
                self._count(ended - began, n)
                began = ended
                if self._one_by_one:
                    break
        except BaseException as error:
            self._raised(error, began, n)
            return False
        finally:
            self.floor.books.close(self)
        self.in_a_row = 0
        return True

    def _count(self, took: float, n: int) -> None:
        """So many runs have taken that together."""
        each = took / n if n else 0.0
        if each < TINY:
            self._typical = each
            self._size = 1 if self._alone or self._one_by_one else GROUP
            self.times += [each] * n
        else:
            self._size = 1
            if n > 1:
                self.times += [self._typical] * (n - 1)
            self.times.append(max(0.0, took - self._typical * (n - 1)))

    def _raised(self, error: BaseException, began: float, n: int) -> None:
        """The last of `n` runs did not succeed."""
        if n > 1:
            self.times += [self._typical] * (n - 1)
        if self.times:
            self.in_a_row = 0
        self._size = 1
        trace = error.__traceback__
        error = error.with_traceback(None if trace is None else trace.tb_next)  # it begins in the user's code
        run, now = self.as_run(), self.floor.now()
        if isinstance(error, asyncio.CancelledError) and self.why is not None:
            self._heard = run, run.ended_by_request(now)
        else:
            self._heard = run, run.finished(Status.FAILED, now, error=error)

    def as_run(self) -> Run:
        """See Cycle."""
        if self._size > 1:  # runs that somebody looks at are told apart: the group ends with this one
            self._alone = True
            self.tokens.clear()
        return super().as_run()

    # --- on the loop ------------------------------------------------------------------------

    def _hand_back(self) -> None:
        if self.given_up:
            return
        delay = 0.0
        if self._heard is not None:
            run, outcome = self._heard
            error = outcome.error
            if outcome.status is Status.FAILED and error is not None:
                outcome = self.floor.outcome_of(self, run, error)
            delay = self.floor.run_ended(self, run, outcome)
        elif self._one_by_one and (told := self._run) is not None:
            self.floor.books.tell_end(told, told.finished(Status.SUCCEEDED, self.floor.now()))
        self._go_on(delay)

    def give_up(self) -> None:
        """See Cycle."""
        thread, worker = self._thread, self.worker
        if thread is None or not self.floor.books.give_up(self):
            return  # it has just ended, and is on its way back
        run = self.as_run()
        run.tell()
        self.floor.left_alone(worker, run, thread)
        self.floor.given_up(self)
        thread.abandon(self)
        worker.work = None
        self.floor.group.abandon(worker)

    def where(self) -> str:
        """See Cycle."""
        return "" if self._thread is None else self._thread.stack()
