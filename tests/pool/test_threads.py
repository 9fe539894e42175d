"""Plain jobs: each worker runs its job again and again in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from pool_made import Busy, Deaf, PlainBusy, PlainScript, now, rounds, seen

import runcrew as rc
from runcrew.backends import ThreadBackend
from runcrew.clock import current

#: Ways on which a run may go: nothing around it, or a chain around it.
WAYS: list[dict[str, Any]] = [{}, {"retry": rc.Retry(KeyError)}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["bare", "chain"])


def block() -> None:
    """A job that takes a second."""
    current().block(1)


def at_once() -> None:
    """A job that ends at once."""


@each_way
@pytest.mark.parity("T4.2", "T4.23")
@pytest.mark.virtual
async def test_each_worker_has_a_thread_of_its_own(way: dict[str, Any]) -> None:
    """Runs of one worker follow one another in one thread, which is no other worker's and not the loop's."""
    busy = PlainBusy(1.0)
    async with rc.Pool(busy, initial=3, **way) as pool:
        await asyncio.sleep(9.5)
        assert (30, 27) == (busy.begun, busy.ended)
        assert [10, 10, 10] == list(busy.threads.values())
        assert threading.get_ident() not in busy.threads
        assert (27, 3) == (pool.stats().runs.succeeded, pool.stats().runs.in_flight)


@pytest.mark.virtual
async def test_async_and_plain_jobs_may_be_told_apart_by_the_backend() -> None:
    """With backend="thread" a plain job runs in threads as it would anyway; with a backend of somebody's, in its."""
    choices: list[Any] = [{}, {"backend": "thread"}, {"backend": ThreadBackend()}]
    for options in choices:
        busy = PlainBusy(1.0)
        async with rc.Pool(busy, **options):
            await asyncio.sleep(2.5)
        assert 3 == busy.begun
        assert threading.get_ident() not in busy.threads


@each_way
@pytest.mark.virtual
async def test_a_run_in_a_thread_knows_what_it_is(way: dict[str, Any]) -> None:
    """A plain job sees a run of its own each time, also where it ends at once or asks now and then."""
    runs: list[rc.Run] = []
    turns = 0

    def job() -> None:
        nonlocal turns
        turns += 1
        if turns % 50 == 0:
            runs.append(rc.current_run())
            assert rc.current_run() is runs[-1]
        if len(runs) == 5:
            raise rc.Done

    pool = rc.Pool(job, name="it", **way)
    assert (await pool.run()).clean
    assert 5 == len({run.id for run in runs})
    assert [("it", "loop")] * 5 == [(run.service, run.cause) for run in runs]
    assert (250, 250) == (turns, pool.stats().runs.succeeded)


@pytest.mark.virtual
async def test_no_run_is_counted_twice_or_lost() -> None:
    """However short, long or failing runs follow one another in a thread, each is counted once and timed in all."""
    calls = 0

    def job() -> None:
        nonlocal calls
        calls += 1
        if calls == 5000:
            raise rc.Done
        if calls % 700 == 0:
            current().block(0.5)
        if calls % 1000 == 1:
            raise OSError("now and then")

    pool = rc.Pool(job, backoff=None)
    await pool.run()
    runs = pool.stats().runs
    assert (5000, 4995, 5, 0) == (runs.begun, runs.succeeded, runs.failed, runs.in_flight)
    assert 3.5 == pytest.approx(runs.elapsed_total)
    assert 0.5 == pytest.approx(runs.elapsed_max)


@each_way
@pytest.mark.virtual
async def test_a_stop_lets_the_run_in_a_thread_end(way: dict[str, Any]) -> None:
    """A drain tells a plain job nothing; past its time the job is told, and ends as interrupted where it listens."""
    busy = PlainBusy(10.0)
    pool = rc.Pool(busy, initial=2, **way)
    await pool.start()
    await asyncio.sleep(1)
    report = await pool.stop()
    assert (2, 0, 2, 0) == (busy.ended, busy.cut, report.finished, report.cancelled)
    await pool.start()
    await asyncio.sleep(1)
    began = now()
    report = await pool.stop(3)
    assert 3.0 == pytest.approx(now() - began)
    assert (2, 2, 0, 2) == (busy.ended, busy.cut, report.finished, report.cancelled)
    assert 2 == pool.stats().runs.interrupted


@each_way
@pytest.mark.virtual
async def test_threads_end_with_their_workers(way: dict[str, Any]) -> None:
    """A worker that leaves takes its thread with it, and a new one brings its own."""
    busy = PlainBusy(1.0)
    async with rc.Pool(busy, initial=3, **way) as pool:
        await asyncio.sleep(0.5)
        assert 1 == await pool.less(2)
        assert 3 == len(busy.threads)
        await asyncio.sleep(5)
        assert 1 == sum(1 for count in busy.threads.values() if count > 3)
        await pool.more()
        await asyncio.sleep(5)
        assert (2, 2) == (pool.stats().alive, pool.stats().runs.in_flight)


@each_way
@pytest.mark.defect("D4.16")
@pytest.mark.virtual
async def test_a_deaf_thread_is_abandoned_and_named(way: dict[str, Any]) -> None:
    """A plain job that does not listen holds a kill up for seconds at most: it is named with its stack, and left."""
    deaf = Deaf()
    pool = rc.Pool(deaf, initial=2, name="deaf", **way)
    await pool.start()
    await seen(lambda: deaf.begun == 2)
    began = now()
    report = await pool.kill()
    assert now() - began <= 3
    assert 2 == len(report.would_not_stop)
    for stuck in report.would_not_stop:
        assert "deaf" == stuck.service
        assert "may_go" in stuck.stack
    stats = pool.stats()
    assert (2, 0, 0) == (len(stats.abandoned), stats.alive, stats.runs.in_flight)
    assert (2, 2) == (stats.runs.begun, stats.runs.interrupted)
    await deaf.let_go(pool)
    assert (2, 2, 0) == (deaf.begun, deaf.ended, pool.stats().runs.succeeded)


@pytest.mark.virtual
async def test_what_an_abandoned_thread_does_later_counts_no_more() -> None:
    """A run that was given up has ended as interrupted: its late return, or error, changes no figure."""
    may_go = threading.Event()

    def job() -> None:
        current().block(None, may_go)
        raise OSError("too late")

    pool = rc.Pool(job, stop_on_error=True)
    await pool.start()
    await asyncio.sleep(1)
    await pool.kill()
    runs = pool.stats().runs
    may_go.set()
    await seen(lambda: not pool.stats().abandoned)
    assert (runs, None, rc.State.STOPPED) == (pool.stats().runs, pool.error, pool.state)


@pytest.mark.parametrize("most", [1, None])
@pytest.mark.virtual
async def test_a_timed_out_thread_is_abandoned_and_its_worker_replaced(most: int | None) -> None:
    """A plain job past its timeout is left with its thread, and another worker comes; so often, and no more often."""
    deaf = Deaf()
    async with rc.Pool(deaf, timeout="5s", max=most, max_abandoned=2, backoff=None) as pool:
        await asyncio.sleep(7)
        stats = pool.stats()
        assert (1, 1, 1) == (len(stats.abandoned), stats.alive, stats.runs.timed_out)
        await asyncio.sleep(1000)
        stats = pool.stats()
        assert (3, True, 3, 0) == (len(stats.abandoned), stats.stalled, deaf.begun, stats.alive)
        await deaf.let_go(pool)
        await asyncio.sleep(1)
        assert (1, False) == (pool.stats().alive, pool.stats().stalled)


@each_way
@pytest.mark.virtual
async def test_growing_and_pausing_with_threads(way: dict[str, Any]) -> None:
    """Plain jobs are paused and resumed as async ones are."""
    busy = PlainBusy(1.0)
    async with rc.Pool(busy, **way) as pool:
        await asyncio.sleep(0.5)
        assert 0 == await pool.resize(0)
        begun = busy.begun
        await asyncio.sleep(50)
        assert (begun, 0) == (busy.begun, pool.stats().alive)
        assert 4 == await pool.resize(4)
        await asyncio.sleep(9.5)
        assert begun + 40 == busy.begun


@pytest.mark.realtime
@pytest.mark.parametrize("options", [{}, {"retry": rc.Retry(KeyError)}], ids=["bare", "chain"])
def test_threads_that_never_pause_can_be_told_everything(options: dict[str, Any]) -> None:
    """Four threads whose runs end at once are made more, fewer and none, and stopped, on a real loop."""

    async def main() -> None:
        async with rc.Pool(at_once, initial=4, **options) as pool:
            await asyncio.sleep(0.02)
            assert 0 < pool.stats().runs.succeeded
            assert 1 == await pool.less(3)
            assert 3 == await pool.more(2)
            assert 0 == await pool.resize(0)
            runs = pool.stats().runs
            await asyncio.sleep(0.01)
            assert runs == pool.stats().runs
            assert 0 == runs.in_flight
            await pool.more()
            await asyncio.sleep(0.02)
            report = await pool.stop(5)
        assert report.clean
        assert pool.stats().runs.begun == pool.stats().runs.ended
        assert runs.ended < pool.stats().runs.ended

    asyncio.run(main())


@pytest.mark.realtime
def test_the_loop_goes_on_beside_threads() -> None:
    """While threads run their jobs, the event loop is told of nothing, and goes on with everything else."""

    async def main() -> None:
        calls = 0

        def job() -> None:
            nonlocal calls
            calls += 1
            time.sleep(0.0001)

        async with rc.Pool(job) as pool:
            loop: Any = asyncio.get_running_loop()
            soon, told = loop.call_soon_threadsafe, 0

            def counting(*args: Any, **kwargs: Any) -> Any:
                nonlocal told
                told += 1
                return soon(*args, **kwargs)

            loop.call_soon_threadsafe = counting
            await asyncio.sleep(0.1)
            del loop.call_soon_threadsafe
            assert 0 == told
            assert 20 < pool.stats().runs.succeeded

    asyncio.run(main())


@each_way
@pytest.mark.virtual
async def test_a_script_in_a_thread(way: dict[str, Any]) -> None:
    """Short and long runs and failures follow one another at the right times, also in a thread."""
    script = PlainScript(3, 0, OSError("one"), 2, OSError("two"), 0, 5)
    async with rc.Pool(script, backoff=rc.Constant("7s"), **way) as pool:
        await seen(lambda: script.over)
        assert [0.0, 3.0, 3.0, 3.0, 5.0, 5.0, 5.0, 10.0] == script.times
        assert (5, 2) == (pool.stats().runs.succeeded, pool.stats().runs.failed)


@pytest.mark.virtual
async def test_a_plain_job_may_stop_its_pool_by_its_loop() -> None:
    """From a thread the pool is called on its loop; called directly it says so."""
    refused: list[Exception] = []

    def job() -> None:
        try:
            pool.resize(3)
        except rc.WrongLoop as error:
            refused.append(error)
        asyncio.run_coroutine_threadsafe(pool.stop(), loop)
        rc.current_run().sleep(100)

    loop = asyncio.get_running_loop()
    pool = rc.Pool(job, name="it")
    assert (await pool.run()).clean
    assert 1 == len(refused)
    assert "run_coroutine_threadsafe" in str(refused[0])


@pytest.mark.virtual
async def test_both_kinds_side_by_side() -> None:
    """An async pool and a plain one on the same loop do not wait for one another."""
    busy, plain = Busy(1.0), PlainBusy(1.0)
    async with rc.Pool(busy, initial=2, name="a"), rc.Pool(plain, initial=2, name="b"):
        await asyncio.sleep(9.5)
        assert (20, 20) == (busy.begun, plain.begun)
    await rounds()
