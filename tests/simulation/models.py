"""Judges with a model of their own for what is decided: ticks, retries, restarts. They compute it once more, apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from judges import Judge, leaves, rc_now
from plans import JobPlan, RulePlan, SupPlan
from world import EPS, Alpha, Attempt, Beta, Call, World

import runcrew as rc
from runcrew import events
from runcrew.lifecycle import BaseService


@dataclass
class Rhythm:
    """The ticks of one life of an interval. Instants in epoch seconds."""

    anchor: float
    last: int = -1
    missed: int = 0
    busy: bool = False
    ended: float | None = None
    #: When it was paused; and the spans in which ticks were let pass since the last one.
    paused: float | None = None
    passed: list[tuple[float, float]] = field(default_factory=list)
    run_since: float = 0.0
    run: str = ""


class Ticks(Judge):
    """Each due instant of an interval is run, pending or counted as missed, and runs begin on time. (13)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.rhythms: dict[str, Rhythm] = {}

    def hear(self, name: str, event: events.Event) -> None:
        """Follow the ticks."""
        plan = self.world.plans[name]
        if not isinstance(plan, JobPlan) or plan.door != "interval":
            return
        match event:
            case events.StateChanged(new="starting"):
                self.rhythms[name] = Rhythm(self._anchor(plan, event.at))
            case events.StateChanged(new="stopping"):
                self.rhythms.pop(name, None)
            case events.RunStarted() if name in self.rhythms:
                rhythm = self.rhythms[name]
                if event.cause == "tick":
                    self._tick(plan, rhythm, event.at)
                rhythm.busy, rhythm.run_since, rhythm.run = True, event.at, event.run
            case events.RunEnded() if name in self.rhythms and self.rhythms[name].run == event.run:
                rhythm = self.rhythms[name]
                rhythm.busy, rhythm.ended = False, event.at
                if rhythm.paused is not None:
                    rhythm.passed.append((rhythm.run_since, event.at))
            case events.TicksMissed() if name in self.rhythms:
                self.rhythms[name].missed += event.count

    def _anchor(self, plan: JobPlan, now: float) -> float:
        now += plan.delay or 0.0
        match plan.first:
            case "now":
                return now
            case "after":
                return now + plan.every
            case _:
                return math.ceil(now / plan.every - 1e-9) * plan.every

    def _tick(self, plan: JobPlan, rhythm: Rhythm, at: float) -> None:
        world = self.world
        if rhythm.busy:
            world.wrong("13", f"{plan.name} ticks while it is busy")
        if rhythm.paused is not None:
            world.wrong("13", f"{plan.name} ticks while it is paused")
        free = -math.inf if rhythm.ended is None else rhythm.ended
        paused = bool(rhythm.passed)
        resumed = max((end for _, end in rhythm.passed), default=-math.inf)
        if plan.mode == "delay":
            due = rhythm.anchor if rhythm.ended is None else rhythm.ended + plan.every
        else:
            due = self._due(plan, rhythm, at)
        first, last = max(due, free), max(due + (plan.jitter or 0.0), free, resumed)
        if plan.mode == "delay" and paused:
            first, last = -math.inf, math.inf
        if not first - EPS <= at <= last + EPS:
            world.wrong("13", f"{plan.name} ticks at {at:.4f}, and not in {first:.4f}..{last:.4f}")
        rhythm.missed, rhythm.passed = 0, []

    def _due(self, plan: JobPlan, rhythm: Rhythm, at: float) -> float:
        """When the tick that begins now was due; checks that none before it was dropped."""

        def grid(index: int) -> float:
            return rhythm.anchor + index * plan.every

        index = rhythm.last + 1 + rhythm.missed
        if rhythm.passed:
            index = max(index, math.floor((at - rhythm.anchor) / plan.every + 1e-3))
        passed = range(rhythm.last + 1, index)
        wait = EPS + (plan.jitter or 0.0)  # a tick that waited for its jitter when the pause came is let pass too
        lost = [i for i in passed if not any(a - wait <= grid(i) <= b + EPS for a, b in rhythm.passed)]
        if len(lost) > rhythm.missed:
            self.world.wrong("13", f"{plan.name} dropped the ticks {lost}, and told {rhythm.missed}")
        newest = math.floor((at - rhythm.anchor) / plan.every + 1e-3)
        if not plan.jitter and index < newest and abs(at - grid(newest)) > EPS:
            self.world.wrong("13", f"{plan.name} runs tick {index}, and {newest} is due")
        rhythm.last = index
        return grid(index)

    def answered(self, call: Call, service: BaseService, kept: Any, value: Any, error: BaseException | None) -> None:
        """Note a pause and its end."""
        rhythm = self.rhythms.get(call.act.target)
        if rhythm is None:
            return
        now = rc_now()
        if call.act.op == "pause" and rhythm.paused is None:
            rhythm.paused = now
        if call.act.op == "resume" and rhythm.paused is not None:
            rhythm.passed.append((rhythm.paused, now))
            if rhythm.busy:
                rhythm.passed.append((rhythm.run_since, now))
            rhythm.paused = None

    def looks(self) -> None:
        """An interval that is idle has told of all ticks that were due, and waits for the next."""
        now = rc_now()
        for name, rhythm in self.rhythms.items():
            plan: Any = self.world.plans[name]
            if rhythm.busy or rhythm.paused is not None:
                continue
            stats: Any = self.world.services[name].stats()  # type: ignore[attr-defined]
            if stats.next_at is None or stats.next_at.timestamp() + (plan.jitter or 0.0) < now - EPS:
                self.world.wrong("13", f"{name} is idle at {now:.4f}, and its next tick is at {stats.next_at}")


class Retries(Judge):
    """Budgets add up, waits are as the rules say, and what is final is final. (12, T1-T4)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.spent: dict[str, dict[str, int]] = {}
        self.unsure: dict[str, None] = {}
        self.waits: dict[str, events.RunRetried] = {}
        self.latest: dict[str, Attempt] = {}
        self.retried: dict[str, int] = {}
        self.life: dict[str, tuple[object, int]] = {}
        self.failed: dict[str, float] = {}

    def _rule(self, plan: JobPlan, error: BaseException | None) -> RulePlan | None:
        if error is None or isinstance(error, rc.NoRetry):
            return None
        for rule in plan.rules:
            listed = tuple({"alpha": Alpha, "beta": Beta}[name] for name in rule.errors)
            if all(isinstance(leaf, listed) for leaf in leaves(error)):
                return rule
        if isinstance(error, BaseExceptionGroup):
            rules = [self._rule(plan, leaf) for leaf in leaves(error)]
            if None not in rules:
                return next(rule for rule in plan.rules if rule in rules)
        return None

    def begins(self, attempt: Attempt) -> None:
        """An attempt after the first follows an error that a rule names, after that rule's wait."""
        world, run = self.world, attempt.run
        plan: Any = world.plans[attempt.service]
        before = self.latest.get(run.id)
        self.latest[run.id] = attempt
        if before is None:
            return
        what = f"attempt {run.attempt} of {world.label(run.id)} of {plan.name}"
        retried = self.waits.get(run.id)
        if run.attempt <= before.number or retried is None:
            world.wrong("T3", f"{what} follows {before.number}, and nobody decided so")
        elif plan.concurrency is None and abs(rc_now() - retried.at - retried.delay) > EPS:
            world.wrong("T2", f"{what} begins {rc_now() - retried.at:g} s after the last, and not {retried.delay:g}")

    def hear(self, name: str, event: events.Event) -> None:
        """Charge the rules."""
        match event:
            case events.StateChanged(new="starting"):
                parent = self.world.parent(name)
                life = (parent, 0 if parent is None else parent.generation)
                if self.life.get(name) != life or parent is None or self.world.started_by_hand(name):
                    self.spent[name] = {}
                    self.unsure.pop(name, None)
                if self.failed.get(name) == self.world.now:
                    self.unsure[name] = None  # started by hand before its supervisor had heard of the failure
                self.life[name] = life
            case events.StateChanged(new="failed"):
                self.failed[name] = self.world.now
            case events.RunStarted() if self.world.parent(name) is None:
                self.spent[name] = {}  # nobody keeps its retry state from run to run
            case events.RunRetried():
                self._charge(name, event)
            case events.RunEnded():
                self._ended(name, event)

    def answered(self, call: Call, service: BaseService, kept: Any, value: Any, error: BaseException | None) -> None:
        """A child that is added anew has spent nothing."""
        if call.act.op == "add" and value is not None:
            self.life.pop(call.act.arg[0], None)

    def _charge(self, name: str, event: events.RunRetried) -> None:
        world = self.world
        plan: Any = world.plans[name]
        self.waits[event.run] = event
        self.retried[event.run] = self.retried.get(event.run, 0) + 1
        rule = self._rule(plan, event.error)
        what = f"{world.label(event.run)} of {name}, retried for {event.error!r}"
        if rule is None:
            world.wrong("T3", f"{what}: no rule names that")
            return
        spent = self.spent[name]
        key = "|".join(rule.errors)
        spent[key] = spent.get(key, 0) + 1
        if rule.retries is not None and spent[key] > self._budget(plan, key):
            world.wrong("12", f"{what}: {spent[key]} of {self._budget(plan, key)}")
        most = rule.delay * (4 if rule.jitter == "full" else 1)
        if not 0 <= event.delay <= most + EPS:
            world.wrong("T2", f"{what}: waits {event.delay:g} s, of {most:g}")

    def _budget(self, plan: JobPlan, key: str) -> float:
        """Rules that are written twice have a budget each."""
        same = [rule for rule in plan.rules if "|".join(rule.errors) == key]
        return math.inf if any(rule.retries is None for rule in same) else sum(rule.retries or 0 for rule in same)

    def _ended(self, name: str, event: events.RunEnded) -> None:
        plan: Any = self.world.plans[name]
        attempt = self.latest.get(event.run)
        if event.status == "succeeded":
            if event.reason:
                self.unsure[name] = None  # it said Done: what it had spent stays spent
            else:
                self.spent[name] = {}
                self.unsure.pop(name, None)
            return
        if event.status != "failed" or attempt is None or plan.deadline is not None or name in self.unsure:
            return
        if event.error is not attempt.error or attempt.run.why is not None:
            return
        if any(one.cancels_itself for one in self.world.attempts if one.run is attempt.run):
            return  # it asked for its own end
        key_rule = self._rule(plan, event.error)
        if key_rule is None:
            return
        key = "|".join(key_rule.errors)
        first = next(rule for rule in plan.rules if "|".join(rule.errors) == key)
        if self.spent[name].get(key, 0) < (math.inf if first.retries is None else first.retries):
            self.world.wrong("12", f"{self.world.label(event.run)} of {name} gave up early: {self.spent[name]}")


@dataclass
class Failure:
    """A child has failed, while its supervisor lived."""

    parent: str
    child: str
    at: float
    policy: str
    error: BaseException | None
    #: Whether the supervisor still had a choice.
    open: bool
    restarted: bool = False
    judged: bool = False


class Restarts(Judge):
    """Who is restarted, how often, and which errors come out of the supervisor. (21, S2-S5)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.failures: list[Failure] = []
        self.buckets: dict[tuple[str, str], tuple[float, float]] = {}
        self.stopped: dict[str, float] = {}
        self.done: dict[str, None] = {}

    def hear(self, name: str, event: events.Event) -> None:
        """Follow failures and what comes of them."""
        self._settle()
        match event:
            case events.StateChanged(new="starting") if isinstance(self.world.plans[name], SupPlan):
                self.failures = [failure for failure in self.failures if failure.parent != name]
                self.buckets = {key: kept for key, kept in self.buckets.items() if key[0] != name}
                self.stopped.pop(name, None)
            case events.StateChanged(new="stopping"):
                self.stopped[name] = self.world.now
            case events.StateChanged(new="failed"):
                self._failed(name, event)
            case events.Restarted():
                self._restarted(name, event)
            case _:
                pass
        over = isinstance(event, events.StateChanged) and event.old == "stopping"
        if over and isinstance(self.world.plans[name], SupPlan):
            self._over(name, event)

    def _failed(self, name: str, event: events.StateChanged) -> None:
        parent = self.world.parent(name)
        if parent is None or not parent.state.alive or name in self.world.tainted:
            return
        kept: Any = parent._children[name]
        still = parent.state in ("starting", "running")
        self.failures.append(Failure(parent.name, name, self.world.now, kept.on_failure, event.error, still))

    def _restarted(self, name: str, event: events.Restarted) -> None:
        world, plan = self.world, self.world.plans[name]
        assert isinstance(plan, SupPlan)
        if event.child in world.tainted:
            return
        mine = [f for f in self.failures if (f.parent, f.child) == (name, event.child)]
        if not mine or mine[-1].at < world.now - EPS or mine[-1].restarted:
            world.wrong("S4", f"{name} restarts {event.child}, which has not failed")
            return
        failure = mine[-1]
        failure.restarted = True
        if failure.policy != "restart" or not failure.open:
            world.wrong("S3", f"{name} restarts {event.child}, whose failure is to {failure.policy}")
        if isinstance(getattr(failure.error, "__cause__", None), KeyboardInterrupt):
            world.wrong("S3", f"{name} restarts {event.child} after a KeyboardInterrupt")
        if self._count(plan, failure) > plan.limit + 1e-6:
            world.wrong("S2", f"{name} restarts {event.child} more than {plan.limit} times in {plan.period:g} s")
        if not 0 <= event.delay <= plan.backoff * 4 + EPS:
            world.wrong("T2", f"{name} restarts {event.child} after {event.delay:g} s")

    def _count(self, plan: SupPlan, failure: Failure) -> float:
        count, since = self.buckets.get((failure.parent, failure.child), (0.0, failure.at))
        count = max(0.0, count - (failure.at - since) * plan.limit / plan.period) + 1
        self.buckets[failure.parent, failure.child] = count, failure.at
        return count

    def _settle(self) -> None:
        """Judge what was left open at an instant that has passed."""
        now = self.world.now
        for failure in self.failures:
            if not failure.judged and failure.at < now - EPS:
                failure.judged = True
                if failure.open:
                    self._judge(failure)

    def _judge(self, failure: Failure) -> None:
        world = self.world
        plan = world.plans[failure.parent]
        assert isinstance(plan, SupPlan)
        removed = any(name == failure.child and at <= failure.at + EPS for name, at in world.removals)
        stopped = self.stopped.get(failure.parent) is not None
        what = f"{failure.child} failed in {failure.parent} at {failure.at:g}, to {failure.policy}"
        if removed or failure.restarted or stopped or failure.child in world.tainted:
            return
        if failure.policy == "stop":
            world.wrong("S3", f"{what}, and it goes on")
        if failure.policy == "restart":
            # Both are possible: it should have been started again, or the supervisor should have given up.
            world.wrong("S5", f"{what}, and was neither started again nor given up")

    def _over(self, name: str, event: Any) -> None:
        world = self.world
        mine = [f for f in self.failures if f.parent == name and not f.restarted]
        if isinstance(event.error, rc.ConfigError) or any(child in world.tainted for child in world.services):
            return
        group = event.error
        told = list(group.exceptions) if isinstance(group, BaseExceptionGroup) else []
        # A failure that a restart would have answered, had no stop come first, is not a permanent one.
        missing = [f for f in mine if f.policy != "restart" and not any(f.error is error for error in told)]
        extra = [error for error in told if not any(f.error is error for f in mine)]
        if missing or extra:
            world.wrong("21", f"{name} tells {told}, and there were {[(f.child, f.error) for f in mine]}")
        when = [next((f.at for f in mine if f.error is error), 0.0) for error in told]
        if when != sorted(when):
            world.wrong("21", f"{name} tells its errors in another order than they came")

    def verdict(self) -> None:
        """A job that asked for the end of the tree has got it."""
        self._settle()


class Trees(Judge):
    """`StopTree` stops everything up to the root, and is no failure. (S3)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        #: Who asked, when, and the lives of those above then.
        self.asked: list[tuple[str, float, dict[str, int], bool]] = []

    def hear(self, name: str, event: events.Event) -> None:
        """Note who asks, and look at those before."""
        self._settle()
        if not isinstance(event, events.RunEnded) or self.world.is_tainted(name):
            return
        attempts = [attempt for attempt in self.world.attempts if attempt.run.id == event.run]
        if attempts and isinstance(attempts[-1].error, rc.StopTree) and event.status == "succeeded":
            lives = {above.name: above.generation for above in self.world.services[name]._ancestors()}
            self.asked.append((name, self.world.now, lives, False))

    def _settle(self) -> None:
        """Whoever is above has begun to stop in that instant, and once it has ended, those above it."""
        world = self.world
        due = [asked for asked in self.asked if asked[1] < world.now - EPS]
        self.asked = [asked for asked in self.asked if asked not in due]
        for name, _, lives, over in due:
            parent = world.parent(name)
            if not over:  # its hooks may not be through yet; from the instant in which it has ended, those above know
                self.asked.append((name, world.now, lives, not world.services[name].state.alive))
                continue
            if parent is None or lives.get(parent.name) != parent.generation or world.is_tainted(name):
                continue
            if parent.state in ("starting", "running"):
                world.wrong("S3", f"{parent.name} is {parent.state}, and {name} has asked for the end of the tree")
            else:
                self.asked.append((parent.name, world.now, lives, False))
