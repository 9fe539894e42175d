"""What a change of the number of workers gives to await."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_door import Arrows, FakeDoor, Maker, deaf, forever, moment

from runcrew.errors import WouldDeadlock
from runcrew.lifecycle.inside import enter


async def in_time(awaitable: Any) -> tuple[float, Any]:
    """How long it took, and what it gave."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    value = await awaitable
    return loop.time() - began, value


@pytest.mark.virtual
async def test_more_are_there_when_it_returns(arrows: Arrows) -> None:
    """With their resources; until then it is under way, awaited or not."""
    maker = Maker(opening=5)
    door = await FakeDoor(arrows, maker.recipe(), size=1, most=4).open()
    change = door.group.resize(3)
    assert 2 == door.group.opening
    assert "<Change of group to 3: under way>" == repr(change)
    assert (5, 3) == await in_time(change)
    assert "<Change of group to 3: done>" == repr(change)
    assert (0, 3) == await in_time(change)
    await door.close()


@pytest.mark.virtual
async def test_fewer_are_gone_when_it_returns(arrows: Arrows) -> None:
    """With their work, and their resources taken down."""
    maker = Maker(closing=5)
    door = await FakeDoor(arrows, maker.recipe(), size=3).open()
    for _ in range(3):
        door.give(moment)
    assert (6, 1) == await in_time(door.group.resize(1))
    assert (1, [1]) == (len(door.group.roster), maker.alive)
    await door.close()


@pytest.mark.virtual
async def test_no_change_is_complete_at_once(arrows: Arrows) -> None:
    """There is nothing to wait for."""
    door = await FakeDoor(arrows, Maker().recipe(), size=2).open()
    assert (0, 2) == await in_time(door.group.resize(2))
    await door.close()


@pytest.mark.virtual
async def test_without_resources_it_is_complete_at_once(arrows: Arrows) -> None:
    """Workers that own nothing come and go in no time."""
    door = await FakeDoor(arrows, size=1, most=9).open()
    assert (0, 9) == await in_time(door.group.resize(9))
    assert (0, 0) == await in_time(door.group.resize(0))
    await door.close()


@pytest.mark.virtual
async def test_it_returns_with_fewer_when_one_could_not_be_made(arrows: Arrows) -> None:
    """That is tried on; who waits is told as soon as it is known."""
    maker = Maker(opening=5)
    door = await FakeDoor(arrows, maker.recipe(), size=1, most=4).open()
    maker.failing = 3
    assert (5, 1) == await in_time(door.group.resize(3))
    await asyncio.sleep(100)
    assert 3 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_it_waits_for_the_next_attempt_where_openings_fail_already(arrows: Arrows) -> None:
    """What failed before it was asked for says nothing about it."""
    maker = Maker(failing=3)
    door = await FakeDoor(arrows, maker.recipe(), size=1, most=4).open()
    await asyncio.sleep(1.5)
    assert 3 == door.group.counts.failed_openings
    assert (1.5, 2) == await in_time(door.group.resize(2))
    await door.close()


@pytest.mark.virtual
async def test_it_returns_when_the_group_is_closed(arrows: Arrows) -> None:
    """Nothing will come of it any more."""
    maker = Maker(opening=50)
    door = FakeDoor(arrows, maker.recipe(), size=1, most=4)
    door.group.open()
    waiting = asyncio.ensure_future(in_time(door.group.resize(4)))
    await asyncio.sleep(1)
    door.group.close()
    assert (1, 0) == await waiting
    assert (0, 0) == await in_time(door.group.resize(2))
    await door.close()


@pytest.mark.parametrize("max_abandoned", [0, 1])
@pytest.mark.virtual
async def test_it_does_not_wait_for_places_that_abandoned_ones_hold(arrows: Arrows, max_abandoned: int) -> None:
    """As many as there can be are there: nobody says when there will be more."""
    door = await FakeDoor(arrows, Maker().recipe(), size=2, most=4, max_abandoned=max_abandoned).open()
    jobs = [door.give(deaf), door.give(deaf)]
    await asyncio.sleep(1)
    for job in jobs:
        door.abandon(job)
    assert (0, 2 + max_abandoned) == await in_time(door.group.resize(4))
    await asyncio.sleep(2000)
    assert 4 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_it_does_not_wait_in_a_stalled_group(arrows: Arrows) -> None:
    """There all places are held."""
    door = await FakeDoor(arrows, Maker().recipe(), size=1, most=1, max_abandoned=0).open()
    job = door.give(deaf)
    await asyncio.sleep(1)
    door.abandon(job)
    assert (0, 0) == await in_time(door.group.resize(1))
    await asyncio.sleep(2000)
    await door.close()


@pytest.mark.virtual
async def test_it_does_not_wait_for_an_abandoned_one(arrows: Arrows) -> None:
    """One that was to leave and was given up is on no way that anybody waits for."""
    door = await FakeDoor(arrows, Maker().recipe(), size=2).open()
    job = door.give(deaf)
    door.give(deaf)
    await asyncio.sleep(1)
    waiting = asyncio.ensure_future(in_time(door.group.resize(1)))
    await asyncio.sleep(1)
    for worker in list(door.group.roster):
        if worker.state.value == "leaving":
            door.abandon(worker.work)
    assert (1, 1) == await waiting
    assert not job.ended
    await asyncio.sleep(2000)
    await door.close()


@pytest.mark.virtual
async def test_an_overtaken_one_is_complete_when_all_is(arrows: Arrows) -> None:
    """Each says what is there when nobody comes or goes any more: here, when the first one is taken down."""
    maker = Maker(opening=5, closing=5)
    door = await FakeDoor(arrows, maker.recipe(), size=1, most=4).open()
    first = asyncio.ensure_future(in_time(door.group.resize(4)))
    await asyncio.sleep(1)
    second = asyncio.ensure_future(in_time(door.group.resize(2)))
    assert [(6, 2), (5, 2)] == await asyncio.gather(first, second)
    await door.close()


@pytest.mark.virtual
async def test_cancelling_ends_only_the_waiting(arrows: Arrows) -> None:
    """The change goes on, and so do the others who wait for it."""
    maker = Maker(opening=5)
    door = await FakeDoor(arrows, maker.recipe(), size=1, most=4).open()
    change = door.group.resize(2)
    one, other = asyncio.ensure_future(in_time(change)), asyncio.ensure_future(in_time(change))
    await asyncio.sleep(1)
    one.cancel()
    assert (5, 2) == await other
    assert one.cancelled()
    await door.close()


@pytest.mark.virtual
async def test_a_job_of_the_group_may_change_it_but_not_wait(arrows: Arrows) -> None:
    """It might wait for itself; where there is nothing to wait for it gets its answer."""
    door = await FakeDoor(arrows, Maker().recipe(), size=2).open()
    said: list[object] = []

    async def job(_: Any) -> None:
        enter(door.home)
        said.append(await door.group.resize(2))
        change = door.group.resize(0)
        try:
            await change
        except WouldDeadlock as error:
            said.append(str(error))

    door.give(job)
    await asyncio.sleep(1)
    assert 2 == said[0]
    assert "begin the change without awaiting it" in str(said[1])
    assert {} == door.group.roster
    await door.close()


@pytest.mark.virtual
async def test_a_change_made_when_another_has_failed_waits_for_its_own(arrows: Arrows) -> None:
    """A door that answers a failure with a change gets one that is under way."""
    maker = Maker(opening=1, failing=1)
    door = FakeDoor(arrows, maker.recipe(), size=1, most=3)
    changes: list[Any] = []
    door.when["failed"] = lambda _: changes.append(door.group.resize(2))
    door.group.open()
    await asyncio.sleep(1.5)
    assert "<Change of group to 2: under way>" == repr(changes[0])
    assert 2 == await changes[0]
    await door.close()


@pytest.mark.virtual
async def test_it_can_be_awaited_by_whoever_holds_the_work_up(arrows: Arrows) -> None:
    """A change to fewer lasts as long as the work does."""
    door = await FakeDoor(arrows, size=1).open()
    door.give(forever)
    waiting = asyncio.ensure_future(in_time(door.group.resize(0)))
    await asyncio.sleep(50)
    assert not waiting.done()
    door.worker_lost(door.only(), asyncio.CancelledError())
    assert (50, 0) == await waiting
    await door.close()
