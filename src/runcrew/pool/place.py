"""Where the runs of a pool happen that go through a chain: on the loop, or in the threads of its workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import call_job
from runcrew.job import Job, Outcome, Run, Status, new_number
from runcrew.workers import Worker
from runcrew.workers.thread_call import ThreadCall

if TYPE_CHECKING:
    from runcrew.pool.cycle import Cycle

_SUCCEEDED: Final = Status.SUCCEEDED


class CycleRun(Run):
    """A run of a cycle: what is the same for all of them is looked up there."""

    cause = "loop"
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
        return self.cycle.hear_idle


class Place:
    """A pool's own workers.

    tries: whether resources are tried before each run; and whether they live in the threads of their workers.
    """

    def __init__(self, *, inline: bool, tries: bool, in_threads: bool, said: str) -> None:
        self._inline = inline
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
            if isinstance(error, asyncio.CancelledError) and (run.why is not None or cycle.is_being_cancelled):
                raise
            return run.finished(Status.FAILED, cycle.floor.now(), error=error)
        outcome = cycle.outcome = Outcome(
            _SUCCEEDED,
            value,
            None,
            run.queued,
            run.started,
            cycle.tick() + cycle.floor.anchor,
            run.attempt,
            run.history,
        )
        return outcome

    async def _plain(self, run: Run, cycle: Cycle) -> Outcome[Any]:
        if self._inline:
            return call_job(run)
        return await ThreadCall(run, tries=self._tries_there, left=cycle.floor.left_alone).result()
