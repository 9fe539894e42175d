"""Cycle: one worker that runs its job again and again. What is the same on the loop and in a thread.

A cycle goes on until it is told to leave: then the run that is under way ends, and no other begins. It can be cut
short too: then that run is asked to end. It tells its floor of each run that did not simply succeed; those that
did are only timed, on its tape, and counted many at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from runcrew.job import Job, Outcome, Run, Status
from runcrew.pool.place import CycleRun
from runcrew.pool.tape import Tape
from runcrew.workers import BUSY, Worker

if TYPE_CHECKING:
    from runcrew.pool.floor import Floor

_IDLE: Final = "its worker was to leave, and it waited for something to do"


class Cycle:
    """One worker's way from its first run to its last. On the loop, but for what a thread's own says.

    It stands for the run that is under way as long as nobody looks at that (see `runcrew.job.Unmade`).
    """

    def __init__(self, floor: Floor, worker: Worker, job: Job) -> None:
        self.floor = floor
        self.worker = worker
        self.job = job
        #: What it is called with.
        self.args = floor.args_of(worker)
        #: Reads the time in the cheapest way there is: monotonic seconds.
        self.tick = floor.tick
        #: Whether no other run is to begin.
        self.told = False
        #: Why the run that is under way was asked to end, if it was.
        self.why: Status | None = None
        self.why_text = ""
        #: Whether a run is under way; and since when those on the tape follow one another without a pause.
        self.running = False
        self.since = 0.0
        self.tape = Tape()
        #: Whether runs are made, since the job looks at them.
        self.exact = False
        #: What the runs go by: where it is cleared, no other begins before all has been looked at.
        self.tokens: list[Any] = []
        #: Whether nobody waits for the end of the run under way any more.
        self.given_up = False
        #: How many runs have failed in a row.
        self.in_a_row = 0
        #: The run that is under way, where it has been made; and the one that was looked at first.
        self.run: CycleRun | None = None
        self._first: CycleRun | None = None
        #: How hard the run under way was asked to end.
        self._force = 0
        #: How many reasons there are why it has nothing to do; and whether its time counts no more. (For Occupancy.)
        self.waits = 0
        self.is_over = False
        #: The last outcome that was made for a chain; nobody else has made that one.
        self.outcome: Outcome[Any] | None = None
        #: Ends the pause after a failure.
        self._timer: asyncio.TimerHandle | None = None
        self._then: Callable[[], None] | None = None

    # --- the run under way ------------------------------------------------------------------

    @property
    def home(self) -> Any:
        """Whose work the runs are part of."""
        return self.floor.home

    def as_run(self) -> CycleRun:
        """The run that this code is part of. From here on all of them are made, and entered.

        What a run has left behind before that cannot be told from what another one has left: it gets the first that
        anybody has looked at.
        """
        run = self._first
        if run is None:
            run = self._first = self.new_run(self.since + self.tape.pending)
            self.exact = True
            self.tokens.clear()  # those that follow are made: this is the last of its kind
        return run

    def new_run(self, began: float) -> CycleRun:
        """The run that is under way, which began when `tick` gave that."""
        run = self.run = CycleRun(self, began + self.floor.anchor)
        if self.why is not None:  # who asks it to end says so first, and then looks at the run
            self._tell(run)
        return run

    def run_over(self) -> None:
        """The run has ended: what it has left behind says nothing of the next one."""
        run, self.run = self.run, None
        if run is not None:
            run.over = True
            if run.blocks:
                self.floor.occupancy.waits(self, -1)

    def named(self) -> Run:
        """The run that is under way, for a report."""
        return self.run or CycleRun(self, self.floor.now())

    def _tell(self, run: Run) -> None:
        if self.why is not None:
            run.ask_to_end(self.why, self.why_text)
        run.tell()

    def hear_idle(self, run: CycleRun, waits: bool) -> None:
        """The job waits for something to do, or goes on. In whatever task or thread it is."""
        if run.over:
            return
        if not waits:
            run.blocks -= 1
            if run.blocks == 0:
                self.floor.occupancy.waits(self, -1)
            return
        run.blocks += 1
        if run.blocks == 1:
            self.floor.occupancy.waits(self, 1)
        if self.told and not self.floor.keeps_idle:
            self.hear_idle(run, False)
            self.ask(Status.INTERRUPTED, _IDLE)
            raise asyncio.CancelledError(_IDLE)

    def look_up(self) -> None:
        """Have it look at what has changed, after the run that is under way."""
        self.tokens.clear()

    # --- what the floor asks ------------------------------------------------------------------

    def begin(self) -> None:
        """Begin with the first run, soon."""
        raise NotImplementedError

    def leave(self) -> None:
        """Begin no other run; one that only waits for something to do ends now."""
        self.told = True
        self.tokens.clear()
        self.end_pause()
        if not self.floor.keeps_idle:
            self.end_idle()

    def end_idle(self) -> None:
        """End the run under way, if it only waits for something to do."""
        if self.run is not None and self.run.blocks:
            self._end_run(Status.INTERRUPTED, _IDLE, 1)

    def cut(self, why: Status, text: str) -> None:
        """Ask the run that is under way to end; no other begins. Idempotent: the first reason stays."""
        self.told = True
        self.tokens.clear()
        self.end_pause()
        self._end_run(why, text, 2)

    def _end_run(self, why: Status, text: str, force: int) -> None:
        """Tell it, and cancel it; again only with more force, so that it is not cut off in its cleaning up."""
        self.ask(why, text)
        if force <= self._force:
            return
        self._force = force
        if self.run is not None:
            self._tell(self.run)
        if self.running:
            self._cancel()

    def ask(self, why: Status, text: str) -> bool:
        """Note why the run under way is to end. The first reason stays: False where there was one."""
        if self.why is not None:
            return False
        self.why, self.why_text = why, text
        return True

    def _cancel(self) -> None:
        """End the run that is under way, as far as that can be done from outside."""

    def give_up(self) -> None:
        """It does not end although it was cut: nobody waits for it any more."""
        raise NotImplementedError

    def where(self) -> str:
        """Where it is now, as text."""
        raise NotImplementedError

    @property
    def is_being_cancelled(self) -> bool:
        """Whether its task has been cancelled, by anybody."""
        return False

    @property
    def goes_on(self) -> bool:
        """Whether another run may begin."""
        return not self.told and self.worker.state is BUSY

    # --- pauses -------------------------------------------------------------------------------

    def pause(self, delay: float, then: Callable[[], None]) -> None:
        """Wait after a failure, and then go on; at once, if it is told to leave."""
        self._then = then
        self.floor.occupancy.waits(self, 1)
        self._timer = self.floor.later(delay, self.end_pause)

    def end_pause(self) -> None:
        """Go on now. Without effect where there is no pause."""
        then, self._then = self._then, None
        if then is not None:
            self.floor.occupancy.waits(self, -1)
            if self._timer is not None:
                self._timer.cancel()
            then()
