"""README and documentation: what they show runs, what they name exists."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import runcrew as rc
from runcrew.testing import run_virtual

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language, each with its line numbers kept by empty lines before it.

    A block that cannot be run by itself says so and why, in a comment on the line before: `<!-- not run: … -->`.
    """
    text = page.read_text(encoding="utf-8")
    fence = re.compile(rf"^(<!-- not run: [^\n]+ -->\n)?```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return ["\n" * text[: m.start(2)].count("\n") + m.group(2) for m in fence.finditer(text) if not m.group(1)]


def run_blocks(page: Path) -> dict[str, Any]:
    """Run a page's blocks one after another in one namespace, on virtual time where they await at top level."""
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        code = compile(block, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:

            async def awaited(code: Any = code) -> None:
                await eval(code, names)

            run_virtual(awaited)
        else:
            exec(code, names)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of a page runs as it stands, and the tests that it shows pass."""
    monkeypatch.chdir(tmp_path)
    names = run_blocks(page)
    for name, test in names.items():
        if name.startswith("test_") and not inspect.signature(test).parameters:
            run_virtual(test) if inspect.iscoroutinefunction(test) else test()


def test_the_readme_crew_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest example migrates once, polls every ten seconds and sweeps every hour."""
    names = run_blocks(README)
    crew: rc.Crew = names["crew"]

    async def an_hour() -> None:
        async with crew:
            await asyncio.sleep(3601)

    run_virtual(an_hour)
    said = capsys.readouterr().out.splitlines()
    assert 1 == said.count("the schema is up to date")
    assert 361 == said.count("polled, attempt 1")
    assert 2 == said.count("swept")

    run_virtual(names["main"])
    assert "the value of answer\n" == capsys.readouterr().out
    run_virtual(names["ask"])
    assert "Ada\nsucceeded\n" == capsys.readouterr().out


#: What a program does with what docs/processes.md shows.
USE = """
async def use():
    async with labels, careful:
        print(await labels.run(label, "cat"), await careful.run(crawl, ["a page"] * 3))

if __name__ == "__main__":
    asyncio.run(use())
"""


@pytest.mark.realtime
def test_what_is_shown_of_processes_is_a_program(tmp_path: Path) -> None:
    """The blocks of the page, one after the other in one file, run as a program whose jobs its processes find."""
    text = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "program.py").write_text("\n\n".join([*shown, USE]), encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (0, "") == (done.returncode, done.stderr)
    *keys, used = done.stdout.splitlines()
    assert [64] * 4 == [len(key) for key in keys]
    assert "CAT 3" == used


@pytest.mark.realtime
def test_the_readme_crew_passes_the_check(tmp_path: Path) -> None:
    """`runcrew check orders.py:crew` prints the tree of the smallest example and runs nothing of it."""
    (tmp_path / "orders.py").write_text(blocks(README, "python")[0], encoding="utf-8")
    command = [sys.executable, "-m", "runcrew.cli", "check", "orders.py:crew"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for name in ("orders", "migrate", "poll", "sweep"):
        assert name in done.stdout
    assert "polled" not in done.stdout


def test_the_two_commands() -> None:
    """The first two sh blocks of the README are single commands, each with all of its own set-up."""
    demo, tests = (block.strip() for block in blocks(README, "sh")[:2])
    for line in (demo, tests):
        assert 1 == len(line.splitlines())
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert demo.endswith(".venv/bin/runcrew demo --for 10s")
    assert tests.endswith(".venv/bin/pytest")


def test_ci_runs_what_the_readme_says() -> None:
    """The CI script takes both commands from the README and has no copy of its own."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert '-c "$(readme_block 1)"' in script
    assert '-c "$(readme_block 2)"' in script
    assert "demo --for 10s" not in script


def test_the_ci_script_reads_the_blocks() -> None:
    """What the CI script takes for block 1 and 2 is what stands in the README."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    reader = script[script.index("readme_block() {") :].split("\n}\n")[0] + "\n}\n"
    for number, block in enumerate(blocks(README, "sh")[:2], 1):
        command = ["bash", "-euo", "pipefail", "-c", f"{reader}readme_block {number}"]
        got = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert block.strip() == got.strip()


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file that is there."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [] == [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_public_names_in_pages_exist(page: Path) -> None:
    """A page names no `rc.something` that is not there."""
    named = re.findall(r"\brc\.([A-Za-z_]+)", page.read_text(encoding="utf-8"))
    assert [] == sorted({name for name in named if not hasattr(rc, name)})


def test_the_readme_table_names_what_exists() -> None:
    """Each public name in the README's table of what there is resolves."""
    table = README.read_text(encoding="utf-8").split("## What there is")[1].split("\n\nPlanned")[0]
    named = re.findall(r"`([A-Za-z_]+)(?:\(\))?`", table)
    elsewhere = ("runcrew", "run", "check", "demo", "depends_on")
    assert [] == [name for name in named if name not in elsewhere and not hasattr(rc, name)]


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    """The changelog begins with what is not released yet."""
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert "[Unreleased]" == sections[0]


def test_every_difference_has_a_reason() -> None:
    """Each row of the parity page says what the original does, what runcrew does, and why, once."""
    text = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    ids = [row[0] for row in rows if row[0] != "id"]
    assert [] == [row for row in rows if len(row) != 4 or not all(row)]
    assert [] == [name for name in ids if not re.fullmatch(r"[TED][1-5]\.\d+", name)]
    assert len(ids) == len(set(ids))


def test_parity_markers_carry_ids() -> None:
    """Every parity and defect marker in the tests names rows by ids of the known form."""
    wrong: list[str] = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("parity", "defect")
            ):
                letter = "D" if node.func.attr == "defect" else "TE"
                ids = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
                if not ids or not all(re.fullmatch(rf"[{letter}][1-5]\.\d+", str(name)) for name in ids):
                    wrong.append(f"{path.name}:{node.lineno} {ids}")
    assert [] == wrong


def test_the_type_file_type_checks() -> None:
    """The file of public types can at least be imported by the interpreter that runs it."""
    path = ROOT / "tests" / "typing" / "api.py"
    subprocess.run([sys.executable, "-W", "error", str(path)], check=True)
