"""What type checkers must see of the public names. Never run: mypy and pyright read it.

Each `assert_type` is a promise to users; a line that turns red is a change that users would notice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_type

from runcrew.abc import Handler, Middleware
from runcrew.durations import Duration, optional, seconds
from runcrew.job import Outcome, Run, Status, current_run


def an_outcome_is_typed_by_its_value(outcome: Outcome[int]) -> None:
    assert_type(outcome.unwrap(), int)
    assert_type(outcome.value, int | None)
    assert_type(outcome.status, Status)
    assert_type(outcome.error, BaseException | None)
    assert_type(outcome.started_at, datetime | None)
    wider: Outcome[float] = outcome  # an outcome is read only, so it is covariant
    assert_type(wider.ok, bool)


def a_span_is_seconds_inside(value: Duration) -> None:
    assert_type(seconds(value), float)
    assert_type(optional(None), float | None)


async def a_job_asks_about_its_run() -> None:
    run = current_run()
    assert_type(run, Run)
    assert_type(run.deadline, datetime | None)
    assert_type(run.cancelled, bool)
    assert_type(await run.sleep("1s"), bool)


def a_middleware_has_the_shape_of_what_it_wraps(middleware: Middleware, handler: Handler) -> None:
    assert_type(middleware(handler), Handler)


async def a_handler_gives_an_outcome(handler: Handler, run: Run) -> None:
    assert_type(await handler(run), Outcome[Any])
