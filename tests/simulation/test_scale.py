"""The real queue under loads that step, rise, burst and come in teeth: enough workers soon, not too many, no flaps."""

from __future__ import annotations

import math

import pytest
from scale_loads import Shape, burst, driven, ramp, sawtooth, steady, step

import runcrew as rc

#: As it is without being asked for anything.
SCALE = rc.Scale()


def enough(offered: float) -> int:
    """So many workers as are meant for that."""
    return math.ceil(offered / SCALE.utilisation)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("opening", "fails"), [(0.0, 0.0), (0.0, 1.0), (3.0, 0.2)])
@pytest.mark.parity("T5.44", "T5.45")
@pytest.mark.defect("D5.5", "D5.6")
def test_a_step(opening: float, fails: float, seed: int) -> None:
    """Soon nobody waits for long, then there are about as many workers as are meant for the load, with one turn at
    most, and when it is over one is left; whether the jobs fail or not."""
    shape = Shape(step(0.2, 6.0, 60), 360, opening=opening, fails=fails, after=180)
    seen = driven(shape, SCALE, seed=seed)
    assert 8000 < seen.tasks
    assert seen.oldest(60, 360) < 8 + 2 * opening
    assert seen.oldest(80 + 5 * opening, 360) < 2
    assert enough(6.0) - 1 <= min(seen.sizes(90, 360))
    assert max(seen.sizes(0, 360)) <= 2 * enough(6.0)
    assert enough(6.0) - 1 <= seen.size(355) <= enough(6.0) + 3
    assert seen.turns(60, 360) <= 2
    assert 1 == seen.size(535)
    assert seen.turns(350) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_ramp(seed: int) -> None:
    """The workers keep up with a load that rises slowly, and never go while it does."""
    seen = driven(Shape(ramp(8.0, 300), 360, after=200), SCALE, seed=seed)
    assert seen.oldest(0, 360) < 6
    assert 8 <= seen.size(320) <= 2 * enough(8.0)
    assert seen.turns(0, 300) == 0
    assert 1 == seen.size(555)


@pytest.mark.parametrize("seed", range(3))
def test_a_burst(seed: int) -> None:
    """What comes all at once is soon done, by many workers, and those go again in one movement."""
    seen = driven(Shape(burst(400.0, 10.0, 1.0), 60, after=240), SCALE, seed=seed)
    assert 1800 < seen.tasks < 2200
    assert seen.oldest(40, 300) == 0
    assert 20 < max(seen.sizes(0, 60)) <= 40
    assert seen.turns() == 1
    assert 1 == seen.size(240)


@pytest.mark.parametrize("seed", range(3))
def test_short_teeth(seed: int) -> None:
    """A load whose peaks come again before `hold` is over keeps its workers: they are there for each peak."""
    seen = driven(Shape(sawtooth(6.0, 30), 420, after=200), SCALE, seed=seed)
    assert seen.oldest(90, 420) < 3
    assert 4 <= min(seen.sizes(120, 420))
    assert max(seen.sizes(120, 420)) <= 2 * enough(6.0)
    assert seen.turns(120, 420) <= 2
    assert 1 == seen.size(615)


@pytest.mark.parametrize("seed", range(2))
def test_long_teeth(seed: int) -> None:
    """A load whose lulls are long is followed up and down, two turns a tooth and no more."""
    seen = driven(Shape(sawtooth(5.0, 400), 1200, service=0.5), SCALE, seed=seed)
    assert seen.oldest(0, 1200) < 8
    assert max(seen.sizes(0, 1200)) <= 2 * enough(5.0)
    assert seen.turns() <= 8
    for tooth in (1, 2):
        assert min(seen.sizes(400 * tooth, 400 * tooth + 200)) <= 4 < max(seen.sizes(400 * tooth - 50, 400 * tooth))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("offered", "service"), [(0.4, 0.2), (2.0, 0.2), (6.0, 0.2), (0.5, 2.0), (3.0, 2.0)])
def test_a_steady_load_by_chance(offered: float, service: float, seed: int) -> None:
    """A load that is the same all the time, but for chance, hardly ever turns the number of workers round; nor are
    there many more of them than it takes to keep the waiting short."""
    seen = driven(Shape(steady(offered), 1200, service=service), SCALE, seed=seed)
    assert seen.turns(60) <= 7
    sizes = seen.sizes(120, 1200)
    # With jobs of 2 s and the workers that are meant for 3 at a time every third ticket would wait for longer than 1 s.
    assert sum(sizes) / len(sizes) <= enough(offered) * 1.5 + 2
    assert offered <= sum(sizes) / len(sizes)


@pytest.mark.defect("D5.7")
@pytest.mark.parametrize("seed", range(2))
def test_a_step_after_a_quiet_day(seed: int) -> None:
    """A day in which hardly anything came makes it no slower: the workers come by rates of the last half minute."""
    day = 86_400.0
    slow = rc.Scale("5s", window="30s")
    seen = driven(Shape(step(0.001, 6.0, day), day + 150), slow, seed=seed)
    assert 1 == seen.size(day)
    assert seen.oldest(day + 60, day + 150) < 10
    assert enough(6.0) - 1 <= seen.size(day + 60) <= 3 * enough(6.0)
    rates = [decision.inputs.arrival or 0.0 for decision in seen.decisions]
    assert 0.5 * 30 < max(rates)
