"""Work that keeps a processor busy, in processes: each worker has its own, with what it owns. What dies is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import runcrew as rc

# A process finds its jobs by name: they are functions of a module, this one or another.


class Sieve:
    """Stands for what takes long to load: a model, a dictionary. Here: the primes up to a limit."""

    def __init__(self, limit: int) -> None:
        crossed = bytearray(limit + 1)
        self.primes: list[int] = []
        for n in range(2, limit + 1):
            if not crossed[n]:
                self.primes.append(n)
                crossed[n * n :: n] = b"\1" * len(crossed[n * n :: n])


def sieve() -> Iterator[Sieve]:
    """Made in the process, once; used by one job at a time; taken down there."""
    yield Sieve(30_000)


def factors(sieve: Sieve, number: int) -> list[int]:
    """A job: the resource comes first, then what was given to `run`."""
    found: list[int] = []
    for prime in sieve.primes:
        while number % prime == 0:
            found.append(prime)
            number //= prime
    return [*found, number] if number > 1 else found


def crash(_: Sieve) -> None:
    """Its process is killed, as the system does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def endless(_: Sieve) -> None:
    """Does not listen to anybody."""
    while True:
        pass


def patient(_: Sieve) -> str:
    """Asks now and then whether it should end."""
    run, rounds = rc.current_run(), 0
    while not run.cancelled:
        rounds += 1
        run.progress(rounds)
    return "had time to tidy up"


async def main() -> None:
    """Ask for things that work, and for things that do not."""
    async with rc.Queue("numbers", backend="process", resource=sieve, workers=2) as numbers:
        print("run:", await numbers.run(factors, 600_851_475_143))
        async for found in numbers.map(factors, range(10**9, 10**9 + 5)):
            print("map:", found)

        try:
            await numbers.run(crash)
        except rc.ProcessDied as error:
            print("it died:", str(error).replace(str(error.pid), "PID"))

        try:
            await numbers.run(endless, timeout="100ms")
        except rc.RunTimeout as error:
            print("it was killed:", error)

        ticket = await numbers.submit(patient)
        await asyncio.sleep(0.1)
        ticket.cancel()
        with contextlib.suppress(rc.RunCancelled):
            print("it was told:", await ticket)

        print("and it goes on:", await numbers.run(factors, 1_000_001))
    stats = numbers.stats()
    print(f"{stats.runs.succeeded} runs succeeded, {stats.runs.failed} failed")


if __name__ == "__main__":  # the processes load this module too
    asyncio.run(main())
