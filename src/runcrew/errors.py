"""Every error that runcrew raises by itself.

    RuncrewError
    ├── ConfigError (ValueError)         a bad value, refused where it was given
    │   └── NotAJob (TypeError)          this can never be run as a job
    ├── NotStarted                       it has not been started yet
    ├── AlreadyStarted                   it runs already, and may not be changed so
    ├── ServiceStopping                  it is on its way down: wait, then start it again
    ├── ServiceStopped                   it ended: start it again
    ├── WrongLoop                        it lives on another event loop, or on another thread
    ├── WouldDeadlock                    the call would wait for itself
    ├── CapacityError                    there is no room for it
    │   ├── QueueFull                    as many tickets wait as may
    │   ├── AtMax                        as many workers as there may be, or spare resources
    │   └── AtMin                        as few workers as there may be
    ├── ResourceError                    a resource could not be made (see __cause__)
    ├── RunError                         a run that did not succeed; has .outcome
    │   ├── RunTimeout (TimeoutError)    its time was up
    │   ├── RunCancelled                 a caller asked for this run to end
    │   ├── RunInterrupted               stop, kill or the parent's end; not the job's fault
    │   ├── RunSkipped                   it was not run, and .outcome.reason says why
    │   └── JobCrashed                   it raised what is not an Exception (see __cause__)
    │       └── ProcessDied (BrokenExecutor)     the process that it ran in has died; has .pid, .exitcode
    ├── NotPicklable (TypeError)         it cannot travel between processes (see __cause__)
    ├── RemoteTraceback                  the cause of an error that came from another process: where it was raised
    ├── NoRetry                          raised by a job: this error is final
    ├── Done                             raised by a job: finished for good, do not restart me
    └── StopTree                         raised by a job: stop the whole tree, it is no failure

A job's own exception is never wrapped: a failed run raises the very object the job raised.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runcrew.job import Outcome


class RuncrewError(Exception):
    """Base of all errors that runcrew raises by itself."""


class ConfigError(RuncrewError, ValueError):
    """A value was refused at construction. The message names the value and the remedy."""


class NotAJob(ConfigError, TypeError):
    """What was given as a job can never be run: a class, a coroutine object, a generator function, …"""


class NotStarted(RuncrewError):
    """The call needs a running service, and this one has not been started."""


class AlreadyStarted(RuncrewError):
    """The service is running already, and what was asked for has to come before its start."""


class ServiceStopping(RuncrewError):
    """The service is on its way down: it takes nothing new. `wait()` for it, then start it again."""


class ServiceStopped(RuncrewError):
    """The service has ended. `start()` gives it a new life."""


class WrongLoop(RuncrewError):
    """The service lives on another event loop, or the call came from a thread without one."""


class WouldDeadlock(RuncrewError):
    """The call would wait for the very work that makes it, and so for ever."""


class CapacityError(RuncrewError):
    """There is no room for what was asked for."""


class QueueFull(CapacityError):
    """As many tickets wait as may. Nothing was submitted."""


class AtMax(CapacityError):
    """There are as many workers, or spare resources in use, as there may be."""


class AtMin(CapacityError):
    """There are as few workers as there may be."""


class ResourceError(RuncrewError):
    """A resource could not be made. `__cause__` is what its maker raised."""


class RunError(RuncrewError):
    """A run did not succeed. `outcome` tells everything that is known of it."""

    outcome: Outcome[Any] | None

    def __init__(self, message: str = "", outcome: Outcome[Any] | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


class RunTimeout(RunError, TimeoutError):
    """The run (or one attempt of it) took longer than its timeout, or its deadline passed."""


class RunCancelled(RunError):
    """A caller asked for this run to end, and it did."""


class RunInterrupted(RunError):
    """The run ended because its surroundings did: stop, kill, the parent's end. Not the job's fault."""


class RunSkipped(RunError):
    """The run never began, on purpose: a duplicate, an overlap, a misfire. `outcome.reason` says which."""


class JobCrashed(RunError):
    """The job raised what is not an `Exception` (SystemExit, an unasked CancelledError, …): see `__cause__`."""


class ProcessDied(JobCrashed, BrokenExecutor):
    """The process in which the job ran has died, or was ended by somebody else, before the job was over.

    pid: which process that was. exitcode: how it ended, as `multiprocessing` says it: its exit status, or the number of
    the signal that killed it, negative. None: not known.
    """

    def __init__(self, message: str = "", pid: int | None = None, exitcode: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode


class NotPicklable(RuncrewError, TypeError):
    """An argument, a value or an error cannot be pickled, or not be made again from that: it cannot travel between
    processes. `__cause__` is what pickling it raised, where that is known."""


class RemoteTraceback(RuncrewError):
    """The cause of an error that came from another process: the traceback that it had there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def came_from_elsewhere(error: BaseException | None) -> bool:
    """Whether this was raised in another process."""
    return error is not None and isinstance(error.__cause__, RemoteTraceback)


class NoRetry(RuncrewError):
    """Marks an error as final: no retry rule ever matches it.

    Raise it from the error that it marks (`raise rc.NoRetry("bad key") from err`), or make it a base of
    an error class of your own (`class BadKey(rc.NoRetry, KeyError)`).
    """


class Done(RuncrewError):  # a message from a job to its service, not a fault
    """Raised by a job that has finished for good: its service ends well and is not restarted."""


class StopTree(RuncrewError):  # a message from a job to its supervisor, not a fault
    """Raised by a job: every supervisor above it stops all of its children, and none calls it a failure."""


def brief(error: BaseException | None) -> str:
    """An error in one line of bounded length, whatever its own text does: for messages and logs."""
    try:
        words = str(error)
    except BaseException:  # a SystemExit raised here would end the event loop
        words = "(its text cannot be made)"
    return f"{type(error).__name__}: {one_line(words[:200])}" if words else type(error).__name__


def one_line(words: str) -> str:
    """Text of unknown origin without line breaks and control characters: nobody forges a line of a log with it."""
    return words if words.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)
