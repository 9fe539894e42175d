"""The executor of a queue whose workers are processes."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import executor_jobs as jobs
import pytest

import runcrew as rc
from runcrew.queue.executor import QueueExecutor

pytestmark = pytest.mark.realtime


@contextmanager
def executor(**options: Any) -> Iterator[QueueExecutor]:
    """The executor of a queue with processes."""
    queue: rc.Queue[Any] = rc.Queue("db", backend=options.pop("backend", "process"), **options)
    with queue.in_thread():
        yield queue.executor()


def test_functions_are_done_in_processes() -> None:
    """Values come back, keywords and methods travel, errors are raised with where they came from as their cause."""
    with executor(workers=2) as ex:
        assert 8 == ex.submit(jobs.double, 4).result(20)
        assert 12 == ex.submit(jobs.twice, 4, times=3).result(20)
        assert "7" == ex.submit(str, 7).result(20)
        assert ["a", "b"] == ex.submit("a b".split).result(20)
        error = ex.submit(jobs.fail, LookupError("no")).exception(20)
        assert isinstance(error, LookupError)
        assert ("no",) == error.args
        assert isinstance(ex.submit(jobs.fail, SystemExit(3)).exception(20), SystemExit)


def test_chunks_are_one_job_each() -> None:
    """`map` with chunks gives all values in order, with fewer runs."""
    queue: rc.Queue[Any] = rc.Queue("db", backend="process", workers=2)
    with queue.in_thread():
        ex = queue.executor()
        assert [2 * n for n in range(100)] == list(ex.map(jobs.double, range(100), chunksize=30))
    assert 4 == queue.stats().runs.succeeded


def test_what_cannot_travel_fails_alone() -> None:
    """What cannot be pickled fails its own future in words, and so does an async function."""
    with executor() as ex:
        assert isinstance(ex.submit(str, jobs.Heavy()).exception(20), rc.NotPicklable)
        assert isinstance(ex.submit(lambda: 1).exception(20), rc.NotAJob)
        assert isinstance(ex.submit(jobs.job).exception(20), TypeError)
        assert 2 == ex.submit(jobs.double, 1).result(20)


def test_what_waits_can_be_cancelled(tmp_path: Path) -> None:
    """A future counts as running from when it is handed over; before that it can be cancelled, and never runs."""
    gate, trace = tmp_path / "gate", tmp_path / "trace"
    with executor() as ex:
        first = ex.submit(jobs.wait_for, str(gate))
        while not first.running():
            time.sleep(0.001)
        waiting = [ex.submit(jobs.touch, str(trace)) for _ in range(200)]
        time.sleep(0.02)
        assert not first.cancel()
        assert waiting[-1].cancel()
        assert waiting[-1].cancelled()
        for future in waiting:
            future.cancel()
        ran = [future for future in waiting if not future.cancelled()]
        gate.touch()
        assert first.result(20)
        concurrent.futures.wait(waiting, 20)
        assert bool(ran) == trace.exists()


def test_a_process_that_dies_fails_its_own_future() -> None:
    """The future says how its process died, and the executor goes on."""
    with executor(backend=rc.Processes(max_deaths=1)) as ex:
        error = ex.submit(jobs.die).exception(20)
        assert isinstance(error, rc.ProcessDied)
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        assert 2 == ex.submit(jobs.double, 1).result(20)


def test_a_timeout_kills_the_process() -> None:
    """A run that takes too long ends as RunTimeout, and another process does what follows."""
    with executor(timeout=0.1) as ex:
        assert isinstance(ex.submit(time.sleep, 60).exception(20), rc.RunTimeout)
        assert 2 == ex.submit(jobs.double, 1).result(20)


def test_an_initializer_is_called_once_in_each_process() -> None:
    """Every process is prepared before its first job, also one that comes later."""
    queue: rc.Queue[Any] = rc.Queue("db", backend=rc.Processes(max_runs=5), workers=2)
    with queue.in_thread():
        ex = queue.executor(initializer=jobs.initialize, initargs=("ready",))
        seen = [future.result(20) for future in [ex.submit(jobs.state) for _ in range(20)]]
    assert {"ready"} == {state for state, _ in seen}
    assert 2 < len({pid for _, pid in seen})


def test_an_initializer_that_fails_breaks_the_executor(caplog: pytest.LogCaptureFixture) -> None:
    """Where it fails in a process, futures that have not begun and later submits raise BrokenProcessPool."""
    queue: rc.Queue[Any] = rc.Queue("db", backend="process")
    with queue.in_thread() as live, caplog.at_level(logging.CRITICAL):
        ex = queue.executor(initializer=jobs.fail, initargs=(LookupError("no"),))
        future = ex.submit(jobs.double, 1)
        assert isinstance(future.exception(20), BrokenProcessPool)
        with pytest.raises(BrokenProcessPool, match="process"):
            ex.submit(jobs.double, 1)
        assert 2 == live.call(queue.run, jobs.double, 1)


def test_all_is_done_before_a_stop() -> None:
    """What was submitted before the stop is done in the drain."""
    with executor(workers=2) as ex:
        futures = [ex.submit(jobs.double, number) for number in range(500)]
    assert [2 * number for number in range(500)] == [future.result(0) for future in futures]
