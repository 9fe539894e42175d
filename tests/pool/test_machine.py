"""Any order of calls: a pool beside a model of it, through pauses, failures, stops and new lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import runcrew as rc
from runcrew import clock as clocks
from runcrew.testing import VirtualClock, VirtualLoop

T = TypeVar("T")

MOST = 4
#: How long a run takes, and what a stop waits for at most, in virtual seconds.
TAKES = 1.0
PATIENCE = 3.0
#: The pauses after failures.
BACKOFF = 0.25


class Loop(VirtualLoop):
    """Counts how often it goes round."""

    rounds = 0

    def _run_once(self) -> None:
        self.rounds += 1
        assert self.rounds < 2000, "the loop spins"  # out of it: time might never pass again
        super()._run_once()  # type: ignore[misc]


class PoolMachine(RuleBasedStateMachine):
    """The pool does what the model says, on virtual time, which passes only where a rule lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: Any = Loop(seed=1)
        self.before = clocks.current()
        clocks.use(VirtualClock(self.loop, None, 1))
        #: What the jobs have counted, in this life.
        self.begun = self.ended = self.failed = self.cut = 0
        self.now: dict[asyncio.Task[Any] | None, int] = {}
        #: By worker: how many have failed in a row, and when the last one did.
        self.row: dict[asyncio.Task[Any] | None, tuple[int, float]] = {}
        self.fails = self.waits = False
        #: The model: whether it lives, how many workers there should be, and why it has failed.
        self.lives = False
        self.size = 2
        self.broken: BaseException | None = None

    @initialize(stops=st.booleans(), starts=st.booleans())
    def build(self, stops: bool, starts: bool) -> None:
        """A pool, which has been started in half of the cases."""
        self.stops = stops
        self.counter = rc.Counter()
        self.pool = rc.Pool(
            self.job, name="p", max=MOST, initial=2, stop_on_error=stops, backoff=rc.Constant(BACKOFF),
            middleware=[self.counter],
        )  # fmt: skip
        self.past = 0
        if starts:
            self.start()

    async def job(self) -> None:
        """Takes its time; fails, or waits for something to do, where the rules say so."""
        task = asyncio.current_task()
        assert task not in self.now, "a worker's runs overlap"
        assert self.pool.size, "a run begins in a pause"
        assert self.lives, "a run begins after the end"
        if self.row.get(task, (0, 0.0))[0] >= 2:
            assert self.loop.time() >= self.row[task][1] + BACKOFF - 1e-6, "no pause after failures"
        self.now[task] = 1
        self.begun += 1
        try:
            if self.waits:
                with rc.current_run().idle():
                    await asyncio.sleep(1000)
            await asyncio.sleep(TAKES)
            if self.fails:
                raise OSError("no")
            self.row.pop(task, None)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        except OSError as error:
            self.failed += 1
            self.row[task] = self.row.get(task, (0, 0.0))[0] + 1, self.loop.time()
            if self.stops:
                self.lives, self.broken = False, self.broken or error
            raise
        finally:
            self.ended += 1
            del self.now[task]

    # --- time -------------------------------------------------------------------------------

    def do(self, coro: Coroutine[Any, Any, T]) -> T:
        """Carry it out."""
        self.loop.rounds = 0
        value: T = self.loop.run_until_complete(coro)
        return value

    def call(self, fn: Any, *args: Any) -> Any:
        """A plain call, on the loop."""

        async def called() -> Any:
            return fn(*args)

        return self.do(called())

    @rule(span=st.sampled_from([0.0, 0.1, 0.6, 1.0, 2.5, 6.0]))
    def wait(self, span: float) -> None:
        """Time passes; in it the loop goes round as often as something happens, not more often."""
        begun = self.begun
        self.do(asyncio.sleep(span))
        assert self.loop.rounds <= 20 + 12 * (self.begun - begun) + 6 * MOST, "the loop spins"

    @rule(fails=st.booleans())
    def jobs_fail(self, fails: bool) -> None:
        """From here on they do, or do not."""
        self.fails = fails

    @rule(waits=st.booleans())
    def jobs_wait(self, waits: bool) -> None:
        """From here on each new run waits for something to do."""
        self.waits = waits

    # --- calls ------------------------------------------------------------------------------

    def resize(self, wanted: int, fn: Any, *args: Any) -> None:
        """A change of the size, which the model foretells."""
        if not self.lives:
            with pytest.raises((rc.NotStarted, rc.ServiceStopping, rc.ServiceStopped)):
                self.call(fn, *args)
        elif wanted > MOST:
            with pytest.raises(rc.AtMax):
                self.call(fn, *args)
        elif wanted < 0:
            with pytest.raises(rc.AtMin):
                self.call(fn, *args)
        else:
            self.call(fn, *args)
            self.size = wanted
        assert self.size == self.pool.size

    @rule(number=st.integers(1, 3))
    def more(self, number: int) -> None:
        """So many more."""
        self.resize(self.size + number, lambda: self.pool.more(number))

    @rule(number=st.integers(1, 3), mode=st.sampled_from(["after_current", "now"]))
    def less(self, number: int, mode: Literal["after_current", "now"]) -> None:
        """So many fewer; without waiting for their runs, or cutting them."""
        self.resize(self.size - number, lambda: self.pool.less(number, mode))

    @rule(number=st.integers(0, MOST + 1))
    def to(self, number: int) -> None:
        """Just so many; 0 is a pause."""
        self.resize(number, lambda: self.pool.resize(number))

    @rule()
    def pause_and_back(self) -> None:
        """Both in one step of the loop."""

        def both() -> None:
            self.pool.resize(0)
            self.pool.more(1)

        self.resize(1, both)

    @precondition(lambda self: self.lives)
    @rule(number=st.integers(0, MOST))
    def change(self, number: int) -> None:
        """Awaited, a change is complete within the time of one run, unless the pool ends meanwhile."""

        async def changed() -> int:
            async with asyncio.timeout(TAKES + 0.1):
                return await self.pool.resize(number)

        if not self.waits or not self.now:
            there = self.do(changed())
            self.size = number
            assert not self.lives or number == there

    @rule()
    def start(self) -> None:
        """While it lives that changes nothing; otherwise it begins anew."""
        if self.pool.state is rc.State.STOPPING:
            return
        if not self.lives:
            self.past += self.pool.stats().runs.begun
            self.begun = self.ended = self.failed = self.cut = 0
            self.size, self.broken, self.lives = 2, None, True
        self.do(self.pool.start())

    @rule()
    def stop(self) -> None:
        """Those under way end, as long as there is time; and then there is nothing left."""
        cut, idle = self.cut, self.waits
        self.over(self.pool.stop(PATIENCE), PATIENCE)
        if not idle and not self.broken:
            assert cut == self.cut, "a drain cancelled a run"

    @rule()
    def kill(self) -> None:
        """They are cut."""
        self.over(self.pool.kill(), 0.0)

    @rule()
    def stop_and_kill(self) -> None:
        """The one in the middle of the other."""

        async def both() -> Any:
            stopping = asyncio.ensure_future(self.pool.stop(PATIENCE))
            await asyncio.sleep(0.1)
            await self.pool.kill()
            return await stopping

        self.over(both(), 0.1)

    def over(self, coro: Coroutine[Any, Any, Any], limit: float) -> None:
        """It ends, in time."""
        self.lives = False
        began = self.loop.time()
        report = self.do(coro)
        assert self.loop.time() <= began + limit + 1.1
        assert () == report.would_not_stop
        assert {} == self.now

    # --- always -----------------------------------------------------------------------------

    @invariant()
    def counts(self) -> None:
        """Each run is in the books once, and never more are at work than there may be."""
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        runs = stats.runs
        assert len(self.now) <= MOST
        assert stats.alive + stats.opening + stats.closing <= MOST
        assert (self.begun, len(self.now)) == (runs.begun, runs.in_flight)
        assert runs.begun == runs.succeeded + runs.failed + runs.interrupted + runs.in_flight
        assert self.failed == runs.failed
        assert self.past + runs.begun == self.counter.started or not self.pool.generation
        assert self.size == stats.workers or not self.lives
        if self.broken is not None:
            assert self.broken is self.pool.error

    @precondition(lambda self: self.lives)
    @rule()
    def returns_to_target(self) -> None:
        """Left alone for the time of a run and of the pauses, there are as many as there should be, and they work."""
        self.do(asyncio.sleep(TAKES + 1.0 if not self.waits else TAKES))
        if self.lives and not self.waits:
            stats = self.pool.stats()
            assert (self.size, 0) == (stats.alive, stats.leaving)
            assert self.size >= len(self.now)

    def teardown(self) -> None:
        """Nothing of it is left."""
        try:
            if hasattr(self, "pool"):
                self.lives = False
                self.do(self.pool.kill())
                assert 0 == self.pool.stats().alive
                tasks = asyncio.all_tasks(self.loop)
                assert not tasks, tasks
                assert [] == [timer for timer in self.loop._scheduled if not timer.cancelled()]
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            clocks.use(self.before)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
