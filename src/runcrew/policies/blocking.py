"""The way of a plain function in its caller's thread: the same decisions, with waits that block."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any, Final

from runcrew import clock
from runcrew.errors import ConfigError
from runcrew.job import Job, Outcome, Run, Status, enter, enter_unmade, leave, made
from runcrew.policies.compile import Options
from runcrew.policies.deadline import accept, over
from runcrew.policies.retry import FRESH, GiveUp, Retry, decide
from runcrew.policies.retrying import Brief, follows_at_once, resume_blocking


def blocking(job: Job, options: Options) -> Callable[..., Any]:
    """A plain function that runs `job` with these policies. Raises ConfigError for those that cannot work there."""
    for what, given in (("timeout", options.timeout is not None), ("middleware", options.middleware != ())):
        if given:
            raise ConfigError(
                f"{what}: {job.name} is a plain function and runs in its caller's thread, where this cannot work: "
                "use `await policy.call(fn)`, which runs it in our threads, or write it with `async def`"
            )
    return _quick(job, options.retry) if options.only_retry_and_timeout else _full(job, options)


def _quick(job: Job, rules: tuple[Retry, ...]) -> Callable[..., Any]:
    """With retry alone. A call that succeeds costs a context variable and one `try`."""
    fn = job.fn

    def call(*args: Any, **kwargs: Any) -> Any:
        token = enter_unmade(run := [job, args, kwargs])  # a Run as soon as somebody looks
        try:
            value: object = fn(*args, **kwargs) if kwargs else fn(*args)  # `**` costs also where nothing is in it
        except Exception as raised:
            leave(token)
            error = raised
        except BaseException:
            leave(token)
            raise
        else:
            leave(token)
            if type(value) in _NO_AWAITABLE or not hasattr(type(value), "__await__"):
                return value
            error = _unawaited(job, value)
        try:
            return _go_on(made(run), error, rules)
        finally:
            del error, run  # its traceback holds this frame: without this, each would keep the other

    return call


def _go_on(run: Run, error: Exception, rules: tuple[Retry, ...]) -> Any:
    """After a first attempt that raised. Nobody has looked at the time when it began."""
    run.queued = run.started = now = clock.current().now()
    decided = decide(rules, FRESH, error, now=now)
    if isinstance(decided, GiveUp) or not follows_at_once(run, decided, error, now):
        return resume_blocking(run, Brief(None, error, now), rules, _attempt, decided).unwrap()
    outcome = _attempt(run)
    if outcome.status is Status.SUCCEEDED:
        return outcome.value
    return resume_blocking(run, outcome, rules, _attempt, None, decided).unwrap()


def _full(job: Job, options: Options) -> Callable[..., Any]:
    dedupe, deadline, rules = options.dedupe, options.deadline, options.retry

    def attempt(run: Run) -> Outcome[Any]:
        return _in_its_place(run, options)

    def carry_out(run: Run) -> Outcome[Any]:
        if deadline is not None and not accept(run, deadline):
            return over(run, deadline, None)
        return resume_blocking(run, attempt(run), rules, attempt)

    def call(*args: Any, **kwargs: Any) -> Any:
        run = Run(job, args, kwargs)
        run.queued = clock.current().now()
        if dedupe is None:
            return carry_out(run).unwrap()
        claim = dedupe.claim(run)
        if isinstance(claim, str):
            return run.finished(Status.SKIPPED, run.queued, reason=claim).unwrap()
        try:
            return carry_out(run).unwrap()
        finally:
            claim.release()

    return call


def _in_its_place(run: Run, options: Options) -> Outcome[Any]:
    """One attempt, when there is a place for it; without one, the deadline ends the waiting."""
    if options.concurrency is None:
        return _attempt(run)
    left = None if run.due is None else max(0.0, run.due - clock.current().now())
    if not options.concurrency.acquire_blocking(left):
        assert options.deadline is not None
        return over(run, options.deadline, None)
    try:
        return _attempt(run)
    finally:
        options.concurrency.release()


def _attempt(run: Run) -> Outcome[Any]:
    """One attempt. What is no Exception passes: it is the caller's own stack."""
    if run.started is None:
        run.started = clock.current().now()
    token = enter(run)
    try:
        value: object = run.job.fn(*run.args, **run.kwargs)
        if type(value) not in _NO_AWAITABLE and hasattr(type(value), "__await__"):
            raise _unawaited(run.job, value)
    except Exception as error:
        return Brief(None, error, clock.current().now())
    finally:
        leave(token)
    return Brief(value)


#: Spares most calls a look for `__await__`, which costs as much as the call where it is not found.
_NO_AWAITABLE: Final = frozenset((type(None), bool, int, float, str, bytes, tuple, list, dict))


def _unawaited(job: Job, value: Any) -> TypeError:
    what = type(value).__name__
    if isinstance(value, CoroutineType):
        what = f"the coroutine {value.__qualname__}"
        value.close()  # nobody will await it; closing spares the user a second, misleading warning
    return TypeError(
        f"the plain function {job.name} returned an awaitable ({what}), which nobody awaits: "
        "write it with `async def`, and await there"
    )
