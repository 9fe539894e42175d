"""What a queue says: events for those who subscribed, and lines in the log."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from queue_made import Broken, Things, give, is_healthy, rounds, script, take, use

import runcrew as rc
from runcrew import events
from runcrew.clock import current


def listening(queue: rc.Queue[Any], *types: type[events.Event]) -> list[events.Event]:
    """What is heard of it from here on."""
    heard: list[events.Event] = []
    queue.subscribe(heard.append, *types)
    return heard


RUNS = (events.RunStarted, events.RunRetried, events.RunRequeued, events.RunEnded)


@pytest.mark.virtual
async def test_a_run_is_told_from_its_beginning_to_its_end() -> None:
    """Started once, retried or put back for each further attempt, ended once, all under the ticket's id."""
    rule = rc.Retry(ValueError, retries=1, backoff=rc.Constant(2))
    async with rc.Queue(
        "db", resource=Things(), healthy=is_healthy, backoff=rc.Constant(0), requeue_backoff=rc.Constant(3), retry=rule
    ) as queue:
        heard = listening(queue, *RUNS)
        ticket = await queue.submit(script(Broken("broken"), ValueError("no"), "fine"))
        await ticket
        await rounds()
        assert ["RunStarted", "RunRequeued", "RunRetried", "RunEnded"] == [type(each).__name__ for each in heard]
        started, requeued, retried, ended = heard
        assert isinstance(started, events.RunStarted)
        assert (ticket.id, "submit", "db") == (started.run, started.cause, started.service)
        assert isinstance(requeued, events.RunRequeued)
        assert (ticket.id, 1, 3.0) == (requeued.run, requeued.attempt, requeued.delay)
        assert isinstance(retried, events.RunRetried)
        assert (ticket.id, 2, 2.0) == (retried.run, retried.attempt, retried.delay)
        assert isinstance(ended, events.RunEnded)
        assert (ticket.id, "succeeded", 3, 5.0) == (ended.run, ended.status, ended.attempts, round(ended.elapsed, 6))


@pytest.mark.virtual
async def test_every_end_is_told_also_of_what_never_began() -> None:
    """Cancelled, timed out, interrupted and dropped tickets have one RunEnded each, with the reason."""
    queue = rc.Queue("db", workers=1, maxsize=3, overflow="drop_newest")
    await queue.start()
    heard = listening(queue, *RUNS)
    queue.submit_nowait(take, 100.0)
    await rounds()
    queue.submit_nowait(take, 1.0).cancel()
    late = queue.submit_nowait(take, 1.0, deadline=2)
    queue.submit_nowait(take, 1.0)
    queue.submit_nowait(take, 1.0)
    queue.submit_nowait(take, 1.0)
    await late.outcome()
    await queue.kill()
    ends = [each for each in heard if isinstance(each, events.RunEnded)]
    assert ["cancelled", "skipped", "timed_out", "interrupted", "interrupted", "interrupted"] == [
        each.status for each in ends
    ]
    assert all(each.reason or each.error for each in ends)
    assert 1 == sum(isinstance(each, events.RunStarted) for each in heard)


@pytest.mark.virtual
async def test_a_call_past_the_queue_is_told_as_such() -> None:
    """The cause of a run of `run_now` is "now"."""
    async with rc.Queue("db", workers=1, spares=1) as queue:
        heard = listening(queue, events.RunStarted)
        await queue.run_now(give, 1)
        await rounds()
        assert ["now"] == [each.cause for each in heard if isinstance(each, events.RunStarted)]


@pytest.mark.parity("T5.66")
@pytest.mark.virtual
async def test_the_life_of_workers_is_told() -> None:
    """A worker that came, one whose resource could not be made, one that left and why."""
    things = Things(None, OSError("refused"))
    queue = rc.Queue("db", resource=things, workers=2, max_workers=3, healthy=is_healthy, backoff=rc.Constant(1))
    heard = listening(queue, events.WorkerOpened, events.WorkerGone, events.OpeningFailed)
    async with queue:
        with pytest.raises(Broken):
            await queue.run(script(Broken("crashed")), at_most_once=True)
        await asyncio.sleep(5)
        await queue.less(1)
    opened = [each for each in heard if isinstance(each, events.WorkerOpened)]
    failed = [each for each in heard if isinstance(each, events.OpeningFailed)]
    numbers = {each.worker for each in opened}
    gone = [each for each in heard if isinstance(each, events.WorkerGone) and each.worker in numbers]
    assert (3, 3, 1) == (len(numbers), len(gone), len(failed))
    assert "refused" in str(failed[0].error)
    assert ["its resource proved faulty", "the group was made smaller", "the group was closed"] == [
        each.reason for each in gone
    ]
    assert numbers == {each.worker for each in gone}


@pytest.mark.virtual
async def test_a_queue_that_is_stalled_is_told_and_so_is_each_thread() -> None:
    """Abandoned threads are told one by one, and that they hold all places."""
    may_end = threading.Event()

    def deaf() -> None:
        current().block(None, may_end)

    async with rc.Queue("db", workers=1, max_abandoned=0) as queue:
        heard = listening(queue, events.ThreadAbandoned, events.Stalled)
        ticket = await queue.submit(deaf, timeout=1)
        with pytest.raises(rc.RunTimeout):
            await ticket
        await rounds()
        assert ["Stalled", "ThreadAbandoned"] == sorted(type(each).__name__ for each in heard)
        assert [ticket.id] == [each.run for each in heard if isinstance(each, events.ThreadAbandoned)]
        may_end.set()
        while queue.stats().abandoned:
            await asyncio.sleep(0.001)


@pytest.mark.parity("T5.66")
@pytest.mark.virtual
async def test_the_log_tells_lifecycle_pick_ups_requeues_and_health(caplog: pytest.LogCaptureFixture) -> None:
    """Through the logger `runcrew`, at levels that fit, with fields that tell the service and the run."""
    caplog.set_level(logging.DEBUG, "runcrew")
    things = Things(None, OSError("refused"), OSError("refused"))
    async with rc.Queue(
        "db", resource=things, workers=2, healthy=is_healthy, backoff=rc.Constant(1), requeue_backoff=rc.Constant(1)
    ) as queue:
        ticket = await queue.submit(script(Broken("crashed"), "fine"))
        await ticket
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "runcrew"]

    def has(level: str, *words: str) -> bool:
        return any(level == found and all(word in text for word in words) for found, text in said)

    assert has("DEBUG", "db: starting -> running")
    assert has("WARNING", "db: a resource could not be made", "refused")
    assert has("DEBUG", ticket.id, "attempt 1", "is taken by worker")
    assert has("INFO", "is faulty", "crashed")
    assert has("WARNING", "attempt 1", ticket.id, "put back 1 of 3")
    assert has("DEBUG", ticket.id, "succeeded")
    assert has("DEBUG", "db: stopping -> stopped")
    fields = [record.__dict__ for record in caplog.records if ticket.id in record.getMessage()]
    assert fields
    assert all(("db", ticket.id) == (field["service"], field["run"]) for field in fields)


@pytest.mark.parity("T5.8")
@pytest.mark.virtual
async def test_on_an_ordinary_day_the_log_has_nothing_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is configured on import, and what goes well is not worth a line of INFO."""
    async with rc.Queue("db", resource=Things(), workers=2, spares=1) as queue:
        await queue.run(use)
        await queue.run_now(use)
    assert [] == [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.virtual
async def test_a_subscriber_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Runs go on, and other subscribers hear all; the fault is in the log."""

    def fails(_: object) -> None:
        raise ValueError("a sink")

    async with rc.Queue("db", workers=1) as queue:
        queue.subscribe(fails)
        heard = listening(queue, events.RunEnded)
        for number in range(3):
            assert number == await queue.run(give, number)
        await rounds()
        assert 3 == len(heard)
    assert any("a sink" in str(record.exc_info) for record in caplog.records)
