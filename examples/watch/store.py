"""Keeps every result in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import runcrew as rc

SCHEMA = """
create table if not exists result (
    at real not null,          -- seconds since the epoch
    target text not null,
    run text not null,         -- the run of runcrew that it belongs to: its retries have the same
    attempt integer not null,  -- 1, and more for retries
    status integer,            -- what the server answered, if it did
    ms real,
    error text                 -- null: a good one
);
create index if not exists result_target on result (target, at);
"""


@dataclass(frozen=True)
class Row:
    """What the summary says of one target. ok, failed: attempts; retried: attempts after the first."""

    target: str
    ok: int
    failed: int
    retried: int
    p50: float | None


class Store:
    """One connection for all threads, behind a lock. `open` it first."""

    def __init__(self, path: Path | None = None) -> None:
        """path: the file, made where there is none; None: a temporary one. Raises rc.ConfigError for a bad one."""
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        if path is not None:
            self._check(path)

    def open(self) -> Path:
        """Connect, and bring the tables up to date. The path that it is at."""
        if self.path is None:
            self.path = Path(tempfile.mkdtemp(prefix="runcrew-watch-")) / "watch.db"
        with self._lock:
            if self._db is None:
                # The lock lets one thread in at a time, which is what check_same_thread is there for.
                self._db = sqlite3.connect(self.path, check_same_thread=False)
                self._db.execute("pragma journal_mode=wal")  # others may read it in the meantime
                self._db.executescript(SCHEMA)
        return self.path

    def add(self, target: str, run: rc.Run, *, status: int | None, ms: float | None, error: str | None = None) -> None:
        """Keep one result. After `close` nothing happens: it is from a thread that came too late."""
        with self._lock:
            if self._db is not None:
                row = (time.time(), target, run.id, run.attempt, status, ms, error)
                self._db.execute("insert into result values (?, ?, ?, ?, ?, ?, ?)", row)
                self._db.commit()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def summary(self) -> Iterator[Row]:
        """What has come of each target, as the file says it."""
        with self._lock:
            if self._db is None:
                return
            rows = self._db.execute("select target, attempt, ms, error from result order by target").fetchall()
        for target in dict.fromkeys(row[0] for row in rows):
            mine = [row for row in rows if row[0] == target]
            good = [ms for _, _, ms, error in mine if error is None]
            retried = sum(attempt > 1 for _, attempt, _, _ in mine)
            yield Row(target, len(good), len(mine) - len(good), retried, median(good) if good else None)

    @staticmethod
    def _check(path: Path) -> None:
        if not os.path.isdir(path.parent):
            raise rc.ConfigError(f"--db {path}: there is no directory {path.parent}: make it, or give another path")
        present = os.path.lexists(path)
        try:
            with closing(sqlite3.connect(path)) as db:
                db.execute("begin immediate")  # nothing is written, but it has to be possible
                db.rollback()
        except sqlite3.Error as error:
            raise rc.ConfigError(
                f"--db {path}: this cannot be written ({error}): give the path of a SQLite file, or of none yet, in a "
                "directory that can be written to"
            ) from None
        finally:
            if not present and os.path.lexists(path):
                path.unlink()  # it is only made when the work begins
