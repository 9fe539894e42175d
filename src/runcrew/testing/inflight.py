"""What keeps time from passing: the work in flight outside the loop, and the threads in it that wait for time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from runcrew import clock as clocks
from runcrew.backends.threads import held_up
from runcrew.job import Run, current_run

T = TypeVar("T")


class Call:
    """A call that runs in a thread of an executor."""

    __slots__ = ("in_flight", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = True

    def run(self, clock: clocks.Clock, fn: Callable[..., T], args: tuple[Any, ...]) -> T:
        """In the thread: do the call, on the clock of whoever asked for it."""
        outside = clocks.current()
        clocks.use(clock)
        _here.call = self
        try:
            return fn(*args)
        finally:
            _here.call = None
            clocks.use(outside)


class _Here(threading.local):
    """The executor call that the present thread is busy with."""

    call: Call | None = None


_here = _Here()


def _run_in(thread: int) -> Run | None:
    """The run whose job has, or had before it was given up, this thread of the library's own to itself."""
    try:
        run = current_run()
    except LookupError:
        return None
    return run if run.thread == thread or thread in run.left else None


class Wait:
    """A thread that waits for virtual time to pass."""

    __slots__ = ("answer", "call", "gate", "lasting", "run", "span", "thread", "timer", "until")

    def __init__(self, span: float | None, until: threading.Event | None) -> None:
        self.span = span
        self.until = until
        self.call = _here.call
        self.thread = threading.get_ident()
        self.run = _run_in(self.thread)
        self.gate = threading.Event()
        #: Whether the loop knows of it: until then the thread still counts as busy.
        self.lasting = False
        self.timer: asyncio.TimerHandle | None = None
        #: True: `until` was set. False: the time is up. None: the loop has ended.
        self.answer: bool | None = None


class InFlight:
    """Counts what is in flight. Loop thread only, except for `waits`, to which threads append."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self.count = 0
        #: In the order in which they began.
        self.waits: list[Wait] = []
        #: Set when the executor is being shut down: then also threads that everybody gave up are waited for.
        self.closing = False

    def hold(self, what: str) -> None:
        """One more of these is in flight."""
        self._held[what] = self._held.get(what, 0) + 1
        self.count += 1

    def release(self, what: str) -> None:
        """One of these has come back. Raises RuntimeError where none is in flight."""
        held = self._held.get(what, 0)
        if not held:
            raise RuntimeError(f"release({what!r}) without a hold() before it: nothing of that name holds time")
        if held == 1:
            del self._held[what]
        else:
            self._held[what] = held - 1
        self.count -= 1

    @contextmanager
    def holding(self, what: str) -> Generator[None]:
        """In flight inside the `with` block."""
        self.hold(what)
        try:
            yield
        finally:
            self.release(what)

    @property
    def held(self) -> tuple[str, ...]:
        """What holds time, with the count where there are several of a kind."""
        return tuple(what if count == 1 else f"{what} (x{count})" for what, count in self._held.items())

    @property
    def frozen(self) -> bool:
        """Whether anything in flight is busy: not all of it is threads that wait for time to pass, or behind such."""
        waiting = sum(1 for wait in self.waits if wait.lasting and self._gives(wait))
        if self.count <= waiting:
            return False
        return not waiting or self.count > waiting + held_up([wait.thread for wait in self.waits if wait.lasting])

    def _gives(self, wait: Wait) -> bool:
        """Whether the waiting thread is one of those that are counted, and gives up its hold."""
        if self.closing:
            return True
        if wait.call is not None:
            return wait.call.in_flight
        return wait.run is None or wait.run.thread == wait.thread

    @property
    def listening(self) -> bool:
        """Whether a thread waits for an event, which another thread may set at any moment."""
        return any(wait.until is not None for wait in self.waits)

    def notice(self) -> bool:
        """Let those threads go on whose event has been set. Whether there were any."""
        if not self.waits:
            return False
        awake = [wait for wait in self.waits if wait.lasting and wait.until is not None and wait.until.is_set()]
        for wait in awake:
            self.wake(wait, True)
        return bool(awake)

    def wake(self, wait: Wait, answer: bool | None) -> None:
        """Let a thread go on. From here on it counts as busy again, so no time passes before it acts."""
        if wait.gate.is_set():
            return
        if wait in self.waits:
            self.waits.remove(wait)
        if wait.timer is not None:
            wait.timer.cancel()
        wait.answer = answer
        wait.gate.set()
