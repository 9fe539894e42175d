"""The digest: quantiles within 1 % of the exact ones, whatever comes, in memory of a fixed size."""

from __future__ import annotations

import dataclasses
import math
import random
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.insight import Digest, Summary
from runcrew.insight.digest import LEAST, MOST

YEARS_10 = 10 * 365.25 * 86400.0
SHARES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)

#: Spans spread evenly over all magnitudes, and those that are as near to the edge of a bucket as can be.
SPANS = st.floats(-9.0, 8.499).map(lambda power: 10.0**power)
EDGES = st.tuples(st.integers(-29, 28), st.integers(128, 255), st.sampled_from([-math.inf, math.inf])).map(
    lambda at: math.nextafter(math.ldexp(at[1] / 128, at[0]), at[2])
)
#: A few values that come again and again, next to some that come once.
VALUES = st.lists(SPANS | EDGES | st.sampled_from([0.0, 1e-9, 2.4e-7, 1.0, YEARS_10]), max_size=200) | st.builds(
    lambda many, times, few: [*few, *(many * times)],
    st.lists(SPANS | EDGES, min_size=1, max_size=5),
    st.integers(1, 100),
    st.lists(SPANS, max_size=20),
)


def exact(values: list[float], percent: int) -> float:
    """The percentile by nearest rank."""
    return sorted(values)[max(1, -(-percent * len(values) // 100)) - 1]


def of(values: list[float]) -> Digest:
    """A digest of these values."""
    digest = Digest()
    digest.add_many(values)
    return digest


@given(VALUES)
@pytest.mark.parity("T5.57")
@pytest.mark.defect("D5.21")
def test_each_quantile_is_within_one_per_cent_of_the_nearest_rank(values: list[float]) -> None:
    """Whatever the values are and however many, a quantile differs by at most 1 % from the exact one."""
    digest = of(values)
    for percent in SHARES:
        want = exact(values, percent) if values else 0.0
        assert want == pytest.approx(digest.quantile(percent / 100), rel=0.01, abs=1e-11)


@given(VALUES.filter(bool))
def test_the_ends_are_exact(values: list[float]) -> None:
    """The smallest and the largest value, the number of values and their sum are no estimates."""
    digest = of(values)
    assert (min(values), max(values)) == (digest.quantile(0.0), digest.quantile(1.0))
    assert (min(values), max(values), len(values)) == (digest.min, digest.max, digest.count)
    assert math.fsum(values) == pytest.approx(digest.total, rel=1e-12)
    assert math.fsum(values) / len(values) == pytest.approx(digest.mean, rel=1e-12)


@given(VALUES, st.lists(st.integers(0, 200), max_size=5))
def test_in_how_many_pieces_values_come_makes_no_difference(values: list[float], cuts: list[int]) -> None:
    """Added at once, in batches or one by one, or merged from several digests: the quantiles are the same."""
    whole, batches, single, merged = of(values), Digest(), Digest(), Digest()
    for start, end in pairwise(sorted({0, *(min(cut, len(values)) for cut in cuts), len(values)})):
        batches.add_many(values[start:end])
        merged.merge(of(values[start:end]))
    for value in values:
        single.add(value)
    for other in (batches, single, merged):
        same = dataclasses.replace(other.snapshot(), total=whole.total, mean=whole.mean)
        assert whole.snapshot() == same
        assert whole.total == pytest.approx(other.total, rel=1e-12)


def test_of_two_values_the_larger_is_the_95th_percentile_and_of_ten_the_tenth() -> None:
    """A percentile is never taken one place too low, which tells most with few values."""
    assert 2.0 == of([1.0, 2.0]).quantile(0.95)
    assert 10.0 == of([float(n) for n in range(1, 11)]).quantile(0.95)
    assert 1.0 == of([1.0, 2.0]).quantile(0.5)
    assert 7.0 == pytest.approx(of([float(n) for n in range(1, 101)]).quantile(0.07), rel=0.01)


@pytest.mark.parity("T5.61")
def test_an_empty_digest_answers_zero_to_everything() -> None:
    """Without values each number is 0.0, and merging nothing changes nothing."""
    digest = Digest()
    digest.merge(Digest())
    digest.add_many([])
    assert Summary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0) == digest.snapshot()
    assert 0.0 == digest.quantile(0.99)
    assert (0, 0.0) == (digest.count, digest.mean)


def test_a_summary_holds_what_the_digest_says() -> None:
    """A snapshot has each number in its place, and cannot be changed."""
    digest = of([float(n) for n in range(1, 1001)])
    summary = digest.snapshot()
    assert (1000, 500500.0, 500.5, 1.0, 1000.0) == (
        summary.count,
        summary.total,
        summary.mean,
        summary.min,
        summary.max,
    )
    assert [500.0, 900.0, 950.0, 990.0] == pytest.approx([summary.p50, summary.p90, summary.p95, summary.p99], rel=0.01)
    assert [digest.quantile(q) for q in (0.5, 0.9, 0.95, 0.99)] == [summary.p50, summary.p90, summary.p95, summary.p99]
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.p50 = 0.0  # type: ignore[misc]


def test_what_is_outside_the_range_is_clamped() -> None:
    """Negative values and NaN count as 0, too large ones as the largest; the sums stay finite."""
    digest = of([-1.0, -0.0, math.nan, -math.inf, 5.0, math.inf, 1e300])
    assert (7, 0.0, MOST, 5.0 + 2 * MOST) == (digest.count, digest.min, digest.max, digest.total)
    assert [0.0, 0.0, MOST] == [digest.quantile(q) for q in (0.0, 0.5, 0.9)]
    assert 5.0 == pytest.approx(digest.quantile(5 / 7), rel=0.01)
    only_zero = of([-0.0])
    assert (1, "0.0") == (only_zero.count, str(only_zero.min))


def test_what_is_below_a_nanosecond_is_as_good_as_zero() -> None:
    """Tiny values cost no more room, and are off by less than a hundredth of a nanosecond."""
    digest = of([LEAST / 3, LEAST / 1e20, 5e-324, 0.0, 1.0])
    assert LEAST / 3 == pytest.approx(digest.quantile(0.8), abs=1e-11)
    assert 0.0 == pytest.approx(digest.quantile(0.6), abs=1e-11)
    assert 0.0 == digest.quantile(0.0)


@pytest.mark.parametrize("bad", ["1", None, object()])
def test_a_batch_with_something_else_among_it_is_refused_as_a_whole(bad: object) -> None:
    """What is no number raises TypeError, and none of the batch is counted."""
    digest = of([1.0])
    with pytest.raises(TypeError):
        digest.add_many([2.0, bad])  # type: ignore[list-item]
    assert (1, 1.0, 1.0) == (digest.count, digest.max, digest.total)


@pytest.mark.parametrize("q", [-0.1, 1.1, 95, math.nan])
def test_a_share_outside_zero_to_one_is_refused(q: float) -> None:
    """A percentile given as 95 in place of 0.95 is told, not guessed."""
    with pytest.raises(ValueError, match="share from 0 to 1"):
        Digest().quantile(q)


@pytest.mark.defect("D5.8")
@pytest.mark.parametrize(
    "draw",
    [
        lambda chance: chance.uniform(0.0, 1.0),
        lambda chance: chance.lognormvariate(0.0, 20.0),
        lambda chance: 10.0 ** chance.uniform(-12.0, 12.0),
        lambda chance: chance.paretovariate(0.2),
    ],
)
def test_the_size_is_fixed_whatever_is_added(draw: Callable[[random.Random], float]) -> None:
    """A hundred thousand values of any kind need no more room than all buckets there are, about 62 KB."""
    chance, digest = random.Random(7), Digest()
    for _ in range(200):
        digest.add_many([draw(chance) for _ in range(500)])
    digest.add(math.inf)
    assert 100_001 == digest.count
    assert 61 * 128 == len(digest._counts)
    assert 72_000 > sys.getsizeof(digest._counts)
    assert [] == Digest()._counts


def test_an_iterator_may_be_added_and_a_list_stays_as_it_is() -> None:
    """Any iterable will do, and the caller's own list is not touched."""
    values = [3.0, 1.0, 2.0]
    digest = of(values)
    digest.add_many(iter(values))
    assert [3.0, 1.0, 2.0] == values
    assert (6, 12.0) == (digest.count, digest.total)


def test_a_digest_may_be_merged_with_itself_and_leaves_the_other_alone() -> None:
    """Merging counts everything of the other, also where that is the same digest, and changes only one of them."""
    one, other = of([1.0, 2.0]), of([1e-6, 1e6, 4.0])
    one.merge(other)
    before = other.snapshot()
    one.merge(one)
    assert (10, 1e-6, 1e6) == (one.count, one.min, one.max)
    assert 2 * (3.0 + 1e-6 + 1e6 + 4.0) == pytest.approx(one.total)
    assert before == other.snapshot()
