"""Retention in the SQLite log: which old events of a model are beyond the limits.

The log measures each event once: a row of the table `measured` has the number and the size of the events in
an interval. A search for the limit reads these rows and the events of one interval, not the whole log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

Query: TypeAlias = Callable[..., list[tuple[Any, ...]]]
"""Returns the rows of a query with parameters."""

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
#: Size of an event: body, id (also in an index), and about what its other columns and indexes take.
_SIZE = "length(body) + 2 * ifnull(length(id), 0) + 160"
# The index of events begins with model and branch, so each branch is one search in it.
_EVENTS = f"""
WITH RECURSIVE branches(n) AS (
    SELECT min(branch) FROM event WHERE model = ?1
    UNION ALL
    SELECT (SELECT min(branch) FROM event WHERE model = ?1 AND branch > n) FROM branches WHERE n IS NOT NULL
)
SELECT {{}} FROM branches CROSS JOIN event
WHERE model = ?1 AND branch = n AND seq > ?2 AND seq <= ?3 AND {_PRUNABLE}
"""  # noqa: S608
#: Query for the numbers and the sizes of the bodies of prunable events; parameters: model, after, upto.
EVENTS = _EVENTS.format("seq, length(body)")
_TOTAL = _EVENTS.format(f"count(*), ifnull(sum({_SIZE}), 0)")
_EACH = _EVENTS.format(f"seq, {_SIZE}")


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
    for after, stop, more, bytes_ in _newest_first(query, model):
        if after >= upto:
            continue
        if stop <= upto and events + more <= newest and total + bytes_ <= size:
            events, total = events + more, total + bytes_
            continue
        for seq, one in sorted(query(_EACH, model, after, min(stop, upto)), reverse=True):
            events, total = events + 1, total + one
            if events > newest or total > size:
                return int(seq) + 1
    return 0


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
