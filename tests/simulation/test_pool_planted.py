"""Simulator and tests find what they are there to find: a fault, planted in the pool, breaks a law or fails a test."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pool_plants as plants
import pytest
import test_pool_hazards as hazards
from pool_plans import make
from pool_plants import Plant
from pool_simulator import simulate
from test_queue_planted import quietly

from runcrew.testing import run_virtual

#: No fault needs more schedules than that. Those that have found it are tried first.
WITHIN: Final = 300

#: The fault, schedules that found it once, and the laws of which the schedule that finds it sees one broken.
FAULTS: Final[tuple[tuple[Plant, tuple[int, ...], str], ...]] = (
    (plants.pause_freezes, (3, 7, 8), "2 6 11"),
    (plants.spins_to_the_end, (2, 3, 4), "3"),
    (plants.polls_in_a_pause, (7, 14, 21), "3"),
    (plants.dead_but_not_closed, (40, 25), "3 10"),
    (plants.max_is_compared_for_equality, (1, 3, 7), "5"),
    (plants.max_bounds_the_kept, (1, 3), "5"),
    (plants.one_too_few, (3, 6), "6"),
    (plants.faulty_is_not_replaced, (21, 22), "6"),
    (plants.failures_are_final, (22, 69, 28), "6 11"),
    (plants.cancelled_worker_is_lost, (29, 33), "6"),
    (plants.faulty_is_used_again, (6, 9, 4), "16"),
    (plants.nobody_takes_down, (2, 4, 6), "5 16"),
    (plants.openings_without_pause, (30, 186), "3"),
    (plants.leaving_cancels, (3, 4, 5), "20"),
    (plants.runs_once_more, (6, 5), "10"),
    (plants.deaf_to_the_stop, (0, 1), "11 15 16"),
    (plants.no_time_limit, (23, 90, 104), "11 15 16"),
    (plants.stops_from_inside_wait, (115, 262), "11 19"),
    (plants.changes_from_inside_wait, (9, 22), "11 19"),
    (plants.changes_never_end, (1, 7), "11"),
    (plants.changes_end_at_once, (3, 5), "6"),
    (plants.done_is_an_error, (4,), "10"),
    (plants.fails_without_pause, (27, 56), "3"),
    (plants.pauses_always, (0, 1, 7), "3"),
    (plants.errors_vanish, (0, 1), "21"),
    (plants.the_last_error_counts, (25, 48), "10"),
    (plants.sick_is_an_end, (25, 38), "10"),
    (plants.a_wrong_factory_is_tried_again, (7, 24, 15), "2 6 9 11"),
    (plants.counted_twice, (0, 2), "1 15"),
    (plants.running_leaks, (4, 28), "15"),
    (plants.counters_stay_attached, (2, 6), "15"),
    (plants.idle_is_work, (22, 26), "15"),
    (plants.cancelled_from_outside_goes_on, (46, 105), "16"),
)

#: The same, for schedules with threads.
IN_THREADS: Final[tuple[tuple[Plant, tuple[int, ...], str], ...]] = ((plants.idle_is_work, (9, 8), "15"),)

#: The fault, and the test that fails with it, with its arguments.
DIRECTED: Final[tuple[tuple[Plant, Callable[..., Any], tuple[Any, ...]], ...]] = (
    (plants.pause_freezes, hazards.test_a_pause_followed_by_more_freezes_nothing, (0, 0.5)),
    (plants.spins_to_the_end, hazards.test_nothing_spins_while_the_last_worker_ends, ("stop",)),
    (plants.polls_in_a_pause, hazards.test_nothing_is_done_where_nothing_is_to_be_done, ("paused",)),
    (plants.dead_but_not_closed, hazards.test_a_pool_that_an_error_has_ended_is_over_and_can_begin_anew, ()),
    (plants.initial_above_max, hazards.test_no_more_are_at_work_than_there_may_be, ()),
    (plants.max_bounds_the_kept, hazards.test_no_more_are_at_work_than_there_may_be, ()),
    (plants.leaving_cancels, hazards.test_the_current_run_is_finished, ("less",)),
    (plants.leaving_cancels, hazards.test_the_current_run_is_finished, ("stop",)),
    (plants.idle_ones_are_waited_for, hazards.test_who_waits_for_something_to_do_leaves_at_once, ("less",)),
    (plants.deaf_to_the_stop, hazards.test_a_deaf_job_is_not_waited_for, ("kill",)),
    (plants.any_cancellation_is_exempt, hazards.test_a_cancellation_that_is_not_ours_is_a_failure, (True,)),
    (plants.any_cancellation_is_exempt, hazards.test_a_cancellation_that_is_not_ours_is_a_failure, (False,)),
    (plants.a_wrong_factory_is_tried_again, hazards.test_what_can_never_run_is_told_at_once, ()),
    (plants.stops_from_inside_wait, hazards.test_a_job_ends_its_own_pool, ("stop",)),
    (plants.changes_from_inside_wait, hazards.test_a_job_ends_its_own_pool, ("less",)),
    (plants.fails_without_pause, hazards.test_errors_do_not_vanish_and_do_not_spin, ()),
    (plants.errors_vanish, hazards.test_errors_do_not_vanish_and_do_not_spin, ()),
    (plants.last_come_first, hazards.test_runs_that_end_at_once_leave_the_loop_to_others, (True, False)),
    (plants.abandoned_hold_no_place, hazards.test_threads_that_do_not_end_are_replaced_only_so_often, ()),
)


@pytest.mark.parametrize(("plant", "seeds", "laws"), FAULTS, ids=[plant.__name__ for plant, _, _ in FAULTS])
def test_a_planted_fault_is_found(
    plant: Plant, seeds: tuple[int, ...], laws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, one of some schedules that break no law otherwise breaks one of those that are meant."""
    _is_found(plant, seeds, laws, monkeypatch, threads=False)


@pytest.mark.parametrize(("plant", "seeds", "laws"), IN_THREADS, ids=[plant.__name__ for plant, _, _ in IN_THREADS])
def test_a_planted_fault_is_found_in_threads(
    plant: Plant, seeds: tuple[int, ...], laws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, where jobs and resources live in threads."""
    _is_found(plant, seeds, laws, monkeypatch, threads=True)


def _is_found(
    plant: Plant, seeds: tuple[int, ...], laws: str, monkeypatch: pytest.MonkeyPatch, *, threads: bool
) -> None:
    meant = tuple(f"[{law}]" for law in laws.split())
    with quietly():
        plant(monkeypatch)
        for seed in itertools.chain(seeds, range(WITHIN)):
            if any(wrong.startswith(meant) for wrong in simulate(seed, make(seed, threads=threads)).wrongs):
                return
    pytest.fail(f"not within {WITHIN} schedules: `python {Path(__file__).name} {plant.__name__}` says what finds it")


@pytest.mark.parametrize(
    ("plant", "test", "args"), DIRECTED, ids=[f"{plant.__name__}-{args}" for plant, _, args in DIRECTED]
)
def test_a_planted_fault_fails_a_test(
    plant: Plant, test: Callable[..., Any], args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, a test that passes otherwise fails."""
    with quietly():
        plant(monkeypatch)
        with pytest.raises(BaseException) as raised:
            if inspect.iscoroutinefunction(test):
                run_virtual(test, *args)
            else:
                test(*args)
        assert not isinstance(raised.value, KeyboardInterrupt)


def _search(names: list[str]) -> None:
    """For each fault (or those named), the first schedules that find it, and which laws they see broken.

    Before the names `--threads`: in schedules with threads.
    """
    threads = names[:1] == ["--threads"]
    names = names[1:] if threads else names
    known = [plant for plant in vars(plants).values() if getattr(plant, "__module__", "") == plants.__name__]
    for plant in known:
        if plant.__name__.startswith("_") or (names and plant.__name__ not in names):
            continue
        with pytest.MonkeyPatch.context() as patch, quietly():
            plant(patch)
            results = (simulate(seed, make(seed, threads=threads)) for seed in range(WITHIN))
            found = list(itertools.islice((result for result in results if result.wrongs), 5))
        print(plant.__name__, *(f"{one.seed}: {one.wrongs[0][:100]}" for one in found), sep="\n    ", flush=True)


if __name__ == "__main__":
    _search(sys.argv[1:])
