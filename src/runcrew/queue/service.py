"""The life of a queue, as a service: what a start, a drain, a cut and the end mean for tickets and workers."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Generic, TypeVar
from weakref import ref

from runcrew.backends import AbandonedCall
from runcrew.backends.calls import running_loop
from runcrew.durations import Duration
from runcrew.errors import (
    NotStarted,
    ResourceError,
    RuncrewError,
    ServiceStopped,
    ServiceStopping,
    WrongLoop,
    brief,
)
from runcrew.insight import Metrics
from runcrew.lifecycle import BaseService, Hooks, State, Stuck
from runcrew.lifecycle.tasks import MOMENT, task_stack, thread_stack, unless_torn_down
from runcrew.queue import scaling
from runcrew.queue.ahead import Line
from runcrew.queue.desk import Desk
from runcrew.queue.executor import QueueExecutor
from runcrew.queue.setup import Setup
from runcrew.queue.stats import QueueStats, snapshot
from runcrew.workers import Scaler, Worker

R = TypeVar("R")

#: How often another thread looks again, where it is disturbed.
_TRIES: Final = 100


class _Desk(Desk):
    """One life of a queue that may have executors."""

    __slots__ = ()

    def forsake(self, reason: str) -> None:
        """See Desk."""
        super().forsake(reason)
        self.home.executors_over()


class QueueService(BaseService, Generic[R]):
    """A queue, but for its calls. A Desk is one life of it."""

    #: Those of this life that somebody holds.
    _executors: list[ref[QueueExecutor]]

    def __init__(
        self, name: str, setup: Setup, *, on_stopping: Hooks, on_stopped: Hooks, hooks_timeout: Duration
    ) -> None:
        super().__init__(name, on_stopping=on_stopping, on_stopped=on_stopped, hooks_timeout=hooks_timeout)
        self.setup = setup
        #: This life, or the last one; None before the first.
        self.desk: Desk | None = None
        #: What scales it, or did; None: nothing does.
        self.scaler: Scaler | None = None

    # --- looking ----------------------------------------------------------------------

    def stats(self) -> QueueStats:
        """An immutable snapshot, from any thread."""
        for _ in range(_TRIES):
            try:
                return snapshot(self)
            except RuntimeError:  # something grew or shrank while another thread than the loop's looked at it
                continue
        return snapshot(self)

    def metrics(self) -> Metrics:
        """What the collector of this life has collected: counts, rates of the last minute, percentiles.

        A collector of the user's own is asked for its own, and what it raises comes out.
        """
        return self.setup.new_collector().metrics() if self.desk is None else self.desk.books.metrics()

    def describe(self) -> tuple[str, ...]:
        """What each run goes through, outermost first, in words."""
        return self.setup.describe()

    @property
    def size(self) -> int:
        """How many workers there should be."""
        return self.setup.workers if self.desk is None else self.desk.group.target

    # --- for plain threads --------------------------------------------------------------

    def executor(
        self, *, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
    ) -> QueueExecutor:
        """A `concurrent.futures.Executor` over this queue, while this life lasts: for any thread, and for
        `loop.run_in_executor`. From any thread.

        What is submitted to it becomes a run of the queue, with the options that the queue gives to all. `submit` never
        waits: where the queue is full, the run waits here (with overflow="reject" its future gets QueueFull instead).
        Futures follow the standard; one whose run was interrupted, timed out or skipped has that as its exception. What
        was submitted before a stop is part of its drain. Its `shutdown` leaves the queue alone.

        initializer, initargs: called once in each worker, before its first run for this executor. Where that fails, the
        executor is broken, as of the standard; the queue is not.
        Raises ConfigError for a queue with a resource, and, where it does not run, what `submit` raises.
        """
        desk = self.desk
        if desk is None or not desk.open:
            raise self.refusal()
        executor = QueueExecutor(desk, initializer, initargs)
        self._executors.append(ref(executor, self._executors.remove))
        return executor

    # --- for its parts ------------------------------------------------------------------

    def at_work(self) -> Desk:
        """The desk, where something can be asked of it. Raises what says why not otherwise."""
        desk = self.desk
        if desk is None or not desk.open:
            raise self.refusal()
        if running_loop() is not desk.loop:
            raise WrongLoop(
                f"{self.name} lives on another event loop: call it there (from a thread, "
                "asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe with that loop)"
            )
        return desk

    def refusal(self) -> RuncrewError:
        """Why nothing is accepted."""
        if self._state is State.NEW:
            return NotStarted(f"{self.name} has not been started: `await {self.name}.start()`, or `async with`")
        if self._state is State.STOPPED or self._state is State.FAILED:
            return ServiceStopped(f"{self.name} has ended and takes nothing: start() gives it a new life")
        return ServiceStopping(f"{self.name} is stopping and takes nothing new")

    def work_context(self) -> contextvars.Context:
        """For the makers of resources: the context variables of whoever started this life."""
        return self._work_context()

    def workers_gone(self, desk: Desk) -> None:
        """Nobody is left, in one of the two groups."""
        if desk is self.desk and not desk.open and desk.is_empty:
            self._work_ended()

    def fail(self, error: BaseException, cause: BaseException | None = None) -> None:
        """This life is over: its resource can never be made, say."""
        desk = self.desk
        error.__cause__ = cause or error.__cause__
        if desk is not None and self._state.alive:
            self._fail(error)
            self._let_down(desk, brief(error))
            desk.interrupt_all(brief(error))
            desk.group.close()
            desk.spares.group.close()

    # --- the life -----------------------------------------------------------------------

    def _begin_life(self) -> None:
        super()._begin_life()
        self._starter: asyncio.Task[None] | None = None
        self._at_stop = (0, 0, 0)
        self._let_go: list[AbandonedCall] = []
        self._executors = []

    def _launch(self) -> bool:
        desk = self.desk = _Desk(self, self.setup, self._context)
        self.scaler = scaling.begin(desk)
        if not self.setup.spares:
            desk.spares.group.open()
            desk.group.open()
            if desk.group.begun.is_open:
                return True
        self._begin_to_come_up(desk)
        return False

    def _begin_to_come_up(self, desk: Desk) -> None:
        self._starter = self._spawn(self._come_up(desk), "start")
        self._starter.add_done_callback(partial(self._came_up, desk))

    def _came_up(self, desk: Desk, task: asyncio.Task[None]) -> None:
        if task.cancelled() and task is self._starter and self._state is State.STARTING:
            unless_torn_down(self._come_up_again, desk)

    def _come_up_again(self, desk: Desk) -> None:
        """Somebody else has cancelled the task that waits for the workers: they come all the same."""
        if desk is self.desk and self._state is State.STARTING:
            self._begin_to_come_up(desk)

    async def _come_up(self, desk: Desk) -> None:
        spares = desk.spares
        if self.setup.spares:
            if spares.group.closed:
                spares.starting = True
                spares.group.open()
            await spares.group.begun.wait()
            spares.starting = False
            if spares.failure is not None:
                failure = ResourceError(f"{self.name}: a spare resource could not be made: {brief(spares.failure)}")
                failure.__cause__ = spares.failure
                self._fail(failure)
                self._let_down(desk, str(failure))
                return
            if desk.group.closed:
                desk.group.open()
        await desk.group.begun.wait()
        self._is_ready()

    def _let_down(self, desk: Desk, reason: str) -> None:
        """The start has failed: end what has been accepted meanwhile, and take down what is there."""
        self._accept_no_more()
        desk.draining = True
        desk.ends.interrupt_waiting(reason)
        desk.look_if_drained()

    def _go_on(self, task: asyncio.Task[None]) -> None:
        desk = self.desk
        # What is begun on a loop that goes down would be lost. But only what is our own is waited for here: others may
        # wait for us.
        busy = desk is not None and (desk.working() or desk.group.closing or desk.spares.group.closing)
        if task is self._stopper and desk is not None and desk.going_down and busy:
            desk.later(MOMENT, self._go_on, task)
        else:
            super()._go_on(task)

    def _accept_no_more(self) -> None:
        desk = self.desk
        if desk is not None:
            for executor in self._living_executors():
                executor.flush()
            self._at_stop = desk.books.ends_so_far()
            desk.open = False
            desk.room.close()
        # A drain is done by those that are there: what has been waiting for long enough has brought more already, and
        # what is opened now would only be closed again, at the worst moment. And nobody goes before the work is done.
        if self.scaler is not None:
            self.scaler.stop()

    def _begin_drain(self) -> None:
        desk = self.desk
        assert desk is not None
        desk.draining = True
        if self._starter is not None:
            self._starter.cancel()
        group = desk.group
        if desk.accepted > desk.ended:
            if group.closed:
                group.open()
            if not group.target:
                group.resize(1)  # it was paused: what was accepted is to be done all the same
            desk.give_up_if_hopeless()
        desk.look_if_drained()

    def _cut(self) -> None:
        desk = self.desk
        assert desk is not None
        desk.interrupt_all("its queue was stopped, or ran out of time to stop")
        desk.group.close()
        desk.spares.group.close()

    def _still_running(self) -> tuple[Stuck, ...]:
        return tuple(self._stuck())

    def _stuck(self) -> Iterator[Stuck]:
        desk = self.desk
        assert desk is not None
        for worker in desk.working():
            work = worker.work
            for ticket in work.handed if isinstance(work, Line) else (work,):
                yield Stuck(self.name, f"run {ticket.id} of {ticket.name}", _where(worker))
        for group in (desk.group, desk.spares.group):
            for what, stack in group.hanging():
                yield Stuck(self.name, what, stack)

    def _give_up(self) -> bool:
        desk = self.desk
        assert desk is not None
        before = tuple(desk.carrier.ahead.left.values())
        for worker in desk.working():
            desk.carrier.give_up(worker, "it would not stop, and was abandoned")
        #: These have been named by what they run.
        self._let_go = [given for given in desk.carrier.ahead.left.values() if given not in before]
        for group in (desk.group, desk.spares.group):
            group.let_go()
        return True

    def _end_life(self) -> None:
        desk = self.desk
        if desk is not None and self._state.alive:
            ended, cut, never = (
                now - before for now, before in zip(desk.books.ends_so_far(), self._at_stop, strict=True)
            )
            self._finished, self._cancelled, self._never_started = ended, cut, never
            left = [given for given in desk.carrier.ahead.left.values() if given not in self._let_go]
            self._life.stuck += tuple(self._abandoned(given) for given in left)
            desk.end()
            self.executors_over()
        super()._end_life()

    def executors_over(self) -> None:
        """Nothing of this life goes on: what was submitted by executors and has not ended ends."""
        for executor in self._living_executors():
            executor.life_over()

    def _living_executors(self) -> list[QueueExecutor]:
        return [executor for executor in (one() for one in list(self._executors)) if executor is not None]

    def _abandoned(self, given: AbandonedCall) -> Stuck:
        return Stuck(self.name, f"the abandoned thread {given.thread} of {given.name}", thread_stack(given.ident))

    def _forsake(self) -> None:
        if self.desk is not None:
            self._accept_no_more()
            self.desk.forsake("its event loop was closed without a stop")


def _where(worker: Worker) -> str:
    if isinstance(worker.work, Line):
        return worker.work.where()
    return "" if worker.task is None else task_stack(worker.task)
