"""The ends of a process: an interpreter never waits for our threads, and a forked child starts afresh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

pytestmark = pytest.mark.realtime

HEAD = """
import asyncio, atexit, os, signal, sys, threading, time
from runcrew.backends import NoThread, ThreadBackend, Threads, shared
from runcrew.errors import RunInterrupted
from runcrew.job import Job, Run

def stuck():
    begun.set()
    threading.Event().wait()

begun = threading.Event()
pool = Threads(2)
"""


def run(source: str, code: int = 0) -> str:
    """Run a program to its end, which has to come soon; give what it printed."""
    program = HEAD + textwrap.dedent(source)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert code == done.returncode, done.stderr
    assert "" == done.stderr
    return done.stdout


def test_exit_with_idle_threads() -> None:
    """Threads that wait for work, for ever if they are let, do not keep Python from ending."""
    assert "1\n" == run("pool = Threads(2, idle=None); print(pool.submit(abs, -1).result())")


def test_exit_with_running_jobs() -> None:
    """Calls that never return, and others queued behind them, do not keep Python from ending."""
    run("pool.submit(stuck); pool.submit(stuck); pool.submit(abs, -1); begun.wait()")


def test_exit_of_a_loop_with_running_jobs() -> None:
    """`asyncio.run` and the interpreter end although a job in a thread goes on."""
    run(
        """
        async def main():
            task = asyncio.ensure_future(ThreadBackend().handle(Run(Job(stuck))))
            while not begun.is_set():
                await asyncio.sleep(0.001)

        asyncio.run(main())
        """
    )


def test_exit_with_atexit_hooks_that_use_the_pool() -> None:
    """An exit hook that calls into a pool gets its value, or NoThread where Python lets no thread begin any more."""
    said = run(
        """
        def hook():
            for pool in (warm, cold):
                try:
                    print(pool.submit(abs, -1).result(timeout=5))
                except NoThread:
                    print("no thread")

        warm, cold = Threads(1), Threads(1)
        atexit.register(hook)
        warm.submit(stuck and abs, -1).result()
        pool.submit(stuck)
        begun.wait()
        """
    )
    assert said.splitlines() in (["1", "1"], ["1", "no thread"])


def test_exit_by_an_error_in_the_main_thread() -> None:
    """A program that ends by an error or by SystemExit ends, whatever its threads do."""
    run("pool.submit(stuck); begun.wait(); sys.exit(3)", code=3)


def test_exit_from_a_signal_handler() -> None:
    """A handler that submits and exits, in the middle of submitting, neither deadlocks nor hangs."""
    run(
        """
        def handler(number, frame):
            pool.submit(abs, -1)
            sys.exit(5)

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        while True:
            pool.submit(abs, -1).result()
        """,
        code=5,
    )


def test_a_killed_program_dies() -> None:
    """SIGTERM without a handler ends a program with running jobs at once."""
    program = HEAD + "pool.submit(stuck); begun.wait(); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "ready\n" == child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        assert -signal.SIGTERM == child.wait(10)


# --- fork ---------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

FORK = """
import warnings
warnings.simplefilter("ignore")  # newer Pythons warn of a fork among threads: that is what is tested

def in_child(check):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            check()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@needs_fork
def test_a_forked_child_can_use_the_pool() -> None:
    """In the child the pool is empty: it starts its own threads, with a full pool and a queue left in the parent."""
    said = run(
        FORK
        + """
def check():
    assert (0, 0, 0) == (pool.stats().threads, pool.stats().queued, pool.abandoned)
    assert [1, 2, 3] == [pool.submit(abs, -n).result() for n in (1, 2, 3)]
    async def main():
        return [await pool.submit(abs, -n) for n in (4, 5)]
    assert [4, 5] == asyncio.run(main())
    assert 6 == shared().submit(abs, -6).result()
    for call in (running, queued):
        try:
            call.result(timeout=5)
        except RunInterrupted as error:
            assert "parent" in str(error)
        else:
            raise AssertionError(call)

shared().submit(abs, -1).result()
running, _ = pool.submit(stuck), pool.submit(stuck)
queued = pool.submit(abs, -1)
while pool.stats().queued != 1:
    time.sleep(0.001)
print(in_child(check))
print((pool.stats().threads, pool.stats().queued))
"""
    )
    assert "0\n(2, 1)\n" == said


@needs_fork
def test_a_fork_while_the_pool_is_busy() -> None:
    """Forty forks in the middle of a storm of calls: no child inherits a lock that nobody will open."""
    said = run(
        FORK
        + """
def storm():
    while not over.is_set():
        pool.submit(abs, -1).result()

def check():
    assert 7 == pool.submit(abs, -7).result(timeout=5)

over = threading.Event()
threads = [threading.Thread(target=storm) for _ in range(3)]
for thread in threads:
    thread.start()
print([in_child(check) for _ in range(40)] == [0] * 40)
over.set()
for thread in threads:
    thread.join()
"""
    )
    assert "True\n" == said


@needs_fork
def test_a_job_may_fork() -> None:
    """A child forked by a job, inside one of the pool's threads, can use the pool too."""
    said = run(
        FORK
        + """
def check():
    assert 1 == pool.stats().threads
    assert 7 == pool.submit(abs, -7).result(timeout=5)

print(pool.submit(in_child, check).result())
print(pool.submit(abs, -8).result())
"""
    )
    assert "0\n8\n" == said


# --- limits of the system ---------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on address space is Linux's")
def test_a_system_without_room_for_threads() -> None:
    """Where the system itself refuses threads, submit raises NoThread, and works again when it has room."""
    said = run(
        """
        import resource

        barrier = threading.Barrier(2)
        pool = Threads(None)
        threading.stack_size(256 * 1024 * 1024)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 1024 * 1024, hard))
        calls = []
        try:
            for _ in range(50):
                calls.append(pool.submit(begun.wait))
        except NoThread as error:
            print("NoThread" if "can't start new thread" in str(error) else error)
        else:
            time.sleep(0.5)
            print("NoThread" if any(isinstance(call.error, NoThread) for call in calls) else calls)
        begun.set()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        print(pool.submit(abs, -1).result(timeout=5))
        """
    )
    assert "NoThread\n1\n" == said


def test_time_to_exit_does_not_depend_on_the_idle_time() -> None:
    """With an idle time of an hour the end still comes at once."""
    began = time.monotonic()
    run("pool = Threads(2, idle='1h'); pool.submit(abs, -1).result()")
    assert time.monotonic() - began < 15
