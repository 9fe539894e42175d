"""The keeper of workers whose jobs run in processes: each has a child process, which makes, holds and takes down what
the worker owns, and does its jobs.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from runcrew.abc import Backend
from runcrew.backends.processes import Lost, Process, Processes, setup_of
from runcrew.backends.processes.server import ForkServer
from runcrew.errors import ConfigError, NotPicklable, ProcessDied, brief
from runcrew.workers.keeper import Keeper, KeeperInLoop, KeeperInThread
from runcrew.workers.resource import Recipe
from runcrew.workers.worker import CLOSING, OPENING, Worker

if TYPE_CHECKING:
    from runcrew.workers.group import Group

_log: Final = logging.getLogger("runcrew")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the processes of a group are like.

    setup: what each is told first. preload: modules that its fork server has imported. max_runs: how many runs one
    does before it is replaced; None: no limit.
    """

    setup: bytes
    preload: tuple[str, ...]
    max_runs: int | None


def kind_of(processes: Processes, recipe: Recipe[Any] | None, service: str, job: str | None = None) -> Kind:
    """The kind that is asked for. Raises NotPicklable where the recipe cannot travel."""
    tries = recipe is not None and recipe.has_check
    setup = setup_of(recipe, tries=tries, service=service, job=job, limit=processes.max_bytes)
    return Kind(setup, processes.preload, processes.max_runs)


def processes_of(
    backend: Backend | None, recipe: Recipe[Any] | None, *, kill: bool, threadsafe: bool, max_abandoned: int | None
) -> Processes | None:
    """What is asked of the processes of a door's workers; None: its jobs do not run in any.

    Raises ConfigError where something is asked for that only processes can do, or that they cannot.
    """
    if not isinstance(kill, bool):
        raise ConfigError(f"kill: {kill!r} is neither True nor False")
    if not isinstance(backend, Processes):
        if kill and not getattr(backend, "kills", False):
            raise ConfigError(
                "kill: neither a thread nor a coroutine can be killed, only told to end: run the jobs in processes "
                '(backend="process"), or leave kill out'
            )
        return None
    if threadsafe:
        raise ConfigError("threadsafe: the resource of a process is used by nobody else: leave it out")
    if max_abandoned is not None:
        raise ConfigError(
            f"max_abandoned: {max_abandoned!r} means nothing for processes, which are killed and never abandoned: "
            "leave it out"
        )
    if recipe is not None:
        _check_travels(backend, recipe)
    return backend


def _check_travels(processes: Processes, recipe: Recipe[Any]) -> None:
    if recipe.is_async:
        raise ConfigError(
            f"resource: {recipe.name} is async, and a process runs plain functions: make the resource by a plain "
            "function or generator"
        )
    try:
        kind_of(processes, recipe, "")
    except NotPicklable as error:
        raise ConfigError(f"resource: {recipe.name}: {error}: define it at the top of a module") from error


class KeeperInProcess(Keeper):
    """A child process of the worker's own makes, holds and takes down what it owns."""

    def __init__(self, group: Group, kind: Kind) -> None:
        super().__init__(group)
        self.kind = kind
        #: Whether the fork server was asked to end.
        self._asked = False

    def open(self, worker: Worker) -> None:
        """See Keeper."""
        group = self.group
        process = worker.process = Process(
            group.loop, f"{group.name}-{worker.number}", self.kind.preload, group.context.copy()
        )
        owner = _Owner(self, worker, process)
        try:
            process.launch(owner, self.kind.setup)
        except (ConfigError, Lost, OSError) as error:
            worker.error = error
            group.loop.call_soon(group.opening_failed, worker, error, context=group.context)

    def close(self, worker: Worker) -> None:
        """See Keeper."""
        process = worker.process
        if process is None or process.ended:
            self.take_down(worker)
        else:
            process.finish()

    def take_down(self, worker: Worker) -> None:
        """It is no more."""
        worker.process = None
        self.group.gone(worker)

    def let_go(self, worker: Worker) -> None:
        """See Keeper."""
        if worker.process is not None:
            worker.process.kill("it did not end in time")

    def where(self, worker: Worker) -> str:
        """See Keeper."""
        return "" if worker.process is None else f"in the process {worker.process.pid}"

    def end(self) -> bool:
        """See Keeper."""
        if not self._asked:
            server = ForkServer.there(self.group.loop, self.kind.preload)
            self._asked = server is not None and server.end_soon(self._ended)
        return not self._asked

    def _ended(self) -> None:
        self._asked = False
        self.group.context.copy().run(self.group.settle)

    def forsake(self) -> None:
        """See Keeper."""
        server = ForkServer.there(self.group.loop, self.kind.preload)
        if server is not None:
            server.forsake()


class _Owner:
    """What the process of one worker tells."""

    def __init__(self, keeper: KeeperInProcess, worker: Worker, process: Process) -> None:
        self._group = keeper.group
        self._keeper = keeper
        self._worker = worker
        self._process = process
        self._opened = False

    def ready(self) -> None:
        """See Owner."""
        self._opened = True
        if self._worker.state is OPENING:
            self._group.opened(self._worker)

    def not_ready(self, error: BaseException) -> None:
        """See Owner."""
        self._worker.error = error

    def full(self, used: int) -> None:
        """See Owner."""
        worker, group = self._worker, self._group
        said = f"its process has come to use {used / 1e6:.0f} MB"
        _log.info("%s: worker %d is replaced: %s", group.name, worker.number, said, extra={"service": group.home.name})
        if self._process.done <= 1:
            _log.warning(
                "%s: max_megabytes is less than what a new process uses, so that each does one run only: %s",
                group.name, said, extra={"service": group.home.name},
            )  # fmt: skip
        group.leave(worker, said)
        group.settle()

    def died(self, error: ProcessDied | None) -> None:
        """See Owner."""
        worker, group, sink = self._worker, self._group, self._process.sink
        if not self._opened:
            wrong = worker.error or error or asyncio.CancelledError("it was not wanted any more")
            worker.process = None
            group.opening_failed(worker, wrong)
            return
        if worker.state is CLOSING:
            closing = self._process.closing_error
            if closing is not None:
                worker.error = worker.error or closing
            elif error is not None and not self._process.killed:
                _log.warning("%s: %s", group.name, brief(error), extra={"service": group.home.name})
            self._keeper.take_down(worker)
            return
        if error is not None and not self._process.killed:
            if worker.work is None:  # otherwise a run tells of it
                _log.warning("%s: %s", group.name, brief(error), extra={"service": group.home.name})
            # Where it was at work, or has done well before, that is a matter of one run, which has spent an attempt.
            # Where processes die that have nothing to do, others come at a slower pace.
            at_once = self._process.done > 0 or worker.work is not None
            group.condemn(worker, error, "its process has died", at_once=at_once)
        else:
            group.leave(worker, self._process.killed or "its process has ended")
        if sink is not None:
            sink.lost(error)
        group.settle()


def keeper_of(group: Group, recipe: Recipe[Any] | None, processes: Kind | None) -> Keeper:
    """Who makes, holds and takes down what the workers of this group own."""
    if processes is not None:
        return KeeperInProcess(group, processes)
    return (Keeper if recipe is None else KeeperInLoop if recipe.is_async else KeeperInThread)(group)
