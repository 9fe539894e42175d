"""One run under way, in a task of its own.

The end of the task is observed from outside, once: a task that is cancelled before its first step never
runs a line of its body, so nothing that must happen may depend on code inside it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from runcrew import clock
from runcrew.abc import Handler
from runcrew.errors import ConfigError
from runcrew.job import Outcome, Run, Status, enter
from runcrew.lifecycle.tasks import spawn, task_stack, thread_stack, unless_torn_down


class Execution:
    """Carries `run` out through `handler`, and calls `on_end(execution, outcome)` from the loop when it is over."""

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
        self.task = spawn(self._carry_out(handler), run.job.name, context)
        # The callback runs in the caller's context, not the job's: what it starts is the library's own.
        self.task.add_done_callback(self._ended)

    async def _carry_out(self, handler: Handler) -> None:
        enter(self.run)
        if self.run.final:  # asked to end before it began
            self._outcome = self.run.ended_by_request(clock.current().now())
        else:
            self._outcome = await self._handled(handler)

    async def _handled(self, handler: Handler) -> Outcome[Any]:
        """What the handler returns. Whatever else it does is a fault of a middleware, and the run's failure."""
        try:
            return checked_outcome(await handler(self.run), self.run)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # SystemExit would end the loop otherwise
            now = clock.current().now()
            return self.run.finished(Status.FAILED, now, error=error, reason="a policy or middleware failed")

    def _ended(self, task: asyncio.Task[None]) -> None:
        run, outcome, now = self.run, self._outcome, clock.current().now()
        if outcome is not None:
            self._on_end(self, outcome)
        elif run.why is not None:
            self._on_end(self, run.ended_by_request(now))
        else:
            error = asyncio.CancelledError("its task was cancelled, and not by its service")
            outcome = run.finished(Status.FAILED, now, error=error, reason="its task was cancelled from outside")
            unless_torn_down(self._on_end, self, outcome)

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
        return thread_stack(self.run.thread) if self.run.in_thread else task_stack(self.task)


def checked_outcome(given: object, run: Run) -> Outcome[Any]:
    """What a handler gave, if it is an Outcome that can be counted. Raises ConfigError, naming it, otherwise.

    Middleware and backends of others make outcomes too. A status may be its plain string.
    """
    by = f"middleware or backend: the handler of {run.job.name}"
    if not isinstance(given, Outcome):
        raise ConfigError(f"{by} gave {given!r}, and should give an Outcome")
    if type(given.status) is not Status:
        try:
            given.status = Status(given.status)
        except ValueError:
            raise ConfigError(f"{by} gave the status {given.status!r}, which is none: {', '.join(Status)}") from None
    for name, instant in (("started", given.started), ("ended", given.ended), ("queued", given.queued)):
        if not isinstance(instant, float | int) and not (name == "started" and instant is None):
            raise ConfigError(f"{by} gave {name}={instant!r}, and should give seconds since the epoch")
    return given  # pyright: ignore[reportUnknownVariableType]
