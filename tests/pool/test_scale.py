"""A pool that is scaled by how much its workers are at work: it grows, shrinks, stays within its limits, or pauses."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pool_made import Busy, Gate, Things

import runcrew as rc
from runcrew import events

SCALE = rc.Scale(every="1s", window="5s", wait="2s", hold="20s", cooldown="5s")


class Inbox:
    """Messages that take a second each, at a rate; plain or async consumers take them."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[None] = asyncio.Queue()
        self.rate = 0.0
        self.done = 0

    async def consume(self) -> None:
        """The job."""
        with rc.current_run().idle():
            await self.waiting.get()
        await asyncio.sleep(1)
        self.done += 1

    async def feed(self) -> None:
        """So many messages in a second, one by one."""
        while True:
            if not self.rate:
                await asyncio.sleep(0.5)
                continue
            await asyncio.sleep(1 / self.rate)
            self.waiting.put_nowait(None)


@contextlib.asynccontextmanager
async def fed(**options: Any) -> AsyncIterator[tuple[Inbox, rc.Pool]]:
    """A scaled pool and its inbox."""
    inbox = Inbox()
    options = {"max": 10, "scale": SCALE, **options}
    async with rc.Pool(inbox.consume, name="it", **options) as pool:
        feeding = asyncio.ensure_future(inbox.feed())
        try:
            yield inbox, pool
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])


async def sizes(pool: rc.Pool, span: float) -> list[int]:
    """How many workers there were to be, second by second."""
    seen = []
    for _ in range(round(span)):
        await asyncio.sleep(1)
        seen.append(pool.size)
        assert pool.stats().alive <= (pool.stats().max or 1000)
    return seen


@pytest.mark.defect("D4.18")
@pytest.mark.virtual
async def test_it_grows_with_its_load_and_shrinks_when_that_is_gone() -> None:
    """Up to what the load needs and no further; soon after it came; and back down to one after it has gone."""
    async with fed() as (inbox, pool):
        assert [1] * 30 == await sizes(pool, 30), "nothing to do"
        inbox.rate = 5
        grown = await sizes(pool, 60)
        top = grown.index(max(grown))
        assert grown[: top + 1] == sorted(grown[: top + 1])
        assert top < 40
        steady = await sizes(pool, 200)
        assert 5 <= steady[-1] <= 9
        assert inbox.waiting.qsize() <= 2, "it keeps up"
        inbox.rate = 0
        shrunk = await sizes(pool, 200)
        assert shrunk == sorted(shrunk, reverse=True)
        assert 1 == shrunk[-1]


@pytest.mark.virtual
async def test_a_steady_load_is_no_reason_to_come_and_go() -> None:
    """Once it fits, the number stays: no flapping."""
    async with fed() as (inbox, pool):
        inbox.rate = 3
        await sizes(pool, 120)
        changes = len(pool.stats().decisions)
        steady = await sizes(pool, 900)
        assert len(pool.stats().decisions) - changes <= 3
        assert max(steady) - min(steady) <= 3


@pytest.mark.virtual
async def test_it_is_never_outside_of_its_limits() -> None:
    """Whatever the load, between `min` (and one) and `max`."""
    async with fed(min=2, max=4) as (inbox, pool):
        inbox.rate = 50
        assert {2, 3, 4} >= set(await sizes(pool, 120))
        assert 4 == pool.size
        inbox.rate = 0
        while inbox.waiting.qsize():
            inbox.waiting.get_nowait()
        assert {2, 3, 4} >= set(await sizes(pool, 300))
        assert 2 == pool.size


@pytest.mark.virtual
async def test_one_worker_that_waits_is_no_load() -> None:
    """Workers that only wait for something to do, or for a pace, do not multiply."""
    async with fed() as (_, pool):
        assert {1} == set(await sizes(pool, 300))
    paced = rc.Pool(Busy(0.1), max=10, scale=SCALE, middleware=[rc.Pace(every="1s")])
    async with paced:
        assert {1} == set(await sizes(paced, 300))


@pytest.mark.virtual
async def test_one_run_that_goes_on_for_ever_is_no_load() -> None:
    """A worker that is busy with one endless run asks for nobody."""
    gate = Gate()
    async with rc.Pool(gate, max=10, scale=SCALE) as pool:
        assert {1} == set(await sizes(pool, 300))
        await pool.kill()


@pytest.mark.virtual
async def test_workers_that_pause_after_failures_are_no_load() -> None:
    """A job that always fails does not bring more of the same."""

    async def fails() -> None:
        raise OSError

    async with rc.Pool(fails, max=10, scale=SCALE) as pool:
        assert {1} == set(await sizes(pool, 600))


@pytest.mark.virtual
async def test_a_job_that_never_waits_takes_all_there_may_be() -> None:
    """A pool whose job does not say when it waits is at work always: it grows to `max`, which is what it was given."""
    async with rc.Pool(Busy(1), max=6, scale=SCALE) as pool:
        await asyncio.sleep(60)
        assert 6 == pool.size == pool.stats().alive


@pytest.mark.virtual
async def test_a_pause_stays_a_pause() -> None:
    """Only by hand a pool is paused, and only by hand it goes on; then it scales again."""
    async with fed() as (inbox, pool):
        inbox.rate = 5
        await sizes(pool, 60)
        await pool.resize(0)
        assert {0} == set(await sizes(pool, 600))
        pool.more()
        await sizes(pool, 60)
        assert 2 < pool.size


@pytest.mark.virtual
async def test_what_was_said_by_hand_lasts_for_a_while() -> None:
    """Somebody who makes it larger is not overruled at once; when the load does not need it, it shrinks later."""
    async with fed() as (_, pool):
        await asyncio.sleep(60)
        await pool.resize(8)
        assert {8} == set(await sizes(pool, 18))
        await sizes(pool, 200)
        assert 1 == pool.size


@pytest.mark.virtual
async def test_each_change_is_told_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, as an event with what it was decided from, and in `stats().decisions`."""
    caplog.set_level(logging.INFO, "runcrew")
    told: list[events.Scaled] = []
    async with fed() as (inbox, pool):
        pool.subscribe(told.append, events.Scaled)
        inbox.rate = 4
        await sizes(pool, 60)
        inbox.rate = 0
        await sizes(pool, 150)
        decisions = pool.stats().decisions
    assert [(event.before, event.after) for event in told] == [(made.before, made.after) for made in decisions]
    assert 1 == told[0].before
    assert all(a.after == b.before for a, b in itertools.pairwise(told))
    assert all(event.reason for event in told)
    assert (None, None) == (told[0].arrival, told[0].waiting)
    assert 0.8 <= told[0].utilisation <= 1
    lines = [record.getMessage() for record in caplog.records if "workers:" in record.getMessage()]
    assert len(told) == len(lines)
    assert lines[0].startswith("it: 1 -> 2 workers: ")


@pytest.mark.virtual
async def test_nothing_is_scaled_unless_it_is_asked_for() -> None:
    """Without scale= the number stays what it was said to be."""
    async with rc.Pool(Busy(1), max=10, initial=2) as pool:
        assert {2} == set(await sizes(pool, 300))
        assert () == pool.stats().decisions


@pytest.mark.virtual
async def test_scaling_ends_with_the_life_and_begins_with_the_next() -> None:
    """While it stops nothing changes any more; a new life begins with its first size and its own decisions."""
    busy = Busy(30)
    pool = rc.Pool(busy, max=6, scale=rc.Scale(every="1s", wait="1s", window="1s", hold="60s"))
    await pool.start()
    await asyncio.sleep(100)
    size = pool.size
    assert size > 1
    stopping = asyncio.ensure_future(pool.stop())
    await asyncio.sleep(0.1)
    alive = pool.stats().alive
    await asyncio.sleep(5)
    assert pool.stats().alive <= alive
    await stopping
    decided = len(pool.stats().decisions)
    await asyncio.sleep(100)
    assert decided == len(pool.stats().decisions)
    await pool.start()
    assert (1, ()) == (pool.size, pool.stats().decisions)
    await asyncio.sleep(100)
    assert 1 < pool.size
    await pool.stop()


@pytest.mark.virtual
async def test_workers_with_slow_resources_are_waited_for() -> None:
    """Those that come count: while they are on their way it does not ask for more and more."""
    things = Things(takes=8)
    inbox = Inbox()

    async def job(_: Any) -> None:
        await inbox.consume()

    async with rc.Pool(job, resource=things, max=20, scale=SCALE) as pool:
        inbox.rate = 4
        feeding = asyncio.ensure_future(inbox.feed())
        most = max(await sizes(pool, 200))
        assert inbox.waiting.qsize() <= 3
        assert 5 <= pool.size <= most <= 16
        inbox.rate = 0
        await sizes(pool, 300)
        assert 1 == pool.size
        feeding.cancel()
        await asyncio.wait([feeding])
    assert things.balanced
