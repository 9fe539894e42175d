"""Who waits for whom: pure functions over names and their dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        way: list[str] = []
        cycle = _walk(graph, start, way, cleared)
        if cycle:
            return cycle
    return []


def _walk(graph: Graph, start: str, way: list[str], cleared: dict[str, bool]) -> list[str]:
    # Depth first with a stack of its own, so that a long chain of dependencies meets no recursion limit.
    stack = [(start, iter(graph[start]))]
    way.append(start)
    while stack:
        _, needs = stack[-1]
        need = next(needs, None)
        if need is None:
            stack.pop()
            cleared[way.pop()] = True
        elif need in way:
            return [*way[way.index(need) :], need]
        elif need not in cleared:
            way.append(need)
            stack.append((need, iter(graph[need])))
    return []


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
    ready = [name for name, count in waits.items() if count == 0]
    place = {name: index for index, name in enumerate(graph)}
    while ready:
        ready.sort(key=place.__getitem__, reverse=True)
        name = ready.pop()
        order.append(name)
        for dependent in dependents[name]:
            waits[dependent] -= 1
            if waits[dependent] == 0:
                ready.append(dependent)
    return order
