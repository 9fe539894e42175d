"""When the next resource may be made, after failures. Pure: it is told the time."""

from __future__ import annotations

from typing import Final

from runcrew.policies import Backoff
from runcrew.workers.restart import Restart, Restarts

#: Where a backoff of the user's own gives nonsense: that has no say in whether a worker is replaced. In seconds.
_NO_ANSWER: Final = 1.0


class Pace:
    """The pace of one group's openings.

    What was under way, or there, at the time of a failure may fail for the same reason: all of that is one wave,
    and counts once. The first failure after good times is followed by another attempt at once.
    """

    __slots__ = ("_restarts", "failing", "not_before", "wave")

    def __init__(self, backoff: Backoff) -> None:
        self._restarts = Restarts(None, backoff, at_once=1)
        #: How many waves there have been: whoever is hired notes it.
        self.wave = 0
        #: How many waves of openings have failed since the last one that succeeded.
        self.failing = 0
        #: No opening before that, in loop time.
        self.not_before = 0.0

    def opened(self) -> None:
        """An opening has succeeded."""
        self.failing = 0

    def opening_failed(self, wave: int, now: float) -> float:
        """The opening of one that was hired in this wave failed. In how many seconds the next one may come."""
        if wave == self.wave or not self.failing:
            self.failing += 1
        return self.died(wave, now)

    def died(self, wave: int, now: float) -> float:
        """One that was hired in this wave leaves because its resource is faulty. The same answer."""
        if wave == self.wave:
            self.wave += 1
            decided = self._restarts.failed(now)
            self.put_off(now + (decided.delay if isinstance(decided, Restart) else _NO_ANSWER))
        return max(0.0, self.not_before - now)

    def put_off(self, until: float) -> None:
        """No opening before `until`."""
        self.not_before = max(self.not_before, until)
