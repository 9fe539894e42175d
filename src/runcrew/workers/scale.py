"""How many workers there should be for the load that there is: pure, told of the load and the time.

Fast up, slow down. A queue grows where somebody has waited for too long: to what the rates of arrivals and ends and
the backlog ask for. A pool, of which nobody knows what waits, grows where its workers have hardly a pause. Both
shrink when the most of what was at work during `hold` would fit on fewer.

Rates are averages that forget: what was an hour ago has no weight, so a long quiet time does not dull them. They
count what ends, however it ends. And growing and shrinking do not meet: a load that makes the group grow to n keeps
n workers busy enough for them not to go again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from runcrew.durations import Duration, seconds, text
from runcrew.errors import ConfigError

#: The shortest time between two looks, in seconds: a look is cheap, but not free.
SHORTEST: Final = 0.01
#: Workers that are at work for more of their time than that leave nothing for the moments when more comes.
HIGHEST: Final = 0.95
#: Less time than that has not passed.
_INSTANT: Final = 1e-6
#: The most of the time of `hold` is kept for so many parts of it.
_PARTS: Final = 32
#: So many times `hold` it is remembered that going had been a mistake; and the load has changed if it is this share.
_MEMORY: Final = 20
_LESS: Final = 0.5


class Scale:
    """How a group is scaled: how soon it grows, how late it shrinks. Immutable; any number of groups may share one.

    rc.Queue("db", resource=connect, workers=2, max_workers=16, scale=rc.Scale(wait="500ms"))
    """

    __slots__ = ("cooldown", "every", "hold", "utilisation", "wait", "window")

    every: float
    window: float
    wait: float
    utilisation: float
    hold: float
    cooldown: float

    def __init__(
        self,
        every: Duration = "1s",
        *,
        window: Duration = "10s",
        wait: Duration = "1s",
        utilisation: float = 0.75,
        hold: Duration = "1m",
        cooldown: Duration = "10s",
    ) -> None:
        """All but `utilisation` are spans of time.

        every: how often it is looked at, at least 10 ms; each pause is up to a quarter longer or shorter, so that
            the looks do not fall into step with a load that comes and goes.
        window: how far back the averages reach: what happened so long ago has about a third of its weight left. It
            is also the time in which a backlog is to be gone.
        wait: a ticket that has waited for so long asks for workers. 0: whichever waits does. A pool has no tickets:
            its workers have to be busy for so long.
        utilisation: the share of their time that workers are meant to be at work, above 0, at most 0.95. The rest
            is for the moments in which more comes than on average.
        hold: for so long the load must have been low before workers go; the most of that time counts.
        cooldown: so long after workers went, at least, the next ones go.

        Raises ConfigError for whatever of these makes no sense.
        """
        put = object.__setattr__
        put(self, "every", seconds(every, "every"))
        if self.every < SHORTEST:
            raise ConfigError(f"every: {every!r} is too short: give {text(SHORTEST)} or more")
        put(self, "window", seconds(window, "window", zero=False))
        put(self, "wait", seconds(wait, "wait"))
        put(self, "utilisation", _share(utilisation))
        put(self, "hold", seconds(hold, "hold"))
        put(self, "cooldown", seconds(cooldown, "cooldown"))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Scale does not change: make another one (tried to set {name})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Scale does not change: make another one (tried to delete {name})")

    def _values(self) -> tuple[float, ...]:
        return self.every, self.window, self.wait, self.utilisation, self.hold, self.cooldown

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Scale) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __copy__(self) -> Scale:
        return self

    def __deepcopy__(self, memo: object) -> Scale:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _scale, self._values()

    def __repr__(self) -> str:
        spans = ", ".join(f"{name}={text(getattr(self, name))!r}" for name in ("window", "wait", "hold", "cooldown"))
        return f"Scale({text(self.every)!r}, {spans}, utilisation={self.utilisation:g})"


def _scale(every: float, window: float, wait: float, utilisation: float, hold: float, cooldown: float) -> Scale:
    return Scale(every, window=window, wait=wait, utilisation=utilisation, hold=hold, cooldown=cooldown)


def _share(given: Any) -> float:
    known = isinstance(given, float | int) and not isinstance(given, bool)
    if not known or not 0 < given <= HIGHEST:
        raise ConfigError(
            f"utilisation: {given!r} is no share of their time that workers can be meant to be at work: give more "
            f"than 0 and at most {HIGHEST}, since with no time to spare every short rush becomes a backlog"
        )
    return float(given)


class Load(NamedTuple):
    """What a group has to do, at one moment."""

    #: In loop time.
    at: float
    #: How many workers there should be.
    workers: int
    #: How many were at work: on average since the last look, or now.
    busy: float
    #: How many runs have ended so far, however they did.
    ended: int
    #: How many have been accepted so far, and how many wait for a worker; None: nobody knows.
    arrived: int | None = None
    waiting: int | None = None
    #: For how many seconds the one has waited that has waited longest.
    age: float = 0.0
    #: How many of the workers there should be are not there yet.
    coming: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision was made from."""

    #: Runs that were accepted, and that ended, in a second: averages. None: nobody knows.
    arrival: float | None
    completion: float
    #: How many workers were at work, on average; and which share of all that was since there were so many.
    busy: float
    utilisation: float
    #: How many runs waited, and for how many seconds the one that had waited longest.
    waiting: int | None
    age: float
    #: The most that was at work during `hold`, of these averages.
    demand: float


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers there should be from here on, and why."""

    #: In seconds since the epoch.
    at: float
    before: int
    after: int
    reason: str
    inputs: Inputs

    def __str__(self) -> str:
        return f"{self.before} -> {self.after} workers: {self.reason}"


class Scaling:
    """The decisions about one group, one after the other."""

    def __init__(self, scale: Scale, least: int, most: int | None) -> None:
        """least, most: never fewer, never more, unless somebody resizes it by hand. most: None: no limit.

        `least` is one at least: only by hand a group is paused, and only by hand it goes on.
        """
        self._scale = scale
        self._least = max(1, least)
        self._most = math.inf if most is None else most
        #: A pool grows from this utilisation on: halfway between what is meant and all there is.
        self._full = (1 + scale.utilisation) / 2
        self._last: Load | None = None
        self._workers = 0
        #: Since when there are so many workers; and before when nobody goes, all in loop time.
        self._since = self._not_before = 0.0
        self._arrival, self._completion, self._busy = Average(), Average(), Average()
        #: How many were at work since the number of workers has changed.
        self._fresh = Average()
        #: When a run ended since then; None: none has.
        self._ended: float | None = None
        #: Since when all looks have found the workers without a pause, and how many runs had ended then.
        self._full_since: tuple[float, int] | None = None
        self._peak = Peak(scale.hold)
        #: When workers went; None: none have.
        self._went: float | None = None
        self._too_few: TooFew | None = None

    def decide(self, load: Load) -> Decision:
        """What follows from this load. `at` is the load's own time: who has a clock puts the instant there."""
        sound = math.isfinite(load.at) and math.isfinite(load.busy) and math.isfinite(load.age)
        if not sound:
            after, reason = load.workers, "what was measured is no number"
        elif not self._note(load):
            after, reason = load.workers, "it has not been watched for long enough"
        elif not load.workers:
            after, reason = 0, "it is paused"
        else:
            after, reason = self._grown(load) or self._shrunk(load) or (load.workers, "nothing asks for a change")
        decision = Decision(load.at, load.workers, after, reason, self._inputs(load, sound))
        if after > load.workers:
            self._learn(load)
            self._changed(after, load.at, max(self._scale.hold, self._scale.cooldown))
        elif after < load.workers:
            self._went = load.at
            self._changed(after, load.at, self._scale.cooldown)
        return decision

    # --- what is known ------------------------------------------------------------------

    def _note(self, load: Load) -> bool:
        """Take it into the averages. False: nothing can be said yet."""
        last = self._last
        if last is None or load.workers != self._workers:
            # Somebody has said by hand how many: that is to last for as long as a load does.
            self._changed(load.workers, load.at, max(self._scale.hold, self._scale.cooldown))
        elif load.at - last.at >= _INSTANT:
            self._fresh.add(max(0.0, load.busy), self._weight(load.at - last.at))
            if load.ended > last.ended:
                self._ended = load.at
            if load.busy < self._full * load.workers:
                self._full_since = None
            elif self._full_since is None:
                self._full_since = last.at, last.ended
        if last is None or not load.at - last.at >= _INSTANT:
            self._last = load if last is None else last
            return False
        self._last = load
        span = load.at - last.at
        weight = self._weight(span)
        # A counter that went back has begun anew.
        self._completion.add(max(0, load.ended - last.ended) / span, weight)
        if load.arrived is not None and last.arrived is not None:
            self._arrival.add(max(0, load.arrived - last.arrived) / span, weight)
        self._busy.add(max(0.0, load.busy), weight)
        self._peak.add(load.at, self._busy.value)
        return True

    def _weight(self, span: float) -> float:
        return -math.expm1(-span / self._scale.window)

    def _changed(self, workers: int, at: float, rest: float) -> None:
        self._workers = workers
        self._since, self._not_before = at, at + rest
        self._fresh = Average()
        self._ended = self._full_since = None

    def _inputs(self, load: Load, sound: bool) -> Inputs:
        arrival = None if load.arrived is None else self._arrival.value
        utilisation = self._fresh.value / load.workers if load.workers else 0.0
        age = load.age if sound else 0.0
        return Inputs(
            arrival, self._completion.value, self._busy.value, utilisation, load.waiting, age, self._peak.value
        )

    # --- more ---------------------------------------------------------------------------

    def _grown(self, load: Load) -> tuple[int, str] | None:
        found = self._by_utilisation(load) if load.waiting is None else self._by_waiting(load, load.waiting)
        if found is None:
            return None
        want, reason = found
        after = int(min(max(min(want, 2 * load.workers), self._least), self._most))
        return (after, reason) if after > load.workers else None

    def _by_waiting(self, load: Load, waiting: int) -> tuple[int, str] | None:
        """One in the queue has waited for too long: what the rates and the backlog ask for, in all."""
        scale, workers = self._scale, load.workers
        new = waiting - load.coming
        if new <= 0 or load.age < scale.wait:
            return None
        why = f"{waiting} wait, one of them for {text(load.age)}"
        # Those that come count as there: a total is asked for, not so many in addition.
        more = workers if load.coming else workers + 1
        each = self._each()
        if each is None:
            return more, f"{why}, and too few have ended to tell how fast a worker is"
        arrival = self._arrival.value
        want = _ceil((arrival / scale.utilisation + waiting / scale.window) / each)
        rates = f"{why}; {arrival:.3g} come in a second, and a busy worker ends {each:.3g}"
        return min(max(want, more), workers + new), rates

    def _each(self) -> float | None:
        """How many runs a busy worker ends in a second. None: nobody knows."""
        busy, completion = self._busy.value, self._completion.value
        # What ended long ago says nothing of what is at work now: one has to have ended within the window.
        if busy <= 0 or completion * self._scale.window < 1:
            return None
        each = completion / busy
        return each if 0 < each < math.inf else None

    def _by_utilisation(self, load: Load) -> tuple[int, str] | None:
        """The workers of a pool have hardly a pause. But one single run that goes on for ever is no load."""
        scale, workers = self._scale, load.workers
        if load.at - self._since < scale.wait or self._ended is None or load.at - self._ended > scale.hold:
            return None
        # Only since there are so many workers: an average over fewer and more of them would lag behind.
        busy = self._fresh.value
        if self._is_full(load):
            busy = max(busy, load.busy)  # after a quiet time, the average would be slow to see that
        elif load.at - self._since < scale.window / 2:
            return None  # an average over a look or two says little
        if busy < self._full * workers:
            return None
        want = max(_ceil(busy / scale.utilisation), workers + 1)
        return want, f"workers are at work for {min(1.0, busy / workers):.0%} of their time"

    def _is_full(self, load: Load) -> bool:
        """Whether the workers have had no pause for some time, in which one run came after another."""
        if self._full_since is None:
            return False
        since, ended = self._full_since
        return load.at - since >= 2 * self._scale.wait and load.ended - ended >= 2

    # --- fewer --------------------------------------------------------------------------

    def _learn(self, load: Load) -> None:
        """More are to come: if some went not long ago, that was a mistake, for this load.

        On average there are enough, but the load is a matter of chance, and with so few somebody waits for too long
        every now and then. Without this the same workers would go and come for ever.
        """
        memory = _MEMORY * self._scale.hold
        if self._went is not None and load.at - self._went < memory:
            self._too_few = TooFew(load.workers, self._peak.value, load.at + memory)

    def _enough(self, at: float, peak: float) -> int:
        """How few would do, as far as is known."""
        enough = max(self._least, _ceil(peak / self._scale.utilisation))
        known = self._too_few
        if known is not None and at < known.until and peak > _LESS * known.demand:
            enough = max(enough, known.workers + 1)
        return enough

    def _shrunk(self, load: Load) -> tuple[int, str] | None:
        """What was at work during `hold` would fit on fewer: half of those that are too many go."""
        scale, workers = self._scale, load.workers
        if load.at < self._not_before or (load.waiting and load.age >= scale.wait):
            return None
        peak = self._peak.value
        # What is at work right now counts as well: the average is slow to see that a lull is over.
        surplus = workers - self._enough(load.at, max(peak, load.busy))
        if surplus <= 0:
            return None
        after = int(min(workers - max(1, surplus // 2), self._most))
        return after, f"no more than {peak:.3g} were at work within {text(scale.hold)}"


class TooFew(NamedTuple):
    """What has been learnt: so few workers do not do where that many are at work at most, in doubt until then."""

    workers: int
    demand: float
    until: float


class Average:
    """An average that forgets. What it has seen has all of the weight, so that it does not begin at zero."""

    __slots__ = ("_mass", "_sum")

    def __init__(self) -> None:
        self._mass = self._sum = 0.0

    def add(self, value: float, weight: float) -> None:
        """weight: from 0 to 1, which share of what it knew it forgets for this."""
        self._mass += weight * (1 - self._mass)
        self._sum += weight * (value - self._sum)

    @property
    def value(self) -> float:
        """0 where it has seen nothing."""
        return self._sum / self._mass if self._mass > 0 else 0.0


class Peak:
    """The largest value of the last `span` seconds, and up to a part in 32 of that before."""

    __slots__ = ("_part", "_parts")

    def __init__(self, span: float) -> None:
        self._part = span / _PARTS
        #: By number of the part of time, the earliest first.
        self._parts: dict[int, float] = {}

    def add(self, at: float, value: float) -> None:
        """This is the value from here on."""
        key = math.floor(at / self._part) if self._part > 0 else 0
        if not self._part:
            self._parts.clear()
        self._parts = {k: v for k, v in self._parts.items() if k >= key - _PARTS}
        self._parts[key] = max(value, self._parts.get(key, value))

    @property
    def value(self) -> float:
        """0 where there is none."""
        return max(self._parts.values(), default=0.0)


def _ceil(number: float) -> int:
    """The next whole number, where it is not a whole one but for rounding."""
    return math.ceil(min(number, 1e15) * (1 - 1e-9))
