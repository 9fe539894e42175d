"""Retry state that outlives a run: kept for a supervised service over its restarts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class MemoryAttempts:
    """Keeps retry state in this process: an AttemptStore. As many entries as there are keys, no more."""

    def __init__(self) -> None:
        self._kept: dict[str, Mapping[str, int]] = {}

    def load(self, key: str, /) -> Mapping[str, int] | None:
        """What was saved under `key`, or None."""
        return self._kept.get(key)

    def save(self, key: str, state: Mapping[str, int], /) -> None:
        """Keep a copy of `state` under `key`, in place of what was there."""
        self._kept[key] = MappingProxyType(dict(state))

    def clear(self, key: str, /) -> None:
        """Forget what is kept under `key`; nothing happens where there is nothing."""
        self._kept.pop(key, None)
