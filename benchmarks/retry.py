"""What a retry policy costs: a call that succeeds, one that fails once, one with a timeout around it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from common import Case, Goal, Options, in_loop, main, now, per_op

import runcrew.policies as rc

CALLS, FAILING = 20_000, 3_000
AHEAD = ("backoff", "stamina", "tenacity")


class Boom(Exception):
    """What the work raises."""


class Work:
    """Succeeds, or fails every other time, beginning with the first."""

    def __init__(self, failing: bool) -> None:
        self.failing = failing
        self.calls = 0

    def plain(self) -> Callable[[int], int]:
        """As a plain function."""
        if not self.failing:

            def work(x: int) -> int:
                return x

        else:

            def work(x: int) -> int:
                self.calls += 1
                if self.calls & 1:
                    raise Boom
                return x

        return work

    def coroutine(self) -> Callable[[int], Any]:
        """As an async function."""
        if not self.failing:

            async def work(x: int) -> int:
                return x

        else:

            async def work(x: int) -> int:
                self.calls += 1
                if self.calls & 1:
                    raise Boom
                return x

        return work


# --- the floor, and what others offer -------------------------------------------------------


def loop_plain(fn: Callable[[int], int]) -> Callable[[int], Any]:
    """What one would write by hand."""

    def call(x: int) -> Any:
        for attempt in range(4):
            try:
                return fn(x)
            except Boom:
                if attempt == 3:
                    raise
        return None

    return call


def loop_async(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same for an async function."""

    async def call(x: int) -> Any:
        for attempt in range(4):
            try:
                return await fn(x)
            except Boom:
                if attempt == 3:
                    raise
        return None

    return call


def with_asyncio_timeout(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """A bare timeout around a bare call."""

    async def call(x: int) -> Any:
        async with asyncio.timeout(30):
            return await fn(x)

    return call


def with_tenacity(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """Up to three retries without a wait."""
    tenacity: Any = import_module("tenacity")

    return tenacity.retry(
        retry=tenacity.retry_if_exception_type(Boom),
        stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_none(),
        reraise=True,
    )(fn)


def with_stamina(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same, with its hooks for metrics and logs taken out."""
    stamina: Any = import_module("stamina")
    import_module("stamina.instrumentation").set_on_retry_hooks(())
    return stamina.retry(on=Boom, attempts=4, timeout=None, wait_initial=0, wait_jitter=0, wait_max=0)(fn)


def with_backoff(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same."""
    backoff: Any = import_module("backoff")

    return backoff.on_exception(backoff.constant, Boom, max_tries=4, interval=0, jitter=None)(fn)


# --- ours ---------------------------------------------------------------------------------


def rules() -> tuple[rc.Retry, ...]:
    """Three, of which the last takes what the work raises."""
    at_once = rc.Constant(0)
    return rc.retry_each(ConnectionError, TimeoutError, Boom, backoff=at_once)


def with_runcrew(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """Three retry rules."""
    return rc.policy(retry=rules())(fn)


def with_runcrew_timeout(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """A timeout for each attempt."""
    return rc.policy(timeout="30s")(fn)


def with_runcrew_both(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """Three retry rules, and a timeout for each attempt."""
    return rc.policy(retry=rules(), timeout="30s")(fn)


def with_runcrew_chain(fn: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same through the chain that services use."""
    return rc.policy(retry=rules(), deadline="1h", concurrency=rc.Concurrency(4))(fn)


# --- measuring ----------------------------------------------------------------------------

Wrap = Callable[[Callable[[int], Any]], Callable[[int], Any]]


def plain_case(wrap: Wrap, failing: bool, count: int) -> Case:
    """`count` calls of a plain function in a row."""

    def case() -> float:
        call = wrap(Work(failing).plain())
        call(0)
        start = now()
        for i in range(count):
            call(i)
        return per_op(start, count)

    return case


def async_case(wrap: Wrap, failing: bool, count: int) -> Case:
    """`count` awaited calls of an async function in a row."""

    async def case() -> float:
        call = wrap(Work(failing).coroutine())
        await call(0)
        start = now()
        for i in range(count):
            await call(i)
        return per_op(start, count)

    return in_loop(case)


def installed(module: str, case: Case) -> Case | None:
    """The case, where the peer that it needs can be imported."""
    return case if find_spec(module) else None


def table(options: Options, kind: str, failing: bool) -> Sequence[Goal]:
    """One table and its goals."""
    count = FAILING if failing else CALLS
    make, floor = (plain_case, loop_plain) if kind == "plain" else (async_case, loop_async)
    what = "fails once, then succeeds (no wait)" if failing else "succeeds"
    title = f"A{'n async' if kind == 'async' else ' plain'} call that {what}"
    peers = {"backoff": with_backoff, "stamina": with_stamina, "tenacity": with_tenacity}
    cases: dict[str, Case | None] = {
        "for/try loop": make(floor, failing, count),
        "runcrew, 3 rules": make(with_runcrew, failing, count),
    }
    if kind == "async":
        cases["runcrew, with deadline and concurrency"] = make(with_runcrew_chain, failing, count)
    few = max(count // 10, 500)
    cases |= {name: installed(name, make(wrap, failing, few)) for name, wrap in peers.items()}
    found = options.measure(title, cases, "us/call")
    ours = "runcrew, 3 rules"
    goals = [] if failing else [Goal(f"{title}: of a for/try loop", found.ratio(ours, "for/try loop"), at_most=3)]
    for name in peers:
        if name in found.values:
            least = 15 if failing and name != "backoff" else 1
            goals.append(Goal(f"{title}: ahead of {name}", found.ratio(name, ours), at_least=least))
    return goals


def timeout_table(options: Options) -> Sequence[Goal]:
    """A timeout around a call that succeeds."""
    title = "An async call with a timeout around it"
    found = options.measure(
        title,
        {
            "asyncio.timeout": async_case(with_asyncio_timeout, False, CALLS),
            "runcrew, timeout": async_case(with_runcrew_timeout, False, CALLS),
            "runcrew, timeout and 3 rules": async_case(with_runcrew_both, False, CALLS),
        },
        "us/call",
    )
    ratio = found.ratio("runcrew, timeout and 3 rules", "asyncio.timeout")
    return [Goal(f"{title}: of asyncio.timeout", ratio, at_most=1.15)]


def script(options: Options) -> Sequence[Goal]:
    """All tables."""
    logging.disable(logging.CRITICAL)
    goals: list[Goal] = []
    for failing in (False, True):
        for kind in ("plain", "async"):
            goals += table(options, kind, failing)
    return [*goals, *timeout_table(options)]


if __name__ == "__main__":
    main(script, __doc__)
