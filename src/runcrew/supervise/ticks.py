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

    anchor: float
    missed: int = 0
    number: int = 0
    every: float = 0.0

    @property
    def due(self) -> float:
        """A product from the anchor: a sum of many intervals would be off by as many roundings."""
        return self.anchor + self.number * self.every


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
                return self._step(Tick(now), 1)
            case "aligned":
                return self._step(Tick(0.0), math.ceil(now / self.every - 1e-9))

    def after(self, last: Tick, now: float) -> Tick:
        """The tick after `last`, whose run ended now."""
        if self.mode == "delay":
            return Tick(now + self.every)
        behind = (now - last.due) / self.every
        if behind < 1:
            return self._step(last, 1)
        passed = math.floor(behind + 1e-9)
        return self._step(last, passed, passed - 1)

    def before(self, tick: Tick) -> Tick:
        """The tick that this one follows."""
        return self._step(tick, -1)

    def skip_to(self, last: Tick, now: float) -> Tick:
        """The first tick that is still to come, for one that was paused; what was passed over is not missed."""
        if self.mode == "delay":
            return Tick(now + self.every)
        return self._step(last, max(1, math.ceil((now - last.due) / self.every - 1e-9)))

    def _step(self, tick: Tick, steps: int, missed: int = 0) -> Tick:
        return Tick(tick.anchor, missed, tick.number + steps, self.every)
