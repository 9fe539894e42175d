"""The same seed is the same schedule: in one process, in another, and on another version of Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plans import make
from simulator import simulate

HERE = Path(__file__).parent


@pytest.mark.parametrize("first", [0, 20, 40])
def test_a_seed_gives_one_trace(first: int) -> None:
    """Two runs of one seed do the same things, in the same order, at the same instants."""
    kept: list[object] = []
    for seed in range(first, first + 20):
        once = simulate(seed)
        kept.append(bytearray(4096 + seed))  # so that objects lie elsewhere the second time
        again = simulate(seed)
        assert once.trace == again.trace
        assert once.hash == again.hash


def test_seeds_differ() -> None:
    """Each seed is another schedule."""
    traces = [simulate(seed).hash for seed in range(30)]
    assert len(traces) == len(dict.fromkeys(traces))
    assert make(1) != make(2)


@pytest.mark.realtime
def test_a_seed_gives_one_trace_in_every_process() -> None:
    """Neither the hashes of strings nor the addresses of objects change what happens."""
    told = []
    for number in (1, 77):
        done = subprocess.run(
            [sys.executable, str(HERE / "simulator.py"), "--hashes", "0", "12"],
            env={**os.environ, "PYTHONHASHSEED": str(number), "MALLOC_PERTURB_": str(number)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        told.append(done.stdout.split())
    assert 12 == len(told[0])
    assert told[0] == told[1]
    assert [simulate(seed).hash for seed in range(12)] == told[0]
