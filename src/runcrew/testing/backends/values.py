"""What comes of a job: values and errors."""

# ruff: noqa: SIM300 - the expected value stands on the left, as in all tests

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from runcrew.errors import ConfigError, JobCrashed
from runcrew.job import Job, Outcome, Run, Status
from runcrew.supervise import OneShot
from runcrew.testing.backends import cases as made
from runcrew.testing.backends import jobs
from runcrew.testing.backends.cases import ERRORS, VALUES, alike
from runcrew.testing.backends.harness import Form, Harness, part
from runcrew.testing.backends.jobs import Notes

_ORDINARY: Final = {name: make for name, make in ERRORS.items() if isinstance(make(), Exception)}
_OTHERS: Final = {name: make for name, make in ERRORS.items() if name not in _ORDINARY}

#: What cannot be pickled or unpickled on its way back.
_NO_WAY_BACK: Final[dict[str, Callable[[], Any]]] = {
    job.__name__: job for job in (made.no_pickle, made.no_copy, made.no_pickle_error, made.no_copy_error)
}


def raised_by(outcome: Outcome[Any]) -> BaseException | None:
    """What `unwrap` raises."""
    try:
        outcome.unwrap()
    except BaseException as error:
        return error
    return None


def last_frame(trace: TracebackType | None) -> str:
    """The function in which a traceback ends."""
    name = ""
    while trace is not None:
        name, trace = trace.tb_frame.f_code.co_name, trace.tb_next
    return name


class Values(Harness):
    """What a job returns and raises."""

    def _same(self, expected: object, got: object) -> bool:
        """Whether it is the very object, or a copy of it where only copies come."""
        return expected is got if self.same_objects else alike(expected, got)

    # --- what it returns ----------------------------------------------------------------

    @part(cases=VALUES)
    async def test_what_a_job_returns_is_the_value(self, form: Form, cases: tuple[str, ...]) -> None:
        """It comes back as the job gave it, also where it is false or an error, and the outcome says nothing else."""
        for case in cases:
            value = VALUES[case]()
            outcome = await self.carried_out(form, jobs.gives, value)
            assert Status.SUCCEEDED is outcome.status, case
            assert self._same(value, outcome.value), case
            assert outcome.error is None
            assert (1, ()) == (outcome.attempts, outcome.history)
            assert outcome.started is not None
            assert outcome.started <= outcome.ended
            assert outcome.value is outcome.unwrap()

    @part()
    async def test_a_job_gets_its_arguments(self, form: Form) -> None:
        """By place and by name, as the run has them."""
        run = Run(self.job(form, jobs.called_with), (1, "two"), {"three": [3], "self_": None})
        outcome = await asyncio.ensure_future(self.backend().handle(run))
        assert ((1, "two"), {"three": [3], "self_": None}) == outcome.value

    @part()
    async def test_a_job_may_be_anything_that_is_called(self, form: Form) -> None:
        """A partial, a bound method, an object that has no hash, and the same one again."""
        backend = self.backend()
        job: Any = self.job(form, jobs.gives).fn
        loose: Any = jobs.LoosePlain(jobs.gives) if form == "plain" else jobs.LooseAsync(jobs.gives)
        for ready in (partial(job, 1), partial(job, value=1), partial(job.__call__, 1), partial(loose, 1)):
            assert 1 == (await backend.handle(Run(Job(ready)))).value
        called: tuple[Any, ...] = job, job.__call__, loose, loose
        for fn in called:
            assert 2 == (await backend.handle(Run(Job(fn), (2,)))).value

    @part()
    async def test_what_a_job_changes(self, form: Form) -> None:
        """Where objects are copied, what a job does to its argument is done to its own copy alone."""
        given = ["given"]
        outcome = await self.carried_out(form, jobs.changes, given)
        assert ["given", "changed"] == outcome.value
        assert (["given", "changed"] if self.same_objects else ["given"]) == given

    @part(sleeps=True)
    async def test_times_are_those_of_the_job(self, form: Form) -> None:
        """A job that sleeps two units of time takes two."""
        began = self.now()
        outcome = await self.carried_out(form, jobs.sleeps, self.span(1.5), self.span(0.5))
        assert self.lasted(2.0, self.now() - began)
        assert outcome.started is not None
        assert self.lasted(2.0, (outcome.ended - outcome.started) / self.span(1))

    @part(form="plain")
    async def test_a_plain_function_that_returns_an_awaitable_is_told_so(self, form: Form) -> None:
        """Its TypeError names it, and nothing is left that was never awaited."""
        outcome = await self.backend().handle(Run(Job(jobs.gives_coroutine, "mine")))
        assert Status.FAILED is outcome.status
        assert isinstance(outcome.error, TypeError)
        assert "mine" in str(outcome.error)

    @part()
    async def test_one_after_another(self, form: Form) -> None:
        """A backend serves many runs, and what failed is no matter of the next one."""
        backend = self.backend()
        for number in range(20 if self.virtual else 4):
            script = jobs.raises if number % 2 else jobs.gives
            outcome = await backend.handle(Run(self.job(form, script), (OSError(number) if number % 2 else number,)))
            if number % 2:
                assert (number,) == getattr(outcome.error, "args", None)
            else:
                assert number == outcome.value

    @part()
    def test_it_serves_one_event_loop_after_another(self, form: Form) -> None:
        """A backend that was made before there was a loop serves each, as services with more than one life need."""
        backend = self.make()

        async def life(number: int) -> None:
            try:
                outcome = await asyncio.ensure_future(backend.handle(Run(self.job(form, jobs.gives), (number,))))
                assert number == outcome.value
            finally:
                await self.close(backend)

        for number in range(3):
            self.play(partial(life, number))

    # --- what it raises -----------------------------------------------------------------

    @part(cases=_ORDINARY)
    async def test_what_a_job_raises_is_its_error(self, form: Form, cases: tuple[str, ...]) -> None:
        """It comes as the job raised it, whatever it is and whatever it does when it is looked at."""
        for case in cases:
            error = ERRORS[case]()
            outcome = await self.carried_out(form, jobs.raises, error if self.same_objects else case)
            assert Status.FAILED is outcome.status, case
            assert self._same(error, outcome.error), case
            assert outcome.error is raised_by(outcome), case

    @part(cases=_OTHERS)
    async def test_what_is_no_exception_crashes_the_job_and_nobody_else(
        self, form: Form, cases: tuple[str, ...]
    ) -> None:
        """What carries it out lives on, and who asks for the value gets JobCrashed from it."""
        for case in cases:
            error = ERRORS[case]()
            outcome = await self.carried_out(form, jobs.raises, error if self.same_objects else case)
            assert Status.FAILED is outcome.status, case
            assert self._same(error, outcome.error), case
            crash = raised_by(outcome)
            assert isinstance(crash, JobCrashed), case
            assert outcome.error is crash.__cause__, case
            assert Status.SUCCEEDED is (await self.carried_out(form, jobs.gives)).status, case

    @part()
    async def test_one_attempt_is_one(self, form: Form, tmp_path: Path) -> None:
        """A job that fails is begun once: trying again is not the backend's business."""
        for error in ("OSError", "SystemExit"):
            notes = Notes(tmp_path / error)
            outcome = await self.carried_out(form, jobs.fails_once_noted, notes, error)
            assert Status.FAILED is outcome.status
            assert ["began"] == notes.read()

    @part()
    async def test_a_stop_iteration_is_an_error_like_any_other(self, form: Form) -> None:
        """It ends nothing but its job: Python itself makes a RuntimeError of it where it has to."""
        outcome = await self.carried_out(form, jobs.raises, StopIteration("mine"))
        assert Status.FAILED is outcome.status
        assert isinstance(outcome.error, RuntimeError)
        assert "StopIteration" in str(outcome.error)
        if self.same_objects:
            assert isinstance(outcome.error.__cause__, StopIteration)

    @part(form="plain")
    async def test_a_stop_iteration_of_a_plain_function_is_its_error(self, form: Form) -> None:
        """Nobody takes it for the end of an iteration."""
        outcome = await self.backend().handle(Run(Job(jobs.stop_iteration, "job")))
        assert (Status.FAILED, StopIteration) == (outcome.status, type(outcome.error))
        assert outcome.error is not None
        assert ("mine",) == outcome.error.args

    @part()
    async def test_an_error_keeps_its_way_to_the_job(self, form: Form) -> None:
        """What is printed of it leads to the code of the user."""
        outcome = await self.carried_out(form, jobs.raises, OSError("x"))
        assert outcome.error is not None
        assert "in raises" in _printed(outcome)
        if self.same_objects:
            assert "raises" == last_frame(outcome.error.__traceback__)

    # --- copies -------------------------------------------------------------------------

    @part(same_objects=False)
    async def test_an_argument_that_cannot_be_sent_fails_its_own_run_in_words(self, form: Form) -> None:
        """Whether it cannot be pickled or cannot be unpickled; the next run is well."""
        backend = self.backend()
        for given in (made.NoPickle(), made.NoCopy(), lambda: None):
            self._failed_in_words(await backend.handle(Run(self.job(form, jobs.gives), (given,))))
        outcome = await backend.handle(Run(self.job(form, jobs.gives), (1,)))
        assert 1 == outcome.value

    @part(same_objects=False)
    async def test_a_job_that_cannot_be_sent_is_refused_or_fails_in_words(self, form: Form) -> None:
        """A function inside another one is the usual case: better is ConfigError, where it is given."""

        def plain() -> None:
            """Is found by no name."""

        async def coroutine() -> None:
            """Neither is this."""

        backend = self.backend()
        job = Job(coroutine if form == "async" else plain)
        try:
            OneShot(job.fn, backend=backend)
        except ConfigError as error:
            assert job.name in str(error)  # noqa: PT017 - there is no pytest here
        self._failed_in_words(await backend.handle(Run(job)))

    @part(same_objects=False, form="plain", cases=_NO_WAY_BACK)
    async def test_what_cannot_come_back_fails_its_own_run_in_words(self, form: Form, cases: tuple[str, ...]) -> None:
        """A value or an error that cannot be pickled, or not be unpickled; the next run is well."""
        backend = self.backend()
        for case in cases:
            self._failed_in_words(await backend.handle(Run(Job(_NO_WAY_BACK[case]))))
            outcome = await backend.handle(Run(self.job(form, jobs.gives), (1,)))
            assert 1 == outcome.value

    def _failed_in_words(self, outcome: Outcome[Any]) -> None:
        assert Status.FAILED is outcome.status
        assert isinstance(outcome.error, Exception)
        assert "pickl" in _printed(outcome).lower()


def _printed(outcome: Outcome[Any]) -> str:
    """All that is printed of its error."""
    assert outcome.error is not None
    return "".join(traceback.format_exception(outcome.error))
