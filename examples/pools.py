"""A pool of consumers: it grows when there is much to do, shrinks when there is not, and gets over bad messages."""

from __future__ import annotations

import asyncio
import itertools

import runcrew as rc

inbox: asyncio.Queue[int] = asyncio.Queue()
counter, elapsed = rc.Counter(), rc.Elapsed()


async def consume() -> None:
    """The job: one message. Each worker runs it again and again, and nothing has to loop here."""
    with rc.current_run().idle():  # to wait is no work, and whoever waits need not be waited for
        number = await inbox.get()
    try:
        await asyncio.sleep(0.02)
        if number % 50 == 0:
            raise ValueError(f"message {number} makes no sense")
    finally:
        inbox.task_done()


class Batch:
    """A job of one worker's own: what it keeps needs no lock."""

    names = itertools.count(1)

    def __init__(self) -> None:
        self.name = f"writer {next(self.names)}"
        self.done = 0

    async def __call__(self) -> None:
        await asyncio.sleep(0.01)
        self.done += 1
        if self.done == 5:
            print(f"  {self.name} has written 5 batches")
        if self.done == 10:
            raise rc.Done  # no more to do: the pool ends, well, when the others have finished their run


async def main() -> None:
    """Three pools, one after the other."""
    print("by hand: more, less, a pause")
    async with rc.Pool(consume, name="consumers", max=8, middleware=[counter, elapsed]) as pool:
        for number in range(1, 101):
            inbox.put_nowait(number)
        print("  workers:", await pool.more(4))
        await asyncio.sleep(0.2)
        print("  workers:", await pool.less(2))
        print("  workers:", await pool.resize(0), "(a pause)")
        print("  workers:", await pool.resize(8))
        await inbox.join()
        print(f"  {counter.succeeded} were consumed, {counter.failed} failed")
        print(f"  the median run took {elapsed.p50 * 1000:.0f} ms")

    print("by load: many messages, and then none")
    scale = rc.Scale(every="50ms", window="200ms", wait="100ms", hold="300ms", cooldown="100ms")
    async with rc.Pool(consume, name="consumers", min=1, max=8, scale=scale) as pool:
        for number in range(1, 201):
            inbox.put_nowait(number)
        await inbox.join()
        await asyncio.sleep(1.5)
        for decision in pool.stats().decisions:
            print(" ", decision)

    print("a job of each worker's own, and a good end")
    writers = rc.Pool(job_factory=Batch, name="writers", initial=2)
    await writers.run()
    print(f"  {writers.state}: {writers.stats().runs.succeeded} runs")


if __name__ == "__main__":
    asyncio.run(main())
