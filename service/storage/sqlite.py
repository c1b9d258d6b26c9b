"""Event log in one SQLite file, with write-ahead logging. A commit returns after it is on the disk.

One connection writes and one reads, each behind a lock. Each row has a checksum over its content.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import (
    IncompleteLogError,
    PositionMovedError,
    StorageError,
    StorageFailedError,
    StorageFullError,
)
from . import high_water, retention
from .high_water import HighWaterMark
from .interfaces import (
    LONGEST_RUN,
    Advance,
    Event,
    Group,
    Header,
    Kind,
    Position,
    Record,
    Row,
    Run,
    RunRecord,
    Segment,
)
from .rows import (
    COLUMNS,
    Stored,
    bounds,
    change_runs,
    checksum_at,
    expand,
    id_digest,
    is_new,
    names_of,
    to_records,
    to_row,
)
from .sqlite_conversion import convert
from .sqlite_erasure import Erasure, FileInUseError
from .sqlite_pages import DamagedPageError
from .sqlite_tables import (
    FORMAT,
    FORMAT_OF_RUNS,
    MARKED,
    NAMED,
    NAMED_IDS,
    SOURCE,
    SPECIAL,
    TABLES,
    UNERASED,
)

_Row: TypeAlias = tuple[Any, ...]

FILE = "events.sqlite3"
#: File in the folder of a copy that is not complete, with the name of its source.
COPYING = "copying"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL = "the disk of the event log is full: free some space, then try again"
#: Rows, and about how many bytes, that one query reads. Other threads get the lock between two queries.
_PAGE, _PAGE_BYTES = 1000, 2**22
#: Rows that one statement adds. Python builds the rows while it holds the GIL; SQLite releases it while the
#: statement runs. Each release may wake the event loop, which takes as long as some rows.
_ROWS = 128

#: SQLite's codes of a damaged file.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_MARKS = f"({', '.join('?' * 13)})"
#: Query for the places and sizes of rows with prunable events.
_PRUNABLE = retention.events("place, length(body)")
_SELECT = f"SELECT {COLUMNS} FROM event"  # noqa: S608
_BODY = COLUMNS.split(", ").index("body")
_HEADERS = """
SELECT seq, branch, time, kind, id, digest, refused, step, CASE kind WHEN 'action' THEN body END FROM event
"""
#: The same with the number of the events, to be expanded.
_RUN_HEADERS = f"{_HEADERS.rstrip().removesuffix('FROM event')}, count FROM event"
_NAMES = "SELECT seq, id, digest FROM named WHERE model = ? AND seq > ? AND seq <= ?"
#: The events in runs with one of some ids; parameters: model, ids.
_NAMED = """
SELECT named.seq, branch, time, kind, named.id, named.digest, refused, step - event.seq + named.seq, NULL
FROM named JOIN event ON event.model = named.model AND event.seq = (
    SELECT min(seq) FROM event AS holding WHERE holding.model = named.model AND holding.seq >= named.seq
) WHERE named.model = ? AND named.id IN
"""
#: The events after which a model had learned as many samples; parameters: model, step.
_AT_STEP = f"""
SELECT
    event.seq - step + ?2, branch, time, kind, ifnull(event.id, named.id),
    ifnull(event.digest, named.digest), refused, ?2, NULL
FROM event LEFT JOIN named ON named.model = event.model AND named.seq = event.seq - step + ?2
WHERE event.model = ?1 AND step >= ?2 AND step < ?2 + {LONGEST_RUN} AND step - count < ?2 ORDER BY 1
"""  # noqa: S608
#: Condition for the events of a segment, and runs of which a part is in it; parameters: `bounds`.
_SEGMENT = "model = ? AND branch = ? AND seq > ? AND seq < ? AND seq - count < ?"

_logger = logging.getLogger(__name__)


def _insertion(rows: int) -> str:
    """Return the statement that inserts `rows` rows. Its parameters are the values, row after row."""
    return f"INSERT INTO event (place, {COLUMNS}) VALUES {', '.join([_MARKS] * rows)}"  # noqa: S608 (marks)


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
        Number of events that the log must have had, pruned ones included.
    heads : dict of int to int
        Number of an event that the log must reach, by model. Models that it does not know are ignored.

    Raises
    ------
    IncompleteLogError
        If the log ends before a known event, or its file is damaged, or lost while another file shows that
        there was one. The log was not changed.
    StorageFailedError
        If the file is not a log of this version or an incomplete copy, or cannot be opened.
    """

    def __init__(
        self, folder: Path, *, relaxed: bool = False, known: int = 0, heads: Mapping[int, int] | None = None
    ) -> None:
        self._path, self._wal = folder / FILE, folder / f"{FILE}-wal"
        self._relaxed = relaxed
        self._writing, self._reading = threading.Lock(), threading.Lock()
        if (copying := folder / COPYING).exists():
            raise StorageFailedError(
                f"{folder} is an incomplete copy of {copying.read_text()}: run `bnp-online store copy` again"
            )
        # SQLite deletes a write-ahead log without its file.
        if (known or _size(self._wal) or high_water.read(folder)) and not _size(self._path):
            state = "is empty" if self._path.exists() else "does not exist"
            raise IncompleteLogError(f"the event log {self._path} {state}")
        with translated():
            self._path.touch(0o600)  # SQLite would take 0644; its other files get the mode of this one
            self._writer = self._connect()
            self._prepare("NORMAL" if relaxed else "FULL", known, heads or {})
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
            shared, self._place = self._numbering()
            self._heads = self._read_heads(shared)
            [(latest,)] = self._writer.execute("SELECT max(model) FROM event")
            self._latest_model: int = max(shared, latest or 0)
            ((latest, length),) = self._writer.execute("SELECT max(time), ifnull(sum(count), 0) FROM event")
            self._has_runs = self._version() == FORMAT_OF_RUNS
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")  # `Erasure` needs the header in the file
            self._erasure = Erasure(self._path, self._writing, self._reading)
        self._mark = HighWaterMark(folder)
        self._length: int = length  # maintained, since counting millions of rows is slow
        # Those of the current transaction, once it is committed.
        self._new_place, self._new_length, self._new_heads = self._place, length, dict[int, int]()
        self._new_has_runs = self._has_runs
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

    def _prepare(self, synchronous: str, known: int, heads: Mapping[int, int]) -> None:
        version = self._version()
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and version not in range(1, FORMAT_OF_RUNS + 1):
            raise StorageFailedError(
                f"{self._path} has format {version}, and this version reads formats 1 to {FORMAT_OF_RUNS}: "
                "use the version of bnp-online that wrote it, or a later one"
            )
        try:
            self._require(version, known, heads)
        except IncompleteLogError:
            self._writer.close()
            raise
        self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA synchronous = {synchronous}")
        self._writer.execute("PRAGMA secure_delete = ON")
        self._writer.execute(f"PRAGMA journal_size_limit = {2**24}")
        if not tables:
            self._writer.executescript(f"BEGIN; {TABLES} COMMIT;")
        elif not self._writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'unerased'").fetchone():
            self._writer.executescript(f"BEGIN; {UNERASED} {MARKED} COMMIT;")
        for table in (
            retention.TABLE,
            SOURCE,
            NAMED,
            NAMED_IDS,
        ):  # data folders of earlier versions have none
            self._writer.execute(table)
        convert(self._writer)

    def _version(self) -> int:
        return int(self._writer.execute("PRAGMA user_version").fetchone()[0])

    def _require(self, version: int, known: int, heads: Mapping[int, int]) -> None:
        """Raise `IncompleteLogError` if the log has not reached a known event."""
        if version < FORMAT:  # one sequence of numbers, or no table
            pruned = "SELECT ifnull(max(before), 1) - 1 FROM pruned"
            query = f"SELECT max(ifnull(max(seq), 0), ({pruned})) FROM event"  # noqa: S608
            last = self._writer.execute(query).fetchone()[0] if version else 0
            if last < max(known, *heads.values(), 0, 0):
                raise IncompleteLogError(f"the event log {self._path} ends at event {last}")
            return
        shared, last = self._numbering()
        if last < known:
            raise IncompleteLogError(f"the event log {self._path} ends after {last} of {known} events")
        for model, head in self._read_heads(shared).items():
            if head < heads.get(model, 0):
                raise IncompleteLogError(f"the event log {self._path} ends at event {head} of model {model}")

    def _numbering(self) -> tuple[int, int]:
        """Return the number of the last event of format 1, and the number of events that the log ever had."""
        [(shared, place)] = self._writer.execute("SELECT shared, place FROM numbering")
        [(last,)] = self._writer.execute("SELECT max(place) FROM event")
        return int(shared), max(place, last or 0)

    def _read_heads(self, shared: int) -> dict[int, int]:
        """Return the number of the last event of each model: no number is used again."""
        query = f"""
        SELECT model, max(
            ?,
            (SELECT ifnull(max(seq), 0) FROM event WHERE event.model = made.model),
            (SELECT ifnull(max(before), 1) - 1 FROM pruned WHERE pruned.model = made.model)
        ) FROM event AS made WHERE {SPECIAL} AND kind = 'create'
        """  # noqa: S608
        return {int(model): int(head) for model, head in self._writer.execute(query, (shared,))}

    def head(self, model: int) -> int:
        """Return the number of the last event of a model that was committed."""
        return self._heads[model]

    @property
    def latest_model(self) -> int:
        """Greatest number of a model, including deleted ones; 0 if there was none."""
        return self._latest_model

    @property
    def written(self) -> int:
        """Number of events that the log ever had."""
        return self._place

    @property
    def length(self) -> int:
        """Number of events, of all models."""
        return self._length

    def now(self) -> float:
        """Return the time in seconds since 1970, from a clock that never goes back."""
        return self._origin + time.monotonic()

    def create(self, event: Event, name: str | None = None) -> int:
        """Log the creation of a model."""
        with self._transaction():
            model = self._latest_model + 1
            self._insert([(model, model, 0, event)])
        self._latest_model = model
        return model

    def append(self, groups: Sequence[Group]) -> list[int]:
        """Append groups of events: all or none."""
        size, several = 0, False
        for group in groups:
            size += len(group.events)
            several = several or bool(group.advances)
            for event in group.events:
                several = several or (isinstance(event, Run) and bool(event.names))
                several = several or (not self._has_runs and is_new(event))
        with self._transaction(one_statement=size <= _ROWS and not several):
            if several:
                self._advance(groups)
            rows: list[Row] = []
            last: list[int] = []
            times: list[float | None] = []
            for model, branch, events, _, when in groups:
                seq = self._next(model)
                for event in events:
                    seq += event.samples
                    rows.append((seq, model, branch, event))
                    times.append(when)
                self._new_heads[model] = seq
                last.append(seq)
            self._insert(rows, times)
            if several:
                self._insert_names(rows)
        return last

    def _insert_names(self, rows: Sequence[Row]) -> None:
        """Add the ids of events in runs, and raise the format if it must be."""
        for seq, model, _, event in rows:
            if not self._new_has_runs and is_new(event):
                self._writer.execute(f"PRAGMA user_version = {FORMAT_OF_RUNS}")
                self._new_has_runs = True
            if isinstance(event, Run):
                names = [(model, number, name, digest) for name, number, digest in names_of(seq, event)]
                self._writer.executemany("INSERT INTO named VALUES (?, ?, ?, ?)", names)

    def _advance(self, groups: Sequence[Group]) -> None:
        """Change the positions of groups in the current transaction."""
        moved = [
            i
            for i, group in enumerate(groups)
            if not all(self._compare_and_set(group.model, each) for each in group.advances)
        ]
        if moved:
            raise PositionMovedError(moved)

    def _compare_and_set(self, model: int, advance: Advance) -> bool:
        topic, partition, before, after = advance
        if before is None:
            statement = "INSERT OR IGNORE INTO source VALUES (?, ?, ?, ?)"
            return self._writer.execute(statement, (model, topic, partition, after)).rowcount == 1
        statement = "UPDATE source SET next = ? WHERE model = ? AND topic = ? AND partition = ? AND next = ?"
        return self._writer.execute(statement, (after, model, topic, partition, before)).rowcount == 1

    def positions(self, model: int) -> list[Position]:
        """Return the positions of a model in the partitions of topics."""
        query = "SELECT topic, partition, next FROM source WHERE model = ? ORDER BY topic, partition"
        return [*map(Position._make, self._rows(query, model))]

    def _next(self, model: int) -> int:
        """Return the number of the last event of a model, those of the current transaction included."""
        return self._new_heads.get(model) or self._heads[model]

    def _add(self, model: int, branch: int, event: Event) -> int:
        """Add an event in the current transaction; return its number."""
        seq = self._next(model) + 1
        self._insert([(seq, model, branch, event)])
        return seq

    def _insert(self, rows: Sequence[Row], times: Iterable[float | None] = itertools.repeat(None)) -> None:
        """Add events, with their times of logging: None stands for now."""
        now, before, moments = self.now(), self._new_place, iter(times)
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            values: list[Any] = []
            for (seq, model, branch, event), when in zip(some, moments, strict=False):
                self._new_place += event.samples
                values.append(self._new_place)
                values += to_row(seq, model, branch, now if when is None else when, event)
                self._new_heads[model] = seq
            self._writer.execute(_insertion(len(some)), values)
        self._new_length += self._new_place - before

    def restore(self, rows: Sequence[Row], pruned: Mapping[int, int]) -> None:
        """Add events with given numbers, which the log does not have, for a repair.

        Parameters
        ----------
        rows : sequence of Row
            The events.
        pruned : dict of int to int
            For each model the event before which its samples are missing.
        """
        with self._transaction():
            self._new_place = max(self._place, self._mark.number)
            self._insert(sorted(rows, key=lambda row: row[:2]))
            self._writer.executemany("REPLACE INTO pruned VALUES (?, ?)", pruned.items())
        self._latest_model = max([self._latest_model, *(row[1] for row in rows)])

    def models(self) -> list[Record]:
        """Return the creation of each model that exists, in order."""
        return self._query(f"WHERE {SPECIAL} AND kind = 'create' ORDER BY model")

    def changes(self, model: int, kind: Kind) -> list[Record]:
        """Return the events of one kind; samples and imports are not supported."""
        return self._query(f"WHERE model = ? AND {SPECIAL} AND kind = ? ORDER BY seq", model, kind)

    def imports(self, model: int) -> list[Header]:
        """Return the imports of a model, in order."""
        query = f"{_HEADERS} WHERE model = ? AND {SPECIAL} AND kind = 'import' ORDER BY seq"
        return [*map(Header._make, self._rows(query, model))]

    def read(self, model: int, segments: Sequence[Segment]) -> Iterator[Record]:
        """Return the events of segments, in order."""
        return itertools.chain.from_iterable(each.records() for each in self.read_runs(model, segments))

    def read_runs(self, model: int, segments: Sequence[Segment]) -> Iterator[Record | RunRecord]:
        """Return the events of segments as they are stored, in order."""
        query = f"{_SELECT} WHERE {_SEGMENT} ORDER BY seq"
        for segment in segments:
            rest = segment
            while page := self._page(query, *bounds(model, rest)):
                for row in page:
                    yield from to_records(row, segment)
                rest = replace(rest, after=page[-1][0])

    def headers(self, model: int, segments: Sequence[Segment], limit: int) -> list[Header]:
        """Return the first events of segments, without their bodies."""
        query = f"{_RUN_HEADERS} WHERE {_SEGMENT} ORDER BY seq LIMIT ?"
        found: list[Header] = []
        for segment in segments:
            rows = self._rows(query, *bounds(model, segment), limit - len(found))
            found += expand(rows, segment, limit - len(found), partial(self._rows, _NAMES, model))
        return found

    def count(self, model: int, segments: Sequence[Segment]) -> int:
        """Return the number of events that `read` would return."""
        total = "SELECT ifnull(sum(min(seq, ?) - max(seq - count, ?)), 0) FROM event"
        query = f"{total} WHERE {_SEGMENT}"
        return sum(self._rows(query, s.upto, s.after, *bounds(model, s))[0][0] for s in segments)

    def find(self, model: int, ids: Collection[str]) -> list[Header]:
        """Return the events with one of these ids."""
        marks = ", ".join("?" * len(ids))
        query = f"{_HEADERS} WHERE model = ? AND id IN ({marks}) UNION ALL {_NAMED} ({marks}) ORDER BY 1"
        return [*map(Header._make, self._rows(query, model, *ids, model, *ids))]

    def at_step(self, model: int, step: int) -> list[Header]:
        """Return the events after which the model had learned `step` samples."""
        return [*map(Header._make, self._rows(_AT_STEP, model, step))]

    def correct(self, model: int, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Record refusals and steps that differ from the expected ones."""
        with self._transaction():
            self._change_runs(model, refused=refused, steps=steps)
            self._writer.executemany(
                "UPDATE event SET refused = ?, step = NULL WHERE model = ? AND seq = ? AND count = 1",
                [(why, model, seq) for seq, why in refused.items()],
            )
            self._writer.executemany(
                "UPDATE event SET step = ? WHERE model = ? AND seq = ? AND count = 1",
                [(step, model, seq) for seq, step in steps.items()],
            )

    def _change_runs(self, model: int, **changes: Any) -> int:
        """Change runs in the current transaction; return the number of removed events."""
        removed = len(change_runs(self._execute, partial(self._replace, model), model, **changes))
        self._new_length -= removed
        return removed

    def _execute(self, query: str, *parameters: Any) -> list[_Row]:
        """Execute a statement in the current transaction."""
        return self._writer.execute(query, parameters).fetchall()

    def _replace(self, model: int, seq: int, rows: list[Stored]) -> None:
        """Replace a run by rows with some of its events, each at the place of its last event."""
        query = "DELETE FROM event WHERE model = ? AND seq = ? RETURNING place"
        [(place,)] = self._execute(query, model, seq)
        for row in rows:
            self._writer.execute(_insertion(1), (place - seq + row[0], *row))

    def flush(self) -> None:
        """Return once all committed events are on the disk."""
        if self._relaxed:
            self._flush()

    def _flush(self) -> None:
        place = self._place
        for path in (self._wal, self._path.parent):
            flush_file(path)
        self._mark.write(place)

    def checksum(self, model: int, seq: int) -> bytes | None:
        """Return the checksum of an event; None if the log does not have it."""
        rows = self._rows(f"{_SELECT} WHERE model = ? AND seq >= ? ORDER BY seq LIMIT 1", model, seq)
        return checksum_at(rows[0] if rows else None, seq)

    def forget(self, model: int, branch: int, event: Event, numbers: Collection[int]) -> int:
        """Remove events, and log their removal."""
        with self._transaction():
            query = (
                "SELECT id FROM event WHERE model = ?1 AND seq = ?2 "
                "UNION ALL SELECT id FROM named WHERE model = ?1 AND seq = ?2"
            )
            ids = [
                (model, id_digest(model, name))
                for seq in numbers
                for (name,) in self._execute(query, model, seq)
                if name is not None
            ]
            self._writer.executemany("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", ids)
            self._change_runs(model, gone={*numbers})
            self._new_length -= self._writer.executemany(
                "DELETE FROM event WHERE seq = ? AND model = ? AND count = 1", [(s, model) for s in numbers]
            ).rowcount
            self._erasure.mark(self._writer)
            # They are measured again.
            first = min(numbers, default=0)
            self._writer.execute("DELETE FROM measured WHERE model = ? AND upto >= ?", (model, first))
            return self._add(model, branch, event)

    def forgotten(self, model: int, ids: Collection[str]) -> set[str]:
        """Return the ids whose events were forgotten."""
        by_digest = {id_digest(model, name): name for name in ids}
        marks = ", ".join("?" * len(by_digest))
        query = f"SELECT id FROM forgotten WHERE model = ? AND id IN ({marks})"  # noqa: S608 (question marks)
        return {by_digest[digest] for (digest,) in self._rows(query, model, *by_digest)}

    def first_kept(self, model: int) -> int:
        """Return an event number: samples before this event may have been pruned."""
        rows = self._rows("SELECT before FROM pruned WHERE model = ?", model)
        return rows[0][0] if rows else 0

    def prune(self, model: int, before: int, newest: int, size: int, since: float) -> int:
        """Remove the old samples and imports of a model before event `before`."""
        before = min(before, self._heads[model] + 1)
        if since <= 0.0 and before - model <= newest and self.size() <= size:
            return 0  # no limit can be exceeded: the events need no measurement
        kept, measured = retention.measure(self._rows, model, before - 1)
        if measured or self._rows("SELECT 1 FROM measured WHERE model = ? AND upto > ?", model, kept):
            with self._transaction():
                self._writer.execute("DELETE FROM measured WHERE model = ? AND upto > ?", (model, kept))
                self._save_measured(model, measured)
        first = retention.first_retained(self._rows, model, before - 1, newest, size)
        recent = retention.first_since(self._rows, model, self._heads[model], since)
        limit = min(before, max(first, recent, self.first_kept(model)))
        across = retention.across(self._rows, model, limit)
        if not across and not self._rows(f"{_PRUNABLE} LIMIT 1", model, 0, limit - 1):
            return 0
        with self._transaction():
            if removed := self._change_runs(model, gone=across):
                self._erasure.mark(self._writer)
            self._writer.execute(
                "INSERT INTO pruned VALUES (?1, ?2) ON CONFLICT DO UPDATE SET before = max(before, ?2)",
                (model, limit),
            )
            self._writer.execute("DELETE FROM measured WHERE model = ? AND upto < ?", (model, limit))
            self._writer.execute("UPDATE numbering SET place = ?", (self._place,))  # of an event that may go
            rest = retention.remainder(self._execute, model, limit)
            self._save_measured(model, [] if rest is None else [rest])
        removed += self._remove(_PRUNABLE, model, 0, limit - 1)
        with translated():
            self._erasure.shrink()
        return removed

    def _save_measured(self, model: int, intervals: Iterable[retention.Interval]) -> None:
        rows = [(model, each.upto, each.events, each.bytes) for each in intervals]
        self._writer.executemany("REPLACE INTO measured VALUES (?, ?, ?, ?)", rows)

    def drop(self, model: int) -> None:
        """Remove a model, except the record that it existed; `erase` removes its events and the rest."""
        with self._transaction():
            creation = "DELETE FROM event WHERE model = ?1 AND seq = ?1"
            self._new_length -= self._writer.execute(creation, (model,)).rowcount
            self._erasure.mark(self._writer)
            self._add(model, 0, Event("delete", b"{}"))

    @property
    def unerased(self) -> bool:
        """Whether removed content may still be on the disk."""
        return self._erasure.pending

    def erase(self) -> None:
        """Erase removed content from the disk, and return free space to the system."""
        with translated():
            self._erasure.erase(self._finish_drops)

    def _finish_drops(self) -> None:
        """Remove what is left of deleted models; `drop` marked it."""
        deleted = f"model IN (SELECT model FROM event WHERE {SPECIAL} AND kind = 'delete')"  # noqa: S608
        query = f"SELECT place, length(body) FROM event WHERE {deleted} AND kind <> 'delete'"  # noqa: S608
        self._remove(query, mark=False)
        with self._transaction():
            for table in ("forgotten", "pruned", "measured", "source", "named"):
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
        with self._writing, translated():
            self._new_place, self._new_length = self._place, self._length
            self._new_heads, self._new_has_runs = {}, self._has_runs
            if not one_statement:
                self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                if not one_statement:
                    self._writer.execute("COMMIT")
                self._place, self._length = self._new_place, self._new_length
                self._has_runs = self._new_has_runs
                self._heads.update(self._new_heads)
                if not self._relaxed:
                    self._mark.write(self._place)
            finally:
                if self._writer.in_transaction:  # SQLite itself rolls back a commit on a full disk
                    self._writer.execute("ROLLBACK")

    def _remove(self, query: str, *parameters: Any, mark: bool = True) -> int:
        """Delete the rows of a query for places and sizes, and mark them for `erase`; return their events.

        It deletes slices, so that other threads can write in between.
        """
        deletion = "DELETE FROM event WHERE place = ? RETURNING model, seq, count"
        removed = 0
        while rows := self._rows(f"{query} LIMIT {_PAGE}", *parameters):
            sizes = itertools.accumulate((size for _, size in rows), initial=0)
            some = [place for (place, _), before in zip(rows, sizes, strict=False) if before < _PAGE_BYTES]
            with self._transaction():
                gone = [row for place in some for row in self._execute(deletion, place)]
                runs = [(model, seq - count, seq) for model, seq, count in gone if count > 1]
                self._writer.executemany("DELETE FROM named WHERE model = ? AND seq > ? AND seq <= ?", runs)
                count = sum(row[2] for row in gone)
                if count and mark:
                    self._erasure.mark(self._writer)
                self._new_length -= count
            removed += count
        return removed

    def _query(self, where: str, *parameters: Any) -> list[Record]:
        """Return events that are no samples."""
        rows = self._rows(f"{_SELECT} {where}", *parameters)
        return [record for row in rows for each in to_records(row) for record in each.records()]

    def _page(self, query: str, *parameters: Any) -> list[_Row]:
        """Return the first rows of a query: a page, which is limited in bytes too."""
        page: list[_Row] = []
        size = 0
        with self._reading, translated(), closing(self._reader.execute(query, parameters)) as rows:
            for row in rows:
                page.append(row)
                size += len(row[_BODY])
                if len(page) == _PAGE or size >= _PAGE_BYTES:
                    break
        return page

    def _rows(self, query: str, *parameters: Any) -> list[_Row]:
        with self._reading, translated():
            return self._reader.execute(query, parameters).fetchall()


def _size(path: Path) -> int:
    """Return the size of a file, 0 if it is missing."""
    return path.stat().st_size if path.exists() else 0


def flush_file(path: Path) -> None:
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
def translated() -> Iterator[None]:
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
