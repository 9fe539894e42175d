"""A queue where a `concurrent.futures.Executor` is wanted: by plain threads, or by a library that asks for one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, as_completed

import runcrew as rc

tries: dict[str, int] = {}


def fetch(url: str) -> str:
    """Plain blocking code, which fails at first."""
    time.sleep(0.01)
    tries[url] = tries.get(url, 0) + 1
    if tries[url] == 1:
        raise ConnectionError(f"{url} does not answer")
    return f"{url} at the second try"


def somebodys_library(executor: Executor, urls: list[str]) -> list[str]:
    """Knows of executors, and of nothing else."""
    return [future.result() for future in as_completed(executor.submit(fetch, url) for url in urls)]


def prepare(name: str) -> None:
    """Called once in each worker, before its first job."""
    print("  ready:", name, threading.current_thread().name)


def main() -> None:
    """The rules of the queue hold for whatever is submitted."""
    again = rc.Retry(ConnectionError, retries=3, backoff=rc.Constant("5ms"))
    queue: rc.Queue[rc.NoResource] = rc.Queue("fetches", workers=2, retry=[again], timeout="5s")
    with queue.in_thread(), queue.executor(initializer=prepare, initargs=("session",)) as executor:
        for page in sorted(somebodys_library(executor, ["/a", "/b", "/c"])):
            print(" ", page)
        print("  map:", list(executor.map(len, ["one", "three"])))
    runs, retries = queue.stats().runs, sum(tries.values()) - len(tries)
    print(f"{runs.succeeded} runs succeeded, after {retries} attempts that had failed")


if __name__ == "__main__":
    main()
