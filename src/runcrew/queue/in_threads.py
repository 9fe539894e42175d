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

    __slots__ = ("handed", "progress", "thread", "worker")

    def __init__(self, worker: Worker, thread: OwnThread) -> None:
        self.worker = worker
        self.thread = thread
        self.handed: dict[Ticket[Any], Handed] = {}
        #: Whether anything has come back since somebody last looked.
        self.progress = True


class Handed:
    """One job on its way to a thread and back."""

    __slots__ = ("_call", "_live", "_now", "_take", "ended", "error", "line", "started", "threads", "ticket", "value")

    def __init__(self, threads: InThreads, line: Line, ticket: Ticket[Any]) -> None:
        self.threads = threads
        self.line = line
        self.ticket = ticket
        self._call = threads.call
        self._now = threads.now
        self._take = self._live = True
        self.started = self.ended = 0.0
        self.value: Any = None
        self.error: BaseException | None = None

    def do(self) -> None:
        """In the thread."""
        try:
            del self._take
        except AttributeError:  # it has been taken back
            return
        ticket = self.ticket
        ticket._started = self.started = self._now()
        value, error = None, None
        try:
            context = ticket._context
            assert context is not None
            value = context.run(self._call, ticket, self.line.worker)
        except BaseException as raised:
            trace = raised.__traceback__
            for _ in range(2):  # it begins in the user's code, and not here
                trace = None if trace is None else trace.tb_next
            error = raised.with_traceback(trace)
        self.ended = self._now()
        try:
            del self._live
        except AttributeError:  # it has been given up
            if error is not None and not isinstance(error, asyncio.CancelledError):
                _log.warning("%s failed after it had been given up: %s", ticket.name, brief(error), exc_info=error)
            return
        self.value, self.error = value, error

    def _hand_back(self) -> None:
        self.threads.came_back(self)

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
        self._desk = desk
        self.now = desk.now
        recipe = desk.setup.recipe
        self.call: Callable[[Ticket[Any], Worker], Any] = _bare
        if recipe is not None:
            self.call = _tried if recipe.has_check and not recipe.is_async else _with_resource
        #: The length of runs, in seconds: an average that forgets.
        self._mean = AHEAD
        #: Those whose thread could do with more.
        self._hungry: dict[Line, None] = {}
        #: Those that were handed more than one.
        self._long: dict[Line, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: What was given up and is still at work.
        self.left: dict[object, AbandonedCall] = {}

    # --- handing over ---------------------------------------------------------------------

    @property
    def window(self) -> int:
        """How many make up what may be handed over ahead."""
        return max(1, min(MOST, int(AHEAD / self._mean))) if self._mean > 0 else MOST

    def begin(self, worker: Worker, ticket: Ticket[Any], now: float) -> None:
        """This worker takes this one, and as many of those behind it as make up its share."""
        thread = worker.group.thread_of(worker)
        line = worker.work = Line(worker, thread)
        more = [] if worker.group is not self._desk.group else self._share(now, self.window - 1)
        self._hand(line, [ticket, *more], now, ticket)

    def fill(self, now: float) -> bool:
        """A thread that has little left takes more. False: none can."""
        while self._hungry:
            line = next(iter(self._hungry))
            del self._hungry[line]
            if line.worker.work is line and line.worker.state is BUSY:
                more = self._share(now, self.window - len(line.handed))
                if more:
                    self._hand(line, more, now)
                    return True
        return False

    @property
    def not_begun(self) -> int:
        """How many have been handed over and have not begun."""
        return sum(handed.waits for line in self._long for handed in tuple(line.handed.values()))

    @property
    def has_places(self) -> bool:
        """Whether a thread could do with more, and one that it can do is next."""
        return bool(self._hungry) and (first := self._desk.levels.first()) is not None and first._plain

    def _share(self, now: float, most: int) -> list[Ticket[Any]]:
        """Of those that wait, as many as `most`; but not what the other free workers can begin at once."""
        levels, taken = self._desk.levels, list[Ticket[Any]]()
        share = min(most, levels.count // (len(self._desk.free) + 1))
        while len(taken) < share and (first := levels.first()) is not None and first._plain:
            ticket = levels.pop(now)
            if ticket is None:
                break
            if not ticket._plain:  # the one that has waited for too long
                self._desk.ends.put_back(ticket)
                break
            taken.append(ticket)
        return taken

    def _hand(
        self, line: Line, tickets: list[Ticket[Any]], now: float, first: Ticket[Any] | None = None
    ) -> None:
        """`first`: has been told of already."""
        desk, worker = self._desk, line.worker
        works: list[Handed] = []
        for ticket in tickets:
            more = ticket._more
            if more is None:  # now, on the loop: the thread may look at it
                more = ticket._more = More()
                more.bare = True
            ticket._worker = worker
            ticket._started = None
            handed = line.handed[ticket] = Handed(self, line, ticket)
            works.append(handed)
            if desk.books.tells_begin and ticket is not first:
                desk.books.tell_begin(ticket, worker.number)
            if more.timeout is not None:
                more.timer = desk.later(more.timeout, self._time_up, ticket, line)
        try:
            line.thread.hand(works)
        except NoThread as error:
            self._no_thread(line, tickets, error)
            return
        if len(line.handed) > 1 and line not in self._long:
            self._long[line] = None
            if self._timer is None:
                self._timer = desk.later(_PATIENCE, self._look)

    def _no_thread(self, line: Line, tickets: list[Ticket[Any]], error: NoThread) -> None:
        for ticket in tickets:
            del line.handed[ticket]
            self._desk.ends.next_after(ticket, Status.FAILED, error, "")
        if not line.handed:
            self._desk.call_soon(self._desk.release, line.worker)

    def _look(self) -> None:
        """Take back what waits behind a job that turns out to be a long one."""
        self._timer = None
        for line in list(self._long):
            if not line.progress:
                self.take_back(line)
            if len(line.handed) < 2:
                del self._long[line]
            line.progress = False
        if self._long:
            self._timer = self._desk.later(_PATIENCE, self._look)
        self._desk.pump()

    def take_back(self, line: Line) -> None:
        """What has not begun waits again, before all others of its level."""
        for ticket, handed in reversed(list(line.handed.items())):
            if ticket._status is None and handed.take_back():
                del line.handed[ticket]
                self._desk.ends.put_back(ticket)

    # --- coming back ------------------------------------------------------------------------

    def came_back(self, handed: Handed) -> None:
        """On the loop: one job has been done, or taken back, or given up before."""
        line, ticket = handed.line, handed.ticket
        self.left.pop(handed, None)
        if line.handed.get(ticket) is not handed:
            if not line.handed and line.worker.work is line:
                self._desk.release(line.worker)
            return
        del line.handed[ticket]
        line.progress = True
        if not handed.waits and hasattr(handed, "_live"):
            return  # taken back in the very moment: somebody else has settled it
        length = handed.ended - handed.started
        self._mean += (length - self._mean) / 8 if length < self._mean else (length - self._mean) / 2
        self._settle(handed, line, ticket)

    def _settle(self, handed: Handed, line: Line, ticket: Ticket[Any]) -> None:
        desk, error = self._desk, handed.error
        more = ticket.more()
        if more.bare and error is None and more.why is None and not hasattr(type(handed.value), "__await__"):
            desk.succeeded(ticket, handed.value, handed.started, handed.ended)
        else:
            self._settle_special(ticket, more, handed, line)
        worker = line.worker
        if not line.handed:
            self._hungry.pop(line, None)
            if worker.work is line:
                desk.release(worker)
        elif worker.state is not BUSY:
            self.take_back(line)
            if not line.handed and worker.work is line:
                desk.release(worker)
        elif worker.group is desk.group and 2 * len(line.handed) <= self.window and desk.levels.count:
            self._hungry[line] = None
            desk.pump_soon()

    def _settle_special(self, ticket: Ticket[Any], more: More, handed: Handed, line: Line) -> None:
        desk, error = self._desk, handed.error
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
        more.thread = None
        if more.run is not None:
            more.run.in_thread, more.run.thread = False, None

    # --- ending it before it ends -----------------------------------------------------------

    def cancel(self, ticket: Ticket[Any], line: Line) -> None:
        """The run was asked to end, and its Run told. What has not begun ends now."""
        handed = line.handed.get(ticket)
        if handed is not None and handed.take_back():
            del line.handed[ticket]
            self._desk.ends.asked(ticket, ticket.more())
            self._empty(line)

    def _empty(self, line: Line) -> None:
        """Something was taken out of the line: where nothing is left in it, its worker has ended its work."""
        if not line.handed and line.worker.work is line:
            self._desk.release(line.worker)

    def _time_up(self, ticket: Ticket[Any], line: Line) -> None:
        more, handed = ticket.more(), line.handed.get(ticket)
        more.timer = None
        if handed is None or ticket._status is not None or more.timeout is None:
            return
        left = more.timeout if handed.waits else handed.started + more.timeout - self.now()
        if left > 0:  # it did not begin when it was handed over
            more.timer = self._desk.later(left, self._time_up, ticket, line)
        else:
            self.cut(ticket, line, self._desk.ends.too_long(more))

    def cut(self, ticket: Ticket[Any], line: Line, said: str) -> None:
        """Its time is up: it never begins; or its thread is told, and left to itself."""
        desk, more = self._desk, ticket.more()
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
        given = self.left_alone(handed, run, line.thread)
        self._out_of_thread(more)
        del line.handed[ticket]
        self.take_back(line)
        line.thread.abandon(handed)
        line.worker.work = None
        line.worker.group.abandon(line.worker)
        self._desk.books.abandoned(ticket, given)
        return True

    def left_alone(self, work: object, run: Run, thread: OwnThread) -> AbandonedCall:
        """This thread was left to itself, with this run."""
        given = self.left[work] = AbandonedCall(repr(run), thread.name, self.now(), thread.ident)
        return given

    def came_home(self, work: object) -> None:
        """What had been left to itself has ended."""
        self.left.pop(work, None)

    def stop(self) -> None:
        """Look no more after what was handed over."""
        if self._timer is not None:
            self._timer.cancel()

    def lost(self, line: Line, said: str) -> None:
        """The worker has to end: what has not begun waits again, what has is asked to end."""
        self.take_back(line)
        for ticket in list(line.handed):
            self._desk.ends.end_early(ticket, Status.INTERRUPTED, said)
        if line.worker.thread is None:  # it has died of something, and nothing comes back
            for ticket, handed in list(line.handed.items()):
                if handed.give_up():
                    self._desk.ends.asked(ticket, ticket.more())
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
                    self._desk.ends.began(ticket, more, handed.started)
                    self._desk.ends.asked(ticket, more)


def _bare(ticket: Ticket[Any], worker: Worker) -> Any:
    _enter(ticket)
    return ticket._fn(*ticket._args)


def _with_resource(ticket: Ticket[Any], worker: Worker) -> Any:
    _enter(ticket)
    return ticket._fn(worker.resource, *ticket._args)


def _tried(ticket: Ticket[Any], worker: Worker) -> Any:
    _enter(ticket)
    assert worker.opened is not None
    worker.opened.check_plain()
    return ticket._fn(worker.resource, *ticket._args)


def _enter(ticket: Ticket[Any]) -> None:
    enter_unmade(ticket)
    more = ticket._more
    assert more is not None
    more.thread = threading.get_ident()
    if (run := more.run) is not None:
        run.in_thread, run.thread = True, more.thread
