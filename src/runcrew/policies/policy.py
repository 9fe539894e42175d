"""Policies around any function, without a service: `rc.policy`, `rc.call`, `rc.wrap`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, overload

from runcrew import clock
from runcrew.abc import Handler, Middleware
from runcrew.backends import choose
from runcrew.durations import Duration
from runcrew.job import Job, Outcome, Run, Status, entered
from runcrew.lifecycle.execution import checked_outcome
from runcrew.policies.blocking import blocking
from runcrew.policies.compile import Options, chain
from runcrew.policies.concurrency import Concurrency
from runcrew.policies.dedupe import Dedupe
from runcrew.policies.quick import quick
from runcrew.policies.retry import Rules
from runcrew.policies.retrying import being_cancelled

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def policy(
    *,
    retry: Rules = (),
    timeout: Duration | None = None,
    deadline: Duration | None = None,
    concurrency: Concurrency | None = None,
    dedupe: Dedupe | None = None,
    middleware: Sequence[Middleware] = (),
    name: str | None = None,
) -> Policy:
    """Policies to put around functions: as a decorator, or by `await policy.call(fn, …)`.

    retry: one `rc.Retry`, or several in order. timeout: for each attempt. deadline: for the run as a
    whole, from the call on. concurrency, dedupe: see there. middleware: yours, the first is outermost.
    name: what runs are called in messages; the function's own name otherwise.

    Raises ConfigError, naming the value and the remedy, for whatever of these makes no sense.
    """
    return Policy(Options(retry, timeout, deadline, concurrency, dedupe, middleware), name)


class Policy:
    """What `rc.policy` gives. Immutable; any number of functions, loops and threads may share one."""

    __slots__ = ("_handlers", "_name", "options")

    def __init__(self, options: Options, name: str | None = None) -> None:
        self.options = options
        self._name = name
        self._handlers: dict[bool, Handler] = {}

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...

    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Put the policies around `fn`: an async function gives an async one, a plain one a plain one.

        Each call is a run: `rc.current_run()` works inside. It gives the function's value or raises its
        own exception object; RunTimeout, where the time was up; RunSkipped, where a twin is under way.
        An async function that raises what is no Exception gives JobCrashed from it. Cancelling the
        caller cancels the function, and no further attempt begins.

        The waits of a plain function block the thread that calls it. Nothing can end it there, so `timeout`
        and `middleware` are refused with ConfigError (`await policy.call(fn)` runs it in our threads, where
        they work), `deadline` bounds only when attempts may begin, and what is no Exception
        (KeyboardInterrupt, SystemExit) passes through untouched. Raises NotAJob for what can never be run.
        """
        job = Job(fn, self._name)
        wrapper: Callable[..., Any]
        if not job.is_async:
            wrapper = blocking(job, self.options)
        elif self.options.only_retry_and_timeout:
            wrapper = quick(job, self.options)
        else:
            wrapper = _through(job, chain(job, choose(job), self.options))
        return functools.update_wrapper(wrapper, fn)

    @overload
    async def call(self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts) -> T: ...

    @overload
    async def call(self, fn: Callable[[*Ts], T], /, *args: *Ts) -> T: ...

    async def call(self, fn: Callable[[*Ts], Any], /, *args: *Ts) -> Any:
        """Run `fn(*args)` with these policies: an async function here on the loop, a plain one in our threads.

        Gives and raises the same as a decorated function; keywords for `fn` go through `functools.partial`.
        Cancelling the caller cancels the run: a function in a thread is told (`rc.current_run().cancelled`),
        and then left to itself.
        """
        job = Job(fn, self._name)
        handler = self._handlers.get(job.is_async)
        if handler is None:
            handler = self._handlers[job.is_async] = chain(job, choose(job), self.options)
        return await carry_out(handler, Run(job, args))

    def __repr__(self) -> str:
        return f"<Policy {self.options}>"


@overload
async def call(
    fn: Callable[[*Ts], Coroutine[Any, Any, T]],
    /,
    *args: *Ts,
    retry: Rules = ...,
    timeout: Duration | None = ...,
    deadline: Duration | None = ...,
    concurrency: Concurrency | None = ...,
    dedupe: Dedupe | None = ...,
    middleware: Sequence[Middleware] = ...,
    name: str | None = ...,
) -> T: ...


@overload
async def call(
    fn: Callable[[*Ts], T],
    /,
    *args: *Ts,
    retry: Rules = ...,
    timeout: Duration | None = ...,
    deadline: Duration | None = ...,
    concurrency: Concurrency | None = ...,
    dedupe: Dedupe | None = ...,
    middleware: Sequence[Middleware] = ...,
    name: str | None = ...,
) -> T: ...


async def call(fn: Callable[[*Ts], Any], /, *args: *Ts, **options: Any) -> Any:
    """Run `fn(*args)` once with policies of its own: the options of `rc.policy`, and `Policy.call`'s promises."""
    return await policy(**options).call(fn, *args)


@overload
def wrap(
    fn: Callable[P, Coroutine[Any, Any, T]], /, *middleware: Middleware
) -> Callable[P, Coroutine[Any, Any, T]]: ...


@overload
def wrap(fn: Callable[P, T], /, *middleware: Middleware) -> Callable[P, Coroutine[Any, Any, T]]: ...


def wrap(fn: Callable[..., Any], /, *middleware: Middleware) -> Callable[..., Any]:
    """Put middleware around a function, the first outermost. Gives an async function; a plain `fn` runs in our threads.

    Gives and raises the same as `Policy.call`. Raises ConfigError for what is no middleware.
    """
    job = Job(fn)
    return functools.update_wrapper(_through(job, chain(job, choose(job), Options(middleware=middleware))), fn)


def _through(job: Job, handler: Handler) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await carry_out(handler, Run(job, args, kwargs))

    return call


async def carry_out(handler: Handler, run: Run) -> Any:
    """Take a run through a chain, in the caller's own task: its value, or what `unwrap` raises.

    Cancelling it cancels the run, and raises asyncio.CancelledError when the run has ended.
    """
    run.queued, run.outer = clock.current().now(), entered()
    try:
        outcome: object = await handler(run)
    except asyncio.CancelledError:
        if run.why is not None and not being_cancelled():  # middleware has ended it
            outcome = run.ended_by_request(clock.current().now())
        else:
            run.ask_to_end(Status.CANCELLED, "its caller was cancelled")
            run.tell()
            raise
    if isinstance(outcome, Outcome) and isinstance(outcome.error, GeneratorExit):
        raise outcome.error  # the coroutine is thrown away
    return checked_outcome(outcome, run).unwrap()
