"""The tickets that wait, by urgency: strict between levels, first come first served within one.

Pure, but for the time that it is told. When the oldest ticket of all has waited for longer than `max_wait`, one
pick in sixteen serves it, so that the low ones make progress under any load of high ones.

A ticket that ends while it waits stays where it is until its turn comes, or until half of all are such.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from runcrew.queue.ticket import Ticket

#: One pick in so many may serve the oldest ticket instead of the most urgent one.
TURN: Final = 16

#: So many that have ended may always stay.
_DEAD: Final = 64

#: So many empty levels are kept.
_KEPT: Final = 16


class Levels:
    """The waiting tickets."""

    __slots__ = ("_dead", "_lines", "_order", "_picks", "_since", "count", "max_wait", "owes")

    def __init__(self, max_wait: float | None) -> None:
        #: Seconds; None: the urgent ones always go first.
        self.max_wait = max_wait
        #: How many wait.
        self.count = 0
        #: Whether the next turn is that of an overdue one, which only a free worker can take.
        self.owes = False
        self._dead = 0
        self._picks = 0
        #: Nobody has waited since before that; looked up again only where it might matter.
        self._since = 0.0
        self._lines: dict[int, deque[Ticket[Any]]] = {}
        #: The levels, the most urgent first.
        self._order: list[int] = []

    def put(self, ticket: Ticket[Any]) -> None:
        """Let it wait behind all others of its level."""
        try:
            self._lines[ticket.priority].append(ticket)
        except KeyError:
            self._open(ticket.priority).append(ticket)
        self.count += 1

    def put_back(self, ticket: Ticket[Any]) -> None:
        """Let it wait before all others of its level: it came before them."""
        line = self._lines.get(ticket.priority)
        if line is None:
            line = self._open(ticket.priority)
        line.appendleft(ticket)
        self.count += 1
        self._since = min(self._since, ticket._queued)

    def pop(self, now: float) -> Ticket[Any] | None:
        """Whose turn it is; None where nobody waits. `now`: seconds since the epoch."""
        self._picks = picks = self._picks + 1
        self.owes = False
        if not picks % TURN and self.max_wait is not None:
            line = self._overdue(now, self.max_wait)
            if line is not None:
                self.count -= 1
                return line.popleft()
        order = self._order
        line = self._lines[order[0]] if order else None
        if not line or line[0]._status is not None:  # mostly the first line will do
            line = self._front()
            if line is None:
                return None
        self.count -= 1
        return line.popleft()

    def pop_plain(self, now: float, most: int) -> list[Ticket[Any]]:
        """Those whose turns come next, at most so many, as long as they are plain jobs of one level.

        Where the turn is that of an overdue one which is not plain, it stops there, and `owes` that turn.
        """
        taken: list[Ticket[Any]] = []
        line = self._front() if most > 0 and not self.owes else None
        while line and len(taken) < most:
            before = len(taken)
            until = min(most, before + TURN - 1 - self._picks % TURN)  # the pick after that may be of another line
            while line and len(taken) < until:
                ticket = line[0]
                if ticket._status is not None:
                    self._dead -= 1
                    line.popleft()
                elif ticket._plain:
                    taken.append(line.popleft())
                else:
                    break
            self._picks += len(taken) - before
            if len(taken) < until or until == most or not self._take_turn(now, line, taken):
                break
        self.count -= len(taken)
        return taken

    def _take_turn(self, now: float, line: deque[Ticket[Any]], taken: list[Ticket[Any]]) -> bool:
        """The pick in which the oldest one may have its turn. False: it ends here."""
        overdue = None if self.max_wait is None else self._overdue(now, self.max_wait)
        while line and line[0]._status is not None:
            self._dead -= 1
            line.popleft()
        chosen = overdue or line
        if not chosen or not chosen[0]._plain:
            self.owes = overdue is not None
            return False
        self._picks += 1
        taken.append(chosen.popleft())
        return True

    def first(self) -> Ticket[Any] | None:
        """Whose turn it would be by urgency; it stays."""
        line = self._front()
        return None if line is None else line[0]

    def _front(self) -> deque[Ticket[Any]] | None:
        """The most urgent line in which somebody waits: its first one does."""
        for empty, level in enumerate(self._order):
            line = self._lines[level]
            while line:
                if line[0]._status is None:
                    if empty > _KEPT:
                        self._forget(empty)
                    return line
                line.popleft()
                self._dead -= 1
        return None

    def _forget(self, count: int) -> None:
        """The most urgent levels, so many, are empty: what was asked for once may never be asked for again."""
        for level in self._order[:count]:
            del self._lines[level]
        del self._order[:count]

    def left(self) -> None:
        """One of those that wait has ended."""
        self.count -= 1
        self._dead += 1
        if self._dead > _DEAD and self._dead > self.count:
            for line in self._lines.values():
                alive = [ticket for ticket in line if ticket._status is None]
                line.clear()
                line.extend(alive)
            self._dead = 0

    def least_urgent(self) -> Ticket[Any] | None:
        """The oldest of the lowest level that has had no attempt; it stays."""
        while self._order:  # what has ended is thrown out on the way, so that nobody passes it again
            line = self._lines[self._order[-1]]
            while line and line[0]._status is not None:
                line.popleft()
                self._dead -= 1
            if line or len(self._order) == 1:
                break
            del self._lines[self._order.pop()]
        for level in reversed(self._order):
            for ticket in self._lines[level]:
                if ticket._status is None and (ticket._more is None or ticket._more.attempt == 1):
                    return ticket
        return None

    def oldest(self) -> float | None:
        """Since when the one waits that has waited longest, in seconds since the epoch."""
        heads = [line[0]._queued for line in self._alive()]
        return min(heads, default=None)

    def all(self) -> list[Ticket[Any]]:
        """Those that wait, in the order of their turns."""
        return [ticket for level in self._order for ticket in self._lines[level] if ticket._status is None]

    def counts(self) -> dict[int, int]:
        """How many wait in each level, the most urgent first."""
        found = {level: sum(1 for t in self._lines[level] if t._status is None) for level in self._order}
        return {level: count for level, count in found.items() if count}

    def _open(self, level: int) -> deque[Ticket[Any]]:
        if len(self._order) > _KEPT + 2 * self.count:  # most of them are empty
            self._order = [other for other in self._order if self._lines[other]]
            self._lines = {other: self._lines[other] for other in self._order}
        line = self._lines[level] = deque()
        insort(self._order, level, key=lambda other: -other)
        return line

    def _alive(self) -> Iterator[deque[Ticket[Any]]]:
        for line in self._lines.values():
            while line and line[0]._status is not None:
                line.popleft()
                self._dead -= 1
            if line:
                yield line

    def _overdue(self, now: float, max_wait: float) -> deque[Ticket[Any]] | None:
        if now - self._since <= max_wait:
            return None
        oldest = min(self._alive(), key=lambda line: line[0]._queued, default=None)
        self._since = now if oldest is None else oldest[0]._queued
        return oldest if now - self._since > max_wait else None
