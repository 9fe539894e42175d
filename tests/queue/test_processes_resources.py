"""Resources in processes, and processes that are replaced: after so many runs, or when they use too much memory."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import process_jobs as jobs
import pytest
from process_world import at_target, marked, nothing_left_of_processes, real, servers, until, warm

import runcrew as rc

pytestmark = [pytest.mark.realtime]
__all__ = ["nothing_left_of_processes"]

AT_ONCE = rc.Constant(0)


def made(name: str, **options: Any) -> rc.Queue[Any]:
    """A queue."""
    kind: Any = rc.Queue
    return kind(name, **options)  # type: ignore[no-any-return]


def balanced(path: Path | str) -> bool:
    """Whether each process has opened and closed one resource, in that order."""
    state: dict[str, str] = {}
    for line in jobs.notes(path):
        what, _, pid = line.partition(":")
        if what == "open":
            assert pid not in state
        if what == "close":
            assert "open" == state[pid]
        if what in ("open", "close"):
            state[pid] = what
    return bool(state) and set(state.values()) == {"close"}


@real
async def test_each_process_makes_uses_and_takes_down_its_own(tmp_path: Path) -> None:
    """One resource a process, made and taken down there, in one thread, where all of its jobs run."""
    path = str(tmp_path / "store")
    kinds: list[dict[str, Any]] = [
        {"resource": functools.partial(jobs.store, path)},
        {"resource": functools.partial(jobs.Store, path), "destroy": jobs.close_store},
    ]
    for options in kinds:
        Path(path).unlink(missing_ok=True)  # noqa: ASYNC240
        queue = made("db", backend="process", workers=2, **options)
        async with queue:
            tickets = [queue.submit_nowait(jobs.use, number) for number in range(100)]
            assert list(range(100)) == [await ticket for ticket in tickets]
            assert 2 == len(jobs.notes(path))
        assert balanced(path)
        assert 4 == len(jobs.notes(path))


@real
async def test_a_process_is_replaced_after_so_many_runs(tmp_path: Path) -> None:
    """max_runs, with a backlog: all jobs are done, none of the processes does more, each resource is taken down."""
    path, runs = str(tmp_path / "store"), str(tmp_path / "runs")
    queue = made("db", backend=rc.Processes(max_runs=7), workers=2, resource=functools.partial(jobs.store, path))
    async with queue:
        pids = [await t for t in [queue.submit_nowait(jobs.with_store, jobs.pid) for _ in range(100)]]
        assert 7 >= max(Counter(pids).values())
        assert 100 == len(pids)
        await until(lambda: at_target(queue))
        assert 0 == queue.stats().replaced
        jobs.note(runs, "x")
    assert balanced(path)


@pytest.mark.parametrize("most", [1, 2])
@real
async def test_a_process_for_each_run_or_two(most: int) -> None:
    """The smallest limits, also with jobs that are handed ahead, fail, or die."""
    queue = made("db", backend=rc.Processes(max_runs=most), backoff=AT_ONCE)
    async with queue:
        pids = [await t for t in [queue.submit_nowait(jobs.pid) for _ in range(10)]]
        assert most >= max(Counter(pids).values())
        given: list[tuple[Any, ...]] = [(jobs.fail, jobs.Oops, 1), (jobs.leave, 3), (jobs.give, 1)]
        mixed = [queue.submit_nowait(job, *args) for job, *args in given * 3]
        states = [(await ticket.outcome()).status for ticket in mixed]
        assert [rc.Status.FAILED, rc.Status.FAILED, rc.Status.SUCCEEDED] * 3 == states


@real
async def test_a_process_that_uses_too_much_memory_is_replaced() -> None:
    """max_megabytes, with a backlog: it begins no further job, what was handed ahead is done elsewhere."""
    queue = made("db", backend=rc.Processes(max_megabytes=80))
    async with queue:
        await warm(queue, 50)
        tickets = [queue.submit_nowait(jobs.grow, 1.0) for _ in range(200)]
        pids = [await ticket for ticket in tickets]
        assert 2 <= len(set(pids)) <= 40
        await until(lambda: at_target(queue))


@real
async def test_a_limit_of_memory_below_what_a_new_process_uses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Each process does one run then, and a warning says so."""
    queue = made("db", backend=rc.Processes(max_megabytes=1))
    async with queue:
        tickets = [queue.submit_nowait(jobs.sleep_pid, 0.03) for _ in range(5)]
        assert 5 == len({await ticket for ticket in tickets})
    assert "max_megabytes" in caplog.text


@real
async def test_a_check_that_is_not_passed_replaces_the_process_and_the_run_goes_elsewhere(tmp_path: Path) -> None:
    """The check runs in the process, before each use; nothing is spent."""
    path = str(tmp_path / "store")
    queue = made(
        "db", backend="process", resource=functools.partial(jobs.store, path), check=jobs.not_good, backoff=AT_ONCE
    )
    async with queue:
        tickets = [queue.submit_nowait(jobs.use, number) for number in range(6)]
        assert list(range(6)) == [await ticket for ticket in tickets]
        assert all(1 == ticket.attempts for ticket in tickets)
    assert balanced(path)
    assert 5 <= sum(line.startswith("open") for line in jobs.notes(path)) <= 7


@real
async def test_an_error_that_means_a_faulty_resource_replaces_the_process(tmp_path: Path) -> None:
    """`healthy` is asked here with the job's own error; the resource is taken down, and the run put back."""
    path = str(tmp_path / "store")
    queue = made(
        "db", backend="process", resource=functools.partial(jobs.store, path), healthy=jobs.is_healthy, requeue=2,
        requeue_backoff=AT_ONCE, backoff=AT_ONCE,
    )  # fmt: skip
    async with queue:
        outcome = await queue.submit_nowait(jobs.with_store, jobs.fail, jobs.Oops, 1).outcome()
        assert (rc.Status.FAILED, 3) == (outcome.status, outcome.attempts)
        other = await queue.submit_nowait(jobs.with_store, jobs.fail, KeyError, 1).outcome()
        assert (rc.Status.FAILED, 1) == (other.status, other.attempts)
        assert 3 == queue.stats().replaced
        assert 1 == await queue.run(jobs.use, 1)
    assert balanced(path)


@real
async def test_openings_that_fail_are_tried_again(tmp_path: Path) -> None:
    """The error is the maker's own, with its traceback there; the tickets wait."""
    path = str(tmp_path / "store")
    queue = made(
        "db", backend="process", resource=functools.partial(jobs.store_fails, path, 3), destroy=jobs.close_store,
        backoff=rc.Constant("20ms"),
    )  # fmt: skip
    async with queue:
        assert 1 == await queue.run(jobs.use, 1)
        stats = queue.stats()
        assert 3 == stats.failed_openings
        assert isinstance(stats.last_error, jobs.Oops)
        assert "store_fails" in str(stats.last_error.__cause__)


@real
async def test_a_recipe_that_is_wrong_for_good_ends_the_queue(tmp_path: Path) -> None:
    """A ConfigError while a resource is made, in the process, is final."""
    path = str(tmp_path / "store")
    queue = made(
        "db", backend="process", resource=functools.partial(jobs.store_fails, path, 9, rc.ConfigError),
        destroy=jobs.close_store,
    )  # fmt: skip
    with pytest.raises(rc.ConfigError):
        await queue.start()
        await queue.wait()
    assert ["try"] == jobs.notes(path)
    await until(lambda: not marked())


@real
async def test_an_opening_that_hangs_is_killed_at_the_end_of_a_stop(tmp_path: Path) -> None:
    """A stop does not wait for it longer than it may, says so, and leaves nothing."""
    path = str(tmp_path / "store")
    queue = made("db", backend="process", resource=functools.partial(jobs.store_hangs, path), destroy=jobs.close_store)
    starting = asyncio.ensure_future(queue.start())
    await until(lambda: jobs.notes(path))
    began = time.monotonic()
    report = await queue.stop(timeout=0.2)
    assert time.monotonic() - began < 12
    assert report.complete
    await asyncio.gather(starting, return_exceptions=True)
    await until(lambda: not marked())


@real
async def test_a_taking_down_that_hangs_is_killed_at_the_end_of_a_stop(tmp_path: Path) -> None:
    """The same for the other end of its life."""
    path = str(tmp_path / "store")
    queue = made("db", backend="process", resource=functools.partial(jobs.closing_hangs, path))
    await queue.start()
    assert 1 == await queue.run(jobs.use, 1)
    began = time.monotonic()
    report = await queue.stop(timeout=0.2)
    assert time.monotonic() - began < 12
    assert "hangs" in jobs.notes(path)
    assert report.complete
    await until(lambda: not marked())


@real
async def test_an_error_while_taking_down_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its text, and hurts nobody."""
    path = str(tmp_path / "store")
    queue = made("db", backend="process", resource=functools.partial(jobs.closing_fails, path))
    async with queue:
        assert 1 == await queue.run(jobs.use, 1)
    assert "Oops: 5" in caplog.text


@real
async def test_what_is_idle_or_old_is_replaced(tmp_path: Path) -> None:
    """max_idle and max_age hold for resources in processes."""
    path = str(tmp_path / "store")
    queue = made("db", backend="process", resource=functools.partial(jobs.store, path), max_idle=0.1, max_age=10)
    async with queue:
        await queue.run(jobs.use)
        await until(lambda: sum(line.startswith("open") for line in jobs.notes(path)) >= 2)
        assert 1 == await queue.run(jobs.use, 1)
    assert balanced(path)


@real
async def test_queues_share_a_fork_server_and_it_goes_with_the_last() -> None:
    """One for each set of preloaded modules, as long as anybody needs it."""
    first = made("a", backend="process")
    second = made("b", backend="process")
    third = made("c", backend=rc.Processes(preload=["json", "decimal"]))
    async with first:
        async with second, third:
            assert 1 == await first.run(jobs.give, 1)
            assert "decimal" in await third.run(jobs.modules)
            assert 2 == len(servers())
        assert 1 == await first.run(jobs.give, 1)
    assert [] == marked()


@real
async def test_a_module_that_cannot_be_preloaded_is_told_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A warning names it; the jobs run."""
    queue = made("a", backend=rc.Processes(preload=["there_is_no_such_module"]))
    async with queue:
        assert 1 == await queue.run(jobs.give, 1)
    assert "there_is_no_such_module" in caplog.text
