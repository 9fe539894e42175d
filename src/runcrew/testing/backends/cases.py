"""What jobs of the suite give and raise: by name, so that a job in another process can make its own."""

from __future__ import annotations

import asyncio
import builtins
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, cast

from runcrew import errors


class BadText(Exception):
    """Has no text, no representation, no equality, no hash and no truth."""

    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__

    def __eq__(self, other: object) -> NoReturn:
        raise RuntimeError("eq")

    def __hash__(self) -> NoReturn:
        raise RuntimeError("hash")

    def __bool__(self) -> NoReturn:
        raise RuntimeError("bool")


class BadBase(BaseException):
    """The same, and no Exception."""

    __str__ = __repr__ = BadText.__str__


def _circle() -> Exception:
    """An error that is its own cause's cause."""
    error, other = OSError("a"), ValueError("b")
    error.__cause__, other.__cause__ = other, error
    return error


def _built_in(cls: type[Exception]) -> Exception:
    """One of that class."""
    if issubclass(cls, BaseExceptionGroup):
        return ExceptionGroup("several", [OSError("a"), ValueError("b")])
    made: Callable[..., Exception] = cls
    if issubclass(cls, UnicodeTranslateError):
        return made("x", 0, 1, "no")
    if issubclass(cls, UnicodeEncodeError | UnicodeDecodeError):
        return made("utf-8", b"x" if issubclass(cls, UnicodeDecodeError) else "x", 0, 1, "no")
    return made("no")


def _built_ins() -> dict[str, Callable[[], BaseException]]:
    """Of each class of exceptions that Python has; but StopIteration, which is another matter."""
    return {
        name: functools.partial(_built_in, cls)
        for name, cls in vars(builtins).items()
        if isinstance(cls, type) and issubclass(cls, Exception) and cls is not StopIteration and name == cls.__name__
    }


#: Values, by name.
VALUES: Final[dict[str, Callable[[], Any]]] = {
    "None": lambda: None,
    "zero": lambda: 0,
    "empty text": str,
    "False": lambda: False,
    "text": lambda: "text, täxt",
    "an error": lambda: OSError("a value"),
    "a structure": lambda: [1, {"a": (), 2: frozenset({3})}],
    "5 MB": lambda: b"x" * 5_000_000,
    "1 MB that can change": lambda: bytearray(b"y" * 1_000_000),
    "100,000 parts": lambda: list(range(100_000)),
}

#: What a job may raise and be failed by, by name.
ERRORS: Final[dict[str, Callable[[], BaseException]]] = {
    **_built_ins(),
    "bad text": BadText,
    "10 MB of text": lambda: OSError("x" * 10_000_000),
    "a circle": _circle,
    "NoRetry": lambda: errors.NoRetry("final"),
    "Done": errors.Done,
    "StopTree": errors.StopTree,
    "a RunTimeout of somebody else": lambda: errors.RunTimeout("of somebody else"),
    "a RunInterrupted of somebody else": lambda: errors.RunInterrupted("of somebody else"),
    "a TimeoutError of its own": lambda: TimeoutError("of its own"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "bad text, no Exception": BadBase,
    "CancelledError": lambda: asyncio.CancelledError("mine"),
}


def alike(one: object, other: object) -> bool:
    """Whether they are the same in kind and content, as far as a copy can be."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseException) and isinstance(other, BaseException):
        return alike(one.args, other.args)
    if isinstance(one, tuple | list):
        mine, its = cast("Sequence[object]", one), cast("Sequence[object]", other)
        return len(mine) == len(its) and all(map(alike, mine, its))
    return bool(one == other)


# --- what cannot be pickled -----------------------------------------------------------------------


class NoPickle:
    """Cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this stays here")


class NoCopy:
    """Can be pickled, and cannot be made again from that."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


class NoPickleError(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this stays here")


class NoCopyError(Exception):
    """An error that cannot be made again from what pickle keeps of it, as many are."""

    def __init__(self, one: int, *, other: int) -> None:
        super().__init__("it takes two")
        self.parts = one, other


def _refuse() -> NoReturn:
    raise ValueError("not here")


def no_pickle() -> NoPickle:
    """Returns what cannot be pickled."""
    return NoPickle()


def no_copy() -> NoCopy:
    """Returns what cannot be unpickled."""
    return NoCopy()


def no_pickle_error() -> NoReturn:
    """Raises what cannot be pickled."""
    raise NoPickleError("mine")


def no_copy_error() -> NoReturn:
    """Raises what cannot be unpickled."""
    raise NoCopyError(1, other=2)
