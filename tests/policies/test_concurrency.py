"""At most so many at once: by name, in order, over loops and threads, whatever is cancelled."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcrew.backends import LoopBackend
from runcrew.errors import ConfigError
from runcrew.job import Job, Outcome, Run
from runcrew.policies import Concurrency, Constant, Options, Retry, chain, policy
from runcrew.testing import cancel_everywhere, run_virtual


class Gauge:
    """How many are inside at once, and the most there ever were."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


async def carry_out(fn: Callable[[], Any], **options: Any) -> Outcome[Any]:
    """One run of `fn` through the chain of these options."""
    run = Run(Job(fn, "work"))
    return await chain(run.job, LoopBackend(), Options(**options))(run)


@pytest.mark.virtual
async def test_no_more_than_the_limit_at_once() -> None:
    """Ten runs with a limit of three: three at once, and the numbers can be read meanwhile."""
    limit, gauge = Concurrency(3), Gauge()

    async def job() -> None:
        with gauge:
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(carry_out(job, concurrency=limit)) for _ in range(10)]
    await asyncio.sleep(0.5)
    assert (3, 3, 7) == (limit.limit, limit.in_use, limit.waiting)
    assert all(outcome.ok for outcome in await asyncio.gather(*tasks))
    assert 3 == gauge.most
    assert (0, 0) == (limit.in_use, limit.waiting)


@pytest.mark.virtual
async def test_first_come_first_served() -> None:
    """Places go in the order of asking, and one who comes later does not barge in while others wait."""
    limit, order = Concurrency(1), []

    async def one(number: int) -> None:
        await limit.acquire()
        order.append(number)
        await asyncio.sleep(1 if number < 3 else 0)
        limit.release()

    tasks = [asyncio.create_task(one(number)) for number in range(3)]
    await asyncio.sleep(2.5)
    tasks += [asyncio.create_task(one(number)) for number in range(3, 6)]
    await asyncio.gather(*tasks)
    assert [0, 1, 2, 3, 4, 5] == order


@pytest.mark.virtual
async def test_one_name_is_one_limit() -> None:
    """Two with the same name share their places for as long as either lives; two without names do not."""
    first, second = Concurrency(1, "shared db"), Concurrency(1, "shared db")
    await first.acquire()
    assert 1 == second.in_use
    del first
    gc.collect()
    assert 1 == second.in_use == Concurrency(1, "shared db").in_use
    second.release()
    assert 0 == second.in_use
    assert 0 == Concurrency(1).in_use


def test_one_name_has_one_limit() -> None:
    """Another limit under a name in use is refused, naming both; when nobody has it any more, it is free."""
    kept = Concurrency(4, "contested")
    with pytest.raises(ConfigError, match=r"'contested' has the limit 4 elsewhere, and 5 here"):
        Concurrency(5, "contested")
    assert 4 == kept.limit
    del kept
    gc.collect()
    assert 5 == Concurrency(5, "contested").limit


@pytest.mark.parametrize("bad", [0, -1, True, 2.0, "4", None])
def test_what_is_no_limit_is_refused(bad: Any) -> None:
    """A limit is a count from 1."""
    with pytest.raises(ConfigError, match="is no limit"):
        Concurrency(bad)
    with pytest.raises(ConfigError, match="name"):
        Concurrency(1, 7)  # type: ignore[arg-type]


@pytest.mark.virtual
async def test_a_cancelled_waiter_leaves_the_line() -> None:
    """One that is cancelled while it waits takes no place, and those behind it go on."""
    limit = Concurrency(1)
    await limit.acquire()
    waiting = [asyncio.create_task(limit.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert 2 == limit.waiting
    limit.release()
    await waiting[1]
    assert (1, 1) == (limit.in_use, limit.waiting)
    limit.release()
    await waiting[2]
    limit.release()
    assert (0, 0) == (limit.in_use, limit.waiting)


@pytest.mark.virtual
async def test_a_waiter_cancelled_in_the_turn_in_which_it_got_its_place_passes_it_on() -> None:
    """A place that was granted to one who is cancelled before it goes on is the next one's."""
    limit = Concurrency(1)
    await limit.acquire()
    first, second = (asyncio.create_task(limit.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    limit.release()
    first.cancel()
    await second
    assert first.cancelled()
    assert (1, 0) == (limit.in_use, limit.waiting)
    limit.release()


@pytest.mark.virtual
async def test_a_place_is_given_back_however_a_run_ends() -> None:
    """After a value, an error, a timeout, a crash and a cancellation all places are free again."""
    limit = Concurrency(2)

    async def fails() -> None:
        raise SystemExit

    async def hangs() -> None:
        await asyncio.sleep(1000)

    await carry_out(fails, concurrency=limit)
    await carry_out(hangs, concurrency=limit, timeout=1)
    await carry_out(hangs, concurrency=limit, deadline=1)
    task = asyncio.create_task(carry_out(hangs, concurrency=limit))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert (0, 0) == (limit.in_use, limit.waiting)


@pytest.mark.virtual
async def test_a_run_that_waits_for_its_retry_holds_no_place() -> None:
    """During a backoff the place is another's."""
    limit, times = Concurrency(1), []
    errors = [ConnectionError(), None]

    async def flaky() -> None:
        times.append("flaky")
        if error := errors.pop(0):
            raise error

    async def steady() -> None:
        times.append("steady")

    task = asyncio.create_task(carry_out(flaky, concurrency=limit, retry=Retry(ConnectionError, backoff=Constant(9))))
    await asyncio.sleep(1)
    await carry_out(steady, concurrency=limit)
    await task
    assert ["flaky", "steady", "flaky"] == times


@pytest.mark.virtual
async def test_a_timeout_does_not_count_the_waiting() -> None:
    """An attempt's time begins with its place; the deadline of the run goes on while it waits."""
    limit = Concurrency(1)

    async def job() -> str:
        await asyncio.sleep(2)
        return "done"

    async def three(**options: Any) -> list[str]:
        runs = (carry_out(job, concurrency=limit, **options) for _ in range(3))
        return [outcome.status.value for outcome in await asyncio.gather(*runs)]

    assert ["succeeded"] * 3 == await three(timeout=3)
    assert ["succeeded", "timed_out", "timed_out"] == await three(deadline=3)


@pytest.mark.virtual
async def test_cancelling_anywhere_loses_no_place() -> None:
    """Wherever a run is cancelled, its place comes back."""
    limit = Concurrency(1)

    async def one() -> None:
        async def job() -> None:
            await asyncio.sleep(1)

        await asyncio.gather(*(carry_out(job, concurrency=limit) for _ in range(3)))

    async def check(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(10)
        assert (0, 0) == (limit.in_use, limit.waiting)

    await cancel_everywhere(one, check)


@given(
    limit=st.integers(1, 3),
    runs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 12)), min_size=1, max_size=12),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_and_is_cancelled_places_agree(limit: int, runs: list[tuple[int, int, int]], seed: int) -> None:
    """For any runs that arrive, take long and are cancelled when they like: never above the limit, all given back."""
    concurrency, gauge = Concurrency(limit), Gauge()

    async def job(takes: int) -> None:
        with gauge:
            await asyncio.sleep(takes)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = []
        for arrives, takes, cancelled in runs:

            async def one(arrives: int = arrives, takes: int = takes) -> None:
                await asyncio.sleep(arrives)
                await policy(concurrency=concurrency).call(job, takes)

            task = asyncio.create_task(one())
            tasks.append(task)
            if cancelled < 10:
                loop.call_later(cancelled, task.cancel)
        await asyncio.wait(tasks)

    run_virtual(main, seed=seed)
    assert gauge.most <= limit
    assert (0, 0) == (concurrency.in_use, concurrency.waiting)


# --- over loops and threads --------------------------------------------------------------------


@pytest.mark.realtime
def test_plain_threads_wait_for_each_other() -> None:
    """Plain functions in plain threads share a limit: they block, in turn, and all get through."""
    limit, gauge = Concurrency(2), Gauge()
    barrier = threading.Barrier(6)

    @policy(concurrency=limit)
    def work() -> None:
        with gauge:
            threading.Event().wait(0.005)

    def body() -> None:
        barrier.wait(5)
        work()

    threads = [threading.Thread(target=body) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert 2 == gauge.most
    assert (0, 0) == (limit.in_use, limit.waiting)


@pytest.mark.realtime
def test_loops_and_threads_share_one_limit() -> None:
    """Several event loops and plain threads at once, some cancelled: never above the limit, and no place is lost."""
    limit, gauge = Concurrency(2, "loops and threads"), Gauge()
    chance = random.Random(5)
    waits = [chance.random() / 1000 for _ in range(1000)]

    async def job() -> None:
        with gauge:
            await asyncio.sleep(waits[gauge.now])

    def plain() -> None:
        with gauge:
            threading.Event().wait(waits[gauge.now])

    async def on_loop(cancelled: bool) -> None:
        shared = policy(concurrency=Concurrency(2, "loops and threads"))
        tasks = [asyncio.create_task(shared.call(job)) for _ in range(30)]
        await asyncio.sleep(0.002)
        for task in tasks[10:20] if cancelled else []:
            task.cancel()
        await asyncio.wait(tasks)

    def in_thread() -> None:
        for _ in range(20):
            policy(concurrency=limit)(plain)()

    bodies = [lambda: asyncio.run(on_loop(True)), lambda: asyncio.run(on_loop(False)), in_thread, in_thread]
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert 2 == gauge.most
    assert (0, 0) == (limit.in_use, limit.waiting)


@pytest.mark.realtime
def test_a_waiter_whose_loop_is_gone_does_not_keep_the_place() -> None:
    """A place that would go to a task of a closed loop goes to the next in the line."""
    limit = Concurrency(1)
    assert limit.acquire_blocking()
    loop = asyncio.new_event_loop()
    lost = limit.acquire()
    task: Any = loop.create_task(lost)
    task._log_destroy_pending = False
    loop.run_until_complete(asyncio.sleep(0))
    assert 1 == limit.waiting
    loop.close()
    got = threading.Event()
    thread = threading.Thread(target=lambda: limit.acquire_blocking() and got.set())
    thread.start()
    while limit.waiting < 2:
        threading.Event().wait(0.001)
    limit.release()
    assert got.wait(5)
    thread.join(5)
    lost.close()  # what collecting it would do
    assert (1, 0) == (limit.in_use, limit.waiting)
    limit.release()
    assert 0 == limit.in_use


def test_waiting_in_a_thread_ends_with_its_time() -> None:
    """acquire_blocking gives up after its time, and leaves the line."""
    limit = Concurrency(1)
    assert limit.acquire_blocking()
    assert not limit.acquire_blocking(0)
    assert (1, 0) == (limit.in_use, limit.waiting)


def test_it_says_what_it_is() -> None:
    """In words for people."""
    assert "concurrency 4" == str(Concurrency(4))
    assert "concurrency 4 (db)" == str(Concurrency(4, "db"))
    assert "<concurrency 4: 0 in use, 0 waiting>" == repr(Concurrency(4))
