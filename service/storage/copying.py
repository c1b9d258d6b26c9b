"""Copy of a store into an empty one: rows as they are, so that all numbers, times and checksums stay.

The copy is not atomic: until it is complete, the target has a mark, by which servers refuse to open it.
Another copy into it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..telemetry.progress import progress
from .interfaces import Checkpoint
from .rows import COLUMNS, to_records

Row: TypeAlias = tuple[Any, ...]

#: Columns of the other tables, of which the first is the model.
TABLES = {
    "forgotten": "model, id",
    "pruned": "model, before",
    "measured": "model, upto, events, bytes",
    "source": "model, topic, partition, next",
    "named": "model, seq, id, digest",
}


@dataclass(frozen=True, slots=True)
class Models:
    """Models of a store.

    Attributes
    ----------
    names : dict of int to str or None
        Name of each model that exists.
    deleted : set of int
        Deleted models. Of their events only the deletion is copied: the others are to be erased.
    shared : int
        Number of the last event of format 1, after which the numbers of all models continue; 0 without one.
    """

    names: dict[int, str | None]
    deleted: set[int]
    shared: int


class CheckpointContents(Protocol):
    """Checkpoints of which the stored bytes are copied."""

    def models(self) -> list[int]:
        """See `Checkpoints.models`."""
        ...

    def list(self, model: int) -> list[Checkpoint]:
        """See `Checkpoints.list`."""
        ...

    def content(self, checkpoint: Checkpoint) -> bytes:
        """Return the content of a checkpoint as it is stored."""
        ...

    def put(self, checkpoint: Checkpoint, content: bytes) -> None:
        """Store a copy of a checkpoint of another store."""
        ...


class Source(Protocol):
    """Store that is copied. No other process may write it meanwhile."""

    name: str
    checkpoints: CheckpointContents

    def models(self) -> Models:
        """Return its models."""
        ...

    def count(self) -> int:
        """Return the number of rows with events."""
        ...

    def rows(self, table: str, columns: str) -> Generator[Row, None, None]:
        """Return the rows of a table, one after the other, with ids of events as text."""
        ...


class Target(Protocol):
    """Empty store."""

    checkpoints: CheckpointContents

    def begin(self, source: str, models: Models) -> None:
        """Mark the store as an incomplete copy.

        Raises
        ------
        StorageFailedError
            If it is not empty. It is unchanged then.
        """
        ...

    def add(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        """Add rows."""
        ...

    def finish(self) -> None:
        """Complete the copy, and remove the mark."""
        ...


@dataclass(frozen=True, slots=True)
class Copied:
    """Numbers of the models, events, and checkpoints of a copy."""

    models: int
    events: int
    checkpoints: int


def copy(source: Source, target: Target) -> Copied:
    """Copy all models of a store: their events on all branches, checkpoints, and positions in topics.

    Raises
    ------
    StorageError
        If the target is not empty, or one of the stores fails.
    DamagedEventError
        If the checksum of an event does not match.
    """
    models = source.models()
    events = done = 0
    target.begin(source.name, models)
    with progress("copying events", source.count()) as advance:

        def kept(rows: Iterable[Row]) -> Iterator[Row]:
            nonlocal events, done
            for row in rows:
                records = [record for each in to_records(row) for record in each.records()]
                if records[0].model not in models.deleted or records[0].event.kind == "delete":
                    events += len(records)
                    yield row
                done += 1
                advance(done)

        with closing(source.rows("event", COLUMNS)) as rows:
            target.add("event", COLUMNS, kept(rows))
    for table, columns in TABLES.items():
        with closing(source.rows(table, columns)) as rows:
            target.add(table, columns, (row for row in rows if row[0] in models.names))
    found = [each for model in models.names for each in source.checkpoints.list(model)]
    with progress("copying checkpoints", len(found)) as advance:
        for done, checkpoint in enumerate(found):
            advance(done)
            target.checkpoints.put(checkpoint, source.checkpoints.content(checkpoint))
    target.finish()
    return Copied(len(models.names), events, len(found))


NameOf: TypeAlias = Callable[[bytes], str]
"""Returns the name of a model in the body of its creation."""
