"""Without an event loop: a service on a loop of its own in a background thread, and calls into it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import (
    AlreadyStarted,
    ConfigError,
    RunTimeout,
    ServiceStopped,
    ServiceStopping,
    WouldDeadlock,
    WrongLoop,
)
from runcrew.lifecycle.live import Live

pytestmark = pytest.mark.realtime

word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="nothing")


async def give(value: Any) -> Any:
    """Gives back what it was given."""
    await asyncio.sleep(0)
    return value


async def fail(error: BaseException) -> None:
    """Raises what it was given."""
    await asyncio.sleep(0)
    raise error


async def for_ever() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


async def stubborn(span: float) -> str:
    """Does not heed a cancellation, for a while."""
    until = time.monotonic() + span
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return "late"


def forever() -> rc.OneShot:
    """A service that goes on until a stop."""
    return rc.OneShot(for_ever)


@contextmanager
def interrupted_after(span: float, *more: float) -> Iterator[None]:
    """The main thread gets Ctrl-C after so many seconds, and again."""

    def interrupt() -> None:
        for pause in (span, *more):
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# --- entering and leaving -----------------------------------------------------------------


def test_it_is_ready_inside_and_has_ended_after() -> None:
    """Inside the block the service runs on a thread of its own, and after it nothing of that is left."""
    service = forever()
    before = threading.active_count()
    with service.in_thread() as live:
        assert "running" == service.state
        assert before + 1 == threading.active_count()
        assert live.call(threading.get_ident) != threading.get_ident()
    assert "stopped" == service.state
    assert before == threading.active_count()
    assert service.report is not None
    assert service.report.complete


def test_what_makes_the_start_fail_comes_out_on_entering() -> None:
    """An error in the start is raised by `with`, the very object, and no thread is left."""
    error = LookupError("no such thing")

    def broken() -> None:
        raise error

    queue = rc.Queue("db", resource=broken, destroy=None, spares=1)
    before = threading.active_count()
    with pytest.raises(rc.ResourceError) as caught, queue.in_thread():
        pytest.fail("it was entered")
    assert error is caught.value.__cause__
    assert before == threading.active_count()


def test_leaving_drains() -> None:
    """What a queue has accepted is done before the block is left."""
    done: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0.01)
        done.append(number)

    queue: rc.Queue[Any] = rc.Queue("db")
    with queue.in_thread() as live:
        for number in range(10):
            live.call(queue.submit, work, number)
    assert list(range(10)) == done


def test_a_stop_takes_no_longer_than_its_timeout() -> None:
    """What has not ended within stop_timeout is cut short, and its caller told."""
    queue: rc.Queue[Any] = rc.Queue("db")
    with queue.in_thread(stop_timeout=0.05) as live:
        future = live.start(queue.run, for_ever)
        while not queue.stats().running:
            time.sleep(0.001)
    with pytest.raises(rc.RunInterrupted):
        future.result(0)


def test_what_ended_the_service_comes_out_on_leaving() -> None:
    """A service that has failed by itself says so where the block is left, and its state can be seen before."""
    error = LookupError("gone")
    service = rc.OneShot(lambda: _raise(error), name="once")
    with pytest.raises(LookupError) as caught, service.in_thread():
        while service.state != "failed":
            time.sleep(0.001)
    assert error is caught.value


def _raise(error: BaseException) -> None:
    raise error


def test_an_error_of_the_block_comes_out_and_the_service_is_stopped() -> None:
    """An error raised in the block ends the service too, and comes out as it is."""
    service = forever()
    with pytest.raises(KeyError, match="mine"), service.in_thread():
        raise KeyError("mine")
    assert "stopped" == service.state


def test_two_errors_come_out_together() -> None:
    """Where the block and the service both failed, neither error is lost."""
    error = LookupError("gone")
    service = rc.OneShot(lambda: _raise(error), name="once")
    with pytest.raises(ExceptionGroup) as caught, service.in_thread():
        while service.state != "failed":
            time.sleep(0.001)
        raise KeyError("mine")
    assert [KeyError, LookupError] == [type(inner) for inner in caught.value.exceptions]


def test_it_can_be_used_again() -> None:
    """The same object may be entered again after it was left: the service begins a new life on a new loop."""
    service = forever()
    thread = service.in_thread()
    with thread as live:
        first = live.call(asyncio.get_running_loop)
    with thread as again:
        assert first is not again.call(asyncio.get_running_loop)
        with pytest.raises(ServiceStopped):
            live.call(give, 1)
    assert 2 == service.generation


def test_it_is_not_entered_twice_at_once() -> None:
    """Inside its own block it refuses to be entered, and so does a second one of the same service."""
    service = forever()
    thread = service.in_thread()
    with thread as live:
        with pytest.raises(AlreadyStarted, match="already"), thread:
            pytest.fail("it was entered")
        with pytest.raises(WrongLoop), service.in_thread():
            pytest.fail("it was entered")
        assert 1 == live.call(give, 1)


def test_several_live_side_by_side() -> None:
    """Two services in two threads know nothing of each other, and one may be inside the other."""
    with forever().in_thread() as one, forever().in_thread() as two:
        assert one.call(threading.get_ident) != two.call(threading.get_ident)
        assert 5 == one.call(lambda: two.call(give, 5))


def test_it_may_be_entered_where_a_loop_runs() -> None:
    """In a thread with an event loop of its own, as in a notebook, it works as well."""

    async def main() -> int:
        with forever().in_thread() as live:
            return live.call(give, 7)

    assert 7 == asyncio.run(main())


def test_virtual_time_is_refused() -> None:
    """Where time is virtual, entering is refused in words, and nothing is started."""

    async def main() -> None:
        with pytest.raises(ConfigError, match="virtual"), forever().in_thread():
            pytest.fail("it was entered")

    from runcrew.testing import run_virtual

    run_virtual(main)


@pytest.mark.parametrize("bad", [-1, "soon", float("nan")])
def test_a_bad_stop_timeout_is_refused(bad: Any) -> None:
    """stop_timeout is checked where it is given."""
    with pytest.raises(ConfigError, match="stop_timeout"):
        forever().in_thread(stop_timeout=bad)


# --- calls --------------------------------------------------------------------------------


def test_a_call_gives_the_value_or_raises_the_error() -> None:
    """`call` gives what the coroutine function gives, and raises the very object that it raises."""
    error = LookupError("no")
    with forever().in_thread() as live:
        assert 3 == live.call(give, 3)
        with pytest.raises(LookupError) as caught:
            live.call(fail, error)
        assert error is caught.value


def test_a_plain_function_is_called_on_the_loop() -> None:
    """A plain function runs on the loop's thread, and what it returns is given back as it is."""
    queue: rc.Queue[Any] = rc.Queue("db")
    with queue.in_thread() as live:
        ticket = live.call(queue.submit_nowait, give, 4)
        assert isinstance(ticket, rc.Ticket)
        assert 4 == live.call(ticket)
        assert not live.call(ticket.cancel)


def test_a_coroutine_can_be_given_too() -> None:
    """Something that can be awaited is awaited on the loop; arguments behind it make no sense, and are refused."""
    with forever().in_thread() as live:
        assert 4 == live.call(give(4))
        for bad in (5, "run", None):
            with pytest.raises(ConfigError, match="not callable"):
                live.call(bad)  # type: ignore[call-overload]


def test_keywords_reach_the_function() -> None:
    """Positional and keyword arguments go to the function, whatever they are called."""

    async def what(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    with forever().in_thread() as live:
        assert ((1,), {"fn": 2, "self": 3, "span": 4}) == live.call(what, 1, fn=2, self=3, span=4)


def test_the_callers_context_reaches_the_coroutine() -> None:
    """A call sees the context variables of its caller, and what it sets is its own."""

    async def look() -> str:
        seen = word.get()
        word.set("changed")
        return seen

    with forever().in_thread() as live:
        word.set("mine")
        assert "mine" == live.call(look)
        assert "mine" == live.start(look).result(10)
        assert "mine" == word.get()
    word.set("nothing")


def test_the_service_sees_the_context_of_who_entered() -> None:
    """Jobs of the service see the context variables of the thread that entered."""
    seen: list[str] = []
    ran = threading.Event()

    async def look() -> None:
        seen.append(word.get())
        ran.set()

    word.set("entered")
    with rc.OneShot(look).in_thread():
        assert ran.wait(10)
    word.set("nothing")
    assert ["entered"] == seen


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("job")], ids=["exit", "interrupt"])
def test_what_would_end_the_loop_comes_out_of_the_call_alone(error: BaseException) -> None:
    """A SystemExit that a call raises is raised to its caller, and the loop goes on."""
    with forever().in_thread() as live:
        with pytest.raises(type(error)) as caught:
            live.call(fail, error)
        assert error is caught.value
        assert 1 == live.call(give, 1)


def test_a_call_of_somebody_who_cancels_it_on_the_loop_is_cancelled() -> None:
    """A task that is cancelled on the loop by somebody else ends its future as cancelled."""

    async def cancel_me() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with forever().in_thread() as live:
        with pytest.raises(concurrent.futures.CancelledError):
            live.call(cancel_me)
        future = live.start(cancel_me)
        concurrent.futures.wait([future], 10)
        assert future.cancelled()


def test_many_threads_call_at_once() -> None:
    """Calls of many threads are all answered, each with its own answer."""
    answers: dict[int, list[int]] = {}

    queue: rc.Queue[Any] = rc.Queue("db", workers=3)
    with queue.in_thread() as live:

        def ask(number: int) -> None:
            answers[number] = [live.call(queue.run, give, number * 1000 + i) for i in range(100)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {n: [n * 1000 + i for i in range(100)] for n in range(8)} == answers


def test_a_future_is_cancelled_on_the_loop() -> None:
    """Cancelling the future of `start` cancels the task, which cleans up on the loop."""
    begun, cleaned = threading.Event(), threading.Event()

    async def clean() -> None:
        begun.set()
        try:
            await for_ever()
        finally:
            cleaned.set()

    with forever().in_thread() as live:
        future = live.start(clean)
        assert begun.wait(10)
        assert future.cancel()
        assert future.cancel()
        assert future.cancelled()
        assert cleaned.wait(10)
        assert [future] == list(concurrent.futures.as_completed([future], 10))
        ended = live.start(give, 1)
        assert 1 == ended.result(10)
        assert not ended.cancel()


def test_futures_are_the_standard_ones() -> None:
    """`wait`, `as_completed`, done callbacks and `asyncio.wrap_future` work with what `start` gives."""
    heard: list[int] = []
    with forever().in_thread() as live:
        futures = [live.start(give, number) for number in range(20)]
        for future in futures:
            future.add_done_callback(lambda done: heard.append(done.result()))
        assert set(range(20)) == {done.result() for done in concurrent.futures.as_completed(futures, 10)}

        async def wrapped() -> int:
            return await asyncio.wrap_future(live.start(give, 30))

        assert 30 == asyncio.run(wrapped())
    assert list(range(20)) == sorted(heard)


def test_a_callback_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a done callback raises is logged, the next one is called, and the loop goes on."""
    heard: list[int] = []

    def leave(_: object) -> None:
        raise SystemExit(3)

    async def slow() -> int:
        await asyncio.sleep(0.05)
        return 3

    service = forever()
    with service.in_thread() as live:
        future = live.start(slow)
        future.add_done_callback(leave)
        future.add_done_callback(lambda done: heard.append(done.result()))
        assert 3 == future.result(10)
        assert 1 == live.call(give, 1)
        assert "running" == service.state
    assert [3] == heard
    assert "SystemExit" in caplog.text


def test_waiting_on_the_loop_itself_is_refused() -> None:
    """On the service's own loop neither `call` nor the result of a future is waited for: that would be for ever."""
    with forever().in_thread() as live:

        async def inside() -> list[str]:
            refused = []
            for wait in (lambda: live.call(give, 1), live.start(give, 1).result, live.start(give, 2).exception):
                try:
                    wait()
                except WouldDeadlock as error:
                    refused.append(str(error))
            future = live.start(give, 3)
            while not future.done():
                await asyncio.sleep(0)
            refused.append(future.result())
            return refused

        *words, value = live.call(inside)
        assert 3 == len(words)
        assert all("await" in said for said in words)
        assert 3 == value


def test_a_job_does_not_wait_for_its_own_queue_through_it() -> None:
    """A job in a thread of a queue that calls back into the queue is refused, instead of waiting for itself."""
    queue: rc.Queue[Any] = rc.Queue("db")
    with queue.in_thread() as live:
        with pytest.raises(WouldDeadlock, match="db"):
            live.call(queue.run, lambda: live.call(queue.run, give, 1))
        assert 1 == live.call(queue.run, lambda: len([live.call(queue.submit, give, 1)]))
    assert 2 == queue.stats().runs.succeeded


# --- limits of time ---------------------------------------------------------------------------


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    """When its time is up the task is cancelled, and RunTimeout, a TimeoutError, is raised after it has cleaned up."""
    cleaned: list[bool] = []

    async def clean() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    with forever().in_thread() as live:
        with pytest.raises(RunTimeout, match="clean did not end within 20ms") as caught:
            live.with_timeout("20ms").call(clean)
        assert isinstance(caught.value, TimeoutError)
        assert [True] == cleaned
        future = live.with_timeout(0.02).start(clean)
        with pytest.raises(RunTimeout):
            future.result(10)
        assert [True, True] == cleaned


def test_a_call_in_time_is_left_alone() -> None:
    """Within its time a call is as any other, and a TimeoutError of its own stays its own."""
    mine = TimeoutError("mine")
    with forever().in_thread() as live:
        brief = live.with_timeout("10s")
        assert 1 == brief.call(give, 1)
        assert 2 == brief.start(give, 2).result(10)
        with pytest.raises(TimeoutError) as caught:
            brief.call(fail, mine)
        assert mine is caught.value


def test_what_a_late_call_makes_of_its_cancellation_counts() -> None:
    """A value, or an error of its own, that comes in spite of the cancellation is what the caller gets."""

    async def value() -> str:
        try:
            await for_ever()
        except asyncio.CancelledError:
            return "kept"
        return ""

    async def error() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            raise KeyError("own") from None

    with forever().in_thread() as live:
        assert "kept" == live.with_timeout("10ms").call(value)
        with pytest.raises(KeyError, match="own"):
            live.with_timeout("10ms").call(error)


def test_with_no_time_nothing_begins() -> None:
    """Zero is zero: the call never begins, and its time is up."""
    begun: list[int] = []
    with forever().in_thread() as live, pytest.raises(RunTimeout, match="did not begin"):
        live.with_timeout(0).call(begun.append, 1)
    assert [] == begun


def test_a_call_that_does_not_heed_is_given_up() -> None:
    """One that does not heed its cancellation is given up a second later, and goes on by itself."""
    with forever().in_thread() as live:
        began = time.monotonic()
        with pytest.raises(RunTimeout, match="heed"):
            live.with_timeout("10ms").call(stubborn, 1.3)
        assert 1.0 < time.monotonic() - began
        assert 1 == live.call(give, 1)


def test_a_blocked_loop_holds_nobody() -> None:
    """A caller with a limit goes on also where the loop is blocked, and cannot cancel anything."""
    may_go = threading.Event()
    with forever().in_thread() as live:
        blocked = live.start(may_go.wait)
        with pytest.raises(RunTimeout, match="loop did not go on"):
            live.with_timeout("10ms").call(give, 1)
        may_go.set()
        assert blocked.result(10)


@pytest.mark.parametrize("bad", [None, -1, "soon"])
def test_a_bad_timeout_is_refused(bad: Any) -> None:
    """with_timeout takes a span, and nothing else."""
    with forever().in_thread() as live, pytest.raises(ConfigError, match="timeout"):
        live.with_timeout(bad)


# --- the end ------------------------------------------------------------------------------------


def test_after_the_end_calls_are_refused() -> None:
    """After the block every call raises ServiceStopped in words, and no coroutine is left un-awaited."""
    with forever().in_thread() as live:
        pass
    for ask in (live.call, live.start, live.with_timeout(1).call):
        with pytest.raises(ServiceStopped, match="has ended"):
            ask(give, 1)
        with pytest.raises(ServiceStopped, match="has ended"):
            ask(give(1))
    assert "(ended)" in repr(live)


def test_every_call_ends_with_the_service() -> None:
    """What waits for the service ends by that; what would go on for ever is cancelled and told so."""
    service = forever()
    with service.in_thread() as live:
        waits, goes_on, deaf = live.start(service.wait), live.start(for_ever), live.start(stubborn, 0.2)
        cancelled = live.start(for_ever)
        assert cancelled.cancel()
    assert waits.result(0).complete
    with pytest.raises(ServiceStopped, match="with it this call of for_ever"):
        goes_on.result(0)
    assert "late" == deaf.result(0)
    assert cancelled.cancelled()


def test_what_does_not_heed_the_end_is_left_to_itself() -> None:
    """A task that does not heed its cancellation holds up the end for about a second; its future ends, it is named."""
    with forever().in_thread() as live:
        future = live.start(stubborn, 60)
        live.call(give, 1)
    with pytest.raises(ServiceStopped):
        future.result(0)


def test_calls_are_taken_while_it_stops() -> None:
    """During a drain other threads' calls still reach the loop, and the service itself says what it refuses."""
    queue: rc.Queue[Any] = rc.Queue("db")
    heard: list[object] = []

    async def slow() -> str:
        await asyncio.sleep(0.1)
        return "done"

    def ask() -> None:
        while queue.state != "stopping":
            time.sleep(0.001)
        heard.append(live.call(queue.stats).queued)
        try:
            live.call(queue.run, give, 1)
        except ServiceStopping as error:
            heard.append(error)

    with queue.in_thread() as live:
        ticket = live.call(queue.submit, slow)
        thread = threading.Thread(target=ask)
        thread.start()
    thread.join()
    assert [0, ServiceStopping] == [heard[0], type(heard[1])]
    outcome = ticket.peek()
    assert outcome is not None
    assert "done" == outcome.value


def test_no_call_is_lost_at_the_end() -> None:
    """Of calls that race with the end, from several threads, every one gets its value or is told that it came late."""
    for _ in range(20):
        ended: list[int] = []

        def ask(live: Live, ended: list[int] = ended) -> None:
            futures: list[Any] = []
            try:
                while True:
                    futures.append(live.start(give, 1))
                    if not len(futures) % 50:
                        time.sleep(0.0005)
            except ServiceStopped:
                pass
            for future in futures:
                assert future.exception(10) is None or isinstance(future.exception(), ServiceStopped)
            ended.append(len(futures))

        with forever().in_thread() as live:
            threads = [threading.Thread(target=ask, args=(live,)) for _ in range(3)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join(20)
        assert 3 == len(ended)


def test_a_job_may_stop_it() -> None:
    """A stop that is called through it ends the service, and the block is left as usual."""
    service = forever()
    with service.in_thread() as live:
        assert live.call(service.stop).complete
        assert "stopped" == service.state
        live.call(service.start)
        assert "running" == service.state
    assert 2 == service.generation


def test_leaving_inside_its_own_work_does_not_wait() -> None:
    """A job of the service that leaves the block begins the stop, and does not wait for itself."""
    queue: rc.Queue[Any] = rc.Queue("db")
    stack = ExitStack()
    live = stack.enter_context(queue.in_thread())
    live.call(queue.run, stack.close)
    assert live._portal.over.wait(10)
    assert "stopped" == queue.state
    live._portal._thread.join()


def test_a_task_that_exits_ends_the_service() -> None:
    """A SystemExit of a task that nobody looks after stops the service, and comes out where the block is left."""
    left: list[Any] = []

    async def leave_a_task() -> None:
        left.append(asyncio.get_running_loop().create_task(fail(SystemExit(5))))

    service = forever()
    with pytest.raises(SystemExit, match="5"), service.in_thread() as live:
        live.call(leave_a_task)
        while service.state != "stopped":
            time.sleep(0.001)
    assert isinstance(left.pop().exception(), SystemExit)


def test_nothing_of_a_call_is_kept() -> None:
    """Neither arguments nor values nor errors are kept by anything once the caller has let go of them."""

    class Thing:
        pass

    async def echo(thing: Thing) -> Thing:
        return thing

    async def broken(thing: Thing) -> None:
        raise LookupError("no")

    gc.disable()
    try:
        with forever().in_thread() as live:
            thing = Thing()
            seen = weakref.ref(thing)
            assert thing is live.call(echo, thing)
            try:
                live.call(broken, thing)
            except LookupError:
                pass
            live.call(give, None)  # the loop has gone on
            del thing
            assert seen() is None
    finally:
        gc.enable()


# --- interrupts -----------------------------------------------------------------------------------


def test_an_interrupt_cancels_the_call() -> None:
    """Ctrl-C while a call is waited for cancels it, waits for its end, and comes out."""
    cleaned: list[bool] = []

    async def clean() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    with forever().in_thread() as live:
        with pytest.raises(KeyboardInterrupt), interrupted_after(0.05):
            live.call(clean)
        assert [True] == cleaned
        assert 1 == live.call(give, 1)


def test_an_interrupt_while_it_starts_ends_it() -> None:
    """Ctrl-C while entering takes down what has been started, and comes out."""

    async def slow() -> object:
        await for_ever()
        return object()

    queue = rc.Queue("db", resource=slow, destroy=None)
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.05), queue.in_thread():
        pytest.fail("it was entered")
    assert queue.state in ("stopped", "failed")


def test_an_interrupt_while_it_stops_kills_it() -> None:
    """Ctrl-C while leaving turns the drain into a kill, and comes out when all has ended."""
    queue: rc.Queue[Any] = rc.Queue("db")
    began = time.monotonic()
    ticket: Any = None
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.2), queue.in_thread() as live:
        ticket = live.call(queue.submit, for_ever)
    assert 10 > time.monotonic() - began
    assert "stopped" == queue.state
    assert "interrupted" == ticket.status


# --- the end of the interpreter, and forks ----------------------------------------------------------


def output(tmp_path: Any, program: str, *, code: int = 0) -> str:
    """What a program says."""
    path = tmp_path / "program.py"
    path.write_text("import runcrew as rc, asyncio, threading, time, os, sys\n" + program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, timeout=30, cwd=tmp_path
    )
    assert code == done.returncode, done.stderr
    assert "" == done.stderr
    return done.stdout


def test_an_interpreter_that_ends_stops_what_nobody_left(tmp_path: Any) -> None:
    """What was entered and never left is drained when the interpreter ends: nothing that was accepted is lost."""
    program = """
async def work(number):
    await asyncio.sleep(0.05)
    print("did", number, flush=True)
queue = rc.Queue("db")
live = queue.in_thread().__enter__()
for number in range(3):
    live.call(queue.submit, work, number)
print("main ends", flush=True)
"""
    assert "main ends\ndid 0\ndid 1\ndid 2\n" == output(tmp_path, program)


#: Python 3.12 starts no thread once the main thread has ended, whoever asks.
before_the_thread = pytest.param("main", marks=pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="no threads"))


@pytest.mark.parametrize("first", [before_the_thread, "thread"])
def test_another_thread_keeps_it_after_the_main_thread_has_ended(tmp_path: Any, first: str) -> None:
    """A thread that will leave its block itself is not disturbed by the end of the main thread before or after."""
    program = f"""
entered = threading.Event()
def thread():
    if {first == "main"}:
        time.sleep(0.1)
    queue = rc.Queue("db")
    with queue.in_thread() as live:
        entered.set()
        time.sleep(0.2)
        print(live.call(queue.run, give), flush=True)
async def give():
    return "still there"
threading.Thread(target=thread).start()
if {first == "thread"}:
    entered.wait()
"""
    assert "still there\n" == output(tmp_path, program)


def test_an_interpreter_ends_also_where_a_thread_forgot_it(tmp_path: Any) -> None:
    """A thread that has ended without leaving its block is no reason to lose work, or to go on for ever."""
    program = """
async def work():
    await asyncio.sleep(0.1)
    print("done", flush=True)
entered = threading.Event()
def thread():
    global live
    queue = rc.Queue("db")
    live = queue.in_thread().__enter__()
    live.call(queue.submit, work)
    entered.set()
    time.sleep(0.05)
threading.Thread(target=thread).start()
entered.wait()
"""
    assert "done\n" == output(tmp_path, program)


def test_an_interpreter_does_not_wait_for_ever(tmp_path: Any) -> None:
    """What would not stop is cut short when the interpreter ends."""
    program = """
queue = rc.Queue("db")
live = queue.in_thread(stop_timeout=0.1).__enter__()
async def for_ever():
    try:
        await asyncio.sleep(1e6)
    finally:
        print("cut short", flush=True)
live.call(queue.submit, for_ever)
"""
    assert "cut short\n" == output(tmp_path, program)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_in_a_forked_child_it_is_not_there(tmp_path: Any) -> None:
    """In a forked child calls are refused, futures end, and leaving the block does not wait for anything."""
    program = """
import warnings
warnings.simplefilter("ignore")
async def for_ever():
    await asyncio.sleep(1e6)
with rc.Queue("db").in_thread(stop_timeout=0) as live:
    future = live.start(for_ever)
    child = os.fork()
    if not child:
        try:
            live.call(asyncio.sleep, 0)
        except rc.ServiceStopped as error:
            print("refused", type(future.exception(0)).__name__, flush=True)
if child:
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("parent", flush=True)
else:
    os._exit(0)
"""
    assert "refused ServiceStopped\nparent\n" == output(tmp_path, program)


def test_every_service_has_it() -> None:
    """A crew, a queue, an interval, a pool and a supervisor live in a thread alike."""

    async def tick() -> None:
        """One tick."""

    makes: list[Callable[[], Any]] = [
        lambda: rc.Crew("crew"),
        lambda: rc.Queue("queue"),
        lambda: rc.Interval(tick, "1h"),
        lambda: rc.Pool(for_ever),
        lambda: rc.Supervisor(rc.OneShot(for_ever)),
    ]
    for make in makes:
        service = make()
        with service.in_thread(stop_timeout=0) as live:
            assert "running" == live.call(lambda service=service: service.state) or "Crew" == type(service).__name__
        assert service.state.over
