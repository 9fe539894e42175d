"""Jobs in threads: told, taken back or given up; what they still do is never waited for and never lost."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runcrew.abc import Backend
from runcrew.backends import LoopBackend, NoThread, ThreadBackend, Threads, choose, shared
from runcrew.backends.guarded import call_job_in_thread
from runcrew.errors import ConfigError
from runcrew.job import Job, Outcome, Run, Status, current_run


@pytest.fixture
def pool() -> Iterator[Threads]:
    """Two threads."""
    made = Threads(2)
    yield made
    made.shed()


class Deaf:
    """A job that does not listen, until it may go."""

    def __init__(self, ends: Callable[[], Any] = lambda: "done") -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.ends = ends

    def __call__(self) -> Any:
        self.begun.set()
        assert self.open.wait(10)
        return self.ends()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run, and other threads, until `condition` holds; takes no virtual time."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


@pytest.mark.virtual
async def test_a_run_says_where_it_is(pool: Threads) -> None:
    """While a job runs in a thread its run knows that, and which one; afterwards it does not."""

    def job() -> tuple[bool, bool]:
        run = current_run()
        return run.in_thread, run.thread == threading.get_ident() != home

    home = threading.get_ident()
    run = Run(Job(job))
    outcome = await ThreadBackend(pool).handle(run)
    assert (True, True) == outcome.value
    assert (False, None) == (run.in_thread, run.thread)


@pytest.mark.virtual
async def test_context_comes_along_and_does_not_come_back(pool: Threads) -> None:
    """A job sees its caller's context variables, in a copy of its own."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def job() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    variable.set(5)
    for _ in range(2):
        assert 6 == (await ThreadBackend(pool).handle(Run(Job(job)))).value
    assert 5 == variable.get()


@pytest.mark.virtual
async def test_a_job_that_has_not_begun_never_does(pool: Threads) -> None:
    """Cancelling the task of a waiting job takes it back: it never runs and no thread is given up."""
    ran: list[int] = []
    deaf = [Deaf(), Deaf()]
    busy = [asyncio.create_task(ThreadBackend(pool).handle(Run(Job(job)))) for job in deaf]
    await until(lambda: all(job.begun.is_set() for job in deaf))
    run = Run(Job(lambda: ran.append(1), "late"))
    task = asyncio.create_task(ThreadBackend(pool).handle(run))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (0, 0) == (pool.abandoned, pool.stats().queued)
    assert run.started is None
    for job in deaf:
        job.open.set()
    assert ["done", "done"] == [outcome.value for outcome in await asyncio.gather(*busy)]
    assert [] == ran


@pytest.mark.virtual
async def test_a_deaf_job_is_told_and_given_up(pool: Threads, caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling returns at once with CancelledError; the run is told, its thread counted and named by the run."""
    job = Deaf()
    run = Run(Job(job, "deaf"))
    task = asyncio.create_task(ThreadBackend(pool).handle(run))
    await until(job.begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.told
    assert not run.in_thread
    assert [f"<Run {run.id} of deaf, attempt 1>"] == [given.name for given in pool.stats().abandoned]
    job.open.set()
    await until(lambda: pool.abandoned == 0)
    assert [] == caplog.records


@pytest.mark.virtual
async def test_what_a_given_up_job_raises_is_logged(pool: Threads, caplog: pytest.LogCaptureFixture) -> None:
    """The error of an abandoned job does not vanish."""
    job = Deaf(lambda: 1 / 0)
    task = asyncio.create_task(ThreadBackend(pool).handle(Run(Job(job, "deaf"))))
    await until(job.begun.is_set)
    task.cancel()
    await asyncio.wait([task])
    with caplog.at_level(logging.WARNING, "runcrew"):
        job.open.set()
        await until(lambda: caplog.records)
    (record,) = caplog.records
    assert "of deaf, attempt 1> failed after it had been given up" in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.virtual
async def test_an_error_in_the_moment_of_cancelling_is_kept(pool: Threads) -> None:
    """A job that failed just before its cancelled task could see it leaves its error in the run's history."""
    job = Deaf(lambda: 1 / 0)
    run = Run(Job(job))
    task = asyncio.create_task(ThreadBackend(pool).handle(run))
    await until(job.begun.is_set)
    call = next(worker.call for worker in pool._workers if worker.call is not None)
    job.open.set()
    while call.ended is None:  # without giving the loop the chance to hear of it
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [ZeroDivisionError] == [type(attempt.error) for attempt in run.history]
    run.ask_to_end(Status.CANCELLED)
    assert isinstance(run.ended_by_request(0.0).error, ZeroDivisionError)


@pytest.mark.virtual
async def test_a_job_that_listens_ends_as_it_was_asked(pool: Threads) -> None:
    """A job that sleeps on its run and is told ends by CancelledError: the outcome is that of the request."""

    def job() -> None:
        current_run().sleep(3600)

    run = Run(Job(job))
    task = asyncio.create_task(ThreadBackend(pool).handle(run))
    await asyncio.sleep(60)
    assert run.in_thread
    run.ask_to_end(Status.INTERRUPTED, "the service stops")
    run.tell()
    outcome = await task
    assert (Status.INTERRUPTED, "the service stops", 0) == (outcome.status, outcome.reason, pool.abandoned)
    assert 60.0 == asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_a_job_that_is_told_may_still_return_or_fail(pool: Threads) -> None:
    """After it was told, a value is a success and an error a failure."""

    def returns() -> bool:
        return bool(current_run().wait_cancelled(3600))

    def fails() -> None:
        current_run().wait_cancelled(3600)
        raise ValueError("on the way out")

    for job, status in ((returns, Status.SUCCEEDED), (fails, Status.FAILED)):
        run = Run(Job(job))
        task = asyncio.create_task(ThreadBackend(pool).handle(run))
        await asyncio.sleep(1)
        run.ask_to_end(Status.CANCELLED)
        run.tell()
        assert status is (await task).status


@pytest.mark.virtual
async def test_a_cancelled_error_nobody_asked_for_is_a_failure(pool: Threads) -> None:
    """In a thread too, a job that raises CancelledError by itself has failed."""

    def job() -> None:
        raise asyncio.CancelledError

    outcome = await ThreadBackend(pool).handle(Run(Job(job)))
    assert (Status.FAILED, asyncio.CancelledError) == (outcome.status, type(outcome.error))


@pytest.mark.virtual
async def test_a_run_that_was_asked_to_end_while_it_waited_does_not_begin(pool: Threads) -> None:
    """A waiting job whose run is asked to end is over without having begun, when its turn comes."""
    deaf = [Deaf(), Deaf()]
    busy = [asyncio.create_task(ThreadBackend(pool).handle(Run(Job(job)))) for job in deaf]
    await until(lambda: all(job.begun.is_set() for job in deaf))
    ran: list[int] = []
    run = Run(Job(lambda: ran.append(1), "late"))
    task = asyncio.create_task(ThreadBackend(pool).handle(run))
    await asyncio.sleep(0)
    run.ask_to_end(Status.CANCELLED, "never mind")
    run.tell()
    for job in deaf:
        job.open.set()
    outcome = await task
    assert (Status.CANCELLED, None, []) == (outcome.status, outcome.started, ran)
    await asyncio.gather(*busy)


@pytest.mark.virtual
async def test_a_given_up_thread_does_not_disturb_the_next_attempt(pool: Threads) -> None:
    """A thread that was given up stays told, while the next attempt of the same run begins afresh."""
    seen: list[bool] = []
    go = threading.Event()
    begun = threading.Event()

    def job() -> None:
        run = current_run()
        if run.attempt == 1:
            begun.set()
            go.wait(10)
        seen.append(run.cancelled)

    run = Run(Job(job))
    task = asyncio.create_task(ThreadBackend(pool).handle(run))
    await until(begun.is_set)
    task.cancel()
    await asyncio.wait([task])
    run.next_attempt()
    outcome = await ThreadBackend(pool).handle(run)
    assert [False] == seen
    go.set()
    await until(lambda: pool.abandoned == 0)
    assert [False, True] == seen
    assert outcome.ok


@pytest.mark.virtual
async def test_a_job_that_heeds_while_the_next_attempt_begins_is_not_logged(
    pool: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that ends because it was told has not failed, also where its run is at the next attempt by then."""
    told, go = threading.Event(), threading.Event()

    def job() -> None:
        try:
            current_run().sleep(3600)
        finally:
            told.set()
            go.wait(10)

    run = Run(Job(job))
    task = asyncio.create_task(ThreadBackend(pool).handle(run))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    run.next_attempt()
    await until(told.is_set)
    go.set()
    await until(lambda: pool.abandoned == 0)
    assert [] == caplog.records


@pytest.mark.virtual
async def test_an_attempt_that_was_given_up_never_begins(pool: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is held up before its first line neither calls the job later nor touches the next attempt."""
    taken, go = threading.Event(), threading.Event()
    ran: list[int] = []

    def held_up(run: Run, turn: Any) -> Any:
        taken.set()
        assert go.wait(10)
        return call_job_in_thread(run, turn)

    run = Run(Job(lambda: ran.append(1)))
    with monkeypatch.context() as patch:
        patch.setattr("runcrew.backends.threaded.call_job_in_thread", held_up)
        backend = ThreadBackend(pool)
        task = asyncio.create_task(backend.handle(run))
        await until(taken.is_set)
        task.cancel()
        await asyncio.wait([task])
    assert () == backend.abandoned
    run.next_attempt()
    go.set()
    await until(lambda: pool.abandoned == 0)
    assert ([], None, False, None) == (ran, run.started, run.in_thread, run.thread)


@pytest.mark.virtual
async def test_no_more_are_left_behind_than_may_be(caplog: pytest.LogCaptureFixture) -> None:
    """At `max_abandoned` an attempt waits, says so once and in a note, and goes on as soon as one has ended."""
    pool = Threads(None)
    backend = ThreadBackend(pool, max_abandoned=2)
    heard: list[Any] = []
    deaf = [Deaf(), Deaf()]
    for job in deaf:
        run = Run(Job(job, "deaf"))
        run.on_abandoned = heard.append
        task = asyncio.create_task(backend.handle(run))
        await until(job.begun.is_set)
        task.cancel()
        await asyncio.wait([task])
    assert heard == list(backend.abandoned)
    assert [True, True] == ["of deaf, attempt 1>" in given.name for given in heard]
    for _ in range(2):
        task = asyncio.create_task(backend.handle(Run(Job(plain, "next"))))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert ["it had no thread: 2 given-up attempts of next still have one"] == caught.value.__notes__
    (record,) = caplog.records
    assert record.message.startswith("next waits for a thread: 2 attempts that were given up have not ended: <Run")
    assert 2 == pool.stats().threads
    task = asyncio.create_task(backend.handle(Run(Job(plain, "next"))))
    await asyncio.sleep(0)
    deaf[0].open.set()
    await until(task.done)
    assert task.result().ok
    assert (heard[1],) == backend.abandoned
    deaf[1].open.set()
    await until(lambda: backend.abandoned == () and pool.abandoned == 0)
    pool.shed()


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_a_bad_limit_is_refused(value: Any) -> None:
    """A limit of abandoned attempts is a whole number of at least 1: with none, no attempt could begin."""
    with pytest.raises(ConfigError, match=r"max_abandoned: .* is not a whole number of at least 1"):
        ThreadBackend(max_abandoned=value)


@pytest.mark.virtual
async def test_no_thread_is_a_failed_outcome(pool: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread for it, a run has failed with NoThread, never begun, and may be retried."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    run = Run(Job(lambda: 1, "unlucky"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outcome = await ThreadBackend(pool).handle(run)
    assert (Status.FAILED, NoThread, None) == (outcome.status, type(outcome.error), outcome.started)
    assert (await ThreadBackend(pool).handle(run)).ok


@pytest.mark.virtual
async def test_cancelling_everywhere_loses_nothing(pool: Threads) -> None:
    """Whichever step of the loop the cancellation hits, the task ends, time is let go and no thread is left over."""
    for steps in range(8):
        task = asyncio.create_task(ThreadBackend(pool).handle(Run(Job(lambda: 1, "quick"))))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            assert 1 == task.result().value
        await until(lambda: pool.abandoned == 0)
    await asyncio.sleep(3600)
    assert 3600.0 == asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_the_shared_pool_is_the_default() -> None:
    """A backend without a pool of its own uses the shared one."""
    outcome = await ThreadBackend().handle(Run(Job(lambda: threading.current_thread().name, "job")))
    assert outcome.value in [worker.thread.name for worker in shared()._workers]


# --- what backend= means ------------------------------------------------------------------------


async def asynchronous() -> None:
    """A job for the loop."""


def plain() -> None:
    """A job for a thread."""


class Own:
    """A backend of the user's own."""

    async def handle(self, run: Run) -> Outcome[Any]:
        """Does nothing."""
        return run.finished(Status.SUCCEEDED, 0.0)


OWN = Own()


@pytest.mark.parametrize(
    ("job", "backend", "kind"),
    [
        (asynchronous, None, LoopBackend),
        (plain, None, ThreadBackend),
        (asynchronous, "loop", LoopBackend),
        (plain, "loop", LoopBackend),
        (plain, "thread", ThreadBackend),
        (asynchronous, OWN, Own),
        (plain, OWN, Own),
    ],
)
def test_the_choice(job: Any, backend: Any, kind: type) -> None:
    """None decides by the job; the two words and an object of one's own are what they say."""
    chosen = choose(Job(job), backend)
    assert isinstance(chosen, kind)
    assert isinstance(chosen, Backend)


def test_a_pool_of_ones_own(pool: Threads) -> None:
    """`threads=` is the pool of a chosen thread backend."""
    for word in (None, "thread"):
        chosen = choose(Job(plain), word, pool)
        assert isinstance(chosen, ThreadBackend)
        assert pool is chosen._threads


@pytest.mark.parametrize(
    ("job", "backend", "says"),
    [
        (asynchronous, "thread", "asynchronous is async, and a thread runs plain functions"),
        (asynchronous, ThreadBackend(), "asynchronous is async"),
        (plain, "fork", "'fork' is unknown"),
        (plain, "threads", "'threads' is unknown"),
        (plain, 7, "7 has no method handle"),
        (plain, Own, "Own is a class: give an instance"),
    ],
)
def test_a_bad_choice_is_refused(job: Any, backend: Any, says: str) -> None:
    """What no backend is, and an async job for a thread, are refused where they are given."""
    with pytest.raises(ConfigError, match=says):
        choose(Job(job), backend)


def test_backends_show_their_names() -> None:
    """In a printed chain the two are `loop` and `thread`."""
    assert ["loop", "thread"] == [repr(LoopBackend()), repr(ThreadBackend())]
