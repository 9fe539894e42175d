"""The jobs of the suite, all of them picklable: where a job runs in another process, this module is imported there.

A job is written once, as a generator function, its script: it yields the spans for which it sleeps, and returns or
raises. `Async` and `Plain` make a job of it. A sleep ends when the job is asked to end; one that it begins after that,
to clean up, does not.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from runcrew.clock import SYSTEM, current
from runcrew.job import current_run
from runcrew.testing.backends.cases import ERRORS

#: Seconds between two signs of life.
BEAT: Final = 0.01

colour: Final = contextvars.ContextVar("colour", default="none")


class Wait(NamedTuple):
    """What a script yields to wait until it should end, for so many seconds at most: it gets the answer."""

    span: float | None


#: A job: yields the seconds that it sleeps.
Steps: TypeAlias = Generator["float | Wait", Any, Any]
Script: TypeAlias = Callable[..., Steps]


@dataclass(frozen=True)
class Async:
    """The script as an async job."""

    script: Script

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Carry it out."""
        steps = self.script(*args, **kwargs)
        answer: bool | None = None
        error: BaseException | None = None
        cut = False  # a sleep in its cleaning up is not cut short again
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            answer = error = None
            try:
                if isinstance(step, Wait):
                    answer = await current_run().wait_cancelled(step.span)
                else:
                    await (current().sleep(step) if cut else current_run().sleep(step))
            except BaseException as raised:
                error, cut = raised, True


@dataclass(frozen=True)
class Plain:
    """The script as a plain job."""

    script: Script

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Carry it out."""
        steps = self.script(*args, **kwargs)
        answer: bool | None = None
        error: BaseException | None = None
        cut = False
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            answer = error = None
            try:
                if isinstance(step, Wait):
                    answer = bool(current_run().wait_cancelled(step.span))
                else:
                    _ = current().block(step) if cut else current_run().sleep(step)
            except BaseException as raised:
                error, cut = raised, True


class LooseAsync(Async):
    """The same; it has no hash, as many objects that are called."""

    __hash__ = None  # type: ignore[assignment]


class LoosePlain(Plain):
    """The same; it has no hash, as many objects that are called."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Notes:
    """What a job has done, for a test that may be in another process: lines of a file."""

    path: Path

    def write(self, word: str) -> None:
        """Add a word, whole, whoever else writes."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{word}\n")

    def read(self) -> list[str]:
        """All words so far."""
        return self.path.read_text(encoding="utf-8").split() if self.path.exists() else []


# --- values and errors --------------------------------------------------------------------


def gives(value: object = None) -> Steps:
    """Returns what it is given."""
    yield from ()
    return value


def called_with(*args: object, **kwargs: object) -> Steps:
    """Returns what it was called with."""
    yield from ()
    return args, kwargs


def changes(given: list[str]) -> Steps:
    """Changes its argument, and returns it."""
    yield from ()
    given.append("changed")
    return given


def sleeps(*spans: float) -> Steps:
    """Sleeps so long, one span after another."""
    yield from spans


def raises(error: BaseException | str) -> Steps:
    """Raises this error, or the one of that name in `ERRORS`."""
    yield from ()
    raise ERRORS[error]() if isinstance(error, str) else error


def fails_once_noted(notes: Notes, error: str) -> Steps:
    """Notes that it was begun, and fails."""
    notes.write("began")
    return (yield from raises(error))


def stop_iteration() -> None:
    """Raises StopIteration, and is no generator."""
    raise StopIteration("mine")


async def inner() -> None:
    """Is never awaited."""


def gives_coroutine() -> Any:
    """Returns what is still to be awaited."""
    return inner()


# --- the end --------------------------------------------------------------------------------


def heeds(notes: Notes, span: float) -> Steps:
    """Sleeps, and ends when it is asked to."""
    notes.write("began")
    try:
        yield span
    finally:
        notes.write("cleaned-up")


def cleans_up(notes: Notes, span: float, cleaning: float) -> Steps:
    """Takes some time for its end."""
    notes.write("began")
    try:
        yield span
    except asyncio.CancelledError:
        yield cleaning
        notes.write("cleaned-up")
        raise


def fails_at_the_end(notes: Notes, span: float) -> Steps:
    """Fails when it is asked to end."""
    notes.write("began")
    try:
        yield span
    except asyncio.CancelledError:
        raise OSError("while cleaning up") from None


def gives_at_the_end(notes: Notes, span: float) -> Steps:
    """Returns a value when it is asked to end."""
    notes.write("began")
    try:
        yield span
    except asyncio.CancelledError:
        return "after all"


def says_told(notes: Notes, span: float) -> Steps:
    """Notes whether it was told, before and after."""
    notes.write(f"began-{current_run().cancelled}")
    try:
        yield span
    finally:
        notes.write(f"told-{current_run().cancelled}")


def waits(notes: Notes, shorter: float, longer: float) -> Steps:
    """Waits to be told: first not long enough, then until it is; returns what it heard."""
    notes.write("began")
    first = yield Wait(shorter)
    notes.write("waits")
    return first, (yield Wait(longer))


# --- what it sees -----------------------------------------------------------------------------


def sees_colour() -> Steps:
    """Looks at a context variable, and changes it."""
    seen = colour.get()
    colour.set("red")
    yield from ()
    return seen


def sees_run() -> Steps:
    """Returns its run."""
    yield from ()
    return current_run()


def sees_facts() -> Steps:
    """Returns what its run says of itself."""
    yield from ()
    run = current_run()
    facts: tuple[str, int, datetime | None, bool] = (run.id, run.attempt, run.deadline, run.cancelled)
    return facts


def third_time() -> Steps:
    """Fails twice."""
    yield from ()
    if current_run().attempt < 3:
        raise OSError(current_run().attempt)
    return "third"


def progresses(span: float) -> Steps:
    """Says how far it has come, three times."""
    for done in range(3):
        current_run().progress(done, 3)
        yield span


def logs() -> Steps:
    """Says something to the log."""
    yield from ()
    current_run().log.warning("%d apples", 3)


def becomes_ready(notes: Notes, before: float, after: float) -> Steps:
    """Takes time until it is ready."""
    yield before
    notes.write("ready")
    current_run().ready()
    yield after


def meets(notes: Notes, number: int, span: float) -> Steps:
    """Waits until another one is there too; an odd one fails."""
    colour.set(str(number))
    notes.write(f"here-{number}")
    for _ in range(1000):
        if len(notes.read()) == 2:
            break
        yield span
    else:
        raise TimeoutError("the other one does not come")
    if number % 2:
        raise OSError(number)
    return colour.get()


# --- not listening ------------------------------------------------------------------------------


def deaf(notes: Notes) -> Steps:
    """Listens to nobody, and shows that it is alive."""
    yield from ()
    while True:
        notes.write("alive")
        try:
            SYSTEM.block(BEAT)
        except BaseException:  # what a signal raises does not end it
            notes.write("signal")


def deaf_to_signals(notes: Notes) -> Steps:
    """The same, and it takes no signal."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    yield from deaf(notes)


def computes(notes: Notes) -> Steps:
    """Computes for ever."""
    yield from ()
    while True:
        notes.write("alive")
        sum(range(100_000))


def blocked(notes: Notes) -> Steps:
    """Waits for ever for a lock, while a thread of its own shows that it is alive."""
    yield from ()
    threading.Thread(target=lambda: [*deaf(notes)], daemon=True).start()
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def has_child(notes: Notes) -> Steps:
    """Waits for ever for a program that it started, which shows that it is alive."""
    yield from ()
    program = f"import time\nwhile True:\n open({str(notes.path)!r}, 'a').write('alive\\n')\n time.sleep({BEAT})"
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - it is the line above


#: Those that somebody has to end.
STUCK: Final[dict[str, Script]] = {job.__name__: job for job in (deaf, deaf_to_signals, computes, blocked, has_child)}


def left_to_end(notes: Notes, over: float) -> Steps:
    """Does not listen, and ends some time later by itself."""
    notes.write("began")
    yield from ()
    end = SYSTEM.monotonic() + over
    while SYSTEM.monotonic() < end:
        SYSTEM.block(BEAT)
    notes.write(f"told-{current_run().cancelled}")


def exits(code: int) -> Steps:
    """Ends its process without a word."""
    yield from ()
    os._exit(code)


def falls(number: int) -> Steps:
    """Ends its process by a signal."""
    yield from ()
    os.kill(os.getpid(), number)
    SYSTEM.block(None)


def falls_once() -> Steps:
    """Ends its process at the first attempt."""
    yield from ()
    if current_run().attempt == 1:
        os._exit(1)
    return current_run().attempt
