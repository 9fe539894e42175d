"""TARGET on the command line: `module:attr` or `path/file.py:attr`, turned into a service.

The attribute may be dotted, and is `crew` where none is given. It is a Crew, any other Service, or a callable
without arguments that makes one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from runcrew.abc import Service
from runcrew.cli.fault import user_part, user_place
from runcrew.cli.safe import safe
from runcrew.errors import ConfigError
from runcrew.lifecycle import BaseService
from runcrew.supervise import Supervisor

DEFAULT: Final = "crew"


class TargetError(ConfigError):
    """The target cannot be used. `detail` has the part of a traceback that tells why, if there is one."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Target:
    """What TARGET says: where to look (a module's name or a file's path), and for what."""

    where: str
    attr: str

    @property
    def is_file(self) -> bool:
        """Whether it names a file rather than a module."""
        return self.where.endswith(".py") or os.sep in self.where or "/" in self.where

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises TargetError for what is neither form."""
        where, colon, attr = text.rpartition(":")
        if not colon or "/" in attr:  # a colon in a directory's name
            where, attr = text, DEFAULT
        target = cls(where, attr)
        names = [attr] if target.is_file else [where, attr]
        if not where or not all(part.isidentifier() for name in names for part in name.split(".")):
            raise TargetError(f"{text!r} is no target: write module:attr or path/file.py:attr, such as orders:crew")
        return target


def load(text: str) -> BaseService:
    """The service that TARGET names. Its module is imported, nothing is started.

    The current directory is importable, and a file's own directory as well. Raises TargetError, which names
    what is wrong and what there is instead; a KeyboardInterrupt passes.
    """
    target = Target.parse(text)
    _importable(os.getcwd())
    module = _load_file(Path(target.where)) if target.is_file else _load_module(target.where)
    return _service(text, _find(module, target))


def load_file(path: Path) -> ModuleType:
    """The module in a file, imported as `python file.py` would: with its own directory first to import from."""
    return _load_file(path)


# --- the module ---------------------------------------------------------------------------


def _importable(directory: str) -> None:
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _load_file(path: Path) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "does not exist"
        raise TargetError(f"{_short(path)} {what}{_files_near(path)}")
    _importable(str(path.parent))
    name = path.stem
    present = sys.modules.get(name)
    if present is not None and getattr(present, "__file__", None) == str(path):
        return present
    if present is not None or name in sys.stdlib_module_names or not name.isidentifier():
        name = f"runcrew_target_{name}"  # json.py must not take the place of json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{_short(path)} is no Python file: its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _execute(functools.partial(spec.loader.exec_module, module), _short(path))
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _load_module(name: str) -> ModuleType:
    module: list[ModuleType] = []
    try:
        _execute(lambda: module.append(importlib.import_module(name)), name)
    except TargetError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise TargetError(_no_module(name, missing.name)) from None
        raise
    return module[0]


def _execute(action: Any, what: str) -> None:
    """Run the user's module; whatever it raises becomes a TargetError that shows the user's part of it."""
    try:
        action()
    except SystemExit as error:
        raise TargetError(
            f"{what} called sys.exit({error.code!r}) when it was imported: put what runs under "
            'if __name__ == "__main__":',
            user_part(error),
        ) from error
    except ConfigError as error:
        raise TargetError(f"{user_place(error)}{error}") from error
    except Exception as error:
        raise TargetError(f"{what} raised {type(error).__name__} when it was imported", user_part(error)) from error


def _no_module(name: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    if parent:
        paths = getattr(sys.modules.get(parent), "__path__", None)
        if paths is None:
            return f"there is no module {name!r}: {parent} is a module, not a package; did you mean {parent}:{last}?"
        known, where = [f"{parent}.{m.name}" for m in pkgutil.iter_modules(paths)], f"in the package {parent}"
    else:
        known, where = [m.name for m in pkgutil.iter_modules([os.getcwd()])], f"in {os.getcwd()} or installed"
    hint = _near(missing, known, "there is")
    if not hint and Path(f"{last}.py").is_file():
        hint = f"; there is {last}.py"
    return f"there is no module {missing!r} {where}{hint}; a file is given as path/file.py:attr"


def _files_near(path: Path) -> str:
    """What there is instead of a file or directory that is not there, or in a directory that was given as a file."""
    if path.is_dir():
        inside = [_short(file) for file in sorted(path.glob("*.py"))[:5]]
        return f"; in it there is {', '.join(inside)}" if inside else "; it has no Python file"
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    known = {p.name: _short(p) for p in missing.parent.iterdir() if p.is_dir() or p.suffix == ".py"}
    close = get_close_matches(missing.name, list(known), n=3, cutoff=0.5)
    return f"; there is {', '.join(known[name] for name in close)}" if close else ""


# --- the attribute --------------------------------------------------------------------------


def _find(module: ModuleType, target: Target) -> Any:
    found: Any = module
    way = target.where
    for part in target.attr.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise TargetError(f"{way} has no attribute {part!r}{_instead(found, part)}") from None
        except Exception as error:
            raise TargetError(f"{way}.{part} raised {type(error).__name__}", user_part(error)) from error
        way = f"{way}:{part}" if way == target.where else f"{way}.{part}"
    return found


def _instead(holder: Any, wanted: str) -> str:
    names = [name for name in dir(holder) if not name.startswith("_")]
    services = [name for name in names if isinstance(_peek(holder, name), BaseService)]
    if hint := _near(wanted, names, "is it"):
        return hint + "?"
    if services:
        return f"; what can be run there: {', '.join(services)}"
    return "; it has nothing that can be run: a Crew, another Service, or a function that makes one"


def _peek(holder: Any, name: str) -> Any:
    try:
        return inspect.getattr_static(holder, name)
    except AttributeError:
        return None


def _service(text: str, found: Any) -> BaseService:
    if not _is_service(found) and callable(found):
        found = _made_by(text, found)
    if isinstance(found, BaseService):
        return found
    if _is_service(found):  # a user's own: whoever runs it needs the rest of a life
        return Supervisor(found, name=getattr(found, "name", None) or type(found).__name__)
    raise TargetError(
        f"{text} is {safe(repr(found))[:80]} ({type(found).__name__}), which cannot be run: "
        "it has to be a Crew, another Service, or a function without arguments that makes one"
    )


def _is_service(found: Any) -> bool:
    return isinstance(found, Service) and not isinstance(found, type)


def _made_by(text: str, maker: Any) -> Any:
    if inspect.iscoroutinefunction(maker):
        raise TargetError(f"{text} is an async function: the function that makes the crew has to be a plain one")
    try:
        inspect.signature(maker).bind()
    except TypeError as error:
        raise TargetError(
            f"{text} cannot be called without arguments ({error}): give the name of a crew, or of a function "
            "without arguments that makes one"
        ) from None
    except ValueError:  # a built-in without a signature: the call will tell
        pass
    made: list[Any] = []
    _execute(lambda: made.append(maker()), text)
    return made[0]


# --- words ------------------------------------------------------------------------------


def _near(wanted: str, known: Iterable[str], words: str) -> str:
    """`; there is a, b` for the names that look like what was wanted; empty where none does."""
    close = get_close_matches(wanted, list(known), n=3, cutoff=0.5)
    return f"; {words} {', '.join(close)}" if close else ""


def _short(path: Path) -> str:
    """A path as the user would write it here."""
    try:
        return str(path.absolute().relative_to(os.getcwd()))
    except ValueError:
        return str(path)
