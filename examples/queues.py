"""A queue in front of connections that break: each worker owns one, urgent work goes first, nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import runcrew as rc

numbers = itertools.count(1)


class Connection:
    """Stands for a connection to a database. Each one breaks at its fifth query."""

    def __init__(self) -> None:
        self.name = f"connection {next(numbers)}"
        self.queries = 0

    async def query(self, words: str) -> str:
        await asyncio.sleep(0.02)
        self.queries += 1
        if self.queries == 5:
            raise ConnectionResetError(f"{self.name} is broken")
        return f"{words}, by {self.name}"


async def connection() -> AsyncIterator[Connection]:
    """Made for one worker, used by one job at a time, taken down exactly once."""
    conn = Connection()
    print("  open  ", conn.name)
    yield conn
    print("  close ", conn.name)


async def load_user(conn: Connection, number: int) -> str:
    """A job: the resource comes first, then what was given to `run` or `submit`."""
    return await conn.query(f"user {number}")


async def audit(conn: Connection, what: str) -> None:
    """One that nobody waits for."""
    print("  audit:", await conn.query(what))


def is_healthy(error: Exception) -> bool:
    """False: the connection is at fault. It is replaced, and the job goes to another one."""
    return not isinstance(error, ConnectionError)


def told(ticket: rc.Ticket[str]) -> None:
    """Called on the loop when a run has ended."""
    if (outcome := ticket.peek()) is not None:
        print(" ", outcome.value)


async def main() -> None:
    """Ask for things, in each of the ways."""
    async with rc.Queue("db", resource=connection, workers=2, spares=1, healthy=is_healthy) as db:
        print("run: wait for the value")
        print(" ", await db.run(load_user, 7))

        print("submit: tickets; the urgent one goes first, though it came last")
        tickets = await db.submit_many(load_user, range(6))
        tickets.append(await db.submit(load_user, 911, priority=rc.HIGH, deadline="2s"))
        for ticket in tickets:
            ticket.on_done(told)
        await asyncio.gather(*tickets)

        print("run_now: past the queue, on a spare connection")
        print(" ", await db.run_now(load_user, 8))

        print("map: a stream of jobs, in the order of the items; connections break on the way")
        async for user in db.map(load_user, range(10, 20)):
            print(" ", user)

        print("what was accepted is done, also if we leave now")
        for number in range(3):
            await db.submit(audit, f"entry {number}", priority=rc.LOW)

    stats, metrics = db.stats(), db.metrics()
    print(f"{stats.runs.succeeded} runs succeeded, {stats.runs.failed} failed; {stats.requeued} were done again")
    print(f"{stats.opened} connections were opened, {stats.closed} closed, {stats.replaced} of them were broken")
    print(f"half of the runs took less than {metrics.execution.p50 * 1000:.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
