"""What a queue tells of itself: immutable snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runcrew.backends import AbandonedCall
from runcrew.insight import RunStats
from runcrew.lifecycle import State
from runcrew.workers import Decision

if TYPE_CHECKING:
    from runcrew.queue.service import QueueService


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A snapshot of one queue. Counts are of the life that goes on, or of the last one."""

    name: str
    state: State
    generation: int
    #: How many workers there should be, and may be.
    workers: int
    max_workers: int
    #: Workers that can have work in hand (free, busy and leaving ones), and where they all are.
    alive: int
    opening: int
    free: int
    busy: int
    leaving: int
    closing: int
    #: Attempts that were given up in threads, the oldest first: until the thread, and what it held, is gone.
    abandoned: tuple[AbandonedCall, ...]
    #: Tickets that wait for a worker, in all and by priority; and those that wait outside the queue for their time.
    queued: int
    levels: Mapping[int, int]
    delayed: int
    #: Runs under way, those past the queue included.
    running: int
    #: Callers that wait for room; and how much there is (None: no limit).
    submitters: int
    maxsize: int | None
    #: Spare resources that are free, those that are there, and how many there may be.
    spares_free: int
    spares_alive: int
    max_spares: int
    #: Resources (or workers without one) that were made, taken down, could not be made, and were replaced as faulty.
    opened: int
    closed: int
    failed_openings: int
    replaced: int
    #: Runs that were put back after a faulty resource, and tickets that were dropped for lack of room.
    requeued: int
    dropped: int
    runs: RunStats
    #: Whether abandoned threads hold all places.
    stalled: bool
    #: The last error about a resource.
    last_error: BaseException | None
    #: The last changes that scaling made, at most 64, the latest at the end.
    decisions: tuple[Decision, ...]


def snapshot(queue: QueueService[Any]) -> QueueStats:
    """The numbers as they stand."""
    desk, setup = queue.desk, queue.setup
    maxsize = None if setup.maxsize == float("inf") else int(setup.maxsize)
    if desk is None:
        return QueueStats(
            queue.name, queue.state, queue.generation, setup.workers, setup.max_workers,
            alive=0, opening=0, free=0, busy=0, leaving=0, closing=0, abandoned=(), queued=0, levels={}, delayed=0,
            running=0, submitters=0, maxsize=maxsize, spares_free=0, spares_alive=0, max_spares=setup.max_spares,
            opened=0, closed=0, failed_openings=0, replaced=0, requeued=0, dropped=0,
            runs=RunStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, None, None, None, None), stalled=False, last_error=None,
            decisions=(),
        )  # fmt: skip
    group, spares, books = desk.group, desk.spares.group, desk.books
    ahead = desk.carrier.ahead.not_begun
    waiting, delayed = desk.levels.count + ahead + desk.spares.waiting, len(desk.delayed)
    levels = desk.levels.counts()
    return QueueStats(
        queue.name, queue.state, queue.generation, group.target, group.most,
        alive=group.there, opening=group.opening, free=len(group.free), busy=group.busy, leaving=group.leaving,
        closing=group.closing, abandoned=tuple(desk.carrier.ahead.left.values()),
        queued=waiting, levels=levels, delayed=delayed, running=max(0, desk.accepted - desk.ended - waiting - delayed),
        submitters=len(desk.room.waiting), maxsize=maxsize,
        spares_free=len(spares.free), spares_alive=spares.there, max_spares=spares.most,
        opened=group.counts.opened + spares.counts.opened, closed=group.counts.closed + spares.counts.closed,
        failed_openings=group.counts.failed_openings + spares.counts.failed_openings,
        replaced=group.counts.replaced + spares.counts.replaced,
        requeued=books.requeued, dropped=books.dropped, runs=books.runs(), stalled=group.stalled,
        last_error=spares.last_error if group.last_error is None else group.last_error,
        decisions=() if queue.scaler is None else queue.scaler.decisions,
    )  # fmt: skip
