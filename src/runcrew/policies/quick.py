"""The way of an async function that has only retry and timeout around it, without a chain.

A call that succeeds costs a context variable and one `try`: no Outcome is made, and no Run unless somebody
looks at it (or a timeout needs it). A first attempt that fails is handed to the loop that all others use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from runcrew import clock
from runcrew.backends import LoopBackend
from runcrew.job import Job, Outcome, Run, Status, enter, enter_unmade, leave, made
from runcrew.policies.compile import Options
from runcrew.policies.retrying import Retrying, being_cancelled, retrying
from runcrew.policies.timeout import Alarm, limited, timed_out


def quick(job: Job, options: Options) -> Callable[..., Any]:
    """An async function that runs `job` with retry and timeout."""
    handler = LoopBackend().handle
    if options.timeout is None:
        return _untimed(job, retrying(handler, options.retry))
    return _timed(job, retrying(limited(handler, options.timeout), options.retry), options.timeout)


def _untimed(job: Job, rest: Retrying) -> Callable[..., Any]:
    fn = job.fn

    async def call(*args: Any, **kwargs: Any) -> Any:
        parts = [job, args, kwargs]
        token = enter_unmade(parts)
        try:
            value = await fn(*args, **kwargs)
        except GeneratorExit:  # the coroutine is thrown away, perhaps in another context
            raise
        except BaseException as raised:
            error = raised
        else:
            leave(token)
            return value
        leave(token)
        try:
            return await _go_on(made(parts), error, rest)
        finally:
            del error, parts  # its traceback holds this frame: without this, each would keep the other

    return call


def _timed(job: Job, rest: Retrying, span: float) -> Callable[..., Any]:
    fn = job.fn

    async def call(*args: Any, **kwargs: Any) -> Any:
        run = Run(job, args, kwargs)
        run.queued = run.started = now = clock.current().now()
        run.limit = now + span
        loop = asyncio.get_running_loop()
        alarm = Alarm(run, loop, loop.time() + span)
        token = enter(run)
        try:
            value = await fn(*args, **kwargs)
        except GeneratorExit:
            alarm.off()
            raise
        except BaseException as raised:
            error = raised
        else:
            leave(token)
            alarm.off()
            return value
        leave(token)
        try:
            if alarm.off() and isinstance(error, asyncio.CancelledError):
                return await _retried(run, timed_out(run, span, error), rest)
            return await _go_on(run, error, rest)
        finally:
            del error, run

    return call


async def _go_on(run: Run, error: BaseException, rest: Retrying) -> Any:
    """After a first attempt that raised."""
    if isinstance(error, asyncio.CancelledError) and being_cancelled():
        raise error
    now = clock.current().now()
    if run.started is None:  # nobody looked at the time when it began
        run.queued = run.started = now
    return await _retried(run, run.finished(Status.FAILED, now, error=error), rest)


async def _retried(run: Run, outcome: Outcome[Any], rest: Retrying) -> Any:
    if rest.rules:
        outcome = await rest.resume(run, outcome)
    return outcome.unwrap()
