"""A run whose twin is under way is skipped; what is wrong with keys costs nothing but the deduplication."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runcrew.backends import LoopBackend
from runcrew.errors import ConfigError, RunSkipped
from runcrew.job import Job, Outcome, Run, Status
from runcrew.policies import Constant, Dedupe, Options, Retry, chain, policy
from runcrew.testing import cancel_everywhere


async def carry_out(
    fn: Callable[..., Any], *args: Any, kwargs: dict[str, Any] | None = None, **options: Any
) -> Outcome[Any]:
    """One run of `fn(*args, **kwargs)` through the chain of these options."""
    run = Run(Job(fn), args, kwargs or {})
    return await chain(run.job, LoopBackend(), Options(**options))(run)


async def job(*args: Any, **kwargs: Any) -> str:
    """Takes a second."""
    await asyncio.sleep(1)
    return "done"


async def statuses(*ones: Any) -> list[str]:
    """How each ended, all under way at once."""
    return [outcome.status.value for outcome in await asyncio.gather(*ones)]


@pytest.mark.virtual
async def test_a_twin_is_skipped_while_the_first_is_under_way() -> None:
    """The same job with the same arguments: one runs, the other is skipped, never began, and says why."""
    dedupe = Dedupe()
    first, second, other = await asyncio.gather(*(carry_out(job, n, dedupe=dedupe) for n in (1, 1, 2)))
    assert ["succeeded", "skipped", "succeeded"] == [o.status.value for o in (first, second, other)]
    assert second.started is None
    assert "another run with the key job(1) is under way" == second.reason
    assert (1, 0, ()) == (dedupe.skipped, dedupe.errors, dedupe.in_flight)
    with pytest.raises(RunSkipped, match="under way"):
        second.unwrap()


@pytest.mark.virtual
async def test_a_key_is_free_again_when_its_run_has_ended() -> None:
    """After an end of any kind the next run goes on; a retry in between does not free it."""
    dedupe = Dedupe()

    async def fails() -> None:
        await asyncio.sleep(1)
        raise ConnectionError

    assert ["failed"] == await statuses(carry_out(fails, dedupe=dedupe))
    retry = Retry(ConnectionError, retries=1, backoff=Constant(5))
    assert ["failed", "skipped"] == await statuses(
        carry_out(fails, dedupe=dedupe, retry=retry), late(3, carry_out(fails, dedupe=dedupe))
    )
    assert () == dedupe.in_flight


async def late(span: float, one: Any) -> Any:
    """Later."""
    await asyncio.sleep(span)
    return await one


@pytest.mark.virtual
async def test_keywords_belong_to_the_key_in_any_order() -> None:
    """The default key is all arguments; the order of keywords does not matter."""
    dedupe = Dedupe()
    found = await statuses(
        carry_out(job, 1, kwargs={"a": 1, "b": 2}, dedupe=dedupe),
        carry_out(job, 1, kwargs={"b": 2, "a": 1}, dedupe=dedupe),
        carry_out(job, 1, kwargs={"a": 1}, dedupe=dedupe),
    )
    assert ["succeeded", "skipped", "succeeded"] == found


@pytest.mark.virtual
async def test_without_a_key_function_each_job_has_keys_of_its_own() -> None:
    """Two jobs with the same arguments are no twins, though they share one Dedupe; methods go by their object."""

    class Thing:
        async def job(self) -> None:
            await asyncio.sleep(1)

    dedupe, one, other = Dedupe(), Thing(), Thing()
    jobs: list[Any] = [one.job, one.job, other.job, job]
    assert ["succeeded", "skipped", "succeeded", "succeeded"] == await statuses(
        *(carry_out(each, dedupe=dedupe) for each in jobs)
    )


@pytest.mark.virtual
async def test_a_key_function_says_what_a_twin_is() -> None:
    """With a key function, runs of any job that have this Dedupe are twins by what it gives."""
    dedupe = Dedupe(key=lambda user, *_: user % 10)

    async def another(user: int) -> None:
        await asyncio.sleep(1)

    found = await statuses(
        carry_out(job, 11, dedupe=dedupe), carry_out(another, 21, dedupe=dedupe), carry_out(job, 12, dedupe=dedupe)
    )
    assert ["succeeded", "skipped", "succeeded"] == found


@pytest.mark.virtual
async def test_one_name_is_one_set_of_keys() -> None:
    """Two with the same name know of each other's runs; two without a name do not."""
    named = [carry_out(job, 1, dedupe=Dedupe(name="nightly")) for _ in range(2)]
    nameless = [carry_out(job, 1, dedupe=Dedupe()) for _ in range(2)]
    assert ["succeeded", "skipped", "succeeded", "succeeded"] == await statuses(*named, *nameless)
    assert "nightly" == Dedupe(name="nightly").name


class Touchy:
    """A key whose hash or equality raises."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __hash__(self) -> int:
        if self.where == "hash":
            raise RuntimeError("no hash")
        return 1

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")


def unhashable(*_: object) -> Any:
    """A key function that gives what cannot be a key."""
    return {}


def raises(*_: object) -> Any:
    """A key function with a fault."""
    raise SystemExit


@pytest.mark.parametrize(
    ("dedupe", "arg"),
    [
        (Dedupe(), [1]),
        (Dedupe(), Touchy("hash")),
        (Dedupe(key=raises), 1),
        (Dedupe(key=unhashable), 1),
    ],
    ids=["unhashable", "broken hash", "broken function", "unhashable key"],
)
@pytest.mark.virtual
async def test_without_a_usable_key_a_run_goes_on(dedupe: Dedupe, arg: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What a key does wrong is logged and counted, and the run goes on as if there were no dedupe."""
    assert ["succeeded"] * 2 == await statuses(carry_out(job, arg, dedupe=dedupe), carry_out(job, arg, dedupe=dedupe))
    assert (2, 0, ()) == (dedupe.errors, dedupe.skipped, dedupe.in_flight)
    assert ["runcrew"] * 2 == [record.name for record in caplog.records]


@pytest.mark.virtual
async def test_a_broken_equality_is_no_twin(caplog: pytest.LogCaptureFixture) -> None:
    """Keys whose equality raises are taken for different, and all of them are freed at the end."""
    dedupe = Dedupe(key=lambda key: key)
    keys = [Touchy("eq") for _ in range(3)]
    found = await statuses(*(carry_out(job, key, dedupe=dedupe) for key in [*keys, keys[0]]))
    assert ["succeeded"] * 3 + ["skipped"] == found
    assert () == dedupe.in_flight
    assert caplog.records


@pytest.mark.virtual
async def test_a_key_may_change_while_it_is_under_way() -> None:
    """The hash is asked once: a key that changes does not stay for ever."""

    class Changing:
        def __init__(self) -> None:
            self.state = 0

        def __hash__(self) -> int:
            return self.state

        def __eq__(self, other: object) -> bool:
            return self is other

    dedupe, key = Dedupe(), Changing()
    task = asyncio.create_task(carry_out(job, key, dedupe=dedupe))
    await asyncio.sleep(0)
    key.state = 5
    await task
    assert () == dedupe.in_flight


@pytest.mark.virtual
async def test_a_key_without_text_can_still_be_named() -> None:
    """A key whose repr raises is named by its type in the reason."""

    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError

    mute = Mute()
    dedupe = Dedupe()
    first, second = await asyncio.gather(*(carry_out(job, mute, dedupe=dedupe) for _ in range(2)))
    assert first.ok
    assert "job(<Mute>)" in second.reason


@pytest.mark.virtual
async def test_cancelling_anywhere_frees_the_key() -> None:
    """Wherever a run is cancelled, its key is free again."""
    dedupe = Dedupe()

    def check(task: asyncio.Task[Any]) -> None:
        assert () == dedupe.in_flight

    assert 1 == await cancel_everywhere(lambda: carry_out(job, 1, dedupe=dedupe), check)


@pytest.mark.realtime
def test_of_two_threads_one_wins() -> None:
    """Plain functions in plain threads: of those that come at once exactly one runs."""
    calls: list[int] = []
    go, over = threading.Barrier(8), threading.Event()
    skipped: list[str] = []

    @policy(dedupe=Dedupe())
    def work(number: int) -> None:
        calls.append(number)
        over.wait(5)

    def body() -> None:
        go.wait(5)
        try:
            work(1)
        except RunSkipped as error:
            skipped.append(str(error))
            if len(skipped) == 7:
                over.set()

    threads = [threading.Thread(target=body) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert ([1], 7) == (calls, len(skipped))


async def async_key(*_: object) -> int:
    """Would give a coroutine."""
    return 1


@pytest.mark.parametrize("given", [{"key": async_key}, {"key": "user"}, {"name": 3}])
def test_what_is_no_key_is_refused(given: dict[str, Any]) -> None:
    """A key is a plain function, a name a string."""
    with pytest.raises(ConfigError, match="Dedupe"):
        Dedupe(**given)


def test_it_says_what_it_is() -> None:
    """In words for people."""
    assert "dedupe by arguments" == str(Dedupe())
    assert "dedupe by job (nightly)" == str(Dedupe(key=lambda x: x, name="nightly")).replace(
        "test_it_says_what_it_is.<locals>.<lambda>", "job"
    )
    assert "<dedupe by arguments: 0 under way>" == repr(Dedupe())


def test_a_skipped_run_has_not_failed() -> None:
    """Skipped is a status of its own."""
    assert Status.SKIPPED is Status("skipped")
