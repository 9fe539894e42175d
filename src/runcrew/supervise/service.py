"""What OneShot and Interval share: a service whose work is the runs of one job, one at a time."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from runcrew import clock
from runcrew.abc import AttemptStore, Backend
from runcrew.backends import AbandonedCall, ThreadBackend, choose, services
from runcrew.durations import Duration, text
from runcrew.errors import Done, StopTree, brief
from runcrew.events import RunEnded, RunRetried, RunStarted, ThreadAbandoned
from runcrew.insight import Meter, RunStats
from runcrew.job import Job, Outcome, Run, Status
from runcrew.lifecycle import BaseService, Execution, Hooks, State, Stuck
from runcrew.lifecycle.service import GRACE
from runcrew.lifecycle.tasks import thread_stack
from runcrew.policies import Options, chain, describe
from runcrew.supervise.decide import OnFailure, check_on_failure

_log: Final = logging.getLogger("runcrew")

#: So many attempts of one service that were given up may be at work in threads; then the next waits for one to end.
MAX_ABANDONED: Final = 8


@dataclass(frozen=True, slots=True)
class RunningNow:
    """A run under way: its id, attempt, when it began to be an attempt at all, and how far it says it is."""

    id: str
    attempt: int
    started_at: datetime | None
    progress: tuple[float, float | None] | None


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """A snapshot of one OneShot or Interval. Instants in UTC."""

    name: str
    state: State
    generation: int
    runs: RunStats
    running: tuple[RunningNow, ...]
    #: The last run's outcome, and the permanent error of this life, if any.
    last: Outcome[Any] | None
    error: BaseException | None
    #: Intervals only: when the next tick is due, how many were passed over, whether it is paused.
    next_at: datetime | None = None
    missed: int = 0
    paused: bool = False
    #: Attempts that were given up and are still at work in their threads, over all lives; the oldest first.
    abandoned: tuple[AbandonedCall, ...] = ()


class JobService(BaseService):
    """Runs one job, one run at a time, through the chain of its policies."""

    def __init__(
        self,
        fn: Callable[[], Any],
        *,
        name: str | None,
        options: Options,
        backend: str | Backend | None,
        on_failure: OnFailure | None,
        on_stopping: Hooks,
        on_stopped: Hooks,
        hooks_timeout: Duration,
    ) -> None:
        self.job = Job(fn, name)
        super().__init__(self.job.name, on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout)
        #: What a supervisor does when this service fails for good; None: what it does for all.
        self.on_failure: OnFailure | None = None if on_failure is None else check_on_failure(on_failure)
        #: Where a supervisor keeps retry state over restarts; None: fresh in every run.
        self.attempts: AttemptStore | None = None
        where = choose(self.job, backend, services(), MAX_ABANDONED)
        self._backend = where
        self._handler = chain(self.job, where, options, on_retry=self._retried, attempts=_KeptAttempts(self))
        self._chain = describe(self.job, where, options)
        self._meter = Meter()
        self._last: Outcome[Any] | None = None

    def _begin_life(self) -> None:
        super()._begin_life()
        #: Whether the last run had been told to end: what it raised then may come of that.
        self.was_told = False
        self._execution: Execution | None = None
        #: What this life's stop gave up: named in its report already.
        self._let_go: AbandonedCall | None = None

    def describe(self) -> tuple[str, ...]:
        """The chain that each run goes through, outermost first, in words."""
        return self._chain

    @property
    def outcome(self) -> Outcome[Any] | None:
        """The outcome of the last run that ended, or None."""
        return self._last

    # --- one run ------------------------------------------------------------------------

    def _begin_run(self, cause: str, on_ready: Callable[[], None] | None = None) -> None:
        run = Run(self.job)
        run.cause, run.service, run.queued, run.on_ready = cause, self.name, clock.current().now(), on_ready
        run.on_abandoned = functools.partial(self._abandoned, run.id)
        self._meter.began()
        self._execution = Execution(run, self._handler, self._run_ended, self._work_context())
        _log.debug("%s: run %s begins", self.name, run.id, extra={"service": self.name, "run": run.id})
        if self.hub.wants(RunStarted):
            self.hub.emit(RunStarted(run.queued, self.name, run.id, cause))

    def _run_ended(self, execution: Execution, outcome: Outcome[Any]) -> None:
        message = outcome.error
        finished = outcome.status is Status.FAILED and isinstance(message, (Done, StopTree))
        if finished:
            # Not a failure: the job has told its service, or the whole tree, that it is finished.
            outcome.status, outcome.error = Status.SUCCEEDED, None
            outcome.reason = brief(message)
        self.was_told = execution.run.told
        self._settle(execution.run, outcome)
        if execution is not self._execution:
            return  # it would not stop, and has been reported; another life has begun
        self._execution = None
        if self._state.over:
            return  # the same, and no other has
        if self._state is State.STOPPING:
            if outcome.status not in (Status.INTERRUPTED, Status.CANCELLED):
                self._finished += 1
            elif outcome.started is None:
                self._never_started += 1
            else:
                self._cancelled += 1
        self._life.stop_tree = finished and isinstance(message, StopTree)
        self._after_run(outcome, finished=finished)

    def _settle(self, run: Run, outcome: Outcome[Any]) -> None:
        """This is what came of a run, whatever its service is at by now."""
        run.on_abandoned = None  # what a job leaves behind may keep its run, and should not keep us
        self._last = outcome
        self._meter.ended(outcome)
        self._tell_end(run, outcome)

    def _after_run(self, outcome: Outcome[Any], *, finished: bool) -> None:
        """Decide what follows; `finished`: the job wants no other run."""
        raise NotImplementedError

    def _end_with(self, outcome: Outcome[Any]) -> None:
        """This outcome ends the life: as a failure, unless it succeeded or a stop brought it about."""
        asked = self._state is State.STOPPING and outcome.status is Status.INTERRUPTED
        if outcome.status is not Status.SUCCEEDED and not asked:
            try:
                outcome.unwrap()
            except Exception as error:
                self._fail(error)
                why = f" ({outcome.reason})" if outcome.reason else ""
                _log.error("%s failed: %s%s", self.name, brief(error), why, extra={"service": self.name})
        self._work_ended()

    # --- the parts of a stop that both have -------------------------------------------------

    def _cut(self) -> None:
        if self._execution is not None:
            self._execution.cancel(Status.INTERRUPTED, "its service ran out of time to stop")

    def _still_running(self) -> tuple[Stuck, ...]:
        execution = self._execution
        return () if execution is None else (Stuck(self.name, f"run {execution.run.id}", execution.stack()),)

    def _give_up(self) -> bool:
        execution = self._execution
        if execution is None:
            return False
        in_thread = execution.run.in_thread
        execution.abandon(Status.INTERRUPTED, "it would not stop, and was abandoned")
        return in_thread

    def _abandoned(self, run_id: str, given: AbandonedCall) -> None:
        if self._life.stuck:
            self._let_go = given
        if self.hub.wants(ThreadAbandoned):
            self.hub.emit(ThreadAbandoned(given.since, self.name, run_id))

    def _left_at_work(self) -> tuple[AbandonedCall, ...]:
        return self._backend.abandoned if isinstance(self._backend, ThreadBackend) else ()

    def _end_life(self) -> None:
        # One that was told just now may be on its way out: only what has had its grace would not stop.
        late = clock.current().now() - GRACE
        self._life.stuck += tuple(
            Stuck(self.name, f"the abandoned thread {given.thread} of {given.name}", thread_stack(given.ident))
            for given in self._left_at_work()
            if given.since <= late and given is not self._let_go
        )
        super()._end_life()

    def _forsake(self) -> None:
        execution, self._execution = self._execution, None
        if execution is not None:
            execution.run.ask_to_end(Status.INTERRUPTED, "its event loop was closed without a stop")
            self._settle(execution.run, execution.run.ended_by_request(clock.current().now()))
            self._cancelled = 1

    # --- telling ---------------------------------------------------------------------------

    def _tell_launch(self, when: str, delay: float) -> None:
        after = f", after a delay of {text(delay)}" if delay else ""
        chain = " > ".join(self._chain)
        _log.debug("%s: runs %s%s: %s", self.name, when, after, chain, extra={"service": self.name})

    def _retried(self, run: Run, error: BaseException, delay: float, rule: str) -> None:
        _log.warning(
            "%s: attempt %d failed, the next in %s by %s: %s",
            self.name, run.attempt, text(delay), rule, brief(error),
            extra={"service": self.name, "run": run.id, "attempt": run.attempt},
        )  # fmt: skip
        if self.hub.wants(RunRetried):
            now = clock.current().now()
            self.hub.emit(RunRetried(now, self.name, run.id, run.attempt, delay, rule, error))

    def _tell_end(self, run: Run, outcome: Outcome[Any]) -> None:
        _log.debug(
            "%s: run %s %s after %s", self.name, run.id, outcome.status, text(outcome.elapsed),
            extra={"service": self.name, "run": run.id, "status": outcome.status.value},
        )  # fmt: skip
        if self.hub.wants(RunEnded):
            self.hub.emit(
                RunEnded(
                    outcome.ended, self.name, run.id, outcome.status, outcome.elapsed, outcome.attempts,
                    outcome.error, outcome.reason,
                )
            )  # fmt: skip

    def stats(self) -> ServiceStats:
        """An immutable snapshot, from any thread."""
        execution = self._execution
        running: tuple[RunningNow, ...] = ()
        retries = 0
        if execution is not None:
            run = execution.run
            started = None if run.started is None else clock.utc(run.started)
            running, retries = (RunningNow(run.id, run.attempt, started, run.done),), run.attempt - 1
        runs = self._meter.snapshot(retries)
        return ServiceStats(
            self.name, self._state, self._generation, runs, running, self._last, self.error,
            abandoned=self._left_at_work(),
        )  # fmt: skip


class _KeptAttempts:
    """The attempt store of whoever supervises the service just now; none: nothing is kept."""

    def __init__(self, service: JobService) -> None:
        self._service = service

    def load(self, key: str, /) -> Mapping[str, int] | None:
        store = self._service.attempts
        return None if store is None else store.load(key)

    def save(self, key: str, state: Mapping[str, int], /) -> None:
        if (store := self._service.attempts) is not None:
            store.save(key, state)

    def clear(self, key: str, /) -> None:
        if (store := self._service.attempts) is not None:
            store.clear(key)


def loop_timer(
    loop: asyncio.AbstractEventLoop, due: float, callback: Callable[[], None], context: Any
) -> asyncio.TimerHandle:
    """Call `callback` at the instant `due` (seconds since the epoch), or at once if that has passed."""
    return loop.call_later(max(0.0, due - clock.current().now()), callback, context=context)
