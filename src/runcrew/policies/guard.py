"""Users' functions inside policies (predicates, hints, keys, callbacks): checked when given, guarded when called."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeGuard

from runcrew.errors import ConfigError

log: Final = logging.getLogger("runcrew")


def check_plain(fn: Any, what: str, takes: str) -> None:
    """Raise ConfigError where `fn` cannot be called, or would give a coroutine that nobody awaits."""
    if not callable(fn):
        raise ConfigError(f"{what}: {fn!r} cannot be called: give a function that takes {takes}")
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        raise ConfigError(f"{what}: {fn!r} is async, and this is asked between two steps: give a plain function")


def count(given: object, name: str, least: int) -> int:
    """A whole number of at least `least`. Raises ConfigError otherwise."""
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise ConfigError(f"{name}: {given!r} is not a whole number of at least {least}")
    return given


def is_listed(given: object) -> TypeGuard[Sequence[Any]]:
    """Whether several things are given: in a list or a tuple."""
    return isinstance(given, tuple | list)


def guarded(what: str, default: Any, fn: Callable[..., Any], *args: Any) -> Any:
    """What `fn(*args)` gives; where it raises, that is logged and `default` comes instead.

    KeyboardInterrupt alone passes: it is the user at the keyboard, wherever it strikes.
    """
    try:
        return fn(*args)
    except KeyboardInterrupt:
        raise
    except BaseException:
        log.exception("%s failed", what)
        return default


def named(thing: object) -> str:
    """What to call a function or an object in a message; without addresses, so that it stays the same."""
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    return name if isinstance(name, str) else type(thing).__qualname__
