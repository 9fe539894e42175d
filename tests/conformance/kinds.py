"""What has to conform: the kinds of service. A new one is a line in the list at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final

import runcrew as rc
from runcrew.lifecycle import BaseService


@dataclass(frozen=True)
class Ending:
    """How a service ends by itself: after how long, with what; and how long it takes until it is ready."""

    after: float | None = None
    error: BaseException | None = None
    ready_after: float = 0.0


@dataclass(frozen=True)
class ServiceKind:
    """A kind of service, made with a name and an ending, and what it is heard to do."""

    name: str
    make: Callable[[str, Ending, list[str]], Any]
    #: Whether it says of itself how its stop went, and takes hooks and more lives.
    ours: bool = True


async def course(ending: Ending, heard: list[str], name: str) -> None:
    """What the work of every kind of service does."""
    heard.append(f"{name} begins")
    try:
        if ending.after is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(ending.after)
        if ending.error is not None:
            raise ending.error
    finally:
        heard.append(f"{name} ends")


def _job(ending: Ending, heard: list[str], name: str) -> Callable[[], Any]:
    async def job() -> None:
        if ending.ready_after:
            await asyncio.sleep(ending.ready_after)
        rc.current_run().ready()
        await course(ending, heard, name)

    return job


def oneshot(name: str, ending: Ending, heard: list[str]) -> rc.OneShot:
    """A job that is run once."""
    return rc.OneShot(_job(ending, heard, name), name=name, ready="signal")


def interval(name: str, ending: Ending, heard: list[str]) -> rc.Interval:
    """A job that is run again and again; it ends well by saying so. Ready at once, whatever its job does."""

    async def job() -> None:
        await course(ending, heard, name)
        raise rc.Done

    return rc.Interval(job, 1, name=name)


def supervisor(name: str, ending: Ending, heard: list[str]) -> rc.Supervisor:
    """A supervisor of one."""
    return rc.Supervisor(oneshot(f"{name}'s", ending, heard), name=name)


def crew(name: str, ending: Ending, heard: list[str]) -> rc.Crew:
    """A crew of one."""
    made = rc.Crew(name, loop_block=None)
    made.add(oneshot(f"{name}'s", ending, heard))
    return made


def queue(name: str, ending: Ending, heard: list[str]) -> rc.Queue[None]:
    """A queue whose one resource is the work. No queue ends by itself: here a timer of the resource ends it.

    Well by a stop from inside, with an error as a resource does that can never be made.
    """

    def end() -> None:
        loop, error = asyncio.get_running_loop(), ending.error
        if error is None or isinstance(error, rc.Done | rc.StopTree):
            made._life.stop_tree = isinstance(error, rc.StopTree)
            heard_of.append(loop.create_task(made.stop()))
        else:
            made.fail(error)

    async def resource() -> AsyncGenerator[None]:
        await asyncio.sleep(ending.ready_after)
        heard.append(f"{name} begins")
        timer = None if ending.after is None else asyncio.get_running_loop().call_later(ending.after, end)
        yield
        if timer is not None:
            timer.cancel()
        heard.append(f"{name} ends")

    heard_of: list[asyncio.Task[Any]] = []
    made = rc.Queue(name, resource=resource)
    return made


def pool(name: str, ending: Ending, heard: list[str]) -> rc.Pool:
    """A pool of one worker, whose job waits for something to do. It ends well by saying so, or by its first error."""

    async def resource() -> AsyncGenerator[None]:
        await asyncio.sleep(ending.ready_after)
        yield

    async def job(_: None) -> None:
        with rc.current_run().idle():
            await course(ending, heard, name)
        raise rc.Done

    return rc.Pool(job, name=name, resource=resource, stop_on_error=True)


class OwnDoor(BaseService):
    """The least that a subclass of BaseService says of its work."""

    def __init__(self, name: str, ending: Ending, heard: list[str]) -> None:
        super().__init__(name)
        self._course = (ending, heard, name)

    def _launch(self) -> bool:
        ending, heard, name = self._course
        self._work = asyncio.get_running_loop().create_task(course(ending, heard, name))
        self._work.add_done_callback(self._over)
        if ending.ready_after:
            asyncio.get_running_loop().call_later(ending.ready_after, self._is_ready)
        return not ending.ready_after

    def _over(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, rc.StopTree):
            self._life.stop_tree = True
        elif error is not None and not isinstance(error, rc.Done):
            self._fail(error)
        self._work_ended()

    def _begin_drain(self) -> None:
        self._work.cancel()

    def _cut(self) -> None:
        self._work.cancel()


class Foreign:
    """The least that a service needs, written without a word of the library: start, stop and wait."""

    def __init__(self, name: str, ending: Ending, heard: list[str]) -> None:
        self.name = name
        self.ending, self.heard = ending, heard
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and be ready."""
        await asyncio.sleep(self.ending.ready_after)
        self.task = asyncio.get_running_loop().create_task(course(self.ending, self.heard, self.name))

    async def stop(self, timeout: Any = 30.0) -> None:
        """End."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])

    async def wait(self) -> None:
        """Until the end, which is raised if it is an error."""
        if self.task is not None:
            await asyncio.wait([self.task])
            if not self.task.cancelled():
                self.task.result()


class Killable(Foreign):
    """One that can be killed too."""

    async def kill(self) -> None:
        """End at once."""
        await self.stop(0)


SERVICES: Final = (
    ServiceKind("OneShot", oneshot),
    ServiceKind("Interval", interval),
    ServiceKind("Supervisor", supervisor),
    ServiceKind("Crew", crew),
    ServiceKind("Queue", queue),
    ServiceKind("Pool", pool),
    ServiceKind("a subclass", OwnDoor),
    ServiceKind("a foreign one", Foreign, ours=False),
    ServiceKind("a foreign one with kill", Killable, ours=False),
)
