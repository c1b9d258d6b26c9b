"""History of one model: its branches, its current events, and the ids of its samples."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UnknownModelError
from .interfaces import (
    LAST,
    Branch,
    Checkpoint,
    Event,
    EventLog,
    Group,
    Header,
    Record,
    RunRecord,
    Segment,
    contains,
    lineage,
)

#: Events that one query for headers reads.
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Learned:
    """A learned sample with an id.

    Attributes
    ----------
    digest : bytes
        Digest of its body.
    step : int or None
        Step of the model with this sample. None if it is unknown, or if the sample was refused.
    """

    digest: bytes | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Upgrade of a model to a later generation of the learner.

    From event `seq` on, the state is that of a new model that learned the samples after event `after`.

    Attributes
    ----------
    branch : int
        Branch of the events `request` and `seq`.
    request : int
        Number of the event that requested the upgrade.
    seq : int
        Number of the event that completed it; `LAST` before that.
    after : int
        The new model learned the samples after this event.
    step : int
        Step of the model before after that event.
    spec : dict
        Specification of the new model, with all changes before the request.
    """

    branch: int
    request: int
    seq: int
    after: int
    step: int
    spec: dict[str, Any]


class History:
    """Events of one model in the log of all models.

    Current events are the events of the newest branch, and of its ancestors before the rollbacks. A rollback
    excludes all other events.

    Parameters
    ----------
    log : EventLog
        Log of all models.
    model : int
        Number of the event that created the model.
    new : bool
        Whether the model was just created. The log is not read then.

    Attributes
    ----------
    branches : list of Branch
        All branches; the last is the current one.
    version : int
        Rises with each rollback, import, promotion and upgrade, and with each removal of events.
    upgrading : Upgrade or None
        Upgrade that was requested and is not completed. A rollback, an import or a promotion cancels it.
    """

    def __init__(self, log: EventLog, model: int, *, new: bool = False) -> None:
        self.log = log
        self.model = model
        self.version = 0
        self.branches = [Branch(0, None, 0, model)]
        for record in () if new else log.changes(model, "rollback"):
            body = json.loads(record.event.body)
            self.branches.append(Branch(record.branch, body["parent"], body["fork"], record.seq))
        self._removing = threading.Lock()
        self._removed: list[tuple[int, int, int]] | None = [] if new else None  # None: not read
        self._upgrades: list[Upgrade] = []
        self.upgrading: Upgrade | None = None
        if not new:
            self._read_upgrades()

    def _read_upgrades(self) -> None:
        requests = self.log.changes(self.model, "upgrade")
        if not requests:
            return
        done = self.log.changes(self.model, "upgraded")
        completed = {json.loads(each.event.body)["request"]: each.seq for each in done}
        for record in requests:
            asked = _requested(record.branch, record.seq, record.event.body)
            if record.seq in completed:
                self._upgrades.append(replace(asked, seq=completed[record.seq]))
            elif record.branch == self.branch:
                imports, promotions = self.log.imports(self.model), self.log.changes(self.model, "promote")
                replaced = [*(each.seq for each in imports), *(each.seq for each in promotions)]
                canceled = any(seq > record.seq for seq in replaced)
                # A repair may have removed the samples.
                self.upgrading = asked if self.reaches(asked.after) and not canceled else None

    @property
    def head(self) -> int:
        """Number of the last event of the model, of any branch."""
        return self.log.head(self.model)

    def correct(self, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Record refusals and steps that differ from the logged ones; see `EventLog.correct`."""
        self.log.correct(self.model, refused, steps)

    @property
    def pruned(self) -> bool:
        """Whether old samples may have been pruned."""
        return self.log.first_kept(self.model) > 0

    @property
    def branch(self) -> int:
        """Number of the current branch."""
        return self.branches[-1].number

    def segments(self, after: int = 0, upto: int | None = None) -> list[Segment]:
        """Return the segments of the current events with ``after < seq <= upto``."""
        return lineage(self.branches, after, upto)

    def made(self) -> Record:
        """Return the event that created the model.

        Raises
        ------
        UnknownModelError
            If the model was deleted.
        """
        for record in self.log.read(self.model, [Segment(0, self.model - 1, self.model)]):
            return record
        raise UnknownModelError(f"model {self.model} was deleted")

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Record]:
        """Return the current events, in order."""
        return self.log.read(self.model, self.segments(after, upto))

    def read_runs(self, after: int = 0, upto: int | None = None) -> Iterator[Record | RunRecord]:
        """Return the current events as they are stored, alone or in runs, in order."""
        return self.log.read_runs(self.model, self.segments(after, upto))

    def count(self, after: int = 0, upto: int | None = None) -> int:
        """Return the number of events that `read` would return."""
        return self.log.count(self.model, self.segments(after, upto))

    def holds(self, seq: int) -> bool:
        """Return whether the log has an event, of any branch."""
        log, branches = self.log, self.branches
        return any(log.count(self.model, [Segment(each.number, seq - 1, seq)]) for each in branches)

    def append(self, event: Event) -> int:
        """Log an event on the current branch; return its number."""
        (seq,) = self.log.append([Group(self.model, self.branch, [event])])
        if event.kind in ("import", "promote"):
            self.upgrading = None
            self.version += 1
        return seq

    def request_upgrade(self, spec: dict[str, Any], after: int, step: int) -> None:
        """Log the request of an upgrade; see `Upgrade`."""
        body = json.dumps({"spec": spec, "after": after, "step": step}).encode()
        seq = self.append(Event("upgrade", body))
        self.upgrading = _requested(self.branch, seq, body)

    def complete_upgrade(self, upgrade: Upgrade, step: int) -> int:
        """Log the completion of an upgrade that was requested; return the number of its event.

        Parameters
        ----------
        upgrade : Upgrade
            The upgrade.
        step : int
            Step of the new model.
        """
        body = json.dumps({"request": upgrade.request}).encode()
        seq = self.append(Event("upgraded", body, step=step))
        self._upgrades.append(replace(upgrade, seq=seq))
        self.upgrading = None
        self.version += 1
        return seq

    def upgrade(self, upto: int | None = None) -> Upgrade | None:
        """Return the latest upgrade in the state after event `upto`, by default the last event."""
        return _latest(self._upgrades, self.segments(upto=upto))

    @property
    def start(self) -> int:
        """Number of the event after which the state learned all samples: the creation, or see `Upgrade`."""
        upgrade = self.upgrade()
        return self.model if upgrade is None else upgrade.after

    def samples_after(self) -> int:
        """Return the number of the event after which the log has all samples of the current events.

        It is the creation of the model, its latest import, or the last event that may have been pruned.
        """
        imports = [each.seq for each in self.log.imports(self.model) if self.counts(each)]
        return max([self.model, self.log.first_kept(self.model) - 1, *imports])

    def step_at(self, after: int) -> int | None:
        """Return the step of the model after an event; None if no sample was learned since."""
        while page := self.log.headers(self.model, self.segments(after), _PAGE):
            for each in page:
                if each.kind in ("learn", "label") and each.step is not None:
                    return each.step - 1
            after = page[-1].seq
        return None

    def look_up(self, ids: Collection[str]) -> tuple[dict[str, Learned], set[str]]:
        """Return the current learned samples with these ids, and the ids whose events were forgotten."""
        segments = self.segments()
        learned = {
            event.id: Learned(event.digest, event.step)
            for event in self.log.find(self.model, ids)
            if event.id and event.kind == "learn" and not event.refused
            if contains(segments, event.branch, event.seq)
        }
        return learned, self.forgotten(ids)

    def at_step(self, step: int) -> list[Header]:
        """Return the current events after which the model had learned `step` samples, in order."""
        return [event for event in self.log.at_step(self.model, step) if self.counts(event)]

    def roll_back(self, branch: int, fork: int, step: int) -> int:
        """Log a rollback to an event.

        Parameters
        ----------
        branch, fork : int
            Branch and number of the event.
        step : int
            Step of the model after the event.

        Returns
        -------
        int
            Number of the rollback.
        """
        number = self.branches[-1].number + 1
        body = json.dumps({"parent": branch, "fork": fork}).encode()
        (seq,) = self.log.append([Group(self.model, number, [Event("rollback", body, step=step)])])
        self.branches.append(Branch(number, branch, fork, seq))
        self.upgrading = None
        self.version += 1
        return seq

    def forget(self, events: Sequence[Header], step: int) -> int:
        """Remove events of any branch, and log their removal at a step; return the number of its event."""
        removed = [[event.branch, event.seq] for event in events]
        body = json.dumps({"events": removed, "step": step}).encode()
        numbers = [event.seq for event in events]
        with self._removing:
            self._removed = None  # they are read again, since the outcome of a commit may be unknown
            seq = self.log.forget(self.model, self.branch, Event("forget", body), numbers)
        self.version += 1
        return seq

    def forgotten(self, ids: Collection[str]) -> set[str]:
        """Return the ids whose events were forgotten."""
        return self.log.forgotten(self.model, ids)

    def find(self, ids: Collection[str]) -> list[Header]:
        """Return the events with these ids, of all branches."""
        return self.log.find(self.model, ids)

    def counts(self, event: Header) -> bool:
        """Return whether an event is current."""
        return contains(self.segments(), event.branch, event.seq)

    def included(self, event: Header) -> bool:
        """Return whether an event is current, and the state depends on it."""
        return self.counts(event) and event.seq > self.start

    def reaches(self, seq: int) -> bool:
        """Return whether the log retains every sample after event `seq`."""
        return self.log.first_kept(self.model) <= seq + 1

    def states(self, checkpoints: Sequence[Checkpoint], upto: int | None = None) -> list[Checkpoint]:
        """Filter the checkpoints: return those from which a replay gives the model after event `upto`.

        Such a checkpoint is available (`available`), and was taken after the latest upgrade.
        """
        upgrade = self.upgrade(upto)
        first = 0 if upgrade is None else upgrade.seq
        return [kept for kept in self.available(checkpoints, upto) if kept.seq >= first]

    def available(self, checkpoints: Sequence[Checkpoint], upto: int | None = None) -> list[Checkpoint]:
        """Filter the checkpoints: return those with a state of the current history up to event `upto`.

        The last event of such a checkpoint is current. It includes no forgotten sample. The log retains all
        later events.
        """
        if not checkpoints:
            return []
        segments, gone, first = self.segments(upto=upto), self._gone(), self.log.first_kept(self.model)
        return [
            kept
            for kept in checkpoints
            if contains(segments, kept.branch, kept.seq)
            and first <= kept.seq + 1
            and not self._depends(kept.seq, segments, [(b, s) for w, b, s in gone if w > kept.head])
        ]

    def tainted(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Return the checkpoints that include samples forgotten after they were taken."""
        gone = self._gone() if checkpoints else []
        return [
            kept
            for kept in checkpoints
            if (later := [(b, s) for w, b, s in gone if w > kept.head]) and self._include(kept, later)
        ]

    def _include(self, kept: Checkpoint, events: Sequence[tuple[int, int]]) -> bool:
        """Return whether a checkpoint includes one of some events, given by branch and number."""
        branches = [branch for branch in self.branches if branch.number <= kept.branch]
        if branches[-1].number != kept.branch:  # a branch of a lost log
            return any(seq <= kept.seq for _, seq in events)
        return self._depends(kept.seq, lineage(branches, upto=kept.seq), events)

    def _depends(self, upto: int, segments: Sequence[Segment], events: Sequence[tuple[int, int]]) -> bool:
        """Return whether the state after event `upto` depends on one of some events."""
        before = [each for each in self._upgrades if each.seq <= upto] if events else []
        upgrade = _latest(before, segments)
        after = 0 if upgrade is None else upgrade.after
        return any(after < seq <= upto and contains(segments, branch, seq) for branch, seq in events)

    def _gone(self) -> list[tuple[int, int, int]]:
        """Return, for each forgotten event, the number of the removal, its branch and its number."""
        with self._removing:
            if self._removed is None:
                self._removed = [
                    (record.seq, branch, seq)
                    for record in self.log.changes(self.model, "forget")
                    for branch, seq in json.loads(record.event.body)["events"]
                ]
            return self._removed


def _requested(branch: int, seq: int, body: bytes) -> Upgrade:
    """Return the upgrade that an event requests."""
    asked = json.loads(body)
    return Upgrade(branch, seq, LAST, asked["after"], asked["step"], asked["spec"])


def _latest(upgrades: Sequence[Upgrade], segments: Sequence[Segment]) -> Upgrade | None:
    """Return the last upgrade in the segments of a history."""
    return next((each for each in reversed(upgrades) if contains(segments, each.branch, each.seq)), None)
