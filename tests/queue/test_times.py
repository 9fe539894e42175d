"""Limits of time: timeouts of attempts, deadlines of runs, delays before the first attempt."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from queue_made import Gate, Script, give, now, rounds, script, take

import runcrew as rc
from runcrew.clock import current
from runcrew.queue import SubmitOptions

FIVE = rc.Retry(Exception, retries=5, backoff=rc.Constant("1s"))


@pytest.mark.virtual
async def test_a_timeout_counts_from_the_beginning_of_the_attempt() -> None:
    """Time in the queue does not count; an attempt that takes longer is cancelled and ends as timed out."""
    async with rc.Queue("db", workers=1, timeout="2s") as queue:
        first = await queue.submit(take, 1.5)
        second = await queue.submit(take, 1.5)
        third = await queue.submit(take, 10.0)
        assert (1.5, 1.5) == (await first, await second)
        began = now()
        with pytest.raises(rc.RunTimeout, match="take: attempt 1 took longer than its timeout of 2s"):
            await third
        assert began + 2 == now()
        assert "timed_out" == third.status


@pytest.mark.virtual
async def test_what_is_said_with_a_submit_goes_before_what_the_queue_says() -> None:
    """A timeout or a deadline of one's own replaces the queue's; None takes it away."""
    async with rc.Queue("db", workers=3, timeout="2s", deadline="3s") as queue:
        assert 10.0 == await queue.run(take, 10.0, timeout=None, deadline=None)
        shorter: list[SubmitOptions] = [{"timeout": "1s"}, {"deadline": "1s"}]
        for options in shorter:
            began = now()
            with pytest.raises(rc.RunTimeout):
                await queue.run(take, 10.0, **options)
            assert began + 1 == now()
        began = now()
        with pytest.raises(rc.RunTimeout, match="its deadline of 3s passed in attempt 1"):
            await queue.run(take, 10.0, timeout=None)
        assert began + 3 == now()


@pytest.mark.defect("D5.29")
@pytest.mark.virtual
async def test_a_deadline_counts_from_acceptance_and_ends_what_waits() -> None:
    """A run whose deadline passes while it is queued ends as timed out and never begins."""
    gate = Gate()
    async with rc.Queue("db", workers=1) as queue:
        queue.submit_nowait(gate, "first")
        await rounds()
        began = now()
        with pytest.raises(rc.RunTimeout, match="its deadline of 5s passed before it began"):
            await queue.run(gate, "second", deadline="5s")
        assert began + 5 == now()
        assert 0 == queue.stats().queued
        gate.open()
    assert ["first"] == gate.begun
    assert 1 == queue.stats().runs.timed_out


@pytest.mark.virtual
async def test_a_job_sees_until_when_it_has_time() -> None:
    """`current_run().deadline` is the end of the attempt's time, or of the run's, whichever comes first."""

    async def left() -> float:
        deadline = rc.current_run().deadline
        assert deadline is not None
        return round(deadline.timestamp() - now(), 3)

    async with rc.Queue("db", workers=1) as queue:
        assert 4.0 == await queue.run(left, timeout=4)
        assert 3.0 == await queue.run(left, timeout=4, deadline=3)


@pytest.mark.virtual
async def test_timeouts_are_retried_where_a_rule_says_so() -> None:
    """A rule for RunTimeout gives an attempt that took too long another one."""
    slow = Script(1)

    async def job() -> str:
        await slow()
        if len(slow.calls) < 3:
            await asyncio.sleep(100)
        return "at last"

    rule = rc.Retry(rc.RunTimeout, retries=5, backoff=rc.Constant("1s"))
    async with rc.Queue("db", workers=1, timeout="2s", retry=rule) as queue:
        ticket = await queue.submit(job)
        assert "at last" == await ticket
        outcome = await ticket.outcome()
    assert [0.0, 3.0, 6.0] == slow.times
    assert ["timed_out", "timed_out", "succeeded"] == [attempt.status for attempt in outcome.history]


@pytest.mark.virtual
async def test_a_deadline_ends_all_attempts() -> None:
    """Retries stop where the next one would come too late, and the run fails with its own error."""
    error = ValueError()
    job = script(error, takes=1.0)
    async with rc.Queue("db", workers=1, retry=FIVE) as queue:
        ticket = await queue.submit(job, deadline="3.5s")
        outcome = await ticket.outcome()
    assert [0.0, 2.0] == job.times
    assert (error, "failed", 2) == (outcome.error, outcome.status, outcome.attempts)


@pytest.mark.virtual
async def test_a_deadline_that_passes_between_two_attempts_ends_the_run() -> None:
    """A run that waits for a worker for its second attempt when its time is up ends as timed out, with its error."""
    gate, error = Gate(), ValueError("first")
    async with rc.Queue("db", workers=1, retry=FIVE) as queue:
        ticket = await queue.submit(script(error), deadline="10s")
        await rounds()
        queue.submit_nowait(gate, priority=rc.HIGH)
        with pytest.raises(rc.RunTimeout, match="passed before attempt 2") as caught:
            await ticket
        assert error is caught.value.__cause__
        gate.open()


@pytest.mark.virtual
async def test_a_timeout_of_zero_is_over_at_once() -> None:
    """Zero means zero, also for a timeout and for a deadline; zero as a delay is none."""
    async with rc.Queue("db", workers=1) as queue:
        none_left: list[SubmitOptions] = [{"timeout": 0}, {"deadline": 0}]
        for options in none_left:
            with pytest.raises(rc.RunTimeout):
                await queue.run(take, 1.0, **options)
        assert 1 == await queue.run(give, 1, delay=0)


# --- delays -------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_delay_holds_a_run_back_and_no_worker() -> None:
    """A run with a delay begins no earlier; meanwhile its worker does others, and it counts as delayed."""
    async with rc.Queue("db", workers=1) as queue:
        began = now()

        async def when() -> float:
            return round(now() - began, 6)

        ticket = await queue.submit(when, delay="10s")
        assert (1, 0, 0) == (queue.stats().delayed, queue.stats().queued, queue.stats().running)
        assert 0.0 == await queue.run(when)
        assert 10.0 == await ticket
        assert 10.0 == round((await ticket.outcome()).wait, 6)


@pytest.mark.virtual
async def test_what_was_delayed_goes_before_those_who_came_after_it() -> None:
    """When its time has come it is the next of its level, and more urgent ones go before it."""
    gate = Gate()
    async with rc.Queue("db", workers=1) as queue:
        queue.submit_nowait(gate, "first")
        queue.submit_nowait(gate, "delayed", delay=5)
        queue.submit_nowait(gate, "after it")
        queue.submit_nowait(gate, "high", priority=rc.HIGH)
        await asyncio.sleep(10)
        gate.open()
    assert ["first", "high", "delayed", "after it"] == gate.begun


@pytest.mark.virtual
async def test_a_deadline_may_pass_while_it_is_delayed() -> None:
    """A deadline shorter than the delay ends the run when it passes."""
    async with rc.Queue("db", workers=1) as queue:
        began = now()
        with pytest.raises(rc.RunTimeout):
            await queue.run(give, 1, delay=10, deadline=5)
        assert began + 5 == now()
        assert 0 == queue.stats().delayed


@pytest.mark.virtual
async def test_a_stop_waits_for_what_is_delayed_and_a_kill_does_not() -> None:
    """A drain finishes delayed runs when their time has come; a kill ends them as interrupted."""
    queue = rc.Queue("db", workers=1)
    await queue.start()
    ticket = queue.submit_nowait(give, "it", delay=20)
    began = now()
    report = await queue.stop("1m")
    assert (began + 20, 1, "it") == (now(), report.finished, await ticket)
    await queue.start()
    ticket = queue.submit_nowait(give, "it", delay=20)
    report = await queue.kill()
    assert (1, "interrupted") == (report.never_started, ticket.status)


# --- threads ------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_plain_job_that_takes_too_long_is_told_and_left_behind() -> None:
    """Its ticket ends in time, its thread is told and goes on alone, its worker is replaced."""
    may_end = threading.Event()
    told: list[bool] = []

    def deaf() -> None:
        run = rc.current_run()
        current().block(None, may_end)
        told.append(run.cancelled)

    async with rc.Queue("db", workers=1) as queue:
        began = now()
        with pytest.raises(rc.RunTimeout, match="deaf: attempt 1 took longer than its timeout of 2s"):
            await queue.run(deaf, timeout="2s")
        assert 2.0 == round(now() - began, 6)
        stats = queue.stats()
        assert (1, 1) == (len(stats.abandoned), stats.alive)
        assert "deaf" in stats.abandoned[0].name
        may_end.set()
        while queue.stats().abandoned:
            await asyncio.sleep(0.001)
    assert [True] == told


@pytest.mark.virtual
async def test_a_plain_job_that_ends_in_time_is_not_cut() -> None:
    """The timeout of a plain job that waits in line for its thread counts from when it begins."""

    def block(span: float) -> Any:
        current().block(span)
        return span

    async with rc.Queue("db", workers=1, timeout="5s") as queue:
        tickets = [await queue.submit(block, 4.0) for _ in range(4)]
        assert [4.0] * 4 == [await ticket for ticket in tickets]
        assert () == queue.stats().abandoned
