"""Group: the book of workers, and who keeps their number what it should be.

The door that the group belongs to says how many there should be and gives them work. The group alone hires and
dismisses: whenever anything has changed, `settle` compares what is there with what should be, and does what is
missing. It keeps counters, so that settling costs what changes and not what is there; and where one change brings
another about, the second is noted and done after the first, not inside it.

What is not there for work still counts against the maximum: workers that are opening, leaving or closing hold
their place until they are gone. A group is for one life of its door.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from runcrew.durations import text
from runcrew.errors import ConfigError, brief
from runcrew.lifecycle import BaseService, Latch
from runcrew.lifecycle.tasks import MOMENT
from runcrew.policies import Backoff
from runcrew.workers.change import Change
from runcrew.workers.door import Counts, Door
from runcrew.workers.limits import Limits
from runcrew.workers.own_thread import OwnThread
from runcrew.workers.pace import Pace
from runcrew.workers.process_keeper import Kind, keeper_of
from runcrew.workers.resource import Recipe
from runcrew.workers.worker import ABANDONED, BUSY, CLOSING, FREE, GONE, LEAVING, OPENING, Worker

_log: Final = logging.getLogger("runcrew")

#: Nobody is there, and so many times in a row all openings have failed: it is not to be expected that one will succeed.
HOPELESS: Final = 3

#: As many as anybody wants.
UNLIMITED: Final = sys.maxsize

#: Who has no resource that anybody could use.
_WITHOUT: Final = (OPENING, CLOSING, GONE)


class Group:
    """Workers of one kind, on the running loop. Nobody is hired before `open`.

    size: how many there should be at first. most: how many there may be at most, whatever their state.
    context: in which everything that is the library's own happens.
    work_context: makes a context for what users' code does for a resource.
    """

    def __init__(
        self,
        door: Door,
        home: BaseService,
        name: str,
        recipe: Recipe[Any] | None,
        *,
        size: int,
        most: int,
        max_abandoned: int,
        backoff: Backoff,
        context: contextvars.Context,
        work_context: Callable[[], contextvars.Context],
        processes: Kind | None = None,
    ) -> None:
        self._door = door
        self.home = home
        self.name = name
        self.recipe = recipe
        #: How many workers there should be.
        self.target = size
        self.most = most
        self._max_abandoned = max_abandoned
        self.loop = asyncio.get_running_loop()
        self.context = context
        self.work_context = work_context
        #: Everybody that is not gone.
        self.roster: dict[Worker, None] = {}
        #: Those of them that are free: the one that came last at the end.
        self.free: dict[Worker, None] = {}
        self._keeper = keeper_of(self, recipe, processes)
        #: Whether it takes time to hire somebody, and may fail.
        self._paced = recipe is not None or processes is not None
        limited = recipe is not None and (recipe.max_age is not None or recipe.max_idle is not None)
        #: Looks after ages, where they are limited.
        self.limits = Limits(self) if limited else None
        #: Whether the door may move workers from BUSY to FREE by itself.
        self.simple = self.limits is None
        self._numbers = 0
        #: How many of them make their resource; have been told to leave, and have work in hand; take their resource
        #: down; have work that nobody waits for any more.
        self.opening = self.leaving = self.closing = self.abandoned = 0
        #: Whether no worker is hired (any more), and those that are there leave.
        self.closed = True
        #: Asked before a resource is made: whether it is no time to begin anything. Who says so calls `settle` later.
        self.is_bad_time: Callable[[], bool] = lambda: False
        self._settling = self._dirty = self._cut = False
        self._changes: list[Change] = []
        #: Those whose resource somebody else has ended, until they are gone.
        self._lost: dict[Worker, None] = {}
        self.pace = Pace(backoff)
        #: What looks again when an opening may come.
        self._timer: asyncio.TimerHandle | None = None
        self.stalled = False
        self.last_error: BaseException | None = None
        self.counts = Counts()
        #: Open when each of the first workers has opened, or failed to.
        self.begun = Latch()
        self._first = self._first_left = 0

    def open(self) -> None:
        """Hire from here on."""
        self.closed = False
        self._first = self._first_left = self.target
        self.settle()
        if not self._first_left:
            self.begun.open()

    def close(self) -> None:
        """Hire nobody any more; whoever has no work leaves now, the others when they have ended it. Idempotent."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.limits is not None:
            self.limits.stop()
        self.begun.open()
        self.settle()

    # --- how many -----------------------------------------------------------------------

    @property
    def staying(self) -> int:
        """How many are there or come, and have not been told to leave."""
        return len(self.roster) - self.leaving - self.closing - self.abandoned

    @property
    def there(self) -> int:
        """How many are there, with their resource, and can have work in hand."""
        return self.staying - self.opening + self.leaving

    @property
    def held(self) -> int:
        """How many of the places are taken. One that was abandoned takes another one's while it is taken down."""
        return len(self.roster) - self.abandoned

    @property
    def places(self) -> int:
        """How many there may be now: abandoned ones that are not to be replaced hold theirs, or one of the target's."""
        not_replaced = max(0, self.abandoned - self._max_abandoned)
        return (self.target if not_replaced and self.most == UNLIMITED else self.most) - not_replaced

    @property
    def busy(self) -> int:
        """How many have work in hand and stay."""
        return self.staying - self.opening - len(self.free)

    @property
    def is_hopeless(self) -> bool:
        """Whether nobody is there, and opening after opening fails."""
        return self.pace.failing >= HOPELESS and not self.there

    def resize(self, target: int, *, cut: bool = False) -> Change:
        """Let there be so many, begun at once. `cut`: those that leave have their work cut short."""
        self.target = target
        change = Change(self)
        self._changes.append(change)
        self.settle(cut=cut)
        return change

    # --- settling -------------------------------------------------------------------------

    def settle(self, *, cut: bool = False) -> None:
        """Do what is missing. What that brings about in turn is done after it, not inside it."""
        self._dirty = True
        self._cut = self._cut or cut
        if self._settling:
            return
        self._settling = True
        try:
            while self._dirty:
                self._dirty = False
                cut, self._cut = self._cut, False
                if self.closed:
                    self._send_home()
                else:
                    self._dismiss(cut=cut)
                    self._hire_missing()
                    self._look_if_stalled()
        finally:
            self._settling = False
        if self._changes and self._is_settled:
            self._end_changes()
        if self.is_over:
            self._door.all_gone()

    @property
    def is_over(self) -> bool:
        """Whether nobody is left but abandoned ones, and nobody will come."""
        return self.closed and not self.held and self._keeper.end()

    @property
    def _is_settled(self) -> bool:
        """Whether nobody comes or goes, and none of those is missing that can be there."""
        moving = self.opening or self.leaving or self.closing
        return self.closed or (not moving and self.staying >= min(self.target, self.places))

    def _end_changes(self) -> None:
        """Those that are under way are complete, as far as they can be."""
        changes, self._changes = self._changes, []
        for change in changes:
            change.end()

    def _hire_missing(self) -> None:
        # Asked again for each one: the first step of a job may be taken in here, and change anything.
        while not self.closed and min(self.target - self.staying, self.places - self.held) > 0:
            if self._paced:
                if self._lost or self.is_bad_time():
                    return  # perhaps the loop is on its way down: see `lost`
                wait = self.pace.not_before - self.loop.time()
                if wait > 0:
                    self._look_again(wait)
                    return
                if self.pace.failing and self.opening:
                    return  # what fails is tried by one; the others follow when it has succeeded
            self.hire()

    def hire(self) -> Worker:
        """Let one more come, at once. For `settle`; and for a door that needs one beyond the target."""
        self._numbers += 1
        worker = Worker(self, self._numbers)
        worker.wave = self.pace.wave
        worker.simple = self.simple
        self.roster[worker] = None
        self.opening += 1
        self._keeper.open(worker)
        return worker

    def _dismiss(self, *, cut: bool) -> None:
        """Let those go that are too many: who is free first, then who is not there yet, then the others."""
        surplus, why = self.staying - self.target, "the group was made smaller"
        if surplus <= 0:
            return
        for worker in list(islice(self.free, surplus)):  # those that have been free for longest
            surplus -= 1
            self.leave(worker, why)
        for state in (OPENING, BUSY):
            # Never more than that, though there be more by now: how those are to go is said by who has asked for it.
            surplus = min(surplus, self.staying - self.target)
            if surplus <= 0:
                return
            found = [worker for worker in reversed(self.roster) if worker.state is state]  # the newest first
            if state is BUSY:
                found.sort(key=self._door.is_idle, reverse=True)
            for worker in found[:surplus]:
                surplus -= 1
                self.leave(worker, why)
                if cut and worker.state is LEAVING:
                    self._door.worker_lost(worker, asyncio.CancelledError("its worker was told to leave at once"))

    def _send_home(self) -> None:
        why = "the group was closed"
        for worker in list(self.free):
            self.leave(worker, why)
        if self.staying:
            for worker in list(self.roster):
                self.leave(worker, why)

    def _look_again(self, wait: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(wait, self._again, context=self.context)

    def _again(self) -> None:
        self._timer = None
        self.settle()

    def _look_if_stalled(self) -> None:
        stalled = self.target > 0 and self.places <= 0 and not self.held
        if stalled and not self.stalled:
            self.stalled = True
            _log.error(
                "%s is stalled: %d abandoned threads hold all places, and nothing can run until one of them ends",
                self.name, self.abandoned, extra={"service": self.home.name},
            )  # fmt: skip
            self._door.group_stalled()
        self.stalled = stalled

    # --- one worker's way: for keepers ------------------------------------------------------

    def opened(self, worker: Worker) -> None:
        """It is there, with what it owns."""
        if worker.state is not OPENING:
            return
        self.opening -= 1
        self.pace.opened()
        self.counts.opened += 1
        worker.state = FREE
        self.free[worker] = None
        if self.limits is not None:
            self.limits.opened(worker)
            self.limits.watch(worker)
        self._first_is_over(worker)
        self._door.worker_opened(worker)
        if worker.state is FREE:
            self._door.worker_free(worker)
        self.settle()

    def opening_failed(self, worker: Worker, error: BaseException) -> None:
        """What it was to own could not be made."""
        wanted = worker.state is OPENING and not self.closed
        worker.error, worker.reason = error, worker.reason or "its resource could not be made"
        self._out(worker)
        if wanted:
            self.last_error = error
            self.counts.failed_openings += 1
            for_good = isinstance(error, ConfigError)  # the recipe is wrong: no other opening will do better
            delay = self.pace.opening_failed(worker.wave, self.loop.time())
            follows = "and never will be" if for_good else f"the next attempt comes in {text(delay)}"
            self._warn("a resource could not be made, %s: %s", follows, brief(error))
            self.closed = self.closed or for_good
            self._end_changes()
            self._door.opening_failed(worker, delay, error)
            if for_good:
                self.close()
        elif not isinstance(error, asyncio.CancelledError):
            self._warn("a resource that was not wanted any more could not be made: %s", brief(error))
        self.settle()

    def gone(self, worker: Worker) -> None:
        """What it owned has been taken down."""
        if worker.state is GONE:
            return
        self.counts.closed += 1
        if worker.error is not None and not worker.faulty:
            self.last_error = worker.error
            self._warn("taking a resource down failed: %s", brief(worker.error))
            if isinstance(worker.error, asyncio.CancelledError):  # mostly as in `lost`
                self.pace.put_off(self.loop.time() + MOMENT)
        self._out(worker)
        self.settle()

    def lost(self, worker: Worker, error: BaseException) -> None:
        """Somebody else ends what holds the resource. It is taken down when the work has ended.

        Mostly that is the loop on its way down, and whatever is begun on it now is lost as well. So nobody is hired
        before all that are lost are gone, and then only if the loop goes on.
        """
        self.pace.put_off(self.loop.time() + MOMENT)
        if worker.state is FREE or worker.state is BUSY or worker.state is LEAVING:
            self._lost[worker] = None
            self.condemn(worker, error, "its resource is lost")
            if worker.work is not None:
                self._door.worker_lost(worker, error)

    def came_back(self, worker: Worker) -> None:
        """The work of an abandoned one has ended after all, or will never be heard of any more."""
        self.abandoned -= 1
        self.closing += 1
        worker.state = CLOSING

    # --- one worker's way: for the door -----------------------------------------------------

    def released(self, worker: Worker) -> None:
        """This worker has ended its work. A door does it by itself where the worker is BUSY, and no limits are set."""
        if worker.state is BUSY:
            if self.limits is not None and self.limits.is_too_old(worker):
                self.leave(worker, "its resource is too old")
            else:
                self._be_free(worker)
                return
        if worker.state is LEAVING:
            self.leaving -= 1
            self._close(worker)
        elif worker.state is ABANDONED:
            if worker.thread is None:
                self.came_back(worker)
                self._keeper.close(worker)
            else:
                self._keeper.end_thread(worker)  # which may have work of it, too
        self.settle()

    def condemn(self, worker: Worker, error: BaseException, reason: str, *, at_once: bool = False) -> None:
        """The resource of this worker must not be used again: it leaves, and is replaced, `at_once` or not."""
        if worker.faulty or worker.state in _WITHOUT:
            return
        worker.faulty = True
        worker.error = self.last_error = error
        self.counts.replaced += 1
        if self._paced and not at_once:
            self.pace.died(worker.wave, self.loop.time())
        self.leave(worker, reason)
        self.settle()

    def leave(self, worker: Worker, reason: str) -> None:
        """Tell a worker to go: now, if it has nothing in hand."""
        state = worker.state
        if state is FREE:
            del self.free[worker]
            worker.reason = reason
            self._close(worker)
        elif state is BUSY:
            worker.state, worker.reason = LEAVING, reason
            self.leaving += 1
            self._door.worker_leaves(worker)
        elif state is OPENING:
            worker.state, worker.reason = CLOSING, reason
            self.opening -= 1
            self.closing += 1
            self._first_is_over(worker)
            self._keeper.close(worker)
        else:
            return
        self._dirty = True

    def abandon(self, worker: Worker) -> None:
        """Its work goes on, and nobody waits for it any more. It is replaced, if that is allowed.

        Where the door has taken `worker.work` away before, the work is in the worker's thread, and ends with that;
        otherwise the door says by `released` when it has ended.
        """
        if worker.state is LEAVING:
            self.leaving -= 1
        elif worker.state is not BUSY:
            return
        worker.state = ABANDONED
        worker.reason = worker.reason or "its work was abandoned"
        self.abandoned += 1
        self._found(worker)
        if worker.work is None and worker.thread is not None:
            self._keeper.end_thread(worker)
        self.settle()

    def thread_of(self, worker: Worker) -> OwnThread:
        """The worker's own thread; it is made when it is first asked for."""
        return self._keeper.thread_of(worker)

    def let_go(self) -> None:
        """Those that do not come to an end although they were told to: cut short what can be."""
        for worker in list(self.roster):
            if worker.state is CLOSING:
                self._keeper.let_go(worker)

    def forsake(self) -> None:
        """The loop has been closed: end what does not live on it."""
        self._keeper.forsake()

    def hanging(self) -> list[tuple[str, str]]:
        """What the makers and takers down are at that have not come to an end, and where."""
        said, where = "the resource of worker {} ({})", self._keeper.where
        found = [worker for worker in self.roster if worker.state is CLOSING or worker.state is OPENING]
        return [(said.format(worker.number, worker.state.value), where(worker)) for worker in found]

    # --- steps --------------------------------------------------------------------------------

    def _be_free(self, worker: Worker) -> None:
        worker.state = FREE
        self.free[worker] = None
        if self.limits is not None:
            self.limits.watch(worker)
        self._door.worker_free(worker)

    def _close(self, worker: Worker) -> None:
        worker.state = CLOSING
        self.closing += 1
        self._keeper.close(worker)

    def _out(self, worker: Worker) -> None:
        state = worker.state
        if state is OPENING:
            self.opening -= 1
            self._first_is_over(worker)
        elif state is CLOSING:
            self.closing -= 1
        worker.state = GONE
        worker.resource = worker.opened = None
        del self.roster[worker]
        self._found(worker)
        if self.limits is not None:
            self.limits.forget(worker)
        self._door.worker_gone(worker)

    def _found(self, worker: Worker) -> None:
        """If it was lost: nobody waits for its end any more."""
        if worker in self._lost:
            del self._lost[worker]
            self.pace.put_off(self.loop.time() + MOMENT)

    def _first_is_over(self, worker: Worker) -> None:
        if self._first_left and worker.number <= self._first:
            self._first_left -= 1
            if not self._first_left:
                self.begun.open()

    def _warn(self, said: str, *args: object) -> None:
        _log.warning(f"%s: {said}", self.name, *args, extra={"service": self.home.name})
