"""The life of a pool, as a service: what a start, a drain, a cut and the end mean for its workers."""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import Final

from runcrew.backends import AbandonedCall
from runcrew.backends.calls import running_loop
from runcrew.durations import Duration
from runcrew.errors import NotStarted, RuncrewError, ServiceStopped, ServiceStopping, WrongLoop
from runcrew.lifecycle import BaseService, Hooks, State, Stuck
from runcrew.lifecycle.tasks import MOMENT, thread_stack, unless_torn_down
from runcrew.pool.floor import Floor
from runcrew.pool.setup import Setup
from runcrew.pool.stats import PoolStats, snapshot

#: How often another thread looks again, where it is disturbed.
_TRIES: Final = 100


class PoolService(BaseService):
    """A pool, but for its calls. A Floor is one life of it."""

    def __init__(
        self, name: str, setup: Setup, *, on_stopping: Hooks, on_stopped: Hooks, hooks_timeout: Duration
    ) -> None:
        super().__init__(name, on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout)
        self.setup = setup
        #: This life, or the last one; None before the first.
        self.floor: Floor | None = None

    # --- looking ----------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """An immutable snapshot, from any thread."""
        for _ in range(_TRIES):
            try:
                return snapshot(self)
            except RuntimeError:  # something grew or shrank while another thread than the loop's looked at it
                continue
        return snapshot(self)

    def describe(self) -> tuple[str, ...]:
        """What each run goes through, outermost first, in words."""
        return self.setup.describe()

    @property
    def size(self) -> int:
        """How many workers there should be: 0 is a pause."""
        return self.setup.initial if self.floor is None else self.floor.group.target

    # --- for its parts ------------------------------------------------------------------

    def at_work(self) -> Floor:
        """The floor, where something can be asked of it. Raises what says why not otherwise."""
        floor = self.floor
        if floor is None or not floor.open:
            raise self._refusal()
        if running_loop() is not floor.loop:
            raise WrongLoop(
                f"{self.name} lives on another event loop: call it there (from a thread, "
                "asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe with that loop)"
            )
        return floor

    def _refusal(self) -> RuncrewError:
        if self._state is State.NEW:
            return NotStarted(f"{self.name} has not been started: `await {self.name}.start()`, or `async with`")
        if self._state is State.STOPPED or self._state is State.FAILED:
            return ServiceStopped(f"{self.name} has ended: start() gives it a new life")
        return ServiceStopping(f"{self.name} is stopping, and its workers leave")

    def work_context(self) -> contextvars.Context:
        """For jobs, and the makers of resources: the context variables of whoever started this life."""
        return self._work_context()

    def workers_gone(self, floor: Floor) -> None:
        """Nobody is left."""
        if floor is not self.floor or floor.open or not floor.is_empty or not self._state.alive:
            return
        if floor.going_down and self._state is not State.STOPPING:
            return  # it ended by itself, on a loop that goes down; if that goes on after all, this is asked again
        self._work_ended()

    def finish(self, *, tree: bool) -> None:
        """A job has said that there is no more to do, for this pool or for the whole tree."""
        floor = self.floor
        if floor is not None and floor.open:
            self._life.stop_tree = self._life.stop_tree or tree
            floor.close()

    def fail(self, error: BaseException, cause: BaseException | None = None) -> None:
        """This life is over: a run failed that must not, or a worker can never be had."""
        floor = self.floor
        if cause is not None:
            error.__cause__ = cause
        if floor is not None and self._state.alive:
            self._fail(error)
            self._mark_stop(floor)
            floor.cut("its pool has failed")

    # --- the life -----------------------------------------------------------------------

    def _begin_life(self) -> None:
        super()._begin_life()
        self._starter: asyncio.Task[None] | None = None
        self._at_stop: tuple[int, int] | None = None
        self._let_go: list[AbandonedCall] = []

    def _launch(self) -> bool:
        floor = self.floor = Floor(self, self.setup, self._context)
        floor.group.open()
        if floor.scaler is not None:
            floor.scaler.start()
        if floor.group.begun.is_open:
            return True
        self._begin_to_come_up(floor)
        return False

    def _begin_to_come_up(self, floor: Floor) -> None:
        self._starter = self._spawn(self._come_up(floor), "start")
        self._starter.add_done_callback(partial(self._came_up, floor))

    async def _come_up(self, floor: Floor) -> None:
        await floor.group.begun.wait()
        if floor.open:
            self._is_ready()

    def _came_up(self, floor: Floor, task: asyncio.Task[None]) -> None:
        if task.cancelled() and task is self._starter and self._state is State.STARTING:
            unless_torn_down(self._come_up_again, floor)

    def _come_up_again(self, floor: Floor) -> None:
        """Somebody else has cancelled the task that waits for the workers: they come all the same."""
        if floor is self.floor and self._state is State.STARTING:
            self._begin_to_come_up(floor)

    def _go_on(self, task: asyncio.Task[None]) -> None:
        floor = self.floor
        # What is begun on a loop that goes down would be lost. But only what is our own is waited for here: others may
        # wait for us.
        busy = floor is not None and bool(floor.cycles() or floor.group.closing)
        if task is self._stopper and floor is not None and floor.going_down and busy:
            floor.later(MOMENT, self._go_on, task)
        else:
            super()._go_on(task)

    def _mark_stop(self, floor: Floor) -> None:
        if self._at_stop is None:
            self._at_stop = _ends(floor)

    def _accept_no_more(self) -> None:
        floor = self.floor
        if floor is not None:
            self._mark_stop(floor)
            # What waits for something to do waits on until the hooks have been called: nothing is cancelled before.
            floor.keeps_idle = True
            floor.close()

    def _begin_drain(self) -> None:
        floor = self.floor
        assert floor is not None
        if self._starter is not None:
            self._starter.cancel()
        floor.end_idle()
        self.workers_gone(floor)

    def _cut(self) -> None:
        assert self.floor is not None
        self.floor.cut("its pool was stopped, or ran out of time to stop")

    def _still_running(self) -> tuple[Stuck, ...]:
        floor = self.floor
        assert floor is not None
        runs = [Stuck(self.name, f"run {cycle.named().id}", cycle.where()) for cycle in floor.cycles()]
        return (*runs, *(Stuck(self.name, what, stack) for what, stack in floor.group.hanging()))

    def _give_up(self) -> bool:
        floor = self.floor
        assert floor is not None
        before = tuple(floor.left.values())
        for cycle in floor.cycles():
            cycle.give_up()
        #: These have been named by what they run.
        self._let_go = [given for given in floor.left.values() if given not in before]
        floor.group.let_go()
        return True

    def _end_life(self) -> None:
        floor = self.floor
        if floor is not None and self._state.alive:
            finished, cut = self._at_stop or _ends(floor)
            self._finished, self._cancelled = (
                now - then for now, then in zip(_ends(floor), (finished, cut), strict=True)
            )
            left = [given for given in floor.left.values() if given not in self._let_go]
            self._life.stuck += tuple(self._abandoned(given) for given in left)
            floor.end()
        super()._end_life()

    def _abandoned(self, given: AbandonedCall) -> Stuck:
        return Stuck(self.name, f"the abandoned thread {given.thread} of {given.name}", thread_stack(given.ident))

    def _forsake(self) -> None:
        if self.floor is not None:
            self.floor.forsake("its event loop was closed without a stop")


def _ends(floor: Floor) -> tuple[int, int]:
    """How many runs have come to an end of their own, and were cut short."""
    runs = floor.books.runs()
    cut = runs.cancelled + runs.interrupted
    return runs.ended - cut, cut
