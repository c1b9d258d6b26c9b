"""Clusters in PostgreSQL as source and target of a copy; see `copying`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, closing
from typing import Any

from ..errors import StorageFailedError
from .copying import CheckpointContents, Models, Row
from .interfaces import Checkpoint
from .postgres import PostgresLog
from .postgres_checkpoints import PostgresCheckpoints
from .postgres_cluster import Cluster, create
from .postgres_connection import Connection, connect, translated
from .postgres_tables import FORMAT_OF_RUNS, SHARDS, SPECIAL, shard_of

#: Types of PostgreSQL of the columns of all tables.
_TYPES = {
    **dict.fromkeys(("seq", "model", "branch", "step", "count", "before", "upto"), "int8"),
    **dict.fromkeys(("events", "bytes", "next", "head"), "int8"),
    **dict.fromkeys(("shard", "partition"), "int4"),
    **dict.fromkeys(("kind", "refused", "topic", "name"), "text"),
    **dict.fromkeys(("id", "digest", "body", "checksum", "state"), "bytea"),
    "time": "float8",
}
_EMPTY = " AND ".join(
    f"NOT EXISTS (SELECT FROM {table})" for table in ("model", "event", "checkpoint", "forgotten", "source")
)
#: Raises the format of a cluster whose log needs it.
_RAISE_FORMAT = """
UPDATE cluster SET format = %s WHERE EXISTS (SELECT FROM event WHERE count > 1 OR kind = 'shadow')
"""
#: Seconds to wait for the shards, which a process that has just ended may still have.
_WAIT = 1.0


class ClusterSource:
    """Cluster as a source; implements `Source`. It owns all shards until `close`.

    Parameters
    ----------
    url : str
        ``postgresql://…``.
    checkpoints : CheckpointContents, optional
        Checkpoints outside of the database.

    Raises
    ------
    NotOwnerError
        If a server owns a shard.
    StorageFailedError
        If there is no cluster.
    """

    name = "a store in PostgreSQL"

    def __init__(self, url: str, checkpoints: CheckpointContents | None) -> None:
        with closing(Cluster(url)):
            """It has the tables."""
        with ExitStack() as stack, translated():
            log = stack.enter_context(closing(PostgresLog(url, owner="bnp-online store copy", wait=_WAIT)))
            self._connection = stack.enter_context(closing(connect(url, "bnp-online copy")))
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.checkpoints = checkpoints or CheckpointTable(self._connection, log)
            self.close = stack.pop_all().close

    def models(self) -> Models:
        """Return its models."""
        query = f"SELECT model FROM event WHERE {SPECIAL} AND kind = 'delete'"  # noqa: S608
        with translated():
            deleted = {model for (model,) in self._connection.execute(query)}
            names: dict[int, str | None] = dict(self._connection.execute("SELECT model, name FROM model"))
            [(shared,)] = self._connection.execute("SELECT shared FROM cluster").fetchall()
        return Models({m: name for m, name in names.items() if m not in deleted}, deleted, shared)

    def count(self) -> int:
        """Return the number of rows with events."""
        with translated():
            [(count,)] = self._connection.execute("SELECT count(*) FROM event").fetchall()
        return int(count)

    def rows(self, table: str, columns: str) -> Generator[Row, None, None]:
        """Return the rows of a table, one after the other, with ids of events as text."""
        order = "model, seq" if table == "event" else columns
        query = f"COPY (SELECT {columns} FROM {table} ORDER BY {order}) TO STDOUT (FORMAT binary)"  # noqa: S608
        text = columns.split(", ").index("id") if table in ("event", "named") else None
        with translated(), self._connection.cursor().copy(query) as copied:
            copied.set_types(_types(columns))
            for row in copied.rows():
                if text is not None and row[text] is not None:
                    yield (*row[:text], row[text].decode(), *row[text + 1 :])
                else:
                    yield row


class ClusterTarget:
    """Cluster as a target, which is created if it is missing; implements `Target`.

    Everything between `begin` and `finish` is one transaction. No server can claim a shard until `close`.

    Parameters
    ----------
    url : str
        ``postgresql://…``.
    checkpoints : CheckpointContents, optional
        Checkpoints outside of the database.
    shards : int, optional
        Number of shards of a new cluster.

    Raises
    ------
    NotOwnerError
        If a server owns a shard.
    StorageFailedError
        If the cluster has models, or another number of shards.
    """

    def __init__(self, url: str, checkpoints: CheckpointContents | None, shards: int | None) -> None:
        with ExitStack() as stack, translated():
            create(url, SHARDS if shards is None else shards)
            self._connection = stack.enter_context(closing(connect(url, "bnp-online copy")))
            # The transaction of an incomplete copy was rolled back: the cluster is empty.
            self._connection.execute("UPDATE cluster SET copying = NULL")
            self._connection.execute(
                _RAISE_FORMAT,
                (FORMAT_OF_RUNS,),
            )
            made = PostgresLog(url, of=shards, owner="bnp-online store copy", wait=_WAIT)
            self._log = stack.enter_context(closing(made))
            self.checkpoints = checkpoints or CheckpointTable(self._connection, made)
            self._shards: dict[int, int] = {}
            outside = checkpoints is not None and any(map(checkpoints.list, checkpoints.models()))
            if outside or self._connection.execute(f"SELECT {_EMPTY}").fetchone() != (True,):
                raise StorageFailedError(
                    "the store in PostgreSQL has models already, or checkpoints: copy into another database "
                    "or schema, and another place for checkpoints"
                )
            self.close = stack.pop_all().close

    def begin(self, source: str, models: Models) -> None:
        """Mark the cluster as an incomplete copy, and begin the transaction."""
        shards = self._log.shards
        self._shards = {model: model % shards for model in models.deleted}
        self._shards |= {
            model: 0 if name is None else shard_of(name, shards) for model, name in models.names.items()
        }
        last = max([models.shared, *self._shards])
        with translated():
            self._connection.execute("UPDATE cluster SET copying = %s", (source,))
            self._connection.execute("BEGIN")
            self._connection.execute("UPDATE cluster SET shared = %s", (models.shared,))
            if last:
                self._connection.execute("SELECT setval('model_number', %s)", (last,))
        names: Mapping[int, str | None] = models.names
        self.add("model", "model, shard, name", ((m, s, names.get(m)) for m, s in self._shards.items()))

    def add(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        """Add rows."""
        place = {"event": self._event, "named": self._name}.get(table)
        if place is not None:
            columns = f"shard, {columns}"
        query = f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)"
        with translated(), self._connection.cursor().copy(query) as copied:
            copied.set_types(_types(columns))
            for row in rows if place is None else map(place, rows):
                copied.write_row(row)

    def _event(self, row: Row) -> Row:
        """Return the row of an event with its shard, and its id in bytes: text of PostgreSQL has no NUL."""
        blobs = (
            each.encode() if isinstance(each, str) else each for each in row[5:9]
        )  # of a damaged row, too
        return (self._shards[row[1]], *row[:5], *blobs, *row[9:])

    def _name(self, row: Row) -> Row:
        model, seq, identifier, digest = row
        return (self._shards[model], model, seq, identifier.encode(), digest)

    def finish(self) -> None:
        """Commit the copy, and remove the mark."""
        with translated():
            self._log.hold(self._connection)
            self._connection.execute("UPDATE cluster SET copying = NULL")
            self._connection.execute(
                _RAISE_FORMAT,
                (FORMAT_OF_RUNS,),
            )
            self._connection.execute("COMMIT")
            self._connection.execute("ANALYZE")


class CheckpointTable(PostgresCheckpoints):
    """Checkpoints in the database, in the transaction of a copy.

    Parameters
    ----------
    connection : Connection
        Connection of the copy.
    log : PostgresLog
        The log.
    """

    def __init__(self, connection: Connection, log: PostgresLog) -> None:
        super().__init__(log)
        self._connection = connection

    def content(self, checkpoint: Checkpoint) -> bytes:
        """Return the content of a checkpoint as it is stored."""
        query = "SELECT state FROM checkpoint WHERE shard = %s AND model = %s AND name = %s"
        key = (self._log.shard(checkpoint.model), checkpoint.model, checkpoint.name)
        with translated():
            [(state,)] = self._connection.execute(query, key, binary=True).fetchall()
        return bytes(state)

    def put(self, checkpoint: Checkpoint, content: bytes) -> None:
        """Store a copy of a checkpoint of another store."""
        model, name, c = checkpoint.model, checkpoint.name, checkpoint
        row = "SELECT shard, model, %s, %s, %s, %s, %s, %s, %b FROM model WHERE model = %s"
        statement = f"INSERT INTO checkpoint {row}"
        values: tuple[Any, ...] = (name, c.branch, c.seq, c.step, c.head, c.time, content, model)
        with translated():
            self._connection.execute(statement, values)


def _types(columns: str) -> list[str]:
    return [_TYPES[column] for column in columns.split(", ")]
