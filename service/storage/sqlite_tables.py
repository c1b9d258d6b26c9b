"""Tables of the event log in SQLite."""

from __future__ import annotations

#: Version of the tables, stored as SQLite's user_version. Earlier versions of the server refuse a later one.
FORMAT = 2
#: The same of a log that has had a run or a shadow: a server that knows none must not open it.
FORMAT_OF_RUNS = 3
#: Condition for events other than samples: they are few, and each start looks them up.
SPECIAL = "kind NOT IN ('learn', 'label', 'predict')"
#: Removals whose content may still be in the file. Folders of earlier versions do not have this table.
UNERASED = "CREATE TABLE unerased (removal INTEGER PRIMARY KEY);"
#: Positions in the partitions of topics. Folders of earlier versions do not have this table.
SOURCE = """
CREATE TABLE IF NOT EXISTS source (
    model INTEGER NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (model, topic, partition)
) WITHOUT ROWID
"""
#: Ids of the events in runs. Folders of earlier versions do not have this table.
NAMED = """
CREATE TABLE IF NOT EXISTS named (
    model INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (model, seq)
) WITHOUT ROWID
"""
NAMED_IDS = "CREATE INDEX IF NOT EXISTS named_id ON named (model, id)"
MARKED = "INSERT INTO unerased DEFAULT VALUES;"
# `place` is the order of arrival of the (last) event over all models, and `seq` its number among those of its
# model. The index of the numbers has the branch too, so that a count reads no row.
NUMBERS = "CREATE UNIQUE INDEX event_number ON event (model, seq, branch);"
#: One row: the number of the last event of format 1, 0 if there was none; and a place that was reached.
NUMBERING = "CREATE TABLE numbering (shared INTEGER NOT NULL, place INTEGER NOT NULL);"
TABLES = f"""
CREATE TABLE event (
    place INTEGER PRIMARY KEY,
    model INTEGER NOT NULL,
    branch INTEGER NOT NULL,
    kind TEXT NOT NULL,
    time REAL NOT NULL,
    id TEXT,
    digest BLOB,
    body BLOB NOT NULL,
    checksum BLOB NOT NULL,
    refused TEXT,
    step INTEGER,
    seq INTEGER,
    count INTEGER NOT NULL DEFAULT 1
);
{NUMBERS}
CREATE INDEX event_id ON event (model, id) WHERE id IS NOT NULL;
CREATE INDEX event_step ON event (model, step) WHERE step IS NOT NULL;
CREATE INDEX event_special ON event (model, kind) WHERE {SPECIAL};
CREATE TABLE forgotten (model INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY (model, id)) WITHOUT ROWID;
CREATE TABLE pruned (model INTEGER PRIMARY KEY, before INTEGER NOT NULL);
CREATE TABLE probe (only INTEGER PRIMARY KEY, time REAL NOT NULL);
{UNERASED}
{NUMBERING}
INSERT INTO numbering VALUES (0, 0);
PRAGMA user_version = {FORMAT};
"""  # noqa: S608
