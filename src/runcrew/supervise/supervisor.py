"""Supervisor: starts its children, watches them, and decides what follows when one ends.

Children are Services of any kind; supervisors nest. The deciding is in `decide`, the order of starting and
stopping in `graph`; here it is carried out. Each child has one task that starts it, waits for its end and
says how it ended; that end is observed from outside the task, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from runcrew import clock
from runcrew.abc import Service
from runcrew.durations import Duration, seconds, text
from runcrew.errors import AlreadyStarted, ConfigError, ServiceStopping
from runcrew.events import Restarted
from runcrew.lifecycle import BaseService, Hook, Hooks, State, StopReport, Stuck
from runcrew.lifecycle.service import GRACE, is_inside
from runcrew.policies import Backoff, MemoryAttempts, checked
from runcrew.supervise.child import Child
from runcrew.supervise.decide import End, OnFailure, StopAll, check_on_failure, on_child_end
from runcrew.supervise.graph import check, check_circle, stop_after
from runcrew.workers import Intensity, Restart, Restarts
from runcrew.workers.restart import DEFAULT_BACKOFF

_log: Final = logging.getLogger("runcrew")


@dataclass(frozen=True, slots=True)
class SupervisorStats:
    """A snapshot of a supervisor. `restarts` counts by child; `children` holds the stats of those that give any."""

    name: str
    state: State
    generation: int
    restarts: Mapping[str, int]
    children: Mapping[str, Any]
    error: BaseException | None


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
        self._attempts = MemoryAttempts()
        self._children: dict[str, Child] = {}
        for child in children:
            self.add(child)

    def _begin_life(self) -> None:
        super()._begin_life()
        self._failures: list[Exception] = []
        self._helpers: dict[asyncio.Task[Any], str] = {}

    #: Whether a stop takes all children at once, or one by one in reverse order of adding.
    _stop_together = False

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
        if not isinstance(service, Service):
            raise ConfigError(f"{service!r} is not a service: it needs start(), stop() and wait()")
        if name is None:
            name = getattr(service, "name", None) or type(service).__name__
        if name in self._children:
            raise ConfigError(f"{self.name} has a child named {name!r} already: give this one another name=")
        if isinstance(service, BaseService) and (service is self or service in self._ancestors()):
            raise ConfigError(f"{self.name} cannot be a child of itself")
        if isinstance(service, BaseService) and service._parent is not None:
            raise ConfigError(f"{name} is a child of {service._parent.name} already: a service has one supervisor")
        if isinstance(service, BaseService) and service.state.alive:
            raise AlreadyStarted(f"{name} is {service.state} already: add it first, its supervisor starts it")
        if isinstance(depends_on, str):
            depends_on = (depends_on,)
        if self._state is State.STOPPING:
            raise ServiceStopping(f"{self.name} is stopping and takes no new child")
        if self._state.alive:
            self._check_loop()
        chosen = on_failure or getattr(service, "on_failure", None) or self._on_failure
        child = Child(service, name, depends_on, check_on_failure(chosen))
        # While it is being put together, a child may depend on one that is added after it.
        inspect = check if self._state.alive else check_circle
        inspect({**self._graph(), name: child.depends_on}, self.name)
        self._children[name] = child
        child.adopt(self, self._attempts)
        if self._state.alive:
            child.new_life(Restarts(self._intensity, self._backoff))
            self._start(child)
        return service

    async def remove(self, name: str, timeout: Duration = "30s") -> StopReport | None:
        """Stop a child and forget it; its `on_stopped` hooks run. Returns its report, if it makes one.

        From inside the child's own work it only begins that, and returns None.
        Raises KeyError for an unknown name, ConfigError where another child depends on it.
        """
        child = self._children[name]
        span = seconds(timeout, "timeout")
        dependents = [other.name for other in self._children.values() if name in other.depends_on]
        if dependents:
            raise ConfigError(f"{self.name}: {name!r} cannot be removed, {', '.join(dependents)} depend(s) on it")
        if not self._state.alive:
            self._forget(child)
            return child.report
        self._check_loop()
        removal = self._help(self._remove(child, span), f"remove-{name}")
        if isinstance(child.service, BaseService) and is_inside(child.service):
            return None
        await asyncio.wait([removal])
        return removal.result()

    async def _remove(self, child: Child, span: float) -> StopReport | None:
        child.on_failure = "isolate"
        self._cancel_restart(child)
        await self._stop_child(child, (), span)
        if isinstance(child.service, BaseService):
            await self._run_hooks(child.service._stopped_hooks, "on_stopped", self._hooks_timeout)
        self._forget(child)
        self._check_quiet()
        return child.report

    def _forget(self, child: Child) -> None:
        if self._children.get(child.name) is child:
            del self._children[child.name]
        child.release()

    def __getitem__(self, name: str) -> Service:
        try:
            return self._children[name].service
        except KeyError:
            known = ", ".join(self._children) or "none"
            raise KeyError(f"{self.name} has no child named {name!r}; it has {known}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._children

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._children))

    def __len__(self) -> int:
        return len(self._children)

    def check(self) -> None:
        """Raise ConfigError where a dependency is not there, or dependencies go in a circle. Starts nothing."""
        check(self._graph(), self.name)
        for child in self._children.values():
            if isinstance(child.service, Supervisor):
                child.service.check()

    def _graph(self) -> dict[str, Sequence[str]]:
        return {name: child.depends_on for name, child in self._children.items()}

    # --- start ------------------------------------------------------------------------------

    def _launch(self) -> bool:
        self.check()
        self._attempts = MemoryAttempts()  # the retry state of an earlier life would leave this one no budget
        for child in self._children.values():
            child.adopt(self, self._attempts)
            child.new_life(Restarts(self._intensity, self._backoff))
        if not self._children:
            self._check_quiet()
            return True
        for child in tuple(self._children.values()):
            self._start(child)
        return False

    def _start(self, child: Child) -> None:
        child.gone.close()
        child.begun = False
        assert self._loop is not None
        child.task = self._loop.create_task(self._live(child), name=f"{self.name}-{child.name}", context=self._context)
        child.task.add_done_callback(lambda task: self._ended(child, task), context=self._context)

    async def _live(self, child: Child) -> End:
        for need in child.depends_on:
            other = self._children[need]
            await other.up.wait()
            if not other.ready:
                _log.warning("%s: %s never starts, as %s did not become ready", self.name, child.name, need)
                self._never_started += 1
                return End.WELL
        child.begun = True
        return await child.live(self._child_ready)

    def _child_ready(self, child: Child) -> None:
        child.ready = True
        child.up.open()
        self._check_ready()

    def _check_ready(self) -> None:
        if self._state is State.STARTING and all(child.up.is_open for child in self._children.values()):
            self._is_ready()

    # --- the end of a child -------------------------------------------------------------------

    def _ended(self, child: Child, task: asyncio.Task[End]) -> None:
        if child.task is not task:
            return
        child.task = None
        if not task.cancelled():
            end = task.result()
        elif self._state is State.STOPPING or not child.begun:
            end = End.WELL  # cancelled by us, before it began or after it would not stop
        else:
            end = child.failed(asyncio.CancelledError("its wait() was cancelled, and not by its supervisor"))
        if end is End.WELL and child.begun:
            child.ready = True
        if self._state is not State.STOPPING:
            self._decide(child, end)
        elif child.asked or not self._would_restart(child, end):
            self._keep_failure(child, end)
        if child.timer is None:
            child.gone.open()
            child.up.open()
            self._check_ready()
            self._check_quiet()

    def _decide(self, child: Child, end: End) -> None:
        assert self._loop is not None
        assert child.restarts is not None
        decision = on_child_end(end, child.on_failure, child.restarts, self._loop.time())
        if isinstance(decision, Restart):
            self._restart_later(child, decision)
            return
        self._keep_failure(child, end)
        if isinstance(decision, StopAll):
            level = logging.ERROR if end is End.FAILED else logging.INFO
            _log.log(level, "%s stops: %s ended, and %s", self.name, child.name, decision.reason)
            self._life.stop_tree = self._life.stop_tree or end is not End.FAILED
            self._begin_stop(self._stop_timeout)

    def _would_restart(self, child: Child, end: End) -> bool:
        """Whether only a stop of the whole keeps a child, which failed by itself, from being restarted.

        Such a failure is no permanent one: a moment earlier a restart would have answered it.
        """
        assert self._loop is not None
        assert child.restarts is not None
        return isinstance(on_child_end(end, child.on_failure, child.restarts, self._loop.time()), Restart)

    def _keep_failure(self, child: Child, end: End) -> None:
        if end in (End.FAILED, End.INTERRUPT) and child.error is not None:
            self._failures.append(child.error)

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
        child.timer = None
        child.error = None
        self._start(child)

    def _cancel_restart(self, child: Child) -> None:
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
            child.gone.open()
            child.up.open()

    def _check_quiet(self) -> None:
        if any(not child.gone.is_open for child in self._children.values()):
            return
        if self._state is State.STOPPING or not self._keep_open:
            self._work_ended()

    # --- stop ---------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        for child in self._children.values():
            self._cancel_restart(child)
        after = stop_after(self._graph(), one_by_one=not self._stop_together)
        for name, child in self._children.items():
            first = tuple(self._children[other] for other in after[name])
            self._help(self._stop_child(child, first, None), f"stop-{name}")
        self._check_quiet()

    async def _stop_child(self, child: Child, first: Sequence[Child], span: float | None) -> None:
        """Stop one child when those before it are gone, within `span` or what is left of the whole stop's time."""
        for other in first:
            await other.gone.wait()
        if child.gone.is_open:
            return
        if child.begun:
            left = self._life.limit.when - self._now() if span is None else span
            await child.stop(max(0.0, left), self._grace())
        elif child.task is not None:
            child.task.cancel()
        await child.gone.wait()

    def _cut(self) -> None:
        for child in self._children.values():
            self._cancel_restart(child)
            if not child.gone.is_open:
                if child.begun:
                    self._help(child.kill(), f"kill-{child.name}")
                elif child.task is not None:
                    child.task.cancel()
        self._check_quiet()

    def _grace(self) -> float:
        below = (child.service for child in self._children.values())
        return GRACE + max((s._grace() for s in below if isinstance(s, BaseService)), default=GRACE)

    def _still_running(self) -> tuple[Stuck, ...]:
        return tuple(
            child.stuck or Stuck(child.name, "the service", "its wait() did not return")
            for child in self._children.values()
            if not child.gone.is_open
        )

    def _epilogue(self) -> list[Hook]:
        below = (child.service for child in self._children.values())
        return super()._epilogue() + [hook for s in below if isinstance(s, BaseService) for hook in s._stopped_hooks]

    def _end_life(self) -> None:
        for child in self._children.values():
            if child.task is not None:  # it would not stop, and has been reported
                child.task.cancel()
        for helper in tuple(self._helpers):
            if helper is not asyncio.current_task():
                helper.cancel()
        if self._failures:
            count = len(self._failures)
            self._fail(ExceptionGroup(f"{self.name}: {count} permanent error(s)", self._failures))
        super()._end_life()

    def _errors(self) -> tuple[BaseException, ...]:
        return tuple(self._failures)

    def _children_reports(self) -> tuple[StopReport, ...]:
        return tuple(child.report for child in self._children.values() if child.report is not None)

    def stats(self) -> SupervisorStats:
        """An immutable snapshot."""
        return SupervisorStats(
            self.name,
            self._state,
            self._generation,
            {name: child.restarts.total for name, child in self._children.items() if child.restarts is not None},
            {name: stats() for name, child in self._children.items() if (stats := _stats_of(child.service))},
            self.error,
        )

    def _help(self, coro: Any, what: str) -> asyncio.Task[Any]:
        """Run one of our own errands in the background, and keep hold of it until it is done."""
        task = self._spawn(coro, what)
        self._helpers[task] = what
        task.add_done_callback(self._helped)
        return task

    def _helped(self, task: asyncio.Task[Any]) -> None:
        what = self._helpers.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s: %s failed: %s: %s", self.name, what, type(error).__name__, error, exc_info=error)


def _stats_of(service: Service) -> Any:
    return getattr(service, "stats", None)
