"""Watches HTTP endpoints: polls them, retries by rules, restarts what fails, stores every result through a queue.

How many are asked at a time is up to a pool that grows while they are slow, and shrinks again. Pages are hashed in
processes, so that all processors have something of the work.

    python watch.py --for 10s
    python watch.py https://example.org/

The same as `runcrew demo`. Read it from top to bottom: first the rules, then the jobs, then the crew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import probe
import store
from hashing import Hashed, hash_page
from targets import Target, read_targets, target_of

import runcrew as rc
from runcrew.durations import seconds

HERE = Path(__file__).parent
log = logging.getLogger("watch")

# --- the rules -----------------------------------------------------------------------------
# The first rule that matches an error decides, with a budget and a backoff of its own. An error that none
# matches is permanent: the poll fails, and the crew restarts it after a pause.

RULES = [
    # A refused connection costs nothing and is told at once, as when a server is restarted: try often.
    rc.Retry(
        ConnectionRefusedError, retries=20, backoff=rc.Exponential("50ms", cap="400ms", jitter="equal"), name="refused"
    ),
    # It hung up, or sent what is not HTTP: probably chance.
    rc.Retry(ConnectionError, http.client.HTTPException, retries=3, backoff=rc.Constant("100ms"), name="hung up"),
    # It did not answer in time: it has enough to do already. It may be so for long: ask ever more rarely.
    rc.Retry(TimeoutError, retries=rc.UNLIMITED, backoff=rc.Exponential("200ms", cap="10s"), name="too slow"),
    # It answered 5xx: give it time to recover. (404 is a `probe.Gone`, and a NoRetry: no rule matches that.)
    rc.Retry(probe.BadStatus, retries=3, backoff=rc.Exponential("200ms", cap="2s"), name="bad status"),
    # There is no way there: no such host, no network, a bad certificate.
    rc.Retry(OSError, retries=rc.UNLIMITED, backoff=rc.Exponential("1s", cap="10s"), name="unreachable"),
]

# How many probes there are follows the load. These spans are short, so that you can watch it: left out, each is
# what suits a service that runs for days.
SCALE = rc.Scale(every="200ms", window="1s", wait="500ms", hold="1500ms", cooldown="500ms")


# --- the jobs ---------------------------------------------------------------------------------


class Servers:
    """The demo's own servers, in a child process. `ports` is filled when they listen."""

    names = ("steady", "flaky", "tidal")

    def __init__(self) -> None:
        #: By name. 0 is any free port; after a restart it is the same again.
        self.ports: dict[str, int] = dict.fromkeys(self.names, 0)
        self.process: asyncio.subprocess.Process | None = None
        self.kills = 0

    async def serve(self) -> None:
        """Start the process and wait for its end, which is a failure whenever it comes.

        A stop cancels this job where it waits, and `finally` takes the process down. If we are killed, the
        process sees the other end of its standard input closed, and ends by itself.
        """
        self.process = process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "servers.py"), *map(str, self.ports.values()),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for us: they have to last until the polls have ended
        )  # fmt: skip
        try:
            assert process.stdout is not None
            if line := await process.stdout.readline():
                self.ports.update(zip(self.names, map(int, line.split()), strict=True))
                where = ", ".join(f"{name} at 127.0.0.1:{port}" for name, port in self.ports.items())
                log.info("servers: process %d listens: %s", process.pid, where)
                rc.current_run().ready()  # whoever depends on the servers may start now
            code = await process.wait()
            raise RuntimeError(f"the servers' process {process.pid} ended with {code}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def chaos(self) -> None:
        """Kill them, to see what happens; twice, and then no more."""
        if self.process is None or self.process.returncode is not None:
            return  # they are down already
        log.warning("chaos: SIGKILL to the servers' process %d", self.process.pid)
        self.process.kill()
        self.kills += 1
        if self.kills == 2:
            raise rc.Done("twice is enough")  # a job that raises this is not run again, and has not failed


class Answer(NamedTuple):
    """What an endpoint has said, after how many milliseconds."""

    status: int
    ms: float
    page: Hashed


class Probes:
    """Asks endpoints, one after the other, for whoever wants to know."""

    def __init__(self, threads: rc.Queue[rc.NoResource], hashes: rc.Queue[rc.NoResource]) -> None:
        self.threads, self.hashes = threads, hashes
        #: What is due: a URL, its timeout, and where the answer goes.
        self.due: asyncio.Queue[tuple[str, float, asyncio.Future[Answer]]] = asyncio.Queue()

    async def ask(self, url: str, timeout: float) -> Answer:
        """Have it asked when its turn comes. Raises what `probe.ask` raises."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.due.put_nowait((url, timeout, answer))
        return await answer

    async def probe(self) -> None:
        """Ask the next one that is due. The job of the pool: each of its workers runs it again and again."""
        with rc.current_run().idle():  # waiting is no work, and a stop need not wait for it
            url, timeout, answer = await self.due.get()
        try:
            # The socket gives up earlier than runcrew does, so that no thread has to be abandoned.
            status, ms, page = await self.threads.run(probe.ask, url, timeout * 0.8, deadline=timeout)
            hashed = await self.hashes.run(hash_page, page)  # the same call, and it runs in another process
        except Exception as error:  # not ours: it is for whoever asked
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():  # it is when nobody waits any more
                answer.set_result(Answer(status, ms, hashed))


class Watched:
    """One target, and how it has done lately."""

    #: So many attempts in a row have to fail before it counts as down.
    patience = 2

    def __init__(
        self, target: Target, ports: dict[str, int], probes: Probes, results: rc.Queue[sqlite3.Connection]
    ) -> None:
        self.target, self.ports = target, ports
        self.timeout = seconds(target.timeout, "timeout", zero=False)
        self.probes, self.results = probes, results
        self.failures = 0

    async def poll(self) -> None:
        """Ask once, and keep what came of it."""
        run, name = rc.current_run(), self.target.name
        url = self.target.url.format(**self.ports)
        try:
            answer = await self.probes.ask(url, self.timeout)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            self.failures += 1
            if self.failures == self.patience:
                await self.alert(f"down: {said}")
            answered = error.status if isinstance(error, probe.BadStatus) else None
            await self.results.run(keep, store.Result(name, run.id, run.attempt, answered, error=said))
            raise  # what follows from that is for the rules to say
        if self.failures >= self.patience:
            await self.alert("up again")
        self.failures = 0
        # `run` waits until it is stored, and raises what the job raises.
        result = store.Result(name, run.id, run.attempt, answer.status, answer.ms, None, *answer.page)
        await self.results.run(keep, result)

    async def alert(self, said: str) -> None:
        """Tell that it has gone down or come up, before anything that is less urgent.

        `submit` does not wait for it. What was accepted is done all the same, also if we are told to stop now.
        """
        await self.results.submit(keep_alert, self.target.name, said, priority=rc.HIGH)


def keep(db: sqlite3.Connection, result: store.Result) -> None:
    """Store a result, and tell it if it is a good one. Runs in the thread of a worker, with the worker's connection."""
    store.add(db, result)
    if result.error is None:
        retried = f"  (attempt {result.attempt})" if result.attempt > 1 else ""
        hashed = f"{result.digest:.8} by process {result.pid}"
        say(f"{result.target:<12} {result.status}  {result.ms:7.1f} ms  {hashed}{retried}")


def keep_alert(db: sqlite3.Connection, target: str, said: str) -> None:
    """Store an alert, and tell it."""
    store.add_alert(db, target, said)
    say(f"{target:<12} {said}")


def say(line: str) -> None:
    """One line of data, to standard output. Everything else goes to the log, on standard error."""
    try:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # As in `watch.py | head`. What is still in the buffer must not fail again at exit, so it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise rc.StopTree("nobody reads the output any more") from None  # this ends the whole crew, well


# --- the crew -----------------------------------------------------------------------------------


def build(
    urls: Sequence[str] = (),
    *,
    lasts: str | None = None,
    targets: Path | None = None,
    db: Path | None = None,
    no_chaos: bool = False,
) -> rc.Crew:
    """Put it together; nothing starts yet. Raises rc.ConfigError for whatever is wrong with what was given."""
    watched = read_targets(targets or HERE / "targets.toml", builtin=Servers.names)
    for url in urls:
        watched.append(target_of(url, [target.name for target in watched]))
    servers, file = Servers(), store.Store(db)

    # A child that fails is restarted after a pause that grows with its failures. Endpoints may be down for
    # long, so the crew bears more failures than by default before it gives up.
    crew = rc.Crew(
        "watch",
        intensity=rc.Intensity(30, "60s"),
        backoff=rc.Exponential("200ms", cap="5s", jitter="equal"),
    )

    @crew.oneshot(ready="succeeded")  # what depends on it starts when it is done
    def migrate() -> None:
        log.info("results go to %s", file.prepare())

    # Queues are ready before anything else starts, but for what they depend on. At a stop they take what comes
    # until everything else has ended, and then finish what they have taken.
    results = crew.queue(
        "results",
        resource=file.connection,
        workers=2,
        healthy=store.is_healthy,
        deadline="10s",  # what cannot be stored by then is told to whoever wants it stored
        depends_on=["migrate"],
    )
    # Asking blocks a thread. There are enough of them: one that hangs is replaced, a few times over.
    most = max(4, len(watched))
    threads = crew.queue("threads", workers=most, max_abandoned=8 * most)
    # Hashing keeps a processor busy: each of these workers does it in a process of its own. One that takes too long is
    # killed with its process; a page whose process is killed by somebody else is hashed again, in another.
    hashes = crew.queue(
        "hashes",
        backend="process" if hasattr(os, "waitid") else "thread",  # not every system can do it
        workers=2,
        timeout="5s",
        retry=rc.Retry(rc.ProcessDied, retries=2, backoff=rc.Constant("50ms")),
    )
    probes = Probes(threads, hashes)
    # Endpoints that answer at once need two probes, so that one that hangs does not hold up all the others. Where
    # they are slow the probes are at work for most of their time, and more come; they go when that has passed.
    crew.pool("probes", probes.probe, min=2, max=most, scale=SCALE)

    if any("{" in target.url for target in watched):
        crew.add(rc.OneShot(servers.serve, name="servers", ready="signal", on_failure="restart"))
        if not no_chaos:
            crew.add(rc.Interval(servers.chaos, "3s", delay="900ms"), depends_on=["servers"])

    for target in watched:
        with blame(target.place):
            job = Watched(target, servers.ports, probes, results).poll
            crew.add(
                rc.Interval(job, target.every, name=target.name, retry=RULES),
                # It starts when the probes are there, and they leave when the last poll has ended.
                depends_on=["probes", "servers"] if "{" in target.url else ["probes"],
                on_failure="restart",
            )

    if lasts is not None:

        async def time_is_up() -> None:
            raise rc.StopTree(f"{lasts} are over")

        with blame("--for"):
            crew.add(rc.OneShot(time_is_up, delay=lasts, name="timer"))

    @crew.on_stopped  # when all of the above has ended, however it ended
    def summary() -> None:
        log.info("hashes: %d pages", hashes.stats().runs.succeeded)
        for row in file.summary():
            p50 = "none" if row.p50 is None else f"{row.p50:.1f} ms"
            told = f"{row.ok} ok, {row.failed} failed, {row.retried} retried, {row.alerts} alerts, p50 {p50}"
            say(f"{row.target:<12} {told}")

    return crew


def crew() -> rc.Crew:
    """For `runcrew run watch.py:crew`: the default targets, until Ctrl-C."""
    return build()


@contextlib.contextmanager
def blame(place: str) -> Iterator[None]:
    """Say where a bad value was given: runcrew knows what is wrong with it, and not where it came from."""
    try:
        yield
    except rc.ConfigError as error:
        raise rc.ConfigError(f"{place}: {error}") from None


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="Watch HTTP endpoints: two of its own, and those given.")
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--for", dest="lasts", metavar="SPAN", help="end after this long, such as 10s")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="what to watch, instead of its own")
    parser.add_argument("--db", type=Path, metavar="PATH", help="the SQLite file; default: a temporary one")
    parser.add_argument("--no-chaos", action="store_true", help="do not kill the demo's own servers")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    try:
        watch = build(**vars(options))
    except rc.ConfigError as error:
        parser.error(str(error))
    rc.run(watch)  # until the end, Ctrl-C or SIGTERM; exits with a code that says how it went


if __name__ == "__main__":
    main()
