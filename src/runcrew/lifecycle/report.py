"""What a stop tells: the StopReport."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from runcrew.durations import text
from runcrew.errors import brief, one_line


@dataclass(frozen=True, slots=True)
class Stuck:
    """Something that would not stop, and where it hangs."""

    service: str
    what: str
    stack: str


@dataclass(frozen=True, slots=True)
class HookError:
    """A hook that raised, or did not end in its time."""

    service: str
    hook: str
    moment: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class StopReport:
    """What became of a service's work when it stopped. Numbers count runs; those of children are included."""

    service: str
    #: Runs that came to an end of their own during the stop, whatever it was.
    finished: int = 0
    #: Runs that were cut short.
    cancelled: int = 0
    #: Runs that were accepted and never began.
    never_started: int = 0
    would_not_stop: tuple[Stuck, ...] = ()
    hook_errors: tuple[HookError, ...] = ()
    #: Permanent errors of this life: what `wait()` raises, one by one.
    errors: tuple[BaseException, ...] = ()
    #: Seconds that the stop took.
    elapsed: float = 0.0
    #: Whether the service has ended; False in the answer that a stop from inside its own work gets.
    complete: bool = True
    #: Whether a job asked for the end of the whole tree (`raise rc.StopTree`).
    stop_tree: bool = False
    #: The reports of the children, in the order in which they were added.
    children: tuple[StopReport, ...] = field(default=(), repr=False)

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong: everything stopped, no permanent error, no hook failed."""
        return not (self.would_not_stop or self.hook_errors or self.errors)

    def with_children(self, children: tuple[StopReport, ...]) -> StopReport:
        """This report with the numbers and findings of its children added."""
        return replace(
            self,
            finished=self.finished + sum(child.finished for child in children),
            cancelled=self.cancelled + sum(child.cancelled for child in children),
            never_started=self.never_started + sum(child.never_started for child in children),
            would_not_stop=self.would_not_stop + tuple(s for child in children for s in child.would_not_stop),
            hook_errors=self.hook_errors + tuple(e for child in children for e in child.hook_errors),
            children=children,
        )

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        name = one_line(self.service)
        head = f"{name} stopped in {text(self.elapsed)}" if self.complete else f"{name} is stopping"
        yield (
            f"{head}: {self.finished} finished, {self.cancelled} cancelled, {self.never_started} never started, "
            f"{len(self.would_not_stop)} would not stop, {len(self.hook_errors)} hook error(s)"
        )
        for error in self.errors:
            yield f"  error: {brief(error)}"
        for failed in self.hook_errors:
            yield one_line(f"  {failed.moment} hook {failed.hook} of {failed.service}: {brief(failed.error)}")
        for stuck in self.would_not_stop:
            yield one_line(f"  would not stop: {stuck.what} of {stuck.service}")
            yield from (f"    {line}" for line in stuck.stack.rstrip().splitlines())
