"""What is known of the orders, the resources and the figures of a simulated queue, apart from the queue itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from plans import Script
from queue_plans import MakingPlan, OrderPlan, ResourcePlan
from world import SimError

import runcrew as rc
from runcrew import clock
from runcrew.job import Run


class Sick(SimError):
    """An error that says the resource is faulty."""


class MakingError(SimError):
    """A resource could not be made, or not be taken down."""


@dataclass
class Attempt:
    """One attempt of an order, as its job saw it."""

    order: Order
    run: Run
    number: int
    begun: float
    script: Script
    resource: Res | None
    ended: float | None = None
    value: object = None
    error: BaseException | None = None
    cancels_itself: bool = False
    #: When it first saw a cancellation that it had not raised.
    cut: float | None = None
    #: Whether it had been told to end before it ended.
    told: bool = False


@dataclass
class Order:
    """One job that somebody submitted, or tried to."""

    number: int
    plan: OrderPlan
    #: The call that submitted it.
    via: str
    at: float
    turn: int
    life: int
    inside: Order | None = None
    ticket: Any = None
    #: When its ticket was given.
    accepted: float | None = None
    #: Whether the call came back, and with an error that says it was never accepted.
    answered: bool = False
    refused: BaseException | None = None
    attempts: list[Attempt] = field(default_factory=list)
    #: When it was seen to be cancelled: its ticket said so, or whoever waits in `run` or `map` was.
    cancelled: float | None = None
    #: When somebody asked for that last, whatever came of it.
    asked: float | None = None
    #: What a call that gives no ticket came back with.
    value: object = None
    error: BaseException | None = None
    callbacks: int = 0
    #: Those of the same map, itself included.
    siblings: list[Order] = field(default_factory=list)
    #: When its ticket was first seen to be done.
    done: float | None = None

    @property
    def active(self) -> Attempt | None:
        """Its attempt that is under way."""
        return next((attempt for attempt in self.attempts if attempt.ended is None), None)

    def __str__(self) -> str:
        return f"order {self.number}"


class Res:
    """One resource."""

    def __init__(self, number: int, plan: MakingPlan, thread: int, life: int) -> None:
        self.number = number
        self.life = life
        self.plan = plan
        self.thread = thread
        self.state = "opening"
        self.users: list[Attempt] = []
        self.used_by: list[Attempt] = []
        #: How often it was checked.
        self.borrowings = 0
        #: Why it must never be used again.
        self.faulty = ""
        self.left = 0

    def __str__(self) -> str:
        return f"resource {self.number}"


class Store:
    """Makes resources and takes them down, by plan, and holds every use of one against its state."""

    def __init__(self, plan: ResourcePlan | None, world: Any) -> None:
        self.plan = plan
        self.world = world
        self.all: list[Res] = []
        #: From now on everything succeeds, at once.
        self.healed = False
        self._hangs = asyncio.Event()

    def heal(self) -> None:
        """From here on all goes well."""
        self.healed = True
        self._hangs.set()

    def options(self) -> dict[str, Any]:
        """What the queue is given."""
        plan = self.plan
        if plan is None:
            return {"resource": None}
        options: dict[str, Any] = {"max_idle": plan.max_idle, "max_age": plan.max_age}
        if plan.check:
            options["check"] = self.check_plainly if plan.plain else self.check
        generator: Any = self.generate_plainly if plan.plain else self.generate
        match plan.kind:
            case "creator":
                create: Any = self.create_plainly if plan.plain else self.create
                destroy: Any = self.destroy_plainly if plan.plain else self.destroy
                return {**options, "resource": create, "destroy": destroy}
            case "managed":
                return {**options, "resource": (contextmanager if plan.plain else asynccontextmanager)(generator)}
        return {**options, "resource": generator}

    @property
    def living(self) -> list[Res]:
        """Those that are there, or are being made or taken down."""
        return [one for one in self.all if one.state in ("opening", "open", "closing")]

    def wrong(self, law: str, what: str) -> None:
        """A law is broken."""
        self.world.wrong(law, what)

    # --- the course of one ----------------------------------------------------------------

    def _begin(self) -> Res:
        assert self.plan is not None
        making = MakingPlan() if self.healed else self.plan.makings[len(self.all) % len(self.plan.makings)]
        made = Res(len(self.all) + 1, making, threading.get_ident(), self.world.queue.generation)
        self.all.append(made)
        self.world.note(made, "opens")
        self.world.judge("opens", made)
        return made

    def _made(self, made: Res) -> None:
        match made.plan.end:
            case "error" | "hang":
                raise MakingError(f"{made} cannot be made")
            case "type_error":
                raise TypeError(f"{made} cannot be made")
            case "exit":
                raise SystemExit(4)
        made.state = "open"
        self.world.note(made, "open")

    def _failed(self, made: Res, error: BaseException) -> None:
        made.state = "failed"
        self.world.note(made, "failed", type(error).__name__)

    def _leaves(self, made: Res) -> None:
        made.left += 1
        self.world.note(made, "closes")
        if made.state != "open":
            self.wrong("16", f"{made} is taken down while it is {made.state}")
        if made.users:
            self.wrong("16", f"{made} is taken down under {made.users[0].order}")
        self._same_thread(made, "is taken down")
        made.state = "closing"

    def _left(self, made: Res) -> None:
        made.state = "closed"
        self.world.note(made, "closed")

    def _left_how(self, made: Res) -> None:
        if self.healed:
            return
        if made.plan.leave_end == "error":
            raise MakingError(f"{made} cannot be taken down")
        if made.plan.leave_end == "exit":
            raise SystemExit(5)

    def _same_thread(self, made: Res, what: str) -> None:
        if made.thread != threading.get_ident():
            self.wrong("16", f"{made} {what} in another thread than the one that made it")

    # --- as the queue calls it, on the loop -------------------------------------------------

    async def create(self) -> Res:
        """Make one."""
        made = self._begin()
        try:
            if made.plan.end == "hang":
                await self._hangs.wait()
            await asyncio.sleep(made.plan.takes)
            self._made(made)
        except BaseException as error:
            self._failed(made, error)
            raise
        return made

    async def destroy(self, made: Res) -> None:
        """Take one down."""
        self._leaves(made)
        try:
            if made.plan.leaves and not self.healed:
                await asyncio.sleep(made.plan.leaves)
        finally:
            self._left(made)
        self._left_how(made)

    async def generate(self) -> AsyncIterator[Res]:
        """Both."""
        made = await self.create()
        try:
            yield made
        finally:
            await self.destroy(made)

    async def check(self, made: Res) -> bool:
        """Whether it may be used."""
        self._checked(made)
        await asyncio.sleep(0.0 if self.healed else made.plan.check_takes)
        return self._is_good(made)

    # --- and in threads -----------------------------------------------------------------------

    def create_plainly(self) -> Res:
        """Make one."""
        made = self._begin()
        try:
            clock.current().block(made.plan.takes)
            self._made(made)
        except BaseException as error:
            self._failed(made, error)
            raise
        return made

    def destroy_plainly(self, made: Res) -> None:
        """Take one down."""
        self._leaves(made)
        try:
            if made.plan.leaves and not self.healed:
                clock.current().block(made.plan.leaves)
        finally:
            self._left(made)
        self._left_how(made)

    def generate_plainly(self) -> Iterator[Res]:
        """Both."""
        made = self.create_plainly()
        try:
            yield made
        finally:
            self.destroy_plainly(made)

    def check_plainly(self, made: Res) -> bool:
        """Whether it may be used."""
        self._checked(made)
        return self._is_good(made)

    # --- its use -------------------------------------------------------------------------------

    def _checked(self, made: Res) -> None:
        made.borrowings += 1
        self._may_be_touched(made, "checked")

    def _is_good(self, made: Res) -> bool:
        if self.healed or not made.plan.bad_after or made.borrowings < made.plan.bad_after:
            return True
        made.faulty = "its check said no"
        self.world.note(made, "is found bad")
        if made.plan.bad_raises:
            raise MakingError(f"{made} is bad")
        return False

    def _may_be_touched(self, made: Res, what: str) -> None:
        if made.state != "open":
            self.wrong("16", f"{made} is {what} while it is {made.state}")
        if made.faulty:
            self.wrong("16", f"{made} is {what} after {made.faulty}")
        if made.users:
            self.wrong("16", f"{made} is {what} while {made.users[0].order} uses it")
        assert self.plan is not None
        if self.plan.plain:
            self._same_thread(made, f"is {what}")

    def use(self, made: Res, attempt: Attempt) -> None:
        """A job begins with it."""
        self._may_be_touched(made, f"used by {attempt.order}")
        made.users.append(attempt)
        made.used_by.append(attempt)

    def used(self, made: Res, attempt: Attempt) -> None:
        """That job has ended."""
        made.users.remove(attempt)
        if made.state != "open":
            self.wrong("16", f"{made} is {made.state}, and {attempt.order} has used it until now")
        queue = self.world.plan.queue
        if isinstance(attempt.error, Sick) and queue.healthy and not queue.healthy_raises:
            made.faulty = f"the error of {attempt.order}"


class Figures:
    """A collector of a user's own: counts each call, and looks at the stamps."""

    TERMINAL: Final = ("failed", "timed_out", "cancelled", "interrupted", "skipped")

    def __init__(self, world: Any) -> None:
        self.world = world
        self.counts: dict[str, int] = dict.fromkeys(("arrived", "succeeded", "retried", *self.TERMINAL), 0)

    def _at(self, what: str, *instants: float | None) -> None:
        self.counts[what] += 1
        known = [instant for instant in instants if instant is not None]
        if self.world.torn:
            return  # time begins anew
        if known != sorted(known) or (known and known[-1] > clock.current().now() + 1e-6):
            self.world.wrong("15", f"the instants of a run that {what} are {instants}")

    def arrived(self, at: float) -> None:
        """Accepted."""
        self._at("arrived", at)

    def completed(self, queued: float, started: float, ended: float, waited: float | None = None) -> None:
        """Succeeded."""
        self._at("succeeded", queued, started, ended)
        if waited is not None and not -1e-6 <= waited <= ended - queued + 1e-6:
            self.world.wrong("15", f"a run of {ended - queued} s has waited for {waited}")

    def failed(self, queued: float, started: float, ended: float, status: str, waited: float | None = None) -> None:
        """Ended otherwise, after it had begun."""
        self._at(str(status), queued, started, ended)

    def retried(self, at: float) -> None:
        """Goes back for another attempt."""
        self._at("retried", at)

    def dropped(self, status: str, at: float) -> None:
        """Ended without a result."""
        self._at(str(status), at)

    def metrics(self) -> Any:
        """Nobody asks for these here."""
        return None

    @property
    def ended(self) -> int:
        """How many have come to an end."""
        return self.counts["succeeded"] + sum(self.counts[status] for status in self.TERMINAL)


STATUS_OF: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (rc.RunTimeout, "timed_out"),
    (rc.RunCancelled, "cancelled"),
    (rc.RunInterrupted, "interrupted"),
    (rc.RunSkipped, "skipped"),
)
