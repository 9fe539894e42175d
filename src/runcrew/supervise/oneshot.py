"""OneShot: a job that is run once, with retries; or that runs for as long as the service does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from runcrew import clock
from runcrew.abc import Backend, Middleware
from runcrew.durations import Duration, optional
from runcrew.errors import ConfigError
from runcrew.job import Outcome, Status
from runcrew.lifecycle import Hooks
from runcrew.policies import Concurrency, Dedupe, Options, Rules
from runcrew.supervise.decide import OnFailure
from runcrew.supervise.service import JobService, loop_timer

#: When a OneShot counts as ready: at once, when its job has succeeded, or when the job says so.
Ready = Literal["started", "succeeded", "signal"]


class OneShot(JobService):
    """Runs a job once. The service ends with it: stopped on success, failed on a permanent error."""

    def __init__(
        self,
        fn: Callable[[], Any],
        *,
        name: str | None = None,
        delay: Duration | None = None,
        drain: Literal["cancel", "finish"] = "cancel",
        ready: Ready = "started",
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

        name: for logs, events, `crew[name]`; default the function's.
        delay: waited once before the first attempt, never before a retry; None or 0: none.
        drain: on a stop, "cancel" the run and give it the stop's time to clean up, or let it "finish".
        ready: `start()` returns when the run is "started" (default: at once; a stop that follows at once may
            still come before the job's first step), when it has "succeeded" (a migration that
            others depend on), or when the job calls `rc.current_run().ready()` ("signal": a server).
        on_failure: what a supervisor does on its permanent error: "stop" all, "isolate" it, "restart" it;
            None: what that says for all of its children ("stop", if it says nothing).
        retry: rules, the first that matches an error decides; none: every error is permanent.
        timeout: for each attempt, from its start. deadline: for the whole run, from its acceptance,
            pauses included. None: none.
        concurrency, dedupe, middleware: further policies, see `rc.policy`.
        backend: None (async on the loop, plain in a thread), "loop" (plain inline), "thread", or an object.
        on_stopping: called when a stop begins, before anything is cancelled. on_stopped: called when the
            work has ended, however it ended. hooks_timeout: for all hooks of one moment together.

        Raises ConfigError (NotAJob for what cannot be run) for bad values.
        """
        options = Options(retry, timeout, deadline, concurrency, dedupe, middleware)
        super().__init__(
            fn, name=name, options=options, backend=backend, on_failure=on_failure,
            on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout,
        )  # fmt: skip
        if drain not in ("cancel", "finish"):
            raise ConfigError(f'drain: {drain!r} is neither "cancel" nor "finish"')
        if ready not in get_args(Ready):
            raise ConfigError(f'ready: {ready!r} is not one of "started", "succeeded", "signal"')
        self._delay = optional(delay, "delay") or 0.0
        self._drain = drain
        self._ready_when = ready

    def _begin_life(self) -> None:
        super()._begin_life()
        self._timer: asyncio.TimerHandle | None = None

    def _launch(self) -> bool:
        self._tell_launch("once", self._delay)
        if self._delay:
            assert self._loop is not None
            due = clock.current().now() + self._delay
            self._timer = loop_timer(self._loop, due, self._begin, self._context)
        else:
            self._begin()
        return self._ready_when == "started"

    def _begin(self) -> None:
        self._timer = None
        self._begin_run("once", self._signal() if self._ready_when == "signal" else None)

    def _signal(self) -> Callable[[], None]:
        """What the job's `ready()` calls, on whatever thread, also long after this life."""
        loop, life = self._loop, self._life
        assert loop is not None

        def hear() -> None:
            if self._life is life:
                self._is_ready()

        def signal() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to hear
                loop.call_soon_threadsafe(hear)

        return signal

    def _after_run(self, outcome: Outcome[Any], *, finished: bool) -> None:
        self._end_with(outcome)

    def _accept_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._never_started = 1
        if self._execution is not None and self._drain == "cancel":
            self._execution.finish_soon("its service was stopped")

    def _begin_drain(self) -> None:
        if self._execution is None:
            self._work_ended()
        elif self._drain == "cancel":
            self._execution.cancel(Status.INTERRUPTED, "its service was stopped")
