"""Who waits for whom: pure functions over names and their dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import pairwise

from runcrew.errors import ConfigError

#: For each name, in the order of adding, the names that it depends on.
Graph = Mapping[str, Sequence[str]]


def check(graph: Graph, of: str) -> None:
    """Raise ConfigError for a dependency that is not there, or a cycle (printed from end to end)."""
    for name, needs in graph.items():
        for need in needs:
            if need not in graph:
                known = ", ".join(graph)
                raise ConfigError(f"{of}: {name!r} depends on {need!r}, which is not there: it has {known}")
    check_circle(graph, of)


def check_circle(graph: Graph, of: str) -> None:
    """Raise ConfigError for a cycle, printed from end to end. Dependencies that are not there yet are let pass."""
    cycle = find_cycle({name: [need for need in needs if need in graph] for name, needs in graph.items()})
    if cycle:
        raise ConfigError(f"{of}: the dependencies go in a circle: {' -> '.join(cycle)}")


def find_cycle(graph: Graph) -> list[str]:
    """A way that leads from a name back to itself, or nothing."""
    cleared: dict[str, bool] = {}
    for start in graph:
        if start not in cleared and (cycle := _walk(graph, start, cleared)):
            return cycle
    return []


def _walk(graph: Graph, start: str, cleared: dict[str, bool]) -> list[str]:
    # Depth first with a stack of its own, so that a long chain of dependencies meets no recursion limit.
    way = {start: iter(graph[start])}
    while way:
        name = next(reversed(way))
        need = next(way[name], None)
        if need is None:
            del way[name]
            cleared[name] = True
        elif need in way:
            names = list(way)
            return [*names[names.index(need) :], need]
        elif need not in cleared:
            way[need] = iter(graph[need])
    return []


def with_phases(graph: Graph, serving: Iterable[str]) -> dict[str, list[str]]:
    """The graph, and what follows from phases: whoever does not serve the others depends on all that do.

    What was said beats what only follows: one that serves may itself depend on one that does not, in however many
    steps, and then that one does not depend on it. So the graph stays free of circles.
    """
    needs_of = {name: list(needs) for name, needs in graph.items()}
    servers = dict.fromkeys(serving)
    for server in servers:
        before = _all_below(needs_of, server)
        for name, needs in needs_of.items():
            if name not in servers and name not in before and server not in needs:
                needs.append(server)
    return needs_of


def _all_below(graph: Graph, start: str) -> dict[str, None]:
    """All names that this one depends on, in however many steps, and itself."""
    found = {start: None}
    left = [start]
    while left:
        for need in graph[left.pop()]:
            if need not in found:
                found[need] = None
                left.append(need)
    return found


def stop_after(graph: Graph, *, one_by_one: bool) -> dict[str, list[str]]:
    """For each name, those that have to be gone before its stop begins.

    A name stops after everything that depends on it. one_by_one: also after the one added after it, unless
    a dependency says otherwise, so that all stop in reverse order of adding.
    """
    after: dict[str, list[str]] = {name: [] for name in graph}
    for name, needs in graph.items():
        for need in needs:
            after[need].append(name)
    if one_by_one:
        order = _start_order(graph)
        for earlier, later in pairwise(order):
            if later not in after[earlier]:
                after[earlier].append(later)
    return after


def _start_order(graph: Graph) -> list[str]:
    """All names, each after what it depends on, otherwise in the order of adding."""
    waits = {name: len(needs) for name, needs in graph.items()}
    dependents: dict[str, list[str]] = {name: [] for name in graph}
    for name, needs in graph.items():
        for need in needs:
            dependents[need].append(name)
    order: list[str] = []
    place = {name: index for index, name in enumerate(graph)}
    names = list(graph)
    ready = [place[name] for name, count in waits.items() if count == 0]  # in order, so it is a heap
    while ready:
        name = names[heappop(ready)]
        order.append(name)
        for dependent in dependents[name]:
            waits[dependent] -= 1
            if waits[dependent] == 0:
                heappush(ready, place[dependent])
    return order
