"""What travels: Job, Run, Outcome, and what a job may ask about its run."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import (
    ConfigError,
    JobCrashed,
    NotAJob,
    RunCancelled,
    RunInterrupted,
    RunSkipped,
    RunTimeout,
)
from runcrew.job import Attempt, Job, Outcome, Run, Status, current_run

# --- Job --------------------------------------------------------------------------------


async def go() -> None:
    """An async job."""


def plain() -> None:
    """A plain one."""


class Various:
    """Things that can be called, in several ways."""

    async def method(self) -> None:
        """An async method."""

    def plain(self) -> None:
        """A plain method."""

    async def __call__(self) -> None:
        """Async itself."""


class Plain:
    """An object with a plain `__call__`."""

    def __call__(self) -> None:
        """Plain itself."""


thing = Various()


@pytest.mark.parametrize(
    ("fn", "is_async", "name"),
    [
        (go, True, "go"),
        (plain, False, "plain"),
        (functools.partial(go), True, "go"),
        (functools.partial(functools.partial(plain)), False, "plain"),
        (thing.method, True, "method"),
        (thing.plain, False, "plain"),
        (functools.partial(thing.method), True, "method"),
        (thing, True, "Various"),
        (functools.partial(thing), True, "Various"),
        (Plain(), False, "Plain"),
        (print, False, "print"),
        ([].append, False, "append"),
        (functools.lru_cache(plain), False, "plain"),
        (lambda: None, False, "<lambda>"),
    ],
)
def test_what_a_job_is_is_seen_through_its_wrapping(fn: Callable[..., Any], is_async: bool, name: str) -> None:
    """Whether it is async, and its name, are found through partials, bound methods and `__call__`."""
    job = Job(fn)
    assert (is_async, name) == (job.is_async, job.name)
    assert name in repr(job)


def test_a_name_of_ones_own_is_kept() -> None:
    """The name is free text."""
    assert "" == Job(go, "").name


def generator() -> Iterator[int]:
    """Yields."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """Yields, too."""
    yield 1


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (Plain, "the class Plain is not a job"),
        (functools.partial(Plain), "makes an instance of the class Plain"),
        (generator, "generator function"),
        (async_generator, "generator function"),
        (functools.partial(generator), "generator function"),
        (42, "42 is not callable"),
        (None, "None is not callable"),
        ("go", "'go' is not callable"),
    ],
)
def test_what_can_never_be_run_is_refused(fn: Any, why: str) -> None:
    """What is no job is refused at once, as a ConfigError and a TypeError."""
    with pytest.raises(NotAJob, match=why) as caught:
        Job(fn)
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, TypeError)


def test_a_coroutine_object_is_refused_and_closed() -> None:
    """A job that was called already is refused with the remedy, and no second warning follows."""
    coroutine: Any = go()
    with pytest.raises(NotAJob, match="give the function, not its call"):
        Job(coroutine)


# --- Outcome ----------------------------------------------------------------------------


def test_an_outcome_tells_times_in_utc_and_spans_that_are_never_negative() -> None:
    """Instants are shown as datetimes in UTC; waits and elapsed times are zero at least."""
    outcome = Outcome[None](Status.SUCCEEDED, queued=10.0, started=12.0, ended=15.0)
    assert (2.0, 3.0, True) == (outcome.wait, outcome.elapsed, outcome.ok)
    assert datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC) == outcome.queued_at
    assert datetime(1970, 1, 1, 0, 0, 12, tzinfo=UTC) == outcome.started_at
    assert datetime(1970, 1, 1, 0, 0, 15, tzinfo=UTC) == outcome.ended_at
    backwards = Outcome[None](Status.FAILED, queued=10.0, started=9.0, ended=8.0)
    assert (0.0, 0.0, False) == (backwards.wait, backwards.elapsed, backwards.ok)


def test_a_run_that_never_began_has_waited_to_its_end() -> None:
    """Without a start there is no elapsed time, and the whole of it was waiting."""
    outcome = Outcome[None](Status.INTERRUPTED, queued=10.0, ended=15.0)
    assert (5.0, 0.0, None) == (outcome.wait, outcome.elapsed, outcome.started_at)


def test_the_value_or_the_jobs_own_error() -> None:
    """`unwrap` gives the value, and of a failed run raises the very object that the job raised."""
    assert 7 == Outcome(Status.SUCCEEDED, 7).unwrap()
    error = KeyError("x")
    with pytest.raises(KeyError) as caught:
        Outcome[None](Status.FAILED, error=error).unwrap()
    assert error is caught.value


class Mute(BaseException):
    """What cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), Mute()]
)
def test_what_is_no_exception_comes_out_as_a_crash(error: BaseException) -> None:
    """A SystemExit of a job neither ends the program nor cancels anybody: it is the cause of a JobCrashed."""
    outcome = Outcome[None](Status.FAILED, error=error)
    with pytest.raises(JobCrashed) as caught:
        outcome.unwrap()
    assert error is caught.value.__cause__
    assert outcome is caught.value.outcome


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.TIMED_OUT, RunTimeout),
        (Status.CANCELLED, RunCancelled),
        (Status.INTERRUPTED, RunInterrupted),
        (Status.SKIPPED, RunSkipped),
    ],
)
def test_each_end_has_an_error_of_its_own(status: Status, kind: type[rc.RunError]) -> None:
    """What did not succeed raises what its status says, with the last error as the cause and the outcome at hand."""
    last = OSError("last")
    outcome = Outcome[None](status, error=last, reason="because")
    with pytest.raises(kind, match="because") as caught:
        outcome.unwrap()
    assert last is caught.value.__cause__
    assert outcome is caught.value.outcome


def test_a_timeouts_own_error_is_raised_as_it_is() -> None:
    """An attempt that was cut off has an error that tells where; it is not wrapped in another of its kind."""
    error = RunTimeout("took too long")
    outcome = Outcome[None](Status.TIMED_OUT, error=error)
    with pytest.raises(RunTimeout) as caught:
        outcome.unwrap()
    assert error is caught.value
    assert outcome is error.outcome


def test_a_status_equals_its_word() -> None:
    """Nobody has to import an enum to compare."""
    assert "timed_out" == Status.TIMED_OUT


# --- Run: what its owner does -----------------------------------------------------------


def test_every_run_has_an_id_of_its_own() -> None:
    """No two runs share an id."""
    job = Job(plain)
    assert 1000 == len(dict.fromkeys(Run(job).id for _ in range(1000)))


def test_the_first_reason_to_end_stays() -> None:
    """Who asks second changes nothing."""
    run = Run(Job(plain))
    assert run.ask_to_end(Status.CANCELLED, "first")
    assert not run.ask_to_end(Status.INTERRUPTED, "second")
    outcome = run.ended_by_request(5.0)
    assert (Status.CANCELLED, "first", 5.0) == (outcome.status, outcome.reason, outcome.ended)


def test_a_run_that_was_asked_to_end_keeps_its_last_error() -> None:
    """An interrupted run carries the error of its last attempt."""
    run = Run(Job(plain))
    error = OSError("last")
    run.history = (Attempt(1, Status.FAILED, error, 1.0, 2.0, wait=3.0),)
    run.ask_to_end(Status.INTERRUPTED)
    assert error is run.ended_by_request(3.0).error


def test_the_deadline_is_the_earlier_of_two() -> None:
    """A job sees one end of its time: the run's deadline or the attempt's timeout, whichever comes first."""
    run = Run(Job(plain))
    assert (None, None) == (run.ends, run.deadline)
    run.limit = 20.0
    assert 20.0 == run.ends
    run.due = 10.0
    assert datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC) == run.deadline
    run.limit = None
    assert 10.0 == run.ends


def test_a_new_attempt_is_not_told_what_the_last_was() -> None:
    """What ended one attempt does not end the next."""
    run = Run(Job(plain))
    run.limit = 1.0
    run.tell()
    assert run.cancelled
    assert run.told_event().is_set()
    run.next_attempt()
    assert (2, None, False) == (run.attempt, run.limit, run.cancelled)
    assert not run.told_event().is_set()


# --- Run: what a job asks ---------------------------------------------------------------


def test_outside_of_any_run_there_is_none() -> None:
    """Where no job runs, asking is an error."""
    with pytest.raises(LookupError, match="no run here"):
        current_run()


@pytest.mark.virtual
@pytest.mark.parametrize("kind", ["async", "thread", "inline"])
async def test_a_job_knows_its_run(kind: str) -> None:
    """Async, in a thread and inline: a job sees the id, the attempt, the job and the service it belongs to."""
    seen: list[Run] = []

    async def on_loop() -> None:
        seen.append(current_run())

    def in_thread() -> None:
        seen.append(current_run())

    fn: Callable[[], Any] = on_loop if kind == "async" else in_thread
    service = rc.OneShot(fn, backend="loop" if kind == "inline" else None)
    await service.run()
    (run,) = seen
    assert (1, "once", service.name, service.job) == (run.attempt, run.cause, run.service, run.job)
    assert (None, False) == (run.deadline, run.cancelled)
    assert run.id in repr(run)


@pytest.mark.virtual
async def test_concurrent_jobs_see_their_own_runs() -> None:
    """What one job asks is never answered for another."""
    seen: dict[str, list[str]] = {}

    async def job() -> None:
        run = current_run()
        for _ in range(3):
            seen.setdefault(run.id, []).append(current_run().id)
            await asyncio.sleep(0)

    supervisor = rc.Supervisor(*(rc.OneShot(job, name=str(n)) for n in range(5)))
    await supervisor.run()
    assert 5 == len(seen)
    assert all([key] * 3 == ids for key, ids in seen.items())


@pytest.mark.virtual
async def test_a_task_of_a_job_sees_the_jobs_run() -> None:
    """What a job starts belongs to its run."""

    async def ask() -> str:
        return current_run().id

    async def job() -> bool:
        return current_run().id == await asyncio.create_task(ask())

    service = rc.OneShot(job)
    await service.run()
    assert service.outcome is not None
    assert service.outcome.value is True


@pytest.mark.virtual
async def test_after_the_job_there_is_no_run() -> None:
    """A run is not left behind where it was started."""
    await rc.OneShot(go).run()
    with pytest.raises(LookupError):
        current_run()


@pytest.mark.virtual
async def test_sleep_takes_its_time_and_ends_early() -> None:
    """A pause takes its span, in virtual time as well, and is cut short by whoever asks the run to end."""
    ended: list[float] = []
    loop = asyncio.get_running_loop()

    async def job() -> None:
        await current_run().sleep("5s")
        ended.append(loop.time())
        try:
            await current_run().sleep("1h")
        finally:
            ended.append(loop.time())

    service = rc.OneShot(job)
    await service.start()
    await asyncio.sleep(20)
    await service.stop()
    assert [5.0, 20.0] == ended
    assert service.outcome is not None
    assert Status.INTERRUPTED is service.outcome.status


@pytest.mark.virtual
async def test_sleep_in_a_thread() -> None:
    """In a thread the same call blocks until the time is up, or raises when the run should end."""
    said: list[str] = []

    def job() -> None:
        current_run().sleep("5s")
        said.append("slept")
        try:
            current_run().sleep("1h")
        except asyncio.CancelledError:
            said.append("cut short")
            raise

    service = rc.OneShot(job)
    await service.start()
    await asyncio.sleep(20)
    report = await service.stop()
    assert ["slept", "cut short"] == said
    assert (1, ()) == (report.cancelled, report.would_not_stop)


@pytest.mark.virtual
async def test_wait_cancelled_says_which_came_first() -> None:
    """It gives False when the time is up and True when the run should end, in tasks and in threads."""
    answers: list[bool] = []

    async def on_loop() -> None:
        answers.append(await current_run().wait_cancelled("5s"))

    def in_thread() -> None:
        answers.append(bool(current_run().wait_cancelled("5s")))
        answers.append(current_run().cancelled)
        answers.append(bool(current_run().wait_cancelled()))
        answers.append(current_run().cancelled)

    await rc.OneShot(on_loop).run()
    service = rc.OneShot(in_thread)
    await service.start()
    await asyncio.sleep(60)
    await service.stop()
    assert [False, False, False, True, True] == answers


@pytest.mark.virtual
async def test_a_wait_in_an_async_job_must_be_awaited() -> None:
    """Who forgets to await it is told so, rather than given a truth."""

    async def job() -> None:
        if current_run().wait_cancelled("5s"):
            raise AssertionError

    with pytest.raises(RuntimeError, match="await it"):
        await rc.OneShot(job).run()


@pytest.mark.virtual
@pytest.mark.parametrize("wait", [lambda: current_run().sleep("5s"), lambda: current_run().wait_cancelled()])
async def test_a_pause_that_is_never_awaited_is_told(wait: Callable[[], object]) -> None:
    """A forgotten `await` is warned of, as that of a coroutine is; one that is awaited says nothing."""

    async def job() -> None:
        wait()

    async def careful() -> None:
        await current_run().sleep("5s")

    with pytest.warns(RuntimeWarning, match="a pause of job on the event loop was never awaited"):
        await rc.OneShot(job).run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await rc.OneShot(careful).run()


@pytest.mark.virtual
async def test_a_plain_job_on_the_loop_may_not_block_it() -> None:
    """A pause of a plain job on the loop is refused with the remedy."""

    def job() -> None:
        current_run().sleep(1)

    with pytest.raises(RuntimeError, match="run it in a thread"):
        await rc.OneShot(job, backend="loop").run()


@pytest.mark.virtual
@pytest.mark.parametrize("span", [-1, float("nan"), "soon"])
async def test_a_bad_span_is_refused(span: Any) -> None:
    """A job that asks for a nonsensical pause fails with the reason."""

    async def job() -> None:
        await current_run().sleep(span)

    with pytest.raises(ConfigError, match="sleep: "):
        await rc.OneShot(job).run()


@pytest.mark.virtual
async def test_progress_is_seen_while_it_runs() -> None:
    """How far a job says it has come is in the stats, as long as it runs."""

    async def job() -> None:
        current_run().progress(3, 10)
        await asyncio.sleep(10)

    service = rc.OneShot(job)
    await service.start()
    await asyncio.sleep(5)
    (running,) = service.stats().running
    assert ((3, 10), 1) == (running.progress, running.attempt)
    assert datetime(2025, 1, 1, tzinfo=UTC) == running.started_at
    await service.wait()
    assert () == service.stats().running


@pytest.mark.virtual
@pytest.mark.parametrize("in_thread", [False, True])
async def test_the_log_has_the_fields_of_the_run(in_thread: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Each record of a run's log names the run, the job and the attempt, beside what the caller adds."""

    def plain_job() -> None:
        current_run().log.warning("here", extra={"mine": 7})

    async def async_job() -> None:
        plain_job()

    await rc.OneShot(plain_job if in_thread else async_job, name="told").run()
    (record,) = [r for r in caplog.records if r.name == "runcrew.job"]
    fields = record.__dict__
    assert ("told", 1, 7, logging.WARNING) == (fields["job"], fields["attempt"], fields["mine"], record.levelno)
    assert "-" in fields["run"]


@pytest.mark.virtual
@pytest.mark.parametrize("in_thread", [False, True])
async def test_the_job_sees_when_its_time_is_up(in_thread: bool) -> None:
    """The deadline of an attempt with a timeout is its start plus the timeout."""
    seen: list[datetime | None] = []

    def plain_job() -> None:
        seen.append(current_run().deadline)

    async def async_job() -> None:
        plain_job()

    await rc.OneShot(plain_job if in_thread else async_job, delay="5s", timeout="10s").run()
    assert [datetime(2025, 1, 1, 0, 0, 15, tzinfo=UTC)] == seen


@pytest.mark.virtual
async def test_ready_where_nobody_waits_does_nothing() -> None:
    """A job may say that it is ready, more than once, although nobody asked."""

    async def job() -> None:
        current_run().ready()
        current_run().ready()

    await rc.OneShot(job).run()


@pytest.mark.virtual
async def test_telling_wakes_all_who_wait() -> None:
    """Several tasks of one job can wait for its end, and all hear of it."""
    heard: list[bool] = []

    async def listen(run: Run) -> None:
        heard.append(await run.wait_cancelled())

    async def job() -> None:
        run = current_run()
        tasks = [asyncio.create_task(listen(run)) for _ in range(3)]
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.wait(tasks)

    service = rc.OneShot(job)
    await service.start()
    await asyncio.sleep(1)
    await service.stop()
    assert [True] * 3 == heard


def test_a_run_can_be_told_from_its_event_in_many_threads() -> None:
    """However the first look at the event and the telling meet, nobody sleeps through it."""
    for _ in range(200):
        run = Run(Job(plain))
        seen: list[bool] = []

        def look(run: Run = run, seen: list[bool] = seen) -> None:
            seen.append(run.told_event().wait(5))

        thread = threading.Thread(target=look)
        thread.start()
        run.tell()
        thread.join()
        assert [True] == seen
