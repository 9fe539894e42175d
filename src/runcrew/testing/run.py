"""Runs a coroutine on virtual time, from the making of the loop to its end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from datetime import datetime
from typing import Any, TypeVar, TypeVarTuple, overload

from runcrew import clock as clocks
from runcrew.durations import Duration
from runcrew.testing import stuck
from runcrew.testing.clock import VirtualClock
from runcrew.testing.loop import VirtualLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@overload
def run_virtual(
    main: Callable[[*Ts], Coroutine[Any, Any, T]],
    /,
    *args: *Ts,
    seed: int | None = None,
    start: datetime | float | None = None,
    autojump_after: Duration | None = None,
    patience: Duration | None = 30.0,
) -> T: ...


@overload
def run_virtual(
    main: Coroutine[Any, Any, T],
    /,
    *,
    seed: int | None = None,
    start: datetime | float | None = None,
    autojump_after: Duration | None = None,
    patience: Duration | None = 30.0,
) -> T: ...


def run_virtual(  # type: ignore[misc]  # mypy does not match *args: Any with *args: *Ts
    main: Any,
    /,
    *args: Any,
    seed: int | None = None,
    start: datetime | float | None = None,
    autojump_after: Duration | None = None,
    patience: Duration | None = 30.0,
) -> Any:
    """Run `main(*args)`, or a coroutine that is made already, on a fresh virtual loop; give its value.

    The loop's time is the clock in force, in every task and in every thread that is started from them.
    It closes down as `asyncio.run` does: tasks that are left are cancelled and awaited, async generators and
    the executor's threads end. Keywords for `main` go through `functools.partial`.

    seed: of the order in which ready tasks go (None: as they came), and of the clock's `random` (None: 0).
    start: the wall time at the beginning, an aware datetime or seconds since the epoch. None: 2025-01-01, UTC.
    autojump_after: real seconds of quiet before each jump, for answers from outside. None: none.
    patience: real seconds that something outside the loop may take before Stuck is raised. None: for ever.

    Raises what `main` raises; Stuck, where nobody will ever wake the loop; RuntimeError inside a running loop,
    or where a task is still pending after all; ConfigError for a bad value.
    """
    try:
        return copy_context().run(_run, main, args, seed, start, autojump_after, patience)
    finally:
        if inspect.iscoroutine(main):  # never begun, because of an error before it: nobody has to hear that too
            main.close()


def _run(
    main: Any,
    args: tuple[Any, ...],
    seed: int | None,
    start: datetime | float | None,
    autojump_after: Duration | None,
    patience: Duration | None,
) -> Any:
    """In a context of its own, which every task and callback then copies."""
    _outside_any_loop()
    loop = VirtualLoop(seed=seed, autojump_after=autojump_after, patience=patience)
    try:
        clocks.use(VirtualClock(loop, start, seed))
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            value = runner.run(_coroutine(main, args))
    finally:
        loop.close()
    left = stuck.tasks(loop)
    if left:
        raise RuntimeError(f"the loop has ended, and not all of its tasks were cancelled with it{left}")
    return value


def _outside_any_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("run_virtual makes a loop of its own, and one runs here already: await the coroutine instead")


def _coroutine(main: Any, args: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
    if inspect.iscoroutine(main):
        if args:
            raise TypeError("run_virtual takes arguments for a coroutine function only: this one is called already")
        return main
    coroutine = main(*args)
    if not inspect.iscoroutine(coroutine):
        raise TypeError(f"run_virtual runs an async function: {main!r} gave {type(coroutine).__name__}, no coroutine")
    return coroutine
