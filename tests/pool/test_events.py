"""What a pool tells those who subscribe: its runs, its workers, and what hinders them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pool_made import Broken, Busy, Deaf, PlainBusy, PlainScript, Script, Things, is_healthy, rounds, seen, use

import runcrew as rc
from runcrew import events

each_kind = pytest.mark.parametrize("kind", [Script, PlainScript], ids=["async", "plain"])
each_way = pytest.mark.parametrize("way", [{}, {"deadline": "1h"}], ids=["bare", "chain"])


def heard(service: Any, *types: type[events.Event]) -> list[Any]:
    """Everything of these types that is told from here on."""
    told: list[Any] = []
    service.subscribe(told.append, *types)
    return told


@each_kind
@each_way
@pytest.mark.virtual
async def test_each_run_is_told(kind: Any, way: dict[str, Any]) -> None:
    """Its beginning and its end, with the same id, how it ended, how long it took, and its error."""
    error = OSError("broken")
    script = kind(1, error, 2.5)
    pool = rc.Pool(script, name="it", **way)
    told = heard(pool, events.RunStarted, events.RunEnded)
    async with pool:
        await seen(lambda: script.over)
    starts = [event for event in told if isinstance(event, events.RunStarted)]
    ends = [event for event in told if isinstance(event, events.RunEnded)]
    assert [event.run for event in starts] == [event.run for event in ends]
    assert 4 == len({event.run for event in starts})
    assert [("it", "loop")] * 4 == [(event.service, event.cause) for event in starts]
    assert ["succeeded", "failed", "succeeded", "interrupted"] == [event.status for event in ends]
    assert [1, 0, 2.5] == pytest.approx([event.elapsed for event in ends[:3]])
    assert [None, error, None] == [event.error for event in ends[:3]]
    assert told == sorted(told, key=lambda event: event.at)


@each_kind
@each_way
@pytest.mark.virtual
async def test_whoever_subscribes_midway_hears_whole_runs(kind: Any, way: dict[str, Any]) -> None:
    """From the next run on each is told; what is told ended has been told begun, but for the one under way."""
    job: Any = Busy(1) if kind is Script else PlainBusy(1)
    async with rc.Pool(job, initial=2, **way) as pool:
        await asyncio.sleep(3.5)
        told: list[Any] = []
        subscription = pool.subscribe(told.append, events.RunStarted, events.RunEnded)
        await asyncio.sleep(5)
        starts = [event.run for event in told if isinstance(event, events.RunStarted)]
        ends = [event.run for event in told if isinstance(event, events.RunEnded)]
        assert 8 <= len(starts) <= 10
        assert len(set(ends) - set(starts)) <= 2
        assert 8 <= len(ends)
        subscription.cancel()
        count = len(told)
        await asyncio.sleep(5)
        assert count == len(told)
        assert 27 <= pool.stats().runs.begun <= 28, "no run was lost or counted twice by that"


@pytest.mark.virtual
async def test_runs_that_end_at_once_are_told_one_by_one() -> None:
    """Somebody who subscribes while runs end at once hears of each of them from then on, in order and in pairs."""

    async def job() -> None:
        """Ends at once."""

    def plain() -> None:
        """The same."""

    for fn in (job, plain):
        async with rc.Pool(fn, initial=2) as pool:
            await asyncio.sleep(0.01)
            told = heard(pool, events.RunStarted, events.RunEnded)
            await asyncio.sleep(0.01)
            before = pool.stats().runs.ended
            await pool.resize(0)
        assert told
        assert before
        starts = [event.run for event in told if isinstance(event, events.RunStarted)]
        ends = [event.run for event in told if isinstance(event, events.RunEnded)]
        assert starts == list(dict.fromkeys(starts))
        assert set(starts) <= set(ends)


@pytest.mark.virtual
async def test_retries_are_told() -> None:
    """Each attempt that is followed by another one, with the pause and the rule."""
    script = Script(OSError("1"), OSError("2"), 1)
    pool = rc.Pool(script, retry=rc.Retry(OSError, backoff=rc.Constant(3), name="net"))
    told = heard(pool, events.RunRetried)
    async with pool:
        await seen(lambda: script.over)
    assert [(1, 3.0, "net"), (2, 3.0, "net")] == [(event.attempt, event.delay, event.rule) for event in told]


@pytest.mark.virtual
async def test_workers_are_told() -> None:
    """That they are there, that they have gone and why, and what kept one from its resource."""
    things = Things(None, OSError("down"))
    uses = 0

    async def breaks(thing: Any) -> None:
        nonlocal uses
        await use(thing)
        uses += 1
        if uses == 3:
            raise Broken

    pool = rc.Pool(breaks, resource=things, healthy=is_healthy, initial=2, resource_backoff=rc.Constant("10s"))
    opened = heard(pool, events.WorkerOpened)
    gone = heard(pool, events.WorkerGone)
    failed = heard(pool, events.OpeningFailed)
    async with pool:
        await asyncio.sleep(60)
        await pool.less()
        await rounds()
    assert [2] == [event.worker for event in failed]
    assert 10.0 == failed[0].delay or 0.0 == failed[0].delay
    assert len(things.made) == len(opened)
    reasons = [event.reason for event in gone]
    assert "its resource proved faulty" in reasons
    assert "the group was made smaller" in reasons
    assert "the group was closed" in reasons
    assert 1 == sum(isinstance(event.error, Broken) for event in gone)


@pytest.mark.virtual
async def test_a_pool_without_a_place_left_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """When abandoned threads hold all places that is told and logged, once; and each of them was."""
    deaf = Deaf()
    pool = rc.Pool(deaf, timeout=1, max=2, max_abandoned=1, backoff=None)
    stalled, abandoned = heard(pool, events.Stalled), heard(pool, events.ThreadAbandoned)
    async with pool:
        await asyncio.sleep(50)
        assert [3] == [event.abandoned for event in stalled]
        assert 3 == len(abandoned) == len(pool.stats().abandoned)
        assert (True, 0) == (pool.stats().stalled, pool.stats().alive)
        await deaf.let_go(pool)
        await asyncio.sleep(1)
        assert (False, 1) == (pool.stats().stalled, pool.stats().alive)
    assert 1 == sum("stalled" in record.getMessage() for record in caplog.records)


@pytest.mark.virtual
async def test_its_states_are_told() -> None:
    """From the first to the last, with the error that ended it."""
    error = OSError("broken")
    pool = rc.Pool(Script(1, error), stop_on_error=True)
    told = heard(pool, events.StateChanged)
    with pytest.raises(OSError, match="broken"):
        await pool.run()
    assert ["starting", "running", "stopping", "failed"] == [event.new for event in told]
    assert error is told[-1].error


@pytest.mark.virtual
async def test_a_crew_hears_what_its_pools_tell() -> None:
    """Events of a pool reach whoever listens above it."""
    crew = rc.Crew("all", loop_block=None)
    crew.add(rc.Pool(Busy(1), name="it"))
    told = heard(crew, events.RunEnded)
    async with crew:
        await asyncio.sleep(5.5)
    assert {"it"} == {event.service for event in told}
    assert 6 == len(told)


@pytest.mark.virtual
async def test_a_sink_that_is_slow_or_broken_holds_up_no_run() -> None:
    """Whatever those do who listen, runs go on at their pace."""

    async def slow(_: Any) -> None:
        await asyncio.sleep(100)

    def broken(_: Any) -> None:
        raise KeyError

    busy = Busy(1)
    pool = rc.Pool(busy, hooks_timeout=1)
    pool.subscribe(slow, events.RunEnded)
    pool.subscribe(broken, events.RunStarted)
    async with pool:
        await asyncio.sleep(9.5)
        assert 10 == busy.begun


@each_kind
@pytest.mark.virtual
async def test_each_run_is_logged_where_somebody_debugs(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With the logger at debug each run's beginning and end is a line, with its fields."""
    caplog.set_level(logging.DEBUG, "runcrew")
    script = kind(1, 1)
    async with rc.Pool(script, name="it"):
        await seen(lambda: script.over)
    lines = [record for record in caplog.records if record.levelno == logging.DEBUG and "run " in record.getMessage()]
    begun = [record for record in lines if "begins" in record.getMessage()]
    ended = [record for record in lines if "succeeded" in record.getMessage()]
    assert (3, 2) == (len(begun), len(ended))
    assert all(record.__dict__["service"] == "it" and record.__dict__["run"] for record in lines)
