"""What travels between a process and its children, and comes out at the other end: setups, values, errors."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable
from typing import Any

from runcrew.backends.processes import logs, wire
from runcrew.backends.processes.child import Setup
from runcrew.clock import Clock
from runcrew.errors import NotPicklable, RemoteTraceback
from runcrew.job import Job, run_prefix


def setup_of(
    recipe: Any = None, *, tries: bool = False, service: str | None, job: str | None = None, limit: int | None = None
) -> bytes:
    """What a process is told first, pickled: see `runcrew.backends.processes.child.Setup`. Raises NotPicklable."""
    try:
        return pickle.dumps(Setup(recipe, tries, service, job, run_prefix(), limit, logs.levels()), 5)
    except BaseException as error:
        raise wire.not_picklable("what makes the resource", error) from error


def value_of(kind: int, payload: wire.Buffer) -> Any:
    """What a run gave. Raises NotPicklable."""
    try:
        return wire.loads(kind & wire.BUFFERS, payload)
    except BaseException as error:
        raise wire.not_picklable("what the job returned", error) from error


def error_of(payload: wire.Buffer) -> BaseException:
    """What a run raised, with its traceback as the cause."""
    data, what, text = pickle.loads(payload)  # noqa: S301 - written by our own child
    error: BaseException | None = None
    if data is not None:
        try:
            error = pickle.loads(data)  # noqa: S301 - the same
        except BaseException as wrong:
            error = wire.not_picklable(what, wrong)
    if not isinstance(error, BaseException):
        error = NotPicklable(what)
    try:
        error.__cause__ = RemoteTraceback(text)
    except Exception as wrong:  # an error that does not let itself be changed cannot be raised either
        error = wire.not_picklable(what, wrong)
        wrong.__cause__ = RemoteTraceback(text)
    return error


def blamed(fn: Callable[..., Any], args: tuple[Any, ...], error: BaseException) -> NotPicklable:
    """Which of them cannot be pickled."""
    for what, value in ((f"the job {Job(fn).name}", fn), *((f"argument {n}", arg) for n, arg in enumerate(args))):
        try:
            pickle.dumps(value, 5)
        except BaseException as wrong:
            hint = ": it has to be found by its name in its module" if value is fn else ""
            return wire.not_picklable(f"{what}{hint}", wrong)
    return wire.not_picklable("an argument", error)


def anchor_of(of: Clock) -> float | None:
    """What has to be added to what a child's clock has read, to make it seconds since the epoch. None: time is virtual,
    and stands still while a child works."""
    return of.now() - of.monotonic() if type(of) is Clock else None


def signal_name(number: int) -> str:
    """What a signal is called."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
