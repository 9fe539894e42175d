"""How long to wait: exact rows, and properties over everything that can be asked."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runcrew import clock
from runcrew.durations import LONGEST
from runcrew.errors import ConfigError
from runcrew.policies import Constant, Exponential, Retry

JITTERS = ("none", "full", "equal", "decorrelated")


def plain(initial: str, *, cap: str | None = None, factor: float = 2.0) -> Exponential:
    """Without jitter."""
    return Exponential(initial, cap=cap, factor=factor, jitter="none")


@pytest.mark.parity("T3.4", "T3.10", "E3.1")
def test_the_delay_grows_by_the_factor() -> None:
    """Without jitter delay(n) is initial * factor**n exactly, counted from 0."""
    assert [1.0, 2.0, 4.0, 8.0] == [plain("1s").delay(n) for n in range(4)]
    assert [2.0, 6.0, 18.0] == [plain("2s", factor=3).delay(n) for n in range(3)]


@pytest.mark.parity("T3.5", "E3.1")
def test_the_cap_is_never_passed() -> None:
    """A delay above the cap is the cap; without one it goes on growing."""
    capped = plain("1s", cap="5s", factor=10)
    assert [1.0, 5.0, 5.0] == [capped.delay(n) for n in range(3)]
    assert [5.0, 5.0] == [plain("5s", cap="5s").delay(n) for n in range(2)]
    assert 1000.0 == plain("1s", factor=10).delay(3)


@pytest.mark.parity("T3.7")
def test_the_factor_says_how_it_goes_on() -> None:
    """A factor of 1 is constant, below 1 shrinks, above 1 grows."""
    assert [3.0] * 3 == [plain("3s", factor=1).delay(n) for n in range(3)]
    assert [8.0, 4.0, 2.0] == [plain("8s", factor=0.5).delay(n) for n in range(3)]


@pytest.mark.parity("T3.8")
def test_the_default_of_a_rule() -> None:
    """A rule that says nothing waits from 1 s to 30 s, doubling, with full jitter."""
    assert Exponential("1s", cap="30s", factor=2, jitter="full") == Retry(ValueError).backoff


@pytest.mark.parity("T3.6")
@pytest.mark.parametrize("n", [64, 1024, 10_000, 10**400])
def test_what_no_number_holds_is_the_longest_span(n: int) -> None:
    """Where the formula overflows, the delay is the longest span there is, or the cap; never infinite."""
    assert LONGEST == plain("1s").delay(n)
    assert 30.0 == plain("1s", cap="30s").delay(n)
    assert 0.0 <= plain("1s", factor=0.5).delay(n) < 1e-18
    assert 1.0 == plain("1s", factor=1).delay(n)


@pytest.mark.defect("D3.9")
def test_no_delay_turns_negative_where_integers_would() -> None:
    """Around the sizes where a count of nanoseconds overflows, the delay keeps growing up to the ceiling."""
    delays = [plain("1us").delay(n) for n in range(40, 80)]
    assert sorted(delays) == delays
    assert LONGEST == delays[-1]
    assert 0 < min(delays)
    smallest = Exponential(1e-9, jitter="none")  # a nanosecond, doubled until it has no room in 64 bits
    assert [LONGEST] * 4 == [smallest.delay(n) for n in range(62, 66)]


@settings(deadline=None)
@given(
    initial=st.floats(1e-9, LONGEST),
    factor=st.floats(1e-300, 1e300),
    cap=st.none() | st.floats(1e-9, LONGEST),
    jitter=st.sampled_from(JITTERS),
    n=st.integers(0, 10**6) | st.just(10**320),
    previous=st.none() | st.floats(0, LONGEST),
)
@example(initial=1e-6, factor=1e300, cap=None, jitter="decorrelated", n=10**6, previous=LONGEST)
def test_a_delay_is_finite_never_negative_and_under_the_cap(
    initial: float, factor: float, cap: float | None, jitter: Any, n: int, previous: float | None
) -> None:
    """For all settings and all n a delay is between 0 and the cap (the ceiling, where there is none)."""
    cap = None if cap is None else max(cap, initial)
    delay = Exponential(initial, cap=cap, factor=factor, jitter=jitter).delay(n, previous)
    assert 0 <= delay <= (LONGEST if cap is None else cap)


@pytest.mark.defect("D3.10")
def test_jitter_spreads() -> None:
    """With each kind of jitter, a hundred jobs that fail at once do not come back at once."""
    for jitter in ("full", "equal", "decorrelated"):
        backoff = Exponential("1s", jitter=jitter)  # type: ignore[arg-type]
        assert 90 < len({backoff.delay(3) for _ in range(100)})
    assert 90 < len({Constant("1s", jitter="full").delay(0) for _ in range(100)})


@pytest.mark.parametrize(
    ("jitter", "low", "high"),
    [("none", 8.0, 8.0), ("full", 0.0, 8.0), ("equal", 4.0, 8.0), ("decorrelated", 1.0, 12.0)],
)
def test_jitter_keeps_to_its_range(jitter: Any, low: float, high: float) -> None:
    """Each kind of jitter uses its range, all of it: the ends are approached, and not passed."""
    backoff = Exponential("1s", jitter=jitter)
    delays = [backoff.delay(3) for _ in range(2000)]
    assert low <= min(delays) <= low + (high - low) / 50
    assert high - (high - low) / 50 <= max(delays) <= high


def test_decorrelated_jitter_goes_by_the_wait_before() -> None:
    """With the wait before known, the next is between initial and three times that."""
    backoff = Exponential("1s", cap="60s", jitter="decorrelated")
    delays = [backoff.delay(9, 5.0) for _ in range(2000)]
    assert 1.0 <= min(delays) < 1.5
    assert 14.5 < max(delays) <= 15.0
    assert {1.0} == {backoff.delay(9, 0.0) for _ in range(10)}
    assert 60.0 == max(backoff.delay(9, 50.0) for _ in range(200))


def test_decorrelated_jitter_begins_with_the_first_delay() -> None:
    """The first wait is between initial and three times initial."""
    delays = [Exponential("1s", jitter="decorrelated").delay(0) for _ in range(2000)]
    assert 1.0 <= min(delays) < 1.1
    assert 2.9 < max(delays) <= 3.0


@pytest.mark.virtual(seed=7)
async def test_chance_comes_from_the_clock() -> None:
    """Jitter is drawn from the clock in force, so that a seeded clock repeats it."""
    backoff = Exponential("1s")
    first = [backoff.delay(n) for n in range(5)]
    clock.current().random.seed(7)
    again = [backoff.delay(n) for n in range(5)]
    clock.current().random.seed(7)
    assert again == [backoff.delay(n) for n in range(5)]
    assert first != [backoff.delay(n) for n in range(5)]


def test_a_constant_is_constant() -> None:
    """The same delay each time, zero included, with full and equal jitter below it."""
    assert [0.25, 0.25] == [Constant("250ms").delay(n) for n in (0, 10**400)]
    assert 0.0 == Constant(0).delay(5)
    assert 0.0 == Constant(0, jitter="full").delay(5)
    assert all(0.5 <= Constant(timedelta(seconds=1), jitter="equal").delay(n) <= 1 for n in range(100))


@pytest.mark.parity("T3.9")
@pytest.mark.virtual
async def test_waiting_takes_the_delay() -> None:
    """wait(n) lets delay(n) pass."""
    began = clock.current().now()
    await plain("1s").wait(3)
    assert 8.0 == clock.current().now() - began


@pytest.mark.parity("T3.9", "E3.2")
@pytest.mark.virtual
async def test_a_cancelled_wait_ends_at_once() -> None:
    """Cancelling ends a wait in no time, and so does having been cancelled before it began."""
    began = clock.current().now()
    waiting = asyncio.create_task(plain("10s").wait(0))
    await asyncio.sleep(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert 1.0 == clock.current().now() - began

    async def cancelled_before() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await plain("10s").wait(0)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(cancelled_before())
    assert 1.0 == clock.current().now() - began


@pytest.mark.parity("T3.7", "T3.24", "E3.5")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Exponential(0), "initial: 0 is zero"),
        (lambda: Exponential(-1), "initial: -1 is negative"),
        (lambda: Exponential(math.nan), "initial: nan"),
        (lambda: Exponential("1s", factor=0), "factor: 0 is not"),
        (lambda: Exponential("1s", factor=-2), "factor: -2 is not"),
        (lambda: Exponential("1s", factor=math.inf), "factor: inf is not"),
        (lambda: Exponential("1s", factor=math.nan), "factor: nan is not"),
        (lambda: Exponential("1s", factor=10**400), "factor: 1000"),
        (lambda: Exponential("1s", factor=True), "factor: True is not"),
        (lambda: Exponential("1s", factor="2"), "factor: '2' is not"),  # type: ignore[arg-type]
        (lambda: Exponential(0, factor=0, cap=-1), "initial"),
        (lambda: Retry("x", backoff=Exponential("1s", factor=0)), "factor"),  # type: ignore[arg-type]
        (lambda: Exponential("1s", jitter="some"), "jitter: 'some' is none of 'none', 'full', 'equal', 'decorrelated'"),  # type: ignore[arg-type]
        (lambda: Constant(-1), "delay: -1 is negative"),
        (lambda: Constant("1s", jitter="decorrelated"), "use rc.Exponential"),  # type: ignore[arg-type]
        (lambda: plain("1s").delay(-1), "n: -1 is negative"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, said: str) -> None:
    """Spans, factors and jitters that make no sense are refused at construction, in this order, by name."""
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.defect("D3.11")
@pytest.mark.parametrize("cap", ["999ms", 0, -1])
def test_a_cap_below_the_first_delay_is_refused(cap: Any) -> None:
    """A cap that no delay could keep is refused, instead of being taken for something else."""
    with pytest.raises(ConfigError, match=r"cap: .* is (below the first delay|negative)"):
        Exponential("1s", cap=cap)


def test_a_backoff_is_a_value() -> None:
    """Two that say the same are equal, neither can be changed, and each says in words what it is."""
    assert Exponential("1s", cap="30s") == Exponential(1, cap=30.0)
    with pytest.raises(AttributeError):
        Exponential("1s").initial = 2.0  # type: ignore[misc]
    assert "exponential 1s..30s full jitter" == str(Exponential("1s", cap="30s"))
    assert "exponential 2s.. x3" == str(plain("2s", factor=3))
    assert "constant 250ms" == str(Constant("250ms"))


# --- the user's own --------------------------------------------------------------------------


class Own:
    """A user's backoff."""

    def delay(self, n: int) -> float:
        return n / 2


class Louder(Exponential):
    """A user's change of ours."""

    __slots__ = ()

    def delay(self, n: int, previous: float | None = None) -> float:
        return 7.0


def test_users_bring_their_own() -> None:
    """A function of n, an object with delay(n) and a subclass of ours all serve."""
    assert [0.0, 0.5, 1.0] == [Retry(ValueError, backoff=Own()).backoff.delay(n) for n in range(3)]
    assert 9.0 == Retry(ValueError, backoff=lambda n: n**2).backoff.delay(3)
    assert 7.0 == Retry(ValueError, backoff=Louder("1s")).backoff.delay(3)


@pytest.mark.parametrize("answer", [math.nan, math.inf, -math.inf, -1e-9, LONGEST * 1.01, "1s", None, True, 10**400])
def test_an_answer_that_is_no_span_is_a_config_error(answer: Any) -> None:
    """NaN, infinity, negatives, more than a year and what is no number: refused with the function's name."""

    def mine(n: int) -> Any:
        return answer

    with pytest.raises(ConfigError, match=r"mine gave delay\(2\)"):
        Retry(ValueError, backoff=mine).backoff.delay(2)


def test_a_backoff_that_raises_is_a_config_error() -> None:
    """What the user's function raises is the cause."""

    def mine(n: int) -> float:
        return 1 / n

    with pytest.raises(ConfigError, match="ZeroDivisionError") as caught:
        Retry(ValueError, backoff=mine).backoff.delay(0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def async_backoff(n: int) -> float:
    """Would give a coroutine."""
    return 1.0


@pytest.mark.parametrize("given", [2.0, "2s", None, Exponential, async_backoff, object()])
def test_what_is_no_backoff_is_refused(given: Any) -> None:
    """Numbers, classes, async functions: refused at construction, with the remedy."""
    with pytest.raises(ConfigError, match="backoff"):
        Retry(ValueError, backoff=given)
