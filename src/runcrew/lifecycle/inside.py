"""Whose work some code is part of: a call from inside a service's own work must never wait for that work."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from runcrew.job import entered

if TYPE_CHECKING:
    from runcrew.lifecycle.service import BaseService

#: The services whose work this code is part of, without those above them. Empty where we do our own work.
inside: ContextVar[tuple[BaseService, ...]] = ContextVar("runcrew_inside", default=())


def enter(service: BaseService) -> None:
    """In this context, code is part of the work of `service` too."""
    inside.set(tuple(dict.fromkeys((service, *inside.get()))))


def is_inside(service: BaseService) -> bool:
    """Whether this code is part of the work of `service`: a job, hook or sink of it, or of what lives below it.

    Or of what was started in such work, which may be waiting for it.
    """
    pending = list(inside.get())
    home = getattr(entered(), "home", None)  # a run that is entered so says it itself, not by its context
    if home is not None:
        pending.append(home)
    for one in pending:  # grows while it is walked
        if one is service:
            return True
        above = () if one._parent is None else (one._parent,)
        pending += [other for other in (*above, *one._started_in) if other not in pending]
    return False
