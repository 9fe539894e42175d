"""Whether to restart what failed: the pure decision against a model of it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.errors import ConfigError
from runcrew.policies import Constant
from runcrew.workers import GiveUp, Intensity, Restart, Restarts


class Grows:
    """A backoff that shows how far it has grown."""

    def delay(self, n: int) -> float:
        """As many seconds as there were failures before."""
        return float(n)


def model(limit: int, period: int, times: list[int]) -> list[bool]:
    """The same decision in exact arithmetic: a bucket of `limit` that drains evenly over `period`."""
    level, before, borne = Fraction(0), 0, []
    for now in times:
        level = max(Fraction(0), level - Fraction(now - before, period) * limit) + 1
        before = now
        borne.append(level <= limit)
    return borne


@given(
    st.integers(0, 8),
    st.sampled_from([1, 2, 4, 8, 16, 64]),
    st.lists(st.integers(0, 40), max_size=60),
)
def test_the_decision_equals_the_model(limit: int, period: int, gaps: list[int]) -> None:
    """Restart or give up, at every failure, exactly as the model says, also at the edge of the period."""
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    restarts = Restarts(Intensity(limit, period * 8), Constant(1))
    mine = [isinstance(restarts.failed(float(now)), Restart) for now in times]
    assert model(limit, period * 8, times) == mine


def test_five_at_once_are_borne_and_the_sixth_is_not() -> None:
    """The limit is what may come in one burst."""
    restarts = Restarts(Intensity(5, "60s"), Constant(1))
    assert [True] * 5 + [False] == [isinstance(restarts.failed(0.0), Restart) for _ in range(6)]


def test_a_steady_rate_within_the_limit_is_borne_for_ever() -> None:
    """Five in sixty seconds, evenly spread, never add up."""
    restarts = Restarts(Intensity(5, "60s"), Constant(1))
    assert all(isinstance(restarts.failed(12.0 * n), Restart) for n in range(10_000))


def test_the_backoff_grows_with_failures_and_is_short_again_after_quiet_times() -> None:
    """The pause depends on the count as it stands, which drains with time."""
    restarts = Restarts(Intensity(5, "60s"), Grows())
    pauses = [restarts.failed(now) for now in (0.0, 0.0, 0.0, 1000.0)]
    assert [0.0, 1.0, 2.0, 0.0] == [pause.delay for pause in pauses if isinstance(pause, Restart)]


def test_zero_bears_none() -> None:
    """A limit of zero means none, not a default."""
    decision = Restarts(Intensity(0, "60s"), Constant(1)).failed(0.0)
    assert isinstance(decision, GiveUp)
    assert "0 in 1m" in decision.reason


@pytest.mark.parametrize("limit", [-1, 1.5, True, "5", None])
def test_a_bad_limit_is_refused(limit: object) -> None:
    """What is not a number of restarts is refused by name."""
    with pytest.raises(ConfigError, match="limit"):
        Intensity(limit)  # type: ignore[arg-type]


def test_a_bad_period_is_refused() -> None:
    """A period of nothing would mean an infinite rate."""
    with pytest.raises(ConfigError, match="period: 0 is zero"):
        Intensity(5, 0)
