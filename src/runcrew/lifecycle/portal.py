"""Portal: a service that lives on an event loop of its own in a background thread, and how calls get there.

How the two sides meet. A thread puts what it wants into the inbox and *then* asks for a wake-up of the loop unless one
is on its way; the loop takes that mark away *before* it looks into the inbox. At the end the loop's thread says that
it is over and *then* ends every call in the book; who makes a call puts it into the book and *then* looks whether it
is over. So no call is ever lost.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import importlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from runcrew import clock
from runcrew.backends.calls import running_loop
from runcrew.backends.threads import join_pools
from runcrew.errors import ConfigError, ServiceStopped, WouldDeadlock, brief
from runcrew.lifecycle.calling import HEED, Call
from runcrew.lifecycle.closing import close
from runcrew.lifecycle.inside import is_inside
from runcrew.lifecycle.tasks import MOMENT, thread_stack

if TYPE_CHECKING:
    from runcrew.lifecycle.service import BaseService

_log: Final = logging.getLogger("runcrew")

#: What a stop may take over its limit, in seconds, before an interpreter that ends goes on without it.
_OVER: Final = 5.0

#: So many things that were asked for are done in one round of the loop.
_AT_ONCE: Final = 64

#: The lives that have not ended, for the end of the interpreter.
_open: Final[dict[Portal, None]] = {}


class Portal:
    """One life of a service in a thread of its own."""

    def __init__(self, service: BaseService, stop_timeout: float) -> None:
        self.name = service.name
        self._service = service
        self._stop_timeout = stop_timeout
        self._owner = threading.current_thread()
        # A daemon: an interpreter that ends stops what is left (see `_stop_all`), and waits for nothing for ever.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._live,), name=f"runcrew-{self.name}-loop", daemon=True
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._inbox: deque[Callable[[], object]] = deque()
        #: Whether the loop has been asked to look into it.
        self._posted = False
        #: The calls that have not ended.
        self._book: dict[Call[Any], None] = {}
        #: Set when the service is ready, or never will be; and when all is over: the service, the calls, the loop.
        self._up = threading.Event()
        self.over = threading.Event()
        self._was_up = False
        #: Whether the service has ended, and the calls are to.
        self.ending = False
        self._leaving = False
        #: Whom to tell that it has been asked to leave.
        self._leaver: asyncio.Future[None] | None = None
        self._killer: asyncio.Task[Any] | None = None
        #: What goes out of the block that is left; and what is to be raised.
        self._given: BaseException | None = None
        self._error: BaseException | None = None

    # --- for the thread that opens and leaves it ----------------------------------------

    def open(self) -> None:
        """Start, and return when ready. Raises what makes the start fail: nothing is left of it then."""
        if hasattr(clock.current(), "runcrew_hold"):
            raise ConfigError("in_thread() lives in real time, and time is virtual here: use `async with` in this test")
        _watch_the_end()
        _open[self] = None
        try:
            self._thread.start()
        except BaseException:
            _open.pop(self, None)
            raise
        join_pools(self)
        interrupt = self._wait(self._up, self._cancel_main)
        if interrupt is not None or not self._was_up:
            self._wait_for_end(interrupt)

    def leave(self, error: BaseException | None) -> None:
        """Stop, and return when all is over. Raises what ended the service, as `async with` does.

        The first interrupt that comes while it waits turns the stop into a kill, the second leaves all to itself.
        In the service's own work, or on its loop, it begins the stop and does not wait.
        """
        if self.lost:
            return
        self._given = error
        self._leaving = True
        self._soon(self._leave_soon)
        if running_loop() is self._loop or is_inside(self._service):
            return
        try:
            self._wait_for_end(self._wait(self.over, self._kill_soon))
        finally:
            del error, self

    def _wait(self, event: threading.Event, hurry: Callable[[], object]) -> BaseException | None:
        """Wait for it. An interrupt makes all end sooner, and is given back then; a second one comes out at once."""
        try:
            event.wait()
        except BaseException as interrupt:
            self._leaving = True
            self._soon(hurry)
            self.over.wait()
            return interrupt
        return None

    def _wait_for_end(self, interrupt: BaseException | None) -> None:
        """All is over, or about to be. Raise what ended it, or else the interrupt."""
        self.over.wait()
        self._thread.join()
        mine, self._error, self._given = self._error, None, None
        try:
            if mine is not None:
                raise mine
            if interrupt is not None:
                raise interrupt
        finally:
            del mine, interrupt, self

    # --- from any thread --------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """Whether its thread is gone and it has not ended: in a forked child."""
        return not self._thread.is_alive() and not self.over.is_set()

    def begin(self, span: float | None, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """Make a call, and send it on its way. Raises ServiceStopped where all has ended."""
        call: Call[Any] = Call(self, span, fn, args, kwargs)
        self._book[call] = None
        if self.ending or self.lost:
            call.stopped()
            raise ServiceStopped(f"{self.name} has ended: calls are for inside `with {self.name}.in_thread() as live:`")
        self.post(call.begin)
        return call

    def take_out(self, call: Call[Any]) -> bool:
        """Take a call out of the book, to end it. False: it has ended."""
        return self._book.pop(call, call) is None

    def post(self, what: Callable[[], object]) -> None:
        """Have it done on the loop, in the order of coming. After the end nothing happens."""
        self._inbox.append(what)
        if not self._posted and self._loop is not None:
            self._posted = True
            if not self._soon(self._take_in):
                self._inbox.clear()

    def _soon(self, what: Callable[[], object]) -> bool:
        """Have it done on the loop, before all that waits in the inbox. False: everything has ended, or is about to."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def check_elsewhere(self) -> None:
        """Raise WouldDeadlock on the loop itself."""
        if self._loop is not None and running_loop() is self._loop:
            raise WouldDeadlock(
                f"a call into {self.name} is waited for on the event loop of {self.name}, which is to carry it out: "
                "await the function itself there"
            )

    # --- the thread -------------------------------------------------------------------

    def _live(self) -> None:
        try:
            self._on_loop()
        except BaseException as error:  # a SystemExit too: it is for whoever leaves the block
            self._found(error)
        finally:
            self._end_all()

    def _on_loop(self) -> None:
        runner = asyncio.Runner()
        try:
            loop = runner.get_loop()
            self._main = loop.create_task(self._carry_out(), name=f"{self.name}-in-thread")
            self._loop = loop
            while not self._main.done():
                self._go_on(loop, self._main)
        finally:
            close(runner)

    def _go_on(self, loop: asyncio.AbstractEventLoop, main: asyncio.Task[None]) -> None:
        try:
            loop.run_until_complete(main)
        except BaseException as error:
            self._found(error)
            if not main.done():  # a SystemExit that some task let out of the loop is a wish to end
                _log.error("%s left the event loop of %s", brief(error), self.name, exc_info=error)
                loop.call_soon(self._leave_soon)

    def _end_all(self) -> None:
        self.ending = True
        for call in list(self._book):
            call.stopped()
        self._inbox.clear()
        self._main = self._killer = self._leaver = None
        _open.pop(self, None)
        self._up.set()
        self.over.set()

    def _found(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error

    # --- on the loop ------------------------------------------------------------------

    async def _carry_out(self) -> None:
        try:
            if not self._leaving:  # interrupted before there was a loop
                await self._service.start()
                self._was_up = True
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):  # otherwise whoever interrupted it knows
                self._found(error)
        if self._was_up:
            self._up.set()
            await self._asked_to_leave()
            await self._stop()
        await self._end_calls()

    async def _asked_to_leave(self) -> None:
        self._leaver = asyncio.get_running_loop().create_future()
        if self._leaving:
            return
        try:
            await self._leaver
        except asyncio.CancelledError:
            _log.warning("%s: its main task was cancelled by somebody: it stops", self.name)

    async def _stop(self) -> None:
        service, given = self._service, self._given
        try:
            try:
                await service.stop(self._stop_timeout)
            except asyncio.CancelledError:
                await service.kill()
            # It has ended, so this does no more than raise what is to be raised.
            await service.__aexit__(None if given is None else type(given), given, None)
        except BaseException as error:
            self._found(error)
        finally:
            del given

    async def _end_calls(self) -> None:
        """What has waited for the service's end has its moment; what still goes on is cancelled."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=MOMENT)
        self.ending = True  # what is in the inbox, and comes into it, ends with the rest
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=HEED)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [call.task for call in list(self._book) if call.task is not None]

    def _take_in(self) -> None:
        self._posted = False  # first: what is put in from here on asks for a wake-up of its own
        inbox = self._inbox
        for _ in range(_AT_ONCE):
            if not inbox:
                return
            inbox.popleft()()
        # The others on this loop have their turn: the inbox may fill faster than this empties it.
        self._posted = True
        asyncio.get_running_loop().call_soon(self._take_in)

    def _leave_soon(self) -> None:
        self._leaving = True
        if self._leaver is not None and not self._leaver.done():
            self._leaver.set_result(None)

    def _kill_soon(self) -> None:
        self._leave_soon()
        self._killer = asyncio.get_running_loop().create_task(self._service.kill())

    def _cancel_main(self) -> None:
        if self._main is not None and not self._was_up:
            self._main.cancel()
        self._leave_soon()

    # --- the end of the interpreter, and forks --------------------------------------------

    def _is_somebodys(self) -> bool:
        """Whether the thread that opened it will leave it: the interpreter waits for that one."""
        owner = self._owner
        return owner.is_alive() and not owner.daemon and owner is not threading.main_thread()

    def _wait_at_the_end(self) -> None:
        if not self.over.wait(self._stop_timeout + _OVER):
            said = "%s would not stop, and the interpreter ends without it; its loop is here:\n%s"
            _log.error(said, self.name, thread_stack(self._thread.ident))
        elif self._error is not None:
            _log.error("%s failed: %s", self.name, brief(self._error), exc_info=self._error)

    def _held_up(self, waiting: Sequence[int]) -> int:
        """Nothing of it waits for virtual time."""
        return 0

    def _after_fork(self) -> None:
        """In the child: of all threads, only the one that forked is there."""
        if _open.pop(self, self) is None:
            for call in list(self._book):
                call.future._condition = threading.Condition()  # another thread may have held it
                call.stopped()


_watching: bool = False


def _watch_the_end() -> None:
    """See to it that an interpreter that ends stops what nobody has left."""
    global _watching
    if _watching:
        return
    try:
        # Its threads go on while our services stop: what is registered later is called earlier.
        importlib.import_module("concurrent.futures.thread")

        # While Python waits for its threads, and more can be started. The public `atexit` comes after that.
        threading._register_atexit(_stop_all)  # type: ignore[attr-defined]
    except RuntimeError:  # it waits already, and for this thread among them
        pass
    atexit.register(_stop_all, last=True)
    _watching = True


def _stop_all(*, last: bool = False) -> None:
    portals = [portal for portal in list(_open) if last or not portal._is_somebodys()]
    for portal in portals:
        _log.info("%s was not left: it stops, since the interpreter ends", portal.name)
        portal._leaving = True
        portal._soon(portal._leave_soon)
    for portal in portals:
        portal._wait_at_the_end()
