"""What all benchmarks share: rounds in which every case has its turn, medians, ratios, goals.

A case is a callable that does its work once and returns one number, mostly microseconds for one
operation; smaller is better. All cases of a table run once in every round, each round beginning with
another of them, so that a noisy moment of the machine hits all alike. A ratio is the median of the
ratios within the rounds: absolute figures drift from run to run, ratios hardly do.

A script makes its tables and goals in one function and hands it to `main()`:

    python benchmarks/threads.py [--rounds 5] [--only TEXT] [--check]

`--check` prints the same and exits with 1 if a goal does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import operator
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Case: TypeAlias = Callable[[], float]

now = time.perf_counter


def per_op(start: float, count: int) -> float:
    """Microseconds for each of `count` operations since `start` (a reading of `now()`)."""
    return (now() - start) / count * 1e6


def in_loop(function: Callable[..., Coroutine[Any, Any, float]], *args: Any) -> Case:
    """A case that runs `function(*args)` on an event loop of its own; it returns the number."""
    return lambda: asyncio.run(function(*args))


def external(*command: str, timeout: float = 120) -> Case:
    """A case that is a command of its own: the first word that it prints is the number."""

    def case() -> float:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
        return float(done.stdout.split()[0])

    return case


@dataclass
class Table:
    """What was measured: for each case one number a round, or why there is none."""

    title: str
    unit: str
    values: dict[str, list[float]]
    errors: dict[str, str] = field(default_factory=dict)

    def median(self, case: str) -> float:
        """The median over the rounds."""
        return statistics.median(self.values[case])

    def ratio(self, case: str, other: str) -> float:
        """How many times `other` this case takes: the median over the rounds of the ratios within one."""
        rounds = zip(self.values[case], self.values[other], strict=True)
        return statistics.median(mine / its for mine, its in rounds)

    def __str__(self) -> str:
        base = next(iter(self.values), "")
        lines = [f"**{self.title}** ({self.unit})", ""]
        lines += ["| case | median | min | max | ratio |", "|---|---|---|---|---|"]
        for case, values in self.values.items():
            cells = (statistics.median(values), min(values), max(values))
            numbers = " | ".join(f"{cell:.4g}" for cell in cells)
            lines.append(f"| {case} | {numbers} | {self.ratio(case, base):.2f} |")
        lines += [f"| {case} | - | - | - | {why} |" for case, why in self.errors.items()]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Goal:
    """A promise in figures: `measured` has to be `at_most` or `at_least` that much."""

    what: str
    measured: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it is kept."""
        most = sys.float_info.max if self.at_most is None else self.at_most
        least = -sys.float_info.max if self.at_least is None else self.at_least
        return least <= self.measured <= most

    def __str__(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_most is None else f"at most {self.at_most:g}"
        return f"{'holds ' if self.holds else 'BROKEN'} {self.what}: {self.measured:.2f} ({bound})"


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    rounds: int
    only: str

    def measure(self, title: str, cases: Mapping[str, Case | None], unit: str = "us/op") -> Table:
        """Run all cases, interleaved. A case that is None (a peer that is not installed) is left out.

        A case that raises is not run again; the table says what it raised.
        """
        chosen = {name: case for name, case in cases.items() if case is not None and self.only in name}
        names = list(chosen)
        table = Table(
            f"{title}; CPython {sys.version.split()[0]}, {os.cpu_count()} cores, {self.rounds} rounds",
            unit,
            {name: [] for name in names},
        )
        for turn in range(self.rounds):
            start = turn % len(names) if names else 0
            for name in names[start:] + names[:start]:
                if name in table.errors:
                    continue
                gc.collect()
                try:
                    table.values[name].append(chosen[name]())
                except Exception as error:
                    table.errors[name] = f"{type(error).__name__}: {error}"
                    del table.values[name]
        print(table, flush=True)
        return table


def main(script: Callable[[Options], Sequence[Goal]], about: str | None = None) -> None:
    """Read the command line, run the script, print its goals; exit 1 where one is broken and --check was given."""
    parser = argparse.ArgumentParser(description=(about or script.__doc__ or "").strip().split("\n")[0])
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS", "5")))
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT; no goals")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal does not hold")
    given = parser.parse_args()
    options = Options(given.rounds, given.only)
    if given.only:
        try:
            script(options)
        except KeyError:
            print("(no goals: the cases that they compare were left out)")
        return
    goals = script(options)
    for goal in goals:
        print(goal)
    if given.check and not all(map(operator.attrgetter("holds"), goals)):
        sys.exit(1)
