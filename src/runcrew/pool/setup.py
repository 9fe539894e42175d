"""Setup: what a pool was asked for, checked and in one form. The same for all of its lives."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict

from runcrew.abc import Backend, Handler, Middleware
from runcrew.backends import choose, gave_awaitable, is_awaitable
from runcrew.backends.processes import Processes
from runcrew.durations import Duration
from runcrew.errors import ConfigError, NotAJob
from runcrew.job import Job, Run
from runcrew.lifecycle import Hooks
from runcrew.policies import Backoff, Concurrency, Exponential, Options, Rules, chain, checked, describe
from runcrew.policies.counter import Counter
from runcrew.policies.elapsed import Elapsed
from runcrew.policies.guard import check_plain, count, guarded, named
from runcrew.pool.cycle import Cycle
from runcrew.pool.in_thread import ThreadCycle
from runcrew.pool.on_loop import BareCycle, ChainCycle
from runcrew.pool.place import Place
from runcrew.workers import UNSET, Recipe, Unset, Worker
from runcrew.workers.group import UNLIMITED
from runcrew.workers.process_keeper import Kind, kind_of, processes_of
from runcrew.workers.resource import check_fit, refuse_signature
from runcrew.workers.scale import Scale

if TYPE_CHECKING:
    from runcrew.pool.floor import Floor

#: The pauses of a worker whose runs fail one after another.
BACKOFF: Final = Exponential("10ms", cap="10s", jitter="equal")
#: Before another resource is made, where they cannot be made or turn out faulty.
RESOURCE_BACKOFF: Final = Exponential("100ms", cap="30s", jitter="equal")
#: Where a backoff of the user's own gives nonsense. In seconds.
_NO_ANSWER: Final = 1.0

#: What only reads the numbers that a pool keeps anyway.
Kept: TypeAlias = Counter | Elapsed


class PoolOptions(TypedDict, total=False):
    """The options of a Pool that do not depend on its job: see `Pool`."""

    min: int
    max: int | None
    initial: int | None
    stop_on_error: bool
    healthy: Callable[[Exception], object] | None
    threadsafe: bool
    backoff: Backoff | None
    resource_backoff: Backoff
    scale: Scale | None
    max_abandoned: int | None
    backend: str | Backend | None
    kill: bool
    retry: Rules
    timeout: Duration | None
    deadline: Duration | None
    concurrency: Concurrency | None
    middleware: Sequence[Middleware]
    on_stopping: Hooks
    on_stopped: Hooks
    hooks_timeout: Duration


class Setup:
    """The options of one pool."""

    def __init__(
        self,
        job: Callable[..., Any] | None,
        name: str | None,
        *,
        job_factory: Callable[[], Any] | None,
        resource: Callable[[], Any] | None,
        destroy: Callable[[Any], object] | Unset | None,
        check: Callable[[Any], object] | None,
        healthy: Callable[[Exception], object] | None,
        threadsafe: bool,
        min: int,
        max: int | None,
        initial: int | None,
        stop_on_error: bool,
        backoff: Backoff | None,
        resource_backoff: Backoff,
        scale: Scale | None,
        max_abandoned: int | None,
        backend: str | Backend | None,
        kill: bool,
        retry: Rules,
        timeout: Duration | None,
        deadline: Duration | None,
        concurrency: Concurrency | None,
        middleware: Sequence[Middleware],
    ) -> None:
        self._name = name
        self.job = self._job_of(job, job_factory)
        self._backend = choose(self.job or Job(_any), backend) if backend not in (None, "loop", "thread") else None
        make = _from_factory_there if isinstance(self._backend, Processes) else _from_factory
        self.recipe = _recipe(resource, job_factory, make, destroy=destroy, check=check)
        #: Whether the resource is what jobs are called with; otherwise it is the job, or there is none.
        self.gives_resource = resource is not None
        self.threadsafe = _flag(threadsafe, "threadsafe")
        if threadsafe and resource is None:
            raise ConfigError("threadsafe: it means nothing without a resource: give resource=, or leave it out")
        if healthy is not None:
            if self.recipe is None:
                raise ConfigError("healthy: it says which errors mean that the resource is faulty: give resource= too")
            check_plain(healthy, "healthy", "the error")
        self.healthy = healthy
        self._sizes(min, max, initial)
        self.stop_on_error = _flag(stop_on_error, "stop_on_error")
        self.backoff = None if backoff is None else checked(backoff)
        if self.recipe is None and resource_backoff is not RESOURCE_BACKOFF:
            raise ConfigError(
                f"resource_backoff: {resource_backoff!r} means nothing without a resource or a job_factory: "
                "give one, or leave it out"
            )
        self.resource_backoff = checked(resource_backoff)
        self.scale = self._scale(scale)
        default = 8 if max is None else max
        self.max_abandoned = default if max_abandoned is None else count(max_abandoned, "max_abandoned", 0)
        self.inline = backend == "loop"
        self.only_threads = backend == "thread"
        #: What is asked of the workers' processes; None: jobs do not run in any.
        self.processes = processes_of(
            self._backend, self.recipe, kill=kill, threadsafe=threadsafe, max_abandoned=max_abandoned
        )
        if self.processes is not None:
            self._backend = None
        options = Options(retry, timeout, deadline, concurrency, None, middleware)
        #: Counters that see just what the pool counts anyway: they read it there.
        self.kept: tuple[Kept, ...] = tuple(takewhile(_is_kept, options.middleware))  # type: ignore[arg-type]
        rest = Options(retry, timeout, deadline, concurrency, None, options.middleware[len(self.kept) :])
        self._limited = timeout is not None
        recipe = self.recipe
        self._where = Place(
            inline=self.inline, tries=recipe is not None and recipe.has_check,
            in_threads=recipe is not None and not recipe.is_async, said=self._place(), max_runs=self.max_runs,
        )  # fmt: skip
        self._words = describe(self.job or Job(_any), self._backend or self._where, options)
        #: The chain that each run goes through; None: there is nothing in it.
        self.handler: Handler | None = None
        plain = rest.only_retry_and_timeout and not rest.retry and rest.timeout is None
        if self._backend is not None or self.processes is not None or not plain:
            self.handler = self._chain(rest)
        if self.job is not None:
            refuse_signature(self.job.fn, "job", 1 if self.gives_resource else 0)
            self.check(self.job)

    def describe(self) -> tuple[str, ...]:
        """What each run goes through, outermost first, in words; where it runs comes last."""
        return self._words

    def pause_after(self, in_a_row: int) -> float:
        """How long a worker pauses after so many failures in a row, in seconds. The first is followed at once."""
        if self.backoff is None or in_a_row < 2:
            return 0.0
        delay: float = guarded("a backoff", _NO_ANSWER, self.backoff.delay, in_a_row - 2)
        return delay

    # --- one worker's cycle -------------------------------------------------------------------

    def cycle(self, floor: Floor, worker: Worker) -> Cycle:
        """What this worker is to go round in. Raises NotAJob for a job of a kind that cannot be run here."""
        job = self.job
        if job is None and self.processes is not None:
            job = Job(_own, self._name)  # which is what the process has made, and gets
        elif job is None:
            job = worker.resource
            self.check(job)
        if self.handler is not None:
            return ChainCycle(floor, worker, job, self.handler)
        call = functools.partial(job.fn, worker.resource) if self.gives_resource else job.fn
        if job.is_async:
            return BareCycle(floor, worker, job, self._tried(worker, call))
        if self.inline:
            return BareCycle(floor, worker, job, _inline(job.name, call))
        return ThreadCycle(floor, worker, job, self._tried_plain(worker, call))

    def _tried(self, worker: Worker, call: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
        opened = worker.opened
        if self.recipe is None or not self.recipe.has_check or opened is None:
            return call

        async def tried() -> None:
            await opened.check()
            await call()

        return tried

    def _tried_plain(self, worker: Worker, call: Callable[[], object]) -> Callable[[], object]:
        opened = worker.opened
        if self.recipe is None or not self.recipe.has_check or opened is None:
            return call

        def tried() -> object:
            opened.check_plain()
            return call()

        return tried

    # --- checks -------------------------------------------------------------------------------

    def check(self, job: Job) -> None:
        """Raise NotAJob, or another ConfigError, for a job of a kind that this pool cannot run."""
        if self.processes is not None:
            self.processes.check(job)
            return
        if self._backend is not None:
            choose(job, self._backend)
        elif self.only_threads and job.is_async:
            raise NotAJob(f'{job.name} is async, and backend="thread" runs plain functions: leave `backend` out')
        if self.inline and self._limited and not job.is_async:
            raise ConfigError(
                f"timeout: {job.name} is a plain function on the event loop, where nothing can end it: "
                "leave `backend` out, so that it runs in a thread, or leave the timeout out"
            )
        recipe = self.recipe
        if not self.gives_resource or self.threadsafe or recipe is None:
            return
        in_thread = not job.is_async and not self.inline and self._backend is None
        check_fit(recipe, job.name, is_async=job.is_async, in_thread=in_thread)

    def _job_of(self, job: Callable[..., Any] | None, factory: Callable[[], Any] | None) -> Job | None:
        if job is None and factory is None:
            raise ConfigError("job: there is none: give a function, or job_factory= for a job of each worker's own")
        if job is not None and factory is not None:
            raise ConfigError("job_factory: it gives each worker a job of its own: give it or `job`, not both")
        if factory is not None:
            refuse_signature(factory, "job_factory", 0)
        return None if job is None else Job(job, self._name)

    def _sizes(self, least: int, most: int | None, initial: int | None) -> None:
        self.min = count(least, "min", 0)
        self.max = None if most is None else count(most, "max", 1)
        if self.max is not None and self.max < self.min:
            raise ConfigError(f"max: {most!r} is less than min={least!r}: give at least as many, or None for no limit")
        self.most = UNLIMITED if self.max is None else self.max
        first = max(1, self.min) if initial is None else count(initial, "initial", 0)
        if not self.min <= first <= self.most:
            raise ConfigError(f"initial: {initial!r} is not within min={least!r} and max={most!r}")
        self.initial = first

    def _scale(self, scale: object) -> Scale | None:
        if scale is None:
            return None
        if not isinstance(scale, Scale):
            raise ConfigError(f"scale: {scale!r} is none: give rc.Scale(), or leave it out")
        if self.max is None or self.max <= max(1, self.min):
            raise ConfigError(
                f"scale: there is no room to scale in between min={self.min!r} and max={self.max!r}: give max=, "
                "more than min (and than 1)"
            )
        return scale

    @property
    def least(self) -> int:
        """How few workers scaling may leave."""
        return max(1, self.min)

    # --- the chain ----------------------------------------------------------------------------

    def _chain(self, options: Options) -> Handler:
        where = self._backend or self._where
        return chain(self.job or Job(_any), where, options, on_retry=_retried, workers=True)

    def kind(self, service: str) -> Kind | None:
        """What the workers' processes are like; None: they have none."""
        if self.processes is None:
            return None
        return kind_of(self.processes, self.recipe, service, service if self.job is None else self.job.name)

    @property
    def max_runs(self) -> int | None:
        """How many runs a worker's process does before it is replaced."""
        return None if self.processes is None else self.processes.max_runs

    def _place(self) -> str:
        if self.processes is not None:
            return "the processes of its workers"
        if self.inline or (self.job is not None and self.job.is_async):
            return "loop"
        if self.job is None and not self.only_threads:
            return "loop, plain ones in the threads of their workers"
        return "the threads of its workers"


def _own(job: Callable[[], object]) -> object:
    return job()


def _inline(name: str, call: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def called() -> None:
        value = call()
        if value is not None and (error := gave_awaitable(name, value)) is not None:
            raise error

    return called


def _retried(run: Run, error: BaseException, delay: float, rule: str) -> None:
    run.worker.work.floor.books.retried(run, error, delay, rule)


def _is_kept(middleware: Middleware) -> bool:
    return type(middleware) in (Counter, Elapsed)


def _recipe(
    resource: Callable[[], Any] | None,
    factory: Callable[[], Any] | None,
    make: Callable[[Callable[[], Any]], Recipe[Any]],
    **options: Any,
) -> Recipe[Any] | None:
    if resource is not None:
        if factory is not None:
            raise ConfigError(
                "job_factory: with a resource, each worker's own is what its job is called with: give one of them"
            )
        return Recipe(resource, max_idle=None, max_age=None, **options)
    for name, given in options.items():
        if given is not None and given is not UNSET:
            raise ConfigError(f"{name}: {given!r} means nothing without a resource: give resource=, or leave it out")
    if factory is not None and not callable(factory):
        raise ConfigError(f"job_factory: {factory!r} cannot be called: give a function that makes a job")
    return None if factory is None else make(factory)


def _from_factory(factory: Callable[[], Any]) -> Recipe[Any]:
    """A job of each worker's own is made like a resource, on the loop, and is nothing that is taken down."""

    async def make() -> Job:
        made: Any = factory()
        if is_awaitable(made):
            made = await made
        try:
            return Job(made)
        except NotAJob as error:
            raise NotAJob(f"job_factory: what {named(factory)} gave is no job: {error}") from None

    return Recipe(make, destroy=None, check=None, max_idle=None, max_age=None)


def _from_factory_there(factory: Callable[[], Any]) -> Recipe[Any]:
    """The same in a process of each worker's own."""
    return Recipe(functools.partial(_plain_job, factory), destroy=None, check=None, max_idle=None, max_age=None)


def _plain_job(factory: Callable[[], Any]) -> Callable[[], object]:
    made: Callable[[], object] = factory()
    try:
        job = Job(made)
    except NotAJob as error:
        raise NotAJob(f"job_factory: what {named(factory)} gave is no job: {error}") from None
    if job.is_async:
        raise NotAJob(f"job_factory: what {named(factory)} gave is async, and a process runs plain functions")
    return made


def _flag(given: object, name: str) -> bool:
    if not isinstance(given, bool):
        raise ConfigError(f"{name}: {given!r} is neither True nor False")
    return given


def _any() -> None:
    """Stands for the jobs that a factory makes: what depends on the job is checked when it is there."""
