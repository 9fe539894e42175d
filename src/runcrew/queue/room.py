"""Room: how many tickets may wait, and who waits for room.

Whoever waits gets room in the order of coming: a reservation, which it claims when it goes on. Nobody takes it in
between; who is cancelled with a reservation in hand passes it on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk


class Room:
    """The room of one queue, in one life."""

    __slots__ = ("_desk", "ample", "maxsize", "reserved", "waiting")

    def __init__(self, desk: Desk, maxsize: float) -> None:
        self._desk = desk
        #: How many tickets may wait; infinite where nothing limits it.
        self.maxsize = maxsize
        #: Those who wait for room (and whether what they bring is for later), and how many have been told of some.
        self.waiting: OrderedDict[asyncio.Future[None], bool] = OrderedDict()  # taking the first of many is cheap
        self.reserved = 0
        #: With fewer than so many in the queue there is room for everybody; 0 where that has to be looked at.
        self.ample = maxsize

    def changed(self) -> None:
        """What else takes room has changed."""
        easy = not self.waiting and not self.reserved
        self.ample = self.maxsize - len(self._desk.delayed) if easy else 0.0

    def is_free(self, later: bool = False) -> bool:
        """Whether one more may come in, without anybody being overtaken. `later`: its time is still to come."""
        return not self.waiting and self.has_left(later)

    def has_left(self, later: bool = False) -> bool:
        """Whether there is room that nobody has been promised."""
        desk = self._desk
        queued = desk.levels.count
        if not queued and not later and len(desk.free) > self.reserved:
            return True  # somebody takes it at once
        return queued + len(desk.delayed) + self.reserved < self.maxsize

    def look(self) -> None:
        """Something may have become free: promise it to those who came first."""
        while self.waiting:
            waiter, later = next(iter(self.waiting.items()))
            if not self.has_left(later):
                break
            self.waiting.popitem(last=False)
            if not waiter.done():
                self.reserved += 1
                waiter.set_result(None)
        self.changed()

    def close(self) -> None:
        """Let all go on: they look again, and find that nothing is accepted any more."""
        waiting, self.waiting = self.waiting, OrderedDict()
        for waiter in waiting:
            if not waiter.done():
                self.reserved += 1
                waiter.set_result(None)

    async def wait(self, later: bool = False) -> None:
        """Return with a reservation: `claim` it at once. Cancelling gives up the place in the line."""
        waiter = self._desk.loop.create_future()
        self.waiting[waiter] = later
        self.changed()
        try:
            await waiter
        except BaseException:
            self.waiting.pop(waiter, None)
            self.changed()
            if waiter.done() and not waiter.cancelled():
                self.claim()  # it had been promised: to the next
                self.look()
            raise

    def claim(self) -> None:
        """Give a reservation back, to be used at once."""
        self.reserved -= 1
        self.changed()
