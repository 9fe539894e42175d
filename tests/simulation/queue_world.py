"""A plan for a queue carried out: the queue, its jobs, and all that is noted of them, in the step in which it happens.

The judges (`queue_judges.py`) hear the same and say what must not be. Nothing here reads real time or chance.
"""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from plans import Act
from queue_books import Attempt, Figures, Order, Res, Sick, Store
from queue_plans import OrderPlan, QueuePlan, SimPlan
from world import EPS, ERRORS, Cleanup, SaysFinal, SimError, Unlisted, _rule

import runcrew as rc
from runcrew import clock, events


class World:
    """One schedule."""

    def __init__(self, plan: SimPlan, judges: Callable[[World], tuple[Any, ...]]) -> None:
        self.plan = plan
        self.loop: Any = asyncio.get_running_loop()
        self.trace: list[str] = []
        self.wrongs: list[str] = []
        self.closing = False
        self.released = asyncio.Event()
        self.orders: list[Order] = []
        self.attempts: list[Attempt] = []
        self.active: list[Attempt] = []
        self.store = Store(plan.queue.resource, self)
        self.figures = Figures(self)
        self.hooks: list[str] = []
        #: Tasks of our own: no outsider cancels these.
        self.mine: dict[asyncio.Task[Any], None] = {}
        #: When somebody who may not cancelled a task of the library's; whether the loop was torn down.
        self.meddled: float | None = None
        self.torn = False
        #: Of each life that was asked to end: the earliest instant at which its work may be cut, and the latest.
        self.cuts: dict[int, tuple[float, float]] = {}
        #: When each of them was first asked to, or failed to begin: it has accepted nothing since.
        self.asked_to_end: dict[int, float] = {}
        #: Whether a stop has told of something that would not stop.
        self.told_stuck = False
        #: How often the number of workers was changed.
        self.resized = 0
        #: When workers were last taken away while they work.
        self.reduced: float | None = None
        self.runs: dict[str, str] = {}
        self.calls: dict[int, tuple[Act, float]] = {}
        self._next_call = 0
        self.judges = judges(self)
        self.queue = self._build(plan.queue)

    # --- noting ---------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return float(self.loop.time())

    def since_begun(self, instant: float) -> float:
        """The same of an instant that is given in seconds since the epoch."""
        return self.now - (clock.current().now() - instant)

    def note(self, *what: object) -> None:
        """Put it into the trace."""
        self.trace.append(f"{self.now:.6f} {' '.join(map(str, what))}")

    def wrong(self, law: str, what: str) -> None:
        """A law is broken."""
        self.wrongs.append(f"[{law}] at {self.now:.6f}: {what}")

    def judge(self, moment: str, *args: Any) -> None:
        """Ask the judges from within the library, which their own mistakes must not harm."""
        for judge in self.judges:
            try:
                getattr(judge, moment)(*args)
            except Exception:
                self.wrong("judge", traceback.format_exc())

    def label(self, run: str) -> str:
        """A name for a run that is the same in every process."""
        return self.runs.setdefault(run, f"run{len(self.runs) + 1}")

    def hear(self, event: events.Event) -> None:
        """An event of the queue, in the step in which it is emitted."""
        match event:
            case events.StateChanged():
                self.note("queue", event.old, "->", event.new, shown(event.error))
            case events.RunStarted():
                self.note("begins", self.label(event.run), event.cause)
            case events.RunRetried():
                self.note("retries", self.label(event.run), f"{event.delay:.6f}", shown(event.error))
            case events.RunEnded():
                self.note("ends", self.label(event.run), event.status, event.attempts, shown(event.error))
            case _:
                self.note(type(event).__name__)
        self.judge("hear", event)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task of our own."""
        task = asyncio.ensure_future(coro)
        task.set_name(name)
        self.mine[task] = None
        return task

    def ends_life(self, span: float) -> None:
        """The present life is asked to end within `span` seconds, some of which may be kept for hooks."""
        first, last = self.cuts.get(self.queue.generation, (float("inf"), float("inf")))
        self.cuts[self.queue.generation] = min(first, self.now + span * 0.74), min(last, self.now + span)
        self.asked_to_end.setdefault(self.queue.generation, self.now)

    def start_failed(self) -> None:
        """The present life has never begun: what it had accepted until then was interrupted."""
        self.cuts[self.queue.generation] = float("-inf"), self.now
        self.asked_to_end.setdefault(self.queue.generation, self.now)

    def may_be_cut(self, order: Order, at: float | None = None) -> bool:
        """Whether by then the work of its life may have been cut."""
        first, _ = self.cuts.get(order.life, (float("inf"), 0.0))
        return (self.now if at is None else at) >= first - EPS or self.torn

    # --- building -------------------------------------------------------------------------

    def _build(self, plan: QueuePlan) -> Any:
        options: dict[str, Any] = {
            **self.store.options(),
            "workers": plan.workers, "max_workers": plan.max_workers,
            "spares": plan.spares, "max_spares": plan.max_spares,
            "maxsize": plan.maxsize, "overflow": plan.overflow, "requeue": plan.requeue,
            "requeue_backoff": rc.Constant(plan.requeue_backoff), "backoff": rc.Constant(plan.backoff),
            "max_wait": plan.max_wait, "max_abandoned": plan.max_abandoned, "backend": plan.backend,
            "retry": [_rule(rule) for rule in plan.rules], "timeout": plan.timeout, "deadline": plan.deadline,
        }  # fmt: skip
        if plan.healthy:
            options["healthy"] = self._healthy
        if plan.collects:
            options["collector"] = self.figures
        if plan.hook is not None:
            options[f"on_{plan.hook}"] = functools.partial(self._hook, plan.hook)
        made = rc.Queue("queue", **options)
        if self.plan.seed % 3:  # some paths of the library are shorter where nobody listens
            ear = made.subscribe(lambda _: None)
            ear._put = self.hear  # type: ignore[method-assign]  # at once, not by a task
        return made

    def _healthy(self, error: BaseException) -> bool:
        if self.plan.queue.healthy_raises:
            raise SimError("the predicate fails")
        if not isinstance(error, Exception) or isinstance(error, asyncio.CancelledError):
            self.wrong("10", f"healthy() was asked about {error!r}")
        return not isinstance(error, Sick)

    async def _hook(self, moment: str) -> None:
        self.hooks.append(moment)
        self.note("hook", moment)
        await asyncio.sleep(0.25)

    # --- jobs -----------------------------------------------------------------------------

    def order(self, plan: OrderPlan, via: str, inside: Order | None) -> Order:
        """Somebody is about to submit a job."""
        turn = getattr(self.loop, "turns", 0)
        made = Order(len(self.orders) + 1, plan, via, self.now, turn, self.queue.generation, inside)
        self.orders.append(made)
        return made

    def job(self, plan: OrderPlan) -> Any:
        """The function to submit, which takes the order, after the resource where there is one."""
        if plan.plain:
            return self.perform_plain if self.plan.queue.resource is None else self.perform_plain_with
        return self.perform if self.plan.queue.resource is None else self.perform_with

    async def perform(self, order: Order) -> object:
        """One attempt."""
        return await self.perform_with(None, order)

    async def perform_with(self, resource: Res | None, order: Order) -> object:
        """One attempt, with its worker's resource."""
        attempt = self.begin(resource, order)
        try:
            attempt.value = await self._follow(attempt)
        except BaseException as error:
            attempt.error = error
            raise
        finally:
            self.end(attempt)
        return attempt.value

    def perform_plain(self, order: Order) -> object:
        """One attempt, in a thread. All waits are on virtual time."""
        return self.perform_plain_with(None, order)

    def perform_plain_with(self, resource: Res | None, order: Order) -> object:
        """The same with its worker's resource."""
        attempt = self.begin(resource, order)
        try:
            attempt.value = self._follow_plainly(attempt)
        except BaseException as error:
            attempt.error = error
            raise
        finally:
            attempt.told = attempt.run.cancelled
            self.end(attempt)
        return attempt.value

    def begin(self, resource: Res | None, order: Order) -> Attempt:
        """An attempt begins."""
        script = order.plan.scripts[len(order.attempts) % len(order.plan.scripts)]
        number = len(order.attempts) + 1
        attempt = Attempt(order, rc.current_run(), number, self.now, script, resource)
        self.note(order, "attempt", number, "" if resource is None else resource)
        self.judge("begins", attempt)
        order.attempts.append(attempt)
        self.attempts.append(attempt)
        self.active.append(attempt)
        if resource is not None:
            self.store.use(resource, attempt)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """An attempt has ended."""
        attempt.ended = self.now
        self.active.remove(attempt)
        self.note(attempt.order, "left", attempt.number, shown(attempt.error))
        if attempt.resource is not None:
            self.store.used(attempt.resource, attempt)
        self.judge("leaves", attempt)

    async def _follow(self, attempt: Attempt) -> object:
        script = attempt.script
        steps = list(reversed(script.steps))
        swallowed = False
        while True:
            try:
                while steps:
                    await self._step(attempt, steps.pop())
                if script.end == "forever":
                    await self.released.wait()
                if script.end == "self_cancel":
                    await self._cancel_myself(attempt)
                return self._end(attempt)
            except asyncio.CancelledError:
                if script.end == "cancelled" and not steps:
                    raise
                self._is_cut(attempt)
                if script.on_cancel == "swallow" and not swallowed:
                    swallowed = True
                    continue
                if script.on_cancel == "slow":
                    await self._clean_up(attempt)
                elif script.on_cancel == "sluggish":
                    await self._be_deaf(2 + script.cleanup)
                else:
                    return self._on_cancel(attempt)
                raise

    async def _clean_up(self, attempt: Attempt) -> None:
        try:
            await asyncio.sleep(min(attempt.script.cleanup, 0.75))
        except asyncio.CancelledError:
            self.judge("cut_again", attempt)
            raise

    def _is_cut(self, attempt: Attempt) -> None:
        self.note(attempt.order, "cancelled")
        self.judge("cancelled", attempt)
        attempt.cut = self.now if attempt.cut is None else attempt.cut

    def _on_cancel(self, attempt: Attempt) -> object:
        """How it takes its cancellation, where that takes no time. Called while it is being handled."""
        match attempt.script.on_cancel:
            case "error":
                raise Cleanup(str(attempt.order)) from None
            case "listed_error":
                raise ERRORS["alpha"](str(attempt.order)) from None
            case "sick_error":
                raise Sick(str(attempt.order)) from None
            case "exit":
                raise SystemExit(6) from None
            case "value":
                return f"{attempt.order}, rescued"
        raise

    async def _step(self, attempt: Attempt, step: tuple[Any, ...]) -> None:
        match step:
            case ("sleep", span):
                await asyncio.sleep(span)
            case ("run_sleep", span):
                await attempt.run.sleep(span)
            case ("wait_cancelled", span):
                await attempt.run.wait_cancelled(span)
            case ("call", act):
                await self.caller.call(act, inside=attempt.order)

    def _follow_plainly(self, attempt: Attempt) -> object:
        script, run = attempt.script, attempt.run
        steps = list(reversed(script.steps))
        swallowed = False
        while True:
            try:
                while steps:
                    kind, span = steps.pop()
                    if kind == "run_sleep":
                        run.sleep(span)
                    elif kind == "block":
                        clock.current().block(span)
                    elif kind == "wait_cancelled":
                        run.wait_cancelled(span)
                return self._end(attempt)
            except asyncio.CancelledError:
                if script.end == "cancelled" and not steps:
                    raise
                self._is_cut(attempt)
                if script.on_cancel == "swallow" and not swallowed:
                    swallowed = True
                    continue
                if script.on_cancel in ("slow", "sluggish"):
                    clock.current().block(min(script.cleanup, 0.75) if script.on_cancel == "slow" else 6.0)
                else:
                    return self._on_cancel(attempt)
                raise

    def _end(self, attempt: Attempt) -> object:
        end = attempt.script.end
        match end:
            case "alpha" | "beta":
                raise ERRORS[end](end)
            case "group":
                raise ExceptionGroup("several", [ERRORS["alpha"]("a"), ERRORS["beta"]("b")])
            case "unlisted":
                raise Unlisted(end)
            case "sick":
                raise Sick(str(attempt.order))
            case "no_retry":
                raise SaysFinal(end)
            case "exit":
                raise SystemExit(3)
            case "cancelled":
                raise asyncio.CancelledError("by itself")
        return f"{attempt.order}, attempt {attempt.number}"

    async def _cancel_myself(self, attempt: Attempt) -> None:
        task = asyncio.current_task()
        assert task is not None
        attempt.cancels_itself = True
        task.cancel()
        await asyncio.sleep(1)

    async def _be_deaf(self, span: float) -> None:
        until = self.now + span
        while self.now < until and not self.released.is_set():
            try:
                async with asyncio.timeout_at(until):
                    await self.released.wait()
            except asyncio.CancelledError:
                continue
            except TimeoutError:
                return

    #: Who carries out the calls; set by whoever makes the world.
    caller: Any = None


def shown(error: BaseException | None) -> str:
    """An error, without its text."""
    if isinstance(error, BaseExceptionGroup):
        return f"group({', '.join(map(shown, error.exceptions))})"
    return "" if error is None else type(error).__name__
