"""Plain jobs in the threads of their workers.

How the two sides agree. Two marks of a `Handed` say how far it has come, and each is removed by one operation that
only one thread can win: deleting `_take` begins the job, or takes it back; deleting `_live` ends it, or gives it up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import NoThread
from runcrew.errors import brief
from runcrew.job import Status, enter_unmade
from runcrew.queue.ahead import Ahead, Line
from runcrew.queue.ticket import More, Ticket
from runcrew.workers import BUSY, OwnThread, Unfit, Worker

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

_log: Final = logging.getLogger("runcrew")


class ThreadLine(Line):
    """What one worker's thread has been handed."""

    __slots__ = ("call", "thread", "threads")

    def __init__(self, threads: InThreads, worker: Worker, thread: OwnThread) -> None:
        super().__init__(threads, worker)
        self.threads = threads
        self.call = threads.call
        self.thread = thread

    def where(self) -> str:
        """See Line."""
        return self.thread.stack()

    def waits(self, ticket: Ticket[Any]) -> bool:
        """See Line."""
        handed: Handed = self.handed[ticket]
        return handed.waits

    def begun(self, ticket: Ticket[Any]) -> float:
        """See Line."""
        handed: Handed = self.handed[ticket]
        return handed.started

    @property
    def not_begun(self) -> int:
        """See Line."""
        return sum(handed.waits for handed in tuple(self.handed.values()))


class Handed:
    """One job on its way to a thread and back."""

    __slots__ = ("_live", "_take", "ended", "error", "line", "started", "ticket", "value")

    # Of these nobody asks before they are there: when it ended, what it returned.
    ended: float
    value: object

    def __init__(self, line: ThreadLine, ticket: Ticket[Any]) -> None:
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
            self.value = self.error = None  # the frames of an error lead here
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


class InThreads(Ahead):
    """Hands the plain jobs of one desk to threads."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        recipe = desk.setup.recipe
        self.call: Callable[[Ticket[Any], Worker], Any] = _bare
        if recipe is not None:
            self.call = _tried if recipe.has_check and not recipe.is_async else _with_resource

    # --- handing over ---------------------------------------------------------------------

    def _line(self, worker: Worker) -> ThreadLine:
        return ThreadLine(self, worker, worker.group.thread_of(worker))

    def _hand(self, line: Any, tickets: list[Ticket[Any]], first: Ticket[Any] | None = None) -> None:
        desk, worker = self.desk, line.worker
        handed = line.handed
        works: list[Handed] = []
        for ticket in tickets:
            ticket._worker = worker
            ticket._started = None
            work = handed[ticket] = Handed(line, ticket)
            works.append(work)
            more = ticket._more
            if more is not None:
                self._limit(ticket, more, line)
            if desk.books.tells and ticket is not first:
                desk.books.tell_begin(ticket, worker.number)
        line.low = len(handed) // 2
        try:
            line.thread.hand(works)
        except NoThread as error:
            self._failed(line, [(ticket, error) for ticket in tickets])
            return
        if len(handed) > 1:
            self._watch(line)

    def take_back(self, line: Line) -> None:
        """See Ahead."""
        for ticket, handed in reversed(list(line.handed.items())):
            if ticket._status is None and handed.take_back():
                del line.handed[ticket]
                self.desk.ends.put_back(ticket)

    def has_begun(self, ticket: Ticket[Any], line: Line) -> bool:
        """See Ahead."""
        if line.handed[ticket].take_back():
            del line.handed[ticket]
            return False
        return True

    # --- coming back ------------------------------------------------------------------------

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

    def end_begun(self, ticket: Ticket[Any], line: Any, said: str) -> None:
        """See Ahead: its thread is told, and left to itself."""
        handed, desk, more = line.handed[ticket], self.desk, ticket.more()
        if not self._abandon(handed, line):
            return  # it has just ended, and is on its way back
        desk.ends.began(ticket, more, handed.started)
        desk.ends.next_after(ticket, Status.TIMED_OUT, desk.ends.timeout_error(ticket, said), said)
        self._empty(line)
        desk.look_if_drained()

    def _abandon(self, handed: Handed, line: ThreadLine) -> bool:
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

    def lost(self, line: Any, said: str) -> None:
        """See Ahead."""
        self.take_back(line)
        for ticket in list(line.handed):
            self.desk.ends.end_early(ticket, Status.INTERRUPTED, said)
        if line.worker.thread is None:  # it has died of something, and nothing comes back
            for ticket, handed in list(line.handed.items()):
                if handed.give_up():
                    self.desk.ends.asked(ticket, ticket.more())
            line.handed.clear()
        self._empty(line)

    def give_up(self, line: Any, said: str, only: Ticket[Any] | None = None) -> None:
        """See Ahead."""
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
    try:
        return ticket._fn(*ticket._args)
    except BaseException:
        del ticket, worker  # the frames of the error lead here
        raise


def _with_resource(ticket: Ticket[Any], worker: Worker) -> Any:
    enter_unmade(ticket)
    if ticket._more is not None:
        _say_where(ticket._more)
    try:
        return ticket._fn(worker.resource, *ticket._args)
    except BaseException:
        del ticket, worker  # the frames of the error lead here
        raise


def _tried(ticket: Ticket[Any], worker: Worker) -> Any:
    assert worker.opened is not None
    worker.opened.check_plain()
    return _with_resource(ticket, worker)


def _say_where(more: More) -> None:
    """The run, if somebody has looked at it already, is in this thread."""
    if (run := more.run) is not None:
        run.in_thread, run.thread = True, threading.get_ident()
