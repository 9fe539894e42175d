"""One worker: a slot for one run at a time, with a life of its own; it may own a resource.

               opened              takes work
    OPENING ────────────► FREE ──────────────────► BUSY ────────┐
     │   │                 │ ◄──────────────────── │            │
     │   │ told            │ told   ends its work  │ told       │ given up
     │   │ to leave        │ to leave              │ to leave   │
     │   ▼                 ▼                       ▼            │
     │  CLOSING ◄────────────────────────────── LEAVING         │
     │   │   ▲             ends its work           │            │
     │   │   │                                     │ given up   │
     │   │   │                                     ▼            ▼
     │   │   └──────────────────────────────── ABANDONED ◄──────┘
     │   │                 ends its work
     │   │ taken down
     ▼   ▼
     GONE        (from OPENING: the resource could not be made)

OPENING:   its resource is being made. The end of that takes it out, or being told to leave.
FREE:      it waits for work; in `group.free`. Work takes it out, or being told to leave.
BUSY:      it has one piece of work in hand (in a thread perhaps more, one after another). The end of that takes
           it out, or being told to leave, or that its work is given up.
LEAVING:   it has work in hand, and takes no more. The end of that takes it out, or that it is given up.
CLOSING:   it has no work. Its resource is being taken down, and before that made to the end, where the making
           could not be stopped; its thread ends. The end of that takes it out.
ABANDONED: its work goes on although it was given up, and uses the resource. The end of the work takes it out; what
           lives in the worker's own thread is taken down there, before the loop hears of that end.
GONE:      in no book any more.

Told to leave is also one whose resource proved faulty, is too old, or is lost. Without a resource a worker is
OPENING only while it is being hired, and CLOSING only until the thread has ended that plain jobs have needed. A process
of its own is like a resource; it can be killed, so that such a worker is never ABANDONED. All but GONE ones are in the
group's roster, which is the only book of who lives. Nothing but the group changes the state, except that the door moves
a worker between FREE and BUSY: that is done for each run.
"""

from __future__ import annotations

import asyncio
import contextvars
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from runcrew.backends.processes import Process
    from runcrew.workers.group import Group
    from runcrew.workers.own_thread import OwnThread
    from runcrew.workers.resource import Opened


class WorkerState(Enum):
    """Where a worker is in its life."""

    OPENING = "opening"
    FREE = "free"
    BUSY = "busy"
    LEAVING = "leaving"
    CLOSING = "closing"
    ABANDONED = "abandoned"
    GONE = "gone"


# Looked up once: a member of an Enum is no ordinary attribute, and these are compared for each run.
OPENING: Final = WorkerState.OPENING
FREE: Final = WorkerState.FREE
BUSY: Final = WorkerState.BUSY
LEAVING: Final = WorkerState.LEAVING
CLOSING: Final = WorkerState.CLOSING
ABANDONED: Final = WorkerState.ABANDONED
GONE: Final = WorkerState.GONE


class Worker:
    """One slot of a group."""

    __slots__ = (
        "context", "error", "faulty", "group", "keeper", "layers", "number", "opened", "opened_at", "process", "reason",
        "release", "resource", "simple", "since", "state", "task", "thread", "thread_ends", "wave", "work",
    )  # fmt: skip

    def __init__(self, group: Group, number: int) -> None:
        self.group = group
        #: Counts from 1 in each life of the group.
        self.number = number
        self.state = OPENING
        #: The resource itself, for jobs; and what takes it down.
        self.resource: Any = None
        self.opened: Opened[Any] | None = None
        #: The task that opens, holds and closes an asynchronous resource.
        self.keeper: asyncio.Task[None] | None = None
        #: Resolved when the keeper is to close, or to look again.
        self.release: asyncio.Future[None] | None = None
        #: The thread that is its own: all that is synchronous happens there.
        self.thread: OwnThread | None = None
        #: Whether that was told to end.
        self.thread_ends = False
        #: The process that is its own, where its jobs run in one: its resource lives there, and is not to be had here.
        self.process: Process | None = None
        #: In which users' code makes a resource in its thread, and takes it down again.
        self.context: contextvars.Context | None = None
        #: What it has in hand (the door's business), and the task of that where it has one.
        self.work: Any = None
        self.task: asyncio.Task[Any] | None = None
        #: The handlers that are its own, where middleware is made for each worker.
        self.layers: dict[Any, Any] | None = None
        #: When its resource was made, and since when it is free, in loop time; only where that is limited.
        self.opened_at = 0.0
        self.since = 0.0
        #: Whether its resource must not be used again.
        self.faulty = False
        #: Whether a door may move it from BUSY to FREE by itself: the group has nothing to look at then.
        self.simple = False
        #: Why it leaves; and what ended it, or what taking its resource down raised.
        self.reason = ""
        self.error: BaseException | None = None
        #: How many failures there had been when its opening began.
        self.wave = 0

    def __repr__(self) -> str:
        return f"<Worker {self.number} of {self.group.name}: {self.state.value}>"
