"""Options: what is accepted, and what is refused with its value and a remedy."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest
from queue_made import Script, Things, give, rounds, take, use

import runcrew as rc
from runcrew.job import Outcome, Run


async def a_generator() -> Any:
    """What yields a resource."""
    yield 1


async def an_async_function(error: object) -> bool:
    """What `healthy` must not be."""
    return True


class HalfACollector:
    """What has one method of those that a collector needs."""

    def arrived(self, at: float) -> None: ...


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": 3}, "name: 3"),
    ({"workers": -1}, "workers: -1"),
    ({"workers": 1.5}, "workers: 1.5"),
    ({"workers": True}, "workers: True"),
    ({"workers": 0}, "nobody serves"),
    ({"workers": 4, "max_workers": 3}, "max_workers: 3 is less than workers=4"),
    ({"max_workers": 0}, "max_workers: 0"),
    ({"spares": -1}, "spares: -1"),
    ({"spares": 2, "max_spares": 1}, "max_spares: 1 is less than spares=2"),
    ({"max_spares": -1}, "max_spares: -1"),
    ({"maxsize": -1}, "maxsize: -1"),
    ({"maxsize": math.inf}, "maxsize: inf"),
    ({"overflow": "drop"}, "overflow: 'drop'"),
    ({"requeue": -1}, "requeue: -1"),
    ({"requeue": None}, "requeue: None"),
    ({"requeue_backoff": 3}, "backoff: 3"),
    ({"backoff": "1s"}, "backoff: '1s'"),
    ({"max_wait": -1}, "max_wait"),
    ({"max_wait": "soon"}, "max_wait"),
    ({"max_abandoned": -1}, "max_abandoned: -1"),
    ({"backend": "process-ish"}, "backend"),
    ({"collector": 3}, "collector"),
    ({"collector": HalfACollector()}, "collector"),
    ({"retry": ValueError}, "retry"),
    ({"timeout": -1}, "timeout"),
    ({"deadline": math.nan}, "deadline"),
    ({"middleware": 3}, "middleware"),
    ({"healthy": 3}, "healthy"),
    ({"healthy": an_async_function}, "healthy"),
    ({"threadsafe": 1}, "threadsafe: 1"),
    ({"resource": 3}, "resource: 3"),
    ({"resource": a_generator, "destroy": print}, "destroy"),
    ({"resource": dict, "destroy": 3}, "destroy: 3"),
    ({"resource": dict, "check": 3}, "check: 3"),
    ({"resource": dict, "max_age": 0}, "max_age"),
    ({"resource": dict, "max_idle": -1}, "max_idle"),
    ({"destroy": print}, "means nothing without a resource"),
    ({"check": print}, "means nothing without a resource"),
    ({"max_age": 1}, "means nothing without a resource"),
    ({"max_idle": 1}, "means nothing without a resource"),
    ({"hooks_timeout": -1}, "hooks_timeout"),
    ({"on_stopped": 3}, "on_stopped"),
]


@pytest.mark.parity("T5.2")
@pytest.mark.defect("D5.27")
@pytest.mark.parametrize(("options", "said"), BAD, ids=[f"{options}"[:40] for options, _ in BAD])
def test_what_makes_no_sense_is_refused_at_construction(options: dict[str, Any], said: str) -> None:
    """A bad value is a ConfigError that names it; nothing becomes another value in silence."""
    with pytest.raises(rc.ConfigError) as caught:
        rc.Queue(**options)
    assert said in str(caught.value)


@pytest.mark.parity("T5.9")
@pytest.mark.defect("D5.27")
def test_nothing_is_accepted_and_ignored() -> None:
    """An option that there is not is a TypeError, at construction as well as in a submit."""
    with pytest.raises(TypeError):
        rc.Queue("db", burst_workers=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


@pytest.mark.virtual
async def test_a_submit_with_a_bad_option_is_refused_and_accepts_nothing() -> None:
    """Every way in refuses unknown options and values that make no sense, before anything is accepted."""
    bad: list[tuple[dict[str, Any], str]] = [
        ({"prioritty": 3}, "prioritty: no such option"),
        ({"priority": 1.5}, "priority: 1.5"),
        ({"priority": True}, "priority: True"),
        ({"priority": "high"}, "priority: 'high'"),
        ({"timeout": -1}, "timeout"),
        ({"deadline": "soon"}, "deadline"),
        ({"delay": -1}, "delay"),
        ({"at_most_once": 1}, "at_most_once: 1"),
        ({"retry": 3}, "retry"),
        ({"at_most_once": True, "retry": rc.Retry(ValueError)}, "contradicts itself"),
        ({"key": 3}, "functools.partial"),
    ]
    async with rc.Queue("db") as queue:
        for options, said in bad:
            for way in (queue.submit, queue.run):
                with pytest.raises(rc.ConfigError) as caught:
                    await way(give, 1, **options)
                assert said in str(caught.value)
            with pytest.raises(rc.ConfigError):
                queue.submit_nowait(give, 1, **options)
            with pytest.raises(rc.ConfigError):
                await queue.submit_many(give, [1], **options)
        assert 0 == queue.stats().runs.begun


@pytest.mark.virtual
async def test_run_now_takes_only_what_it_heeds() -> None:
    """What would mean nothing past the queue is refused there."""
    async with rc.Queue("db", spares=1) as queue:
        heedless: list[dict[str, Any]] = [{"priority": 1}, {"delay": 1}, {"retry": ()}, {"at_most_once": True}]
        for options in heedless:
            with pytest.raises((rc.ConfigError, TypeError)):
                await queue.run_now(give, 1, **options)
        assert 1 == await queue.run_now(give, 1, timeout=1, deadline=timedelta(seconds=2))


@pytest.mark.parity("T5.13")
@pytest.mark.virtual
async def test_making_a_queue_starts_nothing_and_the_start_waits_for_its_workers() -> None:
    """The constructor makes no resource and no task; `start` returns when each worker has opened, or failed once."""
    things = Things(takes=3.0)
    queue = rc.Queue("db", resource=things, workers=2)
    await rounds()
    assert ([], rc.State.NEW) == (things.asked, queue.state)
    began = asyncio.get_running_loop().time()
    await queue.start()
    assert (began + 3, 2) == (asyncio.get_running_loop().time(), queue.stats().alive)
    await queue.stop()


def test_a_queue_can_be_made_without_a_loop() -> None:
    """Nothing binds to an event loop in the constructor: it can be made anywhere, and live on several in turn."""
    queue = rc.Queue("db", resource=Things(), workers=2)

    async def life() -> Any:
        async with queue:
            return await queue.run(use)

    assert 2 == asyncio.run(life())
    assert 4 == asyncio.run(life())


@pytest.mark.parity("T5.67")
@pytest.mark.virtual
async def test_an_object_with_a_call_is_a_job_that_gets_the_resource() -> None:
    """No interface is needed for a job: what can be called with the resource is one."""

    class Ping:
        async def __call__(self, thing: Any) -> int:
            return int(thing.number)

    async with rc.Queue("db", resource=Things()) as queue:
        assert 1 == await queue.run(Ping())


# --- policies -----------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_middleware_is_around_each_attempt() -> None:
    """The first one is outermost; each attempt goes through, with its run and its resource among the arguments."""
    seen: list[str] = []

    def named(name: str) -> Any:
        def middleware(handler: Any) -> Any:
            async def handle(run: Run) -> Outcome[Any]:
                seen.append(f"{name} {run.attempt} {len(run.args)}")
                return await handler(run)  # type: ignore[no-any-return]

            return handle

        return middleware

    job: Any = Script(ValueError(), "fine")
    rule = rc.Retry(ValueError, retries=1, backoff=rc.Constant(0))
    middleware = [named("outer"), named("inner")]
    async with rc.Queue("db", resource=Things(), retry=rule, middleware=middleware) as queue:
        assert "fine" == await queue.run(job, 7)
    assert ["outer 1 2", "inner 1 2", "outer 2 2", "inner 2 2"] == seen


@pytest.mark.virtual
async def test_a_limit_of_concurrency_holds_over_all_workers() -> None:
    """With a Concurrency, no more attempts run at once than it allows, however many workers there are."""
    most = at_once = 0

    async def job() -> None:
        nonlocal most, at_once
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(1)
        at_once -= 1

    async with rc.Queue("db", workers=8, concurrency=rc.Concurrency(3)) as queue:
        await asyncio.gather(*(queue.run(job) for _ in range(20)))
    assert 3 == most


@pytest.mark.virtual
async def test_a_twin_of_what_is_under_way_is_skipped() -> None:
    """With a Dedupe the second of two equal runs ends as skipped, until the first has ended."""
    async with rc.Queue("db", workers=2, dedupe=rc.Dedupe()) as queue:
        first, second, other = [await queue.submit(take, span) for span in (5.0, 5.0, 6.0)]
        assert "skipped" == second.status
        with pytest.raises(rc.RunSkipped):
            await second
        assert (5.0, 6.0) == (await first, await other)
        assert 5.0 == await queue.run(take, 5.0)


@pytest.mark.virtual
async def test_a_backend_of_ones_own_does_the_work() -> None:
    """An object with `handle(run)` gets each attempt, with the resource among the arguments."""

    class Doubles:
        async def handle(self, run: Run) -> Outcome[Any]:
            return run.finished(rc.Status.SUCCEEDED, 0.0, value=2 * run.args[-1])

    async with rc.Queue("db", workers=2, backend=Doubles()) as queue:
        assert 14 == await queue.run(give, 7)


# --- hooks --------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_hooks_are_called_around_the_end() -> None:
    """`on_stopping` before the drain, while submissions are refused already; `on_stopped` when all has gone."""
    seen: list[tuple[str, int]] = []
    things = Things()
    queue = rc.Queue(
        "db", resource=things, workers=1,
        on_stopping=lambda: seen.append(("stopping", len(things.open))),
        on_stopped=lambda: seen.append(("stopped", len(things.open))),
    )  # fmt: skip
    async with queue:
        await queue.submit(use, 1.0)
    assert [("stopping", 1), ("stopped", 0)] == seen
