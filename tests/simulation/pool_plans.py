"""Random plans for one pool, made from a seed: how it is built, what its jobs and resources do, who calls what, when.

A plan is data. The same seed gives the same plan, on every version of Python and in every process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from plans import Act, RulePlan, Script, Step
from queue_plans import Maker as QueueMaker
from queue_plans import ResourcePlan

#: What the calls of a `job_factory` do, one after the other. "wrong": what it gives is no job.
FACTORY: Final = ("ok", "ok", "ok", "async", "async", "slow", "error", "exit")
#: Middleware, the outermost first. "tally" is the simulation's own; what begins with "each" is made for each worker.
LAYERS: Final[tuple[tuple[str, ...], ...]] = (
    ("counter",), ("elapsed",), ("counter", "elapsed"), ("tally",), ("tally", "counter"), ("tally", "elapsed"),
    ("counter", "tally", "counter", "elapsed"), ("each tally",), ("each tally", "counter"), ("gate",), ("pause",),
    ("each gate",), ("each pause", "counter"), ("counter", "gate"), ("tally", "grumbles"),
)  # fmt: skip
#: These need nothing but what the pool counts anyway.
PLAIN_LAYERS: Final = ((), (), (), ("counter",), ("elapsed",), ("counter", "elapsed"))


@dataclass(frozen=True)
class PoolPlan:
    """A pool's construction."""

    resource: ResourcePlan | None
    #: What its `job_factory` does; empty: there is none.
    factory: tuple[str, ...]
    #: What the runs do, one after the other, whoever does them.
    scripts: tuple[Script, ...]
    plain: bool
    #: Whether its jobs ever look at their run.
    looks: bool
    min: int
    max: int | None
    initial: int | None
    stop_on_error: bool
    healthy: bool
    healthy_raises: bool
    backoff: float | None
    resource_backoff: float
    max_abandoned: int | None
    backend: str | None
    rules: tuple[RulePlan, ...]
    timeout: float | None
    deadline: float | None
    concurrency: int | None
    layers: tuple[str, ...]
    scales: bool
    hook: str | None

    @property
    def bare(self) -> bool:
        """Whether nothing is around a run that could keep it from its job, or give it another end."""
        limits = (self.timeout, self.deadline, self.concurrency)
        kept = all(layer in ("counter", "elapsed") for layer in self.layers)
        return not self.rules and all(limit is None for limit in limits) and kept

    @property
    def checks(self) -> bool:
        """Whether resources are tried before each run."""
        return self.resource is not None and self.resource.check

    @property
    def made(self) -> bool:
        """Whether a worker comes with something that has to be made."""
        return self.resource is not None or bool(self.factory)

    @property
    def first(self) -> int:
        """How many workers it begins with."""
        return max(1, self.min) if self.initial is None else self.initial


@dataclass(frozen=True)
class SimPlan:
    """A whole schedule."""

    seed: int
    pool: PoolPlan
    actors: tuple[tuple[Act, ...], ...]
    horizon: float
    #: Nobody meddles or stops it, and every opening succeeds.
    calm: bool
    threads: bool
    #: How it ends: "quiet" (once everything has come to rest), "stop", "kill", "cancel" (of whoever lives in its
    #: `async with`), "teardown" (of the whole loop, in the middle).
    end: str
    patience: float

    @property
    def queue(self) -> PoolPlan:
        """What is simulated, by the name that the parts know which all simulations share."""
        return self.pool


class Maker(QueueMaker):
    """Makes one plan."""

    def __init__(self, seed: int, *, threads: bool = False) -> None:
        super().__init__(seed, threads=threads)
        self.looks = self.maybe(0.6)
        self.simple = self.maybe(0.6)
        self.pool_plan: PoolPlan | None = None

    def plan(self) -> Any:
        """A plan for the seed."""
        self.resource = self._of_pools(self._resource()) if self.maybe(0.4) else None
        pool = self._pool()
        self.pool_plan = pool
        horizon = self.pick(2.0, 5.0, 10.0, 15.0)
        actors = tuple(self._actor_of_pool(horizon) for _ in range(self.pick(1, 2, 2, 3, 4)))
        ends = ["quiet", "quiet", "quiet", "stop", "stop", "kill", "cancel"] + ([] if self.threads else ["teardown"])
        return SimPlan(
            self.seed, pool, actors, horizon, self.calm, self.threads,
            end="quiet" if self.calm else self.chance.choice(ends), patience=self.pick(0.0, 0.5, 2.0, 10.0, 30.0),
        )  # fmt: skip

    @staticmethod
    def _of_pools(resource: ResourcePlan) -> ResourcePlan:
        return replace(resource, max_idle=None, max_age=None)

    def _pool(self) -> PoolPlan:
        least = self.pick(0, 0, 0, 1, 2)
        most = None if self.maybe(0.15) else least + self.pick(1, 1, 2, 3, 4)
        first = self.pick(None, None, least, least + 1, 0 if least == 0 else least, most or 5)
        factory = () if self.resource is not None or not self.maybe(0.3) else self._factory()
        plain = self.threads and (self.maybe(0.8) or self.resource is not None)
        scripts = self._scripts(plain)
        grows = any(step[0] == "call" and step[1].op == "more" for script in scripts for step in script.steps)
        if grows and most is None:
            most = least + 5  # or there would be ever more
        backend = None if self.threads or self.resource is not None else self.pick(None, None, "loop")
        hard = not self.simple and not self.calm
        return PoolPlan(
            self.resource, factory, scripts, plain, self.looks,
            min=least, max=most, initial=first if first is None or most is None or first <= most else most,
            stop_on_error=not self.calm and self.maybe(0.2),
            healthy=self.resource is not None and self.maybe(0.7), healthy_raises=not self.calm and self.maybe(0.05),
            backoff=self.pick(None, 0.0, 0.125, 0.5, 1.0), resource_backoff=self.pick(0.1, 1.0),
            max_abandoned=self.pick(None, 0, 1, 2), backend=backend,
            rules=tuple(self._rule() for _ in range(self.pick(0, 1, 2))) if not self.simple else (),
            timeout=self.pick(0.25, 1.0, 3.0) if hard and self.maybe(0.3) and not (backend and plain) else None,
            deadline=self.pick(0.5, 2.0, 6.0) if hard and self.maybe(0.15) else None,
            concurrency=self.pick(1, 2) if hard and self.maybe(0.15) else None,
            layers=self.chance.choice(PLAIN_LAYERS if self.simple else LAYERS),
            scales=not self.calm and most is not None and most > max(1, least) and self.maybe(0.15),
            hook=self.pick(None, None, "stopping", "stopped"),
        )  # fmt: skip

    def _factory(self) -> tuple[str, ...]:
        if self.calm:
            return tuple(self.pick("ok", "async", "slow") for _ in range(2))
        made = [self.chance.choice(FACTORY) for _ in range(self.pick(1, 2, 4, 6))]
        if not self.wild:
            made = ["error" if one == "exit" else one for one in made]
        if all(one in ("error", "exit") for one in made):
            made.append("ok")
        if self.maybe(0.03):
            made.append("wrong")
        return tuple(made)

    # --- jobs -----------------------------------------------------------------------------

    def _scripts(self, plain: bool) -> tuple[Script, ...]:
        """At least one of them takes time, whatever its end: else time would never pass."""
        made = [self._script(plain) for _ in range(self.pick(1, 2, 3, 5, 7))]
        quick = self.pick(0, 0, 0, 1, 3, 12)
        made += [Script((), self.pick("return", "return", "alpha")) for _ in range(quick)]
        span = self.pick(0.25, 0.5, 0.5, 1.0, 1.03, 2.0)
        slow = self._script(plain)
        made.append(replace(slow, steps=(("block" if plain else "sleep", span), *slow.steps)))
        self.chance.shuffle(made)
        return tuple(made)

    def _script(self, plain: bool) -> Script:
        script = super()._script(plain)
        if not self.calm and self.maybe(0.012):
            return replace(script, end=self.pick("done", "stop_tree"))
        if script.end == "forever" and self.maybe(0.5):
            return replace(script, end="return")
        return script

    def _step(self, plain: bool) -> Step:
        if not self.looks:
            return ("block" if plain else "sleep", self.span(2))
        if self.maybe(0.2):
            return ("idle", self.span(4))
        if plain and self.maybe(0.1):
            return ("elsewhere", self.pick("stats", "more", "less", "resize", "stop"))
        return super()._step(plain)

    def _inside_act(self) -> Act:
        op = self.pick("more", "more", "less", "less", "resize", "resize", "stats", "stop", "kill", "wait", "start",
                       "restart", "cancel_task")  # fmt: skip
        if op in ("stop", "kill", "restart", "cancel_task") and self.maybe(0.6):
            op = "stats"
        return Act(op, "pool", self._arg(op), 0.0)

    # --- outside ----------------------------------------------------------------------------

    def _arg(self, op: str) -> Any:
        match op:
            case "resize":
                return self.pick(0, 0, 1, 1, 2, 3, 4, 5, 9), self.maybe(0.5)
            case "restart":
                return self.pick(0.0, 0.5, 1.0, 2.0)
        return super()._arg(op)

    def _actor_of_pool(self, horizon: float) -> tuple[Act, ...]:
        calls = ["more", "more", "more", "less", "less", "less", "resize", "resize", "resize", "stats", "pause"]
        if not self.calm:
            calls += ["wait", "start"]
            if self.maybe(0.35):
                calls += ["stop", "kill", "start", "start", "restart", "restart", "stop_kill"]
            if self.maybe(0.15):
                calls += ["cancel_task", "cancel_task"]
        acts: list[Act] = []
        for _ in range(self.pick(2, 4, 8, 14)):
            op = self.chance.choice(calls)
            patience = None if self.calm else self.span(4) if self.maybe(0.25) else None
            gap = 0.0 if self.maybe(0.4) else self.span(horizon / 6)
            if op == "pause":  # and on again, at once or a little later
                acts.append(Act("resize", "pool", (0, self.maybe(0.4)), gap, self.span(1)))
                acts.append(Act("more", "pool", self._arg("more"), self.pick(0.0, 0.0, 0.1, 1.0), patience))
            elif op == "stop_kill":
                acts.append(Act("stop", "pool", self._arg("stop"), gap, self.span(1)))
                acts.append(Act("kill", "pool", None, self.pick(0.0, 0.1), patience))
            else:
                acts.append(Act(op, "pool", self._arg(op), gap, patience))
        return tuple(acts)


def make(seed: int, *, threads: bool = False) -> SimPlan:
    """The plan of a seed. threads: whether resources and most jobs are plain functions."""
    plan: SimPlan = Maker(seed, threads=threads).plan()
    return plan
