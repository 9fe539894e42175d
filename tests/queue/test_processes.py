"""Jobs in processes: what goes there, what comes back, what a job sees there, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import process_jobs as jobs
import pytest
from process_world import accounts, at_target, marked, nothing_left_of_processes, real, rounds, until, warm

import runcrew as rc

pytestmark = [pytest.mark.realtime]
__all__ = ["nothing_left_of_processes"]

Free = rc.Queue[Any]


def processes(**options: Any) -> Free:
    """A queue whose jobs run in processes."""
    return rc.Queue("hash", backend="process", **options)


async def outcome(queue: Free, fn: Callable[..., Any], *args: Any, **options: Any) -> rc.Outcome[Any]:
    """What comes of one run."""
    return await queue.submit_nowait(fn, *args, **options).outcome()


# --- values -------------------------------------------------------------------------------


@real
async def test_jobs_run_in_another_process_and_values_come_back() -> None:
    """A value is what the job returned, in a process of each worker that is neither this one nor its fork server."""
    async with processes(workers=2) as queue:
        pids = {await ticket for ticket in [queue.submit_nowait(jobs.sleep_pid, 0.05) for _ in range(6)]}
        assert 2 == len(pids)
        assert os.getpid() not in pids
        assert 3 == len(marked())  # and the fork server
        for value in (
            None,
            0,
            "",
            "text",
            b"bytes",
            1.5,
            {"a": [1, {2}]},
            datetime(2026, 1, 2, tzinfo=UTC),
            Path("/x"),
        ):
            assert value == await queue.run(jobs.give, value)
        assert ((1, 2, 3), {}) == await queue.run(jobs.args, 1, 2, 3)
        assert ((1,), {"b": 2}) == await queue.run(functools.partial(jobs.args, 1, b=2))
        assert 5 == await queue.run(jobs.Adder(2), 3)
        assert 5 == await queue.run(jobs.Adder(2).add, 3)
        assert 3 == await queue.run(abs, -3)
    assert [] == marked()


@real
async def test_objects_that_change_are_sent_as_they_are_at_each_submit() -> None:
    """A callable object is pickled for each run, so that what has changed in it is seen."""
    async with processes() as queue:
        adder = jobs.Adder(1)
        first = await queue.run(adder, 1)
        adder.number = 10
        assert (2, 11) == (first, await queue.run(adder, 1))


@real
async def test_many_values_come_back_each_to_its_own_ticket() -> None:
    """5,000 tiny jobs on two workers each give their own value, and all counts agree."""
    async with processes(workers=2) as queue:
        tickets = [queue.submit_nowait(jobs.give, number) for number in range(5000)]
        assert list(range(5000)) == [await ticket for ticket in tickets]
        accounts(queue, [await ticket.outcome() for ticket in tickets])
        assert 5000 == queue.metrics().completed
        await until(lambda: at_target(queue))


@pytest.mark.parametrize("size", [0, 1, 100, 5_000, 65_000, 65_536, 70_000, 1_000_003])
@real
async def test_buffers_travel_beside_the_pickle_in_all_sizes(size: int) -> None:
    """Arguments and values with buffers of their own come whole, and may be written into, whatever their size."""
    async with processes() as queue:
        assert [jobs.Block(b"x" * size)] * 2 == await queue.run(jobs.blocks, size, size)
        assert size == await queue.run(jobs.length, jobs.Block(b"a" * size))
        came = await queue.run(jobs.held, size)
        assert b"y" * size == bytes(came.data)
        if size:
            assert size == jobs.written(came)
            assert size == await queue.run(jobs.written, jobs.held(size))
        assert b"v" * size == await queue.run(jobs.many_bytes, size)


@real
async def test_a_buffer_that_is_scattered_over_memory_fails_in_words() -> None:
    """Pickle itself refuses what has no buffer in one piece: that costs the run, and says so."""
    async with processes() as queue:
        with pytest.raises(rc.NotPicklable, match="argument 0"):
            await queue.run(jobs.give, jobs.Strided())
        assert 1 == await queue.run(jobs.give, 1)


@real
async def test_fifty_megabytes_travel_both_ways() -> None:
    """50 MB go there and come back, plain and beside the pickle, while others are served."""
    big = b"big" * 17_000_000
    async with processes(workers=2) as queue:
        sent = queue.submit_nowait(jobs.give, big)
        others = [queue.submit_nowait(jobs.give, number) for number in range(100)]
        assert list(range(100)) == [await ticket for ticket in others]
        assert big == await sent
        block = await queue.run(jobs.give, jobs.Block(big))
        assert jobs.Block is type(block)
        assert big == bytes(block)


@real
async def test_large_arguments_of_what_waits_behind_are_each_jobs_own() -> None:
    """Jobs with large and with small arguments, handed over together, each get their own."""
    async with processes() as queue:
        await warm(queue)
        sizes = [200_000 if number % 3 == 0 else number for number in range(60)]
        tickets = [queue.submit_nowait(jobs.length, bytes(size)) for size in sizes]
        assert sizes == [await ticket for ticket in tickets]


# --- what a job sees --------------------------------------------------------------------------


@real
async def test_a_job_sees_its_run(caplog: pytest.LogCaptureFixture) -> None:
    """`current_run()` gives the ticket's id, the attempt and the deadline; outside there is none."""
    async with processes() as queue:
        before = datetime.now(UTC)
        ticket = queue.submit_nowait(jobs.about_me, timeout=30, deadline=60)
        said = await ticket
        assert ticket.id == said["id"]
        assert (1, False, "about_me", "hash") == (said["attempt"], said["cancelled"], said["name"], said["service"])
        assert before + timedelta(seconds=29) < said["deadline"] < before + timedelta(seconds=40)
        assert said["pid"] != os.getpid()
        plain = queue.submit_nowait(jobs.about_me)
        assert (await plain)["deadline"] is None
        assert plain.id == (await plain)["id"]
        due = (await queue.run(jobs.about_me, deadline=60))["deadline"]
        assert before + timedelta(seconds=55) < due < before + timedelta(seconds=65)
        assert "LookupError" == await queue.run(jobs.no_run)
        known = queue.submit_nowait(jobs.my_id)
        early = known.id
        assert early == await known


@real
async def test_ids_stay_the_same_over_attempts_and_when_handed_elsewhere(tmp_path: Path) -> None:
    """A ticket has one id, whoever asks for it, when, and in which attempt."""
    async with processes(workers=2) as queue:
        await warm(queue)
        slow = queue.submit_nowait(jobs.sleep, 0.2)
        tickets = [queue.submit_nowait(jobs.my_id) for _ in range(50)]
        early = [ticket.id for ticket in tickets[::3]]
        ids = [await ticket for ticket in tickets]
        assert ids == [ticket.id for ticket in tickets]
        assert early == ids[::3]
        assert 50 == len(set(ids))
        await slow
        path = str(tmp_path / "notes")
        ticket = queue.submit_nowait(
            jobs.id_until, path, 3, retry=rc.Retry(jobs.Oops, retries=5, backoff=rc.Constant(0))
        )
        await ticket
        assert [ticket.id] * 3 == jobs.notes(path)
        assert 3 == ticket.attempts


@real
async def test_progress_is_seen_here_while_the_job_runs(tmp_path: Path) -> None:
    """What a job says about how far it has come is seen in its run at once."""
    async with processes() as queue:
        path = tmp_path / "go on"
        ticket = queue.submit_nowait(jobs.progress_and_wait, str(path))
        await until(lambda: ticket.as_run().done is not None)
        assert (3, 10) == ticket.as_run().done
        path.touch()
        await ticket


@real
async def test_context_variables_neither_come_nor_leak() -> None:
    """A job sees no variable of ours, and none that an earlier job has set."""
    jobs.VARIABLE.set("ours")
    async with processes() as queue:
        assert ["nothing"] * 3 == [await queue.run(jobs.change_variable, str(number)) for number in range(3)]


@real
async def test_what_a_job_leaves_behind_in_a_thread_disturbs_nobody() -> None:
    """A thread that goes on telling progress after its run has ended is not heard."""
    async with processes() as queue:
        first = queue.submit_nowait(jobs.thread_that_stays)
        assert first.id == await first
        tickets = [queue.submit_nowait(jobs.give, number) for number in range(200)]
        assert list(range(200)) == [await ticket for ticket in tickets]
        assert all(ticket.as_run().done is None for ticket in tickets)


@real
async def test_a_process_has_nothing_open_but_its_own_pipes(tmp_path: Path) -> None:
    """0, 1, 2 and the pipes of its own: nothing of ours, nothing of other workers."""
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        async with processes(workers=3) as queue:
            found = [await queue.submit_nowait(jobs.sleep_files, 0.1) for _ in range(3)]
            many = [await t for t in [queue.submit_nowait(jobs.sleep_files, 0.1) for _ in range(3)]]
            for files in (*found, *many):
                assert {0, 1, 2} <= set(files)
                rest = [name for fd, name in files.items() if fd > 2]
                assert 3 <= len(rest) <= 4
                assert all(name.startswith("pipe:") for name in rest), files
            assert "/dev/null" == found[0][0]
            pipes = [{name for fd, name in files.items() if fd > 2} for files in many]
            different = {tuple(sorted(each)) for each in pipes}
            assert sum(len(each) for each in different) == len(set().union(*pipes))


@real
async def test_signals_are_as_a_fresh_program_has_them() -> None:
    """No signal is blocked, and none ignored but what this program, or Python itself, ignores."""
    here = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    async with processes() as queue:
        blocked, ignored = await queue.run(jobs.signals)
        assert not blocked
        assert {signal.SIGPIPE, signal.SIGXFSZ, *here} >= set(ignored)


# --- ways to ask ------------------------------------------------------------------------------


@real
async def test_map_and_submit_many_and_priorities() -> None:
    """They go through processes as through threads."""
    async with processes(workers=2) as queue:
        assert [n + 1 for n in range(300)] == [v async for v in queue.map(jobs.Adder(1), range(300))]
        unordered = [v async for v in queue.map(abs, range(-300, 0), ordered=False)]
        assert list(range(1, 301)) == sorted(unordered)
        assert list(range(100)) == [await t for t in await queue.submit_many(jobs.give, range(100))]
        with pytest.raises(jobs.Oops):
            async with contextlib.aclosing(queue.map(jobs.odd_fails, range(10))) as values:
                async for _ in values:
                    pass
        await until(lambda: at_target(queue))
        assert 0 == queue.stats().queued


@real
async def test_the_urgent_go_before_those_that_were_handed_ahead_and_taken_back(tmp_path: Path) -> None:
    """What waits behind a long job is taken back, and begins in its old order, the urgent first."""
    path = str(tmp_path / "notes")
    async with processes() as queue:
        await warm(queue)
        slow = queue.submit_nowait(jobs.sleep, 0.15)
        tickets = [queue.submit_nowait(jobs.note, path, number) for number in range(30)]
        await asyncio.sleep(0.05)  # they were handed over, and are taken back
        assert not slow.done()
        urgent = [queue.submit_nowait(jobs.note, path, f"urgent{n}", priority=rc.HIGH) for n in range(3)]
        await asyncio.gather(*(ticket.outcome() for ticket in (*tickets, *urgent)))
        assert [f"urgent{n}" for n in range(3)] + [str(n) for n in range(30)] == jobs.notes(path)


@real
async def test_whoever_waits_behind_a_long_job_is_done_by_another_worker() -> None:
    """Tiny jobs that were handed ahead of a long one's end are not held up by it."""
    async with processes(workers=2) as queue:
        await warm(queue)
        slow = [queue.submit_nowait(jobs.sleep, 0.8)]
        tickets = [queue.submit_nowait(jobs.give, number) for number in range(200)]
        assert list(range(200)) == [await ticket for ticket in tickets]
        assert not slow[0].done()
        await slow[0]


@real
async def test_a_result_is_told_while_the_next_job_runs() -> None:
    """What has ended is told at once, and not when the long job behind it has ended."""
    async with processes() as queue:
        await warm(queue)
        quick = [queue.submit_nowait(jobs.give, number) for number in range(3)]
        slow = queue.submit_nowait(jobs.sleep, 0.8)
        assert [0, 1, 2] == [await ticket for ticket in quick]
        assert not slow.done()
        await slow


class Layers:
    """Middleware that counts, and passes on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, inner: Any) -> Any:
        async def handle(run: Any) -> Any:
            self.calls += 1
            return await inner(run)

        return handle


@real
async def test_jobs_go_through_middleware_and_limits_of_concurrency(tmp_path: Path) -> None:
    """A chain around each attempt changes nothing about where it runs, what comes of it, or what a death is."""
    layer = Layers()
    path = str(tmp_path / "notes")
    async with processes(workers=3, concurrency=rc.Concurrency(2), middleware=[layer]) as queue:
        tickets = [queue.submit_nowait(jobs.give, number) for number in range(50)]
        assert list(range(50)) == [await ticket for ticket in tickets]
        assert 50 == layer.calls
        one = queue.submit_nowait(jobs.about_me)
        assert one.id == (await one)["id"]
        with pytest.raises(jobs.Oops):
            await queue.run(jobs.fail, jobs.Oops, 1)
        died = (await outcome(queue, jobs.leave, 3)).error
        assert isinstance(died, rc.ProcessDied)
        assert 3 == died.exitcode
        late = await outcome(queue, jobs.sleep, 10, timeout=0.1)
        assert rc.Status.TIMED_OUT is late.status
        told = queue.submit_nowait(jobs.until_told, path)
        await until(lambda: queue.stats().running == 1)
        await asyncio.sleep(0.1)
        assert told.cancel()
        await told.outcome()
        assert ["heeded"] == jobs.notes(path)
        deaf = queue.submit_nowait(jobs.sleep, 10)
        await asyncio.sleep(0.1)
        assert deaf.cancel()
        assert rc.Status.CANCELLED is (await deaf.outcome()).status
        await until(lambda: at_target(queue))


@real
async def test_past_the_queue_there_are_processes_too() -> None:
    """`run_now` has a process of its own, kept ready or made for it, which is gone afterwards."""
    async with processes(spares=1, max_spares=2) as queue:
        slow = queue.submit_nowait(jobs.sleep, 0.3)
        assert 1 == await queue.run_now(jobs.give, 1)
        both = await asyncio.gather(*(queue.run_now(jobs.sleep_pid, 0.1) for _ in range(2)))
        assert 2 == len(set(both))
        with pytest.raises(rc.ProcessDied):
            await queue.run_now(jobs.die)
        with pytest.raises(rc.RunTimeout):
            await queue.run_now(jobs.sleep, 10, timeout=0.1)
        await slow
        await until(lambda: queue.stats().spares_free == queue.stats().spares_alive == 1)


@real
async def test_the_number_of_processes_follows_the_load() -> None:
    """Scaling brings processes, and lets them go again."""
    scale = rc.Scale(0.02, window=0.2, wait=0.02, hold=0.2, cooldown=0.1)
    async with processes(workers=1, max_workers=4, scale=scale) as queue:
        tickets = [queue.submit_nowait(jobs.sleep, 0.05) for _ in range(40)]
        await until(lambda: queue.stats().alive >= 3)
        for ticket in tickets:
            await ticket
        await until(lambda: queue.stats().alive == 1 and at_target(queue))
        assert 1 == await queue.run(jobs.give, 1)


# --- what is refused ----------------------------------------------------------------------------


def test_what_processes_cannot_do_is_refused_when_the_queue_is_made() -> None:
    """Async resources, threadsafe, abandoning: in words, at construction."""
    for options, word in (
        ({"resource": jobs.async_store}, "resource"),
        ({"resource": functools.partial(jobs.store, "x"), "threadsafe": True}, "threadsafe"),
        ({"max_abandoned": 1}, "max_abandoned"),
    ):
        with pytest.raises(rc.ConfigError, match=word):
            processes(**options)
    for backend in (None, "thread"):
        with pytest.raises(rc.ConfigError, match="kill"):
            rc.Queue("db", backend=backend, kill=True)
    processes(kill=True)
    wrong: tuple[dict[str, Any], ...] = (
        {"max_runs": 0},
        {"max_runs": True},
        {"max_megabytes": 0},
        {"max_megabytes": float("nan")},
        {"max_deaths": 0},
        {"max_deaths": None},
        {"preload": "json"},
        {"preload": [1]},
    )
    for bad in wrong:
        with pytest.raises(rc.ConfigError, match=next(iter(bad))):
            rc.Processes(**bad)


@real
async def test_a_resource_that_does_not_travel_is_refused_at_the_start() -> None:
    """What makes the resource has to be found by its name: refused in words, and not tried again and again."""
    with pytest.raises((rc.NotPicklable, rc.ConfigError), match="resource"):
        async with processes(resource=lambda: 1, destroy=None):
            pass


@real
async def test_jobs_that_no_process_can_run_are_refused_at_submit() -> None:
    """Lambdas, closures and async jobs, also inside partials and methods: in words, and nothing was accepted."""

    def closure() -> None:
        """Found by no other process."""

    class Local:
        def method(self) -> None:
            """The same."""

    async with processes() as queue:
        for job, word in (
            (lambda: 1, "lambda"),
            (closure, "closure"),
            (functools.partial(closure), "closure"),
            (Local().method, "method"),
            (jobs.async_job, "async"),
        ):
            with pytest.raises(rc.NotAJob, match=word):
                queue.submit_nowait(job)
        assert 0 == queue.stats().runs.begun
        local: Any = type("Nowhere", (), {"__call__": lambda self: 1})()
        with pytest.raises((rc.NotAJob, rc.NotPicklable)):
            await queue.run(local)


@real
async def test_a_job_may_not_wait_for_room_and_rounds_are_short() -> None:
    """`maxsize`, `overflow` and the slices of the loop hold for processes as for threads."""
    async with processes(maxsize=5, overflow="drop_newest") as queue:
        slow = queue.submit_nowait(jobs.sleep, 0.2)
        await rounds()
        outcomes = await asyncio.gather(*(queue.submit_nowait(jobs.give, n).outcome() for n in range(20)))
        assert 15 == sum(outcome.status is rc.Status.SKIPPED for outcome in outcomes)
        await slow


def test_nothing_of_the_library_logs_an_error_in_quiet_times(caplog: pytest.LogCaptureFixture) -> None:
    """A queue that starts, works and stops says nothing above INFO."""

    @real
    async def main() -> None:
        async with processes(workers=2) as queue:
            for number in range(100):
                await queue.run(jobs.give, number)

    with caplog.at_level(logging.INFO):
        main()
    assert [] == [record for record in caplog.records if record.levelno > logging.INFO]
