"""Ticket: the handle of a submitted run, and all that is known of the run while it waits.

Most tickets are for a run that needs nothing but its function: what others need is kept in a `More`, which
is made when it is asked for. So is the Run, and the Outcome.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Generator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeAlias, TypeVar

from runcrew import clock
from runcrew.backends.calls import running_loop
from runcrew.errors import WouldDeadlock, WrongLoop, brief
from runcrew.job import Attempt, Job, Outcome, Run, Status, new_number, run_id
from runcrew.policies.guard import check_plain

if TYPE_CHECKING:
    from runcrew.policies import Retry, Wait
    from runcrew.policies.dedupe import Claim
    from runcrew.queue.desk import Desk
    from runcrew.workers import Worker

T = TypeVar("T")

SUCCEEDED: Final = Status.SUCCEEDED

#: What waits for a ticket's end: a task's future, or somebody's callback.
Waiter: TypeAlias = "asyncio.Future[None] | Callable[[Any], object]"

_making: Final = threading.Lock()

_log: Final = logging.getLogger("runcrew")


class More:
    """What only some tickets need. Class attributes are the defaults."""

    run: Run | None = None
    #: The run's number, once somebody has asked.
    number: int | None = None
    #: Why it was asked to end, or its attempt was: first reason wins.
    why: Status | None = None
    why_text: str = ""
    #: Why the attempt under way was cut off: its time was up. None: it was not.
    cut: str | None = None
    #: Seconds for each attempt.
    timeout: float | None = None
    #: When the whole run has to be over, in seconds since the epoch; and out of which span that came.
    due: float | None = None
    due_span: float | None = None
    #: Seconds before it may begin, from acceptance.
    delay: float | None = None
    #: Whether it never has a second attempt; and whether it has no other from here on.
    at_most_once: bool = False
    final: bool = False
    rules: tuple[Retry, ...] = ()
    #: The last retry by a rule.
    spent: Wait | None = None
    #: How often it was put back after an unhealthy verdict.
    requeues: int = 0
    attempt: int = 1
    history: tuple[Attempt, ...] = ()
    #: When its first attempt began.
    first_started: float | None = None
    #: Seconds that it has waited, over all attempts before this one; and since when it waits now.
    waited: float = 0.0
    waits_since: float | None = None
    reason: str = ""
    #: The traceback of its error as it was at the end: each time that it is raised adds to what it carries.
    trace: TracebackType | None = None
    #: The key that it holds while it lives.
    claim: Claim | None = None
    #: Goes off when the attempt's time is up; and when the run's is.
    timer: asyncio.TimerHandle | None = None
    due_timer: asyncio.TimerHandle | None = None
    #: Brings it back from outside the queue.
    back_timer: asyncio.TimerHandle | None = None
    #: Whether it takes no place in the queue; and what made it.
    past_queue: bool = False
    cause: str = "submit"
    #: Whether its beginning has been told; and how many resources did not pass the check when it was about to begin.
    told: bool = False
    unfit: int = 0
    #: How often its process has died.
    deaths: int = 0


class Ticket(Generic[T]):
    """The handle of one submitted run. `await ticket` gives its value, or raises what became of it.

    Any number of tasks may await it; cancelling one of them ends only that one's waiting.
    """

    __slots__ = (
        "_args", "_context", "_desk", "_ended", "_fn", "_more", "_plain", "_queued", "_result", "_started", "_status",
        "_waiters", "_worker", "priority",
    )  # fmt: skip

    # Of these nobody asks before they are there: when it was accepted, when it ended, the value or the error.
    _queued: float
    _ended: float
    _result: Any

    def __init__(
        self,
        desk: Desk,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        plain: bool,
        priority: int,
        context: contextvars.Context,
    ) -> None:
        self._desk = desk
        self._fn = fn
        self._args = args
        self._plain = plain
        #: The level that it waits in: higher is more urgent.
        self.priority = priority
        self._context: contextvars.Context | None = context
        #: When the last attempt began.
        self._started: float | None = None
        self._status: Status | None = None
        #: What waits for its end, if anything does.
        self._waiters: tuple[Waiter, ...] | None = None
        #: Who has it in hand; None while it waits.
        self._worker: Worker | None = None
        self._more: More | None = None

    def __repr__(self) -> str:
        return f"<Ticket {self.id} of {self.name}: {self._status or self._where()}>"

    def _where(self) -> str:
        return "waiting" if self._worker is None else "running"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} stands for one run under way: it can be neither copied nor pickled")

    # --- looking ----------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Unique among all runs of all processes; the same as `rc.current_run().id` in the job."""
        return run_id(self._number())

    @property
    def name(self) -> str:
        """What the job is called."""
        return Job(self._fn).name

    @property
    def status(self) -> Status | None:
        """How the run ended; None as long as it has not."""
        return self._status

    @property
    def queued_at(self) -> datetime:
        """When it was accepted, in UTC."""
        return clock.utc(self._queued)

    @property
    def attempts(self) -> int:
        """How many attempts it has had, the one under way included; 1 while it waits for its first."""
        return 1 if self._more is None else self._more.attempt

    def done(self) -> bool:
        """Whether the run has ended."""
        return self._status is not None

    def peek(self) -> Outcome[T] | None:
        """The outcome, or None as long as there is none. Never waits."""
        return None if self._status is None else self._outcome()

    # --- waiting ----------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        """The value. Raises the job's own exception object where it failed, RunTimeout, RunCancelled,
        RunInterrupted or RunSkipped where it ended so, JobCrashed for what is no `Exception`; never
        `asyncio.CancelledError`, unless the task that awaits is cancelled: that leaves the run alone.

        Raises WouldDeadlock in a job of the same queue, WrongLoop on another loop, where it would have to wait.
        """
        if self._status is None:
            yield from self._wait()
        if self._status is SUCCEEDED:
            return self._result  # type: ignore[no-any-return]
        outcome = self._outcome()
        if outcome.error is not None and self._more is not None:
            outcome.error.__traceback__ = self._more.trace
        try:
            return outcome.unwrap()
        finally:
            del outcome, self  # a frame that is left by an error stays in its traceback: it must not lead back to it

    async def outcome(self) -> Outcome[T]:
        """What came of it; never raises the job's error. Waits, and raises, as `await ticket` does otherwise."""
        if self._status is None:
            await _Waiting(self)
        return self._outcome()

    def _wait(self) -> Generator[Any, None, None]:
        self._check_wait()
        loop = self._desk.loop
        while self._status is None:
            waiter = loop.create_future()
            self._add(waiter)
            try:
                yield from waiter
            finally:
                self._remove(waiter)

    def _check_wait(self) -> None:
        self._check_place("awaited")
        if self._more is None or not self._more.past_queue:
            self._desk.check_wait()

    def _check_place(self, what: str) -> None:
        if running_loop() is not self._desk.loop:
            raise WrongLoop(
                f"{self!r} can be {what} only on the event loop of {self._desk.name} (from a thread, "
                "loop.call_soon_threadsafe or asyncio.run_coroutine_threadsafe with that loop)"
            )

    def on_done(self, callback: Callable[[Ticket[T]], object]) -> None:
        """Have `callback(ticket)` called on the event loop, soon after the end; soon, if it has ended already.

        It is called in the queue's own context. What it raises is logged. Raises WrongLoop as `cancel` does, and
        ConfigError for what is no plain function.
        """
        check_plain(callback, "on_done", "the ticket")
        self._check_place("watched")
        if self._status is None:
            self._add(callback)
        else:
            self._desk.call_soon(_call, callback, self)

    def _add(self, waiter: Waiter) -> None:
        others = self._waiters
        if others is None:
            self._waiters = (waiter,)
        else:
            self._waiters = (*others, waiter)

    def _remove(self, waiter: Waiter) -> None:
        if self._waiters is not None:
            self._waiters = tuple(other for other in self._waiters if other is not waiter) or None

    def _wake(self) -> None:
        """It has ended: tell those who wait."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if callable(waiter):
                self._desk.call_soon(_call, waiter, self)
            elif not waiter.done():
                waiter.set_result(None)

    # --- ending it ----------------------------------------------------------------------

    def cancel(self) -> bool:
        """Ask the run to end. Whether there was something to ask: False once it has ended, or has been asked.

        Plain, never waits, idempotent. A run that waits ends at once, as cancelled. An async job is cancelled
        where it awaits; a plain one in a thread is told (`rc.current_run().cancelled`), and goes on until it
        looks. What the job makes of it stands: a value is a success, an error of its own a failure.
        Raises WrongLoop on another loop than the queue's, and in a plain thread.
        """
        if self._status is not None:
            return False
        self._check_place("cancelled")
        return self._desk.ends.end_early(self, Status.CANCELLED, "it was cancelled by its ticket")

    # --- what it is made of -----------------------------------------------------------------

    @property
    def home(self) -> Any:
        """The service whose work it is."""
        return self._desk.home

    def more(self) -> More:
        """Where the rest is kept."""
        more = self._more
        if more is None:
            with _making:  # a job in a thread and the loop may both be the first to ask
                more = self._more
                if more is None:
                    more = self._more = More()
        return more

    def _number(self) -> int:
        more = self.more()
        if more.number is None:
            worker = self._worker  # another process may know it by a number already
            known = None if worker is None else getattr(worker.work, "number_of", None)
            number: int = new_number() if known is None else known(self)
            more.number = number
        return more.number

    def as_run(self) -> Run:
        """The Run, as the job sees it: made when somebody looks, then always the same one. From any thread."""
        more = self.more()
        run = more.run
        if run is None:
            run = self._make_run(more)
            if more.run is None:
                more.run = run
            run = more.run
            if more.why is not None:  # asked in the meantime, by one who saw no run to tell
                run.ask_to_end(more.why, more.why_text)
                run.tell()
        return run

    def _make_run(self, more: More) -> Run:
        run = Run(Job(self._fn), self._args)
        run.number = self._number()
        run.cause, run.service, run.home = more.cause, self._desk.name, self._desk.home
        run.queued, run.due, run.attempt, run.history = self._queued, more.due, more.attempt, more.history
        run.started = self._started if more.first_started is None else more.first_started
        if more.timeout is not None and self._started is not None:
            run.limit = self._started + more.timeout
        if self._plain and running_loop() is None:  # asked in its thread: by its job, which is under way there
            run.in_thread, run.thread = True, threading.get_ident()
        return run

    def _outcome(self) -> Outcome[T]:
        status, result, more = self._status, self._result, self._more
        assert status is not None
        value, error = (result, None) if status is SUCCEEDED else (None, result)
        if more is None:
            return Outcome(status, value, error, self._queued, self._started, self._ended)
        started = self._started if more.first_started is None else more.first_started
        return Outcome(
            status, value, error, self._queued, started, self._ended, more.attempt, more.history, more.reason
        )


class _Waiting:
    """Awaiting a ticket's end without asking what it was."""

    __slots__ = ("_ticket",)

    def __init__(self, ticket: Ticket[Any]) -> None:
        self._ticket = ticket

    def __await__(self) -> Generator[Any, None, None]:
        return self._ticket._wait()


def _call(callback: Callable[[Any], object], ticket: Ticket[Any]) -> None:
    try:
        callback(ticket)
    except BaseException as error:  # all of it: a SystemExit here would end the loop
        _log.error("a callback of %s failed: %s", ticket.name, brief(error), exc_info=error)


def would_deadlock(name: str) -> WouldDeadlock:
    """A job waits for work of its own queue."""
    return WouldDeadlock(
        f"a job of {name} waits for a ticket of {name}, which may need the very worker that waits: "
        "submit it and go on, or let another queue do it"
    )
