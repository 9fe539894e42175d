"""TARGET: what can be named, and what is said where it cannot be found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import runcrew as rc
from runcrew.cli.target import Target, TargetError, load

CREW = """
import runcrew as rc

crew = rc.Crew("shop")

@crew.interval("10s")
async def poll():
    pass

class Holder:
    inner = crew

def make():
    return rc.Crew("made")

number = 7
"""


@pytest.fixture
def shop(folder: Path) -> Path:
    """A directory with shop.py and pkg/mod.py in it, the current one."""
    (folder / "shop.py").write_text(CREW)
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "mod.py").write_text(CREW)
    return folder


def refusal(text: str) -> TargetError:
    """What is said about a target that cannot be used."""
    with pytest.raises(TargetError) as caught:
        load(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "where", "attr"),
    [
        ("shop", "shop", "crew"),
        ("shop:app", "shop", "app"),
        ("pkg.mod:a.b", "pkg.mod", "a.b"),
        ("shop.py", "shop.py", "crew"),
        ("./a/b.py:app", "./a/b.py", "app"),
        ("a:b/c.py", "a:b/c.py", "crew"),
        ("a:b/c.py:app", "a:b/c.py", "app"),
    ],
)
def test_both_forms_are_understood(text: str, where: str, attr: str) -> None:
    """A module or a file, and an attribute that may be dotted or left out."""
    assert Target(where, attr) == Target.parse(text)


@pytest.mark.parametrize("text", ["", ":", "shop:", ":crew", "shop.py:", "a b:c", "shop:1x", "shop:a..b", "shop:a()"])
def test_what_is_no_target_is_refused(text: str) -> None:
    """What is neither form is refused, with the value and an example of what is right."""
    with pytest.raises(TargetError, match=r"module:attr or path/file\.py:attr") as caught:
        Target.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["shop", "shop:crew", "shop:Holder.inner", "shop.py", "./shop.py:crew", "pkg.mod:crew", "pkg/mod.py:crew"]
)
def test_a_crew_is_found(shop: Path, text: str) -> None:
    """A crew is found by module and by file, and its module is imported once."""
    crew = load(text)
    assert isinstance(crew, rc.Crew)
    assert "shop" == crew.name
    assert "poll" in crew
    assert crew is load(text)


def test_a_function_makes_one(shop: Path) -> None:
    """A callable without arguments is called, and what it gives is the service."""
    assert "made" == load("shop:make").name


def test_a_file_imports_its_neighbours(folder: Path) -> None:
    """A file's own directory is importable, as with `python file.py`, and so is the current one."""
    (folder / "sub").mkdir()
    (folder / "here.py").write_text("name = 'here'")
    (folder / "sub" / "beside.py").write_text("from here import name")
    (folder / "sub" / "app.py").write_text("import beside, runcrew as rc\ncrew = rc.Crew(beside.name)")
    assert "here" == load("sub/app.py").name


@pytest.mark.parametrize("name", ["json", "queue", "two words", "a-b"])
def test_a_file_takes_nobodys_place(folder: Path, name: str) -> None:
    """A file with the name of a module of Python, or with no name for a module, is loaded under another."""
    (folder / f"{name}.py").write_text("import runcrew as rc\ncrew = rc.Crew('x')")
    before = sys.modules.get(name)
    assert "x" == load(f"{name}.py").name
    assert before is sys.modules.get(name)


def test_a_users_own_service_is_put_into_a_supervisor(folder: Path) -> None:
    """Any class with start, stop and wait can be run."""
    (folder / "own.py").write_text(
        "class Server:\n"
        "    async def start(self): ...\n"
        "    async def stop(self, timeout=30): ...\n"
        "    async def wait(self): ...\n"
        "crew = Server()\n"
    )
    assert ["Server"] == list(load("own"))  # type: ignore[call-overload]


# --- what is said where it cannot be found ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shp:crew", ["no module 'shp'", "there is shop"]),
        ("nowhere:crew", ["no module 'nowhere'", "path/file.py:attr"]),
        ("pkg.mdo:crew", ["no module 'pkg.mdo'", "there is pkg.mod"]),
        ("shop.crew", ["no module 'shop.crew'", "did you mean shop:crew?"]),
        ("shpo.py:crew", ["shpo.py does not exist", "there is shop.py"]),
        ("pgk/mod.py:crew", ["pgk/mod.py does not exist", "there is pkg"]),
        ("./pkg:crew", ["pkg is a directory", "pkg/mod.py"]),
        ("shop:crow", ["shop has no attribute 'crow'", "is it crew?"]),
        ("shop:zzz", ["shop has no attribute 'zzz'", "what can be run there: crew"]),
        ("shop:Holder.iner", ["shop:Holder has no attribute 'iner'", "is it inner?"]),
        ("shop.py:Holder.zzz", ["shop.py:Holder has no attribute 'zzz'", "inner"]),
        ("shop:number", ["shop:number is 7 (int)", "a Crew"]),
        ("shop:number.real", ["is 7 (int)"]),
        ("pkg:crew", ["pkg has no attribute 'crew'", "nothing that can be run"]),
    ],
)
def test_the_message_names_the_value_and_what_there_is(shop: Path, text: str, words: list[str]) -> None:
    """Whatever cannot be found is named, with the nearest that there is, or with the remedy."""
    said = str(refusal(text))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def crew(a): ...", ["cannot be called without arguments", "'a'"]),
        ("async def crew(): ...", ["is an async function", "a plain one"]),
        ("def crew(): ...", ["is None (NoneType)"]),
        ("def crew(): return lambda: 0", ["<lambda>", "(function)"]),
    ],
)
def test_a_function_that_makes_no_service_is_refused(folder: Path, source: str, words: list[str]) -> None:
    """A function that needs arguments, is async, or gives something else is refused, and told which."""
    (folder / "app.py").write_text(source)
    said = str(refusal("app"))
    for word in words:
        assert word in said


# --- when the user's module raises ---------------------------------------------------------------


@pytest.mark.parametrize("text", ["app", "app.py"])
def test_what_a_module_raises_is_shown_where_it_happened(folder: Path, text: str) -> None:
    """The traceback shows the user's lines, and neither ours nor those of the import machinery."""
    (folder / "app.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    error = refusal(text)
    assert f"{text} raised ZeroDivisionError when it was imported" == str(error)
    assert ["line 4", "line 2"] == [w.split(", ")[1] for w in error.detail.splitlines() if "File" in w]
    assert error.detail.endswith("ZeroDivisionError: division by zero")
    assert "importlib" not in error.detail
    assert "app" not in sys.modules


def test_causes_are_shown_without_our_frames_too(folder: Path) -> None:
    """An error's cause, and the members of a group, are stripped in the same way."""
    (folder / "app.py").write_text(
        "import runcrew as rc\n"
        "try:\n    rc.Interval(print, -1)\n"
        "except ValueError as e:\n    raise ExceptionGroup('two', [e, KeyError(1)]) from e\n"
    )
    detail = refusal("app").detail
    assert "-1" in detail
    assert "runcrew/durations.py" not in detail


def test_a_missing_import_of_the_module_is_no_missing_module(folder: Path) -> None:
    """Where the module itself imports what is not there, that is shown, with the line."""
    (folder / "app.py").write_text("import not_there_at_all\n")
    error = refusal("app")
    assert "app raised ModuleNotFoundError" in str(error)
    assert "app.py" in error.detail
    assert "not_there_at_all" in error.detail


def test_a_syntax_error_is_shown_with_its_line(folder: Path) -> None:
    """A file that does not parse is shown with the line and the place in it."""
    (folder / "app.py").write_text("x = 1\ndef (\n")
    error = refusal("app.py")
    assert "app.py raised SyntaxError" in str(error)
    assert "line 2" in error.detail
    assert "def (" in error.detail


def test_a_bad_value_is_told_with_its_line(folder: Path) -> None:
    """A ConfigError is told in one line: where in the user's file, what, and the remedy."""
    (folder / "app.py").write_text("import runcrew as rc\n\ncrew = rc.Crew('x')\n@crew.interval('0s')\ndef f(): ...\n")
    said = str(refusal("app.py"))
    assert f"{folder / 'app.py'}, line 4: every: '0s' is zero" in said


def test_a_module_that_exits_is_told_how_to_be(folder: Path) -> None:
    """sys.exit on import ends nothing, and the remedy is named."""
    (folder / "app.py").write_text("import sys\nsys.exit(5)\n")
    assert 'called sys.exit(5) when it was imported: put what runs under if __name__ == "__main__":' in str(
        refusal("app")
    )


def test_control_characters_in_a_traceback_are_shown(folder: Path) -> None:
    """What a module raises cannot write to the terminal but as text."""
    (folder / "app.py").write_text("raise ValueError('a\\x1b[2J')")
    assert r"ValueError: a\x1b[2J" in refusal("app").detail


def test_the_keyboard_is_heard_during_an_import(folder: Path) -> None:
    """A KeyboardInterrupt passes through."""
    (folder / "app.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load("app")
