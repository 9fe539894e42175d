"""Threads and virtual time: it stands still while one is busy, and passes while one waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.backends.threaded import ThreadBackend
from runcrew.job import Job, Run
from runcrew.testing import Stuck, VirtualClock, VirtualLoop, run_virtual, virtual_loop

# --- a busy thread holds time ------------------------------------------------------------------


@pytest.mark.realtime
@pytest.mark.virtual
async def test_a_thread_in_flight_freezes_time() -> None:
    """While a thread is busy no timer goes off, so a timeout over it does not either."""
    loop = virtual_loop()
    loop.call_later(0.001, lambda: seen.append(loop.time()))
    seen: list[float] = []
    async with asyncio.timeout(30):
        await asyncio.to_thread(time.sleep, 0.01)
    assert 0.0 == loop.time()
    assert [] == seen


@pytest.mark.virtual
async def test_no_time_passes_between_a_thread_and_its_result() -> None:
    """In a thousand calls not one lets time jump in the window between its end and the hand-back."""
    loop = asyncio.get_running_loop()
    for number in range(1000):
        async with asyncio.timeout(1):
            assert number == await asyncio.to_thread(lambda number=number: number)
    assert 0.0 == loop.time()


@pytest.mark.virtual
async def test_every_executor_holds_time() -> None:
    """A call on an executor of one's own holds time as well, and its error comes back as it is."""
    loop = virtual_loop()
    with ThreadPoolExecutor(1) as own:
        async with asyncio.timeout(1):
            assert 7 == await loop.run_in_executor(own, abs, -7)
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(own, divmod, 1, 0)
    assert () == loop.held
    assert 0.0 == loop.time()


@pytest.mark.realtime
def test_a_process_pool_holds_time() -> None:
    """A call that travels to another process is handed over as it is, and holds time."""

    async def main(pool: ProcessPoolExecutor) -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(1):
            assert 7 == await loop.run_in_executor(pool, abs, -7)
        return loop.time()

    import multiprocessing

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert 0.0 == run_virtual(main, pool)


@pytest.mark.virtual
async def test_an_executor_that_refuses_holds_nothing() -> None:
    """A call that never began keeps no time from passing."""
    loop = virtual_loop()
    own = ThreadPoolExecutor(1)
    own.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await loop.run_in_executor(own, print)
    assert () == loop.held


@pytest.mark.virtual
async def test_a_timeout_over_a_thread_fires_when_time_may_pass() -> None:
    """With advance, a timeout over a busy thread fires at its own time; the thread holds nothing from then on."""
    loop = virtual_loop()
    may_end = threading.Event()
    ahead = asyncio.ensure_future(loop.advance(60))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await asyncio.to_thread(may_end.wait)
    assert 30.0 == loop.time()
    assert () == loop.held
    await ahead
    may_end.set()


@pytest.mark.virtual
async def test_what_is_held_is_named_for_people() -> None:
    """A thread is named by the function that it was given, also through to_thread."""
    loop = virtual_loop()
    may_end = threading.Event()
    call = asyncio.ensure_future(asyncio.to_thread(may_end.wait, 10))
    await asyncio.sleep(0)
    assert ("the thread of Event.wait",) == loop.held
    may_end.set()
    await call


@pytest.mark.virtual
async def test_threads_see_the_clock_in_force_and_leave_no_trace() -> None:
    """The virtual clock reaches a thread with and without its context, and is gone from the thread afterwards."""
    loop, clock = virtual_loop(), clocks.current()
    mine = contextvars.ContextVar("mine", default="not seen")
    mine.set("seen")
    with ThreadPoolExecutor(1) as own:
        assert clock is await loop.run_in_executor(own, clocks.current)
        assert "not seen" == await loop.run_in_executor(own, mine.get)
        assert clocks.SYSTEM is own.submit(clocks.current).result()
    assert clock is await asyncio.to_thread(clocks.current)
    assert "seen" == await asyncio.to_thread(mine.get)


# --- a thread that waits for time lets it pass ---------------------------------------------------


@pytest.mark.virtual
async def test_time_passes_for_a_thread_that_blocks() -> None:
    """A blocking wait in a thread takes just its virtual span, and timers on the way go off."""
    loop = virtual_loop()
    seen: list[float] = []
    for when in (10.0, 3599.0, 3601.0):
        loop.call_at(when, lambda: seen.append(loop.time()))

    def job() -> tuple[bool, float]:
        return clocks.current().block(3600), clocks.current().monotonic()

    assert (False, 3600.0) == await asyncio.to_thread(job)
    assert [10.0, 3599.0] == seen
    assert () == loop.held


@pytest.mark.virtual
async def test_a_thread_can_block_many_times() -> None:
    """Between two blocking waits the thread is busy: their spans add up exactly."""

    def job() -> float:
        for _ in range(200):
            clocks.current().block(0.25)
        return clocks.current().monotonic()

    async with asyncio.timeout(50.5):
        assert 50.0 == await asyncio.to_thread(job)


@pytest.mark.virtual
async def test_an_event_wakes_a_blocking_thread_at_a_virtual_instant() -> None:
    """An ordinary event that the loop sets at 3 s ends a wait of an hour then, before any more time passes."""
    for _ in range(100):
        loop, until = virtual_loop(), threading.Event()
        began = loop.time()
        loop.call_later(3, until.set)
        loop.call_later(3.000001, lambda: None)  # would be the next stop, were the thread not on its way already

        def job(until: threading.Event = until) -> tuple[bool, float]:
            return clocks.current().block(3600, until), clocks.current().monotonic()

        woken, at = await asyncio.to_thread(job)
        assert (True, began + 3) == (woken, at)


@pytest.mark.virtual
async def test_an_event_set_at_the_last_instant_counts() -> None:
    """Where the event is set at the very time at which the wait would be over, it was set."""
    until = threading.Event()
    asyncio.get_running_loop().call_at(5, until.set)
    assert await asyncio.to_thread(clocks.current().block, 5, until)
    assert 5.0 == asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_a_busy_loop_wakes_a_blocking_thread() -> None:
    """The thread goes on although the loop is never without something to do."""
    until = threading.Event()
    call = asyncio.ensure_future(asyncio.to_thread(clocks.current().block, 5, until))
    asyncio.get_running_loop().call_later(1, until.set)
    await asyncio.sleep(1)
    while not call.done():
        await asyncio.sleep(0)
    assert call.result()


@pytest.mark.realtime
@pytest.mark.virtual
async def test_no_time_passes_between_a_thread_and_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is busy until the loop has noted what it waits for, however long that takes."""
    loop = virtual_loop()
    for span in (1, 2, 3):
        loop.call_later(span, lambda: None)
    threadsafe = loop.call_soon_threadsafe

    def slowly(*args: Any, **kwargs: Any) -> asyncio.Handle:
        time.sleep(0.005)
        return threadsafe(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", slowly)
    await asyncio.to_thread(clocks.current().block, 5)
    assert 5.0 == loop.time()


@pytest.mark.virtual
async def test_a_blocking_thread_may_wait_for_ever() -> None:
    """With no span only the event ends the wait."""
    until = threading.Event()
    asyncio.get_running_loop().call_later(1e6, until.set)
    assert await asyncio.to_thread(clocks.current().block, None, until)
    assert 1e6 == asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_a_wait_that_is_over_already_takes_no_time() -> None:
    """An event that is set, or a span of zero, is no wait at all, on any thread."""
    clock, event = clocks.current(), threading.Event()
    assert not clock.block(0, event)
    event.set()
    assert clock.block(10, event)
    assert await asyncio.to_thread(clock.block, 10, event)
    assert 0.0 == clock.monotonic()


@pytest.mark.realtime
@pytest.mark.virtual
async def test_another_thread_wakes_a_blocking_one() -> None:
    """An event that a busy thread sets ends another's wait, and no time passes."""
    until = threading.Event()
    waiting = asyncio.ensure_future(asyncio.to_thread(clocks.current().block, 5, until))

    def setter() -> None:
        time.sleep(0.01)
        until.set()
        assert done.wait(5)

    done = threading.Event()
    waiting.add_done_callback(lambda _: done.set())
    await asyncio.to_thread(setter)
    assert await waiting
    assert 0.0 == asyncio.get_running_loop().time()


@pytest.mark.realtime
@pytest.mark.virtual
async def test_one_busy_thread_holds_time_for_all_that_block() -> None:
    """Time passes for a blocking thread only when every other thread in flight waits too."""
    loop = virtual_loop()
    blocking = asyncio.ensure_future(asyncio.to_thread(clocks.current().block, 5))
    await asyncio.to_thread(time.sleep, 0.01)
    assert 0.0 == loop.time()
    assert not await blocking
    assert 5.0 == loop.time()


@pytest.mark.realtime
@pytest.mark.virtual
async def test_a_thread_that_was_given_up_counts_no_more() -> None:
    """A cancelled call that still blocks does not stand in for another thread, which is busy and holds time."""
    loop = virtual_loop()
    given_up = asyncio.ensure_future(asyncio.to_thread(clocks.current().block, 60))
    await asyncio.sleep(1)
    given_up.cancel()
    await asyncio.wait([given_up])
    async with asyncio.timeout(10):
        await asyncio.to_thread(time.sleep, 0.01)
    assert 1.0 == loop.time()


@pytest.mark.realtime
@pytest.mark.virtual
async def test_a_job_that_was_given_up_counts_no_more() -> None:
    """The same holds for a job on the library's own threads that was abandoned and still waits for time."""
    loop = virtual_loop()
    given_up = asyncio.ensure_future(ThreadBackend().handle(Run(Job(lambda: clocks.current().block(60)))))
    await asyncio.sleep(1)
    given_up.cancel()
    await asyncio.wait([given_up])
    async with asyncio.timeout(10):
        await asyncio.to_thread(time.sleep, 0.01)
    assert 1.0 == loop.time()
    await asyncio.sleep(60)


@pytest.mark.virtual
async def test_a_job_on_our_own_threads_lets_time_pass() -> None:
    """A job on the library's own threads that waits on the clock takes just its virtual time."""

    def job() -> float:
        clocks.current().block(60)
        return clocks.current().monotonic()

    async with asyncio.timeout(61):
        outcome = await ThreadBackend().handle(Run(Job(job)))
    assert 60.0 == outcome.unwrap()


@pytest.mark.realtime
@pytest.mark.virtual
async def test_a_thread_may_hold_time_for_another() -> None:
    """A thread in flight that waits for one it has started holds time for it: no timeout goes off over the two."""
    clock = clocks.current()
    assert isinstance(clock, VirtualClock)

    def outer() -> bool:
        ended = threading.Event()
        clock.runcrew_hold("the inner thread")
        thread = threading.Thread(target=inner, args=(ended,))
        thread.start()
        try:
            return clock.block(None, ended)
        finally:
            thread.join()

    def inner(ended: threading.Event) -> None:
        time.sleep(0.01)
        ended.set()
        clock.runcrew_release("the inner thread")

    async with asyncio.timeout(5):
        assert await asyncio.to_thread(outer)
    assert 0.0 == clock.monotonic()
    clock.runcrew_hold("here")
    assert ("here",) == virtual_loop().held
    clock.runcrew_release("here")
    assert () == virtual_loop().held


def test_a_release_after_the_end_of_the_loop_is_nothing() -> None:
    """A thread that outlives the loop may still take its hold back."""

    async def main() -> VirtualClock:
        clock = clocks.current()
        assert isinstance(clock, VirtualClock)
        return clock

    clock = run_virtual(main)
    thread = threading.Thread(target=clock.runcrew_release, args=("nothing",))
    thread.start()
    thread.join()


@pytest.mark.virtual
async def test_many_threads_block_side_by_side() -> None:
    """Twenty threads with waits of their own all end at their own times."""

    def job(span: float) -> float:
        clocks.current().block(span)
        return clocks.current().monotonic()

    with ThreadPoolExecutor(20) as own:
        loop = asyncio.get_running_loop()
        ends = await asyncio.gather(*(loop.run_in_executor(own, job, span) for span in range(1, 21)))
    assert [float(span) for span in range(1, 21)] == ends


@pytest.mark.virtual
async def test_a_foreign_thread_may_block_as_well() -> None:
    """A thread that nobody holds may wait for virtual time too."""
    clock, ended = clocks.current(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def job() -> None:
        clock.block(60)
        loop.call_soon_threadsafe(ended.set)

    with virtual_loop().holding("the foreign thread"):
        thread = threading.Thread(target=job)
        thread.start()
        await ended.wait()
    thread.join()
    assert 60.0 == loop.time()


@pytest.mark.virtual
async def test_blocking_the_loops_own_thread_is_refused() -> None:
    """On the loop's thread a wait would stop time for ever, so it raises and names what to do instead."""
    for until in (None, threading.Event()):
        with pytest.raises(RuntimeError, match=r"stop virtual time.*clock\.sleep"):
            clocks.current().block(1, until)


def test_blocking_before_the_loop_runs_is_refused() -> None:
    """The thread that made a loop and does not run it cannot wait for its time."""
    loop = VirtualLoop()
    try:
        with pytest.raises(RuntimeError, match="stop virtual time"):
            VirtualClock(loop).block(1)
    finally:
        loop.close()


# --- the end ------------------------------------------------------------------------------------


def test_a_run_waits_for_threads_that_block_in_virtual_time() -> None:
    """A thread that everybody gave up still has its hour at the end of the run, in no real time."""
    ends: list[float] = []

    async def main() -> None:
        call = asyncio.ensure_future(asyncio.to_thread(job))
        await asyncio.sleep(1)
        call.cancel()

    def job() -> None:
        clocks.current().block(3600)
        ends.append(clocks.current().monotonic())

    run_virtual(main, patience=5)
    assert [3600.0] == ends


def test_a_thread_that_outlives_its_time_is_told() -> None:
    """A thread that waits in a loop that is closed under it gets an error, and does not wait for ever."""
    errors: list[str] = []

    async def main() -> None:
        clock = clocks.current()
        thread.append(threading.Thread(target=job, args=(clock.block,)))
        thread[0].start()
        await asyncio.sleep(1)

    def job(block: Callable[[float | None], bool]) -> None:
        for _ in range(2):
            try:
                block(None)
            except RuntimeError as error:
                errors.append(str(error))

    thread: list[threading.Thread] = []
    run_virtual(main)
    thread[0].join(5)
    assert 2 == len(errors)
    assert "the virtual loop has ended" in errors[0]


@pytest.mark.realtime
def test_a_thread_that_never_returns_is_found() -> None:
    """Patience over a thread ends the run once, naming the call and the line it is at."""
    may_end = threading.Event()

    def never_returns() -> None:
        may_end.wait()

    try:
        with pytest.raises(Stuck, match=r"(?s)the thread of .*never_returns.*asyncio_0 in .*never_returns"):
            run_virtual(asyncio.to_thread, never_returns, patience="20ms")
    finally:
        may_end.set()


def test_threads_that_all_wait_for_ever_are_stuck() -> None:
    """When every thread in flight waits for an event that nobody is left to set, the loop is stuck at once."""

    async def main() -> None:
        await asyncio.to_thread(clocks.current().block, None)

    with pytest.raises(Stuck, match="nobody will ever wake"):
        run_virtual(main, patience=None)
