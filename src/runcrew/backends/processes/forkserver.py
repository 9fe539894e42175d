"""The program of a fork server: a fresh interpreter that loads what jobs need, once, and forks a child for each worker.

It has no threads, so that what it forks is whole. It keeps its children in sight as nobody else can: it tells how each
one ended, ends what a child leaves behind (its process group) before it takes the child's number out of the system's
book, and ends all of them when the process that it works for is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import sys
import threading
import weakref
from struct import Struct
from typing import Any, Final, NoReturn

from runcrew import clock
from runcrew.errors import brief

#: op, the child's id, a number.
MESSAGE: Final = Struct("<BQq")
LENGTH: Final = Struct("<Q")

# From the process that it works for.
FORK: Final = 1  # with four descriptors: requests, tokens, results, bell
KILL: Final = 2
PING: Final = 3

# To it.
UP: Final = 16  # it is ready to fork; the number is the length of a text that follows: what could not be loaded
THREADED: Final = 17  # what it has loaded has started threads: it cannot fork
BORN: Final = 18  # the number is the child's pid
UNBORN: Final = 19  # the number is the errno
STOPPED: Final = 20  # the number is the signal
CONTINUED: Final = 21
PONG: Final = 23
DIED: Final = 22  # the number is the exit code: negative, where a signal has killed it

#: How long children may take to end by themselves when nobody is there to work for, in seconds.
GRACE: Final = 1.0

#: Whether this is a fork server that loads the main module of its program.
loading: Final[list[bool]] = []

_PR_SET_PDEATHSIG: Final = 1


def main(fd: int) -> None:
    """Serve on this socket until it is closed at the other end."""
    # A terminal or a service manager signals all processes of a program: what that means is for our parent to say.
    signal.signal(signal.SIGINT, _nothing)
    signal.signal(signal.SIGTERM, _nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started us may have blocked what we have to hear
    control = socket.socket(fileno=fd)
    given: dict[str, Any] = pickle.loads(_exactly(control, LENGTH.unpack(_exactly(control, LENGTH.size))[0]))  # noqa: S301
    wrong = ""
    if given["loads"]:
        _die_with_parent(os.getppid())  # who loads for ever does not hear that its parent has gone
        wrong = load(given)
        _die_with_parent(0)
        if _threads() > 1:
            control.sendall(MESSAGE.pack(THREADED, 0, 0))
            _leave()
    gc.disable()
    gc.freeze()
    text = wrong.encode(errors="replace")
    control.sendall(MESSAGE.pack(UP, 0, len(text)) + text)
    _Server(control, given).serve()
    _leave()


def _leave() -> NoReturn:
    """Go, without waiting for threads that what was loaded may have started."""
    atexit._run_exitfuncs()
    _flush()
    os._exit(0)


def load(given: dict[str, Any]) -> str:
    """Load the program's main module and what else was asked for. What went wrong, as text."""
    from multiprocessing import spawn

    wrong: list[str] = []
    loading.append(True)  # what the main module does when it is loaded must not begin all over again
    try:
        spawn.prepare(given["main"])
    except BaseException as error:
        wrong.append(f"the main module cannot be loaded in another process: {brief(error)}")
    finally:
        loading.clear()
    for name in given["preload"]:
        try:
            __import__(name)
        except BaseException as error:
            wrong.append(f"preload: {name!r} cannot be imported: {brief(error)}")
    return "; ".join(wrong)


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _nothing(*_: object) -> None:
    """Not ignored, since programs that a job starts would inherit that."""


class _Server:
    def __init__(self, control: socket.socket, given: dict[str, Any]) -> None:
        self._control = control
        self._given = given
        self._children: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._bell, bell = os.pipe()
        for end in (self._bell, bell):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        self._bells = (self._bell, bell)

    def serve(self) -> None:
        """Until nobody is there to work for; then end all children."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if self._bell in ready:
                    self._look()
                if self._control.fileno() in ready and not self._hear():
                    break
        except (BrokenPipeError, ConnectionError):
            pass
        self._end(poll)

    def _end(self, poll: select.poll) -> None:
        poll.unregister(self._control)
        now = clock.SYSTEM.monotonic
        ends = now() + GRACE
        while self._children and now() < ends:
            poll.poll(50)
            self._look(tells=False)
        for pid in self._children:
            _kill(pid)
        while self._children:
            poll.poll(50)
            self._look(tells=False)

    # --- what is asked -------------------------------------------------------------------

    def _hear(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, MESSAGE.size, 4)
        if not data:
            return False
        op, child, _ = MESSAGE.unpack(data + _exactly(self._control, MESSAGE.size - len(data)))
        if op == FORK:
            self._fork(child, fds)
        elif op == KILL and child in self._pids:
            _kill(self._pids[child])
        elif op == PING:
            self._tell(PONG, 0, 0)
        return True

    def _fork(self, child: int, fds: list[int]) -> None:
        mine = os.getpid()
        _flush()  # what stands in buffers would be written by the child once more
        try:
            pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._tell(UNBORN, child, error.errno or 0)
            return
        if pid == 0:
            self._be_child(mine, fds)
        for fd in fds:
            os.close(fd)
        try:
            os.setpgid(pid, pid)  # here as well, so that it is true when we go on
        except OSError:
            pass
        self._children[pid], self._pids[child] = child, pid
        self._tell(BORN, child, pid)

    def _be_child(self, parent: int, fds: list[int]) -> None:
        status = 1
        try:
            _die_with_parent(parent)
            os.setpgid(0, 0)
            _forget_exits()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for end in self._bells:
                os.close(end)
            for fd in fds:
                os.set_inheritable(fd, False)
            gc.enable()
            from runcrew.backends.processes.child import Child

            if not self._given["loads"]:
                load(self._given)
            status = Child(*fds).live()
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            _flush()
            os._exit(status)

    # --- what children do ------------------------------------------------------------------

    def _look(self, *, tells: bool = True) -> None:
        try:
            while os.read(self._bell, 4096):
                pass
        except BlockingIOError:
            pass
        while self._children:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            if found.si_code == os.CLD_EXITED or found.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                _kill(pid)  # what it leaves behind. Before it is waited for: until then nobody else gets its number
                os.waitpid(pid, 0)
                code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
                child = self._children.pop(pid, None)
                op = DIED
            else:
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
                child, code = self._children.get(pid), found.si_status
                op = CONTINUED if found.si_code == os.CLD_CONTINUED else STOPPED
            if child is not None and tells:
                if op == DIED:
                    del self._pids[child]
                self._tell(op, child, code)

    def _tell(self, op: int, child: int, number: int) -> None:
        self._control.sendall(MESSAGE.pack(op, child, number))


def _kill(pid: int) -> None:
    """A child that has not been waited for, and its group."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:  # there is no such group (yet), or nobody is left in it
            pass


def _die_with_parent(parent: int) -> None:
    """Have the system end this process with its parent, where it can (Linux): that may be killed like any other. 0: no
    more."""
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if parent else 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return
    if parent and os.getppid() != parent:  # it has ended in between
        os._exit(1)


def _forget_exits() -> None:
    """What is to be done at the exit of the server is its business, and not that of each child."""
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


def _exactly(source: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = source.recv(size)
        if not part:
            raise ConnectionError("who asked is gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
