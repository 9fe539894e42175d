"""Plain jobs: each worker's own thread, what is handed to it ahead, what is taken back, and what is left behind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from queue_made import Broken, PlainThings, Things, give, is_healthy, now, rounds, take, use_plainly

import runcrew as rc
from runcrew.clock import current
from runcrew.workers import OwnThread


class Deaf:
    """A plain job that does not listen, until it may go."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.begun = 0
        self.ended = 0

    def __call__(self, *_: Any) -> None:
        self.begun += 1
        current().block(None, self.may_go)
        self.ended += 1

    async def let_go(self, queue: rc.Queue[Any]) -> None:
        """Have all of them end that have begun."""
        self.may_go.set()
        while queue.stats().abandoned:
            await asyncio.sleep(0.001)


def block(span: float) -> float:
    """A plain job that takes a while."""
    current().block(span)
    return span


@pytest.mark.parity("T5.19")
@pytest.mark.virtual
async def test_plain_jobs_run_in_threads_and_give_their_values() -> None:
    """A plain job runs in a thread that is not the loop's, and its value comes back in the order that was asked."""
    async with rc.Queue("db", workers=2) as queue:
        assert threading.get_ident() != await queue.run(threading.get_ident)
        tickets = await queue.submit_many(str, ()) + await queue.submit_many(abs, range(-500, 0))
        assert list(range(500, 0, -1)) == [await ticket for ticket in tickets]


@pytest.mark.virtual
async def test_workers_are_at_work_at_the_same_time() -> None:
    """As many plain jobs at once as there are workers, and never more."""
    async with rc.Queue("db", workers=4) as queue:
        began = now()
        await asyncio.gather(*(queue.run(block, 1.0) for _ in range(12)))
        assert began + 3 == now()


@pytest.mark.virtual
async def test_many_short_ones_with_a_long_one_among_them_are_not_held_up() -> None:
    """What was handed over ahead behind a job that turns out long is taken back, and done by another worker."""
    async with rc.Queue("db", workers=2) as queue:
        for _ in range(3):
            await asyncio.gather(*(queue.run(abs, number) for number in range(200)))  # tiny ones: many at once now
        began = now()
        long = await queue.submit(block, 100.0)
        short = await queue.submit_many(abs, range(300))
        for ticket in short:
            await ticket
        assert now() - began < 1
        assert not long.done()
        assert 100.0 == await long


@pytest.mark.virtual
async def test_what_is_handed_over_behind_a_long_job_is_done_by_another_worker() -> None:
    """The rest of a line whose first job takes long is taken back, and done in order by a worker that comes free."""
    long = Deaf()
    turns: list[tuple[int, int]] = []

    def note(number: int) -> None:
        turns.append((number, threading.get_ident()))

    async with rc.Queue("db", workers=1, max_workers=2) as queue:
        for _ in range(3):
            await asyncio.gather(*(queue.run(abs, number) for number in range(200)))
        ours = await queue.run(threading.get_ident)
        first = queue.submit_nowait(long)
        tickets = [queue.submit_nowait(note, number) for number in range(20)]
        while not long.begun:
            await asyncio.sleep(0)
        desk: Any = queue.desk
        line = desk.working()[0].work
        assert 21 == len(line.handed), "all of them were handed over"
        await queue.more()
        for ticket in tickets:
            await ticket
        assert not first.done()
        assert list(range(20)) == [number for number, _ in turns]
        assert ours not in {thread for _, thread in turns}
        long.may_go.set()


@pytest.mark.virtual
async def test_a_thread_that_has_not_come_to_run_keeps_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the first of a line has begun, nothing is taken back, however long the thread takes to come."""
    kept: list[tuple[OwnThread, Any]] = []
    hand = OwnThread.hand
    async with rc.Queue("db", workers=2) as queue:
        for _ in range(3):
            await asyncio.gather(*(queue.run(abs, number) for number in range(200)))
        monkeypatch.setattr(OwnThread, "hand", lambda thread, works: kept.append((thread, works)))
        tickets = [queue.submit_nowait(abs, -number) for number in range(40)]
        await asyncio.sleep(10)
        monkeypatch.undo()
        assert 2 == len(kept), "handed over once"
        assert 40 == sum(len(works) for _, works in kept)
        assert all(handed.waits for _, works in kept for handed in works)
        assert (40, 0) == (queue.stats().queued, queue.stats().running)
        for thread, works in kept:
            hand(thread, works)
        assert list(range(40)) == [await ticket for ticket in tickets]


@pytest.mark.virtual
async def test_what_was_handed_over_and_has_not_begun_still_counts_as_waiting() -> None:
    """Handed to a thread behind another, a run is queued: it can be cancelled, and never begins then."""
    done: list[int] = []
    deaf = Deaf()
    async with rc.Queue("db", workers=1) as queue:
        for _ in range(3):
            await asyncio.gather(*(queue.run(abs, number) for number in range(200)))
        tickets = [queue.submit_nowait(deaf)] + [queue.submit_nowait(done.append, number) for number in range(20)]
        while not deaf.begun:
            await asyncio.sleep(0)
        assert (1, 20) == (queue.stats().running, queue.stats().queued)
        assert all(ticket.cancel() for ticket in tickets[1::2])
        assert ["cancelled"] * 10 == [ticket.status for ticket in tickets[1::2]]
        deaf.may_go.set()
    assert list(range(1, 20, 2)) == done


@pytest.mark.virtual
async def test_it_sees_its_run_and_its_context() -> None:
    """In its thread a job has `current_run()`, of its ticket, and its submitter's context."""

    def look() -> tuple[str, int]:
        run = rc.current_run()
        return run.id, run.attempt

    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(look)
        assert (ticket.id, 1) == await ticket


@pytest.mark.virtual
async def test_a_job_that_returns_an_awaitable_fails() -> None:
    """A plain function that gives a coroutine is told so: nobody would await it."""

    def wrong() -> Any:
        return take(1.0)

    async with rc.Queue("db", workers=1) as queue:
        with pytest.raises(TypeError, match="wrong"):
            await queue.run(wrong)


@pytest.mark.virtual
async def test_a_job_in_a_thread_that_waits_for_its_own_queue_is_told_so() -> None:
    """From a thread the queue lives elsewhere: it is told at once, and nothing hangs."""
    said: list[type[BaseException]] = []

    def job(ticket: rc.Ticket[Any]) -> None:
        for wait in (lambda: queue.submit_nowait(give, 1), lambda: asyncio.run(at(ticket))):
            try:
                wait()
            except rc.RuncrewError as error:
                said.append(type(error))

    async def at(ticket: rc.Ticket[Any]) -> Any:
        return await ticket

    async with rc.Queue("db", workers=1) as queue:
        other = await queue.submit(take, 5.0, delay=5)
        await queue.run(job, other)
        assert 5.0 == await other
    assert [rc.WrongLoop, rc.WrongLoop] == said


# --- what is left behind --------------------------------------------------------------------------


@pytest.mark.defect("D5.31")
@pytest.mark.virtual
async def test_an_abandoned_thread_keeps_its_resource_and_its_worker_is_replaced() -> None:
    """Past its timeout a deaf job is left alone with its resource, which is taken down when it has ended, once."""
    things = PlainThings()
    deaf: Any = Deaf()
    async with rc.Queue("db", resource=things, workers=1, timeout="2s") as queue:
        with pytest.raises(rc.RunTimeout):
            await queue.run(deaf)
        assert 2 == await queue.run(use_plainly)
        assert (1, 1, 2) == (len(queue.stats().abandoned), queue.stats().alive, len(things.open))
        await deaf.let_go(queue)
        await asyncio.sleep(1)
        assert [2] == [thing.number for thing in things.open]
    assert things.balanced


@pytest.mark.defect("D5.31")
@pytest.mark.virtual
async def test_beyond_so_many_abandoned_threads_the_queue_is_stalled() -> None:
    """Only max_abandoned of them are replaced; then nothing runs, tickets end by their deadlines, and it is told."""
    deaf = Deaf()
    async with rc.Queue("db", workers=1, max_abandoned=2) as queue:
        for _ in range(3):
            with pytest.raises(rc.RunTimeout):
                await queue.run(deaf, timeout=1)
        stats = queue.stats()
        assert (True, 3, 0) == (stats.stalled, len(stats.abandoned), stats.alive)
        began = now()
        with pytest.raises(rc.RunTimeout, match="before it began"):
            await queue.run(deaf, deadline=5)
        assert (began + 5, 3) == (now(), deaf.begun)
        waits = await queue.submit(give, "at last")
        await deaf.let_go(queue)
        assert "at last" == await waits
        assert not queue.stats().stalled


@pytest.mark.virtual
async def test_max_abandoned_zero_replaces_none() -> None:
    """Zero means zero: the first abandoned thread holds its place until it has ended."""
    deaf = Deaf()
    async with rc.Queue("db", workers=1, max_abandoned=0) as queue:
        with pytest.raises(rc.RunTimeout):
            await queue.run(deaf, timeout=1)
        assert queue.stats().stalled
        waits = await queue.submit(give, 1)
        await deaf.let_go(queue)
        assert 1 == await waits


@pytest.mark.virtual
async def test_an_abandoned_run_changes_nothing_any_more() -> None:
    """What a job returns or raises after it was given up is nobody's: its outcome and the books stay."""
    deaf = Deaf()

    def late() -> str:
        deaf()
        return "too late"

    async with rc.Queue("db", workers=1) as queue:
        ticket = await queue.submit(late, timeout=1)
        outcome = await ticket.outcome()
        await deaf.let_go(queue)
        await asyncio.sleep(1)
        assert "timed_out" == ticket.status
        assert outcome == ticket.peek()
        assert (0, 1) == (queue.stats().runs.succeeded, queue.stats().runs.timed_out)


# --- kinds ----------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_job_of_the_other_kind_than_its_resource_is_refused() -> None:
    """A plain job with an async resource, or the reverse, is a TypeError that names the remedy; threadsafe lifts it."""

    async def on_loop(thing: Any) -> Any:
        return thing.number

    def in_thread(thing: Any) -> Any:
        return thing.number

    for kind, job in ((Things, in_thread), (PlainThings, on_loop)):
        things: Any = kind()
        async with rc.Queue("db", resource=things) as queue:
            with pytest.raises(TypeError, match="threadsafe=True"):
                queue.submit_nowait(job)
        things = kind()
        async with rc.Queue("db", resource=things, threadsafe=True) as queue:
            assert 1 == await queue.run(job)
        assert things.balanced


@pytest.mark.virtual
async def test_backends_say_where_plain_and_async_jobs_run() -> None:
    """backend="loop" runs plain jobs inline, on the loop; "thread" takes plain ones only."""
    here = threading.get_ident()
    async with rc.Queue("db", backend="loop") as queue:
        assert here == await queue.run(threading.get_ident)
        assert 1 == await queue.run(give, 1)
        with pytest.raises(rc.ConfigError, match="timeout"):
            queue.submit_nowait(threading.get_ident, timeout=1)
    async with rc.Queue("db", backend="thread") as queue:
        assert here != await queue.run(threading.get_ident)
        with pytest.raises(rc.NotAJob, match="thread"):
            queue.submit_nowait(give, 1)


@pytest.mark.virtual
async def test_a_line_of_jobs_behind_a_faulty_resource_goes_to_another() -> None:
    """Jobs that were handed over behind one that proves the resource faulty never run with that resource."""
    things = PlainThings()
    used: list[tuple[int, int]] = []

    def job(thing: Any, number: int) -> int:
        used.append((number, thing.number))
        if number == 5 and thing.number == 1:
            raise Broken
        return number

    async with rc.Queue(
        "db", resource=things, workers=1, healthy=is_healthy, backoff=rc.Constant(0), requeue_backoff=rc.Constant(0)
    ) as queue:
        await asyncio.gather(*(queue.run(job, 1000 + number) for number in range(300)))
        used.clear()
        tickets = await queue.submit_many(job, range(20))
        assert list(range(20)) == [await ticket for ticket in tickets]
    first = [number for number, thing in used if thing == 1]
    assert list(range(6)) == first
    assert things.balanced


@pytest.mark.virtual
async def test_no_thread_is_left_when_it_has_ended() -> None:
    """When `stop` returns, the threads of all workers have ended."""
    before = threading.enumerate()
    queue = rc.Queue("db", resource=PlainThings(), workers=3, spares=2)
    await queue.start()
    await asyncio.gather(*(queue.run(use_plainly, 0.5) for _ in range(9)))
    await queue.run_now(use_plainly)
    await queue.stop()
    assert [] == [thread.name for thread in threading.enumerate() if thread not in before]
    await rounds()
