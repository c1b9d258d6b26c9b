"""Data folders as source and target of a copy; see `copying`."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from ..errors import StorageFailedError
from . import high_water
from .checkpoints import FOLDER, CheckpointFiles
from .copying import CheckpointContents, Models, NameOf, Row
from .data_dir import lock
from .sqlite import COPYING, FILE, SqliteLog, flush_file, translated
from .sqlite_tables import FORMAT, FORMAT_OF_RUNS, SPECIAL

#: Rows, and about how many bytes, that one transaction adds.
_ROWS, _BYTES = 5000, 2**24


class FolderSource:
    """Data folder as a source, which this process has open; implements `Source`.

    Parameters
    ----------
    folder : path
        The folder.
    name_of : callable
        Returns the name of a model.
    """

    def __init__(self, folder: Path, name_of: NameOf) -> None:
        self.name = f"sqlite:{folder}"
        self.checkpoints: CheckpointContents = CheckpointFiles(folder / FOLDER)
        self._name_of = name_of
        with translated():
            self._connection = _connect(folder / FILE)
            self._connection.execute("PRAGMA query_only = ON")

    def models(self) -> Models:
        """Return its models."""
        query = f"SELECT model, body FROM event WHERE {SPECIAL} AND kind = ?"  # noqa: S608
        with translated():
            created = self._connection.execute(query, ("create",)).fetchall()
            deleted = {model for model, _ in self._connection.execute(query, ("delete",))}
            [(shared,)] = self._connection.execute("SELECT shared FROM numbering")
        return Models({model: self._name_of(body) for model, body in created}, deleted, shared)

    def count(self) -> int:
        """Return the number of rows with events."""
        with translated():
            [(count,)] = self._connection.execute("SELECT count(*) FROM event")
        return int(count)

    def rows(self, table: str, columns: str) -> Generator[Row, None, None]:
        """Return the rows of a table in the order of their arrival, one after the other."""
        order = "place" if table == "event" else columns
        with closing(self._connection.cursor()) as cursor:
            with translated():
                cursor.execute(f"SELECT {columns} FROM {table} ORDER BY {order}")  # noqa: S608
            while True:
                with translated():
                    row = cursor.fetchone()
                if row is None:
                    return
                yield row

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class FolderTarget:
    """Data folder as a target, which is created if it is missing; implements `Target`.

    Parameters
    ----------
    folder : path
        The folder. No other process can use it until `close`.

    Raises
    ------
    FolderInUseError
        If another process uses it.
    StorageFailedError
        If it has events or checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.checkpoints: CheckpointContents = CheckpointFiles(folder / FOLDER)
        self._folder, self._mark = folder, folder / COPYING
        self._lock = lock(folder)
        self._connection: sqlite3.Connection | None = None
        self._shared = 0
        try:
            if self._mark.exists():
                self._clear()
            self._require_empty()
        except BaseException:
            self._lock.close()
            raise

    def _clear(self) -> None:
        """Remove what an incomplete copy left. The folder was empty before it."""
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", high_water.NAME):
            (self._folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder / FOLDER)
        self._mark.unlink()

    def _require_empty(self) -> None:
        used = any(self.checkpoints.list(model) for model in self.checkpoints.models())
        if not used and (self._folder / FILE).exists():
            with translated(), closing(_connect(self._folder / FILE)) as connection:
                [(version,)] = connection.execute("PRAGMA user_version")
                query = (
                    "SELECT EXISTS (SELECT 1 FROM event) OR EXISTS (SELECT 1 FROM numbering WHERE place > 0)"
                )
                used = version not in (FORMAT, FORMAT_OF_RUNS) or connection.execute(query).fetchone() == (1,)
        if used or (high_water.read(self._folder) and not (self._folder / FILE).exists()):
            raise StorageFailedError(
                f"the folder {self._folder} has models already: copy into a folder that does not exist yet"
            )

    def begin(self, source: str, models: Models) -> None:
        """Mark the folder as an incomplete copy."""
        SqliteLog(self._folder).close()
        self._mark.write_text(source)
        for path in (self._mark, self._folder):
            flush_file(path)
        self._shared = models.shared
        with translated():
            self._connection = _connect(self._folder / FILE)
            self._connection.execute("PRAGMA synchronous = FULL")

    def add(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        """Add rows, in transactions that are limited in number and bytes."""
        assert self._connection is not None  # noqa: S101 (after `begin`)
        if table == "event":
            rows, columns = _placed(rows), f"{columns}, place"
        marks = ", ".join("?" * len(columns.split(",")))
        statement = f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608
        for some in _slices(rows):
            with translated(), self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(statement, some)

    def finish(self) -> None:
        """Complete the copy, and remove the mark."""
        assert self._connection is not None  # noqa: S101 (after `begin`)
        with translated():
            place = "(SELECT ifnull(max(place), 0) FROM event)"
            statement = f"UPDATE numbering SET shared = ?, place = {place}"  # noqa: S608
            self._connection.execute(statement, (self._shared,))
            newer = "SELECT 1 FROM event WHERE count > 1 OR kind = 'shadow' LIMIT 1"
            if self._connection.execute(newer).fetchone():
                self._connection.execute(f"PRAGMA user_version = {FORMAT_OF_RUNS}")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()
        flush_file(self._folder / FILE)
        for folder in (*self._folder.glob(f"{FOLDER}/*"), self._folder / FOLDER):
            flush_file(folder)
        self._mark.unlink()
        flush_file(self._folder)

    def close(self) -> None:
        """Close the file, and let other processes use the folder."""
        if self._connection is not None:
            self._connection.close()
        self._lock.close()


def _placed(rows: Iterable[Row]) -> Iterator[Row]:
    """Return the rows of events with their places: a run takes as many as it has events."""
    place = 0
    for row in rows:
        place += row[-1]
        yield (*row, place)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=30.0, isolation_level=None)


def _slices(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Return rows in lists that are limited in number and bytes."""
    some: list[Row] = []
    size = 0
    for row in rows:
        some.append(row)
        size += sum(len(value) for value in row if isinstance(value, bytes | str))
        if len(some) == _ROWS or size >= _BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
