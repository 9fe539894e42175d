"""Policies around plain functions: the same decisions, in the caller's own thread."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcrew import clock
from runcrew.clock import Clock
from runcrew.errors import ConfigError, RunTimeout
from runcrew.job import current_run
from runcrew.policies import UNLIMITED, Budget, Concurrency, Constant, Dedupe, Exponential, Retry, policy
from runcrew.testing import run_virtual

AT_ONCE = Constant(0)

#: The same rules by the quick way and by the one for all other policies.
WAYS = pytest.mark.parametrize("way", [{}, {"deadline": "1h", "concurrency": Concurrency(9)}], ids=["quick", "full"])


class Stopped(Clock):
    """A clock that stands still, but for what a thread blocks on it."""

    def __init__(self) -> None:
        super().__init__(0)
        self.time = 1000.0
        self.blocked: list[float | None] = []

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time

    def block(self, span: float | None, until: threading.Event | None = None) -> bool:
        self.blocked.append(span)
        self.time += span or 0
        return until is not None and until.is_set()


@pytest.fixture
def stopped() -> Any:
    """The clock in force is one that stands still."""
    own = Stopped()
    before = clock.use(own)
    yield own
    clock._current.reset(before)


@WAYS
def test_a_plain_function_stays_plain(way: Any, stopped: Stopped) -> None:
    """It takes, gives and is called what it was, and its waits block the calling thread."""
    attempts: list[tuple[int, threading.Thread]] = []

    @policy(retry=Retry(OSError, backoff=Exponential("2s", jitter="none")), **way)
    def fetch(url: str, *, tries: int = 1) -> tuple[str, int]:
        """Fetches."""
        attempts.append((current_run().attempt, threading.current_thread()))
        if len(attempts) < 3:
            raise OSError
        return url, tries

    assert ("u", 3) == fetch("u", tries=3)
    assert [2.0, 4.0] == [span for span in stopped.blocked if span]
    assert [(n, threading.current_thread()) for n in (1, 2, 3)] == attempts
    assert not inspect.iscoroutinefunction(fetch)
    assert ("fetch", "Fetches.") == (fetch.__name__, fetch.__doc__)
    assert ["url", "tries"] == [*inspect.signature(fetch).parameters]
    with pytest.raises(LookupError):
        current_run()


@WAYS
def test_a_failure_is_the_functions_own_error(way: Any, stopped: Stopped) -> None:
    """The last error itself, when the budget is used up or no rule takes it."""
    for error, calls in ((OSError("listed"), 4), (KeyError("unlisted"), 1)):
        made: list[int] = []

        @policy(retry=Retry(OSError), **way)
        def fails(error: Exception = error, made: list[int] = made) -> None:
            made.append(1)
            raise error

        with pytest.raises(type(error)) as caught:
            fails()
        assert error is caught.value
        assert calls == len(made)


@WAYS
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_what_is_no_exception_passes_untouched(way: Any, error: BaseException) -> None:
    """It is the caller's own stack: SystemExit and the like go through it as if the policy were not there."""
    attempts: list[int] = []

    @policy(retry=Retry(OSError, backoff=AT_ONCE), **way)
    def fails() -> None:
        attempts.append(1)
        if len(attempts) < 2:
            raise OSError
        raise error

    with pytest.raises(type(error)) as caught:
        fails()
    assert error is caught.value
    assert 2 == len(attempts)
    with pytest.raises(LookupError):
        current_run()


@pytest.mark.parametrize("option", [{"timeout": "30s"}, {"middleware": [lambda inner: inner]}])
def test_what_cannot_work_in_the_callers_thread_is_refused(option: Any) -> None:
    """timeout= and middleware= on a plain function are refused, and the message says what to do instead."""

    def job() -> None: ...

    with pytest.raises(ConfigError, match=r"await policy.call\(fn\)"):
        policy(**option)(job)


@WAYS
def test_a_forgotten_await_is_an_error(way: Any) -> None:
    """A plain function that returns an awaitable fails with a TypeError that names it."""

    async def fetch() -> None: ...

    class Later:
        def __await__(self) -> Any:
            yield

    for forgot in (lambda: fetch(), lambda: Later()):
        with pytest.raises(TypeError, match="awaitable"):
            policy(**way)(forgot)()


def test_a_deadline_bounds_when_attempts_may_begin(stopped: Stopped) -> None:
    """An attempt under way is never cut off; a wait that would pass the deadline is not begun."""
    attempts: list[float] = []

    @policy(deadline="10s", retry=Retry(OSError, retries=UNLIMITED, backoff=Constant(1)))
    def slow() -> None:
        attempts.append(stopped.time)
        stopped.time += 4
        raise OSError

    with pytest.raises(OSError):
        slow()
    assert [1000.0, 1005.0] == attempts
    with pytest.raises(RunTimeout, match="before it began"):
        policy(deadline=0)(lambda: 1)()


def test_waiting_for_a_place_ends_with_the_deadline(stopped: Stopped) -> None:
    """A plain function that gets no place until its deadline has timed out without beginning, and left the line."""
    limit = Concurrency(1)
    assert limit.acquire_blocking()

    @policy(concurrency=limit, deadline="5s", retry=Retry(TimeoutError, backoff=AT_ONCE))
    def job() -> None:
        raise AssertionError

    with pytest.raises(RunTimeout, match="before it began"):
        job()
    assert [5.0] == stopped.blocked
    assert (1, 0) == (limit.in_use, limit.waiting)


def test_a_place_and_a_key_come_back_however_it_ends() -> None:
    """After a value, an error and a SystemExit the place and the key are free."""
    limit, dedupe = Concurrency(1), Dedupe()

    @policy(concurrency=limit, dedupe=dedupe)
    def job(error: BaseException | None) -> None:
        assert (1, 1) == (limit.in_use, len(dedupe.in_flight))
        if error is not None:
            raise error

    job(None)
    for error in (OSError(), SystemExit()):
        with pytest.raises(type(error)):
            job(error)
    assert (0, ()) == (limit.in_use, dedupe.in_flight)


@given(
    script=st.lists(st.sampled_from("ABC."), min_size=1, max_size=9),
    budgets=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    mode=st.sampled_from(["cumulative", "consecutive", "total"]),
    delays=st.tuples(st.sampled_from([0, 0, 1]), st.sampled_from([0, 2])),
)
@settings(max_examples=100, deadline=None)
def test_plain_functions_are_retried_like_async_ones(
    script: list[str], budgets: tuple[int, int], mode: Any, delays: tuple[int, int]
) -> None:
    """For any failures and rules: as many calls, the same histories, waits and end as for an async function."""
    errors: dict[str, Any] = {"A": ConnectionError, "B": KeyError, "C": ValueError}
    rules = [
        Retry(ConnectionError, retries=Budget(budgets[0], mode), backoff=Constant(delays[0])),
        Retry(KeyError, retries=budgets[1], backoff=Constant(delays[1])),
    ]

    def step(seen: list[Any]) -> str:
        what = script[min(len(seen), len(script) - 1)]
        run = current_run()
        history = [(a.number, a.status, type(a.error), a.wait, a.rule) for a in run.history]
        seen.append((what, clock.current().now(), run.attempt, history))
        if what == ".":
            return "fine"
        error: Exception = errors[what]()
        raise error

    def plain(way: Any) -> list[Any]:
        seen: list[Any] = []
        own = Stopped()
        before = clock.use(own)
        try:
            seen.append(policy(retry=rules, **way)(step)(seen))
        except Exception as error:
            seen.append(type(error))
        finally:
            clock._current.reset(before)
        return seen

    async def on_loop() -> list[Any]:
        seen: list[Any] = []

        @policy(retry=rules)
        async def job() -> str:
            return step(seen)

        try:
            seen.append(await job())
        except Exception as error:
            seen.append(type(error))
        return seen

    expected = run_virtual(on_loop, start=1000.0)
    assert expected == plain({})
    assert expected == plain({"deadline": "1h"})


def test_a_call_that_is_over_keeps_nothing() -> None:
    """After a success, also one after failures, nothing of the call is alive, without the help of a collector."""

    class Thing:
        pass

    @policy(retry=Retry(OSError, backoff=AT_ONCE))
    def job(thing: Thing) -> None:
        if current_run().attempt < 2:
            raise OSError

    gc.collect()
    gc.disable()
    try:
        thing = Thing()
        alive = weakref.ref(thing)
        job(thing)
        del thing
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.virtual
async def test_a_plain_function_may_wait_in_a_thread_of_a_virtual_loop() -> None:
    """Its waits pass on the clock in force, also in a thread under virtual time."""
    began = clock.current().now()
    attempts: list[float] = []

    @policy(retry=Retry(OSError, backoff=Constant("1h")))
    def job() -> str:
        attempts.append(clock.current().now() - began)
        if len(attempts) < 3:
            raise OSError
        return "fine"

    assert "fine" == await asyncio.to_thread(job)
    assert [0.0, 3600.0, 7200.0] == attempts
