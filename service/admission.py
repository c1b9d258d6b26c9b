"""What may be learned: each request of a group is checked as if those before it had been learned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from bnp_online.encoding import Sample
from bnp_online.learner import Preview
from service.errors import REFUSALS, AlreadyLabelledError
from service.ids import Learned, LearnedIds, Pending, PendingPredictions, digest, same
from service.store.base import Event


class Learn(NamedTuple):
    """A sample to learn."""

    x: Any
    y: Any
    w: Any = 1.0
    id: str | None = None


class Label(NamedTuple):
    """The label of the prediction that was given under an id."""

    id: str
    y: Any


@dataclass(slots=True)
class Admitted:
    """A sample that passed all checks: it is logged and learned.

    Attributes
    ----------
    learned : Learned or None
        To be remembered, for a sample with an id.
    pending : Pending or None
        For a label: the prediction that it is of.
    """

    event: Event
    sample: Sample
    learned: Learned | None = None
    pending: Pending | None = None


Entry: TypeAlias = Admitted | Learned | Exception


class Admission:
    """Checks the requests of one group; neither the model nor what it remembers changes.

    Parameters
    ----------
    preview : Preview
        The model's check of samples to come.
    ids : LearnedIds
        What was learned under an id.
    pending : PendingPredictions
        What waits for its label.
    """

    def __init__(self, preview: Preview, ids: LearnedIds, pending: PendingPredictions) -> None:
        self._preview = preview
        self._ids = ids
        self._pending = pending
        self._fresh: dict[str, Learned] = {}  # ids of this group: remembered only once they are learned
        self._labelled: set[str] = set()

    def take(self, requests: Iterable[Learn | Label]) -> list[Entry]:
        """Return for each request the sample to learn, what its id stands for already, or its refusal."""
        entries: list[Entry] = []
        for request in requests:
            try:
                entry = self._learn(request) if isinstance(request, Learn) else self._label(request)
            except REFUSALS as error:
                entry = error
            entries.append(entry)
        return entries

    def _learn(self, request: Learn) -> Entry:
        x, y, w, identifier = request
        if identifier is None:
            return Admitted(Event("learn", x, y, w), self._preview.check(x, y, w))
        of = digest(x, y, w)
        if (known := self._fresh.get(identifier) or self._ids.get(identifier)) is not None:
            return same(known, of)
        sample = self._preview.check(x, y, w)
        learned = self._fresh[identifier] = Learned(of)
        return Admitted(Event("learn", x, y, w, identifier), sample, learned)

    def _label(self, request: Label) -> Admitted:
        pending = self._pending.get(request.id)
        if request.id in self._labelled:
            raise AlreadyLabelledError("the prediction under this id has had its label", "id")
        sample = self._preview.check(pending.x, request.y)
        self._labelled.add(request.id)
        given = (pending.answer["prediction"], pending.answer.get("probabilities"))
        event = Event("label", pending.x, request.y, 1.0, request.id, given)
        return Admitted(event, sample, pending=pending)
