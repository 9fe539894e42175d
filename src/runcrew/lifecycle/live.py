"""Without an event loop: what a plain thread sees of a service that lives in a background thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from runcrew import clock
from runcrew.durations import Duration, seconds
from runcrew.errors import AlreadyStarted, brief
from runcrew.lifecycle.calling import HEED, Call, LoopFuture
from runcrew.lifecycle.portal import Portal

if TYPE_CHECKING:
    from runcrew.lifecycle.service import BaseService

P = ParamSpec("P")
T = TypeVar("T")


class Live:
    """Calls into a service that lives in a background thread. From any thread, any number at once.

        with crew.in_thread() as live:
            user = live.call(db.run, load_user, 7)
            future = live.start(db.run, load_user, 8)

    What is called runs on the service's event loop: a coroutine function, in a task of its own; a plain function, which
    must not block there; or, without arguments, something that can be awaited, such as a ticket. It sees the
    context variables of the caller. While the service stops, what is under way goes on; what has not ended when the
    service has is cancelled, and its caller gets ServiceStopped.
    """

    __slots__ = ("_portal", "_span")

    def __init__(self, portal: Portal, span: float | None = None) -> None:
        self._portal = portal
        self._span = span

    def __repr__(self) -> str:
        return f"<Live {self._portal.name}{' (ended)' if self._portal.over.is_set() else ''}>"

    def with_timeout(self, timeout: Duration) -> Live:
        """The same, for calls that may take so long, each from its `call` or `start` on.

        When the time is up the call is cancelled on the loop; where it ends by that, RunTimeout (a TimeoutError) is
        raised. What it gives or raises of its own in spite of that counts. One that does not heed its cancellation is
        given up a second later; so is one that a blocked loop cannot cancel. With zero, nothing begins.
        """
        return Live(self._portal, seconds(timeout, "timeout"))

    @overload
    def call(self, fn: Awaitable[T], /) -> T: ...

    @overload
    def call(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    def call(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Have `fn(*args, **kwargs)` run on the loop, wait for its end, and give its value.

        Raises what it raises, whatever that is; RunTimeout where its time was up (see `with_timeout`); ServiceStopped
        after the end, and where the end came first; `concurrent.futures.CancelledError` where its task was cancelled
        from elsewhere. Raises WouldDeadlock on the service's own loop: await it there. ConfigError for what can
        neither be called nor awaited.
        A KeyboardInterrupt that comes while it waits cancels the call, and comes out when that has ended, or has not
        done so for a second.
        """
        portal = self._portal
        portal.check_elsewhere()
        call: Call[Any] = portal.begin(self._span, fn, args, kwargs)
        try:
            return _value(call)
        finally:
            del call  # a frame that is left by an error stays in its traceback: it must not lead back to the error

    @overload
    def start(self, fn: Awaitable[T], /) -> LoopFuture[T]: ...

    @overload
    def start(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> LoopFuture[T]: ...

    @overload
    def start(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> LoopFuture[T]: ...

    def start(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The same without waiting: a `concurrent.futures.Future` of what `call` would give or raise.

        Cancelling it cancels the task on the loop, also where that has begun: it is pending until the end, and never
        `running()`. Where the task is cancelled from elsewhere, the future is cancelled too.
        Raises ServiceStopped after the end, ConfigError for what can neither be called nor awaited.
        """
        return self._portal.begin(self._span, fn, args, kwargs).future


def _value(call: Call[Any]) -> Any:
    """Wait for its end, in a plain thread; give its value or raise its error."""
    future = call.future
    # Longer than the loop itself would take to give it up.
    limit = None if call.span is None else max(0.0, call.until - clock.SYSTEM.monotonic()) + 1.5 * HEED
    error: BaseException | None = None
    try:
        try:
            error = future.exception(limit)
        except CancelledError:
            raise
        except TimeoutError:
            call.time_up("did not end, and its loop did not go on,")
            error = future.exception()
        except BaseException as interrupt:
            _interrupted(call, interrupt)
            raise
        if error is None:
            return future.result()
        raise error
    finally:
        del error, future, call


def _interrupted(call: Call[Any], interrupt: BaseException) -> None:
    """The waiting was interrupted: cancel the call, and wait for its end, but not for ever."""
    if call.future.cancel():
        call.gone.wait(HEED)
    elif not call.future.cancelled() and (error := call.future.exception()) is not None:
        interrupt.add_note(f"and {call.name} failed: {brief(error)}")


class InThread:
    """`with service.in_thread() as live:`: see `BaseService.in_thread`. May be entered again after it was left."""

    def __init__(self, service: BaseService, stop_timeout: Duration) -> None:
        self._service = service
        self._stop_timeout = seconds(stop_timeout, "stop_timeout")
        self._portal: Portal | None = None

    def __repr__(self) -> str:
        return f"<InThread {self._service.name}>"

    def __enter__(self) -> Live:
        """Start the service; see `BaseService.in_thread`. Raises AlreadyStarted inside its own block."""
        if self._portal is not None:
            raise AlreadyStarted(f"{self._service.name} is in its thread already: use that, or leave it first")
        portal = self._portal = Portal(self._service, self._stop_timeout)
        try:
            portal.open()
        except BaseException:
            self._portal = None
            raise
        return Live(portal)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, and raise what ended it."""
        portal = self._portal
        assert portal is not None
        try:
            portal.leave(error)
        finally:
            self._portal = None
            del portal, error, trace
