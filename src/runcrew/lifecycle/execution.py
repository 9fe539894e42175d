"""One run under way, in a task of its own.

The end of the task is observed from outside, once: a task that is cancelled before its first step never
runs a line of its body, so nothing that must happen may depend on code inside it.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import traceback
from collections.abc import Callable
from typing import Any

from runcrew import clock
from runcrew.abc import Handler
from runcrew.job import Outcome, Run, Status, enter


class Execution:
    """Carries `run` out through `handler`, and calls `on_end(run, outcome)` from the loop when it is over."""

    __slots__ = ("_on_end", "_outcome", "run", "task")

    def __init__(
        self,
        run: Run,
        handler: Handler,
        on_end: Callable[[Execution, Outcome[Any]], None],
        context: contextvars.Context,
    ) -> None:
        self.run = run
        self._on_end = on_end
        self._outcome: Outcome[Any] | None = None
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._carry_out(handler), name=run.job.name, context=context)
        # The callback runs in the caller's context, not the job's: what it starts is the library's own.
        self.task.add_done_callback(self._ended)

    async def _carry_out(self, handler: Handler) -> None:
        enter(self.run)
        self._outcome = await handler(self.run)

    def _ended(self, task: asyncio.Task[None]) -> None:
        outcome = self._outcome
        if outcome is None:
            outcome = self._explain(task)
        elif not task.cancelled():
            task.exception()  # mark it as seen: what the handler returned is what counts
        self._on_end(self, outcome)

    def _explain(self, task: asyncio.Task[None]) -> Outcome[Any]:
        """The outcome of a run whose handler did not return one."""
        run, now = self.run, clock.current().now()
        if not task.cancelled():
            return run.finished(Status.FAILED, now, error=task.exception(), reason="a policy or middleware failed")
        if run.why is not None:
            return run.ended_by_request(now)
        unasked = asyncio.CancelledError("its task was cancelled, and not by its service")
        return run.finished(Status.FAILED, now, error=unasked, reason="its task was cancelled from outside")

    # --- asking for the end -------------------------------------------------------

    def finish_soon(self, text: str) -> None:
        """Let the current attempt finish, and begin no other; a pause between attempts ends at once."""
        self.run.ask_to_end(Status.INTERRUPTED, text)
        if self.run.wake is not None:
            self.run.wake()

    def cancel(self, why: Status, text: str) -> None:
        """Ask the run to end now. A job in a thread is told, and goes on until it looks or is abandoned."""
        self.run.ask_to_end(why, text)
        self.run.tell()
        if not self.run.in_thread:
            self.task.cancel()

    def abandon(self, why: Status, text: str) -> None:
        """End it now, also where the job does not listen: a thread is given up, a task cancelled once more."""
        self.run.ask_to_end(why, text)
        self.run.tell()
        self.task.cancel()

    def stack(self) -> str:
        """Where the run is now, as text."""
        if self.run.in_thread:
            return thread_stack(self.run.thread)
        return task_stack(self.task)


def task_stack(task: asyncio.Task[Any]) -> str:
    """Where a task waits, as text: all coroutines from its own to the innermost, which asyncio does not show."""
    frames = []
    inner: Any = task.get_coro()
    while inner is not None and len(frames) < 100:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None) or getattr(inner, "ag_frame", None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        inner = next((i for a in ("cr_await", "gi_yieldfrom", "ag_await") if (i := getattr(inner, a, None))), None)
    return "".join(traceback.StackSummary.extract(frames[-12:]).format())


def thread_stack(ident: int | None) -> str:
    """Where a thread is now, as text; empty where it is not known."""
    frame = sys._current_frames().get(ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame, limit=12))
