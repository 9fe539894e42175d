"""Tasks of our own: how they are made, what is done when somebody else ends them, and where they are."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import traceback
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: How long a loop that is on its way down takes to close, in seconds. See `unless_torn_down`.
MOMENT: Final = 0.01

#: How many frames of a stack are shown, the innermost ones.
_FRAMES: Final = 12


def spawn(coro: Coroutine[Any, Any, T], name: str, context: contextvars.Context | None = None) -> asyncio.Task[T]:
    """A task on the running loop whose first step comes later, whatever the loop's task factory does.

    An eager first step would run before whoever asked for the task holds it, and could not be cancelled.
    """
    return asyncio.Task(coro, loop=asyncio.get_running_loop(), name=name, context=context)


def unless_torn_down(callback: Callable[..., object], *args: Any) -> None:
    """Call `callback` in a moment; never, if the running loop is closed by then.

    For what follows when somebody else has cancelled a task of ours. Mostly that is `asyncio.run` on its way
    down: it cancels every task, then closes the loop, and whatever is begun on it in between is lost.
    """
    asyncio.get_running_loop().call_later(MOMENT, callback, *args)


def task_stack(task: asyncio.Task[Any]) -> str:
    """Where a task waits, as text: the coroutines that await each other, innermost last."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    shown = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames[-_FRAMES:])
    return "".join(shown.format())


def thread_stack(ident: int | None) -> str:
    """Where a thread is now, as text; empty where it is not known."""
    frame = sys._current_frames().get(ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame, limit=-_FRAMES))
