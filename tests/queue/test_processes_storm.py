"""Processes that are killed at random moments, and everything else that may happen, in random order.

RUNCREW_STORM=2000x10 (tasks x rounds) runs the long version, RUNCREW_STORM_SEED=… begins with that seed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import process_jobs as jobs
import pytest
from process_world import at_target, is_alive, nothing_left_of_processes, parent_of, servers, until

import runcrew as rc

pytestmark = [pytest.mark.realtime, pytest.mark.timeout(300)]
__all__ = ["nothing_left_of_processes"]

TASKS, ROUNDS = map(int, os.environ.get("RUNCREW_STORM", "300x2").split("x"))
SEED = int(os.environ.get("RUNCREW_STORM_SEED", time.time_ns() % 1_000_000))
#: Real seconds for one storm.
LIMIT = 60.0
AT_ONCE = rc.Constant(0)
ON_DEATH = rc.Retry(rc.ProcessDied, retries=rc.UNLIMITED, backoff=AT_ONCE)


class Count:
    """How often each ticket has told its end."""

    def __init__(self) -> None:
        self.ends: collections.Counter[int] = collections.Counter()

    def watch(self, number: int, ticket: rc.Ticket[Any]) -> rc.Ticket[Any]:
        """From here on."""
        ticket.on_done(lambda _: self.ends.update([number]))
        return ticket


def children(queue: rc.Queue[Any]) -> list[int]:
    """The processes of its workers that live."""
    desk: Any = queue.desk
    found = [worker.process.pid for worker in desk.group.roster if worker.process is not None]
    # Looked at once more, so that nobody else is killed who has got the number.
    return [pid for pid in found if pid is not None and is_alive(pid) and parent_of(parent_of(pid)) == os.getpid()]


def send(pid: int, number: signal.Signals) -> None:
    """Send it a signal, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def judge(path: str, outcomes: list[rc.Outcome[Any]], ends: Count) -> None:
    """One outcome each, told once; what an attempt does is done at most once, and exactly once where it succeeded."""
    assert dict.fromkeys(range(len(outcomes)), 1) == dict(ends.ends)
    notes = collections.Counter(jobs.notes(path))
    assert [] == [text for text, times in notes.items() if times > 1]
    most: dict[int, int] = {}
    for text in notes:
        number, attempt = map(int, text.split("/"))
        most[number] = max(attempt, most.get(number, 0))
    for number, outcome in enumerate(outcomes):
        assert most.get(number, 0) <= outcome.attempts, number
        if outcome.status is rc.Status.SUCCEEDED:
            assert outcome.value in (number, "told")
            assert f"{number}/{outcome.attempts}" in notes
        if outcome.started is None:
            assert number not in most


async def storm(path: str, seed: int, tasks: int) -> tuple[int, collections.Counter[str]]:
    """Tasks, while one process after the other is killed. How many were killed, and what came of the tasks."""
    chance = random.Random(seed)
    kills, ends = 0, Count()
    backend = rc.Processes(max_deaths=1000)
    async with rc.Queue("hash", backend=backend, workers=3, backoff=rc.Constant(0.001)) as queue:
        tickets: list[rc.Ticket[Any]] = []
        for number in range(tasks):
            span = chance.choice((0.0, 0.0, 0.0, 0.0002, 0.001, 0.004))
            options: dict[str, Any] = {"at_most_once": True} if number % 7 == 0 else {"retry": ON_DEATH}
            tickets.append(ends.watch(number, queue.submit_nowait(jobs.begin, path, number, span, **options)))
        while not all(ticket.done() for ticket in tickets):
            alive = children(queue)
            if alive:
                kills += 1
                send(chance.choice(alive), signal.SIGKILL)
            await asyncio.sleep(chance.choice((0.0, 0.005, 0.02, 0.05)))
        outcomes = [await ticket.outcome() for ticket in tickets]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await until(lambda: at_target(queue))
        judge(path, outcomes, ends)
        for number, outcome in enumerate(outcomes):
            if number % 7:
                assert outcome.ok, outcome
            else:
                assert outcome.ok or isinstance(outcome.error, rc.ProcessDied)
                assert 1 == outcome.attempts
        assert tasks == queue.metrics().completed + queue.metrics().failed
    return kills, collections.Counter(outcome.status.value for outcome in outcomes)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_random_children_are_killed_during_many_tasks(number: int, tmp_path: Path) -> None:
    """SIGKILL of random processes again and again: every ticket one outcome, no attempt twice, the group complete."""
    seed = SEED + number

    async def main() -> None:
        async with asyncio.timeout(LIMIT):
            began = time.monotonic()
            kills, found = await storm(str(tmp_path / "notes"), seed, TASKS)
            print(f"seed {seed}: {kills} kills, {dict(found)}, {time.monotonic() - began:.1f} s")
            assert kills

    asyncio.run(main())


STEPS = ("submit",) * 6 + ("many", "cancel", "cancel", "resize", "kill", "stop", "wait", "server")
KINDS = ("", "", "", "", "", "fails", "dies", "deaf", "heeds")


async def anything(path: str, seed: int, steps: int) -> list[str]:
    """All that may happen, in random order. What came of the tickets."""
    chance = random.Random(seed)
    ends = Count()
    queue: rc.Queue[Any] = rc.Queue(
        "hash", backend=rc.Processes(max_deaths=3, max_runs=chance.choice((None, 5, 40))), workers=2, max_workers=4,
        backoff=rc.Constant(0.001), maxsize=None,
    )  # fmt: skip
    tickets: list[rc.Ticket[Any]] = []
    async with queue:
        for _ in range(steps):
            step = chance.choice(STEPS)
            if step in ("submit", "many"):
                for _ in range(1 if step == "submit" else 40):
                    kind = "" if step == "many" else chance.choice(KINDS)
                    options: dict[str, Any] = {"priority": chance.choice((0, 0, 0, rc.HIGH))}
                    if kind == "deaf" or chance.random() < 0.2:
                        options["timeout"] = chance.choice((0.01, 0.05, 0.2))
                    if chance.random() < 0.3:
                        options["retry"] = rc.Retry(rc.ProcessDied, jobs.Oops, retries=2, backoff=AT_ONCE)
                    span = chance.choice((0.0, 0.0, 0.0003, 0.002))
                    number = len(tickets)
                    ticket = queue.submit_nowait(jobs.begin, path, number, span, kind, **options)
                    tickets.append(ends.watch(number, ticket))
                    if kind == "heeds":
                        queue.desk.loop.call_later(chance.random() * 0.3, ticket.cancel)  # type: ignore[union-attr]
            elif step == "cancel" and tickets:
                chance.choice(tickets[-30:]).cancel()
            elif step == "resize":
                queue.resize(chance.choice((0, 1, 2, 3, 4)))
            elif step in ("kill", "stop") and (alive := children(queue)):
                send(chance.choice(alive), signal.SIGKILL if step == "kill" else signal.SIGSTOP)
            elif step == "server" and chance.random() < 0.2 and (mine := servers()):
                send(mine[0], signal.SIGKILL)
            elif step == "wait":
                await asyncio.sleep(chance.choice((0, 0.001, 0.01, 0.05)))
            await asyncio.sleep(0)
        queue.resize(2)
        outcomes = [await ticket.outcome() for ticket in tickets]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await until(lambda: at_target(queue))
        judge(path, outcomes, ends)
        metrics = queue.metrics()
        counted = (metrics.completed, metrics.failed, metrics.timed_out, metrics.cancelled)
        found = collections.Counter(outcome.status for outcome in outcomes)
        seen = (rc.Status.SUCCEEDED, rc.Status.FAILED, rc.Status.TIMED_OUT, rc.Status.CANCELLED)
        assert counted == tuple(found[status] for status in seen)
        assert 0 == metrics.pending
    return [outcome.status.value for outcome in outcomes]


@pytest.mark.parametrize("number", range(ROUNDS * 2))
def test_anything_in_random_order(number: int, tmp_path: Path) -> None:
    """Submits, cancels, timeouts, kills, SIGSTOPs, resizes: one outcome each, no attempt twice, the group complete."""
    seed = SEED + 1000 + number

    async def main() -> None:
        async with asyncio.timeout(LIMIT):
            began = time.monotonic()
            found = collections.Counter(await anything(str(tmp_path / "notes"), seed, 60))
            print(f"seed {seed}: {dict(found)}, {time.monotonic() - began:.1f} s")

    asyncio.run(main())
