"""Seeds: the same one gives the same order, others give others, and only what asyncio leaves open is permuted."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.testing import order, run_virtual

Trace = list[tuple[float, str]]


async def busy() -> Trace:
    """Tasks that meet at a queue, a lock, a shared task and equal times; what happened, in order."""
    loop = asyncio.get_running_loop()
    trace: Trace = []
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    lock = asyncio.Lock()

    def note(what: str) -> None:
        trace.append((loop.time(), what))

    async def producer(name: str) -> None:
        for number in range(5):
            await queue.put(number)
            note(f"{name} put {number}")
            await asyncio.sleep(1)

    async def consumer(name: str) -> None:
        for _ in range(5):
            number = await queue.get()
            async with lock:
                note(f"{name} got {number}")
                await asyncio.sleep(clocks.current().random.choice((0, 0.5, 1)))

    async with asyncio.TaskGroup() as group:
        for name in "abcdef":
            group.create_task(producer(name) if name in "abc" else consumer(name)).add_done_callback(
                lambda _, name=name: note(f"{name} is done")
            )
    return trace


def test_the_same_seed_gives_the_same_order() -> None:
    """Two runs of each of 200 seeds are the same in every step and every instant."""
    for seed in range(200):
        assert run_virtual(busy, seed=seed) == run_virtual(busy, seed=seed)


def test_other_seeds_give_other_orders() -> None:
    """Of 200 seeds nearly every one gives an order of its own."""
    traces = [str(run_virtual(busy, seed=seed)) for seed in range(200)]
    assert 190 < len(dict.fromkeys(traces))


def test_without_a_seed_the_order_is_natural() -> None:
    """With no seed tasks go in the order in which they became ready, as on asyncio's own loop."""

    async def main() -> list[int]:
        seen: list[int] = []

        async def step(number: int) -> None:
            for _ in range(3):
                seen.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(step(number) for number in range(20)))
        return seen

    expected = list(range(20)) * 3
    assert expected == asyncio.run(main())
    assert expected == run_virtual(main)
    assert expected != run_virtual(main, seed=1)


@pytest.mark.realtime
def test_a_seed_means_the_same_in_every_process() -> None:
    """A run can be repeated in another process, with other hashes and memory addresses."""
    source = (
        "import sys, runpy; junk = [object() for _ in range(int(sys.argv[2]))];"
        "names = runpy.run_path(sys.argv[1]); print(names['run_virtual'](names['busy'], seed=7))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", source, __file__, hashes],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hashes in ("1", "4242")
    ]
    assert [str(run_virtual(busy, seed=7))] * 2 == said


def test_timers_for_one_time_are_permuted() -> None:
    """Timers for the very same time go in the order the seed has; those for different times never change places."""

    async def main() -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[float, int]] = []
        for number in range(30):
            for when in (1.0, 1.0 + 1e-15, 2.0):
                loop.call_at(when, seen.append, (when, number))
        await asyncio.sleep(3)
        return seen

    natural = [(when, number) for when in (1.0, 1.0 + 1e-15, 2.0) for number in range(30)]
    assert natural == run_virtual(main)
    shuffled = run_virtual(main, seed=3)
    assert natural != shuffled
    assert [when for when, _ in natural] == [when for when, _ in shuffled]
    assert natural == sorted(shuffled)


def test_plain_calls_keep_their_places() -> None:
    """What was handed to call_soon runs in the order in which it was, whatever the seed."""

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        async def step() -> None:
            seen.append("task")

        tasks = []
        for number in range(20):
            loop.call_soon(seen.append, f"call {number}")
            tasks.append(asyncio.ensure_future(step()))
        await asyncio.wait(tasks)
        return seen

    expected = [what for number in range(20) for what in (f"call {number}", "task")]
    assert [expected] * 200 == [run_virtual(main, seed=seed) for seed in range(200)]


def test_done_callbacks_of_one_future_keep_their_order() -> None:
    """asyncio's sockets clean up in a done callback before the task goes on: callbacks of one future stay in order."""

    async def main() -> list[tuple[int, int]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[int, int]] = []
        futures = [loop.create_future() for _ in range(10)]
        for which, future in enumerate(futures):
            for number in range(10):
                future.add_done_callback(lambda _, which=which, number=number: seen.append((which, number)))
            future.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return seen

    natural = [(which, number) for which in range(10) for number in range(10)]
    assert natural == run_virtual(main)
    for seed in range(20):
        shuffled = run_virtual(main, seed=seed)
        assert natural != shuffled
        for which in range(10):
            assert list(range(10)) == [number for future, number in shuffled if future == which]


def test_what_may_change_places() -> None:
    """Steps and wake-ups of tasks in C and in Python are permuted, and other calls that a task has are not."""

    class Recorder(asyncio.SelectorEventLoop):
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
            handle = super().call_soon(callback, *args, context=context)
            groups.append((getattr(callback, "__name__", type(callback).__name__), order._group(handle) is not None))
            return handle

    async def main(loop: asyncio.AbstractEventLoop) -> None:
        future = loop.create_future()
        future.add_done_callback(done)
        future.set_result(None)
        task = make(loop, asyncio.sleep(0))
        loop.call_soon(task.get_name)
        loop.call_soon(print_nothing, future, 1)
        loop.call_soon(cancelled := future.done).cancel()
        assert callable(cancelled)
        await task

    def done(_: object) -> None: ...

    def print_nothing(*_: object) -> None: ...

    def in_c(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.Task(coroutine, loop=loop)

    def in_python(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.tasks._PyTask(coroutine, loop=loop)  # type: ignore[attr-defined]
        return task

    make: Callable[..., asyncio.Task[None]]
    for make, steps in ((in_c, "TaskStepMethWrapper"), (in_python, "__step")):
        groups: list[tuple[str, bool]] = []
        loop = Recorder()
        loop.set_task_factory(lambda loop, coroutine, make=make, **_: make(loop, coroutine))  # type: ignore[misc]
        loop.run_until_complete(main(loop))
        loop.close()
        assert (steps, True) in groups
        assert ("done", True) in groups
        assert any("wakeup" in name and moves for name, moves in groups)
        assert [("get_name", False), ("print_nothing", False)] == [
            g for g in groups if g[0] in ("get_name", "print_nothing")
        ]


def test_other_threads_may_add_while_it_is_permuted() -> None:
    """A handle that comes in during the permutation is neither lost nor moved."""

    class Growing(deque[asyncio.Handle]):
        def __setitem__(self, place: Any, handle: Any) -> None:
            super().__setitem__(place, handle)
            self.append(loop.call_soon(late.append, None))

    late: list[None] = []
    loop = asyncio.new_event_loop()
    try:
        futures = [loop.create_future() for _ in range(5)]
        handles = [asyncio.Handle(functools.partial(print), (future,), loop, copy_context()) for future in futures]
        ready = Growing(handles)
        order.shuffle(ready, random.Random(1))
    finally:
        loop.close()
    assert 10 == len(ready)
    assert sorted(map(id, handles)) == sorted(map(id, list(ready)[:5]))
    assert handles != list(ready)[:5]
