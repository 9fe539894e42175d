"""What `backend=` means, the same keyword everywhere."""

from __future__ import annotations

from typing import Any

from runcrew.abc import Backend
from runcrew.backends.loop import LoopBackend
from runcrew.backends.threaded import ThreadBackend
from runcrew.backends.threads import Threads
from runcrew.errors import ConfigError
from runcrew.job import Job


def choose(
    job: Job,
    backend: str | Backend | None = None,
    threads: Threads | None = None,
    max_abandoned: int | None = None,
) -> Backend:
    """The backend that is to run `job`.

    None: the event loop for an async job, a thread for a plain one. "loop": the event loop, where a plain job is
    called inline. "thread": a thread. "process": a process for each attempt. Or an object with an async
    method `handle(run)`.
    threads, max_abandoned: for a job in a thread, unless `backend` is an object; see `ThreadBackend`.

    Raises ConfigError for anything else, and for a job that the backend cannot run (its own
    `check(job)`, where it has one, says so).
    """
    chosen: Any
    match backend:
        case None:
            chosen = LoopBackend() if job.is_async else ThreadBackend(threads, max_abandoned=max_abandoned)
        case "loop":
            chosen = LoopBackend()
        case "thread":
            chosen = ThreadBackend(threads, max_abandoned=max_abandoned)
        case "process":
            from runcrew.backends.processes import Processes  # what only some need is loaded when it is needed

            chosen = Processes()
        case str():
            raise ConfigError(
                f'backend: {backend!r} is unknown: "loop", "thread", "process", None, or an object with handle(run)'
            )
        case _:
            chosen = backend
    if isinstance(chosen, type):
        raise ConfigError(f"backend: {chosen.__qualname__} is a class: give an instance of it")
    if not callable(getattr(chosen, "handle", None)):
        raise ConfigError(f"backend: {backend!r} has no method handle(run)")
    check = getattr(chosen, "check", None)
    if check is not None:
        check(job)
    return chosen  # type: ignore[no-any-return]
