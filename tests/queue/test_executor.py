"""The executor of a queue: the standard's semantics, the queue's policies, and ends of every kind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import ConfigError, NotStarted, QueueFull, ServiceStopped, WouldDeadlock
from runcrew.queue.executor import QueueExecutor

pytestmark = pytest.mark.realtime

word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="nothing")


@contextmanager
def executor(**options: Any) -> Iterator[QueueExecutor]:
    """The executor of a queue that lives in a thread."""
    queue: rc.Queue[Any] = rc.Queue("db", **options)
    with queue.in_thread() as live:
        yield live.call(queue.executor)


class Gate:
    """A job that waits until it may go on."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self.begun.set()
        assert self.may_go.wait(20)
        return value


def fail(error: BaseException) -> None:
    """Raises what it was given."""
    raise error


# --- submit ---------------------------------------------------------------------------------------


def test_a_function_is_done_in_a_thread_of_the_queue() -> None:
    """`submit` gives a future of the value, done in a worker's thread; keywords go to the function, as do its names."""

    def what(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs, threading.current_thread().name

    with executor() as ex:
        future = ex.submit(what, 1, self=2, fn=3)
        assert isinstance(future, concurrent.futures.Future)
        args, kwargs, thread = future.result(10)
        assert ((1,), {"self": 2, "fn": 3}) == (args, kwargs)
        assert thread.startswith("runcrew-db")


def test_a_failure_is_the_very_object() -> None:
    """What the function raises is the future's exception, whatever it is, and the queue goes on."""
    with executor() as ex:
        for error in (LookupError("no"), SystemExit(3), KeyboardInterrupt("job"), asyncio.CancelledError("mine")):
            future = ex.submit(fail, error)
            assert error is future.exception(10)
            with pytest.raises(type(error)) as caught:
                future.result()
            assert error is caught.value
        assert 1 == ex.submit(abs, -1).result(10)


def test_anything_callable_can_be_done() -> None:
    """Classes, partials, bound methods and builtins are called alike."""

    class Adder:
        def __init__(self, much: int = 1) -> None:
            self.much = much

        def add(self, number: int) -> int:
            return self.much + number

        def __call__(self, number: int) -> int:
            return self.much * number

    for options in ({}, {"middleware": [lambda inner: inner]}):
        with executor(**options) as ex:
            made = ex.submit(Adder, 3).result(10)
            assert 7 == ex.submit(made.add, 4).result(10)
            assert 12 == ex.submit(made, 4).result(10)
            assert 5 == ex.submit(functools.partial(made.add, 2)).result(10)
            assert "7" == ex.submit(str, 7).result(10)
            assert isinstance(ex.submit(5).exception(10), TypeError)  # type: ignore[arg-type]


def test_a_coroutine_function_fails_in_words() -> None:
    """An async function is nothing for an executor, and its future says so."""

    async def job() -> None:
        """Never awaited."""

    for options in ({}, {"middleware": [lambda inner: inner]}):
        with executor(**options) as ex:
            error = ex.submit(job).exception(10)
            assert isinstance(error, TypeError)
            assert "awaitable" in str(error)


def test_the_submitters_context_is_seen() -> None:
    """A job sees the context variables of whoever submitted it, in a copy of its own."""

    def look() -> str:
        seen = word.get()
        word.set("changed")
        return seen

    with executor() as ex:
        word.set("mine")
        assert ["mine", "mine"] == [ex.submit(look).result(10) for _ in range(2)]
        assert "mine" == word.get()
    word.set("nothing")


def test_a_job_asks_about_its_run() -> None:
    """In a job `rc.current_run()` gives the run of the queue, with the function's name."""

    def look() -> tuple[str, int]:
        run = rc.current_run()
        return run.job.name, run.attempt

    with executor() as ex:
        assert ("look", 1) == ex.submit(look).result(10)


def test_as_many_at_once_as_there_are_workers() -> None:
    """Jobs run on as many threads as the queue has workers, and never on more."""
    barrier = threading.Barrier(3)
    with executor(workers=3) as ex:
        futures = [ex.submit(barrier.wait, 10) for _ in range(6)]
        assert sorted([0, 1, 2] * 2) == sorted(future.result(10) for future in futures)


def test_many_threads_submit_at_once() -> None:
    """Submits of many threads all end, each with its own value."""
    with executor(workers=2, maxsize=None) as ex:
        values: list[list[int]] = []

        def submit() -> None:
            futures = [ex.submit(abs, -number) for number in range(1000)]
            values.append([future.result(20) for future in futures])

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [list(range(1000))] * 4 == values


def test_it_works_with_run_in_executor_and_wrap_future() -> None:
    """An event loop uses it as any other executor, also the queue's own loop."""

    async def main() -> list[Any]:
        async with rc.Queue("db", workers=2) as queue:
            loop = asyncio.get_running_loop()
            ex = queue.executor()
            values = [await loop.run_in_executor(ex, abs, -1)]
            values.append(await asyncio.wrap_future(ex.submit(abs, -2)))
            values += await asyncio.gather(*(loop.run_in_executor(ex, abs, -n) for n in range(50)))
            with pytest.raises(LookupError):
                await loop.run_in_executor(ex, fail, LookupError("no"))
            await asyncio.to_thread(ex.shutdown)
            return values

    assert [1, 2, *range(50)] == asyncio.run(main())


# --- futures --------------------------------------------------------------------------------------


def test_a_future_that_waits_can_be_cancelled_and_one_that_runs_cannot() -> None:
    """`cancel` is true before the beginning, and the job never runs; it is false while it runs, and after."""
    gate, ran = Gate(), []
    with executor() as ex:
        running = ex.submit(gate, 7)
        waiting = ex.submit(ran.append, 1)
        assert gate.begun.wait(10)
        assert running.running()
        assert not running.cancel()
        assert not waiting.running()
        assert waiting.cancel()
        assert waiting.cancel()
        assert waiting.cancelled()
        with pytest.raises(CancelledError):
            waiting.result(0)
        assert [waiting] == list(concurrent.futures.as_completed([waiting], 10))
        gate.may_go.set()
        assert 7 == running.result(10)
        assert not running.cancel()
    assert [] == ran


def test_a_cancelled_run_is_counted_as_cancelled() -> None:
    """A run whose future was cancelled counts as cancelled in the queue, and leaves its place there."""
    gate = Gate()
    queue: rc.Queue[Any] = rc.Queue("db")
    with queue.in_thread() as live:
        ex = live.call(queue.executor)
        first = ex.submit(gate)
        assert gate.begun.wait(10)
        futures = [ex.submit(abs, -1) for _ in range(10)]
        while queue.stats().queued != 10:
            time.sleep(0.001)
        for future in futures:
            future.cancel()
        while queue.stats().queued:
            time.sleep(0.001)
        gate.may_go.set()
        first.result(10)
    runs = queue.stats().runs
    assert (1, 10) == (runs.succeeded, runs.cancelled)


def test_a_value_that_is_there_is_given_without_a_lock() -> None:
    """`done`, `result`, `exception`, `running` and the text of a future are as the standard has them."""
    with executor() as ex:
        future = ex.submit(abs, -1)
        while not future.done():
            time.sleep(0.001)
        assert 1 == future.result(0)
        assert future.exception(0) is None
        assert not future.running()
        assert not future.cancelled()
        assert "state=finished returned int" in repr(future)
        with pytest.raises(concurrent.futures.InvalidStateError):
            future.set_result(2)


def test_a_result_that_takes_too_long_raises_timeouterror() -> None:
    """`result` and `exception` with a timeout raise TimeoutError, and the job goes on."""
    gate = Gate()
    with executor() as ex:
        future = ex.submit(gate, 1)
        for wait in (future.result, future.exception):
            with pytest.raises(TimeoutError):
                wait(0.01)
        gate.may_go.set()
        assert 1 == future.result(10)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_callbacks_are_called_once(late: bool) -> None:
    """A done callback is called once with the future, whether it is added before or after the end."""
    heard: list[Any] = []
    gate = Gate()
    with executor() as ex:
        for job in (lambda: gate(1), lambda: gate(1) and fail(LookupError("no"))):
            future = ex.submit(job)
            if not late:
                future.add_done_callback(heard.append)
            gate.may_go.set()
            concurrent.futures.wait([future], 10)
            if late:
                future.add_done_callback(heard.append)
            ex.submit(abs, 1).result(10)
            assert [future] == heard
            heard.clear()


def test_wait_and_as_completed_work_with_all_kinds() -> None:
    """The standard's `wait` sees futures that have ended in whatever way, and whenever."""
    gate = Gate()
    with executor(workers=2) as ex:
        fast: list[Any] = [ex.submit(abs, -n) for n in range(50)]
        slow: Any = ex.submit(gate, "slow")
        wrong: Any = ex.submit(fail, KeyError("no"))
        done, rest = concurrent.futures.wait([*fast, wrong, slow], 10, concurrent.futures.FIRST_EXCEPTION)
        assert wrong in done
        assert slow in rest
        gate.may_go.set()
        done, rest = concurrent.futures.wait([*fast, wrong, slow], 10)
        assert (52, 0) == (len(done), len(rest))


def test_a_wait_for_all_never_ends_too_early() -> None:
    """Futures that end while somebody begins to wait for them are counted exactly once."""
    with executor(workers=2, maxsize=None) as ex:
        for _ in range(60):
            futures = [ex.submit(abs, -1) for _ in range(30)]
            done, rest = concurrent.futures.wait(futures, 20)
            assert (30, 0) == (len(done), len(rest))


def test_nothing_is_kept() -> None:
    """Neither function, arguments nor value are kept by anything, once the future is let go."""

    class Thing:
        def method(self, other: Thing) -> Thing:
            return other

    gc.disable()
    try:
        with executor() as ex:
            thing, other = Thing(), Thing()
            seen = weakref.ref(thing), weakref.ref(other)
            future = ex.submit(thing.method, other)
            assert future.result(10) is other
            del thing
            ex.submit(abs, 1).result(10)
            assert gone_in_time(seen[0])
            del other, future
            assert gone_in_time(seen[1])
    finally:
        gc.enable()


def gone_in_time(seen: weakref.ref[Any]) -> bool:
    """Whether it goes, without a collector's help."""
    deadline = time.monotonic() + 5
    while seen() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    return seen() is None


def test_a_callback_that_raises_harms_nobody() -> None:
    """Whatever a done callback raises, the job has succeeded, the next callback is called, and the worker goes on."""
    heard: list[int] = []
    with executor() as ex:
        for error in (None, KeyError("no")):
            gate = Gate()

            def job(gate: Gate = gate, error: KeyError | None = error) -> None:
                gate()
                if error is not None:
                    raise error

            future = ex.submit(job)
            future.add_done_callback(lambda _: fail(SystemExit(3)))
            future.add_done_callback(lambda _: heard.append(1))
            gate.may_go.set()
            concurrent.futures.wait([future], 10)
            assert error is future.exception(0)
            assert 2 == ex.submit(abs, -2).result(10)
    assert [1, 1] == heard


# --- map ------------------------------------------------------------------------------------------


def test_map_gives_values_in_order() -> None:
    """`map` submits all at once and gives values in order; several iterables end with the shortest."""
    with executor(workers=3) as ex:
        assert [n**2 for n in range(100)] == list(ex.map(pow, range(100), [2] * 100))
        assert [1, 3] == list(ex.map(max, [0, 3], [1, 2, 3]))
        assert [1, 2, 3] == list(ex.map(abs, [-1, -2, -3], chunksize=2))
        with pytest.raises(ValueError, match="chunksize"):
            ex.map(abs, [1], chunksize=0)


def test_map_cancels_what_is_left() -> None:
    """A `map` that is closed early, or times out, cancels what has not begun."""
    gate, ran = Gate(), []
    with executor() as ex:

        def job(number: int) -> int:
            if number:
                ran.append(number)
                return number
            return int(gate(0))

        values = ex.map(job, range(5), timeout=0.05)
        with pytest.raises(TimeoutError):
            next(values)
        gate.may_go.set()
        ex.submit(abs, 1).result(10)
        assert [] == ran


# --- shutdown -------------------------------------------------------------------------------------


def test_after_a_shutdown_it_takes_nothing_and_the_queue_goes_on() -> None:
    """`shutdown` waits for what was submitted, then submits raise the standard's RuntimeError; the queue lives."""
    queue: rc.Queue[Any] = rc.Queue("db")
    with queue.in_thread() as live:
        with live.call(queue.executor) as ex:
            futures = [ex.submit(time.sleep, 0.002) for _ in range(10)]
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            ex.submit(abs, 1)
        with pytest.raises(RuntimeError, match="cannot schedule"):
            ex.map(abs, [1])
        ex.shutdown()
        assert 2 == live.call(queue.run, abs, -2)
        assert 3 == queue.executor().submit(abs, -3).result(10)


def test_a_shutdown_may_cancel_and_may_not_wait() -> None:
    """cancel_futures cancels what has not begun; wait=False returns at once, and what runs goes on."""
    gate = Gate()
    with executor() as ex:
        first = ex.submit(gate, 1)
        assert gate.begun.wait(10)
        others = [ex.submit(abs, 1) for _ in range(100)]
        ex.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in others)
        assert first.running()
        gate.may_go.set()
        ex.shutdown()
        assert 1 == first.result(0)


# --- where waiting would be for ever --------------------------------------------------------------


def test_waiting_in_a_job_or_on_the_loop_is_refused() -> None:
    """To wait for a future in a job of its queue, or on the loop, raises WouldDeadlock; with a timeout it waits."""
    gate = Gate()
    queue: rc.Queue[Any] = rc.Queue("db", workers=2)
    with queue.in_thread() as live:
        ex = live.call(queue.executor)
        slow = ex.submit(gate)

        def wait() -> list[str]:
            words = []
            for call in (slow.result, slow.exception, ex.shutdown):
                try:
                    call()
                except WouldDeadlock as error:
                    words.append(str(error))
            with pytest.raises(TimeoutError):
                slow.result(0)
            return words

        other = live.call(queue.executor)
        assert ["db" in said for said in other.submit(wait).result(10)] == [True] * 3
        assert ["wrap_future" in said for said in live.call(wait)] == [True] * 3
        gate.may_go.set()


def test_a_job_may_submit() -> None:
    """A job may submit to the executor that it runs in, as long as it does not wait."""
    with executor() as ex:
        inner: concurrent.futures.Future[int] = ex.submit(lambda: ex.submit(abs, -5)).result(10)
        assert 5 == inner.result(10)


# --- initializers ---------------------------------------------------------------------------------


def test_an_initializer_is_called_once_in_each_worker() -> None:
    """It runs once in each thread, before the first job for this executor there, and not for others."""
    here = threading.local()
    calls: list[int] = []

    def initialize(value: str) -> None:
        here.value = value
        calls.append(threading.get_ident())

    def look() -> tuple[str, int]:
        time.sleep(0.002)
        return getattr(here, "value", "nothing"), threading.get_ident()

    queue: rc.Queue[Any] = rc.Queue("db", workers=3)
    with queue.in_thread():
        bare = queue.executor()
        assert "nothing" == bare.submit(look).result(10)[0]
        ex = queue.executor(initializer=initialize, initargs=("ready",))
        seen = [future.result(10) for future in [ex.submit(look) for _ in range(30)]]
    assert {"ready"} == {value for value, _ in seen}
    assert sorted({thread for _, thread in seen}) == sorted(calls)


def test_an_initializer_that_fails_breaks_the_executor_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Where it fails, all that has not begun fails with BrokenThreadPool, and so do submits; the queue goes on."""
    queue: rc.Queue[Any] = rc.Queue("db", retry=[rc.Retry(Exception, retries=2)])
    with queue.in_thread() as live:
        ex = queue.executor(initializer=fail, initargs=(LookupError("no"),))
        with caplog.at_level(logging.CRITICAL, "concurrent.futures"):
            try:
                futures = [ex.submit(abs, -1) for _ in range(20)]
            except BrokenExecutor:
                futures = []
            for future in futures:
                assert isinstance(future.exception(10), BrokenThreadPool)
        assert "Exception in initializer" in caplog.text
        while not ex._broken:
            time.sleep(0.001)
        with pytest.raises(BrokenThreadPool, match="not usable"):
            ex.submit(abs, 1)
        assert 1 == live.call(queue.run, abs, -1)
        ex.shutdown()


def test_a_bad_initializer_is_refused() -> None:
    """What cannot be called is refused as the standard does."""
    queue: rc.Queue[Any] = rc.Queue("db")
    bad: Any = 123456
    with queue.in_thread(), pytest.raises(TypeError, match="initializer must be a callable"):
        queue.executor(initializer=bad)


# --- the queue's options --------------------------------------------------------------------------


def test_the_rules_of_the_queue_hold() -> None:
    """A run is tried again by the queue's rules, and its future ends with the last attempt."""
    tries: list[int] = []

    def third(_: str) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return len(tries)

    rule = rc.Retry(ConnectionError, retries=5, backoff=rc.Constant(0.001))
    with executor(retry=[rule]) as ex:
        assert 3 == ex.submit(third, "x").result(10)
        error = ConnectionError("never")
        assert error is ex.submit(fail, error).exception(10)


def test_a_timeout_of_the_queue_is_the_futures_error() -> None:
    """A run that takes too long ends as RunTimeout, a TimeoutError, though its thread goes on."""
    gate = Gate()
    with executor(timeout=0.02) as ex:
        future = ex.submit(gate)
        assert isinstance(future.exception(10), rc.RunTimeout)
        gate.may_go.set()
        assert 1 == ex.submit(abs, -1).result(10)


def test_middleware_and_concurrency_are_around_each_run() -> None:
    """Runs of an executor go through the queue's chain as all others do."""
    counter = rc.Counter()
    with executor(workers=3, middleware=[counter], concurrency=rc.Concurrency(1)) as ex:
        assert list(range(20)) == list(ex.map(abs, range(20)))
        gate = Gate()
        first, second = ex.submit(gate, 1), ex.submit(abs, -2)
        assert gate.begun.wait(10)
        assert first.running()
        gate.may_go.set()
        assert [1, 2] == [first.result(10), second.result(10)]


def test_a_twin_is_skipped() -> None:
    """With dedupe, the twin of a run under way ends as RunSkipped."""
    gate = Gate()
    with executor(dedupe=rc.Dedupe()) as ex:
        first = ex.submit(gate, 1)
        assert gate.begun.wait(10)
        assert isinstance(ex.submit(gate, 1).exception(10), rc.RunSkipped)
        gate.may_go.set()
        assert 1 == first.result(10)


def test_a_full_queue_makes_nobody_wait() -> None:
    """Where the queue is full, submits return at once, and their runs wait outside for their turn, in order."""
    gate, order = Gate(), []
    with executor(maxsize=2) as ex:
        first = ex.submit(gate)
        assert gate.begun.wait(10)
        futures = [ex.submit(order.append, number) for number in range(50)]
        cancelled = futures[30]
        assert cancelled.cancel()
        time.sleep(0.01)
        gate.may_go.set()
        first.result(10)
        concurrent.futures.wait(futures, 10)
    assert [number for number in range(50) if number != 30] == order


@pytest.mark.parametrize(
    ("overflow", "error"), [("reject", QueueFull), ("drop_newest", rc.RunSkipped), ("drop_oldest", rc.RunSkipped)]
)
def test_what_overflows_says_so(overflow: str, error: type[Exception]) -> None:
    """What the queue does not take, or drops, ends with the matching error."""
    gate = Gate()
    with executor(maxsize=1, overflow=overflow) as ex:
        first = ex.submit(gate)
        assert gate.begun.wait(10)
        futures = [ex.submit(abs, -number) for number in range(3)]
        concurrent.futures.wait(futures, 0.2)
        wrong = [future.exception() for future in futures if future.done()]
        assert [error, error] == [type(each) for each in wrong]
        gate.may_go.set()
        first.result(10)


def test_backend_loop_does_them_on_the_loop() -> None:
    """With backend="loop" functions run on the event loop, as the queue was told."""
    queue: rc.Queue[Any] = rc.Queue("db", backend="loop")
    with queue.in_thread() as live:
        ex = queue.executor()
        assert live.call(threading.get_ident) == ex.submit(threading.get_ident).result(10)
        assert isinstance(ex.submit(fail, KeyError("no")).exception(10), KeyError)
    timed: rc.Queue[Any] = rc.Queue("db", backend="loop", timeout=1)
    with timed.in_thread(), pytest.raises(ConfigError, match="timeout"):
        timed.executor()


def test_a_queue_with_a_resource_has_none() -> None:
    """An executor's functions get no resource, so a queue with one refuses, and says what to do."""
    queue = rc.Queue("db", resource=object, destroy=None)
    with queue.in_thread(), pytest.raises(ConfigError, match="resource"):
        queue.executor()


# --- the end --------------------------------------------------------------------------------------


def test_without_a_running_queue_there_is_none() -> None:
    """Before the start and after the end there is no executor, and one of an earlier life is refused in words."""
    queue: rc.Queue[Any] = rc.Queue("db")
    with pytest.raises(NotStarted):
        queue.executor()
    with queue.in_thread():
        ex = queue.executor()
    with pytest.raises(ServiceStopped):
        queue.executor()
    with pytest.raises(RuntimeError, match="cannot schedule new futures") as caught:
        ex.submit(abs, 1)
    assert isinstance(caught.value.__cause__, ServiceStopped)
    with queue.in_thread(), pytest.raises(RuntimeError, match="cannot schedule"):
        ex.submit(abs, 1)
    ex.shutdown()


def test_a_drain_does_what_was_submitted_before() -> None:
    """What was submitted before the stop is done, also what still waited for room, and for the loop."""
    with executor(maxsize=5) as ex:
        futures = [ex.submit(abs, -number) for number in range(2000)]
    assert list(range(2000)) == [future.result(0) for future in futures]


def test_what_a_stop_cuts_short_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Where the queue runs out of time to stop, futures that have not ended raise RunInterrupted, and keep that."""
    gate = Gate()
    queue: rc.Queue[Any] = rc.Queue("db", maxsize=5)
    with queue.in_thread(stop_timeout=0):
        ex = queue.executor()
        running, others = ex.submit(gate), [ex.submit(abs, 1) for _ in range(20)]
        assert gate.begun.wait(10)
    for future in (running, *others):
        assert isinstance(future.exception(0), rc.RunInterrupted)
    caplog.clear()
    thread = next(thread for thread in threading.enumerate() if thread.name == "runcrew-db-1")
    gate.may_go.set()
    thread.join(10)
    assert isinstance(running.exception(0), rc.RunInterrupted)
    assert "" == caplog.text
    ex.shutdown()


def test_a_loop_that_is_torn_down_ends_all_futures() -> None:
    """Where the loop is closed without a stop, every future ends all the same, and submits are refused."""
    held: list[Any] = []

    async def main() -> None:
        queue: rc.Queue[Any] = rc.Queue("db", maxsize=3)
        await queue.start()
        ex = queue.executor()
        held.extend((ex, queue))
        gate = Gate()
        held.append(gate)
        futures = [ex.submit(gate), *(ex.submit(abs, 1) for _ in range(10))]
        await asyncio.sleep(0.01)
        futures.append(ex.submit(abs, 1))
        held.extend(futures)

    asyncio.run(main())
    ex, _, gate, *futures = held
    for future in futures:
        assert isinstance(future.exception(5), rc.RunInterrupted)
    with pytest.raises(RuntimeError, match="cannot schedule"):
        ex.submit(abs, 1)
    gate.may_go.set()


def test_no_future_is_lost_at_the_end() -> None:
    """Of submits that race with the end, from several threads, each is refused, or its future ends."""
    for _ in range(15):
        counts: list[int] = []

        def submit(ex: QueueExecutor, counts: list[int] = counts) -> None:
            futures = []
            try:
                while True:
                    futures.append(ex.submit(abs, -1))
                    if not len(futures) % 50:
                        time.sleep(0.0005)
            except RuntimeError:
                pass
            for future in futures:
                error = future.exception(20)
                assert error is None or isinstance(error, rc.RunInterrupted)
            counts.append(len(futures))

        with executor(workers=2) as ex:
            threads = [threading.Thread(target=submit, args=(ex,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.005)
        for thread in threads:
            thread.join(30)
        assert 3 == len(counts)


def test_events_and_stats_name_the_function() -> None:
    """Runs of an executor are told of by their own names."""
    from runcrew.events import RunEnded

    heard: list[str] = []
    queue: rc.Queue[Any] = rc.Queue("db")
    queue.subscribe(lambda event: heard.append(type(event).__name__), RunEnded)
    with queue.in_thread():
        queue.executor().submit(abs, -1).result(10)
    assert ["RunEnded"] == heard
    assert 1 == queue.stats().runs.succeeded


def test_it_is_described() -> None:
    """Its text names the queue and says how it is."""
    with executor() as ex:
        assert "db" in repr(ex)
        assert "open" in repr(ex)
        ex.shutdown()
        assert "shut down" in repr(ex)
    assert "ended" in repr(ex)


@pytest.mark.realtime
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
def test_in_a_fork_nothing_waits_for_what_stayed_behind() -> None:
    """What is outstanding ends there, and what is submitted is refused in words; the parent goes on as before."""
    queue = rc.Queue("its", workers=1)
    with queue.in_thread():
        executor = queue.executor()
        release = threading.Event()
        future = executor.submit(release.wait, 30)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            said = repr(future.exception(timeout=5)) if future.done() else "it waits"
            try:
                executor.submit(release.wait)
            except RuntimeError as error:
                said += f" {error}"
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as end:
            said = end.read()
        os.waitpid(pid, 0)
        release.set()
        assert True is future.result(10)
    assert "RunInterrupted" in said
    assert "of which this is a fork" in said
