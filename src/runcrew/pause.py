"""Pause and Idle: what a job gets that asks to wait, or says that it waits, alike in async jobs and in threads."""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from runcrew import clock as clocks

if TYPE_CHECKING:
    from runcrew.job import Run


class Pause:
    """A wait that a job asked for. In an async job: await it. In a thread it is over when you get it.

    As a bool, after a wait in a thread: whether the run should end.
    """

    __slots__ = ("_answer", "_forgotten", "_raises", "_run", "_span")

    def __init__(self, run: Run, span: float | None, *, raises: bool) -> None:
        self._run, self._span, self._raises = run, span, raises
        self._answer: bool | None = None
        self._forgotten = False

    @classmethod
    def of(cls, run: Run, span: float | None, *, raises: bool) -> Pause:
        """A pause that is over already in a thread, and is to be awaited on an event loop."""
        pause = cls(run, span, raises=raises)
        if not _on_a_loop():
            pause._answer = clocks.current().block(span, run.told_event())
            pause._end()
        elif not run.job.is_async:
            raise RuntimeError(
                f"the plain job {run.job.name} runs on the event loop and would block it: "
                'run it in a thread (backend=None or "thread"), or make it async'
            )
        else:
            pause._forgotten = True  # until it is awaited
        return pause

    def __del__(self) -> None:
        if self._forgotten:
            said = f"a pause of {self._run.job.name} on the event loop was never awaited: write `await run.…`"
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def __bool__(self) -> bool:
        if self._answer is None:
            self._forgotten = False  # this says so
            raise RuntimeError("in an async job, await it: `if await run.wait_cancelled(…)`")
        return self._answer

    def __await__(self) -> Generator[Any, None, bool]:
        self._forgotten = False
        if self._answer is None:
            self._answer = yield from self._wait().__await__()
        self._end()
        return self._answer

    def _end(self) -> None:
        if self._raises and self._answer:
            raise asyncio.CancelledError(self._run.why_text or "this run should end")

    async def _wait(self) -> bool:
        run = self._run
        if run.told:
            # Whoever told it may have cancelled its task as well: that comes here, and not in what it does next.
            await asyncio.sleep(0)
            return True
        loop = asyncio.get_running_loop()
        over = loop.create_future()

        def end(answer: bool) -> None:
            if not over.done():
                over.set_result(answer)

        timer = None if self._span is None else loop.call_later(self._span, end, False)
        told = functools.partial(end, True)
        run._on_told += (told,)
        try:
            return bool(await over)
        finally:
            if timer is not None:
                timer.cancel()
            run._on_told = tuple(callback for callback in run._on_told if callback is not told)


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Idle:
    """A block in which a job waits for something to do: see `Run.idle`."""

    __slots__ = ("_hears",)

    def __init__(self, hears: Callable[[bool], None] | None) -> None:
        self._hears = hears

    def __enter__(self) -> None:
        if self._hears is not None:
            self._hears(True)

    def __exit__(self, *_: object) -> None:
        if self._hears is not None:
            self._hears(False)
