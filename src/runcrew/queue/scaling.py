"""What the scaling of a queue goes by: what has come and ended, what waits, and since when."""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from runcrew.workers import Load, Scaler

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk
    from runcrew.queue.ticket import Ticket

#: So many that have come back are looked at in one level, for one that has waited for longer.
_LOOKED_AT: Final = 64


def begin(desk: Desk) -> Scaler | None:
    """Scale the workers of this life from here on, if that was asked for."""
    setup = desk.setup
    if setup.scale is None:
        return None
    observe = partial(load, desk)
    scaler = Scaler(desk.group, setup.scale, least=setup.workers, most=setup.max_workers, observe=observe)
    scaler.start()
    return scaler


def load(desk: Desk) -> Load:
    """The load as it is."""
    group, levels = desk.group, desk.levels
    alone = desk.books.without_worker
    since = min((_line_since(line) for line in levels._alive()), default=None) if levels.count else None
    return Load(
        at=desk.loop.time(),
        workers=group.target,
        busy=group.busy + group.leaving,
        ended=desk.ended - alone,
        arrived=desk.accepted - alone,
        waiting=levels.count + desk.carrier.ahead.not_begun,
        age=0.0 if since is None else max(0.0, desk.now() - since),
        coming=group.opening + max(0, group.target - group.staying),
    )


def _line_since(line: deque[Ticket[Any]]) -> float:
    """Since when the one of a level waits that has waited longest."""
    found = _since(line[0])
    # Those that have come back stand before the others, and may have been away until now.
    for ticket in islice(line, 1, _LOOKED_AT):
        if ticket._status is None:
            found = min(found, _since(ticket))
            if ticket._more is None or not ticket._more.history:
                break
    return found


def _since(ticket: Ticket[Any]) -> float:
    """Since when it waits for a worker: not while it waited for its time to come."""
    more = ticket._more
    if more is None:
        return ticket._queued
    if more.history:
        last = more.history[-1]
        return last.ended + (last.wait or 0.0)
    return ticket._queued + (more.delay or 0.0)
