"""The chain: its order, what adds a layer, what is refused, and how it is said in words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runcrew.abc import Handler
from runcrew.backends import LoopBackend, ThreadBackend, choose
from runcrew.errors import ConfigError
from runcrew.job import Job, Outcome, Run, Status
from runcrew.policies import (
    UNLIMITED,
    Concurrency,
    Constant,
    Dedupe,
    Exponential,
    Options,
    Retry,
    chain,
    describe,
    retry_each,
)


async def work() -> None:
    """Does nothing."""


def plain() -> None:
    """Does nothing, in a thread."""


def tag(name: str, trace: list[str]) -> Any:
    """Middleware that writes down when a run comes and goes."""

    def middleware(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            trace.append(f"{name} in")
            try:
                return await inner(run)
            finally:
                trace.append(f"{name} out")

        return handle

    return middleware


class Traced(Dedupe):
    """Says when it is asked."""

    def __init__(self, trace: list[str]) -> None:
        super().__init__()
        self.trace = trace

    def claim(self, run: Run) -> Any:
        self.trace.append("dedupe")
        return super().claim(run)


@pytest.mark.virtual
async def test_the_order_of_policies() -> None:
    """Middleware (first outermost), dedupe, deadline, retry, concurrency, timeout, backend: each seen in its place."""
    trace: list[str] = []
    limit = Concurrency(1)
    error = ConnectionError()

    class Backend:
        async def handle(self, run: Run) -> Outcome[Any]:
            trace.append(f"due {run.due is not None}, limit {run.limit is not None}, in use {limit.in_use}")
            return run.finished(Status.FAILED, 0.0, error=error)

    def on_retry(run: Run, *_: object) -> None:
        trace.append(f"retry, in use {limit.in_use}")

    options = Options(
        retry=Retry(ConnectionError, retries=1, backoff=Constant(1)),
        timeout=5,
        deadline=60,
        concurrency=limit,
        dedupe=Traced(trace),
        middleware=[tag("first", trace), tag("second", trace)],
    )
    run = Run(Job(work))
    outcome = await chain(run.job, Backend(), options, on_retry=on_retry)(run)
    assert error is outcome.error
    assert [
        "first in",
        "second in",
        "dedupe",
        "due True, limit True, in use 1",
        "retry, in use 0",
        "due True, limit True, in use 1",
        "second out",
        "first out",
    ] == trace


def test_what_is_not_asked_for_adds_no_layer() -> None:
    """Without options the chain is the backend itself."""
    backend = LoopBackend()
    assert backend.handle == chain(Job(work), backend, Options())


@pytest.mark.virtual
async def test_middleware_sees_one_run_whatever_its_attempts() -> None:
    """Users' middleware is around the run as a whole: it sees one outcome, with all attempts in it."""
    seen: list[int] = []

    def middleware(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            outcome = await inner(run)
            seen.append(outcome.attempts)
            return outcome

        return handle

    async def fails() -> None:
        raise ConnectionError

    run = Run(Job(fails))
    await chain(run.job, LoopBackend(), Options(Retry(ConnectionError, retries=2), middleware=[middleware]))(run)
    assert [3] == seen


@pytest.mark.virtual
async def test_an_instance_serves_as_middleware() -> None:
    """Middleware may be any callable that takes a handler and gives one."""

    class Counter:
        def __init__(self) -> None:
            self.runs = 0

        def __call__(self, inner: Handler) -> Handler:
            async def handle(run: Run) -> Outcome[Any]:
                self.runs += 1
                return await inner(run)

            return handle

    counter = Counter()
    handler = chain(Job(work), LoopBackend(), Options(middleware=(counter, counter)))
    await handler(Run(Job(work)))
    assert 2 == counter.runs


def test_rules_are_given_one_by_one_or_in_lists() -> None:
    """One rule, a list, a tuple, and what retry_each gave among others: one flat tuple in order."""
    a, b, c = Retry(ValueError), Retry(KeyError), Retry(OSError)
    assert (a,) == Options(a).retry
    assert (a, b) == Options([a, b]).retry == Options((a, b)).retry
    assert (a, b, c) == Options([a, (b, c)]).retry
    assert 3 == len(Options([*retry_each(ValueError, KeyError), a]).retry)
    assert () == Options([]).retry == Options(()).retry == Options(retry_each()).retry


async def async_middleware(inner: Handler) -> Handler:
    """Would give a coroutine."""
    return inner


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retry": ConnectionError}, "retry: ConnectionError is no rule: give rc.Retry"),
        ({"retry": [ConnectionError]}, "retry: ConnectionError is no rule"),
        ({"retry": 3}, "retry: 3 is no rule"),
        ({"retry": [[[Retry(OSError)]]]}, "is no rule"),
        ({"retry": None}, "retry: None is no rule"),
        ({"timeout": -1}, "timeout: -1 is negative"),
        ({"deadline": "soon"}, "deadline: 'soon' does not parse"),
        ({"concurrency": 4}, r"concurrency: 4 is none: give rc.Concurrency\(4\)"),
        ({"dedupe": True}, r"dedupe: True is none: give rc.Dedupe\(\)"),
        ({"middleware": tag("x", [])}, "middleware: .* is no list"),
        ({"middleware": [5]}, "middleware: 5 cannot be called"),
        ({"middleware": [async_middleware]}, "middleware: .* is async"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    """Each option is checked where it is given, by its name and value, with the remedy."""
    with pytest.raises(ConfigError, match=said):
        Options(**given)


def test_middleware_has_to_give_a_handler() -> None:
    """What middleware gives is checked when the chain is made, not when the first run comes."""
    with pytest.raises(ConfigError, match="nothing gave None"):

        def nothing(inner: Handler) -> Any:
            return None

        nothing.__qualname__ = "nothing"
        chain(Job(work), LoopBackend(), Options(middleware=[nothing]))


def test_options_are_a_value() -> None:
    """Checked once, in seconds, and not to be changed."""
    options = Options(timeout="30s", deadline="2m")
    assert (30.0, 120.0, None, None) == (options.timeout, options.deadline, options.concurrency, options.dedupe)
    with pytest.raises(AttributeError):
        options.timeout = 5.0  # type: ignore[misc]


def test_the_chain_in_words() -> None:
    """Outermost first, each rule by itself, where it runs last; a plain job on the loop says so."""
    options = Options(
        retry=[
            Retry(ConnectionError, retries=5, backoff=Exponential("1s", cap="30s")),
            Retry(KeyError, retries=UNLIMITED, backoff=Constant("100ms"), name="store"),
        ],
        timeout="30s",
        deadline="5m",
        concurrency=Concurrency(4, "words"),
        dedupe=Dedupe(),
        middleware=[async_named],
    )
    assert (
        "middleware async_named",
        "dedupe by arguments",
        "deadline 5m",
        "retry ConnectionError 5x exponential 1s..30s full jitter",
        "retry store without limit constant 100ms",
        "concurrency 4 (words)",
        "timeout 30s",
        "loop",
    ) == describe(Job(work), LoopBackend(), options)
    assert ("thread",) == describe(Job(plain), ThreadBackend(), Options())
    assert ("thread",) == describe(Job(plain), choose(Job(plain)), Options())
    assert ("loop, inline",) == describe(Job(plain), LoopBackend(), Options())

    class Cluster:
        async def handle(self, run: Run) -> Outcome[Any]:
            raise NotImplementedError

    Cluster.__qualname__ = "Cluster"
    assert ("Cluster",) == describe(Job(work), Cluster(), Options())


def async_named(inner: Handler) -> Handler:
    """Middleware that adds nothing."""
    return inner


@pytest.mark.virtual
async def test_one_chain_serves_many_runs_at_once() -> None:
    """A compiled chain keeps nothing of one run for another."""

    async def job(number: int) -> int:
        await asyncio.sleep(number)
        if number % 2:
            raise ConnectionError(number)
        return number

    compiled = Job(job)
    options = Options(Retry(ConnectionError, retries=2, backoff=Constant(1)), timeout=60, concurrency=Concurrency(3))
    handler = chain(compiled, LoopBackend(), options)
    outcomes = await asyncio.gather(*(handler(Run(compiled, (number,))) for number in range(10)))
    assert [1, 3] * 5 == [outcome.attempts for outcome in outcomes]
    assert [0, 2, 4, 6, 8] == [outcome.value for outcome in outcomes if outcome.ok]
