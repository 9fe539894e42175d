"""Deadline: a limit on the run as a whole, from its acceptance, over all attempts and waits."""

from __future__ import annotations

import asyncio
from typing import Any

from runcrew import clock
from runcrew.abc import Handler
from runcrew.durations import text
from runcrew.errors import RunTimeout
from runcrew.job import HISTORY, Attempt, Outcome, Run, Status
from runcrew.policies.timeout import in_time


def due_by(inner: Handler, span: float) -> Handler:
    """Wrap a handler so that a run ends as `timed_out` when it is `span` seconds old.

    Counted from `run.queued`, or from here where nobody has noted that. An earlier deadline that the run
    has already is kept. Where it has passed, nothing begins.
    """

    async def handle(run: Run) -> Outcome[Any]:
        if not accept(run, span):
            return over(run, span, None)
        loop = asyncio.get_running_loop()
        assert run.due is not None
        ended = await in_time(run, inner, loop.time() + run.due - clock.current().now())
        return over(run, span, ended) if isinstance(ended, asyncio.CancelledError) else ended

    return handle


def accept(run: Run, span: float) -> bool:
    """Set the run's deadline. False: it has passed already."""
    now = clock.current().now()
    if run.queued == 0.0:
        run.queued = now
    due = run.queued + span
    run.due = due if run.due is None else min(run.due, due)
    return now < run.due


def over(run: Run, span: float, cut: BaseException | None) -> Outcome[Any]:
    """The outcome of a run whose deadline has passed; what it was at then is in its history."""
    now = clock.current().now()
    own = run.due is None or run.due >= run.queued + span
    what = f"its deadline of {text(span)}" if own else "its deadline"
    recorded = run.history[-1].number if run.history else 0
    if run.started is None:
        said = f"{what} passed before it began"
    elif recorded < run.attempt:
        said = f"{what} passed in attempt {run.attempt}"
    else:
        said = f"{what} passed before attempt {run.attempt + 1}"
    error = RunTimeout(f"{run.job.name}: {said}")
    error.__cause__ = cut if cut is not None or not run.history else run.history[-1].error
    if run.started is not None and recorded < run.attempt:
        cut_off = Attempt(run.attempt, Status.TIMED_OUT, error, run.started if run.attempt == 1 else None, now)
        run.history = (*run.history[1 - HISTORY :], cut_off)
    return run.finished(Status.TIMED_OUT, now, error=error, reason=said)
