"""Waiting for one thing, with a limit that may move closer."""

from __future__ import annotations

import asyncio

import pytest

from runcrew.lifecycle import Latch, Limit


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_an_open_latch_lets_everybody_go() -> None:
    """All who wait go on when it opens, and who comes later does not wait."""
    latch = Latch()
    tasks = [asyncio.create_task(latch.wait()) for _ in range(3)]
    await asyncio.sleep(1)
    assert not any(task.done() for task in tasks)
    latch.open()
    latch.open()
    await asyncio.wait(tasks)
    await latch.wait()
    assert (1.0, True) == (now(), latch.is_open)


@pytest.mark.virtual
async def test_a_closed_latch_makes_wait_again() -> None:
    """Who was let go and finds it closed again goes on waiting."""
    latch = Latch()
    latch.open()
    latch.close()
    task = asyncio.create_task(latch.wait())
    await asyncio.sleep(1)
    latch.open()
    latch.close()
    await asyncio.sleep(1)
    assert not task.done()
    latch.open()
    await task


@pytest.mark.virtual
async def test_one_who_leaves_harms_no_other() -> None:
    """Cancelling one who waits cancels nobody else."""
    latch = Latch()
    stays, leaves = asyncio.create_task(latch.wait()), asyncio.create_task(latch.wait())
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    latch.open()
    await stays


@pytest.mark.virtual
async def test_a_limit_ends_the_waiting() -> None:
    """Who waits with a limit is told whether it was reached first."""
    latch = Latch()
    assert not await latch.wait_until(Limit(5.0))
    assert 5.0 == now()
    assert not await latch.wait_until(Limit(3.0))
    assert 5.0 == now()
    latch.open()
    assert await latch.wait_until(Limit(3.0))


@pytest.mark.virtual
async def test_a_limit_moves_only_closer() -> None:
    """A limit that is moved closer is seen by who waits already; later ones change nothing."""
    latch, limit = Latch(), Limit(100.0)
    task = asyncio.create_task(latch.wait_until(limit))
    await asyncio.sleep(1)
    limit.move(200.0)
    limit.move(10.0)
    limit.move(50.0)
    assert not await task
    assert (10.0, 10.0) == (now(), limit.when)


@pytest.mark.virtual
async def test_a_limit_within_another_is_never_later() -> None:
    """What is part of a time ends with it, also when that is cut short."""
    outer = Limit(10.0)
    assert 10.0 == outer.within(100).when
    inner = outer.within(5)
    assert 5.0 == inner.when
    outer.move(7.0)
    assert 5.0 == inner.when
    outer.move(2.0)
    assert 2.0 == inner.when


@pytest.mark.virtual
async def test_opening_and_the_limit_at_one_moment() -> None:
    """A latch that opens when the limit comes is open for whoever looks."""
    latch = Latch()
    asyncio.get_running_loop().call_at(5.0, latch.open)
    answer = await latch.wait_until(Limit(5.0))
    assert answer is True or not latch.is_open
