"""Plain numbers about runs, kept by direct calls; a snapshot is taken only when somebody looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runcrew.job import Outcome, Status


@dataclass(frozen=True, slots=True)
class RunStats:
    """What became of the runs so far. Times in seconds; `None` where nothing was measured yet.

    At every quiet point `begun` equals the sum of the six ends plus `in_flight`.
    """

    begun: int
    in_flight: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    interrupted: int
    skipped: int
    #: Attempts after the first, over all runs.
    retries: int
    #: From the first attempt to the end, over runs that began: the sum, the last, the extremes.
    elapsed_total: float
    elapsed_last: float | None
    elapsed_min: float | None
    elapsed_max: float | None
    #: When the last run ended, in seconds since the epoch.
    last_ended: float | None

    @property
    def ended(self) -> int:
        """How many runs have ended, in whatever way."""
        return self.begun - self.in_flight


class Meter:
    """Counts the runs of one door. `began` and `ended` are called once for each run, on the loop."""

    __slots__ = ("_begun", "_counts", "_last", "_last_ended", "_max", "_min", "_retries", "_timed", "_total")

    def __init__(self) -> None:
        self._begun = 0
        self._counts = dict.fromkeys(Status, 0)
        self._retries = 0
        self._timed = 0
        self._total = self._last = self._max = 0.0
        self._min = float("inf")
        self._last_ended: float | None = None

    def began(self) -> None:
        """A run was accepted."""
        self._begun += 1

    def ended(self, outcome: Outcome[Any]) -> None:
        """A run that `began` has its outcome."""
        self._counts[outcome.status] += 1
        self._retries += outcome.attempts - 1
        self._last_ended = outcome.ended
        if outcome.started is None:
            return
        elapsed = outcome.elapsed
        self._timed += 1
        self._total += elapsed
        self._last = elapsed
        if elapsed < self._min:
            self._min = elapsed
        if elapsed > self._max:
            self._max = elapsed

    def snapshot(self, retries: int = 0) -> RunStats:
        """The numbers as they stand; `retries`: of the runs under way."""
        counts, timed = self._counts, self._timed > 0
        return RunStats(
            begun=self._begun,
            in_flight=self._begun - sum(counts.values()),
            retries=self._retries + retries,
            elapsed_total=self._total,
            elapsed_last=self._last if timed else None,
            elapsed_min=self._min if timed else None,
            elapsed_max=self._max if timed else None,
            last_ended=self._last_ended,
            **{status.value: count for status, count in counts.items()},
        )
