"""Resources that count what is done with them, and jobs that wait until they may go on."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from runcrew.clock import current


class Thing:
    """One resource: who uses it, and whether it is there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0
        self.users = 0
        self.most_users = 0
        self.uses = 0
        #: The threads in which it was made, used and taken down.
        self.threads = {threading.get_ident()}

    def begin(self) -> None:
        """Somebody uses it from here on."""
        assert not self.closed, "a resource was used after it had been taken down"
        self.users += 1
        self.uses += 1
        self.most_users = max(self.users, self.most_users)
        self.threads.add(threading.get_ident())

    def end(self) -> None:
        """Somebody has ended using it."""
        assert not self.closed, "a resource was taken down while it was used"
        self.users -= 1


class _Maker:
    """script: what becomes of each making: an error is raised, None makes a thing; so is all that comes after it.
    takes, leaves: virtual seconds for a making, and for a taking down.
    """

    def __init__(self, *script: BaseException | None, takes: float = 0.0, leaves: float = 0.0) -> None:
        self.script = list(script)
        self.takes, self.leaves = takes, leaves
        self.made: list[Thing] = []
        #: Instants of the beginnings of all makings, in seconds since the epoch.
        self.asked: list[float] = []
        #: What taking down raises.
        self.broken: BaseException | None = None

    def _thing(self) -> Thing:
        step = self.script.pop(0) if self.script else None
        if step is not None:
            raise step
        self.made.append(Thing(len(self.made) + 1))
        return self.made[-1]

    def _gone(self, thing: Thing) -> None:
        thing.closed += 1
        thing.threads.add(threading.get_ident())
        if self.broken is not None:
            raise self.broken

    @property
    def open(self) -> list[Thing]:
        """Those that are there."""
        return [thing for thing in self.made if not thing.closed]

    @property
    def balanced(self) -> bool:
        """Whether each one was taken down, once."""
        return all(thing.closed == 1 for thing in self.made)

    @property
    def pauses(self) -> list[float]:
        """The seconds between the beginnings of the makings."""
        return [round(b - a, 6) for a, b in itertools.pairwise(self.asked)]


class Things(_Maker):
    """Makes things on the event loop."""

    async def __call__(self) -> AsyncIterator[Thing]:
        self.asked.append(current().now())
        if self.takes:
            await asyncio.sleep(self.takes)
        thing = self._thing()
        yield thing
        if self.leaves:
            await asyncio.sleep(self.leaves)
        self._gone(thing)


class PlainThings(_Maker):
    """Makes things in threads."""

    def __call__(self) -> Iterator[Thing]:
        self.asked.append(current().now())
        if self.takes:
            current().block(self.takes)
        thing = self._thing()
        yield thing
        if self.leaves:
            current().block(self.leaves)
        self._gone(thing)


class Gate:
    """A job that waits until it may go on, and gives its last argument back."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self._open = asyncio.Event()

    async def __call__(self, *args: Any) -> Any:
        last = args[-1] if args else None
        self.begun.append(last)
        await self._open.wait()
        self.ended.append(last)
        return last

    def open(self) -> None:
        """Let all of them go on, and all that come."""
        self._open.set()


class Script:
    """A job that goes through a script: errors are raised, other things returned, the last one again and again."""

    def __init__(self, *script: Any, takes: float = 0.0) -> None:
        self.script = script
        self.takes = takes
        #: Instants of its calls, and the arguments of each.
        self.calls: list[float] = []
        self.args: list[tuple[Any, ...]] = []

    async def __call__(self, *args: Any) -> Any:
        self.calls.append(current().now())
        self.args.append(args)
        step = self.script[min(len(self.calls), len(self.script)) - 1]
        if self.takes:
            await asyncio.sleep(self.takes)
        if isinstance(step, BaseException):
            raise step
        return step

    @property
    def times(self) -> list[float]:
        """When it was called, in seconds since the first call."""
        return [round(called - self.calls[0], 6) for called in self.calls]


def script(*steps: Any, takes: float = 0.0) -> Any:
    """A job of this kind, for any queue."""
    return Script(*steps, takes=takes)


class Broken(Exception):
    """What says that a resource is faulty."""


def is_healthy(error: Exception) -> bool:
    """Whether a resource may be used again after this error."""
    return not isinstance(error, Broken)


async def use(thing: Thing, span: float = 0.0) -> int:
    """Use a thing for a while."""
    thing.begin()
    await asyncio.sleep(span)
    thing.end()
    return thing.number


def use_plainly(thing: Thing, span: float = 0.0) -> int:
    """The same, in a thread."""
    thing.begin()
    if span:
        current().block(span)
    thing.end()
    return thing.number


async def give(value: Any) -> Any:
    """A job that gives back what it was given."""
    return value


async def take(span: float) -> float:
    """A job that takes a while."""
    await asyncio.sleep(span)
    return span


async def rounds(count: int = 5) -> None:
    """Let the loop go round so often: what is under way comes to where it waits."""
    for _ in range(count):
        await asyncio.sleep(0)


def now() -> float:
    """This instant, in seconds since the epoch."""
    return current().now()
