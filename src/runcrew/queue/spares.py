"""Spares: resources for runs that go past the queue, at once: some are kept ready, others are made for one run.

They are a group of workers of their own. Each temporary one raises the number that should be there by one for as
long as its run lasts. What cannot be had at once is refused: nobody waits for another run here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from runcrew.errors import AtMax, ConfigError, ResourceError, brief
from runcrew.job import Status
from runcrew.queue.ticket import More, Ticket
from runcrew.workers import Group, Worker

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

#: A run past the queue gives up when so many resources did not pass the check.
TRIES: Final = 3


class Spares:
    """The runs past the queue of one desk, and their workers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        setup, home = desk.setup, desk.home
        self.kept = setup.spares
        self.group = Group(
            self, home, f"{home.name}-spare", setup.recipe, size=setup.spares, most=setup.max_spares,
            max_abandoned=setup.max_abandoned, backoff=setup.backoff, context=desk.context,
            work_context=home.work_context, processes=setup.kind(home.name),
        )  # fmt: skip
        self.group.simple = False  # each that ends may be one too many
        #: Those that wait for their temporary resource to be made.
        self._waiting: OrderedDict[Ticket[Any], None] = OrderedDict()
        #: Those that look for another one.
        self._between: dict[Ticket[Any], None] = {}
        #: Whether a failed opening of one that is kept ends the start; and what it was.
        self.starting = False
        self.failure: BaseException | None = None

    @property
    def running(self) -> int:
        """How many runs go past the queue now, those included whose resource is being made."""
        return self.group.busy + self.group.leaving + self.waiting

    @property
    def waiting(self) -> int:
        """How many wait for their resource to be made."""
        return len(self._waiting) + len(self._between)

    def all_waiting(self) -> list[Ticket[Any]]:
        """Those that wait for their resource to be made."""
        return [*self._waiting, *self._between]

    def interrupt_waiting(self, reason: str) -> None:
        """End all of those."""
        for ticket in self.all_waiting():
            self._desk.ends.end_early(ticket, Status.INTERRUPTED, reason)

    def accept(self, ticket: Ticket[Any]) -> None:
        """Begin it at once. Raises AtMax where that cannot be: nothing has been accepted then."""
        desk, group, more = self._desk, self.group, ticket.more()
        if not group.free and group.held >= group.places:
            raise AtMax(
                f"{desk.name}: {group.held} runs go past the queue, or their resources are not gone yet, and there "
                f"may be {group.places} (max_spares): submit it, try again later, or allow more"
            )
        more.past_queue, more.cause = True, "now"
        now = ticket._queued = desk.now()
        more.waits_since = now
        desk.accepted += 1
        desk.books.collector.arrived(now)
        if more.due_span is not None:
            more.due = now + more.due_span
            more.due_timer = desk.later(more.due_span, desk.ends.due, ticket)
        self._begin(ticket, now)

    def _begin(self, ticket: Ticket[Any], now: float) -> None:
        group = self.group
        if group.free:
            self._desk.carrier.begin(group.free.popitem()[0], ticket, now)
            return
        self._waiting[ticket] = None
        group.target += 1
        if group.held < group.places:
            group.hire()  # at once, also where others could not be made: it is told so
        group.settle()

    def elsewhere(self, ticket: Ticket[Any], more: More, error: BaseException) -> None:
        """Its resource did not pass the check: it takes another one; not for ever."""
        desk = self._desk
        more.unfit += 1
        more.told = True
        if more.unfit < TRIES:
            desk.ends.between(ticket, more, desk.now())
            ticket._started = None
            desk.call_soon(self._begin_again, ticket)
            self._between[ticket] = None
            return
        refused = ResourceError(f"{desk.name}: {more.unfit} resources did not pass the check: {brief(error)}")
        refused.__cause__ = error
        desk.ends.finish(ticket, Status.FAILED, refused, desk.now(), str(refused))

    def _begin_again(self, ticket: Ticket[Any]) -> None:
        if ticket in self._between:
            del self._between[ticket]
            self._begin(ticket, self._desk.now())

    def forget(self, ticket: Ticket[Any]) -> None:
        """It ends before its resource was there."""
        self._between.pop(ticket, None)
        if ticket in self._waiting:
            del self._waiting[ticket]
            self._one_less()

    def _one_less(self) -> None:
        if self.group.target > max(self.kept, self.running):
            self.group.target -= 1
            self.group.settle()

    # --- what the group tells -------------------------------------------------------------

    def worker_opened(self, worker: Worker) -> None:
        """See Door."""

    def worker_free(self, worker: Worker) -> None:
        """See Door."""
        if self._waiting:
            ticket, _ = self._waiting.popitem(last=False)
            del self.group.free[worker]
            self._desk.carrier.begin(worker, ticket, self._desk.now())
        else:
            self._one_less()

    def worker_leaves(self, worker: Worker) -> None:
        """See Door."""

    def is_idle(self, worker: Worker) -> bool:
        """See Door."""
        return False

    def worker_lost(self, worker: Worker, error: BaseException) -> None:
        """See Door."""
        self._desk.carrier.lost(worker, error)

    def worker_gone(self, worker: Worker) -> None:
        """See Door."""
        self._desk.carrier.ahead.left.pop(worker, None)

    def opening_failed(self, worker: Worker, delay: float, error: BaseException) -> None:
        """See Door."""
        if isinstance(error, ConfigError):
            self._desk.home.fail(error)
        if self.starting and self.failure is None:
            self.failure = error
        if not self._waiting:
            return
        ticket, _ = self._waiting.popitem(last=False)
        wrapped = ResourceError(f"{self._desk.name}: no temporary resource could be made: {brief(error)}")
        wrapped.__cause__ = error
        self._desk.ends.finish(ticket, Status.FAILED, wrapped, self._desk.now(), str(wrapped))
        self._one_less()
        self._desk.look_if_drained()

    def group_stalled(self) -> None:
        """See Door."""

    def all_gone(self) -> None:
        """See Door."""
        self._desk.home.workers_gone(self._desk)
