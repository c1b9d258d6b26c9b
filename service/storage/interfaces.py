"""What a store must do: the two protocols that the rest of the server sees, and nothing else.

The **event log** holds everything that ever changed a model, in order. A model is named by the sequence
number of the event that made it, since a name may be used again. Its history may fork: a rollback starts a
new *branch*, and the events that count are those on the *lineage* of the newest one.

The **checkpoints** hold states of models, so that a start need not repeat a log from its beginning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

Kind: TypeAlias = Literal[
    "create", "learn", "label", "predict", "patch", "rollback", "forget", "import", "action", "delete"
]


class Event(NamedTuple):
    """One thing that happened to a model, with all that is needed to make it happen again.

    Attributes
    ----------
    kind : str
        What happened.
    body : bytes
        What belongs to it, as JSON; for ``"import"`` the bytes of the file. The store does not read it.
    id : str or None
        The client's name for it.
    digest : bytes or None
        Of what the id stands for: the same id with another digest is a conflict.
    step : int or None
        How many samples the model had learned with it; see `EventLog.correct`.
    """

    kind: Kind
    body: bytes
    id: str | None = None
    digest: bytes | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An event as the log keeps it.

    Attributes
    ----------
    seq : int
        Its number: they rise over all models.
    model : int
        Number of the event that made the model.
    branch : int
        Of the model's history, from 0.
    time : float
        When it was logged, in seconds since 1970, by a clock that never goes back.
    refused : str or None
        Why the model did not take it after all; it changed nothing, then.
    event : Event
        What happened.
    """

    seq: int
    model: int
    branch: int
    time: float
    refused: str | None
    event: Event


@dataclass(frozen=True, slots=True)
class Branch:
    """A part of a model's history.

    Attributes
    ----------
    number : int
        From 0.
    parent : int or None
        The branch that it left, None for the first.
    fork : int
        Number of the last event of `parent` that counts on this branch.
    start : int
        Number of its first event: the rollback, or what made the model.
    """

    number: int
    parent: int | None
    fork: int
    start: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of one branch: the events of `branch` with ``after < seq <= upto``."""

    branch: int
    after: int
    upto: int


class Group(NamedTuple):
    """Events of one model that are kept together, in the order in which they are about to be applied.

    Attributes
    ----------
    model, branch : int
        Whose they are.
    events : sequence of Event
        At least one.
    """

    model: int
    branch: int
    events: Sequence[Event]


class EventLog(Protocol):
    """The order in which things happened, over all models; written before a model changes.

    Called from the writer threads of all models. Every method that writes either keeps all that it was given,
    on the disk, before it returns, or raises and keeps nothing.

    Raises
    ------
    StorageFullError
        By every method that writes: there is no room.
    StorageFailedError
        The store cannot be read or written.
    DamagedEventError
        By every method that returns records: one is not as it was written.
    """

    def create(self, event: Event) -> int:
        """Log the event that makes a model; return its number, which names the model from now on."""
        ...

    def append(self, groups: Sequence[Group]) -> list[int]:
        """Keep groups of events, all or none of them.

        Returns
        -------
        list of int
            For each group the number of its last event; numbers in a group rise by one.
        """
        ...

    def models(self) -> list[Record]:
        """Return what made each model that is there, in order."""
        ...

    def changes(self, model: int, kind: Kind) -> list[Record]:
        """Return the events of a kind other than a sample's, of all branches, in order."""
        ...

    def read(self, model: int, segments: Sequence[Segment], limit: int | None = None) -> Iterator[Record]:
        """Return events in order, from as many segments, at most `limit`."""
        ...

    def count(self, model: int, segments: Sequence[Segment]) -> int:
        """Return how many events `read` would return."""
        ...

    def find(self, model: int, ids: Collection[str]) -> list[Record]:
        """Return the events that have one of these ids, of all branches, in order."""
        ...

    def at_step(self, model: int, step: int) -> list[Record]:
        """Return the events with which the model had learned `step` samples, of all branches, in order."""
        ...

    def correct(self, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Note what came of events: why they were refused, and what step they led to, by number.

        Both follow from the events before; they are kept so that none need be repeated to look them up.
        """
        ...

    def forget(self, model: int, branch: int, event: Event, numbers: Collection[int]) -> int:
        """Remove events, and log that it was done; return its number. `erase` removes what is left."""
        ...

    def erase(self) -> None:
        """Let no trace of removed events stay on the disk, and give free space back; may take long."""
        ...

    def forgotten(self, model: int, ids: Collection[str]) -> set[str]:
        """Return which of the ids are those of events that were forgotten."""
        ...

    def first_kept(self, model: int) -> int:
        """Return the number before which samples of the model may have been removed by `prune`."""
        ...

    def prune(self, model: int, before: int, newest: int, since: float) -> int:
        """Remove samples of a model that stand before event `before`; return how many.

        Parameters
        ----------
        model, before : int
            Whose, and which.
        newest : int
            So many of them, the newest, stay.
        since : float
            Of these, those that are older than this time go nevertheless.
        """
        ...

    def drop(self, model: int) -> None:
        """Remove a model, and every trace of its content but that there was one."""
        ...

    def probe(self) -> None:
        """Write something that means nothing: raises if that is not possible."""
        ...

    @property
    def head(self) -> int:
        """Number of the last event."""
        ...

    def now(self) -> float:
        """Return the time, in seconds since 1970, by a clock that never goes back."""
        ...

    def size(self) -> int:
        """Return how many bytes it takes."""
        ...

    @property
    def length(self) -> int:
        """How many events it has, of all models."""
        ...

    def close(self) -> None:
        """Let go of everything; the log is whole without it."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state that was kept.

    Attributes
    ----------
    name : str
        Of the checkpoint, among those of its model.
    model : int
        Whose state it is.
    branch, seq : int
        Branch and number of the last event that the state includes.
    step : int
        Samples learned.
    head : int
        Number of the last event of the whole log when it was made: a later `forget` may have outdated it.
    time : float
        When it was made, in seconds since 1970.
    size : int
        In bytes.
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
    """States of models; each is whole or not there.

    Raises
    ------
    StorageFullError
        By `save`: there is no room; nothing was kept.
    """

    def save(
        self, model: int, branch: int, seq: int, step: int, head: int, state: Mapping[str, Any]
    ) -> Checkpoint:
        """Keep a state, as `bnp_online.checkpoint.dumps` takes it, before returning; see `Checkpoint`."""
        ...

    def list(self, model: int) -> list[Checkpoint]:
        """Return what is kept of a model, the newest first; whether it is intact shows when it is loaded."""
        ...

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return a state.

        Raises
        ------
        CheckpointError
            If it is damaged, or of a later version.
        """
        ...

    def delete(self, checkpoint: Checkpoint) -> None:
        """Remove a state."""
        ...

    def drop(self, model: int) -> None:
        """Remove all states of a model."""
        ...


def lineage(branches: Sequence[Branch], after: int = 0, upto: int | None = None) -> list[Segment]:
    """Return the segments of a history that count: those on the way to the newest branch.

    Parameters
    ----------
    branches : sequence of Branch
        All of a model.
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


#: Greater than any number of an event.
LAST = 2**63 - 1
