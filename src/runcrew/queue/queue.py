"""Queue: what somebody asks for. Runs are submitted, wait in levels, and are done by an elastic group of workers,
each of which may own a resource.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar, TypeVarTuple, Unpack, overload

from runcrew.abc import Backend, Middleware
from runcrew.durations import Duration
from runcrew.errors import AtMax, AtMin, ConfigError
from runcrew.insight import CollectorContract
from runcrew.job import Outcome
from runcrew.lifecycle import Hooks
from runcrew.policies import Backoff, Concurrency, Dedupe, Rules
from runcrew.policies.guard import count
from runcrew.queue import calls
from runcrew.queue.mapping import mapped
from runcrew.queue.options import NowOptions, SubmitOptions
from runcrew.queue.service import QueueService
from runcrew.queue.setup import BACKOFF, REQUEUE_BACKOFF, NoResource, Overflow, QueueOptions, Setup
from runcrew.queue.ticket import SUCCEEDED, Ticket
from runcrew.workers import UNSET, Change, Scale, Unset
from runcrew.workers.resource import Closes, FromAsync, FromAsyncGenerator, FromCall, FromGenerator, FromIterator

R = TypeVar("R")
C = TypeVar("C", bound=Closes)
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
Ts = TypeVarTuple("Ts")


class Queue(QueueService[R]):
    """Runs what is submitted, on workers that may each own a resource.

        async with rc.Queue("db", resource=connect, workers=4) as db:
            user = await db.run(load_user, 7)        # load_user(connection, 7)
            ticket = await db.submit(audit, user, priority=rc.HIGH)

    Async jobs run on the event loop, each in a Task of its own, in a copy of the context of whoever submitted them;
    plain ones in the thread of their worker. A job may run, and end, before `submit` returns.
    """

    @overload
    def __init__(
        self: Queue[NoResource], name: str | None = ..., *, resource: None = None, **options: Unpack[QueueOptions]
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str | None = ...,
        *,
        resource: FromGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[QueueOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str | None = ...,
        *,
        resource: FromAsyncGenerator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[QueueOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str | None = ...,
        *,
        resource: FromAsync[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[QueueOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: Queue[C],
        name: str | None = ...,
        *,
        resource: FromCall[C],
        destroy: Callable[[C], object] | None,
        check: Callable[[C], object] | None = ...,
        **options: Unpack[QueueOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str | None = ...,
        *,
        resource: FromIterator[R],
        check: Callable[[R], object] | None = ...,
        **options: Unpack[QueueOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str | None = ...,
        *,
        resource: FromCall[R],
        destroy: Callable[[R], object] | None = ...,
        check: Callable[[R], object] | None = ...,
        **options: Unpack[QueueOptions],
    ) -> None: ...

    def __init__(
        self,
        name: str | None = None,
        *,
        resource: Callable[[], Any] | None = None,
        destroy: Callable[[Any], object] | Unset | None = UNSET,
        check: Callable[[Any], object] | None = None,
        max_idle: Duration | None = None,
        max_age: Duration | None = None,
        threadsafe: bool = False,
        healthy: Callable[[Exception], object] | None = None,
        workers: int = 1,
        max_workers: int | None = None,
        spares: int = 0,
        max_spares: int | None = None,
        maxsize: int | None = 100_000,
        overflow: Overflow = "wait",
        requeue: int = 3,
        requeue_backoff: Backoff = REQUEUE_BACKOFF,
        backoff: Backoff = BACKOFF,
        scale: Scale | None = None,
        max_wait: Duration | None = "30s",
        max_abandoned: int | None = None,
        backend: str | Backend | None = None,
        kill: bool = False,
        collector: CollectorContract | None = None,
        retry: Rules = (),
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        concurrency: Concurrency | None = None,
        dedupe: Dedupe | None = None,
        middleware: Sequence[Middleware] = (),
        on_stopping: Hooks = (),
        on_stopped: Hooks = (),
        hooks_timeout: Duration = "5s",
    ) -> None:
        """name: for logs, events, reports; None: "queue".

        resource: makes what each worker owns, and jobs get as their first argument. A generator or async generator
            function that yields it once; or any other callable, whose result is taken down by `destroy`. Async
            resources live on the event loop, others in their worker's own thread, where its jobs run too.
        destroy: takes the result of a creator down; None: there is nothing to take down.
        check: tries the resource before each use; false or an error: it is replaced, and the run goes elsewhere.
        max_idle, max_age: a resource that was not used for so long, or is so old, is replaced.
        threadsafe: jobs of either kind may use the resource, from the loop and from threads.

        healthy: asked with the error of a failed attempt; false: the resource is faulty. It is never used again, its
            worker is replaced, and the run is put back, at its level, for another one. None: no error says that.
        requeue: how often a run is put back so; then it fails with its own error. requeue_backoff: the pauses.
        backoff: the pauses between openings of resources that fail or prove faulty; the first is tried again at once.

        workers: how many at first. 0: none until `resize` (max_workers is needed then). max_workers: how many there
            may be; None: as many as `workers`.
        scale: how their number follows the load, between `workers` (one at least) and max_workers. None: it does not.
            What is done by hand (`resize`, `more`, `less`) is where it goes on from, and a pause stays one.
        spares, max_spares: resources kept ready for `run_now`, and how many of those there may be in all, temporary
            ones included; None: as many as `spares` or `workers`.
        maxsize: how many tickets may wait (0: only what a free worker takes at once; None: no limit).
        overflow: what happens to one for which there is no room. "wait": `submit` waits, `submit_nowait` raises
            QueueFull; "reject": both raise it; "drop_oldest": the least urgent and oldest one that waits ends as
            skipped, or the new one, if it is less urgent still; "drop_newest": the new one does.
        max_wait: urgent tickets go first, but where the oldest has waited for longer, one pick in 16 serves it.
        max_abandoned: so many threads that were given up are replaced; None: as many as max_workers.
        backend: None: async on the loop, plain in threads; "loop": plain inline; "thread": plain ones only; "process",
            or `rc.Processes(…)`: plain ones, in a process for each worker; or an object with `handle(run)`.
        kill: what does not end when it should is to be killed, for sure: refused where only processes could be.
        collector: collects for `metrics()`; None: a new `rc.Collector` in each life.

        retry, timeout, deadline: for runs that do not say it themselves. A run that waits for its retry has no worker.
            The timeout counts from the start of each attempt, the deadline from acceptance.
        concurrency, middleware: around each attempt. dedupe: from acceptance to the end; a twin ends as skipped.

        Raises ConfigError for whatever of these makes no sense.
        """
        setup = Setup(
            resource=resource, destroy=destroy, check=check, max_idle=max_idle, max_age=max_age, threadsafe=threadsafe,
            healthy=healthy, workers=workers, max_workers=max_workers, spares=spares, max_spares=max_spares,
            maxsize=maxsize, overflow=overflow, requeue=requeue, requeue_backoff=requeue_backoff, backoff=backoff,
            scale=scale, max_wait=max_wait, max_abandoned=max_abandoned, backend=backend, kill=kill,
            collector=collector, retry=retry, timeout=timeout, deadline=deadline, concurrency=concurrency,
            dedupe=dedupe, middleware=middleware,
        )  # fmt: skip
        name = "queue" if name is None else name
        super().__init__(name, setup, on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout)

    # --- one run ------------------------------------------------------------------------

    @overload
    async def submit(
        self: Queue[NoResource], fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> Ticket[T]: ...

    @overload
    async def submit(
        self: Queue[NoResource], fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> Ticket[T]: ...

    @overload
    async def submit(
        self, fn: Callable[[R, *Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> Ticket[T]: ...

    @overload
    async def submit(self, fn: Callable[[R, *Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]) -> Ticket[T]: ...

    async def submit(self, fn: Callable[..., Any], /, *args: object, **options: object) -> Ticket[Any]:
        """Have `fn(resource, *args)` run (`fn(*args)` where there is no resource); its ticket, once it is accepted.

        Where there is no room it waits, first come first served, unless `overflow` says otherwise. Keywords for the
        job go through `functools.partial`. `options`: see `SubmitOptions`. The run may have begun, and ended, when
        this returns. Cancelled while it waits, nothing was submitted.

        Raises QueueFull (by "reject"; and in a job of this queue, instead of waiting), ServiceStopping and
        ServiceStopped, NotStarted, WrongLoop, ConfigError for a bad option, NotAJob for what cannot be run here.
        """
        desk = self.desk
        if desk is not None and desk.open and not desk.slice_is_over:
            ticket = desk.make(fn, args, options)
            if desk.levels.count < desk.room.ample or desk.has_room(ticket):
                desk.accept(ticket)
            else:
                await calls.admit(desk, ticket)
            return ticket
        return await calls.submit(self, fn, args, options)

    @overload
    def submit_nowait(
        self: Queue[NoResource], fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> Ticket[T]: ...

    @overload
    def submit_nowait(
        self: Queue[NoResource], fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> Ticket[T]: ...

    @overload
    def submit_nowait(
        self, fn: Callable[[R, *Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> Ticket[T]: ...

    @overload
    def submit_nowait(
        self, fn: Callable[[R, *Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> Ticket[T]: ...

    def submit_nowait(self, fn: Callable[..., Any], /, *args: object, **options: object) -> Ticket[Any]:
        """The same, without ever waiting: raises QueueFull where `submit` would wait."""
        desk = self.desk
        if desk is None or not desk.open:
            raise self.refusal()
        ticket = desk.make(fn, args, options)
        if desk.levels.count < desk.room.ample or desk.has_room(ticket) or desk.make_room(ticket):
            desk.accept(ticket)
        return ticket

    @overload  # type: ignore[override]
    async def run(  # pyright: ignore[reportIncompatibleMethodOverride] - what a queue runs is what it is given
        self: Queue[NoResource], fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> T: ...

    @overload
    async def run(
        self: Queue[NoResource], fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> T: ...

    @overload
    async def run(self, fn: Callable[[R, *Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[SubmitOptions]) -> T: ...

    @overload
    async def run(self, fn: Callable[[R, *Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]) -> T: ...

    async def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, fn: Callable[..., Any], /, *args: object, **options: object
    ) -> Any:
        """Submit it and wait for its value; raises what `await ticket` raises, and what `submit` does.

        Cancelling cancels the run, and returns when that has ended: a thread is told, and abandoned if it has not
        ended half a second later. Raises WouldDeadlock in a job of this queue.
        """
        desk = self.desk
        if desk is not None and desk.open and not desk.slice_is_over:
            desk.check_wait()
            ticket = desk.make(fn, args, options)
            if desk.levels.count < desk.room.ample or desk.has_room(ticket):
                desk.accept(ticket)
                if ticket._status is SUCCEEDED:
                    return ticket._result
                value = calls.value_of(ticket)
                del ticket  # what comes out may be the job's error: nothing here is to lead back to it
                return await value
        return await calls.run(self, fn, args, options)

    @overload
    async def run_now(
        self: Queue[NoResource], fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[NowOptions]
    ) -> T: ...

    @overload
    async def run_now(
        self: Queue[NoResource], fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[NowOptions]
    ) -> T: ...

    @overload
    async def run_now(
        self, fn: Callable[[R, *Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[NowOptions]
    ) -> T: ...

    @overload
    async def run_now(self, fn: Callable[[R, *Ts], T], /, *args: *Ts, **options: Unpack[NowOptions]) -> T: ...

    async def run_now(self, fn: Callable[..., Any], /, *args: object, **options: object) -> Any:
        """Run it at once, past the queue, on a spare resource or one made for it; its value, as `run` gives it.

        One attempt: it is neither retried nor put back; a resource that proved faulty is not used again all the
        same. Raises AtMax where `max_spares` are in use, ResourceError where none could be made, and otherwise what
        `run` raises; but a job of this queue may call it.
        """
        return await calls.run_now(self, fn, args, options)

    # --- many runs ------------------------------------------------------------------------

    @overload
    async def submit_many(
        self: Queue[NoResource],
        fn: Callable[[I], Awaitable[T]],
        items: Iterable[I],
        /,
        **options: Unpack[SubmitOptions],
    ) -> list[Ticket[T]]: ...

    @overload
    async def submit_many(
        self: Queue[NoResource], fn: Callable[[I], T], items: Iterable[I], /, **options: Unpack[SubmitOptions]
    ) -> list[Ticket[T]]: ...

    @overload
    async def submit_many(
        self, fn: Callable[[R, I], Awaitable[T]], items: Iterable[I], /, **options: Unpack[SubmitOptions]
    ) -> list[Ticket[T]]: ...

    @overload
    async def submit_many(
        self, fn: Callable[[R, I], T], items: Iterable[I], /, **options: Unpack[SubmitOptions]
    ) -> list[Ticket[T]]: ...

    async def submit_many(self, fn: Callable[..., Any], items: Iterable[Any], /, **options: Any) -> list[Ticket[Any]]:
        """Submit `fn(resource, item)` for each item, in order, waiting for room as `submit` does; their tickets.

        Cancelled, or refused half-way, it takes back those that it has submitted, and then raises.
        """
        return await calls.submit_many(self, fn, items, options)

    @overload
    def map(
        self: Queue[NoResource],
        fn: Callable[[I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        /,
        *,
        ordered: bool = True,
        ahead: int | None = None,
        outcomes: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self: Queue[NoResource],
        fn: Callable[[I], T],
        items: Iterable[I] | AsyncIterable[I],
        /,
        *,
        ordered: bool = True,
        ahead: int | None = None,
        outcomes: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        fn: Callable[[R, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        /,
        *,
        ordered: bool = True,
        ahead: int | None = None,
        outcomes: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        fn: Callable[[R, I], T],
        items: Iterable[I] | AsyncIterable[I],
        /,
        *,
        ordered: bool = True,
        ahead: int | None = None,
        outcomes: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        fn: Callable[..., Any],
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        ordered: bool = True,
        ahead: int | None = None,
        outcomes: Literal[True],
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[Outcome[Any], None]: ...

    def map(
        self,
        fn: Callable[..., Any],
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        ordered: bool = True,
        ahead: int | None = None,
        outcomes: bool = False,
        **options: Any,
    ) -> AsyncGenerator[Any, None]:
        """An async generator of what comes of `fn(resource, item)` for each item.

        ordered: in the order of the items; False: each as soon as it has ended.
        ahead: so many items at most are taken from the source and not given back yet; None: twice max_workers.
        outcomes: give Outcomes, and raise no job's error; otherwise values, and the first error ends it.

        Nothing begins before the first step of the iteration. What `items` raises comes out after what came before
        it. Leaving early (`aclose`, cancelling, an error) cancels what is under way and waits for its end; to leave
        by `break`, put `async with contextlib.aclosing(queue.map(…)) as values:` around the loop, as with any async
        generator: otherwise Python does it later.
        Raises WouldDeadlock in a job of this queue, ConfigError for a bad `ahead`.
        """
        most = 2 * self.setup.max_workers if ahead is None else count(ahead, "ahead", 1)
        return mapped(self, fn, items, options, ahead=most, ordered=ordered, outcomes=outcomes)

    # --- workers ---------------------------------------------------------------------------

    def resize(self, workers: int) -> Change:
        """Let there be so many workers. 0 is a pause: tickets wait, what runs is finished.

        Begins at once; awaiting what it returns is waiting until it is complete. Raises AtMax above `max_workers`,
        ConfigError for what is no count, and otherwise as `submit` does.
        """
        count(workers, "workers", 0)
        group = self.at_work().group
        if workers > group.most:
            raise AtMax(f"{self.name}: there may be {group.most} workers (max_workers), and {workers} were asked for")
        return group.resize(workers)

    def more(self, workers: int = 1) -> Change:
        """Let there be so many more. As `resize`."""
        count(workers, "workers", 1)
        return self.resize(self.at_work().group.target + workers)

    def less(self, workers: int = 1, mode: Literal["after_current", "now"] = "after_current") -> Change:
        """Let there be so many fewer: idle ones leave first.

        mode: one that has a run in hand ends it first ("after_current"), or the run is cut short and ends as
        interrupted ("now"). Raises AtMin below 0, and otherwise as `resize`.
        """
        count(workers, "workers", 1)
        if mode not in ("after_current", "now"):
            raise ConfigError(f'mode: {mode!r} is neither "after_current" nor "now"')
        group = self.at_work().group
        if group.target < workers:
            raise AtMin(f"{self.name}: there should be {group.target} workers, and {workers} fewer were asked for")
        return group.resize(group.target - workers, cut=mode == "now")
