"""One schedule of a queue from a seed to a verdict; and many."""

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

from plans import Act, Script
from queue_books import Order
from queue_calls import Call, Caller
from queue_judges import Ends, Figures, Order8, Outcomes, Starts, Together
from queue_models import Foretold
from queue_plans import OrderPlan, SimPlan, make
from queue_world import World
from simulator import HotLoop, Result, SimLoop, _Faults
from world import EPS

import runcrew as rc
from runcrew import clock as clocks
from runcrew.testing import VirtualClock
from runcrew.testing.stuck import Stuck

#: So long, in virtual seconds, may it take until everything has come to rest once nobody asks for more.
REST: Final = 50.0
#: And so long everything.
LIFE: Final = 1500.0


class Endless(RuntimeError):
    """Time goes on and on, and nothing comes to an end."""


class QueueLoop(SimLoop):
    """Lives for so long only."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._limit = LIFE

    def _run_once(self) -> None:
        if self.time() > self._limit:
            self._limit += LIFE
            raise Endless(f"it is not over after {self.time():g} s")
        super()._run_once()


def judges(world: World) -> tuple[Any, ...]:
    """All of them."""
    return tuple(judge(world) for judge in (Starts, Together, Order8, Outcomes, Figures, Foretold, Ends))


class Course:
    """The course of things in one world."""

    def __init__(self, plan: SimPlan) -> None:
        self.plan = plan
        self.world = World(plan, judges)
        self.caller = Caller(self.world)

    async def live(self) -> None:
        """From the start of the queue to the end of everything, or of the loop."""
        world, plan = self.world, self.plan
        task = asyncio.current_task()
        assert task is not None
        world.mine[task] = None
        runner = world.spawn(self._lives(), "lives") if plan.end == "cancel" else None
        if runner is None:
            starting = world.spawn(self.caller.ask(Act("start", "queue")), "start")
            await asyncio.wait([starting], timeout=plan.horizon / 4)
        actors = [world.spawn(self.caller.act(acts), "actor") for acts in plan.actors]
        inspector = world.spawn(self._inspect(), "inspector")
        await asyncio.sleep(plan.horizon + 0.0137)
        world.note("closing")
        if plan.end == "teardown":
            world.released.set()
            world.torn = True
            return
        world.closing = True
        if plan.end == "quiet":
            await self._come_to_rest()
        await self._end(runner)
        world.released.set()
        inspector.cancel()
        await self._in_time([inspector, *actors, *world.mine], 30.0)
        await self._settle()
        world.judge("verdict")

    async def _lives(self) -> None:
        try:
            async with self.world.queue:
                await asyncio.Event().wait()
        except rc.ResourceError:
            self.world.start_failed()
        except rc.ServiceStopped:
            pass

    async def _inspect(self) -> None:
        """Look at everything now and then, between two steps of everybody else."""
        while True:
            await asyncio.sleep(self.plan.horizon / 7.3)
            self.world.judge("looks")

    async def _end(self, runner: asyncio.Task[Any] | None) -> None:
        world, plan = self.world, self.plan
        queue: Any = world.queue
        if runner is not None and not runner.done():
            world.ends_life(0.0 if world.queue.state == "starting" else 30.0)
            runner.cancel()
            await self._in_time([runner], 30.0 + world.queue._grace() + world.queue._hooks_timeout)
            report = world.queue.report
            world.told_stuck |= report is not None and bool(report.would_not_stop)
        elif plan.end == "kill":
            await self.caller.ask(Act("kill", "queue"))
        for patience in (plan.patience, 0.0, 0.0):  # somebody may have started it again meanwhile
            if queue.state.alive or patience:
                await self.caller.ask(Act("stop", "queue", patience))

    async def _in_time(self, tasks: list[asyncio.Task[Any]], span: float) -> None:
        world = self.world
        tasks = [task for task in dict.fromkeys(tasks) if task is not asyncio.current_task()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=span + EPS)
        for task in tasks:
            if task in late:
                under_way = [f"{act.op} since {begun:g}" for act, begun in world.calls.values()]
                world.wrong("11", f"{task.get_name()} does not come back; under way: {under_way}")
            elif not task.cancelled() and task.exception() is not None:
                world.wrong("2", f"{task.get_name()} raised {task.exception()!r}")

    async def _settle(self) -> None:
        world = self.world
        for _ in range(20):
            await asyncio.sleep(0)
        if world.active or world.store.living:
            if not world.told_stuck:
                left = [*map(str, world.store.living), *(str(attempt.order) for attempt in world.active)]
                world.wrong("16", f"after the end there are left, and no report says so: {left}")
            await asyncio.sleep(10.0)
        for _ in range(300 if self.plan.threads else 0):
            if not world.active and not world.store.living:
                break
            clocks.SYSTEM.block(0.001)  # threads that were given up go on in real time, and time does not wait
            await asyncio.sleep(0.1)
        for _ in range(20):
            await asyncio.sleep(0)

    # --- rest -----------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        """Nobody asks for more, and all goes well: whatever came before, the queue is as good as new."""
        world = self.world
        world.store.heal()
        world.released.set()
        for _ in range(3):  # whoever still runs may have stopped it, or made it smaller
            if not await self._is_up():
                return
            await self._rest()
        if not await self._is_up():
            return
        hanging = [f"{act.op} since {begun:g}" for act, begun in world.calls.values() if act.op != "wait"]
        if hanging:
            world.wrong("11", f"it has come to rest, and there hang: {hanging}; {world.queue.stats()}")
            return
        for priority in (0, 10, -10):
            await self._probe(priority)
        await self._rest()
        self._is_whole()

    async def _rest(self) -> None:
        for _ in range(int(REST)):
            await asyncio.sleep(1)
            if any(attempt.run.told for attempt in self.world.active):
                clocks.SYSTEM.block(0.001)  # threads that were given up go on in real time, and time does not wait

    async def _is_up(self) -> bool:
        """Whether it runs, with a worker at least; it is started where somebody has stopped it."""
        world, queue = self.world, self.world.queue
        if queue.state in ("starting", "stopping"):
            await self._rest()
        if queue.state in ("starting", "stopping"):
            await self.caller.ask(Act("kill", "queue"))
        if queue.state != "running":
            await self.caller.ask(Act("start", "queue"))
        if queue.state != "running":
            world.wrong("6", f"it cannot be started again: {queue.state}, {queue.error!r}")
            return False
        if not queue.size:
            queue.resize(1)
        return True

    async def _probe(self, priority: int) -> None:
        world, queue = self.world, self.world.queue
        if not world.plan.queue.maxsize:
            await self._until_one_is_free()
        plain = world.plan.queue.resource is not None and world.plan.queue.resource.plain
        order: Order = world.order(OrderPlan((Script((), "return"),), plain, priority), "probe", None)
        call = Call(Act("submit", "queue"), None, world.now)
        try:
            order.ticket = await queue.submit(world.job(order.plan), order, priority=priority)
            self.caller._has(order, order.ticket)
            task = world.spawn(order.ticket.outcome(), "probe")
            await self._in_time([task], 60.0)
        except BaseException as error:
            order.answered, order.refused = True, error
            world.wrong("6", f"{call} was refused at rest: {error!r}")

    async def _until_one_is_free(self) -> None:
        """With maxsize=0 only what begins at once is accepted; where resources grow old, none may be free just now."""
        for _ in range(100):
            if self.world.queue.stats().free:
                return
            await asyncio.sleep(0.1)

    def _is_whole(self) -> None:
        world, stats = self.world, self.world.queue.stats()
        world.judge("looks")
        resource = world.plan.queue.resource
        if resource is not None and (resource.max_idle is not None or resource.max_age is not None):
            return  # they come and go for ever
        at_rest = stats.alive, stats.free, stats.busy, stats.leaving, stats.opening, stats.closing
        given_up = len(stats.abandoned)
        if at_rest != (stats.workers, stats.workers, 0, 0, 0, 0) and not given_up:
            world.wrong("6", f"at rest, of {stats.workers} workers: {stats}")
        if stats.queued or stats.delayed or stats.running or stats.submitters:
            world.wrong("6", f"at rest there waits something: {stats}")
        resources = len(world.store.living)
        most = stats.workers + stats.spares_alive
        if resource is not None and resources != most and not given_up:
            world.wrong("16", f"at rest there are {resources} resources, of {most}")


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
        loop = QueueLoop(seed)
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
        await world.queue.stop()
        world.judge("verdict")
        await world.queue.start()
        ticket = await world.queue.submit(_probe_alone if plan.queue.resource is None else _probe_with)
        if await ticket != "alive":
            world.wrong("6", "its life after the teardown is not one")
        await world.queue.stop()

    ended = on_a_loop(main())
    world = courses[0].world
    if world.torn and not ended:
        world.store.heal()
        ended = on_a_loop(after_teardown())
    wrongs = [*world.wrongs, *([ended] if ended else []), *(f"[9] {said}" for said in faults.said)]
    return Result(seed, tuple(wrongs), tuple(world.trace), turns, len(world.attempts), world.now)


async def _probe_alone() -> str:
    return "alive"


async def _probe_with(_: object) -> str:
    return "alive"


def told(result: Result, *, tail: int = 60, threads: bool = False) -> str:
    """A result for people: what is wrong, the end of the trace, and how to see all of it."""
    shown = (*result.wrongs[:5], "the trace ends:", *result.trace[-tail:])
    how = f"{'--threads ' if threads else ''}{result.seed}"
    return "\n".join((*shown, f"all of it: python tests/simulation/queue_simulator.py {how}"))


def main(args: list[str]) -> None:
    """`SEED`: its plan and trace. `--many FIRST END`: what is wrong in these. `--hashes FIRST END`: of their traces.

    Before any of it `--threads`: plans with plain resources and jobs.
    """
    threads = args[0] == "--threads"
    args = args[1:] if threads else args
    if args[0] == "--hashes":
        print(*(simulate(seed).hash for seed in range(int(args[1]), int(args[2]))), sep="\n")
    elif args[0] == "--many":
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
            kinds.setdefault(re.sub(r"\d+(\.\d+)?", "#", result.wrongs[0])[:110], []).append(
                f"{seed}: {result.wrongs[0]}"
            )
    count, took = len(seeds), time.process_time() - began
    print(
        f"{count} schedules, {count / took:.0f} per second of one core; each {elapsed / count:.0f} virtual seconds, "
        f"{attempts / count:.1f} attempts, {turns / count:.0f} turns of the loop"
    )
    for found in sorted(kinds.values(), key=len, reverse=True):
        print(len(found), found[0][:600])


if __name__ == "__main__":
    main(sys.argv[1:])
