"""Runs modules of the standard library's own tests of executors against the adapter, in a process of its own.

    python suite.py thread test_wait test_shutdown      prints one JSON object: what became of each test

thread, process: only the tests of those executors; all: whatever there is. What is frozen is run last: before it
nothing may have been left behind.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import threading
import tomllib
import types
import unittest
import warnings
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

from runcrew.errors import NotPicklable, RemoteTraceback

HERE = Path(__file__).resolve().parent
PACKAGE = "test.test_concurrent_futures"

#: How long all of it may take, in seconds.
LIMIT = 120

#: Before the code of a program that a test runs: it finds the adapter, and its executors there.
PREFIX = f"import sys; sys.path[:0] = {[str(HERE), *(p for p in sys.path if p.endswith('src'))]!r}\n"


def adapt() -> None:
    """Have the mixins of the standard's tests make our executors."""
    import adapter

    util = importlib.import_module(f"{PACKAGE}.util")
    util.ThreadPoolMixin.executor_type = adapter.ThreadPoolExecutor
    for mixin in (util.ProcessPoolForkMixin, util.ProcessPoolForkserverMixin, util.ProcessPoolSpawnMixin):
        mixin.executor_type = adapter.ProcessPoolExecutor


def adapt_module(module: Any) -> None:
    """The same where a test makes an executor itself, or has a program do so."""
    import adapter

    ours = types.SimpleNamespace(**{name: getattr(futures, name) for name in dir(futures)})
    for name in ("ThreadPoolExecutor", "ProcessPoolExecutor"):
        setattr(ours, name, getattr(adapter, name))
    inner = importlib.import_module("concurrent.futures.process")
    if module.__name__.endswith("test_process_pool"):
        RemoteTraceback.tb = property(lambda cause: cause.text)  # type: ignore[attr-defined]
        inner = types.SimpleNamespace(_RemoteTraceback=RemoteTraceback)  # type: ignore[assignment]
    ours.process = inner
    module.futures = ours
    if hasattr(module, "BrokenProcessPool"):
        # One process that dies, or cannot read what it gets, fails its own run, and not the pool.
        module.BrokenProcessPool = (futures.BrokenExecutor, NotPicklable)
        module.PicklingError = NotPicklable
    if hasattr(module, "assert_python_ok"):
        run = module.assert_python_ok

        def run_adapted(option: str, code: str) -> Any:
            lines = code.replace("from concurrent.futures import", "from adapter import")
            head, _, rest = lines.partition("\n")
            return run(option, f"{head}\n{indented(rest, PREFIX)}")

        module.assert_python_ok = run_adapted


def indented(code: str, prefix: str) -> str:
    """The code with a line put before it, at its own depth."""
    depth = len(code) - len(code.lstrip(" "))
    return " " * depth + prefix + code


class Ours:
    """What a future needs of an executor, for one that has none."""

    lock = threading.RLock()

    def cancelled(self, future: Any) -> None:
        """Nobody is to be told."""

    def check_wait(self, what: str) -> None:
        """It may be waited for anywhere."""


def adapt_futures(module: Any) -> None:
    """Have the tests of futures make ours."""
    from runcrew.queue.executor_future import ExecutorFuture

    class Future(ExecutorFuture[Any]):
        def __init__(self) -> None:
            super().__init__(Ours(), str)  # type: ignore[arg-type]

    type.__setattr__(Future, "__name__", "Future")

    def create(state: str = "PENDING", exception: Any = None, result: Any = None) -> Future:
        future = Future()
        future._state, future._exception, future._result = state, exception, result
        return future

    states = importlib.import_module("concurrent.futures._base")
    module.Future, module.create_future = Future, create
    module.PENDING_FUTURE, module.RUNNING_FUTURE = create(states.PENDING), create(states.RUNNING)
    module.CANCELLED_FUTURE = create(states.CANCELLED)
    module.CANCELLED_AND_NOTIFIED_FUTURE = create(states.CANCELLED_AND_NOTIFIED)
    module.EXCEPTION_FUTURE = create(states.FINISHED, exception=OSError())
    module.SUCCESSFUL_FUTURE = create(states.FINISHED, result=42)


class Result(unittest.TestResult):
    """Notes what became of each test."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, str] = {}

    def startTest(self, test: Any) -> None:  # noqa: N802
        """Until it has failed it passes."""
        super().startTest(test)
        self.said.setdefault(name_of(test), "passed")

    def _note(self, test: Any, what: str) -> None:
        self.said[name_of(test)] = what

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        """It failed."""
        super().addError(test, err)
        self._note(test, "failed\n" + self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        """It failed."""
        super().addFailure(test, err)
        self._note(test, "failed\n" + self.failures[-1][1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        """A part of it failed."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "failed\n" + str(err[1]))

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        """It says that it makes no sense here."""
        super().addSkip(test, reason)
        self._note(test, "skipped\n" + reason)


def name_of(test: Any) -> str:
    """module.Class.test"""
    return ".".join(test.id().split(".")[-3:])


def tests_of(suite: unittest.TestSuite) -> Iterator[Any]:
    """The single tests in it."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


def is_wanted(test: Any, only: str) -> bool:
    """Of all the tests, those of threads or those of processes."""
    return only == "all" or (only == "thread") == type(test).__name__.startswith("ThreadPool")


def is_frozen(name: str) -> bool:
    """Whether it is said that this cannot apply."""
    frozen = tomllib.loads((HERE / "frozen.toml").read_text(encoding="utf-8"))
    return name in frozen["tests"] or name in frozen["unsteady"] or name.rpartition(".")[0] in frozen["classes"]


def load(only: str, names: list[str]) -> tuple[unittest.TestSuite, unittest.TestSuite]:
    """The tests of these modules; and those that are frozen."""
    live, frozen = unittest.TestSuite(), unittest.TestSuite()
    for name in names:
        module = importlib.import_module(f"{PACKAGE}.{name}")
        if name == "test_future":
            adapt_futures(module)
        else:
            adapt_module(module)
        for test in tests_of(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if is_wanted(test, only):
                (frozen if is_frozen(name_of(test)) else live).addTest(test)
    return live, frozen


def run(suite: unittest.TestSuite, result: Result) -> None:
    """Run these, with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The standard's own tests fork where there are threads.
        warnings.filterwarnings("ignore", message=".*multi-threaded", category=DeprecationWarning)
        suite.run(result)


def main(only: str, names: list[str]) -> None:
    """Run these modules."""
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    sys.path.insert(0, str(HERE))
    support: Any = importlib.import_module("test.support")
    support.verbose = 0
    adapt()
    live, frozen = load(only, names)
    result = Result()
    run(live, result)
    left = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    altered = bool(support.environment_altered)
    run(frozen, result)
    print(json.dumps({"said": result.said, "altered": altered, "left": left}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
