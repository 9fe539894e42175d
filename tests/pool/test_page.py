"""What the page about pools says in passing, and shows no example of."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import runcrew as rc
from runcrew.abc import Middleware
from runcrew.testing import run_virtual

SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"


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
async def test_a_plain_job_with_something_around_it_is_called_in_a_copy() -> None:
    """In a thread behind middleware a job sees what that has set, and what it sets itself ends with its run."""
    mine: contextvars.ContextVar[int] = contextvars.ContextVar("mine", default=0)
    seen: list[int] = []

    def ten_more(inner: Any) -> Any:
        async def layer(run: rc.Run) -> Any:
            mine.set(mine.get() + 10)
            return await inner(run)

        return layer

    def job() -> None:
        mine.set(mine.get() + 1)
        seen.append(mine.get())
        rc.current_run().sleep(1)

    async with rc.Pool(job, middleware=[ten_more]):
        await asyncio.sleep(2.5)
    assert [11, 21, 31] == seen


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


@pytest.mark.virtual
async def test_a_run_is_idle_as_soon_as_one_of_its_tasks_is() -> None:
    """What another task of the same run works at meanwhile is no work, and ends with the run."""

    async def waits() -> None:
        with rc.current_run().idle():
            await asyncio.sleep(100)

    async def job() -> None:
        await asyncio.gather(waits(), asyncio.sleep(100))

    pool = rc.Pool(job)
    await pool.start()
    await asyncio.sleep(1)
    assert (1, 0.0) == (pool.stats().idle, pool.stats().utilisation)
    await pool.stop()
    assert (1, 1.0) == (pool.stats().runs.interrupted, now())


@pytest.mark.virtual
async def test_those_with_nothing_to_do_leave_first_and_then_the_newest() -> None:
    """One that is idle goes at once, and before one that is at work, however old it is."""
    made = iter(["idle", "works", "idle"])
    gone: list[tuple[str, float]] = []

    def factory() -> Any:
        kind = next(made)

        async def job() -> None:
            try:
                if kind == "works":
                    await asyncio.sleep(5)
                with rc.current_run().idle():
                    await asyncio.sleep(100)
            finally:
                gone.append((kind, now()))

        return job

    async with rc.Pool(job_factory=factory, initial=3) as pool:
        await asyncio.sleep(1)
        assert 1 == await pool.less(2)
        assert [("idle", 1.0), ("idle", 1.0)] == gone


@pytest.mark.parametrize("options", [{}, {"deadline": "1h"}], ids=["bare", "chain"])
@pytest.mark.virtual
async def test_a_cancellation_from_outside_ends_a_pool_that_is_to_end_on_errors(options: dict[str, Any]) -> None:
    """With stop_on_error a task that somebody else has cancelled is a failure like any other, as JobCrashed."""
    tasks: list[Any] = []

    async def job() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(5)

    pool = rc.Pool(job, initial=2, stop_on_error=True, **options)
    await pool.start()
    await asyncio.sleep(1)
    tasks[0].cancel()
    with pytest.raises(rc.JobCrashed) as caught:
        await pool.wait()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert (1, 1) == (pool.stats().runs.failed, pool.stats().runs.interrupted)


@pytest.mark.parametrize("options", [{}, {"deadline": "1h"}], ids=["bare", "chain"])
@pytest.mark.virtual
async def test_a_thread_that_cannot_be_started_is_tried_again(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is a failed run, the next one comes after a tenth of a second at least, and then runs go on."""
    tried: list[float] = []

    def refuse(thread: threading.Thread) -> None:
        tried.append(now())
        raise RuntimeError("can't start new thread")

    def job() -> None:
        rc.current_run().sleep(1)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        pool = rc.Pool(job, backoff=None, **options)
        await pool.start()
        await asyncio.sleep(0.35)
    assert pytest.approx([0.0, 0.1, 0.2, 0.3]) == tried
    await asyncio.sleep(2.1)
    assert (4, 2) == (pool.stats().runs.failed, pool.stats().runs.succeeded)
    assert (await pool.stop()).clean


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("options", [{}, {"deadline": "1h"}], ids=["bare", "chain"])
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_time_passes_beside_jobs_that_never_wait(plain: bool, options: dict[str, Any], workers: int) -> None:
    """A millisecond passes after some runs in which none did, so whoever sleeps wakes up, in time."""

    async def job() -> None: ...

    def plain_job() -> None: ...

    async with rc.Pool(plain_job if plain else job, initial=workers, **options) as pool:
        await asyncio.sleep(0.02)
        assert pytest.approx(0.02) == now()
        assert pool.stats().runs.succeeded >= 32 * 19


@pytest.mark.realtime
@pytest.mark.parametrize("plain", [False, True], ids=["loop", "thread"])
def test_one_long_run_among_many_short_ones_is_timed_as_such(plain: bool) -> None:
    """Their number is exact although they are timed in groups, and the long one is not spread over its group."""
    elapsed = rc.Elapsed()
    left = iter(range(5000, -1, -1))

    def job() -> None:
        number = next(left)
        if number == 1234:
            time.sleep(0.05)
        elif not number:
            raise rc.Done

    asyncio.run(rc.Pool(job, backend=None if plain else "loop", middleware=[elapsed]).run())
    assert (5001, 0) == (elapsed.succeeded, elapsed.failed)
    assert elapsed.max >= 0.05 > elapsed.p99


@pytest.mark.virtual
async def test_who_waits_for_a_limit_has_nothing_to_do() -> None:
    """Waiting for a Concurrency is no work, whether that is around the job or around something that it calls."""
    limit = rc.Concurrency(1)

    @rc.policy(concurrency=limit)
    async def one_at_a_time() -> None:
        await asyncio.sleep(1)

    async def inside() -> None:
        await one_at_a_time()

    async def around() -> None:
        await asyncio.sleep(1)

    async with rc.Pool(inside, initial=4) as pool:
        await asyncio.sleep(10.5)
        assert (10, 1, 0.25) == (pool.stats().runs.succeeded, pool.stats().busy, pool.stats().utilisation)
    async with rc.Pool(around, initial=4, concurrency=rc.Concurrency(1)) as pool:
        await asyncio.sleep(10.5)
        assert (10, 1, 0.25) == (pool.stats().runs.succeeded, pool.stats().busy, pool.stats().utilisation)


@pytest.mark.virtual
async def test_the_pause_before_a_retry_is_no_work() -> None:
    """A run of two attempts that each take a second, with two seconds in between, is at work for half of its time."""
    attempts = iter(range(100))

    async def job() -> None:
        await asyncio.sleep(1)
        if next(attempts) % 2 == 0:
            raise OSError

    async with rc.Pool(job, retry=rc.Retry(OSError, backoff=rc.Constant("2s"))) as pool:
        await asyncio.sleep(40)
        assert 0.5 == pytest.approx(pool.stats().utilisation)


def test_the_tables_about_scaling_are_what_its_examples_print(capsys: pytest.CaptureFixture[str]) -> None:
    """Run again on virtual time, the examples decide at the times and for the reasons that the page shows."""
    page = SCALING.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "scaling"}
    shown = page.split("## Seen on virtual time")[1].split("\n## ")[0]
    tables = re.findall(r"^```text\n(.*?)^```$", shown, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        tree = ast.parse(block)
        # All but what the first example runs.
        tree.body = [one for one in tree.body if not isinstance(one, ast.Expr)]
        exec(compile(tree, str(SCALING), "exec", dont_inherit=True), names)
    for test, table in zip(("test_a_queue_follows_its_load", "test_a_pool_follows_its_load"), tables, strict=True):
        run_virtual(names[test])
        assert table == capsys.readouterr().out
