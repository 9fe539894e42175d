"""Interval: a job that is run again and again, exact on virtual time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcrew as rc
from runcrew import clock
from runcrew.abc import Handler
from runcrew.errors import ConfigError, NotAJob
from runcrew.events import RunStarted, TicksMissed
from runcrew.job import Outcome, Run, Status
from runcrew.lifecycle import State
from runcrew.testing import run_virtual, virtual_loop


def now() -> float:
    """The loop's time, to the microsecond: instants since the epoch are no more exact."""
    return round(asyncio.get_running_loop().time(), 6)


class Calls(list[float]):
    """A job that takes the given spans, one after another, and when it was called."""

    def __init__(self, *spans: float) -> None:
        super().__init__()
        self._spans = list(spans)
        self._running = False

    async def __call__(self) -> None:
        """Be called; never twice at a time."""
        assert not self._running
        self._running = True
        self.append(now())
        try:
            await asyncio.sleep(self._spans.pop(0) if self._spans else 0)
        finally:
            self._running = False


async def lived(interval: rc.Interval, span: float) -> None:
    """Let it live for a while."""
    await interval.start()
    await asyncio.sleep(span)
    await interval.kill()


# --- the rhythm ---------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("T3.37")
async def test_it_runs_at_once_and_then_at_every_tick() -> None:
    """The first run comes at the start, and an hour of ten seconds has 361 of them, each to the microsecond."""
    calls = Calls()
    await lived(rc.Interval(calls, "10s"), 3600.5)
    assert [10.0 * n for n in range(361)] == calls


@pytest.mark.virtual
async def test_no_rounding_adds_up() -> None:
    """After 10 000 ticks of a millisecond the last came when it was due, to the microsecond."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(clock.current().now())
        if len(calls) == 10_001:
            raise rc.Done

    await rc.Interval(job, "1ms").run()
    assert abs(calls[-1] - calls[0] - 10) < 2e-6


@pytest.mark.virtual
@pytest.mark.defect("D3.18")
async def test_a_fixed_rate_does_not_drift() -> None:
    """However long runs and retries take, ticks stay on the grid of the first."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        await asyncio.sleep(1.7)
        if len(calls) % 2:
            raise OSError

    rule = rc.Retry(OSError, backoff=rc.Constant("1.3s"))
    await lived(rc.Interval(job, "10s", retry=rule), 100)
    assert [n for tick in range(0, 100, 10) for n in (tick, tick + 3.0)] == calls


@pytest.mark.virtual
@pytest.mark.parity("T3.41")
async def test_a_fixed_delay_waits_a_full_interval_after_each_run() -> None:
    """In the other mode a full interval lies between the end of one run, retries included, and the next."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        await asyncio.sleep(2)
        if 2 == len(calls):
            raise OSError

    rule = rc.Retry(OSError, backoff=rc.Constant("1s"))
    await lived(rc.Interval(job, "10s", mode="delay", retry=rule), 40)
    assert [0.0, 12.0, 15.0, 27.0, 39.0] == calls


@pytest.mark.virtual
@pytest.mark.parity("T3.37", "T3.63")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.0, 10.0, 20.0]),
        ({"first": "after"}, [10.0, 20.0]),
        ({"first": "aligned"}, [3.0, 13.0, 23.0]),
        ({"delay": "4s"}, [4.0, 14.0, 24.0]),
        ({"delay": "4s", "first": "after"}, [14.0, 24.0]),
        ({"delay": "4s", "first": "aligned"}, [13.0, 23.0]),
        ({"mode": "delay", "first": "after"}, [10.0, 20.0]),
        ({"delay": None}, [0.0, 10.0, 20.0]),
        ({"delay": 0, "jitter": 0}, [0.0, 10.0, 20.0]),
    ],
)
async def test_where_the_first_run_is(options: dict[str, Any], expected: list[float]) -> None:
    """The first run is now, after one interval, or on the clock; a delay comes before all that, once."""
    calls = Calls()
    here = clock.current().now() % 10
    await asyncio.sleep(7 - here)  # so that the clock shows three seconds before the next ten
    begun = now()
    await lived(rc.Interval(calls, "10s", **options), 25)
    assert expected == [round(call - begun, 6) for call in calls]


@pytest.mark.virtual
async def test_aligned_to_the_minute() -> None:
    """With an interval of one minute each run is at second 0."""
    seen: list[datetime] = []

    async def job() -> None:
        seen.append(clock.utc(round(clock.current().now(), 3)))

    await asyncio.sleep(17.25)
    await lived(rc.Interval(job, "1m", first="aligned"), 150)
    assert [datetime(2025, 1, 1, 0, minute, tzinfo=UTC) for minute in (1, 2)] == seen


@pytest.mark.virtual
@pytest.mark.defect("D3.10", "D3.18")
async def test_jitter_moves_a_run_and_leaves_the_grid_alone() -> None:
    """Each run starts within the jitter after its tick, and they are not all alike."""
    calls = Calls()
    await lived(rc.Interval(calls, "10s", jitter="3s"), 1000)
    late = [call - 10 * n for n, call in enumerate(calls)]
    assert 100 == len(late)
    assert all(0 <= each <= 3 for each in late)
    assert max(late) - min(late) > 2
    assert 100 == len(dict.fromkeys(late))


@pytest.mark.defect("D3.10")
def test_jitter_repeats_with_the_seed() -> None:
    """The same seed gives the same times, another one others."""

    async def times() -> list[float]:
        calls = Calls()
        await lived(rc.Interval(calls, "10s", jitter="3s"), 100)
        return calls

    one, same, other = run_virtual(times, seed=1), run_virtual(times, seed=1), run_virtual(times, seed=2)
    assert one == same != other


# --- late runs ----------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("T3.38")
async def test_runs_never_overlap_and_one_tick_stays_pending() -> None:
    """A run that takes longer than its interval leaves one tick that is run at once; the others are missed."""
    calls = Calls(35, 0)
    await lived(rc.Interval(calls, "10s"), 55)
    assert [0.0, 35.0, 40.0, 50.0] == calls


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("took", "expected", "missed"),
    [
        (9.0, [0, 10, 20, 30, 40], 0),
        (10.0, [0, 10, 20, 30, 40], 0),
        (12.0, [0, 12, 20, 30, 40], 0),
        (20.0, [0, 20, 30, 40], 1),
        (25.0, [0, 25, 30, 40], 1),
        (41.0, [0, 41], 3),
    ],
)
async def test_what_is_missed_is_told(
    took: float, expected: list[float], missed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Ticks that were passed over are counted, logged and told as an event; never made up for in a burst."""
    heard: list[int] = []
    calls = Calls(took)
    interval = rc.Interval(calls, "10s", name="poll")
    interval.subscribe(lambda event: heard.append(event.count), TicksMissed)
    await lived(interval, 45)
    assert expected == calls
    assert missed == interval.stats().missed == sum(heard)
    assert (f"poll: {missed} tick(s) missed, it is running late" in caplog.text) is (missed > 0)


@pytest.mark.virtual
async def test_a_slow_run_with_a_fixed_delay_misses_nothing() -> None:
    """Where the next tick depends on the end of the last, none is passed over."""
    calls = Calls(35)
    interval = rc.Interval(calls, "10s", mode="delay")
    await lived(interval, 60)
    assert ([0.0, 45.0, 55.0], 0) == (calls, interval.stats().missed)


@pytest.mark.virtual
async def test_a_blocked_loop_runs_late_once_and_tells() -> None:
    """When the whole loop was blocked over several ticks, the one due is run late and the passed ones are told."""
    calls = Calls()
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(5)
    virtual_loop()._now += 100  # a step that blocked the loop for so long
    await asyncio.sleep(16)
    await interval.stop()
    assert ([0.0, 105.0, 105.0, 110.0, 120.0], 8) == (calls, interval.stats().missed)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 35), max_size=12),
    st.sampled_from(["rate", "delay"]),
    st.sampled_from(["now", "after"]),
    st.integers(0, 15),
)
def test_the_times_are_those_of_a_model(took: list[int], mode: Any, first: Any, delay: int) -> None:
    """Whatever the runs take, the times are those that a few lines of arithmetic give."""

    async def times() -> tuple[list[float], int]:
        calls = Calls(*map(float, took))
        interval = rc.Interval(calls, 10, mode=mode, first=first, delay=delay)
        await lived(interval, 300.5)
        return list(calls), interval.stats().missed

    due = delay + (10 if first == "after" else 0)
    expected, missed, spans = [], 0, list(took)
    at = due
    while at <= 300:
        expected.append(float(at))
        ended = at + (spans.pop(0) if spans else 0)
        if mode == "delay":
            at = ended + 10
        else:
            passed = max(1, (ended - due) // 10)
            due += 10 * passed
            missed += passed - 1 if ended <= 300 else 0
            at = max(due, ended)
    assert (expected, missed) == run_virtual(times)


# --- errors -------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("E3.10", "T3.37", "T3.39")
async def test_an_error_without_a_rule_ends_it() -> None:
    """A permanent error is the end of an interval, and comes out."""
    calls: list[float] = []
    error = OSError("second")

    async def job() -> None:
        calls.append(now())
        if len(calls) == 2:
            raise error

    interval = rc.Interval(job, "10s")
    with pytest.raises(OSError, match="second") as caught:
        await interval.run()
    assert ([0.0, 10.0], error, State.FAILED) == (calls, caught.value, interval.state)
    await asyncio.sleep(100)
    assert 2 == len(calls)


@pytest.mark.virtual
@pytest.mark.parity("E3.11", "T3.40")
async def test_an_error_with_a_rule_does_not_end_it() -> None:
    """A transient failure is retried within its tick, and the ticks go on."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        if len(calls) == 2:
            raise OSError

    interval = rc.Interval(job, "10s", retry=rc.Retry(OSError, retries=1, backoff=rc.Constant("2s")))
    await interval.start()
    await asyncio.sleep(25)
    report = await interval.stop()
    assert ([0.0, 10.0, 12.0, 20.0], True) == (calls, report.clean)
    assert (3, 1) == (interval.stats().runs.succeeded, interval.stats().runs.retries)


@pytest.mark.virtual
@pytest.mark.parity("T3.42", "T3.43", "T3.49", "E3.16")
async def test_failures_on_both_sides_of_a_success_never_add_up() -> None:
    """Each tick has its own budget: every second call failing never uses it up."""
    calls: list[int] = []

    async def job() -> None:
        calls.append(1)
        if len(calls) % 2 == 0:
            raise OSError

    interval = rc.Interval(job, "10s", retry=rc.Retry(OSError, retries=1, backoff=rc.Constant(0)))
    await interval.start()
    await asyncio.sleep(1000)
    await interval.stop()
    assert (State.STOPPED, None) == (interval.state, interval.error)
    assert len(calls) > 100


@pytest.mark.virtual
@pytest.mark.parity("T3.25", "T3.35", "T3.48")
async def test_a_timeout_is_for_each_attempt() -> None:
    """Each tick has its whole time; without a rule its end is the end of the interval."""
    calls = Calls(1, 1, 100)
    with pytest.raises(rc.RunTimeout):
        await rc.Interval(calls, "10s", timeout="5s").run()
    assert ([0.0, 10.0, 20.0], 25.0) == (calls, now())


@pytest.mark.virtual
@pytest.mark.parametrize("message", [rc.Done, rc.StopTree])
async def test_a_job_may_end_its_interval(message: Any) -> None:
    """Done is the last run."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        if len(calls) == 3:
            raise message

    report = await rc.Interval(job, "10s").run()
    assert ([0.0, 10.0, 20.0], True) == (calls, report.clean)


@pytest.mark.virtual
async def test_a_skipped_tick_is_no_failure() -> None:
    """A tick whose twin is under way elsewhere is passed over, and the next one comes."""
    dedupe = rc.Dedupe(lambda: "one", name="interval")

    async def job() -> None:
        await asyncio.sleep(15)

    one = rc.Interval(job, "10s", dedupe=dedupe, name="one")
    two = rc.Interval(job, "10s", dedupe=dedupe, name="two", delay="1s")
    await one.start()
    await two.start()
    await asyncio.sleep(12)
    assert (0, 2) == (two.stats().runs.succeeded, two.stats().runs.skipped)
    await asyncio.gather(one.stop(), two.stop())
    assert State.STOPPED is two.state


@pytest.mark.virtual
async def test_a_tick_that_is_skipped_during_a_stop_ends_it() -> None:
    """An interval that drains into a skipped run has nothing left."""

    def wrap(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            await asyncio.sleep(5)
            return run.finished(Status.SKIPPED, 0.0, reason="no")

        return handle

    interval = rc.Interval(Calls(), "10s", middleware=[wrap])
    await interval.start()
    await asyncio.sleep(1)
    assert (await interval.stop()).clean


@pytest.mark.virtual
async def test_a_plain_job_runs_in_a_thread() -> None:
    """A plain function does not keep the loop busy, and its ticks are as exact."""
    calls: list[float] = []

    def job() -> None:
        calls.append(round(clock.current().monotonic(), 6))
        rc.current_run().sleep(2)

    await lived(rc.Interval(job, "10s"), 35)
    assert [0.0, 10.0, 20.0, 30.0] == calls


# --- the handle ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_paused_interval_lets_ticks_pass() -> None:
    """While it is paused nothing runs, nothing counts as missed, and it goes on with the tick that is still to come."""
    calls = Calls()
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(15)
    interval.pause()
    interval.pause()
    assert (True, None) == (interval.paused, interval.stats().next_at)
    await asyncio.sleep(32)  # 47
    interval.resume()
    interval.resume()
    assert (False, False) == (interval.paused, interval.stats().paused)
    await asyncio.sleep(20)
    await interval.stop()
    assert ([0.0, 10.0, 50.0, 60.0], 0) == (calls, interval.stats().missed)


@pytest.mark.virtual
async def test_a_short_pause_loses_no_tick() -> None:
    """A pause between two ticks that is over before the next changes nothing."""
    calls = Calls()
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(12)
    interval.pause()
    await asyncio.sleep(3)
    interval.resume()
    await asyncio.sleep(10)
    await interval.stop()
    assert [0.0, 10.0, 20.0] == calls


@pytest.mark.virtual
@pytest.mark.parametrize(("until", "expected"), [(15, [0.0, 10.0, 20.0]), (27, [0.0, 10.0, 37.0])])
async def test_a_pause_with_a_fixed_delay(until: float, expected: list[float]) -> None:
    """In the other mode, too, a short pause changes nothing; a long one is followed by a full interval."""
    calls = Calls()
    interval = rc.Interval(calls, "10s", mode="delay")
    await interval.start()
    await asyncio.sleep(12)
    interval.pause()
    await asyncio.sleep(until - 12)
    interval.resume()
    await asyncio.sleep(11 if until > 20 else 6)
    await interval.stop()
    assert expected == calls


@pytest.mark.virtual
async def test_a_pause_lets_the_run_under_way_end() -> None:
    """A pause cancels nothing; the tick after the resumption is on the grid."""
    calls = Calls(7)
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(3)
    interval.pause()
    await asyncio.sleep(30)
    assert ([0.0], 1) == (calls, interval.stats().runs.succeeded)
    interval.resume()
    await asyncio.sleep(10)
    await interval.stop()
    assert [0.0, 40.0] == calls


@pytest.mark.virtual
async def test_what_was_due_before_a_pause_is_missed() -> None:
    """Ticks that a long run has left behind before the pause will not be run, and are told; later ones are not."""
    calls = Calls(45)
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(25)
    interval.pause()
    assert 2 == interval.stats().missed
    await asyncio.sleep(40)
    interval.resume()
    await asyncio.sleep(10)
    await interval.stop()
    assert ([0.0, 70.0], 2) == (calls, interval.stats().missed)


@pytest.mark.virtual
async def test_a_pause_and_a_resumption_within_one_run() -> None:
    """What was paused and resumed while a run was under way goes on with the next tick of the grid."""
    calls = Calls(7)
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(2)
    interval.pause()
    await asyncio.sleep(2)
    interval.resume()
    await asyncio.sleep(20)
    await interval.stop()
    assert ([0.0, 10.0, 20.0], 0) == (calls, interval.stats().missed)


@pytest.mark.virtual
async def test_a_trigger_runs_now_and_leaves_the_grid_alone() -> None:
    """A run out of turn is one more, and the tick that was waited for still comes."""
    causes: list[str] = []
    calls = Calls()
    interval = rc.Interval(calls, "10s")
    interval.subscribe(lambda event: causes.append(event.cause), RunStarted)
    await interval.start()
    await asyncio.sleep(14)
    assert interval.trigger()
    await asyncio.sleep(10)
    await interval.stop()
    assert ([0.0, 10.0, 14.0, 20.0], ["tick", "tick", "trigger", "tick"]) == (calls, causes)


@pytest.mark.virtual
@pytest.mark.parametrize(("took", "expected"), [(3, [0, 10, 14, 20, 30]), (8, [0, 10, 14, 22, 30])])
async def test_a_tick_that_comes_during_a_triggered_run_stays_pending(took: float, expected: list[float]) -> None:
    """No tick is lost to a run out of turn."""
    calls = Calls(0, 0, took)
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(14)
    interval.trigger()
    await asyncio.sleep(20)
    await interval.stop()
    assert (expected, 0) == (calls, interval.stats().missed)


@pytest.mark.virtual
async def test_a_trigger_before_the_first_tick() -> None:
    """Also an interval that waits for its first tick can be triggered."""
    calls = Calls()
    interval = rc.Interval(calls, "10s", first="after", delay="25s")
    await interval.start()
    await asyncio.sleep(1)
    assert interval.trigger()
    await asyncio.sleep(50)
    await interval.stop()
    assert [1.0, 35.0, 45.0] == calls


@pytest.mark.virtual
async def test_a_trigger_with_a_fixed_delay() -> None:
    """In the other mode the interval after a run out of turn is a full one."""
    calls = Calls()
    interval = rc.Interval(calls, "10s", mode="delay")
    await interval.start()
    await asyncio.sleep(4)
    interval.trigger()
    await asyncio.sleep(15)
    await interval.stop()
    assert [0.0, 4.0, 14.0] == calls


@pytest.mark.virtual
async def test_a_trigger_while_paused() -> None:
    """A paused interval can be triggered, and stays paused."""
    calls = Calls()
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(5)
    interval.pause()
    await asyncio.sleep(20)
    assert interval.trigger()
    await asyncio.sleep(20)
    assert [0.0, 25.0] == calls
    interval.resume()
    await asyncio.sleep(10)
    await interval.stop()
    assert [0.0, 25.0, 50.0] == calls


@pytest.mark.virtual
async def test_a_trigger_that_begins_nothing_says_so() -> None:
    """False where a run is under way already, and where the service does not run."""
    calls = Calls(5)
    interval = rc.Interval(calls, "10s")
    assert not interval.trigger()
    await interval.start()
    await asyncio.sleep(1)
    assert not interval.trigger()
    stop = asyncio.create_task(interval.stop())
    await asyncio.sleep(1)
    assert not interval.trigger()
    await stop
    assert not interval.trigger()
    assert [0.0] == calls


@pytest.mark.virtual
async def test_a_job_may_use_its_own_handle() -> None:
    """From inside its own run an interval can be paused, resumed and asked; it cannot be triggered."""
    answers: list[bool] = []

    async def job() -> None:
        answers.append(interval.trigger())
        interval.pause()

    interval = rc.Interval(job, "10s")
    await interval.start()
    await asyncio.sleep(35)
    assert ([False], True) == (answers, interval.paused)
    interval.resume()
    await asyncio.sleep(10)
    await interval.stop()
    assert [False, False] == answers


@pytest.mark.virtual
async def test_a_new_life_is_not_paused_and_counts_afresh() -> None:
    """What was paused or missed in one life is forgotten in the next; the runs are counted on."""
    calls = Calls(25)
    interval = rc.Interval(calls, "10s")
    await interval.start()
    await asyncio.sleep(26)
    assert 1 == interval.stats().missed
    interval.pause()
    await interval.stop()
    await interval.start()
    await asyncio.sleep(1)
    stats = interval.stats()
    assert (False, 0, 2) == (stats.paused, stats.missed, stats.generation)
    assert 3 == stats.runs.succeeded
    await interval.stop()


# --- as it is made ------------------------------------------------------------------------


@pytest.mark.parity("T3.31", "T3.32", "E3.5")
@pytest.mark.defect("D3.11")
@pytest.mark.parametrize(
    ("every", "options", "said"),
    [
        (0, {}, "every: 0 is zero"),
        ("0s", {}, "every: '0s' is zero"),
        (-1, {}, "every: -1 is negative"),
        (float("nan"), {}, "every: nan is not a finite span"),
        (float("inf"), {}, "every: inf is not a finite span"),
        (1e308, {}, r"every: 1e\+308 is longer than a year"),
        (True, {}, "every: True is not a span"),
        (None, {}, "every: None is not a span"),
        ("often", {}, "every: 'often' does not parse"),
        (10, {"mode": "fixed"}, "mode: 'fixed' is neither"),
        (10, {"first": "soon"}, "first: 'soon' is not one of"),
        (10, {"jitter": 10}, "jitter: 10 is not less than the interval, 10s"),
        (10, {"jitter": -1}, "jitter: -1 is negative"),
        (10, {"delay": -1}, "delay: -1 is negative"),
        (10, {"timeout": -1}, "timeout: -1 is negative"),
        (10, {"on_failure": "stop all"}, "on_failure: 'stop all' is not one of"),
    ],
)
def test_bad_options_are_refused(every: Any, options: dict[str, Any], said: str) -> None:
    """A bad value is refused when the interval is made, with its name and the value."""
    with pytest.raises(ConfigError, match=said):
        rc.Interval(Calls(), every, **options)


@pytest.mark.parity("T3.31")
@pytest.mark.parametrize("job", [None, 42, int])
def test_what_is_no_job_is_refused(job: Any) -> None:
    """An interval needs something to run."""
    with pytest.raises(NotAJob):
        rc.Interval(job, 1)


@pytest.mark.virtual
@pytest.mark.parity("T3.50")
async def test_the_log_says_how_often(caplog: pytest.LogCaptureFixture) -> None:
    """The rhythm, the delay and the rules are in the log at the start of a life."""
    caplog.set_level("DEBUG", "runcrew")
    await lived(rc.Interval(Calls(), "10s", name="poll", delay="5s", retry=rc.Retry(OSError)), 1)
    assert "poll: runs every 10s (rate, first now), after a delay of 5s: retry OSError" in caplog.text


# --- an hour ------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_an_hour_of_supervised_polling_with_backoff() -> None:
    """An hour of polling something flaky, with timeouts, retries and restarts, takes no time and adds up."""
    chance = clock.current().random
    crew = rc.Crew("watch", intensity=rc.Intensity(1000, "1m"))

    @crew.interval(
        "10s",
        timeout="3s",
        jitter="1s",
        retry=[
            rc.Retry(OSError, retries=3, backoff=rc.Exponential("500ms", cap="2s")),
            rc.Retry(TimeoutError, retries=1, backoff=rc.Constant("1s")),
        ],
    )
    async def poll() -> None:
        await asyncio.sleep(chance.choice([0.1, 0.5, 1.0, 5.0]))
        if chance.random() < 0.3:
            raise OSError("flaky")
        if chance.random() < 0.02:
            raise ValueError("a bug")

    await crew.start()
    await asyncio.sleep(3600)
    report = await crew.stop()
    handle: Any = crew["poll"]
    runs = handle.stats().runs
    assert (0, runs.begun) == (runs.in_flight, runs.ended)
    assert runs.begun > 250
    assert runs.retries > 100
    assert 0 < crew.stats().restarts["poll"] == handle.generation - 1 == runs.failed + runs.timed_out
    assert () == report.errors
