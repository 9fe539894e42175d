"""The virtual clock: the loop's time, shown as wall time too, and chance from a seed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from runcrew.clock import Clock
from runcrew.errors import ConfigError
from runcrew.testing.loop import VirtualLoop

#: When virtual time begins, unless a test says otherwise: a Wednesday at midnight, far from any change of clocks.
START: Final = datetime(2025, 1, 1, tzinfo=UTC)


class VirtualClock(Clock):
    """Time as a virtual loop has it. `run_virtual` and the `virtual` marker put one in force.

    loop: whose time it shows.
    start: the wall time at the loop's time 0, an aware datetime or seconds since the epoch. None: `START`.
    seed: of `random`. None means 0: chance on a virtual clock is always repeatable.

    Raises ConfigError for a naive datetime, or what is no point in time.
    """

    def __init__(self, loop: VirtualLoop, start: datetime | float | None = None, seed: int | None = None) -> None:
        super().__init__(0 if seed is None else seed)
        self._loop = loop
        self._start = _instant(START if start is None else start)

    def monotonic(self) -> float:
        """The loop's time: virtual seconds since it was made."""
        return self._loop.time()

    def now(self) -> float:
        """This virtual instant, in seconds since the epoch."""
        return self._start + self._loop.time()

    def block(self, span: float | None, until: threading.Event | None = None) -> bool:
        """Let `span` virtual seconds pass in a thread, or for ever with None.

        Returns True as soon as `until` is set, also where the loop sets it at a virtual instant, and no time
        passes before the thread has gone on; False when the time is up. While the thread waits here, it does
        not keep time from passing, as it does otherwise.

        Raises RuntimeError on the event loop's own thread, which would stop time for ever, and in a thread
        whose loop ends meanwhile.
        """
        if until is not None and until.is_set():
            return True
        if span is not None and span <= 0:
            return False
        return self._loop.wait_in_thread(span, until)

    def runcrew_hold(self, what: str) -> None:
        """Keep time from passing until `runcrew_release` of the same name, as the loop's `hold`. From any thread.

        A thread that is itself in flight may so hold time for another one that it starts, and then `block` until
        that one has set an event: no time passes in between.
        """
        self._from_anywhere(self._loop.hold, what)

    def runcrew_release(self, what: str) -> None:
        """Take one hold of that name back. From any thread; after the end of the loop nothing happens."""
        self._from_anywhere(self._loop.release, what)

    def _from_anywhere(self, call: Callable[[str], None], what: str) -> None:
        if self._loop.runs_here():
            call(what)
            return
        try:
            self._loop.call_soon_threadsafe(call, what)
        except RuntimeError:  # the loop is closed: no time will ever pass again
            pass


def _instant(start: object) -> float:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ConfigError(f"start: {start!r} has no time zone: give it one, as tzinfo=UTC")
        return start.timestamp()
    if isinstance(start, bool) or not isinstance(start, int | float) or not math.isfinite(start):
        raise ConfigError(
            f"start: {start!r} is not a point in time: give an aware datetime, or seconds since the epoch"
        )
    return float(start)
