"""Calls of a simulated queue's public methods, from outside and from inside its jobs, each held to its contract."""

from __future__ import annotations

import asyncio
import inspect
import re
from dataclasses import replace
from typing import Any, Final

from plans import Act
from queue_books import Order
from queue_plans import OrderPlan
from queue_world import World, shown
from world import EPS, SimError, _rule

import runcrew as rc

OF_JOBS: Final = (SimError, rc.RunError, rc.NoRetry)
GONE: Final = (rc.NotStarted, rc.ServiceStopping, rc.ServiceStopped)
#: What each call may raise, by its documentation; what may be raised inside a job of the queue only comes second.
MAY_RAISE: Final[dict[str, tuple[type[BaseException], ...]]] = {
    "submit": (rc.QueueFull, *GONE),
    "submit_nowait": (rc.QueueFull, *GONE),
    "submit_many": (rc.QueueFull, *GONE),
    "run": (rc.QueueFull, *GONE, *OF_JOBS),
    "map": (rc.QueueFull, *GONE, *OF_JOBS),
    "run_now": (rc.AtMax, rc.ResourceError, *GONE, *OF_JOBS),
    "await": OF_JOBS,
    "resize": (rc.AtMax, rc.AtMin, *GONE),
    "more": (rc.AtMax, rc.AtMin, *GONE),
    "less": (rc.AtMax, rc.AtMin, *GONE),
    "start": (rc.ResourceError, rc.ServiceStopping, rc.ServiceStopped),
    "restart": (rc.ResourceError, rc.ServiceStopping, rc.ServiceStopped),
    "wait": (rc.ResourceError, rc.NotStarted),
}
INSIDE_TOO: Final = (rc.WouldDeadlock,)
#: So many seconds an end may take after that of the last run: resources are made and taken down, and delays pass.
LONG: Final = 9.0
#: Calls that never wait; and those that do not, from inside.
AT_ONCE: Final = ("submit_nowait", "stats", "cancel", "cancel_me", "cancel_task")
AT_ONCE_INSIDE: Final = ("submit", "submit_many", "run", "await", "stop", "kill", "wait", "resize", "more", "less")


class Call:
    """A call that is under way, or over."""

    def __init__(self, act: Act, inside: Order | None, begun: float) -> None:
        self.act = act
        self.inside = inside
        self.begun = begun
        self.cancelled: float | None = None
        #: The queue's state when it began.
        self.state: Any = None
        #: What it submits and waits for.
        self.orders: list[Order] = []

    def __str__(self) -> str:
        return f"{self.act.op} from {'outside' if self.inside is None else self.inside}"

    def gives_up(self, now: float) -> None:
        """It is cancelled, and so is what it waits for."""
        self.cancelled = now
        for order in self.orders:
            order.asked = now if order.asked is None else order.asked


class Caller:
    """Carries out calls."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.caller = self

    # --- from outside ---------------------------------------------------------------------

    async def act(self, acts: tuple[Act, ...]) -> None:
        """Somebody outside: one call after the other, each in a task of its own, that may be cancelled."""
        for act in acts:
            await asyncio.sleep(act.at)
            if self.world.closing:
                return
            if act.patience is None and act.op in ("submit", "run", "await", "wait", "map", "run_now"):
                self.world.spawn(self._guarded(act), f"{act.op} by the way")  # one does not wait for the other
            else:
                await self.ask(act)

    async def _guarded(self, act: Act) -> None:
        await self.ask(act)

    async def ask(self, act: Act) -> None:
        """One call from outside."""
        world = self.world
        call = Call(act, None, world.now)
        task = world.spawn(self.call(act, record=call), act.op)
        done, _ = await asyncio.wait([task], timeout=act.patience)
        if not done and task.cancel():
            call.gives_up(world.now)
            mine = call.state is not None and not call.state.alive
            if act.op in ("start", "restart") and mine and world.queue.state == "starting":
                world.ends_life(0.0)  # a start that is cancelled ends the new life again
            world.note("gives up", act.op)
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def call(self, act: Act, *, inside: Order | None = None, record: Call | None = None) -> None:
        """Carry out one call, and have it judged."""
        world = self.world
        call = Call(act, inside, world.now) if record is None else record
        if world.closing and inside is not None and act.op in ("start", "restart"):
            return
        world._next_call += 1
        number = world._next_call
        world.calls[number] = act, world.now
        world.note("calls", number, act.op, "" if inside is None else f"inside {inside}")
        call.state = world.queue.state
        error: BaseException | None = None
        try:
            await self._do(call)
        except BaseException as raised:
            error = raised
        del world.calls[number]
        world.note("answer", number, shown(error))
        self._answered(call, error)
        if inside is None:
            if isinstance(error, asyncio.CancelledError):
                raise error
            return
        if error is not None and not isinstance(error, Exception):
            raise error

    def _answered(self, call: Call, error: BaseException | None) -> None:
        world, act, took = self.world, call.act, self.world.now - call.begun
        at_once = act.op in AT_ONCE or (call.inside is not None and act.op in AT_ONCE_INSIDE)
        if at_once and took > EPS:
            world.wrong("19", f"{call} took {took:g} s")
        grace = world.queue._grace() + world.queue._hooks_timeout
        if act.op in ("stop", "kill") and took > (act.arg or 0.0) + grace + EPS:
            world.wrong("11", f"{call}({act.arg}) took {took:g} s")
        late = 0.0 if act.op in ("await", "stop", "kill", "wait", "submit", "resize", "more", "less") else None
        if call.cancelled is not None and late is not None and world.now > call.cancelled + late + EPS:
            world.wrong("11", f"{call} was cancelled, and took {world.now - call.cancelled:g} s more")
        for order in call.orders:
            attempt = order.active
            if attempt is not None and not order.plan.plain and not world.may_be_cut(order):
                world.wrong("10", f"{call} came back, and {order} still runs")
        if isinstance(error, rc.ResourceError) and act.op in ("start", "restart"):
            world.start_failed()
        if error is not None:
            self._may_raise(call, error)

    def _may_raise(self, call: Call, error: BaseException) -> None:
        world = self.world
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if call.cancelled is None and (task is None or not task.cancelling()) and not world.torn:
                world.wrong("2", f"{call} raised CancelledError, and nobody had cancelled it")
            return
        allowed = MAY_RAISE.get(call.act.op, ()) + (INSIDE_TOO if call.inside is not None else ())
        leaves = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
        if not all(isinstance(leaf, allowed) for leaf in leaves):
            world.wrong("2", f"{call} raised {error!r}")

    # --- one by one -----------------------------------------------------------------------

    async def _do(self, call: Call) -> None:
        act, queue = call.act, self.world.queue
        match act.op:
            case "submit" | "submit_nowait":
                await self._submit(call)
            case "run" | "run_now":
                await self._run(call)
            case "submit_many":
                await self._submit_many(call)
            case "map":
                await self._map(call)
            case "cancel" | "cancel_me":
                self._cancel(call)
            case "await":
                await self._await(call)
            case "cancel_task":
                self._cancel_task(call)
            case "resize" | "more" | "less":
                await self._size(call)
            case "stop" | "kill":
                await self._stop(call)
            case "restart":
                await self._stop(Call(Act("stop", "queue", 1.0), call.inside, self.world.now))
                call.state = queue.state  # of several who restart it, one begins its next life
                await queue.start()
            case "start" | "wait":
                await getattr(queue, act.op)()
            case "stats":
                queue.stats()
                queue.metrics()

    def options(self, plan: OrderPlan, via: str) -> dict[str, Any]:
        """The keywords of a submission."""
        options: dict[str, Any] = {"timeout": plan.timeout, "deadline": plan.deadline}
        if via != "run_now":
            options |= {"priority": plan.priority or None, "delay": plan.delay, "at_most_once": plan.at_most_once}
            if plan.rules is not None:
                options["retry"] = [_rule(rule) for rule in plan.rules]
        return {name: value for name, value in options.items() if value is not None}

    def _has(self, order: Order, ticket: Any) -> None:
        order.ticket, order.answered, order.accepted = ticket, True, self.world.now
        ticket.on_done(lambda given: self._is_done(order, given))

    def _is_done(self, order: Order, ticket: Any) -> None:
        order.callbacks += 1
        order.done = self.world.now
        if ticket is not order.ticket or not ticket.done():
            self.world.wrong("1", f"{order} is told to be done, and is not")

    async def _submit(self, call: Call) -> None:
        world, op = self.world, call.act.op
        order = world.order(call.act.arg, op, call.inside)
        fn, options = world.job(order.plan), self.options(order.plan, op)
        try:
            if op == "submit":
                self._has(order, await world.queue.submit(fn, order, **options))
            else:
                self._has(order, world.queue.submit_nowait(fn, order, **options))
        except BaseException as error:
            order.answered, order.refused = True, error
            raise

    async def _run(self, call: Call) -> None:
        world, op = self.world, call.act.op
        order = world.order(call.act.arg, op, call.inside)
        call.orders.append(order)
        fn, options = world.job(order.plan), self.options(order.plan, op)
        try:
            order.value = await getattr(world.queue, op)(fn, order, **options)
        except BaseException as error:
            order.error = error
            if isinstance(error, asyncio.CancelledError):
                order.cancelled = order.asked = world.now
            raise
        finally:
            order.answered, order.done = True, world.now

    def _several(self, call: Call) -> tuple[list[Order], Any, dict[str, Any]]:
        plans, _ = call.act.arg
        if not plans:
            return [], self.world.job(OrderPlan(())), {}
        first = plans[0]
        alike = [plan.scripts if plan.plain == first.plain else first.scripts for plan in plans]
        orders = [self.world.order(replace(first, scripts=one), call.act.op, call.inside) for one in alike]
        return orders, self.world.job(first), self.options(first, call.act.op)

    async def _submit_many(self, call: Call) -> None:
        orders, fn, options = self._several(call)
        try:
            tickets = await self.world.queue.submit_many(fn, orders, **options)
        except BaseException as error:
            for order in orders:
                order.answered, order.error = True, error  # what had been accepted is taken back
                order.asked = self.world.now if order.asked is None else order.asked
            raise
        if len(tickets) != len(orders):
            self.world.wrong("1", f"{call} of {len(orders)} gave {len(tickets)} tickets")
        for order, ticket in zip(orders, tickets, strict=False):
            self._has(order, ticket)

    async def _map(self, call: Call) -> None:
        world = self.world
        ordered, ahead, outcomes, taken, from_async = call.act.arg[1]
        orders, fn, options = self._several(call)
        call.orders += orders
        for order in orders:
            order.siblings = orders
        items: Any = self._slowly(orders) if from_async else orders
        if ahead is not None:
            options["ahead"] = ahead
        came: list[int] = []
        values = world.queue.map(fn, items, ordered=ordered, outcomes=outcomes, **options)
        try:
            async for value in values:
                came += self._mapped(call, value.value if outcomes else value)
                if taken is not None and len(came) >= taken:
                    break
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                call.gives_up(world.now)
            for order in orders:
                order.error = error
            raise
        finally:
            for order in orders:
                order.asked = world.now if order.asked is None else order.asked
            await values.aclose()
            for order in orders:
                order.answered, order.done = True, world.now
        expected = [order.number for order in orders]
        if ordered and not outcomes and came != expected[: len(came)]:
            world.wrong("1", f"{call} gave {came}, of {expected}")
        if taken is None and not outcomes and sorted(came) != expected:
            world.wrong("1", f"{call} gave {came}, of {expected}")

    def _mapped(self, call: Call, value: Any) -> list[int]:
        """The number of the order whose value it is: each gives its own."""
        if value is None:
            return [0]
        number = int(re.findall(r"\d+", str(value))[0])
        if not any(order.number == number for order in call.orders):
            self.world.wrong("1", f"{call} gave the value of order {number}")
        return [number]

    async def _slowly(self, orders: list[Order]) -> Any:
        for order in orders:
            await asyncio.sleep(0.25 if order.number % 3 == 0 else 0)
            yield order

    def _ticket(self, call: Call) -> Order | None:
        have = [order for order in self.world.orders if order.ticket is not None]
        if call.act.op == "cancel_me":
            return call.inside if call.inside in have else None
        return have[-(call.act.arg % len(have)) - 1] if have else None

    def _cancel(self, call: Call) -> None:
        world, order = self.world, self._ticket(call)
        if order is None:
            return
        done, before = order.ticket.done(), order.asked
        said = order.ticket.cancel()
        world.note("cancels", order, said)
        if done and said:
            world.wrong("2", f"cancel() of {order} says yes, and it was done")
        active = order.active
        asked_by_us = active is not None and (active.run.why is not None or active.cut is not None)
        if active is None and not order.attempts:  # a stop has asked it to end, and its task has not come to a step yet
            asked_by_us = world.now >= world.cuts.get(order.life, (0.0, float("inf")))[1] - EPS
        if not done and not said and before is None and not asked_by_us:
            world.wrong("2", f"cancel() of {order} says no, and it is {order.ticket.status}")
        if said and order.cancelled is None:
            order.cancelled = world.now
        if not done and order.asked is None:
            order.asked = world.now

    async def _await(self, call: Call) -> None:
        order = self._ticket(call)
        if order is None:
            return
        if call.act.arg % 2:
            await order.ticket.outcome()
        else:
            await order.ticket

    def _cancel_task(self, call: Call) -> None:
        """Somebody cancels a task that is not theirs."""
        world = self.world
        theirs = [task for task in asyncio.all_tasks() if task not in world.mine and not task.done()]
        theirs = [task for task in theirs if task is not asyncio.current_task()]
        theirs.sort(key=lambda task: [int(part) if part.isdigit() else part for part in _parts(task.get_name())])
        if theirs:
            task = theirs[call.act.arg % len(theirs)]
            world.note("meddles", re.sub(r"^Task-\d+$", "Task", task.get_name()))
            world.meddled = world.now
            task.cancel()

    async def _size(self, call: Call) -> None:
        world, act, queue = self.world, call.act, self.world.queue
        number, waits = act.arg[:2]
        before, world.resized = queue.size, world.resized + 1
        mine = world.resized
        if act.op == "less":
            expected, answer = before - number, queue.less(number, mode=act.arg[2])
            if act.arg[2] == "now":
                world.reduced = world.now
        elif act.op == "more":
            expected, answer = before + number, queue.more(number)
        else:
            expected, answer = number, queue.resize(number)
        if queue.size != expected and world.resized == mine:  # a job that begins at once may have made it another
            world.wrong("6", f"{call}({act.arg}) from {before} leads to {queue.size}")
        if waits and call.inside is None and inspect.isawaitable(answer):
            await answer

    async def _stop(self, call: Call) -> None:
        world, act, queue = self.world, call.act, self.world.queue
        span = act.arg or 0.0
        state, generation = queue.state, queue.generation
        if state.alive:
            world.ends_life(span)
        report = await (queue.kill() if act.op == "kill" else queue.stop(act.arg))
        world.told_stuck |= bool(report.would_not_stop)
        if not report.complete:
            if call.inside is None:
                world.wrong("11", f"{call} came back before the end")
        elif queue.generation == generation and not queue.state.over:
            world.wrong("11", f"{call} came back, and the queue is {queue.state}")
        elif queue.generation == generation:
            self._in_good_time(call)
            self._leaves_nothing(call)

    def _leaves_nothing(self, call: Call) -> None:
        """After the end everything that was accepted has its outcome, also what would not stop."""
        for order in self.world.orders:
            pending = order.ticket is not None and not order.ticket.done()
            if pending and order.life == self.world.queue.generation:
                self.world.wrong("1", f"{call} came back, and {order} has no outcome")

    def _in_good_time(self, call: Call) -> None:
        """A drain goes on for as long as there is something to do, and not longer."""
        world, resource = self.world, self.world.plan.queue.resource
        if resource is not None and any(making.end != "ok" or making.bad_after for making in resource.makings):
            return  # to wait for a resource is to have something to do
        ends = [attempt.ended for attempt in world.attempts if attempt.order.life == world.queue.generation]
        last = max([call.begun, *(world.now if end is None else end for end in ends)])
        if world.now > last + LONG:
            world.wrong("20", f"{call} goes on for {world.now - last:g} s after the end of its last run")


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)
