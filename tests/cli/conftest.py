"""What the tests of the command line share."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runcrew.cli import main

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """After a test, modules, the path to look for them, the set-up of logging and signals are what they were."""
    root, own = logging.getLogger(), logging.getLogger("runcrew")
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    modules, path = dict(sys.modules), list(sys.path)
    handlers, level, own_level = list(root.handlers), root.level, own.level
    yield
    for name in [name for name in sys.modules if name not in modules]:
        if not name.startswith("runcrew."):
            del sys.modules[name]
    for number, handler in signals.items():
        signal.signal(number, handler)
    sys.path[:] = path
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, in which nothing is importable from where the tests lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return tmp_path


@pytest.fixture
def invoke(folder: Path) -> Invoke:
    """Call the command line in the empty directory; `.stdout` and `.stderr` apart."""
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args], prog_name="runcrew")
