"""Who waits for whom: the pure half of starting and stopping in order."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.errors import ConfigError
from runcrew.supervise.graph import check, find_cycle, stop_after, with_phases


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, list[str]]:
    """A graph without a circle, its names in any order of adding."""
    count = draw(st.integers(0, 12))
    names = [f"n{i}" for i in range(count)]
    needs = {name: [other for other in names[:i] if draw(st.booleans())] for i, name in enumerate(names)}
    order = draw(st.permutations(names))
    return {name: needs[name] for name in order}


def stopping_order(graph: dict[str, list[str]], *, one_by_one: bool) -> list[list[str]]:
    """The rounds in which names stop, each as soon as all it waits for are gone."""
    after = stop_after(graph, one_by_one=one_by_one)
    gone: list[str] = []
    rounds = []
    while len(gone) < len(graph):
        now = [name for name in graph if name not in gone and all(other in gone for other in after[name])]
        assert now, "nobody can stop: they wait for one another"
        gone += now
        rounds.append(now)
    return rounds


def test_a_circle_is_printed_from_end_to_end() -> None:
    """The message of a circle shows the whole way round."""
    with pytest.raises(ConfigError, match="app: the dependencies go in a circle: b -> c -> d -> b"):
        check({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["b"]}, "app")


def test_a_name_that_depends_on_itself_is_a_circle() -> None:
    """The shortest circle is found too."""
    assert ["a", "a"] == find_cycle({"a": ["a"]})


def test_a_dependency_that_is_not_there_is_named() -> None:
    """The message names who asks, what for, and what there is."""
    with pytest.raises(ConfigError, match="'a' depends on 'x', which is not there: it has a, b"):
        check({"a": ["x"], "b": []}, "app")


def test_a_long_chain_meets_no_recursion_limit() -> None:
    """Ten thousand names in one chain are no problem."""
    chain = {f"n{i}": [f"n{i + 1}"] for i in range(10_000)} | {"n10000": []}
    assert [] == find_cycle(chain)


@given(acyclic())
def test_no_circle_where_there_is_none(graph: dict[str, list[str]]) -> None:
    """A graph that was built without a circle passes."""
    assert [] == find_cycle(graph)


@given(acyclic(), st.randoms(use_true_random=False))
def test_a_circle_is_found_wherever_it_is(graph: dict[str, list[str]], chance: random.Random) -> None:
    """One arrow back closes a circle, and it is found and real."""
    names = [name for name, needs in graph.items() if needs]
    if not names:
        return
    name = chance.choice(names)
    graph[chance.choice(graph[name])] = [name]
    way = find_cycle(graph)
    assert way[0] == way[-1]
    assert all(b in graph[a] for a, b in pairwise(way))


@given(acyclic())
def test_what_depends_on_something_stops_before_it(graph: dict[str, list[str]]) -> None:
    """In either way of stopping, nothing loses what it depends on while it lives, and all stop in the end."""
    for one_by_one in (False, True):
        order = [name for names in stopping_order(graph, one_by_one=one_by_one) for name in names]
        assert all(order.index(name) < order.index(need) for name, needs in graph.items() for need in needs)


@given(acyclic())
def test_one_by_one_means_one_by_one(graph: dict[str, list[str]]) -> None:
    """One by one, no two stop at a time."""
    assert all(1 == len(names) for names in stopping_order(graph, one_by_one=True))


def test_without_dependencies_the_last_added_stops_first() -> None:
    """One by one is reverse order of adding; together is all at once."""
    graph: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    assert [["c"], ["b"], ["a"]] == stopping_order(graph, one_by_one=True)
    assert [["a", "b", "c"]] == stopping_order(graph, one_by_one=False)


# --- phases -----------------------------------------------------------------------------------


def closure(graph: dict[str, list[str]], start: str) -> set[str]:
    """All that a name depends on, in however many steps, and itself."""
    return {start}.union(*(closure(graph, need) for need in graph[start]))


def test_whoever_does_not_serve_depends_on_all_that_do() -> None:
    """Those that serve stop when all others have, and start before them."""
    graph: dict[str, list[str]] = {"poll": [], "db": [], "mail": ["db"], "sweep": []}
    phases = with_phases(graph, ["db", "mail"])
    assert {"poll": ["db", "mail"], "db": [], "mail": ["db"], "sweep": ["db", "mail"]} == phases
    assert [["poll", "sweep"], ["mail"], ["db"]] == stopping_order(phases, one_by_one=False)


def test_what_was_said_beats_the_phases() -> None:
    """What one that serves depends on outlives it, in however many steps."""
    graph: dict[str, list[str]] = {"base": [], "migrate": ["base"], "db": ["migrate"], "mail": [], "poll": []}
    phases = with_phases(graph, ["db", "mail"])
    assert ["mail"] == phases["base"]
    assert [["poll"], ["db"], ["migrate"], ["base"], ["mail"]] == stopping_order(phases, one_by_one=False)


def test_two_that_serve_on_top_of_one_each() -> None:
    """Where everybody waiting for everybody would be a circle, the first one is waited for."""
    graph: dict[str, list[str]] = {"a": [], "b": [], "qa": ["a"], "qb": ["b"]}
    phases = with_phases(graph, ["qa", "qb"])
    assert {"a": [], "b": ["qa"], "qa": ["a"], "qb": ["b"]} == phases


@given(acyclic(), st.data())
def test_phases_bring_no_circle_and_drop_nothing(graph: dict[str, list[str]], data: st.DataObject) -> None:
    """Everything that was said stands; all else waits for each that serves, or is what that one depends on."""
    serving = [name for name in graph if data.draw(st.booleans())]
    phases = with_phases(graph, serving)
    assert [] == find_cycle(phases)
    assert list(graph) == list(phases)
    for name, needs in graph.items():
        assert needs == phases[name][: len(needs)]
        assert len(phases[name]) == len(set(phases[name]))
        if name in serving:
            assert needs == phases[name]
        else:
            assert all(server in closure(phases, name) or name in closure(phases, server) for server in serving)


@given(acyclic())
def test_without_anybody_who_serves_there_are_no_phases(graph: dict[str, list[str]]) -> None:
    """Then nothing follows."""
    assert graph == with_phases(graph, [])
