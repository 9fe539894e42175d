"""Asks one URL, once: plain blocking code, which a queue runs in a thread of its own."""

from __future__ import annotations

import http.client
import time
from contextlib import closing
from urllib.parse import quote, urlsplit

import runcrew as rc

#: More of an answer than this is not read.
ENOUGH = 64 * 1024
#: What stays as it is in a path and a query; the rest is percent-encoded.
SAFE = "/%:@!$&'()*+,;=~?"


class BadStatus(Exception):
    """The server answered, and the answer was that something is wrong. It may be right the next time."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} {http.client.responses.get(status, '')}")
        self.status = status


class Gone(rc.NoRetry, BadStatus):
    """There is nothing at this address. NoRetry: whatever the rules say, asking again at once is no use."""


def ask(url: str, timeout: float) -> tuple[int, float, bytes]:
    """The status of the answer, how many milliseconds it took, and the page.

    timeout: seconds that the socket may be silent. A server that sends a byte now and then can take longer:
    against that there is the deadline of the run.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    path = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
    began = time.perf_counter()
    with closing(kind(parts.hostname or "", parts.port, timeout=timeout)) as connection:
        connection.request("GET", path, headers={"User-Agent": "runcrew-watch"})
        answer = connection.getresponse()
        page = answer.read(ENOUGH)
        took = (time.perf_counter() - began) * 1000
        if answer.status in (404, 410):
            raise Gone(answer.status)
        if answer.status >= 400:
            raise BadStatus(answer.status)
        return answer.status, took, page
