"""Jobs of pools that run in other processes, which find them here by their names."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import runcrew as rc


def note(path: str) -> None:
    """A line with the process's number."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.002)


def idles() -> None:
    """Waits for something to do, for ever."""
    run = rc.current_run()
    with run.idle():
        run.sleep(100)


def deaf() -> None:
    """Hears nothing for long."""
    time.sleep(100)


def interrupts() -> None:
    """Raises what nobody at a keyboard has asked for."""
    time.sleep(0.002)
    raise KeyboardInterrupt("of the job")


def dies() -> None:
    """Ends its process."""
    time.sleep(0.002)
    os._exit(3)


def done() -> None:
    """Has no more to do."""
    raise rc.Done("all read")


class Counts:
    """A job of one worker's own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        time.sleep(0.001)
        if self.calls == 5:
            note(self.path)


def counts(path: str) -> Counts:
    """Makes one."""
    return Counts(path)


def thing(path: str) -> Iterator[str]:
    """A resource that notes its opening and its end."""
    note(path + ".open")
    yield path
    note(path + ".close")


def use(path: str) -> None:
    """Uses it."""
    note(path)


async def is_async() -> None:
    """Cannot run there."""
