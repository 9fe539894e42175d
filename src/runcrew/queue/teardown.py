"""Teardown: what a queue makes of an event loop that is on its way down without a stop.

`asyncio.run` goes down in two steps. It cancels all tasks and waits for them; whatever is begun on the loop after that
is lost. Then it closes all async generators, and the loop. So there are two canaries: a task that does nothing and
is cancelled only by one who cancels all, and an async generator that is closed only when nothing else is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

from runcrew.lifecycle import Latch
from runcrew.lifecycle.tasks import MOMENT, spawn

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk


#: How long, in seconds, a loop that goes down may take for it. One that is still there then goes on.
PATIENCE: Final = 10.0


class Teardown:
    """Watches the loop of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._over = False
        #: The tasks that were cancelled together with the canary.
        self._dying: list[asyncio.Task[Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        #: Until when they are waited for, in loop time.
        self._until = 0.0
        self._canary = self._new_canary()
        self._last = self._last_word()
        _step(self._last.__anext__())

    @property
    def begun(self) -> bool:
        """Whether somebody has cancelled all tasks, and not all of them have ended."""
        return self._canary.cancelling() > 0

    def end(self) -> None:
        """This life is over: the loop may do what it wants."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._desk.loop.is_closed():
            self._canary.cancel()
            _step(self._last.aclose())

    def _new_canary(self) -> asyncio.Task[None]:
        canary = spawn(Latch().wait(), f"{self._desk.name}-canary", self._desk.context)
        canary.add_done_callback(self._canary_ended, context=self._desk.context)
        return canary

    def _canary_ended(self, _: object) -> None:
        if self._over:
            return
        self._dying = [task for task in asyncio.all_tasks() if task.cancelling()]
        self._until = self._desk.loop.time() + PATIENCE
        self._desk.hold()
        self._timer = self._desk.later(MOMENT, self._look)

    def _look(self) -> None:
        """Go on once all that was cancelled has ended, and there was a moment for the loop to close in.

        A task that does not heed its cancellation, in a loop that goes on, does not hold us up for ever.
        """
        if self._over:
            return
        groups = (self._desk.group, self._desk.spares.group)
        ending = any(group.closing for group in groups) or any(not task.done() for task in self._dying)
        if ending and self._desk.loop.time() < self._until:
            self._timer = self._desk.later(MOMENT, self._look)
            return
        self._dying = []
        self._canary = self._new_canary()
        self._desk.hold_no_more()

    async def _last_word(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            if not self._over:
                self._over = True
                self._desk.forsake("its event loop was torn down without a stop")


def _step(awaitable: Any) -> None:
    """Take the one step that there is."""
    try:
        awaitable.send(None)
    except (StopIteration, StopAsyncIteration):
        pass
