"""What an executor sends in place of a function, to be called in a thread or in another process.

It needs little, since each process loads it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from concurrent.futures._base import LOGGER
from typing import Any, Final, TypeVar

from runcrew.errors import NoRetry
from runcrew.job import name_of

T = TypeVar("T")


class InitializerFailed(NoRetry, BrokenExecutor):
    """The initializer of an executor failed in some worker: the executor is broken."""


class _Here(threading.local):
    """What has been initialized in this thread, and whether that went well."""

    def __init__(self) -> None:
        self.done: dict[str, bool] = {}


_here: Final = _Here()


class Plainly:
    """Calls whatever can be called, a class say, as a plain function. Picklable where its parts are."""

    __slots__ = ("fn",)

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    @property
    def __name__(self) -> str:
        """What its job is called."""
        return name_of(self.fn)

    def __call__(self, *args: Any) -> Any:
        """In a worker."""
        return self.fn(*args)


class Prepared(Plainly):
    """The same, after an initializer, which is called once in each worker."""

    __slots__ = ("initargs", "initializer", "token")

    def __init__(self, token: str, initializer: Callable[..., object], initargs: tuple[Any, ...], fn: Any) -> None:
        super().__init__(fn)
        self.token = token
        self.initializer = initializer
        self.initargs = initargs

    def __call__(self, *args: Any) -> Any:
        """In a worker."""
        done = _here.done
        if self.token not in done:
            try:
                self.initializer(*self.initargs)
                done[self.token] = True
            except BaseException:
                LOGGER.critical("Exception in initializer:", exc_info=True)  # where the standard says it
                done[self.token] = False
        if not done[self.token]:
            raise InitializerFailed(f"the initializer of its executor failed in process {os.getpid()}")
        return self.fn(*args)


def do_chunk(fn: Callable[..., T], chunk: tuple[Any, ...]) -> list[T]:
    """In a worker: many calls in one."""
    return [fn(*args) for args in chunk]
