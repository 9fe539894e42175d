"""The way of an async function that has only retry and timeout around it, without a chain.

A call that succeeds costs a context variable and one `try`: no Outcome is made, and no Run unless somebody
looks at it (or a timeout needs it). A first attempt that fails is handed to the loop that all others use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from runcrew import clock
from runcrew.job import Job, Outcome, Run, Status, enter, enter_unmade, entered, leave, made, outer_of
from runcrew.policies.compile import Options
from runcrew.policies.retry import FRESH, GiveUp, decide
from runcrew.policies.retrying import Brief, Retrying, being_cancelled, follows_at_once, retrying
from runcrew.policies.timeout import Alarm, limited, timed_out


def quick(job: Job, options: Options) -> Callable[..., Any]:
    """An async function that runs `job` with retry and timeout."""
    if options.timeout is None:
        return _untimed(job, retrying(_attempt, options.retry))
    return _timed(job, retrying(limited(_attempt, options.timeout), options.retry), options.timeout)


def _untimed(job: Job, rest: Retrying) -> Callable[..., Any]:
    fn, rules = job.fn, rest.rules

    async def call(*args: Any, **kwargs: Any) -> Any:
        run: Any = [job, args, kwargs]  # a Run as soon as somebody looks
        last = None
        while True:  # twice at most: a first retry without a wait is the one case in which the loop's cost would show
            token = enter_unmade(run)
            try:
                # `**` costs also where nothing is in it
                value = await (fn(*args, **kwargs) if kwargs else fn(*args))
            except GeneratorExit:  # the coroutine is thrown away, perhaps in another context
                raise
            except BaseException as raised:
                leave(token)
                if isinstance(raised, asyncio.CancelledError) and being_cancelled():
                    _given_up(run)
                    raise
                error = raised
            else:
                leave(token)
                run = None  # its history holds errors, whose tracebacks hold this frame, which holds it
                return value
            now, run, decided = clock.current().now(), made(run), None
            if last is not None:
                break
            run.outer = outer_of(token)
            if run.started is None:  # nobody looked at the time when it began
                run.queued = run.started = now
            decided = decide(rules, FRESH, error, now=now)
            if isinstance(decided, GiveUp) or not follows_at_once(run, decided, error, now, asyncio.current_task()):
                break
            last = decided
            del error
        try:
            return (await rest.resume(run, Brief(None, error, now), decided, last)).unwrap()
        except asyncio.CancelledError:
            _given_up(run)
            raise
        finally:
            del error, run

    return call


def _timed(job: Job, rest: Retrying, span: float) -> Callable[..., Any]:
    fn = job.fn

    async def call(*args: Any, **kwargs: Any) -> Any:
        run = Run(job, args, kwargs)
        run.queued = run.started = now = clock.current().now()
        run.limit, run.outer = now + span, entered()
        loop = asyncio.get_running_loop()
        alarm = Alarm(run, loop, loop.time() + span)
        token = enter(run)
        try:
            value = await fn(*args, **kwargs)
        except GeneratorExit:
            alarm.off()
            raise
        except BaseException as raised:
            leave(token)
            cut = alarm.off() and isinstance(raised, asyncio.CancelledError)
            if not cut and isinstance(raised, asyncio.CancelledError) and being_cancelled():
                _given_up(run)
                raise
            error = raised
        else:
            leave(token)
            alarm.off()
            return value
        outcome = timed_out(run, span, error) if cut else Brief(None, error, clock.current().now())
        try:
            return (await rest.resume(run, outcome)).unwrap()
        except asyncio.CancelledError:
            _given_up(run)
            raise
        finally:
            del error, outcome, run

    return call


def _given_up(parts: Any) -> None:
    """The caller was cancelled: what the job has started, and looks at the run, is told so, as in a chain."""
    if isinstance(parts, Run) or len(parts) > 3:
        run = made(parts)
        run.ask_to_end(Status.CANCELLED, "its caller was cancelled")
        run.tell()


async def _attempt(run: Run) -> Outcome[Any]:
    """Another attempt, as the backend for event loops makes it."""
    token = enter(run)
    try:
        value = await run.job.fn(*run.args, **run.kwargs)
    except GeneratorExit:
        raise
    except BaseException as raised:
        leave(token)
        if isinstance(raised, asyncio.CancelledError) and being_cancelled():
            raise
        error = raised
    else:
        leave(token)
        return Brief(value)
    try:
        return Brief(None, error, clock.current().now())
    finally:
        del error, run
