"""Which of several ready things goes first: as they came, or as a seed has it.

Only what asyncio leaves open is permuted: the steps and wake-ups of tasks, the done callbacks of futures,
and timers that are due at the very same time. A plain `call_soon` keeps its place, and so do the done
callbacks of one future among themselves: the transports and sockets of asyncio rely on both.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any


class Timer(asyncio.TimerHandle):
    """A timer that knows who comes first among those that are due at the same time."""

    __slots__ = ("tie",)
    tie: float
    _when: float

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        if isinstance(other, Timer) and self._when == other._when:
            return self.tie < other.tie
        return super().__lt__(other)


def shuffle(ready: deque[asyncio.Handle], chance: random.Random) -> None:
    """Permute what may be permuted among the ready handles.

    Other threads may append to `ready` meanwhile, so nothing is ever taken out of it.
    """
    handles = tuple(ready)
    places: list[int] = []
    groups: dict[int, deque[asyncio.Handle]] = {}
    keys: list[int] = []
    for place, handle in enumerate(handles):
        key = _group(handle)
        if key is not None:
            places.append(place)
            keys.append(key)
            groups.setdefault(key, deque()).append(handle)
    if len(groups) < 2:
        return
    chance.shuffle(keys)
    for place, key in zip(places, keys, strict=True):
        ready[place] = groups[key].popleft()


def _group(handle: Any) -> int | None:
    """Handles of one group keep their order among themselves; None: this one stays where it is."""
    args = handle._args
    if args is None:  # cancelled
        return None
    if len(args) == 1 and asyncio.isfuture(args[0]):  # a done callback, which a wake-up is too
        return id(args[0])
    callback = handle._callback
    if type(callback).__name__ == "TaskStepMethWrapper":  # a step of asyncio's own tasks, written in C
        return id(handle)
    # A step of a task written in Python; any other bound method of a task, as its cancel(), is not one.
    return id(handle) if getattr(callback, "__name__", "").endswith("__step") else None
