"""A plan for a pool carried out: the pool, its jobs, and all that is noted of them, in the step in which it happens.

Most of it is what the simulation of queues does too, and is taken from there. What a queue's order is to that, a lap
is here: one run, as the job sees it.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from plans import Script
from pool_plans import PoolPlan, SimPlan
from queue_books import Attempt, MakingError, Res, Sick
from queue_world import World
from world import SimError, _rule

import runcrew as rc
from runcrew import clock, events
from runcrew.job import Run


@dataclass
class LapPlan:
    """What the simulation asks of whatever an attempt belongs to."""

    plain: bool
    priority: int = 0


@dataclass(eq=False)
class Lap:
    """One run."""

    number: int
    plan: LapPlan
    life: int
    #: Who does it: the task or the thread of its worker.
    key: Any
    #: Whose job it is, where each worker has one of its own.
    maker: int
    attempts: list[Attempt] = field(default_factory=list)
    #: Whether it waits for something to do; and how long it has done so.
    idling: float | None = None
    idled: float = 0.0
    #: When it last came to wait so, or to go on.
    idle_at: float | None = None
    via: str = "loop"
    inside: Any = None
    asked: float | None = None
    #: Whether its life had ended before it did: nobody waits for it any more.
    outlived: bool = False

    def __str__(self) -> str:
        return f"lap {self.number}"


class Unseen:
    """Stands for a run that its job never looks at."""

    told = cancelled = in_thread = False
    ends = limit = due = why = None
    number = 0


class Tally:
    """Middleware of the simulation's own: counts what passes, and that its runs do not overlap if they must not."""

    def __init__(self, world: PoolWorld, *, alone: bool) -> None:
        self.world, self.alone = world, alone
        self.entered = self.left = 0
        world.tallies.append(self)

    def __call__(self, handler: Any) -> Any:
        """Around a handler."""

        async def handle(run: Run) -> Any:
            if self.alone and self.entered != self.left:
                self.world.wrong("5", f"a middleware made for one worker is passed twice: {run}")
            self.entered += 1
            try:
                return await handler(run)
            finally:
                self.left += 1

        return handle


class PoolWorld(World):
    """One schedule."""

    plan: Any

    def __init__(self, plan: SimPlan, judges: Callable[[World], tuple[Any, ...]]) -> None:
        self.laps: list[Lap] = []
        self.unseen = Unseen()
        #: Runs that are known, by their numbers.
        self.known: dict[int, Lap] = {}
        self.tallies: list[Tally] = []
        self.counters: list[rc.Counter] = []
        self.timers: list[rc.Elapsed] = []
        #: Those that are outermost, and so see each run.
        self.outermost: list[rc.Counter | rc.Elapsed] = []
        #: How the lives that are over stood at their ends.
        self.lives: dict[int, Any] = {}
        self.over_at: dict[int, float] = {}
        #: How many workers there should be by now, as far as anybody but the scaling has said.
        self.target = plan.pool.first
        #: The errors that ended a life, first come, and when.
        self.fatal: dict[int, list[tuple[float, BaseException]]] = {}
        self.made = 0
        self._turn = 0
        super().__init__(plan, judges)  # type: ignore[arg-type]

    @property
    def pool(self) -> Any:
        """What is simulated."""
        return self.queue

    # --- building -------------------------------------------------------------------------

    def _build(self, plan: Any) -> Any:
        pool: PoolPlan = plan
        options: dict[str, Any] = {
            "min": pool.min, "max": pool.max, "initial": pool.initial, "stop_on_error": pool.stop_on_error,
            "backoff": None if pool.backoff is None else rc.Constant(pool.backoff),
            "max_abandoned": pool.max_abandoned,
            "backend": pool.backend, "retry": [_rule(rule) for rule in pool.rules], "timeout": pool.timeout,
            "deadline": pool.deadline, "middleware": self._layers(pool),
            "concurrency": None if pool.concurrency is None else rc.Concurrency(pool.concurrency),
            "scale": rc.Scale(0.5, window=2, wait=0.5, hold=2, cooldown=1) if pool.scales else None,
        }  # fmt: skip
        if pool.resource is not None:
            given = self.store.options()
            options |= {name: value for name, value in given.items() if not name.startswith("max_")}
        if pool.made:
            options["resource_backoff"] = rc.Constant(pool.resource_backoff)
        if pool.healthy:
            options["healthy"] = self._healthy
        if pool.hook is not None:
            options[f"on_{pool.hook}"] = functools.partial(self._hook, pool.hook)
        if pool.factory:
            options["job_factory"] = self._make_job
            made = rc.Pool(name="pool", **options)
        else:
            made = rc.Pool(self._job(0), name="pool", **options)
        # Some paths of the library are shorter where nobody hears of each run.
        few = (events.StateChanged, events.WorkerOpened, events.WorkerGone, events.OpeningFailed)
        ear = made.subscribe(lambda _: None, *(() if self.plan.seed % 3 == 0 else few))
        ear._put = self.hear  # type: ignore[method-assign]  # at once, not by a task
        return made

    def _layers(self, plan: PoolPlan) -> list[Any]:
        layers: list[Any] = []
        for name in plan.layers:
            layers.append(self._layer(name))
            first = all(kept in ("counter", "elapsed") for kept in plan.layers[: len(layers)])
            if first and isinstance(layers[-1], rc.Counter | rc.Elapsed):
                self.outermost.append(layers[-1])
        return layers

    def _layer(self, name: str) -> Any:
        match name:
            case "counter":
                self.counters.append(rc.Counter())
                return self.counters[-1]
            case "elapsed":
                self.timers.append(rc.Elapsed())
                return self.timers[-1]
            case "tally":
                return Tally(self, alone=False)
            case "each tally":
                return rc.per_worker(lambda: Tally(self, alone=True))
            case "gate":
                return rc.Pace(every=0.3)
            case "each gate":
                return rc.per_worker(lambda: rc.Pace(every=0.7))
            case "pause":
                return rc.Pace(pause=0.2)
            case "each pause":
                return rc.per_worker(lambda: rc.Pace(pause=0.4))
            case _:
                return self._grumbles

    def _grumbles(self, handler: Any) -> Any:
        """Middleware that fails now and then: before a run, and after one that has succeeded."""
        passed = 0

        async def handle(run: Run) -> Any:
            nonlocal passed
            passed += 1
            if passed % 5 == 0:
                raise SimError("the middleware fails before")
            outcome = await handler(run)
            if passed % 7 == 0 and outcome.ok:
                raise SimError("the middleware fails after")
            return outcome

        return handle

    def _job(self, maker: int) -> Any:
        gives = self.plan.pool.resource is not None
        if self.plan.pool.plain:

            def plain() -> object:
                return self.perform_plain_with(None, maker)  # type: ignore[arg-type]

            def plain_with(resource: Res) -> object:
                return self.perform_plain_with(resource, maker)  # type: ignore[arg-type]

            return plain_with if gives else plain

        async def job() -> object:
            return await self.perform_with(None, maker)  # type: ignore[arg-type]

        async def job_with(resource: Res) -> object:
            return await self.perform_with(resource, maker)  # type: ignore[arg-type]

        return job_with if gives else job

    def _make_job(self) -> Any:
        kind = self.plan.pool.factory[self.made % len(self.plan.pool.factory)]
        self.made += 1
        number = self.made
        kind = "ok" if self.store.healed else kind
        self.note("makes job", number, kind)
        match kind:
            case "error":
                raise MakingError("no job can be made")
            case "exit":
                raise SystemExit(8)
            case "wrong":
                return 3
            case "ok":
                return self._job(number)

        async def later() -> Any:
            await asyncio.sleep(0.5 if kind == "slow" else 0.0)
            return self._job(number)

        return later()

    # --- jobs -----------------------------------------------------------------------------

    def begin(self, resource: Res | None, order: Any) -> Attempt:
        """A run begins, or another attempt of it. `order`: who has made the job."""
        pool: PoolPlan = self.plan.pool
        run: Any = rc.current_run() if pool.looks else self.unseen
        key: Any = threading.current_thread() if pool.plain else asyncio.current_task()
        lap = self.known.get(run.number) if pool.looks else None
        if lap is None:
            lap = Lap(len(self.laps) + 1, LapPlan(pool.plain), self.pool.generation, key, order)
        script = pool.scripts[self._turn % len(pool.scripts)]
        self._turn += 1
        attempt = Attempt(lap, run, len(lap.attempts) + 1, self.now, script, resource)  # type: ignore[arg-type]
        self.note(lap, "attempt", attempt.number, "" if resource is None else resource)
        self.judge("begins", attempt)
        if not lap.attempts:
            self.laps.append(lap)
            if pool.looks:
                self.known[run.number] = lap
        lap.attempts.append(attempt)
        self.attempts.append(attempt)
        self.active.append(attempt)
        if resource is not None:
            self.store.use(resource, attempt)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """A run, or an attempt of it, has ended."""
        super().end(attempt)
        limits = (self.plan.pool.timeout, self.plan.pool.deadline)
        if attempt.resource is not None and any(limit is not None for limit in limits):
            attempt.resource.faulty = ""  # its time may have been up just then, and that was its end

    async def _step(self, attempt: Attempt, step: tuple[Any, ...]) -> None:
        if step[0] != "idle":
            await super()._step(attempt, step)
            return
        lap: Any = attempt.order
        lap.idle_at = self.now
        with attempt.run.idle():
            self.idles(lap)
            try:
                await asyncio.sleep(step[1])
            finally:
                self.idles_no_more(lap)

    def idles(self, lap: Lap) -> None:
        """It waits for something to do."""
        lap.idling = lap.idle_at = self.now
        self.note(lap, "idles")

    def idles_no_more(self, lap: Lap) -> None:
        """It goes on."""
        lap.idled += self.now - (self.now if lap.idling is None else lap.idling)
        lap.idling, lap.idle_at = None, self.now

    def _follow_plainly(self, attempt: Attempt) -> object:
        """What only pools know comes first, the rest as everywhere."""
        lap: Any = attempt.order
        for step in attempt.script.steps:
            if step[0] == "idle":
                lap.idle_at = self.now
                try:
                    with attempt.run.idle():
                        self.idles(lap)
                        try:
                            attempt.run.wait_cancelled(step[1])
                        finally:
                            self.idles_no_more(lap)
                except asyncio.CancelledError:
                    self._is_cut(attempt)
                    raise
            elif step[0] == "elsewhere":
                self._from_elsewhere(step[1])
        return super()._follow_plainly(attempt)

    def _from_elsewhere(self, op: str) -> None:
        """A call in the thread of a worker, where nothing but looking is allowed."""
        pool = self.pool
        if op == "stats":
            if pool.size < 0 or pool.stats().runs.in_flight < 0:
                self.wrong("15", "stats, in a thread")
            return
        try:
            if op == "stop":
                pool.stop(0).send(None)
            else:
                getattr(pool, op)(1)
        except (rc.WrongLoop, rc.ServiceStopping, rc.ServiceStopped):
            return
        except StopIteration:  # it is over by now
            return
        self.wrong("2", f"{op} went through in another thread than that of its loop")

    def _end(self, attempt: Attempt) -> object:
        match attempt.script.end:
            case "done":
                raise rc.Done
            case "stop_tree":
                raise rc.StopTree
            case "forever":  # everything comes to an end now; time has to pass all the same
                return str(attempt.order)
        return super()._end(attempt)

    # --- what has become of it ----------------------------------------------------------------

    def new_life(self) -> None:
        """The pool begins, or begins anew."""
        self.target = self.plan.pool.first

    def over(self) -> None:
        """A life has ended: nobody waits for those that have not."""
        self.lives[self.pool.generation] = self.pool.stats()
        self.over_at[self.pool.generation] = self.now
        for attempt in self.active:
            lap: Any = attempt.order
            lap.outlived = True

    def closes_life(self) -> None:
        """No run begins any more in the present life; those under way end."""
        self.asked_to_end.setdefault(self.pool.generation, self.now)

    def note(self, *what: object) -> None:
        """Put it into the trace. A start that is cancelled ends the life that it has begun, also where that ends."""
        super().note(*what)
        if what[0] == "gives up" and what[1] in ("start", "restart") and self.pool.state in ("running", "stopping"):
            self.ends_life(0.0)

    def hear(self, event: events.Event) -> None:
        """An event of the pool, in the step in which it is emitted."""
        if isinstance(event, events.StateChanged):
            if event.new == "starting":
                self.new_life()
            elif event.new in ("stopped", "failed"):
                self.over()
            elif event.new == "stopping":
                self.closes_life()
        super().hear(event)

    def is_failure(self, error: BaseException | None) -> bool:
        """Whether an error, which is the end of a run, is one of those that `stop_on_error` means."""
        plan: PoolPlan = self.plan.pool
        if error is None or isinstance(error, rc.Done | rc.StopTree):
            return False
        return not (isinstance(error, Sick) and plan.healthy and not plan.healthy_raises)


__all__ = ["Lap", "PoolWorld", "Script", "clock"]
