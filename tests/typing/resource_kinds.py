"""What type checkers must see of a resource by the callable that makes it. Made for mypy and pyright; never run."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import TextIOWrapper
from typing import Any, Generic, TypedDict, TypeVar, Unpack, assert_type, overload

from runcrew.durations import Duration
from runcrew.workers.resource import (
    UNSET,
    Closes,
    FromAsync,
    FromAsyncGenerator,
    FromCall,
    FromGenerator,
    FromIterator,
    Unset,
)

R = TypeVar("R")
C = TypeVar("C", bound=Closes)


class Options(TypedDict, total=False):
    """What does not depend on the resource."""

    max_idle: Duration | None
    workers: int


class Door(Generic[R]):
    """As a door takes it: the first that fits says what the resource is."""

    @overload
    def __init__(self: Door[None], name: str = ..., *, resource: None = None, **options: Unpack[Options]) -> None: ...

    @overload
    def __init__(
        self,
        name: str = ...,
        *,
        resource: FromGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str = ...,
        *,
        resource: FromAsyncGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str = ...,
        *,
        resource: FromAsync[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self: Door[C],
        name: str = ...,
        *,
        resource: FromCall[C],
        destroy: Callable[[C], object] | None,
        check: Callable[[C], object] | None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str = ...,
        *,
        resource: FromIterator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str = ...,
        *,
        resource: FromCall[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    def __init__(
        self,
        name: str = "door",
        *,
        resource: Callable[[], Any] | None = None,
        destroy: Callable[[Any], object] | Unset | None = UNSET,
        check: Callable[[Any], object] | None = None,
        max_idle: Duration | None = None,
        workers: int = 1,
    ) -> None:
        self.name = name

    def run(self, fn: Callable[[R], object]) -> None: ...


class Connection:
    """A resource."""

    def close(self) -> None: ...

    async def ping(self) -> bool:
        return True


def generator() -> Generator[Connection]:
    yield Connection()


def whole_generator() -> Generator[Connection, None, None]:
    yield Connection()


def iterator() -> Iterator[Connection]:
    yield Connection()


async def async_generator() -> AsyncGenerator[Connection]:
    yield Connection()


async def async_iterator() -> AsyncIterator[Connection]:
    yield Connection()


@contextmanager
def managed() -> Iterator[Connection]:
    yield Connection()


@contextmanager
def managed_at(address: str) -> Generator[Connection]:
    yield Connection()


@asynccontextmanager
async def async_managed() -> AsyncIterator[Connection]:
    yield Connection()


@asynccontextmanager
async def async_managed_at(address: str) -> AsyncGenerator[Connection]:
    yield Connection()


async def coroutine() -> Connection:
    return Connection()


def awaitable() -> Awaitable[Connection]:
    return coroutine()


def plain(address: str = "") -> Connection:
    return Connection()


async def tidy(connection: Connection) -> None: ...


class Maker:
    """Makes in several ways."""

    def __call__(self) -> Connection:
        return Connection()

    async def coroutine(self) -> Connection:
        return Connection()

    def generator(self) -> Generator[Connection]:
        yield Connection()


def each_way_to_make_it_is_seen() -> None:
    assert_type(Door(resource=generator), Door[Connection])
    assert_type(Door(resource=whole_generator), Door[Connection])
    assert_type(Door(resource=iterator), Door[Connection])
    assert_type(Door(resource=async_generator), Door[Connection])
    assert_type(Door(resource=async_iterator), Door[Connection])
    assert_type(Door(resource=managed), Door[Connection])
    assert_type(Door(resource=functools.partial(managed_at, "here")), Door[Connection])
    assert_type(Door(resource=async_managed), Door[Connection])
    assert_type(Door(resource=functools.partial(async_managed_at, "here")), Door[Connection])
    assert_type(Door(resource=coroutine, destroy=Connection.close), Door[Connection])
    assert_type(Door(resource=coroutine, destroy=tidy), Door[Connection])
    assert_type(Door(resource=plain, destroy=None, check=Connection.ping), Door[Connection])
    assert_type(Door(resource=functools.partial(plain, "here"), destroy=Connection.close), Door[Connection])
    assert_type(Door(resource=Connection, destroy=Connection.close), Door[Connection])
    assert_type(Door(resource=lambda: Connection(), destroy=lambda c: c.close()), Door[Connection])
    assert_type(Door(resource=Maker(), destroy=Connection.close, workers=3), Door[Connection])
    assert_type(Door(resource=Maker().coroutine, destroy=Connection.close), Door[Connection])
    assert_type(Door(resource=Maker().generator), Door[Connection])


def what_is_a_context_manager_too_is_the_resource_itself() -> None:
    connect = functools.partial(sqlite3.connect, ":memory:")
    assert_type(Door(resource=connect, destroy=sqlite3.Connection.close), Door[sqlite3.Connection])
    assert_type(Door(resource=lambda: [1]), Door[list[int]])
    assert_type(Door(resource=dict[str, int]), Door[dict[str, int]])
    assert_type(Door(resource=threading.Lock), Door[threading.Lock])
    read = functools.partial(open, "name", encoding="utf-8")
    assert_type(Door(resource=read, destroy=TextIOWrapper.close), Door[TextIOWrapper])


def no_resource_is_seen() -> None:
    assert_type(Door(), Door[None])
    assert_type(Door("name", resource=None, workers=2), Door[None])


def jobs_get_the_resource(connection: Connection) -> None:
    def job(connection: Connection) -> None: ...

    Door(resource=async_generator).run(job)
    Door(resource=generator).run(tidy)
    Door(resource=threading.Event).run(job)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Door(resource=plain, destroy=sqlite3.Connection.close)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]
