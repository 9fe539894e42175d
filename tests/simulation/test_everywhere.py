"""Every public coroutine below services, cancelled at each place where it can be: nothing leaks, nothing is lost.

Services themselves are cancelled everywhere in their own tests; here are the calls that they share, from several
tasks at once, and everything that one awaits without a service.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

import runcrew as rc
from runcrew import clock, events
from runcrew.backends import shared
from runcrew.clock import SYSTEM
from runcrew.lifecycle import Latch, Limit
from runcrew.testing import cancel_everywhere, virtual_loop

pytestmark = pytest.mark.virtual


class Case:
    """One subject, made anew for each place; `body` is what is cancelled, `check` looks at what is left."""

    #: How often it suspends at least.
    least = 1
    swallows = False
    leaves_tasks = False

    async def body(self) -> object:
        """What is cancelled."""
        raise NotImplementedError

    async def check(self, task: asyncio.Task[Any]) -> None:
        """What should be true afterwards, wherever it was cancelled."""


class Fails(Exception):
    """An error of a job."""


class Called(Case):
    """`rc.call` with every policy around an async function that fails twice."""

    least = 5

    def __init__(self) -> None:
        self.places, self.dedupe = rc.Concurrency(1), rc.Dedupe()
        self.inside = self.attempts = self.ended = 0
        self.run: rc.Run | None = None

    async def job(self) -> str:
        """Fails twice."""
        self.attempts += 1
        self.inside += 1
        self.run = rc.current_run()
        try:
            await asyncio.sleep(1)
            if self.attempts < 3:
                raise Fails
            return "value"
        finally:
            self.inside -= 1

    def options(self) -> dict[str, Any]:
        """All that there is."""
        return {
            "retry": rc.Retry(Fails, retries=5, backoff=rc.Constant(2)), "timeout": 10, "deadline": 100,
            "concurrency": self.places, "dedupe": self.dedupe, "middleware": [self.wrapped],
        }  # fmt: skip

    def wrapped(self, handler: Any) -> Any:
        """A middleware that sees each run end once."""

        async def handle(run: rc.Run) -> rc.Outcome[Any]:
            try:
                return await handler(run)  # type: ignore[no-any-return]
            finally:
                self.ended += 1

        return handle

    async def body(self) -> object:
        """One call."""
        assert "value" == await rc.call(self.job, **self.options())
        return None

    async def check(self, task: asyncio.Task[Any]) -> None:
        """Places and keys are free, and no attempt comes later."""
        begun = self.attempts
        assert 0 == self.inside
        assert self.ended <= 1
        assert (0, 0, ()) == (self.places.in_use, self.places.waiting, self.dedupe.in_flight)
        await asyncio.sleep(20)
        assert begun == self.attempts
        if task.cancelled() and self.run is not None:
            assert self.run.cancelled or self.run.final


class CalledThroughPolicy(Called):
    """`policy.call`."""

    async def body(self) -> object:
        """One call."""
        return await rc.policy(**self.options()).call(self.job)


class Decorated(Called):
    """A decorated function, with a chain."""

    async def body(self) -> object:
        """One call."""
        return await rc.policy(**self.options())(self.job)()


class DecoratedQuickly(Called):
    """A decorated function, with retry and timeout alone, which has a way of its own."""

    def options(self) -> dict[str, Any]:
        """Nothing that needs a chain."""
        kept = super().options()
        return {name: kept[name] for name in ("retry", "timeout")}

    async def body(self) -> object:
        """One call."""
        return await rc.policy(**self.options())(self.job)()


class RetriedAtOnce(DecoratedQuickly):
    """Retries without a wait between them."""

    least = 3

    def options(self) -> dict[str, Any]:
        """No waits."""
        return {"retry": rc.Retry(Fails, backoff=rc.Constant(0))}


class Wrapped(Called):
    """`rc.wrap`."""

    least = 1

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 2

    async def body(self) -> object:
        """One call."""
        return await rc.wrap(self.job, self.wrapped)()


class CalledInThread(Case):
    """A plain function through `policy.call`: it is told, and its thread comes back."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def job(self) -> str:
        """Heeds its end."""
        self.begun += 1
        try:
            return "told" if rc.current_run().wait_cancelled(2) else "through"
        finally:
            self.ended += 1

    async def body(self) -> object:
        """One call."""
        return await rc.policy(timeout=10).call(self.job)

    async def check(self, task: asyncio.Task[Any]) -> None:
        """The thread has gone on and is free again."""
        await until(lambda: self.begun == self.ended and not shared().abandoned)


class Awaited(Case):
    """A call of `Threads.submit`: cancelling ends the waiting only."""

    def __init__(self) -> None:
        self.threads = rc.Threads(1, idle=0)
        self.done = 0

    def work(self) -> str:
        """Takes a second of virtual time."""
        clock.current().block(1)
        self.done += 1
        return "done"

    async def body(self) -> object:
        """Two calls, of which one waits for its thread."""
        first, second = self.threads.submit(self.work), self.threads.submit(self.work)
        return await first, await second

    async def check(self, task: asyncio.Task[Any]) -> None:
        """Whatever was submitted has been done, and nothing is queued or abandoned."""
        await until(lambda: self.threads.stats().running == 0 and self.threads.stats().queued == 0)
        assert self.done in (0, 2)
        assert "done" == await self.threads.submit(self.work)
        assert () == self.threads.stats().abandoned
        self.threads.shed()


class Acquired(Case):
    """`Concurrency.acquire`, behind others and before others."""

    least = 2

    def __init__(self) -> None:
        self.places = rc.Concurrency(1)
        self.behind: asyncio.Task[None] | None = None

    async def hold(self) -> None:
        """Has the place for a second."""
        await self.places.acquire()
        await asyncio.sleep(1)
        self.places.release()

    async def body(self) -> object:
        """Waits for the one before, while one waits behind."""
        before = asyncio.ensure_future(self.hold())
        await asyncio.sleep(0)
        self.behind = asyncio.ensure_future(self.late())
        await self.places.acquire()
        try:
            await asyncio.sleep(1)
        finally:
            self.places.release()
        await before
        return None

    async def late(self) -> None:
        """The one behind."""
        await asyncio.sleep(0.5)
        await self.hold()

    leaves_tasks = True

    async def check(self, task: asyncio.Task[Any]) -> None:
        """The one behind gets its place, and then all are free."""
        await asyncio.sleep(10)
        assert self.behind is None or self.behind.done()
        assert (0, 0) == (self.places.in_use, self.places.waiting)


class Paused(Case):
    """`backoff.wait`, `run.sleep` and `run.wait_cancelled`, one after the other."""

    least = 3

    def __init__(self) -> None:
        self.run: rc.Run | None = None

    async def job(self) -> None:
        """Waits in all the ways there are."""
        self.run = run = rc.current_run()
        await rc.Exponential("1s").wait(2)
        await run.sleep(1)
        assert not await run.wait_cancelled(1)

    async def body(self) -> object:
        """A run of it."""
        return await rc.call(self.job)

    async def check(self, task: asyncio.Task[Any]) -> None:
        """The run has nobody left to tell."""
        assert self.run is None or () == self.run._on_told


class Flushed(Case):
    """`events.flush`: cancelling ends the waiting only, and every event arrives."""

    leaves_tasks = True

    def __init__(self) -> None:
        self.hub, self.heard = events.Hub(), 0

    async def sink(self, _: events.Event) -> None:
        """Takes its time."""
        await asyncio.sleep(1)
        self.heard += 1

    async def body(self) -> object:
        """Two events, and the wait for both."""
        self.hub.subscribe(self.sink, events.TicksMissed)
        for count in (1, 2):
            self.hub.emit(events.TicksMissed(0.0, "x", count))
        await events.flush([self.hub])
        return None

    async def check(self, task: asyncio.Task[Any]) -> None:
        """Both are heard, if they were emitted at all."""
        await asyncio.sleep(5)
        assert self.heard in (0, 2)
        assert 0 == self.hub.dropped


class Latched(Case):
    """A latch with a limit that moves, and another waiter on it."""

    least = 2
    leaves_tasks = True

    def __init__(self) -> None:
        self.latch, self.limit = Latch(), Limit()
        self.other: asyncio.Task[None] | None = None

    async def body(self) -> object:
        """Waits twice: until the limit, then until it is open."""
        self.other = asyncio.ensure_future(self.latch.wait())
        loop = asyncio.get_running_loop()
        self.limit.move(loop.time() + 5)
        loop.call_later(1, self.limit.move, loop.time() + 2)
        assert not await self.latch.wait_until(self.limit)
        assert 2.0 <= loop.time()
        loop.call_later(1, self.latch.open)
        await self.latch.wait()
        return None

    async def check(self, task: asyncio.Task[Any]) -> None:
        """The other is unharmed, and nobody is left in the latch once it is open."""
        await asyncio.sleep(5)
        if self.other is not None:
            assert self.latch.is_open is self.other.done()
            assert not self.other.cancelled()
            self.latch.open()
            await self.other
        assert {} == self.latch._waiters


class Shared(Case):
    """Several tasks at once start, wait for and end one service; one of them is cancelled."""

    least = 2
    leaves_tasks = True
    call = "stop"

    def __init__(self) -> None:
        self.cleaned = 0
        self.service = rc.Supervisor(rc.OneShot(self.job, ready="signal"), name="all")
        self.others: list[asyncio.Task[Any]] = []

    async def job(self) -> None:
        """Is ready after a second, and takes one to clean up."""
        try:
            await asyncio.sleep(1)
            rc.current_run().ready()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            self.cleaned += 1

    async def body(self) -> object:
        """Everything twice, and this is one of the two."""
        service = self.service
        self.others.append(asyncio.ensure_future(service.start()))
        await asyncio.sleep(0)
        await service.start()
        self.others.append(asyncio.ensure_future(service.wait()))
        self.others.append(asyncio.ensure_future(getattr(service, self.call)()))
        return await getattr(service, self.call)()

    async def check(self, task: asyncio.Task[Any]) -> None:
        """The others get what they asked for; the service ends, and has another life."""
        await self.service.stop(5)
        for other in self.others:
            await asyncio.wait([other], timeout=5)
            assert other.done()
            assert not other.cancelled()
            assert other.exception() is None or isinstance(other.exception(), rc.ServiceStopped)
        assert self.service.state.over
        before = self.cleaned
        await self.service.start()
        report = await self.service.stop()
        assert (1, True, before + 1) == (report.cancelled, report.clean, self.cleaned)


class SharedKill(Shared):
    """The same with `kill`."""

    call = "kill"

    async def check(self, task: asyncio.Task[Any]) -> None:
        """The cleaning up takes as long as a killed job may take."""
        await super().check(task)


class RemovedTwice(Case):
    """Two tasks remove one child; one of them is cancelled."""

    least = 2
    leaves_tasks = True

    def __init__(self) -> None:
        self.hooks = 0
        self.service = rc.Supervisor(keep_open=True, name="all")
        self.service.add(rc.OneShot(self.job, on_stopped=self.hook))
        self.other: asyncio.Task[Any] | None = None

    async def job(self) -> None:
        """Takes a second to clean up."""
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)

    async def hook(self) -> None:
        """Takes a second, too."""
        await asyncio.sleep(1)
        self.hooks += 1

    async def body(self) -> object:
        """The second of two."""
        await self.service.start()
        self.other = asyncio.ensure_future(self.service.remove("job"))
        await asyncio.sleep(0.5)
        return await self.service.remove("job")

    async def check(self, task: asyncio.Task[Any]) -> None:
        """It is removed once, and its hooks are called once."""
        if self.other is None:
            await self.service.stop()
            return
        assert isinstance(await self.other, rc.StopReport)
        assert ([], 1) == (list(self.service), self.hooks)
        assert 0.0 == (await self.service.stop()).elapsed


class Advanced(Case):
    """`virtual_loop().advance`, while time is held."""

    async def body(self) -> object:
        """A second, whatever is in flight."""
        with virtual_loop().holding("something"):
            await virtual_loop().advance(1)
        return None

    async def check(self, task: asyncio.Task[Any]) -> None:
        """Nothing is held."""
        assert () == virtual_loop().held


CASES: Final = (
    Called, CalledThroughPolicy, Decorated, DecoratedQuickly, RetriedAtOnce, Wrapped, CalledInThread, Awaited, Acquired,
    Paused, Flushed, Latched, Shared, SharedKill, RemovedTwice, Advanced,
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_nothing_is_lost_wherever_it_is_cancelled(case: type[Case]) -> None:
    """Whatever was taken is given back, whoever else waits gets what is theirs, and no timer stays."""
    subjects: list[Case] = []

    def make() -> Coroutine[Any, Any, object]:
        subjects.append(case())
        return subjects[-1].body()

    async def check(task: asyncio.Task[Any]) -> None:
        await subjects[-1].check(task)
        loop: Any = asyncio.get_running_loop()
        assert [] == [timer for timer in loop._scheduled if not timer.cancelled()]

    options = {"swallows": case.swallows, "leaves_tasks": case.leaves_tasks}
    assert case.least <= await cancel_everywhere(make, check, **options)


async def until(true: Callable[[], bool]) -> None:
    """Give threads the real time that they need."""
    for _ in range(2000):
        if true():
            return
        SYSTEM.block(0.001)
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


async def test_two_cancellations_in_a_row_are_two() -> None:
    """A call that is cancelled again while its function cleans up is over, and still gives everything back."""
    places = rc.Concurrency(1)

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(10)

    call = functools.partial(rc.call, job, concurrency=places, retry=rc.Retry(OSError), timeout=100)
    task = asyncio.ensure_future(call())
    await asyncio.sleep(1)
    for _ in range(2):
        assert task.cancel()
        await asyncio.sleep(1)
    assert task.cancelled()
    assert (0, 0) == (places.in_use, places.waiting)
