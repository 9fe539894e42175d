"""Pools in a crew: how they are declared, and when they start and stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.abc import Handler
from runcrew.events import Restarted
from runcrew.job import Outcome, Run
from runcrew.lifecycle import State
from runcrew.testing import virtual_loop


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def second() -> None:
    """A run of one second."""
    await asyncio.sleep(1)


def told_by(said: list[str], name: str) -> Callable[[], AsyncIterator[str]]:
    """Makes a resource that notes when it is opened and closed."""

    async def resource() -> AsyncIterator[str]:
        said.append(f"{name} opens")
        yield name
        said.append(f"{name} closes")

    return resource


# --- declaring ----------------------------------------------------------------------------------


def test_a_pool_is_a_child() -> None:
    """`crew.pool` gives the pool that `crew["name"]` is, with the options of a Pool."""
    crew = rc.Crew()
    pool = crew.pool("consumers", second, min=1, max=20, initial=3)
    assert isinstance(pool, rc.Pool)
    assert crew["consumers"] is pool
    assert ("consumers", 3, 1, 20) == (pool.name, pool.size, pool.stats().min, pool.stats().max)
    assert {"consumers": pool.stats()} == crew.stats().children


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min": -1}, "min: -1 is not a whole number"),
        ({"depends_on": ["pool"]}, "in a circle: pool -> pool"),
        ({"on_failure": "shrug"}, "on_failure: 'shrug'"),
        ({"job_factory": second}, "give it or `job`, not both"),
        ({"backend": "cloud"}, "backend: 'cloud' is unknown"),
        ({"scale": rc.Scale()}, "scale: there is no room to scale in"),
    ],
)
def test_bad_pools_are_refused(options: dict[str, Any], said: str) -> None:
    """A mistake is told where it is made, and nothing is added."""
    crew = rc.Crew()
    with pytest.raises(rc.ConfigError, match=said):
        crew.pool("pool", second, **options)
    assert [] == list(crew)


def test_a_name_is_given_once() -> None:
    """Two pools of one name are refused, and so is an unknown option, and a pool without a job."""
    crew = rc.Crew()
    crew.pool("one", second)
    with pytest.raises(rc.ConfigError, match="a child named 'one' already"):
        crew.pool("one", second)
    with pytest.raises(TypeError, match="wrokers"):
        crew.pool("other", second, wrokers=2)  # type: ignore[call-overload]
    with pytest.raises(rc.ConfigError, match="job: there is none"):
        crew.pool("none")  # type: ignore[call-overload]
    assert ["one"] == list(crew)


# --- settings of the whole ----------------------------------------------------------------------


def noting(seen: list[str], what: str) -> Callable[[Handler], Handler]:
    """A middleware that notes each run that goes through it."""

    def middleware(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            seen.append(what)
            return await inner(run)

        return handle

    return middleware


@pytest.mark.virtual
async def test_the_crews_settings_hold_for_the_runs_of_its_pools() -> None:
    """Timeout, deadline and middleware, unless the pool says otherwise; None means none, and the crew's is outside."""
    seen: list[str] = []
    crew = rc.Crew(timeout="2s", deadline="3s", middleware=[noting(seen, "crew's")])

    async def long() -> None:
        await asyncio.sleep(5)

    own = [noting(seen, "its own")]
    usual = crew.pool("usual", long, middleware=own)
    none = crew.pool("none", long, timeout=None, deadline=None)
    due = crew.pool("due", long, timeout=None)
    async with crew:
        await asyncio.sleep(2.5)
        assert ["crew's", "its own", "crew's", "crew's"] == seen[:4]
        assert (1, 0, 0) == (usual.stats().runs.timed_out, due.stats().runs.timed_out, none.stats().runs.timed_out)
        await asyncio.sleep(1)
        assert 1 == due.stats().runs.timed_out, "the deadline is still the crew's"
        await asyncio.sleep(2)
        assert (1, 0) == (none.stats().runs.succeeded, none.stats().runs.timed_out)


@pytest.mark.virtual
async def test_the_crews_backend_holds_where_there_is_no_resource() -> None:
    """A resource says where its jobs run; without one they run where all jobs of the crew do."""
    here: list[str] = []

    class Elsewhere:
        """A backend that answers by itself."""

        async def handle(self, run: Run, /) -> Outcome[Any]:
            await asyncio.sleep(1)
            return Outcome(rc.Status.SUCCEEDED, None, queued=run.queued, started=run.queued, ended=run.queued)

    def job_of(name: str) -> Callable[..., Any]:
        async def job(*_: object) -> None:
            here.append(name)
            await asyncio.sleep(1)

        return job

    crew = rc.Crew(backend=Elsewhere())
    bare = crew.pool("bare", job_of("bare"))
    crew.pool("said", job_of("said"), backend=None)
    crew.pool("made", job_factory=lambda: job_of("made"))
    crew.pool("owning", job_of("owning"), resource=told_by([], "a"))
    async with crew:
        await asyncio.sleep(0.5)
    assert ["said", "owning"] == here
    assert 1 == bare.stats().runs.succeeded


# --- starting and stopping --------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_crew_with_a_pool_alone_runs_until_it_is_stopped() -> None:
    """A pool never ends by itself; the crew's stop lets each worker finish its run."""
    crew = rc.Crew()
    pool = crew.pool("pool", second, initial=3)
    await crew.start()
    await asyncio.sleep(100.5)
    assert State.RUNNING is crew.state
    assert 300 == pool.stats().runs.succeeded
    report = await crew.stop()
    assert (101.0, True, 303) == (now(), report.clean, pool.stats().runs.succeeded)
    with pytest.raises(rc.ServiceStopped):
        pool.more()


@pytest.mark.virtual
async def test_a_pool_is_a_source() -> None:
    """Whatever the order of adding, queues are ready before its first run and take what its last runs submit."""
    said: list[str] = []
    crew = rc.Crew()

    async def job() -> None:
        said.append("begins")
        await asyncio.sleep(5)
        await db.submit(store)
        said.append("ends")

    async def store(resource: str) -> None:
        await asyncio.sleep(2)
        said.append(f"stored in {resource}")

    crew.pool("pool", job, min=1)
    db = crew.queue("db", resource=told_by(said, "db"))
    await crew.start()
    await asyncio.sleep(1)
    report = await crew.stop()
    assert ["db opens", "begins", "ends", "stored in db", "db closes"] == said
    assert (7.0, True) == (now(), report.clean)


@pytest.mark.virtual
async def test_all_sources_stop_together() -> None:
    """A pool does not wait for the other sources to end, nor they for it."""
    crew = rc.Crew()
    ended: dict[str, float] = {}

    def job(name: str, span: float) -> Callable[[], Any]:
        async def job() -> None:
            await asyncio.sleep(span)
            ended[name] = now()

        return job

    crew.pool("one", job("one", 4))
    crew.add(rc.Interval(job("poll", 5), "1h"), name="poll")
    crew.pool("two", job("two", 6))
    await crew.start()
    await asyncio.sleep(1)
    await crew.stop()
    assert ({"one": 4.0, "poll": 5.0, "two": 6.0}, 6.0) == (ended, now())


@pytest.mark.virtual
async def test_depends_on_beats_the_phases() -> None:
    """Who depends on a pool starts when it is ready, and has ended before its workers leave."""
    said: list[str] = []
    crew = rc.Crew()
    inbox: asyncio.Queue[str] = asyncio.Queue()

    @crew.interval("1h", depends_on=["answers"])
    async def poll() -> None:
        await asyncio.sleep(5)
        await inbox.put("a question")
        while not said[-1].startswith("answered"):
            await asyncio.sleep(0.1)

    async def answer(resource: str) -> None:
        with rc.current_run().idle():
            question = await inbox.get()
        said.append(f"answered {question}")

    crew.pool("answers", answer, resource=told_by(said, "a"), depends_on=["first"])

    @crew.oneshot(ready="succeeded")
    async def first() -> None:
        said.append("first")

    await crew.start()
    await asyncio.sleep(1)
    report = await crew.stop()
    assert ["first", "a opens", "answered a question", "a closes"] == said
    assert report.clean
    assert now() < 6


@pytest.mark.virtual
async def test_a_consumer_that_waits_holds_no_stop_up() -> None:
    """What only waits for something to do ends with the stop at once, as interrupted, and is no failure."""
    crew = rc.Crew()
    inbox: asyncio.Queue[int] = asyncio.Queue()
    seen: list[int] = []

    async def consume() -> None:
        with rc.current_run().idle():
            item = await inbox.get()
        await asyncio.sleep(item)
        seen.append(item)

    pool = crew.pool("consumers", consume, initial=3)
    await crew.start()
    inbox.put_nowait(4)
    await asyncio.sleep(1)
    assert (1, 2) == (pool.stats().busy, pool.stats().idle)
    report = await crew.stop()
    assert ([4], 4.0, True) == (seen, now(), report.clean)
    assert (1, 2, 0) == (pool.stats().runs.succeeded, pool.stats().runs.interrupted, pool.stats().runs.failed)


@pytest.mark.virtual
async def test_a_kill_cuts_its_runs_short() -> None:
    """Nothing is waited for, and each run ends as interrupted."""
    crew = rc.Crew()
    pool = crew.pool("pool", second, initial=4)
    await crew.start()
    await asyncio.sleep(0.5)
    report = await crew.kill()
    assert (0.5, True, 4) == (now(), report.clean, pool.stats().runs.interrupted)


@pytest.mark.virtual
async def test_it_can_be_scaled_by_its_handle() -> None:
    """`more`, `less` and `resize` act while the crew runs, and 0 is a pause."""
    crew = rc.Crew()
    pool = crew.pool("pool", second, max=5)
    async with crew:
        assert 3 == await pool.more(2)
        assert 1 == await pool.less(2)
        assert 0 == await pool.resize(0)
        before = pool.stats().runs.ended
        await asyncio.sleep(100)
        assert (before, State.RUNNING) == (pool.stats().runs.ended, crew.state)
        with pytest.raises(rc.AtMax):
            pool.resize(6)


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_pool_may_have_done_all_there_was() -> None:
    """`raise rc.Done` in a run ends the pool, and, where that was all, the crew, well."""
    crew = rc.Crew()
    left = iter(range(5))

    async def job() -> None:
        await asyncio.sleep(1)
        if next(left, None) is None:
            raise rc.Done

    pool = crew.pool("pool", job, initial=2)
    await crew.run()
    assert State.STOPPED is pool.state
    assert (4.0, 0) == (now(), pool.stats().runs.failed), "the other worker had just begun another run"


@pytest.mark.virtual
async def test_a_run_may_end_the_whole_tree() -> None:
    """`raise rc.StopTree` in a run stops the crew, well; other runs finish."""
    crew = rc.Crew()
    ended: list[str] = []

    @crew.interval("1h")
    async def poll() -> None:
        await asyncio.sleep(3)
        ended.append("poll")

    async def job() -> None:
        await asyncio.sleep(1)
        raise rc.StopTree("enough")

    crew.pool("pool", job)
    await crew.run()
    assert (["poll"], 3.0) == (ended, now())


@pytest.mark.virtual
async def test_a_failed_run_is_nobodys_failure() -> None:
    """Without `stop_on_error` runs may fail as they like: the crew goes on."""
    crew = rc.Crew()

    async def job() -> None:
        await asyncio.sleep(1)
        raise ValueError("again")

    pool = crew.pool("pool", job)
    async with crew:
        await asyncio.sleep(100)
        assert State.RUNNING is crew.state
        assert 10 < pool.stats().runs.failed
        assert "again" == str(pool.stats().last_error)


def failing_at(begun: list[float], span: float) -> Callable[[], Any]:
    """A job that notes when it begins, and fails after so long."""

    async def job() -> None:
        begun.append(now())
        await asyncio.sleep(span)
        raise ConnectionError("gone")

    return job


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("on_failure", "lives", "others_end"), [(None, 1, 2.0), ("stop", 1, 2.0), ("isolate", 1, 10.0), ("restart", 3, 8.0)]
)
async def test_a_pool_that_fails_for_good_is_a_failed_child(on_failure: Any, lives: int, others_end: float) -> None:
    """By `stop_on_error` the first failure is the pool's own, and is handled as the crew was told; default "stop"."""
    crew = rc.Crew(intensity=rc.Intensity(2, "1h"), backoff=rc.Constant("1s"))
    begun: list[float] = []
    restarts: list[float] = []
    ended: list[float] = []
    crew.subscribe(lambda event: restarts.append(event.delay), Restarted)
    crew.pool("pool", failing_at(begun, 2), stop_on_error=True, on_failure=on_failure)

    @crew.oneshot
    async def other() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(now())

    with pytest.raises(ExceptionGroup) as caught:
        await crew.run()
    assert [ConnectionError] == [type(error) for error in caught.value.exceptions]
    assert (lives, lives - 1, [others_end]) == (len(begun), len(restarts), ended)


@pytest.mark.virtual
@pytest.mark.parametrize("end", [OSError, rc.Done])
async def test_a_pool_that_has_ended_wakes_nobody_up(end: type[Exception]) -> None:
    """While the others go on, nothing of it is left on the loop: time goes from one of their timers to the next."""

    async def job() -> None:
        await asyncio.sleep(1)
        raise end

    crew = rc.Crew(keep_open=True)
    crew.pool("pool", job, initial=2, stop_on_error=True, on_failure="isolate")
    await crew.start()
    await asyncio.sleep(5)
    assert [] == [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    await crew.kill()


@pytest.mark.virtual
async def test_a_restarted_pool_is_a_new_life() -> None:
    """It has as many workers as at first, whatever was asked for since, and counts from nothing."""
    crew = rc.Crew(backoff=rc.Constant("1s"))
    trouble = iter([None, None, OSError("once")])

    async def job() -> None:
        await asyncio.sleep(1)
        if (error := next(trouble, None)) is not None:
            raise error

    pool = crew.pool("pool", job, initial=1, stop_on_error=True, on_failure="restart")
    async with crew:
        pool.resize(3)
        await asyncio.sleep(5.5)
        assert (2, State.RUNNING, 1) == (pool.generation, pool.state, pool.size)
        assert (3, 0) == (pool.stats().runs.succeeded, pool.stats().runs.failed)


@pytest.mark.virtual
async def test_a_thread_that_does_not_end_is_named() -> None:
    """The crew's report says which pool, which run, and where it hangs."""
    may_end = threading.Event()
    begun = threading.Event()

    def hangs() -> None:
        begun.set()
        may_end.wait(30)

    crew = rc.Crew()
    crew.pool("pool", hangs)
    await crew.start()
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)
    ahead = asyncio.ensure_future(virtual_loop().advance("1m"))
    report = await crew.kill()
    ahead.cancel()
    (stuck,) = report.would_not_stop
    assert "pool" == stuck.service
    assert "may_end.wait(30)" in stuck.stack
    may_end.set()


@pytest.mark.virtual
async def test_a_second_life_of_the_crew_is_a_second_life_of_its_pools() -> None:
    """Nothing is left over from the first one."""
    crew = rc.Crew()
    pool = crew.pool("pool", second)
    for life in (1, 2):
        async with crew:
            await asyncio.sleep(2.5)
            assert (life, 2) == (pool.generation, pool.stats().runs.succeeded)


# --- scaling ------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_scaled_pool_follows_its_load_and_stops_with_the_crew() -> None:
    """More workers where all are busy, back to `min` when the load has gone, and the stop ends it as ever."""
    crew = rc.Crew()
    busy = True

    async def job() -> None:
        if busy:
            await asyncio.sleep(0.5)
        else:
            with rc.current_run().idle():
                await asyncio.sleep(1)

    pool = crew.pool("pool", job, min=1, max=6, scale=rc.Scale(hold="20s", cooldown="5s"))
    await crew.start()
    await asyncio.sleep(30)
    assert 6 == pool.size
    busy = False
    await asyncio.sleep(120)
    assert 1 == pool.size
    assert [1, 1] == [pool.stats().decisions[0].before, pool.stats().decisions[-1].after]
    assert (await crew.stop()).clean
