"""Runs that fail: what is counted, told and logged of them, when their worker pauses, and when they end the pool."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from typing import Any

import pytest
from pool_made import Busy, PlainScript, Script, now, seen

import runcrew as rc
from runcrew.clock import current

#: The job is async, or plain; bare, or with a chain around it.
KINDS: list[tuple[Any, dict[str, Any]]] = [
    (Script, {}),
    (Script, {"deadline": "1h"}),
    (PlainScript, {}),
    (PlainScript, {"deadline": "1h"}),
]
each_kind = pytest.mark.parametrize(("kind", "options"), KINDS, ids=["async", "async chain", "plain", "plain chain"])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of runs that failed."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- errors that end nothing ----------------------------------------------------------------------


@each_kind
@pytest.mark.parity("T4.24")
@pytest.mark.defect("D4.8")
@pytest.mark.virtual
async def test_a_failure_ends_a_run_and_nothing_else(
    kind: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a job raises, its run has failed, that is counted, kept, told and logged, and the loop goes on."""
    error = OSError("it broke")
    script = kind(1, error, 1, KeyError("again"), 1)
    ended: list[Any] = []
    async with rc.Pool(script, name="it", **options) as pool:
        pool.subscribe(lambda event: ended.append((event.status, event.error)), rc_events().RunEnded)
        await seen(lambda: script.over)
        stats = pool.stats()
        assert (3, 2, 1, 1) == (stats.runs.succeeded, stats.runs.failed, stats.runs.in_flight, stats.alive)
        assert isinstance(stats.last_error, KeyError)
        await asyncio.sleep(0.001)
    assert ("failed", error) in ended
    assert "it" in warnings(caplog)[0]
    assert "OSError: it broke" in warnings(caplog)[0]


def rc_events() -> Any:
    """The module of events."""
    from runcrew import events

    return events


@each_kind
@pytest.mark.defect("D4.9")
@pytest.mark.parametrize(
    "raised", [SystemExit(3), GeneratorExit(), asyncio.CancelledError("mine"), BaseExceptionGroup("x", [SystemExit()])]
)
@pytest.mark.virtual
async def test_what_is_no_exception_is_a_failure_like_any_other(
    kind: Any, options: dict[str, Any], raised: BaseException
) -> None:
    """Neither the process nor the loop nor the worker ends by what a job raises, and no figure is left behind."""
    script = kind(1, raised, 1)
    async with rc.Pool(script, **options) as pool:
        await seen(lambda: script.over)
        stats = pool.stats()
        assert (2, 1, 1) == (stats.runs.succeeded, stats.runs.failed, stats.runs.in_flight)
        assert raised is stats.last_error
    assert (4, 4) == (pool.stats().runs.begun, pool.stats().runs.ended)


@pytest.mark.virtual
async def test_the_traceback_of_a_failure_begins_in_the_job() -> None:
    """What the error shows is the user's code, without the library's own frames in front of it."""

    async def fails() -> None:
        await asyncio.sleep(1)
        raise OSError("here")

    def fails_plainly() -> None:
        current().block(1)
        raise OSError("here")

    for job in (fails, fails_plainly):
        with pytest.raises(OSError, match="here") as caught:
            await rc.Pool(job, stop_on_error=True).run()
        names = [entry.name for entry in caught.traceback]
        assert job.__name__ == names[-1]


# --- pauses ---------------------------------------------------------------------------------------


@each_kind
@pytest.mark.defect("D4.8")
@pytest.mark.virtual
async def test_a_worker_pauses_when_runs_fail_one_after_another(kind: Any, options: dict[str, Any]) -> None:
    """The first failure in a row is followed at once, the next ones after growing pauses; a success begins anew."""
    fails = OSError("again")
    script = kind(fails, fails, fails, fails, fails, 0.5, fails, fails, 0.5)
    backoff = rc.Exponential("1s", cap="3s", factor=2, jitter="none")
    async with rc.Pool(script, backoff=backoff, **options) as pool:
        await seen(lambda: script.over)
        pauses = [round(b - a, 6) for a, b in itertools.pairwise(script.times)]
        assert [0, 1, 2, 3, 3, 0.5, 0, 1, 0.5] == pauses
        assert (7, 2) == (pool.stats().runs.failed, pool.stats().runs.succeeded)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.defect("D4.2", "D4.8")
@pytest.mark.virtual
async def test_a_job_that_always_fails_at_once_does_not_spin(plain: bool) -> None:
    """With the default backoff a job that fails at once is called a few hundred times an hour, by each worker."""
    calls = 0

    async def fails() -> None:
        nonlocal calls
        calls += 1
        raise OSError("always")

    def fails_plainly() -> None:
        nonlocal calls
        calls += 1
        raise OSError("always")

    async with rc.Pool(fails_plainly if plain else fails, initial=1) as pool:
        await asyncio.sleep(3600)
        assert 360 <= calls <= 800
        assert pool.stats().runs.failed == calls
        assert (1, 1) == (pool.stats().alive, pool.stats().idle)


@pytest.mark.virtual
async def test_workers_pause_each_by_itself() -> None:
    """One whose runs fail pauses, and the others go on."""
    scripts = iter([Script(*[OSError("mine")] * 3, last=1), Script(last=1)])
    made: list[Script] = []

    def factory() -> Script:
        made.append(next(scripts))
        return made[-1]

    async with rc.Pool(job_factory=factory, initial=2, backoff=rc.Constant("10s")):
        await asyncio.sleep(30.5)
        bad, good = made
        assert [0.0, 0.0, 10.0, 20.0, 21.0] == bad.times[:5]
        assert [float(at) for at in range(31)] == good.times


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_without_a_backoff_there_is_no_pause(plain: bool) -> None:
    """With backoff=None failures follow one another at once, and other tasks have their turns all the same."""

    async def fails() -> None:
        raise OSError("always")

    def fails_plainly() -> None:
        raise OSError("always")

    async with rc.Pool(fails_plainly if plain else fails, backoff=None) as pool:
        failed = 0
        for _ in range(5):
            await asyncio.sleep(0.01)
            assert failed < pool.stats().runs.failed
            failed = pool.stats().runs.failed
        assert 0 == pool.stats().idle


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.parametrize("options", [{}, {"deadline": "1h"}], ids=["bare", "chain"])
@pytest.mark.virtual
async def test_failures_and_successes_in_turn_leave_the_loop_to_others(plain: bool, options: dict[str, Any]) -> None:
    """Failures that never come twice in a row are followed at once, and other tasks have their turns all the same."""
    turns = itertools.count()

    def every_other() -> None:
        if next(turns) % 2:
            raise OSError("now and then")

    async def every_other_async() -> None:
        every_other()

    async with rc.Pool(every_other if plain else every_other_async, **options) as pool:
        await asyncio.sleep(0.01)
        runs = pool.stats().runs
        assert 0 < runs.succeeded
        assert runs.failed <= runs.succeeded <= runs.failed + 1


@pytest.mark.virtual
async def test_a_backoff_of_ones_own_that_is_broken_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    """One that raises is logged, and its worker pauses for a while all the same."""

    class Bad:
        def delay(self, _: int, /) -> float:
            raise KeyError("no idea")

        async def wait(self, _: int, /) -> None:
            raise KeyError("no idea")

    script = Script(OSError("a"), OSError("b"), 1)
    backoff: Any = Bad()
    async with rc.Pool(script, backoff=backoff) as pool:
        await seen(lambda: script.over)
        assert (0.0, 0.0) == tuple(script.times[:2])
        assert 0 < script.times[2] <= 2
        assert 1 == pool.stats().alive
    assert any("backoff" in said for said in warnings(caplog))


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_a_pause_ends_at_once_when_the_worker_is_to_leave(plain: bool) -> None:
    """Less, a pause of the pool and a stop do not wait for a worker that only pauses after a failure."""
    kind: Any = PlainScript if plain else Script
    script = kind(OSError("a"), OSError("b"), 1)
    pool = rc.Pool(script, backoff=rc.Constant("1h"))
    await pool.start()
    await asyncio.sleep(1)
    assert (2, 1, 1) == (len(script.calls), pool.stats().idle, pool.stats().alive)
    assert 0 == await pool.less()
    assert 1.0 == now()
    await pool.more()
    await asyncio.sleep(10)
    assert 3 < len(script.calls) + 1
    await pool.stop(5)
    again = rc.Pool(kind(OSError("a"), OSError("b"), 1), backoff=rc.Constant("1h"))
    await again.start()
    await asyncio.sleep(1)
    began = now()
    report = await again.stop()
    assert (0.0, True, 0) == (now() - began, report.clean, report.cancelled)


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.defect("D4.8")
@pytest.mark.virtual
async def test_a_flood_of_failures_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Of many failures a second one is written down, and the next such line says how many others there were."""

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise OSError("again")

    async with rc.Pool(fails, name="it", initial=5, backoff=None) as pool:
        await asyncio.sleep(9.995)
        failed = pool.stats().runs.failed
        assert 4995 == failed
    lines = [said for said in warnings(caplog) if "failed" in said]
    assert 9 <= len(lines) <= 11
    assert "others" not in lines[0]
    counted = [re.search(r"and (\d+) others", said) for said in lines[1:]]
    told = len(lines) + sum(int(found[1]) for found in counted if found is not None)
    assert all(counted)
    assert 4400 <= told <= failed


@pytest.mark.virtual
async def test_failures_that_come_now_and_then_are_all_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each has its line, with the error, the run and how long its worker pauses."""
    script = Script(2, OSError("one"), 2, OSError("two"), OSError("three"), 2, OSError("four"))
    async with rc.Pool(script, name="it", backoff=rc.Constant("3s")):
        await seen(lambda: script.over)
    lines = [said for said in warnings(caplog) if "failed" in said]
    assert ["one", "two", "four"] == [said.rsplit(" ", 1)[-1] for said in lines]
    assert "pauses" not in lines[0]
    assert all(said.startswith("it: run ") for said in lines)
    assert "and 1 others" in lines[2]


@pytest.mark.virtual
async def test_the_log_says_how_long_a_worker_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """The line of a failure names the pause that follows it."""
    script = Script(OSError("one"), 0, 2, OSError("two"), OSError("three"))
    async with rc.Pool(script, name="it", backoff=rc.Constant("3s")) as pool:
        await seen(lambda: script.over)
        assert 3 == pool.stats().runs.failed
    script = Script(OSError("one"), OSError("two"), OSError("three"))
    caplog.clear()
    async with rc.Pool(script, name="it", backoff=rc.Constant("3s")):
        await seen(lambda: script.over)
    lines = [said for said in warnings(caplog) if "failed" in said]
    assert "pauses for 3s" in lines[-1]


# --- errors that end the pool ---------------------------------------------------------------------


@each_kind
@pytest.mark.parity("T4.25", "E4.7", "T4.20")
@pytest.mark.virtual
async def test_the_first_error_ends_the_pool_where_that_is_asked_for(kind: Any, options: dict[str, Any]) -> None:
    """With stop_on_error the others are cancelled, `run` and `wait` raise that very error, and the report has it."""
    error = OSError("the first")
    first = kind(3, error)
    busy = Busy(100)
    jobs = iter([first, busy, busy])
    if kind is PlainScript:
        jobs = iter([first, PlainScript(), PlainScript()])
    pool = rc.Pool(job_factory=lambda: next(jobs), initial=3, stop_on_error=True, **options)
    with pytest.raises(OSError, match="the first") as caught:
        await pool.run()
    assert error is caught.value
    assert 3.0 == pytest.approx(now())
    with pytest.raises(OSError, match="the first"):
        await pool.wait()
    assert pool.report is not None
    assert ((error,), 2) == (pool.report.errors, pool.report.cancelled)
    stats = pool.stats()
    assert (rc.State.FAILED, 1, 2, 0) == (pool.state, stats.runs.failed, stats.runs.interrupted, stats.alive)


@pytest.mark.parity("T4.25")
@pytest.mark.virtual
async def test_a_run_that_times_out_ends_it_too() -> None:
    """A timeout is a failure: it is raised as RunTimeout."""
    pool = rc.Pool(Busy(100), timeout="5s", stop_on_error=True)
    with pytest.raises(rc.RunTimeout):
        await pool.run()
    assert (5.0, 1) == (now(), pool.stats().runs.timed_out)


@pytest.mark.parity("T4.25")
@pytest.mark.virtual
async def test_later_errors_change_nothing() -> None:
    """Those that come while the others are being cancelled are counted, and the first stays."""

    async def spiteful() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise KeyError("later")

    async def fails() -> None:
        await asyncio.sleep(1)
        raise OSError("first")

    jobs = iter([spiteful, fails, spiteful])
    pool = rc.Pool(job_factory=lambda: next(jobs), initial=3, stop_on_error=True)
    with pytest.raises(OSError, match="first"):
        await pool.run()
    assert 3 == pool.stats().runs.failed


@each_kind
@pytest.mark.parity("T4.25")
@pytest.mark.defect("D4.17")
@pytest.mark.virtual
async def test_a_cancellation_that_is_not_ours_counts_as_an_error(kind: Any, options: dict[str, Any]) -> None:
    """A job that raises CancelledError of its own, as a cancelled sub-request does, ends the pool as JobCrashed."""
    error = asyncio.CancelledError("a request was cancelled")
    pool = rc.Pool(kind(1, error), stop_on_error=True, **options)
    with pytest.raises(rc.JobCrashed) as caught:
        await pool.run()
    assert error is caught.value.__cause__
    assert 1 == pool.stats().runs.failed


@pytest.mark.defect("D4.17")
@pytest.mark.virtual
async def test_a_cancelled_request_of_a_job_is_no_cancellation_of_the_job() -> None:
    """A job that awaits a task which somebody has cancelled has failed, and the pool ends by that."""

    async def job() -> None:
        request = asyncio.ensure_future(asyncio.sleep(100))
        asyncio.get_running_loop().call_later(1, request.cancel)
        await request

    with pytest.raises(rc.JobCrashed):
        await rc.Pool(job, stop_on_error=True).run()


@pytest.mark.parametrize("mode", ["less", "stop", "kill"])
@pytest.mark.virtual
async def test_our_own_cancellation_is_no_error(mode: str) -> None:
    """A run that is cut short by less(mode="now"), a stop or a kill does not fail the pool."""
    pool = rc.Pool(Busy(100), initial=2, stop_on_error=True)
    await pool.start()
    await asyncio.sleep(1)
    if mode == "less":
        await pool.less(mode="now")
    report = await (pool.kill() if mode == "kill" else pool.stop(1))
    assert (True, rc.State.STOPPED) == (report.clean, pool.state)
    assert (0, 2) == (pool.stats().runs.failed, pool.stats().runs.interrupted)
    assert None is pool.error


@pytest.mark.virtual
async def test_an_error_while_it_is_being_cancelled_is_one() -> None:
    """A real error from a job that was asked to end is no cancellation: it is kept, and raised."""

    async def spiteful() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise OSError("while cleaning up")

    pool = rc.Pool(spiteful, stop_on_error=True)
    await pool.start()
    await asyncio.sleep(1)
    report = await pool.stop(1)
    assert 1 == pool.stats().runs.failed
    assert isinstance(pool.stats().last_error, OSError)
    assert isinstance(pool.error, OSError)
    assert 1 == len(report.errors)


@pytest.mark.virtual
async def test_a_run_that_succeeds_although_it_was_told_to_end() -> None:
    """A job that answers a cancellation with its value has succeeded, and no other run of it follows."""
    calls = 0

    async def finishes() -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)

    pool = rc.Pool(finishes)
    await pool.start()
    await asyncio.sleep(1)
    await pool.kill()
    assert (1, 1, 0) == (calls, pool.stats().runs.succeeded, pool.stats().runs.interrupted)


@pytest.mark.defect("D4.9")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_a_system_exit_ends_the_pool_as_a_crash(plain: bool) -> None:
    """With stop_on_error a SystemExit of a job is raised to whoever waits as JobCrashed, and ends no process."""
    kind: Any = PlainScript if plain else Script
    with pytest.raises(rc.JobCrashed) as caught:
        await rc.Pool(kind(1, SystemExit(3)), stop_on_error=True).run()
    assert isinstance(caught.value.__cause__, SystemExit)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_an_interrupt_from_the_keyboard_ends_the_pool(plain: bool) -> None:
    """A KeyboardInterrupt in a job is not meant for it: the pool ends by it, whatever stop_on_error says."""
    kind: Any = PlainScript if plain else Script
    with pytest.raises(rc.JobCrashed, match="keyboard") as caught:
        await rc.Pool(kind(1, KeyboardInterrupt())).run()
    assert isinstance(caught.value.__cause__, KeyboardInterrupt)


# --- what a job says to its pool ------------------------------------------------------------------


@each_kind
@pytest.mark.virtual
async def test_a_job_may_say_that_there_is_no_more_to_do(kind: Any, options: dict[str, Any]) -> None:
    """`raise rc.Done` is a success that ends the pool well, when the runs of the others have ended."""
    first, second = kind(1, rc.Done("that was it")), kind(5, 5, 5)
    jobs = iter([first, second])
    pool = rc.Pool(job_factory=lambda: next(jobs), initial=2, stop_on_error=True, **options)
    report = await pool.run()
    assert 5.0 == pytest.approx(now())
    assert (True, False) == (report.clean, report.stop_tree)
    assert (1, rc.State.STOPPED) == (len(second.calls), pool.state)
    runs = pool.stats().runs
    assert (3, 0, 0) == (runs.succeeded, runs.failed, runs.interrupted)


@pytest.mark.virtual
async def test_several_may_say_so() -> None:
    """Whoever says it again changes nothing."""

    async def job() -> None:
        await asyncio.sleep(1)
        raise rc.Done

    pool = rc.Pool(job, initial=3)
    assert (await pool.run()).clean
    assert (1.0, 3) == (now(), pool.stats().runs.succeeded)


@pytest.mark.virtual
async def test_a_job_may_ask_for_the_end_of_the_tree() -> None:
    """`raise rc.StopTree` ends the pool, and everything up to the root with it."""
    pool = rc.Pool(Script(2, rc.StopTree("enough")), name="it")
    root = rc.Supervisor(pool, rc.Pool(Busy(1), name="other"), name="root", on_failure="restart")
    report = await root.run()
    assert (True, True) == (report.stop_tree, report.clean)
    assert 2 <= now() <= 3


@pytest.mark.virtual
async def test_retry_rules_do_not_see_those_words() -> None:
    """Done is a message and no error: it is not tried again, and an error after retries is the job's own."""
    script = Script(OSError("1"), OSError("2"), rc.Done())
    pool = rc.Pool(script, retry=rc.Retry(OSError, retries=5, backoff=rc.Constant("1s")), stop_on_error=True)
    await pool.run()
    assert ([0.0, 1.0, 2.0], 1, 2) == (script.times, pool.stats().runs.succeeded, pool.stats().runs.retries)
    last = OSError("3")
    with pytest.raises(OSError, match="3") as caught:
        await rc.Pool(
            Script(OSError("1"), OSError("2"), last), retry=rc.Retry(OSError, retries=2), stop_on_error=True
        ).run()
    assert last is caught.value
