"""The fork server, as the process that it works for sees it: one for each event loop, as long as anybody needs it."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import subprocess
import sys
import weakref
from collections.abc import AsyncGenerator, Callable
from itertools import count
from typing import Any, Final, Protocol

from runcrew.backends.loop import step
from runcrew.backends.processes import forkserver
from runcrew.backends.processes.forkserver import LENGTH, MESSAGE
from runcrew.errors import ConfigError, RuncrewError

_log: Final = logging.getLogger("runcrew")

#: How long it may take to answer, in seconds.
_ANSWER: Final = 2.0

#: How long one stays that nobody needs, in seconds.
LINGER: Final = 10.0

#: How long a fork server may take to be gone, in seconds, once it was told to go and nobody needs it.
_LAST_MOMENT: Final = 5.0

#: What virtual time waits for.
_ENDING: Final = "the end of a fork server"

_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; from runcrew.backends.processes.forkserver import main; "
    "main(int(sys.argv[1]))"
)


class Launched(Protocol):
    """One who has asked for a child. All of this is called on the loop."""

    def born(self, pid: int) -> None:
        """It is there."""

    def unborn(self, error: OSError) -> None:
        """The system refuses to make it."""

    def stopped(self, number: int | None) -> None:
        """It was stopped by a signal; None: it goes on."""

    def died(self, exitcode: int | None) -> None:
        """It is no more. None: nobody knows how it ended, since the fork server has died too."""

    def forsaken(self) -> None:
        """Nothing of it is to be heard here any more: the loop is closed, or this is a fork. Close what it has open."""

    def end_group(self) -> None:
        """The fork server has died, and with it the child: end what that has started."""


class Lost(RuncrewError):
    """The fork server has died, or could not be started."""


class ForkServer:
    """A fork server of this loop. All of it is called on the loop, in whatever context."""

    def __init__(self, loop: asyncio.AbstractEventLoop, preload: tuple[str, ...]) -> None:
        self._loop = loop
        self._preload = preload
        self._ids = count(1)
        #: Who has asked for a child that is not known to have ended; and what the unborn ones are made of.
        self._children: dict[int, Launched] = {}
        self._unborn: dict[int, tuple[int, ...]] = {}
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None
        #: Whether it has loaded all, and forks; and what ends it where it does not answer.
        self.up = False
        self._pong: asyncio.TimerHandle | None = None
        self._ends: list[Callable[[], None]] = []
        self._text = bytearray()
        self._text_left = 0
        self._data = b""
        #: Whether it is no more, or on its way.
        self.over = False
        self._loads = True
        self._start()
        # `asyncio.run` closes all async generators at its very end: what is left over then ends with the loop.
        self._last = self._last_word()
        step(self._last.__anext__())

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop, preload: tuple[str, ...]) -> ForkServer:
        """The one that loads this. It is started if need be. Raises Lost where it cannot be."""
        key = (id(loop), preload)
        for other in list(_servers.values()):
            if other._loop.is_closed():
                other.forsake()
        server = _servers.get(key)
        if server is None or server.over or server._loop is not loop:
            server = _servers[key] = cls(loop, preload)
        return server

    @classmethod
    def there(cls, loop: asyncio.AbstractEventLoop, preload: tuple[str, ...]) -> ForkServer | None:
        """The one of this loop that loads this, if it is there."""
        return _servers.get((id(loop), preload))

    # --- who needs it ----------------------------------------------------------------------

    def enter(self) -> None:
        """Somebody needs it from here on."""
        self._users += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """Somebody needs it no more. It stays for a while, since mostly somebody else does soon."""
        self._users -= 1
        if not self._users and not self.over and not self._loop.is_closed():
            self._timer = self._loop.call_later(LINGER, self._end_if_idle)

    def end_soon(self, then: Callable[[], None]) -> bool:
        """Where nobody needs it: end it now; `then` is called when it is gone. False: others need it, or it is gone."""
        if self._users or self._process.returncode is not None:
            return False
        self._ends.append(then)
        loop: Any = self._loop
        if len(self._ends) == 1 and hasattr(loop, "runcrew_hold"):
            loop.runcrew_hold(_ENDING)  # somebody waits for it, and virtual time is not to pass meanwhile
        self._end_if_idle()
        return True

    def _take_ends(self) -> list[Callable[[], None]]:
        """Who waits for its end; it has ended."""
        ends, self._ends = self._ends, []
        loop: Any = self._loop
        if ends and hasattr(loop, "runcrew_release"):
            loop.runcrew_release(_ENDING)
        return ends

    def _end_if_idle(self) -> None:
        if not self._users and not self.over:
            self.over = True
            if self._timer is not None:
                self._timer.cancel()
            self._control.shutdown(socket.SHUT_WR)

    def suspect(self) -> None:
        """It does not do what it is asked to: ask whether it is well, and end it, with all its children, if not."""
        if self.up and self._pong is None and not self.over:
            self._pong = self._loop.call_later(_ANSWER, self._abort)
            self._ask(forkserver.PING, 0)

    def _abort(self) -> None:
        _log.error("processes: the fork server (%d) does not answer, and is killed", self._process.pid)
        self._process.kill()

    def _look_after(self, number: int) -> None:
        """It may have had enough time for this one."""
        if number in self._unborn and not self.over:
            self.suspect()
            self._loop.call_later(_ANSWER, self._look_after, number)

    def forsake(self) -> None:
        """The loop has been closed, or is about to be: end it and all of its children, and wait for that."""
        if self._timer is not None:
            self._timer.cancel()
        if self._process.returncode is None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._control.fileno())
            for number in self._children:
                self._ask(forkserver.KILL, number)
            _end(self._control, self._process)
            self._finalizer.detach()
        for child in self._children.values():
            child.forsaken()
        for fds in self._unborn.values():
            _close(fds)
        self._unborn, self._children, self.over = {}, {}, True
        self._take_ends()
        self._leave_register()

    async def _last_word(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self.forsake()

    # --- its life --------------------------------------------------------------------------

    def _start(self) -> None:
        if forkserver.loading:
            raise ConfigError(
                "this is the main module of a program that is loaded once more, for processes that run its jobs: what "
                'starts the work belongs under `if __name__ == "__main__":`'
            )
        mine, its = socket.socketpair()
        with its:
            flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags")()  # noqa: B009 - as multiprocessing
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this very Python
                    (sys.executable, *flags, "-c", _PROGRAM, str(its.fileno()), *sys.path),
                    stdin=subprocess.DEVNULL, pass_fds=(its.fileno(),), process_group=0,
                )  # fmt: skip
            except BaseException as error:
                mine.close()
                if isinstance(error, OSError):
                    raise Lost(f"the fork server cannot be started: {error}") from error
                raise
        self._control = mine
        given = pickle.dumps({"main": _main_module(), "preload": self._preload, "loads": self._loads})
        try:
            mine.sendall(LENGTH.pack(len(given)) + given)
        except OSError as error:
            _end(mine, self._process)
            raise Lost(f"the fork server has died at once: {error}") from error
        mine.setblocking(False)
        # Where the loop is dropped without a word, the server is not to stay.
        self._finalizer = weakref.finalize(self, _end, mine, self._process)
        self._loop.add_reader(mine.fileno(), self._readable)

    def launch(self, child: Launched, fds: tuple[int, ...]) -> int:
        """Fork a child that serves these pipes, which are its own from here on; its id."""
        number = next(self._ids)
        self._loop.call_later(_ANSWER, self._look_after, number)
        self._children[number] = child
        self._unborn[number] = fds
        self._ask(forkserver.FORK, number)
        return number

    def kill(self, number: int) -> None:
        """End this child at once, and all that it has started. `died` is called when it is no more."""
        if number in self._children:
            self._ask(forkserver.KILL, number)

    def _ask(self, op: int, number: int) -> None:
        message = MESSAGE.pack(op, number, 0)
        try:
            if op == forkserver.FORK:
                socket.send_fds(self._control, [message], self._unborn[number])
            else:
                self._control.send(message)
        except (BlockingIOError, InterruptedError):
            # It has not read what hundreds have asked for: it will in a moment.
            if not self._loop.is_closed():
                self._loop.call_later(_AGAIN, self._ask_again, op, number)
        except OSError:
            pass  # it has died, and we shall hear of that

    def _ask_again(self, op: int, number: int) -> None:
        if number in self._children:
            self._ask(op, number)

    # --- what it says ----------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
            return
        self._hear(self._data + data)

    def _hear(self, data: bytes) -> None:
        at = 0
        while True:
            if self._text_left:
                part = data[at : at + self._text_left]
                self._text += part
                self._text_left -= len(part)
                at += len(part)
                if self._text_left:
                    break
                _log.warning("processes: %s", self._text.decode(errors="replace"))
            if len(data) - at < MESSAGE.size:
                break
            op, number, value = MESSAGE.unpack_from(data, at)
            at += MESSAGE.size
            if op == forkserver.UP:
                self._text_left, self.up = value, True
            elif op == forkserver.PONG:
                if self._pong is not None:
                    self._pong.cancel()
                    self._pong = None
            elif op == forkserver.THREADED:
                self._begin_anew()
                return
            else:
                self._tell(op, number, value)
        self._data = data[at:]

    def _tell(self, op: int, number: int, value: int) -> None:
        child = self._children.get(number)
        if child is None:
            return
        if op == forkserver.BORN:
            _close(self._unborn.pop(number, ()))
            child.born(value)
        elif op == forkserver.UNBORN:
            _close(self._unborn.pop(number, ()))
            del self._children[number]
            child.unborn(OSError(value, os.strerror(value)))
        elif op == forkserver.DIED:
            del self._children[number]
            child.died(value)
        else:
            child.stopped(value if op == forkserver.STOPPED else None)

    def _begin_anew(self) -> None:
        """What was loaded has started threads: another one loads nothing, and its children do that for themselves."""
        _log.warning(
            "processes: what the main module (or preload) loads has started threads, and a process with threads cannot "
            "be forked: each process loads it by itself, which takes longer"
        )
        self._drop()
        self._loads, self._data = False, b""
        try:
            self._start()
        except Lost:
            self._nobody_left()
            return
        for number in list(self._unborn):
            self._ask(forkserver.FORK, number)

    def _gone(self) -> None:
        if not self.over:
            _log.error("processes: the fork server (%d) has died, and its processes with it", self._process.pid)
        self._drop()
        self._nobody_left()

    def _drop(self) -> None:
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        try:
            self._process.wait(_LAST_MOMENT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._finalizer.detach()

    def _leave_register(self) -> None:
        """Another may be there in its place already."""
        if _servers.get((id(self._loop), self._preload)) is self:
            del _servers[id(self._loop), self._preload]

    def _nobody_left(self) -> None:
        self.over = True
        self._leave_register()
        unborn, self._unborn = self._unborn, {}
        children, self._children = self._children, {}
        for number, child in children.items():
            if number in unborn:
                _close(unborn[number])
                child.unborn(OSError("the fork server has died"))
            else:
                child.end_group()
                child.died(None)
        if self._pong is not None:
            self._pong.cancel()
        for then in self._take_ends():
            then()
        step(self._last.aclose())


#: Of each loop, by its id and what they load.
_servers: Final[dict[tuple[int, tuple[str, ...]], ForkServer]] = {}

#: When to ask again, in seconds, where the fork server cannot keep up.
_AGAIN: Final = 0.005


def shed(loop: asyncio.AbstractEventLoop) -> None:
    """End the fork servers of this loop that nobody needs, and wait for the moment that this takes."""
    for server in list(_servers.values()):
        if server._loop is loop and not server._users:
            server.forsake()


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)


def _end(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    control.close()
    try:
        process.wait(_LAST_MOMENT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _after_fork() -> None:
    """In a forked child of this process: its parent's servers are not its own."""
    for server in _servers.values():
        server._finalizer.detach()
        server._process.returncode = 0  # not ours to wait for
        server._control.close()  # as long as it is open anywhere, nobody sees that our parent has gone
        for child in server._children.values():
            child.forsaken()
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _main_module() -> dict[str, Any]:
    """What `multiprocessing.spawn.prepare` needs to know in order to load it."""
    main = sys.modules["__main__"]
    sys.modules.setdefault("__mp_main__", main)  # what is defined in it comes back under that name
    said: dict[str, Any] = {"sys_path": list(sys.path), "sys_argv": list(sys.argv)}
    try:
        said["dir"] = os.getcwd()
    except OSError:  # it has been removed
        pass
    from multiprocessing import process

    # So that what belongs to `multiprocessing`, the proxies of its managers say, works in children as it does here.
    said["authkey"] = bytes(process.current_process().authkey)
    name = getattr(getattr(main, "__spec__", None), "name", None)
    path = getattr(main, "__file__", None)
    if name is not None:
        said["init_main_from_name"] = name
    elif path is not None:
        said["init_main_from_path"] = os.path.abspath(path)
    return said
