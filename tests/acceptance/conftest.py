"""Real processes: started, talked to by signals, and looked for when they should be gone."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

#: Real seconds after which a test gives up. Nothing is ever asserted about how long something took, but this.
PATIENCE = 120.0


class Program:
    """A runcrew process. What it says is collected line by line, so that a test can wait for words."""

    def __init__(self, folder: Path, *args: str, module: str | None = "runcrew.cli") -> None:
        environment = {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *(["-m", module] if module else []), *args],
            cwd=folder, env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.pid = self.process.pid
        self.out: list[str] = []
        self.err: list[str] = []
        #: Set it, and standard output is closed after its next line, as `| head` does.
        self.no_reader = False
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    lines.append(line.rstrip("\n"))
                    self._news.notify_all()
                if lines is self.out and self.no_reader:
                    return

    @property
    def said(self) -> str:
        """Everything that it has said so far."""
        return "\n".join(["--- stdout", *self.out, "--- stderr", *self.err])

    def wait_for(self, pattern: str, times: int = 1) -> list[re.Match[str]]:
        """Wait until lines that match have been said so many times; gives the matches."""
        ends = time.monotonic() + PATIENCE
        with self._news:
            while True:
                found = [match for line in (*self.out, *self.err) if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found
                left = ends - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not any(r.is_alive() for r in self._readers)):
                    raise AssertionError(f"{pattern!r} was said {len(found)} times\n{self.said}")
                self._news.wait(min(left, 0.1))

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; gives the exit code, negative for a signal that killed it."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def children(self) -> list[int]:
        """Its child processes now."""
        return [pid for pid in processes() if parent(pid) == self.pid]

    def servers(self) -> list[int]:
        """The process ids that the demo has told for its servers, in order."""
        return [int(match[1]) for line in self.err if (match := re.search(r"servers: process (\d+) listens", line))]

    def hashers(self) -> list[int]:
        """The process ids that the demo has told for those who hash its pages, in order."""
        told = [int(match[1]) for line in self.out if (match := re.search(r" by process (\d+)", line))]
        return list(dict.fromkeys(told))

    def descendants(self) -> list[int]:
        """Its child processes now, and theirs."""
        every = {pid: parent(pid) for pid in processes()}
        found = [self.pid]
        for pid in found:
            found += [child for child, its in every.items() if its == pid]
        return found[1:]

    def ports(self) -> list[int]:
        """The ports at which its servers listen."""
        return [
            int(port) for line in self.err if "servers: process" in line for port in re.findall(r":(\d{4,5})\b", line)
        ]

    def line(self, pattern: str) -> int:
        """The number of the first line of the log that matches."""
        for number, line in enumerate(self.err):
            if re.search(pattern, line):
                return number
        raise AssertionError(f"{pattern!r} was not said\n{self.said}")

    @staticmethod
    def is_gone(pid: int) -> bool:
        """Whether a process ends in time, if it has not ended already."""
        return gone(lambda: alive(pid))

    @staticmethod
    def listens(port: int) -> bool:
        """Whether anybody takes connections at a port of this machine."""
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it and its children, whatever has become of the test."""
        left = [pid for pid in self.servers() if "servers.py" in command(pid)]
        for pid in (*self.descendants(), *left, *([self.pid] if self.process.poll() is None else [])):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.end()


def processes() -> list[int]:
    """All processes of this machine that have not ended; zombies have."""
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and alive(int(p.name))]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["X", "0", "0", "0"]


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    return _stat(pid)[0] not in ("X", "Z")


def parent(pid: int) -> int:
    """Who has started it, or taken it over."""
    return int(_stat(pid)[1])


def command(pid: int) -> str:
    """How it was called; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def gone(look: Callable[[], object]) -> bool:
    """Whether `look()` becomes false in time."""
    ends = time.monotonic() + PATIENCE
    while look():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `runcrew ARGS` in a directory of its own; what is left of it is ended after the test."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to see what is left alive")
    programs: list[Program] = []

    def begin(*args: str, **options: str | None) -> Program:
        programs.append(Program(tmp_path, *args, **options))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()
