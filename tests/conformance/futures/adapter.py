"""The standard's executors, as they are called in its tests, over queues: one is made with each and ends with it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import runcrew as rc

_numbers = itertools.count()


class Adapter(Executor):
    """An executor with a queue of its own, which lives in a thread from the making of it to its shutdown."""

    def __init__(self, most: int, name: str, options: dict[str, Any], prepare: dict[str, Any]) -> None:
        if most <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._max_workers = most
        self._name = name
        queue: rc.Queue[Any] = rc.Queue(name, workers=most, maxsize=None, **options)
        home: Any = queue.in_thread()
        home.__enter__()
        self._home: Any = home
        self._manager = home._portal._thread
        try:
            self._executor = queue.executor(**prepare)
        except BaseException:
            home.__exit__(None, None, None)
            raise

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor."""
        return self._executor.submit(fn, *args, **kwargs)

    def map(
        self, fn: Callable[..., Any], *iterables: Any, timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """See Executor."""
        return self._executor.map(fn, *iterables, timeout=timeout, chunksize=chunksize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor: ends the queue too, in a thread of its own where nobody is to wait."""
        if cancel_futures:
            self._let_begin()
        self._executor.shutdown(wait=False, cancel_futures=cancel_futures)
        home, self._home = self._home, None
        if home is None:
            return
        if wait:
            home.__exit__(None, None, None)
            return
        try:
            threading.Thread(target=home.__exit__, args=(None, None, None)).start()
        except RuntimeError:  # the interpreter ends, and stops what nobody has left
            pass

    def _let_begin(self) -> None:
        """What is submitted begins a moment after the submit, and not within it."""
        until = time.monotonic() + 2
        while (book := list(self._executor._book)) and time.monotonic() < until:
            if any(future.running() for future in book):
                return
            time.sleep(0.001)

    def __del__(self) -> None:
        if getattr(self, "_home", None) is not None:
            self.shutdown(wait=False)

    @property
    def _broken(self) -> str:
        return self._executor._broken

    @property
    def _threads(self) -> list[threading.Thread]:
        """The threads of its workers. Those that are needed come a moment after the submit, and not within it."""
        needed = min(self._max_workers, len(self._executor._book))
        until = time.monotonic() + 2
        while True:
            begin = f"runcrew-{self._name}-"
            found = [t for t in threading.enumerate() if t.name.startswith(begin) and not t.name.endswith("-loop")]
            if len(found) >= needed or time.monotonic() > until:
                return found
            time.sleep(0.001)

    @property
    def _executor_manager_thread(self) -> threading.Thread:
        """What ends last of it."""
        return self._manager

    @property
    def _call_queue(self) -> Any:
        """There is none, so nothing of one is left."""
        return types.SimpleNamespace(join_thread=lambda: None)

    @property
    def _processes(self) -> dict[int, Any]:
        """The processes of its workers, by their ids."""
        desk = self._executor._desk
        workers = [worker.process for worker in list(desk.group.roster) if worker.process is not None]
        return {process.pid: Child(process.pid) for process in workers if process.pid is not None}


class Child:
    """A process, as tests ask for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def terminate(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGTERM)

    def join(self) -> None:
        """Wait until it is gone."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.005)
        raise TimeoutError(f"process {self.pid} is still there")


class ThreadPoolExecutor(Adapter):
    """As of the standard."""

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        count: Any = getattr(os, "process_cpu_count", os.cpu_count)
        most = min(32, (count() or 1) + 4) if max_workers is None else max_workers
        name = thread_name_prefix or f"ThreadPoolExecutor-{next(_numbers)}"
        super().__init__(most, name, {}, {"initializer": initializer, "initargs": initargs})


class ProcessPoolExecutor(Adapter):
    """As of the standard, but that there is one way to begin a process: a fork server of the library's own."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if mp_context is not None and mp_context.get_start_method() != "forkserver":
            raise ValueError("processes come from a fork server")
        count: Any = getattr(os, "process_cpu_count", os.cpu_count)
        backend = rc.Processes(max_runs=max_tasks_per_child)
        most = (count() or 1) if max_workers is None else max_workers
        name = f"ProcessPoolExecutor-{next(_numbers)}"
        super().__init__(most, name, {"backend": backend}, {"initializer": initializer, "initargs": initargs})
