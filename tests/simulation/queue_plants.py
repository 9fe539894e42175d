"""Faults to plant in the queue and its workers: each one has been made somewhere, or is easily made in such code."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from runcrew.job import Status
from runcrew.queue import decide, ends, on_loop
from runcrew.queue.books import Books
from runcrew.queue.desk import Desk
from runcrew.queue.ends import Ends
from runcrew.queue.in_threads import Handed, InThreads
from runcrew.queue.levels import Levels
from runcrew.queue.on_loop import Carrier
from runcrew.queue.room import Room
from runcrew.queue.service import QueueService
from runcrew.queue.spares import Spares
from runcrew.queue.ticket import Ticket
from runcrew.workers import group as groups
from runcrew.workers.group import Group
from runcrew.workers.keeper import Keeper, KeeperInLoop
from runcrew.workers.worker import BUSY, CLOSING, OPENING

Plant: TypeAlias = Callable[[pytest.MonkeyPatch], None]


# --- tasks and cancellation --------------------------------------------------------------


def opening_ends_inside(patch: pytest.MonkeyPatch) -> None:
    """The end of an opening is told by the code in its task: one that is cancelled before its first step runs none."""

    async def keep(self: KeeperInLoop, worker: Any) -> None:
        try:
            await original(self, worker)
        finally:
            asyncio.get_running_loop().call_soon(ended, self, worker, worker.keeper)

    original, ended = KeeperInLoop._keep, KeeperInLoop._ended
    patch.setattr(KeeperInLoop, "_keep", keep)
    patch.setattr(KeeperInLoop, "_ended", lambda self, worker, task: None)


def job_ends_inside(patch: pytest.MonkeyPatch) -> None:
    """The same of a job, where tasks do not take their first step at once."""
    patch.setattr(Carrier, "not_begun", lambda self, ticket, worker: None)


def deaf_in_its_first_step(patch: pytest.MonkeyPatch) -> None:
    """A job that is cancelled in its first step, before its task is known, is not cancelled at all."""
    beginning: list[object] = []

    class Deaf(asyncio.Task[Any]):
        def cancel(self, msg: Any | None = None) -> bool:
            return False if beginning else super().cancel(msg)

    def begin(self: Carrier, *args: Any) -> None:
        beginning.append(self)
        try:
            original(self, *args)
        finally:
            beginning.pop()

    original = Carrier.begin
    patch.setattr(Carrier, "begin", begin)
    patch.setattr(on_loop, "Task", Deaf)


def exit_comes_out(patch: pytest.MonkeyPatch) -> None:
    """What is no Exception goes its way out of the task, and so out of whoever has just begun it."""

    def raised(self: Carrier, ticket: Any, worker: Any, error: BaseException) -> None:
        if isinstance(error, SystemExit):
            raise error
        original(self, ticket, worker, error)

    original = Carrier.raised
    patch.setattr(Carrier, "raised", raised)


def context_entered_twice(patch: pytest.MonkeyPatch) -> None:
    """The next attempt begins in the very context of the one that is just ending."""

    def between(self: Ends, ticket: Any, *args: Any) -> None:
        context = ticket._context
        original(self, ticket, *args)
        ticket._context = context

    original = Ends.between
    patch.setattr(Ends, "between", between)


def submits_nest(patch: pytest.MonkeyPatch) -> None:
    """A run that is handed out while another is, is begun inside it."""
    patch.setattr(Desk, "_pumping", property(lambda self: False, lambda self, value: None), raising=False)


def context_of_whoever_is_first(patch: pytest.MonkeyPatch) -> None:
    """Jobs see the variables of another than the one who submitted them."""
    first: list[contextvars.Context] = []

    def begin(self: Carrier, worker: Any, ticket: Any, *args: Any) -> None:
        first.append(ticket._context.copy())
        ticket._context = first[0].copy()
        original(self, worker, ticket, *args)

    original = Carrier.begin
    patch.setattr(Carrier, "begin", begin)


def one_future_for_all(patch: pytest.MonkeyPatch) -> None:
    """All who wait for a ticket wait on one future, so cancelling one cancels all."""
    futures: dict[int, asyncio.Future[None]] = {}

    def wait(self: Ticket[Any]) -> Any:
        self._check_wait()
        while self._status is None:
            future = futures.get(id(self))
            if future is None or future.done():
                future = futures[id(self)] = asyncio.get_running_loop().create_future()
                self._add(future)
            yield from future

    patch.setattr(Ticket, "_wait", wait)


def keeper_leaves_at_once(patch: pytest.MonkeyPatch) -> None:
    """A keeper that is cancelled takes the resource down under the job that uses it."""

    async def hold(self: KeeperInLoop, worker: Any, release: Any) -> bool:
        try:
            await release
        except asyncio.CancelledError:
            self.group.lost(worker, asyncio.CancelledError("gone"))
        return True

    patch.setattr(KeeperInLoop, "_hold", hold)


def cancelled_over_and_over(patch: pytest.MonkeyPatch) -> None:
    """A job that is cleaning up after its cancellation is cancelled again."""

    def end_early(self: Ends, ticket: Any, status: Status, reason: str) -> bool:
        first = original(self, ticket, status, reason)
        if not first and ticket._worker is not None and ticket._worker.task is not None:
            ticket._worker.task.cancel()
        return first

    original = Ends.end_early
    patch.setattr(Ends, "end_early", end_early)


def anything_is_a_verdict(patch: pytest.MonkeyPatch) -> None:
    """A cancellation that nobody asked for is shown to `healthy`, as any error is."""

    def settle_failed(self: Ends, ticket: Any, worker: Any, status: Any, error: Any, reason: str = "") -> None:
        if ticket._status is None:
            self.next_after(ticket, status, error, reason, faulty=self._is_faulty(worker, error))

    patch.setattr(Ends, "settle_failed", settle_failed)


# --- workers ------------------------------------------------------------------------------


def opening_is_in_no_book(patch: pytest.MonkeyPatch) -> None:
    """Whoever is still opening is not counted among those that come."""
    original: Any = Group.staying.fget  # type: ignore[attr-defined]
    patch.setattr(Group, "staying", property(lambda self: original(self) - self.opening))


def only_the_living_count(patch: pytest.MonkeyPatch) -> None:
    """Workers that open, leave or close hold no place under the maximum."""
    patch.setattr(Group, "held", property(lambda self: self.staying - self.opening))


def settles_inside_itself(patch: pytest.MonkeyPatch) -> None:
    """What settling brings about is settled inside it."""
    patch.setattr(Group, "_settling", property(lambda self: False, lambda self, value: None), raising=False)


def counts_by_looking(patch: pytest.MonkeyPatch) -> None:
    """How many stay is found out by looking at all of them, each time."""

    def leave(self: Group, worker: Any, reason: str) -> None:
        assert sum(is_there(one) for one in self.roster) <= len(self.roster)
        original(self, worker, reason)

    def is_there(worker: Any) -> bool:
        return worker.state is not CLOSING and worker.state is not OPENING

    original = Group.leave
    patch.setattr(Group, "leave", leave)


def drain_looks_once(patch: pytest.MonkeyPatch) -> None:
    """Who ends the last piece of work in a drain does not ask whether that was all."""
    looked: list[Desk] = []

    def look_if_drained(self: Desk) -> None:
        if self not in looked:
            looked.append(self)
            original(self)

    original = Desk.look_if_drained
    patch.setattr(Desk, "look_if_drained", look_if_drained)


def nobody_is_hired_in_a_drain(patch: pytest.MonkeyPatch) -> None:
    """A worker that dies in a drain is not replaced."""

    def hire_missing(self: Group) -> None:
        if self.home.state != "stopping":
            original(self)

    original = Group._hire_missing
    patch.setattr(Group, "_hire_missing", hire_missing)


def drain_forgets_the_delayed(patch: pytest.MonkeyPatch) -> None:
    """A drain does not wait for what waits for its next attempt."""

    def look_if_drained(self: Desk) -> None:
        if self.draining and not self.levels.count and not self.working():
            self.ends.interrupt_waiting("nobody works any more")
        original(self)

    original = Desk.look_if_drained
    patch.setattr(Desk, "look_if_drained", look_if_drained)


def never_hopeless(patch: pytest.MonkeyPatch) -> None:
    """A drain waits for ever for a worker whose resource can never be made."""
    patch.setattr(groups, "HOPELESS", 10**9)


def faulty_is_used_again(patch: pytest.MonkeyPatch) -> None:
    """The verdict on a resource has no consequence for its worker."""
    patch.setattr(Group, "condemn", lambda self, worker, error, reason: None)


def idle_ones_stay_open(patch: pytest.MonkeyPatch) -> None:
    """A worker that leaves does not take its resource down."""
    patch.setattr(KeeperInLoop, "take_down", Keeper.take_down)


def failures_are_final(patch: pytest.MonkeyPatch) -> None:
    """A worker whose resource could not be made is not tried again."""

    def opening_failed(self: Group, worker: Any, error: BaseException) -> None:
        original(self, worker, error)
        if self._timer is not None:
            self._timer.cancel()

    original = Group.opening_failed
    patch.setattr(Group, "opening_failed", opening_failed)


def spares_without_bound(patch: pytest.MonkeyPatch) -> None:
    """There are as many runs past the queue as anybody asks for."""

    def init(self: Spares, *args: Any) -> None:
        original(self, *args)
        self.group.most = 1000

    original = Spares.__init__
    patch.setattr(Spares, "__init__", init)


# --- the queue ----------------------------------------------------------------------------


def accepted_after_the_stop(patch: pytest.MonkeyPatch) -> None:
    """A submitter that is woken by a stop does not look at the state again."""
    patch.setattr(Desk, "check_open", lambda self: None)


def reservation_lost(patch: pytest.MonkeyPatch) -> None:
    """A submitter that is cancelled with a reservation in hand keeps it."""

    async def wait(self: Any) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.waiting[waiter] = None
        try:
            await waiter
        finally:
            self.waiting.pop(waiter, None)

    patch.setattr(Room, "wait", wait)


def waits_for_itself(patch: pytest.MonkeyPatch) -> None:
    """A job that waits for its own queue is not told."""
    patch.setattr(Desk, "check_wait", lambda self: None)


def cancelled_is_retried(patch: pytest.MonkeyPatch) -> None:
    """That a run was asked to end is forgotten when its attempt has ended in another way."""

    def after_attempt(*args: Any, final: bool, **options: Any) -> Any:
        return decide.after_attempt(*args, final=False, **options)

    patch.setattr(ends, "after_attempt", after_attempt)


def dead_tickets_stay(patch: pytest.MonkeyPatch) -> None:
    """A ticket that ends while it waits stays in its line until its turn comes."""

    def left(self: Levels) -> None:
        self.count -= 1
        self._dead += 1

    patch.setattr(Levels, "left", left)


def handed_over_is_in_no_list(patch: pytest.MonkeyPatch) -> None:
    """A ticket that was handed out, and has not begun, is not found by who ends it."""

    def cancel(self: Carrier, ticket: Any, worker: Any) -> None:
        if worker.task is None or worker.task.get_coro().cr_frame.f_lasti > 10:
            original(self, ticket, worker)

    original = Carrier.cancel
    patch.setattr(Carrier, "cancel", cancel)


def first_in_first_out(patch: pytest.MonkeyPatch) -> None:
    """Priorities are ignored."""

    def put(self: Levels, ticket: Any) -> None:
        ticket.priority = 0
        original(self, ticket)

    original = Levels.put
    patch.setattr(Levels, "put", put)


def last_in_first_out(patch: pytest.MonkeyPatch) -> None:
    """Within a level the newest goes first."""
    patch.setattr(Levels, "put", Levels.put_back)


def drain_interrupts(patch: pytest.MonkeyPatch) -> None:
    """A stop ends at once what it promised to finish."""

    def begin_drain(self: QueueService[Any]) -> None:
        original(self)
        assert self.desk is not None
        self.desk.interrupt_all("stopped")

    original = QueueService._begin_drain
    patch.setattr(QueueService, "_begin_drain", begin_drain)


def kill_forgets_the_queued(patch: pytest.MonkeyPatch) -> None:
    """What waits when everything is cut has no outcome."""
    patch.setattr(Ends, "interrupt_waiting", lambda self, reason: 0)


def kill_only_drains(patch: pytest.MonkeyPatch) -> None:
    """When time is up, what runs is left alone."""
    patch.setattr(Carrier, "interrupt", lambda self, worker, said: None)


def books_forget(patch: pytest.MonkeyPatch) -> None:
    """Runs that were cancelled are not counted."""

    def ended(self: Books, ticket: Any, status: Status, *args: Any) -> None:
        if status is not Status.CANCELLED:
            original(self, ticket, status, *args)

    original = Books.ended
    patch.setattr(Books, "ended", ended)


def always_room(patch: pytest.MonkeyPatch) -> None:
    """There is always room for one more."""
    patch.setattr(Desk, "has_room", lambda self, ticket: True)


def once_is_not_enough(patch: pytest.MonkeyPatch) -> None:
    """A run that is to have one attempt only is put back after a verdict all the same."""

    def after_attempt(asked: Any, *args: Any, **options: Any) -> Any:
        return decide.after_attempt(asked._replace(at_most_once=False), *args, **options)

    patch.setattr(ends, "after_attempt", after_attempt)


def put_back_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Nobody counts how often a run was put back."""

    def after_attempt(asked: Any, *args: Any, **options: Any) -> Any:
        return decide.after_attempt(asked._replace(requeues=0), *args, **options)

    patch.setattr(ends, "after_attempt", after_attempt)


def timeouts_never_ring(patch: pytest.MonkeyPatch) -> None:
    """An attempt takes as long as it likes."""
    patch.setattr(Ends, "limit", lambda self, ticket, more: None)


def nobody_hands_out(patch: pytest.MonkeyPatch) -> None:
    """A worker that has become free does not look for its next piece of work."""

    def release(self: Desk, worker: Any) -> None:
        pumping, self._pumping = self._pumping, self._pumping or worker.state is not BUSY
        original(self, worker)
        self._pumping = pumping

    original = Desk.release
    patch.setattr(Desk, "release", release)


# --- threads ------------------------------------------------------------------------------


def line_goes_on(patch: pytest.MonkeyPatch) -> None:
    """What was handed to a thread behind a job that proves the resource faulty is done with it all the same."""
    original = InThreads.__init__

    def init(self: InThreads, *args: Any) -> None:
        original(self, *args)
        self.cautious = False

    patch.setattr(InThreads, "__init__", init)


def taken_back_begins(patch: pytest.MonkeyPatch) -> None:
    """What was taken back from a thread before it had begun begins there all the same."""
    patch.setattr(Handed, "take_back", lambda self: hasattr(self, "_take"))


def time_does_not_count(patch: pytest.MonkeyPatch) -> None:
    """The time of an attempt in a thread is never up."""
    patch.setattr(InThreads, "_time_up", lambda self, *args: None)
