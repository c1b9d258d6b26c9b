"""Interfaces of the storage: the event log, the checkpoints, and their types.

The **event log** has every event that changed a model, in order. A model has a number, since its name may be
used again. Its events have numbers of their own, from the number of the model, which its creation has. A
rollback starts a new *branch* of a model's history. The current events are those on the *lineage* of the
newest branch.

A *run* is a number of consecutive samples of one model that are stored together, as one row. Each of them
remains an event of its own, with a number and a step. It is listed, found, unlearned and pruned as if it had
been stored alone.

The **checkpoints** have states of models, so that a start need not replay the whole log.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from bnp_online.lines import Lines

Kind: TypeAlias = Literal[
    "create",
    "learn",
    "label",
    "predict",
    "patch",
    "rollback",
    "forget",
    "import",
    "action",
    "upgrade",
    "upgraded",
    "shadow",
    "unshadow",
    "promote",
    "delete",
]


class Event(NamedTuple):
    """A change of a model, with all data needed to apply it again.

    Attributes
    ----------
    kind : str
        Kind of change.
    body : bytes
        Content as JSON; for ``"import"`` the file. The storage does not read it.
    id : str or None
        Id given by the client.
    digest : bytes or None
        Digest of the content of an id: the same id with another digest is a conflict.
    step : int or None
        Step of the model after the event; see `EventLog.correct`.
    """

    kind: Kind
    body: bytes
    id: str | None = None
    digest: bytes | None = None
    step: int | None = None

    @property
    def samples(self) -> int:
        """Number of events: one."""
        return 1

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return len(self.body)


class Form(IntEnum):
    """Form of the lines of a run, which tells how they are decoded."""

    #: JSON objects as clients send them, with ``x``, ``y`` and what else a client may send with a sample.
    OBJECTS = 1
    #: JSON arrays ``[x, y, w]``, for samples that arrived in another form.
    ARRAYS = 2


class Run(NamedTuple):
    """A run of ``"learn"`` events to be stored.

    Attributes
    ----------
    lines : Lines
        Body of each event. From 2 to `LONGEST_RUN`, with about `LARGEST_RUN` bytes.
    names : dict of int to (str, bytes)
        Id and digest of the events that have an id, by position in `lines`.
    step : int or None
        Step of the model after the last event. The steps rise by one.
    form : Form
        Form of all lines.
    """

    lines: Lines
    names: Mapping[int, tuple[str, bytes]]
    step: int | None
    form: Form

    @property
    def samples(self) -> int:
        """Number of events."""
        return len(self.lines)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.lines.size - len(self.lines)

    def events(self) -> Iterator[Event]:
        """Return the events, as if they had been stored alone."""
        before = None if self.step is None else self.step - len(self.lines)
        for i, line in enumerate(self.lines):
            identifier, digest = self.names.get(i, (None, None))
            yield Event("learn", line, identifier, digest, None if before is None else before + i + 1)


@dataclass(frozen=True, slots=True)
class Record:
    """An event in the log.

    Attributes
    ----------
    seq : int
        Number of the event among those of the model. Numbers rise by one.
    model : int
        Number of the model.
    branch : int
        Branch of the model's history, from 0.
    time : float
        Time of logging in seconds since 1970, from a clock that never goes back.
    refused : str or None
        Error code, if the model refused the event after it was logged. The event changed nothing then.
    event : Event
        The event.
    """

    seq: int
    model: int
    branch: int
    time: float
    refused: str | None
    event: Event

    @property
    def content(self) -> Event:
        """The event; see `RunRecord.content`."""
        return self.event

    def records(self) -> Iterator[Record]:
        """Return the event itself; see `RunRecord.records`."""
        yield self


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run in the log, or a part of one. The model refused none of its events.

    Attributes
    ----------
    seq : int
        Number of the last event.
    model, branch, time
        As in `Record`.
    run : Run
        The events.
    """

    seq: int
    model: int
    branch: int
    time: float
    run: Run

    @property
    def content(self) -> Run:
        """The events."""
        return self.run

    def records(self) -> Iterator[Record]:
        """Return the events one by one."""
        first = self.seq - len(self.run.lines) + 1
        for seq, event in enumerate(self.run.events(), first):
            yield Record(seq, self.model, self.branch, self.time, None, event)


class Header(NamedTuple):
    """An event without its body, which may be large.

    Attributes
    ----------
    seq, branch, time, refused
        See `Record`.
    kind, id, digest, step
        See `Event`.
    action : bytes or None
        Body of an event of kind ``"action"``.
    """

    seq: int
    branch: int
    time: float
    kind: Kind
    id: str | None
    digest: bytes | None
    refused: str | None
    step: int | None
    action: bytes | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """A part of a model's history.

    Attributes
    ----------
    number : int
        From 0.
    parent : int or None
        Branch from which it started, None for the first.
    fork : int
        Number of the last event of `parent` in the history of this branch.
    start : int
        Number of its first event: the rollback, or the creation of the model.
    """

    number: int
    parent: int | None
    fork: int
    start: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The events of one branch with ``after < seq <= upto``."""

    branch: int
    after: int
    upto: int


class Position(NamedTuple):
    """Position in a partition of a topic, of a model that learns from it.

    Attributes
    ----------
    topic : str
        Name of the topic, with the kind of its broker.
    partition : int
        Number of the partition.
    next : int
        Position of the next message. All messages before it are learned, refused or skipped.
    """

    topic: str
    partition: int
    next: int


class Advance(NamedTuple):
    """Change of a position, committed together with the events of the messages before it.

    Attributes
    ----------
    topic, partition
        See `Position`.
    before : int or None
        Position that must be stored before the commit; None if none may be stored.
    next : int
        Position that is stored.
    """

    topic: str
    partition: int
    before: int | None
    next: int


class Group(NamedTuple):
    """Events of one model that are committed together, in the order of their application.

    Attributes
    ----------
    model, branch : int
        Model and branch of the events.
    events : sequence of Event or Run
        At least one, or none if positions change.
    advances : sequence of Advance
        Positions that change with the commit.
    time : float or None
        Time of logging, by the clock of the log; None stands for the time of the commit.
    """

    model: int
    branch: int
    events: Sequence[Event | Run]
    advances: Sequence[Advance] = ()
    time: float | None = None


Row: TypeAlias = tuple[int, int, int, Event | Run]
"""Number, model and branch of an event, and the event; or of the last event of a run, and the run."""

#: Greatest number of events in a run, and about how many bytes.
LONGEST_RUN, LARGEST_RUN = 4096, 2**20


class EventLog(Protocol):
    """Log of the events of all models, in order for each model. An event is logged before it is applied.

    Any thread may call any method. A method that writes returns after everything is on the disk, or
    raises and writes nothing.

    Raises
    ------
    StorageFullError
        By methods that write, if the disk is full.
    StorageFailedError
        If the log cannot be read or written.
    OutcomeUnknownError
        By methods that write, if the connection to the log was lost and whether it has the events is unknown.
    NotOwnerError
        By methods that write, if this process does not own the shard of the model.
    DamagedEventError
        By methods that return records, if the checksum of one does not match. Headers are not checked.
    """

    def create(self, event: Event, name: str | None = None) -> int:
        """Log the creation of a model; return the number of the model, which is that of the event.

        Parameters
        ----------
        event : Event
            The creation.
        name : str, optional
            Name of the model. A log with shards puts the model into the shard of its name.
        """
        ...

    def append(self, groups: Sequence[Group]) -> list[int]:
        """Append groups of events: all or none.

        Returns
        -------
        list of int
            Number of the last event of each group. The numbers of a model rise by one.

        Raises
        ------
        PositionMovedError
            If a group expects another position than the stored one. The error names the groups.
        """
        ...

    def positions(self, model: int) -> list[Position]:
        """Return the positions of a model in the partitions of topics, in order."""
        ...

    def models(self) -> list[Record]:
        """Return the creation of each model that exists, in order."""
        ...

    def changes(self, model: int, kind: Kind) -> list[Record]:
        """Return the events of one kind with small bodies, of all branches, in order.

        Samples and imports are not supported: use `read`, which never holds many bodies at once.
        """
        ...

    def imports(self, model: int) -> list[Header]:
        """Return the imports of a model, of all branches, in order."""
        ...

    def read(self, model: int, segments: Sequence[Segment]) -> Iterator[Record]:
        """Return the events of segments, in order. It reads them in pages that are limited in bytes."""
        ...

    def read_runs(self, model: int, segments: Sequence[Segment]) -> Iterator[Record | RunRecord]:
        """Return the events of segments as they are stored: alone, or in runs or parts of runs."""
        ...

    def headers(self, model: int, segments: Sequence[Segment], limit: int) -> list[Header]:
        """Return the first events of segments, at most `limit`, without their bodies."""
        ...

    def count(self, model: int, segments: Sequence[Segment]) -> int:
        """Return the number of events that `read` would return."""
        ...

    def find(self, model: int, ids: Collection[str]) -> list[Header]:
        """Return the events with one of these ids, of all branches, in order."""
        ...

    def at_step(self, model: int, step: int) -> list[Header]:
        """Return the events after which the model had learned `step` samples, of all branches, in order."""
        ...

    def correct(self, model: int, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Record error codes of refused events, and steps that differ from the logged ones, by number.

        A replay finds both again. They are recorded so that a search needs no replay. A run of which an event
        was refused is stored anew as the events before it, the refused event, and those after it.
        """
        ...

    def flush(self) -> None:
        """Return once all committed events are on the disk: a relaxed log returns from a commit before."""
        ...

    def checksum(self, model: int, seq: int) -> bytes | None:
        """Return the checksum of an event as if stored alone; None if the log lacks it, or it is damaged."""
        ...

    def forget(self, model: int, branch: int, event: Event, numbers: Collection[int]) -> int:
        """Remove events, and log their removal; return its number. `erase` removes them from the disk."""
        ...

    @property
    def unerased(self) -> bool:
        """Whether removed content may still be on the disk, also of removals before the start."""
        ...

    def erase(self) -> None:
        """Erase all removed content from the disk; return at once if there is none. May take long."""
        ...

    def forgotten(self, model: int, ids: Collection[str]) -> set[str]:
        """Return the ids whose events were forgotten."""
        ...

    def first_kept(self, model: int) -> int:
        """Return the number before which samples and imports of the model may have been pruned."""
        ...

    def prune(self, model: int, before: int, newest: int, size: int, since: float) -> int:
        """Remove the old samples and imports of a model before event `before`; return their number.

        `erase` removes them from the disk.

        Parameters
        ----------
        model, before : int
            Model and event.
        newest, size : int
            Number and bytes of the events before that event which are retained, the newest.
        since : float
            Time before which they are removed nevertheless.
        """
        ...

    def drop(self, model: int) -> None:
        """Remove a model, except the record that it existed. `erase` removes its content from the disk."""
        ...

    def probe(self) -> None:
        """Write a row without meaning; raises if the log cannot be written."""
        ...

    def head(self, model: int) -> int:
        """Return the number of the last event of a model that exists."""
        ...

    @property
    def latest_model(self) -> int:
        """Greatest number of a model, including deleted ones; 0 if there was none."""
        ...

    def now(self) -> float:
        """Return the time in seconds since 1970, from a clock that never goes back."""
        ...

    def size(self) -> int:
        """Return the size in bytes."""
        ...

    @property
    def length(self) -> int:
        """Number of events, of all models."""
        ...

    def close(self) -> None:
        """Close the log. It is complete without this."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved state of a model.

    Attributes
    ----------
    name : str
        Name among the checkpoints of the model.
    model : int
        Number of the model.
    branch, seq : int
        Branch and number of the last event that the state includes.
    step : int
        Samples learned.
    head : int
        Number of the last event of the model at the time, also on another branch. A later `forget` may make
        it unusable.
    time : float
        Time in seconds since 1970.
    size : int
        Size in bytes.
    """

    name: str
    model: int
    branch: int
    seq: int
    step: int
    head: int
    time: float
    size: int


class Checkpoints(Protocol):
    """Saved states of models. Each is complete or does not exist.

    Raises
    ------
    StorageFullError
        By `save`, if the disk is full. Nothing was saved.
    StorageFailedError
        If a file cannot be written or deleted.
    """

    def save(
        self, model: int, branch: int, seq: int, step: int, head: int, state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write a state for `bnp_online.checkpoint.dumps` to the disk; see `Checkpoint`."""
        ...

    def models(self) -> builtins.list[int]:
        """Return the numbers of the models that have checkpoints, in order."""
        ...

    def list(self, model: int) -> builtins.list[Checkpoint]:
        """Return the checkpoints of a model, newest first. `load` checks their content."""
        ...

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the state of a checkpoint.

        Raises
        ------
        CheckpointError
            If the checkpoint is damaged, or has a later format.
        """
        ...

    def delete(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint."""
        ...

    def drop(self, model: int) -> None:
        """Remove all checkpoints of a model."""
        ...

    def tidy(self, deleted: Iterable[int]) -> None:
        """Remove what a killed server left: partly written checkpoints, and those of deleted models."""
        ...

    def place(self, model: int) -> str:
        """Return where the checkpoints of a model are, for messages."""
        ...


def lineage(branches: Sequence[Branch], after: int = 0, upto: int | None = None) -> list[Segment]:
    """Return the segments of the current history: those on the way to the newest branch.

    Parameters
    ----------
    branches : sequence of Branch
        All branches of a model.
    after, upto : int
        Only events with ``after < seq <= upto``.

    Examples
    --------
    >>> lineage([Branch(0, None, 0, 1), Branch(1, 0, 5, 9)])
    [Segment(branch=0, after=0, upto=5), Segment(branch=1, after=5, upto=9223372036854775807)]
    """
    by_number = {branch.number: branch for branch in branches}
    end = LAST if upto is None else upto
    segments: list[Segment] = []
    branch: Branch | None = branches[-1]
    while branch is not None:
        begin = max(branch.fork, after)
        if begin < end:
            segments.append(Segment(branch.number, begin, end))
        end = min(end, branch.fork)
        branch = None if branch.parent is None else by_number[branch.parent]
    return segments[::-1]


def contains(segments: Sequence[Segment], branch: int, seq: int) -> bool:
    """Return whether an event is in one of the segments."""
    return any(s.branch == branch and s.after < seq <= s.upto for s in segments)


#: Upper bound of the numbers of events.
LAST = 2**63 - 1
