"""The one guard around the code of users, the same on the loop and in threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.abc import Backend
from runcrew.backends import LoopBackend, ThreadBackend, Threads
from runcrew.errors import JobCrashed
from runcrew.job import Job, Outcome, Run, Status, current_run, enter, leave


class Unprintable(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no str")

    __repr__ = __str__


class Odd(BaseException):
    """Neither an Exception nor one of Python's own."""


ERRORS = [
    ValueError("ordinary"),
    Unprintable(),
    StopIteration(3),
    StopAsyncIteration(),
    ExceptionGroup("several", [ValueError(), KeyError()]),
    BaseExceptionGroup("several", [SystemExit()]),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError("mine"),
    Odd("odd"),
]


@pytest.fixture
def threads() -> Iterator[Threads]:
    """A pool for one test."""
    pool = Threads(2)
    yield pool
    pool.shed()


@pytest.fixture(params=["async", "inline", "thread"])
def place(request: pytest.FixtureRequest, threads: Threads) -> tuple[Backend, Callable[[Callable[[], Any]], Job]]:
    """A backend, and what makes of a plain function a job for it: async on the loop, plain on it, in a thread."""

    def as_async(fn: Callable[[], Any]) -> Job:
        async def job() -> Any:
            await asyncio.sleep(0)
            return fn()

        return Job(job, getattr(fn, "__name__", None))

    if request.param == "async":
        return LoopBackend(), as_async
    return (LoopBackend() if request.param == "inline" else ThreadBackend(threads)), Job


Place = tuple[Backend, Callable[[Callable[[], Any]], Job]]


@pytest.mark.virtual
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_every_error_is_the_outcome(place: Place, error: BaseException) -> None:
    """Whatever a job raises ends as `failed` with that very object, and ends nothing else."""
    backend, job = place

    def fail() -> None:
        raise error

    outcome = await backend.handle(Run(job(fail)))
    assert Status.FAILED is outcome.status
    # PEP 479: a coroutine turns StopIteration into RuntimeError before anybody sees it.
    seen = outcome.error.__cause__ if isinstance(outcome.error, RuntimeError) else outcome.error
    assert error is seen
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()


@pytest.mark.virtual
async def test_what_is_no_exception_is_raised_to_waiters_as_a_crash(place: Place) -> None:
    """`unwrap` gives JobCrashed from a CancelledError that nobody asked for: never the CancelledError itself."""
    backend, job = place
    error = asyncio.CancelledError()

    def fail() -> None:
        raise error

    outcome = await backend.handle(Run(job(fail)))
    with pytest.raises(JobCrashed) as caught:
        outcome.unwrap()
    assert error is caught.value.__cause__


@pytest.mark.virtual
async def test_value_and_instants(place: Place) -> None:
    """A success carries the value and the instants of the clock in force; `started` is that of the first attempt."""
    backend, job = place
    await asyncio.sleep(5)
    run = Run(job(lambda: 7))
    run.queued = clocks.current().now() - 1
    outcome = await backend.handle(run)
    now = clocks.current().now()
    assert Outcome(Status.SUCCEEDED, 7, None, now - 1, now, now) == outcome
    await asyncio.sleep(5)
    run.attempt = 2
    again = await backend.handle(run)
    assert (now, now + 5, 2) == (again.started, again.ended, again.attempts)


@pytest.mark.virtual
async def test_arguments(threads: Threads) -> None:
    """Positional and keyword arguments reach the job, wherever it runs."""

    async def job(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def plain(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    for backend, fn in ((LoopBackend(), job), (LoopBackend(), plain), (ThreadBackend(threads), plain)):
        outcome = await backend.handle(Run(Job(fn), (1, 2), {"a": 3}))
        assert ((1, 2), {"a": 3}) == outcome.value


@pytest.mark.virtual
async def test_a_call_that_does_not_fit_is_the_jobs_failure(place: Place) -> None:
    """Wrong arguments are a TypeError of the run, not of the backend."""
    backend, job = place
    outcome = await backend.handle(Run(job(lambda: None), (1, 2, 3)))
    assert isinstance(outcome.error, TypeError)


@pytest.mark.virtual
async def test_the_job_sees_its_run(place: Place) -> None:
    """`current_run()` in a job is its run; outside, afterwards, it is what it was before."""
    backend, job = place
    outer = Run(Job(print))
    token = enter(outer)
    run = Run(job(current_run))
    assert run is (await backend.handle(run)).value
    assert outer is current_run()
    leave(token)
    with pytest.raises(LookupError):
        current_run()


@pytest.mark.virtual
async def test_an_entered_run_stays_entered() -> None:
    """A run that the caller has entered already is still entered after the attempt."""

    async def job() -> Run:
        return current_run()

    run = Run(Job(job))
    token = enter(run)
    assert run is (await LoopBackend().handle(run)).value
    assert run is current_run()
    leave(token)


# --- plain functions that return something to await -----------------------------------------------


async def coroutine() -> None:
    """Never runs."""


class Awaitable:
    """Can be awaited, and is no coroutine."""

    def __await__(self) -> Generator[Any, None, int]:
        yield
        return 1


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("function", "names"), [(lambda: coroutine(), "the coroutine coroutine"), (Awaitable, "type Awaitable")]
)
@pytest.mark.parametrize("where", ["inline", "thread"])
async def test_an_awaitable_from_a_plain_function_is_refused(
    where: str, function: Callable[[], Any], names: str, threads: Threads
) -> None:
    """It fails with a TypeError that names the job and what it returned, and no coroutine is left to be warned of."""

    def hasty() -> Any:
        return function()

    backend = LoopBackend() if where == "inline" else ThreadBackend(threads)
    outcome = await backend.handle(Run(Job(hasty)))
    assert Status.FAILED is outcome.status
    assert isinstance(outcome.error, TypeError)
    assert "the plain function hasty returned" in str(outcome.error)
    assert names in str(outcome.error)


# --- cancellation on the loop -----------------------------------------------------------------------


def handled(run: Run) -> Coroutine[Any, Any, Outcome[Any]]:
    """One attempt on the loop."""
    return LoopBackend().handle(run)


@pytest.mark.virtual
async def test_a_cancelled_task_goes_on_being_cancelled() -> None:
    """Cancelling the task that carries out an async job raises CancelledError through, after the job's clean-up."""
    cleaned: list[str] = []

    async def job() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            cleaned.append("yes")

    task = asyncio.create_task(handled(Run(Job(job))))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["yes"] == cleaned
    assert task.cancelled()


@pytest.mark.virtual
async def test_a_run_that_was_asked_to_end_may_raise_cancelled_error() -> None:
    """Once the run was asked to end, a CancelledError of the job is the answer to that, not a failure."""

    async def job() -> None:
        raise asyncio.CancelledError

    def plain() -> None:
        raise asyncio.CancelledError

    for fn in (job, plain):
        run = Run(Job(fn))
        run.ask_to_end(Status.INTERRUPTED, "stop")
        with pytest.raises(asyncio.CancelledError):
            await LoopBackend().handle(run)


@pytest.mark.virtual
async def test_a_real_error_during_cancellation_is_the_outcome() -> None:
    """A job that answers its cancellation with an error of its own has failed with that; one with a value succeeded."""

    async def fails() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("clean-up") from None

    async def returns() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "after all"
        return "not cancelled"

    for job, status in ((fails, Status.FAILED), (returns, Status.SUCCEEDED)):
        task = asyncio.create_task(handled(Run(Job(job))))
        await asyncio.sleep(1)
        task.cancel()
        assert status is (await task).status


@pytest.mark.virtual
async def test_a_job_that_cancels_another_task_and_awaits_it_has_failed() -> None:
    """A CancelledError that comes out of something the job awaited, and not for the job, is its failure."""

    async def job() -> None:
        other = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_later(1, other.cancel)
        await other

    outcome = await LoopBackend().handle(Run(Job(job)))
    assert Status.FAILED is outcome.status
    assert isinstance(outcome.error, asyncio.CancelledError)


@pytest.mark.virtual
async def test_an_inner_timeout_stays_the_jobs_own() -> None:
    """`asyncio.timeout` inside a job works as ever: TimeoutError, and no cancellation left behind."""

    async def job() -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(60)

    outcome = await LoopBackend().handle(Run(Job(job)))
    assert isinstance(outcome.error, TimeoutError)
    await asyncio.sleep(1)


@pytest.mark.virtual
async def test_a_run_thrown_away_closes_quietly() -> None:
    """A coroutine of a run that is closed from outside, in another context than it ran in, ends without a word."""
    attempt = handled(Run(Job(asyncio.sleep), (60,)))
    contextvars.copy_context().run(attempt.send, None)
    attempt.close()
    with pytest.raises(LookupError):
        current_run()
