"""One child process, as the process that it works for sees it: what it is given, what comes back, how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, Protocol

from runcrew.backends.calls import running_loop
from runcrew.backends.processes import logs, wire
from runcrew.backends.processes.server import ForkServer
from runcrew.backends.processes.travel import blamed, error_of, signal_name
from runcrew.errors import ProcessDied

_log: Final = logging.getLogger("runcrew")

#: How long a process may stand still that somebody has stopped (SIGSTOP), in seconds.
STANDSTILL: Final = 1.0

#: What a job says while it is under way.
_REMARKS: Final = (wire.PROGRESS, wire.SERVES, wire.IDLE)
_KIND: Final = ~(wire.BUFFERS | wire.LOOKED)


def is_result(kind: int) -> bool:
    """Whether a frame of this kind says what came of a job."""
    return wire.NOTHING <= kind & _KIND <= wire.UNFIT


#: So many pieces of what it has written are read in one go.
_READS: Final = 4

#: How long its fork server may take to kill it, in seconds; then it is asked whether it is well.
_PATIENCE: Final = 2.0

_PLAIN_FUNCTION: Final = type(lambda: None)
_dumps: Final = pickle.dumps


class Owner(Protocol):
    """Who has launched a process. All of this is called on the loop, in whatever context."""

    def ready(self) -> None:
        """It is there, and has made its resource."""

    def not_ready(self, error: BaseException) -> None:
        """It could not be made, or its resource could not. `died` follows where it was there at all."""

    def full(self, used: int) -> None:
        """It has come to use so many bytes of memory, and begins nothing more."""

    def died(self, error: ProcessDied | None) -> None:
        """It is no more, with all that it had started. None: it has ended as it was told. Nothing else is called."""


class Sink(Protocol):
    """Who has handed a process jobs. Called on the loop, in whatever context."""

    def take(self, first: wire.Frame, others: Iterator[wire.Frame]) -> wire.Frame | None:
        """Take this result, and of the others as many as there are results for it. Each counts in `process.done`.

        What is no result, and was taken out of the others, is given back.
        """

    def came(self, kind: int, number: int, began: float, ended: float, payload: wire.Buffer) -> None:
        """This came of the job of that number: see `runcrew.backends.processes.wire`."""

    def full(self) -> None:
        """The process begins nothing more."""

    def lost(self, error: BaseException | None) -> None:
        """The process is no more; None: it has ended as it was told."""


class Process:
    """A child of the fork server of this loop. All of it is called on the loop.

    name: for messages. preload: modules that the fork server has imported. context: in which all is told; None: a copy
    of the one here.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, preload: tuple[str, ...], context: Context | None = None
    ) -> None:
        self._loop = loop
        self._context = copy_context() if context is None else context
        self.name = name
        self._preload = preload
        self._owner: Any = None
        #: Hears what comes of jobs; what comes when there is none is refused.
        self.sink: Sink | None = None
        self._server: ForkServer | None = None
        self._id = 0
        #: None before it is there.
        self.pid: int | None = None
        #: Why it was killed, for its error; empty: it was not, by us.
        self.killed = ""
        self._frames = wire.Frames()
        self._watches = False
        #: What it had not begun when it died.
        self._left: list[int] = []
        self._out: deque[wire.Buffer] = deque()
        self._functions: dict[Callable[..., Any], int] = {}
        self._requests = self._tokens = self._tokens_back = self._results = self._bell = -1
        #: What taking its resource down raised; and whether it has said that this is over.
        self.closing_error: BaseException | None = None
        self._closed = False
        #: Whether it is no more.
        self.ended = False
        #: How many jobs were handed to it, and how many of them have come back.
        self.given = self.done = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flight = _Flight(loop, f"the process {name}") if hasattr(loop, "runcrew_hold") else None

    def __repr__(self) -> str:
        return f"<Process {self.name} {'over' if self.ended else self.pid or 'not born'}>"

    # --- its beginning and end -------------------------------------------------------------

    def launch(self, owner: Owner, setup: bytes) -> None:
        """Begin. Raises Lost or OSError where that is impossible from the first."""
        self._owner = owner
        server = ForkServer.of(self._loop, self._preload)
        pipes: list[int] = []
        try:
            for _ in range(4):
                pipes += os.pipe()
            pipes.append(os.dup(pipes[2]))
        except OSError:
            for fd in pipes:
                os.close(fd)
            raise
        requests, self._requests, tokens, self._tokens, self._results, results, self._bell, bell = pipes[:8]
        self._tokens_back = pipes[8]
        for fd in (self._requests, tokens, self._tokens, self._results, self._bell, bell):
            os.set_blocking(fd, False)
        self._server = server
        server.enter()
        self._id = server.launch(self, (requests, tokens, results, bell))
        self._write(wire.frame(wire.SETUP, 0, [setup]))
        self._context.run(self._loop.add_reader, self._bell, self._rung)
        if self._flight is not None:
            self._flight.opens(True)

    def finish(self) -> None:
        """Let it take its resource down and end, once it has done what it has begun. It takes nothing after that."""
        if self._tokens >= 0:
            if self._flight is not None:
                self._flight.opens(True)
            self.take_back()
            os.close(self._tokens)
            os.close(self._tokens_back)
            self._tokens = self._tokens_back = -1

    def kill(self, why: str) -> None:
        """End it at once, and all that it has started. The first reason stays."""
        if self._server is None or self.ended or self.killed:
            return
        self.killed = why
        self._server.kill(self._id)
        self._stand_by()
        self._timer = self._loop.call_later(_PATIENCE, self._server.suspect)

    def _stand_by(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what it is given ------------------------------------------------------------------

    def request(
        self,
        number: int,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        run: int,
        *more: float | None,
    ) -> tuple[Any, ...]:
        """What stands for a job in `hand`: its number, and that of its run; and where they are not the usual ones, the
        attempt, when the run is due, and how long the attempt may take. Raises NotPicklable."""
        known, given = -1, args
        if type(fn) is _PLAIN_FUNCTION:
            known = self._functions.get(fn, -1)
            if known < 0:
                known = self._tell_function(fn)
        else:  # it may change, and is sent each time
            given = (fn, args)
        buffers: list[pickle.PickleBuffer] = []
        try:
            data = _dumps(given, 5, buffer_callback=buffers.append)
            if not buffers and len(data) <= wire.CHUNK:
                return (number, known, data, run, *more) if more else (number, known, data, run)
            kind, pieces = wire.in_pieces(data, buffers)
        except BaseException as error:
            raise blamed(fn, args, error) from error
        self._write(wire.frame(wire.ARGUMENTS | kind, number, pieces))
        return (number, known, None, run, *more)

    def knows(self, fn: Callable[..., Any]) -> int:
        """The number under which it has this function of a module; -1: it has not been sent it."""
        return self._functions.get(fn, -1) if type(fn) is _PLAIN_FUNCTION else -1

    def _tell_function(self, fn: Callable[..., Any]) -> int:
        try:
            data = pickle.dumps(fn, 5)
        except BaseException as error:
            raise blamed(fn, (), error) from error
        number = self._functions[fn] = len(self._functions)
        self._write(wire.frame(wire.FUNCTION, number, [data]))
        return number

    def hand(self, requests: Sequence[tuple[Any, ...]]) -> None:
        """Give it these, and let it begin them one after the other."""
        self._write(wire.frame(wire.JOBS, 0, [pickle.dumps(requests, 5)]))
        self.give([request[0] for request in requests])

    def give(self, numbers: Sequence[int]) -> None:
        """Let it begin what it has: these, in this order."""
        if self._flight is not None:
            self._flight.given(len(numbers))
        try:
            os.write(self._tokens, wire.tokens(numbers))
        except BrokenPipeError:
            pass  # it has died, and we shall hear of that: nothing of this has begun

    def take_back(self) -> list[int]:
        """The numbers of all that it has not begun, and now never will."""
        if self._tokens_back < 0:
            left, self._left = self._left, []
            return left
        numbers = wire.read_tokens(self._tokens_back)
        if self._flight is not None:
            self._flight.given(-len(numbers))
        return numbers

    def tell(self, number: int) -> None:
        """Let the job of that number know that it should end."""
        self._write(wire.frame(wire.TELL, number))

    def _write(self, pieces: list[wire.Buffer]) -> None:
        if self._requests < 0:
            return
        if not self._out:
            self._out.extend(pieces)
            self._flush()
            if self._out:
                self._loop.add_writer(self._requests, self._flush)
        else:
            self._out.extend(pieces)

    def _flush(self) -> None:
        out, waited = self._out, False
        try:
            while out:
                piece = out[0]
                sent = os.write(self._requests, piece)
                if sent == len(piece):
                    out.popleft()
                else:
                    out[0] = memoryview(piece)[sent:]
        except BlockingIOError:
            waited = True
        except OSError:  # it has died, and we shall hear of that
            out.clear()
        if not waited:
            self._loop.remove_writer(self._requests)

    # --- what it says ------------------------------------------------------------------------

    def _rung(self) -> None:
        try:
            if not os.read(self._bell, wire.CHUNK):  # it ends, and we shall hear how
                self._loop.remove_reader(self._bell)
        except BlockingIOError:
            pass
        self.read()

    def read(self) -> None:
        """Take what it has written, rung or not."""
        for _ in range(_READS):
            try:
                data = os.read(self._results, wire.CHUNK)
            except OSError:  # there is nothing; or it has just ended
                return
            if not data:
                return
            self._hear(data)
            if self.ended:
                return
            self._watch(self._frames.unfinished)
            if len(data) < wire.CHUNK:
                return
        self._loop.call_soon(self.read)  # others have their turn

    def _watch(self, wanted: bool) -> None:
        """Whether what it writes is read as it comes: the rest of something long, for which no bell is rung."""
        if wanted is not self._watches:
            self._watches = wanted
            if wanted:
                self._context.run(self._loop.add_reader, self._results, self.read)
            else:
                self._loop.remove_reader(self._results)

    def _hear(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except ValueError as error:
            self.kill(f"what it wrote made no sense ({error})")
            self._frames = wire.Frames()
            return
        self._hand_on(iter(frames))

    def _hand_on(self, frames: Iterator[wire.Frame]) -> None:
        try:
            while not self._tell(frames):
                pass
        except BaseException:  # on its way out of the loop, which may be run again: the rest is for then
            self._loop.call_soon(self._hand_on, frames)
            raise

    def _tell(self, frames: Iterator[wire.Frame]) -> bool:
        """Hand these on. False: one could not be; the others are not to be lost by that."""
        try:
            for frame in frames:
                if not is_result(frame[0]):
                    self._hear_else(frame[0] & _KIND, frame[1], frame[2], frame[4])
                    continue
                if self._flight is not None:
                    self._flight.given(-1)
                if self.sink is None:
                    self.done += 1
                    continue
                other = self.sink.take(frame, frames if self._flight is None else iter(()))
                if other is not None:
                    self._hear_else(other[0] & _KIND, other[1], other[2], other[4])
        except Exception:
            _log.exception("%r: what has come back could not be handed on", self)
            self.kill("what had come back from it could not be handed on")
            return False
        return True

    def _hear_else(self, what: int, number: int, began: float, payload: wire.Buffer) -> None:
        """What is no end of a job."""
        owner, sink = self._owner, self.sink
        if what in _REMARKS:
            if sink is not None:
                sink.came(what, number, began, 0.0, payload)
        elif what == wire.LOGGED:
            logs.heard(self.name, bytes(payload))
        elif what == wire.READY:
            self._opened()
            owner.ready()
        elif what == wire.NOT_READY:
            self._opened()
            owner.not_ready(error_of(payload))
        elif what == wire.FULL:
            owner.full(number)
            if sink is not None:
                sink.full()
        elif what == wire.CLOSED:
            self._closed = True
            self.closing_error = error_of(payload) if payload else None

    def _opened(self) -> None:
        if self._flight is not None:
            self._flight.opens(False)

    # --- what its fork server says -------------------------------------------------------------

    # (Whose reader that is may be anybody's: what follows is told in the right context.)

    def born(self, pid: int) -> None:
        """See Launched."""
        self.pid = pid

    def unborn(self, error: OSError) -> None:
        """See Launched."""
        self._over()
        self._context.run(self._owner.not_ready, error)
        self._context.run(self._owner.died, None)

    def stopped(self, number: int | None) -> None:
        """See Launched."""
        if self.killed:
            return
        self._stand_by()
        if number is not None:
            said = f"it was stopped by {signal_name(number)}, and stood still for {STANDSTILL:g} s"
            self._timer = self._loop.call_later(STANDSTILL, self.kill, said)

    def died(self, exitcode: int | None) -> None:
        """See Launched."""
        left = self.take_back()
        self._context.run(self._read_the_rest)
        self._left = left + self.take_back()  # what was read may have made somebody hand it more
        self._over()
        well = self._closed and exitcode == 0
        self._context.run(self._owner.died, None if well else ProcessDied(self._how(exitcode), self.pid, exitcode))

    def _how(self, exitcode: int | None) -> str:
        who = f"the process {self.name} ({self.pid})"
        if self.killed:
            return f"{who} was killed: {self.killed}"
        if exitcode is None:
            return f"{who} has died, and nobody knows how: its fork server has died too"
        if exitcode >= 0:
            return f"{who} has ended by itself, with exit status {exitcode} (os._exit, or a library)"
        said = f"{who} was killed by {signal_name(-exitcode)}"
        if exitcode == -signal.SIGKILL:
            return f"{said}: by the system, which was short of memory, or by somebody"
        return said

    def _read_the_rest(self) -> None:
        """It is dead: what it wrote is all there."""
        while True:
            try:
                data = os.read(self._results, wire.CHUNK)
            except OSError:
                return
            if not data:
                return
            self._hear(data)

    def _over(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._stand_by()
        self._close_pipes()
        if self._flight is not None:
            self._flight.clear()
        if self._server is not None:
            self._server.leave()

    def end_group(self) -> None:
        """See Launched."""
        if self.pid is not None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except OSError:  # nobody is left in it
                pass

    def forsaken(self) -> None:
        """See Launched."""
        self.ended = True
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._out.clear()
        closed = self._loop.is_closed() or running_loop() is not self._loop
        for fd in (self._requests, self._tokens, self._tokens_back, self._results, self._bell):
            if fd < 0:
                continue
            if not closed:
                self._loop.remove_reader(fd)
                self._loop.remove_writer(fd)
            os.close(fd)
        self._requests = self._tokens = self._tokens_back = self._results = self._bell = -1


class _Flight:
    """What a process holds virtual time for: its opening and end, and what it was given and has not brought back."""

    def __init__(self, loop: Any, what: str) -> None:
        self._loop = loop
        self._what = what
        self._opens = False
        self._given = 0
        self._holds = False

    def opens(self, opens: bool) -> None:
        self._opens = opens
        self._look()

    def given(self, number: int) -> None:
        self._given += number
        self._look()

    def clear(self) -> None:
        self._opens, self._given = False, 0
        self._look()

    def _look(self) -> None:
        wanted = self._opens or self._given > 0
        if wanted and not self._holds:
            self._loop.runcrew_hold(self._what)
        elif self._holds and not wanted:
            self._loop.runcrew_release(self._what)
        self._holds = wanted
