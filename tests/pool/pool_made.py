"""Jobs that wait until they may go on, or go through a script; resources that count what is done with them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import runcrew as rc
from runcrew.clock import current


def now() -> float:
    """This instant, in virtual seconds since the beginning."""
    return asyncio.get_running_loop().time()


async def rounds(count: int = 5) -> None:
    """Let the loop go round so often: what is under way comes to where it waits."""
    for _ in range(count):
        await asyncio.sleep(0)


async def seen(condition: Callable[[], object], within: float = 1000.0) -> None:
    """Wait until it is so, which has to come in that time."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


class Busy:
    """An async job that takes a while, and notes how many of it there are."""

    def __init__(self, span: float = 1.0) -> None:
        self.span = span
        self.begun = 0
        self.ended = 0
        self.cut = 0
        self.most = 0
        #: When each of them began.
        self.at: list[float] = []

    @property
    def running(self) -> int:
        """How many are under way."""
        return self.begun - self.ended - self.cut

    async def __call__(self, *_: Any) -> None:
        self.begun += 1
        self.at.append(now())
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.span)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        self.ended += 1


class PlainBusy:
    """The same for threads: it listens when it is asked to end."""

    def __init__(self, span: float = 1.0) -> None:
        self.span = span
        self.begun = 0
        self.ended = 0
        self.cut = 0
        self.threads: dict[int, int] = {}

    def __call__(self, *_: Any) -> None:
        self.begun += 1
        ident = threading.get_ident()
        self.threads[ident] = self.threads.get(ident, 0) + 1
        try:
            rc.current_run().sleep(self.span)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        self.ended += 1


class Gate:
    """An async job that waits until it may go on."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.cut = 0
        self._open = asyncio.Event()

    async def __call__(self, *_: Any) -> None:
        self.begun += 1
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        self.ended += 1
        if self._open.is_set():
            await asyncio.sleep(1)

    def open(self) -> None:
        """Let all of them go on, and all that come."""
        self._open.set()


class Deaf:
    """A plain job that does not listen until it may go; from then on it takes a second."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.begun = 0
        self.ended = 0

    def __call__(self, *_: Any) -> None:
        self.begun += 1
        if self.may_go.is_set():
            current().block(1)
        current().block(None, self.may_go)
        self.ended += 1

    async def let_go(self, pool: rc.Pool) -> None:
        """Have all of them end that have begun."""
        self.may_go.set()
        while pool.stats().abandoned:
            await asyncio.sleep(0.001)


class Script:
    """A job that goes through a script: errors are raised, numbers are slept, and at the end it waits for ever."""

    def __init__(self, *script: Any, last: Any = None) -> None:
        self.script = script
        self.last = last
        #: When it was called.
        self.calls: list[float] = []

    async def __call__(self, *_: Any) -> None:
        self.calls.append(now())
        step = self.script[len(self.calls) - 1] if len(self.calls) <= len(self.script) else self.last
        if isinstance(step, BaseException):
            raise step
        if step is None:
            with rc.current_run().idle():
                await asyncio.Event().wait()
        await asyncio.sleep(step or 0)

    @property
    def over(self) -> bool:
        """Whether it has gone through."""
        return len(self.calls) > len(self.script)

    @property
    def times(self) -> list[float]:
        """When it was called, in seconds since the first call."""
        return [round(called - self.calls[0], 6) for called in self.calls]


class PlainScript(Script):
    """The same for threads, where numbers are blocked."""

    def __call__(self, *_: Any) -> Any:
        self.calls.append(current().now())
        step = self.script[len(self.calls) - 1] if len(self.calls) <= len(self.script) else self.last
        if isinstance(step, BaseException):
            raise step
        if step is None:
            run = rc.current_run()
            with run.idle():
                run.sleep("1000h")
        if step:
            current().block(step)


class Broken(Exception):
    """What says that a resource is faulty."""


def is_healthy(error: Exception) -> bool:
    """Whether a resource may be used again after this error."""
    return not isinstance(error, Broken)


class Thing:
    """One resource: who uses it, and whether it is there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0
        self.users = 0
        self.most_users = 0
        self.uses = 0
        self.checks = 0
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
        self.asked = 0
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


class Things(_Maker):
    """Makes things on the event loop."""

    async def __call__(self) -> AsyncIterator[Thing]:
        self.asked += 1
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
        self.asked += 1
        if self.takes:
            current().block(self.takes)
        thing = self._thing()
        yield thing
        if self.leaves:
            current().block(self.leaves)
        self._gone(thing)


async def use(thing: Thing) -> None:
    """Use a thing for a second."""
    thing.begin()
    try:
        await asyncio.sleep(1)
    finally:
        thing.end()


def use_plainly(thing: Thing) -> None:
    """The same, in a thread."""
    thing.begin()
    try:
        current().block(1)
    finally:
        thing.end()
