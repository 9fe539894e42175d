"""The tree of a service, as `runcrew check` shows it: for people, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runcrew.abc import Service
from runcrew.cli.safe import safe
from runcrew.durations import text
from runcrew.pool import Pool
from runcrew.queue import Queue
from runcrew.supervise import Interval, OneShot, Supervisor
from runcrew.supervise.child import Child
from runcrew.supervise.service import JobService
from runcrew.workers import Scale
from runcrew.workers.resource import Recipe


def facts(service: Service, child: Child | None = None) -> dict[str, Any]:
    """What is known of a service that has not been started, and of all below it, as JSON can say it."""
    known: dict[str, Any] = {
        "name": getattr(service, "name", type(service).__name__) if child is None else child.name,
        "kind": type(service).__name__,
        "when": _when(service),
    }
    if child is not None:
        known["depends_on"] = list(child.depends_on)
        known["on_failure"] = child.on_failure
    if isinstance(service, JobService | Queue | Pool):
        known["chain"] = list(service.describe())
    if isinstance(service, Supervisor):
        known["children"] = [facts(below.service, below) for below in service._children.values()]
    return known


def lines(known: dict[str, Any]) -> Iterator[str]:
    """The same for people: a line for each service, and below it the chain of its runs, the outermost layer first."""
    yield safe(_headline(known))
    yield from _below(known, "")


def _below(known: dict[str, Any], indent: str) -> Iterator[str]:
    children = known.get("children", [])
    yield from (safe(f"{indent}    {layer}") for layer in known.get("chain", []))
    for place, child in enumerate(children):
        last = place == len(children) - 1
        yield safe(f"{indent}{'└── ' if last else '├── '}{_headline(child)}")
        yield from _below(child, indent + ("    " if last else "│   "))


def _headline(known: dict[str, Any]) -> str:
    parts = [f"{known['name']}  {known['kind']}"]
    if known["when"]:
        parts.append(known["when"])
    if "on_failure" in known:
        parts.append(f"on failure: {known['on_failure']}")
    if known.get("depends_on"):
        parts.append(f"after {', '.join(known['depends_on'])}")
    if known.get("children") == []:
        parts.append("without children")
    return ", ".join(parts)


def _when(service: Service) -> str:
    """When its job is run, in words; empty where it has none."""
    if isinstance(service, Interval):
        ticks = service._ticks
        first = {"now": "", "after": ", first after one interval", "aligned": ", aligned"}[ticks.first]
        pause = "every " if ticks.mode == "rate" else "pausing "
        return pause + text(ticks.every) + first + (f", delayed by {text(ticks.delay)}" if ticks.delay else "")
    if isinstance(service, OneShot):
        ready = {"started": "once", "succeeded": "once, ready when done", "signal": "once, ready when it says so"}
        return ready[service._ready_when] + (f", delayed by {text(service._delay)}" if service._delay else "")
    if isinstance(service, Queue):
        setup = service.setup
        most = "" if setup.max_workers == setup.workers else f" (at most {setup.max_workers})"
        return _workers(setup.workers) + most + _owns(setup.recipe) + _scaled(setup.scale)
    if isinstance(service, Pool):
        return _pool(service)
    return ""


def _pool(service: Pool) -> str:
    setup = service.setup
    limits = f" ({setup.min} or more)" if setup.max is None else f" ({setup.min} to {setup.max})"
    owns = _owns(setup.recipe) if setup.job is not None else ", each with a job of its own"
    ends = ", ends at the first failure" if setup.stop_on_error else ""
    return _workers(setup.initial) + limits + owns + _scaled(setup.scale) + ends


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"


def _owns(recipe: Recipe[Any] | None) -> str:
    return "" if recipe is None else f", each with {recipe.name}"


def _scaled(scale: Scale | None) -> str:
    return "" if scale is None else ", scaled by load"
