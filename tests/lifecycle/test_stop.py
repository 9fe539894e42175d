"""What a stop does with the work: drain, cut, report; and that it keeps its time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import runcrew as rc
from runcrew import clock
from runcrew.job import Status, current_run
from runcrew.lifecycle import State, StopReport
from runcrew.lifecycle.service import GRACE
from runcrew.testing import run_virtual


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def started(service: Any, after: float = 1.0) -> float:
    """Start it, let some time pass, and give the time."""
    await service.start()
    await asyncio.sleep(after)
    return now()


def counts(report: StopReport) -> tuple[int, int, int, int]:
    """Finished, cancelled, never started, would not stop."""
    return report.finished, report.cancelled, report.never_started, len(report.would_not_stop)


# --- OneShot ----------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_oneshot_is_cancelled_and_has_the_time_left_to_clean_up() -> None:
    """A stop cancels the run of a OneShot at once; its clean-up may take as long as the stop."""
    cleaned: list[float] = []

    async def job() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(8)
            cleaned.append(now())

    service = rc.OneShot(job)
    began = await started(service)
    report = await service.stop("10s")
    assert [began + 8] == cleaned
    assert ((0, 1, 0, 0), 8.0) == (counts(report), report.elapsed)
    assert service.outcome is not None
    assert Status.INTERRUPTED is service.outcome.status
    assert State.STOPPED is service.state


@pytest.mark.virtual
async def test_a_clean_up_that_takes_too_long_is_cancelled_too() -> None:
    """When the time is up, what is left is cancelled once more."""
    cut: list[float] = []

    async def job() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            try:
                await asyncio.sleep(1000)
            finally:
                cut.append(now())

    service = rc.OneShot(job)
    began = await started(service)
    report = await service.stop("10s")
    assert [began + 10] == cut
    assert ((0, 1, 0, 0), 10.0) == (counts(report), report.elapsed)


@pytest.mark.virtual
async def test_a_oneshot_that_returns_although_it_was_cancelled_has_finished() -> None:
    """What a job gives after it was asked to end counts."""

    async def job() -> str:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return "done anyway"
        return "never"

    service = rc.OneShot(job)
    await started(service)
    assert (1, 0, 0, 0) == counts(await service.stop())
    assert service.outcome is not None
    assert "done anyway" == service.outcome.value


@pytest.mark.virtual
async def test_a_oneshot_may_be_let_finish() -> None:
    """With drain="finish" a migration ends by itself, as long as there is time."""

    async def job() -> None:
        await asyncio.sleep(8)

    service = rc.OneShot(job, drain="finish")
    began = await started(service)
    report = await service.stop("10s")
    assert ((1, 0, 0, 0), began + 7) == (counts(report), now())

    began = await started(service)
    report = await service.stop("3s")
    assert ((0, 1, 0, 0), began + 3) == (counts(report), now())


@pytest.mark.virtual
async def test_a_oneshot_that_waits_for_its_delay_never_starts() -> None:
    """A run whose time has not come is never begun, and told so."""
    calls: list[int] = []
    service = rc.OneShot(lambda: calls.append(1), delay="5s")
    await started(service)
    assert ((0, 0, 1, 0), []) == (counts(await service.stop()), calls)
    await asyncio.sleep(10)
    assert [] == calls


@pytest.mark.virtual
@pytest.mark.parity("T3.46", "E3.13")
async def test_cancelled_during_the_delay_the_job_is_never_called() -> None:
    """A caller that is cancelled during the initial delay leaves a job that was never called, and no error."""
    calls: list[int] = []
    service = rc.OneShot(lambda: calls.append(1), delay="5s")
    task = asyncio.create_task(service.run())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert (True, None, []) == (task.cancelled(), service.error, calls)
    await asyncio.sleep(10)
    assert [] == calls


@pytest.mark.virtual
async def test_a_stop_in_the_same_moment_as_the_start_begins_nothing() -> None:
    """A run that has not taken its first step is not begun any more."""
    calls: list[int] = []

    async def job() -> None:
        calls.append(1)

    oneshot, interval = rc.OneShot(job), rc.Interval(job, "1s")
    await oneshot.start()
    assert (0, 0, 1, 0) == counts(await oneshot.stop())
    await interval.start()  # its first tick has not come, so no run was accepted
    assert (0, 0, 0, 0) == counts(await interval.stop())
    assert [] == calls


@pytest.mark.virtual
@pytest.mark.parametrize("drain", ["cancel", "finish"])
async def test_a_pause_between_attempts_of_a_oneshot(drain: Any) -> None:
    """A pause before a retry ends at once with the last error, unless the run is to be finished."""
    error = OSError("down")
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        if len(calls) == 1:
            raise error

    service = rc.OneShot(job, drain=drain, retry=rc.Retry(OSError, backoff=rc.Constant("10s")))
    began = await started(service)
    report = await service.stop("30s")
    assert service.outcome is not None
    if drain == "cancel":
        assert ((0, 1, 0, 0), began, [0.0]) == (counts(report), now(), calls)
        assert (Status.INTERRUPTED, error) == (service.outcome.status, service.outcome.error)
    else:
        assert ((1, 0, 0, 0), [0.0, 10.0]) == (counts(report), calls)
    assert () == report.errors


# --- Interval ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_an_interval_finishes_its_attempt_and_begins_no_other() -> None:
    """The tick under way is finished although it is long, its job is never cancelled, and no tick follows."""
    ended: list[float] = []

    async def job() -> None:
        await asyncio.sleep(25)
        ended.append(now())

    service = rc.Interval(job, "10s")
    began = await started(service)
    report = await service.stop("30s")
    assert ([25.0], (1, 0, 0, 0)) == (ended, counts(report))
    assert 24.0 == now() - began
    await asyncio.sleep(100)
    assert 1 == len(ended)


@pytest.mark.virtual
async def test_between_two_ticks_an_interval_stops_at_once() -> None:
    """Where no run is under way there is nothing to wait for."""
    service = rc.Interval(lambda: None, "10s")
    began = await started(service)
    report = await service.stop()
    assert ((0, 0, 0, 0), began) == (counts(report), now())


@pytest.mark.virtual
@pytest.mark.parity("T3.45")
@pytest.mark.defect("D3.1", "D3.19")
async def test_a_pause_between_attempts_of_an_interval_ends_at_once() -> None:
    """A stop during a back-off ends the tick with its last error, and the job is not called once more."""
    calls: list[float] = []
    error = OSError("down")

    async def job() -> None:
        calls.append(now())
        raise error

    service = rc.Interval(job, "10s", retry=rc.Retry(OSError, backoff=rc.Constant("5s")))
    began = await started(service)
    report = await service.stop()
    assert ((0, 1, 0, 0), [0.0], began) == (counts(report), calls, now())
    assert service.outcome is not None
    assert (Status.INTERRUPTED, error) == (service.outcome.status, service.outcome.error)
    assert (State.STOPPED, None, ()) == (service.state, service.error, report.errors)
    await asyncio.sleep(100)
    assert [0.0] == calls


@pytest.mark.virtual
@pytest.mark.defect("D3.1")
async def test_an_attempt_that_fails_during_the_drain_is_not_retried() -> None:
    """A transient failure of the last attempt interrupts the tick; it neither begins another attempt nor fails."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        await asyncio.sleep(5)
        raise OSError("down")

    service = rc.Interval(job, "10s", retry=rc.Retry(OSError, backoff=rc.Constant(0)))
    await started(service)
    report = await service.stop()
    assert ([0.0], (0, 1, 0, 0), ()) == (calls, counts(report), report.errors)


@pytest.mark.virtual
@pytest.mark.defect("D3.2")
async def test_a_permanent_failure_during_the_drain_is_a_failure() -> None:
    """A real error of the last attempt is not lost because a stop was under way."""

    async def job() -> None:
        await asyncio.sleep(5)
        raise OSError("for good")

    service = rc.Interval(job, "10s")
    await started(service)
    report = await service.stop()
    assert (["for good"], 1) == ([str(error) for error in report.errors], report.finished)
    assert State.FAILED is service.state
    with pytest.raises(OSError, match="for good"):
        await service.wait()


@pytest.mark.defect("D3.19")
@pytest.mark.parametrize("seed", range(20))
def test_a_tick_and_a_stop_at_the_same_moment(seed: int) -> None:
    """Whichever comes first when both are due, no run begins once the stop has been asked for."""

    async def both() -> None:
        calls: list[int] = []

        async def job() -> None:
            calls.append(1)

        service = rc.Interval(job, "10s")
        await service.start()
        await asyncio.sleep(10)
        begun = len(calls)
        await service.stop()
        assert begun == len(calls)
        await asyncio.sleep(50)
        assert begun == len(calls)

    run_virtual(both, seed=seed)


@pytest.mark.virtual
async def test_no_tick_comes_while_the_stopping_hooks_run() -> None:
    """From the moment of the stop on nothing new begins, also while hooks take their time."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())

    async def hook() -> None:
        await asyncio.sleep(4)

    interval = rc.Interval(job, "1s", on_stopping=hook)
    await started(interval, 2.5)
    await interval.stop()
    oneshot = rc.OneShot(job, delay="2s", on_stopping=hook)
    await started(oneshot)
    report = await oneshot.stop()
    assert ([0.0, 1.0, 2.0], 1) == (calls, report.never_started)


@pytest.mark.virtual
async def test_no_retry_comes_while_the_stopping_hooks_run() -> None:
    """A back-off that ends while the hooks run is followed by nothing."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        raise OSError

    async def hook() -> None:
        await asyncio.sleep(4)

    service = rc.Interval(job, "10s", retry=rc.Retry(OSError, backoff=rc.Constant("2s")), on_stopping=hook)
    await started(service)
    await service.stop()
    assert [0.0] == calls


# --- kill -------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("kind", ["oneshot", "finish", "interval"])
async def test_a_kill_cancels_whatever_runs(kind: str) -> None:
    """A kill waits for the clean-up of what it cancels and for nothing that was promised, and calls no hook before."""
    calls: list[str] = []

    async def job() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.5)
            calls.append("cleaned")

    def stopping() -> None:
        calls.append("stopping")

    def stopped() -> None:
        calls.append("stopped")

    hooks: Any = {"on_stopping": stopping, "on_stopped": stopped}
    service: Any = rc.Interval(job, "1s", **hooks)
    if kind != "interval":
        service = rc.OneShot(job, drain="finish" if kind == "finish" else "cancel", **hooks)
    began = await started(service)
    report = await service.kill()
    assert ((0, 1, 0, 0), ["cleaned", "stopped"]) == (counts(report), calls)
    assert 0.5 == now() - began


@pytest.mark.virtual
async def test_a_kill_has_one_second() -> None:
    """What has been killed has a second to end, then it is reported."""

    async def job() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(50)

    service = rc.OneShot(job)
    began = await started(service)
    report = await service.kill()
    assert ((0, 0, 0, 1), GRACE) == (counts(report), now() - began)
    await asyncio.sleep(100)


# --- what will not stop -----------------------------------------------------------------


async def deaf() -> None:
    """Heeds nothing for a hundred seconds."""
    ends = now() + 100
    while now() < ends:
        try:
            await asyncio.sleep(ends - now())
        except asyncio.CancelledError:
            continue


@pytest.mark.virtual
@pytest.mark.defect("D3.6")
@pytest.mark.parametrize("kind", [rc.OneShot, lambda job: rc.Interval(job, "1s")])
async def test_a_job_that_does_not_heed_its_cancellation_is_reported(kind: Any) -> None:
    """The stop ends about a second after its time, and the report shows the very line on which the job hangs."""
    service = kind(deaf)
    began = await started(service)
    report = await service.stop("5s")
    assert 5 + GRACE == now() - began
    (stuck,) = report.would_not_stop
    assert ("deaf", "run ") == (stuck.service, stuck.what[:4])
    assert "await asyncio.sleep(ends - now())" in stuck.stack
    assert "in deaf" in stuck.stack
    assert not report.clean
    assert "would not stop: run" in str(report)
    await asyncio.sleep(200)


@pytest.mark.virtual
@pytest.mark.defect("D3.6")
async def test_a_job_that_never_ends_does_not_hold_up_a_supervisor() -> None:
    """However deep it sits, a deaf job costs the stop of the whole tree no more than some seconds over its time."""
    deep = rc.Supervisor(rc.Supervisor(rc.OneShot(deaf), name="inner"), name="outer")
    began = await started(deep)
    report = await deep.stop("5s")
    assert 5 + GRACE == now() - began
    assert ["deaf"] == [stuck.service for stuck in report.would_not_stop]
    await asyncio.sleep(200)


@pytest.mark.virtual
async def test_a_stuck_job_does_not_spoil_the_next_life() -> None:
    """When a job that was left behind ends at last, the life that has begun meanwhile does not notice."""
    lives: list[int] = []

    async def job() -> None:
        lives.append(len(lives))
        if len(lives) == 1:
            await deaf()
        else:
            await asyncio.sleep(1000)

    service = rc.OneShot(job)
    await started(service)
    await service.kill()
    await service.start()
    await asyncio.sleep(200)
    stats = service.stats()
    assert (State.RUNNING, 2, 1) == (service.state, stats.runs.begun, stats.runs.in_flight)
    assert 1 == len(stats.running)
    await service.stop()
    assert 0 == service.stats().runs.in_flight


@pytest.mark.virtual
async def test_a_job_that_swallows_its_cancellation_once_is_cancelled_again() -> None:
    """The second request to end comes when the time is up."""
    heard: list[float] = []

    async def job() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                heard.append(now())

    service = rc.OneShot(job)
    began = await started(service)
    report = await service.stop("10s")
    assert ([began, began + 10], (1, 0, 0, 0)) == (heard, counts(report))


# --- threads ----------------------------------------------------------------------------


def block(span: float) -> None:
    """Keep this thread busy for so long, without listening to anybody."""
    clock.current().block(span)


@pytest.mark.virtual
async def test_a_thread_is_told_and_listens() -> None:
    """A job in a thread that listens ends when the stop begins, as its run was asked to."""

    def job() -> None:
        current_run().wait_cancelled()

    service = rc.OneShot(job)
    began = await started(service)
    report = await service.stop()
    assert began == now()
    assert (1, 0, 0, 0) == counts(report)


@pytest.mark.virtual
async def test_a_thread_that_does_not_listen_is_reported_and_given_up() -> None:
    """The report shows where the thread is; the service ends without it, and the thread goes on until it returns."""
    came_back = threading.Event()

    def job() -> None:
        block(60)
        came_back.set()

    service = rc.OneShot(job)
    began = await started(service)
    report = await service.stop("5s")
    assert 5 + GRACE == now() - began
    (stuck,) = report.would_not_stop
    assert "block(60)" in stuck.stack
    assert (State.STOPPED, 0, 1) == (
        service.state,
        service.stats().runs.in_flight,
        service.stats().runs.interrupted,
    )
    await asyncio.sleep(100)
    assert came_back.wait(5)


@pytest.mark.virtual
async def test_a_thread_of_an_interval_is_not_told_before_the_time_is_up() -> None:
    """What a drain has promised to finish is not asked to end; when the time is up it is, and has a second."""
    told: list[float] = []
    clocks = clock.current()
    zero = clocks.now()

    def job() -> None:
        current_run().wait_cancelled()
        told.append(clocks.now() - zero)

    service = rc.Interval(job, "10s")
    began = await started(service)
    report = await service.stop("5s")
    assert ([began + 5], (1, 0, 0, 0)) == (told, counts(report))


@pytest.mark.virtual
async def test_a_thread_that_is_killed_has_a_second_to_listen() -> None:
    """A kill tells a thread, and does not report it before its second is over."""

    def job() -> None:
        current_run().wait_cancelled()
        block(0.5)
        raise asyncio.CancelledError

    for service in (rc.OneShot(job), rc.Interval(job, "10s")):
        began = await started(service)
        report = await service.kill()
        assert ((0, 1, 0, 0), 0.5) == (counts(report), now() - began)


# --- the whole keeps its time -------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.defect("D3.6", "D3.7")
@pytest.mark.parametrize("span", [0, 0.1, 1, 4, 10, 30, 80])
@pytest.mark.parametrize("hooks_timeout", [0, 1, 5])
@pytest.mark.parametrize("tree", [False, True])
async def test_a_stop_keeps_its_time_whatever_hangs(span: float, hooks_timeout: float, tree: bool) -> None:
    """Job, hooks and sinks may all hang: a stop ends within its timeout and a second for each level of the tree."""

    async def hang() -> None:
        await asyncio.sleep(1000)

    async def deaf_hook() -> None:
        await deaf()

    options: Any = {"on_stopping": [hang, deaf_hook], "on_stopped": [deaf_hook, hang], "hooks_timeout": hooks_timeout}
    service: Any = rc.OneShot(deaf, **options)
    if tree:
        service = rc.Supervisor(service, rc.OneShot(deaf, name="second", **options), name="top", **options)
    service.subscribe(lambda event: asyncio.sleep(1000))
    began = await started(service)
    report = await service.stop(span)
    limit = (span or hooks_timeout) + GRACE * (2 if tree else 1)
    assert now() - began <= limit + 1e-6
    assert (2 if tree else 1) == len(report.would_not_stop)
    assert service.state.over
    await asyncio.sleep(300)


@pytest.mark.virtual
async def test_the_elapsed_time_is_told() -> None:
    """A report says how long the stop took; an end that nobody asked for took none."""

    async def job() -> None:
        await asyncio.sleep(3)

    service = rc.OneShot(job, drain="finish")
    await service.start()
    assert 3.0 == (await service.stop()).elapsed
    assert 0.0 == (await service.run()).elapsed


# --- the report -------------------------------------------------------------------------


@pytest.mark.virtual
async def test_the_report_of_a_tree_adds_up() -> None:
    """Numbers and findings of children are in their parents' reports, and each child's own report is there too."""

    async def long() -> None:
        await asyncio.sleep(1000)

    async def tick() -> None:
        await asyncio.sleep(2)

    def bad_hook() -> None:
        raise OSError("hook")

    tree = rc.Supervisor(
        rc.Supervisor(rc.OneShot(long, name="a"), rc.OneShot(long, name="b", on_stopping=bad_hook), name="inner"),
        rc.Interval(tick, "10s", name="c"),
        rc.OneShot(long, name="d", delay="1h"),
        name="outer",
    )
    await started(tree)
    report = await tree.stop()
    assert (1, 2, 1, 0) == counts(report)
    assert ["inner", "c", "d"] == [child.service for child in report.children]
    assert ["a", "b"] == [child.service for child in report.children[0].children]
    assert ["bad_hook"] == [failed.hook for failed in report.hook_errors]
    assert not report.clean
    lines = str(report).splitlines()
    assert (
        "outer stopped in 1s: 1 finished, 2 cancelled, 1 never started, 0 would not stop, 1 hook error(s)" == lines[0]
    )
    assert "  on_stopping hook bad_hook of b: OSError: hook" == lines[1]


class Unspeakable(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.virtual
async def test_a_report_can_be_read_whatever_the_errors_do() -> None:
    """An error that cannot say what it is neither ends a supervisor in disorder nor spoils its report."""

    async def job() -> None:
        raise Unspeakable

    def hook() -> None:
        raise Unspeakable

    supervisor = rc.Supervisor(rc.OneShot(job, on_stopped=hook))
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    assert 2 == str(supervisor.report).count("Unspeakable: (its text cannot be made)")
