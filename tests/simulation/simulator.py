"""One schedule from a seed to a verdict; and many."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pprint
import re
import sys
import time
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final

from judges import Calls, Ends, Hooks, Runs, States
from models import Restarts, Retries, Ticks, Trees
from plans import Plan, make
from world import World, small_backlog

from runcrew import clock as clocks
from runcrew.testing import VirtualClock, VirtualLoop
from runcrew.testing.stuck import Stuck

#: Turns of the loop in which no time passes: more than that is a loop that never rests.
MOST_TURNS: Final = 1500


class HotLoop(RuntimeError):
    """The loop goes round and round, and time stands still."""


class SimLoop(VirtualLoop):
    """Counts its turns."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, patience=5.0)
        self.turns = 0
        self._turns_now = 0
        self._last = -1.0
        self.hot = False

    def _run_once(self) -> None:
        self.turns += 1
        self._turns_now += 1
        if self.time() != self._last:
            self._last, self._turns_now = self.time(), 0
        if self._turns_now > MOST_TURNS:
            self._turns_now = 0
            self.hot = True
            raise HotLoop(f"{MOST_TURNS} turns at {self._last:g} s")
        super()._run_once()  # type: ignore[misc]


@dataclass(frozen=True)
class Result:
    """What came of a schedule."""

    seed: int
    wrongs: tuple[str, ...]
    trace: tuple[str, ...]
    turns: int
    attempts: int
    elapsed: float

    @property
    def hash(self) -> str:
        """Of the trace: two runs of one seed have the same."""
        return hashlib.blake2b("\n".join(self.trace).encode(), digest_size=8).hexdigest()


class _Faults(logging.Handler):
    """What the library logs of faults of its own, and asyncio of errors that nobody heard."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what concerns us."""
        if record.funcName == "_helped" or record.name == "asyncio":
            error = record.exc_info[1] if record.exc_info else None
            self.said.append(f"{record.getMessage()} {error!r}")


def judges(world: World) -> tuple[Any, ...]:
    """All of them."""
    return tuple(judge(world) for judge in (States, Runs, Calls, Ends, Hooks, Ticks, Retries, Restarts, Trees))


def simulate(seed: int, plan: Plan | None = None) -> Result:
    """Carry out the schedule of a seed."""
    return copy_context().run(_simulate, seed, make(seed) if plan is None else plan)


def _simulate(seed: int, plan: Plan) -> Result:
    faults, library, asyncios = _Faults(), logging.getLogger("runcrew"), logging.getLogger("asyncio")
    propagated = library.propagate, asyncios.propagate
    library.propagate = asyncios.propagate = False
    library.addHandler(faults)
    asyncios.addHandler(faults)
    try:
        with small_backlog(plan.backlog):
            return _run(seed, plan, faults)
    finally:
        library.removeHandler(faults)
        asyncios.removeHandler(faults)
        library.propagate, asyncios.propagate = propagated


def _run(seed: int, plan: Plan, faults: _Faults) -> Result:
    loop = SimLoop(seed)
    clocks.use(VirtualClock(loop, None, seed))
    worlds: list[World] = []

    async def main() -> None:
        world = World(plan, judges)
        worlds.append(world)
        await world.live()

    ended = ""
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())
    except (HotLoop, Stuck) as error:
        ended = f"[{'3' if isinstance(error, HotLoop) else '2'}] {error}"
    except BaseException as error:
        ended = f"[9] the loop was ended by {error!r}"
        if isinstance(error, KeyboardInterrupt) and not worlds:
            raise
    finally:
        loop.close()
    world = worlds[0]
    wrongs = [*world.wrongs, *([ended] if ended else []), *(f"[9] {said}" for said in faults.said)]
    return Result(seed, tuple(wrongs), tuple(world.trace), loop.turns, len(world.attempts), loop.time())


def told(result: Result, *, tail: int = 60) -> str:
    """A result for people: what is wrong, the end of the trace, and how to see all of it."""
    shown = (*result.wrongs[:5], "the trace ends:", *result.trace[-tail:])
    return "\n".join((*shown, f"all of it: python tests/simulation/simulator.py {result.seed}"))


def main(args: list[str]) -> None:
    """`SEED`: its plan and trace. `--many FIRST END`: what is wrong in these. `--hashes FIRST END`: of their traces."""
    if args[0] == "--hashes":
        print(*(simulate(seed).hash for seed in range(int(args[1]), int(args[2]))), sep="\n")
    elif args[0] == "--many":
        _many(range(int(args[1]), int(args[2])))
    else:
        pprint.pprint(make(int(args[0])), width=160)
        result = simulate(int(args[0]))
        print(*result.trace, *result.wrongs, sep="\n")


def _many(seeds: range) -> None:
    began, kinds, turns, attempts, elapsed = time.process_time(), dict[str, list[str]](), 0, 0, 0.0
    for seed in seeds:
        result = simulate(seed)
        turns, attempts, elapsed = turns + result.turns, attempts + result.attempts, elapsed + result.elapsed
        if result.wrongs:
            kinds.setdefault(re.sub(r"\d+(\.\d+)?", "#", result.wrongs[0])[:110], []).append(
                f"{seed}: {result.wrongs[0]}"
            )
    count, took = len(seeds), time.process_time() - began
    print(
        f"{count} schedules, {count / took:.0f} per second of one core; each {elapsed / count:.0f} virtual seconds, "
        f"{attempts / count:.1f} attempts, {turns / count:.0f} turns of the loop"
    )
    for found in sorted(kinds.values(), key=len, reverse=True):
        print(len(found), found[0][:400])


if __name__ == "__main__":
    main(sys.argv[1:])
