"""Wherever a job runs, the same things come of it."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
from collections.abc import Generator
from typing import Any, Final, NoReturn

import pytest
from kinds import BACKENDS, BackendKind, Script

import runcrew as rc
from runcrew.job import Job, Outcome, Run, Status
from runcrew.policies.timeout import limited

pytestmark = pytest.mark.virtual

everywhere = pytest.mark.parametrize("kind", BACKENDS, ids=lambda kind: kind.name)
where_it_sleeps = pytest.mark.parametrize("kind", [k for k in BACKENDS if k.sleeps], ids=lambda kind: kind.name)

Steps = Generator[float, None, Any]
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def carried_out(kind: BackendKind, script: Script, *args: Any) -> Outcome[Any]:
    """The outcome of a script there, in a task of its own."""
    run = Run(Job(kind.job(script), "job"), args)
    return await asyncio.ensure_future(kind.make().handle(run))


def raising(error: BaseException) -> Script:
    """A job that raises this."""

    def script() -> Steps:
        yield from ()
        raise error

    return script


# --- what it returns ----------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("value", [None, 0, "", False, "text", b"x" * 1_000_000, OSError("a value"), [1, {"a": ()}]])
async def test_what_a_job_returns_is_the_value(kind: BackendKind, value: object) -> None:
    """It is the very object, also where it is false or an error."""

    def script(given: object) -> Steps:
        yield from ()
        return given

    outcome = await carried_out(kind, script, value)
    assert Status.SUCCEEDED is outcome.status
    assert value is outcome.value
    assert outcome.error is None
    assert (1, ()) == (outcome.attempts, outcome.history)
    assert outcome.started is not None
    assert outcome.started <= outcome.ended
    assert value is outcome.unwrap()


@where_it_sleeps
async def test_times_are_those_of_the_job(kind: BackendKind) -> None:
    """A job that sleeps two seconds takes two seconds."""

    def script() -> Steps:
        yield 1.5
        yield 0.5

    outcome = await carried_out(kind, script)
    assert 2.0 == pytest.approx(outcome.elapsed, abs=1e-6)


# --- what it raises -----------------------------------------------------------------------


def every_exception() -> list[Exception]:
    """One of each class of exceptions that Python has."""
    made: list[Exception] = []
    for cls in vars(builtins).values():
        if isinstance(cls, type) and issubclass(cls, Exception) and cls is not StopIteration:
            if issubclass(cls, UnicodeError) and cls is not UnicodeError:
                made.append(cls("utf-8", b"x", 0, 1, "no") if cls is UnicodeDecodeError else UnicodeError("no"))
            elif issubclass(cls, BaseExceptionGroup):
                made.append(ExceptionGroup("several", [OSError("a"), ValueError("b")]))
            else:
                made.append(cls("no"))
    return made


class BadText(Exception):
    """Has no text, no representation, no equality, no hash and no truth."""

    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__

    def __eq__(self, other: object) -> NoReturn:
        raise RuntimeError("eq")

    def __hash__(self) -> NoReturn:
        raise RuntimeError("hash")

    def __bool__(self) -> NoReturn:
        raise RuntimeError("bool")


class BadBase(BaseException):
    """The same, and no Exception."""

    __str__ = __repr__ = BadText.__str__


def circle() -> Exception:
    """An error that is its own cause."""
    error, other = OSError("a"), ValueError("b")
    error.__cause__, other.__cause__ = other, error
    return error


ERRORS: Final = [
    *every_exception(),
    BadText(),
    OSError("x" * 10_000_000),
    circle(),
    rc.NoRetry("final"),
    rc.Done(),
    rc.StopTree(),
    rc.RunTimeout("of somebody else"),
    rc.RunInterrupted("of somebody else"),
    TimeoutError("of its own"),
]


@everywhere
@pytest.mark.parametrize("number", range(len(ERRORS)), ids=lambda n: f"{n}-{type(ERRORS[n]).__name__}")
async def test_what_a_job_raises_is_its_error(kind: BackendKind, number: int) -> None:
    """It is the very object, whatever it is and whatever it does when it is looked at."""
    error = ERRORS[number]
    outcome = await carried_out(kind, raising(error))
    assert Status.FAILED is outcome.status
    assert error is outcome.error
    with pytest.raises(type(error)) as caught:
        outcome.unwrap()
    assert error is caught.value


@everywhere
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), BadBase(), asyncio.CancelledError("mine")],
    ids=lambda e: type(e).__name__,
)
async def test_what_is_no_exception_crashes_the_job_and_nobody_else(kind: BackendKind, error: BaseException) -> None:
    """The loop and the thread live on; who asks for the value gets JobCrashed from it."""
    outcome = await carried_out(kind, raising(error))
    assert Status.FAILED is outcome.status
    assert error is outcome.error
    with pytest.raises(rc.JobCrashed) as caught:
        outcome.unwrap()
    assert error is caught.value.__cause__
    assert Status.SUCCEEDED is (await carried_out(kind, lambda: iter(()))).status  # type: ignore[arg-type, return-value]


@everywhere
async def test_a_stop_iteration_is_an_error_like_any_other(kind: BackendKind) -> None:
    """It ends neither the task nor the thread: Python itself makes a RuntimeError of it where it has to."""
    outcome = await carried_out(kind, raising(StopIteration("mine")))
    assert Status.FAILED is outcome.status
    assert isinstance(outcome.error, RuntimeError)
    assert isinstance(outcome.error.__cause__, StopIteration)

    if kind.name != "loop":
        bare = Run(Job(lambda: next(iter(())), "job"))
        outcome = await kind.make().handle(bare)
        assert (Status.FAILED, StopIteration) == (outcome.status, type(outcome.error))


@everywhere
async def test_an_error_keeps_its_way_to_the_job(kind: BackendKind) -> None:
    """Its traceback ends in the code of the user."""
    outcome = await carried_out(kind, raising(OSError("x")))
    assert outcome.error is not None
    frames = []
    trace = outcome.error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "script" == frames[-1]


# --- ending it -----------------------------------------------------------------------------


async def asked_to_end(kind: BackendKind, script: Script, *, after: float) -> tuple[Outcome[Any] | None, Run]:
    """Carry a script out, and ask it to end as a service does: the reason, the word, then the cancellation."""
    run = Run(Job(kind.job(script), "job"))
    task = asyncio.ensure_future(kind.make().handle(run))
    await asyncio.sleep(after)
    run.ask_to_end(Status.INTERRUPTED, "that is all")
    run.tell()
    if not run.in_thread:
        task.cancel()
    await asyncio.wait([task])
    return (None if task.cancelled() else task.result()), run


@where_it_sleeps
async def test_a_job_that_heeds_its_end_is_over_at_once(kind: BackendKind) -> None:
    """It cleans up, and its run has ended as it was asked to."""
    heard: list[str] = []

    def script() -> Steps:
        try:
            yield 1000.0
        finally:
            heard.append("cleaned up")

    before = asyncio.get_running_loop().time()
    outcome, run = await asked_to_end(kind, script, after=2)
    outcome = run.ended_by_request(0.0) if outcome is None else outcome
    assert (Status.INTERRUPTED, "that is all", ["cleaned up"]) == (outcome.status, outcome.reason, heard)
    assert 2.0 == asyncio.get_running_loop().time() - before
    assert run.cancelled


@where_it_sleeps
async def test_a_job_may_take_time_to_clean_up(kind: BackendKind) -> None:
    """It is waited for."""

    def script() -> Steps:
        try:
            yield 1000.0
        except asyncio.CancelledError:
            yield 3.0
            raise

    before = asyncio.get_running_loop().time()
    outcome, _ = await asked_to_end(kind, script, after=2)
    assert outcome is None or Status.INTERRUPTED is outcome.status
    assert 5.0 == asyncio.get_running_loop().time() - before


@where_it_sleeps
async def test_an_error_while_it_ends_is_its_outcome(kind: BackendKind) -> None:
    """No end that was asked for hides it."""
    error = OSError("while cleaning up")

    def script() -> Steps:
        try:
            yield 1000.0
        except asyncio.CancelledError:
            raise error from None

    outcome, _ = await asked_to_end(kind, script, after=1)
    assert outcome is not None
    assert (Status.FAILED, error) == (outcome.status, outcome.error)


@where_it_sleeps
async def test_a_value_although_it_was_asked_to_end_counts(kind: BackendKind) -> None:
    """What it returns after that is its value."""

    def script() -> Steps:
        try:
            yield 1000.0
        except asyncio.CancelledError:
            return "after all"

    outcome, _ = await asked_to_end(kind, script, after=1)
    assert outcome is not None
    assert (Status.SUCCEEDED, "after all") == (outcome.status, outcome.value)


@where_it_sleeps
async def test_what_was_asked_to_end_before_it_began_never_begins(kind: BackendKind) -> None:
    """As a service's run in the same moment as its stop."""
    heard: list[str] = []

    def script() -> Steps:
        heard.append("began")
        yield 1.0

    service = rc.OneShot(kind.job(script), backend=kind.make())
    await service.start()
    report = await service.stop()
    assert ([], 1, True) == (heard, report.never_started, report.clean)


@where_it_sleeps
async def test_a_timeout_tells_the_job_and_ends_the_attempt(kind: BackendKind) -> None:
    """The outcome is timed_out, at the instant of the timeout, and the job has heard of it."""
    told: list[bool] = []

    def script() -> Steps:
        try:
            yield 1000.0
        finally:
            told.append(rc.current_run().cancelled)

    run = Run(Job(kind.job(script), "job"))
    before = asyncio.get_running_loop().time()
    outcome = await asyncio.ensure_future(limited(kind.make().handle, 2.5)(run))
    assert (Status.TIMED_OUT, 2.5) == (outcome.status, asyncio.get_running_loop().time() - before)
    assert isinstance(outcome.error, rc.RunTimeout)
    await asyncio.sleep(1)
    for _ in range(1000):
        if told:
            break
        await asyncio.to_thread(lambda: None)
    assert [True] == told


# --- what it sees --------------------------------------------------------------------------


@everywhere
async def test_it_sees_the_context_of_whoever_asked(kind: BackendKind) -> None:
    """Context variables reach it, and what it sets reaches nobody."""

    def script() -> Steps:
        seen = colour.get()
        colour.set("red")
        yield from ()
        return seen

    colour.set("blue")
    outcome = await carried_out(kind, script)
    assert "blue" == outcome.value
    assert "blue" == colour.get()


@everywhere
async def test_it_is_its_own_run(kind: BackendKind) -> None:
    """current_run() is the run inside, and nothing outside."""

    def script() -> Steps:
        yield from ()
        return rc.current_run()

    run = Run(Job(kind.job(script), "job"))
    outcome = await asyncio.ensure_future(kind.make().handle(run))
    assert run is outcome.value
    assert not run.in_thread
    with pytest.raises(LookupError):
        rc.current_run()


@where_it_sleeps
async def test_its_progress_can_be_seen(kind: BackendKind) -> None:
    """While it runs, and as it last said."""

    def script() -> Steps:
        for done in range(3):
            rc.current_run().progress(done, 3)
            yield 1.0

    service = rc.OneShot(kind.job(script), backend=kind.make())
    await service.start()
    seen = []
    for _ in range(3):
        await asyncio.sleep(0.5)
        seen.append(service.stats().running[0].progress)
        await asyncio.sleep(0.5)
    assert [(0, 3), (1, 3), (2, 3)] == seen
    await service.wait()


@where_it_sleeps
async def test_a_job_says_when_it_is_ready(kind: BackendKind) -> None:
    """start() returns at that instant."""

    def script() -> Steps:
        yield 2.0
        rc.current_run().ready()
        yield 1000.0

    service = rc.OneShot(kind.job(script), backend=kind.make(), ready="signal")
    await service.start()
    assert 2.0 == asyncio.get_running_loop().time()
    report = await service.stop()
    assert (1, True) == (report.cancelled, report.clean)


@everywhere
async def test_attempts_follow_each_other(kind: BackendKind) -> None:
    """Retry sees the same errors and the same values, and the job the number of its attempt."""

    def script() -> Steps:
        yield from ()
        if rc.current_run().attempt < 3:
            raise OSError(rc.current_run().attempt)
        return "third"

    rule = rc.Retry(OSError, backoff=rc.Constant(1))
    service = rc.OneShot(kind.job(script), backend=kind.make(), retry=rule)
    await service.run()
    outcome = service.outcome
    assert outcome is not None
    assert ("third", 3, 2.0) == (outcome.value, outcome.attempts, round(outcome.elapsed, 6))
    assert [1, 2, 3] == [attempt.number for attempt in outcome.history]


@where_it_sleeps
async def test_many_run_at_once(kind: BackendKind) -> None:
    """Each is its own run, with its own context and its own outcome."""

    def script(number: int) -> Steps:
        colour.set(str(number))
        yield 1.0
        if number % 2:
            raise OSError(number)
        return colour.get(), rc.current_run().args

    backend = kind.make()
    runs = [Run(Job(kind.job(script), "job"), (number,)) for number in range(2)]
    outcomes = await asyncio.gather(*(backend.handle(run) for run in runs))
    assert 1.0 == asyncio.get_running_loop().time()
    assert ("0", (0,)) == outcomes[0].value
    assert (1,) == outcomes[1].error.args  # type: ignore[union-attr]


@everywhere
async def test_a_plain_function_that_returns_an_awaitable_is_told_so(kind: BackendKind) -> None:
    """Its TypeError names it, and nothing is left that was never awaited."""
    if kind.name == "loop":
        return  # it is the same backend as "inline" is

    async def inner() -> None:
        """Never awaited."""

    outcome = await kind.make().handle(Run(Job(lambda: inner(), "mine")))
    assert Status.FAILED is outcome.status
    assert isinstance(outcome.error, TypeError)
    assert "mine" in str(outcome.error)
