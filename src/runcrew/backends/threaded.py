"""Threads as the place where a run happens."""

from __future__ import annotations

import asyncio
import logging
import threading
from types import MethodType
from typing import Any, Final

from runcrew import clock as clocks
from runcrew.backends.calls import Call, running_loop
from runcrew.backends.guarded import Turn, call_job_in_thread
from runcrew.backends.pools import shared
from runcrew.backends.threads import AbandonedCall, NoThread, Threads, at_least, listed
from runcrew.errors import ConfigError
from runcrew.job import HISTORY, Attempt, Job, Outcome, Run, Status

_log: Final = logging.getLogger("runcrew")


class ThreadBackend:
    """Runs plain jobs in threads.

    threads: the pool; None: the one that is shared by all, made when it is first needed.
    max_abandoned: while so many attempts that this backend gave up are still at work, the next one waits until
        one of them ends, which is logged as a warning. At least 1. None: no limit but that of the pool.

    Raises ConfigError for a bad number.
    """

    def __init__(self, threads: Threads | None = None, *, max_abandoned: int | None = None) -> None:
        self._threads = threads
        self.max_abandoned = at_least(max_abandoned, "max_abandoned", 1)
        self._lock = threading.Lock()
        self._left: dict[Turn, AbandonedCall] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        #: Whether it has been said that attempts wait.
        self._warned = False

    def check(self, job: Job) -> None:
        """Whether this backend can run `job`. Raises ConfigError for an async one, with the remedy."""
        if job.is_async:
            raise ConfigError(
                f"{job.name} is async, and a thread runs plain functions: leave `backend` out, so that it runs on "
                "the event loop, or write it with `def`"
            )

    async def handle(self, run: Run) -> Outcome[Any]:
        """Carry out one attempt of `run` in a thread.

        When the task is cancelled: a job that has not begun never does; one that has is told (`run.tell()`),
        its thread is abandoned (`run.on_abandoned` hears of it), and asyncio.CancelledError is raised at once.
        What such a job still raises is logged. A job that ends because it was told, before anybody gave it up,
        has the outcome of a run that was asked to end. A thread that cannot be had is a failed outcome with
        NoThread.
        """
        threads = shared() if self._threads is None else self._threads
        if self._is_full():
            await self._wait_for_room(run)
        turn = Turn(self._came_back)
        try:
            call = threads.submit(MethodType(call_job_in_thread, run), turn)
            outcome = await self._wait(run, call, turn)
        except NoThread as error:
            return run.finished(Status.FAILED, clocks.current().now(), error=error)
        if outcome is None:
            return run.ended_by_request(clocks.current().now())
        return outcome

    async def _wait(self, run: Run, call: Call[Outcome[Any] | None], turn: Turn) -> Outcome[Any] | None:
        try:
            return await call
        except NoThread:
            raise
        except BaseException:  # we are being cancelled, or thrown away with the loop
            self._leave(run, turn)
            if not call.abandon() and call.value is not None:
                _note(run, call.value)
            raise
        finally:
            run.in_thread, run.thread = False, None

    # --- attempts that were given up ------------------------------------------------------

    @property
    def abandoned(self) -> tuple[AbandonedCall, ...]:
        """The attempts that were given up and are still at work, the oldest first. From any thread."""
        with self._lock:
            left = tuple(self._left.items())
        # In a forked child the threads of the parent are not there.
        return tuple(given for turn, given in left if turn.thread is not None and turn.thread.is_alive())

    def _leave(self, run: Run, turn: Turn) -> None:
        """Give an attempt up: it never begins, or is told and left to itself."""
        given: AbandonedCall | None = None
        with self._lock:
            if turn.give_up() and (thread := turn.thread) is not None:
                given = AbandonedCall(repr(run), thread.name, clocks.current().now(), thread.ident)
                self._left[turn] = given
        run.tell()
        if given is not None and run.on_abandoned is not None and running_loop() is not None:
            run.on_abandoned(given)

    def _came_back(self, turn: Turn) -> None:
        """In its thread: an attempt that was given up has ended."""
        with self._lock:
            self._left.pop(turn, None)
            self._warned = False
            waiting = tuple(self._waiting)
        for future in waiting:
            try:
                future.get_loop().call_soon_threadsafe(_wake, future)
            except RuntimeError:  # its loop is closed: nobody waits there any more
                pass

    def _is_full(self) -> bool:
        most = self.max_abandoned
        return most is not None and len(self._left) >= most and len(self.abandoned) >= most

    async def _wait_for_room(self, run: Run) -> None:
        """Return when an attempt that was given up has ended. Cancelled, it says in a note what it waited for."""
        loop = asyncio.get_running_loop()
        while True:
            future = loop.create_future()
            with self._lock:
                self._waiting[future] = None
            try:
                if not self._is_full():  # looked at when who comes back can see us
                    return
                self._warn(run)
                await future
            except asyncio.CancelledError as cut:
                cut.add_note(f"it had no thread: {len(self._left)} given-up attempts of {run.job.name} still have one")
                raise
            finally:
                with self._lock:
                    del self._waiting[future]

    def _warn(self, run: Run) -> None:
        if self._warned:
            return
        self._warned = True
        _log.warning(
            "%s waits for a thread: %d attempts that were given up have not ended: %s",
            run.service or run.job.name, len(self._left), listed(self.abandoned),
            extra={"service": run.service, "run": run.id},
        )  # fmt: skip

    def __repr__(self) -> str:
        return "thread"


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _note(run: Run, outcome: Outcome[Any]) -> None:
    """The job ended in the moment in which we were cancelled: its error is kept as the run's last one."""
    if outcome.error is not None:
        last = Attempt(run.attempt, outcome.status, outcome.error, run.started, outcome.ended)
        run.history = (*run.history, last)[-HISTORY:]
