"""Processes as the place where a run happens: what is asked of them, and one attempt in a process of its own."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from types import FunctionType, MethodType
from typing import Any

from runcrew.backends.processes.attempt import OwnProcess
from runcrew.errors import ConfigError, NotAJob
from runcrew.job import Job, Outcome, Run


class Processes:
    """Child processes for plain jobs: `backend="process"`, or this, where something special is asked of them.

    max_runs: a worker's process is replaced after so many runs. max_megabytes: when it has come to use more memory
        than that (resident, in units of 1,000,000 bytes). None: never.
    max_deaths: a run during which its process died so often is given up, whatever its retry rules say.
    preload: names of modules that are imported once, before any process is made; each process then has them at once.

    The processes are forked by a fork server, a fresh interpreter without threads: never from this process. It loads
    the program's main module once, so what starts the work belongs under `if __name__ == "__main__":`.
    Jobs, arguments, values and errors travel pickled; context variables stay behind. A run that does not end by
    itself when its time is up is killed; one that was asked to end half a second later.

    A Queue or Pool has one process for each worker, which holds that worker's resource. Elsewhere (`OneShot`,
    `Interval`) each attempt has a process of its own, and the first three do not come into it. What is logged there is
    handled here, unless the main module sets up logging when it is loaded.

    Raises ConfigError for bad values, and where the system cannot do it (it takes `fork` and `waitid`: Linux).
    """

    #: Whether it can end what does not listen.
    kills = True

    __slots__ = ("max_bytes", "max_deaths", "max_runs", "preload")

    def __init__(
        self,
        *,
        max_runs: int | None = None,
        max_megabytes: float | None = None,
        max_deaths: int = 3,
        preload: Sequence[str] = (),
    ) -> None:
        if not hasattr(os, "fork") or not hasattr(os, "waitid"):
            raise ConfigError(f"backend: no processes on {sys.platform}: it takes fork and waitid; use threads there")
        if not sys.executable:
            raise ConfigError("backend: no processes here: sys.executable does not say which program Python is")
        self.max_runs = None if max_runs is None else _count(max_runs, "max_runs")
        megabytes = max_megabytes
        if megabytes is not None and (
            isinstance(megabytes, bool) or not isinstance(megabytes, int | float) or not 0 < megabytes < float("inf")
        ):
            raise ConfigError(f"max_megabytes: {megabytes!r} is not a number above 0; None means no limit")
        self.max_bytes = None if megabytes is None else int(megabytes * 1e6)
        self.max_deaths = _count(max_deaths, "max_deaths")
        if isinstance(preload, str) or not all(isinstance(name, str) and name for name in preload):
            raise ConfigError(f"preload: {preload!r} is not a list of names of modules")
        self.preload = tuple(preload)

    def __repr__(self) -> str:
        return "process"

    def check(self, job: Job) -> None:
        """Whether a process can run `job`. Raises NotAJob (a ConfigError) where it can not, with the remedy."""
        if job.is_async:
            raise NotAJob(
                f"{job.name} is async, and a process runs plain functions: leave `backend` out, so that it runs on the "
                "event loop, or write it with `def`"
            )
        core: Any = job.fn
        while isinstance(core, functools.partial | MethodType):
            core = core.func if isinstance(core, functools.partial) else core.__func__
        name = core.__qualname__ if isinstance(core, FunctionType) else ""
        if "<locals>" in name or "<lambda>" in name:
            raise NotAJob(
                f"{job.name} ({name}) is no function of a module: another process finds its job by its name there, so "
                "define it at the top of a module"
            )

    async def handle(self, run: Run) -> Outcome[Any]:
        """Carry out one attempt of `run` in a process of its own.

        When the task is cancelled since the run was asked to end, the job is told, and has half a second; otherwise,
        and then, its process is killed. It returns, or raises asyncio.CancelledError, when the process is gone.
        A process that cannot be had is a failed outcome, and so is one that dies.
        """
        return await OwnProcess(run, self.preload).result()


def _count(given: int, name: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ConfigError(f"{name}: {given!r} is not a whole number of at least 1")
    return given
