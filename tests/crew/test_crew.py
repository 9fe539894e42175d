"""Crew: declaring work with decorators, settings of the whole, and a crew inside somebody else's loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.abc import Handler
from runcrew.errors import ConfigError, NotAJob
from runcrew.events import LoopBlocked
from runcrew.job import Outcome, Run
from runcrew.lifecycle import State


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


async def quick() -> None:
    """Is over at once."""


# --- declaring ------------------------------------------------------------------------------


def test_decorators_give_the_function_back() -> None:
    """A declared function is still the function; the handle is in the crew."""
    crew = rc.Crew("shop")
    assert quick is crew.oneshot(quick)
    assert quick is crew.oneshot(name="again")(quick)
    assert quick is crew.interval("10s", name="often")(quick)
    assert quick is crew.on_stopping(quick)
    assert quick is crew.on_stopped(quick)
    assert ["quick", "again", "often"] == list(crew)
    assert isinstance(crew["quick"], rc.OneShot)
    assert isinstance(crew["often"], rc.Interval)
    assert "shop" == crew.name


@pytest.mark.virtual
async def test_a_crew_runs_what_was_declared() -> None:
    """One-shots, intervals, services of any kind, in the order of their dependencies."""
    said: list[tuple[str, float]] = []
    crew = rc.Crew("shop")

    @crew.oneshot(ready="succeeded", retry=rc.Retry(ConnectionRefusedError, backoff=rc.Constant("1s")))
    async def migrate() -> None:
        said.append(("migrate", now()))
        if now() < 2:
            raise ConnectionRefusedError

    @crew.interval("10s", timeout="5s", depends_on=["migrate"])
    async def poll() -> None:
        said.append(("poll", now()))

    @crew.oneshot
    def plain() -> None:
        rc.current_run().wait_cancelled()

    crew.add(rc.Supervisor(rc.OneShot(long), name="more"), depends_on=["poll"])
    async with crew:
        assert 2.0 == now()
        await asyncio.sleep(15)
    assert [("migrate", 0.0), ("migrate", 1.0), ("migrate", 2.0), ("poll", 2.0), ("poll", 12.0)] == said
    assert State.STOPPED is crew.state


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda crew: crew.interval(quick), 'write @crew.interval\\("10s"\\)'),
        (lambda crew: crew.interval(0)(quick), "every: 0 is zero"),
        (lambda crew: crew.interval("10s", jitter="10s")(quick), "jitter: '10s' is not less"),
        (lambda crew: crew.oneshot(ready="soon")(quick), "ready: 'soon' is not one of"),
        (lambda crew: [crew.oneshot(quick), crew.oneshot(quick)], "a child named 'quick' already"),
        (lambda crew: crew.oneshot(quick, depends_on=["quick"]), "in a circle: quick -> quick"),
        (lambda crew: crew.oneshot(timeout=-1)(quick), "timeout: -1 is negative"),
    ],
)
def test_bad_declarations_are_refused(declare: Callable[[rc.Crew], Any], said: str) -> None:
    """A mistake is told where it is made, with the value and the remedy."""
    with pytest.raises(ConfigError, match=said):
        declare(rc.Crew())


@pytest.mark.parametrize("thing", [42, int, "quick", None])
def test_only_jobs_can_be_declared(thing: Any) -> None:
    """What cannot be run is refused by every decorator."""
    crew = rc.Crew()
    for declare in (crew.oneshot(), crew.interval("1s")):
        with pytest.raises(NotAJob):
            declare(thing)
    for hook in (crew.on_stopping, crew.on_stopped):
        with pytest.raises(ConfigError):
            hook(thing)
    assert 0 == len(crew)


@pytest.mark.virtual
async def test_hooks_by_decorator_and_by_keyword() -> None:
    """Both ways of giving a hook mean the same, and the last added is called first."""
    said: list[str] = []
    crew = rc.Crew("shop", on_stopped=lambda: said.append("keyword"))

    @crew.on_stopping
    async def stopping() -> None:
        said.append("stopping")

    @crew.on_stopped
    def stopped() -> None:
        said.append("stopped")

    crew.add(rc.OneShot(long))
    await crew.start()
    await asyncio.sleep(1)
    await crew.stop()
    assert ["stopping", "stopped", "keyword"] == said


# --- settings of the whole --------------------------------------------------------------------


def wrap(name: str) -> Callable[[Handler], Handler]:
    """A middleware that is known by its name."""

    def middleware(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            return await inner(run)

        return handle

    middleware.__qualname__ = name
    return middleware


def test_the_crews_settings_hold_for_jobs_that_do_not_say_it() -> None:
    """Options of a job beat those of the crew; None means none; middleware of both is used, the crew outside."""
    crew = rc.Crew(timeout="30s", deadline="5m", backend="loop", middleware=[wrap("outer")])

    @crew.oneshot
    async def as_the_crew() -> None: ...

    @crew.oneshot(timeout="1s", deadline=None, middleware=[wrap("inner")])
    async def as_it_says() -> None: ...

    @crew.interval("10s", timeout=None, deadline=None, backend=None)
    def in_thread() -> None: ...

    chains: dict[str, Any] = {name: crew[name].describe() for name in crew}  # type: ignore[attr-defined]
    assert ("middleware outer", "deadline 5m", "timeout 30s", "loop") == chains["as_the_crew"]
    assert ("middleware outer", "middleware inner", "timeout 1s", "loop") == chains["as_it_says"]
    assert ("middleware outer", "thread") == chains["in_thread"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["stop", "restart", "restart", "isolate"]),
        ({"on_failure": "isolate"}, ["isolate", "isolate", "isolate", "isolate"]),
        ({"on_failure": "restart"}, ["restart", "restart", "restart", "isolate"]),
    ],
)
def test_what_follows_on_a_failure(options: dict[str, Any], expected: list[str]) -> None:
    """An interval of a crew is restarted, everything else stops the crew; the crew may say otherwise, and the child."""
    crew = rc.Crew(**options)
    crew.oneshot(name="a")(quick)
    crew.interval("10s", name="b")(quick)
    crew.add(rc.Interval(quick, "10s"), name="c")
    crew.interval("10s", name="d", on_failure="isolate")(quick)
    assert expected == [crew._children[name].on_failure for name in "abcd"]


@pytest.mark.virtual
async def test_an_interval_is_restarted_five_times_and_then_the_crew_ends() -> None:
    """By default five failures a minute are borne."""
    begun: list[float] = []
    crew = rc.Crew()

    @crew.interval("1h")
    async def poll() -> None:
        begun.append(now())
        raise OSError(str(len(begun)))

    crew.oneshot(long)
    with pytest.raises(ExceptionGroup) as caught:
        await crew.run()
    assert (["6"], 6) == ([str(error) for error in caught.value.exceptions], len(begun))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": -1}, "timeout: -1 is negative"),
        ({"name": 5}, "name: 5 is not a string"),
        ({"deadline": "soon"}, "deadline: 'soon' does not parse"),
        ({"loop_block": 0}, "loop_block: 0 is zero"),
        ({"loop_block": -1}, "loop_block: -1 is negative"),
        ({"on_failure": "ignore"}, "on_failure: 'ignore' is not one of"),
        ({"hooks_timeout": "x"}, "hooks_timeout: 'x' does not parse"),
        ({"backend": "cluster"}, "backend: 'cluster' is unknown"),
        ({"middleware": wrap("x")}, "middleware: .* is no list"),
        ({"middleware": [42]}, "middleware: 42 cannot be called"),
    ],
)
@pytest.mark.defect("D3.11")
def test_bad_settings_are_refused_when_the_crew_is_made(options: dict[str, Any], said: str) -> None:
    """A bad setting is refused before any job could be declared with it."""
    with pytest.raises(ConfigError, match=said):
        rc.Crew(**options)


# --- the loop's guard -------------------------------------------------------------------------


@pytest.mark.realtime
def test_a_call_that_blocks_the_loop_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A job that keeps the loop busy for too long is told by name with its stack, in the log and as an event."""
    heard: list[LoopBlocked] = []
    crew = rc.Crew("shop", loop_block="20ms")
    crew.subscribe(heard.append, LoopBlocked)

    @crew.oneshot
    async def blocks() -> None:
        time.sleep(0.2)  # noqa: ASYNC251
        await asyncio.sleep(0.02)

    asyncio.run(crew.run())
    (event,) = heard
    assert ("shop", "blocks") == (event.service, event.job)
    assert event.seconds >= 0.02
    assert "time.sleep(0.2)" in event.stack
    assert "blocks has blocked the event loop" in caplog.text


@pytest.mark.realtime
def test_the_guard_ends_with_the_crew() -> None:
    """No thread is left that watches a loop whose crew has ended, in whatever way."""

    def guards() -> int:
        return sum("guard" in thread.name for thread in threading.enumerate())

    async def fails() -> None:
        raise OSError

    before = guards()
    for job in (quick, fails):
        crew = rc.Crew("shop")
        crew.oneshot(job)
        try:
            asyncio.run(crew.run())
        except ExceptionGroup:
            pass
        assert before == guards()
    crew = rc.Crew("shop")
    crew.oneshot(depends_on=["nobody"])(quick)
    with pytest.raises(ConfigError):
        asyncio.run(crew.run())
    assert before == guards()


@pytest.mark.realtime
def test_no_guard_where_none_is_wanted() -> None:
    """With loop_block=None nobody watches."""

    async def look() -> None:
        crew = rc.Crew("shop", loop_block=None, keep_open=True)
        async with crew:
            assert not any("guard" in thread.name for thread in threading.enumerate())

    asyncio.run(look())


# --- what costs what ----------------------------------------------------------------------------


@pytest.mark.defect("D3.21")
def test_the_core_has_one_dependency_and_no_telemetry() -> None:
    """What the package says it needs is all that its core imports."""
    import ast
    import sys
    from importlib.metadata import requires
    from pathlib import Path

    needed = [line.split(">")[0] for line in requires("runcrew") or [] if "extra ==" not in line]
    assert ["click"] == needed
    source = Path(rc.__file__).parent
    imported: dict[str, None] = {}
    for path in source.rglob("*.py"):
        if "testing" in path.parts or "watch" in path.parts:
            continue  # the pytest plugin is loaded by pytest; the demo's program is an example, and runs as a script
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(dict.fromkeys(alias.name.split(".")[0] for alias in node.names))
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported[(node.module or "").split(".")[0]] = None
    foreign = [name for name in imported if name not in sys.stdlib_module_names and name != "runcrew"]
    assert ["click"] == foreign
