"""How much of their time workers are at work: kept as sums over time, so that it is exact over any span."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runcrew.pool.cycle import Cycle


class Occupancy:
    """The time of a pool's workers. Told of changes in any thread."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.RLock()  # a finalizer or signal handler may come in between
        #: How many cycles there are, how many of them have nothing to do just now, and since when that is so.
        self._there = self.idle_now = 0
        self._since = now()
        self._present = self._idle = 0.0

    def enter(self, cycle: Cycle) -> None:
        """It is there from now on."""
        with self._lock:
            self._pass()
            self._there += 1

    def leave(self, cycle: Cycle) -> None:
        """It is gone, or nobody waits for it any more. It may still be told of, by a thread that was left alone."""
        with self._lock:
            self._pass()
            self._there -= 1
            if cycle.waits:
                self.idle_now -= 1
            cycle.is_over = True

    def waits(self, cycle: Cycle, change: int) -> None:
        """It has one reason more, or less, to have nothing to do."""
        with self._lock:
            before, cycle.waits = cycle.waits, cycle.waits + change
            if not cycle.is_over and bool(before) is not bool(cycle.waits):
                self._pass()
                self.idle_now += change

    def sums(self) -> tuple[float, float]:
        """For how many seconds, over all workers, they were at work; and had nothing to do."""
        with self._lock:
            self._pass()
            return self._present - self._idle, self._idle

    def _pass(self) -> None:
        now = self._now()
        span, self._since = max(0.0, now - self._since), now
        self._present += span * self._there
        self._idle += span * self.idle_now
