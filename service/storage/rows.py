"""Rows of the event log: what all databases store of an event or a run, with a checksum over its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from ..errors import DamagedEventError
from .interfaces import LAST, LONGEST_RUN, Event, Header, Record, Run, RunRecord, Segment
from .runs import Packed, Piece, head_size, pieces

Stored: TypeAlias = tuple[Any, ...]
"""Columns of a row: seq, model, branch, kind, time, id, digest, body, checksum, refused, step, count."""
Query: TypeAlias = Callable[..., list[tuple[Any, ...]]]
"""Returns the rows of a query on the tables of the log; a question mark is a parameter."""

COLUMNS = "seq, model, branch, kind, time, id, digest, body, checksum, refused, step, count"
#: Value of ``refused`` in a row that `bnp-online repair` took out: its checksum is not checked.
DAMAGED = "damaged"
#: The row with an event, or of the first event after it; parameters: model, number of the event.
_AT = "SELECT {} FROM event WHERE model = ? AND seq >= ? ORDER BY seq LIMIT 1"


def to_row(seq: int, model: int, branch: int, time: float, event: Event | Run) -> Stored:
    """Return the row of a new event, or of a new run that ends with the event of a number."""
    if isinstance(event, Run):
        return _run_row((seq, model, branch, "learn", time, None, None), Packed.of(event), event.step)
    key = (seq, model, branch, event.kind, time, event.id, event.digest)
    return (*key, event.body, checksum_of(key, event.body), None, event.step, 1)


def is_new(event: Event | Run) -> bool:
    """Return whether an event needs the latest format of the log: servers before it do not know its kind."""
    return isinstance(event, Run) or event.kind == "shadow"


def _run_row(key: tuple[Any, ...], packed: Packed, step: int | None) -> Stored:
    return (*key, packed.body(), checksum_of(key, packed.head()), None, step, len(packed.ends))


def names_of(seq: int, run: Run) -> list[tuple[str, int, bytes]]:
    """Return id, number and digest of each event of a run that has an id; the last one has number `seq`."""
    first = seq - len(run.lines) + 1
    return [(identifier, first + i, digest) for i, (identifier, digest) in run.names.items()]


def to_records(row: Stored, segment: Segment | None = None) -> list[Record | RunRecord]:
    """Return what a row holds, or the part of it that is in a segment: an event, or a run.

    The events of a run that `bnp-online repair` took out are returned one by one, without their content.

    Raises
    ------
    DamagedEventError
        If the content of a returned event is damaged.
    """
    seq, model, branch, kind, when, identifier, digest, body, checksum, refused, step, count = row
    key = row[:7]
    if count == 1:
        intact = isinstance(body, bytes) and checksum == checksum_of(key, body)
        if not intact and refused != DAMAGED:
            raise DamagedEventError(model, seq)
        return [Record(seq, model, branch, when, refused, Event(kind, body, identifier, digest, step))]
    first = seq - count + 1
    begin, end = 0, count
    if segment is not None:
        begin, end = max(segment.after + 1 - first, 0), min(segment.upto, seq) + 1 - first
    if refused == DAMAGED:
        gone = Event("learn", b"")
        return [Record(first + i, model, branch, when, refused, gone) for i in range(begin, end)]
    packed = _packed(row)
    if end - begin < count:
        packed = packed.cut(begin, end)
    if (harmed := packed.damaged()) is not None:
        raise DamagedEventError(model, first + begin + harmed)
    run = packed.unpack(None if step is None else step - (count - end))
    return [RunRecord(first + end - 1, model, branch, when, run)]


def _packed(row: Stored) -> Packed:
    """Return the run in a row, of which single lines may be damaged."""
    seq, model, *_, body, checksum, _, _, count = row
    if isinstance(body, bytes) and checksum == checksum_of(row[:7], body[: head_size(count)]):
        packed = Packed.read(body, count)
        if packed is not None:
            return packed
    raise DamagedEventError(model, seq, seq - count + 1)


def checksum_at(row: Stored | None, seq: int) -> bytes | None:
    """Return the checksum of an event in a row; None if it is not there, or damaged.

    It is that of the event stored alone, so that dividing a run does not change it.
    """
    if row is None or not row[0] - row[-1] < seq <= row[0]:
        return None
    if row[-1] == 1:
        found: bytes = row[8]
        return found
    try:
        packed = _packed(row)
    except DamagedEventError:
        return None
    i = seq - row[0] + row[-1] - 1
    return checksum_of(_key(row, packed, i), packed.line(i)) if packed.is_intact(i) else None


def _key(row: Stored, packed: Packed, i: int) -> tuple[Any, ...]:
    """Return the first columns of a row with one event of a run."""
    seq, model, branch, kind, when, *_, count = row
    return (seq - count + 1 + i, model, branch, kind, when, *packed.identify(i))


def divided(row: Stored, some: Collection[Piece]) -> Iterator[Stored]:
    """Return the rows of the pieces of a run: a piece of one event is stored alone. Damage remains damage."""
    packed, first = _packed(row), row[0] - row[-1] + 1
    for begin, end, refused, step in some:
        if end - begin > 1:
            yield _run_row((first + end - 1, *row[1:7]), packed.cut(begin, end), step)
            continue
        line = packed.line(begin)
        if packed.is_intact(begin):
            key = _key(row, packed, begin)
            yield (*key, line, checksum_of(key, line), refused, step, 1)
        else:
            yield (first + begin, *row[1:7], line, b"", refused, step, 1)


def change_runs(
    query: Query,
    replace: Callable[[int, list[Stored]], object],
    model: int,
    *,
    gone: Collection[int] = (),
    refused: Mapping[int, str] | None = None,
    steps: Mapping[int, int] | None = None,
) -> list[int]:
    """Change the runs that hold some events, in a transaction; events that are stored alone are not changed.

    Parameters
    ----------
    query : callable
        Executes a statement in the transaction.
    replace : callable
        Replaces the row with a number by others.
    model : int
        Number of the model.
    gone, refused, steps
        As for `runs.pieces`.

    Returns
    -------
    list of int
        Numbers of the removed events.
    """
    refused, steps = refused or {}, steps or {}
    removed: list[int] = []
    last = 0
    for seq in sorted({*gone, *refused, *steps}):
        if seq <= last or not (found := query(_AT.format("seq, count, step, refused"), model, seq)):
            continue
        last, count, step, why = found[0]
        first = last - count + 1
        if count == 1 or seq < first:
            continue
        some = pieces(first, count, step, gone, refused, steps)
        removed += [each for each in range(first, last + 1) if each in gone]
        if why == DAMAGED:  # its lines cannot be told apart
            if removed and removed[-1] >= first:
                removed = [*(each for each in removed if each < first), *range(first, last + 1)]
                replace(last, [])
        elif [(each.begin, each.end) for each in some] == [(0, count)]:
            query("UPDATE event SET step = ? WHERE model = ? AND seq = ?", some[0].step, model, last)
        else:
            _divide(query, replace, model, last, some)
    _unname(query, model, removed)
    return removed


def _divide(
    query: Query, replace: Callable[[int, list[Stored]], object], model: int, last: int, some: list[Piece]
) -> None:
    """Replace a run by its pieces. If it cannot be divided because it is damaged, it is taken out whole."""
    [row] = query(_AT.format(COLUMNS), model, last)
    try:
        rows = [*divided(row, some)]
    except DamagedEventError:
        if DAMAGED not in {each.refused for each in some}:
            raise
        query("UPDATE event SET refused = ?, step = NULL WHERE model = ? AND seq = ?", DAMAGED, model, last)
        return
    replace(last, rows)
    _unname(query, model, [each[0] for each in rows if each[-1] == 1])


def _unname(query: Query, model: int, numbers: Collection[int]) -> None:
    """Remove events from the table of the names in runs."""
    for seq in numbers:
        query("DELETE FROM named WHERE model = ? AND seq = ?", model, seq)


def expand(rows: Iterable[tuple[Any, ...]], segment: Segment, limit: int, names: Query) -> list[Header]:
    """Return a header for each event of a segment, at most `limit`.

    Parameters
    ----------
    rows : iterable of tuple
        Headers of rows, each with the number of its events.
    segment : Segment
        The segment.
    limit : int
        Greatest number of headers.
    names : callable
        Returns number, id and digest of the events in runs after a number and up to another.
    """
    found: list[Header] = []
    for *columns, count in rows:
        header = Header(*columns)
        if count == 1:
            found.append(header)
            continue
        begin = max(header.seq - count, segment.after)
        end = min(header.seq, segment.upto, begin + limit - len(found))
        known = {seq: (identifier, digest) for seq, identifier, digest in names(begin, end)}
        for seq in range(begin + 1, end + 1):
            step = None if header.step is None else header.step - header.seq + seq
            identifier, digest = known.get(seq, (None, None))
            found.append(header._replace(seq=seq, id=identifier, digest=digest, step=step))
    return found[:limit]


def bounds(model: int, segment: Segment) -> tuple[int, ...]:
    """Return the parameters of a query for a segment, and runs of which a part is in it.

    They are the model, the branch, the number after which events count, a number that the number of a run
    is less than, and a number that the one before its first event is less than.
    """
    last = min(segment.upto, LAST - LONGEST_RUN)
    return model, segment.branch, segment.after, last + LONGEST_RUN, last


def checksum_of(key: tuple[Any, ...], body: bytes) -> bytes:
    """Return the checksum of a row, of a run over its head; `key` has its other columns that never change."""
    return hashlib.blake2b(repr(key).encode() + body, digest_size=16).digest()


def id_digest(model: int, identifier: str) -> bytes:
    """Return the digest that replaces the id of a forgotten event: the id may be personal data."""
    return hashlib.blake2b(f"{model} {identifier}".encode(), digest_size=16).digest()
