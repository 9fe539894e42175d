"""The page about testing: its examples are tests, and pass as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runcrew.testing import BackendContract  # before pytester: what is imported first inside is forgotten after it

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_examples_pass_under_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples of the page in one file are a green test module, run by the plugin alone."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    pytester.makepyfile("\n".join(examples))
    done = pytester.runpytest("-W", "error", "-p", "runcrew.testing.plugin").parseoutcomes()
    assert ["passed"] == list(done)
    assert 55 + len(names_in(BackendContract)) < done["passed"]  # most of the suite's tests have many cases


def names_in(suite: type) -> list[str]:
    """The names of the tests in a class."""
    return [name for name in dir(suite) if name.startswith("test_")]
