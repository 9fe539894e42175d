"""Ends that come from here: timeouts, cancelling, stops, fewer workers. A process is killed for its own run only."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import process_jobs as jobs
import pytest
from process_world import (
    at_target,
    is_alive,
    marked,
    nothing_left_of_processes,
    parent_of,
    real,
    servers,
    until,
    warm,
)

import runcrew as rc

pytestmark = [pytest.mark.realtime]
__all__ = ["nothing_left_of_processes"]

Free = rc.Queue[Any]


def processes(**options: Any) -> Free:
    """A queue whose jobs run in processes."""
    return rc.Queue("hash", backend="process", **options)


async def outcomes(tickets: list[rc.Ticket[Any]]) -> list[rc.Outcome[Any]]:
    """What comes of all of them."""
    return [await ticket.outcome() for ticket in tickets]


def begun(path: Path | str, word: str) -> Callable[[], bool]:
    """Whether a job has noted that it has begun."""
    return lambda: word in jobs.notes(path)


# --- timeouts -------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [jobs.huge_power, jobs.backtrack, jobs.block_signals])
@real
async def test_a_timeout_ends_whatever_does_not_end(job: Callable[[], Any], tmp_path: Path) -> None:
    """A job that holds the interpreter in C, or is deaf, is killed; those behind it run, once, in another process."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        await warm(queue)
        before = await queue.run(jobs.pid)
        stuck = queue.submit_nowait(job, timeout=0.15)
        behind = [queue.submit_nowait(jobs.note, path, number) for number in range(30)]
        outcome = await stuck.outcome()
        assert rc.Status.TIMED_OUT is outcome.status
        assert 0.14 < outcome.elapsed < 5
        assert not is_alive(before)
        assert list(range(30)) == [await ticket for ticket in behind]
        assert list(map(str, range(30))) == jobs.notes(path)
        with pytest.raises(rc.RunTimeout):
            await stuck
        assert 0 == queue.stats().replaced
        await until(lambda: at_target(queue))


@real
async def test_only_the_stuck_one_is_killed() -> None:
    """Others, on other workers, are not touched, nor are their processes."""
    async with processes(workers=3) as queue:
        good = [queue.submit_nowait(jobs.sleep, 0.6, number) for number in range(2)]
        stuck = queue.submit_nowait(jobs.sleep, 20, timeout=0.1)
        assert rc.Status.TIMED_OUT is (await stuck.outcome()).status
        assert [0, 1] == [await ticket for ticket in good]


@real
async def test_a_timeout_does_not_kill_for_one_that_has_just_ended() -> None:
    """Whatever becomes of one whose time is up while what came of it is not read: the next one is let alone."""
    async with processes() as queue:
        await warm(queue, 300)
        loop = asyncio.get_running_loop()
        first = queue.submit_nowait(jobs.sleep, 0.1, timeout=0.06)
        second = queue.submit_nowait(jobs.sleep, 0.4, "done")
        begun = loop.time()
        await asyncio.sleep(0.0003)
        # Both timers are due in one round of the loop: in the first one the process goes on to the next job.
        loop.call_at(begun + 0.055, time.sleep, 0.1)
        time.sleep(0.07)  # noqa: ASYNC251
        await first.outcome()
        assert "done" == await second


@real
async def test_a_timeout_counts_from_the_beginning_of_the_attempt() -> None:
    """What waits behind others, also handed ahead, has all of its time."""
    async with processes() as queue:
        await warm(queue)
        tickets = [queue.submit_nowait(jobs.sleep, 0.06, n, timeout=0.5) for n in range(12)]
        assert list(range(12)) == [await ticket for ticket in tickets]


@real
async def test_a_deadline_ends_the_run_wherever_it_is() -> None:
    """It counts from acceptance: what runs is killed, and what waits, also handed ahead, never begins."""
    async with processes() as queue:
        await warm(queue)
        runs = queue.submit_nowait(jobs.sleep, 20, deadline=0.2)
        waits = [queue.submit_nowait(jobs.give, 1, deadline=0.1) for _ in range(5)]
        good = [queue.submit_nowait(jobs.give, n) for n in range(5)]
        found = await outcomes([runs, *waits])
        assert [rc.Status.TIMED_OUT] * 6 == [outcome.status for outcome in found]
        assert all(outcome.started is None for outcome in found[1:])
        assert list(range(5)) == [await ticket for ticket in good]


@real
async def test_attempts_that_time_out_are_tried_again(tmp_path: Path) -> None:
    """A retry rule for timeouts: each attempt in a process of its own, and the last word is a timeout."""
    path = str(tmp_path / "notes")
    async with processes(retry=rc.Retry(rc.RunTimeout, retries=2, backoff=rc.Constant(0))) as queue:
        outcome = await queue.submit_nowait(jobs.note_and, path, "x", jobs.sleep, 20, timeout=0.1).outcome()
        assert (rc.Status.TIMED_OUT, 3) == (outcome.status, outcome.attempts)
        assert 3 == len(jobs.notes(path))


# --- cancelling -------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [jobs.until_told, jobs.wait_told, jobs.sleep_told])
@real
async def test_a_job_that_heeds_is_not_killed(job: Callable[..., Any], tmp_path: Path) -> None:
    """It hears that it should end, in the way in which it listens, cleans up, and its process goes on."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        before = await queue.run(jobs.pid)
        ticket = queue.submit_nowait(job, path)
        await asyncio.sleep(0.15)
        assert ticket.cancel()
        assert not ticket.cancel()
        outcome = await ticket.outcome()
        assert ["heeded"] == jobs.notes(path)
        wanted = rc.Status.CANCELLED if job is jobs.sleep_told else rc.Status.SUCCEEDED
        assert wanted is outcome.status
        assert outcome.elapsed < 5
        assert before == await queue.run(jobs.pid)
        await asyncio.sleep(0.6)  # nor is it killed a little later
        assert before == await queue.run(jobs.pid)


@real
async def test_a_job_that_does_not_heed_is_killed_after_half_a_second() -> None:
    """It was told; then its process is killed, and the run is cancelled."""
    async with processes() as queue:
        await warm(queue)
        ticket = queue.submit_nowait(jobs.sleep, 20)
        behind = [queue.submit_nowait(jobs.give, number) for number in range(20)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        assert ticket.cancel()
        outcome = await ticket.outcome()
        assert 0.45 < time.monotonic() - began < 5
        assert rc.Status.CANCELLED is outcome.status
        assert list(range(20)) == [await other for other in behind]
        with pytest.raises(rc.RunCancelled):
            await ticket


@real
async def test_what_has_not_begun_ends_at_once_and_never_begins(tmp_path: Path) -> None:
    """Cancelled where it waits in the queue, or where it was handed ahead: the others run."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        await warm(queue)
        tickets = [queue.submit_nowait(jobs.note_and, path, n, jobs.spin, 0.0004) for n in range(100)]
        await asyncio.sleep(0.003)
        cancelled = [number for number in range(3, 100, 3) if tickets[number].cancel()]
        found = await outcomes(tickets)
        for number, outcome in enumerate(found):
            if outcome.status is rc.Status.CANCELLED:
                assert number in cancelled
                assert outcome.started is None or str(number) in jobs.notes(path)
            else:
                assert rc.Status.SUCCEEDED is outcome.status
        ran = [str(n) for n, outcome in enumerate(found) if outcome.status is rc.Status.SUCCEEDED]
        assert set(ran) <= set(jobs.notes(path))
        assert len(jobs.notes(path)) == len(set(jobs.notes(path)))
        never = [str(n) for n, outcome in enumerate(found) if outcome.started is None]
        assert not set(never) & set(jobs.notes(path))
        assert len(never) > 10


@real
async def test_cancelling_one_that_has_ended_and_is_not_read_yet_leaves_the_others_in_order() -> None:
    """What was handed ahead, and what is handed over meanwhile, goes on: nothing waits for what never comes."""
    async with processes() as queue:
        await warm(queue, 300)
        for _ in range(100):
            await queue.run(jobs.spin, 0.0002)
        for _ in range(3):
            tickets: list[rc.Ticket[Any]] = [queue.submit_nowait(jobs.spin, 0.0002) for _ in range(100)]
            for _ in range(30):
                await asyncio.sleep(0)
                time.sleep(0.0011)  # noqa: ASYNC251 - meanwhile some end, and nobody reads what came of them
                if (ended := _ended_unread(queue)) is not None:
                    ended.cancel()
                    assert ended.done()
            async with asyncio.timeout(5):
                assert all(outcome.ok for outcome in await outcomes(tickets))


def _ended_unread(queue: Free) -> rc.Ticket[Any] | None:
    """One that has ended, and others are behind it; nobody here has looked."""
    desk: Any = queue.desk
    for worker in desk.group.roster:
        line = worker.work
        if line is not None and len(line.handed) > 2:
            back = line.process.take_back()
            line.process.give(back)
            if len(line.handed) - len(back) >= 2:
                found: rc.Ticket[Any] = next(iter(line.handed))
                return found
    return None


@real
async def test_cancelling_one_that_has_ended_does_not_spare_the_deaf_one_behind_it() -> None:
    """Both were cancelled in one moment: what the first has left to say does not save the second."""
    async with processes() as queue:
        await warm(queue, 300)
        first, second = queue.submit_nowait(jobs.give), queue.submit_nowait(jobs.sleep, 20)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251
        first.cancel()
        assert second.cancel()
        began = time.monotonic()
        assert rc.Status.CANCELLED is (await second.outcome()).status
        assert time.monotonic() - began < 5


@real
async def test_whoever_awaits_run_and_is_cancelled_ends_the_run(tmp_path: Path) -> None:
    """`run()` returns when the run has ended: told, and killed if it is deaf."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        task = asyncio.ensure_future(queue.run(jobs.note_and, path, "begun", jobs.sleep, 20))
        await until(begun(path, "begun"))
        (child,) = [pid for pid in marked() if parent_of(pid) in servers()]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_alive(child)
        assert 1 == queue.stats().runs.cancelled
        assert 1 == await queue.run(jobs.give, 1)


@real
async def test_a_late_result_changes_nothing() -> None:
    """What was told to have timed out, or to have been cancelled, stays so, whatever its process still writes."""
    async with processes(workers=2) as queue:
        await warm(queue)
        tickets: list[rc.Ticket[Any]] = []
        for number in range(40):  # they end about when their time is up
            ticket = queue.submit_nowait(jobs.sleep, 0.02, number, timeout=0.018 + 0.0002 * (number % 20))
            tickets.append(ticket)
            await ticket.outcome()
        states = [ticket.status for ticket in tickets]
        await asyncio.sleep(0.05)
        assert states == [ticket.status for ticket in tickets]
        for ticket in tickets:
            outcome = await ticket.outcome()
            assert outcome.status in (rc.Status.TIMED_OUT, rc.Status.SUCCEEDED)
            assert (outcome.value is None) == (outcome.status is rc.Status.TIMED_OUT)
        await until(lambda: at_target(queue))


# --- stops ----------------------------------------------------------------------------------------


@real
async def test_a_stop_drains() -> None:
    """What was accepted is done, in processes, before the end; and nothing is left of them."""
    queue = processes(workers=2)
    await queue.start()
    tickets = [queue.submit_nowait(jobs.sleep, 0.02, number) for number in range(20)]
    report = await queue.stop()
    assert list(range(20)) == [ticket.peek().value for ticket in tickets]  # type: ignore[union-attr]
    assert report.clean
    assert 20 == report.finished
    assert [] == marked()


@real
async def test_a_stop_with_a_timeout_tells_and_kills(tmp_path: Path) -> None:
    """When the time is up what runs is told, and killed if it is deaf; what waits never begins; none would not stop."""
    path = str(tmp_path / "notes")
    queue = processes(workers=2)
    await queue.start()
    deaf = queue.submit_nowait(jobs.sleep, 20)
    heeds = queue.submit_nowait(jobs.sleep_told, path)
    await asyncio.sleep(0.1)
    waits = [queue.submit_nowait(jobs.give) for _ in range(5)]
    began = time.monotonic()
    report = await queue.stop(timeout=0.2)
    assert time.monotonic() - began < 8
    assert [rc.Status.INTERRUPTED] * 7 == [outcome.status for outcome in await outcomes([deaf, heeds, *waits])]
    assert ["heeded"] == jobs.notes(path)
    assert () == report.would_not_stop
    assert 5 == report.never_started
    assert [] == marked()


@real
async def test_a_kill_ends_everything_at_once() -> None:
    """`kill()` waits for nothing but the end of the processes."""
    queue = processes(workers=2)
    await queue.start()
    deaf = [queue.submit_nowait(jobs.huge_power), queue.submit_nowait(jobs.sleep, 20)]
    await asyncio.sleep(0.1)
    waits = [queue.submit_nowait(jobs.give) for _ in range(5)]
    began = time.monotonic()
    await queue.kill()
    assert time.monotonic() - began < 5
    assert [rc.Status.INTERRUPTED] * 7 == [outcome.status for outcome in await outcomes([*deaf, *waits])]
    assert [] == marked()


@real
async def test_a_queue_lives_again_after_each_end() -> None:
    """Start, stop and kill, several times: each life has its own processes."""
    queue = processes()
    seen: list[int] = []
    for number in range(4):
        await queue.start()
        seen.append(await queue.run(jobs.pid))
        await (queue.stop() if number % 2 else queue.kill())
    assert 4 == len(set(seen))
    assert [] == marked()


def test_a_loop_that_ends_without_a_stop_leaves_nothing() -> None:
    """`asyncio.run` returns although the queue was not stopped: busy and idle processes are gone."""

    async def main() -> None:
        queue = processes(workers=2)
        await queue.start()
        queue.submit_nowait(jobs.sleep, 20)
        await queue.run(jobs.give)

    asyncio.run(main())
    assert [] == marked()


def test_a_loop_that_is_torn_down_while_processes_come_up_leaves_nothing() -> None:
    """The same, at the first moment."""

    async def main() -> None:
        queue = processes(workers=3)
        starting = asyncio.ensure_future(queue.start())
        await asyncio.sleep(0.01)
        del starting

    asyncio.run(main())


@real
async def test_a_fork_of_this_process_does_not_hold_anything_up() -> None:
    """Whoever forks has copies of our pipes: a stop does not wait for him all the same."""
    queue = processes(workers=2)
    await queue.start()
    await queue.run(jobs.give)
    other = os.fork()
    if not other:
        time.sleep(20)  # noqa: ASYNC251
        os._exit(0)
    try:
        report = await queue.stop(timeout=3)
        assert report.clean
        assert [] == marked()  # which it is not itself
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)  # noqa: ASYNC222


# --- fewer, more --------------------------------------------------------------------------------


@real
async def test_fewer_workers_now_and_later(tmp_path: Path) -> None:
    """`less()` lets a run end; `mode="now"` ends it as interrupted; what was handed ahead is done by the others."""
    async with processes(workers=3) as queue:
        slow = [queue.submit_nowait(jobs.sleep, 0.3, n) for n in range(3)]
        await asyncio.sleep(0.05)
        await queue.less()
        assert 2 == queue.stats().alive
        assert [0, 1, 2] == [await ticket for ticket in slow]
        deaf = [queue.submit_nowait(jobs.sleep, 1.5, n) for n in range(2)]
        await asyncio.sleep(0.05)
        tickets = [queue.submit_nowait(jobs.give, n) for n in range(50)]
        await queue.less(mode="now")
        found = await outcomes(deaf)
        assert sorted([rc.Status.INTERRUPTED, rc.Status.SUCCEEDED]) == sorted(outcome.status for outcome in found)
        assert list(range(50)) == [await ticket for ticket in tickets]
        assert 1 == queue.stats().alive == len([pid for pid in marked() if parent_of(pid) in servers()])


@real
async def test_a_pause_and_its_end() -> None:
    """`resize(0)`: no process is left, tickets wait; then they are done."""
    async with processes(workers=2) as queue:
        await warm(queue)
        await queue.resize(0)
        assert not [pid for pid in marked() if parent_of(pid) in servers()]
        tickets = [queue.submit_nowait(jobs.give, n) for n in range(20)]
        await asyncio.sleep(0.05)
        assert 20 == queue.stats().queued
        await queue.resize(2)
        assert list(range(20)) == [await ticket for ticket in tickets]


@real
async def test_resizing_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """Jobs that run while workers come and go, each once."""
    path = str(tmp_path / "notes")
    async with processes(workers=1, max_workers=4) as queue:
        tickets = [queue.submit_nowait(jobs.note_and, path, n, jobs.sleep, 0.002) for n in range(150)]
        for number in (4, 1, 3, 0, 2, 4, 1, 2):
            queue.resize(number)
            await asyncio.sleep(0.04)
        assert all(outcome.ok for outcome in await outcomes(tickets))
        assert sorted(map(str, range(150))) == sorted(jobs.notes(path))
        await until(lambda: at_target(queue))
