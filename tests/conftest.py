"""For every test: nothing may be left behind. What is left is looked for here, so that no test has to."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

pytest_plugins = ["pytester"]

T = TypeVar("T")

#: Real seconds that what a test started has to be gone after it. Only a test that leaves something waits at all.
GRACE = 2.0
#: Where a thread of a pool waits for work.
PARKED = ("_park", str(Path("runcrew", "backends", "threads.py")))


class LoopErrors(logging.Handler):
    """Collects what asyncio says about exceptions nobody heard of, and about tasks that were lost."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message, with its exception."""
        error = record.exc_info[1] if record.exc_info else None
        self.said.append(record.getMessage() + ("" if error is None else f"\n{type(error).__name__}: {error}"))


@pytest.fixture
def loop_errors(request: pytest.FixtureRequest) -> list[str]:
    """What asyncio's exception handler said during this test. A test that expects some looks, then clears it."""
    said: list[str] = request.getfixturevalue("nothing_left")
    return said


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[list[str]]:
    """After a test there are no more threads, children or unheard errors than before it."""
    threads, children = threading.enumerate(), child_processes()
    errors = LoopErrors()
    logger = logging.getLogger("asyncio")
    logger.addHandler(errors)
    try:
        yield errors.said
        gc.collect(1)  # what the test has just dropped; the rest is looked at after the module
    finally:
        logger.removeHandler(errors)
    assert [] == errors.said
    assert [] == gone_in_time(lambda: [str(t) for t in threading.enumerate() if t not in threads and counts(t)])
    assert [] == gone_in_time(lambda: [pid for pid in child_processes() if pid not in children])


@pytest.fixture(autouse=True, scope="module")
def nothing_lost() -> Iterator[None]:
    """After a module no task is found that was dropped while it was pending or had failed."""
    errors = LoopErrors()
    logger = logging.getLogger("asyncio")
    yield
    logger.addHandler(errors)
    try:
        gc.collect()
    finally:
        logger.removeHandler(errors)
    assert [] == errors.said


def counts(thread: threading.Thread) -> bool:
    """Whether a thread should not be here: it would keep Python from ending, or is one of ours and busy."""
    if not thread.is_alive():
        return False
    return not idle(thread) if thread.name.startswith("runcrew") else not thread.daemon


def idle(thread: threading.Thread) -> bool:
    """Whether a thread of ours waits for work, which it may do after a test."""
    name, file = PARKED
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == name and frame.f_code.co_filename.endswith(file):
            return True
        frame = frame.f_back
    return False


def child_processes() -> list[int]:
    """The children of this process, where the system tells, without the one that multiprocessing keeps for ever."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    kept = None if tracker is None else tracker._resource_tracker._pid
    lists = Path("/proc/self/task").glob("*/children")
    try:
        return [int(pid) for each in lists for pid in each.read_text().split() if int(pid) != kept]
    except OSError:  # a thread ended between the two steps: what it had is listed under another
        return []


def gone_in_time(look: Callable[[], list[T]]) -> list[T]:
    """What `look` still finds when the grace is over; empty as soon as it finds nothing."""
    ends = time.monotonic() + GRACE
    while found := look():
        if time.monotonic() > ends:
            return found
        time.sleep(0.002)
    return []
