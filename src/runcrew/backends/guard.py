"""A watchdog for the event loop: who keeps it from everything else, and where.

A thread of its own asks the loop twice within the threshold for a sign of life. Where none comes, it looks
at what the loop's thread is doing. So a blockage is noticed once it has lasted for the threshold, at the
latest half a threshold later; one that is over before then may go unseen.

A call that keeps all other threads from running as well (a C function that holds on to the interpreter) keeps
this one from asking. It is known by this thread's being late although the loop's was at work all the time,
and is reported when it lets go, still in the act.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from contextvars import Context, copy_context
from types import FrameType
from typing import Any, Final, TypeAlias

from runcrew.backends.guarded import run_on
from runcrew.clock import SYSTEM, cpu_clock
from runcrew.durations import Duration, seconds, text
from runcrew.job import Run, current_run

#: Hears of a blockage: the job's name, the seconds that it has lasted so far, the stack of the loop's thread.
Report: TypeAlias = Callable[[str, float, str], object]

#: How many frames of the stack are shown, the innermost ones.
_FRAMES: Final = 30

_log: Final = logging.getLogger("runcrew")


class LoopGuard:
    """Reports each call that blocks the event loop for longer than `threshold`, once, while it does so.

    threshold: how long a single step of a task, or a callback, may take.
    report: called with the job's name, the seconds so far and the stack as text, on the guard's own thread and
        in the context of `start()`: the loop is what is blocked. What it raises is logged. A warning is
        logged in any case.
    forced: also watch a loop on which time is virtual. Otherwise starting on one does nothing.

    Costs one wake-up of the loop and one of the thread for each half of the threshold, from `start` to `stop`.
    Raises ConfigError for a threshold of zero, or what is none.
    """

    def __init__(self, threshold: Duration = "500ms", report: Report | None = None, *, forced: bool = False) -> None:
        self.threshold = seconds(threshold, "threshold", zero=False)
        self._report = report
        self._forced = forced
        self._watch: _Watch | None = None

    def start(self) -> None:
        """Begin to watch the running loop. Does nothing where it is watched already. Raises RuntimeError off a loop."""
        loop = asyncio.get_running_loop()
        if hasattr(loop, "runcrew_hold") and not self._forced:
            return
        if self._watch is not None:
            if self._watch.loop is loop and self._watch.thread.is_alive():
                return
            self.stop()
        self._watch = _Watch(loop, self.threshold, self._report)

    def stop(self) -> None:
        """Watch no more. The thread has ended, or ends with what it is reporting just now. Idempotent."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()


class _Watch:
    """The watching of one loop, from start to stop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threshold: float, report: Report | None) -> None:
        self.loop = loop
        self._threshold = threshold
        self._report = report
        self._context = copy_context()
        self._home = threading.get_ident()
        self._over = threading.Event()
        #: When the question was put that the loop has not answered yet.
        self._asked: float | None = None
        self._reported = False
        #: When this thread looked last, and what processor time the loop's had used then.
        self._looked = SYSTEM.monotonic()
        self._cpu = cpu_clock()
        self._used = self._cpu()
        self.thread = threading.Thread(target=self._run, name="runcrew-guard", daemon=True)
        self.thread.start()

    def end(self) -> None:
        self._over.set()
        if self.thread is not threading.current_thread():
            self.thread.join(1.0)

    def _run(self) -> None:
        while not SYSTEM.block(self._threshold / 2, self._over):
            try:
                if self.loop.is_closed():
                    return
                self._look()
            except (RuntimeError, OSError):  # it was closed this moment, or its thread has ended
                return

    def _look(self) -> None:
        now, used = SYSTEM.monotonic(), self._cpu()
        passed, worked = now - self._looked, used - self._used
        self._looked, self._used = now, used
        if passed >= self._threshold:  # this thread could not run either
            if worked >= self._threshold and not self._reported:
                self._tell(worked)
            elif self._asked is not None:
                self._asked += passed - self._threshold / 2  # nor could the loop's: that time is not its own
        if self._asked is None:
            self._asked = now
            self.loop.call_soon_threadsafe(self._answer)
        elif not self._reported and now - self._asked >= self._threshold:
            self._tell(now - self._asked)

    def _answer(self) -> None:
        self._asked, self._reported = None, False

    def _tell(self, lasted: float) -> None:
        frame = sys._current_frames().get(self._home)
        task = asyncio.current_task(self.loop)
        if frame is None or not self.loop.is_running() or (task is None and _is_idle(frame)):
            return  # nobody is at work on it: it does not run just now, or is about to answer
        job = _job_name(frame, task)
        stack = "".join(traceback.format_stack(frame, limit=_FRAMES))
        self._reported = True
        _log.warning("%s has blocked the event loop for %s:\n%s", job, text(lasted), stack)
        if self._report is not None:
            try:
                self._context.run(self._report, job, lasted, stack)
            except Exception:
                _log.exception("the report of a blocked event loop failed")


def _is_idle(frame: FrameType) -> bool:
    """Whether the loop's thread is in the loop's own code, between two callbacks."""
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in ("selectors", "asyncio") and frame.f_code.co_name != "_run"


def _job_name(frame: FrameType, task: asyncio.Task[Any] | None) -> str:
    """Who blocks: the job whose frame is on the stack, else the one that made the task, else the task or function."""
    run = run_on(frame) or _run_of(task)
    if run is not None:
        return run.job.name
    if task is not None:
        return task.get_name()
    return f"the callback {_callback(frame)}"


def _run_of(task: asyncio.Task[Any] | None) -> Run | None:
    """The run that a task belongs to, by its context; None also where this Python does not tell the context."""
    get_context: Callable[[], Context] | None = getattr(task, "get_context", None)  # 3.12+
    if get_context is None:
        return None
    try:
        return get_context().copy().run(current_run)
    except LookupError:
        return None


def _callback(frame: FrameType) -> str:
    """The outermost function that the loop has called."""
    name = frame.f_code.co_qualname
    at: FrameType | None = frame
    while at is not None and not (at.f_code.co_name == "_run" and at.f_globals.get("__name__") == "asyncio.events"):
        name = at.f_code.co_qualname
        at = at.f_back
    return name
