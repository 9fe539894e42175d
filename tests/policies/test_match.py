"""Which errors a retry rule means."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcrew.errors import ConfigError, Done, NoRetry, RunTimeout, StopTree
from runcrew.policies import Retry


class Odd(Exception):
    """An error of our own."""


class Coded(Exception):
    """An error that equals another of the same code, and so has no hash."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coded) and self.code == other.code


class Broken(Exception):
    """An error whose equality raises."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    __hash__ = Exception.__hash__


def caused(error: BaseException, *causes: BaseException) -> BaseException:
    """`error`, raised from the first of `causes`, raised from the second, and so on."""
    below = error
    for cause in causes:
        below.__cause__ = cause
        below = cause
    return error


def group(*leaves: Exception) -> ExceptionGroup[Exception]:
    """Several errors in one."""
    return ExceptionGroup("several", list(leaves))


@pytest.mark.parity("T3.11", "T3.14", "E3.3")
def test_a_class_matches_its_instances_its_subclasses_and_what_was_raised_from_one() -> None:
    """A class matches an error of it, of a subclass, and one that was raised from such an error."""
    rule = Retry(ConnectionError)
    assert rule.matches(ConnectionError())
    assert rule.matches(ConnectionResetError())
    assert rule.matches(caused(ValueError(), KeyError(), ConnectionResetError()))
    assert not rule.matches(ValueError())
    assert not rule.matches(caused(ValueError(), KeyError()))


@pytest.mark.parity("T3.11", "E3.3")
def test_an_object_matches_itself_and_what_was_raised_from_it() -> None:
    """An error object matches by identity, also as a cause; another of its class does not."""
    gone = ValueError("gone")
    rule = Retry(gone)
    assert rule.matches(gone)
    assert rule.matches(caused(KeyError(), gone))
    assert not rule.matches(ValueError("gone"))


@pytest.mark.parity("T3.11")
def test_an_object_matches_what_equals_it() -> None:
    """An error object also matches errors that say that they equal it."""
    rule = Retry(Coded(503))
    assert rule.matches(Coded(503))
    assert not rule.matches(Coded(404))


@pytest.mark.parity("T3.12")
def test_classes_and_objects_stand_side_by_side() -> None:
    """One rule can hold classes and objects: a class given is never taken for an object, nor the reverse."""
    rule = Retry(Coded(503), ConnectionError)
    assert [True, True, False] == [rule.matches(e) for e in (Coded(503), ConnectionError(), Coded(1))]


@pytest.mark.parity("T3.14")
def test_nothing_matches_no_error() -> None:
    """No rule matches None."""
    assert not Retry(Exception).matches(None)
    assert not Retry(when=lambda error: True).matches(None)


@pytest.mark.defect("D3.16")
def test_a_predicate_matches_by_value() -> None:
    """Errors that differ only in a number can be told apart, with a class and a predicate or a predicate alone."""
    full = OSError(errno.ENOSPC, "full")
    busy = OSError(errno.EBUSY, "busy")
    with_class = Retry(OSError, when=lambda error: error.errno == errno.EBUSY)
    alone = Retry(when=lambda error: getattr(error, "errno", None) == errno.EBUSY)
    for rule in (with_class, alone):
        assert [False, True, True] == [rule.matches(e) for e in (full, busy, caused(ValueError(), busy))]
    assert not with_class.matches(Coded(errno.EBUSY))
    assert Retry(OSError).matches(full)


def test_a_context_is_no_cause() -> None:
    """What merely was going on when the error was raised (`__context__`) does not count."""
    error = ValueError()
    error.__context__ = ConnectionError()
    assert not Retry(ConnectionError).matches(error)
    assert not Retry(ConnectionError).matches(caused(KeyError(), error))


def test_a_ring_of_causes_ends() -> None:
    """Errors that are their own cause, directly or by way of a group, end the search instead of hanging it."""
    one, other = ValueError(), KeyError()
    caused(one, other, one)
    assert not Retry(Odd).matches(one)
    assert Retry(KeyError).matches(one)
    several = group(one)
    other.__cause__ = several
    assert not Retry(Odd).matches(several)
    assert Retry(ValueError).matches(several)


def test_the_same_error_twice_in_a_group_counts_twice() -> None:
    """An error object that is in a group more than once matches each time."""
    error = ConnectionError()
    nested = group(error, group(error, error))
    for _ in range(60):  # every level twice in the next: only a memory of what was seen ends this
        nested = group(nested, nested)
    assert Retry(ConnectionError).matches(nested)
    assert not Retry(KeyError).matches(nested)


def test_a_long_chain_of_causes_is_walked() -> None:
    """Ten thousand causes are no recursion."""
    error = caused(ValueError(), *(ValueError() for _ in range(10_000)), Odd())
    assert Retry(Odd).matches(error)


def test_a_group_matches_when_every_leaf_does() -> None:
    """A group with one fatal leaf is fatal, also deep inside, and whatever it was raised from."""
    rule = Retry(ConnectionError)
    assert rule.matches(group(ConnectionError(), group(ConnectionResetError())))
    assert rule.matches(group(ConnectionError(), caused(ValueError(), ConnectionError())))  # type: ignore[arg-type]
    assert not rule.matches(group(ConnectionError(), ValueError()))
    assert not rule.matches(group(ConnectionError(), group(ConnectionError(), ValueError())))
    assert not rule.matches(caused(group(ValueError()), ConnectionError()))
    assert rule.matches(caused(ValueError(), group(ConnectionError())))


def test_a_class_of_groups_matches_the_group() -> None:
    """Who names a class of groups means the group, whatever is in it; who names Exception means the leaves."""

    class Several(ExceptionGroup[Exception]):
        pass

    assert Retry(ExceptionGroup).matches(group(ValueError()))
    assert Retry(Several).matches(Several("s", [ValueError()]))
    assert not Retry(Several).matches(group(ValueError()))
    assert Retry(Exception).matches(group(ValueError(), KeyError()))
    assert not Retry(Exception, when=lambda e: isinstance(e, KeyError)).matches(group(ValueError(), KeyError()))


def test_a_predicate_alone_is_asked_about_leaves() -> None:
    """A predicate without classes is asked about each leaf, so a group does not slip through by being one."""
    asked: list[object] = []

    def when(error: Exception) -> bool:
        asked.append(error)
        return not isinstance(error, ValueError)

    bad, good = ValueError(), KeyError()
    assert not Retry(when=when).matches(group(good, bad))
    assert [good, bad] == asked


@pytest.mark.parametrize("final", [NoRetry("no"), Done(), StopTree()])
def test_what_is_final_never_matches(final: Exception) -> None:
    """NoRetry, Done and StopTree win over every rule, wherever in the error they are."""
    for rule in (Retry(Exception), Retry(ExceptionGroup), Retry(when=lambda error: True)):
        assert not rule.matches(final)
        assert not rule.matches(caused(ConnectionError(), ValueError(), final))
        assert not rule.matches(group(ConnectionError(), final))
        assert not rule.matches(group(ConnectionError(), caused(ValueError(), group(final))))  # type: ignore[arg-type]


def test_a_class_may_be_final_by_itself() -> None:
    """A user's error class with NoRetry among its bases is final."""

    class BadKey(NoRetry, KeyError):
        pass

    assert not Retry(KeyError).matches(BadKey())
    assert Retry(KeyError).matches(KeyError())


def test_what_is_no_exception_never_matches() -> None:
    """SystemExit, cancellations and groups that hold such are not offered to rules or predicates."""
    rules = (Retry(Exception), Retry(when=lambda error: True))
    errors = (SystemExit(), KeyboardInterrupt(), asyncio.CancelledError(), BaseExceptionGroup("b", [SystemExit()]))
    assert [False] * 8 == [rule.matches(error) for rule in rules for error in errors]


def test_our_own_timeout_is_a_timeout() -> None:
    """TimeoutError matches what a timeout makes of an attempt."""
    assert Retry(TimeoutError).matches(RunTimeout("late"))


@pytest.mark.parametrize("raised", [RuntimeError("bad"), SystemExit(1), asyncio.CancelledError()])
def test_a_predicate_that_raises_matches_nothing(raised: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """What a predicate raises is logged, and the error does not match."""

    def when(error: Exception) -> bool:
        raise raised

    assert not Retry(when=when).matches(ValueError())
    assert ["runcrew"] == [record.name for record in caplog.records]
    assert "when" in caplog.text


def test_an_equality_that_raises_matches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A broken `==` is logged, and the error does not match; the very object still does."""
    rule = Retry(Broken())
    assert not rule.matches(Broken())
    assert [logging.ERROR] == [record.levelno for record in caplog.records]
    same = Broken()
    assert Retry(same).matches(same)


def test_an_equality_or_a_predicate_whose_truth_raises_matches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Answers that are neither true nor false (as arrays give them) are logged, and do not match."""

    class Unclear:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    class Array(Exception):
        def __eq__(self, other: object) -> Any:
            return Unclear()

        __hash__ = Exception.__hash__

    assert not Retry(Array()).matches(Array())
    assert not Retry(when=lambda error: Unclear()).matches(ValueError())
    assert 2 == len(caplog.records)


@pytest.mark.parity("T3.13", "T3.20", "E3.3")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ConnectionError", "'ConnectionError' is no error"),
        (5, "5 is no error"),
        (None, "None is no error"),
        (int, "the class int is no error"),
        (object(), "is no error"),
        ((ConnectionError, OSError), "one by one"),
        ([ConnectionError], "one by one"),
        (KeyboardInterrupt, "KeyboardInterrupt can match nothing"),
        (SystemExit(3), "SystemExit can match nothing"),
        (asyncio.CancelledError, "CancelledError can match nothing"),
        (BaseException, "BaseException can match nothing"),
        (BaseExceptionGroup, "BaseExceptionGroup can match nothing"),
        (NoRetry, "NoRetry can match nothing"),
        (Done(), "Done can match nothing"),
        (StopTree, "StopTree can match nothing"),
    ],
)
def test_what_can_match_nothing_is_refused(given: Any, said: str) -> None:
    """A pattern that is no error, or that no error could ever match, is refused where it is given, by name."""
    with pytest.raises(ConfigError, match=said):
        Retry(given)


def test_a_rule_without_pattern_is_refused() -> None:
    """Retrying must say on what."""
    with pytest.raises(ConfigError, match="can match nothing"):
        Retry()


async def async_predicate(error: Exception) -> bool:
    """Would give a coroutine, which is always true."""
    return False


class AsyncCall:
    """The same as an object."""

    async def __call__(self, error: Exception) -> bool:
        return False


@pytest.mark.parametrize("when", [async_predicate, AsyncCall()])
def test_an_async_predicate_is_refused(when: Any) -> None:
    """An async predicate, which would always be true, is refused."""
    with pytest.raises(ConfigError, match="async"):
        Retry(when=when)


def test_a_predicate_that_cannot_be_called_is_refused() -> None:
    """A predicate has to be callable."""
    with pytest.raises(ConfigError, match="503 cannot be called"):
        Retry(when=503)  # type: ignore[arg-type]


KINDS = [ValueError, KeyError, ConnectionError, ConnectionResetError, OSError]
leaf = st.sampled_from(KINDS).map(lambda kind: kind())
errors = st.recursive(leaf, lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda found: group(*found)))


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in an error that are no groups."""
    if isinstance(error, BaseExceptionGroup):
        return [found for inner in error.exceptions for found in leaves(inner)]
    return [error]


@settings(deadline=None)
@given(errors, st.lists(st.sampled_from(KINDS), min_size=1, max_size=2, unique=True))
def test_a_rule_takes_a_group_exactly_if_it_takes_each_leaf(error: Exception, kinds: list[type[Exception]]) -> None:
    """Whatever the nesting, a group matches if and only if each leaf does."""
    assert all(isinstance(found, tuple(kinds)) for found in leaves(error)) == Retry(*kinds).matches(error)
