"""The house is built in lines: a part imports only from the lines above its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "runcrew"

#: The order of `docs/design.md`, top line first. `__init__`, the page of public names, stands below all but the faces.
LINES = """
errors
durations
clock
events
pause
job
abc
insight
backends
lifecycle
stores
policies
workers
supervise schedule reconcile pool queue
crew config program
__init__
cli web testing contrib
"""
LINE = {part: number for number, line in enumerate(LINES.split("\n")) for part in line.split()}


def imports(tree: ast.AST, package: str, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that this one imports when it runs, inside functions too; not those for types alone."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise):
                for child in otherwise:
                    yield from imports(child, package, modules)
            case ast.Import(names=names):
                yield from (a.name for a in names if a.name.split(".")[0] == "runcrew")
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - level + 1], *([module] if module else [])]
                )
                base = base if level else module or ""
                if base.split(".")[0] == "runcrew":
                    yield from (full if (full := f"{base}.{a.name}") in modules else base for a in names)
            case _:
                yield from imports(node, package, modules)


def graph(root: Path) -> dict[str, set[str]]:
    """Which module of the package at `root` imports which others."""
    paths = {".".join(p.relative_to(root.parent).with_suffix("").parts): p for p in sorted(root.rglob("*.py"))}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    return {
        name: set(imports(ast.parse(p.read_text()), name if p.stem == "__init__" else name.rpartition(".")[0], modules))
        for name, p in modules.items()
    }


def wrong_arrows(arrows: dict[str, set[str]]) -> list[str]:
    """Each import that goes up, to a neighbour on the same line, or to a part that has no line."""
    part = {m: [*m.split("."), "__init__"][1] for m in {*arrows, *(t for targets in arrows.values() for t in targets)}}
    return sorted(
        f"{source} imports {target}"
        for source, targets in arrows.items()
        for target in targets
        if part[source] not in ("__init__", "testing", part[target])  # these two may import anything
        and LINE.get(part[target], 99) >= LINE.get(part[source], -1)
    )


def test_no_arrow_goes_up_or_to_a_neighbour() -> None:
    """Every part imports only from the lines above its own."""
    assert [] == wrong_arrows(graph(SRC))


def test_every_part_has_a_line() -> None:
    """Every module and package directly under the root is named in the drawing."""
    assert [] == sorted({m.split(".")[1] for m in graph(SRC) if "." in m} - LINE.keys())


def test_no_cycle() -> None:
    """No module imports itself by way of others, also within one part."""
    TopologicalSorter(graph(SRC)).prepare()


def test_nothing_imports_testing() -> None:
    """The test tools are for tests: nothing of the library needs them."""
    within = ("runcrew.testing",)
    assert [] == [
        m
        for m, targets in graph(SRC).items()
        if not m.startswith(within) and any(t.startswith(within) for t in targets)
    ]


@pytest.mark.parametrize(
    ("module", "line", "wrong"),
    [
        ("job.py", "from runcrew.abc import Handler", ["runcrew.job imports runcrew.abc"]),
        ("job.py", "def f():\n    from runcrew import abc", ["runcrew.job imports runcrew.abc"]),
        ("pool.py", "from .queue import Queue", ["runcrew.pool imports runcrew.queue"]),
        ("pool.py", "import runcrew", ["runcrew.pool imports runcrew"]),
        ("pool.py", "import runcrew.crew", ["runcrew.pool imports runcrew.crew"]),
        ("pool.py", "from runcrew.job import Run", []),
        ("job.py", "if TYPE_CHECKING:\n    from runcrew.abc import Handler", []),
        ("cli.py", "import runcrew as rc", []),
        ("testing.py", "from runcrew.cli import main", []),
    ],
)
def test_the_drawing_sees_what_it_should(tmp_path: Path, module: str, line: str, wrong: list[str]) -> None:
    """A planted import that goes the wrong way is found, however it is written."""
    root = tmp_path / "runcrew"
    root.mkdir()
    for name in ("__init__", "job", "abc", "pool", "queue", "crew", "cli", "testing"):
        (root / f"{name}.py").write_text("")
    (root / module).write_text(line)
    assert wrong == wrong_arrows(graph(root))
