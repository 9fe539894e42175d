"""The guard of the event loop: who blocks it is named, once, with the stack; who does not is left alone."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from runcrew.backends import LoopBackend, LoopGuard
from runcrew.errors import ConfigError
from runcrew.job import Job, Run

pytestmark = pytest.mark.realtime

Seen = list[tuple[str, float, str]]


class Reports:
    """What a guard reported, and a blocking call that lasts until it has."""

    def __init__(self) -> None:
        self.seen: Seen = []
        self.told = threading.Event()
        self.thread = ""

    def __call__(self, job: str, seconds: float, stack: str) -> None:
        self.seen.append((job, seconds, stack))
        self.thread = threading.current_thread().name
        self.told.set()

    def block(self) -> None:
        """Block this thread until a report has come."""
        assert self.told.wait(10)
        self.told.clear()


def watched(main: Callable[[Reports], Any], threshold: str = "20ms", **options: Any) -> Reports:
    """Run `main` on a loop under guard."""
    reports = Reports()

    async def outer() -> None:
        guard = LoopGuard(threshold, reports, **options)
        guard.start()
        try:
            await main(reports)
        finally:
            guard.stop()

    asyncio.run(outer())
    return reports


def test_a_blocking_async_job_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A job that blocks is reported with its name, how long it has lasted, and the line it blocks in; and logged."""

    async def main(reports: Reports) -> None:
        async def careless() -> None:
            reports.block()

        await LoopBackend().handle(Run(Job(careless)))

    with caplog.at_level(logging.WARNING, "runcrew"):
        ((job, lasted, stack),) = watched(main).seen
    assert "careless" == job
    assert 0.02 <= lasted
    assert "reports.block()" in stack
    assert "in careless" in stack
    (record,) = caplog.records
    assert record.message.startswith("careless has blocked the event loop for ")
    assert "runcrew" == record.name


def test_a_plain_job_inline_is_named() -> None:
    """A plain function that runs on the loop is named by its job, here a name given to it."""

    async def main(reports: Reports) -> None:
        await LoopBackend().handle(Run(Job(reports.block, "inline")))

    assert ["inline"] == [job for job, _, _ in watched(main).seen]


def test_a_task_that_a_job_started_is_named() -> None:
    """In a task of the job's own it is still the job that is named, where Python can tell whose context it is."""

    async def main(reports: Reports) -> None:
        async def part() -> None:
            reports.block()

        async def careless() -> None:
            await asyncio.create_task(part(), name="its part")

        await LoopBackend().handle(Run(Job(careless)))

    expected = "careless" if sys.version_info >= (3, 12) else "its part"
    assert [expected] == [job for job, _, _ in watched(main).seen]


def test_other_code_is_named_by_its_task_or_function() -> None:
    """Outside any run the task's name is given, and for a mere callback the function's."""

    async def main(reports: Reports) -> None:
        async def other() -> None:
            reports.block()

        await asyncio.create_task(other(), name="some task")
        asyncio.get_running_loop().call_soon(reports.block)
        await asyncio.sleep(0.001)

    assert ["some task", "the callback Reports.block"] == [job for job, _, _ in watched(main).seen]


def test_each_blockage_is_reported_once() -> None:
    """A call that blocks for many thresholds is one report, the next one another."""

    async def main(reports: Reports) -> None:
        for _ in range(2):
            reports.block()
            threading.Event().wait(0.1)
            await asyncio.sleep(0.03)

    assert 2 == len(watched(main).seen)


def test_a_call_that_lets_no_other_thread_run_is_seen() -> None:
    """A C function that holds on to the interpreter is reported when it lets go, by the line that it stands in."""

    async def main(reports: Reports) -> None:
        async def greedy() -> None:
            for _ in range(20):  # on a busy machine the guard's thread may not even get to want to run
                await asyncio.sleep(0.03)
                sum(range(6_000_000))
                if reports.seen:
                    break

        await LoopBackend().handle(Run(Job(greedy)))

    job, lasted, stack = watched(main).seen[0]
    assert "greedy" == job
    assert 0.02 <= lasted
    assert "sum(range(" in stack


def test_a_thread_that_lets_no_other_run_is_not_laid_on_the_loop() -> None:
    """While a C function in another thread holds on to the interpreter, a loop that only waits is not accused."""

    async def main(reports: Reports) -> None:
        await asyncio.sleep(0.1)
        thread = threading.Thread(target=lambda: sum(range(12_000_000)))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.001)

    assert [] == watched(main, "60ms").seen


def test_a_busy_loop_is_not_a_blocked_one(caplog: pytest.LogCaptureFixture) -> None:
    """Many short steps, and a loop that only waits, are no blockage."""

    async def main(reports: Reports) -> None:
        ends = time.monotonic() + 0.15
        while time.monotonic() < ends:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)

    assert [] == watched(main, "2s").seen
    assert [] == watched(main, "100ms").seen
    assert [] == caplog.records


def test_the_report_runs_in_the_context_of_start() -> None:
    """The report sees the context variables of whoever started the guard, on the guard's own thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    seen: list[str] = []
    told = threading.Event()

    def report(job: str, seconds: float, stack: str) -> None:
        seen.extend([variable.get(), threading.current_thread().name])
        told.set()

    async def main() -> None:
        variable.set("mine")
        guard = LoopGuard("10ms", report)
        guard.start()
        assert told.wait(10)
        guard.stop()

    asyncio.run(main())
    assert ["mine", "runcrew-guard"] == seen


def test_a_report_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the report ends neither the guard nor the loop."""
    calls = 0
    again = threading.Event()

    def report(job: str, seconds: float, stack: str) -> None:
        nonlocal calls
        calls += 1
        again.set()
        raise ValueError("the report")

    async def main() -> None:
        guard = LoopGuard("10ms", report)
        guard.start()
        for _ in range(2):
            assert again.wait(10)
            again.clear()
            await asyncio.sleep(0.02)
        guard.stop()

    asyncio.run(main())
    assert 2 == calls
    assert 2 == [record.message for record in caplog.records].count("the report of a blocked event loop failed")


def guards() -> list[threading.Thread]:
    """The watchdog threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "runcrew-guard"]


def test_start_and_stop_in_any_order() -> None:
    """Starting twice keeps one thread, stopping ends it, and both may be repeated, also on another loop."""
    guard = LoopGuard()
    guard.stop()

    async def main() -> None:
        guard.start()
        guard.start()
        assert 1 == len(guards())
        guard.stop()
        guard.stop()
        assert [] == guards()
        guard.start()

    asyncio.run(main())
    asyncio.run(main())
    guard.stop()
    assert [] == guards()
    with pytest.raises(RuntimeError):
        guard.start()


@pytest.mark.parametrize("asked", [None, 0.0])
def test_a_loop_that_closes_ends_the_watch(asked: float | None) -> None:
    """A guard that nobody stopped ends with its loop, without a word, also where an answer was still to come."""
    reports = Reports()
    guard = LoopGuard("10ms", reports)
    loop = asyncio.new_event_loop()

    async def start() -> None:
        guard.start()

    loop.run_until_complete(start())
    assert guard._watch is not None
    guard._watch._asked = asked
    loop.close()
    ends = time.monotonic() + 5
    while guards() and time.monotonic() < ends:
        time.sleep(0.001)
    assert [] == guards()
    assert [] == reports.seen


@pytest.mark.parametrize(("looked", "told"), [(1800, 1), (5000, 0)])
def test_time_in_which_nobody_could_run_counts_for_nothing(looked: float, told: int) -> None:
    """Where the guard's thread itself came late, and the loop's did not work, the process stood still: no blockage."""
    reports = Reports()

    async def main() -> None:
        guard = LoopGuard("1h", reports)
        guard.start()
        watch = guard._watch
        assert watch is not None
        now = time.monotonic()
        watch._asked, watch._looked = now - 5000, now - looked
        thread = threading.Thread(target=watch._look)
        thread.start()
        thread.join()
        guard.stop()

    asyncio.run(main())
    assert told == len(reports.seen)


def test_a_loop_about_to_answer_is_not_accused() -> None:
    """A loop that is found in its own code, between two callbacks, is not blocked, however long ago it was asked."""
    reports = Reports()

    async def main() -> None:
        guard = LoopGuard("1h", reports)
        guard.start()
        watch = guard._watch
        assert watch is not None

        def tell() -> None:
            time.sleep(0.03)  # until the loop waits
            watch._tell(5000)

        await asyncio.to_thread(tell)
        guard.stop()

    asyncio.run(main())
    assert [] == reports.seen


def test_a_loop_that_does_not_run_is_not_blocked() -> None:
    """Between two runs of a loop nobody waits for it: what its thread does then is no blockage."""
    reports = Reports()
    guard = LoopGuard("60ms", reports)
    loop = asyncio.new_event_loop()

    async def start() -> None:
        guard.start()

    loop.run_until_complete(start())
    time.sleep(0.2)
    loop.run_until_complete(asyncio.sleep(0.001))
    guard.stop()
    loop.close()
    assert [] == reports.seen


def test_an_idle_loop_is_hardly_woken() -> None:
    """In a second of doing nothing the loop is woken about twice for each threshold, and not at all once stopped."""

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        selector: Any = loop._selector  # type: ignore[attr-defined]
        real, wakes = selector.select, [0]

        def select(timeout: float | None = None) -> Any:
            wakes[0] += 1
            return real(timeout)

        selector.select = select
        guard = LoopGuard("100ms")
        guard.start()
        await asyncio.sleep(0.4)
        guard.stop()
        await asyncio.sleep(0)
        during, wakes[0] = wakes[0], 0
        await asyncio.sleep(0.1)
        return [during, wakes[0]]

    during, after = asyncio.run(main())
    assert during <= 12
    assert after <= 2


@pytest.mark.virtual
async def test_virtual_time_is_not_watched() -> None:
    """On a virtual loop starting does nothing, unless it is forced."""
    guard = LoopGuard("10ms")
    guard.start()
    assert [] == guards()
    guard.stop()
    forced = LoopGuard("10ms", forced=True)
    forced.start()
    assert 1 == len(guards())
    forced.stop()


@pytest.mark.parametrize("threshold", [0, -1, "never", None])
def test_bad_thresholds_are_refused(threshold: Any) -> None:
    """A threshold that is no span, or none at all, is a ConfigError that names it."""
    with pytest.raises(ConfigError, match="threshold"):
        LoopGuard(threshold)
