"""Random plans for one queue, made from a seed: how it is built, what its jobs and resources do, who calls what, when.

A plan is data. The same seed gives the same plan, on every version of Python and in every process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from plans import Act, RulePlan, Script, Step

#: Ends of a script, and how often each is drawn. "sick": an error that calls the worker's resource faulty.
ENDS: Final = (
    *(("return",) * 12), *(("alpha",) * 2), "beta", "unlisted", *(("sick",) * 3), "group", "no_retry",
    "exit", "cancelled", "self_cancel", "forever",
)  # fmt: skip
ON_CANCEL: Final = ("go", "go", "go", "slow", "swallow", "error", "listed_error", "sick_error", "value", "exit")
SUBMISSIONS: Final = ("submit", "submit", "submit", "submit_nowait", "submit_nowait", "run", "run_now")
SEVERAL: Final = ("submit_many", "map")


@dataclass(frozen=True)
class OrderPlan:
    """One job as it is submitted: what its attempts do, one script after the other, and its options."""

    scripts: tuple[Script, ...]
    plain: bool = False
    priority: int = 0
    timeout: float | None = None
    deadline: float | None = None
    delay: float | None = None
    at_most_once: bool = False
    rules: tuple[RulePlan, ...] | None = None


@dataclass(frozen=True)
class MakingPlan:
    """How one resource is made, and what becomes of it."""

    takes: float = 0.0
    #: "ok", "error", "exit", "type_error", or "hang", which only a cancellation ends.
    end: str = "ok"
    leaves: float = 0.0
    #: "ok", "error" or "exit"; what it takes is spent all the same.
    leave_end: str = "ok"
    #: The number of the borrowing at which its check says no (False) or raises; 0: never.
    bad_after: int = 0
    bad_raises: bool = False
    check_takes: float = 0.0


@dataclass(frozen=True)
class ResourcePlan:
    """How the resources of a queue are given, and the course of each that is made."""

    kind: str
    plain: bool
    makings: tuple[MakingPlan, ...]
    check: bool = False
    max_idle: float | None = None
    max_age: float | None = None


@dataclass(frozen=True)
class QueuePlan:
    """A queue's construction."""

    resource: ResourcePlan | None
    workers: int
    max_workers: int
    spares: int
    max_spares: int
    maxsize: int
    overflow: str
    requeue: int
    requeue_backoff: float
    backoff: float
    max_wait: float
    max_abandoned: int
    healthy: bool
    healthy_raises: bool
    backend: str | None
    rules: tuple[RulePlan, ...]
    timeout: float | None
    deadline: float | None
    hook: str | None
    collects: bool


@dataclass(frozen=True)
class SimPlan:
    """A whole schedule."""

    seed: int
    queue: QueuePlan
    actors: tuple[tuple[Act, ...], ...]
    horizon: float
    #: Nobody meddles, and every opening succeeds: what becomes of each order is known beforehand.
    calm: bool
    threads: bool
    #: How it ends: "quiet" (once everything has come to rest), "stop", "kill", "cancel" (of whoever lives in its
    #: `async with`), "teardown" (of the whole loop, in the middle).
    end: str
    patience: float


class Maker:
    """Makes one plan."""

    def __init__(self, seed: int, *, threads: bool = False) -> None:
        self.seed = seed
        self.threads = threads
        self.chance = random.Random(seed)
        self.calm = self.maybe(0.2)
        #: Whether anything raises what is no Exception, or cancels itself: half of the schedules do without.
        self.wild = self.maybe(0.5)
        self.resource: ResourcePlan | None = None
        self.depth = 0

    def maybe(self, share: float) -> bool:
        """True in about this share of cases."""
        return self.chance.random() < share

    def pick(self, *options: Any) -> Any:
        """One of these."""
        return self.chance.choice(options)

    def span(self, most: float) -> float:
        """A span up to `most`, often on a coarse grid, so that instants coincide."""
        if self.maybe(0.2):
            return 0.0
        if self.maybe(0.7):
            return round(self.chance.uniform(0, most) * 4) / 4
        return round(self.chance.uniform(0, most), 3)

    # --- the whole ----------------------------------------------------------------------

    def plan(self) -> SimPlan:
        """A plan for the seed."""
        self.resource = self._resource() if self.maybe(0.7) else None
        queue = self._queue()
        horizon = self.pick(2.0, 5.0, 10.0, 20.0)
        actors = tuple(self._actor(queue, horizon) for _ in range(self.pick(1, 2, 2, 3, 4)))
        ends = ["quiet", "quiet", "quiet", "stop", "stop", "kill", "cancel"] + ([] if self.threads else ["teardown"])
        return SimPlan(
            self.seed, queue, actors, horizon, self.calm, self.threads,
            end="quiet" if self.calm else self.chance.choice(ends), patience=self.pick(0.0, 0.5, 2.0, 10.0, 30.0),
        )  # fmt: skip

    def _queue(self) -> QueuePlan:
        workers = self.pick(1, 1, 2, 2, 3)
        spares = self.pick(0, 0, 1, 2)
        narrow = not self.calm and self.maybe(0.5)
        checks = self.resource is not None and self.resource.check
        return QueuePlan(
            self.resource, workers, workers + self.pick(0, 0, 1, 2), spares, spares + self.pick(0, 1, 2),
            maxsize=self.pick(0, 1, 2, 3) if narrow else 100_000,
            overflow=self.pick("wait", "wait", "reject", "drop_oldest", "drop_newest"),
            requeue=self.pick(0, 1, 3), requeue_backoff=self.pick(0.0, 0.1, 1.0), backoff=self.pick(0.1, 1.0),
            max_wait=self.pick(1.0, 30.0, 30.0), max_abandoned=self.pick(0, 1, 2),
            healthy=self.resource is not None or self.maybe(0.3), healthy_raises=not self.calm and self.maybe(0.05),
            backend=self.pick(None, None, "loop") if not (self.threads or checks) else None,
            rules=tuple(self._rule() for _ in range(self.pick(0, 0, 1))),
            timeout=self.pick(1.0, 3.0) if self.maybe(0.15) and not self.calm else None,
            deadline=self.pick(2.0, 6.0) if self.maybe(0.1) and not self.calm else None,
            hook=self.pick(None, None, "stopping", "stopped"), collects=self.maybe(0.5),
        )  # fmt: skip

    def _resource(self) -> ResourcePlan:
        # An async resource needs async jobs, and a plain one plain jobs, in the thread of their worker.
        kind = self.pick("generator", "generator", "managed", "creator")
        calm = ResourcePlan(kind, self.threads, tuple(self._making() for _ in range(self.pick(1, 2, 4))))
        if self.calm:
            return calm
        check = self.maybe(0.4)
        return ResourcePlan(
            calm.kind, calm.plain, calm.makings, check,
            max_idle=self.pick(0.5, 2.0) if self.maybe(0.2) else None,
            max_age=self.pick(1.0, 5.0) if self.maybe(0.2) else None,
        )  # fmt: skip

    def _making(self) -> MakingPlan:
        takes, leaves = (0.0 if self.maybe(0.5) else self.span(2) for _ in range(2))
        if self.calm:
            return MakingPlan(takes, "ok", leaves)
        bad = self.pick(1, 2, 3) if self.maybe(0.3) else 0
        errors = ["error", "error", "type_error"] + (["exit"] if self.wild else []) + ([] if self.threads else ["hang"])
        return MakingPlan(
            takes, self.chance.choice(errors) if self.maybe(0.25) else "ok",
            leaves, self.pick("error", "exit" if self.wild else "error") if self.maybe(0.15) else "ok",
            bad, self.maybe(0.3), self.pick(0.0, 0.0, 0.25),
        )  # fmt: skip

    # --- jobs -----------------------------------------------------------------------------

    def _rule(self) -> RulePlan:
        errors = self.pick(("alpha",), ("beta",), ("alpha", "beta"))
        return RulePlan(errors, self.pick(0, 1, 2), self.pick(0.0, 0.25, 1.0))

    def order(self) -> OrderPlan:
        """One job."""
        self.depth += 1
        try:
            return self._order()
        finally:
            self.depth -= 1

    def _order(self) -> OrderPlan:
        plain = self.threads and (self.maybe(0.7) or (self.resource is not None and self.resource.plain))
        limited, once = not self.calm, self.maybe(0.15)
        return OrderPlan(
            tuple(self._script(plain) for _ in range(self.pick(1, 1, 2, 4))), plain,
            priority=self.pick(0, 0, 0, 0, 10, -10, 3),
            timeout=self.pick(0.0, 0.25, 1.0, 3.0) if limited and self.maybe(0.15) else None,
            deadline=self.pick(0.0, 0.5, 2.0, 6.0) if limited and self.maybe(0.12) else None,
            delay=self.pick(0.0, 0.25, 1.0, 3.0) if self.maybe(0.12) else None,
            at_most_once=once,
            rules=tuple(self._rule() for _ in range(self.pick(0, 1, 2))) if self.maybe(0.3) and not once else None,
        )  # fmt: skip

    def _script(self, plain: bool) -> Script:
        steps = tuple(self._step(plain) for _ in range(self.pick(0, 0, 1, 1, 2)))
        end, on_cancel = self.chance.choice(ENDS), self.chance.choice(ON_CANCEL)
        if not self.wild:
            end = "return" if end in ("exit", "cancelled", "self_cancel") else end
            on_cancel = "go" if on_cancel == "exit" else on_cancel
        if (plain or self.calm) and end in ("forever", "self_cancel"):
            end = "return"
        if not self.calm and self.maybe(0.04):
            on_cancel = "sluggish"
        return Script(steps, end, on_cancel, self.span(2))

    def _step(self, plain: bool) -> Step:
        if plain:
            return (self.pick("run_sleep", "run_sleep", "wait_cancelled", "block"), self.span(2))
        kind = self.pick("sleep", "sleep", "sleep", "run_sleep", "wait_cancelled", "call")
        if kind == "call" and not self.calm and self.depth < 3:
            return ("call", self._inside_act())
        return ("sleep" if kind == "call" else kind, self.span(3))

    def _inside_act(self) -> Act:
        op = self.pick(
            "submit", "submit", "submit_nowait", "run", "run_now", "await", "cancel", "cancel", "cancel_me", "stop",
            "kill", "resize", "more", "less", "stats", "wait", "start", "submit_many", "cancel_task",
        )  # fmt: skip
        return Act(op, "queue", self._arg(op), 0.0)

    # --- outside ----------------------------------------------------------------------------

    def _arg(self, op: str) -> Any:
        match op:
            case "submit" | "submit_nowait" | "run" | "run_now":
                return self.order()
            case "submit_many" | "map":
                many = self.pick(0, 1, 3, 6) if op == "submit_many" else self.pick(1, 4, 8)
                taken = self.pick(None, None, 0, 1, 2) if op == "map" else None
                options = (self.maybe(0.6), self.pick(None, 1, 2, 4), self.maybe(0.5), taken, self.maybe(0.5))
                return tuple(self.order() for _ in range(many)), options
            case "stop":
                return self.pick(0.0, 0.5, 2.0, 10.0, 30.0)
            case "resize":
                return self.pick(1, 1, 2, 3, 4, 5, 0), self.maybe(0.5)
            case "more":
                return self.pick(1, 1, 2), self.maybe(0.5)
            case "less":
                return self.pick(1, 1, 2), self.maybe(0.5), self.pick("after_current", "now")
            case "cancel" | "await" | "cancel_task":
                return self.pick(*range(12))
        return None

    def _actor(self, queue: QueuePlan, horizon: float) -> tuple[Act, ...]:
        calls = [*SUBMISSIONS, *SUBMISSIONS, *SUBMISSIONS, *SEVERAL]
        if not self.calm:
            calls += [
                "cancel", "cancel", "cancel", "await", "resize", "resize", "more", "less", "less", "stats", "wait",
                "start",
            ]  # fmt: skip
            if self.maybe(0.3):
                calls += ["stop", "kill", "start", "start", "restart", "restart"]
            if self.maybe(0.15):
                calls += ["cancel_task", "cancel_task"]
        acts = []
        for _ in range(self.pick(2, 4, 8, 14)):
            op = self.chance.choice(calls)
            patience = None if self.calm else self.span(4) if self.maybe(0.25) else None
            gap = 0.0 if self.maybe(0.4) else self.span(horizon / 6)
            acts.append(Act(op, "queue", self._arg(op), gap, patience))
        return tuple(acts)


def make(seed: int, *, threads: bool = False) -> SimPlan:
    """The plan of a seed. threads: whether resources and some of the jobs are plain functions."""
    return Maker(seed, threads=threads).plan()
