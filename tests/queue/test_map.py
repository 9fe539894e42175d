"""Many at once: `submit_many`, and `map` as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from queue_made import Gate, Things, give, now, rounds, take, use

import runcrew as rc


class Source:
    """Items that are counted when they are taken."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.count = count
        self.error = error
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number
        if self.error is not None:
            raise self.error

    async def slowly(self) -> AsyncIterator[int]:
        """The same, one a second."""
        for number in self:
            await asyncio.sleep(1)
            yield number


async def slower_first(number: int) -> int:
    """The first ones take longest."""
    await asyncio.sleep(10 - number)
    return number


async def all_of(stream: Any) -> list[Any]:
    """All that comes."""
    return [item async for item in stream]


async def into(keep: Callable[[Any], object], stream: AsyncIterator[Any]) -> None:
    """Keep what comes, one by one."""
    async for item in stream:
        keep(item)


@pytest.mark.virtual
async def test_submit_many_gives_the_tickets_in_order() -> None:
    """One ticket for each item, in the order of the items, with the resource as first argument."""
    things = Things()

    async def job(thing: Any, item: int) -> tuple[int, int]:
        await use(thing)
        return thing.number, item

    async with rc.Queue("db", resource=things, workers=1) as queue:
        tickets = await queue.submit_many(job, range(1000))
        assert [(1, number) for number in range(1000)] == [await ticket for ticket in tickets]


@pytest.mark.virtual
async def test_submit_many_waits_for_room() -> None:
    """More items than may wait: it goes on as there is room, and accepts never more."""
    async with rc.Queue("db", workers=1, maxsize=3) as queue:
        filling = asyncio.ensure_future(queue.submit_many(take, [1.0] * 10))
        while not filling.done():
            assert queue.stats().queued <= 3
            await asyncio.sleep(0.5)
        assert [1.0] * 10 == [await ticket for ticket in filling.result()]


@pytest.mark.virtual
async def test_submit_many_that_is_given_up_takes_back_what_it_has_submitted() -> None:
    """Cancelled or refused half-way it cancels its tickets: all or nothing."""
    gate = Gate()
    async with rc.Queue("db", workers=1, maxsize=2) as queue:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.submit_many(gate, range(10))
        await rounds()
        assert (0, 3) == (queue.stats().queued, queue.stats().runs.cancelled)
        gate.open()
    async with rc.Queue("db", workers=1, maxsize=2, overflow="reject") as queue:
        with pytest.raises(rc.QueueFull):
            await queue.submit_many(take, [1.0] * 10)
        await rounds()
        assert 0 == queue.stats().runs.in_flight


@pytest.mark.virtual
async def test_a_stream_gives_values_in_the_order_of_the_items() -> None:
    """By default the order is that of the items, whichever is done first."""
    async with rc.Queue("db", workers=10) as queue:
        began = now()
        assert list(range(10)) == await all_of(queue.map(slower_first, range(10)))
        assert began + 10 == now()


@pytest.mark.virtual
async def test_a_stream_gives_values_as_they_come_if_asked() -> None:
    """With ordered=False each comes as soon as it has ended."""
    async with rc.Queue("db", workers=10) as queue:
        assert list(reversed(range(10))) == await all_of(queue.map(slower_first, range(10), ordered=False))


@pytest.mark.virtual
async def test_a_stream_takes_from_an_async_source_too() -> None:
    """An async iterable feeds it as well, and nobody waits for its end to get the first values."""
    source, got = Source(5), list[float]()
    async with rc.Queue("db", workers=2) as queue:
        began = now()
        async for _ in queue.map(give, source.slowly()):
            got.append(now() - began)
    assert [1.0, 2.0, 3.0, 4.0, 5.0] == [round(each, 6) for each in got]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.virtual
async def test_a_stream_takes_no_more_than_so_many_ahead(ordered: bool) -> None:
    """Items that were taken and not given back are at most `ahead`: an endless source is no danger."""
    source = Source(10_000)
    async with rc.Queue("db", workers=3) as queue:
        stream = queue.map(give, source, ahead=5, ordered=ordered)
        assert 0 == source.taken, "nothing begins before the first step"
        for step in range(1, 20):
            assert step - 1 == await anext(stream)
            await rounds(20)
            assert source.taken <= step + 5 + 1
        await stream.aclose()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        assert source.taken < 30


@pytest.mark.virtual
async def test_the_first_error_ends_a_stream_and_what_is_under_way() -> None:
    """The job's own error comes out after the values before it; the rest is cancelled and has ended."""
    error = ValueError("third")
    gate = Gate()

    async def job(number: int) -> int:
        if number == 3:
            raise error
        if number > 3:
            await gate()
        return number

    got: list[int] = []
    async with rc.Queue("db", workers=8) as queue:
        with pytest.raises(ValueError, match="third") as caught:
            await into(got.append, queue.map(job, range(100)))
        assert error is caught.value
        assert [0, 1, 2] == got
        assert 0 == queue.stats().runs.in_flight
        gate.open()


@pytest.mark.virtual
async def test_a_stream_of_outcomes_ends_at_no_error() -> None:
    """With outcomes=True failures are values like others."""

    async def job(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number

    async with rc.Queue("db", workers=2) as queue:
        found = [outcome async for outcome in queue.map(job, range(9), outcomes=True)]
    assert ["failed", "succeeded", "succeeded"] * 3 == [outcome.status for outcome in found]


@pytest.mark.virtual
async def test_what_the_source_raises_comes_after_what_came_before_it() -> None:
    """Values of items that were given are not lost when the source fails."""
    error = OSError("end of file")
    got: list[Any] = []
    async with rc.Queue("db", workers=2) as queue:
        with pytest.raises(OSError, match="end of file") as caught:
            await into(got.append, queue.map(give, Source(7, error)))
    assert (error, list(range(7))) == (caught.value, got)


@pytest.mark.virtual
async def test_leaving_a_stream_cancels_what_is_under_way_and_waits_for_it() -> None:
    """`aclose`, and a cancellation: what was submitted ends before the caller goes on."""
    ended: list[int] = []

    async def job(number: int) -> int:
        if number:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)
                ended.append(number)
        return number

    async with rc.Queue("db", workers=4) as queue:
        stream: Any = queue.map(job, range(100))
        assert 0 == await anext(stream)
        began = now()
        await stream.aclose()
        assert (began + 1, [1, 2, 3, 4][: len(ended)], 0) == (now(), sorted(ended), queue.stats().runs.in_flight)
        ended.clear()
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await all_of(queue.map(job, range(1, 100)))
        assert (began + 6, 4, 0) == (now(), len(ended), queue.stats().runs.in_flight)


@pytest.mark.virtual
async def test_options_of_a_submit_hold_for_each_item() -> None:
    """Priority, timeout and the others are those of each run."""
    async with rc.Queue("db", workers=2) as queue:
        with pytest.raises(rc.RunTimeout):
            await all_of(queue.map(take, [1.0, 5.0], timeout=2))
        tickets = await queue.submit_many(take, [1.0, 1.0], priority=rc.HIGH)
        assert [rc.HIGH] * 2 == [ticket.priority for ticket in tickets]


@pytest.mark.virtual
async def test_a_stop_of_the_queue_ends_a_stream() -> None:
    """Items that are not accepted any more end it with what `submit` says, after the values before."""
    got: list[Any] = []
    queue = rc.Queue("db", workers=1)
    await queue.start()
    reading = asyncio.ensure_future(into(got.append, queue.map(take, [1.0] * 100, ahead=2)))
    await asyncio.sleep(4.5)
    await queue.stop()
    with pytest.raises((rc.ServiceStopping, rc.ServiceStopped)):
        await reading
    assert 5 <= len(got) <= 7


@pytest.mark.parametrize("ahead", [0, -1, 1.5, True])
@pytest.mark.virtual
async def test_a_bad_look_ahead_is_refused(ahead: Any) -> None:
    """`ahead` is a count from 1."""
    async with rc.Queue("db") as queue:
        with pytest.raises(rc.ConfigError, match="ahead"):
            queue.map(give, [1], ahead=ahead)
