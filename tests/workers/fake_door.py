"""A door that is as small as can be: it gives jobs to the workers of one group, and looks at every step of theirs."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Final

from runcrew.backends import NoThread
from runcrew.lifecycle import BaseService
from runcrew.policies import Exponential
from runcrew.workers import BUSY, FREE, Group, Recipe, Worker
from runcrew.workers.own_thread import OwnThread
from runcrew.workers.worker import ABANDONED, CLOSING, GONE, LEAVING, OPENING, WorkerState

#: The drawing at the top of worker.py.
ARROWS: Final = {
    (OPENING, FREE),
    (OPENING, CLOSING),
    (OPENING, GONE),
    (FREE, BUSY),
    (FREE, CLOSING),
    (BUSY, FREE),
    (BUSY, LEAVING),
    (BUSY, ABANDONED),
    (LEAVING, CLOSING),
    (LEAVING, ABANDONED),
    (ABANDONED, CLOSING),
    (CLOSING, GONE),
}

Arrow = tuple[WorkerState, WorkerState]


class Arrows:
    """Who went from which state to which."""

    #: Those of the test that runs.
    now: Arrows

    def __init__(self) -> None:
        self.seen: dict[Arrow, list[int]] = {}
        #: Those that were ever abandoned.
        self.abandoned: dict[Worker, None] = {}

    def watched(self) -> property:
        """Stands for `Worker.state`."""
        Arrows.now = self
        slot: Any = Worker.__dict__["state"]

        def set_state(worker: Worker, state: WorkerState) -> None:
            try:
                before = slot.__get__(worker)
            except AttributeError:  # it is being made
                assert state is OPENING
            else:
                self.seen.setdefault((before, state), []).append(worker.number)
            if state is ABANDONED:
                self.abandoned[worker] = None
            slot.__set__(worker, state)

        return property(slot.__get__, set_state)


class Thing:
    """One resource."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0
        self.users = 0
        self.uses = 0
        self.faulty = False


class Maker:
    """Makes resources, in both ways, and remembers all of them.

    opening, closing: how long that takes, in virtual seconds. failing: so many openings fail from here on.
    """

    def __init__(self, opening: float = 0.0, closing: float = 0.0, failing: float = 0) -> None:
        self.opening = opening
        self.closing = closing
        self.failing = failing
        #: Those made; and how often making one was begun.
        self.things: list[Thing] = []
        self.tried = 0
        #: When each opening began, in loop time; only async ones.
        self.times: list[float] = []
        #: How many openings are under way, and were at most.
        self.at_it = self.most_at_it = 0
        #: What openings raise.
        self.error: Callable[[], BaseException] = lambda: OSError("no connection")
        #: Called in each opening, and in each closing.
        self.on_open: Callable[[], Awaitable[None]] | None = None
        self.on_close: Callable[[Thing], Awaitable[None]] | None = None

    async def make(self) -> Thing:
        self.times.append(asyncio.get_running_loop().time())
        self.at_it += 1
        self.most_at_it = max(self.at_it, self.most_at_it)
        try:
            await asyncio.sleep(self.opening)
            if self.on_open is not None:
                await self.on_open()
        finally:
            self.at_it -= 1
        return self.make_plain()

    async def destroy(self, thing: Thing) -> None:
        self.destroy_plain(thing)
        await asyncio.sleep(self.closing)
        if self.on_close is not None:
            await self.on_close(thing)

    def make_plain(self) -> Thing:
        self.tried += 1
        if self.failing:
            self.failing -= 1
            raise self.error()
        thing = Thing(len(self.things) + 1)
        self.things.append(thing)
        return thing

    def destroy_plain(self, thing: Thing) -> None:
        assert thing.users <= 0, "a resource was taken down while it was used"
        thing.closed += 1

    def recipe(self, *, plain: bool = False, **options: Any) -> Recipe[Any]:
        """The recipe of these."""
        if plain:
            return Recipe(self.make_plain, destroy=self.destroy_plain, **options)
        return Recipe(self.make, destroy=self.destroy, **options)

    @property
    def alive(self) -> list[int]:
        """Those that were made and whose taking down has not begun."""
        return [thing.number for thing in self.things if not thing.closed]

    def check_all_closed_once(self) -> None:
        """Every one that was made has been taken down, exactly once."""
        assert [1] * len(self.things) == [thing.closed for thing in self.things]


class Job:
    """A piece of work: an async function that is called with the worker's resource, or a plain one."""

    def __init__(self, fn: Callable[[Any], Any], *, faulty: bool = False) -> None:
        self.fn = fn
        self.faulty = faulty
        self.worker: Worker | None = None
        self.ended = False


class _InThread:
    """A plain job in the worker's thread."""

    def __init__(self, door: FakeDoor, worker: Worker, job: Job) -> None:
        self.door, self.worker, self.job = door, worker, job
        self.resource = worker.resource

    def do(self) -> None:
        self.door.use(self.resource, lambda: self.job.fn(self.resource))

    def _hand_back(self) -> None:
        self.door.end(self.worker, self.job)


class FakeDoor:
    """See above. Nobody is hired before `group.open`."""

    def __init__(
        self,
        arrows: Arrows,
        recipe: Recipe[Any] | None = None,
        *,
        size: int = 1,
        most: int | None = None,
        max_abandoned: int = 100,
        backoff: Any = None,
    ) -> None:
        self.arrows = arrows
        self.log: list[str] = []
        #: (worker, delay, error) of each failed opening; (reason, error) of each that is gone.
        self.failures: list[tuple[int, float, BaseException]] = []
        self.gone: list[tuple[str, BaseException | None]] = []
        self.waiting: deque[Job] = deque()
        #: Called, if set, in the midst of the group's own steps.
        self.when: dict[str, Callable[[Worker], object]] = {}
        self.home = BaseService("home")
        self.group = Group(
            self, self.home, "group", recipe, size=size, most=size if most is None else most,
            max_abandoned=max_abandoned, backoff=backoff or Exponential("1s", cap="8s", jitter="none"),
            context=copy_context(), work_context=copy_context,
        )  # fmt: skip

    async def open(self) -> FakeDoor:
        """Hire, and return when each of the first has opened or failed to."""
        self.group.open()
        await self.group.begun.wait()
        return self

    async def close(self, seconds: float = 100.0) -> None:
        """Close it, give it so much time, and look that nothing is left."""
        self.group.close()
        await asyncio.sleep(seconds)
        self.check()
        assert {} == self.group.roster
        assert "all gone" == self.log[-1]
        assert not self.group.hanging()

    # --- work -------------------------------------------------------------------------

    def give(self, fn: Callable[[Any], Any], *, faulty: bool = False) -> Job:
        """Have somebody do it, now or when somebody is free."""
        job = Job(fn, faulty=faulty)
        if self.group.free:
            self._begin(self.group.free.popitem()[0], job)
        else:
            self.waiting.append(job)
        return job

    def _begin(self, worker: Worker, job: Job) -> None:
        assert not worker.faulty
        worker.state, worker.work, job.worker = BUSY, job, worker
        if asyncio.iscoroutinefunction(job.fn):
            worker.task = asyncio.ensure_future(self._do(worker.resource, job))
            worker.task.add_done_callback(lambda task: self._done(worker, job, task))
        else:
            self.group.thread_of(worker).hand([_InThread(self, worker, job)])

    async def _do(self, thing: Any, job: Job) -> None:
        if isinstance(thing, Thing):
            assert not thing.closed, "a resource was used after it had been taken down"
            assert not thing.faulty, "a faulty resource was used again"
            thing.uses += 1
            thing.users += 1
        try:
            await job.fn(thing)
        finally:
            if isinstance(thing, Thing):
                assert not thing.closed, "a resource was taken down under its job"
                thing.users -= 1
                thing.faulty = job.faulty

    def use(self, thing: Any, call: Callable[[], Any]) -> None:
        """In a thread."""
        if isinstance(thing, Thing):
            assert not thing.closed
            thing.users += 1
        try:
            call()
        finally:
            if isinstance(thing, Thing):
                thing.users -= 1

    def _done(self, worker: Worker, job: Job, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.log.append(f"{type(error).__name__}: {error}")
        self.end(worker, job)

    def end(self, worker: Worker, job: Job) -> None:
        """The job has ended."""
        if job.ended:
            return
        job.ended = True
        if worker.work is job:
            if job.faulty:
                self.group.condemn(worker, ValueError("broken pipe"), "its resource proved faulty")
            worker.work = worker.task = None
            self.group.released(worker)
        self.check()

    def abandon(self, job: Job) -> None:
        """Nobody waits for it any more."""
        worker = job.worker
        assert worker is not None
        if worker.task is None:  # in its thread
            job.ended = True
            worker.work = None
            assert worker.thread is not None
            for held in list(getattr(worker.thread._flight, "_pending", ())):
                worker.thread.abandon(held.work)
        self.group.abandon(worker)
        self.check()

    # --- what the group tells -------------------------------------------------------------

    def worker_opened(self, worker: Worker) -> None:
        self._told("opened", worker)

    def worker_free(self, worker: Worker) -> None:
        assert worker.state is FREE
        assert worker in self.group.free
        self._told("free", worker)
        if self.waiting and worker in self.group.free:
            del self.group.free[worker]
            self._begin(worker, self.waiting.popleft())

    def worker_leaves(self, worker: Worker) -> None:
        """See Door."""

    def is_idle(self, worker: Worker) -> bool:
        """See Door."""
        return False

    def worker_lost(self, worker: Worker, error: BaseException) -> None:
        self._told("lost", worker)
        if worker.task is not None and not worker.task.cancelling():
            worker.task.cancel()

    def worker_gone(self, worker: Worker) -> None:
        self.gone.append((worker.reason, worker.error))
        assert worker.state is GONE
        assert worker not in self.group.roster
        self._told("gone", worker)

    def opening_failed(self, worker: Worker, delay: float, error: BaseException) -> None:
        self.failures.append((worker.number, delay, error))
        self._told("failed", worker)

    def group_stalled(self) -> None:
        self.log.append("stalled")
        self.check()

    def all_gone(self) -> None:
        assert not self.group.held
        if self.log[-1:] != ["all gone"]:
            self.log.append("all gone")

    def _told(self, what: str, worker: Worker) -> None:
        self.log.append(f"{what} {worker.number}")
        self.check()
        if what in self.when:
            self.when[what](worker)

    # --- looking ----------------------------------------------------------------------

    def check(self) -> None:
        """The books are right, and there are never more than there may be."""
        group = self.group
        count = Counter(worker.state for worker in group.roster)
        staying = count[OPENING] + count[FREE] + count[BUSY]
        assert (
            staying, staying - count[OPENING] + count[LEAVING], count[OPENING], count[BUSY], count[LEAVING],
            count[CLOSING], count[ABANDONED], 0,
        ) == (
            group.staying, group.there, group.opening, group.busy, group.leaving, group.closing, group.abandoned,
            count[GONE],
        )  # fmt: skip
        assert {worker for worker in group.roster if worker.state is FREE} == set(group.free)
        beyond = [w for w in group.roster if w.state is CLOSING and w in self.arrows.abandoned]
        assert group.held - len(beyond) <= group.most
        assert len(group.roster) <= group.most + group._max_abandoned

    def states(self) -> list[str]:
        """Of all in the roster, in the order of coming."""
        return [worker.state.value for worker in self.group.roster]

    def only(self) -> Worker:
        """The one worker there is."""
        (worker,) = self.group.roster
        return worker


async def forever(_: Any = None) -> None:
    """A job that ends only when it is cancelled."""
    await asyncio.get_running_loop().create_future()


async def deaf(_: Any = None) -> None:
    """A job that does not heed being cancelled, for 1,000 seconds."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + 1000
    while loop.time() < ends:
        try:
            await asyncio.sleep(ends - loop.time())
        except asyncio.CancelledError:
            continue


async def moment(_: Any = None) -> None:
    """A job that takes a second."""
    await asyncio.sleep(1)


def no_threads(self: OwnThread) -> None:
    """Stands for `OwnThread._start` where the system has no thread left."""
    raise NoThread("can't start new thread")
