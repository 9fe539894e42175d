"""run_virtual: one run from the making of the loop to its end."""

from __future__ import annotations

import asyncio
import functools
import gc
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.clock import utc
from runcrew.errors import ConfigError
from runcrew.testing import Stuck, VirtualLoop, run_virtual


async def add(a: int, b: int = 1, *, sleep: float = 1.0) -> int:
    """A sum that takes its time."""
    await asyncio.sleep(sleep)
    return a + b


def drop(tasks: list[asyncio.Task[None]], loop_errors: list[str]) -> None:
    """Let go of a task that was lost on purpose, and see that asyncio complains."""
    tasks.clear()
    gc.collect()
    assert 1 == len(loop_errors)
    loop_errors.clear()


def test_it_runs_a_function_a_partial_or_a_coroutine() -> None:
    """The value comes back from a function with its arguments, a partial with keywords, and a coroutine object."""
    assert 3 == run_virtual(add, 1, 2)
    assert 3 == run_virtual(functools.partial(add, 1, b=2, sleep=5))
    assert 3 == run_virtual(add(1, 2))


def test_errors_come_out_as_they_are() -> None:
    """What the coroutine raises is raised, the very object."""
    error = KeyError("mine")

    async def main() -> None:
        raise error

    with pytest.raises(KeyError) as raised:
        run_virtual(main)
    assert error is raised.value


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (None, datetime(2025, 1, 1, tzinfo=UTC)),
        (datetime(2031, 5, 6, 7, 8, 9, 250_000, UTC), datetime(2031, 5, 6, 7, 8, 9, 250_000, UTC)),
        (datetime(2031, 5, 6, 7, tzinfo=timezone(timedelta(hours=2))), datetime(2031, 5, 6, 5, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1.5, datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)),
    ],
)
def test_wall_time_begins_where_it_is_told_to(start: datetime | float | None, expected: datetime) -> None:
    """start is the wall time at the loop's time 0, as a datetime of any zone or seconds since the epoch."""

    async def main() -> datetime:
        return utc(clocks.current().now())

    assert expected == run_virtual(main, start=start)


@pytest.mark.parametrize("start", [datetime(2031, 5, 6), True, "today", math.nan, math.inf])  # noqa: DTZ001
def test_a_start_that_is_no_point_in_time_is_refused(start: Any) -> None:
    """A naive datetime, or what is no point in time, is refused by name, and nothing is run."""
    with pytest.raises(ConfigError, match="start: "):
        run_virtual(add(1), start=start)


def test_chance_is_repeatable() -> None:
    """The clock's random gives the same numbers in every run with the same seed, and others with another."""

    async def main() -> list[float]:
        return [clocks.current().random.random() for _ in range(3)]

    assert run_virtual(main) == run_virtual(main)
    assert run_virtual(main, seed=5) == run_virtual(main, seed=5)
    assert run_virtual(main, seed=5) != run_virtual(main, seed=6)


def test_the_clock_is_in_force_inside_only() -> None:
    """Every task and callback of the run sees the virtual clock, the clean-up too, and the caller does not."""
    seen: list[clocks.Clock] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append(clocks.current())

    async def left_over() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            seen.append(clocks.current())

    async def main() -> clocks.Clock:
        asyncio.get_running_loop().call_soon(lambda: seen.append(clocks.current()))
        generators.append(numbers())
        await anext(generators[0])
        tasks.append(asyncio.create_task(left_over()))
        await asyncio.sleep(1)
        return clocks.current()

    generators: list[AsyncIterator[int]] = []
    tasks: list[asyncio.Task[None]] = []
    inside = run_virtual(main)
    assert [inside] * 3 == seen
    assert clocks.SYSTEM is clocks.current()
    assert inside is not clocks.SYSTEM


def test_tasks_that_are_left_are_cancelled_and_awaited() -> None:
    """At the end every task that still waits is cancelled, and its clean-up has the time that it takes."""
    ends: list[float] = []

    async def left_over() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(5)
            ends.append(asyncio.get_running_loop().time())

    async def main() -> None:
        tasks.append(asyncio.create_task(left_over()))
        await asyncio.sleep(1)

    tasks: list[asyncio.Task[None]] = []
    run_virtual(main)
    assert [6.0] == ends
    assert tasks[0].cancelled()


def test_a_task_that_the_clean_up_leaves_is_told(loop_errors: list[str]) -> None:
    """A task that is only made while the others are being cancelled would be lost in silence: it is named."""

    async def lost() -> None:
        await asyncio.sleep(1000)

    async def left_over() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            tasks.append(asyncio.create_task(lost(), name="the lost one"))

    async def main() -> None:
        tasks.append(asyncio.create_task(left_over()))
        await asyncio.sleep(1)

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(RuntimeError, match=r"(?s)not all of its tasks.*the lost one in .*lost"):
        run_virtual(main)
    drop(tasks, loop_errors)


def test_a_task_that_cannot_be_cancelled_is_stuck(loop_errors: list[str]) -> None:
    """A task that swallows its cancellation and waits for ever ends the run with Stuck instead of hanging it."""

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        tasks.append(asyncio.create_task(stubborn(), name="the stubborn one"))
        await asyncio.sleep(1)

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(Stuck, match=r"the stubborn one in .*stubborn"):
        run_virtual(main)
    drop(tasks, loop_errors)


def test_it_makes_a_loop_of_its_own() -> None:
    """Inside a running loop it is refused, and says what to do; the coroutine that it was given is closed."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="await the coroutine instead"):
            run_virtual(add(1))

    run_virtual(main)
    asyncio.run(main())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: run_virtual(lambda: 3), "gave int"),  # type: ignore[arg-type,return-value]
        (lambda: run_virtual(add(1), 2), "called already"),  # type: ignore[call-overload]
    ],
)
def test_what_is_no_coroutine_is_refused(call: Any, says: str) -> None:
    """A function that is not async, or arguments for what is called already, are refused by name."""
    with pytest.raises(TypeError, match=says):
        call()


def test_bad_options_are_refused_before_anything_runs() -> None:
    """A bad option raises ConfigError and leaves no coroutine that was never awaited."""
    with pytest.raises(ConfigError, match="patience: 'soon'"):
        run_virtual(add(1), patience="soon")


def test_nothing_is_shared_between_runs() -> None:
    """Each run begins at time 0 on a loop of its own, which is closed after it."""

    async def main() -> asyncio.AbstractEventLoop:
        assert 0.0 == asyncio.get_running_loop().time()
        await asyncio.sleep(5)
        return asyncio.get_running_loop()

    first, second = run_virtual(main), run_virtual(main)
    assert isinstance(first, VirtualLoop)
    assert first is not second
    assert (True, True) == (first.is_closed(), second.is_closed())
