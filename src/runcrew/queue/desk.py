"""Desk: one life of a queue, from the acceptance of a ticket to its end.

A ticket waits in its level, or outside the queue for its time to come; a free worker takes the one whose turn it
is. All of that happens on the loop, in short steps: whoever ends a piece of work, or brings one, also hands out
what can be handed out (`pump`). So that this does not keep the loop from everybody else, it stops after a slice of
time that all steps of one round of the loop share, and goes on in the next round.

A run that is handed out while another is being handed out, because that one's first step submits something, waits
until the outer one has taken its first step: so nothing nests, however long the chain.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from runcrew import clock
from runcrew.errors import ConfigError, QueueFull, brief
from runcrew.events import OpeningFailed, Stalled, WorkerGone, WorkerOpened
from runcrew.job import Status, entered
from runcrew.lifecycle.inside import inside, is_inside
from runcrew.queue.books import Books
from runcrew.queue.ends import Ends
from runcrew.queue.levels import Levels
from runcrew.queue.making import Maker
from runcrew.queue.on_loop import Carrier
from runcrew.queue.room import Room
from runcrew.queue.spares import Spares
from runcrew.queue.ticket import SUCCEEDED, More, Ticket, would_deadlock
from runcrew.workers import BUSY, FREE, Group, Worker
from runcrew.workers.teardown import Teardown

if TYPE_CHECKING:
    from runcrew.queue.service import QueueService
    from runcrew.queue.setup import Setup

#: How long runs are handed out in one round of the loop, in seconds.
SLICE: Final = 0.001


class Desk:
    """The tickets and the workers of one life."""

    __slots__ = (
        "_arrived", "_at", "_begin", "_limit", "_new_round", "_pump_due", "_pumping", "_slice_ends", "_stamps",
        "_teardown", "accepted", "books", "carrier", "context", "delayed", "draining", "ended", "ends", "free",
        "group", "home", "levels", "loop", "make", "name", "now", "open", "over", "room", "setup", "slice_is_over",
        "spares",
    )  # fmt: skip

    def __init__(self, home: QueueService[Any], setup: Setup, context: contextvars.Context) -> None:
        self.home = home
        self.name = home.name
        self.setup = setup
        self.loop = asyncio.get_running_loop()
        #: What is the library's own happens in this.
        self.context = context
        self.now = clock.current().reader()
        self.levels = Levels(setup.max_wait)
        self.room = Room(self, setup.maxsize)
        #: Those that wait outside the queue for their time to come.
        self.delayed: dict[Ticket[Any], None] = {}
        self.books = Books(self, setup.new_collector())
        self.ends = Ends(self)
        #: How many runs were accepted, and how many of them have ended.
        self.accepted = self.ended = 0
        #: Whether anything is accepted; and whether the end comes when nothing is outstanding any more.
        self.open = True
        self.draining = False
        self.group = Group(
            self, home, home.name, setup.recipe, size=setup.workers, most=setup.max_workers,
            max_abandoned=setup.max_abandoned, backoff=setup.backoff, processes=setup.kind(home.name), context=context,
            work_context=home.work_context,
        )  # fmt: skip
        #: The group's own.
        self.free = self.group.free
        self.carrier = Carrier(self)
        self.spares = Spares(self)
        #: Makes a ticket that is not accepted yet.
        self.make = Maker(self).make
        self._begin = self.carrier.begin
        self._arrived = self.books.arrived
        self._stamps, self._limit = self.books.stamps, self.books.limit
        self._pumping = self._pump_due = False
        #: When the slice of this round ends; and whether one may begin: none has in this round.
        self._slice_ends = 0.0
        self._new_round = True
        #: Whether this round's slice is used up: who can, lets the others have their turn.
        self.slice_is_over = False
        #: When the last run ended on the loop: another object each time.
        self._at = 0.0
        #: Whether this life has ended.
        self.over = False
        self._teardown = Teardown(self, (self.group, self.spares.group))
        self.group.is_bad_time = self.spares.group.is_bad_time = lambda: self.going_down

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call it in the next round of the loop, in the library's own context."""
        self.loop.call_soon(callback, *args, context=self.context)

    # --- acceptance -----------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise what says why nothing is accepted, if so."""
        if not self.open:
            raise self.home.refusal()

    def has_room(self, ticket: Ticket[Any]) -> bool:
        """Whether there is room for it now, and nobody would be overtaken."""
        return self.levels.count < self.room.ample or self.room.is_free(self.is_for_later(ticket))

    def is_for_later(self, ticket: Ticket[Any]) -> bool:
        """Whether it has to wait for its time first."""
        more = ticket._more
        return more is not None and bool(more.delay)

    def make_room(self, ticket: Ticket[Any]) -> bool:
        """The queue is full: do what it says about that. False: the ticket has ended as one that was dropped.

        Raises QueueFull where it does not say to drop anything: nothing was accepted then.
        """
        overflow, most = self.setup.overflow, self.setup.maxsize
        if overflow == "drop_oldest":
            oldest = self.levels.least_urgent()
            if oldest is not None and oldest.priority <= ticket.priority:
                self.ends.end_waiting(
                    oldest, Status.SKIPPED, f"dropped: the queue is full ({most:g}), and a newer one came"
                )
                self.books.dropped += 1
                return True
        if overflow.startswith("drop"):
            ticket._queued = self.now()
            self.accepted += 1
            self._arrived(ticket._queued)
            self.books.dropped += 1
            self.ends.finish(ticket, Status.SKIPPED, None, ticket._queued, f"dropped: the queue is full ({most:g})")
            return False
        raise QueueFull(
            f"{self.name} is full: {self.levels.count + len(self.delayed)} of {most:g} tickets wait: "
            "submit later, await submit(), or give it a larger maxsize"
        )

    def accept(self, ticket: Ticket[Any]) -> None:
        """From here on it will have an outcome. It may begin, and end, before this returns."""
        now = ticket._queued = self.now()
        self.accepted += 1
        self._arrived(now)
        more = ticket._more
        if more is not None and not self._accept_more(ticket, more, now):
            return
        has_turn = now < self._slice_ends or (not self.slice_is_over and self._take_slice(now))
        if has_turn and self.free and not (self._pumping or ticket._plain or self.levels.count):
            self._pumping = True
            try:
                self._begin(self.free.popitem()[0], ticket, now)
            finally:
                self._pumping = False
            if self.levels.count:
                self.pump()
            elif self.room.waiting:
                self.room.look()
        else:
            self.levels.put(ticket)
            if not self._pump_due and (self.free or ticket._plain):
                self.pump_soon()

    def _accept_more(self, ticket: Ticket[Any], more: More, now: float) -> bool:
        """What only some tickets need. False: it is not to be handed out, at least not yet."""
        more.waits_since = now
        dedupe = self.setup.dedupe
        if dedupe is not None:
            claim = dedupe.claim(ticket.as_run())
            if isinstance(claim, str):
                self.ends.finish(ticket, Status.SKIPPED, None, now, claim)
                return False
            more.claim = claim
        if more.due_span is not None:
            more.due = now + more.due_span
            more.due_timer = self.later(more.due_span, self.ends.due, ticket)
        if more.delay is not None and more.delay > 0:
            self.wait_outside(ticket, more, more.delay)
            return False
        return True

    def later(self, span: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call it in so many seconds, in the library's own context."""
        return self.loop.call_later(span, callback, *args, context=self.context)

    def wait_outside(self, ticket: Ticket[Any], more: More, delay: float) -> None:
        """Let it wait outside the queue until its time has come."""
        self.delayed[ticket] = None
        self.room.changed()
        more.back_timer = self.later(delay, self._back, ticket)

    def _back(self, ticket: Ticket[Any]) -> None:
        """The time of one that waited outside has come: it came before all others of its level."""
        more = ticket.more()
        more.back_timer = None
        del self.delayed[ticket]
        self.room.changed()
        self.levels.put_back(ticket)
        self.pump()

    # --- handing out ------------------------------------------------------------------------

    def pump_soon(self) -> None:
        """Hand out what can be handed out, in the next round of the loop."""
        if not self._pump_due:
            self._pump_due = True
            self.loop.call_soon(self._pump_now, context=self.context)

    def _pump_later(self) -> None:
        """The same, in the round after the next: so that timers and whatever comes from outside go first."""
        if not self._pump_due:
            self._pump_due = True
            self.loop.call_soon(self.loop.call_soon, self._pump_now, context=self.context)

    def _pump_now(self) -> None:
        self._pump_due = False
        self.pump()

    def pump(self) -> None:
        """Hand out what can be handed out, as far as this round's slice goes."""
        if self._pumping or self.going_down:
            return
        levels, free, room, threads = self.levels, self.free, self.room, self.carrier.ahead
        self._pumping = True
        try:
            seen = self._at
            while levels.count and (free or threads.has_places):
                now = self._at
                if now is seen:
                    now = self.now()  # otherwise a run that has ended just now has read the time
                if now >= self._slice_ends and not self._take_slice(now):
                    self._pump_later()
                    break
                seen = self._at
                if not free:
                    threads.fill()
                elif (ticket := levels.pop(now)) is not None:
                    self._begin(free.popitem()[0], ticket, now)
                if room.waiting:
                    room.look()
        finally:
            self._pumping = False
        if room.waiting:
            room.look()

    @property
    def may_hand_out(self) -> bool:
        """Whether something may be handed out here and now, and not by the one who does that already."""
        return not (self._pumping or self.going_down)

    @property
    def going_down(self) -> bool:
        """Whether somebody has cancelled all tasks, and is mostly the loop on its way down."""
        return self._teardown.begun

    def hold(self) -> None:
        """Hand nothing out from here on, and hire nobody: what is begun now would be lost."""
        self._pumping = True  # who is to hire asks `going_down`

    def hold_no_more(self) -> None:
        """Go on."""
        self._pumping = False
        self.group.settle()
        self.spares.group.settle()
        self.pump()

    def _take_slice(self, now: float) -> bool:
        """The slice is used up: begin another, if this round of the loop has had none. False: it has."""
        if not self._new_round:
            self.slice_is_over = True
            return False
        self._new_round = False
        self.books.hubs_changed()  # and the level of the log, which tells nobody
        self._slice_ends = now + SLICE
        self.loop.call_soon(self._next_round, context=self.context)
        return True

    def _next_round(self) -> None:
        self._new_round, self.slice_is_over = True, False
        self._slice_ends = 0.0

    # --- the end of an attempt ----------------------------------------------------------------

    def returned(self, ticket: Ticket[Any], worker: Worker, value: Any) -> None:
        """The job has returned: it has succeeded, whatever was asked in the meantime."""
        # The way of each run that succeeds at once: in one piece, since calls are what costs here.
        ended = self._at = self.now()
        if ticket._more is None:
            started = ticket._started or ended
            ticket._result, ticket._ended = value, ended
            ticket._status = SUCCEEDED
            ticket._args, ticket._context = (), None
            self.ended += 1
            stamps = self._stamps
            stamps += (ticket._queued, started, ended)
            if len(stamps) >= self._limit or self.books.tells:
                self._tell(ticket)
            if ticket._waiters is not None:
                ticket._wake()
        elif ticket._status is None:
            self.ends.succeeded(ticket, ticket._more, value, ended)
        worker.work = worker.task = None
        if worker.state is BUSY and worker.simple:
            worker.state = FREE
            self.free[worker] = None
            if not self._pumping:
                if self.levels.count:
                    self.pump()
                elif self.room.waiting:
                    self.room.look()
        else:
            worker.group.released(worker)
            if self.levels.count:
                self.pump()
        if self.draining:
            self.look_if_drained()

    def succeeded(self, ticket: Ticket[Any], value: Any, started: float, ended: float) -> None:
        """The same for a run in a thread, whose worker may have more in hand."""
        ticket._result, ticket._ended = value, ended
        ticket._status = SUCCEEDED
        ticket._args, ticket._context = (), None
        self.ended += 1
        stamps = self._stamps
        stamps += (ticket._queued, started, ended)
        if len(stamps) >= self._limit or self.books.tells:
            self._tell(ticket)
        if ticket._waiters is not None:
            ticket._wake()

    def _tell(self, ticket: Ticket[Any]) -> None:
        """It is time to count, or somebody wants to hear of each."""
        books = self.books
        if len(self._stamps) >= self._limit:
            books.count()
            # Where time stands still, a slice ends by the number of runs.
            self._slice_ends = 0.0
        if books.tells:
            books.tell_end(ticket)

    def release(self, worker: Worker) -> None:
        """This worker has ended its work."""
        worker.work = worker.task = None
        if worker.state is BUSY and worker.simple:
            worker.state = FREE
            self.free[worker] = None
            if not self._pumping:
                if self.levels.count:
                    self.pump()
                elif self.room.waiting:
                    self.room.look()
        else:
            worker.group.released(worker)
            if self.levels.count:
                self.pump()
        if self.draining:
            self.look_if_drained()

    def look_if_drained(self) -> None:
        """In a drain: nothing may be outstanding any more."""
        if self.draining and self.accepted == self.ended:
            self.group.close()
            self.spares.group.close()

    def check_wait(self) -> None:
        """Raise WouldDeadlock in a job of this queue: it would wait for its own queue."""
        run = entered()
        if run is None and not inside.get():
            return
        if isinstance(run, Ticket) and run._status is not None and run.home is self.home:
            return  # what a job has left behind, and that has ended
        if is_inside(self.home):
            raise would_deadlock(self.name)

    # --- what the group tells -----------------------------------------------------------------

    def worker_opened(self, worker: Worker) -> None:
        """See Door."""
        if self.home.hub.wants(WorkerOpened):
            self.home.hub.emit(WorkerOpened(self.now(), self.name, worker.number))

    def worker_free(self, worker: Worker) -> None:
        """See Door."""
        if self.levels.count:
            self.pump()
        elif self.room.waiting:
            self.room.look()

    def worker_leaves(self, worker: Worker) -> None:
        """See Door. What it has in hand says so itself when it ends."""

    def is_idle(self, worker: Worker) -> bool:
        """See Door."""
        return False

    def worker_lost(self, worker: Worker, error: BaseException) -> None:
        """See Door."""
        self.carrier.lost(worker, error)

    def worker_gone(self, worker: Worker) -> None:
        """See Door."""
        self.carrier.ahead.left.pop(worker, None)
        if worker.reason and self.home.hub.wants(WorkerGone):  # without one it has never been there
            self.home.hub.emit(WorkerGone(self.now(), self.name, worker.number, worker.reason, worker.error))

    def opening_failed(self, worker: Worker, delay: float, error: BaseException) -> None:
        """See Door."""
        if self.home.hub.wants(OpeningFailed):
            self.home.hub.emit(OpeningFailed(self.now(), self.name, worker.number, delay, error))
        if isinstance(error, ConfigError):
            self.home.fail(error)
        elif self.draining:
            self.give_up_if_hopeless()

    def give_up_if_hopeless(self) -> None:
        """In a drain: nobody is there, and nobody will come. What waits is not going to be done."""
        if self.group.is_hopeless:
            why = brief(self.group.last_error)
            self.ends.interrupt_waiting(f"no worker is left, and no resource can be made: {why}")

    def group_stalled(self) -> None:
        """See Door."""
        if self.home.hub.wants(Stalled):
            self.home.hub.emit(Stalled(self.now(), self.name, self.group.abandoned))

    def all_gone(self) -> None:
        """See Door."""
        self.home.workers_gone(self)

    # --- the end ------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether no worker is left, and none will come."""
        groups = (self.group, self.spares.group)
        return all(group.is_over for group in groups)

    def end(self) -> None:
        """This life is over."""
        self.over = True
        self.carrier.ahead.stop()
        self._teardown.end()

    def working(self) -> list[Worker]:
        """Those that have work in hand."""
        return [w for group in (self.group, self.spares.group) for w in group.roster if w.work is not None]

    def interrupt_all(self, reason: str) -> None:
        """Time is up: end what waits, and ask what runs to end."""
        self.ends.interrupt_waiting(reason)
        self.spares.interrupt_waiting(reason)
        for worker in self.working():
            self.carrier.interrupt(worker, reason)

    def forsake(self, reason: str) -> None:
        """The loop is closed, or about to be: nothing on it will ever go on."""
        tickets = [*self.levels.all(), *self.delayed, *self.spares.all_waiting()]
        for worker in self.working():
            tickets += self.carrier.in_hand(worker)
        for ticket in tickets:
            if ticket._status is None:
                ticket._waiters = None  # they have ended with the loop
                more = ticket.more()
                if more.why is None:
                    more.why, more.why_text = Status.INTERRUPTED, reason
                if more.run is not None:
                    more.run.tell()  # it may be in a thread, which has not ended
                error = more.history[-1].error if more.history else None
                self.ends.finish(ticket, Status.INTERRUPTED, error, self.now(), reason)
        self.group.forsake()
        self.spares.group.forsake()
