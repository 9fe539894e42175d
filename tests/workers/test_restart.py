"""Whether to restart what failed: the pure decision against a model of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.errors import ConfigError
from runcrew.policies import Constant, Exponential
from runcrew.workers import GiveUp, Intensity, Restart, Restarts
from runcrew.workers.restart import DEFAULT_BACKOFF


class Grows:
    """A backoff that shows how far it has grown."""

    def delay(self, n: int) -> float:
        """As many seconds as there were failures before."""
        return float(n)


def model(limit: int, period: int, pause: int, times: list[int]) -> list[bool]:
    """The same decision in exact arithmetic: a bucket of `limit` that drains evenly over `period`, but for pauses."""
    level, since, borne = Fraction(0), 0, []
    for now in times:
        level = max(Fraction(0), level - Fraction(max(0, now - since), period) * limit) + 1
        since = now + pause if level <= limit else now
        borne.append(level <= limit)
    return borne


@given(
    st.integers(0, 8),
    st.sampled_from([1, 2, 4, 8, 16, 64]),
    st.integers(0, 16),
    st.lists(st.integers(0, 40), max_size=60),
)
def test_the_decision_equals_the_model(limit: int, period: int, pause: int, gaps: list[int]) -> None:
    """Restart or give up, at every failure, exactly as the model says, also at the edge of the period."""
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    restarts = Restarts(Intensity(limit, period * 8), Constant(pause))
    mine = [isinstance(restarts.failed(float(now)), Restart) for now in times]
    assert model(limit, period * 8, pause, times) == mine


def test_five_at_once_are_borne_and_the_sixth_is_not() -> None:
    """The limit is what may come in one burst."""
    restarts = Restarts(Intensity(5, "60s"), Constant(1))
    assert [True] * 5 + [False] == [isinstance(restarts.failed(0.0), Restart) for _ in range(6)]


def test_a_steady_rate_within_the_limit_is_borne_for_ever() -> None:
    """Five in sixty seconds of running, evenly spread, never add up."""
    restarts = Restarts(Intensity(5, "60s"), Constant(1))
    assert all(isinstance(restarts.failed(13.0 * n), Restart) for n in range(10_000))


@pytest.mark.parametrize("backoff", [Constant(0), Constant("1h"), Exponential("1s", cap="30s"), DEFAULT_BACKOFF])
def test_what_fails_at_once_for_ever_is_given_up_however_long_the_pauses(backoff: Any) -> None:
    """Time in which it did not run proves nothing good, so longer pauses are no way around the limit."""
    restarts, now, pauses = Restarts(Intensity(5, "60s"), backoff), 0.0, 0
    while isinstance(decision := restarts.failed(now), Restart):
        now, pauses = now + decision.delay, pauses + 1
    assert (5, 5) == (pauses, restarts.total)


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


def test_a_backoff_that_has_no_answer_gives_up() -> None:
    """What cannot say how long to wait ends it, with the reason."""

    class Broken:
        def delay(self, n: int) -> float:
            raise ConfigError("no delay")

    decision = Restarts(Intensity(5), Broken()).failed(0.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, ConfigError)


# --- what is never given up --------------------------------------------------------------


def delays(restarts: Restarts, times: list[float]) -> list[float]:
    """The pause after a failure at each of these times."""
    decided = [restarts.failed(now) for now in times]
    assert all(isinstance(decision, Restart) for decision in decided)
    return [decision.delay for decision in decided if isinstance(decision, Restart)]


def test_without_an_intensity_nothing_is_given_up() -> None:
    """It is only ever more slowly restarted, up to a pace that stays."""
    restarts = Restarts(None, Grows())
    pauses = delays(restarts, [0.0] * 1000)
    assert [0.0, 1.0, 2.0, 3.0] == pauses[:4]
    assert sorted(pauses) == pauses
    assert [20.0] * 500 == pauses[500:]
    assert 1000 == restarts.total


def test_without_an_intensity_a_long_bad_time_is_forgotten_in_minutes() -> None:
    """The count has a limit of its own: four times what drains in a minute."""
    restarts = Restarts(None, Grows())
    delays(restarts, [0.0] * 10_000)
    assert [5.0] == delays(restarts, [20.0 + 60 * 3])
    assert [0.0] == delays(restarts, [20.0 + 60 * 10])


@given(st.lists(st.floats(0, 100), max_size=60), st.integers(0, 3))
def test_without_an_intensity_no_mix_is_given_up(gaps: list[float], at_once: int) -> None:
    """Whatever the pace of the failures: another restart, and never a pause that is longer than the longest."""
    restarts = Restarts(None, Exponential("1s", cap="30s", jitter="none"), at_once=at_once)
    assert all(0 <= pause <= 30 for pause in delays(restarts, [sum(gaps[: i + 1]) for i in range(len(gaps))]))


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_the_first_failures_are_followed_at_once(at_once: int) -> None:
    """As many as was said; the backoff begins at its beginning after them."""
    restarts = Restarts(None, Exponential("1s", cap="30s", jitter="none"), at_once=at_once)
    assert [0.0] * at_once + [1.0, 2.0, 4.0] == delays(restarts, [0.0] * (at_once + 3))


def test_at_once_is_for_the_beginning_only() -> None:
    """It is due again when good times have passed, and not before."""
    restarts = Restarts(None, Constant(7), at_once=1)
    assert [0.0, 7.0, 7.0, 0.0] == delays(restarts, [0.0, 1.0, 8.0, 600.0])


def test_at_once_counts_against_the_intensity() -> None:
    """A restart without a pause is a restart."""
    restarts = Restarts(Intensity(2, "60s"), Constant(1), at_once=5)
    assert [True, True, False] == [isinstance(restarts.failed(0.0), Restart) for _ in range(3)]


def test_without_an_intensity_a_backoff_that_has_no_answer_is_told() -> None:
    """That is the one thing that it cannot decide."""

    class Broken:
        def delay(self, n: int) -> float:
            raise ConfigError("no delay")

    decision = Restarts(None, Broken()).failed(0.0)
    assert isinstance(decision, GiveUp)
    assert "no delay" == str(decision.error)
