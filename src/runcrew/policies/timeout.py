"""Timeout: a limit on each attempt, by cancelling the task that it runs in.

The alarm keeps the promises of `asyncio.timeout`, on every version alike: it takes back the cancellation
that it made, so `task.cancelling()` is what it was; and where somebody else has cancelled the task too,
that wins and goes on its way.
"""

from __future__ import annotations

import asyncio
from typing import Any

from runcrew import clock
from runcrew.abc import Handler
from runcrew.durations import text
from runcrew.errors import RunTimeout
from runcrew.job import Outcome, Run, Status


class Alarm:
    """Cancels the current task at `when` (on the loop's clock), having told the run. `off()` ends it."""

    __slots__ = ("_before", "_rang", "_run", "_task", "_timer")

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop, when: float) -> None:
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a timeout needs a task to cancel: run this inside one")
        self._run = run
        self._task = task
        self._before = task.cancelling()
        self._rang = False
        self._timer: asyncio.TimerHandle | None = loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._rang, self._timer = True, None
        try:
            self._run.tell()
        finally:
            self._task.cancel()

    def off(self) -> bool:
        """To be called once, when what it watches over has ended. Whether it rang, and nobody else cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._rang and self._task.uncancel() <= self._before


async def in_time(run: Run, handler: Handler, when: float) -> Outcome[Any] | asyncio.CancelledError:
    """Carry out `run` until `when` on the loop's clock. Gives what cut it off, where that was the alarm.

    What it returned although it was cut off counts, and so does an error of its own.
    """
    alarm = Alarm(run, asyncio.get_running_loop(), when)
    try:
        outcome = await handler(run)
    except asyncio.CancelledError as cut:
        if alarm.off():
            return cut
        raise
    except BaseException:
        alarm.off()
        raise
    alarm.off()
    return outcome


def timed_out(run: Run, span: float, cut: BaseException | None) -> Outcome[Any]:
    """The outcome of an attempt that took longer than `span` seconds."""
    said = f"attempt {run.attempt} took longer than its timeout of {text(span)}"
    for note in getattr(cut, "__notes__", ()):  # what it was waiting for
        said = f"{said}; {note}"
    error = RunTimeout(f"{run.job.name}: {said}")
    error.__cause__ = cut  # where it was cut off: the traceback says
    return run.finished(Status.TIMED_OUT, clock.current().now(), error=error, reason=said)


def limited(inner: Handler, span: float) -> Handler:
    """Wrap a handler so that each attempt ends as `timed_out` after `span` seconds.

    It counts from the start of the attempt, in the task that carries it out. A job that ends with a value
    although its time is up has succeeded; one that ends with an error of its own has failed.
    """

    async def handle(run: Run) -> Outcome[Any]:
        run.limit = clock.current().now() + span
        ended = await in_time(run, inner, asyncio.get_running_loop().time() + span)
        return timed_out(run, span, ended) if isinstance(ended, asyncio.CancelledError) else ended

    return handle
