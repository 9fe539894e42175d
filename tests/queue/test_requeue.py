"""Faulty resources: the verdict, the worker's replacement, and the run that is put back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from queue_made import Broken, PlainThings, Script, Things, is_healthy, now, rounds, script, use, use_plainly

import runcrew as rc


def broken_queue(things: Any, **options: Any) -> rc.Queue[Any]:
    """One for which Broken says that the resource is faulty; it waits for nothing, unless something else is said."""
    usual: dict[str, Any] = {
        "healthy": is_healthy, "workers": 1, "requeue_backoff": rc.Constant(0), "backoff": rc.Constant(0),
    }  # fmt: skip
    return rc.Queue("db", resource=things, **{**usual, **options})


@pytest.mark.parity("T5.25", "T5.26")
@pytest.mark.defect("D5.3")
@pytest.mark.virtual
async def test_a_faulty_resource_is_taken_down_and_its_worker_replaced() -> None:
    """After an unhealthy verdict the resource is taken down, once, and a new worker with a new one does the run."""
    things = Things()

    async def job(thing: Any) -> int:
        await use(thing)
        if thing.number == 1:
            raise Broken
        return int(thing.number)

    async with broken_queue(things) as queue:
        assert 2 == await queue.run(job)
        assert [1, 0] == [thing.closed for thing in things.made]
        assert (1, 1, 1) == (queue.stats().alive, queue.stats().replaced, queue.stats().requeued)
    assert things.balanced


@pytest.mark.parity("T5.4")
@pytest.mark.virtual
async def test_without_a_judge_every_error_leaves_the_resource_in_use() -> None:
    """No `healthy`: whatever a job raises, its resource serves the next one."""
    things = Things()
    async with rc.Queue("db", resource=things, workers=1) as queue:
        for error in (Broken(), OSError(), ValueError()):
            with pytest.raises(type(error)):
                await queue.run(script(error))
        assert 1 == await queue.run(use)
    assert 1 == len(things.made)


@pytest.mark.parity("T5.25")
@pytest.mark.virtual
async def test_the_judge_hears_of_errors_only() -> None:
    """`healthy` is asked once for each failed attempt, with the very error; not for values, requests or crashes."""
    heard: list[Exception] = []

    def judge(error: Exception) -> bool:
        heard.append(error)
        return True

    errors = [ValueError(1), KeyError(2)]
    async with broken_queue(Things(), healthy=judge) as queue:
        for error in (*errors, SystemExit(1), asyncio.CancelledError()):
            await (await queue.submit(script(error))).outcome()
        await queue.run(use)
        cut = await queue.submit(use, 100.0)
        await rounds()
        cut.cancel()
        await cut.outcome()
    assert errors == heard


@pytest.mark.parity("T5.29")
@pytest.mark.defect("D5.27")
@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.virtual
async def test_a_run_is_put_back_so_often_and_then_fails_with_its_own_error(most: int) -> None:
    """With requeue=N there are N + 1 attempts, each on another resource; zero means none."""
    things = Things()
    errors = [Broken(number) for number in range(10)]
    job = script(*errors)
    async with broken_queue(things, requeue=most) as queue:
        ticket = await queue.submit(job)
        with pytest.raises(Broken) as caught:
            await ticket
        outcome = await ticket.outcome()
        assert errors[most] is caught.value
        assert most + 1 == len(job.calls) == outcome.attempts
        assert len({thing.number for (thing,) in job.args}) == most + 1
        assert (most, most + 1) == (queue.stats().requeued, queue.stats().replaced)
        assert most + 2 == await queue.run(use), "the last faulty one is gone too"
        if most:
            assert "may be put back" in outcome.reason
            assert errors[: most + 1] == [attempt.error for attempt in outcome.history]


@pytest.mark.parity("E5.4")
@pytest.mark.virtual
async def test_requeue_zero_means_that_nothing_is_put_back() -> None:
    """Zero is zero: one attempt, and the worker is replaced."""
    things, job = Things(), script(Broken())
    async with broken_queue(things, requeue=0) as queue:
        with pytest.raises(Broken):
            await queue.run(job)
        assert 2 == await queue.run(use)
    assert 1 == len(job.calls)


@pytest.mark.parity("E5.2")
@pytest.mark.virtual
async def test_only_the_errors_that_say_so_cost_a_resource() -> None:
    """One kind of error is a crash of the resource, with one more try; others surface as they are, at once."""
    things = Things()
    crash, other = Broken("crashed"), KeyError("other")
    async with broken_queue(things, workers=2, requeue=1) as queue:
        assert "fine" == await queue.run(script(crash, "fine"))
        again = script(crash)
        with pytest.raises(Broken) as caught:
            await queue.run(again)
        assert (crash, 2) == (caught.value, len(again.calls))
        once = script(other)
        with pytest.raises(KeyError) as unchanged:
            await queue.run(once)
        assert (other, 1) == (unchanged.value, len(once.calls))
        assert 3 == queue.stats().replaced


@pytest.mark.parity("T5.22", "T5.30")
@pytest.mark.virtual
async def test_at_most_once_is_never_put_back_but_costs_the_worker_its_resource() -> None:
    """at_most_once: one execution also where the resource is at fault; the worker is replaced all the same."""
    things = Things()
    async with broken_queue(things, requeue=3) as queue:
        for priority in (rc.NORMAL, rc.HIGH):
            job = script(Broken("crashed"))
            with pytest.raises(Broken, match="crashed"):
                await queue.run(job, at_most_once=True, priority=priority)
            assert 1 == len(job.calls)
        assert (0, 2) == (queue.stats().requeued, queue.stats().replaced)
        assert 3 == await queue.run(use)


@pytest.mark.virtual
async def test_what_is_put_back_keeps_its_level_and_its_place() -> None:
    """It is the next of its own level, and overtakes no more urgent one."""
    things, order = Things(), list[str]()

    async def job(thing: Any, name: str) -> None:
        order.append(name)
        await asyncio.sleep(1)
        if name == "breaks" and order.count("breaks") == 1:
            raise Broken

    async with broken_queue(things) as queue:
        for name, priority in (("breaks", 0), ("low", -1), ("same", 0), ("high", 1)):
            queue.submit_nowait(job, name, priority=priority)
    assert ["breaks", "high", "breaks", "same", "low"] == order


@pytest.mark.defect("D5.10")
@pytest.mark.virtual
async def test_a_full_queue_puts_back_what_it_has_accepted() -> None:
    """A run that met a faulty resource is put back however full the queue is, and fails for no lack of room."""
    things = Things()
    async with broken_queue(things, maxsize=1) as queue:
        ticket = await queue.submit(Breaks(1, takes=1.0))
        await rounds()
        queue.submit_nowait(use)
        with pytest.raises(rc.QueueFull):
            queue.submit_nowait(use)
        waits = [asyncio.ensure_future(queue.run(use)) for _ in range(5)]
        assert "fine" == await ticket
        assert [2] * 5 == await asyncio.gather(*waits)
        assert (1, 0) == (queue.stats().requeued, queue.stats().runs.failed)


class Breaks:
    """A job that breaks its resource the first so many times."""

    def __init__(self, times: int, takes: float = 0.0) -> None:
        self.times, self.takes = times, takes
        self.calls: list[float] = []

    async def __call__(self, thing: Any) -> str:
        self.calls.append(now())
        await asyncio.sleep(self.takes)
        if len(self.calls) <= self.times:
            raise Broken
        return "fine"


@pytest.mark.defect("D5.11")
@pytest.mark.virtual
async def test_a_broken_backend_is_asked_less_and_less_often() -> None:
    """Between its attempts a run waits by its backoff, and between openings of faulty resources the group does."""
    things = Things()
    job = Breaks(5)
    pauses = rc.Exponential("1s", cap="1m", jitter="none")
    async with broken_queue(things, requeue=10, requeue_backoff=pauses, backoff=pauses) as queue:
        assert "fine" == await queue.run(job)
    times = [round(called - job.calls[0], 6) for called in job.calls]
    assert [0.0, 1.0, 3.0, 7.0, 15.0, 31.0] == times
    assert 6 == len(things.made)


@pytest.mark.defect("D5.11")
@pytest.mark.virtual
async def test_many_runs_on_a_broken_backend_do_not_make_a_storm_of_resources() -> None:
    """However many runs break one resource after the other, openings come ever more slowly."""
    things = Things()

    async def breaks(thing: Any) -> None:
        raise Broken

    async with broken_queue(
        things, workers=4, requeue=0, backoff=rc.Exponential("1s", cap="10s", jitter="none")
    ) as queue:
        tickets = [await queue.submit(breaks) for _ in range(10_000)]
        await asyncio.sleep(100)
        assert len(things.made) < 4 * 20
        for ticket in tickets:
            ticket.cancel()


@pytest.mark.defect("D5.3")
@pytest.mark.virtual
async def test_the_group_is_whole_again_after_all_of_its_workers_have_died() -> None:
    """When every worker's resource proves faulty at once, all are replaced, and everybody who waits is served."""
    things = Things()

    async def job(thing: Any) -> int:
        await use(thing, 1.0)
        if thing.number <= 3:
            raise Broken
        return int(thing.number)

    async with broken_queue(things, workers=3) as queue:
        values = await asyncio.gather(*(queue.run(job) for _ in range(9)))
        assert {4, 5, 6} == set(values)
        assert (3, 3) == (queue.stats().alive, queue.stats().workers)
    assert things.balanced


@pytest.mark.virtual
async def test_a_verdict_in_a_drain_counts_too() -> None:
    """While it stops, a queue still replaces a worker whose resource is faulty, and never uses that one again."""
    things = Things()
    queue = broken_queue(things)
    await queue.start()
    tickets = [queue.submit_nowait(Breaks(1, takes=1.0)) for _ in range(3)]
    await rounds()
    report = await queue.stop("1m")
    assert ["fine"] * 3 == [await ticket for ticket in tickets]
    assert 3 == report.finished
    assert 4 == len(things.made)
    assert things.balanced


@pytest.mark.virtual
async def test_a_judge_that_raises_has_no_say(caplog: pytest.LogCaptureFixture) -> None:
    """Where `healthy` itself fails, that is logged, and the resource counts as healthy."""
    things = Things()

    def judge(error: Exception) -> bool:
        raise RuntimeError("cannot say")

    async with broken_queue(things, healthy=judge) as queue:
        with pytest.raises(Broken):
            await queue.run(script(Broken()))
        assert 1 == await queue.run(use)
    assert any("healthy()" in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


@pytest.mark.virtual
async def test_in_threads_it_is_the_same() -> None:
    """A plain job on a plain resource that proves faulty is put back for another thread; the rest of its line too."""
    things = PlainThings()
    order: list[tuple[int, int]] = []

    def job(thing: Any, number: int) -> int:
        use_plainly(thing)
        order.append((number, thing.number))
        if number == 0 and thing.number == 1:
            raise Broken
        return int(thing.number)

    async with broken_queue(things) as queue:
        tickets = await queue.submit_many(job, range(50))
        assert [2] * 50 == [await ticket for ticket in tickets]
    assert (0, 1) == order[0]
    assert [(number, 2) for number in range(50)] == order[1:]
    assert things.balanced


@pytest.mark.virtual
async def test_a_run_that_was_asked_to_end_is_not_put_back() -> None:
    """After a cancellation no further attempt begins, and the job's own error is reported."""
    error, job = Broken("while cancelled"), Script()

    async def breaks(thing: Any) -> None:
        job.calls.append(now())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise error from None

    things = Things()
    async with broken_queue(things) as queue:
        ticket = await queue.submit(breaks)
        await rounds()
        ticket.cancel()
        outcome = await ticket.outcome()
        assert ("failed", error) == (outcome.status, outcome.error)
        assert 2 == await queue.run(use)
    assert 1 == len(job.calls)


@pytest.mark.virtual
async def test_those_behind_a_faulty_worker_are_not_held_up_by_others() -> None:
    """While one worker's resource is made anew, the others go on."""
    things = Things()
    async with broken_queue(things, workers=2) as queue:
        things.takes = 10.0
        began = now()
        tickets = [await queue.submit(Breaks(0)) for _ in range(5)]
        broken: Any = await queue.submit(Breaks(1))
        for ticket in tickets:
            await ticket
        assert began == now()
        assert "fine" == await broken
