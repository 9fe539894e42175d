"""What type checkers must see of `in_thread` and `executor`. Made for mypy and pyright; no function of it is called."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import assert_type

import runcrew as rc


async def load(key: str, times: int) -> bytes:
    return key.encode() * times


def read(path: str) -> bytes:
    return path.encode()


def a_call_gives_what_the_coroutine_function_gives(crew: rc.Crew) -> None:
    with crew.in_thread(stop_timeout="5s") as live:
        assert_type(live, rc.Live)
        assert_type(live.call(load, "key", 2), bytes)
        assert_type(live.call(load, "key", times=2), bytes)
        assert_type(live.with_timeout("5s").call(load, "key", 2), bytes)
        live.call(load, "key", "two")  # type: ignore[call-overload]


def a_plain_function_too(crew: rc.Crew) -> None:
    with crew.in_thread() as live:
        assert_type(live.call(read, "path"), bytes)
        assert_type(live.call(crew.stop), rc.StopReport)


def a_queues_calls_keep_the_type_of_their_job(db: rc.Queue[rc.NoResource], live: rc.Live) -> None:
    assert_type(live.call(db.run, load, "key", 2), bytes)
    assert_type(live.call(db.run, read, "path"), bytes)
    assert_type(live.call(db.submit, load, "key", 2), rc.Ticket[bytes])
    assert_type(live.start(db.run, load, "key", 2).result(), bytes)


def a_start_gives_a_future(crew: rc.Crew) -> None:
    with crew.in_thread() as live:
        future: Future[bytes] = live.start(load, "key", 2)
        assert_type(future.result(), bytes)
        assert_type(live.with_timeout(1).start(load, "key", 2).result(), bytes)


def a_ticket_can_be_waited_for(crew: rc.Crew, ticket: rc.Ticket[int]) -> None:
    with crew.in_thread() as live:
        assert_type(live.call(ticket), int)
        assert_type(live.call(ticket.outcome), rc.Outcome[int])
        assert_type(live.call(load("key", 2)), bytes)


def an_executor_is_one(queue: rc.Queue[rc.NoResource]) -> None:
    executor = queue.executor(initializer=read, initargs=("path",))
    plain: Executor = executor
    assert_type(executor.submit(read, "path"), Future[bytes])
    assert_type(plain.submit(read, "path").result(), bytes)
    assert_type(executor.map(read, ["a", "b"]), Iterator[bytes])
    executor.submit(read, 1)  # type: ignore[arg-type]
