"""What cannot travel between processes, and errors that do: each costs its own run, in words, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import process_jobs as jobs
import pytest
from process_world import at_target, nothing_left_of_processes, real, until, warm

import runcrew as rc

pytestmark = [pytest.mark.realtime]
__all__ = ["nothing_left_of_processes"]

Free = rc.Queue[Any]


def processes(**options: Any) -> Free:
    """A queue whose jobs run in processes."""
    return rc.Queue("hash", backend="process", **options)


async def outcome(queue: Free, fn: Callable[..., Any], *args: Any, **options: Any) -> rc.Outcome[Any]:
    """What comes of one run."""
    return await queue.submit_nowait(fn, *args, **options).outcome()


# --- errors -------------------------------------------------------------------------------


@real
async def test_an_error_is_of_the_jobs_own_kind_with_the_remote_traceback_as_its_cause() -> None:
    """What comes out is the job's exception, and `__cause__` shows the line that raised it, without frames of ours."""
    async with processes() as queue:
        with pytest.raises(jobs.Oops) as caught:
            await queue.run(jobs.fail, jobs.Oops, 7)
        assert 7 == caught.value.code
        said = str(caught.value.__cause__)
        assert "raise kind(*given)" in said
        assert "backends/processes" not in said
        with pytest.raises(jobs.Oops) as caught:
            await queue.run(jobs.fail_twice)
        assert "KeyError: 'first'" in str(caught.value.__cause__)
        failed = await outcome(queue, jobs.fail, jobs.Oops, 8)
        assert (rc.Status.FAILED, 8) == (failed.status, getattr(failed.error, "code", None))


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, asyncio.CancelledError])
@real
async def test_what_is_no_exception_is_a_crash_of_the_job_and_of_nothing_else(kind: type[BaseException]) -> None:
    """SystemExit and its like end the run as JobCrashed; the process goes on."""
    async with processes() as queue:
        before = await queue.run(jobs.pid)
        with pytest.raises(rc.JobCrashed) as caught:
            await queue.run(jobs.fail, kind, 1)
        assert not isinstance(caught.value, rc.ProcessDied)
        assert kind is type(caught.value.__cause__)
        assert before == await queue.run(jobs.pid)


@real
async def test_an_error_that_cannot_be_made_again_is_told_in_words() -> None:
    """Its text, and why it could not travel, and the traceback."""
    async with processes() as queue:
        wrong: list[tuple[Any, ...]] = [(jobs.Bare, 1, "two"), (jobs.Frozen, "cold")]
        for args in wrong:
            failed = await outcome(queue, jobs.fail, *args)
            assert rc.Status.FAILED is failed.status
            assert isinstance(failed.error, rc.NotPicklable)
            assert "cannot travel between processes" in str(failed.error)
        failed = await outcome(queue, jobs.fail, jobs.Bare, 1, "two")
        assert "Bare: 1" in str(failed.error)
        assert "raise kind(*given)" in str(getattr(failed.error, "__cause__", ""))
        assert 1 == await queue.run(jobs.give, 1)


# --- what does not go through pickle --------------------------------------------------------


@pytest.mark.parametrize("how", ["error", "exit"])
@real
async def test_an_argument_that_cannot_be_pickled_fails_its_own_run_in_words(how: str) -> None:
    """An error or SystemExit while an argument is pickled, in this process, is a failure of that run only."""
    async with processes() as queue:
        await warm(queue)
        tickets = [queue.submit_nowait(jobs.give, number) for number in range(5)]
        bad = queue.submit_nowait(jobs.args, 0, jobs.AtPickle(how))
        tickets += [queue.submit_nowait(jobs.give, number) for number in range(5, 10)]
        failed = await bad.outcome()
        assert isinstance(failed.error, rc.NotPicklable)
        assert "argument 1" in str(failed.error)
        assert list(range(10)) == [await ticket for ticket in tickets]
        with pytest.raises(rc.NotPicklable, match="argument 0"):
            await queue.run(jobs.give, lambda: None)
        await until(lambda: at_target(queue))


@pytest.mark.parametrize("how", ["error", "exit"])
@real
async def test_an_argument_that_cannot_be_made_again_fails_its_own_run_in_words(how: str) -> None:
    """An error or SystemExit while it is unpickled in the process fails that run; the process goes on."""
    async with processes() as queue:
        before = await queue.run(jobs.pid)
        bad = queue.submit_nowait(jobs.give, jobs.AtUnpickle(how))
        good = queue.submit_nowait(jobs.give, 1)
        failed = await bad.outcome()
        assert isinstance(failed.error, rc.NotPicklable)
        assert "argument" in str(failed.error)
        assert 1 == await good
        assert before == await queue.run(jobs.pid)


@real
async def test_an_argument_that_ends_the_process_when_it_is_made_again_kills_that_run_only() -> None:
    """A crash while an argument is unpickled is a death of the process, and what was handed ahead is done later."""
    async with processes() as queue:
        await warm(queue)
        bad = queue.submit_nowait(jobs.give, jobs.AtUnpickle("crash"))
        good = [queue.submit_nowait(jobs.give, number) for number in range(20)]
        died = (await bad.outcome()).error
        assert isinstance(died, rc.ProcessDied)
        assert 7 == died.exitcode
        assert list(range(20)) == [await ticket for ticket in good]


@pytest.mark.parametrize("where", ["pickle", "elsewhere"])
@pytest.mark.parametrize("how", ["error", "exit"])
@real
async def test_a_value_that_does_not_travel_fails_its_own_run_in_words(where: str, how: str) -> None:
    """An error or SystemExit while a value is pickled in the process, or made again here, fails that run only."""
    async with processes() as queue:
        before = await queue.run(jobs.pid)
        failed = await outcome(queue, jobs.give_bad, where, how)
        assert rc.Status.FAILED is failed.status
        assert isinstance(failed.error, rc.NotPicklable)
        assert "returned" in str(failed.error)
        assert before == await queue.run(jobs.pid)
        with pytest.raises(rc.NotPicklable, match="give_lambda"):
            await queue.run(jobs.give_lambda)


@pytest.mark.parametrize("job", [jobs.give_bad, jobs.raise_bad])
@real
async def test_what_ends_the_process_when_it_is_pickled_there_kills_its_own_run_only(job: Callable[..., Any]) -> None:
    """A crash while a value or an error is pickled is a death of the process; the queue goes on with another."""
    async with processes() as queue:
        await warm(queue)
        bad = queue.submit_nowait(job, "pickle", "crash")
        good = [queue.submit_nowait(jobs.give, number) for number in range(20)]
        died = (await bad.outcome()).error
        assert isinstance(died, rc.ProcessDied)
        assert 7 == died.exitcode
        assert list(range(20)) == [await ticket for ticket in good]
        await until(lambda: at_target(queue))


@pytest.mark.parametrize("where", ["pickle", "unpickle", "elsewhere", "other"])
@pytest.mark.parametrize("how", ["error", "exit"])
@real
async def test_an_error_that_does_not_travel_fails_its_own_run_in_words(where: str, how: str) -> None:
    """An error that raises when it is pickled or made again, there or here, or comes out as something else."""
    async with processes() as queue:
        await warm(queue)
        bad: rc.Ticket[Any] = queue.submit_nowait(jobs.raise_bad, where, how)
        good = [queue.submit_nowait(jobs.give, number) for number in range(20)]
        failed = await bad.outcome()
        assert rc.Status.FAILED is failed.status
        assert isinstance(failed.error, rc.NotPicklable)
        assert "raise_bad" in str(failed.error)
        assert list(range(20)) == [await ticket for ticket in good]


@real
async def test_a_progress_that_does_not_travel_hurts_nobody() -> None:
    """A number that cannot be made again here costs neither the run nor those behind it."""
    async with processes() as queue:
        await warm(queue)
        bad = queue.submit_nowait(jobs.bad_progress)
        good = [queue.submit_nowait(jobs.give, number) for number in range(20)]
        assert rc.Status.SUCCEEDED is (await bad.outcome()).status
        assert list(range(20)) == [await ticket for ticket in good]


@real
async def test_a_value_that_would_have_to_be_awaited_is_refused() -> None:
    """A plain job that returns a coroutine fails, in words, as it does elsewhere."""
    async with processes() as queue:
        failed = await outcome(queue, jobs.give_coroutine)
        assert isinstance(failed.error, TypeError)
        assert "give_coroutine" in str(failed.error)
