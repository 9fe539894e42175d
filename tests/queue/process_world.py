"""Tests with real processes: run on a real loop, in bounded time; and nothing may be left of them."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from process_jobs import give

import runcrew as rc

#: What marks the processes of one test: all that it starts inherit it.
MARK = "RUNCREW_PROCESS_TEST"
#: Seconds that what a test has started has to be gone after it.
GRACE = 3.0
#: Seconds that a test may take on its loop.
LIMIT = 30.0


def real(fn: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test, on a loop and in time that are real."""

    @functools.wraps(fn)
    def test(*args: Any, **named: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(LIMIT):
                await fn(*args, **named)

        asyncio.run(main())

    return test


@pytest.fixture(autouse=True)
def nothing_left_of_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After a test there are as many processes, descriptors, shared memory segments and temporary files as before."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv(MARK, mark)
    # The program here is pytest, and nothing of it is needed in another process.
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    before = _descriptors(), _names("/dev/shm"), _names(tempfile.gettempdir())
    yield
    after = [fd for fd in _descriptors() if fd not in before[0]]
    try:
        left = gone_in_time(lambda: [command(pid) for pid in marked(mark)])
        assert [] == left, left
    finally:
        for pid in marked(mark):
            os.kill(pid, 9)
    assert [] == after, after
    # Others are at work on this machine: what is theirs goes away, or has another name.
    left = gone_in_time(lambda: [name for name in _names("/dev/shm") if name not in before[1] and _is_ours(name)])
    assert [] == left, left
    left = [name for name in _names(tempfile.gettempdir()) if name not in before[2] and _is_ours(name)]
    assert [] == left, left


def marked(mark: str | None = None) -> list[int]:
    """The processes that carry the mark of this test and have not ended, without this one."""
    wanted = f"{MARK}={os.environ[MARK] if mark is None else mark}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0") and is_alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether a process has not ended. A zombie has."""
    return state_of(pid) not in "XZ"


def state_of(pid: int) -> str:
    """R: it runs; S: it sleeps; T: somebody has stopped it; Z: it has ended, and nobody has asked how; X: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def parent_of(pid: int) -> int:
    """Who has started it, or taken it over; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def command(pid: int) -> str:
    """What a process is."""
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_text()[:200]!r} {state_of(pid)}"
    except OSError:
        return f"{pid} gone"


def gone_in_time(look: Callable[[], list[str]]) -> list[str]:
    """What is still found when the grace is over."""
    ends = time.monotonic() + GRACE
    while (found := look()) and time.monotonic() < ends:
        time.sleep(0.01)
    return found


def _descriptors() -> list[str]:
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue
    return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_ours(name: str) -> bool:
    """Others are at work on this machine, and make temporary files of their own."""
    return name.startswith(("runcrew", "psm_", "wnsm_"))


def servers() -> list[int]:
    """The fork servers of this test: children of ours."""
    return [pid for pid in marked() if parent_of(pid) == os.getpid()]


async def until(condition: Callable[[], object], span: float = 10.0) -> None:
    """Let the loop run until it holds."""
    async with asyncio.timeout(span):
        while not condition():
            await asyncio.sleep(0.002)


async def warm(queue: rc.Queue[Any], count: int = 200) -> None:
    """Have it learn that jobs are tiny, so that they are handed over ahead."""
    for _ in range(count):
        await queue.run(give)


async def rounds(count: int = 3) -> None:
    """Let what was submitted be handed over."""
    for _ in range(count):
        await asyncio.sleep(0)


def at_target(queue: rc.Queue[Any]) -> bool:
    """Whether all of its workers are there, and free."""
    stats = queue.stats()
    return stats.alive == stats.free == stats.workers and not (stats.opening or stats.closing or stats.leaving)


def accounts(queue: rc.Queue[Any], outcomes: list[rc.Outcome[Any]]) -> None:
    """The counts agree with what was seen."""
    runs = queue.stats().runs
    for status in rc.Status:
        assert sum(outcome.status is status for outcome in outcomes) == getattr(runs, status.value), status
    assert 0 == runs.in_flight
