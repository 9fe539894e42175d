"""The part of a traceback that is the user's: without our frames and those of the import machinery."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from typing import Final

from runcrew.cli.safe import cut, safe_lines

_OURS: Final = (str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent), "<frozen importlib")


def user_part(error: BaseException) -> str:
    """The traceback of `error` and of what caused it, as text, where only frames outside this library are left."""
    trace = traceback.TracebackException.from_exception(error, compact=True)
    seen: TraceList = []
    _strip(trace, seen)
    return safe_lines(cut("".join(trace.format()).rstrip("\n")))


def user_place(error: BaseException) -> str:
    """`file, line n: ` of the innermost frame outside this library, or nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


TraceList = list[traceback.TracebackException]


def _strip(trace: traceback.TracebackException | None, seen: TraceList) -> None:
    if trace is None or any(trace is other for other in seen):
        return
    seen.append(trace)
    theirs = [frame for frame in trace.stack if not _is_ours(frame)]
    trace.stack = traceback.StackSummary.from_list(theirs)
    _strip(trace.__cause__, seen)
    _strip(trace.__context__, seen)
    for below in getattr(trace, "exceptions", None) or ():
        _strip(below, seen)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_OURS)
