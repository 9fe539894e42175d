"""A plan carried out: services whose jobs follow scripts, callers from outside, and all that is noted of them.

Everything is noted in the very step in which it happens, in one list, the trace. The judges (`judges.py`) hear the
same and say what must not be. Nothing here reads real time or chance: the same plan gives the same trace.
"""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from plans import Act, ChildPlan, HookPlan, JobPlan, Plan, RulePlan, Script, ServicePlan, SupPlan, walk

import runcrew as rc
from runcrew import clock, events
from runcrew.job import Run
from runcrew.lifecycle import BaseService

EPS: Final = 1e-4


class SimError(Exception):
    """What scripts raise."""


class Alpha(SimError):
    """An error that rules may name."""


class Beta(SimError):
    """Another."""


class Unlisted(SimError):
    """An error that no rule names."""


class Cleanup(SimError):
    """Raised while a job is being cancelled."""


class HookError(SimError):
    """Raised by a hook."""


class SaysFinal(rc.NoRetry, Alpha):
    """An error that a rule names, and that says it is final."""


ERRORS: Final = {"alpha": Alpha, "beta": Beta}
ROOT_STOP: Final = 30.0


@dataclass
class Attempt:
    """One attempt, as its job saw it."""

    service: str
    run: Run
    number: int
    begun: float
    generation: int
    script: Script
    ended: float | None = None
    error: BaseException | None = None
    cancels_itself: bool = False
    #: How often its job saw a cancellation.
    cuts: int = 0


@dataclass
class Call:
    """A call of a public method that is under way, or over."""

    act: Act
    inside: str | None
    begun: float
    cancelled: float | None = None


class World:
    """One schedule."""

    def __init__(self, plan: Plan, judges: Callable[[World], tuple[Any, ...]]) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self.trace: list[str] = []
        self.wrongs: list[str] = []
        self.closing = False
        self.released = asyncio.Event()
        self.services: dict[str, BaseService] = {}
        self.plans: dict[str, ServicePlan] = {}
        self.concurrency = {name: rc.Concurrency(limit) for name, limit in plan.limits.items()}
        self.dedupe = {name: rc.Dedupe(key=functools.partial(str, name)) for name in ("one", "other")}
        self.attempts: list[Attempt] = []
        self.active: list[Attempt] = []
        self.counts: dict[str, int] = {}
        self.hooks_run: list[tuple[str, str, int]] = []
        #: Calls that are under way.
        self.calls: dict[int, Call] = {}
        self._next_call = 0
        self.runs: dict[str, str] = {}
        #: Services that somebody but their supervisor has started: their supervisor need not know of their ends.
        self.tainted: dict[str, None] = {}
        #: Lives that somebody asked to end directly: (name, generation).
        self.asked: dict[tuple[str, int], None] = {}
        #: When services were added to a tree: how many hooks had been called then, and the time.
        self.adopted: dict[str, int] = {}
        self.adopted_at: dict[str, float] = {}
        self.removals: list[tuple[str, float]] = []
        self.sunk = 0
        self.judges = judges(self)
        for tree in (plan.root, *plan.spares):
            self._build(tree)
        self.root = self.services[plan.root.name]

    # --- noting ---------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.time()

    def note(self, *what: object) -> None:
        """Put it into the trace."""
        self.trace.append(f"{self.now:.6f} {' '.join(map(str, what))}")

    def wrong(self, law: str, what: str) -> None:
        """A law is broken."""
        self.wrongs.append(f"[{law}] at {self.now:.6f}: {what}")

    def _judged(self, what: Callable[..., None], *args: Any) -> None:
        """Ask a judge from within the library, which its own mistakes must not harm."""
        try:
            what(*args)
        except Exception:
            self.wrong("judge", traceback.format_exc())

    def label(self, run: str) -> str:
        """A name for a run that is the same in every process."""
        return self.runs.setdefault(run, f"run{len(self.runs) + 1}")

    def hear(self, service: str, event: events.Event) -> None:
        """An event of a service, in the step in which it is emitted."""
        if event.service != service:
            return
        match event:
            case events.StateChanged():
                self.note(service, event.old, "->", event.new, _shown(event.error))
            case events.RunStarted():
                self.note(service, "begins", self.label(event.run), event.cause)
            case events.RunRetried():
                self.note(service, "retries", self.label(event.run), f"{event.delay:.6f}", _shown(event.error))
            case events.RunEnded():
                self.note(service, "ends", self.label(event.run), event.status, event.attempts, _shown(event.error))
            case _:
                self.note(service, type(event).__name__, *_details(event))
        for judge in self.judges:
            self._judged(judge.hear, service, event)

    def parent(self, name: str) -> rc.Supervisor | None:
        """The supervisor of a service just now."""
        return self.services[name]._parent  # type: ignore[return-value]

    def is_tainted(self, name: str | None) -> bool:
        """Whether somebody but its supervisor has started a service, or one above it."""
        while name is not None and name not in self.tainted:
            parent = self.parent(name)
            name = None if parent is None else parent.name
        return name is not None

    def under(self, name: str) -> Iterator[str]:
        """The names of a service and all below it just now."""
        yield name
        service = self.services[name]
        if isinstance(service, rc.Supervisor):
            for child in service:
                yield from self.under(child)

    def in_flight(self, *ops: str) -> Iterator[Act]:
        """The acts of these kinds that are under way."""
        return (call.act for call in self.calls.values() if call.act.op in ops)

    def started_by_hand(self, name: str) -> bool:
        """Whether the life that begins at this instant is somebody's doing, and not a supervisor's."""
        calls = [call for call in self.calls.values() if call.begun >= self.now - EPS]
        return any(call.act.op in ("start", "run", "use") and call.act.target == name for call in calls)

    # --- building -------------------------------------------------------------------------

    def _build(self, plan: ServicePlan) -> BaseService:
        service = self._supervisor(plan) if isinstance(plan, SupPlan) else self._job(plan)
        self.plans[plan.name] = plan
        self.services[plan.name] = service
        ear = service.subscribe(lambda _: None)
        ear._put = functools.partial(self.hear, plan.name)  # type: ignore[method-assign]  # at once, not by a task
        return service

    def _supervisor(self, plan: SupPlan) -> rc.Supervisor:
        options: Any = {
            "name": plan.name, "on_failure": plan.on_failure, "intensity": rc.Intensity(plan.limit, plan.period),
            "backoff": rc.Exponential(plan.backoff, cap=plan.backoff * 4, jitter="equal"),
            "keep_open": plan.keep_open, "stop_timeout": plan.stop_timeout, **self._hooks(plan),
        }  # fmt: skip
        made = rc.Crew(**options, loop_block=None) if plan.crew else rc.Supervisor(**options)
        for child in plan.children:
            self._add_to(made, child)
        return made

    def _add_to(self, supervisor: rc.Supervisor, child: ChildPlan) -> None:
        on_failure: Any = child.on_failure
        supervisor.add(self._build(child.plan), depends_on=child.depends_on, on_failure=on_failure)

    def _job(self, plan: JobPlan) -> BaseService:
        options: Any = {
            "name": plan.name, "on_failure": plan.on_failure, "retry": [_rule(rule) for rule in plan.rules],
            "timeout": plan.timeout, "deadline": plan.deadline, "delay": plan.delay,
            "concurrency": self.concurrency.get(plan.concurrency or ""), "dedupe": self.dedupe.get(plan.dedupe or ""),
            **self._hooks(plan),
        }  # fmt: skip
        fn = functools.partial(self.perform_plain if plan.plain else self.perform, plan)
        if plan.door == "oneshot":
            return rc.OneShot(fn, **options, drain=plan.drain, ready=plan.ready)  # type: ignore[arg-type]
        rhythm: Any = {"mode": plan.mode, "first": plan.first, "jitter": plan.jitter}
        return rc.Interval(fn, plan.every, **options, **rhythm)

    def _hooks(self, plan: ServicePlan) -> dict[str, Any]:
        hooks: dict[str, list[Any]] = {"stopping": [], "stopped": []}
        for number, hook in enumerate(plan.hooks):
            hooks[hook.moment].append(functools.partial(self._hook, plan.name, number, hook))
        return {
            "on_stopping": hooks["stopping"], "on_stopped": hooks["stopped"], "hooks_timeout": plan.hooks_timeout,
        }  # fmt: skip

    async def _hook(self, name: str, number: int, hook: HookPlan) -> None:
        self.hooks_run.append((name, hook.moment, number))
        self.note(name, "hook", number, hook.moment)
        await asyncio.sleep(hook.takes)
        if hook.act is not None:
            await self.call(hook.act, inside=name)
        if hook.raises:
            raise HookError(name)

    # --- jobs -----------------------------------------------------------------------------

    async def perform(self, plan: JobPlan) -> object:
        """One attempt of a job."""
        attempt = self.begin(plan)
        try:
            return await self._follow(attempt)
        except BaseException as error:
            attempt.error = error
            raise
        finally:
            self.end(attempt)

    def perform_plain(self, plan: JobPlan) -> object:
        """One attempt of a job in a thread. All waits are on virtual time."""
        attempt = self.begin(plan)
        try:
            return self._follow_plainly(attempt)
        except BaseException as error:
            attempt.error = error
            raise
        finally:
            self.end(attempt)

    def _follow_plainly(self, attempt: Attempt) -> object:
        script, run = attempt.script, attempt.run
        steps = list(reversed(script.steps))
        if script.end == "sleepy":
            steps[:0] = [("run_sleep", 1.0)] * 20
        swallowed = False
        while True:
            try:
                while steps:
                    kind, span = steps.pop()
                    if kind == "run_sleep":
                        run.sleep(span)
                    elif kind == "wait_cancelled" and run.wait_cancelled(span):
                        return "told"
                    elif kind == "ready":
                        run.ready()
                return self._end(script.end)
            except asyncio.CancelledError:
                if script.end == "cancelled" and not steps:
                    raise
                match script.on_cancel:
                    case "swallow" if not swallowed:
                        swallowed = True
                        continue
                    case "slow":
                        clock.current().block(script.cleanup)
                    case "error":
                        raise Cleanup(attempt.service) from None
                    case "listed_error":
                        raise Alpha(attempt.service) from None
                    case "value":
                        return "rescued"
                    case "deaf" | "sluggish":
                        clock.current().block(6.0)
                    case _:
                        pass
                raise

    def begin(self, plan: JobPlan) -> Attempt:
        """An attempt begins."""
        run, service = rc.current_run(), self.services[plan.name]
        count = self.counts[plan.name] = self.counts.get(plan.name, 0) + 1
        script = plan.scripts[(count - 1) % len(plan.scripts)]
        attempt = Attempt(plan.name, run, run.attempt, self.now, service.generation, script)
        self.note(plan.name, "attempt", self.label(run.id), run.attempt)
        for judge in self.judges:
            self._judged(judge.begins, attempt)
        self.attempts.append(attempt)
        self.active.append(attempt)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """An attempt has ended."""
        attempt.ended = self.now
        self.active.remove(attempt)
        self.note(attempt.service, "left", self.label(attempt.run.id), attempt.number, _shown(attempt.error))

    async def _follow(self, attempt: Attempt) -> object:
        script = attempt.script
        steps = list(reversed(script.steps))
        swallowed = False
        while True:
            try:
                while steps:
                    await self._step(attempt, steps.pop())
                if script.end == "forever":
                    await self.released.wait()
                if script.end == "self_cancel":
                    await self._cancel_myself(attempt)
                return self._end(script.end)
            except asyncio.CancelledError:
                if script.end == "cancelled" and not steps:
                    raise
                attempt.cuts += 1
                self.note(attempt.service, "cancelled", self.label(attempt.run.id))
                for judge in self.judges:
                    self._judged(judge.cancelled, attempt)
                match script.on_cancel:
                    case "swallow" if not swallowed:
                        swallowed = True
                        continue
                    case "slow":
                        await asyncio.sleep(script.cleanup)
                    case "error":
                        raise Cleanup(attempt.service) from None
                    case "listed_error":
                        raise Alpha(attempt.service) from None
                    case "value":
                        return "rescued"
                    case "deaf":
                        await self._be_deaf(attempt)
                    case "sluggish":
                        await self._be_deaf(attempt, self.now + 2 + script.cleanup)
                    case _:
                        pass
                raise

    async def _step(self, attempt: Attempt, step: tuple[Any, ...]) -> None:
        match step:
            case ("sleep", span):
                await asyncio.sleep(span)
            case ("run_sleep", span):
                await attempt.run.sleep(span)
            case ("wait_cancelled", span):
                await attempt.run.wait_cancelled(span)
            case ("ready", _):
                attempt.run.ready()
            case ("progress", span):
                attempt.run.progress(span, 4)
            case ("call", act):
                await self.call(act, inside=attempt.service)

    def _end(self, end: str) -> object:
        match end:
            case "alpha" | "beta":
                raise ERRORS[end](end)
            case "group":
                raise ExceptionGroup("several", [Alpha("a"), Beta("b")])
            case "unlisted":
                raise Unlisted(end)
            case "no_retry":
                raise SaysFinal(end)
            case "done":
                raise rc.Done
            case "stop_tree":
                raise rc.StopTree
            case "exit":
                raise SystemExit(3)
            case "keyboard":
                raise KeyboardInterrupt
            case "cancelled":
                raise asyncio.CancelledError("by itself")
            case _:
                return end

    async def _cancel_myself(self, attempt: Attempt) -> None:
        task = asyncio.current_task()
        assert task is not None
        attempt.cancels_itself = True
        task.cancel()
        await asyncio.sleep(1)

    async def _be_deaf(self, attempt: Attempt, until: float = float("inf")) -> None:
        while self.now < until and not self.released.is_set():
            try:
                async with asyncio.timeout_at(until):
                    await self.released.wait()
            except asyncio.CancelledError:
                attempt.cuts += 1
            except TimeoutError:
                return

    # --- calls ----------------------------------------------------------------------------

    async def act(self, acts: tuple[Act, ...]) -> None:
        """Somebody outside: one call after the other, each in a task of its own, that may be cancelled."""
        for act in acts:
            await asyncio.sleep(act.at)
            if self.closing:
                return
            await self.ask(act)

    async def ask(self, act: Act) -> None:
        """One call from outside."""
        call = Call(act, None, self.now)
        task = asyncio.create_task(self.call(act, record=call), name=f"{act.op}-{act.target}")
        done, _ = await asyncio.wait([task], timeout=act.patience)
        if not done and task.cancel():
            call.cancelled = self.now
            self.note("gives up", act.op, act.target)
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def call(self, act: Act, *, inside: str | None = None, record: Call | None = None) -> None:
        """Carry out one call, and have it judged."""
        call = Call(act, inside, self.now) if record is None else record
        if self.closing and inside is not None and act.op in ("start", "run", "use", "add"):
            return
        self._next_call += 1
        number = self._next_call
        self.calls[number] = call
        self.note("calls", number, act.op, act.target, act.arg or "", "" if inside is None else f"inside {inside}")
        service = self.services[act.target]
        self._mark(act, service)
        before = [judge.asks(call, service) for judge in self.judges]
        value: Any = None
        error: BaseException | None = None
        try:
            value = await self._do(act, service)
        except BaseException as raised:
            error = raised
        del self.calls[number]
        self.note("answer", number, "" if value is None else type(value).__name__, _shown(error))
        if act.op == "add" and error is None and value is not None:
            self.adopted |= dict.fromkeys(self.under(act.arg[0]), len(self.hooks_run))
            self.adopted_at |= dict.fromkeys(self.under(act.arg[0]), self.now)
        for judge, kept in zip(self.judges, before, strict=True):
            judge.answered(call, service, kept, value, error)
        if isinstance(error, asyncio.CancelledError):
            raise error
        if error is not None and not isinstance(error, Exception):
            raise error

    def _mark(self, act: Act, service: BaseService) -> None:
        if act.op in ("start", "run", "use") and service._parent is not None:
            self.tainted[act.target] = None
        if act.op in ("stop", "kill", "run", "use", "start"):
            self.asked[act.target, service.generation] = None
        if act.op in ("run", "use", "start"):  # cancelling it, or leaving the block, ends the life that it begins
            self.asked[act.target, service.generation + 1] = None
        if act.op == "remove":
            self.removals.append((act.arg[1], self.now))
            if act.arg[1] in self.services:
                self.asked[act.arg[1], self.services[act.arg[1]].generation] = None

    async def _do(self, act: Act, service: Any) -> object:
        match act.op:
            case "start" | "kill" | "wait" | "run":
                return await getattr(service, act.op)()
            case "stop":
                return await service.stop(act.arg if isinstance(act.arg, float) else act.arg[0])
            case "use":
                async with service:
                    await asyncio.sleep(0.5)
                return None
            case "stats":
                return service.stats()
            case "pause" | "resume" | "trigger" if isinstance(service, rc.Interval):
                return getattr(service, act.op)()
            case "add" if isinstance(service, rc.Supervisor):
                name, needs, on_failure = act.arg
                return service.add(self.services[name], depends_on=needs, on_failure=on_failure)
            case "remove" if isinstance(service, rc.Supervisor):
                return await service.remove(act.arg[1], act.arg[0])
        return None

    # --- the course of things ---------------------------------------------------------------

    async def live(self) -> None:
        """From the start of the root to the end of everything."""
        self._sink()
        runner = asyncio.create_task(self.call(Act("run" if self.plan.end == "cancel" else "start", self.root.name)))
        actors = [asyncio.create_task(self.act(acts)) for acts in self.plan.actors]
        inspector = asyncio.create_task(self._inspect())
        await asyncio.sleep(self.plan.horizon)
        self.closing = True
        self.note("closing")
        match self.plan.end:
            case "cancel" if not runner.done():
                runner.cancel()
                await self._in_time(runner, ROOT_STOP + self.root._grace() + self.root._hooks_timeout)
            case "kill":
                await self.ask(Act("kill", self.root.name))
            case _:
                await self.ask(Act("stop", self.root.name, self.plan.patience))
        for judge in self.judges:
            judge.closed()
        await self._stop_the_rest()
        self.released.set()
        inspector.cancel()
        await self._in_time([runner, inspector, *actors], 60.0)
        await self._settle()
        for judge in self.judges:
            judge.verdict()

    async def _in_time(self, tasks: Any, span: float) -> None:
        tasks = tasks if isinstance(tasks, list) else [tasks]
        _, late = await asyncio.wait(tasks, timeout=span + EPS)
        for task in tasks:
            if task in late:
                self.wrong("2", f"{task.get_name()} does not come back; under way: {list(self.in_flight_names())}")
            elif not task.cancelled() and task.exception() is not None:
                self.wrong("2", f"{task.get_name()} raised {task.exception()!r}")

    def in_flight_names(self) -> Iterator[str]:
        """What is under way, in words."""
        return (f"{call.act.op} {call.act.target} since {call.begun:g}" for call in self.calls.values())

    async def _stop_the_rest(self) -> None:
        """What somebody started, removed or never added."""
        for _ in range(4):
            alive = [name for name, service in self.services.items() if service.state.alive]
            for name in alive:
                await self.ask(Act("stop", name, 1.0))

    async def _settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        if any(not getattr(self.plans[attempt.service], "plain", False) for attempt in self.active):
            await asyncio.sleep(10.0)
        for _ in range(300):
            if not self.active:
                break
            clock.SYSTEM.block(0.001)  # threads that were given up go on in real time, and time does not wait for them
            await asyncio.sleep(0.1)
        await events.flush(service.hub for service in self.services.values())
        for _ in range(10):
            await asyncio.sleep(0)

    async def _inspect(self) -> None:
        """Look at everything now and then, between two steps of everybody else."""
        while True:
            await asyncio.sleep(self.plan.horizon / 7.3)
            for judge in self.judges:
                judge.looks()

    def _sink(self) -> None:
        async def slow(_: events.Event) -> None:
            self.sunk += 1
            await asyncio.sleep(0.01)
            if self.sunk % 7 == 0:
                raise SimError("a sink that fails")

        if self.plan.seed % 3 == 0:
            self.root.subscribe(slow, events.StateChanged, events.RunEnded)


def _rule(plan: RulePlan) -> rc.Retry:
    retries = rc.UNLIMITED if plan.retries is None else plan.retries
    backoff: Any = rc.Constant(plan.delay)
    if plan.jitter == "full" and plan.delay:
        backoff = rc.Exponential(plan.delay, cap=plan.delay * 4, jitter="equal")
    return rc.Retry(
        *(ERRORS[name] for name in plan.errors), retries=retries, backoff=backoff, name="|".join(plan.errors)
    )


def _shown(error: BaseException | None) -> str:
    if error is None:
        return ""
    if isinstance(error, BaseExceptionGroup):
        return f"group({', '.join(map(_shown, error.exceptions))})"
    return type(error).__name__


def _details(event: events.Event) -> Iterator[str]:
    for name in ("count", "child", "delay", "hook", "moment"):
        if hasattr(event, name):
            value = getattr(event, name)
            yield f"{value:.6f}" if isinstance(value, float) else str(value)


@contextmanager
def small_backlog(size: int) -> Iterator[None]:
    """Let no more than `size` events wait for a sink."""
    before, events.BACKLOG = events.BACKLOG, size  # type: ignore[misc]
    try:
        yield
    finally:
        events.BACKLOG = before  # type: ignore[misc]


__all__ = ["EPS", "Attempt", "Call", "SimError", "World", "clock", "small_backlog", "walk"]
