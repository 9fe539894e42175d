"""Where the runs of a pool happen that go through a chain: on the loop, or in the threads of its workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import call_job
from runcrew.errors import Done, StopTree, brief
from runcrew.job import Job, Outcome, Run, Status, new_number
from runcrew.workers import Worker
from runcrew.workers.process_call import ProcessCall
from runcrew.workers.thread_call import ThreadCall

if TYPE_CHECKING:
    from runcrew.pool.cycle import Cycle

_SUCCEEDED: Final = Status.SUCCEEDED


class CycleRun(Run):
    """A run of a cycle: what is the same for all of them is looked up there."""

    cause = "loop"
    #: In how many places it says that it waits for something to do; and whether it has ended.
    blocks = 0
    over = False
    #: What its job has said by raising it: that there is no more to do.
    message: Done | StopTree | None = None
    kwargs: Mapping[str, Any] = {}

    def __init__(self, cycle: Cycle, began: float) -> None:
        # Few attributes, and no others: a run is made for each turn of a chain.
        self.job: Job = cycle.job
        self.args = cycle.args
        self.number = new_number()
        self.queued = self.started = began
        self.cycle = cycle

    @property
    def worker(self) -> Worker:
        """See Run."""
        return self.cycle.worker

    @property
    def service(self) -> str:  # type: ignore[override]
        """See Run."""
        return self.cycle.floor.name

    @property
    def home(self) -> Any:
        """See Run."""
        return self.cycle.floor.home

    @property
    def on_idle(self) -> Callable[[bool], None]:  # type: ignore[override]
        """See Run."""
        return self._hear_idle

    def _hear_idle(self, waits: bool) -> None:
        self.cycle.hear_idle(self, waits)


class Place:
    """A pool's own workers.

    tries: whether resources are tried before each run; and whether they live in the threads of their workers.
    max_runs: how many runs a worker's process does.
    """

    def __init__(self, *, inline: bool, tries: bool, in_threads: bool, said: str, max_runs: int | None) -> None:
        self._inline = inline
        self._max_runs = max_runs
        self._tries_here = tries and not in_threads
        self._tries_there = tries and in_threads
        self._said = said

    def __repr__(self) -> str:
        return self._said

    async def handle(self, run: Run, /) -> Outcome[Any]:
        """Carry out one attempt. Raises Unfit where the resource did not pass."""
        made: Any = run  # a CycleRun
        cycle: Cycle = made.cycle
        job = run.job
        if self._tries_here and (opened := cycle.worker.opened) is not None:
            await opened.check()
        if not job.is_async:
            return await self._plain(run, cycle)
        # As `runcrew.backends.await_job`, for a run that has been entered already.
        try:
            value = await (job.fn(*run.args, **run.kwargs) if run.kwargs else job.fn(*run.args))
        except BaseException as error:
            if is_kind(error, asyncio.CancelledError) and (run.why is not None or cycle.is_being_cancelled):
                raise
            return _heard(made, run.finished(Status.FAILED, cycle.floor.now(), error=error))
        ended = cycle.tick() + cycle.floor.anchor
        outcome = Outcome(_SUCCEEDED, value, None, run.queued, run.started, ended, run.attempt, run.history)
        cycle.outcome = outcome
        return outcome

    async def _plain(self, run: Run, cycle: Cycle) -> Outcome[Any]:
        made: Any = run
        worker = cycle.worker
        if worker.process is not None:
            return _heard(made, await ProcessCall(run, worker, self._max_runs).result())
        if self._inline:
            return _heard(made, call_job(run))
        call = ThreadCall(run, tries=self._tries_there, left=cycle.floor.left_alone)
        return _heard(made, await call.result())


def _heard(run: CycleRun, outcome: Outcome[Any]) -> Outcome[Any]:
    """What came of an attempt. To say that there is no more to do is no failure, and nothing to try again."""
    if outcome.status is not Status.FAILED or (message := message_of(outcome.error)) is None:
        return outcome
    run.message = message
    return run.finished(Status.SUCCEEDED, outcome.ended, reason=brief(message))


def message_of(error: BaseException | None) -> Done | StopTree | None:
    """What a job says by raising this: that there is no more to do. None: it is an error."""
    message: Any = error
    return message if is_kind(error, (Done, StopTree)) else None


def is_kind(error: BaseException | None, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """What `isinstance` says, whatever the error says of its class: that is a user's code, and may raise."""
    return issubclass(type(error), kinds)


def trimmed(error: BaseException) -> BaseException:
    """The error with a traceback that begins in the user's code, and not where we have called that."""
    trace = error.__traceback__
    return BaseException.with_traceback(error, None if trace is None else trace.tb_next)
