"""Pace: how fast runs may follow one another, as a rate gate or as a pause after each."""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections import OrderedDict
from typing import Any, Literal, Protocol, TypeAlias, get_args

from runcrew import clock
from runcrew.abc import Handler
from runcrew.durations import Duration, optional, text
from runcrew.errors import ConfigError, WouldDeadlock, WrongLoop
from runcrew.job import Outcome, Run

First: TypeAlias = Literal["now", "after"]


class Pace:
    """Lets runs begin at a pace: `middleware=[rc.Pace(every="1s")]`, or `rc.wrap(job, rc.Pace(pause="1s"))`.

    every: a rate gate. Runs begin on a grid of this span, which nothing shifts: after a run that takes longer the next
        one follows at once; one, whatever was missed.
    pause: a pause after completion. The next run begins that long after the last one ended, in whatever way; so one
        is under way at a time.
    first: "now": the first run begins at once, and the grid with it; "after": it waits for one span, too.

    One of both has to be given; zero means no wait. One instance is one gate, common to all who use it, first come,
    first served; `rc.per_worker(lambda: rc.Pace(every="1s"))` gives each worker its own.

    A run that is cancelled, or asked to end, while it waits never begins, and the next in the line has its place.
    Waiting is no work (see `rc.current_run().idle()`), and ends at once when the service stops.

    An instance belongs to the event loop on which it was first used until that is closed; on the next one it begins
    anew. On another loop meanwhile a run raises WrongLoop. So does a run WouldDeadlock whose job calls, in its own
    task, a job behind the same gate with a pause: it would wait for its own end.

    Raises ConfigError for anything else.
    """

    __slots__ = ("__name__", "_gate", "_lock", "_rhythm")

    def __init__(self, *, every: Duration | None = None, pause: Duration | None = None, first: First = "now") -> None:
        given: object = first
        if (every is None) == (pause is None):
            raise ConfigError(
                f'Pace: every={every!r}, pause={pause!r}: give one of both: every="1s" for runs that begin at a fixed '
                'rate, pause="1s" for a pause after each; for neither, leave the Pace out'
            )
        if given not in get_args(First):
            raise ConfigError(f"Pace: first={first!r} is none of {', '.join(map(repr, get_args(First)))}")
        rate, span = optional(every, "Pace: every"), optional(pause, "Pace: pause")
        what = f"every {text(rate)}" if rate is not None else f"pause {text(span or 0.0)}"
        #: For messages, and for those who describe what they were given.
        self.__name__ = f"pace ({what}{', the first too' if first == 'after' else ''})"
        self._rhythm = (rate, span or 0.0, first == "after")
        self._gate: _Gate | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{self.__name__}>"

    @property
    def waiting(self) -> int:
        """How many runs wait at the gate."""
        return 0 if self._gate is None else len(self._gate.waiters)

    def __call__(self, handler: Handler, /) -> Handler:
        """Wrap a handler so that its runs begin at this pace."""
        at_once = not any(self._rhythm[:2])

        async def paced(run: Run) -> Outcome[Any]:
            if run.final:
                return run.ended_by_request(clock.current().now())
            if at_once:
                return await handler(run)
            gate = self._gate_here()
            if not gate.passes() and not await gate.opens_for(run):
                return run.ended_by_request(clock.current().now())
            gate.entered()
            try:
                return await handler(run)
            finally:
                gate.left()

        return paced

    def _gate_here(self) -> _Gate:
        """The gate on the running loop. Raises WrongLoop where it is in use on another one."""
        loop = asyncio.get_running_loop()
        gate = self._gate
        if gate is not None and gate.home() is loop:
            return gate
        with self._lock:  # two loops in two threads may be here for the first time
            gate = self._gate
            home = None if gate is None else gate.home()
            if gate is None or home is None or home.is_closed():
                rate, pause, after = self._rhythm
                gate = self._gate = _Gate(loop, _Pauses(pause, after) if rate is None else _Grid(rate, after))
            elif home is not loop:
                raise WrongLoop(
                    f"{self.__name__}: it is in use on another event loop, and no gate is for two of them: make one "
                    "for each loop, or use rc.Concurrency to limit runs over several"
                )
        return gate


class _Rhythm(Protocol):
    """When the next run may begin. Pure: it is told the time, in seconds of the loop's clock."""

    def opens(self, now: float) -> float:
        """From when on it is open for one more; infinity where something else has to happen first."""
        ...

    def take(self, now: float) -> None:
        """One goes through now."""
        ...

    def give_back(self) -> None:
        """The last one that went through did not begin after all."""
        ...

    def ended(self, now: float) -> None:
        """One has ended."""
        ...


class _Grid:
    """A place at each point of a grid; the last one that nobody took is kept, those before it are gone."""

    def __init__(self, every: float, after: bool) -> None:
        self._every = every
        #: The last point that was taken, or passed over.
        self._taken = 0 if after else -1
        self._anchor: float | None = None

    def opens(self, now: float) -> float:
        if self._anchor is None:
            self._anchor = now
        # A product from the anchor: a sum of many spans would be off by as many roundings.
        return self._anchor + (self._taken + 1) * self._every

    def take(self, now: float) -> None:
        assert self._anchor is not None
        passed = math.floor(min((now - self._anchor) / self._every, 2.0**62))
        if self._anchor + (passed + 1) * self._every <= now:  # as `opens` would say it
            passed += 1
        elif self._anchor + passed * self._every > now:
            passed -= 1
        self._taken = max(self._taken + 1, passed)

    def give_back(self) -> None:
        self._taken -= 1

    def ended(self, now: float) -> None:
        """Nothing shifts the grid."""


class _Pauses:
    """One after the other, with a pause between them."""

    def __init__(self, pause: float, after: bool) -> None:
        self._pause = pause
        self._from: float | None = None if after else -math.inf
        self._busy = False

    def opens(self, now: float) -> float:
        if self._from is None:
            self._from = now + self._pause
        return math.inf if self._busy else self._from

    def take(self, now: float) -> None:
        self._busy = True

    def give_back(self) -> None:
        self._busy = False

    def ended(self, now: float) -> None:
        self._busy, self._from = False, now + self._pause


class _Gate:
    """The gate of one loop: who waits, in order, and one timer for the first of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rhythm: _Rhythm) -> None:
        self.home = weakref.ref(loop)
        self._rhythm = rhythm
        self.waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        #: Whose job is under way, where only one may be.
        self._inside: asyncio.Task[Any] | None = None

    def passes(self) -> bool:
        """Go through now, if it is open and nobody waits."""
        if self.waiters:
            return False
        now = self._now()
        if self._rhythm.opens(now) > now:
            return False
        self._rhythm.take(now)
        return True

    async def opens_for(self, run: Run) -> bool:
        """Go through when it is one's turn. False: the run was asked to end before."""
        if self._rhythm.opens(self._now()) == math.inf and self._inside is asyncio.current_task():
            raise WouldDeadlock(f"{run.job.name}: it waits for the end of the run that calls it, behind the same pace")
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            with run.idle():
                if not run.final:
                    await self._in_line(waiter, run)
            begins = not run.final
        except BaseException:
            self._give_back(waiter)
            raise
        if not begins:
            self._give_back(waiter)
        return begins

    async def _in_line(self, waiter: asyncio.Future[bool], run: Run) -> None:
        def wake() -> None:
            if not waiter.done():
                waiter.set_result(False)

        self.waiters[waiter] = None
        self._look(self._now())
        run.wake = wake
        try:
            await waiter
        finally:
            run.wake = None
            self.waiters.pop(waiter, None)
            if not self.waiters:
                self._no_timer()

    def _give_back(self, waiter: asyncio.Future[bool]) -> None:
        """Whoever waited so does not begin: where it was let through, the next in the line is."""
        if waiter.done() and not waiter.cancelled() and waiter.result():
            self._rhythm.give_back()
            self._look(self._now())

    def entered(self) -> None:
        """A run begins."""
        self._inside = asyncio.current_task()

    def left(self) -> None:
        """A run has ended."""
        self._inside = None
        now = self._now()
        self._rhythm.ended(now)
        self._look(now)

    def _look(self, now: float) -> None:
        """Let through who may go, in order; see to it that this is looked at again when the next one may."""
        while self.waiters:
            waiter = next(iter(self.waiters))
            if waiter.done():  # cancelled, or woken by a stop: it is on its way out
                del self.waiters[waiter]
                continue
            opens = self._rhythm.opens(now)
            if opens > now:
                self._look_at(opens)
                return
            self._rhythm.take(now)
            del self.waiters[waiter]
            waiter.set_result(True)
        self._no_timer()

    def _look_at(self, when: float) -> None:
        if self._timer is not None and self._timer.when() == when:
            return
        self._no_timer()
        loop = self.home()
        if when < math.inf and loop is not None and not loop.is_closed():
            self._timer = loop.call_at(when, self._is_time, when)

    def _is_time(self, when: float) -> None:
        self._timer = None
        self._look(max(when, self._now()))  # a loop with a coarse clock may be a little early

    def _no_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> float:
        loop = self.home()
        return 0.0 if loop is None else loop.time()
