"""The longer ways through a queue: waiting for room, and for the end of a run that the caller answers for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runcrew import clock
from runcrew.errors import ConfigError, QueueFull
from runcrew.job import Status
from runcrew.lifecycle.inside import is_inside
from runcrew.lifecycle.service import GRACE
from runcrew.queue.desk import Desk
from runcrew.queue.options import NowOptions
from runcrew.queue.service import QueueService
from runcrew.queue.ticket import Ticket


async def submit(
    queue: QueueService[Any], fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
) -> Ticket[Any]:
    """Accept it as soon as there is room. Cancelled before that, nothing was submitted."""
    desk = queue.at_work()
    ticket = desk.make(fn, args, options)
    await admit(desk, ticket)
    return ticket


async def admit(desk: Desk, ticket: Ticket[Any]) -> None:
    """The same for a ticket that was made."""
    if desk.slice_is_over:
        await clock.current().sleep(0)  # the others on this loop have their turn
        desk.check_open()
    if desk.setup.overflow == "wait" and not desk.has_room(ticket):
        await _wait_for_room(desk, ticket)
        desk.accept(ticket)
    elif desk.has_room(ticket) or desk.make_room(ticket):
        desk.accept(ticket)


async def _wait_for_room(desk: Desk, ticket: Ticket[Any]) -> None:
    if is_inside(desk.home):
        raise QueueFull(f"{desk.name} is full, and a job of it would wait for room that it may hold itself")
    later = desk.is_for_later(ticket)
    if later and not desk.room.maxsize:
        raise QueueFull(f"{desk.name} has maxsize=0: only what begins at once is accepted, and this has a delay")
    await desk.room.wait(later)
    desk.room.claim()
    desk.check_open()


async def run(
    queue: QueueService[Any], fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
) -> Any:
    """Submit, and wait for the value."""
    queue.at_work().check_wait()
    return await value_of(await submit(queue, fn, args, options))


async def run_now(
    queue: QueueService[Any], fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
) -> Any:
    """Past the queue, and wait for the value."""
    desk = queue.at_work()
    for name in options:
        if name not in NowOptions.__annotations__:
            raise ConfigError(
                f"{name}: run_now takes {' and '.join(NowOptions.__annotations__)} only: submit() takes more"
            )
    ticket = desk.make(fn, args, options)
    ticket.more().rules = ()
    desk.spares.accept(ticket)
    return await value_of(ticket)


async def submit_many(
    queue: QueueService[Any], fn: Callable[..., Any], items: Iterable[Any], options: Mapping[str, Any]
) -> list[Ticket[Any]]:
    """One after the other. What does not go through as a whole is taken back."""
    tickets: list[Ticket[Any]] = []
    try:
        for item in items:
            desk = queue.at_work()
            ticket = desk.make(fn, (item,), options)
            if desk.slice_is_over or not desk.has_room(ticket):
                await admit(desk, ticket)
            else:
                desk.accept(ticket)
            tickets.append(ticket)
    except BaseException:
        for ticket in tickets:
            ticket.cancel()
        raise
    return tickets


async def value_of(ticket: Ticket[Any]) -> Any:
    """The value of a run that belongs to the caller: where the caller is cancelled, the run ends first."""
    try:
        return await ticket
    except asyncio.CancelledError:
        if ticket._status is None:
            ticket._desk.ends.end_early(ticket, Status.CANCELLED, "its caller was cancelled")
            await ended(ticket)
        raise
    finally:
        del ticket  # a frame that is left by an error stays in its traceback: it must not lead back to it


async def ended(ticket: Ticket[Any]) -> None:
    """Return when the run has ended, though we be cancelled. A thread that was told has its grace; then it is left."""
    desk = ticket._desk
    # Less than what a stop gives to us: so that we have ended when it looks who has not.
    patience: asyncio.TimerHandle | None = desk.later(GRACE / 2, give_up_thread, desk, ticket)
    try:
        while ticket._status is None:
            waiter = desk.loop.create_future()
            ticket._add(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                continue  # said already
            finally:
                ticket._remove(waiter)
    finally:
        if patience is not None:
            patience.cancel()


def give_up_thread(desk: Desk, ticket: Ticket[Any]) -> None:
    """A job in a thread does not listen: nobody waits for it any more."""
    worker = ticket._worker
    if ticket._status is None and worker is not None:
        desk.carrier.give_up_thread(ticket, worker)
