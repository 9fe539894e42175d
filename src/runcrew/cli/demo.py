"""Where the demo's program is: packaged beside this file, or in `examples/watch` of a checkout."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Final

from runcrew.cli.target import TargetError, load_file

_PACKAGED: Final = Path(__file__).parent / "watch" / "watch.py"
_CHECKOUT: Final = Path(__file__).parents[3] / "examples" / "watch" / "watch.py"


def program() -> ModuleType:
    """The module of the demo, imported as any user's is. Raises TargetError where this installation has none."""
    for path in (_PACKAGED, _CHECKOUT):
        if path.is_file():
            return load_file(path)
    raise TargetError(
        f"this installation has no demo: neither {_PACKAGED} nor {_CHECKOUT} is there; "
        "install runcrew from a wheel, or from a checkout that has examples/"
    )
