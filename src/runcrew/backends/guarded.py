"""The one guard: where the code of users is called, and where all that it may do becomes an Outcome.

Whatever a job raises ends as `failed` with the job's own exception object, also SystemExit, KeyboardInterrupt
and a CancelledError that nobody asked for. A CancelledError that somebody did ask for is no outcome:
on the loop it goes on its way, and in a thread it says that the job heeded the request.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Token
from types import CoroutineType, FrameType
from typing import Any, Final

from runcrew import clock as clocks
from runcrew.job import Outcome, Run, Status, enter, leave


async def await_job(run: Run) -> Outcome[Any]:
    """Carry out one attempt of an async job in the current task.

    Raises asyncio.CancelledError where the job let through a cancellation that was meant for it.
    """
    now = clocks.current().now
    if run.started is None:
        run.started = now()
    token = enter(run)
    try:
        value = await run.job.fn(*run.args, **run.kwargs)
    except asyncio.CancelledError as error:
        if _was_asked(run):
            raise
        return run.finished(Status.FAILED, now(), error=error)
    except BaseException as error:
        return run.finished(Status.FAILED, now(), error=error)
    finally:
        _leave(token)
    return run.finished(Status.SUCCEEDED, now(), value=value)


def call_job(run: Run) -> Outcome[Any]:
    """Carry out one attempt of a plain job here and now, on the loop. Raises as `await_job` does."""
    now = clocks.current().now
    if run.started is None:
        run.started = now()
    token = enter(run)
    try:
        value = run.job.fn(*run.args, **run.kwargs)
    except asyncio.CancelledError as error:
        if _was_asked(run):
            raise
        return run.finished(Status.FAILED, now(), error=error)
    except BaseException as error:
        return run.finished(Status.FAILED, now(), error=error)
    finally:
        _leave(token)
    return _returned(run, value, now())


class Turn:
    """One attempt's time in a thread, as the thread and the loop that waits for it agree on it.

    The thread may be held up anywhere, also before its first line, and the run may be at its next attempt by
    then: so beginning, ending and giving up exclude each other.

    on_return: called in the thread when an attempt that was given up while it ran has ended.
    """

    __slots__ = ("_lock", "_on_return", "ended", "given_up", "thread")

    def __init__(self, on_return: Callable[[Turn], None]) -> None:
        self._on_return = on_return
        self._lock = threading.Lock()
        #: Where it runs, once it has begun.
        self.thread: threading.Thread | None = None
        self.given_up = self.ended = False

    def begin(self, run: Run) -> bool:
        """In the thread: whether the attempt may begin; the run then says where it is."""
        thread = threading.current_thread()
        with self._lock:
            if self.given_up:
                return False
            # In this order: who asks it to end says why first and looks at `in_thread` next: one sees the other.
            run.in_thread, run.thread = True, thread.ident
            if run.why is not None:
                return False
            self.thread = thread
            return True

    def end(self) -> None:
        """In the thread: the job has ended."""
        with self._lock:
            self.ended = True
        if self.given_up:
            self._on_return(self)

    def give_up(self) -> bool:
        """On the loop: it never begins, or nobody waits for it. Whether it is running."""
        with self._lock:
            self.given_up = True
            return self.thread is not None and not self.ended


def call_job_in_thread(run: Run, turn: Turn) -> Outcome[Any] | None:
    """Carry out one attempt of a plain job in this thread, in a context of its own.

    None: it ended because it was asked to, or never began because of that. Never raises.
    """
    if not turn.begin(run):
        return None
    try:
        return _carry_out(run, turn)
    finally:
        turn.end()


def _carry_out(run: Run, turn: Turn) -> Outcome[Any] | None:
    now = clocks.current().now
    if run.started is None:
        run.started = now()
    enter(run)
    try:
        value = run.job.fn(*run.args, **run.kwargs)
    except asyncio.CancelledError as error:
        if run.told or turn.given_up or run.why is not None:  # `told` may be that of the next attempt by now
            return None
        return run.finished(Status.FAILED, now(), error=error)
    except BaseException as error:
        return run.finished(Status.FAILED, now(), error=error)
    return _returned(run, value, now())


#: The code in whose frames a local variable `run` is the run that is being carried out.
_GUARDS: Final = (await_job.__code__, call_job.__code__)


def run_on(stack: FrameType | None) -> Run | None:
    """The innermost run that is being carried out on a stack; None where there is none. From any thread."""
    while stack is not None:
        if stack.f_code in _GUARDS:
            run: Run = stack.f_locals["run"]
            return run
        stack = stack.f_back
    return None


def _was_asked(run: Run) -> bool:
    """Whether somebody wanted this CancelledError: it is then not the job's own doing."""
    if run.why is not None:
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _returned(run: Run, value: Any, now: float) -> Outcome[Any]:
    """The outcome of a plain job that returned: what it returned must not be something still to be awaited."""
    if value is None or (error := gave_awaitable(run.job.name, value)) is None:
        return run.finished(Status.SUCCEEDED, now, value=value)
    return run.finished(Status.FAILED, now, error=error)


def is_awaitable(value: object) -> bool:
    """Whether it is something that is still to be awaited."""
    return hasattr(type(value), "__await__")


def gave_awaitable(name: str, value: Any) -> TypeError | None:
    """What is wrong with a plain function that gave this; None: nothing, it is no awaitable."""
    if not is_awaitable(value):
        return None
    what = f"an object of type {type(value).__qualname__}"
    if isinstance(value, CoroutineType):
        what = f"the coroutine {value.__qualname__}"
        value.close()  # nobody will await it; closing spares the user a second, misleading warning
    return TypeError(
        f"the plain function {name} returned an awaitable ({what}), which nobody awaits: "
        "write it with `async def`, and await there"
    )


def _leave(token: Token[Run]) -> None:
    try:
        leave(token)
    except ValueError:  # a task was thrown away with its loop, and this frame is being closed from elsewhere
        pass
