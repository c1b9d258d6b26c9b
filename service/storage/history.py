"""The history of one model: which of its events count, and what an id stands for."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .interfaces import Branch, Checkpoint, Event, EventLog, Group, Record, Segment, contains, lineage


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
    version : int
        Rises with everything that changes the past.
    """

    def __init__(self, log: EventLog, model: int) -> None:
        self.log = log
        self.model = model
        self.version = 0
        self.branches = [Branch(0, None, 0, model)]
        for record in log.changes(model, "rollback"):
            body = json.loads(record.event.body)
            self.branches.append(Branch(record.branch, body["parent"], body["fork"], record.seq))

    @property
    def pruned(self) -> bool:
        """Whether the oldest samples are no longer kept."""
        return self.log.first_kept(self.model) > 0

    @property
    def branch(self) -> int:
        """Number of the branch to which events are appended."""
        return self.branches[-1].number

    def segments(self, after: int = 0, upto: int | None = None) -> list[Segment]:
        """Return where the events that count stand, those with ``after < seq <= upto``."""
        return lineage(self.branches, after, upto)

    def made(self) -> Record:
        """Return the event that made the model."""
        (record,) = self.log.read(self.model, [Segment(0, self.model - 1, self.model)])
        return record

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Record]:
        """Return the events that count, in order."""
        return self.log.read(self.model, self.segments(after, upto))

    def count(self, after: int = 0, upto: int | None = None) -> int:
        """Return how many events `read` would return."""
        return self.log.count(self.model, self.segments(after, upto))

    def group(self, events: Sequence[Event]) -> Group:
        """Return events as they are appended to the newest branch."""
        return Group(self.model, self.branches[-1].number, events)

    def learned(self, ids: Collection[str]) -> dict[str, Learned]:
        """Return what was learned under which of the ids, as far as it counts and its event is kept."""
        if not ids:
            return {}
        segments = self.segments()
        return {
            record.event.id: Learned(record.event.digest, record.event.step)
            for record in self.log.find(self.model, ids)
            if record.event.id and record.event.kind == "learn" and not record.refused
            if contains(segments, record.branch, record.seq)
        }

    def at_step(self, step: int) -> list[Record]:
        """Return the events that count with which the model had learned `step` samples, in order."""
        return [record for record in self.log.at_step(self.model, step) if self.counts(record)]

    def roll_back(self, branch: int, fork: int, step: int) -> int:
        """Log that what comes after an event no longer counts.

        Parameters
        ----------
        branch, fork : int
            Branch and number of the event.
        step : int
            Samples that the model had learned then.

        Returns
        -------
        int
            Number of the rollback.
        """
        number = self.branches[-1].number + 1
        body = json.dumps({"parent": branch, "fork": fork}).encode()
        (seq,) = self.log.append([Group(self.model, number, [Event("rollback", body, step=step)])])
        self.branches.append(Branch(number, branch, fork, seq))
        self.version += 1
        return seq

    def forget(self, records: Sequence[Record]) -> int:
        """Remove events, whatever branch they are of, and log that; return the number of the forgetting."""
        body = json.dumps({"events": [[record.branch, record.seq] for record in records]}).encode()
        numbers = [record.seq for record in records]
        self.version += 1
        return self.log.forget(self.model, self.branch, Event("forget", body), numbers)

    def look_up(self, ids: Collection[str]) -> tuple[dict[str, Learned], set[str]]:
        """Return what `learned` and `forgotten` do."""
        return self.learned(ids), self.forgotten(ids)

    def forgotten(self, ids: Collection[str]) -> set[str]:
        """Return which of the ids are those of events that were forgotten."""
        return self.log.forgotten(self.model, ids) if ids else set()

    def find(self, ids: Collection[str]) -> list[Record]:
        """Return the events that have one of these ids, of all branches."""
        return self.log.find(self.model, ids)

    def counts(self, record: Record) -> bool:
        """Return whether an event is one of those that count."""
        return contains(self.segments(), record.branch, record.seq)

    def reaches(self, seq: int) -> bool:
        """Return whether every sample after event `seq` is still in the log."""
        return self.log.first_kept(self.model) <= seq + 1

    def states(self, checkpoints: Sequence[Checkpoint], upto: int | None = None) -> list[Checkpoint]:
        """Return those checkpoints, in their order, from which the model can be brought to event `upto`.

        They are of states that the model had on the way there, include nothing that was forgotten since, and
        all that came after is in the log.
        """
        segments, gone = self.segments(upto=upto), self._gone()
        return [
            kept
            for kept in checkpoints
            if contains(segments, kept.branch, kept.seq)
            and self.reaches(kept.seq)
            and not any(w > kept.head and s <= kept.seq and contains(segments, b, s) for w, b, s in gone)
        ]

    def tainted(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Return those checkpoints that may include something that was forgotten after they were made."""
        gone = self._gone()
        return [kept for kept in checkpoints if any(w > kept.head and s <= kept.seq for w, _, s in gone)]

    def _gone(self) -> list[tuple[int, int, int]]:
        """Return, for each event that was forgotten, when that was, its branch and its number."""
        return [
            (record.seq, branch, seq)
            for record in self.log.changes(self.model, "forget")
            for branch, seq in json.loads(record.event.body)["events"]
        ]
