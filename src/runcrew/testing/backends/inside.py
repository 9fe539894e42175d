"""What a job sees of its run, and what others see of it meanwhile."""

# ruff: noqa: SIM300 - the expected value stands on the left, as in all tests

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from runcrew.clock import current
from runcrew.errors import ConfigError
from runcrew.job import Run, Status, current_run
from runcrew.policies import Constant, Retry
from runcrew.policies.timeout import limited
from runcrew.supervise import OneShot
from runcrew.testing.backends import jobs
from runcrew.testing.backends.harness import LONG, Form, Harness, part
from runcrew.testing.backends.jobs import Notes, colour


class Sight(Harness):
    """What a job and its service know of each other."""

    @part(refused=True)
    def test_a_job_that_it_cannot_run_is_refused_in_words(self, form: Form) -> None:
        """Where it is given, before anything is started: by ConfigError, which says which form of job it is."""
        refusal = ""
        try:
            OneShot(self.job(form, jobs.gives).fn, name="mine", backend=self.make())
        except ConfigError as error:
            refusal = str(error)
        assert refusal, f"{form} jobs cannot be run, and are not refused: define check(job)"
        assert form in refusal

    @part()
    async def test_context_variables(self, form: Form) -> None:
        """They reach it, or never do, as the backend says; and what it sets reaches nobody."""
        before = colour.set("blue")
        try:
            outcome = await self.carried_out(form, jobs.sees_colour)
            assert ("blue" if self.context else "none") == outcome.value
            assert "blue" == colour.get()
        finally:
            colour.reset(before)

    @part(same_objects=True)
    async def test_it_is_its_own_run(self, form: Form) -> None:
        """current_run() inside is the very run."""
        backend, runs = self.backend(), [Run(self.job(form, jobs.sees_run)) for _ in range(2)]
        outcomes = await asyncio.gather(*(backend.handle(run) for run in runs))
        assert runs[0] is outcomes[0].value
        assert runs[1] is outcomes[1].value
        assert not any(run.in_thread for run in runs)

    @part()
    async def test_current_run_tells_which_it_is(self, form: Form) -> None:
        """Its id, its attempt, when it will be ended and that nobody has asked it to end; outside there is none."""
        run = Run(self.job(form, jobs.sees_facts))
        run.attempt = 3
        outcome = await asyncio.ensure_future(limited(self.backend().handle, self.span(LONG))(run))
        assert (run.id, 3, run.deadline, False) == outcome.value
        assert run.deadline is not None
        outcome = await self.carried_out(form, jobs.sees_facts)
        assert outcome.value is not None
        assert (1, None, False) == outcome.value[1:]
        try:
            current_run()
        except LookupError:
            return
        raise AssertionError("current_run() gives a run outside any")

    @part(sleeps=True, reports=True)
    async def test_its_progress_can_be_seen(self, form: Form) -> None:
        """While it runs, and as it last said."""
        service = OneShot(partial(self.job(form, jobs.progresses).fn, self.span(2)), name="job", backend=self.backend())
        await service.start()
        seen: list[Any] = []
        while running := service.stats().running:
            if (said := running[0].progress) is not None and said not in seen:
                seen.append(said)
            await asyncio.sleep(self.span(0.25))
        assert [(0, 3), (1, 3), (2, 3)] == seen
        await service.wait()

    @part(reports=True)
    async def test_what_it_logs_can_be_read(self, form: Form, caplog: Any) -> None:
        """Once, where the program reads its log, with the fields of the run."""
        run = Run(self.job(form, jobs.logs, "mine"))
        await asyncio.ensure_future(self.backend().handle(run))
        said = [record for record in caplog.records if record.name == "runcrew.job"]
        assert ["3 apples"] == [record.getMessage() for record in said]
        assert [(run.id, "mine", 1)] == [(record.run, record.job, record.attempt) for record in said]

    @part(sleeps=True, reports=True)
    async def test_a_job_says_when_it_is_ready(self, form: Form, tmp_path: Path) -> None:
        """start() returns then, and not before."""
        notes = Notes(tmp_path / "notes")
        job = partial(self.job(form, jobs.becomes_ready).fn, notes, self.span(2), self.span(LONG))
        service = OneShot(job, name="job", backend=self.backend(), ready="signal")
        began = self.now()
        await service.start()
        assert ["ready"] == notes.read()
        assert self.lasted(2.0, self.now() - began)
        report = await service.stop()
        assert (1, True) == (report.cancelled, report.clean)

    @part()
    async def test_attempts_follow_each_other(self, form: Form) -> None:
        """Retry sees the same errors and the same values, and the job the number of its attempt."""
        rule = Retry(OSError, backoff=Constant(self.span(1)))
        service = OneShot(self.job(form, jobs.third_time).fn, name="job", backend=self.backend(), retry=rule)
        began = self.now()
        await service.run()
        outcome = service.outcome
        assert outcome is not None
        assert ("third", 3) == (outcome.value, outcome.attempts)
        assert [1, 2, 3] == [attempt.number for attempt in outcome.history]
        assert [(1,), (2,), None] == [getattr(attempt.error, "args", None) for attempt in outcome.history]
        assert self.lasted(2.0, self.now() - began)

    @part(sleeps=True)
    async def test_two_run_at_once(self, form: Form, tmp_path: Path) -> None:
        """Each meets the other, is its own run, and has its own context and outcome."""
        notes, backend = Notes(tmp_path / "notes"), self.backend()
        runs = [Run(self.job(form, jobs.meets), (notes, number, self.span(0.1))) for number in range(2)]
        outcomes = await asyncio.gather(*(backend.handle(run) for run in runs))
        assert "0" == outcomes[0].value
        assert (1,) == getattr(outcomes[1].error, "args", None)

    @part(sleeps=True, virtual=True)
    async def test_none_waits_for_another(self, form: Form) -> None:
        """Two that sleep one unit of time have both slept when one has passed."""
        backend = self.backend()
        await asyncio.gather(*(backend.handle(Run(self.job(form, jobs.sleeps), (1.0,))) for _ in range(2)))
        assert self.lasted(1.0, self.now())

    @part(sleeps=True)
    async def test_one_that_ends_leaves_the_other_alone(self, form: Form, tmp_path: Path) -> None:
        """Cancelling one of two runs is nothing to the other."""
        backend, notes = self.backend(), Notes(tmp_path / "notes")
        cut = asyncio.ensure_future(backend.handle(Run(self.job(form, jobs.heeds), (notes, self.span(LONG)))))
        kept = asyncio.ensure_future(backend.handle(Run(self.job(form, jobs.sleeps), (self.span(2),))))
        await self.until(notes.read, "the job begins")
        cut.cancel()
        assert Status.SUCCEEDED is (await kept).status
        assert cut.cancelled()

    @part()
    async def test_its_times_are_on_the_clock_in_force(self, form: Form) -> None:
        """It has begun no sooner than it was asked for, and ended no later than now."""
        before = current().now()
        outcome = await self.carried_out(form, jobs.gives)
        slack = 0.0 if self.same_objects else 0.05  # two processes read the time a little differently
        assert outcome.started is not None
        assert before - slack <= outcome.started <= outcome.ended <= current().now() + slack
