"""Whatever kind of service it is, a supervisor can count on the same; and those of our own on much more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kinds import SERVICES, Ending, ServiceKind

import runcrew as rc
from runcrew import abc, events
from runcrew.lifecycle import BaseService

pytestmark = pytest.mark.virtual

every = pytest.mark.parametrize("kind", SERVICES, ids=lambda kind: kind.name)
ours = pytest.mark.parametrize("kind", [kind for kind in SERVICES if kind.ours], ids=lambda kind: kind.name)
slow_to_be_ready = pytest.mark.parametrize("kind", [k for k in SERVICES if k.name != "Interval"], ids=lambda k: k.name)


def now() -> float:
    """Virtual seconds since the beginning."""
    return asyncio.get_running_loop().time()


def other(heard: list[str], name: str = "other") -> rc.OneShot:
    """Somebody beside it."""

    async def job() -> None:
        heard.append(f"{name} begins")
        try:
            await asyncio.Event().wait()
        finally:
            heard.append(f"{name} ends")

    return rc.OneShot(job, name=name)


# --- below a supervisor -----------------------------------------------------------------


@every
async def test_it_is_a_service(kind: ServiceKind) -> None:
    """It has the members that the contract names."""
    assert isinstance(kind.make("it", Ending(), []), abc.Service)


@every
async def test_it_is_started_and_stopped(kind: ServiceKind) -> None:
    """It begins with its supervisor, and ends with it, cleanly."""
    heard: list[str] = []
    supervisor = rc.Supervisor(kind.make("it", Ending(), heard), name="above")
    await supervisor.start()
    await asyncio.sleep(1)
    report = await supervisor.stop(3 if kind.name == "Interval" else 30)
    assert ["it", "begins"] == heard[0].replace("'s", "").split()
    assert 2 == len(heard)
    assert report.clean
    assert rc.State.STOPPED is supervisor.state


@every
@pytest.mark.parametrize("error", [None, rc.Done()], ids=["well", "done"])
async def test_its_good_end_leaves_the_others_alone(kind: ServiceKind, error: Exception | None) -> None:
    """Also where it says that it is done: it is not started again."""
    heard: list[str] = []
    supervisor = rc.Supervisor(kind.make("it", Ending(2, error), heard), other(heard), on_failure="restart")
    await supervisor.start()
    await asyncio.sleep(100)
    assert rc.State.RUNNING is supervisor.state
    assert 3 == len(heard)
    assert (await supervisor.stop()).clean


@every
async def test_its_failure_ends_the_others(kind: ServiceKind) -> None:
    """By default, at once, and its very error comes out."""
    heard: list[str] = []
    error = OSError("it failed")
    supervisor = rc.Supervisor(kind.make("it", Ending(2, error), heard), other(heard))
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run()
    assert [error] == flat(caught.value)
    assert 2.0 == now()
    assert "other ends" == heard[-1]


@every
async def test_its_failure_may_be_its_own(kind: ServiceKind) -> None:
    """With "isolate" the others go on, and the error comes out at the end."""
    heard: list[str] = []
    error = OSError("it failed")
    supervisor = rc.Supervisor(other(heard), name="above")
    supervisor.add(kind.make("it", Ending(2, error), heard), on_failure="isolate")
    await supervisor.start()
    await asyncio.sleep(50)
    assert rc.State.RUNNING is supervisor.state
    report = await supervisor.stop()
    assert [error] == [leaf for one in report.errors for leaf in flat(one)]
    with pytest.raises(ExceptionGroup):
        await supervisor.wait()


@every
async def test_it_is_restarted_as_often_as_is_borne(kind: ServiceKind) -> None:
    """Three lives, then its supervisor gives up, with the error of the last."""
    heard: list[str] = []
    supervisor = rc.Supervisor(name="above", intensity=rc.Intensity(2, 1000), backoff=rc.Constant(5))
    supervisor.add(kind.make("it", Ending(1, OSError("again")), heard), on_failure="restart")
    restarts: list[float] = []
    supervisor.subscribe(lambda event: restarts.append(event.delay), events.Restarted)
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run()
    assert 6 == len(heard)
    assert [5.0, 5.0] == restarts
    assert 1 == len(caught.value.exceptions)
    assert 13.0 == pytest.approx(now(), abs=0.5)


@every
async def test_what_is_no_exception_is_a_failure_like_any_other(kind: ServiceKind) -> None:
    """It ends neither the loop nor the supervisor's account of it."""
    if kind.name in ("a foreign one", "a foreign one with kill", "a subclass"):
        return  # asyncio itself lets a SystemExit in a task of theirs end the loop
    supervisor = rc.Supervisor(kind.make("it", Ending(1, SystemExit(3)), []), name="above")
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run()
    (crash,) = flat(caught.value)
    assert isinstance(crash, rc.JobCrashed)
    assert isinstance(crash.__cause__, SystemExit)


@every
async def test_it_may_ask_for_the_end_of_the_tree(kind: ServiceKind) -> None:
    """Everything up to the root stops, and that is no failure."""
    heard: list[str] = []
    below = rc.Supervisor(kind.make("it", Ending(2, rc.StopTree("enough")), heard), name="below", on_failure="isolate")
    root = rc.Supervisor(below, other(heard), name="root", on_failure="restart")
    report = await root.run()
    assert (2.0, True, True) == (now(), report.stop_tree, report.clean)
    assert rc.State.STOPPED is root.state


@slow_to_be_ready
async def test_what_depends_on_it_waits_until_it_is_ready(kind: ServiceKind) -> None:
    """And is stopped before it."""
    heard: list[str] = []
    supervisor = rc.Supervisor(kind.make("it", Ending(ready_after=3), heard), name="above")
    supervisor.add(other(heard), depends_on=["it"])
    await supervisor.start()
    assert 3.0 == now()
    await asyncio.sleep(1)
    await supervisor.stop()
    assert ["it begins", "other begins", "other ends", "it ends"] == [said.replace("'s", "") for said in heard]


@slow_to_be_ready
async def test_a_stop_before_it_is_ready_is_no_failure(kind: ServiceKind) -> None:
    """Neither for it nor for its supervisor, and what depends on it never begins."""
    heard: list[str] = []
    supervisor = rc.Supervisor(kind.make("it", Ending(ready_after=1000), heard), name="above")
    supervisor.add(other(heard), depends_on=["it"])
    starting = asyncio.ensure_future(supervisor.start())
    await asyncio.sleep(1)
    report = await supervisor.stop(2)
    with pytest.raises(rc.ServiceStopped):
        await starting
    assert () == report.errors
    assert "other begins" not in heard
    assert rc.State.STOPPED is supervisor.state


@every
@pytest.mark.parametrize("call", ["stop", "kill"])
async def test_it_is_stopped_once_however_often_it_is_asked(kind: ServiceKind, call: str) -> None:
    """Several stops and kills at once come to one end."""
    heard: list[str] = []
    supervisor = rc.Supervisor(kind.make("it", Ending(), heard), name="above")
    await supervisor.start()
    await asyncio.sleep(1)
    ends = [asyncio.ensure_future(getattr(supervisor, call)()) for _ in range(3)]
    ends.append(asyncio.ensure_future(supervisor.kill()))
    reports = await asyncio.gather(*ends)
    assert all(report is reports[0] for report in reports)
    assert 2 == len(heard)


@every
async def test_it_can_be_removed_and_added_again(kind: ServiceKind) -> None:
    """Its supervisor forgets it, and goes on; another life begins with another supervisor."""
    heard: list[str] = []
    supervisor = rc.Supervisor(name="above", keep_open=True)
    await supervisor.start()
    it = supervisor.add(kind.make("it", Ending(), heard), name="one")
    await asyncio.sleep(1)
    report = await supervisor.remove("one", 2)
    assert (report is not None) is kind.ours
    assert 2 == len(heard)
    assert "one" not in supervisor
    supervisor.add(it, name="two")
    await asyncio.sleep(1)
    assert 3 == len(heard)
    assert (await supervisor.stop(2)).clean
    assert 4 == len(heard)


@every
async def test_a_supervisor_gives_it_a_new_life(kind: ServiceKind) -> None:
    """With its own, as often as that is started."""
    heard: list[str] = []
    supervisor = rc.Supervisor(kind.make("it", Ending(), heard), name="above")
    for life in (1, 2, 3):
        await supervisor.start()
        await asyncio.sleep(1)
        assert (await supervisor.stop(2)).clean
        assert 2 * life == len(heard)


@every
async def test_its_name_is_taken(kind: ServiceKind) -> None:
    """Two of one name are refused, and so is one that is there already."""
    it = kind.make("it", Ending(), [])
    supervisor = rc.Supervisor(it, name="above")
    for again in (it, kind.make("it", Ending(), [])):
        with pytest.raises(rc.ConfigError, match="it"):
            supervisor.add(again)


# --- those of our own, by themselves -----------------------------------------------------


@ours
async def test_its_states_are_the_five(kind: ServiceKind) -> None:
    """In order, and a new life begins them again."""
    service = kind.make("it", Ending(), [])
    states: list[str] = []
    service.subscribe(lambda e: states.append(e.new) if e.service == "it" else None, events.StateChanged)
    for life in (1, 2):
        await service.start()
        await asyncio.sleep(1)
        await service.stop(2)
        assert ["starting", "running", "stopping", "stopped"] * life == states
        assert life == service.generation


@ours
async def test_its_own_good_end(kind: ServiceKind) -> None:
    """wait() gives the report, to everybody who waits, at that instant."""
    service = kind.make("it", Ending(3), [])
    await service.start()
    reports = await asyncio.gather(service.wait(), service.wait(), service.stop())
    assert all(report is service.report for report in reports)
    again = kind.make("again", Ending(3), [])
    assert (await BaseService.run(again)).clean
    assert rc.State.STOPPED is again.state


@ours
async def test_its_own_failure(kind: ServiceKind) -> None:
    """wait(), run() and `async with` raise it, each time; stop() reports it."""
    error = OSError("mine")
    service = kind.make("it", Ending(1, error), [])
    with pytest.raises((OSError, ExceptionGroup)) as caught:
        await BaseService.run(service)
    assert [error] == flat(caught.value)
    assert rc.State.FAILED is service.state
    for _ in range(2):
        with pytest.raises(type(caught.value)) as again:
            await service.wait()
        assert caught.value is again.value
    assert [error] == [leaf for one in (await service.stop()).errors for leaf in flat(one)]
    with pytest.raises((OSError, ExceptionGroup)):
        async with service:
            await asyncio.sleep(5)


@ours
@pytest.mark.parametrize("first", ["start", "stop", "kill", "wait", "stats"])
@pytest.mark.parametrize("second", ["start", "stop", "kill", "wait"])
async def test_any_two_calls_in_any_order(kind: ServiceKind, first: str, second: str) -> None:
    """Each works, or raises what its documentation says, and none hangs."""
    service = kind.make("it", Ending(), [])

    async def call(name: str) -> Any:
        answer = getattr(service, name, lambda: None)()
        return await answer if asyncio.iscoroutine(answer) else answer

    calls = [asyncio.ensure_future(call(name)) for name in (first, second)]
    await asyncio.sleep(1)
    await service.stop(2)
    done, late = await asyncio.wait(calls, timeout=5)
    assert not late
    for task in done:
        expected = (rc.ServiceStopped, rc.ServiceStopping, rc.NotStarted)
        assert task.exception() is None or isinstance(task.exception(), expected)
    assert service.state in ("stopped", "new")


@ours
async def test_it_lives_on_one_loop_at_a_time(kind: ServiceKind) -> None:
    """Another loop is refused, and the remedy is named."""
    service = kind.make("it", Ending(), [])
    await service.start()

    def elsewhere() -> None:
        asyncio.run(service.stop())

    with pytest.raises(rc.WrongLoop, match="loop"):
        await asyncio.to_thread(elsewhere)
    assert (await service.stop(2)).complete


@ours
async def test_hooks_are_called_around_its_end(kind: ServiceKind) -> None:
    """Those that announce a stop, and those at the end."""
    heard: list[str] = []
    service = kind.make("it", Ending(), heard)
    hook_into(service, "on_stopping", lambda: heard.append("stopping"))
    hook_into(service, "on_stopped", lambda: heard.append("stopped"))
    await service.start()
    await asyncio.sleep(1)
    await service.stop(2)
    assert ["stopping", "stopped"] == [said for said in heard if said.startswith("stop")]
    assert "stopped" == heard[-1]


def hook_into(service: Any, moment: str, hook: Any) -> None:
    """Give a service a hook that it was not made with."""
    from runcrew.lifecycle.hooks import hooks_of

    hooks = getattr(service, "_stopping_hooks" if moment == "on_stopping" else "_stopped_hooks")
    hooks += hooks_of(hook, moment)


def flat(error: BaseException) -> list[BaseException]:
    """The errors in a group; of what is none, itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in flat(one)]
