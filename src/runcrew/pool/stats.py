"""What a pool tells of itself: immutable snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runcrew.backends import AbandonedCall
from runcrew.insight import RunStats
from runcrew.lifecycle import State
from runcrew.workers.scale import Decision

if TYPE_CHECKING:
    from runcrew.pool.service import PoolService


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A snapshot of one pool. Counts are of the life that goes on, or of the last one."""

    name: str
    state: State
    generation: int
    #: How many workers there should be; how many there must and may be (None: no limit).
    workers: int
    min: int
    max: int | None
    #: Workers that go round in their cycle (those that leave included), and where all of them are.
    alive: int
    opening: int
    leaving: int
    closing: int
    #: Of those alive: how many have a run under way that works; wait for something to do, or pause.
    busy: int
    idle: int
    #: Runs that were given up in threads, the oldest first: until the thread, and what it held, is gone.
    abandoned: tuple[AbandonedCall, ...]
    #: Seconds, over all workers, in which they were at work; and had nothing to do.
    worked: float
    idled: float
    #: Resources (or workers without one) that were made, taken down, could not be made, and were replaced as faulty.
    opened: int
    closed: int
    failed_openings: int
    replaced: int
    runs: RunStats
    #: Whether abandoned threads hold all places.
    stalled: bool
    #: The last error of a run, or else about a resource.
    last_error: BaseException | None
    #: How the number of workers was changed by scaling: the last changes, the latest at the end.
    decisions: tuple[Decision, ...]

    @property
    def utilisation(self) -> float | None:
        """The share of their time, in this life, in which the workers were at work. None: there was no time yet."""
        whole = self.worked + self.idled
        return self.worked / whole if whole > 0 else None


_NO_RUNS = RunStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, None, None, None, None)


def snapshot(pool: PoolService) -> PoolStats:
    """How a pool stands. Raises RuntimeError where something changes meanwhile, in another thread."""
    setup, floor = pool.setup, pool.floor
    if floor is None:
        return PoolStats(
            pool.name, pool.state, pool.generation, setup.initial, setup.min, setup.max, alive=0, opening=0, leaving=0,
            closing=0, busy=0, idle=0, abandoned=(), worked=0.0, idled=0.0, opened=0, closed=0, failed_openings=0,
            replaced=0, runs=_NO_RUNS, stalled=False, last_error=None, decisions=(),
        )  # fmt: skip
    group, idle = floor.group, floor.occupancy.idle_now + floor.coming_back
    worked, idled = floor.occupancy.sums()
    alive, error = len(floor.cycles()) + floor.coming_back, floor.books.last_error
    return PoolStats(
        pool.name, pool.state, pool.generation, group.target, setup.min, setup.max,
        alive=alive, opening=group.opening, leaving=group.leaving, closing=group.closing,
        busy=max(0, alive - idle), idle=idle, abandoned=tuple(floor.left.values()), worked=worked, idled=idled,
        opened=group.counts.opened, closed=group.counts.closed, failed_openings=group.counts.failed_openings,
        replaced=group.counts.replaced, runs=floor.books.runs(), stalled=group.stalled,
        last_error=group.last_error if error is None else error,
        decisions=() if floor.scaler is None else floor.scaler.decisions,
    )  # fmt: skip
