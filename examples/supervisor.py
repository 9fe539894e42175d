"""A bare Supervisor with another one in it: what belongs together fails together, and the rest goes on."""

from __future__ import annotations

import asyncio
import itertools

import runcrew as rc

ticks = itertools.count(1)


async def feed() -> None:
    """Fails every third time; no rule retries that, so it is for its supervisor to restart."""
    if (tick := next(ticks)) % 3 == 0:
        raise ConnectionError("the feed has hung up")
    print("feed: tick", tick)


async def enough() -> None:
    """Ends the whole tree, which is no failure."""
    raise rc.StopTree


async def main() -> None:
    """Run the tree until it ends."""
    inner = rc.Supervisor(
        rc.Interval(feed, "50ms"),
        name="feeds",
        on_failure="restart",
        backoff=rc.Constant("100ms"),
        intensity=rc.Intensity(5, "10s"),
    )
    tree = rc.Supervisor(
        inner, rc.OneShot(enough, delay="600ms"), name="root", on_stopped=lambda: print("all has ended")
    )
    print(await tree.run())  # the report: what finished, what was cut short, what would not stop
    print("restarts of feed:", inner.stats().restarts["feed"])


if __name__ == "__main__":
    asyncio.run(main())
