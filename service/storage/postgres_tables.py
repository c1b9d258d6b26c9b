"""Tables of the event log in PostgreSQL, which the servers of a cluster share.

A *shard* is a set of models that one process owns. The name of a model determines its shard.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from ..errors import StorageFailedError

if TYPE_CHECKING:
    import psycopg

#: Version of the tables, in the table `cluster`. It is that of the SQLite log: the rows are the same.
FORMAT = 2
#: The same of a cluster that has had a run or a shadow: a server that knows none must not open it.
FORMAT_OF_RUNS = 3
#: Number of shards of a new cluster.
SHARDS = 64
#: Condition for events other than samples: they are few.
SPECIAL = "kind NOT IN ('learn', 'label', 'predict')"

TABLES = """
CREATE TABLE cluster (
    format int NOT NULL,
    shards int NOT NULL,
    shared bigint NOT NULL DEFAULT 0,  -- the last number of format 1, in a copy of a log of SQLite
    copying text  -- the source of a copy that is not complete
);
CREATE TABLE shard (
    shard int PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    owner text,
    address text,
    expires timestamptz
);
CREATE SEQUENCE model_number;
CREATE TABLE model (model bigint PRIMARY KEY, shard int NOT NULL, name text UNIQUE);
CREATE INDEX model_shard ON model (shard);
CREATE TABLE event (
    shard int NOT NULL,
    model bigint NOT NULL,
    seq bigint NOT NULL,
    branch bigint NOT NULL,
    kind text NOT NULL,
    time float8 NOT NULL,
    id bytea,
    digest bytea,
    body bytea NOT NULL,
    checksum bytea NOT NULL,
    refused text,
    step bigint,
    count bigint NOT NULL
) PARTITION BY LIST (shard);
CREATE TABLE checkpoint (
    shard int NOT NULL,
    model bigint NOT NULL,
    name text NOT NULL,
    branch bigint NOT NULL,
    seq bigint NOT NULL,
    step bigint NOT NULL,
    head bigint NOT NULL,
    time float8 NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (shard, model, name)
) PARTITION BY LIST (shard);
ALTER TABLE checkpoint ALTER COLUMN state SET STORAGE EXTERNAL;
CREATE TABLE forgotten (model bigint, id bytea, PRIMARY KEY (model, id));
CREATE TABLE pruned (model bigint PRIMARY KEY, before bigint NOT NULL);
CREATE TABLE measured (
    model bigint,
    upto bigint,
    events bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (model, upto)
);
CREATE TABLE unerased (removal bigserial PRIMARY KEY, shard int NOT NULL);
CREATE TABLE probe (shard int PRIMARY KEY, time float8 NOT NULL);
CREATE TABLE source (
    model bigint,
    topic text,
    partition int,
    next bigint NOT NULL,
    PRIMARY KEY (model, topic, partition)
);
CREATE TABLE node (
    name text PRIMARY KEY,
    role text NOT NULL,
    address text NOT NULL,
    seen timestamptz NOT NULL,
    detail jsonb NOT NULL
);
CREATE TABLE move (shard int PRIMARY KEY, node text NOT NULL);
"""
#: Tables of a shard. A table of its own can be vacuumed without the others. The index of the numbers has the
#: branch and the count too, so that a count reads no row.
SHARD = f"""
CREATE TABLE event_{{0}} PARTITION OF event FOR VALUES IN ({{0}});
CREATE UNIQUE INDEX event_number_{{0}} ON event_{{0}} (model, seq) INCLUDE (branch, count);
CREATE INDEX event_id_{{0}} ON event_{{0}} (model, id) WHERE id IS NOT NULL;
CREATE INDEX event_step_{{0}} ON event_{{0}} (model, step) WHERE step IS NOT NULL;
CREATE INDEX event_special_{{0}} ON event_{{0}} (model, kind) WHERE {SPECIAL};
CREATE TABLE checkpoint_{{0}} PARTITION OF checkpoint FOR VALUES IN ({{0}});
INSERT INTO shard (shard) VALUES ({{0}});
INSERT INTO probe VALUES ({{0}}, 0);
"""  # noqa: S608
#: Ids of the events in runs, which are stored without compression. Clusters of earlier versions lack it.
NAMED = """
CREATE TABLE named (
    shard int NOT NULL,
    model bigint NOT NULL,
    seq bigint NOT NULL,
    id bytea NOT NULL,
    digest bytea NOT NULL
) PARTITION BY LIST (shard);
ALTER TABLE event ALTER COLUMN body SET STORAGE EXTERNAL;
"""
NAMED_SHARD = """
CREATE TABLE named_{0} PARTITION OF named FOR VALUES IN ({0});
CREATE UNIQUE INDEX named_number_{0} ON named_{0} (model, seq);
CREATE INDEX named_id_{0} ON named_{0} (model, id);
"""
#: Query for what `check` needs.
STATE = "SELECT format, shards, copying FROM cluster"
#: One process at a time creates the tables.
_LOCK = 0x626E70


def shard_of(name: str, shards: int) -> int:
    """Return the shard of the model with a name.

    Examples
    --------
    >>> shard_of("default", 64)
    31
    """
    return zlib.crc32(name.encode()) % shards


def make(connection: psycopg.Connection, shards: int | None = None) -> bool:
    """Create the tables, with `SHARDS` shards by default; return False if there are some already."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        new = not _has(connection, "cluster")
        if new:
            made = SHARDS if shards is None else shards
            connection.execute(TABLES)
            connection.execute("".join(SHARD.format(shard) for shard in range(made)))
            connection.execute("INSERT INTO cluster (format, shards) VALUES (%s, %s)", (FORMAT, made))
        if not _has(connection, "named"):
            connection.execute(NAMED)
            [(made,)] = connection.execute("SELECT shards FROM cluster").fetchall()
            connection.execute("".join(NAMED_SHARD.format(shard) for shard in range(made)))
    return new


def _has(connection: psycopg.Connection, table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() != (None,)


def install(connection: psycopg.Connection, shards: int | None) -> int:
    """Create the tables if there are none; return the number of shards.

    Parameters
    ----------
    connection : Connection
        Connection with autocommit.
    shards : int or None
        Number of shards, which never changes; None for that of the cluster, or `SHARDS` for a new one.

    Raises
    ------
    StorageFailedError
        If the cluster has another format or another number of shards, or a copy of it is not complete.
    """
    make(connection, shards)
    return check(connection.execute(STATE).fetchall(), shards)


def check(rows: list[tuple[Any, ...]], shards: int | None = None) -> int:
    """Check the rows of the query `STATE`; return the number of shards. Raises as `install`."""
    [(format_, found, copying)] = rows
    if format_ not in (FORMAT, FORMAT_OF_RUNS):
        raise StorageFailedError(
            f"the cluster has format {format_}, and this version reads formats {FORMAT} to "
            f"{FORMAT_OF_RUNS}: use the version of bnp-online that wrote it, or a later one"
        )
    if copying is not None:
        raise StorageFailedError(
            f"the store is an incomplete copy of {copying}: run `bnp-online store copy` again"
        )
    if shards not in (None, found):
        raise StorageFailedError(f"the cluster has {found} shards, not {shards}: their number never changes")
    return int(found)
