"""Wherever a job runs, the same things come of it: the suite that is offered to all, for the backends of our own."""

from __future__ import annotations

from runcrew.abc import Backend
from runcrew.backends import LoopBackend, ThreadBackend, Threads
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
