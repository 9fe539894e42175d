"""Supervisor: what follows when a child ends, and in what order children start and stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import ConfigError
from runcrew.events import Restarted, RunStarted, StateChanged
from runcrew.lifecycle import State


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


async def quick() -> None:
    """Is over at once."""


def after(span: float, error: BaseException | type[BaseException] | None = None) -> Callable[[], Any]:
    """A job that ends, or raises, after so many seconds."""

    async def job() -> None:
        await asyncio.sleep(span)
        if error is not None:
            raise error

    return job


class Names(list[str]):
    """Notes who was cancelled, in order."""

    def job(self, name: str, clean_up: float = 0) -> Callable[[], Any]:
        """A job that goes on until it is cancelled, and notes that when it has cleaned up."""

        async def job() -> None:
            try:
                await long()
            finally:
                await asyncio.sleep(clean_up)
                self.append(name)

        return job

    def services(self, names: str, **options: Any) -> list[rc.OneShot]:
        """One for each letter."""
        return [rc.OneShot(self.job(name), name=name, **options) for name in names]


def errors_of(group: BaseException | None) -> list[str]:
    """What is in a group, in words."""
    assert isinstance(group, ExceptionGroup)
    return [f"{type(error).__name__}: {error}" if str(error) else type(error).__name__ for error in group.exceptions]


# --- beginning and end ----------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("T3.53", "T3.54")
async def test_all_children_start_together_when_it_starts() -> None:
    """Adding starts nothing; a start starts all at the same time; the end is when all have ended."""
    begun: list[tuple[str, float]] = []

    def job(name: str) -> Callable[[], Any]:
        async def run() -> None:
            begun.append((name, now()))
            await asyncio.sleep(5)

        return run

    supervisor = rc.Supervisor(rc.OneShot(job("a"), name="a"))
    supervisor.add(rc.OneShot(job("b"), name="b"))
    await asyncio.sleep(1)
    assert [] == begun
    assert ["a", "b"] == list(supervisor)
    await supervisor.run()
    assert ([("a", 1.0), ("b", 1.0)], 6.0) == (begun, now())


@pytest.mark.virtual
@pytest.mark.parity("T3.55", "E3.15")
async def test_a_child_that_ends_well_does_not_end_the_others() -> None:
    """The supervisor ends when the last child has ended."""
    await rc.Supervisor(rc.OneShot(after(1), name="a"), rc.OneShot(after(3), name="b")).run()
    assert 3.0 == now()


@pytest.mark.virtual
@pytest.mark.parity("T3.55")
async def test_without_children_it_ends_at_once() -> None:
    """Nothing to watch over is nothing to wait for, unless it is kept open."""
    empty = rc.Supervisor()
    report = await empty.run()
    assert ((), State.STOPPED, 0.0) == (report.children, empty.state, now())
    async with rc.Supervisor(keep_open=True) as kept:
        await asyncio.sleep(10)
        assert State.RUNNING is kept.state


@pytest.mark.virtual
async def test_kept_open_it_outlives_its_last_child() -> None:
    """With keep_open the end of all children is not its end."""
    kept = rc.Supervisor(rc.OneShot(quick), keep_open=True)
    await kept.start()
    await asyncio.sleep(5)
    assert State.RUNNING is kept.state
    kept.add(rc.OneShot(after(1), name="late"))
    await asyncio.sleep(5)
    assert State.RUNNING is kept.state
    await kept.stop()


# --- failures -------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("T3.56", "E3.15")
async def test_a_permanent_error_stops_all_others() -> None:
    """The others are cancelled and awaited, then that error comes out."""
    names = Names()
    error = OSError("for good")
    slow = rc.OneShot(names.job("slow", clean_up=2), name="slow")
    interval = rc.Interval(quick, "10s")
    supervisor = rc.Supervisor(slow, interval, rc.OneShot(after(5, error)))
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run()
    assert (error,) == caught.value.exceptions
    assert (["slow"], 7.0, State.FAILED) == (names, now(), supervisor.state)
    assert [State.STOPPED, State.STOPPED] == [slow.state, interval.state]
    assert (error,) == supervisor.report.errors if supervisor.report else ()


@pytest.mark.virtual
@pytest.mark.parity("T3.56")
@pytest.mark.defect("D3.4")
async def test_all_permanent_errors_come_out_in_their_order() -> None:
    """Errors of the others, also those of their clean-up, are in the group, in the order in which they came."""

    async def bad_clean_up() -> None:
        try:
            await long()
        finally:
            await asyncio.sleep(1)
            raise ValueError("third")

    supervisor = rc.Supervisor(
        rc.OneShot(bad_clean_up),
        rc.OneShot(after(5, OSError("first")), name="a"),
        rc.OneShot(after(5, KeyError("second")), name="b"),
        name="top",
    )
    with pytest.raises(ExceptionGroup, match=r"top: 3 permanent error\(s\)") as caught:
        await supervisor.run()
    assert ["OSError: first", "KeyError: 'second'", "ValueError: third"] == errors_of(caught.value)


@pytest.mark.virtual
async def test_isolated_failures_harm_nobody_and_come_out_at_the_end() -> None:
    """With "isolate" the others go on, and no failure is only logged."""
    supervisor = rc.Supervisor(
        rc.OneShot(after(1, OSError("a")), name="a"),
        rc.OneShot(after(5), name="b"),
        rc.OneShot(after(3, OSError("c")), name="c"),
        on_failure="isolate",
    )
    await supervisor.start()
    await asyncio.sleep(4)
    assert State.RUNNING is supervisor.state
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.wait()
    assert (["OSError: a", "OSError: c"], 5.0) == (errors_of(caught.value), now())


@pytest.mark.virtual
async def test_the_child_says_it_or_else_its_supervisor() -> None:
    """What follows on a failure: `add` beats the child's own word, and that beats the supervisor's."""
    supervisor = rc.Supervisor(rc.OneShot(long, name="other"), on_failure="stop")
    supervisor.add(rc.OneShot(after(1, OSError), name="a", on_failure="stop"), on_failure="isolate")
    supervisor.add(rc.OneShot(after(2, OSError), name="b", on_failure="isolate"))
    await supervisor.start()
    await asyncio.sleep(5)
    assert State.RUNNING is supervisor.state
    assert 2 == len((await supervisor.stop()).errors)


@pytest.mark.virtual
async def test_what_is_kept_of_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that come, fail and go for ever need no more and more memory: the first errors are kept, all counted."""
    monkeypatch.setattr("runcrew.supervise.supervisor.KEPT", 3)
    supervisor = rc.Supervisor(keep_open=True, name="top", on_failure="isolate")
    await supervisor.start()
    for n in range(10):
        supervisor.add(rc.OneShot(after(1, OSError(str(n))), name="child"))
        await asyncio.sleep(2)
        await supervisor.remove("child")
    await supervisor.stop()
    with pytest.raises(ExceptionGroup, match=r"top: 10 permanent error\(s\), the first 3 of them here") as caught:
        await supervisor.wait()
    assert ["OSError: 0", "OSError: 1", "OSError: 2"] == errors_of(caught.value)


class Foreign:
    """A service of a user, without anything that it need not have."""

    def __init__(self, error: BaseException | None = None, lasts: float = 1) -> None:
        self.error = error
        self.lasts = lasts

    async def start(self) -> None:
        """Be ready."""

    async def wait(self) -> None:
        """End."""
        await asyncio.sleep(self.lasts)
        if self.error is not None:
            raise self.error

    async def stop(self, timeout: Any = 0) -> None:
        """End sooner."""
        self.lasts = 0


@pytest.mark.virtual
async def test_a_service_that_says_nothing_takes_the_supervisors_word() -> None:
    """Where neither `add` nor the child decides, the supervisor does."""
    for word, state in (("isolate", State.RUNNING), ("stop", State.FAILED)):
        supervisor = rc.Supervisor(Foreign(OSError()), rc.OneShot(after(10)), on_failure=word)  # type: ignore[arg-type]
        await supervisor.start()
        await asyncio.sleep(5)
        assert state is supervisor.state
        await supervisor.stop()


# --- restarts -------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_child_is_restarted_after_a_pause_that_grows() -> None:
    """A restart comes after its backoff, is logged and told as an event, and begins a new life."""
    heard: list[Restarted] = []
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())
        await asyncio.sleep(1)
        if len(begun) < 4:
            raise OSError("down")

    child = rc.OneShot(job, on_failure="restart")
    supervisor = rc.Supervisor(child, backoff=rc.Exponential("2s", factor=2, jitter="none"), name="top")
    supervisor.subscribe(heard.append, Restarted)
    await supervisor.run()
    assert [0.0, 3.0, 8.0, 17.0] == begun
    assert [("top", "job", delay) for delay in (2.0, 4.0, 8.0)] == [(e.service, e.child, e.delay) for e in heard]
    assert ["failure 1 of 5 in 1m", "failure 1.92 of 5 in 1m"] == [event.reason for event in heard[:2]]
    assert isinstance(heard[0].error, OSError)
    assert (4, {"job": 3}) == (child.generation, supervisor.stats().restarts)


@pytest.mark.virtual
@pytest.mark.parametrize("limit", [0, 1, 5])
async def test_no_more_restarts_than_are_borne(limit: int) -> None:
    """A child that fails at once for ever is restarted as often as is borne, then the supervisor gives up, once."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())
        raise OSError(str(len(begun)))

    supervisor = rc.Supervisor(
        rc.OneShot(job, on_failure="restart"),
        rc.OneShot(long, name="other"),
        intensity=rc.Intensity(limit, "60s"),
        backoff=rc.Constant(0),
    )
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run()
    assert ([f"OSError: {limit + 1}"], limit + 1) == (errors_of(caught.value), len(begun))


@pytest.mark.virtual
async def test_the_intensity_decays_with_time() -> None:
    """A child that fails seldom enough is restarted for ever."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())
        await asyncio.sleep(30)
        raise OSError

    supervisor = rc.Supervisor(rc.OneShot(job, on_failure="restart"), intensity=rc.Intensity(2, "60s"))
    await supervisor.start()
    await asyncio.sleep(3600)
    assert (State.RUNNING, True) == (supervisor.state, len(begun) > 100)
    assert (await supervisor.stop()).clean


@pytest.mark.virtual
async def test_each_child_has_an_intensity_of_its_own() -> None:
    """Failures of one are not counted against another."""
    supervisor = rc.Supervisor(
        *(rc.OneShot(after(1, OSError(name)), name=name, on_failure="restart") for name in "abc"),
        intensity=rc.Intensity(2, "1h"),
        backoff=rc.Constant("1s"),
    )
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    assert {"a": 2, "b": 2, "c": 2} == supervisor.stats().restarts


@pytest.mark.virtual
@pytest.mark.defect("D3.10")
async def test_many_children_are_not_restarted_in_step() -> None:
    """By default the pause before a restart is jittered: those that fell together do not rise together."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())
        if now() == 0:
            raise OSError
        await long()

    supervisor = rc.Supervisor(*(rc.OneShot(job, name=str(n), on_failure="restart") for n in range(50)))
    await supervisor.start()
    await asyncio.sleep(5)
    again = begun[50:]
    assert 50 == len(again) == len(dict.fromkeys(again))
    assert all(0.5 <= at <= 1 for at in again)
    await supervisor.stop()


@pytest.mark.virtual
async def test_a_restart_that_is_pending_at_a_stop_never_comes() -> None:
    """A stop while a child waits for its restart has nothing to wait for, and the failure was no permanent one."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())
        raise OSError

    child = rc.OneShot(job, on_failure="restart")
    supervisor = rc.Supervisor(child, backoff=rc.Constant("10s"))
    await supervisor.start()
    await asyncio.sleep(1)
    report = await supervisor.stop()
    assert (1.0, (), State.STOPPED) == (now(), report.errors, supervisor.state)
    await asyncio.sleep(100)
    assert [0.0] == begun


@pytest.mark.virtual
async def test_a_child_that_does_not_get_ready_is_restarted_while_others_wait() -> None:
    """A failed start counts as a failure; what depends on the child waits for a life that gets ready."""
    attempts: list[float] = []

    async def flaky() -> None:
        attempts.append(now())
        if len(attempts) < 3:
            raise OSError
        rc.current_run().ready()
        await long()

    supervisor = rc.Supervisor(backoff=rc.Constant("5s"))
    supervisor.add(rc.OneShot(flaky, ready="signal", on_failure="restart"))
    other = rc.OneShot(long, name="other")
    supervisor.add(other, depends_on=["flaky"])
    await supervisor.start()
    assert ([0.0, 5.0, 10.0], 10.0, State.RUNNING) == (attempts, now(), other.state)
    assert (await supervisor.stop()).clean


@pytest.mark.virtual
@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "soon", None])
async def test_a_backoff_without_a_usable_answer_ends_the_supervisor(wrong: Any) -> None:
    """A restart that cannot be timed is no hot loop and no hang: the child's error and the reason come out."""
    supervisor = rc.Supervisor(rc.OneShot(after(1, OSError("x")), on_failure="restart"), backoff=lambda n: wrong)  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run()
    assert [OSError, ConfigError] == [type(error) for error in caught.value.exceptions]


# --- retry state over restarts ------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.defect("D3.22")
async def test_a_restart_keeps_the_retry_state_until_a_success() -> None:
    """A child that is restarted goes on with its backoff where it was: budgets add up and never multiply."""
    calls: list[float] = []

    async def job() -> None:
        calls.append(now())
        if len(calls) != 7:
            raise OSError

    rule = rc.Retry(OSError, retries=3, backoff=rc.Exponential("1s", jitter="none"))
    child = rc.Interval(job, "1h", retry=rule, on_failure="restart")
    supervisor = rc.Supervisor(child, backoff=rc.Constant("100s"), intensity=rc.Intensity(9, "1s"))
    await supervisor.start()
    await asyncio.sleep(600)
    # three retries; then each restart has none left, until the seventh call succeeds, and the budget is whole again
    assert [0.0, 1.0, 3.0, 7.0, 107.0, 207.0, 307.0] == calls
    await asyncio.sleep(3600 + 307 + 8 - 600)
    assert [3907.0, 3908.0, 3910.0, 3914.0] == calls[7:]
    await supervisor.stop()


@pytest.mark.virtual
@pytest.mark.defect("D3.14", "D3.22")
async def test_a_start_by_hand_and_a_new_life_of_the_supervisor_begin_afresh() -> None:
    """Only a restart keeps retry state; whoever starts a child or its supervisor again has the whole budget."""
    calls: list[int] = []

    async def job() -> None:
        calls.append(1)
        raise OSError

    rule = rc.Retry(OSError, retries=3, backoff=rc.Constant(0))
    child = rc.OneShot(job, retry=rule, on_failure="isolate")
    supervisor = rc.Supervisor(child, keep_open=True)
    await supervisor.start()
    await asyncio.sleep(1)
    assert 4 == len(calls)
    await child.start()
    await asyncio.sleep(1)
    assert 8 == len(calls)
    await supervisor.stop()
    await supervisor.start()
    await asyncio.sleep(1)
    assert 12 == len(calls)
    await supervisor.stop()
    with pytest.raises(OSError):
        await child.run()
    assert 16 == len(calls)


@pytest.mark.virtual
@pytest.mark.defect("D3.23")
async def test_two_children_with_one_job_and_one_rule_share_no_retry_state() -> None:
    """Retry state belongs to a child: neither a shared rule, nor a shared job, nor a shared name mixes it."""
    calls: dict[str, int] = {}
    rule = rc.Retry(OSError, retries=2, backoff=rc.Constant("1s"))

    async def job() -> None:
        run = rc.current_run()
        calls[run.id] = calls.get(run.id, 0) + 1
        raise OSError

    one, two = (rc.OneShot(job, retry=rule, on_failure="isolate") for _ in range(2))
    supervisor = rc.Supervisor()
    supervisor.add(one, name="one")
    supervisor.add(two, name="two")
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    assert [3, 3] == list(calls.values())


@pytest.mark.virtual
@pytest.mark.defect("D3.23")
async def test_retry_state_follows_the_rule_and_not_its_place() -> None:
    """The counts of two rules are told apart by what they match, over restarts as well."""
    calls: list[str] = []

    async def job() -> None:
        error = (OSError, KeyError, KeyError, OSError)[len(calls) % 4]
        calls.append(error.__name__)
        raise error

    rules = rc.retry_each(KeyError, OSError, retries=2, backoff=rc.Constant(0))
    child = rc.OneShot(job, retry=rules, on_failure="restart")
    supervisor = rc.Supervisor(child, intensity=rc.Intensity(1, "1h"), backoff=rc.Constant(0))
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    # O K K O are four retries; the fifth failure, O, has no budget left: a restart; then K has none either
    assert ["OSError", "KeyError", "KeyError", "OSError", "OSError", "KeyError"] == calls


# --- Done, StopTree, Ctrl-C ---------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("on_failure", ["stop", "restart"])
async def test_a_child_that_is_done_is_not_restarted(on_failure: Any) -> None:
    """Done ends a child well, and nobody else."""
    child = rc.OneShot(after(1, rc.Done), on_failure=on_failure)
    supervisor = rc.Supervisor(child, rc.OneShot(after(5), name="other"))
    report = await supervisor.run()
    assert (5.0, True, 1, False) == (now(), report.clean, child.generation, report.stop_tree)


@pytest.mark.virtual
async def test_stop_tree_stops_everything_and_is_no_failure() -> None:
    """A job deep down may end the whole tree, in the order of every stop."""
    names = Names()
    deep = rc.Supervisor(rc.OneShot(after(5, rc.StopTree("enough"))), *names.services("ab"), name="deep")
    middle = rc.Supervisor(deep, *names.services("cd"), name="middle", keep_open=True)
    top = rc.Supervisor(middle, *names.services("ef"), name="top", on_failure="restart")
    report = await top.run()
    assert (["b", "a", "d", "c", "f", "e"], 5.0) == ([*names], now())
    assert (True, True, State.STOPPED) == (report.clean, report.stop_tree, top.state)
    assert [1, 1] == [middle.generation, deep.generation]


@pytest.mark.virtual
async def test_stop_tree_during_a_stop_is_heard_above() -> None:
    """Also where a part of the tree was stopping already, who asks for the end of the whole gets it."""

    async def clean_up() -> None:
        try:
            await long()
        finally:
            raise rc.StopTree

    deep = rc.Supervisor(rc.OneShot(clean_up), name="deep")
    top = rc.Supervisor(deep, rc.OneShot(long))
    await top.start()
    await asyncio.sleep(1)
    await deep.stop()
    await top.wait()
    assert (1.0, State.STOPPED) == (now(), top.state)


@pytest.mark.virtual
@pytest.mark.parametrize("on_failure", ["stop", "isolate", "restart"])
async def test_a_keyboard_interrupt_in_a_job_ends_the_tree(on_failure: Any) -> None:
    """Nobody wants to see it survived: it stops everything above, and comes out."""
    deep = rc.Supervisor(rc.OneShot(after(5, KeyboardInterrupt), on_failure=on_failure), rc.OneShot(long), name="deep")
    top = rc.Supervisor(deep, rc.OneShot(long), on_failure=on_failure)
    with pytest.raises(ExceptionGroup) as caught:
        await top.run()
    assert (5.0, 1) == (now(), deep.generation)
    (below,) = caught.value.exceptions
    assert isinstance(below, ExceptionGroup)
    assert isinstance(below.exceptions[0].__cause__, KeyboardInterrupt)


# --- the order of stopping ------------------------------------------------------------------------


@pytest.mark.virtual
async def test_children_stop_in_reverse_order_of_adding_one_by_one() -> None:
    """The next one is stopped when the one before it has ended."""
    ended: list[tuple[str, float]] = []

    def job(name: str) -> Callable[[], Any]:
        async def run() -> None:
            try:
                await long()
            finally:
                await asyncio.sleep(1)
                ended.append((name, now()))

        return run

    supervisor = rc.Supervisor(*(rc.OneShot(job(name), name=name) for name in "abc"))
    await supervisor.start()
    await asyncio.sleep(1)
    await supervisor.stop()
    assert [("c", 2.0), ("b", 3.0), ("a", 4.0)] == ended


@pytest.mark.virtual
async def test_a_child_that_has_ended_already_does_not_break_the_order() -> None:
    """Those on both sides of one that is gone still stop one after the other."""
    names = Names()
    a, c = (rc.OneShot(names.job(name, clean_up=1), name=name) for name in "ac")
    supervisor = rc.Supervisor(a, rc.OneShot(quick, name="b"), c)
    await supervisor.start()
    await asyncio.sleep(1)
    await supervisor.stop()
    assert (["c", "a"], 3.0) == ([*names], now())


@pytest.mark.virtual
async def test_a_crew_stops_its_children_together() -> None:
    """In a crew all stop at once, except that each stops after those that depend on it."""
    ended: list[tuple[str, float]] = []

    def job(name: str) -> Callable[[], Any]:
        async def run() -> None:
            try:
                await long()
            finally:
                await asyncio.sleep(1)
                ended.append((name, now()))

        return run

    crew = rc.Crew("shop")
    for name, needs in (("db", []), ("web", ["db"]), ("poll", ["db"]), ("mail", [])):
        crew.add(rc.OneShot(job(name), name=name), depends_on=needs)
    await crew.start()
    await crew.stop()
    assert [("web", 1.0), ("poll", 1.0), ("mail", 1.0), ("db", 2.0)] == ended


@pytest.mark.virtual
async def test_one_that_hangs_does_not_take_the_time_of_all() -> None:
    """When the time is up the rest is killed together, and all are in the report."""

    async def deaf() -> None:
        ends = now() + 60
        while now() < ends:
            try:
                await asyncio.sleep(ends - now())
            except asyncio.CancelledError:
                continue

    names = Names()
    supervisor = rc.Supervisor(*names.services("ab"), rc.OneShot(deaf))
    await supervisor.start()
    await asyncio.sleep(1)
    report = await supervisor.stop("10s")
    assert (["deaf"], 2) == ([stuck.service for stuck in report.would_not_stop], report.cancelled)
    assert ["a", "b"] == sorted(names)
    await asyncio.sleep(100)


@pytest.mark.virtual
async def test_the_stop_of_a_failure_has_a_limit_too() -> None:
    """A failure gives the others `stop_timeout` to end."""
    supervisor = rc.Supervisor(
        rc.OneShot(after(20), name="slow", drain="finish"), rc.OneShot(after(1, OSError)), stop_timeout="5s"
    )
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    assert 6.0 == now()


@pytest.mark.virtual
async def test_children_that_have_not_begun_never_start() -> None:
    """A stop while a child waits for what it depends on leaves it unbegun, and says so."""
    begun: list[int] = []
    supervisor = rc.Supervisor(rc.OneShot(long, ready="succeeded"))
    supervisor.add(rc.OneShot(lambda: begun.append(1), name="waits"), depends_on=["long"])
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1)
    report = await supervisor.stop()
    with pytest.raises(rc.ServiceStopped):
        await start
    assert (1, 1, [], True) == (report.never_started, report.cancelled, begun, report.clean)


# --- the rest -----------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_tree_can_live_again_and_again() -> None:
    """Every life of a supervisor begins afresh, with the same children."""
    names = Names()
    supervisor = rc.Supervisor(*names.services("ab"), rc.Supervisor(*names.services("cd"), name="nested"))
    for life in range(1, 4):
        await supervisor.start()
        await asyncio.sleep(1)
        await supervisor.stop()
        assert life * 4 == len(names)
        assert life == supervisor.generation
    assert ["d", "c", "b", "a"] * 3 == names


@pytest.mark.virtual
async def test_a_thousand_children() -> None:
    """A large supervisor starts, fails, restarts and stops as a small one, and in good time."""
    chance = 0

    async def job() -> None:
        nonlocal chance
        chance += 1
        if chance % 7 == 0:
            raise OSError
        await asyncio.sleep(60)

    began: list[str] = []
    supervisor = rc.Supervisor(
        *(rc.Interval(job, "60s", name=f"n{n}", on_failure="restart") for n in range(1000)),
        intensity=rc.Intensity(100, "1s"),
    )
    supervisor.subscribe(lambda event: began.append(event.service), RunStarted)
    await supervisor.start()
    await asyncio.sleep(180)
    stats = supervisor.stats()
    assert 1000 == len(stats.children)
    assert sum(stats.restarts.values()) > 300
    report = await supervisor.stop("2m")
    assert (1000, True) == (len(report.children), report.clean)
    assert len(began) > 3000
    assert 1 == len(asyncio.all_tasks())


@pytest.mark.virtual
async def test_a_deep_tree() -> None:
    """Supervisors nest as deep as anybody wants."""
    names = Names()
    tree: Any = rc.OneShot(names.job("leaf"))
    for level in range(50):
        tree = rc.Supervisor(tree, name=f"level {level}")
    await tree.start()
    await asyncio.sleep(1)
    report = await tree.stop()
    assert (["leaf"], 1, 1.0) == ([*names], report.cancelled, now())


@pytest.mark.virtual
async def test_what_is_known_of_a_tree() -> None:
    """The stats of a supervisor hold those of its children."""
    nested = rc.Supervisor(rc.OneShot(long, name="deep"), name="nested")
    supervisor = rc.Supervisor(rc.Interval(quick, "10s"), nested, Foreign(lasts=100), name="top")
    await supervisor.start()
    await asyncio.sleep(25)
    stats = supervisor.stats()
    assert ("top", "running", 1, None) == (stats.name, stats.state, stats.generation, stats.error)
    assert ["quick", "nested"] == list(stats.children)
    assert 3 == stats.children["quick"].runs.succeeded
    assert "running" == stats.children["nested"].children["deep"].state
    assert {"quick": 0, "nested": 0, "Foreign": 0} == stats.restarts
    await supervisor.stop()


@pytest.mark.virtual
async def test_stats_that_fail_harm_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A service that cannot say how it is does not keep the others from saying it."""

    class Bad(Foreign):
        def stats(self) -> None:
            raise OSError("no stats")

    supervisor = rc.Supervisor(Bad(), rc.OneShot(long))
    await supervisor.start()
    assert ["long"] == list(supervisor.stats().children)
    assert "no stats" in caplog.text
    await supervisor.stop()


@pytest.mark.virtual
async def test_the_log_says_why_it_stops(caplog: pytest.LogCaptureFixture) -> None:
    """A supervisor that ends over a failure says whose, and why that ended it."""
    caplog.set_level(logging.INFO)
    with pytest.raises(ExceptionGroup):
        await rc.Supervisor(rc.OneShot(after(1, OSError("x")), name="poll"), name="top").run()
    assert "top stops: poll ended, and its failure ends the others" in caplog.text


@pytest.mark.virtual
async def test_states_of_a_tree_come_in_order() -> None:
    """Children run before their supervisor does, and have stopped before it has."""
    changes: list[str] = []
    top = rc.Supervisor(rc.Supervisor(rc.OneShot(long, name="leaf"), name="nested"), name="top")
    top.subscribe(lambda event: changes.append(f"{event.service} {event.new}"), StateChanged)
    await top.start()
    await top.stop()
    order = ["leaf", "nested", "top"]
    for state in ("running", "stopped"):
        assert [f"{name} {state}" for name in order] == [change for change in changes if change.endswith(state)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_failure": "ignore"}, "on_failure: 'ignore' is not one of"),
        ({"intensity": 5}, r"intensity: 5 is not an rc.Intensity\(limit, period\)"),
        ({"intensity": (5, 60)}, "intensity: "),
        ({"backoff": 5}, "backoff: 5 is none"),
        ({"stop_timeout": -1}, "stop_timeout: -1 is negative"),
        ({"stop_timeout": None}, "stop_timeout: None is not a span"),
        ({"hooks_timeout": -1}, "hooks_timeout: -1 is negative"),
        ({"on_stopped": 42}, "on_stopped: 42 is neither"),
    ],
)
@pytest.mark.defect("D3.11")
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    """A bad value is refused when the supervisor is made, with its name and the value."""
    for kind in (rc.Supervisor, rc.Crew):
        with pytest.raises(ConfigError, match=said):
            kind(**options)
