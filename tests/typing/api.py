"""What type checkers must see of the public names. Made for mypy and pyright; no function of it is called.

Each `assert_type` is a promise to users; a line that turns red is a change that users would notice.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, assert_type

import runcrew as rc
from runcrew.abc import Backoff, Handler, Middleware, Service
from runcrew.durations import Duration, optional, seconds
from runcrew.job import Outcome, Run, Status, current_run


def an_outcome_is_typed_by_its_value(outcome: Outcome[int]) -> None:
    assert_type(outcome.unwrap(), int)
    assert_type(outcome.value, int | None)
    assert_type(outcome.status, Status)
    assert_type(outcome.error, BaseException | None)
    assert_type(outcome.started_at, datetime | None)
    wider: Outcome[float] = outcome  # an outcome is read only, so it is covariant
    assert_type(wider.ok, bool)


def a_span_is_seconds_inside(value: Duration) -> None:
    assert_type(seconds(value), float)
    assert_type(optional(None), float | None)


async def a_job_asks_about_its_run() -> None:
    run = current_run()
    assert_type(run, Run)
    assert_type(run.deadline, datetime | None)
    assert_type(run.cancelled, bool)
    assert_type(await run.sleep("1s"), bool)


def a_middleware_has_the_shape_of_what_it_wraps(middleware: Middleware, handler: Handler) -> None:
    assert_type(middleware(handler), Handler)


async def a_handler_gives_an_outcome(handler: Handler, run: Run) -> None:
    assert_type(await handler(run), Outcome[Any])


# --- policies --------------------------------------------------------------------------


async def load(key: str, times: int) -> bytes:
    return key.encode() * times


def read(path: str) -> bytes:
    return path.encode()


async def a_call_gives_what_the_function_gives() -> None:
    assert_type(await rc.call(load, "key", 2, timeout="1s"), bytes)
    assert_type(await rc.call(read, "path", retry=rc.Retry(OSError)), bytes)
    assert_type(await rc.policy(timeout=1).call(load, "key", 2), bytes)
    await rc.call(load, "key", "two")  # type: ignore[arg-type, call-arg]


async def a_policy_keeps_the_signature() -> None:
    careful = rc.policy(retry=[rc.Retry(OSError, retries=rc.UNLIMITED), rc.Retry(when=bool, retries=0)], deadline="1m")
    assert_type(careful, rc.Policy)
    assert_type(await careful(load)("key", times=2), bytes)
    assert_type(careful(read)("path"), bytes)
    careful(read)(1)  # type: ignore[arg-type]


async def a_wrapped_function_is_async(middleware: Middleware) -> None:
    assert_type(await rc.wrap(load, middleware)("key", 2), bytes)
    assert_type(await rc.wrap(read)("path"), bytes)


def backoffs_are_of_one_kind(own: Backoff) -> None:
    assert_type(rc.Exponential("2s", cap="60s", factor=3).delay(0), float)
    assert_type(rc.Constant(timedelta(seconds=1)).delay(0), float)
    rc.Retry(OSError, backoff=own)
    rc.Retry("OSError")  # type: ignore[arg-type]


# --- supervision -----------------------------------------------------------------------

crew = rc.Crew("orders", timeout="30s")


@crew.oneshot
async def once() -> int:
    return 1


@crew.interval("10s", retry=rc.Retry(OSError), depends_on=["once"])
def often() -> str:
    return "plain"


async def decorators_give_the_function_back() -> None:
    assert_type(await once(), int)
    assert_type(often(), str)


def a_job_takes_no_arguments() -> None:
    rc.OneShot(load)  # type: ignore[arg-type]
    rc.Interval(functools.partial(load, "key", 2), "1s")


async def every_service_has_one_lifecycle(service: rc.OneShot | rc.Interval | rc.Supervisor | rc.Crew) -> None:
    assert_type(await service.start(), None)
    assert_type(service.state, rc.State)
    assert_type(await service.stop("5s"), rc.StopReport)
    assert_type(await service.kill(), rc.StopReport)
    assert_type(await service.wait(), rc.StopReport)
    contract: Service = service
    rc.Supervisor(contract, name="nested")
    async with service as entered:
        assert_type(entered, rc.OneShot | rc.Interval | rc.Supervisor | rc.Crew)


# --- queues ------------------------------------------------------------------------------


class Connection:
    """Stands for a resource."""

    def close(self) -> None: ...


async def connect() -> AsyncIterator[Connection]:
    yield Connection()


def open_file() -> Iterator[sqlite3.Connection]:
    yield sqlite3.connect(":memory:")


async def log_in() -> Connection:
    return Connection()


async def load_user(conn: Connection, number: int) -> str:
    return f"{conn} {number}"


def count_rows(conn: sqlite3.Connection, table: str) -> int:
    return len(table)


def a_queue_is_typed_by_what_makes_its_resource() -> None:
    assert_type(rc.Queue("db", resource=connect, workers=4), rc.Queue[Connection])
    assert_type(rc.Queue("db", resource=open_file, max_age="1h"), rc.Queue[sqlite3.Connection])
    assert_type(rc.Queue("db", resource=log_in, destroy=Connection.close), rc.Queue[Connection])
    assert_type(rc.Queue("db", resource=Connection, destroy=Connection.close), rc.Queue[Connection])
    assert_type(rc.Queue("db", resource=Connection, destroy=None, check=bool), rc.Queue[Connection])
    assert_type(rc.Queue(), rc.Queue[rc.NoResource])
    rc.Queue("db", wrokers=4)  # type: ignore[call-overload]


def a_crew_makes_the_same() -> None:
    assert_type(crew.queue("db", resource=connect, workers=4, depends_on=["once"]), rc.Queue[Connection])
    assert_type(crew.queue("files", resource=open_file, on_failure="restart"), rc.Queue[sqlite3.Connection])
    assert_type(crew.queue("in", resource=log_in, destroy=Connection.close), rc.Queue[Connection])
    assert_type(crew.queue("own", resource=Connection, destroy=None), rc.Queue[Connection])
    assert_type(crew.queue("made", resource=contextmanager(open_file)), rc.Queue[sqlite3.Connection])
    assert_type(crew.queue("bare", maxsize=None, overflow="drop_oldest"), rc.Queue[rc.NoResource])
    crew.queue("db", wrokers=4)  # type: ignore[call-overload]


async def a_submit_gives_what_the_job_gives(db: rc.Queue[Connection], files: rc.Queue[sqlite3.Connection]) -> None:
    assert_type(await db.run(load_user, 7, priority=rc.HIGH, timeout=None), str)
    assert_type(await files.run(count_rows, "user", delay="1s"), int)
    assert_type(await db.run_now(load_user, 7, deadline="2s"), str)
    ticket = await db.submit(load_user, 7, at_most_once=True)
    assert_type(ticket, rc.Ticket[str])
    assert_type(db.submit_nowait(load_user, 7), rc.Ticket[str])
    assert_type(await ticket, str)
    assert_type(await ticket.outcome(), Outcome[str])
    assert_type(ticket.peek(), Outcome[str] | None)
    assert_type(ticket.status, Status | None)
    assert_type(ticket.cancel(), bool)
    ticket.on_done(lambda done: assert_type(done, rc.Ticket[str]))
    await db.run(load_user, "seven")  # type: ignore[arg-type]
    await db.run(count_rows, "user")  # type: ignore[arg-type]
    await db.run(load_user, 7, prioritty=1)  # type: ignore[call-overload]


async def a_queue_without_a_resource_gives_none(bare: rc.Queue[rc.NoResource]) -> None:
    assert_type(await bare.run(load, "key", 2), bytes)
    assert_type(await bare.run(read, "path"), bytes)
    assert_type(await bare.submit_many(read, ["a", "b"]), list[rc.Ticket[bytes]])
    async for value in bare.map(read, ["a", "b"], ahead=3, ordered=False):
        assert_type(value, bytes)
    await bare.run(read, 7)  # type: ignore[arg-type]


async def many_runs_are_typed_by_their_items(db: rc.Queue[Connection], numbers: AsyncIterator[int]) -> None:
    assert_type(await db.submit_many(load_user, range(3)), list[rc.Ticket[str]])
    async for user in db.map(load_user, numbers):
        assert_type(user, str)
    async for outcome in db.map(load_user, [1, 2], outcomes=True):
        assert_type(outcome, Outcome[Any])


async def a_queue_is_a_service_that_tells_numbers(db: rc.Queue[Connection]) -> None:
    contract: Service = db
    assert_type(await contract.start(), None)
    assert_type(db.stats(), rc.QueueStats)
    assert_type(db.metrics(), rc.Metrics)
    assert_type(await db.resize(3), int)
    db.less(mode="now")
    rc.Queue(collector=rc.Collector())


def a_program_has_an_exit_code() -> None:
    assert_type(rc.run(crew, grace="25s"), int)


def a_name_that_is_not_there_is_refused() -> None:
    rc.Nonsense  # type: ignore[attr-defined]  # noqa: B018
