"""A crew whose jobs run in processes: how they are declared, and what is left when it has ended."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import runcrew as rc

sys.path.insert(0, str(Path(__file__).parent))  # where the jobs are found, here and in their processes
import crew_jobs as jobs

pytestmark = pytest.mark.realtime


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On a real loop, in bounded time."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


async def until(what: Callable[[], object]) -> None:
    """Wait until it is so."""
    while not what():
        await asyncio.sleep(0.005)


def children() -> list[int]:
    """The child processes of this one."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(pid) for each in lists for pid in each.read_text().split()]


async def another(interval: Any) -> Any:
    """What its next run gives."""
    before = interval.stats().runs.succeeded
    await until(lambda: interval.stats().runs.succeeded > before)
    return interval.outcome.value


def a_crew(**options: Any) -> rc.Crew:
    """One that watches nothing."""
    return rc.Crew("house", loop_block=None, **options)


# --- declaring -------------------------------------------------------------------------------


def test_decorated_functions_are_found_by_their_names() -> None:
    """A decorator leaves its function as it is, so that a process finds it; the handle has what came of it."""
    once, again = jobs.crew["once"], jobs.crew["again"]
    seen: list[Any] = []

    async def main() -> None:
        async with jobs.crew:
            seen.extend([await another(again), await another(again)])

    run(main)
    assert os.getpid() == jobs.once(), "here it is a function like any other"
    where = once.outcome.value  # type: ignore[attr-defined]
    assert where not in (os.getpid(), None)
    pids = [pid for pid, _, _ in seen]
    assert 3 == len({where, *pids}), "each attempt has a process of its own"
    assert [("again", 1)] * 2 == [(service, attempt) for _, service, attempt in seen]


def test_a_queue_of_a_crew() -> None:
    """crew.queue(backend="process") gives a queue whose workers own their resource in a process each."""
    crew = a_crew()
    numbers = crew.queue("numbers", backend="process", resource=jobs.owned, workers=2)

    async def main() -> None:
        async with crew:
            made, done = await numbers.run(jobs.both)
            assert made == done
            assert os.getpid() != done

    run(main)


def test_a_pool_of_a_crew(tmp_path: Path) -> None:
    """crew.pool(backend="process") has its job looped in a process of each worker's own."""
    crew = a_crew()
    pool = crew.pool("notes", functools.partial(jobs.notes, tmp_path), backend="process", initial=2)

    async def main() -> None:
        async with crew:
            await until(lambda: pool.stats().runs.succeeded >= 6)

    run(main)
    pids = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert 2 == len(pids)
    assert str(os.getpid()) not in pids


def test_processes_for_a_whole_crew() -> None:
    """The backend of a crew is that of all its jobs, but of those whose resource or own option says otherwise."""
    crew = a_crew(backend="process")
    free = crew.queue("free")
    owns = crew.queue("owns", resource=jobs.owned)
    here = crew.queue("here", backend="thread")
    crew.oneshot(jobs.pid)

    async def main() -> None:
        async with crew:
            assert os.getpid() != await free.run(jobs.pid)
            assert (os.getpid(), os.getpid()) == await owns.run(jobs.both)
            assert os.getpid() == await here.run(jobs.pid)
            await until(lambda: crew["pid"].outcome is not None)  # type: ignore[attr-defined]

    run(main)
    assert os.getpid() != crew["pid"].outcome.value  # type: ignore[attr-defined]


def test_what_a_process_cannot_run_is_refused_where_it_is_declared() -> None:
    """An async function, a lambda and a function inside of another one are refused by the decorator, in words."""
    crew = a_crew(backend="process")

    async def waits() -> None: ...

    def inside() -> None: ...

    for job, words in (
        (waits, "waits is async, and a process runs plain functions"),
        (inside, "is no function of a module: another process finds its job by its name"),
        (lambda: None, "is no function of a module"),
    ):
        with pytest.raises(rc.NotAJob, match=words):
            crew.oneshot(job)
        with pytest.raises(rc.NotAJob, match=words):
            crew.interval("1s")(job)
    assert [] == list(crew)
    crew.oneshot(backend=None)(waits)


def test_bad_queues_are_refused_where_they_are_declared() -> None:
    """What processes make no sense of is refused with the crew as it is without."""
    crew = a_crew()

    async def connect() -> int:
        return 7

    with pytest.raises(rc.ConfigError, match=r"resource: .*connect is async, and a process runs plain functions"):
        crew.queue("one", backend="process", resource=connect)
    with pytest.raises(rc.ConfigError, match="max_abandoned: 3 means nothing for processes"):
        crew.queue("one", backend="process", max_abandoned=3)
    assert [] == list(crew)


# --- how it ends --------------------------------------------------------------------------


def test_nothing_is_left_when_a_crew_has_ended() -> None:
    """When `stop` returns there is no process any more, also none that was kept for the next attempt."""
    crew = a_crew()
    crew.interval("10ms", backend="process")(jobs.pid)
    had = children()

    async def main() -> None:
        async with crew:
            await until(lambda: crew["pid"].outcome is not None)  # type: ignore[attr-defined]
            assert set(children()) - set(had), "the fork server, whose children the others are"
        assert set(had) == set(children())

    run(main)


def test_a_second_life_has_processes_again() -> None:
    """A crew that is started again makes what it needs anew."""
    crew = a_crew()
    numbers = crew.queue("numbers", backend="process")

    async def main() -> None:
        pids: list[int] = []
        for _ in range(2):
            async with crew:
                pids.append(await numbers.run(jobs.pid))
        assert 2 == len(dict.fromkeys(pids))

    run(main)


def test_one_that_dies_fails_and_takes_the_crew_along() -> None:
    """A one-shot whose process is killed has failed, with an error that says how; what follows is as ever."""
    crew = a_crew()
    crew.oneshot(backend="process")(jobs.dies)

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await crew.run()
        (error,) = caught.value.exceptions
        assert isinstance(error, rc.ProcessDied)
        assert -9 == error.exitcode
        assert "was killed by SIGKILL" in str(error)

    run(main)


def test_a_death_can_be_retried(tmp_path: Path) -> None:
    """A rule for ProcessDied has the run tried again in another process."""
    crew = a_crew()
    rule = rc.Retry(rc.ProcessDied, retries=1, backoff=rc.Constant(0))
    job = functools.partial(jobs.dies_once, tmp_path / "mark")
    handle = rc.OneShot(job, name="job", backend="process", retry=rule)
    crew.add(handle)

    async def main() -> None:
        await crew.run()

    run(main)
    assert handle.outcome is not None
    assert 2 == handle.outcome.value


def test_one_that_hangs_is_killed_and_not_abandoned() -> None:
    """At its timeout a job in a process is killed: nothing of it goes on, and nothing is named as left behind."""
    crew = a_crew()
    crew.interval("1h", backend="process", timeout="50ms", on_failure="isolate")(jobs.deaf)

    async def main() -> None:
        handle: Any = crew["deaf"]
        await crew.start()
        await until(lambda: handle.outcome is not None)
        assert rc.Status.TIMED_OUT is handle.outcome.status
        assert () == handle.stats().abandoned
        report = await crew.stop()
        assert () == report.would_not_stop

    run(main)


@pytest.mark.parametrize("job", ["listens", "deaf"])
def test_a_stop_tells_a_job_and_kills_it_if_it_does_not_listen(job: str) -> None:
    """At a stop a one-shot in a process is told to end; one that does not is killed a moment later, and all is well."""
    crew = a_crew()
    ready: Any = "signal" if job == "listens" else "started"
    handle = rc.OneShot(getattr(jobs, job), backend="process", ready=ready)
    crew.add(handle)

    async def main() -> None:
        await crew.start()
        await asyncio.sleep(0.1)
        report = await crew.stop()
        assert report.clean
        assert handle.outcome is not None
        assert handle.outcome.status in (rc.Status.SUCCEEDED, rc.Status.INTERRUPTED)

    run(main)
