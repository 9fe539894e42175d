"""Calls from inside a service's own work: from jobs, hooks, threads and tasks, at every depth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import RuncrewError, ServiceStopping, WouldDeadlock
from runcrew.lifecycle import State


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


@pytest.mark.virtual
@pytest.mark.parametrize("kind", [rc.OneShot, lambda job: rc.Interval(job, "10s")])
@pytest.mark.parametrize("call", ["stop", "kill"])
async def test_a_job_may_stop_its_own_service(kind: Callable[..., Any], call: str) -> None:
    """The stop begins and the call returns at once, with a report that says that it is not complete."""
    reports: list[rc.StopReport] = []

    async def job() -> None:
        reports.append(await getattr(service, call)())

    service = kind(job)
    await service.start()
    report = await service.wait()
    assert ([False], True) == ([r.complete for r in reports], report.complete)
    assert (0.0, State.STOPPED) == (now(), service.state)
    assert str(reports[0]).startswith("job is stopping")


@pytest.mark.virtual
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("call", ["stop", "kill"])
async def test_a_job_may_stop_any_service_above_it(depth: int, call: str) -> None:
    """However deep it sits, a job that stops what it is part of begins that and is not waited for by itself."""
    complete: list[bool] = []

    async def job() -> None:
        await asyncio.sleep(1)
        complete.append((await getattr(chain[depth], call)()).complete)
        await long()

    chain: list[Any] = [rc.OneShot(job)]
    for level in range(3):
        chain.append(rc.Supervisor(chain[-1], rc.OneShot(long, name="other"), name=f"level {level}"))
    await chain[-1].start()
    await asyncio.sleep(2)
    await chain[-1].stop()
    assert ([False], 2.0) == (complete, now())


@pytest.mark.virtual
async def test_a_job_may_stop_its_sibling_and_waits_for_it() -> None:
    """What a job is no part of is stopped as by anybody."""
    reports: list[rc.StopReport] = []

    async def sibling() -> None:
        try:
            await long()
        finally:
            await asyncio.sleep(2)

    async def job() -> None:
        reports.append(await other.stop())

    other = rc.OneShot(sibling)
    await rc.Supervisor(other, rc.OneShot(job)).run()
    assert [(True, 1, 2.0)] == [(report.complete, report.cancelled, now()) for report in reports]


@pytest.mark.virtual
@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_a_job_that_waits_for_what_it_is_part_of_is_told(depth: int) -> None:
    """Waiting for one's own end would last for ever: it raises at once."""

    async def job() -> None:
        await chain[depth].wait()

    chain: list[Any] = [rc.OneShot(job, name="job")]
    for level in range(2):
        chain.append(rc.Supervisor(chain[-1], name=f"level {level}"))
    with pytest.raises((WouldDeadlock, ExceptionGroup)):
        await chain[-1].run()
    assert isinstance(chain[0].error, WouldDeadlock)
    assert f"waits for {chain[depth].name} to end" in str(chain[0].error)


@pytest.mark.virtual
@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_a_job_that_waits_for_the_readiness_it_is_part_of_is_told(depth: int) -> None:
    """A migration that starts its own supervisor while that waits for the migration is told so."""

    async def job() -> None:
        await chain[depth].start()

    chain: list[Any] = [rc.OneShot(job, name="job", ready="succeeded")]
    for level in range(2):
        chain.append(rc.Supervisor(chain[-1], name=f"level {level}"))
    with pytest.raises((WouldDeadlock, ExceptionGroup)):
        await chain[-1].start()
    assert isinstance(chain[0].error, WouldDeadlock)


@pytest.mark.virtual
async def test_start_from_inside_while_running_does_nothing() -> None:
    """Where all are ready, a start from inside is the no-op that it is from anywhere."""

    async def job() -> None:
        await asyncio.sleep(1)
        await service.start()
        await supervisor.start()

    service = rc.OneShot(job)
    supervisor = rc.Supervisor(service)
    await supervisor.run()
    assert (1, 1) == (service.generation, supervisor.generation)


HOOKS = ("on_stopping", "on_stopped")


@pytest.mark.virtual
@pytest.mark.parametrize("moment", HOOKS)
@pytest.mark.parametrize("call", ["start", "stop", "kill", "wait", "run", "add", "remove"])
@pytest.mark.parametrize("whose", ["own", "child's", "child's on the root", "nested child's on the root"])
async def test_a_hook_may_call_anything(moment: str, call: str, whose: str) -> None:
    """Whatever a hook calls works or raises at once; no hook waits for itself, and the end comes as without it."""
    answers: list[Any] = []

    async def hook() -> None:
        try:
            if call == "add":
                answers.append(supervisor.add(rc.OneShot(long, name="new")))
            elif call == "remove":
                answers.append(await supervisor.remove("other"))
            else:
                answers.append(await getattr(target, call)())
        except RuncrewError as error:
            answers.append(error)

    options: Any = {moment: hook}
    child = rc.OneShot(long, name="child", **(options if whose.startswith("child's") else {}))
    deep = rc.OneShot(long, name="deep", **(options if whose.startswith("nested") else {}))
    supervisor = rc.Supervisor(
        child,
        rc.Supervisor(deep, name="nested"),
        rc.OneShot(long, name="other"),
        name="root",
        **(options if whose == "own" else {}),
    )
    target = child if whose == "child's" else supervisor
    await supervisor.start()
    await asyncio.sleep(1)
    report = await supervisor.stop()
    assert 1.0 == now()
    assert () == report.hook_errors
    (answer,) = answers
    if call in ("add", "remove", "start", "run"):
        by_itself = call in ("start", "run") and whose == "child's" and moment == "on_stopped"
        assert isinstance(answer, ServiceStopping), by_itself
    elif call == "wait":
        over = whose == "child's" and moment == "on_stopped"
        assert isinstance(answer, rc.StopReport if over else WouldDeadlock)
    else:
        assert answer.complete is (whose == "child's" and moment == "on_stopped")


@pytest.mark.virtual
@pytest.mark.parametrize("call", ["stop", "kill"])
async def test_a_thread_may_stop_its_own_service(call: str) -> None:
    """A job in a thread asks on the loop, and is known there as what it is."""
    complete: list[bool] = []
    loop = asyncio.get_running_loop()

    def job() -> None:
        coro = getattr(service, call)()
        complete.append(asyncio.run_coroutine_threadsafe(coro, loop).result().complete)

    service = rc.OneShot(job)
    await rc.Supervisor(service).run()
    assert [False] == complete


@pytest.mark.virtual
async def test_a_task_that_a_job_has_started_is_inside_too() -> None:
    """What a job starts is part of its work, and is not waited for by the stop that it asks for."""
    complete: list[bool] = []

    async def ask() -> None:
        complete.append((await service.stop()).complete)

    async def job() -> None:
        await asyncio.create_task(ask())

    service = rc.OneShot(job)
    await service.run()
    assert [False] == complete


@pytest.mark.virtual
async def test_what_a_job_starts_and_waits_for_is_inside_too() -> None:
    """A service that is run by a job of another is part of that: what would be a ring of waiting is told."""
    errors: list[BaseException] = []

    async def inner() -> None:
        try:
            await outer_service.wait()
        except WouldDeadlock as error:
            errors.append(error)

    async def outer() -> None:
        await rc.OneShot(inner).run()

    outer_service = rc.OneShot(outer)
    await outer_service.run()
    assert 1 == len(errors)


@pytest.mark.virtual
async def test_an_outsider_is_not_inside() -> None:
    """Whoever started a service, also a job of another, waits for its end as anybody."""
    reports: list[rc.StopReport] = []

    async def outer() -> None:
        inner = rc.OneShot(long, name="inner")
        await inner.start()
        reports.append(await inner.stop())

    await rc.OneShot(outer).run()
    assert [True] == [report.complete for report in reports]


@pytest.mark.virtual
async def test_a_child_added_by_a_job_is_not_inside_that_job() -> None:
    """What a job adds to its supervisor is a child like the others: the job can stop it, and wait for it."""
    reports: list[rc.StopReport] = []

    async def job() -> None:
        supervisor.add(rc.OneShot(long, name="new"))
        await asyncio.sleep(1)
        new: Any = supervisor["new"]
        reports.append(await new.stop())

    supervisor = rc.Supervisor(rc.OneShot(job))
    await supervisor.run()
    assert [(True, 1)] == [(report.complete, report.cancelled) for report in reports]
