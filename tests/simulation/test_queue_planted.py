"""Simulator and tests find what they are there to find: a fault, planted in the queue, breaks a law or fails a test."""

from __future__ import annotations

import gc
import inspect
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import queue_plants as plants
import test_queue_hazards as hazards
import test_queue_races as races
from queue_plans import make
from queue_plants import Plant
from queue_simulator import simulate

from runcrew.queue.on_loop import EAGER
from runcrew.testing import run_virtual

#: No fault needs more schedules than that. Those that have found it are tried first.
WITHIN: Final = 300

#: The fault, schedules that found it once, and the laws of which the schedule that finds it sees one broken.
FAULTS: Final[tuple[tuple[Plant, tuple[int, ...], str], ...]] = (
    (plants.opening_ends_inside, (7, 24, 45), "16"),
    (plants.exit_comes_out, (15, 26, 28, 29), "2 9 20"),
    (plants.keeper_leaves_at_once, (9, 13), "16"),
    (plants.anything_is_a_verdict, (4, 15, 22), "10"),
    (plants.opening_is_in_no_book, (0, 2, 3), "5 6 15"),
    (plants.only_the_living_count, (6, 8, 14), "5 16"),
    (plants.drain_looks_once, (), "20"),
    (plants.drain_forgets_the_delayed, (104,), "1 20"),
    (plants.faulty_is_used_again, (3, 6, 12), "16"),
    (plants.idle_ones_stay_open, (0, 3), "5 16"),
    (plants.failures_are_final, (12, 13), "6 11"),
    (plants.spares_without_bound, (6, 17, 18), "5"),
    (plants.accepted_after_the_stop, (7, 40, 52), "1 10 11"),
    (plants.waits_for_itself, (5, 59), "11 19"),
    (plants.cancelled_is_retried, (44, 140, 153, 279), "1 10 11"),
    (plants.first_in_first_out, (1, 15, 17), "8"),
    (plants.last_in_first_out, (1, 3, 18), "8"),
    (plants.drain_interrupts, (6, 15, 16), "1 20"),
    (plants.kill_forgets_the_queued, (2, 7), "1"),
    (plants.kill_only_drains, (2, 16, 27), "1 10 16"),
    (plants.books_forget, (1, 2), "15"),
    (plants.always_room, (7, 27, 35), "4"),
    (plants.once_is_not_enough, (1, 3, 13), "10"),
    (plants.put_back_for_ever, (1, 6, 31), "12"),
    (plants.timeouts_never_ring, (3, 4, 12), "11"),
    (plants.nobody_hands_out, (15,), "6 8 11"),
)

#: The same, for schedules with threads.
IN_THREADS: Final[tuple[tuple[Plant, tuple[int, ...], str], ...]] = (
    (plants.line_goes_on, (45, 214), "16"),
    (plants.taken_back_begins, (57, 89, 214), "1 10"),
    (plants.time_does_not_count, (2, 4, 5), "11"),
)

#: The fault, and the test that fails with it, with its arguments.
DIRECTED: Final[tuple[tuple[Plant, Callable[..., Any], tuple[Any, ...]], ...]] = (
    (plants.opening_ends_inside, races.test_whatever_ends_an_opening_the_stop_ends_too, (0,)),
    (plants.exit_comes_out, hazards.test_what_is_no_exception_does_not_come_out_of_submit, (SystemExit(3),)),
    (plants.context_of_whoever_is_first, hazards.test_a_queued_job_sees_its_submitters_context, ()),
    (plants.one_future_for_all, hazards.test_one_of_several_who_wait_for_a_ticket_gives_up, ("value",)),
    (plants.cancelled_over_and_over, hazards.test_whoever_cleans_up_is_left_alone, ("kill",)),
    (plants.anything_is_a_verdict, hazards.test_a_cancellation_that_nobody_asked_for_is_a_failure_for_good, ()),
    (plants.settles_inside_itself, hazards.test_many_workers_stop_at_the_cost_of_one_each, ()),
    (plants.counts_by_looking, hazards.test_many_workers_stop_at_the_cost_of_one_each, ()),
    (plants.dead_tickets_stay, hazards.test_cancelled_tickets_do_not_pile_up_behind_a_worker_that_hangs, ()),
    (plants.never_hopeless, races.test_a_drain_that_no_worker_will_ever_serve_gives_up, (OSError(),)),
    (plants.nobody_is_hired_in_a_drain, races.test_a_drain_goes_on_when_its_last_worker_dies, ()),
    (plants.drain_forgets_the_delayed, races.test_a_drain_goes_on_when_its_last_worker_dies, ()),
    (plants.accepted_after_the_stop, races.test_whoever_waits_for_room_when_the_stop_comes_is_refused, (False,)),
    (plants.reservation_lost, races.test_a_submitter_that_gives_up_passes_its_place_on, (1,)),
    (plants.waits_for_itself, races.test_a_job_that_waits_for_its_own_queue_is_told, ("run",)),
    (plants.cancelled_is_retried, races.test_an_error_in_a_cancellation_is_told_and_not_tried_again, ()),
    *(
        (
            (plants.deaf_in_its_first_step, hazards.test_a_job_sends_its_own_worker_home_in_its_first_step, ()),
            (plants.submits_nest, hazards.test_submissions_do_not_nest, ()),
            (plants.context_entered_twice, hazards.test_an_attempt_begins_in_the_step_in_which_another_ends, ()),
        )
        if EAGER
        else (
            (plants.job_ends_inside, hazards.test_a_ticket_is_found_wherever_it_is_on_its_way, ("cancel", 0)),
            (plants.handed_over_is_in_no_list, hazards.test_a_ticket_is_found_wherever_it_is_on_its_way, ("cancel", 0)),
        )
    ),
)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what is logged of a fault from those who look whether anything was."""
    loggers = [logging.getLogger(name) for name in ("runcrew", "asyncio")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
        gc.collect()
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


@pytest.mark.parametrize(("plant", "seeds", "laws"), FAULTS, ids=[plant.__name__ for plant, _, _ in FAULTS])
def test_a_planted_fault_is_found(
    plant: Plant, seeds: tuple[int, ...], laws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, one of some schedules that break no law otherwise breaks one of those that are meant."""
    meant = tuple(f"[{law}]" for law in laws.split())
    with quietly():
        plant(monkeypatch)
        for seed in itertools.chain(seeds, range(WITHIN)):
            if any(wrong.startswith(meant) for wrong in simulate(seed).wrongs):
                return
    pytest.fail(f"not within {WITHIN} schedules: `python {Path(__file__).name} {plant.__name__}` says what finds it")


@pytest.mark.parametrize(("plant", "seeds", "laws"), IN_THREADS, ids=[plant.__name__ for plant, _, _ in IN_THREADS])
def test_a_planted_fault_is_found_in_threads(
    plant: Plant, seeds: tuple[int, ...], laws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, where jobs and resources live in threads."""
    meant = tuple(f"[{law}]" for law in laws.split())
    with quietly():
        plant(monkeypatch)
        for seed in itertools.chain(seeds, range(WITHIN)):
            if any(wrong.startswith(meant) for wrong in simulate(seed, make(seed, threads=True)).wrongs):
                return
    pytest.fail(f"not within {WITHIN} schedules: `python {Path(__file__).name} --threads {plant.__name__}`")


@pytest.mark.parametrize(("plant", "test", "args"), DIRECTED, ids=[plant.__name__ for plant, _, _ in DIRECTED])
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
    known = [plant for name, plant in vars(plants).items() if getattr(plant, "__module__", "") == plants.__name__]
    for plant in known:
        if isinstance(plant, type) or (names and plant.__name__ not in names):
            continue
        with pytest.MonkeyPatch.context() as patch, quietly():
            plant(patch)
            results = (simulate(seed, make(seed, threads=threads)) for seed in range(WITHIN))
            found = list(itertools.islice((result for result in results if result.wrongs), 5))
        print(
            plant.__name__, *(f"{result.seed}: {result.wrongs[0][:100]}" for result in found), sep="\n    ", flush=True
        )


if __name__ == "__main__":
    _search(sys.argv[1:])
