"""What random schedules of a queue reach too seldom, or would see too late: one test for each."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from typing import Any

import pytest

import runcrew as rc
from runcrew.job import Status
from runcrew.testing import run_virtual

Queue = rc.Queue
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


async def one() -> int:
    """A job that does nothing."""
    return 1


async def turns(count: int) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- the first step -----------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("how", ["kill", "stop", "cancel"])
async def test_a_job_ends_its_own_work_in_its_first_step(how: str) -> None:
    """What a job asks for before it has ever awaited reaches it where it awaits next."""
    tickets: list[rc.Ticket[str]] = []

    async def job() -> str:
        match how:
            case "kill":
                await queue.kill()
            case "stop":
                await queue.stop(0)
            case _:
                asyncio.get_running_loop().call_soon(lambda: tickets[0].cancel())
        await asyncio.sleep(1000)
        return "went on"

    queue: Any = Queue(workers=2)
    await queue.start()
    tickets.append(await queue.submit(job))
    async with asyncio.timeout(20):
        outcome = await tickets[0].outcome()
    assert Status.SUCCEEDED is not outcome.status
    async with asyncio.timeout(20):
        await queue.stop()


@pytest.mark.virtual
async def test_a_job_sends_its_own_worker_home_in_its_first_step() -> None:
    """It is cut where it awaits next, though nobody knew its task when that was asked."""

    async def waits(span: float) -> None:
        await asyncio.sleep(span)

    async def job() -> None:
        queue.less(1, mode="now")
        await asyncio.sleep(1000)

    queue: Any = Queue(workers=2)
    async with queue:
        short = await queue.submit(waits, 1)
        await queue.submit(waits, 10)
        await short
        outcome = await (await queue.submit(job)).outcome()
        assert (Status.INTERRUPTED, 0.0) == (outcome.status, outcome.elapsed)


@pytest.mark.virtual
@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
async def test_what_is_no_exception_does_not_come_out_of_submit(error: BaseException) -> None:
    """The caller has a ticket, which says what the first step raised, and the worker takes the next."""

    async def job() -> None:
        raise error

    async with Queue() as queue:
        ticket = await queue.submit(job)
        outcome = await ticket.outcome()
        assert (Status.FAILED, error) == (outcome.status, outcome.error)
        with pytest.raises(rc.JobCrashed):
            await ticket
        assert 1 == await queue.run(one)


@pytest.mark.virtual
@pytest.mark.parametrize("plain", [False, True])
async def test_a_keyboard_interrupt_in_a_job_ends_the_queue(plain: bool) -> None:
    """The ticket has it, and so has the queue: whoever sits at the keyboard did not mean that job alone."""
    error = KeyboardInterrupt()

    async def job() -> None:
        raise error

    def plain_job() -> None:
        raise error

    queue = Queue()
    with pytest.raises(rc.JobCrashed) as caught:
        async with queue:
            waiting = await queue.submit(one, delay="1s")
            ticket = await queue.submit(plain_job) if plain else await queue.submit(job)
            assert (Status.FAILED, error) == ((outcome := await ticket.outcome()).status, outcome.error)
            assert Status.INTERRUPTED == (await waiting.outcome()).status
    assert error is caught.value.__cause__
    assert rc.State.FAILED == queue.state


@pytest.mark.virtual
@pytest.mark.parametrize("act", ["cancel", "kill", "stop", "less"])
@pytest.mark.parametrize("late", range(6))
async def test_a_ticket_is_found_wherever_it_is_on_its_way(act: str, late: int) -> None:
    """Picked, handed over or not yet begun: whoever ends it reaches it, and it never begins afterwards."""
    ended: list[bool] = []
    begun_after_its_end: list[bool] = []

    async def job(number: int) -> int:
        begun_after_its_end.append(bool(ended))
        await asyncio.sleep(1000)
        return number

    queue: Any = Queue(workers=2, requeue_backoff=rc.Constant(0.0))
    await queue.start()
    tickets = [queue.submit_nowait(job, number) for number in range(3)]
    await turns(late)
    match act:
        case "cancel":
            assert [True, True, True] == [ticket.cancel() for ticket in tickets]
        case "less":
            queue.less(1, mode="now")
            await turns(10)
            for ticket in tickets:
                assert ticket.done() or ticket.cancel()
        case "kill":
            await queue.kill()
        case _:
            await queue.stop(0)
    ended.append(True)
    await asyncio.sleep(2)
    assert all(ticket.done() for ticket in tickets)
    assert True not in begun_after_its_end
    await queue.stop(0)


@pytest.mark.virtual
async def test_a_chain_of_submissions_is_no_chain_of_calls() -> None:
    """Each of thousands of jobs submits the next, and workers are free for all of them."""
    ends: list[int] = []

    async def job(left: int) -> None:
        ends.append(left)
        if left:
            await queue.submit(job, left - 1)

    queue: Any = Queue(workers=3000)
    async with queue:
        await queue.submit(job, 2999)
        await asyncio.sleep(1)
    assert list(range(2999, -1, -1)) == ends


@pytest.mark.virtual
async def test_submissions_do_not_nest() -> None:
    """However long a chain of jobs that each submit the next, none begins deep inside the others."""
    depths: list[int] = []

    async def job(left: int) -> None:
        frame, depth = sys._getframe(), 0
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        depths.append(depth)
        if left:
            await queue.submit(job, left - 1)

    queue: Any = Queue(workers=50)
    async with queue:
        await queue.submit(job, 49)
        await asyncio.sleep(1)
    assert 50 == len(depths)
    assert max(depths) - min(depths) < 50


@pytest.mark.virtual
async def test_an_entered_context_can_be_submitted_from() -> None:
    """A job starts in a copy of the context that asks, even where that one is entered at the moment."""
    context = contextvars.copy_context()
    async with Queue(workers=3) as queue:
        tickets: list[Any] = context.run(lambda: [queue.submit_nowait(one), queue.submit_nowait(one)])
        assert [1, 1] == [await ticket for ticket in tickets]


@pytest.mark.virtual
@pytest.mark.parametrize("then", ["stop", "kill", "less", "cancel"])
async def test_whoever_cleans_up_is_left_alone(then: str) -> None:
    """A job that has been cancelled once is not cancelled again by whoever comes next, as long as it has its grace."""
    cleaned: list[bool] = []

    async def job() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.5)
            cleaned.append(True)

    queue: Any = Queue(workers=2)
    await queue.start()
    tickets = [await queue.submit(job) for _ in range(2)]
    await asyncio.sleep(1)
    assert [True, True] == [ticket.cancel() for ticket in tickets]
    await asyncio.sleep(0.25)
    match then:
        case "cancel":
            assert [False, False] == [ticket.cancel() for ticket in tickets]
        case "less":
            queue.less(1, mode="now")
        case _:
            await (queue.kill() if then == "kill" else queue.stop(0))
    await asyncio.sleep(1)
    assert [True, True] == cleaned
    assert [Status.CANCELLED] * 2 == [ticket.status for ticket in tickets]
    await queue.stop(0)


@pytest.mark.virtual
async def test_an_attempt_begins_in_the_step_in_which_another_ends() -> None:
    """A run that is tried again at once takes nothing over from its last attempt, which is not quite over."""
    seen: list[str] = []

    async def job() -> int:
        seen.append(variable.get())
        variable.set(f"attempt {len(seen)}")
        await asyncio.sleep(1)
        if len(seen) < 3:
            raise OSError
        return len(seen)

    async with Queue(retry=rc.Retry(OSError, retries=5, backoff=rc.Constant(0))) as queue:
        assert 3 == await queue.run(job)
        await asyncio.sleep(1)


# --- many ---------------------------------------------------------------------------------


async def many(count: int) -> int:
    """How many functions are called for it when so many idle workers are told to stop."""
    calls = 0

    def count_call(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    queue: Any = Queue(workers=count)
    await queue.start()
    assert count == queue.stats().free
    sys.setprofile(count_call)
    try:
        await queue.stop()
    finally:
        sys.setprofile(None)
    assert 0 == queue.stats().alive
    return calls


def test_many_workers_stop_at_the_cost_of_one_each() -> None:
    """Stopping neither recurses nor looks at all workers for each."""
    few, lots = (run_virtual(many, count) for count in (100, 1600))
    assert lots <= 16 * few + 1000


@pytest.mark.virtual
async def test_thousands_of_workers_come_and_go_while_jobs_resize() -> None:
    """A job that starts at once and resizes the group it is hired for brings no recursion about."""

    async def job(number: int) -> None:
        queue.resize(2000 - number % 2)

    queue: Any = Queue(workers=1, max_workers=2000)
    async with queue:
        tickets = await queue.submit_many(job, range(500))
        for ticket in tickets:
            await ticket
        await queue.resize(1)
        assert 1 == queue.stats().alive


def submit_and_cancel(queue: Any, count: int) -> None:
    """Submit so many, then cancel them."""
    tickets = [queue.submit_nowait(one) for _ in range(count)]
    for ticket in tickets:
        ticket.cancel()


@pytest.mark.virtual
async def test_cancelled_tickets_do_not_pile_up_behind_a_worker_that_hangs() -> None:
    """What nobody waits for any more is forgotten, also where no worker comes by."""

    async def hang() -> None:
        await asyncio.sleep(10_000)

    async with Queue() as queue:
        first = await queue.submit(hang)
        kind = type(first)
        for _ in range(20):
            submit_and_cancel(queue, 500)
        gc.collect()
        left = sum(type(thing) is kind for thing in gc.get_objects())
        assert left <= 200
        assert 0 == queue.stats().queued
        first.cancel()


# --- who is who ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_queued_job_sees_its_submitters_context() -> None:
    """Whoever has it started: each job sees the variables of whoever submitted it, in a copy of its own."""

    async def job() -> str:
        seen = variable.get()
        variable.set("the job's")
        await asyncio.sleep(1)
        return seen

    async def ask(name: str) -> Any:
        variable.set(name)
        return [await queue.submit(job) for _ in range(2)]

    async with Queue() as queue:
        asked = await asyncio.gather(*(ask(name) for name in "abc"))
        assert [["a"] * 2, ["b"] * 2, ["c"] * 2] == [[await ticket for ticket in tickets] for tickets in asked]
    assert "nobody's" == variable.get()


@pytest.mark.virtual
@pytest.mark.parametrize("wait", ["value", "outcome"])
async def test_one_of_several_who_wait_for_a_ticket_gives_up(wait: str) -> None:
    """Its cancellation is its own: the run goes on, and the others get what they wait for."""

    async def job() -> str:
        await asyncio.sleep(10)
        return "done"

    async with Queue() as queue:
        ticket = await queue.submit(job)

        async def waits() -> object:
            return await ticket if wait == "value" else (await ticket.outcome()).value

        waiting = [asyncio.ensure_future(waits()) for _ in range(3)]
        await asyncio.sleep(1)
        waiting[1].cancel()
        assert ["done", "done"] == [await waiting[0], await waiting[2]]
        assert waiting[1].cancelled()


@pytest.mark.virtual
async def test_what_a_job_does_to_its_task_does_not_reach_the_next() -> None:
    """Neither a cancellation that came too late nor one that was swallowed is left to whoever comes after."""
    seen: list[tuple[int, str]] = []

    def task() -> asyncio.Task[Any]:
        found = asyncio.current_task()
        assert found is not None
        return found

    async def cancels_itself() -> None:
        task().cancel()

    async def swallows() -> None:
        task().cancel()
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            variable.set("left behind")

    async def looks() -> None:
        seen.append((task().cancelling(), variable.get()))
        await asyncio.sleep(1)

    async with Queue() as queue:
        tickets = [queue.submit_nowait(job) for job in (cancels_itself, looks, swallows, looks)]
        outcomes = [await ticket.outcome() for ticket in tickets]
    assert [Status.SUCCEEDED] * 3 == [outcome.status for outcome in outcomes[1:]]
    assert [(0, "nobody's")] * 2 == seen


@pytest.mark.virtual
async def test_a_cancellation_that_nobody_asked_for_is_a_failure_for_good() -> None:
    """No retry rule and no verdict on the resource is asked about it, and it is raised as a crash."""
    asked: list[BaseException] = []

    def healthy(error: BaseException) -> bool:
        asked.append(error)
        return False

    async def job() -> None:
        raise asyncio.CancelledError("by itself")

    def worth(error: BaseException) -> bool:
        asked.append(error)
        return True

    rule = rc.Retry(when=worth, retries=5)
    async with Queue(healthy=healthy, retry=rule) as queue:
        outcome = await (await queue.submit(job)).outcome()
    assert (Status.FAILED, 1) == (outcome.status, outcome.attempts)
    assert [] == asked
