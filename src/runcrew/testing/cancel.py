"""Cancels a coroutine wherever it can be cancelled, one place at a time."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

from runcrew.testing import stuck

T = TypeVar("T")

#: Turns of the loop that what belongs to a coroutine has for its end, after the coroutine's own.
TURNS: Final = 20


async def cancel_everywhere(
    make: Callable[[], Coroutine[Any, Any, Any]],
    check: Callable[[asyncio.Task[Any]], Awaitable[None] | None],
    *,
    swallows: bool = False,
    leaves_tasks: bool = False,
    limit: int = 1000,
) -> int:
    """Run `make()` again and again, and cancel it each time at another place; then `check(task)`.

    The places are: before the first step; at the k-th suspension, for every k; and there once more as late as
    can be, when what it waited for is there and it is about to go on. The last run is cancelled nowhere.
    After each run the task is done, and `check` (plain or async) looks for what was leaked or lost.

    make: gives a fresh coroutine each time, one that ends by itself and suspends the same way each time.
    swallows: whether it may end with a value although it was cancelled. Otherwise that is a cancellation lost.
    leaves_tasks: whether tasks that it started may outlive it.
    limit: no more suspensions than that.

    Returns how many suspensions there are. Raises AssertionError for a lost cancellation, a task left over, or
    more suspensions than `limit`; what `check` raises, with a note that says where the coroutine was cancelled;
    and what the coroutine raises when nobody cancels it. Run it on a virtual loop: a coroutine that cancelling
    does not end is then found by Stuck.
    """
    trial = functools.partial(_trial, make, check, swallows=swallows, leaves_tasks=leaves_tasks)
    await trial(_Place(0, late=False))
    for number in range(1, limit + 1):
        place = _Place(number, late=False)
        await trial(place)
        if not place.reached:
            return number - 1
        await trial(_Place(number, late=True))
    raise AssertionError(f"more than {limit} suspensions: give a coroutine that ends, or a higher limit")


class _Place:
    """Where to cancel: at this suspension, counted from 1, early or late. 0: before the first step."""

    def __init__(self, number: int, *, late: bool) -> None:
        self.number = number
        self.late = late
        self.seen = 0
        self.where = "before its first step"
        #: Whether the run came so far.
        self.reached = number == 0
        #: Whether the task took the cancellation; False where it was done already.
        self.accepted = False
        self.task: asyncio.Task[Any] | None = None

    def __str__(self) -> str:
        if not self.reached:
            return "not cancelled at all"
        when = ", as it was about to go on" if self.late else ""
        return f"cancelled {self.where}{when}"

    def suspended(self, inner: Coroutine[Any, Any, Any], waits_for: object) -> None:
        """The coroutine has suspended once more."""
        self.seen += 1
        if self.seen != self.number:
            return
        self.reached = True
        self.where = f"at suspension {self.number}, {stuck.place(inner)}"
        if self.late and asyncio.isfuture(waits_for):
            # Ahead of the task's own callback, so the task hears of both in one turn.
            waits_for.add_done_callback(self.cancel)
        else:
            asyncio.get_running_loop().call_soon(self.cancel)

    def cancel(self, _: object = None) -> None:
        assert self.task is not None
        self.accepted = self.task.cancel()


async def _trial(
    make: Callable[[], Coroutine[Any, Any, Any]],
    check: Callable[[asyncio.Task[Any]], Awaitable[None] | None],
    place: _Place,
    *,
    swallows: bool,
    leaves_tasks: bool,
) -> None:
    before = asyncio.all_tasks()
    inner = make()
    if place.number:
        task = asyncio.ensure_future(_driven(inner, place.suspended))
        place.task = task
    else:
        task = place.task = asyncio.ensure_future(inner)
        place.cancel()
    await asyncio.wait([task])
    try:
        if not task.cancelled() and task.exception() is None and place.accepted and not swallows:
            raise AssertionError("the cancellation was lost: the coroutine ended with a value")
        if not leaves_tasks:
            await _none_left(before)
        answer = check(task)
        if inspect.isawaitable(answer):
            await answer
    except BaseException as error:
        error.add_note(f"the coroutine was {place}")
        raise
    if not place.reached:
        task.result()


async def _none_left(before: set[asyncio.Task[Any]]) -> None:
    for _ in range(TURNS):
        if not _new(before):
            return
        await asyncio.sleep(0)
    left = _new(before)
    if not left:
        return
    names = ", ".join(sorted(f"{task.get_name()} {stuck.place(task.get_coro())}" for task in left))
    raise AssertionError(f"tasks outlived the coroutine: {names}")


def _new(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task not in before]


async def _driven(inner: Coroutine[Any, Any, T], suspended: Callable[[Coroutine[Any, Any, T], object], None]) -> T:
    return await _watched(inner, suspended)


@types.coroutine
def _watched(
    inner: Coroutine[Any, Any, T], suspended: Callable[[Coroutine[Any, Any, T], object], None]
) -> Generator[Any, Any, T]:
    """Drives a coroutine as `await` does, and tells of each suspension before it happens."""
    step: Callable[[], Any] = functools.partial(inner.send, None)
    while True:
        try:
            waits_for = step()
        except StopIteration as end:
            value: T = end.value
            return value
        suspended(inner, waits_for)
        try:
            answer = yield waits_for
        except GeneratorExit:
            inner.close()
            raise
        except BaseException as error:
            step = functools.partial(inner.throw, error)
        else:
            step = functools.partial(inner.send, answer)
