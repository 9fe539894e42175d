"""One worker's life: each arrow of the drawing exists, and no other, whatever is called in whatever state."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from fake_door import ARROWS, Arrow, Arrows, FakeDoor, Maker, deaf, forever

from runcrew.testing import run_virtual
from runcrew.workers import Worker, worker
from runcrew.workers.worker import ABANDONED, BUSY, CLOSING, FREE, GONE, LEAVING, OPENING, WorkerState


async def _opening(door: FakeDoor, maker: Maker) -> None:
    maker.opening = 50
    door.group.open()
    await asyncio.sleep(1)


async def _free(door: FakeDoor, maker: Maker) -> None:
    await door.open()


async def _busy(door: FakeDoor, maker: Maker) -> None:
    await door.open()
    door.give(deaf)
    await asyncio.sleep(1)


async def _leaving(door: FakeDoor, maker: Maker) -> None:
    await _busy(door, maker)
    door.group.resize(0)


async def _closing(door: FakeDoor, maker: Maker) -> None:
    maker.closing = 50
    await door.open()
    door.group.resize(0)
    await asyncio.sleep(1)


async def _abandoned(door: FakeDoor, maker: Maker) -> None:
    await door.open()
    job = door.give(deaf)
    await asyncio.sleep(1)
    door.abandon(job)


async def _gone(door: FakeDoor, maker: Maker) -> None:
    await door.open()
    door.group.resize(0)
    await asyncio.sleep(1)


#: How the first worker comes to each state.
WAYS: dict[WorkerState, Callable[[FakeDoor, Maker], Any]] = {
    OPENING: _opening,
    FREE: _free,
    BUSY: _busy,
    LEAVING: _leaving,
    CLOSING: _closing,
    ABANDONED: _abandoned,
    GONE: _gone,
}


def _end(door: FakeDoor, one: Worker) -> None:
    """It ends its work, if it has any."""
    if one.work is not None:
        one.resource.users = 0  # as if the job did nothing with it from here on
        door.end(one, one.work)
    else:
        door.group.released(one)


#: What can be asked of a worker, or happen to it.
CALLS: dict[str, Callable[[FakeDoor, Worker], object]] = {
    "opened": lambda door, one: None if one.state is OPENING else door.group.opened(one),
    "ends its work": _end,
    "leave": lambda door, one: (door.group.leave(one, "why not"), door.group.settle()),
    "condemn": lambda door, one: door.group.condemn(one, ValueError("broken"), "faulty"),
    "lost": lambda door, one: door.group.lost(one, asyncio.CancelledError("gone")),
    "abandon": lambda door, one: door.group.abandon(one),
    "cancel its keeper": lambda door, one: one.keeper and one.keeper.cancel(),
    "let go": lambda door, one: door.group.let_go(),
    "close the group": lambda door, one: door.group.close(),
}

#: Where each of them leads, at once; where nothing is said, nowhere.
LEADS: dict[tuple[WorkerState, str], WorkerState] = {
    (BUSY, "ends its work"): FREE,
    (LEAVING, "ends its work"): CLOSING,
    (ABANDONED, "ends its work"): CLOSING,
    (BUSY, "abandon"): ABANDONED,
    (LEAVING, "abandon"): ABANDONED,
    **{(OPENING, what): CLOSING for what in ("leave", "close the group")},
    **{(FREE, what): CLOSING for what in ("leave", "condemn", "lost", "close the group")},
    **{(BUSY, what): LEAVING for what in ("leave", "condemn", "lost", "close the group")},
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("state", WAYS, ids=lambda state: state.value)
def test_whatever_happens_in_whatever_state_leads_where_the_drawing_says(
    arrows: Arrows, state: WorkerState, what: str
) -> None:
    """Each call does its one step or nothing; then the worker still comes to its end, its resource closed once."""

    async def main() -> None:
        maker = Maker()
        door = FakeDoor(arrows, maker.recipe())
        await WAYS[state](door, maker)
        one = next(iter(door.group.roster), None) or ONES[-1]
        assert state is one.state
        CALLS[what](door, one)
        assert LEADS.get((state, what), state) is one.state
        door.check()
        await asyncio.sleep(500)
        if not door.group.closed:
            door.group.resize(1)
            await asyncio.sleep(500)
            assert 1 == door.group.there
        await asyncio.sleep(1000)
        await door.close()
        maker.check_all_closed_once()

    ONES.clear()
    run_virtual(main)


#: All workers of a test.
ONES: list[Worker] = []


@pytest.fixture(autouse=True)
def _all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Worker.__init__

    def init(self: Worker, *args: Any) -> None:
        made(self, *args)
        ONES.append(self)

    monkeypatch.setattr(Worker, "__init__", init)


async def _to_free(door: FakeDoor, maker: Maker) -> None:
    await _free(door, maker)


async def _opening_to_closing(door: FakeDoor, maker: Maker) -> None:
    await _opening(door, maker)
    door.group.resize(0)


async def _opening_to_gone(door: FakeDoor, maker: Maker) -> None:
    maker.failing = 1
    await door.open()


async def _to_busy_and_back(door: FakeDoor, maker: Maker) -> None:
    await door.open()
    job = door.give(forever)
    assert job.worker is not None
    assert job.worker.task is not None
    job.worker.task.cancel()
    await asyncio.sleep(1)


async def _abandoned_while_leaving(door: FakeDoor, maker: Maker) -> None:
    await _leaving(door, maker)
    door.group.abandon(door.only())


async def _ends(door: FakeDoor, maker: Maker) -> None:
    await _leaving(door, maker)
    await asyncio.sleep(2000)


async def _ends_after_all(door: FakeDoor, maker: Maker) -> None:
    await _abandoned(door, maker)
    await asyncio.sleep(2000)


#: How a worker comes to go along each arrow.
ALONG: dict[Arrow, Callable[[FakeDoor, Maker], Any]] = {
    (OPENING, FREE): _to_free,
    (OPENING, CLOSING): _opening_to_closing,
    (OPENING, GONE): _opening_to_gone,
    (FREE, BUSY): _busy,
    (FREE, CLOSING): _closing,
    (BUSY, FREE): _to_busy_and_back,
    (BUSY, LEAVING): _leaving,
    (BUSY, ABANDONED): _abandoned,
    (LEAVING, CLOSING): _ends,
    (LEAVING, ABANDONED): _abandoned_while_leaving,
    (ABANDONED, CLOSING): _ends_after_all,
    (CLOSING, GONE): _gone,
}


@pytest.mark.parametrize("arrow", sorted(ARROWS, key=str), ids=lambda arrow: f"{arrow[0].value}-{arrow[1].value}")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "no resource"])
def test_each_arrow_of_the_drawing_exists(arrows: Arrows, arrow: Arrow, plain: bool) -> None:
    """A worker goes along it in the one situation that the drawing names, with a resource and without one."""

    async def main() -> None:
        maker = Maker()
        door = FakeDoor(arrows, None if plain else maker.recipe())
        await ALONG[arrow](door, maker)
        assert 1 in arrows.seen[arrow]
        await asyncio.sleep(2000)
        await door.close()

    if not (plain and arrow in {(OPENING, CLOSING), (OPENING, GONE)}):
        run_virtual(main)


def test_the_drawing_names_all_states_and_no_other() -> None:
    """The words at the top of the module are those of the code."""
    drawn = inspect.getdoc(worker) or ""
    for state in WorkerState:
        assert f"{state.name}:" in drawn or state is GONE
        assert state.name in drawn.split("OPENING:   ")[0]
    assert set(WorkerState) == {state for arrow in ARROWS for state in arrow}
    assert set(ARROWS) == set(ALONG)


def test_a_worker_says_who_it_is(arrows: Arrows) -> None:
    """Number, group and state, for people."""

    async def main() -> None:
        door = await FakeDoor(arrows).open()
        assert "<Worker 1 of group: free>" == repr(door.only())
        await door.close()

    run_virtual(main)
