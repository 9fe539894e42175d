"""Levels seen from outside: who is served first, and that the others get on too."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from queue_made import Gate, give, rounds, take

import runcrew as rc
from runcrew.clock import current


class Order:
    """Jobs that note their turn."""

    def __init__(self, span: float = 0.0) -> None:
        self.span = span
        self.turns: list[str] = []

    async def __call__(self, name: str) -> None:
        self.turns.append(name)
        await asyncio.sleep(self.span)


async def behind_a_gate(queue: rc.Queue[rc.NoResource]) -> Gate:
    """Keep the one worker busy."""
    gate = Gate()
    queue.submit_nowait(gate)
    await rounds()
    return gate


@pytest.mark.parity("T5.21")
@pytest.mark.defect("D5.9")
@pytest.mark.virtual
async def test_the_more_urgent_go_first_and_within_a_level_the_first_comer() -> None:
    """A more urgent ticket is always served before a less urgent one; within a level it is first come first served."""
    order = Order()
    async with rc.Queue("db", workers=1) as queue:
        gate = await behind_a_gate(queue)
        for number in range(40):
            for name, priority in (("low", rc.LOW), ("normal", rc.NORMAL), ("high", rc.HIGH)):
                queue.submit_nowait(order, f"{name} {number}", priority=priority)
        assert {rc.HIGH: 40, rc.NORMAL: 40, rc.LOW: 40} == queue.stats().levels
        gate.open()
    expected = [f"{name} {number}" for name in ("high", "normal", "low") for number in range(40)]
    assert expected == order.turns


@pytest.mark.defect("D5.9")
@pytest.mark.virtual
async def test_urgent_ones_go_first_in_a_drain_too() -> None:
    """A stop changes nothing in the order in which what waits is served."""
    order = Order(1.0)
    queue = rc.Queue("db", workers=1)
    await queue.start()
    gate = await behind_a_gate(queue)
    for number in range(10):
        queue.submit_nowait(order, f"low {number}", priority=rc.LOW)
        queue.submit_nowait(order, f"high {number}", priority=rc.HIGH)
    stopping = asyncio.ensure_future(queue.stop("1m"))
    await rounds()
    gate.open()
    report = await stopping
    assert 21 == report.finished
    assert [f"{name} {number}" for name in ("high", "low") for number in range(10)] == order.turns


@pytest.mark.virtual
async def test_any_whole_number_is_a_level() -> None:
    """Levels are not only the three that have names; an urgent latecomer overtakes all below it."""
    order = Order()
    async with rc.Queue("db", workers=1) as queue:
        gate = await behind_a_gate(queue)
        for priority in (-3, 1000, 7, 0, -1000, 8):
            queue.submit_nowait(order, str(priority), priority=priority)
        gate.open()
    assert ["1000", "8", "7", "0", "-3", "-1000"] == order.turns


@pytest.mark.virtual
async def test_a_ticket_tells_its_level() -> None:
    """A ticket knows the level that it waits in; 0 where nobody said."""
    async with rc.Queue("db", workers=1) as queue:
        assert 0 == (await queue.submit(give, 1)).priority
        assert 10 == (await queue.submit(give, 1, priority=rc.HIGH)).priority


@pytest.mark.defect("D5.9")
@pytest.mark.virtual
async def test_the_low_ones_get_on_under_a_constant_load_of_urgent_ones() -> None:
    """Once the oldest ticket has waited for longer than max_wait, one pick in sixteen is its: nobody starves."""
    served: list[float] = []
    clock = asyncio.get_running_loop()

    async def low() -> None:
        served.append(clock.time())

    async with rc.Queue("db", workers=1, max_wait="10s") as queue:

        async def flood() -> None:
            while True:
                if queue.stats().queued < 5:
                    queue.submit_nowait(take, 1.0, priority=rc.HIGH)
                else:
                    await asyncio.sleep(0.5)

        flooding = asyncio.ensure_future(flood())
        await asyncio.sleep(1)
        began = clock.time()
        for _ in range(3):
            queue.submit_nowait(low, priority=rc.LOW)
        async with asyncio.timeout(1000):
            while len(served) < 3:
                await asyncio.sleep(1)
        flooding.cancel()
        first = served[0] - began
        assert 10 < first <= 10 + 16 + 1, "after max_wait the next sixteenth pick is its own"
        pauses = [later - earlier for earlier, later in itertools.pairwise(served)]
        assert all(15 <= pause <= 16 for pause in pauses), "and so it goes on"
        await queue.kill()


def moment() -> None:
    """A plain job of a tenth of a millisecond: many of them are handed over at once."""
    current().block(0.0001)


async def at_once() -> None:
    """An async job of no length."""


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("low", [moment, at_once], ids=["plain", "async"])
@pytest.mark.virtual
async def test_the_low_ones_get_on_under_a_constant_load_of_urgent_ones_for_threads(low: Any, workers: int) -> None:
    """Lines of plain jobs that are filled again before they run empty hold up no overdue one, plain or async: it gets
    one pick in sixteen, or the next one after what has been handed over."""
    urgent: list[int] = []
    async with rc.Queue("db", workers=workers, max_wait="50ms", maxsize=None) as queue:

        def again(_: object) -> None:
            urgent.append(1)
            queue.submit_nowait(moment, priority=rc.HIGH).on_done(again)

        for _ in range(200):
            queue.submit_nowait(moment, priority=rc.HIGH).on_done(again)
        await asyncio.sleep(0.02)
        tickets = [queue.submit_nowait(low, priority=rc.LOW) for _ in range(10)]
        await asyncio.sleep(0.05)
        before = len(urgent)
        async with asyncio.timeout(1):
            for ticket in tickets:
                await ticket
        assert (len(urgent) - before) / len(tickets) <= 16 + 16 * workers, (
            "what is handed over ahead is a millisecond's"
        )
        await queue.kill()


@pytest.mark.virtual
async def test_without_max_wait_the_urgent_ones_always_go_first() -> None:
    """max_wait=None: a low ticket waits for as long as there are more urgent ones."""
    order = Order(1.0)
    async with rc.Queue("db", workers=1, max_wait=None) as queue:
        gate = await behind_a_gate(queue)
        queue.submit_nowait(order, "low", priority=rc.LOW)
        await asyncio.sleep(1000)
        for number in range(20):
            queue.submit_nowait(order, f"{number}")
        gate.open()
    assert "low" == order.turns[-1]


@pytest.mark.virtual
async def test_an_urgent_one_goes_first_among_those_for_threads() -> None:
    """Plain jobs are served by urgency as well: what has been handed to a thread ahead is no more than a moment's."""
    turns: list[str] = []
    async with rc.Queue("db", workers=1) as queue:
        gate = await behind_a_gate(queue)
        for number in range(20):
            queue.submit_nowait(turns.append, f"low {number}", priority=rc.LOW)
        queue.submit_nowait(turns.append, "high", priority=rc.HIGH)
        gate.open()
    assert "high" == turns[0]
    assert [f"low {number}" for number in range(20)] == turns[1:]
