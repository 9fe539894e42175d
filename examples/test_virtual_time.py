"""How to test what takes an hour, in no time: `pytest test_virtual_time.py`, or run it as it is.

The plugin comes with runcrew. Under `@pytest.mark.virtual` the event loop and the wall clock jump to the next
thing that is due as soon as nothing is ready; a seed makes jitter repeatable.
"""

from __future__ import annotations

import asyncio
import time

import pytest

import runcrew as rc
from runcrew.testing import run_virtual


@pytest.mark.virtual
async def test_it_polls_every_ten_seconds() -> None:
    """An hour has 360 polls, of which one is at its very beginning."""
    polls = []

    async def poll() -> None:
        polls.append(asyncio.get_running_loop().time())

    async with rc.Interval(poll, "10s"):
        await asyncio.sleep(3600 - 1)
    assert len(polls) == 360
    assert polls[:3] == pytest.approx([0, 10, 20])


@pytest.mark.virtual(seed=7)
async def test_it_gets_over_an_outage() -> None:
    """While the other side is down for five minutes, retries go on with growing pauses; then polling goes on."""
    loop = asyncio.get_running_loop()
    failures = []

    async def poll() -> None:
        if 600 < loop.time() < 900:
            failures.append(loop.time())
            raise ConnectionRefusedError

    forever = rc.Retry(ConnectionRefusedError, retries=rc.UNLIMITED, backoff=rc.Exponential("1s", cap="60s"))
    async with rc.Interval(poll, "10s", retry=forever) as polling:
        await asyncio.sleep(3600)
        assert polling.stats().runs.failed == 0
        assert polling.stats().runs.retries == len(failures)
    assert 5 < len(failures) < 60


if __name__ == "__main__":
    for test in (test_it_polls_every_ten_seconds, test_it_gets_over_an_outage):
        began = time.perf_counter()
        run_virtual(test, seed=7)  # without pytest: what the marker does
        print(f"{test.__name__}: an hour in {time.perf_counter() - began:.2f} s")
