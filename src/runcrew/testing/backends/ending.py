"""How a run ends before its job does: by request, by cancellation, by a timeout."""

# ruff: noqa: SIM300 - the expected value stands on the left, as in all tests

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from runcrew.errors import RunTimeout
from runcrew.job import Run, Status
from runcrew.policies.timeout import limited
from runcrew.supervise import OneShot
from runcrew.testing.backends import jobs
from runcrew.testing.backends.harness import LONG, Form, Harness, part
from runcrew.testing.backends.jobs import Notes


class Endings(Harness):
    """What becomes of a run that is to end."""

    # --- asked to end -------------------------------------------------------------------

    @part(sleeps=True)
    async def test_a_job_that_heeds_its_end_is_over_at_once(self, form: Form, tmp_path: Path) -> None:
        """It cleans up, and its run has ended as it was asked to."""
        notes = Notes(tmp_path / "notes")
        ended = await self.asked_to_end(form, jobs.heeds, notes, self.span(LONG), after=2)
        outcome = ended.run.ended_by_request(0.0) if ended.outcome is None else ended.outcome
        assert (Status.INTERRUPTED, "that is all") == (outcome.status, outcome.reason)
        assert ["began", "cleaned-up"] == notes.read()
        assert self.lasted(2.0, ended.took)
        assert ended.run.cancelled

    @part(sleeps=True)
    async def test_a_job_may_take_time_to_clean_up(self, form: Form, tmp_path: Path) -> None:
        """It is waited for: two units of time at the least, also by a backend that kills."""
        notes = Notes(tmp_path / "notes")
        ended = await self.asked_to_end(form, jobs.cleans_up, notes, self.span(LONG), self.span(2), after=1)
        assert ended.outcome is None or Status.INTERRUPTED is ended.outcome.status
        assert ["began", "cleaned-up"] == notes.read()
        assert self.lasted(3.0, ended.took)

    @part(sleeps=True)
    async def test_an_error_while_it_ends_is_its_outcome(self, form: Form, tmp_path: Path) -> None:
        """No end that was asked for hides it."""
        notes = Notes(tmp_path / "notes")
        ended = await self.asked_to_end(form, jobs.fails_at_the_end, notes, self.span(LONG), after=1)
        assert ended.outcome is not None
        assert (Status.FAILED, OSError) == (ended.outcome.status, type(ended.outcome.error))
        assert "while cleaning up" == str(ended.outcome.error)

    @part(sleeps=True)
    async def test_a_value_although_it_was_asked_to_end_counts(self, form: Form, tmp_path: Path) -> None:
        """What it returns after that is its value."""
        notes = Notes(tmp_path / "notes")
        ended = await self.asked_to_end(form, jobs.gives_at_the_end, notes, self.span(LONG), after=1)
        assert ended.outcome is not None
        assert (Status.SUCCEEDED, "after all") == (ended.outcome.status, ended.outcome.value)

    @part(sleeps=True)
    async def test_it_knows_that_it_was_told(self, form: Form, tmp_path: Path) -> None:
        """`cancelled` is false before and true after."""
        notes = Notes(tmp_path / "notes")
        await self.asked_to_end(form, jobs.says_told, notes, self.span(LONG), after=1)
        assert ["began-False", "told-True"] == notes.read()

    @part(sleeps=True)
    async def test_it_can_wait_to_be_told(self, form: Form, tmp_path: Path) -> None:
        """`wait_cancelled` says False when its time is up, and True as soon as the run should end."""
        notes = Notes(tmp_path / "notes")
        run = Run(self.job(form, jobs.waits), (notes, self.span(2), self.span(LONG)))
        began = self.now()
        task = asyncio.ensure_future(self.backend().handle(run))
        while notes.read() != ["began", "waits"]:
            assert not task.done()
            await asyncio.sleep(self.span(0.25))
        waited = self.now() - began
        run.ask_to_end(Status.INTERRUPTED, "that is all")
        run.tell()
        if form == "plain" and not run.in_thread:
            task.cancel()
        outcome = await task
        assert (False, True) == outcome.value
        assert self.lasted(2.0, waited) or self.lasted(2.25, waited)
        assert self.now() - began < LONG / 2

    @part(sleeps=True)
    async def test_what_was_asked_to_end_before_it_began_never_begins(self, form: Form, tmp_path: Path) -> None:
        """As a service's run in the same moment as its stop."""
        notes = Notes(tmp_path / "notes")
        job = self.job(form, jobs.heeds)
        service = OneShot(partial(job.fn, notes, self.span(1)), name="job", backend=self.backend())
        await service.start()
        report = await service.stop()
        assert ([], 1, True) == (notes.read(), report.never_started, report.clean)

    # --- cancelled ----------------------------------------------------------------------

    @part(sleeps=True)
    async def test_a_cancelled_task_ends_its_job(self, form: Form, tmp_path: Path) -> None:
        """Also where nobody said why: the cancellation comes out, and the job has heard of it or is gone."""
        notes = Notes(tmp_path / "notes")
        run = Run(self.job(form, jobs.heeds), (notes, self.span(LONG)))
        task = asyncio.ensure_future(self.backend().handle(run))
        await self.until(notes.read, "the job begins")
        task.cancel("mine")
        await asyncio.wait([task])
        assert task.cancelled()
        await self._over(notes)

    @part(sleeps=True)
    async def test_it_can_be_cancelled_at_any_moment(self, form: Form, tmp_path: Path) -> None:
        """Before its first step, while it is on its way to where it runs, and later: what began ends."""
        backend = self.backend()
        for number, pause in enumerate((None, 0, 0, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)):
            notes = Notes(tmp_path / f"notes-{number}")
            run = Run(self.job(form, jobs.heeds), (notes, self.span(LONG)))
            task = asyncio.ensure_future(backend.handle(run))
            if pause is not None:
                await asyncio.sleep(pause)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            if pause is None:
                assert [] == notes.read()
            await self._over(notes)

    async def _over(self, notes: Notes) -> None:
        """Return when a job that heeds its end has ended, or has never begun."""
        if self.kills:
            await self.nothing_goes_on(notes)
        else:
            await self.until(lambda: notes.read() in ([], ["began", "cleaned-up"]), "the job ends")

    # --- timeouts -----------------------------------------------------------------------

    @part(sleeps=True)
    async def test_a_timeout_ends_the_attempt(self, form: Form, tmp_path: Path) -> None:
        """The outcome is timed_out, at the instant of the timeout; the job has heard of it, or is gone."""
        notes = Notes(tmp_path / "notes")
        run = Run(self.job(form, jobs.says_told), (notes, self.span(LONG)))
        began = self.now()
        outcome = await asyncio.ensure_future(limited(self.backend().handle, self.span(2.5))(run))
        assert Status.TIMED_OUT is outcome.status
        assert self.lasted(2.5, self.now() - began)
        assert isinstance(outcome.error, RunTimeout)
        assert run.cancelled
        if self.kills:
            await self.nothing_goes_on(notes)
        else:
            await self.until(lambda: ["began-False", "told-True"] == notes.read(), "the job ends")

    @part(sleeps=True)
    async def test_what_ends_in_time_knows_nothing_of_a_timeout(self, form: Form) -> None:
        """Its value counts, and nothing rings later."""
        handle = limited(self.backend().handle, self.span(LONG))
        run = Run(self.job(form, jobs.sleeps), (self.span(1),))
        outcome = await asyncio.ensure_future(handle(run))
        assert Status.SUCCEEDED is outcome.status
        assert not run.cancelled

    @part(sleeps=True)
    async def test_another_attempt_begins_afresh(self, form: Form, tmp_path: Path) -> None:
        """After one that was timed out, the next is told nothing, and can be told again."""
        notes, backend = Notes(tmp_path / "notes"), self.backend()
        run = Run(self.job(form, jobs.says_told), (notes, self.span(1)))
        outcome = await asyncio.ensure_future(limited(backend.handle, self.span(0.01))(run))
        assert Status.TIMED_OUT is outcome.status
        await self._quiet(notes)
        before = len(notes.read())
        run.next_attempt()
        outcome = await asyncio.ensure_future(backend.handle(run))
        assert (Status.SUCCEEDED, 2) == (outcome.status, outcome.attempts)
        assert ["began-False", "told-False"] == notes.read()[before:]

    async def _quiet(self, notes: Notes) -> None:
        """Return when the attempt that was given up has ended."""
        if self.kills:
            await self.nothing_goes_on(notes)
        else:
            await self.until(lambda: len(notes.read()) in (0, 2), "the attempt ends")

    # --- what does not listen -----------------------------------------------------------

    @part(sleeps=True, form="plain", kills=False)
    async def test_what_does_not_listen_is_left_and_named(self, form: Form, tmp_path: Path) -> None:
        """The cancellation does not wait for it; `on_abandoned` hears of it, and the job that it was told."""
        notes, left = Notes(tmp_path / "notes"), list[object]()
        run = Run(self.job(form, jobs.left_to_end), (notes, 0.1))
        run.on_abandoned = left.append
        task = asyncio.ensure_future(self.backend().handle(run))
        await self.until(notes.read, "the job begins")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert ["began"] == notes.read()
        assert 1 == len(left)
        await self.until(lambda: ["began", "told-True"] == notes.read(), "the job ends")
