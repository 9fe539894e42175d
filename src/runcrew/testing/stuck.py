"""What is said when nobody will ever wake the loop: which tasks wait, and where; which threads are busy, and where."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from pathlib import Path
from types import FrameType

from runcrew.errors import RuncrewError

#: Code in which everybody waits: it says nothing of who does.
_PYTHON = (
    str(Path(asyncio.__file__).parent),
    str(Path(concurrent.futures.__file__).parent),
    threading.__file__,
)


class Stuck(RuncrewError):
    """A virtual loop has nothing left to do, or has waited in real time for longer than its patience.

    It comes out of whatever runs the loop, never out of an `await`, so no job can swallow it. The message
    names what time is held by, the tasks that wait and the line on which each of them does.
    """


def tasks(loop: asyncio.AbstractEventLoop) -> str:
    """A line for each task that is not done, with the place where it waits."""
    waiting = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
    return _listed("tasks that wait", [f"{task.get_name()} {place(task.get_coro())}" for task in waiting])


def threads() -> str:
    """A line for each thread but this one, with the place where it is."""
    frames = sys._current_frames()
    here = threading.get_ident()
    return _listed(
        "other threads",
        [
            f"{thread.name} {_line(_stack(frames.get(thread.ident)))}"
            for thread in threading.enumerate()
            if thread.ident is not None and thread.ident != here
        ],
    )


def _listed(title: str, lines: list[str]) -> str:
    return f"\n{title}:" + "".join(f"\n  {line}" for line in lines) if lines else ""


def place(awaited: object) -> str:
    """Where a coroutine waits: the innermost line that is the user's, of the coroutines that await each other."""
    frames: list[FrameType] = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return _line(frames)


def _stack(frame: FrameType | None) -> list[FrameType]:
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _line(frames: list[FrameType]) -> str:
    """The innermost of these frames, or rather the innermost that does not belong to Python's own library."""
    if not frames:
        return "(no Python frame)"
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_PYTHON)] or frames
    code, line = own[-1].f_code, own[-1].f_lineno
    at = "" if own[-1] is frames[-1] else f", at {frames[-1].f_code.co_qualname}"
    return f"in {code.co_qualname}{at}, {code.co_filename}:{line}"
