"""The executor of a queue, used from plain threads as `concurrent.futures` is, and the standard library's own.

The queue lives on an event loop in another thread, and its executor is handed to those who measure. Threads: eight
workers. Processes: two.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

from common import Case, Goal, Options, main, now, per_op
from jobs import compute, noop

import runcrew as rc

WIDTH, WORKERS, CLIENTS = 8, 2, 4
BULK, ONE_BY_ONE = 10_000, 1_000
OURS, THREADS, PROCESSES = "runcrew queue.executor()", "ThreadPoolExecutor", "ProcessPoolExecutor"

Make: TypeAlias = Callable[[], Any]
Measure: TypeAlias = Callable[[Executor, int], float]


@contextmanager
def ours(**options: Any) -> Iterator[Executor]:
    """The executor of a queue on a loop in another thread."""
    made: list[Any] = []
    there = threading.Event()

    async def serve() -> None:
        make: Any = rc.Queue
        async with make("q", **options) as queue:
            over = asyncio.Event()
            made[:] = queue.executor(), asyncio.get_running_loop(), over
            there.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    there.wait()
    executor, loop, over = made
    try:
        yield executor
        executor.shutdown()
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def measured(make: Make, measure: Measure, count: int) -> Case:
    """What this executor takes, once all of its workers are there."""

    def case() -> float:
        with make() as executor:
            for future in [executor.submit(compute, number) for number in range(8 * WORKERS)]:
                future.result()
            return measure(executor, count)

    return case


# --- ways of asking ---------------------------------------------------------------------------


def bulk(executor: Executor, count: int) -> float:
    """One thread submits all, and then asks for each result."""
    start = now()
    for future in [executor.submit(noop, number) for number in range(count)]:
        future.result()
    return per_op(start, count)


def by_clients(executor: Executor, count: int) -> float:
    """Several threads do that at the same time, each with its part."""
    clients = [threading.Thread(target=bulk, args=(executor, count // CLIENTS)) for _ in range(CLIENTS)]
    start = now()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return per_op(start, count)


def one_by_one(executor: Executor, count: int) -> float:
    """Each result before the next."""
    start = now()
    for number in range(count):
        executor.submit(noop, number).result()
    return per_op(start, count)


def mapped(executor: Executor, count: int) -> float:
    """`map`, in chunks of 50."""
    start = now()
    for _ in executor.map(noop, range(count), chunksize=50):
        pass
    return per_op(start, count)


# --- tables -------------------------------------------------------------------------------------

#: By what it is called: the way, and how many there are.
WAYS: dict[str, tuple[Measure, int]] = {
    "all submitted by one thread": (bulk, BULK),
    f"by {CLIENTS} threads at once": (by_clients, BULK),
    "one at a time": (one_by_one, ONE_BY_ONE),
}


def compared(options: Options, title: str, other: str, measure: Measure, count: int) -> Callable[[], Goal]:
    """A table of two, and what it has to show: looked at when all tables have been made."""
    threads = other == THREADS
    found = options.measure(
        f"No-op in a {'thread' if threads else 'process'}, {title}",
        {
            OURS: measured(in_threads if threads else in_processes, measure, count),
            other: measured(standard_threads if threads else standard_processes, measure, count),
        },
    )
    return lambda: Goal(f"{title}: times {other}", found.ratio(OURS, other), at_most=1)


def in_threads() -> Any:
    """Ours."""
    return ours(workers=WIDTH)


def in_processes() -> Any:
    """Ours."""
    return ours(backend="process", workers=WORKERS)


def standard_threads() -> Any:
    """The standard library's."""
    return ThreadPoolExecutor(WIDTH)


def standard_processes() -> Any:
    """The standard library's."""
    return ProcessPoolExecutor(WORKERS)


def script(options: Options) -> list[Goal]:
    """All of it."""
    warnings.simplefilter("ignore")  # that there are threads when the standard library's forks
    goals = [compared(options, title, THREADS, measure, count) for title, (measure, count) in WAYS.items()]
    ways = {**WAYS, "map in chunks of 50": (mapped, 5 * BULK)}
    goals += [compared(options, title, PROCESSES, measure, count // 5) for title, (measure, count) in ways.items()]
    return [goal() for goal in goals]


if __name__ == "__main__":
    main(script, __doc__)
