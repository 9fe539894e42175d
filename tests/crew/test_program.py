"""Running a service as the program: signals, the drain, and the exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runcrew as rc
from runcrew import program
from runcrew.lifecycle import service as lifecycle
from runcrew.program import Exit, run_with_report

pytestmark = pytest.mark.realtime


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Things that would not stop have little time here, and do not end the process of the tests."""
    monkeypatch.setattr(lifecycle, "GRACE", 0.05)
    monkeypatch.setattr(program, "GRACE", 0.05)
    monkeypatch.setattr("runcrew.lifecycle.closing.PATIENCE", 0.05)
    monkeypatch.setattr("runcrew.supervise.supervisor.GRACE", 0.05)
    monkeypatch.setattr(program, "_exit_in_any_case", lambda: None)


async def quick() -> None:
    """Is over at once."""


async def fails() -> None:
    """Fails for good."""
    raise OSError("for good")


def bad_hook() -> None:
    """Fails as well."""
    raise ValueError("hook")


def crew_of(*jobs: Any, **options: Any) -> rc.Crew:
    """A crew that runs these once."""
    crew = rc.Crew("shop", loop_block=None, **options)
    for job in jobs:
        crew.oneshot(job)
    return crew


async def deaf() -> None:
    """Does not heed its cancellation."""
    ends = time.monotonic() + 0.5
    while time.monotonic() < ends:
        try:
            await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            continue


async def stops_crew() -> None:
    """Ends the whole tree."""
    await asyncio.sleep(0.01)
    raise rc.StopTree


# --- exit codes ---------------------------------------------------------------------------------


def test_a_clean_end_is_zero(caplog: pytest.LogCaptureFixture) -> None:
    """`run` returns 0 where all ended well, and logs the report."""
    caplog.set_level(logging.INFO, "runcrew")
    assert 0 == rc.run(crew_of(quick))
    assert "0 finished, 0 cancelled, 0 never started" in caplog.text


@pytest.mark.parametrize(
    ("crew", "code", "said"),
    [
        (lambda: crew_of(fails), 1, "shop failed: ExceptionGroup: shop: 1 permanent error(s)"),
        (lambda: crew_of(fails, on_stopped=bad_hook), 1, "for good"),
        (lambda: crew_of(quick, on_stopped=bad_hook), 4, "on_stopped hook bad_hook of shop: ValueError: hook"),
        (lambda: crew_of(deaf, stops_crew, stop_timeout="10ms"), 3, "would not stop: run"),
        (lambda: rc.OneShot(fails), 1, "fails failed: OSError: for good"),
        (lambda: rc.Interval(fails, "1s"), 1, "fails failed: OSError: for good"),
    ],
)
def test_other_ends_exit_with_their_code(crew: Any, code: int, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """1 permanent failure, 3 something would not stop, 4 only a hook failed; what went wrong is in the log."""
    with pytest.raises(SystemExit) as caught:
        rc.run(crew())
    assert code == caught.value.code
    assert said in caplog.text


def test_the_configuration_is_looked_at_before_anything_starts(caplog: pytest.LogCaptureFixture) -> None:
    """2: nothing was started."""
    begun: list[int] = []
    crew = rc.Crew("shop")
    crew.oneshot(lambda: begun.append(1))
    nested = rc.Supervisor(name="nested")
    nested.add(rc.OneShot(quick), depends_on=["nobody"])
    crew.add(nested)
    with pytest.raises(SystemExit) as caught:
        rc.run(crew)
    assert (2, [], 0) == (caught.value.code, begun, crew.generation)
    assert "nested: 'quick' depends on 'nobody'" in caplog.text


@pytest.mark.parametrize("grace", [-1, "soon", None])
def test_a_bad_grace_is_a_bad_configuration(grace: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A grace that is no span is told before anything starts."""
    crew = crew_of(quick)
    with pytest.raises(SystemExit) as caught:
        rc.run(crew, grace=grace)
    assert (2, 0) == (caught.value.code, crew.generation)
    assert f"grace: {grace!r}" in caplog.text


@pytest.mark.parametrize("thing", [None, 42, quick, rc.Crew])
def test_what_cannot_be_run_is_a_bad_configuration(thing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is no service of ours is refused with the remedy."""
    with pytest.raises(SystemExit) as caught:
        rc.run(thing)
    assert 2 == caught.value.code
    assert "cannot be run: give a Crew, or add it to one" in caplog.text


def test_an_error_of_the_configuration_in_a_job_is_a_failure() -> None:
    """A job that raises ConfigError has failed like any other: something was started."""

    async def job() -> None:
        raise rc.ConfigError("late")

    for service in (rc.OneShot(job), crew_of(job)):
        code, report = run_with_report(service)
        assert (Exit.FAILED, 1) == (code, len(report.errors) if report else 0)


def test_system_exit_of_a_job_is_a_failure_and_not_the_exit_of_the_program() -> None:
    """A job that raises SystemExit has crashed; the code is that of a failure, not the job's."""

    async def job() -> None:
        raise SystemExit(7)

    code, report = run_with_report(crew_of(job))
    assert Exit.FAILED is code
    assert report is not None
    assert isinstance(report.errors[0], rc.JobCrashed)


def test_inside_a_loop_it_is_refused_with_the_remedy() -> None:
    """A program inside a loop makes no sense, and the message says what does."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="use `async with crew:`"):
            rc.run(crew_of(quick))

    asyncio.run(main())


def test_a_failed_start_is_a_failure() -> None:
    """What fails before it is ready fails all the same."""
    crew = rc.Crew("shop")
    crew.oneshot(ready="succeeded")(fails)
    code, _ = run_with_report(crew)
    assert Exit.FAILED is code


def test_sinks_have_heard_everything() -> None:
    """When the program ends, whoever listens has heard of its end."""
    heard: list[str] = []

    async def sink(event: Any) -> None:
        await asyncio.sleep(0.001)
        heard.append(event.new)

    from runcrew.events import StateChanged

    crew = crew_of(quick)
    crew.subscribe(sink, StateChanged)
    rc.run(crew)
    assert ["stopped", 8] == [heard[-1], len(heard)]


# --- leaving ----------------------------------------------------------------------------------


def test_a_task_that_does_not_heed_its_end_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """A task that somebody has started and nobody can end does not keep the program from its end, and is told."""

    async def job() -> None:
        tasks.append(asyncio.create_task(deaf()))
        await asyncio.sleep(0)

    tasks: list[Any] = []
    began = time.monotonic()
    code, _ = run_with_report(crew_of(job))
    assert Exit.STUCK is code
    assert time.monotonic() - began < 5
    assert "does not heed its cancellation" in caplog.text
    assert "in deaf" in caplog.text


def test_a_thread_of_asyncios_own_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Also a call in `asyncio.to_thread` does not keep it."""
    gate = threading.Event()

    async def job() -> None:
        await asyncio.to_thread(gate.wait)

    crew = crew_of(job, stops_crew)
    code, report = run_with_report(crew)
    gate.set()
    assert Exit.STUCK is code
    assert report is not None
    assert (1, ()) == (report.cancelled, report.would_not_stop)
    assert "a thread of asyncio.to_thread" in caplog.text


def test_tasks_that_are_left_are_cancelled() -> None:
    """What a job left running is ended as `asyncio.run` does."""
    ended: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("background")

    async def job() -> None:
        tasks.append(asyncio.create_task(background()))
        await asyncio.sleep(0)

    tasks: list[Any] = []
    assert 0 == rc.run(crew_of(job))
    assert ["background"] == ended


def test_the_handlers_of_before_are_back() -> None:
    """After the run signals mean what they meant before it."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    rc.run(crew_of(quick))
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_in_a_thread_it_runs_without_signals() -> None:
    """Outside of the main thread a service runs as well; signals are the main thread's."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(rc.run(crew_of(quick))))
    thread.start()
    thread.join()
    assert [0] == codes


def test_a_crew_can_be_run_twice() -> None:
    """Each run is a life on a loop of its own."""
    crew = crew_of(quick)
    assert (0, 0, 2) == (rc.run(crew), rc.run(crew), crew.generation)


# --- signals ----------------------------------------------------------------------------------


PROGRAM = """
import asyncio, logging, sys, threading, time
import runcrew as rc
from runcrew.lifecycle import service
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
crew = rc.Crew("shop", loop_block=None)

@crew.on_stopping
async def stopping():
    say("stopping")

@crew.on_stopped
def stopped():
    say("stopped")

def say(what):
    print(what, flush=True)

{job}

rc.run(crew, grace="{grace}")
say("returned")
"""

PATIENT = """
@crew.oneshot(drain="finish")
async def job():
    say("up")
    try:
        await asyncio.sleep({span})
        say("finished")
    except asyncio.CancelledError:
        say("cancelled")
        raise
"""

DEAF = """
@crew.oneshot
async def job():
    say("up")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            say("not I")
"""

DEAF_THREAD = """
@crew.oneshot
def job():
    say("up")
    time.sleep(60)
"""

TO_THREAD = """
@crew.oneshot
async def job():
    say("up")
    await asyncio.to_thread(time.sleep, 60)
"""


class Program:
    """A program in a process of its own."""

    def __init__(self, path: Path, job: str, grace: str) -> None:
        path.write_text(textwrap.dedent(PROGRAM).format(job=job, grace=grace), encoding="utf-8")
        self.process = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
        self.said: list[str] = []

    def until(self, what: str) -> None:
        """Read what it says up to this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if what in line:
                return
        raise AssertionError(f"it never said {what!r}: {self.said}")

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end, and give its exit code."""
        out, _ = self.process.communicate(timeout=20)
        self.said += out.splitlines()
        return self.process.returncode


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """Programs that are ended after the test, whatever it did."""
    made: list[Program] = []
    yield made
    for one in made:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def begin(programs: list[Program], tmp_path: Path) -> Any:
    """Starts a program, and waits until its job has begun."""

    def begin(job: str, grace: str = "20s") -> Program:
        made = Program(tmp_path / "program.py", job, grace)
        programs.append(made)
        made.until("up")
        return made

    return begin


@pytest.mark.parity("T3.62")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(begin: Any, number: int) -> None:
    """The work that was promised is finished, hooks are called, and the code is 0."""
    one = begin(PATIENT.format(span=0.3))
    one.send(number)
    assert 0 == one.end()
    words = [word for word in one.said if word in ("stopping", "finished", "cancelled", "stopped", "returned")]
    assert ["stopping", "finished", "stopped", "returned"] == words
    assert any("draining, for at most 20s; once more kills" in line for line in one.said)


def test_the_second_signal_kills(begin: Any) -> None:
    """Whoever does not want to wait sends another: what runs is cancelled, hooks are called, the code is 0."""
    one = begin(PATIENT.format(span=60))
    one.send(signal.SIGTERM)
    one.until("stopping")
    one.send(signal.SIGINT)
    assert 0 == one.end()
    assert ["cancelled", "stopped"] == [word for word in one.said if word in ("cancelled", "stopped")]


def test_the_third_signal_exits_at_once(begin: Any) -> None:
    """Nothing is waited for any more: the process ends with code 3."""
    one = begin(DEAF)
    one.send(signal.SIGTERM)
    one.until("not I")
    one.send(signal.SIGTERM)
    one.until("killing")
    began = time.monotonic()
    one.send(signal.SIGTERM)
    assert 3 == one.end()
    assert time.monotonic() - began < 2
    assert "returned" not in one.said


@pytest.mark.parametrize("job", [DEAF, DEAF_THREAD, TO_THREAD], ids=["task", "thread", "to_thread"])
def test_what_will_not_stop_does_not_keep_the_process(begin: Any, job: str) -> None:
    """A job that hangs is told, and the process really ends, with code 3."""
    one = begin(job, grace="100ms")
    began = time.monotonic()
    one.send(signal.SIGTERM)
    assert 3 == one.end()
    assert time.monotonic() - began < 10
    if job is not TO_THREAD:
        assert any("would not stop: run" in line for line in one.said)
        assert any("sleep(60)" in line for line in one.said)


def test_a_flood_of_signals(begin: Any) -> None:
    """However many come, and in whatever mixture, the process ends."""
    one = begin(PATIENT.format(span=60))
    for number in [signal.SIGINT, signal.SIGTERM] * 10:
        one.send(number)
    assert one.end() in (0, 3, 4)  # 4: the kill has cut a hook short
