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
    feeds = rc.Supervisor(
        rc.Interval(feed, "50ms", on_failure="restart"),
        name="feeds",
        backoff=rc.Constant("100ms"),
        intensity=rc.Intensity(5, "10s"),  # one more than five failures in ten seconds, and it fails as well
    )
    tree = rc.Supervisor(feeds, rc.OneShot(enough, delay="600ms"), name="root")
    print(await tree.run())  # the report: what finished, what was cut short, what would not stop
    print("restarts of feed:", feeds.stats().restarts["feed"])


if __name__ == "__main__":
    asyncio.run(main())
