"""Retry: the loop that carries out what `retry.py` decides.

There is one, in two thin drivers: a coroutine for runs on an event loop, a plain loop for functions that
block their thread. What they share is the Course: one run's way through its attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from runcrew import clock
from runcrew.abc import AttemptStore, Handler
from runcrew.job import HISTORY, Attempt, Outcome, Run, Status
from runcrew.policies.guard import guarded
from runcrew.policies.retry import FRESH, GiveUp, Retry, RetryState, decide

#: Hears of each retry before its wait begins: (run, error, seconds to wait, name of the rule).
OnRetry: TypeAlias = Callable[[Run, BaseException, float, str], object]


class Retrying:
    """A handler that attempts a run again for as long as its rules say so.

    Good path: one call, one test. `resume` goes on from a first attempt that was made elsewhere.
    """

    __slots__ = ("attempts", "inner", "on_retry", "rules")

    def __init__(
        self, inner: Handler, rules: Sequence[Retry], on_retry: OnRetry | None, attempts: AttemptStore | None
    ) -> None:
        self.inner = inner
        self.rules = tuple(rules)
        self.on_retry = on_retry
        self.attempts = attempts

    async def __call__(self, run: Run) -> Outcome[Any]:
        """Carry out the run, with as many attempts as it takes and the rules allow."""
        outcome = await self.inner(run)
        if outcome.status is Status.SUCCEEDED and self.attempts is None:
            return outcome
        return await self.resume(run, outcome)

    async def resume(self, run: Run, outcome: Outcome[Any]) -> Outcome[Any]:
        """Go on after the first attempt. Cancelling ends it, a pause included, and no attempt begins after that."""
        course = Course(run, self.rules, self.on_retry, self.attempts)
        while (delay := course.after(outcome, cancelled=being_cancelled())) is not None:
            if not await course.pause(delay):
                return run.ended_by_request(clock.current().now())
            course.begin_next()
            outcome = await self.inner(run)
        return course.outcome


def resume_blocking(
    run: Run, outcome: Outcome[Any], rules: Sequence[Retry], attempt: Callable[[Run], Outcome[Any]]
) -> Outcome[Any]:
    """The same for a plain function: `attempt(run)` makes an attempt, and pauses block the calling thread."""
    course = Course(run, rules)
    while (delay := course.after(outcome)) is not None:
        if delay > 0:
            clock.current().block(delay)
        course.begin_next()
        outcome = attempt(run)
    return course.outcome


def retrying(
    inner: Handler,
    rules: Sequence[Retry],
    *,
    on_retry: OnRetry | None = None,
    attempts: AttemptStore | None = None,
) -> Retrying:
    """Wrap a handler so that failed runs are attempted again by these rules.

    on_retry: hears of each retry before its wait begins. What it raises is logged.
    attempts: keeps the retry state of runs that belong to a service, under the service's name, until one
        of them succeeds. What it raises is logged, and the run goes on as if there were none.
    """
    return Retrying(inner, rules, on_retry, attempts)


class Course:
    """One run's way through its attempts: hears what each came to, says what follows."""

    __slots__ = ("_attempts", "_began", "_on_retry", "_rules", "_run", "_state", "_zeros", "outcome")

    #: The run's outcome, once `after` has said that no attempt follows.
    outcome: Outcome[Any]

    def __init__(
        self,
        run: Run,
        rules: Sequence[Retry],
        on_retry: OnRetry | None = None,
        attempts: AttemptStore | None = None,
    ) -> None:
        self._run = run
        self._rules = rules
        self._on_retry = on_retry
        self._attempts = attempts if run.service is not None else None
        self._began = run.started
        self._state: RetryState | None = None
        self._zeros = 0

    def after(self, outcome: Outcome[Any], *, cancelled: bool = False) -> float | None:
        """Seconds to wait before the next attempt, or None: it is over, and `self.outcome` is what came of it.

        cancelled: whether the task of the run is being cancelled, so that no attempt may follow.
        """
        run, status = self._run, outcome.status
        if status is Status.SUCCEEDED:
            self._forget()
        if status is not Status.FAILED and status is not Status.TIMED_OUT:
            if run.history:
                self._record(outcome)
                self._close(outcome)
            self.outcome = outcome
            return None
        now = clock.current().now()
        decision = decide(self._rules, self._load(), outcome.error, now=now, due=run.due)
        if isinstance(decision, GiveUp):
            self._record(outcome)
            if decision.error is not None:
                outcome.status, outcome.error = Status.FAILED, decision.error
            self._end(outcome, decision.reason)
            return None
        if run.final or cancelled:
            self._record(outcome)
            if run.why is not None:
                self.outcome = run.ended_by_request(now)
            else:
                self._end(outcome, "no further attempt may begin")
            return None
        self._record(outcome, decision.delay, decision.rule)
        self._state = decision.state
        self._save(decision.state)
        if self._on_retry is not None:
            guarded("a retry callback", None, self._on_retry, run, outcome.error, decision.delay, decision.rule)
        return decision.delay

    async def pause(self, delay: float) -> bool:
        """Wait before the next attempt. False: the run was asked to end, so there is none.

        The first retry without a wait follows at once. From the second in a row each lets the event loop
        go round first, so that a job that only ever fails does not keep it from everybody else.
        """
        run = self._run
        if delay > 0:
            self._zeros = 0
            return await _sleep_unless_woken(run, delay)
        self._zeros += 1
        if self._zeros > 1:
            await clock.current().sleep(0)
        return not run.final

    def begin_next(self) -> None:
        """Make the run ready for its next attempt."""
        self._run.next_attempt()
        self._began = clock.current().now()

    # --- what is written down ------------------------------------------------------------

    def _record(self, outcome: Outcome[Any], wait: float | None = None, rule: str | None = None) -> None:
        run = self._run
        ended = Attempt(run.attempt, outcome.status, outcome.error, self._began, outcome.ended, wait, rule)
        run.history = (*run.history[1 - HISTORY :], ended)

    def _close(self, outcome: Outcome[Any]) -> None:
        run = self._run
        outcome.attempts, outcome.history, outcome.started = run.attempt, run.history, run.started

    def _end(self, outcome: Outcome[Any], reason: str) -> None:
        self._close(outcome)
        outcome.reason = f"{outcome.reason}; {reason}" if outcome.reason else reason
        self.outcome = outcome

    # --- state that outlives the run --------------------------------------------------------

    def _load(self) -> RetryState:
        state = self._state
        if state is None:
            state = FRESH
            if self._attempts is not None:
                kept = guarded("an attempt store", None, self._attempts.load, self._run.service)
                state = guarded("an attempt store", FRESH, RetryState.restored, kept)
            self._state = state
        return state

    def _save(self, state: RetryState) -> None:
        if self._attempts is not None:
            guarded("an attempt store", None, self._attempts.save, self._run.service, state.saved())

    def _forget(self) -> None:
        if self._attempts is not None:
            guarded("an attempt store", None, self._attempts.clear, self._run.service)


async def _sleep_unless_woken(run: Run, delay: float) -> bool:
    """Let the delay pass. False as soon as `run.wake()` is called, or when the run may not go on after it."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[bool] = loop.create_future()

    def end(passed: bool) -> None:
        if not over.done():
            over.set_result(passed)

    timer = loop.call_later(delay, end, True)
    run.wake = lambda: end(False)
    try:
        return await over and not run.final
    finally:
        run.wake = None
        timer.cancel()


def being_cancelled() -> bool:
    """Whether somebody has asked this task to end, and the request still stands.

    Then no attempt follows: a job that turned its cancellation into an error has ended, and its error stands.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
