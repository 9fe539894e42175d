"""Counter: every run counts once, however it ends, and the numbers always are of one moment."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from typing import Any

import pytest

import runcrew as rc
from runcrew.abc import Handler
from runcrew.job import Job, Outcome, Run, Status
from runcrew.policies import Numbers
from runcrew.policies.counter import BATCH
from runcrew.testing import cancel_everywhere

#: The ways to have a Counter: alone, and next to an Elapsed, where one layer does the work of both.
WAYS = ["alone", "inside", "outside"]


def around(way: str, counter: rc.Counter, handler: Handler) -> Handler:
    """Put a counter around a handler in one of these ways."""
    if way == "alone":
        return counter(handler)
    elapsed = rc.Elapsed()
    return elapsed(counter(handler)) if way == "inside" else counter(elapsed(handler))


def drive(coroutine: Awaitable[Any]) -> Any:
    """What a coroutine returns that never waits; without any event loop."""
    steps: Any = coroutine
    try:
        steps.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def a_run() -> Run:
    """Some run."""
    return Run(Job(a_run))


def giving(status: Any) -> Handler:
    """A handler whose runs all end so."""

    async def handle(run: Run) -> Outcome[Any]:
        return Outcome(status)

    return handle


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.virtual
@pytest.mark.parity("T4.38", "E4.14")
async def test_it_counts_begun_ended_failed_and_running() -> None:
    """While the tenth of ten jobs goes on, one is running; at the end ten have begun, ten ended, and five failed."""
    counter, go_on = rc.Counter(), asyncio.Event()

    async def job(n: int) -> None:
        if n == 10:
            await go_on.wait()
        if n % 2:
            raise ValueError(n)

    assert Numbers(0, 0, 0, 0) == counter.snapshot()
    async with rc.Queue("jobs", workers=2, middleware=[counter]) as queue:
        tickets = [await queue.submit(job, n) for n in range(1, 11)]
        for ticket in tickets[:9]:
            await ticket.outcome()
        assert (10, 9, 5, 1) == (counter.started, counter.finished, counter.failed, counter.running)
        go_on.set()
    assert (10, 10, 5, 0) == (counter.started, counter.finished, counter.failed, counter.running)
    assert (5, 0) == (counter.succeeded, counter.cancelled)
    assert "<Counter: 10 started, 10 finished, 5 failed>" == repr(counter)


@pytest.mark.parity("T4.6", "T4.48")
@pytest.mark.virtual
async def test_middleware_is_a_function_from_handler_to_handler() -> None:
    """Any plain function will do: it may look at a run, change what comes of it, or swallow an error."""
    said: list[str] = []

    def forgiving(handler: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            said.append(f"begin {run.job.name}")
            outcome = await handler(run)
            said.append(str(outcome.status))
            return run.finished(Status.SUCCEEDED, outcome.ended, value="all is well")

        return handle

    async def fails() -> str:
        raise ValueError

    outer, inner = rc.Counter(), rc.Counter()
    assert "all is well" == await rc.wrap(fails, outer, forgiving, inner)()
    assert ["begin fails", "failed"] == said
    assert (0, 1) == (outer.failed, inner.failed)


@pytest.mark.parity("T4.7")
@pytest.mark.virtual
async def test_without_middleware_it_is_the_job_alone() -> None:
    """An empty list of middleware adds nothing, and gives what the job gives."""

    async def job(n: int) -> int:
        return n + 1

    assert 2 == await rc.wrap(job)(1)


@pytest.mark.parity("T4.9")
@pytest.mark.virtual
async def test_one_counter_counts_for_all_who_use_it() -> None:
    """A counter around several jobs, in a queue, an interval and by themselves, counts all their runs together."""
    counter = rc.Counter()

    async def job() -> None:
        pass

    async with rc.Queue("jobs", workers=3, middleware=[counter]) as queue:
        await asyncio.gather(*(queue.run(job) for _ in range(5)))
    async with rc.Interval(job, "1s", middleware=[counter]):
        await asyncio.sleep(2.5)
    await rc.wrap(job, counter)()
    await rc.policy(middleware=[counter]).call(job)
    assert Numbers(10, 10, 0, 0) == counter.snapshot()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parity("T4.39")
@pytest.mark.virtual
async def test_inside_a_retry_it_counts_attempts_and_outside_runs(way: str) -> None:
    """What is around a retry sees one run; what is inside of it sees each attempt."""
    runs, attempts = rc.Counter(), rc.Counter()

    async def job() -> None:
        if attempts.started < 3:
            raise ConnectionError

    counted = rc.wrap(job, lambda handler: around(way, attempts, handler))
    policy = rc.policy(retry=rc.Retry(ConnectionError, retries=5, backoff=rc.Constant(1)), middleware=[runs])
    await policy.call(counted)
    assert Numbers(1, 1, 0, 0) == runs.snapshot()
    assert Numbers(3, 3, 2, 0) == attempts.snapshot()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("status", "numbers"),
    [
        (Status.SUCCEEDED, Numbers(1, 1, 0, 0)),
        (Status.FAILED, Numbers(1, 1, 1, 0)),
        (Status.TIMED_OUT, Numbers(1, 1, 1, 0)),
        (Status.CANCELLED, Numbers(1, 1, 0, 1)),
        (Status.INTERRUPTED, Numbers(1, 1, 0, 1)),
        (Status.SKIPPED, Numbers(1, 1, 0, 1)),
        ("succeeded", Numbers(1, 1, 0, 0)),
        ("failed", Numbers(1, 1, 1, 0)),
        ("no status", Numbers(1, 1, 1, 0)),
        ([], Numbers(1, 1, 1, 0)),
    ],
)
def test_every_end_counts_as_what_it_is(way: str, status: Any, numbers: Numbers) -> None:
    """Failed and timed out is failed; cancelled, interrupted and skipped is cancelled; nonsense is a failure."""
    counter = rc.Counter()
    assert status is drive(around(way, counter, giving(status))(a_run())).status
    assert numbers == counter.snapshot()
    assert numbers.finished - numbers.failed - numbers.cancelled == counter.succeeded


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_outcome_goes_through_as_a_failure(way: str) -> None:
    """A handler that gives no Outcome is counted as failed, and what it gave comes out unchanged."""

    async def handle(run: Run) -> Any:
        return 42

    counter = rc.Counter()
    assert 42 == drive(around(way, counter, handle)(a_run()))
    assert Numbers(1, 1, 1, 0) == counter.snapshot()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [ValueError(), SystemExit(), asyncio.CancelledError()])
@pytest.mark.defect("D4.9")
def test_a_handler_that_raises_has_ended(way: str, error: BaseException) -> None:
    """Whatever a handler raises, its run is no longer counted as running, and has failed."""

    async def raises(run: Run) -> Any:
        raise error

    counter = rc.Counter()
    with pytest.raises(type(error)):
        drive(around(way, counter, raises)(a_run()))
    assert Numbers(1, 1, 1, 0) == counter.snapshot()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.defect("D4.9")
@pytest.mark.virtual
async def test_a_run_cancelled_anywhere_has_ended(way: str) -> None:
    """Wherever the caller is cancelled, nothing stays counted as running, and the run counts as cancelled."""
    counter = rc.Counter()

    async def job() -> None:
        for _ in range(3):
            await asyncio.sleep(1)

    def check(task: asyncio.Task[Any]) -> None:
        nonlocal counter
        begun = counter.started
        assert Numbers(begun, begun, 0, int(task.cancelled() and begun)) == counter.snapshot()
        counter = rc.Counter()

    def make() -> Coroutine[Any, Any, Any]:
        return rc.wrap(job, lambda handler: around(way, counter, handler))()

    assert 3 == await cancel_everywhere(make, check)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.virtual
async def test_an_attempt_cut_off_by_its_timeout_has_failed(way: str) -> None:
    """A counter inside of a timeout sees a cancellation, and counts what the run comes to: a failure."""
    counter = rc.Counter()

    async def handle(run: Run) -> Outcome[Any]:
        run.limit = 0.0
        run.tell()
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await around(way, counter, handle)(a_run())
    assert Numbers(1, 1, 1, 0) == counter.snapshot()


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_thrown_away_has_ended(way: str) -> None:
    """A coroutine that is closed before its end counts as cancelled, also without an event loop."""

    class Never:
        def __await__(self) -> Generator[None]:
            yield

    async def waits(run: Run) -> Any:
        await Never()

    counter = rc.Counter()
    coroutine: Any = around(way, counter, waits)(a_run())
    coroutine.send(None)
    assert 1 == counter.running
    coroutine.close()
    assert Numbers(1, 1, 0, 1) == counter.snapshot()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.defect("D4.11")
def test_a_run_that_ends_in_the_middle_of_a_look_is_not_half_seen(way: str) -> None:
    """A run that begins and one that ends while the numbers are read are in all of them or in none."""
    counter, stops = rc.Counter(), list[Any]()

    class Never:
        def __await__(self) -> Generator[None]:
            yield

    async def waits(run: Run) -> Outcome[Any]:
        await Never()
        return Outcome(Status.FAILED)

    handler = around(way, counter, waits)

    class Busy:
        """Has no runs; while it is asked for their number, one of the others ends, and two begin."""

        def numbers(self) -> Numbers:
            """None."""
            if stops:
                with pytest.raises(StopIteration):
                    stops.pop().send(None)
            for _ in range(2):
                stops.append(handler(a_run()))
                stops[-1].send(None)
            return Numbers()

    counter.attach(Busy())
    assert Numbers(0, 0, 0, 0) == counter.snapshot()
    assert Numbers(2, 0, 0, 0) == counter.snapshot()
    assert Numbers(4, 1, 1, 0) == counter.snapshot()
    assert 4 == counter.running
    for stop in stops:
        stop.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.defect("D4.11")
@pytest.mark.realtime
@pytest.mark.usefixtures("often")
def test_the_numbers_are_of_one_moment(way: str) -> None:
    """Read while four threads run jobs, no more are ever running than there are threads, and never less than none."""
    counter, stop, seen = rc.Counter(), threading.Event(), list[Numbers]()
    handlers = [around(way, counter, giving(Status.FAILED if n else Status.SUCCEEDED)) for n in range(2)]
    done = [0, 0, 0, 0]

    def work(number: int) -> None:
        run, handler = a_run(), handlers[number % 2]
        while not stop.is_set():
            drive(handler(run))
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while sum(done) < 20_000:
        seen.append(counter.snapshot())
    stop.set()
    for thread in threads:
        thread.join()
    assert [] == [now for now in seen if not 0 <= now.running <= 4 or not 0 <= now.succeeded <= now.finished]
    assert sorted(seen) == seen
    assert Numbers(sum(done), sum(done), done[1] + done[3], 0) == counter.snapshot()


@pytest.mark.parametrize("way", [*WAYS, "inside, the other is read", "outside, the other is read"])
@pytest.mark.parametrize("kind", ["good", "bad", "raises"])
def test_memory_is_bounded_however_many_runs_there_are(way: str, kind: str) -> None:
    """Nobody has to look at a counter: what it keeps of runs that ended does not grow with their number."""

    async def raises(run: Run) -> Any:
        raise ValueError

    counter, elapsed = rc.Counter(), rc.Elapsed()
    handler = raises if kind == "raises" else giving(Status.SUCCEEDED if kind == "good" else Status.FAILED)
    if way == "alone":
        handler = counter(handler)
    else:
        handler = elapsed(counter(handler)) if way.startswith("inside") else counter(elapsed(handler))
    run = a_run()
    for number in range(3 * BATCH):
        try:
            drive(handler(run))
        except ValueError:
            pass
        if way.endswith("read") and number % 100 == 0:
            assert number + 1 == elapsed.finished
    assert 2 * BATCH > max(len(counter._notes), len(elapsed._notes), *map(len, elapsed._lists))
    assert 3 * BATCH == counter.finished


def test_a_subclass_is_wrapped_like_any_middleware() -> None:
    """A counter of one's own may add what it likes around the handler; the numbers are kept all the same."""

    class Loud(rc.Counter):
        said = 0

        def __call__(self, handler: Handler, /) -> Handler:
            counted = super().__call__(handler)

            async def handle(run: Run) -> Outcome[Any]:
                self.said += 1
                return await counted(run)

            return handle

    loud, elapsed = Loud(), rc.Elapsed()
    drive(elapsed(loud(giving(Status.SUCCEEDED)))(a_run()))
    assert (1, 1, 1) == (loud.said, loud.finished, elapsed.finished)


# --- whoever keeps the numbers itself ------------------------------------------------


class Keeper:
    """Counts by itself, as a pool does."""

    def __init__(self, *numbers: int) -> None:
        self.now = Numbers(*numbers)

    def numbers(self) -> Numbers:
        """The numbers as they stand."""
        return self.now


def test_the_numbers_include_those_of_its_sources() -> None:
    """What is attached is counted with the rest as it stands, and what it came to stays when it is let go."""
    counter, first, second = rc.Counter(), Keeper(5, 3, 1, 1), Keeper(1, 0, 0, 0)
    drive(counter(giving(Status.FAILED))(a_run()))
    counter.attach(first)
    counter.attach(second)
    assert Numbers(7, 4, 2, 1) == counter.snapshot()
    first.now = Numbers(6, 6, 2, 1)
    assert (8, 7, 1, 3, 1, 3) == (
        counter.started, counter.finished, counter.running, counter.failed, counter.cancelled, counter.succeeded
    )  # fmt: skip
    counter.detach(first)
    first.now = Numbers(0, 0, 0, 0)
    assert Numbers(8, 7, 3, 1) == counter.snapshot()
    counter.detach(second)
    assert Numbers(8, 7, 3, 1) == counter.snapshot()


def test_a_source_counts_once() -> None:
    """Attached twice it is one source; letting go of one that is not attached does nothing."""
    counter, source = rc.Counter(), Keeper(5, 3, 1, 1)
    counter.attach(source)
    counter.attach(source)
    assert source.now == counter.snapshot()
    for _ in range(2):
        counter.detach(source)
        assert source.now == counter.snapshot()
    counter.attach(source)  # it begins another life, and says what came of that
    assert Numbers(10, 6, 2, 2) == counter.snapshot()


@pytest.mark.realtime
@pytest.mark.usefixtures("often")
def test_nothing_is_counted_twice_while_a_source_is_let_go() -> None:
    """Read in one thread while another attaches and detaches sources, the numbers only grow by whole sources."""
    counter, over, seen = rc.Counter(), threading.Event(), list[Numbers]()

    def read() -> None:
        while not over.is_set():
            seen.append(counter.snapshot())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(2000):
        source = Keeper(3, 3, 0, 0)
        counter.attach(source)
        counter.detach(source)
    over.set()
    reader.join()
    assert Numbers(6000, 6000, 0, 0) == counter.snapshot()
    assert sorted(seen) == seen
    assert [] == [now for now in seen if now.started % 3 or now.running]
