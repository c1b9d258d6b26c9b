"""Fakes of the event log and of the checkpoints, in memory, with commits that wait or fail on request."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from service.errors import PositionMovedError, StorageError
from service.storage.interfaces import (
    Checkpoint,
    Event,
    Group,
    Header,
    Kind,
    Position,
    Record,
    Segment,
    contains,
)


def _header(record: Record) -> Header:
    event = record.event
    action = event.body if event.kind == "action" else None
    return Header(
        record.seq,
        record.branch,
        record.time,
        event.kind,
        event.id,
        event.digest,
        record.refused,
        event.step,
        action,
    )


class FakeLog:
    """An event log in memory: see `service.storage.interfaces.EventLog`.

    Attributes
    ----------
    records : list of Record
        All events, in order.
    arrived : int
        Number of commits that have begun.
    corrections : list of (int, str)
        Number and code of each event that was refused after it was logged.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.arrived = 0
        self._positions: dict[tuple[int, str, int], int] = {}
        self.corrections: list[tuple[int, str]] = []
        self._open = threading.Event()
        self._open.set()
        self._refusal: StorageError | None = None
        self._read_refusal: StorageError | None = None

    def hold(self) -> None:
        """Let commits wait until `open`."""
        self._open.clear()

    def open(self) -> None:
        """Let commits go on."""
        self._open.set()

    def refuse(self, error: StorageError) -> None:
        """Let the next commit fail."""
        self._refusal = error

    def refuse_reads(self, error: StorageError | None) -> None:
        """Let all searches fail, or none."""
        self._read_refusal = error

    def create(self, event: Event, name: str | None = None) -> int:
        return self._add(self.latest_model + 1, 0, event)

    def append(self, groups: Sequence[Group]) -> list[int]:
        self.arrived += 1
        self._open.wait(60)
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
        positions, moved = dict(self._positions), []
        for i, g in enumerate(groups):
            keys = [(g.model, a.topic, a.partition) for a in g.advances]
            if [positions.get(key) for key in keys] != [a.before for a in g.advances]:
                moved.append(i)
            else:
                positions.update(zip(keys, [a.next for a in g.advances], strict=True))
        if moved:
            raise PositionMovedError(moved)
        self._positions = positions
        last = []
        for g in groups:
            events = [
                one for each in g.events for one in ([each] if isinstance(each, Event) else each.events())
            ]
            last.append(
                [self.head(g.model), *(self._add(g.model, g.branch, event, g.time) for event in events)][-1]
            )
        return last

    def positions(self, model: int) -> list[Position]:
        return [
            Position(*key[1:], after) for key, after in sorted(self._positions.items()) if key[0] == model
        ]

    def _add(self, model: int, branch: int, event: Event, time: float | None = None) -> int:
        seq = max(self.head(model) + 1, model)
        when = self.now() if time is None else time
        self.records.append(Record(seq, model, branch, when, None, event))
        return seq

    def models(self) -> list[Record]:
        return [record for record in self.records if record.event.kind == "create"]

    def changes(self, model: int, kind: Kind) -> list[Record]:
        return [each for each in self.records if each.model == model and each.event.kind == kind]

    def imports(self, model: int) -> list[Header]:
        return [_header(record) for record in self.changes(model, "import")]

    def read(self, model: int, segments: Sequence[Segment]) -> Iterator[Record]:
        return (r for r in self.records if r.model == model and contains(segments, r.branch, r.seq))

    def read_runs(self, model: int, segments: Sequence[Segment]) -> Iterator[Record]:
        return self.read(model, segments)

    def headers(self, model: int, segments: Sequence[Segment], limit: int) -> list[Header]:
        return [_header(record) for record in self.read(model, segments)][:limit]

    def count(self, model: int, segments: Sequence[Segment]) -> int:
        return len(list(self.read(model, segments)))

    def find(self, model: int, ids: Collection[str]) -> list[Header]:
        if self._read_refusal is not None:
            raise self._read_refusal
        return [_header(each) for each in self.records if each.model == model and each.event.id in ids]

    def at_step(self, model: int, step: int) -> list[Header]:
        return [_header(each) for each in self.records if each.model == model and each.event.step == step]

    def correct(self, model: int, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        self.corrections += refused.items()

    def flush(self) -> None:
        return None

    def checksum(self, model: int, seq: int) -> bytes | None:
        return None

    def forget(self, model: int, branch: int, event: Event, numbers: Collection[int]) -> int:
        self.records = [each for each in self.records if each.model != model or each.seq not in numbers]
        return self._add(model, branch, event)

    unerased = False

    def erase(self) -> None:
        """Nothing is left: the records are gone."""

    def forgotten(self, model: int, ids: Collection[str]) -> set[str]:
        return set()

    def first_kept(self, model: int) -> int:
        return 0

    def prune(self, model: int, before: int, newest: int, size: int, since: float) -> int:
        return 0

    def drop(self, model: int) -> None:
        self.records = [record for record in self.records if record.model != model]

    def probe(self) -> None:
        """Anything can be written."""

    def head(self, model: int) -> int:
        return max((record.seq for record in self.records if record.model == model), default=0)

    @property
    def latest_model(self) -> int:
        return max((record.model for record in self.records), default=0)

    def now(self) -> float:
        return float(len(self.records))

    def size(self) -> int:
        return 0

    @property
    def length(self) -> int:
        return len(self.records)

    def close(self) -> None:
        """There is nothing to let go of."""


class FakeCheckpoints:
    """Checkpoints in memory: see `service.storage.interfaces.Checkpoints`."""

    def __init__(self) -> None:
        self.states: dict[Checkpoint, dict[str, Any]] = {}

    def save(
        self, model: int, branch: int, seq: int, step: int, head: int, state: Mapping[str, Any]
    ) -> Checkpoint:
        kept = Checkpoint(f"{branch}-{seq}", model, branch, seq, step, head, 0.0, 0)
        self.states[kept] = dict(state)
        return kept

    def models(self) -> builtins.list[int]:
        return sorted({each.model for each in self.states})

    def list(self, model: int) -> builtins.list[Checkpoint]:
        kept = [each for each in self.states if each.model == model]
        return sorted(kept, key=lambda each: each.seq, reverse=True)

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        return self.states[checkpoint]

    def delete(self, checkpoint: Checkpoint) -> None:
        self.states.pop(checkpoint, None)

    def drop(self, model: int) -> None:
        for kept in self.list(model):
            self.delete(kept)

    def tidy(self, deleted: Iterable[int]) -> None:
        for model in deleted:
            self.drop(model)

    def place(self, model: int) -> str:
        return f"memory, model {model}"
