"""Retry: the loop that carries out what `retry.py` decides.

There is one, in two thin drivers: a coroutine for runs on an event loop, a plain loop for functions that
block their thread. What they share is the Course: one run's way through its attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

from runcrew import clock
from runcrew.abc import AttemptStore, Handler
from runcrew.job import HISTORY, Attempt, Outcome, Run, Status
from runcrew.policies.guard import guarded
from runcrew.policies.retry import FRESH, GiveUp, Retry, RetryState, Wait, decide

#: What a NamedTuple does to make itself, without the call around it: one is made for every failure.
_attempt: Final = cast("Callable[[type[Attempt], tuple[Any, ...]], Attempt]", tuple[Any, ...].__new__)

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
        if outcome.status is not _SUCCEEDED:
            return await self.resume(run, outcome)
        if self.attempts is not None and run.service is not None:
            guarded("an attempt store", None, self.attempts.clear, run.service)
        return outcome

    async def resume(
        self, run: Run, outcome: Outcome[Any], decided: Wait | GiveUp | None = None, last: Wait | None = None
    ) -> Outcome[Any]:
        """Go on after an attempt. Cancelling ends it, a pause included, and no attempt begins after that.

        decided: what follows this attempt, where that is known already.
        last: the retry that this attempt was, where it was one; it followed at once.
        """
        course = Course(run, self.rules)
        if decided is not None or last is not None:
            course.go_on_from(decided, last)
        if self.on_retry is not None or self.attempts is not None:
            course.told_to(self.on_retry, self.attempts)
        task = _current_task()
        while not course.is_over(outcome, task):
            if course.delay is not None and not await course.pause(course.delay):
                return run.ended_by_request(clock.current().now())
            run.next_attempt()
            outcome = await self.inner(run)
            if type(outcome) is Brief and outcome.status is _SUCCEEDED:
                return outcome
        return course.outcome


def resume_blocking(
    run: Run,
    outcome: Outcome[Any],
    rules: Sequence[Retry],
    attempt: Callable[[Run], Outcome[Any]],
    decided: Wait | GiveUp | None = None,
    last: Wait | None = None,
) -> Outcome[Any]:
    """The same for a plain function: `attempt(run)` makes an attempt, and pauses block the calling thread."""
    course = Course(run, rules)
    if decided is not None or last is not None:
        course.go_on_from(decided, last)
    while not course.is_over(outcome):
        if course.delay is not None:
            course.pause_blocking(course.delay)
        run.next_attempt()
        outcome = attempt(run)
    return course.outcome


#: Looked up once: a member of an Enum is not an ordinary attribute, and these are needed for each failure.
_SUCCEEDED: Final = Status.SUCCEEDED
_FAILED: Final = Status.FAILED
_TIMED_OUT: Final = Status.TIMED_OUT


class Brief(Outcome[Any]):
    """An outcome that says only what came of one attempt, where nobody will look at the rest if it succeeded."""

    __slots__ = ()

    def __init__(self, value: object, error: BaseException | None = None, ended: float = 0.0) -> None:
        self.status = _SUCCEEDED if error is None else _FAILED
        self.value = value
        self.error = error
        self.ended = ended
        self.reason = ""


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


def follows_at_once(
    run: Run, decided: Wait, error: BaseException, now: float, task: asyncio.Task[Any] | None = None
) -> bool:
    """Whether the retry that was decided after the first attempt follows without a wait: then `run` is ready for it."""
    if decided.delay > 0 or run.final or (task is not None and task.cancelling() > 0):
        return False
    run.history = (_attempt(Attempt, (1, _FAILED, error, run.started, now, 0.0, decided.rule)),)
    if run.told:
        run.next_attempt()
    else:
        run.attempt = 2
    return True


class Course:
    """One run's way through its attempts: hears what each came to, says what follows."""

    # Class attributes are the defaults: one of these is made for each run that fails, and most need few of them.

    #: Seconds to wait before the next attempt; None: it follows without even a turn of the event loop.
    delay: float | None = None
    #: The run's outcome, once no attempt follows.
    outcome: Outcome[Any]
    _on_retry: OnRetry | None = None
    _attempts: AttemptStore | None = None
    #: What is to follow the first attempt that it hears of, where that was decided elsewhere.
    _decided: Wait | GiveUp | None = None
    #: The last retry that was decided.
    _last: Wait | None = None
    #: How many retries in a row had no wait.
    _at_once: int = 0

    def __init__(self, run: Run, rules: Sequence[Retry]) -> None:
        self._run = run
        self._rules = rules
        self._began = run.started

    def told_to(self, on_retry: OnRetry | None, attempts: AttemptStore | None) -> None:
        """Whom to tell of retries, and where to keep their count, if anywhere."""
        self._on_retry = on_retry
        self._attempts = attempts if self._run.service is not None else None

    def go_on_from(self, decided: Wait | GiveUp | None, last: Wait | None) -> None:
        """What has been decided, and done, before this course took over."""
        self._decided = decided
        if last is not None:
            self._last, self._at_once, self._began = last, 1, self._run.history[-1].ended

    def is_over(self, outcome: Outcome[Any], task: asyncio.Task[Any] | None = None) -> bool:
        """Hear what an attempt came to. False: another follows, after `self.delay`; True: `self.outcome` is it.

        task: in which the run goes on. Where somebody has asked it to end, and the request still stands, no
        attempt follows: a job that turned its cancellation into an error has ended, and its error stands.
        """
        run, status = self._run, outcome.status
        if status is not _FAILED and status is not _TIMED_OUT:
            self._end_well(outcome)
            return True
        decision, self._decided = self._decided or self._decide(outcome), None
        if isinstance(decision, GiveUp):
            if self._rules:  # without any, the outcome is the only attempt: as in a chain without retry
                self._record(outcome)
            if decision.error is not None:
                outcome.status, outcome.error = _FAILED, decision.error
            self._end(outcome, decision.reason)
            return True
        if run.final or (task is not None and task.cancelling() > 0):
            self._record(outcome)
            self._end_on_request(outcome)
            return True
        self._record(outcome, decision.delay, decision.rule)
        self._last = decision
        if self._attempts is not None or self._on_retry is not None:
            self._tell(decision, outcome.error)
        # The first retry without a wait follows at once. From the second in a row on, the event loop goes round in
        # between, so that a job that only ever fails does not keep it from everybody else.
        self._at_once = 0 if decision.delay > 0 else self._at_once + 1
        if self._at_once == 1 and not run.final:
            self.delay, self._began = None, outcome.ended
        else:
            self.delay = decision.delay
        return False

    def _decide(self, outcome: Outcome[Any]) -> Wait | GiveUp:
        spent = FRESH if self._last is None and self._attempts is None else self._spent()
        due = self._run.due
        now = 0.0 if due is None else clock.current().now()
        return decide(self._rules, spent, outcome.error, now=now, due=due)

    async def pause(self, delay: float) -> bool:
        """Wait before the next attempt. False: the run was asked to end, so there is none."""
        run = self._run
        if run.final:
            return False
        goes_on = await _sleep_unless_woken(run, delay) if delay > 0 else await _go_round()
        self._began = clock.current().now()
        return goes_on and not run.final

    def pause_blocking(self, delay: float) -> None:
        """The same in a plain thread, which is blocked meanwhile."""
        if delay > 0:
            clock.current().block(delay)
        self._began = clock.current().now()

    # --- what is written down ------------------------------------------------------------

    def _record(self, outcome: Outcome[Any], wait: float | None = None, rule: str | None = None) -> None:
        run = self._run
        ended = _attempt(Attempt, (run.attempt, outcome.status, outcome.error, self._began, outcome.ended, wait, rule))
        past = run.history
        run.history = (*past[1 - HISTORY :], ended) if past else (ended,)

    def _end_well(self, outcome: Outcome[Any]) -> None:
        """It succeeded, or was cancelled, interrupted or skipped: that is never retried."""
        self.outcome = outcome
        if type(outcome) is Brief:
            return
        if outcome.status is _SUCCEEDED:
            self._forget()
        if self._run.history:
            self._record(outcome)
            self._fill(outcome)

    def _end_on_request(self, outcome: Outcome[Any]) -> None:
        """It would be retried, but no further attempt may begin."""
        if self._run.why is not None:
            self.outcome = self._run.ended_by_request(clock.current().now())
        else:
            self._end(outcome, "no further attempt may begin")

    def _end(self, outcome: Outcome[Any], reason: str) -> None:
        self._fill(outcome)
        if self._rules:
            outcome.reason = f"{outcome.reason}; {reason}" if outcome.reason else reason
        self.outcome = outcome

    def _fill(self, outcome: Outcome[Any]) -> None:
        run = self._run
        outcome.queued, outcome.started, outcome.attempts, outcome.history = (
            run.queued, run.started, run.attempt, run.history
        )  # fmt: skip

    # --- state that outlives the run --------------------------------------------------------

    def _spent(self) -> RetryState:
        if self._last is not None:
            return self._last.state
        if self._attempts is None:
            return FRESH
        kept = guarded("an attempt store", None, self._attempts.load, self._run.service)
        state: RetryState = guarded("an attempt store", FRESH, RetryState.restored, kept)
        return state

    def _tell(self, retry: Wait, error: BaseException | None) -> None:
        if self._attempts is not None:
            guarded("an attempt store", None, self._attempts.save, self._run.service, retry.state.saved())
        if self._on_retry is not None:
            guarded("a retry callback", None, self._on_retry, self._run, error, retry.delay, retry.rule)

    def _forget(self) -> None:
        if self._attempts is not None:
            guarded("an attempt store", None, self._attempts.clear, self._run.service)


async def _go_round() -> bool:
    await clock.current().sleep(0)
    return True


async def _sleep_unless_woken(run: Run, delay: float) -> bool:
    """Let the delay pass. False as soon as `run.wake()` is called."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[bool] = loop.create_future()

    def end(passed: bool) -> None:
        if not over.done():
            over.set_result(passed)

    timer = loop.call_later(delay, end, True)
    run.wake = lambda: end(False)
    try:
        with run.idle():
            return await over
    finally:
        run.wake = None
        timer.cancel()


def being_cancelled() -> bool:
    """Whether somebody has asked the current task to end, and the request still stands."""
    task = _current_task()
    return task is not None and task.cancelling() > 0


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the coroutine is thrown away, and its loop is gone
        return None
