"""Teardown: what a door with workers makes of an event loop that is on its way down without a stop.

`asyncio.run` goes down in two steps. It cancels all tasks and waits for them; whatever is begun on the loop after that
is lost. Then it closes all async generators, and the loop. So there are two canaries: a task that does nothing and
is cancelled only by one who cancels all, and an async generator that is closed only when nothing else is left.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, Protocol

from runcrew.backends.loop import step
from runcrew.lifecycle import Latch
from runcrew.lifecycle.tasks import MOMENT, spawn
from runcrew.workers.group import Group

#: How long, in seconds, a loop that goes down may take for it. One that is still there then goes on.
PATIENCE: Final = 10.0


class Host(Protocol):
    """Who wants to know: one life of a door. All of it is called on the loop."""

    loop: asyncio.AbstractEventLoop
    #: What is the library's own happens in this.
    context: contextvars.Context

    @property
    def name(self) -> str:
        """What to call it, for people."""
        ...

    def later(self, span: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call it in so many seconds, in the library's own context."""
        ...

    def hold(self) -> None:
        """Begin nothing from here on, and hire nobody: it would be lost."""

    def hold_no_more(self) -> None:
        """Go on: the loop does."""

    def forsake(self, reason: str) -> None:
        """The loop is about to be closed: nothing on it will ever go on."""


class Teardown:
    """Watches the loop of one life, and of these groups of workers."""

    def __init__(self, host: Host, groups: Sequence[Group]) -> None:
        self._host = host
        self._groups = groups
        self._over = False
        #: The tasks that were cancelled together with the canary.
        self._dying: list[asyncio.Task[Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        #: Until when they are waited for, in loop time.
        self._until = 0.0
        self._canary = self._new_canary()
        self._last = self._last_word()
        step(self._last.__anext__())

    @property
    def begun(self) -> bool:
        """Whether somebody has cancelled all tasks, and not all of them have ended."""
        return not self._over and self._canary.cancelling() > 0

    def end(self) -> None:
        """This life is over: the loop may do what it wants."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._host.loop.is_closed():
            self._canary.cancel()
            step(self._last.aclose())

    def _new_canary(self) -> asyncio.Task[None]:
        canary = spawn(Latch().wait(), f"{self._host.name}-canary", self._host.context)
        canary.add_done_callback(self._canary_ended, context=self._host.context)
        return canary

    def _canary_ended(self, _: object) -> None:
        if self._over:
            return
        self._dying = [task for task in asyncio.all_tasks() if task.cancelling()]
        self._until = self._host.loop.time() + PATIENCE
        self._host.hold()
        self._timer = self._host.later(MOMENT, self._look)

    def _look(self) -> None:
        """Go on once all that was cancelled has ended, and there was a moment for the loop to close in.

        A task that does not heed its cancellation, in a loop that goes on, does not hold us up for ever.
        """
        if self._over:
            return
        ending = any(group.closing for group in self._groups) or any(not task.done() for task in self._dying)
        if ending and self._host.loop.time() < self._until:
            self._timer = self._host.later(MOMENT, self._look)
            return
        self._dying = []
        self._canary = self._new_canary()
        self._host.hold_no_more()

    async def _last_word(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            if not self._over:
                self._over = True
                self._host.forsake("its event loop was torn down without a stop")
