"""How long a resource may be used, and lie idle: those that are over it leave, and are replaced."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from runcrew.workers.worker import FREE, Worker

if TYPE_CHECKING:
    from runcrew.workers.group import Group

_NEVER: Final = float("inf")


class Limits:
    """Looks after one group. One timer for all, for the first that comes to its limit.

    Nobody is searched for: those that are free stand in the order in which they became so, and all of them in the
    order in which they opened, so that the first of each is the first to come to its limit.
    """

    def __init__(self, group: Group) -> None:
        assert group.recipe is not None
        self._group = group
        max_age, max_idle = group.recipe.max_age, group.recipe.max_idle
        self._max_age = _NEVER if max_age is None else max_age
        self._max_idle = _NEVER if max_idle is None else max_idle
        #: Those whose age is still to come to its limit, the oldest first.
        self._by_age: dict[Worker, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def is_too_old(self, worker: Worker) -> bool:
        """Whether it has had its resource for as long as it may."""
        return self._group.loop.time() >= worker.opened_at + self._max_age

    def opened(self, worker: Worker) -> None:
        """It has its resource from here on."""
        worker.opened_at = self._group.loop.time()
        if self._max_age != _NEVER:
            self._by_age[worker] = None
            self._look_at(worker.opened_at + self._max_age)

    def watch(self, worker: Worker) -> None:
        """It is free from here on."""
        worker.since = self._group.loop.time()
        self._look_at(worker.since + self._max_idle)

    def forget(self, worker: Worker) -> None:
        """It is gone."""
        self._by_age.pop(worker, None)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, when: float) -> None:
        if when != _NEVER and (self._timer is None or when < self._timer.when()):
            self.stop()
            self._timer = self._group.loop.call_at(when, self._look, context=self._group.context)

    def _look(self) -> None:
        self._timer = None
        group, now = self._group, self._group.loop.time()
        for worker in list(takewhile(self.is_too_old, self._by_age)):
            del self._by_age[worker]  # one that is at work is looked at when it has ended that
            if worker.state is FREE:
                group.leave(worker, "its resource is too old")
        for worker in list(takewhile(lambda worker: worker.since + self._max_idle <= now, group.free)):
            if worker.state is FREE:
                group.leave(worker, "its resource was idle for too long")
        for worker in self._by_age:
            self._look_at(worker.opened_at + self._max_age)
            break
        for worker in group.free:
            self._look_at(worker.since + self._max_idle)
            break
        group.settle()
