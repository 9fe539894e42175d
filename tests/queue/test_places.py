"""Places: where a resource lives, is tried and is used; and which wishes about that contradict one another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from queue_made import PlainThings, Thing, Things, now

import runcrew as rc
from runcrew.job import Outcome, Run


class Elsewhere:
    """Somebody's own backend: it calls each job where it stands."""

    async def handle(self, run: Run) -> Outcome[Any]:
        """Do it."""
        return run.finished(rc.Status.SUCCEEDED, now(), value=run.job.fn(*run.args))


def passes(handler: Any) -> Any:
    """A middleware that changes nothing."""

    async def handle(run: Run) -> Any:
        return await handler(run)

    return handle


def fit(_: Thing) -> bool:
    """A check that is always passed."""
    return True


def where(thing: Thing) -> int:
    """A plain job: in which thread it runs."""
    thing.begin()
    thing.end()
    return threading.get_ident()


async def where_async(thing: Thing) -> int:
    """An async job: the same."""
    return where(thing)


LIVES = "backend: the resource of .* lives in its worker's own thread.* leave `backend` out, or say threadsafe=True"
TAKES = 'backend: "thread" takes plain jobs.* lives on the event loop: leave `backend` out, or say threadsafe=True'
TRIED = "check: a resource is tried where it lives.* let the job try it, or leave those out"

REFUSED: list[tuple[Callable[[], Any], dict[str, Any], str]] = [
    (PlainThings, {"backend": "loop"}, LIVES),
    (PlainThings, {"backend": "loop", "check": fit}, LIVES),
    (PlainThings, {"backend": Elsewhere()}, LIVES),
    (Things, {"backend": "thread"}, TAKES),
    (Things, {"backend": "thread", "check": fit}, TAKES),
    (Things, {"backend": "loop", "check": fit}, TRIED),
    (Things, {"backend": Elsewhere(), "check": fit}, TRIED),
    (Things, {"threadsafe": True, "check": fit}, TRIED),
    (Things, {"threadsafe": True, "backend": "thread", "check": fit}, TRIED),
    (PlainThings, {"threadsafe": True, "check": fit}, TRIED),
    (PlainThings, {"threadsafe": True, "check": fit, "backend": "loop"}, TRIED),
    (PlainThings, {"threadsafe": True, "check": fit, "middleware": [passes]}, TRIED),
]


@pytest.mark.parametrize(("kind", "options", "said"), REFUSED, ids=[f"{k.__name__} {list(o)}" for k, o, _ in REFUSED])
def test_a_resource_that_would_not_be_tried_or_used_where_it_lives_is_refused(
    kind: Callable[[], Any], options: dict[str, Any], said: str
) -> None:
    """A check that would be left out, and a resource that would be used in another place than its own without
    threadsafe=True, are a ConfigError that names the remedy; nothing is made."""
    things = kind()
    with pytest.raises(rc.ConfigError, match=said):
        rc.Queue("db", resource=things, **options)
    assert [] == things.made


ALLOWED: list[tuple[Callable[[], Any], Any, dict[str, Any], bool]] = [
    (PlainThings, where, {}, False),
    (PlainThings, where, {"backend": "thread"}, False),
    (PlainThings, where, {"threadsafe": True}, False),
    (PlainThings, where, {"threadsafe": True, "backend": "loop"}, True),
    (PlainThings, where_async, {"threadsafe": True, "backend": "loop"}, True),
    (PlainThings, where_async, {"threadsafe": True}, True),
    (PlainThings, where, {"threadsafe": True, "backend": Elsewhere()}, True),
    (Things, where_async, {}, True),
    (Things, where, {"backend": "loop"}, True),
    (Things, where_async, {"backend": "loop"}, True),
    (Things, where, {"threadsafe": True, "backend": Elsewhere()}, True),
    (Things, where, {"threadsafe": True}, False),
    (Things, where, {"threadsafe": True, "backend": "thread"}, False),
]


@pytest.mark.parametrize("middleware", [(), (passes,)], ids=["bare", "middleware"])
@pytest.mark.parametrize(("kind", "job", "options", "on_loop"), ALLOWED)
@pytest.mark.virtual
async def test_a_resource_is_used_where_it_lives_or_where_it_may_be(
    kind: Callable[[], Any], job: Any, options: dict[str, Any], on_loop: bool, middleware: Any
) -> None:
    """What does not contradict itself runs, on the loop or in the worker's thread, in the queue and past it."""
    things = kind()
    async with rc.Queue("db", resource=things, middleware=middleware, spares=1, **options) as queue:
        here = threading.get_ident()
        for thread in (await queue.run(job), await queue.run_now(job)):
            assert on_loop is (here == thread)
    assert 2 == sum(thing.uses for thing in things.made)
    assert things.balanced


@pytest.mark.parametrize("middleware", [(), (passes,)], ids=["bare", "middleware"])
@pytest.mark.parametrize(("kind", "job", "options"), [
    (PlainThings, where, {}), (PlainThings, where, {"backend": "thread"}), (Things, where_async, {}),
])  # fmt: skip
@pytest.mark.virtual
async def test_a_check_is_made_before_each_use_where_the_job_runs(
    kind: Callable[[], Any], job: Any, options: dict[str, Any], middleware: Any
) -> None:
    """Whatever a run goes through, its resource is tried just before it, in the same thread, each time."""
    things = kind()
    tried: list[int] = []

    def check(_: Thing) -> None:
        tried.append(threading.get_ident())

    async with rc.Queue("db", resource=things, check=check, middleware=middleware, spares=1, **options) as queue:
        used = [await queue.run(job), await queue.run(job), await queue.run_now(job)]
    assert used == tried
