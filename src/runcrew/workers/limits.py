"""How long a resource may be used, and lie idle: those that are over it leave, and are replaced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runcrew.workers.worker import FREE, Worker

if TYPE_CHECKING:
    from runcrew.workers.group import Group


class Limits:
    """Looks after one group. One timer for all, for the first that comes to its limit."""

    def __init__(self, group: Group) -> None:
        assert group.recipe is not None
        self._group = group
        self._max_age, self._max_idle = group.recipe.max_age, group.recipe.max_idle
        self._timer: asyncio.TimerHandle | None = None

    def is_too_old(self, worker: Worker) -> bool:
        """Whether it has had its resource for as long as it may."""
        return self._max_age is not None and self._group.loop.time() >= worker.opened_at + self._max_age

    def watch(self, worker: Worker) -> None:
        """It is free from here on."""
        worker.since = self._group.loop.time()
        ends = self._ends(worker)
        if self._timer is None or ends < self._timer.when():
            self.stop()
            self._timer = self._group.loop.call_at(ends, self._look, context=self._group.context)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ends(self, worker: Worker) -> float:
        age = worker.opened_at + self._max_age if self._max_age is not None else float("inf")
        idle = worker.since + self._max_idle if self._max_idle is not None else float("inf")
        return min(age, idle)

    def _look(self) -> None:
        self._timer = None
        group, now = self._group, self._group.loop.time()
        for worker in list(group.free):
            if worker.state is FREE and self._ends(worker) <= now:
                old = self.is_too_old(worker)
                group.leave(worker, "its resource is too old" if old else "its resource was idle for too long")
        nearest = min(map(self._ends, group.free), default=None)
        if nearest is not None:
            self._timer = group.loop.call_at(nearest, self._look, context=group.context)
        group.settle()
