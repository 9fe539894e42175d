"""Figures of a pool: what they say before, during and after a life, and that they add up."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from pool_made import Busy, PlainScript, Script, Things, seen, use

import runcrew as rc
from runcrew.job import Job
from runcrew.pool.in_thread import ThreadCycle
from runcrew.workers import Worker

each_kind = pytest.mark.parametrize("kind", [Script, PlainScript], ids=["async", "plain"])
each_way = pytest.mark.parametrize("way", [{}, {"deadline": "1h"}], ids=["bare", "chain"])


@pytest.mark.virtual
async def test_figures_before_a_life_and_after_it() -> None:
    """Before the first life all counts are zero; after the end what has been is still to be seen, and nothing lives."""
    pool = rc.Pool(Busy(1), name="it", min=1, initial=2, max=5)
    stats = pool.stats()
    assert ("it", "new", 0, 2, 1, 5) == (
        stats.name, stats.state, stats.generation, stats.workers, stats.min, stats.max
    )  # fmt: skip
    assert (0, 0, 0, 0, None, None, ()) == (
        stats.alive, stats.busy, stats.opened, stats.runs.begun, stats.utilisation, stats.last_error, stats.decisions
    )  # fmt: skip
    async with pool:
        await asyncio.sleep(2.5)
    stats = pool.stats()
    assert ("stopped", 1, 0, 0, 6) == (
        stats.state, stats.generation, stats.alive, stats.runs.in_flight, stats.runs.succeeded
    )  # fmt: skip
    assert (2, 2) == (stats.opened, stats.closed)


@each_kind
@each_way
@pytest.mark.virtual
async def test_runs_add_up_at_each_moment(kind: Any, way: dict[str, Any]) -> None:
    """What has begun has ended in one of six ways or is under way; times are those of the runs that have ended."""
    steps = (1, OSError("a"), 0, 2, 0.25, KeyError("b"), 0, 0, 3)
    script = kind(*steps)
    async with rc.Pool(script, backoff=rc.Constant(1), **way) as pool:
        while not script.over:
            runs = pool.stats().runs
            assert runs.begun == runs.ended + runs.in_flight
            ends = (runs.succeeded, runs.failed, runs.timed_out, runs.cancelled, runs.interrupted, runs.skipped)
            assert runs.ended == sum(ends)
            assert len(script.calls) == runs.begun
            await asyncio.sleep(0.3)
        runs = pool.stats().runs
        assert (10, 7, 2, 1) == (runs.begun, runs.succeeded, runs.failed, runs.in_flight)
        assert [6.25, 3, 0, 3] == pytest.approx(
            [runs.elapsed_total, runs.elapsed_last, runs.elapsed_min, runs.elapsed_max]
        )


@each_kind
@each_way
@pytest.mark.virtual
async def test_when_the_last_run_ended(kind: Any, way: dict[str, Any]) -> None:
    """It is the instant of its end, also where nobody has looked for a while."""
    script = kind(1, 2, 0.5, 100)
    async with rc.Pool(script, **way) as pool:
        assert None is pool.stats().runs.last_ended
        began = 1735689600.0
        await asyncio.sleep(50)
        assert began + 3.5 == pytest.approx(pool.stats().runs.last_ended)
        await pool.kill()


@pytest.mark.virtual
async def test_where_the_workers_are() -> None:
    """Opening, alive, leaving and closing ones are told apart, and none is in two places."""
    things = Things(takes=2, leaves=3)
    pool = rc.Pool(use, resource=things, initial=2)
    starting = asyncio.ensure_future(pool.start())
    await asyncio.sleep(1)
    assert (2, 2, 0, 0, 0, 0) == places(pool)
    await starting
    await asyncio.sleep(0.5)
    assert (2, 0, 2, 0, 0, 2) == places(pool)
    pool.more()
    pool.less(2)
    assert 1 == pool.size
    await asyncio.sleep(1)
    total = sum(places(pool)[at] for at in (1, 2, 4))
    assert 2 <= total <= 3
    await asyncio.sleep(20)
    assert (1, 0, 1, 0, 0, 1) == places(pool)
    stopping = asyncio.ensure_future(pool.stop())
    await asyncio.sleep(1.5)
    assert (0, 0, 0, 1) == places(pool)[1:5]
    await stopping


def places(pool: rc.Pool) -> tuple[int, ...]:
    """How many there should be; come; are there; of these leave; are taken down; and are at work."""
    stats = pool.stats()
    return stats.workers, stats.opening, stats.alive, stats.leaving, stats.closing, stats.busy


@pytest.mark.virtual
async def test_a_snapshot_does_not_change() -> None:
    """What was handed out stays as it was, and nobody can write to it."""
    async with rc.Pool(Busy(1)) as pool:
        await asyncio.sleep(1.5)
        stats = pool.stats()
        kept = dataclasses.replace(stats)
        await asyncio.sleep(5)
        assert kept == stats != pool.stats()
        field: Any = "workers"
        with pytest.raises(AttributeError):
            setattr(stats, field, 3)


@pytest.mark.virtual
async def test_the_last_error_is_kept() -> None:
    """That of the last run that failed; a success does not wipe it out, and another life begins without."""
    one, two = OSError("one"), KeyError("two")
    script = Script(one, 1, two, 1)
    pool = rc.Pool(script)
    async with pool:
        await asyncio.sleep(0.5)
        assert one is pool.stats().last_error
        await seen(lambda: script.over)
        assert two is pool.stats().last_error
    assert two is pool.stats().last_error
    await pool.start()
    assert None is pool.stats().last_error
    await pool.stop()


@pytest.mark.virtual
async def test_a_run_that_only_seemed_to_follow_is_not_under_way_for_ever() -> None:
    """A look just after a thread's last run, that takes another to be under way, leaves no trace in the figures."""
    pool = rc.Pool(lambda: None, initial=0)
    async with pool:
        assert pool.floor is not None
        books = pool.floor.books
        cycle = ThreadCycle(pool.floor, Worker(pool.floor.group, 1), Job(lambda: None), lambda: None)
        pool.floor._cycles[cycle.worker] = cycle
        cycle.running = True
        cycle.tape.singles.append(0.001)  # it has ended, and the thread has not come to look whether it was told
        assert (2, 1, 1) == ends(pool)
        books.close(cycle)
        assert (1, 1, 0) == ends(pool)
        cycle.running = True
        assert (2, 1, 1) == ends(pool)
        del pool.floor._cycles[cycle.worker]


def ends(pool: rc.Pool) -> tuple[int, int, int]:
    """How many runs have begun, have ended, and are under way."""
    runs = pool.stats().runs
    return runs.begun, runs.ended, runs.in_flight
