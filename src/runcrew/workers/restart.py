"""Whether to restart what failed, and when: pure, asked with the time of the failure.

Failures are counted on a scale that decays: each one adds 1, and `limit` of them drain away per `period`,
steadily, as long as it runs. So `limit` failures may come in a burst, and no more than `limit` per `period`
of running in the long run; one more, and it is given up. The pause before a restart is no time in which
anything proves good, so it drains nothing: what fails at once for ever is given up after `limit` restarts,
however long the pauses are. The same count says how far the backoff has grown: after good times it starts
from the beginning again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from runcrew.durations import Duration, seconds, text
from runcrew.errors import ConfigError
from runcrew.policies import Backoff, Exponential


class Intensity:
    """How many failures are borne: `limit` within `period` of running (default 5 in 60 s). 0 bears none."""

    __slots__ = ("limit", "period")

    def __init__(self, limit: int = 5, period: Duration = "60s") -> None:
        """Raises ConfigError where limit is not a whole number of at least 0, or period not above zero."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ConfigError(f"limit: {limit!r} is not a number of restarts: give 0 or more")
        self.limit = limit
        self.period = seconds(period, "period", zero=False)

    def __repr__(self) -> str:
        return f"Intensity({self.limit}, {text(self.period)!r})"


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again after `delay` seconds."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not start it again. `error`: the backoff could not say how long to wait."""

    reason: str
    error: ConfigError | None = None


#: The backoff between restarts where none is given: a second at first, half a minute at most, with jitter.
DEFAULT_BACKOFF: Backoff = Exponential("1s", cap="30s", factor=2, jitter="equal")


#: What is never given up is counted up to so many times the limit.
ENDLESS: Final = 4


class Restarts:
    """The count of one child's failures, and what follows from it."""

    __slots__ = ("_at_once", "_backoff", "_count", "_endless", "_intensity", "_since", "total")

    def __init__(self, intensity: Intensity | None, backoff: Backoff, at_once: int = 0) -> None:
        """intensity: None: it is never given up, only ever more slowly restarted.
        at_once: so many failures are followed by a restart without a pause, while the count is at its beginning.
        """
        self._endless = intensity is None
        self._intensity = intensity or Intensity()
        self._backoff = backoff
        self._at_once = at_once
        self._count = 0.0
        #: From when on the count drains.
        self._since = 0.0
        #: Restarts decided on so far.
        self.total = 0

    def failed(self, now: float) -> Restart | GiveUp:
        """Decide about a failure at `now`, in seconds on any clock that only goes forward."""
        limit, period = self._intensity.limit, self._intensity.period
        drained = max(0.0, now - self._since) * limit / period
        before = max(0.0, self._count - drained)
        self._count, self._since = before + 1, now
        within = f"{limit} in {text(period)}"
        if self._endless:
            self._count = min(self._count, ENDLESS * max(1, limit))  # so that what is good again is soon trusted again
        elif self._count > limit:
            return GiveUp(f"it has failed more often than is borne: {within}")
        n = math.ceil(before - 1e-9) - self._at_once
        try:
            delay = self._backoff.delay(n) if n >= 0 else 0.0
        except ConfigError as error:
            return GiveUp(str(error), error)
        self._since += delay
        self.total += 1
        return Restart(delay, f"failure {self._count:.3g} of {within}")
