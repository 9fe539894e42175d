"""The end of a queue: stop and kill, in any order and from anywhere; what they finish, cut short and report."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
from queue_made import Broken, Gate, Things, give, is_healthy, now, rounds, take, use

import runcrew as rc
from runcrew.clock import current
from runcrew.lifecycle import StopReport
from runcrew.testing import run_virtual


async def loaded(queue: rc.Queue[Any], running: int = 1, waiting: int = 3, span: float = 2.0) -> list[rc.Ticket[Any]]:
    """Start it, and let so many run and so many wait."""
    await queue.start()
    tickets = [queue.submit_nowait(take, span) for _ in range(running + waiting)]
    await rounds()
    assert (running, waiting) == (queue.stats().running, queue.stats().queued)
    return tickets


async def statuses(tickets: list[rc.Ticket[Any]]) -> list[str]:
    """How each of them ended."""
    return [(await ticket.outcome()).status.value for ticket in tickets]


# --- stop ---------------------------------------------------------------------------------------


@pytest.mark.parity("T5.49", "T5.53")
@pytest.mark.virtual
async def test_a_stop_finishes_what_was_accepted_and_takes_everything_down() -> None:
    """Queued and running runs end of their own, new ones are refused, resources are gone, all live figures are zero."""
    things = Things()
    queue = rc.Queue("db", resource=things, workers=2, spares=1)
    await queue.start()
    tickets = [queue.submit_nowait(use, 2.0) for _ in range(10)]
    await rounds()
    stopping = asyncio.ensure_future(queue.stop())
    await rounds()
    with pytest.raises(rc.ServiceStopping):
        queue.submit_nowait(use)
    report = await stopping
    assert ["succeeded"] * 10 == await statuses(tickets)
    assert (10, 0, 0, 10.0, True) == (
        report.finished, report.cancelled, report.never_started, report.elapsed, report.clean
    )  # fmt: skip
    assert ([], True) == (things.open, things.balanced)
    stats = queue.stats()
    live = (stats.alive, stats.opening, stats.closing, stats.queued, stats.running, stats.delayed, stats.submitters)
    assert ((0,) * 7, (0, 0)) == (live, (stats.spares_alive, stats.spares_free))
    assert 0 == stats.runs.in_flight


@pytest.mark.defect("D5.12")
@pytest.mark.virtual
async def test_a_stop_cancels_nothing_that_it_promised_to_finish() -> None:
    """While a queue drains, running and queued runs see nothing of it: nobody tells them to end."""
    seen: list[bool] = []

    async def job() -> None:
        await asyncio.sleep(3)
        seen.append(rc.current_run().cancelled)

    def plain() -> None:
        current().block(3)
        seen.append(rc.current_run().cancelled)

    queue = rc.Queue("db", workers=1)
    await queue.start()
    tickets = [queue.submit_nowait(fn) for fn in (job, plain, job, plain)]
    await rounds()
    report = await queue.stop("1m")
    assert ["succeeded"] * 4 == await statuses(tickets)
    assert ([False] * 4, 4) == (seen, report.finished)


@pytest.mark.parity("T5.54")
@pytest.mark.virtual
async def test_resources_are_taken_down_when_the_last_run_has_ended() -> None:
    """In a drain workers and spares stay as long as anything is to be done, and leave together afterwards."""
    things = Things()
    queue = rc.Queue("db", resource=things, workers=2, spares=1)
    await queue.start()
    queue.submit_nowait(use, 5.0)
    stopping = asyncio.ensure_future(queue.stop())
    await asyncio.sleep(4)
    assert 3 == len(things.open)
    await stopping
    assert [] == things.open


@pytest.mark.defect("D5.31")
@pytest.mark.virtual
async def test_a_stop_takes_no_longer_than_it_may() -> None:
    """Past its timeout what runs is cancelled, what waits is interrupted, and `stop` returns."""
    queue = rc.Queue("db", workers=2)
    tickets = await loaded(queue, running=2, waiting=3, span=100.0)
    began = now()
    report = await queue.stop("7s")
    assert began + 7 == now()
    assert ["interrupted"] * 5 == await statuses(tickets)
    assert (0, 2, 3) == (report.finished, report.cancelled, report.never_started)


@pytest.mark.defect("D5.31")
@pytest.mark.virtual
async def test_what_will_not_stop_is_named_and_left() -> None:
    """A job that ignores its cancellation, and one in a thread that does not listen, hold a kill up for seconds."""
    may_end = threading.Event()

    async def stubborn() -> None:
        while not may_end.is_set():
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                pass

    def deaf() -> None:
        current().block(None, may_end)

    queue = rc.Queue("db", workers=2)
    await queue.start()
    tickets = [queue.submit_nowait(job) for job in (stubborn, deaf)]
    await asyncio.sleep(1)
    began = now()
    report = await queue.kill()
    assert now() - began <= 3
    assert ["interrupted"] * 2 == await statuses(tickets)
    whats = " ".join(stuck.what for stuck in report.would_not_stop)
    assert "of stubborn" in whats
    assert "of deaf" in whats
    assert all(stuck.stack for stuck in report.would_not_stop)
    may_end.set()
    await asyncio.sleep(1)
    while queue.stats().abandoned:
        await asyncio.sleep(0.001)


# --- kill ---------------------------------------------------------------------------------------


@pytest.mark.parity("T5.51", "E5.6")
@pytest.mark.virtual
async def test_a_kill_cancels_what_runs_and_drops_what_waits_at_once() -> None:
    """Kill shortly after a long run began: it returns at once, the run was told, nothing is alive."""
    told: list[bool] = []
    things = Things()

    async def job(_: Any) -> None:
        try:
            await asyncio.sleep(5)
        finally:
            told.append(rc.current_run().cancelled)

    queue = rc.Queue("db", resource=things, workers=1)
    await queue.start()
    tickets = [queue.submit_nowait(job) for _ in range(3)]
    await asyncio.sleep(0.05)
    began = now()
    report = await queue.kill()
    assert (began, [True], 0) == (now(), told, queue.stats().alive)
    assert ["interrupted"] * 3 == await statuses(tickets)
    assert (1, 2) == (report.cancelled, report.never_started)
    assert things.balanced


@pytest.mark.defect("D5.2")
@pytest.mark.virtual
async def test_a_kill_leaves_nobody_waiting() -> None:
    """Whoever waits when a queue is killed is let go: in `run`, at a ticket, for room, in a stream, past the queue."""
    gate = Gate()
    queue = rc.Queue("db", workers=1, maxsize=2, max_spares=1)
    await queue.start()
    running, first, second = (queue.submit_nowait(gate, number) for number in range(3))

    async def stream() -> list[Any]:
        return [item async for item in queue.map(gate, range(5))]

    async def at(ticket: rc.Ticket[Any]) -> Any:
        return await ticket

    waits = [queue.run(gate), queue.submit(gate), at(running), at(first), at(second), stream(), queue.run_now(gate)]
    tasks = [asyncio.ensure_future(each) for each in waits]
    await rounds()
    began = now()
    await queue.kill()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert began == now()
    assert all(isinstance(each, rc.RunInterrupted | rc.ServiceStopping) for each in results), results


@pytest.mark.parity("T5.52")
@pytest.mark.defect("D5.1", "D5.15")
@pytest.mark.virtual
async def test_a_kill_cuts_a_stop_short() -> None:
    """Killed while it drains, a queue ends at once, and both calls give the same report."""
    things = Things()
    queue = rc.Queue("db", resource=things, workers=1, spares=1)
    await queue.start()
    tickets = [queue.submit_nowait(use, 100.0) for _ in range(3)]
    stopping = asyncio.ensure_future(queue.stop("10m"))
    await asyncio.sleep(5)
    assert not stopping.done()
    began = now()
    killed = await queue.kill()
    assert began == now()
    assert killed == await stopping
    assert ["interrupted"] * 3 == await statuses(tickets)
    assert things.balanced


@pytest.mark.defect("D5.1")
@pytest.mark.parametrize("order", ["sk", "ks", "ss", "kk", "sksk", "kssk"])
@pytest.mark.virtual
async def test_stop_and_kill_are_safe_in_any_order(order: str) -> None:
    """Before a start, one after the other, all at once: each ends, gives the report, and takes nothing down twice."""
    things = Things()
    queue = rc.Queue("db", resource=things, workers=2, spares=1)
    ends = {"s": queue.stop, "k": queue.kill}
    for each in order:
        await ends[each]()
    await queue.start()
    for each in order:
        assert (await ends[each]()).complete
    await queue.start()
    queue.submit_nowait(use, 1.0)
    reports = await asyncio.gather(*(ends[each]() for each in order))
    assert 1 == len({id(report) for report in reports})
    assert ([], True) == (things.open, things.balanced)
    assert rc.State.STOPPED is queue.state


@pytest.mark.parity("T5.23", "E5.7")
@pytest.mark.parametrize("how", ["stop", "kill", "parent"])
@pytest.mark.virtual
async def test_after_the_end_every_way_in_says_so(how: str) -> None:
    """After a stop, a kill, or the end of the task that ran it, all submissions raise ServiceStopped at once."""
    queue = rc.Queue("db", workers=1)
    if how == "parent":
        parent = asyncio.ensure_future(live(queue))
        await rounds()
        parent.cancel()
        await asyncio.wait([parent])
    else:
        await queue.start()
        await (queue.stop() if how == "stop" else queue.kill())
    for way in (queue.submit(give, 1), queue.run(give, 1), queue.run_now(give, 1), queue.submit_many(give, [1])):
        with pytest.raises(rc.ServiceStopped):
            await way
    with pytest.raises(rc.ServiceStopped):
        queue.submit_nowait(give, 1)
    with pytest.raises(rc.ServiceStopped):
        queue.resize(1)
    with pytest.raises(rc.ServiceStopped):
        await anext(queue.map(give, [1]))


async def live(queue: rc.Queue[Any], tickets: list[rc.Ticket[Any]] | None = None) -> None:
    """Somebody who has a queue for as long as he lives."""
    async with queue:
        if tickets is not None:
            tickets += [queue.submit_nowait(take, 2.0) for _ in range(4)]
        await asyncio.sleep(1000)


@pytest.mark.parity("T5.10")
@pytest.mark.defect("D5.13")
@pytest.mark.virtual
async def test_the_end_of_its_parent_is_a_graceful_one() -> None:
    """Cancelling the task that has the queue drains it: accepted runs end, submissions are refused, nothing is left."""
    things = Things()
    queue = rc.Queue("db", workers=1)
    tickets: list[rc.Ticket[Any]] = []
    parent = asyncio.ensure_future(live(queue, tickets))
    await rounds()
    parent.cancel()
    await rounds()
    assert rc.State.STOPPING is queue.state
    with pytest.raises(rc.ServiceStopping):
        queue.submit_nowait(take, 1.0)
    with pytest.raises(asyncio.CancelledError):
        await parent
    assert ["succeeded"] * 4 == await statuses(tickets)
    assert (rc.State.STOPPED, 0) == (queue.state, queue.stats().alive)
    assert things.balanced


@pytest.mark.parity("T5.10")
@pytest.mark.virtual
async def test_a_supervisor_that_ends_drains_its_queue() -> None:
    """A queue below a supervisor is stopped with it, and finishes what it has accepted."""
    queue = rc.Queue("db", workers=1)
    supervisor = rc.Supervisor(queue)
    await supervisor.start()
    tickets = [queue.submit_nowait(take, 2.0) for _ in range(3)]
    report = await supervisor.stop()
    assert ["succeeded"] * 3 == await statuses(tickets)
    assert 3 == report.finished


# --- races --------------------------------------------------------------------------------------


@pytest.mark.defect("D5.14")
@pytest.mark.parametrize("seed", range(30))
def test_no_submission_gets_lost_in_a_race_with_the_end(seed: int) -> None:
    """Whatever the order of submissions, stop and kill: what was accepted has an outcome, what was not has an error."""

    async def main() -> None:
        chance = random.Random(seed)
        queue = rc.Queue("db", workers=2, maxsize=3)
        await queue.start()
        ended: list[str] = []

        async def client() -> None:
            for _ in range(10):
                await asyncio.sleep(chance.choice([0, 0, 0.5, 1]))
                try:
                    ticket = await queue.submit(take, chance.choice([0.0, 0.5, 1.0]))
                except (rc.ServiceStopping, rc.ServiceStopped):
                    ended.append("refused")
                else:
                    ended.append((await ticket.outcome()).status.value)

        clients = [asyncio.ensure_future(client()) for _ in range(5)]
        await asyncio.sleep(chance.choice([0, 0.5, 1, 1.5, 2]))
        for _ in range(chance.randint(1, 3)):
            clients.append(asyncio.ensure_future(chance.choice([queue.stop, queue.kill])()))  # type: ignore[arg-type]
            await asyncio.sleep(chance.choice([0, 0, 0.5]))
        async with asyncio.timeout(1000):
            await asyncio.gather(*clients)
        stats = queue.stats()
        assert (50, 0) == (len(ended), stats.runs.in_flight)
        assert stats.runs.begun == 50 - ended.count("refused")

    run_virtual(main, seed=seed)


@pytest.mark.defect("D5.35")
@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.virtual
async def test_a_job_may_end_its_own_queue(how: str) -> None:
    """From inside a job, stop and kill begin the end and return at once: nobody waits for himself."""
    reports: list[StopReport] = []
    queue = rc.Queue("db", workers=1)

    async def job() -> str:
        await asyncio.sleep(1)
        reports.append(await (queue.stop() if how == "stop" else queue.kill()))
        await asyncio.sleep(1)
        return "went on"

    await queue.start()
    ticket = await queue.submit(job)
    waiting = queue.submit_nowait(take, 1.0)
    await queue.wait()
    assert [False] == [report.complete for report in reports]
    assert ("succeeded" if how == "stop" else "interrupted") == (await ticket.outcome()).status
    assert ("succeeded" if how == "stop" else "interrupted") == (await waiting.outcome()).status


@pytest.mark.defect("D5.15")
@pytest.mark.virtual
async def test_a_faulty_resource_is_not_used_in_a_drain_either() -> None:
    """While it drains, a verdict takes the worker out, and the rest is done with a new resource."""
    things = Things()
    uses: list[int] = []

    async def job(thing: Any, number: int) -> int:
        uses.append(thing.number)
        await asyncio.sleep(1)
        if number == 1 and thing.number == 1:
            raise Broken
        return number

    queue = rc.Queue(
        "db", resource=things, workers=1, healthy=is_healthy, backoff=rc.Constant(0), requeue_backoff=rc.Constant(0)
    )
    await queue.start()
    tickets = [queue.submit_nowait(job, number) for number in range(4)]
    await rounds()
    report = await queue.stop("1m")
    assert [0, 1, 2, 3] == [await ticket for ticket in tickets]
    assert ([1, 1, 2, 2, 2], 4) == (uses, report.finished)
    assert things.balanced


@pytest.mark.virtual
async def test_a_drain_gives_up_where_nobody_can_ever_come() -> None:
    """Without any worker, and with openings that fail again and again, what waits is interrupted before the timeout."""
    things = Things(*[OSError("down")] * 1000)
    queue = rc.Queue("db", resource=things, workers=1, backoff=rc.Constant("1s"))
    await queue.start()
    tickets = [queue.submit_nowait(use) for _ in range(3)]
    began = now()
    report = await queue.stop("1h")
    assert now() - began < 60
    assert (3, 3) == (report.never_started, queue.stats().runs.interrupted)
    with pytest.raises(rc.RunInterrupted, match="no resource can be made: OSError: down"):
        await tickets[0]


@pytest.mark.virtual
async def test_a_queue_has_another_life_with_nothing_left_over() -> None:
    """Started again, it is empty, counts from the beginning, and makes resources anew."""
    things = Things()
    queue = rc.Queue("db", resource=things, workers=1)
    for life in (1, 2, 3):
        await queue.start()
        assert (life, 0) == (queue.generation, queue.stats().runs.begun)
        assert life == await queue.run(use)
        assert 1 == queue.metrics().arrived
        await queue.stop()
    assert things.balanced


@pytest.mark.virtual
async def test_a_recipe_that_can_never_work_ends_the_queue() -> None:
    """A resource that has `close` and nobody to call it is refused when it is seen: the start fails and says so."""

    class Closable:
        def close(self) -> None:
            """Never called."""

    async def make() -> Closable:
        return Closable()

    queue = rc.Queue("db", resource=make)
    with pytest.raises(rc.ConfigError, match="destroy"):
        await queue.start()
    assert rc.State.FAILED is queue.state


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.virtual
async def test_a_stop_while_it_starts_takes_down_what_has_been_made(moment: float) -> None:
    """However far the start has come: no resource stays, and the start says that it was stopped."""
    things = Things(takes=1.0, leaves=0.5)
    queue = rc.Queue("db", resource=things, workers=2, spares=1)
    starting = asyncio.ensure_future(queue.start())
    await asyncio.sleep(moment)
    await queue.stop()
    with pytest.raises(rc.ServiceStopped):
        await starting
    assert ([], True) == (things.open, things.balanced)
