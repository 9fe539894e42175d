"""Percentiles of any number of values in little memory: a digest of logarithmic buckets that can be merged."""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from struct import Struct
from typing import Final

#: The smallest and the largest value that is told apart: a little under 1 ns, and about 17 years, in seconds.
LEAST: Final = 2.0**-30
MOST: Final = 2.0**29

# A bucket is named by the upper half of a value written as a 32-bit float: its exponent and seven bits of its
# mantissa. So there are 128 buckets from a value to its double, none wider than 0.8 %, and a whole batch is
# sorted into them with next to no Python code for the single value. Values are scaled first, so that the
# smallest that count have the smallest exponent there is, and the names of their buckets begin near 0.

#: What `Digest.add_scaled` wants its values multiplied by: a power of two, so nothing of them is lost.
SCALE: Final = 2.0**-96

_OCTAVE: Final = 128
_UPPER: Final = 1 if sys.byteorder == "little" else 0
_TOP: Final = MOST * SCALE
_as_float: Final = Struct("<f").pack
_halves: Final = Struct("<2H").unpack


@cache
def _ends() -> array[float]:
    """For each bucket, scaled, the value that is just too large for it: rounding makes it the first of the next."""
    buckets: int = _halves(_as_float(_TOP))[1] + 1
    firsts = array("f", array("I", range(1 << 16, buckets + 1 << 16, 1 << 16)).tobytes())
    lasts = array("f", array("I", range((1 << 16) - 1, buckets << 16, 1 << 16)).tobytes())
    return array("d", [(last + first) / 2 for last, first in zip(lasts, firsts, strict=True)])


@dataclass(frozen=True, slots=True)
class Summary:
    """How values are spread, in their own unit (seconds, wherever runcrew makes one). All 0 where there are none.

    `count`, `total`, `mean`, `min` and `max` are exact; the percentiles are by nearest rank, at most 1 % off,
    and never outside `min` and `max`.
    """

    count: int
    total: float
    mean: float
    min: float
    max: float
    p50: float
    p90: float
    p95: float
    p99: float


class Digest:
    """The quantiles of any number of values, with a relative error of at most 1 %, in memory of a fixed size.

    Made for spans in seconds, from 1 ns to 10 years. What is outside 0 … `MOST` (about 17 years) is clamped to it
    before anything else is made of it, and NaN counts as 0. For what is below `LEAST` (about 1 ns) it is the
    absolute error that is small: under 0.01 ns.

    Memory: a few numbers while empty, 8 bytes for each bucket up to the largest value (32 KB for values up to
    1 s), about 62 KB at most, and 32 bytes more for each bucket that holds over 256 values. Not made for several
    threads at a time: whoever shares one locks it.
    """

    __slots__ = ("_count", "_counts", "_max", "_min", "_total")

    def __init__(self) -> None:
        self._count = 0
        # These three are scaled.
        self._total = 0.0
        self._min = math.inf
        self._max = 0.0
        #: How many values are in each bucket, as far as one was needed: whole octaves.
        self._counts: list[int] = []

    # --- adding -------------------------------------------------------------------

    def add(self, value: float) -> None:
        """Count one value. Many at a time are much cheaper with `add_many`."""
        self.add_many((value,))

    def add_many(self, values: Iterable[float]) -> None:
        """Count values. Raises TypeError, and counts none of them, where one is no number."""
        self.add_scaled([value * SCALE for value in values])

    def add_scaled(self, values: list[float]) -> None:
        """The same, with each value multiplied by `SCALE` already. Sorts the list."""
        if not values:
            return
        values.sort()  # cheaper than to ask for min and max, and neighbours then fall into the same bucket
        total = sum(values)
        if values[0] < 0.0 or values[-1] > _TOP or total != total:
            values = sorted([min(value, _TOP) if value > 0.0 else 0.0 for value in values])
            total = sum(values)
        self._sort_in(values)
        self._count += len(values)
        self._total += total
        self._min = min(self._min, values[0] + 0.0)  # a negative zero becomes a zero
        self._max = max(self._max, values[-1])

    def _sort_in(self, values: list[float]) -> None:
        """Raise the counts of the buckets of sorted values."""
        size, place = len(values), bisect_right(values, 0.0)
        self._reach(_halves(_as_float(values[-1]))[1] if place < size else 0)
        counts, ends = self._counts, _ends()
        counts[0] += place
        # Where many are in one bucket, its end is looked up. A look-up costs as much as it costs to count some
        # eight values one by one, so it has to be earned.
        credit = 4
        while credit > 0 and place < size:
            bucket: int = _halves(_as_float(values[place]))[1]
            after = bisect_left(values, ends[bucket], place)
            counts[bucket] += after - place
            credit += (after - place) // 8 - 1
            place = after
        if place < size:
            for bucket in array("H", array("f", values[place:]).tobytes())[_UPPER::2].tolist():
                counts[bucket] += 1

    def merge(self, other: Digest, weight: int = 1) -> None:
        """Count all that `other` has counted, as if it had been added here `weight` times. `other` is left as it is."""
        theirs = other._counts.copy()
        if theirs:
            self._reach(len(theirs) - 1)
        counts = self._counts
        for bucket, count in enumerate(theirs):
            counts[bucket] += count * weight
        self._count += other._count * weight
        self._total += other._total * weight
        self._min = min(self._min, other._min)
        self._max = max(self._max, other._max)

    def _reach(self, bucket: int) -> None:
        """Make sure that there is a place for a bucket."""
        missing = bucket + 1 - len(self._counts)
        if missing > 0:
            self._counts.extend([0] * (missing + -missing % _OCTAVE))

    # --- asking -------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many values there are."""
        return self._count

    @property
    def total(self) -> float:
        """Their sum."""
        return self._total / SCALE

    @property
    def mean(self) -> float:
        """Their average; 0.0 where there are none."""
        return self.total / self._count if self._count else 0.0

    @property
    def min(self) -> float:
        """The smallest, exactly; 0.0 where there are none."""
        return self._min / SCALE if self._count else 0.0

    @property
    def max(self) -> float:
        """The largest, exactly; 0.0 where there are none."""
        return self._max / SCALE

    def quantile(self, q: float) -> float:
        """The value that the share `q` (0 … 1) of all values does not exceed, by nearest rank; 0.0 without values.

        At most 1 % off; `min` for 0 and `max` for 1, exactly. Raises ValueError where `q` is not within 0 … 1.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"no quantile {q!r}: give a share from 0 to 1, for instance 0.95")
        return self._quantiles((q,))[0]

    def snapshot(self) -> Summary:
        """What is known of the values, in one piece."""
        p50, p90, p95, p99 = self._quantiles((0.5, 0.9, 0.95, 0.99))
        return Summary(self._count, self.total, self.mean, self.min, self.max, p50, p90, p95, p99)

    def _quantiles(self, shares: tuple[float, ...]) -> list[float]:
        if not self._count:
            return [0.0] * len(shares)
        upto = list(accumulate(self._counts))
        return [self._at(rank(q, self._count), upto) for q in shares]

    def _at(self, place: int, upto: list[int]) -> float:
        """About the value at a place in order, from 1; `upto`: how many there are up to the end of each bucket."""
        if place == 1:
            return self.min
        if place == self._count:
            return self.max
        bucket = bisect_left(upto, place)
        low, high = _ends()[bucket - 1] if bucket else 0.0, _ends()[bucket]
        # The harmonic mean is as far, in proportion, from one edge as from the other: 0.4 % at most.
        middle = 2.0 * low * (high / (low + high))
        return min(max(middle, self._min), self._max) / SCALE


def rank(q: float, count: int) -> int:
    """The nearest rank: the place, from 1, of the smallest value that the share `q` of all does not exceed."""
    # A hair less than the product: 0.07 * 100 is 7.000000000000001 in floats, and no eighth is meant.
    return min(max(math.ceil(q * count * (1.0 - 1e-12)), 1), count)
