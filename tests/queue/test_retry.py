"""Retries by rules: further attempts of one run, for which it waits outside the workers."""

from __future__ import annotations

import asyncio

import pytest
from queue_made import Broken, Script, Things, give, is_healthy, rounds, script, use

import runcrew as rc
from runcrew.queue import SubmitOptions


def rule(error: type[Exception] = ValueError, retries: int = 3, pause: float = 1.0) -> rc.Retry:
    """A rule without jitter."""
    return rc.Retry(error, retries=retries, backoff=rc.Constant(pause))


@pytest.mark.virtual
async def test_a_run_that_fails_is_attempted_again_by_its_rule() -> None:
    """The attempts come after the pauses of the rule; all of them are one run with one ticket."""
    job = script(ValueError("a"), ValueError("b"), "fine")
    async with rc.Queue("db", workers=1, retry=rule()) as queue:
        ticket = await queue.submit(job)
        assert "fine" == await ticket
        outcome = await ticket.outcome()
        stats = queue.stats()
    assert [0.0, 1.0, 2.0] == job.times
    assert (3, 3) == (outcome.attempts, ticket.attempts)
    assert ["failed", "failed", "succeeded"] == [attempt.status for attempt in outcome.history]
    assert (1, 2, 1) == (stats.runs.begun, stats.runs.retries, stats.runs.succeeded)


@pytest.mark.virtual
async def test_without_a_rule_there_is_one_attempt() -> None:
    """A queue retries nothing by itself."""
    job = script(ValueError("a"), "fine")
    async with rc.Queue("db", workers=1) as queue:
        with pytest.raises(ValueError, match="a"):
            await queue.run(job)
    assert 1 == len(job.calls)


@pytest.mark.virtual
async def test_a_run_that_waits_for_its_retry_has_no_worker() -> None:
    """Between two attempts the worker does something else, and the run counts as delayed."""
    async with rc.Queue("db", workers=1, retry=rule(pause=60)) as queue:
        ticket = await queue.submit(script(ValueError(), "fine"))
        await rounds()
        assert (1, 1) == (queue.stats().delayed, queue.stats().free)
        assert "meanwhile" == await queue.run(give, "meanwhile")
        assert not ticket.done()
        assert "fine" == await ticket


@pytest.mark.virtual
async def test_what_a_submit_says_of_retries_goes_before_what_the_queue_says() -> None:
    """Rules of a submit replace the queue's: others, none, or at most one attempt whatever comes."""
    async with rc.Queue("db", workers=1, retry=rule()) as queue:
        others: list[tuple[SubmitOptions, int]] = [
            ({}, 4), ({"retry": rule(retries=1)}, 2), ({"retry": ()}, 1), ({"at_most_once": True}, 1)
        ]  # fmt: skip
        for options, calls in others:
            job = Script(ValueError())
            with pytest.raises(ValueError):
                await queue.run(job, **options)
            assert calls == len(job.calls)


@pytest.mark.virtual
async def test_the_budgets_of_rules_and_of_faulty_resources_are_apart() -> None:
    """A run that fails by both has all of its retries and all of its requeues: they add, and neither eats the other."""
    things = Things()
    steps = [Broken(), ValueError(), Broken(), ValueError(), Broken(), ValueError(), "fine"]
    job = script(*steps)
    async with rc.Queue(
        "db", resource=things, healthy=is_healthy, requeue=3, requeue_backoff=rc.Constant(0), backoff=rc.Constant(0),
        retry=rule(retries=3),
    ) as queue:  # fmt: skip
        assert "fine" == await queue.run(job)
        assert (3, 6) == (queue.stats().requeued, queue.stats().runs.retries)
    assert len(steps) == len(job.calls)


@pytest.mark.virtual
async def test_the_history_keeps_the_last_sixteen_attempts() -> None:
    """However often a run was tried, its outcome remembers a bounded number of attempts."""
    job = script(*(ValueError(number) for number in range(99)), "fine")
    async with rc.Queue("db", workers=1, retry=rc.Retry(ValueError, retries=rc.UNLIMITED)) as queue:
        outcome = await (await queue.submit(job)).outcome()
    assert (100, 16, 100) == (outcome.attempts, len(outcome.history), outcome.history[-1].number)


@pytest.mark.virtual
async def test_what_is_no_exception_is_not_retried() -> None:
    """SystemExit, or a CancelledError that nobody asked for, is a crash: raised as JobCrashed, after one attempt."""
    for error in (SystemExit(3), asyncio.CancelledError()):
        job = script(error)
        async with rc.Queue("db", workers=1, retry=rule(Exception)) as queue:
            with pytest.raises(rc.JobCrashed) as caught:
                await queue.run(job)
            assert error is caught.value.__cause__
            assert "fine" == await queue.run(give, "fine")
        assert 1 == len(job.calls)


@pytest.mark.virtual
async def test_a_stop_ends_the_pauses_of_nobody() -> None:
    """A drain finishes what waits for its retry, with all the attempts that it has left."""
    queue = rc.Queue("db", workers=1, retry=rule(pause=5))
    await queue.start()
    job = script(ValueError(), ValueError(), "fine")
    ticket = await queue.submit(job)
    await rounds()
    report = await queue.stop("1m")
    assert ("fine", 1, 10.0) == (await ticket, report.finished, report.elapsed)


@pytest.mark.virtual
async def test_a_retry_takes_no_room_from_nobody_and_is_never_refused() -> None:
    """Runs that wait for their retry come back however full the queue is."""
    things = Things()
    async with rc.Queue("db", resource=things, workers=1, maxsize=2, retry=rule(pause=1)) as queue:
        retried = await queue.submit(script(ValueError(), "fine"))
        await rounds()
        others = [await queue.submit(use, 3.0) for _ in range(3)]
        assert "fine" == await retried
        assert [1, 1, 1] == [await ticket for ticket in others]
