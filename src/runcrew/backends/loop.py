"""The event loop as the place where a run happens."""

from __future__ import annotations

from typing import Any

from runcrew.backends.guarded import await_job, call_job
from runcrew.job import Job, Outcome, Run


class LoopBackend:
    """Runs jobs on the event loop, in the current task: async ones are awaited, plain ones called inline.

    A plain job keeps everything else waiting while it runs: it should be over at once.
    """

    def check(self, job: Job) -> None:
        """Whether this backend can run `job`: it can run any."""

    async def handle(self, run: Run) -> Outcome[Any]:
        """Carry out one attempt of `run`.

        Raises asyncio.CancelledError where the task was cancelled or the run asked to end, and the job
        let that through. Everything else that the job raises is its outcome.
        """
        if run.job.is_async:
            return await await_job(run)
        return call_job(run)

    def __repr__(self) -> str:
        return "loop"


def step(awaitable: Any) -> None:
    """Take the one step that there is, of what is awaited here and not by the loop."""
    try:
        awaitable.send(None)
    except (StopIteration, StopAsyncIteration):
        pass
