"""Running a service as the program: signals, the drain, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from runcrew.durations import Duration, seconds, text
from runcrew.errors import ConfigError, ServiceStopped
from runcrew.lifecycle import BaseService, StopReport

_log: Final = logging.getLogger("runcrew")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Exit(IntEnum):
    """What a program that runs a service exits with."""

    #: A clean end, also one that a signal asked for.
    CLEAN = 0
    #: A permanent failure ended it.
    FAILED = 1
    #: Nothing was started: the configuration is wrong.
    CONFIG = 2
    #: Something would not stop.
    STUCK = 3
    #: All ended well, and a hook failed.
    HOOK = 4


def run(service: BaseService, *, grace: Duration = "25s") -> int:
    """Run a service until it ends, as the whole program does: the last line of a script.

    SIGTERM and SIGINT make it drain, within `grace`; a second signal kills it, a third exits at once
    (code 3). Returns 0 after a clean end, also one that a signal asked for; otherwise raises SystemExit
    with the code: 1 permanent failure, 2 configuration, 3 something would not stop, 4 only a hook failed.
    The errors and the report are logged. Outside the main thread no signals are handled.
    """
    code, report = run_with_report(service, grace=grace)
    if report is not None:
        _log.log(logging.WARNING if code else logging.INFO, "%s", report)
    if code:
        raise SystemExit(int(code))
    return 0


def run_with_report(service: BaseService, *, grace: Duration = "25s") -> tuple[Exit, StopReport | None]:
    """The same for faces that print the report themselves: gives the code and the report, never exits.

    Logs what went wrong, and leaves the report to the caller.
    """
    try:
        span = seconds(grace, "grace")
        runner = asyncio.Runner()
        code = runner.run(_run(service, span))
    except ConfigError as error:
        _log.error("%s", error)
        return Exit.CONFIG, service.report
    if code is Exit.STUCK:
        _leave_behind(runner.get_loop())
    else:
        runner.close()
    return code, service.report


def _leave_behind(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop on which something would not stop: waiting for it, as `asyncio.run` does, could last for ever."""
    for task in asyncio.all_tasks(loop):
        task.cancel()
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it has been reported, with its stack
    loop.close()


async def _run(service: BaseService, grace: float) -> Exit:
    with _signals(service, grace):
        try:
            await service.start()
            await service.wait()
        except ServiceStopped:
            await service.stop(grace)  # a signal came before it was ready
        except asyncio.CancelledError:
            await service.stop(grace)
        except Exception as error:
            if isinstance(error, ConfigError) and service.report is not None and service.report.errors == (error,):
                raise
            _log.error("%s failed: %s: %s", service.name, type(error).__name__, error, exc_info=error)
    return _judge(service.report)


def _judge(report: StopReport | None) -> Exit:
    if report is None:
        return Exit.FAILED
    if report.would_not_stop:
        return Exit.STUCK
    if report.errors:
        return Exit.FAILED
    return Exit.HOOK if report.hook_errors else Exit.CLEAN


@contextlib.contextmanager
def _signals(service: BaseService, grace: float) -> Iterator[None]:
    """While inside, the first signal drains the service, the second kills it, the third exits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    count = 0
    errands: dict[asyncio.Task[StopReport], None] = {}

    def heard(number: int) -> None:
        nonlocal count
        count += 1
        name = signal.Signals(number).name
        if count == 1:
            _log.info("%s: draining, for at most %s; once more kills", name, text(grace))
            errand = loop.create_task(service.stop(grace))
        elif count == 2:
            _log.warning("%s again: killing; once more exits at once", name)
            errand = loop.create_task(service.kill())
        else:
            os._exit(Exit.STUCK)
        errands[errand] = None
        errand.add_done_callback(lambda done: errands.pop(done, None))

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        try:
            loop.add_signal_handler(number, heard, number)
        except NotImplementedError:  # a loop without them, as on Windows
            signal.signal(number, lambda caught, _: loop.call_soon_threadsafe(heard, caught))
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
