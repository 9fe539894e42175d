"""What type checkers must see of a pool's job by the resource it is called with. For mypy and pyright; never run."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, assert_type

import runcrew as rc
from runcrew.abc import Service
from runcrew.workers import Change

crew = rc.Crew("typed")


class Connection:
    """A resource."""

    def close(self) -> None: ...

    def use(self) -> None: ...

    async def ping(self) -> bool:
        return True


class Better(Connection):
    """A special one."""


def generator() -> Generator[Connection]:
    yield Connection()


def better() -> Generator[Better]:
    yield Better()


def iterator() -> Iterator[Connection]:
    yield Connection()


async def async_generator() -> AsyncGenerator[Connection]:
    yield Connection()


@contextmanager
def managed() -> Iterator[Connection]:
    yield Connection()


@asynccontextmanager
async def async_managed() -> AsyncIterator[Connection]:
    yield Connection()


async def coroutine() -> Connection:
    return Connection()


async def bare() -> None: ...


def plain() -> int:
    return 1


async def job(connection: Connection) -> str:
    return "done"


def plain_job(connection: Connection) -> None: ...


def other_job(connection: sqlite3.Connection) -> None: ...


def factory() -> Callable[[], Awaitable[None]]:
    return bare


async def async_factory() -> Callable[[], int]:
    return plain


def a_job_without_a_resource_takes_nothing() -> None:
    assert_type(rc.Pool(bare), rc.Pool)
    rc.Pool(plain, name="plain", min=1, max=20, initial=3, middleware=[rc.Counter()])
    rc.Pool(functools.partial(plain_job, Connection()), scale=rc.Scale(), max=4)
    rc.Pool(job)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]
    rc.Pool(bare, wrokers=4)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    rc.Pool()  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


def a_factory_gives_such_a_job() -> None:
    rc.Pool(job_factory=factory)
    rc.Pool(job_factory=async_factory, initial=2)
    rc.Pool(bare, job_factory=factory)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue,reportArgumentType]


def a_job_takes_what_the_resource_is() -> None:
    rc.Pool(plain_job, resource=generator)
    rc.Pool(plain_job, resource=better)
    rc.Pool(plain_job, resource=iterator)
    rc.Pool(job, resource=async_generator, max=4)
    rc.Pool(plain_job, resource=managed)
    rc.Pool(job, resource=async_managed)
    rc.Pool(job, resource=coroutine, destroy=Connection.close, check=Connection.ping)
    rc.Pool(plain_job, resource=Connection, destroy=Connection.close)
    rc.Pool(Connection.use, resource=Connection, destroy=None, healthy=lambda error: True)
    rc.Pool(lambda connection: connection.use(), resource=generator)
    rc.Pool(lambda lock: lock.locked(), resource=threading.Lock)


def a_job_for_another_resource_is_refused() -> None:
    rc.Pool(other_job, resource=generator)  # type: ignore[misc] # pyright: ignore[reportCallIssue,reportArgumentType]
    rc.Pool(other_job, resource=async_generator)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]
    rc.Pool(bare, resource=generator)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]
    rc.Pool(plain_job, resource=Connection, destroy=sqlite3.Connection.close)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]


def a_crew_takes_the_same() -> None:
    assert_type(crew.pool("bare", bare, min=1, max=20, depends_on=["db"], on_failure="restart"), rc.Pool)
    crew.pool("made", job_factory=factory, stop_on_error=True)
    crew.pool("generator", plain_job, resource=generator)
    crew.pool("iterator", plain_job, resource=iterator)
    crew.pool("async generator", job, resource=async_generator, check=Connection.ping)
    crew.pool("coroutine", job, resource=coroutine, destroy=Connection.close)
    crew.pool("closes", plain_job, resource=Connection, destroy=None)
    crew.pool("lock", lambda lock: lock.locked(), resource=threading.Lock)
    crew.pool("job", job)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]
    crew.pool("other", other_job, resource=generator)  # type: ignore[misc] # pyright: ignore[reportCallIssue,reportArgumentType]
    crew.pool("bare", bare, wrokers=4)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


async def a_pool_is_a_service_with_a_size(pool: rc.Pool) -> None:
    contract: Service = pool
    assert_type(await contract.start(), None)
    assert_type(pool.size, int)
    assert_type(pool.more(2), Change)
    assert_type(await pool.less(mode="now"), int)
    assert_type(await pool.resize(3), int)
    assert_type(pool.stats(), rc.PoolStats)
    assert_type(pool.stats().utilisation, float | None)
    assert_type(await pool.stop(), rc.StopReport)
    pool.less(mode="never")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def a_middleware_is_shared_or_one_for_each_worker() -> None:
    crew.pool("paced", bare, middleware=[rc.Elapsed(), rc.per_worker(lambda: rc.Pace(every="1s"))])
    anything: Any = crew["paced"]
    rc.Pool(anything)
