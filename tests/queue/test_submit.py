"""Submitting: what is accepted and what is not, room and who waits for it, and what happens where there is none."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from typing import Any

import pytest
from queue_made import Gate, Things, give, rounds, script, take, use

import runcrew as rc

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def fill(queue: rc.Queue[Any], gate: Gate, waiting: int) -> list[rc.Ticket[Any]]:
    """Keep the only worker busy, and let so many wait behind it."""
    tickets = [queue.submit_nowait(gate, number) for number in range(waiting + 1)]
    await rounds()
    assert waiting == queue.stats().queued
    return tickets


# --- one after the other --------------------------------------------------------------------


@pytest.mark.parity("T5.1", "T5.19")
@pytest.mark.virtual
async def test_run_waits_for_the_value_and_serves_in_the_order_of_coming() -> None:
    """`run` gives the value of its job; with one worker jobs are done in the order of their submission."""
    order: list[int] = []

    async def job(number: int) -> str:
        order.append(number)
        await asyncio.sleep(1)
        return f"did {number}"

    async with rc.Queue("db", workers=1) as queue:
        values = await asyncio.gather(*(queue.run(job, number) for number in range(5)))
    assert [f"did {number}" for number in range(5)] == values
    assert [0, 1, 2, 3, 4] == order


@pytest.mark.parity("T5.24")
@pytest.mark.virtual
async def test_the_error_of_a_job_is_raised_as_it_is() -> None:
    """A job that fails raises its very own exception object to whoever waits, and its worker goes on."""
    error = KeyError("mine")
    things, fails = Things(), script(error)
    async with rc.Queue("db", resource=things) as queue:
        with pytest.raises(KeyError) as caught:
            await queue.run(fails)
        assert error is caught.value
        assert 1 == await queue.run(use)
    assert 1 == len(things.made)


@pytest.mark.defect("D5.28")
@pytest.mark.virtual
async def test_every_error_of_its_own_is_told_by_its_class() -> None:
    """Each refusal has a class of its own that callers can name; none has to be told by its text."""
    gate = Gate()
    queue = rc.Queue("db", workers=1, maxsize=1)
    with pytest.raises(rc.NotStarted):
        queue.submit_nowait(gate)
    await queue.start()
    await fill(queue, gate, 1)
    with pytest.raises(rc.QueueFull) as full:
        queue.submit_nowait(gate)
    assert isinstance(full.value, rc.CapacityError)
    stopping = asyncio.ensure_future(queue.stop())
    await rounds()
    with pytest.raises(rc.ServiceStopping):
        queue.submit_nowait(gate)
    gate.open()
    await stopping
    with pytest.raises(rc.ServiceStopped):
        await queue.run(gate)


@pytest.mark.virtual
async def test_a_job_sees_the_context_of_its_submitter_and_changes_only_its_own() -> None:
    """Each run has a copy of the context variables of whoever submitted it, as they were then."""

    async def look() -> str:
        seen = who.get()
        who.set("a job")
        return seen

    async with rc.Queue("db", workers=1) as queue:
        tickets: list[rc.Ticket[str]] = []
        for name in ("ann", "bob"):
            who.set(name)
            tickets.append(await queue.submit(look))
        who.set("somebody else")
        assert ["ann", "bob"] == [await ticket for ticket in tickets]
        assert "somebody else" == who.get()


@pytest.mark.virtual
async def test_keywords_for_the_job_go_through_partial() -> None:
    """A partial, a bound method and an object with `__call__` are jobs like any function."""

    class Account:
        async def add(self, number: int, *, twice: bool = False) -> int:
            return number * (2 if twice else 1)

    async with rc.Queue("db") as queue:
        assert 14 == await queue.run(functools.partial(Account().add, 7, twice=True))
        assert 7 == await queue.run(Account().add, 7)
        assert "it" == await queue.run(script("it"))


@pytest.mark.parametrize("given", [int, "a name", iter(range(3))])
@pytest.mark.virtual
async def test_what_can_never_be_a_job_is_refused_at_once(given: Any) -> None:
    """A class, a string or a generator object is refused by every way in, and nothing has been accepted."""
    async with rc.Queue("db") as queue:
        with pytest.raises(rc.NotAJob):
            queue.submit_nowait(given)
        with pytest.raises(rc.NotAJob):
            await queue.submit(given)
        with pytest.raises(rc.NotAJob):
            await queue.run_now(given)
        assert 0 == queue.stats().runs.begun


# --- room ---------------------------------------------------------------------------------


@pytest.mark.parity("T5.20")
@pytest.mark.virtual
async def test_a_full_queue_lets_its_callers_wait_in_the_order_of_coming() -> None:
    """Without room `submit` waits, nobody is refused, and who came first goes on first."""
    gate, order = Gate(), list[int]()
    async with rc.Queue("db", workers=1, maxsize=2) as queue:
        await fill(queue, gate, 2)

        async def client(number: int) -> None:
            ticket = await queue.submit(gate, 10 + number)
            order.append(number)
            await ticket

        clients = [asyncio.ensure_future(client(number)) for number in range(4)]
        await rounds()
        assert ([], 4, 2) == (order, queue.stats().submitters, queue.stats().queued)
        gate.open()
        await asyncio.gather(*clients)
    assert [0, 1, 2, 3] == order
    assert [0, 1, 2, 10, 11, 12, 13] == gate.ended


@pytest.mark.parity("T5.20", "T5.23")
@pytest.mark.defect("D5.14")
@pytest.mark.virtual
async def test_who_waits_for_room_is_let_go_by_a_stop() -> None:
    """A stop lets those go who wait for room: nothing of theirs was submitted, and they are told why."""
    gate = Gate()
    queue = rc.Queue("db", workers=1, maxsize=1)
    await queue.start()
    await fill(queue, gate, 1)
    waits = asyncio.ensure_future(queue.submit(gate, "late"))
    await rounds()
    stopping = asyncio.ensure_future(queue.stop())
    with pytest.raises(rc.ServiceStopping):
        await waits
    gate.open()
    await stopping
    assert [0, 1] == gate.ended


@pytest.mark.defect("D5.29")
@pytest.mark.virtual
async def test_waiting_for_room_can_be_given_up() -> None:
    """Cancelled while it waits for room, `submit` has submitted nothing, and its place goes to the next."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=1) as queue:
        await fill(queue, gate, 1)
        first, second = (asyncio.ensure_future(queue.submit(gate, name)) for name in ("first", "second"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await first
        await rounds()
        assert 1 == queue.stats().submitters
        gate.open()
        await (await second)
    assert [0, 1, "second"] == gate.ended


@pytest.mark.virtual
async def test_who_is_cancelled_with_room_in_hand_passes_it_on() -> None:
    """A submitter that has been promised room and is cancelled before it goes on leaves the room to the next."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=1) as queue:
        tickets = await fill(queue, gate, 1)
        first, second = (asyncio.ensure_future(queue.submit(give, name)) for name in ("first", "second"))
        await rounds()
        assert tickets[1].cancel()  # there is room now, and it has been promised to the first one
        first.cancel()
        await rounds()
        assert first.cancelled()
        assert second.done()
        gate.open()
        assert "second" == await second.result()


@pytest.mark.virtual
async def test_nobody_overtakes_those_who_wait_for_room() -> None:
    """Room that has been promised is not taken by `submit_nowait`, nor by a newcomer."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=1) as queue:
        tickets = await fill(queue, gate, 1)
        waits = asyncio.ensure_future(queue.submit(give, "first"))
        await rounds()
        assert tickets[1].cancel()
        with pytest.raises(rc.QueueFull):
            queue.submit_nowait(give, "pushes")
        gate.open()
        assert "first" == await (await waits)


@pytest.mark.defect("D5.30")
@pytest.mark.virtual
async def test_a_full_queue_grows_no_further_whoever_comes() -> None:
    """No way in lets more tickets wait than may: who does not wait for room is refused, and nothing is kept of it."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=3) as queue:
        await fill(queue, gate, 3)
        tasks = len(asyncio.all_tasks())
        for _ in range(100):
            with pytest.raises(rc.QueueFull, match="db is full: 3 of 3 tickets wait"):
                queue.submit_nowait(gate)
        stats = queue.stats()
        assert (3, 0, 4, tasks) == (stats.queued, stats.submitters, stats.runs.begun, len(asyncio.all_tasks()))
        gate.open()


@pytest.mark.virtual
async def test_reject_refuses_by_both_ways_in() -> None:
    """With overflow="reject", `submit` raises QueueFull as `submit_nowait` does, and nobody waits."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=1, overflow="reject") as queue:
        await fill(queue, gate, 1)
        with pytest.raises(rc.QueueFull):
            await queue.submit(gate)
        with pytest.raises(rc.QueueFull):
            await queue.run(gate)
        gate.open()


@pytest.mark.virtual
async def test_drop_oldest_makes_room_by_the_least_urgent_and_oldest() -> None:
    """The ticket that is dropped ends as skipped, says why, and is counted; the new one has its place."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=2, overflow="drop_oldest") as queue:
        running = await queue.submit(gate, "running")
        await rounds()
        high = await queue.submit(gate, "high", priority=rc.HIGH)
        normal = await queue.submit(gate, "normal")
        newer = await queue.submit(gate, "newer")
        assert "skipped" == normal.status
        with pytest.raises(rc.RunSkipped, match=r"dropped: the queue is full \(2\), and a newer one came"):
            await normal
        lowest = await queue.submit(gate, "lowest", priority=rc.LOW)
        assert "skipped" == lowest.status, "it is less urgent than all that wait"
        assert (2, 2) == (queue.stats().dropped, queue.stats().runs.skipped)
        gate.open()
        assert ["running", "high", "newer"] == [await ticket for ticket in (running, high, newer)]


@pytest.mark.virtual
async def test_drop_newest_ends_the_one_that_comes() -> None:
    """With overflow="drop_newest" the new ticket is there, and has ended as skipped; those that wait stay."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=1, overflow="drop_newest") as queue:
        tickets = await fill(queue, gate, 1)
        late = await queue.submit(gate, "late", priority=rc.HIGH)
        assert "skipped" == late.status
        assert 1 == queue.stats().dropped
        gate.open()
        assert [0, 1] == [await ticket for ticket in tickets]


@pytest.mark.virtual
async def test_a_maxsize_of_zero_takes_what_a_free_worker_takes_at_once() -> None:
    """With maxsize=0 nothing waits: a free worker takes a ticket, and without one it is refused."""
    gate = Gate()
    async with rc.Queue("db", workers=2, maxsize=0) as queue:
        tickets = [queue.submit_nowait(gate, number) for number in range(2)]
        await rounds()
        with pytest.raises(rc.QueueFull):
            queue.submit_nowait(gate)
        gate.open()
        assert [0, 1] == [await ticket for ticket in tickets]
        assert 5 == await queue.run(give, 5)


@pytest.mark.virtual
async def test_a_maxsize_of_none_limits_nothing() -> None:
    """With maxsize=None as many wait as come."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=None) as queue:
        tickets = [queue.submit_nowait(gate, number) for number in range(100_500)]
        assert queue.stats().maxsize is None
        gate.open()
        assert list(range(100_500)) == [await ticket for ticket in tickets]


@pytest.mark.parametrize("maxsize", [0, 2])
@pytest.mark.virtual
async def test_what_waits_for_its_delay_takes_room(maxsize: int) -> None:
    """A ticket with a delay waits like any other: an idle worker that will not take it makes no room for it."""
    async with rc.Queue("db", workers=1, maxsize=maxsize) as queue:
        for _ in range(maxsize):
            queue.submit_nowait(take, 0.0, delay="1m")
        with pytest.raises(rc.QueueFull):
            queue.submit_nowait(take, 0.0, delay="1m")
        assert maxsize == queue.stats().delayed
        await queue.kill()


@pytest.mark.virtual
async def test_a_delayed_ticket_that_waits_for_room_is_let_in_when_there_is_some() -> None:
    """`submit` with a delay waits for room as others do, and the delay counts from acceptance."""
    began = asyncio.get_running_loop().time()
    async with rc.Queue("db", workers=1, maxsize=1) as queue:
        queue.submit_nowait(take, 0.0, delay=10)
        ticket = await queue.submit(take, 0.0, delay=5)
        await ticket
        assert began + 15 == asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_a_job_that_submits_to_its_own_full_queue_is_refused_and_does_not_wait() -> None:
    """Waiting for room that a job may hold itself would be for ever: it gets QueueFull at once."""
    async with rc.Queue("db", workers=1, maxsize=1) as queue:

        async def parent() -> str:
            await queue.submit(give, 1)
            try:
                await queue.submit(give, 2)
            except rc.QueueFull as error:
                return str(error)
            return "it waited"

        said = await queue.run(parent)
    assert "would wait for room" in said


# --- from elsewhere ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_another_thread_is_told_where_the_queue_lives() -> None:
    """Submitting from a plain thread raises WrongLoop, which names the remedy."""
    said: list[str] = []
    async with rc.Queue("db") as queue:

        def elsewhere() -> None:
            try:
                queue.submit_nowait(give, 1)
            except rc.WrongLoop as error:
                said.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert 1 == len(said)
    assert "call_soon_threadsafe" in said[0]
    assert 0 == queue.stats().runs.begun
