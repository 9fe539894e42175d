"""What a group asks of the one that gives work to its workers, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from runcrew.workers.worker import Worker


class Door(Protocol):
    """What a group asks of the one that gives work to its workers. All of it is plain, and called on the loop.

    The door sets `worker.work` when it gives work to a worker, and takes it away when that has ended: then it calls
    `group.released`. Each of these calls may change the group in turn.
    """

    def worker_opened(self, worker: Worker) -> None:
        """This worker is there, with its resource. `worker_free` comes next, unless it is given work in here."""

    def worker_free(self, worker: Worker) -> None:
        """This worker is in `group.free`, for the first time or again: give it work if there is any."""

    def worker_leaves(self, worker: Worker) -> None:
        """This worker has work in hand, and has been told to leave when that has ended."""

    def is_idle(self, worker: Worker) -> bool:
        """Whether this worker, which has work in hand, has nothing to do there just now: it goes before the others."""
        ...

    def worker_lost(self, worker: Worker, error: BaseException) -> None:
        """End what this worker has in hand: its resource is lost, or it has to leave at once."""

    def worker_gone(self, worker: Worker) -> None:
        """This worker is in no book any more."""

    def opening_failed(self, worker: Worker, delay: float, error: BaseException) -> None:
        """A resource could not be made; the next opening comes after `delay` seconds. After a ConfigError none comes:
        the group is closed."""

    def group_stalled(self) -> None:
        """Abandoned workers hold all places."""

    def all_gone(self) -> None:
        """The group was closed, and nobody is left but abandoned ones. Called at least once."""


@dataclass(slots=True)
class Counts:
    """What has happened to the workers of a group so far."""

    opened: int = 0
    #: Those of the opened ones that are gone.
    closed: int = 0
    failed_openings: int = 0
    #: Those that left because their resource had proved faulty, or was lost.
    replaced: int = 0
