"""The tables of the log in SQLite, and events as their rows.

The event log in one SQLite file: write-ahead logging, and every commit on the disk before it returns.
"""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import DamagedEventError, StorageFailedError, StorageFullError
from .interfaces import Event, Group, Kind, Record, Segment

Row: TypeAlias = tuple[Any, ...]

#: Version of the tables; written as SQLite's user_version.
FORMAT = 1
#: Of the rows, those that are not samples: few, and looked up at every start.
SPECIAL = "kind NOT IN ('learn', 'label', 'predict')"
TABLES = f"""
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    model INTEGER NOT NULL,
    branch INTEGER NOT NULL,
    kind TEXT NOT NULL,
    time REAL NOT NULL,
    id TEXT,
    digest BLOB,
    body BLOB NOT NULL,
    checksum BLOB NOT NULL,
    refused TEXT,
    step INTEGER
);
CREATE INDEX event_history ON event (model, branch, seq);
CREATE INDEX event_id ON event (model, id) WHERE id IS NOT NULL;
CREATE INDEX event_step ON event (model, step) WHERE step IS NOT NULL;
CREATE INDEX event_special ON event (model, kind) WHERE {SPECIAL};
CREATE TABLE forgotten (model INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY (model, id)) WITHOUT ROWID;
CREATE TABLE pruned (model INTEGER PRIMARY KEY, before INTEGER NOT NULL);
CREATE TABLE probe (only INTEGER PRIMARY KEY, time REAL NOT NULL);
PRAGMA user_version = {FORMAT};
"""
COLUMNS = "seq, model, branch, kind, time, id, digest, body, checksum, refused, step"
_MARKS = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT = f"SELECT {COLUMNS} FROM event"  # noqa: S608
#: A row with this mark is left out, whatever it holds.
DAMAGED = "damaged"


def insert(rows: int) -> str:
    """Return the statement that adds so many rows, their values one after the other."""
    return f"INSERT INTO event ({COLUMNS}) VALUES {', '.join([_MARKS] * rows)}"  # noqa: S608 (question marks)


def to_row(seq: int, model: int, branch: int, time: float, event: Event) -> Row:
    """Return the row of an event, of which nothing has come yet but the step that it should lead to."""
    key = (seq, model, branch, event.kind, time, event.id, event.digest)
    return (*key, event.body, _checksum(key, event.body), None, event.step)


def to_record(row: Row) -> Record:
    """Return the event in a row.

    Raises
    ------
    DamagedEventError
        If it is not what `to_row` made.
    """
    seq, model, branch, kind, when, identifier, digest, body, checksum, refused, step = row
    key = (seq, model, branch, kind, when, identifier, digest)
    intact = isinstance(body, bytes) and checksum == _checksum(key, body)
    if not intact and refused != DAMAGED:
        raise DamagedEventError(seq)
    return Record(seq, model, branch, when, refused, Event(kind, body, identifier, digest, step))


def _checksum(key: tuple[Any, ...], body: bytes) -> bytes:
    return hashlib.blake2b(repr(key).encode() + body, digest_size=16).digest()


def id_digest(model: int, identifier: str) -> bytes:
    """Return what is kept of the id of an event that was forgotten: the id may say too much itself."""
    return hashlib.blake2b(f"{model} {identifier}".encode(), digest_size=16).digest()


_FILE = "events.sqlite3"
#: Rows that one query reads or removes: others get their turn between two of them.
_PAGE = 1000
#: Rows that one statement adds. To make rows of events keeps other threads waiting; while the statement runs
#: they go on, and then it may have to wait for them.
_ROWS = 16


class SqliteLog:
    """An `EventLog` in a file.

    Parameters
    ----------
    folder : path
        Where the file is, or is made.
    relaxed : bool
        Whether a commit may return before it is on the disk: what was answered in the last moments is lost if
        the machine fails or loses power, and nothing if the process is killed.

    Raises
    ------
    StorageFailedError
        If the file is not a log of this version, or cannot be opened.
    """

    def __init__(self, folder: Path, *, relaxed: bool = False) -> None:
        self._path = folder / _FILE
        self._writing, self._reading = threading.Lock(), threading.Lock()
        with _translated():
            self._writer = self._connect()
            self._prepare("NORMAL" if relaxed else "FULL")
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
            ((head, latest, length),) = self._writer.execute(
                "SELECT ifnull(max(seq), 0), max(time), count(*) FROM event"
            )
        self._head: int = head
        self._length: int = length  # kept, as to count millions of rows takes long
        self._finish_drops()
        self.erase()  # a server that was killed may not have come to it
        # Seconds since the start, on top of whichever is later: a wall clock may be set back.
        self._origin = max(time.time(), latest or 0.0) - time.monotonic()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)

    def _prepare(self, synchronous: str) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and version != FORMAT:
            raise StorageFailedError(
                f"{self._path} is of format {version}, and this version reads format {FORMAT}: use "
                "the version of bnp-online that wrote it, or a later one"
            )
        self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA synchronous = {synchronous}")
        self._writer.execute("PRAGMA secure_delete = ON")
        self._writer.execute(f"PRAGMA journal_size_limit = {2**24}")
        if not tables:
            self._writer.executescript(f"BEGIN; {TABLES} COMMIT;")

    @property
    def head(self) -> int:
        """Number of the last event."""
        return self._head

    @property
    def length(self) -> int:
        """How many events it has."""
        return self._length

    def now(self) -> float:
        """Return the time, by a clock that never goes back."""
        return self._origin + time.monotonic()

    def create(self, event: Event) -> int:
        """Log the event that makes a model."""
        with self._transaction():
            return self._insert([(None, 0, event)])

    def append(self, groups: Sequence[Group]) -> list[int]:
        """Keep groups of events, all or none of them."""
        owned = [(group.model, group.branch, event) for group in groups for event in group.events]
        with self._transaction(one_statement=len(owned) <= _ROWS):
            first = self._head
            self._insert(owned)
        return [*itertools.accumulate((len(group.events) for group in groups), initial=first)][1:]

    def _insert(self, owned: Sequence[tuple[int | None, int, Event]]) -> int:
        """Add events, each with its model (None: it makes one) and branch; return the number of the last."""
        now, first = self.now(), self._head + 1
        for start in range(0, len(owned), _ROWS):
            some = owned[start : start + _ROWS]
            values: list[Any] = []
            for seq, (model, branch, event) in enumerate(some, first + start):
                values += to_row(seq, seq if model is None else model, branch, now, event)
            self._writer.execute(insert(len(some)), values)
        self._head += len(owned)
        self._length += len(owned)
        return self._head

    def models(self) -> list[Record]:
        """Return what made each model that is there, in order."""
        return list(self._query(f"WHERE {SPECIAL} AND kind = 'create' ORDER BY seq"))

    def changes(self, model: int, kind: Kind) -> list[Record]:
        """Return the events of a kind other than a sample's."""
        return list(self._query(f"WHERE model = ? AND {SPECIAL} AND kind = ? ORDER BY seq", model, kind))

    def read(self, model: int, segments: Sequence[Segment], limit: int | None = None) -> Iterator[Record]:
        """Return events in order."""
        return itertools.islice(self._read(model, segments), limit)

    def _read(self, model: int, segments: Sequence[Segment]) -> Iterator[Record]:
        where = f"WHERE model = ? AND branch = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT {_PAGE}"
        for segment in segments:
            after = segment.after
            while page := list(self._query(where, model, segment.branch, after, segment.upto)):
                yield from page
                after = page[-1].seq

    def count(self, model: int, segments: Sequence[Segment]) -> int:
        """Return how many events `read` would return."""
        where = "SELECT count(*) FROM event WHERE model = ? AND branch = ? AND seq > ? AND seq <= ?"
        return sum(self._rows(where, model, s.branch, s.after, s.upto)[0][0] for s in segments)

    def find(self, model: int, ids: Collection[str]) -> list[Record]:
        """Return the events that have one of these ids."""
        marks = ", ".join("?" * len(ids))
        return list(self._query(f"WHERE model = ? AND id IN ({marks}) ORDER BY seq", model, *ids))

    def at_step(self, model: int, step: int) -> list[Record]:
        """Return the events with which the model had learned `step` samples."""
        return list(self._query("WHERE model = ? AND step = ? ORDER BY seq", model, step))

    def correct(self, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Note what came of events."""
        with self._transaction():
            self._writer.executemany(
                "UPDATE event SET refused = ?, step = NULL WHERE seq = ?",
                [(why, seq) for seq, why in refused.items()],
            )
            self._writer.executemany(
                "UPDATE event SET step = ? WHERE seq = ?", [(step, seq) for seq, step in steps.items()]
            )

    def forget(self, model: int, branch: int, event: Event, numbers: Collection[int]) -> int:
        """Remove events, and log that it was done."""
        with self._transaction():
            keys = [(seq, model) for seq in numbers]
            ids = [
                (model, id_digest(model, name))
                for seq in numbers
                for (name,) in self._writer.execute("SELECT id FROM event WHERE seq = ?", (seq,))
                if name is not None
            ]
            self._writer.executemany("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", ids)
            self._length -= self._writer.executemany(
                "DELETE FROM event WHERE seq = ? AND model = ?", keys
            ).rowcount
            return self._insert([(model, branch, event)])

    def forgotten(self, model: int, ids: Collection[str]) -> set[str]:
        """Return which of the ids are those of events that were forgotten."""
        by_digest = {id_digest(model, name): name for name in ids}
        marks = ", ".join("?" * len(by_digest))
        query = f"SELECT id FROM forgotten WHERE model = ? AND id IN ({marks})"  # noqa: S608 (question marks)
        return {by_digest[digest] for (digest,) in self._rows(query, model, *by_digest)}

    def first_kept(self, model: int) -> int:
        """Return the number before which samples of the model may have been removed."""
        rows = self._rows("SELECT before FROM pruned WHERE model = ?", model)
        return rows[0][0] if rows else 0

    def prune(self, model: int, before: int, newest: int, since: float) -> int:
        """Remove samples of a model that stand before event `before`."""
        samples = f"model = ? AND seq < ? AND NOT ({SPECIAL})"
        query = f"SELECT seq FROM event WHERE {samples} ORDER BY seq DESC LIMIT 1 OFFSET ?"  # noqa: S608
        beyond = self._rows(query, model, before, newest)
        limit = min(before, max(beyond[0][0] + 1 if beyond else 0, self._first_since(since)))
        if not self._rows(f"SELECT 1 FROM event WHERE {samples} LIMIT 1", model, limit):  # noqa: S608
            return 0
        with self._transaction():
            self._writer.execute(
                "INSERT INTO pruned VALUES (?1, ?2) ON CONFLICT DO UPDATE SET before = max(before, ?2)",
                (model, limit),
            )
        removed = self._remove(samples, model, limit)
        self.erase()
        return removed

    def _first_since(self, when: float) -> int:
        """Return the number of the first event logged at `when` or later: times rise with numbers."""
        low, high = 1, self._head + 1
        while low < high:
            middle = (low + high) // 2
            rows = self._rows("SELECT seq, time FROM event WHERE seq >= ? ORDER BY seq LIMIT 1", middle)
            if not rows or rows[0][1] >= when:
                high = middle
            else:
                low = rows[0][0] + 1
        return low

    def drop(self, model: int) -> None:
        """Remove a model, and every trace of its content but that there was one."""
        with self._transaction():
            # From here on there is no model.
            self._length -= self._writer.execute("DELETE FROM event WHERE seq = ?", (model,)).rowcount
            for table in ("forgotten", "pruned"):
                self._writer.execute(f"DELETE FROM {table} WHERE model = ?", (model,))  # noqa: S608
            self._insert([(model, 0, Event("delete", b"{}"))])
        self._finish_drops()

    def _finish_drops(self) -> None:
        """Remove what is left of models that were deleted: by `drop`, or by one that was killed half-way."""
        deleted = f"SELECT model FROM event WHERE {SPECIAL} AND kind = 'delete'"  # noqa: S608
        if self._remove(f"model IN ({deleted}) AND kind <> 'delete'"):
            self.erase()

    def probe(self) -> None:
        """Write something that means nothing."""
        with self._transaction():
            self._writer.execute("REPLACE INTO probe VALUES (1, ?)", (self.now(),))

    def size(self) -> int:
        """Return how many bytes the file and its WAL take."""
        files = (self._path, self._path.with_name(f"{_FILE}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Close the file; its WAL goes into it."""
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()

    @contextmanager
    def _transaction(self, *, one_statement: bool = False) -> Iterator[None]:
        """Commit what the block writes, or nothing; a block of one statement needs no others around it."""
        with self._writing, _translated():
            before, committed = (self._head, self._length), False
            if not one_statement:
                self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                if not one_statement:
                    self._writer.execute("COMMIT")
                committed = True
            finally:
                if not committed:
                    self._head, self._length = before
                if self._writer.in_transaction:  # a commit that found no room has rolled back by itself
                    self._writer.execute("ROLLBACK")

    def _remove(self, where: str, *parameters: Any) -> int:
        """Delete events slice by slice: learning goes on between them."""
        slice_ = f"DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE {where} LIMIT {_PAGE})"  # noqa: S608
        removed = 0
        while True:
            with self._transaction():
                count = self._writer.execute(slice_, parameters).rowcount
                self._length -= count
            removed += count
            if count < _PAGE:
                return removed

    def erase(self) -> None:
        """Let no removed content stay in the file (where deleting wrote zeros) or its WAL; shrink both."""
        free = _PAGE
        while free:
            with self._writing, _translated():
                self._writer.execute(f"PRAGMA incremental_vacuum({_PAGE})").fetchall()
                (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
        with self._reading, self._writing, _translated():
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _query(self, where: str, *parameters: Any) -> Iterable[Record]:
        return map(to_record, self._rows(f"{SELECT} {where}", *parameters))

    def _rows(self, query: str, *parameters: Any) -> list[Row]:
        with self._reading, _translated():
            return self._reader.execute(query, parameters).fetchall()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn SQLite's errors into the server's."""
    try:
        yield
    except sqlite3.Error as error:
        code = error.sqlite_errorcode if hasattr(error, "sqlite_errorcode") else None
        # A file that may not grow further (a quota, a limit) is reported as a failed write.
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE):
            raise StorageFullError("the event log has no room: free some space, then try again") from error
        raise StorageFailedError(f"the event log cannot be used: {error}") from error
