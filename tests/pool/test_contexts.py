"""Context variables: jobs see those of whoever started the pool, and nobody else sees theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from pool_made import Script, seen

import runcrew as rc
from runcrew.clock import current

who: ContextVar[str] = ContextVar("who", default="nobody")

each_way = pytest.mark.parametrize("way", [{}, {"deadline": "1h"}], ids=["bare", "chain"])


@each_way
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.defect("D4.15")
@pytest.mark.virtual
async def test_jobs_see_the_context_of_whoever_started_the_pool(plain: bool, way: dict[str, Any]) -> None:
    """Not that of where it was made, nor of who makes it more; each life has its starter's."""
    saw: list[str] = []

    async def job() -> None:
        saw.append(who.get())
        await asyncio.sleep(1)

    def job_plainly() -> None:
        saw.append(who.get())
        current().block(1)

    who.set("maker")
    pool = rc.Pool(job_plainly if plain else job, **way)
    for starter in ("first", "second"):
        saw.clear()
        who.set(starter)
        await pool.start()
        who.set("somebody later")
        await asyncio.sleep(1.5)
        await pool.more()
        await asyncio.sleep(1)
        await pool.stop()
        assert 4 <= len(saw)
        assert {starter} == set(saw)


@each_way
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_what_a_job_sets_is_seen_by_no_other_worker(plain: bool, way: dict[str, Any]) -> None:
    """Each worker has a context of its own; neither another one nor the starter sees what is set there."""
    names = iter(["a", "b"])
    saw: dict[str, list[str]] = {"a": [], "b": []}

    def factory() -> Any:
        mine = next(names)

        def step() -> None:
            saw[mine].append(who.get())
            who.set(mine)

        async def job() -> None:
            step()
            await asyncio.sleep(1)

        def job_plainly() -> None:
            step()
            current().block(1)

        return job_plainly if plain else job

    async with rc.Pool(job_factory=factory, initial=2, **way):
        await asyncio.sleep(3.5)
    assert "nobody" == who.get()
    for mine, values in saw.items():
        assert "nobody" == values[0]
        assert set(values) <= {"nobody", mine}


@pytest.mark.virtual
async def test_makers_and_takers_down_see_it_too() -> None:
    """A resource, a factory and a check run in the context of the starter as jobs do."""
    saw: list[tuple[str, str]] = []

    async def resource() -> AsyncIterator[int]:
        saw.append(("make", who.get()))
        yield 1
        saw.append(("destroy", who.get()))

    def plain_resource() -> Iterator[int]:
        saw.append(("make", who.get()))
        yield 1
        saw.append(("destroy", who.get()))

    async def job(_: int) -> None:
        saw.append(("job", who.get()))
        await asyncio.sleep(1)

    def plain_job(_: int) -> None:
        saw.append(("job", who.get()))
        current().block(1)

    who.set("starter")
    pools = [rc.Pool(job, resource=resource), rc.Pool(plain_job, resource=plain_resource)]
    for pool in pools:
        saw.clear()
        await pool.start()
        token = who.set("other")
        await asyncio.sleep(0.5)
        await pool.stop()
        who.reset(token)
        assert [("make", "starter"), ("job", "starter"), ("destroy", "starter")] == saw


@pytest.mark.virtual
async def test_a_worker_that_comes_again_begins_anew() -> None:
    """After a pause the new workers see what the starter has set, nothing of what the old ones did."""
    saw: list[str] = []

    async def job() -> None:
        saw.append(who.get())
        who.set("job")
        await asyncio.sleep(1)

    who.set("starter")
    async with rc.Pool(job) as pool:
        await asyncio.sleep(0.5)
        await pool.resize(0)
        await pool.resize(1)
        await asyncio.sleep(0.5)
    assert ["starter", "starter"] == saw


@pytest.mark.virtual
async def test_sinks_and_hooks_see_nothing_of_jobs() -> None:
    """Who listens and who is called at the end is in a context of its own."""
    saw: list[str] = []

    async def job() -> None:
        who.set("job")
        await asyncio.sleep(1)
        raise OSError

    pool = rc.Pool(job, on_stopped=lambda: saw.append(who.get()))
    pool.subscribe(lambda _: saw.append(who.get()))
    async with pool:
        await asyncio.sleep(2.5)
    assert {"nobody"} == set(saw)


@pytest.mark.virtual
async def test_a_queue_that_a_job_uses_is_another_service() -> None:
    """A run of a queue that a pool's job asks for is no run of the pool: waiting for it is no deadlock."""
    script = Script(1)

    async def ask() -> None:
        assert "q" == rc.current_run().service
        await asyncio.sleep(1)

    async def job() -> None:
        await queue.run(ask)
        assert "job" == rc.current_run().service
        await script()

    async with rc.Queue("q") as queue, rc.Pool(job, name="job") as pool:
        await seen(lambda: script.over)
        assert 0 == pool.stats().runs.failed
