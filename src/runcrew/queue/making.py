"""Maker: makes tickets. What can be said against a submit without looking at the queue is said here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import copy_context
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from runcrew.backends.calls import running_loop
from runcrew.job import Job
from runcrew.queue.options import NORMAL, NOTHING, level, terms
from runcrew.queue.ticket import Ticket

if TYPE_CHECKING:
    from runcrew.queue.desk import Desk

_ASYNC: Final = 0x80  # inspect.CO_COROUTINE
_ODD: Final = 0x20 | 0x100 | 0x200  # generators, and what else is no job or only looks like a plain function


class Maker:
    """Makes the tickets of one desk."""

    __slots__ = ("_desk", "_last", "_last_is_plain", "_loop", "_setup", "_takes", "_usual")

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._loop = desk.loop
        self._setup = setup = desk.setup
        self._takes = setup.takes
        #: The function that was looked at last, and what it is.
        self._last: Callable[..., Any] | None = None
        self._last_is_plain = False
        #: Whether nothing is asked for of a run that says nothing.
        self._usual = setup.terms == NOTHING and setup.dedupe is None

    def make(self, fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> Ticket[Any]:
        """A ticket that is not accepted yet. Raises ConfigError for what cannot be run, or makes no sense."""
        if running_loop() is not self._loop:
            self._desk.home.at_work()  # says what is wrong
        if fn is self._last:
            plain = self._last_is_plain
        else:
            plain = self._look_at(fn)
        if self._usual:
            if not options:
                return Ticket(self._desk, fn, args, plain, NORMAL, copy_context())
            if len(options) == 1 and type(priority := options.get("priority")) is int:
                return Ticket(self._desk, fn, args, plain, priority, copy_context())
        return self._make_special(fn, args, plain, options)

    def _look_at(self, fn: Callable[..., Any]) -> bool:
        """Whether it is a plain function, or an async one; refused where it can be neither here."""
        if type(fn) is FunctionType and not (flags := fn.__code__.co_flags) & _ODD and not fn.__dict__:
            plain = not flags & _ASYNC
        else:
            plain = not Job(fn).is_async
        if plain is not self._takes:
            self._setup.check(fn, plain)
        if type(fn) is FunctionType:  # mostly the next one is the same
            self._last, self._last_is_plain = fn, plain
        return plain

    def _make_special(
        self, fn: Callable[..., Any], args: tuple[Any, ...], plain: bool, options: Mapping[str, Any]
    ) -> Ticket[Any]:
        """One for which something is asked for, here or by the queue."""
        priority = options.get("priority", NORMAL)
        if type(priority) is not int:
            level(priority)
        ticket: Ticket[Any] = Ticket(self._desk, fn, args, plain, priority, copy_context())
        asked = terms(self._setup.terms, options)
        if asked != NOTHING or self._setup.dedupe is not None:
            more = ticket.more()
            more.timeout, more.at_most_once, more.rules = asked.timeout, asked.at_most_once, asked.rules
            more.due_span, more.delay = asked.deadline, asked.delay
            if plain and more.timeout is not None:
                self._setup.check_timeout(fn)
        return ticket
