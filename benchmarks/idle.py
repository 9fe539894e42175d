"""What it costs to have 1,000 services with nothing to do: CPU, wake-ups, memory.

Each case waits in a process of its own, all at the same time. An interval that is not due costs one timer
and no task of its own, so that the cost of being idle is the cost of its supervision.

    python benchmarks/idle.py [--seconds 60] [--check]

Goal: 1,000 idle intervals under a crew use less than 1 % of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

COUNT = 1000
GOAL = 1.0


async def nothing() -> None:
    """The job of all intervals."""


def usage() -> tuple[float, int]:
    """CPU seconds and voluntary context switches of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_nvcsw


async def window(seconds: float) -> dict[str, float]:
    """Let time pass with nothing to do, and say what it cost."""
    await asyncio.sleep(1)
    gc.collect()
    cpu, switches = usage()
    await asyncio.sleep(seconds)
    cpu_after, switches_after = usage()
    return {"cpu": (cpu_after - cpu) / seconds * 100, "wakes": (switches_after - switches) / seconds}


async def bare(seconds: float) -> dict[str, float]:
    """An event loop and nothing else."""
    return await window(seconds)


async def sleepers(seconds: float) -> dict[str, float]:
    """The least by hand: a task for each, asleep."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(asyncio.sleep(3600 + n)) for n in range(COUNT)]
    await asyncio.sleep(0)
    memory = (tracemalloc.get_traced_memory()[0] - before) / COUNT
    tracemalloc.stop()
    result = await window(seconds)
    for task in tasks:
        task.cancel()
    return {**result, "bytes": memory}


def crew_of(guard: Any) -> Callable[[float], Any]:
    """A crew of intervals, with or without the watch over the event loop."""

    async def case(seconds: float) -> dict[str, float]:
        import runcrew as rc

        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        crew = rc.Crew("idle", loop_block=guard)
        for n in range(COUNT):
            crew.add(rc.Interval(nothing, "1h", name=f"idle-{n}", first="after", on_failure="restart"))
        async with crew:
            await asyncio.sleep(0)
            gc.collect()
            memory = (tracemalloc.get_traced_memory()[0] - before) / COUNT
            tracemalloc.stop()
            return {**await window(seconds), "bytes": memory}

    return case


CASES: dict[str, Callable[[float], Any]] = {
    "a bare event loop": bare,
    "1,000 asyncio.sleep tasks": sleepers,
    "a crew of 1,000 intervals": crew_of("500ms"),
    "the same, event loop not watched": crew_of(None),
}


def main() -> int:
    """Run all cases side by side, print the table, and with --check judge it."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--seconds", type=float, default=60.0, help="how long to be idle")
    ask.add_argument("--check", action="store_true", help="exit with 1 if the goal does not hold")
    ask.add_argument("--case", help=argparse.SUPPRESS)
    args = ask.parse_args()
    if args.case:
        print(json.dumps(asyncio.run(CASES[args.case](args.seconds))))
        return 0
    command = [sys.executable, os.path.abspath(__file__), "--seconds", str(args.seconds), "--case"]
    running = {name: subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in CASES}
    found = {name: json.loads(process.communicate(timeout=args.seconds + 60)[0]) for name, process in running.items()}
    print(f"**Idle for {args.seconds:g} s** (CPython {sys.version.split()[0]})\n")
    print("| case | % of one core | wake-ups a second | bytes for each |\n|---|---|---|---|")
    for name, values in found.items():
        memory = f"{values['bytes']:.0f}" if "bytes" in values else "-"
        print(f"| {name} | {values['cpu']:.3f} | {values['wakes']:.1f} | {memory} |")
    cpu = found["a crew of 1,000 intervals"]["cpu"]
    print(f"\n{'held' if cpu < GOAL else 'MISSED'}: 1,000 idle intervals use {cpu:.3f} % of one core, goal {GOAL:g} %")
    return int(args.check and cpu >= GOAL)


if __name__ == "__main__":
    sys.exit(main())
