"""Plain functions in other processes: what one costs, what is left of two cores, and what it takes to end a stuck one.

Two workers everywhere. The floor is forked workers on socket pairs, by hand, with nothing but the call. Ours is a Queue
with two workers in processes. Peers that are not installed are left out (`pip install runcrew[bench]` brings them).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import multiprocessing as mp
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import process_peers as peers
from common import Case, Goal, Options, external, in_loop, main, now, per_op
from jobs import compute, noop, own_process, stuck

import runcrew as rc
from runcrew import clock

WORKERS, CORES = 2, 2
BULK, FEW, ONE_BY_ONE, MILLISECONDS = 10_000, 1_000, 300, 1_000

FLOOR, CHUNKS = "floor: forked workers, 1 job a message", "floor: forked workers, 50 jobs a message"
OURS, SUBMIT, MANY = "runcrew submit_nowait", "runcrew await submit", "runcrew submit_many"
STANDARD, MAPPED = "ProcessPoolExecutor.submit", "ProcessPoolExecutor.map, chunks of 50"
#: What a table has to show, looked at when all have been made.
Goals: TypeAlias = Callable[[], list[Goal]]
HERE = Path(__file__).resolve().parent


# --- ours -----------------------------------------------------------------------------------------


def queue(workers: int = WORKERS, **options: Any) -> rc.Queue[Any]:
    """A queue whose workers are processes."""
    make: Any = rc.Queue
    return make("q", backend="process", workers=workers, **options)


async def ours_bulk(how: str, fn: peers.Function, count: int) -> float:
    """Submit all, then await each."""
    async with queue() as its:
        await warm(its.run)
        start = now()
        if how == OURS:
            submit = its.submit_nowait
            tickets = [submit(fn, number) for number in range(count)]
        elif how == SUBMIT:
            tickets = [await its.submit(fn, number) for number in range(count)]
        else:
            tickets = await its.submit_many(fn, range(count))
        for ticket in tickets:
            await ticket
        return per_op(start, count)


async def ours_one_by_one() -> float:
    """Await each before the next."""
    async with queue() as its:
        await warm(its.run)
        start = now()
        for number in range(ONE_BY_ONE):
            await its.run(noop, number)
        return per_op(start, ONE_BY_ONE)


async def warm(call: Callable[..., Any]) -> None:
    """All workers are there, and have run something."""
    await asyncio.gather(*[call(compute, number) for number in range(8 * WORKERS)])


# --- the others -----------------------------------------------------------------------------------


def by_hand(fn: peers.Function, count: int, ahead: int = 32, chunk: int = 1) -> Case:
    """The floor, and what answers like it."""
    return running(lambda: peers.Floor(WORKERS, ahead, chunk), fn, count)


def running(make: Callable[[], Any], fn: peers.Function, count: int) -> Case:
    """One that is given all at once."""

    def case() -> float:
        its = make()
        its.run(compute, 8 * WORKERS)
        start = now()
        its.run(fn, count)
        used = per_op(start, count)
        its.close()
        return used

    return case


def by_hand_one_by_one() -> float:
    """The floor, each before the next."""
    floor = peers.Floor(1)
    floor.one(noop, 0)
    start = now()
    for number in range(ONE_BY_ONE):
        floor.one(noop, number)
    used = per_op(start, ONE_BY_ONE)
    floor.close()
    return used


def bulk(make: Callable[[int], Any], fn: peers.Function, count: int) -> Case:
    """Submit all, then ask for each result."""

    def case() -> float:
        its = make(WORKERS)
        for future in [its.submit(compute, number) for number in range(8 * WORKERS)]:
            future.result()
        start = now()
        for future in [its.submit(fn, number) for number in range(count)]:
            future.result()
        used = per_op(start, count)
        its.close()
        return used

    return case


def one_by_one(make: Callable[[int], Any]) -> Case:
    """Each result before the next."""

    def case() -> float:
        its = make(WORKERS)
        for future in [its.submit(compute, number) for number in range(8 * WORKERS)]:
            future.result()
        start = now()
        for number in range(ONE_BY_ONE):
            its.submit(noop, number).result()
        used = per_op(start, ONE_BY_ONE)
        its.close()
        return used

    return case


def mapped(fn: peers.Function, count: int) -> Case:
    """All in chunks."""

    def case() -> float:
        its = peers.Standard(WORKERS)
        its.map(compute, range(8 * WORKERS), 1)
        start = now()
        its.map(fn, range(count), 50)
        used = per_op(start, count)
        its.close()
        return used

    return case


async def loop_bulk(make: Callable[[int], Any], fn: peers.Function, count: int) -> float:
    """A task for each."""
    its = make(WORKERS)
    await warm(its.call)
    start = now()
    await asyncio.gather(*[its.call(fn, number) for number in range(count)])
    used = per_op(start, count)
    await its.close()
    return used


async def loop_one_by_one(make: Callable[[int], Any]) -> float:
    """Each before the next."""
    its = make(WORKERS)
    await warm(its.call)
    start = now()
    for number in range(ONE_BY_ONE):
        await its.call(noop, number)
    used = per_op(start, ONE_BY_ONE)
    await its.close()
    return used


def peer(name: str, case: Case) -> Case | None:
    """A case that is left out where its library is not there."""
    return case if importlib.util.find_spec(name) else None


# --- the end of a stuck one -------------------------------------------------------------------------


def serve(line: Any) -> None:
    """A worker by hand, for a process that `multiprocessing` starts."""
    while True:
        line.send(line.recv()(0))


def killed_by_hand(method: str) -> Case:
    """SIGKILL, and a process in its place; the fork server is up before the clock starts."""

    def case() -> float:
        context: Any = mp.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["processes"])

        def launch() -> tuple[Any, Any]:
            mine, its = context.Pipe()
            process = context.Process(target=serve, args=(its,))
            process.start()
            its.close()
            mine.send(noop)
            mine.recv()
            return process, mine

        first, _ = launch()
        ill, line = launch()
        line.send(stuck)
        time.sleep(0.05)
        start = now()
        ill.kill()
        ill.join()
        other, _ = launch()
        used = (now() - start) * 1e3
        for process in (first, other):
            process.kill()
            process.join()
        return used

    return case


async def killed_by_timeout() -> float:
    """Ours: from the instant of the timeout until the next task has run in the same worker's place."""
    span = 0.2
    async with queue(1) as its:
        await its.run(noop, 0)
        ill = await its.submit(stuck, 0, timeout=span)
        await (await its.submit(noop, 1))
        ended = clock.current().now()
        started = (await ill.outcome()).started
        return (ended - (started or 0.0) - span) * 1e3


async def killed_from_outside() -> float:
    """Ours: from a SIGKILL until the next task has run."""
    async with queue(1) as its:
        pid = await its.run(own_process, 0)
        ill = await its.submit(stuck, 0)
        await asyncio.sleep(0.1)
        start = now()
        os.kill(pid, signal.SIGKILL)
        await its.run(noop, 1)
        used = (now() - start) * 1e3
        await ill.outcome()
        return used


def pebble_timeout() -> float:
    """The same."""
    its = peers.Pebble(1)
    its.submit(noop, 0).result()
    start = now()
    its.submit(stuck, 0, timeout=0.2)
    its.submit(noop, 1).result()
    used = (now() - start - 0.2) * 1e3
    its.close()
    return used


def pebble_cancel() -> float:
    """From `cancel()` on."""
    its = peers.Pebble(1)
    its.submit(noop, 0).result()
    ill = its.submit(stuck, 0)
    time.sleep(0.2)
    start = now()
    ill.cancel()
    its.submit(noop, 1).result()
    used = (now() - start) * 1e3
    its.close()
    return used


def another_executor(make: Callable[[int], Any]) -> Case:
    """What cannot end one task: its processes are killed, and another executor takes its place."""

    def case() -> float:
        its = make(1)
        its.submit(noop, 0).result()
        its.submit(stuck, 0)
        time.sleep(0.1)
        start = now()
        for pid in its.pids():
            os.kill(pid, signal.SIGKILL)
        its.close()
        other = make(1)
        other.submit(noop, 1).result()
        used = (now() - start) * 1e3
        other.close()
        return used

    return case


async def loop_cancel(make: Callable[[int], Any]) -> float:
    """A task that awaits it is cancelled."""
    its = make(1)
    await its.call(noop, 0)
    ill = asyncio.ensure_future(its.call(stuck, 0))
    await asyncio.sleep(0.1)
    start = now()
    ill.cancel()
    await its.call(noop, 1)
    used = (now() - start) * 1e3
    await asyncio.wait([ill])
    await its.close()
    return used


# --- tables ---------------------------------------------------------------------------------------


def bulk_table(options: Options) -> Goals:
    """No-ops, all at once."""
    found = options.measure(
        "No-op in a process, bulk",
        {
            FLOOR: by_hand(noop, BULK),
            CHUNKS: by_hand(noop, 5 * BULK, ahead=4, chunk=50),
            OURS: in_loop(ours_bulk, OURS, noop, BULK),
            SUBMIT: in_loop(ours_bulk, SUBMIT, noop, BULK),
            MANY: in_loop(ours_bulk, MANY, noop, BULK),
            STANDARD: bulk(peers.Standard, noop, FEW),
            MAPPED: mapped(noop, BULK),
            "loop.run_in_executor(ProcessPoolExecutor)": in_loop(loop_bulk, peers.InExecutor, noop, FEW),
            "multiprocessing.Pool.apply_async": bulk(peers.MultiprocessingPool, noop, FEW),
            "pebble": peer("pebble", bulk(peers.Pebble, noop, FEW // 2)),
            "loky": peer("loky", bulk(peers.Loky, noop, FEW)),
            "joblib, batches of its own": peer("joblib", running(lambda: peers.Joblib(WORKERS), noop, BULK)),
            "anyio.to_process": peer("anyio", in_loop(loop_bulk, peers.Anyio, noop, FEW)),
            "aiomisc.WorkerPool": peer("aiomisc", in_loop(loop_bulk, peers.Aiomisc, noop, FEW)),
        },
    )
    return lambda: [
        Goal("bulk: times the floor with one job a message", found.ratio(OURS, FLOOR), at_most=1),
        Goal("bulk: times the throughput of ProcessPoolExecutor", found.ratio(STANDARD, OURS), at_least=10),
    ]


def single_table(options: Options) -> Goals:
    """No-ops, each before the next."""
    floor, ours = "floor: a forked worker", "runcrew run"
    found = options.measure(
        "No-op in a process, one at a time",
        {
            floor: by_hand_one_by_one,
            ours: in_loop(ours_one_by_one),
            "ProcessPoolExecutor.submit": one_by_one(peers.Standard),
            "loop.run_in_executor(ProcessPoolExecutor)": in_loop(loop_one_by_one, peers.InExecutor),
            "multiprocessing.Pool.apply_async": one_by_one(peers.MultiprocessingPool),
            "pebble": peer("pebble", one_by_one(peers.Pebble)),
            "loky": peer("loky", one_by_one(peers.Loky)),
            "anyio.to_process": peer("anyio", in_loop(loop_one_by_one, peers.Anyio)),
            "aiomisc.WorkerPool": peer("aiomisc", in_loop(loop_one_by_one, peers.Aiomisc)),
        },
    )
    return lambda: [Goal("one at a time: times the floor", found.ratio(ours, floor), at_most=2)]


def compute_table(options: Options) -> Goals:
    """A millisecond of processor time for each."""
    ideal = 1000 / CORES
    floor = "floor: forked workers, 2 messages ahead"
    found = options.measure(
        f"1 ms of processor time, bulk (ideal: {ideal:g})",
        {
            floor: by_hand(compute, MILLISECONDS, ahead=2),
            OURS: in_loop(ours_bulk, OURS, compute, MILLISECONDS),
            STANDARD: bulk(peers.Standard, compute, MILLISECONDS),
            MAPPED: mapped(compute, MILLISECONDS),
            "multiprocessing.Pool.apply_async": bulk(peers.MultiprocessingPool, compute, MILLISECONDS),
            "pebble": peer("pebble", bulk(peers.Pebble, compute, MILLISECONDS)),
            "loky": peer("loky", bulk(peers.Loky, compute, MILLISECONDS)),
            "joblib, batches of its own": peer("joblib", running(lambda: peers.Joblib(WORKERS), compute, MILLISECONDS)),
            "anyio.to_process": peer("anyio", in_loop(loop_bulk, peers.Anyio, compute, MILLISECONDS)),
            "aiomisc.WorkerPool": peer("aiomisc", in_loop(loop_bulk, peers.Aiomisc, compute, MILLISECONDS)),
        },
    )
    return lambda: [
        Goal(f"1 ms tasks: percent of {CORES} cores", 100 * ideal / found.median(OURS), at_least=93),
        Goal("1 ms tasks: times the floor", found.ratio(OURS, floor), at_most=1.05),
    ]


def kill_table(options: Options) -> Goals:
    """A stuck one, until another has run in its place."""
    floor, ours = "floor: SIGKILL, then by a fork server", "runcrew, a timeout: from its instant"
    found = options.measure(
        "A stuck task is ended, until the next one has run",
        {
            floor: killed_by_hand("forkserver"),
            "floor: SIGKILL, then by a fork of this process": killed_by_hand("fork"),
            "floor: SIGKILL, then by spawn": killed_by_hand("spawn"),
            ours: in_loop(killed_by_timeout),
            "runcrew, SIGKILL from outside": in_loop(killed_from_outside),
            "ProcessPoolExecutor, killed and another made": another_executor(peers.Standard),
            "pebble, a timeout: from its instant": peer("pebble", pebble_timeout),
            "pebble, cancel": peer("pebble", pebble_cancel),
            "loky, killed and another made": peer("loky", another_executor(peers.Loky)),
            "anyio.to_process, cancelled": peer("anyio", in_loop(loop_cancel, peers.Anyio)),
            "aiomisc.WorkerPool, cancelled": peer("aiomisc", in_loop(loop_cancel, peers.Aiomisc)),
        },
        "ms",
    )
    return lambda: [Goal("a stuck task at its timeout, until the next has run, ms", found.median(ours), at_most=50)]


def start_tables(options: Options) -> None:
    """In a fresh interpreter each: how long until the first task has run, and what a worker weighs then."""
    names = {
        "runcrew": "runcrew",
        "ProcessPoolExecutor, its default": "Standard",
        "ProcessPoolExecutor, fork server": "ByForkServer",
        "ProcessPoolExecutor, spawn": "BySpawn",
        "loky": "Loky",
    }
    titles = {
        "ms": "From nothing until the first task has run, imports done",
        "MiB": "Memory of a worker that has run a no-op: its share (PSS)",
        "MiB resident": "Memory of a worker that has run a no-op: what is resident (RSS)",
    }
    for number, (unit, title) in enumerate(titles.items()):
        cases = {
            name: external(sys.executable, str(HERE / "process_start.py"), key, str(number))
            for name, key in names.items()
            if key != "Loky" or importlib.util.find_spec("loky")
        }
        options.measure(title, cases, unit)


def script(options: Options) -> list[Goal]:
    """All of it."""
    warnings.simplefilter("ignore")  # that there are threads when one of the floors forks
    logging.disable(logging.CRITICAL)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])  # aiomisc's
    promises = [table(options) for table in (bulk_table, single_table, compute_table, kill_table)]
    start_tables(options)
    return [goal for goals in promises for goal in goals()]  # last: with --only, a case that is compared is missing


if __name__ == "__main__":
    main(script, __doc__)
