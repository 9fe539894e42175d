"""An executor over a queue: for plain threads, and for code that wants a `concurrent.futures.Executor`.

How the two sides meet. A thread puts what it submits into the book and into the inbox, and *then* asks for a wake-up of
the loop unless one is on its way; the loop takes that mark away *before* it looks into the inbox. At the end the queue
says that it is over and *then* ends every future in the book; who submits looks *after* that whether it is over.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures._base import CANCELLED, FINISHED, PENDING
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from runcrew.backends.calls import running_loop
from runcrew.backends.sent import InitializerFailed, Plainly, Prepared, do_chunk
from runcrew.errors import ConfigError, QueueFull, RunInterrupted, WouldDeadlock
from runcrew.job import Status
from runcrew.lifecycle.inside import is_inside
from runcrew.lifecycle.tasks import spawn
from runcrew.queue.executor_future import (
    AwayTicket,
    ExecutorFuture,
    FutureTicket,
    fail,
    is_plain,
    never,
    settle,
)
from runcrew.queue.options import NORMAL, NOTHING
from runcrew.queue.ticket import SUCCEEDED, would_deadlock

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

P = ParamSpec("P")
T = TypeVar("T")

#: So many submits are taken in in one round of the loop.
_AT_ONCE: Final = 256

_numbers: Final = itertools.count(1)

#: Says that something is not in the book.
_NOT_THERE: Final = object()

#: What waits in the inbox: a future with its arguments and the context of who submitted it; without, one that was
#: cancelled.
_Entry = tuple[ExecutorFuture[Any], tuple[Any, ...], Context | None]


class QueueExecutor(Executor):
    """What `queue.executor()` gives: see there."""

    def __init__(self, desk: Desk, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        setup = desk.setup
        if setup.recipe is not None:
            raise ConfigError(
                f"{desk.name} has a resource, which an executor's functions would not get: use run() and submit(), or "
                "give the executor a queue of its own, without one"
            )
        if setup.terms.timeout is not None:
            setup.check_timeout(never)
        self._desk = desk
        self._initializer = initializer
        self._initargs = initargs
        self._token = f"{os.getpid()}-{next(_numbers)}"
        #: Shared by the futures that have no condition of their own.
        self.lock = threading.RLock()
        #: Whether the job is done elsewhere than in this process's threads, as far as we know.
        self._away = setup.processes is not None or setup.handler is not None
        self._special = setup.terms != NOTHING or setup.dedupe is not None
        #: Whether a job that returns has succeeded for good, so that its future can end in the worker's thread.
        self.direct = not self._away and not self._special and setup.healthy is None
        #: What has been submitted and has not ended; its ticket, once the queue has it.
        self._book: dict[ExecutorFuture[Any], FutureTicket | None] = {}
        self._inbox: deque[_Entry] = deque()
        #: Those for which there is no room.
        self._backlog: deque[_Entry] = deque()
        self._feeding = False
        self._posted = False
        self._shut = False
        self._over = False
        self._broken = ""
        self._watchers: list[threading.Event] = []
        self._forked = False
        _all[id(self)] = self

    def __repr__(self) -> str:
        state = "broken" if self._broken else "ended" if self._over else "shut down" if self._shut else "open"
        return f"<QueueExecutor of {self._desk.name}, {state}, {len(self._book)} outstanding>"

    # --- from any thread --------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` done by the queue; its future. Never waits, also on an event loop.

        Raises RuntimeError after `shutdown`, and where the queue takes nothing any more; a BrokenExecutor where the
        initializer has failed.
        """
        if self._shut or self._broken or self._over or not self._desk.open:
            raise self._refusal()
        job: Any = partial(fn, **kwargs) if kwargs else fn
        if self._initializer is not None:
            job = Prepared(self._token, self._initializer, self._initargs, job)
        elif self._away and not is_plain(job):
            job = Plainly(job)
        future: ExecutorFuture[T] = ExecutorFuture(self, job)
        self._book[future] = None
        self._inbox.append((future, args, copy_context()))
        if not self._posted:
            self._post()
        if self._over:
            self.life_over()
            raise self._refusal()
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Any, timeout: float | None = None, chunksize: int = 1, **options: Any
    ) -> Iterator[T]:
        """As of the standard: all is submitted at once, values come in order, and what is left is cancelled where the
        iterator is closed, or times out. chunksize: so many items make one job, in a queue with processes."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1 or self._desk.setup.processes is None:
            return super().map(fn, *iterables, timeout=timeout, **options)
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        return _joined(super().map(partial(do_chunk, fn), chunks, timeout=timeout, **options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; the queue goes on. Waits until all that was submitted here has ended, unless told not to.

        cancel_futures: what has not begun is cancelled. May be called again. To wait on the queue's own loop, or in one
        of its jobs, raises WouldDeadlock where there is anything to wait for.
        """
        self._shut = True
        if cancel_futures:
            for future in list(self._book):
                future.cancel()
        if not wait or not self._book:
            return
        self.check_wait("a shutdown")
        event = threading.Event()
        self._watchers.append(event)
        while self._book:
            event.wait()
            event.clear()

    def check_wait(self, what: str) -> None:
        """Raise WouldDeadlock where waiting would be for ever: on the queue's loop, and in its jobs."""
        desk = self._desk
        if running_loop() is desk.loop:
            raise WouldDeadlock(
                f"{what} is waited for on the event loop of {desk.name}, which is to bring it: there, use "
                "`await asyncio.wrap_future(…)`, or loop.run_in_executor"
            )
        if is_inside(desk.home):
            raise would_deadlock(desk.name)

    def _refusal(self) -> RuntimeError:
        if self._broken:
            return self._broken_error()
        if self._shut:
            return RuntimeError("cannot schedule new futures after shutdown")
        if self._forked:
            return RuntimeError(
                f"cannot schedule new futures: the executor of {self._desk.name} lives in the process of which this is "
                "a fork; make a queue here"
            )
        error = RuntimeError(f"cannot schedule new futures after shutdown of {self._desk.name}, which has the workers")
        error.__cause__ = self._desk.home.refusal()
        return error

    def _post(self) -> None:
        self._posted = True
        try:
            self._desk.loop.call_soon_threadsafe(self._take_in, context=self._desk.context)
        except RuntimeError:  # the loop was closed without a stop
            self.life_over()

    def cancelled(self, future: ExecutorFuture[Any]) -> None:
        """A future has been cancelled."""
        self._inbox.append((future, (), None))
        if not self._posted:
            self._post()

    # --- on the loop ------------------------------------------------------------------------

    def _take_in(self) -> None:
        self._posted = False  # first: what is put in from here on asks for a wake-up of its own
        inbox = self._inbox
        for _ in range(_AT_ONCE):
            if not inbox:
                return
            self._take(inbox.popleft())
        self._posted = True  # the others on this loop have their turn
        self._desk.loop.call_soon(self._take_in, context=self._desk.context)

    def _take(self, entry: _Entry) -> None:
        future, args, context = entry
        if future._state is not PENDING:
            self._take_cancelled(future)
        elif context is not None:
            desk = self._desk
            if not desk.open:
                self._end(future, RunInterrupted(f"{desk.name} stopped before it was accepted"))
            elif self._backlog or not (desk.levels.count < desk.room.ample or self._has_room()):
                self._backlog.append(entry)
                self._feed()
            else:
                self._accept(future, args, context)

    def _has_room(self) -> bool:
        desk = self._desk
        return desk.setup.overflow != "wait" or desk.room.is_free()

    def _accept(self, future: ExecutorFuture[Any], args: tuple[Any, ...], context: Context) -> None:
        desk = self._desk
        ticket: FutureTicket
        if self._away:
            ticket = AwayTicket.__new__(AwayTicket)
            ticket.future = future
            AwayTicket.__init__(ticket, desk, future._fn, args, True, NORMAL, context)
            if desk.setup.takes is None:
                try:
                    desk.setup.check(future._fn, True)
                except ConfigError as error:
                    self._end(future, error)
                    return
        else:
            ticket = FutureTicket(desk, future, args, True, NORMAL, context)
            ticket.future = future
        if self._special:
            self._specify(ticket)
        self._book[future] = ticket
        if desk.setup.overflow != "wait" and not desk.has_room(ticket):
            try:
                if not desk.make_room(ticket):
                    return  # it has been dropped
            except QueueFull as error:
                self._end(future, error)
                return
        desk.accept(ticket)

    def _specify(self, ticket: FutureTicket) -> None:
        """What the queue asks of each run."""
        terms, more = self._desk.setup.terms, ticket.more()
        more.timeout, more.rules, more.due_span = terms.timeout, terms.rules, terms.deadline

    def _take_cancelled(self, future: ExecutorFuture[Any]) -> None:
        """It was cancelled, or its executor is broken."""
        ticket = self._book.get(future)
        if ticket is not None:
            self._desk.ends.end_early(ticket, Status.CANCELLED, "its future was cancelled")
        elif future in self._book:
            self._end(future, None)

    def _feed(self) -> None:
        if not self._feeding:
            self._feeding = True
            spawn(self._feed_on(), f"{self._desk.name}-executor", self._desk.context).add_done_callback(self._fed)

    async def _feed_on(self) -> None:
        """There is no room now: wait for it, for one after the other."""
        desk, backlog = self._desk, self._backlog
        while backlog and desk.open:
            if not self._has_room():
                await desk.room.wait()
                desk.room.claim()
            if backlog and desk.open:
                future, args, context = backlog.popleft()
                if future in self._book and context is not None:
                    self._accept(future, args, context)

    def _fed(self, _: object) -> None:
        self._feeding = False
        if self._backlog and self._desk.open and not self._desk.going_down:
            self._feed()

    # --- ends -------------------------------------------------------------------------------

    def ended(self, ticket: FutureTicket) -> None:
        """A run has ended."""
        future = ticket.future
        if self._book.pop(future, _NOT_THERE) is _NOT_THERE:
            return
        if ticket._status is not SUCCEEDED and isinstance(ticket._result, InitializerFailed):
            self._break(future)
        elif future._state is not FINISHED:
            settle(ticket, future)
        future.forget()
        if self._watchers and not self._book:
            self._tell_watchers()

    def _end(self, future: ExecutorFuture[Any], error: BaseException | None) -> None:
        """End one that the queue has not, or no more. error: None where it was cancelled."""
        if self._book.pop(future, _NOT_THERE) is _NOT_THERE:
            return
        if future._state is CANCELLED:
            future.set_running_or_notify_cancel()
        elif error is not None and not future.done():
            fail(future, error)
        future.forget()
        if self._watchers and not self._book:
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        for event in self._watchers:
            event.set()

    def _break(self, future: ExecutorFuture[Any]) -> None:
        """The initializer has failed: nothing that has not begun will."""
        kind = "thread" if self._desk.setup.processes is None else "process"
        self._broken = f"A {kind} initializer failed, the {kind} pool is not usable anymore"
        for other in (future, *self._book):
            if other is future or other._state is PENDING:
                if not other.done():
                    fail(other, self._broken_error())
                self.cancelled(other)

    def _broken_error(self) -> RuntimeError:
        if self._desk.setup.processes is None:
            from concurrent.futures.thread import BrokenThreadPool

            return BrokenThreadPool(self._broken)
        from concurrent.futures.process import BrokenProcessPool

        return BrokenProcessPool(self._broken)

    # --- for the queue ----------------------------------------------------------------------

    def flush(self) -> None:
        """The queue is about to accept nothing more: what was submitted before is accepted."""
        for line in (self._backlog, self._inbox):
            for _ in range(len(line)):
                future, args, context = line.popleft()
                if future._state is not PENDING:
                    self._take_cancelled(future)
                elif context is not None and future in self._book:
                    self._accept(future, args, context)

    def life_over(self) -> None:
        """The queue has ended: so does whatever has not."""
        self._over = True
        for future, ticket in list(self._book.items()):
            said = "before it was accepted" if ticket is None else "before it was done"
            self._end(future, RunInterrupted(f"{self._desk.name} has ended {said}"))
        self._backlog.clear()
        self._inbox.clear()

    def left_behind(self) -> None:
        """This is a fork of the process that it belongs to. Of the threads there, only the one that forked is here."""
        self.lock = threading.RLock()
        for future in list(self._book):
            future.lock_anew(self.lock)
        self._forked = True
        self._posted = True  # nobody is to be woken: the loop's own pipe leads to the parent
        self.life_over()


#: All that there are, so that a forked child can end them.
_all: Final[weakref.WeakValueDictionary[int, QueueExecutor]] = weakref.WeakValueDictionary()


def _after_fork() -> None:
    for executor in list(_all.values()):
        executor.left_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _chunks(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk


def _joined(chunks: Any) -> Iterator[Any]:
    """The values of all chunks; none is kept once it has been given."""
    try:
        for chunk in chunks:
            chunk.reverse()
            while chunk:
                yield chunk.pop()
    finally:
        chunks.close()
