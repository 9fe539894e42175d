"""What random schedules of a queue reach too seldom: no worker to be had, no room, threads left to themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew import clock
from runcrew.clock import SYSTEM
from runcrew.job import Status

Queue = rc.Queue


async def one() -> int:
    """A job that does nothing."""
    return 1


async def turns(count: int) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- workers that cannot be had -------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("error", [OSError("nobody there"), TypeError("a mistake"), asyncio.CancelledError()])
async def test_a_drain_that_no_worker_will_ever_serve_gives_up(error: BaseException) -> None:
    """Where nobody is alive and opening after opening fails, what waits ends as interrupted, long before the limit."""

    async def never() -> Any:
        raise error

    async def job(_: object) -> None:
        """Never called."""

    queue: Any = Queue(resource=never, destroy=lambda _: None)
    await queue.start()
    ticket = await queue.submit(job)
    await asyncio.sleep(3)
    report = await queue.stop("10h")
    assert Status.INTERRUPTED is ticket.status
    assert report.elapsed < 3600


@pytest.mark.virtual
@pytest.mark.parametrize("late", range(4))
async def test_whatever_ends_an_opening_the_stop_ends_too(late: int) -> None:
    """Also an opening that is cancelled before its first step leaves its place and is replaced."""

    async def make() -> Any:
        yield "resource"

    async def job(resource: str) -> str:
        return resource

    before = asyncio.all_tasks()
    queue: Any = Queue(resource=make, workers=2)
    starting = asyncio.ensure_future(queue.start())
    await turns(1 + late)
    for task in asyncio.all_tasks() - before - {starting}:
        task.cancel()
    async with asyncio.timeout(100):
        await asyncio.wait([starting])
        if queue.state == "running":
            assert "resource" == await queue.run(job)
        await queue.stop()
    assert 0 == queue.stats().alive


@pytest.mark.virtual
async def test_a_drain_goes_on_when_its_last_worker_dies() -> None:
    """It is replaced, and whoever waits for it is served: also after a pause before another attempt."""
    seen: list[int] = []

    async def make() -> Any:
        await asyncio.sleep(1)
        yield "resource"

    async def job(_: str, number: int) -> int:
        seen.append(number)
        await asyncio.sleep(1)
        if seen.count(number) == 1:
            raise OSError
        return number

    queue: Any = Queue(resource=make, healthy=lambda _: False, requeue_backoff=rc.Constant(5))
    await queue.start()
    tickets = [queue.submit_nowait(job, number) for number in range(2)]
    report = await queue.stop("100s")
    assert [0, 1] == [ticket.peek().value for ticket in tickets]
    assert (2, 0, 0) == (report.finished, report.cancelled, report.never_started)


# --- waiting for room -------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("room_first", [False, True])
async def test_whoever_waits_for_room_when_the_stop_comes_is_refused(room_first: bool) -> None:
    """Whether or not there has just been room: nothing is accepted after the stop, and nobody is left waiting."""
    release = asyncio.Event()

    async def job() -> None:
        await release.wait()

    queue: Any = Queue(maxsize=1)
    await queue.start()
    first = await queue.submit(job)
    while True:
        try:
            queue.submit_nowait(job)
        except rc.QueueFull:
            break
    waiting = [asyncio.ensure_future(queue.submit(job)) for _ in range(3)]
    await turns(3)
    if room_first:
        release.set()
        await first
    stopping = asyncio.ensure_future(queue.stop())
    await turns(5)
    release.set()
    async with asyncio.timeout(60):
        await asyncio.wait([*waiting, stopping])
    for task in waiting:
        if task.exception() is None:
            assert Status.SUCCEEDED is task.result().status
        else:
            assert isinstance(task.exception(), rc.ServiceStopping | rc.ServiceStopped)
    if not room_first:
        assert all(task.exception() is not None for task in waiting)


@pytest.mark.virtual
@pytest.mark.parametrize("late", range(5))
async def test_a_submitter_that_gives_up_passes_its_place_on(late: int) -> None:
    """Also where it is cancelled as it has just been given room."""
    release = asyncio.Event()

    async def job() -> str:
        await release.wait()
        return "done"

    async with Queue(maxsize=1) as queue:
        for _ in range(2):
            await queue.submit(job)
        first, second = (asyncio.ensure_future(queue.submit(job)) for _ in range(2))
        await turns(3)
        release.set()
        await turns(late)
        first.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([first])
            assert "done" == await (await second)


@pytest.mark.virtual
@pytest.mark.parametrize("how", ["run", "ticket", "outcome"])
async def test_a_job_that_waits_for_its_own_queue_is_told(how: str) -> None:
    """It would wait for the worker that it keeps busy; to submit and go on is allowed."""

    async def job() -> str:
        if how == "run":
            await queue.run(one)
        ticket = await queue.submit(one)
        await (ticket if how == "ticket" else ticket.outcome())
        return "came through"

    async with Queue() as queue:
        with pytest.raises(rc.WouldDeadlock):
            await queue.run(job)


@pytest.mark.virtual
@pytest.mark.parametrize("when", [0.0, 0.5, 1.0])
async def test_a_ticket_cancelled_between_two_attempts_is_not_tried_again(when: float) -> None:
    """In the pause after an attempt that ran out of time, or as it ends: cancelled is cancelled."""
    attempts: list[float] = []

    async def job() -> None:
        attempts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(100)

    rule = rc.Retry(rc.RunTimeout, retries=3, backoff=rc.Constant(1.0))
    async with Queue() as queue:
        ticket = await queue.submit(job, timeout=1, retry=rule)
        await asyncio.sleep(1 + when)
        assert ticket.cancel()
        before = len(attempts)
        outcome = await ticket.outcome()
        await asyncio.sleep(10)
    assert before == len(attempts)
    assert Status.CANCELLED is outcome.status


@pytest.mark.virtual
async def test_an_error_in_a_cancellation_is_told_and_not_tried_again() -> None:
    """What a job raises as it is cancelled is its outcome, also where a rule would have it tried again."""
    attempts: list[int] = []

    async def job() -> None:
        attempts.append(1)
        try:
            await asyncio.sleep(100)
        finally:
            raise OSError("as it cleans up")

    async with Queue(retry=rc.Retry(OSError, retries=3, backoff=rc.Constant(0.5))) as queue:
        ticket = await queue.submit(job)
        await asyncio.sleep(1)
        ticket.cancel()
        outcome = await ticket.outcome()
        assert (Status.FAILED, OSError, [1]) == (outcome.status, type(outcome.error), attempts)


# --- threads ----------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_thread_that_is_deaf_does_not_hold_a_kill_up() -> None:
    """Its ticket is interrupted, the report says where it hangs, and the queue has ended."""

    def deaf() -> str:
        clock.current().block(100)
        return "in the end"

    queue: Any = Queue()
    await queue.start()
    ticket = await queue.submit(deaf)
    await asyncio.sleep(1)
    report = await queue.kill()
    assert report.elapsed < 10
    assert Status.INTERRUPTED is ticket.status
    assert report.would_not_stop
    assert "deaf" in report.would_not_stop[0].stack
    await asyncio.sleep(100)


@pytest.mark.realtime
def test_a_thread_that_outlives_its_loop_ends_quietly() -> None:
    """What it hands back finds nobody, and that is no error in the thread."""
    release, over = threading.Event(), threading.Event()

    def job() -> None:
        release.wait(5)
        over.set()

    async def main() -> None:
        queue: Any = Queue()
        await queue.start()
        await queue.submit(job)
        await asyncio.sleep(0.02)

    before = threading.active_count()
    asyncio.run(main())
    release.set()
    assert over.wait(5)
    wait_until(lambda: threading.active_count() <= before)


def wait_until(true: Callable[[], bool]) -> None:
    """Give threads the real time that they need."""
    for _ in range(2000):
        if true():
            return
        SYSTEM.block(0.001)
    raise AssertionError("it never came to that")
