"""Cycles on the event loop: each is one task, which awaits its runs one after another.

A job that has nothing around it is awaited right there. Everything else goes through a chain, and each run is
made then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from runcrew.job import Job, Outcome, Run, Status, enter, enter_unmade
from runcrew.lifecycle.execution import checked_outcome
from runcrew.lifecycle.tasks import spawn, task_stack, thread_stack
from runcrew.pool.cycle import Cycle
from runcrew.pool.place import is_kind, trimmed
from runcrew.pool.tape import BATCH, GROUP, TINY
from runcrew.workers import Worker

if TYPE_CHECKING:
    from runcrew.abc import Handler
    from runcrew.pool.floor import Floor

_MANY: Final = [None] * BATCH
_GROUP: Final = [*range(1, GROUP + 1)]
_SUCCEEDED: Final = Status.SUCCEEDED
_LEAVES: Final = "its worker was to leave, and it waited"
_OUTSIDE: Final = "its task was cancelled from outside"


class LoopCycle(Cycle):
    """A cycle in a task of its own."""

    task: asyncio.Task[None]
    #: What it waits for its turn by.
    _turn: asyncio.Future[None] | None = None
    #: In which round of the loop the last run began; or one of those shortly before it.
    _round = -1

    def begin(self) -> None:
        """See Cycle."""
        # One context for all runs by this worker: what a job sets there stays.
        context = self.floor.home.work_context()
        self.task = self.worker.task = spawn(self._live(), f"{self.floor.name}-{self.worker.number}", context)
        self.task.add_done_callback(self._over, context=self.floor.context)

    async def _live(self) -> None:
        """Run after run, as long as it goes on."""
        floor, turns, task, still = self.floor, self.floor.turns, self.task, 0
        enter_unmade(self)
        # What has been cancelled from outside goes no further, even where the job took no notice of it.
        while self.goes_on and not task.cancelling():
            if turns.round == self._round and not turns.take(self.tick()):
                self._turn = floor.loop.create_future()
                await turns.wait(self._turn)
                if not self.goes_on:
                    return
            self._round, began = turns.round, self.tick()
            delay = await self._some()
            if self.tick() > began:
                still = self.tape.done
            elif self.tape.done - still >= turns.most:
                turns.stands_still()
            if delay and self.goes_on:
                over: asyncio.Future[None] = floor.loop.create_future()
                self.pause(delay, lambda over=over: over.done() or over.set_result(None))  # type: ignore[misc]
                await over

    def end_pause(self) -> None:
        """See Cycle. Nor does it wait for its turn, where it is not to begin anything."""
        super().end_pause()
        if self.told and self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def _some(self) -> float:
        """As many runs as there is time for, up to one that does not succeed. Seconds to pause for then."""
        raise NotImplementedError

    def _over(self, task: asyncio.Task[None]) -> None:
        self.running = False
        self.end_pause()
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self.floor.broken(self, fault)
        self.floor.ended(self, outside=self.why is None and task.cancelling() > 0)

    def thrown_away(self, error: BaseException) -> bool:
        """Whether this is its coroutine's being closed, with its loop; not the job's doing."""
        if not is_kind(error, GeneratorExit):
            return False
        try:
            return asyncio.current_task() is not self.task
        except RuntimeError:
            return True

    @property
    def is_being_cancelled(self) -> bool:
        """See Cycle."""
        return self.task.cancelling() > 0

    def goes_right_on(self, at: float) -> bool:
        """The slice is over: whether another run may begin at once."""
        turns, began = self.floor.turns, self._round
        self._round = turns.round
        return not self.is_being_cancelled and (self._round != began or turns.take(at))

    def is_cancelled(self, error: BaseException) -> bool:
        """Whether this is the cancellation of its task: by ourselves, or from outside."""
        return is_kind(error, asyncio.CancelledError) and (self.why is not None or self.task.cancelling() > 0)

    def cut_short(self, run: Run, error: BaseException) -> Outcome[Any]:
        """What a run comes to whose task was cancelled. Only what we ask for ourselves, or a loop on its way down, is
        no failure."""
        now = self.floor.now()
        if self.why is None and not self.floor.going_down:
            return run.finished(Status.FAILED, now, error=error, reason=_OUTSIDE)
        run.ask_to_end(self.why or Status.INTERRUPTED, self.why_text or "its event loop is going down without a stop")
        return run.ended_by_request(now)

    def _cancel(self) -> None:
        self.task.cancel()

    def give_up(self) -> None:
        """See Cycle."""
        if self.floor.books.give_up(self):
            self.floor.group.abandon(self.worker)
            self.floor.given_up(self)
        self.task.cancel()

    def where(self) -> str:
        """See Cycle."""
        return task_stack(self.task)


class BareCycle(LoopCycle):
    """An async job, or one that is called inline, with nothing around it."""

    def __init__(self, floor: Floor, worker: Worker, job: Job, call: Callable[[], Awaitable[object]]) -> None:
        super().__init__(floor, worker, job)
        self._call = call
        #: Whether the last runs were over at once.
        self._tiny = False

    async def _some(self) -> float:
        """See LoopCycle."""
        books, tape = self.floor.books, self.tape
        if books.tells:
            return await self._one()
        self.running = True
        error: BaseException | None = None
        try:
            if self.exact:
                await self._known()
            elif self._tiny:
                await self._in_groups()
            else:
                await self._one_by_one()
        except BaseException as raised:
            if self.thrown_away(raised):
                raise
            error = raised
        self.running = False
        if tape.done > tape.before:
            self.in_a_row = 0
        try:
            return self._raised(error) if error is not None else 0.0
        finally:
            self.run_over()
            books.count(self)
            del error

    # What a run costs is in these three: everything else comes once a slice.

    async def _one_by_one(self) -> None:
        """Runs, each timed by itself."""
        call, tick, add, turns = self._call, self.tick, self.tape.singles.append, self.floor.turns
        if len(self.tokens) != turns.most:
            self.tokens = _MANY[: turns.most]
        ends = turns.ends
        first = began = ended = self.since = tick()
        for _ in self.tokens:
            await call()
            ended = tick()
            add(ended - began)
            if ended >= ends:
                if self.told or not self.goes_right_on(ended):
                    break
                ends = turns.ends
            began = ended
        self._tiny = self.tape.is_tiny(ended - first)

    async def _in_groups(self) -> None:
        """Runs that are over at once. One that is not ends this."""
        call, tick, tape, turns = self._call, self.tick, self.tape, self.floor.turns
        ends, began, n = turns.ends, self.tick(), 0
        self.since = began
        try:
            while not self.told and len(tape.groups) < BATCH:
                self.tokens = tokens = _GROUP[:]
                for n in tokens:  # noqa: B007 - it counts
                    await call()
                ended = tick()
                if n < GROUP or ended - began > GROUP * TINY:
                    self._tiny = False
                    tape.add(ended - began, n)
                    return
                tape.groups.append(ended - began)
                if ended >= ends:
                    if not self.goes_right_on(ended):
                        return
                    ends = turns.ends
                began = ended
        except BaseException:
            if n > 1:
                tape.add_typical(n - 1)
            raise

    async def _known(self) -> None:
        """Runs that the job looks at: each is entered, so that what it leaves behind knows it by itself."""
        call, tick, tape, turns, books = self._call, self.tick, self.tape, self.floor.turns, self.floor.books
        at = self.since = tick()
        while True:
            enter(self.new_run(at))
            await call()
            ended = tick()
            tape.singles.append(ended - at)
            self.run_over()
            if self.told or books.tells or len(tape.singles) >= turns.most:
                return
            if ended >= turns.ends and not self.goes_right_on(ended):
                return
            at = ended

    async def _one(self) -> float:
        """One run, which somebody wants to hear of."""
        self.since = self.tick()
        run = self.new_run(self.since)
        enter(run)
        self.floor.books.tell_begin(run)
        self.running = True
        error: BaseException | None = None
        try:
            await self._call()
        except BaseException as raised:
            if self.thrown_away(raised):
                raise
            error = raised
        self.running = False
        try:
            if error is not None:
                return self._raised(error)
            return self.floor.run_ended(self, run, run.finished(Status.SUCCEEDED, self.floor.now()))
        finally:
            self.run_over()
            del error

    def _raised(self, error: BaseException) -> float:
        """The last one did not succeed."""
        error = trimmed(error)
        run = self.run or self.new_run(self.since + self.tape.pending)
        if not self.is_cancelled(error):
            return self.floor.run_ended(self, run, self.floor.outcome_of(self, run, error))
        self.floor.run_ended(self, run, self.cut_short(run, error))
        if self.why is None:
            raise error
        return 0.0


class ChainCycle(LoopCycle):
    """A job with policies or middleware around it, or on somebody's backend."""

    def __init__(self, floor: Floor, worker: Worker, job: Job, handler: Handler) -> None:
        super().__init__(floor, worker, job)
        self._handler = handler
        self.exact = True

    def where(self) -> str:
        """See Cycle."""
        run = self.run
        return thread_stack(run.thread) if run is not None and run.in_thread else super().where()

    def _cancel(self) -> None:
        run = self.run
        if run is None or not run.in_thread:  # a thread has been told, and may heed that in its own time
            super()._cancel()

    def leave(self) -> None:
        """See Cycle. One that waits for its turn, or between two attempts, ends now."""
        if (run := self.run) is not None:
            run.ask_to_end(Status.INTERRUPTED, _LEAVES)
            if run.wake is not None:
                run.wake()
        super().leave()

    async def _some(self) -> float:
        """See LoopCycle."""
        handler, tick, tape = self._handler, self.tick, self.tape
        books, turns = self.floor.books, self.floor.turns
        at = self.since = tick()
        while True:
            run = self.new_run(at)
            enter(run)
            self.running = True
            if books.tells:
                books.tell_begin(run)
            try:
                outcome = await handler(run)
                if outcome is not self.outcome:
                    outcome = checked_outcome(outcome, run)
            except BaseException as error:
                outcome = self._fault(run, error)
            self.running = False
            self.run_over()
            simple = outcome.attempts == 1 and run.message is None and not books.tells
            if simple and outcome.status is _SUCCEEDED:
                self.in_a_row = 0
                tape.singles.append(max(0.0, outcome.ended - run.queued))
            else:
                books.count(self)
                delay = self.floor.run_ended(self, run, outcome)
                if outcome.status is not _SUCCEEDED:
                    return delay
            at = tick()
            if self.told or len(tape.singles) >= turns.most or (at >= turns.ends and not self.goes_right_on(at)):
                books.count(self)
                return 0.0

    def _fault(self, run: Run, error: BaseException) -> Outcome[Any]:
        """The handler has raised: it was cancelled, or that is a fault of a middleware, and the run's failure."""
        if self.thrown_away(error):
            raise error
        if self.is_cancelled(error):
            return self.cut_short(run, error)
        return self.floor.outcome_of(self, run, error, "a policy or middleware failed")
