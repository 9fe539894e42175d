"""One attempt of a plain job in the process of the worker that has it in hand, awaited on the loop."""

from __future__ import annotations

from typing import Any

from runcrew.backends.processes import Attempt
from runcrew.job import Outcome, Run
from runcrew.workers.worker import Worker


class ProcessCall(Attempt):
    """One attempt in the process of its worker, which has nothing else to do. The process gives its resource by itself.

    max_runs: how many runs a process does; then the worker leaves.
    """

    def __init__(self, run: Run, worker: Worker, max_runs: int | None) -> None:
        process = worker.process
        assert process is not None
        process.given += 1
        super().__init__(process, run, process.given)
        self._worker = worker
        self._max_runs = max_runs

    async def result(self) -> Outcome[Any]:
        """See Attempt."""
        self.begin()
        try:
            return await super().result()
        finally:
            if self._max_runs is not None and self._process.done >= self._max_runs:
                self._worker.group.leave(self._worker, f"its process has done {self._max_runs} run(s)")

    def kill(self, why: str) -> None:
        """See Attempt."""
        self._worker.group.leave(self._worker, f"its process was killed: {why}")
        super().kill(why)
