"""A resource: made by whatever makes it, tried by its check, taken down exactly once; refused where it cannot work."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from runcrew.errors import ConfigError
from runcrew.testing import run_virtual
from runcrew.workers.resource import UNSET, Opened, Recipe, Unfit

#: What happened, in order.
log: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    log.clear()


class Thing:
    """A resource that has nothing to close."""


class Closable:
    """A resource that has."""

    def close(self) -> None:
        log.append("close")


def open_any(recipe: Recipe[Any]) -> Opened[Any]:
    """Open it in its own way."""
    return run_virtual(recipe.open()) if recipe.is_async else recipe.open_plain()


def go_through(recipe: Recipe[Any]) -> Any:
    """Open and close it in its own way; give what it was."""

    async def main() -> Any:
        opened = await recipe.open()
        log.append("opened")
        await opened.close()
        return opened.value

    if recipe.is_async:
        return run_virtual(main)
    opened = recipe.open_plain()
    log.append("opened")
    opened.close_plain()
    return opened.value


# --- kinds ------------------------------------------------------------------------------


def generator(what: str = "resource") -> Iterator[str]:
    log.append("up")
    yield what
    log.append("down")


async def async_generator(what: str = "resource") -> AsyncIterator[str]:
    log.append("up")
    yield what
    await asyncio.sleep(1)
    log.append("down")


class Makers:
    """Makes resources in its methods, and by being called."""

    def __call__(self) -> Iterator[str]:
        yield from generator()

    def generator(self, what: str = "resource") -> Iterator[str]:
        yield from generator(what)

    async def async_generator(self) -> AsyncIterator[str]:
        async for what in async_generator():
            yield what

    @contextmanager
    def managed(self) -> Iterator[str]:
        yield from generator()

    @classmethod
    async def made(cls) -> str:
        log.append("up")
        return "resource"


class AsyncCall:
    """An object that is called like an async function."""

    async def __call__(self) -> str:
        log.append("up")
        return "resource"


def creator(what: str = "resource") -> str:
    log.append("up")
    return what


async def async_creator(what: str = "resource") -> str:
    await asyncio.sleep(1)
    log.append("up")
    return what


def destroy(what: str) -> None:
    assert "resource" == what
    log.append("down")


async def async_destroy(what: str) -> None:
    await asyncio.sleep(1)
    destroy(what)


@pytest.mark.parametrize(
    ("make", "is_async", "name"),
    [
        (generator, False, "generator"),
        (functools.partial(functools.partial(generator), "resource"), False, "generator"),
        (contextmanager(generator), False, "generator"),
        (functools.partial(contextmanager(generator), "resource"), False, "generator"),
        (Makers(), False, "Makers"),
        (Makers().generator, False, "generator"),
        (functools.partial(Makers().generator, what="resource"), False, "generator"),
        (Makers().managed, False, "managed"),
        (async_generator, True, "async_generator"),
        (functools.partial(async_generator, "resource"), True, "async_generator"),
        (asynccontextmanager(async_generator), True, "async_generator"),
        (Makers().async_generator, True, "async_generator"),
    ],
)
def test_a_generator_is_entered_and_left(make: Callable[[], Any], is_async: bool, name: str) -> None:
    """What a generator function yields is the resource, and what is behind its yield takes it down."""
    recipe = Recipe[str](make)
    assert (is_async, name) == (recipe.is_async, recipe.name)
    assert [] == log
    assert "resource" == go_through(recipe)
    assert ["up", "opened", "down"] == log


@pytest.mark.parametrize(
    ("make", "destroy", "is_async", "name"),
    [
        (creator, destroy, False, "creator"),
        (functools.partial(creator, "resource"), functools.partial(destroy), False, "creator"),
        (lambda: creator(), destroy, False, "<lambda>"),
        (async_creator, destroy, True, "async_creator"),
        (async_creator, async_destroy, True, "async_creator"),
        (async_creator, lambda what: async_destroy(what), True, "async_creator"),
        (functools.partial(async_creator, "resource"), async_destroy, True, "async_creator"),
        (Makers.made, destroy, True, "made"),
        (AsyncCall(), destroy, True, "AsyncCall"),
    ],
)
def test_what_a_creator_made_is_destroyed(
    make: Callable[[], Any], destroy: Callable[[str], Any], is_async: bool, name: str
) -> None:
    """What another callable returns is the resource, and destroy takes it down."""
    recipe = Recipe(make, destroy=destroy)
    assert (is_async, name) == (recipe.is_async, recipe.name)
    assert "resource" == go_through(recipe)
    assert ["up", "opened", "down"] == log


@pytest.mark.parametrize("make", [Thing, dict, functools.partial(int, "3"), threading.Lock, lambda: None])
def test_what_has_nothing_to_close_needs_no_destroy(make: Callable[[], Any]) -> None:
    """A class or a builtin is a creator, and a context manager is a resource like any other."""
    recipe = Recipe[Any](make)
    assert not recipe.is_async
    assert type(make()) is type(go_through(recipe))


def test_a_database_is_not_closed_by_being_a_context_manager() -> None:
    """A connection of sqlite3 is given as it is, and closed by what was given for that."""
    connect = functools.partial(sqlite3.connect, ":memory:")
    opened = Recipe[sqlite3.Connection](connect, destroy=sqlite3.Connection.close).open_plain()
    assert [(1,)] == opened.value.execute("select 1").fetchall()
    opened.close_plain()
    with pytest.raises(sqlite3.ProgrammingError):
        opened.value.execute("select 1")


def test_destroy_none_leaves_it_open() -> None:
    """None says that nothing is to be done."""
    go_through(Recipe[Closable](Closable, destroy=None))
    assert ["opened"] == log


# --- refused at construction --------------------------------------------------------------


def needs_two(one: object, two: object) -> Any:
    """Takes what nobody gives."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (3, "3 is not callable"),
        (None, "None is not callable"),
        (generator(), "called already"),
        (async_generator(), "called already"),
        (contextmanager(generator)(), "called already"),
        (asynccontextmanager(async_generator)(), "called already"),
        (needs_two, "functools.partial"),
        (contextmanager(needs_two), "functools.partial"),
        (functools.partial(needs_two, 1), "functools.partial"),
    ],
)
def test_what_can_make_nothing_is_refused(make: Any, said: str) -> None:
    """At construction, and the remedy is named."""
    with pytest.raises(ConfigError, match=said) as caught:
        Recipe(make)
    assert str(caught.value).startswith("resource: ")


def test_a_coroutine_is_refused_without_a_warning() -> None:
    """A coroutine object that was given for its function is closed."""
    with pytest.raises(ConfigError, match="called already"):
        Recipe(async_creator())  # type: ignore[arg-type]


async def a_check(_: object) -> bool:
    return True


def yields(_: object) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (generator, {"destroy": destroy}, "leave destroy= out"),
        (generator, {"destroy": None}, "leave destroy= out"),
        (async_generator, {"destroy": destroy}, "leave destroy= out"),
        (contextmanager(generator), {"destroy": destroy}, "leave destroy= out"),
        (creator, {"destroy": 3}, "destroy: 3 is not callable"),
        (creator, {"destroy": async_destroy}, "made by an async function"),
        (creator, {"destroy": needs_two}, "functools.partial"),
        (creator, {"destroy": yields}, "generator function"),
        (creator, {"check": 3}, "check: 3 is not callable"),
        (creator, {"check": a_check}, "made by an async function"),
        (generator, {"check": functools.partial(a_check)}, "made by an async function"),
        (async_creator, {"check": needs_two}, "functools.partial"),
        (async_creator, {"check": yields}, "generator function"),
        (creator, {"max_idle": -1}, "max_idle: -1"),
        (creator, {"max_idle": 0}, "max_idle: 0"),
        (creator, {"max_age": "soon"}, "max_age: 'soon'"),
        (creator, {"max_age": 0}, "max_age: 0"),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], Any], options: dict[str, Any], said: str) -> None:
    """At construction: the value and the remedy are named."""
    with pytest.raises(ConfigError, match=said):
        Recipe(make, **options)


def test_behind_a_decorator_nothing_is_assumed() -> None:
    """A decorator may give what the function inside needs."""

    def with_two(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def inner(*args: Any) -> Any:
            return fn(*args, 1, 2)

        return inner

    assert go_through(Recipe[Any](with_two(needs_two))) is None


def test_limits_are_seconds() -> None:
    """max_idle and max_age are spans, and None where not given."""
    recipe = Recipe[str](generator, max_idle="1m", max_age=5)
    assert (60.0, 5.0, False) == (recipe.max_idle, recipe.max_age, recipe.has_check)
    recipe = Recipe(generator, check=len)
    assert (None, None, True) == (recipe.max_idle, recipe.max_age, recipe.has_check)
    assert UNSET is recipe.destroy


# --- openings that fail -------------------------------------------------------------------


class AsyncClosable:
    """A resource with an asynchronous end."""

    async def aclose(self) -> None:
        log.append("aclose")


async def make_closable() -> Closable:
    return Closable()


async def make_async_closable() -> AsyncClosable:
    return AsyncClosable()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Closable, "close"),
        (lambda: open("/dev/null"), "close"),  # noqa: SIM115
        (AsyncClosable, "aclose"),
        (make_closable, "close"),
        (make_async_closable, "aclose"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_could_be_closed_is_not_dropped_in_silence(make: Callable[[], Any], name: str) -> None:
    """A resource with close or aclose, and no destroy: the opening fails, names the remedy and what stays open."""
    with pytest.raises(ConfigError, match=rf"has {name}\(\).*destroy=….*destroy=None.*stays open: <") as caught:
        open_any(Recipe[Any](make))
    assert str(caught.value).startswith("destroy: ")
    assert [] == log


@pytest.mark.parametrize(
    "make",
    [
        lambda: generator(),
        lambda: async_generator(),
        lambda: contextmanager(generator)(),
        lambda: asynccontextmanager(async_generator)(),
    ],
)
def test_a_generator_behind_a_plain_function_is_refused(make: Callable[[], Any]) -> None:
    """It would never be entered: the remedy is to give the function itself."""
    with pytest.raises(ConfigError, match=r"give the generator function itself.*functools\.partial"):
        open_any(Recipe[Any](make))
    assert [] == log


def test_what_looks_strange_is_looked_at_with_care() -> None:
    """A resource whose attributes and whose text raise can be opened, and named."""

    class Strange:
        @property
        def close(self) -> None:
            raise RuntimeError("no")

        def aclose(self) -> None: ...

        def __repr__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(ConfigError, match=r"has aclose.*<Strange>"):
        open_any(Recipe[Any](Strange))


def test_a_plain_function_that_gives_an_awaitable_is_refused() -> None:
    """With TypeError that names both; a coroutine is closed, so that no warning follows."""
    with pytest.raises(TypeError, match=r"plain function <lambda> returned an awaitable.*async_creator.*async def"):
        open_any(Recipe[Any](lambda: async_creator()))

    class Later:
        def __await__(self) -> Iterator[Any]:
            yield

    with pytest.raises(TypeError, match="Later"):
        open_any(Recipe[Any](Later, destroy=None))


def empty() -> Iterator[str]:
    if log:
        yield ""


async def async_empty() -> AsyncIterator[str]:
    if log:
        yield ""


@pytest.mark.parametrize("make", [empty, async_empty, contextmanager(empty), asynccontextmanager(async_empty)])
def test_a_generator_has_to_yield(make: Callable[[], Any]) -> None:
    """One that ends without a yield is an error that says so."""
    with pytest.raises(RuntimeError, match="empty ended without a `yield`") as caught:
        open_any(Recipe[Any](make))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def twice() -> Iterator[str]:
    try:
        yield "one"
        yield "two"
    finally:
        log.append("down")


async def async_twice() -> AsyncIterator[str]:
    try:
        yield "one"
        yield "two"
    finally:
        log.append("down")


@pytest.mark.parametrize("make", [twice, async_twice, contextmanager(twice), asynccontextmanager(async_twice)])
def test_a_generator_has_to_yield_once(make: Callable[[], Any]) -> None:
    """One that yields a second time is closed, and is an error that says so."""
    with pytest.raises(RuntimeError, match="twice yielded a second time"):
        go_through(Recipe[Any](make))
    assert ["opened", "down"] == log


def stubborn() -> Iterator[str]:
    yield "one"
    try:
        yield "two"
    finally:
        raise ValueError("mine")


async def async_stubborn() -> AsyncIterator[str]:
    yield "one"
    try:
        yield "two"
    finally:
        raise ValueError("mine")


@pytest.mark.parametrize("make", [stubborn, async_stubborn])
def test_what_fails_behind_a_second_yield_is_the_cause(make: Callable[[], Any]) -> None:
    """The error of a generator that is closed after its second yield is kept."""
    with pytest.raises(RuntimeError, match="a second time") as caught:
        go_through(Recipe[Any](make))
    assert "mine" == str(caught.value.__cause__)


ERRORS = [ValueError("mine"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]


def drive(coroutine: Any) -> Any:
    """Step a coroutine by hand: an event loop would end over some of the errors."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    finally:
        coroutine.close()


def failing(error: BaseException) -> list[Callable[[], Any]]:
    """All kinds, raising `error` when they are opened."""

    def plain() -> None:
        raise error

    def steps() -> Iterator[None]:
        try:
            raise error
            yield
        finally:
            log.append("down")

    async def coroutine() -> None:
        raise error

    async def async_steps() -> AsyncIterator[None]:
        try:
            raise error
            yield
        finally:
            log.append("down")

    return [plain, steps, coroutine, async_steps]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", range(4))
def test_the_errors_of_an_opening_come_out(error: BaseException, kind: int) -> None:
    """Whatever is raised is the very object, and a generator has ended."""
    recipe = Recipe[Any](failing(error)[kind])
    with pytest.raises(type(error)) as caught:
        drive(recipe.open()) if recipe.is_async else recipe.open_plain()
    assert error is caught.value
    assert (["down"] if kind in (1, 3) else []) == log


# --- taking down ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS)
def test_the_errors_of_a_taking_down_come_out(error: BaseException) -> None:
    """Whatever is raised behind the yield or in destroy is the very object, and it counts as closed."""

    def fail(_: object = None) -> None:
        raise error

    def steps() -> Iterator[None]:
        yield
        fail()

    async def async_steps() -> AsyncIterator[None]:
        yield
        fail()

    async def later(_: object) -> None:
        fail()

    for plain in (Recipe[Any](steps), Recipe[Any](creator, destroy=fail)):
        opened = plain.open_plain()
        with pytest.raises(type(error)) as caught:
            opened.close_plain()
        assert error is caught.value
        with pytest.raises(RuntimeError, match="closed before"):
            opened.close_plain()

    for recipe in (Recipe[Any](async_steps), *[Recipe[Any](AsyncCall(), destroy=d) for d in (fail, later)]):
        opened = drive(recipe.open())
        with pytest.raises(type(error)) as caught:
            drive(opened.close())
        assert error is caught.value
        with pytest.raises(RuntimeError, match="closed before"):
            drive(opened.close())


def test_a_second_close_is_a_fault() -> None:
    """What was taken down once is never taken down again."""
    opened = Recipe(creator, destroy=destroy).open_plain()
    opened.close_plain()
    with pytest.raises(RuntimeError, match="the resource of creator has been closed before"):
        opened.close_plain()
    assert ["up", "down"] == log


def test_a_second_close_while_the_first_is_under_way_is_a_fault() -> None:
    """It counts as closed from the first moment."""

    async def main() -> None:
        opened = await Recipe[str](async_generator).open()
        first = asyncio.create_task(opened.close())
        await asyncio.sleep(0.5)
        with pytest.raises(RuntimeError, match="closed before"):
            await opened.close()
        await first

    run_virtual(main)
    assert ["up", "down"] == log


def test_a_plain_destroy_that_gives_an_awaitable_fails() -> None:
    """In a thread nobody can await it: TypeError that names it, and no warning."""
    opened = Recipe[str](creator, destroy=lambda what: async_destroy(what)).open_plain()
    with pytest.raises(TypeError, match=r"<lambda>.*async_destroy"):
        opened.close_plain()


# --- cancellation ----------------------------------------------------------------------------


def test_cancelling_an_opening_cancels_the_users_code() -> None:
    """CancelledError arrives where the user's code waits, and a generator has ended then."""

    async def slow() -> AsyncIterator[str]:
        try:
            await asyncio.sleep(100)
            yield ""
        finally:
            log.append("down")

    async def main() -> None:
        for recipe in (Recipe[Any](slow), Recipe[Any](async_creator)):
            task = asyncio.create_task(recipe.open())
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run_virtual(main)
    assert ["down"] == log


def test_an_opening_may_end_in_spite_of_a_cancellation() -> None:
    """What the user's code makes after it has swallowed a cancellation is given, so that it can be taken down."""

    async def deaf() -> AsyncIterator[str]:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            log.append("deaf")
        yield "resource"
        log.append("down")

    async def main() -> None:
        task = asyncio.create_task(Recipe[str](deaf).open())
        await asyncio.sleep(1)
        task.cancel()
        await (await task).close()

    run_virtual(main)
    assert ["deaf", "down"] == log


def test_cancelling_a_taking_down_cancels_the_users_code() -> None:
    """CancelledError arrives behind the yield."""

    async def slow() -> AsyncIterator[str]:
        yield ""
        try:
            await asyncio.sleep(100)
        finally:
            log.append("cut")

    async def main() -> None:
        opened = await Recipe[str](slow).open()
        task = asyncio.create_task(opened.close())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main)
    assert ["cut"] == log


# --- checks ---------------------------------------------------------------------------------


def checked(check: Callable[[Any], Any], *, of: Callable[[], Any] = creator) -> None:
    """Make one and try it."""

    async def main() -> None:
        opened = await recipe.open()
        await opened.check()

    recipe = Recipe[Any](of, check=check)
    if recipe.is_async:
        run_virtual(main)
    else:
        recipe.open_plain().check_plain()


@pytest.mark.parametrize("of", [creator, async_creator])
@pytest.mark.parametrize("answer", [True, 1, "yes", object(), None])
def test_a_fit_resource_passes(of: Callable[[], Any], answer: object) -> None:
    """Something true, and None from a check that raises where it has to."""

    def check(what: str) -> object:
        log.append(what)
        return answer

    checked(check, of=of)
    assert ["up", "resource"] == log


@pytest.mark.parametrize("of", [creator, async_creator])
@pytest.mark.parametrize("answer", [False, 0, "", []])
def test_an_unfit_resource_does_not_pass(of: Callable[[], Any], answer: object) -> None:
    """Anything else is Unfit, which says what the check returned."""
    with pytest.raises(Unfit, match="did not pass its check: it returned") as caught:
        checked(lambda _: answer, of=of)
    assert str(caught.value).endswith(repr(answer))


@pytest.mark.parametrize("of", [creator, async_creator])
def test_a_check_that_raises_is_not_passed(of: Callable[[], Any]) -> None:
    """An Exception of the check, or of the truth of its answer, is the cause of Unfit."""
    error = ValueError("mine")

    class Torn:
        def __bool__(self) -> bool:
            raise error

    def fail(_: object) -> None:
        raise error

    for check in (fail, lambda _: Torn()):
        with pytest.raises(Unfit, match="ValueError: mine") as caught:
            checked(check, of=of)
        assert error is caught.value.__cause__


@pytest.mark.parametrize("error", ERRORS[1:])
def test_what_is_no_exception_comes_out_of_a_check(error: BaseException) -> None:
    """It is for the caller to judge."""

    def fail(_: object) -> None:
        raise error

    async def later(_: object) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        Recipe(creator, check=fail).open_plain().check_plain()
    assert error is caught.value
    for check in (fail, later):
        opened = drive(Recipe[str](AsyncCall(), check=check).open())
        with pytest.raises(type(error)) as caught:
            drive(opened.check())
        assert error is caught.value


def test_an_async_check_is_awaited() -> None:
    """Also one that is behind a plain function."""

    async def no(what: str) -> bool:
        await asyncio.sleep(1)
        return what != "resource"

    for check in (no, lambda what: no(what)):
        with pytest.raises(Unfit, match="returned False"):
            checked(check, of=async_creator)


def test_an_awaitable_in_a_thread_is_no_answer() -> None:
    """A plain check that gives a coroutine has not passed, and the coroutine is closed."""
    with pytest.raises(Unfit, match="a_check") as caught:
        checked(lambda what: a_check(what))
    assert isinstance(caught.value.__cause__, TypeError)


def test_without_a_check_everything_is_fit() -> None:
    """check does nothing where none was given."""
    Recipe[str](creator).open_plain().check_plain()
    drive(drive(Recipe[str](AsyncCall()).open()).check())


def test_a_faulty_resource_is_left_like_any_other() -> None:
    """Nothing is thrown into a generator whose resource did not pass: it is continued."""

    def steps() -> Iterator[str]:
        try:
            yield "resource"
        except BaseException:
            log.append("thrown")
        else:
            log.append("continued")

    opened = Recipe[str](steps, check=lambda _: False).open_plain()
    with pytest.raises(Unfit):
        opened.check_plain()
    opened.close_plain()
    assert ["continued"] == log


def test_recipes_and_resources_say_what_they_are() -> None:
    """Their texts name what makes the resource, and how."""
    recipe = Recipe[str](creator)
    opened = recipe.open_plain()
    assert ("<Recipe creator (a function)>", "<Opened creator>") == (repr(recipe), repr(opened))
    opened.close_plain()
    assert "<Opened creator closed>" == repr(opened)
