"""One call from a plain thread to an event loop in another one, and the future that stands for it.

A call is in its portal's book from its making to its end, and whoever takes it out ends its future: so it ends once,
and whatever becomes of the loop, none is forgotten.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Coroutine
from concurrent import futures
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from runcrew import clock
from runcrew.backends.calls import name_of
from runcrew.durations import text
from runcrew.errors import ConfigError, RunTimeout, ServiceStopped, brief
from runcrew.lifecycle.tasks import spawn

if TYPE_CHECKING:
    from runcrew.lifecycle.portal import Portal

T = TypeVar("T")

_log: Final = logging.getLogger("runcrew")

#: How long a call that was cancelled may take to end before nobody waits for it any more, in seconds.
HEED: Final = 1.0


class LoopFuture(futures.Future[T]):
    """The future of a call. Cancelling it cancels the call's task on the loop; it is pending until the end."""

    def __init__(self, call: Call[T]) -> None:
        super().__init__()
        self._portal = call.portal
        #: None once it has ended: the two are not to hold each other.
        self._call: Call[T] | None = call

    def cancel(self) -> bool:
        """Cancel the call, also where it has begun. False: it has ended already."""
        if not super().cancel():
            return False
        if (call := self._call) is not None:
            call.cancel()
        return True

    def result(self, timeout: float | None = None) -> T:
        """The value, as of `concurrent.futures.Future`. Raises WouldDeadlock on the loop that is to bring it."""
        self._check_place()
        try:
            return super().result(timeout)
        finally:
            del self  # a frame that is left by an error stays in its traceback: it must not lead back to it

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, as of `concurrent.futures.Future`. Raises WouldDeadlock on the loop that is to bring it."""
        self._check_place()
        return super().exception(timeout)

    def _invoke_callbacks(self) -> None:
        """As of the standard; but whatever a callback raises, it does not end the loop on which it is called."""
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            try:
                callback(self)
            except BaseException as error:
                _log.error("a callback of %r failed: %s", self, brief(error), exc_info=error)

    def _check_place(self) -> None:
        if not self.done():
            self._portal.check_elsewhere()


class Call(Generic[T]):
    """One call. `end` is called from any thread, all else that is not said to be on the loop itself."""

    __slots__ = (
        "_args", "_context", "_error", "_fn", "_kwargs", "_late", "_task", "_timer", "_value", "future", "gone", "name",
        "portal", "span", "until",
    )  # fmt: skip

    def __init__(
        self, portal: Portal, span: float | None, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        _check(fn, bool(args or kwargs))
        self.portal = portal
        #: How long it may take, in seconds; and when that is over, by the system's clock.
        self.span = span
        self.until = 0.0 if span is None else clock.SYSTEM.monotonic() + span
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self._context = contextvars.copy_context()
        self.name = name_of(fn)
        self.future: LoopFuture[T] = LoopFuture(self)
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: Whether its time is up.
        self._late = False
        self._value: Any = None
        self._error: BaseException | None = None
        #: Set when the task has ended too: for one who waits for no more than that.
        self.gone = threading.Event()

    # --- from any thread --------------------------------------------------------------

    def cancel(self) -> None:
        """Nobody wants it any more: it never begins, or its task is cancelled."""
        self.portal.post(self.cancel_task)

    def end(self, value: Any = None, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        """This is what came of it. The first end stays."""
        if not self.portal.take_out(self):
            return
        future = self.future
        future._call = None
        try:
            if cancelled:
                future.cancel()
            if future.done() and not future.cancelled():
                return  # whoever holds it has ended it
            if not future.set_running_or_notify_cancel():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        except futures.InvalidStateError:
            pass  # the same, in this very moment
        finally:
            del error, future, self

    def stopped(self) -> None:
        """End it because its loop has ended."""
        self.end(error=ServiceStopped(f"{self.portal.name} has ended, and with it this call of {self.name}"))
        if self._task is None:
            self._forget()

    def time_up(self, said: str) -> None:
        """End it because its time is up."""
        self.end(error=RunTimeout(f"{self.name} {said} within {text(self.span or 0.0)}"))

    # --- on the loop ------------------------------------------------------------------

    def begin(self) -> None:
        """Have it carried out, in a task of its own."""
        if self.future.cancelled():
            self.end(cancelled=True)
            self._forget()
            return
        if self.portal.ending:
            self.stopped()
            return
        if self.span is not None:
            left = self.until - clock.SYSTEM.monotonic()
            if left <= 0:
                self.time_up("did not begin")
                self._forget()
                return
            self._timer = asyncio.get_running_loop().call_later(left, self._time_over)
        self._task = spawn(self._carry_out(), f"{self.portal.name}-call-{self.name}", self._context)
        self._task.add_done_callback(self._ended)

    async def _carry_out(self) -> None:
        """In a frame of its own; a SystemExit that left the task would end the loop."""
        try:
            self._value = await _outcome(self._fn, self._args, self._kwargs)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            trace = error.__traceback__
            for _ in range(2):  # it begins in the user's code
                trace = None if trace is None or trace.tb_next is None else trace.tb_next
            self._error = error if trace is None else error.with_traceback(trace)
            del trace, self  # the frames of the error lead back to this one: it must not lead to the error

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not task.cancelled():
            self.end(self._value, self._error)
        elif self._late:
            self.time_up("did not end")
        elif self.portal.ending:
            self.stopped()
        else:
            self.end(cancelled=True)
        self._value = self._error = self._task = None
        self._forget()

    def _forget(self) -> None:
        """It has ended, or will never begin."""
        _drop(self._fn)
        self._fn, self._args, self._kwargs = None, (), {}
        self.gone.set()

    def cancel_task(self) -> None:
        """Ask it to end."""
        if self._task is not None:
            self._task.cancel()

    def _time_over(self) -> None:
        self._late = True
        self.cancel_task()
        self._timer = asyncio.get_running_loop().call_later(
            HEED, self.time_up, "did not end, nor heed its cancellation,"
        )

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What carries it out, while that goes on."""
        return self._task


def _check(fn: object, has_arguments: bool) -> None:
    """Refuse what can neither be called nor awaited."""
    if not callable(fn) and (has_arguments or not isinstance(fn, Awaitable)):
        raise ConfigError(f"{fn!r} is not callable: give a function, its arguments behind it, or a ticket alone")


def _drop(fn: object) -> None:
    """Where nobody has awaited a coroutine, nobody will."""
    if isinstance(fn, CoroutineType):
        fn.close()


async def _outcome(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    value: Any = fn(*args, **kwargs) if callable(fn) else _awaited(fn)
    return (await value) if _is_coroutine(value) else value


async def _awaited(awaitable: Any) -> object:
    return await awaitable


def _is_coroutine(value: object) -> bool:
    return isinstance(value, Coroutine)
