"""How many workers for which load: the pure decision, against bounds, against fluid loads, and step by step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcrew as rc
from runcrew.workers import Decision, Load, Scale, Scaling
from runcrew.workers.scale import HIGHEST, Average, Peak

#: No waiting for anything: whoever looks at one rule only.
AT_ONCE = Scale("1s", hold=0, cooldown=0)


class Fluid:
    """A queue, or a pool, to which work flows without any chance, and what is decided about it.

    offered: how many workers it would take to do what comes. each: how many runs a busy worker ends in a second.
    """

    def __init__(self, scale: Scale, least: int, most: int, workers: int, *, each: float = 5.0, pool: bool = False):
        self.scale, self.scaling = scale, Scaling(scale, least, most)
        self.workers, self.each, self.pool = workers, each, pool
        self.time = self.backlog = self.arrived = self.ended = 0.0
        #: For how long something has been waiting.
        self.age = 0.0
        self.sizes = [workers]
        self.look(0.0, 0.0)

    def look(self, offered: float, span: float) -> Decision:
        """Let so much time pass, and carry out what is decided then."""
        self.time += span
        come = offered * self.each * span
        done = min(self.backlog + come, self.workers * self.each * span)
        self.arrived, self.ended = self.arrived + come, self.ended + done
        self.backlog = max(0.0, self.backlog + come - done)
        waits = math.ceil(self.backlog - 1e-6)
        self.age = self.age + span if waits else 0.0
        busy = done / self.each / span if span else 0.0
        if self.pool:
            load = Load(self.time, self.workers, busy, int(self.ended))
        else:
            load = Load(self.time, self.workers, busy, int(self.ended), int(self.arrived), waits, self.age)
        decided = self.scaling.decide(load)
        assert self.workers == decided.before
        if decided.after != self.workers:
            self.sizes.append(decided.after)
        self.workers = decided.after
        return decided

    def go_on(self, offered: float, seconds: float) -> None:
        """The same load for so long, looked at every second."""
        for _ in range(round(seconds / self.scale.every)):
            self.look(offered, self.scale.every)

    @property
    def turns(self) -> int:
        """How often it went over from growing to shrinking, or back."""
        ways = [after > before for before, after in pairwise(self.sizes)]
        return sum(one != other for one, other in pairwise(ways))


def fed(scaling: Scaling, loads: list[Load]) -> Iterator[Decision]:
    """What is decided about each of them; a change is carried out, whatever they say about the number of workers."""
    workers = loads[0].workers
    for load in loads:
        decision = scaling.decide(load._replace(workers=workers))
        workers = decision.after
        yield decision


def long_enough(scale: Scale, workers: int) -> float:
    """Within that time the group has come down from so many to one, when nothing is left to do."""
    forgets = scale.window * math.log(max(2.0, workers / scale.utilisation))
    steps = math.log2(workers + 1) + 2
    return scale.hold * 34 / 32 + forgets + steps * (max(scale.cooldown, scale.every) + scale.every)


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every", 0), ("every", "1ms"), ("every", -1), ("every", "soon"), ("every", None), ("every", math.nan),
        ("window", 0), ("window", math.inf), ("wait", -1), ("wait", True), ("hold", "1 parsec"), ("cooldown", -0.5),
        ("utilisation", 0), ("utilisation", 1), ("utilisation", 0.96), ("utilisation", -0.5), ("utilisation", "75%"),
        ("utilisation", math.nan), ("utilisation", True), ("utilisation", None),
    ],
)  # fmt: skip
def test_nonsense_is_refused(name: str, value: Any) -> None:
    """An option that makes no sense is refused by its name, with what would."""
    with pytest.raises(rc.ConfigError, match=f"^{name}: .*"):
        Scale(**{name: value})


def test_options_do_not_change() -> None:
    """They are in seconds, can be shown and shared, and stay what they are."""
    scale = rc.Scale("500ms", hold="2m", utilisation=0.5)
    assert (0.5, 10.0, 1.0, 0.5, 120.0, 10.0) == (
        scale.every, scale.window, scale.wait, scale.utilisation, scale.hold, scale.cooldown
    )  # fmt: skip
    assert "Scale('500ms', window='10s', wait='1s', hold='2m', cooldown='10s', utilisation=0.5)" == repr(scale)
    assert scale is copy.copy(scale) is copy.deepcopy(scale)
    with pytest.raises(AttributeError, match="does not change"):
        scale.hold = 1.0
    with pytest.raises(AttributeError, match="does not change"):
        del scale.hold


# --- whatever comes -----------------------------------------------------------------------------

counts = st.integers(0, 10**6)
spans = st.one_of(st.sampled_from([0.0, 1e-9, 1.0, 3600.0]), st.floats(-5.0, 100.0))
shares = st.floats(0.01, HIGHEST)
odd = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 1e300])


@st.composite
def any_loads(draw: st.DrawFn) -> list[Load]:
    """Loads that need not make sense: clocks that stand or go back, counters that begin anew, what is no number."""
    pool = draw(st.booleans())
    at, loads = draw(st.sampled_from([0.0, 1e6, 1.7e9])), []
    for _ in range(draw(st.integers(1, 40))):
        at += draw(spans)
        waiting = None if pool else draw(st.one_of(st.just(0), counts))
        loads.append(
            Load(
                draw(odd) if draw(st.integers(0, 20)) == 0 else at,
                draw(st.integers(0, 30)),
                draw(st.one_of(st.floats(0, 40), odd)),
                draw(counts),
                None if pool else draw(counts),
                waiting,
                draw(st.one_of(st.floats(0, 1e4), odd)),
                draw(st.sampled_from([0, 0, 0, 1, 5])),
            )
        )
    return loads


@settings(max_examples=150, deadline=None)
@given(any_loads(), shares, st.integers(0, 8), st.integers(0, 20), st.sampled_from([0, "1s", "30s"]), st.booleans())
def test_no_decision_leaves_the_bounds(
    loads: list[Load], share: float, least: int, more: int, hold: Any, by_hand: bool
) -> None:
    """Whatever comes, a change stays between least and most and says why, in one line and with finite numbers."""
    most = max(1, least) + more
    scaling = Scaling(Scale("1s", utilisation=share, hold=hold, cooldown=hold), least, most)
    for load, decision in zip(loads, map(scaling.decide, loads) if by_hand else fed(scaling, loads), strict=True):
        before, after = decision.before, decision.after
        told = decision.inputs
        assert all(map(math.isfinite, (told.completion, told.busy, told.utilisation, told.demand, told.arrival or 0)))
        assert decision.reason
        assert 1 == len(str(decision).splitlines())
        if after == before:
            continue
        assert max(1, least) <= after <= most
        assert 0 < before
        if after > before:
            assert after <= max(2 * before, least)
            if load.waiting is not None:
                assert load.waiting > 0
                assert after <= max(before + load.waiting - load.coming, least)
                assert load.age >= 1
        else:
            surplus = min(before, most) - max(1, least)
            assert min(before, most) - after <= max(1, surplus // 2)


@given(
    st.integers(1, 10), st.integers(1, 200), st.floats(1, 100), st.integers(0, 500), st.integers(0, 500),
    st.integers(0, 500),
)  # fmt: skip
def test_more_that_waits_never_asks_for_fewer(
    workers: int, waiting: int, age: float, ended: int, arrived: int, extra: int
) -> None:
    """Of two loads that differ only in what waits, or in what has come, the larger one asks for as many at least."""

    def asked(waiting: int, arrived: int) -> int:
        scaling = Scaling(AT_ONCE, 1, 1000)
        scaling.decide(Load(0.0, workers, workers, 0, 0, waiting, age))
        return scaling.decide(Load(5.0, workers, workers, ended, arrived, waiting, age)).after

    few = asked(waiting, arrived)
    assert few <= asked(waiting + extra, arrived)
    assert few <= asked(waiting, arrived + extra)


# --- steady loads ---------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(st.floats(0, 40), st.integers(0, 160).map(lambda n: n / 4)),
    st.sampled_from([0.1, 0.5, 0.75, 0.8, HIGHEST]),
    st.integers(1, 5),
    st.integers(0, 60),
    st.sampled_from([0.2, 5.0, 500.0]),
    st.booleans(),
)
def test_a_steady_load_never_flaps(
    offered: float, share: float, least: int, start: int, each: float, pool: bool
) -> None:
    """It may grow too far once and come back, and then it stays, with workers that are busy enough and not too busy."""
    most = 60
    scale = Scale(utilisation=share)
    fluid = Fluid(scale, least, most, min(most, least + start), each=each, pool=pool)
    fluid.go_on(offered, 900)
    settled = len(fluid.sizes)
    assert fluid.turns <= 1
    fluid.go_on(offered, 1500)
    assert settled == len(fluid.sizes)
    workers = fluid.workers
    enough = max(least, math.ceil(offered / share * (1 - 1e-6)))
    assert workers <= enough
    if workers < most:
        assert offered <= (workers * (1 + share) / 2 if pool else workers) * (1 + 1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 300), st.floats(0.05, HIGHEST), st.sampled_from(["1s", "10s", "1m"]), st.booleans())
@pytest.mark.parity("T5.45")
@pytest.mark.defect("D5.5")
def test_extra_workers_go_when_the_load_goes(start: int, share: float, hold: str, pool: bool) -> None:
    """However many there are: when nothing is left to do it is the least again, within the time that can be told."""
    scale = Scale(utilisation=share, hold=hold)
    fluid = Fluid(scale, 1, 1000, start, pool=pool)
    fluid.go_on(start * share, 200)
    assert start == fluid.workers
    fluid.go_on(0.0, long_enough(scale, start))
    assert 1 == fluid.workers
    assert sorted(fluid.sizes, reverse=True) == fluid.sizes


@pytest.mark.parity("T5.48")
def test_half_of_those_that_are_too_many_go_at_a_time() -> None:
    """Fewer go each time, at least one, with a pause between, and never one that should stay."""
    fluid = Fluid(Scale(hold="5s", cooldown="10s"), 3, 40, 35)
    times = []
    for _ in range(200):
        decided = fluid.look(0.0, 1.0)
        if decided.after != decided.before:
            times.append(fluid.time)
    assert [35, 19, 11, 7, 5, 4, 3] == fluid.sizes
    assert min(later - sooner for sooner, later in pairwise(times)) >= 10


def test_a_short_lull_keeps_the_workers() -> None:
    """Nobody goes before the load has been low for `hold`, however low it is."""
    fluid = Fluid(Scale(hold="1m"), 1, 40, 8)
    for _ in range(20):
        fluid.go_on(6.0, 50)
        fluid.go_on(0.0, 50)
    assert [8] == fluid.sizes


# --- one at a time -----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=50, max_size=50),
    st.booleans(),
)
@pytest.mark.defect("D5.6")
def test_one_run_in_flight_adds_nobody(workers: int, looks: list[tuple[int, int]], behind: bool) -> None:
    """While nothing waits nobody is added, however many have come and ended, and how seldom they are seen to end."""
    scaling = Scaling(Scale(hold="1h"), 1, 20)
    ended = 0
    for number, (busy, more) in enumerate(looks * 20):
        ended += more
        decision = scaling.decide(Load(float(number), workers, busy, ended, ended + behind, 0, 0.0))
        assert decision.after <= workers


def test_one_endless_run_is_no_load_for_a_pool() -> None:
    """A pool grows only where runs come to an end, also if its one worker is busy for ever."""
    scaling = Scaling(Scale(), 1, 20)
    assert [1] * 5000 == [scaling.decide(Load(float(at), 1, 1.0, 0)).after for at in range(5000)]


def test_a_pool_grows_where_its_workers_have_hardly_a_pause() -> None:
    """From halfway between what is meant and all there is, for twice `wait` at least, it grows to what is meant."""

    def asked(workers: int, busy: float, seconds: int = 5) -> int:
        scaling = Scaling(Scale(wait="2s", utilisation=0.75), 1, 50)
        return [scaling.decide(Load(float(at), workers, busy, at)).after for at in range(seconds)][-1]

    assert [20, 24, 26, 27] == [asked(20, 17.4), asked(20, 17.6), asked(20, 19.0), asked(20, 20.0)]
    assert [2, 50] == [asked(1, 1.0), asked(40, 40.0)]
    assert 20 == asked(20, 20.0, 4)
    scaling = Scaling(Scale(wait=0, utilisation=0.1), 1, 50)
    scaling.decide(Load(0.0, 4, 4.0, 0))
    decision = scaling.decide(Load(1.0, 4, 4.0, 9))
    assert (8, "workers are at work for 100% of their time") == (decision.after, decision.reason)
    assert (None, None, 1.0) == (decision.inputs.arrival, decision.inputs.waiting, decision.inputs.utilisation)


@pytest.mark.parity("T5.43")
def test_where_nothing_ends_one_is_added_at_a_time() -> None:
    """Where it is not known how fast a worker is, one more comes for those that wait, and the next one when that is
    there.
    """
    scaling = Scaling(Scale(), 1, 20)
    scaling.decide(Load(0.0, 2, 2.0, 0, 9, 7, 0.0))
    assert 3 == scaling.decide(Load(1.0, 2, 2.0, 0, 9, 7, 1.0)).after
    assert 3 == scaling.decide(Load(2.0, 3, 2.0, 0, 9, 7, 2.0, coming=1)).after
    assert 4 == scaling.decide(Load(3.0, 3, 3.0, 0, 9, 6, 3.0)).after


@pytest.mark.parity("T5.43")
def test_a_throughput_of_long_ago_says_nothing() -> None:
    """What ended before the window does not tell how fast the workers are at what they do now."""
    scaling = Scaling(Scale(), 1, 1000)
    scaling.decide(Load(0.0, 4, 4.0, 0, 0, 0, 0.0))
    scaling.decide(Load(1.0, 4, 4.0, 1000, 1000, 0, 0.0))
    for at in range(2, 300):
        scaling.decide(Load(float(at), 4, 4.0, 1000, 1000, 0, 0.0))
    assert 5 == scaling.decide(Load(300.0, 4, 4.0, 1000, 1100, 99, 5.0)).after


@pytest.mark.parity("T5.42", "T5.44")
def test_a_backlog_asks_for_what_the_rates_say() -> None:
    """What comes, at the utilisation that is meant, and what waits, within a window: that many in all, no more."""
    scaling = Scaling(Scale(utilisation=0.5, window="10s"), 1, 1000)
    for at in range(100):
        scaling.decide(Load(float(at), 10, 10.0, 20 * at, 20 * at, 0, 0.0))  # each ends 2 in a second
    decision = scaling.decide(Load(100.0, 10, 10.0, 2000, 2000, 100, 1.0))
    assert math.ceil((20 / 0.5 + 100 / 10) / 2 * 0.8) <= decision.after <= 20
    assert 20 == pytest.approx(decision.inputs.arrival or 0)
    assert "100 wait, one of them for 1s; 20 come in a second, and a busy worker ends 2" == decision.reason
    assert f"10 -> {decision.after} workers: {decision.reason}" == str(decision)


@pytest.mark.parity("T5.44", "T5.48")
def test_never_more_come_than_wait_or_are_there() -> None:
    """One decision at most doubles the workers, and adds no more than there are tickets for."""

    def asked(workers: int, waiting: int, coming: int = 0) -> int:
        scaling = Scaling(Scale(), 1, 50)
        scaling.decide(Load(0.0, workers, workers, 0, 0, 0, 0.0))
        return scaling.decide(Load(1.0, workers, workers, workers, 1000, waiting, 2.0, coming)).after

    assert 8 == asked(4, 1000)
    assert 6 == asked(4, 2)
    assert 5 == asked(4, 2, coming=1)
    assert 4 == asked(4, 2, coming=2)
    assert 50 == asked(30, 1000)


@pytest.mark.parity("T5.47")
def test_what_waits_for_a_moment_asks_for_nobody() -> None:
    """However long the line, nobody comes before the oldest in it has waited for `wait`."""
    scaling = Scaling(Scale(wait="5s"), 1, 50)
    scaling.decide(Load(0.0, 2, 2.0, 0, 0, 0, 0.0))
    assert 2 == scaling.decide(Load(1.0, 2, 2.0, 10, 5000, 4990, 4.9)).after
    assert 4 == scaling.decide(Load(2.0, 2, 2.0, 20, 5000, 4980, 5.0)).after


@pytest.mark.defect("D5.7")
def test_a_long_quiet_time_dulls_nothing() -> None:
    """After a day of quiet the rates are seen, and followed, as soon as after some minutes."""
    seen = []
    for quiet in (600, 86_400):
        fluid = Fluid(Scale(), 1, 40, 1)
        fluid.go_on(0.2, quiet)
        assert [1] == fluid.sizes
        fluid.go_on(12.0, 30)
        assert 16 <= fluid.workers <= 32
        assert 0 == fluid.backlog
        inputs = fluid.look(12.0, 1.0).inputs
        assert inputs.arrival == pytest.approx(60, rel=0.1) == inputs.completion
        seen.append(fluid.sizes)
    assert seen[0] == seen[1]


# --- by hand ----------------------------------------------------------------------------------------


def test_a_pause_stays_one() -> None:
    """Where there should be no worker nothing is decided, whatever waits, until somebody says so."""
    scaling = Scaling(Scale(), 0, 20)
    decisions = [scaling.decide(Load(float(at), 0, 0.0, 0, at, at, float(at))) for at in range(1000)]
    assert [0] * 1000 == [decision.after for decision in decisions]
    assert "it is paused" == decisions[-1].reason
    scaling.decide(Load(1000.0, 1, 1.0, 0, 1000, 999, 9.0))
    assert 2 == scaling.decide(Load(1001.0, 1, 1.0, 0, 1000, 999, 9.0)).after


def test_what_was_said_by_hand_is_where_it_goes_on_from() -> None:
    """What somebody has resized it to lasts for `hold`, whatever the load, and then the load has its say again."""
    fluid = Fluid(Scale(hold="1m", cooldown="1s"), 1, 40, 1)
    fluid.go_on(0.5, 600)
    fluid.workers = 10
    fluid.go_on(0.5, 59)
    assert 10 == fluid.workers
    fluid.go_on(0.5, 30)
    assert 1 == fluid.workers


def test_fewer_than_the_least_by_hand() -> None:
    """Fewer than the least stay so while nothing waits, and are the least at once where somebody waits too long."""
    scaling = Scaling(Scale(), 4, 20)
    for at in range(100):
        assert 1 == scaling.decide(Load(float(at), 1, 0.0, 0, 0, 0, 0.0)).after
    assert 4 == scaling.decide(Load(100.0, 1, 1.0, 0, 9, 8, 1.0)).after


# --- chance ------------------------------------------------------------------------------------------


def test_a_mistake_is_remembered_while_the_load_is_the_same() -> None:
    """Where somebody waited too long soon after workers had gone, they do not go again before the load is less."""
    scaling = Scaling(Scale(hold="10s", cooldown="1s"), 1, 20)
    size, sizes = 4, [4]
    for at in range(200):
        late = size == 3 and at % 10 == 9  # with three of them somebody waits, every now and then
        size = scaling.decide(Load(float(at), size, 2.0, 10 * at, 10 * at, int(late), 2.0 * late)).after
        sizes += [size] if size != sizes[-1] else []
    assert [4, 3, 4] == sizes
    for at in range(200, 300):
        size = scaling.decide(Load(float(at), size, 0.5, 10 * at, 10 * at, 0, 0.0)).after
    assert 1 == size


# --- its parts ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=30))
def test_an_average_lies_within_what_it_has_seen(seen: list[tuple[float, float]]) -> None:
    """It begins at the first value, not at zero, and stays between the least and the most."""
    average = Average()
    assert 0 == average.value
    for value, weight in seen:
        average.add(value, weight)
    weighed = [value for value, weight in seen if weight > 1e-12]
    if weighed:
        assert min(weighed) * 0.999 - 1e-6 <= average.value <= max(weighed) * 1.001 + 1e-6


@settings(deadline=None)
@given(st.floats(0.1, 100), st.lists(st.tuples(st.floats(0, 20), st.floats(0, 10)), min_size=1, max_size=60))
def test_a_peak_is_that_of_its_span(span: float, seen: list[tuple[float, float]]) -> None:
    """It is the most of the span, and what is older than that and a part of it has gone; in bounded memory."""
    peak, at, all_seen = Peak(span), 0.0, []
    for pause, value in seen:
        at += pause
        all_seen.append((at, value))
        peak.add(at, value)
        least = max(v for t, v in all_seen if t >= at - span * 0.999)
        most = max(v for t, v in all_seen if t >= at - span * 1.05)
        assert least <= peak.value <= most
        assert len(peak._parts) <= 34


def test_a_peak_of_no_span_is_the_last_value() -> None:
    """Where nothing is to be kept only the last value counts."""
    peak = Peak(0)
    peak.add(1.0, 5.0)
    peak.add(1.0, 2.0)
    assert 2.0 == peak.value
