"""Calls in threads, and how their results come back to event loops: in batches, by one wake-up each.

Two marks say how far a call has come, and each is removed by a single operation that only one thread can win:
deleting `_args` begins it (or takes it back), deleting `_live` ends it (or gives it up). So no call needs a lock
of its own.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

from runcrew import clock as clocks
from runcrew.clock import Clock
from runcrew.durations import Duration, optional
from runcrew.errors import JobCrashed, RunCancelled, RunInterrupted, WrongLoop
from runcrew.job import Run

if TYPE_CHECKING:
    from runcrew.backends.threads import Threads

T = TypeVar("T")

#: What waits for a call: a task, a plain thread, or (under this name) virtual time.
Waiter: TypeAlias = "asyncio.Future[None] | threading.Event | str"


class Call(Generic[T]):
    """One call in a thread, from `Threads.submit`.

    Where an event loop submitted it: await it there, any number of tasks at once. Cancelling one that waits
    ends its waiting only. Where a plain thread did: `result()`.
    """

    __slots__ = (
        "_args", "_clock", "_fn", "_home", "_live", "_pool", "_waiters", "ended", "error", "started", "value"
    )  # fmt: skip

    def __init__(
        self,
        pool: Threads,
        home: Mailbox | None,
        context: Context,
        clock: Clock,
        fn: Callable[..., T],
        args: tuple[Any, ...],
    ) -> None:
        self._pool = pool
        self._home = home
        self._clock = clock
        self._fn: Callable[..., T] | None = fn
        #: The arguments, as long as it waits in the queue. Deleting them is beginning the call, or taking it back.
        self._args = args
        #: The context that it runs in, until it has ended. Deleting it is ending the call, or giving it up.
        self._live = context
        self._waiters: tuple[Waiter, ...] = ()
        #: When it began, by the clock in force where it was submitted: seconds since the epoch, or None.
        self.started: float | None = None
        #: When it ended, was taken back or given up; None until then.
        self.ended: float | None = None
        #: What it returned, and what it raised.
        self.value: T | None = None
        self.error: BaseException | None = None

    def __repr__(self) -> str:
        state = "ended" if self.ended is not None else "waiting" if self.started is None else "running"
        return f"<Call {self._name()} {state}>"

    def _name(self) -> str:
        """What to call it, for people; empty once it has ended."""
        fn = self._fn
        return "" if fn is None else name_of(fn)

    # --- waiting ------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        """Give its value, or raise its error; RunCancelled if it was taken back, RunInterrupted if given up,
        NoThread if no thread could be had for it. What is no `Exception` (SystemExit, …) comes as JobCrashed from it.

        Raises WrongLoop on another loop than the one that submitted it. Cancelling ends the waiting only.
        """
        try:
            if self.ended is None:
                yield from self._wait()
            return self._answer()
        finally:
            del self  # a frame that is left by an error stays in its traceback: it must not lead back to the error

    def _wait(self) -> Generator[Any, None, None]:
        loop = asyncio.get_running_loop()
        if self._home is None or self._home.loop() is not loop:
            raise WrongLoop("a call is awaited on the event loop that submitted it: submit it from the one that awaits")
        waiter = loop.create_future()
        self._waiters += (waiter,)
        try:
            # Looked at after the waiter is in place: the thread ends the call first, and looks for waiters then.
            if self.ended is None:
                yield from waiter
        finally:
            self._remove(waiter)

    def result(self, timeout: Duration | None = None) -> T:
        """In a plain thread: wait until it has ended; give its value or raise its error, as `await` does.

        timeout: how long to wait, None for as long as it takes; then TimeoutError, and the call goes on.
        In a thread of the same pool, a call that has not begun is run right here, so threads never wait
        for each other in a ring. Raises WrongLoop for a call that an event loop submitted, and on a loop.
        """
        span = optional(timeout, "timeout")
        try:
            if self.ended is None:
                self._wait_blocking(span)
            return self._answer()
        finally:
            del self

    def _wait_blocking(self, span: float | None) -> None:
        if self._home is not None or running_loop() is not None:
            raise WrongLoop("result() blocks its thread: on an event loop, submit the call there and await it")
        if self._pool._run_here(self):
            return
        waiter = threading.Event()
        with self._pool._lock:
            self._waiters += (waiter,)
        try:
            if self.ended is None and not clocks.current().block(span, waiter):
                raise TimeoutError(f"{self!r} has not ended within {span:g} s")
        finally:
            with self._pool._lock:
                self._remove(waiter)

    def _remove(self, waiter: Waiter) -> None:
        if self._waiters:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)

    def _answer(self) -> T:
        error = self.error
        if error is None:
            return self.value  # type: ignore[return-value]
        try:
            if isinstance(error, Exception):
                raise error
            raise JobCrashed(f"{type(error).__name__} was raised in a thread") from error
        finally:
            del error, self

    # --- ending it before it ends ---------------------------------------------------

    def cancel(self) -> bool:
        """Take it back if it has not begun. Whether it was: it then never begins, and waiters get RunCancelled."""
        if not self._refuse(RunCancelled("the call was taken back before it began")):
            return False
        self._pool._taken_back()
        return True

    def abandon(self) -> bool:
        """Give it up: taken back if it has not begun, otherwise left to itself, and nobody waits for it.

        Whether it was running: its thread then counts as abandoned until the call returns, and what it
        returns is thrown away (an error is logged). Waiters get RunInterrupted.
        """
        if self.cancel() or not self._pool._abandon(self):
            return False
        self._tell()
        self._pool._after_abandoning()
        return True

    def _refuse(self, error: BaseException) -> bool:
        """End a call that waits in the queue and cannot be run. False: it had been taken back."""
        try:
            del self._args
        except AttributeError:
            return False
        self._give_up(error)
        self._tell()
        return True

    def _give_up(self, error: BaseException) -> bool:
        """End it with `error`, in place of what it does itself; `_tell` comes next. False: it was faster."""
        try:
            del self._live
        except AttributeError:
            return False
        self._fn = None
        self.error = error
        self.ended = self._clock.now()
        return True

    # --- ending ---------------------------------------------------------------------

    def _run(self) -> bool | None:
        """In a thread: do it. None: it had been taken back. False: it was given up meanwhile."""
        args = ()
        try:
            args = self._args
            del self._args
        except AttributeError:
            return None
        clock, fn = self._clock, self._fn
        try:
            context = self._live
            self.started = clock.now()
            # The same in two ways: spreading arguments costs three times as much as handing on the one.
            value = context.run(fn, args[0]) if len(args) == 1 else context.run(fn, *args)  # type: ignore[arg-type]
        except BaseException as error:
            wanted = self._fail(error)
            del self  # the frames of the error lead back to this one: it must not lead to the error
            return wanted
        ended = clock.now()
        try:
            del self._live
        except AttributeError:
            self._pool._came_back(self, value, None)
            return False
        self.value = value
        self._fn = None
        self.ended = ended  # last: from here on waiters find it ended
        if self._waiters:
            self._wake()
        return True

    def _fail(self, error: BaseException) -> bool:
        ended = self._clock.now()
        trace = error.__traceback__
        error = error.with_traceback(None if trace is None else trace.tb_next)  # it begins in the user's code
        try:
            del self._live
        except AttributeError:
            self._pool._came_back(self, None, None if self.started is None else error)
            return False
        self.error = error
        self._fn = None
        self.ended = ended
        if self._waiters:
            self._wake()
        return True

    def _wake(self) -> None:
        self._pool._coming = True  # this thread, in a moment: who we wake has no need to send another one
        self._post()

    def _post(self) -> None:
        """Wake those who wait, from any thread."""
        if self._home is not None:
            self._home.post(self)
            return
        for waiter in self._waiters:
            if isinstance(waiter, threading.Event):
                waiter.set()

    def _tell(self) -> None:
        """Wake those who wait: at once where they are on this thread's own loop."""
        if not self._waiters:
            return
        if self._home is not None and self._home.loop() is running_loop():
            self._hand_back()
        else:
            self._post()

    def _hand_back(self) -> None:
        """On the loop's own thread: wake the tasks that wait, and let virtual time go on."""
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if isinstance(waiter, asyncio.Future):
                if not waiter.done():
                    waiter.set_result(None)
            elif isinstance(waiter, str):
                assert self._home is not None
                loop: Any = self._home.loop()
                loop.runcrew_release(waiter)


class Letter(Protocol):
    """What threads put into a mailbox."""

    def _hand_back(self) -> None: ...


class Mailbox:
    """Where threads put calls that are to be handed back on one event loop. All pools share it."""

    __slots__ = ("_calls", "_posted", "loop", "virtual")

    def __init__(self, loop: asyncio.AbstractEventLoop, forget: Callable[[Any], None]) -> None:
        self.loop = weakref.ref(loop, forget)
        #: Whether time on this loop is virtual, and to be held while a call is in flight.
        self.virtual = hasattr(loop, "runcrew_hold")
        self._calls: deque[Letter] = deque()
        self._posted = False

    def hold_for(self, call: Call[Any]) -> None:
        """Keep virtual time from passing until `call` has been handed back. On the loop's own thread."""
        loop: Any = self.loop()
        held = f"the thread of {call._name()}"
        loop.runcrew_hold(held)
        call._waiters = (held,)

    def post(self, call: Letter) -> None:
        """From any thread: have `call` handed back. Wakes the loop unless a wake-up is under way."""
        self._calls.append(call)
        if not self._posted:
            self._wake()

    def _wake(self) -> None:
        self._posted = True
        loop = self.loop()
        try:
            if loop is None:
                raise RuntimeError("the loop is gone")
            loop.call_soon_threadsafe(self._hand_out)
        except RuntimeError:  # the loop is closed: whoever waited ended with it
            self._posted = False
            self._calls.clear()

    def _hand_out(self) -> None:
        self._posted = False  # first: what is put in from here on asks for a wake-up of its own
        calls = self._calls
        for _ in range(len(calls)):
            try:
                call = calls.popleft()
            except IndexError:
                return
            try:
                call._hand_back()
            except BaseException:  # on its way out of the loop, which may be run again: the rest is for then
                self._wake()
                raise


#: The loop that runs in this thread, or None: what `asyncio.get_running_loop` asks, without an error.
running_loop: Final = asyncio._get_running_loop

#: By the id of the loop. A loop that dies takes its mailbox out before another can have its id.
mailboxes: Final[dict[int, Mailbox]] = {}


def new_mailbox(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """Make the mailbox of a loop that has none. It is kept as long as the loop lives."""
    key = id(loop)

    def forget(reference: object) -> None:
        if (box := mailboxes.get(key)) is not None and box.loop is reference:
            del mailboxes[key]

    box = mailboxes[key] = Mailbox(loop, forget)
    return box


def name_of(what: Any) -> str:
    """What to call the call of a function, for people."""
    while hasattr(what, "func"):  # partials
        what = what.func
    if isinstance(run := getattr(what, "__self__", None), Run):
        return repr(run)
    name = getattr(what, "__qualname__", None)
    if isinstance(name, str):
        return name
    try:
        return repr(what)
    except Exception:
        return f"<{type(what).__name__}>"


def given_up() -> RunInterrupted:
    """What waiters of an abandoned call get."""
    return RunInterrupted("the call was given up while it ran: its thread goes on until it returns")
