"""Time, and chance."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from runcrew import clock
from runcrew.clock import SYSTEM, Clock, utc


def test_the_systems_clock_is_in_force() -> None:
    """Nobody has to choose a clock."""
    assert SYSTEM is clock.current()


@pytest.mark.realtime
def test_now_is_the_wall_and_never_goes_back() -> None:
    """Instants are seconds since the epoch, and each is no earlier than the one before."""
    seen = [SYSTEM.now() for _ in range(1000)]
    assert seen == sorted(seen)
    assert abs(time.time() - seen[-1]) < 5


def test_instants_are_shown_in_utc() -> None:
    """People see aware datetimes."""
    assert datetime(2025, 1, 1, tzinfo=UTC) == utc(1_735_689_600.0)
    assert UTC is utc(0.0).tzinfo


def test_chance_can_be_repeated() -> None:
    """The same seed gives the same jitter."""
    assert Clock(7).random.random() == Clock(7).random.random()


@pytest.mark.realtime
def test_a_thread_can_wait_for_time_or_for_an_event() -> None:
    """`block` says whether the event came, or the time was up."""
    event = threading.Event()
    assert not SYSTEM.block(0.001, event)
    assert not SYSTEM.block(0.001)
    event.set()
    assert SYSTEM.block(None, event)


@pytest.mark.virtual
async def test_another_clock_reaches_tasks_and_threads() -> None:
    """Which clock is in force travels with the context, into tasks and threads."""
    here = clock.current()
    assert SYSTEM is not here
    assert here is await asyncio.create_task(asyncio.sleep(0, clock.current()))
    assert here is await asyncio.to_thread(clock.current)


@pytest.mark.virtual
async def test_sleep_lets_time_pass_and_can_be_cancelled() -> None:
    """A sleep takes its span, and cancelling ends it at once."""
    time = clock.current()
    began = time.now()
    await time.sleep(90)
    assert 90 == time.now() - began
    task = asyncio.create_task(time.sleep(3600))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 91 == time.now() - began


@pytest.mark.realtime
def test_processor_time_of_a_thread() -> None:
    """A clock of the processor time of one thread goes on as long as that works."""
    spent = clock.cpu_clock()
    before = spent()
    sum(range(200_000))
    assert spent() > before
