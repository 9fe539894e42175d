"""Processes that die: only the run under way goes with them, what was handed ahead is done once, others take over."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import process_jobs as jobs
import pytest
from process_world import (
    accounts,
    at_target,
    is_alive,
    marked,
    nothing_left_of_processes,
    parent_of,
    real,
    rounds,
    servers,
    state_of,
    until,
    warm,
)

import runcrew as rc

pytestmark = [pytest.mark.realtime]
__all__ = ["nothing_left_of_processes"]

Free = rc.Queue[Any]
AT_ONCE = rc.Constant(0)
ON_DEATH = rc.Retry(rc.ProcessDied, retries=rc.UNLIMITED, backoff=AT_ONCE)


def processes(processes: rc.Processes | None = None, **options: Any) -> Free:
    """A queue whose jobs run in processes."""
    return rc.Queue("hash", backend="process" if processes is None else processes, **options)


def children() -> list[int]:
    """The processes of workers: children of the fork servers."""
    mine = servers()
    return [pid for pid in marked() if parent_of(pid) in mine]


def wait_dead(pid: int) -> None:
    """Hold everything up until it has ended."""
    while is_alive(pid):
        time.sleep(0.001)


DEATHS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int, str]] = {
    "kill": (jobs.die, (), -signal.SIGKILL, "SIGKILL"),
    "term": (jobs.die, (signal.SIGUSR1,), -signal.SIGUSR1, "SIGUSR1"),
    "segfault": (jobs.segfault, (), -signal.SIGSEGV, "SIGSEGV"),
    "abort": (jobs.abort, (), -signal.SIGABRT, "SIGABRT"),
    "exit 0": (jobs.leave, (0,), 0, "exit status 0"),
    "exit 3": (jobs.leave, (3,), 3, "exit status 3"),
}


@pytest.mark.parametrize("how", DEATHS)
@real
async def test_a_death_fails_its_own_run_and_says_how(how: str, tmp_path: Path) -> None:
    """The run under way fails with how, and in which process; those behind it run once, in another one, in order."""
    job, args, code, word = DEATHS[how]
    path = str(tmp_path / "notes")
    async with processes() as queue:
        await warm(queue)
        before = await queue.run(jobs.pid)
        first = [queue.submit_nowait(jobs.note, path, number) for number in range(10)]
        bad = queue.submit_nowait(job, *args)
        behind = [queue.submit_nowait(jobs.note, path, number) for number in range(10, 40)]
        outcome = await bad.outcome()
        died = outcome.error
        assert rc.Status.FAILED is outcome.status
        assert isinstance(died, rc.ProcessDied)
        assert (before, code) == (died.pid, died.exitcode)
        assert word in str(died)
        assert 1 == outcome.attempts
        assert list(range(40)) == [await ticket for ticket in (*first, *behind)]
        assert [str(number) for number in range(40)] == jobs.notes(path)
        assert before != await queue.run(jobs.pid)
        with pytest.raises(rc.ProcessDied):
            await bad
        await until(lambda: at_target(queue))
        assert 1 == queue.stats().replaced
        accounts(queue, [await t.outcome() for t in (*first, bad, *behind)] + [_ok()] * 202)


def _ok() -> rc.Outcome[Any]:
    return rc.Outcome(rc.Status.SUCCEEDED)


@real
async def test_memory_that_cannot_be_had_is_an_error_of_the_job() -> None:
    """MemoryError comes out as it is, and the process goes on; the system's own way is a SIGKILL."""
    async with processes() as queue:
        with pytest.raises(MemoryError):
            await queue.run(jobs.too_much_memory)
        assert 1 == await queue.run(jobs.give, 1)


@real
async def test_a_death_while_idle_costs_no_run() -> None:
    """A process that is killed when it has nothing to do is replaced, and no run hears of it."""
    async with processes(workers=2, backoff=rc.Constant("10ms")) as queue:
        for _ in range(3):
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.02)
            await until(lambda: at_target(queue))
            assert list(range(20)) == [await t for t in [queue.submit_nowait(jobs.give, n) for n in range(20)]]
        assert 6 == queue.stats().replaced
        assert 0 == queue.stats().runs.failed


@real
async def test_a_death_at_the_moment_of_handing_over_loses_nothing(tmp_path: Path) -> None:
    """What is handed to a process that has just died has not begun there, and is done by another one."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        await warm(queue)
        for number in range(5):
            await until(lambda: at_target(queue))
            (pid,) = children()
            os.kill(pid, signal.SIGKILL)
            wait_dead(pid)  # the loop does not hear of it meanwhile
            tickets = [queue.submit_nowait(jobs.note, path, f"{number}/{n}") for n in range(10)]
            assert [f"{number}/{n}" for n in range(10)] == [await ticket for ticket in tickets]
        assert 50 == len(jobs.notes(path)) == len(set(jobs.notes(path)))


@real
async def test_what_is_read_of_a_dead_process_hands_it_nothing_more(tmp_path: Path) -> None:
    """Results that nobody has read when it dies call for more work: that goes to another one, and is done once."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        await warm(queue, 300)
        for place in (1, 2, 3, 5, 8, 13, 20, 31, 33, 40, 63):
            await until(lambda: at_target(queue))
            first = [queue.submit_nowait(jobs.give, n) for n in range(place)]
            bad = queue.submit_nowait(jobs.leave, 3)
            others = [queue.submit_nowait(jobs.note, path, f"{place}/{n}") for n in range(100)]
            await rounds(2)
            time.sleep(0.03)  # noqa: ASYNC251
            assert list(range(place)) == [await ticket for ticket in first]
            assert [f"{place}/{n}" for n in range(100)] == [await ticket for ticket in others]
            assert isinstance((await bad.outcome()).error, rc.ProcessDied)
        assert 1100 == len(jobs.notes(path)) == len(set(jobs.notes(path)))


@real
async def test_deaths_of_idle_ones_again_and_again_come_at_a_slower_pace() -> None:
    """A process that dies before it has done anything is not replaced in a hot loop."""
    async with processes(backoff=rc.Constant("100ms")) as queue:
        seen: list[int] = []
        ends = time.monotonic() + 1.0
        while time.monotonic() < ends:
            for pid in children():
                seen.append(pid)
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.005)
        assert 3 <= len(set(seen)) <= 13
        assert 1 == await queue.run(jobs.give, 1)


# --- several attempts -------------------------------------------------------------------------


@real
async def test_retry_rules_may_match_a_death(tmp_path: Path) -> None:
    """A run whose rules match ProcessDied has another attempt in another process."""
    async with processes() as queue:
        path = str(tmp_path / "notes")
        ticket = queue.submit_nowait(jobs.die_first, path, 2, retry=ON_DEATH)
        assert 3 == await ticket
        outcome = await ticket.outcome()
        assert [3, 3] == [getattr(attempt.error, "exitcode", None) for attempt in outcome.history[:2]]
        assert 2 == queue.stats().runs.retries
        late = queue.submit_nowait(jobs.leave, 3, retry=rc.Retry(ValueError, retries=5, backoff=AT_ONCE))
        assert 1 == (await late.outcome()).attempts


@pytest.mark.parametrize("most", [1, 2, 3])
@real
async def test_a_run_that_kills_its_process_again_and_again_is_given_up(most: int, tmp_path: Path) -> None:
    """After so many deaths it has ended, whatever its rules say, and the reason says so."""
    path = str(tmp_path / "notes")
    async with processes(rc.Processes(max_deaths=most)) as queue:
        ticket = queue.submit_nowait(jobs.note_and, path, "x", jobs.leave, 3, retry=ON_DEATH)
        other = queue.submit_nowait(jobs.give, 1)
        outcome = await ticket.outcome()
        assert (rc.Status.FAILED, most) == (outcome.status, outcome.attempts)
        assert isinstance(outcome.error, rc.ProcessDied)
        assert most == len(jobs.notes(path))
        assert most == 1 or "max_deaths" in outcome.reason
        assert 1 == await other
        await until(lambda: at_target(queue))


@real
async def test_poison_is_bounded_also_where_a_death_means_a_faulty_resource(tmp_path: Path) -> None:
    """`healthy` that blames the resource has the run put back, but not more often than it may die."""
    path, log = str(tmp_path / "notes"), str(tmp_path / "store")
    async with processes(
        rc.Processes(max_deaths=2), resource=functools.partial(jobs.store, log), healthy=jobs.is_healthy, requeue=50,
        requeue_backoff=AT_ONCE, backoff=AT_ONCE,
    ) as queue:  # fmt: skip
        ticket = queue.submit_nowait(jobs.with_store, jobs.note_and, path, "x", jobs.leave, 3)
        outcome = await ticket.outcome()
        assert rc.Status.FAILED is outcome.status
        assert 2 == len(jobs.notes(path)) == outcome.attempts
        assert 1 == await queue.run(jobs.use, 1)


@real
async def test_one_attempt_means_one_also_where_the_process_dies(tmp_path: Path) -> None:
    """at_most_once: a run that may have begun is not begun again; one that was handed ahead only, is done."""
    path = str(tmp_path / "notes")
    async with processes(retry=ON_DEATH) as queue:
        await warm(queue)
        bad = queue.submit_nowait(jobs.note_and, path, "bad", jobs.die, at_most_once=True)
        behind = [queue.submit_nowait(jobs.note, path, n, at_most_once=True) for n in range(20)]
        assert isinstance((await bad.outcome()).error, rc.ProcessDied)
        assert list(range(20)) == [await ticket for ticket in behind]
        assert ["bad", *map(str, range(20))] == jobs.notes(path)


@real
async def test_those_behind_poison_are_done_while_it_is_tried_again(tmp_path: Path) -> None:
    """Jobs that die now and then among many: each of the others runs once, in its first attempt."""
    path = str(tmp_path / "notes")
    async with processes(workers=2, backoff=AT_ONCE) as queue:
        tickets = [queue.submit_nowait(jobs.die_now_and_then, path, n, retry=ON_DEATH) for n in range(60)]
        assert list(range(60)) == [await ticket for ticket in tickets]
        wanted = [f"{n}/1" for n in range(60)] + [f"{n}/2" for n in range(0, 60, 5)]
        assert sorted(wanted) == sorted(jobs.notes(path))
        await until(lambda: at_target(queue))


# --- resources --------------------------------------------------------------------------------


@real
async def test_a_death_while_a_resource_is_made_is_a_failed_opening(tmp_path: Path) -> None:
    """It is tried again, at the pace of `backoff`, and the queue goes on when it is there."""
    path = str(tmp_path / "notes")
    make = functools.partial(jobs.store_dies, path, 3)
    async with processes(resource=make, destroy=jobs.close_store, backoff=rc.Constant("10ms")) as queue:
        assert 1 == await queue.run(jobs.use, 1)
        assert 3 == queue.stats().failed_openings
        assert isinstance(queue.stats().last_error, rc.ProcessDied)
        assert ["try"] * 4 == jobs.notes(path)[:4]


@real
async def test_a_death_while_a_resource_is_taken_down_ends_the_process_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop is complete, and a warning says what has happened."""
    path = str(tmp_path / "notes")
    queue = processes(resource=functools.partial(jobs.closing_dies, path))
    await queue.start()
    assert 1 == await queue.run(jobs.use, 1)
    report = await queue.stop()
    assert "dies" == jobs.notes(path)[-1]
    assert "SIGKILL" in caplog.text
    assert report.clean


# --- somebody stops them --------------------------------------------------------------------


@real
async def test_a_busy_process_that_stands_still_is_replaced_and_never_heard_again(tmp_path: Path) -> None:
    """SIGSTOP: after a second it is killed, its run fails in words, others take over what was behind it."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        await warm(queue)
        bad = queue.submit_nowait(jobs.note_and, path, "x", jobs.stop_myself)
        behind = [queue.submit_nowait(jobs.give, number) for number in range(20)]
        began = time.monotonic()
        outcome = await bad.outcome()
        assert 0.9 < time.monotonic() - began < 10
        assert rc.Status.FAILED is outcome.status
        assert isinstance(outcome.error, rc.ProcessDied)
        assert "stood still" in str(outcome.error)
        assert outcome.error.pid is not None
        assert not is_alive(outcome.error.pid)
        assert list(range(20)) == [await ticket for ticket in behind]
        assert outcome is not None
        assert rc.Status.FAILED is bad.status


@real
async def test_an_idle_process_that_stands_still_is_replaced() -> None:
    """SIGSTOP of one that has nothing to do costs no run."""
    async with processes(workers=2) as queue:
        pids = children()
        os.kill(pids[0], signal.SIGSTOP)
        await until(lambda: pids[0] not in children())
        await until(lambda: at_target(queue))
        assert 0 == queue.stats().runs.failed
        assert 1 == await queue.run(jobs.give, 1)


@real
async def test_one_that_goes_on_in_time_is_not_killed() -> None:
    """SIGSTOP, and SIGCONT before the second is over: nothing has happened."""
    async with processes() as queue:
        ticket = queue.submit_nowait(jobs.sleep, 1.6, "done")
        await until(lambda: queue.stats().running == 1)
        (pid,) = children()
        for _ in range(2):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.4)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.3)
        assert "done" == await ticket
        assert [pid] == children()


# --- the fork server -------------------------------------------------------------------------


@real
async def test_the_fork_server_is_killed_and_everything_recovers(tmp_path: Path) -> None:
    """Its children die with it, their runs fail in words, and another one serves what is left, each once."""
    path = str(tmp_path / "notes")
    async with processes(workers=2, backoff=rc.Constant("20ms")) as queue:
        await warm(queue)
        before = children()
        slow = [queue.submit_nowait(jobs.sleep, 20) for _ in range(2)]
        behind = [queue.submit_nowait(jobs.note, path, number) for number in range(50)]
        await asyncio.sleep(0.05)
        (server,) = servers()
        os.kill(server, signal.SIGKILL)
        outcomes = [await ticket.outcome() for ticket in slow]
        assert [rc.Status.FAILED] * 2 == [outcome.status for outcome in outcomes]
        assert all(isinstance(outcome.error, rc.ProcessDied) for outcome in outcomes)
        assert list(range(50)) == [await ticket for ticket in behind]
        assert sorted(map(str, range(50))) == sorted(jobs.notes(path))
        assert not [pid for pid in before if is_alive(pid)]
        await until(lambda: at_target(queue))


@real
async def test_the_fork_server_is_killed_while_everybody_is_idle() -> None:
    """No run hears of it."""
    async with processes(workers=2, backoff=rc.Constant("20ms")) as queue:
        for _ in range(2):
            (server,) = servers()
            mine = children()
            os.kill(server, signal.SIGKILL)
            for pid in mine:
                wait_dead(pid)
            assert 1 == await queue.run(jobs.give, 1)
            await until(lambda: at_target(queue))
        assert 0 == queue.stats().runs.failed


@real
async def test_a_fork_server_that_stands_still_is_replaced_when_it_is_needed() -> None:
    """SIGSTOP of it: those that are there go on; whoever has to come, or to go, does so by another one."""
    async with processes(workers=1, max_workers=2, backoff=rc.Constant("20ms")) as queue:
        await warm(queue, 3)
        (server,) = servers()
        os.kill(server, signal.SIGSTOP)
        assert 1 == await queue.run(jobs.give, 1)
        late = await queue.submit_nowait(jobs.sleep, 20, timeout=0.1).outcome()
        assert rc.Status.TIMED_OUT is late.status
        assert 2 == await queue.run(jobs.give, 2)
        assert [server] != servers()
        await until(lambda: at_target(queue))


@real
async def test_a_process_that_has_to_come_from_a_fork_server_that_stands_still_comes_in_the_end() -> None:
    """SIGSTOP of the fork server, and then one more worker: it is there after some seconds."""
    async with processes(workers=1, max_workers=2, backoff=rc.Constant("20ms")) as queue:
        await warm(queue, 3)
        (server,) = servers()
        os.kill(server, signal.SIGSTOP)
        queue.more()
        await until(lambda: queue.stats().alive == 2, 15)


@real
async def test_what_a_process_has_started_dies_with_it(tmp_path: Path) -> None:
    """Its process group: programs that a job has left behind are gone with a kill, a death, and a good end."""
    path = str(tmp_path / "notes")
    async with processes(rc.Processes(max_runs=2)) as queue:
        await queue.run(jobs.grandchild, path)
        await queue.run(jobs.give)  # the second run of that process
        await until(lambda: not is_alive(int(jobs.notes(path)[0])))
        await queue.submit_nowait(jobs.grandchild, path, True, timeout=0.3).outcome()
        await until(lambda: not is_alive(int(jobs.notes(path)[1])))
        await queue.run(jobs.grandchild, path)
        assert isinstance((await queue.submit_nowait(jobs.die).outcome()).error, rc.ProcessDied)
        await until(lambda: not is_alive(int(jobs.notes(path)[2])))
        last = await queue.run(jobs.grandchild, path)
        assert await queue.run(jobs.group_of) not in (os.getpgid(0), os.getpgid(servers()[0]))
    await until(lambda: not is_alive(last))


@real
async def test_what_a_process_has_started_dies_with_the_fork_server_too(tmp_path: Path) -> None:
    """SIGKILL of the fork server leaves no program behind that a job has started."""
    path = str(tmp_path / "notes")
    async with processes(backoff=rc.Constant("20ms")) as queue:
        left = await queue.run(jobs.grandchild, path)
        os.kill(servers()[0], signal.SIGKILL)
        await until(lambda: not is_alive(left), 5)
        assert 1 == await queue.run(jobs.give, 1)


@real
async def test_no_zombies_are_left_while_the_queue_works() -> None:
    """Whoever has died is waited for at once, here and by the fork server."""
    async with processes(workers=2, backoff=AT_ONCE) as queue:
        for _ in range(5):
            await queue.submit_nowait(jobs.die).outcome()
        await until(lambda: at_target(queue))
        await rounds(10)
        mine = [os.getpid(), *servers()]
        everybody = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        found = []
        for pid in everybody:
            try:
                if state_of(pid) == "Z" and parent_of(pid) in mine:
                    found.append(pid)
            except OSError:
                continue
        assert [] == found
