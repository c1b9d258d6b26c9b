"""Event log in one SQLite file, with write-ahead logging. A commit returns after it is on the disk.

One connection writes and one reads, each behind a lock. Each row has a checksum over its content.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import (
    DamagedEventError,
    IncompleteLogError,
    StorageError,
    StorageFailedError,
    StorageFullError,
)
from . import high_water, sqlite_retention
from .high_water import HighWaterMark
from .interfaces import Event, Group, Header, Kind, Record, Row, Segment
from .sqlite_erasure import Erasure, FileInUseError
from .sqlite_pages import DamagedPageError
from .sqlite_tables import FORMAT, MARKED, SPECIAL, TABLES, UNERASED

_Row: TypeAlias = tuple[Any, ...]

FILE = "events.sqlite3"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL = "the disk of the event log is full: free some space, then try again"
#: Rows, and about how many bytes, that one query reads. Other threads get the lock between two queries.
_PAGE, _PAGE_BYTES = 1000, 2**22
#: Rows that one statement adds. Python builds the rows while it holds the GIL; SQLite releases it while the
#: statement runs.
_ROWS = 16

#: SQLite's codes of a damaged file.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_COLUMNS = "seq, model, branch, kind, time, id, digest, body, checksum, refused, step"
_MARKS = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = f"SELECT {_COLUMNS} FROM event"  # noqa: S608
_BODY = _COLUMNS.split(", ").index("body")
_HEADERS = """
SELECT seq, branch, time, kind, id, digest, refused, step, CASE kind WHEN 'action' THEN body END FROM event
"""
#: Value of ``refused`` in a row that `bnp-online repair` took out: its checksum is not checked.
DAMAGED = "damaged"

_logger = logging.getLogger(__name__)


def _insertion(rows: int) -> str:
    """Return the statement that inserts `rows` rows. Its parameters are the values, row after row."""
    return f"INSERT INTO event ({_COLUMNS}) VALUES {', '.join([_MARKS] * rows)}"  # noqa: S608 (question marks)


def _to_row(seq: int, model: int, branch: int, time: float, event: Event) -> _Row:
    """Return the row of a new event."""
    key = (seq, model, branch, event.kind, time, event.id, event.digest)
    return (*key, event.body, _checksum(key, event.body), None, event.step)


def _to_record(row: _Row) -> Record:
    """Return the record in a row.

    Raises
    ------
    DamagedEventError
        If the checksum does not match.
    """
    seq, model, branch, kind, when, identifier, digest, body, checksum, refused, step = row
    key = (seq, model, branch, kind, when, identifier, digest)
    intact = isinstance(body, bytes) and checksum == _checksum(key, body)
    if not intact and refused != DAMAGED:
        raise DamagedEventError(seq)
    return Record(seq, model, branch, when, refused, Event(kind, body, identifier, digest, step))


def _checksum(key: tuple[Any, ...], body: bytes) -> bytes:
    return hashlib.blake2b(repr(key).encode() + body, digest_size=16).digest()


def _id_digest(model: int, identifier: str) -> bytes:
    """Return the digest that replaces the id of a forgotten event: the id may be personal data."""
    return hashlib.blake2b(f"{model} {identifier}".encode(), digest_size=16).digest()


class SqliteLog:
    """Event log in a file; implements `EventLog`.

    Parameters
    ----------
    folder : path
        Folder of the file. The file is created if it is missing.
    relaxed : bool
        Whether a commit may return before it is on the disk. A power failure then loses the latest commits.
        A killed process loses none.
    known : int
        Number of an event that the log must reach. A log that ends before it is not changed.

    Raises
    ------
    IncompleteLogError
        If the log ends before event `known`, or its file is damaged, or lost while another file shows that
        there was one.
    StorageFailedError
        If the file is not a log of this version, or cannot be opened.
    """

    def __init__(self, folder: Path, *, relaxed: bool = False, known: int = 0) -> None:
        self._path, self._wal = folder / FILE, folder / f"{FILE}-wal"
        self._relaxed = relaxed
        self._writing, self._reading = threading.Lock(), threading.Lock()
        # SQLite deletes a write-ahead log without its file.
        if (known or _size(self._wal) or high_water.read(folder)) and not _size(self._path):
            state = "is empty" if self._path.exists() else "does not exist"
            raise IncompleteLogError(f"the event log {self._path} {state}")
        with _translated():
            self._path.touch(0o600)  # SQLite would take 0644; its other files get the mode of this one
            self._writer = self._connect()
            self._prepare("NORMAL" if relaxed else "FULL", known)
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
            head = self._last_event()
            ((latest, length),) = self._writer.execute("SELECT max(time), count(*) FROM event")
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")  # `Erasure` needs the header in the file
            self._erasure = Erasure(self._path, self._writing, self._reading)
        self._mark = HighWaterMark(folder)
        self._head: int = head
        self._length: int = length  # maintained, since counting millions of rows is slow
        # Both of the current transaction, once it is committed.
        self._new_head, self._new_length = head, length
        self._flush()
        try:
            self.erase()  # a killed server may have left removed content
        except StorageError as error:
            _logger.warning("cannot erase removed data now, trying again later: %s", error)
        # The clock continues from the wall clock or the latest event, whichever is later: a wall clock may
        # be set back.
        self._origin = max(time.time(), latest or 0.0) - time.monotonic()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)

    def _prepare(self, synchronous: str, known: int) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and version != FORMAT:
            raise StorageFailedError(
                f"{self._path} has format {version}, and this version reads format {FORMAT}: use "
                "the version of bnp-online that wrote it, or a later one"
            )
        last = self._last_event() if tables else 0
        if last < known:
            self._writer.close()
            raise IncompleteLogError(f"the event log {self._path} ends at event {last}")
        self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA synchronous = {synchronous}")
        self._writer.execute("PRAGMA secure_delete = ON")
        self._writer.execute(f"PRAGMA journal_size_limit = {2**24}")
        if not tables:
            self._writer.executescript(f"BEGIN; {TABLES} COMMIT;")
        elif not self._writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'unerased'").fetchone():
            self._writer.executescript(f"BEGIN; {UNERASED} {MARKED} COMMIT;")
        self._writer.execute(sqlite_retention.TABLE)  # data folders of earlier versions have none

    def _last_event(self) -> int:
        """Return the number of the last event, also if it was pruned: a number is never used again."""
        query = (
            "SELECT ifnull(max(seq), 0) FROM event UNION ALL SELECT ifnull(max(before), 1) - 1 FROM pruned"
        )
        return max(int(number) for (number,) in self._writer.execute(query))

    @property
    def head(self) -> int:
        """Number of the last event that was committed."""
        return self._head

    @property
    def length(self) -> int:
        """Number of events, of all models."""
        return self._length

    def now(self) -> float:
        """Return the time in seconds since 1970, from a clock that never goes back."""
        return self._origin + time.monotonic()

    def create(self, event: Event) -> int:
        """Log the creation of a model."""
        with self._transaction():
            return self._insert([(None, 0, event)])

    def append(self, groups: Sequence[Group]) -> list[int]:
        """Append groups of events: all or none."""
        owned = [(group.model, group.branch, event) for group in groups for event in group.events]
        with self._transaction(one_statement=len(owned) <= _ROWS):
            first = self._head
            self._insert(owned)
        return [*itertools.accumulate((len(group.events) for group in groups), initial=first)][1:]

    def _insert(self, owned: Sequence[tuple[int | None, int, Event]]) -> int:
        """Add events with model (None for a new one) and branch; return the number of the last."""
        now, first = self.now(), self._new_head + 1
        for start in range(0, len(owned), _ROWS):
            some = owned[start : start + _ROWS]
            values: list[Any] = []
            for seq, (model, branch, event) in enumerate(some, first + start):
                values += _to_row(seq, seq if model is None else model, branch, now, event)
            self._writer.execute(_insertion(len(some)), values)
        self._new_head += len(owned)
        self._new_length += len(owned)
        return self._new_head

    def restore(self, rows: Sequence[Row], pruned: Mapping[int, int]) -> None:
        """Add events with given numbers, which the log does not have, for a repair.

        Parameters
        ----------
        rows : sequence of Row
            The events.
        pruned : dict of int to int
            For each model the event before which its samples are missing.
        """
        now = self.now()
        with self._transaction():
            for row in rows:
                self._writer.execute(_insertion(1), _to_row(*row[:3], now, row[3]))
            self._writer.executemany("REPLACE INTO pruned VALUES (?, ?)", pruned.items())
            self._new_head = max([self._head, *(row[0] for row in rows)])
            self._new_length += len(rows)

    def models(self) -> list[Record]:
        """Return the creation of each model that exists, in order."""
        return list(self._query(f"WHERE {SPECIAL} AND kind = 'create' ORDER BY seq"))

    def changes(self, model: int, kind: Kind) -> list[Record]:
        """Return the events of one kind; samples and imports are not supported."""
        return list(self._query(f"WHERE model = ? AND {SPECIAL} AND kind = ? ORDER BY seq", model, kind))

    def imports(self, model: int) -> list[Header]:
        """Return the imports of a model, in order."""
        query = f"{_HEADERS} WHERE model = ? AND {SPECIAL} AND kind = 'import' ORDER BY seq"
        return [*map(Header._make, self._rows(query, model))]

    def read(self, model: int, segments: Sequence[Segment]) -> Iterator[Record]:
        """Return the events of segments, in order."""
        query = f"{_SELECT} WHERE model = ? AND branch = ? AND seq > ? AND seq <= ? ORDER BY seq"
        for segment in segments:
            after = segment.after
            while page := self._page(query, model, segment.branch, after, segment.upto):
                yield from map(_to_record, page)
                after = page[-1][0]

    def headers(self, model: int, segments: Sequence[Segment], limit: int) -> list[Header]:
        """Return the first events of segments, without their bodies."""
        where = f"{_HEADERS} WHERE model = ? AND branch = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        found: list[Header] = []
        for segment in segments:
            rows = self._rows(where, model, segment.branch, segment.after, segment.upto, limit - len(found))
            found += map(Header._make, rows)
        return found

    def count(self, model: int, segments: Sequence[Segment]) -> int:
        """Return the number of events that `read` would return."""
        where = "SELECT count(*) FROM event WHERE model = ? AND branch = ? AND seq > ? AND seq <= ?"
        return sum(self._rows(where, model, s.branch, s.after, s.upto)[0][0] for s in segments)

    def find(self, model: int, ids: Collection[str]) -> list[Header]:
        """Return the events with one of these ids."""
        marks = ", ".join("?" * len(ids))
        query = f"{_HEADERS} WHERE model = ? AND id IN ({marks}) ORDER BY seq"
        return [*map(Header._make, self._rows(query, model, *ids))]

    def at_step(self, model: int, step: int) -> list[Header]:
        """Return the events after which the model had learned `step` samples."""
        query = f"{_HEADERS} WHERE model = ? AND step = ? ORDER BY seq"
        return [*map(Header._make, self._rows(query, model, step))]

    def correct(self, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Record refusals and steps that differ from the expected ones."""
        with self._transaction():
            self._writer.executemany(
                "UPDATE event SET refused = ?, step = NULL WHERE seq = ?",
                [(why, seq) for seq, why in refused.items()],
            )
            self._writer.executemany(
                "UPDATE event SET step = ? WHERE seq = ?", [(step, seq) for seq, step in steps.items()]
            )

    def flush(self) -> None:
        """Return once all committed events are on the disk."""
        if self._relaxed:
            self._flush()

    def _flush(self) -> None:
        head = self._head
        for path in (self._wal, self._path.parent):
            _flush_file(path)
        self._mark.write(head)

    def checksum(self, seq: int) -> bytes | None:
        """Return the checksum of an event; None if the log does not have it."""
        rows = self._rows("SELECT checksum FROM event WHERE seq = ?", seq)
        return rows[0][0] if rows else None

    def forget(self, model: int, branch: int, event: Event, numbers: Collection[int]) -> int:
        """Remove events, and log their removal."""
        with self._transaction():
            keys = [(seq, model) for seq in numbers]
            ids = [
                (model, _id_digest(model, name))
                for seq in numbers
                for (name,) in self._writer.execute("SELECT id FROM event WHERE seq = ?", (seq,))
                if name is not None
            ]
            self._writer.executemany("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", ids)
            self._new_length -= self._writer.executemany(
                "DELETE FROM event WHERE seq = ? AND model = ?", keys
            ).rowcount
            self._erasure.mark(self._writer)
            # They are measured again.
            first = min(numbers, default=0)
            self._writer.execute("DELETE FROM measured WHERE model = ? AND upto >= ?", (model, first))
            return self._insert([(model, branch, event)])

    def forgotten(self, model: int, ids: Collection[str]) -> set[str]:
        """Return the ids whose events were forgotten."""
        by_digest = {_id_digest(model, name): name for name in ids}
        marks = ", ".join("?" * len(by_digest))
        query = f"SELECT id FROM forgotten WHERE model = ? AND id IN ({marks})"  # noqa: S608 (question marks)
        return {by_digest[digest] for (digest,) in self._rows(query, model, *by_digest)}

    def first_kept(self, model: int) -> int:
        """Return an event number: samples before this event may have been pruned."""
        rows = self._rows("SELECT before FROM pruned WHERE model = ?", model)
        return rows[0][0] if rows else 0

    def prune(self, model: int, before: int, newest: int, size: int, since: float) -> int:
        """Remove the old samples and imports of a model before event `before`."""
        before = min(before, self._head + 1)
        if since <= 0.0 and before - model <= newest and self.size() <= size:
            return 0  # no limit can be exceeded: the events need no measurement
        kept, measured = sqlite_retention.measure(self._rows, model, before - 1)
        if measured or self._rows("SELECT 1 FROM measured WHERE model = ? AND upto > ?", model, kept):
            with self._transaction():
                self._writer.execute("DELETE FROM measured WHERE model = ? AND upto > ?", (model, kept))
                self._save_measured(model, measured)
        first = sqlite_retention.first_retained(self._rows, model, before - 1, newest, size)
        limit = min(before, max(first, self._first_since(since), self.first_kept(model)))
        if not self._rows(f"{sqlite_retention.EVENTS} LIMIT 1", model, 0, limit - 1):
            return 0
        rest = sqlite_retention.remainder(self._rows, model, limit)
        with self._transaction():
            self._writer.execute(
                "INSERT INTO pruned VALUES (?1, ?2) ON CONFLICT DO UPDATE SET before = max(before, ?2)",
                (model, limit),
            )
            self._writer.execute("DELETE FROM measured WHERE model = ? AND upto < ?", (model, limit))
            self._save_measured(model, [] if rest is None else [rest])
        removed = self._remove(sqlite_retention.EVENTS, model, 0, limit - 1)
        with _translated():
            self._erasure.shrink()
        return removed

    def _save_measured(self, model: int, intervals: Iterable[sqlite_retention.Interval]) -> None:
        rows = [(model, each.upto, each.events, each.bytes) for each in intervals]
        self._writer.executemany("REPLACE INTO measured VALUES (?, ?, ?, ?)", rows)

    def _first_since(self, when: float) -> int:
        """Return the number of the first event at or after a time, by binary search: times never fall."""
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
        """Remove a model, except the record that it existed; `erase` removes its events and the rest."""
        with self._transaction():
            self._new_length -= self._writer.execute("DELETE FROM event WHERE seq = ?", (model,)).rowcount
            self._erasure.mark(self._writer)
            self._insert([(model, 0, Event("delete", b"{}"))])

    @property
    def unerased(self) -> bool:
        """Whether removed content may still be on the disk."""
        return self._erasure.pending

    def erase(self) -> None:
        """Erase removed content from the disk, and return free space to the system."""
        with _translated():
            self._erasure.erase(self._finish_drops)

    def _finish_drops(self) -> None:
        """Remove what is left of deleted models; `drop` marked it."""
        deleted = f"model IN (SELECT model FROM event WHERE {SPECIAL} AND kind = 'delete')"  # noqa: S608
        query = f"SELECT seq, length(body) FROM event WHERE {deleted} AND kind <> 'delete'"  # noqa: S608
        self._remove(query, mark=False)
        with self._transaction():
            for table in ("forgotten", "pruned", "measured"):
                self._writer.execute(f"DELETE FROM {table} WHERE {deleted}")  # noqa: S608

    def probe(self) -> None:
        """Write a placeholder row, to test that the log can be written."""
        with self._transaction():
            self._writer.execute("REPLACE INTO probe VALUES (1, ?)", (self.now(),))

    def size(self) -> int:
        """Return the size of the file and its write-ahead log, in bytes."""
        return _size(self._path) + _size(self._wal)

    def close(self) -> None:
        """Close the file; SQLite merges the write-ahead log into it."""
        with suppress(StorageError):
            self.flush()
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()
            self._erasure.close()
            self._mark.close()

    @contextmanager
    def _transaction(self, *, one_statement: bool = False) -> Iterator[None]:
        """Commit the writes of the block, or none of them; a single statement commits by itself."""
        with self._writing, _translated():
            self._new_head, self._new_length = self._head, self._length
            if not one_statement:
                self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                if not one_statement:
                    self._writer.execute("COMMIT")
                self._head, self._length = self._new_head, self._new_length
                if not self._relaxed:
                    self._mark.write(self._head)
            finally:
                if self._writer.in_transaction:  # SQLite itself rolls back a commit on a full disk
                    self._writer.execute("ROLLBACK")

    def _remove(self, query: str, *parameters: Any, mark: bool = True) -> int:
        """Delete the events of a query for numbers and sizes, and mark them for `erase`.

        It deletes slices, so that other threads can write in between.
        """
        removed = 0
        while rows := self._rows(f"{query} LIMIT {_PAGE}", *parameters):
            sizes = itertools.accumulate((size for _, size in rows), initial=0)
            some = [(seq,) for (seq, _), before in zip(rows, sizes, strict=False) if before < _PAGE_BYTES]
            with self._transaction():
                count = self._writer.executemany("DELETE FROM event WHERE seq = ?", some).rowcount
                if count and mark:
                    self._erasure.mark(self._writer)
                self._new_length -= count
            removed += count
        return removed

    def _query(self, where: str, *parameters: Any) -> Iterable[Record]:
        return map(_to_record, self._rows(f"{_SELECT} {where}", *parameters))

    def _page(self, query: str, *parameters: Any) -> list[_Row]:
        """Return the first rows of a query of whole events: a page, which is limited in bytes too."""
        page: list[_Row] = []
        size = 0
        with self._reading, _translated(), closing(self._reader.execute(query, parameters)) as rows:
            for row in rows:
                page.append(row)
                size += len(row[_BODY])
                if len(page) == _PAGE or size >= _PAGE_BYTES:
                    break
        return page

    def _rows(self, query: str, *parameters: Any) -> list[_Row]:
        with self._reading, _translated():
            return self._reader.execute(query, parameters).fetchall()


def _size(path: Path) -> int:
    """Return the size of a file, 0 if it is missing."""
    return path.stat().st_size if path.exists() else 0


def _flush_file(path: Path) -> None:
    """Flush a file or a folder. SQLite holds no lock on these, which closing a descriptor would release."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:  # the write-ahead log was merged into the file, which SQLite flushes
        return
    except OSError as error:
        raise StorageFailedError(f"the event log cannot be flushed: {error.strerror}") from error


@contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of SQLite and of the file into `StorageError`."""
    try:
        yield
    except (OSError, DamagedPageError) as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise StorageFullError(_FULL) from error
        raise StorageFailedError(f"the event log cannot be read or written: {error}") from error
    except FileInUseError as error:
        raise StorageFailedError(str(error)) from error
    except sqlite3.Error as error:
        code = error.sqlite_errorcode if hasattr(error, "sqlite_errorcode") else None
        # SQLite reports a quota or a limit on the file size as a failed write.
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE):
            raise StorageFullError(_FULL) from error
        damaged = code is not None and code & 0xFF in _DAMAGED  # the rest tells which part is
        kind = IncompleteLogError if damaged else StorageFailedError
        raise kind(f"the event log cannot be read or written: {error}") from error
