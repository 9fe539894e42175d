"""Jobs and resources for processes: at the top of a module, where another process finds them."""

from __future__ import annotations

import contextvars
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import runcrew as rc

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nothing")


# --- plain ones ---------------------------------------------------------------------------


def give(value: Any = None) -> Any:
    """Give back what was given."""
    return value


def args(*given: Any, **named: Any) -> Any:
    """Give all of them back."""
    return given, named


def pid(*_: object) -> int:
    """In which process it is."""
    return os.getpid()


def group_of(*_: object) -> int:
    """The process group that it is in."""
    return os.getpgid(0)


def sleep(span: float, value: Any = None) -> Any:
    """Take a while, deaf to everything."""
    ends = time.monotonic() + span
    while (left := ends - time.monotonic()) > 0:
        time.sleep(left)
    return value


def sleep_pid(span: float) -> int:
    """Take a while; in which process."""
    time.sleep(span)
    return os.getpid()


def spin(span: float) -> None:
    """Compute for a while."""
    ends = time.perf_counter() + span
    while time.perf_counter() < ends:
        pass


def note(path: str, text: object) -> Any:
    """Write a line to the end of a file, in one piece; the text."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
    return text


def note_and(path: str, text: object, then: Callable[..., Any], *given: Any) -> Any:
    """The same, and then something else."""
    note(path, text)
    return then(*given)


def notes(path: str | Path) -> list[str]:
    """What was written so."""
    return Path(path).read_text().split() if Path(path).exists() else []


class Adder:
    """Callable, and has a method."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, other: int) -> int:
        return self.number + other

    def add(self, other: int) -> int:
        """A bound method."""
        return self.number + other


class Block(bytearray):
    """Bytes that travel beside the pickle."""

    def __reduce_ex__(self, protocol: object) -> Any:
        return Block, (pickle.PickleBuffer(self),)


class Held:
    """Something that keeps the very buffer that has travelled beside the pickle."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: object) -> Any:
        return Held, (pickle.PickleBuffer(self.data),)


class Strided:
    """Something whose buffer is scattered over memory."""

    def __reduce_ex__(self, protocol: object) -> Any:
        return length, (pickle.PickleBuffer(memoryview(bytearray(20))[::2]),)


def blocks(*sizes: int) -> list[Block]:
    """Some of them."""
    return [Block(b"x" * size) for size in sizes]


def held(size: int) -> Held:
    """One of them."""
    return Held(bytearray(b"y" * size))


def written(thing: Held) -> int:
    """Write into what came; its length."""
    view = memoryview(thing.data)
    view[0:1] = b"z"
    return len(view)


def length(data: Any) -> int:
    """How long it is."""
    return len(data)


def many_bytes(size: int) -> bytes:
    """So many."""
    return b"v" * size


# --- errors -------------------------------------------------------------------------------


class Oops(Exception):
    """An error of a module's own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Bare(Exception):
    """An error that cannot be made again from its pickle."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)


class Frozen(Exception):
    """An error that refuses attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set")


def fail(kind: type[BaseException], *given: object) -> NoReturn:
    """Raise it."""
    raise kind(*given)


def fail_twice() -> NoReturn:
    """Raise one error while another is handled."""
    try:
        raise KeyError("first")
    except KeyError as error:
        raise Oops(2) from error


def fail_until(path: str, attempts: int) -> int:
    """Fail in all attempts before that one."""
    run = rc.current_run()
    note(path, run.attempt)
    if run.attempt < attempts:
        raise Oops(run.attempt)
    return run.attempt


def id_until(path: str, attempts: int) -> None:
    """Note the id, and fail in all attempts before that one."""
    note(path, rc.current_run().id)
    if rc.current_run().attempt < attempts:
        raise Oops(1)


def odd_fails(number: int) -> int:
    """Odd numbers are errors."""
    if number % 2:
        raise Oops(number)
    return number


# --- what does not go through pickle --------------------------------------------------------


def end_process(how: str) -> Any:
    """End this very process, or only raise: for pickling and unpickling."""
    if how == "error":
        raise Oops(9)
    if how == "exit":
        sys.exit("leave")
    os._exit(7)


class AtPickle:
    """Misbehaves when it is pickled."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        end_process(self.how)


class AtUnpickle:
    """Misbehaves when it is made again; where `only`: in the process in which it was not made."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return _unpickle, (self.how, 0)


class AtUnpickleElsewhere(AtUnpickle):
    """The same, but not in the process in which it was pickled."""

    def __reduce__(self) -> Any:
        return _unpickle, (self.how, os.getpid())


def _unpickle(how: str, home: int) -> Any:
    if os.getpid() != home:
        end_process(how)
    return None


class BadError(Exception):
    """An error that misbehaves on its way: at "pickle", at "unpickle", or when unpickled "elsewhere"."""

    def __init__(self, where: str, how: str) -> None:
        super().__init__(where, how)
        self.where, self.how = where, how

    def __reduce__(self) -> Any:
        if self.where == "pickle":
            end_process(self.how)
        home = os.getpid() if self.where in ("elsewhere", "other") else 0
        return (_other if self.where == "other" else _bad_error), (self.how, home)


def _bad_error(how: str, home: int) -> Any:
    _unpickle(how, home)
    return Oops(1)


def _other(how: str, home: int) -> Any:
    return Oops(1) if os.getpid() == home else "no error at all"


def give_bad(where: str, how: str) -> object:
    """Return what misbehaves."""
    return {"pickle": AtPickle, "unpickle": AtUnpickle, "elsewhere": AtUnpickleElsewhere}[where](how)


def raise_bad(where: str, how: str) -> NoReturn:
    """Raise what misbehaves."""
    raise BadError(where, how)


def give_lambda() -> Any:
    """Return what cannot be pickled."""
    return lambda: None


def give_coroutine() -> Any:
    """Return what would have to be awaited."""

    async def never() -> None:
        """Awaited by nobody."""

    return never()


class BadNumber(float):
    """A number that cannot be made again elsewhere."""

    def __reduce__(self) -> Any:
        return _unpickle, ("error", os.getpid())


def bad_progress() -> str:
    """Tell a progress that cannot be read, and go on."""
    try:
        rc.current_run().progress(BadNumber(1.0))
    except Exception as error:
        return type(error).__name__
    return "told"


# --- deaths ---------------------------------------------------------------------------------


def die(number: int = signal.SIGKILL) -> None:
    """End by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(30)


def leave(status: int) -> None:
    """End without a word."""
    os._exit(status)


def segfault() -> None:
    """Touch memory that is not there."""
    import ctypes

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def abort() -> None:
    """End as a failed assertion in C does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def too_much_memory() -> int:
    """Ask for more memory than there may be."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return len(bytearray(2 << 30))


def die_first(path: str, deaths: int) -> int:
    """Die in all attempts before so many have been noted; the number of the attempt."""
    note(path, "x")
    if len(notes(path)) <= deaths:
        leave(3)
    return rc.current_run().attempt


def die_now_and_then(path: str, number: int) -> int:
    """Note it; each fifth one is fatal in its first attempt."""
    attempt = rc.current_run().attempt
    note(path, f"{number}/{attempt}")
    if number % 5 == 0 and attempt == 1:
        die()
    return number


def stop_myself() -> str:
    """Stand still, as SIGSTOP makes it."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"


# --- what does not end ------------------------------------------------------------------------


def huge_power() -> int:
    """Hold the interpreter, in C, for hours."""
    return int(7 ** (7**12) > 0)


def backtrack() -> object:
    """The same in the machine of regular expressions."""
    return re.match(r"(a|aa)+$", "a" * 200 + "b")


def until_told(path: str = "") -> str:
    """Look now and then whether it should end."""
    run = rc.current_run()
    while not run.cancelled:
        time.sleep(0.005)
    if path:
        note(path, "heeded")
    return "told"


def wait_told(path: str = "") -> str:
    """Wait until it is told."""
    told = bool(rc.current_run().wait_cancelled(30))
    if path:
        note(path, "heeded")
    return "told" if told else "not told"


def sleep_told(path: str = "") -> str:
    """Sleep as a job should; being told ends that by an error, which comes out."""
    try:
        rc.current_run().sleep(30)
    finally:
        if path:
            note(path, "heeded")
    return "slept"


def block_signals() -> None:
    """Neither SIGTERM nor SIGINT does anything."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(30)


def grandchild(path: str, stay: bool = False) -> int:
    """Start a program that stays; its pid."""
    made = subprocess.Popen(["sleep", "60"]).pid
    note(path, made)
    if stay:
        time.sleep(30)
    return made


def thread_that_stays() -> str:
    """Leave a thread behind that keeps on telling how far it has come."""
    run = rc.current_run()

    def tell() -> None:
        for number in range(100):
            run.progress(number)
            time.sleep(0.002)

    threading.Thread(target=contextvars.copy_context().run, args=(tell,)).start()
    return run.id


def begin(path: str, number: int, span: float, then: str = "") -> Any:
    """Note that this attempt has begun; take a while; end as it is told to."""
    note(path, f"{number}/{rc.current_run().attempt}")
    if then == "deaf":
        return sleep(20)
    if then == "heeds":
        return until_told()
    if span:
        spin(span)
    if then == "fails":
        raise Oops(number)
    if then == "dies":
        leave(3)
    return number


# --- what a job sees ----------------------------------------------------------------------------


def about_me() -> dict[str, Any]:
    """What it is told about its run."""
    run = rc.current_run()
    run.log.warning("a word from %d", os.getpid())
    return {
        "id": run.id,
        "attempt": run.attempt,
        "deadline": run.deadline,
        "cancelled": run.cancelled,
        "name": run.job.name,
        "service": run.service,
        "pid": os.getpid(),
    }


def progress_and_wait(path: str) -> None:
    """Tell how far it has come, and wait for a file."""
    rc.current_run().progress(3, 10)
    while not Path(path).exists():
        time.sleep(0.002)


def my_id(*_: object) -> str:
    """The id of the run."""
    return rc.current_run().id


def no_run() -> str:
    """What a thread of its own sees, that knows of no run."""
    said: list[str] = []

    def look() -> None:
        try:
            said.append(rc.current_run().id)
        except LookupError:
            said.append("LookupError")

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return said[0]


def change_variable(value: str) -> str:
    """Set a context variable; what it was."""
    before = VARIABLE.get()
    VARIABLE.set(value)
    return before


def open_files() -> dict[int, str]:
    """All descriptors of this process, and what they are."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one with which the directory was read
            continue
    return found


def modules() -> list[str]:
    """What has been imported."""
    return list(sys.modules)


def signals() -> tuple[bool, list[int]]:
    """Whether any signal is blocked; and which are ignored."""
    ignored = [number for number in range(1, 32) if signal.getsignal(number) is signal.SIG_IGN]
    return bool(signal.pthread_sigmask(signal.SIG_BLOCK, [])), ignored


def sleep_files(span: float) -> dict[int, str]:
    """The same, after a while."""
    time.sleep(span)
    return open_files()


kept: list[bytearray] = []


def grow(megabytes: float) -> int:
    """Use more memory for ever; in which process."""
    kept.append(bytearray(b"x" * int(megabytes * 1e6)))
    return os.getpid()


# --- resources ------------------------------------------------------------------------------------


class Store:
    """A resource that notes what is done with it, in a file: `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = os.getpid()
        self.ident = threading.get_ident()
        note(path, f"open:{self.pid}")

    def close(self) -> None:
        """Take it down."""
        assert (self.pid, self.ident) == (os.getpid(), threading.get_ident())
        note(self.path, f"close:{os.getpid()}")


def store(path: str) -> Iterator[Store]:
    """Makes one, and takes it down."""
    made = Store(path)
    yield made
    made.close()


def close_store(made: Store) -> None:
    """For `destroy`."""
    made.close()


def use(made: Store, value: Any = None) -> Any:
    """A job with that resource."""
    assert (made.pid, made.ident) == (os.getpid(), threading.get_ident())
    return value


def with_store(made: Store, then: Callable[..., Any], *given: Any) -> Any:
    """A job that does something else."""
    return then(*given)


def store_fails(path: str, times: int, kind: type[Exception] = Oops) -> Store:
    """Cannot be made so often."""
    note(path, "try")
    if len(notes(path)) <= times:
        raise kind(1)
    return Store(path)


def store_dies(path: str, times: int) -> Store:
    """Its process dies while it is made, so often."""
    note(path, "try")
    if len(notes(path)) <= times:
        die()
    return Store(path)


def store_hangs(path: str) -> Store:
    """Its making does not end."""
    note(path, f"hangs:{os.getpid()}")
    time.sleep(60)
    return Store(path)


def closing_dies(path: str) -> Iterator[Store]:
    """The process dies while it is taken down."""
    yield Store(path)
    note(path, "dies")
    die()


def closing_hangs(path: str) -> Iterator[Store]:
    """Its taking down does not end."""
    yield Store(path)
    note(path, "hangs")
    time.sleep(60)


def closing_fails(path: str) -> Iterator[Store]:
    """Its taking down raises."""
    yield Store(path)
    raise Oops(5)


def not_good(made: Store) -> bool:
    """A check: it is good for one use."""
    made.__dict__["uses"] = made.__dict__.get("uses", 0) + 1
    return bool(made.__dict__["uses"] < 2)


def is_healthy(error: Exception) -> bool:
    """For `healthy`: Oops says that the resource is faulty, and so does a death."""
    return not isinstance(error, Oops | rc.ProcessDied)


async def async_job() -> None:
    """No process runs this."""


async def async_store() -> Store:
    """No process makes this."""
    return Store("")
