"""What the command line says of jobs that run in processes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]

HOUSE = """
import os
import runcrew as rc

crew = rc.Crew("house")
def model():
    yield 7
def render(model): ...
def loop(): ...

@crew.oneshot(backend="process", timeout="5s")
def once(): ...

crew.queue("pages", resource=model, backend="process", workers=2, max_workers=4, timeout="2s")
crew.queue("bare", backend=rc.Processes(max_runs=100, max_megabytes=500))
crew.pool("loops", loop, backend="process", initial=2)
"""

#: A crew in which one thing is wrong.
WRONG = """
import runcrew as rc

crew = rc.Crew("house")
def inside():
    def job(): ...
    def model():
        yield 7
    return job, model
async def waits(): ...
async def connect(): ...
def plain(): ...
job, model = inside()
{}
"""

PLACE = """
import os
import runcrew as rc

here = os.getpid()
crew = rc.Crew("house", loop_block=None)
queue = crew.queue("queue", backend="process")

def where():
    return os.getpid()

@crew.oneshot(ready="succeeded")
async def ask():
    there = await queue.run(where)
    print("elsewhere" if there != os.getpid() else "here")
    raise rc.StopTree
"""


def test_check_prints_processes(invoke: Invoke, tmp_path: Path) -> None:
    """Where jobs run in processes the chain says so in its last line."""
    (tmp_path / "house.py").write_text(HOUSE)
    assert [
        "house  Crew",
        "├── once  OneShot, once, on failure: stop",
        "│       timeout 5s",
        "│       process",
        "├── pages  Queue, 2 workers (at most 4), each with model, on failure: stop",
        "│       timeout 2s",
        "│       the processes of its workers",
        "├── bare  Queue, 1 worker, on failure: stop",
        "│       the processes of its workers",
        "└── loops  Pool, 2 workers (0 or more), on failure: stop",
        "        the processes of its workers",
    ] == invoke("check", f"{tmp_path / 'house.py'}:crew").stdout.splitlines()


def test_check_says_the_same_as_json(invoke: Invoke, tmp_path: Path) -> None:
    """The same words, as one JSON object."""
    (tmp_path / "house.py").write_text(HOUSE)
    found = json.loads(invoke("check", f"{tmp_path / 'house.py'}:crew", "--json").stdout)
    assert ["process", *["the processes of its workers"] * 3] == [child["chain"][-1] for child in found["children"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("crew.oneshot(backend='process')(waits)", "waits is async, and a process runs plain functions"),
        ("crew.oneshot(name='l', backend='process')(lambda: None)", "is no function of a module"),
        ("crew.interval('1s', backend='process')(job)", "define it at the top of a module"),
        ("crew.queue('q', backend='process', resource=connect)", "connect is async, and a process runs plain"),
        ("crew.queue('q', backend='process', resource=model)", "resource: "),
        ("crew.queue('q', backend='process', max_abandoned=2)", "max_abandoned: 2 means nothing for processes"),
        ("crew.queue('q', kill=True)", "kill: neither a thread nor a coroutine can be killed"),
        ("crew.queue('q', backend='proces')", "backend: 'proces' is unknown"),
        ("crew.queue('q', backend=rc.Processes)", "is a class: give an instance"),
        ("crew.queue('q', backend=rc.Processes(max_runs=0))", "max_runs: 0 is not a whole number of at least 1"),
        ("crew.pool('p', waits, backend='process')", "p is async, and a process runs plain functions"),
        ("crew.pool('p', lambda: None, backend='process')", "is no function of a module"),
    ],
)
def test_check_refuses_what_a_process_cannot_run(invoke: Invoke, tmp_path: Path, line: str, words: str) -> None:
    """What is refused where it is made is one line with its place, and exit code 2."""
    text = WRONG.format(line)
    (tmp_path / "wrong.py").write_text(text)
    result = invoke("check", f"{tmp_path / 'wrong.py'}:crew")
    assert (2, "") == (result.exit_code, result.stdout)
    (said,) = result.stderr.splitlines()
    assert words in said
    assert f"wrong.py, line {text.count(chr(10))}: " in said


@pytest.mark.realtime
def test_jobs_of_a_target_are_found_by_their_processes(tmp_path: Path) -> None:
    """`runcrew run place.py:crew` runs the jobs of that file in processes, which find them by the file's name."""
    (tmp_path / "place.py").write_text(PLACE)
    for target in ("place.py:crew", "place:crew"):
        command = [sys.executable, "-W", "error", "-m", "runcrew.cli", "run", target]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert (0, "elsewhere\n") == (done.returncode, done.stdout), done.stderr
