"""Time on the virtual loop: when it passes, when it does not, and what is said when it never will."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from runcrew import clock as clocks
from runcrew.errors import ConfigError, RuncrewError
from runcrew.testing import Stuck, VirtualClock, VirtualLoop, run_virtual, virtual_loop

# --- time passes --------------------------------------------------------------------------


def test_an_hour_passes_in_no_time() -> None:
    """An hour of second-long sleeps is an hour long, and over well before the time that any test has."""

    async def main() -> float:
        for _ in range(3600):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert 3600.0 == run_virtual(main)


@pytest.mark.virtual
async def test_loop_and_wall_clock_are_one() -> None:
    """Loop time begins at 0, and the wall clock moves with it, from a fixed instant."""
    loop, clock = virtual_loop(), clocks.current()
    assert isinstance(clock, VirtualClock)
    assert (0.0, 0.0) == (loop.time(), clock.monotonic())
    assert datetime(2025, 1, 1, tzinfo=UTC) == clocks.utc(clock.now())
    await clock.sleep(90.5)
    assert (90.5, 90.5) == (loop.time(), clock.monotonic())
    assert datetime(2025, 1, 1, 0, 1, 30, 500_000, UTC) == clocks.utc(clock.now())


@pytest.mark.virtual
async def test_timers_go_off_at_their_own_times() -> None:
    """Each timer sees the loop at exactly the time it was set for, in the order of those times."""
    loop = asyncio.get_running_loop()
    chance = random.Random(1)
    times = [chance.uniform(0, 1e6) for _ in range(500)]
    seen: list[tuple[float, float]] = []
    for when in times:
        loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
    await asyncio.sleep(1e6)
    assert [(when, when) for when in sorted(times)] == seen


@pytest.mark.virtual
async def test_a_long_jump_is_as_exact_as_a_short_one() -> None:
    """Time is set to the timer's own, which adding up the waits would miss by a rounding now and then."""
    loop = asyncio.get_running_loop()
    chance = random.Random(3)
    when = 0.1
    for _ in range(40):
        when *= chance.uniform(1.5, 4)
        reached = loop.create_future()
        loop.call_at(when, reached.set_result, None)
        await reached
        assert when == loop.time()


@pytest.mark.virtual
async def test_timers_for_one_time_go_in_the_order_they_were_set() -> None:
    """Without a seed, timers that are due together keep their order, which a plain heap would lose."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []
    for number in range(50):
        loop.call_at(10.0, seen.append, number)
    await asyncio.sleep(10.0)
    assert list(range(50)) == seen


@pytest.mark.virtual
async def test_a_cancelled_timer_costs_no_time() -> None:
    """Time does not pass for a timer that was cancelled."""
    loop = asyncio.get_running_loop()
    handles = [loop.call_later(delay, pytest.fail) for delay in range(1, 500)]
    for handle in handles:
        handle.cancel()
    await asyncio.sleep(0.5)
    assert 0.5 == loop.time()


@pytest.mark.parametrize("begin", [2.0**24, 2.0**31, 2.0**45, 1.7e9 * 1000])
def test_timers_go_off_however_late_it_is(begin: float) -> None:
    """Past 2^24 s (194 days), where 1e-9 is lost in the float, a timer that is due still goes off, exactly then."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(begin)
        for span in (1.0, 0.1, 3600.0, 0.0, 1 / 3):
            due = loop.time() + span
            await asyncio.sleep(span)
            assert due == loop.time()

    run_virtual(main)


def test_many_years_of_an_interval() -> None:
    """Ten years of daily ticks come one by one, none lost and none twice."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        ticks = 0
        while loop.time() < 10 * 365 * 86_400:
            await asyncio.sleep(86_400)
            ticks += 1
        return ticks

    assert 10 * 365 == run_virtual(main)


@pytest.mark.virtual
async def test_sleeping_until_a_wall_time_never_ends_early() -> None:
    """A sleep until a datetime with microseconds is over no earlier than that datetime."""
    clock = clocks.current()
    chance = random.Random(2)
    for _ in range(2000):
        target = clocks.utc(clock.now()) + timedelta(microseconds=chance.randrange(1, 10_000_000))
        await clock.sleep(target.timestamp() - clock.now())
        assert target <= clocks.utc(clock.now())


@pytest.mark.virtual
async def test_a_time_that_is_no_number_is_refused() -> None:
    """A timer at NaN would put all others in disorder, so it is refused on every version."""
    with pytest.raises(ValueError, match="nan"):
        asyncio.get_running_loop().call_at(math.nan, print)


@pytest.mark.virtual
async def test_an_infinite_sleep_is_no_place_to_jump_to() -> None:
    """A timer at infinity leaves the loop at its finite time while others go off."""
    forever = asyncio.ensure_future(asyncio.sleep(math.inf))
    await asyncio.sleep(5)
    assert 5.0 == asyncio.get_running_loop().time()
    forever.cancel()


# --- what keeps time from passing ------------------------------------------------------------


@pytest.mark.virtual
async def test_a_hold_keeps_time_from_passing() -> None:
    """No timer goes off before the last of several holds has been released."""
    loop = virtual_loop()
    timer = asyncio.ensure_future(asyncio.sleep(1))
    loop.hold("one")
    loop.hold("one")
    loop.runcrew_hold()
    assert ("one (x2)", "a call in flight") == loop.held
    for release in (loop.runcrew_release, lambda: loop.release("one"), lambda: loop.release("one")):
        assert await idle_for_a_moment(loop) == 0.0
        release()
    assert () == loop.held
    await timer
    assert 1.0 == loop.time()


async def idle_for_a_moment(loop: VirtualLoop) -> float:
    """The loop's time, after it has had nothing to do until a real thread woke it."""
    woken = loop.create_future()
    real = threading.Timer(0.003, loop.call_soon_threadsafe, (woken.set_result, None))
    real.start()
    await woken
    real.join()
    return loop.time()


@pytest.mark.virtual
async def test_a_release_too_many_is_refused() -> None:
    """A release without its hold raises, and names what it is for, instead of freeing what others hold."""
    loop = virtual_loop()
    with loop.holding("mine"), pytest.raises(RuntimeError, match="yours"):
        loop.release("yours")
    with pytest.raises(RuntimeError, match="mine"):
        loop.release("mine")


@pytest.mark.virtual
async def test_time_passes_over_what_is_held_by_advance_alone() -> None:
    """advance lets just so much time pass under a hold, and every timer on the way goes off at its own time."""
    loop = virtual_loop()
    seen: list[float] = []
    for when in (1.0, 2.5, 30.0, 30.5):
        loop.call_at(when, lambda: seen.append(loop.time()))
    with loop.holding("something"):
        await loop.advance("30s")
        assert 30.0 == loop.time()
        assert [1.0, 2.5, 30.0] == seen
        assert 30.0 == await idle_for_a_moment(loop)
    await asyncio.sleep(1)
    assert [1.0, 2.5, 30.0, 30.5] == seen


@pytest.mark.virtual
async def test_an_advance_that_is_cancelled_ends_its_permission() -> None:
    """After an advance was cancelled, time is held as before."""
    loop = virtual_loop()
    with loop.holding("something"):
        ahead = asyncio.ensure_future(loop.advance(100))
        loop.call_at(10.0, ahead.cancel)
        await asyncio.wait([ahead])
        assert 10.0 == loop.time()
        timer = loop.call_later(1, pytest.fail)
        assert 10.0 == await idle_for_a_moment(loop)
        timer.cancel()


# --- nobody will ever wake it ------------------------------------------------------------------


def test_stuck_is_raised_at_once_and_says_where() -> None:
    """With nothing ready, no timer and nothing in flight the run ends with Stuck, which names the waiting line."""

    async def waits_for_ever() -> None:
        await asyncio.sleep(7)
        await asyncio.Event().wait()

    with pytest.raises(Stuck, match=r"(?s)after 7s of virtual time.*in .*waits_for_ever, at Event.wait, .*test_loop"):
        run_virtual(waits_for_ever, patience=None)


def test_no_job_can_swallow_stuck() -> None:
    """Stuck comes out of the run itself: catching everything in a coroutine does not hide it."""
    caught: list[BaseException] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            caught.append(error)
            raise

    with pytest.raises(RuncrewError) as stuck:
        run_virtual(main)
    assert Stuck is stuck.type
    assert ["CancelledError"] == [type(error).__name__ for error in caught]


def test_only_infinite_timers_are_stuck_too() -> None:
    """A sleep for ever wakes nobody, so a loop with nothing else is stuck."""
    with pytest.raises(Stuck, match="nobody will ever wake"):
        run_virtual(asyncio.sleep, math.inf)


@pytest.mark.realtime
def test_patience_finds_what_never_comes_back() -> None:
    """A hold that is never released ends the run when patience is over, named, with what to do."""

    async def main() -> None:
        virtual_loop().hold("the answer of nobody")
        await asyncio.sleep(1)

    with pytest.raises(Stuck, match=r"held by the answer of nobody.* in 10ms of real time.*advance"):
        run_virtual(main, patience="10ms")


@pytest.mark.realtime
def test_patience_finds_a_descriptor_that_stays_silent() -> None:
    """A watched descriptor may wake the loop, but not for longer than patience, and it is named."""
    reading, writing = os.pipe()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(reading, pytest.fail)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(reading)

    try:
        with pytest.raises(Stuck, match=rf"descriptors: {reading}\)"):
            run_virtual(main, patience="10ms")
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.virtual
async def test_a_signal_may_wake_a_loop_that_waits_for_nothing_else() -> None:
    """A loop that handles a signal is not stuck: it waits for that signal in real time."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    killer = threading.Timer(0.003, os.kill, (os.getpid(), signal.SIGUSR1))
    killer.start()
    try:
        await came.wait()
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        killer.join()
    assert 0.0 == loop.time()


# --- what it is given -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VirtualLoop(seed=True), "seed: True"),
        (lambda: VirtualLoop(seed="x"), "seed: 'x'"),  # type: ignore[arg-type]
        (lambda: VirtualLoop(autojump_after=-1), "autojump_after: -1"),
        (lambda: VirtualLoop(patience=0), "patience: 0"),
        (lambda: VirtualLoop(patience=math.nan), "patience: nan"),
    ],
)
def test_a_bad_value_is_refused(make: Callable[[], VirtualLoop], says: str) -> None:
    """What makes no sense is refused when the loop is made, and named."""
    with pytest.raises(ConfigError, match=says):
        make()


def test_the_controls_are_there_on_a_virtual_loop_only() -> None:
    """virtual_loop gives the running loop, and says how to get one where it is of another kind."""

    async def main() -> bool:
        return virtual_loop() is asyncio.get_running_loop()

    assert run_virtual(main)
    with pytest.raises(RuntimeError, match=r"mark\.virtual"):
        asyncio.run(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        virtual_loop()
