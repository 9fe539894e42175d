"""Random schedules of a pool on virtual time: whatever is called, raised, cancelled or broken, the laws hold."""

from __future__ import annotations

import gc
import os
from typing import Final

import pytest
from pool_plans import make
from pool_simulator import simulate, told

#: How many schedules, and how many in one test. RUNCREW_SCHEDULES asks for more, RUNCREW_FIRST for others.
SCHEDULES: Final = int(os.environ.get("RUNCREW_SCHEDULES", "600"))
THREADED: Final = SCHEDULES // 6
FIRST: Final = int(os.environ.get("RUNCREW_FIRST", "0"))
EACH: Final = 100


@pytest.mark.parametrize("first", range(FIRST, FIRST + SCHEDULES, EACH))
def test_no_schedule_breaks_a_law(first: int) -> None:
    """Jobs, resources and callers that do as they like change none of the promises that a pool makes."""
    for seed in range(first, min(first + EACH, FIRST + SCHEDULES)):
        result = simulate(seed)
        assert () == result.wrongs, told(result)
    gc.collect()  # an error that nobody heard is told when its task is collected; the fixture looks for that


@pytest.mark.parametrize("first", range(FIRST, FIRST + THREADED, EACH))
def test_no_schedule_with_threads_breaks_a_law(first: int) -> None:
    """Neither do plain jobs and resources, which live in the thread of their worker."""
    for seed in range(first, min(first + EACH, FIRST + THREADED)):
        result = simulate(seed, make(seed, threads=True))
        assert () == result.wrongs, told(result, threads=True)
    gc.collect()


@pytest.mark.parametrize("first", [0, 20, 40])
def test_a_seed_gives_one_trace(first: int) -> None:
    """Two runs of one seed do the same things, in the same order, at the same instants."""
    kept: list[object] = []
    for seed in range(first, first + 20):
        if make(seed).end == "teardown":
            continue  # asyncio cancels all tasks in the order of a set
        once = simulate(seed)
        kept.append(bytearray(4096 + seed))  # so that objects lie elsewhere the second time
        assert once.trace == simulate(seed).trace


def test_seeds_differ() -> None:
    """Each seed is another schedule."""
    traces = [simulate(seed).hash for seed in range(30)]
    assert len(traces) == len(dict.fromkeys(traces))
