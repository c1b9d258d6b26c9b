"""Connections to PostgreSQL: their settings, arrays as parameters, and errors."""

from __future__ import annotations

import math
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import psycopg
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper

from ..errors import OutcomeUnknownError, StorageFailedError, StorageFullError

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

#: Parameters of a connection that the URL may set otherwise: a lost one is noticed within about 10 s.
_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "3",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
}
#: Seconds between two attempts to connect.
_PAUSE = 0.2
#: Prepared statements of a connection: each shard has its own.
_PREPARED = 1000


class Array(list[Any]):
    """Array as a parameter; None is null. Its type does not depend on its content."""

    @staticmethod
    def bytes_of(value: Any) -> bytes:
        """Return an element as PostgreSQL receives it."""
        raise NotImplementedError


class Integers(Array):
    """Array of bigint."""

    @staticmethod
    def bytes_of(value: Any) -> bytes:
        """Return an element as PostgreSQL receives it."""
        return struct.pack(">q", value)


class Floats(Array):
    """Array of float8."""

    @staticmethod
    def bytes_of(value: Any) -> bytes:
        """Return an element as PostgreSQL receives it."""
        return struct.pack(">d", value)


class Texts(Array):
    """Array of text."""

    @staticmethod
    def bytes_of(value: Any) -> bytes:
        """Return an element as PostgreSQL receives it."""
        return str.encode(value)


class Blobs(Array):
    """Array of bytea; a string is encoded, since text of PostgreSQL has no NUL."""

    @staticmethod
    def bytes_of(value: Any) -> bytes:
        """Return an element as PostgreSQL receives it."""
        return value.encode() if isinstance(value, str) else memoryview(value).tobytes()


#: Types of PostgreSQL: of the elements and of the arrays.
_TYPES: dict[type[Array], tuple[int, int]] = {
    Integers: (20, 1016),
    Floats: (701, 1022),
    Texts: (25, 1009),
    Blobs: (17, 1001),
}


class _ArrayDumper(Dumper):
    format = Format.BINARY
    element: ClassVar[int]

    def dump(self, obj: Array) -> bytes:
        """Return the array in PostgreSQL's binary format."""
        null = struct.pack(">i", -1)
        parts = [struct.pack(">iiIii", 1, 1, self.element, len(obj), 1)]
        try:
            for value in obj:
                if value is None:
                    parts.append(null)
                else:
                    content = obj.bytes_of(value)
                    parts += struct.pack(">i", len(content)), content
        except (struct.error, TypeError) as error:
            raise psycopg.DataError(f"a value of type {type(value).__name__}: {error}") from error
        return b"".join(parts)


_DUMPERS = [
    (kind, type("ArrayDumper", (_ArrayDumper,), {"element": element, "oid": array}))
    for kind, (element, array) in _TYPES.items()
]


def connect(url: str, program: str, *, relaxed: bool = False) -> Connection:
    """Open a connection with autocommit.

    Parameters
    ----------
    url : str
        ``postgresql://…``, also with several hosts.
    program : str
        Name of the connection in ``pg_stat_activity``.
    relaxed : bool
        Whether a commit may return before it is on the disk.
    """
    parameters: dict[str, Any] = {**_DEFAULTS, "application_name": program, **conninfo_to_dict(url)}
    connection = psycopg.connect(make_conninfo("", **parameters), autocommit=True)
    connection.prepared_max = _PREPARED
    connection.adapters.register_dumper(int, Int8BinaryDumper)  # one type, so one prepared statement
    for kind, dumper in _DUMPERS:
        connection.adapters.register_dumper(kind, dumper)
    if relaxed:
        connection.execute("SET synchronous_commit = off")
    elif connection.execute("SHOW synchronous_commit").fetchone() == ("off",):
        connection.execute("SET synchronous_commit = on")
    return connection


class Reconnecting:
    """Connection that is opened again after it was lost. One thread at a time uses it.

    Parameters
    ----------
    open_ : callable
        Opens the connection.
    patience : float
        Seconds for which the server may not answer.

    Attributes
    ----------
    reopened : float
        Time of `time.monotonic` at which it was last opened again.
    """

    def __init__(self, open_: Callable[[], Connection], patience: float) -> None:
        self.reopened = -math.inf
        self.lock = threading.RLock()
        self.patience = patience
        self._open = open_
        self._connection: Connection | None = None

    def get(self, until: float) -> Connection:
        """Return the connection; if it was lost, try to connect until a time of `time.monotonic`."""
        while self._connection is None or self._connection.closed:
            try:
                again, self._connection = self._connection is not None, self._open()
                if again:
                    self.reopened = time.monotonic()
            except psycopg.OperationalError as error:
                if time.monotonic() >= until:
                    raise StorageFailedError(f"the event log cannot be reached: {reason(error)}") from error
                time.sleep(_PAUSE)
        return self._connection

    def query(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query that changes nothing."""
        until = time.monotonic() + self.patience
        with self.lock, translated():
            while True:
                connection = self.get(until)
                try:
                    return connection.execute(query, parameters, binary=True).fetchall()
                except psycopg.OperationalError as error:
                    if not self.is_lost(error):
                        raise

    def is_lost(self, error: psycopg.Error) -> bool:
        """Return whether an error means that the connection, or the role of its server, was lost."""
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            self.close()
        return self._connection is None or self._connection.closed

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


def reason(error: psycopg.Error) -> str:
    """Return the message of an error of PostgreSQL in one line, without the statement."""
    text = error.diag.message_primary or str(error).removeprefix("connection failed: ")
    return " ".join(text.split())


@contextmanager
def translated() -> Iterator[None]:
    """Translate errors of PostgreSQL into `StorageError`."""
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise StorageFullError(
            "the disk of the event log is full: free some space on the server of PostgreSQL, then try again"
        ) from error
    except psycopg.Error as error:
        raise StorageFailedError(f"the event log cannot be read or written: {reason(error)}") from error


def unknown(error: Exception) -> OutcomeUnknownError:
    """Return the error for a commit whose outcome cannot be found out."""
    return OutcomeUnknownError(
        f"the event log was lost during a commit, and did not answer again in time: {error}. The samples may "
        "be in the log: send them again with the same ids"
    )
