"""Reads from the event log in PostgreSQL."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

from .interfaces import LONGEST_RUN, Header, Kind, Position, Record, RunRecord, Segment
from .postgres_connection import Blobs, Reconnecting
from .postgres_tables import SPECIAL
from .rows import COLUMNS, bounds, checksum_at, expand, id_digest, to_records

_Row: TypeAlias = tuple[Any, ...]

#: Rows, and about how many bytes, that one query reads.
PAGE, PAGE_BYTES = 1000, 2**22
#: The size of the rows of a page before a row.
BEFORE = "sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body)"
_SEGMENT = "model = %s AND branch = %s AND seq > %s AND seq < %s AND seq - count < %s"
_SELECT = f"SELECT {COLUMNS} FROM {{}}"  # noqa: S608
_READ = f"""
SELECT {COLUMNS} FROM (
    SELECT *, {BEFORE} AS before FROM {{}} WHERE {_SEGMENT} ORDER BY seq LIMIT {PAGE}
) AS page WHERE before < {PAGE_BYTES} ORDER BY seq
"""  # noqa: S608
_HEADERS = """
SELECT seq, branch, time, kind, id, digest, refused, step, CASE kind WHEN 'action' THEN body END FROM {}
"""
#: The same with the number of the events, to be expanded.
_RUN_HEADERS = f"{_HEADERS.rstrip().removesuffix('FROM {}')}, count FROM {{}}"
_NAMES = "SELECT seq, id, digest FROM {} WHERE model = %s AND seq > %s AND seq <= %s"
#: The events with one of some ids, alone and in runs.
_FOUND = f"""
{_HEADERS} WHERE model = %s AND id = ANY(%s)
UNION ALL
SELECT named.seq, branch, time, kind, named.id, named.digest, refused, step - event.seq + named.seq, NULL
FROM {{}} AS named JOIN {{}} AS event ON event.model = named.model AND event.seq = (
    SELECT min(seq) FROM {{}} AS holding WHERE holding.model = named.model AND holding.seq >= named.seq
) WHERE named.model = %s AND named.id = ANY(%s) ORDER BY 1
"""  # noqa: S608
#: The events after which a model had learned as many samples.
_AT_STEP = f"""
SELECT
    event.seq - step + %s, branch, time, kind, coalesce(event.id, named.id),
    coalesce(event.digest, named.digest), refused, %s, NULL
FROM {{}} AS event LEFT JOIN {{}} AS named ON named.model = event.model AND named.seq = event.seq - step + %s
WHERE event.model = %s AND step >= %s AND step < %s + {LONGEST_RUN} AND step - count < %s ORDER BY 1
"""  # noqa: S608
_COUNT = f"""
SELECT coalesce(sum(least(seq, %s) - greatest(seq - count, %s)), 0)::bigint FROM {{}}
WHERE {_SEGMENT}
"""  # noqa: S608


class PostgresReader:
    """Reads from the event log; the part of `EventLog` that writes nothing.

    Parameters
    ----------
    connection : Reconnecting
        Connection for all reads.

    Attributes
    ----------
    shard_of_model : dict of int to int
        Shards of models. Those that are not known are looked up.
    """

    def __init__(self, connection: Reconnecting) -> None:
        self._reader = connection
        self.shard_of_model: dict[int, int] = {}

    def changes(self, model: int, kind: Kind) -> list[Record]:
        """Return the events of one kind; samples and imports are not supported."""
        query = f"{_SELECT} WHERE model = %s AND {SPECIAL} AND kind = %s ORDER BY seq"
        return [*_events(self._rows(query, model, (model, kind)))]

    def imports(self, model: int) -> list[Header]:
        """Return the imports of a model, in order."""
        query = f"{_HEADERS} WHERE model = %s AND {SPECIAL} AND kind = 'import' ORDER BY seq"
        return [*map(_header, self._rows(query, model, (model,)))]

    def read(self, model: int, segments: Sequence[Segment]) -> Iterator[Record]:
        """Return the events of segments, in order."""
        return chain.from_iterable(each.records() for each in self.read_runs(model, segments))

    def read_runs(self, model: int, segments: Sequence[Segment]) -> Iterator[Record | RunRecord]:
        """Return the events of segments as they are stored, in order."""
        for segment in segments:
            rest = segment
            while page := self._rows(_READ, model, bounds(model, rest)):
                for row in page:
                    yield from to_records(_decoded(row), segment)
                rest = replace(rest, after=page[-1][0])
                if rest.after >= rest.upto:
                    break  # the segment has no further event: a query would read no row

    def headers(self, model: int, segments: Sequence[Segment], limit: int) -> list[Header]:
        """Return the first events of segments, without their bodies."""
        query = f"{_RUN_HEADERS} WHERE {_SEGMENT} ORDER BY seq LIMIT %s"
        found: list[Header] = []

        def names(after: int, upto: int) -> list[_Row]:
            return self._reader.query(_NAMES.format(self._table(model, "named")), (model, after, upto))

        for segment in segments:
            rows = self._rows(query, model, (*bounds(model, segment), limit - len(found)))
            found += expand(rows, segment, limit - len(found), names)
        return [*map(_named, found)]

    def count(self, model: int, segments: Sequence[Segment]) -> int:
        """Return the number of events that `read` would return."""
        return sum(
            self._rows(_COUNT, model, (each.upto, each.after, *bounds(model, each)))[0][0]
            for each in segments
        )

    def find(self, model: int, ids: Collection[str]) -> list[Header]:
        """Return the events with one of these ids."""
        event, named = self._table(model), self._table(model, "named")
        wanted = Blobs(map(str.encode, ids))
        rows = self._reader.query(_FOUND.format(event, named, event, event), (model, wanted, model, wanted))
        return [*map(_header, rows)]

    def at_step(self, model: int, step: int) -> list[Header]:
        """Return the events after which the model had learned `step` samples."""
        query = _AT_STEP.format(self._table(model), self._table(model, "named"))
        return [*map(_header, self._reader.query(query, (step, step, step, model, step, step, step)))]

    def checksum(self, model: int, seq: int) -> bytes | None:
        """Return the checksum of an event; None if the log does not have it."""
        query = f"{_SELECT} WHERE model = %s AND seq >= %s ORDER BY seq LIMIT 1"
        rows = self._rows(query, model, (model, seq))
        return checksum_at(_decoded(rows[0]) if rows else None, seq)

    def forgotten(self, model: int, ids: Collection[str]) -> set[str]:
        """Return the ids whose events were forgotten."""
        by_digest = {id_digest(model, name): name for name in ids}
        query = "SELECT id FROM forgotten WHERE model = %s AND id = ANY(%s)"
        return {by_digest[digest] for (digest,) in self._reader.query(query, (model, Blobs(by_digest)))}

    def first_kept(self, model: int) -> int:
        """Return an event number: samples before this event may have been pruned."""
        rows = self._reader.query("SELECT before FROM pruned WHERE model = %s", (model,))
        return rows[0][0] if rows else 0

    def positions(self, model: int) -> list[Position]:
        """Return the positions of a model in the partitions of topics."""
        query = "SELECT topic, partition, next FROM source WHERE model = %s ORDER BY topic, partition"
        rows = self._reader.query(query, (model,))
        return [Position(str(topic), partition, after) for topic, partition, after in rows]

    @property
    def latest_model(self) -> int:
        """Greatest number of a model of any shard, including deleted ones; 0 if there was none."""
        [(latest,)] = self._reader.query("SELECT coalesce(max(model), 0) FROM model")
        return int(latest)

    def had_models(self, shard: int) -> bool:
        """Return whether a shard has models, or deleted ones."""
        return bool(self._reader.query("SELECT FROM model WHERE shard = %s LIMIT 1", (shard,)))

    def names_of(self, shard: int) -> dict[int, str]:
        """Return the name of each model of a shard that exists and was created with one, by number."""
        query = "SELECT model, name FROM model WHERE shard = %s AND name IS NOT NULL ORDER BY model"
        return dict(self._reader.query(query, (shard,)))

    def models_of(self, shards: Iterable[int]) -> list[Record]:
        """Return the creation of each model of shards that exists, in order."""
        query = f"{_SELECT} WHERE {SPECIAL} AND kind = 'create' ORDER BY model"
        pages = [_events(self._reader.query(query.format(f"event_{shard}"))) for shard in shards]
        return [*heapq.merge(*pages, key=attrgetter("model"))]

    def _table(self, model: int, name: str = "event") -> str:
        """Return the table of the shard of a model: that of all shards, if the model is unknown."""
        if model not in self.shard_of_model:
            rows = self._reader.query("SELECT shard FROM model WHERE model = %s", (model,))
            if not rows:
                return name
            self.shard_of_model[model] = rows[0][0]
        return f"{name}_{self.shard_of_model[model]}"

    def _rows(self, query: str, model: int, parameters: Sequence[Any]) -> list[_Row]:
        """Return the rows of a query for the events of a model; ``{}`` is their table."""
        return self._reader.query(query.format(self._table(model)), parameters)


def _decoded(row: _Row) -> _Row:
    """Return a row with its id as text."""
    name = row[5]
    return row if name is None else (*row[:5], name.decode(), *row[6:])


def _events(rows: Iterable[_Row]) -> Iterator[Record]:
    """Return events that are no samples."""
    return (record for row in rows for each in to_records(_decoded(row)) for record in each.records())


def _header(row: _Row) -> Header:
    return _named(Header._make(row))


def _named(header: Header) -> Header:
    """Return a header with its id as text."""
    name: Any = header.id
    return header if name is None else header._replace(id=name.decode())
