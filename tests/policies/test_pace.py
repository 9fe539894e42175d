"""Pace: a rate gate on a grid that nothing shifts, and a pause after each run; in order, whatever is cancelled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcrew as rc
from runcrew.abc import Handler
from runcrew.job import Job, Run, Status
from runcrew.testing import cancel_everywhere, run_virtual


class Begun:
    """A job that notes when it began, by the loop's time."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.names: list[object] = []

    async def __call__(self, takes: float = 0.0, name: object = None) -> None:
        """Take that long."""
        self.at.append(asyncio.get_running_loop().time())
        self.names.append(name)
        await asyncio.sleep(takes)


def timers() -> list[asyncio.TimerHandle]:
    """The timers of the running loop that are not cancelled."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]


# --- the rate gate -------------------------------------------------------------------


@pytest.mark.defect("D4.14")
@pytest.mark.virtual
async def test_a_rate_gate_begins_runs_at_a_fixed_rate() -> None:
    """With `every` runs begin on the grid, however long each of them takes below that."""
    begun = Begun()
    paced = rc.wrap(begun, rc.Pace(every="1s"))
    for takes in (0.0, 0.9, 0.5, 0.0):
        await paced(takes)
    assert [0.0, 1.0, 2.0, 3.0] == begun.at


@pytest.mark.parity("T4.44")
@pytest.mark.virtual
async def test_a_long_run_is_followed_at_once_by_one() -> None:
    """After a run of 3.5 spans the next begins at once, the one after that on the grid: passes do not accumulate."""
    begun = Begun()
    paced = rc.wrap(begun, rc.Pace(every=1))
    for takes in (3.5, 0.0, 0.0, 0.0):
        await paced(takes)
    assert [0.0, 3.5, 4.0, 5.0] == begun.at


@pytest.mark.virtual
async def test_what_nobody_took_is_one_place() -> None:
    """After a time without runs one begins at once, and the rest on the grid of the first."""
    begun = Begun()
    paced = rc.wrap(begun, rc.Pace(every=1))
    await paced()
    await asyncio.sleep(10.25)
    await asyncio.gather(*(paced() for _ in range(3)))
    assert [0.0, 10.25, 11.0, 12.0] == begun.at


@pytest.mark.parity("T4.43", "E4.17")
@pytest.mark.parametrize("wait", ["every", "pause"])
@pytest.mark.virtual
async def test_the_first_run_may_wait_too(wait: str) -> None:
    """With first="after" the first run waits one span, and begins exactly then; otherwise it begins at once."""
    for first, at in (("after", 0.1), ("now", 0.0)):
        begun, now = Begun(), asyncio.get_running_loop().time()
        options: dict[str, Any] = {wait: "100ms", "first": first}
        paced = rc.wrap(begun, rc.Pace(**options))
        await paced()
        await paced()
        assert [now + at, now + at + 0.1] == begun.at


@pytest.mark.parity("T4.45", "E4.17")
@pytest.mark.parametrize("wait", ["every", "pause"])
@pytest.mark.virtual
async def test_zero_is_no_wait(wait: str) -> None:
    """With a span of zero all runs begin at once, also those that are under way together."""
    options: dict[str, Any] = {wait: 0, "first": "after"}
    begun = Begun()
    paced = rc.wrap(begun, rc.Pace(**options))
    await asyncio.gather(*(paced(1.0) for _ in range(5)))
    assert [0.0] * 5 == begun.at


@pytest.mark.parity("T4.47")
@pytest.mark.virtual
async def test_one_instance_is_one_gate_first_come_first_served() -> None:
    """All who use one Pace, workers of a queue and others, share its rate, in the order in which they came."""
    begun, pace = Begun(), rc.Pace(every="1s")
    async with rc.Queue("paced", workers=3, middleware=[pace]) as queue:
        tickets = [await queue.submit(begun, 0.1, n) for n in range(4)]
        await asyncio.sleep(0)
        other = asyncio.create_task(rc.wrap(begun, pace)(0.1, "other"))
        await asyncio.gather(*tickets, other)
    assert [0.0, 1.0, 2.0, 3.0, 4.0] == begun.at
    assert [0, 1, 2, "other", 3] == begun.names


# --- the pause -------------------------------------------------------------------------


@pytest.mark.defect("D4.14")
@pytest.mark.virtual
async def test_a_pause_counts_from_the_end_of_the_last_run() -> None:
    """With `pause` the next run begins that long after the last one ended, however long it took, however it ended."""
    begun = Begun()

    async def fails() -> None:
        begun.at.append(asyncio.get_running_loop().time())
        raise ValueError

    pace = rc.Pace(pause="1s")
    paced, failing = rc.wrap(begun, pace), rc.wrap(fails, pace)
    await paced(0.5)
    await paced(3.0)
    with pytest.raises(ValueError):
        await failing()
    await paced()
    await asyncio.sleep(10)
    await paced()
    assert [0.0, 1.5, 5.5, 6.5, 16.5] == begun.at


@pytest.mark.virtual
async def test_with_a_common_pause_one_is_under_way_at_a_time() -> None:
    """Shared by several, a pause lies between any two runs, in the order in which they came."""
    begun, pace = Begun(), rc.Pace(pause=1)
    tasks = [asyncio.create_task(rc.wrap(begun, pace)(2.0, n)) for n in range(3)]
    await asyncio.wait(tasks)
    assert ([0.0, 3.0, 6.0], [0, 1, 2]) == (begun.at, begun.names)


@pytest.mark.virtual
async def test_a_run_that_waits_for_its_own_end_is_refused() -> None:
    """A job that calls a job behind the same pause would wait for itself, and gets an error; a rate is no trouble."""
    pace, rate = rc.Pace(pause=1), rc.Pace(every=1)
    inner = Begun()

    def outer(gate: rc.Pace) -> Callable[[], Awaitable[None]]:
        async def job() -> None:
            await rc.wrap(inner, gate)()

        return rc.wrap(job, gate)

    with pytest.raises(rc.WouldDeadlock, match="behind the same pace"):
        await outer(pace)()
    await outer(rate)()
    assert [1.0] == inner.at
    await rc.wrap(inner, pace)()  # and the gate works as before
    assert [1.0, 1.0] == inner.at


# --- cancelled, or asked to end ------------------------------------------------------


@pytest.mark.parity("T4.46", "E4.18")
@pytest.mark.parametrize("wait", ["every", "pause"])
@pytest.mark.virtual
async def test_cancelled_while_it_waits_it_never_runs(wait: str) -> None:
    """A run that is cancelled at the gate does not begin, not even later; whoever asked gets the cancellation."""
    options: dict[str, Any] = {wait: "1s", "first": "after"}
    begun, counter = Begun(), rc.Counter()
    task = asyncio.create_task(rc.wrap(begun, counter, rc.Pace(**options))())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (1, 0) == (counter.cancelled, counter.running)
    await asyncio.sleep(5)
    assert [] == begun.at


@pytest.mark.virtual
async def test_who_leaves_the_line_does_not_shift_the_others() -> None:
    """The place of a cancelled run is that of the next one, so the rate stays what it is."""
    begun = Begun()
    paced = rc.wrap(begun, rc.Pace(every=1))
    tasks = [asyncio.create_task(paced(0.0, n)) for n in range(6)]
    await asyncio.sleep(0.5)
    for n in (1, 3, 5):
        tasks[n].cancel()
    await asyncio.wait(tasks)
    assert ([0.0, 1.0, 2.0], [0, 2, 4]) == (begun.at, begun.names)


@pytest.mark.parametrize("wait", ["every", "pause"])
@pytest.mark.defect("D4.13")
@pytest.mark.virtual
async def test_cancelled_in_the_turn_in_which_it_is_let_through(wait: str) -> None:
    """When the gate opens and the cancellation comes at the same time, the job does not run: the next one does."""
    options: dict[str, Any] = {wait: 1, "first": "after"}
    begun, loop = Begun(), asyncio.get_running_loop()
    paced = rc.wrap(begun, rc.Pace(**options))
    for _ in range(10):
        now = loop.time()
        tasks: list[asyncio.Task[None]] = []
        loop.call_at(now + 1, lambda: tasks[0].cancel())  # noqa: B023 - before the gate's timer
        tasks += [asyncio.create_task(paced(0.0, n)) for n in range(2)]
        await asyncio.sleep(0)
        loop.call_at(now + 1, lambda: tasks[0].cancel())  # noqa: B023 - after it
        await asyncio.wait(tasks)
        assert ([now + 1], [1]) == (begun.at, begun.names)
        assert tasks[0].cancelled()
        begun.at.clear()
        begun.names.clear()


@pytest.mark.parametrize("wait", ["every", "pause"])
@pytest.mark.virtual
async def test_let_through_and_cancelled_the_next_one_has_the_place(wait: str) -> None:
    """A run that was let through and is cancelled before it could go on gives its place to the next one, at once."""
    options: dict[str, Any] = {wait: 1, "first": "after"}
    begun, loop = Begun(), asyncio.get_running_loop()
    pace = rc.Pace(**options)
    paced = rc.wrap(begun, pace)
    tasks = [asyncio.create_task(paced(0.0, n)) for n in range(2)]
    await asyncio.sleep(0)
    gate: Any = pace._gate
    loop.call_at(1.0, lambda: (gate._look(1.0), tasks[0].cancel()))
    await asyncio.wait(tasks)
    assert ([1.0], [1]) == (begun.at, begun.names)
    await paced()
    assert 2.0 == begun.at[-1]


@pytest.mark.parametrize("wait", ["every", "pause"])
@pytest.mark.defect("D4.13")
@pytest.mark.virtual
async def test_nothing_is_left_wherever_it_is_cancelled(wait: str) -> None:
    """Cancelled anywhere, a run leaves no timer and nobody in the line, and the next run finds the gate open."""
    options: dict[str, Any] = {wait: 1, "first": "after"}
    begun = Begun()
    pace = rc.Pace(**options)

    async def make() -> None:
        nonlocal pace
        pace = rc.Pace(**options)
        await rc.wrap(begun, pace)(0.5)

    async def check(task: asyncio.Task[Any]) -> None:
        assert ([], 0) == (timers(), pace.waiting)
        before = asyncio.get_running_loop().time()
        await rc.wrap(begun, pace)()
        assert begun.at[-1] <= before + 1.5

    assert 2 == await cancel_everywhere(make, check)


@pytest.mark.virtual
async def test_nobody_barges_in_before_the_line() -> None:
    """A run that comes when the gate has just opened, and the first in the line has not noticed, waits behind it."""
    begun, pace, loop = Begun(), rc.Pace(every=1, first="after"), asyncio.get_running_loop()
    barged: list[bool] = []

    def comes() -> None:
        run, handler = paced_run(pace, begun)
        steps: Any = handler(run)
        steps.send(None)
        barged.append(1.0 in begun.at)
        steps.close()

    loop.call_at(1.0, comes)  # before the gate's own timer
    await rc.wrap(begun, pace)()
    assert ([False], [1.0]) == (barged, begun.at)


@pytest.mark.virtual
async def test_the_timer_goes_with_the_last_who_waits() -> None:
    """There is one timer for all who wait, none when nobody does, and one again for whoever comes then."""
    pace = rc.Pace(every=10)
    paced = rc.wrap(Begun(), pace)
    await paced()
    tasks = [asyncio.create_task(paced()) for _ in range(3)]
    await asyncio.sleep(0)
    assert (1, 3) == (len(timers()), pace.waiting)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert ([], 0) == (timers(), pace.waiting)
    await paced()
    assert ([], 10.0) == (timers(), asyncio.get_running_loop().time())


def paced_run(pace: rc.Pace, begun: Begun) -> tuple[Run, Handler]:
    """A run of `begun`, and what carries it out at this pace."""
    from runcrew.backends import LoopBackend

    return Run(Job(begun, "work")), pace(LoopBackend().handle)


@pytest.mark.parity("T4.46")
@pytest.mark.defect("D4.13")
@pytest.mark.parametrize("span", [0, 1])
@pytest.mark.virtual
async def test_a_run_that_is_to_end_does_not_begin(span: float) -> None:
    """Asked to end before it came to the gate, a run ends as that, also where the gate is open or there is no wait."""
    begun = Begun()
    run, handler = paced_run(rc.Pace(every=span), begun)
    run.ask_to_end(Status.INTERRUPTED, "the service stops")
    outcome = await handler(run)
    assert (Status.INTERRUPTED, "the service stops", None, []) == (
        outcome.status, outcome.reason, outcome.started, begun.at
    )  # fmt: skip


@pytest.mark.parametrize("wait", ["every", "pause"])
@pytest.mark.virtual
async def test_a_stop_ends_the_wait_at_once(wait: str) -> None:
    """Asked to end while it waits, a run is interrupted there and then, and the next one has its place."""
    options: dict[str, Any] = {wait: 10, "first": "after"}
    begun, pace, loop = Begun(), rc.Pace(**options), asyncio.get_running_loop()
    run, handler = paced_run(pace, begun)
    task = asyncio.ensure_future(handler(run))
    following = asyncio.create_task(rc.wrap(begun, pace)())
    await asyncio.sleep(4)
    run.ask_to_end(Status.INTERRUPTED, "the service stops")
    assert run.wake is not None
    run.wake()
    run.wake()  # more than once is as good
    outcome = await task
    assert (Status.INTERRUPTED, None, 4.0) == (outcome.status, outcome.started, loop.time())
    assert "wake" not in vars(run) or vars(run)["wake"] is None
    await following
    assert [10.0] == begun.at


@pytest.mark.parametrize("order", ["woken first", "let through first"])
@pytest.mark.virtual
async def test_asked_to_end_in_the_turn_in_which_it_is_let_through(order: str) -> None:
    """When gate and stop come at the same time, the job does not run, and its place is the next one's."""
    begun, pace, loop = Begun(), rc.Pace(every=1, first="after"), asyncio.get_running_loop()
    run, handler = paced_run(pace, begun)
    task = asyncio.ensure_future(handler(run))
    following = asyncio.create_task(rc.wrap(begun, pace)())
    await asyncio.sleep(0)
    gate: Any = pace._gate

    def both() -> None:
        assert run.wake is not None
        wake = run.wake
        if order == "let through first":
            gate._look(1.0)
        run.ask_to_end(Status.INTERRUPTED)
        wake()
        gate._look(1.0)

    loop.call_at(1.0, both)
    outcome = await task
    await following
    assert (Status.INTERRUPTED, [1.0]) == (outcome.status, begun.at)


@pytest.mark.virtual
async def test_waiting_is_no_work() -> None:
    """While it waits at the gate a run says that it is idle, and only then; whoever hears of it may end it."""
    begun, pace, said = Begun(), rc.Pace(every=1), list[tuple[float, bool]]()
    loop = asyncio.get_running_loop()
    for _ in range(2):
        run, handler = paced_run(pace, begun)
        run.on_idle = lambda idle: said.append((loop.time(), idle))
        await handler(run)
    assert [(0.0, True), (1.0, False)] == said

    def ends(idle: bool) -> None:
        if not idle:
            raise asyncio.CancelledError

    run, handler = paced_run(pace, begun)
    run.on_idle = ends
    following = asyncio.create_task(rc.wrap(begun, pace)())
    with pytest.raises(asyncio.CancelledError):
        await handler(run)
    await following
    assert [0.0, 1.0, 2.0] == begun.at


@pytest.mark.virtual
async def test_an_interval_stops_in_the_middle_of_a_wait() -> None:
    """A service whose run waits at the gate stops at once, and the run has not begun."""
    begun = Begun()
    interval = rc.Interval(begun, "1s", middleware=[rc.Pace(every="1h")])
    async with interval:
        await asyncio.sleep(10)
    assert ([0.0], 10.0) == (begun.at, asyncio.get_running_loop().time())
    assert 1 == interval.stats().runs.interrupted


# --- loops ----------------------------------------------------------------------------


def test_it_begins_anew_on_another_loop() -> None:
    """When its loop is closed, the gate may be used on another one, where the first run begins at once again."""
    begun = Begun()
    paced = rc.wrap(begun, rc.Pace(every=1))

    async def main() -> None:
        await paced()
        await paced()

    run_virtual(main)
    run_virtual(main)
    assert [0.0, 1.0, 0.0, 1.0] == begun.at


@pytest.mark.virtual
async def test_it_is_for_one_loop_at_a_time() -> None:
    """On a second loop, while the first is there, a run gets an error that says what to do."""
    paced = rc.wrap(Begun(), rc.Pace(every=1))
    await paced()

    def elsewhere() -> None:
        asyncio.run(paced())

    with pytest.raises(rc.WrongLoop, match="make one for each loop"):
        await asyncio.get_running_loop().run_in_executor(None, elsewhere)


def test_a_wait_that_is_thrown_away_leaves_nothing() -> None:
    """A loop that is closed with a run at the gate takes nothing with it: the gate is as new on the next one."""
    begun = Begun()
    pace = rc.Pace(every=1, first="after")
    paced = rc.wrap(begun, pace)

    async def main() -> None:
        waiting.append(asyncio.ensure_future(paced()))
        await asyncio.sleep(0.5)

    waiting: list[Any] = []
    run_virtual(main)
    waiting.clear()

    async def again() -> None:
        await paced()

    run_virtual(again)
    assert [1.0] == begun.at


# --- what it is given ------------------------------------------------------------------


@pytest.mark.parity("T4.45")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give one of both"),
        ({"every": None}, "give one of both"),
        ({"every": 1, "pause": 1}, "every=1, pause=1: give one of both"),
        ({"every": -1}, "every: -1 is negative"),
        ({"pause": "soon"}, "pause: 'soon' does not parse"),
        ({"every": math.nan}, "every: nan"),
        ({"every": 1, "first": "later"}, "first='later' is none of 'now', 'after'"),
        ({"every": 1, "first": []}, "first="),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    """One of both spans has to be given, and be one; the message names the value and what to give."""
    with pytest.raises(rc.ConfigError, match=said):
        rc.Pace(**options)


def test_it_says_what_it_is() -> None:
    """Its text names the kind and the span."""
    assert "<pace (every 1s)>" == repr(rc.Pace(every="1s"))
    assert "<pace (pause 250ms, the first too)>" == repr(rc.Pace(pause=0.25, first="after"))


# --- against a model --------------------------------------------------------------------


def ticker(every: float, arrivals: list[tuple[float, float]], stays: list[bool]) -> Iterator[float]:
    """When runs begin that come in this order, by a clock that ticks into a box for one tick."""
    taken = -1
    free = 0.0
    for (at, _), stay in zip(arrivals, stays, strict=True):
        if not stay:
            continue
        now = max(at, free)
        passed = math.floor(now / every)
        taken = max(taken + 1, passed)
        free = max(now, taken * every)
        yield free


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([0.25, 0.5, 1.0, 4.0]),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
)
def test_it_does_what_a_ticker_would(every: float, plan: list[tuple[int, int, bool]]) -> None:
    """Whenever runs come, whatever they take, whoever leaves the line: the others begin as by a ticker of one tick."""
    # Who leaves the line does so before the next tick.
    arrivals = sorted((step * 0.5 + 0.125, takes * 0.5) for step, takes, _ in plan)
    stays: list[bool] = []
    begun, pace = Begun(), rc.Pace(every=every)

    async def main() -> None:
        paced = rc.wrap(begun, pace)
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        await asyncio.sleep(arrivals[0][0])
        for (at, takes), (_, _, leaves) in zip(arrivals, plan, strict=True):
            await asyncio.sleep(at - loop.time())
            in_line = pace.waiting
            tasks.append(asyncio.create_task(paced(takes)))
            await asyncio.sleep(0)
            stays.append(not (leaves and pace.waiting > in_line))
            if not stays[-1]:
                loop.call_later(0.03125, tasks[-1].cancel)
        await asyncio.wait(tasks)

    run_virtual(main)
    start = arrivals[0][0]
    moved = [(at - start, takes) for at, takes in arrivals]
    assert [start + at for at in ticker(every, moved, stays)] == begun.at
