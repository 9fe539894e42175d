"""Wherever a job runs, the same things come of it: the suite that is offered to all, for the backends of our own."""

from __future__ import annotations

import pytest

import runcrew as rc
from runcrew.abc import Backend
from runcrew.backends import LoopBackend, ThreadBackend, Threads
from runcrew.backends.processes import Processes
from runcrew.testing import BackendContract


class TestLoop(BackendContract):
    """The event loop: async jobs, and plain ones that are called inline."""

    runs_async = True
    inline = True

    def make(self) -> Backend:
        """As `backend="loop"` does."""
        return LoopBackend()


class TestThread(BackendContract):
    """The threads that all share."""

    def make(self) -> Backend:
        """As `backend="thread"` does."""
        return ThreadBackend()


class TestOwnThreads(BackendContract):
    """A pool of two threads, which leave as soon as they have nothing to do."""

    def make(self) -> Backend:
        """Two runs at once have to be enough."""
        return ThreadBackend(Threads(2, idle=0))


@pytest.mark.realtime
class TestProcess(BackendContract):
    """A process for each attempt."""

    virtual = same_objects = context = False
    kills = own_process = True

    def make(self) -> Backend:
        """What the jobs need is loaded once, not in each process."""
        return Processes(preload=["runcrew.testing.backends"])


def test_threads_cannot_kill() -> None:
    """Whoever asks that of anything but processes hears so where it is asked, in words."""
    for backend in ("loop", "thread", ThreadBackend()):
        with pytest.raises(rc.ConfigError, match=r"kill.*process"):
            rc.Queue("it", backend=backend, kill=True)
    assert "it" == rc.Queue("it", backend="process", kill=True).name
