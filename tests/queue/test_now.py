"""Past the queue: `run_now` on spare and temporary resources."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from queue_made import Broken, Gate, PlainThings, Things, give, is_healthy, now, rounds, script, take, use, use_plainly

import runcrew as rc


@pytest.mark.parity("T5.33", "T5.34")
@pytest.mark.virtual
async def test_it_goes_past_all_that_wait_and_never_waits_itself() -> None:
    """With all workers busy and a full queue, `run_now` is done at once, on a spare resource."""
    things = Things()
    gate: Any = Gate()
    async with rc.Queue("db", resource=things, workers=1, spares=1, maxsize=1) as queue:
        queue.submit_nowait(gate)
        await rounds()
        queue.submit_nowait(gate)
        began = now()
        number = await queue.run_now(use)
        assert (began, 2) == (now(), len(things.made))
        assert things.made[number - 1].uses == 1
        assert [] == gate.ended
        gate.open()


@pytest.mark.parity("T5.33")
@pytest.mark.virtual
async def test_an_async_job_runs_in_the_thread_of_its_caller() -> None:
    """Called from the loop, an async job of `run_now` runs on that loop and blocks nobody else."""

    async def where(_: Any) -> int:
        return threading.get_ident()

    async with rc.Queue("db", resource=Things(), workers=1, spares=1) as queue:
        assert threading.get_ident() == await queue.run_now(where)


@pytest.mark.parity("T5.34", "T5.35")
@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_a_spare_is_used_again_and_a_temporary_one_is_taken_down(kind: Any) -> None:
    """A free spare is taken first, and comes back; without one a temporary resource is made, and taken down after."""
    things = kind()
    job: Any = use if kind is Things else use_plainly
    async with rc.Queue("db", resource=things, workers=1, spares=1, max_spares=3) as queue:
        for _ in range(3):
            await queue.run_now(job)
        assert 2 == len(things.made), "the worker's and the spare"
        await asyncio.gather(*(queue.run_now(job, 5.0) for _ in range(3)))
        await asyncio.sleep(1)
        assert (4, 2) == (len(things.made), len(things.open))
        assert (1, 1) == (queue.stats().spares_free, queue.stats().spares_alive)
        assert {1} == {thing.most_users for thing in things.made if thing.uses}
    assert things.balanced


@pytest.mark.parity("T5.35")
@pytest.mark.parametrize("raised", [ValueError(), SystemExit(1), asyncio.CancelledError()])
@pytest.mark.virtual
async def test_whatever_the_job_raises_the_resource_goes_where_it_should(raised: BaseException) -> None:
    """After an error a spare is free again and a temporary one is taken down, whatever the error was."""
    things = Things()
    async with rc.Queue("db", resource=things, workers=1, spares=1, max_spares=2) as queue:
        gate: Any = Gate()
        holds = asyncio.ensure_future(queue.run_now(gate))
        await rounds()
        for _ in range(3):
            with pytest.raises(ValueError if isinstance(raised, ValueError) else rc.JobCrashed):
                await queue.run_now(script(raised))
            await rounds()
        gate.open()
        await holds
        await rounds()
        assert (1, 5, 2) == (queue.stats().spares_free, len(things.made), len(things.open))
    assert things.balanced


@pytest.mark.parity("T5.36")
@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_a_temporary_resource_that_cannot_be_made_is_told(kind: Any) -> None:
    """Then `run_now` raises ResourceError, with what its maker raised as cause, and the next one may succeed."""
    error = OSError("refused")
    things = kind(None, error)
    job: Any = use if kind is Things else use_plainly
    async with rc.Queue("db", resource=things, workers=1, max_spares=1, backoff=rc.Constant(0)) as queue:
        with pytest.raises(rc.ResourceError, match="refused") as caught:
            await queue.run_now(job)
        assert error is caught.value.__cause__
        assert 2 == await queue.run_now(job)
        assert 1 == queue.stats().failed_openings
    assert things.balanced


@pytest.mark.parity("T5.12")
@pytest.mark.virtual
async def test_the_spares_are_filled_before_any_worker_comes() -> None:
    """At the start the spares are made first; the workers' resources after them."""
    things = Things(takes=2.0)
    began = now()
    async with rc.Queue("db", resource=things, workers=3, spares=2):
        assert [0.0, 0.0, 2.0, 2.0, 2.0] == [asked - began for asked in things.asked]


@pytest.mark.parity("T5.12")
@pytest.mark.virtual
async def test_a_spare_that_cannot_be_made_fails_the_start() -> None:
    """Then those already made are taken down, no worker comes, and `start` raises with what the maker raised."""
    error = OSError("refused")
    things = Things(None, None, error)
    queue = rc.Queue("db", resource=things, workers=2, spares=3)
    with pytest.raises(rc.ResourceError, match="refused") as caught:
        await queue.start()
    assert error is caught.value.__cause__
    assert (2, []) == (len(things.made), things.open)
    assert things.balanced
    assert 3 == len(things.asked)
    assert rc.State.FAILED is queue.state
    await queue.start()
    assert 5 == len(things.open)
    await queue.stop()


@pytest.mark.parity("E5.5")
@pytest.mark.virtual
async def test_no_spares_means_that_none_are_made() -> None:
    """spares=0: nothing is kept ready, and `run_now` makes what it needs."""
    things = Things()
    async with rc.Queue("db", resource=things, workers=2, spares=0) as queue:
        assert (2, 0) == (len(things.made), queue.stats().spares_alive)
        assert 3 == await queue.run_now(use)
        await rounds()
        assert 2 == len(things.open)


@pytest.mark.defect("D5.18")
@pytest.mark.virtual
async def test_there_are_never_more_temporary_resources_than_may() -> None:
    """Beyond max_spares `run_now` raises AtMax at once: nothing is made, nobody waits."""
    things = Things(takes=1.0, leaves=1.0)
    async with rc.Queue("db", resource=things, workers=1, spares=1, max_spares=4) as queue:
        results = await asyncio.gather(*(queue.run_now(use, 1.0) for _ in range(100)), return_exceptions=True)
        assert 96 == sum(isinstance(result, rc.AtMax) for result in results)
        assert 5 == len(things.made)
        with pytest.raises(rc.AtMax):
            await asyncio.gather(*(queue.run_now(use, 1.0) for _ in range(4)))
        await asyncio.sleep(10)
        assert (1, 1) == (queue.stats().spares_alive, queue.stats().spares_free)
        assert queue.stats().max_spares == 4
    assert things.balanced


@pytest.mark.defect("D5.17")
@pytest.mark.virtual
async def test_a_spare_that_proved_faulty_is_never_used_again() -> None:
    """An unhealthy verdict about a spare takes it down, once, and another is made in its place."""
    things = Things()

    async def breaks(thing: Any) -> None:
        thing.begin()
        thing.end()
        raise Broken

    async with rc.Queue(
        "db", resource=things, workers=1, spares=1, healthy=is_healthy, backoff=rc.Constant(0)
    ) as queue:
        with pytest.raises(Broken):
            await queue.run_now(breaks)
        await rounds()
        assert 1 == things.made[0].closed
        assert 3 == await queue.run_now(use)
        assert 1 == queue.stats().replaced
    assert things.balanced


@pytest.mark.defect("D5.17")
@pytest.mark.virtual
async def test_spares_do_not_grow_old_and_are_tried_before_use() -> None:
    """max_age and max_idle hold for spares too, and so does the check."""
    things = Things()
    bad: list[int] = []
    async with rc.Queue(
        "db", resource=things, workers=1, spares=1, max_age="1m", check=lambda thing: thing.number not in bad,
        backoff=rc.Constant(0),
    ) as queue:  # fmt: skip
        first = await queue.run_now(use)
        await asyncio.sleep(70)
        second = await queue.run_now(use)
        assert first != second
        bad.append(second)
        try:
            third = await queue.run_now(use)
        except rc.ResourceError:
            await rounds()
            third = await queue.run_now(use)
        assert third not in (first, second)
    assert things.balanced


@pytest.mark.parity("T5.37")
@pytest.mark.virtual
async def test_it_has_one_attempt_and_counts_like_any_other() -> None:
    """No retry, no requeue: one attempt; arrivals, completions and failures are in stats and metrics."""
    things = Things()
    async with rc.Queue(
        "db", resource=things, workers=1, spares=1, healthy=is_healthy, backoff=rc.Constant(0),
        retry=rc.Retry(Exception, retries=5, backoff=rc.Constant(0)),
    ) as queue:  # fmt: skip
        for error in (ValueError(), Broken()):
            job = script(error, "fine")
            with pytest.raises(type(error)):
                await queue.run_now(job)
            assert 1 == len(job.calls)
            await rounds()
        await queue.run_now(use)
        metrics, stats = queue.metrics(), queue.stats()
        assert (3, 1, 2, 0) == (metrics.arrived, metrics.completed, metrics.failed, metrics.retried)
        assert (3, 1, 2, 0, 0) == (
            stats.runs.begun, stats.runs.succeeded, stats.runs.failed, stats.runs.retries, stats.requeued
        )  # fmt: skip


@pytest.mark.defect("D5.16")
@pytest.mark.parametrize("temporary", [False, True])
@pytest.mark.virtual
async def test_a_stop_waits_for_those_past_the_queue(temporary: bool) -> None:
    """A drain finishes what runs past the queue; when it has returned no resource is left, temporary or not."""
    things = Things(takes=1.0, leaves=1.0)
    queue = rc.Queue("db", resource=things, workers=1, spares=0 if temporary else 1, max_spares=1)
    await queue.start()
    call = asyncio.ensure_future(queue.run_now(use, 5.0))
    await rounds()
    report = await queue.stop("1m")
    assert (2 if temporary else 1, 1) == (await call, report.finished)
    assert ([], True) == (things.open, things.balanced)
    with pytest.raises(rc.ServiceStopped):
        await queue.run_now(use)


@pytest.mark.defect("D5.16")
@pytest.mark.virtual
async def test_a_kill_ends_those_past_the_queue_too() -> None:
    """What runs on a spare, and what waits for its temporary resource, ends as interrupted."""
    things = Things()
    queue = rc.Queue("db", resource=things, workers=1, spares=1, max_spares=2)
    await queue.start()
    things.takes = 50.0
    calls = [asyncio.ensure_future(queue.run_now(use, 100.0)) for _ in range(2)]
    await asyncio.sleep(1)
    began = now()
    report = await queue.kill()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [rc.RunInterrupted] * 2 == [type(result) for result in results]
    assert (began, True, 2) == (now(), things.balanced, report.cancelled + report.never_started)


@pytest.mark.virtual
async def test_giving_it_up_cancels_the_run() -> None:
    """Cancelled inside `run_now`, the run is cancelled and has ended when the caller goes on."""
    ended: list[float] = []

    async def job() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            ended.append(now())

    async with rc.Queue("db", workers=1, spares=1) as queue:
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.run_now(job)
        assert ([began + 6], began + 6) == (ended, now())


@pytest.mark.virtual
async def test_it_has_limits_of_time_like_any_other() -> None:
    """timeout= counts from the beginning, deadline= from acceptance, also while its resource is made."""
    things = Things()
    async with rc.Queue("db", resource=things, workers=1, spares=1, max_spares=2) as queue:
        began = now()
        with pytest.raises(rc.RunTimeout):
            await queue.run_now(use, 10.0, timeout=2)
        assert began + 2 == now()
        things.takes = 60.0
        holds = asyncio.ensure_future(queue.run_now(use, 10.0))
        await rounds()
        with pytest.raises(rc.RunTimeout, match="passed before it began"):
            await queue.run_now(use, deadline=3)
        assert began + 5 == now()
        await holds


@pytest.mark.virtual
async def test_a_job_of_the_queue_may_go_past_it() -> None:
    """`run_now` needs no worker of the queue: it is allowed inside one of its jobs."""
    async with rc.Queue("db", workers=1, spares=1) as queue:

        async def outer() -> Any:
            return await queue.run_now(give, "inner")

        assert "inner" == await queue.run(outer)
        assert 2 == queue.stats().runs.succeeded


@pytest.mark.virtual
async def test_without_a_resource_it_is_only_past_the_queue() -> None:
    """A queue without a resource takes calls past it just as well, up to max_spares."""
    async with rc.Queue("db", workers=1, max_spares=2) as queue:
        gate = Gate()
        calls = [asyncio.ensure_future(queue.run_now(gate, number)) for number in range(2)]
        await rounds()
        with pytest.raises(rc.AtMax):
            await queue.run_now(take, 0.0)
        gate.open()
        assert [0, 1] == await asyncio.gather(*calls)
