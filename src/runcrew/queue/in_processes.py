"""Plain jobs in the processes of their workers.

What a process was handed waits in its pipes; a token for each says which may begin, and whoever takes the token out of
its pipe first, process or loop, has the job (see `runcrew.backends.processes.wire`). So it is always known which one is
under way, and a kill ends that one and no other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from runcrew import clock
from runcrew.backends.processes import KILL_AFTER, anchor_of, error_of, report_progress, value_of, wire
from runcrew.errors import NotPicklable, ProcessDied
from runcrew.job import Status, new_number
from runcrew.queue.ahead import AHEAD, MOST, Ahead, Line
from runcrew.queue.ticket import More, Ticket
from runcrew.workers import BUSY, Unfit, Worker

if TYPE_CHECKING:
    from runcrew.backends.processes import Process
    from runcrew.queue.desk import Desk

#: One more is handed over where one takes no longer than this, mostly: so that its process need not wait for us.
_NEXT: Final = 1.5 * AHEAD


class Handed:
    """One job on its way to a process and back."""

    __slots__ = ("line", "number", "run", "ticket", "timer")

    def __init__(self, line: ProcessLine, ticket: Ticket[Any], number: int, run: int) -> None:
        self.line = line
        self.ticket = ticket
        #: Which one it is in its process; and the number of the run.
        self.number = number
        self.run = run
        #: Kills the process where the run does not end although it was asked to.
        self.timer: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether others are before it, as far as we know."""
        return next(iter(self.line.handed)) is not self.ticket

    @property
    def started(self) -> float:
        """Since when, as far as we know, it is under way."""
        return self.line.since


class ProcessLine(Line):
    """What one worker's process has been handed."""

    __slots__ = ("_anchor", "_processes", "process", "since")

    def __init__(self, processes: InProcesses, worker: Worker, process: Process) -> None:
        super().__init__(processes, worker)
        self._processes = processes
        self._anchor = processes.anchor
        self.process = process
        #: When the first one has begun, which is when the one before it ended.
        self.since = 0.0
        process.sink = self

    def where(self) -> str:
        """See Line."""
        return f"in the process {self.process.pid}"

    def by_number(self, number: int) -> Handed | None:
        """The one of this number, if it is still in the line."""
        return next((handed for handed in self.handed.values() if handed.number == number), None)

    def number_of(self, ticket: Ticket[Any]) -> int:
        """The number of the run, as its process knows it."""
        handed: Handed | None = self.handed.get(ticket)
        return new_number() if handed is None else handed.run

    def came(self, kind: int, number: int, began: float, ended: float, payload: wire.Buffer) -> None:
        """See Sink."""
        line = self.handed
        handed = next(iter(line.values()), None)  # mostly it is the first
        if handed is None or handed.number != number:
            handed = self.by_number(number)
            if handed is None:
                return  # whatever it says comes too late
        ticket, anchor = handed.ticket, self._anchor
        if kind == wire.PROGRESS or kind == wire.SERVES:
            if kind == wire.PROGRESS:
                report_progress(ticket.as_run(), payload)
            return
        del line[ticket]
        self.progress = True
        if handed.timer is not None:
            handed.timer.cancel()
        if anchor is None:
            started = ended = self.now()
        else:
            started, ended = began + anchor, ended + anchor
        self.since = ended
        if kind == wire.NOTHING and ticket._more is None:
            ticket._started = started
            self._processes.desk.succeeded(ticket, None, started, ended)
        else:
            self._processes.settle(self, handed, kind, payload, started, ended)
        left = len(line)
        if left == self.low or not left or self.worker.state is not BUSY:
            self._processes.learn(ended - started)
            self._processes.look_after(self)

    def full(self) -> None:
        """See Sink."""
        self._processes.look_after(self)

    def lost(self, error: BaseException | None) -> None:
        """See Sink."""
        self._processes.process_lost(self, error)


class InProcesses(Ahead):
    """Hands the plain jobs of one desk to processes."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.anchor = anchor_of(clock.current())

    # --- handing over ---------------------------------------------------------------------

    def window(self, line: Any) -> int:
        """See Ahead."""
        if self.cautious:
            return 1
        most = MOST if self.mean <= 0 else 1 + min(MOST - 1, int(_NEXT / self.mean))
        limit = self.desk.setup.max_runs
        return most if limit is None else max(1, min(most, limit - line.process.done))

    def _line(self, worker: Worker) -> ProcessLine:
        assert worker.process is not None
        return ProcessLine(self, worker, worker.process)

    def _hand(self, line: Any, tickets: list[Ticket[Any]], first: Ticket[Any] | None = None) -> None:
        desk, worker, process = self.desk, line.worker, line.process
        requests: list[Any] = []
        wrong: list[tuple[Ticket[Any], BaseException]] = []
        given, tells = line.handed, desk.books.tells
        for ticket in tickets:
            more = ticket._more
            number = process.given = process.given + 1
            run = (more is not None and more.number) or new_number()
            try:
                if more is None:
                    requests.append(process.request(number, ticket._fn, ticket._args, run))
                else:
                    limit = None if more.timeout is None else self.now() + more.timeout
                    requests.append(
                        process.request(number, ticket._fn, ticket._args, run, more.attempt, more.due, limit)
                    )
                    self._limit(ticket, more, line)
            except NotPicklable as error:
                wrong.append((ticket, error))
                continue
            given[ticket] = Handed(line, ticket, number, run)
            ticket._worker = worker
            ticket._started = None
            if tells and ticket is not first:
                desk.books.tell_begin(ticket, worker.number)
        if requests:
            if len(requests) == len(line.handed):
                line.since = self.now()
            process.hand(requests)
            line.low = len(line.handed) // 2
            if len(line.handed) > 1:
                self._watch(line)
        if wrong:
            self._failed(line, wrong)

    def take_back(self, line: Any) -> None:
        """See Ahead."""
        self._put_back(line, line.process.take_back())

    def _put_back(self, line: ProcessLine, numbers: list[int]) -> None:
        for number in reversed(numbers):
            handed = line.by_number(number)
            if handed is not None:
                del line.handed[handed.ticket]
                self.desk.ends.put_back(handed.ticket)

    def refresh(self, line: Any) -> None:
        """See Ahead."""
        line.process.read()

    def relieve(self, line: Any) -> None:
        """See Ahead."""
        numbers: list[int] = line.process.take_back()
        if not numbers:
            return
        if len(numbers) == len(line.handed):
            line.process.give(numbers)
        else:
            self._put_back(line, numbers)

    def has_begun(self, ticket: Ticket[Any], line: Any) -> bool | None:
        """See Ahead."""
        handed: Handed = line.handed[ticket]
        numbers: list[int] = line.process.take_back()
        begun: bool | None = handed.number not in numbers
        if begun:
            # Now that nothing else begins: it may have ended, and nobody has looked. If not, it is the one under way.
            self.desk.context.copy().run(line.process.read)
            begun = True if line.handed.get(ticket) is handed else None
        else:
            numbers.remove(handed.number)
            del line.handed[ticket]
        # Some of them may have been wanted by others meanwhile.
        numbers = [number for number in numbers if line.by_number(number) is not None]
        if numbers:
            line.process.give(numbers)
        return begun

    # --- coming back ------------------------------------------------------------------------

    def settle(
        self, line: ProcessLine, handed: Handed, kind: int, payload: wire.Buffer, started: float, ended: float
    ) -> None:
        """What came of one that is no plain success without a value."""
        ticket, desk, what = handed.ticket, self.desk, kind & ~(wire.BUFFERS | wire.LOOKED)
        value: Any = None
        error: BaseException | None = None
        if what == wire.VALUE:
            try:
                value = value_of(kind, payload)
            except NotPicklable as wrong:
                error = wrong
        elif what != wire.NOTHING:
            error = error_of(payload)
        ticket._started = started
        if kind & wire.LOOKED:
            ticket.more().number = handed.run
        more = ticket._more
        if error is None and more is None:
            desk.succeeded(ticket, value, started, ended)
            return
        more = ticket.more()
        desk.ends.began(ticket, more, started)
        if ticket._status is not None:
            pass
        elif error is None:
            desk.ends.succeeded(ticket, more, value, ended)
        elif isinstance(error, Unfit) and what == wire.UNFIT:
            desk.carrier.found_unfit(ticket, line.worker, error)
        elif isinstance(error, asyncio.CancelledError) and more.why is not None:
            desk.ends.asked(ticket, more)
        else:
            desk.ends.settle_failed(ticket, line.worker, Status.FAILED, error)

    def look_after(self, line: Any) -> None:
        """See Ahead. A process that has done as many runs as it may is replaced."""
        limit, worker = self.desk.setup.max_runs, line.worker
        if limit is not None and line.process.done >= limit and worker.state is BUSY:
            worker.group.leave(worker, f"its process has done {limit} run(s)")
        if not self._fill_now(line):
            super().look_after(line)

    def _fill_now(self, line: ProcessLine) -> bool:
        """Where there is more to do, hand it over here and now, and not in the next round of the loop: the process may
        be waiting for it. Whether that was done."""
        desk, worker = self.desk, line.worker
        if not line.handed or worker.state is not BUSY or worker.group is not desk.group or not desk.may_hand_out:
            return False
        levels = desk.levels
        if levels.owes or (first := levels.first()) is None or not first._plain:
            return False
        more = self._share(self.window(line) - len(line.handed))
        if more:
            self._hand(line, more)
            if desk.room.waiting:
                desk.room.look()
        return True

    # --- ending it before it ends -----------------------------------------------------------

    def tell(self, ticket: Ticket[Any], line: Any) -> None:
        """See Ahead: its process is killed a little later, unless it ends."""
        handed: Handed = line.handed[ticket]
        line.process.tell(handed.number)
        handed.timer = self.desk.later(KILL_AFTER, self._kill, line, "its run was asked to end, and did not")

    def end_begun(self, ticket: Ticket[Any], line: Any, said: str) -> None:
        """See Ahead: its process is killed; what becomes of the run is said when that is gone."""
        ticket.more().cut = said
        self._kill(line, said)

    def _kill(self, line: ProcessLine, why: str) -> None:
        self.take_back(line)  # first: what has not begun is not to begin between now and the end
        worker = line.worker
        worker.group.leave(worker, f"its process was killed: {why}")
        line.process.kill(why)
        self.desk.pump_soon()

    def process_lost(self, line: ProcessLine, error: BaseException | None) -> None:
        """The process is no more: what had not begun waits again, and the run under way has ended with it."""
        self.take_back(line)
        for ticket, handed in list(line.handed.items()):
            if handed.timer is not None:
                handed.timer.cancel()
            ticket._started = line.since
            del line.handed[ticket]
            self._died_with_it(ticket, handed, line.worker, error)
        self._empty(line)
        self.desk.pump_soon()

    def _died_with_it(self, ticket: Ticket[Any], handed: Handed, worker: Worker, error: BaseException | None) -> None:
        ends, more = self.desk.ends, ticket.more()
        if ticket._status is not None:
            return
        ends.began(ticket, more, ticket._started or self.now())
        more.number = handed.run
        if more.why is not None:
            ends.asked(ticket, more)
        elif more.cut is not None:
            ends.next_after(ticket, Status.TIMED_OUT, ends.timeout_error(ticket, more.cut), more.cut)
        else:
            reason = self._count_death(ticket, more)
            ends.settle_failed(ticket, worker, Status.FAILED, error or ProcessDied("its process has ended"), reason)

    def _count_death(self, ticket: Ticket[Any], more: More) -> str:
        """Its process has died. What is to be said, where that has happened too often."""
        more.deaths += 1
        most = self.desk.setup.max_deaths
        if more.deaths < most:
            return ""
        more.final = True
        return f"its process died {more.deaths} time(s), and it is given up (max_deaths)" if most > 1 else ""

    def lost(self, line: Any, said: str) -> None:
        """See Ahead."""
        self.take_back(line)
        for ticket in list(line.handed):
            self.desk.ends.end_early(ticket, Status.INTERRUPTED, said)
        self._empty(line)

    def give_up(self, line: Any, said: str, only: Ticket[Any] | None = None) -> None:
        """See Ahead: nothing is given up here, it is killed."""
        self._kill(line, said)
