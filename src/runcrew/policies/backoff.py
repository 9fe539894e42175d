"""How long to wait before the next attempt: pure functions of how often it has failed, and of chance."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from runcrew import clock
from runcrew.abc import Backoff as Backoff
from runcrew.durations import LONGEST, Duration, optional, seconds, text
from runcrew.errors import ConfigError, brief
from runcrew.policies.guard import check_plain, named

Jitter: TypeAlias = Literal["none", "full", "equal", "decorrelated"]

_JITTERS: Final = get_args(Jitter)


class _Waits:
    """What the backoffs of the library share."""

    __slots__ = ()

    def delay(self, n: int, previous: float | None = None) -> float:
        """Seconds to wait after failure number `n`, counted from 0. Finite, never negative."""
        raise NotImplementedError

    async def wait(self, n: int) -> None:
        """Let the delay after failure number `n` pass. Cancelling ends it at once."""
        await clock.current().sleep(self.delay(n))


@dataclass(frozen=True, slots=True, init=False)
class Exponential(_Waits):
    """`initial * factor**n` seconds, at most `cap`, spread by jitter.

    jitter: "none"; "full", anywhere from 0 to the delay; "equal", from half of the delay to all of it;
    "decorrelated", anywhere from `initial` to three times the wait before, which spreads a crowd widest.
    """

    initial: float
    cap: float | None
    factor: float
    jitter: Jitter

    def __init__(
        self, initial: Duration = "1s", *, cap: Duration | None = None, factor: float = 2.0, jitter: Jitter = "full"
    ) -> None:
        """Raises ConfigError for spans that make no sense (zero among them), a factor that is not above 0,
        a cap below the first delay, an unknown jitter. Without a cap, a delay ends at a year.
        """
        first = seconds(initial, "initial", zero=False)
        most = optional(cap, "cap")
        growth = _factor(factor)
        if most is not None and most < first:
            raise ConfigError(f"cap: {cap!r} is below the first delay ({text(first)}): raise it, or lower initial")
        object.__setattr__(self, "initial", first)
        object.__setattr__(self, "cap", most)
        object.__setattr__(self, "factor", growth)
        object.__setattr__(self, "jitter", _jitter(jitter, _JITTERS))

    def delay(self, n: int, previous: float | None = None) -> float:
        """Seconds to wait after failure number `n`, counted from 0. Finite, never negative, at most `cap`.

        previous: the wait before this one, of which decorrelated jitter makes the next; None where it is
        not known, and then it is taken to have been the one without jitter.
        """
        most = LONGEST if self.cap is None else self.cap
        if self.jitter != "decorrelated":
            return _spread(min(self._plain(n), most), self.jitter)
        if previous is None:
            previous = min(self._plain(n - 1), most) if n else self.initial
        return min(clock.current().random.uniform(self.initial, max(self.initial, previous * 3)), most)

    def _plain(self, n: int) -> float:
        if n < 0:
            raise ConfigError(f"n: {n!r} is negative: failures are counted from 0")
        try:
            return self.initial * self.factor**n
        except OverflowError:  # larger than a float holds, or n itself is
            return math.inf if self.factor > 1 else self.initial if self.factor == 1 else 0.0

    def __str__(self) -> str:
        end = "" if self.cap is None else text(self.cap)
        times = "" if self.factor == 2 else f" x{self.factor:g}"
        return f"exponential {text(self.initial)}..{end}{times}{_words(self.jitter)}"


@dataclass(frozen=True, slots=True, init=False)
class Constant(_Waits):
    """The same wait each time, spread by jitter ("none", "full" or "equal")."""

    each: float
    jitter: Jitter

    def __init__(self, delay: Duration, *, jitter: Literal["none", "full", "equal"] = "none") -> None:
        """Raises ConfigError for a span that makes no sense (zero does: at once), or an unknown jitter."""
        object.__setattr__(self, "each", seconds(delay, "delay"))
        object.__setattr__(self, "jitter", _jitter(jitter, _JITTERS[:3]))

    def delay(self, n: int, previous: float | None = None) -> float:
        """Seconds to wait after any failure. Finite, never negative."""
        return self.each if self.jitter == "none" else _spread(self.each, self.jitter)

    def __str__(self) -> str:
        return f"constant {text(self.each)}{_words(self.jitter)}"


class Custom(_Waits):
    """A user's backoff, whose answers are checked when they come."""

    __slots__ = ("_ask", "_name")

    def __init__(self, given: Callable[[int], float] | Backoff) -> None:
        own: Any = getattr(given, "delay", None)
        if isinstance(given, type) or not callable(given if own is None else own):
            raise ConfigError(
                f"backoff: {given!r} is none: give rc.Exponential(…), rc.Constant(…), "
                "a function of the number of failures before, or an object with .delay(n)"
            )
        self._ask: Any = given if own is None else own
        check_plain(self._ask, "backoff", "the number of failures before")
        self._name = named(given)

    def delay(self, n: int, previous: float | None = None) -> float:
        """Seconds to wait after failure number `n`. Raises ConfigError where the answer is not a usable span."""
        try:
            answer = self._ask(n)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ConfigError(f"the backoff {self._name} raised {brief(error)}, asked for delay({n})") from error
        if isinstance(answer, bool) or not isinstance(answer, int | float) or not 0 <= answer <= LONGEST:
            raise ConfigError(
                f"the backoff {self._name} gave delay({n}) = {answer!r}: "
                f"it should be a number of seconds from 0 to {LONGEST:.0f}"
            )
        return float(answer)

    def __str__(self) -> str:
        return f"backoff {self._name}"


def checked(backoff: Callable[[int], float] | Backoff) -> Exponential | Constant | Custom:
    """A backoff in any of the forms that users give. Raises ConfigError, with the remedy, for what is none."""
    if type(backoff) in (Exponential, Constant, Custom):
        return cast("Exponential | Constant | Custom", backoff)
    return Custom(backoff)  # subclasses of ours too: what they answer is theirs


def _spread(delay: float, jitter: Jitter) -> float:
    if jitter == "none" or delay == 0:
        return delay
    share = clock.current().random.random()
    return delay * share if jitter == "full" else delay * (0.5 + share / 2)


def _jitter(given: object, known: tuple[Any, ...]) -> Any:
    if given not in known:
        also = "; for decorrelated use rc.Exponential" if given == "decorrelated" else ""
        raise ConfigError(f"jitter: {given!r} is none of {', '.join(map(repr, known))}{also}")
    return given


def _factor(given: object) -> float:
    if not isinstance(given, bool) and isinstance(given, int | float) and 0 < given <= sys.float_info.max:
        return float(given)
    raise ConfigError(f"factor: {given!r:.100} is not a finite number above 0: 2 doubles the wait, 1 keeps it")


def _words(jitter: Jitter) -> str:
    return "" if jitter == "none" else f" {jitter} jitter"
