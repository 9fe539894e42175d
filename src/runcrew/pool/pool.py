"""Pool: a job that is run again and again, by so many workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, Unpack, overload

from runcrew.abc import Backend, Middleware
from runcrew.durations import Duration
from runcrew.errors import AtMax, AtMin, ConfigError
from runcrew.lifecycle import Hooks
from runcrew.policies import Backoff, Concurrency, Rules
from runcrew.policies.guard import count
from runcrew.pool.service import PoolService
from runcrew.pool.setup import BACKOFF, RESOURCE_BACKOFF, PoolOptions, Setup
from runcrew.workers import UNSET, Change, Unset
from runcrew.workers.resource import Closes, FromAsync, FromAsyncGenerator, FromCall, FromGenerator, FromIterator
from runcrew.workers.scale import Scale

R = TypeVar("R")
C = TypeVar("C", bound=Closes)

#: Gives a job of one worker's own.
JobFactory: TypeAlias = Callable[[], Callable[[], object] | Awaitable[Callable[[], object]]]


class Pool(PoolService):
    """Runs a job again and again, in as many workers as there should be: `rc.Pool(consume, initial=3, max=20)`."""

    @overload
    def __init__(
        self,
        job: Callable[[], object],
        *,
        name: str | None = ...,
        resource: None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        job: None = None,
        *,
        name: str | None = ...,
        job_factory: JobFactory,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        job: Callable[[R], object],
        *,
        name: str | None = ...,
        resource: FromGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        job: Callable[[R], object],
        *,
        name: str | None = ...,
        resource: FromAsyncGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        job: Callable[[R], object],
        *,
        name: str | None = ...,
        resource: FromAsync[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        job: Callable[[C], object],
        *,
        name: str | None = ...,
        resource: FromCall[C],
        destroy: Callable[[C], object] | None,
        check: Callable[[C], object] | None = ...,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        job: Callable[[R], object],
        *,
        name: str | None = ...,
        resource: FromIterator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        job: Callable[[R], object],
        *,
        name: str | None = ...,
        resource: FromCall[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    def __init__(
        self,
        job: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        job_factory: JobFactory | None = None,
        resource: Callable[[], Any] | None = None,
        destroy: Callable[[Any], object] | Unset | None = UNSET,
        check: Callable[[Any], object] | None = None,
        healthy: Callable[[Exception], object] | None = None,
        threadsafe: bool = False,
        min: int = 0,
        max: int | None = None,
        initial: int | None = None,
        stop_on_error: bool = False,
        backoff: Backoff | None = BACKOFF,
        resource_backoff: Backoff = RESOURCE_BACKOFF,
        scale: Scale | None = None,
        max_abandoned: int | None = None,
        backend: str | Backend | None = None,
        kill: bool = False,
        retry: Rules = (),
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        concurrency: Concurrency | None = None,
        middleware: Sequence[Middleware] = (),
        on_stopping: Hooks = (),
        on_stopped: Hooks = (),
        hooks_timeout: Duration = "5s",
    ) -> None:
        """job: each worker runs it, one run after another without a pause; without arguments, or with its own resource.
            Async on the loop, plain in the worker's own thread. All runs of one worker share a
            context, but those of plain jobs with policies or middleware around them, which get copies.
        job_factory: in its place, called once for each worker: gives that worker's own job, so that what it keeps
            needs no lock. Plain or async; called on the loop, so it must not block; with processes it is plain, and
            called there. What has to be taken down again, or lives in a thread, is a resource.
        resource, destroy, check, threadsafe: as in `Queue`: each worker has one of its own, tried before each run.
        healthy: asked with the error of a failed run; false: the resource is faulty, and its worker is replaced.

        min, max, initial: how few workers there must and how many there may be (None: no limit), and how many at
            first (None: `min`, and at least 1). 0 is a pause.
        scale: grows and shrinks within min (at least 1) and max by how much the workers are at work; `max` is needed
            then. The time a run spends in `rc.current_run().idle()`, at a `rc.Pace` or paused after a failure is none.
        stop_on_error: the first run that fails or times out ends the pool: the other runs are cancelled, and
            `wait()` raises its error. Not one that was cut short by ourselves, nor one whose error is not `healthy`.
        backoff: a worker whose runs fail (or are skipped) one after another pauses in between. The first in a row is
            followed at once. None: never a pause.
        resource_backoff: between openings of resources that fail or prove faulty; the first is tried again at once.
        max_abandoned: so many threads that were given up are replaced; None: as many as `max`, or 8.
        backend: None: async on the loop, plain in threads; "loop": plain inline; "thread": plain ones only; "process",
            or `rc.Processes(…)`: plain ones, in a process for each worker; or an object with `handle(run)`.
        kill: what does not end when it should is to be killed, for sure: refused where only processes could be.

        retry, timeout, deadline, concurrency: around each run, which waits for its retry in its worker.
        middleware: around all that, the first is outermost; shared by all workers, unless it is `rc.per_worker(…)`.
            A `Counter` or `Elapsed` with nothing but its like outside of it costs nothing: the pool counts anyway.

        A job that has no more to do says so: `raise rc.Done` ends the pool well, `raise rc.StopTree` the whole tree.
        A stop lets each worker finish its run; one that is `idle()`, waits at a `Pace` or for its retry ends at once.

        Raises ConfigError for whatever of these makes no sense, NotAJob for what cannot be run.
        """
        setup = Setup(
            job, name, job_factory=job_factory, resource=resource, destroy=destroy, check=check, healthy=healthy,
            threadsafe=threadsafe, min=min, max=max, initial=initial, stop_on_error=stop_on_error, backoff=backoff,
            resource_backoff=resource_backoff, scale=scale, max_abandoned=max_abandoned, backend=backend, kill=kill,
            retry=retry, timeout=timeout, deadline=deadline, concurrency=concurrency, middleware=middleware,
        )  # fmt: skip
        if name is None:
            name = "pool" if setup.job is None else setup.job.name
        super().__init__(name, setup, on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout)

    # --- workers ---------------------------------------------------------------------------

    def resize(self, workers: int) -> Change:
        """Let there be so many workers. 0 is a pause, where `min` allows it: the runs under way end, none begins.

        Begins at once; awaiting what it returns is waiting until it is complete: see `Change`. Raises AtMax above
        `max`, AtMin below `min`, ConfigError for what is no count, NotStarted, ServiceStopping and ServiceStopped,
        WrongLoop.
        """
        count(workers, "workers", 0)
        return self._resize(workers, cut=False)

    def more(self, workers: int = 1) -> Change:
        """Let there be so many more: they begin at once. As `resize`."""
        count(workers, "workers", 1)
        return self._resize(self.at_work().group.target + workers, cut=False)

    def less(self, workers: int = 1, mode: Literal["after_current", "now"] = "after_current") -> Change:
        """Let there be so many fewer: those leave that have nothing to do, then the newest.

        mode: they end the run that they have under way first ("after_current"), or it is cut short and ends as
        interrupted ("now"). As `resize`.
        """
        count(workers, "workers", 1)
        if mode not in ("after_current", "now"):
            raise ConfigError(f'mode: {mode!r} is neither "after_current" nor "now"')
        return self._resize(self.at_work().group.target - workers, cut=mode == "now")

    def _resize(self, workers: int, *, cut: bool) -> Change:
        group, setup = self.at_work().group, self.setup
        if workers > setup.most:
            raise AtMax(f"{self.name}: there may be {setup.most} workers (max), and {workers} were asked for")
        if workers < setup.min:
            fewer = f"{workers} were" if workers >= 0 else f"{group.target - workers} fewer than {group.target} were"
            raise AtMin(f"{self.name}: there must be {setup.min} workers (min), and {fewer} asked for")
        return group.resize(workers, cut=cut)
