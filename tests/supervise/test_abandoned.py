"""Threads that the attempts of a service have left behind: few, counted and named."""

from __future__ import annotations

import asyncio
import threading

import pytest

import runcrew as rc
from runcrew import events
from runcrew.clock import current
from runcrew.supervise.service import MAX_ABANDONED


class Hangs:
    """A job that does not listen, until it may go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = 0
        self.ended = 0

    def __call__(self) -> None:
        self.begun += 1
        current().block(100_000, self.open)
        self.ended += 1

    async def let_go(self, service: rc.Interval | rc.OneShot) -> None:
        """Have all of them end that have begun."""
        self.open.set()
        while service.stats().abandoned:
            await asyncio.sleep(0.001)


@pytest.fixture
def hangs() -> Hangs:
    """One such job."""
    return Hangs()


AGAIN = rc.Retry(rc.RunTimeout, retries=rc.UNLIMITED, backoff=rc.Constant("1s"))


@pytest.mark.virtual
async def test_a_job_that_hangs_in_each_attempt_takes_few_threads(
    hangs: Hangs, caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts beyond the limit wait and end by their timeout; each thread left behind is told once, and counted."""
    poll = rc.Interval(hangs, "1s", timeout="2s", retry=AGAIN, name="poll")
    heard: list[events.Event] = []
    poll.subscribe(heard.append, events.ThreadAbandoned)
    ended: list[events.Event] = []
    poll.subscribe(ended.append, events.RunRetried)
    await poll.start()
    await asyncio.sleep(100)
    assert MAX_ABANDONED == hangs.begun == len(heard) == len(poll.stats().abandoned)
    last = ended[-1]
    assert isinstance(last, events.RunRetried)
    assert str(last.error).endswith("of 2s; it had no thread: 8 given-up attempts of poll still have one")
    waits = [record for record in caplog.records if "poll waits for a thread: 8 attempts" in record.message]
    assert 1 == len(waits)
    report = await poll.stop(5)
    assert not report.clean
    assert MAX_ABANDONED == len(report.would_not_stop)
    stuck = report.would_not_stop[0]
    assert "the abandoned thread runcrew-service-" in stuck.what
    assert "attempt 1>" in stuck.what
    assert "current().block(" in stuck.stack
    await hangs.let_go(poll)


@pytest.mark.virtual
async def test_threads_that_came_back_are_not_reported(hangs: Hangs) -> None:
    """Once the attempts that were given up have ended, the service goes on, and nothing of them is in its report."""
    poll = rc.Interval(hangs, "1s", timeout="2s", retry=AGAIN, name="poll")
    await poll.start()
    await asyncio.sleep(60)
    await hangs.let_go(poll)
    while hangs.ended <= MAX_ABANDONED:
        await asyncio.sleep(1)
    assert (await poll.stop()).clean


@pytest.mark.virtual
async def test_what_a_stop_gives_up_is_reported_once(hangs: Hangs) -> None:
    """A run that would not stop is in the report as that run, not as an abandoned thread too, and told once."""

    async def takes_long() -> None:
        await asyncio.sleep(3)

    serve = rc.OneShot(hangs, name="serve", on_stopped=takes_long)
    heard: list[events.Event] = []
    serve.subscribe(heard.append, events.ThreadAbandoned)
    await serve.start()
    while not hangs.begun:
        await asyncio.sleep(0)
    report = await serve.stop(20)
    assert ["run "] == [stuck.what[:4] for stuck in report.would_not_stop]
    assert 1 == len(heard) == len(serve.stats().abandoned)
    await hangs.let_go(serve)
