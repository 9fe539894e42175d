"""Cycles in threads: a plain job is called again and again in the thread of its worker.

The loop hears of that only when there is something to hear: a run that did not succeed, or the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import NoThread, gave_awaitable
from runcrew.job import Job, Outcome, Run, Status, enter, enter_unmade
from runcrew.pool.cycle import Cycle
from runcrew.pool.place import CycleRun, is_kind, trimmed
from runcrew.pool.tape import BATCH, GROUP, TINY
from runcrew.pool.turns import FEW, SLICE
from runcrew.workers import OwnThread, Worker

if TYPE_CHECKING:
    from runcrew.pool.floor import Floor

_GROUP: Final = [*range(1, GROUP + 1)]


class ThreadCycle(Cycle):
    """A plain job with nothing around it, in the thread of its worker."""

    def __init__(self, floor: Floor, worker: Worker, job: Job, call: Callable[[], object]) -> None:
        super().__init__(floor, worker, job)
        self._call = call
        # One context for all runs by this worker: what a job sets there stays. It sees what the making of the resource
        # has set; but the taking down, which happens there, sees no run.
        made_in = worker.context
        self._in = floor.home.work_context() if made_in is None else made_in.copy()
        #: What came of the last run, where that is for the loop to hear.
        self._heard: tuple[Run, Outcome[Any]] | None = None
        #: Whether it comes back after each run, since somebody wants to hear of it.
        self._single = False
        self._told_at = 0
        #: Whether the last runs were over at once.
        self._tiny = False
        #: What went wrong with this itself.
        self._fault: BaseException | None = None
        #: When the last of the runs ended that were timed one by one.
        self._ended = 0.0
        #: Whether time stands still while runs end: it is virtual. Then the loop is to let some of it pass. And how
        #: many runs had ended when it last passed.
        self._still = False
        self._moved = 0
        self._thread: OwnThread | None = None

    def begin(self) -> None:
        """See Cycle. On the loop, like all but what is in the thread."""
        if not self.goes_on:
            self.floor.ended(self)
            return
        self._heard = None
        self._single = self.floor.books.tells
        if self._single:
            self.since, self._told_at = self.tick(), self.tape.done
            self.floor.books.tell_begin(self.new_run(self.since))
        try:
            self._thread = self.floor.group.thread_of(self.worker)
            self._thread.hand([self])
        except NoThread as error:
            run = self.run or self.new_run(self.tick())
            delay = self.floor.run_ended(self, run, run.finished(Status.FAILED, self.floor.now(), error=error))
            self.run_over()
            self._go_on(delay)

    def _go_on(self, delay: float) -> None:
        if self.goes_on and delay:
            self.pause(delay, self.begin)
        else:
            self.begin()

    # --- in the thread ----------------------------------------------------------------------

    def do(self) -> None:
        """See Work."""
        try:
            self._in.run(self._work)
        except BaseException as error:
            self._fault = error

    def _work(self) -> None:
        if not self.exact:
            enter_unmade(self)
        books, closed = self.floor.books, self.floor.loop.is_closed
        while not self.told and not closed() and self._some():
            if books.tells or self._still:
                return

    def _some(self) -> bool:
        """As many runs as there is time for. Whether all of them have succeeded."""
        tape = self.tape
        self.running = True
        try:
            if self.exact or self._single:
                self._known()
            elif self._tiny:
                self._in_groups()
            else:
                self._each()
        except BaseException as error:
            if tape.done > tape.before:
                self.in_a_row = 0
            self._raised(trimmed(error))
            return False
        finally:
            self.floor.books.close(self)
        self._leave_run()
        self.in_a_row = 0
        return True

    def _each(self) -> None:
        """Runs, each timed by itself."""
        call, tick, tape = self._call, self.tick, self.tape
        first = began = ended = self.since = tick()
        ends, most = began + SLICE, FEW if self._still else BATCH
        while not self.told and len(tape.singles) < most:
            value = call()
            if value is not None:
                self._refuse_awaitable(value)
            ended = tick()
            tape.singles.append(ended - began)
            if ended >= ends or self.exact:
                break
            began = ended
        self._tiny = tape.is_tiny(ended - first)
        self._still = ended <= first

    def _known(self) -> None:
        """Runs that somebody looks at: each is entered, so that what it leaves behind knows it by itself."""
        first = began = ended = self.since = self.tick()
        ends, most = began + SLICE, FEW if self._still else BATCH
        while not self.told and len(self.tape.singles) < most:
            run = self.run
            if run is None:
                run = self.new_run(began)
            else:  # it was made on the loop, for those who hear of each
                run.queued = run.started = began + self.floor.anchor
            run.in_thread, run.thread = True, threading.get_ident()
            enter(run)
            value = self._call()
            if value is not None:
                self._refuse_awaitable(value)
            ended = self.tick()
            self.tape.singles.append(ended - began)
            if ended >= ends or self._single:
                break
            self._leave_run()
            began = ended
        self._ended = ended
        self._still = ended <= first

    def _leave_run(self) -> None:
        """The run has ended, if it was made. One that was told of is still to be told of."""
        if (run := self.run) is not None and not self._single:
            run.in_thread, run.thread = False, None
            self.run_over()

    def _in_groups(self) -> None:
        """Runs that are over at once. One that is not ends this."""
        call, tick, tape, n = self._call, self.tick, self.tape, 0
        began = self.since = tick()
        ends = began + SLICE
        try:
            while began < ends and len(tape.groups) < BATCH:
                self.tokens = tokens = _GROUP[:]
                if self.told:  # who tells it says so first, and clears these next
                    return
                for n in tokens:  # noqa: B007 - it counts
                    value = call()
                    if value is not None:
                        self._refuse_awaitable(value)
                ended = tick()
                if n < GROUP or ended - began > GROUP * TINY:
                    self._tiny = False
                    tape.add(ended - began, n)
                    return
                tape.groups.append(ended - began)
                began = ended
        except BaseException:
            if n > 1:
                tape.add_typical(n - 1)
            raise

    def _refuse_awaitable(self, value: object) -> None:
        error = gave_awaitable(self.job.name, value)
        if error is not None:
            raise error

    def _raised(self, error: BaseException) -> None:
        """The last run did not succeed."""
        run, now = self.run or self.new_run(self.since + self.tape.pending), self.floor.now()
        run.in_thread, run.thread = False, None
        if is_kind(error, asyncio.CancelledError) and self.why is not None:
            self._heard = run, run.ended_by_request(now)
        else:
            self._heard = run, run.finished(Status.FAILED, now, error=error)

    def as_run(self) -> CycleRun:
        """See Cycle."""
        run = super().as_run()
        if not run.over and run.thread is None:
            run.in_thread, run.thread = True, self._thread.ident if self._thread is not None else None
        return run

    # --- on the loop ------------------------------------------------------------------------

    def _hand_back(self) -> None:
        if self.given_up:
            return
        delay = 0.0
        if self._fault is not None:
            self.floor.broken(self, self._fault)
        elif self._heard is not None:
            delay = self._end_badly(*self._heard)
        elif self._single:
            self._tell_end()
        self.run_over()
        if self.tick() > self.since:
            self._moved = self.tape.done
        elif self.tape.done - self._moved >= FEW and self.goes_on and not delay:
            self.floor.later(SLICE, self.begin)  # see `Turns.stands_still`
            return
        self._go_on(delay)

    def _end_badly(self, run: Run, outcome: Outcome[Any]) -> float:
        if outcome.status is Status.FAILED and outcome.error is not None:
            outcome = self.floor.outcome_of(self, run, outcome.error)
        return self.floor.run_ended(self, run, outcome)

    def _tell_end(self) -> None:
        run = self.run
        assert run is not None, "its beginning was told"
        run.in_thread, run.thread = False, None
        if self.tape.done == self._told_at:  # it was told to leave before the thread came to it
            run.ask_to_end(Status.INTERRUPTED, "its worker was to leave, and it had not begun")
            self.floor.run_ended(self, run, run.ended_by_request(self.floor.now()))
        else:
            self.floor.books.tell_end(run, run.finished(Status.SUCCEEDED, self.floor.instant(self._ended)))

    def give_up(self) -> None:
        """See Cycle."""
        thread, worker = self._thread, self.worker
        if thread is None or not self.floor.books.give_up(self):
            return  # it has just ended, and is on its way back
        run = self.run or self.new_run(self.since)
        run.tell()
        run.in_thread, run.thread = False, None
        self.floor.left_alone(worker, run, thread)
        self.floor.given_up(self)
        thread.abandon(self)
        worker.work = None
        self.floor.group.abandon(worker)

    def lost(self) -> None:
        """Its thread has died of something: nothing comes back."""
        self.floor.books.give_up(self)
        self.given_up = True
        self.floor.given_up(self)
        self.floor.ended(self)

    def where(self) -> str:
        """See Cycle."""
        return "" if self._thread is None else self._thread.stack()
