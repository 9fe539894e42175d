"""Every public coroutine, cancelled at every place where it can be: nothing leaks, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import runcrew as rc
from runcrew.lifecycle import BaseService, State
from runcrew.testing import cancel_everywhere


async def long() -> None:
    """Goes on until it is cancelled, then cleans up."""
    try:
        await asyncio.sleep(1e6)
    finally:
        await asyncio.sleep(0.5)


async def short() -> None:
    """Ends by itself."""
    await asyncio.sleep(1)


async def hook() -> None:
    """Takes its time."""
    await asyncio.sleep(0.1)


def oneshot() -> BaseService:
    """A service whose start and end take several steps."""

    async def job() -> None:
        await asyncio.sleep(0.5)
        rc.current_run().ready()
        await long()

    return rc.OneShot(job, ready="signal", on_stopping=hook, on_stopped=[hook, hook])


def ends() -> BaseService:
    """One that ends by itself."""
    return rc.OneShot(short, on_stopped=hook)


def ending_tree() -> BaseService:
    """A supervisor that ends by itself."""
    made = rc.Supervisor(ends(), name="top", on_stopped=hook)
    made.add(rc.Supervisor(rc.OneShot(lambda: None, name="plain"), name="nested"), depends_on=["short"])
    return made


def tree() -> BaseService:
    """A supervisor with dependencies and a nested one."""
    made = rc.Supervisor(name="top", on_stopping=hook, on_stopped=hook)
    made.add(rc.OneShot(short, name="migrate", ready="succeeded", on_stopped=hook))
    made.add(rc.Supervisor(oneshot(), rc.Interval(short, "10s"), name="nested"), depends_on=["migrate"])
    return made


def plain() -> BaseService:
    """One whose job is in a thread."""
    return rc.OneShot(lambda: rc.current_run().wait_cancelled() and None, name="plain", on_stopped=lambda: None)


async def left_alone(service: BaseService) -> None:
    """After whatever happened, a stop ends the service for good, and it can be started again."""
    await service.stop()
    assert service.state.over
    await service.start()
    assert service.state in (State.RUNNING, State.STOPPED)
    await service.kill()
    assert 1 == len(asyncio.all_tasks())


Make = Callable[[], BaseService]
every_kind = pytest.mark.parametrize("make", [oneshot, tree, plain], ids=lambda make: make.__name__)


async def everywhere(
    make: Make,
    use: Callable[[BaseService], Coroutine[Any, Any, Any]],
    check: Callable[[BaseService, asyncio.Task[Any]], Any],
    *,
    leaves_tasks: bool = False,
) -> int:
    """Cancel `use(service)` everywhere, each time with a fresh service."""
    service: list[BaseService] = []

    def begin() -> Coroutine[Any, Any, Any]:
        service[:] = [make()]
        return use(service[0])

    async def look(task: asyncio.Task[Any]) -> None:
        check(service[0], task)
        await left_alone(service[0])

    return await cancel_everywhere(begin, look, leaves_tasks=leaves_tasks)


@every_kind
@pytest.mark.virtual
async def test_start(make: Make) -> None:
    """A start that is cancelled leaves a service that has ended, and one that is not, a service that runs."""

    async def use(service: BaseService) -> None:
        await service.start()

    def check(service: BaseService, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            assert State.RUNNING is service.state
        else:
            assert service.state in (State.NEW, State.STOPPED, State.STOPPING)
        assert None is service.error

    assert (1 if make is not plain else 0) <= await everywhere(make, use, check, leaves_tasks=True)


@every_kind
@pytest.mark.virtual
async def test_stop(make: Make) -> None:
    """A stop whose caller is cancelled goes on without it."""

    async def use(service: BaseService) -> None:
        await service.start()
        await service.stop()

    def check(service: BaseService, task: asyncio.Task[Any]) -> None:
        assert service.state in (State.NEW, State.STOPPED, State.STOPPING)
        assert None is service.error

    assert 1 <= await everywhere(make, use, check, leaves_tasks=True)


@pytest.mark.parametrize("make", [ends, ending_tree], ids=lambda make: make.__name__)
@pytest.mark.virtual
async def test_run(make: Make) -> None:
    """A `run` that is cancelled has ended its service before it returns, and left nothing behind."""

    async def use(service: BaseService) -> None:
        await service.run()

    def check(service: BaseService, task: asyncio.Task[Any]) -> None:
        assert service.state in (State.NEW, State.STOPPED)
        assert None is service.error

    assert 1 <= await everywhere(make, use, check)


@every_kind
@pytest.mark.virtual
async def test_async_with(make: Make) -> None:
    """A block that is cancelled, at its beginning, inside or at its end, has ended its service when it is left."""

    async def use(service: BaseService) -> None:
        async with service:
            await asyncio.sleep(1)

    def check(service: BaseService, task: asyncio.Task[Any]) -> None:
        assert service.state in (State.NEW, State.STOPPED)

    assert 2 <= await everywhere(make, use, check)


@pytest.mark.virtual
async def test_wait() -> None:
    """A `wait` that is cancelled changes nothing: the service ends when it ends."""

    async def use(service: BaseService) -> None:
        await service.start()
        await service.wait()

    def check(service: BaseService, task: asyncio.Task[Any]) -> None:
        assert task.cancelled() or State.STOPPED is service.state
        assert None is service.error

    assert 1 <= await everywhere(ends, use, check, leaves_tasks=True)


@pytest.mark.virtual
async def test_remove() -> None:
    """A removal whose caller is cancelled goes on without it: the child is gone in the end, its hooks called once."""
    called: list[int] = []

    def make() -> BaseService:
        called.clear()
        child = rc.OneShot(long, name="child", on_stopped=[hook, lambda: called.append(1)])
        return rc.Supervisor(child, keep_open=True)

    async def use(service: BaseService) -> None:
        assert isinstance(service, rc.Supervisor)
        await service.start()
        await service.remove("child")

    async def look(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(2)
        (service,) = services
        assert isinstance(service, rc.Supervisor)
        if service.state is State.RUNNING:
            assert (0, [1]) == (len(service), called)
        await service.kill()

    services: list[BaseService] = []

    def begin() -> Coroutine[Any, Any, Any]:
        services[:] = [make()]
        return use(services[0])

    assert 1 <= await cancel_everywhere(begin, look, leaves_tasks=True)


@pytest.mark.virtual
async def test_a_run_that_is_cancelled_never_loses_an_error() -> None:
    """Wherever `run` is cancelled, an error that its service has raised by then, or raises over it, comes out."""

    async def job() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0.5)
            raise OSError("clean-up")

    service: list[BaseService] = []

    def begin() -> Coroutine[Any, Any, Any]:
        service[:] = [rc.Supervisor(rc.OneShot(job, on_stopped=hook))]
        return use()

    async def use() -> None:
        with pytest.raises(ExceptionGroup, match="1 permanent error"):
            await service[0].run()

    def look(task: asyncio.Task[Any]) -> None:
        assert service[0].state in (State.NEW, State.FAILED)
        assert (service[0].state is State.NEW) is task.cancelled()

    assert 1 <= await cancel_everywhere(begin, look, swallows=True)


@pytest.mark.virtual
@pytest.mark.parametrize("calls", [["stop"], ["kill"], ["stop", "kill"], ["start", "stop"], ["run", "stop"]])
async def test_a_job_that_is_cancelled_while_it_calls(calls: list[str]) -> None:
    """A job may be cancelled in the middle of any call to its own tree."""

    async def job() -> None:
        for call in calls:
            try:
                await getattr(top, call)()
            except rc.RuncrewError:
                await asyncio.sleep(0)
        await long()

    top = rc.Supervisor(rc.OneShot(job))
    await top.start()
    await asyncio.sleep(2)
    await top.stop()
    assert top.state.over
