"""Hooks: when they are called, in what order, with how much time, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew import clock
from runcrew.errors import ConfigError, NotAJob
from runcrew.events import HookFailed
from runcrew.job import current_run
from runcrew.lifecycle import State

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


def note(said: list[str], what: str) -> Callable[[], None]:
    """A hook that notes that it was called."""

    def hook() -> None:
        said.append(what)

    return hook


@pytest.mark.virtual
@pytest.mark.defect("D3.5")
async def test_a_stopping_hook_may_unblock_its_own_work() -> None:
    """A server whose `close` is its hook ends by itself, before anything is cancelled."""
    closed = asyncio.Event()

    async def serve() -> str:
        await closed.wait()
        return "closed"

    async def close() -> None:
        closed.set()

    for service in (rc.OneShot(serve, on_stopping=close), rc.OneShot(serve, on_stopping=close, drain="finish")):
        closed.clear()
        await service.start()
        await asyncio.sleep(1)
        report = await service.stop()
        assert (1, 0, 1.0) == (report.finished, report.cancelled, now() % 1 + 1)
        assert service.outcome is not None
        assert "closed" == service.outcome.value


@pytest.mark.virtual
@pytest.mark.defect("D3.5")
async def test_a_stopping_hook_may_unblock_a_job_in_a_thread() -> None:
    """A plain blocking server in a thread ends by its hook, although nobody can cancel a thread."""
    closed = threading.Event()

    def serve() -> None:
        clock.current().block(None, closed)

    supervisor = rc.Supervisor(rc.OneShot(serve, on_stopping=closed.set))
    await supervisor.start()
    await asyncio.sleep(1)
    report = await supervisor.stop()
    assert ((), 1) == (report.would_not_stop, report.finished)


@pytest.mark.virtual
async def test_stopping_hooks_come_before_anything_is_cancelled_and_stopped_hooks_after_all() -> None:
    """The order of an end: the stopping hooks, the clean-up of the work, the stopped hooks, the last added first."""
    said: list[str] = []

    async def job() -> None:
        try:
            await long()
        finally:
            said.append("cleaned")

    service = rc.OneShot(
        job,
        on_stopping=[note(said, "stopping 1"), note(said, "stopping 2")],
        on_stopped=[note(said, "stopped 1"), note(said, "stopped 2")],
    )
    await service.start()
    await asyncio.sleep(1)
    await service.stop()
    assert ["stopping 2", "stopping 1", "cleaned", "stopped 2", "stopped 1"] == said


@pytest.mark.virtual
@pytest.mark.parity("T3.27", "T3.57", "T3.58", "E3.15")
@pytest.mark.parametrize("end", ["success", "failure", "cancellation", "stop", "kill"])
async def test_stopped_hooks_come_on_every_kind_of_end_in_reverse_order(end: str) -> None:
    """When all children have ended, however it came, their hooks are called, last added first, the root at last."""
    said: list[str] = []

    async def job() -> None:
        try:
            if end == "failure":
                await asyncio.sleep(2)
                raise OSError
            await asyncio.sleep(2 if end == "success" else 1e6)
        finally:
            await asyncio.sleep(0.1)
            said.append("job")

    supervisor = rc.Supervisor(
        rc.OneShot(job, name="a", on_stopped=note(said, "a")),
        rc.OneShot(job, name="none"),
        rc.Supervisor(
            rc.OneShot(job, name="b", on_stopped=note(said, "b")),
            rc.OneShot(job, name="c", on_stopped=note(said, "c")),
            name="nested",
            on_stopped=note(said, "nested"),
        ),
        rc.OneShot(job, name="d", on_stopped=note(said, "d")),
        on_stopped=note(said, "root"),
    )
    task = asyncio.create_task(supervisor.run())
    await asyncio.sleep(1)
    if end == "cancellation":
        task.cancel()
    elif end in ("stop", "kill"):
        await getattr(supervisor, end)()
    await asyncio.wait([task])
    assert (end == "failure") is (not task.cancelled() and task.exception() is not None)
    assert ["job"] * 5 == said[:5]
    assert ["d", "c", "b", "nested", "a", "root"] == said[5:]
    assert (end == "failure") is (supervisor.error is not None)


@pytest.mark.virtual
@pytest.mark.parity("T3.57")
async def test_hooks_come_one_after_another() -> None:
    """No two hooks run at a time, also not those of two children."""
    running: list[int] = []

    async def hook() -> None:
        assert not running
        running.append(1)
        await asyncio.sleep(0.5)
        running.pop()

    supervisor = rc.Supervisor(*(rc.OneShot(long, name=str(n), on_stopped=[hook, hook]) for n in range(4)))
    await supervisor.start()
    report = await supervisor.stop()
    assert ((), 4.0) == (report.hook_errors, now())


@pytest.mark.virtual
@pytest.mark.parity("T3.57")
async def test_no_hook_is_called_beside_running_work() -> None:
    """A child that has ended waits with its hook until the last of the others has ended, restarts included."""
    said: list[str] = []

    async def other() -> None:
        await asyncio.sleep(5)
        said.append("other")

    supervisor = rc.Supervisor(
        rc.OneShot(lambda: None, name="quick", on_stopped=note(said, "quick")),
        rc.Supervisor(rc.OneShot(lambda: None, name="deep", on_stopped=note(said, "deep")), name="nested"),
        rc.OneShot(other),
    )
    await supervisor.run()
    assert ["other", "deep", "quick"] == said


@pytest.mark.virtual
@pytest.mark.defect("D3.17")
async def test_what_never_lived_has_no_hook_called() -> None:
    """The hook of a child that was never started is not called: there is nothing to take down."""
    said: list[str] = []

    async def fails() -> None:
        raise OSError

    supervisor = rc.Supervisor(on_failure="isolate")
    supervisor.add(rc.OneShot(fails, name="first", ready="succeeded", on_stopped=note(said, "first")))
    supervisor.add(rc.OneShot(long, name="second", on_stopped=note(said, "second")), depends_on=["first"])
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    assert ["first"] == said


@pytest.mark.virtual
@pytest.mark.parity("T3.60", "E3.15")
@pytest.mark.defect("D3.7")
async def test_a_hook_that_fails_harms_no_other_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises, whatever it is, is logged, told as an event and in the report, and the others are called."""
    said: list[str] = []
    events: list[HookFailed] = []

    def raising(error: BaseException) -> Callable[[], None]:
        def hook() -> None:
            said.append(type(error).__name__)
            raise error

        return hook

    async def on_loop() -> None:
        said.append("async")
        raise OSError("async")

    errors = [OSError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
    service = rc.OneShot(long, on_stopped=[*map(raising, errors), on_loop], on_stopping=raising(ValueError("y")))
    service.subscribe(events.append, HookFailed)
    await service.start()
    await asyncio.sleep(1)
    report = await service.stop()
    names = [type(error).__name__ for error in errors]
    assert ["ValueError", "async", *reversed(names)] == said
    assert ["ValueError", "OSError", *reversed(names)] == [type(f.error).__name__ for f in report.hook_errors]
    assert ["on_stopping"] + ["on_stopped"] * 6 == [failed.moment for failed in report.hook_errors]
    assert [failed.error for failed in report.hook_errors] == [event.error for event in events]
    assert (State.STOPPED, None, False) == (service.state, service.error, report.clean)
    assert 7 == sum("hook" in record.message and "failed" in record.message for record in caplog.records)


@pytest.mark.virtual
@pytest.mark.parity("T3.60")
async def test_a_failing_hook_does_not_change_what_is_raised() -> None:
    """What ended a service stays what ended it, whatever its hooks do."""

    async def fails() -> None:
        raise OSError("the reason")

    def hook() -> None:
        raise ValueError

    service = rc.OneShot(fails, on_stopped=hook)
    with pytest.raises(OSError, match="the reason"):
        await service.run()
    assert service.report is not None
    assert 1 == len(service.report.hook_errors)


@pytest.mark.virtual
@pytest.mark.defect("D3.7")
async def test_a_slow_hook_does_not_starve_the_others() -> None:
    """Each may use an equal share of the time, and what one leaves goes to those behind it."""
    said: list[tuple[str, float]] = []

    def hook(name: str, span: float) -> Callable[[], Any]:
        async def wait() -> None:
            begun = now()
            try:
                await asyncio.sleep(span)
            finally:
                said.append((name, now() - begun))

        wait.__name__ = name
        return wait

    service = rc.OneShot(
        long, on_stopped=[hook("d", 2), hook("c", 1000), hook("b", 1000), hook("a", 0)], hooks_timeout=9
    )
    await service.start()
    report = await service.stop("100s")
    assert [("a", 0.0), ("b", 3.0), ("c", 3.0), ("d", 2.0)] == said
    assert ["b", "c"] == [failed.hook for failed in report.hook_errors]
    assert all(isinstance(failed.error, TimeoutError) for failed in report.hook_errors)


@pytest.mark.virtual
@pytest.mark.defect("D3.7")
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_hook_that_ignores_its_end_is_left_behind(in_thread: bool) -> None:
    """A hook that does not heed its cancellation blocks nobody."""
    ended = threading.Event()
    time = clock.current()

    async def deaf() -> None:
        ends = now() + 60
        while now() < ends:
            try:
                await asyncio.sleep(ends - now())
            except asyncio.CancelledError:
                continue
        ended.set()

    def deaf_thread() -> None:
        time.block(60)
        ended.set()

    service = rc.OneShot(long, on_stopped=deaf_thread if in_thread else deaf)
    await service.start()
    report = await service.stop("100s")
    assert (5.0, 1, False) == (now(), len(report.hook_errors), ended.is_set())
    await asyncio.sleep(100)
    assert ended.wait(5)


@pytest.mark.virtual
async def test_a_hook_in_a_thread_is_told_when_its_time_is_up() -> None:
    """A plain hook may look whether it should end."""
    told = threading.Event()

    def hook() -> None:
        if current_run().wait_cancelled():
            told.set()

    service = rc.OneShot(long, on_stopped=hook, hooks_timeout="2s")
    await service.start()
    await service.stop()
    assert told.wait(5)


@pytest.mark.virtual
async def test_no_time_for_hooks_means_none() -> None:
    """Zero means zero: hooks that have no time are not called, and told."""
    said: list[str] = []
    service = rc.OneShot(long, on_stopped=note(said, "x"), on_stopping=note(said, "y"), hooks_timeout=0)
    await service.start()
    await asyncio.sleep(1)
    report = await service.stop()
    assert ([], ["there was no time left for it"] * 2) == (said, [str(f.error) for f in report.hook_errors])


@pytest.mark.virtual
async def test_stopping_hooks_leave_the_work_time_to_drain_in() -> None:
    """Hooks that hang at the beginning of a stop use at most half of its time."""

    async def job() -> None:
        await asyncio.sleep(4)

    service = rc.OneShot(job, drain="finish", on_stopping=long, hooks_timeout="1h")
    await service.start()
    report = await service.stop("6s")
    assert (1, 1, 4.0) == (report.finished, len(report.hook_errors), now())


@pytest.mark.virtual
async def test_a_kill_cuts_the_stopping_hooks_short_and_they_are_told() -> None:
    """What a kill keeps a stopping hook from is in the report."""

    async def slow() -> None:
        await asyncio.sleep(4)

    service = rc.OneShot(long, on_stopping=[slow, slow])
    await service.start()
    stop = asyncio.create_task(service.stop())
    await asyncio.sleep(1)
    report = await service.kill()
    assert report is await stop
    assert (1.0, ["slow", "slow"]) == (now(), [failed.hook for failed in report.hook_errors])


@pytest.mark.virtual
@pytest.mark.parity("T3.59")
@pytest.mark.defect("D3.25")
@pytest.mark.parametrize("plain", [False, True])
async def test_a_hook_sees_the_starters_context_and_not_its_cancellation(plain: bool) -> None:
    """A hook has the context variables of whoever started the service, is not cancelled with it, and has time."""
    seen: list[Any] = []

    async def on_loop() -> None:
        await asyncio.sleep(1)
        seen.append((who.get(), current_run().cancelled))

    def in_thread() -> None:
        seen.append((who.get(), current_run().cancelled))

    hook = in_thread if plain else on_loop
    supervisor = rc.Supervisor(rc.OneShot(long, on_stopping=hook, on_stopped=hook), on_stopping=hook, on_stopped=hook)

    async def start() -> None:
        who.set("starter")
        await supervisor.run()

    who.set("somebody else")
    task = asyncio.create_task(start())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert [("starter", False)] * 4 == seen


@pytest.mark.virtual
async def test_each_hook_and_job_has_a_context_of_its_own() -> None:
    """What one hook or run sets is not seen by the next."""
    seen: list[str] = []

    async def look() -> None:
        seen.append(who.get())
        who.set("changed")

    service = rc.Interval(look, "1s", on_stopping=look, on_stopped=[look, look])
    await service.start()
    await asyncio.sleep(1.5)
    await service.stop()
    assert ["nobody"] * 5 == seen
    assert "nobody" == who.get()


@pytest.mark.virtual
async def test_hooks_of_a_service_that_is_supervised_come_with_the_supervisors_end() -> None:
    """A child that is stopped by hand keeps its hooks for the end of the whole."""
    said: list[str] = []
    child = rc.OneShot(long, on_stopped=note(said, "child"))
    supervisor = rc.Supervisor(child, keep_open=True, on_stopped=note(said, "root"))
    await supervisor.start()
    await child.stop()
    assert [] == said
    await supervisor.stop()
    assert ["child", "root"] == said


@pytest.mark.virtual
async def test_a_child_that_is_run_without_its_supervisor_has_its_hooks_called() -> None:
    """Where nobody supervises it just now, a service calls its own hooks."""
    said: list[str] = []
    child = rc.OneShot(lambda: None, on_stopped=note(said, "child"))
    rc.Supervisor(child)
    await child.run()
    assert ["child"] == said


@pytest.mark.virtual
@pytest.mark.parity("T3.59", "T3.52")
@pytest.mark.defect("D3.25")
async def test_hooks_have_their_own_time() -> None:
    """The time of the hooks is their own: neither work that took long nor a timeout of zero takes it away."""
    said: list[float] = []

    async def hook() -> None:
        await asyncio.sleep(3)
        said.append(now())

    for end in ("stop", "kill"):
        service = rc.OneShot(long, on_stopped=hook)
        await service.start()
        await asyncio.sleep(1)
        report = await (service.stop(30) if end == "stop" else service.kill())
        assert () == report.hook_errors
    assert [4.0, 8.0] == said


@pytest.mark.parametrize("hooks", [42, "close", b"close", None, {1: 2}])
def test_what_is_no_hook_is_refused(hooks: Any) -> None:
    """What cannot be called is refused where it is given."""
    with pytest.raises(ConfigError, match=r"on_stopped: .* is neither a callable nor a list of callables"):
        rc.OneShot(long, on_stopped=hooks)


@pytest.mark.parametrize("hook", [42, int, "close"])
def test_what_is_no_hook_in_a_list_is_refused(hook: Any) -> None:
    """Each of several is looked at."""
    with pytest.raises(NotAJob):
        rc.Supervisor(on_stopping=[print, hook])


def test_the_time_for_hooks_is_a_span() -> None:
    """A negative time for hooks would be one that has always passed."""
    with pytest.raises(ConfigError, match="hooks_timeout: -1 is negative"):
        rc.OneShot(long, hooks_timeout=-1)


@pytest.mark.virtual
async def test_a_child_hears_of_the_stop_before_it_is_cancelled_in_its_turn() -> None:
    """In a supervisor each child's stopping hooks come when its own stop begins; the root's before all of them."""
    said: list[str] = []
    supervisor = rc.Supervisor(
        rc.OneShot(long, name="a", on_stopping=note(said, "a")),
        rc.OneShot(long, name="b", on_stopping=note(said, "b")),
        on_stopping=note(said, "root"),
    )
    await supervisor.start()
    await asyncio.sleep(1)
    await supervisor.stop()
    assert ["root", "b", "a"] == said


@pytest.mark.virtual
async def test_hooks_are_not_called_for_an_end_nobody_announced() -> None:
    """A service that ends by itself has no stopping hooks called: there is nothing left that they could unblock."""
    said: list[str] = []
    await rc.OneShot(lambda: None, on_stopping=note(said, "stopping"), on_stopped=note(said, "stopped")).run()
    assert ["stopped"] == said
