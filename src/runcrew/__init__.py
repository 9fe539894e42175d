"""runcrew runs all the background work of a service: one way to run a job, one lifecycle, one place to look.

    import runcrew as rc

Every public name is on this page. Importing runcrew loads nothing else: a name brings its module when it
is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

# fmt: off
# isort: off
if TYPE_CHECKING:  # for type checkers and editors
    from runcrew.crew import Crew
    from runcrew.program import run
    from runcrew.supervise import Supervisor, OneShot, Interval
    from runcrew.queue import Queue, Ticket, QueueStats, NoResource, HIGH, NORMAL, LOW
    from runcrew.pool import Pool, PoolStats
    from runcrew.workers import Intensity, Scale
    from runcrew.lifecycle import State, StopReport
    from runcrew.lifecycle.live import Live
    from runcrew.policies.policy import policy, call, wrap, Policy
    from runcrew.policies import Retry, retry_each, Budget, UNLIMITED, Exponential, Constant, Concurrency, Dedupe
    from runcrew.policies import Counter, Elapsed, Pace
    from runcrew.policies.per_worker import per_worker
    from runcrew.backends import Threads
    from runcrew.backends.processes import Processes
    from runcrew.insight import Collector, Metrics
    from runcrew.job import Run, Outcome, Status, Attempt, current_run
    from runcrew.durations import Duration
    from runcrew.errors import RuncrewError, ConfigError, NotAJob
    from runcrew.errors import NotStarted, AlreadyStarted, ServiceStopping, ServiceStopped, WrongLoop
    from runcrew.errors import RunError, RunTimeout, RunCancelled, RunInterrupted, RunSkipped, JobCrashed, ProcessDied
    from runcrew.errors import NotPicklable, RemoteTraceback
    from runcrew.errors import WouldDeadlock, CapacityError, QueueFull, AtMax, AtMin, ResourceError
    from runcrew.errors import NoRetry, Done, StopTree

#: For everybody: where each name lives. A test holds this, the imports above and `__all__` together.
_HOMES: Final = {
    "runcrew.crew": "Crew",
    "runcrew.program": "run",
    "runcrew.supervise": "Supervisor OneShot Interval",
    "runcrew.queue": "Queue Ticket QueueStats NoResource HIGH NORMAL LOW",
    "runcrew.pool": "Pool PoolStats",
    "runcrew.workers": "Intensity Scale",
    "runcrew.lifecycle": "State StopReport",
    "runcrew.lifecycle.live": "Live",
    "runcrew.policies.policy": "policy call wrap Policy",
    "runcrew.policies": "Retry retry_each Budget UNLIMITED Exponential Constant Concurrency Dedupe "
                        "Counter Elapsed Pace",
    "runcrew.policies.per_worker": "per_worker",
    "runcrew.backends": "Threads",
    "runcrew.backends.processes": "Processes",
    "runcrew.insight": "Collector Metrics",
    "runcrew.job": "Run Outcome Status Attempt current_run",
    "runcrew.durations": "Duration",
    "runcrew.errors": "RuncrewError ConfigError NotAJob "
                      "NotStarted AlreadyStarted ServiceStopping ServiceStopped WrongLoop "
                      "RunError RunTimeout RunCancelled RunInterrupted RunSkipped JobCrashed ProcessDied NotPicklable "
                      "RemoteTraceback "
                      "WouldDeadlock CapacityError QueueFull AtMax AtMin ResourceError "
                      "NoRetry Done StopTree",
}

__all__ = [
    # what must keep running
    "Crew", "run", "Supervisor", "OneShot", "Interval", "Intensity", "State", "StopReport", "Live",
    # what somebody asks for
    "Queue", "Ticket", "QueueStats", "NoResource", "HIGH", "NORMAL", "LOW", "Collector", "Metrics",
    # what should never stop looping
    "Pool", "PoolStats",
    # how many do it
    "Scale",
    # whether and how a run is done
    "policy", "call", "wrap", "Policy",
    "Retry", "retry_each", "Budget", "UNLIMITED", "Exponential", "Constant", "Concurrency", "Dedupe",
    "Counter", "Elapsed", "Pace", "per_worker",
    # where
    "Threads", "Processes",
    # what travels
    "Run", "Outcome", "Status", "Attempt", "current_run", "Duration",
    # errors: the tree is drawn at the top of runcrew/errors.py
    "RuncrewError", "ConfigError", "NotAJob",
    "NotStarted", "AlreadyStarted", "ServiceStopping", "ServiceStopped", "WrongLoop",
    "RunError", "RunTimeout", "RunCancelled", "RunInterrupted", "RunSkipped", "JobCrashed", "ProcessDied",
    "NotPicklable", "RemoteTraceback",
    "WouldDeadlock", "CapacityError", "QueueFull", "AtMax", "AtMin", "ResourceError",
    "NoRetry", "Done", "StopTree",
]
# isort: on
# fmt: on

if not TYPE_CHECKING:  # so that checkers refuse a name that is not there
    _homes = {name: module for module, names in _HOMES.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("runcrew")
        if name not in _homes:
            raise AttributeError(f"module 'runcrew' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_homes[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
