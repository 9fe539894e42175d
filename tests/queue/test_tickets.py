"""Tickets: what they give to those who wait, to those who only look, and to callbacks."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import traceback
from typing import Any

import pytest
from queue_made import Gate, give, rounds, script, take

import runcrew as rc
from runcrew.job import Outcome


@pytest.mark.parity("T5.32", "T5.40")
@pytest.mark.virtual
async def test_a_ticket_gives_its_value_to_any_number_of_waiters_whenever_they_come() -> None:
    """Those who wait from the beginning, those who come late and those who come twice all get the same."""
    gate = Gate()
    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(gate, "it")
        early = [asyncio.ensure_future(take_of(ticket)) for _ in range(3)]
        await rounds()
        assert not ticket.done()
        gate.open()
        assert ["it"] * 3 == await asyncio.gather(*early)
        await asyncio.sleep(3600)
        assert ("it", "it") == (await ticket, await ticket)
        outcome = await ticket.outcome()
        assert ("it", None, "succeeded") == (outcome.value, outcome.error, outcome.status)
    assert "it" == await ticket, "also after the end of its queue"


async def take_of(ticket: rc.Ticket[Any]) -> Any:
    """Its value."""
    return await ticket


@pytest.mark.parity("T5.32")
@pytest.mark.virtual
async def test_a_failed_ticket_gives_its_error_to_all_and_outcome_never_raises_it() -> None:
    """Awaiting raises the job's own object each time; `outcome()` and `peek()` give it as a value."""
    error = ValueError("no")
    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(script(error))
        for _ in range(2):
            with pytest.raises(ValueError, match="no") as caught:
                await ticket
            assert error is caught.value
        outcome = await ticket.outcome()
        assert (None, error, "failed") == (outcome.value, outcome.error, outcome.status)
        peeked = ticket.peek()
        assert peeked is not None
        assert error is peeked.error


@pytest.mark.parity("T5.40")
@pytest.mark.virtual
async def test_nobody_has_to_read_what_came_of_a_run() -> None:
    """A ticket that nobody looks at holds up nothing, and a failure that nobody reads makes no noise at the loop."""
    async with rc.Queue("db", workers=1) as queue:
        for number in range(100):
            await queue.submit(script(ValueError(number)))
        assert 1 == await queue.run(give, 1)
    assert (100, 1) == (queue.stats().runs.failed, queue.stats().runs.succeeded)


@pytest.mark.defect("D5.32")
@pytest.mark.virtual
async def test_an_outcome_waits_for_its_reader_for_as_long_as_it_takes() -> None:
    """Delivery has no hidden limit of time: who comes a week later gets the value, and so does who has waited."""
    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(give, "it")
        slow = await queue.submit(take, 7 * 86400.0)
        assert 7 * 86400.0 == await slow
        assert "it" == await ticket


@pytest.mark.virtual
async def test_looking_never_waits() -> None:
    """`done`, `status` and `peek` tell where a run is, and nothing before it has ended."""
    gate = Gate()
    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(gate, 1)
        assert (False, None, None) == (ticket.done(), ticket.status, ticket.peek())
        assert re.fullmatch(r"<Ticket .+ of Gate: (waiting|running)>", repr(ticket))
        gate.open()
        await ticket
        assert (True, "succeeded") == (ticket.done(), ticket.status)
        assert repr(ticket).endswith(": succeeded>")
        assert isinstance(ticket.peek(), Outcome)


@pytest.mark.virtual
async def test_a_ticket_has_the_id_that_its_job_sees() -> None:
    """The id of a ticket is that of `current_run()`, different for each, and its name is the job's."""

    async def who() -> str:
        return rc.current_run().id

    async with rc.Queue("db", workers=1) as queue:
        tickets = [await queue.submit(who) for _ in range(3)]
        ids = [await ticket for ticket in tickets]
    assert [ticket.id for ticket in tickets] == ids
    assert 3 == len(set(ids))
    assert "who" == tickets[0].name


@pytest.mark.virtual
async def test_the_outcome_says_when_things_happened() -> None:
    """Acceptance, beginning and end are instants on one clock: the wait and the time that it took follow."""
    async with rc.Queue("db", workers=1) as queue:
        first = await queue.submit(take, 3.0)
        second = await queue.submit(take, 4.0)
        outcome = await second.outcome()
        assert (3.0, 4.0) == (round(outcome.wait, 6), round(outcome.elapsed, 6))
        assert 0.0 == (await first.outcome()).wait
        assert second.queued_at == outcome.queued_at
        assert (1, ()) == (outcome.attempts, outcome.history)


@pytest.mark.virtual
async def test_cancelling_one_waiter_leaves_the_run_and_the_others_alone() -> None:
    """Who gives up waiting for a ticket ends only that one's waiting."""
    gate = Gate()
    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(gate, "it")
        one, other = asyncio.ensure_future(take_of(ticket)), asyncio.ensure_future(take_of(ticket))
        await rounds()
        one.cancel()
        await rounds()
        assert one.cancelled()
        assert not other.done()
        gate.open()
        assert "it" == await other


def frames(error: BaseException) -> list[str]:
    """The names of the functions that its traceback goes through."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


async def fails() -> None:
    """A job that fails by itself."""
    raise ValueError("no")


def fails_plainly() -> None:
    """The same in a thread."""
    raise ValueError("no")


@pytest.mark.parametrize(
    ("job", "options"),
    [
        (fails, {}),
        (fails_plainly, {}),
        (fails, {"retry": rc.Retry(ValueError, retries=1, backoff=rc.Constant(0))}),
        (functools.partial(take, 5.0), {"timeout": 1}),
        (functools.partial(take, 5.0), {"deadline": 1}),
        (functools.partial(take, 5.0), {"delay": 5, "deadline": 1}),
    ],
    ids=["async", "plain", "retried", "timeout", "deadline", "deadline before it began"],
)
@pytest.mark.virtual
async def test_the_traceback_of_an_error_does_not_grow_with_each_await(job: Any, options: dict[str, Any]) -> None:
    """The error is one object, and each that awaits sees the way through the job and to itself, not to all others."""
    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(job, **options)
        outcome = await ticket.outcome()
        error = outcome.error
        assert error is not None
        told: list[list[str]] = []
        for _ in range(20):
            with pytest.raises((ValueError, rc.RunTimeout)) as caught:
                await take_of(ticket)
            assert error is caught.value
            told.append(frames(error))
        assert [told[0]] * 20 == told
        assert 1 == told[0].count("take_of"), "and who awaited is in it"
        if outcome.status == "failed":
            assert told[0][-1].startswith("fails"), "as is the place in the job"


# --- callbacks ------------------------------------------------------------------------------


@pytest.mark.parity("T5.39", "E5.1")
@pytest.mark.virtual
async def test_a_callback_is_called_once_with_what_came_of_it() -> None:
    """`on_done` calls back once for each ticket, after its end, with the outcome there to look at."""
    heard: list[tuple[str, Any]] = []

    def note(ticket: rc.Ticket[Any]) -> None:
        outcome = ticket.peek()
        assert outcome is not None
        heard.append((outcome.status.value, outcome.value if outcome.ok else outcome.error))

    error = ValueError()
    async with rc.Queue("db", workers=2) as queue:
        good, bad = await queue.submit(take, 1.0), await queue.submit(script(error, takes=2.0))
        for ticket in (good, bad):
            ticket.on_done(note)
        assert 1.0 == await good
        await bad.outcome()
        await rounds()
        stats = queue.stats()
        assert (2, 2, 0) == (stats.workers, stats.alive, stats.queued)
    assert [("succeeded", 1.0), ("failed", error)] == heard


@pytest.mark.parity("T5.39")
@pytest.mark.virtual
async def test_a_callback_hears_of_the_end_of_the_queue_too() -> None:
    """Killed or never begun: the callback is called all the same, once."""
    heard: list[Any] = []
    queue = rc.Queue("db", workers=1)
    await queue.start()
    for _ in range(2):
        queue.submit_nowait(take, 100.0).on_done(lambda ticket: heard.append(ticket.status))
    await rounds()
    await queue.kill()
    await rounds()
    assert ["interrupted", "interrupted"] == heard


@pytest.mark.virtual
async def test_a_callback_is_never_called_inside_the_call_that_asks_for_it() -> None:
    """A ticket that has ended calls back soon, and not inside `on_done`; nor inside `submit` or `cancel`."""
    heard: list[Any] = []
    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(give, 1)
        await ticket
        ticket.on_done(heard.append)
        assert [] == heard
        await rounds(2)
        assert [ticket] == heard
        gate = Gate()
        queue.submit_nowait(gate)
        waits = queue.submit_nowait(give, 2)
        waits.on_done(heard.append)
        assert waits.cancel()
        assert [ticket] == heard
        await rounds(2)
        assert [ticket, waits] == heard
        gate.open()


@pytest.mark.defect("D5.19")
@pytest.mark.parametrize("raised", [ValueError("mine"), SystemExit(3)])
@pytest.mark.virtual
async def test_a_callback_that_raises_is_logged_and_hurts_nobody(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """What a callback raises, whatever it is, ends in the log: the other callbacks, the waiters and the queue go on."""
    heard: list[Any] = []

    def fails(_: object) -> None:
        raise raised

    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(take, 1.0)
        ticket.on_done(fails)
        ticket.on_done(heard.append)
        assert 1.0 == await ticket
        await rounds()
        assert [ticket] == heard
        assert 2 == await queue.run(give, 2)
    assert any("a callback of take" in record.getMessage() for record in caplog.records)
    assert {logging.ERROR} == {record.levelno for record in caplog.records}


# --- waiting inside ---------------------------------------------------------------------------


@pytest.mark.defect("D5.34")
@pytest.mark.virtual
async def test_a_job_that_waits_for_its_own_queue_is_told_so_at_once() -> None:
    """In a job, `run`, a ticket and a stream of its own queue raise WouldDeadlock instead of waiting for ever."""
    said: list[str] = []

    async def parent(number: int) -> None:
        ticket = await queue.submit(take, 1.0)
        for wait in (queue.run(give, 1), take_of(ticket), ticket.outcome(), drain(queue.map(give, [1]))):
            try:
                await wait
            except rc.WouldDeadlock as error:
                said.append(f"{number}: {error}")

    async with rc.Queue("db", workers=2) as queue:
        tickets = [await queue.submit(parent, number) for number in range(2)]
        for ticket in tickets:
            await ticket
    assert 8 == len(said)
    assert all("a job of db waits for a ticket of db" in each for each in said)
    assert 4 == queue.stats().runs.succeeded, "and what they have submitted was done"


async def drain(stream: Any) -> list[Any]:
    """All that comes."""
    return [item async for item in stream]


@pytest.mark.virtual
async def test_a_job_may_submit_to_its_own_queue_and_go_on() -> None:
    """`submit` alone never deadlocks: the child is done when a worker is free."""
    async with rc.Queue("db", workers=1) as queue:

        async def parent() -> rc.Ticket[Any]:
            return await queue.submit(give, "child")

        ticket = await queue.run(parent)
        assert "child" == await ticket


@pytest.mark.virtual
async def test_a_job_may_wait_for_another_queue() -> None:
    """Only one's own queue would be a deadlock."""
    async with rc.Queue("one", workers=1) as one, rc.Queue("other", workers=1) as other:

        async def parent() -> Any:
            return await other.run(give, "it")

        assert "it" == await one.run(parent)


@pytest.mark.virtual
async def test_what_a_job_has_looked_at_already_can_be_awaited_inside() -> None:
    """A ticket that has ended gives its value anywhere: nobody waits."""
    async with rc.Queue("db", workers=1) as queue:
        ended = await queue.submit(give, "it")
        await ended

        async def look() -> Any:
            return await ended

        assert "it" == await queue.run(look)
