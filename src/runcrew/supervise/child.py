"""One child of a supervisor: any Service, what is known of it, and how its end is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from runcrew.abc import AttemptStore, Service
from runcrew.durations import text
from runcrew.errors import Done, JobCrashed, ServiceStopped, StopTree
from runcrew.lifecycle import BaseService, Latch, State, StopReport, Stuck
from runcrew.supervise.decide import End, OnFailure
from runcrew.supervise.service import JobService
from runcrew.workers import Restarts


class Child:
    """What a supervisor keeps of one child.

    `up` opens when the child is ready, and again at its end, so that nobody waits for it in vain; `gone` is
    open whenever none of its lives is under way or about to be.
    """

    def __init__(self, service: Service, name: str, depends_on: Sequence[str], on_failure: OnFailure) -> None:
        self.service = service
        self.name = name
        self.depends_on = tuple(depends_on)
        self.on_failure = on_failure
        self.task: asyncio.Task[End] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.begun = False
        self.new_life(None)

    def new_life(self, restarts: Restarts | None) -> None:
        """Forget what the last life of the supervisor has left."""
        self.restarts = restarts
        self.up = Latch()
        #: Whether it is, or has been, ready: what depends on it may start.
        self.ready = False
        self.gone = Latch()
        self.gone.open()
        #: Whether it has been told to stop: what it raises from then on is never answered by a restart.
        self.asked = False
        self.error: Exception | None = None
        self.report: StopReport | None = None
        self.stuck: Stuck | None = None

    def adopt(self, parent: BaseService, attempts: AttemptStore) -> None:
        """Tie a service of our own to the tree: events, hooks, retry state."""
        if isinstance(self.service, BaseService):
            self.service._adopt(parent)
        if isinstance(self.service, JobService):
            self.service.attempts = attempts

    def release(self) -> None:
        """Undo `adopt`."""
        if isinstance(self.service, BaseService):
            self.service._release()
        if isinstance(self.service, JobService):
            self.service.attempts = None

    async def live(self, on_ready: Callable[[Child], None]) -> End:
        """One life: start, tell readiness, wait for the end, say how it ended. Raises only when cancelled."""
        try:
            await self.service.start()
            on_ready(self)
            await self.service.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self._stopped_first(error):
                return self.failed(error)
        self._keep_report()
        tree = self.report is not None and self.report.stop_tree
        return End.STOP_TREE if tree else End.WELL

    def _stopped_first(self, error: BaseException) -> bool:
        """Whether its start was cut short by a stop, which is no failure."""
        ours = isinstance(self.service, BaseService) and self.service.state is State.STOPPED
        return ours and isinstance(error, ServiceStopped)

    def failed(self, error: BaseException) -> End:
        """What it means that this error ended the child."""
        self._keep_report()
        if isinstance(error, Done):
            return End.WELL
        if isinstance(error, StopTree):
            return End.STOP_TREE
        if not isinstance(error, Exception):
            crash = JobCrashed(f"{self.name} raised {type(error).__name__}: {error}")
            crash.__cause__ = error
            error = crash
        self.error = error
        keyboard = isinstance(error, JobCrashed) and isinstance(error.__cause__, KeyboardInterrupt)
        return End.INTERRUPT if keyboard else End.FAILED

    def _keep_report(self) -> None:
        if isinstance(self.service, BaseService):
            self.report = self.service.report

    async def stop(self, span: float, grace: float) -> None:
        """Have it stop within `span` seconds; what does not, or fails to stop, is noted in `stuck` or `error`."""
        self.asked = True
        try:
            async with asyncio.timeout(span + grace):
                await self.service.stop(span)
        except TimeoutError:
            self.stuck = Stuck(self.name, "the service", f"its stop({text(span)}) did not return")
        except Exception as error:
            self.error = self.error or error

    async def kill(self) -> None:
        """Have it end at once."""
        self.asked = True
        kill: Any = getattr(self.service, "kill", None)
        if kill is not None:
            await kill()
        else:
            await self.service.stop(0)
