"""What the page about pools says in passing, and shows no example of."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

import runcrew as rc
from runcrew.abc import Middleware


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


@pytest.mark.virtual
@pytest.mark.parametrize("plain", [False, True])
async def test_all_runs_of_a_worker_share_a_context(plain: bool) -> None:
    """What a run sets is set in the next run of that worker, in no other worker's, and not outside."""
    mine: contextvars.ContextVar[int] = contextvars.ContextVar("mine", default=0)
    seen: list[int] = []
    lock = threading.Lock()

    def note() -> None:
        mine.set(mine.get() + 1)
        with lock:
            seen.append(mine.get())

    async def job() -> None:
        note()
        await asyncio.sleep(1)

    def plain_job() -> None:
        note()
        rc.current_run().sleep(1)

    async with rc.Pool(plain_job if plain else job, initial=2):
        await asyncio.sleep(2.5)
    assert [1, 1, 2, 2, 3, 3] == sorted(seen)
    assert 0 == mine.get()


@pytest.mark.virtual
async def test_a_timeout_counts_the_time_in_idle_and_a_call_in_the_job_does_not() -> None:
    """Around the run it ends a consumer that waits; around what comes after the waiting it bounds only that."""
    inbox: asyncio.Queue[float] = asyncio.Queue()

    async def handle(span: float) -> None:
        await asyncio.sleep(span)

    async def bounded() -> None:
        with rc.current_run().idle():
            span = await inbox.get()
        await rc.call(handle, span, timeout="2s")

    async def unbounded() -> None:
        with rc.current_run().idle():
            await asyncio.sleep(10)

    async with rc.Pool(unbounded, timeout="2s") as around, rc.Pool(bounded) as inside:
        await asyncio.sleep(5)
        for span in (1.0, 3.0):
            inbox.put_nowait(span)
        await asyncio.sleep(5)
        assert 2 <= around.stats().runs.timed_out
        assert (1, 1) == (inside.stats().runs.succeeded, inside.stats().runs.failed)
        assert isinstance(inside.stats().last_error, rc.RunTimeout)


@pytest.mark.virtual
@pytest.mark.parametrize("behind", [False, True])
async def test_elapsed_has_the_time_in_idle_and_counters_may_be_shared(behind: bool) -> None:
    """Whole runs are measured, at the front of the list and behind others; two pools are added up."""
    elapsed, counter = rc.Elapsed(), rc.Counter()

    async def job() -> None:
        with rc.current_run().idle():
            await asyncio.sleep(3)
        await asyncio.sleep(1)

    middleware: list[Middleware] = [elapsed, counter]
    if behind:
        middleware.insert(0, lambda inner: inner)
    async with rc.Pool(job, middleware=middleware) as one, rc.Pool(job, middleware=middleware):
        await asyncio.sleep(8.5)
        assert (4.0, 4.0, 4) == (elapsed.min, elapsed.max, counter.succeeded)
        assert pytest.approx(2 / 8.5) == one.stats().utilisation


@pytest.mark.virtual
async def test_hooks_come_before_what_is_idle_is_cancelled() -> None:
    """A stopping hook may still hand something to a consumer that waits, and that is done."""
    inbox: asyncio.Queue[int] = asyncio.Queue()
    seen: list[int] = []

    async def consume() -> None:
        with rc.current_run().idle():
            item = await inbox.get()
        await asyncio.sleep(1)
        seen.append(item)

    async def last_one() -> None:
        inbox.put_nowait(1)
        await asyncio.sleep(0.1)

    pool = rc.Pool(consume, on_stopping=last_one)
    await pool.start()
    await asyncio.sleep(1)
    assert (await pool.stop()).clean
    assert [1] == seen


@pytest.mark.virtual
async def test_what_is_taken_in_idle_is_never_lost() -> None:
    """However often workers leave and the pool stops, each message is consumed or still in the inbox."""
    inbox: asyncio.Queue[int] = asyncio.Queue()
    seen: list[int] = []

    async def consume() -> None:
        with rc.current_run().idle():
            seen.append(await inbox.get())
        await asyncio.sleep(0.01)

    async with rc.Pool(consume, initial=4, max=8) as pool:
        for number in range(200):
            inbox.put_nowait(number)
            if number % 3 == 0:
                pool.resize(number % 5)
            await asyncio.sleep(0.001 * (number % 4))
        pool.resize(4)
        await asyncio.sleep(0.05)
    left = [inbox.get_nowait() for _ in range(inbox.qsize())]
    assert list(range(200)) == sorted(seen + left)


@pytest.mark.virtual
async def test_a_retry_calls_the_job_from_its_first_line_and_keeps_its_worker() -> None:
    """The attempts of one run follow one another in one worker, with nothing between them."""
    begun: list[tuple[int, float]] = []

    async def job() -> None:
        begun.append((rc.current_run().attempt, now()))
        if rc.current_run().attempt == 1:
            raise OSError
        await asyncio.sleep(1)

    async with rc.Pool(job, retry=rc.Retry(OSError, backoff=rc.Constant("2s"))) as pool:
        await asyncio.sleep(5.5)
        assert (1, 0, 1) == (pool.stats().runs.succeeded, pool.stats().runs.failed, pool.stats().alive)
    assert [(1, 0.0), (2, 2.0), (1, 3.0), (2, 5.0)] == begun


@pytest.mark.virtual
async def test_a_thread_that_is_to_leave_does_not_begin_to_wait() -> None:
    """Past the end of its work, a plain job that would wait for the next thing ends instead, as interrupted."""
    entered: list[float] = []

    def job() -> None:
        run = rc.current_run()
        run.sleep(2) if not entered else None
        with run.idle():
            entered.append(1.0)

    pool = rc.Pool(job)
    await pool.start()
    await asyncio.sleep(1)
    report = await pool.stop()
    assert ([], 1, True) == (entered, pool.stats().runs.interrupted, report.clean)
    assert 2.0 == now(), "its work was finished before"
