"""Which errors a retry rule means: classes, error objects, a predicate.

An error matches by itself or by what it was raised from (`__cause__`, which its author wrote down; not
`__context__`, which only says what else was going on). A group of errors matches when every leaf does,
or when a class of groups was named. What holds a NoRetry, a Done or a StopTree never matches, nor do leaves
under more than `DEEPEST` groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from runcrew.errors import ConfigError, Done, NoRetry, StopTree
from runcrew.policies.guard import check_plain, guarded, is_listed, named

#: What a rule can be given: exception classes and exception objects.
Matchable: TypeAlias = type[Exception] | Exception

FINAL: Final = (NoRetry, Done, StopTree)
#: So many groups may lie in one another for their leaves to be looked at: more would end in a RecursionError.
DEEPEST: Final = 64
_REMEDY: Final = "give exception classes (ConnectionError), exception objects, or when=a function of the error"


class Matcher:
    """Finds what a rule means in an error. Immutable; several rules and threads may share one."""

    __slots__ = ("_classes", "_groups", "_objects", "_when", "classes_only")

    def __init__(self, errors: tuple[object, ...], when: Callable[[Any], object] | None, what: str = "Retry") -> None:
        """Raises ConfigError, naming the value, for what is no error or can match nothing."""
        if not errors and when is None:
            raise ConfigError(f"{what}() can match nothing: {_REMEDY}")
        if when is not None:
            check_plain(when, f"{what}(when=…)", "the error")
        for error in errors:
            _check(error, what)
        self._classes: tuple[type[Exception], ...] = tuple(error for error in errors if isinstance(error, type))
        # Exception is a base of ExceptionGroup too, but whoever names it thinks of the leaves.
        self._groups = tuple(cls for cls in self._classes if cls is not Exception)
        self._objects = tuple(error for error in errors if isinstance(error, BaseException))
        self._when = when
        #: The classes, where they are all that is asked for: for an error that is no group and has no cause,
        #: `isinstance` then says all there is to say.
        self.classes_only: tuple[type[Exception], ...] = () if self._objects or when is not None else self._classes

    def find(self, error: BaseException | None) -> tuple[Exception, ...]:
        """The errors in `error` that are meant (of a group: one or more for every leaf); empty: no match."""
        if not isinstance(error, Exception) or is_final(error):
            return ()
        return self.look(error)

    def look(self, error: Exception, deep: int = DEEPEST) -> tuple[Exception, ...]:
        """The same for an error that is known not to be final, opening at most so many groups in one another."""
        if error.__cause__ is None and not isinstance(error, BaseExceptionGroup):
            return (error,) if self._means(error) else ()
        return tuple(self._look(error, {}, deep).values())

    def _look(self, error: BaseException, known: dict[int, dict[int, Exception]], deep: int) -> dict[int, Exception]:
        """`known` holds what each error came to, and nothing for those under way: so a cycle ends.

        deep: so many groups may still be opened.
        By identity all the way, because an error may define `==` and so have no hash.
        """
        found: dict[int, Exception] = {}
        passed: list[BaseException] = []
        node: BaseException | None = error
        while node is not None:
            if id(node) in known:
                found = known[id(node)]
                break
            known[id(node)] = {}
            passed.append(node)
            if isinstance(node, Exception) and self._means(node):
                found = {id(node): node}
                break
            if leaves := leaves_of(node):  # a group is judged by its leaves alone: one that is fatal wins
                found = self._look_at_leaves(leaves, known, deep) if deep else {}
                break
            node = node.__cause__
        for node in passed:
            known[id(node)] = found
        return found

    def _look_at_leaves(
        self, leaves: tuple[BaseException, ...], known: dict[int, dict[int, Exception]], deep: int
    ) -> dict[int, Exception]:
        found: dict[int, Exception] = {}
        for leaf in leaves:
            of_leaf = self._look(leaf, known, deep - 1)
            if not of_leaf:
                return {}
            found |= of_leaf
        return found

    def _means(self, error: Exception) -> bool:
        group = isinstance(error, BaseExceptionGroup)
        if self._classes or self._objects:
            named_here = isinstance(error, self._groups if group else self._classes)
            if not named_here and not any(_same(error, other) for other in self._objects):
                return False
        elif group:
            return False
        return self._when is None or _truth(self._when, error)


def is_final(error: BaseException) -> bool:
    """Whether NoRetry, Done or StopTree is in the error, in what it was raised from, or among its leaves."""
    if isinstance(error, FINAL):
        return True
    if error.__cause__ is None and not isinstance(error, BaseExceptionGroup):
        return False
    pending: list[BaseException] = [error]
    seen: dict[int, None] = {}
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = None
        if isinstance(node, FINAL):
            return True
        pending.extend(leaves_of(node))
        if node.__cause__ is not None:
            pending.append(node.__cause__)
    return False


def leaves_of(error: BaseException) -> tuple[BaseException, ...]:
    """What is directly in a group of errors; nothing where it is no group."""
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def group_in(error: BaseException) -> BaseException | None:
    """The error itself where it is a group, or else the first group that it was raised from."""
    seen: dict[int, None] = {}
    node: BaseException | None = error
    while node is not None and id(node) not in seen:
        if isinstance(node, BaseExceptionGroup):
            return cast("BaseException", node)
        seen[id(node)] = None
        node = node.__cause__
    return None


def _check(error: object, what: str) -> None:
    if is_listed(error):
        raise ConfigError(
            f"{what}({error!r}): give the errors one by one, {what}(A, B), not in a {type(error).__name__}"
        )
    cls = error if isinstance(error, type) else type(error)
    if not issubclass(cls, BaseException):
        shown = f"the class {cls.__qualname__}" if cls is error else repr(error)
        raise ConfigError(f"{what}: {shown} is no error: {_REMEDY}")
    if not issubclass(cls, Exception):
        raise ConfigError(
            f"{what}: {cls.__qualname__} can match nothing, because retry rules see only subclasses of Exception: "
            "what is none is asked to end the job, not to repeat it"
        )
    if issubclass(cls, FINAL):
        raise ConfigError(f"{what}: {cls.__qualname__} can match nothing: it says that an error is final")


def _same(error: Exception, other: BaseException) -> bool:
    if error is other:
        return True
    return guarded("the equality of an error", False, lambda: bool(error == other)) is True


def _truth(when: Callable[[Any], object], error: Exception) -> bool:
    return guarded(f"the predicate {named(when)} of a retry rule", False, lambda: bool(when(error))) is True
