"""A queue whose workers follow its load."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Any

import pytest
from queue_made import Gate, PlainThings, Things, rounds, use, use_plainly

import runcrew as rc
from runcrew.events import Scaled
from runcrew.queue.scaling import load

#: As quick as tests of a few seconds need it.
QUICK = rc.Scale("100ms", window="1s", wait="100ms", hold="2s", cooldown="500ms")


async def sleeps(seconds: float) -> None:
    """A job without a resource."""
    await asyncio.sleep(seconds)


async def fails(seconds: float = 0.0) -> None:
    """A job that takes its time and fails."""
    await asyncio.sleep(seconds)
    raise ValueError("no such row")


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": rc.Scale()}, "scale: 1 worker.s. at least, and 1 at most, .*max_workers"),
        ({"scale": rc.Scale(), "workers": 4}, "scale: 4 worker.s. at least, and 4 at most, .*max_workers"),
        ({"scale": rc.Scale(), "workers": 4, "max_workers": 4}, "scale: 4 .*max_workers"),
        ({"scale": rc.Scale(), "workers": 0, "max_workers": 1}, "scale: 0 .*max_workers"),
        ({"scale": True, "max_workers": 4}, "scale: True is no rc.Scale"),
        ({"scale": "1s", "max_workers": 4}, "scale: '1s' is no rc.Scale"),
    ],
)
def test_scaling_that_makes_no_sense_is_refused(options: Any, said: str) -> None:
    """Where there is nothing between the least and the most, or no options are given, the queue is not made."""
    with pytest.raises(rc.ConfigError, match=said):
        rc.Queue(**options)


@pytest.mark.parity("T5.7")
@pytest.mark.virtual
async def test_without_being_asked_for_nothing_is_scaled() -> None:
    """With room for more workers and all of the work waiting, their number stays, and no decision is kept."""
    async with rc.Queue(workers=1, max_workers=8) as queue:
        tickets = await queue.submit_many(sleeps, [1.0] * 50)
        await asyncio.sleep(40)
        assert (1, ()) == (queue.size, queue.stats().decisions)
        await asyncio.gather(*tickets)
    assert () == rc.Queue(workers=1, max_workers=8, scale=rc.Scale()).stats().decisions


@pytest.mark.virtual
async def test_a_crew_has_queues_that_scale() -> None:
    """`crew.queue` takes `scale` as all other options."""
    crew = rc.Crew("orders")
    queue = crew.queue("db", workers=1, max_workers=8, scale=QUICK)
    async with crew:
        tickets = [queue.submit_nowait(sleeps, 1.0) for _ in range(20)]
        await asyncio.sleep(2)
        assert 8 == queue.size
        await asyncio.gather(*tickets)


# --- up and down ------------------------------------------------------------------------------------


@pytest.mark.parity("E5.3", "T5.42", "T5.45", "T5.48")
@pytest.mark.defect("D5.5")
@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_workers_come_with_a_load_and_go_with_it(kind: Any) -> None:
    """Of 20 jobs of 100 to 400 ms on two workers more are asked for; they come, an urgent job overtakes the others,
    and later they go again; at the end all is zero."""
    things, chance, ends = kind(), Random(7), list[str]()
    job: Any = use if kind is Things else use_plainly
    events: list[Scaled] = []
    queue = rc.Queue("db", resource=things, workers=2, max_workers=10, scale=QUICK)
    queue.hub.subscribe(events.append, Scaled)
    async with queue:
        tickets = [queue.submit_nowait(job, chance.uniform(0.1, 0.4)) for _ in range(20)]
        await asyncio.sleep(0.7)
        assert 2 < queue.size <= 10
        late = queue.submit_nowait(job, 0.1, priority=rc.HIGH)
        tickets[-1].on_done(lambda _: ends.append("last"))
        late.on_done(lambda _: ends.append("urgent"))
        await asyncio.gather(*tickets, late)
        assert ["urgent", "last"] == ends
        await asyncio.sleep(10)
        assert 2 == queue.size == queue.stats().alive
        stats = queue.stats()
        assert all(one.after != one.before for one in stats.decisions)
        assert stats.decisions[0].before == stats.decisions[-1].after == 2
        assert max(one.after for one in stats.decisions) == len(things.made)
        assert [(e.before, e.after) for e in events] == [(d.before, d.after) for d in stats.decisions]
    stats = queue.stats()
    assert (0, 0, 0, 0, 0) == (stats.alive, stats.busy, stats.queued, stats.running, stats.leaving)
    assert things.balanced


@pytest.mark.defect("D5.6")
@pytest.mark.parametrize("job", [sleeps, fails])
@pytest.mark.virtual
async def test_one_run_in_flight_adds_nobody(job: Any) -> None:
    """A queue that never has more than one run to do keeps its one worker, also where each of them fails."""
    async with rc.Queue(workers=1, max_workers=20, scale=QUICK) as queue:
        for _ in range(200):
            await (await queue.submit(job, 0.35)).outcome()
        assert (1, ()) == (queue.size, queue.stats().decisions)


@pytest.mark.defect("D5.6")
@pytest.mark.virtual
async def test_failed_runs_have_ended() -> None:
    """Jobs that fail count as completed: such a load gets as many workers as one of jobs that succeed, and loses them
    again."""
    sizes = []
    for job in (sleeps, fails):
        async with rc.Queue(workers=1, max_workers=20, scale=QUICK) as queue:
            for _ in range(200):
                queue.submit_nowait(job, 0.2)
                await asyncio.sleep(0.05)
            sizes.append(queue.size)
            await asyncio.sleep(20)
            assert 1 == queue.size
    assert sizes[0] == sizes[1]
    assert 4 <= sizes[0] <= 9


@pytest.mark.parity("T5.46")
@pytest.mark.virtual
async def test_one_that_goes_finishes_its_run() -> None:
    """Where workers go that are at work, each ends its run, takes its resource down and leaves; what waits stays for
    the others, and nothing is lost."""
    things, gate = Things(), Gate()
    job: Any = gate
    async with rc.Queue("db", resource=things, workers=4, max_workers=5, scale=QUICK) as queue:
        tickets = [queue.submit_nowait(job, number) for number in range(4)]
        await rounds()
        queue.desk.group.resize(2)  # type: ignore[union-attr]  # as a decision does it
        later = [queue.submit_nowait(job, number) for number in range(4, 9)]
        await rounds()
        assert (2, 2, 5) == (queue.stats().busy, queue.stats().leaving, queue.stats().queued)
        assert 4 == len(things.open)
        gate.open()
        assert list(range(9)) == await asyncio.gather(*tickets, *later)
        assert 2 <= len(things.open) <= 5
    assert things.balanced


@pytest.mark.virtual
async def test_openings_count_as_there() -> None:
    """While resources take long to be made no more are asked for than what waits could use."""
    things = Things(takes=30.0)
    job: Any = use
    async with rc.Queue("db", resource=things, workers=1, max_workers=20, scale=QUICK) as queue:
        tickets = [queue.submit_nowait(job, 5.0) for _ in range(4)]
        await asyncio.sleep(4)
        assert queue.size <= 2  # nothing has ended: one comes, and is waited for
        await asyncio.gather(*tickets)
        assert len(things.made) <= 4


@pytest.mark.virtual
async def test_a_resource_that_cannot_be_made_is_not_asked_for_again_and_again() -> None:
    """While openings fail the number of workers that there should be does not run away."""
    things = Things(None, *[OSError("no connection")] * 1000)
    job: Any = use
    async with rc.Queue("db", resource=things, workers=1, max_workers=20, scale=QUICK) as queue:
        tickets = [queue.submit_nowait(job, 3600.0) for _ in range(10)]
        await asyncio.sleep(600)
        assert 2 == queue.size
        await queue.kill()
        await asyncio.gather(*tickets, return_exceptions=True)


# --- what counts as waiting ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_what_waits_for_its_time_asks_for_nobody() -> None:
    """Tickets that are to begin later, and those in the pause before a retry, wait for no worker; and when their time
    has come they have not waited yet."""
    retry = rc.Retry(ValueError, retries=2, backoff=rc.Constant("5m"))
    async with rc.Queue(workers=1, max_workers=20, scale=QUICK) as queue:
        for number in range(1, 6):
            queue.submit_nowait(sleeps, 0.05, delay=300 * number)
        failing = queue.submit_nowait(fails, retry=retry)
        desk = queue.desk
        assert desk is not None
        await asyncio.sleep(299.9)
        assert (0, 0.0) == load(desk)[5:7]
        busy = queue.submit_nowait(sleeps, 0.2)
        await asyncio.sleep(0.15)
        seen = load(desk)
        assert seen.waiting == 2  # the first of the delayed ones, and the one that failed
        assert 0.0 < seen.age < 0.1
        await asyncio.gather(busy, failing.outcome())
        await asyncio.sleep(3600)
        assert () == queue.stats().decisions


@pytest.mark.virtual
async def test_what_no_worker_had_is_no_load() -> None:
    """Tickets that are dropped or cancelled while they wait have neither come nor ended."""
    gate: Any = Gate()
    async with rc.Queue(maxsize=2, overflow="drop_oldest", max_workers=2, scale=rc.Scale()) as queue:
        desk = queue.desk
        assert desk is not None
        tickets = [queue.submit_nowait(gate) for _ in range(10)]
        tickets[-1].cancel()
        await rounds()
        seen = load(desk)
        assert (1, 1.0, 0, 2, 1) == (seen.workers, seen.busy, seen.ended, seen.arrived, seen.waiting)
        gate.open()


@pytest.mark.virtual
async def test_the_age_is_that_of_the_one_that_waits_longest() -> None:
    """Of all levels, and also where one that has come back stands before those that have been there."""
    gate: Any = Gate()
    retry = rc.Retry(ValueError, retries=1, backoff=rc.Constant("10s"))
    async with rc.Queue(workers=1, max_workers=2, scale=rc.Scale("1h")) as queue:
        desk = queue.desk
        assert desk is not None
        failing = queue.submit_nowait(fails, retry=retry)
        await asyncio.sleep(1)
        queue.submit_nowait(gate)
        await asyncio.sleep(1)
        low = queue.submit_nowait(sleeps, 0.0, priority=rc.LOW)
        await asyncio.sleep(3)
        queue.submit_nowait(sleeps, 0.0)
        await asyncio.sleep(1)
        assert 4.0 == pytest.approx(load(desk).age)
        await asyncio.sleep(6)
        queue.submit_nowait(sleeps, 0.0, priority=rc.HIGH)
        assert 4 == load(desk).waiting
        assert 10.0 == pytest.approx(load(desk).age)
        low.cancel()
        assert 7.0 == pytest.approx(load(desk).age)
        gate.open()
        await failing.outcome()


# --- by hand, and at the end --------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_pause_by_hand_stays_one() -> None:
    """A queue that was paused, or begins with a pause, gets no worker however long its tickets wait."""
    async with rc.Queue(workers=0, max_workers=20, scale=QUICK) as queue:
        tickets = [queue.submit_nowait(sleeps, 1.0) for _ in range(20)]
        await asyncio.sleep(600)
        assert 0 == queue.size
        queue.resize(1)
        await asyncio.sleep(10)
        assert all(ticket.done() for ticket in tickets)
        queue.resize(0)
        waits = queue.submit_nowait(sleeps, 1.0)
        await asyncio.sleep(600)
        assert (0, False) == (queue.size, waits.done())


@pytest.mark.parametrize("stop", ["stop", "kill"])
@pytest.mark.virtual
async def test_a_queue_that_stops_is_not_scaled(stop: str) -> None:
    """From the beginning of a stop those that are there do what is left: none comes and none goes before its end; and
    the next life is scaled anew."""
    queue = rc.Queue(workers=1, max_workers=4, scale=QUICK)
    await queue.start()
    for _ in range(40):
        queue.submit_nowait(sleeps, 5.0)
    await asyncio.sleep(3)
    assert 4 == queue.size
    stopping = asyncio.ensure_future(getattr(queue, stop)(*([600] if stop == "stop" else [])))
    await rounds()
    before = queue.stats().decisions
    await asyncio.sleep(30)
    assert before == queue.stats().decisions
    assert stop == "kill" or queue.stats().alive == 4
    await stopping
    assert before == queue.stats().decisions
    async with queue:
        assert (1, ()) == (queue.size, queue.stats().decisions)
        tickets = [queue.submit_nowait(sleeps, 1.0) for _ in range(9)]
        await asyncio.sleep(2)
        assert 4 == queue.size
        await asyncio.gather(*tickets)


@pytest.mark.virtual
async def test_a_drain_brings_nobody() -> None:
    """What is left at a stop is done by those that are there, however long it waits."""
    queue = rc.Queue(workers=1, max_workers=4, scale=QUICK)
    await queue.start()
    for _ in range(5):
        queue.submit_nowait(sleeps, 5.0)
    report = await queue.stop(60)
    assert (5, 0) == (report.finished, report.cancelled)
    assert () == queue.stats().decisions


@pytest.mark.virtual
async def test_each_change_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each, with the reason."""
    with caplog.at_level(logging.INFO, "runcrew"):
        async with rc.Queue("db", workers=1, max_workers=2, scale=QUICK) as queue:
            await asyncio.gather(*(queue.run(sleeps, 1.0) for _ in range(4)))
            said = [record.getMessage() for record in caplog.records if "workers:" in record.getMessage()]
            assert [f"db: {decision}" for decision in queue.stats().decisions] == said
            assert said[0].startswith("db: 1 -> 2 workers: 3 wait, one of them for ")
