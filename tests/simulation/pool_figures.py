"""Judges of what a pool counts: each run once, in every book the same, and the same as its jobs have counted. (15)"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pool_judges import INFINITE, Judge
from pool_world import Lap
from world import EPS

import runcrew as rc
from runcrew import events
from runcrew.policies.elapsed import Timings

STATUSES: Final = tuple(map(str, rc.Status))


class Figures(Judge):
    """Statistics, counters and jobs agree. (15)"""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.begun: dict[str, None] = {}
        self.ended: dict[str, str] = {}
        self.told: dict[str, int] = dict.fromkeys(STATUSES, 0)

    def hear(self, event: events.Event) -> None:
        """Each run begins and ends once."""
        world = self.world
        match event:
            case events.RunStarted():
                if event.run in self.begun:
                    world.wrong("1", f"{world.label(event.run)} began twice")
                self.begun[event.run] = None
            case events.RunEnded():
                if event.run in self.ended:
                    world.wrong("1", f"{world.label(event.run)} ended twice")
                if event.run not in self.begun:
                    world.wrong("1", f"{world.label(event.run)} ended, and never began")
                self.ended[event.run] = event.status
                self.told[event.status] += 1
            case events.StateChanged(new="starting"):
                self.told = dict.fromkeys(STATUSES, 0)
            case events.StateChanged(new="stopped" | "failed") if not world.torn:
                self._life()

    @property
    def _perhaps_more(self) -> bool:
        """Whether a run may have been told to begin, and its thread never came to it: it counts as interrupted."""
        return self.plan.plain and self.world.plan.seed % 3 == 0

    # --- at the end of a life ---------------------------------------------------------------

    def _life(self) -> None:
        world, life = self.world, self.world.pool.generation
        if life not in world.lives:
            return
        stats = world.lives[life]
        runs = stats.runs
        laps = [lap for lap in world.laps if lap.life == life]
        given_up = any(self.given_up(lap) for lap in laps) or stats.abandoned
        if runs.in_flight and not given_up:
            world.wrong("15", f"{runs.in_flight} runs are in flight at the end")
        if stats.alive and not given_up:
            world.wrong("16", f"{stats.alive} workers are alive at the end")
        self._adds_up(runs)
        if self.plan.bare:
            self._by_status(laps, runs)
        if world.plan.seed % 3 == 0 and not given_up and self.undisturbed:
            theirs = {status: getattr(runs, status) for status in STATUSES}
            if theirs != self.told:
                world.wrong("15", f"the pool counts {theirs}, and tells {self.told}")

    def _by_status(self, laps: list[Lap], runs: Any) -> None:
        """How each has ended, by what its job has seen."""
        sure, perhaps = dict.fromkeys(STATUSES, 0), dict.fromkeys(STATUSES, 0)
        for lap in laps:
            one = self._statuses(lap)
            for status in one:
                (sure if len(one) == 1 else perhaps)[status] += 1
        for status in STATUSES:
            count = getattr(runs, status)
            if self.plan.checks and (status == "skipped" or self.world.meddled is not None):
                continue
            if status == "interrupted" and (self.plan.checks or self._perhaps_more or self.world.meddled is not None):
                continue
            if not sure[status] <= count <= sure[status] + perhaps[status]:
                self.world.wrong("15", f"{count} runs {status}, by their jobs {sure[status]} and {perhaps[status]}")

    def _statuses(self, lap: Lap) -> tuple[str, ...]:
        """Which it may have."""
        world, attempt = self.world, lap.attempts[-1]
        error = attempt.error
        if attempt.ended is None or self.given_up(lap):
            return "interrupted", "succeeded", "failed"
        if self.plan.plain and attempt.ended >= world.over_at.get(lap.life, INFINITE) - 1.0 - EPS:
            return "interrupted", "succeeded", "failed"  # it may have been given up in that very moment
        if error is None or isinstance(error, rc.Done | rc.StopTree):
            return ("succeeded",)
        if not isinstance(error, asyncio.CancelledError):
            return ("failed",)
        asked = lap.life in world.asked_to_end or attempt.told or world.reduced is not None
        asked = asked or (attempt.script.end == "cancelled" and lap.idle_at is not None)
        if self.plan.plain or world.meddled is not None or (attempt.cut is None and asked):
            return ("failed", "interrupted")
        if attempt.cancels_itself:
            return ("failed", "interrupted") if asked or world.pool.error is not None else ("failed",)
        return ("failed",) if attempt.cut is None else ("interrupted",)

    def _adds_up(self, runs: Any) -> None:
        ended = sum(getattr(runs, status) for status in STATUSES)
        if runs.begun != ended + runs.in_flight:
            self.world.wrong("15", f"stats: {runs}")

    # --- now and then ---------------------------------------------------------------------------

    def looks(self) -> None:
        """In the middle of it."""
        world, pool = self.world, self.world.pool
        if pool.floor is None or world.torn:
            return
        stats = pool.stats()
        self._adds_up(stats.runs)
        self._counters(stats.runs)
        if stats.abandoned or any(self.given_up(lap) and lap.attempts[-1].ended is None for lap in world.laps):
            return
        laps = [lap for lap in world.laps if lap.life == pool.generation]
        if self.plan.plain and any(self._just_now(one.begun) or self._just_now(one.ended) for one in world.attempts):
            return  # threads are on their way from one run to the next
        if self.plan.bare:
            active = sum(lap.attempts[-1].ended is None for lap in laps)
            checks = self.plan.checks or self._perhaps_more
            if stats.runs.begun < len(laps) or (not checks and stats.runs.begun != len(laps)):
                world.wrong("15", f"the pool counts {stats.runs.begun} runs, and the jobs {len(laps)}")
            if stats.runs.in_flight < active or (not checks and stats.runs.in_flight != active):
                world.wrong("15", f"{stats.runs.in_flight} runs are in flight, and {active} jobs at work")
            self._last_error(laps, stats)
        elif not self.plan.looks:
            return
        elif stats.runs.begun < len(laps):
            world.wrong("15", f"the pool counts {stats.runs.begun} runs, and the jobs {len(laps)}")
        self._idle(laps, stats)

    def _just_now(self, at: float | None) -> bool:
        return at is not None and abs(self.world.now - at) < EPS

    def _idle(self, laps: list[Lap], stats: Any) -> None:
        idling = sum(lap.idling is not None and lap.attempts[-1].ended is None for lap in laps)
        if stats.idle < idling:
            self.world.wrong("15", f"{stats.idle} are idle, and {idling} jobs wait for something to do")
        exact = self.undisturbed and not any(one.cancels_itself for one in self.world.attempts)
        if exact and self.plan.bare and self.plan.backoff is None and stats.idle != idling:
            self.world.wrong("15", f"{stats.idle} are idle, and {idling} jobs wait for something to do")

    def _last_error(self, laps: list[Lap], stats: Any) -> None:
        """No error vanishes. (21)"""
        if self.plan.plain or self.plan.checks or self.world.meddled is not None:
            return
        over = [lap for lap in laps if lap.attempts[-1].ended is not None and not lap.outlived]
        sure = [self._end_of(lap) for lap in over if self._statuses(lap) == ("failed",)]
        if not sure:
            return
        latest = [lap.attempts[-1].error for lap in over if self._end_of(lap) >= max(sure) - EPS]
        if stats.last_error is None or stats.last_error not in latest:
            self.world.wrong("21", f"the last error is {stats.last_error!r}, and should be one of {latest}")

    @staticmethod
    def _end_of(lap: Lap) -> float:
        return lap.attempts[-1].ended or 0.0

    def _counters(self, runs: Any) -> None:
        world = self.world
        past = [stats.runs for life, stats in world.lives.items() if life != world.pool.generation]
        every = [*past, runs]
        for one in world.outermost:
            told = one.snapshot()
            numbers = told.numbers if isinstance(told, Timings) else told
            expected = (
                sum(each.begun for each in every), sum(each.ended for each in every),
                sum(each.failed + each.timed_out for each in every),
                sum(each.cancelled + each.interrupted + each.skipped for each in every),
            )  # fmt: skip
            if tuple(numbers) != expected and not self._let_go():
                world.wrong("15", f"{one} says {numbers}, and the pool {expected}")
        self._layers(runs)

    def _let_go(self) -> bool:
        """Whether anything was given up: what becomes of that is in the books of a life, or not."""
        return any(self.given_up(lap) for lap in self.world.laps)

    def _layers(self, runs: Any) -> None:
        """What is further inside is passed by all that the outermost layer of ours has let in."""
        world = self.world
        if self.plan.layers[:1] not in (("tally",), ("each tally",)) or len(world.lives) > (not world.pool.state.alive):
            return
        entered = sum(tally.entered for tally in world.tallies)
        if entered != runs.begun and not self._let_go():
            world.wrong("15", f"{entered} runs have passed the middleware, of {runs.begun}")
        for one in [*world.counters, *world.timers]:
            if self.plan.layers[-1] != "grumbles" and one.started != entered:
                world.wrong("15", f"{one} has counted {one.started}, of {entered}")

    def verdict(self) -> None:
        """Once everything is over."""
        world = self.world
        if world.torn:
            return
        for run in self.begun:
            if run not in self.ended and not self._let_go():
                world.wrong("1", f"{world.label(run)} never ended")
        if world.pool.floor is not None:
            self._counters(world.pool.stats().runs)
        self._times()

    def _times(self) -> None:
        """How long they took, by the jobs and by Elapsed."""
        world = self.world
        if not self.plan.bare or self.plan.checks or self._let_go() or world.meddled is not None:
            return
        laps = [lap for lap in world.laps if lap.attempts[-1].ended is not None]
        total = sum((lap.attempts[-1].ended or 0.0) - lap.attempts[-1].begun for lap in laps)
        for one in world.timers if not self._perhaps_more else []:
            if abs(one.total - total) > EPS * (len(laps) + 1):
                world.wrong("15", f"{one} has timed {one.total:g} s, and the jobs took {total:g} s")
