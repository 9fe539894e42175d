"""What becomes of each order of a calm schedule, worked out from the plan alone."""

from __future__ import annotations

from typing import Final

from queue_books import Order
from queue_judges import Judge, status_of
from queue_plans import OrderPlan, QueuePlan

#: Ends of a script after which nothing is ever tried again.
FINAL: Final = ("unlisted", "no_retry", "exit", "cancelled", "self_cancel")


def foretell(plan: OrderPlan, queue: QueuePlan) -> tuple[int, str] | None:
    """How many attempts, and the status. None: that would take a second implementation of the rules."""
    rules = queue.rules if plan.rules is None else plan.rules
    if plan.at_most_once:
        rules = ()
    named = [error for rule in rules for error in rule.errors]
    if len(named) != len(dict.fromkeys(named)):
        return None
    spent = dict.fromkeys(rules, 0)
    requeued = attempts = 0
    while True:
        end = plan.scripts[attempts % len(plan.scripts)].end
        attempts += 1
        if end == "return":
            return attempts, "succeeded"
        if end == "group" and rules:
            return None
        if end == "sick" and queue.healthy and not plan.at_most_once and requeued < queue.requeue:
            requeued += 1
            continue
        rule = next((rule for rule in rules if end in rule.errors), None)
        if rule is None or spent[rule] >= (rule.retries or 0):
            return attempts, "failed"
        spent[rule] += 1


class Foretold(Judge):
    """Where nobody meddles, each order ends as its plan says, after as many attempts; and no resource too many. (1)"""

    def verdict(self) -> None:
        """One by one."""
        world = self.world
        if not world.plan.calm:
            return
        for order in world.orders:
            if order.via not in ("run_now", "map"):
                self._one(order)
        resource = world.plan.queue.resource
        if resource is not None and not any(order.via == "run_now" for order in world.orders):
            sick = sum(type(attempt.error).__name__ == "Sick" for attempt in world.attempts)
            expected = world.plan.queue.workers + world.plan.queue.spares + sick
            if len(world.store.all) != expected:
                world.wrong("6", f"{len(world.store.all)} resources were made, and {expected} were needed")

    def _one(self, order: Order) -> None:
        if order.refused is not None and self.world.plan.queue.overflow != "wait":
            return
        foretold = foretell(order.plan, self.world.plan.queue)
        came = len(order.attempts), status_of(order)
        if foretold is not None and came != foretold:
            self.world.wrong("1", f"{order} came to {came}, and {foretold} was foretold")
