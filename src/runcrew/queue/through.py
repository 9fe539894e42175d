"""A run of a queue through a chain: middleware, a limit of concurrency, or somebody's backend.

The chain is compiled once for the queue. Retry is not in it, since a run that waits for its next attempt has no
worker; nor is the deadline, which also counts while it waits.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Final

from runcrew import clock
from runcrew.abc import Backend, Handler
from runcrew.backends import Turn, await_job, call_job, call_job_in_thread
from runcrew.job import Job, Outcome, Run, Status
from runcrew.lifecycle.execution import checked_outcome
from runcrew.policies import Options, chain
from runcrew.policies.timeout import in_time, timed_out
from runcrew.queue.ticket import Ticket
from runcrew.workers import Unfit, Worker

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

_SUCCEEDED: Final = Status.SUCCEEDED


def compiled(backend: Backend | None, options: Options, inline: bool) -> Handler:
    """The chain of a queue, around `backend`, or around its workers."""
    inner: Any = _Timed(_Workers(inline).handle if backend is None else backend.handle)
    return chain(Job(_any), inner, options, workers=True)


async def through(desk: Desk, ticket: Ticket[Any], worker: Worker) -> None:
    """Carry one attempt out, and say what came of it. Raises CancelledError where it is cut short."""
    run = ticket.as_run()
    run.args = ticket._args if desk.setup.recipe is None else (worker.resource, *ticket._args)
    more = ticket.more()
    queued: Any = run
    queued.worker, queued.desk, queued.span = worker, desk, more.timeout
    recipe = desk.setup.recipe
    if recipe is not None and recipe.is_async and recipe.has_check:
        assert worker.opened is not None
        try:
            await worker.opened.check()
        except Unfit as error:
            desk.carrier.unfit(ticket, worker, error)
            return
        except BaseException as error:
            worker.group.condemn(worker, error, "the check of its resource was cut off")
            raise
    handler = desk.setup.handler
    assert handler is not None
    try:
        outcome = checked_outcome(await handler(run), run)
    except asyncio.CancelledError:
        raise
    except Unfit as error:
        desk.carrier.unfit(ticket, worker, error)
        return
    except BaseException as error:
        desk.ends.failed(ticket, worker, Status.FAILED, error, "a policy or middleware failed")
        return
    finally:
        queued.worker = None
    if outcome.status is _SUCCEEDED:
        desk.returned(ticket, worker, outcome.value)
    elif outcome.status is Status.FAILED or outcome.status is Status.TIMED_OUT:
        cause = outcome.error or RuntimeError(f"{ticket.name} {outcome.status}: {outcome.reason}")
        desk.ends.failed(ticket, worker, outcome.status, cause, outcome.reason)
    else:
        desk.ends.ended_as(ticket, worker, outcome)


class _Timed:
    """The limit of an attempt: it counts from the moment in which it has its place, and may differ from run to run."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner

    async def handle(self, run: Run) -> Outcome[Any]:
        span: float | None = getattr(run, "span", None)
        if span is None:
            return await self._inner(run)
        run.limit = clock.current().now() + span
        ended = await in_time(run, self._inner, asyncio.get_running_loop().time() + span)
        return timed_out(run, span, ended) if isinstance(ended, asyncio.CancelledError) else ended

    def __repr__(self) -> str:
        return "queue"


class _Workers:
    """The queue's own workers as the place where a run happens."""

    def __init__(self, inline: bool) -> None:
        self._inline = inline

    async def handle(self, run: Run) -> Outcome[Any]:
        if run.job.is_async:
            return await await_job(run)
        if self._inline:
            return call_job(run)
        return await _Call(run).result()


class _Call:
    """One attempt in the thread of its worker."""

    def __init__(self, run: Any) -> None:
        self._run: Run = run
        self._worker: Worker = run.worker
        self._desk: Desk = run.desk
        self._turn = Turn(_nothing)
        self._outcome: Outcome[Any] | None = None
        self._error: BaseException | None = None
        self._context = contextvars.copy_context()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def result(self) -> Outcome[Any]:
        run, worker = self._run, self._worker
        thread = worker.group.thread_of(worker)
        thread.hand([self])
        try:
            await self._over
        except BaseException:
            if self._turn.give_up():
                self._desk.carrier.threads.left_alone(worker, run, thread)
                thread.abandon(self)
                worker.group.abandon(worker)
            run.tell()
            raise
        finally:
            run.in_thread, run.thread = False, None
        if self._error is not None:
            raise self._error
        return run.ended_by_request(clock.current().now()) if self._outcome is None else self._outcome

    def do(self) -> None:
        """In the thread."""
        try:
            self._outcome = self._context.run(self._in_thread)
        except BaseException as error:
            self._error = error

    def _in_thread(self) -> Outcome[Any] | None:
        recipe, opened = self._desk.setup.recipe, self._worker.opened
        if recipe is not None and recipe.has_check and not recipe.is_async and opened is not None:
            opened.check_plain()
        return call_job_in_thread(self._run, self._turn)

    def _hand_back(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


def _nothing(turn: Turn) -> None:
    """Who gave the attempt up hears of its end when it is handed back."""


def _any() -> None:
    """Stands for all jobs of a queue: what depends on the job is checked when it is submitted."""
