"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "runcrew"
SOURCES = sorted(SRC.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

Rule: TypeAlias = Callable[[Path], Iterator[str]]


def where(path: Path, node: ast.AST) -> str:
    """A place as editors and terminals understand it."""
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{getattr(node, 'lineno', 1)}"


def nodes(path: Path) -> Iterator[ast.AST]:
    """All there is in a file."""
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def dotted(node: ast.AST) -> str:
    """`a.b.c` as it is written; empty for what is no such name."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value)}.{attr}"
        case _:
            return ""


# --- what may not be used ------------------------------------------------------------


def wait_for(path: Path) -> Iterator[str]:
    """`asyncio.wait_for`: it loses results and cancellations; `asyncio.timeout` and `asyncio.wait` do not."""
    for node in nodes(path):
        named = isinstance(node, ast.ImportFrom) and any(a.name == "wait_for" for a in node.names)
        if named or (isinstance(node, ast.Attribute) and node.attr == "wait_for" and dotted(node.value) == "asyncio"):
            yield f"{where(path, node)}: asyncio.wait_for"


def own_time(path: Path) -> Iterator[str]:
    """Time and chance read anywhere but in clock.py: a virtual clock could not reach it."""
    if path.name == "clock.py":
        return
    kept = (
        ("time", "secrets") if "testing" in path.parts else ("time", "random", "secrets")
    )  # tests choose their chance
    for node in nodes(path):
        match node:
            case ast.Import(names=names):
                found = [a.name for a in names if a.name in kept]
            case ast.ImportFrom(module=str(module), level=0) if module in kept:
                found = [module]
            case ast.Attribute(attr="now" | "utcnow" | "today") if dotted(node.value).endswith(("datetime", "date")):
                found = [dotted(node)]
            case _:
                continue
        yield from (f"{where(path, node)}: {name} outside clock.py" for name in found)


def unordered(path: Path) -> Iterator[str]:
    """Sets made at run time: their order differs from run to run, and somebody will iterate over it one day."""
    every = list(nodes(path))  # kept, so that a node can be told by its identity
    allowed: list[ast.AST] = []
    for node in every:
        match node:
            case ast.Compare(comparators=[ast.Set() as right]):  # x in {…}
                allowed.append(right)
            case ast.Call(func=ast.Name(id="frozenset"), args=[ast.Set() as argument]):
                allowed.append(argument)
            case _:
                pass
    for node in every:
        made = isinstance(node, ast.Set | ast.SetComp) and not any(node is other for other in allowed)
        if made or (isinstance(node, ast.Call) and dotted(node.func) in ("set", "WeakSet", "weakref.WeakSet")):
            yield f"{where(path, node)}: a set (a dict keeps its order)"


def prints(path: Path) -> Iterator[str]:
    """`print` outside the command line: a library says what it has to say by logging and events."""
    if "cli" in path.parts:
        return
    for node in nodes(path):
        if isinstance(node, ast.Call) and dotted(node.func) == "print":
            yield f"{where(path, node)}: print"


def configured_logging(path: Path) -> Iterator[str]:
    """Logging set up by anything but the command line: that is the application's. (And in processes of our own.)"""
    if "cli" in path.parts or path.parts[-2:] == ("processes", "logs.py"):
        return
    for node in nodes(path):
        last = dotted(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if last in ("basicConfig", "dictConfig", "fileConfig", "addHandler", "setLevel"):
            yield f"{where(path, node)}: {last}"


def too_long(path: Path) -> Iterator[str]:
    """A file that has started to collect."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > 500:
        yield f"{where(path, ast.Pass())}: {lines} lines, of 500 at most"


def undocumented(path: Path) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring."""

    def look(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            marks = {dotted(d.func if isinstance(d, ast.Call) else d).split(".")[-1] for d in child.decorator_list}
            if child.name.startswith("_") or marks & {"overload", "setter", "override"}:
                continue
            if ast.get_docstring(child) is None:
                yield f"{where(path, child)}: {prefix}{child.name} has no docstring"
            if isinstance(child, ast.ClassDef):
                yield from look(child, f"{child.name}.")

    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body and ast.get_docstring(tree) is None:
        yield f"{where(path, tree)}: the module has no docstring"
    yield from look(tree, "")


RULES = (wait_for, own_time, unordered, prints, configured_logging, too_long, undocumented)


@pytest.mark.parametrize("rule", RULES)
def test_the_library_keeps_the_rule(rule: Rule) -> None:
    """No file of the library breaks a rule of the house."""
    assert [] == [breach for path in SOURCES for breach in rule(path)]


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (wait_for, "asyncio.wait_for(x, 1)"),
        (wait_for, "from asyncio import wait_for"),
        (own_time, "import time"),
        (own_time, "from random import uniform"),
        (own_time, "datetime.datetime.now(UTC)"),
        (unordered, "tasks = set()"),
        (unordered, "tasks = {1, 2}"),
        (unordered, "tasks = weakref.WeakSet()"),
        (unordered, "tasks = {t for t in x}"),
        (prints, "print('hello')"),
        (configured_logging, "logging.basicConfig()"),
        (too_long, "x = 1\n" * 501),
        (undocumented, "x = 1"),
        (undocumented, "'''A.'''\ndef f(): ..."),
        (undocumented, "'''A.'''\nclass A:\n    '''A.'''\n    def f(self): ..."),
    ],
)
def test_a_breach_is_found(tmp_path: Path, rule: Rule, source: str) -> None:
    """Each rule sees a planted breach."""
    path = tmp_path / "some.py"
    path.write_text(source)
    assert 1 == len(list(rule(path)))


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (wait_for, "await asyncio.wait([task], timeout=1)"),
        (own_time, "clock.current().now()"),
        (unordered, "if x in {1, 2}: pass"),
        (unordered, "A = frozenset({1, 2})"),
        (unordered, "event.set()"),
        (undocumented, "'''A.'''\ndef _f(): ...\n@overload\ndef f(): ..."),
    ],
)
def test_what_is_allowed_is_let_through(tmp_path: Path, rule: Rule, source: str) -> None:
    """No rule refuses what it means to allow."""
    path = tmp_path / "some.py"
    path.write_text(source)
    assert [] == list(rule(path))


# --- what the library needs ------------------------------------------------------------


def third_party() -> list[str]:
    """The packages that the library imports and neither ships nor finds in the language, but for its test tools."""
    found: dict[str, None] = {}
    for path in SOURCES:
        for node in nodes(path) if "testing" not in path.parts else ():
            match node:
                case ast.Import(names=names):
                    roots = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    roots = [module]
                case _:
                    continue
            found |= dict.fromkeys(root.split(".")[0] for root in roots)
    return sorted(name for name in found if name != "runcrew" and name not in sys.stdlib_module_names)


@pytest.mark.defect("D3.21")
def test_the_library_needs_what_it_says() -> None:
    """The one dependency that is declared is the one package that is imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ["click"] == [re.split(r"[<>=~! ]", need)[0] for need in project["dependencies"]]
    assert ["click"] == third_party()


# --- tests say what should be true -------------------------------------------------


def speechless(path: Path) -> Iterator[str]:
    """Test functions that do not begin with one sentence."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            said = ast.get_docstring(node) or ""
            if not re.fullmatch(r"[^\n]+(\n[^\n]+)*\.", said) or re.search(r"[.!?] [A-Z]", said.replace("\n", " ")):
                yield f"{where(path, node)}: {node.name} should begin with one sentence of what should be true"


def test_every_test_says_what_should_be_true() -> None:
    """Each test function has a docstring of one sentence."""
    assert [] == [breach for path in TESTS for breach in speechless(path)]


# --- the project speaks of the project alone -------------------------------------------

#: What belongs to a workplace: places on somebody's machine, its registries, its issue tracker, who wrote it.
FOREIGN = re.compile(
    r"(?<![\w.])/(root|work|home|Users)/\w"
    r"|\b[Ii]ssues? (no\.? ?)?#?\d"
    r"|(?<![-\w])#\d+\b(?!;)"
    r"|\b(coding|AI|sub-?)[- ]?(agent|assistant|session)s?\b"
    r"|\bindex-url\b|\bfind-links\b"
)
#: A page named with capitals, as project pages are: it has to be one of ours.
PAGE = re.compile(r"\b[A-Z]{4,}\.md\b")
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".sh", ".cfg", ""}


def tracked() -> list[Path]:
    """The files of the project: what git would commit, or everything that lies in its folders."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # an unpacked sdist
        folders = (ROOT / name for name in ("src", "tests", "docs", "examples", "benchmarks"))
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def foreign(text: str) -> list[str]:
    """What in `text` does not belong into the project."""
    pages = [page for page in PAGE.findall(text) if not (ROOT / page).exists()]
    return [match.group() for match in FOREIGN.finditer(text)] + pages


def test_the_project_speaks_of_the_project_alone() -> None:
    """No file names a place, a page or a number that a reader of the project could not find."""
    files = [p for p in tracked() if p.suffix in TEXT and p != Path(__file__)]
    assert 10 < len(files)
    found = {str(p.relative_to(ROOT)): foreign(p.read_text(encoding="utf-8")) for p in files}
    assert {} == {name: words for name, words in found.items() if words}


@pytest.mark.parametrize("text", ["see /home/me/x", "closes #12", "issue 3", "an AI agent", "by NOSUCHPAGE.md"])
def test_a_foreign_word_is_found(text: str) -> None:
    """What a reader could not find is seen."""
    assert 1 == len(foreign(text))


@pytest.mark.parametrize("text", ["user-agent", "see CHANGELOG.md", "#: the field", "the home/page", "color #fff"])
def test_an_ordinary_word_is_let_through(text: str) -> None:
    """Ordinary words stay allowed."""
    assert [] == foreign(text)
