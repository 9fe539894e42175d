"""Async jobs, and plain ones inline: each worker runs its job again and again, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from pool_made import Busy, Gate, Script, now, rounds, seen

import runcrew as rc
from runcrew.backends import LoopBackend

#: Ways on which a run may go: nothing around it, a chain around it, or somebody's backend below it.
WAYS: list[dict[str, Any]] = [{}, {"retry": rc.Retry(KeyError)}, {"backend": LoopBackend()}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["bare", "chain", "backend"])


@each_way
@pytest.mark.parity("T4.23", "T4.5", "T4.2")
@pytest.mark.virtual
async def test_each_worker_runs_the_job_again_and_again(way: dict[str, Any]) -> None:
    """Runs of one worker follow one another without a pause and without an overlap; all workers share the job."""
    busy = Busy(1.0)
    async with rc.Pool(busy, initial=3, **way) as pool:
        await asyncio.sleep(9.5)
        assert (30, 27, 3) == (busy.begun, busy.ended, busy.most)
        assert [float(second) for second in range(10) for _ in range(3)] == busy.at
        stats = pool.stats()
        assert (3, 3, 3) == (stats.workers, stats.alive, stats.runs.in_flight)


@each_way
@pytest.mark.parity("T4.17")
@pytest.mark.virtual
async def test_a_start_returns_when_the_workers_are_there(way: dict[str, Any]) -> None:
    """It waits for no run, neither for its first step nor for its end; all workers begin in the same instant."""
    gate = Gate()
    pool = rc.Pool(gate, initial=4, **way)
    await pool.start()
    assert (0, 4, rc.State.RUNNING) == (gate.begun, pool.stats().alive, pool.state)
    await rounds()
    assert (4, 0.0) == (gate.begun, now())
    await pool.kill()


@each_way
@pytest.mark.virtual
async def test_a_run_knows_what_it_is(way: dict[str, Any]) -> None:
    """A job sees a run of its own each time: its pool, an id, when it began; what it reports can be seen."""
    runs: list[rc.Run] = []

    async def job() -> None:
        run = rc.current_run()
        runs.append(run)
        assert run is rc.current_run()
        await asyncio.sleep(2)
        assert run is rc.current_run()

    async with rc.Pool(job, **way):
        await asyncio.sleep(5)
    assert 3 == len({run.id for run in runs})
    assert [("job", "loop", 1)] * 3 == [(run.service, run.cause, run.attempt) for run in runs]
    began = [run.started for run in runs if run.started is not None]
    assert [0.0, 2.0, 4.0] == [round(at - began[0], 6) for at in began]


@pytest.mark.virtual
async def test_runs_that_nobody_asks_about_are_told_apart_all_the_same() -> None:
    """Where a job looks at its run only now and then, that is a run of its own, begun when the last one ended."""
    looked: list[rc.Run] = []
    turns = 0

    async def job() -> None:
        nonlocal turns
        turns += 1
        if turns % 3 == 0:
            looked.append(rc.current_run())
        await asyncio.sleep(1)

    async with rc.Pool(job):
        await asyncio.sleep(8.5)
    assert [3, 6, 9][: len(looked)] == [3 * (at + 1) for at in range(len(looked))]
    assert 3 == len({run.id for run in looked})
    began = [run.started for run in looked if run.started is not None]
    assert [0.0, 3.0, 6.0] == [round(at - began[0], 6) for at in began]


# --- what ends at once --------------------------------------------------------------------------


async def _at_once() -> None:
    """Ends at once."""


async def _in_a_turn() -> None:
    await asyncio.sleep(0)


def _plainly() -> None:
    """Ends at once, on the loop."""


@pytest.mark.defect("D4.8")
@pytest.mark.parametrize(
    ("job", "options"),
    [
        (_at_once, {}),
        (_in_a_turn, {}),
        (_plainly, {"backend": "loop"}),
        (_at_once, {"retry": rc.Retry(KeyError)}),
        (_plainly, {"backend": LoopBackend()}),
        (_at_once, {"middleware": [rc.Counter(), rc.Elapsed()]}),
    ],
    ids=["bare", "suspends", "inline", "chain", "backend", "counted"],
)
@pytest.mark.virtual
async def test_runs_that_end_at_once_leave_the_loop_to_others(job: Any, options: dict[str, Any]) -> None:
    """Eight workers whose runs end at once do not keep another task from its turns, nor one worker the others."""
    async with rc.Pool(job, initial=8, **options) as pool:
        ended = 0
        for _ in range(50):
            await asyncio.sleep(0.002)
            assert ended < pool.stats().runs.succeeded
            ended = pool.stats().runs.succeeded


@pytest.mark.realtime
@pytest.mark.parametrize("options", [{}, {"retry": rc.Retry(KeyError)}], ids=["bare", "chain"])
def test_no_worker_keeps_the_others_from_running(options: dict[str, Any]) -> None:
    """In the order of the turns each worker has its share of runs that end at once, also late comers."""

    async def main() -> None:
        shares: dict[int, int] = {}

        def factory() -> Any:
            mine = len(shares)
            shares[mine] = 0

            async def job() -> None:
                shares[mine] += 1

            return job

        async with rc.Pool(job_factory=factory, initial=4, **options) as pool:
            await asyncio.sleep(0.02)
            pool.more(2)
            before = dict(shares)
            for _ in range(200):
                await asyncio.sleep(0)
            assert 6 == len(shares)
            assert all(count > before.get(number, 0) for number, count in shares.items())

    asyncio.run(main())


@pytest.mark.realtime
def test_all_workers_share_one_slice() -> None:
    """However many workers there are, whose runs end at once, another task has its turn after about one slice."""

    async def main(workers: int) -> float:
        loop = asyncio.get_running_loop()
        async with rc.Pool(_at_once, initial=workers):
            gaps = []
            for _ in range(40):
                began = loop.time()
                await asyncio.sleep(0)
                gaps.append(loop.time() - began)
            return sorted(gaps)[len(gaps) // 2]

    one, many = asyncio.run(main(1)), asyncio.run(main(50))
    assert many < 20 * one, f"with 50 workers the loop goes round in {many:.6f} s, with one in {one:.6f} s"


@pytest.mark.virtual
async def test_a_pool_can_be_told_to_stop_while_its_runs_end_at_once() -> None:
    """A stop, less and more are heard between two runs, however short those are."""
    async with rc.Pool(_at_once, initial=3) as pool:
        await asyncio.sleep(0.01)
        assert 1 == await pool.less(2)
        assert 4 == await pool.more(3)
        assert 0 == await pool.resize(0)
        ended = pool.stats().runs.ended
        await asyncio.sleep(0.01)
        assert (ended, 0) == (pool.stats().runs.ended, pool.stats().runs.in_flight)
        assert 2 == await pool.resize(2)
        await asyncio.sleep(0.01)
        assert ended < pool.stats().runs.ended
    assert pool.stats().runs.begun == pool.stats().runs.ended


# --- plain ones inline --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"retry": rc.Retry(KeyError)}], ids=["bare", "chain"])
@pytest.mark.virtual
async def test_a_plain_job_runs_inline_where_that_is_asked_for(options: dict[str, Any]) -> None:
    """With backend="loop" a plain job is called on the loop, in its thread."""
    threads: dict[int, None] = {}

    def job() -> None:
        threads[threading.get_ident()] = None

    async with rc.Pool(job, backend="loop", **options) as pool:
        await seen(lambda: pool.stats().runs.succeeded > 10)
    assert [threading.get_ident()] == list(threads)


@pytest.mark.parametrize("backend", [None, "loop"])
@pytest.mark.virtual
async def test_a_plain_job_that_gives_a_coroutine_fails(backend: str | None) -> None:
    """A plain function that returns what would have to be awaited is named, and each of its runs fails."""
    pool = rc.Pool(lambda: _at_once(), name="it", backend=backend, stop_on_error=True)
    with pytest.raises(TypeError, match="it"):
        await pool.run()


@pytest.mark.virtual
async def test_the_value_of_a_run_means_nothing() -> None:
    """Whatever a job returns, its run has succeeded."""
    values = [False, None, ValueError("not raised"), 0]

    async def job() -> Any:
        await asyncio.sleep(1)
        return values.pop() if values else None

    async with rc.Pool(job) as pool:
        await asyncio.sleep(10.5)
        assert (10, 0) == (pool.stats().runs.succeeded, pool.stats().runs.failed)


# --- whose task it is ---------------------------------------------------------------------------


@each_way
@pytest.mark.virtual
async def test_a_job_that_swallows_a_cancellation_from_outside_loses_no_worker(way: dict[str, Any]) -> None:
    """Somebody who cancels a task that is not theirs ends one run at most: the worker goes on with the next one."""
    tasks: list[asyncio.Task[Any] | None] = []

    async def job() -> None:
        tasks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)

    async with rc.Pool(job, initial=2, **way) as pool:
        await asyncio.sleep(1)
        assert tasks[0] is not None
        tasks[0].cancel()
        await asyncio.sleep(60)
        assert (2, 2) == (pool.size, pool.stats().alive)
        assert 2 == pool.stats().runs.in_flight
        assert pool.stats().runs.succeeded >= 22


@each_way
@pytest.mark.virtual
async def test_a_cancellation_from_outside_fails_one_run(way: dict[str, Any]) -> None:
    """A run whose task somebody else has cancelled has failed, since nobody of ours wanted that, and others follow."""
    tasks: list[asyncio.Task[Any] | None] = []

    async def job() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(5)

    async with rc.Pool(job, **way) as pool:
        await asyncio.sleep(1)
        assert tasks[0] is not None
        tasks[0].cancel()
        await asyncio.sleep(60)
        runs = pool.stats().runs
        assert (0, 1, 1) == (runs.interrupted, runs.failed, runs.in_flight)
        assert runs.succeeded >= 10


@pytest.mark.virtual
async def test_a_job_may_go_through_different_lengths() -> None:
    """What is short and what is long follow one another in one worker, each timed by itself."""
    script = Script(3, 0, 2, 0, 5)
    async with rc.Pool(script) as pool:
        await seen(lambda: script.over)
        assert [0.0, 3.0, 3.0, 5.0, 5.0, 10.0] == script.times
        runs = pool.stats().runs
        assert 5 == runs.succeeded
        assert [10, 0, 5] == pytest.approx([runs.elapsed_total, runs.elapsed_min, runs.elapsed_max])


@pytest.mark.virtual
async def test_a_worker_that_waits_for_something_does_not_stand_in_line() -> None:
    """Beside many workers whose runs end at once, one that awaits what it does goes on as soon as that has come."""
    inbox: asyncio.Queue[float] = asyncio.Queue()
    late: list[float] = []
    loop = asyncio.get_running_loop()

    async def noop() -> None:
        pass

    async def consume() -> None:
        late.append(loop.time() - await inbox.get())

    async with rc.Pool(noop, initial=40), rc.Pool(consume):
        for _ in range(20):
            await asyncio.sleep(0.05)
            inbox.put_nowait(loop.time())
        await seen(lambda: len(late) == 20)
    assert max(late) < 0.005


@pytest.mark.virtual
async def test_leaving_waits_for_nobodys_turn() -> None:
    """Workers that wait for their turn leave at once, however many wait before them."""
    loop = asyncio.get_running_loop()

    async def noop() -> None:
        pass

    async with rc.Pool(noop, initial=100) as pool:
        await asyncio.sleep(0.2)
        began = loop.time()
        assert 1 == await pool.resize(1)
        assert loop.time() - began < 0.005
