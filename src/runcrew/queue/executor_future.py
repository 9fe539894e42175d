"""What an executor's `submit` gives: a future, and the ticket that stands for it in the queue.

A future of the standard library makes a lock, a condition and two lists, which most of its life nobody needs. This
one makes them when somebody waits for it, or watches it; until then all futures of one executor share a lock. All that
the standard methods do, they do under the condition, so they find everything there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED, FINISHED, LOGGER, PENDING, RUNNING
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from runcrew import job
from runcrew.errors import JobCrashed, NoRetry, NotAJob, RunCancelled
from runcrew.job import Job, Run, Status, entered
from runcrew.queue.ticket import More, Ticket

if TYPE_CHECKING:
    from runcrew.queue.executor import QueueExecutor

T = TypeVar("T")

#: What is no plain function, though it looks like one: coroutine functions, generators.
ODD: Final = 0x20 | 0x80 | 0x100 | 0x200


class ExecutorFuture(Future[T]):
    """The future of one submit. Called by a worker, in a thread, it does its job."""

    # Class attributes are the defaults: most futures need no more than these.
    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    #: The condition, once somebody has asked for it.
    _real: threading.Condition | None = None

    def __init__(self, executor: QueueExecutor, fn: Callable[..., T]) -> None:
        # Not the standard's: see the module's docstring.
        self._executor = executor
        self._lock = executor.lock
        self._fn: Any = fn

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        real = self._real
        if real is None:
            with self._lock:
                real = self._real
                if real is None:
                    self._waiters: list[Any] = []
                    self._done_callbacks: list[Any] = []
                    real = self._real = threading.Condition()
        return real

    @property
    def __name__(self) -> str:
        """What its job is called."""
        return name_of(self._fn)

    # --- for whoever holds it -------------------------------------------------------------

    def cancel(self) -> bool:
        """As of the standard: False where it runs, or has ended by itself; otherwise it never begins."""
        if not super().cancel():
            return False
        self._executor.cancelled(self)
        return True

    def done(self) -> bool:
        """As of the standard."""
        return self._state is not PENDING and self._state is not RUNNING

    def result(self, timeout: float | None = None) -> T:
        """As of the standard. To wait without a timeout on the queue's own loop, or in one of its jobs, raises
        WouldDeadlock."""
        if self._state is FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]
        try:
            if timeout is None and not self.done():
                self._executor.check_wait("the result of a future")
            return super().result(timeout)
        finally:
            del self  # a frame that is left by an error stays in its traceback: it must not lead back to the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of the standard; raises WouldDeadlock as `result` does."""
        if timeout is None and not self.done():
            self._executor.check_wait("the end of a future")
        return super().exception(timeout)

    def _invoke_callbacks(self) -> None:
        """As of the standard; but whatever a callback raises, it is not for the one who has done the job."""
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException:
                LOGGER.exception("exception calling callback for %r", self)

    # --- for the executor -----------------------------------------------------------------

    def set_running_or_notify_cancel(self) -> bool:
        """As of the standard."""
        if self._real is None:
            with self._lock:
                if self._real is None and self._state is PENDING:
                    self._state = RUNNING
                    return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        """As of the standard."""
        if self._real is None:
            with self._lock:
                if self._real is None and self._state is RUNNING:
                    self._result = result
                    self._state = FINISHED
                    return
        super().set_result(result)

    def begins(self) -> bool:
        """Its job is about to begin, or does so again. False: it is not to, since nobody wants it any more."""
        if self._state is RUNNING:
            return True
        if self.done() and self._state is not CANCELLED:
            return False  # its executor is broken
        return self.set_running_or_notify_cancel()

    def lock_anew(self, lock: Any) -> None:
        """In a fork: a thread that is not there may have held what it went by."""
        self._lock = lock
        if self._real is not None:
            self._real = threading.Condition()

    def forget(self) -> None:
        """It has ended: keep nothing of what it was made of but its name."""
        self._fn = name_of(self._fn)

    def __call__(self, *args: Any) -> T | None:
        """In the thread of a worker: do the job. Where that is all there is to it, its future ends right here."""
        executor = self._executor
        if not self.begins():
            _refuse()
        try:
            value: T = self._fn(*args)
        except BaseException as error:
            del self, executor, args  # the frames of the error lead back to this one: it must not lead to the error
            if isinstance(error, KeyboardInterrupt):  # of the job itself: nobody sits at the keyboard of a thread
                raise _Interrupted("the job raised KeyboardInterrupt") from error
            raise
        if executor.direct and not hasattr(type(value), "__await__"):
            try:
                self.set_result(value)
            except InvalidStateError:  # it was given up meanwhile, and nobody waits for it
                pass
            return None  # the value is the future's alone: nothing else is to keep it, even for a moment
        return value


class _Interrupted(JobCrashed, NoRetry):
    """Stands for a KeyboardInterrupt, which would end the whole queue. Its future raises the original."""


def _refuse() -> NoReturn:
    """In a worker: end the attempt as one that its caller has cancelled."""
    ticket = entered()
    if isinstance(ticket, Ticket):
        more = ticket.more()
        if more.why is None:
            more.why, more.why_text = Status.CANCELLED, "its future was cancelled"
    raise asyncio.CancelledError("its future was cancelled")


def is_plain(fn: Any) -> bool:
    """Whether it is a plain function, and nothing else, for sure."""
    if type(fn) is FunctionType:
        return not fn.__code__.co_flags & ODD
    return type(fn) is BuiltinFunctionType


def name_of(fn: Any) -> str:
    """What a job is called; or was, where nothing else is left of it."""
    return fn if isinstance(fn, str) else job.name_of(fn)


# --- tickets ------------------------------------------------------------------------------


class FutureTicket(Ticket[Any]):
    """The ticket of a future whose job is done in a thread of this process, or on its loop. Its `_fn` is the future."""

    __slots__ = ("future",)
    future: ExecutorFuture[Any]

    @property
    def _waiters(self) -> Any:
        return ()  # somebody waits for it, always: so its end is told, also where its loop is gone

    @_waiters.setter
    def _waiters(self, waiters: object) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Nobody else does."""

    def _wake(self) -> None:
        self.future._executor.ended(self)

    @property
    def name(self) -> str:
        """What the job is called."""
        return name_of(self.future._fn)

    def _make_run(self, more: More) -> Run:
        run = super()._make_run(more)
        if self._fn is self.future:
            try:
                run.job = Job(self.future._fn)  # as people, and keys, see it
            except NotAJob:  # a class, say
                pass
        return run


class AwayTicket(FutureTicket):
    """One whose job is done elsewhere: in another process, say. What travels is the function itself.

    Its future counts as running from when it is handed to a worker on.
    """

    __slots__ = ("_at",)

    @property
    def _worker(self) -> Any:
        return self._at

    @_worker.setter
    def _worker(self, worker: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._at = worker
        if worker is not None and self._status is None and not self.future.begins():
            self._fn, self._args = never, ()  # on its way to its end, which may come after its turn


def never() -> None:
    """Done in place of a job that was cancelled when it was about to be handed over."""


def settle(ticket: Ticket[Any], future: ExecutorFuture[Any]) -> None:
    """The run has ended: so does its future."""
    status, result = ticket._status, ticket._result
    if future._state is CANCELLED:
        future.set_running_or_notify_cancel()
    elif not future.done():
        if status is Status.SUCCEEDED:
            future.set_result(result)
        elif status is Status.FAILED:
            fail(future, result.__cause__ if isinstance(result, _Interrupted) else result)
        else:
            fail(future, error_of(ticket))


def fail(future: ExecutorFuture[Any], error: BaseException | None) -> None:
    """It ends with this error; or as cancelled, where another thread does that in this very moment."""
    try:
        future.set_exception(error)
    except InvalidStateError:
        if future._state is CANCELLED:
            future.set_running_or_notify_cancel()


def error_of(ticket: Ticket[Any]) -> BaseException:
    """What is raised for a run that ended in any other way."""
    try:
        ticket._outcome().unwrap()
    except BaseException as error:
        return error.with_traceback(None)
    return RunCancelled("it has ended without a result")
