"""The pool: what one turn of its loop costs, with and without middleware, on the event loop and in threads.

A no-op is looped by one or eight workers for a moment, and the turns are counted. Counters are on, as they always
are. "wrapped" stands behind a middleware of somebody's own that changes nothing, so that what follows is really
put around each run. Peers that are not installed are left out (`pip install runcrew[bench]` brings them).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any

from common import Case, Goal, Options, in_loop, main, now

import runcrew as rc

SPAN, TURNS, FEW = 0.2, 400_000, 20_000
FLOOR, OURS, KEPT = "floor: while: await job()", "runcrew Pool", "runcrew Pool, Counter and Elapsed"
CHAIN, WRAPPED = "runcrew Pool, an empty chain", "runcrew Pool, Counter and Elapsed wrapped"
OWN, SLICE, GAP = "runcrew Pool, a middleware of one's own", "a slice: 1 ms of computing", "runcrew Pool"
BARE, THREADS, THREADS_KEPT = "floor: threads, while: job()", "runcrew Pool", "runcrew Pool, Counter and Elapsed"


async def noop() -> None:
    """The job."""


def plain_noop() -> None:
    """The job in threads."""


async def looped(job: Any, workers: int, middleware: Any = ()) -> float:
    """Microseconds for each turn."""
    async with rc.Pool(job, initial=workers, middleware=middleware) as pool:
        await asyncio.sleep(SPAN / 10)
        before, start = pool.stats().runs.ended, now()
        await asyncio.sleep(SPAN)
        span, turns = now() - start, pool.stats().runs.ended - before
    return span / turns * 1e6


# --- floors -----------------------------------------------------------------------------------


async def bare(workers: int) -> float:
    """Each worker a task that never gives way."""

    async def worker(left: int) -> None:
        while left:
            await noop()
            left -= 1

    start = now()
    await asyncio.gather(*[worker(TURNS // workers) for _ in range(workers)])
    return (now() - start) / TURNS * 1e6


async def polite(workers: int) -> float:
    """The same, giving way after each turn."""

    async def worker(left: int) -> None:
        while left:
            await noop()
            await asyncio.sleep(0)
            left -= 1

    start = now()
    await asyncio.gather(*[worker(FEW // workers) for _ in range(workers)])
    return (now() - start) / FEW * 1e6


async def by_tasks(workers: int) -> float:
    """A task for each turn."""

    async def worker(left: int) -> None:
        while left:
            await asyncio.create_task(noop())
            left -= 1

    start = now()
    await asyncio.gather(*[worker(FEW // workers) for _ in range(workers)])
    return (now() - start) / FEW * 1e6


class Running:
    """What stops the bare threads."""

    def __init__(self) -> None:
        self.on = True
        self.turns: list[int] = []

    def serve(self) -> None:
        """One thread."""
        turns, job = 0, plain_noop
        while self.on:
            job()
            turns += 1
        self.turns.append(turns)


def bare_threads(workers: int) -> float:
    """Threads that do nothing else, and count."""
    running = Running()
    threads = [threading.Thread(target=running.serve) for _ in range(workers)]
    start = now()
    for thread in threads:
        thread.start()
    time.sleep(SPAN)
    running.on = False
    for thread in threads:
        thread.join()
    return (now() - start) / sum(running.turns) * 1e6


# --- peers --------------------------------------------------------------------------------------


async def with_aiojobs(workers: int) -> float:
    """Each job spawns the next one."""
    scheduler = importlib.import_module("aiojobs").Scheduler(limit=workers, pending_limit=0)
    left, over = FEW, asyncio.Event()

    async def again() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            await scheduler.spawn(again())
        else:
            over.set()

    start = now()
    for _ in range(workers):
        await scheduler.spawn(again())
    await over.wait()
    used = (now() - start) / FEW * 1e6
    await scheduler.close()
    return used


async def with_aiomisc(workers: int) -> float:
    """A periodic callback with next to no pause."""
    callback_class = importlib.import_module("aiomisc").PeriodicCallback
    turns = 0

    async def job() -> None:
        nonlocal turns
        turns += 1

    callbacks = [callback_class(job) for _ in range(workers)]
    for callback in callbacks:
        callback.start(1e-9)
    start = now()
    await asyncio.sleep(SPAN)
    used = (now() - start) / max(1, turns) * 1e6
    await asyncio.gather(*[callback.stop() for callback in callbacks], return_exceptions=True)
    return used


def peer(module: str, case: Callable[[int], Any], workers: int) -> Case | None:
    """A case that is left out where its library is not there."""
    return in_loop(case, workers) if importlib.util.find_spec(module) else None


# --- tables -------------------------------------------------------------------------------------


def own(handler: Any) -> Any:
    """A middleware of one's own."""

    async def around(run: rc.Run) -> Any:
        return await handler(run)

    return around


def nothing(handler: Any) -> Any:
    """One that changes nothing, and costs nothing."""
    return handler


def loop_table(options: Options, workers: int) -> list[Goal]:
    """Turns on the event loop."""
    found = options.measure(
        f"A no-op looped on the event loop, {workers} worker(s)",
        {
            FLOOR: in_loop(bare, workers),
            OURS: in_loop(looped, noop, workers),
            KEPT: lambda: asyncio.run(looped(noop, workers, [rc.Counter(), rc.Elapsed()])),
            CHAIN: in_loop(looped, noop, workers, [nothing]),
            WRAPPED: lambda: asyncio.run(looped(noop, workers, [nothing, rc.Elapsed(), rc.Counter()])),
            OWN: in_loop(looped, noop, workers, [own]),
            "while: await job(); await sleep(0)": in_loop(polite, workers),
            "while: await create_task(job())": in_loop(by_tasks, workers),
            "aiojobs, each job spawns the next": peer("aiojobs", with_aiojobs, workers),
            "aiomisc.PeriodicCallback(1 ns)": peer("aiomisc", with_aiomisc, workers),
        },
        "us/turn",
    )
    if workers == 1:
        return []
    return [
        Goal(f"{workers} workers, counters on: times the bare loop", found.ratio(OURS, FLOOR), at_most=2),
        Goal(f"{workers} workers, Counter and Elapsed: times the bare loop", found.ratio(KEPT, FLOOR), at_most=4),
    ]


def thread_table(options: Options, workers: int) -> list[Goal]:
    """Turns in threads."""
    found = options.measure(
        f"A no-op looped in {workers} thread(s)",
        {
            BARE: lambda: bare_threads(workers),
            THREADS: in_loop(looped, plain_noop, workers),
            THREADS_KEPT: lambda: asyncio.run(looped(plain_noop, workers, [rc.Counter(), rc.Elapsed()])),
        },
        "us/turn",
    )
    return [
        Goal(f"{workers} thread(s), counters on: times bare threads", found.ratio(THREADS, BARE), at_most=2),
        Goal(f"{workers} thread(s), Counter, Elapsed: times bare threads", found.ratio(THREADS_KEPT, BARE), at_most=4),
    ]


def a_slice() -> float:
    """What to compare with: a millisecond of computing, as long as it takes here."""
    start = now()
    while now() - start < 0.001:
        pass
    return (now() - start) * 1e6


async def longest_gap(job: Any) -> float:
    """The longest time in which another task of the loop has no turn, in microseconds; the third longest of many."""
    gaps: list[float] = []
    async with rc.Pool(job, initial=8):
        last, end = now(), now() + SPAN
        while last < end:
            await asyncio.sleep(0)
            last, before = now(), last
            gaps.append(last - before)
    return sorted(gaps)[-3] * 1e6


async def fails() -> None:
    """The job that fails at once."""
    raise ValueError


def gap_table(options: Options) -> list[Goal]:
    """How long others wait."""
    failing = "runcrew Pool, a job that fails"
    found = options.measure(
        "Another task's longest gap beside a pool of 8 workers whose job is over at once (the third longest)",
        {SLICE: a_slice, GAP: in_loop(longest_gap, noop), failing: in_loop(longest_gap, fails)},
        "us",
    )
    return [Goal("another task's longest gap: slices of 1 ms", found.ratio(GAP, SLICE), at_most=2)]


def tables(options: Options) -> list[Goal]:
    """All of it."""
    goals: list[Goal] = []
    for workers in (1, 8):
        goals += loop_table(options, workers)
    for workers in (1, 8):
        goals += thread_table(options, workers)
    return goals + gap_table(options)


if __name__ == "__main__":
    main(tables, __doc__)
