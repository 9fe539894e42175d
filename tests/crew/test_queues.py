"""Queues in a crew: how they are declared, and when they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcrew as rc
from runcrew.abc import Handler
from runcrew.events import StateChanged
from runcrew.job import Outcome, Run
from runcrew.lifecycle import State
from runcrew.supervise.graph import with_phases
from runcrew.testing import run_virtual


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


class Said(list[str]):
    """What happened, in order."""

    def resource(self, name: str, opens_in: float = 0) -> Callable[[], AsyncIterator[str]]:
        """Makes a resource that notes when it is opened and closed."""

        async def resource() -> AsyncIterator[str]:
            await asyncio.sleep(opens_in)
            self.append(f"{name} opens")
            yield name
            self.append(f"{name} closes")

        return resource

    async def work(self, resource: str, span: float, *what: str) -> str:
        """A job of a queue that notes its end."""
        await asyncio.sleep(span)
        self.append(" ".join([resource, *what]))
        return resource

    def source(self, name: str) -> Callable[[], Any]:
        """A job that goes on until it is cancelled, and notes when it began and ended."""

        async def source() -> None:
            self.append(f"{name} begins")
            try:
                await long()
            finally:
                self.append(f"{name} ends")

        return source


# --- declaring ----------------------------------------------------------------------------------


def test_a_queue_is_a_child() -> None:
    """`crew.queue` gives the queue that `crew["name"]` is, with the options of a Queue."""
    crew = rc.Crew()
    db = crew.queue("db", workers=2, max_workers=5, maxsize=7)
    assert isinstance(db, rc.Queue)
    assert crew["db"] is db
    assert (2, 5, 7) == (db.size, db.stats().max_workers, db.stats().maxsize)
    assert {"db": db.stats()} == crew.stats().children


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": -1}, "workers: -1 is not a whole number"),
        ({"depends_on": ["db"]}, "in a circle: db -> db"),
        ({"on_failure": "shrug"}, "on_failure: 'shrug'"),
        ({"overflow": "spill"}, "overflow: 'spill' is none of"),
        ({"backend": "cloud"}, "backend: 'cloud' is unknown"),
    ],
)
def test_bad_queues_are_refused(options: dict[str, Any], said: str) -> None:
    """A mistake is told where it is made, and nothing is added."""
    crew = rc.Crew()
    with pytest.raises(rc.ConfigError, match=said):
        crew.queue("db", **options)
    assert [] == list(crew)


def test_a_name_is_given_once() -> None:
    """Two queues of one name are refused, and so is an unknown option."""
    crew = rc.Crew()
    crew.queue("db")
    with pytest.raises(rc.ConfigError, match="a child named 'db' already"):
        crew.queue("db")
    with pytest.raises(TypeError, match="wrokers"):
        crew.queue("other", wrokers=2)  # type: ignore[call-overload]


# --- settings of the whole ----------------------------------------------------------------------


def counting(seen: list[str]) -> Callable[[Handler], Handler]:
    """A middleware that notes each attempt that goes through it."""

    def middleware(inner: Handler) -> Handler:
        async def handle(run: Run) -> Outcome[Any]:
            seen.append(run.job.name.rpartition(".")[2])
            return await inner(run)

        return handle

    return middleware


@pytest.mark.virtual
async def test_the_crews_settings_hold_for_the_jobs_of_its_queues() -> None:
    """Timeout, deadline and middleware, unless the queue or the submit says otherwise; None means none."""
    seen: list[str] = []
    crew = rc.Crew(timeout="1s", deadline="3s", middleware=[counting(seen)])
    usual, none = crew.queue("usual"), crew.queue("none", timeout=None, deadline=None)
    own = crew.queue("own", timeout="2s")

    async def sleep(span: float) -> float:
        await asyncio.sleep(span)
        return span

    async with crew:
        with pytest.raises(rc.RunTimeout):
            await usual.run(sleep, 100)
        assert 1.0 == now()
        with pytest.raises(rc.RunTimeout):
            await own.run(sleep, 100)
        assert 3.0 == now()
        with pytest.raises(rc.RunTimeout):
            await own.run(sleep, 100, timeout=None)
        assert 6.0 == now(), "the deadline is still the crew's"
        assert 100 == await none.run(sleep, 100)
        assert 2 == await usual.run(sleep, 2, timeout=None)
    assert ["sleep"] * 5 == seen


@pytest.mark.virtual
async def test_the_crews_backend_holds_where_there_is_no_resource() -> None:
    """A resource says where its jobs run; without one they run where all jobs of the crew do."""

    class Elsewhere:
        """A backend that answers by itself."""

        async def handle(self, run: Run, /) -> Outcome[Any]:
            return Outcome(rc.Status.SUCCEEDED, "elsewhere", queued=run.queued, started=run.queued, ended=run.queued)

    async def here() -> str:
        return "here"

    async def with_it(resource: str) -> str:
        return f"here, with {resource}"

    crew = rc.Crew(backend=Elsewhere())
    bare, said = crew.queue("bare"), crew.queue("said", backend=None)
    owning = crew.queue("owning", resource=Said().resource("a"))
    async with crew:
        assert "elsewhere" == await bare.run(here)
        assert "here" == await said.run(here)
        assert "here, with a" == await owning.run(with_it)


# --- starting and stopping --------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_crew_with_a_queue_alone_runs_until_it_is_stopped() -> None:
    """A queue never ends by itself, however little there is to do."""
    crew = rc.Crew()
    db = crew.queue("db", resource=Said().resource("a"))
    await crew.start()
    running = asyncio.ensure_future(crew.wait())
    assert "a" == await db.run(Said().work, 1)
    await asyncio.sleep(100_000)
    assert not running.done()
    report = await crew.stop()
    assert report.clean
    assert report is await running
    with pytest.raises(rc.ServiceStopped):
        await db.submit(Said().work, 1)


@pytest.mark.virtual
async def test_queues_are_ready_before_sources_start_and_outlive_them() -> None:
    """Whatever the order of adding."""
    said = Said()
    crew = rc.Crew()
    crew.add(rc.OneShot(said.source("source"), name="source"))
    crew.queue("db", resource=said.resource("db", opens_in=5))
    async with crew:
        assert 5.0 == now()
    assert ["db opens", "source begins", "source ends", "db closes"] == said


@pytest.mark.virtual
async def test_depends_on_beats_the_phases() -> None:
    """A source that a queue depends on comes before it, and goes after it; the other sources as ever."""
    said = Said()
    crew = rc.Crew()
    crew.add(rc.OneShot(said.source("poll"), name="poll"))
    crew.queue("db", resource=said.resource("db"), depends_on=["server"])
    crew.add(rc.OneShot(said.source("server"), name="server"))
    async with crew:
        await asyncio.sleep(1)
    assert ["server begins", "db opens", "poll begins", "poll ends", "db closes", "server ends"] == said


@pytest.mark.virtual
async def test_queues_start_and_stop_in_the_order_of_their_dependencies() -> None:
    """A queue that submits to another one depends on it, and is drained before it."""
    said = Said()
    crew = rc.Crew()
    mail = crew.queue("mail", resource=said.resource("mail"), depends_on=["db"])
    db = crew.queue("db", resource=said.resource("db", opens_in=2))

    async def send(resource: str) -> None:
        await asyncio.sleep(3)
        await db.submit(said.work, 4, "job of mail")

    await crew.start()
    assert ["db opens", "mail opens"] == said
    await mail.submit(send)
    report = await crew.stop()
    assert ["mail closes", "db job of mail", "db closes"] == said[2:]
    assert (9.0, True) == (now(), report.clean)


@pytest.mark.virtual
@pytest.mark.parity("T5.49")
async def test_a_queue_accepts_until_the_sources_have_ended() -> None:
    """What a source submits on its way down is accepted and done, also where that takes a retry."""
    said = Said()
    crew = rc.Crew()
    db = crew.queue("db", resource=said.resource("db"), retry=rc.Retry(OSError, backoff=rc.Constant("2s")))
    trouble = iter([OSError("once"), None])

    async def flaky(resource: str) -> None:
        if (error := next(trouble)) is not None:
            raise error
        said.append("stored")

    @crew.interval("1h")
    async def poll() -> None:
        await asyncio.sleep(5)
        await db.submit(flaky)

    @crew.oneshot
    async def watch() -> None:
        try:
            await long()
        finally:
            await db.submit(said.work, 1, "last words")

    await crew.start()
    await asyncio.sleep(1)
    report = await crew.stop()
    assert ["db opens", "db last words", "stored", "db closes"] == said
    assert (7.0, True) == (now(), report.clean)
    assert {"succeeded": 2, "failed": 0} == {
        "succeeded": db.stats().runs.succeeded, "failed": db.stats().runs.failed,
    }  # fmt: skip


@pytest.mark.virtual
async def test_hooks_frame_all_phases() -> None:
    """The stopping hooks still can submit; the stopped hooks run when the resources are closed."""
    said = Said()
    crew = rc.Crew()
    db = crew.queue("db", resource=said.resource("db"))

    @crew.on_stopping
    async def announce() -> None:
        await db.submit(said.work, 0, "announced")

    @crew.on_stopped
    async def sum_up() -> None:
        said.append("summed up")

    async with crew:
        pass
    assert ["db opens", "db announced", "db closes", "summed up"] == said


@pytest.mark.virtual
async def test_one_deadline_bounds_all_phases() -> None:
    """A source that takes all the time leaves the queue none: what waits there ends as interrupted."""
    said = Said()
    crew = rc.Crew()
    db = crew.queue("db", resource=said.resource("db"))

    @crew.oneshot
    async def stubborn() -> None:
        try:
            await long()
        finally:
            await asyncio.sleep(7)

    await crew.start()
    tickets = [await db.submit(said.work, 100) for _ in range(3)]
    report = await crew.stop("10s")
    assert ["interrupted"] * 3 == [ticket.status for ticket in tickets]
    assert 11.0 >= now() >= 9.0
    assert not report.would_not_stop
    assert "db closes" == said[-1]


@pytest.mark.virtual
async def test_a_kill_does_not_wait_for_phases() -> None:
    """Queued and running work ends at once, as interrupted, and every resource is closed."""
    said = Said()
    crew = rc.Crew()
    db = crew.queue("db", resource=said.resource("db"), workers=2)
    crew.add(rc.OneShot(said.source("source"), name="source"))
    await crew.start()
    tickets = [await db.submit(said.work, 100) for _ in range(5)]
    await asyncio.sleep(1)
    report = await crew.kill()
    assert ["interrupted"] * 5 == [ticket.status for ticket in tickets]
    assert 2 == said.count("db closes")
    assert (1.0, True) == (now(), report.clean)


@pytest.mark.virtual
async def test_what_is_added_later_is_placed_too() -> None:
    """A queue and a source that come while the crew runs stop in the same order as the others."""
    said = Said()
    crew = rc.Crew(keep_open=True)
    async with crew:
        crew.queue("db", resource=said.resource("db", opens_in=3))
        crew.add(rc.OneShot(said.source("source"), name="source"))
        await asyncio.sleep(1)
        assert [] == said
        await asyncio.sleep(3)
    assert ["db opens", "source begins", "source ends", "db closes"] == said


@pytest.mark.virtual
async def test_a_source_that_is_being_removed_is_served_to_its_end() -> None:
    """A stop in the middle of a removal keeps the queues open for it as well."""
    said = Said()
    crew = rc.Crew()
    db = crew.queue("db", resource=said.resource("db"))

    @crew.interval("1h")
    async def poll() -> None:
        await asyncio.sleep(5)
        await db.run(said.work, 1, "late")

    await crew.start()
    await asyncio.sleep(1)
    removal = asyncio.ensure_future(crew.remove("poll"))
    await asyncio.sleep(1)
    report = await crew.stop()
    await removal
    assert "db late" in said
    assert () == report.errors


@pytest.mark.virtual
async def test_a_removed_queue_is_waited_for_by_nobody() -> None:
    """Sources that only came after it start again without it."""
    said = Said()
    crew = rc.Crew(on_failure="restart", backoff=rc.Constant("10s"))
    crew.queue("db", resource=said.resource("db"))

    @crew.oneshot
    async def fails_once() -> None:
        said.append("begins")
        if said.count("begins") == 1:
            await asyncio.sleep(1)
            raise OSError
        await long()

    async with crew:
        await asyncio.sleep(2)
        await crew.remove("db")
        await asyncio.sleep(20)
        assert State.RUNNING is crew["fails_once"].state  # type: ignore[attr-defined]
    assert ["db opens", "begins", "db closes", "begins"] == said


@pytest.mark.virtual
async def test_the_name_of_a_removed_queue_is_free() -> None:
    """A source that takes it waits for nobody, and least of all for itself."""
    crew = rc.Crew(keep_open=True)
    async with crew:
        crew.queue("db")
        await asyncio.sleep(1)
        await crew.remove("db")
        crew.add(rc.OneShot(long, name="db"))
        await asyncio.sleep(1)
        assert State.RUNNING is crew["db"].state  # type: ignore[attr-defined]


# --- failing --------------------------------------------------------------------------------------


class Held:
    """What can be closed."""

    def close(self) -> None:
        """Let go."""


async def careless() -> Held:
    """Makes what can be closed, and nobody has said how."""
    return Held()


@pytest.mark.virtual
@pytest.mark.parametrize("on_failure", ["stop", "isolate", "restart"])
async def test_a_queue_that_fails_for_good_is_a_failed_child(on_failure: Any) -> None:
    """A resource that can never be made is a permanent error of its queue, and is handled like any other."""
    crew = rc.Crew(intensity=rc.Intensity(2, "1h"), backoff=rc.Constant("1s"))
    crew.queue("db", resource=careless, on_failure=on_failure)
    lives = crew["db"]
    begun: list[float] = []

    async def source() -> None:
        begun.append(now())
        await asyncio.sleep(10)

    crew.add(rc.OneShot(source))
    with pytest.raises(ExceptionGroup) as caught:
        await crew.run()
    assert all(isinstance(error, rc.ConfigError) for error in caught.value.exceptions)
    assert 1 == len(caught.value.exceptions)
    assert {"stop": 1, "isolate": 1, "restart": 3}[on_failure] == lives.generation  # type: ignore[attr-defined]
    if on_failure == "isolate":
        assert [0.0] == begun, "who only came after it starts without it"


@pytest.mark.virtual
async def test_what_depends_on_a_failed_queue_never_starts() -> None:
    """Said explicitly, a dependency is more than an order."""
    crew = rc.Crew()
    crew.queue("db", resource=careless, on_failure="isolate")
    begun: list[str] = []

    @crew.oneshot(depends_on=["db"])
    async def source() -> None:
        begun.append("source")

    with pytest.raises(ExceptionGroup):
        await crew.run()
    assert [] == begun


@pytest.mark.virtual
async def test_a_database_that_is_down_does_not_keep_the_crew_from_starting() -> None:
    """Openings that fail are tried again; the queue counts as ready, and what is submitted waits."""
    crew = rc.Crew()

    async def connect() -> str:
        if now() < 5:
            raise ConnectionRefusedError
        return "connection"

    db = crew.queue("db", resource=connect)

    async def job(connection: str) -> str:
        return connection

    async with crew:
        assert 0.0 == now()
        assert "connection" == await db.run(job)
        assert now() >= 5


@pytest.mark.virtual
async def test_a_failed_run_is_nobodys_failure() -> None:
    """What a job raises is its ticket's, also where that is a word to a supervisor."""
    crew = rc.Crew()
    db = crew.queue("db")

    async def job(error: Exception) -> None:
        raise error

    async with crew:
        for error in (ValueError("mine"), rc.Done(), rc.StopTree()):
            with pytest.raises(type(error)) as caught:
                await db.run(job, error)
            assert error is caught.value
        await asyncio.sleep(1)
        assert State.RUNNING is crew.state


@pytest.mark.virtual
@pytest.mark.parametrize("nested", [False, True])
async def test_a_resource_that_does_not_let_go_is_named(nested: bool) -> None:
    """The report of the crew says what hangs and where, and not only that a child does."""

    async def deaf() -> AsyncIterator[None]:
        yield
        while now() < 100:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    crew, db = rc.Crew(), rc.Queue("db", resource=deaf)
    crew.add(rc.Supervisor(db, name="below") if nested else db)
    await crew.start()
    report = await crew.kill()
    (stuck,) = report.would_not_stop
    assert ("db", "the resource of worker 1 (closing)") == (stuck.service, stuck.what)
    assert "opened.close()" in stuck.stack
    assert now() <= 3
    await asyncio.sleep(200)


# --- supervisors in between -----------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_supervisor_of_queues_alone_is_like_a_queue() -> None:
    """It is up before the sources, and stops when they have ended."""
    said = Said()
    crew = rc.Crew()
    crew.add(rc.OneShot(said.source("source"), name="source"))
    one, two = (rc.Queue(name, resource=said.resource(name)) for name in ("one", "two"))
    crew.add(rc.Supervisor(one, two, name="stores"))
    async with crew:
        await one.submit(said.work, 1, "job")
    assert ["one opens", "two opens", "source begins", "source ends"] == said[:4]
    assert {"one closes", "one job", "two closes"} == set(said[4:])


@pytest.mark.virtual
async def test_a_supervisor_with_a_queue_stops_in_reverse_order_of_adding() -> None:
    """A bare supervisor has no phases: its queue comes first, and so goes last."""
    said = Said()
    db = rc.Queue("db", resource=said.resource("db"))

    async def poll() -> None:
        await asyncio.sleep(5)
        await db.submit(said.work, 1, "last")

    below = rc.Supervisor(db, rc.Interval(poll, "1h"), name="below")
    crew = rc.Crew()
    crew.add(below)
    mail = crew.queue("mail", resource=said.resource("mail"))
    await crew.start()
    await asyncio.sleep(1)
    await mail.submit(said.work, 1)
    assert (await crew.stop()).clean
    assert ["db last", "db closes", "mail closes"] == said[-3:]


@pytest.mark.virtual
async def test_a_crew_in_a_crew_keeps_its_own_phases() -> None:
    """The inner one stops as a source of the outer one, with its queues last."""
    said = Said()
    inner, outer = rc.Crew("inner"), rc.Crew("outer")
    inner.queue("db", resource=said.resource("db"))
    inner.add(rc.OneShot(said.source("source"), name="source"))
    outer.queue("log", resource=said.resource("log"))
    outer.add(inner)
    async with outer:
        pass
    assert ["log opens", "db opens", "source begins", "source ends", "db closes", "log closes"] == said


@pytest.mark.virtual
async def test_a_second_life_of_the_crew_is_a_second_life_of_its_queues() -> None:
    """Nothing is left over from the first one."""
    crew = rc.Crew()
    db = crew.queue("db", resource=Said().resource("a"))
    for life in (1, 2):
        async with crew:
            assert "a" == await db.run(Said().work, 1)
            assert (life, 1) == (db.generation, db.stats().runs.succeeded)


@pytest.mark.realtime
def test_a_queue_can_be_the_whole_program() -> None:
    """`rc.run` runs one as it runs any service: until it is stopped."""
    queue = rc.Queue("alone")
    queue.subscribe(lambda _: queue.stop(), StateChanged)
    assert 0 == rc.run(queue)
    assert State.STOPPED is queue.state


# --- any crew at all ------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> dict[str, list[str]]:
    """Queues and sources by name, q… and s…, with what they depend on; in any order of adding."""
    names = draw(st.permutations([f"q{i}" for i in range(3)] + [f"s{i}" for i in range(4)]))
    needs = {name: [other for other in names[:i] if draw(st.integers(0, 3)) == 0] for i, name in enumerate(names)}
    return {name: needs[name] for name in draw(st.permutations(names))}


@settings(max_examples=150, deadline=None)
@given(plans(), st.booleans())
def test_whatever_depends_on_what_nothing_that_may_be_submitted_is_refused(
    plan: dict[str, list[str]], by_job: bool
) -> None:
    """On its way down each child submits to every queue that outlives it, and all of that is accepted and done."""
    queues = [name for name in plan if name.startswith("q")]
    outlives = with_phases(plan, queues)
    done: list[str] = []
    refused: list[str] = []

    async def main() -> None:
        crew = rc.Crew("any")
        made: dict[str, rc.Queue[Any]] = {}

        async def store(of: str, to: str) -> None:
            await asyncio.sleep(1)
            done.append(f"{of} to {to}")

        async def last_words(of: str) -> None:
            for to in outlives[of]:
                if to in made:
                    try:
                        await made[to].submit(store, of, to)
                    except rc.RuncrewError as error:
                        refused.append(f"{of} to {to}: {error}")

        async def of_a_queue(of: str) -> None:
            await asyncio.sleep(2)
            await last_words(of)

        def source(of: str) -> Callable[[], Any]:
            async def job() -> None:
                try:
                    await long()
                finally:
                    await last_words(of)

            return job

        for name, needs in plan.items():
            if name in queues:
                made[name] = crew.queue(name, depends_on=needs)
            else:
                crew.add(rc.OneShot(source(name), name=name), depends_on=needs)
        await crew.start()
        await asyncio.sleep(1)
        if by_job:
            for name in queues:
                await made[name].submit(of_a_queue, name)
        report = await crew.stop("1h")
        assert report.clean

    run_virtual(main)
    assert [] == refused
    speakers = [name for name in plan if by_job or name not in queues]
    assert sorted(f"{of} to {to}" for of in speakers for to in outlives[of] if to in queues) == sorted(done)
