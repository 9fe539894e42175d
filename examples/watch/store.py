"""Keeps every result in a SQLite file: what a worker of the queue owns, and what its jobs do with that."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
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
    error text,                -- null: a good one
    digest text,               -- of the page: when that changes, so does this
    pid integer                -- the process that has hashed it
);
create index if not exists result_target on result (target, at);
create table if not exists alert (
    at real not null,
    target text not null,
    said text not null
);
"""


@dataclass(frozen=True)
class Result:
    """What came of asking once."""

    target: str
    run: str
    attempt: int
    status: int | None = None
    ms: float | None = None
    error: str | None = None
    digest: str | None = None
    pid: int | None = None
    at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Row:
    """What the summary says of one target. ok, failed: attempts; retried: attempts after the first."""

    target: str
    ok: int
    failed: int
    retried: int
    alerts: int
    p50: float | None


class Store:
    """The file. `prepare` it before anybody connects."""

    def __init__(self, path: Path | None = None) -> None:
        """path: the file, made where there is none; None: a temporary one. Raises rc.ConfigError for a bad one."""
        self.path = path
        self._prepared = False
        if path is not None:
            self._check(path)

    def prepare(self) -> Path:
        """Bring the tables up to date. The path that they are at."""
        if self.path is None:
            self.path = Path(tempfile.mkdtemp(prefix="runcrew-watch-")) / "watch.db"
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("pragma journal_mode=wal")  # others may read it in the meantime
            db.executescript(SCHEMA)
        self._prepared = True
        return self.path

    def connection(self) -> Iterator[sqlite3.Connection]:
        """For `resource=`: each worker opens its own, in its own thread, and closes it there when it leaves.

        SQLite insists on that thread, and `with` on a connection would only end a transaction.
        """
        assert self.path is not None
        db = sqlite3.connect(self.path, timeout=5)  # so long it waits while another connection writes
        yield db
        db.close()

    def summary(self) -> Iterator[Row]:
        """What has come of each target, as the file says it."""
        if not self._prepared or self.path is None:
            return
        with closing(sqlite3.connect(self.path)) as db:
            rows = db.execute("select target, attempt, ms, error from result order by target").fetchall()
            alerts = dict(db.execute("select target, count(*) from alert group by target").fetchall())
        for target in dict.fromkeys(row[0] for row in rows):
            mine = [row for row in rows if row[0] == target]
            good = [ms for _, _, ms, error in mine if error is None]
            retried = sum(attempt > 1 for _, attempt, _, _ in mine)
            p50 = median(good) if good else None
            yield Row(target, len(good), len(mine) - len(good), retried, alerts.get(target, 0), p50)

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


# --- what the jobs of the queue do with a connection -------------------------------------------


def add(db: sqlite3.Connection, result: Result) -> None:
    """Keep one result."""
    with db:  # a transaction
        db.execute(
            "insert into result values (:at, :target, :run, :attempt, :status, :ms, :error, :digest, :pid)",
            vars(result),
        )


def add_alert(db: sqlite3.Connection, target: str, said: str) -> None:
    """Keep one alert."""
    with db:
        db.execute("insert into alert values (?, ?, ?)", (time.time(), target, said))


def is_healthy(error: Exception) -> bool:
    """For `healthy=`: an error of SQLite makes its connection suspect. It is replaced, and the job done again."""
    return not isinstance(error, sqlite3.Error)
