"""Concurrency: at most so many at once, by name, in the whole process: over all loops and plain threads."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from runcrew import clock
from runcrew.abc import Handler
from runcrew.errors import ConfigError
from runcrew.job import Outcome, Run


class Concurrency:
    """A limit on how many attempts are under way at once. First come, first served.

    Two with one name are one limit, everywhere in the process, for as long as either lives. A run that
    waits between two attempts holds no place. A thread that was given up gives its place back, though it
    may still be at work: it is counted and named where it was abandoned.
    """

    __slots__ = ("_places",)

    def __init__(self, limit: int, name: str | None = None) -> None:
        """Raises ConfigError where `limit` is no count from 1, or another of this name has another limit."""
        given: object = limit
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise ConfigError(f"Concurrency: {limit!r} is no limit: give a count from 1; for no limit, leave it out")
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"Concurrency: the name {name!r} is no string")
        self._places = Places(limit, name) if name is None else _shared(limit, name)

    @property
    def limit(self) -> int:
        """How many at once."""
        return self._places.limit

    @property
    def name(self) -> str | None:
        """Under which name it is shared."""
        return self._places.name

    @property
    def in_use(self) -> int:
        """How many are under way now."""
        return self._places.in_use

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._places.waiters)

    def __str__(self) -> str:
        return f"concurrency {self.limit}" + ("" if self.name is None else f" ({self.name})")

    def __repr__(self) -> str:
        return f"<{self}: {self.in_use} in use, {self.waiting} waiting>"

    async def acquire(self) -> None:
        """Take a place, as soon as there is one. Cancelled while it waits, it leaves the line."""
        await self._places.take(None)

    def acquire_blocking(self, timeout: float | None = None) -> bool:
        """The same in a plain thread, which is blocked meanwhile. False: none within `timeout` seconds."""
        return self._places.take_blocking(timeout)

    def release(self) -> None:
        """Give the place back, or to the first in the line."""
        self._places.give_back()


def at_most(inner: Handler, concurrency: Concurrency) -> Handler:
    """Wrap a handler so that an attempt begins when there is a place for it."""
    places = concurrency._places

    async def handle(run: Run) -> Outcome[Any]:
        if not await places.take(run):
            return run.ended_by_request(clock.current().now())
        try:
            return await inner(run)
        finally:
            places.give_back()

    return handle


class _OnLoop:
    """A task that waits."""

    __slots__ = ("future", "granted", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.granted = False

    def wake(self) -> bool:
        """Let it go on. False: its loop is closed, so there is nobody to go on."""
        if asyncio._get_running_loop() is self.loop:
            self.go_on()
            return True
        try:
            self.loop.call_soon_threadsafe(self.go_on)
        except RuntimeError:
            return False
        return True

    def go_on(self) -> None:
        """The same on its own loop: it finds out by itself whether it got a place."""
        if not self.future.done():
            self.future.set_result(None)


class _InThread:
    """A plain thread that waits."""

    __slots__ = ("event", "granted")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.granted = False

    def wake(self) -> bool:
        """Let it go on."""
        self.event.set()
        return True


_Waiter: TypeAlias = _OnLoop | _InThread


class Places:
    """The places themselves. A place that is given back goes straight to the first in the line: nobody barges in."""

    def __init__(self, limit: int, name: str | None) -> None:
        self.limit = limit
        self.name = name
        self.in_use = 0
        self.waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._lock = threading.RLock()  # a coroutine that is thrown away may leave the line in the middle of this

    async def take(self, run: Run | None) -> bool:
        """Take a place for an attempt of `run`, when there is one. False: the run was asked to end before."""
        with self._lock:
            if self._take_now():
                return True
            waiter = _OnLoop()
            self.waiters[waiter] = None
        if run is not None:
            run.wake = waiter.go_on
        try:
            if run is None:
                await waiter.future
            else:
                with run.idle():
                    await waiter.future
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            if run is not None:
                run.wake = None
        if run is None or not run.final:
            return True
        self._leave(waiter)
        return False

    def take_blocking(self, timeout: float | None) -> bool:
        """The same in a plain thread. False: the time was up first."""
        with self._lock:
            if self._take_now():
                return True
            waiter = _InThread()
            self.waiters[waiter] = None
        try:
            if clock.current().block(timeout, waiter.event):
                return True
        except BaseException:
            self._leave(waiter)
            raise
        self._leave(waiter)
        return False

    def give_back(self) -> None:
        """Hand the place on, or free it."""
        while True:
            with self._lock:
                if not self.waiters:
                    self.in_use -= 1
                    return
                waiter, _ = self.waiters.popitem(last=False)
                waiter.granted = True
            if waiter.wake():
                return
            waiter.granted = False  # it is gone, and must not give back what it never had

    def _take_now(self) -> bool:
        if self.in_use >= self.limit:
            return False
        self.in_use += 1
        return True

    def _leave(self, waiter: _Waiter) -> None:
        """Leave the line without going in: a place that has been granted already goes to the next."""
        with self._lock:
            self.waiters.pop(waiter, None)
            granted = waiter.granted
        if granted:
            self.give_back()


_named: WeakValueDictionary[str, Places] = WeakValueDictionary()
_naming = threading.Lock()


def _shared(limit: int, name: str) -> Places:
    with _naming:
        places = _named.get(name)
        if places is None:
            places = _named[name] = Places(limit, name)
    if places.limit != limit:
        raise ConfigError(
            f"Concurrency: {name!r} has the limit {places.limit} elsewhere, and {limit} here: "
            "one name is one limit, so give both the same, or another name"
        )
    return places
