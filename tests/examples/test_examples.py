"""Every example runs by itself, ends well and says something."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import httpx
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
Load = Callable[[str], ModuleType]


def output(tmp_path: Path, *command: str) -> str:
    """What a program says on standard output; it has to end with 0 and without a warning."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.realtime
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_it_runs_by_itself(tmp_path: Path, name: str) -> None:
    """`python examples/NAME.py` ends by itself, with 0, and has said something."""
    assert output(tmp_path, str(EXAMPLES / name))


def test_every_example_is_in_the_list() -> None:
    """examples/README.md names each example, and no other."""
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert [] == [name for name in [*names, "watch/"] if f"({name})" not in listed]


@pytest.mark.realtime
def test_the_tests_of_the_example_pass(tmp_path: Path) -> None:
    """The example about tests passes under pytest, with nothing but the plugin that comes along."""
    said = output(
        tmp_path,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        str(EXAMPLES / "test_virtual_time.py"),
    )
    assert "2 passed" in said


@pytest.mark.realtime
def test_the_supervisor_is_short_and_tells(tmp_path: Path) -> None:
    """The bare supervisor restarts its feed, ends well, and its example is a short one."""
    said = output(tmp_path, str(EXAMPLES / "supervisor.py"))
    assert "feed: tick 4" in said
    assert "root stopped in" in said
    lines = [line for line in (EXAMPLES / "supervisor.py").read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) < 40


@pytest.mark.realtime
def test_a_pool_is_scaled_by_hand_and_by_load(tmp_path: Path) -> None:
    """The pools have as many workers as was asked for, grow and shrink with the load, and end well."""
    said = output(tmp_path, str(EXAMPLES / "pools.py"))
    assert ["5", "3", "0", "8"] == re.findall(r"  workers: (\d)", said)
    assert "98 were consumed, 2 failed" in said
    assert re.search(r"  1 -> \d workers: workers are at work for \d+% of their time", said)
    assert re.search(r"  2 -> 1 workers: no more than \S+ were at work within 300ms", said)
    assert said.endswith("  stopped: 20 runs\n")


@pytest.mark.realtime
def test_processes_get_over_what_happens_to_them(tmp_path: Path) -> None:
    """One that is killed, and one that hangs, fail their own run; one that listens ends; the queue goes on."""
    said = output(tmp_path, str(EXAMPLES / "processes.py")).splitlines()
    assert "run: [71, 839, 1471, 6857]" == said[0]
    assert ["map"] * 5 == [line.split(":")[0] for line in said[1:6]]
    assert re.fullmatch(r"it died: the process numbers-\d \(PID\) was killed by SIGKILL: .*", said[6])
    assert "it was killed: endless: attempt 1 took longer than its timeout of 100ms" == said[7]
    assert "it was told: had time to tidy up" == said[8]
    assert "and it goes on: [101, 9901]" == said[9]
    assert "8 runs succeeded, 1 failed" == said[10]


@pytest.mark.realtime
def test_a_crew_lives_as_long_as_the_application(example: Load) -> None:
    """In a lifespan the crew is ready before the first request, serves beside it, and ends with the application."""
    module = example("starlette_app.py")
    assert "new" == module.crew.state

    async def visit() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=module.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            async with module.app.router.lifespan_context(module.app):
                answers = [await client.get("/health"), await client.get("/")]
            return [*answers, await client.get("/health")]

    up, rates, down = asyncio.run(visit())
    assert (200, {"crew": "running"}) == (up.status_code, up.json())
    assert 1.0 == rates.json()["EUR"]
    assert (503, {"crew": "stopped"}) == (down.status_code, down.json())


@pytest.mark.realtime
def test_the_application_hears_what_ended_its_crew(example: Load) -> None:
    """A permanent error of the crew makes /health fail at once, and comes out of the lifespan at its end."""
    module = example("starlette_app.py")

    async def broken() -> None:
        raise ValueError("for good")

    module.crew.oneshot(broken)

    async def visit() -> int:
        transport = httpx.ASGITransport(app=module.app)
        client = httpx.AsyncClient(transport=transport, base_url="http://app")
        async with client, module.app.router.lifespan_context(module.app):
            while module.crew.state.alive:
                await asyncio.sleep(0.01)
            return (await client.get("/health")).status_code

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(visit())
    assert ["for good"] == [str(error) for error in caught.value.exceptions]
