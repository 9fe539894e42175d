"""Map: a stream of items through a queue, and of what came of them back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from runcrew.errors import RunInterrupted
from runcrew.job import Outcome
from runcrew.lifecycle import Latch
from runcrew.lifecycle.tasks import spawn
from runcrew.queue.calls import ended, submit
from runcrew.queue.service import QueueService
from runcrew.queue.ticket import Ticket


class Stream:
    """One stream. At most `ahead` items are taken from the source and not given back yet."""

    def __init__(
        self, queue: QueueService[Any], fn: Callable[..., Any], options: Mapping[str, Any], ahead: int, ordered: bool
    ) -> None:
        self._queue, self._fn, self._options = queue, fn, options
        self._ahead = ahead
        self._ordered = ordered
        #: In the order of the items; and those of them that have ended, in the order of that.
        self._tickets: deque[Ticket[Any]] = deque()
        self._ended: deque[Ticket[Any]] = deque()
        self._out = 0
        self._exhausted = False
        self._error: BaseException | None = None
        #: Open when there may be room for another item; and when there may be something to give back.
        self._room = Latch()
        self._news = Latch()

    async def feed(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Take items, as far ahead as may be."""
        try:
            if isinstance(items, AsyncIterable):
                async for item in items:
                    await self._put(item)
            else:
                for item in items:
                    await self._put(item)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
        self._exhausted = True
        self._news.open()

    def feeding_ended(self, task: asyncio.Task[None]) -> None:
        """The task that takes the items has ended, in whatever way: somebody may have cancelled it."""
        if not self._exhausted:
            self._exhausted = True
            self._error = RunInterrupted("the task that takes the items of this map was cancelled")
            self._news.open()

    async def _put(self, item: Any) -> None:
        while self._out >= self._ahead:
            self._room.close()
            await self._room.wait()
        self._out += 1
        ticket = await submit(self._queue, self._fn, (item,), self._options)
        self._tickets.append(ticket)
        ticket.on_done(self._one_ended)

    def _one_ended(self, ticket: Ticket[Any]) -> None:
        self._ended.append(ticket)
        self._news.open()

    async def outcomes(self) -> AsyncIterator[Outcome[Any]]:
        """What came of them, in the order of the items or of their ends."""
        while True:
            ticket = self._next()
            if ticket is not None:
                self._out -= 1
                self._room.open()
                yield ticket._outcome()
            elif self._exhausted and not self._tickets:
                if self._error is not None:
                    raise self._error
                return
            else:
                self._news.close()
                await self._news.wait()

    def _next(self) -> Ticket[Any] | None:
        if self._ordered:
            return self._tickets.popleft() if self._tickets and self._tickets[0].done() else None
        if not self._ended:
            return None
        ticket = self._ended.popleft()
        self._tickets.remove(ticket)
        return ticket

    async def end(self) -> None:
        """Nobody wants any more: cancel what is under way, and wait for its end."""
        for ticket in self._tickets:
            ticket.cancel()
        for ticket in self._tickets:
            if not ticket.done():
                await ended(ticket)


async def mapped(
    queue: QueueService[Any],
    fn: Callable[..., Any],
    items: Iterable[Any] | AsyncIterable[Any],
    options: Mapping[str, Any],
    *,
    ahead: int,
    ordered: bool,
    outcomes: bool,
) -> AsyncGenerator[Any, None]:
    """See `Queue.map`."""
    queue.at_work().check_wait()
    stream = Stream(queue, fn, options, ahead, ordered)
    feeder = spawn(stream.feed(items), f"{queue.name}-map")
    feeder.add_done_callback(stream.feeding_ended)
    try:
        async for outcome in stream.outcomes():
            yield outcome if outcomes else outcome.unwrap()
    finally:
        feeder.cancel()
        while not feeder.done():
            try:
                await asyncio.wait([feeder])
            except asyncio.CancelledError:
                pass  # the cancellation goes on its way when all has ended
        await stream.end()
