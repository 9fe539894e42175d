"""Cancelling: a ticket, and the task of who waits for a run of his own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from queue_made import Gate, give, now, rounds, take

import runcrew as rc
from runcrew.clock import current


@pytest.mark.defect("D5.29")
@pytest.mark.virtual
async def test_a_ticket_that_waits_ends_at_once_and_never_begins() -> None:
    """A queued run can be cancelled: it ends as cancelled, its function is never called, its room is free."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=1) as queue:
        queue.submit_nowait(gate, "first")
        await rounds()
        ticket = queue.submit_nowait(gate, "second")
        assert ticket.cancel()
        assert "cancelled" == ticket.status
        outcome = await ticket.outcome()
        assert (None, "it was cancelled by its ticket") == (outcome.started, outcome.reason)
        with pytest.raises(rc.RunCancelled, match="it was cancelled by its ticket"):
            await ticket
        third = queue.submit_nowait(gate, "third")
        gate.open()
        await third
    assert ["first", "third"] == gate.begun
    assert 1 == queue.stats().runs.cancelled


@pytest.mark.parity("T5.38")
@pytest.mark.virtual
async def test_a_job_under_way_is_cancelled_where_it_awaits() -> None:
    """An async job gets a CancelledError at its await, may clean up, and ends as cancelled; its worker goes on."""
    cleaned: list[bool] = []

    async def job() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cleaned.append(rc.current_run().cancelled)
            await asyncio.sleep(1)

    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(job)
        await asyncio.sleep(5)
        assert ticket.cancel()
        assert not ticket.done()
        with pytest.raises(rc.RunCancelled):
            await ticket
        outcome = ticket.peek()
        assert outcome is not None
        assert ([True], 6.0) == (cleaned, round(outcome.elapsed, 6))
        assert 1 == await queue.run(give, 1)


@pytest.mark.virtual
async def test_cancelling_is_asked_for_once() -> None:
    """`cancel` says whether there was something to ask: not twice, and not after the end."""
    gate = Gate()
    async with rc.Queue("db", workers=1) as queue:
        ticket = queue.submit_nowait(gate)
        await rounds()
        assert [True, False, False] == [ticket.cancel() for _ in range(3)]
        await ticket.outcome()
        assert not ticket.cancel()
        ended = await queue.submit(give, 1)
        await ended
        assert not ended.cancel()
        assert "succeeded" == ended.status


@pytest.mark.parametrize(
    ("ends", "status"),
    [(lambda: "a value", "succeeded"), (lambda: (_ for _ in ()).throw(ValueError("real")), "failed")],
)
@pytest.mark.virtual
async def test_what_the_job_makes_of_its_cancellation_stands(ends: Any, status: str) -> None:
    """A job that was asked to end and gives a value has succeeded; one that raises an error of its own has failed."""

    async def job() -> Any:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return next(ends()) if status == "failed" else ends()

    async with rc.Queue("db", workers=1, retry=rc.Retry(ValueError, retries=5)) as queue:
        ticket = await queue.submit(job)
        await rounds()
        ticket.cancel()
        outcome = await ticket.outcome()
        assert status == outcome.status
        assert 1 == outcome.attempts, "and no attempt follows"


@pytest.mark.virtual
async def test_a_job_may_cancel_itself() -> None:
    """A job that cancels its own ticket in its first step is cut at its next await, on every version."""
    seen: list[str] = []
    async with rc.Queue("db", workers=1) as queue:
        tickets: list[rc.Ticket[Any]] = []

        async def job() -> None:
            seen.append("begins")
            await asyncio.sleep(0)
            tickets[0].cancel()
            await asyncio.sleep(0)
            seen.append("goes on")

        tickets.append(await queue.submit(job))
        assert "cancelled" == (await tickets[0].outcome()).status
    assert ["begins"] == seen


@pytest.mark.virtual
async def test_cancelled_before_its_first_step_a_run_never_begins() -> None:
    """A ticket that is cancelled right after its submission ends as cancelled, whether or not it has taken a step."""
    for _ in range(20):
        async with rc.Queue("db", workers=1) as queue:
            ticket = queue.submit_nowait(take, 100.0)
            assert ticket.cancel()
            assert "cancelled" == (await ticket.outcome()).status
            assert 1 == await queue.run(give, 1)


@pytest.mark.virtual
async def test_a_ticket_that_waits_for_its_retry_is_cancelled_at_once_and_keeps_its_error() -> None:
    """Between two attempts a run ends where it stands, as cancelled, with the error of its last attempt as cause."""
    error = ValueError("first attempt")

    async def fails() -> None:
        raise error

    async with rc.Queue("db", workers=1, retry=rc.Retry(ValueError, backoff=rc.Constant("1m"))) as queue:
        ticket = await queue.submit(fails)
        await asyncio.sleep(10)
        assert 1 == queue.stats().delayed
        assert ticket.cancel()
        assert 0 == queue.stats().delayed
        with pytest.raises(rc.RunCancelled) as caught:
            await ticket
        assert error is caught.value.__cause__


async def linger(until: float) -> None:
    """Take a while to clean up."""
    try:
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(until)


async def fail_in(span: float) -> None:
    """Fail after a while."""
    await asyncio.sleep(span)
    raise ValueError("a child failed")


async def with_a_group(steps: list[str]) -> None:
    """A job whose TaskGroup cancels it, from one second on, while the group's other child takes until the third."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(linger(2.0))
            group.create_task(fail_in(1.0))
            await asyncio.sleep(1000)
    except* ValueError:
        steps.append("the group failed")
    task = asyncio.current_task()
    if task is not None and task.cancelling():  # which a TaskGroup keeps to itself before 3.13
        raise asyncio.CancelledError
    await asyncio.sleep(1000)
    steps.append("went on")


async def with_a_timeout(steps: list[str]) -> None:
    """A job that is cancelled by its own `asyncio.timeout`, at one second, and cleans up until the third."""
    try:
        async with asyncio.timeout(1):
            await linger(2.0)
    except TimeoutError:
        steps.append("timed out")
    await asyncio.sleep(1000)
    steps.append("went on")


@pytest.mark.parametrize("job", [with_a_group, with_a_timeout])
@pytest.mark.parametrize("way", ["cancel", "run", "kill"])
@pytest.mark.virtual
async def test_a_job_that_cancels_itself_for_a_reason_of_its_own_is_cancelled_all_the_same(job: Any, way: str) -> None:
    """A request that comes while the job's own TaskGroup or timeout cancels its task is no part of that: the job is
    cancelled, and does not go on after the block."""
    steps: list[str] = []
    queue = rc.Queue("db", workers=1)
    await queue.start()
    began = now()
    if way == "run":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await queue.run(job, steps)
    else:
        ticket = await queue.submit(job, steps)
        await asyncio.sleep(2)
        if way == "cancel":
            assert ticket.cancel()
        else:
            await queue.kill()
        outcome = await ticket.outcome()
        assert ("cancelled" if way == "cancel" else "interrupted") == outcome.status
    assert now() - began <= 3
    assert "went on" not in steps
    assert 1 == queue.stats().runs.cancelled + queue.stats().runs.interrupted
    await queue.stop()


# --- those who wait inside ----------------------------------------------------------------------


@pytest.mark.defect("D5.29")
@pytest.mark.virtual
async def test_giving_up_a_run_cancels_it_and_returns_after_its_end() -> None:
    """Cancelled inside `run`, the run is cancelled, and the caller goes on only when it has ended."""
    ended: list[float] = []

    async def job() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)
            ended.append(now())

    async with rc.Queue("db", workers=1) as queue:
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.run(job)
        assert [began + 7] == ended
        assert began + 7 == now()
        assert 1 == queue.stats().runs.cancelled


@pytest.mark.defect("D5.29")
@pytest.mark.virtual
async def test_giving_up_a_run_that_waits_takes_it_out_of_the_queue() -> None:
    """Cancelled inside `run` while the run is queued, the run never begins."""
    gate = Gate()
    async with rc.Queue("db", workers=1) as queue:
        queue.submit_nowait(gate, "first")
        await rounds()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.run(gate, "second")
        assert 0 == queue.stats().queued
        gate.open()
    assert ["first"] == gate.begun


@pytest.mark.virtual
async def test_a_thread_that_does_not_listen_is_left_behind_after_half_a_second() -> None:
    """Cancelled inside `run` of a plain job: its thread is told, and abandoned where it has not ended half a second
    later."""
    may_end, told = threading.Event(), list[bool]()

    def deaf() -> None:
        run = rc.current_run()
        current().block(None, may_end)
        told.append(run.cancelled)

    async with rc.Queue("db", workers=1) as queue:
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.run(deaf)
        assert 5.5 == round(now() - began, 6)
        assert 1 == len(queue.stats().abandoned)
        assert 1 == queue.stats().alive, "its worker was replaced"
        assert 3 == await queue.run(give, 3)
        may_end.set()
        while queue.stats().abandoned:
            await asyncio.sleep(0.001)
    assert [True] == told


@pytest.mark.virtual
async def test_a_thread_that_listens_ends_by_itself() -> None:
    """A plain job that looks at `current_run()` ends when it is cancelled, and its thread is used again."""

    def listens() -> str:
        rc.current_run().wait_cancelled()
        return "ended"

    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(listens)
        await asyncio.sleep(1)
        assert ticket.cancel()
        assert "ended" == await ticket, "what it makes of it stands"
        assert () == queue.stats().abandoned
