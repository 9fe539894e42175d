"""Who judges a schedule of a queue. The laws are numbered as the invariants of the library are."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from queue_books import STATUS_OF, Attempt, Order, Res, Sick
from queue_world import World
from world import EPS

import runcrew as rc
from runcrew import clock, events

INFINITE: Final = float("inf")


class Judge:
    """Hears everything; a subclass looks at what it understands."""

    def __init__(self, world: World) -> None:
        self.world = world

    def hear(self, event: events.Event) -> None:
        """An event of the queue."""

    def opens(self, resource: Res) -> None:
        """A resource is about to be made."""

    def begins(self, attempt: Attempt) -> None:
        """An attempt begins."""

    def cancelled(self, attempt: Attempt) -> None:
        """A job sees a CancelledError that it did not raise."""

    def cut_again(self, attempt: Attempt) -> None:
        """A job is cancelled again while it cleans up after that."""

    def leaves(self, attempt: Attempt) -> None:
        """An attempt has ended."""

    def looks(self) -> None:
        """An instant between two steps."""

    def verdict(self) -> None:
        """Everything is over."""


class Starts(Judge):
    """No attempt begins after its order was ended, asked to end, or refused; none too many. (1, 10, 20)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        #: Of a map whose queue drops: cancelled at this instant, which is right where the map ended by a dropped item.
        self.perhaps_dropped: list[tuple[float, Order]] = []

    def begins(self, attempt: Attempt) -> None:
        """Look at the order."""
        world, order = self.world, attempt.order
        what = f"attempt {attempt.number} of {order} began"
        over = order.refused is not None or (order.answered and order.ticket is None and order.value is None)
        if over and not (order.plan.plain and order.attempts):
            world.wrong("1", f"{what}, and it was refused or is over: {order.refused!r}{order.error!r}")
        if order.plan.plain and order.asked is not None and world.now <= order.asked + EPS:
            return  # between the thread's look at whether it should begin and this one, anything may happen
        if order.cancelled is not None or (order.asked is not None and world.now > order.asked + EPS):
            world.wrong("10", f"{what} after it was cancelled")
        if order.ticket is not None and order.ticket.done():
            world.wrong("1", f"{what} after its ticket was {order.ticket.status}")
        self._life(what, attempt)
        if order.attempts:
            self._again(what, order, order.attempts[-1])

    def _life(self, what: str, attempt: Attempt) -> None:
        world, order = self.world, attempt.order
        if world.torn:
            return
        self._came_late(attempt)
        if world.queue.state.over or world.queue.generation != order.life:
            world.wrong("10", f"{what} in life {world.queue.generation} of the queue, which is {world.queue.state}")
        if world.now > world.cuts.get(order.life, (0.0, INFINITE))[1] + EPS:
            world.wrong("10", f"{what} after everything was cut")

    def _came_late(self, attempt: Attempt) -> None:
        """An item of a map that is taken after a restart belongs to the life that accepts it."""
        world, order = self.world, attempt.order
        ended = world.asked_to_end.get(order.life, INFINITE)
        if order.via == "map" and not order.attempts and world.since_begun(attempt.run.queued) >= ended - EPS:
            order.life = world.queue.generation

    def _again(self, what: str, order: Order, last: Attempt) -> None:
        world, queue = self.world, self.world.plan.queue
        if last.ended is None:
            if not (order.plan.plain and last.run.cancelled):
                world.wrong("1", f"{what} beside attempt {last.number}")
            return
        if last.error is None:
            world.wrong("10", f"{what}, and attempt {last.number} had succeeded")
        if isinstance(last.error, Sick) and order.plan.at_most_once and not queue.healthy_raises:
            world.wrong("10", f"{what}, and it is one that runs at most once")
        unasked = not isinstance(last.error, Exception) and last.cut is None and not last.told
        if unasked and world.meddled is None and world.reduced is None:
            world.wrong("10", f"{what} after {last.error!r}")
        if world.meddled is None and world.reduced is None:
            rules = queue.rules if order.plan.rules is None else order.plan.rules
            most = 1 if order.via == "run_now" else 1 + sum(rule.retries or 0 for rule in rules) + queue.requeue
            if len(order.attempts) >= most:
                world.wrong("12", f"{what}, of {most} at most")

    def cancelled(self, attempt: Attempt) -> None:
        """A job is cancelled for a reason, and a drain is none before its limit."""
        world, order = self.world, attempt.order
        if world.meddled is not None or world.reduced is not None or self._may_end(attempt):
            return
        if any(other.error is not None for sibling in order.siblings for other in sibling.attempts):
            return  # what fails ends a map, and so all of it
        if order.via == "map" and world.plan.queue.overflow.startswith("drop"):
            self.perhaps_dropped.append((world.now, order))
            return
        world.wrong("20", f"{order} was cancelled, and nobody asked for it")

    def verdict(self) -> None:
        """An item that was dropped ends a map by an error, as one that fails does."""
        for now, order in self.perhaps_dropped:
            ended = INFINITE if order.done is None else order.done
            if not isinstance(order.error, rc.RunSkipped) or now > ended + EPS:
                self.world.wrong("20", f"{order} was cancelled at {now:.6f}, and nobody asked for it")

    def cut_again(self, attempt: Attempt) -> None:
        """Whoever cleans up is left alone until the stop gives it up, and nobody here takes as long as that.

        One that has cancelled itself cleans up after that: the queue has not cancelled it yet, and may do so once.
        """
        others = self.world.meddled is not None or self.world.torn or attempt.cancels_itself
        if not others and attempt.run.ends is None:
            self.world.wrong("20", f"{attempt.order} was cancelled again while it cleaned up")

    def leaves(self, attempt: Attempt) -> None:
        """An attempt that has a limit is cut at it."""
        limit = attempt.run.limit
        late = limit is not None and clock.current().now() > limit + EPS
        if late and attempt.cut is None and not attempt.order.plan.plain:
            self.world.wrong("11", f"{attempt.order} ran for {self.world.now - attempt.begun:g} s, and never was cut")

    def _may_end(self, attempt: Attempt) -> bool:
        """Whether somebody has asked for its end, or its time is up; also that of the one inside which it was asked."""
        order, world = attempt.order, self.world
        limits = (order.plan.timeout, order.plan.deadline, world.plan.queue.timeout, world.plan.queue.deadline)
        late = any(span is not None and world.now >= order.at + span - EPS for span in limits)
        if late or attempt.cancels_itself or order.asked is not None or world.may_be_cut(order):
            return True
        if order.inside is None or order.via != "run_now" or not order.inside.attempts:
            return False
        outer = order.inside.attempts[-1]
        return outer.ended is not None or self._may_end(outer)


class Together(Judge):
    """Never more at once than the maximum, of attempts and of resources. (5)"""

    def begins(self, attempt: Attempt) -> None:
        """Count the attempts beside it."""
        world, plan = self.world, self.world.plan.queue
        past = attempt.order.via == "run_now"
        beside = [other for other in world.active if (other.order.via == "run_now") == past and not other.run.told]
        most = plan.max_spares if past else plan.max_workers
        if len(beside) >= most and not world.torn:
            world.wrong("5", f"{attempt.order} runs beside {len(beside)} others, of {most} at once")

    def opens(self, resource: Res) -> None:
        """Count the resources beside it."""
        world, plan = self.world, self.world.plan.queue
        most = plan.max_workers + plan.max_spares
        threads = world.plan.threads
        # What would not stop keeps its resource, and is no longer counted; in threads also what ran out of its time.
        ours = [one for one in world.store.living if one.life == resource.life]
        held = sum(threads and any(user.run.told for user in one.used_by) for one in ours)
        if len(ours) - held > most:
            world.wrong("5", f"{resource} makes {len(ours)}, of {most} at once")

    def looks(self) -> None:
        """What the queue says of itself agrees."""
        world, plan, stats = self.world, self.world.plan.queue, self.world.queue.stats()
        numbers = {name: getattr(stats, name) for name in _GAUGES}
        if min(numbers.values()) < 0:
            world.wrong("15", f"stats: {numbers}")
        workers = stats.alive + stats.opening + stats.closing - len(stats.abandoned)
        if workers > plan.max_workers:
            world.wrong("5", f"stats: {workers} workers, of {plan.max_workers} at most: {numbers}")
        if stats.queued < sum(stats.levels.values()):  # what waits for a spare resource is in no level
            world.wrong("15", f"stats: {stats.queued} queued, and by level {stats.levels}")
        if stats.free and stats.levels and stats.state == "running" and world.meddled is None:
            world.wrong("6", f"stats: {stats.free} workers are free, and there wait {stats.levels}")
        runs = stats.runs
        pending = stats.queued + stats.delayed + stats.running
        if runs.in_flight != pending:
            world.wrong("15", f"stats: {runs.in_flight} in flight, and {pending} pending: {numbers}")
        ended = runs.succeeded + runs.failed + runs.timed_out + runs.cancelled + runs.interrupted + runs.skipped
        if runs.begun != ended + runs.in_flight:
            world.wrong("15", f"stats: {runs}")
        checks = plan.resource is not None and plan.resource.check  # that takes its time, and is part of the run
        active = sum(attempt.order.life == world.queue.generation for attempt in world.active)
        if not world.plan.threads and not checks and world.queue.state == "running" and stats.running != active:
            world.wrong("15", f"stats: {stats.running} running, and there are {active}")
        waiting = sum(stats.levels.values()) + stats.delayed
        put_back = checks or stats.requeued or runs.retries or world.reduced is not None or world.meddled is not None
        if waiting > plan.maxsize and not put_back and not world.plan.threads:  # that is never refused for lack of room
            world.wrong("4", f"stats: {waiting} wait, of {plan.maxsize} at most")


_GAUGES: Final = (
    "workers", "alive", "opening", "free", "busy", "leaving", "closing", "queued", "delayed", "running", "submitters",
    "spares_free", "spares_alive", "opened", "closed", "failed_openings", "replaced", "requeued", "dropped",
)  # fmt: skip


class Order8(Judge):
    """The more urgent is served first, and within a level the older. (8)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.suspects: list[tuple[float, Order, Order, str]] = []
        resource = world.plan.queue.resource
        simple = resource is None or not (resource.check or resource.max_age or resource.max_idle)
        self.looks_at_it = simple and not world.plan.threads

    def begins(self, attempt: Attempt) -> None:
        """Who should have gone before it? Whoever begins in the same instant was picked before it, perhaps."""
        world, mine = self.world, attempt.order
        if not self.looks_at_it or mine.attempts or mine.via == "run_now":
            return
        for other in world.orders:
            if not self._waits(other):
                continue
            urgent = other.plan.priority > mine.plan.priority and world.now - mine.at < world.plan.queue.max_wait - EPS
            same = other.plan.priority == mine.plan.priority and mine.plan.delay is None
            older = same and other.accepted is not None and other.accepted < mine.at - EPS
            if urgent or older:
                self.suspects.append((world.now, mine, other, "more urgent" if urgent else "older"))

    def _waits(self, other: Order) -> bool:
        """Whether it could have been picked by now."""
        if other.accepted is None or other.accepted >= self.world.now - EPS or other.ticket.done():
            return False
        return not other.attempts and other.asked is None and other.plan.delay is None

    def verdict(self) -> None:
        """Those that did not begin in the same instant were passed by."""
        for now, mine, other, why in self.suspects:
            begun = other.attempts[0].begun if other.attempts else INFINITE
            done = INFINITE if other.done is None else other.done
            if begun > now + EPS and done > now + EPS and not self.world.torn:
                self.world.wrong("8", f"{mine} began at {now:.6f}, and {other}, which is {why}, waited")


class Outcomes(Judge):
    """Every accepted order has one outcome, and the right one. (1, 10, 15)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.begun: dict[str, None] = {}
        self.ended: dict[str, None] = {}

    def hear(self, event: events.Event) -> None:
        """Each run begins and ends once."""
        if isinstance(event, events.RunStarted):
            if event.run in self.begun:
                self.world.wrong("1", f"{self.world.label(event.run)} began twice")
            self.begun[event.run] = None
        if isinstance(event, events.RunEnded):
            if event.run in self.ended:
                self.world.wrong("1", f"{self.world.label(event.run)} ended twice")
            self.ended[event.run] = None

    def verdict(self) -> None:
        """One by one."""
        for run in self.begun:
            if run not in self.ended:
                self.world.wrong("1", f"{self.world.label(run)} never ended")
        for order in self.world.orders:
            self._one(order)

    def _one(self, order: Order) -> None:
        world = self.world
        if not order.answered:
            if not world.torn:
                world.wrong("1", f"{order}: {order.via} never came back")
            return
        if order.active is not None and not order.plan.plain:
            world.wrong("1", f"{order} still runs")
        if order.refused is not None or order.via == "map" or (order.via == "submit_many" and order.ticket is None):
            return
        if order.ticket is None:
            self._called(order)
            return
        outcome = order.ticket.peek()
        if outcome is None or not order.ticket.done() or order.ticket.status != outcome.status:
            world.wrong("1", f"{order} has no outcome: {order.ticket!r}")
            return
        if order.callbacks != 1 and not world.torn:
            world.wrong("1", f"{order} told its end {order.callbacks} times")
        self._right(order, str(outcome.status), outcome.value, outcome.error)
        if outcome.status == "skipped" and not outcome.reason:
            world.wrong("1", f"{order} was skipped, and there is no reason")

    def _called(self, order: Order) -> None:
        error, status = order.error, status_of(order)
        if status is not None:
            told = isinstance(error, rc.RunError)
            self._right(order, status, order.value, error.__cause__ if told and error is not None else error)

    def _right(self, order: Order, status: str, value: object, error: BaseException | None) -> None:
        last = order.attempts[-1] if order.attempts else None
        given_up = order.plan.plain and status in ("timed_out", "interrupted", "cancelled")
        if last is not None and last.error is None and status != "succeeded" and not given_up:
            self._no(order, status, f"its job returned {last.value!r}")
        check = getattr(self, f"_{status}")
        check(order, last, value, error)
        if last is not None and isinstance(last.error, Exception) and not given_up:
            self._visible(order, status, last, error)

    def _no(self, order: Order, status: str, why: str) -> None:
        self.world.wrong("1", f"{order} has {status}, though {why}")

    def _visible(self, order: Order, status: str, last: Attempt, error: BaseException | None) -> None:
        seen, first = error, error
        while seen is not None and seen is not last.error:
            first, seen = seen, seen.__cause__
        resource = self.world.plan.queue.resource
        checks = resource is not None and resource.check and last.run.attempt > last.number
        if checks and status == "timed_out" and isinstance(first, asyncio.CancelledError):
            return  # there was one more attempt, which was cut while its resource was being checked
        if seen is None:
            self.world.wrong("10", f"{order} hides {last.error!r}: {status}, {error!r}")

    def _succeeded(self, order: Order, last: Attempt | None, value: object, error: BaseException | None) -> None:
        if last is None or last.error is not None or last.value != value:
            self._no(order, f"succeeded with {value!r}", "its job did not" if last is None else repr(last.error))
        elif order.plan.plain and last.ended is not None and self.world.plan.queue.backend is None:
            timeout = self.world.plan.queue.timeout if order.plan.timeout is None else order.plan.timeout
            if timeout is not None and last.ended > last.begun + timeout + 0.1:
                self.world.wrong("11", f"{order} ran for {last.ended - last.begun:g} s, of {timeout}")

    def _failed(self, order: Order, last: Attempt | None, value: object, error: BaseException | None) -> None:
        if (
            last is None
            and isinstance(error, asyncio.CancelledError)
            and (self.world.meddled is not None or self.world.torn)
        ):
            return  # before its first step
        if last is None or last.error is None:
            self._no(order, f"failed with {error!r}", "its job did not")
            return
        asked = last.cut is not None and order.asked is not None and order.asked <= last.cut
        own = last.cancels_itself or self.world.meddled is not None
        if isinstance(last.error, asyncio.CancelledError) and asked and not own:
            self._no(order, "failed", "it was asked to end")

    def _timed_out(self, order: Order, last: Attempt | None, value: object, error: BaseException | None) -> None:
        plan, queue = order.plan, self.world.plan.queue
        done = INFINITE if order.done is None else order.done
        deadline = queue.deadline if plan.deadline is None else plan.deadline
        timeout = queue.timeout if plan.timeout is None else plan.timeout
        if deadline is not None and done >= order.at + deadline - EPS:
            return
        if last is None and timeout is not None and done >= order.at + timeout - EPS:
            return  # it never came to its first step: it was still being checked, or there was no time at all
        resource = self.world.plan.queue.resource
        checked = 0.25 if resource is not None and resource.check else 0.0  # that is part of the attempt
        if last is None or timeout is None or done < last.begun + timeout - checked - EPS:
            self._no(order, "timed_out", f"it had more time, of {timeout} and {deadline}")

    def _cancelled(self, order: Order, last: Attempt | None, value: object, error: BaseException | None) -> None:
        outer = None if order.inside is None or not order.inside.attempts else order.inside.attempts[-1]
        if order.asked is None and (outer is None or outer.cut is None):
            self._no(order, "been cancelled", "nobody asked for it")

    def _interrupted(self, order: Order, last: Attempt | None, value: object, error: BaseException | None) -> None:
        world = self.world
        if world.meddled is not None or world.reduced is not None or world.torn:
            return
        gave_up = order.life in world.cuts and any(one.state == "failed" for one in world.store.all)
        if not world.may_be_cut(order, order.done) and not gave_up:
            self._no(order, "been interrupted", "it was promised to finish")

    def _skipped(self, order: Order, last: Attempt | None, value: object, error: BaseException | None) -> None:
        if last is not None or not self.world.plan.queue.overflow.startswith("drop"):
            self._no(order, "been skipped", "there is no reason for it")


class Figures(Judge):
    """Statistics and the collector agree with what became of the orders. (15)"""

    def verdict(self) -> None:
        """All of them, once everything is over."""
        world = self.world
        if world.torn:
            return
        runs, stats = world.queue.stats().runs, world.queue.stats()
        for name in ("alive", "opening", "closing", "queued", "delayed", "running", "submitters", "spares_alive"):
            if getattr(stats, name) and not world.plan.threads:
                world.wrong("16", f"at the end there are {getattr(stats, name)} {name}")
        if runs.in_flight:
            world.wrong("15", f"{runs.in_flight} runs are in flight at the end")
        heard = dict.fromkeys(map(str, rc.Status), 0)
        unknown = 0
        for order in world.orders:
            if order.life != world.queue.generation:
                continue  # these numbers are of the last life
            if order.ticket is not None and order.ticket.status is not None:
                heard[order.ticket.status] += 1
            elif order.ticket is None and order.via in ("run", "run_now", "map", "submit_many"):
                unknown += 1
        for status, count in heard.items():
            if not count <= getattr(runs, status) <= count + unknown:
                world.wrong("15", f"{getattr(runs, status)} runs {status}, and there are {count} and {unknown} more")
        if world.plan.queue.collects:
            self._collector(runs)

    def _collector(self, runs: Any) -> None:
        counts = self.world.figures.counts
        if counts["arrived"] != self.world.figures.ended:
            self.world.wrong("15", f"the collector counts {counts}")
        if self.world.queue.generation == 1:
            theirs = {status: getattr(runs, status) for status in map(str, rc.Status)}
            if {status: counts[status] for status in theirs} != theirs or counts["retried"] != runs.retries:
                self.world.wrong("15", f"the collector counts {counts}, and the queue {runs}")


class Ends(Judge):
    """After the end nothing is left: tasks, timers, resources. (16)"""

    def verdict(self) -> None:
        """Look at everything."""
        world = self.world
        if world.queue.state.alive:
            world.wrong("16", f"the queue is {world.queue.state} at the end")
        for one in world.store.all:
            if one.state not in ("failed", "closed") or one.left > 1:
                world.wrong("16", f"{one} is {one.state} at the end, taken down {one.left} times")
        if world.active:
            world.wrong("16", f"attempts are left: {[str(attempt.order) for attempt in world.active]}")
        if world.torn:
            return
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if tasks:
            world.wrong("16", f"tasks are left: {sorted(task.get_name() for task in tasks)}")
        timers = [repr(timer) for timer in world.loop._scheduled if not timer.cancelled()]
        if timers:
            world.wrong("16", f"timers are left: {timers}")


def status_of(order: Order) -> str | None:
    """How an order ended; None where nobody can tell."""
    if order.refused is not None or (order.via == "submit_many" and order.ticket is None):
        return None
    if order.ticket is not None:
        return None if order.ticket.status is None else str(order.ticket.status)
    error = order.error
    if error is None:
        return "succeeded"
    if isinstance(error, rc.JobCrashed):
        return "failed"
    if isinstance(error, asyncio.CancelledError | rc.CapacityError | rc.ResourceError | rc.WouldDeadlock):
        return None
    if isinstance(error, rc.NotStarted | rc.ServiceStopping | rc.ServiceStopped):
        return None
    return next((status for kind, status in STATUS_OF if isinstance(error, kind)), "failed")
