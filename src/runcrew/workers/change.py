"""What a change of a group's size gives to await."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from runcrew.errors import WouldDeadlock
from runcrew.lifecycle import Latch
from runcrew.lifecycle.inside import is_inside

if TYPE_CHECKING:
    from runcrew.workers.group import Group


class Change:
    """A change that is under way already: it need not be awaited.

    `await change` returns when it is complete, with the number of workers that are there then: those that came
    have their resource, those that went are gone. It returns with fewer as soon as a resource could not be made
    (that is tried on), where abandoned workers hold the places, and when the group is closed. Cancelling ends only
    the waiting. Raises WouldDeadlock in a job of the group, where it would have to wait: it may wait for that very
    job.
    """

    __slots__ = ("_group", "_over")

    def __init__(self, group: Group) -> None:
        self._group = group
        self._over = Latch()

    def __repr__(self) -> str:
        state = "done" if self._over.is_open else "under way"
        return f"<Change of {self._group.name} to {self._group.target}: {state}>"

    def end(self) -> None:
        """For the group: it is complete."""
        self._over.open()

    def __await__(self) -> Generator[Any, None, int]:
        if not self._over.is_open:
            if is_inside(self._group.home):
                raise WouldDeadlock(
                    f"a job of {self._group.name} waits for its workers to come or go, and may be one that has to go: "
                    "begin the change without awaiting it"
                )
            yield from self._over.wait().__await__()
        return self._group.there
