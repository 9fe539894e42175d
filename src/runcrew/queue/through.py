"""A run of a queue through a chain: middleware, a limit of concurrency, or somebody's backend.

The chain is compiled once for the queue. Retry is not in it, since a run that waits for its next attempt has no
worker; nor is the deadline, which also counts while it waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from runcrew import clock
from runcrew.abc import Backend, Handler
from runcrew.backends import await_job, call_job
from runcrew.job import Job, Outcome, Run, Status
from runcrew.lifecycle.execution import checked_outcome
from runcrew.policies import Options, chain
from runcrew.policies.timeout import in_time, timed_out
from runcrew.queue.ticket import Ticket
from runcrew.workers import Unfit, Worker
from runcrew.workers.process_call import ProcessCall
from runcrew.workers.thread_call import ThreadCall

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
    bare = desk.setup.recipe is None or worker.process is not None  # which gives its resource by itself
    run.args = ticket._args if bare else (worker.resource, *ticket._args)
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
        desk: Desk = getattr(run, "desk")  # noqa: B009 - where `through` has put it
        recipe = desk.setup.recipe
        worker: Worker = run.worker
        if worker.process is not None:
            return await ProcessCall(run, worker, desk.setup.max_runs).result()
        tries = recipe is not None and recipe.has_check and not recipe.is_async
        return await ThreadCall(run, tries=tries, left=desk.carrier.ahead.left_alone).result()


def _any() -> None:
    """Stands for all jobs of a queue: what depends on the job is checked when it is submitted."""
