"""What the tests of backends share: pools that end with their test, and calls that wait until they may go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from runcrew.backends import Threads


class Gate:
    """A call that says when it has begun, and goes on when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self.begun.set()
        assert self.open.wait(10)
        return value

    async def wait_begun(self) -> None:
        """Let the loop run until the call has begun."""
        await let_run(self.begun.is_set)


async def let_run(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.0005)


@pytest.fixture
def new() -> Iterator[Callable[..., Threads]]:
    """Makes pools; afterwards their idle threads end."""
    made: list[Threads] = []

    def make(*args: Any, **options: Any) -> Threads:
        made.append(Threads(*args, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.shed()


@pytest.fixture
def new_gate() -> Iterator[Callable[[], Gate]]:
    """Makes gates; afterwards all of them are open."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate())
        return made[-1]

    yield make
    for gate in made:
        gate.open.set()


@pytest.fixture
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """One gate."""
    return new_gate()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Coroutine[Any, Any, None]]:
    """`await until(condition)` lets the loop run until the condition holds."""
    return let_run
