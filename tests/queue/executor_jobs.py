"""Jobs for executors over processes: what travels has to be found by its name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

state_here = "nothing"


def initialize(value: str) -> None:
    """Prepare a worker."""
    global state_here
    state_here = value


def state() -> tuple[str, int]:
    """What the worker was prepared with, and which it is."""
    time.sleep(0.002)
    return state_here, os.getpid()


def double(number: int) -> int:
    """A short one."""
    return 2 * number


def twice(number: int, *, times: int = 2) -> int:
    """One with keywords."""
    return number * times


def fail(error: BaseException) -> None:
    """Raises what it was given."""
    raise error


def wait_for(path: str) -> int:
    """Goes on until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.002)
    return os.getpid()


def die(sign: int = signal.SIGKILL) -> None:
    """Takes its process with it."""
    os.kill(os.getpid(), sign)


def touch(path: str) -> None:
    """Leaves a trace."""
    with open(path, "w", encoding="utf-8"):
        pass


async def job() -> None:
    """Nothing for a process."""


class Heavy:
    """Cannot travel."""

    def __reduce__(self) -> Any:
        raise ValueError("too heavy")
