"""Jobs that another process finds by their names, and a crew that is declared beside them, as in a program."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import runcrew as rc

crew = rc.Crew("declared", loop_block=None)


@crew.oneshot(backend="process", ready="succeeded")
def once() -> int:
    """In which process it is."""
    return os.getpid()


@crew.interval("20ms", backend="process", depends_on=["once"])
def again() -> tuple[int, str, int]:
    """In which process it is, and what it knows of its run."""
    run = rc.current_run()
    return os.getpid(), str(run.service), run.attempt


def pid(*_: object) -> int:
    """In which process it is."""
    return os.getpid()


def owned() -> Iterator[int]:
    """A resource: the process that it was made in."""
    yield os.getpid()


def both(made: int) -> tuple[int, int]:
    """Where its resource was made, and where it is."""
    return made, os.getpid()


def deaf() -> None:
    """Goes on and on, and listens to nobody."""
    while True:
        time.sleep(0.01)


def listens() -> str:
    """Says that it is ready, waits until it is told to end, and then does."""
    run = rc.current_run()
    run.ready()
    run.wait_cancelled()
    return "tidied up"


def dies() -> None:
    """Kills its own process."""
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(mark: Path) -> int:
    """Kills its own process, unless it has done so before. Which attempt it is."""
    if not mark.exists():
        mark.touch()
        dies()
    return rc.current_run().attempt


def notes(where: Path) -> None:
    """One more file with the number of its process."""
    (where / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    rc.current_run().sleep(0.01)
