"""When an interval's ticks are due: the pure half."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.supervise.ticks import First, Tick, Ticks

spans = st.floats(0.01, 1e5)
instants = st.floats(1e9, 2e9)


def test_the_first_tick_is_now() -> None:
    """Unless told otherwise, an interval begins at once."""
    assert 1000.0 == Ticks(10).begin(1000.0).due


@pytest.mark.parity("T3.63")
def test_the_first_tick_may_wait_for_one_interval() -> None:
    """first="after" lets one interval pass before the first run."""
    assert 1010.0 == Ticks(10, first="after").begin(1000.0).due


@pytest.mark.parametrize(("now", "due"), [(1000.0, 1020.0), (1020.0, 1020.0), (1020.5, 1080.0)])
def test_the_first_tick_may_be_aligned(now: float, due: float) -> None:
    """first="aligned" begins at the next multiple of the interval since the epoch, which may be now."""
    assert due == Ticks(60, first="aligned").begin(now).due


def test_the_delay_comes_before_all_that() -> None:
    """The delay is waited once; the rhythm begins after it."""
    assert 1005.0 == Ticks(10, delay=5).begin(1000.0).due
    assert 1015.0 == Ticks(10, first="after", delay=5).begin(1000.0).due


@pytest.mark.parametrize(
    ("ended", "due", "missed"),
    [
        (1000.0, 1010.0, 0),
        (1009.9, 1010.0, 0),
        (1010.0, 1010.0, 0),
        (1019.9, 1010.0, 0),
        (1020.0, 1020.0, 1),
        (1035.0, 1030.0, 2),
    ],
)
@pytest.mark.parity("T3.38")
def test_a_late_run_leaves_one_tick_pending(ended: float, due: float, missed: int) -> None:
    """At a fixed rate the latest tick that has come due stays pending, and those before it are missed."""
    tick = Ticks(10).after(Tick(1000.0), ended)
    assert (due, missed) == (tick.due, tick.missed)


@pytest.mark.parity("T3.41")
def test_a_fixed_delay_waits_a_whole_interval_after_each_run() -> None:
    """With a fixed delay the next run comes a full interval after the end of the last, whatever it took."""
    tick = Ticks(10, mode="delay").after(Tick(1000.0), 1035.0)
    assert (1045.0, 0) == (tick.due, tick.missed)


@given(spans, instants, st.floats(0, 1e6))
def test_the_grid_never_moves(every: float, first: float, late: float) -> None:
    """At a fixed rate each tick is the first plus a whole number of intervals, and the count of the missed is exact."""
    tick = Ticks(every).after(Tick(first), first + late)
    steps = (tick.due - first) / every
    assert math.isclose(steps, round(steps), abs_tol=1e-3)
    assert round(steps) == tick.missed + 1
    assert tick.due > first


@given(spans, instants, st.floats(0, 1e6))
def test_a_pending_tick_is_never_older_than_one_interval(every: float, first: float, late: float) -> None:
    """After a late run, what is made up for is less than one interval ago: never a burst of old ticks."""
    tick = Ticks(every).after(Tick(first), first + late)
    assert tick.due > first + late - every * (1 + 1e-6) - 1e-6  # what floats of this size tell apart


@given(spans, instants, st.floats(0, 1e6))
def test_after_a_pause_the_next_tick_is_still_to_come(every: float, first: float, late: float) -> None:
    """What passed during a pause is neither run nor missed: the next tick is not in the past."""
    tick = Ticks(every).skip_to(Tick(first), first + late)
    assert 0 == tick.missed
    assert tick.due >= first + late - every * 1e-6 - 1e-6


@pytest.mark.parametrize("every", [0.1, 0.001, 1 / 3])
@pytest.mark.parametrize("first", ["now", "after"])
def test_the_grid_does_not_drift(every: float, first: First) -> None:
    """After 100 000 ticks of which some were missed or paused over, the grid is where it began."""
    began = 1_735_689_600.1
    ticks = Ticks(every, first=first)
    tick = ticks.begin(began)
    number = 0 if first == "now" else 1
    while number < 100_000:
        number += 1
        match number % 1000:
            case 0:
                tick, number = ticks.after(tick, tick.due + 2.5 * every), number + 1
            case 1:
                tick, number = ticks.skip_to(tick, tick.due + 2.5 * every), number + 2
            case 2:
                tick = ticks.after(ticks.before(ticks.after(tick, tick.due)), tick.due)
            case _:
                tick = ticks.after(tick, tick.due)
    assert abs(began + number * every - tick.due) <= math.ulp(began)


def test_aligned_ticks_stay_on_the_multiples() -> None:
    """Aligned ticks are multiples of the interval since the epoch, the last as exactly as the first."""
    ticks = Ticks(0.1, first="aligned")
    tick = ticks.begin(1_735_689_600.05)
    for _ in range(100_000):
        tick = ticks.after(tick, tick.due)
    assert 17_356_996_001 * 0.1 == tick.due
