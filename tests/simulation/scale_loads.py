"""Loads that come and go, given to a real queue on virtual time, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import runcrew as rc
from runcrew.testing import run_virtual
from runcrew.workers import Decision

#: How many workers' worth of work comes in, at so many seconds after the beginning.
Offered = Callable[[float], float]


@dataclass(frozen=True)
class Shape:
    """A load: what is offered and for how long, how long a job takes (on average, by chance), and how it ends."""

    offered: Offered
    seconds: float
    service: float = 0.2
    #: Which share of the jobs fail.
    fails: float = 0.0
    #: Seconds that a resource takes to be made; 0: there is none.
    opening: float = 0.0
    #: Seconds of watching after the load.
    after: float = 0.0


@dataclass
class Seen:
    """What was seen, second by second: (seconds, how many workers there should be, the age of the oldest waiting)."""

    tasks: int
    looks: list[tuple[float, int, float]]
    decisions: tuple[Decision, ...]

    def size(self, at: float) -> int:
        """How many workers there should be at that second."""
        return next(size for when, size, _ in self.looks if when >= at)

    def sizes(self, since: float, until: float) -> list[int]:
        """All numbers of workers between."""
        return [size for when, size, _ in self.looks if since <= when <= until]

    def oldest(self, since: float, until: float) -> float:
        """The longest that anybody had been waiting between."""
        return max(age for when, _, age in self.looks if since <= when <= until)

    def turns(self, since: float = 0.0, until: float = 1e9) -> int:
        """How often it went over from growing to shrinking, or back, between."""
        steps = [after - before for before, after in pairwise(self.sizes(since, until)) if after != before]
        return sum((one > 0) != (other > 0) for one, other in pairwise(steps))


def driven(shape: Shape, scale: rc.Scale, *, seed: int, most: int = 40) -> Seen:
    """Give this load to a queue with one worker at least and so many at most."""
    return run_virtual(_drive, shape, scale, seed, most, seed=seed)


async def _drive(shape: Shape, scale: rc.Scale, seed: int, most: int) -> Seen:
    chance, loop = Random(seed), asyncio.get_running_loop()

    async def connection() -> AsyncIterator[None]:
        await asyncio.sleep(shape.opening)
        yield

    async def job(*args: Any) -> None:
        await asyncio.sleep(args[-1])
        if chance.random() < shape.fails:
            raise ValueError("no such row")

    resource: dict[str, Any] = {"resource": connection} if shape.opening else {}
    looks: list[tuple[float, int, float]] = []
    async with rc.Queue("load", workers=1, max_workers=most, scale=scale, **resource) as queue:
        start, tasks = loop.time(), 0

        async def watch() -> None:
            while True:
                desk = queue.desk
                assert desk is not None
                since = desk.levels.oldest()
                looks.append((loop.time() - start, queue.size, 0.0 if since is None else desk.now() - since))
                await asyncio.sleep(1)

        watching = asyncio.ensure_future(watch())
        for at in _arrivals(shape, chance):
            await asyncio.sleep(max(0.0, start + at - loop.time()))
            queue.submit_nowait(job, chance.expovariate(1 / shape.service))
            tasks += 1
        await asyncio.sleep(max(0.0, start + shape.seconds + shape.after - loop.time()))
        watching.cancel()
        return Seen(tasks, looks, queue.stats().decisions)


def _arrivals(shape: Shape, chance: Random) -> Iterator[float]:
    """By chance, so many a second as are offered then."""
    most = max(shape.offered(at / 4) for at in range(int(4 * shape.seconds) + 1))
    at = 0.0
    while most:
        at += chance.expovariate(most / shape.service)
        if at >= shape.seconds:
            return
        if chance.random() * most < shape.offered(at):
            yield at


def steady(offered: float) -> Offered:
    """Always the same."""
    return lambda at: offered


def step(before: float, after: float, when: float) -> Offered:
    """From one load to another."""
    return lambda at: before if at < when else after


def ramp(top: float, seconds: float) -> Offered:
    """From nothing, evenly, to the top, and on there."""
    return lambda at: top * min(1.0, at / seconds)


def sawtooth(top: float, period: float) -> Offered:
    """From nothing to the top, again and again."""
    return lambda at: top * (at % period) / period


def burst(offered: float, when: float, lasts: float) -> Offered:
    """Nothing but for one short time."""
    return lambda at: offered if when <= at < when + lasts else 0.0
