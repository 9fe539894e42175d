"""Child: the life of a worker's process. It makes its resource, does one job after the other, takes the resource down.

It reads a token, does the job of that number, and writes what came of it, before it reads the next token. What it was
sent and never gets the token of was taken back, and is dropped.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import threading
import traceback
from contextvars import Context, copy_context
from typing import Any, Final, Protocol

from runcrew import clock
from runcrew.backends.guarded import gave_awaitable, is_awaitable
from runcrew.backends.processes import logs, wire
from runcrew.backends.processes.child_run import Doing, call
from runcrew.errors import brief
from runcrew.job import Job

#: How often it is looked how much memory is used, in seconds.
_LOOK: Final = 0.02
#: How long one thread waits for what its parent says, before it lets others have a look. In seconds.
_MOMENT: Final = 0.05
#: The bell is rung for so many results, or when it has been silent for so long (seconds), or before no other follows.
#: All those together fit into the pipe.
_MANY: Final = 32
_SOON: Final = 0.0002
_SMALL: Final = 1024
#: So much of a traceback is told.
_MOST: Final = 20_000

_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Opened(Protocol):
    """A resource that was made."""

    @property
    def value(self) -> Any:
        """The resource itself."""
        ...

    def check_plain(self) -> None:
        """Try it."""

    def close_plain(self) -> None:
        """Take it down."""


class Recipe(Protocol):
    """What makes a resource in the child; pickled on its way there."""

    def open_plain(self) -> Opened:
        """Make one."""
        ...


class Setup:
    """What a child is told first."""

    __slots__ = ("job", "levels", "limit", "prefix", "recipe", "service", "tries")

    def __init__(
        self,
        recipe: Recipe | None,
        tries: bool,
        service: str | None,
        job: str | None,
        prefix: str,
        limit: int | None,
        levels: dict[str, int],
    ) -> None:
        self.recipe = recipe
        #: Whether the resource is tried before each run.
        self.tries = tries
        #: The service that the runs belong to; and what the ids of runs begin with.
        self.service = service
        #: What its jobs are called; None: each as its function.
        self.job = job
        self.prefix = prefix
        #: How many bytes of memory it may use.
        self.limit = limit
        #: See `runcrew.backends.processes.logs`.
        self.levels = levels


class Child:
    """In the child: serve these four pipes."""

    def __init__(self, requests: int, tokens: int, results: int, bell: int) -> None:
        self._requests, self._tokens, self._results, self._bell = requests, tokens, results, bell
        self._wait = select.poll()
        self._wait.register(tokens, select.POLLIN)
        #: How many results were written since the bell was rung, and when that was.
        self._unsaid = 0
        self._said = 0.0
        self._frames = wire.Frames()
        self._reading = threading.Lock()
        self._writing = threading.RLock()
        #: Whether something is being written; and what came in between, from a signal handler or a finalizer.
        self._writes = False
        self._late: list[list[wire.Buffer]] = []
        #: Whether this is a fork of the child that a job has made.
        self._forked = False
        self._jobs: dict[int, tuple[Any, ...]] = {}
        self._arguments: dict[int, tuple[int, Any]] = {}
        self._functions: dict[int, Any] = {}
        self._told: dict[int, None] = {}
        self._setup: Setup | _Broken | None = None
        self._opened: Opened | None = None
        self._context = Context()
        self._tick = clock.SYSTEM.ticker()
        self._looked = 0.0
        #: The job under way.
        self.now: Doing | None = None

    def live(self) -> int:
        """The whole life. What the process is to exit with."""
        os.register_at_fork(after_in_child=self._be_forked)
        try:
            if not self._open():
                return 0
            while (number := self._next()) is not None:
                self._do(number, self._job(number))
                if self._is_full():
                    self._wait_for_end()
                    break
            self._close()
        except (BrokenPipeError, EOFError):  # our parent is gone
            return 0
        return 0

    def _be_forked(self) -> None:
        self._forked = True
        for fd in (self._requests, self._tokens, self._results, self._bell):
            os.close(fd)  # they are the parent's

    # --- the resource ------------------------------------------------------------------------

    def _open(self) -> bool:
        while self._setup is None:
            self._read()
        try:
            if isinstance(self._setup, _Broken):
                raise wire.not_picklable("what makes its resource", self._setup.error)
            logs.forward(self._tell_log, self._setup.levels)
            if self._setup.recipe is not None:
                self._context = copy_context()
                self._opened = self._context.run(self._setup.recipe.open_plain)
        except BaseException as error:
            self._say(wire.frame(wire.NOT_READY, 0, [self._failure(error, "what making its resource raised", 1)]))
            self._leave()
            return False
        self._say(wire.frame(wire.READY))
        return True

    def _close(self) -> None:
        payload: list[wire.Buffer] = []
        try:
            if self._opened is not None:
                self._context.run(self._opened.close_plain)
        except BaseException as error:
            payload = [self._failure(error, "what taking its resource down raised", 1)]
        self._leave()
        self._say(wire.frame(wire.CLOSED, 0, payload))

    def _leave(self) -> None:
        atexit._run_exitfuncs()  # which reports what goes wrong in them

    # --- one job -------------------------------------------------------------------------------

    def _next(self) -> int | None:
        """The number of the job that may begin; None: no other will."""
        while True:
            try:
                token = os.read(self._tokens, wire.TOKEN.size)
            except BlockingIOError:
                if self._unsaid:
                    self._ring()
                self._wait.poll()
                continue
            if not token:
                return None
            number: int = wire.TOKEN.unpack(token)[0]
            return number

    def _job(self, number: int) -> tuple[Any, ...]:
        jobs = self._jobs
        while number not in jobs:
            self._read()
        while (other := next(iter(jobs))) != number:  # they are in the order of their numbers
            del jobs[other]
            self._arguments.pop(other, None)
        return jobs.pop(number)

    def _do(self, number: int, job: tuple[Any, ...]) -> None:
        function, data = job[1], job[2]
        kind, failed, payload = wire.NOTHING, wire.ERROR, None
        began = self._tick()
        doing = self.now = Doing(self, job, began)
        try:
            fn, args = self._load(number, function, data)
            opened = self._opened
            if opened is not None:
                if self.setup.tries:
                    failed = wire.UNFIT
                    self._context.copy().run(opened.check_plain)
                    failed = wire.ERROR
                args = (opened.value, *args)
            doing.fn, doing.args = fn, args
            value: Any = self._context.copy().run(call, doing, fn, args)
            ended = self._tick()
            if value is not None:
                if is_awaitable(value) and (error := gave_awaitable(self._name(fn), value)) is not None:
                    raise error
                extra, payload = self._value(value, fn)
                kind = wire.VALUE | extra
        except BaseException as error:
            ended = self._tick()
            kind = failed if isinstance(error, Exception) else wire.ERROR
            payload = [self._failure(error, f"what {self._name(doing.fn)} raised", 3 if doing.fn is not None else 1)]
        self.now = None
        if self._forked:
            os._exit(0)  # a fork that the job has made, and that comes back here: its parent goes on, and not it
        if doing.run is not None:
            kind |= wire.LOOKED
        if payload is None:
            self._write([wire.HEAD.pack(kind, number, began, ended, 0)])
        elif len(payload) == 1 and len(payload[0]) <= _SMALL:
            self._write([wire.HEAD.pack(kind, number, began, ended, len(payload[0])) + payload[0]])
        else:
            self._write_long(wire.frame(kind, number, payload, began, ended))
        self._unsaid += 1
        if self._unsaid >= _MANY or ended - self._said > _SOON:
            self._ring()

    def _load(self, number: int, function: int, data: Any) -> tuple[Any, tuple[Any, ...]]:
        fn: Any = None
        if function >= 0:
            fn = self._functions[function]
            if type(fn) is _Broken:
                raise wire.not_picklable("the job", fn.error) from fn.error
            if type(data) is tuple:
                return fn, data  # pyright: ignore[reportUnknownVariableType]
        kind, packed = (0, data) if data is not None else self._arguments.pop(number)
        try:
            loaded = wire.loads(kind, packed)
        except BaseException as error:
            raise wire.not_picklable("the job, or an argument" if fn is None else "an argument", error) from error
        return loaded if fn is None else (fn, loaded)

    def _value(self, value: object, fn: Any) -> tuple[int, list[wire.Buffer]]:
        try:
            return wire.dumps(value)
        except BaseException as error:
            raise wire.not_picklable(f"what {self._name(fn)} returned", error) from error

    def _name(self, fn: Any) -> str:
        return self.setup.job or ("its job" if fn is None else Job(fn).name)

    def _failure(self, error: BaseException, what: str, ours: int) -> bytes:
        """An error, for the parent; without the frames that are ours."""
        trace = error.__traceback__
        for _ in range(ours):
            trace = trace if trace is None or trace.tb_next is None else trace.tb_next
        try:
            text = "".join(traceback.format_exception(type(error), error, trace))[-_MOST:]
        except BaseException:
            text = brief(error)
        data: bytes | None
        try:
            data = pickle.dumps(error, 5)
            if not isinstance(pickle.loads(data), BaseException):  # noqa: S301 - our own
                raise TypeError("it comes out of that as another thing")
        except BaseException as wrong:
            data = None
            what = f"{what} ({brief(error)}) cannot travel between processes: {brief(wrong)}"
        return pickle.dumps((data, what, text), 5)

    # --- memory ----------------------------------------------------------------------------------

    def _is_full(self) -> bool:
        limit, now = self.setup.limit, self._tick()
        if limit is None or now - self._looked < _LOOK:
            return False
        self._looked = now
        used = memory()
        if used <= limit:
            return False
        self._say(wire.frame(wire.FULL, used))
        return True

    def _wait_for_end(self) -> None:
        """Begin nothing more: the parent takes back what has not begun, and closes the pipe."""
        poll = select.poll()
        poll.register(self._tokens, 0)
        poll.poll()

    # --- pipes --------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Wait until there is something to read, and read it."""
        with self._reading:
            self._read_now()

    def _read_now(self) -> None:
        data = os.read(self._requests, wire.CHUNK)
        if not data:
            raise EOFError
        for kind, number, _, _, payload in self._frames.feed(data):
            self._take(kind, number, payload)

    def _take(self, kind: int, number: int, payload: wire.Buffer) -> None:
        what = kind & ~wire.BUFFERS
        if what == wire.JOBS:
            for job in pickle.loads(payload):  # noqa: S301 - between a process and its own child
                self._jobs[job[0]] = job
        elif what == wire.FUNCTION:
            self._functions[number] = _loaded(payload)
        elif what == wire.ARGUMENTS:
            self._arguments[number] = (kind & wire.BUFFERS, payload)
        elif what == wire.TELL:
            self._tell(number)
        elif what == wire.SETUP:
            self._setup = _loaded(payload)

    def _tell(self, number: int) -> None:
        doing = self.now
        if doing is not None and doing.number == number:
            doing.told = True
            if doing.run is not None:
                doing.run.tell()

    def hear(self, timeout: float | None) -> None:
        """While a job is under way: read what has come. It waits for a moment, and for `timeout` seconds at most."""
        # A moment, since threads that an earlier job has left behind may be here too, and hold others up.
        span = _MOMENT if timeout is None else min(timeout, _MOMENT)
        if not self._reading.acquire(timeout=span):
            return
        try:
            poll = select.poll()
            poll.register(self._requests, select.POLLIN)
            if poll.poll(span * 1000):
                self._read_now()
        finally:
            self._reading.release()

    def tell_progress(self, number: int, done: float, total: float | None) -> None:
        """How far the job under way has come."""
        self._say(wire.frame(wire.PROGRESS, number, [pickle.dumps((done, total), 5)]))

    def tell_idle(self, number: int, waits: bool) -> None:
        """The job under way waits for something to do, or goes on."""
        self._say(wire.frame(wire.IDLE, number, (), float(waits)))

    def tell_ready(self, number: int) -> None:
        """What the job under way serves is up."""
        self._say(wire.frame(wire.SERVES, number))

    def _tell_log(self, record: bytes) -> None:
        self._say(wire.frame(wire.LOGGED, 0, [record]))

    @property
    def setup(self) -> Setup:
        """What it was told first."""
        assert isinstance(self._setup, Setup)
        return self._setup

    def _ring(self) -> None:
        self._unsaid, self._said = 0, self._tick()
        try:
            os.write(self._bell, b"!")
        except BlockingIOError:  # it rings already
            pass

    def _write_long(self, pieces: list[wire.Buffer]) -> None:
        """It may take somebody to read before all of it can be written: who has seen its beginning reads on."""
        head, *others = pieces
        view = memoryview(head)
        with self._writing:
            self._writes = True
            try:
                self._write_all([view[: wire.HEAD.size]])
                self._ring()
                self._write_all([view[wire.HEAD.size :], *others])
            finally:
                self._writes = False
            if self._late:
                self._write(self._late.pop(0))

    def _say(self, pieces: list[wire.Buffer]) -> None:
        """Write it, and have it read at once."""
        self._ring()
        self._write(pieces)
        self._ring()

    def _write(self, pieces: list[wire.Buffer]) -> None:
        with self._writing:
            if self._writes:
                self._late.append(pieces)
                return
            self._writes = True
            try:
                self._write_all(pieces)
                while self._late:
                    self._write_all(self._late.pop(0))
            finally:
                self._writes = False

    def _write_all(self, pieces: list[wire.Buffer]) -> None:
        for piece in pieces:
            sent = os.write(self._results, piece)
            if sent < len(piece):
                view = memoryview(piece)
                while sent < len(view):
                    sent += os.write(self._results, view[sent:])


class _Broken:
    """What could not be made of its pickle."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _loaded(payload: wire.Buffer) -> Any:
    try:
        return pickle.loads(payload)  # noqa: S301 - between a process and its own child
    except BaseException as error:
        return _Broken(error)


def memory() -> int:
    """How many bytes of memory this process uses: resident, shared pages included."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        import resource
        import sys

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
