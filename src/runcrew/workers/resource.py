"""How a resource is made, tried and taken down: the recipe, and what was made by it. Pure of workers.

A generator is entered by its first step and left by its second one. Nothing is thrown into it, also where the
resource has turned out faulty: it is continued after its `yield`, as on any other day.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, MethodType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

from runcrew.durations import Duration, optional
from runcrew.errors import ConfigError, NotAJob, RuncrewError, brief, one_line

if TYPE_CHECKING:
    from contextlib import _AsyncGeneratorContextManager, _GeneratorContextManager

R = TypeVar("R")


class Unset(Enum):
    """Nothing was said. (None says: nothing.)"""

    UNSET = "not given"


#: The default of `destroy`.
UNSET: Final = Unset.UNSET

#: What makes an R. The order matters to type checkers: each fits less than the next, and the last one everything.
FromGenerator: TypeAlias = "Callable[[], Generator[R, Any, Any] | _GeneratorContextManager[R]]"
FromAsyncGenerator: TypeAlias = "Callable[[], AsyncIterator[R] | _AsyncGeneratorContextManager[R]]"
FromAsync: TypeAlias = Callable[[], Awaitable[R]]
FromIterator: TypeAlias = Callable[[], Iterator[R]]
FromCall: TypeAlias = Callable[[], R]


class Closes(Protocol):
    """What can be closed is a resource itself, also where it is an iterator (a file, a cursor)."""

    @property
    def close(self) -> Callable[[], object]:
        """Closes it."""
        ...


class Unfit(RuncrewError):
    """A resource did not pass its check: it is to be replaced. `__cause__` is what the check raised, if anything."""


class Kind(Enum):
    """What a resource is made by."""

    CREATOR = "a function"
    ASYNC_CREATOR = "an async function"
    GENERATOR = "a generator function"
    ASYNC_GENERATOR = "an async generator function"


class Recipe(Generic[R]):
    """How a resource is made, tried and taken down.

    make: called without arguments. A generator function or async generator function that yields exactly once
        (with or without `@contextmanager` or `@asynccontextmanager`), which is entered, and left in the same
        task or thread; or any other callable, which gives the resource: a function, an async function, a class.
        Partials, bound methods and `__call__` are looked through.
    destroy: called with what such a callable has made, to take it down. None: nothing is to be done. It has to
        be given where the resource has a `close` or `aclose`; what else it may have (`__enter__`) is not looked
        at. Not for generators, which take down themselves. Plain or async; only plain for a sync resource.
    check: called with the resource before it is used. It is fit where the check returns something true, or
        returns None without raising anything; unfit where it returns anything else or raises an Exception. Plain
        or async; only plain for a sync resource.
    max_idle: how long it may go unused before it is replaced; None: for ever.
    max_age: how long after its opening it is replaced, when it is not in use; None: never.

    Async kinds (async functions, async generators) live on the event loop, all others in a thread of their own.

    Raises ConfigError for what can never work, with the remedy.
    """

    __slots__ = ("_kind", "_make", "check", "destroy", "is_async", "max_age", "max_idle", "name")

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        destroy: Callable[[R], object] | Unset | None = UNSET,
        check: Callable[[R], object] | None = None,
        max_idle: Duration | None = None,
        max_age: Duration | None = None,
    ) -> None:
        self._make = make
        self._kind = kind = _kind_of(make)
        #: Whether it is opened and closed on the loop; otherwise in the worker's own thread.
        self.is_async = kind in (Kind.ASYNC_CREATOR, Kind.ASYNC_GENERATOR)
        #: What makes it, for people.
        self.name = _name(make)
        self.destroy = destroy
        self.check = check
        if destroy is not UNSET and kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
            raise ConfigError(
                f"destroy: {self.name} is {kind.value}, which takes its resource down after its `yield`: "
                "leave destroy= out, or write a function that returns the resource"
            )
        if destroy is not UNSET and destroy is not None:
            self._refuse_unusable(destroy, "destroy")
        if check is not None:
            self._refuse_unusable(check, "check")
        #: Seconds, or None.
        self.max_idle = optional(max_idle, "max_idle", zero=False)
        self.max_age = optional(max_age, "max_age", zero=False)

    def __repr__(self) -> str:
        return f"<Recipe {self.name} ({self._kind.value})>"

    @property
    def has_check(self) -> bool:
        """Whether `Opened.check` does anything."""
        return self.check is not None

    def _refuse_unusable(self, fn: Any, what: str) -> None:
        if not callable(fn):
            raise ConfigError(f"{what}: {fn!r} is not callable: give a function of the resource, or None")
        refuse_signature(fn, what, 1)
        core = _core(fn)
        if inspect.isgeneratorfunction(core) or inspect.isasyncgenfunction(core):
            raise ConfigError(f"{what}: {_name(fn)} is a generator function, which does nothing when it is called")
        if not self.is_async and inspect.iscoroutinefunction(core):
            raise ConfigError(
                f"{what}: {_name(fn)} is async, and the resource of {self.name} lives in a thread, since "
                f"{self.name} is plain: make {what} plain, or have the resource made by an async function"
            )

    # --- opening ------------------------------------------------------------------------

    async def open(self) -> Opened[R]:
        """Make one, of an async kind. In the task that will also close it.

        What the user's code raises comes out, whatever it is; nothing is left open then. Raises RuntimeError where
        a generator does not yield; ConfigError where the resource has a `close` and no `destroy` was given: it
        then stays open, since nobody knows how to take it down.

        Cancelling it cancels the user's code, which may also finish in spite of that.
        """
        if self._kind is Kind.ASYNC_CREATOR:
            value = await self._make()
            self._refuse_careless(value)
            return Opened(self, value, None)
        steps = _steps(self._make())
        try:
            value = await anext(steps)
        except StopAsyncIteration:
            raise self._no_yield() from None
        return Opened(self, value, steps)

    def open_plain(self) -> Opened[R]:
        """Make one, of a sync kind. In the thread that will also close it.

        Raises as `open` does, and TypeError where what was made is an awaitable.
        """
        value = self._make()
        if self._kind is Kind.CREATOR:
            if _is_awaitable(value):
                raise _refused_awaitable(value, f"the plain function {self.name}")
            self._refuse_careless(value)
            return Opened(self, value, None)
        steps = _steps(value)
        try:
            value = next(steps)
        except StopIteration:
            raise self._no_yield() from None
        return Opened(self, value, steps)

    def _no_yield(self) -> RuntimeError:
        return RuntimeError(f"{self.name} ended without a `yield`: it has to yield its resource, once")

    def _refuse_careless(self, value: object) -> None:
        """What has a way to be closed is not to be dropped without a word."""
        if self.destroy is not UNSET:
            return
        if isinstance(value, _BEGINNINGS):
            raise ConfigError(
                f"{self.name} returned {_the(value)}, not a resource: give the generator function itself, "
                "with its arguments by functools.partial; it has not begun, so nothing is open"
            )
        name = next((name for name in ("close", "aclose") if _has(value, name)), None)
        if name is not None:
            raise ConfigError(
                f"destroy: the resource that {self.name} made has {name}(), and nobody said how to take it down: "
                f"give destroy=…, or destroy=None if nothing is to be done, or write a generator function that "
                f"yields it; this one stays open: {_the(value)}"
            )


def check_fit(recipe: Recipe[Any], job: str, *, is_async: bool, in_thread: bool) -> None:
    """Raise NotAJob where a job would not run where its resource lives."""
    if in_thread and recipe.is_async:
        raise NotAJob(
            f"{job} is plain and would run in a thread, with the resource of {recipe.name}, "
            "which lives on the event loop: write it with `async def`, or say threadsafe=True"
        )
    if not in_thread and not recipe.is_async:
        raise NotAJob(
            f"{job} {'is async and ' if is_async else ''}would run on the event loop, with the resource of "
            f"{recipe.name}, which lives in a thread: write it with `def`, or say threadsafe=True if it may be used on "
            "the loop too"
        )


class Opened(Generic[R]):
    """A resource that was made, until it is closed."""

    __slots__ = ("_closed", "_recipe", "_steps", "value")

    def __init__(self, recipe: Recipe[R], value: R, steps: Any) -> None:
        self._recipe = recipe
        self._steps: Any = steps
        self._closed = False
        #: The resource itself.
        self.value = value

    def __repr__(self) -> str:
        return f"<Opened {self._recipe.name}{' closed' if self._closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether the taking down has begun."""
        return self._closed

    # --- taking down ----------------------------------------------------------------------

    async def close(self) -> None:
        """Take it down, in the task that opened it. What the user's code raises comes out.

        It counts as closed from the first moment. Raises RuntimeError if it has been closed before, or where a
        generator yields a second time; that generator is closed, too.

        Cancelling it cancels the user's code.
        """
        self._close_once()
        if self._steps is not None:
            await self._continue()
        elif (destroy := self._destroy()) is not None:
            result: Any = destroy(self.value)
            if _is_awaitable(result):
                await result

    def close_plain(self) -> None:
        """The same for a sync kind, in the thread that opened it. Raises TypeError if `destroy` gives an awaitable."""
        self._close_once()
        if self._steps is not None:
            self._continue_plain()
        elif (destroy := self._destroy()) is not None:
            result: object = destroy(self.value)
            if _is_awaitable(result):
                raise _refused_awaitable(result, f"the plain function {_name(destroy)} (destroy)")

    def _close_once(self) -> None:
        if self._closed:
            raise RuntimeError(f"the resource of {self._recipe.name} has been closed before")
        self._closed = True

    def _destroy(self) -> Callable[[R], object] | None:
        destroy = self._recipe.destroy
        return None if isinstance(destroy, Unset) else destroy

    async def _continue(self) -> None:
        steps: Any = self._steps
        self._steps = None
        try:
            await anext(steps)
        except StopAsyncIteration:
            return
        fault = self._second_yield()
        try:
            await steps.aclose()
        except Exception as error:
            raise fault from error
        raise fault

    def _continue_plain(self) -> None:
        steps: Any = self._steps
        self._steps = None
        try:
            next(steps)
        except StopIteration:
            return
        fault = self._second_yield()
        try:
            steps.close()
        except Exception as error:
            raise fault from error
        raise fault

    def _second_yield(self) -> RuntimeError:
        return RuntimeError(f"{self._recipe.name} yielded a second time: it has to yield its resource, once")

    # --- trying -----------------------------------------------------------------------------

    async def check(self) -> None:
        """Try whether it is fit. Raises Unfit where it is not; what is no `Exception` comes out as it is."""
        check = self._recipe.check
        if check is None:
            return
        try:
            result: Any = check(self.value)
            if _is_awaitable(result):
                result = await result
            fit = result is None or bool(result)
        except Exception as error:
            raise self._unfit(brief(error)) from error
        if not fit:
            raise self._unfit(f"it returned {_the(result)}")

    def check_plain(self) -> None:
        """The same for a sync kind, in its thread. A check that gives an awaitable has not passed."""
        check = self._recipe.check
        if check is None:
            return
        try:
            result: Any = check(self.value)
            if _is_awaitable(result):
                raise _refused_awaitable(result, f"the plain function {_name(check)} (check)")
            fit = result is None or bool(result)
        except Exception as error:
            raise self._unfit(brief(error)) from error
        if not fit:
            raise self._unfit(f"it returned {_the(result)}")

    def _unfit(self, why: str) -> Unfit:
        return Unfit(f"the resource of {self._recipe.name} did not pass its check: {why}")


# --- looking at callables ------------------------------------------------------------------


@contextmanager
def _plain_manager() -> Generator[None]:
    yield


@asynccontextmanager
async def _async_manager() -> AsyncIterator[None]:
    yield


#: What the two decorators put around a generator function, and what is returned then.
_PLAIN_HELPER: Final = _plain_manager.__code__
_ASYNC_HELPER: Final = _async_manager.__code__
_MANAGERS: Final[Any] = (type(_plain_manager()), type(_async_manager()))
#: What a generator function gives when it is called.
_BEGINNINGS: Final[Any] = (GeneratorType, AsyncGeneratorType, *_MANAGERS)
_CALLED: Final[Any] = (CoroutineType, *_BEGINNINGS)


def _core(fn: Any) -> Any:
    """The function (or method, class, builtin) that is called in the end."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, FunctionType | MethodType | type) or inspect.iscoroutinefunction(fn):
            return fn
        else:
            call = type(fn).__call__
            if not isinstance(call, FunctionType):
                return fn
            fn = call


def _kind_of(make: Any) -> Kind:
    """What `make` is. Raises ConfigError where it can never make a resource."""
    if isinstance(make, _CALLED):
        _close_coroutine(make)
        raise ConfigError(
            f"resource: {_the(make)} was called already: give the function that makes the resource, not its call"
        )
    if not callable(make):
        raise ConfigError(
            f"resource: {make!r} is not callable: give a function that makes the resource, a generator function "
            "that yields it, or its class"
        )
    core = _core(make)
    code = getattr(core, "__code__", None)
    managed = code is _PLAIN_HELPER or code is _ASYNC_HELPER
    refuse_signature(make, "resource", 0, inside=managed)
    if code is _ASYNC_HELPER or inspect.isasyncgenfunction(core):
        return Kind.ASYNC_GENERATOR
    if code is _PLAIN_HELPER or inspect.isgeneratorfunction(core):
        return Kind.GENERATOR
    return Kind.ASYNC_CREATOR if inspect.iscoroutinefunction(core) else Kind.CREATOR


def refuse_signature(fn: Callable[..., object], what: str, count: int, *, inside: bool = False) -> None:
    """Refuse what cannot be called with so many arguments. What does not tell its parameters is let through."""
    try:
        # Not behind decorators, which may add arguments.
        signature = inspect.signature(fn, follow_wrapped=inside)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        called = "without arguments" if count == 0 else "with the resource alone"
        raise ConfigError(
            f"{what}: {_name(fn)} is called {called}, and cannot be ({error}): give it the others by functools.partial"
        ) from None


def _steps(made: Any) -> Any:
    """The generator, also inside what a decorator has made of it."""
    return made.gen if isinstance(made, _MANAGERS) else made


def _name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


def _the(value: object) -> str:
    """A value in one line of bounded length, whatever its own text does."""
    try:
        words = repr(value)
    except Exception:
        words = f"<{type(value).__name__}>"
    return one_line(words[:200])


def _has(value: object, name: str) -> bool:
    try:
        return callable(getattr(value, name, None))
    except Exception:
        return False


def _is_awaitable(value: object) -> bool:
    return hasattr(type(value), "__await__")


def _close_coroutine(value: object) -> None:
    """Nobody will await it: closing it spares the user a second, misleading warning."""
    if isinstance(value, CoroutineType):
        value.close()


def _refused_awaitable(value: object, who: str) -> NotAJob:
    _close_coroutine(value)
    return NotAJob(
        f"{who} returned an awaitable, {_the(value)}, which nobody awaits: write it with `async def`, and await there"
    )
