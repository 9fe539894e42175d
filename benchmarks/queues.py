"""The queue: what a task costs in it, in bulk and one at a time, how fair it is, what it takes to keep and to stop.

Eight workers everywhere, each with a resource of its own where the table does not say otherwise; timestamps,
statistics and a copy of the submitter's context for each task are on, as they always are. Peers that are not
installed are left out (`pip install runcrew[bench]` brings them). A long run that counts every value is
`queue_many.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from common import Case, Goal, Options, in_loop, main, now, per_op
from queue_peers import WIDTH, Aiojobs, Contestant, EagerTasks, Parked, Taskiq, Tasks, Usual, UsualLevels, noop
from threads import Executor, Floor, with_aiomisc, with_anyio
from threads import bulk as threads_bulk
from threads import noop as plain_noop
from threads import tasks as threads_tasks

import runcrew as rc

EAGER = sys.version_info >= (3, 12)
BULK, ONE_BY_ONE, THREADED, CLIENTS, BEHIND = 20_000, 4_000, 10_000, 100, 10_000
QUEUED, CHUNK, CHUNKS, IDLE, FEW = 5_000, 40_000, 5, 4_000, 100
LEVELS = (rc.NORMAL, rc.HIGH)
TASK, SLICE = "asyncio.create_task", "a slice: 1 ms of computing"
NOWAIT, SUBMIT, MANY = "runcrew submit_nowait", "runcrew await submit", "runcrew submit_many"
#: Of create_task: what a task of the original costs, where it does not wait for each (3.6 us where a task takes 2.9).
ORIGINAL = 1.24
#: Of create_task: one that does the same with all features has been seen at 1.05 to 1.2.
BULK_GOAL, ONE_GOAL = (1.2, 0.6) if EAGER else (2.2, 2.0)

somewhere: contextvars.ContextVar[str] = contextvars.ContextVar("somewhere")


# --- ours -----------------------------------------------------------------------------------


async def connection() -> AsyncIterator[object]:
    """The resource of each worker."""
    yield object()


def plain_connection() -> Iterator[object]:
    """The same for workers that are threads."""
    yield object()


async def job(_connection: object, number: int) -> int:
    """The task."""
    return number


def plain_job(_connection: object, number: int) -> int:
    """The task in a thread."""
    return number


def without_statistics(measure: Callable[[], Any]) -> Case:
    """A case during which the built-in collector keeps nothing; one's own would be called with more care, for more."""

    def case() -> float:
        names = ("arrived", "completed")
        kept = [getattr(rc.Collector, name) for name in names]
        for name in names:
            setattr(rc.Collector, name, lambda *_: None)
        try:
            return float(asyncio.run(measure()))
        finally:
            for name, method in zip(names, kept, strict=True):
                setattr(rc.Collector, name, method)

    return case


def queue(**options: Any) -> rc.Queue[Any]:
    """A queue whose workers have resources."""
    make: Any = rc.Queue
    return make(**{"resource": connection, "workers": WIDTH, **options})


def check(values: list[Any], count: int) -> None:
    """A benchmark of lost results is worth nothing."""
    if values != list(range(count)):
        raise AssertionError("not every task ended with its own value")


async def ours_bulk(submit: Callable[[rc.Queue[Any]], Any]) -> float:
    """Submit all, half of them urgent, then await each."""
    async with queue() as its:
        start = now()
        tickets = await submit(its)
        values = [await ticket for ticket in tickets]
        used = per_op(start, BULK)
    check(sorted(values), BULK)
    return used


async def by_submit_nowait(its: rc.Queue[Any]) -> list[Any]:
    submit = its.submit_nowait
    return [submit(job, number, priority=LEVELS[number & 1]) for number in range(BULK)]


async def by_submit(its: rc.Queue[Any]) -> list[Any]:
    submit = its.submit
    return [await submit(job, number, priority=LEVELS[number & 1]) for number in range(BULK)]


async def by_submit_many(its: rc.Queue[Any]) -> list[Any]:
    halves = [
        await its.submit_many(job, range(level, BULK, len(LEVELS)), priority=priority)
        for level, priority in enumerate(LEVELS)
    ]
    return [ticket for half in halves for ticket in half]


async def ours_clients() -> float:
    """The same number of tasks from a hundred clients, each of which awaits its own before it submits the next."""
    async with queue() as its:

        async def client(first: int) -> list[int]:
            mine = range(first, BULK, CLIENTS)
            return [await (await its.submit(job, number, priority=LEVELS[number & 1])) for number in mine]

        start = now()
        values = await asyncio.gather(*[client(first) for first in range(CLIENTS)])
        used = per_op(start, BULK)
    check(sorted(number for mine in values for number in mine), BULK)
    return used


async def ours_one_by_one(run: bool) -> float:
    """Submit and await each before the next; or `run` each."""
    async with queue() as its:
        start = now()
        if run:
            values = [await its.run(job, number) for number in range(ONE_BY_ONE)]
        else:
            values = [await (await its.submit(job, number)) for number in range(ONE_BY_ONE)]
        used = per_op(start, ONE_BY_ONE)
    check(values, ONE_BY_ONE)
    return used


# --- the others -----------------------------------------------------------------------------


async def bulk(make: Callable[[], Contestant], count: int) -> float:
    """Submit all, half of them urgent, then await each."""
    its = make()
    await its.start()
    start = now()
    if type(its).submit is Contestant.submit:
        submit = its.submit_nowait
        handles = [submit(noop, number, number & 1 == 1) for number in range(count)]
        values = [await handle for handle in handles]
    else:
        handles = [await its.submit(noop, number, number & 1 == 1) for number in range(count)]
        await its.settle()
        values = [await its.wait(handle) for handle in handles]
    used = per_op(start, count)
    await its.stop()
    check([number if value is None else value for number, value in enumerate(values)], count)
    return used


async def one_by_one(make: Callable[[], Contestant], count: int) -> float:
    """Submit and await each before the next."""
    its = make()
    await its.start()
    start = now()
    if type(its).submit is Contestant.submit:
        for number in range(count):
            await its.submit_nowait(noop, number)
    else:
        for number in range(count):
            await its.wait(await its.submit(noop, number))
    used = per_op(start, count)
    await its.stop()
    return used


def installed(module: str, case: Case) -> Case | None:
    """The case, where the peer that it needs can be imported."""
    return case if importlib.util.find_spec(module) else None


def others(measure: Any, count: int, inplace: bool) -> dict[str, Case | None]:
    """Those that are asked for tasks in bulk or one at a time."""
    return {
        "floor: deques + parked workers": in_loop(measure, Parked, count),
        TASK: in_loop(measure, Tasks, count),
        "asyncio.create_task, eager": in_loop(measure, EagerTasks, count) if EAGER else None,
        "asyncio.Queue, workers, futures": in_loop(measure, Usual, count),
        "asyncio.PriorityQueue, workers, futures": in_loop(measure, UsualLevels, count),
        "aiojobs": installed("aiojobs", in_loop(measure, Aiojobs, count)),
        "taskiq InMemoryBroker": installed("taskiq", in_loop(measure, lambda: Taskiq(inplace), count // 8)),
    }


# --- in bulk, one at a time, statistics -------------------------------------------------------


def ahead(found: Any, ours: str, what: str) -> list[Goal]:
    """Goals: ahead of the libraries that were there."""
    peers = [name for name in ("aiojobs", "taskiq InMemoryBroker") if name in found.values]
    return [Goal(f"{what}: ahead of {name}", found.ratio(name, ours), at_least=1) for name in peers]


def bulk_table(options: Options) -> list[Goal]:
    """Many at once."""
    clients, silent = "runcrew, 100 clients, one each", "runcrew submit_nowait, no statistics"
    found = options.measure(
        "Async no-op, two levels, submit all, then await all",
        {
            NOWAIT: in_loop(ours_bulk, by_submit_nowait),
            SUBMIT: in_loop(ours_bulk, by_submit),
            MANY: in_loop(ours_bulk, by_submit_many),
            clients: in_loop(ours_clients),
            silent: without_statistics(lambda: ours_bulk(by_submit_nowait)),
            **others(bulk, BULK, False),
        },
    )
    goals = [Goal(f"bulk, {how}: of create_task", found.ratio(how, TASK), BULK_GOAL) for how in (NOWAIT, SUBMIT, MANY)]
    return [
        *goals,
        # Where a task can take its first step at once: elsewhere the goal is another.
        *(
            [Goal("bulk: of create_task, where the original takes 1.24", found.ratio(NOWAIT, TASK), at_most=ORIGINAL)]
            * EAGER
        ),
        *ahead(found, NOWAIT, "bulk"),
        Goal("100 clients at once: of bulk", found.ratio(clients, SUBMIT), at_most=1.5),
        Goal("throughput with statistics, of that without", found.ratio(silent, NOWAIT), at_least=0.75),
    ]


def single_table(options: Options) -> list[Goal]:
    """One at a time."""
    run = "runcrew run"
    found = options.measure(
        "Async no-op, one at a time",
        {
            SUBMIT: in_loop(ours_one_by_one, False),
            run: in_loop(ours_one_by_one, True),
            **others(one_by_one, ONE_BY_ONE, True),
        },
    )
    goals = [Goal(f"one at a time, {how}: of create_task", found.ratio(how, TASK), ONE_GOAL) for how in (SUBMIT, run)]
    return [*goals, *ahead(found, SUBMIT, "one at a time")]


# --- fairness ---------------------------------------------------------------------------------


def without_pauses(measure: Callable[[], Any]) -> Case:
    """A case during which Python does not collect garbage: those pauses are not the queue's."""

    def case() -> float:
        gc.disable()
        try:
            return float(asyncio.run(measure()))
        finally:
            gc.enable()

    return case


def a_slice() -> float:
    """What to compare with: a millisecond of computing, as long as it takes here."""
    start = now()
    while now() - start < 0.001:
        pass
    return per_op(start, 1)


class Started:
    """A job that notes when it began."""

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.after = float("nan")

    async def __call__(self, *_: Any) -> None:
        self.after = (now() - self.asked) * 1e6


async def behind_at_once() -> float:
    """Submitted right after 10,000 others: microseconds until it begins."""
    async with queue() as its:
        tickets = [its.submit_nowait(job, number, priority=rc.LOW) for number in range(BEHIND)]
        assert not tickets[-1].done(), "nothing was waiting"
        urgent = Started(now())
        await its.submit_nowait(urgent, priority=rc.HIGH)
        return urgent.after


async def behind_later() -> float:
    """Five that timers submit while 10,000 others run: the longest from when the timer was due until it began."""
    async with queue() as its:
        loop = asyncio.get_running_loop()
        waiting: list[bool] = []
        urgents: list[Started] = []
        tickets = [its.submit_nowait(job, number, priority=rc.LOW) for number in range(BEHIND)]

        def submit(urgent: Started) -> None:
            waiting.append(not tickets[-1].done())
            its.submit_nowait(urgent, priority=rc.HIGH)

        for number in range(5):
            span = 0.0013 + 0.0017 * number
            urgents.append(Started(now() + span))
            loop.call_later(span, submit, urgents[-1])
        await tickets[-1]
        await asyncio.sleep(0.02)
        assert waiting == [True] * 5, "nothing was waiting"
        return max(urgent.after for urgent in urgents)


async def longest_gap(submit: Callable[[int], Any]) -> float:
    """The longest time in which another task of the loop has no turn while 10,000 no-ops run, in microseconds."""
    handles = [submit(number) for number in range(BEHIND)]
    longest, last = 0.0, now()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            last, before = now(), last
            longest = max(longest, last - before)
            if handles[-1].done():
                break
            await asyncio.sleep(0)

    await asyncio.create_task(tick())
    for handle in handles:
        await handle
    return longest * 1e6


async def ours_gap() -> float:
    async with queue() as its:
        return await longest_gap(lambda number: its.submit_nowait(job, number))


async def gap(make: Callable[[], Contestant]) -> float:
    its = make()
    await its.start()
    longest = await longest_gap(lambda number: its.submit_nowait(noop, number))
    await its.stop()
    return longest


async def behind(make: Callable[[], Contestant]) -> float:
    """Submitted to another right after 10,000 others: microseconds until it begins."""
    its = make()
    await its.start()
    handles = [its.submit_nowait(noop, number) for number in range(BEHIND)]
    urgent = Started(now())
    await its.submit_nowait(urgent, 0, urgent=True)
    for handle in handles:
        await handle
    await its.stop()
    return urgent.after


def fair_table(options: Options) -> list[Goal]:
    """Who waits for how long."""
    at_once, later, gaps = (
        "runcrew, urgent, submitted in the same turn", "runcrew, urgent, submitted by a timer (worst of 5)",
        "runcrew, longest gap of another task",
    )  # fmt: skip
    found = options.measure(
        "With 10,000 low no-ops queued: until an urgent one begins; how long another task of the loop waits",
        {
            SLICE: a_slice,
            at_once: without_pauses(behind_at_once),
            later: without_pauses(behind_later),
            "floor: deques + parked workers, urgent": without_pauses(lambda: behind(Parked)),
            "asyncio.PriorityQueue, urgent": without_pauses(lambda: behind(UsualLevels)),
            "asyncio.Queue, no levels": without_pauses(lambda: behind(Usual)),
            gaps: without_pauses(ours_gap),
            "floor: deques + parked workers, longest gap": without_pauses(lambda: gap(Parked)),
            "asyncio.create_task, longest gap": without_pauses(lambda: gap(Tasks)),
        },
        "us",
    )
    return [
        Goal("urgent behind 10,000, same turn: slices of 1 ms", found.ratio(at_once, SLICE), at_most=1.5),
        Goal("urgent behind 10,000, by a timer: slices of 1 ms", found.ratio(later, SLICE), at_most=1.5),
        Goal("another task's longest gap: slices of 1 ms", found.ratio(gaps, SLICE), at_most=2),
    ]


# --- memory -----------------------------------------------------------------------------------


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def kept(submit: Callable[[int], Any], handles: list[Any]) -> float:
    """Bytes for each of the tasks that wait; their handles go into the list. `submit` may be a coroutine function."""
    tracemalloc.start()
    before = traced()
    for number in range(QUEUED):
        handle = submit(number)
        handles[number] = await handle if asyncio.iscoroutine(handle) else handle
    used = (traced() - before) / QUEUED
    tracemalloc.stop()
    return used


async def ours_kept() -> float:
    """Tickets behind one that holds the only worker, submitted from a context with something in it."""
    somewhere.set("here")
    gate = asyncio.Event()

    async def hold(_connection: object) -> None:
        await gate.wait()

    async with queue(workers=1) as its:
        its.submit_nowait(hold)
        await asyncio.sleep(0)
        used = await kept(lambda number: its.submit_nowait(job, number), [None] * QUEUED)
        gate.set()
    return used


async def others_kept(make: Callable[[], Contestant]) -> float:
    """The same for another: each task waits for a gate, or for one that does."""
    somewhere.set("here")
    gate = asyncio.Event()

    async def hold(number: int) -> None:
        await gate.wait()

    its = make()
    await its.start()
    holding = [await its.submit(hold, number) for number in range(WIDTH)]
    await asyncio.sleep(0)
    handles = [None] * QUEUED
    used = await kept(lambda number: its.submit(noop, number), handles)
    gate.set()
    for handle in (*holding, *handles):
        await its.wait(handle)
    await its.stop()
    return used


async def ours_growth() -> float:
    """Bytes for each task that has ended: what is left of it, between the first tasks and the last."""
    async with queue() as its:
        await its.submit_many(job, range(CHUNK))
        tracemalloc.start()
        after: list[int] = []
        for _ in range(CHUNKS):
            await asyncio.gather(*[some_tasks(its, CHUNK // CLIENTS) for _ in range(CLIENTS)])
            after.append(traced())
        tracemalloc.stop()
    return (after[-1] - after[0]) / ((CHUNKS - 1) * CHUNK)


async def some_tasks(its: rc.Queue[Any], count: int) -> None:
    for number in range(count):
        await its.run(job, number)


def memory_table(options: Options) -> list[Goal]:
    """What a task that waits takes, and what one that has ended leaves behind."""
    ours, left = "runcrew ticket, context included", "runcrew, left of each task that has ended"
    found = options.measure(
        "Memory of each queued task, its argument included",
        {
            "floor: a future and a tuple in a deque": in_loop(others_kept, Parked),
            ours: in_loop(ours_kept),
            TASK: in_loop(others_kept, Tasks),
            "aiojobs": installed("aiojobs", in_loop(others_kept, Aiojobs)),
            left: in_loop(ours_growth),
        },
        "bytes",
    )
    return [
        Goal("memory of a queued ticket, bytes", found.median(ours), at_most=370),
        Goal("memory of a queued ticket: of a task", found.ratio(ours, TASK), at_most=0.6),
        Goal("what an ended task leaves behind, bytes", found.median(left), at_most=1),
    ]


# --- threads ----------------------------------------------------------------------------------


async def ours_threads(many: bool, resource: bool) -> float:
    """Plain no-ops: submit all, then await each."""
    fn: Any = plain_job if resource else plain_noop
    async with queue(resource=plain_connection if resource else None) as its:
        await its.run(fn, 0)
        start = now()
        if many:
            tickets = await its.submit_many(fn, range(THREADED))
        else:
            submit = its.submit_nowait
            tickets = [submit(fn, number) for number in range(THREADED)]
        values = [await ticket for ticket in tickets]
        used = per_op(start, THREADED)
    check(values, THREADED)
    return used


def threads_table(options: Options) -> list[Goal]:
    """Plain functions through the queue."""
    executor, ours, few = "loop.run_in_executor", "runcrew submit_nowait", 3_000
    found = options.measure(
        "Plain no-op in a thread through the queue, bulk",
        {
            "floor: SimpleQueue, batched results": in_loop(threads_bulk, Floor, plain_noop, THREADED),
            ours: in_loop(ours_threads, False, True),
            MANY: in_loop(ours_threads, True, True),
            "runcrew submit_nowait, no resource": in_loop(ours_threads, False, False),
            executor: in_loop(threads_bulk, Executor, plain_noop, THREADED),
            "anyio.to_thread": installed("anyio", in_loop(with_anyio, threads_tasks, plain_noop, few)),
            "aiomisc.threaded": installed("aiomisc", in_loop(with_aiomisc, threads_tasks, plain_noop, few)),
        },
    )
    return [Goal("threads, bulk: times the throughput of run_in_executor", found.ratio(executor, ours), at_least=6)]


# --- stopping ---------------------------------------------------------------------------------


async def ours_stop(count: int, resource: bool = False) -> float:
    """Microseconds for each idle worker of a queue that stops; as many workers in all, however few at a time."""
    used = 0.0
    for _ in range(IDLE // count):
        its: rc.Queue[Any] = queue(workers=count, resource=connection if resource else None)
        await its.start()
        start = now()
        await its.stop()
        used += per_op(start, IDLE)
    return used


async def tasks_stop(count: int, gather: bool) -> float:
    """The same for tasks that are parked: cancelled, and gathered or counted."""
    used = 0.0
    for _ in range(IDLE // count):
        loop = asyncio.get_running_loop()
        left, ended = count, loop.create_future()

        async def park() -> None:
            nonlocal left
            try:
                await loop.create_future()  # noqa: B023 - used within its round
            finally:
                left -= 1
                if not left:
                    ended.set_result(None)  # noqa: B023

        tasks = [asyncio.create_task(park()) for _ in range(count)]
        await asyncio.sleep(0)
        start = now()
        for task in tasks:
            task.cancel()
        await (asyncio.gather(*tasks, return_exceptions=True) if gather else ended)
        used += per_op(start, IDLE)
    return used


def stop_table(options: Options) -> list[Goal]:
    """What an idle worker costs when the queue stops."""
    many, few = f"runcrew, {IDLE:,} workers", f"runcrew, {FEW} workers"
    found = options.measure(
        "Stop of idle workers without resources",
        {
            "floor: cancelled tasks that count themselves out": in_loop(tasks_stop, IDLE, False),
            many: in_loop(ours_stop, IDLE),
            few: in_loop(ours_stop, FEW),
            f"cancel and asyncio.gather, {IDLE:,} tasks": in_loop(tasks_stop, IDLE, True),
            f"runcrew, {IDLE:,} workers with resources": in_loop(ours_stop, IDLE, True),
            f"runcrew, {FEW} workers with resources": in_loop(ours_stop, FEW, True),
        },
        "us/worker",
    )
    return [
        Goal(f"stop of {IDLE:,} idle workers, us a worker", found.median(many), at_most=4),
        Goal(f"stop of {IDLE:,} idle workers: a worker, of one of {FEW}", found.ratio(many, few), at_most=1.5),
    ]


def script(options: Options) -> list[Goal]:
    """All tables; those whose cases were left out have no goals, and say so once all have been measured."""
    goals: list[Goal] = []
    left_out: KeyError | None = None
    for table in (bulk_table, single_table, fair_table, memory_table, threads_table, stop_table):
        try:
            goals += table(options)
        except KeyError as error:
            left_out = error
    if left_out is not None:
        raise left_out
    return goals


if __name__ == "__main__":
    main(script, __doc__)
