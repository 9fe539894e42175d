"""Counters: what they count agrees with the outcomes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runcrew as rc
from runcrew.insight import Meter
from runcrew.job import Outcome, Status


def test_nothing_is_measured_before_anything_ran() -> None:
    """What was not measured yet is None, not zero."""
    stats = Meter().snapshot()
    assert (0, 0, 0.0) == (stats.begun, stats.in_flight, stats.elapsed_total)
    assert [None] * 4 == [stats.elapsed_last, stats.elapsed_min, stats.elapsed_max, stats.last_ended]


@given(
    st.lists(st.tuples(st.sampled_from(Status), st.integers(1, 5), st.integers(0, 100)), max_size=50), st.integers(0, 9)
)
def test_the_sum_of_the_ends_is_what_began(ends: list[tuple[Status, int, int]], under_way: int) -> None:
    """At every quiet point what began equals what ended in the six ways plus what is in flight."""
    meter = Meter()
    for status, attempts, took in ends:
        meter.began()
        meter.ended(Outcome(status, attempts=attempts, started=10.0, ended=10.0 + took))
    for _ in range(under_way):
        meter.began()
    stats = meter.snapshot()
    assert len(ends) + under_way == stats.begun
    assert under_way == stats.in_flight
    assert len(ends) == stats.ended
    for status in Status:
        assert sum(status is each for each, _, _ in ends) == getattr(stats, status.value)
    assert sum(attempts - 1 for _, attempts, _ in ends) == stats.retries
    spans = [float(took) for _, _, took in ends]
    assert sum(spans) == stats.elapsed_total
    assert (min(spans, default=None), max(spans, default=None)) == (stats.elapsed_min, stats.elapsed_max)


def test_a_run_that_never_began_is_not_measured() -> None:
    """What never began has no elapsed time that could spoil the extremes."""
    meter = Meter()
    meter.began()
    meter.ended(Outcome(Status.INTERRUPTED, ended=5.0))
    stats = meter.snapshot()
    assert (1, None, 5.0) == (stats.interrupted, stats.elapsed_min, stats.last_ended)


@pytest.mark.virtual
@pytest.mark.defect("D3.20")
async def test_a_service_can_be_asked_how_it_is() -> None:
    """State, generation, counts, the last outcome, the last error and the next run are there for who asks."""
    results = iter([None, OSError("first"), None, ValueError("for good")])

    async def job() -> None:
        if (error := next(results)) is not None:
            raise error

    service = rc.Interval(job, "10s", retry=rc.Retry(OSError, backoff=rc.Constant("1s")))
    stats = service.stats()
    assert ("new", 0, None, None) == (stats.state, stats.generation, stats.last, stats.next_at)
    await service.start()
    await asyncio.sleep(5)
    stats = service.stats()
    assert ("running", 1, 1, 0) == (stats.state, stats.generation, stats.runs.succeeded, stats.runs.retries)
    assert stats.next_at is not None
    assert (2025, 0, 10) == (stats.next_at.year, stats.next_at.minute, stats.next_at.second)
    await asyncio.sleep(10)
    stats = service.stats()
    assert (2, 1, 0) == (stats.runs.succeeded, stats.runs.retries, stats.runs.in_flight)
    with pytest.raises(ValueError, match="for good"):
        await service.wait()
    stats = service.stats()
    assert ("failed", 3, 1) == (stats.state, stats.runs.begun, stats.runs.failed)
    assert isinstance(stats.error, ValueError)
    assert stats.last is not None
    assert stats.error is stats.last.error
    assert None is stats.next_at


@pytest.mark.virtual
async def test_a_snapshot_does_not_change() -> None:
    """What was read stays as it was read."""
    service = rc.Interval(lambda: None, "1s")
    await service.start()
    await asyncio.sleep(0.5)
    before = service.stats()
    await asyncio.sleep(10)
    await service.stop()
    assert (1, "running") == (before.runs.begun, before.state)
    with pytest.raises(AttributeError):
        before.name = "other"  # type: ignore[misc]
