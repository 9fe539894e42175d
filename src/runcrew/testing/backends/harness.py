"""What the tests of the suite stand on: what a backend says that it can do, and how a test is run."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Final, Literal, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

from runcrew.abc import Backend
from runcrew.clock import SYSTEM
from runcrew.job import Job, Outcome, Run, Status
from runcrew.testing.backends.jobs import Async, Notes, Plain, Script
from runcrew.testing.run import run_virtual

#: Real seconds that anything may take before a test says that it does not come.
PATIENCE: Final = 30.0
#: Real seconds that what is left of a test has for its end.
LAST: Final = 2.0
#: Units of time that never pass.
LONG: Final = 1000.0

Form: TypeAlias = Literal["async", "plain"]

S = TypeVar("S", bound="Harness")
P = ParamSpec("P")


class Metafunc(Protocol):
    """What pytest gives to `pytest_generate_tests`, as far as it matters here."""

    @property
    def fixturenames(self) -> list[str]:
        """What the test takes."""
        ...

    @property
    def function(self) -> Callable[..., object]:
        """The test."""
        ...

    def parametrize(self, names: str, values: list[Any], ids: list[str]) -> None:
        """Run the test for each of the values."""
        ...


@dataclass(frozen=True)
class Needs:
    """What a test needs of a backend."""

    #: Whether the job sleeps, or is asked to end while it runs.
    sleeps: bool = False
    #: The only form of job that is meant; None: each that the backend runs.
    form: Form | None = None
    #: Whether it is about the forms that the backend does not run.
    refused: bool = False
    #: The cases for each of which it runs.
    cases: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: What the suite's attributes of these names have to be.
    flags: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def forms(self, suite: type[Harness]) -> list[Form]:
        """The forms of job with which it is run."""
        can: dict[Form, bool] = {"async": suite.runs_async, "plain": suite.runs_plain}
        if self.refused:
            return [form for form, runs in can.items() if not runs]
        if self.sleeps and suite.inline:
            can["plain"] = False
        return [form for form, runs in can.items() if runs and self.form in (None, form)]

    def met(self, suite: type[Harness]) -> bool:
        """Whether it is a test for this backend."""
        return bool(self.forms(suite)) and all(getattr(suite, name) is flag for name, flag in self.flags.items())


def part(
    *,
    sleeps: bool = False,
    form: Form | None = None,
    refused: bool = False,
    cases: Mapping[str, Any] | None = None,
    **flags: bool,
) -> Callable[[Callable[Concatenate[S, P], Coroutine[Any, Any, None] | None]], Callable[Concatenate[S, P], None]]:
    """Make a test of the suite: an async one runs on an event loop of its own. The keywords are those of `Needs`."""
    needs = Needs(sleeps, form, refused, cases or {}, flags)

    def made(
        test: Callable[Concatenate[S, P], Coroutine[Any, Any, None] | None],
    ) -> Callable[Concatenate[S, P], None]:
        @functools.wraps(test)
        def run(suite: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
            if inspect.iscoroutinefunction(test):
                suite.play(functools.partial(test, suite, *args, **kwargs))
            else:
                test(suite, *args, **kwargs)

        run.needs = needs  # type: ignore[attr-defined]
        return run

    return made


def needs_of(test: object) -> Needs | None:
    """What a test of the suite needs; None for any other thing."""
    needs = getattr(test, "needs", None)
    return needs if isinstance(needs, Needs) else None


class NotAsked:
    """Stands in the place of a test that a backend need not pass, so that pytest does not see one."""

    def __init__(self, test: Callable[..., None]) -> None:
        self.test = test


class Ended(NamedTuple):
    """What came of a run that was asked to end: None where it ended as a task that is cancelled."""

    outcome: Outcome[Any] | None
    run: Run
    #: Units of time.
    took: float


def _run_in_real_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """As `asyncio.run`, which waits for ever where a backend does not let go of a run that has been cancelled."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=LAST))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Harness:
    """What a backend is, and what may be asked of it. `BackendContract` tells of each attribute."""

    runs_async: bool = False
    runs_plain: bool = True
    inline: bool = False
    virtual: bool = True
    same_objects: bool = True
    context: bool = True
    reports: bool = True
    kills: bool = False
    own_process: bool = False
    unit: float = 0.05

    _made: list[Backend] | None = None

    def make(self) -> Backend:
        """The backend, a new one each time."""
        raise NotImplementedError(f"{type(self).__name__}: define make(self), which gives the backend to be tested")

    async def close(self, backend: Backend) -> None:
        """Give back what a backend holds: called on the loop on which it was used, after each test."""

    # --- running ------------------------------------------------------------------------

    def play(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run an async test on an event loop of its own."""
        main = functools.partial(self._closing, test)
        if self.virtual:
            run_virtual(main, patience=PATIENCE)
        else:
            _run_in_real_time(main)

    async def _closing(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._made = []
        limit = asyncio.timeout(None if self.virtual else PATIENCE)
        try:
            async with limit:
                await test()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise AssertionError(f"the test was not over within {PATIENCE:g} s: something never ends") from error
        finally:
            for backend in self._made:
                await self.close(backend)

    def backend(self) -> Backend:
        """A new one, closed when the test is over."""
        made = self.make()
        if self._made is not None:
            self._made.append(made)
        return made

    def job(self, form: Form, script: Script, name: str = "job") -> Job:
        """The script as a job of that form."""
        return Job(Async(script) if form == "async" else Plain(script), name)

    async def carried_out(self, form: Form, script: Script, *args: Any) -> Outcome[Any]:
        """The outcome of a script, in a task of its own."""
        run = Run(self.job(form, script), args)
        return await asyncio.ensure_future(self.backend().handle(run))

    # --- time ---------------------------------------------------------------------------

    def span(self, units: float) -> float:
        """So many units of time, in seconds."""
        return units if self.virtual else units * self.unit

    def now(self) -> float:
        """The loop's time, in units."""
        return asyncio.get_running_loop().time() / self.span(1)

    def lasted(self, expected: float, took: float) -> bool:
        """Whether something took that many units: exactly so on virtual time, at least so long otherwise."""
        if self.virtual:
            return abs(took - expected) < 1e-6
        return expected - 0.01 / self.unit <= took < LONG / 2

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Return when it holds: soon, in real time. No virtual time passes. Raises AssertionError if it never does."""
        ends = SYSTEM.monotonic() + PATIENCE
        while not condition():
            if SYSTEM.monotonic() > ends:
                raise AssertionError(f"not within {PATIENCE:g} s: {what}")
            await asyncio.to_thread(SYSTEM.block, 0.002)

    # --- ending a run -------------------------------------------------------------------

    async def asked_to_end(self, form: Form, script: Script, notes: Notes, *args: Any, after: float) -> Ended:
        """Carry a script out, and ask it to end as a service does: the reason, the word, then the cancellation."""
        run = Run(self.job(form, script), (notes, *args))
        began = self.now()
        task = asyncio.ensure_future(self.backend().handle(run))
        await self.until(lambda: notes.read() or task.done(), "the job begins")
        await asyncio.sleep(self.span(after))
        run.ask_to_end(Status.INTERRUPTED, "that is all")
        run.tell()
        if not run.in_thread:
            task.cancel()
        await asyncio.wait([task])
        return Ended(None if task.cancelled() else task.result(), run, self.now() - began)

    async def nothing_goes_on(self, notes: Notes) -> None:
        """Raises AssertionError if a job still writes."""
        before = notes.read()
        await asyncio.to_thread(SYSTEM.block, 0.15)
        after = notes.read()
        assert before == after, f"the run has ended, and its job still writes: {after[len(before) :][:3]}"

    # --- pytest ---------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: Metafunc) -> None:
        """Called by pytest: each test once for each form of job, and for each of its cases.

        In real time one test goes through all cases: each costs what it takes to start.
        """
        needs = needs_of(metafunc.function)
        if needs is None:
            return
        if "form" in metafunc.fixturenames:
            forms = needs.forms(type(self))
            metafunc.parametrize("form", forms, ids=list(forms))
        if "cases" in metafunc.fixturenames:
            names = list(needs.cases)
            if self.virtual:
                metafunc.parametrize("cases", [(name,) for name in names], ids=names)
            else:
                metafunc.parametrize("cases", [tuple(names)], ids=["all"])
