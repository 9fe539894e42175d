"""The loop that carries out what is decided: when it looks, what it does, what it tells, and when it is over."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context, ContextVar, copy_context
from itertools import pairwise
from typing import Any

import pytest

from runcrew.errors import brief
from runcrew.events import Event, Scaled
from runcrew.lifecycle import BaseService
from runcrew.workers import Decision, Load, Scale, Scaler

place: ContextVar[str] = ContextVar("place", default="nowhere")


class FakeGroup:
    """As much of a group as is looked at: it is whatever size it is told to be."""

    def __init__(self, size: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self.context: Context = copy_context()
        self.home = BaseService("home")
        self.name = "group"
        self.target = size
        self.sizes = [size]

    def resize(self, target: int) -> None:
        """Let there be so many."""
        self.target = target
        self.sizes.append(target)


class Bench:
    """A scaler on a group of which more and more waits, or nothing."""

    def __init__(self, *, most: int = 500, scale: Scale | None = None) -> None:
        self.group = FakeGroup()
        self.times: list[float] = []
        self.places: list[str] = []
        self.heard: list[Decision] = []
        self.waiting = 10_000
        #: What looking, and hearing, raise.
        self.observing: BaseException | None = None
        self.hearing: BaseException | None = None
        group: Any = self.group
        self.scaler = Scaler(
            group, scale or Scale(hold="5s", cooldown="1s"), least=1, most=most, observe=self.observe, decided=self.hear
        )

    def observe(self) -> Load:
        """The load as it is."""
        self.times.append(self.group.loop.time())
        self.places.append(place.get())
        if self.observing is not None:
            raise self.observing
        size = self.group.target
        return Load(self.group.loop.time(), size, 0.0, 0, 0, self.waiting, 9.0 if self.waiting else 0.0)

    def stop_and_observe(self) -> Load:
        """Look no more from here on; but this is the load."""
        self.scaler.stop()
        return self.observe()

    def hear(self, decision: Decision) -> None:
        """A change has begun."""
        self.heard.append(decision)
        if self.hearing is not None:
            raise self.hearing


@pytest.mark.virtual
async def test_it_looks_out_of_step() -> None:
    """Each pause is up to a quarter longer or shorter than `every`, and they differ, in the group's own context."""
    bench = Bench(scale=Scale("2s"))
    place.set("elsewhere")
    bench.scaler.start()
    bench.scaler.start()
    await asyncio.sleep(200)
    bench.scaler.stop()
    pauses = [later - sooner for sooner, later in pairwise([0.0, *bench.times])]
    assert 80 <= len(pauses) <= 125
    assert 1.5 <= min(pauses) < 1.7
    assert 2.3 < max(pauses) <= 2.5
    assert ["nowhere"] == list(dict.fromkeys(bench.places))


@pytest.mark.virtual
async def test_each_change_is_carried_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The group is resized, the log has a line, whoever subscribed has the event, and the door hears of it; of what
    changes nothing nobody hears."""
    bench, events = Bench(most=3), list[Event]()
    bench.group.home.hub.subscribe(events.append)
    start = asyncio.get_running_loop().time()
    with caplog.at_level(logging.INFO, "runcrew"):
        bench.scaler.start()
        await asyncio.sleep(10)
    bench.scaler.stop()
    assert [1, 2, 3] == bench.group.sizes
    assert bench.heard == list(bench.scaler.decisions)
    first = bench.heard[0]
    assert (1, 2, 10_000, 9.0) == (first.before, first.after, first.inputs.waiting, first.inputs.age)
    assert 1.7e9 < first.at - start  # since the epoch
    assert [f"group: {decision}" for decision in bench.heard] == [record.getMessage() for record in caplog.records]
    assert ["home"] == list(dict.fromkeys(record.__dict__["service"] for record in caplog.records))
    assert [(d.at, d.before, d.after, d.reason) for d in bench.heard] == [
        (e.at, e.before, e.after, e.reason) for e in events if isinstance(e, Scaled)
    ]
    assert len(events) == 2
    assert f"home: 1 -> 2 workers: {first.reason}" == str(events[0])
    shown = events[0]
    assert isinstance(shown, Scaled)
    told = (shown.arrival, shown.completion, shown.busy, shown.utilisation, shown.waiting, shown.age, shown.demand)
    inputs = first.inputs
    assert told == (
        inputs.arrival, inputs.completion, inputs.busy, inputs.utilisation, inputs.waiting, inputs.age, inputs.demand
    )  # fmt: skip


@pytest.mark.virtual
async def test_nothing_happens_after_the_stop() -> None:
    """Stopped before the start, between two looks, or in one of them: no look and no change comes after it."""
    never, between, inside = Bench(), Bench(), Bench()
    never.scaler.stop()
    for bench in (never, between, inside):
        bench.scaler.start()
    inside.scaler._observe = inside.stop_and_observe
    await asyncio.sleep(3)
    between.scaler.stop()
    between.scaler.stop()
    looks, sizes = len(between.times), list(between.group.sizes)
    await asyncio.sleep(100)
    assert ([], 1) == (never.times, never.group.target)
    assert (looks, sizes) == (len(between.times), between.group.sizes)
    assert (1, [1]) == (len(inside.times), inside.group.sizes)


@pytest.mark.virtual
async def test_stopped_by_what_it_sees_it_changes_nothing() -> None:
    """A stop within the look that would have led to a change comes before the change."""
    bench = Bench()
    bench.scaler.start()
    await asyncio.sleep(1.3)
    assert 1 == len(bench.times)
    bench.scaler._observe = bench.stop_and_observe
    await asyncio.sleep(100)
    assert [1] == bench.group.sizes
    assert () == bench.scaler.decisions


@pytest.mark.parametrize("where", ["observing", "hearing"])
@pytest.mark.virtual
async def test_an_error_is_logged_and_the_next_look_comes(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """What observing or hearing raises ends nothing: it is in the log, and when it is over all goes on."""
    bench = Bench()
    setattr(bench, where, ValueError("no idea"))
    bench.scaler.start()
    await asyncio.sleep(20)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) >= 5
    assert "group: scaling failed" == errors[0].getMessage()
    assert errors[0].exc_info is not None
    assert isinstance(errors[0].exc_info[1], ValueError)
    assert "no idea" in brief(errors[0].exc_info[1])
    setattr(bench, where, None)
    before = bench.group.target
    await asyncio.sleep(20)
    bench.scaler.stop()
    assert before < bench.group.target


@pytest.mark.virtual
async def test_the_last_changes_are_kept() -> None:
    """So many as are kept, the latest at the end, however many there have been."""
    bench = Bench(most=200)
    bench.scaler.start()
    await asyncio.sleep(150)
    bench.scaler.stop()
    assert 64 < len(bench.heard)
    assert tuple(bench.heard[-64:]) == bench.scaler.decisions


@pytest.mark.virtual
async def test_extra_workers_go_again() -> None:
    """When nothing waits any more the group is as small as it may be."""
    bench = Bench()
    bench.scaler.start()
    await asyncio.sleep(20)
    assert 10 < bench.group.target
    bench.waiting = 0
    await asyncio.sleep(60)
    bench.scaler.stop()
    assert 1 == bench.group.target
