"""One attempt of a run in a child process, awaited on the loop."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

from runcrew import clock as clocks
from runcrew.backends.processes import wire
from runcrew.backends.processes.process import Process
from runcrew.backends.processes.server import Lost
from runcrew.backends.processes.travel import anchor_of, error_of, setup_of, value_of
from runcrew.errors import ConfigError, NotPicklable, ProcessDied, brief
from runcrew.job import Outcome, Run, Status

_log: Final = logging.getLogger("runcrew")

#: How long a run that was asked to end may take for it before its process is killed, in seconds.
KILL_AFTER: Final = 0.5

#: How long a process may take to end by itself when its only run has ended, in seconds.
_LEAVE: Final = 1.0


class Attempt:
    """One attempt in a process that is there and has nothing else to do.

    number: the job's, in that process. unfit: what to raise where the resource did not pass its check.
    """

    def __init__(self, process: Process, run: Run, number: int) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        clock = clocks.current()
        self._now, self._anchor = clock.now, anchor_of(clock)
        self._process = process
        self._number = number
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._outcome: Outcome[Any] | None = None
        self._unfit: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False

    def begin(self) -> None:
        """Hand the job over, at once."""
        run, self._begun = self._run, True
        if run.started is None:
            run.started = self._now()
        self._process.sink = self
        fn: Callable[..., Any] = functools.partial(run.job.fn, **run.kwargs) if run.kwargs else run.job.fn
        try:
            request = self._process.request(self._number, fn, run.args, run.number, run.attempt, run.ends, None)
        except NotPicklable as error:
            self.ended(run.finished(Status.FAILED, self._now(), error=error))
        else:
            self._process.hand([request])

    async def result(self) -> Outcome[Any]:
        """What came of it. Cancelled, it cuts the attempt short, and returns or raises when nothing of it goes on.

        Raises what says that the resource did not pass its check.
        """
        cut: asyncio.CancelledError | None = None
        while not self._over.done():
            try:
                await asyncio.shield(self._over)
            except asyncio.CancelledError as error:
                if cut is None:
                    self._cut()
                cut = error
        if self._timer is not None:
            self._timer.cancel()
        # Taken away: the frames of an error lead here, and it must not be found here.
        outcome, self._outcome = self._outcome, None
        unfit, self._unfit = self._unfit, None
        try:
            if cut is not None and _is_cut(outcome):
                raise cut
            if unfit is not None:
                raise unfit
            assert outcome is not None
            if self._run.why is not None and isinstance(outcome.error, asyncio.CancelledError):
                return self._run.ended_by_request(self._now())
            return outcome
        finally:
            del cut, unfit, outcome, self

    def _cut(self) -> None:
        run = self._run
        run.tell()
        if run.why is None or not self._begun or self._process.take_back():
            self.kill("its time was up" if run.why is None else "its run was asked to end before it began")
            return
        self._process.tell(self._number)
        self.later(KILL_AFTER, "its run was asked to end, and did not")

    def kill(self, why: str) -> None:
        """End the process, and with it the attempt."""
        self._process.kill(why)

    def later(self, span: float, why: str) -> None:
        """Kill it in so many seconds, if it is still there."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(span, self.kill, why)

    # --- as the sink of its process ----------------------------------------------------------

    def take(self, first: wire.Frame, others: Iterator[wire.Frame]) -> wire.Frame | None:
        """See Sink. There is no other."""
        self._process.done += 1
        self.came(*first)
        return None

    def came(self, kind: int, number: int, began: float, ended: float, payload: wire.Buffer) -> None:
        """See Sink."""
        run, what = self._run, kind & ~(wire.BUFFERS | wire.LOOKED)
        if number != self._number:
            return
        if what == wire.PROGRESS:
            report_progress(run, payload)
            return
        if what == wire.SERVES:
            run.ready()
            return
        if what == wire.IDLE:
            self._hear_idle(began > 0)
            return
        at = self._now() if self._anchor is None else ended + self._anchor
        try:
            if what == wire.UNFIT:
                self._unfit = error_of(payload)
                outcome = run.finished(Status.SKIPPED, at)
            elif what == wire.ERROR:
                outcome = run.finished(Status.FAILED, at, error=error_of(payload))
            else:
                value = None if what == wire.NOTHING else value_of(kind, payload)
                outcome = run.finished(Status.SUCCEEDED, at, value=value)
        except NotPicklable as error:
            outcome = run.finished(Status.FAILED, at, error=error)
        self.ended(outcome)

    def _hear_idle(self, waits: bool) -> None:
        run = self._run
        if run.on_idle is None:
            return
        try:
            run.on_idle(waits)
        except asyncio.CancelledError as error:  # it is not to wait now: it is to end
            run.ask_to_end(Status.INTERRUPTED, str(error))
            self._cut()

    def ended(self, outcome: Outcome[Any]) -> None:
        """This came of it."""
        self._outcome = outcome
        self.over()

    def full(self) -> None:
        """See Sink. Who owns it sees to that."""

    def lost(self, error: BaseException | None) -> None:
        """The process is no more."""
        if self._outcome is None:
            self._outcome = self._run.finished(Status.FAILED, self._now(), error=error)
        self.over()

    def over(self) -> None:
        """Nothing of it goes on."""
        if self._process.sink is self:
            self._process.sink = None
        if not self._over.done():
            self._over.set_result(None)


def report_progress(run: Run, payload: wire.Buffer) -> None:
    """How far the job says it has come."""
    try:
        run.progress(*value_of(0, payload))
    except NotPicklable as error:
        _log.warning("%s: what it says of its progress: %s", run.job.name, brief(error))


def _is_cut(outcome: Outcome[Any] | None) -> bool:
    """Whether an attempt that was cancelled has ended because of that."""
    return outcome is None or isinstance(outcome.error, asyncio.CancelledError | ProcessDied)


class OwnProcess(Attempt):
    """One attempt in a process of its own: it is over when that is gone."""

    def __init__(self, run: Run, preload: tuple[str, ...]) -> None:
        super().__init__(Process(asyncio.get_running_loop(), f"of {run.job.name}", preload), run, 1)

    async def result(self) -> Outcome[Any]:
        """See Attempt."""
        run = self._run
        try:
            setup = setup_of(service=run.service, job=run.job.name)
            self._process.launch(self, setup)
        except (ConfigError, Lost, OSError) as error:
            return run.finished(Status.FAILED, self._now(), error=error)
        return await super().result()

    def ended(self, outcome: Outcome[Any]) -> None:
        """See Attempt."""
        self._outcome = outcome
        self._process.finish()
        self.later(_LEAVE, "its run has ended, and it has not")

    # --- as its owner --------------------------------------------------------------------------

    def ready(self) -> None:
        """See Owner."""
        if not self._process.killed:
            self.begin()

    def not_ready(self, error: BaseException) -> None:
        """See Owner."""
        self._outcome = self._run.finished(Status.FAILED, self._now(), error=error)

    def full(self, used: int = 0) -> None:
        """See Owner, and Sink. It has no limit."""

    def died(self, error: ProcessDied | None) -> None:
        """See Owner."""
        self.lost(error)
