"""The collector: what a queue tells it agrees with what it shows, at any moment, in memory that does not grow."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew import clock as clocks
from runcrew.errors import ConfigError
from runcrew.insight import Collector, CollectorContract, Metrics, Summary, check_collector
from runcrew.insight import collector as module
from runcrew.job import Status

NOTHING = Summary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
METHODS = ["arrived", "completed", "failed", "retried", "dropped", "metrics"]
FAILURES = (Status.FAILED, Status.TIMED_OUT)
DROPS = (Status.CANCELLED, Status.INTERRUPTED, Status.SKIPPED)


def ends(metrics: Metrics) -> dict[Status, int]:
    """The six ends, by status."""
    names = {status: status.value for status in Status} | {Status.SUCCEEDED: "completed"}
    return {status: getattr(metrics, name) for status, name in names.items()}


def now() -> float:
    """This instant."""
    return clocks.current().now()


def succeed(collector: CollectorContract, count: int, wait: float = 0.25, took: float = 0.5) -> None:
    """Let that many arrive and succeed, now."""
    at = now()
    for _ in range(count):
        collector.arrived(at)
        collector.completed(at - wait - took, at - took, at)


# --- what is counted ----------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("T5.61")
async def test_nothing_has_happened_yet() -> None:
    """Before anything happens every number is 0, and the instants are those of making and asking."""
    began = now()
    collector = Collector()
    await asyncio.sleep(5)
    metrics = collector.metrics()
    assert (began, began + 5) == (metrics.since, metrics.at)
    rest = dataclasses.asdict(dataclasses.replace(metrics, since=0.0, at=0.0))
    assert {0} == {n for value in rest.values() for n in (value.values() if isinstance(value, dict) else [value])}


@pytest.mark.parity("T5.61")
def test_totals_are_right_where_nothing_was_completed() -> None:
    """With failures alone the latencies of successes and their rate are 0, and the totals are as they are."""
    collector = Collector()
    for status in (Status.FAILED, Status.FAILED, Status.TIMED_OUT):
        collector.arrived(10.0)
        collector.failed(10.0, 11.0, 13.0, status)
    collector.retried(11.0)
    metrics = collector.metrics()
    assert (3, 0, 2, 1, 1, 0) == (
        metrics.arrived,
        metrics.completed,
        metrics.failed,
        metrics.timed_out,
        metrics.retried,
        metrics.pending,
    )
    assert (NOTHING, NOTHING, 0.0) == (metrics.execution, metrics.wait, metrics.success_rate)


@pytest.mark.parity("T5.60")
@pytest.mark.defect("D5.20")
@pytest.mark.parametrize(
    ("completed", "failed", "want"),
    [(0, 0, (0.0, 0.0)), (0, 4, (0.0, 1.0)), (4, 0, (1.0, 0.0)), (3, 1, (0.75, 0.25))],
)
def test_the_shares_of_success_and_failure(completed: int, failed: int, want: tuple[float, float]) -> None:
    """Both are shares of what ran to an end, and right also where everything failed; what was dropped is no part."""
    collector = Collector()
    succeed(collector, completed)
    for n in range(failed):
        collector.failed(1.0, 2.0, 3.0, FAILURES[n % 2])
    for status in DROPS:
        collector.dropped(status, 3.0)
    metrics = collector.metrics()
    assert want == (metrics.success_rate, metrics.failure_rate)


@pytest.mark.parity("T5.57", "T5.64")
def test_the_spans_of_successes_are_told_in_full() -> None:
    """Mean, extremes and percentiles of execution and wait are those of what succeeded; failures do not blur them."""
    collector = Collector()
    for n in range(1, 101):
        collector.completed(1000.0, 1000.0 + n, 1000.0 + n + 2 * n)
        collector.failed(1000.0, 5000.0, 9000.0, Status.FAILED)
    metrics = collector.metrics()
    for summary, unit in ((metrics.wait, 1.0), (metrics.execution, 2.0)):
        assert (100, 50.5 * unit, unit, 100 * unit) == (summary.count, summary.mean, summary.min, summary.max)
        want = [50 * unit, 90 * unit, 95 * unit, 99 * unit]
        assert want == pytest.approx([summary.p50, summary.p90, summary.p95, summary.p99], rel=0.01)


@pytest.mark.defect("D5.21", "D5.22")
def test_failures_have_spans_of_their_own() -> None:
    """How long failed work took, and how long it waited, is told as fully as of work that succeeded."""
    collector = Collector()
    for n in range(1, 11):
        collector.failed(1000.0, 1000.0 + n, 1000.0 + 3 * n, FAILURES[n % 2])
    collector.failed(1000.0, None, 1030.0, Status.TIMED_OUT)
    metrics = collector.metrics()
    execution, wait = metrics.failure_execution, metrics.failure_wait
    assert (10, 2.0, 20.0, 20.0) == (execution.count, execution.min, execution.max, execution.p99)
    assert (11, 1.0, 30.0, 30.0) == (wait.count, wait.min, wait.max, wait.p95)
    assert (5, 6) == (metrics.failed, metrics.timed_out)
    assert 1.0 == metrics.failure_rate


@pytest.mark.defect("D5.22")
def test_the_wait_of_what_was_retried_leaves_out_its_earlier_attempts() -> None:
    """Where the time spent waiting is given, that is the wait; it is not taken from the stamps, which span attempts."""
    collector = Collector()
    collector.completed(100.0, 150.0, 151.0, 3.0)
    collector.completed(100.0, 102.0, 103.0)
    collector.failed(100.0, 180.0, 181.0, Status.FAILED, 5.0)
    collector.failed(100.0, None, 190.0, Status.TIMED_OUT, 7.0)
    metrics = collector.metrics()
    assert (2.0, 3.0) == (metrics.wait.min, metrics.wait.max)
    assert (5.0, 7.0) == (metrics.failure_wait.min, metrics.failure_wait.max)
    assert (1.0, 1.0) == (metrics.execution.max, metrics.failure_execution.max)


CALLS = st.lists(st.sampled_from(["arrived", "completed", "failed", "retried", "dropped", "asked"]), max_size=120)


@given(CALLS, st.integers(1, 6), st.randoms(use_true_random=False))
@pytest.mark.parity("T5.59")
def test_what_is_shown_agrees_with_what_was_told(calls: list[str], batch: int, chance: Any) -> None:
    """Whenever somebody asks, what arrived is the sum of the six ends and what is pending, and each number is right."""
    count = dict.fromkeys(Status, 0)
    arrived = retried = 0
    collector = Collector()
    usual, module.BATCH = module.BATCH, batch  # type: ignore[misc]
    try:
        for call in calls:
            pending = arrived - sum(count.values())
            if call == "arrived":
                arrived += 1
                collector.arrived(now())
            elif call == "retried":
                retried += 1
                collector.retried(now())
            elif call == "asked":
                metrics = collector.metrics()
                assert (arrived, retried, pending) == (metrics.arrived, metrics.retried, metrics.pending)
                assert count == ends(metrics)
                assert metrics.arrived == sum(ends(metrics).values()) + metrics.pending
            elif pending and call == "completed":
                count[Status.SUCCEEDED] += 1
                collector.completed(now(), now(), now())
            elif pending and call == "failed":
                status = chance.choice(FAILURES)
                count[status] += 1
                collector.failed(now(), now(), now(), status)
            elif pending and call == "dropped":
                status = chance.choice(DROPS)
                count[status] += 1
                collector.dropped(status, now())
    finally:
        module.BATCH = usual  # type: ignore[misc]
    metrics = collector.metrics()
    assert (arrived, retried, count) == (metrics.arrived, metrics.retried, ends(metrics))
    assert count[Status.SUCCEEDED] == metrics.execution.count == metrics.wait.count
    assert count[Status.FAILED] + count[Status.TIMED_OUT] == metrics.failure_execution.count


def test_pending_is_never_negative() -> None:
    """An end of what was never said to have arrived does not make a number of things that is below 0."""
    collector = Collector()
    collector.completed(1.0, 2.0, 3.0)
    assert 0 == collector.metrics().pending


@pytest.mark.parametrize("status", list(Status))
def test_each_status_has_one_door(status: Status) -> None:
    """A status that a method is not for is refused, and nothing is counted."""
    collector = Collector()
    if status not in FAILURES:
        with pytest.raises(ConfigError, match="failed, timed_out"):
            collector.failed(1.0, 2.0, 3.0, status)
    if status not in DROPS:
        with pytest.raises(ConfigError, match="cancelled, interrupted, skipped"):
            collector.dropped(status, 3.0)
    assert 0 == sum(ends(collector.metrics()).values())


# --- rates -----------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("T5.58")
@pytest.mark.defect("D5.7")
async def test_rates_are_those_of_the_last_minute() -> None:
    """After an hour at two a second, a minute of nothing brings all rates to 0, and new work shows at once."""
    collector = Collector()
    for second in range(3600):
        await asyncio.sleep(1)
        succeed(collector, 2)
        if second % 2:
            collector.failed(now(), now(), now(), FAILURES[second % 4 == 1])
    metrics = collector.metrics()
    assert (2.0, 2.0, 0.5) == (metrics.arrivals_per_s, metrics.completions_per_s, metrics.failures_per_s)
    await asyncio.sleep(60)
    metrics = collector.metrics()
    assert (0.0, 0.0, 0.0) == (metrics.arrivals_per_s, metrics.completions_per_s, metrics.failures_per_s)
    for _ in range(600):
        collector.arrived(now())
    assert 10.0 == collector.metrics().arrivals_per_s
    assert 7200 == collector.metrics().completed


@pytest.mark.virtual
@pytest.mark.parity("T5.65")
async def test_a_new_collector_is_independent_and_its_clock_starts_when_it_is_made() -> None:
    """What one collector heard is not in another, and the rates of each count from its own making."""
    first = Collector()
    await asyncio.sleep(30)
    second = Collector()
    await asyncio.sleep(10)
    for collector in (first, second):
        succeed(collector, 20)
    assert (0.5, 2.0) == (first.metrics().arrivals_per_s, second.metrics().arrivals_per_s)
    assert 30.0 == second.metrics().since - first.metrics().since
    succeed(first, 1)
    assert (21, 20) == (first.metrics().completed, second.metrics().completed)


# --- memory, threads ------------------------------------------------------------------------


@pytest.mark.defect("D5.8")
def test_memory_stays_flat() -> None:
    """Many more runs leave nothing behind that was not there after the first of them."""
    collector = Collector()

    def some(count: int) -> None:
        for n in range(count):
            took = 1e-6 * 1.5 ** (n % 40)
            collector.arrived(1000.0 + n)
            collector.completed(1000.0 + n, 1000.0 + n, 1000.0 + n + took)
            collector.arrived(1000.0 + n)
            collector.failed(1000.0 + n, 1000.0 + n, 1000.0 + n + took, Status.FAILED)
            collector.arrived(1000.0 + n)
            collector.dropped(Status.SKIPPED, 1000.0 + n)
            collector.retried(1000.0 + n)
        collector.metrics()

    tracemalloc.start()
    try:
        some(8_000)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        some(32_000)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 30_000 > after - before
    assert 500_000 > peak - before
    assert 40_000 == collector.metrics().completed


@pytest.mark.parity("T5.62")
def test_nothing_is_lost_where_many_threads_tell_and_ask_at_once() -> None:
    """Several threads record while others ask: at no moment do the numbers contradict, and in the end all are there."""
    collector, runs, failed = Collector(), 4000, list[BaseException]()
    over = threading.Event()

    def tell() -> None:
        try:
            for n in range(runs):
                collector.arrived(now())
                if n % 4 == 0:
                    collector.failed(1.0, 2.0, 4.0, FAILURES[n % 8 == 0])
                elif n % 4 == 1:
                    collector.dropped(Status.CANCELLED, now())
                else:
                    collector.completed(1.0, 2.0, 4.0)
                collector.retried(now())
        except BaseException as error:
            failed.append(error)

    def ask() -> None:
        try:
            while not over.is_set():
                metrics = collector.metrics()
                assert metrics.arrived == sum(ends(metrics).values()) + metrics.pending
                assert metrics.completed == metrics.execution.count == metrics.wait.count
                assert metrics.failed + metrics.timed_out == metrics.failure_execution.count
        except BaseException as error:
            failed.append(error)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        tellers, askers = ([threading.Thread(target=task) for _ in range(n)] for task, n in ((tell, 4), (ask, 2)))
        for thread in tellers + askers:
            thread.start()
        for thread in tellers:
            thread.join()
        over.set()
        for thread in askers:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert [] == failed
    metrics = collector.metrics()
    assert (4 * runs, 4 * runs, 0) == (metrics.arrived, metrics.retried, metrics.pending)
    assert (2 * runs, runs // 2, runs // 2, runs) == (
        metrics.completed,
        metrics.failed,
        metrics.timed_out,
        metrics.cancelled,
    )
    assert 2.0 * 2 * runs == metrics.execution.total


class Overtaken(list[float]):
    """A list in which something happens just after a part of it was read, as if another thread had its turn there."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        self.meanwhile()
        return part


@pytest.mark.parametrize("ended", [True, False])
def test_what_comes_in_the_middle_of_counting_is_counted_next_time(ended: bool) -> None:
    """Work that arrives, and may end, just while arrivals are taken is not lost, and does not end before it arrived."""
    collector = Collector()
    collector._arrived = Overtaken(lambda: succeed(collector, 1) if ended else collector.arrived(now()))
    succeed(collector, 1)
    for count in range(1, 4):
        metrics = collector.metrics()
        completed = count if ended else 1
        assert (count, completed, count - completed) == (metrics.arrived, metrics.completed, metrics.pending)


@pytest.mark.defect("D5.8")
def test_who_records_does_not_wait_for_who_asks() -> None:
    """While another thread has the numbers, recording goes on without waiting, and nothing of it is lost."""
    collector = Collector()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with collector._lock:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        succeed(collector, 3 * module.BATCH)  # would never end if it waited
        assert 3 * module.BATCH == len(collector._arrived)
    finally:
        release.set()
        thread.join()
    succeed(collector, 1)
    assert 0 == len(collector._arrived)
    assert 3 * module.BATCH + 1 == collector.metrics().completed


def test_asking_from_within_the_counting_itself_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that asks while its own thread is counting gets an answer, and nothing is counted twice."""
    collector = Collector()
    succeed(collector, 3)
    asked: list[Metrics] = []
    dropped = module._Tally.dropped

    def interrupted(self: module._Tally, statuses: list[Status]) -> None:
        asked.append(collector.metrics())
        dropped(self, statuses)

    monkeypatch.setattr(module._Tally, "dropped", interrupted)
    assert (3, 3, 0) == ((seen := collector.metrics()).arrived, seen.completed, seen.pending)
    assert [(3, 0)] == [(each.completed, each.pending) for each in asked]


# --- several collectors -----------------------------------------------------------------


@pytest.mark.virtual
async def test_merging_adds_up_what_several_collectors_counted() -> None:
    """One that has taken in two others shows what one alone would have shown, from the earlier beginning on."""
    whole, one = Collector(), Collector()
    await asyncio.sleep(5)
    other = Collector()
    for n in range(1, 301):
        part = one if n % 3 else other
        for collector in (whole, part):
            at = now()
            for _ in range(4):
                collector.arrived(at)
            collector.completed(at - 3.0 * n, at - 2.0 * n, at)
            collector.failed(at - 2.0 * n, at - n, at, FAILURES[n % 2], 1.0)
            collector.dropped(DROPS[n % 3], at)
            collector.retried(at)
        await asyncio.sleep(0.25)
    merged = Collector()
    before = other.metrics()
    merged.merge(one)
    merged.merge(other)
    assert before == other.metrics()
    assert whole.metrics() == merged.metrics()
    assert (300, 1200) == (merged.metrics().pending, merged.metrics().arrived)


def test_a_collector_is_not_merged_with_itself() -> None:
    """That would count everything twice, so it is refused."""
    collector = Collector()
    with pytest.raises(ConfigError, match="with itself"):
        collector.merge(collector)


# --- one's own ----------------------------------------------------------------------------


class Own:
    """A collector of a user, which shares no class with ours."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def arrived(self, at: float) -> None:
        self.heard.append(("arrived", at))

    def completed(self, queued: float, started: float, ended: float, waited: float | None = None) -> None:
        self.heard.append(("completed", queued, started, ended, waited))

    def failed(self, q: float, s: float | None, e: float, status: Status, waited: float | None = None) -> None:
        self.heard.append(("failed", q, s, e, status, waited))

    def retried(self, at: float) -> None:
        self.heard.append(("retried", at))

    def dropped(self, status: Status, at: float) -> None:
        self.heard.append(("dropped", status, at))

    def metrics(self) -> Metrics:
        return Collector().metrics()


@pytest.mark.parity("T5.62")
def test_a_collector_of_ones_own_needs_only_the_methods() -> None:
    """Anything with the six methods is a collector, ours among them; it is given back as it is."""
    for given_one in (Own(), Collector()):
        contract: CollectorContract = given_one
        assert isinstance(given_one, CollectorContract)
        assert contract is check_collector(given_one)


@pytest.mark.parity("T5.62")
@pytest.mark.parametrize("name", METHODS)
def test_what_is_missing_is_named(name: str) -> None:
    """Without one of the methods, or with something else in its place, it is refused, and that one is named."""
    lacking = type("Lacking", (), {each: vars(Own)[each] for each in METHODS if each != name})
    with pytest.raises(ConfigError, match=rf"lacks {name}: give"):
        check_collector(lacking())
    no_method = type("NoMethod", (Own,), {name: 5})
    with pytest.raises(ConfigError, match=rf"lacks {name}: give"):
        check_collector(no_method())


@pytest.mark.parametrize("name", METHODS)
def test_an_async_method_is_refused(name: str) -> None:
    """Nobody would await it, so it would silently do nothing."""

    async def never(*_: object) -> None: ...

    with pytest.raises(ConfigError, match=rf"{name} must be a plain method"):
        check_collector(type("Waiting", (Own,), {name: never})())


@pytest.mark.parametrize("given_one", [None, 5, object(), [], math])
def test_what_is_no_collector_at_all_is_refused(given_one: object) -> None:
    """The message names all the methods that it should have."""
    with pytest.raises(ConfigError, match="arrived, completed, failed, retried, dropped, metrics"):
        check_collector(given_one)


def test_a_class_is_refused_in_place_of_an_instance() -> None:
    """Forgetting the parentheses is told, with the remedy."""
    with pytest.raises(ConfigError, match=r"give an instance, Collector\(\)"):
        check_collector(Collector)


def test_metrics_cannot_be_changed() -> None:
    """A snapshot is what it was when it was taken."""
    metrics = Collector().metrics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.arrived = 5  # type: ignore[misc]
