"""Crew: the root of a service's background work. A Supervisor with decorators and the settings of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, TypeVar, Unpack, overload

from runcrew import clock
from runcrew.abc import Backend as BackendContract
from runcrew.abc import Middleware, Service
from runcrew.backends import LoopGuard, choose, services, shared
from runcrew.backends.processes import shed
from runcrew.durations import Duration, optional
from runcrew.errors import ConfigError
from runcrew.events import LoopBlocked
from runcrew.job import Job
from runcrew.lifecycle import Hooks
from runcrew.lifecycle.hooks import hooks_of
from runcrew.policies import Backoff, Concurrency, Dedupe, Options, Rules
from runcrew.pool import Pool, PoolOptions
from runcrew.pool.pool import JobFactory
from runcrew.queue import NoResource, Queue, QueueOptions
from runcrew.supervise import Interval, OneShot, Supervisor
from runcrew.supervise.decide import OnFailure
from runcrew.supervise.oneshot import Ready
from runcrew.supervise.ticks import First, Mode
from runcrew.workers import Intensity
from runcrew.workers.resource import Closes, FromAsync, FromAsyncGenerator, FromCall, FromGenerator, FromIterator

F = TypeVar("F", bound=Callable[[], Any])
H = TypeVar("H", bound=Callable[[], Any])
R = TypeVar("R")
C = TypeVar("C", bound=Closes)


class Unset(Enum):
    """Says that an option was not given, so that the crew's own value holds. None means none."""

    UNSET = "as the crew says"


class CrewQueueOptions(QueueOptions, total=False):
    """The options of `crew.queue` that do not depend on its resource: those of a Queue, and its place in the crew."""

    #: Names of children that must be ready before its resources are made, and stop after it.
    depends_on: Sequence[str]
    on_failure: OnFailure | None


class CrewPoolOptions(PoolOptions, total=False):
    """The options of `crew.pool` that do not depend on its job: those of a Pool, and its place in the crew."""

    #: Names of children that must be ready before its workers begin, and stop after them.
    depends_on: Sequence[str]
    on_failure: OnFailure | None


class Crew(Supervisor):
    """Runs all the background work of a service: declare it with decorators, then `rc.run(crew)`.

    Also `async with crew:` inside a loop that runs already. `crew["name"]` is the handle of a child.
    """

    _stop_together = True

    def __init__(
        self,
        name: str = "crew",
        *,
        on_failure: OnFailure | None = None,
        intensity: Intensity | None = None,
        backoff: Backoff | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        middleware: Sequence[Middleware] = (),
        backend: str | BackendContract | None = None,
        keep_open: bool = False,
        stop_timeout: Duration = "30s",
        on_stopping: Hooks = (),
        on_stopped: Hooks = (),
        hooks_timeout: Duration = "5s",
        loop_block: Duration | None = "500ms",
    ) -> None:
        """timeout, deadline, backend: for every job that does not say it itself; a job says `timeout=None` for none.
        middleware: around every job; a job's own goes inside. (For queues and pools see `queue` and `pool`.)

        loop_block: a call that keeps the event loop busy for longer than this is reported with its job's
            name and stack, in the log and as `events.LoopBlocked`; None: no watching.
        on_failure: for children that do not say it themselves. None: "restart" for intervals, "stop" for all others.
        intensity, backoff, keep_open, stop_timeout and the hooks: see `Supervisor`.

        Queues are ready before the other children start. At a stop those stop first, all together, each after
        those that depend on it; then the queues, which take what is submitted until then. `depends_on` beats that.
        Raises ConfigError for bad values.
        """
        super().__init__(
            name=name, on_failure=on_failure or "stop", intensity=intensity, backoff=backoff, keep_open=keep_open,
            stop_timeout=stop_timeout, on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout,
        )  # fmt: skip
        optional(timeout, "timeout")
        optional(deadline, "deadline")
        Options(middleware=middleware)
        choose(Job(_nothing), backend)
        self._on_failure_given = on_failure
        self._timeout, self._deadline = timeout, deadline
        self._middleware, self._backend = tuple(middleware), backend
        span = optional(loop_block, "loop_block", zero=False)
        self._guard = None if span is None else LoopGuard(span, self._loop_blocked)

    def add(
        self,
        service: Service,
        *,
        name: str | None = None,
        depends_on: Sequence[str] = (),
        on_failure: OnFailure | None = None,
    ) -> Service:
        """Take a service as a child: see `Supervisor.add`. An interval is restarted unless somebody says otherwise."""
        if on_failure is None and self._on_failure_given is None and isinstance(service, Interval):
            on_failure = service.on_failure or "restart"
        return super().add(service, name=name, depends_on=depends_on, on_failure=on_failure)

    # --- declaring work ---------------------------------------------------------------------

    @overload
    def oneshot(self, fn: F, /) -> F: ...

    @overload
    def oneshot(
        self,
        /,
        *,
        name: str | None = None,
        depends_on: Sequence[str] = (),
        delay: Duration | None = None,
        drain: Literal["cancel", "finish"] = "cancel",
        ready: Ready = "started",
        on_failure: OnFailure | None = None,
        retry: Rules = (),
        timeout: Duration | Unset | None = Unset.UNSET,
        deadline: Duration | Unset | None = Unset.UNSET,
        concurrency: Concurrency | None = None,
        dedupe: Dedupe | None = None,
        middleware: Sequence[Middleware] = (),
        backend: str | BackendContract | Unset | None = Unset.UNSET,
        on_stopping: Hooks = (),
        on_stopped: Hooks = (),
        hooks_timeout: Duration = "5s",
    ) -> Callable[[F], F]: ...

    def oneshot(self, fn: Callable[[], Any] | None = None, /, **options: Any) -> Any:
        """Decorator: the function is a child that is run once. See `OneShot` for the options.

        `@crew.oneshot` or `@crew.oneshot(retry=…)`. The function itself is returned unchanged.
        depends_on: names of children that must be ready first.
        """

        def declare(fn: F) -> F:
            self.add(OneShot(fn, **self._with_defaults(options)), depends_on=depends_on)
            return fn

        depends_on = options.pop("depends_on", ())
        return declare if fn is None else declare(fn)

    def interval(
        self,
        every: Duration,
        *,
        name: str | None = None,
        depends_on: Sequence[str] = (),
        mode: Mode = "rate",
        first: First = "now",
        jitter: Duration | None = None,
        delay: Duration | None = None,
        on_failure: OnFailure | None = None,
        retry: Rules = (),
        timeout: Duration | Unset | None = Unset.UNSET,
        deadline: Duration | Unset | None = Unset.UNSET,
        concurrency: Concurrency | None = None,
        dedupe: Dedupe | None = None,
        middleware: Sequence[Middleware] = (),
        backend: str | BackendContract | Unset | None = Unset.UNSET,
        on_stopping: Hooks = (),
        on_stopped: Hooks = (),
        hooks_timeout: Duration = "5s",
    ) -> Callable[[F], F]:
        """Decorator: the function is a child that is run every so often. See `Interval` for the options.

        Unless the crew or the decorator says otherwise, a permanent error restarts it, with backoff, 5 times in
        60 s (the crew's `intensity`); then the crew ends. The function itself is returned unchanged.
        depends_on: children that must be ready first.
        """
        if callable(every):
            raise ConfigError(f'every: {every!r} is a function: write @crew.interval("10s"), with the interval')
        options = self._with_defaults(
            {
                "name": name, "mode": mode, "first": first, "jitter": jitter, "delay": delay,
                "on_failure": on_failure,
                "retry": retry, "timeout": timeout, "deadline": deadline, "concurrency": concurrency, "dedupe": dedupe,
                "middleware": middleware, "backend": backend, "on_stopping": on_stopping, "on_stopped": on_stopped,
                "hooks_timeout": hooks_timeout,
            }
        )  # fmt: skip

        def declare(fn: F) -> F:
            self.add(Interval(fn, every, **options), depends_on=depends_on)
            return fn

        return declare

    @overload
    def queue(self, name: str, *, resource: None = None, **options: Unpack[CrewQueueOptions]) -> Queue[NoResource]: ...

    @overload
    def queue(
        self,
        name: str,
        *,
        resource: FromGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewQueueOptions],
    ) -> Queue[R]: ...

    @overload
    def queue(
        self,
        name: str,
        *,
        resource: FromAsyncGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewQueueOptions],
    ) -> Queue[R]: ...

    @overload
    def queue(
        self,
        name: str,
        *,
        resource: FromAsync[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewQueueOptions],
    ) -> Queue[R]: ...

    @overload
    def queue(
        self,
        name: str,
        *,
        resource: FromCall[C],
        destroy: Callable[[C], object] | None,
        check: Callable[[C], object] | None = ...,
        **options: Unpack[CrewQueueOptions],
    ) -> Queue[C]: ...

    @overload
    def queue(
        self,
        name: str,
        *,
        resource: FromIterator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewQueueOptions],
    ) -> Queue[R]: ...

    @overload
    def queue(
        self,
        name: str,
        *,
        resource: FromCall[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewQueueOptions],
    ) -> Queue[R]: ...

    def queue(self, name: str, **options: Any) -> Queue[Any]:
        """A queue as a child; it is given back, for `submit` and `run`. See `Queue` for the options.

        The crew's timeout, deadline and middleware hold for its jobs as for all others; the crew's `backend` only
        where it has no resource, since a resource says where its jobs run.
        depends_on: children that must be ready before its workers open their resources, and that stop after it.
        on_failure: for when it fails for good: its resource can never be made, or a spare one could not at the start.

        It never ends by itself, so that a crew with a queue runs until it is stopped.
        Raises ConfigError for bad options and a name that is taken.
        """
        place = {key: options.pop(key) for key in ("depends_on", "on_failure") if key in options}
        queue: Queue[Any] = Queue(name, **self._where_it_runs(options))
        self.add(queue, **place)
        return queue

    @overload
    def pool(
        self,
        name: str,
        job: Callable[[], object],
        *,
        resource: None = None,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    @overload
    def pool(
        self,
        name: str,
        job: None = None,
        *,
        job_factory: JobFactory,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    @overload
    def pool(
        self,
        name: str,
        job: Callable[[R], object],
        *,
        resource: FromGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    @overload
    def pool(
        self,
        name: str,
        job: Callable[[R], object],
        *,
        resource: FromAsyncGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    @overload
    def pool(
        self,
        name: str,
        job: Callable[[R], object],
        *,
        resource: FromAsync[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    @overload
    def pool(
        self,
        name: str,
        job: Callable[[C], object],
        *,
        resource: FromCall[C],
        destroy: Callable[[C], object] | None,
        check: Callable[[C], object] | None = ...,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    @overload
    def pool(
        self,
        name: str,
        job: Callable[[R], object],
        *,
        resource: FromIterator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    @overload
    def pool(
        self,
        name: str,
        job: Callable[[R], object],
        *,
        resource: FromCall[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[CrewPoolOptions],
    ) -> Pool: ...

    def pool(self, name: str, job: Callable[..., Any] | None = None, **options: Any) -> Pool:
        """A pool as a child; it is given back, for `more`, `less` and `resize`. See `Pool` for the options.

        The crew's timeout, deadline and middleware hold for its runs as for all others (so a job that waits for
        something to do may want `timeout=None`); the crew's `backend` only where it has no resource.
        depends_on: children that must be ready before its workers begin, and that stop after it.
        on_failure: for when it fails for good: by `stop_on_error`, or since a worker can never be had.

        It stops with the other sources, before the queues, which take what its last runs submit.
        Raises ConfigError for bad options and a name that is taken.
        """
        place = {key: options.pop(key) for key in ("depends_on", "on_failure") if key in options}
        pool: Pool = Pool(job, name=name, **self._where_it_runs(options))
        self.add(pool, **place)
        return pool

    def on_stopping(self, hook: H) -> H:
        """Decorator: call this when a stop begins, before anything is cancelled. Async, or plain in a thread."""
        self._stopping_hooks += hooks_of(hook, "on_stopping")
        return hook

    def on_stopped(self, hook: H) -> H:
        """Decorator: call this when all work has ended, however it ended; the last added is called first."""
        self._stopped_hooks += hooks_of(hook, "on_stopped")
        return hook

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        defaults = {"timeout": self._timeout, "deadline": self._deadline, "backend": self._backend}
        given = {key: value for key, value in options.items() if value is not Unset.UNSET}
        return {**defaults, **given, "middleware": (*self._middleware, *given.get("middleware", ()))}

    def _where_it_runs(self, options: dict[str, Any]) -> dict[str, Any]:
        """The same, for what may have resources: those say where its jobs run."""
        given = self._with_defaults(options)
        if options.get("resource") is not None and "backend" not in options:
            del given["backend"]
        return given

    # --- the crew's own life ------------------------------------------------------------------

    def _serves(self, service: Service) -> bool:
        if isinstance(service, Supervisor):  # one of queues alone is like a queue
            return len(service) > 0 and all(self._serves(service[name]) for name in service)
        return isinstance(service, Queue)

    def _launch(self) -> bool:
        if self._guard is not None:
            self._guard.start()
        return super()._launch()

    def _end_life(self) -> None:
        if self._guard is not None:
            self._guard.stop()
        super()._end_life()
        for pool in (services(), shared()):
            pool.shed()  # idle threads would leave by themselves, but nothing is to be alive after the end
        if self._loop is not None:
            shed(self._loop)  # the same for what makes processes

    def _loop_blocked(self, job: str, seconds: float, stack: str) -> None:
        # Called on the guard's own thread: the loop is what is blocked.
        if self._loop is not None and self.hub.wants(LoopBlocked):
            event = LoopBlocked(clock.current().now(), self.name, job, seconds, stack)
            self._loop.call_soon_threadsafe(self.hub.emit, event)


def _nothing() -> None:
    """A job that any backend may refuse for no reason of its own."""
