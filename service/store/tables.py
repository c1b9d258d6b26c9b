"""The tables of the log in SQLite, and events as their rows."""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

from service.errors import DamagedEventError
from service.store.base import Event, Record

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
