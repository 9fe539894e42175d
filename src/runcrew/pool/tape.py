"""Tape: how long the runs of one cycle took, from when each has succeeded until many are counted at a time.

Runs that are over at once are timed in groups, since reading the time would cost as much as they do. Where a group
takes long all the same, one of its runs has: the others are taken to be as short as those before.
"""

from __future__ import annotations

from itertools import repeat
from typing import Final, NamedTuple

#: So many runs are timed together, where each takes less than that, in seconds.
GROUP: Final = 16
TINY: Final = 2e-6
#: So much is kept before it is counted: values of single runs or of groups.
BATCH: Final = 512


class Counted(NamedTuple):
    """What a tape had on it. Spans in seconds."""

    runs: int
    total: float
    least: float
    most: float
    last: float


class Tape:
    """Written on by one cycle; looked at by anybody, in any thread."""

    __slots__ = ("before", "groups", "singles", "typical")

    def __init__(self) -> None:
        #: How many runs have been counted already.
        self.before = 0
        #: What single runs took, and whole groups. (A cycle writes them itself: it is done for each run.)
        self.singles: list[float] = []
        self.groups: list[float] = []
        #: What a run takes that is over at once.
        self.typical = 0.0

    @property
    def done(self) -> int:
        """How many runs have ended so far."""
        return self.before + len(self.singles) + GROUP * len(self.groups)

    @property
    def pending(self) -> float:
        """What those took that are still to be counted."""
        return sum(self.singles) + sum(self.groups)

    def add(self, took: float, runs: int) -> None:
        """So many runs, at least one, have taken that together: all of the same, or one of them nearly all of it."""
        if took < runs * TINY:
            self.singles += repeat(took / runs, runs)
        else:
            others = self.add_typical(runs - 1)
            self.singles.append(max(0.0, took - others))

    def add_typical(self, runs: int) -> float:
        """So many runs were over at once; nobody has looked when. How long they may have taken."""
        if self.groups:
            self.typical = self.groups[-1] / GROUP
        self.singles += repeat(self.typical, runs)
        return self.typical * runs

    def is_tiny(self, took: float) -> bool:
        """Whether the runs that stand on it one by one, which have taken that together, were over at once."""
        runs = len(self.singles)
        if not 0.0 < took < runs * TINY:
            return False
        self.typical = took / runs
        return True

    def counted(self) -> Counted | None:
        """What is on it; None: nothing. Of a copy, or between two runs."""
        singles, groups = self.singles, self.groups
        if not singles and not groups:
            return None
        runs, total = len(singles) + GROUP * len(groups), sum(singles) + sum(groups)
        last = singles[-1] if singles else groups[-1] / GROUP
        least = min(min(singles, default=last), min(groups) / GROUP if groups else last)
        most = max(max(singles, default=last), max(groups) / GROUP if groups else last)
        return Counted(runs, total, least, most, last)

    def copy(self) -> Tape:
        """What is on it now. From any thread."""
        copy = Tape()
        copy.singles, copy.groups = self.singles[:], self.groups[:]
        return copy

    def clear(self) -> None:
        """All of it has been counted. Between two runs."""
        self.before = self.done
        self.singles.clear()
        self.groups.clear()

    def forget(self) -> None:
        """None of it counts."""
        self.singles.clear()
        self.groups.clear()
