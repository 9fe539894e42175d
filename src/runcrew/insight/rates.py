"""How often something happens, now: events per second over the last minute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

#: Over how many seconds a rate is taken. It is counted by whole seconds, so this many numbers are kept.
WINDOW: Final = 60


class Rate:
    """Events per second over the last minute, in memory of a fixed size.

    An event belongs to the second, of the clock, that ends at or after it. The window is the second under way and
    the 59 before it: from 59 to 60 seconds, as the rate allows for. So a steady rate is shown as it is, and a
    minute after the last event it is 0.

    since: when the counting begins, in seconds since the epoch. Before a minute has gone by, the rate is over the
    time since then, and over one second at least.

    Instants may come in any order; one that has left the window is ignored. Not made for several threads at a time.
    """

    __slots__ = ("_seconds", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        #: Events by the second at whose end they are counted; of the latest seconds that had any.
        self._seconds: dict[int, int] = {}

    def add(self, at: float, n: int = 1) -> None:
        """Count `n` events at an instant, in seconds since the epoch."""
        self._count({math.ceil(at): n})

    def add_many(self, instants: Iterable[float]) -> None:
        """Count one event at each instant. Cheap where most of them are in the same second, and nearly in order."""
        ordered = sorted(instants)
        if not ordered:
            return
        first, last = math.ceil(ordered[0]), math.ceil(ordered[-1])
        self._count({first: len(ordered)} if first == last else Counter(map(math.ceil, ordered)))

    def merge(self, other: Rate) -> None:
        """Count all that `other` has counted, as if it had been added here. `other` is left as it is."""
        self.since = min(self.since, other.since)
        self._count(dict(other._seconds))

    def per_second(self, now: float) -> float:
        """The rate at an instant, in events per second. Never negative."""
        last = math.ceil(now)
        first = last - WINDOW
        events = sum([n for second, n in self._seconds.items() if first < second <= last])
        return events / max(1.0, now - max(self.since, first))

    def _count(self, events: dict[int, int]) -> None:
        seconds = self._seconds
        for second, n in events.items():
            seconds[second] = seconds.get(second, 0) + n
        if len(seconds) > WINDOW:
            for second in sorted(seconds)[:-WINDOW]:
                del seconds[second]
