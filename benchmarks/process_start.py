"""Starts one kind of workers, and prints: ms until the first task has run, then MiB of a worker (PSS), and MiB (RSS).

    python benchmarks/process_start.py runcrew|Standard|ByForkServer|BySpawn|Loky [0|1|2]

The number says which of the three comes first.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import process_peers as peers
from common import now
from jobs import noop, own_process

import runcrew as rc


def memory(pid: int) -> tuple[float, float]:
    """MiB of a process: its share of what it uses, and all that is resident."""
    found = dict.fromkeys(("Pss", "Rss"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0])
    return found["Pss"] / 1024, found["Rss"] / 1024


async def ours() -> tuple[float, ...]:
    """A queue of two."""
    make: Any = rc.Queue
    start = now()
    async with make("q", backend="process", workers=2) as queue:
        await queue.run(noop, 1)
        used = (now() - start) * 1e3
        pid = await queue.run(own_process, 1)
        return (used, *memory(pid))


def theirs(name: str) -> tuple[float, ...]:
    """A peer with two workers."""
    start = now()
    its = getattr(peers, name)(2)
    its.submit(noop, 1).result()
    used = (now() - start) * 1e3
    pid = its.submit(own_process, 1).result()
    found = memory(pid)
    its.close()
    return (used, *found)


if __name__ == "__main__":
    which = sys.argv[1]
    numbers = list(asyncio.run(ours()) if which == "runcrew" else theirs(which))
    first = numbers.pop(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(first, *numbers)
