"""What a queue tells of itself: live figures, counts of runs, and what a collector hears."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest
from queue_made import Broken, Gate, Things, give, is_healthy, now, rounds, script, take, use

import runcrew as rc
from runcrew.insight import Collector
from runcrew.job import Status


class Notes(Collector):
    """A collector that also keeps what it hears, word for word."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Any, ...]] = []

    def arrived(self, at: float) -> None:
        self.heard.append(("arrived", at))
        super().arrived(at)

    def completed(self, queued: float, started: float, ended: float, waited: float | None = None) -> None:
        self.heard.append(("completed", queued, started, ended, waited))
        super().completed(queued, started, ended, waited)

    def failed(
        self, queued: float, started: float | None, ended: float, status: Status, waited: float | None = None
    ) -> None:
        self.heard.append(("failed", queued, started, ended, status, waited))
        super().failed(queued, started, ended, status, waited)

    def retried(self, at: float) -> None:
        self.heard.append(("retried", at))
        super().retried(at)

    def dropped(self, status: Status, at: float) -> None:
        self.heard.append(("dropped", status, at))
        super().dropped(status, at)

    def words(self) -> list[str]:
        """What it heard, without the instants."""
        return [heard[0] for heard in self.heard]


def balanced(queue: rc.Queue[Any]) -> bool:
    """Whether the counts of stats and metrics agree, and leave nothing out."""
    runs, metrics = queue.stats().runs, queue.metrics()
    ends = (runs.succeeded, runs.failed, runs.timed_out, runs.cancelled, runs.interrupted, runs.skipped)
    theirs = (
        metrics.completed, metrics.failed, metrics.timed_out, metrics.cancelled, metrics.interrupted, metrics.skipped
    )  # fmt: skip
    same = (ends, runs.begun, runs.in_flight) == (theirs, metrics.arrived, metrics.pending)
    return same and runs.begun == sum(ends) + runs.in_flight and runs.in_flight >= 0


# --- live figures -------------------------------------------------------------------------------


@pytest.mark.parity("T5.55")
@pytest.mark.defect("D5.33", "D5.36")
@pytest.mark.virtual
async def test_a_snapshot_shows_workers_tickets_and_resources() -> None:
    """How many workers there should and may be, where they are, what waits at which level, and how much may."""
    things = Things()
    gate: Any = Gate()
    async with rc.Queue("db", resource=things, workers=2, max_workers=5, spares=1, max_spares=3, maxsize=4) as queue:
        for priority in (0, 0, 0, rc.HIGH, rc.LOW):
            queue.submit_nowait(gate, priority=priority)
        queue.submit_nowait(gate, delay="1h")
        await rounds()
        waits = asyncio.ensure_future(queue.submit(gate))
        call = asyncio.ensure_future(queue.run_now(gate))
        await rounds()
        stats = queue.stats()
        assert ("db", rc.State.RUNNING, 1) == (stats.name, stats.state, stats.generation)
        assert (2, 5, 2) == (stats.workers, stats.max_workers, stats.alive)
        assert (0, 0, 2, 0, 0) == (stats.opening, stats.free, stats.busy, stats.leaving, stats.closing)
        assert (3, {rc.HIGH: 1, 0: 1, rc.LOW: 1}, 1) == (stats.queued, stats.levels, stats.delayed)
        assert (3, 1, 4) == (stats.running, stats.submitters, stats.maxsize)
        assert (0, 1, 3) == (stats.spares_free, stats.spares_alive, stats.max_spares)
        assert (3, 0, 0, 0) == (stats.opened, stats.closed, stats.failed_openings, stats.replaced)
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.queued = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        gate.open()
        await asyncio.gather(waits, call)
        await rounds()
        assert (2, 2, 1, 0, 0) == (
            queue.stats().alive, queue.stats().free, queue.stats().spares_free, queue.stats().queued,
            queue.stats().running,
        )  # fmt: skip
        await queue.kill()


@pytest.mark.defect("D5.33")
@pytest.mark.virtual
async def test_failures_of_resources_and_replacements_are_counted() -> None:
    """Openings that failed, resources that were replaced, runs that were put back, and the last error can be seen."""
    things = Things(None, OSError("refused"))

    async def breaks(thing: Any) -> str:
        if thing.number == 1:
            raise Broken("crashed")
        return "fine"

    async with rc.Queue(
        "db", resource=things, workers=1, healthy=is_healthy, backoff=rc.Constant(1), requeue_backoff=rc.Constant(1)
    ) as queue:
        assert "fine" == await queue.run(breaks)
        stats = queue.stats()
        assert (2, 1, 1, 1, 1) == (
            stats.opened, stats.closed, stats.failed_openings, stats.replaced, stats.requeued
        )  # fmt: skip
        assert "refused" == str(stats.last_error)


@pytest.mark.defect("D5.23")
@pytest.mark.virtual
async def test_no_figure_is_ever_negative_or_contradicts_another() -> None:
    """Looked at from anywhere, also from inside the first step of a job, the figures add up."""
    looks = 0
    collector = Notes()

    def look() -> None:
        nonlocal looks
        looks += 1
        stats = queue.stats()
        figures = [value for value in dataclasses.asdict(stats).values() if isinstance(value, int)]
        assert min(figures) >= 0, stats
        assert stats.runs.in_flight == stats.queued + stats.delayed + stats.running
        assert stats.queued == sum(stats.levels.values())
        assert stats.running == stats.busy
        assert balanced(queue)

    async def job(number: int) -> None:
        look()
        await asyncio.sleep(number % 3)
        look()
        if number % 5 == 0:
            raise ValueError

    async with rc.Queue(
        "db", workers=3, maxsize=10, collector=collector, retry=rc.Retry(ValueError, retries=1, backoff=rc.Constant(1))
    ) as queue:
        clients = [asyncio.ensure_future(queue.submit(job, number)) for number in range(60)]
        for client in clients:
            ticket = await client
            look()
            if ticket.priority == 0 and looks % 7 == 0:
                ticket.cancel()
                look()
        while queue.stats().runs.in_flight:
            look()
            await asyncio.sleep(0.5)
        look()
    assert looks > 200


@pytest.mark.virtual
async def test_before_the_first_life_and_after_the_last_it_can_be_asked() -> None:
    """Stats and metrics never raise: nothing before the start, the last life's numbers after the end."""
    queue = rc.Queue("db", workers=2)
    assert (0, 0, 2, 0) == (
        queue.stats().alive, queue.stats().runs.begun, queue.stats().workers, queue.metrics().arrived
    )  # fmt: skip
    async with queue:
        await queue.run(give, 1)
    assert (0, 1, 1) == (queue.stats().alive, queue.stats().runs.succeeded, queue.metrics().completed)


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_each_way_to_end_is_counted_once_and_the_sums_agree() -> None:
    """One run of each kind: stats and metrics count the same, and leave nothing out."""
    gate = Gate()
    queue = rc.Queue("db", workers=2, maxsize=1, overflow="drop_newest")
    await queue.start()
    await queue.run(give, 1)
    for fails in (queue.run(script(ValueError())), queue.run(take, 5.0, timeout=1)):
        with pytest.raises((ValueError, rc.RunTimeout)):
            await fails
    for number in range(2):
        queue.submit_nowait(gate, number)
    await rounds()
    waits = queue.submit_nowait(gate)
    queue.submit_nowait(gate)
    waits.cancel()
    await queue.kill()
    runs = queue.stats().runs
    assert (1, 1, 1, 1, 2, 1) == (
        runs.succeeded, runs.failed, runs.timed_out, runs.cancelled, runs.interrupted, runs.skipped
    )  # fmt: skip
    assert (7, 0) == (runs.begun, runs.in_flight)
    assert balanced(queue)


@pytest.mark.parity("T5.56", "T5.8")
@pytest.mark.virtual
async def test_metrics_are_there_without_anybody_asking_for_a_collector() -> None:
    """The built-in collector counts, measures times and rates; spans are in seconds."""
    async with rc.Queue("db", workers=1) as queue:
        for span in (1.0, 2.0, 3.0):
            await queue.run(take, span)
        metrics = queue.metrics()
        assert (3, 3, 1.0, 0.0) == (metrics.arrived, metrics.completed, metrics.success_rate, metrics.failure_rate)
        assert (2.0, 1.0, 3.0) == (
            round(metrics.execution.mean, 3), round(metrics.execution.min, 3), round(metrics.execution.max, 3)
        )  # fmt: skip
        runs = queue.stats().runs
        assert (6.0, 3.0, 1.0, 3.0) == (runs.elapsed_total, runs.elapsed_last, runs.elapsed_min, runs.elapsed_max)


@pytest.mark.parity("T5.63")
@pytest.mark.defect("D5.24")
@pytest.mark.virtual
async def test_a_collector_hears_of_what_was_accepted_and_of_nothing_else() -> None:
    """Refused, given up or impossible submissions never arrived: no way in counts them."""
    notes, gate = Notes(), Gate()
    things = Things(None, OSError("refused"), OSError("refused"))
    queue = rc.Queue("db", workers=1, maxsize=1, collector=notes)
    with pytest.raises(rc.NotStarted):
        queue.submit_nowait(gate)
    await queue.start()
    queue.submit_nowait(gate, 1)
    await rounds()
    queue.submit_nowait(gate, 2)
    with pytest.raises(rc.QueueFull):
        queue.submit_nowait(gate, 3)
    waits = asyncio.ensure_future(queue.submit(gate, 4))
    await rounds()
    waits.cancel()
    with pytest.raises(rc.ConfigError):
        queue.submit_nowait(gate, timeout=-1)
    await rounds()
    assert ["arrived", "arrived"] == notes.words()
    gate.open()
    await queue.stop()
    with pytest.raises(rc.ServiceStopped):
        await queue.submit(gate)
    assert ["arrived"] * 2 + ["completed"] * 2 == notes.words()
    more = Notes()
    async with rc.Queue("db", resource=things, workers=1, max_spares=1, collector=more) as other:
        with pytest.raises(rc.ResourceError):
            await other.run_now(use)
        with pytest.raises(rc.AtMax):
            await asyncio.gather(other.run_now(use, 5.0), other.run_now(use, 5.0))
        assert balanced(other)
        await other.kill()


@pytest.mark.parity("T5.63")
@pytest.mark.virtual
async def test_each_requeue_is_heard_and_each_run_ends_once() -> None:
    """A run that is put back or retried is told so each time, and has one arrival and one end."""
    notes = Notes()
    async with rc.Queue(
        "db", resource=Things(), workers=1, healthy=is_healthy, backoff=rc.Constant(0), requeue_backoff=rc.Constant(0),
        retry=rc.Retry(ValueError, retries=1, backoff=rc.Constant(1)), collector=notes,
    ) as queue:  # fmt: skip
        await queue.run(script(Broken(), ValueError(), "fine"))
        with pytest.raises(ValueError):
            await queue.run(script(ValueError()))
        assert balanced(queue)
    expected = ["arrived", "retried", "retried", "completed", "arrived", "retried", "failed"]
    assert expected == notes.words()


@pytest.mark.parity("T5.63", "T5.64")
@pytest.mark.virtual
async def test_the_instants_are_of_acceptance_and_of_the_last_attempt() -> None:
    """A collector gets when the run was accepted, kept over retries, and the beginning and end of its last attempt."""
    notes, gate = Notes(), Gate()
    rule = rc.Retry(ValueError, retries=1, backoff=rc.Constant(4))
    async with rc.Queue("db", workers=1, retry=rule, collector=notes) as queue:
        began = now()
        queue.submit_nowait(gate)
        await asyncio.sleep(3)
        ticket = queue.submit_nowait(script(ValueError(), "fine", takes=2.0))
        await asyncio.sleep(5)
        gate.open()
        await ticket
    kind, queued, started, ended, waited = notes.heard[-1]
    assert "completed" == kind
    assert (3.0, 14.0, 16.0, 9.0) == (
        round(queued - began, 6), round(started - began, 6), round(ended - began, 6), round(waited, 6)
    )  # fmt: skip


# --- a collector of one's own -------------------------------------------------------------------


class Empty:
    """A collector that collects nothing."""

    def arrived(self, at: float, /) -> None: ...
    def completed(self, queued: float, started: float, ended: float, waited: float | None = None, /) -> None: ...
    def failed(
        self, queued: float, started: float | None, ended: float, status: Status, waited: float | None = None, /
    ) -> None: ...
    def retried(self, at: float, /) -> None: ...
    def dropped(self, status: Status, at: float, /) -> None: ...
    def metrics(self) -> Any:
        """Nothing."""


@pytest.mark.parity("E5.8")
@pytest.mark.virtual
async def test_a_collector_of_ones_own_replaces_the_built_in_one() -> None:
    """It is asked for the metrics, whatever it gives; the queue needs nothing of it, and counts for itself."""
    collector = Empty()
    async with rc.Queue("db", workers=2, collector=collector) as queue:
        assert 1 == await queue.run(give, 1)
        assert queue.metrics() is None
        assert 1 == queue.stats().runs.succeeded


@pytest.mark.virtual
async def test_a_collector_that_fails_hurts_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """What its methods raise is logged; runs, waiters and the queue's own counts do not suffer."""

    class Failing(Empty):
        def arrived(self, at: float, /) -> None:
            raise ValueError("arrived")

        def completed(self, queued: float, started: float, ended: float, waited: float | None = None, /) -> None:
            raise SystemExit("completed")

    async with rc.Queue("db", workers=1, collector=Failing()) as queue:
        assert [1, 2, 3] == [await queue.run(give, number) for number in (1, 2, 3)]
        assert 3 == queue.stats().runs.succeeded
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert 6 == len([record for record in errors if "of a collector" in record.getMessage()])


@pytest.mark.virtual
async def test_a_collector_given_once_goes_on_over_all_lives() -> None:
    """One's own collector is kept from life to life; the built-in one is new in each."""
    notes = Notes()
    queue = rc.Queue("db", workers=1, collector=notes)
    for life in (1, 2):
        async with queue:
            await queue.run(give, 1)
            assert life == queue.metrics().completed
