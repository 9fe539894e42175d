"""Three small HTTP servers on loopback, in a process of their own: `python servers.py 0 0 0`, or a port for each.

The first is steady. The second is flaky, always in the same order: some requests are answered with 500,
some late, and at some it hangs up. The third has its tides: a few seconds of slow answers, a few of quick ones.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: What the flaky server does, request by request, over and over.
MOODS = ("good", "good", "error", "error", "good", "slow", "good", "hang up")

#: What they say when all is well.
PAGE = b"all is well\n" * 2000

#: For so many seconds out of so many the tidal server is slow, and takes so long for an answer.
SLOW, TIDE, LATE = 2.5, 10.0, 0.8


class Steady(BaseHTTPRequestHandler):
    """Answers every request."""

    def do_GET(self) -> None:
        """Say yes."""
        self.answer(200)

    def answer(self, status: int) -> None:
        """Send a status, and a page."""
        body = PAGE if status == 200 else b"something is wrong\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Nothing: the watcher tells what it sees."""


class Flaky(Steady):
    """Answers as MOODS say."""

    moods = itertools.cycle(MOODS)

    def do_GET(self) -> None:
        """Do the next thing on the list."""
        mood = next(Flaky.moods)
        if mood == "slow":
            time.sleep(0.8)
        if mood == "hang up":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):  # whoever asked has not waited
            self.answer(500 if mood == "error" else 200)


class Tidal(Steady):
    """Answers every request, and takes its time while the tide is in."""

    began = time.monotonic()

    def do_GET(self) -> None:
        """Say yes, now or a little later."""
        if (time.monotonic() - Tidal.began) % TIDE < SLOW:
            time.sleep(LATE)
        with contextlib.suppress(ConnectionError):
            self.answer(200)


def main() -> None:
    """Serve until standard input is closed: that is when the watcher has ended, however it ended."""
    ports = [int(text) for text in sys.argv[1:]]
    kinds = (Steady, Flaky, Tidal)
    servers = [ThreadingHTTPServer(("127.0.0.1", port), kind) for port, kind in zip(ports, kinds, strict=True)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(*[server.server_port for server in servers], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
