"""Setup: what a queue was asked for, checked and in one form. The same for all of its lives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypedDict, get_args

from runcrew.abc import Backend, Handler, Middleware
from runcrew.backends import choose
from runcrew.durations import Duration, optional, text
from runcrew.errors import ConfigError, NotAJob
from runcrew.insight import Collector, CollectorContract, check_collector
from runcrew.job import Job
from runcrew.lifecycle import Hooks
from runcrew.policies import Backoff, Concurrency, Dedupe, Exponential, Options, Rules, checked
from runcrew.policies.guard import check_plain, count, named
from runcrew.queue.books import Guarded
from runcrew.queue.options import Terms
from runcrew.queue.through import compiled
from runcrew.workers import UNSET, Recipe, Scale, Unset
from runcrew.workers.process_keeper import Kind, kind_of, processes_of
from runcrew.workers.resource import check_fit

#: What happens to a ticket for which there is no room.
Overflow = Literal["wait", "reject", "drop_oldest", "drop_newest"]

#: Before a run that met a faulty resource is tried with another one.
REQUEUE_BACKOFF: Final = Exponential("100ms", cap="10s", jitter="equal")
#: Before another resource is made, where they cannot be made or turn out faulty.
BACKOFF: Final = Exponential("100ms", cap="30s", jitter="equal")


class NoResource:
    """What stands in `Queue[NoResource]`: its jobs get no resource."""


class QueueOptions(TypedDict, total=False):
    """The options of a Queue that do not depend on its resource: see `Queue`."""

    max_idle: Duration | None
    max_age: Duration | None
    threadsafe: bool
    healthy: Callable[[Exception], object] | None
    workers: int
    max_workers: int | None
    spares: int
    max_spares: int | None
    maxsize: int | None
    overflow: Overflow
    requeue: int
    requeue_backoff: Backoff
    backoff: Backoff
    scale: Scale | None
    max_wait: Duration | None
    max_abandoned: int | None
    backend: str | Backend | None
    kill: bool
    collector: CollectorContract | None
    retry: Rules
    timeout: Duration | None
    deadline: Duration | None
    concurrency: Concurrency | None
    dedupe: Dedupe | None
    middleware: Sequence[Middleware]
    on_stopping: Hooks
    on_stopped: Hooks
    hooks_timeout: Duration


class Setup:
    """The options of one queue."""

    def __init__(
        self,
        *,
        resource: Callable[[], Any] | None,
        destroy: Callable[[Any], object] | Unset | None,
        check: Callable[[Any], object] | None,
        max_idle: Duration | None,
        max_age: Duration | None,
        threadsafe: bool,
        healthy: Callable[[Exception], object] | None,
        workers: int,
        max_workers: int | None,
        spares: int,
        max_spares: int | None,
        maxsize: int | None,
        overflow: Overflow,
        requeue: int,
        requeue_backoff: Backoff,
        backoff: Backoff,
        scale: Scale | None,
        max_wait: Duration | None,
        max_abandoned: int | None,
        backend: str | Backend | None,
        kill: bool,
        collector: CollectorContract | None,
        retry: Rules,
        timeout: Duration | None,
        deadline: Duration | None,
        concurrency: Concurrency | None,
        dedupe: Dedupe | None,
        middleware: Sequence[Middleware],
    ) -> None:
        self.recipe = _recipe(resource, destroy=destroy, check=check, max_idle=max_idle, max_age=max_age)
        if not isinstance(threadsafe, bool):
            raise ConfigError(f"threadsafe: {threadsafe!r} is neither True nor False")
        if threadsafe and self.recipe is None:
            raise ConfigError("threadsafe: it means nothing without a resource: give resource=, or leave it out")
        self.threadsafe = threadsafe
        if healthy is not None:
            check_plain(healthy, "healthy", "the error")
        self.healthy = healthy
        self.workers = count(workers, "workers", 0)
        self.max_workers = self.workers if max_workers is None else count(max_workers, "max_workers", 1)
        if self.max_workers < max(1, self.workers):
            raise ConfigError(
                f"max_workers: {max_workers!r} is less than workers={workers!r}: give at least as many, or None for "
                "as many"
                if max_workers is not None
                else "workers: 0 is a queue that nobody serves: give max_workers too, and resize() it later"
            )
        self.scale = _checked_scale(scale, self.workers, self.max_workers)
        self.spares = count(spares, "spares", 0)
        self.max_spares = max(spares, self.workers, 1) if max_spares is None else count(max_spares, "max_spares", 0)
        if self.max_spares < self.spares:
            raise ConfigError(f"max_spares: {max_spares!r} is less than spares={spares!r}: give at least as many")
        self.maxsize: float = math.inf if maxsize is None else count(maxsize, "maxsize", 0)
        if overflow not in get_args(Overflow):
            raise ConfigError(f"overflow: {overflow!r} is none of {', '.join(map(repr, get_args(Overflow)))}")
        self.overflow = overflow
        self.requeue = count(requeue, "requeue", 0)
        self.requeue_backoff = checked(requeue_backoff)
        self.backoff = checked(backoff)
        self.max_wait = optional(max_wait, "max_wait")
        given = max_abandoned
        self.max_abandoned = self.max_workers if given is None else count(given, "max_abandoned", 0)
        self._given_collector = None if collector is None else Guarded(check_collector(collector))
        self.inline = backend == "loop"
        self._only_threads = backend == "thread"
        self._backend = choose(Job(_nothing), backend) if backend not in (None, "loop", "thread") else None
        #: What is asked of the workers' processes; None: jobs do not run in any.
        self.processes = processes_of(
            self._backend, self.recipe, kill=kill, threadsafe=threadsafe, max_abandoned=max_abandoned
        )
        if self.processes is not None:
            self._backend = None
        self._check_place()
        options = Options(retry, timeout, deadline, concurrency, dedupe, middleware)
        #: What holds for a run that says nothing else.
        self.terms = Terms(options.timeout, options.deadline, None, False, options.retry)
        self.dedupe = dedupe
        self._layers = _words(options, self._backend, self.inline, self.processes is not None)
        #: The chain that each attempt goes through; None: there is nothing in it.
        self.handler: Handler | None = None
        if self._backend is not None or concurrency is not None or options.middleware:
            inner = Options(concurrency=concurrency, middleware=options.middleware)
            self.handler = compiled(self._backend, inner, self.inline)
        #: The kind of job (`plain` or not) that needs no check; None: every job does.
        self.takes: bool | None = False
        if hasattr(self._backend, "check") or self.processes is not None:
            self.takes = None
        elif self._only_threads or (self.recipe is not None and not self.recipe.is_async and not threadsafe):
            self.takes = True

    def describe(self) -> tuple[str, ...]:
        """What each run goes through, outermost first, in words; where it runs comes last."""
        return self._layers

    def kind(self, service: str) -> Kind | None:
        """What the workers' processes are like; None: they have none."""
        return None if self.processes is None else kind_of(self.processes, self.recipe, service)

    @property
    def max_runs(self) -> int | None:
        """How many runs a worker's process does before it is replaced."""
        return None if self.processes is None else self.processes.max_runs

    @property
    def max_deaths(self) -> int:
        """How often the process of one run may die."""
        return 1 if self.processes is None else self.processes.max_deaths

    def _check_place(self) -> None:
        """Raise ConfigError where the resource would not be where the jobs are, or would not be tried there."""
        recipe = self.recipe
        if recipe is None:
            return
        elsewhere = self.inline or self._backend is not None
        if not recipe.is_async and elsewhere and not self.threadsafe:
            raise ConfigError(
                f"backend: the resource of {recipe.name} lives in its worker's own thread, where the jobs that use it "
                "run: leave `backend` out, or say threadsafe=True if it may be used anywhere"
            )
        if recipe.is_async and self._only_threads and not self.threadsafe:
            raise ConfigError(
                f'backend: "thread" takes plain jobs, and the resource of {recipe.name} lives on the event loop: '
                "leave `backend` out, or say threadsafe=True if it may be used anywhere"
            )
        if recipe.has_check and (self.threadsafe or elsewhere):
            raise ConfigError(
                "check: a resource is tried where it lives, just before its job begins there; with threadsafe=True or "
                "another backend a job may begin elsewhere: let the job try it, or leave those out"
            )

    def new_collector(self) -> CollectorContract:
        """What collects in one life: the user's own, or a new one."""
        return Collector() if self._given_collector is None else self._given_collector

    def check(self, fn: Callable[..., Any], plain: bool) -> None:
        """Raise NotAJob (a ConfigError and a TypeError) for a job of a kind that this queue cannot run."""
        recipe = self.recipe
        if self.processes is not None:
            self.processes.check(Job(fn))
            return
        if self._backend is not None:
            check = getattr(self._backend, "check", None)
            if check is not None:
                check(Job(fn))
        elif self._only_threads and not plain:
            raise NotAJob(f'{Job(fn).name} is async, and backend="thread" runs plain functions: leave `backend` out')
        if recipe is None or self.threadsafe:
            return
        if not (plain and self.inline):
            check_fit(recipe, Job(fn).name, is_async=not plain, in_thread=plain)

    def check_timeout(self, fn: Callable[..., Any]) -> None:
        """Raise ConfigError for a timeout around a plain job that is to run inline."""
        if self.inline and self._backend is None:
            raise ConfigError(
                f"timeout: {Job(fn).name} is a plain function on the event loop, where nothing can end it: "
                "leave `backend` out, so that it runs in a thread, or leave the timeout out"
            )


def _words(options: Options, backend: Backend | None, inline: bool, processes: bool) -> tuple[str, ...]:
    words = [] if options.dedupe is None else [str(options.dedupe)]
    if options.deadline is not None:
        words.append(f"deadline {text(options.deadline)}")
    words.extend(f"retry {rule}, without a worker meanwhile" for rule in options.retry)
    words.extend(f"middleware {named(middleware)}" for middleware in options.middleware)
    if options.concurrency is not None:
        words.append(str(options.concurrency))
    if options.timeout is not None:
        words.append(f"timeout {text(options.timeout)}")
    if backend is not None:
        where = repr(backend) if type(backend).__repr__ is not object.__repr__ else named(backend)
    elif processes:
        where = "the processes of its workers"
    else:
        where = "loop, plain ones inline" if inline else "loop, plain ones in the threads of their workers"
    return (*words, where)


def _checked_scale(scale: Scale | None, workers: int, most: int) -> Scale | None:
    """Raises ConfigError for what is no `Scale`, and where there is nothing between the least and the most."""
    if scale is None:
        return None
    if not isinstance(scale, Scale):
        raise ConfigError(f"scale: {scale!r} is no rc.Scale: give one, rc.Scale() say, or None for no scaling")
    if most <= max(1, workers):
        raise ConfigError(
            f"scale: {workers} worker(s) at least, and {most} at most, leave nothing to scale: give a larger "
            "max_workers, or leave scale out"
        )
    return scale


def _recipe(resource: Callable[[], Any] | None, **options: Any) -> Recipe[Any] | None:
    if resource is not None:
        return Recipe(resource, **options)
    for name, given in options.items():
        if given is not None and given is not UNSET:
            raise ConfigError(f"{name}: {given!r} means nothing without a resource: give resource=, or leave it out")
    return None


def _nothing() -> None:
    """A job that any backend may refuse for no reason of its own."""
