"""Faults to plant in the pool and its workers: each one has been made somewhere, or is easily made in such code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from runcrew.job import Status
from runcrew.lifecycle import BaseService
from runcrew.pool import on_loop
from runcrew.pool.books import Books
from runcrew.pool.cycle import Cycle
from runcrew.pool.floor import Floor
from runcrew.pool.occupancy import Occupancy
from runcrew.pool.on_loop import LoopCycle
from runcrew.pool.pool import Pool
from runcrew.pool.service import PoolService
from runcrew.pool.setup import Setup
from runcrew.pool.turns import Turns
from runcrew.workers import change
from runcrew.workers.change import Change
from runcrew.workers.group import Group
from runcrew.workers.keeper import Keeper, KeeperInLoop
from runcrew.workers.pace import Pace

Plant: TypeAlias = Callable[[pytest.MonkeyPatch], None]


# --- how many there are --------------------------------------------------------------------


def pause_freezes(patch: pytest.MonkeyPatch) -> None:
    """D4.1: what is asked for while the last worker goes into a pause is never done."""

    def settle(self: Group, *, cut: bool = False) -> None:
        if self.target and self.closing and not self.staying and not self.closed:
            self._dirty = False
            return
        paused = not self.target and not self.closed and not self.leaving
        original(self, cut=cut)
        if paused:
            frozen[id(self)] = self
        if id(self) in frozen and not self.closed:
            patch_group(self)

    def patch_group(group: Group) -> None:
        group._hire_missing = lambda: None  # type: ignore[method-assign]

    frozen: dict[int, Group] = {}
    original = Group.settle
    patch.setattr(Group, "settle", settle)


def spins_to_the_end(patch: pytest.MonkeyPatch) -> None:
    """D4.2: from the stop until the last worker has ended, somebody looks again in each round."""

    def begin_drain(self: PoolService) -> None:
        original(self)
        loop = asyncio.get_running_loop()

        def look() -> None:
            if self.state == "stopping":
                loop.call_soon(look)

        look()

    original = PoolService._begin_drain
    patch.setattr(PoolService, "_begin_drain", begin_drain)


def polls_in_a_pause(patch: pytest.MonkeyPatch) -> None:
    """Somebody looks every few milliseconds whether there are workers again."""

    def settle(self: Group, *, cut: bool = False) -> None:
        original(self, cut=cut)
        if not self.target and not self.closed and self.loop not in polling:
            polling[self.loop] = None
            poll(self)

    def poll(group: Group) -> None:
        if not group.target and not group.closed:
            group.loop.call_later(0.005, poll, group)
        else:
            polling.pop(group.loop, None)

    polling: dict[Any, None] = {}
    original = Group.settle
    patch.setattr(Group, "settle", settle)


def dead_but_not_closed(patch: pytest.MonkeyPatch) -> None:
    """D4.3: an error that ends the pool cancels its workers, and the pool goes on as if it lived."""

    def fail(self: PoolService, error: BaseException, cause: BaseException | None = None) -> None:
        assert self.floor is not None
        for cycle in self.floor.cycles():
            cycle.cut(Status.INTERRUPTED, "failed")

    patch.setattr(PoolService, "fail", fail)


def initial_above_max(patch: pytest.MonkeyPatch) -> None:
    """D4.4: it may begin with more than there may be, and above that the limit is none."""
    original = Setup._sizes

    def sizes(self: Setup, least: int, most: int | None, initial: int | None) -> None:
        original(self, least, most, None if most is None else min(initial or 1, most))
        self.initial = initial if initial is not None else self.initial

    patch.setattr(Setup, "_sizes", sizes)


def max_is_compared_for_equality(patch: pytest.MonkeyPatch) -> None:
    """D4.4: only who is just at the limit is kept from going beyond it."""

    def resize(self: Pool, workers: int, *, cut: bool) -> Change:
        group = self.at_work().group
        if group.target == self.setup.max and workers > group.target:
            return original(self, workers, cut=cut)
        group.most = max(group.most, workers)
        return group.resize(max(workers, 0), cut=cut)

    original = Pool._resize
    patch.setattr(Pool, "_resize", resize)


def max_bounds_the_kept(patch: pytest.MonkeyPatch) -> None:
    """D4.5: those that leave hold no place."""
    original: Any = Group.held.fget  # type: ignore[attr-defined]
    patch.setattr(Group, "held", property(lambda self: original(self) - self.leaving - self.closing))


def one_too_few(patch: pytest.MonkeyPatch) -> None:
    """Whoever is asked to go by two at a time takes one more along."""

    def dismiss(self: Group, *, cut: bool) -> None:
        before = self.target
        self.target = before if self.staying - before < 2 else max(0, before - 1)
        original(self, cut=cut)
        self.target = before

    original = Group._dismiss
    patch.setattr(Group, "_dismiss", dismiss)
    patch.setattr(Group, "_hire_missing", lambda self: None)


def faulty_is_not_replaced(patch: pytest.MonkeyPatch) -> None:
    """A worker whose resource is lost or faulty goes, and nobody comes in its place."""

    def condemn(self: Group, *args: Any) -> None:
        before = self.target
        self.target = max(0, before - 1)
        original(self, *args)
        self.target = before

    def hire_missing(self: Group) -> None:
        if not self.counts.replaced:
            hire(self)

    original, hire = Group.condemn, Group._hire_missing
    patch.setattr(Group, "condemn", condemn)
    patch.setattr(Group, "_hire_missing", hire_missing)


def failures_are_final(patch: pytest.MonkeyPatch) -> None:
    """A worker that could not be made is not tried again."""
    patch.setattr(Group, "_look_again", lambda self, wait: None)


def cancelled_worker_is_lost(patch: pytest.MonkeyPatch) -> None:
    """A worker whose task somebody else has cancelled never runs anything again."""
    patch.setattr(Floor, "_again", lambda self, worker: None)


def faulty_is_used_again(patch: pytest.MonkeyPatch) -> None:
    """The verdict on a resource has no consequence for its worker."""
    patch.setattr(Group, "condemn", lambda self, worker, error, reason: None)


def nobody_takes_down(patch: pytest.MonkeyPatch) -> None:
    """A worker that leaves does not take its resource down."""
    patch.setattr(KeeperInLoop, "take_down", Keeper.take_down)


def openings_without_pause(patch: pytest.MonkeyPatch) -> None:
    """What cannot be made is tried again at once, for ever."""

    def opening_failed(self: Pace, wave: int, now: float) -> float:
        return 0.0

    patch.setattr(Pace, "opening_failed", opening_failed)


# --- leaving and stopping ------------------------------------------------------------------


def leaving_cancels(patch: pytest.MonkeyPatch) -> None:
    """D4.7: who is told to leave has its run cancelled, always."""

    def leave(self: Cycle) -> None:
        original(self)
        self.cut(Status.INTERRUPTED, "it was to leave")

    original = Cycle.leave
    patch.setattr(Cycle, "leave", leave)


def runs_once_more(patch: pytest.MonkeyPatch) -> None:
    """Who is told to leave runs once more: the question comes after the run, not before it."""

    def leave(self: Cycle) -> None:
        asyncio.get_running_loop().call_later(0.3, original, self)

    original = Cycle.leave
    patch.setattr(Cycle, "leave", leave)
    patch.setattr(Cycle, "goes_on", property(lambda self: not self.told))


def idle_ones_are_waited_for(patch: pytest.MonkeyPatch) -> None:
    """Who waits for something to do is not ended when its worker is to leave."""
    patch.setattr(Cycle, "end_idle", lambda self: None)


def deaf_to_the_stop(patch: pytest.MonkeyPatch) -> None:
    """D4.16: a job that does not heed its cancellation is waited for without a limit."""
    patch.setattr(PoolService, "_give_up", lambda self: False)


def no_time_limit(patch: pytest.MonkeyPatch) -> None:
    """D4.16: nothing is cut when the time of a stop is up."""
    patch.setattr(PoolService, "_cut", lambda self: None)


def stops_from_inside_wait(patch: pytest.MonkeyPatch) -> None:
    """D4.21: a job that stops its own pool waits for itself."""

    async def end(self: BaseService, span: float) -> Any:
        life = self._life
        if self._state == "new":
            self._end_life()
        if life.report is None:
            self._begin_stop(span)
            await self._end_of(life)
        return life.report

    patch.setattr(PoolService, "_end", end, raising=False)


def changes_from_inside_wait(patch: pytest.MonkeyPatch) -> None:
    """A job that awaits a change which may need its own end is not told."""
    patch.setattr(change, "is_inside", lambda service: False)


def changes_never_end(patch: pytest.MonkeyPatch) -> None:
    """Who waits for a change is forgotten when the next one comes."""

    def resize(self: Group, target: int, *, cut: bool = False) -> Change:
        self._changes.clear()
        return original(self, target, cut=cut)

    original = Group.resize
    patch.setattr(Group, "resize", resize)


def changes_end_at_once(patch: pytest.MonkeyPatch) -> None:
    """A change says that it is complete when it has begun."""
    patch.setattr(Group, "_is_settled", property(lambda self: True))


def done_is_an_error(patch: pytest.MonkeyPatch) -> None:
    """A job that says there is no more to do is run again."""
    patch.setattr(PoolService, "finish", lambda self, *, tree: None)


# --- runs and errors -----------------------------------------------------------------------


def fails_without_pause(patch: pytest.MonkeyPatch) -> None:
    """D4.8: what fails is tried again at once, for ever."""
    patch.setattr(Setup, "pause_after", lambda self, in_a_row: 0.0)


def pauses_always(patch: pytest.MonkeyPatch) -> None:
    """The pause comes after the first failure already, and good runs do not end the row."""

    def pause_after(self: Setup, in_a_row: int) -> float:
        return original(self, in_a_row + 1)

    original = Setup.pause_after
    patch.setattr(Setup, "pause_after", pause_after)


def errors_vanish(patch: pytest.MonkeyPatch) -> None:
    """D4.8: nobody keeps the error of a run."""
    patch.setattr(Books, "failed", lambda self, run, outcome, delay: None)


def any_cancellation_is_exempt(patch: pytest.MonkeyPatch) -> None:
    """D4.17: a cancellation of the job's own is taken for one of ours."""

    def cut_short(self: LoopCycle, run: Any, error: BaseException) -> Any:
        run.ask_to_end(Status.INTERRUPTED, "cancelled")
        return run.ended_by_request(self.floor.now())

    patch.setattr(LoopCycle, "is_cancelled", lambda self, error: isinstance(error, asyncio.CancelledError))
    patch.setattr(LoopCycle, "cut_short", cut_short)


def the_last_error_counts(patch: pytest.MonkeyPatch) -> None:
    """What whoever waits is told is the last error, not the one that ended the pool."""

    def fail(self: BaseService, error: BaseException) -> None:
        self._life.error, self._life.traceback = error, error.__traceback__

    patch.setattr(BaseService, "_fail", fail)


def sick_is_an_end(patch: pytest.MonkeyPatch) -> None:
    """With stop_on_error nobody is waited for that is at work: they go on, and the pool with them."""

    def judge(self: Floor, cycle: Cycle, outcome: Any) -> None:
        if not self.setup.stop_on_error:
            original(self, cycle, outcome)

    original = Floor._judge
    patch.setattr(Floor, "_judge", judge)


def a_wrong_factory_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    """D4.19: what a factory raises comes out where nobody hears it, after the start has reported success."""

    def opening_failed(self: Group, worker: Any, error: BaseException) -> None:
        self._first_is_over(worker)
        self.loop.call_soon(_raise, error)

    patch.setattr(Group, "opening_failed", opening_failed)


def _raise(error: BaseException) -> None:
    raise error


def counted_twice(patch: pytest.MonkeyPatch) -> None:
    """What a cycle has counted is counted again when it ends."""

    def ended(self: Books, cycle: Cycle, run: Any, outcome: Any) -> None:
        original(self, cycle, run, outcome)
        if outcome.status is Status.INTERRUPTED:
            original(self, cycle, run, outcome)

    original = Books.ended
    patch.setattr(Books, "ended", ended)


def running_leaks(patch: pytest.MonkeyPatch) -> None:
    """A run that raises what is no Exception stays in flight."""

    def ended(self: Books, cycle: Cycle, run: Any, outcome: Any) -> None:
        original(self, cycle, run, outcome)
        if outcome.error is not None and not isinstance(outcome.error, Exception):
            cycle.running = True
            self._ended[outcome.status] -= 1

    original = Books.ended
    patch.setattr(Books, "ended", ended)


def counters_stay_attached(patch: pytest.MonkeyPatch) -> None:
    """A counter counts the lives that are over once more with each further one."""

    def end(self: Floor) -> None:
        for one in self.setup.kept:
            one.detach(self.books)
            one._attach(self.books)
        self._teardown.end()

    patch.setattr(Floor, "end", end)


def one_worker_takes_all(patch: pytest.MonkeyPatch) -> None:
    """Whose turn it is keeps it as long as it likes."""
    patch.setattr(Turns, "take", lambda self, now: True)
    patch.setattr(Turns, "stands_still", lambda self: None)
    patch.setattr(on_loop, "_MANY", [None] * 10_000_000)


def last_come_first(patch: pytest.MonkeyPatch) -> None:
    """Of those who wait for their turn the one that came last goes on."""

    def next_(self: Turns) -> None:
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                return

    patch.setattr(Turns, "_next", next_)


def idle_is_work(patch: pytest.MonkeyPatch) -> None:
    """Waiting for something to do counts as work."""

    patch.setattr(Occupancy, "waits", lambda self, cycle, change: None)


def cancelled_from_outside_goes_on(patch: pytest.MonkeyPatch) -> None:
    """Its task is cancelled by somebody else, and the resource is taken down under its run."""

    async def hold(self: KeeperInLoop, worker: Any, release: Any) -> bool:
        try:
            await release
        except asyncio.CancelledError:
            self.group.lost(worker, asyncio.CancelledError("gone"))
        return True

    patch.setattr(KeeperInLoop, "_hold", hold)


# --- threads ------------------------------------------------------------------------------


def abandoned_hold_no_place(patch: pytest.MonkeyPatch) -> None:
    """Threads that were given up are replaced without a limit."""
    patch.setattr(Group, "places", property(lambda self: self.most))
