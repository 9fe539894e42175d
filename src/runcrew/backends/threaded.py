"""Threads as the place where a run happens."""

from __future__ import annotations

from types import MethodType
from typing import Any

from runcrew import clock as clocks
from runcrew.backends.calls import Call
from runcrew.backends.guarded import call_job_in_thread
from runcrew.backends.threads import NoThread, Threads, shared
from runcrew.errors import ConfigError
from runcrew.job import HISTORY, Attempt, Job, Outcome, Run, Status


class ThreadBackend:
    """Runs plain jobs in threads.

    threads: the pool; None: the one that is shared by all, made when it is first needed.
    """

    def __init__(self, threads: Threads | None = None) -> None:
        self._threads = threads

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
        its thread is abandoned, and asyncio.CancelledError is raised at once. What such a job still raises is
        logged. A job that ends because it was told, before anybody gave it up, has the outcome of a run
        that was asked to end. A thread that cannot be had is a failed outcome with NoThread.
        """
        threads = shared() if self._threads is None else self._threads
        try:
            call = threads.submit(MethodType(call_job_in_thread, run))
            outcome = await self._wait(run, call)
        except NoThread as error:
            return run.finished(Status.FAILED, clocks.current().now(), error=error)
        if outcome is None:
            return run.ended_by_request(clocks.current().now())
        return outcome

    async def _wait(self, run: Run, call: Call[Outcome[Any] | None]) -> Outcome[Any] | None:
        try:
            return await call
        except NoThread:
            raise
        except BaseException:  # we are being cancelled, or thrown away with the loop
            run.tell()
            if not call.abandon() and call.value is not None:
                _note(run, call.value)
            raise
        finally:
            run.in_thread, run.thread = False, None

    def __repr__(self) -> str:
        return "thread"


def _note(run: Run, outcome: Outcome[Any]) -> None:
    """The job ended in the moment in which we were cancelled: its error is kept as the run's last one."""
    if outcome.error is not None:
        last = Attempt(run.attempt, outcome.status, outcome.error, run.started, outcome.ended)
        run.history = (*run.history, last)[-HISTORY:]
