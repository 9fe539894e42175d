"""Who makes and holds what a worker owns: made once, taken down exactly once, in whatever way it comes to its end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_door import Arrows, FakeDoor, Maker, Thing, deaf, forever, moment, no_threads

from runcrew.backends import NoThread
from runcrew.errors import ConfigError
from runcrew.testing import run_virtual, virtual_loop
from runcrew.workers import Recipe
from runcrew.workers.keeper import _Opening
from runcrew.workers.own_thread import OwnThread
from runcrew.workers.worker import ABANDONED, CLOSING, GONE


def keepers() -> list[asyncio.Task[Any]]:
    """The tasks that hold resources."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("group-")]


# --- resources of the loop --------------------------------------------------------------


@pytest.mark.parity("T5.14")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
def test_each_worker_makes_its_own_and_takes_it_down_once(arrows: Arrows, plain: bool) -> None:
    """As many resources as workers, made at the start, each taken down when its worker goes."""

    async def main() -> None:
        maker = Maker()
        door = await FakeDoor(arrows, maker.recipe(plain=plain), size=3).open()
        assert ([1, 2, 3], 3) == (maker.alive, door.group.there)
        assert [1, 2, 3] == sorted(worker.resource.number for worker in door.group.roster)
        await door.close()
        maker.check_all_closed_once()
        assert (3, 3, 3) == (maker.tried, door.group.counts.opened, door.group.counts.closed)

    run_virtual(main)


@pytest.mark.virtual
async def test_a_generator_is_entered_and_left_by_one_task(arrows: Arrows) -> None:
    """What opens a resource also closes it: the same task, in the context that it was given."""
    tasks: list[Any] = []

    async def make() -> AsyncIterator[int]:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(None):
            yield 1
        tasks.append(asyncio.current_task())

    door = await FakeDoor(arrows, Recipe(make)).open()
    door.give(moment)
    await asyncio.sleep(2)
    await door.close()
    assert 2 == len(tasks)
    assert tasks[0] is tasks[1]


@pytest.mark.virtual
async def test_told_to_leave_before_the_first_step_of_its_opening(arrows: Arrows) -> None:
    """A task that is cancelled before it begins runs no line of its own, and is noticed all the same."""
    maker = Maker()
    door = FakeDoor(arrows, maker.recipe(), size=3)
    door.group.open()
    await door.close(1)
    assert (0, []) == (maker.tried, maker.times)
    assert [("the group was closed", asyncio.CancelledError)] * 3 == [(why, type(error)) for why, error in door.gone]
    assert 0 == door.group.counts.failed_openings


@pytest.mark.virtual
async def test_an_opening_is_cancelled_when_its_worker_has_to_leave(arrows: Arrows) -> None:
    """Nobody waits for a resource that is not wanted any more: nothing was made, nothing is taken down."""
    maker = Maker(opening=50)
    door = FakeDoor(arrows, maker.recipe())
    door.group.open()
    await asyncio.sleep(1)
    await door.close(1)
    assert [] == maker.things
    assert [] == door.failures


@pytest.mark.virtual
async def test_an_opening_that_will_not_be_cancelled_is_taken_down_as_soon_as_it_is_there(arrows: Arrows) -> None:
    """Its worker never becomes free, and what was made is taken down once."""
    maker = Maker()
    maker.on_open = deaf
    door = FakeDoor(arrows, maker.recipe())
    door.group.open()
    await asyncio.sleep(1)
    door.group.close()
    await asyncio.sleep(500)
    assert (["closing"], []) == (door.states(), maker.things)
    assert ["the resource of worker 1 (closing)"] == [what for what, _ in door.group.hanging()]
    assert "deaf" in door.group.hanging()[0][1]
    await asyncio.sleep(500)
    assert 1 == len(maker.things)
    maker.check_all_closed_once()
    assert ["gone 1", "all gone"] == door.log
    await door.close()


@pytest.mark.virtual
async def test_an_opening_that_hangs_holds_its_place_and_is_named(arrows: Arrows) -> None:
    """It counts against the maximum for as long as it lasts, and whoever asks hears where it is."""
    maker = Maker()
    maker.on_open = forever
    door = FakeDoor(arrows, maker.recipe(), size=2, most=2)
    door.group.open()
    await asyncio.sleep(1000)
    assert (2, 0, ["opening", "opening"]) == (door.group.held, door.group.there, door.states())
    named = door.group.hanging()
    assert ["the resource of worker 1 (opening)", "the resource of worker 2 (opening)"] == [what for what, _ in named]
    assert all("forever" in stack for _, stack in named)
    await door.close()


@pytest.mark.virtual
async def test_what_an_opening_raises_when_it_is_not_wanted_is_logged(
    arrows: Arrows, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no failure of the group, but somebody may want to know."""
    maker = Maker(opening=50)

    async def make() -> Thing:
        try:
            return await maker.make()
        finally:
            raise OSError("while it was cancelled")

    door = FakeDoor(arrows, Recipe(make))
    door.group.open()
    await asyncio.sleep(1)
    await door.close()
    assert 0 == door.group.counts.failed_openings
    assert "not wanted any more could not be made: OSError: while it was cancelled" in caplog.text


@pytest.mark.virtual
async def test_a_mistake_in_the_recipe_that_nobody_waits_for_closes_nothing(arrows: Arrows) -> None:
    """A ConfigError of an opening that was told to leave says nothing to a group that goes on."""
    maker = Maker()
    maker.error, maker.on_open = (lambda: ConfigError("stays open")), deaf
    door = FakeDoor(arrows, maker.recipe(), size=1)
    door.group.open()
    await asyncio.sleep(1)
    door.group.resize(0)
    maker.failing = 1
    await asyncio.sleep(1000)
    assert (False, {}) == (door.group.closed, door.group.roster)
    maker.on_open = None
    assert 1 == await door.group.resize(1)
    await door.close()


@pytest.mark.parity("T5.16")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("error", [OSError("in use"), SystemExit(3), asyncio.CancelledError("who?")], ids=repr)
def test_an_error_in_taking_down_is_logged_and_changes_nothing(
    arrows: Arrows, caplog: pytest.LogCaptureFixture, plain: bool, error: BaseException
) -> None:
    """The worker is gone, the next one comes, and the error is in the books."""

    def destroy(thing: Thing) -> None:
        maker.destroy_plain(thing)
        raise error

    maker = Maker()

    async def main() -> None:
        recipe: Recipe[Any] = Recipe(maker.make_plain if plain else maker.make, destroy=destroy)
        door = await FakeDoor(arrows, recipe).open()
        assert 0 == await door.group.resize(0)
        assert error is door.group.last_error
        assert [("the group was made smaller", error)] == door.gone
        assert "taking a resource down failed" in caplog.text
        assert 1 == await door.group.resize(1)
        await door.close()

    run_virtual(main)
    maker.check_all_closed_once()


@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
def test_an_error_in_taking_down_a_faulty_one_is_logged_too(
    arrows: Arrows, caplog: pytest.LogCaptureFixture, plain: bool
) -> None:
    """What made it faulty stays its worker's error; the second one is not lost for that."""

    def destroy(thing: Thing) -> None:
        raise OSError("in use")

    async def main() -> None:
        maker = Maker()
        recipe: Recipe[Any] = Recipe(maker.make_plain if plain else maker.make, destroy=destroy)
        door = await FakeDoor(arrows, recipe).open()
        door.group.condemn(door.only(), ValueError("broken"), "faulty")
        await asyncio.sleep(1)
        assert "ValueError('broken')" == repr(door.gone[0][1])
        assert "taking a resource down failed too: OSError: in use" in caplog.text
        await door.close()

    run_virtual(main)


@pytest.mark.virtual
async def test_a_taking_down_that_hangs_holds_its_place_until_it_is_cut_short(arrows: Arrows) -> None:
    """It is named as long as it lasts; `let_go` cancels it."""
    maker = Maker()
    maker.on_close = forever
    door = await FakeDoor(arrows, maker.recipe(), size=2, most=2).open()
    change = door.group.resize(0)
    await asyncio.sleep(100)
    assert (2, 2, 0) == (door.group.held, door.group.closing, door.group.there)
    door.group.resize(2)
    await asyncio.sleep(100)
    assert 2 == len(maker.things)
    assert all("forever" in stack for _, stack in door.group.hanging())
    door.group.let_go()
    maker.on_close = None
    await change
    await asyncio.sleep(1)
    assert (2, [3, 4]) == (door.group.there, maker.alive)
    await door.close()
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_let_go_leaves_alone_what_is_open(arrows: Arrows) -> None:
    """Only what is on its way out is cut short."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=2).open()
    door.group.let_go()
    await asyncio.sleep(1)
    assert [1, 2] == maker.alive
    await door.close()


# --- cancelled by somebody else ---------------------------------------------------------


@pytest.mark.virtual
async def test_an_outsider_that_cancels_a_keeper_gets_no_resource_closed_under_a_job(arrows: Arrows) -> None:
    """The job is cancelled once, its end is awaited, then the resource is taken down, and another worker comes."""
    ended: list[str] = []

    async def job(_: Any) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(5)  # a second cancel would cut this off
            ended.append("cleaned up")

    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe()).open()
    door.give(job)
    await asyncio.sleep(1)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # asyncio.run does that on its way down
        task.cancel()
    await asyncio.sleep(3)
    assert ([1], []) == (maker.alive, ended)
    await asyncio.sleep(3)
    assert ([2], ["cleaned up"]) == (maker.alive, ended)
    assert ("its resource is lost", 1) == (door.gone[0][0], door.group.counts.replaced)
    await door.close()
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_an_outsider_that_cancels_only_the_keeper_has_the_job_ended_too(arrows: Arrows) -> None:
    """The door is told, so that the job does not go on with a lost resource."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe()).open()
    job = door.give(forever)
    await asyncio.sleep(1)
    (keeper,) = keepers()
    keeper.cancel()
    await asyncio.sleep(0.005)
    assert job.ended
    assert ["lost 1"] == [said for said in door.log if "lost" in said]
    await door.close()
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_an_idle_one_whose_keeper_is_cancelled_is_replaced(arrows: Arrows) -> None:
    """It is taken down at once, in full, and the group is as large as before."""
    maker = Maker(closing=5)
    door = await FakeDoor(arrows, maker.recipe(), size=2).open()
    keepers()[0].cancel()
    await asyncio.sleep(4)
    assert (1, 1) == (door.group.there, door.group.closing)
    await asyncio.sleep(2)
    assert (2, 3) == (door.group.there, len(maker.things))
    assert 1 == sum(thing.closed for thing in maker.things)
    await door.close()
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_nobody_is_hired_while_lost_ones_are_on_their_way(arrows: Arrows) -> None:
    """Whoever cancels the keepers is mostly a loop on its way down: what is begun on it would be lost as well."""
    maker = Maker(closing=5)
    door = await FakeDoor(arrows, maker.recipe(), size=3, most=9).open()
    for keeper in keepers():
        keeper.cancel()
    await asyncio.sleep(4)
    assert 3 == maker.tried
    await asyncio.sleep(1.005)
    assert (3, {}) == (maker.tried, door.group.roster)
    await asyncio.sleep(1)
    assert 3 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_nobody_is_hired_at_once_where_a_taking_down_was_cut_off(arrows: Arrows) -> None:
    """That, too, may be a loop on its way down."""
    maker = Maker(closing=5)
    door = await FakeDoor(arrows, maker.recipe(), size=1, most=1).open()
    door.group.resize(0)
    await asyncio.sleep(1)
    door.group.resize(1)
    keepers()[0].cancel()
    await asyncio.sleep(0.005)
    assert (1, {}) == (len(maker.times), door.group.roster)
    await asyncio.sleep(1)
    assert 1 == door.group.there
    await door.close()


@pytest.mark.virtual
async def test_an_abandoned_one_that_was_lost_is_waited_for_no_more(arrows: Arrows) -> None:
    """It may hold its resource for ever; the others are replaced all the same."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(), size=1).open()
    job = door.give(deaf)
    await asyncio.sleep(1)
    keepers()[0].cancel()
    await asyncio.sleep(1)
    assert 1 == maker.tried
    door.abandon(job)
    await asyncio.sleep(1)
    assert (1, 1, [1, 2]) == (door.group.there, door.group.abandoned, maker.alive)
    await asyncio.sleep(2000)
    await door.close()
    maker.check_all_closed_once()


@pytest.mark.virtual
async def test_a_keeper_cancelled_in_the_moment_of_its_release_closes_in_full(arrows: Arrows) -> None:
    """Nothing is cut off, and nothing is left of that cancel in the task."""
    maker, cancelling = Maker(closing=5), list[int]()

    async def look(_: Thing) -> None:
        task = asyncio.current_task()
        assert task is not None
        cancelling.append(task.cancelling())

    maker.on_close = look
    door = await FakeDoor(arrows, maker.recipe()).open()
    (keeper,) = keepers()
    door.group.close()
    keeper.cancel()
    await door.close()
    assert [0] == cancelling
    assert [("the group was closed", None)] == door.gone


@pytest.mark.virtual
async def test_an_opening_that_an_outsider_cancels_is_tried_again(arrows: Arrows) -> None:
    """Unless the loop closes in that moment: so the next comes a moment later."""
    maker = Maker(opening=5)
    door = FakeDoor(arrows, maker.recipe())
    door.group.open()
    await asyncio.sleep(1)
    keepers()[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 1 == len(maker.times)
    await asyncio.sleep(10)
    assert (1, 2) == (door.group.there, len(maker.times))
    assert [asyncio.CancelledError] == [type(error) for _, _, error in door.failures]
    await door.close()


@pytest.mark.virtual
async def test_an_opening_that_an_outsider_cancels_may_be_told_to_leave_in_that_moment(arrows: Arrows) -> None:
    """It is gone all the same, and is no failure."""
    maker = Maker(opening=5)
    door = FakeDoor(arrows, maker.recipe())
    door.group.open()
    await asyncio.sleep(1)
    keepers()[0].cancel()
    await asyncio.sleep(0.001)
    await door.close()
    assert [] == door.failures


def test_a_loop_torn_down_in_the_middle_takes_down_everything(arrows: Arrows) -> None:
    """asyncio.run cancels all tasks and waits for them: each resource is closed after its job, and nothing is begun."""
    maker = Maker(closing=5)

    async def main() -> None:
        door = await FakeDoor(arrows, maker.recipe(), size=4, most=8).open()
        door.give(forever)
        door.give(moment)
        maker.opening = 50
        door.group.resize(6)
        await asyncio.sleep(0.5)

    run_virtual(main)
    assert 4 == len(maker.things)
    assert 6 == len(maker.times)
    maker.check_all_closed_once()


# --- resources of a thread --------------------------------------------------------------


def test_a_sync_one_is_made_used_and_taken_down_in_one_thread(arrows: Arrows) -> None:
    """Its worker's own, which is gone with it."""
    threads: list[threading.Thread] = []

    def note(_: Any = None) -> int:
        threads.append(threading.current_thread())
        return 1

    async def main() -> None:
        door = await FakeDoor(arrows, Recipe(note, destroy=note)).open()
        job = door.give(note)
        while not job.ended:
            await asyncio.sleep(1)
        await door.close()

    run_virtual(main)
    assert (3, {"runcrew-group-1"}) == (len(threads), {thread.name for thread in threads})
    assert 1 == len(set(threads))
    assert threading.current_thread() is not threads[0]
    assert not threads[0].is_alive()


@pytest.mark.virtual
async def test_a_sync_opening_is_taken_down_when_its_worker_has_to_leave_meanwhile(arrows: Arrows) -> None:
    """A thread cannot be cancelled: what it makes is taken down right after, in the thread."""
    gate, begun, maker = threading.Event(), threading.Event(), Maker()

    def make() -> Thing:
        begun.set()
        assert gate.wait(10)
        return maker.make_plain()

    door = FakeDoor(arrows, Recipe(make, destroy=maker.destroy_plain))
    door.group.open()
    door.group.close()
    assert ["closing"] == door.states()
    assert begun.wait(10)
    assert "in make" in door.group.hanging()[0][1]
    door.group.let_go()  # there is nothing to cut short in a thread
    gate.set()
    await door.close()
    assert 1 == len(maker.things)
    maker.check_all_closed_once()
    assert 0 == door.group.counts.opened


@pytest.mark.virtual
async def test_a_sync_opening_that_failed_may_be_told_to_leave_before_its_thread_has_ended(
    arrows: Arrows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread takes nothing more then, and is asked for nothing."""
    maker = Maker(failing=1)
    door = FakeDoor(arrows, maker.recipe(plain=True))
    told = _Opening._hand_back

    def hand_back(self: _Opening) -> None:
        told(self)
        door.group.close()

    monkeypatch.setattr(_Opening, "_hand_back", hand_back)
    door.group.open()
    await door.close()
    assert [] == maker.things


@pytest.mark.virtual
async def test_no_thread_to_be_had_is_a_failed_opening(arrows: Arrows, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again as any other; also a worker that is told to leave in that moment comes to its end."""
    maker = Maker()
    with monkeypatch.context() as patched:
        patched.setattr(OwnThread, "_start", no_threads)
        door = FakeDoor(arrows, maker.recipe(plain=True), size=2)
        door.group.open()
        door.group.resize(1)
        await asyncio.sleep(0.5)
        assert [(1, 0.0), (3, 1.0)] == [(number, delay) for number, delay, _ in door.failures]
        assert isinstance(door.group.last_error, NoThread)
    await asyncio.sleep(10)
    assert 1 == door.group.there
    await door.close()
    maker.check_all_closed_once()


class _Death(BaseException):
    """Ends a thread in the middle of what it does."""


def _die() -> None:
    raise _Death


@pytest.mark.virtual
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("busy", [False, True])
async def test_a_dead_thread_is_replaced_with_all_that_lived_in_it(
    arrows: Arrows, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """Its worker leaves, its resource is lost and said to be, and another one comes."""
    maker = Maker()
    door = await FakeDoor(arrows, maker.recipe(plain=True)).open()
    first = door.only()
    thread = first.thread
    assert thread is not None
    if busy:
        door.give(forever)  # on the loop, say
        await asyncio.sleep(1)
    monkeypatch.setattr(thread.__class__, "_park", lambda self: _die())
    thread._ring()
    while door.group.roster.get(first, 1) is None:
        await asyncio.sleep(0)
        if first.thread is None:
            monkeypatch.undo()
    await asyncio.sleep(10)
    assert ("its resource is lost", NoThread) == (door.gone[0][0], type(door.gone[0][1]))
    assert "the resource of worker 1 could not be taken down: its thread has died" in caplog.text
    assert (1, [1, 2]) == (door.group.there, maker.alive)
    await door.close()
    assert [0, 1] == [thing.closed for thing in maker.things]


@pytest.mark.virtual
async def test_a_worker_without_a_resource_waits_for_the_thread_of_its_plain_jobs(arrows: Arrows) -> None:
    """It is CLOSING until that is gone."""
    door = await FakeDoor(arrows).open()
    job = door.give(lambda _: None)
    while not job.ended:
        await asyncio.sleep(1)
    first = door.only()
    door.group.close()
    assert CLOSING is first.state
    await door.close()
    assert first.thread is None


# --- work that was given up -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "async", "sync"])
def test_a_resource_stays_open_until_abandoned_work_in_a_thread_has_ended(arrows: Arrows, kind: str) -> None:
    """A replacement comes at once; the abandoned one is taken down behind its work."""
    gate, maker = threading.Event(), Maker()

    async def main() -> None:
        recipe = None if kind == "none" else maker.recipe(plain=kind == "sync")
        door = await FakeDoor(arrows, recipe).open()
        job = door.give(lambda _: gate.wait(10))
        assert job.worker is not None
        await asyncio.sleep(0)
        door.abandon(job)
        await asyncio.sleep(100)
        assert (ABANDONED, 1, 1) == (job.worker.state, door.group.abandoned, door.group.there)
        assert [thing.number for thing in maker.things] == maker.alive
        gate.set()
        while job.worker.state is not GONE:
            await asyncio.sleep(0.001)
        assert (0, 1) == (door.group.abandoned, door.group.there)
        await door.close()

    run_virtual(main)
    maker.check_all_closed_once()


@pytest.mark.parametrize("kind", ["none", "async", "sync"])
def test_abandoned_work_on_the_loop_keeps_the_resource_though_the_thread_is_idle(arrows: Arrows, kind: str) -> None:
    """A worker may have a thread, of earlier jobs or for its resource, and then hang in an async one."""
    maker = Maker()

    async def main() -> None:
        recipe = None if kind == "none" else maker.recipe(plain=kind == "sync")
        door = await FakeDoor(arrows, recipe).open()
        before = door.give(lambda _: None)
        while not before.ended:
            await asyncio.sleep(1)
        job = door.give(deaf)
        await asyncio.sleep(1)
        door.abandon(job)
        await asyncio.sleep(100)
        assert (1, 1) == (door.group.abandoned, door.group.there)
        assert [thing.number for thing in maker.things] == maker.alive
        await asyncio.sleep(1000)
        assert (0, 1) == (door.group.abandoned, door.group.there)
        assert [thing.number for thing in maker.things[1:]] == maker.alive
        await door.close()

    run_virtual(main)
    maker.check_all_closed_once()


def test_a_closed_group_does_not_keep_the_loop_for_an_abandoned_thread(
    arrows: Arrows, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that ends after the group was closed does not wait for a thread that nobody waits for."""
    gate, maker = threading.Event(), Maker()

    async def main() -> None:
        door = await FakeDoor(arrows, maker.recipe()).open()
        job = door.give(lambda _: gate.wait(10))
        await asyncio.sleep(0)
        door.abandon(job)
        door.group.close()
        await asyncio.sleep(1)
        assert "all gone" == door.log[-1]
        assert ["abandoned"] == door.states()

    run_virtual(main)
    assert [1] == maker.alive
    assert "the resource of worker 1 stays open: an abandoned thread uses it" in caplog.text
    gate.set()


def test_forsaken_threads_take_down_what_they_hold(arrows: Arrows, caplog: pytest.LogCaptureFixture) -> None:
    """When the loop was closed without a stop, each thread still closes its resource, and ends."""
    maker, doors = Maker(), list[FakeDoor]()
    before = threading.enumerate()

    async def main() -> None:
        doors.append(await FakeDoor(arrows, maker.recipe(plain=True), size=3).open())

    run_virtual(main)
    assert [1, 2, 3] == maker.alive
    doors[0].group.forsake()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(10)
    maker.check_all_closed_once()
    assert [] == caplog.records


def test_a_thread_that_ends_after_its_loop_harms_nobody(arrows: Arrows, caplog: pytest.LogCaptureFixture) -> None:
    """There is no loop left to be told: the thread notices, takes its resource down and ends."""
    maker, gate, begun = Maker(), threading.Event(), threading.Event()
    doors: list[FakeDoor] = []
    before = threading.enumerate()

    def job(_: Any) -> None:
        begun.set()
        assert gate.wait(10)

    async def main() -> None:
        door = await FakeDoor(arrows, maker.recipe(plain=True)).open()
        doors.append(door)
        given = door.give(job)
        with virtual_loop().holding("the thread"):
            await asyncio.to_thread(begun.wait, 10)
        door.abandon(given)
        door.group.close()

    run_virtual(main)
    gate.set()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(10)
            assert not thread.is_alive()
    maker.check_all_closed_once()
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]
