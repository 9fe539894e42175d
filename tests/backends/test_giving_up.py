"""Calls that are taken back before they begin, or given up while they run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from runcrew.backends import Call, Threads
from runcrew.errors import RunCancelled, RunInterrupted

MakePool = Callable[..., Threads]
MakeGate = Callable[[], Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


def identity(value: Any) -> Any:
    """The least that a thread can be asked for."""
    return value


# --- taking back, giving up ------------------------------------------------------------------


def test_a_call_that_has_not_begun_is_taken_back(new: MakePool, gate: Any) -> None:
    """`cancel` on a waiting call gives True, it never runs, and waiters get RunCancelled; later it gives False."""
    pool = new(1)
    ran: list[int] = []

    async def main() -> None:
        first = pool.submit(gate, 1)
        await gate.wait_begun()
        second = pool.submit(ran.append, 2)
        waiter = asyncio.create_task(expect(second))
        await asyncio.sleep(0)
        assert 1 == pool.stats().queued
        assert second.cancel()
        assert 0 == pool.stats().queued
        assert not second.cancel()
        assert not second.abandon()
        assert not first.cancel()
        await waiter
        gate.open.set()
        assert 1 == await first
        assert not first.cancel()
        await pool.submit(identity, None)

    async def expect(call: Call[Any]) -> None:
        with pytest.raises(RunCancelled):
            await call

    asyncio.run(main())
    assert [] == ran


def test_taken_back_calls_do_not_pile_up(new: MakePool, gate: Any) -> None:
    """Behind a thread that is stuck, 20,000 calls are submitted and taken back: the queue stays short."""
    pool = new(1)

    async def main() -> None:
        first = pool.submit(gate)
        await gate.wait_begun()
        kept = pool.submit(identity, "kept")
        for _ in range(20_000):
            assert pool.submit(identity, None).cancel()
        assert len(pool._queue) < 200
        assert 1 == pool.stats().queued
        gate.open.set()
        await first
        assert "kept" == await kept
        assert (0, 0) == (len(pool._queue), pool._dead)

    asyncio.run(main())


@pytest.mark.realtime
def test_taking_back_races_with_beginning(new: MakePool) -> None:
    """Each of 3,000 calls that are taken back while threads take them has either run or been taken back, never both."""
    pool = new(3)
    ran: list[int] = []

    async def main() -> int:
        taken = 0
        for start in range(0, 3000, 300):
            calls = [pool.submit(ran.append, start + number) for number in range(300)]
            await asyncio.sleep(0)
            taken += sum([call.cancel() for call in reversed(calls)])
            await asyncio.gather(*[call_ended(call) for call in calls])
        return taken

    async def call_ended(call: Call[Any]) -> None:
        try:
            await call
        except RunCancelled:
            pass

    taken = asyncio.run(main())
    assert 3000 == taken + len(ran)
    assert len(ran) == len(dict.fromkeys(ran))
    assert 0 == pool.stats().queued


def test_an_abandoned_call_goes_on_alone(new: MakePool, gate: Any, until: Until) -> None:
    """Its waiters get RunInterrupted at once, it is named and counted, and another thread takes its place."""
    pool = new(1)

    def stuck() -> str:
        return str(gate("late"))

    async def main() -> None:
        call = pool.submit(stuck)
        await gate.wait_begun()
        waiter = asyncio.create_task(wait(call))
        behind = pool.submit(identity, 1)
        await asyncio.sleep(0)
        assert call.abandon()
        assert 1 == await behind
        assert not call.abandon()
        assert not call.cancel()
        await waiter
        (given,) = pool.stats().abandoned
        assert given.name.endswith("stuck")
        assert given.thread.startswith("runcrew-")
        assert 1 == pool.abandoned
        assert 2 == await pool.submit(identity, 2)
        assert (2, False) == (pool.stats().threads, pool.stalled)
        gate.open.set()
        await until(lambda: pool.abandoned == 0)
        await until(lambda: pool.stats().threads == 1)
        assert call.value is None
        assert 3 == await pool.submit(identity, 3)

    async def wait(call: Call[Any]) -> None:
        with pytest.raises(RunInterrupted):
            await call

    asyncio.run(main())


def test_at_the_cap_the_pool_is_stalled(
    new: MakePool, new_gate: MakeGate, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """When no more threads are replaced the pool says so, calls stay queued, and go on as soon as one returns."""
    told: list[Threads] = []
    pool = new(1, max_abandoned=1, on_stalled=told.append)
    gates = [new_gate() for _ in range(2)]

    async def main() -> None:
        for number, gate in enumerate(gates):
            call = pool.submit(gate)
            await gate.wait_begun()
            assert [] == told
            call.abandon()
            assert (number == 1) == pool.stalled
        assert [pool] == told
        waiting = pool.submit(identity, 9)
        await asyncio.sleep(0.005)
        assert (2, 1, True) == (pool.abandoned, pool.stats().queued, pool.stats().stalled)
        gates[1].open.set()
        assert 9 == await waiting
        assert (1, False) == (pool.abandoned, pool.stalled)
        gates[0].open.set()
        await until(lambda: pool.stats().threads == 1)

    asyncio.run(main())
    (record,) = caplog.records
    assert "ERROR" == record.levelname
    assert "the threads 'runcrew' are stalled: all 2 of them" in record.message
    assert record.message.endswith(" in runcrew-2")


def test_zero_means_no_replacement(new: MakePool, caplog: pytest.LogCaptureFixture, gate: Any) -> None:
    """With `max_abandoned=0` a thread that was given up keeps its place; what the hook raises is logged."""

    def hook(pool: Threads) -> None:
        raise ValueError("the hook")

    pool = new(1, max_abandoned=0, on_stalled=hook)

    async def main() -> None:
        call = pool.submit(gate)
        await gate.wait_begun()
        assert call.abandon()
        assert pool.stalled
        waiting = pool.submit(identity, 1)
        gate.open.set()
        assert 1 == await waiting
        assert (1, 0, False) == (pool.stats().threads, pool.abandoned, pool.stalled)

    asyncio.run(main())
    stalled, failed = (record.message for record in caplog.records)
    assert stalled.startswith("the threads 'runcrew' are stalled: all 1 of them")
    assert "on_stalled of the threads 'runcrew' failed" == failed


def test_as_many_are_replaced_as_there_are_places(new: MakePool, new_gate: MakeGate, until: Until) -> None:
    """By default as many abandoned threads are replaced as may run; the pool never has more than twice its limit."""
    pool = new(2)
    gates = [new_gate() for _ in range(4)]

    async def main() -> None:
        for gate in gates:
            call = pool.submit(gate)
            await gate.wait_begun()
            call.abandon()
        assert (4, 4, True) == (pool.stats().threads, pool.abandoned, pool.stalled)
        for gate in gates:
            gate.open.set()
        await until(lambda: pool.stats().threads == 2)
        assert 5 == await pool.submit(identity, 5)

    asyncio.run(main())


def test_a_late_error_is_logged(new: MakePool, caplog: pytest.LogCaptureFixture, gate: Any, until: Until) -> None:
    """What an abandoned call raises in the end does not vanish: it is logged with the call's name."""
    pool = new(1)

    def late() -> None:
        gate()
        raise ValueError("too late")

    async def main() -> None:
        call = pool.submit(late)
        await gate.wait_begun()
        call.abandon()
        gate.open.set()
        await until(lambda: caplog.records)

    with caplog.at_level(logging.WARNING, "runcrew"):
        asyncio.run(main())
    (record,) = caplog.records
    assert "late failed after it had been given up" in record.message
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


@pytest.mark.realtime
def test_giving_up_races_with_ending(new: MakePool, until: Until) -> None:
    """Calls that are given up while they begin and end leave neither a count nor a call without an end behind."""
    pool = new(2)

    async def main() -> None:
        for _ in range(40):
            calls = [pool.submit(identity, number) for number in range(50)]
            await asyncio.sleep(0)
            for call in calls:
                call.abandon()
            assert all(call.ended is not None for call in calls)
        await until(lambda: pool.abandoned == 0 and pool.stats().queued == 0)
        await until(lambda: pool.stats().threads <= 2)
        assert 1 == await pool.submit(identity, 1)

    asyncio.run(main())
