"""The book of waiting tickets, alone: whose turn it is, against a list that is searched from end to end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcrew.job import Status
from runcrew.queue.levels import TURN, Levels


class Waiting:
    """As much of a ticket as the levels look at."""

    def __init__(self, number: int, priority: int, queued: float = 0.0) -> None:
        self.number = number
        self.priority = priority
        self._queued = queued
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
        st.tuples(st.sampled_from(["put", "back"]), st.integers(-3, 3)),
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
