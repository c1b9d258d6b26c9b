"""Pending predictions: they wait for their label, limited in number and in time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import AlreadyLabelledError, IdConflictError, UnknownIdError
from ..storage import event_codec


@dataclass(frozen=True, slots=True)
class _Stored:
    """A pending prediction, or the mark that an id was labelled."""

    pending: event_codec.Pending
    digest: bytes
    labelled: bool = False


class PendingPredictions:
    """Pending predictions of one model, by id.

    Parameters
    ----------
    limit : int
        Largest number of predictions. The oldest are dropped first.
    clock : callable
        Time in seconds. It must not go back, also after a restart.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._entries: OrderedDict[str, _Stored] = OrderedDict()
        self._labelled = 0  # number of labelled entries

    def __len__(self) -> int:
        """Return the number of predictions without a label, including expired ones until the next search."""
        return len(self._entries) - self._labelled

    def repeated(self, identifier: str, x: Any) -> dict[str, Any] | None:
        """Return the earlier answer for an id, None for a new id.

        A client that lost the answer may ask again, and gets the prediction that will be scored.

        Raises
        ------
        IdConflictError
            If the prediction was for another `x`.
        AlreadyLabelledError
            If the prediction has its label.
        """
        entry = self._find(identifier)
        if entry is None:
            return None
        if entry.digest != event_codec.digest(x):
            raise IdConflictError("this id was used for a prediction with another x", "id")
        return _unlabelled(entry).pending.answer

    def add(self, identifier: str, pending: event_codec.Pending) -> None:
        """Add a prediction."""
        if (expired := self._entries.get(identifier)) is not None:
            self._labelled -= expired.labelled
        self._entries[identifier] = _Stored(pending, event_codec.digest(pending.x))
        if len(self._entries) > self._limit:
            self._drop_oldest()

    def get(self, identifier: str) -> event_codec.Pending:
        """Return the pending prediction with an id.

        Raises
        ------
        UnknownIdError
            If there is none, or it has expired.
        AlreadyLabelledError
            If the prediction has its label.
        """
        entry = self._find(identifier)
        if entry is None:
            raise UnknownIdError(
                "no prediction with this id is pending: it was never made, or it has expired", "id"
            )
        return _unlabelled(entry).pending

    def label(self, identifier: str) -> None:
        """Mark a prediction as labelled, if it still exists."""
        if (entry := self._entries.get(identifier)) is not None:
            self._labelled += not entry.labelled
            self._entries[identifier] = _Stored(entry.pending._replace(x=None), entry.digest, labelled=True)

    def copy(self) -> PendingPredictions:
        """Return a copy, in a fraction of the time of `dump`."""
        twin = PendingPredictions(self._limit, self._clock)
        twin._entries, twin._labelled = self._entries.copy(), self._labelled
        return twin

    def dump(self) -> list[Any]:
        """Return all entries as a JSON value."""
        return [
            [name, event_codec.pack(entry.pending), entry.digest.hex(), entry.labelled]
            for name, entry in self._entries.items()
        ]

    def load(self, dumped: Iterable[Any]) -> None:
        """Load the entries from `dump`."""
        for name, packed, digest, labelled in dumped:
            self._entries[name] = _Stored(event_codec.unpack(packed), bytes.fromhex(digest), labelled)
            self._labelled += labelled

    def _find(self, identifier: str) -> _Stored | None:
        now = self._clock()
        while self._entries and next(iter(self._entries.values())).pending.expires <= now:
            self._drop_oldest()
        entry = self._entries.get(identifier)
        # After a change of the setting, a later entry may expire before an earlier one.
        return None if entry is None or entry.pending.expires <= now else entry

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._labelled -= entry.labelled


def _unlabelled(entry: _Stored) -> _Stored:
    if entry.labelled:
        raise AlreadyLabelledError("the prediction with this id has its label", "id")
    return entry
