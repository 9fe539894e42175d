"""Floor: one life of a pool. Its workers each go round in a cycle, and it says what follows a run that failed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from runcrew import clock
from runcrew.backends import AbandonedCall, NoThread
from runcrew.errors import ConfigError, JobCrashed, StopTree, brief, came_from_elsewhere
from runcrew.events import OpeningFailed, Stalled, WorkerGone, WorkerOpened
from runcrew.job import Outcome, Run, Status
from runcrew.lifecycle.tasks import MOMENT
from runcrew.policies.elapsed import Elapsed
from runcrew.policies.guard import guarded
from runcrew.pool.books import Books
from runcrew.pool.cycle import Cycle
from runcrew.pool.in_thread import ThreadCycle
from runcrew.pool.occupancy import Occupancy
from runcrew.pool.place import CycleRun, is_kind, message_of
from runcrew.pool.scaling import scaler_of
from runcrew.pool.turns import turns_of
from runcrew.workers import BUSY, FREE, Group, OwnThread, Unfit, Worker
from runcrew.workers.teardown import Teardown

if TYPE_CHECKING:
    from runcrew.pool.service import PoolService
    from runcrew.pool.setup import Setup

_log: Final = logging.getLogger("runcrew")

#: How long to wait where the system refuses to start a thread, at least. In seconds.
_NO_THREAD: Final = 0.1


class Floor:
    """The workers of one life, and what their runs come to."""

    def __init__(self, home: PoolService, setup: Setup, context: contextvars.Context) -> None:
        self.home = home
        self.name = home.name
        self.setup = setup
        self.loop = asyncio.get_running_loop()
        #: What is the library's own happens in this.
        self.context = context
        self.now = clock.current().reader()
        self.tick = clock.current().ticker()
        #: What has to be added to a tick to make it seconds since the epoch.
        self.anchor = self.now() - self.tick()
        #: Whether it goes on; and whether runs that only wait for something to do are left alone although their
        #: workers are to leave.
        self.open = True
        self.keeps_idle = False
        #: What was given up, by its worker: until that is gone.
        self.left: dict[Worker, AbandonedCall] = {}
        self._cycles: dict[Worker, Cycle] = {}
        #: Those whose cycle was cancelled by somebody else, until they begin another.
        self._coming_back: dict[Worker, asyncio.TimerHandle] = {}
        self.turns = turns_of(self.loop, self.tick)
        self.occupancy = Occupancy(self.tick)
        self.books = Books(self, timed=any(isinstance(one, Elapsed) for one in setup.kept))
        self.group = Group(
            self, home, home.name, setup.recipe, size=setup.initial, most=setup.most,
            max_abandoned=setup.max_abandoned, backoff=setup.resource_backoff, context=context,
            work_context=home.work_context, processes=setup.kind(home.name),
        )  # fmt: skip
        self.scaler = scaler_of(self)
        for one in setup.kept:
            one.attach(self.books)
        self._held = False
        self._teardown = Teardown(self, (self.group,))
        self.group.is_bad_time = lambda: self._teardown.begun

    def later(self, span: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call it in so many seconds, in the library's own context."""
        return self.loop.call_later(span, callback, *args, context=self.context)

    def instant(self, tick: float) -> float:
        """What `tick` has read, in seconds since the epoch."""
        return tick + self.anchor

    def tick_at(self, instant: float) -> float:
        """The reverse."""
        return instant - self.anchor

    def cycles(self) -> list[Cycle]:
        """Those that go on, or end just now. From any thread."""
        return list(self._cycles.values())

    def args_of(self, worker: Worker) -> tuple[Any, ...]:
        """What a job is called with."""
        return (worker.resource,) if self.setup.gives_resource and worker.process is None else ()

    # --- what the group tells -----------------------------------------------------------------

    def worker_opened(self, worker: Worker) -> None:
        """See Door."""
        if self.home.hub.wants(WorkerOpened):
            self.home.hub.emit(WorkerOpened(self.now(), self.name, worker.number))

    def worker_free(self, worker: Worker) -> None:
        """See Door. It begins, and is never free again."""
        if self._held or self._teardown.begun or not self.open:
            return  # what is begun on a loop that goes down is lost
        del self.group.free[worker]
        worker.state = BUSY
        try:
            cycle = self.setup.cycle(self, worker)
        except ConfigError as error:  # what the factory gave is no job that could be run here
            self.home.fail(error)
            self.group.released(worker)
            return
        worker.work = self._cycles[worker] = cycle
        self.occupancy.enter(cycle)
        cycle.begin()

    def worker_leaves(self, worker: Worker) -> None:
        """See Door."""
        if worker.work is not None:
            worker.work.leave()
        elif (timer := self._coming_back.pop(worker, None)) is not None:
            timer.cancel()
            self.loop.call_soon(self._again, worker, 0, context=self.context)

    def is_idle(self, worker: Worker) -> bool:
        """See Door."""
        return worker.work is None or worker.work.waits > 0

    def worker_lost(self, worker: Worker, error: BaseException) -> None:
        """See Door."""
        said = "the resource of its worker is lost" if worker.faulty else "its worker was told to leave at once"
        cycle = worker.work
        if cycle is not None:
            cycle.cut(Status.INTERRUPTED, said)
            if isinstance(cycle, ThreadCycle) and worker.thread is None:
                cycle.lost()

    def worker_gone(self, worker: Worker) -> None:
        """See Door."""
        self.left.pop(worker, None)
        if worker.reason and self.home.hub.wants(WorkerGone):  # without one it has never been there
            self.home.hub.emit(WorkerGone(self.now(), self.name, worker.number, worker.reason, worker.error))

    def opening_failed(self, worker: Worker, delay: float, error: BaseException) -> None:
        """See Door."""
        if self.home.hub.wants(OpeningFailed):
            self.home.hub.emit(OpeningFailed(self.now(), self.name, worker.number, delay, error))
        if isinstance(error, ConfigError):
            self.home.fail(error)
        elif is_kind(error, KeyboardInterrupt):
            self.home.fail(JobCrashed("the making of a resource or job was interrupted from the keyboard"), error)

    def group_stalled(self) -> None:
        """See Door."""
        if self.home.hub.wants(Stalled):
            self.home.hub.emit(Stalled(self.now(), self.name, self.group.abandoned))

    def all_gone(self) -> None:
        """See Door."""
        self.home.workers_gone(self)

    # --- what the cycles tell -----------------------------------------------------------------

    def ended(self, cycle: Cycle, *, outside: bool = False) -> None:
        """This cycle is over. `outside`: because somebody else has cancelled its task."""
        worker = cycle.worker
        if cycle.given_up:  # it has ended after all
            worker.work = worker.task = None
            self.group.released(worker)
            return
        if self._cycles.get(worker) is not cycle:
            return
        self.books.count(cycle)
        del self._cycles[worker]
        self.occupancy.leave(cycle)
        worker.work = worker.task = None
        if outside and worker.state is BUSY:
            # Mostly that is the loop on its way down, where nothing is to be begun any more: so not before a moment.
            wait = max(MOMENT, self.setup.pause_after(cycle.in_a_row))
            self._coming_back[worker] = self.later(wait, self._again, worker, cycle.in_a_row)
        else:
            self.group.released(worker)

    def _again(self, worker: Worker, in_a_row: int) -> None:
        """The loop goes on: so does the worker."""
        self._coming_back.pop(worker, None)
        if worker.state is BUSY and worker.work is None:
            worker.state = FREE
            self.group.free[worker] = None
            self.worker_free(worker)
            if worker.work is not None:
                worker.work.in_a_row = in_a_row
        elif worker.state is not BUSY and worker.work is None:
            self.group.released(worker)

    @property
    def coming_back(self) -> int:
        """How many workers are about to begin another cycle."""
        return len(self._coming_back)

    def outcome_of(self, cycle: Cycle, run: Run, error: BaseException, reason: str = "") -> Outcome[Any]:
        """What a run comes to that ended by this error."""
        if is_kind(error, Unfit):
            self.group.condemn(cycle.worker, error, "its resource did not pass the check")
            return run.finished(Status.SKIPPED, self.now(), error=error, reason="its resource did not pass the check")
        return run.finished(Status.FAILED, self.now(), error=error, reason=reason)

    def run_ended(self, cycle: Cycle, run: Run, outcome: Outcome[Any]) -> float:
        """A run has ended, not just succeeded at once. For how many seconds its worker is to pause."""
        if cycle.given_up:
            return 0.0
        message = run.message if isinstance(run, CycleRun) else None
        if outcome.status is Status.FAILED and message is None and (message := message_of(outcome.error)) is not None:
            outcome.status, outcome.error, outcome.reason = Status.SUCCEEDED, None, brief(message)
        self.books.ended(cycle, run, outcome)
        if message is not None:
            self.home.finish(tree=is_kind(message, StopTree))
        if outcome.status is Status.SUCCEEDED:
            cycle.in_a_row = 0
            return 0.0
        cycle.in_a_row += 1
        delay = self.setup.pause_after(cycle.in_a_row)
        if is_kind(outcome.error, NoThread):
            delay = max(delay, _NO_THREAD)
        if outcome.status is Status.FAILED or outcome.status is Status.TIMED_OUT:
            self.books.failed(run, outcome, delay if cycle.goes_on else 0.0)
            self._judge(cycle, outcome)
        elif outcome.error is not None and not is_kind(outcome.error, asyncio.CancelledError):
            # It would have been tried again, but for a stop: its last error is not to be lost. And where that came
            # after the pool was told to stop, it is what came of the run that was to be finished.
            self.books.failed(run, outcome, 0.0)
            if not self.open and run.history and run.history[-1].wait is None:
                self._judge(cycle, outcome)
        return delay

    def _judge(self, cycle: Cycle, outcome: Outcome[Any]) -> None:
        """What a failure means for the worker, and for the pool."""
        error, setup = outcome.error, self.setup
        is_cut = outcome.status is Status.INTERRUPTED
        if is_kind(error, KeyboardInterrupt) and not came_from_elsewhere(error):
            # Whoever sits at the keyboard does not mean this job.
            self.home.fail(JobCrashed(f"{cycle.job.name} was interrupted from the keyboard"), error)
        elif error is not None and is_kind(error, Exception) and not self._is_healthy(error):
            self.group.condemn(cycle.worker, error, "its resource proved faulty")
        elif setup.stop_on_error:
            self.home.fail(_as_raised(replace(outcome, status=Status.FAILED) if is_cut else outcome))

    def _is_healthy(self, error: BaseException) -> bool:
        healthy = self.setup.healthy
        return healthy is None or bool(guarded(f"healthy() of {self.name}", True, healthy, error))

    def broken(self, cycle: Cycle, fault: BaseException) -> None:
        """A cycle has failed by itself: that must not be, and is not to be repeated again and again."""
        _log.error("%s: the cycle of worker %d failed", self.name, cycle.worker.number, exc_info=fault)
        self.home.fail(fault)

    def left_alone(self, worker: Worker, run: Run, thread: OwnThread) -> None:
        """The thread of this worker was left to itself, with this run."""
        given = self.left[worker] = AbandonedCall(repr(run), thread.name, self.now(), thread.ident)
        self.books.abandoned(run, given)

    def given_up(self, cycle: Cycle) -> None:
        """Nobody waits for this cycle, and the run that it has under way, any more."""
        if self.books.tells:
            run = cycle.named()
            run.ask_to_end(Status.INTERRUPTED, "it would not stop, and was given up")
            self.books.tell_end(run, run.ended_by_request(self.now()))
        if self._cycles.pop(cycle.worker, None) is not None:
            self.occupancy.leave(cycle)

    # --- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """No run begins any more; each worker leaves when the one it has under way has ended."""
        self.open = False
        if self.scaler is not None:
            self.scaler.stop()
        self.group.close()

    def end_idle(self) -> None:
        """Runs that only wait for something to do end now."""
        self.keeps_idle = False
        for cycle in self.cycles():
            cycle.end_idle()

    def cut(self, text: str) -> None:
        """Ask all runs that are under way to end."""
        self.close()
        for cycle in self.cycles():
            cycle.cut(Status.INTERRUPTED, text)

    @property
    def is_empty(self) -> bool:
        """Whether no worker is left, and none will come."""
        return self.group.is_over

    def end(self) -> None:
        """This life is over."""
        self._teardown.end()
        self._let_counters_go()

    def _let_counters_go(self) -> None:
        for one in self.setup.kept:
            one.detach(self.books)

    # --- a loop on its way down ------------------------------------------------------------------

    def hold(self) -> None:
        """See Host."""
        self._held = True

    def hold_no_more(self) -> None:
        """See Host."""
        self._held = False
        for worker in list(self.group.free):
            if worker.state is FREE:
                self.worker_free(worker)
        self.group.settle()
        self.home.workers_gone(self)

    @property
    def going_down(self) -> bool:
        """Whether somebody has cancelled all tasks, and is mostly the loop on its way down."""
        return self._teardown.begun

    def forsake(self, reason: str) -> None:
        """See Host."""
        self.open = False
        for cycle in self.cycles():
            cycle.told = True
            cycle.ask(Status.INTERRUPTED, reason)
            run = cycle.run
            if run is not None:
                run.ask_to_end(Status.INTERRUPTED, reason)
                run.tell()  # it may be in a thread, which has not ended
        self._let_counters_go()
        self.group.forsake()


def _as_raised(outcome: Outcome[Any]) -> BaseException:
    """What whoever waits for the pool gets."""
    try:
        outcome.unwrap()
    except Exception as error:
        return error
    raise AssertionError(f"no failure: {outcome!r}")
