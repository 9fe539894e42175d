"""Threads of our own: each call its own result, few threads, few wake-ups, nothing kept, nothing lost."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.backends import Call, NoThread, Threads, services, shared
from runcrew.errors import ConfigError, JobCrashed, RunCancelled, RunInterrupted, WrongLoop
from runcrew.testing import VirtualLoop, run_virtual, virtual_loop


@pytest.fixture
def new() -> Iterator[Callable[..., Threads]]:
    """Makes pools; afterwards their idle threads end."""
    made: list[Threads] = []

    def make(*args: Any, **options: Any) -> Threads:
        made.append(Threads(*args, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.shed()


def identity(value: Any) -> Any:
    """The least that a thread can be asked for."""
    return value


class Gate:
    """A call that says when it has begun, and goes on when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self.begun.set()
        assert self.open.wait(10)
        return value

    async def wait_begun(self) -> None:
        """Let the loop run until the call has begun."""
        while not self.begun.is_set():
            await asyncio.sleep(0.0005)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.0005)


# --- results ------------------------------------------------------------------------------


@pytest.mark.realtime
def test_a_hundred_thousand_calls_each_give_their_own_value(new: Callable[..., Threads]) -> None:
    """100,000 calls from 100 tasks all come back, each to the task that asked, with its own value."""
    pool = new(8)

    async def one(task: int) -> int:
        wrong = 0
        for number in range(0, 1000, 10):
            calls = [pool.submit(identity, (task, number + offset)) for offset in range(10)]
            wrong += sum([await call != (task, number + offset) for offset, call in enumerate(calls)])
        return wrong

    async def main() -> list[int]:
        return await asyncio.gather(*[one(task) for task in range(100)])

    assert [0] * 100 == asyncio.run(main())
    assert pool.stats().threads <= 8
    assert 0 == pool.stats().queued


def test_arguments_come_as_they_were_given(new: Callable[..., Threads]) -> None:
    """None, one or several arguments, and keywords through a partial."""
    pool = new(2)

    async def main() -> list[Any]:
        return [
            await pool.submit(lambda: "none"),
            await pool.submit(identity, ("one",)),
            await pool.submit(lambda *args: args, 1, 2, 3),
            await pool.submit(functools.partial(dict, a=1)),
        ]

    assert ["none", ("one",), (1, 2, 3), {"a": 1}] == asyncio.run(main())


def test_an_error_is_the_very_object(new: Callable[..., Threads]) -> None:
    """The waiter gets the exception object itself, and its traceback begins in the user's code."""
    error = ValueError("mine")

    def fail() -> None:
        raise error

    async def main() -> None:
        call = pool.submit(fail)
        with pytest.raises(ValueError) as caught:
            await call
        assert error is caught.value
        assert error is call.error
        assert call.ended is not None

    pool = new(1)
    asyncio.run(main())
    trace = error.__traceback__
    names = []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "fail" == names[-1]
    assert "_run" not in names


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_what_is_no_exception_reaches_waiters_wrapped(error: BaseException, new: Callable[..., Threads]) -> None:
    """A SystemExit or an unasked CancelledError ends neither the thread, nor the loop, nor the waiting task."""
    pool = new(1)

    def fail() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(JobCrashed) as caught:
            await pool.submit(fail)
        assert error is caught.value.__cause__
        assert 5 == await pool.submit(identity, 5)

    asyncio.run(main())
    assert 1 == pool.stats().threads


def test_stop_iteration_does_not_hang_its_waiter(new: Callable[..., Threads]) -> None:
    """A StopIteration, which no future takes, comes out as a RuntimeError from it, on every version."""
    pool = new(1)

    async def main() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError) as caught:
                await pool.submit(next, iter(()))
        assert isinstance(caught.value.__cause__, StopIteration)

    asyncio.run(main())


def test_an_error_that_cannot_be_shown_comes_through(new: Callable[..., Threads], caplog: Any) -> None:
    """Errors whose str and repr raise are handed on like others."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no str")

        __repr__ = __str__

    def fail() -> None:
        raise Broken

    async def main() -> None:
        with pytest.raises(Broken):
            await pool.submit(fail)

    pool = new(1)
    asyncio.run(main())
    assert [] == caplog.records


def test_stamps_are_by_the_clock_of_whoever_asks(new: Callable[..., Threads]) -> None:
    """Begin and end are read from the clock in force where the call was submitted."""
    pool = new(1)

    async def main() -> tuple[float | None, float | None, float]:
        await asyncio.sleep(5)
        call = pool.submit(identity, 1)
        await call
        return call.started, call.ended, clocks.current().now()

    started, ended, now = run_virtual(main)
    assert now == started == ended
    assert 1735689605.0 == now


# --- waiting ------------------------------------------------------------------------------


def test_cancelling_one_waiter_leaves_the_others(new: Callable[..., Threads]) -> None:
    """Of three tasks that await one call, one is cancelled: the call goes on and the two get its value."""
    pool, gate = new(1), Gate()

    async def main() -> None:
        call = pool.submit(gate, 7)

        async def wait() -> int:
            return int(await call)

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await gate.wait_begun()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert tasks[1].cancelled()
        gate.open.set()
        assert [7, 7] == await asyncio.gather(tasks[0], tasks[2])
        assert 7 == await call

    asyncio.run(main())


def test_results_come_back_in_batches(new: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand results wake the loop a few times, not a thousand times."""
    pool = new(4)
    wakes = 0

    async def main() -> None:
        loop = asyncio.get_running_loop()
        real = loop.call_soon_threadsafe

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal wakes
            wakes += 1
            return real(*args, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)

        async def one(number: int) -> int:
            return int(await pool.submit(identity, number))

        assert sum(range(1000)) == sum(await asyncio.gather(*[one(number) for number in range(1000)]))

    asyncio.run(main())
    assert 1 <= wakes <= 200


def test_a_result_nobody_waits_for_wakes_nobody(new: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has ended before it is awaited costs the loop no wake-up at all."""
    pool = new(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call = pool.submit(identity, 4)
        await until(lambda: call.ended is not None)
        monkeypatch.setattr(loop, "call_soon_threadsafe", None)
        assert 4 == await call
        monkeypatch.undo()

    asyncio.run(main())


def test_another_loop_is_refused(new: Callable[..., Threads]) -> None:
    """A call that one loop has submitted cannot be awaited on another while it runs: WrongLoop says what to do."""
    pool, gate = new(1), Gate()

    async def submit() -> Call[Any]:
        return pool.submit(gate)

    async def wait(call: Call[Any]) -> None:
        with pytest.raises(WrongLoop, match="submit it from"):
            await call
        with pytest.raises(WrongLoop, match="blocks its thread"):
            call.result()

    call = asyncio.run(submit())
    asyncio.run(wait(call))
    gate.open.set()


@pytest.mark.realtime
def test_two_loops_share_one_pool(new: Callable[..., Threads]) -> None:
    """Two loops in two threads use one pool at the same time, and each gets its own results on its own thread."""
    pool = new(4)
    barrier = threading.Barrier(2)
    wrong: list[Any] = []

    def serve(name: str) -> None:
        async def main() -> None:
            barrier.wait()
            for number in range(300):
                value = await pool.submit(identity, (name, number))
                wrong.extend([] if (name, number) == value and threading.current_thread() is me else [value])

        me = threading.current_thread()
        asyncio.run(main())

    threads = [threading.Thread(target=serve, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong


def test_a_loop_that_closed_under_a_call(new: Callable[..., Threads]) -> None:
    """A call whose loop has gone ends quietly in its thread, and the pool serves the next loop."""
    pool, gate = new(1), Gate()
    loop = asyncio.new_event_loop()

    async def submit() -> Call[Any]:
        call = pool.submit(gate, 3)
        task = asyncio.ensure_future(call)
        await gate.wait_begun()
        task.cancel()
        call._waiters += (loop.create_future(),)  # somebody who is still there when the thread looks
        return call

    call = loop.run_until_complete(submit())
    loop.close()
    gate.open.set()

    async def next_loop() -> Any:
        return await pool.submit(identity, 4)

    assert 4 == asyncio.run(next_loop())
    assert 3 == call.value
    assert 1 == pool.stats().threads


def test_loops_are_not_kept(new: Callable[..., Threads]) -> None:
    """A loop that used a pool can be collected, although pool and call live on."""
    pool = new(1)
    loop = asyncio.new_event_loop()

    async def main() -> Call[Any]:
        call = pool.submit(identity, 1)
        await call
        return call

    call = loop.run_until_complete(main())
    seen = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert seen() is None
    assert 1 == call.value


# --- plain threads ------------------------------------------------------------------------


def test_a_plain_thread_waits_for_results(new: Callable[..., Threads]) -> None:
    """Without a loop, `result()` blocks and gives the value or raises the error; on a timeout the call goes on."""
    pool, gate = new(2), Gate()
    call = pool.submit(gate, 6)
    with pytest.raises(TimeoutError):
        call.result(timeout=0.001)
    with pytest.raises(ConfigError, match="timeout"):
        call.result(timeout=-1)
    gate.open.set()
    assert 6 == call.result()
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()


def test_threads_of_one_pool_may_wait_for_each_other(new: Callable[..., Threads]) -> None:
    """A call that waits for calls of its own pool does not deadlock: it runs what has not begun itself."""
    pool = new(1)

    def depth(levels: int) -> int:
        return 0 if levels == 0 else 1 + int(pool.submit(depth, levels - 1).result())

    assert 20 == pool.submit(depth, 20).result(timeout=10)
    assert (1, 0) == (pool.stats().threads, pool.stats().queued)


def test_a_finalizer_may_submit(new: Callable[..., Threads]) -> None:
    """A call that is handed over while the pool's lock is held by the same thread gets through."""
    pool = new(1)
    with pool._lock:
        call = pool.submit(identity, 1)
    assert 1 == call.result(timeout=10)


# --- how many threads ----------------------------------------------------------------------


def test_nothing_starts_before_the_first_call(new: Callable[..., Threads]) -> None:
    """Making a pool starts no thread and binds it to nothing."""
    before = threading.active_count()
    pool = new(3)
    assert before == threading.active_count()
    assert 0 == pool.stats().threads


def test_blocking_calls_spread_at_once(new: Callable[..., Threads]) -> None:
    """As many calls run at the same time as there may be threads: all eight meet at one barrier."""
    pool, barrier = new(8), threading.Barrier(8)

    async def main() -> None:
        for _ in range(3):
            calls = [pool.submit(barrier.wait, 10) for _ in range(8)]
            assert list(range(8)) == sorted([await call for call in calls])

    asyncio.run(main())
    assert 8 == pool.stats().threads


def test_never_more_threads_than_allowed(new: Callable[..., Threads]) -> None:
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


def test_a_blocking_call_does_not_hold_up_the_rest(new: Callable[..., Threads]) -> None:
    """While one thread is blocked for long, the other does all that comes."""
    pool, gate = new(2), Gate()

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


def test_one_thread_is_enough_for_one_at_a_time(new: Callable[..., Threads]) -> None:
    """Calls that come one after another start hardly more than one thread, whatever the limit."""
    pool = new(32)

    async def main() -> None:
        for number in range(300):
            await pool.submit(identity, number)

    asyncio.run(main())
    assert pool.stats().threads <= 3


def test_unlimited_means_a_thread_for_each(new: Callable[..., Threads]) -> None:
    """With no limit fifty calls that wait for each other all run."""
    pool, barrier = new(None), threading.Barrier(50)

    async def main() -> None:
        calls = [pool.submit(barrier.wait, 10) for _ in range(50)]
        assert 50 == len([await call for call in calls])

    asyncio.run(main())
    assert not pool.stalled


def test_calls_begin_in_order(new: Callable[..., Threads]) -> None:
    """One thread takes the calls in the order in which they were submitted, also around those taken back."""
    pool, gate = new(1), Gate()
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


def slipped_in(pool: Threads) -> Call[int]:
    """A call that is put into the queue by somebody who saw no reason to send a thread."""
    call = Call(pool, None, contextvars.copy_context(), clocks.current(), abs, (-1,))
    pool._queue.append(call)
    return call


def test_a_call_that_comes_while_a_thread_parks_is_seen(new: Callable[..., Threads]) -> None:
    """A call that was put in just before the thread was to be seen among the parked ones does not wait for another."""
    pool = new(1)
    calls: list[Call[int]] = []

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


def test_a_call_that_comes_while_a_thread_leaves_is_seen(new: Callable[..., Threads]) -> None:
    """A call that was put in while the only place was still held by a thread about to end gets a thread of its own."""
    pool = new(1, idle=0)
    calls: list[Call[int]] = []
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


def test_a_call_that_ends_while_a_waiter_is_made_is_seen(
    new: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call whose end falls between the look at it and the waiting for it does not leave the task waiting."""
    pool, gate = new(1), Gate()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call = pool.submit(gate, 3)
        real = loop.create_future

        def create() -> Any:
            gate.open.set()
            while call.ended is None:
                pass
            return real()

        monkeypatch.setattr(loop, "create_future", create)
        waiting = call.__await__()
        with pytest.raises(StopIteration) as done:
            next(waiting)
        assert 3 == done.value.value

    asyncio.run(main())


# --- leaving ------------------------------------------------------------------------------


@pytest.mark.realtime
def test_idle_threads_leave(new: Callable[..., Threads]) -> None:
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


def test_shed_ends_idle_threads_at_once(new: Callable[..., Threads]) -> None:
    """`shed()` returns when the idle threads have gone; a busy one stays, and the pool can be used on."""
    pool, gate = new(3), Gate()

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


class Thing:
    """Something that can be looked for."""


class Oops(Exception):
    """An error that can be looked for."""


def succeed(thing: Thing) -> Thing:
    """Give something new."""
    return Thing()


def fail(thing: Thing) -> Thing:
    """Raise something new."""
    raise Oops


@pytest.mark.parametrize("how", ["succeed", "fail", "take back", "give up"])
def test_nothing_of_a_call_is_kept(how: str, new: Callable[..., Threads]) -> None:
    """After a call the pool keeps neither function, arguments, context, result nor error; nor does its handle of those
    that went in.
    """
    pool, gate = new(1), Gate()
    variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")
    went_in: list[weakref.ref[Any]] = []
    came_out: list[weakref.ref[Any]] = []
    handles: list[Call[Any]] = []

    async def use() -> None:
        argument, seen = Thing(), Thing()
        variable.set(seen)
        function = functools.partial(fail if how == "fail" else succeed)
        went_in.extend(map(weakref.ref, (argument, seen, function)))
        if how == "take back":
            handles.append(pool.submit(function, argument))
            assert handles[0].abandon() or handles[0].ended is not None
        elif how == "give up":
            handles.append(pool.submit(lambda: gate(function(argument))))
            await gate.wait_begun()
            assert handles[0].abandon()
        else:
            handles.append(pool.submit(function, argument))
            try:
                came_out.append(weakref.ref(await handles[0]))
            except Oops as error:
                came_out.append(weakref.ref(error))

    async def main() -> None:
        await asyncio.create_task(use())
        gate.open.set()
        await until(lambda: pool.stats().idle == 1)
        if how == "fail":
            handles.clear()  # it has the error, and that one the frame that it was raised in
        await until(lambda: not any(each() for each in went_in))
        handles.clear()
        assert not any(each() for each in came_out)

    gc.disable()  # no reference cycles either: it is gone at once
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_a_running_call_keeps_nothing_of_the_last_one(new: Callable[..., Threads]) -> None:
    """While a thread is busy with a long call, the result of the one before is not held."""
    pool, gate = new(1), Gate()

    async def main() -> None:
        seen = weakref.ref(await pool.submit(Thing))
        call = pool.submit(gate)
        await gate.wait_begun()
        assert seen() is None
        gate.open.set()
        await call

    asyncio.run(main())


# --- context ------------------------------------------------------------------------------


def test_each_call_has_its_own_copy_of_the_context(new: Callable[..., Threads]) -> None:
    """A call sees its submitter's variables, and what it sets is seen by nobody else."""
    pool = new(1)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    def look(name: str) -> str:
        before = variable.get()
        variable.set(name)
        return before

    async def main() -> list[str]:
        variable.set("mine")
        other = contextvars.copy_context()
        other.run(variable.set, "other")
        calls = [pool.submit(look, "a"), pool.submit(look, "b"), pool.submit(look, "c", context=other)]
        seen = [await call for call in calls]
        return [*seen, variable.get(), other[variable], await pool.submit(look, "d", context=contextvars.Context())]

    assert ["mine", "mine", "other", "mine", "other", "none"] == asyncio.run(main())


# --- taking back, giving up ------------------------------------------------------------------


def test_a_call_that_has_not_begun_is_taken_back(new: Callable[..., Threads]) -> None:
    """`cancel` on a waiting call gives True, it never runs, and waiters get RunCancelled; later it gives False."""
    pool, gate = new(1), Gate()
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


def test_taken_back_calls_do_not_pile_up(new: Callable[..., Threads]) -> None:
    """Behind a thread that is stuck, 20,000 calls are submitted and taken back: the queue stays short."""
    pool, gate = new(1), Gate()

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
def test_taking_back_races_with_beginning(new: Callable[..., Threads]) -> None:
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


def test_an_abandoned_call_goes_on_alone(new: Callable[..., Threads]) -> None:
    """Its waiters get RunInterrupted at once, it is named and counted, and another thread takes its place."""
    pool, gate = new(1), Gate()

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


def test_at_the_cap_the_pool_is_stalled(new: Callable[..., Threads]) -> None:
    """When no more threads are replaced the pool says so, calls stay queued, and go on as soon as one returns."""
    told: list[Threads] = []
    pool = new(1, max_abandoned=1, on_stalled=told.append)
    gates = [Gate(), Gate()]

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


def test_zero_means_no_replacement(new: Callable[..., Threads], caplog: pytest.LogCaptureFixture) -> None:
    """With `max_abandoned=0` a thread that was given up keeps its place; what the hook raises is logged."""

    def hook(pool: Threads) -> None:
        raise ValueError("the hook")

    pool, gate = new(1, max_abandoned=0, on_stalled=hook), Gate()

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
    assert ["on_stalled of the threads 'runcrew' failed"] == [record.message for record in caplog.records]


def test_as_many_are_replaced_as_there_are_places(new: Callable[..., Threads]) -> None:
    """By default as many abandoned threads are replaced as may run; the pool never has more than twice its limit."""
    pool = new(2)
    gates = [Gate() for _ in range(4)]

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


def test_a_late_error_is_logged(new: Callable[..., Threads], caplog: pytest.LogCaptureFixture) -> None:
    """What an abandoned call raises in the end does not vanish: it is logged with the call's name."""
    pool, gate = new(1), Gate()

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
def test_giving_up_races_with_ending(new: Callable[..., Threads]) -> None:
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


# --- virtual time ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_call_holds_virtual_time() -> None:
    """No virtual time passes between handing a call over and having its result, in any of 500 calls."""
    pool, loop = Threads(2), virtual_loop()
    for number in range(500):
        async with asyncio.timeout(1):
            assert number == await pool.submit(identity, number)
    assert 0.0 == loop.time()
    assert () == loop.held
    pool.shed()


@pytest.mark.virtual
async def test_virtual_time_is_let_go_exactly_once() -> None:
    """Calls that end, are taken back, are given up or are never awaited each let time go once."""
    pool, loop, gate = Threads(1), virtual_loop(), Gate()
    running = pool.submit(gate)
    while not gate.begun.is_set():
        await asyncio.sleep(0)
    queued, ignored = pool.submit(identity, 1), pool.submit(identity, 2)
    assert 3 == sum(int(what.partition("(x")[2].rstrip(")") or 1) for what in loop.held)
    assert queued.cancel()
    assert running.abandon()
    assert not running.abandon()
    gate.open.set()
    while ignored.ended is None:
        await asyncio.sleep(0)
    await asyncio.sleep(60)
    assert () == loop.held
    assert 60.0 == loop.time()
    while pool.abandoned:
        await asyncio.sleep(0)
    pool.shed()


@pytest.mark.virtual
async def test_virtual_time_is_let_go_from_another_thread() -> None:
    """A call that a foreign thread takes back lets time go as well."""
    pool, loop, gate = Threads(1), virtual_loop(), Gate()
    first = pool.submit(gate)
    second = pool.submit(identity, 1)
    thread = threading.Thread(target=second.cancel)
    thread.start()
    thread.join()
    gate.open.set()
    await first
    await asyncio.sleep(1)
    assert () == loop.held
    pool.shed()


@pytest.mark.virtual
async def test_a_thread_may_wait_for_virtual_time() -> None:
    """A call that waits on the clock lets virtual time pass, an hour at once."""
    pool, loop = Threads(1), virtual_loop()
    assert not await pool.submit(lambda: clocks.current().block(3600))
    assert 3600.0 == loop.time()
    pool.shed()


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


def test_a_thread_that_cannot_start_is_an_error(new: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_bounded_pool_does_with_the_threads_it_has(
    new: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    new: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every thread may be busy for ever, a call without one ends with NoThread, and does not wait for ever."""
    pool, gate = new(None), Gate()

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
    assert shared().max_threads is not None
    assert 5 <= shared().max_threads <= 32
    assert services().max_threads is None


def test_stats_cannot_be_changed(new: Callable[..., Threads]) -> None:
    """A snapshot is a value of its own."""
    stats = new(3).stats()
    with pytest.raises(AttributeError):
        stats.threads = 5  # type: ignore[misc]
    assert (0, 0, 0, 0, (), False, 3) == (
        stats.threads, stats.idle, stats.running, stats.queued, stats.abandoned, stats.stalled, stats.max_threads
    )  # fmt: skip


def test_a_virtual_loop_is_told_from_others() -> None:
    """The pool looks for the two methods that the virtual loop has and asyncio's loops have not."""
    assert callable(VirtualLoop.runcrew_hold)
    assert callable(VirtualLoop.runcrew_release)
    assert not hasattr(asyncio.SelectorEventLoop, "runcrew_hold")
