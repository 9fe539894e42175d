"""Carrier: how a run is carried out by the worker that has it in hand, and how it is cut short.

An async job has a Task of its own. Where Python can do that (3.12), its first step is taken at once, inside the
call that hands it out. The end of the run is told from within the task, so that the next one can begin in the same
round of the loop; a task that is cancelled before its first step, of which nothing runs, is noticed at its `cancel`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import gave_awaitable, is_awaitable
from runcrew.job import Status, enter_unmade
from runcrew.lifecycle.tasks import unless_torn_down
from runcrew.queue.ahead import Ahead, Line
from runcrew.queue.in_processes import InProcesses
from runcrew.queue.in_threads import InThreads
from runcrew.queue.through import through
from runcrew.queue.ticket import More, Ticket
from runcrew.workers import BUSY, Unfit, Worker

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

#: Whether a task can take its first step when it is made.
EAGER: Final = sys.version_info >= (3, 12)

Task: Final = asyncio.Task


class Carrier:
    """Carries out the runs of one desk."""

    __slots__ = ("_all_in_tasks", "_bare", "_books", "_carry", "_desk", "_inline", "_loop", "_returned", "ahead")

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._loop = desk.loop
        self._books = desk.books
        self._returned = desk.returned
        setup = desk.setup
        self._carry: Callable[[Ticket[Any], Worker], Coroutine[Any, Any, None]]
        if setup.handler is not None:
            self._carry = self._through
        else:
            self._carry = self._tried if setup.recipe is not None and setup.recipe.has_check else self._await
        #: Whether jobs get no resource.
        self._bare = setup.recipe is None
        #: Whether plain jobs have a task too.
        self._all_in_tasks = setup.handler is not None
        self._inline = setup.inline
        self.ahead: Ahead = InThreads(desk) if setup.processes is None else InProcesses(desk)

    # --- beginning ------------------------------------------------------------------------

    def begin(self, worker: Worker, ticket: Ticket[Any], now: float) -> None:
        """This worker, which is no longer in its group's `free`, takes it. An async one may end before this returns."""
        worker.state = BUSY
        worker.work = ticket
        ticket._worker = worker
        ticket._started = now
        if self._books.tells:
            self._books.tell_begin(ticket, worker.number)
        more = ticket._more
        if ticket._plain and not self._all_in_tasks:
            self._begin_plain(worker, ticket, now)
            return
        if more is not None:
            self._desk.ends.began(ticket, more, now)
        if EAGER:
            task = Task(self._carry(ticket, worker), loop=self._loop, context=ticket._context, eager_start=True)  # type: ignore[call-arg, unused-ignore]
        else:
            task = JobTask(self._carry(ticket, worker), loop=self._loop, context=ticket._context)
            task.carried = (self, ticket, worker)
        if worker.work is ticket:
            worker.task = task
            more = ticket._more
            if more is not None:
                if more.why is not None:  # asked to end in its first step, when there was nothing to cancel yet
                    task.cancel()
                elif not self._all_in_tasks:
                    self._desk.ends.limit(ticket, more)

    def _begin_plain(self, worker: Worker, ticket: Ticket[Any], now: float) -> None:
        if not self._inline:
            self.ahead.begin(worker, ticket)
            return
        if ticket._more is not None:
            self._desk.ends.began(ticket, ticket._more, now)
        assert ticket._context is not None
        ticket._context.run(self._call, ticket, worker)

    async def _await(self, ticket: Ticket[Any], worker: Worker) -> None:
        enter_unmade(ticket)
        try:
            if self._bare:
                value = await ticket._fn(*ticket._args)
            else:
                value = await ticket._fn(worker.resource, *ticket._args)
        except BaseException as error:
            if type(error) is GeneratorExit and is_thrown_away(sys._getframe()):
                raise
            self.raised(ticket, worker, error)
        else:
            self._returned(ticket, worker, value)

    async def _tried(self, ticket: Ticket[Any], worker: Worker) -> None:
        """The same, where the resource is tried before it is used."""
        enter_unmade(ticket)
        assert worker.opened is not None
        try:
            await worker.opened.check()
        except Unfit as error:
            self.unfit(ticket, worker, error)
            return
        except BaseException as error:
            if type(error) is GeneratorExit and is_thrown_away(sys._getframe()):
                raise
            worker.group.condemn(worker, error, "the check of its resource was cut off")
            self.raised(ticket, worker, error)
            return
        await self._await(ticket, worker)

    async def _through(self, ticket: Ticket[Any], worker: Worker) -> None:
        """The same, through a chain of policies, middleware or somebody's backend."""
        try:
            await through(self._desk, ticket, worker)
        except BaseException as error:
            if type(error) is GeneratorExit and is_thrown_away(sys._getframe()):
                raise
            self.raised(ticket, worker, error)

    def _call(self, ticket: Ticket[Any], worker: Worker) -> None:
        """A plain job on the loop, in its own context."""
        enter_unmade(ticket)
        args = ticket._args if self._desk.setup.recipe is None else (worker.resource, *ticket._args)
        try:
            value = ticket._fn(*args)
        except BaseException as error:
            self.raised(ticket, worker, error)
        else:
            self.plain_returned(ticket, worker, value)

    # --- how it ends ----------------------------------------------------------------------

    def raised(self, ticket: Ticket[Any], worker: Worker, error: BaseException) -> None:
        """The job raised: what becomes of it is said by what was asked, and by what it is."""
        trace = error.__traceback__
        # Beginning in the user's code, and not here: the frames of this place hold the ticket, which holds the error.
        error = error.with_traceback(None if trace is None else trace.tb_next)
        ends = self._desk.ends
        if isinstance(error, asyncio.CancelledError):
            task = worker.task
            ends.cancelled(ticket, worker, error, outside=task is not None and task.cancelling() > 0)
        else:
            ends.failed(ticket, worker, Status.FAILED, error)

    def plain_returned(self, ticket: Ticket[Any], worker: Worker, value: Any) -> None:
        """A plain job returned: what must not be something that is still to be awaited."""
        error = gave_awaitable(ticket.name, value) if is_awaitable(value) else None
        if error is None:
            self._returned(ticket, worker, value)
        else:
            self._desk.ends.failed(ticket, worker, Status.FAILED, error)

    def plain_value(self, ticket: Ticket[Any], more: More, value: Any, ended: float) -> None:
        """A plain job returned this in a thread."""
        error = gave_awaitable(ticket.name, value) if is_awaitable(value) else None
        if error is None:
            self._desk.ends.succeeded(ticket, more, value, ended)
        else:
            self._desk.ends.next_after(ticket, Status.FAILED, error, "")

    def unfit(self, ticket: Ticket[Any], worker: Worker, error: BaseException) -> None:
        """The resource turned out faulty before the job began."""
        self.found_unfit(ticket, worker, error)
        self._desk.release(worker)

    def found_unfit(self, ticket: Ticket[Any], worker: Worker, error: BaseException) -> None:
        """The same, where the worker has more in hand. Another worker is to do it, and nothing has been spent."""
        ends = self._desk.ends
        worker.group.condemn(worker, error, "its resource did not pass the check")
        if ticket._status is not None:
            return
        more = ticket.more()
        if more.why is not None:
            ends.asked(ticket, more)
        elif more.cut is not None or more.final:
            said = more.cut or "its time was up"
            ends.next_after(ticket, Status.TIMED_OUT, ends.timeout_error(ticket, said, error), said)
        elif more.past_queue:
            self._desk.spares.elsewhere(ticket, more, error)
        else:
            ends.put_back(ticket)

    # --- cutting it short -------------------------------------------------------------------

    def cancel(self, ticket: Ticket[Any], worker: Worker) -> None:
        """The run was asked to end. A thread is told, and goes on until it looks."""
        if isinstance(worker.work, Line):
            self.ahead.cancel(ticket, worker.work)
        elif worker.task is not None:
            worker.task.cancel()

    def cut(self, ticket: Ticket[Any], more: More, said: str) -> None:
        """The time of the attempt, or of the run, is up."""
        being_cancelled = more.cut is not None or more.why is not None
        if more.cut is None:
            more.cut = said
        worker = ticket._worker
        assert worker is not None
        if isinstance(worker.work, Line):
            self.ahead.cut(ticket, worker.work, more.cut)
            return
        if being_cancelled:
            return  # once is enough: it is not to be cut off in its cleaning up
        if more.run is not None:
            more.run.tell()
        if worker.task is not None:
            worker.task.cancel()

    def lost(self, worker: Worker, error: BaseException) -> None:
        """The worker's resource is lost, or it has to leave at once: what it has in hand ends."""
        work = worker.work
        said = "the resource of its worker is lost" if worker.faulty else "its worker was told to leave at once"
        if isinstance(work, Line):
            self.ahead.lost(work, said)
        else:
            for ticket in self.in_hand(worker):
                # Where all tasks are cancelled, this one has been too, and is not to be cut off in its cleaning up.
                being_cancelled = worker.faulty and worker.task is not None and worker.task.cancelling() > 0
                self._desk.ends.end_early(ticket, Status.INTERRUPTED, said, cancels=not being_cancelled)

    def in_hand(self, worker: Worker) -> list[Ticket[Any]]:
        """What this worker has in hand."""
        work: Line | Ticket[Any] | None = worker.work
        return [] if work is None else list(work.handed) if isinstance(work, Line) else [work]

    def interrupt(self, worker: Worker, said: str) -> None:
        """A stop: what this worker has in hand is asked to end."""
        for ticket in self.in_hand(worker):
            # One whose time is up has been cancelled already, and may be cleaning up: if it does not end, that is seen.
            self._desk.ends.end_early(ticket, Status.INTERRUPTED, said, cancels=ticket.more().cut is None)

    def give_up_thread(self, ticket: Ticket[Any], worker: Worker) -> None:
        """A job in a thread that was asked to end does not listen: nobody waits for it any more."""
        if isinstance(worker.work, Line):
            self.ahead.give_up(worker.work, "its thread did not end, and was abandoned", ticket)
        elif ticket._plain and worker.task is not None:
            worker.task.cancel()  # on its way through a chain: that leaves the thread to itself

    def give_up(self, worker: Worker, said: str) -> None:
        """What it has in hand has not ended although it was cancelled, in good time: nobody waits for it any more."""
        work: Line | Ticket[Any] | None = worker.work
        task = worker.task
        if isinstance(work, Line):
            self.ahead.give_up(work, said)
        elif work is not None:
            worker.group.abandon(worker)
            if task is not None:
                task.cancel()
            if work._status is None:
                more = work.more()
                self._desk.ends.finish(work, more.why or Status.INTERRUPTED, None, self._desk.now(), said)

    def not_begun(self, ticket: Ticket[Any], worker: Worker) -> None:
        """Its task was cancelled before its first step."""
        if worker.work is ticket and ticket._status is None:
            error = asyncio.CancelledError("its task was cancelled before it began")
            if self._desk.going_down or (ticket._more is not None and ticket._more.why is not None):
                self.raised(ticket, worker, error)
            else:
                unless_torn_down(self.raised, ticket, worker, error)


def is_thrown_away(frame: FrameType) -> bool:
    """Whether the coroutine of this frame is being closed, with its loop; not driven by its task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    coro: Any = None if task is None else task.get_coro()
    return getattr(coro, "cr_frame", None) is not frame


class JobTask(asyncio.Task[None]):
    """Where no task takes its first step at once: tells when it is cancelled before that, and nothing of it runs."""

    __slots__ = ("carried",)
    carried: tuple[Carrier, Ticket[Any], Worker]

    def cancel(self, msg: Any | None = None) -> bool:
        """See asyncio.Task."""
        asked = super().cancel(msg)
        if asked:
            self.add_done_callback(_look, context=self.carried[0]._desk.context)
        return asked


def _look(task: asyncio.Task[None]) -> None:
    assert isinstance(task, JobTask)
    carrier, ticket, worker = task.carried
    if worker.task is task:  # otherwise it has begun, and told its end
        carrier.not_begun(ticket, worker)
