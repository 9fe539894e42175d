"""OneShot: a job that is run once, with retries; or that runs for as long as the service does."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import runcrew as rc
from runcrew import clock
from runcrew.errors import ConfigError, NotAJob
from runcrew.job import Status
from runcrew.lifecycle import State


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def long() -> None:
    """Goes on until it is cancelled."""
    await asyncio.sleep(1e6)


def failing(*errors: BaseException | None) -> tuple[Any, list[float]]:
    """A job that raises these, one after another (the last for ever), and when it was called."""
    calls: list[float] = []
    rest = iter(errors)
    last: list[BaseException | None] = [None]

    async def job() -> None:
        calls.append(now())
        last[0] = next(rest, last[0])
        if last[0] is not None:
            raise last[0]

    return job, calls


@pytest.mark.virtual
@pytest.mark.parity("T3.34", "T3.36")
async def test_success_ends_it() -> None:
    """A job that returns ends its service well, and what it returned is there."""

    async def job() -> int:
        await asyncio.sleep(5)
        return 7

    service = rc.OneShot(job)
    report = await service.run()
    assert (5.0, State.STOPPED, None, True) == (now(), service.state, service.error, report.clean)
    assert service.outcome is not None
    assert (7, "once") == (service.outcome.value, "once")


@pytest.mark.virtual
@pytest.mark.parity("T3.39", "T3.23", "E3.8")
async def test_an_unlisted_error_is_permanent_and_the_same_object() -> None:
    """Without a rule that matches, the first error ends the service, and comes out as the very object."""
    error = ValueError("unlisted")
    job, calls = failing(error)
    for rules in ([], [rc.Retry(OSError)]):
        service = rc.OneShot(job, retry=rules)
        with pytest.raises(ValueError, match="unlisted") as caught:
            await service.run()
        assert error is caught.value
    assert 2 == len(calls)


@pytest.mark.virtual
@pytest.mark.parity("T3.40", "E3.6")
async def test_a_transient_error_is_retried_after_its_backoff() -> None:
    """Two failures and a success are three calls, each after the wait of the rule."""
    job, calls = failing(OSError(), OSError(), None)
    service = rc.OneShot(job, retry=rc.Retry(OSError, retries=5, backoff=rc.Exponential("1s", jitter="none")))
    await service.run()
    assert [0.0, 1.0, 3.0] == calls
    assert (2, 3) == (service.stats().runs.retries, service.outcome.attempts if service.outcome else 0)


@pytest.mark.virtual
@pytest.mark.parity("T3.3", "T3.39", "E3.7")
async def test_a_budget_that_is_used_up_makes_the_error_permanent() -> None:
    """N retries are N + 1 calls; then the last error comes out, the very object."""
    errors = [OSError(str(n)) for n in range(4)]
    job, calls = failing(*errors)
    service = rc.OneShot(job, retry=rc.Retry(OSError, retries=3, backoff=rc.Constant("1s")))
    with pytest.raises(OSError, match="3") as caught:
        await service.run()
    assert (errors[3], 4) == (caught.value, len(calls))
    assert "used up (3 retries)" in (service.outcome.reason if service.outcome else "")


@pytest.mark.virtual
@pytest.mark.parity("T3.44")
async def test_alternating_errors_have_budgets_of_their_own() -> None:
    """Each rule counts its own failures, so the calls are at most the sum of the budgets and one."""
    job, calls = failing(*[OSError(), KeyError()] * 10)
    rules = [rc.Retry(kind, retries=2, backoff=rc.Constant(0)) for kind in (OSError, KeyError)]
    with pytest.raises(OSError):
        await rc.OneShot(job, retry=rules).run()
    assert 5 == len(calls)


@pytest.mark.virtual
@pytest.mark.parity("T3.22")
async def test_the_first_rule_that_matches_decides() -> None:
    """Rules are asked in order, and only the budget of the first match is charged."""
    job, calls = failing(ConnectionError(), ConnectionError(), ConnectionError())
    rules = [
        rc.Retry(ConnectionError, retries=1, backoff=rc.Constant("1s")),
        rc.Retry(OSError, retries=9, backoff=rc.Constant("100s")),
    ]
    with pytest.raises(ConnectionError):
        await rc.OneShot(job, retry=rules).run()
    assert [0.0, 1.0] == calls


@pytest.mark.virtual
@pytest.mark.defect("D3.14")
async def test_a_new_life_has_its_whole_budget() -> None:
    """After a permanent failure a start by hand begins afresh: retry state belongs to one run."""
    job, calls = failing(OSError())
    service = rc.OneShot(job, retry=rc.Retry(OSError, retries=2, backoff=rc.Constant("1s")))
    for life in (1, 2):
        with pytest.raises(OSError):
            await service.run()
        assert 3 * life == len(calls)


@pytest.mark.virtual
@pytest.mark.parity("T3.26", "E3.12")
async def test_the_delay_comes_once() -> None:
    """The delay is waited before the first attempt, never before a retry."""
    job, calls = failing(OSError(), OSError(), None)
    await rc.OneShot(job, delay="50s", retry=rc.Retry(OSError, backoff=rc.Constant("1s"))).run()
    assert [50.0, 51.0, 52.0] == calls


@pytest.mark.virtual
@pytest.mark.parametrize("delay", [None, 0])
async def test_no_delay_is_no_delay(delay: Any) -> None:
    """None means none and zero means zero."""
    job, calls = failing(None)
    await rc.OneShot(job, delay=delay).run()
    assert [0.0] == calls


@pytest.mark.virtual
@pytest.mark.parity("T3.25", "T3.48", "E3.14")
async def test_a_timeout_is_for_each_attempt_and_permanent_unless_a_rule_takes_it() -> None:
    """Each attempt has its whole time; its end is an error like any other."""
    begun: list[float] = []

    async def job() -> None:
        begun.append(now())
        await asyncio.sleep(100)

    with pytest.raises(rc.RunTimeout):
        await rc.OneShot(job, timeout="20s").run()
    assert ([0.0], 20.0) == (begun, now())
    begun.clear()
    rule = rc.Retry(rc.RunTimeout, retries=2, backoff=rc.Constant("1s"))
    with pytest.raises(TimeoutError):
        await rc.OneShot(job, timeout="20s", retry=rule).run()
    assert [20.0, 41.0, 62.0] == begun


@pytest.mark.virtual
@pytest.mark.parity("T3.25")
async def test_a_thread_is_told_that_its_time_is_up() -> None:
    """A timeout cannot kill a thread: it is told, and abandoned where it does not listen."""
    told = threading.Event()

    def job() -> None:
        rc.current_run().wait_cancelled()
        told.set()

    service = rc.OneShot(job, timeout="5s")
    with pytest.raises(rc.RunTimeout):
        await service.run()
    assert told.wait(5)


@pytest.mark.virtual
async def test_the_deadline_is_for_the_whole_run() -> None:
    """A run that may not last longer has no attempt that would begin after its deadline."""
    job, calls = failing(OSError("x"))
    rule = rc.Retry(OSError, retries=rc.UNLIMITED, backoff=rc.Constant("4s"))
    service = rc.OneShot(job, deadline="10s", retry=rule)
    with pytest.raises(OSError, match="x"):
        await service.run()
    assert [0.0, 4.0, 8.0] == calls


@pytest.mark.virtual
@pytest.mark.parity("T3.47", "E3.9")
async def test_a_run_that_was_asked_to_end_before_it_began_is_never_called() -> None:
    """Where the cancellation was first, the job is not called at all; that is no error."""
    job, calls = failing(None)
    service = rc.OneShot(job)
    task = asyncio.create_task(service.run())
    task.cancel()
    await asyncio.wait([task])
    assert (True, [], State.NEW) == (task.cancelled(), calls, service.state)


# --- readiness --------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize(("ready", "at"), [("started", 0.0), ("succeeded", 5.0), ("signal", 3.0)])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_three_ways_to_be_ready(ready: Any, at: float, in_thread: bool) -> None:
    """A OneShot is ready when its job has begun, has succeeded, or says so."""

    async def on_loop() -> None:
        await rc.current_run().sleep(3)
        rc.current_run().ready()
        await rc.current_run().sleep(2)

    def plain() -> None:
        rc.current_run().sleep(3)
        rc.current_run().ready()
        rc.current_run().sleep(2)

    service = rc.OneShot(plain if in_thread else on_loop, ready=ready)
    await service.start()
    assert at == now()
    await service.wait()
    assert 5.0 == now()


@pytest.mark.virtual
@pytest.mark.parametrize("ready", ["succeeded", "signal"])
async def test_with_a_delay_it_is_ready_no_earlier(ready: Any) -> None:
    """A delay comes before the readiness, unless that is that it has begun."""

    async def job() -> None:
        rc.current_run().ready()

    service = rc.OneShot(job, ready=ready, delay="5s")
    await service.start()
    assert 5.0 == now()
    await service.wait()


@pytest.mark.virtual
async def test_a_signal_that_never_comes_is_made_up_by_success() -> None:
    """A job that ends well without having said that it is ready was ready at its end."""
    service = rc.OneShot(lambda: None, ready="signal")
    await service.start()
    assert State.STOPPED is service.state


@pytest.mark.virtual
async def test_a_signal_of_an_old_life_makes_no_new_one_ready() -> None:
    """A job that was left behind and says `ready` much later is not heard by the life that has begun since."""
    lives: list[rc.Run] = []

    async def job() -> None:
        lives.append(rc.current_run())
        await long()

    service = rc.OneShot(job, ready="signal")
    for life in (1, 2):
        start = asyncio.create_task(service.start())
        await asyncio.sleep(1)
        for run in lives[: life - 1]:
            run.ready()
        await asyncio.sleep(1)
        assert State.STARTING is service.state
        await service.kill()
        with pytest.raises(rc.ServiceStopped):
            await start


@pytest.mark.virtual
async def test_a_retry_may_come_before_the_readiness() -> None:
    """A migration that needs a second attempt is ready after that."""
    job, _ = failing(OSError(), None)
    service = rc.OneShot(job, ready="succeeded", retry=rc.Retry(OSError, backoff=rc.Constant("3s")))
    await service.start()
    assert 3.0 == now()


# --- Done and StopTree ------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("message", [rc.Done, rc.Done("no more to do"), rc.StopTree, rc.StopTree("enough")])
async def test_a_job_may_say_that_it_is_finished(message: Any) -> None:
    """Done and StopTree are no failures: alone, a service ends well by either, and no rule retries them."""

    async def job() -> None:
        raise message

    service = rc.OneShot(job, retry=rc.Retry(Exception, retries=5))
    report = await service.run()
    assert (State.STOPPED, None, True) == (service.state, service.error, report.clean)
    assert service.outcome is not None
    assert (Status.SUCCEEDED, None, 1) == (service.outcome.status, service.outcome.error, service.outcome.attempts)
    assert (1, 0) == (service.stats().runs.succeeded, service.stats().runs.failed)
    kind = message if isinstance(message, type) else type(message)
    assert kind.__name__ in service.outcome.reason
    assert (kind is rc.StopTree) is report.stop_tree


# --- as it is made ------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parity("T3.29", "T3.30")
async def test_a_name_is_free_text() -> None:
    """The name is the function's, or what is given; it may be empty, and the same as another's."""
    assert "long" == rc.OneShot(long).name
    assert "long" == rc.OneShot(functools.partial(long)).name
    assert "" == rc.OneShot(lambda: None, name="").name
    await asyncio.gather(rc.OneShot(lambda: None, name="x").run(), rc.OneShot(lambda: None, name="x").run())


class Thing:
    """A class, and so no job."""


def generator() -> Iterator[int]:
    """Yields."""
    yield 1


@pytest.mark.parity("T3.30", "T3.32", "E3.5")
@pytest.mark.parametrize("job", [None, 42, "migrate", Thing, generator, long()])
def test_what_is_no_job_is_refused(job: Any) -> None:
    """What can never be run is refused when the service is made."""
    with pytest.raises(NotAJob):
        rc.OneShot(job)


@pytest.mark.parity("T3.32", "E3.5")
@pytest.mark.defect("D3.11")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delay": -1}, "delay: -1 is negative"),
        ({"delay": "soon"}, "delay: 'soon' does not parse"),
        ({"timeout": -1}, "timeout: -1 is negative"),
        ({"timeout": float("nan")}, "timeout: nan is not a finite span"),
        ({"deadline": float("inf")}, "deadline: inf is not a finite span"),
        ({"drain": "wait"}, "drain: 'wait' is neither"),
        ({"ready": "soon"}, "ready: 'soon' is not one of"),
        ({"ready": True}, "ready: True is not one of"),
        ({"on_failure": "ignore"}, "on_failure: 'ignore' is not one of"),
        ({"on_failure": True}, "on_failure: True is not one of"),
        ({"retry": OSError}, "retry: OSError is no rule"),
        ({"retry": [OSError]}, "retry: OSError is no rule"),
        ({"retry": "always"}, "retry: 'always' is no rule"),
        ({"concurrency": 3}, "concurrency: 3 is none"),
        ({"dedupe": True}, "dedupe: True is none"),
        ({"middleware": print}, "middleware: .* is no list"),
        ({"middleware": [42]}, "middleware: 42 cannot be called"),
        ({"backend": "cluster"}, "backend: 'cluster' is unknown"),
        ({"backend": object()}, "has no method handle"),
        ({"backend": "thread"}, "long is async, and a thread runs plain functions"),
        ({"hooks_timeout": "-5s"}, "hooks_timeout: '-5s' does not parse"),
    ],
)
def test_bad_options_are_refused_with_their_name_and_value(options: dict[str, Any], said: str) -> None:
    """A bad value is refused when the service is made, with its name, the value and the remedy."""
    with pytest.raises(ConfigError, match=said):
        rc.OneShot(long, **options)


@pytest.mark.parity("T3.24", "T3.32")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rc.Retry(), "can match nothing"),
        (lambda: rc.Retry(OSError, retries=-1), "retries: -1 is negative"),
        (lambda: rc.Retry("OSError"), "OSError"),  # type: ignore[arg-type]
        (lambda: rc.Retry(OSError, backoff=rc.Exponential(0)), "initial: 0 is zero"),
        (lambda: rc.Retry(OSError, backoff=rc.Exponential(1, factor=0)), "factor: 0"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(make: Any, said: str) -> None:
    """A rule that makes no sense never reaches a run."""
    with pytest.raises(ConfigError, match=said):
        rc.OneShot(long, retry=make())


def test_an_async_job_in_a_thread_is_refused_with_the_remedy() -> None:
    """A thread runs plain functions, and the message says what to do."""
    with pytest.raises(ConfigError, match="leave `backend` out"):
        rc.OneShot(long, backend="thread")


def test_a_timeout_that_could_end_nothing_is_refused() -> None:
    """A plain function inline on the loop cannot be ended by anything."""
    with pytest.raises(ConfigError, match="nothing can end it"):
        rc.OneShot(lambda: None, backend="loop", timeout=1)


@pytest.mark.virtual
async def test_the_chain_of_a_job_can_be_read() -> None:
    """What each run goes through is there in words, outermost first."""
    service = rc.OneShot(
        long,
        timeout="5s",
        deadline="1m",
        retry=rc.Retry(OSError, retries=2, backoff=rc.Constant("1s")),
        concurrency=rc.Concurrency(3),
    )
    assert ("deadline 1m", "retry OSError 2x constant 1s", "concurrency 3", "timeout 5s", "loop") == service.describe()


@pytest.mark.virtual
@pytest.mark.parity("T3.28", "T3.50")
async def test_the_log_tells_the_story(caplog: pytest.LogCaptureFixture) -> None:
    """Start, delay, each run, each retry and the permanent error are logged with the service's name and fields."""
    caplog.set_level("DEBUG", "runcrew")
    job, _ = failing(OSError("down"))
    service = rc.OneShot(
        job, name="migrate", delay="5s", timeout="1m", retry=rc.Retry(OSError, retries=1, backoff=rc.Constant("2s"))
    )
    with pytest.raises(OSError, match="down"):
        await service.run()
    records = [record for record in caplog.records if record.name == "runcrew"]
    assert all(record.__dict__["service"] == "migrate" for record in records)
    run = service.outcome
    assert run is not None
    said = [record.getMessage().replace(records[3].__dict__["run"], "RUN") for record in records]
    assert [
        "migrate: new -> starting",
        "migrate: runs once, after a delay of 5s: retry OSError 1x constant 2s > timeout 1m > loop",
        "migrate: starting -> running",
        "migrate: run RUN begins",
        "migrate: attempt 1 failed, the next in 2s by OSError: OSError: down",
        "migrate: run RUN failed after 2s",
        "migrate failed: OSError: down (the budget of OSError is used up (1 retry))",
        "migrate: running -> stopping",
        "migrate: stopping -> failed",
    ] == said


@pytest.mark.virtual
async def test_virtual_time_reaches_a_thread() -> None:
    """A plain job sees the same clock as everybody."""
    seen: list[float] = []
    here = clock.current().now()
    await rc.OneShot(lambda: seen.append(clock.current().now()), delay="1h").run()
    assert [here + 3600] == seen
