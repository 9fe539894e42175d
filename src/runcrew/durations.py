"""Spans of time as users write them: seconds, a `timedelta`, or a string such as "1h30m" or "250ms".

Inside the library a span is a float of seconds; nothing else travels. `seconds()` is the one door.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final, TypeAlias

from runcrew.errors import ConfigError

Duration: TypeAlias = float | int | str | timedelta

#: No span is longer than this many seconds (about a year): "for ever" is said with None, not with a large number.
LONGEST: Final = 366 * 86_400.0

_UNITS: Final = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_TERM: Final = re.compile(r"(\d+(?:\.\d+)?)(us|µs|ms|s|m|h|d|w)")
_WHOLE: Final = re.compile(rf"(?:{_TERM.pattern})+")
_REMEDY: Final = 'give seconds (1.5), a timedelta, or a string such as "1h30m", "10s" or "250ms"'


def seconds(value: Duration, name: str = "duration", *, zero: bool = True) -> float:
    """Turn a span as users write it into seconds.

    value: a number of seconds, a `timedelta`, or number-unit pairs in a string, units w d h m s ms us.
    name: what the span is for; the error message begins with it.
    zero: whether a span of zero makes sense here.

    Raises ConfigError, naming the value, where it is negative, NaN, infinite, longer than `LONGEST`,
    a bool, of another type, a string that does not parse, or zero where zero makes no sense.
    """
    match value:
        case bool():
            raise ConfigError(f"{name}: {value!r} is not a span of time: {_REMEDY}")
        case int() | float():
            try:
                span = float(value)
            except OverflowError:
                span = math.inf
        case timedelta():
            span = value.total_seconds()
        case str():
            span = _parse(value, name)
        case _:
            raise ConfigError(f"{name}: {value!r} is not a span of time: {_REMEDY}")
    if not math.isfinite(span):
        raise ConfigError(f"{name}: {value!r} is not a finite span: {_REMEDY}; None means none")
    if span < 0:
        raise ConfigError(f"{name}: {value!r} is negative: a span of time is zero or more")
    if span == 0 and not zero:
        raise ConfigError(f"{name}: {value!r} is zero, and this must be longer than that: {_REMEDY}")
    if span > LONGEST:
        raise ConfigError(f"{name}: {value!r} is longer than a year ({LONGEST:.0f} s): None means none")
    return span


def optional(value: Duration | None, name: str = "duration", *, zero: bool = True) -> float | None:
    """The same as `seconds`, where None means none and stays None."""
    return None if value is None else seconds(value, name, zero=zero)


def text(span: float) -> str:
    """A span for people: "1h 30m", "2.5s", "250ms", "0s"."""
    if span < 0:
        return "-" + text(-span)
    if span == 0:
        return "0s"
    if span < 1e-3:
        return f"{span * 1e6:.3g}us"
    if span < 0.9995:
        return f"{span * 1e3:.3g}ms"
    if span < 60:
        return f"{span:.3g}s"
    whole = round(span)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _parse(value: str, name: str) -> float:
    compact = value.strip().lower().replace(" ", "")
    if not _WHOLE.fullmatch(compact):
        raise ConfigError(f"{name}: {value!r} does not parse as a span of time: {_REMEDY}")
    seen: list[str] = []
    total = 0.0
    for number, unit in _TERM.findall(compact):
        if unit in seen:
            raise ConfigError(f"{name}: {value!r} names the unit {unit!r} twice: {_REMEDY}")
        seen.append(unit)
        total += float(number) * _UNITS[unit]
    return total
