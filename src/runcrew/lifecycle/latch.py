"""Waiting for one thing with a limit that may move closer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: Later than any instant of any clock.
NEVER: Final = float("inf")


class Latch:
    """Closed until `open()`; then whoever waits goes on. One future per waiter, so no waiter harms another."""

    __slots__ = ("_open", "_waiters")

    def __init__(self) -> None:
        self._open = False
        self._waiters: dict[int, asyncio.Future[None]] = {}

    @property
    def is_open(self) -> bool:
        """Whether it has been opened."""
        return self._open

    def open(self) -> None:
        """Let everybody go on, now and later. Idempotent."""
        self._open = True
        self._wake()

    def close(self) -> None:
        """Make later waiters wait again."""
        self._open = False

    async def wait(self) -> None:
        """Return once it is open. Cancelling ends only this wait."""
        await self.wait_until(Limit())

    async def wait_until(self, limit: Limit) -> bool:
        """Return True once it is open, False when the limit has passed first. Cancelling ends only this wait."""
        loop = asyncio.get_running_loop()
        while not self._open:
            if limit.when <= loop.time():
                return False
            waiter = loop.create_future()
            self._waiters[id(waiter)] = waiter
            limit.on_move = self._wake
            timer = None if limit.when == NEVER else loop.call_at(limit.when, _wake, waiter)
            try:
                await waiter
            finally:
                limit.on_move = None
                if timer is not None:
                    timer.cancel()
                del self._waiters[id(waiter)]
        return True

    def _wake(self) -> None:
        for waiter in self._waiters.values():
            _wake(waiter)


class Limit:
    """A point in loop time that can only move closer. One waiter, or one limit within it, at a time looks at it."""

    __slots__ = ("on_move", "when")

    def __init__(self, when: float = NEVER) -> None:
        self.when = when
        #: Called when it moves, for the one who waits.
        self.on_move: Callable[[], None] | None = None

    def move(self, when: float) -> None:
        """Let it be reached at `when`, if that is earlier than so far."""
        if when < self.when:
            self.when = when
            if self.on_move is not None:
                self.on_move()

    def within(self, span: float) -> Limit:
        """A limit of its own, `span` seconds from now, that is never later than this one, also when this one moves."""
        inner = Limit(min(self.when, asyncio.get_running_loop().time() + span))
        self.on_move = lambda: inner.move(self.when)
        return inner


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done() and not waiter.get_loop().is_closed():
        waiter.set_result(None)
