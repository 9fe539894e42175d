"""Threads of our own: they start on demand, leave when idle, and never keep the interpreter from ending.

How work finds a thread. Calls wait in one queue, in order. A thread that has nothing to do parks on a lock of
its own. At most one thread at a time is on its way to the queue (`_coming`); who puts a call in wakes or
starts one only if none is. The one that arrives takes a call, and before it runs it makes sure that
another is on its way if there is more. So a burst of tiny calls is run by few threads, and a burst of long
ones spreads over as many as may be. `_coming` is only ever set by one who knows of a thread that will clear it
*before* it looks into the queue; and who puts a call in looks at `_coming` *after* that. One of the two
therefore always sees the other.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

from runcrew import clock as clocks
from runcrew.backends.calls import Call, Mailbox, given_up, mailboxes, new_mailbox, running_loop
from runcrew.durations import Duration, optional
from runcrew.errors import ConfigError, RuncrewError, RunInterrupted
from runcrew.job import Outcome

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: So many calls that were taken back may always stay in the queue.
_DEAD: Final = 64

#: Seconds before a bounded pool asks again for a thread that the system has refused.
_PATIENCE: Final = 0.1

_log: Final = logging.getLogger("runcrew")


class NoThread(RuncrewError, RuntimeError):
    """The system refuses to start a thread that a call needs. The pool can be used on: call again later."""


@dataclass(frozen=True, slots=True)
class AbandonedCall:
    """A call that was given up while it ran: what it is, its thread's name, and since when (epoch seconds)."""

    name: str
    thread: str
    since: float
    #: The thread's ident.
    ident: int | None = None


@dataclass(frozen=True, slots=True)
class ThreadStats:
    """A snapshot of a pool. `threads` counts all: idle, running a call somebody wants, and abandoned ones."""

    threads: int
    idle: int
    running: int
    queued: int
    abandoned: tuple[AbandonedCall, ...]
    stalled: bool
    max_threads: int | None


class _Worker:
    """One thread of a pool."""

    __slots__ = ("bell", "call", "dismissed", "thread")

    def __init__(self, work: Callable[[_Worker], None], name: str) -> None:
        #: Locked while there is nothing to do: who brings work unlocks it.
        self.bell = threading.Lock()
        self.bell.acquire()
        self.call: Call[Any] | None = None
        self.dismissed = False
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)


class _Here(threading.local):
    pool: Threads | None = None


_here: Final = _Here()


class Threads:
    """A pool of threads that serves any number of event loops and plain threads at once.

    max_threads: how many calls may run at the same time; None: as many as there are.
    idle: how long a thread stays without work before it ends; None: for ever.
    max_abandoned: so many threads that were given up (see `Call.abandon`) are replaced; those beyond keep their
        place until they return. 0: none is. None: as many as `max_threads`.
    name: what the threads are called, with a number behind.
    on_stalled: called with the pool when every place is held by an abandoned thread that is not
        replaced, which is logged as an error; in the thread that gave up the last one. What it raises is logged.

    Nothing starts before the first call. The threads are daemons: an interpreter that ends does not wait
    for them. In a forked child the pool is empty and can be used. Raises ConfigError for bad values.
    """

    def __init__(
        self,
        max_threads: int | None = None,
        *,
        idle: Duration | None = "10s",
        max_abandoned: int | None = None,
        name: str = "runcrew",
        on_stalled: Callable[[Threads], object] | None = None,
    ) -> None:
        self.max_threads = at_least(max_threads, "max_threads", 1)
        self.max_abandoned = at_least(max_abandoned, "max_abandoned", 0)
        if max_abandoned is None:
            self.max_abandoned = max_threads
        elif max_threads is None:
            raise ConfigError(f"max_abandoned: {max_abandoned!r} limits nothing where max_threads is None")
        span = optional(idle, "idle")
        self._idle_span = -1.0 if span is None else span
        self.name = name
        self.on_stalled = on_stalled
        #: Re-entrant: a signal handler or a finalizer may hand over a call while its thread is in here.
        self._lock = threading.RLock()
        #: The oldest first. Calls that were taken back stay until their turn comes, or until they are half of all.
        self._queue: deque[Call[Any]] = deque()
        self._dead = 0
        #: Threads that are parked, the one that came last at the end: it is the first to be woken.
        self._parked: list[_Worker] = []
        self._workers: dict[_Worker, None] = {}
        self._abandoned: dict[Call[Any], AbandonedCall] = {}
        self._coming = False
        self._room = True
        #: Until when no thread is asked for, after the system refused one.
        self._refused: float | None = None
        self._numbers = itertools.count(1)
        join_pools(self)

    def __repr__(self) -> str:
        most = "unlimited" if self.max_threads is None else f"max_threads={self.max_threads}"
        return f"<Threads {self.name}, {most}, {len(self._workers)} alive>"

    # --- handing over -----------------------------------------------------------------

    def submit(self, fn: Callable[[*Ts], T], *args: *Ts, context: Context | None = None) -> Call[T]:
        """Have `fn(*args)` called in a thread; keywords go through `functools.partial`. Never waits.

        context: whose context variables the call sees, in a copy of its own; None: those of the caller.

        Raises NoThread where the call needs a new thread and the system refuses it.
        """
        home: Mailbox | None = None
        if (loop := running_loop()) is not None:
            home = mailboxes.get(id(loop)) or new_mailbox(loop)
        call = Call(self, home, copy_context() if context is None else context.copy(), clocks.current(), fn, args)
        if home is not None and home.virtual:
            home.hold_for(call)
        self._queue.append(call)
        if not self._coming and (self._parked or self._room or self._refused is not None):
            refusal = self._bring()
            if refusal is not None and call.error is refusal:
                raise refusal
        return call

    def _bring(self) -> NoThread | None:
        """Send one more thread to the queue: one that is parked, or a new one where there is room.

        Where one cannot be started and no other will come, all calls that wait end with that error; it is returned.
        """
        try:
            worker = self._parked.pop()
        except IndexError:
            return self._hire()
        self._coming = True
        worker.bell.release()
        return None

    def _hire(self) -> NoThread | None:
        worker = _Worker(self._work, f"{self.name}-{next(self._numbers)}")
        with self._lock:
            self._workers[worker] = None  # first in, then out again: so nothing can come between looking and taking
            if self._too_many() or not self._may_ask():
                del self._workers[worker]
                return None
            self._look_for_room()
            self._coming = True
        try:
            worker.thread.start()
        except BaseException as error:
            if worker.thread.ident is None:
                return self._not_hired(worker, error)
            raise  # it was started: this is an interrupt that hit us while we waited for its first sign
        return None

    def _not_hired(self, worker: _Worker, error: BaseException) -> NoThread | None:
        with self._lock:
            del self._workers[worker]
            self._room = False
            self._refused = clocks.SYSTEM.monotonic() + _PATIENCE
            alone = self.max_threads is None or len(self._workers) == len(self._abandoned)
            self._coming = False
        if not isinstance(error, Exception):
            raise error
        if self._parked:  # it parked while we tried, and relied on us
            return self._bring()
        if not alone:
            return None  # a thread that is at work will come by itself
        refusal = NoThread(f"no thread can be started for a call ({len(self._workers)} are alive): {error}")
        refusal.__cause__ = error
        self._end_all(refusal)
        return refusal

    def _may_ask(self) -> bool:
        """Whether to ask the system for a thread: while it refuses, not again and again if others do the work."""
        if self._refused is None:
            return True
        others = self.max_threads is not None and len(self._workers) - 1 > len(self._abandoned)
        if others and clocks.SYSTEM.monotonic() < self._refused:
            return False
        self._refused = None
        return True

    def _end_all(self, refusal: NoThread) -> None:
        while True:
            try:
                call = self._queue.popleft()
            except IndexError:
                return
            if not call._refuse(refusal):
                with self._lock:
                    self._dead -= 1

    # --- room: always under the lock --------------------------------------------------

    def _places(self) -> float:
        """How many threads there may be, abandoned ones included."""
        if self.max_threads is None or self.max_abandoned is None:
            return math.inf
        return self.max_threads + min(len(self._abandoned), self.max_abandoned)

    def _too_many(self) -> bool:
        return len(self._workers) > self._places()

    def _look_for_room(self) -> None:
        self._room = len(self._workers) < self._places()

    # --- a thread's life ----------------------------------------------------------------

    def _work(self, me: _Worker) -> None:
        _here.pool = self
        try:
            self._serve(me)
        finally:
            self._leave(me)

    def _serve(self, me: _Worker) -> None:
        queue, parked = self._queue, self._parked
        while True:
            self._coming = False
            try:
                call = queue.popleft()
            except IndexError:
                if self._park(me):
                    continue
                return
            if queue and (parked or self._room) and not self._coming:
                self._bring()
            me.call = call
            wanted = call._run()
            del call  # nothing of it stays behind; `me.call` goes with the next, or when this thread parks
            if not wanted and not self._goes_on(me, wanted):
                return

    def _park(self, me: _Worker) -> bool:
        """Wait for work. False: there was none for so long that this thread ends."""
        me.call = None
        parked = self._parked
        parked.append(me)
        # A call may have come in just before: its giver did not see us here.
        if not self._queue and me.bell.acquire(timeout=self._idle_span):
            return not me.dismissed
        try:
            parked.remove(me)
        except ValueError:  # somebody has just taken us from the list, and rings
            me.bell.acquire()
            return not me.dismissed
        return bool(self._queue)

    def _goes_on(self, me: _Worker, wanted: bool | None) -> bool:
        """Whether a thread serves on whose call was taken back (None) or given up: not if it was replaced."""
        with self._lock:
            if wanted is None:
                self._dead -= 1
            return me in self._workers

    def _leave(self, me: _Worker) -> None:
        with self._lock:
            self._workers.pop(me, None)
            self._look_for_room()
        self._coming = False
        if me.call is not None and me.call._give_up(RunInterrupted("the thread of the call has died")):
            me.call._tell()  # something broke in our own code: who waits must not wait for ever
        if self._queue:  # a call came in while we counted as one who would take it
            self._bring()

    def shed(self) -> None:
        """Let all idle threads end now, and wait for the moment that this takes. From any thread; repeatable."""
        leaving: list[_Worker] = []
        while self._parked:
            try:
                worker = self._parked.pop()
            except IndexError:
                break
            worker.dismissed = True
            worker.bell.release()
            leaving.append(worker)
        for worker in leaving:
            worker.thread.join(1.0)

    # --- what a call asks of its pool -----------------------------------------------------

    def _taken_back(self) -> None:
        """A call in the queue will never begin. Where half of them will not, the queue is cleared of those."""
        with self._lock:
            self._dead += 1
            if self._dead <= _DEAD or 2 * self._dead <= len(self._queue):
                return
            # Taken out one by one and put back at once, since threads take from it meanwhile.
            alive: list[Call[Any]] = []
            for _ in range(len(self._queue)):
                try:
                    call = self._queue.popleft()
                except IndexError:
                    break
                if hasattr(call, "_args"):
                    alive.append(call)
                else:
                    self._dead -= 1
            self._queue.extendleft(reversed(alive))
        if alive and not self._coming:
            self._bring()

    def _run_here(self, call: Call[Any]) -> bool:
        """In one of the pool's own threads: run the call that this thread wants to wait for, if it has not begun."""
        if _here.pool is not self:
            return False
        ran = call._run()
        if ran is not None:
            with self._lock:
                self._dead += 1  # it is still in the queue
        self._coming = False  # it has said that this thread was, but we have not done with our own call
        if self._queue:
            self._bring()
        return ran is not None

    def _abandon(self, call: Call[Any]) -> bool:
        name = call._name()
        with self._lock:
            if not call._give_up(given_up()):
                return False
            thread = next((w.thread for w in list(self._workers) if w.call is call), None)
            where, ident = ("?", None) if thread is None else (thread.name, thread.ident)
            self._abandoned[call] = AbandonedCall(name, where, call._clock.now(), ident)
            self._look_for_room()
        return True

    def _after_abandoning(self) -> None:
        if self._queue and not self._coming:
            self._bring()
        if not self.stalled:
            return
        _log.error(
            "the threads %r are stalled: all %d of them run given-up calls, and others wait until one ends: %s",
            self.name, len(self._abandoned), listed(self.stats().abandoned),
        )  # fmt: skip
        if self.on_stalled is not None:
            try:
                self.on_stalled(self)
            except Exception:
                _log.exception("on_stalled of the threads %r failed", self.name)

    def _came_back(self, call: Call[Any], value: Any, error: BaseException | None) -> None:
        """A call that had been given up has ended after all, in this thread, which goes if it was replaced."""
        with self._lock:
            given = self._abandoned.pop(call, None)
            mine = [worker for worker in list(self._workers) if worker.call is call]
            if mine and self._too_many():
                del self._workers[mine[0]]
            self._look_for_room()
        if error is None and isinstance(value, Outcome):
            error = value.error
        if error is not None and given is not None:
            text = "%s failed after it had been given up, in the thread %s"
            _log.warning(text, given.name, given.thread, exc_info=error)

    def _held_up(self, waiting: Sequence[int]) -> int:
        with self._lock:
            if self._room or self._parked or self._coming:
                return 0
            if not all(worker.thread is not None and worker.thread.ident in waiting for worker in self._workers):
                return 0
            return sum(1 for call in tuple(self._queue) if hasattr(call, "_args") and call._home is not None)

    # --- looking ----------------------------------------------------------------------

    @property
    def abandoned(self) -> int:
        """How many threads run a call that was given up."""
        return len(self._abandoned)

    @property
    def stalled(self) -> bool:
        """Whether nothing can run: every place is held by an abandoned thread that is not replaced.

        Calls that are queued stay so until one of them returns.
        """
        with self._lock:
            return self._is_stalled()

    def _is_stalled(self) -> bool:
        return self._places() <= len(self._workers) == len(self._abandoned)

    def stats(self) -> ThreadStats:
        """A snapshot, from any thread."""
        with self._lock:
            threads, idle, abandoned = len(self._workers), len(self._parked), tuple(self._abandoned.values())
            running = max(0, threads - idle - len(abandoned))
            queued = max(0, len(self._queue) - self._dead)
            return ThreadStats(threads, idle, running, queued, abandoned, self._is_stalled(), self.max_threads)

    # --- fork ---------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In the child: of all threads, only the one that forked is there."""
        me = threading.get_ident()
        self._lock = threading.RLock()
        lost = [*self._queue, *(worker.call for worker in self._workers if worker.call is not None)]
        self._workers = {w: None for w in self._workers if w.thread.ident == me}
        mine = [worker.call for worker in self._workers]
        self._abandoned = {call: given for call, given in self._abandoned.items() if call in mine}
        self._queue.clear()
        self._parked.clear()
        self._dead = 0
        self._coming, self._refused = False, None
        self._look_for_room()
        for call in lost:
            if call not in mine:
                call._give_up(RunInterrupted("the call was left behind in the parent process"))


def listed(calls: Iterable[AbandonedCall]) -> str:
    """Abandoned calls by name, for a message."""
    return ", ".join(f"{call.name} in {call.thread}" for call in calls)


def at_least(value: int | None, name: str, least: int) -> int | None:
    """`value`. Raises ConfigError unless it is None or a whole number of at least `least`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{name}: {value!r} is not a whole number of at least {least}; None means no limit")
    return value


# --- all pools ----------------------------------------------------------------------------


class Pool(Protocol):
    """What has threads in which calls may wait for each other."""

    def _held_up(self, waiting: Sequence[int]) -> int: ...

    def _after_fork(self) -> None: ...


#: All that live, so that a forked child can empty them.
_pools: Final[weakref.WeakValueDictionary[int, Pool]] = weakref.WeakValueDictionary()


def join_pools(pool: Pool) -> None:
    """Have this one asked, as long as it lives, what waits behind its threads, and told of a fork."""
    _pools[id(pool)] = pool


def held_up(waiting: Sequence[int]) -> int:
    """How many calls of event loops, in all pools, begin only when one of these threads goes on; for virtual time."""
    return sum(pool._held_up(waiting) for pool in list(_pools.values()))


def _after_fork_in_child() -> None:
    for pool in list(_pools.values()):
        pool._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
