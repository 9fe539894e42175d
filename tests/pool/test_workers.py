"""How many workers there are: more, less, resize, a pause; what refuses them, and what a change is to await."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pool_made import Busy, Deaf, PlainBusy, Things, now, rounds, seen, use

import runcrew as rc
from runcrew.testing import run_virtual

#: What changes the number of workers.
CHANGES: list[Callable[[rc.Pool], Any]] = [
    lambda pool: pool.more(),
    lambda pool: pool.less(),
    lambda pool: pool.resize(2),
]


# --- more ---------------------------------------------------------------------------------------


@pytest.mark.parity("T4.26", "E4.8")
@pytest.mark.defect("D4.4")
@pytest.mark.virtual
async def test_more_begin_at_once_up_to_the_maximum() -> None:
    """A worker that is added begins at once; at the maximum nothing changes, however often and many are asked for."""
    busy = Busy(10)
    async with rc.Pool(busy, max=3) as pool:
        with pytest.raises(rc.AtMax):
            pool.more(3)
        assert 1 == pool.size
        await asyncio.sleep(1)
        pool.more()
        assert 2 == pool.size
        await rounds()
        assert [0.0, 1.0] == busy.at
        assert 3 == await pool.more()
        asks: list[Callable[[], Any]] = [pool.more, lambda: pool.more(1000), lambda: pool.resize(4)]
        for ask in asks:
            with pytest.raises(rc.AtMax) as caught:
                ask()
            assert "3" in str(caught.value)
            assert (3, 3) == (pool.size, pool.stats().alive)


@pytest.mark.parity("E4.8")
@pytest.mark.virtual
async def test_a_maximum_of_one() -> None:
    """One worker, and never another one."""
    async with rc.Pool(Busy(), max=1) as pool:
        with pytest.raises(rc.AtMax):
            pool.more()
        assert 1 == pool.size


# --- less ---------------------------------------------------------------------------------------


@pytest.mark.parity("T4.27")
@pytest.mark.defect("D4.7")
@pytest.mark.virtual
async def test_less_lets_the_newest_go_when_their_runs_have_ended() -> None:
    """The count is lower at once, whoever came last leaves, and its run ends of its own; no other run of it follows."""
    ended: dict[str, list[float]] = {"old": [], "new": []}
    names = iter(ended)

    def factory() -> Any:
        mine = ended[next(names)]

        async def job() -> None:
            await asyncio.sleep(10)
            mine.append(now())

        return job

    async with rc.Pool(job_factory=factory) as pool:
        await asyncio.sleep(1)
        await pool.more()
        await asyncio.sleep(1)
        change = pool.less()
        assert (1, 2, 1) == (pool.size, pool.stats().alive, pool.stats().leaving)
        assert 1 == await change
        assert 11.0 == now()
        await asyncio.sleep(30)
    assert [11.0] == ended["new"]
    assert 5 == len(ended["old"])
    assert 0 == pool.stats().runs.interrupted


@pytest.mark.parity("T4.27", "T4.1")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.parametrize("options", [{}, {"retry": rc.Retry(KeyError)}], ids=["bare", "chain"])
@pytest.mark.virtual
async def test_less_now_cuts_the_run_of_the_newest_short(plain: bool, options: dict[str, Any]) -> None:
    """With mode="now" the job of the worker that leaves is told so, and its run ends as interrupted, at once."""
    busy: Any = PlainBusy(10) if plain else Busy(10)
    async with rc.Pool(busy, initial=3, stop_on_error=True, **options) as pool:
        await asyncio.sleep(1)
        assert 1 == await pool.less(2, mode="now")
        assert 1.0 == pytest.approx(now())
        assert (3, 2, 0) == (busy.begun, busy.cut, busy.ended)
        stats = pool.stats()
        assert (1, 2, 0, 1) == (stats.alive, stats.runs.interrupted, stats.runs.failed, stats.runs.in_flight)
        await asyncio.sleep(10)
        assert (4, 1) == (busy.begun, busy.ended)


@pytest.mark.virtual
async def test_whoever_leaves_already_can_be_told_to_leave_now() -> None:
    """A worker that still ends its run is not counted any more: less(mode="now") cuts another one's."""
    busy = Busy(10)
    async with rc.Pool(busy, initial=3) as pool:
        await asyncio.sleep(1)
        pool.less()
        pool.less(mode="now")
        await asyncio.sleep(1)
        assert (1, 1, 2, 1) == (pool.size, busy.cut, pool.stats().alive, pool.stats().leaving)
        await asyncio.sleep(9)
        assert (1, 2) == (pool.stats().alive, busy.ended)


@pytest.mark.parity("T4.28", "E4.10")
@pytest.mark.defect("D4.1")
@pytest.mark.virtual
async def test_no_workers_are_a_pause() -> None:
    """With none nothing runs and nothing has ended; one fewer is refused; more resumes; a stop ends it well."""
    busy = Busy(1)
    pool = rc.Pool(busy, initial=3)
    await pool.start()
    await asyncio.sleep(0.5)
    assert 0 == await pool.less(3)
    begun = busy.begun
    with pytest.raises(rc.AtMin, match="min"):
        pool.less()
    await asyncio.sleep(1000)
    assert (begun, 0, rc.State.RUNNING, None) == (busy.begun, pool.size, pool.state, pool.report)
    for _ in range(3):  # a pause and more in one breath, in both orders
        pool.more()
        pool.less()
    assert 2 == await pool.more(2)
    await asyncio.sleep(1)
    assert begun + 2 <= busy.begun
    await pool.resize(0)
    assert (await pool.stop()).clean
    assert rc.State.STOPPED is pool.state


@pytest.mark.defect("D4.1")
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.virtual
async def test_a_pause_followed_by_more_at_once(plain: bool) -> None:
    """Whenever after the pause, and whatever is under way then, more brings the workers back."""
    busy: Any = PlainBusy(1) if plain else Busy(1)
    async with rc.Pool(busy, initial=2) as pool:
        for after in (None, 0, 0.25, 0.5, 1.0, 1.5):
            await asyncio.sleep(0.3)
            pool.resize(0)
            if after is not None:
                await asyncio.sleep(after)
            assert 2 == await pool.more(2)
            begun = busy.begun
            await asyncio.sleep(3)
            assert begun < busy.begun
            assert 2 == pool.stats().alive


@pytest.mark.virtual
async def test_a_minimum_is_kept() -> None:
    """With a minimum there is no pause: fewer are refused, and what is refused changes nothing."""
    async with rc.Pool(Busy(), min=2, initial=3) as pool:
        assert 2 == await pool.less()
        asks: list[Callable[[], Any]] = [
            pool.less,
            lambda: pool.resize(0),
            lambda: pool.resize(1),
            lambda: pool.less(5, mode="now"),
        ]
        for ask in asks:
            with pytest.raises(rc.AtMin) as caught:
                ask()
            assert "min" in str(caught.value)
            assert (2, 2) == (pool.size, pool.stats().alive)


# --- resize -------------------------------------------------------------------------------------


@pytest.mark.defect("D4.18")
@pytest.mark.virtual
async def test_resize_says_how_many_there_are_to_be() -> None:
    """Whatever there are, so many are there when it is complete."""
    async with rc.Pool(Busy(1), max=9) as pool:
        for size in (5, 2, 9, 0, 1, 1, 4):
            assert size == await pool.resize(size)
            assert (size, size) == (pool.size, pool.stats().alive)


@pytest.mark.defect("D4.5")
@pytest.mark.virtual
async def test_those_that_leave_count_against_the_maximum() -> None:
    """However slow runs and resources are, there are never more workers and runs at once than `max`."""
    things = Things(takes=3, leaves=5)
    running = most = 0

    async def job(thing: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(7)
        running -= 1

    async with rc.Pool(job, resource=things, initial=2, max=4) as pool:
        for size in (4, 0, 4, 1, 3, 4, 0, 2, 4):
            pool.resize(size)
            for _ in range(4):
                await asyncio.sleep(1)
                stats = pool.stats()
                assert stats.alive + stats.opening + stats.closing <= 4
                assert len(things.open) <= 4
        assert 4 == await pool.resize(4)
        await asyncio.sleep(1)
    assert 4 == most
    assert things.balanced


@pytest.mark.defect("D4.5")
@pytest.mark.virtual
async def test_less_and_more_in_turn_do_not_exceed_the_maximum() -> None:
    """Slow jobs of workers that leave hold up those that come: real concurrency stays within `max`."""
    busy = Busy(10)
    async with rc.Pool(busy, initial=2, max=2) as pool:
        await asyncio.sleep(1)
        for _ in range(5):
            pool.less()
            pool.more()
            await asyncio.sleep(0.1)
        assert (2, 2) == (busy.running, busy.most)
        assert 2 == await pool.resize(2)
        await asyncio.sleep(60)
        assert 2 == busy.most


@pytest.mark.parametrize(("call", "bad"), [("resize", -1), ("more", 0), ("less", 0), ("more", True), ("less", 1.5)])
@pytest.mark.virtual
async def test_what_is_no_number_of_workers_is_refused(call: str, bad: Any) -> None:
    """A count that makes no sense is refused with its value, and changes nothing."""
    async with rc.Pool(Busy(), initial=2) as pool:
        with pytest.raises(rc.ConfigError, match=str(bad)):
            getattr(pool, call)(bad)
        mode: Any = "soon"
        with pytest.raises(rc.ConfigError, match="soon"):
            pool.less(mode=mode)
        assert 2 == pool.size


# --- when it is refused -------------------------------------------------------------------------


@pytest.mark.parity("E4.9", "T4.37", "T4.29")
@pytest.mark.parametrize("change", CHANGES, ids=["more", "less", "resize"])
@pytest.mark.virtual
async def test_a_pool_that_is_not_at_work_says_why(change: Callable[[rc.Pool], Any]) -> None:
    """Before the start, while it stops and after the end each change raises an error of its own."""
    busy = Busy(10)
    pool = rc.Pool(busy, initial=3)
    with pytest.raises(rc.NotStarted, match="start"):
        change(pool)
    assert (3, 0) == (pool.size, pool.stats().alive)
    await pool.start()
    await asyncio.sleep(1)
    stopping = asyncio.ensure_future(pool.stop())
    await rounds()
    with pytest.raises(rc.ServiceStopping):
        change(pool)
    await stopping
    with pytest.raises(rc.ServiceStopped):
        change(pool)
    assert 3 == busy.begun


@pytest.mark.parametrize("change", CHANGES, ids=["more", "less", "resize"])
@pytest.mark.virtual
async def test_a_pool_that_was_stopped_before_its_start_says_so(change: Callable[[rc.Pool], Any]) -> None:
    """A stop without a start is an end like any other."""
    pool = rc.Pool(Busy())
    await pool.stop()
    with pytest.raises(rc.ServiceStopped):
        change(pool)


@pytest.mark.defect("D4.3")
@pytest.mark.virtual
async def test_a_pool_that_has_failed_is_over() -> None:
    """After a failure that ends it there are no workers, more is refused, and a start begins a new life."""

    async def fails() -> None:
        await asyncio.sleep(1)
        if pool.generation == 1:
            raise OSError("broken")

    pool = rc.Pool(fails, initial=3, stop_on_error=True)
    await pool.start()
    with pytest.raises(OSError, match="broken"):
        await pool.wait()
    assert (rc.State.FAILED, 0, 0) == (pool.state, pool.stats().alive, pool.stats().runs.in_flight)
    with pytest.raises(rc.ServiceStopped):
        pool.more()
    assert isinstance(pool.error, OSError)
    await pool.start()
    await asyncio.sleep(5)
    assert (2, 3, rc.State.RUNNING) == (pool.generation, pool.stats().alive, pool.state)
    await pool.stop()


@pytest.mark.parity("T4.36")
@pytest.mark.parametrize("change", CHANGES, ids=["more", "less", "resize"])
@pytest.mark.virtual
async def test_on_another_loop_or_none_it_is_refused(change: Callable[[rc.Pool], Any]) -> None:
    """A change from a thread, or from another loop, names the way to make it; looking is free."""

    async def elsewhere() -> None:
        change(pool)

    async with rc.Pool(Busy(), initial=2) as pool:
        with pytest.raises(rc.WrongLoop, match="threadsafe"):
            await asyncio.to_thread(change, pool)
        with pytest.raises(rc.WrongLoop, match="threadsafe"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert (2, 2) == await asyncio.to_thread(lambda: (pool.size, pool.stats().alive))


@pytest.mark.parity("T4.36", "E4.13")
@pytest.mark.realtime
def test_changes_from_many_threads_by_way_of_the_loop() -> None:
    """Hundreds of changes from several threads come one after the other; at the end there are as many as were said."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        busy = Busy(0.001)

        def change() -> None:
            for _ in range(50):
                loop.call_soon_threadsafe(pool.more)
                with contextlib.suppress(rc.AtMin):
                    asyncio.run_coroutine_threadsafe(less(), loop).result()
                pool.stats()

        async def less() -> None:
            pool.less()

        async with rc.Pool(busy, initial=5) as pool:
            await asyncio.gather(*(asyncio.to_thread(change) for _ in range(6)))
            assert 5 == await pool.resize(5)
            assert 5 == pool.stats().alive
        assert 0 == busy.running

    asyncio.run(main())


@pytest.mark.parity("E4.13", "T4.36")
@pytest.mark.parametrize("seed", range(5))
def test_hundreds_of_changes_at_the_same_time(seed: int) -> None:
    """Many tasks make it more and less at random; the figures add up, and a stop ends all of it in time."""

    async def main() -> None:
        busy = Busy(0.1)
        chance = random.Random(seed)
        pool = rc.Pool(busy, max=50)
        await pool.start()

        async def change() -> None:
            for _ in range(20):
                await asyncio.sleep(chance.random() * 0.05)
                with contextlib.suppress(rc.AtMin, rc.AtMax):
                    made = chance.choice([pool.more, pool.less, lambda: pool.resize(chance.randrange(50))])()
                    if chance.random() < 0.3:
                        await made

        await asyncio.gather(*(change() for _ in range(40)))
        size = pool.size
        assert size == await pool.resize(size)
        began = now()
        report = await pool.stop(20)
        assert (True, True) == (report.clean, now() - began <= 0.2)
        assert (busy.begun, 0) == (busy.ended, busy.cut)
        assert busy.most <= 50
        assert busy.ended == pool.stats().runs.succeeded

    run_virtual(main, seed=seed)


@pytest.mark.parity("E4.20")
@pytest.mark.parametrize("count", [10, 100, 1000])
@pytest.mark.virtual
async def test_many_workers_come_and_go(count: int) -> None:
    """Workers added one by one, every tenth taken away again, and a stop: all of it at once and to the end."""
    busy = Busy(0.15)
    pool = rc.Pool(busy, initial=0)
    await pool.start()
    for number in range(1, count + 1):
        pool.more()
        if number % 10 == 0:
            pool.less()
    assert count - count // 10 == pool.size
    await asyncio.sleep(1)
    assert count - count // 10 == pool.stats().alive
    began = now()
    assert (await pool.stop()).clean
    assert now() - began <= 0.151
    assert (busy.begun, 0) == (busy.ended, busy.cut)


# --- awaiting a change --------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_change_can_be_awaited_or_not() -> None:
    """It is under way when the call returns; awaiting it waits until all have come or gone, and gives their number."""
    things = Things(takes=4, leaves=2)
    async with rc.Pool(use, resource=things) as pool:
        began = now()
        change = pool.more(2)
        assert (3, 2) == (pool.size, pool.stats().opening)
        assert 3 == await change
        assert 4.0 == now() - began
        assert 3 == await change, "again, at once"
        began = now()
        assert 1 == await pool.less(2)
        assert 2 <= now() - began <= 3
        assert "done" in repr(change)
    assert things.balanced


@pytest.mark.virtual
async def test_a_change_that_is_overtaken_ends_with_the_last_one() -> None:
    """Several changes that are under way at once are complete together, with the size that was asked for last."""
    async with rc.Pool(Busy(5), initial=2) as pool:
        await asyncio.sleep(1)
        changes = [pool.resize(0), pool.resize(6), pool.resize(3)]
        assert [3, 3, 3] == [await change for change in changes]


@pytest.mark.virtual
async def test_cancelling_who_awaits_a_change_ends_only_the_waiting() -> None:
    """The workers come all the same."""
    things = Things(takes=10)
    async with rc.Pool(use, resource=things, initial=0) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.more(2)
        await asyncio.sleep(10)
        assert (2, 2) == (pool.size, pool.stats().alive)


@pytest.mark.virtual
async def test_a_stop_ends_the_waiting_for_a_change() -> None:
    """Nobody who awaits workers that will not come any more waits for ever."""
    things = Things(takes=1000)
    async with rc.Pool(use, resource=things, initial=0) as pool:
        waiting = asyncio.ensure_future(_number(pool.more(2)))
        await asyncio.sleep(1)
        await pool.kill()
        assert 0 == await waiting


async def _number(change: Any) -> int:
    number: int = await change
    return number


@pytest.mark.parametrize("options", [{}, {"retry": rc.Retry(KeyError)}], ids=["bare", "chain"])
@pytest.mark.virtual
async def test_a_job_may_change_the_number_and_not_wait_for_it(options: dict[str, Any]) -> None:
    """From inside a job a change begins; awaiting it could be waiting for oneself, and raises WouldDeadlock."""
    refused: list[Exception] = []

    async def job() -> None:
        await asyncio.sleep(1)
        if not refused:
            try:
                await pool.less()
            except rc.WouldDeadlock as error:
                refused.append(error)
            pool.more(2)

    async with rc.Pool(job, initial=2, **options) as pool:
        await asyncio.sleep(5.5)
        assert 1 == len(refused)
        assert (3, 3) == (pool.size, pool.stats().alive)


@pytest.mark.virtual
async def test_a_job_may_dismiss_itself() -> None:
    """The last worker may pause its own pool: its run ends, and somebody else resumes it."""
    runs = 0

    async def job() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(1)
        if runs % 3 == 0:
            pool.resize(0)

    async with rc.Pool(job) as pool:
        await asyncio.sleep(100)
        assert (3, 0) == (runs, pool.stats().alive)
        await pool.more()
        await asyncio.sleep(100)
        assert (6, 0) == (runs, pool.stats().alive)


@pytest.mark.virtual
async def test_a_job_may_cut_its_own_run_short() -> None:
    """A job that dismisses its own worker at once is cancelled where it awaits next."""
    heard: list[str] = []

    async def job() -> None:
        pool.less(mode="now")
        heard.append("still here")
        await asyncio.sleep(1)
        heard.append("never")

    async with rc.Pool(job) as pool:
        await asyncio.sleep(5)
        assert (["still here"], 1, 0) == (heard, pool.stats().runs.interrupted, pool.stats().alive)


@pytest.mark.virtual
async def test_a_deaf_thread_that_is_to_leave_now_holds_its_place() -> None:
    """A plain job that does not listen to less(mode="now") is waited for; nobody comes beyond the maximum meanwhile."""
    deaf = Deaf()
    async with rc.Pool(deaf, initial=2, max=2) as pool:
        await seen(lambda: deaf.begun == 2)
        change = pool.less(2, mode="now")
        pool.more(2)
        await asyncio.sleep(50)
        assert (2, 2) == (deaf.begun, pool.stats().leaving)
        deaf.may_go.set()
        assert 2 == await change
        await asyncio.sleep(0.5)
        assert (2, 0) == (pool.stats().alive, pool.stats().leaving)


@pytest.mark.virtual
async def test_the_size_can_be_read_from_any_thread() -> None:
    """While workers come and go, other threads look at the figures, which always make sense."""
    over = threading.Event()
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not over.is_set():
                stats = pool.stats()
                assert 0 <= stats.busy + stats.idle <= stats.alive <= 10
                assert stats.runs.begun == stats.runs.ended + stats.runs.in_flight
                assert 0 <= pool.size <= 5
        except BaseException as error:
            errors.append(error)

    async with rc.Pool(Busy(0.01), max=5) as pool:
        looking = threading.Thread(target=look)
        looking.start()
        for turn in range(300):
            pool.resize(turn % 6)
            await asyncio.sleep(0.005)
        over.set()
        looking.join()
    assert [] == errors
