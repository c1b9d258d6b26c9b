"""The history of one model: which of its events count, and what an id stands for."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from service.store.base import Branch, Checkpoint, Event, EventLog, Group, Record, Segment, contains, lineage


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned under an id.

    Attributes
    ----------
    digest : bytes
        Of the body.
    step : int or None
        Where it led; None while that is not known, and for what was refused.
    """

    digest: bytes | None
    step: int | None


class History:
    """The events of a model, behind the log that holds those of all.

    Parameters
    ----------
    log : EventLog
        Of the server.
    model : int
        Number of the event that made the model.

    Attributes
    ----------
    branches : list of Branch
        What a rollback left, and the one that counts: the last.
    """

    def __init__(self, log: EventLog, model: int) -> None:
        self.log = log
        self.model = model
        self.branches = [Branch(0, None, 0, model)]
        for record in log.changes(model, "rollback"):
            body = json.loads(record.event.body)
            self.branches.append(Branch(record.branch, body["parent"], body["fork"], record.seq))

    @property
    def branch(self) -> int:
        """Number of the branch to which events are appended."""
        return self.branches[-1].number

    def segments(self, after: int = 0, upto: int | None = None) -> list[Segment]:
        """Return where the events that count stand, those with ``after < seq <= upto``."""
        return lineage(self.branches, after, upto)

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Record]:
        """Return the events that count, in order."""
        return self.log.read(self.model, self.segments(after, upto))

    def count(self, after: int = 0, upto: int | None = None) -> int:
        """Return how many events `read` would return."""
        return self.log.count(self.model, self.segments(after, upto))

    def group(self, events: Sequence[Event]) -> Group:
        """Return events as they are appended to the newest branch."""
        return Group(self.model, self.branch, events)

    def learned(self, ids: Collection[str]) -> dict[str, Learned]:
        """Return what was learned under which of the ids, as far as it counts and its event is kept."""
        if not ids:
            return {}
        segments = self.segments()
        return {
            record.event.id: Learned(record.event.digest, record.event.step)
            for record in self.log.find(self.model, ids)
            if record.event.id and record.event.kind == "learn" and not record.refused
            if contains(segments, record)
        }

    def at_step(self, step: int) -> Record | None:
        """Return the last event that counts with which the model had learned `step` samples."""
        segments = self.segments()
        found = [record for record in self.log.at_step(self.model, step) if contains(segments, record)]
        return found[-1] if found else None

    def roll_back(self, to: Record) -> int:
        """Log that what comes after an event no longer counts; return the number of the rollback."""
        number = self.branches[-1].number + 1
        body = json.dumps({"parent": to.branch, "fork": to.seq}).encode()
        (seq,) = self.log.append([Group(self.model, number, [Event("rollback", body, step=to.event.step)])])
        self.branches.append(Branch(number, to.branch, to.seq, seq))
        return seq

    def forget(self, numbers: Collection[int]) -> int:
        """Remove events, whatever branch they are of, and log that; return the number of the forgetting."""
        body = json.dumps({"events": sorted(numbers)}).encode()
        return self.log.forget(self.model, self.branch, Event("forget", body), numbers)

    def outdated(self, checkpoint: Checkpoint) -> bool:
        """Return whether a state includes an event that was forgotten after it was kept."""
        return any(
            record.seq > checkpoint.head and json.loads(record.event.body)["events"][0] <= checkpoint.seq
            for record in self.log.changes(self.model, "forget")
        )

    def usable(self, checkpoint: Checkpoint) -> bool:
        """Return whether a state is one that the model had on the way to where it is."""
        on_the_way = any(s.after < checkpoint.seq <= s.upto for s in self.segments())
        return on_the_way and not self.outdated(checkpoint)
