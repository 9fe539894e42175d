"""Who judges a schedule of a pool. The laws are numbered as the invariants of the library are."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pool_plans import PoolPlan
from pool_world import Lap, PoolWorld
from queue_books import Attempt, Res
from queue_judges import Judge as AnyJudge
from world import EPS

import runcrew as rc
from runcrew import events
from runcrew.lifecycle.service import GRACE
from runcrew.workers.worker import ABANDONED, BUSY, CLOSING, LEAVING, Worker

INFINITE: Final = float("inf")
#: How long a loop that may be on its way down is waited for, before anything is begun on it again.
PATIENCE: Final = 11.0
#: How long anything may take that a simulated resource does, and jobs that cannot be cut at once.
TAKES: Final = 8.0
#: Where runs end at once, and no time passes, the pool lets some of it pass, so that virtual time goes on at all.
STILL: Final = 0.05


class Judge(AnyJudge):
    """Hears everything; a subclass looks at what it understands."""

    world: PoolWorld

    @property
    def plan(self) -> PoolPlan:
        """How the pool is built."""
        plan: PoolPlan = self.world.plan.pool
        return plan

    @property
    def group(self) -> Any:
        """The book of the workers of this life."""
        return self.world.pool.floor.group

    def worker_of(self, lap: Lap) -> Worker | None:
        """Who does it, as far as the pool knows."""
        floor = self.world.pool.floor
        for worker in list(floor.group.roster):
            thread = None if worker.thread is None else worker.thread.ident
            if (worker.task is not None and worker.task is lap.key) or (
                thread is not None and thread == getattr(lap.key, "ident", None)
            ):
                found: Worker = worker
                return found
        return None

    def lap_of(self, attempt: Attempt) -> Lap:
        """The run that an attempt is part of."""
        lap: Any = attempt.order
        assert isinstance(lap, Lap)
        return lap

    def given_up(self, lap: Lap) -> bool:
        """Whether it has gone on for so long after it was cut that nobody waits for it."""
        cuts = [attempt for attempt in lap.attempts if attempt.cut is not None]
        late = [self.world.now if one.ended is None else one.ended for one in cuts]
        return lap.outlived or any(end >= (one.cut or 0.0) + GRACE - EPS for one, end in zip(cuts, late, strict=True))

    @property
    def undisturbed(self) -> bool:
        """Whether nobody has cancelled what is not theirs so far."""
        return self.world.meddled is None and not self.world.torn


class Begins(Judge):
    """No run begins after its worker was told to leave, after a stop, or in a pause; none beside itself. (5, 10)"""

    def begins(self, attempt: Attempt) -> None:
        """Look at whose run it is."""
        world, lap = self.world, self.lap_of(attempt)
        what = f"{lap}, attempt {attempt.number},"
        if world.torn:
            return
        beside = [self.lap_of(other) for other in world.active]
        for other in beside:
            if other.key is lap.key or (lap.maker and other.maker == lap.maker and not other.outlived):
                world.wrong("5", f"{what} begins beside {other}, in the same worker")
        self._in_time(what, lap)
        most = INFINITE if self.plan.max is None else self.plan.max
        ours = {id(other.key): None for other in beside if other.life == lap.life and not self._given_up(other)}
        if len(ours) >= most:
            world.wrong("5", f"{what} begins beside {len(ours)} others, of {most} at most")

    def _given_up(self, lap: Lap) -> bool:
        if lap.outlived:
            return True
        worker = self.worker_of(lap)
        return worker is None or worker.state is ABANDONED

    def _in_time(self, what: str, lap: Lap) -> None:
        world, pool = self.world, self.world.pool
        late = EPS if self.plan.plain or self.plan.checks else -EPS  # a thread may have begun just when it was told
        late += 0.25 if self.plan.checks else 0.0
        if pool.state.over or pool.generation != lap.life:
            world.wrong("10", f"{what} begins in life {pool.generation} of the pool, which is {pool.state}")
        elif world.now > world.asked_to_end.get(lap.life, INFINITE) + late and not pool.floor.open:
            world.wrong("10", f"{what} begins after the pool was asked to end")
        elif self.plan.plain or self.plan.checks:  # that is the beginning of a run, and takes its time
            return
        elif not pool.floor.open:
            world.wrong("10", f"{what} begins, and the pool takes no more")
        elif (worker := self.worker_of(lap)) is None:
            world.wrong("10", f"{what} begins without a worker")
        elif worker.state is not BUSY:
            world.wrong("10", f"{what} begins, and its worker is {worker.state}")
        elif not pool.size:
            world.wrong("10", f"{what} begins in a pause")

    def leaves(self, attempt: Attempt) -> None:
        """Who says that the pool is to end is heard."""
        world, lap, error = self.world, self.lap_of(attempt), attempt.error
        if lap.life != world.pool.generation or lap.outlived or not self.plan.bare or world.torn:
            return
        if isinstance(error, rc.Done | rc.StopTree):
            world.closes_life()

    def looks(self) -> None:
        """None goes on in a pause but those that were under way."""
        world, pool = self.world, self.world.pool
        if pool.size or world.torn or pool.floor is None:
            return
        for worker in self.group.roster:
            if worker.state is BUSY:
                world.wrong("10", f"a worker is busy in a pause: {worker}")


class Cuts(Judge):
    """Whatever is cancelled was asked to end, and a drain does not ask that before its limit. (10, 11, 20)"""

    def cancelled(self, attempt: Attempt) -> None:
        """A job sees a CancelledError that it has not raised."""
        if self.undisturbed and attempt.cut is None and not self._may_end(attempt):
            self.world.wrong("20", f"{attempt.order} was cancelled, and nobody asked for it")

    def cut_again(self, attempt: Attempt) -> None:
        """Who cleans up is left alone until the stop gives it up, and nobody here takes as long as that."""
        limits = self.plan.timeout is not None or self.plan.deadline is not None
        idled = (
            self.lap_of(attempt).idle_at is not None
        )  # that was asked to end when it had nothing to do, and is cut now
        if self.undisturbed and not attempt.cancels_itself and not limits and not idled:
            self.world.wrong("20", f"{attempt.order} was cancelled again while it cleaned up")

    def _may_end(self, attempt: Attempt) -> bool:
        world, lap, plan = self.world, self.lap_of(attempt), self.plan
        if lap.life != world.pool.generation or attempt.cancels_itself or world.may_be_cut(lap):  # type: ignore[arg-type]
            return True
        if world.pool.error is not None:
            return True
        if plan.deadline is not None and not plan.looks:
            return True  # it counts from when the run began, which may have waited before it came to its job
        spans = [span for span in (plan.timeout, plan.deadline) if span is not None]
        checked = 0.25 if plan.checks else 0.0  # that is part of an attempt
        if any(world.now >= attempt.begun + span - checked - EPS for span in spans):
            return True
        if plan.deadline is not None and attempt.run.due is not None and world.now >= self._due(attempt) - EPS:
            return True
        if world.reduced is not None and (plan.plain or abs(world.now - world.reduced) < EPS):
            return True
        if plan.plain and lap.idle_at is not None:
            return True  # it was told while it waited; when its thread comes to see that is another matter
        idles = lap.idle_at is not None and world.now <= lap.idle_at + EPS
        worker = self.worker_of(lap)
        return idles and (worker is None or worker.state is LEAVING or lap.life in world.asked_to_end)

    def _due(self, attempt: Attempt) -> float:
        due = attempt.run.due
        return INFINITE if due is None else self.world.since_begun(due)

    def leaves(self, attempt: Attempt) -> None:
        """A limit is kept; and the token of a run is live as long as nobody asked it to end."""
        world, lap, plan = self.world, self.lap_of(attempt), self.plan
        timeout = plan.timeout
        late = timeout is not None and world.now > attempt.begun + timeout + EPS
        if late and attempt.cut is None and not plan.plain and not attempt.cancels_itself:
            world.wrong("11", f"{lap} ran for {world.now - attempt.begun:g} s of {timeout}, and was not cut")
        if attempt.run.told and self.undisturbed and attempt.cut is None and not self._may_end(attempt):
            world.wrong("20", f"{lap} was told to end, and nobody asked for it")


class Pauses(Judge):
    """A run follows at once after one that succeeded, and after a pause when they fail one after another. (3, 6)"""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        #: By worker: how many failed in a row, when the last one ended, and whether that is all that we know.
        self.since: dict[Any, tuple[int, float]] = {}

    def begins(self, attempt: Attempt) -> None:
        """When has the one before it ended?"""
        world, lap = self.world, self.lap_of(attempt)
        if not self.plan.bare or self.plan.checks or not self.undisturbed or lap.key not in self.since:
            return
        if any(other.cancels_itself for other in world.attempts):
            return  # that ends a task, and another one goes on where it was
        if self.plan.plain and any(other.outlived for other in world.laps):
            return  # threads that were given up go on in real time
        in_a_row, ended = self.since[lap.key]
        backoff = self.plan.backoff
        pause = backoff if backoff is not None and in_a_row >= 2 else 0.0
        if not -EPS <= world.now - ended - pause <= STILL:
            world.wrong("3", f"{lap} begins {world.now - ended:g} s after {in_a_row} failures, and not after {pause}")

    def leaves(self, attempt: Attempt) -> None:
        """Note how it has ended."""
        lap, good = self.lap_of(attempt), attempt.error is None
        in_a_row, _ = self.since.get(lap.key, (0, 0.0))
        self.since[lap.key] = 0 if good else in_a_row + 1, self.world.now


class Together(Judge):
    """Never more workers or resources at once than the maximum; the number is what it should be. (5, 6, 15)"""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        #: Since when there are too few.
        self.short: float | None = None
        #: Whether any was ever given up.
        self.abandoned = False

    def hear(self, event: events.Event) -> None:
        """Each change of a worker is an occasion to count."""
        if self.world.pool.floor is not None and not isinstance(event, events.StateChanged):
            self._counts()
        if isinstance(event, events.WorkerOpened | events.WorkerGone | events.OpeningFailed):
            self.short = None  # something is being done

    def begins(self, attempt: Attempt) -> None:
        """So is each run."""
        if not self.plan.plain and not self.world.torn:
            self._counts()

    def opens(self, resource: Res) -> None:
        """Count the resources beside it."""
        world = self.world
        if self.plan.max is None or world.torn:
            return
        ours = [one for one in world.store.living if one.life == resource.life]
        held = 0 if world.pool.floor is None else sum(self._given_up(worker) for worker in list(self.group.roster))
        if len(ours) - held > self.plan.max:
            world.wrong("5", f"{resource} makes {len(ours)}, of {self.plan.max} at once")

    def _given_up(self, worker: Worker) -> bool:
        """Whether it need not be counted: its thread was given up, and it may be on its way out now."""
        self.abandoned = self.abandoned or worker.state is ABANDONED
        return worker.state is ABANDONED or (self.abandoned and worker.state is CLOSING)

    def _counts(self) -> None:
        world, group = self.world, self.group
        held = sum(not self._given_up(worker) for worker in list(group.roster))
        if self.plan.max is not None and held > self.plan.max:
            world.wrong("5", f"there are {held} workers, of {self.plan.max}: {list(group.roster)}")
        if held != group.held and not self.plan.plain and not self.abandoned:
            world.wrong("5", f"there are {held} workers, and the group counts {group.held}")

    def looks(self) -> None:
        """What the pool says of itself agrees."""
        world, plan, stats = self.world, self.plan, self.world.pool.stats()
        if world.pool.floor is None:
            return
        self._counts()
        gauges = {name: getattr(stats, name) for name in _GAUGES}
        if min(gauges.values()) < 0:
            world.wrong("15", f"stats: {gauges}")
        if stats.idle > stats.alive or stats.busy + stats.idle != stats.alive:
            world.wrong("15", f"stats: {gauges}")
        least, most = plan.min, INFINITE if plan.max is None else plan.max
        if not least <= stats.workers <= most:
            world.wrong("6", f"there should be {stats.workers} workers, of {least} to {most}")
        if not plan.scales and world.pool.state.alive and stats.workers != world.target:
            world.wrong("6", f"there should be {stats.workers} workers, and {world.target} were asked for")
        if plan.scales and not any(decision.after >= 0 for decision in (*stats.decisions, _Any)):
            world.wrong("6", f"decisions: {stats.decisions}")
        self._few(stats)

    def _few(self, stats: Any) -> None:
        """Too few workers are there for a while only."""
        world, plan = self.world, self.plan
        staying = stats.alive + stats.opening - stats.leaving
        places = INFINITE if plan.max is None else plan.max - stats.leaving - stats.closing
        if (
            world.pool.state != "running"
            or stats.abandoned
            or stats.opening  # what fails is tried by one, for the others too, and that one may hang
            or not world.pool.floor.open
            or staying >= min(stats.workers, places)
        ):
            self.short = None
            return
        self.short = world.now if self.short is None else self.short
        patience = (plan.resource_backoff + TAKES if plan.made else 0.0) + (0.0 if self.undisturbed else PATIENCE)
        if any(attempt.cancels_itself for attempt in world.attempts):
            patience += 0.1 + (plan.backoff or 0.0)
        if world.now > self.short + patience + EPS:
            world.wrong("6", f"only {staying} of {stats.workers} workers since {self.short:g}")


class _Decided:
    after = 0


_Any: Final = _Decided()
_GAUGES: Final = (
    "workers", "alive", "opening", "leaving", "closing", "busy", "idle", "worked", "idled", "opened", "closed",
    "failed_openings", "replaced",
)  # fmt: skip


class Ends(Judge):
    """The end of the pool is what its jobs have made of it, and its errors are told. (9, 10, 21)"""

    def leaves(self, attempt: Attempt) -> None:
        """Note what ends it."""
        world, lap, error = self.world, self.lap_of(attempt), attempt.error
        if not self.plan.bare or lap.outlived or world.torn or not world.is_failure(error):
            return
        ours = isinstance(error, asyncio.CancelledError) and attempt.cut is not None and not attempt.cancels_itself
        asked = isinstance(error, asyncio.CancelledError) and lap.life in world.asked_to_end
        if self.plan.stop_on_error and error is not None and not ours and not asked:
            world.fatal.setdefault(lap.life, []).append((world.now, error))
            if self.undisturbed:
                world.ends_life(0.0)

    def hear(self, event: events.Event) -> None:
        """A life is over."""
        if isinstance(event, events.StateChanged) and event.new in ("stopped", "failed"):
            self._why(event)

    def _why(self, event: events.StateChanged) -> None:
        world, plan, pool = self.world, self.plan, self.world.pool
        fatal, error = world.fatal.get(pool.generation, []), pool.error
        if isinstance(error, rc.ConfigError):
            if "wrong" not in plan.factory:
                world.wrong("9", f"the pool failed: {error!r}")
            return
        if error is None:
            if fatal and self.undisturbed:
                world.wrong("10", f"the pool is {event.new}, and {fatal[0][1]!r} had failed")
            return
        if not plan.stop_on_error:
            world.wrong("9", f"the pool failed, and was not to: {error!r}")
        elif plan.bare and self.undisturbed and not plan.checks:
            # A cancellation of its own beside one of ours may be either.
            real = [(at, one) for at, one in fatal if not isinstance(one, asyncio.CancelledError)]
            if isinstance(error.__cause__, asyncio.CancelledError) or not real:
                return
            first = [one for at, one in real if at <= real[0][0] + EPS]
            first = first if plan.plain else first[:1]
            if not any(one in (error, error.__cause__) for one in first):
                world.wrong("10", f"the pool failed with {error!r}, and the first that failed was {first}")


def judges_of() -> tuple[type[Judge], ...]:
    """All of these."""
    return Begins, Cuts, Pauses, Together, Ends
