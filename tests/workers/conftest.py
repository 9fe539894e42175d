"""What these tests make their groups with stands in `fake_door.py`, beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_door import ARROWS, Arrows


@pytest.fixture(autouse=True)
def arrows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arrows]:
    """Every change of a worker's state in this test. None may be one that the drawing does not have."""
    seen = Arrows()
    monkeypatch.setattr("runcrew.workers.worker.Worker.state", seen.watched())
    yield seen
    assert {} == {arrow: who for arrow, who in seen.seen.items() if arrow not in ARROWS}
