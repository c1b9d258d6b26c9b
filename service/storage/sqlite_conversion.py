"""Conversion of an event log in SQLite from format 1.

In format 1, event numbers rose over all models. In format 2 each model has numbers of its own. Converted
events keep their numbers, and later events of every model continue after the last of them. So each number in
a checkpoint, a backup or a request still means the same event.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ..telemetry.progress import progress
from .sqlite_tables import FORMAT, NUMBERING, NUMBERS

# `converted` exists until the last step. It has the place up to which the events have their number.
_BEGIN = f"""
ALTER TABLE event RENAME COLUMN seq TO place;
ALTER TABLE event ADD COLUMN seq INTEGER;
ALTER TABLE event ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
{NUMBERING}
INSERT INTO numbering SELECT last, last FROM (SELECT max(
    (SELECT ifnull(max(place), 0) FROM event), (SELECT ifnull(max(before), 1) - 1 FROM pruned)
) AS last);
CREATE TABLE converted (upto INTEGER NOT NULL);
INSERT INTO converted VALUES (0);
PRAGMA user_version = {FORMAT};
"""  # noqa: S608
_FINISH = f"""
{NUMBERS}
DROP INDEX event_history;
DROP TABLE converted;
"""
#: Events, and about how many bytes, that one transaction converts: it needs room for a copy of them.
_EVENTS, _BYTES = 5000, 2**24

_logger = logging.getLogger(__name__)


def convert(writer: sqlite3.Connection) -> None:
    """Convert a log of format 1 by a connection in autocommit mode, or continue after an interruption."""
    [(version,)] = writer.execute("PRAGMA user_version")
    if version == 1:
        _logger.warning(
            "converting the event log to format %d: earlier versions of bnp-online cannot open it any more. "
            "To go back to one, restore the backup that you made before the update",
            FORMAT,
        )
        with _transaction(writer):
            _execute(writer, _BEGIN)
    if not writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'converted'").fetchone():
        return
    [(upto,)] = writer.execute("SELECT upto FROM converted")
    [(left,)] = writer.execute("SELECT count(*) FROM event WHERE place > ?", (upto,))
    done = 0
    with progress("converting the event log", left) as advance:
        while places := _slice(writer, upto):
            with _transaction(writer):
                writer.execute(
                    "UPDATE event SET seq = place WHERE place > ? AND place <= ?", (upto, places[-1])
                )
                writer.execute("UPDATE converted SET upto = ?", (places[-1],))
            done, upto = done + len(places), places[-1]
            advance(done)
    with _transaction(writer):
        _execute(writer, _FINISH)


def _slice(writer: sqlite3.Connection, after: int) -> list[int]:
    """Return the places of the next events."""
    query = "SELECT place, length(body) FROM event WHERE place > ? ORDER BY place LIMIT ?"
    places: list[int] = []
    size = 0
    for place, length in writer.execute(query, (after, _EVENTS)).fetchall():
        places.append(place)
        size += length
        if size >= _BYTES:
            break
    return places


def _execute(writer: sqlite3.Connection, script: str) -> None:
    """Execute statements in the current transaction, which `executescript` would commit."""
    for statement in filter(str.strip, script.split(";")):
        writer.execute(statement)


@contextmanager
def _transaction(writer: sqlite3.Connection) -> Iterator[None]:
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
        writer.execute("COMMIT")
    finally:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
