"""The edges of a queue: limits that overlap, checks that hang, changes in the middle of a start, odd callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

import pytest

import runcrew as rc
from runcrew.testing import run_virtual


async def give(value: int) -> int:
    return value


@pytest.mark.virtual
@pytest.mark.parametrize("first", ["cancel", "timeout"])
async def test_cleaning_up_is_not_cut_off_by_another_limit(first: str) -> None:
    """A job that cleans up because it was told to end is left alone when the next limit of its time passes."""
    cleaned: list[str] = []

    async def job() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(5)
            cleaned.append("all of it")

    async with rc.Queue() as queue:
        ticket = await queue.submit(job, timeout="1s" if first == "timeout" else None, deadline="3s")
        if first == "cancel":
            await asyncio.sleep(1)
            assert ticket.cancel()
        outcome = await ticket.outcome()
        assert (rc.Status.CANCELLED if first == "cancel" else rc.Status.TIMED_OUT) == outcome.status
    assert ["all of it"] == cleaned


@pytest.mark.virtual
async def test_a_resource_whose_check_hangs_is_replaced() -> None:
    """A check that is cut off by the attempt's timeout says that its resource is not to be used again."""
    made: list[int] = []

    async def resource() -> AsyncIterator[int]:
        made.append(len(made) + 1)
        yield made[-1]

    async def check(number: int) -> None:
        if number == 1:
            await asyncio.sleep(3600)

    async def use(number: int) -> int:
        return number

    async with rc.Queue(resource=resource, check=check, timeout="1s") as queue:
        with pytest.raises(rc.RunTimeout):
            await queue.run(use)
        assert 2 == await queue.run(use)
        assert 1 == queue.stats().replaced


@pytest.mark.virtual
async def test_a_plain_generator_is_left_in_the_context_that_it_was_entered_in() -> None:
    """What a resource sets in a context variable before its `yield` can be reset after it."""
    variable: ContextVar[str] = ContextVar("variable", default="outside")
    seen: list[str] = []

    def resource() -> Iterator[None]:
        token = variable.set("inside")
        yield
        seen.append(variable.get())
        variable.reset(token)
        seen.append(variable.get())

    def use(_: None) -> None:
        """Nothing."""

    async with rc.Queue(resource=resource) as queue:
        await queue.run(use)
    assert ["inside", "outside"] == seen
    assert queue.stats().last_error is None


@pytest.mark.virtual
async def test_a_maker_that_forgets_to_await_ends_the_queue() -> None:
    """A plain function that gives a coroutine can never make the resource: nobody waits for it in vain."""

    async def connect() -> int:
        return 1

    async def use(number: int) -> int:
        return number

    queue = rc.Queue(resource=lambda: connect(), destroy=None)
    with pytest.raises(rc.NotAJob, match="write it with `async def`"):
        async with queue:
            await queue.run(use)
    assert rc.State.FAILED == queue.state


@pytest.mark.virtual
async def test_what_cannot_be_called_is_refused_as_a_callback() -> None:
    """`on_done` takes a plain function, and says so at once: at the end it would be too late."""
    async with rc.Queue() as queue:
        ticket = await queue.submit(give, 1, delay="1s")
        for bad in (3, give):
            with pytest.raises(rc.ConfigError, match="on_done"):
                ticket.on_done(bad)  # type: ignore[arg-type]
        assert 1 == await ticket


@pytest.mark.virtual
async def test_a_ticket_is_not_copied() -> None:
    """A copy would be woken by nobody: it is refused."""
    async with rc.Queue() as queue:
        ticket = await queue.submit(give, 1, delay="1s")
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copy.copy(ticket)
        assert 1 == await ticket


@pytest.mark.virtual
async def test_a_change_of_size_during_the_start_does_not_end_the_queue() -> None:
    """Resized while its spare resources are being made, it comes up all the same, with that size."""

    async def resource() -> AsyncIterator[int]:
        await asyncio.sleep(1)
        yield 1

    async def use(number: int) -> int:
        return number

    queue = rc.Queue(resource=resource, workers=2, max_workers=4, spares=1)
    starting = asyncio.create_task(queue.start())
    await asyncio.sleep(0)
    queue.resize(3)
    await starting
    assert (rc.State.RUNNING, 3) == (queue.state, queue.stats().free)
    assert 1 == await queue.run(use)
    await queue.stop()


@pytest.mark.virtual
async def test_a_time_limit_counts_from_the_spare_that_is_fit() -> None:
    """Past the queue: the time of an attempt on a spare that does not pass its check is not held against the next."""
    made: list[int] = []

    async def resource() -> AsyncIterator[int]:
        if made:
            await asyncio.sleep(2)
        made.append(len(made) + 1)
        yield made[-1]

    async def check(number: int) -> bool:
        await asyncio.sleep(1)
        return number > 1

    async def use(number: int) -> int:
        await asyncio.sleep(1.5)
        return number

    async with rc.Queue(resource=resource, check=check, workers=0, max_workers=1, spares=1, max_spares=2) as queue:
        assert 2 == await queue.run_now(use, timeout="3s")


def test_a_job_in_a_thread_is_told_when_its_loop_goes_down() -> None:
    """A loop that is torn down without a stop leaves a thread behind: the job in it sees that it should end."""
    told = threading.Event()
    began = threading.Event()

    def job() -> None:
        run = rc.current_run()
        began.set()
        if run.told_event().wait(10):
            told.set()

    async def main() -> None:
        queue = rc.Queue()
        await queue.start()
        await queue.submit(job)
        while not began.is_set():
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert told.wait(10)


@pytest.mark.virtual
async def test_a_stream_that_is_left_by_a_break_has_ended_behind_it() -> None:
    """With `contextlib.aclosing` what is under way has ended when the block is over."""
    running: list[int] = []

    async def job(number: int) -> int:
        running.append(number)
        try:
            await asyncio.sleep(number)
        finally:
            running.remove(number)
        return number

    async with rc.Queue(workers=3) as queue:
        async with contextlib.aclosing(queue.map(job, [1, 5, 5])) as numbers:
            async for _ in numbers:
                break
        assert [] == running


@pytest.mark.virtual
async def test_a_teardown_interrupts_what_runs() -> None:
    """All tasks cancelled, as by a loop on its way down: what was running ends as interrupted, and not as failed."""
    async with rc.Queue(workers=2) as queue:
        tickets = [await queue.submit(asyncio.sleep, 60) for _ in range(2)]
        me = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not me:
                task.cancel()
        outcomes = [await ticket.outcome() for ticket in tickets]
        assert [rc.Status.INTERRUPTED] * 2 == [outcome.status for outcome in outcomes]
        assert 7 == await queue.run(give, 7), "the loop went on after all"


@pytest.mark.virtual
async def test_a_task_that_does_not_heed_its_cancellation_holds_nothing_up_for_ever() -> None:
    """All tasks cancelled in a loop that goes on: the queue does, too, although one of them never ends."""

    enough = asyncio.Event()

    async def deaf() -> None:
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()

    other, me = asyncio.create_task(deaf()), asyncio.current_task()
    await asyncio.sleep(0)
    async with rc.Queue() as queue:
        await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            if task is not me:
                task.cancel()
        await asyncio.sleep(0.001)  # until it has been noticed
        async with asyncio.timeout(60):
            assert 7 == await queue.run(give, 7)
    assert not other.done()
    enough.set()
    await other


def test_virtual_runs_leave_nothing() -> None:
    """A queue that was never stopped is settled with its loop."""
    tickets: list[rc.Ticket[int]] = []

    async def main() -> None:
        queue = rc.Queue()
        await queue.start()
        tickets.append(await queue.submit(give, 1, delay="1h"))

    run_virtual(main)
    outcome = tickets[0].peek()
    assert outcome is not None
    assert rc.Status.INTERRUPTED == outcome.status
