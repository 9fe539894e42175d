"""The standard library's own tests of executors and futures, run against ours (see `suite.py` and `frozen.toml`)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
FROZEN: dict[str, Any] = tomllib.loads((HERE / "frozen.toml").read_text(encoding="utf-8"))

#: What is run side by side: most of it sleeps.
PARTS = {
    "future": [["all", "test_future"]],
    "thread": [
        ["thread", "test_thread_pool", "test_as_completed", "test_init"],
        ["thread", "test_wait", "test_shutdown"],
    ],
    "process": [
        ["process", "test_wait", "test_as_completed", "test_init"],
        ["process", "test_process_pool"],
        ["process", "test_deadlock", "test_shutdown"],
    ],
}

#: From this version on every Python that is whole ships the tests as a package; the list is frozen for this one.
VERSION = (3, 13)

pytestmark = [pytest.mark.realtime, pytest.mark.timeout(150)]


def are_here() -> bool:
    """Whether this Python ships the tests."""
    try:
        return importlib.util.find_spec("test.test_concurrent_futures.util") is not None
    except ModuleNotFoundError:
        return False


def skip_unless_here() -> None:
    """An older Python may lack them, and the report says so then."""
    if sys.version_info < VERSION and not are_here():
        pytest.skip("this Python does not ship test.test_concurrent_futures")


def test_the_standards_tests_are_here() -> None:
    """A Python that should ship the tests does, so that they are never passed over in silence."""
    skip_unless_here()
    assert are_here()


@pytest.fixture(scope="module")
def results() -> dict[str, list[dict[str, Any]]]:
    """What became of all the tests, by group."""
    skip_unless_here()
    running = {
        group: [
            subprocess.Popen([sys.executable, str(HERE / "suite.py"), *part], stdout=-1, stderr=-1, text=True)
            for part in parts
        ]
        for group, parts in PARTS.items()
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for group, processes in running.items():
        for process in processes:
            out, err = process.communicate()
            assert 0 == process.returncode, f"{process.args}\n{out}\n{err}"
            found.setdefault(group, []).append(json.loads(out.splitlines()[-1]))
    return found


def said(results: list[dict[str, Any]]) -> dict[str, str]:
    """What became of each test."""
    return {name: what for result in results for name, what in result["said"].items()}


def is_frozen(name: str) -> bool:
    """Whether it is said that this cannot apply."""
    return name in FROZEN["tests"] or name.rpartition(".")[0] in FROZEN["classes"]


each_group = pytest.mark.parametrize("group", list(PARTS))


@each_group
def test_what_applies_passes(results: dict[str, list[dict[str, Any]]], group: str) -> None:
    """Every test of the standard that is not frozen passes."""
    wrong = {name: what for name, what in said(results[group]).items() if what != "passed"}
    assert {} == {n: what for n, what in wrong.items() if not is_frozen(n) and n not in FROZEN["unsteady"]}


@each_group
def test_what_is_frozen_does_not_pass(results: dict[str, list[dict[str, Any]]], group: str) -> None:
    """No test passes of which the list says that it cannot apply."""
    assert [] == [name for name, what in said(results[group]).items() if what == "passed" and is_frozen(name)]


def test_what_is_frozen_exists(results: dict[str, list[dict[str, Any]]]) -> None:
    """The list names classes and tests that are there, each with a reason."""
    names = [name for group in results.values() for name in said(group)]
    classes = [name.rpartition(".")[0] for name in names]
    if sys.version_info[:2] == VERSION:
        assert [] == [name for name in (*FROZEN["tests"], *FROZEN["unsteady"]) if name not in names]
        assert [] == [name for name in FROZEN["classes"] if name not in classes]
    for part in ("tests", "classes", "unsteady"):
        assert all(len(reason) > 10 for reason in FROZEN[part].values())


@each_group
def test_as_many_pass_as_is_written_down(results: dict[str, list[dict[str, Any]]], group: str) -> None:
    """The tests do not become fewer without anybody's saying so."""
    if sys.version_info[:2] < VERSION:
        pytest.skip("the number is that of another version")
    passed = [name for name, what in said(results[group]).items() if what == "passed"]
    assert FROZEN["passed"][group] <= len([name for name in passed if name not in FROZEN["unsteady"]])


@each_group
def test_nothing_is_left_behind(results: dict[str, list[dict[str, Any]]], group: str) -> None:
    """After the tests no thread and no process is left, and the standard's own look-out has seen none."""
    assert [] == [thread for result in results[group] for thread in result["left"]]
    assert [False] * len(results[group]) == [result["altered"] for result in results[group]]


Check = Callable[[dict[str, list[dict[str, Any]]], str], None]


@pytest.mark.parametrize(
    ("check", "name", "what"),
    [
        (test_what_applies_passes, "test_wait.ThreadPoolWaitTests.test_timeout", "failed\nno"),
        (test_what_is_frozen_does_not_pass, next(iter(FROZEN["tests"])), "passed"),
        (test_what_is_frozen_does_not_pass, f"{next(iter(FROZEN['classes']))}.test_any", "passed"),
        (test_as_many_pass_as_is_written_down, "test_wait.ThreadPoolWaitTests.test_timeout", "passed"),
        (test_nothing_is_left_behind, "test_wait.ThreadPoolWaitTests.test_timeout", "passed"),
    ],
)
def test_a_breach_is_found(check: Check, name: str, what: str) -> None:
    """Each of these checks sees a planted breach."""
    planted = {"thread": [{"said": {name: what}, "altered": True, "left": ["runcrew-1"]}]}
    if check is test_as_many_pass_as_is_written_down and sys.version_info[:2] < VERSION:
        return
    with pytest.raises(AssertionError):
        check(planted, "thread")
