"""Children of any kind: added and removed while running, waiting for one another, foreign, and ill-behaved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import runcrew as rc
from runcrew.errors import AlreadyStarted, ConfigError, ServiceStopping
from runcrew.lifecycle import State


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


async def quick() -> None:
    """Is over at once."""


def noting(said: list[str], name: str) -> Callable[[], Any]:
    """A hook that notes that it was called."""

    async def hook() -> None:
        said.append(name)

    return hook


# --- adding -------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.defect("D3.17")
async def test_a_child_added_while_running_is_really_started() -> None:
    """A late child starts at once, is watched and stopped like the others, and its hooks are called like theirs."""
    said: list[str] = []

    async def job() -> None:
        said.append("job")
        await long()

    supervisor = rc.Supervisor(rc.OneShot(long))
    await supervisor.start()
    await asyncio.sleep(1)
    late = rc.OneShot(job, name="late", on_stopped=noting(said, "hook"))
    assert late is supervisor.add(late)
    await asyncio.sleep(1)
    assert (State.RUNNING, late) == (late.state, supervisor["late"])
    report = await supervisor.stop()
    assert (["job", "hook"], 2) == (said, report.cancelled)


@pytest.mark.virtual
async def test_a_late_child_that_fails_stops_the_others() -> None:
    """It counts as a child from the first moment."""

    async def fails() -> None:
        raise OSError

    supervisor = rc.Supervisor(rc.OneShot(long))
    await supervisor.start()
    supervisor.add(rc.OneShot(fails))
    with pytest.raises(ExceptionGroup):
        await supervisor.wait()


@pytest.mark.virtual
@pytest.mark.defect("D3.17")
async def test_a_child_added_by_a_childs_job() -> None:
    """A job may add to its own supervisor, while that starts and while it runs."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())

    async def adds() -> None:
        supervisor.add(rc.OneShot(job, name="early"))
        await asyncio.sleep(5)
        supervisor.add(rc.OneShot(job, name="late"))

    supervisor = rc.Supervisor(rc.OneShot(adds, ready="succeeded"))
    await supervisor.run()
    assert ([0.0, 5.0], ["adds", "early", "late"]) == (begun, list(supervisor))


@pytest.mark.virtual
async def test_a_stopping_supervisor_takes_no_child() -> None:
    """What is on its way down takes nothing new, and says so."""

    async def slow() -> None:
        await asyncio.sleep(1)

    supervisor = rc.Supervisor(rc.OneShot(long), on_stopping=slow)
    await supervisor.start()
    stop = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0.5)
    for call in (lambda: supervisor.add(rc.OneShot(quick)), None):
        with pytest.raises(ServiceStopping):
            await supervisor.remove("long") if call is None else call()
    await stop
    supervisor.add(rc.OneShot(quick))
    assert ["long", "quick"] == list(supervisor)


def test_two_children_with_one_name_are_refused() -> None:
    """A name is taken once, and the message says what to do."""
    supervisor = rc.Supervisor(rc.OneShot(quick), name="top")
    with pytest.raises(ConfigError, match="top has a child named 'quick' already: give this one another name="):
        supervisor.add(rc.Interval(quick, 1))
    supervisor.add(rc.Interval(quick, 1), name="other")
    assert ["quick", "other"] == list(supervisor)
    with pytest.raises(ConfigError, match="already"):
        rc.Supervisor(rc.OneShot(quick), rc.OneShot(quick))


@pytest.mark.parity("T3.73")
@pytest.mark.defect("D3.17")
def test_one_service_is_a_child_once() -> None:
    """The same object cannot run twice at a time, here or in two places."""
    service = rc.OneShot(quick)
    supervisor = rc.Supervisor(service, name="top")
    for other in (supervisor, rc.Supervisor(name="second")):
        with pytest.raises(ConfigError, match="quick is a child of top already"):
            other.add(service, name="again")
    foreign = Foreign()
    supervisor.add(foreign)
    with pytest.raises(ConfigError, match="cannot run twice at a time"):
        supervisor.add(foreign, name="again")


def test_no_supervisor_is_its_own_child() -> None:
    """A tree has no ring."""
    inner = rc.Supervisor(name="inner")
    outer = rc.Supervisor(rc.Supervisor(inner, name="middle"), name="outer")
    for above in (inner, outer):
        with pytest.raises(ConfigError, match="inner cannot be a child of itself"):
            inner.add(above, name="x")


@pytest.mark.virtual
async def test_a_service_that_runs_already_is_refused() -> None:
    """A supervisor starts its children itself."""
    service = rc.OneShot(long)
    await service.start()
    with pytest.raises(AlreadyStarted, match="its supervisor starts it"):
        rc.Supervisor(service)
    await service.stop()
    rc.Supervisor(service)


@pytest.mark.parametrize("service", [None, 42, quick, object(), rc.OneShot, "poll"])
def test_what_is_no_service_is_refused(service: Any) -> None:
    """A child needs start, stop and wait; a class of services is none."""
    with pytest.raises(ConfigError, match="is not a service"):
        rc.Supervisor().add(service)


@pytest.mark.parametrize("name", [42, b"x", ("a",)])
def test_a_name_is_a_string(name: Any) -> None:
    """What cannot be looked up later is refused now."""
    with pytest.raises(ConfigError, match="is not a string"):
        rc.Supervisor().add(rc.OneShot(quick), name=name)


def test_who_is_a_child_can_be_asked() -> None:
    """A supervisor can be looked into like a mapping, and names what there is where a name is not."""
    supervisor = rc.Supervisor(rc.OneShot(quick), name="top")
    assert ("quick" in supervisor, "x" in supervisor, 1) == (True, False, len(supervisor))
    with pytest.raises(KeyError, match="top has no child named 'x'; it has quick"):
        supervisor["x"]


# --- removing -----------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_child_is_removed_while_running() -> None:
    """A removed child is stopped, its hooks are called, and it is forgotten; the others go on."""
    said: list[str] = []
    child = rc.OneShot(long, name="child", on_stopping=noting(said, "stopping"), on_stopped=noting(said, "stopped"))
    supervisor = rc.Supervisor(rc.OneShot(long), child)
    await supervisor.start()
    await asyncio.sleep(1)
    report = await supervisor.remove("child")
    assert report is not None
    assert (["stopping", "stopped"], 1, ["long"]) == (said, report.cancelled, list(supervisor))
    assert (State.STOPPED, State.RUNNING) == (child.state, supervisor.state)
    supervisor.add(child)
    await asyncio.sleep(1)
    assert State.RUNNING is child.state
    await supervisor.stop()
    assert ["stopping", "stopped"] * 2 == said


@pytest.mark.virtual
async def test_the_removal_of_the_last_child_is_the_end() -> None:
    """A supervisor whose last child was removed has nothing left to watch over."""
    supervisor = rc.Supervisor(rc.OneShot(long))
    await supervisor.start()
    await supervisor.remove("long")
    assert State.STOPPED is supervisor.state


@pytest.mark.virtual
async def test_removing_from_what_does_not_run() -> None:
    """Before the start and after the end a child is just forgotten."""
    said: list[str] = []
    child = rc.OneShot(long, on_stopped=noting(said, "hook"))
    supervisor = rc.Supervisor(child)
    assert None is await supervisor.remove("long")
    assert ([], []) == (list(supervisor), said)
    rc.Supervisor(child)


@pytest.mark.virtual
@pytest.mark.parametrize("where", ["job", "hook"])
async def test_a_child_may_remove_itself(where: str) -> None:
    """From inside the child's own work a removal is only begun."""
    answers: list[Any] = []

    async def remove() -> None:
        answers.append(await supervisor.remove("child"))

    async def job() -> None:
        if where == "job":
            await remove()
        await long()

    child = rc.OneShot(job, name="child", on_stopping=remove if where == "hook" else ())
    supervisor = rc.Supervisor(child, keep_open=True)
    await supervisor.start()
    await asyncio.sleep(1)
    if where == "hook":
        await child.stop()
    await asyncio.sleep(1)
    assert ([None], [], State.STOPPED) == (answers, list(supervisor), child.state)
    await supervisor.stop()


@pytest.mark.virtual
async def test_a_child_may_remove_its_sibling() -> None:
    """A removal of another child is waited for."""
    reports: list[Any] = []

    async def job() -> None:
        await asyncio.sleep(1)
        reports.append(await supervisor.remove("long"))

    supervisor = rc.Supervisor(rc.OneShot(long), rc.OneShot(job))
    await supervisor.run()
    assert [1] == [report.cancelled for report in reports]


@pytest.mark.virtual
async def test_a_child_is_removed_once() -> None:
    """Several removals at a time are one: hooks are called once, and all get the report."""
    said: list[str] = []

    async def slow() -> None:
        try:
            await long()
        finally:
            await asyncio.sleep(2)

    supervisor = rc.Supervisor(rc.OneShot(slow, on_stopped=noting(said, "hook")), keep_open=True)
    await supervisor.start()
    await asyncio.sleep(1)
    reports = await asyncio.gather(*(supervisor.remove("slow") for _ in range(3)))
    assert (["hook"], 1) == (said, len(dict.fromkeys(map(id, reports))))
    with pytest.raises(KeyError):
        await supervisor.remove("slow")
    await supervisor.stop()


@pytest.mark.virtual
async def test_a_removal_keeps_its_time() -> None:
    """A child that will not stop is given up when the time is up, and told in the supervisor's report."""

    class Hangs(Foreign):
        async def stop(self, timeout: Any = 0) -> None:
            await long()

    supervisor = rc.Supervisor(Hangs(lasts=1e6), keep_open=True, name="top")
    await supervisor.start()
    await asyncio.sleep(1)
    await supervisor.remove("Hangs", timeout="5s")
    assert now() <= 1 + 5 + 3
    assert [] == list(supervisor)
    report = await supervisor.stop()
    assert ["Hangs"] == [stuck.service for stuck in report.would_not_stop]


@pytest.mark.virtual
async def test_a_removal_that_a_stop_overtakes() -> None:
    """A stop during a removal waits for it, and calls the child's hooks no second time."""
    said: list[str] = []

    async def slow() -> None:
        try:
            await long()
        finally:
            await asyncio.sleep(2)

    async def slow_hook() -> None:
        await asyncio.sleep(1)
        said.append("hook")

    supervisor = rc.Supervisor(rc.OneShot(slow, on_stopped=slow_hook), rc.OneShot(long))
    await supervisor.start()
    await asyncio.sleep(1)
    removal = asyncio.create_task(supervisor.remove("slow"))
    await asyncio.sleep(1)
    report = await supervisor.stop()
    assert (["hook"], 4.0, True) == (said, now(), report.clean)
    await removal
    assert ["long"] == list(supervisor)


@pytest.mark.virtual
async def test_a_child_that_waits_for_its_restart_can_be_removed() -> None:
    """The restart never comes."""
    begun: list[float] = []

    async def fails() -> None:
        begun.append(now())
        raise OSError

    supervisor = rc.Supervisor(rc.OneShot(fails, on_failure="restart"), keep_open=True, backoff=rc.Constant("10s"))
    await supervisor.start()
    await asyncio.sleep(1)
    await supervisor.remove("fails")
    await asyncio.sleep(60)
    assert ([0.0], True) == (begun, (await supervisor.stop()).clean)


@pytest.mark.virtual
async def test_a_child_that_waits_for_another_can_be_removed() -> None:
    """A child that has not begun never begins, and no longer keeps its supervisor from being ready."""
    supervisor = rc.Supervisor(rc.OneShot(long, ready="succeeded"), keep_open=True)
    supervisor.add(rc.OneShot(quick), depends_on=["long"])
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1)
    await supervisor.remove("quick")
    await supervisor.remove("long")
    await start
    assert State.RUNNING is supervisor.state
    await supervisor.stop()


@pytest.mark.virtual
async def test_what_others_depend_on_cannot_be_removed() -> None:
    """Nobody loses what it depends on."""
    supervisor = rc.Supervisor(rc.OneShot(long), name="top")
    supervisor.add(rc.OneShot(long, name="needs"), depends_on=["long"])
    with pytest.raises(ConfigError, match="'long' cannot be removed, needs depend"):
        await supervisor.remove("long")
    await supervisor.remove("needs")
    await supervisor.remove("long")


@pytest.mark.virtual
async def test_the_error_of_a_removed_child_is_kept() -> None:
    """What a child raises while it is removed comes out at the end, and ends nobody else."""

    async def fails() -> None:
        try:
            await long()
        finally:
            raise OSError("clean-up")

    supervisor = rc.Supervisor(rc.OneShot(fails), rc.OneShot(long))
    await supervisor.start()
    await asyncio.sleep(1)
    await supervisor.remove("fails")
    assert State.RUNNING is supervisor.state
    assert ["clean-up"] == [str(error) for error in (await supervisor.stop()).errors]


# --- by hand --------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_child_that_is_stopped_by_hand_has_ended() -> None:
    """Whoever stops a child ends it, well; it is not restarted."""
    child = rc.OneShot(long, on_failure="restart")
    supervisor = rc.Supervisor(child)
    await supervisor.start()
    await child.stop()
    await supervisor.wait()
    assert (State.STOPPED, 1) == (supervisor.state, child.generation)


@pytest.mark.virtual
async def test_a_child_that_is_started_by_hand_again_is_watched_again() -> None:
    """A child somebody starts again belongs to its supervisor: its failure counts, and a stop ends it."""
    fails: list[int] = []

    async def job() -> None:
        if fails:
            await asyncio.sleep(1)
            raise OSError
        await long()

    child = rc.OneShot(job)
    supervisor = rc.Supervisor(child, keep_open=True)
    await supervisor.start()
    await child.stop()
    await asyncio.sleep(1)
    await child.start()
    assert (1, State.STOPPED) == ((await supervisor.stop()).cancelled, child.state)
    await supervisor.start()
    await child.stop()
    fails.append(1)
    await child.start()
    with pytest.raises(ExceptionGroup):
        await supervisor.wait()


@pytest.mark.virtual
async def test_a_child_that_is_restarted_by_hand_in_one_breath() -> None:
    """Stop and start without a pause between them leave a child that is watched."""
    child = rc.OneShot(long)
    supervisor = rc.Supervisor(child)
    await supervisor.start()
    for _ in range(3):
        await child.stop()
        await child.start()
    await asyncio.sleep(1)
    assert (State.RUNNING, State.RUNNING, 4) == (supervisor.state, child.state, child.generation)
    await supervisor.stop()
    assert State.STOPPED is child.state


@pytest.mark.virtual
async def test_a_child_that_is_started_by_hand_before_its_turn() -> None:
    """Who does not want to wait for what a child depends on may start it; it is watched from then on."""
    needs = rc.OneShot(long, name="needs")
    supervisor = rc.Supervisor(rc.OneShot(long, ready="succeeded"))
    supervisor.add(needs, depends_on=["long"])
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1)
    await needs.start()
    await asyncio.sleep(1)
    assert State.RUNNING is needs.state
    report = await supervisor.stop()
    assert (State.STOPPED, 2) == (needs.state, report.cancelled)
    with pytest.raises(rc.ServiceStopped):
        await start


@pytest.mark.virtual
async def test_a_child_that_is_started_by_hand_before_its_restart() -> None:
    """The pause before a restart is over when somebody starts the child himself."""
    fails = [1]

    async def job() -> None:
        if fails:
            fails.clear()
            raise OSError
        await long()

    child = rc.OneShot(job, on_failure="restart")
    supervisor = rc.Supervisor(child, backoff=rc.Constant("10s"))
    await supervisor.start()
    await asyncio.sleep(1)
    await child.start()
    await asyncio.sleep(20)
    assert (State.RUNNING, 2) == (child.state, child.generation)
    await supervisor.stop()
    assert State.STOPPED is child.state


@pytest.mark.virtual
async def test_a_child_of_a_stopping_supervisor_cannot_be_started() -> None:
    """Nothing new begins in what is on its way down."""

    async def slow() -> None:
        await asyncio.sleep(2)

    child = rc.OneShot(quick)
    supervisor = rc.Supervisor(child, rc.OneShot(slow, drain="finish"), keep_open=True)
    await supervisor.start()
    stop = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(1)
    with pytest.raises(ServiceStopping, match="takes quick with it"):
        await child.start()
    await stop


# --- readiness and dependencies ---------------------------------------------------------------


@pytest.mark.virtual
async def test_a_child_starts_when_all_it_depends_on_is_ready() -> None:
    """Readiness, not mere start, is what dependants wait for; the others start at once."""
    begun: dict[str, float] = {}

    def job(name: str, span: float) -> Callable[[], Any]:
        async def run() -> None:
            begun[name] = now()
            await asyncio.sleep(span)
            rc.current_run().ready()
            await asyncio.sleep(10)

        return run

    supervisor = rc.Supervisor()
    supervisor.add(rc.OneShot(job("web", 1), name="web", ready="signal"), depends_on=["db", "cache"])
    supervisor.add(rc.OneShot(job("db", 3), name="db", ready="signal"))
    supervisor.add(rc.OneShot(job("cache", 5), name="cache", ready="signal"))
    supervisor.add(rc.OneShot(job("mail", 0), name="mail"), depends_on="web")
    await supervisor.start()
    assert {"db": 0.0, "cache": 0.0, "web": 5.0, "mail": 6.0} == begun
    await supervisor.stop()


@pytest.mark.virtual
async def test_a_supervisor_is_ready_when_all_its_children_are() -> None:
    """Readiness goes up the tree, and dependencies may be on whole subtrees."""

    async def migrate() -> None:
        await asyncio.sleep(3)

    supervisor = rc.Supervisor(rc.Supervisor(rc.OneShot(migrate, ready="succeeded"), name="base", keep_open=True))
    child = rc.OneShot(long)
    supervisor.add(child, depends_on=["base"])
    await supervisor.start()
    assert (3.0, State.RUNNING) == (now(), child.state)
    await supervisor.stop()


@pytest.mark.virtual
@pytest.mark.parametrize("on_failure", ["stop", "isolate"])
async def test_what_depends_on_a_failure_never_starts(on_failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A dependency that fails before it is ready keeps its dependants, and theirs, from starting; that is told."""
    begun: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(1)
        raise OSError

    supervisor = rc.Supervisor(rc.OneShot(fails, ready="succeeded"), on_failure=on_failure)
    supervisor.add(rc.OneShot(noting(begun, "second"), name="second"), depends_on=["fails"])
    supervisor.add(rc.OneShot(noting(begun, "third"), name="third"), depends_on=["second"])
    supervisor.add(rc.OneShot(noting(begun, "other"), name="other"))
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    assert ["other"] == begun
    assert supervisor.report is not None
    assert 2 == supervisor.report.never_started
    if on_failure == "isolate":
        assert "second never starts, as fails did not become ready" in caplog.text


@pytest.mark.virtual
async def test_what_has_been_ready_may_end() -> None:
    """A migration that is done keeps nobody waiting; that it ended later does not matter to who starts later."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())

    supervisor = rc.Supervisor(rc.OneShot(quick, ready="succeeded"), rc.OneShot(long))
    await supervisor.start()
    await asyncio.sleep(5)
    supervisor.add(rc.OneShot(job), depends_on=["quick", "long"])
    await asyncio.sleep(1)
    assert [5.0] == begun
    await supervisor.stop()


@pytest.mark.virtual
async def test_what_is_done_before_it_was_ready_was_good_for_those_who_wait() -> None:
    """A child that says Done instead of ready has done what others wait for."""

    async def done() -> None:
        raise rc.Done

    begun: list[str] = []
    supervisor = rc.Supervisor(rc.OneShot(done, ready="signal"), Foreign(rc.Done(), name="foreign"))
    supervisor.add(rc.OneShot(noting(begun, "x"), name="x"), depends_on=["done", "foreign"])
    await supervisor.run()
    assert ["x"] == begun


@pytest.mark.virtual
async def test_what_was_stopped_before_it_was_ready_is_not_ready() -> None:
    """A dependency that somebody stops while it starts keeps its dependants from starting."""
    begun: list[str] = []
    needed = rc.OneShot(long, ready="succeeded")
    supervisor = rc.Supervisor(needed)
    supervisor.add(rc.OneShot(noting(begun, "x"), name="x"), depends_on=["long"])
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1)
    await needed.stop()
    await start
    report = await supervisor.wait()
    assert ([], 1) == (begun, report.never_started)


@pytest.mark.virtual
async def test_dependants_stop_before_what_they_depend_on() -> None:
    """Stopping is the mirror image of starting, whatever the order of adding was."""
    ended: list[str] = []

    def job(name: str) -> Callable[[], Any]:
        async def run() -> None:
            try:
                await long()
            finally:
                await asyncio.sleep(1)
                ended.append(name)

        return run

    for kind in (rc.Supervisor, rc.Crew):
        ended.clear()
        supervisor = kind(name="top")
        supervisor.add(rc.OneShot(job("web"), name="web"), depends_on=["db"])
        supervisor.add(rc.OneShot(job("mail"), name="mail"), depends_on=["web"])
        supervisor.add(rc.OneShot(job("db"), name="db"))
        await supervisor.start()
        await supervisor.stop()
        assert ["mail", "web", "db"] == ended


@pytest.mark.virtual
async def test_a_dependency_that_is_not_there_is_refused_at_the_start() -> None:
    """While a tree is put together a dependency may come later; at the start it must be there."""
    supervisor = rc.Supervisor(name="top")
    supervisor.add(rc.OneShot(quick), depends_on=["db"])
    for call in (supervisor.start, supervisor.run):
        with pytest.raises(ConfigError, match="top: 'quick' depends on 'db', which is not there: it has quick"):
            await call()
    with pytest.raises(ConfigError, match="db"):
        supervisor.check()
    outer = rc.Supervisor(supervisor)
    with pytest.raises(ConfigError, match="db"):
        outer.check()
    assert (State.FAILED, 1) == (supervisor.state, len(supervisor.report.errors) if supervisor.report else 0)
    supervisor.add(rc.OneShot(quick, name="db"))
    await outer.run()


@pytest.mark.virtual
async def test_a_running_supervisor_refuses_a_dependency_that_is_not_there() -> None:
    """A late child cannot wait for what nobody has added."""
    supervisor = rc.Supervisor(rc.OneShot(long), name="top")
    await supervisor.start()
    with pytest.raises(ConfigError, match="'quick' depends on 'db'"):
        supervisor.add(rc.OneShot(quick), depends_on=["db"])
    assert ["long"] == list(supervisor)
    await supervisor.stop()


def test_a_circle_is_refused_when_it_is_closed() -> None:
    """The whole way round is in the message."""
    supervisor = rc.Supervisor(name="top")
    supervisor.add(rc.OneShot(quick, name="a"), depends_on=["b"])
    supervisor.add(rc.OneShot(quick, name="b"), depends_on=["c"])
    with pytest.raises(ConfigError, match="top: the dependencies go in a circle: a -> b -> c -> a"):
        supervisor.add(rc.OneShot(quick, name="c"), depends_on=["a"])
    with pytest.raises(ConfigError, match="in a circle: x -> x"):
        supervisor.add(rc.OneShot(quick, name="x"), depends_on=["x"])


# --- services of other kinds --------------------------------------------------------------------


class Foreign:
    """A service of a user that ends by itself, or when it is stopped."""

    def __init__(self, error: BaseException | None = None, lasts: float = 1, name: str | None = None) -> None:
        self.error = error
        self.lasts = lasts
        self.calls: list[str] = []
        self.over: asyncio.Event | None = None
        if name is not None:
            self.name = name

    async def start(self) -> None:
        """Be ready."""
        self.calls.append("start")
        self.over = asyncio.Event()
        asyncio.get_running_loop().call_later(self.lasts, self.over.set)

    async def wait(self) -> None:
        """End."""
        assert self.over is not None
        await self.over.wait()
        if self.error is not None:
            raise self.error

    async def stop(self, timeout: Any = 0) -> None:
        """End sooner."""
        self.calls.append(f"stop {timeout:g}")
        assert self.over is not None
        self.over.set()


@pytest.mark.virtual
async def test_any_object_with_the_three_methods_is_a_service() -> None:
    """A user's own service is started, waited for and stopped within the time that is left."""
    one, two = Foreign(lasts=1e6, name="one"), Foreign(lasts=2)
    supervisor = rc.Supervisor(one, two)
    await supervisor.start()
    await asyncio.sleep(5)
    report = await supervisor.stop("10s")
    assert (["start", "stop 10"], ["start"], 5.0) == (one.calls, two.calls, now())
    assert (["one", "Foreign"], True) == (list(supervisor), report.clean)


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("error", "state", "cause"),
    [
        (None, State.STOPPED, None),
        (rc.Done(), State.STOPPED, None),
        (rc.StopTree(), State.STOPPED, None),
        (OSError("x"), State.FAILED, None),
        (SystemExit(3), State.FAILED, SystemExit),
        (KeyboardInterrupt(), State.FAILED, KeyboardInterrupt),
        (asyncio.CancelledError(), State.FAILED, asyncio.CancelledError),
        (GeneratorExit(), State.FAILED, GeneratorExit),
        (rc.ServiceStopped("some queue"), State.FAILED, None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("where", ["start", "wait"])
async def test_what_a_foreign_service_may_raise(
    error: BaseException | None, state: State, cause: type[BaseException] | None, where: str
) -> None:
    """Whatever comes out of start or wait is an end, well or not; nothing of it ends the loop."""

    class Raises(Foreign):
        async def start(self) -> None:
            await super().start()
            if where == "start" and self.error is not None:
                await asyncio.sleep(1)
                raise self.error

    service = Raises(error)
    supervisor = rc.Supervisor(service, rc.OneShot(quick))
    if state is State.STOPPED:
        await supervisor.run()
    else:
        with pytest.raises(ExceptionGroup) as caught:
            await supervisor.run()
        (only,) = caught.value.exceptions
        if cause is None:
            assert only is error
        else:
            assert isinstance(only, rc.JobCrashed)
            assert isinstance(only.__cause__, cause)
    assert state is supervisor.state


@pytest.mark.virtual
@pytest.mark.parametrize("error", [OSError("x"), SystemExit(3), asyncio.CancelledError(), TimeoutError("mine")])
@pytest.mark.parametrize("call", ["stop", "kill"])
async def test_a_foreign_service_that_fails_to_stop(error: BaseException, call: str) -> None:
    """What stop or kill raises is an error of the supervisor, not a line in the log; the stop goes on."""

    class Raises(Foreign):
        async def stop(self, timeout: Any = 0) -> None:
            await super().stop(timeout)
            if call == "stop":
                raise error

        async def kill(self) -> None:
            await super().stop(0)
            raise error

    other = rc.OneShot(long)
    supervisor = rc.Supervisor(other, Raises(lasts=1e6))
    await supervisor.start()
    await asyncio.sleep(1)
    report = await getattr(supervisor, call)()
    (only,) = report.errors
    assert error is (only if isinstance(error, Exception) else only.__cause__)
    assert (State.FAILED, State.STOPPED, ()) == (supervisor.state, other.state, report.would_not_stop)


@pytest.mark.virtual
@pytest.mark.parametrize("where", ["start", "wait", "stop", "kill"])
async def test_a_foreign_service_that_hangs(where: str) -> None:
    """A service that hangs in any of its methods costs the stop of its supervisor some seconds over its time."""

    class Hangs(Foreign):
        async def start(self) -> None:
            await super().start()
            if where == "start":
                await long()

        async def wait(self) -> None:
            await long()

        async def stop(self, timeout: Any = 0) -> None:
            if where == "stop":
                await long()

        async def kill(self) -> None:
            if where == "kill":
                await long()

    supervisor = rc.Supervisor(rc.OneShot(long), Hangs())
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1)
    report = await supervisor.stop("5s")
    assert now() <= 1 + 5 + 2
    if where != "start":  # what hangs in its start is cancelled there
        (stuck,) = report.would_not_stop
        assert "Hangs" == stuck.service
        assert "await long()" in stuck.stack
        assert ("stop(" if where == "stop" else "wait()") in stuck.what
    await asyncio.wait([start])
    assert (None if where != "start" else rc.ServiceStopped) == (start.exception() and type(start.exception()))
    await asyncio.sleep(0)
    assert 1 == len(asyncio.all_tasks())


@pytest.mark.virtual
async def test_a_foreign_service_without_kill_is_stopped_with_no_time() -> None:
    """Where there is no kill, a stop without patience stands in."""

    class Deaf(Foreign):
        async def stop(self, timeout: Any = 0) -> None:
            self.calls.append(f"stop {timeout:g}")
            if timeout == 0:
                await super().stop(timeout)

    service = Deaf(lasts=1e6)
    supervisor = rc.Supervisor(service)
    await supervisor.start()
    report = await supervisor.stop("5s")
    assert (["start", "stop 5", "stop 0", "stop 0"], ()) == (service.calls, report.would_not_stop)


@pytest.mark.virtual
async def test_a_foreign_service_is_restarted_by_its_start() -> None:
    """A restart calls start again on the same object."""
    service = Foreign(OSError(), lasts=1)
    supervisor = rc.Supervisor(service, on_failure="restart", intensity=rc.Intensity(2, "1h"))
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    assert ["start"] * 3 == service.calls


@pytest.mark.virtual
async def test_a_plain_method_where_an_async_one_is_needed() -> None:
    """A service whose methods are not async fails with Python's own words, and hangs nobody."""

    class Plain:
        def start(self) -> None: ...
        def wait(self) -> None: ...
        def stop(self, timeout: Any = 0) -> None: ...

    with pytest.raises(ExceptionGroup) as caught:
        await rc.Supervisor(Plain()).run()  # type: ignore[arg-type]
    assert isinstance(caught.value.exceptions[0], TypeError)


@pytest.mark.virtual
async def test_a_child_whose_start_fails_does_not_keep_the_others() -> None:
    """One that cannot start stops all by default, and nobody where it is isolated."""

    class Fails(Foreign):
        async def start(self) -> None:
            raise OSError("port taken")

    child = rc.OneShot(long)
    supervisor = rc.Supervisor(child, Fails())
    with pytest.raises(ExceptionGroup):
        await supervisor.start()
    assert (State.FAILED, State.STOPPED) == (supervisor.state, child.state)

    child = rc.OneShot(long)
    supervisor = rc.Supervisor(child, Fails(), on_failure="isolate")
    await supervisor.start()
    assert (State.RUNNING, State.RUNNING) == (supervisor.state, child.state)
    assert ["port taken"] == [str(error) for error in (await supervisor.stop()).errors]
