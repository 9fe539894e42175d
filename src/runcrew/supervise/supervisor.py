"""Supervisor: starts its children, watches them, and decides what follows when one ends.

Children are Services of any kind; supervisors nest. The deciding is in `decide`, the order of starting and
stopping in `graph`; here it is carried out. Each child has one task that starts it, waits for its end and
says how it ended; that end is observed from outside the task, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, Final

from runcrew import clock
from runcrew.abc import Service
from runcrew.durations import Duration, seconds, text
from runcrew.errors import ConfigError, ServiceStopping, brief
from runcrew.events import Hub, Restarted
from runcrew.lifecycle import BaseService, Hook, Hooks, Latch, Limit, State, StopReport, Stuck
from runcrew.lifecycle.inside import is_inside
from runcrew.lifecycle.service import GRACE
from runcrew.lifecycle.tasks import spawn, unless_torn_down
from runcrew.policies import Backoff, checked
from runcrew.supervise.child import Child
from runcrew.supervise.children import Children
from runcrew.supervise.decide import End, OnFailure, StopAll, check_on_failure, on_child_end
from runcrew.supervise.graph import stop_after
from runcrew.supervise.stats import SupervisorStats as SupervisorStats
from runcrew.workers import Intensity, Restart, Restarts
from runcrew.workers.restart import DEFAULT_BACKOFF

_log: Final = logging.getLogger("runcrew")

#: So many permanent errors are kept, the first ones: what runs for ever with children that come, fail and go
#: needs no more memory for that. The others are counted, and have been logged.
KEPT: Final = 1000


class Supervisor(BaseService):
    """Starts, watches, restarts and stops its children. Ends when all of them have ended."""

    def __init__(
        self,
        *children: Service,
        name: str = "supervisor",
        on_failure: OnFailure = "stop",
        intensity: Intensity | None = None,
        backoff: Backoff | None = None,
        keep_open: bool = False,
        stop_timeout: Duration = "30s",
        on_stopping: Hooks = (),
        on_stopped: Hooks = (),
        hooks_timeout: Duration = "5s",
    ) -> None:
        """children: services to begin with; `add` takes more, also while running.

        on_failure: for children that do not say it themselves: "stop" all (default), "isolate" the failure,
            or "restart" the child.
        intensity: how many failures of one child are borne before "restart" becomes "stop"; default 5 in 60 s.
        backoff: the pause before a restart; default exponential, 1 s to 30 s, with jitter.
        keep_open: go on without children until a stop; default: end when the last one has ended.
        stop_timeout: for the stop that a failure brings about.
        on_stopping, on_stopped: hooks, see `OneShot`. The `on_stopped` hooks of the children run when all of
            them have ended, last added first, then these; all within `hooks_timeout`.

        All permanent errors of children come out of `wait()` in one ExceptionGroup, in the order in which
        they happened. Raises ConfigError for bad values and for two children with one name.
        """
        super().__init__(name, on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout)
        self._on_failure = check_on_failure(on_failure)
        if intensity is not None and not isinstance(intensity, Intensity):
            raise ConfigError(f"intensity: {intensity!r} is not an rc.Intensity(limit, period)")
        self._intensity = intensity or Intensity()
        self._backoff = DEFAULT_BACKOFF if backoff is None else checked(backoff)
        self._keep_open = keep_open
        self._stop_timeout = seconds(stop_timeout, "stop_timeout")
        self._children = Children(self, self._serves)
        for child in children:
            self.add(child)

    def _begin_life(self) -> None:
        super()._begin_life()
        self._failures: list[Exception] = []
        self._failure_count = 0
        self._helpers: dict[asyncio.Task[Any], str] = {}

    #: Whether a stop takes all children at once, or one by one in reverse order of adding.
    _stop_together = False

    def _serves(self, service: Service) -> bool:
        """Whether it is there for the others: up before those that are not, and stopped when they have ended."""
        return False

    # --- the children -------------------------------------------------------------------

    def add(
        self,
        service: Service,
        *,
        name: str | None = None,
        depends_on: Sequence[str] = (),
        on_failure: OnFailure | None = None,
    ) -> Service:
        """Take a service as a child, and give it back. A running supervisor starts it at once.

        name: under which it is known here; default its own, or its class's.
        depends_on: names of children that must be ready before it starts, and stop after it.
        on_failure: beats what the service and the supervisor say.
        Raises ConfigError for a name that is taken, a dependency that is not there, a circle of dependencies
        or what is no service; AlreadyStarted for a service that runs already; ServiceStopping during a stop.
        """
        self._check_place()
        known: str = getattr(service, "name", None) or type(service).__name__ if name is None else name
        if isinstance(depends_on, str):
            depends_on = (depends_on,)
        # While it is being put together, a child may depend on one that is added after it.
        self._children.check_new(service, known, depends_on, complete=self._state.alive)
        if self._state is State.STOPPING:
            raise ServiceStopping(f"{self.name} is stopping and takes no new child")
        chosen = on_failure or getattr(service, "on_failure", None) or self._on_failure
        child = self._children[known] = Child(
            service, known, depends_on, check_on_failure(chosen), self._children.census
        )
        child.adopt(self)
        if self._state.alive:
            child.new_life(Restarts(self._intensity, self._backoff))
            self._children.place_last(child)
            self._start(child)
        return service

    async def remove(self, name: str, timeout: Duration = "30s") -> StopReport | None:
        """Stop a child and forget it; its `on_stopped` hooks run. Returns its report, if it makes one.

        timeout: for the child's stop. One that does not heed it is given up, and told as stuck in the
            supervisor's own report. With several removals under way the earliest limit counts.
        From inside the child's own work it only begins that, and returns None. Cancelling it ends only the waiting.
        Raises KeyError for an unknown name, ConfigError where another child depends on it, ServiceStopping
        during a stop, WrongLoop from another loop.
        """
        child = self._children.named(name)
        span = seconds(timeout, "timeout")
        dependents = [other.name for other in self._children.values() if name in other.depends_on]
        if dependents:
            raise ConfigError(f"{self.name}: {name!r} cannot be removed, {', '.join(dependents)} depend(s) on it")
        self._check_place()
        if self._state is State.STOPPING:
            raise ServiceStopping(f"{self.name} is stopping, and {name!r} with it")
        if not self._state.alive:
            self._forget(child)
            return child.report
        if child.removal is None:
            child.removal = self._help(self._remove(child, span), f"remove-{name}")
            child.removal.add_done_callback(lambda _: self._removed(child), context=self._context)
        else:
            self._help(self._stop_child(child, span), f"stop-{name}")
        if isinstance(child.service, BaseService) and is_inside(child.service):
            return None
        await asyncio.wait([child.removal])
        return child.report

    async def _remove(self, child: Child, span: float) -> None:
        child.on_failure = "isolate"
        self._cancel_restart(child)
        self._dismiss(child)
        await self._stop_child(child, span)
        if not await child.gone.wait_until(Limit(self._now() + GRACE)):
            self._help(self._kill_child(child), f"kill-{child.name}")
            if not await child.gone.wait_until(Limit(self._now() + GRACE)):
                self._life.stuck += child.stuck()
                child.give_up()
        if isinstance(child.service, BaseService):
            hooks, end = child.service._take_hooks(), self._now() + self._hooks_timeout
            await self._run_hooks(hooks, "on_stopped", Limit(end))

    def _removed(self, child: Child) -> None:
        if self._children.get(child.name) is child:
            self._forget(child)
            self._check_ready()
            self._check_quiet()

    def _forget(self, child: Child) -> None:
        child.give_up()
        del self._children[child.name]
        child.release()

    def __getitem__(self, name: str) -> Service:
        return self._children.named(name).service

    def __contains__(self, name: object) -> bool:
        return name in self._children

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._children))

    def __len__(self) -> int:
        return len(self._children)

    def check(self) -> None:
        """Raise ConfigError where a dependency is not there, or dependencies go in a circle. Starts nothing."""
        self._children.check()
        for _, service in self._children.ours():
            if isinstance(service, Supervisor):
                service.check()

    # --- start ------------------------------------------------------------------------------

    def _launch(self) -> bool:
        self.check()
        for child in self._children.values():
            child.new_life(Restarts(self._intensity, self._backoff))
        self._children.place_all()
        if not self._children:
            self._check_quiet()
            return True
        for child in tuple(self._children.values()):
            self._start(child)
        return False

    def _start(self, child: Child) -> None:
        child.begun = child.dismissed = child.asked = False
        self._follow(child, self._live(child))

    def _follow(self, child: Child, coro: Coroutine[Any, Any, End]) -> None:
        child.begin()
        child.task = spawn(coro, f"{self.name}-{child.name}", self._context)
        child.task.add_done_callback(partial(self._ended, child), context=self._context)

    async def _live(self, child: Child) -> End:
        for need in child.starts_after:
            other = self._children.get(need)  # one that only comes earlier may have been removed
            if other is None:
                continue
            await other.up.wait()
            if not other.ready and need in child.depends_on:
                _log.warning("%s: %s never starts, as %s did not become ready", self.name, child.name, need)
                self._never_started += 1
                return End.WELL
        child.begun = True
        return await child.live(self._child_ready)

    def _child_ready(self, child: Child) -> None:
        child.ready = True
        child.let_others_start()
        self._check_ready()

    def _check_ready(self) -> None:
        if self._state is State.STARTING and not self._children.census.unready:
            self._is_ready()

    def _child_starts(self, child: BaseService) -> None:
        mine = self._children.with_service(child)
        if mine is None or (mine.begun and mine.task is not None):
            return  # it is we who start it
        mine.attempts.clear(child.name)  # by hand, so with nothing left over
        if self._state is State.STOPPING:
            raise ServiceStopping(f"{self.name} is stopping, and takes {mine.name} with it")
        if not self._state.alive:
            return
        if mine.timer is not None:
            mine.timer.cancel()
            mine.timer = None
        if mine.task is not None:
            mine.task.cancel()
        mine.begun, mine.dismissed, mine.asked, mine.error = True, False, False, None
        self._follow(mine, mine.join(self._child_ready))

    # --- the end of a child -------------------------------------------------------------------

    def _ended(self, child: Child, task: asyncio.Task[End]) -> None:
        if child.task is not task:
            return
        if not task.cancelled():
            self._child_ended(child, task.result())
        elif child.dismissed:
            self._child_ended(child, End.WELL)
        else:
            unless_torn_down(self._lost, child, task)

    def _lost(self, child: Child, task: asyncio.Task[End]) -> None:
        """The task that follows a child was cancelled by somebody else, or by the child."""
        service = child.service
        if child.task is not task:
            return
        if isinstance(service, BaseService) and child.begun and (service.state.alive or service.error):
            self._follow(child, child.watch())
        elif self._state is State.STOPPING:
            self._child_ended(child, End.WELL)
        else:
            error = asyncio.CancelledError("its start() or wait() was cancelled, and not by its supervisor")
            self._child_ended(child, child.failed(error))

    def _child_ended(self, child: Child, end: End) -> None:
        child.task = None
        if self._state is not State.STOPPING:
            self._decide(child, end)
        elif child.failed_when_told or not self._would_restart(child, end):
            self._keep(child, end)
        if child.timer is not None:
            return
        if child.begun and isinstance(child.service, BaseService) and child.service.state.alive:
            self._follow(child, child.watch())  # somebody has started it again in the same moment
            return
        child.end()
        self._check_ready()
        self._check_quiet()

    def _keep(self, child: Child, end: End) -> None:
        self._life.stop_tree = self._life.stop_tree or end.stops_tree
        if end.failed and child.error is not None:
            self._add_failure(child.error)

    def _add_failure(self, error: Exception) -> None:
        self._failure_count += 1
        if len(self._failures) < KEPT:
            self._failures.append(error)

    def _decide(self, child: Child, end: End) -> None:
        assert self._loop is not None
        assert child.restarts is not None
        decision = on_child_end(end, child.on_failure, child.restarts, self._loop.time())
        if isinstance(decision, Restart):
            self._restart_later(child, decision)
            return
        self._keep(child, end)
        if isinstance(decision, StopAll):
            if decision.error is not None:
                self._add_failure(decision.error)
            level = logging.ERROR if end.failed else logging.INFO
            _log.log(level, "%s stops: %s ended, and %s", self.name, child.name, decision.reason)
            self._begin_stop(self._stop_timeout)

    def _would_restart(self, child: Child, end: End) -> bool:
        """Whether only a stop of the whole keeps a child, which failed by itself, from being restarted.

        Such a failure is no permanent one: a moment earlier a restart would have answered it.
        """
        assert self._loop is not None
        assert child.restarts is not None
        return isinstance(on_child_end(end, child.on_failure, child.restarts, self._loop.time()), Restart)

    def _restart_later(self, child: Child, decision: Restart) -> None:
        assert self._loop is not None
        _log.warning(
            "%s restarts %s in %s: %s", self.name, child.name, text(decision.delay), decision.reason,
            extra={"service": self.name},
        )  # fmt: skip
        if self.hub.wants(Restarted):
            now = clock.current().now()
            self.hub.emit(Restarted(now, self.name, child.name, decision.delay, child.error, decision.reason))
        child.timer = self._loop.call_later(decision.delay, self._restart, child, context=self._context)

    def _restart(self, child: Child) -> None:
        child.timer = child.error = None
        self._start(child)

    def _cancel_restart(self, child: Child) -> None:
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
            child.end()

    def _dismiss(self, child: Child) -> None:
        """Have a child that has not begun never begin."""
        if child.task is not None and not child.begun:
            child.dismissed = True
            child.task.cancel()
            self._never_started += 1

    def _check_quiet(self) -> None:
        if self._children.census.living or any(child.removal is not None for child in self._children.values()):
            return
        if self._state is State.STOPPING or not self._keep_open:
            self._work_ended()

    # --- stop ---------------------------------------------------------------------------------

    def _accept_no_more(self) -> None:
        for child in self._children.values():
            self._cancel_restart(child)
            self._dismiss(child)

    def _begin_drain(self) -> None:
        after = stop_after(self._children.in_phases(), one_by_one=not self._stop_together)
        turns = {name: Latch() for name in after}
        removed = [child.gone for child in self._children.values() if child.removal is not None]
        for name, others in after.items():
            child, first = self._children[name], [turns[other] for other in others]
            if self._serves(child.service):
                first += removed  # what is on its way out is served to its end as well
            self._help(self._stop_in_turn(child, first, turns[name]), f"stop-{name}")
        self._check_quiet()

    async def _stop_in_turn(self, child: Child, first: Sequence[Latch], over: Latch) -> None:
        """Stop one child when those before it have had their turn; it has one too where it is gone already."""
        for latch in first:
            await latch.wait()
        await self._stop_child(child, max(0.0, self._life.limit.when - self._now()))
        await child.gone.wait()
        over.open()

    async def _stop_child(self, child: Child, span: float) -> None:
        if child.begun and not child.gone.is_open:
            await self._ask(child, child.stop(span))

    def _cut(self) -> None:
        for child in self._children.values():
            if not child.gone.is_open:
                self._help(self._kill_child(child), f"kill-{child.name}")

    async def _kill_child(self, child: Child) -> None:
        await self._ask(child, child.kill())
        if not child.ready and child.task is not None and not isinstance(child.service, BaseService):
            child.dismissed = True
            child.task.cancel()  # its start() did not end by itself

    async def _ask(self, child: Child, coro: Coroutine[Any, Any, None]) -> None:
        """Await what a child does for us; what it raises is an error like any other."""
        task = asyncio.current_task()
        try:
            await coro
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            _log.error("%s: stopping %s failed: %s", self.name, child.name, brief(error), exc_info=error)
            self._add_failure(child.as_exception(error))

    def _grace(self) -> float:
        grace = GRACE + max((service._grace() for _, service in self._children.ours()), default=GRACE)
        leaving = any(child.removal is not None for child in self._children.values())  # their hooks are still to run
        return grace + self._hooks_timeout if leaving else grace

    def _still_running(self) -> tuple[Stuck, ...]:
        left = [child for child in self._children.values() if not child.gone.is_open]
        return tuple(stuck for child in left for stuck in child.stuck())

    def _hooks_at_end(self) -> list[Hook]:
        below = [hook for _, service in self._children.ours() for hook in service._hooks_at_end()]
        return super()._hooks_at_end() + below

    def _take_hooks(self) -> list[Hook]:
        own = super()._hooks_at_end()
        self._hooks_due = False
        return own + [hook for _, service in self._children.ours() for hook in service._take_hooks()]

    def _hubs(self) -> Iterator[Hub]:
        yield from super()._hubs()
        for _, service in self._children.ours():
            yield from service._hubs()

    def _forsake(self) -> None:
        self._helpers.clear()
        for child in self._children.values():
            child.task = child.timer = child.removal = None

    def _end_life(self) -> None:
        for child in tuple(self._children.values()):
            child.give_up()  # of those that would not stop, and have been reported
            if child.removal is not None:
                self._forget(child)
        for helper in self._helpers:
            if helper is not asyncio.current_task():
                helper.cancel()
        if self._failures:
            first = f", the first {KEPT} of them here" if self._failure_count > KEPT else ""
            said = f"{self.name}: {self._failure_count} permanent error(s){first}"
            self._fail(ExceptionGroup(said, self._failures))
        super()._end_life()

    def _errors(self) -> tuple[BaseException, ...]:
        return tuple(self._failures) or super()._errors()

    def _children_reports(self) -> tuple[StopReport, ...]:
        return tuple(child.report for child in self._children.values() if child.report is not None)

    def stats(self) -> SupervisorStats:
        """An immutable snapshot."""
        return SupervisorStats(
            self.name,
            self._state,
            self._generation,
            {name: child.restarts.total for name, child in self._children.items() if child.restarts is not None},
            self._children.stats(),
            self.error,
        )

    def _help(self, coro: Any, what: str) -> asyncio.Task[Any]:
        """Run one of our own errands in the background, and keep hold of it until it is done."""
        task = self._spawn(coro, what)
        self._helpers[task] = what
        task.add_done_callback(self._helped)
        return task

    def _helped(self, task: asyncio.Task[Any]) -> None:
        what = self._helpers.pop(task, "")
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s: %s failed: %s", self.name, what, brief(error), exc_info=error)
