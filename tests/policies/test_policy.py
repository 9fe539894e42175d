"""Policies around async functions: decorated, called, wrapped; and nobody can tell the quick way from the chain."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcrew import clock
from runcrew.abc import Handler
from runcrew.errors import (
    ConfigError,
    JobCrashed,
    NotAJob,
    RunCancelled,
    RunInterrupted,
    RunSkipped,
    RunTimeout,
)
from runcrew.job import Outcome, Run, Status, current_run
from runcrew.policies import (
    UNLIMITED,
    Budget,
    Concurrency,
    Constant,
    Dedupe,
    Exponential,
    Policy,
    Retry,
    call,
    policy,
    wrap,
)
from runcrew.testing import cancel_everywhere, run_virtual

AT_ONCE = Constant(0)


def passes(inner: Handler) -> Handler:
    """Middleware that adds nothing, but keeps a policy off the quick way."""

    async def handle(run: Run) -> Outcome[Any]:
        return await inner(run)

    return handle


#: The same policies by the quick way and through the chain. What holds for one holds for the other.
WAYS = pytest.mark.parametrize(
    "way", [{}, {"middleware": [passes]}, {"timeout": "1h"}], ids=["quick", "chain", "timed"]
)


class Script:
    """What an async function does at each call: errors are raised, other things returned, the last again and again."""

    def __init__(self, *script: Any) -> None:
        self.script = script
        self.runs: list[tuple[Run, int, int]] = []

    def function(self) -> Callable[[], Any]:
        """The function."""

        async def scripted() -> Any:
            run = current_run()
            self.runs.append((run, run.attempt, len(run.history)))
            step = self.script[min(len(self.runs), len(self.script)) - 1]
            if isinstance(step, BaseException):
                raise step
            return step

        return scripted


# --- the function as it was -----------------------------------------------------------------


@WAYS
@pytest.mark.virtual
async def test_a_decorated_function_is_still_that_function(way: Any) -> None:
    """It takes and gives the same, is async, and keeps its name, its text and its signature."""

    async def fetch(url: str, *, tries: int = 1) -> tuple[str, int]:
        """Fetches."""
        return url, tries

    wrapped = policy(retry=Retry(OSError), **way)(fetch)
    assert ("u", 3) == await wrapped("u", tries=3)
    assert inspect.iscoroutinefunction(wrapped)
    assert ("fetch", "Fetches.") == (wrapped.__name__, wrapped.__doc__)
    assert inspect.signature(fetch) == inspect.signature(wrapped)
    with pytest.raises(TypeError):
        await wrapped()  # type: ignore[call-arg]


@WAYS
@pytest.mark.virtual
async def test_methods_partials_and_callable_objects_can_be_decorated(way: Any) -> None:
    """Whatever is an async job can have policies, and methods get their object."""

    class Client:
        @policy(retry=Retry(OSError), **way)
        async def get(self, x: int) -> tuple[Client, int]:
            return self, x

        async def __call__(self, x: int) -> int:
            return x + 1

    client = Client()
    assert (client, 5) == await client.get(5)
    assert 6 == await policy(**way)(client)(5)
    assert (client, 7) == await policy(**way)(functools.partial(client.get, 7))()


@pytest.mark.parametrize("bad", [5, None, int, "fetch"])
def test_what_can_never_be_run_is_refused(bad: Any) -> None:
    """What is no function is refused where it is decorated."""
    with pytest.raises(NotAJob):
        policy()(bad)


def test_options_are_checked_when_the_policy_is_made() -> None:
    """A mistake shows at the decorator, not at the first call."""
    with pytest.raises(ConfigError, match="retry: 3 is no rule"):
        policy(retry=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout"):
        policy(timeout="never")


# --- attempts ---------------------------------------------------------------------------------


@WAYS
@pytest.mark.parity("E3.6")
@pytest.mark.virtual
async def test_each_call_is_a_run_with_attempts(way: Any) -> None:
    """Inside, current_run() is one run whose attempts count up; outside there is none."""
    script = Script(OSError(), OSError(), "fine")
    assert "fine" == await policy(retry=Retry(OSError, retries=5, backoff=AT_ONCE), **way)(script.function())()
    assert [(1, 0), (2, 1), (3, 2)] == [(attempt, history) for _, attempt, history in script.runs]
    run = script.runs[0][0]
    assert all(run is other for other, _, _ in script.runs)
    assert "scripted" == run.job.name
    with pytest.raises(LookupError):
        current_run()


@WAYS
@pytest.mark.parity("E3.16")
@pytest.mark.defect("D3.14")
@pytest.mark.virtual
async def test_every_call_has_a_budget_of_its_own(way: Any) -> None:
    """Seven calls of which every one fails first, with a budget of 2 each: never used up; nor after one that was."""
    calls = 0

    @policy(retry=Retry(OSError, retries=2, backoff=AT_ONCE), **way)
    async def every_other() -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise OSError
        return calls

    @policy(retry=Retry(OSError, retries=2, backoff=AT_ONCE), **way)
    async def never() -> None:
        nonlocal calls
        calls += 1
        raise OSError

    assert [2, 4, 6, 8, 10, 12, 14] == [await every_other() for _ in range(7)]
    for _ in range(2):
        calls = 0
        with pytest.raises(OSError):
            await never()
        assert 3 == calls


@WAYS
@pytest.mark.parity("T3.39", "E3.7", "E3.8")
@pytest.mark.virtual
async def test_a_failure_is_the_functions_own_error(way: Any) -> None:
    """What comes out is the very object that was raised last, listed or not."""
    for error, calls in ((OSError("listed"), 4), (KeyError("unlisted"), 1)):
        script = Script(error)
        with pytest.raises(type(error)) as caught:
            await policy(retry=Retry(OSError, backoff=AT_ONCE), **way)(script.function())()
        assert error is caught.value
        assert calls == len(script.runs)


@WAYS
@pytest.mark.parametrize(
    "error", [SystemExit(3), asyncio.CancelledError("mine"), BaseExceptionGroup("b", [SystemExit()])]
)
@pytest.mark.virtual
async def test_what_is_no_exception_is_a_crash(way: Any, error: BaseException) -> None:
    """SystemExit, and a CancelledError that nobody asked for, come out as JobCrashed from it, not retried."""
    script = Script(error)
    with pytest.raises(JobCrashed) as caught:
        await policy(retry=Retry(Exception, backoff=AT_ONCE), **way)(script.function())()
    assert error is caught.value.__cause__
    assert 1 == len(script.runs)
    outcome = caught.value.outcome
    assert outcome is not None
    assert (Status.FAILED, error, 1) == (outcome.status, outcome.error, outcome.attempts)
    assert outcome.started is not None


@WAYS
@pytest.mark.virtual
async def test_a_wait_between_attempts_passes(way: Any) -> None:
    """Backoffs are waited for on the clock."""
    began = clock.current().now()
    script = Script(OSError(), OSError(), "fine")
    await policy(retry=Retry(OSError, backoff=Exponential("2s", jitter="none")), **way)(script.function())()
    assert began + 6 == clock.current().now()


@WAYS
@pytest.mark.parametrize("first", [0.0, 1.0])
@pytest.mark.virtual
async def test_users_code_is_asked_once_for_each_failure(way: Any, first: float) -> None:
    """Predicate, hint and backoff are called once for a failure, in order, whichever way the call goes."""
    asked: list[Any] = []

    def when(error: OSError) -> bool:
        asked.append("when")
        return True

    def hint(error: OSError) -> None:
        asked.append("hint")

    def backoff(n: int) -> float:
        asked.append(n)
        return first + n

    script = Script(OSError(), OSError(), OSError(), "fine")
    await policy(retry=Retry(OSError, when=when, hint=hint, backoff=backoff), **way)(script.function())()
    assert ["when", "hint", 0, "when", "hint", 1, "when", "hint", 2] == asked


@WAYS
@pytest.mark.virtual
async def test_retries_without_a_wait_let_the_loop_go_round(way: Any) -> None:
    """A call that is retried for ever without a wait can be cancelled, and others have their turn."""
    script = Script(OSError())
    task = asyncio.create_task(
        policy(retry=Retry(OSError, retries=UNLIMITED, backoff=AT_ONCE), **way)(script.function())()
    )
    for _ in range(20):
        await asyncio.sleep(0)
    assert 15 < len(script.runs) < 30
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


ERRORS: dict[str, Any] = {"A": ConnectionError, "B": KeyError, "C": ValueError, "X": SystemExit}


@given(
    script=st.lists(st.sampled_from("ABCX."), min_size=1, max_size=9),
    budgets=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    mode=st.sampled_from(["cumulative", "consecutive", "total"]),
    delays=st.tuples(st.sampled_from([0, 0, 1]), st.sampled_from([0, 2])),
    looks=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_quick_way_cannot_be_told_from_the_chain(
    script: list[str], budgets: tuple[int, int], mode: Any, delays: tuple[int, int], looks: bool
) -> None:
    """For any failures and rules: the same calls at the same times, the same histories seen, the same end."""
    rules = [
        Retry(ConnectionError, retries=Budget(budgets[0], mode), backoff=Constant(delays[0])),
        Retry(KeyError, retries=budgets[1], backoff=Constant(delays[1])),
    ]

    async def main(way: dict[str, Any]) -> list[Any]:
        seen: list[Any] = []
        began = clock.current().now()

        @policy(retry=rules, **way)
        async def job() -> str:
            step = script[min(len(seen), len(script) - 1)]
            entry: list[Any] = [step, clock.current().now() - began]
            if looks or step == "B":
                run = current_run()
                entry += [run.attempt, [(a.number, a.status, type(a.error), a.wait, a.rule) for a in run.history]]
            seen.append(entry)
            if step == ".":
                return "fine"
            failure: BaseException = ERRORS[step]()
            raise failure

        try:
            end: Any = await job()
        except BaseException as error:
            end = (type(error), type(error.__cause__))
            if isinstance(error, JobCrashed) and error.outcome is not None:
                end += (error.outcome.attempts, error.outcome.reason, len(error.outcome.history))
        return [*seen, end, clock.current().now() - began]

    ways: list[dict[str, Any]] = [{"middleware": [passes]}, {}, {"timeout": "1h"}, {"deadline": "1h"}]
    chain, *others = (run_virtual(main, way) for way in ways)
    for other in others:
        assert chain == other


# --- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [{}, {"middleware": [passes]}], ids=["quick", "chain"])
@pytest.mark.parity("T3.25", "T3.48", "E3.14")
@pytest.mark.virtual
async def test_a_timeout_is_for_each_attempt(way: Any) -> None:
    """RunTimeout comes out, which is a TimeoutError; a rule for it tries again, each attempt with a time of its own."""
    ends: list[float | None] = []

    async def slow() -> None:
        ends.append(current_run().ends)
        await asyncio.sleep(100)

    began = clock.current().now()
    with pytest.raises(RunTimeout, match="attempt 1 took longer than its timeout of 3s") as caught:
        await policy(timeout="3s", **way)(slow)()
    assert isinstance(caught.value, TimeoutError)
    assert began + 3 == clock.current().now()
    rule = Retry(TimeoutError, retries=1, backoff=Constant(1))
    with pytest.raises(RunTimeout) as caught:
        await policy(timeout="3s", retry=rule, **way)(slow)()
    outcome = caught.value.outcome
    assert outcome is not None
    assert (2, 7.0, ["timed_out"] * 2) == (outcome.attempts, outcome.elapsed, [a.status for a in outcome.history])
    assert [began + 3, began + 6, began + 10] == ends
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()


@pytest.mark.parametrize("way", [{}, {"middleware": [passes]}], ids=["quick", "chain"])
@pytest.mark.virtual
async def test_after_its_time_a_value_or_an_error_counts(way: Any) -> None:
    """What was cut off and still gives a value has succeeded, and a real error is its own."""

    @policy(timeout="3s", **way)
    async def stubborn(end: Exception | None) -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            assert current_run().cancelled
            if end is not None:
                raise end from None
        return "late"

    assert "late" == await stubborn(None)
    with pytest.raises(KeyError):
        await stubborn(KeyError())
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()


@pytest.mark.virtual
async def test_a_deadline_counts_from_the_call() -> None:
    """A policy's deadline is for the call as a whole."""

    @policy(deadline="10s", retry=Retry(OSError, retries=UNLIMITED, backoff=Constant(1)))
    async def fails() -> None:
        await asyncio.sleep(4)
        raise OSError

    began = clock.current().now()
    with pytest.raises(OSError):
        await fails()
    assert began + 9 == clock.current().now()

    with pytest.raises(RunTimeout, match="deadline of 2s passed in attempt 1"):
        await call(asyncio.sleep, 5, deadline="2s")


# --- cancelling --------------------------------------------------------------------------------------


@WAYS
@pytest.mark.defect("D3.1")
@pytest.mark.virtual
async def test_cancelling_the_caller_cancels_the_call(way: Any) -> None:
    """In the function, in a pause and in a turn in between: asyncio.CancelledError, and no further attempt."""
    calls = 0

    @policy(retry=Retry(OSError, retries=9, backoff=lambda n: 5.0 if n == 1 else 0.0), **way)
    async def job() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        if calls < 5:
            raise OSError
        return "done"

    async def one() -> str:
        nonlocal calls
        calls = 0
        return await job()

    async def check(task: asyncio.Task[Any]) -> None:
        before = calls
        await asyncio.sleep(30)
        assert before == calls
        assert task.cancelled() or task.result() == "done"

    # five attempts that sleep, one pause, and a turn of the loop after the pause's neighbours
    assert 6 <= await cancel_everywhere(one, check)


@WAYS
@pytest.mark.virtual
async def test_an_error_during_cancellation_comes_out_and_is_not_retried(way: Any) -> None:
    """A function that turns its cancellation into a retryable error ends with it: seen, and no further attempt."""
    calls = 0

    @policy(retry=Retry(OSError, retries=UNLIMITED, backoff=AT_ONCE), **way)
    async def job() -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("while closing")

    task = asyncio.create_task(job())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(OSError, match="while closing"):
        await task
    assert 1 == calls


@WAYS
@pytest.mark.virtual
async def test_an_outer_timeout_stays_the_callers(way: Any) -> None:
    """`asyncio.timeout` around a call in its pause ends it as it ends anything."""
    script = Script(OSError())
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(3):
            await policy(retry=Retry(OSError, backoff=Constant(60)), **way)(script.function())()
    assert TimeoutError is type(caught.value)
    assert 1 == len(script.runs)


@WAYS
@pytest.mark.virtual
async def test_a_coroutine_that_is_thrown_away_goes_quietly(way: Any) -> None:
    """Closing a call that was begun raises nothing and attempts nothing."""
    script: list[int] = []

    @policy(retry=Retry(Exception, retries=UNLIMITED, backoff=AT_ONCE), **way)
    async def job() -> None:
        script.append(1)
        await asyncio.sleep(1)

    coroutine: Any = job()
    coroutine.send(None)
    coroutine.close()
    assert [1] == script


@WAYS
@pytest.mark.virtual
async def test_a_call_that_is_over_keeps_nothing(way: Any) -> None:
    """After a success, also one after failures, nothing of the call is alive, without the help of a collector."""

    class Thing:
        pass

    @policy(retry=Retry(OSError, backoff=AT_ONCE), **way)
    async def job(thing: Thing) -> None:
        if current_run().attempt < 3:
            raise OSError

    gc.collect()
    gc.disable()
    try:
        thing = Thing()
        alive = weakref.ref(thing)
        await job(thing)
        del thing
        assert alive() is None or way  # the chain's own frames are the backend's business
    finally:
        gc.enable()
    gc.collect()
    assert alive() is None


# --- call, wrap, and plain functions in threads ----------------------------------------------------------


@pytest.mark.virtual
async def test_call_runs_any_function_once() -> None:
    """An async function on the loop, a plain one in a thread; both see their run, and keywords go by partial."""

    async def on_loop(a: int, b: int = 0) -> tuple[int, int, bool]:
        return a, b, current_run().in_thread

    def in_thread(a: int, b: int = 0) -> tuple[int, int, bool]:
        return a, b, threading.current_thread() is not threading.main_thread()

    both = policy(retry=Retry(OSError), timeout="10s")
    assert (1, 2, False) == await both.call(on_loop, 1, 2)
    assert (1, 2, True) == await both.call(in_thread, 1, 2)
    assert (1, 5, True) == await call(functools.partial(in_thread, b=5), 1)
    assert (1, 0, False) == await call(on_loop, 1, retry=Retry(OSError), name="special")


@pytest.mark.virtual
async def test_call_retries_a_plain_function_in_threads() -> None:
    """The same rules, waits and errors as for async functions."""
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(current_run().attempt)
        if len(attempts) < 3:
            raise OSError
        return "fine"

    began = clock.current().now()
    assert "fine" == await call(flaky, retry=Retry(OSError, backoff=Exponential("1s", jitter="none")))
    assert [1, 2, 3] == attempts
    assert began + 3 == clock.current().now()


@pytest.mark.virtual
async def test_cancelling_a_call_tells_its_thread() -> None:
    """A plain function in a thread is told to end when its caller is cancelled, and nobody waits for it."""
    told = threading.Event()
    begun = threading.Event()

    def patient() -> None:
        begun.set()
        if current_run().wait_cancelled("1h"):
            told.set()

    task = asyncio.create_task(call(patient))
    while not begun.is_set():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told.wait(5)


@pytest.mark.virtual
async def test_a_name_is_what_runs_are_called() -> None:
    """name= is in messages instead of the function's own."""

    async def slow() -> None:
        await asyncio.sleep(10)

    with pytest.raises(RunTimeout, match=r"^nightly: "):
        await policy(timeout=1, name="nightly")(slow)()
    with pytest.raises(RunTimeout, match=r"^slow: "):
        await call(slow, timeout=1)


@pytest.mark.virtual
async def test_wrap_puts_middleware_around_a_function() -> None:
    """The first is outermost; a plain function becomes an async one that runs in a thread."""
    trace: list[str] = []

    def tag(name: str) -> Callable[[Handler], Handler]:
        def middleware(inner: Handler) -> Handler:
            async def handle(run: Run) -> Outcome[Any]:
                trace.append(name)
                return await inner(run)

            return handle

        return middleware

    async def add(a: int, b: int) -> int:
        return a + b

    def where() -> str:
        return threading.current_thread().name

    assert 3 == await wrap(add, tag("first"), tag("second"))(1, b=2)
    assert ["first", "second"] == trace
    assert threading.current_thread().name != await wrap(where, tag("third"))()
    assert "add" == wrap(add).__name__


@pytest.mark.virtual
async def test_a_skipped_call_raises_run_skipped() -> None:
    """A twin that is under way: RunSkipped, with the reason."""

    @policy(dedupe=Dedupe())
    async def job(n: int) -> int:
        await asyncio.sleep(1)
        return n

    first, second = await asyncio.gather(job(1), job(1), return_exceptions=True)
    assert 1 == first
    assert isinstance(second, RunSkipped)
    assert "job(1)" in str(second)


@pytest.mark.virtual
async def test_middleware_may_answer_by_itself() -> None:
    """A handler that never asks the inner one decides what the caller gets, by the outcome's status."""

    def answer(status: Status, value: Any = None) -> Callable[[Handler], Handler]:
        def middleware(inner: Handler) -> Handler:
            async def handle(run: Run) -> Outcome[Any]:
                return run.finished(status, 0.0, value=value, reason="because")

            return handle

        return middleware

    async def job() -> str:
        raise AssertionError

    assert "cached" == await wrap(job, answer(Status.SUCCEEDED, "cached"))()
    for status, error in (
        (Status.CANCELLED, RunCancelled),
        (Status.INTERRUPTED, RunInterrupted),
        (Status.SKIPPED, RunSkipped),
    ):
        with pytest.raises(error, match="because"):
            await wrap(job, answer(status))()


@pytest.mark.virtual
async def test_middleware_may_end_a_run() -> None:
    """A run that middleware asked to end ends as that, and not as a cancellation of the caller."""

    def impatient(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            run.ask_to_end(Status.INTERRUPTED, "enough")
            return await inner(run)

        return handle

    async def job() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RunInterrupted, match="enough"):
        await wrap(job, impatient)()


@pytest.mark.virtual
async def test_middleware_that_gives_no_outcome_is_named() -> None:
    """A handler that forgets its outcome is a mistake that says so."""

    def forgetful(inner: Handler) -> Handler:
        async def handle(run: Run) -> Any:
            await inner(run)

        return handle

    async def job() -> int:
        return 1

    with pytest.raises(ConfigError, match="the handler of job gave None"):
        await wrap(job, forgetful)()


@pytest.mark.virtual
async def test_middleware_that_raises_is_heard() -> None:
    """A fault of middleware is the caller's to see."""

    def broken(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            raise ZeroDivisionError

        return handle

    async def job() -> int:
        return 1

    with pytest.raises(ZeroDivisionError):
        await wrap(job, broken)()


def test_one_policy_serves_several_loops() -> None:
    """Nothing is bound to a loop: a decorated function runs on whatever loop calls it, one after the other."""
    limit = Concurrency(1)

    @policy(retry=Retry(OSError), timeout=5, concurrency=limit, dedupe=Dedupe())
    async def job() -> int:
        await asyncio.sleep(0)
        return 1

    assert [1, 1, 1] == [asyncio.run(job()) for _ in range(3)]  # type: ignore[arg-type]


def test_a_policy_can_be_looked_at() -> None:
    """It shows its options."""
    assert isinstance(policy(), Policy)
    assert "timeout=30.0" in repr(policy(timeout="30s"))


@WAYS
@pytest.mark.virtual
async def test_calls_inside_calls_have_runs_of_their_own(way: Any) -> None:
    """A call within a call is a run within a run; afterwards the outer one is the current one again."""
    made = policy(retry=Retry(OSError, backoff=AT_ONCE), **way)

    @made
    async def inner() -> Run:
        return current_run()

    @made
    async def outer() -> tuple[Run, Run, Run]:
        return current_run(), await inner(), current_run()

    before, inside, after = await outer()
    assert before is after
    assert before is not inside
    assert before.id != inside.id


@pytest.mark.virtual
async def test_a_run_is_made_once_whoever_looks() -> None:
    """However many look, from tasks and threads, at a call by the quick way: they see one run."""

    @policy(retry=Retry(OSError))
    async def job() -> list[Run]:
        async def look() -> Run:
            return current_run()

        in_thread = asyncio.to_thread(current_run)
        return [*await asyncio.gather(look(), in_thread, look()), current_run()]

    runs = await job()
    assert 4 == len(runs)
    assert all(run is runs[0] for run in runs)


@pytest.mark.virtual
async def test_a_single_attempt_has_no_history_by_any_door() -> None:
    """Where nothing retries, the outcome is the one attempt: alike for a decorated function and for a call."""

    async def slow() -> None:
        await asyncio.sleep(60)

    calls = policy(timeout="1s")(slow), policy(timeout="1s", deadline="1h")(slow), lambda: call(slow, timeout="1s")
    for run in calls:
        with pytest.raises(RunTimeout) as raised:
            await run()
        outcome = raised.value.outcome
        assert outcome is not None
        assert (1, ()) == (outcome.attempts, outcome.history)
