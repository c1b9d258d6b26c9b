"""Retention: which old events of a model are beyond the limits.

The log measures each event once: a row of the table `measured` has the number and the size of the events in
an interval. A search for the limit reads these rows and the events of one interval, not the whole log. A run
is in the interval of its last event. The limit may be inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .rows import Query
from .runs import head_size, shares

TABLE = """
CREATE TABLE IF NOT EXISTS measured (
    model INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    events INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (model, upto)
) WITHOUT ROWID;
"""
# The events that pruning removes. Recovery needs the others, or they are few.
_PRUNABLE = "kind IN ('learn', 'label', 'predict', 'import')"

#: Largest number of sequence numbers in an interval, and number of events below which the last one grows.
_LONGEST, _SMALL = 65_536, 1000
#: About what the other columns of a row and its indexes take.
_ROW = 160
#: Size of an id of a run in the table of ids, with its index.
_NAME = "2 * length(id) + 60"
_NAMES = f"SELECT seq, {_NAME} FROM named WHERE model = ? AND seq > ? AND seq <= ?"  # noqa: S608
#: Size of a row: body, id (also in an index) or ids of the run, and the rest.
_SIZE = f"""length(body) + {_ROW} + CASE WHEN count = 1 THEN 2 * coalesce(length(id), 0) ELSE coalesce((
    SELECT sum({_NAME}) FROM named
    WHERE named.model = event.model AND named.seq > event.seq - event.count AND named.seq <= event.seq
), 0) END"""  # noqa: S608
_EVENTS = f"SELECT {{}} FROM event WHERE model = ? AND seq > ? AND seq <= ? AND {_PRUNABLE}"  # noqa: S608
_TOTAL = _EVENTS.format(f"CAST(coalesce(sum(count), 0) AS bigint), CAST(coalesce(sum({_SIZE}), 0) AS bigint)")
#: The first row after an event.
_NEXT = "SELECT seq, count FROM event WHERE model = ? AND seq > ? ORDER BY seq LIMIT 1"
_HEAD = "SELECT substr(body, 1, CAST(? AS integer)) FROM event WHERE model = ? AND seq = ?"
_EACH = _EVENTS.format(f"seq, count, {_SIZE}")


def events(columns: str) -> str:
    """Return the query for columns of prunable events; parameters: model, after, upto."""
    return _EVENTS.format(columns)


class Interval(NamedTuple):
    """Number and size of the prunable events with ``after < seq <= upto``."""

    after: int
    upto: int
    events: int
    bytes: int


def measure(query: Query, model: int, upto: int) -> tuple[int, list[Interval]]:
    """Measure the events that are not measured yet, up to event `upto`.

    Returns
    -------
    int
        The new intervals replace the ones after this number.
    list of Interval
        The new intervals.
    """
    last = query("SELECT upto, events FROM measured WHERE model = ? ORDER BY upto DESC LIMIT 2", model)
    after = last[0][0] if last else 0
    if last and last[0][1] < _SMALL and after < upto:
        before = last[1][0] if len(last) > 1 else 0
        after = before if upto - before <= _LONGEST else after
    kept, new = after, []
    while after < upto:
        stop = min(after + _LONGEST, upto)
        interval = Interval(after, stop, *_total(query, model, after, stop))
        if interval.events or stop == upto:
            new.append(interval)
        after = stop
    return kept, new


def first_retained(query: Query, model: int, upto: int, newest: int, size: int) -> int:
    """Return the number of the first of the newest events up to `upto` that the limits retain.

    Parameters
    ----------
    query, model, upto
        As for `measure`, which has measured the events.
    newest, size : int
        Limits of the number and of the bytes of the events.
    """
    events = total = 0
    for seq, one in _begun(query, model, upto):
        events, total = events + 1, total + one
        if events > newest or total > size:
            return seq + 1
    for after, stop, more, bytes_ in _newest_first(query, model):
        if after >= upto:
            continue
        if stop <= upto and events + more <= newest and total + bytes_ <= size:
            events, total = events + more, total + bytes_
            continue
        for last, count, whole in sorted(query(_EACH, model, after, min(stop, upto)), reverse=True):
            if events + count <= newest and total + whole <= size:
                events, total = events + count, total + whole
                continue
            for seq, one in [(last, whole)] if count == 1 else _each(query, model, last, count):
                events, total = events + 1, total + one
                if events > newest or total > size:
                    return int(seq) + 1
    return 0


def _begun(query: Query, model: int, upto: int) -> list[tuple[int, int]]:
    """Return number and size of the events up to `upto` of a run that continues after it, newest first."""
    found = query(_NEXT, model, upto)
    if not found or found[0][0] - found[0][1] >= upto:
        return []
    return [each for each in _each(query, model, *found[0]) if each[0] <= upto]


def _each(query: Query, model: int, last: int, count: int) -> list[tuple[int, int]]:
    """Return number and size of each event of a run, newest first; the last has the rest of the row too."""
    [(head,)] = query(_HEAD, head_size(count), model, last)
    names: dict[int, int] = dict(query(_NAMES, model, last - count, last))
    first = last - count + 1
    found = [(seq, one + names.get(seq, 0)) for seq, one in enumerate(shares(head, count), first)]
    found[-1] = (last, found[-1][1] + head_size(0) + _ROW)
    return found[::-1]


def across(query: Query, model: int, limit: int) -> range:
    """Return the numbers before `limit` of a run that has event `limit` too; none if there is no such run."""
    found = query(_NEXT, model, limit - 1)
    return range(found[0][0] - found[0][1] + 1, limit) if found else range(0)


def first_since(query: Query, model: int, head: int, when: float) -> int:
    """Return the number of the first event of a model from a time on; `head` is that of its last event."""
    latest = "SELECT seq, time FROM event WHERE model = ? AND seq >= ? ORDER BY seq LIMIT 1"
    low, high = model, head + 1
    while low < high:
        middle = (low + high) // 2
        rows = query(latest, model, middle)
        if not rows or rows[0][1] >= when:
            high = middle
        else:
            low = rows[0][0] + 1
    return low


def remainder(query: Query, model: int, limit: int) -> Interval | None:
    """Return what pruning before event `limit` leaves of the interval with that event."""
    rows = query("SELECT min(upto) FROM measured WHERE model = ? AND upto >= ?", model, limit)
    upto = rows[0][0]
    return None if upto is None else Interval(limit - 1, upto, *_total(query, model, limit - 1, upto))


def _newest_first(query: Query, model: int) -> Iterator[Interval]:
    rows = query("SELECT upto, events, bytes FROM measured WHERE model = ? ORDER BY upto DESC", model)
    starts = [*(row[0] for row in rows[1:]), 0]
    return (Interval(after, *row) for after, row in zip(starts, rows, strict=False))


def _total(query: Query, model: int, after: int, upto: int) -> tuple[int, int]:
    [(events, total)] = query(_TOTAL, model, after, upto)
    return events, total
