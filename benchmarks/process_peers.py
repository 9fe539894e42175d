"""What `processes.py` measures ours against: the least that does the work by hand, and what others offer.

A contestant is made with a number of workers. Those without an event loop answer `submit(fn, number)` with something
that has `result()`, and `close()`; those that live on one answer `await call(fn, number)`.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing as mp
import os
import pickle
import selectors
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

Function = Callable[[int], Any]

LENGTH = struct.Struct("!I")


# --- the least by hand -------------------------------------------------------------------------


class Line:
    """One end of a socket pair over which pickles go, the length before each."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.rest = bytearray()

    def send(self, what: object) -> None:
        data = pickle.dumps(what, 5)
        self.end.sendall(LENGTH.pack(len(data)) + data)

    def receive(self) -> list[Any]:
        """All that is there, at least one; empty at the end."""
        rest, found = self.rest, list[Any]()
        while not found:
            data = self.end.recv(1 << 18)
            if not data:
                return []
            rest += data
            at = 0
            while len(rest) >= at + 4:
                ends = at + 4 + LENGTH.unpack_from(rest, at)[0]
                if len(rest) < ends:
                    break
                found.append(pickle.loads(memoryview(rest)[at + 4 : ends]))
                at = ends
            del rest[:at]
        return found


class Forked:
    """A worker: a fork of this process that calls what comes, and answers all that came at once by one message."""

    def __init__(self) -> None:
        mine, its = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            mine.close()
            self.serve(Line(its))
        its.close()
        self.line = Line(mine)
        self.flying = 0

    def serve(self, line: Line) -> None:
        try:
            while calls := line.receive():
                line.send([(number, fn(number)) for fn, numbers in calls for number in numbers])
        finally:
            os._exit(0)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.line.end.close()


class Floor:
    """Forked workers, each with `ahead` messages of `chunk` calls that it has not answered."""

    def __init__(self, workers: int, ahead: int = 32, chunk: int = 1) -> None:
        self.workers = [Forked() for _ in range(workers)]
        self.most, self.chunk = ahead * chunk, chunk

    def run(self, fn: Function, count: int) -> None:
        left = deque(range(count))
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                selector.register(worker.line.end, selectors.EVENT_READ, worker)
                self.feed(worker, fn, left)
            done = 0
            while done < count:
                for key, _ in selector.select():
                    worker = key.data
                    answers = sum(map(len, worker.line.receive()))
                    done += answers
                    worker.flying -= answers
                    self.feed(worker, fn, left)

    def feed(self, worker: Forked, fn: Function, left: deque[int]) -> None:
        while left and worker.flying < self.most:
            numbers = [left.popleft() for _ in range(min(self.chunk, len(left)))]
            worker.flying += len(numbers)
            worker.line.send((fn, numbers))

    def one(self, fn: Function, number: int) -> Any:
        line = self.workers[0].line
        line.send((fn, [number]))
        return line.receive()[0][0][1]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


# --- executors and pools -------------------------------------------------------------------------


class Standard:
    """concurrent.futures."""

    #: None: what Python does by itself.
    method: str | None = None

    def __init__(self, workers: int) -> None:
        context = mp.get_context(self.method)
        if self.method == "forkserver":
            context.set_forkserver_preload(["jobs"])
        self.executor = ProcessPoolExecutor(workers, mp_context=context)
        self.submit = self.executor.submit

    def map(self, fn: Function, numbers: Iterable[int], chunk: int) -> list[Any]:
        return list(self.executor.map(fn, numbers, chunksize=chunk))

    def pids(self) -> list[int]:
        return list(self.executor._processes)

    def close(self) -> None:
        self.executor.shutdown()


class ByForkServer(Standard):
    """With a fork server."""

    method = "forkserver"


class BySpawn(Standard):
    """Each process a fresh interpreter."""

    method = "spawn"


class Result:
    """A result of `multiprocessing`, as others call it."""

    def __init__(self, given: Any) -> None:
        self.result = given.get


class MultiprocessingPool:
    """multiprocessing.Pool."""

    def __init__(self, workers: int) -> None:
        self.pool = mp.get_context("fork").Pool(workers)

    def submit(self, fn: Function, number: int) -> Result:
        return Result(self.pool.apply_async(fn, (number,)))

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Loky:
    """loky."""

    def __init__(self, workers: int) -> None:
        self.executor = importlib.import_module("loky").ProcessPoolExecutor(workers)
        self.submit = self.executor.submit

    def pids(self) -> list[int]:
        return list(self.executor._processes)

    def close(self) -> None:
        self.executor.shutdown(kill_workers=True)


class Pebble:
    """pebble."""

    def __init__(self, workers: int) -> None:
        self.pool = importlib.import_module("pebble").ProcessPool(max_workers=workers)

    def submit(self, fn: Function, number: int, timeout: float | None = None) -> Any:
        return self.pool.schedule(fn, args=(number,), timeout=timeout)

    def close(self) -> None:
        self.pool.stop()
        self.pool.join()


class Joblib:
    """joblib, which makes the batches by itself; it has no `submit`."""

    def __init__(self, workers: int) -> None:
        joblib = importlib.import_module("joblib")
        self.delayed = joblib.delayed
        self.parallel = joblib.Parallel(n_jobs=workers)
        self.parallel.__enter__()

    def run(self, fn: Function, count: int) -> None:
        delayed = self.delayed
        self.parallel(delayed(fn)(number) for number in range(count))

    def close(self) -> None:
        self.parallel.__exit__(None, None, None)
        importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(kill_workers=True)


# --- on an event loop ------------------------------------------------------------------------------


class InExecutor:
    """loop.run_in_executor."""

    def __init__(self, workers: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.executor = ProcessPoolExecutor(workers)

    async def call(self, fn: Function, number: int) -> Any:
        return await self.loop.run_in_executor(self.executor, fn, number)

    async def close(self) -> None:
        self.executor.shutdown()


class Anyio:
    """anyio.to_process, which keeps its processes for as long as its loop runs."""

    def __init__(self, workers: int) -> None:
        anyio = importlib.import_module("anyio")
        self.run = importlib.import_module("anyio.to_process").run_sync
        self.limiter = anyio.CapacityLimiter(workers)

    async def call(self, fn: Function, number: int) -> Any:
        return await self.run(fn, number, limiter=self.limiter, cancellable=True)

    async def close(self) -> None:
        """They end with the loop."""


class Aiomisc:
    """aiomisc.WorkerPool."""

    def __init__(self, workers: int) -> None:
        self.pool = importlib.import_module("aiomisc").WorkerPool(workers)
        self.started = False

    async def call(self, fn: Function, number: int) -> Any:
        if not self.started:
            self.started = True
            await self.pool.start()
        return await self.pool.create_task(fn, number)

    async def close(self) -> None:
        await self.pool.close()
