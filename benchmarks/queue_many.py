"""A very long run through the queue: every task must end with its own value, and none may hang.

Ten times 850,000 asynchronous tasks on eight workers from a hundred clients, each of which awaits its own task
before it submits the next; and ten times as many in bulk, submitted as long as there is room, then awaited. The
tasks are of three levels, and one in sixteen gives the event loop back once before it ends. Each run has a limit
of time, kept by a watchdog that needs no event loop: a run that hangs is told with what was left, then ends the
program.

    python benchmarks/queue_many.py [--tasks 850000] [--runs 10] [--limit 180] [--check]

Goals: no value missing or wrong, no run over its limit, memory no higher in the later half of the runs than in the
first, but for one byte a task.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from common import now, per_op

import runcrew as rc

CLIENTS, WIDTH = 100, 8
LEVELS = (rc.NORMAL, rc.HIGH, rc.LOW)
#: Seconds after the limit until the program ends, whatever still holds it.
PATIENCE = 20.0

Way = Callable[["rc.Queue[Any]", int], Awaitable[int]]


async def connection() -> AsyncIterator[object]:
    """The resource of each worker."""
    yield object()


async def job(_connection: object, number: int) -> int:
    """The task."""
    if number % 16 == 0:
        await asyncio.sleep(0)
    return number


async def from_clients(queue: rc.Queue[Any], tasks: int) -> int:
    """How many values are right, where each client awaits one task before it submits the next."""

    async def client(first: int) -> int:
        right = 0
        for number in range(first, tasks, CLIENTS):
            ticket = await queue.submit(job, number, priority=LEVELS[number % 3])
            right += number == await ticket
        return right

    return sum(await asyncio.gather(*[client(first) for first in range(CLIENTS)]))


async def in_bulk(queue: rc.Queue[Any], tasks: int) -> int:
    """How many values are right, where all are submitted first."""
    tickets = [await queue.submit(job, number, priority=LEVELS[number % 3]) for number in range(tasks)]
    right = 0
    for number, ticket in enumerate(tickets):
        right += number == await ticket
    return right


async def run(way: Way, tasks: int, limit: float) -> tuple[int | None, float]:
    """The number of right values, None where the run hung; and the microseconds for each task."""
    async with rc.Queue("many", resource=connection, workers=WIDTH) as queue:
        start = now()
        try:
            async with asyncio.timeout(limit):
                right = await way(queue, tasks)
        except TimeoutError:
            print(f"left after {limit:g} s: {queue.stats()}", flush=True)
            await queue.kill()
            return None, per_op(start, tasks)
        return right, per_op(start, tasks)


def memory() -> float:
    """MiB of this process now; 0 where the system does not tell."""
    gc.collect()
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if pages.exists() else 0.0


def measure(name: str, way: Way, given: argparse.Namespace) -> bool:
    """All runs of one way, a line for each; whether all were good."""
    good, sizes = True, list[float]()
    for turn in range(1, given.runs + 1):
        faulthandler.dump_traceback_later(given.limit + PATIENCE, exit=True)
        right, each = asyncio.run(run(way, given.tasks, given.limit))
        faulthandler.cancel_dump_traceback_later()
        sizes.append(memory())
        if right is None:
            said = "HUNG"
        elif right != given.tasks:
            said = f"LOST {given.tasks - right:,} values"
        else:
            said = "each with its own value"
        good = good and right == given.tasks
        print(f"{name}, run {turn}: {given.tasks:,} tasks, {said}; {each:.2f} us/task, {sizes[-1]:.0f} MiB", flush=True)
    half = (given.runs + 1) // 2  # the allocator keeps some of what a run had, more or less of it
    most = max(sizes[:half]) + max(4.0, (given.runs - half) * given.tasks / 2**20)
    level = max(sizes) <= most
    print(f"{'held' if good else 'MISSED'}: {name}: every task ended with its own value, none hung")
    print(f"{'held' if level else 'MISSED'}: {name}: never more than {max(sizes):.0f} MiB, at most {most:.0f}")
    return good and level


def main() -> int:
    """Both ways; with --check the result is the exit status."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--tasks", type=int, default=850_000, help="tasks of a run (default: 850,000)")
    ask.add_argument("--runs", type=int, default=10, help="runs from clients, and as many in bulk (default: 10)")
    ask.add_argument("--limit", type=float, default=180.0, help="seconds after which a run counts as hung")
    ask.add_argument("--check", action="store_true", help="exit with 1 if a goal does not hold")
    given = ask.parse_args()
    print(f"CPython {sys.version.split()[0]}, {os.cpu_count()} cores, {WIDTH} workers, {CLIENTS} clients")
    kept = [measure("from clients", from_clients, given), measure("in bulk", in_bulk, given)]
    return int(given.check and not all(kept))


if __name__ == "__main__":
    sys.exit(main())
