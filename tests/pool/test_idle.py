"""`rc.current_run().idle()`: a job that waits for something to do is no work, and need not be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pool_made import Busy, now, rounds

import runcrew as rc
from runcrew.clock import current

#: What may be around a job.
WAYS: list[dict[str, Any]] = [{}, {"deadline": "10h"}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["bare", "chain"])


class Consumer:
    """Takes spans out of an inbox, and works for so long."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[float] = asyncio.Queue()
        self.begun = 0
        self.done = 0

    async def __call__(self) -> None:
        self.begun += 1
        with rc.current_run().idle():
            span = await self.inbox.get()
        await asyncio.sleep(span)
        self.done += 1


@each_way
@pytest.mark.virtual
async def test_waiting_for_something_to_do_is_no_work(way: dict[str, Any]) -> None:
    """The time in the block counts as idle, all other time of a run as work, to the instant."""
    job = Consumer()
    async with rc.Pool(job, **way) as pool:
        assert None is pool.stats().utilisation
        await asyncio.sleep(6)
        stats = pool.stats()
        assert (0, 1, 6.0, 0.0) == (stats.busy, stats.idle, stats.idled, stats.utilisation)
        job.inbox.put_nowait(2)
        await asyncio.sleep(1)
        assert (1, 0) == (pool.stats().busy, pool.stats().idle)
        await asyncio.sleep(3)
        stats = pool.stats()
        assert (0, 1) == (stats.busy, stats.idle)
        assert [2, 8, 0.2] == pytest.approx([stats.worked, stats.idled, stats.utilisation])


@pytest.mark.virtual
async def test_utilisation_is_a_share_of_all_workers_time() -> None:
    """With one of four at work it is a quarter; workers that come and go count for as long as they were there."""
    jobs: Iterator[Any] = iter([Busy(1), Consumer(), Consumer(), Consumer(), Busy(1), Busy(1)])
    async with rc.Pool(job_factory=lambda: next(jobs), initial=4) as pool:
        await asyncio.sleep(10)
        assert [10, 30, 0.25] == pytest.approx(figures(pool))
        await pool.less(3)
        await asyncio.sleep(10)
        assert [20, 30, 0.4] == pytest.approx(figures(pool))
        await pool.more(2)
        await asyncio.sleep(10)
        assert [50, 30, 0.625] == pytest.approx(figures(pool))
        await pool.resize(0)
        worked, idled, _ = figures(pool)
        await asyncio.sleep(1000)
        assert [worked, idled] == pytest.approx(figures(pool)[:2])


def figures(pool: rc.Pool) -> list[float]:
    """How long its workers were at work, and not; and the share of the first."""
    stats = pool.stats()
    assert stats.utilisation is not None
    return [stats.worked, stats.idled, stats.utilisation]


@pytest.mark.virtual
async def test_pauses_after_failures_and_waits_at_a_pace_are_no_work() -> None:
    """What is not the job's own time counts as idle."""

    async def fails() -> None:
        await asyncio.sleep(1)
        raise OSError

    async with rc.Pool(fails, backoff=rc.Constant(3)) as pool:
        await asyncio.sleep(10)  # 1 (at once) 1 3 1 3 1
        assert [4, 6, 0.4] == pytest.approx(figures(pool))
    async with rc.Pool(Busy(1), middleware=[rc.Pace(every="5s")]) as pool:
        await asyncio.sleep(20)
        assert [4, 16, 0.2] == pytest.approx(figures(pool))


@each_way
@pytest.mark.virtual
async def test_a_stop_ends_whoever_waits_at_once(way: dict[str, Any]) -> None:
    """Runs that only wait end as interrupted, by cancellation; runs at work end of their own."""
    job = Consumer()
    pool = rc.Pool(job, initial=3, stop_on_error=True, **way)
    await pool.start()
    await asyncio.sleep(1)
    job.inbox.put_nowait(5)
    await asyncio.sleep(1)
    report = await pool.stop()
    assert (6.0, True, 1, 2) == (now(), report.clean, report.finished, report.cancelled)
    runs = pool.stats().runs
    assert (3, 1, 2, 0) == (job.begun, runs.succeeded, runs.interrupted, runs.failed)


@each_way
@pytest.mark.virtual
async def test_a_stop_calls_its_hooks_first(way: dict[str, Any]) -> None:
    """While the stopping hooks run, nobody who waits is sent home, and what still comes is worked off."""
    job = Consumer()

    async def announce() -> None:
        await asyncio.sleep(1)
        job.inbox.put_nowait(2)
        await asyncio.sleep(1)

    pool = rc.Pool(job, on_stopping=announce, **way)
    await pool.start()
    await asyncio.sleep(1)
    assert (await pool.stop()).clean
    assert (4.0, 1, 0) == (now(), job.done, pool.stats().runs.interrupted)


@each_way
@pytest.mark.virtual
async def test_less_sends_home_who_waits(way: dict[str, Any]) -> None:
    """A worker that is to leave and only waits for something to do leaves at once; the others wait on."""
    job = Consumer()
    async with rc.Pool(job, initial=3, **way) as pool:
        await asyncio.sleep(1)
        assert 1 == await pool.less(2)
        assert (1.0, 2) == (now(), pool.stats().runs.interrupted)
        job.inbox.put_nowait(1)
        await asyncio.sleep(2)
        assert 1 == job.done


@each_way
@pytest.mark.virtual
async def test_a_run_that_comes_to_wait_when_it_is_to_leave(way: dict[str, Any]) -> None:
    """A run that was at work when its worker was told to leave ends where it would begin to wait."""
    after: list[str] = []

    async def job() -> None:
        await asyncio.sleep(10)
        with rc.current_run().idle():
            after.append("entered")
            await asyncio.sleep(1000)
        after.append("went on")

    pool = rc.Pool(job, **way)
    await pool.start()
    await asyncio.sleep(1)
    report = await pool.stop()
    assert (10.0, True, []) == (now(), report.clean, after)
    assert (1, 0) == (pool.stats().runs.interrupted, pool.stats().runs.failed)


@each_way
@pytest.mark.virtual
async def test_a_plain_job_that_waits_is_told(way: dict[str, Any]) -> None:
    """In a thread the time counts the same; a stop makes `run.cancelled` true, and the run ends where it looks."""
    begun = 0

    def job() -> None:
        nonlocal begun
        begun += 1
        run = rc.current_run()
        with run.idle():
            if run.wait_cancelled(6):
                return
        current().block(2)

    pool = rc.Pool(job, **way)
    await pool.start()
    await asyncio.sleep(10)
    assert [2, 8, 0.2] == pytest.approx(figures(pool), abs=0.01)
    assert (2, 0, 1) == (begun, pool.stats().busy, pool.stats().idle)
    report = await pool.stop()
    assert 10.0 == pytest.approx(now(), abs=0.05)
    assert (2, True) == (begun, report.clean)


@each_way
@pytest.mark.virtual
async def test_a_plain_job_does_not_begin_to_wait_when_it_is_to_leave(way: dict[str, Any]) -> None:
    """In a thread the block is not entered once the worker is to leave: the run ends there, as interrupted."""
    after: list[str] = []

    def job() -> None:
        current().block(10)
        with rc.current_run().idle():
            after.append("entered")
            current().block(1000)

    pool = rc.Pool(job, **way)
    await pool.start()
    await asyncio.sleep(1)
    await pool.stop()
    assert 10.0 == pytest.approx(now())
    assert [] == after
    assert (1, 0) == (pool.stats().runs.interrupted, pool.stats().runs.failed)


@each_way
@pytest.mark.virtual
async def test_waiting_within_waiting(way: dict[str, Any]) -> None:
    """Blocks within blocks are one; leaving them by an error counts as leaving."""

    async def job() -> None:
        run = rc.current_run()
        try:
            with run.idle(), run.idle():
                await asyncio.sleep(3)
                raise KeyError
        except KeyError:
            pass
        await asyncio.sleep(1)

    async with rc.Pool(job, **way) as pool:
        await asyncio.sleep(1)
        assert 1 == pool.stats().idle
        await asyncio.sleep(2.5)
        assert 0 == pool.stats().idle
        await asyncio.sleep(4.5)
        assert [2, 6, 0.25] == pytest.approx(figures(pool))


@pytest.mark.virtual
async def test_a_task_of_the_job_that_waits_after_its_run_is_nobodys_business() -> None:
    """A task that a run has left behind may enter the block later: it is no longer the worker that waits."""
    left: list[asyncio.Task[None]] = []

    async def waits(run: rc.Run) -> None:
        await asyncio.sleep(1.5)
        with run.idle():
            await asyncio.sleep(5)

    async def job() -> None:
        if not left:
            left.append(asyncio.ensure_future(waits(rc.current_run())))
        await asyncio.sleep(1)

    async with rc.Pool(job) as pool:
        await asyncio.sleep(3.5)
        assert (1, 0) == (pool.stats().busy, pool.stats().idle)
        assert 0 == await pool.less()
        assert (4, 0) == (pool.stats().runs.succeeded, pool.stats().runs.interrupted)
        await pool.more()
        await asyncio.sleep(10.5)
        assert [14.5, 0, 1] == pytest.approx(figures(pool), abs=0.01)
    await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.virtual
async def test_outside_of_a_pool_it_changes_nothing() -> None:
    """A job that says it waits runs anywhere."""

    async def job() -> int:
        with rc.current_run().idle():
            await asyncio.sleep(1)
        return 7

    async with rc.Queue("q") as queue:
        assert 7 == await queue.run(job)
    assert 7 == await rc.call(job)


@pytest.mark.virtual
async def test_an_item_that_was_taken_is_not_lost_by_leaving() -> None:
    """Whoever has left the block is at work: a stop waits for it, also in the very instant in which it got an item."""
    for after in range(6):
        job = Consumer()
        pool = rc.Pool(job)
        await pool.start()
        await asyncio.sleep(1)
        job.inbox.put_nowait(3)
        await rounds(after)
        await pool.stop()
        assert (1, 0) == (job.done, job.inbox.qsize()) or (0, 1) == (job.done, job.inbox.qsize())
        if after >= 2:
            assert 1 == job.done
