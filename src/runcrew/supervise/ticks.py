"""When an interval's next tick is due: pure, instants in and instants out (seconds since the epoch).

Fixed rate: ticks lie on a grid (anchor + n x every) that nothing shifts. A run that takes longer than the
interval leaves at most one tick pending, which is run at once; the ones before it are missed, and told.
Fixed delay: a full interval lies between the end of one run and the start of the next; nothing is missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Mode = Literal["rate", "delay"]
First = Literal["now", "after", "aligned"]


@dataclass(frozen=True, slots=True)
class Tick:
    """When to run next, and how many ticks were passed over to get there."""

    due: float
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Ticks:
    """The rhythm of one interval, in seconds.

    every: from tick to tick (rate), or from the end of a run to the next start (delay).
    first: "now"; "after" one interval; "aligned" to the multiples of `every` since the epoch.
    delay: waited once, before all that.
    """

    every: float
    mode: Mode = "rate"
    first: First = "now"
    delay: float = 0.0

    def begin(self, now: float) -> Tick:
        """The first tick of a life that begins now."""
        now += self.delay
        match self.first:
            case "now":
                return Tick(now)
            case "after":
                return Tick(now + self.every)
            case "aligned":
                return Tick(self._aligned(now))

    def after(self, last: float, now: float) -> Tick:
        """The tick after the one due at `last`, whose run ended now."""
        if self.mode == "delay":
            return Tick(now + self.every)
        behind = (now - last) / self.every
        if behind < 1:
            return Tick(last + self.every)
        passed = math.floor(behind + 1e-9)
        return Tick(last + passed * self.every, passed - 1)

    def skip_to(self, last: float, now: float) -> Tick:
        """The first tick that is still to come, for one that was paused; what was passed over is not missed."""
        if self.mode == "delay":
            return Tick(now + self.every)
        steps = max(1, math.ceil((now - last) / self.every - 1e-9))
        return Tick(last + steps * self.every)

    def _aligned(self, now: float) -> float:
        return math.ceil(now / self.every - 1e-9) * self.every
