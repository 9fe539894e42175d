"""What the scaling of a pool goes by: how much of their time the workers are at work, and what has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runcrew.workers import Load, Scaler

if TYPE_CHECKING:
    from runcrew.pool.floor import Floor


def scaler_of(floor: Floor) -> Scaler | None:
    """What scales the workers of this life, from its `start` on; None: that was not asked for."""
    setup = floor.setup
    if setup.scale is None:
        return None
    return Scaler(floor.group, setup.scale, least=setup.least, most=setup.max, observe=Look(floor))


class Look:
    """What a pool has to do, as its scaler asks for it: the share of the time since the last look."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._at = floor.tick()
        self._worked = 0.0

    def __call__(self) -> Load:
        """The load since the last call."""
        floor, group = self._floor, self._floor.group
        at, (worked, _) = floor.tick(), floor.occupancy.sums()
        span, share = at - self._at, worked - self._worked
        self._at, self._worked = at, worked
        busy = share / span if span > 0 else float(group.busy)
        return Load(
            at=at, workers=group.target, busy=busy, ended=floor.books.runs().ended,
            coming=max(0, group.target - group.there),
        )  # fmt: skip
