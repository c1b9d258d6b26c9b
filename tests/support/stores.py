"""Places of event logs and checkpoints for the tests that every store must pass, and helpers for them.

To put another event log to these tests, add a place for it to `LOGS`.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import pytest

from service.storage.checkpoints import CheckpointFiles
from service.storage.interfaces import LAST, Checkpoints, Event, EventLog, Group, Record, Run, Segment
from service.storage.postgres import PostgresLog
from service.storage.postgres_checkpoints import PostgresCheckpoints
from service.storage.sqlite import FILE, SqliteLog
from tests.support.postgres import PostgresServer

Open: TypeAlias = Callable[[], EventLog]
"""Closes the open log, if there is one, and opens another."""
SHARDS = 3


@contextmanager
def no_room() -> Iterator[None]:
    """Let no file of this process grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Place(Protocol):
    """Where a log or checkpoints are."""

    def log(self) -> EventLog:
        """Open the log."""
        ...

    def contents(self) -> bytes:
        """Return everything that is stored."""
        ...

    def size(self, log: EventLog) -> int:
        """Return the size of what is stored."""
        ...

    def no_room(self) -> AbstractContextManager[None]:
        """Let the disk be full during a block."""
        ...

    def replace(self, old: bytes, new: bytes) -> None:
        """Replace bytes in the body of the one event that has them; the log is opened again afterwards."""
        ...

    def remove_names(self) -> None:
        """Remove the table of the ids in runs, which logs of earlier versions do not have."""
        ...

    def format(self) -> int:
        """Return the format of the log."""
        ...

    def set_format(self, number: int) -> None:
        """Change the format of the log."""
        ...


class Folder:
    """Log in a folder."""

    def __init__(self, request: pytest.FixtureRequest, *, relaxed: bool = False) -> None:
        self._folder: Path = request.getfixturevalue("tmp_path")
        self._relaxed = relaxed

    def log(self) -> EventLog:
        return SqliteLog(self._folder, relaxed=self._relaxed)

    def checkpoints(self) -> Checkpoints:
        return CheckpointFiles(self._folder / "checkpoints")

    def contents(self) -> bytes:
        return contents(self._folder)

    def size(self, log: EventLog) -> int:
        return log.size()

    def no_room(self) -> AbstractContextManager[None]:
        return no_room()

    def replace(self, old: bytes, new: bytes) -> None:
        with closing(sqlite3.connect(self._folder / FILE)) as database:
            rows = database.execute("SELECT place, body FROM event").fetchall()
            [(place, body)] = [row for row in rows if old in row[1]]
            database.execute("UPDATE event SET body = ? WHERE place = ?", (body.replace(old, new), place))
            database.commit()

    def remove_names(self) -> None:
        with closing(sqlite3.connect(self._folder / FILE)) as database:
            database.execute("DROP TABLE named")

    def format(self) -> int:
        with closing(sqlite3.connect(self._folder / FILE)) as database:
            return int(database.execute("PRAGMA user_version").fetchone()[0])

    def set_format(self, number: int) -> None:
        with closing(sqlite3.connect(self._folder / FILE)) as database:
            database.execute(f"PRAGMA user_version = {number}")


class Schema:
    """Log in a schema of PostgreSQL. The tables have free pages for later rows: the rows are its size."""

    def __init__(self, request: pytest.FixtureRequest, *, relaxed: bool = False) -> None:
        self._server: PostgresServer = request.getfixturevalue("postgres")
        self._schema = self._server.schema()
        self._relaxed = relaxed
        self.opened: list[PostgresLog] = []
        request.addfinalizer(self._close)

    def _close(self) -> None:
        for each in self.opened:
            each.close()

    def log(self) -> PostgresLog:
        self.opened.append(PostgresLog(self._server.url(self._schema), of=SHARDS, relaxed=self._relaxed))
        return self.opened[-1]

    def checkpoints(self) -> Checkpoints:
        log = self.log()
        for name in "ab":
            log.create(Event("create", b""), name)
        return PostgresCheckpoints(log)

    def contents(self) -> bytes:
        return self._server.contents(self._schema)

    def size(self, log: EventLog) -> int:
        rows = self._server.execute(
            "SELECT coalesce(sum(octet_length(event::text)), 0) FROM event", self._schema
        )
        return int(rows[0][0])

    def no_room(self) -> AbstractContextManager[None]:
        return self._server.full(self._schema)

    def replace(self, old: bytes, new: bytes) -> None:
        hexes = f"'\\x{old.hex()}'::bytea"
        rows = self._server.execute(
            f"SELECT model, seq, body FROM event WHERE position({hexes} IN body) > 0",  # noqa: S608
            self._schema,
        )
        [(model, seq, body)] = rows
        changed = bytes(body).replace(old, new).hex()
        self._server.execute(
            f"UPDATE event SET body = '\\x{changed}' WHERE model = {model} AND seq = {seq}",  # noqa: S608
            self._schema,
        )

    def remove_names(self) -> None:
        self._server.execute("DROP TABLE named", self._schema)

    def format(self) -> int:
        [(number,)] = self._server.execute("SELECT format FROM cluster", self._schema)
        return int(number)

    def set_format(self, number: int) -> None:
        self._server.execute(f"UPDATE cluster SET format = {number}", self._schema)  # noqa: S608


LOGS: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "sqlite": Folder,
    "sqlite, relaxed": partial(Folder, relaxed=True),
    "postgres": Schema,
    "postgres, relaxed": partial(Schema, relaxed=True),
}


def append(log: EventLog, model: int, branch: int, events: Sequence[Event | Run]) -> int:
    [last] = log.append([Group(model, branch, events)])
    return last


def everything(log: EventLog, model: int, upto: int = LAST, branches: int = 2) -> list[Record]:
    """All events of a model, the rolled back ones too."""
    return list(log.read(model, [Segment(branch, 0, upto) for branch in range(branches)]))


def samples(log: EventLog, model: int) -> list[bytes]:
    return bodies([record for record in everything(log, model) if record.event.kind == "learn"])


def bodies(records: list[Record]) -> list[bytes]:
    return [record.event.body for record in records]


def learn(body: bytes, step: int | None = None, id: str | None = None) -> Event:
    return Event("learn", body, id, id and b"d" + id.encode(), step)  # type: ignore[arg-type]  # both or neither


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
