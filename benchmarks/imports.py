"""What importing costs: fresh interpreters, nothing of the rest of the benchmarks loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from common import Case, Goal, Options, external, main

CODE = """
import os, sys
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
had, before = len(sys.modules), rss()
from time import perf_counter
began = perf_counter()
{statement}
took = perf_counter() - began
print({shown})
"""
EVERYTHING = "import runcrew\nfor name in runcrew.__all__: getattr(runcrew, name)"
PEERS = ("tenacity", "stamina", "backoff", "anyio", "aiomisc")


def fresh(statement: str, shown: str = "took * 1e3") -> Case:
    """Run `statement` in a new interpreter that sees no user site and no environment variables."""
    return external(sys.executable, "-I", "-c", CODE.format(statement=statement, shown=shown))


def cases(shown: str = "took * 1e3") -> dict[str, Case | None]:
    """All contestants; a peer that is not installed is left out."""
    return {
        "import asyncio": fresh("import asyncio", shown),
        "import runcrew": fresh("import runcrew", shown),
        "import runcrew, every public name used": fresh(EVERYTHING, shown),
        **{f"import {peer}": fresh(f"import {peer}", shown) if find_spec(peer) else None for peer in PEERS},
    }


def script(options: Options) -> Sequence[Goal]:
    """Time, memory and modules, each against asyncio alone."""
    time = options.measure("Import time in a fresh interpreter", cases(), unit="ms")
    options.measure("Memory after the import, above a bare interpreter", cases("max(0.01, rss() - before)"), unit="MiB")
    options.measure("Modules that the import loads", cases("len(sys.modules) - had"), unit="modules")
    ratio = time.ratio("import runcrew", "import asyncio")
    return [Goal("import runcrew, against import asyncio", ratio, at_most=1.4)]


if __name__ == "__main__":
    main(script, __doc__)
