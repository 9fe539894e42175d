"""Random schedules in which some jobs are plain functions, in real threads whose waits are on virtual time."""

from __future__ import annotations

import gc
import os
from typing import Final

import pytest
from plans import make
from simulator import simulate, told

SCHEDULES: Final = int(os.environ.get("RUNCREW_SCHEDULES", "2500")) // 5
EACH: Final = 100


@pytest.mark.parametrize("first", range(0, SCHEDULES, EACH))
def test_no_schedule_with_threads_breaks_a_law(first: int) -> None:
    """A thread that sleeps, heeds its stop, is slow to, or does not, changes none of the promises."""
    for seed in range(first, min(first + EACH, SCHEDULES)):
        result = simulate(seed, make(seed, threads=True))
        assert () == result.wrongs, told(result)
    gc.collect()
