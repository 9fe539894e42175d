"""cancel_everywhere: every place is visited, and what is wrong at any one of them is found."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from typing import Any

import pytest

from runcrew.testing import cancel_everywhere


def fine(_: asyncio.Task[Any]) -> None:
    """Nothing to find fault with."""


class Gate:
    """A lock that can be held wrongly in two ways."""

    def __init__(self) -> None:
        self.held = 0

    async def properly(self) -> str:
        """Suspends three times and always lets go."""
        self.held += 1
        try:
            await asyncio.sleep(1)
            await asyncio.sleep(0)
        finally:
            self.held -= 1
        await asyncio.sleep(1)
        return "done"

    async def leaks_at_the_second(self) -> None:
        """Does not let go when it is cancelled in the middle."""
        await asyncio.sleep(1)
        self.held += 1
        await asyncio.sleep(1)
        self.held -= 1
        await asyncio.sleep(1)

    async def loses_what_it_was_given(self) -> None:
        """Is fine while it waits, but drops what it was handed in the turn in which it is cancelled."""
        given: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, self.give, given)
        self.held -= await given

    def give(self, given: asyncio.Future[int]) -> None:
        """Hand one over, if it is still wanted."""
        if not given.done():
            self.held += 1
            given.set_result(1)

    def check(self, _: asyncio.Task[Any]) -> None:
        """Nothing is held."""
        assert 0 == self.held


@pytest.mark.virtual
async def test_every_place_is_visited() -> None:
    """Each suspension is cancelled early and late, the beginning once, and the last run not at all."""
    gate = Gate()
    ends: list[bool] = []
    assert 3 == await cancel_everywhere(gate.properly, lambda task: ends.append(task.cancelled()))
    assert [True] * 7 + [False] == ends


@pytest.mark.virtual
async def test_what_is_right_everywhere_passes() -> None:
    """A coroutine that cleans up wherever it is cancelled satisfies its check at every place."""
    gate = Gate()
    assert 3 == await cancel_everywhere(gate.properly, gate.check)


@pytest.mark.virtual
async def test_a_leak_at_one_place_is_found() -> None:
    """A planted leak at the second of three suspensions fails the check there, and the note says where."""
    gate = Gate()
    with pytest.raises(AssertionError) as found:
        await cancel_everywhere(gate.leaks_at_the_second, gate.check)
    (note,) = found.value.__notes__
    assert "cancelled at suspension 2, in Gate.leaks_at_the_second, at sleep, " in note


@pytest.mark.virtual
async def test_what_is_lost_in_the_turn_of_the_result_is_found() -> None:
    """A coroutine that drops what it was just handed is found by the late cancellation only."""
    gate = Gate()
    with pytest.raises(AssertionError) as found:
        await cancel_everywhere(gate.loses_what_it_was_given, gate.check)
    (note,) = found.value.__notes__
    assert note.endswith("as it was about to go on")


@pytest.mark.virtual
async def test_a_lost_cancellation_is_found() -> None:
    """A coroutine that goes on as if nothing had been is found, unless it may."""

    async def swallows() -> int:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass
        return 1

    with pytest.raises(AssertionError, match="the cancellation was lost"):
        await cancel_everywhere(swallows, fine)
    assert 1 == await cancel_everywhere(swallows, fine, swallows=True)


@pytest.mark.virtual
async def test_a_task_left_over_is_found() -> None:
    """A task that outlives the coroutine that started it is found and named, unless it may."""

    async def starts_one() -> None:
        others.append(asyncio.create_task(asyncio.sleep(60), name="the other"))
        await asyncio.sleep(0)
        others[-1].cancel()

    others: list[asyncio.Task[None]] = []
    with pytest.raises(AssertionError, match=r"outlived.*the other in sleep"):
        await cancel_everywhere(starts_one, fine)
    assert 1 == await cancel_everywhere(starts_one, fine, leaves_tasks=True)
    for other in others:
        other.cancel()


@pytest.mark.virtual
async def test_a_check_may_be_async() -> None:
    """An async check is awaited, with the loop as it is after the run."""
    seen: list[float] = []

    async def check(task: asyncio.Task[Any]) -> None:
        assert task.done()
        await asyncio.sleep(0.5)
        seen.append(asyncio.get_running_loop().time())

    async def one() -> None:
        await asyncio.sleep(1)

    assert 1 == await cancel_everywhere(one, check)
    assert [0.5, 1.0, 2.5, 4.0] == seen


@pytest.mark.virtual
async def test_its_own_error_is_raised() -> None:
    """A coroutine that fails by itself fails the test, instead of passing for want of suspensions."""

    async def broken() -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await cancel_everywhere(broken, fine)


@pytest.mark.virtual
async def test_one_that_never_suspends_has_no_place() -> None:
    """A coroutine that never waits has no suspension to be cancelled at."""

    async def straight() -> int:
        return 1

    assert 0 == await cancel_everywhere(straight, fine)


@pytest.mark.virtual
async def test_one_that_never_ends_is_found() -> None:
    """More suspensions than the limit are an error that says what to do."""

    async def endless() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(AssertionError, match="more than 5 suspensions"):
        await cancel_everywhere(endless, fine, limit=5)


@pytest.mark.virtual(seed=11)
async def test_children_have_suspensions_of_their_own() -> None:
    """Only the coroutine's own suspensions count; its children are cancelled by way of it, under a seed too."""

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1))
            group.create_task(asyncio.sleep(2))

    assert 1 == await cancel_everywhere(parent, fine)


@pytest.mark.virtual
async def test_what_is_yielded_and_sent_goes_through() -> None:
    """Awaitables of any kind work under it as they do without."""

    @types.coroutine
    def bare() -> Generator[None, None, str]:
        answer = yield
        return f"sent {answer}"

    async def main() -> None:
        assert "sent None" == await bare()
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, ValueError("through"))
        with pytest.raises(ValueError, match="through"):
            await future

    assert 2 == await cancel_everywhere(main, fine)
