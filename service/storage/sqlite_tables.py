"""Tables of the event log in SQLite."""

from __future__ import annotations

#: Version of the tables, stored as SQLite's user_version.
FORMAT = 1
#: Condition for events other than samples: they are few, and each start looks them up.
SPECIAL = "kind NOT IN ('learn', 'label', 'predict')"
#: Removals whose content may still be in the file. Folders of earlier versions do not have this table.
UNERASED = "CREATE TABLE unerased (removal INTEGER PRIMARY KEY);"
MARKED = "INSERT INTO unerased DEFAULT VALUES;"
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
{UNERASED}
PRAGMA user_version = {FORMAT};
"""
