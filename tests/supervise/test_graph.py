"""Who waits for whom: the pure half of starting and stopping in order."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.errors import ConfigError
from runcrew.supervise.graph import check, find_cycle, stop_after


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
