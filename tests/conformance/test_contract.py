"""The suite for backends sees what is wrong with one, and asks of each only what it says that it can."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runcrew import clock
from runcrew.backends import ThreadBackend
from runcrew.job import Outcome, Run, Status
from runcrew.testing import BackendContract
from runcrew.testing.backends import deaths, harness

THREADS = ThreadBackend()


class InThreads(BackendContract):
    """The suite, for a backend over threads that is made of one function."""

    carry_out: Callable[[Run], Awaitable[Outcome[Any]]] = THREADS.handle

    def make(self) -> Any:
        """A backend with that as its handle."""
        return Made(type(self).carry_out)


class Made:
    """A backend that is made of a function."""

    check = THREADS.check

    def __init__(self, carry_out: Callable[[Run], Awaitable[Outcome[Any]]]) -> None:
        self.handle = carry_out


# --- faults, each with the tests that have to see it --------------------------------------


async def loses_what_is_false(run: Run) -> Outcome[Any]:
    """A value that is false is lost."""
    outcome = await THREADS.handle(run)
    outcome.value = outcome.value or None
    return outcome


async def wraps_errors(run: Run) -> Outcome[Any]:
    """An error is put into another one."""
    outcome = await THREADS.handle(run)
    if outcome.error is not None:
        outcome.error = RuntimeError(f"the job failed with {type(outcome.error)}")
    return outcome


async def raises_errors(run: Run) -> Outcome[Any]:
    """An error comes out of the handler."""
    outcome = await THREADS.handle(run)
    outcome.unwrap()
    return outcome


async def looks_at_errors(run: Run) -> Outcome[Any]:
    """The text of an error is made."""
    outcome = await THREADS.handle(run)
    outcome.reason = str(outcome.error)
    return outcome


async def calls_again(run: Run) -> Outcome[Any]:
    """A job that fails is run once more."""
    outcome = await THREADS.handle(run)
    return await THREADS.handle(run) if outcome.error is not None else outcome


async def loses_arguments(run: Run) -> Outcome[Any]:
    """Arguments by name do not arrive."""
    run.kwargs = {}
    return await THREADS.handle(run)


async def swallows_cancellation(run: Run) -> Outcome[Any]:
    """A cancellation is an outcome."""
    try:
        return await THREADS.handle(run)
    except asyncio.CancelledError as error:
        return run.finished(Status.FAILED, 0.0, error=error)


async def does_not_tell(run: Run) -> Outcome[Any]:
    """The job never hears that it should end."""
    inside = Run(run.job, run.args, run.kwargs)
    outcome = await asyncio.shield(THREADS.handle(inside))
    outcome.attempts = run.attempt
    return outcome


async def waits_for_the_end(run: Run) -> Outcome[Any]:
    """A cancelled run is waited for until it ends by itself."""
    call = asyncio.ensure_future(THREADS.handle(run))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise


async def empty_context(run: Run) -> Outcome[Any]:
    """The job sees nothing of the context."""
    context = contextvars.Context()
    context.run(clock.use, clock.current())  # but of the time
    return await asyncio.get_running_loop().create_task(THREADS.handle(run), context=context)


async def own_run(run: Run) -> Outcome[Any]:
    """The job sees another run than its own."""
    return await THREADS.handle(Run(run.job, run.args, run.kwargs))


async def one_at_a_time(run: Run) -> Outcome[Any]:
    """Two runs wait for each other."""
    async with ONE:
        return await THREADS.handle(run)


async def leaves_a_descriptor(run: Run) -> Outcome[Any]:
    """Each run leaves a descriptor open."""
    LEFT.extend(os.pipe())
    return await THREADS.handle(run)


async def leaves_a_process(run: Run) -> Outcome[Any]:
    """Each run leaves a child process."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # noqa: ASYNC220
    CHILDREN.append(child)
    return await THREADS.handle(run)


async def leaves_a_task(run: Run) -> Outcome[Any]:
    """Each run leaves a task."""
    asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    return await THREADS.handle(run)


async def wrong_times(run: Run) -> Outcome[Any]:
    """The times are on a clock of its own."""
    outcome = await THREADS.handle(run)
    outcome.started, outcome.ended = 1.0, 2.0
    return outcome


async def takes_its_time(run: Run) -> Outcome[Any]:
    """A pause comes before each run."""
    await asyncio.sleep(0.5)
    return await THREADS.handle(run)


async def crashes(run: Run) -> Outcome[Any]:
    """What is no Exception goes through."""
    outcome = await THREADS.handle(run)
    if outcome.error is not None and not isinstance(outcome.error, Exception):
        raise outcome.error
    return outcome


ONE = asyncio.Semaphore()
LEFT: list[int] = []
CHILDREN: list[subprocess.Popen[bytes]] = []

FAULTS = {
    loses_what_is_false: "test_what_a_job_returns_is_the_value",
    wraps_errors: "test_what_a_job_raises_is_its_error",
    raises_errors: "test_what_a_job_raises_is_its_error",
    looks_at_errors: "test_what_a_job_raises_is_its_error",
    calls_again: "test_one_attempt_is_one",
    loses_arguments: "test_a_job_gets_its_arguments",
    swallows_cancellation: "test_a_cancelled_task_ends_its_job",
    does_not_tell: "test_it_knows_that_it_was_told",
    waits_for_the_end: "test_what_does_not_listen_is_left_and_named",
    empty_context: "test_context_variables",
    own_run: "test_it_is_its_own_run",
    one_at_a_time: "test_two_run_at_once",
    leaves_a_descriptor: "test_nothing_is_left",
    leaves_a_process: "test_nothing_is_left",
    leaves_a_task: "test_nothing_is_left",
    wrong_times: "test_its_times_are_on_the_clock_in_force",
    takes_its_time: "test_times_are_those_of_the_job",
    crashes: "test_what_is_no_exception_crashes_the_job_and_nobody_else",
}


def seen(suite: type[BackendContract]) -> dict[str, Any]:
    """The tests of a suite that pytest sees, by name."""
    return {
        name: getattr(suite, name) for name in dir(suite) if name.startswith("test_") and callable(getattr(suite, name))
    }


def run(suite: BackendContract, name: str, path: Path) -> None:
    """Run one of its tests, with all of its cases."""
    test = getattr(suite, name)
    needs = harness.needs_of(test)
    assert needs is not None
    path.mkdir()
    given = {"form": needs.forms(type(suite))[0], "cases": tuple(needs.cases), "tmp_path": path}
    test(**{name: given[name] for name in inspect.signature(test).parameters})


@pytest.mark.realtime
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_seen(fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop_errors: list[str]) -> None:
    """A backend with this fault fails the test that is about it, which a good one passes."""
    monkeypatch.setattr(harness, "PATIENCE", 1.0)
    monkeypatch.setattr(deaths, "GRACE", 0.3)
    run(InThreads(), FAULTS[fault], tmp_path / "well")
    suite = type("Faulty", (InThreads,), {"carry_out": staticmethod(fault)})()
    with pytest.raises(BaseException):
        run(suite, FAULTS[fault], tmp_path / "ill")
    loop_errors.clear()
    for descriptor in LEFT:
        os.close(descriptor)
    for child in CHILDREN:
        child.kill()
        child.wait()
    LEFT.clear()
    CHILDREN.clear()


def test_what_is_not_refused_is_seen(tmp_path: Path) -> None:
    """A backend that takes a job which it cannot run fails."""
    suite = type("Taking", (InThreads,), {"make": lambda _: SimpleNamespace(handle=THREADS.handle)})()
    with pytest.raises(AssertionError, match="define check"):
        run(suite, "test_a_job_that_it_cannot_run_is_refused_in_words", tmp_path / "ill")


@pytest.mark.parametrize("says", [True, False])
def test_saying_one_thing_of_killing_and_being_another_is_seen(says: bool, tmp_path: Path) -> None:
    """The suite and the backend have to say the same."""
    killer = SimpleNamespace(handle=THREADS.handle, check=THREADS.check, kills=not says)
    suite = type("Saying", (InThreads,), {"make": lambda _: killer, "kills": says})()
    with pytest.raises(AssertionError):
        run(suite, "test_it_says_whether_it_kills", tmp_path / "ill")


def test_each_backend_is_asked_for_what_it_can() -> None:
    """A test that does not apply is not there, also for a subclass of a suite; one that applies again is."""
    can_all = {"runs_async": True, "kills": True, "own_process": True, "same_objects": False}
    everything = type("Everything", (BackendContract,), can_all)
    nothing = type("Nothing", (everything,), dict.fromkeys(can_all, False))
    again = type("Again", (nothing,), can_all)
    assert seen(everything).keys() == seen(again).keys()
    kill = {"test_a_stuck_job_ends_with_its_task", "test_a_process_that_dies_can_be_retried"}
    copies = {"test_what_cannot_come_back_fails_its_own_run_in_words"}
    assert kill | copies <= seen(everything).keys()
    assert not (kill & seen(nothing).keys())
    assert "test_it_is_its_own_run" in seen(type("Same", (nothing,), {"same_objects": True}))
    inline = type("Inline", (nothing,), {"inline": True})
    assert "test_times_are_those_of_the_job" not in seen(inline)
    assert "test_what_a_job_returns_is_the_value" in seen(inline)


def test_a_test_may_be_put_in_another_s_place() -> None:
    """A subclass can have its own, and take one away by None, as with all tests that are inherited."""
    own = {"test_context_variables": lambda _: None, "test_nothing_is_left": None}
    suite = type("Own", (InThreads,), own)
    assert own["test_context_variables"] is seen(suite)["test_context_variables"]
    assert "test_nothing_is_left" not in seen(type("Below", (suite,), {}))


def test_a_backend_that_runs_nothing_is_refused() -> None:
    """Where its suite is made."""
    with pytest.raises(TypeError, match="neither async nor plain"):
        type("Nothing", (BackendContract,), {"runs_plain": False})
    with pytest.raises(NotImplementedError, match="make"):
        BackendContract().make()


def test_every_test_says_what_should_be_true() -> None:
    """Each has a docstring of one paragraph."""
    for test in seen(BackendContract).values():
        assert test.__doc__
        assert "\n\n" not in inspect.cleandoc(test.__doc__)


def test_the_suite_can_be_imported_without_pytest() -> None:
    """As everything that a child process has to load for its jobs."""
    program = "import sys; sys.modules['pytest'] = None; from runcrew.testing import BackendContract"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.realtime
def test_pytest_runs_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass in a module of tests is all that it takes; in real time all cases are one test."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("""
        from runcrew.backends import LoopBackend
        from runcrew.testing import BackendContract

        class TestLoop(BackendContract):
            runs_async = inline = True

            def make(self):
                return LoopBackend()

        class TestInRealTime(TestLoop):
            virtual = False
            unit = 0.01
    """)
    done = pytester.runpytest("-W", "error", "-v")
    assert ["passed"] == list(done.parseoutcomes())
    for line in ("TestLoop::*_raises_is_its_error[[]async-OSError]", "TestInRealTime::*_is_its_error[[]plain-all]"):
        done.stdout.fnmatch_lines([f"*{line} PASSED*"])
    for word in ("stuck", "refused"):
        done.stdout.no_fnmatch_line(f"*{word}*")
