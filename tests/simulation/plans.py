"""Random plans, made from a seed: a tree of services, what their jobs do, and who calls what, when.

A plan is data. The same seed gives the same plan, on every version of Python and in every process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, TypeAlias

#: One thing that a job does: ("sleep", 1.0), ("run_sleep", 1.0), ("wait_cancelled", 1.0), ("ready",), ("call", Act).
Step: TypeAlias = tuple[Any, ...]

#: Ends of a script that raise an error. Rules may name the listed ones; what is no Exception is never retried.
LISTED = ("alpha", "beta")
ERRORS = (*LISTED, "unlisted", "group")
FINAL = ("no_retry", "exit", "cancelled", "self_cancel", "keyboard")


@dataclass(frozen=True)
class Act:
    """A call of a public method, `at` seconds after the act before it, cancelled after `patience` seconds."""

    op: str
    target: str
    arg: Any = None
    at: float = 0.0
    patience: float | None = None


@dataclass(frozen=True)
class Script:
    """What one attempt of a job does, how it ends, and how it takes a cancellation."""

    steps: tuple[Step, ...]
    end: str
    on_cancel: str = "go"
    cleanup: float = 0.0


@dataclass(frozen=True)
class RulePlan:
    """A retry rule."""

    errors: tuple[str, ...]
    retries: int | None
    delay: float
    jitter: str = "none"


@dataclass(frozen=True)
class HookPlan:
    """A hook: how long it takes, whether it raises, what it calls."""

    moment: str
    takes: float
    raises: bool = False
    act: Act | None = None


@dataclass(frozen=True)
class JobPlan:
    """A OneShot or an Interval; `plain`: its job runs in a thread."""

    name: str
    door: str
    scripts: tuple[Script, ...]
    plain: bool = False
    rules: tuple[RulePlan, ...] = ()
    timeout: float | None = None
    deadline: float | None = None
    concurrency: str | None = None
    dedupe: str | None = None
    delay: float | None = None
    on_failure: str = "stop"
    drain: str = "cancel"
    ready: str = "started"
    every: float = 1.0
    mode: str = "rate"
    first: str = "now"
    jitter: float | None = None
    hooks: tuple[HookPlan, ...] = ()
    hooks_timeout: float = 5.0


@dataclass(frozen=True)
class ChildPlan:
    """A child, and what its supervisor is told of it."""

    plan: JobPlan | SupPlan
    depends_on: tuple[str, ...] = ()
    on_failure: str | None = None


@dataclass(frozen=True)
class SupPlan:
    """A Supervisor, or a Crew."""

    name: str
    children: tuple[ChildPlan, ...]
    crew: bool = False
    on_failure: str = "stop"
    limit: int = 5
    period: float = 60.0
    backoff: float = 1.0
    keep_open: bool = False
    stop_timeout: float = 30.0
    hooks: tuple[HookPlan, ...] = ()
    hooks_timeout: float = 5.0


ServicePlan: TypeAlias = JobPlan | SupPlan


@dataclass(frozen=True)
class Plan:
    """A whole schedule."""

    seed: int
    root: ServicePlan
    spares: tuple[ServicePlan, ...]
    actors: tuple[tuple[Act, ...], ...]
    horizon: float
    #: How the root is ended: "stop", "kill" or "cancel" (of a task that runs it); and within how long.
    end: str = "stop"
    patience: float = 30.0
    #: How many events may wait for a slow sink.
    backlog: int = 10_000
    limits: dict[str, int] = field(default_factory=dict)


def walk(plan: ServicePlan) -> list[ServicePlan]:
    """The services of a tree, from the root down, in the order of adding."""
    below = [service for child in plan.children for service in walk(child.plan)] if isinstance(plan, SupPlan) else []
    return [plan, *below]


class Maker:
    """Makes one plan."""

    def __init__(self, seed: int, *, threads: bool = False) -> None:
        self.seed = seed
        self.threads = threads
        self.chance = random.Random(seed)
        #: Names are drawn first, so that jobs can call what is made after them.
        self.names: list[str] = []
        self.counts = {"job": 0, "sup": 0}
        #: Some schedules are calm: nobody inside or outside meddles, so that what follows from what is known exactly.
        self.calm = self.maybe(0.3)

    def maybe(self, share: float) -> bool:
        """True in about this share of cases."""
        return self.chance.random() < share

    def pick(self, *options: Any) -> Any:
        """One of these."""
        return self.chance.choice(options)

    def span(self, most: float) -> float:
        """A span up to `most`, often on a coarse grid, so that instants coincide."""
        if self.maybe(0.15):
            return 0.0
        if self.maybe(0.7):
            return round(self.chance.uniform(0, most) * 4) / 4
        return round(self.chance.uniform(0, most), 3)

    # --- the whole ----------------------------------------------------------------------

    def plan(self) -> Plan:
        """A plan for the seed."""
        shape = self._shape(1 if self.maybe(0.12) else 3)
        spare_shape: list[Any] = [self._name("job") for _ in range(self.pick(0, 1, 2))]
        if self.maybe(0.3):
            spare_shape.append([self._name("sup"), [self._name("job")]])
        root = self._service(shape)
        spares = tuple(self._service(one) for one in spare_shape)
        horizon = self.pick(3.0, 10.0, 20.0, 40.0)
        actors = () if self.calm else tuple(self._actor(root, spares, horizon) for _ in range(self.pick(0, 1, 1, 2, 3)))
        return Plan(
            self.seed, root, spares, actors, horizon,
            end=self.pick("stop", "stop", "stop", "kill", "cancel"),
            patience=self.pick(0.0, 0.5, 2.0, 10.0, 30.0),
            backlog=self.pick(3, 10_000, 10_000),
            limits={"desk": self.pick(1, 2), "door": self.pick(1, 3)},
        )  # fmt: skip

    def _name(self, kind: str) -> str:
        self.counts[kind] += 1
        name = f"{kind}{self.counts[kind]}"
        self.names.append(name)
        return name

    def _shape(self, depth: int) -> Any:
        """Names, nested as the tree is: a job is a string, a supervisor a list of its name and its children."""
        if depth == 1 or (depth < 3 and self.maybe(0.65)):
            return self._name("job")
        name = self._name("sup")
        many = self.pick(1, 2, 2, 3, 4) if depth == 3 else self.pick(1, 2)
        return [name, [self._shape(depth - 1) for _ in range(many)]]

    def _service(self, shape: Any) -> ServicePlan:
        return self._job(shape) if isinstance(shape, str) else self._supervisor(shape[0], shape[1])

    def _supervisor(self, name: str, shapes: list[Any]) -> SupPlan:
        children: list[ChildPlan] = []
        for shape in shapes:
            before = [child.plan.name for child in children]
            needs = tuple(other for other in before if self.maybe(0.3))
            override = self.pick("stop", "isolate", "restart") if self.maybe(0.3) else None
            children.append(ChildPlan(self._service(shape), needs, override))
        return SupPlan(
            name, tuple(children), crew=self.maybe(0.2),
            on_failure=self.pick("stop", "isolate", "restart"),
            limit=self.pick(0, 1, 2, 5), period=self.pick(2.0, 10.0, 60.0), backoff=self.pick(0.25, 1.0, 3.0),
            keep_open=self.maybe(0.3), stop_timeout=self.pick(0.0, 1.0, 5.0, 30.0),
            hooks=self._hooks(), hooks_timeout=self.pick(0.5, 2.0, 5.0),
        )  # fmt: skip

    # --- jobs -----------------------------------------------------------------------------

    def _job(self, name: str) -> JobPlan:
        door = self.pick("oneshot", "interval")
        every = self.pick(0.5, 1.0, 2.5, 7.0, 0.3)
        plain = self.threads and self.maybe(0.6)
        rules = tuple(self._rule() for _ in range(self.pick(0, 0, 1, 1, 1)))
        if self.maybe(0.25):  # two budgets, and a job that spends both
            rules = (self._rule(("alpha",)), self._rule(("beta",)))
        return JobPlan(
            name, door, tuple(self._script(door, plain) for _ in range(self.pick(1, 2, 3))), plain, rules,
            timeout=self.pick(0.25, 1.0, 3.0) if self.maybe(0.25) else None,
            deadline=self.pick(0.5, 2.0, 6.0) if self.maybe(0.2) else None,
            concurrency=self.pick("desk", "door") if self.maybe(0.25) else None,
            dedupe=self.pick("one", "other") if self.maybe(0.15) else None,
            delay=self.span(3) if self.maybe(0.2) else None,
            on_failure=self.pick("stop", "isolate", "restart", "restart"),
            drain=self.pick("cancel", "cancel", "finish"),
            ready=self.pick("started", "started", "succeeded", "signal"),
            every=every,
            mode=self.pick("rate", "rate", "delay"),
            first=self.pick("now", "now", "after", "aligned"),
            jitter=self.pick(0.1, 0.25) if self.maybe(0.2) else None,
            hooks=self._hooks(), hooks_timeout=self.pick(0.5, 2.0, 5.0),
        )  # fmt: skip

    def _rule(self, errors: tuple[str, ...] = ()) -> RulePlan:
        errors = errors or self.pick(("alpha",), ("beta",), ("alpha", "beta"))
        unlimited = self.maybe(0.2)
        delay = self.pick(0.25, 0.5, 1.0, 2.0) if unlimited or self.maybe(0.8) else 0.0
        return RulePlan(errors, None if unlimited else self.pick(0, 1, 2, 4), delay, self.pick("none", "none", "full"))

    def _script(self, door: str, plain: bool) -> Script:
        steps = tuple(self._step(plain) for _ in range(self.pick(0, 1, 1, 2, 3)))
        ends = ["return"] * (8 if door == "interval" else 4) + list(ERRORS) + list(LISTED) * 2
        ends += ["forever"] if door == "interval" else ["forever"] * 6
        if self.maybe(0.35):
            ends = [*FINAL, "done", "stop_tree", "done"]
        end = self.chance.choice(ends)
        if plain and end in ("forever", "self_cancel"):
            end = "sleepy"
        on_cancel = self.pick("go", "go", "go", "slow", "swallow", "error", "listed_error", "value")
        if self.maybe(0.08):
            on_cancel = self.pick("deaf", "sluggish")
        return Script(steps, end, on_cancel, self.span(3))

    def _step(self, plain: bool) -> Step:
        if plain:
            return (self.pick("run_sleep", "run_sleep", "wait_cancelled", "ready", "progress"), self.span(2))
        kind = self.pick("sleep", "sleep", "sleep", "run_sleep", "wait_cancelled", "ready", "progress", "call", "call")
        if kind == "call" and (self.calm or self.maybe(0.5)):
            kind = "sleep"
        if kind == "call":
            return ("call", self._inside_act())
        return (kind, self.span(4))

    def _inside_act(self) -> Act:
        op = self.pick("stop", "kill", "start", "wait", "run", "stats", "trigger", "pause", "resume", "add", "remove")
        return Act(op, self.chance.choice(self.names), self._arg(op))

    def _hooks(self) -> tuple[HookPlan, ...]:
        if not self.maybe(0.3):
            return ()
        return tuple(
            HookPlan(
                self.pick("stopping", "stopped"), self.span(1.5), self.maybe(0.2),
                self._inside_act() if not self.calm and self.maybe(0.2) else None,
            )
            for _ in range(self.pick(1, 2))
        )  # fmt: skip

    # --- outside ----------------------------------------------------------------------------

    def _arg(self, op: str) -> Any:
        if op in ("stop", "remove"):
            return self.pick(0.0, 0.5, 2.0, 10.0, 30.0), self.chance.choice(self.names)
        if op == "add":
            needs = (self.chance.choice(self.names),) if self.maybe(0.4) else ()
            return self.chance.choice(self.names), needs, self.pick(None, "stop", "isolate", "restart")
        return None

    def _actor(self, root: ServicePlan, spares: tuple[ServicePlan, ...], horizon: float) -> tuple[Act, ...]:
        plans = [one for tree in (root, *spares) for one in walk(tree)]
        intervals = [one.name for one in plans if isinstance(one, JobPlan) and one.door == "interval"]
        supervisors = [one.name for one in plans if isinstance(one, SupPlan)]
        fresh = [one.name for one in spares]
        acts = []
        for _ in range(self.pick(1, 2, 4, 6)):
            op = self.pick(
                "stop", "stop", "kill", "wait", "wait", "start", "start", "run", "use", "trigger", "pause", "resume",
                "add", "add", "remove", "remove", "stats",
            )  # fmt: skip
            # Whole trees are ended less often than parts of them, or little would be left to look at.
            target = self.chance.choice(self.names) if self.maybe(0.8) else root.name
            if op in ("stop", "kill") and target == root.name and self.maybe(0.6):
                target = self.chance.choice(self.names)
            if op in ("trigger", "pause", "resume") and intervals:
                target = self.chance.choice(intervals)
            arg = self._arg(op)
            if op in ("add", "remove") and supervisors and self.maybe(0.9):
                target = self.chance.choice(supervisors)
            if op == "add" and fresh and self.maybe(0.8):
                arg = (self.chance.choice(fresh), *arg[1:])
            patience = self.span(5) if self.maybe(0.5 if op in ("wait", "run", "start", "use") else 0.2) else None
            acts.append(Act(op, target, arg, self.span(horizon / 3), patience))
            if op == "pause" and self.maybe(0.7):
                acts.append(Act("resume", target, None, self.span(4)))
        return tuple(acts)


def make(seed: int, *, threads: bool = False) -> Plan:
    """The plan of a seed. threads: whether some of the jobs are plain functions."""
    return Maker(seed, threads=threads).plan()
