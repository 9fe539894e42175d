"""What each worker has for itself: a resource or a job of its own, made, tried, replaced and taken down."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from pool_made import Broken, PlainThings, Thing, Things, is_healthy, now, rounds, seen, use, use_plainly

import runcrew as rc
from runcrew.clock import current

#: Resources on the loop and in threads, and a job for each; with nothing and with a chain around it.
KINDS: list[tuple[Any, Any, dict[str, Any]]] = [
    (Things, use, {}),
    (Things, use, {"deadline": "1h"}),
    (PlainThings, use_plainly, {}),
    (PlainThings, use_plainly, {"deadline": "1h"}),
]
each_kind = pytest.mark.parametrize(
    ("kind", "job", "options"), KINDS, ids=["async", "async chain", "plain", "plain chain"]
)


@each_kind
@pytest.mark.virtual
async def test_each_worker_has_a_resource_of_its_own(kind: Any, job: Any, options: dict[str, Any]) -> None:
    """Each is made once, used by one run at a time, all of one worker, and taken down once at the end."""
    things = kind()
    async with rc.Pool(job, resource=things, initial=3, **options) as pool:
        await asyncio.sleep(9.5)
        assert ([10] * 3, [1] * 3) == ([thing.uses for thing in things.made], [t.most_users for t in things.made])
        assert 4 == await pool.more()
        assert 4 == len(things.made)
        assert 1 == await pool.less(3)
        assert 1 == len(things.open)
    assert things.balanced
    assert (4, 4) == (pool.stats().opened, pool.stats().closed)
    if kind is PlainThings:
        assert [1] * 4 == [len(thing.threads) for thing in things.made]


@pytest.mark.virtual
async def test_workers_that_wait_for_their_resource_are_opening() -> None:
    """A start waits until each has its resource; meanwhile, and while they are taken down, nobody is alive."""
    things = Things(takes=5, leaves=3)
    pool = rc.Pool(use, resource=things, initial=2)
    starting = asyncio.ensure_future(pool.start())
    await asyncio.sleep(1)
    assert (0, 2, 0) == (pool.stats().alive, pool.stats().opening, pool.stats().closing)
    await starting
    assert (5.0, 2, 0) == (now(), pool.stats().alive, pool.stats().opening)
    stopping = asyncio.ensure_future(pool.stop())
    await asyncio.sleep(2)
    assert (0, 0, 2) == (pool.stats().alive, pool.stats().opening, pool.stats().closing)
    await stopping


@each_kind
@pytest.mark.virtual
async def test_a_resource_that_cannot_be_made_is_tried_again(
    kind: Any, job: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A failed opening is counted and logged, keeps no one else from working, and comes again after a pause."""
    things = kind(None, OSError("down"), OSError("down"), OSError("down"))
    backoff = rc.Constant("10s")
    async with rc.Pool(job, resource=things, initial=2, resource_backoff=backoff, **options) as pool:
        await asyncio.sleep(1)
        stats = pool.stats()
        assert (1, 2) == (stats.alive, stats.failed_openings)
        assert isinstance(stats.last_error, OSError)
        await asyncio.sleep(25)
        assert (2, 3) == (pool.stats().alive, pool.stats().failed_openings)
    assert things.balanced
    assert any("could not be made" in record.getMessage() for record in caplog.records)


# --- faulty ones --------------------------------------------------------------------------------


@each_kind
@pytest.mark.defect("D4.18")
@pytest.mark.virtual
async def test_a_resource_that_proves_faulty_is_replaced(kind: Any, job: Any, options: dict[str, Any]) -> None:
    """An error that `healthy` says is the resource's ends no pool: the run has failed, another resource comes."""
    things = kind()

    def breaks(thing: Thing) -> None:
        if thing.number <= 2 and thing.uses == 2:
            raise Broken
        if thing.uses == 5 and thing.number == 3:
            raise KeyError("the job's own")

    async def breaks_async(thing: Thing) -> None:
        await job(thing)
        breaks(thing)

    def breaks_plainly(thing: Thing) -> None:
        job(thing)
        breaks(thing)

    pool = rc.Pool(
        breaks_async if kind is Things else breaks_plainly,
        resource=things, healthy=is_healthy, resource_backoff=rc.Constant(0), stop_on_error=True, **options,
    )  # fmt: skip
    with pytest.raises(KeyError, match="the job's own"):
        await pool.run()
    assert [2, 2, 5] == [thing.uses for thing in things.made]
    assert things.balanced
    stats = pool.stats()
    assert (2, 3, 6) == (stats.replaced, stats.runs.failed, stats.runs.succeeded)


@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_faulty_resources_are_replaced_ever_more_slowly(kind: Any) -> None:
    """A resource that breaks at once each time is not made again and again without a pause."""
    things = kind()

    async def breaks(_: Any) -> None:
        raise Broken

    def breaks_plainly(_: Any) -> None:
        raise Broken

    job: Any = breaks if kind is Things else breaks_plainly
    async with rc.Pool(job, resource=things, healthy=is_healthy) as pool:
        await asyncio.sleep(3600)
        assert 100 <= len(things.made) <= 400
        assert len(things.made) - pool.stats().replaced <= 1
    assert things.balanced


@pytest.mark.virtual
async def test_a_verdict_that_raises_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """Where `healthy` itself fails that is logged, and the resource stays."""

    def broken(_: Exception) -> bool:
        raise KeyError("no idea")

    async def fails(thing: Thing) -> None:
        thing.begin()
        thing.end()
        await asyncio.sleep(1)
        raise OSError

    things = Things()
    async with rc.Pool(fails, resource=things, healthy=broken, backoff=None) as pool:
        await asyncio.sleep(5.5)
        assert (1, 0) == (len(things.made), pool.stats().replaced)
    assert any("healthy" in record.getMessage() for record in caplog.records)


@each_kind
@pytest.mark.virtual
async def test_a_resource_is_tried_before_each_run(kind: Any, job: Any, options: dict[str, Any]) -> None:
    """`check` sees the resource first; what does not pass is replaced, and that run is skipped, which ends no pool."""
    things = kind()

    def passes(thing: Thing) -> bool:
        thing.checks += 1
        return thing.number > 1 or thing.uses < 3

    async with rc.Pool(
        job, resource=things, check=passes, stop_on_error=True, resource_backoff=rc.Constant(0), **options
    ) as pool:
        await asyncio.sleep(10.5)
        first, second = things.made
        assert (3, 4) == (first.uses, first.checks)
        assert (second.uses, 8) == (second.checks, second.uses)
        runs = pool.stats().runs
        assert (1, 0, 1) == (runs.skipped, runs.failed, pool.stats().replaced)
        assert isinstance(pool.stats().last_error, Exception)
    assert things.balanced


@pytest.mark.parametrize("kind", [Things, PlainThings])
@pytest.mark.virtual
async def test_a_check_that_raises_is_one_that_fails(kind: Any) -> None:
    """Its resource is replaced."""
    things = kind()

    def passes(thing: Thing) -> bool:
        if thing.number == 1:
            raise OSError("gone away")
        return True

    job: Any = use if kind is Things else use_plainly
    async with rc.Pool(job, resource=things, check=passes, resource_backoff=rc.Constant(0)) as pool:
        await asyncio.sleep(3.5)
        assert ([0, 4], 1) == ([thing.uses for thing in things.made], pool.stats().runs.skipped)


@pytest.mark.virtual
async def test_a_resource_whose_holder_is_cancelled_from_outside_is_replaced() -> None:
    """Somebody who cancels what holds a resource costs one run, which ends as interrupted, and one resource."""
    things = Things()
    async with rc.Pool(use, resource=things, initial=2, stop_on_error=True) as pool:
        await asyncio.sleep(0.5)
        worker: Any = next(iter(pool.at_work().group.roster))
        worker.keeper.cancel()
        await asyncio.sleep(60)
        assert (2, 2) == (pool.stats().alive, pool.stats().runs.in_flight)
        stats = pool.stats()
        assert (0, 1, 1) == (stats.runs.failed, stats.runs.interrupted, stats.replaced)
    assert things.balanced


# --- kinds that do not fit ----------------------------------------------------------------------


@pytest.mark.virtual
async def test_what_may_be_used_anywhere_says_so() -> None:
    """With threadsafe=True a plain job may have an async resource, and an async job a plain one."""
    async_things, plain_things = Things(), PlainThings()
    async with (
        rc.Pool(use_plainly, resource=async_things, threadsafe=True, name="a"),
        rc.Pool(use, resource=plain_things, threadsafe=True, name="b"),
    ):
        await asyncio.sleep(3.5)
        assert ([4], [4]) == ([t.uses for t in async_things.made], [t.uses for t in plain_things.made])
    assert async_things.balanced
    assert plain_things.balanced


@pytest.mark.virtual
async def test_a_maker_and_its_destroyer() -> None:
    """A callable that makes a resource is followed by what takes it down; what needs that is refused without."""
    closed: list[Any] = []

    class Connection:
        def close(self) -> None:
            closed.append(self)

    async def job(connection: Connection) -> None:
        await asyncio.sleep(1)

    async with rc.Pool(job, resource=Connection, destroy=Connection.close, threadsafe=True, initial=2):
        await asyncio.sleep(1.5)
    assert 2 == len(closed)
    maker: Any = Connection
    pool = rc.Pool(job, resource=maker, threadsafe=True)
    with pytest.raises(rc.ConfigError, match="destroy="):
        await pool.run()


# --- a job of each worker's own -----------------------------------------------------------------


class Own:
    """A job that counts for itself, without a lock."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1
        if self.count == 10:
            with rc.current_run().idle():
                await asyncio.Event().wait()
        await asyncio.sleep(1)


@pytest.mark.parity("T4.3", "T4.4", "E4.5")
@pytest.mark.virtual
async def test_each_worker_has_a_job_of_its_own() -> None:
    """The factory is called once for each worker, on the loop, and for those that come later too."""
    made: list[Own] = []
    inside = 0

    def factory() -> Own:
        nonlocal inside
        assert 0 == inside, "one after another"
        inside += 1
        assert asyncio.get_running_loop() is loop
        made.append(Own())
        inside -= 1
        return made[-1]

    loop = asyncio.get_running_loop()
    async with rc.Pool(job_factory=factory, initial=3) as pool:
        await asyncio.sleep(100)
        assert [10, 10, 10] == [own.count for own in made]
        await pool.more()
        await asyncio.sleep(3.5)
        assert [10, 10, 10, 4] == [own.count for own in made]
        assert (4, 4) == (pool.stats().alive, pool.stats().runs.in_flight)
    assert 4 == len(made)


@pytest.mark.parity("T4.4")
@pytest.mark.virtual
async def test_factories_that_wait_do_so_at_the_same_time() -> None:
    """An async factory may take its time: those of all workers are called together, and the start waits for them."""

    async def factory() -> Own:
        await asyncio.sleep(5)
        return Own()

    async with rc.Pool(job_factory=factory, initial=4) as pool:
        assert (5.0, 4) == (now(), pool.stats().alive)


@pytest.mark.virtual
async def test_a_factory_may_give_plain_jobs() -> None:
    """A plain job of a worker's own runs in that worker's thread; both kinds may come from one factory."""
    counts = [0, 0]

    def plain() -> None:
        counts[0] += 1
        current().block(1)

    async def on_loop() -> None:
        counts[1] += 1
        await asyncio.sleep(1)

    jobs = iter([plain, on_loop])
    async with rc.Pool(job_factory=lambda: next(jobs), initial=2):
        await asyncio.sleep(4.5)
        assert [5, 5] == counts


@pytest.mark.defect("D4.19")
@pytest.mark.virtual
async def test_a_factory_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """What a factory raises is logged and counted, and it is called again after a pause; others work meanwhile."""
    asked: list[float] = []

    def factory() -> Own:
        asked.append(now())
        if len(asked) in (2, 3):
            raise OSError("not now")
        return Own()

    async with rc.Pool(job_factory=factory, initial=2, resource_backoff=rc.Constant("10s")) as pool:
        await asyncio.sleep(1)
        assert 1 == pool.stats().alive
        await asyncio.sleep(60)
        assert (2, 2) == (pool.stats().alive, pool.stats().failed_openings)
    assert any("not now" in record.getMessage() for record in caplog.records)


@pytest.mark.defect("D4.19")
@pytest.mark.parametrize("gave", [None, 3, Own], ids=["None", "3", "a class"])
@pytest.mark.virtual
async def test_a_factory_that_gives_no_job_fails_the_start(gave: Any) -> None:
    """What can never be run is said by the start, with the factory's name; nobody goes on as if it were there."""

    def my_factory() -> Any:
        return gave

    pool = rc.Pool(job_factory=my_factory, initial=2)
    with pytest.raises(rc.ConfigError, match="my_factory"):
        await pool.start()
    assert (rc.State.FAILED, 0) == (pool.state, pool.stats().alive)


@pytest.mark.defect("D4.19")
@pytest.mark.virtual
async def test_a_factory_that_gives_a_job_of_the_wrong_kind_fails_the_pool() -> None:
    """A job that cannot run where it would have to fails the pool with the remedy, also when it comes late."""
    jobs: list[Any] = [use_nothing_plainly, functools.partial(asyncio.sleep, 1)]
    pool = rc.Pool(job_factory=lambda: jobs.pop(0), backend="thread")
    await pool.start()
    pool.more()
    with pytest.raises(rc.NotAJob, match="leave `backend` out"):
        await pool.wait()
    await rounds()
    assert 0 == pool.stats().alive


def use_nothing_plainly() -> None:
    """A plain job."""
    current().block(1)


@pytest.mark.virtual
async def test_a_worker_that_is_replaced_gets_another_job() -> None:
    """With a job of each worker's own, `healthy` says when that is to be made anew."""
    made: list[Own] = []

    class Breaks(Own):
        async def __call__(self) -> None:
            await super().__call__()
            if self.count == 3 and len(made) == 1:
                raise Broken

    def factory() -> Own:
        made.append(Breaks())
        return made[-1]

    async with rc.Pool(job_factory=factory, healthy=is_healthy, resource_backoff=rc.Constant(0)) as pool:
        await seen(lambda: len(made) == 2)
        await asyncio.sleep(2)
        assert (3, 1) == (made[0].count, pool.stats().replaced)
        assert 2 <= made[1].count <= 3
