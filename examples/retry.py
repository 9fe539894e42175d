"""Policies around single calls, without any service: `rc.policy`, `rc.call`, and the decorator."""

from __future__ import annotations

import asyncio
import itertools

import runcrew as rc


class Overloaded(Exception):
    """The other side has too much to do just now."""


class NoSuchUser(rc.NoRetry, KeyError):
    """This will not change by asking again."""


# One policy, made once, used for many calls. The first rule that matches an error decides.
careful = rc.policy(
    retry=[
        rc.Retry(ConnectionError, retries=5, backoff=rc.Exponential("10ms", cap="100ms")),
        rc.Retry(Overloaded, retries=2, backoff=rc.Constant("50ms")),
    ],
    timeout="1s",  # for each attempt
    deadline="5s",  # for all of them together, and the pauses between
)

trouble = itertools.chain([ConnectionResetError("hung up"), Overloaded("try later")], itertools.repeat(None))


async def load_user(number: int) -> str:
    """Fails twice, then never again; unless there is no such user."""
    if number < 0:
        raise NoSuchUser(number)
    if (error := next(trouble)) is not None:
        print("  attempt", rc.current_run().attempt, "fails:", error)
        raise error
    return f"user {number}"


@rc.policy(retry=rc.Retry(Overloaded, retries=3, backoff=rc.Constant("10ms")))
def report(numbers: list[int]) -> int:
    """A plain function under a policy stays one: its pauses block the calling thread."""
    if len(numbers) < 3:
        numbers.append(len(numbers))
        raise Overloaded(len(numbers))
    return sum(numbers)


async def main() -> None:
    """Call things that fail."""
    print("await careful.call(load_user, 7)")
    print("  gives", await careful.call(load_user, 7))

    print("an error that is marked as final is not retried")
    try:
        await careful.call(load_user, -1)
    except NoSuchUser as error:  # the job's own exception, not a wrapper around it
        print("  raises", repr(error))

    print("the same for a single call, spelt out")
    print("  gives", await rc.call(load_user, 8, retry=rc.Retry(Overloaded, retries=1), timeout="1s"))

    print("a plain function in a thread, without blocking the loop")
    print("  gives", await careful.call(len, "four"))


if __name__ == "__main__":
    asyncio.run(main())
    print("report([]) gives", report([]))
