"""Erasure of removed rows from an SQLite file in use, page by page, while other threads write and read."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .sqlite_pages import SqlitePages
from .sqlite_tables import MARKED

#: Pages that one statement moves or one commit cleans. Other threads can write between two of them.
_SLICE = 1000
#: Share of free pages in the file above which they are returned: moving pages costs as much as writing them.
_MANY = 0.25
#: Seconds for which an erasure waits for another process that reads or writes the file.
_PATIENCE = 0.5
_INCREMENTAL = 2


class FileInUseError(Exception):
    """Another process reads or writes the file, so removed rows cannot be erased."""


class Erasure:
    """Erases removed rows from the file and the write-ahead log, after their removal was committed.

    The transaction of a removal calls `mark`. The mark remains until the rows are erased, also if the server
    is killed.

    Construct it after the connections of the log, and close it after them; see `SqlitePages`.

    Parameters
    ----------
    path : path
        The file.
    writing, reading : Lock
        Locks of the two connections of the log. With both, no connection of the log has a transaction.

    Attributes
    ----------
    pending : bool
        Whether removed rows may still be in the file.
    """

    def __init__(self, path: Path, writing: threading.Lock, reading: threading.Lock) -> None:
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._writing, self._reading = writing, reading
        self._one_at_a_time = threading.Lock()
        self._pages = SqlitePages(path)
        self.pending = True

    def close(self) -> None:
        """Close the file."""
        self._pages.close()

    def mark(self, writer: sqlite3.Connection) -> None:
        """Mark the transaction of a connection as a removal."""
        self.pending = True
        writer.execute(MARKED)

    def shrink(self) -> None:
        """Return free pages to the system if they are many; the next events take the others.

        It then empties the write-ahead log, too, unless another process reads it.
        """
        with self._one_at_a_time:
            with self._reading, closing(self._connect()) as connection:
                ((pages,),) = connection.execute("PRAGMA page_count")
                ((free,),) = connection.execute("PRAGMA freelist_count")
            if free < _MANY * pages:
                return
            self._shrink()
            with self._reading, self._writing, closing(self._connect()) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def erase(self, remove: Callable[[], object]) -> None:
        """Erase all marked removals; return at once if there are none.

        Parameters
        ----------
        remove : callable
            Removes rows that are left of a removal. It runs first.

        Raises
        ------
        FileInUseError
            If another process uses the file. The marks remain.
        sqlite3.Error, OSError, DamagedPageError
            If the file cannot be read or written. The marks remain.
        """
        with self._one_at_a_time:
            if not self.pending:
                return
            with self._writing, closing(self._connect()) as connection:
                ((last,),) = connection.execute("SELECT max(removal) FROM unerased")
                self.pending = last is not None
            if last is None:
                return
            remove()
            *others, final = self._unclean()
            for some in others:
                # A connection must not use its copies of these pages any more. A commit by another connection
                # makes SQLite discard all of them.
                with self._alone() as connection:
                    self._pages.clean(some)
                    connection.execute("REPLACE INTO probe VALUES (1, 0.0)")
            with self._alone() as connection:
                self._pages.clean(final)
                connection.execute("DELETE FROM unerased WHERE removal <= ?", (last,))
                ((left,),) = connection.execute("SELECT count(*) FROM unerased")
                connection.execute("COMMIT")
                self.pending = left > 0

    def _unclean(self) -> list[list[int]]:
        """Return the pages with remnants, in slices, of which the last may be empty."""
        if not self._supported():
            self._rebuild()
            return [[]]
        self._shrink()
        with self._alone():
            """Now the file has all pages, and the write-ahead log none."""
        numbers = self._pages.unclean()
        return [numbers[start : start + _SLICE] for start in range(0, len(numbers) + 1, _SLICE)]

    def _supported(self) -> bool:
        with closing(self._connect()) as connection:
            ((mode,),) = connection.execute("PRAGMA auto_vacuum")
        return mode == _INCREMENTAL and self._pages.supported

    def _shrink(self) -> None:
        """Move the last pages into free ones, and cut them off."""
        free, before = -1, -2
        while free != before:  # until there are none, or the file has no pointer map
            before = free
            with self._writing, closing(self._connect()) as connection:
                # `execute` would run one step of the statement, which moves one page.
                connection.executescript(f"PRAGMA incremental_vacuum({_SLICE})")
                ((free,),) = connection.execute("PRAGMA freelist_count")

    def _rebuild(self) -> None:
        """Copy all rows into new pages. This needs space for a copy, and stops all other work meanwhile."""
        with self._reading, self._writing, closing(self._connect()) as connection:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")

    @contextmanager
    def _alone(self) -> Iterator[sqlite3.Connection]:
        """Commit the writes of the block. The write-ahead log is empty at its start.

        No other connection writes meanwhile, of this process or another.
        """
        with self._reading, self._writing, closing(self._connect()) as connection:
            ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("BEGIN IMMEDIATE")
            if busy or self._wal.stat().st_size:
                raise FileInUseError("another process reads or writes the event log")
            yield connection
            if connection.in_transaction:
                connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        """Return a new connection, without copies of pages."""
        connection = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)
        connection.execute("PRAGMA secure_delete = ON").fetchall()
        connection.execute("PRAGMA synchronous = NORMAL")  # a lost commit is repeated
        return connection
