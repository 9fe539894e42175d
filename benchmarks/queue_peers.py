"""What `queues.py` measures the queue against: the least that does it by hand, plain asyncio, and libraries.

Each contestant runs async no-ops, eight at a time where it has workers, and answers `start`, `submit`, `wait`,
`settle` and `stop`. Those with levels take an urgent task before the others.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

WIDTH = 8

Work = Callable[..., Coroutine[Any, Any, Any]]


async def noop(number: int) -> int:
    """The job of those that have no resources."""
    return number


class Contestant:
    """What all have in common: a handle is awaited for its value, nothing is to be started or stopped."""

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def submit(self, fn: Work, number: int, urgent: bool = False) -> Any:
        return self.submit_nowait(fn, number, urgent)

    def submit_nowait(self, fn: Work, number: int, urgent: bool = False) -> Any:
        raise NotImplementedError

    def wait(self, handle: Any) -> Awaitable[Any]:
        return handle

    async def settle(self) -> None:
        """Called once all have been submitted: nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""


class Parked(Contestant):
    """The least by hand: two deques, workers parked on a future while both are empty, a future for each task."""

    def __init__(self) -> None:
        self.urgent: deque[Any] = deque()
        self.normal: deque[Any] = deque()
        self.parked: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        await super().start()
        self.workers = [asyncio.create_task(self.serve()) for _ in range(WIDTH)]
        await asyncio.sleep(0)

    def submit_nowait(self, fn: Work, number: int, urgent: bool = False) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        (self.urgent if urgent else self.normal).append((fn, number, future))
        if self.parked:
            self.parked.pop().set_result(None)
        return future

    async def serve(self) -> None:
        urgent, normal, parked = self.urgent, self.normal, self.parked
        while True:
            waiting = urgent or normal
            if waiting:
                fn, number, future = waiting.popleft()
                future.set_result(await fn(number))
            else:
                parked.append(self.loop.create_future())
                await parked[-1]

    async def stop(self) -> None:
        for worker in self.workers:
            worker.cancel()


class Tasks(Contestant):
    """`asyncio.create_task` for each; all at once, without levels."""

    def submit_nowait(self, fn: Work, number: int, urgent: bool = False) -> asyncio.Task[Any]:
        return asyncio.create_task(fn(number))


class EagerTasks(Tasks):
    """The same with the eager task factory, which Python has since 3.12."""

    async def start(self) -> None:
        await super().start()
        self.loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not there on 3.11


class Usual(Contestant):
    """What people write: an asyncio.Queue, eight workers, a future for each task."""

    def __init__(self) -> None:
        self.tasks: asyncio.Queue[Any] = asyncio.Queue()

    async def start(self) -> None:
        await super().start()
        self.workers = [asyncio.create_task(self.serve()) for _ in range(WIDTH)]
        await asyncio.sleep(0)

    def submit_nowait(self, fn: Work, number: int, urgent: bool = False) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        self.tasks.put_nowait((fn, number, future))
        return future

    async def serve(self) -> None:
        while True:
            fn, number, future = await self.tasks.get()
            try:
                future.set_result(await fn(number))
            except Exception as error:
                future.set_exception(error)
            finally:
                self.tasks.task_done()

    async def stop(self) -> None:
        for worker in self.workers:
            worker.cancel()


class UsualLevels(Usual):
    """The same on an asyncio.PriorityQueue."""

    def __init__(self) -> None:
        self.tasks = asyncio.PriorityQueue()
        self.numbers = itertools.count()

    def submit_nowait(self, fn: Work, number: int, urgent: bool = False) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        self.tasks.put_nowait((not urgent, next(self.numbers), fn, number, future))
        return future

    async def serve(self) -> None:
        while True:
            _, _, fn, number, future = await self.tasks.get()
            try:
                future.set_result(await fn(number))
            except Exception as error:
                future.set_exception(error)
            finally:
                self.tasks.task_done()


class Aiojobs(Contestant):
    """A scheduler of aiojobs that runs eight jobs at a time and lets any number wait."""

    async def start(self) -> None:
        aiojobs = importlib.import_module("aiojobs")
        self.scheduler = aiojobs.Scheduler(limit=WIDTH, pending_limit=0)

    async def submit(self, fn: Work, number: int, urgent: bool = False) -> Any:
        return await self.scheduler.spawn(fn(number))

    def wait(self, handle: Any) -> Awaitable[Any]:
        return handle.wait()

    async def stop(self) -> None:
        await self.scheduler.close()


class Taskiq(Contestant):
    """taskiq's broker in memory, with all results kept."""

    def __init__(self, inplace: bool = False) -> None:
        taskiq = importlib.import_module("taskiq")
        self.broker = taskiq.InMemoryBroker(max_stored_results=-1, max_async_tasks=WIDTH, await_inplace=inplace)
        self.tasks: dict[Work, Any] = {}

    async def start(self) -> None:
        await self.broker.startup()

    async def submit(self, fn: Work, number: int, urgent: bool = False) -> Any:
        task = self.tasks.get(fn) or self.tasks.setdefault(fn, self.broker.task(fn))
        return await task.kiq(number)

    async def settle(self) -> None:
        await self.broker.wait_all()

    async def wait(self, handle: Any) -> Any:
        return (await handle.get_result()).return_value

    async def stop(self) -> None:
        await self.broker.shutdown()
