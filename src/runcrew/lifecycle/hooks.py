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

from runcrew.backends import LoopBackend, ThreadBackend, services
from runcrew.durations import text
from runcrew.errors import ConfigError, brief
from runcrew.job import Job, Outcome, Run, Status
from runcrew.lifecycle.execution import Execution
from runcrew.lifecycle.latch import Latch, Limit
from runcrew.lifecycle.report import HookError

_log: Final = logging.getLogger("runcrew")

#: `on_stopping=` and `on_stopped=` take one callable without arguments, or several.
Hooks: TypeAlias = Callable[[], Any] | Sequence[Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook, the service that it belongs to, and the context variables of whoever started that."""

    service: str
    job: Job
    context: contextvars.Context


def hooks_of(hooks: Hooks, name: str) -> list[Job]:
    """The hooks that a service was given. Raises NotAJob (a ConfigError) for what cannot be called."""
    if callable(hooks):
        return [Job(hooks)]
    if isinstance(hooks, (str, bytes)) or not isinstance(hooks, Sequence):
        raise ConfigError(f"{name}: {hooks!r} is neither a callable nor a list of callables")
    return [Job(hook) for hook in hooks]


async def run_hooks(hooks: list[Hook], moment: str, limit: Limit, tell: Callable[[HookError], None]) -> None:
    """Run `hooks`, last first, until `limit`, which may move closer; `tell` hears of each that failed.

    Takes each out of the list before it is run. Never raises for a hook's fault. Cancelling ends it.
    """
    loop = asyncio.get_running_loop()
    while hooks:
        share = max(0.0, limit.when - loop.time()) / len(hooks)
        hook = hooks.pop()
        error: BaseException | None = None
        try:
            error = await _run_hook(hook, share, limit)
        except asyncio.CancelledError as cut:
            error = cut
            raise
        finally:
            if error is not None:
                what = brief(error)
                _log.error("%s: %s hook %s failed: %s", hook.service, moment, hook.job.name, what, exc_info=error)
                tell(HookError(hook.service, hook.job.name, moment, error))


async def _run_hook(hook: Hook, share: float, limit: Limit) -> BaseException | None:
    if share <= 0:
        return TimeoutError("there was no time left for it")
    ended: list[Outcome[Any]] = []
    over = Latch()

    def on_end(_: Execution, outcome: Outcome[Any]) -> None:
        ended.append(outcome)
        over.open()

    run = Run(hook.job)
    run.cause = "hook"
    backend = LoopBackend() if hook.job.is_async else ThreadBackend(services())
    execution = Execution(run, backend.handle, on_end, hook.context.copy())
    try:
        await over.wait_until(limit.within(share))
    finally:
        if not ended:
            execution.abandon(Status.INTERRUPTED, f"the hook had {text(share)}")
    if not ended:
        await asyncio.sleep(0)  # a hook that heeds its cancellation at once is gone when the next one begins
    if not ended or ended[0].status is Status.INTERRUPTED:
        return TimeoutError(f"it did not end within its share of the time, {text(share)}")
    return None if ended[0].status is Status.SUCCEEDED else ended[0].error
