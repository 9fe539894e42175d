"""The book of waiting tickets, alone: whose turn it is, against a list that is searched from end to end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcrew.job import Status
from runcrew.queue.levels import TURN, Levels


class Waiting:
    """As much of a ticket as the levels look at."""

    def __init__(self, number: int, priority: int, queued: float = 0.0, plain: bool = True) -> None:
        self.number = number
        self.priority = priority
        self._queued = queued
        self._plain = plain
        self._more = None
        self._status: Status | None = None

    def __repr__(self) -> str:
        return f"<{self.number} of level {self.priority}>"


def filled(*priorities: int, max_wait: float | None = None) -> tuple[Any, list[Any]]:
    """Levels with one ticket for each of these, and the tickets, queued a second after one another."""
    levels: Any = Levels(max_wait)
    tickets = [Waiting(number, priority, float(number)) for number, priority in enumerate(priorities)]
    for ticket in tickets:
        levels.put(ticket)
    return levels, tickets


def popped(levels: Any, now: float = 0.0) -> list[int]:
    """All that wait, in the order of their turns."""
    found: list[int] = []
    while (ticket := levels.pop(now)) is not None:
        found.append(ticket.number)
    return found


def end(levels: Any, ticket: Any) -> None:
    """It ends while it waits."""
    ticket._status = Status.CANCELLED
    levels.left()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "back"]), st.one_of(st.integers(-3, 3), st.integers(-500, 500))),
        st.tuples(st.sampled_from(["pop", "end", "first", "least", "oldest"]), st.integers(0, 1000)),
    ),
    max_size=200,
)


@settings(deadline=None, max_examples=300)
@given(STEPS)
def test_it_agrees_with_a_list_that_is_searched(steps: list[tuple[str, int]]) -> None:
    """Whatever comes, goes and ends, the turns are those of a list sorted by level, then by place."""
    levels: Any = Levels(None)
    model: list[Any] = []

    def in_order() -> list[Any]:
        return sorted(model, key=lambda ticket: -ticket.priority)  # stable: the place decides within a level

    for at, (what, number) in enumerate(steps):
        ticket: Any = Waiting(at, number, float(at))
        if what == "put":
            levels.put(ticket)
            model.append(ticket)
        elif what == "back":
            ticket._queued = -float(at)
            levels.put_back(ticket)
            model.insert(0, ticket)
        elif what == "pop":
            expected = in_order()[0] if model else None
            assert expected is levels.pop(float(at))
            if expected is not None:
                model.remove(expected)
        elif what == "end" and model:
            end(levels, model.pop(number % len(model)))
        elif what == "first":
            assert (in_order()[0] if model else None) is levels.first()
        elif what == "least":
            lowest = min((each.priority for each in model), default=None)
            assert next((each for each in model if each.priority == lowest), None) is levels.least_urgent()
        assert len(model) == levels.count
    assert in_order() == levels.all()
    counts = {each.priority: sum(1 for other in model if other.priority == each.priority) for each in in_order()}
    assert list(counts.items()) == list(levels.counts().items())
    assert [each.number for each in in_order()] == popped(levels)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(100, 600), st.integers(0, 9))
def test_hundreds_of_levels_stay_in_strict_order(seed: int, count: int, ended: int) -> None:
    """With as many levels as tickets, some of which come back or end, the most urgent is always the next."""
    random = Random(seed)  # drawn one by one, so many would be too much for a search
    levels: Any = Levels(None)
    model: dict[int, Any] = {}  # by level: each has one ticket
    for number in range(3 * count):
        if model and random.random() < 0.4:
            expected = model.pop(max(model))
            assert expected is levels.pop(0.0)
        elif model and random.random() < ended / 20:
            end(levels, model.pop(random.choice(list(model))))
        else:
            level = random.randrange(-count, count)
            while level in model:
                level += 2 * count
            model[level] = Waiting(number, level)
            (levels.put_back if number % 5 == 0 else levels.put)(model[level])
    assert sorted(model, reverse=True) == list(levels.counts())
    assert [model[level].number for level in sorted(model, reverse=True)] == popped(levels)


@settings(deadline=None)
@given(st.lists(st.sampled_from([-10, 0, 10]), min_size=1, max_size=80), st.integers(1, 60))
def test_when_the_oldest_is_overdue_it_gets_one_pick_in_sixteen(priorities: list[int], max_wait: int) -> None:
    """Every sixteenth pick is the oldest one's where that has waited for longer than max_wait; no other is."""
    levels, tickets = filled(*priorities, max_wait=float(max_wait))
    now = 60.0
    left = list(tickets)
    for pick in range(1, len(priorities) + 1):
        oldest = min(left, key=lambda ticket: ticket._queued)
        urgent = min(left, key=lambda ticket: -ticket.priority)
        overdue = pick % TURN == 0 and now - oldest._queued > max_wait
        expected = oldest if overdue else urgent
        assert expected is levels.pop(now)
        left.remove(expected)
    assert levels.pop(now) is None


def next_one(waiting: list[Any], pick: int, now: float, max_wait: float) -> tuple[Any, bool]:
    """Whose turn it is in this pick, and whether because it is overdue."""
    if not waiting:
        return None, False
    oldest = min(waiting, key=lambda ticket: ticket._queued)
    if pick % TURN == 0 and now - oldest._queued > max_wait:
        return oldest, True
    return min(waiting, key=lambda ticket: (-ticket.priority, ticket._queued)), False


BATCHES = st.lists(
    st.tuples(
        st.integers(0, 70),  # the size
        st.integers(0, 20),  # seconds before it
        st.tuples(st.integers(0, 60), st.integers(0, 2), st.integers(0, 2)),  # who comes: high, low, and low async ones
        st.lists(st.integers(0, 1000), max_size=3),  # who ends
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=300)
@given(BATCHES)
def test_batches_of_any_size_keep_the_turns_of_single_picks(batches: list[Any]) -> None:
    """Picked in batches or one by one, the order is the same: each sixteenth pick is the overdue one's, and batches end
    before one that is async."""
    max_wait = 30.0
    levels: Any = Levels(max_wait)
    waiting: list[Any] = []
    now, number, picks = 0.0, 0, 0
    for most, seconds, coming, ending in batches:
        now += seconds
        for (level, plain), count in zip(((10, True), (-10, True), (-20, False)), coming, strict=True):
            for _ in range(count):
                number += 1
                waiting.append(Waiting(number, level, now + number / 10_000, plain))
                levels.put(waiting[-1])
        for which in ending:
            if waiting:
                end(levels, waiting.pop(which % len(waiting)))
        owed = levels.owes
        taken = levels.pop_plain(now, most)
        assert len(taken) <= most
        of_level = None if not taken else next_one(waiting, 1, now, max_wait)[0].priority
        for ticket in taken:
            picks += 1
            assert next_one(waiting, picks, now, max_wait)[0] is ticket
            assert ticket._plain
            waiting.remove(ticket)
        first, overdue = next_one(waiting, picks + 1, now, max_wait)
        if taken and len(taken) < most:
            assert first is None or not first._plain or (first.priority != of_level and not overdue), (
                "it ended too early"
            )
            assert levels.owes is (overdue and first is not None and not first._plain)
        assert not (owed and taken), "the turn was another's"
        if len(taken) < most or not most:
            picks += 1
            assert first is levels.pop(now)
            assert not levels.owes
            if first is not None:
                waiting.remove(first)
        assert len(waiting) == levels.count


def test_one_that_comes_back_is_before_all_others_of_its_level_only() -> None:
    """What is put back is the next of its level, and waits behind the more urgent ones."""
    levels, _ = filled(0, 10, 0)
    levels.put_back(Waiting(99, 0))
    assert [1, 99, 0, 2] == popped(levels)


@pytest.mark.parametrize("count", [1000, 20_000])
def test_what_has_ended_does_not_pile_up(count: int) -> None:
    """Tickets that end while they wait behind others are thrown out when half of all are such."""
    levels, tickets = filled(*([0] * count))
    for ticket in tickets[1:]:
        end(levels, ticket)
    kept = sum(len(line) for line in levels._lines.values())
    assert kept <= 130
    assert [0] == popped(levels)


def test_levels_that_nobody_waits_in_do_not_pile_up() -> None:
    """A queue that is given a new priority each time keeps few of them."""
    levels: Any = Levels(None)
    for number in range(5000):
        levels.put(Waiting(number, number))
        assert number == levels.pop(0.0).number
    assert len(levels._lines) == len(levels._order) <= 32
    levels.put(Waiting(1, 3))
    levels.put(Waiting(2, 4999))
    levels.put(Waiting(3, 4))
    assert [2, 3, 1] == popped(levels)


# --- what it costs ----------------------------------------------------------------------------


def lines_run(act: Callable[[], object]) -> int:
    """How many lines of the levels are run by this."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.replace("\\", "/").endswith("runcrew/queue/levels.py"):
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    assert lines
    return lines


def cost(count: int, max_wait: float | None, priority: Callable[[int], int]) -> tuple[float, float, float]:
    """Lines for each of so many that come, that go while others come, and that go: each of a level of its own."""
    levels: Any = Levels(max_wait)

    def put(start: int) -> None:
        for number in range(start, start + count):
            levels.put(Waiting(number, priority(number)))

    def turn() -> None:
        for number in range(count, 2 * count):
            assert levels.pop(1.0) is not None
            levels.put(Waiting(number, priority(number)))

    come, stay, go = (lines_run(act) for act in (lambda: put(0), turn, lambda: popped(levels, 1.0)))
    assert 0 == levels.count
    return come / count, stay / count, go / count


@pytest.mark.parametrize("max_wait", [None, 1e9])
@pytest.mark.parametrize(
    "priority",
    [lambda number: number, lambda number: -number, lambda number: number * 7919 % 100_003],
    ids=["more and more urgent", "less and less urgent", "mixed"],
)
def test_thousands_of_levels_cost_as_much_each_as_a_hundred(
    priority: Callable[[int], int], max_wait: float | None
) -> None:
    """To come and to be picked takes as many steps with thousands of levels as with a few, but for a search by halves:
    counted in lines that run."""
    few, many = cost(100, max_wait, priority), cost(4000, max_wait, priority)
    assert all(late < 2 * early for early, late in zip(few, many, strict=True)), (few, many)
