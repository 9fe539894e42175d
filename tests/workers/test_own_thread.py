"""A worker's own thread: everything in order, in one thread, handed back on the loop; gone when it has ended."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runcrew import clock as clocks
from runcrew.backends import NoThread
from runcrew.testing import run_virtual, virtual_loop
from runcrew.workers.own_thread import OwnThread

where = contextvars.ContextVar("where", default="nowhere")


class Piece:
    """A piece of work that says what happened to it."""

    def __init__(
        self, name: object = "", do: Callable[[], object] = int, back: Callable[[Any], object] | None = None
    ) -> None:
        self.name = name
        self._do = do
        self._back = back
        self.done_in: threading.Thread | None = None
        self.back = asyncio.Event()
        self.back_in: threading.Thread | None = None

    def do(self) -> None:
        self.done_in = threading.current_thread()
        self._do()

    def _hand_back(self) -> None:
        self.back_in = threading.current_thread()
        self.back.set()
        if self._back is not None:
            self._back(self)


class Gate:
    """A call that says that it has begun, and goes on when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.open.wait(10)

    async def wait_begun(self) -> None:
        while not self.begun.is_set():
            await asyncio.to_thread(self.begun.wait, 0.01)


class Ended:
    """Hears of the end of a thread."""

    def __init__(self) -> None:
        self.future = asyncio.get_running_loop().create_future()
        self.heard: list[tuple[OwnThread, bool, str]] = []

    def __call__(self, thread: OwnThread) -> None:
        self.heard.append((thread, thread.alive, where.get()))
        if not self.future.done():
            self.future.set_result(None)


@asynccontextmanager
async def own_thread(name: str = "db-1") -> AsyncIterator[tuple[OwnThread, Ended]]:
    """A thread that ends with the block."""
    ended = Ended()
    thread = OwnThread(name, asyncio.get_running_loop(), ended, contextvars.copy_context())
    try:
        yield thread, ended
    finally:
        thread.end()
        await ended.future


# --- work -------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_work_is_done_in_order_in_one_thread_and_comes_back_on_the_loop() -> None:
    """Pieces from several calls of hand are done one after the other in the same daemon thread."""
    done: list[int] = []
    back: list[int] = []

    def piece(number: int) -> Piece:
        return Piece(number, lambda: done.append(number), lambda p: back.append(p.name))

    async with own_thread() as (thread, _):
        pieces = [piece(number) for number in range(20)]
        for first in range(0, 20, 5):
            thread.hand(pieces[first : first + 5])
        await pieces[-1].back.wait()
    assert list(range(20)) == done == back
    assert [pieces[0].done_in] * 20 == [piece.done_in for piece in pieces]
    assert {threading.current_thread()} == {piece.back_in for piece in pieces}
    theirs = pieces[0].done_in
    assert theirs is not None
    assert (True, "runcrew-db-1") == (theirs.daemon, theirs.name)


@pytest.mark.realtime
def test_no_piece_is_lost_between_bursts() -> None:
    """Twenty thousand pieces in bursts of every size, handed over while the thread parks or wakes, all come back."""
    back: list[int] = []

    async def main() -> None:
        async with own_thread() as (thread, _):
            sent = 0
            while sent < 20_000:
                burst = [Piece(sent + n, back=lambda p: back.append(p.name)) for n in range(sent % 7 + 1)]
                sent += len(burst)
                thread.hand(burst)
                if sent % 3:
                    await asyncio.sleep(0)
                if not sent % 5:
                    await burst[-1].back.wait()

    asyncio.run(main())
    assert list(range(len(back))) == back
    assert len(back) >= 20_000


@pytest.mark.virtual
async def test_what_comes_back_may_hand_over_more() -> None:
    """A piece handed over from the hand-back of another is done too."""
    async with own_thread() as (thread, _):
        second = Piece()
        thread.hand([Piece(back=lambda _: thread.hand([second]))])
        await second.back.wait()


@pytest.mark.virtual
async def test_the_thread_is_woken_when_the_work_is_there() -> None:
    """A thread that looks for work faster than it can be handed over finds it all the same."""

    class Slow(list[Piece]):
        def __iter__(self) -> Iterator[Piece]:
            threading.Event().wait(0.01)
            return super().__iter__()

    async with own_thread() as (thread, _):
        for _ in range(3):
            piece = Piece()
            thread.hand(Slow([piece]))
            async with asyncio.timeout(1):
                await piece.back.wait()


@pytest.mark.virtual
async def test_nothing_of_what_is_done_is_kept() -> None:
    """A thread that waits for work keeps no piece that it has done."""
    async with own_thread() as (thread, _):
        piece = Piece()
        kept = weakref.ref(piece)
        thread.hand([piece])
        await piece.back.wait()
        del piece
        gc.collect()
        assert kept() is None


@pytest.mark.virtual
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), asyncio.CancelledError()])
async def test_a_piece_that_raises_is_logged_and_the_thread_goes_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """What a piece raises is logged; it comes back all the same, and the next is done."""

    def fail() -> None:
        raise error

    async with own_thread() as (thread, _):
        first, second = Piece(do=fail), Piece()
        thread.hand([first, second])
        await second.back.wait()
        assert first.back.is_set()
    assert [error] == [record.exc_info[1] for record in caplog.records if record.exc_info]


@pytest.mark.virtual
async def test_a_piece_that_cannot_be_handed_back_is_logged_and_the_next_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error in a hand-back stays with that piece."""
    error = ValueError("mine")

    def fail(_: Piece) -> None:
        raise error

    async with own_thread() as (thread, _):
        second = Piece()
        thread.hand([Piece(back=fail), second])
        await second.back.wait()
    assert [error] == [record.exc_info[1] for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("in_the_same", [0, 1])
def test_what_comes_back_behind_an_end_of_the_loop_comes_when_it_runs_again(in_the_same: int) -> None:
    """A SystemExit in a hand-back leaves the loop; what is behind it, from all threads, is handed back later."""
    loop = asyncio.new_event_loop()
    ended: list[Ended] = []
    threads: list[OwnThread] = []
    done = threading.Semaphore(0)

    def leave(_: Piece) -> None:
        raise SystemExit(3)

    pieces = [Piece(do=done.release, back=leave), Piece(do=done.release), Piece(do=done.release)]

    def begin() -> None:
        for number, work in enumerate((pieces[: 1 + in_the_same], pieces[1 + in_the_same :])):
            ended.append(Ended())
            threads.append(OwnThread(str(number), loop, ended[-1], contextvars.copy_context()))
            threads[-1].hand(work)
            for _ in work:
                assert done.acquire(timeout=10)  # so all of it is done before the loop does anything

    async def go_on() -> None:
        for piece in pieces:
            await piece.back.wait()
        for thread in threads:
            thread.end()
        await asyncio.gather(*[each.future for each in ended])

    try:
        loop.call_soon(begin)
        with pytest.raises(SystemExit):
            loop.run_forever()
        loop.run_until_complete(go_on())
    finally:
        loop.close()


@pytest.mark.virtual
async def test_the_thread_sees_the_clock_of_its_context() -> None:
    """Work that enters no context of its own runs in a copy of the one that the thread was given."""
    seen: list[clocks.Clock] = []
    async with own_thread() as (thread, _):
        piece = Piece(do=lambda: seen.append(clocks.current()))
        thread.hand([piece])
        await piece.back.wait()
    assert [clocks.current()] == seen
    assert clocks.SYSTEM is not clocks.current()


# --- beginning ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_no_thread_before_there_is_work() -> None:
    """Neither making one nor handing over nothing starts a thread."""
    before = threading.active_count()
    async with own_thread() as (thread, _):
        thread.hand([])
        assert (None, False, "") == (thread.ident, thread.alive, thread.stack())
        assert before == threading.active_count()
        assert "not started" in repr(thread)


@pytest.mark.virtual
async def test_a_thread_that_the_system_refuses_has_taken_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """NoThread, with the system's reason; when there are threads again, only what is handed over then is done."""
    reason = RuntimeError("can't start new thread")

    def refuse(_: threading.Thread) -> None:
        raise reason

    async with own_thread() as (thread, _):
        refused, taken = Piece(), Piece()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(NoThread) as caught:
                thread.hand([refused])
        assert reason is caught.value.__cause__
        assert not virtual_loop().held
        thread.hand([taken])
        await taken.back.wait()
        assert refused.done_in is None


@pytest.mark.virtual
async def test_a_thread_tells_where_it_is() -> None:
    """ident, alive and stack speak of the thread, also from the loop while it is busy."""
    gate = Gate()
    async with own_thread() as (thread, _):
        piece = Piece(do=gate)
        thread.hand([piece])
        await gate.wait_begun()
        stack = thread.stack()
        assert piece.done_in is not None
        assert (piece.done_in.ident, True) == (thread.ident, thread.alive)
        assert "assert self.open.wait(10)" in stack
        gate.open.set()
        await piece.back.wait()
    assert (False, "") == (thread.alive, thread.stack())


# --- ending ----------------------------------------------------------------------------


@pytest.mark.virtual
async def test_the_end_comes_after_all_that_was_handed_over() -> None:
    """end returns at once; on_end is called once, in its context, when everything is back and the thread is gone."""
    where.set("the group")
    gate = Gate()
    async with own_thread() as (thread, ended):
        pieces = [Piece(do=gate), Piece()]
        thread.hand(pieces)
        await gate.wait_begun()
        thread.end()
        thread.end()
        assert not ended.heard
        gate.open.set()
        where.set("elsewhere")
        await ended.future
        assert [True, True] == [piece.back.is_set() for piece in pieces]
        assert [(thread, False, "the group")] == ended.heard
        assert pieces[0].done_in not in threading.enumerate()
        await asyncio.sleep(1)
    assert 1 == len(ended.heard)


@pytest.mark.virtual
async def test_the_thread_is_gone_when_its_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes from its last line to its end."""
    live = OwnThread._live

    def slowly(thread: OwnThread) -> None:
        live(thread)
        threading.Event().wait(0.02)

    monkeypatch.setattr(OwnThread, "_live", slowly)
    async with own_thread() as (thread, ended):
        thread.hand([Piece()])
        thread.end()
        await ended.future
        assert [False] == [alive for _, alive, _ in ended.heard]


@pytest.mark.virtual
async def test_each_end_is_told_in_its_own_context() -> None:
    """Also of threads that end in the same moment, and have their ends told together."""
    names = ["one", "two", "three"]
    ended = [Ended() for _ in names]
    threads: list[OwnThread] = []
    for number, name in enumerate(names):
        where.set(name)
        threads.append(OwnThread(name, virtual_loop(), ended[number], contextvars.copy_context()))
        threads[-1].hand([Piece()])
        threads[-1].end()
    while any(thread.alive for thread in threads):
        threading.Event().wait(0.001)
    await asyncio.gather(*[each.future for each in ended])
    assert names == [each.heard[0][2] for each in ended]


@pytest.mark.virtual
async def test_an_end_without_a_beginning() -> None:
    """on_end comes by call_soon, in its context, where no thread was started."""
    where.set("the group")
    async with own_thread() as (thread, ended):
        thread.end()
        thread.end()
        assert not ended.heard
        where.set("elsewhere")
        await ended.future
        assert [(thread, False, "the group")] == ended.heard


@pytest.mark.virtual
async def test_after_its_end_it_takes_no_work() -> None:
    """hand after end is a fault, and raises."""
    async with own_thread() as (thread, ended):
        thread.end()
        with pytest.raises(RuntimeError, match="told to end"):
            thread.hand([Piece()])
        await ended.future


def test_a_thread_outlives_its_loop_in_silence() -> None:
    """Where the loop is closed before the thread has ended, it does what it has, ends, and nobody is told."""
    gate = Gate()
    pieces: list[Piece] = []

    async def main() -> tuple[OwnThread, Ended]:
        ended = Ended()
        thread = OwnThread("db-1", asyncio.get_running_loop(), ended, contextvars.copy_context())
        pieces.extend([Piece(do=gate), Piece()])
        thread.hand(pieces)
        return thread, ended

    thread, ended = asyncio.run(main())
    thread.end()
    gate.open.set()
    running = next(each for each in threading.enumerate() if each.ident == thread.ident)
    running.join(10)
    assert not thread.alive
    assert pieces[1].done_in is running
    assert not ended.heard


def test_an_end_after_the_loop_was_closed_is_silent() -> None:
    """end of a thread that was never started raises nothing where nobody can be told."""

    async def main() -> tuple[OwnThread, Ended]:
        ended = Ended()
        return OwnThread("db-1", asyncio.get_running_loop(), ended, contextvars.copy_context()), ended

    thread, ended = asyncio.run(main())
    thread.end()
    assert not ended.heard


@pytest.mark.virtual
async def test_a_thread_that_dies_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """on_end comes without end, time goes on, and the next hand raises NoThread."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    gate = Gate()

    def die(_: OwnThread) -> None:
        raise RuntimeError("planted")

    async with own_thread() as (thread, ended):
        piece = Piece(do=gate)
        thread.hand([piece])
        await gate.wait_begun()
        monkeypatch.setattr(OwnThread, "_park", die)
        gate.open.set()
        await ended.future
        assert piece.back.is_set()
        assert [(thread, False)] == [heard[:2] for heard in ended.heard]
        assert not virtual_loop().held
        with pytest.raises(NoThread, match="has ended"):
            thread.hand([Piece()])
        thread.end()
        await asyncio.sleep(1)
    assert 1 == len(ended.heard)


@pytest.mark.virtual
async def test_a_thread_that_dies_at_work_holds_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was doing, and what was behind it, never comes back, and holds time no more."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr("runcrew.workers.own_thread._log", None)
    gate = Gate()

    def fail() -> None:
        gate()
        raise ValueError("which nobody can log")

    async with own_thread() as (thread, ended):
        pieces = [Piece(do=fail), Piece()]
        thread.hand(pieces)
        await gate.wait_begun()
        gate.open.set()
        await ended.future
        assert [False, False] == [piece.back.is_set() for piece in pieces]
        assert [] == list(virtual_loop().held)


# --- virtual time -------------------------------------------------------------------------


@pytest.mark.virtual
async def test_no_time_passes_while_work_is_in_the_thread() -> None:
    """Neither while pieces are done nor while the thread ends; what time is held by names the thread."""
    loop = virtual_loop()
    async with own_thread() as (thread, ended):
        pieces = [Piece(do=lambda: threading.Event().wait(0.005)) for _ in range(3)]
        thread.hand(pieces)
        assert ["the thread runcrew-db-1 (x3)"] == list(loop.held)
        async with asyncio.timeout(1):
            await pieces[-1].back.wait()
        assert [] == list(loop.held)
        thread.end()
        assert ["the thread runcrew-db-1"] == list(loop.held)
        async with asyncio.timeout(1):
            await ended.future
        assert [] == list(loop.held)
    assert 0.0 == loop.time()


@pytest.mark.virtual
async def test_time_passes_for_a_thread_that_waits_for_it() -> None:
    """Also with other pieces behind the one that waits."""
    loop = virtual_loop()
    async with own_thread() as (thread, _):
        pieces = [Piece(do=lambda: clocks.current().block(3600)), Piece(), Piece()]
        thread.hand(pieces)
        await pieces[0].back.wait()
        assert 3600.0 == loop.time()
        await pieces[2].back.wait()
    assert 3600.0 == loop.time()


@pytest.mark.virtual
async def test_a_piece_that_was_given_up_does_not_hold_time() -> None:
    """Nor does what is behind it, until it has come back."""
    loop = virtual_loop()
    gate, later = Gate(), Gate()
    async with own_thread() as (thread, _):
        stuck, behind, last = Piece(do=gate), Piece(do=later), Piece()
        thread.hand([stuck, behind])
        await gate.wait_begun()
        await loop.advance(5)
        thread.abandon(stuck)
        thread.hand([last])
        assert [] == list(loop.held)
        await asyncio.sleep(100)
        assert 105.0 == loop.time()
        with loop.holding("the test"):  # nobody else waits for it
            gate.open.set()
            await stuck.back.wait()
        assert ["the thread runcrew-db-1 (x2)"] == list(loop.held)
        later.open.set()
        async with asyncio.timeout(1):
            await last.back.wait()
    assert 105.0 == loop.time()
    assert [] == list(loop.held)


@pytest.mark.virtual
async def test_giving_up_what_has_come_back_changes_nothing() -> None:
    """abandon of a piece that is back, or of the same one twice, leaves the books as they are."""
    loop = virtual_loop()
    gate = Gate()
    async with own_thread() as (thread, _):
        first, stuck = Piece(), Piece(do=gate)
        thread.hand([first, stuck])
        await gate.wait_begun()
        await first.back.wait()
        thread.abandon(first)
        assert 1 == len(loop.held)
        thread.abandon(stuck)
        thread.abandon(stuck)
        assert [] == list(loop.held)
        with loop.holding("the test"):
            gate.open.set()
            await stuck.back.wait()
    assert [] == list(loop.held)


def test_giving_up_in_real_time_changes_nothing() -> None:
    """abandon may be called on any loop."""

    async def main() -> None:
        async with own_thread() as (thread, _):
            piece = Piece()
            thread.hand([piece])
            thread.abandon(piece)
            await piece.back.wait()

    asyncio.run(main())


def test_many_threads_end_together() -> None:
    """A hundred threads are all gone when each has said so."""

    async def main() -> None:
        ended = [Ended() for _ in range(100)]
        threads = [
            OwnThread(f"db-{number}", virtual_loop(), ended[number], contextvars.copy_context())
            for number in range(100)
        ]
        before = threading.active_count()
        for thread in threads:
            thread.hand([Piece()])
        for thread in threads:
            thread.end()
        await asyncio.gather(*[each.future for each in ended])
        assert before == threading.active_count()
        assert 0.0 == virtual_loop().time()

    run_virtual(main)


# --- fork ------------------------------------------------------------------------------


@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_no_such_thread() -> None:
    """In the child hand raises NoThread at once, and end neither hangs nor raises; the parent goes on."""
    program = """
import asyncio, contextvars, os, signal, sys, warnings
from runcrew.backends import NoThread
from runcrew.workers.own_thread import OwnThread
warnings.simplefilter("ignore")

class Piece:
    def __init__(self): self.back = asyncio.Event()
    def do(self): pass
    def _hand_back(self): self.back.set()

def child(thread):
    signal.alarm(10)
    try:
        assert not thread.alive and thread.stack() == ""
        try:
            thread.hand([Piece()])
        except NoThread as error:
            assert "parent process" in str(error)
        else:
            os._exit(2)
        thread.end()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

async def main():
    gone = asyncio.Event()
    thread = OwnThread("db-1", asyncio.get_running_loop(), lambda _: gone.set(), contextvars.copy_context())
    for _ in range(2):
        piece = Piece()
        thread.hand([piece])
        await piece.back.wait()
        if (pid := os.fork()) == 0:
            child(thread)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.end()
    await gone.wait()

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ("", 0) == (ran.stderr, ran.returncode)
