"""Time, and chance: the only module of the library that reads either from the system.

Instants are float seconds since the epoch, on one clock: the wall time at the first use plus the
monotonic time since. So instants can be compared and subtracted, and a span is never negative.
They are shown to people as aware UTC datetimes.

Which clock is in force travels in a context variable, so that a virtual clock (see `runcrew.testing`)
reaches every task and every thread of a test without being passed around.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial


class Clock:
    """Real time. Subclass it to make time another thing; `runcrew.testing` does."""

    def __init__(self, seed: int | None = None) -> None:
        self._anchor = time.time() - time.monotonic()
        #: Where jitter comes from. A virtual clock seeds it, so that a test can be repeated exactly.
        self.random = random.Random(seed)  # noqa: S311 - jitter, not cryptography

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward; the scale of `asyncio`'s `loop.time()`."""
        return time.monotonic()

    def now(self) -> float:
        """This instant, in seconds since the epoch. Never goes back within one process."""
        return self._anchor + self.monotonic()

    def reader(self) -> Callable[[], float]:
        """`now`, in the cheapest form there is: for those who read the time for each of many runs."""
        if type(self) is not Clock:
            return self.now
        anchor, monotonic = self._anchor, time.monotonic
        return lambda: anchor + monotonic()

    def ticker(self) -> Callable[[], float]:
        """`monotonic`, in the cheapest form there is."""
        return time.monotonic if type(self) is Clock else self.monotonic

    async def sleep(self, span: float) -> None:
        """Let `span` seconds pass on the running event loop. Cancelling ends it at once."""
        await asyncio.sleep(span)

    def block(self, span: float | None, until: threading.Event | None = None) -> bool:
        """Let `span` seconds pass in a plain thread, or for ever with None.

        Returns True as soon as `until` is set, False when the time is up.
        """
        if until is None:
            until = threading.Event()
        return until.wait(span)


SYSTEM = Clock()
_current: ContextVar[Clock] = ContextVar("runcrew_clock", default=SYSTEM)

#: The clock in force here: the system's, unless a test has put another in its place.
current = _current.get
use = _current.set


def cpu_clock() -> Callable[[], float]:
    """A clock of the processor time, in seconds, that the calling thread has used; it can be read in any thread.

    Where the system does not tell it apart, the time that the whole process has used. Reading it after the
    thread has ended may raise OSError.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time
    return partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))


def utc(instant: float) -> datetime:
    """An instant (seconds since the epoch) as an aware datetime in UTC."""
    return datetime.fromtimestamp(instant, UTC)
