"""How long a resource may be used, and lie idle: who is over it leaves when it has no work, and is replaced."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_door import Arrows, FakeDoor, Maker, forever, moment
from test_group import lines_for

from runcrew.testing import run_virtual
from runcrew.workers import Recipe


def times(door: FakeDoor) -> list[str]:
    """Why each of those that are gone has left."""
    return [reason for reason, _ in door.gone]


@pytest.mark.defect("D5.17")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
def test_too_old_is_replaced_while_it_is_free(arrows: Arrows, plain: bool) -> None:
    """At its age exactly, and the next one after the same time again."""
    maker = Maker()

    async def main() -> None:
        door = await FakeDoor(arrows, maker.recipe(plain=plain, max_age=10)).open()
        await asyncio.sleep(9.999)
        assert 1 == maker.tried
        await asyncio.sleep(0.002)
        assert 2 == maker.tried
        await asyncio.sleep(100)
        assert (12, ["its resource is too old"] * 11) == (maker.tried, times(door))
        assert 1 == door.group.there
        await door.close()

    run_virtual(main)
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_too_old_is_replaced_after_its_work(arrows: Arrows) -> None:
    """A job is never cut short for that; the worker takes no other afterwards."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(max_age=2.5)).open()
    jobs = [door.give(moment) for _ in range(4)]
    await asyncio.sleep(2.9)
    assert (1, ["busy"]) == (maker.tried, door.states())
    await asyncio.sleep(1.2)
    assert [3, 1] == [thing.uses for thing in maker.things]
    assert all(job.ended for job in jobs)
    await door.close()


@pytest.mark.virtual
async def test_idle_for_too_long_is_replaced(arrows: Arrows) -> None:
    """Idleness begins anew with each end of work, so what is used every few seconds stays."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(max_idle=5)).open()
    for _ in range(10):
        door.give(moment)
        await asyncio.sleep(4)
    assert 1 == maker.tried
    await asyncio.sleep(3)
    assert (2, ["its resource was idle for too long"]) == (maker.tried, times(door))
    await door.close()


@pytest.mark.virtual
async def test_work_is_no_idleness(arrows: Arrows) -> None:
    """A long job does not count against it."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(max_idle=5)).open()
    door.give(forever)
    await asyncio.sleep(100)
    assert 1 == maker.tried
    door.group.close()
    door.worker_lost(door.only(), asyncio.CancelledError())
    await door.close()


@pytest.mark.virtual
async def test_whoever_was_last_used_is_used_next_so_that_the_others_can_go(arrows: Arrows) -> None:
    """Of three, one does all the work: the other two are replaced for their idleness, it is not."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(max_idle=5), size=3).open()
    for _ in range(4):
        door.give(moment)
        await asyncio.sleep(1.2)
    assert [0, 0, 4] == [thing.uses for thing in maker.things]
    await asyncio.sleep(0.3)
    assert [3, 4, 5] == maker.alive
    await door.close()


@pytest.mark.virtual
async def test_both_limits_hold_each_by_itself(arrows: Arrows) -> None:
    """The first one that is reached decides."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(max_age=10, max_idle=4)).open()
    for _ in range(5):
        door.give(moment)
        await asyncio.sleep(3)
    assert "its resource is too old" == times(door)[0]
    await asyncio.sleep(2.5)
    assert "its resource was idle for too long" == times(door)[-1]
    await door.close()


@pytest.mark.virtual
async def test_each_has_its_own_age(arrows: Arrows) -> None:
    """Those that came at different times leave at different times, also where one of them is at work in between."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(max_age=10), size=1, most=4).open()
    for size in (2, 3, 4):
        await asyncio.sleep(1)
        door.group.resize(size)
    gone: list[float] = []
    door.when["gone"] = lambda _: gone.append(asyncio.get_running_loop().time())
    await asyncio.sleep(6.5)  # it is 9.5
    first = next(iter(door.group.free))
    assert 1 == first.number
    door.group.free[first] = door.group.free.pop(first)  # it is the next to be given work
    door.give(moment)
    await asyncio.sleep(4)
    assert [10.5, 11, 12, 13] == gone
    await door.close()


@pytest.mark.virtual
async def test_no_limit_no_timer(arrows: Arrows) -> None:
    """What is not limited is not looked after."""
    door = await FakeDoor(arrows, Maker().recipe()).open()
    assert (None, True) == (door.group.limits, door.group.simple)
    await door.close()


@pytest.mark.parametrize("limits", [{"max_age": 7}, {"max_idle": 7}, {"max_age": 7, "max_idle": 9}])
@pytest.mark.virtual
async def test_one_timer_for_all_and_none_after_the_close(arrows: Arrows, limits: dict[str, Any]) -> None:
    """However many there are."""
    door = await FakeDoor(arrows, Maker().recipe(**limits), size=50).open()
    for _ in range(20):
        door.give(moment)
        await asyncio.sleep(0.3)
        mine = [timer for timer in timers() if "Limits" in repr(timer)]
        assert 1 == len(mine)
    door.group.close()
    assert [] == [timer for timer in timers() if "Limits" in repr(timer)]
    await door.close()


def timers() -> list[asyncio.TimerHandle]:
    """Those that are to go off."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]


@pytest.mark.virtual
async def test_a_job_that_comes_in_the_moment_of_the_limit_has_a_worker_of_its_own(arrows: Arrows) -> None:
    """Either the old one, which then finishes it, or the next: never one on its way out."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(max_age=5, max_idle=5)).open()
    loop, jobs = asyncio.get_running_loop(), list[Any]()
    door.when["gone"] = lambda _: jobs.append(door.give(moment))
    loop.call_at(5, lambda: jobs.append(door.give(moment)))
    await asyncio.sleep(9)
    assert all(job.ended for job in jobs)
    assert not [said for said in door.log if "Error" in said]
    door.when.clear()
    await door.close()


def test_the_two_limits_cost_as_much_for_each_of_many() -> None:
    """Four thousand that come to their limit one after the other: nobody is searched for among all of them."""

    async def make() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(made / 1000)
        return made

    limits: list[dict[str, Any]] = [{"max_age": 50}, {"max_idle": 50}]
    for options in limits:
        made = 0
        few = lines_for(100, lambda door: None, recipe=Recipe(make, **options), seconds=50)
        made = 0
        many = lines_for(2000, lambda door: None, recipe=Recipe(make, **options), seconds=50)
        assert many < 1.5 * few
