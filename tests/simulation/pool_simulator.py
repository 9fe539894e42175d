"""One schedule of a pool from a seed to a verdict; and many."""

from __future__ import annotations

import asyncio
import gc
import logging
import pprint
import re
import sys
import time
from collections.abc import Coroutine
from contextvars import copy_context
from dataclasses import replace
from typing import Any, Final

from plans import Act
from pool_calls import Caller
from pool_figures import Figures
from pool_judges import judges_of
from pool_plans import PoolPlan, SimPlan, make
from pool_world import PoolWorld
from queue_judges import Ends
from queue_simulator import Course as QueueCourse
from queue_simulator import Endless, QueueLoop
from simulator import HotLoop, Result, _Faults

import runcrew as rc
from runcrew import clock as clocks
from runcrew.testing import VirtualClock
from runcrew.testing.stuck import Stuck

#: So long, in virtual seconds, until everything has come to rest once nobody asks for more.
REST: Final = 11.00071
#: So long it is watched while nothing is to be done; and how many turns of the loop that may take.
QUIET: Final = 5.0
FEW: Final = 12
#: How many turns of the loop there may be, of everything that happens; and besides.
PER_EVENT: Final = 12
BESIDES: Final = 400


class PoolLoop(QueueLoop):
    """Knows how many timers there are."""


def judges(world: Any) -> tuple[Any, ...]:
    """All of them."""
    return tuple(judge(world) for judge in (*judges_of(), Figures, Ends))


class Course(QueueCourse):
    """The course of things in one world."""

    world: PoolWorld

    def __init__(self, plan: SimPlan) -> None:
        self.plan = plan  # type: ignore[assignment]
        self.world = PoolWorld(plan, judges)
        self.caller = Caller(self.world)

    async def _lives(self) -> None:
        try:
            async with self.world.pool:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            leaves = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
            if self.world.pool.error not in (error, *leaves) and not isinstance(error, rc.ServiceStopped):
                raise

    async def _settle(self) -> None:
        world = self.world
        if world.meddled is not None:
            await asyncio.sleep(0.1)  # so long may be waited for a loop that might be on its way down
        await super()._settle()
        spent, events = world.loop.turns, len(world.trace) + len(world.attempts) + int(world.now)
        if spent > PER_EVENT * events + BESIDES:
            world.wrong("3", f"the loop has gone round {spent} times for {events} events")

    # --- rest -----------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        """Nobody asks for more, and all goes well: whatever came before, the pool is as good as new."""
        world = self.world
        world.store.heal()
        world.released.set()
        pool, plan = world.pool, world.plan.pool
        for _ in range(6):  # whoever still runs may have stopped it, or changed its size
            if not await self._is_up():
                return
            resized, life = world.resized, pool.generation
            await asyncio.sleep(REST)
            if (resized, life) == (world.resized, pool.generation) and pool.state == "running" and pool.floor.open:
                break
        else:
            return  # its jobs do not leave it in peace
        if pool.size:
            self._is_whole()
        hanging = [f"{act.op} since {begun:g}" for act, begun in world.calls.values() if act.op != "wait"]
        if hanging and not self._jobs_call():
            world.wrong("11", f"it has come to rest, and there hang: {hanging}; {pool.stats()}")
        if plan.min == 0 and not self._jobs_call():
            await self._pause()

    def _jobs_call(self) -> bool:
        """Whether jobs change anything by themselves, or end it."""
        scripts = self.world.plan.pool.scripts
        calls = any(step[0] in ("call", "elsewhere") for script in scripts for step in script.steps)
        ends = any(script.end in ("done", "stop_tree") for script in scripts)
        return calls or ends or self.world.plan.pool.stop_on_error or self.world.plan.pool.scales

    async def _is_up(self) -> bool:
        """Whether it runs, with a worker at least; it is started where somebody has stopped it."""
        world, pool = self.world, self.world.pool
        if pool.state in ("starting", "stopping") or (pool.state == "running" and not pool.floor.open):
            await asyncio.sleep(REST)
        if pool.state in ("starting", "stopping"):
            await self.caller.ask(Act("kill", "pool"))
        if pool.state != "running":
            await self.caller.ask(Act("start", "pool"))
        ends = self._jobs_call() or "wrong" in world.plan.pool.factory
        if pool.state != "running" or not pool.floor.open:
            if not ends:
                world.wrong("6", f"it cannot be started again: {pool.state}, {pool.error!r}")
            return False
        if not pool.size:
            pool.resize(1)
            world.target, world.resized = 1, world.resized + 1
        return True

    def _is_whole(self) -> None:
        world, stats = self.world, self.world.pool.stats()
        plan: PoolPlan = world.plan.pool
        world.judge("looks")
        given_up = len(stats.abandoned) or (plan.timeout is not None and plan.plain)
        meddles = any(step[0] == "call" and step[1].op == "cancel_task" for one in plan.scripts for step in one.steps)
        restarts = meddles or any(script.end == "self_cancel" for script in plan.scripts)
        if self._gets_sick() or given_up or restarts or plan.scales or plan.healthy_raises:
            return  # they come and go for ever
        at_rest = stats.alive, stats.leaving, stats.opening, stats.closing
        if at_rest != (stats.workers, 0, 0, 0):
            world.wrong("6", f"at rest, of {stats.workers} workers: {stats}")
        if plan.resource is not None and len(world.store.living) != stats.workers:
            world.wrong("16", f"at rest there are {len(world.store.living)} resources, of {stats.workers}")
        if not plan.bare or plan.stop_on_error:
            return
        since = world.now - REST + 1
        keys = {id(attempt.order.key): None for attempt in world.attempts if (attempt.ended or world.now) > since}  # type: ignore[attr-defined]
        longest = max(
            2 * sum(step[1] for step in script.steps if isinstance(step[1], float)) for script in plan.scripts
        )
        if len(keys) < stats.workers and longest < REST / 2:
            world.wrong("8", f"of {stats.workers} workers {len(keys)} have done anything for {REST} s")

    def _gets_sick(self) -> bool:
        plan: PoolPlan = self.world.plan.pool
        says_so = any("sick" in (script.end, script.on_cancel[:4]) for script in plan.scripts)
        return plan.checks or (says_so and plan.healthy)

    async def _pause(self) -> None:
        """While there is nothing to do, nothing is done; and then it goes on."""
        world, pool = self.world, self.world.pool
        pool.resize(0)
        world.target, world.resized = 0, world.resized + 1
        await asyncio.sleep(REST)
        stats = pool.stats()
        if stats.alive or stats.opening or stats.closing:
            if not stats.abandoned and pool.state == "running":
                world.wrong("6", f"a pause, and there are workers: {stats}")
            return
        turns, laps = world.loop.turns, len(world.laps)
        await asyncio.sleep(QUIET)
        looks = QUIET / (self.plan.horizon / 7.3)
        if world.loop.turns - turns > FEW + 3 * looks:
            world.wrong("3", f"in a pause of {QUIET} s the loop has gone round {world.loop.turns - turns} times")
        if len(world.laps) != laps:
            world.wrong("10", f"{len(world.laps) - laps} runs have begun in a pause")
        for number in (1, 0, 1):  # and on again, quickly
            pool.resize(number)
        world.target, world.resized = 1, world.resized + 1
        await asyncio.sleep(REST / 2)
        stats = pool.stats()
        if pool.state == "running" and not (pool.floor.group.staying or stats.abandoned or self._gets_sick()):
            world.wrong("6", f"after a pause there is nobody: {pool.stats()}")


def simulate(seed: int, plan: SimPlan | None = None) -> Result:
    """Carry out the schedule of a seed."""
    return copy_context().run(_simulate, seed, make(seed) if plan is None else plan)


def _simulate(seed: int, plan: SimPlan) -> Result:
    faults, loggers = _Faults(), [logging.getLogger("runcrew"), logging.getLogger("asyncio")]
    propagated = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(faults)
    try:
        result = _run(seed, plan, faults)
        if plan.end == "teardown":
            gc.collect()  # only now is told what was left pending
            said = [f"[16] {said}" for said in faults.said if f"[9] {said}" not in result.wrongs]
            result = replace(result, wrongs=(*result.wrongs, *said))
        return result
    finally:
        for logger, before in zip(loggers, propagated, strict=True):
            logger.removeHandler(faults)
            logger.propagate = before


def _run(seed: int, plan: SimPlan, faults: _Faults) -> Result:
    courses: list[Course] = []
    turns = 0

    def on_a_loop(main: Coroutine[Any, Any, None]) -> str:
        nonlocal turns
        loop = PoolLoop(seed)
        clocks.use(VirtualClock(loop, None, seed))
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(main)
        except (HotLoop, Stuck, Endless) as error:
            return f"[{'3' if isinstance(error, HotLoop) else '2'}] {error}"
        except BaseException as error:
            if not courses:
                raise
            return f"[9] the loop was ended by {error!r}"
        finally:
            turns += loop.turns
            loop.close()
        return ""

    async def main() -> None:
        courses.append(Course(plan))
        await courses[0].live()

    async def after_teardown() -> None:
        world = courses[0].world
        await world.pool.stop()
        world.judge("verdict")
        if world.plan.pool.stop_on_error or "wrong" in world.plan.pool.factory:
            return
        before = len(world.laps)
        await world.pool.start()
        if not world.pool.size:
            world.pool.resize(1)
        await asyncio.sleep(4)
        if len(world.laps) == before and not world.plan.pool.checks:
            world.wrong("6", "its life after the teardown is not one")
        await world.pool.stop()

    ended = on_a_loop(main())
    world = courses[0].world
    if world.torn and not ended:
        world.store.heal()
        ended = on_a_loop(after_teardown())
    wrongs = [*world.wrongs, *([ended] if ended else []), *(f"[9] {said}" for said in faults.said)]
    return Result(seed, tuple(wrongs), tuple(world.trace), turns, len(world.attempts), world.now)


def told(result: Result, *, tail: int = 60, threads: bool = False) -> str:
    """A result for people: what is wrong, the end of the trace, and how to see all of it."""
    shown = (*result.wrongs[:5], "the trace ends:", *result.trace[-tail:])
    how = f"{'--threads ' if threads else ''}{result.seed}"
    return "\n".join((*shown, f"all of it: python tests/simulation/pool_simulator.py {how}"))


def main(args: list[str]) -> None:
    """`SEED`: its plan and trace. `--many FIRST END`: what is wrong in these. Before it `--threads`: with threads."""
    threads = args[0] == "--threads"
    args = args[1:] if threads else args
    if args[0] == "--many":
        _many(range(int(args[1]), int(args[2])), threads)
    else:
        plan = make(int(args[0]), threads=threads)
        pprint.pprint(plan, width=160)
        result = simulate(int(args[0]), plan)
        print(*result.trace, *result.wrongs, sep="\n")


def _many(seeds: range, threads: bool) -> None:
    began, kinds, turns, attempts, elapsed = time.process_time(), dict[str, list[str]](), 0, 0, 0.0
    for seed in seeds:
        result = simulate(seed, make(seed, threads=threads))
        turns, attempts, elapsed = turns + result.turns, attempts + result.attempts, elapsed + result.elapsed
        if result.wrongs:
            kind = re.sub(r"\d+(\.\d+)?", "#", result.wrongs[0])[:110]
            kinds.setdefault(kind, []).append(f"{seed}: {result.wrongs[0]}")
    count, took = len(seeds), time.process_time() - began
    print(
        f"{count} schedules, {count / took:.0f} per second of one core; each {elapsed / count:.0f} virtual seconds, "
        f"{attempts / count:.1f} runs, {turns / count:.0f} turns of the loop"
    )
    for found in sorted(kinds.values(), key=len, reverse=True):
        print(len(found), found[0][:600])


if __name__ == "__main__":
    main(sys.argv[1:])
