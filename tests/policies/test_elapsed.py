"""Elapsed: how long runs took, exactly on virtual time, apart for those that failed, and all of one moment."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcrew as rc
from runcrew import clock
from runcrew.abc import Handler
from runcrew.insight import Digest
from runcrew.job import Job, Outcome, Run, Status
from runcrew.policies import Numbers, Times
from runcrew.testing import run_virtual

#: The ways to have an Elapsed: alone, and next to a Counter, where one layer does the work of both.
WAYS = ["alone", "inside", "outside"]


def around(way: str, elapsed: rc.Elapsed, handler: Handler) -> Handler:
    """Put an Elapsed around a handler in one of these ways."""
    if way == "alone":
        return elapsed(handler)
    counter = rc.Counter()
    return counter(elapsed(handler)) if way == "inside" else elapsed(counter(handler))


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


def about(value: float) -> Any:
    """As close as a percentile is."""
    return pytest.approx(value, rel=0.01)


class ByHand(clock.Clock):
    """A clock that goes on when it is told to."""

    at = 1000.0

    def monotonic(self) -> float:
        """The time as it was set."""
        return self.at


def taking(time: ByHand, span: float, status: Status = Status.SUCCEEDED) -> Handler:
    """A handler whose runs take that long, and end so."""

    async def handle(run: Run) -> Outcome[Any]:
        time.at += span
        return Outcome(status)

    return handle


@pytest.fixture
def by_hand() -> ByHand:
    """That clock, in force."""
    time = ByHand()
    clock.use(time)
    return time


@pytest.fixture(autouse=True)
def the_clock_that_was() -> Any:
    """After each test the clock is the one that was in force before it."""
    before = clock.current()
    yield
    clock.use(before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parity("T4.40", "E4.15")
def test_total_average_and_last_on_a_clock_of_ones_own(way: str, by_hand: ByHand) -> None:
    """Ten runs of 1 to 10 seconds take 55 in total and 5.5 on average, and the last one took 10."""
    elapsed = rc.Elapsed()
    for span in range(1, 11):
        drive(around(way, elapsed, taking(by_hand, float(span)))(a_run()))
    assert (55.0, 5.5, 10.0) == (elapsed.total, elapsed.average, elapsed.last)
    assert (1.0, 10.0) == (elapsed.min, elapsed.max)
    assert (about(5.0), 10.0, 10.0) == (elapsed.p50, elapsed.p95, elapsed.p99)
    assert [1.0, about(3.0), 10.0] == [elapsed.percentile(q) for q in (0, 30, 100)]
    assert (10, 10, 0, 0, 10) == (
        elapsed.started, elapsed.finished, elapsed.running, elapsed.failed, elapsed.succeeded
    )  # fmt: skip


def test_before_anything_ended_all_is_zero() -> None:
    """Without runs there is no last one and no percentile: every span is 0."""
    elapsed = rc.Elapsed()
    spans = (
        elapsed.total,
        elapsed.average,
        elapsed.last,
        elapsed.min,
        elapsed.max,
        elapsed.p50,
        elapsed.p95,
        elapsed.p99,
    )
    assert (0.0,) * 8 == spans
    assert (Numbers(), 0.0, 0) == (elapsed.snapshot().numbers, elapsed.snapshot().last, elapsed.snapshot().all.count)
    assert "<Elapsed: 0 started, 0 finished, 0 failed>" == repr(elapsed)


@pytest.mark.parametrize("q", [-1, 100.1, math.nan])
def test_a_percentile_is_from_0_to_100(q: float) -> None:
    """What is no percentile is refused."""
    with pytest.raises(ValueError, match="from 0 to 100"):
        rc.Elapsed().percentile(q)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parity("T4.40")
@pytest.mark.defect("D4.12")
def test_failures_are_told_apart(way: str, by_hand: ByHand) -> None:
    """Failed and cancelled runs count in the total, and each kind has its own numbers beside it."""
    elapsed = rc.Elapsed()
    ends = [
        (2.0, Status.SUCCEEDED), (4.0, Status.SUCCEEDED), (100.0, Status.FAILED), (200.0, Status.TIMED_OUT),
        (50.0, Status.INTERRUPTED), (7.0, Status.SKIPPED),
    ]  # fmt: skip
    for span, status in ends:
        drive(around(way, elapsed, taking(by_hand, span, status))(a_run()))
    now = elapsed.snapshot()
    assert Numbers(6, 6, 2, 2) == now.numbers
    assert (2, 6.0, 3.0, 2.0, 4.0) == (
        now.succeeded.count, now.succeeded.total, now.succeeded.mean, now.succeeded.min, now.succeeded.max
    )  # fmt: skip
    assert (2, 300.0, 100.0, 200.0) == (now.failed.count, now.failed.total, now.failed.min, now.failed.max)
    assert (1, 50.0) == (now.cancelled.count, now.cancelled.total)
    assert (5, 356.0, 71.2, 2.0, 200.0) == (now.all.count, now.all.total, now.all.mean, now.all.min, now.all.max)
    assert (356.0, 71.2, 50.0) == (elapsed.total, elapsed.average, elapsed.last)  # what was skipped never began
    assert now.last == elapsed.last


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.virtual
async def test_runs_that_raise_or_are_cancelled_are_timed(way: str) -> None:
    """A run that its middleware fails, or its caller cancels, takes the time until then, and is no longer running."""
    elapsed = rc.Elapsed()

    async def fails(run: Run) -> Outcome[Any]:
        await asyncio.sleep(3)
        raise ValueError

    with pytest.raises(ValueError):
        await around(way, elapsed, fails)(a_run())
    assert (3.0, 1) == (elapsed.snapshot().failed.total, elapsed.failed)

    task = asyncio.create_task(rc.wrap(asyncio.sleep, lambda handler: around(way, elapsed, handler))(60))
    await asyncio.sleep(2)
    assert 1 == elapsed.running
    task.cancel()
    await asyncio.wait([task])
    assert (2.0, 1, 0) == (elapsed.snapshot().cancelled.total, elapsed.cancelled, elapsed.running)
    assert 2.0 == elapsed.last


@pytest.mark.virtual
async def test_it_measures_what_is_inside_of_it() -> None:
    """Outside of a retry it measures the run with its pauses, inside of it each attempt."""
    runs, attempts = rc.Elapsed(), rc.Elapsed()

    async def job() -> None:
        await asyncio.sleep(1)
        if attempts.started < 3:
            raise ConnectionError

    policy = rc.policy(retry=rc.Retry(ConnectionError, retries=2, backoff=rc.Constant(10)), middleware=[runs])
    await policy.call(rc.wrap(job, attempts))
    assert (1, 23.0) == (runs.finished, runs.total)
    assert (3, 3.0, 2) == (attempts.finished, attempts.total, attempts.failed)


@pytest.mark.parity("T4.40")
@pytest.mark.virtual
async def test_the_total_is_over_all_workers_and_last_is_who_ended_last() -> None:
    """Workers at work at the same time add up, and the last run is the one that ended last, whenever it began."""
    elapsed = rc.Elapsed()
    async with rc.Queue("jobs", workers=3, middleware=[elapsed]) as queue:
        await asyncio.gather(*(queue.run(asyncio.sleep, span) for span in (5, 1, 3)))
    assert (9.0, 3.0, 5.0) == (elapsed.total, elapsed.average, elapsed.last)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.sampled_from(list(Status))), max_size=60),
    st.sampled_from(WAYS),
    st.integers(1, 20),
)
def test_it_agrees_with_a_list(ends: list[tuple[float, Status]], way: str, read_every: int) -> None:
    """Whatever runs come to, and whenever it is read, the numbers are those of the list of all runs."""
    time, elapsed = ByHand(), rc.Elapsed()
    clock.use(time)
    timed: list[float] = []
    for number, (span, status) in enumerate(ends, 1):
        before = time.at
        drive(around(way, elapsed, taking(time, span, status))(a_run()))
        if status is not Status.SKIPPED:
            timed.append(time.at - before)
        if number % read_every and number != len(ends):
            continue
        now = elapsed.snapshot()
        assert number == now.numbers.finished
        assert len(timed) == now.all.count
        assert pytest.approx(sum(timed)) == now.all.total
        assert (min(timed, default=0.0), max(timed, default=0.0)) == (now.all.min, now.all.max)
        assert (timed[-1] if timed else 0.0) == now.last
    for statuses, summary in (
        ((Status.SUCCEEDED,), elapsed.snapshot().succeeded),
        ((Status.FAILED, Status.TIMED_OUT), elapsed.snapshot().failed),
        ((Status.CANCELLED, Status.INTERRUPTED), elapsed.snapshot().cancelled),
    ):
        assert len([span for span, status in ends if status in statuses]) == summary.count


@pytest.mark.defect("D4.12")
@pytest.mark.realtime
def test_the_average_is_of_one_moment() -> None:
    """Read while four threads run jobs that all take 2 seconds, the average is never anything but 2 seconds."""
    elapsed, stop, seen = rc.Elapsed(), threading.Event(), list[tuple[float, int, int]]()
    done = [0, 0, 0, 0]

    def work(number: int) -> None:
        time = ByHand()
        clock.use(time)
        run, handler = a_run(), elapsed(taking(time, 2.0))
        while not stop.is_set():
            drive(handler(run))
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while sum(done) < 10_000:
            now = elapsed.snapshot()
            seen.append((elapsed.average, now.numbers.finished, now.all.count))
    finally:
        stop.set()
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    assert [] == [average for average, finished, _ in seen[1:] if finished and average != 2.0]
    assert [] == [(finished, timed) for _, finished, timed in seen if finished != timed]
    assert (sum(done), 2.0 * sum(done)) == (elapsed.finished, elapsed.total)


@pytest.mark.defect("D4.12")
def test_a_run_that_ends_in_the_middle_of_a_look_does_not_bend_the_average(by_hand: ByHand) -> None:
    """Where all runs take 2 seconds the average is 2 seconds, also while one of them ends."""
    elapsed = rc.Elapsed()
    handler = elapsed(taking(by_hand, 2.0))

    class Busy:
        """Has no runs; while it is asked for their number and times, one of the others ends."""

        def numbers(self) -> Numbers:
            """None."""
            drive(handler(a_run()))
            return Numbers()

        def times(self) -> Times:
            """None."""
            drive(handler(a_run()))
            return Times(Digest(), Digest(), Digest())

    drive(handler(a_run()))
    elapsed.attach(Busy())
    for _ in range(3):
        assert 2.0 == elapsed.average
        now = elapsed.snapshot()
        assert (2.0, now.all.count) == (now.all.mean, now.numbers.finished)


# --- whoever keeps the times itself --------------------------------------------------


class Keeper:
    """Counts and measures by itself, as a pool does."""

    def __init__(self, spans: list[float], failed: list[float], last: float, ended: float | None) -> None:
        self.good, self.bad = Digest(), Digest()
        self.good.add_many(spans)
        self.bad.add_many(failed)
        self.last, self.ended = last, ended

    def numbers(self) -> Numbers:
        """The numbers as they stand."""
        ended = self.good.count + self.bad.count
        return Numbers(ended + 1, ended, self.bad.count, 0)

    def times(self) -> Times:
        """The times as they stand."""
        return Times(self.good, self.bad, Digest(), self.last, self.ended)


@pytest.mark.parametrize("look", [lambda elapsed, _: None, lambda elapsed, keeper: elapsed.detach(keeper)])
def test_what_a_source_measured_is_included(look: Callable[[rc.Elapsed, Keeper], None], by_hand: ByHand) -> None:
    """The spans of a source count with the rest as they stand, and stay when it is let go."""
    elapsed = rc.Elapsed()
    drive(elapsed(taking(by_hand, 3.0))(a_run()))  # ended at 1003
    keeper = Keeper([1.0, 2.0], [10.0], 2.0, 1002.0)
    elapsed.attach(keeper)
    elapsed.attach(keeper)
    look(elapsed, keeper)
    assert (5, 4, 1, 1) == (elapsed.started, elapsed.finished, elapsed.running, elapsed.failed)
    assert (16.0, 4.0, 1.0, 10.0) == (elapsed.total, elapsed.average, elapsed.min, elapsed.max)
    assert about(2.0) == elapsed.p50
    assert (6.0, 10.0) == (elapsed.snapshot().succeeded.total, elapsed.snapshot().failed.total)
    assert 3.0 == elapsed.last  # the source's last run ended before
    later = Keeper([], [9.0], 9.0, 1004.0)
    elapsed.attach(later)
    look(elapsed, later)
    assert 9.0 == elapsed.last == elapsed.snapshot().last
    nothing = Keeper([], [], 0.0, None)
    elapsed.attach(nothing)
    look(elapsed, nothing)
    assert 9.0 == elapsed.last
    assert 3.0 == keeper.good.total  # what a source hands out is not changed


def test_two_loops_share_one() -> None:
    """One instance counts for jobs on several event loops, one after the other."""
    elapsed = rc.Elapsed()

    async def main() -> None:
        await rc.wrap(asyncio.sleep, elapsed)(2)

    run_virtual(main)
    run_virtual(main)
    assert (2, 4.0) == (elapsed.finished, elapsed.total)
