"""Timeout and deadline: what is cut off when, who wins when things come together, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runcrew import clock
from runcrew.backends import LoopBackend, ThreadBackend, choose
from runcrew.errors import ConfigError, RunTimeout
from runcrew.job import Job, Outcome, Run, Status, current_run
from runcrew.policies import Constant, Options, Retry, chain
from runcrew.testing import cancel_everywhere

Fn = Callable[[], Any]


async def carry_out(fn: Fn, **options: Any) -> Outcome[Any]:
    """One run of `fn` (or `run=`) through the chain of these options, in the current task."""
    run: Run = options.pop("run", None) or Run(Job(fn, "work"))
    return await chain(run.job, choose(run.job), Options(**options))(run)


def elapsed(outcome: Outcome[Any]) -> float:
    """Seconds from acceptance to the end."""
    return round(outcome.ended - outcome.queued, 9)


async def long() -> str:
    """Takes ten seconds."""
    await asyncio.sleep(10)
    return "done"


def cancelling() -> int:
    """How many cancellations of the current task have not been taken back."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# The same promises hold for both, over one attempt and over the whole run.
BOTH = pytest.mark.parametrize("which", ["timeout", "deadline"])


@BOTH
@pytest.mark.parity("T3.25", "E3.14")
@pytest.mark.virtual
async def test_what_takes_too_long_is_cut_off(which: str) -> None:
    """When the time is up the job is cancelled and the run has timed out, with an error that is a TimeoutError."""
    began = clock.current().now()
    outcome = await carry_out(long, **{which: "3s"})
    assert Status.TIMED_OUT is outcome.status
    assert isinstance(outcome.error, RunTimeout)
    assert isinstance(outcome.error, TimeoutError)
    assert began + 3 == outcome.ended == clock.current().now()
    assert "3s" in outcome.reason
    assert 0 == cancelling()
    with pytest.raises(RunTimeout) as caught:
        outcome.unwrap()
    assert outcome is caught.value.outcome


@BOTH
@pytest.mark.virtual
async def test_what_ends_in_time_is_left_alone(which: str) -> None:
    """A job that ends in time has its value, and no timer is left."""
    outcome = await carry_out(long, **{which: "10001ms"})
    assert (True, "done") == (outcome.ok, outcome.value)
    await asyncio.sleep(100)
    assert 0 == cancelling()


@pytest.mark.parity("T3.48", "E3.14")
@pytest.mark.virtual
async def test_a_timed_out_attempt_is_permanent_unless_a_rule_takes_it() -> None:
    """Rules for other errors leave it final; one for TimeoutError tries again, each attempt with its own time."""
    outcome = await carry_out(long, timeout="3s", retry=Retry(ConnectionError))
    assert (Status.TIMED_OUT, 1) == (outcome.status, outcome.attempts)
    outcome = await carry_out(long, timeout="3s", retry=Retry(TimeoutError, retries=2, backoff=Constant("1s")))
    assert (Status.TIMED_OUT, 3) == (outcome.status, outcome.attempts)
    assert 3 + 1 + 3 + 1 + 3 == round(outcome.elapsed, 9)
    assert isinstance(outcome.error, RunTimeout)
    assert "attempt 3 " in str(outcome.error)


@pytest.mark.parity("T3.25")
@pytest.mark.virtual
async def test_each_attempt_has_a_time_of_its_own() -> None:
    """The limit counts from the start of each attempt, and the attempt can see it."""
    limits: list[float | None] = []

    async def job() -> None:
        limits.append(current_run().ends)
        await asyncio.sleep(2)
        raise ConnectionError

    began = clock.current().now()
    await carry_out(job, timeout="3s", retry=Retry(ConnectionError, retries=1, backoff=Constant("5s")))
    assert [began + 3, began + 7 + 3] == limits


@BOTH
@pytest.mark.virtual
async def test_it_is_told_before_it_is_cancelled(which: str) -> None:
    """While a job cleans up after its time, its run says that it should end."""
    seen: list[bool] = []

    async def job() -> None:
        seen.append(current_run().cancelled)
        try:
            await asyncio.sleep(10)
        finally:
            seen.append(current_run().cancelled)

    await carry_out(job, **{which: "3s"})
    assert [False, True] == seen


@BOTH
@pytest.mark.virtual
async def test_a_value_after_the_time_counts(which: str) -> None:
    """A job that ends with a value although it was cut off has succeeded, and its task is as it was."""

    async def job() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "late"

    outcome = await carry_out(job, **{which: "3s"})
    assert (True, "late") == (outcome.ok, outcome.value)
    assert 0 == cancelling()
    await asyncio.sleep(1)


@BOTH
@pytest.mark.virtual
async def test_an_error_after_the_time_counts(which: str) -> None:
    """A real error that the job raises while it is cut off is its failure, not the timeout."""

    async def job() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            raise KeyError("while closing")

    outcome = await carry_out(job, **{which: "3s"})
    assert Status.FAILED is outcome.status
    assert isinstance(outcome.error, KeyError)
    assert 0 == cancelling()


@BOTH
@pytest.mark.virtual
async def test_a_timeout_of_the_job_itself_is_its_own(which: str) -> None:
    """A TimeoutError that the job raises by itself is an ordinary failure."""

    async def job() -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(10)

    outcome = await carry_out(job, **{which: "3s"})
    assert (Status.FAILED, TimeoutError) == (outcome.status, type(outcome.error))


@BOTH
@pytest.mark.parametrize("together", ["before", "after"])
@pytest.mark.virtual
async def test_a_cancellation_that_comes_together_with_the_time_wins(which: str, together: str) -> None:
    """Cancelled from outside in the turn in which the time is up, before or after: the cancellation goes on its way."""
    loop = asyncio.get_running_loop()
    counts: list[int] = []

    async def run() -> Outcome[Any]:
        try:
            return await carry_out(long, **{which: "3s"})
        finally:
            counts.append(cancelling())

    task = asyncio.create_task(run())
    if together == "after":
        await asyncio.sleep(0)  # its own timer is set first
    loop.call_at(loop.time() + 3, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [1] == counts


@BOTH
@pytest.mark.virtual
async def test_a_cancellation_while_it_cleans_up_wins(which: str) -> None:
    """Cancelled from outside while the job cleans up after its time: the cancellation is not taken for the timeout."""

    async def job() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(10)

    task = asyncio.create_task(carry_out(job, **{which: "3s"}))
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@BOTH
@pytest.mark.virtual
async def test_the_time_is_up_in_the_turn_in_which_it_ends(which: str) -> None:
    """Ending and running out of time in one turn gives one clear outcome, and a task as it was."""

    async def job() -> str:
        await asyncio.sleep(3)
        return "just in time"

    outcome = await carry_out(job, **{which: "3s"})
    assert outcome.status in (Status.SUCCEEDED, Status.TIMED_OUT)
    assert 0 == cancelling()
    await asyncio.sleep(1)


@BOTH
@pytest.mark.virtual
async def test_a_task_that_was_cancelled_before_stays_so(which: str) -> None:
    """In a task with a cancellation that was not taken back, the time still cuts off, and the count is kept."""

    async def main() -> Outcome[Any]:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            outcome = await carry_out(long, **{which: "3s"})
            assert 1 == cancelling()
            return outcome
        raise AssertionError

    task = asyncio.create_task(main())
    await asyncio.sleep(1)
    task.cancel()
    assert Status.TIMED_OUT is (await task).status


@pytest.mark.virtual
async def test_inner_and_outer_time_up_in_one_turn() -> None:
    """Where the timeout and the deadline come together, the run ends by the deadline and nothing is left over."""
    outcome = await carry_out(long, timeout="3s", deadline="3s", retry=Retry(TimeoutError, backoff=Constant(0)))
    assert Status.TIMED_OUT is outcome.status
    assert 0 == cancelling()
    await asyncio.sleep(20)


@pytest.mark.virtual
async def test_an_outer_timeout_of_asyncio_is_not_ours() -> None:
    """`asyncio.timeout` around it keeps its own promise: TimeoutError outside, the run cancelled inside."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await carry_out(long, timeout="3s")
    assert 0 == cancelling()


@BOTH
@pytest.mark.virtual
async def test_zero_is_zero(which: str) -> None:
    """A timeout of zero cuts off at the first suspension; a deadline of zero lets nothing begin."""
    began: list[int] = []

    async def job() -> None:
        began.append(1)
        await asyncio.sleep(1)

    outcome = await carry_out(job, **{which: 0})
    assert Status.TIMED_OUT is outcome.status
    assert ([1] if which == "timeout" else []) == began


@BOTH
@pytest.mark.parametrize("bad", [-1, "soon", float("nan"), float("inf"), True])
def test_what_is_no_span_is_refused(which: str, bad: Any) -> None:
    """Negative, endless and unreadable spans are refused by name."""
    with pytest.raises(ConfigError, match=which):
        Options(**{which: bad})


def test_a_plain_job_on_the_loop_cannot_have_a_timeout() -> None:
    """Nothing can end a plain function that runs inline on the event loop: a timeout is refused, with the remedy."""
    with pytest.raises(ConfigError, match="nothing can end it"):
        chain(Job(lambda: 1), LoopBackend(), Options(timeout=1))


@BOTH
@pytest.mark.virtual
async def test_cancelling_anywhere_is_never_taken_for_the_time(which: str) -> None:
    """Cancelled at any suspension, early or late, also while it cleans up after its time: never lost."""

    async def job() -> str:
        try:
            await asyncio.sleep(1)
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            raise
        return "done"

    async def one() -> Outcome[Any]:
        try:
            return await carry_out(job, **{which: "3s"})
        finally:
            counts.append(cancelling())

    counts: list[int] = []

    def check(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            assert counts[-1:] in ([1], [])
        else:
            assert Status.TIMED_OUT is task.result().status
            assert 0 == counts[-1]
        counts.clear()

    assert 3 == await cancel_everywhere(one, check)


# --- deadline alone ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_deadline_covers_attempts_and_waits() -> None:
    """It counts from acceptance over all attempts, and a wait that would pass it is not begun."""

    async def job() -> None:
        await asyncio.sleep(4)
        raise ConnectionError

    outcome = await carry_out(job, deadline="10s", retry=Retry(ConnectionError, retries=9, backoff=Constant("1s")))
    assert (Status.FAILED, 2, 9.0) == (outcome.status, outcome.attempts, elapsed(outcome))
    assert "would pass the deadline" in outcome.reason


@pytest.mark.virtual
async def test_a_deadline_cuts_off_an_attempt() -> None:
    """An attempt under way at the deadline is cut off, recorded, and named."""

    async def job() -> None:
        await asyncio.sleep(4)
        raise ConnectionError

    outcome = await carry_out(job, deadline="7s", retry=Retry(ConnectionError, retries=9, backoff=Constant("1s")))
    assert (Status.TIMED_OUT, 2, 7.0) == (outcome.status, outcome.attempts, elapsed(outcome))
    assert ["failed", "timed_out"] == [attempt.status for attempt in outcome.history]
    assert "its deadline of 7s passed in attempt 2" == outcome.reason


@pytest.mark.virtual
async def test_a_deadline_counts_from_acceptance() -> None:
    """A run that waited before it began has that much less; one whose deadline has passed never begins."""
    for waited in (4.0, 30.0):
        calls: list[float] = []

        async def job(calls: list[float] = calls) -> None:
            calls.append(clock.current().now())
            await asyncio.sleep(10)

        run = Run(Job(job))
        run.queued = clock.current().now() - waited
        outcome = await carry_out(job, run=run, deadline="9s")
        assert Status.TIMED_OUT is outcome.status
        assert max(9.0, waited) == elapsed(outcome)
        assert (waited < 9) == bool(calls) == (outcome.started is not None)


@pytest.mark.virtual
async def test_an_earlier_deadline_is_kept() -> None:
    """A run that has an earlier deadline from its owner ends by that one."""
    run = Run(Job(long))
    run.queued = clock.current().now()
    run.due = run.queued + 2
    outcome = await carry_out(long, run=run, deadline="9s")
    assert (Status.TIMED_OUT, 2.0) == (outcome.status, elapsed(outcome))
    assert "its deadline passed in attempt 1" == outcome.reason


# --- in threads -----------------------------------------------------------------------------------


@pytest.mark.parity("T3.25")
@pytest.mark.realtime
@pytest.mark.parametrize("which", ["timeout", "deadline"])
def test_a_thread_is_told_and_left(which: str) -> None:
    """A job in a thread cannot be killed: at its time it is told, the run has timed out, its thread ends by itself."""
    told = threading.Event()

    def job() -> None:
        if current_run().wait_cancelled("10s"):
            told.set()

    outcome = asyncio.run(carry_out(job, **{which: "20ms"}))
    assert Status.TIMED_OUT is outcome.status
    assert told.wait(5)


@pytest.mark.realtime
def test_a_thread_that_was_left_stays_told_when_the_next_attempt_begins() -> None:
    """The thread of a cut-off attempt sees that it should end, also when a new attempt of the run is under way."""
    numbers: list[int] = []
    told: list[int] = []
    second, over = threading.Event(), threading.Event()

    def job() -> str:
        run = current_run()
        number = len(numbers) + 1
        numbers.append(number)
        if number == 2:
            second.set()
            assert not run.cancelled
            over.wait(5)
            return "second"
        second.wait(5)
        if run.cancelled and run.wait_cancelled("10s"):
            told.append(number)
        over.set()
        return "first"

    outcome = asyncio.run(carry_out(job, timeout="300ms", retry=Retry(TimeoutError, backoff=Constant(0))))
    assert ("second", 2) == (outcome.value, outcome.attempts)
    assert [1] == told


@pytest.mark.virtual
async def test_a_thread_backend_is_cut_off_like_the_loop() -> None:
    """Through the chain a plain job in a thread has the same outcome; virtual time passes while it waits for it."""

    def job() -> None:
        clock.current().block(10)

    run = Run(Job(job))
    outcome = await chain(run.job, ThreadBackend(), Options(timeout="3s"))(run)
    assert Status.TIMED_OUT is outcome.status
    await asyncio.sleep(10)
