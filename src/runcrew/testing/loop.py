"""The virtual loop: an event loop on which time passes as soon as there is nothing left to do before it does.

The loop's time starts at 0 and moves by jumps only, each to the time of the next timer. A jump needs that

- nothing is ready to run,
- nothing is in flight outside the loop: no thread of `run_in_executor` or `to_thread`, nothing under `hold()`,
- no watched descriptor is ready, and none becomes so for `autojump_after` real seconds.

While something is in flight the loop waits in real time, but never for longer than `patience`. When nothing is
ready, no timer is set, nothing is in flight and no descriptor is watched, nobody will ever wake the loop: Stuck.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, TypeVarTuple

from runcrew import clock as clocks
from runcrew.clock import SYSTEM, Clock
from runcrew.durations import Duration, optional, seconds, text
from runcrew.errors import ConfigError
from runcrew.testing import order, stuck
from runcrew.testing.inflight import Call, InFlight, Wait

if TYPE_CHECKING:
    from collections import deque

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Events: TypeAlias = list[tuple[selectors.SelectorKey, int]]

#: Real seconds between two looks at an event that threads set among themselves. The loop's own are seen at once.
LOOK: Final = 0.001


class _Selector(selectors.DefaultSelector):
    """Waits as the loop says."""

    def __init__(self, wait: Callable[[float | None], Events]) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> Events:
        return self._wait(timeout)

    def poll(self, timeout: float) -> Events:
        """Wait in real time."""
        return super().select(timeout)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on virtual time. `run_virtual` and the `virtual` marker make one; so may you.

    seed: permutes what asyncio leaves open, the same way for the same seed: which of several ready tasks goes
        first, and which of several timers that are due at the same time. None: everything in the order it came.
    autojump_after: so many real seconds have to be quiet before time jumps; for answers from outside that the
        loop cannot know of (another process, a thread of yours). None: none.
    patience: how long, in real time, something in flight or a watched descriptor may keep the loop waiting
        before it raises Stuck. None: for ever.

    Raises ConfigError for a bad value. Use it from its own thread, as any loop.
    """

    if TYPE_CHECKING:
        _ready: deque[asyncio.Handle]
        _scheduled: list[asyncio.TimerHandle]
        _clock_resolution: float
        _thread_id: int | None
        _default_executor: ThreadPoolExecutor | None
        _debug: bool
        _check_closed: Callable[[], None]
        _check_thread: Callable[[], None]
        _check_callback: Callable[[object, str], None]

    #: A loop that was refused in the making has nothing to close.
    _closed = True

    def __init__(
        self,
        *,
        seed: int | None = None,
        autojump_after: Duration | None = None,
        patience: Duration | None = 30.0,
    ) -> None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ConfigError(f"seed: {seed!r} is not an int; None means the natural order")
        self._quiet = optional(autojump_after, "autojump_after") or 0.0
        self._patience = optional(patience, "patience", zero=False)
        self._chance = None if seed is None else Clock(seed).random
        self._ties = itertools.count()
        self._now = 0.0
        self._in_flight = InFlight()
        #: How many `advance` are under way: the timer of each is as far as time passes over what is in flight.
        self._advancing = 0
        self._is_stuck = False
        self._home = threading.get_ident()
        self._waiter = _Selector(self._wait)
        super().__init__(self._waiter)
        #: What wakes the loop from other threads.
        self._own_descriptors = [key.fd for key in self._waiter.get_map().values()]

    # --- time -----------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's. Timers for the same time go in the order they were set, or as the seed has it."""
        self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
        if math.isnan(when):
            raise ValueError(f"{when!r} is not a time at which anything can be called")
        timer = order.Timer(when, callback, args, self, context)
        timer.tie = next(self._ties) if self._chance is None else self._chance.random()
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    async def advance(self, span: Duration) -> None:
        """Let `span` virtual seconds pass, although work is in flight or `hold()` is in force.

        Timers that are due meanwhile go off at their own times, so this is how a timeout over a call in a
        thread is tested. Cancelling it ends the permission with it. Raises ConfigError for a bad span.
        """
        span = seconds(span, "advance")
        self._advancing += 1
        try:
            await asyncio.sleep(span)
        finally:
            self._advancing -= 1

    # --- what keeps time from passing -------------------------------------------------

    def hold(self, what: str = "a call in flight") -> None:
        """Keep time from passing until `release` of the same name; each hold needs its own. Loop thread only.

        what: names it, for people: Stuck says what time is held by.
        """
        self._in_flight.hold(what)

    def release(self, what: str = "a call in flight") -> None:
        """Take one `hold` of that name back. Loop thread only: do it where the result is handed back, not in the
        thread that made it, or time may jump between the two. Raises RuntimeError where there is none."""
        self._in_flight.release(what)

    def holding(self, what: str) -> AbstractContextManager[None]:
        """`with loop.holding("the child"):` keeps time from passing inside."""
        return self._in_flight.holding(what)

    #: What backends look for on the loop on which they run.
    runcrew_hold = hold
    runcrew_release = release

    @property
    def held(self) -> tuple[str, ...]:
        """What keeps time from passing now, by name."""
        return self._in_flight.held

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As asyncio's, and no time passes before the result is back. A thread also sees the clock in force here."""
        call = Call(_name(func))
        what = f"the thread of {call.name}"
        self.hold(what)
        future: asyncio.Future[T]
        try:
            if executor is None or isinstance(executor, ThreadPoolExecutor):
                future = super().run_in_executor(executor, call.run, clocks.current(), func, args)
            else:
                future = super().run_in_executor(executor, func, *args)
        except BaseException:
            self.release(what)
            raise

        def back(_: asyncio.Future[T]) -> None:
            # Also when the waiting was cancelled and the thread goes on: then nobody waits for it any more.
            call.in_flight = False
            self.release(what)

        future.add_done_callback(back)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As asyncio's, in real time but for threads that wait in `VirtualClock.block`: their time passes.

        The timeout is the loop's patience. After Stuck the threads are left to themselves.
        """
        if self._is_stuck:
            if self._default_executor is not None:
                self._default_executor.shutdown(wait=False)
                self._default_executor = None
            return
        self._in_flight.closing = True
        try:
            with self.holding("the end of the default executor's threads"):
                await super().shutdown_default_executor()
        finally:
            self._in_flight.closing = False

    def close(self) -> None:
        """As asyncio's; a thread that waits in `VirtualClock.block` gets a RuntimeError there."""
        super().close()
        for wait in tuple(self._in_flight.waits):
            self._in_flight.wake(wait, None)

    # --- threads that wait for time to pass ---------------------------------------------

    def wait_in_thread(self, span: float | None, until: threading.Event | None) -> bool:
        """What `VirtualClock.block` does, which see."""
        if self.runs_here():
            raise RuntimeError(
                "a wait on the event loop's own thread would stop virtual time for ever: "
                "await clock.sleep(…) there, or do the blocking work in a thread (asyncio.to_thread)"
            )
        wait = Wait(span, until)
        self._in_flight.waits.append(wait)  # first, so that close() finds it
        try:
            self.call_soon_threadsafe(self._begin, wait)
        except RuntimeError:  # the loop is closed
            self._in_flight.wake(wait, None)
        wait.gate.wait()
        if wait.answer is None:
            raise RuntimeError("the virtual loop has ended, and its time with it: this wait would never be over")
        return wait.answer

    def runs_here(self) -> bool:
        """Whether this is the loop's own thread: the one that runs it, or the one that made it and may yet."""
        return threading.get_ident() == (self._thread_id or self._home)

    def _begin(self, wait: Wait) -> None:
        if wait.span is not None:
            wait.timer = self.call_later(wait.span, self._end, wait)
        wait.lasting = True

    def _end(self, wait: Wait) -> None:
        self._in_flight.wake(wait, wait.until is not None and wait.until.is_set())

    # --- the decision ---------------------------------------------------------------------

    def _wait(self, timeout: float | None) -> Events:
        """In the place of the selector's wait: poll, jump, wait in real time, or give up."""
        if self._chance is not None and len(self._ready) > 1:
            order.shuffle(self._ready, self._chance)
        self._in_flight.notice()
        if timeout == 0:
            return self._waiter.poll(0)
        frozen = self._in_flight.frozen
        if frozen and not self._advancing:
            return self._wait_really()
        events = self._waiter.poll(0 if frozen else self._quiet)
        if events or self._ready:
            return events
        when = self._scheduled[0].when() if self._scheduled else math.inf
        if math.isfinite(when):
            self._jump(when)
            return events
        if self._may_be_woken():
            return self._wait_really()
        raise self._stuck("nothing is ready, no timer is set and nothing is in flight: nobody will ever wake this loop")

    def _jump(self, when: float) -> None:
        self._now = max(self._now, when)
        # asyncio takes timers of up to one resolution ahead as due. Late enough, that much is lost in the float,
        # and a timer due now would never be.
        self._clock_resolution = max(self._clock_resolution, 2 * math.ulp(self._now))

    def _wait_really(self) -> Events:
        """Wait in real time until something comes, or patience is over."""
        patience = math.inf if self._patience is None else self._patience
        ends = SYSTEM.monotonic() + patience
        while True:
            left = ends - SYSTEM.monotonic()
            if left <= 0:
                raise self._stuck(self._impatience())
            events = self._waiter.poll(min(left, LOOK if self._in_flight.listening else 3600.0))
            if events or self._ready:
                return events
            if self._in_flight.notice():
                ends = SYSTEM.monotonic() + patience

    def _watches(self) -> list[int]:
        """The descriptors that somebody watches, without the loop's own."""
        return [key.fd for key in self._waiter.get_map().values() if key.fd not in self._own_descriptors]

    def _may_be_woken(self) -> bool:
        signals: Any = getattr(self, "_signal_handlers", None)
        return bool(self._watches() or self._quiet or signals)

    # --- giving up --------------------------------------------------------------------------

    def _impatience(self) -> str:
        patience = text(self._patience or 0.0)
        if self._in_flight.frozen:
            return (
                f"time is held by {', '.join(self.held)}, and nothing came back in {patience} of real time: "
                "let it end, or let time pass over it with `await virtual_loop().advance(…)`"
            )
        watched = ", ".join(str(fd) for fd in self._watches()) or "none"
        return f"no timer is set, and nothing came from outside in {patience} of real time (descriptors: {watched})"

    def _stuck(self, why: str) -> stuck.Stuck:
        self._is_stuck = True
        others = stuck.threads() if self._in_flight.count or self._in_flight.waits else ""
        return stuck.Stuck(f"after {text(self._now)} of virtual time: {why}{stuck.tasks(self)}{others}")


def virtual_loop() -> VirtualLoop:
    """The running loop, for its controls: `advance`, `hold`, `release`, `holding`, `held`.

    Raises RuntimeError where no loop runs, or another kind of loop.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError(
            f"the running loop is a {type(loop).__name__}: mark the test with @pytest.mark.virtual, or use run_virtual"
        )
    return loop


def _name(fn: Any) -> str:
    """The function that the user gave: `asyncio.to_thread` wraps it in `context.run`."""
    while hasattr(fn, "func"):
        inner = fn.args[0] if fn.args and isinstance(getattr(fn.func, "__self__", None), Context) else fn.func
        fn = inner
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
