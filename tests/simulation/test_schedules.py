"""Random schedules on virtual time: whatever is called, raised or cancelled at whatever moment, the laws hold."""

from __future__ import annotations

import gc
import os
from typing import Final

import pytest
from simulator import simulate, told

#: How many schedules, and how many in one test. RUNCREW_SCHEDULES asks for more, RUNCREW_FIRST for others.
SCHEDULES: Final = int(os.environ.get("RUNCREW_SCHEDULES", "2500"))
FIRST: Final = int(os.environ.get("RUNCREW_FIRST", "0"))
EACH: Final = 200


@pytest.mark.parametrize("first", range(FIRST, FIRST + SCHEDULES, EACH))
def test_no_schedule_breaks_a_law(first: int) -> None:
    """Trees of services, with jobs that do as they like, keep every promise under any mix of calls."""
    for seed in range(first, min(first + EACH, FIRST + SCHEDULES)):
        result = simulate(seed)
        assert () == result.wrongs, told(result)
    gc.collect()  # an error that nobody heard is told when its task is collected; the fixture looks for that
