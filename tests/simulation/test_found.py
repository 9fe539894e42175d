"""What random schedules have found, once more and by itself."""

from __future__ import annotations

import asyncio
import threading

import pytest

import runcrew as rc
from runcrew import clock, events

pytestmark = pytest.mark.virtual


async def forever() -> None:
    """Goes on until it is cancelled."""
    await asyncio.Event().wait()


def changes(service: rc.Supervisor | rc.OneShot | rc.Interval) -> list[str]:
    """What a service has been, from now on."""
    seen: list[str] = []
    service.subscribe(
        lambda event: seen.append(event.new) if event.service == service.name else None, events.StateChanged
    )
    return seen


class Deaf:
    """A job that heeds no cancellation before it is let go, and then ends as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.let_go = asyncio.Event()
        self.error = error
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        let_go = self.let_go
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        if self.error is not None:
            raise self.error


async def test_a_run_that_would_not_stop_does_not_fail_the_life_that_is_over() -> None:
    """What it raises after it was reported as stuck is told as its outcome, and changes no report."""
    job = Deaf(OSError("late"))
    service = rc.OneShot(job)
    await service.start()
    await asyncio.sleep(1)
    report = await service.stop(1)
    assert 1 == len(report.would_not_stop)
    job.let_go.set()
    await asyncio.sleep(1)
    assert rc.State.STOPPED is service.state
    assert report is await service.wait()
    assert service.outcome is not None
    assert job.error is service.outcome.error


async def test_a_run_that_would_not_stop_does_not_end_the_next_life() -> None:
    """The new life goes on with a run of its own."""
    job = Deaf(OSError("late"))
    service = rc.OneShot(job)
    await service.start()
    await asyncio.sleep(1)
    await service.stop(1)
    let_go, job.let_go = job.let_go, asyncio.Event()
    await service.start()
    await asyncio.sleep(1)
    let_go.set()
    await asyncio.sleep(1)
    assert (2, rc.State.RUNNING) == (job.begun, service.state)
    assert (2, 1) == (service.stats().runs.begun, service.stats().runs.in_flight)
    job.let_go.set()
    with pytest.raises(OSError, match="late"):
        await service.wait()
    assert 2 == service.stats().runs.failed


async def test_a_supervisor_started_by_a_job_below_it_waits_for_its_children_in_peace() -> None:
    """Its own waiting is not taken for that of the job, which would end and restart them for ever."""
    supervisor = rc.Supervisor(name="above", on_failure="restart")
    below = rc.Supervisor(name="below")
    supervisor.add(below)

    async def job() -> None:
        if supervisor.state.over:
            await supervisor.start()
        await forever()

    child = rc.OneShot(job, name="child")
    below.add(child)
    await supervisor.start()
    await supervisor.stop()
    await child.start()
    await asyncio.sleep(30)
    assert rc.State.RUNNING is below.state
    assert {"below": 0} == supervisor.stats().restarts
    await supervisor.stop()


async def test_an_attempt_that_waits_for_its_place_never_begins_once_its_run_was_asked_to_end() -> None:
    """A drain ends the wait at once, and does not run the job when the place is free."""
    places = rc.Concurrency(1)
    begun: list[str] = []
    await places.acquire()

    async def job() -> None:
        begun.append("job")

    service = rc.Interval(job, 10, concurrency=places)
    await service.start()
    await asyncio.sleep(1)
    report = await service.stop()
    assert (0.0, 1) == (report.elapsed, report.never_started)
    places.release()
    assert ([], 0, 0) == (begun, places.in_use, places.waiting)


async def test_hooks_at_the_end_are_called_after_any_life() -> None:
    """Also for a grandchild that did not come to another life when its supervisor was restarted."""
    called: list[str] = []
    lives = 0

    async def first() -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            await asyncio.sleep(1)
            raise OSError("once")
        await forever()

    async def hook() -> None:
        called.append("second")

    below = rc.Supervisor(name="below")
    below.add(rc.OneShot(first, ready="signal" if lives else "started"))
    below.add(rc.OneShot(forever, name="second", delay=1, on_stopped=hook), depends_on=["first"])
    supervisor = rc.Supervisor(name="above", on_failure="restart", backoff=rc.Constant(5))
    supervisor.add(below)
    await supervisor.start()
    await asyncio.sleep(3)
    assert [] == called
    await supervisor.stop()
    assert ["second"] == called


async def test_a_child_that_somebody_starts_by_hand_is_started_once() -> None:
    """Its supervisor joins the life that was begun, also where that is over at once."""
    supervisor = rc.Supervisor(name="above")
    ready = asyncio.Event()

    async def slow() -> None:
        await ready.wait()

    child = rc.Supervisor(name="child")
    supervisor.add(rc.OneShot(slow, ready="succeeded"))
    supervisor.add(child, depends_on=["slow"])
    starting = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1)
    seen = changes(child)
    await child.start()
    await asyncio.sleep(1)
    assert ["starting", "running", "stopping", "stopped"] == seen
    ready.set()
    await starting
    await supervisor.wait()


async def test_a_start_by_hand_that_meets_a_stop_is_no_failure() -> None:
    """A child that is killed while it is being started by hand fails nobody."""
    lives = 0

    async def job() -> None:
        nonlocal lives
        lives += 1
        if lives == 2:
            await child.kill()
            await forever()

    child = rc.OneShot(job, ready="succeeded")
    supervisor = rc.Supervisor(child, name="above", keep_open=True)
    await supervisor.start()
    with pytest.raises(rc.ServiceStopped):
        await child.start()
    await asyncio.sleep(5)
    assert rc.State.RUNNING is supervisor.state
    assert () == (await supervisor.stop()).errors


async def test_a_thread_that_was_given_up_lets_no_time_pass_over_another() -> None:
    """What it waits for after that is its own affair: the call that is wanted still holds time."""
    at_work, end = threading.Event(), threading.Event()

    def heedless() -> None:
        rc.current_run().wait_cancelled()
        clock.current().block(50)

    def busy() -> None:
        at_work.set()
        end.wait(5)

    given_up = rc.OneShot(heedless, timeout=1)
    with pytest.raises(rc.RunTimeout):
        await given_up.run()
    other = rc.OneShot(busy)
    await other.start()
    loop = asyncio.get_running_loop()
    before = loop.time()
    timer = loop.call_later(20, end.set)
    while not at_work.is_set():
        await asyncio.sleep(0)
    threading.Timer(0.05, end.set).start()
    await other.wait()
    assert before == loop.time()
    timer.cancel()
    await asyncio.sleep(60)


async def test_a_stop_keeps_its_order_over_children_that_are_gone() -> None:
    """The one that was added first waits for the last, although the one between them ended long ago."""
    order: list[str] = []

    def child(name: str, takes: float) -> rc.OneShot:
        async def job() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(takes)
                order.append(name)

        return rc.OneShot(job, name=name)

    async def quick() -> None:
        """Over at once."""

    supervisor = rc.Supervisor(child("first", 0), rc.OneShot(quick), child("last", 2))
    await supervisor.start()
    await asyncio.sleep(1)
    await supervisor.stop()
    assert ["last", "first"] == order


@pytest.mark.parametrize("door", ["interval", "oneshot", "supervisor"])
async def test_nothing_begins_once_a_stop_has_begun(door: str) -> None:
    """While hooks announce the stop, there is no tick, no delayed run and no restart."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(asyncio.get_running_loop().time())
        raise OSError("so that it is restarted")

    async def announce() -> None:
        await asyncio.sleep(4)

    service: rc.Interval | rc.OneShot | rc.Supervisor
    if door == "interval":
        service = rc.Interval(job, 2, first="after", on_stopping=announce)
    elif door == "oneshot":
        service = rc.OneShot(job, delay=2, on_stopping=announce)
    else:
        restarted = rc.OneShot(job, on_failure="restart")
        service = rc.Supervisor(restarted, backoff=rc.Constant(2), on_stopping=announce)
    await service.start()
    await asyncio.sleep(1)
    await service.stop()
    assert ([0.0] if door == "supervisor" else []) == begun


async def test_a_removal_that_meets_the_end_of_the_supervisor_raises_nothing() -> None:
    """Whoever waits for a removal hears of its end, not of a cancellation that nobody asked for."""
    called: list[str] = []

    async def hook() -> None:
        called.append("hook")
        await asyncio.sleep(3)

    supervisor = rc.Supervisor(rc.OneShot(forever, name="child", on_stopped=hook), keep_open=True)
    await supervisor.start()
    removal = asyncio.create_task(supervisor.remove("child"))
    await asyncio.sleep(1)
    await supervisor.stop(0)
    report = await removal
    assert report is not None
    assert ["hook"] == called


async def test_nothing_can_depend_on_a_child_that_is_leaving() -> None:
    """It would wait for what is no longer there, and so would the supervisor's stop."""

    async def slow() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(2)

    supervisor = rc.Supervisor(rc.OneShot(slow), keep_open=True)
    await supervisor.start()
    removal = asyncio.create_task(supervisor.remove("slow"))
    await asyncio.sleep(1)
    with pytest.raises(rc.ConfigError, match="slow"):
        supervisor.add(rc.OneShot(forever), depends_on=["slow"])
    await removal
    assert 0.0 == (await supervisor.stop()).elapsed


async def test_a_tick_that_is_still_to_come_is_not_lost_by_a_pause() -> None:
    """Paused and resumed between two ticks, an interval ticks as if nothing had been."""
    ticks: list[float] = []

    async def job() -> None:
        ticks.append(asyncio.get_running_loop().time())

    service = rc.Interval(job, 10)
    await service.start()
    await asyncio.sleep(5)
    service.pause()
    await asyncio.sleep(1)
    service.resume()
    await asyncio.sleep(15)
    await service.stop()
    assert [0.0, 10.0, 20.0] == ticks


async def test_a_trigger_at_the_instant_of_a_tick_takes_nothing_from_the_grid() -> None:
    """The tick that was due when somebody triggered is run right after."""
    causes: list[tuple[float, str]] = []

    async def job() -> None:
        causes.append((asyncio.get_running_loop().time(), rc.current_run().cause))
        await rc.current_run().sleep(1)

    service = rc.Interval(job, 10, first="after")
    asyncio.get_running_loop().call_at(10, service.trigger)
    await service.start()
    await asyncio.sleep(25)
    await service.stop()
    assert [(10.0, "trigger"), (11.0, "tick"), (20.0, "tick")] == causes
    assert 0 == service.stats().missed


async def test_a_backoff_that_fails_gives_the_child_up() -> None:
    """A restart whose pause cannot be told ends the supervisor, with both errors."""

    def broken(_: int) -> float:
        raise ZeroDivisionError("mine")

    async def fails() -> None:
        raise OSError("theirs")

    supervisor = rc.Supervisor(rc.OneShot(fails), on_failure="restart", backoff=broken)  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run()
    assert ["OSError", "ConfigError"] == [type(error).__name__ for error in caught.value.exceptions]
    assert isinstance(caught.value.exceptions[1].__cause__, ZeroDivisionError)


async def test_calls_behind_a_thread_that_waits_for_time_do_not_hold_it() -> None:
    """A pool whose threads all wait for virtual time gets it, however many calls are in its queue."""
    threads = rc.Threads(2, idle=0)
    ended: list[float] = []

    def work(_: int) -> None:
        clock.current().block(1)
        ended.append(asyncio.run_coroutine_threadsafe(now(), loop).result())

    async def now() -> float:
        return loop.time()

    loop = asyncio.get_running_loop()
    for call in [threads.submit(work, number) for number in range(6)]:
        await call
    assert [1.0, 1.0, 2.0, 2.0, 3.0, 3.0] == ended
    threads.shed()


async def test_a_stop_in_the_middle_of_the_last_hooks_keeps_its_own_time() -> None:
    """The end that came before it had more time for them; the earliest limit counts."""

    async def hook() -> None:
        await asyncio.sleep(20)

    async def fails() -> None:
        raise OSError("at once")

    service = rc.OneShot(fails, on_stopped=hook, hooks_timeout=30)
    await service.start()
    await asyncio.sleep(1)
    assert rc.State.STOPPING is service.state
    before = asyncio.get_running_loop().time()
    report = await service.stop(2)
    assert 3.0 == asyncio.get_running_loop().time() - before
    assert ["hook"] == [failed.hook for failed in report.hook_errors]
