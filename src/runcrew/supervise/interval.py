"""Interval: a job that is run again and again, at a fixed rate or with a fixed pause between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

from runcrew import clock
from runcrew.abc import Backend, Middleware
from runcrew.durations import Duration, optional, seconds, text
from runcrew.errors import ConfigError
from runcrew.events import TicksMissed
from runcrew.job import Outcome, Status
from runcrew.lifecycle import Hooks, State
from runcrew.policies import Concurrency, Dedupe, Options, Rules
from runcrew.supervise.decide import OnFailure
from runcrew.supervise.service import JobService, ServiceStats, loop_timer
from runcrew.supervise.ticks import First, Mode, Tick, Ticks

_log: Final = logging.getLogger("runcrew")


class Interval(JobService):
    """Runs a job every so often, never twice at a time, until a stop or a permanent error."""

    def __init__(
        self,
        fn: Callable[[], Any],
        every: Duration,
        *,
        name: str | None = None,
        mode: Mode = "rate",
        first: First = "now",
        jitter: Duration | None = None,
        delay: Duration | None = None,
        on_failure: OnFailure | None = None,
        retry: Rules = (),
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        concurrency: Concurrency | None = None,
        dedupe: Dedupe | None = None,
        middleware: Sequence[Middleware] = (),
        backend: str | Backend | None = None,
        on_stopping: Hooks = (),
        on_stopped: Hooks = (),
        hooks_timeout: Duration = "5s",
    ) -> None:
        """fn: the job, without arguments (`functools.partial` gives it some); async on the loop, plain in a thread.

        every: from tick to tick; more than zero.
        mode: "rate" (default) keeps ticks on a grid that nothing shifts: a run that takes longer than
            `every` leaves one tick pending, which is run at once, and the ones before it are missed and
            told (`events.TicksMissed`, `stats().missed`). "delay" pauses for `every` after each run.
        first: the first tick "now" (default), "after" one interval, or "aligned": at the next multiple of
            `every` since the epoch (with "1m": at second 0).
        jitter: each run starts up to this much later than its tick, at random; the grid stays. Less than `every`.
        delay: waited once before all that. None or 0: none.
        Budgets of retry rules are per tick: a tick that succeeds leaves nothing behind.

        The other options are those of `OneShot`. Raises ConfigError for bad values.
        """
        options = Options(retry, timeout, deadline, concurrency, dedupe, middleware)
        super().__init__(
            fn, name=name, options=options, backend=backend, on_failure=on_failure,
            on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout,
        )  # fmt: skip
        if mode not in get_args(Mode):
            raise ConfigError(f'mode: {mode!r} is neither "rate" nor "delay"')
        if first not in get_args(First):
            raise ConfigError(f'first: {first!r} is not one of "now", "after", "aligned"')
        span = seconds(every, "every", zero=False)
        self._ticks = Ticks(span, mode, first, optional(delay, "delay") or 0.0)
        self._jitter = optional(jitter, "jitter") or 0.0
        if self._jitter >= span:
            raise ConfigError(f"jitter: {jitter!r} is not less than the interval, {text(span)}")

    def _begin_life(self) -> None:
        super()._begin_life()
        self._timer: asyncio.TimerHandle | None = None
        self._tick = Tick(0.0)
        self._missed = 0
        self._paused = False

    # --- ticks ------------------------------------------------------------------------------

    def _launch(self) -> bool:
        ticks = self._ticks
        self._tell_launch(f"every {text(ticks.every)} ({ticks.mode}, first {ticks.first})", ticks.delay)
        self._next(self._ticks.begin(clock.current().now()))
        return True

    def _next(self, tick: Tick) -> None:
        assert self._loop is not None
        self._tick = tick
        if tick.missed:
            self._tell_missed(tick.missed)
        if not self._paused:
            due = tick.due + (clock.current().random.uniform(0.0, self._jitter) if self._jitter else 0.0)
            self._timer = loop_timer(self._loop, due, self._fire, self._context)

    def _fire(self) -> None:
        self._timer = None
        self._begin_run("tick")

    def _after_run(self, outcome: Outcome[Any], *, finished: bool) -> None:
        ok = outcome.status in (Status.SUCCEEDED, Status.SKIPPED)
        if not ok or finished:
            self._end_with(outcome)
        elif self._state is State.STOPPING:
            self._work_ended()
        else:
            follow = self._ticks.skip_to if self._paused else self._ticks.after
            self._next(follow(self._tick, clock.current().now()))

    def _accept_no_more(self) -> None:
        self._cancel_timer()
        if self._execution is not None:
            self._execution.finish_soon("its service was stopped")

    def _begin_drain(self) -> None:
        if self._execution is None:
            self._work_ended()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- the handle -------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether it lets its ticks pass."""
        return self._paused

    def pause(self) -> None:
        """Let ticks pass from now on; they do not count as missed. A run under way goes on.

        Idempotent. A new life is not paused. Raises WrongLoop from another loop or thread.
        """
        self._check_place()
        if self._paused:
            return
        if self._execution is not None and self._ticks.mode == "rate":
            self._pause_behind(clock.current().now())
        self._paused = True
        self._cancel_timer()

    def _pause_behind(self, now: float) -> None:
        """What was due before the pause, while a run is under way, will not be run: it is missed."""
        pending = self._ticks.after(self._tick, now)
        if pending.due <= now:
            self._tick = replace(pending, missed=0)
            self._tell_missed(pending.missed + 1)

    def resume(self) -> None:
        """Go on with the next tick that is still to come; what passed in the meantime is not made up for.

        Idempotent. Raises WrongLoop from another loop or thread.
        """
        self._check_place()
        if not self._paused:
            return
        upcoming = self._upcoming()
        self._paused = False
        if self._execution is not None:
            self._stay_ahead(upcoming)
        elif self._state is State.RUNNING:
            self._next(upcoming)

    def _upcoming(self) -> Tick:
        """The tick that is waited for; after a pause, the first that is still to come."""
        now = clock.current().now()
        gone = self._paused and self._tick.due <= now
        return self._ticks.skip_to(self._tick, now) if gone else self._tick

    def _stay_ahead(self, tick: Tick) -> None:
        """What follows the run under way is this tick, not the one after it."""
        if self._ticks.mode == "rate":
            self._tick = self._ticks.before(tick)

    def trigger(self) -> bool:
        """Run now, out of turn, also while paused; the grid of ticks stays.

        False where nothing was begun: a run is under way, or the service is not running. Raises WrongLoop
        from another loop or thread.
        """
        self._check_place()
        if self._state is not State.RUNNING or self._execution is not None:
            return False
        self._cancel_timer()
        self._stay_ahead(self._upcoming())
        self._begin_run("trigger")
        return True

    def stats(self) -> ServiceStats:
        """An immutable snapshot, from any thread."""
        idle = self._timer is not None
        return replace(
            super().stats(),
            next_at=clock.utc(self._tick.due) if idle else None,
            missed=self._missed,
            paused=self._paused,
        )

    def _tell_missed(self, count: int) -> None:
        self._missed += count
        _log.warning("%s: %d tick(s) missed, it is running late", self.name, count, extra={"service": self.name})
        if self.hub.wants(TicksMissed):
            self.hub.emit(TicksMissed(clock.current().now(), self.name, count))
