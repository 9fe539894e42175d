"""One run of a service: whatever a job or a middleware does becomes one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.abc import Handler, Middleware
from runcrew.errors import ConfigError, JobCrashed
from runcrew.job import Outcome, Run, Status
from runcrew.lifecycle import State


async def quick() -> None:
    """Is over at once."""


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


class Odd(BaseException):
    """What is no Exception."""


class Broken(Exception):
    """An error that cannot be looked at."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = Exception.__hash__


CRASHES = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError("mine"), Odd()]


@pytest.mark.virtual
@pytest.mark.defect("D3.8")
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("error", CRASHES, ids=lambda error: type(error).__name__)
async def test_a_job_that_raises_what_is_no_exception(error: BaseException, in_thread: bool) -> None:
    """Nothing that a job raises ends the process or the loop: it comes out as a JobCrashed, and hooks are called."""
    called: list[int] = []

    def plain() -> None:
        raise error

    async def on_loop() -> None:
        raise error

    service = rc.OneShot(plain if in_thread else on_loop, on_stopped=lambda: called.append(1))
    with pytest.raises(JobCrashed) as caught:
        await service.run()
    assert error is caught.value.__cause__
    assert (State.FAILED, [1]) == (service.state, called)
    assert service.outcome is not None
    assert (Status.FAILED, error) == (service.outcome.status, service.outcome.error)


@pytest.mark.virtual
@pytest.mark.defect("D3.8")
@pytest.mark.parametrize("error", [*CRASHES, Broken()], ids=lambda error: type(error).__name__)
async def test_a_supervisor_lives_through_any_error_of_a_child(error: BaseException) -> None:
    """Whatever a child raises, and whatever that does when it is looked at, the others are stopped in order."""

    async def on_loop() -> None:
        await asyncio.sleep(1)
        raise error

    cleaned: list[int] = []

    async def other() -> None:
        try:
            await long()
        finally:
            cleaned.append(1)

    top = rc.Supervisor(rc.OneShot(other), rc.OneShot(on_loop))
    with pytest.raises(ExceptionGroup) as caught:
        await top.run()
    (only,) = caught.value.exceptions
    assert only is error or only.__cause__ is error
    assert ([1], State.FAILED) == (cleaned, top.state)


@pytest.mark.virtual
async def test_stop_iteration_of_a_job() -> None:
    """A StopIteration, which no coroutine can raise, comes out as what Python makes of it."""

    def plain() -> None:
        raise StopIteration(7)

    service = rc.OneShot(plain)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await service.run()
    assert isinstance(service.error, StopIteration)


def middleware(act: Callable[[Run], Any]) -> Middleware:
    """One that does something in place of the handler."""

    def wrap(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            answer = act(run)
            return answer if answer is not None else await inner(run)

        return handle

    return wrap


@pytest.mark.virtual
@pytest.mark.parametrize("error", [*CRASHES, OSError("x")], ids=lambda error: type(error).__name__)
async def test_a_middleware_that_raises(error: BaseException) -> None:
    """A fault of a middleware is the run's failure, whatever it is; it neither ends the loop nor hangs the service."""

    def act(run: Run) -> None:
        raise error

    service = rc.OneShot(quick, middleware=[middleware(act)])
    with pytest.raises((JobCrashed, OSError)):
        await service.run()
    assert service.outcome is not None
    assert Status.FAILED is service.outcome.status
    assert State.FAILED is service.state


@pytest.mark.virtual
async def test_a_middleware_that_gives_no_outcome() -> None:
    """What a middleware returns must be an outcome; anything else is told by name."""
    service = rc.OneShot(quick, middleware=[middleware(lambda run: 42)])
    with pytest.raises(ConfigError, match="handler of quick gave 42"):
        await service.run()


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome("great"), "status 'great', which is none: succeeded, failed"),  # type: ignore[arg-type]
        (Outcome(None), "status None"),  # type: ignore[arg-type]
        (Outcome(Status.SUCCEEDED, started=1.0, ended=None), "ended=None"),  # type: ignore[arg-type]
        (Outcome(Status.SUCCEEDED, started="now"), "started='now'"),  # type: ignore[arg-type]
    ],
)
async def test_an_outcome_that_cannot_be_counted_is_a_failure(outcome: Outcome[Any], said: str) -> None:
    """What somebody else's middleware or backend made up is told by name, and the service ends by it."""
    service = rc.Interval(quick, "1s", middleware=[middleware(lambda run: outcome)])
    with pytest.raises(ConfigError, match=said):
        await service.run()


@pytest.mark.virtual
async def test_a_plain_string_is_as_good_as_a_status() -> None:
    """A backend of somebody else may say "succeeded"."""
    service = rc.OneShot(quick, middleware=[middleware(lambda run: Outcome("succeeded"))])  # type: ignore[arg-type]
    await service.run()
    assert service.outcome is not None
    assert Status.SUCCEEDED is service.outcome.status


@pytest.mark.virtual
async def test_a_middleware_may_answer_in_place_of_the_job() -> None:
    """An outcome that a middleware makes is what came of the run."""
    service = rc.OneShot(quick, middleware=[middleware(lambda run: run.finished(Status.SUCCEEDED, 0.0, value=7))])
    await service.run()
    assert service.outcome is not None
    assert 7 == service.outcome.value


@pytest.mark.virtual
async def test_a_job_that_cancels_its_own_task() -> None:
    """A job that cancels itself has failed, and nobody else is cancelled."""

    async def job() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)

    with pytest.raises(JobCrashed):
        await rc.OneShot(job).run()
    interval = rc.Interval(job, "1s")
    with pytest.raises(JobCrashed):
        await interval.run()
    assert 1 == interval.stats().runs.failed


@pytest.mark.virtual
async def test_a_job_that_cancels_itself_and_returns_has_succeeded() -> None:
    """A cancellation that hit nothing changes nothing, and never reaches the next run."""
    calls: list[int] = []

    async def job() -> None:
        calls.append(1)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    service = rc.Interval(job, "1s")
    await service.start()
    await asyncio.sleep(2.5)
    await service.stop()
    stats = service.stats().runs
    assert ([1] * 3, 3) == (calls, stats.succeeded)


@pytest.mark.virtual
async def test_a_job_that_raises_the_very_same_object_again() -> None:
    """One error object may be raised by several runs and several children."""
    error = OSError("one")

    async def job() -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        await rc.Supervisor(rc.OneShot(job, name="a"), rc.OneShot(job, name="b"), on_failure="isolate").run()
    assert (error, error) == caught.value.exceptions


@pytest.mark.virtual
async def test_an_exception_group_of_a_job_stays_what_it_is() -> None:
    """A group that a job raises is one error, with everything in it."""
    group = ExceptionGroup("several", [OSError(), ValueError()])

    async def job() -> None:
        raise group

    with pytest.raises(ExceptionGroup) as caught:
        await rc.OneShot(job).run()
    assert group is caught.value


@pytest.mark.virtual
async def test_a_plain_job_that_returns_an_awaitable() -> None:
    """A plain function that hands out a coroutine has not done its job, and is told so."""

    def job() -> Any:
        return quick()

    with pytest.raises(TypeError, match="returned an awaitable"):
        await rc.OneShot(job).run()


@pytest.mark.virtual
async def test_a_huge_error_is_logged_in_bounded_length(caplog: pytest.LogCaptureFixture) -> None:
    """The message of an error takes no more room in a line than it should."""

    async def job() -> None:
        raise OSError("x" * 1_000_000)

    with pytest.raises(OSError, match="x"):
        await rc.OneShot(job).run()
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)
