"""A plain program, without `async` anywhere: a crew in a background thread, and calls into it."""

from __future__ import annotations

import asyncio
import threading

import runcrew as rc

crew = rc.Crew("reports")
rates: dict[str, float] = {}
known = threading.Event()


@crew.interval("50ms")
async def refresh() -> None:
    """Goes on in the background, whatever the program does."""
    await asyncio.sleep(0.01)  # stands for a request
    rates["EUR"] = 1.1
    known.set()


async def convert(amount: float, currency: str) -> float:
    """A job: it runs on the crew's event loop."""
    await asyncio.sleep(0.01)
    return amount * rates[currency]


async def stuck() -> None:
    """One that takes too long."""
    await asyncio.sleep(60)


conversions = crew.queue("conversions", workers=2)


def main() -> None:
    """Ask, and wait for the answer, as plain code does."""
    with crew.in_thread() as live:
        known.wait()
        print("call: ", live.call(conversions.run, convert, 10, "EUR"))

        futures = [live.start(conversions.run, convert, amount, "EUR") for amount in (1, 2, 3)]
        print("start:", [future.result() for future in futures])

        try:
            live.with_timeout("50ms").call(conversions.run, stuck)
        except TimeoutError as error:
            print("late: ", error)

        print("state:", crew.state)
    print("state:", crew.state)


if __name__ == "__main__":
    main()
