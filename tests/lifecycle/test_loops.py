"""One life lives on one loop: calls from elsewhere, loops that are closed without a stop, foreign task factories."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import WrongLoop
from runcrew.lifecycle import BaseService, State
from runcrew.testing import run_virtual


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


async def quick() -> None:
    """Is over at once."""


def oneshot() -> BaseService:
    """A job that goes on until a stop."""
    return rc.OneShot(long)


def interval() -> BaseService:
    """An interval between two ticks most of the time."""
    return rc.Interval(quick, "10s")


def busy() -> BaseService:
    """An interval that is always at work."""
    return rc.Interval(long, "10s")


def supervisor() -> BaseService:
    """A tree."""
    return rc.Supervisor(
        rc.OneShot(long, name="a"),
        rc.Supervisor(rc.Interval(quick, "10s"), rc.OneShot(long, name="b"), name="nested"),
        on_stopped=quick,
        on_stopping=quick,
    )


Make = Callable[[], BaseService]
every_kind = pytest.mark.parametrize("make", [oneshot, interval, busy, supervisor], ids=lambda make: make.__name__)


# --- from elsewhere ---------------------------------------------------------------------


@every_kind
@pytest.mark.virtual
async def test_a_call_on_another_loop_is_refused(make: Make) -> None:
    """A service that lives refuses every call on another loop, and names the remedy."""
    service = make()
    await service.start()

    def elsewhere() -> None:
        for call in ("start", "stop", "kill", "wait", "run"):
            with pytest.raises(WrongLoop, match="run_coroutine_threadsafe"):
                asyncio.run(getattr(service, call)())

    await asyncio.to_thread(elsewhere)
    assert State.RUNNING is service.state
    await service.stop()


@pytest.mark.virtual
async def test_a_plain_call_in_a_thread_is_refused() -> None:
    """Where there is no loop at all, the calls that need none say the same."""
    poll = rc.Interval(quick, "10s")
    top = rc.Supervisor(poll)
    await top.start()

    def in_thread() -> None:
        calls: list[Callable[[], Any]] = [poll.pause, poll.resume, poll.trigger, lambda: top.add(rc.OneShot(long))]
        for call in calls:
            with pytest.raises(WrongLoop, match="another event loop"):
                call()
        assert "quick" in top
        assert ("running", "running") == (poll.state, top.stats().state)

    await asyncio.to_thread(in_thread)
    await top.stop()


@every_kind
@pytest.mark.virtual
async def test_a_thread_may_ask_on_the_right_loop(make: Make) -> None:
    """The remedy that the error names works."""
    service = make()
    await service.start()
    loop = asyncio.get_running_loop()
    report = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(service.kill(), loop).result())
    assert report is service.report


@every_kind
def test_a_service_is_made_on_no_loop_and_lives_on_one_after_another(make: Make) -> None:
    """Nothing binds to a loop before the start, and after the end the next life may be on another."""
    service = make()

    async def life() -> None:
        async with service:
            await asyncio.sleep(1)

    run_virtual(life)
    asyncio.run(kill_soon(service))
    run_virtual(life)
    assert (State.STOPPED, 3) == (service.state, service.generation)


async def kill_soon(service: BaseService) -> None:
    """A life on a real loop."""
    await service.start()
    await service.kill()


@pytest.mark.virtual
async def test_after_its_end_a_service_answers_everywhere() -> None:
    """What has ended is bound to no loop: its report can be had on any."""
    service = rc.OneShot(quick)
    report = await service.run()

    def elsewhere() -> list[Any]:
        return [asyncio.run(getattr(service, call)()) for call in ("stop", "kill", "wait")]

    assert [report] * 3 == await asyncio.to_thread(elsewhere)


# --- a loop that is closed without a stop -------------------------------------------------


def left_running(service: BaseService, wait: float) -> Callable[[], Any]:
    """A main function that forgets to stop."""

    async def main() -> None:
        await service.start()
        await asyncio.sleep(wait)

    return main


@every_kind
@pytest.mark.parametrize("wait", [0, 1])
def test_a_loop_that_ends_without_a_stop_leaves_no_noise(
    make: Make, wait: float, loop_errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever forgets to stop a service loses nothing but its clean end: no task is begun on a loop that goes down."""
    service = make()
    run_virtual(left_running(service, wait))
    gc.collect()
    assert ([], []) == (loop_errors, [r.message for r in caplog.records if r.levelname == "ERROR"])


@every_kind
@pytest.mark.realtime
def test_the_same_on_a_real_loop(make: Make, loop_errors: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """`asyncio.run` goes down as quietly."""
    service = make()
    asyncio.run(left_running(service, 0.01)())
    gc.collect()
    assert ([], []) == (loop_errors, [r.message for r in caplog.records if r.levelname == "ERROR"])


@every_kind
@pytest.mark.parametrize("call", ["start", "stop", "kill", "wait", "run"])
def test_a_life_whose_loop_is_gone_is_over(make: Make, call: str) -> None:
    """The first call on another loop settles the old life: a start begins a new one, all else gets its report."""
    service = make()
    run_virtual(left_running(service, 1))

    async def again() -> None:
        task = asyncio.create_task(getattr(service, call)())
        await asyncio.sleep(5)
        if call in ("start", "run"):
            assert (State.RUNNING, 2) == (service.state, service.generation)
            await service.stop()
        assert State.STOPPED is service.state
        assert task.done()

    run_virtual(again)
    assert service.report is not None
    assert () == service.report.would_not_stop


def test_a_run_whose_loop_is_gone_was_interrupted() -> None:
    """What was under way on a loop that was torn down counts as interrupted, and is not the job's fault."""
    service = rc.OneShot(long)
    run_virtual(left_running(service, 1))

    async def look() -> None:
        report = await service.stop()
        assert (1, 0.0, ()) == (report.cancelled, report.elapsed, report.errors)

    run_virtual(look)
    stats = service.stats()
    assert (1, 0, State.STOPPED) == (stats.runs.interrupted, stats.runs.in_flight, stats.state)


@pytest.mark.parametrize("kind", ["oneshot", "supervisor", "hooks"])
def test_a_loop_that_goes_down_in_the_middle_of_a_stop(kind: str, loop_errors: list[str]) -> None:
    """Also while a stop is under way, an end of the loop leaves nothing pending, and the next life is a new one."""

    async def slow() -> None:
        await asyncio.sleep(60)

    options: Any = {"on_stopped": slow, "hooks_timeout": "90s"} if kind == "hooks" else {}
    service: Any = rc.OneShot(slow, drain="finish", **options)
    if kind == "supervisor":
        service = rc.Supervisor(service, rc.OneShot(slow, name="b", drain="finish"))

    async def main() -> None:
        await service.start()
        stop = asyncio.create_task(service.stop("100s"))
        await asyncio.sleep(61 if kind == "hooks" else 1)
        assert State.STOPPING is service.state
        assert not stop.done()

    run_virtual(main)

    async def again() -> None:
        await service.start()
        assert 2 == service.generation
        await service.kill()

    run_virtual(again)
    gc.collect()
    assert [] == loop_errors


@pytest.mark.realtime
def test_a_loop_that_is_closed_without_a_word() -> None:
    """A loop that was closed with everything pending on it, as nobody should, does not keep a service from another."""
    service = rc.Supervisor(rc.Interval(quick, "10s"), rc.OneShot(long, name="a"))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(service.start())
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def again() -> None:
        await service.start()
        await service.kill()

    asyncio.run(again())
    assert (State.STOPPED, 2) == (service.state, service.generation)


# --- somebody else cancels ----------------------------------------------------------------


def storm() -> None:
    """Cancel every task but the present one."""
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


@pytest.mark.virtual
async def test_a_run_that_was_cancelled_from_outside_has_failed() -> None:
    """Where nobody of ours cancelled a job, its end is an error and is told."""
    service = rc.OneShot(long)
    await service.start()
    await asyncio.sleep(1)
    storm()
    with pytest.raises(rc.JobCrashed) as caught:
        await service.wait()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert "from outside" in (service.outcome.reason if service.outcome else "")


@pytest.mark.virtual
async def test_an_idle_interval_survives_a_storm() -> None:
    """Where no task is at work there is none to cancel, and the next tick comes."""
    service = rc.Interval(quick, "10s")
    await service.start()
    await asyncio.sleep(5)
    storm()
    await asyncio.sleep(10)
    assert (2, State.RUNNING) == (service.stats().runs.succeeded, service.state)
    await service.stop()


@pytest.mark.virtual
@pytest.mark.parametrize("on_failure", ["stop", "isolate", "restart"])
async def test_a_supervisor_survives_a_storm(on_failure: Any) -> None:
    """A supervisor whose tasks were cancelled knows of all its children again, and a stop leaves none behind."""
    idle = rc.Interval(quick, "10s", name="idle", on_failure=on_failure)
    hit = rc.OneShot(long, name="hit", on_failure=on_failure)
    nested = rc.Supervisor(rc.Interval(quick, "10s", name="deep"), name="nested")
    top = rc.Supervisor(idle, hit, nested, keep_open=True)
    await top.start()
    await asyncio.sleep(5)
    storm()
    await asyncio.sleep(20)
    if on_failure == "stop":
        assert State.FAILED is top.state
    else:
        assert [State.RUNNING] * 3 == [top.state, idle.state, nested.state]
        assert ("running" if on_failure == "restart" else "failed") == hit.state
        await top.stop()
    assert all(service.state.over for service in (top, idle, hit, nested))
    assert 1 == len(asyncio.all_tasks())


@pytest.mark.virtual
@pytest.mark.parametrize("moment", [0.0, 0.5, 1.5, 2.5])
async def test_a_stop_survives_a_storm(moment: float) -> None:
    """A stop whose task was cancelled by somebody else is brought to its end, in whatever phase it was."""

    async def stopping() -> None:
        await asyncio.sleep(1)

    async def job() -> None:
        await asyncio.sleep(2)

    async def stopped() -> None:
        await asyncio.sleep(1)

    service = rc.OneShot(job, drain="finish", on_stopping=stopping, on_stopped=[quick, stopped])
    await service.start()
    stop = asyncio.ensure_future(asyncio.shield(asyncio.ensure_future(service.stop())))
    await asyncio.sleep(moment)
    for task in asyncio.all_tasks():
        if task.get_name().endswith("-stop"):
            task.cancel()
    report = await stop
    assert service.state.over
    assert report is service.report
    cut = {0.5: ["stopping"], 2.5: ["stopped"]}.get(moment, [])
    assert cut == [failed.hook for failed in report.hook_errors]


@pytest.mark.virtual
async def test_a_start_survives_a_storm() -> None:
    """A supervisor whose children are cancelled while they start fails, and leaves none behind."""
    slow = rc.OneShot(long, name="slow", ready="succeeded")
    waits = rc.OneShot(long, name="waits")
    top = rc.Supervisor(slow)
    top.add(waits, depends_on=["slow"])
    start = asyncio.create_task(top.start())
    await asyncio.sleep(1)
    for task in asyncio.all_tasks():
        if task not in (start, asyncio.current_task()):
            task.cancel()
    with pytest.raises(ExceptionGroup):
        await start
    await asyncio.sleep(1)
    assert ("failed", True, "new") == (top.state, slow.state.over, waits.state)
    assert 1 == len(asyncio.all_tasks())


# --- other ways to make tasks -------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@every_kind
@pytest.mark.virtual
async def test_an_eager_task_factory_changes_nothing(make: Make) -> None:
    """A loop whose tasks take their first step at once runs services as any other."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    service = make()
    service.subscribe(lambda event: None)
    for _ in range(2):
        await service.start()
        assert State.RUNNING is service.state
        await asyncio.sleep(1)
        await service.kill()
        assert State.STOPPED is service.state


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.virtual
async def test_a_job_that_stops_its_service_in_its_first_step_of_an_eager_loop() -> None:
    """Also there the stop finds the run that asks for it."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]

    async def job() -> None:
        await service.stop()
        await long()

    service = rc.OneShot(job)
    report = await service.run()
    assert 1 == report.cancelled


@pytest.mark.realtime
def test_several_loops_in_several_threads() -> None:
    """Services of one process may live on different loops, each on its own."""

    def life(n: int) -> None:
        async def main() -> None:
            async with rc.Supervisor(rc.Interval(quick, "1ms"), name=str(n)):
                await asyncio.sleep(0.02)

        asyncio.run(main())

    threads = [threading.Thread(target=life, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
