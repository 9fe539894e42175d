"""What is put around the runs of a pool: counters that cost nothing and those that wrap, paces, retries, one's own."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from typing import Any

import pytest
from pool_made import Broken, Busy, PlainScript, Script, Things, is_healthy, now, rounds, seen

import runcrew as rc
from runcrew.clock import current


def nothing(handler: Any) -> Any:
    """A middleware that does nothing: what is inside of it cannot be kept by the pool."""

    async def handle(run: rc.Run) -> Any:
        return await handler(run)

    return handle


#: The same counter: read from what the pool counts anyway, or wrapped around each run.
PLACES: list[tuple[str, Any]] = [("kept", lambda one: [one]), ("wrapped", lambda one: [nothing, one])]
each_place = pytest.mark.parametrize("place", [place for _, place in PLACES], ids=[name for name, _ in PLACES])
each_kind = pytest.mark.parametrize("kind", [Script, PlainScript], ids=["async", "plain"])


# --- counters -----------------------------------------------------------------------------------


@each_place
@each_kind
@pytest.mark.parity("T4.38")
@pytest.mark.virtual
async def test_a_counter_counts_all_runs_of_all_workers(place: Any, kind: Any) -> None:
    """Runs that have begun, ended, failed and were cut short, over all workers, also while they are under way."""
    counter = rc.Counter()
    scripts = [kind(1, OSError("a"), 2), kind(3, rc.NoRetry("b"), KeyError("c"), 4)]
    jobs = iter(scripts)
    async with rc.Pool(job_factory=lambda: next(jobs), initial=2, backoff=None, middleware=place(counter)) as pool:
        await seen(lambda: all(script.over for script in scripts))
        assert (9, 7, 3, 4) == (counter.started, counter.finished, counter.failed, counter.succeeded)
        assert 2 == counter.running
        await pool.less()
        assert (8, 1, 1) == (counter.finished, counter.cancelled, counter.running)
    assert (9, 9, 3, 2, 0) == (
        counter.started, counter.finished, counter.failed, counter.cancelled, counter.running
    )  # fmt: skip


@each_kind
@pytest.mark.parity("T4.38", "T4.40")
@pytest.mark.virtual
async def test_kept_and_wrapped_give_the_same(kind: Any) -> None:
    """Whether the pool counts in its place or not, a Counter and an Elapsed have the same numbers at each moment."""
    kept, wrapped = (rc.Counter(), rc.Elapsed()), (rc.Counter(), rc.Elapsed())
    steps = (1, 0.5, OSError("a"), OSError("b"), 2, 2.25, 0, SystemExit(2), 3)
    script = kind(*steps)
    async with rc.Pool(script, middleware=[*kept, nothing, *wrapped], backoff=rc.Constant(1)) as pool:
        while not script.over:
            await asyncio.sleep(0.3)
            assert kept[0].snapshot() == wrapped[0].snapshot()
            near(kept[1].snapshot(), wrapped[1].snapshot())
        assert 1 == pool.stats().runs.in_flight == kept[0].running == kept[1].running
    assert kept[0].snapshot() == wrapped[0].snapshot()
    near(kept[1].snapshot(), wrapped[1].snapshot())
    assert (10, 3, 1) == (kept[0].finished, kept[0].failed, kept[0].cancelled)


def near(one: Any, other: Any) -> None:
    """These say the same."""
    assert dataclasses.fields(one)
    for field in dataclasses.fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, float):
            assert ours == pytest.approx(theirs, abs=1e-6), field.name
        elif dataclasses.is_dataclass(ours):
            near(ours, theirs)
        else:
            assert ours == theirs, field.name


@each_place
@each_kind
@pytest.mark.parity("T4.40", "E4.15")
@pytest.mark.virtual
async def test_an_elapsed_times_all_runs(place: Any, kind: Any) -> None:
    """Total, last, average, the shortest and the longest, of ten runs of one second to ten."""
    elapsed = rc.Elapsed()
    script = kind(*range(1, 11))
    async with rc.Pool(script, middleware=place(elapsed)):
        await seen(lambda: script.over)
        assert [55, 5.5, 10, 1, 10] == pytest.approx(
            [elapsed.total, elapsed.average, elapsed.last, elapsed.min, elapsed.max]
        )
        assert 5 == pytest.approx(elapsed.p50, rel=0.02)
        assert (10, 1) == (elapsed.finished, elapsed.running)


@each_place
@pytest.mark.virtual
async def test_one_counter_may_be_given_to_several_pools_and_lives(place: Any) -> None:
    """It adds up what all of them have done, and forgets nothing when a life ends."""
    counter, elapsed = rc.Counter(), rc.Elapsed()
    one, two = Busy(1), Busy(2)
    first = rc.Pool(one, middleware=[*place(counter), elapsed])
    second = rc.Pool(two, middleware=[*place(counter), elapsed])
    for _ in range(3):
        async with first, second:
            await asyncio.sleep(3.5)
            assert counter.started == one.begun + two.begun
    assert (one.ended + two.ended, 0) == (counter.finished, counter.running)
    assert counter.finished == elapsed.finished
    assert one.ended + 2 * two.ended == pytest.approx(elapsed.total)


@each_place
@pytest.mark.defect("D4.11")
@pytest.mark.virtual
async def test_a_counter_can_be_read_from_other_threads(place: Any) -> None:
    """Whoever looks from elsewhere sees numbers of one moment: never more ended than begun."""
    counter, elapsed = rc.Counter(), rc.Elapsed()
    over, wrong = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            numbers, average = counter.snapshot(), elapsed.average
            if not 0 <= numbers.running <= 4 or numbers.failed > numbers.finished or not 0 <= average <= 0.011:
                wrong.append((numbers, average))

    def job() -> None:
        current().block(0.01)

    looking = threading.Thread(target=look)
    looking.start()
    async with rc.Pool(job, initial=4, middleware=[*place(counter), elapsed]):
        await asyncio.sleep(1)
    over.set()
    looking.join()
    assert [] == wrong
    assert 400 == pytest.approx(counter.finished, abs=8)


@each_place
@each_kind
@pytest.mark.defect("D4.9")
@pytest.mark.virtual
async def test_a_counter_is_balanced_whatever_ends_a_run(place: Any, kind: Any) -> None:
    """SystemExit, a kill and an abandoned thread leave nothing under way behind."""
    counter = rc.Counter()
    pool = rc.Pool(kind(1, SystemExit(1), GeneratorExit(), 20), middleware=place(counter), backoff=None)
    await pool.start()
    await asyncio.sleep(5)
    assert (4, 3, 2, 1) == (counter.started, counter.finished, counter.failed, counter.running)
    await pool.kill()
    await rounds()
    assert (4, 1, 0) == (counter.finished, counter.cancelled, counter.running)
    if pool.stats().abandoned:
        await seen(lambda: not pool.stats().abandoned)


# --- positions ----------------------------------------------------------------------------------


@each_kind
@pytest.mark.parity("T4.39", "T4.41", "T4.42", "E4.16")
@pytest.mark.virtual
async def test_outside_of_a_retry_runs_are_counted_inside_attempts(kind: Any) -> None:
    """`middleware` is around the retry: to see attempts the retry is put there, outside of the counter."""
    runs, attempts = rc.Counter(), rc.Counter()
    retry = rc.Retry(OSError, retries=3, backoff=rc.Constant(0))
    script = kind(OSError("1"), OSError("2"), 1, OSError("3"), 1, KeyError("4"))
    async with rc.Pool(script, middleware=[runs], retry=retry) as pool:
        await seen(lambda: script.over)
        assert (4, 3, 1) == (runs.started, runs.finished, runs.failed)
        assert 3 == pool.stats().runs.retries
    script = kind(OSError("1"), OSError("2"), 1, OSError("3"), 1, KeyError("4"))
    job = rc.wrap(script, attempts) if kind is Script else None
    if job is not None:
        async with rc.Pool(job, retry=retry):
            await seen(lambda: script.over)
            assert (7, 6, 4) == (attempts.started, attempts.finished, attempts.failed)


@pytest.mark.parity("T4.41", "T4.42", "E4.16")
@pytest.mark.defect("D4.10")
@pytest.mark.virtual
async def test_a_run_that_is_cut_short_is_not_tried_again() -> None:
    """Whatever the rules say, after a cancellation no other attempt begins; and no retry means one attempt."""
    calls = 0

    async def stubborn() -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise OSError("try me again") from None

    retry = rc.Retry(OSError, retries=rc.UNLIMITED, backoff=rc.Constant(0))
    pool = rc.Pool(stubborn, retry=retry, middleware=[nothing])
    await pool.start()
    await asyncio.sleep(1)
    await pool.kill()
    assert 1 == calls
    script = Script(OSError("once"), 1)
    async with rc.Pool(script, retry=rc.Retry(OSError, retries=0)) as again:
        await seen(lambda: script.over)
        assert (1, 0) == (again.stats().runs.failed, again.stats().runs.retries)


@pytest.mark.parity("T4.7")
@pytest.mark.virtual
async def test_the_first_in_the_list_is_outermost() -> None:
    """From top to bottom is from outside to inside."""
    heard: list[str] = []

    def says(word: str) -> Any:
        def middleware(handler: Any) -> Any:
            async def handle(run: rc.Run) -> Any:
                heard.append(f"{word} in")
                outcome = await handler(run)
                heard.append(f"{word} out")
                return outcome

            return handle

        return middleware

    async def job() -> None:
        heard.append("job")
        raise rc.Done

    await rc.Pool(job, middleware=[says("a"), says("b")]).run()
    assert ["a in", "b in", "job", "b out", "a out"] == heard


@pytest.mark.parity("T4.6", "T4.48")
@pytest.mark.parametrize("kind", [Script, PlainScript], ids=["async", "plain"])
@pytest.mark.virtual
async def test_a_middleware_may_change_what_comes_of_a_run(kind: Any) -> None:
    """One's own may log, time and turn a failure into a success: the pool goes by what it returns."""
    heard: list[Any] = []

    def forgiving(handler: Any) -> Any:
        async def handle(run: rc.Run) -> Any:
            outcome = await handler(run)
            heard.append((run.id, outcome.status))
            if isinstance(outcome.error, KeyError):
                outcome.status, outcome.error = rc.Status.SUCCEEDED, None
            return outcome

        return handle

    script = kind(1, KeyError("mine"), OSError("yours"))
    pool = rc.Pool(script, middleware=[forgiving], stop_on_error=True)
    with pytest.raises(OSError, match="yours"):
        await pool.run()
    assert ["succeeded", "failed", "failed"] == [status for _, status in heard]
    assert (2, 1) == (pool.stats().runs.succeeded, pool.stats().runs.failed)


@pytest.mark.parametrize("where", ["call", "made", "nonsense"])
@pytest.mark.defect("D4.19")
@pytest.mark.virtual
async def test_a_middleware_that_is_broken(where: str) -> None:
    """One that raises fails the run and not the worker; one that cannot be put around a job is refused at once."""

    def broken(handler: Any) -> Any:
        if where == "made":
            raise KeyError("cannot")

        async def handle(run: rc.Run) -> Any:
            if where == "call":
                raise KeyError("cannot")
            return "no outcome"

        return handle

    if where == "made":
        with pytest.raises((KeyError, rc.ConfigError)):
            rc.Pool(Busy(1), middleware=[broken])
        return
    async with rc.Pool(Busy(1), middleware=[broken], backoff=rc.Constant(1)) as pool:
        await asyncio.sleep(5)
        assert (1, 0) == (pool.stats().alive, pool.stats().runs.succeeded)
        assert 3 <= pool.stats().runs.failed
        assert pool.stats().last_error is not None


# --- shared, or each worker's own ---------------------------------------------------------------


@pytest.mark.parity("T4.8", "T4.9", "T4.47")
@pytest.mark.virtual
async def test_a_middleware_is_shared_unless_it_is_per_worker() -> None:
    """What is given plainly is one for all; of `rc.per_worker` each worker has its own, as long as it lives."""
    made: list[rc.Counter] = []

    def own() -> rc.Counter:
        made.append(rc.Counter())
        return made[-1]

    shared = rc.Counter()
    async with rc.Pool(Busy(1), initial=2, middleware=[shared, rc.per_worker(own)]) as pool:
        await asyncio.sleep(4.5)
        assert ([5, 5], 10) == ([counter.started for counter in made], shared.started)
        await pool.less()
        await pool.more()
        await asyncio.sleep(3)
        assert 3 == len(made)
    assert shared.finished == sum(counter.finished for counter in made)


@pytest.mark.parity("T4.9", "T4.47")
@pytest.mark.virtual
async def test_a_pace_of_all_and_a_pace_of_each() -> None:
    """One gate is common to all workers; one made for each worker holds up only that one."""

    def each() -> Any:
        return rc.Pace(every="10s")

    choices: list[tuple[Any, int]] = [(each(), 10), (rc.per_worker(each), 30)]
    for middleware, begun in choices:
        busy = Busy(1)
        async with rc.Pool(busy, initial=3, middleware=[middleware]):
            await asyncio.sleep(95)
        assert begun == busy.begun


# --- paces --------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parity("T4.43", "T4.44")
@pytest.mark.virtual
async def test_a_rate_and_a_pause_in_a_pool(kind: Any) -> None:
    """every= begins runs on a grid, a longer run is followed at once; pause= waits after each."""
    for pace, gaps in (
        (rc.Pace(every="10s"), [10, 25, 5, 10]),
        (rc.Pace(pause="10s"), [11, 35, 12, 11]),
    ):
        script = kind(1, 25, 2, 1)
        async with rc.Pool(script, middleware=[pace]):
            while not script.over:
                await asyncio.sleep(0.5)
        assert gaps == [round(b - a, 3) for a, b in itertools.pairwise(script.times)]


@pytest.mark.parity("T4.46", "E4.18")
@pytest.mark.defect("D4.13")
@pytest.mark.virtual
async def test_whoever_waits_at_a_gate_leaves_at_once() -> None:
    """A stop and less do not wait for a pace: the run that waited is interrupted, its job not called, nothing fails."""
    busy, counter = Busy(1), rc.Counter()
    pool = rc.Pool(busy, middleware=[counter, rc.Pace(every="1h", first="after")], initial=2, stop_on_error=True)
    await pool.start()
    await asyncio.sleep(10)
    assert (2, 2, 0) == (pool.stats().idle, pool.stats().alive, busy.begun)
    assert 1 == await pool.less()
    report = await pool.stop()
    assert (10.0, 0, True) == (now(), busy.begun, report.clean)
    assert (2, 0, rc.State.STOPPED) == (counter.cancelled, counter.failed, pool.state)
    await asyncio.sleep(7200)
    assert 0 == busy.begun


# --- with all the rest --------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_chain_with_a_resource_and_a_verdict() -> None:
    """Retries within a run use one resource; the verdict is asked about how the run has ended in the end."""
    things = Things()
    script = Script(OSError("1"), 1, Broken(), 1, 1)

    async def job(_: Any) -> None:
        await script()

    async with rc.Pool(
        job, resource=things, healthy=is_healthy, retry=rc.Retry(OSError, backoff=rc.Constant(0)),
        timeout="1m", deadline="1h", concurrency=rc.Concurrency(1), resource_backoff=rc.Constant(0),
    ) as pool:  # fmt: skip
        await seen(lambda: script.over)
        stats = pool.stats()
        assert (3, 1, 1, 1) == (stats.runs.succeeded, stats.runs.failed, stats.runs.retries, stats.replaced)
    assert (2, True) == (len(things.made), things.balanced)


@pytest.mark.virtual
async def test_a_limit_that_pools_share() -> None:
    """rc.Concurrency bounds the runs of all that have it, and a stop does not wait for a place."""
    limit = rc.Concurrency(2)
    one, two = Busy(10), Busy(10)
    async with rc.Pool(one, initial=2, concurrency=limit) as first:
        async with rc.Pool(two, initial=2, concurrency=limit) as second:
            await asyncio.sleep(55)
            assert 2 == one.running + two.running
            assert min(one.begun, two.begun) >= 3
            assert 2 == first.stats().runs.in_flight
            assert 2 == second.stats().runs.in_flight
            began = now()
        assert now() - began <= 10
