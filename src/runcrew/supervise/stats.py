"""What a supervisor tells of itself: an immutable snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runcrew.lifecycle import State


@dataclass(frozen=True, slots=True)
class SupervisorStats:
    """A snapshot of a supervisor. `restarts` counts by child; `children` holds the stats of those that give any."""

    name: str
    state: State
    generation: int
    restarts: Mapping[str, int]
    children: Mapping[str, Any]
    error: BaseException | None
