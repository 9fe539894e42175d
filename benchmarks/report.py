"""Runs the benchmarks one after another and puts what they print into docs/benchmarks.md.

    python benchmarks/report.py [NAME …] [--check]

NAME: only these (imports, retry, threads, queues, queue_many, pools, processes, executors, idle). `--check`: write
nothing, exit with 1 if a goal does not hold.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
PLACE = re.compile(r"(<!-- from (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def run(name: str) -> tuple[bool, str]:
    """Whether all goals of one benchmark hold, and what it printed."""
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--check"], stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done.returncode == 0, done.stdout


def markdown(printed: str) -> str:
    """What was printed, with the goals as a block of their own."""
    lines = printed.strip().splitlines()
    goals = [line for line in lines if line.startswith(("holds ", "BROKEN", "held", "MISSED"))]
    tables = "\n".join(line for line in lines if line not in goals).strip()
    return "\n".join(["", tables, "", "```text", *goals, "```", "", ""]) if goals else f"\n{tables}\n\n"


def main() -> int:
    """Run those that the page has a place for."""
    page = PAGE.read_text(encoding="utf-8")
    places = [name for _, name, _ in PLACE.findall(page)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(places)}; none: all")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a goal does not hold")
    given = parser.parse_args()
    wrong = [name for name in given.names if name not in places]
    if wrong:
        parser.error(f"{PAGE.name} has no place for {', '.join(wrong)}: it has {', '.join(places)}")
    kept = True
    for name in given.names or places:
        good, printed = run(name)
        kept = kept and good
        block = markdown(printed)
        page = PLACE.sub(lambda m, name=name, block=block: m[1] + block + m[3] if m[2] == name else m[0], page)
    if not given.check:
        PAGE.write_text(page, encoding="utf-8")
    return 0 if kept or not given.check else 1


if __name__ == "__main__":
    sys.exit(main())
