"""Things that happen at the same moment, in many orders: whichever comes first, the end is a right one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.lifecycle import BaseService, State
from runcrew.testing import run_virtual

SEEDS = range(60)


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


def after(span: float, error: type[BaseException] | None = None) -> Callable[[], Any]:
    """A job that ends, or raises, after so many seconds."""

    async def job() -> None:
        await asyncio.sleep(span)
        if error is not None:
            raise error

    return job


async def at(when: float, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Call all of these at one moment; give what they gave or raised."""

    async def call(one: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(when - now())
        return await one()

    return await asyncio.gather(*(call(one) for one in calls), return_exceptions=True)


def in_every_order(main: Callable[[], Awaitable[None]]) -> None:
    """Run it in many orders; nothing is left on the loop after any of them."""

    async def clean() -> None:
        await main()
        await asyncio.sleep(0.1)
        assert 1 == len(asyncio.all_tasks())

    for seed in SEEDS:
        try:
            run_virtual(clean, seed=seed)
        except BaseException as error:
            error.add_note(f"with the seed {seed}")
            raise


def check(service: BaseService, *errors: int) -> None:
    """It has ended, with one of these numbers of errors, and its counts add up."""
    report = service.report
    assert report is not None
    assert service.state.over
    assert len(report.errors) in errors
    assert () == report.would_not_stop
    runs = getattr(service.stats(), "runs", None)  # type: ignore[attr-defined]
    assert runs is None or (0, runs.begun) == (runs.in_flight, runs.ended)


@pytest.mark.parametrize("call", ["stop", "kill"])
@pytest.mark.parametrize("error", [None, OSError])
@pytest.mark.parametrize("make", [rc.OneShot, lambda job: rc.Interval(job, "1h")])
def test_a_stop_in_the_moment_of_the_end(call: str, error: Any, make: Any) -> None:
    """A job that ends when the stop comes has ended once: by itself, or by the stop."""

    async def main() -> None:
        service = make(after(5, error))
        await service.start()
        await at(5, getattr(service, call), getattr(service, call))
        check(service, *((0, 1) if error else (0,)))
        report = service.report
        assert report.finished + report.cancelled <= 1

    in_every_order(main)


def test_two_failures_at_one_moment() -> None:
    """Both errors come out, whichever is heard of first."""

    async def main() -> None:
        supervisor = rc.Supervisor(
            rc.OneShot(after(5, OSError), name="a"), rc.OneShot(after(5, KeyError), name="b"), rc.OneShot(long)
        )
        with pytest.raises(ExceptionGroup) as caught:
            await supervisor.run()
        assert ["KeyError", "OSError"] == sorted(type(error).__name__ for error in caught.value.exceptions)
        check(supervisor, 2)

    in_every_order(main)


@pytest.mark.parametrize("on_failure", ["stop", "isolate", "restart"])
def test_a_failure_and_a_stop_at_one_moment(on_failure: Any) -> None:
    """The failure of a child in the moment of the stop harms nothing, and is not lost where it is permanent."""

    async def main() -> None:
        child = rc.OneShot(after(5, OSError), on_failure=on_failure)
        supervisor = rc.Supervisor(child, rc.OneShot(long))
        await supervisor.start()
        await at(5, supervisor.stop)
        check(supervisor, 0, 1)
        assert 5.0 == now()
        if on_failure != "restart" and child.error is not None:
            assert 1 == len(supervisor.report.errors if supervisor.report else ())

    in_every_order(main)


@pytest.mark.parametrize("call", ["stop", "remove", "start", "kill"])
def test_a_restart_and_a_call_at_one_moment(call: str) -> None:
    """When the pause before a restart ends, a stop, a removal or a start by hand may come at the same moment."""

    async def main() -> None:
        lives: list[int] = []

        async def job() -> None:
            lives.append(1)
            if len(lives) == 1:
                raise OSError
            await long()

        child = rc.OneShot(job, on_failure="restart")
        supervisor = rc.Supervisor(child, keep_open=True, backoff=rc.Constant("5s"))
        await supervisor.start()
        if call == "remove":
            await at(5, lambda: supervisor.remove("job"))
            assert [] == list(supervisor)
        elif call == "start":
            await at(5, child.start)
            await asyncio.sleep(1)
            assert (2, State.RUNNING) == (child.generation, child.state)
        else:
            await at(5, getattr(supervisor, call))
        await supervisor.stop()
        check(supervisor, 0)
        assert child.state.over
        assert len(lives) <= 2

    in_every_order(main)


def test_an_addition_in_the_moment_of_the_end() -> None:
    """A child that is added when the last one ends is either started or kept for the next life; it is never lost."""

    async def main() -> None:
        late = rc.OneShot(after(1), name="late")
        supervisor = rc.Supervisor(rc.OneShot(after(5)))
        await supervisor.start()

        async def add() -> None:
            supervisor.add(late)

        await at(5, add)
        await supervisor.wait()
        assert (late.generation, now()) in ((1, 6.0), (0, 5.0))
        assert "late" in supervisor
        check(supervisor, 0)

    in_every_order(main)


def test_a_removal_and_a_failure_at_one_moment() -> None:
    """A child that fails when it is removed is gone, and does not take the others with it unless it came first."""

    async def main() -> None:
        supervisor = rc.Supervisor(rc.OneShot(after(5, OSError), name="child"), rc.OneShot(long))
        await supervisor.start()
        await at(5, lambda: supervisor.remove("child"))
        await asyncio.sleep(1)
        await supervisor.stop()
        check(supervisor, 0, 1)

    in_every_order(main)


def test_readiness_and_a_stop_at_one_moment() -> None:
    """A start that is stopped in the moment in which it would be ready ends the one way or the other."""

    async def main() -> None:
        async def job() -> None:
            await asyncio.sleep(5)
            rc.current_run().ready()
            await long()

        child = rc.OneShot(job, ready="signal")
        late = rc.OneShot(long, name="late")
        supervisor = rc.Supervisor(child)
        supervisor.add(late, depends_on=["job"])
        start = asyncio.create_task(supervisor.start())
        await at(5, supervisor.stop)
        await asyncio.wait([start])
        assert start.exception() is None or isinstance(start.exception(), rc.ServiceStopped)
        check(supervisor, 0)
        assert child.state.over
        assert late.state in (State.NEW, State.STOPPED)

    in_every_order(main)


def test_many_calls_at_one_moment() -> None:
    """Starts, stops, kills, waits and runs at once, again and again, end in a service that can be stopped."""

    async def main() -> None:
        child = rc.OneShot(long, name="child", on_failure="restart")
        interval = rc.Interval(after(0.5), "1s")
        supervisor = rc.Supervisor(child, interval, keep_open=True)
        services: list[Any] = [supervisor, child, interval]
        calls = [getattr(service, call) for service in services for call in ("start", "stop", "kill", "start")]
        for round_ in range(1, 6):
            for outcome in await at(float(round_ * 3), *calls):
                assert outcome is None or isinstance(outcome, rc.StopReport | rc.RuncrewError)
        await supervisor.stop()
        for service in services:
            await service.stop()
            check(service, 0)

    in_every_order(main)


def test_a_storm_at_any_moment() -> None:
    """Whenever somebody cancels every task there is, a stop ends all, and no run is lost or counted twice."""

    async def main(moment: float) -> None:
        child = rc.OneShot(after(3), name="child")
        interval = rc.Interval(after(0.5), "1s", retry=rc.Retry(OSError), on_failure="restart")
        supervisor = rc.Supervisor(child, rc.Supervisor(interval, name="nested"), keep_open=True)
        task = asyncio.create_task(supervisor.start())
        await asyncio.sleep(moment)
        for other in asyncio.all_tasks():
            if other is not asyncio.current_task():
                other.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(2)
        await supervisor.stop()
        for service in (supervisor, child, interval):
            await service.stop()
            assert service.state.over
        for service in (child, interval):
            runs = service.stats().runs
            assert (0, runs.begun) == (runs.in_flight, runs.ended)
        await asyncio.sleep(0.1)
        assert 1 == len(asyncio.all_tasks())

    for seed in range(20):
        for moment in (0.0, 0.25, 0.5, 1.0, 2.75, 3.0):
            run_virtual(main, moment, seed=seed)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_timeout_and_a_stop_at_one_moment(in_thread: bool) -> None:
    """An attempt whose time is up when the stop comes has timed out or was interrupted, and ended once."""

    async def main() -> None:
        def plain() -> None:
            rc.current_run().wait_cancelled()

        service = rc.OneShot(plain if in_thread else long, timeout="5s")
        await service.start()
        await at(5, service.stop)
        check(service, 0, 1)

    in_every_order(main)
