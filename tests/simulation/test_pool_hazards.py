"""What random schedules of a pool reach too seldom, or would see too late: one test for each."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import runcrew as rc
from runcrew import events
from runcrew.clock import current
from runcrew.job import Status


async def turns(count: int) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


class Counting:
    """Counts the rounds of the running loop, from here on."""

    loop: Any

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.count = 0
        self._run_once = self.loop._run_once
        self.loop._run_once = self._once

    def _once(self) -> None:
        self.count += 1
        if self.count > 2000:
            raise AssertionError("the loop spins")  # out of the loop: time might never pass again
        self._run_once()

    def stop(self) -> int:
        """How many there have been."""
        del self.loop._run_once
        return self.count


# --- pauses and changes -------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.defect("D4.1")
@pytest.mark.parametrize("between", range(5))
@pytest.mark.parametrize("takes", [0.0, 0.5])
async def test_a_pause_followed_by_more_freezes_nothing(between: int, takes: float) -> None:
    """However soon workers are asked for again after a pause, they come, and whoever waits for that hears of it."""
    begun = 0

    async def job() -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(takes)

    async with rc.Pool(job, initial=3, max=3) as pool:
        for number in (1, 2, 3, 1):
            await asyncio.sleep(1)
            paused = pool.resize(0)
            await turns(between)
            change = pool.more(number)
            async with asyncio.timeout(5):
                await paused
                assert number == await change
            before = begun
            await asyncio.sleep(1)
            assert number == pool.stats().alive
            assert before < begun


@pytest.mark.virtual
@pytest.mark.parametrize("mode", ["after_current", "now"])
async def test_workers_whose_tasks_were_just_cancelled_may_be_told_to_leave(mode: Any) -> None:
    """Between the end of a cancelled worker's task and its next one, it leaves like any other."""

    async def job() -> None:
        await asyncio.sleep(100)

    async with rc.Pool(job, name="p", initial=2) as pool:
        await asyncio.sleep(1)
        for task in asyncio.all_tasks():
            if task.get_name() in ("p-1", "p-2"):
                task.cancel()
        await turns(2)
        async with asyncio.timeout(5):
            assert 0 == await pool.less(2, mode)
        assert 2 == pool.stats().runs.ended


@pytest.mark.virtual
@pytest.mark.parametrize("how", ["resize", "stop"])
async def test_who_is_told_to_leave_while_it_waits_for_its_turn_runs_no_more(how: str) -> None:
    """Workers that share the loop, since their runs end at once, begin nothing once they are told to leave."""
    told = False
    begun = 0

    async def job() -> None:
        nonlocal begun
        begun += told

    pool = rc.Pool(job, initial=4, max=4)
    async with pool:
        for _ in range(20):
            await asyncio.sleep(0.0035)
            told = True
            if how == "stop":
                await pool.stop()
                await pool.start()
            else:
                await pool.resize(0)
                pool.resize(4)
            assert 0 == begun
            told = False


# --- busy waiting --------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.defect("D4.2")
@pytest.mark.parametrize("how", ["stop", "less", "fails", "done"])
async def test_nothing_spins_while_the_last_worker_ends(how: str) -> None:
    """The loop has next to nothing to do while slow runs are waited for, however the end came about."""
    error = OSError("the first")

    async def slow() -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            raise

    async def quick() -> None:
        await asyncio.sleep(1)
        if how == "done":
            raise rc.Done
        raise error

    jobs = [slow, quick] if how in ("fails", "done") else [slow, slow]
    pool = rc.Pool(name="p", job_factory=jobs.pop, initial=2, stop_on_error=True)
    await pool.start()
    await asyncio.sleep(0.9)
    counting = Counting()
    if how == "stop":
        await pool.stop("1h")
    elif how == "less":
        await pool.less(2)
    elif how == "fails":
        with pytest.raises(OSError, match="the first"):
            async with asyncio.timeout(60):
                await pool.wait()
    else:
        async with asyncio.timeout(60):
            await pool.wait()
    assert counting.stop() < 60
    await pool.stop()


@pytest.mark.virtual
@pytest.mark.defect("D4.2", "D4.3")
@pytest.mark.parametrize("how", ["fails", "stop", "paused"])
async def test_nothing_is_done_where_nothing_is_to_be_done(how: str) -> None:
    """A pool that is paused, stopped or has failed leaves the loop alone, for ever."""

    async def job() -> None:
        await asyncio.sleep(1)
        if how == "fails":
            raise OSError

    pool = rc.Pool(job, initial=3, stop_on_error=True)
    await pool.start()
    await asyncio.sleep(2)
    if how == "stop":
        await pool.stop()
    elif how == "paused":
        await pool.resize(0)
    counting = Counting()
    await asyncio.sleep(1000)
    assert counting.stop() < 10
    await pool.stop()


# --- whose turn it is ----------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.defect("D4.8")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("layered", [False, True])
async def test_runs_that_end_at_once_leave_the_loop_to_others(fails: bool, layered: bool) -> None:
    """Between two steps of another task there is no more than a slice, and all workers have their share."""
    runs: dict[object, int] = {}
    most = last = total = 0

    async def job() -> None:
        task = asyncio.current_task()
        runs[task] = runs.get(task, 0) + 1
        if fails:
            raise OSError

    layers: Any = [lambda handler: handler] if layered else []
    async with rc.Pool(job, initial=4, backoff=None, middleware=layers) as pool:
        for _ in range(400):
            await asyncio.sleep(0)
            total = sum(runs.values())
            most, last = max(most, total - last), total
        assert most <= 4 * 512
        assert pool.stats().runs.ended == total > 0
        await asyncio.sleep(1)
        assert 4 == len(runs)
        assert min(runs.values()) * 3 > max(runs.values()), runs


@pytest.mark.virtual
@pytest.mark.defect("D4.8")
async def test_errors_do_not_vanish_and_do_not_spin() -> None:
    """A job that fails at once is run ever more seldom, and its error is there to be looked at."""
    error = OSError("no")
    failed = 0

    async def job() -> None:
        nonlocal failed
        failed += 1
        raise error

    async with rc.Pool(job, backoff=rc.Exponential("10ms", cap="10s", jitter="none")) as pool:
        await asyncio.sleep(100)
        assert 10 < failed < 30
        assert (failed, error) == (pool.stats().runs.failed, pool.stats().last_error)


# --- the end ------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.defect("D4.3")
async def test_a_pool_that_an_error_has_ended_is_over_and_can_begin_anew() -> None:
    """Nobody is shown any more, what would add workers is refused, the error is told, and a start is a new life."""
    error = OSError("the end")
    fails = True

    async def job() -> None:
        await asyncio.sleep(1)
        if fails:
            raise error

    pool = rc.Pool(job, initial=3, stop_on_error=True)
    await pool.start()
    with pytest.raises(OSError, match="the end"):
        async with asyncio.timeout(20):
            await pool.wait()
    stats = pool.stats()
    assert (rc.State.FAILED, error, 0, 0) == (pool.state, pool.error, stats.alive, stats.runs.in_flight)
    with pytest.raises(rc.ServiceStopped):
        pool.more()
    assert (error,) == (await pool.stop()).errors
    fails = False
    await pool.start()
    await asyncio.sleep(1.5)
    assert (3, 3) == (pool.stats().alive, pool.stats().runs.succeeded)
    await pool.stop()


@pytest.mark.virtual
@pytest.mark.defect("D4.4", "D4.5")
async def test_no_more_are_at_work_than_there_may_be() -> None:
    """Workers that leave, and take their time, hold their places."""
    now = most = 0

    async def job() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            await asyncio.sleep(5)
        finally:
            now -= 1

    with pytest.raises(rc.ConfigError, match="initial"):
        rc.Pool(job, max=3, initial=4)
    async with rc.Pool(job, initial=3, max=3) as pool:
        for _ in range(10):
            await asyncio.sleep(0.7)
            pool.less(2)
            pool.more(2)
            with pytest.raises(rc.AtMax):
                pool.more(1)
        await asyncio.sleep(20)
        assert (3, 3, 3) == (most, now, pool.size)


@pytest.mark.virtual
@pytest.mark.defect("D4.7")
@pytest.mark.parametrize("how", ["less", "stop", "resize"])
async def test_the_current_run_is_finished(how: str) -> None:
    """Who is told to leave ends the run that it has under way, whose token is live to its end."""
    ended: list[bool] = []

    async def job() -> None:
        await asyncio.sleep(5)
        ended.append(rc.current_run().cancelled)

    pool = rc.Pool(job, initial=2)
    await pool.start()
    await asyncio.sleep(1)
    if how == "stop":
        await pool.stop()
    else:
        await (pool.less(2) if how == "less" else pool.resize(0))
    assert [False, False] == ended
    assert 0 == pool.stats().runs.interrupted
    await pool.stop()


@pytest.mark.virtual
@pytest.mark.defect("D4.16")
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_deaf_job_is_not_waited_for(how: str) -> None:
    """A stop ends when its time is up, plus a grace, and names what would not stop."""
    free = asyncio.Event()

    async def job() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    pool = rc.Pool(job, initial=2, name="deaf")
    await pool.start()
    await asyncio.sleep(1)
    began = current().now()
    report = await (pool.stop(3) if how == "stop" else pool.kill())
    assert current().now() - began <= (3 if how == "stop" else 0) + 2.1
    assert 2 == len(report.would_not_stop)
    assert 2 == pool.stats().runs.interrupted
    free.set()
    await turns(5)


@pytest.mark.virtual
@pytest.mark.defect("D4.17")
@pytest.mark.parametrize("stops", [False, True])
async def test_a_cancellation_that_is_not_ours_is_a_failure(stops: bool) -> None:
    """The cancelled sub-request of a job is an error like any other: counted, told, and an end where errors are one."""

    async def job() -> None:
        await asyncio.sleep(1)
        request = asyncio.ensure_future(asyncio.sleep(10))
        request.cancel()
        await request

    pool = rc.Pool(job, stop_on_error=stops, backoff=None)
    await pool.start()
    if stops:
        with pytest.raises(rc.JobCrashed) as caught:
            async with asyncio.timeout(10):
                await pool.wait()
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    else:
        await asyncio.sleep(5.5)
        assert (5, 0) == (pool.stats().runs.failed, pool.stats().runs.interrupted)
        assert isinstance(pool.stats().last_error, asyncio.CancelledError)
    await pool.stop()


@pytest.mark.virtual
@pytest.mark.defect("D4.19")
async def test_what_can_never_run_is_told_at_once() -> None:
    """Nothing is no job; and a factory that gives none ends the start, not some worker later."""
    nothing: Any = None
    with pytest.raises(rc.ConfigError):
        rc.Pool(nothing)

    def wrong() -> Any:
        return None

    pool = rc.Pool(job_factory=wrong, name="p")
    with pytest.raises(rc.ConfigError, match="job_factory"):
        await pool.start()
    assert rc.State.FAILED == pool.state
    broken = rc.Pool(job_factory=lambda: 1 / 0, name="p")  # type: ignore[arg-type, return-value]
    await broken.start()
    await asyncio.sleep(1)
    assert isinstance(broken.stats().last_error, ZeroDivisionError)
    assert (await broken.stop()).clean


@pytest.mark.virtual
@pytest.mark.defect("D4.21")
@pytest.mark.parametrize("how", ["stop", "kill", "less", "wait"])
async def test_a_job_ends_its_own_pool(how: str) -> None:
    """It is not made to wait for itself: what it asks for has begun, or it is told."""
    answered: list[float] = []

    async def job() -> None:
        began = current().now()
        try:
            if how == "stop":
                assert not (await pool.stop()).complete
            elif how == "kill":
                assert not (await pool.kill()).complete
            elif how == "less":
                await pool.less()
            else:
                await pool.wait()
        except rc.WouldDeadlock:
            assert how in ("less", "wait")
        answered.append(current().now() - began)
        if how == "wait":
            raise rc.Done
        await asyncio.sleep(1)

    pool: Any = rc.Pool(job)
    await pool.start()
    async with asyncio.timeout(20):
        if how != "less":
            await pool.wait()
        else:
            await asyncio.sleep(5)
            await pool.stop()
    assert [0.0] == answered


# --- threads ------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("layered", [False, True])
async def test_a_thread_that_waits_for_something_to_do_is_told_and_awaited(layered: bool) -> None:
    """What heeds its token is not abandoned, whatever is around it."""
    told: list[bool] = []

    def job() -> None:
        run = rc.current_run()
        with run.idle():
            run.wait_cancelled("1h")
        told.append(run.cancelled)

    layers: Any = [lambda handler: handler] if layered else []
    async with rc.Pool(job, initial=2, middleware=layers) as pool:
        await asyncio.sleep(1)
        assert 1 == await pool.less()
        assert (1, ()) == (len(told), pool.stats().abandoned)
    assert pool.report is not None
    assert ([True, True], ()) == (told, pool.report.would_not_stop)


@pytest.mark.virtual
@pytest.mark.parametrize("how", ["less", "resize", "stop"])
async def test_who_waits_for_something_to_do_leaves_at_once(how: str) -> None:
    """Nobody waits for what may never come."""
    inbox: asyncio.Queue[int] = asyncio.Queue()

    async def job() -> None:
        with rc.current_run().idle():
            await inbox.get()

    pool = rc.Pool(job, initial=2)
    await pool.start()
    await asyncio.sleep(1)
    began = current().now()
    if how == "stop":
        await pool.stop("1h")
    else:
        await (pool.less(2) if how == "less" else pool.resize(0))
    assert 0.0 == current().now() - began
    assert (2, 0) == (pool.stats().runs.interrupted, pool.stats().alive)
    await pool.stop()


@pytest.mark.virtual
@pytest.mark.defect("D4.16")
async def test_threads_that_do_not_end_are_replaced_only_so_often() -> None:
    """What was given up is counted and named, and at the limit nobody comes in its place; a stop does not wait."""
    free = threading.Event()
    begun = 0

    def job() -> None:
        nonlocal begun
        begun += 1
        current().block(None, free)

    pool = rc.Pool(job, timeout="1s", max=1, max_abandoned=2, backoff=None)
    await pool.start()
    await asyncio.sleep(20)
    assert (3, 3, True) == (begun, len(pool.stats().abandoned), pool.stats().stalled)
    began = current().now()
    report = await pool.stop("10s")
    assert current().now() - began <= 12.1
    assert 3 == len(report.would_not_stop)
    free.set()
    await asyncio.sleep(0)


@pytest.mark.virtual
@pytest.mark.defect("D4.16")
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_deaf_thread_is_not_waited_for(how: str) -> None:
    """A thread cannot be ended from outside: it is named, and left to itself."""
    free = threading.Event()

    def job() -> None:
        current().block(None, free)

    pool = rc.Pool(job, initial=2)
    await pool.start()
    await asyncio.sleep(1)
    began = current().now()
    try:
        report = await (pool.stop(3) if how == "stop" else pool.kill())
        assert current().now() - began <= (3 if how == "stop" else 0) + 2.1
        assert 2 == len(report.would_not_stop)
        assert (2, 2) == (pool.stats().runs.interrupted, len(pool.stats().abandoned))
    finally:
        free.set()
    await asyncio.sleep(0)


@pytest.mark.virtual
async def test_an_abandoned_thread_is_neither_idle_nor_at_work() -> None:
    """The time of a thread that was given up while it waited for something to do is in no sum."""
    free = threading.Event()

    def job() -> None:
        with rc.current_run().idle():
            current().block(None, free)

    async with rc.Pool(job, timeout="2s", max_abandoned=0, max=1) as pool:
        await asyncio.sleep(10)
        stats = pool.stats()
        assert (1, 0, 0) == (len(stats.abandoned), stats.alive, stats.idle)
        assert (0.0, 2.0) == pytest.approx((stats.worked, stats.idled), abs=0.01)
        free.set()
        await asyncio.sleep(0)


@pytest.mark.virtual
async def test_what_is_told_of_runs_in_threads_is_what_was_run() -> None:
    """A worker that is told to leave before its thread has come to it tells of no run that succeeded."""
    told: list[events.RunEnded] = []
    calls = 0

    def job() -> None:
        nonlocal calls
        calls += 1
        current().block(0.5)

    for _ in range(20):
        pool = rc.Pool(job, initial=2)
        pool.subscribe(lambda event: told.append(event), events.RunEnded)
        await pool.start()
        pool.less(1)
        await asyncio.sleep(1.2)
        await pool.stop()
        runs = pool.stats().runs
        assert runs.succeeded == calls == sum(event.status == Status.SUCCEEDED for event in told)
        calls = 0
        told.clear()
