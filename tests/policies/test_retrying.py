"""The retry loop around a handler: attempts, pauses, what ends it, what is written down."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from runcrew import clock
from runcrew.abc import AttemptStore
from runcrew.backends import LoopBackend
from runcrew.errors import ConfigError, NoRetry, RunTimeout
from runcrew.job import HISTORY, Job, Outcome, Run, Status, current_run
from runcrew.policies import UNLIMITED, Budget, Constant, Exponential, MemoryAttempts, Retry, retrying
from runcrew.testing import cancel_everywhere


class Work:
    """A job that goes through a script: errors are raised, other things returned, the last again and again."""

    def __init__(self, *script: Any) -> None:
        self.script = script
        self.calls: list[float] = []

    async def __call__(self) -> Any:
        self.calls.append(clock.current().now())
        step = self.script[min(len(self.calls), len(self.script)) - 1]
        if isinstance(step, BaseException):
            raise step
        return step() if callable(step) else step

    @property
    def times(self) -> list[float]:
        """When it was called, in seconds since the first call."""
        return [round(called - self.calls[0], 9) for called in self.calls]


def plain(initial: str) -> Exponential:
    """Without jitter."""
    return Exponential(initial, jitter="none")


async def carry_out(work: Callable[[], Any], *rules: Retry, run: Run | None = None, **options: Any) -> Outcome[Any]:
    """One run of `work` through these rules, on the loop."""
    run = run or Run(Job(work, "work"))
    return await retrying(LoopBackend().handle, rules, **options)(run)


def asked_to_end(run: Run) -> None:
    """What a service does to a run when it drains."""
    run.ask_to_end(Status.INTERRUPTED, "its service stops")
    if run.wake is not None:
        run.wake()


# --- attempts -----------------------------------------------------------------------------


@pytest.mark.parity("T3.40", "E3.6")
@pytest.mark.virtual
async def test_it_is_attempted_again_after_the_backoff() -> None:
    """Failing twice, then succeeding: three attempts, each after the delay of its rule, and no error."""
    work = Work(ConnectionError(), ConnectionError(), "fine")
    outcome = await carry_out(work, Retry(ConnectionError, retries=5, backoff=plain("1s")))
    assert [0.0, 1.0, 3.0] == work.times
    assert outcome.ok
    assert "fine" == outcome.value
    assert 3 == outcome.attempts


@pytest.mark.parity("T3.3", "T3.39", "E3.7")
@pytest.mark.parametrize("budget", [0, 1, 2, 3])
@pytest.mark.virtual
async def test_a_used_up_budget_gives_the_last_error_itself(budget: int) -> None:
    """Budget N gives N + 1 calls, then fails with the very object that the job raised last."""
    errors = [ConnectionError(number) for number in range(budget + 1)]
    work = Work(*errors)
    outcome = await carry_out(work, Retry(ConnectionError, retries=budget, backoff=Constant(0)))
    assert Status.FAILED is outcome.status
    assert errors[-1] is outcome.error
    assert budget + 1 == len(work.calls) == outcome.attempts
    assert "the budget of ConnectionError is used up" in outcome.reason
    with pytest.raises(ConnectionError) as caught:
        outcome.unwrap()
    assert errors[-1] is caught.value


@pytest.mark.parity("T3.23", "T3.39", "E3.8")
@pytest.mark.virtual
async def test_an_unlisted_error_is_final_and_the_same_object() -> None:
    """What no rule names ends the run at once, unchanged; so does NoRetry."""
    for error in (KeyError("unlisted"), NoRetry("final")):
        work = Work(error)
        outcome = await carry_out(work, Retry(ConnectionError))
        assert error is outcome.error
        assert 1 == len(work.calls)
        assert outcome.reason


def wrapped(error: Exception) -> Exception:
    """Another error, raised from this one."""
    outer = ConnectionError("wrapped")
    outer.__cause__ = error
    return outer


@pytest.mark.parity("T4.41", "T4.42", "E4.16")
@pytest.mark.parametrize(
    ("results", "calls"),
    [
        ([ConnectionError(n) for n in range(4)], 4),
        (["fine"], 1),
        ([ConnectionError(), ConnectionError(), "fine"], 3),
        ([ConnectionError(), NoRetry("final")], 2),
        ([ConnectionError(), wrapped(NoRetry("final"))], 2),
    ],
    ids=["always fails", "succeeds", "succeeds in the end", "final", "final and wrapped"],
)
@pytest.mark.virtual
async def test_three_retries_without_a_pause(results: list[Any], calls: int) -> None:
    """Three more attempts follow at once; a success or a final error is the end, and the last error is what it was."""
    work = Work(*results)
    outcome = await carry_out(work, Retry(ConnectionError, retries=3, backoff=Constant(0)))
    assert [0.0] * calls == work.times
    assert results[-1] is (outcome.value if outcome.ok else outcome.error)


@pytest.mark.parity("T3.44")
@pytest.mark.virtual
async def test_alternating_errors_get_the_sum_of_their_budgets() -> None:
    """Rules A with 2 and B with 3 make 2 + 3 + 1 calls at most, however their errors mix."""
    a, b = ValueError(), KeyError()
    work = Work(a, b, a, b, b, b)
    outcome = await carry_out(
        work, Retry(ValueError, retries=2, backoff=Constant(1)), Retry(KeyError, retries=3, backoff=Constant(1))
    )
    assert 6 == len(work.calls)
    assert b is outcome.error


@pytest.mark.virtual
async def test_what_is_no_failure_is_not_retried() -> None:
    """Skipped, cancelled and interrupted outcomes pass as they are."""
    for status in (Status.SKIPPED, Status.CANCELLED, Status.INTERRUPTED):
        calls: list[Run] = []

        async def inner(run: Run, calls: list[Run] = calls, status: Status = status) -> Outcome[Any]:
            calls.append(run)
            return run.finished(status, 0.0, error=ConnectionError())

        outcome = await retrying(inner, [Retry(Exception)])(Run(Job(Work(1))))
        assert status is outcome.status
        assert 1 == len(calls)


@pytest.mark.virtual
async def test_what_is_no_exception_is_not_retried() -> None:
    """A job that raises SystemExit, or a CancelledError that nobody asked for, has failed for good."""
    for error in (SystemExit(3), asyncio.CancelledError("mine")):
        work = Work(error)
        outcome = await carry_out(work, Retry(Exception))
        assert (Status.FAILED, error, 1) == (outcome.status, outcome.error, len(work.calls))


@pytest.mark.virtual
async def test_a_timed_out_attempt_is_retried_by_a_rule_for_timeouts() -> None:
    """An attempt whose time was up is offered to the rules as a TimeoutError."""
    outcomes = [Status.TIMED_OUT, Status.SUCCEEDED]

    async def inner(run: Run) -> Outcome[Any]:
        status = outcomes.pop(0)
        return run.finished(status, 0.0, error=RunTimeout("late") if status is Status.TIMED_OUT else None)

    outcome = await retrying(inner, [Retry(TimeoutError, backoff=Constant(1))])(Run(Job(Work(1))))
    assert (True, 2) == (outcome.ok, outcome.attempts)


@pytest.mark.virtual
async def test_every_attempt_knows_its_number_and_begins_untold() -> None:
    """Inside, `attempt` counts from 1, the history grows, and what told one attempt to end does not tell the next."""
    seen: list[tuple[int, bool, int]] = []

    def look() -> None:
        run = current_run()
        seen.append((run.attempt, run.cancelled, len(run.history)))
        run.tell()
        raise ConnectionError

    await carry_out(Work(look), Retry(ConnectionError, retries=2, backoff=Constant(1)))
    assert [(1, False, 0), (2, False, 1), (3, False, 2)] == seen


@pytest.mark.virtual
async def test_the_outcome_tells_of_all_attempts() -> None:
    """History holds each attempt with its error, times, wait and rule, the last one too; `started` is the first's."""
    errors = [ConnectionError(), KeyError()]
    work = Work(*errors, "fine")
    began = clock.current().now()
    outcome = await carry_out(
        work, Retry(ConnectionError, backoff=Constant(2), name="net"), Retry(KeyError, backoff=Constant(3))
    )
    first, second, third = outcome.history
    assert (1, "failed", errors[0], began, began, 2.0, "net") == first
    assert (2, "failed", errors[1], began + 2, began + 2, 3.0, "KeyError") == second
    assert (3, "succeeded", None, began + 5, began + 5, None, None) == third
    assert (began, began + 5, 5.0) == (outcome.started, outcome.ended, outcome.elapsed)


@pytest.mark.virtual
async def test_memory_is_bounded_however_often_it_fails() -> None:
    """A run that fails a thousand times remembers the latest attempts."""
    outcome = await carry_out(Work(*[ConnectionError()] * 1000, 1), Retry(ConnectionError, retries=UNLIMITED))
    assert 1001 == outcome.attempts
    assert HISTORY == len(outcome.history)
    assert [*range(1002 - HISTORY, 1002)] == [attempt.number for attempt in outcome.history]


@pytest.mark.defect("D3.14")
@pytest.mark.virtual
async def test_a_run_after_a_failed_one_has_its_whole_budget() -> None:
    """One handler, many runs: each begins with a fresh state, also after one that used all of its budget."""
    rules = [Retry(ConnectionError, retries=2, backoff=Constant(1))]
    handler = retrying(LoopBackend().handle, rules)
    for _ in range(3):
        work = Work(ConnectionError())
        await handler(Run(Job(work)))
        assert 3 == len(work.calls)


@pytest.mark.virtual
async def test_a_bad_backoff_fails_the_run_and_does_not_loop() -> None:
    """A wait that is none ends the run at once: ConfigError, from the job's own error."""
    for bad in (math.nan, -1.0, math.inf, 1e12):
        error = ConnectionError()
        work = Work(error)
        outcome = await carry_out(work, Retry(ConnectionError, retries=UNLIMITED, backoff=lambda n, bad=bad: bad))
        assert isinstance(outcome.error, ConfigError)
        assert error is outcome.error.__cause__
        assert 1 == len(work.calls)
        with pytest.raises(ConfigError):
            outcome.unwrap()


@pytest.mark.virtual
async def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    """The run fails at once with its own error, and says why it was not tried again."""
    run = Run(Job(work := Work(ConnectionError()), "work"))
    run.due = clock.current().now() + 5
    outcome = await carry_out(work, Retry(ConnectionError, backoff=Constant(3)), run=run)
    assert (Status.FAILED, 2) == (outcome.status, outcome.attempts)
    assert "would pass the deadline" in outcome.reason
    assert [0.0, 3.0] == work.times


# --- no wait at all ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_retries_without_a_wait_let_the_loop_go_round() -> None:
    """A job that only fails, retried for ever without a wait, does not keep the event loop from others."""
    work = Work(ConnectionError())
    task = asyncio.create_task(carry_out(work, Retry(ConnectionError, retries=UNLIMITED, backoff=Constant(0))))
    for _ in range(50):
        await asyncio.sleep(0)
    assert 40 < len(work.calls) < 60
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.virtual
async def test_the_first_retry_without_a_wait_follows_at_once() -> None:
    """Nothing else has a turn between a failure and the first retry without a wait."""
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "turn")
    await carry_out(Work(ConnectionError(), "fine"), Retry(ConnectionError, backoff=Constant(0)))
    assert [] == others


@pytest.mark.virtual
async def test_a_run_asked_to_end_makes_no_retry_without_a_wait() -> None:
    """Also where there is no pause to end, a run that should end makes no further attempt."""
    run = Run(Job(work := Work(ConnectionError()), "work"))
    rule = Retry(ConnectionError, retries=UNLIMITED, backoff=Constant(0))
    outcome = await carry_out(work, rule, run=run, on_retry=lambda run, *_: asked_to_end(run))
    assert (Status.INTERRUPTED, 1) == (outcome.status, len(work.calls))


# --- asked to end ---------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_pause_ends_when_the_run_is_asked_to_end() -> None:
    """A drain ends a pause at once: interrupted, with the last error, and no further attempt."""
    error = ConnectionError()
    run = Run(Job(work := Work(error), "work"))
    began = clock.current().now()
    asyncio.get_running_loop().call_later(4, asked_to_end, run)
    outcome = await carry_out(work, Retry(ConnectionError, backoff=Constant(60)), run=run)
    assert Status.INTERRUPTED is outcome.status
    assert error is outcome.error
    assert "its service stops" == outcome.reason
    assert began + 4 == clock.current().now() == outcome.ended
    assert (1, 1) == (len(work.calls), outcome.attempts)
    assert run.wake is None


@pytest.mark.parametrize("soon", [True, False])
@pytest.mark.virtual
async def test_asked_to_end_in_the_turn_in_which_the_pause_is_over(soon: bool) -> None:
    """Asked just before the timer fires, or just after it and before the attempt: there is none."""
    run = Run(Job(work := Work(ConnectionError()), "work"))
    loop = asyncio.get_running_loop()

    def at_the_same_time(run: Run, *_: object) -> None:
        ask = functools.partial(asked_to_end, run)
        loop.call_later(60, functools.partial(loop.call_soon, ask) if soon else ask)

    outcome = await carry_out(work, Retry(ConnectionError, backoff=Constant(60)), run=run, on_retry=at_the_same_time)
    assert (Status.INTERRUPTED, 1) == (outcome.status, len(work.calls))


@pytest.mark.virtual
async def test_a_failure_after_it_was_asked_to_end() -> None:
    """In a drain, what would have been retried is interrupted and carries its error; what would not has failed."""
    for error, status in ((ConnectionError(), Status.INTERRUPTED), (KeyError(), Status.FAILED)):
        run = Run(Job(work := Work(error), "work"))
        asked_to_end(run)
        outcome = await carry_out(work, Retry(ConnectionError), run=run)
        assert (status, error) == (outcome.status, outcome.error)
        assert 1 == len(work.calls)


@pytest.mark.virtual
async def test_a_final_run_makes_one_attempt() -> None:
    """Where no further attempt may begin, for no reason that ends the run, it has failed."""
    run = Run(Job(work := Work(ConnectionError()), "work"))
    run.final = True
    outcome = await carry_out(work, Retry(ConnectionError), run=run)
    assert (Status.FAILED, 1) == (outcome.status, len(work.calls))
    assert "no further attempt may begin" == outcome.reason


# --- cancelled ----------------------------------------------------------------------------------


@pytest.mark.defect("D3.1")
@pytest.mark.virtual
async def test_no_attempt_begins_after_a_cancellation() -> None:
    """Cancelled in a pause: it ends at once, and the job is not called once more to find out."""
    work = Work(ConnectionError())
    task = asyncio.create_task(carry_out(work, Retry(ConnectionError, backoff=Constant(60))))
    await asyncio.sleep(10)
    began = clock.current().now()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert began == clock.current().now()
    assert 1 == len(work.calls)


@pytest.mark.defect("D3.1")
@pytest.mark.virtual
async def test_cancelled_in_the_turn_in_which_the_pause_is_over() -> None:
    """A cancellation that comes together with the end of the pause wins."""
    work = Work(ConnectionError())
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(carry_out(work, Retry(ConnectionError, backoff=Constant(60))))
    await asyncio.sleep(0)
    loop.call_later(60, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1 == len(work.calls)


@pytest.mark.virtual
async def test_an_error_during_cancellation_is_not_lost_and_not_retried() -> None:
    """A job that turns its cancellation into a retryable error has failed with it: no further attempt."""
    calls = 0

    async def job() -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("while closing") from None

    task = asyncio.create_task(carry_out(job, Retry(ConnectionError, retries=UNLIMITED, backoff=Constant(0))))
    await asyncio.sleep(1)
    task.cancel()
    outcome = await task
    assert (Status.FAILED, "while closing", 1) == (outcome.status, str(outcome.error), calls)


@pytest.mark.virtual
async def test_cancelling_anywhere_starts_nothing_and_loses_nothing() -> None:
    """Cancelled at each suspension, early and late: it ends cancelled, and no attempt begins after that."""
    calls = 0

    async def job(work: Work) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        return await work()

    async def one() -> Outcome[Any]:
        work = Work(ConnectionError(), ConnectionError(), ConnectionError(), "fine")
        rules = [Retry(ConnectionError, retries=9, backoff=lambda n: 5.0 if n == 0 else 0.0)]
        return await carry_out(functools.partial(job, work), *rules)

    async def check(task: asyncio.Task[Any]) -> None:
        before = calls
        await asyncio.sleep(30)
        assert before == calls
        assert task.cancelled() or task.result().ok

    suspensions = await cancel_everywhere(one, check)
    assert 6 <= suspensions


# --- telling ----------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_each_retry_is_told_before_its_wait() -> None:
    """on_retry hears run, error, wait and rule while `run.attempt` is still the one that failed."""
    heard: list[tuple[int, BaseException, float, str, float]] = []
    error = ConnectionError()
    began = clock.current().now()

    def on_retry(run: Run, error: BaseException, delay: float, rule: str) -> None:
        heard.append((run.attempt, error, delay, rule, clock.current().now() - began))

    work = Work(error, error, "fine")
    await carry_out(work, Retry(ConnectionError, backoff=plain("1s"), name="net"), on_retry=on_retry)
    assert [(1, error, 1.0, "net", 0.0), (2, error, 2.0, "net", 1.0)] == heard


@pytest.mark.virtual
async def test_a_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What on_retry raises is logged and changes nothing."""

    def on_retry(*_: object) -> None:
        raise SystemExit

    outcome = await carry_out(Work(ConnectionError(), 1), Retry(ConnectionError), on_retry=on_retry)
    assert outcome.ok
    assert ["runcrew"] == [record.name for record in caplog.records]


# --- state that outlives a run -----------------------------------------------------------------------


def served(work: Work) -> Run:
    """A run that belongs to a service."""
    run = Run(Job(work, "work"))
    run.service = "poller"
    return run


@pytest.mark.defect("D3.22")
@pytest.mark.virtual
async def test_a_restarted_service_goes_on_with_its_backoff() -> None:
    """With a store, the next run of the service begins where the last one failed, until one succeeds."""
    store = MemoryAttempts()
    rule = Retry(ConnectionError, retries=4, backoff=plain("1s"))

    work = Work(ConnectionError(), ConnectionError(), KeyError())
    await carry_out(work, rule, run=served(work), attempts=store)
    assert [0.0, 1.0, 3.0] == work.times
    assert {"ConnectionError": 2, "*": 2} == store.load("poller")

    work = Work(ConnectionError(), "fine")
    await carry_out(work, rule, run=served(work), attempts=store)
    assert [0.0, 4.0] == work.times
    assert store.load("poller") is None

    work = Work(ConnectionError(), "fine")
    await carry_out(work, rule, run=served(work), attempts=store)
    assert [0.0, 1.0] == work.times


@pytest.mark.virtual
async def test_a_success_at_the_first_attempt_clears_the_store_too() -> None:
    """What an earlier life left is forgotten as soon as a run succeeds."""
    store = MemoryAttempts()
    store.save("poller", {"ConnectionError": 3})
    await carry_out(work := Work("fine"), Retry(ConnectionError), run=served(work), attempts=store)
    assert store.load("poller") is None


@pytest.mark.virtual
async def test_a_used_up_budget_stays_used_up_in_the_store() -> None:
    """A restart alone gives no new budget: the next failure is final at once."""
    store = MemoryAttempts()
    for expected in (3, 1):
        work = Work(ConnectionError())
        rule = Retry(ConnectionError, retries=2, backoff=Constant(1))
        await carry_out(work, rule, run=served(work), attempts=store)
        assert expected == len(work.calls)


@pytest.mark.virtual
async def test_a_run_of_no_service_keeps_nothing() -> None:
    """Without a key nothing is loaded, saved or cleared."""
    store = MemoryAttempts()
    store.save("poller", {"ConnectionError": 3})
    outcome = await carry_out(Work(ConnectionError(), 1), Retry(ConnectionError), attempts=store)
    assert outcome.ok
    assert {"ConnectionError": 3} == store.load("poller")


@pytest.mark.virtual
async def test_cancelled_in_a_pause_the_state_stays() -> None:
    """A stop in the middle of a backoff does not forget how often it has failed."""
    store = MemoryAttempts()
    work = Work(ConnectionError())
    task = asyncio.create_task(carry_out(work, Retry(ConnectionError), run=served(work), attempts=store))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {"ConnectionError": 1, "*": 1} == store.load("poller")


@pytest.mark.virtual
async def test_a_store_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A broken store costs the memory, not the run."""

    class Broken:
        def load(self, key: str, /) -> Mapping[str, int] | None:
            raise OSError("disk")

        def save(self, key: str, state: Mapping[str, int], /) -> None:
            raise OSError("disk")

        def clear(self, key: str, /) -> None:
            raise OSError("disk")

    store: AttemptStore = Broken()
    work = Work(ConnectionError(), "fine")
    outcome = await carry_out(work, Retry(ConnectionError), run=served(work), attempts=store)
    assert (True, 2) == (outcome.ok, outcome.attempts)
    assert 3 == len(caplog.records)


@pytest.mark.virtual
async def test_a_store_that_gives_nonsense_is_as_good_as_none(caplog: pytest.LogCaptureFixture) -> None:
    """What is no mapping at all is logged, and the run begins afresh."""

    class Odd(MemoryAttempts):
        def load(self, key: str, /) -> Any:
            return 47

    work = Work(ConnectionError(), "fine")
    outcome = await carry_out(work, Retry(ConnectionError), run=served(work), attempts=Odd())
    assert outcome.ok
    assert 1 == len(caplog.records)


def test_a_store_keeps_copies() -> None:
    """What is kept does not change when the caller's mapping does, nor can it be changed through what is loaded."""
    store = MemoryAttempts()
    state = {"a": 1}
    store.save("x", state)
    state["a"] = 2
    kept = store.load("x")
    assert {"a": 1} == kept
    with pytest.raises(TypeError):
        kept["a"] = 3  # type: ignore[index]
    store.clear("x")
    store.clear("x")
    assert store.load("x") is None


@pytest.mark.virtual
async def test_a_consecutive_budget_over_a_run() -> None:
    """Another rule's failure in between begins the count anew, as the decision says."""
    a, b = ValueError(), KeyError()
    work = Work(a, a, b, a, a, b, a, a, a)
    await carry_out(
        work,
        Retry(ValueError, retries=Budget(2, "consecutive"), backoff=Constant(1)),
        Retry(KeyError, retries=UNLIMITED, backoff=Constant(1)),
    )
    assert 9 == len(work.calls)
