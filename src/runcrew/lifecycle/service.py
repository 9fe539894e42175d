"""The life of a service, given once: every door and the Supervisor are built on it.

A subclass says what its work is (`_launch`, `_begin_drain`, `_cut`) and calls `_work_ended` when none of it
is left; the states, the order of a stop, its limits, hooks, waiting and reporting are here. A stop runs in a
task of the service's own, so whoever asked for it may be cancelled without harm, and may ask from anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from runcrew import clock
from runcrew.backends.calls import running_loop
from runcrew.durations import Duration, seconds
from runcrew.errors import ConfigError, NotStarted, ServiceStopped, ServiceStopping, WouldDeadlock, WrongLoop, brief
from runcrew.events import Event, HookFailed, Hub, SinkCall, StateChanged, Subscription, flush
from runcrew.job import Job
from runcrew.lifecycle.hooks import Hook, Hooks, hooks_of, run_hooks
from runcrew.lifecycle.inside import enter, inside, is_inside
from runcrew.lifecycle.latch import Limit
from runcrew.lifecycle.life import Life
from runcrew.lifecycle.live import InThread
from runcrew.lifecycle.report import HookError, StopReport, Stuck
from runcrew.lifecycle.state import State
from runcrew.lifecycle.tasks import spawn, unless_torn_down

_log: Final = logging.getLogger("runcrew")

#: How long work that has been cancelled may take to end before it is reported as stuck.
GRACE: Final = 1.0


class BaseService:
    """States, start, stop, kill, wait and hooks. See the module's docstring for what a subclass adds."""

    def __init__(
        self, name: str, *, on_stopping: Hooks = (), on_stopped: Hooks = (), hooks_timeout: Duration = "5s"
    ) -> None:
        if not isinstance(name, str):
            raise ConfigError(f"name: {name!r} is not a string")
        self.name = name
        self.hub = Hub()
        self._stopping_hooks = hooks_of(on_stopping, "on_stopping")
        self._stopped_hooks = hooks_of(on_stopped, "on_stopped")
        self._hooks_timeout = seconds(hooks_timeout, "hooks_timeout")
        self._parent: BaseService | None = None
        self._state = State.NEW
        self._generation = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.Context()
        self._started_in: tuple[BaseService, ...] = ()
        #: Whether it has had a life since its `on_stopped` hooks were last called.
        self._hooks_due = False
        self._begin_life()

    def _begin_life(self) -> None:
        """Forget the last life. A subclass adds what it keeps for one life only."""
        self._life = Life()
        self._finished = self._cancelled = self._never_started = 0
        self._stopper: asyncio.Task[None] | None = None

    # --- what a subclass says: none of it may wait ------------------------------------

    def _launch(self) -> bool:
        """Begin the work, and tell whether that makes it ready; else `_is_ready` is called later.

        Raising makes this life a failed one.
        """
        return True

    def _accept_no_more(self) -> None:
        """A stop has been asked for: begin nothing new from here on. What is under way goes on for now."""

    def _begin_drain(self) -> None:
        """The `on_stopping` hooks have run: let end what was promised, ask the rest to end."""

    def _cut(self) -> None:
        """Time is up: cancel whatever is left."""

    def _still_running(self) -> tuple[Stuck, ...]:
        """What has not ended although it was cut, and where it hangs."""
        return ()

    def _give_up(self) -> bool:
        """What was cut has not ended in its grace either, and has been reported: let go. Tells whether that ends it."""
        return False

    def _forsake(self) -> None:
        """The loop of this life has been closed: settle the books, nothing on it will ever go on."""

    def _grace(self) -> float:
        """How long the work may take to end after `_cut`."""
        return GRACE

    def _hooks_at_end(self) -> list[Hook]:
        """The `on_stopped` hooks that are due, of this service and of all below it, in the order of adding."""
        return self._hooks(self._stopped_hooks) if self._hooks_due else []

    def _take_hooks(self) -> list[Hook]:
        """The same, for whoever calls them now: they are due again after another life."""
        hooks, self._hooks_due = self._hooks_at_end(), False
        return hooks

    def _hubs(self) -> Iterator[Hub]:
        """Its own hub and those of all below it."""
        yield self.hub

    def _children_reports(self) -> tuple[StopReport, ...]:
        return ()

    def _child_starts(self, child: BaseService) -> None:
        """A supervisor hears that a child is about to be started, by itself or by somebody else."""

    # --- what everybody may ask -----------------------------------------------------

    @property
    def state(self) -> State:
        """Where this service is in its life."""
        return self._state

    @property
    def generation(self) -> int:
        """How many lives it has begun; 0 before the first start."""
        return self._generation

    @property
    def error(self) -> BaseException | None:
        """The permanent error that ended this life, or None."""
        return self._life.error

    @property
    def report(self) -> StopReport | None:
        """How this life ended, or None while it goes on."""
        return self._life.report

    def subscribe(self, sink: SinkCall, *types: type[Event]) -> Subscription:
        """Have `sink(event)` called, on the event loop, for what happens in this service and below it.

        types: event classes from `runcrew.events`; none given means all. What a sink raises is logged and
        counted. A sink that is too slow loses the oldest events and `subscription.dropped` says how many.
        Whoever waits for the end also waits for the sinks, within the time that is kept for hooks. A sink that
        asks for a stop begins it and goes on, as a job of the service does.
        """
        context = contextvars.copy_context()
        context.run(enter, self)
        return self.hub.subscribe(sink, *types, context=context)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self._state}>"

    # --- start ------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin a life on the running loop, and return once ready.

        While running it does nothing; while starting it waits for the same readiness. From stopped or
        failed it begins a new life (generation + 1) with nothing left over from the last.
        Raises ServiceStopping while stopping, WrongLoop from another loop, what made the start fail,
        ServiceStopped where a stop came first, WouldDeadlock from inside its own work while it is starting.
        Cancelling it ends the new life again before it returns.
        """
        self._check_place()
        if self._state is State.RUNNING:
            return
        if self._state is State.STOPPING:
            raise ServiceStopping(f"{self.name} is stopping: await its wait(), then start() it again")
        mine = self._state is not State.STARTING
        if mine:
            if self._parent is not None:
                self._parent._child_starts(self)
            self._bring_up()
        elif is_inside(self):
            raise WouldDeadlock(f"a job of {self.name} waits for {self.name} to be ready, and so for itself")
        life = self._life
        try:
            await life.ready.wait()
            if not life.was_ready:
                await self._end_of(life)
        except asyncio.CancelledError:
            if mine and life.report is None:
                self._begin_stop(0.0)
                await self._end_of(life)
            raise
        life.raise_error()
        if not life.was_ready:
            raise ServiceStopped(f"{self.name} was stopped while it was starting")

    def _bring_up(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._generation += 1
        self._hooks_due = True
        self._begin_life()
        self._context = contextvars.copy_context()
        self._started_in = inside.get()
        self._context.run(inside.set, ())  # what we do ourselves is nobody's work
        self._set_state(State.STARTING)
        try:
            ready = self._launch()
        except BaseException as error:
            self._fail(error)
            self._work_ended()
        else:
            if ready:
                self._is_ready()

    def _is_ready(self) -> None:
        """For subclasses: the work is up; `start()` returns."""
        if self._state is State.STARTING:
            self._life.was_ready = True
            self._set_state(State.RUNNING)
            self._life.ready.open()

    # --- stop -------------------------------------------------------------------------

    async def stop(self, timeout: Duration = "30s") -> StopReport:
        """End: take nothing new, finish what was promised, and after `timeout` cancel the rest.

        timeout: seconds or a span, counted from the call, for everything together; part of it is kept for
        the hooks that run at the end. With several stops under way the earliest limit counts. It holds also
        where something will not stop: that is reported about a second later, and left to itself.
        Safe in every state: before a start it makes the service stopped, after the end it returns the
        last report. From inside the service's own work (a job, a hook, a sink) it begins the stop and returns
        at once, with a report that says `complete=False`. Cancelling it ends only the waiting.
        Raises ConfigError for a bad timeout, WrongLoop from another loop. Errors of jobs are in the report.
        """
        return await self._end(seconds(timeout, "timeout"))

    async def kill(self) -> StopReport:
        """End at once: cancel everything, without draining and without the `on_stopping` hooks.

        Otherwise the same as `stop(timeout=0)`; it also cuts short a stop that is under way. Returns
        within about a second, plus what the `on_stopped` hooks take: those still run. Reports what would
        not stop.
        """
        return await self._end(0.0)

    async def _end(self, span: float) -> StopReport:
        life = self._life
        if self._state is State.NEW:
            self._end_life()
        self._check_place()
        if life.report is None:
            self._begin_stop(span)
            if is_inside(self):
                return StopReport(self.name, complete=False)
            await self._end_of(life)
        assert life.report is not None
        return life.report

    def _begin_stop(self, span: float) -> None:
        """Bring the stop under way, or closer. Plain: everything that takes time happens in a task."""
        life, now = self._life, self._now()
        reserve = min(self._hooks_timeout, span / 4) if self._epilogue() else 0.0
        life.limit.move(now + span - reserve)
        life.hooks_by.move(now + (span or self._hooks_timeout) + self._grace())
        if self._state is State.STARTING or self._state is State.RUNNING:
            life.stop_began = now
            self._set_state(State.STOPPING)
            self._accept_no_more()
            self._stop_by(self._go_down(announce=span > 0))

    def _stop_by(self, coro: Any) -> None:
        """Have a task of our own carry the stop out."""
        self._stopper = self._spawn(coro, "stop")
        self._stopper.add_done_callback(self._stopper_ended)

    def _stopper_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and task is self._stopper:
            unless_torn_down(self._go_on, task)

    def _go_on(self, task: asyncio.Task[None]) -> None:
        """Somebody else has cancelled the task that carries the stop out: the rest of it comes now, in another."""
        if task is self._stopper:
            self._life.limit.move(self._now())
            self._stop_by(self._go_down(announce=False))

    async def _go_down(self, *, announce: bool) -> None:
        life = self._life
        if self._stopping_hooks and announce:
            # At most half of the time, so that hooks which hang leave the work some to drain in.
            span = min(self._hooks_timeout, (life.limit.when - self._now()) / 2)
            await self._run_hooks(self._hooks(self._stopping_hooks), "on_stopping", life.limit.within(span))
        if not life.quiet.is_open:
            self._begin_drain()
        if not await life.quiet.wait_until(life.limit):
            self._cut()
            if not await life.quiet.wait_until(Limit(self._now() + self._grace())):
                life.stuck += self._still_running()
                if self._give_up():
                    await life.quiet.wait_until(Limit(self._now() + GRACE))
        await self._wind_up()

    async def _wind_up(self) -> None:
        life, now = self._life, self._now()
        life.flush_by = now + self._hooks_timeout + GRACE
        if life.epilogue is None:
            life.epilogue = [] if self._is_supervised() else self._take_hooks()
        await self._run_hooks(life.epilogue, "on_stopped", life.hooks_by.within(self._hooks_timeout))
        self._end_life()

    def _end_life(self) -> None:
        life = self._life
        life.report = StopReport(
            self.name,
            self._finished,
            self._cancelled,
            self._never_started,
            life.stuck,
            tuple(life.hook_errors),
            self._errors(),
            max(0.0, self._now() - life.stop_began),
            True,
            life.stop_tree,
        ).with_children(self._children_reports())
        life.flush_by = min(life.flush_by, life.hooks_by.when, self._now() + self._hooks_timeout + GRACE)
        self._set_state(State.STOPPED if life.error is None else State.FAILED)
        self._stopper = None
        self._started_in = ()  # it may be long before the next life, and they may be gone by then
        life.ready.open()
        life.over.open()

    async def _end_of(self, life: Life) -> None:
        """Wait for the end of a life; then, as long as there is time, until the sinks have heard of it."""
        await life.over.wait()
        if self._parent is None:
            await flush(self._hubs(), max(0.0, life.flush_by - self._now()))

    def _errors(self) -> tuple[BaseException, ...]:
        return () if self._life.error is None else (self._life.error,)

    # --- the end of the work ----------------------------------------------------------

    def _work_ended(self) -> None:
        """For subclasses: nothing of this life's work is left. Idempotent."""
        life = self._life
        if life.quiet.is_open:
            return
        life.quiet.open()
        if self._state is State.STARTING or self._state is State.RUNNING:
            # It ended by itself: there is nothing to drain, and nothing whose stopping could be announced.
            life.stop_began = self._now()
            if life.error is None:
                self._is_ready()
            self._set_state(State.STOPPING)
            if self._epilogue():
                self._stop_by(self._wind_up())
            else:
                self._end_life()

    def _fail(self, error: BaseException) -> None:
        """For subclasses: this life is ended by `error`. The first one stays."""
        self._life.fail(error)

    # --- wait -------------------------------------------------------------------------

    async def wait(self) -> StopReport:
        """Return when this life has ended, with its report; raise what ended it where that is an error.

        The error is the object that the job raised (a Supervisor gives an ExceptionGroup of all of them).
        A stop that was asked for is no error. Cancelling ends only the waiting. Raises NotStarted before
        the first start, and WouldDeadlock from inside the service's own work, which it would wait for.
        """
        if self._state is State.NEW:
            raise NotStarted(f"{self.name} has not been started: nothing to wait for")
        self._check_place()
        life = self._life
        if life.report is None:
            if is_inside(self):
                raise WouldDeadlock(f"a job of {self.name} waits for {self.name} to end, and so for itself")
            await self._end_of(life)
        return life.result()

    async def run(self) -> StopReport:
        """Start, and wait for the end. Cancelling it stops the service first (default timeout).

        A stop that comes before it is ready is no error either. A permanent error is raised also where the
        caller was cancelled in the meantime: a cancellation never hides a real error.
        """
        try:
            with contextlib.suppress(ServiceStopped):  # `wait` says how that ended
                await self.start()
            return await self.wait()
        except asyncio.CancelledError:
            if self._state.alive:
                await self._leave()
            self._life.raise_error()
            raise

    async def _leave(self) -> StopReport:
        """Stop. Cancelled, it becomes a kill, and an error of the service still comes out."""
        life = self._life
        try:
            return await self.stop()
        except asyncio.CancelledError:
            await self.kill()
            life.raise_error()
            raise

    async def __aenter__(self) -> Self:
        """Start; leaving the block stops (see `stop`), and raises the error that ended the service, if any.

        Cancelling it while it stops turns the stop into a kill.
        """
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()
        mine = self._life.error
        if mine is None or mine is error:
            return
        if error is not None and not isinstance(error, Exception | asyncio.CancelledError):
            error.add_note(f"and {self.name} failed: {brief(mine)}")  # a SystemExit keeps its code
            return
        if isinstance(error, Exception):
            raise BaseExceptionGroup(f"{self.name} and the block that used it both failed", [error, mine])
        self._life.raise_error()

    def in_thread(self, *, stop_timeout: Duration = "30s") -> InThread:
        """For programs without an event loop: `with service.in_thread() as live:` runs it on one in the background.

        What `live` does: see `rc.Live`. Leaving stops (within stop_timeout), and raises, as `async with` does.
        """
        return InThread(self, stop_timeout)

    # --- for the tree above -------------------------------------------------------------

    def _adopt(self, parent: BaseService) -> None:
        """A supervisor takes charge: it hears all events, and runs the `on_stopped` hooks."""
        self._parent = parent
        self.hub.parent = parent.hub

    def _release(self) -> None:
        self._parent = self.hub.parent = None

    def _ancestors(self) -> tuple[BaseService, ...]:
        parent = self._parent
        return () if parent is None else (parent, *parent._ancestors())

    # --- small helpers ----------------------------------------------------------------

    def _work_context(self) -> contextvars.Context:
        """For a job or a hook: the context variables of whoever started this life, in a copy of its own."""
        context = self._context.copy()
        context.run(inside.set, (self,))
        return context

    def _hooks(self, jobs: list[Job]) -> list[Hook]:
        return [Hook(self.name, job, self._work_context()) for job in jobs]

    def _epilogue(self) -> list[Hook]:
        """The hooks to run when the work has ended: none, where a supervisor that lives does it later."""
        return [] if self._is_supervised() else self._hooks_at_end()

    def _is_supervised(self) -> bool:
        return self._parent is not None and self._parent.state.alive

    async def _run_hooks(self, hooks: list[Hook], moment: str, limit: Limit) -> None:
        def failed(error: HookError) -> None:
            self._life.hook_errors.append(error)
            if self.hub.wants(HookFailed):
                now = clock.current().now()
                self.hub.emit(HookFailed(now, error.service, error.hook, moment, error.error))

        await run_hooks(hooks, moment, limit, failed)

    def _spawn(self, coro: Any, what: str) -> asyncio.Task[Any]:
        return spawn(coro, f"{self.name}-{what}", self._context)

    def _now(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()

    def _check_place(self) -> None:
        """Raise WrongLoop where it lives, and not here. A life whose loop was torn down without a stop ends here."""
        if not self._state.alive or self._loop is None:
            return
        if self._loop.is_closed():
            self._life.stop_began = self._now()
            self._forsake()
            self._end_life()
        elif running_loop() is not self._loop:
            raise WrongLoop(
                f"{self.name} lives on another event loop: call it there (from a thread, "
                "asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe with that loop)"
            )

    def _set_state(self, new: State) -> None:
        old, self._state = self._state, new
        _log.debug("%s: %s -> %s", self.name, old, new, extra={"service": self.name, "state": new.value})
        if self.hub.wants(StateChanged):
            error = self._life.error if new is State.FAILED else None
            self.hub.emit(StateChanged(clock.current().now(), self.name, old, new, error))
