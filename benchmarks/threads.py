"""Plain functions run in threads from an event loop: ours, the least that does it by hand, and what others offer.

Three tables: many no-ops at once, no-ops one at a time, and functions that block for a millisecond; 8 threads
everywhere. Peers that are not installed are left out (`pip install runcrew[bench]` brings them).
"""

from __future__ import annotations

import asyncio
import importlib.util
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common import Case, Goal, Options, in_loop, main, now, per_op

from runcrew.backends import ThreadBackend, Threads
from runcrew.job import Job, Run

BULK, ONE_BY_ONE, BLOCKING, WIDTH = 10_000, 1_500, 1_600, 8

Function = Callable[[int], Any]


def noop(number: int) -> int:
    return number


def block(number: int) -> int:
    time.sleep(0.001)
    return number


class Floor:
    """The least by hand: threads fed by a SimpleQueue, results handed back in batches, a bare future for each."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.done: deque[Any] = deque()
        self.woken = False
        self.threads = [threading.Thread(target=self.serve, daemon=True) for _ in range(WIDTH)]
        for thread in self.threads:
            thread.start()

    def submit(self, fn: Function, number: int) -> asyncio.Future[Any]:
        future = self.loop.create_future()
        self.work.put((future, fn, number))
        return future

    def serve(self) -> None:
        while (task := self.work.get()) is not None:
            future, fn, number = task
            self.done.append((future, fn(number)))
            if not self.woken:
                self.woken = True
                self.loop.call_soon_threadsafe(self.hand_back)

    def hand_back(self) -> None:
        self.woken = False
        while self.done:
            future, value = self.done.popleft()
            future.set_result(value)

    def close(self) -> None:
        for _ in self.threads:
            self.work.put(None)
        for thread in self.threads:
            thread.join()


class Ours:
    """The pool."""

    def __init__(self) -> None:
        self.threads = Threads(WIDTH)
        self.submit = self.threads.submit

    def close(self) -> None:
        self.threads.shed()


class Executor:
    """`loop.run_in_executor`."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.executor = ThreadPoolExecutor(WIDTH)

    def submit(self, fn: Function, number: int) -> asyncio.Future[Any]:
        return self.loop.run_in_executor(self.executor, fn, number)

    def close(self) -> None:
        self.executor.shutdown()


async def bulk(make: Callable[[], Any], fn: Function, count: int) -> float:
    """Hand all over, then await each: the handles are the awaitables."""
    pool = make()
    await pool.submit(fn, 0)
    start = now()
    calls = [pool.submit(fn, number) for number in range(count)]
    for call in calls:
        await call
    used = per_op(start, count)
    pool.close()
    return used


async def one_by_one(make: Callable[[], Any], fn: Function, count: int) -> float:
    """Await each before the next."""
    pool = make()
    await pool.submit(fn, 0)
    start = now()
    for number in range(count):
        await pool.submit(fn, number)
    used = per_op(start, count)
    pool.close()
    return used


async def tasks(call: Callable[[int], Awaitable[Any]], count: int) -> float:
    """A task for each, for what is only there as a coroutine."""
    await call(0)
    start = now()
    await asyncio.gather(*[call(number) for number in range(count)])
    return per_op(start, count)


async def each(call: Callable[[int], Awaitable[Any]], count: int) -> float:
    """One task that awaits each before the next."""
    await call(0)
    start = now()
    for number in range(count):
        await call(number)
    return per_op(start, count)


async def to_thread(measure: Any, fn: Function, count: int) -> float:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WIDTH))

    async def call(number: int) -> Any:
        return await asyncio.to_thread(fn, number)

    return float(await measure(call, count))


async def backend(measure: Any, fn: Function, count: int) -> float:
    pool = Threads(WIDTH)
    handle, job = ThreadBackend(pool).handle, Job(fn)

    async def call(number: int) -> Any:
        return await handle(Run(job, (number,)))

    used = await measure(call, count)
    pool.shed()
    return float(used)


async def with_anyio(measure: Any, fn: Function, count: int) -> float:
    anyio = importlib.import_module("anyio")
    limiter = anyio.CapacityLimiter(WIDTH)

    async def call(number: int) -> Any:
        return await anyio.to_thread.run_sync(fn, number, limiter=limiter)

    return float(await measure(call, count))


async def with_aiomisc(measure: Any, fn: Function, count: int) -> float:
    aiomisc = importlib.import_module("aiomisc")
    asyncio.get_running_loop().set_default_executor(aiomisc.ThreadPoolExecutor(WIDTH))
    threaded: Any = aiomisc.threaded(fn)

    async def call(number: int) -> Any:
        return await threaded(number)

    return float(await measure(call, count))


def cases(handles: Any, coroutines: Any, fn: Function, count: int) -> dict[str, Case | None]:
    """The contestants, in one way of asking for work."""

    def peer(name: str, function: Any) -> Case | None:
        few = min(count, 3_000)  # they take long enough
        return in_loop(function, coroutines, fn, few) if importlib.util.find_spec(name) else None

    return {
        "floor: SimpleQueue, batched results": in_loop(handles, Floor, fn, count),
        "runcrew Threads.submit": in_loop(handles, Ours, fn, count),
        "runcrew ThreadBackend.handle": in_loop(backend, coroutines, fn, count),
        "loop.run_in_executor": in_loop(handles, Executor, fn, count),
        "asyncio.to_thread": in_loop(to_thread, coroutines, fn, count),
        "anyio.to_thread": peer("anyio", with_anyio),
        "aiomisc.threaded": peer("aiomisc", with_aiomisc),
    }


def script(options: Options) -> list[Goal]:
    """The tables, and what they have to show."""
    floor, ours, executor, thread = (
        "floor: SimpleQueue, batched results", "runcrew Threads.submit", "loop.run_in_executor", "asyncio.to_thread",
    )  # fmt: skip
    many = options.measure("No-op in a thread, bulk", cases(bulk, tasks, noop, BULK))
    single = options.measure("No-op in a thread, one at a time", cases(one_by_one, each, noop, ONE_BY_ONE))
    slow = options.measure("Blocking 1 ms in a thread, bulk (ideal: 125)", cases(bulk, tasks, block, BLOCKING))
    return [
        Goal("bulk, times the floor", many.ratio(ours, floor), at_most=4),
        Goal("bulk, times the throughput of run_in_executor", many.ratio(executor, ours), at_least=10),
        Goal("one at a time, times asyncio.to_thread", single.ratio(ours, thread), at_most=1),
        Goal("blocking 1 ms, times the floor", slow.ratio(ours, floor), at_most=1.1),
    ]


if __name__ == "__main__":
    main(script, __doc__)
