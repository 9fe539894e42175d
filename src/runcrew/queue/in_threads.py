"""Plain jobs in the threads of their workers.

A thread that is handed one tiny job at a time spends its life waking up. So a worker is handed as many as about a
millisecond of work, by the measured length of runs: long jobs one by one, tiny ones in batches. What was handed
over and has not begun still counts as waiting. It is taken back when somebody wants it: the one who cancels it, a
stop; and, where the job before it turns out to be a long one, another worker.

How the two sides agree. Two marks of a `Handed` say how far it has come, and each is removed by one operation that
only one thread can win: deleting `_take` begins the job, or takes it back; deleting `_live` ends it, or gives it up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import AbandonedCall, NoThread
from runcrew.errors import brief
from runcrew.job import Run, Status, enter_unmade
from runcrew.queue.ticket import More, Ticket
from runcrew.workers import BUSY, OwnThread, Unfit, Worker

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

_log: Final = logging.getLogger("runcrew")

#: So much expected work is handed over ahead, in seconds; and so many jobs at most.
AHEAD: Final = 0.001
MOST: Final = 64

#: How long the job in front may take before those behind it are taken back, in seconds.
_PATIENCE: Final = 2 * AHEAD


class Line:
    """What one worker's thread has been handed and has not brought back, in order. It is the worker's work."""

    __slots__ = ("call", "halted", "handed", "low", "now", "progress", "thread", "threads", "worker")

    def __init__(self, threads: InThreads, worker: Worker, thread: OwnThread) -> None:
        self.threads = threads
        self.call = threads.call
        self.now = threads.now
        self.worker = worker
        self.thread = thread
        self.handed: dict[Ticket[Any], Handed] = {}
        #: With so few left the thread could do with more.
        self.low = 0
        #: Whether anything has come back since somebody last looked.
        self.progress = True
        #: Set by the thread after an error that may say that the resource is faulty: it begins nothing more before
        #: the loop has looked at it.
        self.halted = False


class Handed:
    """One job on its way to a thread and back."""

    __slots__ = ("_live", "_take", "ended", "error", "line", "started", "ticket", "value")

    # Of these nobody asks before they are there: when it ended, what it returned.
    ended: float
    value: object

    def __init__(self, line: Line, ticket: Ticket[Any]) -> None:
        self.line = line
        self.ticket = ticket
        self._take = self._live = True
        self.started = 0.0
        self.error: BaseException | None = None

    def do(self) -> None:
        """In the thread."""
        ticket, line = self.ticket, self.line
        if line.halted:
            return
        try:
            del self._take
        except AttributeError:  # it has been taken back
            return
        context = ticket._context
        assert context is not None
        ticket._started = self.started = line.now()
        error: BaseException | None = None
        value: Any = None
        try:
            value = context.run(line.call, ticket, line.worker)
        except BaseException as raised:
            error = raised
        self.ended = line.now()
        if error is not None:
            trace = error.__traceback__
            for _ in range(2):  # it begins in the user's code, and not here
                trace = None if trace is None else trace.tb_next
            self.error = error.with_traceback(trace)
            line.halted = line.threads.cautious and isinstance(error, Exception)
        self.value = value
        try:
            del self._live
        except AttributeError:  # it has been given up
            if error is not None and not isinstance(error, asyncio.CancelledError):
                _log.warning("%s failed after it had been given up: %s", ticket.name, brief(error), exc_info=error)
            self.value = self.error = None

    def _hand_back(self) -> None:
        """On the loop: it has been done, or taken back, or given up before."""
        line, ticket = self.line, self.ticket
        handed, threads = line.handed, line.threads
        if handed.get(ticket) is not self:
            return  # somebody else has settled it
        if not self.started:  # the thread has halted before it
            threads.take_back(line)
            threads.look_after(line)
            return
        del handed[ticket]
        line.progress = True
        started, ended, kind = self.started, self.ended, type(self.value)
        if ticket._more is None and self.error is None and not hasattr(kind, "__await__"):
            threads.desk.succeeded(ticket, self.value, started, ended)
        else:
            threads.settle(self)
        left = len(handed)
        if left == line.low or not left or line.halted or line.worker.state is not BUSY:
            threads.learn(ended - started)
            threads.look_after(line)

    def take_back(self) -> bool:
        """On the loop: whether it had not begun; then it never does."""
        try:
            del self._take
        except AttributeError:
            return False
        return True

    def give_up(self) -> bool:
        """On the loop: whether it was under way; then what comes of it is nobody's any more."""
        try:
            del self._live
        except AttributeError:
            return False
        return True

    @property
    def waits(self) -> bool:
        """Whether it has not begun."""
        return hasattr(self, "_take")


class InThreads:
    """Hands the plain jobs of one desk to threads."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.now = desk.now
        recipe = desk.setup.recipe
        self.call: Callable[[Ticket[Any], Worker], Any] = _bare
        if recipe is not None:
            self.call = _tried if recipe.has_check and not recipe.is_async else _with_resource
        #: Whether an error may mean that the resource is faulty.
        self.cautious = desk.setup.healthy is not None or (recipe is not None and recipe.has_check)
        #: The length of runs, in seconds: an average that forgets.
        self.mean = AHEAD
        #: Those whose thread could do with more.
        self._hungry: dict[Line, None] = {}
        #: Those that were handed more than one.
        self._long: dict[Line, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: What was given up, by its worker: until that is gone, with its resource.
        self.left: dict[Worker, AbandonedCall] = {}

    def learn(self, length: float) -> None:
        """A run took so long: a long one counts at once, short ones by and by."""
        self.mean += (length - self.mean) / (8 if length < self.mean else 2)

    # --- handing over ---------------------------------------------------------------------

    @property
    def window(self) -> int:
        """How many make up what may be handed over ahead."""
        return max(1, min(MOST, int(AHEAD / self.mean))) if self.mean > 0 else MOST

    def begin(self, worker: Worker, ticket: Ticket[Any]) -> None:
        """This worker takes this one, and as many of those behind it as make up its share."""
        thread = worker.group.thread_of(worker)
        line = worker.work = Line(self, worker, thread)
        more = [] if worker.group is not self.desk.group else self._share(self.window - 1)
        self._hand(line, [ticket, *more], ticket)

    def fill(self) -> None:
        """The first thread that has little left takes more."""
        line = next(iter(self._hungry))
        del self._hungry[line]
        if line.worker.work is line and line.worker.state is BUSY:
            more = self._share(self.window - len(line.handed))
            if more:
                self._hand(line, more)

    @property
    def not_begun(self) -> int:
        """How many have been handed over and have not begun."""
        return sum(handed.waits for line in self._long for handed in tuple(line.handed.values()))

    @property
    def has_places(self) -> bool:
        """Whether a thread could do with more, and one that it can do is next."""
        levels = self.desk.levels
        return bool(self._hungry) and not levels.owes and (first := levels.first()) is not None and first._plain

    def _share(self, most: int) -> list[Ticket[Any]]:
        """Of those that wait, as many as `most`; but not what the other free workers can begin at once."""
        desk = self.desk
        return desk.levels.pop_plain(self.now(), min(most, desk.levels.count // (len(desk.free) + 1)))

    def _hand(self, line: Line, tickets: list[Ticket[Any]], first: Ticket[Any] | None = None) -> None:
        """`first`: has been told of already."""
        desk, worker = self.desk, line.worker
        handed = line.handed
        works: list[Handed] = []
        for ticket in tickets:
            ticket._worker = worker
            ticket._started = None
            work = handed[ticket] = Handed(line, ticket)
            works.append(work)
            more = ticket._more
            if more is not None and more.timeout is not None:
                more.timer = desk.later(more.timeout, self._time_up, ticket, line)
            if desk.books.tells and ticket is not first:
                desk.books.tell_begin(ticket, worker.number)
        line.low = len(handed) // 2
        try:
            line.thread.hand(works)
        except NoThread as error:
            self._no_thread(line, tickets, error)
            return
        if len(handed) > 1 and line not in self._long:
            self._long[line] = None
            if self._timer is None:
                self._timer = desk.later(_PATIENCE, self._look)

    def _no_thread(self, line: Line, tickets: list[Ticket[Any]], error: NoThread) -> None:
        for ticket in tickets:
            del line.handed[ticket]
            self.desk.ends.next_after(ticket, Status.FAILED, error, "")
        if not line.handed:
            self.desk.call_soon(self.desk.release, line.worker)

    def _look(self) -> None:
        """Take back what waits behind a job that turns out to be a long one."""
        self._timer = None
        for line in list(self._long):
            # Where not even the first has begun, the thread has not come to run, and no other would sooner.
            if not line.progress and line.handed and not next(iter(line.handed.values())).waits:
                self.take_back(line)
            if len(line.handed) < 2:
                del self._long[line]
            line.progress = False
        if self._long:
            self._timer = self.desk.later(_PATIENCE, self._look)
        self.desk.pump()

    def take_back(self, line: Line) -> None:
        """What has not begun waits again, before all others of its level."""
        for ticket, handed in reversed(list(line.handed.items())):
            if ticket._status is None and handed.take_back():
                del line.handed[ticket]
                self.desk.ends.put_back(ticket)

    # --- coming back ------------------------------------------------------------------------

    def look_after(self, line: Line) -> None:
        """There is little or nothing left in this line; its worker has been told to leave; or its thread has halted."""
        worker, desk = line.worker, self.desk
        if worker.state is not BUSY or line.halted:
            self.take_back(line)  # all that has not begun: then the thread may go on with what comes
            line.halted = False
            desk.pump_soon()
        elif line.handed and desk.levels.count and worker.group is desk.group:
            self._hungry[line] = None
            desk.pump_soon()
        self._empty(line)

    def settle(self, handed: Handed) -> None:
        """What came of one that is no plain success."""
        desk, error, ticket, line = self.desk, handed.error, handed.ticket, handed.line
        more = ticket.more()
        self._out_of_thread(more)
        desk.ends.began(ticket, more, handed.started)
        if ticket._status is not None:
            pass
        elif error is None:
            desk.carrier.plain_value(ticket, more, handed.value, handed.ended)
        elif isinstance(error, Unfit):
            desk.carrier.found_unfit(ticket, line.worker, error)
        elif isinstance(error, asyncio.CancelledError) and more.why is not None:
            desk.ends.asked(ticket, more)
        else:
            desk.ends.settle_failed(ticket, line.worker, Status.FAILED, error)

    def _out_of_thread(self, more: More) -> None:
        if more.run is not None:
            more.run.in_thread, more.run.thread = False, None

    # --- ending it before it ends -----------------------------------------------------------

    def cancel(self, ticket: Ticket[Any], line: Line) -> None:
        """The run was asked to end, and its Run told. What has not begun ends now."""
        handed = line.handed.get(ticket)
        if handed is not None and handed.take_back():
            del line.handed[ticket]
            self.desk.ends.asked(ticket, ticket.more())
            self._empty(line)

    def _empty(self, line: Line) -> None:
        """Something was taken out of the line: where nothing is left in it, its worker has ended its work."""
        if not line.handed and line.worker.work is line:
            self._hungry.pop(line, None)
            self.desk.release(line.worker)

    def _time_up(self, ticket: Ticket[Any], line: Line) -> None:
        more, handed = ticket.more(), line.handed.get(ticket)
        more.timer = None
        if handed is None or ticket._status is not None or more.timeout is None:
            return
        left = more.timeout if handed.waits else handed.started + more.timeout - self.now()
        if left > 0:  # it did not begin when it was handed over
            more.timer = self.desk.later(left, self._time_up, ticket, line)
        else:
            self.cut(ticket, line, self.desk.ends.too_long(more))

    def cut(self, ticket: Ticket[Any], line: Line, said: str) -> None:
        """Its time is up: it never begins; or its thread is told, and left to itself."""
        desk, more = self.desk, ticket.more()
        handed = line.handed.get(ticket)
        if handed is None:
            return
        if handed.take_back():
            del line.handed[ticket]
        elif self._abandon(handed, line):
            desk.ends.began(ticket, more, handed.started)
        else:
            return  # it has just ended, and is on its way back
        desk.ends.next_after(ticket, Status.TIMED_OUT, desk.ends.timeout_error(ticket, said), said)
        self._empty(line)
        desk.look_if_drained()

    def _abandon(self, handed: Handed, line: Line) -> bool:
        """Leave the thread to itself. False: the job has just ended."""
        if not handed.give_up():
            return False
        ticket, more = handed.ticket, handed.ticket.more()
        run = ticket.as_run()
        run.tell()
        given = self.left_alone(line.worker, run, line.thread)
        self._out_of_thread(more)
        del line.handed[ticket]
        self.take_back(line)
        line.thread.abandon(handed)
        line.worker.work = None
        line.worker.group.abandon(line.worker)
        self.desk.books.abandoned(ticket, given)
        return True

    def left_alone(self, worker: Worker, run: Run, thread: OwnThread) -> AbandonedCall:
        """The thread of this worker was left to itself, with this run."""
        given = self.left[worker] = AbandonedCall(repr(run), thread.name, self.now(), thread.ident)
        return given

    def stop(self) -> None:
        """Look no more after what was handed over."""
        if self._timer is not None:
            self._timer.cancel()

    def lost(self, line: Line, said: str) -> None:
        """The worker has to end: what has not begun waits again, what has is asked to end."""
        self.take_back(line)
        for ticket in list(line.handed):
            self.desk.ends.end_early(ticket, Status.INTERRUPTED, said)
        if line.worker.thread is None:  # it has died of something, and nothing comes back
            for ticket, handed in list(line.handed.items()):
                if handed.give_up():
                    self.desk.ends.asked(ticket, ticket.more())
            line.handed.clear()
        self._empty(line)

    def give_up(self, line: Line, said: str, only: Ticket[Any] | None = None) -> None:
        """It has been told, in good time: nobody waits for it any more."""
        for ticket, handed in list(line.handed.items()):
            wanted = ticket in line.handed and not handed.waits and only in (None, ticket)
            if wanted and self._abandon(handed, line):
                more = ticket.more()
                if more.why is None:
                    more.why, more.why_text = Status.INTERRUPTED, said
                if ticket._status is None:
                    self.desk.ends.began(ticket, more, handed.started)
                    self.desk.ends.asked(ticket, more)


def _bare(ticket: Ticket[Any], worker: Worker) -> Any:
    enter_unmade(ticket)
    if ticket._more is not None:
        _say_where(ticket._more)
    return ticket._fn(*ticket._args)


def _with_resource(ticket: Ticket[Any], worker: Worker) -> Any:
    enter_unmade(ticket)
    if ticket._more is not None:
        _say_where(ticket._more)
    return ticket._fn(worker.resource, *ticket._args)


def _tried(ticket: Ticket[Any], worker: Worker) -> Any:
    assert worker.opened is not None
    worker.opened.check_plain()
    return _with_resource(ticket, worker)


def _say_where(more: More) -> None:
    """The run, if somebody has looked at it already, is in this thread."""
    if (run := more.run) is not None:
        run.in_thread, run.thread = True, threading.get_ident()
