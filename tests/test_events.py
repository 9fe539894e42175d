"""Events: made for those who listen, told in order, and never in anybody's way."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import pytest

import runcrew as rc
from runcrew import events
from runcrew.errors import ConfigError
from runcrew.events import (
    Event,
    HookFailed,
    Hub,
    LoopBlocked,
    Restarted,
    RunEnded,
    RunRetried,
    RunStarted,
    StateChanged,
    ThreadAbandoned,
    TicksMissed,
    flush,
)


def missed(count: int) -> TicksMissed:
    """Some event that is easy to tell from others."""
    return TicksMissed(0.0, "poll", count)


class Unspeakable(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (StateChanged(0, "poll", "new", "starting"), "poll: new -> starting"),
        (StateChanged(0, "poll", "running", "failed", OSError("x")), "poll: running -> failed: OSError: x"),
        (RunStarted(0, "poll", "1a", "tick"), "poll: run 1a begins (tick)"),
        (RunRetried(0, "poll", "1a", 2, 0.5, "OSError", OSError("x")),
         "poll: attempt 2 failed (OSError: x), next in 0.5 s by OSError"),
        (RunEnded(0, "poll", "1a", "succeeded", 2.0, 1), "poll: run 1a succeeded after 2 s"),
        (RunEnded(0, "poll", "1a", "failed", 2.0, 1, Unspeakable()),
         "poll: run 1a failed after 2 s: Unspeakable: (its text cannot be made)"),
        (missed(3), "poll: 3 tick(s) missed"),
        (Restarted(0, "crew", "poll", 1.0, None, "failure 1 of 5 in 1m"),
         "crew: restarts poll in 1 s (failure 1 of 5 in 1m)"),
        (HookFailed(0, "poll", "close", "on_stopped", OSError("x")), "poll: on_stopped hook close failed: OSError: x"),
        (ThreadAbandoned(0, "poll", "1a"), "poll: the thread of run 1a was abandoned"),
        (LoopBlocked(0, "poll", "job", 0.6, "stack"), "job has blocked the event loop for 0.6 s:\nstack"),
    ],
)  # fmt: skip
def test_each_says_in_a_line_what_happened(event: Event, said: str) -> None:
    """An event reads as a sentence, whatever the text of its error does."""
    assert said == str(event)


def test_what_nobody_hears_is_not_wanted() -> None:
    """A hub wants only the types that somebody subscribed to, here or above."""
    below, above = Hub(), Hub()
    below.parent = above
    assert not below.wants(TicksMissed)
    subscription = above.subscribe(print, TicksMissed)
    assert below.wants(TicksMissed)
    assert not below.wants(RunEnded)
    subscription.cancel()
    assert not below.wants(TicksMissed)


def test_whoever_names_the_base_hears_everything() -> None:
    """No type given, or a base class, means all that are of it."""
    for types in ((), (Event,)):
        hub = Hub()
        hub.subscribe(print, *types)
        assert hub.wants(RunEnded)


@pytest.mark.parametrize("sink", [None, 42, "print"])
def test_what_cannot_be_called_is_no_sink(sink: Any) -> None:
    """A sink is refused where it is given, not when the first event comes."""
    with pytest.raises(ConfigError, match="sink: "):
        Hub().subscribe(sink)


@pytest.mark.parametrize("kind", [int, "StateChanged", None])
def test_what_is_no_class_of_events_is_refused(kind: Any) -> None:
    """A mistaken type would never be heard of."""
    with pytest.raises(ConfigError, match="types: "):
        Hub().subscribe(print, kind)


@pytest.mark.virtual
async def test_events_come_in_order_after_the_emitter_has_gone_on() -> None:
    """A sink is never called inside `emit`, and hears everything in the order in which it was emitted."""
    hub, heard = Hub(), []
    hub.subscribe(lambda event: heard.append(event.count), TicksMissed)
    for n in range(100):
        hub.emit(missed(n))
    assert [] == heard
    await flush([hub])
    assert list(range(100)) == heard


@pytest.mark.virtual
async def test_an_async_sink_gets_one_at_a_time() -> None:
    """The next event waits until the sink has done with the last."""
    hub, heard = Hub(), []

    async def sink(event: TicksMissed) -> None:
        heard.append(("begins", event.count))
        await asyncio.sleep(1)
        heard.append(("ends", event.count))

    hub.subscribe(sink)
    hub.emit(missed(1))
    hub.emit(missed(2))
    await flush([hub])
    assert [("begins", 1), ("ends", 1), ("begins", 2), ("ends", 2)] == heard


@pytest.mark.virtual
async def test_a_slow_sink_loses_the_oldest_and_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the backlog is kept for a sink; what it loses is the oldest, and it is counted."""
    monkeypatch.setattr(events, "BACKLOG", 3)
    hub, heard = Hub(), []
    gate = asyncio.Event()

    async def slow(event: TicksMissed) -> None:
        await gate.wait()
        heard.append(event.count)

    slowly = hub.subscribe(slow)
    quick = hub.subscribe(lambda event: None)
    for n in range(10):
        hub.emit(missed(n))
        await asyncio.sleep(0.1)
    gate.set()
    await flush([hub])
    assert [0, 7, 8, 9] == heard
    assert (6, 0, 6) == (slowly.dropped, quick.dropped, hub.dropped)


class Odd(BaseException):
    """What is no Exception."""


@pytest.mark.virtual
@pytest.mark.parametrize(
    "error", [OSError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), Odd(), Unspeakable()]
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_failing_sink_harms_nobody(
    error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a sink raises is logged and counted, and it hears the next event, as do the others."""
    hub, heard, others = Hub(), [], []

    def plain(event: TicksMissed) -> None:
        heard.append(event.count)
        raise error

    async def on_loop(event: TicksMissed) -> None:
        plain(event)

    failing = hub.subscribe(on_loop if is_async else plain)
    hub.subscribe(lambda event: others.append(event.count))
    hub.emit(missed(1))
    hub.emit(missed(2))
    await flush([hub])
    assert ([1, 2], [1, 2], 2) == (heard, others, failing.errors)
    assert 2 == sum("an event sink failed on TicksMissed" in record.message for record in caplog.records)


@pytest.mark.virtual
async def test_events_of_a_child_come_to_its_parent() -> None:
    """What happens below is heard above as well, and not the other way round."""
    below, above = Hub(), Hub()
    below.parent = above
    heard: list[str] = []
    below.subscribe(lambda event: heard.append(f"below {event.count}"))
    above.subscribe(lambda event: heard.append(f"above {event.count}"))
    below.emit(missed(1))
    above.emit(missed(2))
    await flush([below, above])
    assert ["above 1", "above 2", "below 1"] == sorted(heard)


@pytest.mark.virtual
async def test_whoever_has_cancelled_hears_no_more() -> None:
    """A cancelled subscription gets nothing, also of what was on its way; cancelling twice is fine."""
    hub, heard = Hub(), []
    subscription = hub.subscribe(lambda event: heard.append(event.count))
    hub.emit(missed(1))
    subscription.cancel()
    subscription.cancel()
    hub.emit(missed(2))
    await asyncio.sleep(1)
    assert [] == heard


@pytest.mark.virtual
async def test_a_sink_runs_in_the_context_of_the_subscriber() -> None:
    """A sink sees the context variables of whoever subscribed, not those of whatever job emitted the event."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    hub, heard = Hub(), []
    who.set("subscriber")
    hub.subscribe(lambda event: heard.append(who.get()))
    who.set("emitter")
    hub.emit(missed(1))
    await flush([hub])
    assert ["subscriber"] == heard


@pytest.mark.virtual
async def test_flushing_gives_up_in_time_and_counts_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that hangs keeps nobody longer than the time that it has, and what it has not heard is counted."""
    hub = Hub()
    subscription = hub.subscribe(lambda event: asyncio.sleep(3600))
    for n in range(5):
        hub.emit(missed(n))
    loop = asyncio.get_running_loop()
    await flush([hub], 2.0)
    assert 2.0 == loop.time()
    await asyncio.sleep(0)
    assert 5 == subscription.dropped
    assert "5 event(s) are lost" in caplog.text
    assert 1 == len(asyncio.all_tasks())


@pytest.mark.virtual
@pytest.mark.parametrize("begun", [False, True])
async def test_a_sink_whose_task_was_cancelled_by_others_hears_what_comes_next(begun: bool) -> None:
    """Somebody who cancels all tasks loses the event under way, and nothing after it."""
    hub, heard = Hub(), []

    async def sink(event: TicksMissed) -> None:
        await asyncio.sleep(1)
        heard.append(event.count)

    subscription = hub.subscribe(sink)
    hub.emit(missed(1))
    if begun:
        await asyncio.sleep(0.5)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.sleep(0)
    hub.emit(missed(2))
    await flush([hub])
    assert ([2] if begun else [1, 2]) == heard
    assert (1 if begun else 0) == subscription.dropped


def test_a_sink_follows_to_another_loop() -> None:
    """What was subscribed to on one loop is heard on the next, although the first was closed over a delivery."""
    hub, heard = Hub(), []

    async def sink(event: TicksMissed) -> None:
        await asyncio.sleep(0)
        heard.append(event.count)

    hub.subscribe(sink)
    hub.emit(missed(0))  # no loop runs: it waits for the next that does

    async def first() -> None:
        hub.emit(missed(1))

    async def second() -> None:
        hub.emit(missed(2))
        await flush([hub])

    from runcrew.testing import run_virtual

    run_virtual(first)
    run_virtual(second)
    assert 2 == heard[-1]


@pytest.mark.virtual
async def test_nothing_is_made_that_nobody_listens_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service nobody listens to makes no event objects, and one with a listener only those that it wants."""
    made: list[str] = []
    for kind in (StateChanged, RunStarted, RunEnded):

        def counting(self: Any, *args: Any, kind: Any = kind, init: Any = kind.__init__, **named: Any) -> None:
            made.append(kind.__name__)
            init(self, *args, **named)

        monkeypatch.setattr(kind, "__init__", counting)
    service = rc.OneShot(lambda: None)
    await service.run()
    assert [] == made
    service.subscribe(lambda event: None, RunEnded)
    await service.run()
    assert ["RunEnded"] == made


@pytest.mark.virtual
async def test_the_events_of_a_service_tell_its_story() -> None:
    """State changes, runs and retries come in the order in which they happened."""
    heard: list[str] = []
    attempts = iter([OSError("x"), None])

    async def job() -> None:
        if (error := next(attempts)) is not None:
            raise error

    service = rc.OneShot(job, name="job", retry=rc.Retry(OSError, backoff=rc.Constant("1s")))
    service.subscribe(lambda event: heard.append(type(event).__name__ + " " + getattr(event, "new", "")))
    await service.run()
    assert [
        "StateChanged starting",
        "RunStarted ",
        "StateChanged running",
        "RunRetried ",
        "RunEnded ",
        "StateChanged stopping",
        "StateChanged stopped",
    ] == heard


@pytest.mark.virtual
async def test_a_crew_hears_all_that_happens_below_it() -> None:
    """Whoever subscribes to a supervisor hears of its children, of those added later, and no more of one removed."""
    heard: list[str] = []
    supervisor = rc.Supervisor(name="top", keep_open=True)
    supervisor.subscribe(lambda event: heard.append(event.service), RunEnded)
    nested = rc.Supervisor(rc.OneShot(lambda: None, name="deep"), name="nested")
    supervisor.add(nested)
    async with supervisor:
        late = rc.OneShot(lambda: None, name="late")
        supervisor.add(late)
        await asyncio.sleep(1)
        await supervisor.remove("late")
        await late.run()
    assert ["deep", "late"] == sorted(heard)


# --- sinks at the end -------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_stop_waits_until_the_sinks_have_heard_of_it() -> None:
    """When a stop returns, a sink that keeps up has heard everything, the last change of state included."""
    heard: list[str] = []

    async def sink(event: StateChanged) -> None:
        await asyncio.sleep(0.1)
        heard.append(event.new)

    service = rc.Interval(lambda: None, "10s")
    service.subscribe(sink, StateChanged)
    await service.start()
    await service.stop()
    assert ["starting", "running", "stopping", "stopped"] == heard


@pytest.mark.virtual
@pytest.mark.parametrize("way", ["stop", "kill", "wait", "run", "async with", "failed start"])
async def test_every_way_to_the_end_waits_for_the_sinks(way: str) -> None:
    """Whichever call is the one that waits for the end, the sinks have heard of the end when it returns."""
    heard: list[str] = []

    async def sink(event: StateChanged) -> None:
        await asyncio.sleep(0.1)
        heard.append(event.new)

    async def job() -> None:
        await asyncio.sleep(1)
        if way == "failed start":
            raise OSError

    service = rc.OneShot(job, ready="succeeded" if way == "failed start" else "started")
    service.subscribe(sink, StateChanged)
    if way == "run":
        await service.run()
    elif way == "async with":
        async with service:
            pass
    elif way == "failed start":
        with pytest.raises(OSError):
            await service.start()
    else:
        await service.start()
        await getattr(service, way)()
    assert heard[-1] == ("failed" if way == "failed start" else "stopped")


@pytest.mark.virtual
async def test_a_sink_that_hangs_holds_up_the_end_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    """A hanging sink delays the end of a crew by no more than the time for hooks and a second, and is given up."""
    crew = rc.Crew("shop", hooks_timeout="3s", keep_open=True)
    subscription = crew.subscribe(lambda event: asyncio.sleep(3600))
    await crew.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await crew.stop("30s")
    assert 4.0 == loop.time() - began
    await asyncio.sleep(0)
    assert subscription.dropped > 0
    assert "too slow at the end" in caplog.text


@pytest.mark.virtual
async def test_a_sink_below_is_waited_for_at_the_end_of_all() -> None:
    """A sink of a child does not hold up the supervisor's work, and has heard all when the root has ended."""
    heard: list[str] = []

    async def sink(event: StateChanged) -> None:
        await asyncio.sleep(0.5)
        heard.append(event.new)

    child = rc.OneShot(lambda: None, name="child")
    child.subscribe(sink, StateChanged)
    supervisor = rc.Supervisor(rc.Supervisor(child, name="nested"))
    await supervisor.run()
    assert "stopped" == heard[-1]


@pytest.mark.virtual
@pytest.mark.parametrize("call", ["stop", "kill", "wait", "start"])
async def test_a_sink_may_call_the_service(call: str, caplog: pytest.LogCaptureFixture) -> None:
    """A sink that asks for the end begins it, and one that waits for it is told that it would wait for itself."""
    service = rc.Interval(lambda: None, "1s")
    returned: list[float] = []
    loop = asyncio.get_running_loop()

    async def sink(event: RunEnded) -> None:
        if not returned:
            returned.append(loop.time())
            await getattr(service, call)()

    subscription = service.subscribe(sink, RunEnded)
    await service.start()
    await asyncio.sleep(5)
    await service.stop()
    assert [0.0] == returned
    assert (1 if call == "wait" else 0) == subscription.errors
    assert ("WouldDeadlock" in caplog.text) is (call == "wait")
    assert 5.0 == loop.time()


@pytest.mark.virtual
async def test_a_sink_is_told_by_a_service_inside_a_service() -> None:
    """A sink of a child may ask for the end of the whole tree, and does not wait for itself."""
    child = rc.Interval(lambda: None, "1s", name="child")
    crew = rc.Crew("shop")
    crew.add(child)
    loop = asyncio.get_running_loop()
    child.subscribe(lambda event: crew.stop(), RunEnded)
    await crew.run()
    assert 0.0 == loop.time()


@pytest.mark.virtual
async def test_an_event_that_comes_from_a_thread_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    """An abandoned thread is told as an event."""
    caplog.set_level(logging.CRITICAL)
    heard: list[Event] = []

    def deaf() -> None:
        import runcrew.clock

        runcrew.clock.current().block(60)

    service = rc.OneShot(deaf, name="deaf")
    service.subscribe(heard.append, ThreadAbandoned)
    await service.start()
    await asyncio.sleep(1)
    report = await service.stop("5s")
    assert ["deaf"] == [event.service for event in heard]
    assert 1 == len(report.would_not_stop)
    await asyncio.sleep(100)
