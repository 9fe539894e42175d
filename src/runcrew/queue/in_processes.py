"""Plain jobs in the processes of their workers.

What a process was handed waits in its pipes; a token for each says which may begin, and whoever takes the token out of
its pipe first, process or loop, has the job (see `runcrew.backends.processes.wire`). So it is always known which one is
under way, and a kill ends that one and no other.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from runcrew import clock
from runcrew.backends.processes import KILL_AFTER, anchor_of, error_of, report_progress, value_of, wire
from runcrew.backends.processes.process import is_result
from runcrew.errors import NotPicklable, ProcessDied
from runcrew.job import Status, new_number
from runcrew.queue.ahead import AHEAD, MOST, Ahead, Line
from runcrew.queue.ticket import Ticket
from runcrew.workers import BUSY, Unfit, Worker

if TYPE_CHECKING:
    from runcrew.backends.processes import Process
    from runcrew.queue.desk import Desk

#: One more is handed over where one takes no longer than this, mostly: so that its process need not wait for us.
_NEXT: Final = 1.5 * AHEAD


#: Arguments of these types are pickled together with those of other jobs: nothing can go wrong with them.
_LIGHT: Final = frozenset({int, float, bool, type(None)})


#: Says that there is no value, or none that can be had at once.
_NO_VALUE: Final = object()


def _value_of(payload: wire.Buffer) -> Any:
    try:
        return pickle.loads(payload)  # noqa: S301 - written by our own child
    except BaseException:  # it is told in words where there is time for that
        return _NO_VALUE


class ProcessLine(Line):
    """What one worker's process has been handed: by ticket, the number of the job there, and that of the run.

    Jobs are done, and come back, in the order in which they stand here.
    """

    __slots__ = ("_anchor", "_processes", "_timers", "held", "process", "since")

    def __init__(self, processes: InProcesses, worker: Worker, process: Process) -> None:
        super().__init__(processes, worker)
        self._processes = processes
        self._anchor = processes.anchor
        self.process = process
        #: When the first one has begun, which is when the one before it ended.
        self.since = 0.0
        #: What kills the process where a run does not end although it was asked to.
        self._timers: dict[Ticket[Any], asyncio.TimerHandle] = {}
        #: Whether nothing is to be handed over just now.
        self.held = False
        process.sink = self

    def where(self) -> str:
        """See Line."""
        return f"in the process {self.process.pid}"

    def waits(self, ticket: Ticket[Any]) -> bool:
        """See Line."""
        return next(iter(self.handed)) is not ticket

    def begun(self, ticket: Ticket[Any]) -> float:
        """See Line."""
        return self.since

    @property
    def not_begun(self) -> int:
        """See Line."""
        return max(0, len(self.handed) - 1)

    @property
    def is_served(self) -> bool:
        """Whether it is still this line that its process is at, and not a later one."""
        return self.process.sink is self

    def of(self, number: int) -> Ticket[Any] | None:
        """The one of this number, if it is still in the line."""
        return next((ticket for ticket, (its, _) in self.handed.items() if its == number), None)

    def number_of(self, ticket: Ticket[Any]) -> int:
        """The number of the run, as its process knows it."""
        numbers: tuple[int, int] = self.handed.get(ticket, (0, 0))
        run: int = numbers[1] or new_number()
        return run

    def remove(self, ticket: Ticket[Any]) -> int:
        """This one is in the line no more. The number of its run."""
        numbers: tuple[int, int] = self.handed.pop(ticket)
        timer = self._timers.pop(ticket, None)
        if timer is not None:
            timer.cancel()
        return numbers[1]

    def kill_later(self, ticket: Ticket[Any], timer: asyncio.TimerHandle) -> None:
        """This kills the process, unless the run ends before."""
        self._timers[ticket] = timer

    # --- coming back ------------------------------------------------------------------------

    def take(self, first: wire.Frame, others: Iterator[wire.Frame]) -> wire.Frame | None:
        """See Sink."""
        # The way of each run that succeeds at once: in one piece, since calls are what costs here.
        line, process, anchor = self.handed, self.process, self._anchor
        succeeded, timers = self._processes.desk.succeeded, self._timers
        frame: wire.Frame | None = first
        while frame is not None:
            kind, number, began, ended, payload = frame
            ticket = next(iter(line), None)
            plain = ticket is not None and ticket._more is None and line[ticket][0] == number and not timers
            value: Any = _NO_VALUE
            if plain and anchor is not None:
                value = None if kind == wire.NOTHING else _value_of(payload) if kind == wire.VALUE else _NO_VALUE
            if value is not _NO_VALUE and ticket is not None and anchor is not None:
                process.done += 1
                del line[ticket]
                self.progress = True
                started = ticket._started = began + anchor
                ended = self.since = ended + anchor
                succeeded(ticket, value, started, ended)
                self._came_back(ended - started)
            elif is_result(kind):
                process.done += 1
                self.came(kind, number, began, ended, payload)
            else:
                return frame
            if process.sink is not self:
                return None
            frame = next(others, None)
        return None

    def came(self, kind: int, number: int, began: float, ended: float, payload: wire.Buffer) -> None:
        """See Sink."""
        ticket = self.of(number)
        if ticket is None:
            return  # whatever it says comes too late
        if not is_result(kind):
            if kind == wire.PROGRESS:
                report_progress(ticket.as_run(), payload)
            return
        run = self.remove(ticket)
        self.progress = True
        anchor, now = self._anchor, self.now()
        started, ended = (now, now) if anchor is None else (began + anchor, ended + anchor)
        self.since = ended
        self._processes.settle(self, ticket, run, kind, payload, started, ended)
        self._came_back(ended - started)

    def _came_back(self, length: float) -> None:
        left = len(self.handed)
        if left == self.low or not left or self.worker.state is not BUSY:
            self._processes.learn(length)
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
        same: Any = None
        known = -1
        for ticket in tickets:
            ticket._worker = worker  # first: one that was cancelled may become another job by that
            ticket._started = None
            more = ticket._more
            number = process.given = process.given + 1
            run = (more is not None and more.number) or new_number()
            try:
                if more is None:
                    fn, args = ticket._fn, ticket._args
                    if fn is not same:
                        same, known = fn, process.knows(fn)
                    if known >= 0 and _LIGHT.issuperset(map(type, args)):
                        requests.append((number, known, args, run))
                    else:
                        requests.append(process.request(number, fn, args, run))
                else:
                    meta = run, more.attempt, more.due, more.timeout
                    requests.append(process.request(number, ticket._fn, ticket._args, *meta))
                    self._limit(ticket, more, line)
            except NotPicklable as error:
                wrong.append((ticket, error))
                continue
            given[ticket] = number, run
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
        if line.is_served:
            self._put_back(line, line.process.take_back())

    def _put_back(self, line: ProcessLine, numbers: list[int]) -> None:
        for number in reversed(numbers):
            ticket = line.of(number)
            if ticket is not None:
                line.remove(ticket)
                self.desk.ends.put_back(ticket)

    def refresh(self, line: Any) -> None:
        """See Ahead."""
        line.process.read()

    def relieve(self, line: Any) -> None:
        """See Ahead."""
        numbers: list[int] = line.process.take_back() if line.is_served else []
        if not numbers:
            return
        if len(numbers) == len(line.handed):
            line.process.give(numbers)
        else:
            self._put_back(line, numbers)

    def has_begun(self, ticket: Ticket[Any], line: Any) -> bool | None:
        """See Ahead."""
        number = line.handed[ticket][0]
        numbers: list[int] = line.process.take_back()
        begun: bool | None = number not in numbers
        if begun:
            # Now that nothing else begins: it may have ended, and nobody has looked. If not, it is the one under way.
            line.held = True
            self.desk.context.copy().run(line.process.read)
            line.held = False
            begun = True if line.of(number) is ticket else None
            if not line.is_served:  # all of it has ended, and the process has another one by now
                return None
        else:
            numbers.remove(number)
            line.remove(ticket)
        # Some of them may have been wanted by others meanwhile; and they have to be in order.
        numbers = sorted(number for number in [*numbers, *line.process.take_back()] if line.of(number) is not None)
        if numbers:
            line.process.give(numbers)
        return begun

    # --- coming back ------------------------------------------------------------------------

    def settle(
        self, line: ProcessLine, ticket: Ticket[Any], run: int, kind: int, payload: wire.Buffer, started: float,
        ended: float,
    ) -> None:  # fmt: skip
        """What came of one that is no plain success without a value."""
        desk, what = self.desk, kind & ~(wire.BUFFERS | wire.LOOKED)
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
            ticket.more().number = run
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
        if not line.handed or worker.state is not BUSY or worker.group is not desk.group:
            return False
        if line.held or not desk.may_hand_out:
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
        line.process.tell(line.handed[ticket][0])
        said = "its run was asked to end, and did not"
        line.kill_later(ticket, self.desk.later(KILL_AFTER, self._kill, line, said))

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
        for ticket in list(line.handed):
            ticket._started = line.since
            self._died_with_it(ticket, line.remove(ticket), line.worker, error)
        self._empty(line)
        self.desk.pump_soon()

    def _died_with_it(self, ticket: Ticket[Any], run: int, worker: Worker, error: BaseException | None) -> None:
        ends, more = self.desk.ends, ticket.more()
        if ticket._status is not None:
            return
        ends.began(ticket, more, ticket._started or self.now())
        more.number = run
        if more.why is not None:
            ends.asked(ticket, more)
        elif more.cut is not None:
            ends.next_after(ticket, Status.TIMED_OUT, ends.timeout_error(ticket, more.cut), more.cut)
        else:
            more.deaths += 1
            ends.settle_failed(ticket, worker, Status.FAILED, error or ProcessDied("its process has ended"))

    def lost(self, line: Any, said: str) -> None:
        """See Ahead."""
        self.take_back(line)
        for ticket in list(line.handed):
            self.desk.ends.end_early(ticket, Status.INTERRUPTED, said)
        self._empty(line)

    def give_up(self, line: Any, said: str, only: Ticket[Any] | None = None) -> None:
        """See Ahead: nothing is given up here, it is killed."""
        self._kill(line, said)
