"""What travels: the Job (what to do), the Run (one time that it is done), the Outcome (what came of it).

Values only. How a run is carried out is the business of backends and policies; when one is asked for,
of the doors.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import os
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import CoroutineType, FunctionType, MethodType
from typing import Any, Final, Generic, NamedTuple, NoReturn, Protocol, TypeVar

from runcrew import clock as clocks
from runcrew.durations import optional, seconds
from runcrew.errors import (
    JobCrashed,
    NotAJob,
    RunCancelled,
    RunInterrupted,
    RunSkipped,
    RunTimeout,
    brief,
)
from runcrew.pause import Idle, Pause

T_co = TypeVar("T_co", covariant=True)

#: An outcome remembers this many attempts, the latest ones.
HISTORY: Final = 16


class Status(StrEnum):
    """How a run ended. Compares equal to its plain string: `outcome.status == "succeeded"`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    #: A caller asked for this run to end.
    CANCELLED = "cancelled"
    #: Stop, kill or the parent's end. Not the job's fault; burns no attempt.
    INTERRUPTED = "interrupted"
    #: It never began, on purpose; the reason says why.
    SKIPPED = "skipped"


class Job:
    """What to do: a callable, and a name for people.

    Whether it is `async` is decided here, once, looking through partials, bound methods and `__call__`.
    """

    __slots__ = ("fn", "is_async", "name")

    def __init__(self, fn: Callable[..., Any], name: str | None = None) -> None:
        """Raises NotAJob for what can never be run: classes, coroutine objects, generator functions, …"""
        self.fn = fn
        self.is_async = _is_async(fn)
        self.name = name_of(fn) if name is None else name

    def __repr__(self) -> str:
        return f"<Job {self.name} ({'async' if self.is_async else 'plain'})>"


def _is_async(fn: object) -> bool:
    """Whether calling `fn` gives a coroutine. Raises NotAJob where it can never be a job."""
    if isinstance(fn, CoroutineType):
        fn.close()  # it will never be awaited; closing it spares the user a second, misleading warning
        raise NotAJob(f"{fn.__qualname__}(…) is a coroutine object, already called: give the function, not its call")
    if isinstance(fn, type):
        raise NotAJob(f"the class {fn.__qualname__} is not a job: give a function, or an instance with __call__")
    if not callable(fn):
        raise NotAJob(f"{fn!r} is not callable: a job is a function, a bound method, or an object with __call__")
    core: Any = fn
    while True:
        if isinstance(core, functools.partial):
            core = core.func
        elif isinstance(core, MethodType):
            core = core.__func__
        elif isinstance(core, FunctionType | type) or inspect.isbuiltin(core) or inspect.iscoroutinefunction(core):
            break
        else:
            call = type(core).__call__
            if not isinstance(call, FunctionType):
                break
            core = call
    if isinstance(core, type):
        raise NotAJob(f"{fn!r} makes an instance of the class {core.__qualname__}: that is not a job")
    if inspect.isgeneratorfunction(core) or inspect.isasyncgenfunction(core):
        raise NotAJob(f"{name_of(fn)} is a generator function: it yields values, and a job returns one")
    return inspect.iscoroutinefunction(core)


def name_of(fn: object) -> str:
    """What a job is called, for people."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


class Attempt(NamedTuple):
    """One attempt of a run. Times are seconds since the epoch; `wait` is the pause that followed it."""

    number: int
    status: Status
    error: BaseException | None
    started: float | None
    ended: float
    wait: float | None = None
    rule: str | None = None


@dataclass(slots=True)
class Outcome(Generic[T_co]):
    """What came of a run. Nobody changes it once it has been handed out."""

    status: Status
    value: T_co | None = None
    #: The job's own exception object, also where it is not an `Exception`; the last one of several attempts.
    error: BaseException | None = None
    #: Instants in seconds since the epoch; `started is None` where the run never began.
    queued: float = 0.0
    started: float | None = None
    ended: float = 0.0
    attempts: int = 1
    #: The latest attempts, oldest first, at most `HISTORY` of them. Empty where there was one, and nothing to retry it.
    history: tuple[Attempt, ...] = ()
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the run succeeded."""
        return self.status is Status.SUCCEEDED

    @property
    def queued_at(self) -> datetime:
        """When the run was accepted, in UTC."""
        return clocks.utc(self.queued)

    @property
    def started_at(self) -> datetime | None:
        """When its first attempt began, in UTC; None where it never began."""
        return None if self.started is None else clocks.utc(self.started)

    @property
    def ended_at(self) -> datetime:
        """When it ended, in UTC."""
        return clocks.utc(self.ended)

    @property
    def wait(self) -> float:
        """Seconds from acceptance to the first attempt (to the end, where it never began)."""
        return max(0.0, (self.ended if self.started is None else self.started) - self.queued)

    @property
    def elapsed(self) -> float:
        """Seconds from the first attempt to the end, pauses included; 0 where it never began."""
        return 0.0 if self.started is None else max(0.0, self.ended - self.started)

    def unwrap(self) -> T_co:
        """The value, or the matching error raised.

        failed: the job's own exception object (JobCrashed from it, where it is not an `Exception`);
        otherwise RunTimeout, RunCancelled, RunInterrupted or RunSkipped, from the last error if there is one.
        Never `asyncio.CancelledError`.
        """
        if self.status is Status.SUCCEEDED:
            return self.value  # type: ignore[return-value]
        try:
            self._raise()
        finally:
            del self

    def _raise(self) -> NoReturn:
        error = self.error
        try:
            if self.status is Status.FAILED and isinstance(error, Exception):
                raise error
            if self.status is Status.FAILED:
                raise JobCrashed(f"the job raised {brief(error)}", self) from error
            if self.status is Status.TIMED_OUT and isinstance(error, RunTimeout):
                error.outcome = self
                raise error
            kind = _ERRORS[self.status]
            raise kind(self.reason or f"the run was {self.status.value.replace('_', ' ')}", self) from error
        finally:
            del error, self  # a frame that is left by an error stays in its traceback: it must not lead back to it


_ERRORS: Final = {
    Status.TIMED_OUT: RunTimeout,
    Status.CANCELLED: RunCancelled,
    Status.INTERRUPTED: RunInterrupted,
    Status.SKIPPED: RunSkipped,
}

_numbers = itertools.count(1)


class _Ids:
    """What the ids of all runs of this process begin with."""

    prefix = ""

    @classmethod
    def renew(cls) -> None:
        """This is another process than before."""
        cls.prefix = f"{os.getpid():x}-{os.urandom(3).hex()}"


_Ids.renew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Ids.renew)
_NO_KWARGS: Final[Mapping[str, Any]] = {}
_log: Final = logging.getLogger("runcrew.job")


class Run:
    """One time that a job is done. From inside the job: `rc.current_run()`.

    A run has one owner (the policy call, the service or the queue that made it) which alone may change it.
    The job reads it, may report `progress`, and may ask to be told when it should end.
    """

    # Class attributes are the defaults: a run that needs none of them pays for none of them.

    #: Counts from 1; the second attempt is the first retry.
    attempt: int = 1
    #: When it was accepted, in seconds since the epoch; 0.0 where nobody asked for the time.
    queued: float = 0.0
    #: When its first attempt began.
    started: float | None = None
    #: What made it: "call", "once", "tick", "trigger", …
    cause: str = "call"
    #: The service that it belongs to, or None.
    service: str | None = None
    #: The service whose work it is part of, where its owner has not put that into the context.
    home: Any = None
    #: The run inside which it was made, or what stands for that; where it waits, that one does.
    outer: Any = None
    #: Its deadline and the end of this attempt's time, in seconds since the epoch.
    due: float | None = None
    limit: float | None = None
    #: Why it was asked to end: CANCELLED or INTERRUPTED. The first reason stays.
    why: Status | None = None
    why_text: str = ""
    #: Whether no further attempt may begin.
    final: bool = False
    #: Whether the job has been told to end (asked to, or its time was up).
    told: bool = False
    #: Whether this attempt is in a thread now: it can be told to end, not cancelled.
    in_thread: bool = False
    #: The ident of that thread; and of those that were told, and may still be at work when another attempt begins.
    thread: int | None = None
    left: tuple[int, ...] = ()
    #: How far it has come, as the job last said: (done, total).
    done: tuple[float, float | None] | None = None
    #: Hears that the job says it is ready to serve, on whatever thread the job is.
    on_ready: Callable[[], None] | None = None
    #: The worker that carries it out, where its door has workers (a `runcrew.workers.Worker`).
    worker: Any = None
    #: Hears that the job waits for something to do, and that it goes on; in whatever thread the job is.
    on_idle: Callable[[bool], None] | None = None
    #: Hears, on the loop, that the thread of an attempt was abandoned (a `runcrew.backends.AbandonedCall`).
    on_abandoned: Callable[[Any], None] | None = None
    #: Ends a pause between two attempts at once; set while there is one.
    wake: Callable[[], None] | None = None
    #: The latest attempts that did not succeed.
    history: tuple[Attempt, ...] = ()
    _told_event: threading.Event | None = None
    _on_told: tuple[Callable[[], None], ...] = ()

    def __init__(self, job: Job, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = _NO_KWARGS) -> None:
        self.job = job
        self.args = args
        self.kwargs = kwargs
        self.number = next(_numbers)

    def __repr__(self) -> str:
        return f"<Run {self.id} of {self.job.name}, attempt {self.attempt}>"

    # --- what a job may ask -------------------------------------------------------

    @property
    def id(self) -> str:
        """Unique among all runs of all processes."""
        return run_id(self.number)

    @property
    def deadline(self) -> datetime | None:
        """The point in time at which this attempt will be ended, in UTC; None where nothing limits it."""
        ends = self.ends
        return None if ends is None else clocks.utc(ends)

    @property
    def ends(self) -> float | None:
        """The same in seconds since the epoch: the run's deadline or the attempt's timeout, whichever is first."""
        if self.due is None or self.limit is None:
            return self.limit if self.due is None else self.due
        return min(self.due, self.limit)

    @property
    def cancelled(self) -> bool:
        """Whether this run should end: asked to by a caller or a stop, or its time is up.

        A job in a thread looks at this now and then; an async job is cancelled where it awaits.
        """
        return self.told or (self.left != () and self._in_left_thread())

    def wait_cancelled(self, timeout: float | str | timedelta | None = None) -> Pause:
        """Wait until this run should end. Gives True then, False when `timeout` (None: no limit) is over first.

        In a thread: `if run.wait_cancelled("5s"): return`. In an async job: `await run.wait_cancelled("5s")`.
        Raises ConfigError for a bad timeout.
        """
        span = optional(timeout, "timeout")
        return Pause.of(self, span, raises=False)

    def sleep(self, span: float | str | timedelta) -> Pause:
        """Let time pass; end early, by `asyncio.CancelledError`, when this run should end.

        In a thread `run.sleep("5s")` blocks; in an async job write `await run.sleep("5s")`. On virtual
        time neither waits really. Raises ConfigError for a bad span.
        """
        return Pause.of(self, seconds(span, "sleep"), raises=True)

    def idle(self) -> Idle:
        """Say that the job waits for something to do: `with run.idle(): message = await inbox.get()`.

        What matters to a pool: that time counts as no work, and when the worker is to leave, it need not be waited
        for. The run ends there then: by `asyncio.CancelledError`, which comes out of what it awaits. In a thread
        `run.cancelled` becomes true, and once it is, the block is not entered. Elsewhere it changes nothing.
        A run waits as soon as one of its tasks says so; one inside another (`rc.call`, `rc.policy`) is part of that.
        """
        run: Run | None = self
        while run is not None and run.on_idle is None:
            run = None if run.outer is None else made(run.outer)
        return Idle(None if run is None else run.on_idle)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """The logger `runcrew.job`, with this run's fields (run, job, attempt) on every record."""
        return _RunLog(_log, {"run": self.id, "job": self.job.name, "attempt": self.attempt})

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the job has come, in units of its own; shown in `stats()` while it runs."""
        self.done = (done, total)

    def ready(self) -> None:
        """Say that what this job serves is up: a service made with `ready="signal"` is ready from now on.

        Does nothing where nobody waits for it; may be called again.
        """
        if self.on_ready is not None:
            self.on_ready()

    # --- what its owner may do ------------------------------------------------------

    def ask_to_end(self, why: Status, text: str = "") -> bool:
        """Note why this run should end. The first reason stays; False where there was one already."""
        if self.why is not None:
            return False
        self.why, self.why_text, self.final = why, text, True
        return True

    def tell(self) -> None:
        """Let the job know that it should end. Callable from the loop's thread, more than once."""
        self.told = True
        if self.thread is not None and self.thread not in self.left:
            self.left = (*self.left, self.thread)
        if self._told_event is not None:
            self._told_event.set()
        callbacks, self._on_told = self._on_told, ()
        for callback in callbacks:
            callback()

    def next_attempt(self) -> None:
        """Make it ready for another attempt, which nobody has told to end. What is left of the last one stays told."""
        self.attempt += 1
        self.limit = None
        if self.told:
            self.told, self._told_event = False, None

    def _in_left_thread(self) -> bool:
        ident = threading.get_ident()
        return ident in self.left and ident != self.thread

    def told_event(self) -> threading.Event:
        """An event that is set when the job has been told to end."""
        if self.left and self._in_left_thread():
            over = threading.Event()
            over.set()
            return over
        event = self._told_event
        if event is None:
            event = self._told_event = threading.Event()
            if self.told:  # told between the two lines above: tell() may not have seen the event
                event.set()
        return event

    def finished(
        self, status: Status, now: float, *, value: Any = None, error: BaseException | None = None, reason: str = ""
    ) -> Outcome[Any]:
        """The outcome of this run, ended now."""
        return Outcome(status, value, error, self.queued, self.started, now, self.attempt, self.history, reason)

    def ended_by_request(self, now: float) -> Outcome[Any]:
        """The outcome of a run that ended because it was asked to; carries the last attempt's error."""
        error = self.history[-1].error if self.history else None
        return self.finished(self.why or Status.INTERRUPTED, now, error=error, reason=self.why_text)


class _RunLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the run's fields to the caller's own `extra`, instead of putting them in its place."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


_running: ContextVar[Run] = ContextVar("runcrew_run")
enter: Final = _running.set
leave: Final = _running.reset


class Unmade(Protocol):
    """What stands for a run that nobody has looked at yet."""

    @property
    def home(self) -> Any:
        """The service whose work the run is part of."""
        ...

    def as_run(self) -> Run:
        """The run: always the same one."""
        ...


#: Enters what a Run can be made of: it is left unmade until somebody looks at it. A compiled policy enters
#: [job, args, kwargs].
enter_unmade: Final[Callable[[list[Any] | Unmade], Token[Run]]] = _running.set  # type: ignore[assignment]


def made(parts: Run | list[Any] | Unmade) -> Run:
    """What was entered, as a Run. Of [job, args, kwargs] one is made, once, and kept as the fourth part."""
    if isinstance(parts, Run):
        return parts
    if not isinstance(parts, list):
        return parts.as_run()
    if len(parts) == 3:
        parts.append(Run(parts[0], parts[1], parts[2]))
    run: Run = parts[3]  # the first, where two threads have just made one each
    return run


def entered() -> Run | list[Any] | Unmade | None:
    """What was entered here, made or not; None outside any run."""
    return _running.get(None)


def outer_of(token: Token[Run]) -> Any:
    """What had been entered before that was."""
    return None if token.old_value is Token.MISSING else token.old_value


#: The next number for a run.
new_number: Final[Callable[[], int]] = _numbers.__next__


def run_prefix() -> str:
    """What the ids of all runs of this process begin with."""
    return _Ids.prefix


def run_id(number: int) -> str:
    """The id of the run with that number: unique among all runs of all processes."""
    return f"{_Ids.prefix}-{number:x}"


def current_run() -> Run:
    """The run that this code is part of, in an async job as well as in a thread.

    Raises LookupError outside any run. A task that a job starts sees the job's run, also after its end.
    """
    try:
        return made(_running.get())
    except LookupError:
        raise LookupError("no run here: current_run() works inside a job that runcrew runs") from None
