"""The threads of a pool: no more than needed, no call missed, and what happens where none can be had."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.backends import Call, NoThread, Threads, services, shared
from runcrew.errors import ConfigError
from runcrew.testing import virtual_loop

MakePool = Callable[..., Threads]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


def identity(value: Any) -> Any:
    """The least that a thread can be asked for."""
    return value


# --- how many threads ----------------------------------------------------------------------


def test_nothing_starts_before_the_first_call(new: MakePool) -> None:
    """Making a pool starts no thread and binds it to nothing."""
    before = threading.active_count()
    pool = new(3)
    assert before == threading.active_count()
    assert 0 == pool.stats().threads


def test_blocking_calls_spread_at_once(new: MakePool) -> None:
    """As many calls run at the same time as there may be threads: all eight meet at one barrier."""
    pool, barrier = new(8), threading.Barrier(8)

    async def main() -> None:
        for _ in range(3):
            calls = [pool.submit(barrier.wait, 10) for _ in range(8)]
            assert list(range(8)) == sorted([await call for call in calls])

    asyncio.run(main())
    assert 8 == pool.stats().threads


def test_never_more_threads_than_allowed(new: MakePool) -> None:
    """Forty calls on three threads: never more than three at once, and all are done."""
    pool, lock = new(3), threading.Lock()
    now = peak = 0

    def count() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        threading.Event().wait(0.0005)
        with lock:
            now -= 1

    async def main() -> None:
        for call in [pool.submit(count) for _ in range(40)]:
            await call

    asyncio.run(main())
    assert 3 == peak
    assert 3 == pool.stats().threads


def test_a_blocking_call_does_not_hold_up_the_rest(new: MakePool, gate: Any) -> None:
    """While one thread is blocked for long, the other does all that comes."""
    pool = new(2)

    async def main() -> None:
        blocked = pool.submit(gate)
        await gate.wait_begun()
        assert list(range(200)) == [await pool.submit(identity, number) for number in range(200)]
        calls = [pool.submit(identity, number) for number in range(200)]
        assert list(range(200)) == [await call for call in calls]
        assert blocked.ended is None
        gate.open.set()
        await blocked

    asyncio.run(main())


def test_one_thread_is_enough_for_one_at_a_time(new: MakePool) -> None:
    """Calls that come one after another start hardly more than one thread, whatever the limit."""
    pool = new(32)

    async def main() -> None:
        for number in range(300):
            await pool.submit(identity, number)

    asyncio.run(main())
    assert pool.stats().threads <= 3


def test_unlimited_means_a_thread_for_each(new: MakePool) -> None:
    """With no limit fifty calls that wait for each other all run."""
    pool, barrier = new(None), threading.Barrier(50)

    async def main() -> None:
        calls = [pool.submit(barrier.wait, 10) for _ in range(50)]
        assert 50 == len([await call for call in calls])

    asyncio.run(main())
    assert not pool.stalled


def test_calls_begin_in_order(new: MakePool, gate: Any) -> None:
    """One thread takes the calls in the order in which they were submitted, also around those taken back."""
    pool = new(1)
    order: list[int] = []

    async def main() -> None:
        first = pool.submit(gate)
        await gate.wait_begun()
        calls = [pool.submit(order.append, number) for number in range(300)]
        for call in calls[1::2]:
            assert call.cancel()
        gate.open.set()
        await first
        await calls[-2]

    asyncio.run(main())
    assert list(range(0, 300, 2)) == order


# --- the moments in which a call could be missed ------------------------------------------------


def slipped_in(pool: Threads) -> Call[Any]:
    """A call that is put into the queue by somebody who saw no reason to send a thread."""
    call: Call[Any] = Call(pool, None, contextvars.copy_context(), clocks.current(), abs, (-1,))
    pool._queue.append(call)
    return call


def test_a_call_that_comes_while_a_thread_parks_is_seen(new: MakePool) -> None:
    """A call that was put in just before the thread was to be seen among the parked ones does not wait for another."""
    pool = new(1)
    calls: list[Call[Any]] = []

    class Parked(list[Any]):
        def append(self, worker: Any) -> None:
            if not calls:
                calls.append(slipped_in(pool))
            super().append(worker)

    pool._parked = Parked()
    assert 2 == pool.submit(abs, -2).result()
    while not calls:
        pass
    assert 1 == calls[0].result(timeout=5)


def test_a_call_that_comes_while_a_thread_leaves_is_seen(new: MakePool) -> None:
    """A call that was put in while the only place was still held by a thread about to end gets a thread of its own."""
    pool = new(1, idle=0)
    calls: list[Call[Any]] = []
    lock = pool._lock

    class Lock:
        def __enter__(self) -> None:
            if not calls and threading.current_thread().name.startswith("runcrew-"):
                calls.append(slipped_in(pool))
            lock.acquire()

        def __exit__(self, *error: object) -> None:
            lock.release()

    pool._lock = Lock()  # type: ignore[assignment]
    assert 2 == pool.submit(abs, -2).result()
    while not calls:
        pass
    assert 1 == calls[0].result(timeout=5)


# --- leaving ------------------------------------------------------------------------------


@pytest.mark.realtime
def test_idle_threads_leave(new: MakePool, until: Until) -> None:
    """A thread that had no work for the idle time ends; the next call starts a new one."""
    pool = new(4, idle="5ms")

    async def main() -> None:
        barrier = threading.Barrier(4)
        for call in [pool.submit(barrier.wait, 10) for _ in range(4)]:
            await call
        await until(lambda: pool.stats().threads == 0)
        assert 1 == await pool.submit(identity, 1)

    asyncio.run(main())


@pytest.mark.realtime
def test_no_call_is_lost_to_a_thread_that_leaves() -> None:
    """With an idle time of zero every call meets threads about to end, and none is left behind."""
    pool = Threads(2, idle=0)

    async def main() -> None:
        async with asyncio.timeout(30):
            for number in range(500):
                assert number == await pool.submit(identity, number)

    asyncio.run(main())


def test_shed_ends_idle_threads_at_once(new: MakePool, gate: Any, until: Until) -> None:
    """`shed()` returns when the idle threads have gone; a busy one stays, and the pool can be used on."""
    pool = new(3)

    async def main() -> None:
        barrier = threading.Barrier(3)
        for call in [pool.submit(barrier.wait, 10) for _ in range(3)]:
            await call
        busy = pool.submit(gate)
        await gate.wait_begun()
        await until(lambda: pool.stats().idle == 2)
        pool.shed()
        pool.shed()
        assert (1, 1) == (pool.stats().threads, pool.stats().running)
        gate.open.set()
        await busy
        assert 2 == await pool.submit(identity, 2)

    asyncio.run(main())


# --- a system that has no more threads ----------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch, allowed: int = 0) -> list[int]:
    """From now on the system starts so many threads and no more; the list counts what was asked for."""
    asked: list[int] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        asked.append(1)
        if len(asked) > allowed:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return asked


def test_a_thread_that_cannot_start_is_an_error(new: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`submit` raises NoThread, from the system's own error; afterwards the pool works as before."""
    pool = new(2)

    async def main() -> None:
        with monkeypatch.context() as patch:
            refuse(patch)
            for _ in range(3):
                with pytest.raises(NoThread, match="can't start new thread") as caught:
                    pool.submit(identity, 1)
                assert isinstance(caught.value.__cause__, RuntimeError)
            assert (0, 0) == (pool.stats().threads, pool.stats().queued)
        assert 1 == await pool.submit(identity, 1)

    asyncio.run(main())


def test_a_bounded_pool_does_with_the_threads_it_has(new: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some threads run, the others' calls wait for them, and the system is not asked again for each call."""
    pool = new(4)

    async def main() -> None:
        with monkeypatch.context() as patch:
            asked = refuse(patch, 1)
            calls = [pool.submit(identity, number) for number in range(500)]
            assert list(range(500)) == [await call for call in calls]
            assert 1 == pool.stats().threads
            assert len(asked) < 20
        assert (1, 0) == (pool.stats().threads, pool.stats().queued)

    asyncio.run(main())


def test_an_unlimited_pool_ends_calls_it_has_no_thread_for(
    new: MakePool, monkeypatch: pytest.MonkeyPatch, gate: Any
) -> None:
    """Where every thread may be busy for ever, a call without one ends with NoThread, and does not wait for ever."""
    pool = new(None)

    async def main() -> None:
        with monkeypatch.context() as patch:
            refuse(patch, 1)
            first = pool.submit(gate, "first")
            ended = 0
            for _ in range(5):
                try:
                    await pool.submit(identity, 1)
                except NoThread:
                    ended += 1
            assert 5 == ended
            gate.open.set()
            assert "first" == await first
        assert 2 == await pool.submit(identity, 2)

    asyncio.run(main())


@pytest.mark.virtual
async def test_a_refused_call_lets_virtual_time_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was never accepted holds no time."""
    pool = Threads(1)
    with monkeypatch.context() as patch:
        refuse(patch)
        with pytest.raises(NoThread):
            pool.submit(identity, 1)
    assert () == virtual_loop().held


# --- values and the shared pools ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        ((0,), {}, "max_threads: 0"),
        ((-1,), {}, "max_threads: -1"),
        ((True,), {}, "max_threads: True"),
        ((2.5,), {}, "max_threads: 2.5"),
        ((2,), {"max_abandoned": -1}, "max_abandoned: -1"),
        ((None,), {"max_abandoned": 3}, "max_abandoned: 3 limits nothing"),
        ((2,), {"idle": -1}, "idle: -1"),
        ((2,), {"idle": "soon"}, "idle: 'soon'"),
    ],
)
def test_bad_values_are_refused(args: Any, options: Any, says: str) -> None:
    """Each bad value is a ConfigError that names it."""
    with pytest.raises(ConfigError, match=says):
        Threads(*args, **options)


def test_the_shared_pools_are_made_once() -> None:
    """`shared()` is bounded and `services()` is not; each is one pool, however many threads ask first."""
    seen: list[Threads] = []
    threads = [threading.Thread(target=lambda: seen.extend([shared(), services()])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 == len(dict.fromkeys(map(id, seen)))
    most = shared().max_threads
    assert most is not None
    assert 5 <= most <= 32
    assert services().max_threads is None


def test_stats_cannot_be_changed(new: MakePool) -> None:
    """A snapshot is a value of its own."""
    stats = new(3).stats()
    with pytest.raises(AttributeError):
        stats.threads = 5  # type: ignore[misc]
    assert (0, 0, 0, 0, (), False, 3) == (
        stats.threads, stats.idle, stats.running, stats.queued, stats.abandoned, stats.stalled, stats.max_threads
    )  # fmt: skip
