"""Who judges a schedule: each holds the world to a few laws, by a model of its own, and says what must not be.

The laws are numbered as the invariants of the library are; S, T, D, I stand for supervisor, retry, drain, all.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from plans import JobPlan
from world import EPS, Attempt, Call, SimError, World

import runcrew as rc
from runcrew import clock, events
from runcrew.lifecycle import BaseService

#: What a service may be ended by, and so what its start() and wait() may raise.
OF_LIFE: Final = (SimError, rc.JobCrashed, rc.RunTimeout, rc.RunSkipped, rc.ConfigError)
#: What each call may raise, by its documentation; what may be raised inside its own work only comes second.
MAY_RAISE: Final[dict[str, tuple[type[BaseException], ...]]] = {
    "start": (*OF_LIFE, rc.ServiceStopping, rc.ServiceStopped),
    "wait": (*OF_LIFE, rc.NotStarted),
    "run": (*OF_LIFE, rc.ServiceStopping, rc.ServiceStopped),
    "use": (*OF_LIFE, rc.ServiceStopping, rc.ServiceStopped),
    "add": (rc.ConfigError, rc.AlreadyStarted, rc.ServiceStopping),
    "remove": (rc.ConfigError, rc.ServiceStopping, KeyError),
}
INSIDE_TOO: Final = (rc.WouldDeadlock,)
LEGAL: Final = frozenset(
    {
        ("new", "starting"), ("new", "stopped"), ("starting", "running"), ("starting", "stopping"),
        ("running", "stopping"), ("stopping", "stopped"), ("stopping", "failed"), ("stopped", "starting"),
        ("failed", "starting"),
    }
)  # fmt: skip


class Judge:
    """Hears everything; a subclass looks at what it understands."""

    def __init__(self, world: World) -> None:
        self.world = world

    def hear(self, name: str, event: events.Event) -> None:
        """An event of the service of that name."""

    def begins(self, attempt: Attempt) -> None:
        """An attempt begins."""

    def cancelled(self, attempt: Attempt) -> None:
        """A job sees a CancelledError that it did not raise."""

    def asks(self, call: Call, service: BaseService) -> Any:
        """A call begins; what is returned comes back in `answered`."""

    def answered(self, call: Call, service: BaseService, kept: Any, value: Any, error: BaseException | None) -> None:
        """A call has ended."""

    def looks(self) -> None:
        """An instant between two steps."""

    def closed(self) -> None:
        """The root has been ended."""

    def verdict(self) -> None:
        """Everything is over."""


class States(Judge):
    """Transitions are legal; services start and stop in order, and only by somebody's doing. (2, S1, D1)"""

    def hear(self, name: str, event: events.Event) -> None:
        """Judge a transition."""
        if not isinstance(event, events.StateChanged):
            return
        world = self.world
        if (event.old, event.new) not in LEGAL:
            world.wrong("2", f"{name} went from {event.old} to {event.new}")
        parent = world.parent(name)
        if event.new == "starting":
            self._may_start(name, parent)
        elif event.new == "stopping" and parent is not None:
            self._in_order(name, parent)

    def _may_start(self, name: str, parent: rc.Supervisor | None) -> None:
        world = self.world
        if any(act.target == name for act in world.in_flight("start", "run", "use")):
            return
        if parent is None:
            world.wrong("S4", f"{name} was started, and nobody asked for it")
            return
        if parent.state not in ("starting", "running"):
            world.wrong("D1", f"{name} was started by {parent.name}, which is {parent.state}")
        for need in parent._children[name].depends_on:
            service = world.services[need]
            if not service._life.was_ready and service.generation < 2 and need not in world.tainted:
                world.wrong("S1", f"{name} was started before {need} was ready")

    def _in_order(self, name: str, parent: rc.Supervisor) -> None:
        world, service = self.world, self.world.services[name]
        own_end = service._life.quiet.is_open or getattr(service, "_failures", None) or service._life.stop_tree
        if own_end or parent.state != "stopping" or (name, service.generation) in world.asked:
            return
        if world.now >= parent._life.limit.when - EPS:
            return  # there is no time left for any order
        names = list(parent)
        for later in names[names.index(name) + 1 :]:
            together = isinstance(parent, rc.Crew) and name not in parent._children[later].depends_on
            leaving = parent._children[later].removal is not None
            if not together and not leaving and world.services[later].state.alive and later not in world.tainted:
                world.wrong("S1", f"{name} was stopped before {later}")


class Runs(Judge):
    """Every run has one outcome, its job's own error is in it, and the meter agrees. (1, 10, 15, 20)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.begun: dict[str, str] = {}
        self.ended: dict[str, events.RunEnded] = {}
        self.last: dict[str, events.RunEnded | None] = {}
        #: The latest run that began; one that would not stop may end in another life.
        self.current: dict[str, str] = {}
        self.tally: dict[str, dict[str, int]] = {}

    def hear(self, name: str, event: events.Event) -> None:
        """Keep the account of runs."""
        match event:
            case events.RunStarted():
                if event.run in self.begun:
                    self.world.wrong("1", f"{self._label(event)} began twice")
                self.begun[event.run] = name
                self.current[name] = event.run
            case events.RunEnded():
                self._run_ended(name, event)
            case events.StateChanged(new="starting"):
                self.last[name] = None
            case events.StateChanged(new="stopped" | "failed"):
                self._life_ended(name, event)

    def _label(self, event: Any) -> str:
        return f"{self.world.label(event.run)} of {event.service}"

    def _run_ended(self, name: str, event: events.RunEnded) -> None:
        world = self.world
        if event.run in self.ended or event.run not in self.begun:
            world.wrong("1", f"{self._label(event)} has ended twice, or never begun")
        self.ended[event.run] = event
        if self.current.get(name) == event.run:
            self.last[name] = event
        tally = self.tally.setdefault(name, {})
        tally[event.status] = tally.get(event.status, 0) + 1
        attempts = [attempt for attempt in world.attempts if attempt.run.id == event.run]
        if not max(1, len(attempts)) <= event.attempts <= len(attempts) + 1:
            world.wrong("15", f"{self._label(event)} says {event.attempts} attempts, of {len(attempts)}")
        plan = world.plans[name]
        assert isinstance(plan, JobPlan)
        if not plan.plain and any(attempt.ended is None for attempt in attempts):
            world.wrong("1", f"{self._label(event)} has its outcome, and its job still runs")
        if not attempts or attempts[-1].error is None:
            return
        # What a thread that was given up still raises is only logged; and the last attempt may never have begun.
        given_up = plan.plain and event.status in ("timed_out", "interrupted")
        never_begun = event.status == "timed_out" and event.attempts > len(attempts)
        if not given_up and not never_begun:
            self._is_visible(event, attempts[-1].error)

    def _is_visible(self, event: events.RunEnded, raised: BaseException) -> None:
        if isinstance(raised, (asyncio.CancelledError, rc.Done, rc.StopTree)):
            return
        error: BaseException | None = event.error
        while error is not None and error is not raised:
            error = error.__cause__
        if error is None:
            self.world.wrong("10", f"{self._label(event)} hides {raised!r}: {event.status}, {event.error!r}")

    def _life_ended(self, name: str, event: events.StateChanged) -> None:
        run = self.last.get(name)
        if run is None:
            return
        plan = self.world.plans[name]
        failed = run.status in ("failed", "timed_out")
        if run.status == "skipped" and isinstance(plan, JobPlan) and plan.door == "oneshot":
            failed = True
        if failed != (event.new == "failed"):
            self.world.wrong("21", f"{name} is {event.new}, though its last run was {run.status}")
        cause = None if event.error is None else event.error.__cause__
        if failed and run.error is not None and run.error not in (event.error, cause):
            self.world.wrong("21", f"{name} was ended by {event.error!r}, and its run by {run.error!r}")

    def begins(self, attempt: Attempt) -> None:
        """No attempt begins after its run or its service was asked to end, and never two at a time."""
        world, run, plan = self.world, attempt.run, self.world.plans[attempt.service]
        assert isinstance(plan, JobPlan)
        service = world.services[attempt.service]
        what = f"attempt {run.attempt} of {world.label(run.id)} of {attempt.service} began"
        if plan.plain:
            return  # between the thread's look at whether it should begin and this one, anything may happen
        if run.final or run.why is not None:
            world.wrong("10", f"{what} after the run was asked to end")
        lets_finish = plan.door == "oneshot" and plan.drain == "finish"
        if service.state == "stopping" and not lets_finish:
            world.wrong("10", f"{what} while its service was stopping")
        if service.state in ("new", "stopped", "failed"):
            world.wrong("10", f"{what} while its service was {service.state}")
        for other in world.active:
            same = (other.service, other.generation) == (attempt.service, attempt.generation)
            if same:
                world.wrong("5", f"{what} while another was under way")
            twin = plan.dedupe is not None and getattr(world.plans[other.service], "dedupe", None) == plan.dedupe
            if twin and other.run is not run and not other.run.final:
                world.wrong("5", f"{what} beside its twin of {other.service}")
        if plan.concurrency is not None:
            # A thread that was given up has given its place back, and goes on.
            others = [world.plans[other.service] for other in world.active]
            busy = sum(isinstance(o, JobPlan) and not o.plain and o.concurrency == plan.concurrency for o in others)
            if busy >= world.plan.limits[plan.concurrency]:
                world.wrong("5", f"{what} beyond the limit of {plan.concurrency}")

    def cancelled(self, attempt: Attempt) -> None:
        """A job is cancelled by its stop or by its time alone; what was promised to finish, not before the limit."""
        world, run = self.world, attempt.run
        late = run.ends is not None and rc_now() >= run.ends - EPS
        if late or attempt.cancels_itself:
            return
        service, plan = world.services[attempt.service], world.plans[attempt.service]
        what = f"{world.label(run.id)} of {attempt.service}"
        if run.why is None:
            world.wrong("20", f"{what} was cancelled, and nobody asked for it")
        assert isinstance(plan, JobPlan)
        lets_finish = plan.door == "interval" or plan.drain == "finish"
        early = world.now < service._life.limit.when - EPS
        if lets_finish and early and service.generation == attempt.generation:
            world.wrong("20", f"{what} was cancelled before the drain's limit")

    def looks(self) -> None:
        """Meters agree with what was heard."""
        for name, plan in self.world.plans.items():
            if isinstance(plan, JobPlan):
                self._meter(name)

    def _meter(self, name: str) -> None:
        runs = self.world.services[name].stats().runs  # type: ignore[attr-defined]
        counts = {status: getattr(runs, status) for status in map(str, rc.Status)}
        heard = {status: self.tally.get(name, {}).get(status, 0) for status in counts}
        begun = sum(other == name for other in self.begun.values())
        if counts != heard or runs.begun != begun or runs.in_flight != begun - sum(heard.values()):
            self.world.wrong("15", f"the meter of {name} says {runs}, and heard were {begun}, {heard}")

    def verdict(self) -> None:
        """Each run that began has ended, and all retries were counted."""
        self.looks()
        for run, name in self.begun.items():
            if run not in self.ended:
                self.world.wrong("1", f"{self.world.label(run)} of {name} never ended")
        for name, plan in self.world.plans.items():
            if not isinstance(plan, JobPlan):
                continue
            retries = sum(event.attempts - 1 for event in self.ended.values() if event.service == name)
            counted = self.world.services[name].stats().runs.retries  # type: ignore[attr-defined]
            if retries != counted:
                self.world.wrong("15", f"{name} counts {counted} retries, of {retries}")


class Calls(Judge):
    """Every call comes back in time, and with nothing but what is documented. (2, 11, 19, S6, D2, D3)"""

    def asks(self, call: Call, service: BaseService) -> Any:
        """Note what the answer will be measured by."""
        return service.state, service.generation, self._span(call, service), self._mine(call, service)

    def _mine(self, call: Call, service: BaseService) -> bool:
        """Whether the call comes from inside the work of the service that it is about."""
        if call.inside is None:
            return False
        about = call.act.target
        if call.act.op == "remove":
            return call.inside in self._below(call.act.arg[1], service)
        return call.inside in self._below(about, service)

    def _below(self, name: str, service: BaseService) -> list[str]:
        return list(self.world.under(name)) if name in self.world.services else []

    def _span(self, call: Call, service: BaseService) -> float | None:
        """How long it may take; None: as long as it likes."""
        arg, grace, hooks = call.act.arg, service._grace(), service._hooks_timeout
        match call.act.op:
            case "stop":
                span = arg if isinstance(arg, float) else float(arg[0])
                return (span or hooks) + grace
            case "kill":
                return hooks + grace
            case "remove":
                return float(arg[0]) + grace + hooks
            case "stats" | "pause" | "resume" | "trigger" | "add":
                return 0.0
            case _:
                return None

    def answered(self, call: Call, service: BaseService, kept: Any, value: Any, error: BaseException | None) -> None:
        """Judge an answer."""
        world, act = self.world, call.act
        state, generation, span, mine = kept
        what = f"{act.op}({act.target}{'' if act.arg is None else f', {act.arg}'}) from {call.inside or 'outside'}"
        took = world.now - call.begun
        if span is not None:
            span = max(span, self._span(call, service) or 0.0)  # a child may have been added
            if took > span + EPS:
                world.wrong("11", f"{what} took {took:g} s, of {span:g}")
        if mine and took > EPS and act.op in ("stop", "kill", "remove", "wait") and state.alive:
            world.wrong("19", f"{what} took {took:g} s")
        if error is not None:
            self._may_raise(call, what, error)
        elif call.cancelled is not None:
            world.wrong("2", f"{what} was cancelled, and ended with a value")
        elif isinstance(value, rc.StopReport) and act.op in ("stop", "kill"):
            self._report(call, what, service, state, generation, value)
        if call.cancelled is not None:
            self._gave_up(call, what, service, generation, state)

    def _may_raise(self, call: Call, what: str, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if call.cancelled is None and (task is None or not task.cancelling()):
                self.world.wrong("2", f"{what} raised CancelledError, and nobody had cancelled it")
            return
        allowed = MAY_RAISE.get(call.act.op, ()) + (INSIDE_TOO if call.inside is not None else ())
        if not all(isinstance(leaf, allowed) for leaf in leaves(error)):
            self.world.wrong("2", f"{what} raised {error!r}")

    def _report(
        self, call: Call, what: str, service: BaseService, state: rc.State, generation: int, report: rc.StopReport
    ) -> None:
        world = self.world
        if not report.complete:
            if call.inside is None:
                world.wrong("11", f"{what} came back before the end")
            return
        if service.generation != generation:
            return
        if not service.state.over:
            world.wrong("11", f"{what} came back, and it is {service.state}")
        if min(report.finished, report.cancelled, report.never_started) < 0:
            world.wrong("15", f"{what} reported {report}")
        if not state.alive:
            return
        told = [stuck.service for stuck in report.would_not_stop]
        for attempt in world.active:
            plan = world.plans[attempt.service]
            calling = any(other.inside == attempt.service for other in world.calls.values())  # that sees it first
            if attempt.service in told and not attempt.cuts and not getattr(plan, "plain", False) and not calling:
                other = world.services[attempt.service]
                if attempt.generation == other.generation and not other.state.alive:
                    world.wrong("S6", f"{what} tells that {attempt.service} did not stop, and it was not cancelled")
        for name in world.under(call.act.target):
            other = world.services[name]
            for attempt in world.active:
                current = attempt.generation == other.generation and not other.state.alive
                current = current and attempt.begun >= world.adopted_at.get(name, 0.0)
                plain = getattr(world.plans[name], "plain", False)
                if (
                    attempt.service == name
                    and current
                    and not plain
                    and not world.is_tainted(name)
                    and name not in told
                ):
                    world.wrong("S6", f"{what} does not tell that {name} did not stop")

    def _gave_up(self, call: Call, what: str, service: BaseService, generation: int, state: rc.State) -> None:
        world, late = self.world, 0.0
        assert call.cancelled is not None
        end = service._grace() + service._hooks_timeout
        match call.act.op:
            case "stop" | "kill" | "wait" | "remove":
                late = 0.0
            case "start":
                late = end
            case _:
                late = end + 30.0
        if world.now > call.cancelled + late + EPS:
            world.wrong("2", f"{what} was cancelled, and took {world.now - call.cancelled:g} s more")
        mine = call.act.op == "start" and not state.alive and service.generation == generation + 1
        if mine and service.state in ("starting", "running"):
            world.wrong("2", f"{what} was cancelled, and {service.name} is {service.state}")


class Ends(Judge):
    """After the end nothing is left: states, tasks, timers, places, events. (16, 18, 3, 4)"""

    def closed(self) -> None:
        """The root is over; so is all below it that nobody else has started."""
        world = self.world
        if any(act.op in ("start", "run", "use") for act in world.in_flight("start", "run", "use")):
            return
        for name in world.under(world.plan.root.name):
            service = world.services[name]
            if service.state.alive and not world.is_tainted(name):
                world.wrong("16", f"{name} is {service.state} after the end of the root")

    def verdict(self) -> None:
        """Nothing is left."""
        world = self.world
        for name, service in world.services.items():
            if service.state.alive:
                world.wrong("16", f"{name} is {service.state} at the end")
            if len(getattr(getattr(service, "outcome", None), "history", ())) > 16:
                world.wrong("4", f"{name} remembers more than 16 attempts")
        loop: Any = asyncio.get_running_loop()
        me = asyncio.current_task()
        tasks = sorted(task.get_name() for task in asyncio.all_tasks() if task is not me)
        if tasks:
            world.wrong("16", f"tasks are left: {tasks}")
        timers = [repr(timer) for timer in loop._scheduled if not timer.cancelled()]
        if timers:
            world.wrong("16", f"timers are left: {timers}")
        if world.active:
            world.wrong("16", f"attempts are left: {[attempt.service for attempt in world.active]}")
        for name, places in world.concurrency.items():
            if places.in_use or places.waiting:
                world.wrong("16", f"{name}: {places!r}")
        for name, dedupe in world.dedupe.items():
            if dedupe.in_flight:
                world.wrong("16", f"{name}: {dedupe!r}")


class Hooks(Judge):
    """Hooks that wait for the end run once for each life of the root, however it ended. (16, 21)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.since: dict[str, int] = {}
        self.lives: list[tuple[str, int]] = []

    def hear(self, name: str, event: events.Event) -> None:
        """Count the hooks of a life when it is over."""
        if not isinstance(event, events.StateChanged):
            return
        world = self.world
        if event.new == "starting":
            self.since[name] = len(world.hooks_run)
            self.lives.append((name, len(world.hooks_run)))
        if event.new not in ("stopped", "failed") or event.old == "new":
            return
        parent = world.parent(name)
        if parent is not None and parent.state.alive:
            return  # they are called when the whole tree has ended
        for below in world.under(name):
            since = max(self.since[name], world.adopted.get(below, 0))
            if any(who == below and at >= since for who, at in self.lives):
                self._count(below, since)

    def _count(self, name: str, since: int) -> None:
        for number, hook in enumerate(self.world.plans[name].hooks):
            ran = self.world.hooks_run[since:].count((name, hook.moment, number))
            if hook.moment == "stopped" and ran != 1 and not self.world.is_tainted(name):
                self.world.wrong("21", f"hook {number} of {name} ran {ran} times")


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group; of what is none, itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in leaves(one)]


def rc_now() -> float:
    """This instant, in seconds since the epoch."""
    return clock.current().now()
