"""One thread that belongs to one worker for life: what has to stay in one thread is done there, in order.

How the two sides meet. The loop puts work into a queue and *then* unlocks the bell; the thread looks into the
queue until it is empty and only then waits for the bell. So a bell that rang while the thread was busy costs one
more look, and no work is ever overlooked. On the way back the thread puts what it has done into a list and *then*
asks for a wake-up of the loop unless one is on its way; the loop takes that mark away *before* it looks at the list.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Final, Protocol

from runcrew.backends.calls import mailboxes, new_mailbox
from runcrew.backends.threads import NoThread, join_pools
from runcrew.lifecycle.tasks import thread_stack

_log: Final = logging.getLogger("runcrew")

#: Real seconds that the loop waits for a thread that is at its last line.
_LAST_LINE: Final = 1.0


class Work(Protocol):
    """One thing to do in the thread of a worker."""

    def do(self) -> None:
        """In the thread: do it, in whatever context it enters itself. Never raises."""
        ...

    def _hand_back(self) -> None:
        """On the loop, after `do`: tell what came of it. In whatever context; it enters the one that it needs."""
        ...


class OwnThread:
    """A thread that does the work of one worker, each piece after the other, and hands it back on the loop.

    name: the thread is called `runcrew-<name>`.
    loop: the loop on which everything here is called, and on which work comes back.
    on_end: called on the loop, once, when the thread has ended everything and is gone; after `end`, or where the
        thread has died of something. Never where the loop has been closed by then.
    context: the context in which `on_end` is called. The thread runs in a copy of it.

    No thread is started before the first `hand`. It is a daemon: an interpreter that ends does not wait for it.
    While anything that was handed over has not come back, no virtual time passes, but where the thread itself
    waits for time to pass. In a forked child the thread is not there, and none is started in its place, since
    what lives in it does not live there: `hand` raises NoThread.
    """

    __slots__ = (
        "__weakref__", "_bell", "_context", "_done", "_ending", "_flight", "_home", "_last", "_loop", "_lost",
        "_on_end", "_posted", "_queue", "_thread", "name"
    )  # fmt: skip

    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop, on_end: Callable[[OwnThread], None], context: Context
    ) -> None:
        #: What the thread is called.
        self.name = f"runcrew-{name}"
        self._loop = loop
        self._on_end = on_end
        self._context = context
        self._home = mailboxes.get(id(loop)) or new_mailbox(loop)
        self._flight = _Flight(loop, f"the thread {self.name}") if self._home.virtual else None
        #: None in it: the thread ends.
        self._queue: deque[Work | None] = deque()
        #: What has been done and is still to be handed back.
        self._done: deque[Work] = deque()
        #: Whether the loop has been asked to look at `_done`.
        self._posted = False
        #: Locked while there is nothing new.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread: threading.Thread | None = None
        self._ending = False
        #: Why there is no thread any more.
        self._lost = ""
        #: What the thread hands back at its very end, where that was asked for.
        self._last: Work | None = None

    def __repr__(self) -> str:
        state = "alive" if self.alive else "not started" if self._thread is None else "gone"
        return f"<OwnThread {self.name} {state}>"

    # --- on the loop ------------------------------------------------------------------

    def hand(self, work: Sequence[Work]) -> None:
        """Have all of this done in the thread, in this order, after what was handed over before. Never waits.

        Raises NoThread where the system refuses to start the thread, or it is gone without having been told to
        end: nothing of this was taken then. Raises RuntimeError after `end`.
        """
        if self._ending:
            raise RuntimeError(f"the thread {self.name} has been told to end: it takes no more work")
        if not work:
            return
        if self._thread is None:
            self._start()
        elif self._lost:
            raise NoThread(f"the thread {self.name} {self._lost}")
        self._queue.extend(work if self._flight is None else self._flight.take(work))
        self._ring()

    def end(self) -> None:
        """Let the thread end after what was handed over. Returns at once; `on_end` is called then. Idempotent.

        Where there is no thread, `on_end` comes by `call_soon`.
        """
        if self._ending:
            return
        self._ending = True
        if self._thread is None or self._lost == _FORKED:
            try:
                self._loop.call_soon(self._on_end, self, context=self._context)
            except RuntimeError:  # the loop is closed: nobody is there to be told
                pass
            return
        if not self._lost:
            last = _Last(self)
            self._last = last if self._flight is None else self._flight.take((last,))[0]
            self._queue.append(None)
            self._ring()

    def abandon(self, work: Work) -> None:
        """Nobody waits for this piece any more: until it has come back, neither it nor what is behind it holds
        virtual time. It comes back all the same when it is done. Without effect in real time."""
        if self._flight is not None:
            self._flight.let_go(work)

    @property
    def ident(self) -> int | None:
        """The thread's ident, as of `threading.Thread`; None before it has been started."""
        return None if self._thread is None else self._thread.ident

    @property
    def alive(self) -> bool:
        """Whether the thread has been started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def stack(self) -> str:
        """Where the thread is now, as text; empty where it is not alive. From any thread."""
        return thread_stack(self.ident) if self.alive else ""

    def _start(self) -> None:
        thread = threading.Thread(target=self._context.copy().run, args=(self._live,), name=self.name, daemon=True)
        self._thread = thread
        try:
            thread.start()
        except BaseException as error:
            if thread.ident is not None:
                raise  # it was started: this is an interrupt that hit us while we waited for its first sign
            self._thread = None
            if isinstance(error, Exception):
                raise NoThread(f"the thread {self.name} cannot be started: {error}") from error
            raise
        finally:
            del thread
        join_pools(self)

    def _ring(self) -> None:
        if self._bell.locked():
            try:
                self._bell.release()
            except RuntimeError:  # a signal handler or a finalizer in this very place has rung it
                pass

    def _hand_back(self) -> None:
        self._posted = False  # first: what is done from here on asks for a wake-up of its own
        done = self._done
        for _ in range(len(done)):
            try:
                done.popleft()._hand_back()
            except Exception:
                _log.exception("what %s had done could not be handed back", self.name)
            except BaseException:  # on its way out of the loop, which may be run again: the rest is for then
                if done:
                    self._post()
                raise

    def _ended(self) -> None:
        """The thread is at its last line, and all of its work has come back."""
        self._last = None
        if self._thread is not None:
            self._thread.join(_LAST_LINE)
        self._queue.clear()
        if self._flight is not None:
            self._flight.clear()
        self._context.run(self._on_end, self)

    # --- in the thread ----------------------------------------------------------------

    def _live(self) -> None:
        try:
            self._serve()
        finally:
            self._lost = "has ended"
            self._done.append(self._last or _Last(self))
            self._post()

    def _serve(self) -> None:
        queue, done = self._queue, self._done
        while True:
            try:
                work = queue.popleft()
            except IndexError:
                self._park()
                continue
            if work is None:
                return
            try:
                work.do()
            except BaseException:
                _log.exception("a piece of work in the thread %s raised an error of its own", self.name)
            done.append(work)
            del work  # nothing of it stays behind while we wait for the next
            if not self._posted:
                self._post()

    def _park(self) -> None:
        self._bell.acquire()

    def _post(self) -> None:
        self._posted = True
        self._home.post(self)

    # --- what pools are asked ------------------------------------------------------------

    def _held_up(self, waiting: Sequence[int]) -> int:
        """How many pieces wait behind one that waits for virtual time."""
        if self._flight is None or not self.alive or self.ident not in waiting:
            return 0  # the ident of a thread that is gone may be another one's by now
        return max(0, self._flight.holding - 1)

    def _after_fork(self) -> None:
        """In the child: of all threads, only the one that forked is there."""
        if self._thread is not None and self._thread.ident != threading.get_ident():
            self._lost = _FORKED


#: Why there is no thread in a forked child.
_FORKED: Final = "was left behind in the parent process"


class _Last:
    """What a thread hands back when it has ended."""

    __slots__ = ("_thread",)

    def __init__(self, thread: OwnThread) -> None:
        self._thread = thread

    def do(self) -> None:
        """Nothing: it is for the loop."""

    def _hand_back(self) -> None:
        self._thread._ended()


# --- virtual time ------------------------------------------------------------------------


class _Held:
    """A piece of work that holds virtual time until it has been handed back."""

    __slots__ = ("_flight", "holds", "work")

    def __init__(self, flight: _Flight, work: Work) -> None:
        self._flight = flight
        self.work = work
        self.holds = False

    def do(self) -> None:
        """In the thread."""
        self.work.do()

    def _hand_back(self) -> None:
        try:
            self.work._hand_back()
        finally:
            self._flight.back(self)


class _Flight:
    """What one thread holds virtual time for. On the loop's own thread, but for `holding`."""

    def __init__(self, loop: Any, what: str) -> None:
        self._loop = loop
        self._what = what
        #: What was handed over and has not come back, the oldest first.
        self._pending: dict[_Held, None] = {}
        #: The piece that was given up, while it is under way.
        self._left: _Held | None = None
        #: How many pieces hold time.
        self.holding = 0

    def take(self, works: Sequence[Work]) -> list[Work]:
        """These are handed over: each holds time, unless it is behind one that was given up."""
        taken = [_Held(self, work) for work in works]
        for held in taken:
            self._pending[held] = None
            if self._left is None:
                self._hold(held)
        return list(taken)

    def back(self, held: _Held) -> None:
        """It has been handed back. What was behind a given-up one counts again from here on."""
        self._pending.pop(held, None)
        self._release(held)
        if held is self._left:
            self._left = None
            for other in self._pending:
                self._hold(other)

    def let_go(self, work: Work) -> None:
        """Nobody waits for this one: it and all behind it let time pass."""
        if self._left is not None:
            return
        for held in self._pending:
            if held.work is work:
                self._left = held
            if self._left is not None:
                self._release(held)

    def clear(self) -> None:
        """The thread is gone: nothing comes back any more."""
        for held in self._pending:
            self._release(held)
        self._pending.clear()

    def _hold(self, held: _Held) -> None:
        if not held.holds:
            held.holds = True
            self.holding += 1
            self._loop.runcrew_hold(self._what)

    def _release(self, held: _Held) -> None:
        if held.holds:
            held.holds = False
            self.holding -= 1
            self._loop.runcrew_release(self._what)
