"""The chain of policies around a backend: its options checked once, its order, and how to say it in words.

The order is this one, outermost first; what is not asked for adds no layer:

    user middleware -> dedupe -> deadline -> retry -> concurrency -> timeout -> backend

So a twin is refused before anything is spent on it; the deadline covers all attempts and the waits between
them; an attempt that waits for its turn, or for its retry, holds no place; and a timeout counts from the
moment at which an attempt has its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runcrew.abc import AttemptStore, Backend, Handler, Middleware
from runcrew.backends import LoopBackend
from runcrew.durations import Duration, optional, text
from runcrew.errors import ConfigError
from runcrew.job import Job
from runcrew.policies.concurrency import Concurrency, at_most
from runcrew.policies.deadline import due_by
from runcrew.policies.dedupe import Dedupe, once
from runcrew.policies.guard import check_plain, is_listed, named
from runcrew.policies.per_worker import PerWorker
from runcrew.policies.retry import Retry, Rules
from runcrew.policies.retrying import OnRetry, retrying
from runcrew.policies.timeout import limited


@dataclass(frozen=True, slots=True, init=False)
class Options:
    """What is asked for around a job, checked and in one form. Spans are in seconds; None means none."""

    retry: tuple[Retry, ...]
    timeout: float | None
    deadline: float | None
    concurrency: Concurrency | None
    dedupe: Dedupe | None
    middleware: tuple[Middleware, ...]

    def __init__(
        self,
        retry: Rules = (),
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        concurrency: Concurrency | None = None,
        dedupe: Dedupe | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        """Raises ConfigError, naming the value and the remedy, for whatever of these makes no sense."""
        put = object.__setattr__
        put(self, "retry", _rules(retry))
        put(self, "timeout", optional(timeout, "timeout"))
        put(self, "deadline", optional(deadline, "deadline"))
        put(self, "concurrency", _kind(concurrency, Concurrency, "concurrency", "rc.Concurrency(4)"))
        put(self, "dedupe", _kind(dedupe, Dedupe, "dedupe", "rc.Dedupe()"))
        put(self, "middleware", _middleware(middleware))

    @property
    def only_retry_and_timeout(self) -> bool:
        """Whether nothing else is asked for."""
        return not (self.deadline is not None or self.concurrency or self.dedupe or self.middleware)


def chain(
    job: Job,
    backend: Backend,
    options: Options,
    *,
    on_retry: OnRetry | None = None,
    attempts: AttemptStore | None = None,
    workers: bool = False,
) -> Handler:
    """Compile what is asked for around `backend` into one handler.

    on_retry: hears of each retry before its wait begins.
    attempts: keeps the retry state of runs that belong to a service.
    workers: whether each run says in `run.worker` who carries it out, so that workers can have their own middleware.

    Raises ConfigError for a timeout that could not end the job, for what is no middleware, and for `per_worker`
    where there are no workers.
    """
    check_timeout(job, backend, options)
    handler: Handler = backend.handle
    if options.timeout is not None:
        handler = limited(handler, options.timeout)
    if options.concurrency is not None:
        handler = at_most(handler, options.concurrency)
    if options.retry:
        handler = retrying(handler, options.retry, on_retry=on_retry, attempts=attempts)
    if options.deadline is not None:
        handler = due_by(handler, options.deadline)
    if options.dedupe is not None:
        handler = once(handler, options.dedupe)
    for middleware in reversed(options.middleware):
        if workers and isinstance(middleware, PerWorker):
            handler = middleware.layer(handler, _wrapped)
        else:
            handler = _wrapped(handler, middleware)
    return handler


def describe(job: Job, backend: Backend, options: Options) -> tuple[str, ...]:
    """The same chain in words, outermost first, each rule and layer by itself; where the job runs comes last."""
    words = [f"middleware {named(middleware)}" for middleware in options.middleware]
    if options.dedupe is not None:
        words.append(str(options.dedupe))
    if options.deadline is not None:
        words.append(f"deadline {text(options.deadline)}")
    words.extend(f"retry {rule}" for rule in options.retry)
    if options.concurrency is not None:
        words.append(str(options.concurrency))
    if options.timeout is not None:
        words.append(f"timeout {text(options.timeout)}")
    where = repr(backend) if type(backend).__repr__ is not object.__repr__ else named(backend)
    return (*words, where if job.is_async or where != "loop" else "loop, inline")


def check_timeout(job: Job, backend: Backend, options: Options) -> None:
    """Raise ConfigError where a timeout could not do what it says."""
    if options.timeout is not None and isinstance(backend, LoopBackend) and not job.is_async:
        raise ConfigError(
            f"timeout: {job.name} is a plain function on the event loop, where nothing can end it: "
            'run it in a thread (backend=None or "thread"), write it with `async def`, or leave the timeout out'
        )


def _rules(given: object) -> tuple[Retry, ...]:
    if isinstance(given, Retry):
        return (given,)
    rules: list[Retry] = []
    for item in _items(given):
        for rule in (item,) if isinstance(item, Retry) else _items(item):
            if not isinstance(rule, Retry):
                raise _no_rule(rule)
            rules.append(rule)
    return tuple(rules)


def _items(given: object) -> Sequence[Any]:
    if not is_listed(given):
        raise _no_rule(given)
    return given


def _no_rule(given: object) -> ConfigError:
    what = given.__name__ if isinstance(given, type) else repr(given)
    return ConfigError(f"retry: {what} is no rule: give rc.Retry(ConnectionError, retries=5), or a list of such")


def _kind(given: Any, kind: type, what: str, remedy: str) -> Any:
    if given is not None and not isinstance(given, kind):
        raise ConfigError(f"{what}: {given!r} is none: give {remedy}, or leave it out")
    return given


def _middleware(given: object) -> tuple[Middleware, ...]:
    if not is_listed(given):
        raise ConfigError(f"middleware: {given!r} is no list: give [first, second], the first is outermost")
    for one in given:
        if isinstance(one, type):
            raise ConfigError(f"middleware: {one.__qualname__} is a class: give one of it, {one.__qualname__}(…)")
        check_plain(one, "middleware", "a handler and returns a handler")
    return tuple(given)


def _wrapped(handler: Handler, middleware: Middleware) -> Handler:
    made: Any = middleware(handler)
    if not callable(made):
        raise ConfigError(
            f"middleware: {named(middleware)} gave {made!r}: it takes a handler and returns one, "
            "an async function of the run"
        )
    return made  # type: ignore[no-any-return]
