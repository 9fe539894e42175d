"""The tree of errors."""

from __future__ import annotations

import inspect
import re

import pytest

from runcrew import errors
from runcrew.errors import (
    ConfigError,
    NoRetry,
    NotAJob,
    RuncrewError,
    RunError,
    RunTimeout,
    brief,
)
from runcrew.job import Outcome, Status

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BaseException) and kind.__module__ == errors.__name__
]


def drawn() -> dict[str, str]:
    """Each error of the drawing at the top of the module, and the one that it hangs on."""
    parents: list[tuple[int, str]] = []
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([ │├└─]*)([A-Z]\w+)", line)
        if found is None or not (line.startswith("    ") or parents):
            continue
        depth, name = len(found.group(1)), found.group(2)
        while parents and parents[-1][0] >= depth:
            parents.pop()
        tree[name] = parents[-1][1] if parents else ""
        parents.append((depth, name))
    return tree


def test_the_drawing_is_true() -> None:
    """Every error is in the drawing, below the very error that it is derived from."""
    tree = drawn()
    assert sorted(kind.__name__ for kind in CLASSES) == sorted(tree)
    for kind in CLASSES:
        parent = tree[kind.__name__]
        assert not parent or parent in [base.__name__ for base in kind.__bases__]


@pytest.mark.parametrize("kind", CLASSES)
def test_one_base_for_all(kind: type[BaseException]) -> None:
    """Whatever runcrew raises by itself can be caught as RuncrewError, and is an Exception."""
    assert issubclass(kind, RuncrewError)


def test_they_are_what_python_programmers_expect() -> None:
    """Bad values are ValueErrors, what is no job is a TypeError, what took too long a TimeoutError."""
    assert issubclass(ConfigError, ValueError)
    assert issubclass(NotAJob, TypeError)
    assert issubclass(RunTimeout, TimeoutError)


def test_a_run_error_has_the_outcome() -> None:
    """What is known of the run comes with its error, and is None where there is none."""
    outcome = Outcome[None](Status.CANCELLED)
    assert outcome is RunError("no", outcome).outcome
    assert None is RunError().outcome


def test_no_retry_can_be_a_base_of_an_error_of_ones_own() -> None:
    """A class may be final and a KeyError at a time."""

    class BadKey(NoRetry, KeyError):
        pass

    assert isinstance(BadKey("x"), KeyError)


class Unspeakable(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (Unspeakable(), "Unspeakable: (its text cannot be made)"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 200),
    ],
)
def test_an_error_in_one_line(error: Exception, said: str) -> None:
    """Whatever an error's own text does, a line of bounded length can be made of it."""
    assert said == brief(error)


class Hostile(Exception):
    """An error whose text ends the program, if it may."""

    def __str__(self) -> str:
        raise SystemExit(7)


def test_the_text_of_an_error_cannot_end_anything() -> None:
    """Whatever making an error's text raises stays where it is."""
    assert "Hostile: (its text cannot be made)" == brief(Hostile())


def test_the_text_of_an_error_is_one_line() -> None:
    """Line breaks and control characters are shown, not passed on."""
    assert "ValueError: a\\nINFO all is well\\x1b[2J" == brief(ValueError("a\nINFO all is well\x1b[2J"))
