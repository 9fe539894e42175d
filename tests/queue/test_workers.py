"""Workers and what they own: made once, used by one run at a time, taken down once; and how many there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from queue_made import Broken, Gate, PlainThings, Things, is_healthy, now, rounds, take, use, use_plainly

import runcrew as rc
from runcrew.queue import QueueOptions


@pytest.mark.parity("T5.14", "T5.17", "T5.18")
@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_each_worker_has_a_resource_of_its_own_for_one_run_at_a_time(kind: Any) -> None:
    """Workers make one resource each at the start and spares are apart; no two runs have one at the same time; each
    is taken down once at the end; and those count as alive that have theirs."""
    things = kind()
    job: Any = use if kind is Things else use_plainly
    async with rc.Queue("db", resource=things, workers=3, spares=2) as queue:
        assert 5 == len(things.made)
        assert (3, 2) == (queue.stats().alive, queue.stats().spares_alive)
        await asyncio.gather(*(queue.run(job, 1.0) for _ in range(12)))
        used = [thing for thing in things.made if thing.uses]
        assert ([4] * 3, [1] * 3) == ([thing.uses for thing in used], [thing.most_users for thing in used])
    assert things.balanced
    assert (0, 0, 5, 5) == (queue.stats().alive, queue.stats().spares_alive, queue.stats().opened, queue.stats().closed)


@pytest.mark.parity("T5.18")
@pytest.mark.virtual
async def test_a_worker_counts_once_it_has_its_resource_and_no_longer() -> None:
    """While its resource is made a worker is opening, while it is taken down it is closing; alive is in between."""
    things = Things(takes=5.0, leaves=3.0)
    queue = rc.Queue("db", resource=things, workers=2)
    starting = asyncio.ensure_future(queue.start())
    await asyncio.sleep(1)
    assert (0, 2, 0) == (queue.stats().alive, queue.stats().opening, queue.stats().closing)
    await starting
    assert (2, 0, 0) == (queue.stats().alive, queue.stats().opening, queue.stats().closing)
    stopping = asyncio.ensure_future(queue.stop())
    await asyncio.sleep(1)
    assert (0, 0, 2) == (queue.stats().alive, queue.stats().opening, queue.stats().closing)
    await stopping
    assert (0, 0, 0) == (queue.stats().alive, queue.stats().opening, queue.stats().closing)


@pytest.mark.virtual
async def test_a_plain_resource_lives_in_one_thread() -> None:
    """Made, used and taken down by one thread, which is no other worker's and not the loop's."""
    things = PlainThings()
    async with rc.Queue("db", resource=things, workers=3) as queue:
        await asyncio.gather(*(queue.run(use_plainly, 0.1) for _ in range(30)))
    assert [1] * 3 == [len(thing.threads) for thing in things.made]
    assert 3 == len(set[int]().union(*(thing.threads for thing in things.made)))


# --- openings that fail -------------------------------------------------------------------------


@pytest.mark.parity("T5.15")
@pytest.mark.defect("D5.4")
@pytest.mark.virtual
async def test_a_resource_that_cannot_be_made_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A failed opening is logged and counted, the queue lives on with those that it has, and the worker comes later."""
    things = Things(None, OSError("refused"), OSError("refused"))
    async with rc.Queue("db", resource=things, workers=2, backoff=rc.Constant("10s")) as queue:
        await asyncio.sleep(1)
        stats = queue.stats()
        assert (1, 2) == (stats.alive, stats.failed_openings)
        assert isinstance(stats.last_error, OSError)
        assert 1 == await queue.run(use)
        await asyncio.sleep(11)
        assert 2 == queue.stats().alive
    assert any("a resource could not be made" in record.getMessage() for record in caplog.records)


@pytest.mark.defect("D5.4")
@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_when_all_openings_fail_submissions_wait_for_one_that_does_not(kind: Any) -> None:
    """The start returns when each has tried once; what is submitted meanwhile is done as soon as anybody is there."""
    things = kind(*[OSError("down")] * 20)
    job: Any = use if kind is Things else use_plainly
    async with rc.Queue("db", resource=things, workers=2, backoff=rc.Constant("10s")) as queue:
        assert 0 == queue.stats().alive
        tickets = [queue.submit_nowait(job) for _ in range(5)]
        for ticket in tickets:
            await ticket
        assert 2 == queue.stats().alive


@pytest.mark.defect("D5.4")
@pytest.mark.virtual
async def test_openings_that_fail_come_less_and_less_often() -> None:
    """A backend that is down is tried by one worker at a time, after growing pauses; when it is back all come."""
    things = Things(*[OSError("down")] * 7)
    async with rc.Queue(
        "db", resource=things, workers=4, backoff=rc.Exponential("1s", cap="8s", jitter="none")
    ) as queue:
        async with asyncio.timeout(1000):
            while queue.stats().alive < 4:
                await asyncio.sleep(0.25)
    assert [0.0, 0.0, 0.0] == things.pauses[:3], "all four try at the start"
    assert [1.0, 2.0] == things.pauses[4:6], "then one does; the first at once"
    assert 11 == len(things.asked)


@pytest.mark.parity("T5.16")
@pytest.mark.defect("D5.19")
@pytest.mark.virtual
async def test_a_taking_down_that_fails_is_logged_and_no_error_of_anybody(caplog: pytest.LogCaptureFixture) -> None:
    """What taking down raises is logged as a warning; the stop is clean of it, the runs as well."""
    things = Things()
    things.broken = OSError("cannot close")
    async with rc.Queue("db", resource=things, workers=2) as queue:
        assert await queue.run(use) in (1, 2)
    assert queue.report is not None
    assert () == queue.report.errors
    warned = [record for record in caplog.records if "taking a resource down failed" in record.getMessage()]
    assert ["WARNING"] * 2 == [record.levelname for record in warned]
    assert things.balanced


@pytest.mark.defect("D5.19")
@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_whatever_a_maker_raises_ends_no_process(kind: Any) -> None:
    """A SystemExit from a maker, or from taking down, is one more opening that failed, or a closing."""
    things = kind(SystemExit(3))
    job: Any = use if kind is Things else use_plainly
    async with rc.Queue("db", resource=things, workers=1, backoff=rc.Constant(0)) as queue:
        assert 1 == await queue.run(job)
        things.broken = SystemExit(4)
        assert 1 == queue.stats().failed_openings


@pytest.mark.parity("E5.9")
@pytest.mark.defect("D5.19")
@pytest.mark.parametrize("raised", [ValueError("mine"), SystemExit(3), GeneratorExit(), KeyError("x")])
@pytest.mark.virtual
async def test_whatever_a_job_raises_ends_neither_the_process_nor_its_worker(raised: BaseException) -> None:
    """Async or in a thread, past the queue or in it: the run fails, everybody else goes on."""

    async def fails() -> None:
        raise raised

    def fails_plainly() -> None:
        raise raised

    async with rc.Queue("db", workers=1, spares=1) as queue:
        for job in (fails, fails_plainly):
            outcome = await (await queue.submit(job)).outcome()
            assert ("failed", raised) == (outcome.status, outcome.error)
            with pytest.raises(type(raised) if isinstance(raised, Exception) else rc.JobCrashed):
                await queue.run_now(job)
        assert 1.0 == await queue.run(take, 1.0)
        assert 1 == queue.stats().alive


# --- how many -----------------------------------------------------------------------------------


@pytest.mark.defect("D5.25", "D5.36")
@pytest.mark.virtual
async def test_those_that_come_and_those_that_go_count_against_the_maximum() -> None:
    """However slow resources are made and taken down, there are never more at once than max_workers."""
    things = Things(takes=7.0, leaves=5.0)
    most = 0
    async with rc.Queue("db", resource=things, workers=2, max_workers=4) as queue:
        for size in (4, 1, 4, 0, 3, 4, 2, 4):
            queue.resize(size)
            for _ in range(4):
                await asyncio.sleep(1)
                stats = queue.stats()
                there = stats.alive + stats.opening + stats.closing
                most = max(most, there)
                assert there <= 4
        with pytest.raises(rc.AtMax):
            queue.resize(5)
        with pytest.raises(rc.AtMax):
            queue.more(1)
        await asyncio.sleep(60)
        assert (4, 4) == (queue.stats().alive, queue.size)
    assert 4 == most
    assert things.balanced


@pytest.mark.defect("D5.26")
@pytest.mark.virtual
async def test_a_worker_that_died_is_not_there_to_be_dismissed() -> None:
    """After deaths and replacements, getting smaller dismisses those that live: the number is what was asked for."""
    things = Things()

    async def breaks(thing: Any) -> None:
        raise Broken

    async with rc.Queue(
        "db", resource=things, workers=2, max_workers=6, healthy=is_healthy, requeue=0, backoff=rc.Constant(0)
    ) as queue:
        await queue.more(4)
        for _ in range(10):
            with pytest.raises(Broken):
                await queue.run(breaks)
        await asyncio.sleep(1)
        assert 6 == queue.stats().alive
        assert 2 == await queue.less(4)
        await asyncio.sleep(1)
        assert (2, 2, 10) == (queue.stats().alive, len(things.open), queue.stats().replaced)
    assert things.balanced


@pytest.mark.virtual
async def test_resizing_begins_at_once_and_may_be_awaited() -> None:
    """`more` and `less` act without being awaited; awaited, they give the number that is there when it is done."""
    things = Things(takes=2.0, leaves=1.0)
    async with rc.Queue("db", resource=things, workers=1, max_workers=3) as queue:
        began = now()
        change = queue.more(2)
        assert (3, 2) == (queue.size, queue.stats().opening)
        assert (3, 2.0) == (await change, now() - began)
        assert (1, 3.0) == (await queue.less(2), now() - began)
        queue.resize(2)
        await asyncio.sleep(3)
        assert 2 == queue.stats().alive


@pytest.mark.virtual
async def test_idle_ones_leave_first_and_the_others_after_their_run() -> None:
    """Getting smaller cuts no run short: who is busy ends what it has, takes nothing more, and leaves."""
    gate = Gate()
    async with rc.Queue("db", workers=4) as queue:
        tickets = [queue.submit_nowait(gate, number) for number in range(2)]
        await rounds()
        assert 2 == await queue.less(2)
        change = queue.less(1)
        await rounds()
        assert (1, 2, 1) == (queue.size, queue.stats().alive, queue.stats().leaving)
        queue.submit_nowait(gate, 2)
        gate.open()
        assert 1 == await change
        assert [0, 1] == [await ticket for ticket in tickets]
    assert [0, 1, 2] == sorted(gate.ended)


@pytest.mark.virtual
async def test_now_cuts_the_run_of_one_that_leaves() -> None:
    """With mode="now" the run of a busy worker ends as interrupted, and is not tried again."""
    gate = Gate()
    async with rc.Queue("db", workers=2, retry=rc.Retry(Exception)) as queue:
        tickets = [queue.submit_nowait(gate, number) for number in range(2)]
        await rounds()
        assert 1 == await queue.less(1, mode="now")
        assert ["interrupted"] == [ticket.status for ticket in tickets if ticket.done()]
        gate.open()
    assert 1 == len(gate.ended)


@pytest.mark.virtual
async def test_zero_workers_is_a_pause() -> None:
    """At size 0 what runs is finished, tickets wait, and they are done when there are workers again."""
    gate = Gate()
    async with rc.Queue("db", workers=2) as queue:
        first = queue.submit_nowait(gate, 1)
        await rounds()
        change = queue.resize(0)
        second = queue.submit_nowait(gate, 2)
        gate.open()
        assert 0 == await change
        assert 1 == await first
        await asyncio.sleep(3600)
        assert (False, 1) == (second.done(), queue.stats().queued)
        await queue.resize(1)
        assert 2 == await second


@pytest.mark.virtual
async def test_a_stop_of_a_paused_queue_does_what_it_has_accepted() -> None:
    """A drain brings one worker back for what waits."""
    queue = rc.Queue("db", workers=0, max_workers=1)
    await queue.start()
    tickets = [queue.submit_nowait(take, 1.0) for _ in range(3)]
    await asyncio.sleep(10)
    report = await queue.stop()
    assert (3, [1.0] * 3) == (report.finished, [await ticket for ticket in tickets])


@pytest.mark.virtual
async def test_less_than_none_is_refused() -> None:
    """Getting smaller than there are raises AtMin, and changes nothing."""
    async with rc.Queue("db", workers=2) as queue:
        with pytest.raises(rc.AtMin):
            queue.less(3)
        assert 2 == queue.size


@pytest.mark.virtual
async def test_a_job_that_resizes_its_queue_is_not_waited_for_by_itself() -> None:
    """A job may begin a change; awaiting one that might wait for that job is a WouldDeadlock."""
    async with rc.Queue("db", workers=1, max_workers=2) as queue:

        async def job() -> str:
            queue.more()
            queue.less()
            change = queue.less()
            with pytest.raises(rc.WouldDeadlock):
                await change
            return "went on"

        assert "went on" == await queue.run(job)
        assert 0 == queue.size


# --- how long, and how good ---------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_resource_is_tried_before_it_is_used_and_replaced_if_unfit() -> None:
    """Where the check says no the resource is taken down, the run goes to a new one, and nothing was spent."""
    things = Things()
    bad: list[int] = []

    async with rc.Queue(
        "db", resource=things, workers=1, check=lambda thing: thing.number not in bad, backoff=rc.Constant(0),
        requeue=0,
    ) as queue:  # fmt: skip
        assert 1 == await queue.run(use)
        bad.append(1)
        ticket = await queue.submit(use, at_most_once=True)
        assert 2 == await ticket
        assert 1 == (await ticket.outcome()).attempts
        assert (1, 0) == (queue.stats().replaced, queue.stats().requeued)
    assert things.balanced


@pytest.mark.virtual
async def test_resources_that_are_too_old_or_too_idle_are_replaced() -> None:
    """max_age and max_idle take a resource down when it is not in use, and make another."""
    limits: list[QueueOptions] = [{"max_age": "10s"}, {"max_idle": "10s"}]
    for options in limits:
        things = Things()
        async with rc.Queue("db", resource=things, **options) as queue:
            long = await queue.submit(use, 8.0)
            await long
            await asyncio.sleep(4)
            assert ("max_age" in options) is (len(things.made) == 2)
            await asyncio.sleep(10)
            assert 1 == len(things.open)
            assert len(things.made) >= 2
        assert things.balanced


@pytest.mark.virtual
async def test_the_context_manager_of_a_library_is_a_resource() -> None:
    """What is decorated with `asynccontextmanager` is entered and left like a generator function."""
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def connection() -> AsyncIterator[str]:
        steps.append("in")
        yield "it"
        steps.append("out")

    async def job(resource: str) -> str:
        return resource

    async with rc.Queue("db", resource=connection) as queue:
        assert "it" == await queue.run(job)
    assert ["in", "out"] == steps
