"""Rates: how often something happens now, not how often it did on average since the start."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.insight import Rate
from runcrew.insight.rates import WINDOW

T0 = 1_735_689_600.0


@pytest.mark.parity("T5.58")
@pytest.mark.parametrize("each", [1, 3, 250])
def test_a_steady_rate_is_shown_exactly(each: int) -> None:
    """So many events a second are that rate at each full second, before and after the first minute."""
    rate = Rate(T0)
    for second in range(1, 300):
        rate.add(T0 + second, each)
        assert each == rate.per_second(T0 + second)


@pytest.mark.defect("D5.7")
def test_a_rate_follows_what_happens_now() -> None:
    """After a day of one event a second, a minute at ten is shown as ten, and a minute of nothing as 0."""
    rate = Rate(T0)
    now = T0 + 86400.0
    for _ in range(120):
        now += 1.0
        rate.add(now)
    assert 1.0 == rate.per_second(now)
    for _ in range(WINDOW):
        now += 1.0
        rate.add(now, 10)
    assert 10.0 == rate.per_second(now)
    seen = [rate.per_second(now + ago) for ago in range(WINDOW + 1)]
    assert sorted(seen, reverse=True) == seen
    assert 0.0 == seen[-1]


def test_before_a_minute_has_gone_by_the_rate_is_over_the_time_since_the_start() -> None:
    """Twenty events in the first ten seconds are two a second; a moment after the start counts as one second."""
    rate = Rate(T0)
    rate.add(T0, 5)
    assert 5.0 == rate.per_second(T0)
    assert 5.0 == rate.per_second(T0 + 0.001)
    rate.add(T0 + 3.5, 15)
    assert 2.0 == rate.per_second(T0 + 10.0)
    assert 0.8 == rate.per_second(T0 + 25.0)


def test_what_never_happened_has_rate_zero() -> None:
    """Without events the rate is 0, also before the start, where a clock was changed."""
    rate = Rate(T0)
    rate.add_many([])
    assert [0.0] * 3 == [rate.per_second(T0 + ago) for ago in (-5.0, 0.0, 1e6)]


@given(st.lists(st.floats(0.0, 200.0), max_size=100), st.floats(0.0, 200.0), st.randoms(use_true_random=False))
def test_the_rate_is_that_of_the_last_minute_in_whatever_order_events_come(
    ages: list[float], age: float, chance: random.Random
) -> None:
    """Events one by one, as a batch, shuffled or merged give the same rate: what was in the window, by its length."""
    instants = [T0 + 0.25 + each for each in sorted(ages)]
    now = T0 + 0.25 + age
    known = [at for at in instants if at <= now]
    one, batch, mixed, merged = (Rate(T0 + 0.25) for _ in range(4))
    for at in known:
        one.add(at)
    batch.add_many(known)
    shuffled = chance.sample(known, len(known))
    mixed.add_many(shuffled[::2])
    mixed.add_many(shuffled[1::2])
    other = Rate(T0 + 20.0)
    merged.add_many(known[::2])
    other.add_many(known[1::2])
    merged.merge(other)
    first = -(-now // 1.0) - WINDOW
    want = sum(at > first for at in known) / max(1.0, now - max(T0 + 0.25, first))
    for rate in (one, batch, mixed, merged):
        assert want == pytest.approx(rate.per_second(now), rel=1e-12)


def test_an_instant_slightly_out_of_order_is_counted_and_a_late_one_does_no_harm() -> None:
    """What comes a little late counts in its own second; what is over a minute old changes nothing."""
    rate = Rate(T0)
    rate.add_many([T0 + 100.0, T0 + 99.9, T0 + 100.2, T0 + 98.0])
    rate.add(T0 + 1.0, 1000)
    assert 3 / 60 == rate.per_second(T0 + 100.0)
    assert 4 / 59.5 == pytest.approx(rate.per_second(T0 + 100.5))


@pytest.mark.defect("D5.8")
def test_a_rate_keeps_a_number_for_each_second_of_the_window_and_no_more() -> None:
    """However long it goes on, and however far apart events are, at most sixty numbers are kept."""
    rate = Rate(T0)
    for second in range(5000):
        rate.add(T0 + second)
    rate.add_many([T0 + 5000.0 + 7 * n for n in range(5000)])
    assert WINDOW == len(rate._seconds)
    other = Rate(T0)
    other.add_many([T0 + 0.5 + n for n in range(200)])
    rate.merge(other)
    assert WINDOW == len(rate._seconds)
    assert 9 / 60 == rate.per_second(T0 + 5000.0 + 7 * 4999)
