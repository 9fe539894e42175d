"""Ends: how an attempt ends, and a run; and what puts an end to either before its time.

A ticket ends once: here, or (where it succeeds and nothing special was asked for) in `Desk.returned`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from runcrew.durations import text
from runcrew.errors import JobCrashed, RunTimeout, brief, came_from_elsewhere
from runcrew.job import HISTORY, Attempt, Outcome, Status
from runcrew.policies.guard import guarded
from runcrew.queue.decide import Again, Asked, End, after_attempt
from runcrew.queue.ticket import More, Ticket
from runcrew.workers import Worker

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

_log: Final = logging.getLogger("runcrew")


class Ends:
    """The ends of one desk's runs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # --- limits of time -------------------------------------------------------------------

    def limit(self, ticket: Ticket[Any], more: More) -> None:
        """An attempt is under way on the loop: it is cut when its time is up."""
        if more.timeout is not None:
            more.timer = self._desk.later(more.timeout, self._time_up, ticket)

    def _time_up(self, ticket: Ticket[Any]) -> None:
        more = ticket.more()
        more.timer = None
        if ticket._status is None and ticket._worker is not None:
            self._desk.carrier.cut(ticket, more, self.too_long(more))

    def too_long(self, more: More) -> str:
        """What is said of an attempt that ran out of its time."""
        return f"attempt {more.attempt} took longer than its timeout of {text(more.timeout or 0.0)}"

    def due(self, ticket: Ticket[Any]) -> None:
        """Its deadline has come."""
        more = ticket.more()
        more.due_timer = None
        if ticket._status is not None:
            return
        said = f"its deadline of {text(more.due_span or 0.0)} passed"
        if ticket._worker is None:
            began = more.attempt > 1
            said = f"{said} before attempt {more.attempt}" if began else f"{said} before it began"
            self.end_waiting(ticket, Status.TIMED_OUT, said, self.timeout_error(ticket, said))
        else:
            more.final = True
            self._desk.carrier.cut(ticket, more, f"{said} in attempt {more.attempt}")

    def timeout_error(self, ticket: Ticket[Any], said: str, cause: BaseException | None = None) -> RunTimeout:
        """What waiters get when its time is up."""
        error = RunTimeout(f"{ticket.name}: {said}")
        history = () if ticket._more is None else ticket._more.history
        error.__cause__ = cause if cause is not None or not history else history[-1].error
        return error

    # --- the end of an attempt ----------------------------------------------------------------

    def cancelled(self, ticket: Ticket[Any], worker: Worker, error: BaseException, outside: bool) -> None:
        """The attempt ended by a CancelledError: one that was asked for, or not. `outside`: by its task's being
        cancelled, and not by us."""
        more = ticket.more()
        if more.why is None and more.cut is None and outside and self._desk.going_down:
            more.why, more.why_text = Status.INTERRUPTED, "its event loop is going down without a stop"
        if more.why is not None:
            self.asked(ticket, more)
            self._desk.release(worker)
        elif more.cut is not None:
            self.failed(ticket, worker, Status.TIMED_OUT, self.timeout_error(ticket, more.cut, error), more.cut)
        else:
            said = "its task was cancelled from outside" if outside else ""
            self.failed(ticket, worker, Status.FAILED, error, said)

    def began(self, ticket: Ticket[Any], more: More, now: float) -> None:
        """An attempt has begun at `now`."""
        if more.first_started is None:
            more.first_started = now
        if more.waits_since is not None:
            more.waited += now - more.waits_since
            more.waits_since = None
        if (run := more.run) is not None:
            run.started = more.first_started
            run.limit = None if more.timeout is None else now + more.timeout

    def asked(self, ticket: Ticket[Any], more: More) -> None:
        """The attempt ended, or never began, because the run was asked to end."""
        if ticket._status is None and more.why is not None:
            error = more.history[-1].error if more.history else None
            self.finish(ticket, more.why, error, self._desk.now(), more.why_text)

    def ended_as(self, ticket: Ticket[Any], worker: Worker, outcome: Outcome[Any]) -> None:
        """A chain has given an outcome that is neither a success nor a failure: a request that was heeded, or
        what a policy has made of it."""
        if ticket._status is None:
            more = ticket.more()
            status = outcome.status if more.why is None else more.why
            self.finish(ticket, status, outcome.error, self._desk.now(), outcome.reason or more.why_text)
        self._desk.release(worker)

    def failed(
        self, ticket: Ticket[Any], worker: Worker, status: Status, error: BaseException, reason: str = ""
    ) -> None:
        """The attempt ended without success: what follows for the worker, and for the run."""
        self.settle_failed(ticket, worker, status, error, reason)
        self._desk.release(worker)

    def settle_failed(
        self, ticket: Ticket[Any], worker: Worker, status: Status, error: BaseException, reason: str = ""
    ) -> None:
        """The same, where the worker has more in hand."""
        if ticket._status is None:
            faulty = isinstance(error, Exception) and self._is_faulty(worker, error)
            self.next_after(ticket, status, error, reason, faulty=faulty)
        if isinstance(error, KeyboardInterrupt) and not came_from_elsewhere(error):
            # Whoever sits at the keyboard does not mean this job.
            self._desk.home.fail(JobCrashed(f"{ticket.name} was interrupted from the keyboard"), error)

    def _is_faulty(self, worker: Worker, error: Exception) -> bool:
        desk = self._desk
        healthy = desk.setup.healthy
        if healthy is None or guarded(f"healthy() of {desk.name}", True, healthy, error):
            return False
        said = "%s: worker %d is faulty: %s"
        _log.info(said, desk.name, worker.number, brief(error), extra={"service": desk.name})
        worker.group.condemn(worker, error, "its resource proved faulty")
        return True

    def next_after(
        self, ticket: Ticket[Any], status: Status, error: BaseException, reason: str, *, faulty: bool = False
    ) -> None:
        """Another attempt, or the end of the run."""
        desk, more = self._desk, ticket._more
        now = desk.now()
        if more is None:
            if not (faulty and desk.setup.requeue):
                self.finish(ticket, status, error, now, reason)
                return
            more = ticket.more()
            more.first_started, more.waited = ticket._started, (ticket._started or now) - ticket._queued
        setup = desk.setup
        asked = Asked(
            more.at_most_once, more.rules, more.spent, more.requeues, 0 if more.past_queue else setup.requeue,
            setup.requeue_backoff, more.deaths, setup.max_deaths,
        )  # fmt: skip
        final = more.why is not None or more.final
        decided = after_attempt(asked, status, error, faulty=faulty, final=final, now=now, due=more.due)
        if isinstance(decided, End):
            self.record(ticket, more, status, error, now)
            if decided.error is not None:
                status, error = Status.FAILED, decided.error
            self.finish(ticket, status, error, now, "; ".join(filter(None, (reason, decided.reason))))
        else:
            self.record(ticket, more, status, error, now, decided)
            self._again(ticket, more, decided, error, now)

    def _again(self, ticket: Ticket[Any], more: More, decided: Again, error: BaseException, now: float) -> None:
        desk = self._desk
        if decided.retry is None:
            more.requeues += 1
            desk.books.requeued += 1
        else:
            more.spent = decided.retry
        desk.books.retried(now)
        desk.books.tell_again(ticket, more, decided, error)
        self.between(ticket, more, now)
        more.attempt += 1
        if more.run is not None:
            more.run.next_attempt()
        if decided.delay > 0:
            desk.wait_outside(ticket, more, decided.delay)
        else:
            desk.levels.put_back(ticket)

    def put_back(self, ticket: Ticket[Any]) -> None:
        """It was handed out, and has not begun: it is the next of its level, and nothing has been spent."""
        more = ticket.more()
        if not more.history:
            ticket._started = None
        self.between(ticket, more, self._desk.now())
        more.told = True
        self._desk.levels.put_back(ticket)

    def between(self, ticket: Ticket[Any], more: More, now: float) -> None:
        """An attempt is over, or has not come to begin, and another follows."""
        stop_timer(more)
        ticket._worker = None
        if ticket._context is not None:
            # We may be in it now, and the next attempt may begin before we have left it.
            ticket._context = ticket._context.copy()
        more.waits_since, more.cut = now, None

    def record(
        self, ticket: Ticket[Any], more: More, status: Status, error: BaseException | None, now: float,
        again: Again | None = None,
    ) -> None:  # fmt: skip
        """Write the attempt down; not where it is the only one, and nothing could have made another."""
        if again is None and not (more.history or more.rules):
            return
        wait, rule = None, None
        if again is not None:
            wait, rule = again.delay, "requeue" if again.retry is None else again.retry.rule
        attempt = Attempt(more.attempt, status, error, ticket._started, now, wait, rule)
        more.history = (*more.history[1 - HISTORY :], attempt)
        if more.run is not None:
            more.run.history = more.history

    # --- the end of a run ---------------------------------------------------------------------

    def succeeded(self, ticket: Ticket[Any], more: More, value: Any, ended: float) -> None:
        """It succeeded, and something special was asked for, or has happened."""
        self.record(ticket, more, Status.SUCCEEDED, None, ended)
        self.finish(ticket, Status.SUCCEEDED, value, ended, "")

    def finish(self, ticket: Ticket[Any], status: Status, result: Any, now: float, reason: str) -> None:
        """This is what came of it."""
        ticket._ended, ticket._result = now, result
        if isinstance(result, BaseException) and status is not Status.SUCCEEDED:
            ticket.more().trace = result.__traceback__
        waited: float | None = None
        more = ticket.more() if reason else ticket._more
        if more is not None:
            stop_timer(more)
            for timer in (more.due_timer, more.back_timer):
                if timer is not None:
                    timer.cancel()
            more.due_timer = more.back_timer = None
            waited = more.waited if more.history else None
            more.reason = reason
            if more.claim is not None:
                more.claim.release()
        ticket._status = status
        ticket._args, ticket._context = (), None
        desk = self._desk
        desk.ended += 1
        desk.books.ended(ticket, status, now, waited)
        if ticket._waiters is not None:
            ticket._wake()
        if desk.books.tells:
            desk.books.tell_end(ticket)

    def end_waiting(self, ticket: Ticket[Any], status: Status, reason: str, error: BaseException | None = None) -> None:
        """End one that waits, in the queue, outside it or past it."""
        desk, more = self._desk, ticket.more()
        if error is None and more.history:
            error = more.history[-1].error
        if ticket in desk.delayed:
            del desk.delayed[ticket]
            desk.room.changed()
        elif more.past_queue:
            desk.spares.forget(ticket)
        else:
            desk.levels.left()
        self.finish(ticket, status, error, desk.now(), reason)
        if desk.room.waiting:
            desk.room.look()
        desk.look_if_drained()

    def end_early(self, ticket: Ticket[Any], status: Status, reason: str, *, cancels: bool = True) -> bool:
        """Ask a run to end. False: it had been asked before. `cancels`: if need be, by cancelling it."""
        more = ticket.more()
        if more.why is not None:
            return False
        more.why, more.why_text = status, reason
        if more.run is not None:
            more.run.ask_to_end(status, reason)
            more.run.tell()
        if ticket._worker is None:
            self.end_waiting(ticket, status, reason)
        elif cancels:
            self._desk.carrier.cancel(ticket, ticket._worker)
        return True

    def interrupt_waiting(self, reason: str) -> None:
        """End all that wait in the queue or outside it."""
        for ticket in [*self._desk.levels.all(), *self._desk.delayed]:
            if ticket._status is None and ticket._worker is None:
                self.end_early(ticket, Status.INTERRUPTED, reason)


def stop_timer(more: More) -> None:
    """The attempt is over: its time cannot be up any more."""
    if more.timer is not None:
        more.timer.cancel()
        more.timer = None
