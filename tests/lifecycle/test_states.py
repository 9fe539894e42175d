"""The states of a service: every call, in every state, in every order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import ConfigError, NotStarted, ServiceStopped, ServiceStopping
from runcrew.events import StateChanged
from runcrew.lifecycle import BaseService, State


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


async def quick() -> None:
    """Is over at once."""


async def hook() -> None:
    """Takes a second, so that there is a time in which a service stops."""
    await asyncio.sleep(1)


def oneshot(**options: Any) -> BaseService:
    """A job that goes on until a stop."""
    return rc.OneShot(long, **options)


def interval(**options: Any) -> BaseService:
    """An interval between two ticks most of the time."""
    return rc.Interval(quick, "10s", **options)


def supervisor(**options: Any) -> BaseService:
    """One with two children."""
    return rc.Supervisor(rc.OneShot(long, name="a"), rc.Interval(quick, "10s", name="b"), name="top", **options)


def crew(**options: Any) -> BaseService:
    """The same, as a crew with one level more."""
    made = rc.Crew("shop", **options)
    made.add(supervisor())
    made.add(rc.OneShot(long))
    return made


Make = Callable[..., BaseService]
MAKES: tuple[Make, ...] = (oneshot, interval, supervisor, crew)
every_kind = pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)


@every_kind
@pytest.mark.virtual
async def test_a_life(make: Make) -> None:
    """A service is new, starting, running, stopping and stopped, in this order, and each start begins another life."""
    service = make(on_stopping=hook)
    changes: list[str] = []
    service.subscribe(lambda event: changes.append(event.new) if event.service == service.name else None, StateChanged)
    assert (State.NEW, 0, None) == (service.state, service.generation, service.report)
    for life in (1, 2):
        await service.start()
        assert (State.RUNNING, life) == (service.state, service.generation)
        stop = asyncio.create_task(service.stop())
        await asyncio.sleep(0.5)
        assert "stopping" == service.state
        report = await stop
        assert State.STOPPED is service.state
        assert report is service.report
        assert report is await service.wait()
        assert report.clean
    assert ["starting", "running", "stopping", "stopped"] * 2 == changes


@every_kind
@pytest.mark.virtual
async def test_it_can_be_asked_in_every_state(make: Make) -> None:
    """State, stats and report can be looked at whenever anybody likes, and agree."""
    service: Any = make(on_stopping=hook)

    def look(state: str) -> None:
        stats = service.stats()
        assert (state, state, service.generation, service.name) == (
            service.state,
            stats.state,
            stats.generation,
            stats.name,
        )
        assert service.state.over is (service.report is not None)
        assert state in repr(service)

    look("new")
    await service.start()
    look("running")
    stop = asyncio.create_task(service.stop())
    await asyncio.sleep(0.5)
    look("stopping")
    await stop
    look("stopped")


@every_kind
@pytest.mark.virtual
async def test_a_failed_service_can_be_started_again(make: Make) -> None:
    """From failed a start begins a new life in which nothing of the failure is left."""
    fails = [True]

    async def job() -> None:
        if fails:
            raise OSError("once")
        await long()

    service: BaseService = rc.OneShot(job)
    if make is interval:
        service = rc.Interval(job, "1s")
    if make in (supervisor, crew):
        service = (rc.Supervisor if make is supervisor else rc.Crew)()  # type: ignore[operator]
        service.add(rc.OneShot(job))  # type: ignore[attr-defined]
    with pytest.raises((OSError, ExceptionGroup)):
        await service.run()
    assert State.FAILED is service.state
    failed = service.error
    assert failed is not None
    for _ in range(2):
        with pytest.raises(type(failed)) as caught:
            await service.wait()
        assert failed is caught.value
    fails.clear()
    await service.start()
    assert (State.RUNNING, None, 2) == (service.state, service.error, service.generation)
    assert () == (await service.stop()).errors
    assert State.STOPPED is service.state


@every_kind
@pytest.mark.virtual
async def test_before_the_first_start(make: Make) -> None:
    """A service that was never started cannot be waited for, and a stop makes it stopped."""
    service = make()
    with pytest.raises(NotStarted, match=f"{service.name} has not been started"):
        await service.wait()
    report = await service.stop()
    assert State.STOPPED is service.state
    assert (0, 0, 0, True) == (report.finished, report.cancelled, report.never_started, report.clean)
    assert report is await service.wait()
    assert report is await service.kill()


@every_kind
@pytest.mark.virtual
async def test_start_while_running_does_nothing(make: Make) -> None:
    """A second start while it runs returns at once and changes nothing."""
    service = make()
    await service.start()
    await service.start()
    assert 1 == service.generation
    await service.stop()


@every_kind
@pytest.mark.virtual
async def test_start_while_stopping_is_refused(make: Make) -> None:
    """While a service stops it takes no start, and says what to do instead."""
    service = make(on_stopping=hook)
    await service.start()
    stop = asyncio.create_task(service.stop())
    await asyncio.sleep(0.5)
    with pytest.raises(ServiceStopping, match="await its wait"):
        await service.start()
    await stop
    await service.start()
    await service.kill()


@pytest.mark.virtual
async def test_starting_together_is_one_start() -> None:
    """All who start a service at a time wait for the same readiness of the same life."""

    async def job() -> None:
        await asyncio.sleep(3)
        rc.current_run().ready()
        await long()

    service = rc.OneShot(job, ready="signal")
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(service.start() for _ in range(5)))
    assert (3.0, 1) == (loop.time(), service.generation)
    await service.stop()


@pytest.mark.virtual
@pytest.mark.parametrize("call", ["stop", "kill"])
async def test_a_stop_ends_a_start(call: str) -> None:
    """Whoever waits for the start of a service that is stopped first hears of the stop."""
    service = rc.OneShot(long, ready="succeeded")
    starts = [asyncio.create_task(service.start()) for _ in range(2)]
    await asyncio.sleep(1)
    assert State.STARTING is service.state
    await getattr(service, call)()
    for start in starts:
        with pytest.raises(ServiceStopped, match="while it was starting"):
            await start
    assert State.STOPPED is service.state


@pytest.mark.virtual
async def test_a_start_that_is_cancelled_takes_back_what_it_began() -> None:
    """Cancelling the start that began a life ends that life before it returns."""
    service = rc.OneShot(long, ready="succeeded")
    start = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert State.STOPPED is service.state
    assert 1 == len(asyncio.all_tasks())


@pytest.mark.virtual
async def test_cancelling_another_start_ends_only_its_waiting() -> None:
    """Who joined a start that somebody else began may leave again."""
    service = rc.OneShot(long, ready="succeeded")
    first = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    second = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    second.cancel()
    await asyncio.wait([second])
    assert State.STARTING is service.state
    await service.stop()
    with pytest.raises(ServiceStopped):
        await first


@pytest.mark.virtual
async def test_a_start_that_fails_raises_the_error() -> None:
    """What ends a service before it is ready comes out of its start, the very object."""
    error = OSError("no")

    async def job() -> None:
        raise error

    service = rc.OneShot(job, ready="succeeded")
    with pytest.raises(OSError, match="no") as caught:
        await service.start()
    assert error is caught.value
    assert State.FAILED is service.state


CALLS = ("start", "stop", "kill", "wait", "run")


THREE = list(itertools.product(CALLS, repeat=3))


@every_kind
@pytest.mark.virtual
async def test_any_three_calls_one_after_another(make: Make) -> None:
    """In whatever order a service is called, a call returns or raises an error of ours, and a stop ends it all."""
    for calls in THREE:
        service = make()
        for call in calls:
            task = asyncio.create_task(getattr(service, call)())
            await asyncio.wait([task], timeout=5)
            if not task.done():
                assert (call, True) == (call, call in ("wait", "run") and service.state.alive)
                task.cancel()
                await asyncio.wait([task])
                assert (call == "wait") is service.state.alive
            elif task.exception() is not None:
                assert (calls, True) == (calls, isinstance(task.exception(), rc.RuncrewError))
        await stops_at_once(service, calls)


@every_kind
@pytest.mark.virtual
async def test_any_three_calls_at_a_time(make: Make) -> None:
    """Whatever is called at the same moment, nothing hangs: a stop ends the service and all the calls."""
    for calls in THREE:
        service = make(on_stopping=hook)
        tasks = [asyncio.create_task(getattr(service, call)()) for call in calls]
        await asyncio.sleep(0.5)
        await service.stop("5s")
        done, pending = await asyncio.wait(tasks, timeout=1)
        assert (calls, 0) == (calls, len(pending))
        for task in done:
            assert task.exception() is None or isinstance(task.exception(), rc.RuncrewError)
        await stops_at_once(service, calls)


async def stops_at_once(service: BaseService, calls: tuple[str, ...]) -> None:
    """Stop it; nothing is left then, and no time has passed."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    await service.stop()
    assert (calls, "stopped", 0.0) == (calls, service.state, loop.time() - before)
    await asyncio.sleep(0)
    assert (calls, 1) == (calls, len(asyncio.all_tasks()))


@every_kind
@pytest.mark.virtual
async def test_stopping_twice_and_killing_twice(make: Make) -> None:
    """Stop and kill can be repeated, at the same time and later, and all get the report of the one end."""
    service = make(on_stopping=hook)
    await service.start()
    reports = list(await asyncio.gather(service.stop(), service.stop(), service.stop("1s"), service.wait()))
    reports += [await service.stop(), await service.kill(), await service.wait()]
    assert all(service.report is report for report in reports)


@every_kind
@pytest.mark.virtual
async def test_a_kill_cuts_a_stop_short(make: Make) -> None:
    """A kill that comes while a service drains ends it now."""

    async def slow() -> None:
        await asyncio.sleep(4)

    service = make(on_stopping=slow, hooks_timeout="20s")
    await service.start()
    stop = asyncio.create_task(service.stop("1h"))
    await asyncio.sleep(1)
    loop = asyncio.get_running_loop()
    report = await service.kill()
    assert 1.0 == loop.time()
    assert report is await stop


@pytest.mark.virtual
async def test_the_earliest_of_several_limits_counts() -> None:
    """A stop can be brought closer by a later one, and never put off."""

    async def deaf() -> None:
        await asyncio.sleep(1000)

    loop = asyncio.get_running_loop()
    for spans, end in ((("100s", "10s"), 11.0), (("10s", "100s"), 10.0)):
        service = rc.OneShot(deaf, drain="finish")
        await service.start()
        began = loop.time()
        first = asyncio.create_task(service.stop(spans[0]))
        await asyncio.sleep(1)
        second = asyncio.create_task(service.stop(spans[1]))
        await asyncio.wait([first, second])
        assert end == loop.time() - began


@pytest.mark.virtual
async def test_cancelling_who_waits_for_a_stop_ends_only_the_waiting() -> None:
    """The stop goes on although nobody waits for it any more."""

    async def slow() -> None:
        await asyncio.sleep(10)

    service = rc.OneShot(slow, drain="finish")
    await service.start()
    stop = asyncio.create_task(service.stop())
    await asyncio.sleep(1)
    stop.cancel()
    await asyncio.wait([stop])
    assert stop.cancelled()
    assert State.STOPPING is service.state
    assert 1 == (await service.wait()).finished


@pytest.mark.virtual
async def test_cancelling_who_waits_for_the_end_ends_only_the_waiting() -> None:
    """A service does not care whether anybody waits for it."""
    service = rc.OneShot(long)
    await service.start()
    wait = asyncio.create_task(service.wait())
    await asyncio.sleep(1)
    wait.cancel()
    await asyncio.wait([wait])
    assert State.RUNNING is service.state
    await service.stop()


@pytest.mark.parametrize("span", [-1, float("nan"), "soon", None, True])
@pytest.mark.virtual
async def test_a_bad_timeout_is_refused(span: Any) -> None:
    """A stop with a limit that is none does nothing but say so."""
    service = rc.OneShot(long)
    await service.start()
    with pytest.raises(ConfigError, match="timeout: "):
        await service.stop(span)
    assert State.RUNNING is service.state
    await service.stop()


# --- async with, run --------------------------------------------------------------------


@every_kind
@pytest.mark.virtual
async def test_async_with_starts_and_stops(make: Make) -> None:
    """Inside the block it runs, after the block it has ended."""
    service = make()
    async with service as entered:
        assert entered is service
        assert State.RUNNING is service.state
    assert State.STOPPED is service.state


@pytest.mark.virtual
async def test_the_block_raises_what_ended_the_service() -> None:
    """An error that ended the service meanwhile is not lost."""

    async def job() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        async with rc.OneShot(job):
            await asyncio.sleep(1)


@pytest.mark.virtual
async def test_an_error_of_the_block_alone_goes_through() -> None:
    """A block that fails stops its service, and its error comes out as it is."""
    service = rc.OneShot(long)
    with pytest.raises(KeyError):
        async with service:
            raise KeyError
    assert State.STOPPED is service.state


@pytest.mark.virtual
async def test_two_errors_come_out_together() -> None:
    """Where the block and the service both failed, both are told, the block's first."""

    async def job() -> None:
        raise OSError

    with pytest.raises(ExceptionGroup) as caught:
        async with rc.OneShot(job):
            await asyncio.sleep(1)
            raise KeyError
    assert [KeyError, OSError] == [type(error) for error in caught.value.exceptions]


@pytest.mark.virtual
async def test_a_block_that_passes_the_services_error_on() -> None:
    """The error that the block got from the service is not told twice."""

    async def job() -> None:
        raise OSError

    service = rc.OneShot(job)
    with pytest.raises(OSError):
        async with service:
            await service.wait()


@pytest.mark.virtual
async def test_leaving_a_block_by_cancellation_becomes_a_kill() -> None:
    """A second cancellation, while the block's end drains the service, ends it at once."""

    async def slow() -> None:
        await asyncio.sleep(20)

    service = rc.OneShot(slow, drain="finish")

    async def use() -> None:
        async with service:
            await asyncio.sleep(1000)

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(use())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(1)
    assert State.STOPPING is service.state
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (2.0, State.STOPPED) == (loop.time(), service.state)
    assert service.report is not None
    assert 1 == service.report.cancelled


@pytest.mark.virtual
async def test_run_is_start_and_wait() -> None:
    """`run` returns with the report when the service has ended."""
    service = rc.OneShot(lambda: 7)
    report = await service.run()
    assert report is service.report
    assert service.outcome is not None
    assert 7 == service.outcome.value


@pytest.mark.virtual
async def test_cancelling_run_stops_the_service_first() -> None:
    """Whoever cancels a `run` gets the cancellation when the service has stopped."""
    cleaned: list[float] = []
    loop = asyncio.get_running_loop()

    async def job() -> None:
        try:
            await long()
        finally:
            await asyncio.sleep(3)
            cleaned.append(loop.time())

    service = rc.OneShot(job)
    task = asyncio.create_task(service.run())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert ([4.0], 4.0, State.STOPPED) == (cleaned, loop.time(), service.state)


@pytest.mark.virtual
async def test_cancelling_run_again_kills() -> None:
    """The second cancellation has no patience, and still leaves nothing behind."""

    async def slow() -> None:
        await asyncio.sleep(20)

    service = rc.OneShot(slow, drain="finish")
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(service.run())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert (True, 2.0, State.STOPPED) == (task.cancelled(), loop.time(), service.state)


@pytest.mark.virtual
@pytest.mark.parity("T3.45", "T3.61")
@pytest.mark.defect("D3.2", "D3.3")
@pytest.mark.parametrize("how", ["run", "async with", "supervisor"])
async def test_a_cancellation_never_hides_a_real_error(how: str) -> None:
    """A caller that is cancelled gets the error that ended the service, also one that was raised by its clean-up."""
    error = OSError("cannot clean up")

    async def job() -> None:
        try:
            await long()
        finally:
            raise error

    service: BaseService = rc.OneShot(job)
    if how == "supervisor":
        service = rc.Supervisor(service)

    async def use() -> None:
        if how == "async with":
            async with service:
                await long()
        else:
            await service.run()

    task = asyncio.create_task(use())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert not task.cancelled()
    raised = task.exception()
    assert error is (raised.exceptions[0] if isinstance(raised, ExceptionGroup) else raised)
    assert State.FAILED is service.state


@pytest.mark.virtual
@pytest.mark.parity("T3.45", "T3.61", "E3.9")
@pytest.mark.parametrize("how", ["run", "supervisor"])
async def test_a_cancellation_alone_is_no_error_of_the_service(how: str) -> None:
    """A service whose caller was cancelled has not failed; the caller has its own cancellation back."""
    service: BaseService = rc.OneShot(long)
    if how == "supervisor":
        service = rc.Supervisor(service)
    task = asyncio.create_task(service.run())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (State.STOPPED, None) == (service.state, service.error)
    assert service.report is not None
    assert (1, True) == (service.report.cancelled, service.report.clean)


@pytest.mark.virtual
@pytest.mark.parity("T3.61")
async def test_an_error_that_looks_like_a_cancellation_is_an_error() -> None:
    """What tells a cancellation is whether we asked for it, not what the error looks like."""

    async def job() -> None:
        raise OSError("wraps one") from asyncio.CancelledError()

    with pytest.raises(OSError, match="wraps one"):
        await rc.OneShot(job).run()

    async def raises_one() -> None:
        raise asyncio.CancelledError("my own")

    with pytest.raises(rc.JobCrashed) as caught:
        await rc.OneShot(raises_one).run()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


@pytest.mark.virtual
async def test_waiting_for_an_old_life_gives_its_end() -> None:
    """Whoever waited for a life that has been followed by another sees how that one ended."""
    fails = [OSError("first life")]

    async def job() -> None:
        if fails:
            raise fails.pop()
        await long()

    service = rc.OneShot(job)
    await service.start()
    waits = [asyncio.create_task(service.wait()) for _ in range(2)]
    with pytest.raises(OSError):
        await service.wait()
    await service.start()
    for wait in waits:
        with pytest.raises(OSError, match="first life"):
            await wait
    assert State.RUNNING is service.state
    await service.stop()


@pytest.mark.virtual
async def test_an_error_can_be_raised_again_and_again() -> None:
    """Each waiter gets the same object with the traceback of the failure, not one that grows."""

    async def job() -> None:
        raise OSError

    service = rc.OneShot(job)
    depths = []
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            await (service.wait() if depths else service.run())
        depths.append(len(caught.traceback))
    assert depths[1] == depths[2]


def test_a_service_says_what_it_is() -> None:
    """Its repr has the kind, the name and the state."""
    assert "<Interval poll: new>" == repr(rc.Interval(long, 1, name="poll"))
