"""The end of a pool: stop and kill, in any order and from anywhere; what they finish, cut short and report."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from typing import Any

import pytest
from pool_made import Busy, Deaf, PlainBusy, PlainThings, Things, now, rounds, seen, use

import runcrew as rc
from runcrew.testing import run_virtual

#: What may be around a job.
WAYS: list[dict[str, Any]] = [{}, {"retry": rc.Retry(KeyError)}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["bare", "chain"])


async def started(job: Any, **options: Any) -> rc.Pool:
    """A pool of that job that has been at work for a second."""
    pool = rc.Pool(job, **options)
    await pool.start()
    await asyncio.sleep(1)
    return pool


# --- stop ---------------------------------------------------------------------------------------


@each_way
@pytest.mark.parity("T4.30")
@pytest.mark.defect("D4.7")
@pytest.mark.virtual
async def test_a_stop_lets_each_worker_end_its_run(way: dict[str, Any]) -> None:
    """Runs under way end of their own and see nothing of it, those of workers that leave already too; none begins."""
    told: list[bool] = []

    async def job() -> None:
        await asyncio.sleep(10)
        told.append(rc.current_run().cancelled)

    pool = await started(job, initial=3, **way)
    pool.less()
    report = await pool.stop()
    assert (10.0, 9.0) == (now(), report.elapsed)
    assert [False] * 3 == told
    assert (3, 0, 0, True) == (report.finished, report.cancelled, report.never_started, report.clean)
    stats = pool.stats()
    assert (0, 0, 0, 0, 3) == (stats.alive, stats.leaving, stats.busy, stats.runs.in_flight, stats.runs.succeeded)


@each_way
@pytest.mark.parity("T4.32", "E4.11")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_a_stop_takes_no_longer_than_it_may(plain: bool, way: dict[str, Any]) -> None:
    """Past its timeout what runs is cut short and ends as interrupted."""
    busy: Any = PlainBusy(100) if plain else Busy(100)
    pool = await started(busy, initial=2, stop_on_error=True, **way)
    began = now()
    report = await pool.stop("7s")
    assert 7.0 == pytest.approx(now() - began)
    assert (0, 2, True) == (report.finished, report.cancelled, report.clean)
    assert (2, 2, rc.State.STOPPED) == (busy.cut, pool.stats().runs.interrupted, pool.state)


@pytest.mark.parity("E4.12", "T4.1")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_a_kill_cuts_everything_short_at_once(plain: bool) -> None:
    """No run ends of its own, each job is told, and none begins."""
    busy: Any = PlainBusy(100) if plain else Busy(100)
    pool = await started(busy, initial=2)
    report = await pool.kill()
    assert 1.0 == pytest.approx(now())
    assert (2, 2) == (busy.begun, busy.cut)
    assert (0, 2) == (report.finished, report.cancelled)


@pytest.mark.virtual
async def test_a_kill_cuts_a_stop_short() -> None:
    """A stop that is under way ends when a kill comes, with one report for both."""
    pool = await started(Busy(100), initial=2)
    stopping = asyncio.ensure_future(pool.stop(50))
    await asyncio.sleep(3)
    report = await pool.kill()
    assert report is await stopping
    assert (4.0, 2) == (now(), report.cancelled)


@pytest.mark.parity("T4.31")
@pytest.mark.defect("D4.6")
@pytest.mark.virtual
async def test_whoever_waits_for_a_stop_may_give_up_and_come_back() -> None:
    """Cancelling the caller of a stop ends only the waiting: the workers finish, and a second stop awaits them."""
    busy = Busy(20)
    pool = await started(busy)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await pool.stop()
    assert (rc.State.STOPPING, 1) == (pool.state, pool.stats().runs.in_flight)
    report = await pool.stop()
    assert (20.0, 1, 0) == (now(), busy.ended, report.cancelled)
    assert report is await pool.wait()


@pytest.mark.parity("T4.33", "T4.34")
@pytest.mark.defect("D4.6")
@pytest.mark.virtual
async def test_stops_and_kills_may_come_in_any_number_and_order() -> None:
    """Before a start, at the same time and after the end each is answered by the report of the same end."""
    pool = rc.Pool(Busy(10))
    assert (await pool.stop()).clean
    assert rc.State.STOPPED is pool.state
    await pool.start()
    await asyncio.sleep(1)
    reports = list(await asyncio.gather(pool.stop(), pool.stop(5), pool.wait(), pool.stop()))
    reports += [await pool.kill(), await pool.stop(), await pool.wait()]
    assert all(report is reports[0] for report in reports)
    assert 6.0 == now()


@pytest.mark.virtual
async def test_the_earliest_limit_counts() -> None:
    """Of several stops under way the one that gives the least time says when runs are cut short."""
    pool = await started(Busy(1000))
    await asyncio.gather(pool.stop(50), pool.stop(7), pool.stop(100))
    assert 8.0 == now()


@each_way
@pytest.mark.virtual
async def test_a_failure_during_the_drain_is_a_failure(way: dict[str, Any]) -> None:
    """A run that fails or times out while its pool is being stopped is counted as such, and raised where asked for."""

    async def fails() -> None:
        await asyncio.sleep(10)
        raise OSError("at the end")

    pool = await started(fails, **way)
    assert (await pool.stop()).clean
    assert (1, 0) == (pool.stats().runs.failed, pool.stats().runs.interrupted)
    pool = await started(fails, stop_on_error=True, **way)
    report = await pool.stop()
    assert ["at the end"] == [str(error) for error in report.errors]
    assert rc.State.FAILED is pool.state
    pool = await started(Busy(1000), timeout=5, **way)
    await pool.stop()
    assert (1, 0) == (pool.stats().runs.timed_out, pool.stats().runs.interrupted)


@pytest.mark.virtual
async def test_a_retry_pause_is_not_waited_for() -> None:
    """A run between two attempts ends at once when its pool is stopped: interrupted, with the last error."""
    calls = 0

    async def fails() -> None:
        nonlocal calls
        calls += 1
        raise OSError("again")

    pool = await started(fails, retry=rc.Retry(OSError, retries=9, backoff=rc.Constant("100s")))
    report = await pool.stop()
    assert (1.0, 1, True) == (now(), calls, report.clean)
    assert (1, 0) == (pool.stats().runs.interrupted, pool.stats().runs.failed)


@pytest.mark.virtual
async def test_an_attempt_under_way_ends_before_the_stop() -> None:
    """A drain lets the attempt end that is under way; when it has failed, no other one follows."""
    calls = 0

    async def fails() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(10)
        raise OSError("again")

    pool = await started(fails, retry=rc.Retry(OSError, retries=9, backoff=rc.Constant(0)))
    await pool.stop()
    assert (10.0, 1, 0) == (now(), calls, pool.stats().runs.succeeded)


# --- what will not stop -------------------------------------------------------------------------


@each_way
@pytest.mark.defect("D4.16")
@pytest.mark.virtual
async def test_what_will_not_stop_is_named_with_its_stack(way: dict[str, Any]) -> None:
    """A job that ignores its cancellation holds nobody up for ever: it is reported, and left."""
    over = False

    async def stubborn() -> None:
        while not over:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.5)

    pool = await started(stubborn, name="it", **way)
    report = await pool.stop(3)
    assert now() <= 7
    (stuck,) = report.would_not_stop
    assert "it" == stuck.service
    assert "run " in stuck.what
    assert "stubborn" in stuck.stack
    assert not report.clean
    stats = pool.stats()
    assert (1, 0, 0) == (stats.runs.interrupted, stats.runs.in_flight, stats.alive)
    over = True
    await asyncio.sleep(2)
    assert stats.runs == pool.stats().runs


@pytest.mark.defect("D4.16")
@pytest.mark.virtual
async def test_running_a_pool_ends_in_time_whatever_its_job_does() -> None:
    """A cancelled `run()` comes back although the job of the pool never ends."""
    over = False

    async def stubborn() -> None:
        while not over:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.5)

    pool = rc.Pool(stubborn)
    running = asyncio.ensure_future(pool.run())
    await asyncio.sleep(1)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert now() <= 40
    assert pool.report is not None
    assert 1 == len(pool.report.would_not_stop)
    over = True
    await asyncio.sleep(1)


@pytest.mark.virtual
async def test_a_resource_that_will_not_be_taken_down_is_named() -> None:
    """Also what a worker owns may hang, when it is made and when it is taken down: that is said too."""
    hangs = asyncio.Event()

    async def resource() -> Any:
        yield 1
        while not hangs.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await hangs.wait()

    async def job(_: int) -> None:
        await asyncio.sleep(1)

    pool = await started(job, resource=resource)
    report = await pool.stop(3)
    assert ["the resource of worker 1 (closing)"] == [stuck.what for stuck in report.would_not_stop]
    hangs.set()
    await asyncio.sleep(1)


# --- from inside --------------------------------------------------------------------------------


@each_way
@pytest.mark.defect("D4.21")
@pytest.mark.parametrize("call", ["stop", "kill"])
@pytest.mark.virtual
async def test_a_job_may_stop_its_own_pool(call: str, way: dict[str, Any]) -> None:
    """From inside the stop begins and does not wait for its caller; the others end as in any stop."""
    answers: list[bool] = []

    async def job() -> None:
        await asyncio.sleep(1)
        answers.append((await getattr(pool, call)()).complete)
        await asyncio.sleep(1)

    pool = rc.Pool(job, initial=2, **way)
    report = await pool.run()
    assert report.complete
    assert [False] * 2 == answers
    if call == "stop":
        assert (2.0, 2) == (now(), pool.stats().runs.succeeded)
    else:
        assert (1.0, 2) == (now(), pool.stats().runs.interrupted)


@pytest.mark.defect("D4.21")
@pytest.mark.virtual
async def test_a_job_cannot_wait_for_its_own_end() -> None:
    """Where a job awaits what would wait for the job itself, it hears so."""

    async def job() -> None:
        with pytest.raises(rc.WouldDeadlock):
            await pool.wait()
        raise rc.Done

    pool = rc.Pool(job)
    assert (await pool.run()).clean


@pytest.mark.parity("E4.6")
@pytest.mark.virtual
async def test_a_job_that_cancels_whoever_runs_the_pool_ends_it() -> None:
    """The task that runs a pool may be cancelled by the pool's own job, and the pool can be run again."""
    runners: list[asyncio.Task[Any]] = []

    async def job() -> None:
        await asyncio.sleep(1)
        runners[-1].cancel()

    pool = rc.Pool(job)
    for life in (1, 2):
        runners.append(asyncio.ensure_future(pool.run()))
        await asyncio.wait(runners)
        assert runners[-1].cancelled()
        assert (rc.State.STOPPED, life) == (pool.state, pool.generation)
        assert 1 <= pool.stats().runs.succeeded <= 2, "another one may have begun before the task could act"


# --- running it ---------------------------------------------------------------------------------


@pytest.mark.parity("T4.20", "T4.21")
@pytest.mark.virtual
async def test_run_starts_waits_and_stops_when_it_is_cancelled() -> None:
    """`run` ends with the pool; cancelled, it stops the pool first, with its runs finished, and ends as cancelled."""
    busy = Busy(10)
    pool = rc.Pool(busy, initial=2)
    running = asyncio.ensure_future(pool.run())
    await asyncio.sleep(25)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (30.0, 6, 0) == (now(), busy.ended, busy.cut)
    assert rc.State.STOPPED is pool.state


@pytest.mark.parity("T4.21")
@pytest.mark.virtual
async def test_what_makes_the_start_fail_comes_out_of_run_at_once() -> None:
    """A factory that gives no job fails the start, and `run` raises that."""
    factory: Any = lambda: 3
    pool = rc.Pool(job_factory=factory)
    with pytest.raises(rc.ConfigError, match="job_factory"):
        await pool.run()
    assert (0.0, rc.State.FAILED) == (now(), pool.state)


@pytest.mark.parity("T4.22")
@pytest.mark.virtual
async def test_whoever_is_stopped_before_the_first_step_runs_nothing() -> None:
    """A pool that is stopped in the same breath as it was started begins no run, and one whose task never ran none."""
    busy = Busy(1)
    pool = rc.Pool(busy, initial=3)
    await pool.start()
    assert (await pool.stop()).clean
    running = asyncio.ensure_future(pool.run())
    running.cancel()
    await asyncio.wait([running])
    assert (0, 0) == (busy.begun, pool.stats().runs.begun)


@pytest.mark.virtual
async def test_a_block_stops_the_pool_at_its_end() -> None:
    """Leaving `async with` is a stop; by an error too, which comes out."""
    busy = Busy(10)
    pool = rc.Pool(busy)
    with pytest.raises(KeyError):
        async with pool:
            await asyncio.sleep(1)
            raise KeyError
    assert (10.0, 1, rc.State.STOPPED) == (now(), busy.ended, pool.state)


# --- another life -------------------------------------------------------------------------------


@pytest.mark.parity("T4.18", "T4.19", "T4.35", "E4.4")
@pytest.mark.virtual
async def test_a_pool_can_have_another_life() -> None:
    """A start while it runs does nothing; after the end it begins anew, with its first size and empty figures."""
    busy = Busy(1)
    pool = rc.Pool(busy, initial=2)
    for life in (1, 2, 3):
        await pool.start()
        await pool.start()
        assert (life, 2, 2) == (pool.generation, pool.size, pool.stats().alive)
        assert 0 == pool.stats().runs.begun
        await pool.more(3)
        await asyncio.sleep(2.5)
        assert (5, 10) == (pool.size, pool.stats().runs.succeeded)
        await pool.stop()
    stopping = asyncio.ensure_future(pool.stop())
    await stopping
    with pytest.raises(rc.ServiceStopped):
        pool.more()


@pytest.mark.virtual
async def test_a_start_while_it_stops_is_refused() -> None:
    """A new life begins when the old one has ended."""
    pool = await started(Busy(10))
    stopping = asyncio.ensure_future(pool.stop())
    await rounds()
    with pytest.raises(rc.ServiceStopping):
        await pool.start()
    await stopping
    await pool.start()
    await pool.kill()


@pytest.mark.virtual
async def test_a_life_is_not_touched_by_what_was_left_of_the_last_one() -> None:
    """A deaf thread of the old life that ends in the new one changes none of its figures."""
    deaf = Deaf()
    pool = rc.Pool(deaf)
    await pool.start()
    await seen(lambda: deaf.begun == 1)
    await pool.kill()
    await pool.start()
    await seen(lambda: deaf.begun == 2)
    deaf.may_go.set()
    await seen(lambda: deaf.ended >= 2)
    await asyncio.sleep(5.5)
    stats = pool.stats()
    assert stats.runs.succeeded == deaf.ended - 1
    assert (0, 1, 1) == (stats.runs.interrupted, stats.alive, stats.runs.in_flight)
    await pool.stop()


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
def test_a_pool_lives_on_one_loop_after_another(plain: bool) -> None:
    """Whatever loop it is started on is its own for that life."""
    busy: Any = PlainBusy(1) if plain else Busy(1)
    pool = rc.Pool(busy, initial=2)

    async def main() -> None:
        async with pool:
            await asyncio.sleep(2.5)
        assert 6 == pool.stats().runs.succeeded

    for _ in range(3):
        run_virtual(main)
    assert 3 == pool.generation


# --- loops that end -----------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("kind", ["async", "plain", "async resource", "plain resource"])
def test_a_loop_that_is_torn_down_takes_the_pool_with_it(kind: str, way: dict[str, Any]) -> None:
    """When all tasks are cancelled, as `asyncio.run` does, runs are interrupted, resources go, and nothing is left."""
    busy: Any = PlainBusy(1000) if "plain" in kind else Busy(1000)
    things: Any = None
    if "resource" in kind:
        things = PlainThings() if "plain" in kind else Things()
    pool = rc.Pool(busy, resource=things, initial=3, **way)

    async def main() -> None:
        await pool.start()
        await asyncio.sleep(1)

    run_virtual(main)
    if "plain" not in kind:
        assert (3, 3) == (busy.begun, busy.cut)
    assert things is None or "plain" in kind or things.balanced
    run_virtual(again, pool)
    assert (2, rc.State.STOPPED) == (pool.generation, pool.state)


async def again(pool: rc.Pool) -> None:
    """Begin another life, and end it."""
    await pool.start()
    await asyncio.sleep(1)
    assert pool.size == pool.stats().alive == pool.stats().runs.in_flight
    report = await pool.kill()
    assert report.clean


@pytest.mark.realtime
@pytest.mark.parametrize("kind", ["async", "plain"])
def test_asyncio_run_ends_in_time(kind: str) -> None:
    """On a real loop too: a program that forgets its pool ends, with all of its threads."""
    ended = threading.Event()

    async def job() -> None:
        await asyncio.sleep(0.001)

    def plain() -> None:
        ended.wait(0.001)

    async def main() -> None:
        pool = rc.Pool(plain if kind == "plain" else job, initial=3)
        await pool.start()
        await asyncio.sleep(0.02)
        assert 3 == pool.stats().alive

    asyncio.run(main())


@pytest.mark.realtime
@pytest.mark.parametrize("kind", ["async", "plain", "plain resource"])
def test_a_loop_that_is_closed_without_a_stop(kind: str) -> None:
    """A loop that was closed with everything pending on it keeps no pool from another life, and no thread alive."""
    busy: Any = PlainBusy(0.01) if "plain" in kind else Busy(1000)
    things: Any = PlainThings() if "resource" in kind else None
    pool = rc.Pool(busy, resource=things, initial=2)
    loop = asyncio.new_event_loop()

    async def main() -> None:
        await pool.start()
        await asyncio.sleep(0.02)

    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def another() -> None:
        await pool.start()
        await asyncio.sleep(0.02)
        assert (2, 2) == (pool.generation, pool.stats().alive)
        await pool.kill()

    asyncio.run(another())
    assert things is None or 4 == len(things.made)
    ends = time.monotonic() + 2
    while things is not None and not things.balanced and time.monotonic() < ends:
        time.sleep(0.001)
    assert things is None or things.balanced


@pytest.mark.virtual
async def test_all_tasks_cancelled_on_a_loop_that_goes_on() -> None:
    """Somebody who cancels all tasks that there are ends runs, and no worker: the pool goes on, and stops as ever."""
    busy = Busy(10)
    async with rc.Pool(busy, initial=3) as pool:
        for _ in range(3):
            await asyncio.sleep(3)
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
        await asyncio.sleep(15)
        assert (3, 3) == (pool.stats().alive, pool.stats().runs.in_flight)
        assert (9, 9) == (busy.cut, pool.stats().runs.interrupted)
    assert (0, busy.begun) == (busy.running, pool.stats().runs.ended)


@pytest.mark.virtual
async def test_all_tasks_cancelled_while_it_stops() -> None:
    """A stop that somebody cuts into comes to its end all the same, with every resource taken down."""
    things = Things(leaves=2)
    pool = await started(use, resource=things, initial=3)
    stopping = asyncio.ensure_future(pool.stop())
    await asyncio.sleep(0.1)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.wait([stopping])
    report = await pool.stop()
    assert report.complete
    assert (rc.State.STOPPED, 0) == (pool.state, pool.stats().alive)
    assert 0 == pool.stats().runs.in_flight


# --- everything together ------------------------------------------------------------------------


@pytest.mark.defect("D4.1", "D4.2", "D4.5", "D4.6")
@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_in_whatever_order_it_ends(seed: int) -> None:
    """More, less, pauses, failures, stops and new lives at random: nothing hangs, and all figures add up."""

    async def main() -> None:
        chance = random.Random(seed)
        things = Things(takes=0.2, leaves=0.3)

        async def job(thing: Any) -> None:
            thing.begin()
            try:
                await asyncio.sleep(chance.random())
                if chance.random() < 0.2:
                    raise OSError("by chance")
            finally:
                thing.end()

        pool = rc.Pool(job, resource=things, max=6, stop_on_error=seed % 2 == 1)
        for _ in range(60):
            await asyncio.sleep(chance.random())
            call = chance.choice(["more", "less", "now", "resize", "pause", "start", "start", "stop", "kill"])
            with contextlib.suppress(rc.AtMax, rc.AtMin, rc.NotStarted, rc.ServiceStopped, rc.ServiceStopping, OSError):
                if call == "more":
                    pool.more()
                elif call == "less":
                    pool.less()
                elif call == "now":
                    pool.less(mode="now")
                elif call == "resize":
                    await pool.resize(chance.randrange(7))
                elif call == "pause":
                    pool.resize(0)
                elif call == "start":
                    await pool.start()
                elif chance.random() < 0.5:
                    await (pool.stop() if call == "stop" else pool.kill())
            stats = pool.stats()
            assert stats.alive + stats.opening + stats.closing <= 6
            assert stats.runs.begun == stats.runs.ended + stats.runs.in_flight
            assert all(thing.users <= 1 for thing in things.made)
        async with asyncio.timeout(50):
            await pool.stop()
        assert 0 == pool.stats().alive
        assert things.balanced

    run_virtual(main, seed=seed)
