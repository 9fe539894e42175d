"""Room and reservations, alone: against a desk that only counts."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from queue_made import rounds

from runcrew.queue.room import Room


class Desk:
    """As much of a desk as room looks at."""

    def __init__(self, maxsize: float, free: int = 0) -> None:
        self.levels = self
        self.count = 0
        self.delayed: dict[Any, None] = {}
        self.free = list(range(free))
        self.loop = asyncio.get_running_loop()
        self.room = Room(self, maxsize)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Line:
    """Callers that wait for room, come in, and put something into the queue."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.came: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def join(self, number: int) -> None:
        """Another one comes."""
        self.tasks[number] = asyncio.ensure_future(self._come_in(number))

    async def _come_in(self, number: int) -> None:
        room = self.desk.room
        if not room.is_free(False):
            await room.wait()
            room.claim()
        self.desk.count += 1
        self.came.append(number)

    def serve(self) -> None:
        """One of those in the queue is served."""
        self.desk.count -= 1
        self.desk.room.look()

    async def end(self) -> None:
        """All go home."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.wait(self.tasks.values())


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.virtual
async def test_room_is_given_in_the_order_of_coming_and_never_twice(seed: int) -> None:
    """Whatever comes, is served and is cancelled: never more than maxsize wait, nobody overtakes, no room is lost."""
    chance = random.Random(seed)
    desk = Desk(maxsize=chance.randint(1, 4))
    line = Line(desk)
    cancelled: list[int] = []
    for number in range(60):
        for _ in range(chance.randint(0, 2)):
            if desk.count:
                line.serve()
        waiting = [each for each, task in line.tasks.items() if not task.done()]
        if waiting and chance.random() < 0.3:
            cancelled.append(chance.choice(waiting))
            line.tasks[cancelled[-1]].cancel()
        await rounds(4)
        line.join(number)
        await rounds(4)
        assert desk.count + desk.room.reserved <= desk.room.maxsize
        assert not (desk.room.waiting and desk.room.has_left()), "there is room, and somebody waits for it"
        assert 0 == desk.room.reserved
    await rounds(4)
    while desk.room.waiting:
        line.serve()
        await rounds(4)
    assert sorted(line.came) == line.came
    assert {*range(60)} - {*line.came} <= {*cancelled}
    assert (0, desk.count <= desk.room.maxsize) == (desk.room.reserved, True)
    await line.end()


@pytest.mark.virtual
async def test_a_free_worker_is_room_for_one_that_it_can_take_at_once() -> None:
    """With maxsize 0 there is room for as many as there are free workers, and none for what waits for its time."""
    room = Desk(0, free=1).room
    assert room.is_free(False)
    assert not room.is_free(True)
    room.reserved = 1
    assert not room.is_free(False), "that worker has been promised"


@pytest.mark.virtual
async def test_what_waits_outside_takes_room_too() -> None:
    """Those in the queue, those that wait outside it and those that have been promised room are all counted."""
    desk = Desk(3)
    desk.count, desk.delayed, desk.room.reserved = 1, {"one": None}, 0
    assert desk.room.has_left()
    desk.room.reserved = 1
    assert not desk.room.has_left()


@pytest.mark.virtual
async def test_the_end_lets_all_go_on() -> None:
    """When nothing is accepted any more, all who wait go on at once, and look for themselves."""
    desk = Desk(1)
    desk.count = 1
    line = Line(desk)
    for number in range(3):
        line.join(number)
    await rounds()
    desk.room.close()
    await rounds()
    assert [0, 1, 2] == line.came
    assert (0, {}) == (desk.room.reserved, desk.room.waiting)
