"""Dedupe: a run whose twin is under way is skipped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

from runcrew import clock
from runcrew.abc import Handler
from runcrew.errors import ConfigError
from runcrew.job import Outcome, Run, Status
from runcrew.policies.guard import check_plain, guarded, log, named


class Dedupe:
    """While a run is under way, from acceptance to its end, another with the same key is skipped.

    Runs of different jobs have keys of their own, unless a `key` function is given: then all jobs that
    have this Dedupe, or one with the same name, share theirs.
    """

    __slots__ = ("_key", "_live")

    def __init__(self, key: Callable[..., Hashable] | None = None, name: str | None = None) -> None:
        """
        key: a plain function of the job's arguments. Without one, the key is the job and its arguments.
            Where it raises, or gives what has no hash, that is logged and counted in `errors`, and the
            run goes on.
        name: the same name means the same keys under way, everywhere in the process.

        Raises ConfigError for a key that is no plain function.
        """
        if key is not None:
            check_plain(key, "Dedupe(key=…)", "the job's arguments")
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"Dedupe: the name {name!r} is no string")
        self._key = key
        self._live = _Live(name) if name is None else _shared(name)

    @property
    def name(self) -> str | None:
        """Under which name it is shared."""
        return self._live.name

    @property
    def in_flight(self) -> tuple[Any, ...]:
        """The keys that are under way, oldest first."""
        return tuple(key.value for key in tuple(self._live.keys))

    @property
    def skipped(self) -> int:
        """How many runs were skipped."""
        return self._live.skipped

    @property
    def errors(self) -> int:
        """How many runs went on although they had no usable key."""
        return self._live.errors

    def __str__(self) -> str:
        by = "arguments" if self._key is None else named(self._key)
        return f"dedupe by {by}" + ("" if self.name is None else f" ({self.name})")

    def __repr__(self) -> str:
        return f"<{self}: {len(self._live.keys)} under way>"

    def claim(self, run: Run) -> Claim | str:
        """Claim the run's key: what to release when the run has ended. A string, the reason, where a twin has it."""
        live = self._live
        key: _Key | None = guarded(f"the dedupe key of {run.job.name}", None, self._make, run)
        if key is None:
            live.count(errors=1)
            return Claim(live, None)
        if live.keys.setdefault(key, run) is run:
            return Claim(live, key)
        live.count(skipped=1)
        return f"another run with the key {self._shown(run, key)} is under way"

    def _make(self, run: Run) -> _Key:
        if self._key is not None:
            return _Key(self._key(*run.args, **run.kwargs))
        return _Key((run.job.fn, run.args, frozenset(run.kwargs.items())))

    def _shown(self, run: Run, key: _Key) -> str:
        if self._key is not None:
            return _brief(key.value)
        given = [*map(_brief, run.args), *(f"{name}={_brief(value)}" for name, value in run.kwargs.items())]
        return f"{run.job.name}({', '.join(given)})"


class Claim:
    """A key that is under way; none where the run had no usable one."""

    __slots__ = ("_key", "_live")

    def __init__(self, live: _Live, key: _Key | None) -> None:
        self._live = live
        self._key = key

    def release(self) -> None:
        """Its run has ended."""
        if self._key is not None:
            self._live.keys.pop(self._key, None)


def once(inner: Handler, dedupe: Dedupe) -> Handler:
    """Wrap a handler so that a run whose twin is under way is skipped."""

    async def handle(run: Run) -> Outcome[Any]:
        claim = dedupe.claim(run)
        if isinstance(claim, str):
            return run.finished(Status.SKIPPED, clock.current().now(), reason=claim)
        try:
            return await inner(run)
        finally:
            claim.release()

    return handle


class _Key:
    """A user's key whose hash is asked once, and whose equality does no harm when it raises."""

    __slots__ = ("_hash", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._hash = hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key):
            return NotImplemented
        if self.value is other.value:
            return True
        return guarded("the equality of a dedupe key", False, lambda: bool(self.value == other.value)) is True


class _Live:
    """What is under way. One dict operation claims a key, so that of two threads one wins."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.keys: dict[_Key, Run] = {}
        self.skipped = 0
        self.errors = 0
        self._counting = threading.Lock()

    def count(self, *, skipped: int = 0, errors: int = 0) -> None:
        """Count in, from any thread."""
        with self._counting:
            self.skipped += skipped
            self.errors += errors


_named: WeakValueDictionary[str, _Live] = WeakValueDictionary()
_naming = threading.Lock()


def _shared(name: str) -> _Live:
    with _naming:
        live = _named.get(name)
        if live is None:
            live = _named[name] = _Live(name)
        return live


def _brief(value: object) -> str:
    try:
        return f"{value!r:.100}"
    except Exception:
        log.exception("the text of a dedupe key failed")
        return f"<{type(value).__name__}>"
