"""The page of public names: `runcrew/__init__.py`."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import runcrew
from runcrew import errors

PAGE = Path(runcrew.__file__)


def lazy_table() -> dict[str, str]:
    """Name to module, as the page says."""
    return {name: module for module, names in runcrew._HOMES.items() for name in names.split()}


def typed_table() -> dict[str, str]:
    """Name to module, as the imports for type checkers say."""
    return {
        alias.asname or alias.name: str(node.module)
        for node in ast.walk(ast.parse(PAGE.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("runcrew.")
        for alias in node.names
    }


def loaded_by(statement: str) -> list[str]:
    """The modules that a fresh interpreter has after `statement` and had not before."""
    code = f"import sys; had = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - had))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("name", runcrew.__all__)
def test_every_name_is_there(name: str) -> None:
    """Each public name resolves, and stays the same object."""
    assert getattr(runcrew, name) is getattr(runcrew, name)


def test_the_three_lists_agree() -> None:
    """Type checkers, the interpreter and `__all__` are told the same names in the same places."""
    assert typed_table() == lazy_table()
    assert sorted(runcrew.__all__) == sorted(lazy_table())
    assert len(runcrew.__all__) == len(set(runcrew.__all__))


def test_no_module_hides_a_public_name() -> None:
    """No module directly under the root has a public name: importing it would put the module in the name's place."""
    modules = {path.stem for path in PAGE.parent.iterdir()}
    assert [] == sorted(modules & set(runcrew.__all__))


def test_dir_shows_the_public_names() -> None:
    """`dir(runcrew)` lists what is public before anything of it was used."""
    assert [] == sorted(set(runcrew.__all__) - set(dir(runcrew)))


def test_an_unknown_name_is_refused() -> None:
    """A name that is not there is an AttributeError that says so."""
    with pytest.raises(AttributeError, match="'runcrew' has no attribute 'Nonsense'"):
        runcrew.Nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_every_error_is_public() -> None:
    """Every error that runcrew raises can be caught by a public name."""
    tree = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.RuncrewError)
    ]
    assert [] == sorted(set(tree) - set(runcrew.__all__))


def test_errors_are_drawn() -> None:
    """The tree at the top of errors.py names each error and its public bases."""
    drawing = str(errors.__doc__)
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.RuncrewError):
            line = next(line for line in drawing.split("\n") if name in line.replace("(", " ").split())
            built_in = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"]
            assert built_in in (["Exception"], [base for base in built_in if f"({base})" in line]), line


def test_importing_loads_nothing_else() -> None:
    """`import runcrew` brings one module of ours and nothing beyond the language."""
    ours = loaded_by("import typing, runcrew")
    assert ["runcrew"] == [name for name in ours if name.startswith("runcrew")]
    assert [] == sorted(set(ours) - set(loaded_by("import typing, __future__")) - {"runcrew"})


HEAVY = (
    "click",
    "concurrent.futures.process",
    "email",
    "http",
    "httpx",
    "importlib.metadata",
    "logging.config",
    "multiprocessing",
    "opentelemetry",
    "pytest",
    "sqlite3",
    "starlette",
    "uvicorn",
    "uvloop",
)


def test_using_everything_loads_no_face() -> None:
    """All public names together bring no CLI, web, process, database or telemetry package."""
    every = loaded_by("import asyncio, runcrew; [getattr(runcrew, name) for name in runcrew.__all__]")
    beyond = set(every) - set(loaded_by("import asyncio"))
    assert [] == sorted(name for name in beyond if name.startswith(HEAVY) or name.startswith("runcrew.testing"))
