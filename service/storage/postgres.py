"""Event log in PostgreSQL, for the shards that one process owns.

One connection writes, one reads, and the session of a third owns the shards. The rows are those of the log in
SQLite, with the same checksums.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from ..errors import (
    LogWentBackError,
    NotOwnerError,
    OwnershipLostError,
    PositionMovedError,
    StorageFailedError,
)
from . import retention
from .interfaces import Advance, Event, Group, Record, Row, Run
from .postgres_announcements import News
from .postgres_commits import Commits, PositionProof, Proof
from .postgres_connection import (
    Array,
    Blobs,
    Connection,
    Floats,
    Integers,
    Reconnecting,
    Texts,
    connect,
    translated,
)
from .postgres_reader import BEFORE, PAGE, PAGE_BYTES, PostgresReader
from .postgres_shards import HELD, Ownership, fenced
from .postgres_tables import FORMAT_OF_RUNS, SPECIAL, install, shard_of
from .rows import COLUMNS, Query, Stored, change_runs, id_digest, is_new, names_of, to_row

_INSERT = f"""
WITH held AS MATERIALIZED ({HELD})
INSERT INTO event (shard, {COLUMNS})
SELECT * FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
WHERE (SELECT count(*) FROM held) = %s
"""  # noqa: S608
#: The same, with the ids of the events in runs.
_INSERT_NAMED = _INSERT.replace(
    ")\nINSERT",
    """), added AS (
    INSERT INTO named (shard, model, id, seq, digest) SELECT * FROM unnest(%s, %s, %s, %s, %s)
    WHERE (SELECT count(*) FROM held) = %s
)
INSERT""",
    1,
)
_NAME_TYPES: tuple[type[Array], ...] = (Integers, Integers, Blobs, Integers, Blobs)
#: Types of the columns, the shard first.
_TYPES: tuple[type[Array], ...] = (
    *(Integers, Integers, Integers, Integers, Texts, Floats),  # shard, seq, model, branch, kind, time
    *(Blobs, Blobs, Blobs, Blobs),  # id, digest, body, checksum
    *(Texts, Integers, Integers),  # refused, step, count
)
#: Number of the last event of each model of a shard; parameter: shard.
HEADS = f"""
SELECT model, greatest(
    model,
    (SELECT max(seq) FROM event_{{0}} AS event WHERE event.model = model.model),
    (SELECT before - 1 FROM pruned WHERE pruned.model = model.model)
) FROM model WHERE shard = {{0}} AND EXISTS (
    SELECT FROM event_{{0}} AS event WHERE event.model = model.model AND kind = 'create' AND {SPECIAL}
)
"""  # noqa: S608
#: Time of the last event of a shard: the times of a model never fall.
_LATEST = """
SELECT max((
    SELECT time FROM event_{0} AS event WHERE event.model = model.model ORDER BY seq DESC LIMIT 1
)) FROM model WHERE shard = {0}
"""
#: Deleted models of a shard that have other events left.
_DROPPED = f"""
SELECT model FROM event_{{0}} AS event WHERE kind = 'delete' AND {SPECIAL} AND EXISTS (
    SELECT FROM event_{{0}} AS other WHERE other.model = event.model AND other.kind <> 'delete'
)
"""  # noqa: S608
_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(('event_' || shard)::regclass)), 0)::bigint FROM shard
WHERE shard = ANY(%s)
"""
_TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
_MARK = "INSERT INTO unerased (shard) VALUES (%s)"
#: Deletes the first rows of a condition, limited in number and bytes; returns the number of their events.
_DELETE = f"""
WITH gone AS (
    DELETE FROM event_{{0}} WHERE model = %s AND seq IN (
        SELECT seq FROM (
            SELECT seq, {BEFORE} AS before FROM event_{{0}}
            WHERE model = %s AND {{1}} ORDER BY seq LIMIT {PAGE}
        ) AS page WHERE before < {PAGE_BYTES}
    ) RETURNING model, seq, count
), unnamed AS (
    DELETE FROM named_{{0}} AS named USING gone
    WHERE count > 1 AND named.model = gone.model AND named.seq > gone.seq - count AND named.seq <= gone.seq
)
SELECT coalesce(sum(count), 0)::bigint FROM gone
"""  # noqa: S608
#: Tables of a shard in the statements for all databases.
_TABLE = re.compile(r"\b(FROM|UPDATE) (event|named)\b")
_PRUNABLE = "kind IN ('learn', 'label', 'predict', 'import') AND seq < %s"
#: The number of removed rows that another session may still read, in a message of VACUUM.
_UNREMOVED = re.compile(r"(\d+) (?:are dead but not yet removable|dead row versions cannot be removed yet)")


class PostgresLog(PostgresReader):
    """Event log of shards in PostgreSQL; implements `EventLog`.

    It reads the models of all shards. Methods that write require that this process owns the shard. Without
    it, `correct` does nothing.

    Parameters
    ----------
    url : str
        ``postgresql://…``, also with several hosts.
    shards : collection of int, optional
        Shards to own; by default all. More may be claimed later: a process that follows owns none.
    of : int, optional
        Number of shards of a new cluster.
    relaxed : bool
        Whether a commit may return before it is on the disk of the server.
    owner, address : str
        Name of this process, and the URL at which it serves, for other processes.
    wait : float
        Seconds for which to wait for the shards, which a process that has just ended may still have.
    patience : float
        Seconds for which the server may not answer, for example while it restarts.
    lease : float
        Seconds after which another process may take the shards from this one if it does not answer.
    lose : callable, optional
        Called once, from any thread, with the error by which this process stops to own its shards. It must
        then end: nothing that it answers later is sure to be true.

    Attributes
    ----------
    shards : int
        Number of shards of the cluster.
    news : News
        Events that this process committed, for its announcements.
    timeline : str
        Timeline of the server from which the log is read. It differs after a replica was promoted, which may
        lack events.

    Raises
    ------
    NotOwnerError
        If another process owns one of the shards.
    StorageFailedError
        If the server cannot be reached, or its tables have another format.
    """

    def __init__(
        self,
        url: str,
        shards: Collection[int] | None = None,
        *,
        of: int | None = None,
        relaxed: bool = False,
        owner: str = "",
        address: str = "",
        wait: float = 15.0,
        patience: float = 30.0,
        lease: float = 10.0,
        lose: Callable[[OwnershipLostError], None] | None = None,
    ) -> None:
        open_ = partial(connect, url)
        super().__init__(Reconnecting(self._open_reader, patience))
        self.timeline = ""
        self._open_any = open_
        self._open = partial(open_, "bnp-online log", relaxed=relaxed)
        self._relaxed = relaxed
        self._heads: dict[int, int] = {}
        self.news = News()
        self._length: int | None = None
        self._unerased: set[int] = set()
        self._erasing = threading.Lock()
        self._origin = time.time() - time.monotonic()
        with translated(), closing(open_("bnp-online")) as connection:
            self.shards = install(connection, of)
            [(self._shared, found)] = connection.execute("SELECT shared, format FROM cluster").fetchall()
            self._has_runs = found == FORMAT_OF_RUNS
        self._commits = Commits(self._open_writer, patience, lose or _ignore)
        self._ownership = Ownership(
            partial(open_, "bnp-online lease"),
            owner=owner or f"{socket.gethostname()}, process {os.getpid()}",
            address=address,
            lease=lease,
            patience=patience,
            lose=self._commits.lose,
            renewed=self._commits.settle,
        )
        try:
            for shard in range(self.shards) if shards is None else sorted(shards):
                self.claim(shard, wait)
        except BaseException:
            self.close()
            raise

    def reserve(self, name: str, wait: float) -> None:
        """Take the name of a node for this process; see `Ownership.reserve`."""
        self._ownership.reserve(name, wait)

    def lose(self, error: OwnershipLostError) -> None:
        """Refuse all later commits: this process stops to own its shards."""
        self._commits.lose(error)

    def claim(self, shard: int, wait: float = 0.0, *, force: bool = False) -> None:
        """Become the owner of a shard; see `Ownership.claim`.

        If it raises an error after the claim, so that this process owns a shard that it cannot write yet,
        another call completes it.
        """
        if shard not in self._ownership.epochs:
            self._ownership.claim(shard, wait, force=force)
        [(latest,)] = self._reader.query(_LATEST.format(shard))
        self._origin = max(self._origin, (latest or 0.0) - time.monotonic())
        heads = {model: max(head, self._shared) for model, head in self.heads_of(shard).items()}
        self._heads.update(heads)
        self.shard_of_model.update(dict.fromkeys(heads, shard))
        if self._reader.query("SELECT FROM unerased WHERE shard = %s LIMIT 1", (shard,)):
            self._unerased.add(shard)
        self._length = None

    def release(self, shard: int) -> None:
        """Give a shard up. Its models must have ended."""
        with self._commits.connection.lock:
            self._ownership.release(shard)
            for model in [model for model in self._heads if self.shard_of_model[model] == shard]:
                del self._heads[model]
        self._unerased.discard(shard)
        self._length = None

    def shard_of(self, name: str) -> int:
        """Return the shard of the model with a name."""
        return shard_of(name, self.shards)

    @property
    def owned(self) -> list[int]:
        """Shards that this process owns."""
        return sorted(self._ownership.epochs)

    @property
    def epochs(self) -> dict[int, int]:
        """Epoch of each shard that this process owns."""
        return {**self._ownership.epochs}

    @property
    def confirmed(self) -> float:
        """Time of `time.monotonic` at which the lease was last extended; of the start, before a claim."""
        return self._ownership.confirmed

    def heads_of(self, shard: int) -> dict[int, int]:
        """Return the number of the last event of each model of a shard that exists, of any owner."""
        return dict(self._reader.query(HEADS.format(shard)))

    def _open_reader(self) -> Connection:
        connection = self._open_any("bnp-online reads")
        [(self.timeline,)] = connection.execute(_TIMELINE)
        return connection

    def _open_writer(self) -> Connection:
        """Open the connection for commits. The server may be another one than before: compare its log.

        Raises
        ------
        LogWentBackError
            If the log lacks committed events.
        """
        connection = self._open()
        expected = {**self._heads}
        for shard in self.owned:
            for model, head in connection.execute(HEADS.format(shard)):
                if max(head, self._shared) < expected.get(model, 0):
                    connection.close()
                    raise LogWentBackError(
                        f"the event log ends at event {head} of model {model}, and this process committed "
                        f"event {expected[model]}: events that were answered as learned are lost. Start the "
                        "server again: it continues from the log"
                    )
        return connection

    def models(self) -> list[Record]:
        """Return the creation of each model of the shards that exists, in order."""
        return self.models_of(self.owned)

    def head(self, model: int) -> int:
        """Return the number of the last event of a model that was committed."""
        return self._heads[model] if model in self._heads else self.heads_of(self.shard(model))[model]

    def _last(self, model: int) -> int:
        """Return the number of the last event of a model of the shards."""
        if model not in self._heads:
            self._ownership.fence([self.shard(model)])
        return self._heads[model]

    @property
    def length(self) -> int:
        """Number of events, of all models of the shards."""
        if self._length is None:
            query = "SELECT coalesce(sum(count), 0)::bigint FROM event WHERE shard = ANY(%s)"
            [(self._length,)] = self._reader.query(query, (Integers(self.owned),))
        return self._length

    def _grow(self, events: int) -> None:
        if self._length is not None:
            self._length += events

    def now(self) -> float:
        """Return the time in seconds since 1970, from a clock that never goes back."""
        return self._origin + time.monotonic()

    def create(self, event: Event, name: str | None = None) -> int:
        """Log the creation of a model in the shard of its name; without a name, in the first shard."""
        if name is None and not self.owned:
            raise NotOwnerError("this process owns no shard")
        shard = self.owned[0] if name is None else shard_of(name, self.shards)
        with self._commits.connection.lock:
            [(model,)] = self._commits.connection.query("SELECT nextval('model_number')")
            rows = self._rows_of([(model, model, 0, event)], shard)

            def write(connection: Connection) -> int:
                self._ownership.hold(connection, [shard])
                connection.execute("INSERT INTO model VALUES (%s, %s, %s)", (model, shard, name))
                return self._insert(connection, rows)

            self._commit(write, rows)
            self.shard_of_model[model] = shard
        return int(model)

    def append(self, groups: Sequence[Group]) -> list[int]:
        """Append groups of events: all or none."""
        with self._commits.connection.lock:
            heads: dict[int, int] = {}
            events: list[Row] = []
            last: list[int] = []
            times: list[float | None] = []
            for model, branch, some, _, when in groups:
                seq = heads.get(model) or self._last(model)
                for event in some:
                    seq += event.samples
                    events.append((seq, model, branch, event))
                    times.append(when)
                heads[model] = seq
                last.append(seq)
            rows = self._rows_of(events, times=times)
            runs = [(seq, model, event) for seq, model, _, event in events if isinstance(event, Run)]
            names = [
                (self.shard_of_model[model], model, *name)
                for seq, model, run in runs
                for name in names_of(seq, run)
            ]
            first_run = not self._has_runs and any(is_new(event) for _, _, _, event in events)
            if first_run or any(group.advances for group in groups):
                self._append_more(groups, rows, names, first_run=first_run)
                self._has_runs = self._has_runs or first_run
            else:
                self._commit(partial(self._insert, rows=rows, names=names), rows, one_statement=True)
        return last

    def _append_more(
        self,
        groups: Sequence[Group],
        rows: list[tuple[Any, ...]],
        names: list[tuple[Any, ...]],
        *,
        first_run: bool,
    ) -> None:
        """Add the rows of groups, change their positions, and the format with the first run."""
        shards = {self.shard(group.model) for group in groups}

        def write(connection: Connection) -> int:
            self._ownership.hold(connection, shards)
            # The rows first: if an earlier attempt has committed meanwhile, their numbers tell it.
            added = self._insert(connection, rows, names) if rows else 0
            if first_run:
                connection.execute("UPDATE cluster SET format = %s WHERE format < %s", (FORMAT_OF_RUNS,) * 2)
            moved = [
                i
                for i, group in enumerate(groups)
                if not all(_compare_and_set(connection, group.model, each) for each in group.advances)
            ]
            if moved:
                raise PositionMovedError(moved)
            return added

        if rows:
            self._commit(write, rows)
        else:
            model, advance = groups[-1].model, groups[-1].advances[-1]
            proof = PositionProof(model, advance.topic, advance.partition, advance.next)
            self._commits.run(write, proof)

    def _rows_of(
        self,
        events: Sequence[Row],
        shard: int | None = None,
        times: Iterable[float | None] = itertools.repeat(None),
    ) -> list[tuple[Any, ...]]:
        """Return the rows of new events, each after its shard; a time of None stands for now."""
        now = self.now()
        return [
            (
                self.shard_of_model[model] if shard is None else shard,
                *to_row(seq, model, branch, now if when is None else when, event),
            )
            for (seq, model, branch, event), when in zip(events, times, strict=False)
        ]

    def _insert(
        self, connection: Connection, rows: list[tuple[Any, ...]], names: Sequence[tuple[Any, ...]] = ()
    ) -> int:
        """Add rows, and ids in runs, in one statement, if this process owns their shards.

        Returns
        -------
        int
            Number of the events.
        """
        shards = {row[0] for row in rows}
        named: list[Any] = [*_columns(_NAME_TYPES, names), len(shards)] if names else []
        parameters = (*self._ownership.fence(shards), *named, *_columns(_TYPES, rows), len(shards))
        added = connection.execute(_INSERT_NAMED if names else _INSERT, parameters).rowcount
        if added != len(rows):
            raise fenced(shards)
        return sum(row[-1] for row in rows)

    def _commit(
        self, write: Callable[[Connection], int], rows: list[tuple[Any, ...]], *, one_statement: bool = False
    ) -> None:
        """Commit the writes of a function, which returns the change of the number of events and adds rows."""
        shard, seq, model, *_, checksum, _, _, _ = rows[-1]
        try:
            change = self._commits.run(write, Proof(shard, model, seq, checksum), one_statement=one_statement)
        except StorageFailedError:
            self._length = None
            raise
        self._grow(sum(row[-1] for row in rows) if one_statement else change)
        heads = {row[2]: row[1] for row in rows}
        self._heads.update(heads)
        self.news.add(heads)

    def _change(self, shards: Collection[int], write: Callable[[Connection], int]) -> int:
        """Commit writes that may be repeated, if this process owns their shards."""

        def held(connection: Connection) -> int:
            self._ownership.hold(connection, shards)
            return write(connection)

        return self._commits.run(held)

    def correct(self, model: int, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Record refusals and steps that differ from the expected ones.

        A process that does not own the model records nothing: the owner does.
        """
        shard = self.shard(model)
        if shard not in self._ownership.epochs:
            return
        table = f"event_{shard}"

        def write(connection: Connection) -> int:
            self._change_runs(connection, shard, model, refused=refused, steps=steps)
            for values, column, kind in ((refused, "refused", Texts), (steps, "step", Integers)):
                if values:
                    more = ", step = NULL" if column == "refused" else ""
                    connection.execute(
                        f"UPDATE {table} AS event SET {column} = new.value{more} FROM unnest(%s, %s) "  # noqa: S608
                        "AS new (seq, value) WHERE event.model = %s AND event.seq = new.seq AND count = 1",
                        (Integers(values), kind(values.values()), model),
                    )
            return 0

        self._change([shard], write)

    def _change_runs(self, connection: Connection, shard: int, model: int, **changes: Any) -> int:
        """Change the runs with some events; return the number of removed events."""
        query = _query_of(connection, shard)

        def replace(seq: int, rows: list[Stored]) -> None:
            query("DELETE FROM event WHERE model = ? AND seq = ?", model, seq)
            if rows:
                self._insert(connection, [(shard, *row) for row in rows])

        return len(change_runs(query, replace, model, **changes))

    def flush(self) -> None:
        """Return once all committed events are on the disk."""

        def write(connection: Connection) -> int:
            connection.execute("SET LOCAL synchronous_commit = on")
            return 0

        if self._relaxed:
            self._change(self.owned[:1], write)

    def forget(self, model: int, branch: int, event: Event, numbers: Collection[int]) -> int:
        """Remove events, and log their removal."""
        shard = self.shard(model)
        table = f"event_{shard}"
        with self._commits.connection.lock:
            seq = self._last(model) + 1
            rows = self._rows_of([(seq, model, branch, event)])

            def write(connection: Connection) -> int:
                named = f"SELECT id FROM named_{shard} WHERE model = %s AND seq = ANY(%s)"  # noqa: S608
                names = connection.execute(named, (model, Integers(numbers)), binary=True).fetchall()
                removed = self._change_runs(connection, shard, model, gone={*numbers})
                query = f"DELETE FROM {table} WHERE model = %s AND seq = ANY(%s) AND count = 1 RETURNING id"  # noqa: S608
                gone = connection.execute(query, (model, Integers(numbers)), binary=True).fetchall()
                ids = Blobs(
                    id_digest(model, name.decode()) for (name,) in [*gone, *names] if name is not None
                )
                connection.execute(
                    "INSERT INTO forgotten SELECT %s, unnest(%s) ON CONFLICT DO NOTHING", (model, ids)
                )
                # They are measured again.
                first = min(numbers, default=0)
                connection.execute("DELETE FROM measured WHERE model = %s AND upto >= %s", (model, first))
                connection.execute(_MARK, (shard,))
                return self._insert(connection, rows) - len(gone) - removed

            self._commit(write, rows)
            self._unerased.add(shard)
        return seq

    def prune(self, model: int, before: int, newest: int, size: int, since: float) -> int:
        """Remove the old samples and imports of a model before event `before`."""
        shard = self.shard(model)
        before = min(before, self._last(model) + 1)
        if since <= 0.0 and before - model <= newest and self.size() <= size:
            return 0  # no limit can be exceeded: the events need no measurement

        def query(text: str, *parameters: Any) -> list[tuple[Any, ...]]:
            return self._reader.query(_of_shard(text, shard), parameters)

        kept, measured = retention.measure(query, model, before - 1)
        if measured or query("SELECT 1 FROM measured WHERE model = ? AND upto > ?", model, kept):
            more = "DELETE FROM measured WHERE model = %s AND upto > %s"
            self._change([shard], partial(_measured, model, measured, more, kept))
        first = retention.first_retained(query, model, before - 1, newest, size)
        recent = retention.first_since(query, model, self._heads[model], since)
        limit = min(before, max(first, recent, self.first_kept(model)))
        across = retention.across(query, model, limit)
        if not across and not query(f"{retention.events('seq')} LIMIT 1", model, 0, limit - 1):
            return 0

        def write(connection: Connection) -> int:
            if cut := self._change_runs(connection, shard, model, gone=across):
                connection.execute(_MARK, (shard,))
            rest = retention.remainder(_query_of(connection, shard), model, limit)
            some = [] if rest is None else [rest]
            connection.execute(
                "INSERT INTO pruned VALUES (%s, %s) ON CONFLICT (model) DO UPDATE "
                "SET before = greatest(pruned.before, excluded.before)",
                (model, limit),
            )
            _measured(model, some, "DELETE FROM measured WHERE model = %s AND upto < %s", limit, connection)
            return cut

        if cut := self._change([shard], write):
            self._grow(-cut)
            self._unerased.add(shard)
        return cut + self._remove(shard, model, _PRUNABLE, limit)

    def _remove(self, shard: int, model: int, condition: str, *parameters: Any, mark: bool = True) -> int:
        """Delete events of a model in slices, so that other threads can write in between."""
        query = _DELETE.format(shard, condition)

        def write(connection: Connection) -> int:
            [(count,)] = connection.execute(query, (model, model, *parameters)).fetchall()
            if count and mark:
                connection.execute(_MARK, (shard,))
            return int(count)

        removed = 0
        while count := self._change([shard], write):
            removed += count
            self._grow(-count)
            if mark:
                self._unerased.add(shard)
        return removed

    def drop(self, model: int) -> None:
        """Remove a model, except the record that it existed; `erase` removes its events and the rest."""
        shard = self.shard(model)
        table = f"event_{shard}"
        with self._commits.connection.lock:
            rows = self._rows_of([(self._last(model) + 1, model, 0, Event("delete", b"{}"))])

            def write(connection: Connection) -> int:
                query = f"DELETE FROM {table} WHERE model = %s AND seq = %s"  # noqa: S608
                gone = connection.execute(query, (model, model)).rowcount
                connection.execute("UPDATE model SET name = NULL WHERE model = %s", (model,))
                connection.execute(_MARK, (shard,))
                return self._insert(connection, rows) - gone

            self._commit(write, rows)
            self._unerased.add(shard)

    @property
    def unerased(self) -> bool:
        """Whether removed content may still be in the tables."""
        return bool(self._unerased)

    def erase(self) -> None:
        """Remove what is left of deleted models, and vacuum the tables of the shards with removed content.

        Raises
        ------
        StorageFailedError
            If another session may still read removed rows.
        """
        with self._erasing:
            for shard in [*self._unerased]:
                [(last,)] = self._reader.query("SELECT max(removal) FROM unerased WHERE shard = %s", (shard,))
                self._finish_drops(shard)
                self._vacuum(shard)
                self._change([shard], partial(_unmark, shard, last))
                if not self._reader.query("SELECT FROM unerased WHERE shard = %s LIMIT 1", (shard,)):
                    self._unerased.discard(shard)

    def _finish_drops(self, shard: int) -> None:
        """Remove what is left of deleted models; `drop` marked it."""
        for (model,) in self._reader.query(_DROPPED.format(shard)):
            self._change([shard], partial(_forget_model, model))
            self._remove(shard, model, "kind <> 'delete'", mark=False)

    def _vacuum(self, shard: int) -> None:
        """Remove deleted rows from the tables of a shard and from their indexes."""
        unremoved = 0

        def read(notice: Any) -> None:
            nonlocal unremoved
            found = _UNREMOVED.search(f"{notice.message_primary} {notice.message_detail}")
            unremoved += int(found[1]) if found else 0

        with translated(), closing(self._open()) as connection:
            connection.add_notice_handler(read)
            for table in (f"event_{shard}", f"named_{shard}", f"checkpoint_{shard}"):
                connection.execute(f"VACUUM (VERBOSE, INDEX_CLEANUP ON) {table}")
        if unremoved:
            raise StorageFailedError(
                f"a transaction of another session, or a replica, still reads {unremoved} removed rows of "
                f"shard {shard}: they are removed after it has ended"
            )

    def probe(self) -> None:
        """Write a placeholder row, to test that the log can be written."""
        shards, now = self.owned[:1], self.now()

        def write(connection: Connection) -> int:
            connection.execute("UPDATE probe SET time = %s WHERE shard = ANY(%s)", (now, Integers(shards)))
            return 0

        self._change(shards, write)

    def size(self) -> int:
        """Return the size of the tables and indexes of the shards, in bytes."""
        [(size,)] = self._reader.query(_SIZE, (Integers(self.owned),))
        return int(size)

    def shard(self, model: int) -> int:
        """Return the shard of a model, also of a deleted one.

        Raises
        ------
        NotOwnerError
            If the log has no such model.
        """
        self._table(model)
        if model not in self.shard_of_model:
            raise NotOwnerError(f"the log has no model {model}")
        return self.shard_of_model[model]

    def query(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query that changes nothing, for other tables of the shards."""
        return self._reader.query(query, parameters)

    def change(self, model: int, write: Callable[[Connection], int]) -> None:
        """Commit writes to other tables for a model, if this process owns it; they may be repeated."""
        self._change([self.shard(model)], write)

    def hold(self, connection: Connection) -> None:
        """Require in a transaction that this process still owns its shards, until the transaction ends."""
        self._ownership.hold(connection, self.owned)

    def owns(self, model: int) -> bool:
        """Return whether this process owns the shard of a model."""
        self._table(model)
        return self.shard_of_model.get(model) in self._ownership.epochs

    def require(self, model: int) -> None:
        """Raise `NotOwnerError` unless this process owns the shard of a model."""
        self.change(model, lambda _: 0)

    def close(self) -> None:
        """Close the connections, which gives up the shards."""
        self._ownership.close()
        for connection in (self._reader, self._commits.connection):
            with connection.lock:
                connection.close()


def _columns(kinds: Sequence[type[Array]], rows: Sequence[tuple[Any, ...]]) -> list[Array]:
    """Return the columns of rows as parameters."""
    return [kind(column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)]


def _of_shard(query: str, shard: int) -> str:
    """Return a statement for all databases as one for the tables of a shard."""
    return _TABLE.sub(rf"\1 \2_{shard} AS \2", query.replace("?", "%s"))


def _query_of(connection: Connection, shard: int) -> Query:
    """Return a function that executes statements for all databases on the tables of a shard."""

    def query(text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = connection.execute(_of_shard(text, shard), parameters, binary=True)
        return cursor.fetchall() if cursor.description else []

    return query


def _compare_and_set(connection: Connection, model: int, advance: Advance) -> bool:
    """Change a position, unless another one is stored than expected; return whether it was changed."""
    topic, partition, before, after = advance
    if before is None:
        statement = "INSERT INTO source VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
        return connection.execute(statement, (model, topic, partition, after)).rowcount == 1
    statement = "UPDATE source SET next = %s WHERE model = %s AND topic = %s AND partition = %s AND next = %s"
    return connection.execute(statement, (after, model, topic, partition, before)).rowcount == 1


def _ignore(error: OwnershipLostError) -> None:
    """Do nothing: each later commit raises the error."""


def _measured(
    model: int, intervals: Iterable[retention.Interval], removal: str, limit: int, connection: Connection
) -> int:
    """Replace measured intervals."""
    connection.execute(removal, (model, limit))
    for each in intervals:
        connection.execute(
            "INSERT INTO measured VALUES (%s, %s, %s, %s) ON CONFLICT (model, upto) "
            "DO UPDATE SET events = excluded.events, bytes = excluded.bytes",
            (model, each.upto, each.events, each.bytes),
        )
    return 0


def _unmark(shard: int, last: int, connection: Connection) -> int:
    connection.execute("DELETE FROM unerased WHERE shard = %s AND removal <= %s", (shard, last))
    return 0


def _forget_model(model: int, connection: Connection) -> int:
    for table in ("forgotten", "pruned", "measured", "source"):
        connection.execute(f"DELETE FROM {table} WHERE model = %s", (model,))  # noqa: S608
    return 0
