"""`runcrew run` with real signals: how a program ends, and with which code."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.realtime, pytest.mark.timeout(300)]

Start = Callable[..., Any]

APP = """
import asyncio, os, signal, sys, threading, time
import runcrew as rc

def say(word):
    sys.stdout.write(word + "\\n")  # in one, since several threads do it
    sys.stdout.flush()

async def until_told():
    say("begun")
    try:
        await asyncio.sleep(3600)
    finally:
        say("cleaned up")

async def finishes():
    say("begun")
    await asyncio.sleep(0.3)
    say("finished")

async def ten_minutes():
    say("begun")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        say("cut")
        raise

async def deaf():
    say("begun")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            say("ignored")

async def insisted():
    say("begun")
    loop = asyncio.get_running_loop()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            say("ignored")
            for moment in (0, 0.01):  # from here, so that they come in time however busy the machine is
                loop.call_later(moment, os.kill, os.getpid(), signal.SIGTERM)

def deaf_thread():
    say("begun")
    time.sleep(3600)

def busy_thread():
    run = rc.current_run()
    say("begun")
    run.wait_cancelled("1h")
    say("told")

async def fails():
    raise ValueError("for good")

def bad_hook():
    raise KeyError("hook")

def slow_hook():
    time.sleep(3600)

def one(job, **options):
    crew = rc.Crew("shop", **options)
    crew.add(rc.OneShot(job))
    return crew

polite = one(until_told)
draining = rc.Crew("shop")
draining.interval("1h")(finishes)
long = rc.Crew("shop")
long.interval("1h")(ten_minutes)
stuck = one(deaf)
insisting = one(insisted)
stuck_thread = one(deaf_thread)
thread = one(busy_thread)
polling_thread = rc.Crew("shop")
polling_thread.interval("1h")(busy_thread)
failing = one(fails)
hooked = one(until_told, on_stopped=bad_hook)
slow_hooked = one(until_told, on_stopped=slow_hook, hooks_timeout="100ms")
announced = one(until_told, on_stopping=bad_hook)

# Each of two workers owns what is opened and closed in its own thread. Ten jobs take half a second.
def opened():
    say("opened")
    yield threading.get_ident()
    say("closed")

def store(owner, number):
    assert owner == threading.get_ident()
    rc.current_run().wait_cancelled("100ms")
    say("told" if rc.current_run().cancelled else f"stored {number}")

async def sell():
    for number in range(10):
        await orders.submit(store, number)
    say("begun")
    try:
        await asyncio.sleep(3600)
    finally:
        await orders.submit(store, "the last one", priority=rc.HIGH)

queued = rc.Crew("shop")
orders = queued.queue("orders", resource=opened, workers=2)
queued.oneshot(sell)
alone = rc.Queue("shop", on_stopping=lambda: say("stopping"), on_stopped=lambda: say("stopped"))
"""


@pytest.fixture
def run(start: Start, tmp_path: Path) -> Start:
    """Run a crew of the program above, once it has begun its work."""
    (tmp_path / "app.py").write_text(APP)

    def begin(name: str, *options: str) -> Any:
        program = start("run", f"app.py:{name}", *options)
        program.wait_for("^begun$")
        return program

    return begin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("name", "word"),
    [("polite", "cleaned up"), ("draining", "finished"), ("thread", "told"), ("announced", "cleaned up")],
)
def test_the_first_signal_drains(run: Start, name: str, word: str, number: signal.Signals) -> None:
    """What was promised is finished, what listens is cancelled or told; the end is a clean one."""
    program = run(name)
    program.signal(number)
    assert (4 if name == "announced" else 0) == program.end(), program.said
    assert ["begun", word] == program.out
    assert f"{number.name}: draining, for at most 25s" in program.said
    assert "shop stopped in" in program.err[-1] or name == "announced"


def test_the_grace_bounds_the_drain(run: Start) -> None:
    """What is not finished within the grace time is cut, and that is a clean end too."""
    program = run("long", "--grace", "200ms")
    program.signal()
    assert 0 == program.end(), program.said
    assert ["begun", "cut"] == program.out
    assert "1 cancelled" in program.said


@pytest.mark.parametrize(("name", "word"), [("long", "cut"), ("polling_thread", "told")])
def test_the_second_signal_kills(run: Start, name: str, word: str) -> None:
    """While it drains, a second signal cuts everything short; a thread that listens is given the time to end."""
    program = run(name)
    program.signal()
    program.wait_for("SIGTERM: draining")
    program.signal(signal.SIGINT)
    assert 0 == program.end(), program.said
    assert ["begun", word] == program.out
    program.wait_for("SIGINT again: killing")


def test_a_queue_does_what_it_has_accepted(run: Start) -> None:
    """A signal ends the source, whose last words are stored too, and then the queue, when it has nothing left."""
    program = run("queued")
    program.signal()
    assert 0 == program.end(), program.said
    stored = [line for line in program.out if line.startswith("stored")]
    assert sorted(f"stored {number}" for number in [*range(10), "the last one"]) == sorted(stored)
    assert (2, ["closed"] * 2) == (program.out.count("opened"), program.out[-2:])


def test_a_second_signal_cuts_a_queue_short(run: Start) -> None:
    """What runs is told, what waits never runs, and what was opened is closed all the same."""
    program = run("queued")
    program.signal()
    program.wait_for("SIGTERM: draining")
    program.signal()
    assert 0 == program.end(), program.said
    assert len([line for line in program.out if line.startswith("stored")]) < 11
    assert (2, 2) == (program.out.count("opened"), program.out.count("closed"))


def test_a_queue_may_be_the_whole_program(start: Start, tmp_path: Path) -> None:
    """It runs until a signal ends it, and ends well."""
    (tmp_path / "app.py").write_text(APP)
    program = start("run", "app:alone", "-v")
    program.wait_for("shop: starting -> running")
    program.signal()
    assert 0 == program.end(), program.said
    assert ["stopping", "stopped"] == program.out


def test_a_signal_after_the_end_changes_nothing(run: Start) -> None:
    """When the crew has ended, further signals do not change the code, whenever they come."""
    program = run("polite")
    program.signal()
    program.wait_for("shop stopped in")
    while program.process.poll() is None:
        program.signal(signal.SIGINT)
    assert 0 == program.end(), program.said
    assert "Traceback" not in program.said


def test_the_third_signal_exits_at_once(run: Start) -> None:
    """A job that ignores its cancellation does not keep the process from ending at the third signal."""
    program = run("insisting")
    program.signal()
    assert 3 == program.end(), program.said
    assert "SIGTERM: draining" in program.said
    assert "ignored" in program.out
    assert "SIGTERM again: killing" in program.said
    assert "stopped in" not in program.said


@pytest.mark.parametrize(("name", "where"), [("stuck", "asyncio.sleep(3600)"), ("stuck_thread", "time.sleep(3600)")])
def test_what_would_not_stop_is_named(run: Start, name: str, where: str) -> None:
    """A job that does not end is reported with its stack, the code is 3, and nothing hangs at the end."""
    program = run(name, "--grace", "100ms")
    program.signal()
    assert 3 == program.end(), program.said
    report = program.said[program.said.index("shop stopped in") :]
    assert "1 would not stop" in report
    assert "would not stop: run" in report
    assert where in report
    assert "Exception ignored" not in program.said
    assert "Task was destroyed" not in program.said


@pytest.mark.parametrize(("name", "words"), [("hooked", "KeyError: 'hook'"), ("slow_hooked", "TimeoutError")])
def test_a_failing_hook_is_told(run: Start, name: str, words: str) -> None:
    """A hook that fails or does not end changes nothing but the code, which is 4."""
    program = run(name)
    program.signal()
    assert 4 == program.end(), program.said
    assert ["begun", "cleaned up"] == program.out
    report = program.said[program.said.index("shop stopped in") :]
    assert "1 hook error(s)" in report
    assert words in report


def test_a_crew_that_fails(start: Start, tmp_path: Path) -> None:
    """A permanent error ends the crew by itself, with 1, the error and its traceback."""
    (tmp_path / "app.py").write_text(APP)
    program = start("run", "app:failing")
    assert 1 == program.end(), program.said
    assert "ValueError: for good" in program.said
    assert "app.py" in program.said


@pytest.mark.parametrize("target", ["app:nothing", "nowhere:crew", "app.py:one"])
def test_nothing_is_started_for_a_bad_target(start: Start, tmp_path: Path, target: str) -> None:
    """A target that cannot be used exits with 2 and one line."""
    (tmp_path / "app.py").write_text(APP)
    program = start("run", target)
    assert 2 == program.end(), program.said
    assert ([], 1) == (program.out, len(program.err)), program.said


def test_a_report_in_json(run: Start) -> None:
    """With JSON logs the last line is the report, also of an end that went wrong."""
    program = run("stuck", "--grace", "100ms", "--log-format", "json")
    program.signal()
    assert 3 == program.end(), program.said
    last = json.loads(program.err[-1])
    assert (3, 1) == (last["exit_code"], len(last["would_not_stop"]))
    assert "asyncio.sleep(3600)" in last["would_not_stop"][0]["stack"]


def test_a_script_of_ones_own(start: Start, tmp_path: Path) -> None:
    """`rc.run(crew)` at the end of a script gives the same code as the command line."""
    (tmp_path / "app.py").write_text(APP)
    program = start("-c", "import app, runcrew as rc; rc.run(app.failing)", module=None)
    assert 1 == program.end(), program.said
