"""One attempt of a plain job in the thread of the worker that has it in hand, awaited on the loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from runcrew import clock
from runcrew.backends import Turn, call_job_in_thread
from runcrew.job import Outcome, Run
from runcrew.workers.own_thread import OwnThread
from runcrew.workers.worker import Worker


class ThreadCall:
    """One attempt in the thread of its worker.

    run: says by `run.worker` whose thread that is.
    tries: whether the worker's resource, which lives in that thread, is tried before.
    left: told, on the loop, that the thread was left to itself.
    """

    def __init__(self, run: Run, *, tries: bool, left: Callable[[Worker, Run, OwnThread], object]) -> None:
        self._run = run
        self._worker: Worker = run.worker
        self._tries = tries
        self._left = left
        self._turn = Turn(_nothing)
        self._outcome: Outcome[Any] | None = None
        self._error: BaseException | None = None
        self._context = contextvars.copy_context()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def result(self) -> Outcome[Any]:
        """Have it done, and wait. Cancelling tells the job, and leaves its thread to itself.

        Raises NoThread where no thread could be started, Unfit where the resource did not pass.
        """
        run, worker = self._run, self._worker
        thread = worker.group.thread_of(worker)
        thread.hand([self])
        try:
            await self._over
        except BaseException:
            if self._turn.give_up():
                self._left(worker, run, thread)
                thread.abandon(self)
                worker.group.abandon(worker)
            run.tell()
            raise
        finally:
            run.in_thread, run.thread = False, None
        # Taken away: the frames of an error lead here, and it must not be found here.
        outcome, self._outcome = self._outcome, None
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return run.ended_by_request(clock.current().now()) if outcome is None else outcome
        finally:
            del error, outcome, self, run

    def do(self) -> None:
        """In the thread."""
        try:
            self._outcome = self._context.run(self._in_thread)
        except BaseException as error:
            self._error = error

    def _in_thread(self) -> Outcome[Any] | None:
        if self._tries and self._worker.opened is not None:
            self._worker.opened.check_plain()
        return call_job_in_thread(self._run, self._turn)

    def _hand_back(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


def _nothing(turn: Turn) -> None:
    """Who gave the attempt up hears of its end when it is handed back."""
