"""The commands: what they print where, and the code that they exit with."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from runcrew.cli import commands, demo

Invoke = Callable[..., Result]

TREE = """
import runcrew as rc

async def poll(): ...
def migrate(): ...
async def serve(): ...

feeds = rc.Supervisor(rc.Interval(poll, "1m", mode="delay", first="after"), name="feeds", on_failure="isolate")
crew = rc.Crew("shop")
crew.oneshot(ready="succeeded", drain="finish")(migrate)
crew.add(rc.OneShot(serve, delay="2s"), depends_on=["migrate"])
crew.add(feeds, depends_on=["migrate", "serve"])
crew.interval("90s", name="poll2", timeout="30s", retry=[
    rc.Retry(ConnectionError, retries=5, backoff=rc.Constant("2s"), name="net"),
])(poll)
alone = rc.Interval(poll, "10s")
empty = rc.Crew("empty")
missing = rc.Crew("missing")
missing.add(rc.OneShot(serve), depends_on=["nobody"])
deep = rc.Supervisor(rc.Supervisor(missing, name="inner"), name="root")
"""

RUN = """
import runcrew as rc, sys

async def good(): print("data")
async def bad(): raise ValueError("no\\x1bway")
def hook(): raise KeyError("hook")

crew = rc.Crew("shop")
crew.oneshot(good)
failing = rc.Crew("shop")
failing.oneshot(bad)
hooked = rc.Crew("shop", on_stopped=hook)
hooked.oneshot(good)
both = rc.Crew("shop", on_stopped=hook)
both.oneshot(bad)
lost = rc.Crew("lost")
lost.add(rc.OneShot(good), depends_on=["nobody"])
"""


def test_version(invoke: Invoke) -> None:
    """`--version` prints the name and the version on stdout."""
    result = invoke("--version")
    assert (0, f"runcrew {version('runcrew')}\n", "") == (result.exit_code, result.stdout, result.stderr)


def test_nothing_is_loaded_for_the_version() -> None:
    """`--version` needs neither asyncio nor any other part of runcrew."""
    code = (
        "import sys\n"
        "from runcrew.cli import main\n"
        "main(['--version'], standalone_mode=False)\n"
        "heavy = [m for m in sys.modules if m == 'asyncio' or m.startswith('runcrew.') and '.cli' not in m]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_tells_the_exit_codes(invoke: Invoke) -> None:
    """The help names every command and every exit code."""
    said = invoke("--help").stdout
    for word in ("run", "check", "demo", "0  a clean end", "1  ", "2  ", "3  ", "4  "):
        assert word in said


@pytest.mark.parametrize(
    "args", [[], ["run"], ["check"], ["nothing"], ["--log-format", "xml", "check", "a"], ["run", "a", "b"]]
)
def test_wrong_usage(invoke: Invoke, args: list[str]) -> None:
    """Wrong usage exits with 2, tells how it is meant on stderr, and prints nothing on stdout."""
    result = invoke(*args)
    assert (2, "") == (result.exit_code, result.stdout)
    assert "Usage:" in result.stderr


# --- check ---------------------------------------------------------------------------------------


@pytest.fixture
def tree(folder: Path) -> None:
    """tree.py in the current directory."""
    (folder / "tree.py").write_text(TREE)


def test_check_prints_the_tree(invoke: Invoke, tree: None) -> None:
    """Each service has a line, and below it, layer by layer, the chain of its runs."""
    result = invoke("check", "tree")
    assert (0, "") == (result.exit_code, result.stderr)
    assert [
        "shop  Crew",
        "├── migrate  OneShot, once, ready when done, on failure: stop",
        "│       thread",
        "├── serve  OneShot, once, delayed by 2s, on failure: stop, after migrate",
        "│       loop",
        "├── feeds  Supervisor, on failure: stop, after migrate, serve",
        "│   └── poll  Interval, pausing 1m, first after one interval, on failure: isolate",
        "│           loop",
        "└── poll2  Interval, every 1m 30s, on failure: restart",
        "        retry net 5x constant 2s",
        "        timeout 30s",
        "        loop",
    ] == result.stdout.splitlines()


def test_check_of_one_service(invoke: Invoke, tree: None) -> None:
    """A service without children is a tree of one line, and its chain."""
    assert ["poll  Interval, every 10s", "    loop"] == invoke("check", "tree:alone").stdout.splitlines()
    assert "empty  Crew, without children\n" == invoke("check", "tree:empty").stdout


QUEUES = """
import runcrew as rc

crew = rc.Crew("shop")
crew.queue("bare")

def connection():
    yield 1

crew.queue(
    "db", resource=connection, workers=2, max_workers=4, depends_on=["bare"], deadline="1m", timeout="2s",
    retry=rc.Retry(OSError, backoff=rc.Constant("5s")), concurrency=rc.Concurrency(3),
)
"""


def test_check_prints_queues(invoke: Invoke, tmp_path: Path) -> None:
    """A queue says who works in it and with what, and what each run goes through."""
    (tmp_path / "queues.py").write_text(QUEUES)
    assert [
        "shop  Crew",
        "├── bare  Queue, 1 worker, on failure: stop",
        "│       loop, plain ones in the threads of their workers",
        "└── db  Queue, 2 workers (at most 4), each with connection, on failure: stop, after bare",
        "        deadline 1m",
        "        retry OSError 3x constant 5s, without a worker meanwhile",
        "        concurrency 3",
        "        timeout 2s",
        "        loop, plain ones in the threads of their workers",
    ] == invoke("check", f"{tmp_path / 'queues.py'}:crew").stdout.splitlines()


POOLS = """
import runcrew as rc

crew = rc.Crew("shop", timeout="1m")
async def consume(): ...
def write(conn): ...
def connection():
    yield 1
async def factory():
    return consume

crew.pool("bare", consume)
crew.pool(
    "consumers", consume, min=2, max=20, initial=3, scale=rc.Scale(), timeout=None, depends_on=["bare"],
    middleware=[rc.Counter(), rc.per_worker(lambda: rc.Pace(every="1s"))],
    retry=rc.Retry(OSError, retries=1, backoff=rc.Constant("2s")),
)
crew.pool("writers", write, resource=connection, timeout="2s", stop_on_error=True, on_failure="restart")
crew.pool("own", job_factory=factory, min=1, max=4, timeout=None)
crew.queue("db", max_workers=8, scale=rc.Scale(), timeout=None)
"""


def test_check_prints_pools(invoke: Invoke, tmp_path: Path) -> None:
    """A pool says how many workers it has, between which limits, with what, and what each run goes through."""
    (tmp_path / "pools.py").write_text(POOLS)
    assert [
        "shop  Crew",
        "├── bare  Pool, 1 worker (0 or more), on failure: stop",
        "│       timeout 1m",
        "│       loop",
        "├── consumers  Pool, 3 workers (2 to 20), scaled by load, on failure: stop, after bare",
        "│       middleware Counter",
        "│       middleware per_worker(<lambda>)",
        "│       retry OSError 1x constant 2s",
        "│       loop",
        "├── writers  Pool, 1 worker (0 or more), each with connection, ends at the first failure, on failure: restart",
        "│       timeout 2s",
        "│       the threads of its workers",
        "├── own  Pool, 1 worker (1 to 4), each with a job of its own, on failure: stop",
        "│       loop, plain ones in the threads of their workers",
        "└── db  Queue, 1 worker (at most 8), scaled by load, on failure: stop",
        "        loop, plain ones in the threads of their workers",
    ] == invoke("check", f"{tmp_path / 'pools.py'}:crew").stdout.splitlines()


def test_check_of_a_pool_as_json(invoke: Invoke, tmp_path: Path) -> None:
    """The same words, as one JSON object."""
    (tmp_path / "pools.py").write_text(POOLS)
    found = json.loads(invoke("check", f"{tmp_path / 'pools.py'}:crew", "--json").stdout)
    assert {
        "name": "own", "kind": "Pool", "when": "1 worker (1 to 4), each with a job of its own", "depends_on": [],
        "on_failure": "stop", "chain": ["loop, plain ones in the threads of their workers"],
    } == found["children"][3]  # fmt: skip


def test_check_as_json(invoke: Invoke, tree: None) -> None:
    """The same as one JSON object."""
    found = json.loads(invoke("check", "tree", "--json").stdout)
    assert ("shop", "Crew") == (found["name"], found["kind"])
    children = {child["name"]: child for child in found["children"]}
    assert ["migrate", "serve"] == children["feeds"]["depends_on"]
    assert ["poll"] == [child["name"] for child in children["feeds"]["children"]]
    assert {
        "name": "poll2", "kind": "Interval", "when": "every 1m 30s", "depends_on": [], "on_failure": "restart",
        "chain": ["retry net 5x constant 2s", "timeout 30s", "loop"],
    } == children["poll2"]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tree:missing", "missing: 'serve' depends on 'nobody'"),
        ("tree:deep", "missing: 'serve' depends on 'nobody'"),
        ("tree:crow", "tree has no attribute 'crow'"),
        ("nowhere", "no module 'nowhere'"),
    ],
)
def test_check_refuses_what_could_not_run(invoke: Invoke, tree: None, target: str, words: str) -> None:
    """What is wrong, at whatever depth, is told on stderr, and the code is 2."""
    result = invoke("check", target)
    assert (2, "") == (result.exit_code, result.stdout)
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_circle_is_printed_from_end_to_end(invoke: Invoke, folder: Path) -> None:
    """Dependencies that go in a circle are told with the line that closed it, and with the way around."""
    (folder / "app.py").write_text(
        "import runcrew as rc\ncrew = rc.Crew('shop')\n"
        "@crew.oneshot(depends_on=['b'])\ndef a(): ...\n"
        "@crew.oneshot(depends_on=['a'])\ndef b(): ...\n"
    )
    result = invoke("check", "app")
    assert (2, "") == (result.exit_code, result.stdout)
    assert f"{folder / 'app.py'}, line 5: shop: the dependencies go in a circle: a -> b -> a" in result.stderr


def test_names_are_safe_to_look_at(invoke: Invoke, folder: Path) -> None:
    """A name with control characters is shown with escapes."""
    (folder / "app.py").write_text("import runcrew as rc\ncrew = rc.Crew('a\\x1b[2J\\nb')")
    assert "a\\x1b[2J\\nb  Crew, without children\n" == invoke("check", "app").stdout


EVIL = """
import runcrew as rc

class Mute(Exception):
    def __str__(self): raise ValueError

class Huge(Exception):
    def __str__(self): return "x\\n\x1b" * 100_000

crew = rc.Crew("a\\n\\x1b[31m", on_stopped=lambda: 1 / 0)

@crew.oneshot(name="b\\n\\x1b[31m")
async def job(): raise %s
"""


@pytest.mark.realtime
@pytest.mark.parametrize("error", ["Mute", "Huge"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_name_and_no_error_forges_a_line(invoke: Invoke, folder: Path, error: str, form: str) -> None:
    """Names and errors with line breaks and escapes, with no text or a huge one, stay in their lines, and bounded."""
    (folder / "app.py").write_text(EVIL % error)
    tree = invoke("check", "app").stdout.splitlines()
    assert [r"a\n\x1b[31m  Crew", r"└── b\n\x1b[31m  OneShot, once, on failure: stop", "        loop"] == tree
    result = invoke("--log-format", form, "run", "app")
    assert (1, "") == (result.exit_code, result.stdout)
    assert not result.exception or isinstance(result.exception, SystemExit)
    assert "\x1b" not in result.stderr
    assert 300_000 > len(result.stderr)
    lines = result.stderr.splitlines()
    if form == "json":
        assert all(json.loads(line)["level"] for line in lines)
    else:
        assert not [line for line in lines if not re.match(r"\d\d:|  |a\\n", line)], "no line begins as it likes"
        assert any(rf"  error: {error}" in line for line in lines)


# --- run ------------------------------------------------------------------------------------------


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("app", 0, ["shop stopped in", "0 hook error(s)"]),
        ("app:failing", 1, ["ValueError: no\\x1bway", "shop stopped in"]),
        ("app:hooked", 4, ["on_stopped hook hook of shop: KeyError", "1 hook error(s)"]),
        ("app:both", 1, ["ValueError", "KeyError"]),
        ("app:lost", 2, ["'good' depends on 'nobody'"]),
        ("app:crow", 2, ["no attribute 'crow'"]),
    ],
)
def test_run_exits_with_what_came_of_it(invoke: Invoke, folder: Path, target: str, code: int, words: list[str]) -> None:
    """The exit code says how it ended, and stderr has the errors and the report."""
    (folder / "app.py").write_text(RUN)
    result = invoke("run", target)
    assert code == result.exit_code
    for word in words:
        assert word in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.realtime
def test_stdout_is_the_programs_own(invoke: Invoke, folder: Path) -> None:
    """What the job prints is all that is on stdout."""
    (folder / "app.py").write_text(RUN)
    assert "data\n" == invoke("-vv", "run", "app").stdout


@pytest.mark.parametrize("grace", ["-1s", "nan", "soon", ""])
def test_a_bad_grace_starts_nothing(invoke: Invoke, folder: Path, grace: str) -> None:
    """A grace that is no span is refused before the target is loaded."""
    (folder / "app.py").write_text("print('loaded')")
    result = invoke("run", "app", "--grace", grace)
    assert (2, "") == (result.exit_code, result.stdout)
    assert f"--grace: {grace!r}" in result.stderr


@pytest.mark.realtime
@pytest.mark.parametrize(
    "args",
    [
        ["--log-format", "json", "run", "app"],
        ["run", "app", "--log-format", "json"],
        ["-v", "run", "app", "-v", "--log-format", "json"],
        ["run", "app:failing", "--log-format", "json"],
        ["run", "app:hooked", "--log-format", "json"],
    ],
)
def test_json_logs_are_json_to_the_last_line(invoke: Invoke, folder: Path, args: list[str]) -> None:
    """With JSON, each line on stderr is an object, and the last one is the report; the option may stand anywhere."""
    (folder / "app.py").write_text(RUN)
    result = invoke(*args)
    logged: list[dict[str, Any]] = [json.loads(line) for line in result.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in logged)
    assert {"message": "shop stopped", "service": "shop", "exit_code": result.exit_code}.items() <= logged[-1].items()


def test_a_refusal_is_json_too(invoke: Invoke, folder: Path) -> None:
    """A bad target is one object as well, with the traceback's part in it."""
    (folder / "app.py").write_text("1 / 0")
    line = json.loads(invoke("--log-format", "json", "run", "app").stderr)
    assert ("ERROR", 2) == (line["level"], line["exit_code"])
    assert "ZeroDivisionError" in line["detail"]


# --- demo: what it is told ----------------------------------------------------------------------


def test_the_demo_takes_what_its_program_takes(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runcrew demo` and `python watch.py` have the same options, and the same names for them."""
    seen: list[argparse.Namespace] = []

    def parse(parser: argparse.ArgumentParser, *_: Any) -> argparse.Namespace:
        seen.append(argparse.ArgumentParser.parse_known_args(parser, [])[0])
        raise InterruptedError

    program = demo.program()
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(InterruptedError):
        program.main()
    own = {p.name for p in commands.demo.params if isinstance(p, click.Parameter) and p.expose_value}
    assert set(vars(seen[0])) == own


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--for", "soon"], "--for: delay: 'soon' does not parse"),
        (["--for", "-1s"], "--for: "),
        (["--targets", "nowhere.toml"], "nowhere.toml: No such file or directory"),
        (["--db", "no/such/place.db"], "--db no/such/place.db: there is no directory"),
        (["--db", "/proc/w.db"], "--db /proc/w.db: this cannot be written (unable to open database file): give the"),
        (["http://a..b/"], "http://a..b/: this cannot be watched"),
        (["ftp://example.org/"], "ftp://example.org/: this cannot be watched"),
        (["http://"], "http://: this cannot be watched"),
    ],
)
def test_the_demo_refuses_bad_input(invoke: Invoke, args: list[str], words: str) -> None:
    """What cannot be right is refused before anything starts, with 2, the value and the remedy."""
    result = invoke("demo", *args)
    assert (2, "") == (result.exit_code, result.stdout)
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_an_installation_without_the_demo_says_so(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program is missing, the message names the places and the remedy."""
    monkeypatch.setattr(demo, "_PACKAGED", Path("here/watch.py"))
    monkeypatch.setattr(demo, "_CHECKOUT", Path("there/watch.py"))
    result = invoke("demo", "--for", "1s")
    assert 2 == result.exit_code
    assert "neither here/watch.py nor there/watch.py is there" in result.stderr
