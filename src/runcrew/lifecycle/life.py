"""What belongs to one life of a service, from a start to its end, and to no other.

A service that is started again gets a new one; whoever waits for the old life still sees how that ended.
"""

from __future__ import annotations

from types import TracebackType

from runcrew.lifecycle.hooks import Hook
from runcrew.lifecycle.latch import NEVER, Latch, Limit
from runcrew.lifecycle.report import HookError, StopReport, Stuck


class Life:
    """The latches, the limit and the findings of one life."""

    __slots__ = (
        "epilogue", "error", "flush_by", "hook_errors", "hooks_by", "limit", "over", "quiet", "ready", "report",
        "stop_began", "stop_tree", "stuck", "traceback", "was_ready",
    )  # fmt: skip

    def __init__(self) -> None:
        #: Open when it is ready, and at its end, so that nobody waits for it in vain.
        self.ready = Latch()
        #: Open when none of its work is left.
        self.quiet = Latch()
        #: Open when it has ended, hooks and all.
        self.over = Latch()
        #: When a stop's patience with the work ends, in loop time; with the hooks after it; and with the sinks.
        self.limit = Limit()
        self.hooks_by = Limit()
        self.flush_by = NEVER
        self.was_ready = False
        #: The `on_stopped` hooks that have not been called yet; None before their time has come.
        self.epilogue: list[Hook] | None = None
        self.stop_began = 0.0
        self.stop_tree = False
        self.stuck: tuple[Stuck, ...] = ()
        self.hook_errors: list[HookError] = []
        self.error: BaseException | None = None
        self.traceback: TracebackType | None = None
        self.report: StopReport | None = None

    def fail(self, error: BaseException) -> None:
        """This ended it. The first error stays."""
        if self.error is None:
            self.error, self.traceback = error, error.__traceback__

    def raise_error(self) -> None:
        """Raise what ended it, if anything did; with the traceback of the failure, not of earlier raises."""
        if self.error is not None:
            raise self.error.with_traceback(self.traceback)

    def result(self) -> StopReport:
        """The report of a life that is over; raises what ended it."""
        self.raise_error()
        assert self.report is not None
        return self.report
