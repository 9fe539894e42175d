"""Programs whose jobs run in processes: their main modules, their ends, and what the system may refuse them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.realtime, pytest.mark.timeout(120)]

Start = Callable[..., Any]

HEAD = """
import asyncio, logging, os, resource, signal, subprocess, sys, tempfile, threading, time
import runcrew as rc
"""

PROGRAM = """
class Oops(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code

class Thing:
    def __init__(self, n):
        self.n = n

def pid(*_):
    return os.getpid()

def thing(n):
    return Thing(n)

def number(thing):
    return thing.n

def fails():
    raise Oops(7)

def deaf(word="begun"):
    child = subprocess.Popen(["sleep", "300"]).pid
    os.write(1, f"{word} {os.getpid()} {child} {os.getppid()}\\n".encode())
    while True:
        time.sleep(1)

def slow(n):
    os.write(1, f"begun {n}\\n".encode())
    time.sleep(0.3)
    return n

def said(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

GUARD = """
if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main())
"""


@pytest.fixture
def program(start: Start, tmp_path: Path) -> Start:
    """Start a program of this text, as a script."""

    def begin(text: str, *, head: str = HEAD + PROGRAM, tail: str = GUARD) -> Any:
        path = tmp_path / "program.py"
        path.write_text(head + text + tail)
        return start(str(path), module=None)

    return begin


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "XZ"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(span: float, pids: list[int]) -> list[int]:
    """Those that have not ended when so many seconds are over."""
    ends = time.monotonic() + span
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < ends:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


# --- the main module ------------------------------------------------------------------------


def test_jobs_things_and_errors_of_the_main_module_travel_both_ways(program: Start) -> None:
    """What a script defines may be job, argument, value and error."""
    one = program("""
async def main():
    async with rc.Queue("q", backend="process") as q:
        thing_ = await q.run(thing, 5)
        said("thing", type(thing_) is Thing, await q.run(number, thing_))
        try:
            await q.run(fails)
        except Oops as error:
            said("oops", error.code)
""")
    assert 0 == one.end(), one.said
    assert ["thing True 5", "oops 7"] == one.out


def test_an_unguarded_main_module_is_refused_in_words_and_in_time(program: Start) -> None:
    """A script that starts its work when it is imported does not hang, nor run twice: it hears of the guard."""
    one = program(
        """
def job():
    return 1

async def main():
    said("main")
    async with rc.Queue("q", backend="process") as q:
        async with asyncio.timeout(20):
            said("value", await q.run(job))

logging.basicConfig(level=logging.INFO)
asyncio.run(main())
""",
        tail="",
    )
    one.end()
    assert "__main__" in one.said, one.said
    assert "if __name__" in one.said or "cannot be loaded" in one.said
    assert "TimeoutError" not in one.said


def test_a_main_module_that_starts_a_thread_is_loaded_in_each_process(program: Start) -> None:
    """A process with threads is never forked: a warning says that it takes longer, and the jobs run."""
    one = program("""
threading.Thread(target=time.sleep, args=(0.1 if __name__ == "__main__" else 60,)).start()

async def main():
    began = time.monotonic()
    async with rc.Queue("q", backend="process", workers=2) as q:
        ticks = 0
        found = asyncio.ensure_future(q.run(number, Thing(3)))
        said("value", await found, time.monotonic() - began < 4.5)
""")
    assert 0 == one.end(), one.said
    assert ["value 3 True"] == one.out
    assert "has started threads" in one.said


def test_what_the_main_module_prints_and_tidies_up_happens_once_for_each_loading(program: Start) -> None:
    """Neither buffered output nor `atexit` handlers are carried over into the processes, nor is anything left."""
    one = program("""
import atexit
print("loaded as", __name__)
atexit.register(lambda: said("tidied as", __name__))
folder = tempfile.TemporaryDirectory(prefix="left-")

def there():
    return os.path.isdir(folder.name)

async def main():
    async with rc.Queue("q", backend=rc.Processes(max_runs=1)) as q:
        said("there", [await q.run(there) for _ in range(4)])
""")
    assert 0 == one.end(), one.said
    assert 1 == one.out.count("loaded as __main__")
    assert 1 == one.out.count("loaded as __mp_main__"), one.said
    assert 1 == one.out.count("tidied as __main__")
    assert 1 >= one.out.count("tidied as __mp_main__"), one.said
    assert "there [True, True, True, True]" in one.out
    assert [] == list(Path(one.process.args[1]).parent.glob("left-*"))


def test_a_program_without_a_file_says_what_its_jobs_lack(start: Start) -> None:
    """`python -c`: jobs of other modules run; those of the main module are refused in words."""
    text = (
        HEAD
        + """
def job():
    return 1

async def main():
    async with rc.Queue("q", backend="process") as q:
        print("other", await q.run(abs, -3), flush=True)
        try:
            await q.run(job)
        except rc.NotPicklable as error:
            print("refused", error, flush=True)

asyncio.run(main())
"""
    )
    one = start("-c", text, module=None)
    assert 0 == one.end(), one.said
    assert "other 3" == one.out[0]
    assert one.out[1].startswith("refused")


# --- ends -------------------------------------------------------------------------------------


BUSY = """
async def main():
    async with rc.Queue("q", backend="process", workers=3) as q:
        for n in range(2):
            q.submit_nowait(deaf)
        idle = await q.run(pid)
        said("idle", idle)
        await asyncio.sleep(600)
"""


def test_sigkill_of_the_program_ends_its_processes_and_theirs(program: Start) -> None:
    """Children, busy and idle, what they have started, and the fork server are gone within three seconds."""
    one = program(BUSY)
    found = one.wait_for(r"^begun (\d+) (\d+) (\d+)$", 2)
    idle = one.wait_for(r"^idle (\d+)$")
    pids = [int(number) for match in found for number in match.groups()] + [int(idle[0][1])]
    assert all(alive(pid) for pid in pids)
    one.signal(signal.SIGKILL)
    one.end()
    assert [] == gone_within(3, pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_the_program_drains_it(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """A terminal, or a service manager, signals all processes: what was accepted is done, nothing is left."""
    (tmp_path / "app.py").write_text(
        HEAD
        + PROGRAM
        + """
crew = rc.Crew("shop")
orders = crew.queue("orders", backend="process", workers=2)

async def sell():
    tickets = [await orders.submit(slow, n) for n in range(4)]
    try:
        await asyncio.sleep(600)
    finally:
        said("values", *[(await ticket.outcome()).value for ticket in tickets])

crew.oneshot(sell)
"""
    )
    one = start("run", "app:crew")
    one.wait_for("^begun 0")
    one.wait_for("^begun 1")
    group = os.getpgid(one.pid)
    session = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if of_session(pid) == group]
    assert len(session) >= 4
    for pid in session:
        os.kill(pid, number)
    code = one.end()
    assert code in (0, 128 + number), one.said
    assert "values 0 1 2 3" in one.out, one.said
    assert [] == gone_within(3, session)


def of_session(pid: int) -> int:
    """The session that a process belongs to."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


# --- what the system refuses --------------------------------------------------------------------


def test_no_shared_memory_is_needed(program: Start) -> None:
    """With a full /dev/shm everything works, since nothing is put there."""
    one = program("""
async def main():
    async with rc.Queue("q", backend="process", workers=2) as q:
        big = bytes(5_000_000)
        said("came", [len(await q.run(same, big)) for _ in range(3)])
        mapped = await q.run(maps)
        said("mapped", [line for line in mapped if "/dev/shm" in line])

def same(x):
    return x

def maps():
    return open("/proc/self/maps").read().split("\\n")
""")
    assert 0 == one.end(), one.said
    assert ["came [5000000, 5000000, 5000000]", "mapped []"] == one.out


def test_too_few_descriptors_delay_openings_and_it_recovers(program: Start) -> None:
    """RLIMIT_NOFILE: openings fail with an error that says so, tickets wait, and nothing leaks."""
    one = program("""
async def main():
    q = rc.Queue("q", backend="process", workers=1, max_workers=3, backoff=rc.Constant("50ms"))
    async with q:
        await q.run(pid)
        before = len(os.listdir("/proc/self/fd"))
        for free in range(0, 10):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            for _ in range(free):
                os.close(taken.pop())
            failed = q.stats().failed_openings
            q.more()
            await asyncio.sleep(0.12)
            wrong = q.stats().failed_openings > failed
            assert wrong or free >= 8, (free, q.stats())
            assert not wrong or "Too many open files" in str(q.stats().last_error), q.stats().last_error
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with asyncio.timeout(10):
                while q.stats().alive < 2:
                    await asyncio.sleep(0.01)
            await q.less()
        assert before == len(os.listdir("/proc/self/fd")), (before, os.listdir("/proc/self/fd"))
        said("recovered", await q.run(number, Thing(1)))
""")
    assert 0 == one.end(), one.said
    assert ["recovered 1"] == one.out


def test_forks_that_the_system_refuses_delay_openings_and_it_recovers(program: Start, tmp_path: Path) -> None:
    """EAGAIN, as RLIMIT_NPROC gives it: openings fail with that, tickets wait, and are done when there is room."""
    (tmp_path / "refusing.py").write_text(
        "import errno, os\n"
        "fork = os.fork\n"
        "def refuse():\n"
        "    if os.path.exists('refuse'):\n"
        "        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "    return fork()\n"
        "os.fork = refuse\n"
    )
    one = program("""
async def main():
    backend = rc.Processes(preload=["refusing"])
    q = rc.Queue("q", backend=backend, workers=1, max_workers=3, backoff=rc.Constant("50ms"))
    async with q:
        await q.run(pid)
        open("refuse", "w").close()
        q.more(2)
        tickets = [q.submit_nowait(slow, n) for n in range(3)]
        await asyncio.sleep(0.3)
        said("failed", q.stats().failed_openings > 1, type(q.stats().last_error).__name__)
        said("done", [await ticket for ticket in tickets])
        os.remove("refuse")
        async with asyncio.timeout(10):
            while q.stats().alive < 3:
                await asyncio.sleep(0.01)
        said("recovered", await q.run(number, Thing(1)))
""")
    assert 0 == one.end(), one.said
    assert "failed True BlockingIOError" in one.out, one.said
    assert "done [0, 1, 2]" in one.out
    assert "recovered 1" == one.out[-1]


def test_a_fork_server_that_cannot_be_started_is_told_and_tried_again(program: Start) -> None:
    """No such interpreter: openings fail in words, at their pace, the tickets wait; then it is there."""
    one = program("""
async def main():
    python, sys.executable = sys.executable, "/no/such/python"
    q = rc.Queue("q", backend="process", backoff=rc.Constant("50ms"))
    async with q:
        ticket = q.submit_nowait(number, Thing(2))
        await asyncio.sleep(0.3)
        said("failed", 2 <= q.stats().failed_openings <= 8, q.stats().last_error)
        sys.executable = "/bin/false"
        await asyncio.sleep(0.3)
        said("failed", q.stats().last_error)
        sys.executable = python
        said("recovered", await ticket)
""")
    assert 0 == one.end(), one.said
    assert one.out[0].startswith("failed True the fork server cannot be started"), one.said
    assert one.out[1].startswith("failed "), one.said
    assert "recovered 2" == one.out[2]


def test_blocked_signals_are_not_passed_on(program: Start) -> None:
    """A program that has blocked SIGCHLD and others still hears of deaths, and its jobs start clean."""
    one = program("""
def mask():
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM])
    async with rc.Queue("q", backend="process") as q:
        said("mask", await q.run(mask))
        async with asyncio.timeout(5):
            outcome = await q.submit_nowait(die).outcome()
        said(type(outcome.error).__name__)
""")
    assert 0 == one.end(), one.said
    assert ["mask []", "ProcessDied"] == one.out
