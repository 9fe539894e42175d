"""per_worker: middleware that each worker has for itself, in the middle of what all of them share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.abc import Handler, Middleware
from runcrew.backends import LoopBackend
from runcrew.job import Job, Outcome, Run, Status
from runcrew.policies import Options, chain, describe


class Counted:
    """A factory of counters, which keeps what it has made."""

    def __init__(self) -> None:
        self.made: list[rc.Counter] = []

    def __call__(self) -> rc.Counter:
        """Another one."""
        self.made.append(rc.Counter())
        return self.made[-1]

    @property
    def started(self) -> list[int]:
        """How many runs each has seen, sorted."""
        return sorted(counter.started for counter in self.made)


def wraps(seen: list[str], name: str) -> Middleware:
    """A middleware that notes when it is wrapped and when a run goes through."""

    def middleware(handler: Handler) -> Handler:
        seen.append(f"{name} wraps")

        async def handle(run: Run) -> Outcome[Any]:
            seen.append(name)
            return await handler(run)

        return handle

    return middleware


async def briefly() -> None:
    """A job that takes a second."""
    await asyncio.sleep(1)


@pytest.mark.parity("T4.8", "T4.9")
@pytest.mark.virtual
async def test_each_worker_has_its_own_and_the_rest_is_shared() -> None:
    """Three workers have three counters, each of which sees that worker's runs, and one counter sees them all."""
    shared, own = rc.Counter(), Counted()
    async with rc.Queue("jobs", workers=3, middleware=[rc.per_worker(own), shared]) as queue:
        await asyncio.gather(*(queue.run(briefly) for _ in range(6)))
    assert ([2, 2, 2], 6) == (own.started, shared.started)


@pytest.mark.virtual
async def test_it_is_made_at_a_workers_first_run_and_once() -> None:
    """A worker that never had a run has none; one that had several was asked for once."""
    own = Counted()
    async with rc.Queue("jobs", workers=3, middleware=[rc.per_worker(own)]) as queue:
        assert [] == own.made
        for _ in range(5):
            await queue.run(briefly)
        assert 5 == sum(own.started)
        await asyncio.gather(*(queue.run(briefly) for _ in range(3)))
        assert 3 == len(own.made)


@pytest.mark.virtual
async def test_what_is_shared_is_wrapped_once_inside_and_outside() -> None:
    """The other middleware of the list is wrapped once for the queue, wherever it stands, and the order holds."""
    seen: list[str] = []
    middleware: list[Middleware] = [
        wraps(seen, "first"), rc.per_worker(lambda: wraps(seen, "own")), wraps(seen, "last"),
        rc.per_worker(lambda: wraps(seen, "second own")),
    ]  # fmt: skip
    async with rc.Queue("jobs", workers=2, middleware=middleware) as queue:
        assert ["last wraps", "first wraps"] == seen
        del seen[:]
        await queue.run(briefly)
        assert ["first", "own wraps", "own", "last", "second own wraps", "second own"] == seen
        await asyncio.gather(queue.run(briefly), queue.run(briefly))
    wrapped = [word for word in seen if word.endswith("wraps")]
    assert ["own wraps", "own wraps", "second own wraps", "second own wraps"] == sorted(wrapped)


@pytest.mark.parity("T4.8", "T4.47")
@pytest.mark.virtual
async def test_a_pace_for_each_worker() -> None:
    """With a Pace of its own each worker begins a run every second, so three of them begin three."""
    at: list[float] = []

    async def job() -> None:
        at.append(asyncio.get_running_loop().time())

    own = rc.per_worker(lambda: rc.Pace(every="1s"))
    async with rc.Queue("jobs", workers=3, middleware=[own]) as queue:
        await asyncio.gather(*(queue.run(job) for _ in range(9)))
    assert [0.0] * 3 + [1.0] * 3 + [2.0] * 3 == at


@pytest.mark.virtual
async def test_plain_jobs_and_spare_workers_have_theirs_too() -> None:
    """In a thread or past the queue, each worker's runs go through its own middleware, called on the loop."""
    threads: list[threading.Thread] = []
    own = Counted()

    def factory() -> rc.Counter:
        threads.append(threading.current_thread())
        return own()

    def plain() -> int:
        return threading.get_ident()

    async with rc.Queue("jobs", spares=1, middleware=[rc.per_worker(factory)]) as queue:
        assert threading.get_ident() != await queue.run(plain)
        await queue.run(plain)
        await queue.run_now(plain)
        await queue.run_now(briefly)
    assert [2, 2] == own.started
    assert [threading.current_thread()] * 2 == threads


@pytest.mark.virtual
async def test_a_new_worker_and_a_new_life_have_new_ones() -> None:
    """A worker that takes another's place asks for its own, and so does every worker of the next life."""
    own = Counted()
    queue: Any = rc.Queue("jobs", workers=1, middleware=[rc.per_worker(own)])
    async with queue:
        await queue.run(briefly)
        await queue.resize(0)
        await queue.resize(1)
        await queue.run(briefly)
    assert [1, 1] == own.started
    async with queue:
        await queue.run(briefly)
    assert [1, 1, 1] == own.started


@pytest.mark.virtual
async def test_one_marker_may_be_used_twice() -> None:
    """The same marker in two queues, or twice in one list, is a middleware for each place."""
    own = Counted()
    marker = rc.per_worker(own)
    async with rc.Queue("a", middleware=[marker, marker]) as a, rc.Queue("b", middleware=[marker]) as b:
        await a.run(briefly)
        await b.run(briefly)
    assert [1, 1, 1] == own.started


# --- what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no luck"), SystemExit("no luck")])
@pytest.mark.virtual
async def test_a_factory_that_raises_fails_the_run_and_is_asked_again(error: BaseException) -> None:
    """The run fails with that error, its reason names the factory, and the worker's next run asks anew."""
    own, errors = Counted(), [error]

    def make_counter() -> rc.Counter:
        if errors:
            raise errors.pop()
        return own()

    async with rc.Queue("jobs", middleware=[rc.per_worker(make_counter)]) as queue:
        outcome = await (await queue.submit(briefly)).outcome()
        assert (Status.FAILED, error, None) == (outcome.status, outcome.error, outcome.value)
        assert "per_worker" in outcome.reason
        assert "make_counter" in outcome.reason
        assert "no luck" in outcome.reason
        await queue.run(briefly)
    assert [1] == own.started


@pytest.mark.parametrize(
    "made", [42, lambda handler: 42, lambda: None, rc.per_worker(rc.Counter)], ids=["int", "gives int", "bad", "again"]
)
@pytest.mark.virtual
async def test_what_is_no_middleware_fails_the_run(made: Any) -> None:
    """A factory whose product cannot be wrapped around a handler fails the run, and the reason says so."""
    async with rc.Queue("jobs", middleware=[rc.per_worker(lambda: made)]) as queue:
        outcome = await (await queue.submit(briefly)).outcome()
    assert Status.FAILED is outcome.status
    assert "per_worker(" in outcome.reason


@pytest.mark.virtual
async def test_a_failed_factory_can_be_retried() -> None:
    """A retry rule that matches what the factory raised tries again, and the job then runs."""
    errors: list[Exception] = [ConnectionError(), ConnectionError()]

    def factory() -> rc.Counter:
        if errors:
            raise errors.pop()
        return rc.Counter()

    rule = rc.Retry(ConnectionError, retries=2, backoff=rc.Constant(1))
    async with rc.Queue("jobs", middleware=[rc.per_worker(factory)], retry=rule) as queue:
        outcome = await (await queue.submit(briefly)).outcome()
    assert (Status.SUCCEEDED, 3) == (outcome.status, outcome.attempts)


# --- what is refused --------------------------------------------------------------------


def needs_one(n: int) -> Any:
    """No factory: it wants to be told something."""


async def asynchronous() -> Any:
    """No factory: nobody would await it."""


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (42, "per_worker: 42 cannot be called"),
        (None, "per_worker: None cannot be called"),
        (rc.Pace(every=1), "per_worker: .*without arguments.*rc.per_worker"),
        (needs_one, "needs_one cannot be called without arguments"),
        (asynchronous, "is async"),
    ],
)
def test_what_is_no_factory_is_refused(factory: Any, said: str) -> None:
    """A factory is a plain callable without required arguments; a middleware itself is none."""
    with pytest.raises(rc.ConfigError, match=said):
        rc.per_worker(factory)


@pytest.mark.parametrize(
    "make",
    [
        lambda own: rc.OneShot(briefly, middleware=[own]),
        lambda own: rc.Interval(briefly, "1s", middleware=[own]),
        lambda own: rc.wrap(briefly, own),
        lambda own: rc.policy(middleware=[own])(briefly),
        lambda own: chain(Job(briefly), LoopBackend(), Options(middleware=[own])),
    ],
    ids=["OneShot", "Interval", "wrap", "policy", "chain"],
)
def test_without_workers_it_is_refused(make: Callable[[Any], Any]) -> None:
    """Where nothing has workers, the message names the marker and what to do."""
    with pytest.raises(rc.ConfigError, match=r"per_worker\(Counter\).*give it to a pool or a queue"):
        make(rc.per_worker(rc.Counter))


def test_it_says_what_it_is() -> None:
    """Its text, a chain in words and a queue's description name the factory."""
    own = rc.per_worker(rc.Counter)
    assert "<per_worker(Counter)>" == repr(own)
    assert "middleware per_worker(Counter)" == describe(Job(briefly), LoopBackend(), Options(middleware=[own]))[0]
    assert "middleware per_worker(Counter)" == rc.Queue("jobs", middleware=[own]).describe()[0]
    assert "middleware pace (every 1s)" == rc.Queue("jobs", middleware=[rc.Pace(every=1)]).describe()[0]
