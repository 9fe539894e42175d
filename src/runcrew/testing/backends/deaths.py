"""What a backend does that can kill, what it does when a process dies, and what it leaves behind."""

# ruff: noqa: SIM300 - the expected value stands on the left, as in all tests

from __future__ import annotations

import asyncio
import gc
import os
import signal
from functools import partial
from pathlib import Path
from typing import Final

import runcrew as rc
from runcrew.clock import SYSTEM
from runcrew.errors import JobCrashed, RunTimeout
from runcrew.job import Run, Status
from runcrew.policies.timeout import limited
from runcrew.supervise import OneShot
from runcrew.testing.backends import jobs
from runcrew.testing.backends.harness import LONG, Form, Harness, part
from runcrew.testing.backends.jobs import STUCK, Notes

#: Real seconds that what a run had has to be gone after it.
GRACE: Final = 5.0

#: How a process may die, by name: the job, its argument, the exit code, a word of the text.
_DEATHS: Final = {
    "exit 7": (jobs.exits, 7, 7, "7"),
    "exit 0": (jobs.exits, 0, 0, "0"),
    "SIGKILL": (jobs.falls, signal.SIGKILL, -signal.SIGKILL, "SIGKILL"),
    "SIGSEGV": (jobs.falls, signal.SIGSEGV, -signal.SIGSEGV, "SIGSEGV"),
}


class Deaths(Harness):
    """The end of what does not listen, and of what dies."""

    @part()
    def test_it_says_whether_it_kills(self, form: Form) -> None:
        """A backend that can end a job which does not listen has an attribute `kills` that is true."""
        assert self.kills is bool(getattr(self.make(), "kills", False))

    # --- killing ------------------------------------------------------------------------

    @part(kills=True, cases=STUCK)
    async def test_a_stuck_job_ends_with_its_task(self, form: Form, cases: tuple[str, ...], tmp_path: Path) -> None:
        """Whatever it hangs in: when the cancellation comes out, nothing of it goes on, and the next run is well."""
        backend = self.backend()
        for number, case in enumerate(cases):
            notes = Notes(tmp_path / f"notes-{number}")
            task = asyncio.ensure_future(backend.handle(Run(self.job(form, STUCK[case]), (notes,))))
            await self.until(notes.read, f"{case} begins")
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), case
            await self.nothing_goes_on(notes)
            outcome = await backend.handle(Run(self.job(form, jobs.gives), (number,)))
            assert number == outcome.value, case

    @part(kills=True)
    async def test_a_stuck_job_ends_when_it_is_asked_to(self, form: Form, tmp_path: Path) -> None:
        """As a service asks: it has a moment to listen, and has then ended as it was asked to."""
        notes = Notes(tmp_path / "notes")
        ended = await self.asked_to_end(form, jobs.deaf, notes, after=0)
        assert ended.outcome is None or Status.INTERRUPTED is ended.outcome.status
        await self.nothing_goes_on(notes)

    @part(kills=True)
    async def test_a_stuck_job_ends_at_its_timeout(self, form: Form, tmp_path: Path) -> None:
        """The outcome is timed_out, and nothing of the job goes on."""
        notes = Notes(tmp_path / "notes")
        run = Run(self.job(form, jobs.deaf), (notes,))
        outcome = await asyncio.ensure_future(limited(self.backend().handle, self.span(10))(run))
        assert Status.TIMED_OUT is outcome.status
        assert isinstance(outcome.error, RunTimeout)
        await self.nothing_goes_on(notes)

    @part(kills=True)
    async def test_a_stuck_job_does_not_keep_its_service(self, form: Form, tmp_path: Path) -> None:
        """Its stop is complete: nothing was left, nothing abandoned."""
        notes = Notes(tmp_path / "notes")
        job = self.job(form, jobs.deaf).fn
        service = OneShot(partial(job, notes), name="job", backend=self.backend())
        await service.start()
        await self.until(notes.read, "the job begins")
        report = await service.stop()
        assert (1, True, True) == (report.cancelled, report.complete, report.clean)
        await self.nothing_goes_on(notes)

    # --- dying ------------------------------------------------------------------------------

    @part(own_process=True, cases=_DEATHS)
    async def test_a_process_that_dies_fails_its_own_run_in_words(self, form: Form, cases: tuple[str, ...]) -> None:
        """By ProcessDied, which says how it died and which process it was; the next run is well."""
        backend = self.backend()
        for case in cases:
            script, given, code, word = _DEATHS[case]
            outcome = await backend.handle(Run(self.job(form, script), (given,)))
            assert Status.FAILED is outcome.status, case
            error = outcome.error
            assert isinstance(error, rc.ProcessDied), case
            assert isinstance(error, JobCrashed), case
            assert code == error.exitcode, case
            assert isinstance(error.pid, int), case
            assert word in str(error), case
            assert error.pid != os.getpid(), case
            outcome = await backend.handle(Run(self.job(form, jobs.gives), (case,)))
            assert case == outcome.value

    @part(own_process=True)
    async def test_a_process_that_dies_can_be_retried(self, form: Form) -> None:
        """ProcessDied is an Exception, which a rule can name; the next attempt has a process again."""
        rule = rc.Retry(rc.ProcessDied, backoff=rc.Constant(0))
        service = OneShot(self.job(form, jobs.falls_once).fn, name="job", backend=self.backend(), retry=rule)
        await service.run()
        assert service.outcome is not None
        assert 2 == service.outcome.value

    # --- what is left -----------------------------------------------------------------------

    @part()
    def test_nothing_is_left(self, form: Form, tmp_path: Path) -> None:
        """After its loop has ended: no process, no descriptor more than before; on the loop no task more."""
        self.play(partial(self._some_runs, form, tmp_path / "first"))  # what is made once and kept
        gc.collect()
        before, children = _descriptors(), _children()
        for number in range(3):
            self.play(partial(self._some_runs, form, tmp_path / str(number)))
        gc.collect()
        ends = SYSTEM.monotonic() + GRACE
        while (len(_descriptors()), _children()) != (len(before), children) and SYSTEM.monotonic() < ends:
            SYSTEM.block(0.01)
        assert children == _children()
        after = _descriptors()
        assert len(before) == len(after), f"left open: {[name for name in after if name not in before]}"

    async def _some_runs(self, form: Form, notes: Path) -> None:
        """One of each kind of end."""
        backend, tasks = self.backend(), 0
        for number in range(3):
            await backend.handle(Run(self.job(form, jobs.gives), (number,)))
            await backend.handle(Run(self.job(form, jobs.raises), (OSError(number),)))
            if not (self.inline and form == "plain"):
                cut = asyncio.ensure_future(
                    backend.handle(Run(self.job(form, jobs.heeds), (Notes(notes), self.span(LONG))))
                )
                await asyncio.sleep(self.span(0.1))
                cut.cancel()
                await asyncio.wait([cut])
            await asyncio.sleep(0)
            tasks = tasks or len(asyncio.all_tasks())
            assert len(asyncio.all_tasks()) <= tasks, asyncio.all_tasks()


def _descriptors() -> list[str]:
    """What is open here, where the system tells."""
    home, found = Path("/proc/self/fd"), list[str]()
    for descriptor in home.iterdir() if home.exists() else ():
        try:
            found.append(str(descriptor.readlink()))
        except OSError:  # it has been closed meanwhile
            pass
    return found


def _children() -> list[str]:
    """The child processes of this one, where the system tells."""
    try:
        return sorted(pid for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split())
    except OSError:
        return []
