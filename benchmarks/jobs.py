"""What the benchmarks run in other processes, which import this module and nothing else of them."""

from __future__ import annotations

import os
import time


def noop(number: int) -> int:
    """Nothing."""
    return number


def compute(number: int) -> int:
    """A millisecond of processor time, however long that takes."""
    ends = time.thread_time() + 0.001
    while time.thread_time() < ends:
        pass
    return number


def stuck(number: int) -> int:
    """Never ends by itself."""
    while True:
        time.sleep(60 + number)


def own_process(number: int) -> int:
    """Which process it runs in."""
    time.sleep(0.01 * number)
    return os.getpid()
