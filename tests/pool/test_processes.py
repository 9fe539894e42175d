"""Pools whose runs go round in processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pool_process_jobs as jobs
import pytest

import runcrew as rc

pytestmark = pytest.mark.realtime


def pids(path: Path) -> list[str]:
    """Which processes have left a note."""
    return path.read_text("utf-8").split() if path.exists() else []


async def until(what: Callable[[], bool]) -> None:
    """Wait for it, not for ever."""
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


def in_loop(main: Callable[[], Any]) -> None:
    """Run it on a loop of its own."""
    asyncio.run(main())


def test_each_worker_goes_round_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Two workers run the job again and again, each in one process, and a stop lets each finish its run."""
    path = tmp_path / "notes"

    async def main() -> None:
        async with rc.Pool(partial(jobs.note, str(path)), initial=2, backend="process") as pool:
            await until(lambda: len(pids(path)) > 20)
        assert pool.report is not None
        assert pool.report.clean
        runs = pool.stats().runs
        assert runs.begun == runs.succeeded == len(pids(path))

    in_loop(main)
    assert 2 == len(set(pids(path)))


def test_resources_live_in_the_processes(tmp_path: Path) -> None:
    """Each process makes its resource, gives it to its jobs, and takes it down."""
    path = tmp_path / "notes"

    async def main() -> None:
        pool = rc.Pool(jobs.use, resource=partial(jobs.thing, str(path)), initial=2, backend="process")
        async with pool:
            await until(lambda: len(set(pids(path))) == 2)

    in_loop(main)
    assert set(pids(path)) == set(pids(Path(f"{path}.open"))) == set(pids(Path(f"{path}.close")))


def test_a_factory_makes_a_job_in_each_process(tmp_path: Path) -> None:
    """What a worker's own job keeps is kept from run to run, in that worker's process."""
    path = tmp_path / "notes"

    async def main() -> None:
        async with rc.Pool(job_factory=partial(jobs.counts, str(path)), initial=2, backend="process"):
            await until(lambda: len(pids(path)) == 2)

    in_loop(main)
    assert 2 == len(set(pids(path)))


def test_a_process_that_has_done_its_runs_is_replaced(tmp_path: Path) -> None:
    """With max_runs no process does more than that."""
    path = tmp_path / "notes"

    async def main() -> None:
        async with rc.Pool(partial(jobs.note, str(path)), backend=rc.Processes(max_runs=5)):
            await until(lambda: len(pids(path)) > 20)

    in_loop(main)
    found = pids(path)
    assert all(found.count(pid) <= 5 for pid in found)


def test_a_job_that_waits_for_something_to_do_is_idle_there_too() -> None:
    """It counts as no work, and a stop does not wait for it."""

    async def main() -> None:
        async with rc.Pool(jobs.idles, backend="process") as pool:
            await until(lambda: pool.stats().idle == 1)
            report = await pool.stop(20)
        assert report.clean
        assert 1 == pool.stats().runs.interrupted

    in_loop(main)


def test_a_run_that_does_not_hear_is_killed_when_time_is_up() -> None:
    """Nothing is stuck or abandoned: the process goes."""

    async def main() -> None:
        async with rc.Pool(jobs.deaf, backend="process", initial=2) as pool:
            await until(lambda: pool.stats().busy == 2)
            report = await pool.stop(0.1)
        assert report.clean
        assert (0, 2) == (len(pool.stats().abandoned), pool.stats().runs.interrupted)

    in_loop(main)


def test_a_timeout_kills_the_process_and_the_worker_goes_on() -> None:
    """Each run that takes too long is killed, and another worker's process takes its place."""

    async def main() -> None:
        async with rc.Pool(jobs.deaf, backend="process", timeout="50ms", backoff=None) as pool:
            await until(lambda: pool.stats().runs.timed_out >= 3)
            assert 1 == pool.size
        assert pool.report is not None
        assert pool.report.clean

    in_loop(main)


def test_a_process_that_dies_fails_its_run_and_is_replaced() -> None:
    """The error says how it died; the pool goes on."""

    async def main() -> None:
        async with rc.Pool(jobs.dies, backend="process", backoff=None) as pool:
            await until(lambda: pool.stats().runs.failed >= 3)
        error = pool.stats().last_error
        assert isinstance(error, rc.ProcessDied)
        assert (3, True) == (error.exitcode, "exit status 3" in str(error))

    in_loop(main)


def test_nobody_sits_at_the_keyboard_of_another_process() -> None:
    """A KeyboardInterrupt that a job raises there is a failure of its run, and not the end of the pool."""

    async def main() -> None:
        async with rc.Pool(jobs.interrupts, backend="process", backoff=None) as pool:
            await until(lambda: pool.stats().runs.failed >= 2)
            assert rc.State.RUNNING is pool.state

    in_loop(main)


def test_a_job_there_can_say_that_there_is_no_more_to_do() -> None:
    """What it says by raising it travels."""

    async def main() -> None:
        async with rc.Pool(jobs.done, backend="process") as pool:
            async with asyncio.timeout(10):
                await pool.wait()
        assert rc.State.STOPPED is pool.state

    in_loop(main)


@pytest.mark.parametrize(
    ("job", "options", "words"),
    [
        (jobs.is_async, {}, "is async, and a process runs plain functions"),
        (lambda: None, {}, "no function of a module"),
        (jobs.done, {"max_abandoned": 1}, "max_abandoned: 1 means nothing for processes"),
    ],
)
def test_what_processes_cannot_do_is_refused_at_construction(job: Any, options: dict[str, Any], words: str) -> None:
    """In words that name it, and say what to do."""
    with pytest.raises(rc.ConfigError, match=words):
        rc.Pool(job, backend="process", **options)


def test_only_processes_can_be_killed_for_sure() -> None:
    """kill=True is refused where jobs run in threads or on the loop."""
    with pytest.raises(rc.ConfigError, match="neither a thread nor a coroutine can be killed"):
        rc.Pool(jobs.done, kill=True)
    rc.Pool(jobs.done, kill=True, backend="process")
