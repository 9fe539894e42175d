"""Running a service as the program: signals, the drain, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from runcrew import clock
from runcrew.backends.calls import running_loop
from runcrew.durations import Duration, seconds, text
from runcrew.errors import ConfigError, brief
from runcrew.lifecycle import BaseService, StopReport
from runcrew.lifecycle.closing import close
from runcrew.lifecycle.service import GRACE
from runcrew.supervise import Supervisor

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

    Logs what went wrong, and leaves the report to the caller. Raises RuntimeError inside a running event loop.
    """
    if running_loop() is not None:
        raise RuntimeError("run() makes an event loop of its own: inside one, use `async with crew:`")
    try:
        span = seconds(grace, "grace")
        _check(service)
    except ConfigError as error:
        _log.error("%s", error)
        return Exit.CONFIG, None
    runner = asyncio.Runner()
    try:
        code = runner.run(_run(service, span))
    finally:
        closed = close(runner)
    if code is Exit.STUCK or not closed:
        code = Exit.STUCK
        _exit_in_any_case()
    return code, service.report


def _check(service: object) -> None:
    forkserver = sys.modules.get("runcrew.backends.processes.forkserver")
    if forkserver is not None and forkserver.loading:
        raise ConfigError(
            "this is the main module of a program that is loaded once more, for processes that run its jobs: rc.run "
            'belongs under `if __name__ == "__main__":`'
        )
    if not isinstance(service, BaseService):
        raise ConfigError(f"{service!r} cannot be run: give a Crew, or add it to one")
    if isinstance(service, Supervisor):
        service.check()


async def _run(service: BaseService, grace: float) -> Exit:
    with _signals(service, grace):
        try:
            await BaseService.run(service)  # a queue has a run() of its own, for what it is given
        except Exception as error:
            _log.error("%s failed: %s", service.name, brief(error), exc_info=error)
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
            if handler is not None:  # None: it was not set from Python
                signal.signal(number, handler)


# --- leaving ----------------------------------------------------------------------------


def _exit_in_any_case() -> None:
    """See to it that the process ends when its main thread does, also where another thread never will."""
    leaving = threading.Event()

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        leaving.set()

    def watch() -> None:
        leaving.wait()
        clock.SYSTEM.block(GRACE)
        os._exit(Exit.STUCK)

    # The public `atexit` comes too late: Python waits for the threads of asyncio before that.
    threading._register_atexit(leave)  # type: ignore[attr-defined]
    threading.Thread(target=watch, name="runcrew-exit", daemon=True).start()
