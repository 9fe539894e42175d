"""Calls in threads: each its own result, to whoever waits for it, with few wake-ups; nothing kept."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.backends import Call, Threads
from runcrew.errors import ConfigError, JobCrashed, WrongLoop
from runcrew.testing import VirtualLoop, run_virtual, virtual_loop

MakePool = Callable[..., Threads]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


def identity(value: Any) -> Any:
    """The least that a thread can be asked for."""
    return value


# --- results ------------------------------------------------------------------------------


@pytest.mark.realtime
def test_a_hundred_thousand_calls_each_give_their_own_value(new: MakePool) -> None:
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


def test_arguments_come_as_they_were_given(new: MakePool) -> None:
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


def test_an_error_is_the_very_object(new: MakePool) -> None:
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
def test_what_is_no_exception_reaches_waiters_wrapped(error: BaseException, new: MakePool) -> None:
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


def test_stop_iteration_does_not_hang_its_waiter(new: MakePool) -> None:
    """A StopIteration, which no future takes, comes out as a RuntimeError from it, on every version."""
    pool = new(1)

    async def main() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError) as caught:
                await pool.submit(next, iter(()))
        assert isinstance(caught.value.__cause__, StopIteration)

    asyncio.run(main())


def test_an_error_that_cannot_be_shown_comes_through(new: MakePool, caplog: Any) -> None:
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


def test_stamps_are_by_the_clock_of_whoever_asks(new: MakePool) -> None:
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


def test_cancelling_one_waiter_leaves_the_others(new: MakePool, gate: Any) -> None:
    """Of three tasks that await one call, one is cancelled: the call goes on and the two get its value."""
    pool = new(1)

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


def test_results_come_back_in_batches(new: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_result_nobody_waits_for_wakes_nobody(new: MakePool, monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
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


def test_another_loop_is_refused(new: MakePool, gate: Any) -> None:
    """A call that one loop has submitted cannot be awaited on another while it runs: WrongLoop says what to do."""
    pool = new(1)

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
def test_two_loops_share_one_pool(new: MakePool) -> None:
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


def test_a_loop_that_closed_under_a_call(new: MakePool, gate: Any) -> None:
    """A call whose loop has gone ends quietly in its thread, and the pool serves the next loop."""
    pool = new(1)
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


def test_loops_are_not_kept(new: MakePool) -> None:
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


def test_a_call_that_ends_while_a_waiter_is_made_is_seen(
    new: MakePool, monkeypatch: pytest.MonkeyPatch, gate: Any
) -> None:
    """A call whose end falls between the look at it and the waiting for it does not leave the task waiting."""
    pool = new(1)

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


# --- plain threads ------------------------------------------------------------------------


def test_a_plain_thread_waits_for_results(new: MakePool, gate: Any) -> None:
    """Without a loop, `result()` blocks and gives the value or raises the error; on a timeout the call goes on."""
    pool = new(2)
    call = pool.submit(gate, 6)
    with pytest.raises(TimeoutError):
        call.result(timeout=0.001)
    with pytest.raises(ConfigError, match="timeout"):
        call.result(timeout=-1)
    gate.open.set()
    assert 6 == call.result()
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()


def test_threads_of_one_pool_may_wait_for_each_other(new: MakePool) -> None:
    """A call that waits for calls of its own pool does not deadlock: it runs what has not begun itself."""
    pool = new(1)

    def depth(levels: int) -> int:
        return 0 if levels == 0 else 1 + int(pool.submit(depth, levels - 1).result())

    assert 20 == pool.submit(depth, 20).result(timeout=10)
    assert (1, 0) == (pool.stats().threads, pool.stats().queued)


def test_a_finalizer_may_submit(new: MakePool) -> None:
    """A call that is handed over while the pool's lock is held by the same thread gets through."""
    pool = new(1)
    with pool._lock:
        call = pool.submit(identity, 1)
    assert 1 == call.result(timeout=10)


# --- context ------------------------------------------------------------------------------


def test_each_call_has_its_own_copy_of_the_context(new: MakePool) -> None:
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


# --- what is kept ---------------------------------------------------------------------------


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
def test_nothing_of_a_call_is_kept(how: str, new: MakePool, gate: Any, until: Until) -> None:
    """After a call the pool keeps neither function, arguments, context, result nor error; nor does its handle of those
    that went in.
    """
    pool = new(1)
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


def test_a_running_call_keeps_nothing_of_the_last_one(new: MakePool, gate: Any) -> None:
    """While a thread is busy with a long call, the result of the one before is not held."""
    pool = new(1)

    async def main() -> None:
        seen = weakref.ref(await pool.submit(Thing))
        call = pool.submit(gate)
        await gate.wait_begun()
        assert seen() is None
        gate.open.set()
        await call

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
async def test_virtual_time_is_let_go_exactly_once(gate: Any) -> None:
    """Calls that end, are taken back, are given up or are never awaited each let time go once."""
    pool, loop = Threads(1), virtual_loop()
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
async def test_virtual_time_is_let_go_from_another_thread(gate: Any) -> None:
    """A call that a foreign thread takes back lets time go as well."""
    pool, loop = Threads(1), virtual_loop()
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


def test_a_virtual_loop_is_told_from_others() -> None:
    """The pool looks for the two methods that the virtual loop has and asyncio's loops have not."""
    assert callable(VirtualLoop.runcrew_hold)
    assert callable(VirtualLoop.runcrew_release)
    assert not hasattr(asyncio.SelectorEventLoop, "runcrew_hold")
