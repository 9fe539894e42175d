"""Making a pool: what it takes, what it refuses, and what it says of itself."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from pool_made import Busy, Things, now, rounds, use, use_plainly

import runcrew as rc
from runcrew.backends import LoopBackend


async def job() -> None:
    """A job that is never run."""


def plain() -> None:
    """The same, plain."""


def generator() -> Any:
    """No job."""
    yield


class Made:
    """A class, which is no job."""


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parity("T4.13", "T4.15", "E4.1", "E4.2", "T4.37")
@pytest.mark.defect("D4.4")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min": -1}, ["min", "-1", "at least 0"]),
        ({"min": True}, ["min", "True"]),
        ({"min": 1.5}, ["min", "1.5"]),
        ({"max": 0}, ["max", "0", "at least 1"]),
        ({"max": -1}, ["max", "-1"]),
        ({"max": "3"}, ["max", "'3'"]),
        ({"min": 5, "max": 3}, ["max", "3", "min=5", "None"]),
        ({"min": 5, "initial": 3}, ["initial", "3", "min=5"]),
        ({"initial": 4, "max": 3}, ["initial", "4", "max=3"]),
        ({"initial": -1}, ["initial", "-1"]),
        ({"initial": None, "min": 2, "max": 1}, ["max", "1", "min=2"]),
    ],
    ids=str,
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any], named: list[str]) -> None:
    """min, max and initial are checked against one another when the pool is made, and the error has the numbers."""
    with pytest.raises(rc.ConfigError) as caught:
        rc.Pool(job, **options)
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"stop_on_error": 1}, ["stop_on_error", "1", "True"]),
        ({"threadsafe": True}, ["threadsafe", "resource="]),
        ({"threadsafe": "yes", "resource": Things()}, ["threadsafe", "'yes'"]),
        ({"healthy": bool}, ["healthy", "resource="]),
        ({"healthy": 3, "resource": Things()}, ["healthy", "3"]),
        ({"check": bool}, ["check", "resource="]),
        ({"destroy": bool}, ["destroy", "resource="]),
        ({"backoff": 3}, ["3"]),
        ({"backoff": "1s"}, ["'1s'"]),
        ({"resource_backoff": None}, ["None"]),
        ({"scale": True, "max": 3}, ["scale", "True", "rc.Scale"]),
        ({"scale": rc.Scale()}, ["scale", "max="]),
        ({"scale": rc.Scale(), "max": 1}, ["scale", "max=1"]),
        ({"scale": rc.Scale(), "min": 3, "max": 3, "initial": 3}, ["scale", "min=3", "max=3"]),
        ({"max_abandoned": -1}, ["max_abandoned", "-1"]),
        ({"max_abandoned": 1.0}, ["max_abandoned", "1.0"]),
        ({"backend": "moon"}, ["backend", "'moon'"]),
        ({"backend": 7}, ["backend", "7"]),
        ({"timeout": -1}, ["timeout", "-1"]),
        ({"timeout": float("nan")}, ["timeout", "nan"]),
        ({"deadline": "soon"}, ["deadline", "soon"]),
        ({"concurrency": 3}, ["concurrency", "3"]),
        ({"retry": ["OSError"]}, ["OSError"]),
        ({"middleware": [3]}, ["middleware", "3"]),
        ({"middleware": rc.Counter}, ["middleware"]),
        ({"on_stopping": 3}, ["on_stopping", "3"]),
        ({"on_stopped": [3]}, ["3 is not callable"]),
        ({"hooks_timeout": -1}, ["hooks_timeout", "-1"]),
        ({"name": 3}, ["name", "3"]),
        ({"resource": 3}, ["resource", "3"]),
        ({"job_factory": lambda: job}, ["job_factory", "job"]),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], named: list[str]) -> None:
    """Each bad value is refused when the pool is made, and the error names it and says what to do."""
    with pytest.raises(rc.ConfigError) as caught:
        rc.Pool(job, **options)
    for part in named:
        assert part in str(caught.value)


@pytest.mark.defect("D4.19")
@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "job_factory="),
        (3, "3 is not callable"),
        (Made, "class Made"),
        (generator, "generator"),
        (functools.partial(Made), "class Made"),
    ],
    ids=str,
)
def test_what_is_no_job_is_refused(given: Any, named: str) -> None:
    """What can never be run is refused when the pool is made, not in a worker later on."""
    with pytest.raises(rc.ConfigError) as caught:
        rc.Pool(given)
    assert named in str(caught.value)


def test_a_coroutine_object_is_no_job() -> None:
    """The call of an async function is refused, with a word about giving the function itself."""
    called: Any = job()
    with pytest.raises(rc.NotAJob, match="give the function"):
        rc.Pool(called)


@pytest.mark.parametrize(
    ("given", "options", "named"),
    [
        (job, {"backend": "thread"}, "leave `backend` out"),
        (use_plainly, {"resource": Things()}, "threadsafe=True"),
        (use, {"resource": dict, "destroy": None}, "threadsafe=True"),
        (plain, {"backend": "loop", "timeout": "1s"}, "timeout"),
        (None, {"job_factory": 3}, "job_factory: 3 cannot be called"),
        (None, {"job_factory": lambda: job, "resource": Things()}, "job_factory"),
        (None, {"resource": Things()}, "there is none"),
    ],
    ids=str,
)
def test_combinations_that_cannot_work_are_refused(given: Any, options: dict[str, Any], named: str) -> None:
    """A job of a kind that cannot run where it would have to, or two ways to say one thing, are refused at once."""
    with pytest.raises(rc.ConfigError) as caught:
        rc.Pool(given, **options)
    assert named in str(caught.value)


def test_what_is_not_known_is_refused() -> None:
    """An option that is spelt wrongly is no option that is passed over."""
    options: Any = {"inital": 3}
    with pytest.raises(TypeError, match="inital"):
        rc.Pool(job, **options)


# --- what is taken ------------------------------------------------------------------------------


@pytest.mark.parity("T4.11", "T4.14", "T4.16", "E4.1")
def test_what_holds_where_nothing_is_said() -> None:
    """No minimum, no limit, one worker at first, errors end nothing; a valid choice of all is taken as it is."""
    plainly = rc.Pool(job)
    assert (0, None, 1) == (plainly.stats().min, plainly.stats().max, plainly.size)
    assert plainly.setup.stop_on_error is False
    chosen = rc.Pool(job, min=5, max=10, initial=7, stop_on_error=True)
    assert (5, 10, 7) == (chosen.stats().min, chosen.stats().max, chosen.size)
    assert chosen.setup.stop_on_error is True


@pytest.mark.parity("T4.12")
@pytest.mark.parametrize(
    ("least", "initial", "size"), [(0, None, 1), (1, None, 1), (3, None, 3), (0, 0, 0), (3, 5, 5), (0, 2, 2)]
)
def test_how_many_there_are_at_first(least: int, initial: int | None, size: int) -> None:
    """None means the minimum, and at least one; whatever number is said is meant, zero too."""
    assert size == rc.Pool(job, min=least, initial=initial).size


@pytest.mark.parity("E4.3")
@pytest.mark.virtual
async def test_as_many_workers_begin_as_was_said() -> None:
    """Right after the start there are as many as `initial` says, or one, and as many runs are under way."""
    choices: list[tuple[Any, int]] = [({"initial": 7}, 7), ({}, 1)]
    for options, count in choices:
        busy = Busy()
        async with rc.Pool(busy, **options) as pool:
            assert (count, count) == (pool.size, pool.stats().alive)
            await rounds()
            assert (count, [0.0] * count) == (busy.begun, [at - now() for at in busy.at])


def test_a_pool_is_named_after_its_job() -> None:
    """Unless it is given a name; one of jobs from a factory is just a pool."""
    assert ("job", "plain") == (rc.Pool(job).name, rc.Pool(functools.partial(plain)).name)
    assert ("consumers", "pool") == (rc.Pool(job, name="consumers").name, rc.Pool(job_factory=lambda: job).name)


def test_what_a_pool_says_of_each_run() -> None:
    """`describe` names what is around a run in words, outermost first, and where it runs at the end."""

    def logged(handler: Any) -> Any:
        return handler

    words = rc.Pool(job, middleware=[rc.Counter(), logged], retry=rc.Retry(OSError), timeout="2s").describe()
    assert 5 == len(words)
    assert "Counter" in words[0]
    assert "logged" in words[1]
    assert "2s" in words[3]
    assert "loop" in rc.Pool(plain, backend="loop").describe()[-1]
    assert "threads" in rc.Pool(plain).describe()[-1]
    assert "loop" in rc.Pool(job, backend=LoopBackend()).describe()[-1].lower()


def test_nothing_is_begun_by_making_it() -> None:
    """A pool can be made where no event loop is, belongs to none, and is in its first state."""
    made = rc.Pool(job, initial=3)
    assert (rc.State.NEW, 0, 0) == (made.state, made.generation, made.stats().alive)
    assert "new" in repr(made)


def gives_nothing() -> None:
    """A function that knows of no errors and no runs."""


@pytest.mark.parity("T4.10", "E4.19")
@pytest.mark.parametrize("given", [gives_nothing, dict[str, int]().clear, [1].copy, functools.partial(max, 1, 2)])
@pytest.mark.virtual
async def test_any_function_is_a_job(given: Any) -> None:
    """What returns nothing or something, knows nothing of runs, and cannot fail is called, and has succeeded."""
    counter = rc.Counter()
    async with rc.Pool(given, backend="loop", middleware=[counter]):
        await asyncio.sleep(0.01)
    assert 0 < counter.started
    assert (counter.started, 0) == (counter.succeeded, counter.failed)


@pytest.mark.defect("D4.20")
def test_what_the_descriptions_of_a_pool_name_exists() -> None:
    """Each `rc.name` and each option that the page and the docstrings of Pool mention is there."""
    page = (Path(__file__).parents[2] / "docs" / "pool.md").read_text(encoding="utf-8")
    members = [rc.Pool, rc.Pool.__init__, *(vars(rc.Pool)[name] for name in ("more", "less", "resize"))]
    texts = [page, *(inspect.getdoc(member) or "" for member in members)]
    named = {name for text in texts for name in re.findall(r"\brc\.([A-Za-z_]+)", text)}
    assert {"Pool", "Counter", "per_worker"} <= named
    assert [] == sorted(name for name in named if not hasattr(rc, name))
    lines = re.findall(r"^([a-z_]+(?:, [a-z_]+)*): ", inspect.getdoc(rc.Pool.__init__) or "", re.MULTILINE)
    described = {name for line in lines for name in line.split(", ")}
    options = {*inspect.signature(rc.Pool.__init__).parameters} - {"self"}
    assert {"job", "min", "scale", "middleware"} <= described
    assert [] == sorted(described - options), "described, and not there"
