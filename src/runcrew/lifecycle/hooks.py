"""Hooks: what a service calls when a stop begins, and when everything has ended.

A hook is a job like any other: async on the loop, plain in a thread. Hooks of one moment run one after
another, last added first, within one span of time. Each may use an equal share of what is left of it, so
that a slow one never starves the others; what it does not use goes to those behind it. A hook that
raises, or does not end in its time, is reported and stops nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from runcrew import clock
from runcrew.backends import LoopBackend, ThreadBackend
from runcrew.durations import text
from runcrew.errors import ConfigError
from runcrew.job import Job, Outcome, Run, Status
from runcrew.lifecycle.execution import Execution
from runcrew.lifecycle.report import HookError

_log: Final = logging.getLogger("runcrew")

#: `on_stopping=` and `on_stopped=` take one callable without arguments, or several.
Hooks: TypeAlias = Callable[[], Any] | Sequence[Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook, and the service that it belongs to."""

    service: str
    job: Job


def hooks_of(service: str, hooks: Hooks, name: str) -> list[Hook]:
    """The hooks that a service was given. Raises NotAJob (a ConfigError) for what cannot be called."""
    if callable(hooks):
        return [Hook(service, Job(hooks))]
    if isinstance(hooks, (str, bytes)) or not isinstance(hooks, Sequence):
        raise ConfigError(f"{name}: {hooks!r} is neither a callable nor a list of callables")
    return [Hook(service, Job(hook)) for hook in hooks]


async def run_hooks(hooks: Sequence[Hook], moment: str, budget: float, context: contextvars.Context) -> list[HookError]:
    """Run `hooks`, last first, within `budget` seconds. Never raises for a hook's fault; cancelling ends it."""
    time = clock.current()
    end = time.now() + budget
    errors = []
    for place, hook in enumerate(reversed(hooks)):
        share = max(0.0, end - time.now()) / (len(hooks) - place)
        error = await _run_hook(hook.job, share, context)
        if error is not None:
            what = f"{type(error).__name__}: {error}"
            _log.error("%s: %s hook %s failed: %s", hook.service, moment, hook.job.name, what, exc_info=error)
            errors.append(HookError(hook.service, hook.job.name, moment, error))
    return errors


async def _run_hook(hook: Job, share: float, context: contextvars.Context) -> BaseException | None:
    ended: list[Outcome[Any]] = []
    over = asyncio.Event()

    def on_end(_: Execution, outcome: Outcome[Any]) -> None:
        ended.append(outcome)
        over.set()

    run = Run(hook)
    run.cause = "hook"
    backend = LoopBackend() if hook.is_async else ThreadBackend()
    execution = Execution(run, backend.handle, on_end, context.copy())
    try:
        async with asyncio.timeout(share):
            await over.wait()
    except TimeoutError:
        pass
    finally:
        if not ended:
            execution.abandon(Status.INTERRUPTED, f"the hook had {text(share)}")
    if not ended:
        await asyncio.sleep(0)  # a hook that heeds its cancellation at once is gone when the next one begins
        return TimeoutError(f"it did not end within its share of the time, {text(share)}")
    return None if ended[0].status is Status.SUCCEEDED else ended[0].error
