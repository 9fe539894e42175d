"""Plain jobs that are handed over ahead: to the threads of their workers, or to their processes.

Who is handed one tiny job at a time spends its life waking up. So a worker is handed as many as about a millisecond of
work, by the measured length of runs: long jobs one by one, tiny ones in batches. What was handed over and has not begun
still counts as waiting. It is taken back when somebody wants it: the one who cancels it, a stop; and, where the job
before it turns out to be a long one, another worker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import AbandonedCall
from runcrew.job import Run, Status
from runcrew.queue.ticket import More, Ticket
from runcrew.workers import BUSY, OwnThread, Worker

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

#: So much expected work is handed over ahead, in seconds; and so many jobs at most.
AHEAD: Final = 0.001
MOST: Final = 64

#: How long the job in front may take before those behind it are taken back, in seconds.
_PATIENCE: Final = 2 * AHEAD


class Line:
    """What one worker has been handed and has not brought back, in order. It is the worker's work."""

    __slots__ = ("ahead", "halted", "handed", "low", "now", "progress", "worker")

    def __init__(self, ahead: Ahead, worker: Worker) -> None:
        self.ahead = ahead
        self.now = ahead.now
        self.worker = worker
        self.handed: dict[Ticket[Any], Any] = {}
        #: With so few left it could do with more.
        self.low = 0
        #: Whether anything has come back since somebody last looked.
        self.progress = True
        #: Set after an error that may say that the resource is faulty: nothing more begins before the loop has looked.
        self.halted = False

    def where(self) -> str:
        """Where the job is that is under way, as text."""
        raise NotImplementedError

    def waits(self, ticket: Ticket[Any]) -> bool:
        """Whether this one, which is in the line, has not begun, as far as we know."""
        raise NotImplementedError

    def begun(self, ticket: Ticket[Any]) -> float:
        """When it has begun."""
        raise NotImplementedError

    @property
    def not_begun(self) -> int:
        """How many have not begun, as far as we know."""
        raise NotImplementedError


class Ahead:
    """Hands the plain jobs of one desk to where they are done."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.now = desk.now
        recipe = desk.setup.recipe
        #: Whether an error may mean that the resource is faulty.
        self.cautious = desk.setup.healthy is not None or (recipe is not None and recipe.has_check)
        #: The length of runs, in seconds: an average that forgets.
        self.mean = AHEAD
        #: Those that could do with more.
        self._hungry: dict[Line, None] = {}
        #: Those that were handed more than one.
        self._long: dict[Line, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: What was given up, by its worker: until that is gone, with its resource.
        self.left: dict[Worker, AbandonedCall] = {}

    def learn(self, length: float) -> None:
        """A run took so long: a long one counts at once, short ones by and by."""
        self.mean += (length - self.mean) / (8 if length < self.mean else 2)

    def left_alone(self, worker: Worker, run: Run, thread: OwnThread) -> AbandonedCall:
        """The thread of this worker was left to itself, with this run."""
        given = self.left[worker] = AbandonedCall(repr(run), thread.name, self.now(), thread.ident)
        return given

    # --- what depends on where ------------------------------------------------------------

    def _line(self, worker: Worker) -> Line:
        """A new line for this worker."""
        raise NotImplementedError

    def _hand(self, line: Line, tickets: list[Ticket[Any]], first: Ticket[Any] | None = None) -> None:
        """Hand these over. `first`: has been told of already."""
        raise NotImplementedError

    def window(self, line: Line) -> int:
        """How many this line may be handed in all."""
        return max(1, min(MOST, int(AHEAD / self.mean))) if self.mean > 0 else MOST

    def take_back(self, line: Line) -> None:
        """What has not begun waits again, before all others of its level."""
        raise NotImplementedError

    def refresh(self, line: Line) -> None:
        """Find out what has come back that nobody has told of yet."""

    def relieve(self, line: Line) -> None:
        """The first one has not come back for long: what is behind it waits again, for another worker. But where not
        even the first has begun, nobody has come to run it, and no other would sooner."""
        if not line.waits(next(iter(line.handed))):
            self.take_back(line)

    def has_begun(self, ticket: Ticket[Any], line: Line) -> bool | None:
        """Whether it has begun; where it has not, it is in the line no more, and never will. None: it has ended."""
        raise NotImplementedError

    def end_begun(self, ticket: Ticket[Any], line: Line, said: str) -> None:
        """The time of one that has begun is up."""
        raise NotImplementedError

    def tell(self, ticket: Ticket[Any], line: Line) -> None:
        """One that has begun was asked to end."""

    def lost(self, line: Line, said: str) -> None:
        """The worker has to end: what has not begun waits again, what has is asked to end."""
        raise NotImplementedError

    def give_up(self, line: Line, said: str, only: Ticket[Any] | None = None) -> None:
        """It has been told, in good time: nobody waits for it any more."""
        raise NotImplementedError

    # --- handing over ---------------------------------------------------------------------

    def begin(self, worker: Worker, ticket: Ticket[Any]) -> None:
        """This worker takes this one, and as many of those behind it as make up its share."""
        line = worker.work = self._line(worker)
        more = [] if worker.group is not self.desk.group else self._share(self.window(line) - 1)
        self._hand(line, [ticket, *more], ticket)

    def fill(self) -> None:
        """The first that has little left takes more."""
        line = next(iter(self._hungry))
        del self._hungry[line]
        if line.worker.work is line and line.worker.state is BUSY:
            more = self._share(self.window(line) - len(line.handed))
            if more:
                self._hand(line, more)

    @property
    def not_begun(self) -> int:
        """How many have been handed over and have not begun."""
        return sum(line.not_begun for line in self._long)

    @property
    def has_places(self) -> bool:
        """Whether one could do with more, and a job that it can do is next."""
        levels = self.desk.levels
        return bool(self._hungry) and not levels.owes and (first := levels.first()) is not None and first._plain

    def _share(self, most: int) -> list[Ticket[Any]]:
        """Of those that wait, as many as `most`; but not what the other free workers can begin at once."""
        desk = self.desk
        return desk.levels.pop_plain(self.now(), min(most, desk.levels.count // (len(desk.free) + 1)))

    def _failed(self, line: Line, tickets: list[tuple[Ticket[Any], BaseException]]) -> None:
        """These could not be handed over."""
        for ticket, error in tickets:
            line.handed.pop(ticket, None)
            self.desk.ends.next_after(ticket, Status.FAILED, error, "")
        if not line.handed:
            self.desk.call_soon(self._empty, line)

    def _watch(self, line: Line) -> None:
        """It was handed more than one."""
        if line not in self._long:
            self._long[line] = None
            if self._timer is None:
                self._timer = self.desk.later(self._patience, self._look)

    def _look(self) -> None:
        """Take back what waits behind a job that turns out to be a long one."""
        self._timer = None
        for line in list(self._long):
            self.refresh(line)
            if not line.progress and line.handed:
                self.relieve(line)
            if len(line.handed) < 2:
                del self._long[line]
            line.progress = False
        if self._long:
            self._timer = self.desk.later(self._patience, self._look)
        self.desk.pump()

    @property
    def _patience(self) -> float:
        return max(_PATIENCE, 4 * self.mean) if self.mean < AHEAD * 2 else _PATIENCE

    def stop(self) -> None:
        """Look no more after what was handed over."""
        if self._timer is not None:
            self._timer.cancel()

    # --- coming back ------------------------------------------------------------------------

    def look_after(self, line: Line) -> None:
        """There is little or nothing left in this line; its worker has been told to leave; or it has halted."""
        worker, desk = line.worker, self.desk
        if worker.state is not BUSY or line.halted:
            self.take_back(line)  # all that has not begun: then it may go on with what comes
            line.halted = False
            desk.pump_soon()
        elif line.handed and desk.levels.count and worker.group is desk.group:
            self._hungry[line] = None
            desk.pump_soon()
        self._empty(line)

    def _empty(self, line: Line) -> None:
        """Something was taken out of the line: where nothing is left in it, its worker has ended its work."""
        if not line.handed and line.worker.work is line:
            self._hungry.pop(line, None)
            self.desk.release(line.worker)

    # --- ending it before it ends -----------------------------------------------------------

    def cancel(self, ticket: Ticket[Any], line: Line) -> None:
        """The run was asked to end, and its Run told. What has not begun ends now."""
        if ticket not in line.handed:
            return
        begun = self.has_begun(ticket, line)
        if begun:
            self.tell(ticket, line)
        elif begun is not None:
            self.desk.ends.asked(ticket, ticket.more())
            self._empty(line)

    def _limit(self, ticket: Ticket[Any], more: More, line: Line) -> None:
        if more.timeout is not None:
            more.timer = self.desk.later(more.timeout, self._time_up, ticket, line)

    def _time_up(self, ticket: Ticket[Any], line: Line) -> None:
        more = ticket.more()
        more.timer = None
        if ticket not in line.handed or ticket._status is not None or more.timeout is None:
            return
        left = more.timeout if line.waits(ticket) else line.begun(ticket) + more.timeout - self.now()
        if left > 0:  # it did not begin when it was handed over
            more.timer = self.desk.later(left, self._time_up, ticket, line)
        else:
            self.cut(ticket, line, self.desk.ends.too_long(more))

    def cut(self, ticket: Ticket[Any], line: Line, said: str) -> None:
        """Its time is up: it never begins; or it is ended, as far as it can be."""
        if ticket not in line.handed:
            return
        begun = self.has_begun(ticket, line)
        if begun:
            self.end_begun(ticket, line, said)
        if begun is None or begun:
            return
        desk = self.desk
        desk.ends.next_after(ticket, Status.TIMED_OUT, desk.ends.timeout_error(ticket, said), said)
        self._empty(line)
        desk.look_if_drained()
