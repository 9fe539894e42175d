"""Calls of a simulated pool's public methods, from outside and from inside its jobs, each held to its contract."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from plans import Act
from pool_plans import PoolPlan
from pool_world import PoolWorld
from queue_calls import GONE, Call, _parts
from queue_calls import Caller as QueueCaller
from world import EPS, SimError

import runcrew as rc
from runcrew.workers import Change

#: What a run, or the making of a worker, may have ended the pool with.
ENDED: Final = (SimError, rc.RunError, rc.NoRetry, rc.ConfigError, ExceptionGroup)
MAY_RAISE: Final[dict[str, tuple[type[BaseException], ...]]] = {
    "resize": (rc.AtMax, rc.AtMin, *GONE),
    "more": (rc.AtMax, rc.AtMin, *GONE),
    "less": (rc.AtMax, rc.AtMin, *GONE),
    "start": (*ENDED, rc.ServiceStopping, rc.ServiceStopped),
    "restart": (*ENDED, rc.ServiceStopping, rc.ServiceStopped),
    "wait": (*ENDED, rc.NotStarted),
}


class Caller(QueueCaller):
    """Carries out calls."""

    world: PoolWorld

    def _may_raise(self, call: Call, error: BaseException) -> None:
        world = self.world
        if isinstance(error, asyncio.CancelledError):
            super()._may_raise(call, error)
            return
        allowed = MAY_RAISE.get(call.act.op, ()) + ((rc.WouldDeadlock,) if call.inside is not None else ())
        if not isinstance(error, allowed):
            world.wrong("2", f"{call} raised {error!r}")

    async def _do(self, call: Call) -> None:
        act, pool = call.act, self.world.pool
        if act.op == "stats":
            if pool.stats().workers != pool.size:
                self.world.wrong("15", f"stats: {pool.stats()}, and the size is {pool.size}")
        elif act.op == "restart":
            await self._stop(Call(Act("stop", "pool", act.arg), call.inside, self.world.now))
            call.state = pool.state  # of several who restart it, one begins its next life
            await pool.start()
        else:
            await super()._do(call)

    async def _size(self, call: Call) -> None:
        world, act, pool = self.world, call.act, self.world.pool
        plan: PoolPlan = world.plan.pool
        number, waits = act.arg[:2]
        before, life, open_ = pool.size, pool.generation, pool.state.alive and pool.floor.open
        expected = {"more": before + number, "less": before - number}.get(act.op, number)
        try:
            change: Change
            if act.op == "less":
                change = pool.less(number, mode=act.arg[2])
                world.reduced = world.now if act.arg[2] == "now" else world.reduced
            else:
                change = getattr(pool, act.op)(number)
        except (rc.AtMax, rc.AtMin) as error:
            at_max = plan.max is not None and expected > plan.max
            wrong = not at_max if isinstance(error, rc.AtMax) else expected >= plan.min
            if wrong or not open_ or pool.size != before:
                world.wrong("2", f"{call}({number}) of {before} raised {error!r}")
            raise
        if not open_ or pool.size != expected or expected < plan.min or expected > (plan.max or expected):
            world.wrong("5", f"{call}({number}) of {before} leads to {pool.size}")
        world.resized += 1
        world.target, mine = expected, world.resized
        if waits:
            there = await change
            fixed = world.resized == mine and pool.generation == life and not plan.scales
            if fixed and pool.floor.open and not plan.made and world.meddled is None and not plan.plain:
                self._complete(call, expected, there)

    def _complete(self, call: Call, expected: int, there: int) -> None:
        """A change that nothing has come in between of is complete when it says so."""
        world, group = self.world, self.world.pool.floor.group
        if there != expected and not group.abandoned and not any(one.cancels_itself for one in world.attempts):
            world.wrong("6", f"{call} to {expected} says that it is complete with {there}")

    def _cancel_task(self, call: Call) -> None:
        """Somebody cancels a task that is not theirs; it is the same one in every process."""
        world = self.world
        now = asyncio.current_task()
        theirs = [
            task for task in asyncio.all_tasks() if task not in world.mine and not task.done() and task is not now
        ]
        theirs.sort(key=lambda task: [_told(part) for part in (*_parts(task.get_name()), repr(task.get_coro())[:40])])
        if theirs:
            task = theirs[call.act.arg % len(theirs)]
            world.note("meddles", re.sub(r"^Task-\d+$", "Task", task.get_name()))
            world.meddled = world.now
            task.cancel()

    async def _stop(self, call: Call) -> None:
        """As of a queue; and what the report says of its runs is true."""
        world, pool, life = self.world, self.world.pool, self.world.pool.generation
        await super()._stop(call)
        report = pool.report
        if report is None or pool.generation != life or not life or world.meddled is not None:
            return
        laps = [lap for lap in world.laps if lap.life == life]
        left = [lap for lap in laps if lap.attempts[-1].ended is None and not lap.plan.plain]
        if left and not report.would_not_stop:
            world.wrong("16", f"{call} came back, {left[0]} still runs, and no report says so")
        if report.finished < 0 or report.cancelled < 0 or report.never_started:
            world.wrong("15", f"{call}: {report}")


def _told(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


__all__ = ["EPS", "Caller"]
