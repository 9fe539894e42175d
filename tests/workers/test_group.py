"""Groups: their number comes back to what it should be after anything, and is never more than it may be."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fake_door import Arrows, FakeDoor, Job, Maker, Thing, deaf, forever, moment
from hypothesis import given, settings
from hypothesis import strategies as st

from runcrew.errors import ConfigError
from runcrew.policies import Constant
from runcrew.testing import run_virtual, virtual_loop
from runcrew.workers import Recipe, Worker
from runcrew.workers.worker import BUSY, FREE, LEAVING


def leaving(door: FakeDoor) -> list[int]:
    """The numbers of those that were told to leave and have work."""
    return [worker.number for worker in door.group.roster if worker.state is LEAVING]


# --- how many ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_nobody_is_hired_before_it_is_opened(arrows: Arrows) -> None:
    """A group is made at rest: neither a resize nor the time changes that."""
    maker = Maker()
    door = FakeDoor(arrows, maker.recipe(), size=2)
    door.group.resize(2)
    await asyncio.sleep(10)
    assert (0, {}) == (maker.tried, door.group.roster)
    await door.open()
    assert 2 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_no_workers_at_first_has_begun_at_once(arrows: Arrows) -> None:
    """There is nobody to wait for."""
    door = FakeDoor(arrows, Maker().recipe(), size=0, most=2)
    door.group.open()
    assert door.group.begun.is_open
    await door.close()


@pytest.mark.virtual
async def test_it_has_begun_when_each_of_the_first_has_opened_or_failed(arrows: Arrows) -> None:
    """Failures are over, too: who waits for the start is not kept by what is tried again later."""
    maker = Maker(opening=5, failing=2)
    door = FakeDoor(arrows, maker.recipe(), size=3)
    door.group.open()
    await asyncio.sleep(4)
    assert not door.group.begun.is_open
    await door.group.begun.wait()
    assert 5 == asyncio.get_running_loop().time()
    assert (1, 2) == (door.group.there, door.group.counts.failed_openings)
    await asyncio.sleep(100)
    assert 3 == door.group.there
    await door.close()


@pytest.mark.defect("D5.26")
@pytest.mark.virtual
async def test_those_that_are_gone_are_in_no_book(arrows: Arrows) -> None:
    """After many deaths the books hold those that live, and whoever is told to leave is one of them."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=3, backoff=Constant(0)).open()
    for _ in range(200):
        door.group.condemn(next(iter(door.group.roster)), ValueError("broken"), "faulty")
        await asyncio.sleep(0.1)
    group = door.group
    assert ([201, 202, 203], 3) == ([worker.number for worker in group.roster], len(group.free))
    assert ({}, [], 200) == (group._lost, group._changes, group.counts.replaced)
    assert 1 == await group.resize(1)
    assert 1 == len(maker.alive)
    await door.close()


@pytest.mark.defect("D5.25")
@pytest.mark.virtual
async def test_who_opens_counts_as_much_as_who_is_there(arrows: Arrows) -> None:
    """However slow the openings are, and however often somebody looks: no more of them than are missing."""
    maker = Maker(opening=50)
    door = FakeDoor(arrows, maker.recipe(), size=2, most=4)
    door.group.open()
    for _ in range(20):
        door.group.settle()
        door.group.resize(4)
        await asyncio.sleep(1)
    assert (4, 4, 0) == (maker.most_at_it, door.group.opening, door.group.there)
    await asyncio.sleep(100)
    assert (4, 4) == (len(maker.times), door.group.there)
    await door.close()


@pytest.mark.defect("D5.25")
@pytest.mark.virtual
async def test_who_leaves_or_closes_holds_its_place(arrows: Arrows) -> None:
    """A new one comes only when the old one is gone, its resource included."""
    maker = Maker(closing=5)
    door = await FakeDoor(arrows, maker.recipe(), size=2, most=2).open()
    jobs = [door.give(moment), door.give(moment)]
    await asyncio.sleep(0)
    door.group.resize(0)
    door.group.resize(2)
    assert (2, 0, 2) == (door.group.leaving, door.group.opening, door.group.held)
    await asyncio.sleep(2)
    assert all(job.ended for job in jobs)
    assert (2, 0, 2) == (door.group.closing, door.group.opening, door.group.held)
    await asyncio.sleep(5)
    assert (2, [3, 4]) == (door.group.there, maker.alive)
    await door.close()


@pytest.mark.parity("T5.18")
@pytest.mark.virtual
async def test_there_are_those_with_a_resource(arrows: Arrows) -> None:
    """They count from the moment in which it is made to that in which its taking down begins."""
    maker = Maker(opening=5, closing=5)
    door = FakeDoor(arrows, maker.recipe())
    seen: list[int] = []
    door.group.open()
    for _ in range(3):
        await asyncio.sleep(4)
        seen.append(door.group.there)
        assert seen[-1] == len(maker.alive)
    door.group.close()
    for _ in range(2):
        await asyncio.sleep(0.1)
        seen.append(door.group.there)
    assert [0, 1, 1, 0, 0] == seen
    await door.close()


# --- who leaves -------------------------------------------------------------------------


@pytest.mark.virtual
async def test_idle_ones_leave_first_and_those_longest_idle_before_others(arrows: Arrows) -> None:
    """Then those that are not there yet, the last one first; then those at work, the last one first."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=4, most=6).open()
    for _ in range(2):
        door.give(forever)
    await asyncio.sleep(1)
    maker.opening = 50
    door.group.resize(6)
    assert ["free", "free", "busy", "busy", "opening", "opening"] == door.states()
    gone: list[str] = []
    for target in (5, 4, 3, 2, 1, 0):
        door.group.resize(target)
        await asyncio.sleep(1)
        gone.append(" ".join(door.states()))
    assert [
        "free busy busy opening opening",
        "busy busy opening opening",
        "busy busy opening",
        "busy busy",
        "busy leaving",
        "leaving leaving",
    ] == gone
    assert ["gone 1", "gone 2", "gone 6", "gone 5"] == [said for said in door.log if said.startswith("gone")]
    door.group.resize(0, cut=True)
    for worker in list(door.group.roster):
        door.worker_lost(worker, asyncio.CancelledError())
    await door.close()


@pytest.mark.virtual
async def test_work_is_finished_unless_it_is_to_be_cut(arrows: Arrows) -> None:
    """`cut` has the door end what those that leave have in hand; the others are left alone."""
    door = await FakeDoor(arrows, size=3).open()
    jobs = [door.give(forever) for _ in range(3)]
    await asyncio.sleep(1)
    door.group.resize(2)
    await asyncio.sleep(100)
    assert [False] * 3 == [job.ended for job in jobs]
    door.group.resize(1, cut=True)
    await asyncio.sleep(1)
    assert [3] == leaving(door)
    assert ["lost 2"] == [said for said in door.log if said.startswith("lost")]
    assert [2] == [job.worker.number for job in jobs if job.ended and job.worker]
    door.group.close()
    for worker in list(door.group.roster):
        door.worker_lost(worker, asyncio.CancelledError())
    await door.close()


@pytest.mark.virtual
async def test_a_resize_in_the_midst_of_another_keeps_its_way_to_end_work(arrows: Arrows) -> None:
    """What is noted and done later is done as it was asked."""
    door = await FakeDoor(arrows, size=3).open()
    busy = [door.give(forever), door.give(forever)]
    await asyncio.sleep(1)
    door.when["gone"] = lambda _: door.group.resize(1, cut=True) if not door.group.leaving else None
    door.group.resize(2)
    await asyncio.sleep(1)
    assert [False, True] == sorted(job.ended for job in busy)
    door.group.close()
    door.worker_lost(door.only(), asyncio.CancelledError())
    await door.close()


@pytest.mark.virtual
async def test_a_job_that_ends_after_the_close_sends_its_worker_home(arrows: Arrows) -> None:
    """Everybody who ends a piece of work asks again whether all are gone."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=3).open()
    for _ in range(3):
        door.give(moment)
    await asyncio.sleep(0.5)
    door.group.close()
    assert (3, [1, 2, 3]) == (door.group.leaving, maker.alive)
    await door.close(2)
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_closing_is_idempotent_and_nobody_comes_afterwards(arrows: Arrows) -> None:
    """No timer, no resize and no death hires anybody in a closed group."""
    maker = Maker(failing=1)
    door = FakeDoor(arrows, maker.recipe(max_age=30), size=2)
    door.group.open()
    await asyncio.sleep(0.5)
    for _ in range(3):
        door.group.close()
        door.group.resize(2)
        await asyncio.sleep(100)
    assert 2 == maker.tried - len(door.failures)
    assert [] == [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    await door.close()


@pytest.mark.virtual
async def test_a_group_may_be_opened_again_after_a_failure(arrows: Arrows) -> None:
    """What looked again later looks again."""
    maker = Maker(failing=3)
    door = FakeDoor(arrows, maker.recipe())
    door.group.open()
    await asyncio.sleep(0.5)
    door.group.close()
    door.group.open()
    await asyncio.sleep(100)
    assert 1 == door.group.there
    await door.close()


# --- deaths and failures ----------------------------------------------------------------


@pytest.mark.parity("T5.26")
@pytest.mark.defect("D5.3")
@pytest.mark.virtual
async def test_a_faulty_one_is_replaced_also_when_it_was_the_only_one(arrows: Arrows) -> None:
    """Its resource is destroyed and another one made: what waits is done, however many die."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=2).open()
    jobs = [door.give(moment, faulty=n % 2 == 0) for n in range(10)]
    await asyncio.sleep(1000)
    assert all(job.ended for job in jobs)
    assert (2, 5, 7) == (door.group.there, door.group.counts.replaced, len(maker.things))
    assert 2 == len(maker.alive)
    await door.close()
    maker.check_all_closed_once()


@pytest.mark.defect("D5.17", "D5.15")
@pytest.mark.parametrize("drains", [False, True])
@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
def test_a_faulty_resource_is_never_used_again(arrows: Arrows, drains: bool, plain: bool) -> None:
    """Neither for what waits, nor when its worker was on its way out anyhow: no job sees one that failed."""
    maker = Maker()

    async def main() -> None:
        door = await FakeDoor(arrows, maker.recipe(plain=plain), size=2, backoff=Constant(1)).open()
        jobs = [door.give(moment, faulty=True) for _ in range(7)]
        await asyncio.sleep(0.5)
        if drains:
            door.group.resize(1)
        await asyncio.sleep(500)
        assert all(job.ended for job in jobs)
        assert not any(thing.faulty and not thing.closed for thing in maker.things)
        assert [1] * 7 == [thing.uses for thing in maker.things if thing.faulty]
        assert not [said for said in door.log if "Error" in said]
        await door.close()

    run_virtual(main)
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_a_verdict_counts_once(arrows: Arrows) -> None:
    """Said twice, or of one that is gone, it changes nothing more."""
    door = await FakeDoor(arrows, Maker().recipe(), size=1).open()
    first = door.only()
    for _ in range(3):
        door.group.condemn(first, ValueError("broken"), "faulty")
        await asyncio.sleep(1)
    assert (1, 1) == (door.group.counts.replaced, door.group.there)
    await door.close()


@pytest.mark.virtual
async def test_each_that_is_gone_says_why(arrows: Arrows) -> None:
    """Also one that was never there."""
    maker = Maker(failing=1)
    door = await FakeDoor(arrows, maker.recipe(), size=1, most=2).open()
    await asyncio.sleep(1)
    door.group.condemn(door.only(), ValueError("broken"), "its resource proved faulty")
    await asyncio.sleep(5)
    await door.group.resize(2)
    await door.group.resize(1)
    await door.close()
    assert [
        "its resource could not be made",
        "its resource proved faulty",
        "the group was made smaller",
        "the group was closed",
    ] == [reason for reason, _ in door.gone]


@pytest.mark.parity("T5.15")
@pytest.mark.defect("D5.4")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
def test_what_could_not_be_opened_is_tried_again(arrows: Arrows, caplog: pytest.LogCaptureFixture, plain: bool) -> None:
    """Logged and told, with the time of the next attempt; the group lives on and comes to its number."""
    maker = Maker(failing=4)

    async def main() -> None:
        door = await FakeDoor(arrows, maker.recipe(plain=plain), size=2).open()
        job = door.give(moment)
        await asyncio.sleep(100)
        assert job.ended
        assert (2, 4) == (door.group.there, door.group.counts.failed_openings)
        assert ["OSError: no connection"] * 4 == [f"{type(e).__name__}: {e}" for _, _, e in door.failures]
        assert "the next attempt comes in 1s: OSError: no connection" in caplog.text
        await door.close()

    run_virtual(main)
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_the_pauses_grow_and_only_one_tries_while_it_fails(arrows: Arrows) -> None:
    """The first again comes at once; after a success all come together."""
    maker = Maker(failing=4 + 5)
    door = await FakeDoor(arrows, maker.recipe(), size=4).open()
    await asyncio.sleep(0.5)
    maker.at_it = maker.most_at_it = 0
    await asyncio.sleep(22)
    # Four at first, one at once, then after 1, 2, 4 and 8 seconds; the next is 8 later, since that is the cap.
    assert [0, 0, 0, 0, 0, 1, 3, 7, 15] == maker.times
    assert (1, True) == (maker.most_at_it, door.group.is_hopeless)
    await asyncio.sleep(1)
    assert [23, 23, 23, 23] == maker.times[9:]
    assert (4, 0, False) == (door.group.there, door.group.pace.failing, door.group.is_hopeless)
    assert [0, 0, 0, 0, 0, 1, 2, 4, 8, 8][:1] == [door.failures[0][1]]
    assert [0, 1, 2, 4, 8, 8] == [delay for number, delay, _ in door.failures if number in (1, 5, 6, 7, 8, 9)]
    await door.close()


@pytest.mark.virtual
async def test_one_wave_of_failures_is_not_hopeless(arrows: Arrows) -> None:
    """Many that fail at the same time have failed once: a blip is no reason to give up."""
    maker = Maker(failing=8)
    door = await FakeDoor(arrows, maker.recipe(), size=8).open()
    assert (8, 1, False) == (door.group.counts.failed_openings, door.group.pace.failing, door.group.is_hopeless)
    await asyncio.sleep(1)
    assert 8 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_what_fails_for_ever_is_tried_ever_more_slowly_and_never_given_up(arrows: Arrows) -> None:
    """At the pace of the cap: 450 attempts or so in an hour, where that is eight seconds, and found when it is good."""
    maker = Maker(failing=float("inf"))
    door = await FakeDoor(arrows, maker.recipe(), size=3).open()
    await asyncio.sleep(3600)
    assert 440 < len(maker.times) < 460
    maker.failing = 0
    await asyncio.sleep(8)
    assert 3 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_many_deaths_together_count_as_one(arrows: Arrows) -> None:
    """A server that goes away takes all workers with it: the first time all come back at once, then after a second."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=5).open()
    for back in (0.5, 1.5):
        for worker in list(door.group.roster):
            door.group.condemn(worker, ValueError("broken"), "faulty")
        await asyncio.sleep(back)
        assert 5 == door.group.there
    assert [0] * 10 + [1.5] * 5 == maker.times
    await door.close()


@pytest.mark.virtual
async def test_a_failure_of_one_that_was_hired_before_the_last_wave_still_makes_it_try_alone(arrows: Arrows) -> None:
    """It is no new wave; but the others wait until an opening has succeeded again."""
    maker = Maker(opening=5)
    door = await FakeDoor(arrows, maker.recipe(), size=2, most=6).open()
    door.group.resize(3)
    await asyncio.sleep(1)
    door.group.condemn(next(iter(door.group.free)), ValueError("broken"), "faulty")  # the next wave
    maker.failing = 1
    await asyncio.sleep(4.5)
    assert (1, 1, 1) == (len(door.failures), door.group.pace.failing, door.group.opening)
    await asyncio.sleep(100)
    assert 3 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_a_backoff_that_has_no_answer_does_not_keep_anybody_away(arrows: Arrows) -> None:
    """What the user's own backoff raises has no say in whether a worker is replaced."""

    class Broken:
        def delay(self, n: int) -> float:
            raise ConfigError("no delay")

    door = await FakeDoor(arrows, Maker(failing=3).recipe(), backoff=Broken()).open()
    await asyncio.sleep(5)
    assert 1 == door.group.there
    await door.close()


@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
def test_a_mistake_in_the_recipe_ends_it_for_good(
    arrows: Arrows, caplog: pytest.LogCaptureFixture, plain: bool
) -> None:
    """A ConfigError will be the same next time: the door is told, nobody is hired again, who is there leaves."""
    maker = Maker()

    async def main() -> None:
        door = await FakeDoor(arrows, maker.recipe(plain=plain), size=2, most=3).open()
        maker.failing, maker.error = 1, lambda: ConfigError("destroy: not given")
        change = door.group.resize(3)
        await change
        await asyncio.sleep(1000)
        assert (True, {}, 3) == (door.group.closed, door.group.roster, maker.tried)
        assert ["failed 3", "all gone"] == [said for said in door.log if said[:2] in ("fa", "al")]
        assert "a resource could not be made, and never will be: ConfigError: destroy: not given" in caplog.text
        await door.close()

    run_virtual(main)
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_what_a_worker_ends_as_is_not_counted_against_one_without_a_resource(arrows: Arrows) -> None:
    """Nothing has to be made for it, so there is nothing to wait for."""
    door = await FakeDoor(arrows, size=2).open()
    for _ in range(10):
        for worker in list(door.group.roster):
            door.group.condemn(worker, ValueError("broken"), "faulty")
        assert 2 == door.group.there
    await door.close()


# --- abandoned ones ---------------------------------------------------------------------


@pytest.mark.virtual
async def test_abandoned_ones_are_replaced_up_to_a_number_then_it_stalls_and_recovers(arrows: Arrows) -> None:
    """Beyond `max_abandoned` each holds its place; told once, and over as soon as one of them has ended."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=1, max_abandoned=2).open()
    there: list[tuple[int, int, int, bool]] = []
    for _ in range(4):
        job = door.give(deaf)
        await asyncio.sleep(100)
        if job.worker is not None:
            door.abandon(job)
        await asyncio.sleep(1)
        group = door.group
        there.append((group.abandoned, group.there, group.places, group.stalled))
    assert [(1, 1, 1, False), (2, 1, 1, False), (3, 0, 0, True), (3, 0, 0, True)] == there
    assert 1 == door.log.count("stalled")
    door.group.settle()
    await asyncio.sleep(650)  # the first one ends
    assert (2, 1, False) == (door.group.abandoned, door.group.there, door.group.stalled)
    await asyncio.sleep(3000)
    assert (0, 1) == (door.group.abandoned, door.group.there)
    await door.close()
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_it_is_not_stalled_any_more_though_the_next_one_has_to_wait(arrows: Arrows) -> None:
    """A place is free again; that its resource cannot be made yet is another matter."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=1, max_abandoned=0).open()
    job = door.give(deaf)
    await asyncio.sleep(1)
    door.abandon(job)
    assert door.group.stalled
    await asyncio.sleep(998)
    maker.failing = 3
    await asyncio.sleep(2.5)
    assert (False, 0, 3) == (door.group.stalled, door.group.there, len(door.failures))
    await door.close()


@pytest.mark.virtual
async def test_zero_means_that_none_is_replaced(arrows: Arrows) -> None:
    """The others go on."""
    door = await FakeDoor(arrows, Maker().recipe(), size=3, max_abandoned=0).open()
    job = door.give(deaf)
    await asyncio.sleep(1)
    door.abandon(job)
    await asyncio.sleep(100)
    assert (2, 2, False) == (door.group.there, door.group.places, door.group.stalled)
    await asyncio.sleep(1000)
    assert 3 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_an_abandoned_one_that_ends_is_taken_down_beyond_the_maximum(arrows: Arrows) -> None:
    """It was replaced; while it closes nobody else is hired for its place."""
    maker = Maker(closing=5)
    door = await FakeDoor(arrows, maker.recipe(), size=1, max_abandoned=1).open()
    job = door.give(deaf)
    await asyncio.sleep(1)
    door.abandon(job)
    await asyncio.sleep(1003)
    assert (["closing", "free"], 0) == (door.states(), door.group.abandoned)
    door.group.resize(1)
    await asyncio.sleep(1)
    assert 2 == len(door.group.roster)
    await door.close()
    maker.check_all_closed_once()


# --- settling ---------------------------------------------------------------------------


def busy_bee(door: FakeDoor, step: Callable[[], object]) -> None:
    """Whoever becomes free takes a job whose one step is done at once, inside the group's own step."""

    def work(worker: Worker) -> None:
        if worker.state is FREE:
            del door.group.free[worker]
            worker.state, worker.work = BUSY, Job(forever)
            step()
            worker.work = None
            door.group.released(worker)

    once = dict[int, None]()

    def free(worker: Worker) -> None:
        if worker.number not in once:
            once[worker.number] = None
            work(worker)

    door.when["free"] = free


@pytest.mark.virtual
async def test_what_is_asked_inside_a_step_is_done_after_it_and_counts_are_right(arrows: Arrows) -> None:
    """A job that begins while its worker is hired may resize: never more than there may be, and then as it said."""
    door = FakeDoor(arrows, size=3, most=6)
    targets = iter([6, 1, 5, 2, 6, 0, 4])
    busy_bee(door, lambda: door.group.resize(next(targets, 4)))
    door.group.open()
    await asyncio.sleep(1)
    assert door.group.target == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_one_that_is_hired_past_the_target_inside_a_step_takes_the_place_of_another(arrows: Arrows) -> None:
    """A door may hire one itself, in the middle of anything: the maximum holds all the same."""
    door = FakeDoor(arrows, size=3, most=4)

    def one_more() -> None:
        if door.group.held < door.group.places:
            door.group.target += 1
            door.group.hire()

    busy_bee(door, one_more)
    door.group.open()
    await asyncio.sleep(1)
    assert 4 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_a_close_inside_a_step_hires_nobody_after_it(arrows: Arrows) -> None:
    """The first job closes the group: the others of that wave never come."""
    door = FakeDoor(arrows, size=5)
    busy_bee(door, door.group.close)
    door.group.open()
    await door.close(1)
    assert 1 == door.group.counts.opened


@pytest.mark.parametrize("what", ["close", "resize"])
@pytest.mark.virtual
async def test_a_close_or_resize_when_one_has_just_opened(arrows: Arrows, what: str) -> None:
    """It leaves as one that is free: it is in the books from the first moment."""
    maker = Maker()
    door = FakeDoor(arrows, maker.recipe(), size=3)
    door.when["opened"] = lambda _: door.group.close() if what == "close" else door.group.resize(0)
    door.group.open()
    await asyncio.sleep(1)
    assert {} == door.group.roster
    maker.check_all_closed_once()
    await door.close()


def test_thousands_that_leave_one_after_the_other_do_not_nest(arrows: Arrows) -> None:
    """Each departure settles, and brings the next one about: that is a loop, and no recursion."""

    async def main() -> None:
        door = FakeDoor(arrows, size=3000, most=3000)
        door.check = lambda: None  # type: ignore[method-assign]
        await door.open()
        door.when["gone"] = lambda _: door.group.resize(max(0, door.group.target - 1))
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(200)
        try:
            door.group.resize(2999)
        finally:
            sys.setrecursionlimit(limit)
        assert {} == door.group.roster
        await door.close()

    run_virtual(main)


def lines_for(
    count: int, act: Callable[[FakeDoor], object], recipe: Recipe[Any] | None = None, seconds: float = 100
) -> float:
    """How many lines of workers/ are run for each of `count` workers by `act` and what follows within `seconds`."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if "runcrew/workers/" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        lines += event == "line"
        return trace

    async def main() -> None:
        door = FakeDoor(Arrows.now, recipe, size=count)
        door.check = lambda: None  # type: ignore[method-assign]
        await door.open()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            act(door)
            await asyncio.sleep(seconds)
        finally:
            sys.settrace(before)
        if not door.group.closed:
            await door.close(1000)
        assert {} == door.group.roster

    run_virtual(main)
    assert lines
    return lines / count


def _condemn_all(door: FakeDoor) -> None:
    for worker in list(door.group.roster):
        door.group.condemn(worker, ValueError("broken"), "faulty")


def _one_by_one(door: FakeDoor) -> None:
    for _ in range(door.group.target):
        door.group.resize(door.group.target - 1)


def _work_and_close(door: FakeDoor) -> None:
    for _ in range(door.group.target):
        door.give(moment)
    door.group.close()


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize(
    ("act", "count"),
    [(lambda door: door.group.close(), 4000), (_condemn_all, 1000), (_one_by_one, 1000), (_work_and_close, 1000)],
)
def test_thousands_cost_as_much_each_as_a_hundred(
    act: Callable[[FakeDoor], object], count: int, resource: bool
) -> None:
    """Closing, deaths and departures look at what changes, and not at all that is there: counted in lines that run."""
    few, many = (lines_for(number, act, Maker().recipe() if resource else None) for number in (100, count))
    assert many < 1.5 * few


# --- any mix ----------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("job"), st.sampled_from([0.0, 0.5, 3.0]), st.booleans()),
        st.tuples(st.just("plain"), st.booleans()),
        st.tuples(st.just("deaf")),
        st.tuples(st.just("abandon"), st.integers(0, 9)),
        st.tuples(st.just("resize"), st.integers(0, 4), st.booleans()),
        st.tuples(st.just("fail"), st.integers(1, 6)),
        st.tuples(st.just("slow"), st.sampled_from([0.0, 0.3, 4.0]), st.sampled_from([0.0, 0.3, 4.0])),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("condemn"), st.integers(0, 9)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.001, 0.1, 1.0, 10.0])),
    ),
    max_size=40,
)


async def threads_at_their_end(door: FakeDoor) -> None:
    """Nobody waits for the threads of abandoned ones, and no virtual time: so we do."""
    for worker in list(door.group.roster):
        if worker.thread_ends and worker.thread is not None and worker.thread._thread is not None:
            with virtual_loop().holding("the end of a thread"):
                await asyncio.to_thread(worker.thread._thread.join, 10)
    await asyncio.sleep(100)


async def mixed(arrows: Arrows, maker: Maker, recipe: Recipe[Any] | None, plan: list[Any], max_abandoned: int) -> None:
    """Let all of that happen to a group, then let it come to rest, then close it."""
    door = await FakeDoor(arrows, recipe, size=2, most=4, max_abandoned=max_abandoned).open()
    jobs: list[Job] = []

    def one(n: int) -> Any:
        everybody = list(door.group.roster)
        return everybody[n % len(everybody)] if everybody else None

    for step in plan:
        match step:
            case ("job", seconds, faulty):
                jobs.append(door.give(sleeper(seconds), faulty=faulty))
            case ("plain", faulty):
                jobs.append(door.give(lambda _: None, faulty=faulty))
            case ("deaf",):
                jobs.append(door.give(deaf))
            case ("abandon", n) if (worker := one(n)) is not None and isinstance(worker.work, Job):
                door.abandon(worker.work)
            case ("resize", target, cut):
                door.group.resize(target, cut=cut)
            case ("fail", n):
                maker.failing = n
            case ("slow", opening, closing):
                maker.opening, maker.closing = opening, closing
            case ("cancel", n) if (worker := one(n)) is not None and worker.keeper is not None:
                worker.keeper.cancel()
            case ("condemn", n) if (worker := one(n)) is not None:
                door.group.condemn(worker, ValueError("broken"), "faulty")
            case ("leave", n) if (worker := one(n)) is not None:
                door.group.leave(worker, "it was told to")
                door.group.settle()
            case ("wait", seconds):
                await asyncio.sleep(seconds)
            case _:
                pass
        door.check()
    maker.failing = 0
    await asyncio.sleep(300)
    group = door.group
    still_there = min(group.target, group.places - group.leaving - group.closing)
    assert group.staying == still_there or group.stalled or group._lost
    group.resize(3)
    await asyncio.sleep(1000.0 * (len(jobs) + 2))
    await threads_at_their_end(door)
    assert (3, 3, 0, False) == (group.there, len(group.roster), group.abandoned, group.stalled)
    assert all(job.ended or job.worker in arrows.abandoned for job in jobs)
    assert recipe is None or 3 == len(maker.alive)
    await door.close()
    maker.check_all_closed_once()
    assert not [said for said in door.log if "Assertion" in said]
    assert ({}, {}, []) == (group._lost, group.free, group._changes)


def sleeper(seconds: float) -> Callable[[Any], Any]:
    """A job that takes so long."""

    async def job(_: Any) -> None:
        await asyncio.sleep(seconds)

    return job


@pytest.mark.defect("D5.3", "D5.4")
@settings(max_examples=300, deadline=None)
@given(steps, st.integers(0, 3), st.integers(0, 2**32))
def test_it_returns_to_its_number_from_any_mix_of_deaths_and_failures(
    plan: list[Any], max_abandoned: int, seed: int
) -> None:
    """Whatever has happened: never too many, in the end as many as there should be, and nothing left then."""
    maker = Maker()
    run_virtual(mixed, Arrows.now, maker, maker.recipe(), plan, max_abandoned, seed=seed)


@settings(max_examples=100, deadline=None)
@given(steps, st.integers(0, 3), st.integers(0, 2**32))
def test_it_returns_to_its_number_also_with_resources_of_threads(
    plan: list[Any], max_abandoned: int, seed: int
) -> None:
    """The same, where each worker has a thread for its resource."""
    maker = Maker()
    run_virtual(mixed, Arrows.now, maker, maker.recipe(plain=True), plan, max_abandoned, seed=seed)


@settings(max_examples=100, deadline=None)
@given(steps, st.integers(0, 3), st.integers(0, 2**32))
def test_it_returns_to_its_number_also_without_resources(plan: list[Any], max_abandoned: int, seed: int) -> None:
    """The same, where nothing is owned."""
    run_virtual(mixed, Arrows.now, Maker(), None, plan, max_abandoned, seed=seed)


@pytest.mark.parity("T5.17")
@pytest.mark.virtual
async def test_a_resource_serves_one_job_at_a_time(arrows: Arrows) -> None:
    """Whoever is at work is in no list of those that are free."""
    most = 0

    async def job(thing: Thing) -> None:
        nonlocal most
        most = max(most, thing.users)
        await asyncio.sleep(0.1)

    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=2).open()
    jobs = [door.give(job) for _ in range(20)]
    await asyncio.sleep(5)
    assert all(job.ended for job in jobs)
    assert (1, [10, 10]) == (most, [thing.uses for thing in maker.things])
    await door.close()
