"""Who makes, holds and takes down what a worker owns: nobody, a task on the loop, or the worker's own thread.

A keeper says how it went by `group.opened`, `group.opening_failed` and `group.gone`, each at most once a worker.
`close` may come while the opening is under way: then that is cancelled, or its result is taken down as soon as it
is there. Where a worker has a thread of its own, that ends before anything else is taken down.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends import NoThread
from runcrew.errors import brief
from runcrew.lifecycle.tasks import spawn, task_stack, unless_torn_down
from runcrew.workers.own_thread import OwnThread
from runcrew.workers.worker import ABANDONED, CLOSING, OPENING, Worker

if TYPE_CHECKING:
    from runcrew.workers.group import Group
    from runcrew.workers.resource import Opened

_log: Final = logging.getLogger("runcrew")


class Keeper:
    """Nobody: the worker owns nothing, but perhaps a thread that it needed for plain jobs."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def open(self, worker: Worker) -> None:
        """Make what the worker owns."""
        self.group.opened(worker)

    def close(self, worker: Worker) -> None:
        """Take it down. The worker is CLOSING."""
        if worker.thread is None:
            self.take_down(worker)
        else:
            self.end_thread(worker)

    def end_thread(self, worker: Worker) -> None:
        """Let the worker's thread end after what it is at; the rest is taken down then. Idempotent."""
        assert worker.thread is not None
        worker.thread_ends = True
        worker.thread.end()

    def take_down(self, worker: Worker) -> None:
        """The same, once its thread has ended."""
        self.group.gone(worker)

    def thread_of(self, worker: Worker) -> OwnThread:
        """The worker's own thread, for its jobs; it is made when it is first asked for."""
        thread = worker.thread
        if thread is None:
            group = self.group
            thread = worker.thread = OwnThread(
                f"{group.name}-{worker.number}", group.loop, partial(self._thread_ended, worker), group.context
            )
        return thread

    def _thread_ended(self, worker: Worker, _: OwnThread) -> None:
        worker.thread = None
        if worker.state is ABANDONED and worker.work is None:
            self.group.came_back(worker)
        if worker.state is CLOSING:
            self.take_down(worker)
        elif not worker.thread_ends:
            self.group.lost(worker, NoThread("the worker's own thread has died"))

    def let_go(self, worker: Worker) -> None:
        """The taking down does not come to an end: cut it short, where that is possible."""

    def where(self, worker: Worker) -> str:
        """Where the making or taking down hangs, as text."""
        return "" if worker.thread is None else worker.thread.stack()

    def end(self) -> bool:
        """Nobody is left: take down what all have shared. Whether that is over; if not, the group settles then."""
        return True

    def forsake(self) -> None:
        """The loop has been closed: what lives in the workers' threads is taken down there, and they end."""
        for worker in list(self.group.roster):
            if worker.thread is not None:
                self.end_thread(worker)


class KeeperInLoop(Keeper):
    """A task of the worker's own opens, holds and closes an asynchronous resource."""

    def open(self, worker: Worker) -> None:
        """See Keeper."""
        # The keeper is the library's own, what it calls are the user's functions: they see the user's context.
        worker.keeper = spawn(self._keep(worker), f"{self.group.name}-{worker.number}", self.group.work_context())
        worker.keeper.add_done_callback(partial(self._ended, worker), context=self.group.context)

    def close(self, worker: Worker) -> None:
        """See Keeper."""
        if worker.opened is None and worker.keeper is not None:
            worker.keeper.cancel()  # it is still opening
        else:
            super().close(worker)

    def take_down(self, worker: Worker) -> None:
        """See Keeper."""
        if worker.release is not None and not worker.release.done():
            worker.release.set_result(None)

    def let_go(self, worker: Worker) -> None:
        """See Keeper."""
        if worker.keeper is not None:
            worker.keeper.cancel()

    def where(self, worker: Worker) -> str:
        """See Keeper."""
        return super().where(worker) if worker.keeper is None else task_stack(worker.keeper)

    async def _keep(self, worker: Worker) -> None:
        assert self.group.recipe is not None
        opened = None
        try:
            opened = await self.group.recipe.open()
        except BaseException as error:
            worker.error = error
        if opened is None:
            return  # how it went is told when this task has ended: it might not even have begun
        release = worker.release = self.group.loop.create_future()
        worker.opened, worker.resource = opened, opened.value
        if worker.state is CLOSING:  # told to leave, and the opening would not be cancelled
            super().close(worker)
        else:
            self.group.opened(worker)
        if not await self._hold(worker, release):
            said = "%s: the resource of worker %d stays open: an abandoned thread uses it"
            _log.warning(said, self.group.name, worker.number)
            return
        try:
            await opened.close()
        except BaseException as error:
            _note(worker, error)

    async def _hold(self, worker: Worker, release: asyncio.Future[None]) -> bool:
        """Return when the resource is to be taken down. Cancelled by an outsider, it does so once it is not used.

        False: it is to be left as it is. The group was closed, and a thread that nobody waits for still uses it: to
        wait for that now would keep the loop from its end.
        """
        task = asyncio.current_task()
        while not release.done():
            try:
                await asyncio.shield(release)
            except asyncio.CancelledError as error:
                if task is not None:
                    task.uncancel()  # the taking down is not to be cut off by this
                if release.done():
                    break
                if self.group.closed and worker.state is ABANDONED and worker.thread is not None:
                    return False
                self.group.lost(worker, error)
        return True

    def _ended(self, worker: Worker, task: asyncio.Task[None]) -> None:
        if worker.opened is None:
            error = worker.error or asyncio.CancelledError("the task that makes the resource was cancelled")
            if isinstance(error, asyncio.CancelledError) and worker.state is OPENING:
                unless_torn_down(self.group.opening_failed, worker, error)
            else:
                self.group.opening_failed(worker, error)
        else:
            if task.cancelled() and worker.error is None:
                worker.error = asyncio.CancelledError("the taking down was cancelled")
            if worker.state is ABANDONED:
                self.group.came_back(worker)
            self.group.gone(worker)


class KeeperInThread(Keeper):
    """The worker's own thread makes, holds and takes down a synchronous resource."""

    def open(self, worker: Worker) -> None:
        """See Keeper."""
        thread = self.thread_of(worker)
        try:
            thread.hand([_Opening(self, worker)])
        except NoThread as error:
            self.not_opened(worker, error)

    def end_thread(self, worker: Worker) -> None:
        """The thread takes the resource down when it has ended what it is at, whether or not the loop lives then."""
        if worker.thread_ends:
            return
        assert worker.thread is not None
        try:
            worker.thread.hand([_Closing(worker)])
        except NoThread as error:  # it has died: what was in it is lost
            worker.error = worker.error or error
        super().end_thread(worker)

    def take_down(self, worker: Worker) -> None:
        """See Keeper."""
        if worker.opened is not None and not worker.opened.closed:
            said = "%s: the resource of worker %d could not be taken down: its thread has died"
            _log.warning(said, self.group.name, worker.number)
        super().take_down(worker)

    def not_opened(self, worker: Worker, error: BaseException) -> None:
        """There is no resource. That is told when the thread has ended too."""
        worker.error = error
        super().end_thread(worker)

    def _thread_ended(self, worker: Worker, _: OwnThread) -> None:
        if worker.opened is None or worker.state is OPENING:
            worker.thread = None
            self.group.opening_failed(worker, worker.error or NoThread("the worker's own thread has died"))
        else:
            super()._thread_ended(worker, _)


class _Opening:
    """In the worker's thread: make the resource."""

    def __init__(self, keeper: KeeperInThread, worker: Worker) -> None:
        self._keeper = keeper
        self._worker = worker
        self._context = worker.context = keeper.group.work_context()
        self._error: BaseException | None = None

    def do(self) -> None:
        try:
            self._context.run(self._open)
        except BaseException as error:
            self._error = error

    def _open(self) -> None:
        recipe = self._keeper.group.recipe
        assert recipe is not None
        opened: Opened[Any] = recipe.open_plain()
        self._worker.opened, self._worker.resource = opened, opened.value

    def _hand_back(self) -> None:
        if self._error is not None:
            self._keeper.not_opened(self._worker, self._error)
        else:
            self._keeper.group.opened(self._worker)


class _Closing:
    """In the worker's thread: take the resource down."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # The context that it was made in: what was set there may be reset here.
        self._context = worker.context or worker.group.work_context()

    def do(self) -> None:
        opened = self._worker.opened
        if opened is None:
            return
        try:
            self._context.run(opened.close_plain)
        except BaseException as error:
            _note(self._worker, error)

    def _hand_back(self) -> None:
        """How it went is told when the thread has ended."""


def _note(worker: Worker, error: BaseException) -> None:
    """Taking its resource down raised this."""
    if worker.error is None:
        worker.error = error
    else:
        _log.warning("%s: taking a resource down failed too: %s", worker.group.name, brief(error))
