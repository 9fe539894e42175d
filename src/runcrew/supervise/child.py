"""One child of a supervisor: any Service, what is known of it, and how its end is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from runcrew.abc import Service
from runcrew.durations import text
from runcrew.errors import Done, JobCrashed, ServiceStopped, ServiceStopping, StopTree, brief, came_from_elsewhere
from runcrew.lifecycle import BaseService, Latch, State, StopReport, Stuck
from runcrew.lifecycle.service import GRACE
from runcrew.lifecycle.tasks import task_stack
from runcrew.policies import MemoryAttempts
from runcrew.supervise.decide import End, OnFailure
from runcrew.supervise.service import JobService
from runcrew.workers import Restarts


class Census:
    """How many children are not gone, and how many not up: kept as they change, so that asking costs nothing."""

    __slots__ = ("living", "unready")

    def __init__(self) -> None:
        self.living = self.unready = 0


class Child:
    """What a supervisor keeps of one child.

    `up` opens when the child is ready, and again at its end, so that nobody waits for it in vain; `gone` is
    open whenever none of its lives is under way or about to be.
    """

    def __init__(
        self, service: Service, name: str, depends_on: Sequence[str], on_failure: OnFailure, census: Census
    ) -> None:
        self._census = census
        self.up, self.gone = Latch(), Latch()
        self.up.open()
        self.gone.open()
        self.service = service
        self.name = name
        self.depends_on = tuple(depends_on)
        #: Whom it waits for before it starts: those that it depends on, and those of an earlier phase.
        self.starts_after: Sequence[str] = self.depends_on
        self.on_failure: OnFailure = on_failure
        #: The task that starts it and waits for its end; and what takes the child away again.
        self.task: asyncio.Task[End] | None = None
        self.removal: asyncio.Task[Any] | None = None
        #: When it is to be started again.
        self.timer: asyncio.TimerHandle | None = None
        self.new_life(None)

    def new_life(self, restarts: Restarts | None) -> None:
        """Forget what the last life of the supervisor has left."""
        self.end()
        self.up = Latch()
        self._census.unready += 1
        self.restarts = restarts
        #: Retry state outlives a restart, and is of this child alone.
        self.attempts = MemoryAttempts()
        if isinstance(self.service, JobService):
            self.service.attempts = self.attempts
        #: Whether it has been started at all; and whether it is, or has been, ready: what depends on it may start.
        self.begun = self.ready = False
        #: Whether we have cancelled the task, before it began to start the child.
        self.dismissed = False
        #: Whether it has been told to stop: what it raises from then on is never answered by a restart.
        self.asked = False
        self.error: Exception | None = None
        self.report: StopReport | None = None
        #: What it has not done although it should have, for people.
        self.hangs = "its wait() did not return"

    def adopt(self, parent: BaseService) -> None:
        """Tie a service of our own to the tree: events, hooks, retry state."""
        if isinstance(self.service, BaseService):
            self.service._adopt(parent)

    def release(self) -> None:
        """Undo that."""
        if isinstance(self.service, BaseService):
            self.service._release()
        if isinstance(self.service, JobService):
            self.service.attempts = None

    def begin(self) -> None:
        """A life is about to be under way."""
        if self.gone.is_open:
            self._census.living += 1
            self.gone.close()

    def let_others_start(self) -> None:
        """Nobody has to wait for its readiness any longer."""
        if not self.up.is_open:
            self._census.unready -= 1
            self.up.open()

    def end(self) -> None:
        """It has ended, and is not to be started again."""
        if not self.gone.is_open:
            self._census.living -= 1
            self.gone.open()
        self.let_others_start()

    # --- one life -----------------------------------------------------------------------

    async def live(self, on_ready: Callable[[Child], None]) -> End:
        """Start it, tell its readiness, wait for its end, say how it ended. Raises only when cancelled."""
        try:
            await self.service.start()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self._stopped_first(error):
                return self.failed(error)
        else:
            on_ready(self)
        return await self.watch()

    async def join(self, on_ready: Callable[[Child], None]) -> End:
        """The same for a service of ours that somebody has just started by hand: nobody starts it twice."""
        assert isinstance(self.service, BaseService)
        life = self.service._life
        await life.ready.wait()
        if life.was_ready:
            on_ready(self)
        return await self.watch()

    async def watch(self) -> End:
        """Wait for the end of a child that has been started. Raises only when cancelled."""
        try:
            await self.service.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return self.failed(error)
        self._keep_report()
        return End.STOP_TREE if self._stops_tree() else End.WELL

    def _stopped_first(self, error: BaseException) -> bool:
        """Whether its start was cut short by a stop, or came in the middle of one: that is no failure."""
        ours = isinstance(self.service, BaseService) and self.service.state in (State.STOPPING, State.STOPPED)
        return ours and isinstance(error, ServiceStopped | ServiceStopping)

    def failed(self, error: BaseException) -> End:
        """What it means that this error ended the child."""
        self._keep_report()
        if isinstance(error, Done):
            self.ready = True  # also where it was finished before it was ready: what it was for is done
            return End.WELL
        if isinstance(error, StopTree):
            return End.STOP_TREE
        self.error = self.as_exception(error)
        cause = self.error.__cause__ if isinstance(self.error, JobCrashed) else None
        keyboard = isinstance(cause, KeyboardInterrupt) and not came_from_elsewhere(cause)
        return End.INTERRUPT if keyboard or self._stops_tree() else End.FAILED

    @property
    def failed_when_told(self) -> bool:
        """Whether its failure may come of the stop. One whose run was left to finish has failed by itself."""
        return self.asked and (not isinstance(self.service, JobService) or self.service.was_told)

    def as_exception(self, error: BaseException) -> Exception:
        """The error itself, or a JobCrashed from it where it is no `Exception`."""
        if isinstance(error, Exception):
            return error
        crash = JobCrashed(f"{self.name} raised {brief(error)}")
        crash.__cause__ = error
        return crash

    def _stops_tree(self) -> bool:
        return self.report is not None and self.report.stop_tree

    def _keep_report(self) -> None:
        if isinstance(self.service, BaseService):
            self.report = self.service.report

    # --- its end ------------------------------------------------------------------------

    async def stop(self, span: float) -> None:
        """Have it stop within `span` seconds. Raises what the service's `stop` raises."""
        self.asked = True
        # A service of our own keeps to its time, and says itself what hangs.
        ours = isinstance(self.service, BaseService)
        limit = asyncio.timeout(None if ours else span + GRACE)
        try:
            async with limit:
                await self.service.stop(span)
        except TimeoutError:
            if not limit.expired():
                raise
            self.hangs = f"its stop({text(span)}) did not return"

    async def kill(self) -> None:
        """Have it end at once. Raises what the service raises."""
        self.asked = True
        kill: Any = getattr(self.service, "kill", None)
        if kill is not None:
            await kill()
        else:
            await self.service.stop(0)

    def stuck(self) -> tuple[Stuck, ...]:
        """What is said of it where it would not stop: what it has found by itself, or that it is there."""
        if isinstance(self.service, BaseService) and self.service._life.stuck:
            return self.service._life.stuck
        where = "" if self.task is None else task_stack(self.task)
        return (Stuck(self.name, f"the service ({self.hangs})", where),)

    def give_up(self) -> None:
        """Wait for its end no longer, if anybody does."""
        if self.task is not None:
            task, self.task = self.task, None
            task.cancel()
            self.end()
