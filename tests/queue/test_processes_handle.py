"""A process for each attempt (`rc.Processes().handle`), and the fork server behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import process_jobs as jobs
import pytest
from process_world import is_alive, marked, nothing_left_of_processes, real, servers, until

import runcrew as rc
from runcrew.backends.processes.server import ForkServer
from runcrew.job import Job, Run

pytestmark = [pytest.mark.realtime]
__all__ = ["nothing_left_of_processes"]


async def handle(fn: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """One attempt in a process of its own."""
    return await rc.Processes().handle(Run(Job(fn), args, named))


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel it, and wait for its end."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@real
async def test_each_attempt_has_a_process_of_its_own() -> None:
    """Values, arguments and keywords travel; the process is gone when the attempt is over."""
    first, second = await handle(jobs.pid), await handle(jobs.pid)
    assert first.value not in (second.value, os.getpid())
    assert not is_alive(first.value)
    assert not is_alive(second.value)
    assert ((1, 2), {"c": 3}) == (await handle(jobs.args, 1, 2, c=3)).value
    assert 1 == len(marked())  # the fork server, which stays for a while
    both = await asyncio.gather(*(handle(jobs.sleep_pid, 0.1) for _ in range(5)))
    assert 5 == len({outcome.value for outcome in both})


@real
async def test_errors_and_deaths_are_failed_outcomes() -> None:
    """The job's own error, what cannot travel, and how a process died."""
    failed = await handle(jobs.fail, jobs.Oops, 3)
    assert (rc.Status.FAILED, 3) == (failed.status, getattr(failed.error, "code", None))
    died = (await handle(jobs.die)).error
    assert isinstance(died, rc.ProcessDied)
    assert -signal.SIGKILL == died.exitcode
    assert isinstance((await handle(jobs.give, lambda: 1)).error, rc.NotPicklable)
    assert isinstance((await handle(jobs.give_bad, "pickle", "error")).error, rc.NotPicklable)
    left = (await handle(jobs.leave, 0)).error
    assert isinstance(left, rc.ProcessDied)
    assert 0 == left.exitcode


@real
async def test_an_attempt_whose_task_is_cancelled_is_killed_at_once() -> None:
    """Nobody has asked the run to end, so that its time is up: it is not told first, and gone before this returns."""
    task = asyncio.ensure_future(handle(jobs.sleep, 20))
    await until(lambda: len(marked()) == 2)
    began = time.monotonic()
    await cancelled(task)
    assert time.monotonic() - began < 5
    assert servers() == marked()


@real
async def test_a_run_that_was_asked_to_end_is_told_first(tmp_path: Path) -> None:
    """It heeds within half a second, and what it has made of that stands."""
    path = str(tmp_path / "notes")
    run = Run(Job(jobs.until_told), (path,))
    task = asyncio.ensure_future(_awaited(rc.Processes().handle(run)))
    await until(lambda: len(marked()) == 2)
    await asyncio.sleep(0.2)
    run.ask_to_end(rc.Status.CANCELLED, "enough")
    task.cancel()
    outcome = await task
    assert ("told", rc.Status.SUCCEEDED) == (outcome.value, outcome.status)
    assert ["heeded"] == jobs.notes(path)


async def _awaited(of: Awaitable[rc.Outcome[Any]]) -> rc.Outcome[Any]:
    return await of


@real
async def test_what_a_job_has_started_is_gone_with_it(tmp_path: Path) -> None:
    """Its process group ends with the attempt, however that ends."""
    path = str(tmp_path / "notes")
    await handle(jobs.grandchild, path)
    await until(lambda: not is_alive(int(jobs.notes(path)[0])))
    task = asyncio.ensure_future(handle(jobs.grandchild, path, True))
    await until(lambda: len(jobs.notes(path)) == 2)
    await cancelled(task)
    await until(lambda: not is_alive(int(jobs.notes(path)[1])))


@real
async def test_services_and_policies_take_it() -> None:
    """OneShot with processes: its value, and its stop."""
    shot = rc.OneShot(jobs.no_run, backend="process")
    await shot.start()
    await shot.wait()
    deaf = rc.OneShot(jobs.block_signals, backend="process")
    await deaf.start()
    await until(lambda: len(marked()) >= 2)
    await deaf.stop(timeout=0.2)
    assert servers() == marked()


@real
async def test_a_fork_server_that_dies_takes_its_children_along_and_another_one_comes() -> None:
    """The attempt fails in words; the next one has a new server."""
    task = asyncio.ensure_future(handle(jobs.sleep, 20))
    await until(lambda: len(marked()) == 2)
    (server,) = servers()
    os.kill(server, signal.SIGKILL)
    outcome = await task
    assert isinstance(outcome.error, rc.ProcessDied)
    assert outcome.error.exitcode is None
    assert "fork server" in str(outcome.error)
    assert 1 == (await handle(jobs.give, 1)).value
    assert [server] != servers()


@real
async def test_a_hundred_at_once() -> None:
    """As many processes as anybody asks for at one moment, each with its own value."""
    outcomes = await asyncio.gather(*(handle(jobs.give, number) for number in range(100)))
    assert list(range(100)) == [outcome.value for outcome in outcomes]


@real
async def test_a_fork_server_that_cannot_start_is_a_failed_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words, with its cause; nothing is left, and the next one is there again."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        outcome = await handle(jobs.give, 1)
        assert rc.Status.FAILED is outcome.status
        assert "cannot be started" in str(outcome.error)
        patch.setattr(sys, "executable", "/bin/false")
        outcome = await handle(jobs.give, 1)
        assert rc.Status.FAILED is outcome.status
    assert 1 == (await handle(jobs.give, 1)).value


def test_a_loop_that_ends_takes_its_fork_server_along() -> None:
    """Each loop has one of its own, which is gone when `asyncio.run` returns."""

    async def main() -> None:
        assert 1 == (await handle(jobs.give, 1)).value
        assert 1 == len(servers())
        assert ForkServer.there(asyncio.get_running_loop(), ()) is not None

    for _ in range(2):
        asyncio.run(main())
        assert [] == marked()


def test_a_loop_that_is_closed_without_more_ado_leaves_nothing_for_the_next() -> None:
    """Where nobody closes its async generators, the next loop that needs a fork server ends that one."""
    loop = asyncio.new_event_loop()
    assert 1 == loop.run_until_complete(handle(jobs.give, 1)).value
    loop.close()

    async def main() -> None:
        assert 1 == (await handle(jobs.give, 1)).value
        await until(lambda: len(servers()) == 1)

    asyncio.run(main())
    assert [] == marked()
