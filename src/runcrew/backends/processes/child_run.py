"""The run under way in a child, as its job sees it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from runcrew import clock
from runcrew.job import Job, Run, enter_unmade

if TYPE_CHECKING:
    from runcrew.backends.processes.child import Child


def call(doing: Doing, fn: Any, args: tuple[Any, ...]) -> Any:
    """Do the job, as part of its run."""
    enter_unmade(doing)
    return fn(*args)


class Doing:
    """The job under way, and what stands for its run as long as it does not look at that."""

    __slots__ = ("_child", "_job", "args", "began", "fn", "home", "number", "run", "told")

    def __init__(self, child: Child, job: tuple[Any, ...], began: float) -> None:
        self._child = child
        self._job = job
        self.number: int = job[0]
        self.fn: Any = None
        self.args: tuple[Any, ...] = ()
        self.home = None
        self.began = began
        self.told = False
        self.run: ChildRun | None = None

    def as_run(self) -> Run:
        """See `runcrew.job.Unmade`."""
        if self.run is None:
            self.run = ChildRun(self._child, self, self._job)
        return self.run


class ChildRun(Run):
    """The run under way, as its job sees it: what it says travels to the parent, and from there comes that it should
    end."""

    def __init__(self, child: Child, doing: Doing, job: tuple[Any, ...]) -> None:
        super().__init__(Job(doing.fn, child.setup.job), doing.args)
        self.number = job[3]
        if len(job) > 4:
            self.attempt, self.due, timeout = job[4:]
            if timeout is not None:
                now = clock.SYSTEM
                self.limit = now.now() - now.monotonic() + doing.began + timeout
        self._child, self._doing = child, doing
        self.service = child.setup.service
        self.in_thread = True
        self.on_idle = self._tell_idle
        self.told = doing.told

    @property
    def id(self) -> str:
        """See Run."""
        return f"{self._child.setup.prefix}-{self.number:x}"

    @property
    def cancelled(self) -> bool:
        """See Run."""
        if not self.told:
            self.hear(0.0)
        return self.told

    def hear(self, timeout: float | None) -> bool:
        """Look whether it was told to end, for so long at most. Whether it was."""
        clocks = clock.SYSTEM
        ends = None if timeout is None else clocks.monotonic() + timeout
        while not self.told and self._child.now is self._doing:
            left = None if ends is None else max(0.0, ends - clocks.monotonic())
            self._child.hear(left)
            if left == 0.0:
                break
        return self.told

    def told_event(self) -> threading.Event:
        """See Run."""
        return _ToldEvent(self)

    def progress(self, done: float, total: float | None = None) -> None:
        """See Run."""
        super().progress(done, total)
        self._child.tell_progress(self._doing.number, done, total)

    def _tell_idle(self, waits: bool) -> None:
        if self._child.now is self._doing:
            self._child.tell_idle(self._doing.number, waits)

    def ready(self) -> None:
        """See Run."""
        self._child.tell_ready(self._doing.number)


class _ToldEvent(threading.Event):
    """Set when the run was told to end: waiting for it is waiting for the parent to say so."""

    def __init__(self, run: ChildRun) -> None:
        super().__init__()
        self._run = run

    def is_set(self) -> bool:
        """See threading.Event."""
        return self._run.cancelled

    def wait(self, timeout: float | None = None) -> bool:
        """See threading.Event."""
        return self._run.hear(timeout)
