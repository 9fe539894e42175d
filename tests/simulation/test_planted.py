"""The simulator finds what it is there to find: each of these faults, planted in the library, breaks a law soon."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from simulator import simulate, told

from runcrew.insight import Meter
from runcrew.job import Outcome, Run, Status
from runcrew.lifecycle import BaseService, Execution, Latch, Limit
from runcrew.policies import concurrency, dedupe, timeout
from runcrew.policies import retry as retries
from runcrew.supervise import Interval, Supervisor, supervisor
from runcrew.supervise.child import Child
from runcrew.supervise.decide import End
from runcrew.supervise.service import JobService
from runcrew.supervise.ticks import Tick, Ticks
from runcrew.workers import Restart, Restarts

Plant: TypeAlias = Callable[[pytest.MonkeyPatch], None]

#: No fault needs more schedules than that.
WITHIN: Final = 60


def restart_ignores_intensity(patch: pytest.MonkeyPatch) -> None:
    """However often a child fails, it is started again."""
    patch.setattr(Restarts, "failed", lambda self, now: Restart(0.5, "always"))


def restart_after_remove(patch: pytest.MonkeyPatch) -> None:
    """A child that is removed while it waits for its restart is restarted all the same."""

    async def remove(self: Supervisor, child: Child, span: float) -> None:
        timer = child.timer
        if timer is None:
            await original(self, child, span)

    original = Supervisor._remove
    patch.setattr(Supervisor, "_remove", remove)


def restart_in_a_stop(patch: pytest.MonkeyPatch) -> None:
    """A restart that was decided is not called off by a stop."""
    patch.setattr(Supervisor, "_cancel_restart", lambda self, child: child.timer and child.end())


def tick_in_a_stop(patch: pytest.MonkeyPatch) -> None:
    """An interval ticks on while its stop is announced."""
    patch.setattr(Interval, "_accept_no_more", lambda self: None)
    drain = Interval._begin_drain

    def begin_drain(self: Interval) -> None:
        self._cancel_timer()
        if self._execution is not None:
            self._execution.finish_soon("its service was stopped")
        drain(self)

    patch.setattr(Interval, "_begin_drain", begin_drain)


def a_next_tick_at_the_end(patch: pytest.MonkeyPatch) -> None:
    """A run that ends well during a stop is followed by the next tick."""

    def after_run(self: Interval, outcome: Outcome[Any], *, finished: bool) -> None:
        if outcome.status is Status.SUCCEEDED and not finished:
            self._next(self._ticks.after(self._tick, self._tick.due))
        else:
            original(self, outcome, finished=finished)

    original = Interval._after_run
    patch.setattr(Interval, "_after_run", after_run)


def end_seen_only_inside(patch: pytest.MonkeyPatch) -> None:
    """The end of a run is told by the code in its task, which a task cancelled before its first step never runs."""

    async def carry_out(self: Execution, handler: Any) -> None:
        try:
            await original(self, handler)
        finally:
            asyncio.get_running_loop().call_soon(ended, self, self.task)

    original, ended = Execution._carry_out, Execution._ended
    patch.setattr(Execution, "_carry_out", carry_out)
    patch.setattr(Execution, "_ended", lambda self, task: None)


def attempt_after_the_end(patch: pytest.MonkeyPatch) -> None:
    """A run is attempted again although it was asked to end."""

    def ask_to_end(self: Run, why: Status, text: str = "") -> bool:
        first = original(self, why, text)
        self.final = False
        return first

    original = Run.ask_to_end
    patch.setattr(Run, "ask_to_end", ask_to_end)


def error_swallowed_by_a_stop(patch: pytest.MonkeyPatch) -> None:
    """What a run raises after it was asked to end counts as its interruption."""

    async def handled(self: Execution, handler: Any) -> Outcome[Any]:
        outcome = await original(self, handler)
        return outcome if self.run.why is None else self.run.ended_by_request(outcome.ended)

    original = Execution._handled
    patch.setattr(Execution, "_handled", handled)


def limit_stays(patch: pytest.MonkeyPatch) -> None:
    """The limit of the first stop counts, whatever comes after it."""

    def move(self: Limit, when: float) -> None:
        if self.when == float("inf"):
            original(self, when)

    original = Limit.move
    patch.setattr(Limit, "move", move)


def no_hooks_after_a_failure(patch: pytest.MonkeyPatch) -> None:
    """The hooks at the end are called only after a good one."""

    def epilogue(self: BaseService) -> Any:
        return [] if self._life.error or getattr(self, "_failures", None) else original(self)

    original = BaseService._epilogue
    patch.setattr(BaseService, "_epilogue", epilogue)


def one_future_for_all(patch: pytest.MonkeyPatch) -> None:
    """Everybody who waits for one thing waits on the same future, so cancelling one cancels all."""

    async def wait_until(self: Any, limit: Limit) -> bool:
        if limit.when != float("inf"):
            return await original(self, limit)
        while not self._open:
            if not self._waiters:
                self._waiters[0] = asyncio.get_running_loop().create_future()
            try:
                await self._waiters[0]
            finally:
                self._waiters.pop(0, None)
        return True

    original = Latch.wait_until
    patch.setattr(Latch, "wait_until", wait_until)


def missed_ticks_untold(patch: pytest.MonkeyPatch) -> None:
    """Ticks that were missed are passed over in silence."""
    original = Ticks.after
    patch.setattr(Ticks, "after", lambda self, last, now: replace(original(self, last, now), missed=0))


def grid_shifts(patch: pytest.MonkeyPatch) -> None:
    """The next tick is counted from the end of the run."""
    patch.setattr(Ticks, "after", lambda self, last, now: Tick(now + self.every))


def tick_over_and_over(patch: pytest.MonkeyPatch) -> None:
    """A tick that was late is not left behind."""

    def after(self: Ticks, last: Tick, now: float) -> Tick:
        tick = original(self, last, now)
        return last if tick.missed else tick

    original = Ticks.after
    patch.setattr(Ticks, "after", after)


def resume_skips_one(patch: pytest.MonkeyPatch) -> None:
    """After a pause the tick that is still to come is skipped."""

    def resume(self: Interval) -> None:
        if self._paused:
            self._paused = False
            if self._execution is None and self._state == "running":
                self._next(self._ticks.skip_to(self._tick, self._tick.due))

    patch.setattr(Interval, "resume", resume)


def place_lost(patch: pytest.MonkeyPatch) -> None:
    """A waiter that is cancelled as it gets its place keeps it for ever; so does one that is asked to end."""

    def leave(self: concurrency.Places, waiter: Any) -> None:
        with self._lock:
            self.waiters.pop(waiter, None)

    patch.setattr(concurrency.Places, "_leave", leave)


def two_places_for_one(patch: pytest.MonkeyPatch) -> None:
    """One more than the limit gets a place."""

    def take_now(self: concurrency.Places) -> bool:
        if self.in_use > self.limit:
            return False
        self.in_use += 1
        return True

    patch.setattr(concurrency.Places, "_take_now", take_now)


def key_never_released(patch: pytest.MonkeyPatch) -> None:
    """A dedupe key stays claimed after its run."""
    patch.setattr(dedupe.Claim, "release", lambda self: None)


def timeout_keeps_its_cancellation(patch: pytest.MonkeyPatch) -> None:
    """A timeout does not take back the cancellation that it made."""

    def off(self: timeout.Alarm) -> bool:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._rang

    patch.setattr(timeout.Alarm, "off", off)


def gone_too_early(patch: pytest.MonkeyPatch) -> None:
    """A child counts as gone as soon as it has been told to stop."""

    async def stop(self: Child, span: float) -> None:
        self.gone.open()
        await original(self, span)

    original = Child.stop
    patch.setattr(Child, "stop", stop)


def stop_in_any_order(patch: pytest.MonkeyPatch) -> None:
    """All children stop together, whoever depends on whom."""
    patch.setattr(supervisor, "stop_after", lambda graph, one_by_one: {name: [] for name in graph})


def start_in_any_order(patch: pytest.MonkeyPatch) -> None:
    """A child does not wait for what it depends on."""

    async def live(self: Supervisor, child: Child) -> End:
        child.begun = True
        return await child.live(self._child_ready)

    patch.setattr(Supervisor, "_live", live)


def helpers_left(patch: pytest.MonkeyPatch) -> None:
    """What a supervisor does in the background outlives it."""

    def end_life(self: Supervisor) -> None:
        helpers, self._helpers = self._helpers, {}
        lasting = self._spawn(asyncio.sleep(100), "lasting") if helpers else None
        original(self)
        self._helpers = {} if lasting is None else {lasting: ""}

    original = Supervisor._end_life
    patch.setattr(Supervisor, "_end_life", end_life)


def first_error_only(patch: pytest.MonkeyPatch) -> None:
    """Of several permanent errors only the first comes out."""

    def keep(self: Supervisor, child: Child, end: End) -> None:
        before = self._failures[:1]
        original(self, child, end)
        self._failures[:] = before or self._failures

    original = Supervisor._keep
    patch.setattr(Supervisor, "_keep", keep)


def drain_cancels(patch: pytest.MonkeyPatch) -> None:
    """A drain cancels the attempt that it should let finish."""

    def begin_drain(self: Interval) -> None:
        if self._execution is not None:
            self._execution.cancel(Status.INTERRUPTED, "stopped")
        original(self)

    original = Interval._begin_drain
    patch.setattr(Interval, "_begin_drain", begin_drain)


def meter_forgets(patch: pytest.MonkeyPatch) -> None:
    """Runs that were interrupted are not counted."""

    def ended(self: Meter, outcome: Outcome[Any]) -> None:
        if outcome.status is not Status.INTERRUPTED:
            original(self, outcome)

    original = Meter.ended
    patch.setattr(Meter, "ended", ended)


def kill_only_drains(patch: pytest.MonkeyPatch) -> None:
    """When time is up, nothing is cut."""
    patch.setattr(JobService, "_cut", lambda self: None)


def budgets_start_anew(patch: pytest.MonkeyPatch) -> None:
    """What a rule has spent is forgotten when another takes a failure: budgets multiply."""
    patch.setattr(retries, "_carried_on", lambda rules, counts, key: {k: n for k, n in counts.items() if k == key})


def final_is_retried(patch: pytest.MonkeyPatch) -> None:
    """A rule that names an error also takes one that says it is final."""
    patch.setattr(retries, "is_final", lambda error: False)
    patch.setattr(retries, "FINAL", ())


def tree_goes_on(patch: pytest.MonkeyPatch) -> None:
    """A child that asks for the end of the tree ends alone."""
    patch.setattr(Child, "_stops_tree", lambda self: False)


def stuck_untold(patch: pytest.MonkeyPatch) -> None:
    """What would not stop is not in the report."""
    patch.setattr(JobService, "_still_running", lambda self: ())


def old_run_ends_new_life(patch: pytest.MonkeyPatch) -> None:
    """A run that would not stop ends the life that has begun since."""

    def run_ended(self: JobService, execution: Execution, outcome: Outcome[Any]) -> None:
        self._execution = execution
        original(self, execution, outcome)

    original = JobService._run_ended
    patch.setattr(JobService, "_run_ended", run_ended)


def waits_in_its_own_work(patch: pytest.MonkeyPatch) -> None:
    """A stop from inside a service's own work waits for that work."""
    from runcrew.lifecycle import service

    patch.setattr(service, "is_inside", lambda service: False)


def ready_too_early(patch: pytest.MonkeyPatch) -> None:
    """A child that was stopped before it was ready counts as ready."""

    async def watch(self: Child) -> End:
        self.ready = True
        return await original(self)

    original = Child.watch
    patch.setattr(Child, "watch", watch)


#: The fault, the first of the schedules that are tried, and the law that the one that finds it sees broken.
FAULTS: Final[tuple[tuple[Plant, int, str], ...]] = (
    (restart_ignores_intensity, 0, "S2"),
    (restart_after_remove, 1280, "S4"),
    (restart_in_a_stop, 0, "D1"),
    (tick_in_a_stop, 0, "10"),
    (a_next_tick_at_the_end, 0, "13"),
    (end_seen_only_inside, 0, "1"),
    (attempt_after_the_end, 0, "10"),
    (error_swallowed_by_a_stop, 0, "10"),
    (limit_stays, 240, "16"),
    (no_hooks_after_a_failure, 0, "21"),
    (one_future_for_all, 0, "2"),
    (missed_ticks_untold, 0, "13"),
    (grid_shifts, 0, "13"),
    (tick_over_and_over, 0, "13"),
    (resume_skips_one, 540, "13"),
    (place_lost, 780, "16"),
    (two_places_for_one, 120, "5"),
    (key_never_released, 0, "16"),
    (timeout_keeps_its_cancellation, 110, "12"),
    (gone_too_early, 0, "16"),
    (stop_in_any_order, 0, "S1"),
    (start_in_any_order, 0, "S1"),
    (helpers_left, 0, "16"),
    (first_error_only, 0, "21"),
    (drain_cancels, 0, "20"),
    (meter_forgets, 0, "15"),
    (kill_only_drains, 80, "S6"),
    (budgets_start_anew, 1320, "12"),
    (final_is_retried, 0, "T3"),
    (tree_goes_on, 0, "S3"),
    (stuck_untold, 0, "S6"),
    (old_run_ends_new_life, 840, "21"),
    (waits_in_its_own_work, 30, "19"),
    (ready_too_early, 550, "S1"),
)


@pytest.mark.parametrize(("plant", "first", "law"), FAULTS, ids=[plant.__name__ for plant, _, _ in FAULTS])
def test_a_planted_fault_is_found(plant: Plant, first: int, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, one of a few schedules that break no law otherwise breaks the one that is meant."""
    plant(monkeypatch)
    for seed in range(first, first + WITHIN):
        result = simulate(seed)
        if result.wrongs:
            assert any(wrong.startswith(f"[{law}]") for wrong in result.wrongs), told(result)
            return
    pytest.fail(
        f"not within {WITHIN} schedules: `python {Path(__file__).name} {plant.__name__}` finds another beginning"
    )


def _search(names: list[str]) -> None:
    """For each fault (or those named), the first schedules that find it, and which laws they see broken."""
    for plant, _, law in FAULTS:
        if names and plant.__name__ not in names:
            continue
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            results = (simulate(seed) for seed in range(2000))
            found = list(itertools.islice((result for result in results if result.wrongs), 3))
        print(plant.__name__, law, *(f"{result.seed}: {result.wrongs[0][:100]}" for result in found), sep="\n    ")


if __name__ == "__main__":
    _search(sys.argv[1:])
