"""Predictions that wait for their label: bounded in number, and each for a limited time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import AlreadyLabelledError, IdConflictError, UnknownIdError
from ..storage import event_codec


@dataclass(frozen=True, slots=True)
class _Entry:
    """A prediction that waits; once it has its label only the trace that it had one."""

    pending: event_codec.Pending
    digest: bytes
    labelled: bool = False


class PendingPredictions:
    """The newest `limit` predictions.

    Parameters
    ----------
    limit : int
        Beyond it the oldest go first.
    clock : callable
        Returns seconds; it must never go back, in no process.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._labelled = 0  # of these

    def __len__(self) -> int:
        """Return how many wait for their label, those counted that have expired and were not looked for."""
        return len(self._entries) - self._labelled

    def repeated(self, identifier: str, x: Any) -> dict[str, Any] | None:
        """Return the answer that was given under an id, None if there was none.

        A client that lost an answer may ask again, and gets the prediction that will be scored.

        Raises
        ------
        IdConflictError
            If that was for another `x`.
        AlreadyLabelledError
            If it has had its label.
        """
        entry = self._find(identifier)
        if entry is None:
            return None
        if entry.digest != event_codec.digest(x):
            raise IdConflictError("a prediction for another x waits under this id", "id")
        return _unlabelled(entry).pending.answer

    def add(self, identifier: str, pending: event_codec.Pending) -> None:
        """Keep a prediction for its label."""
        if (expired := self._entries.get(identifier)) is not None:
            self._labelled -= expired.labelled
        self._entries[identifier] = _Entry(pending, event_codec.digest(pending.x))
        if len(self._entries) > self._limit:
            self._drop_oldest()

    def get(self, identifier: str) -> event_codec.Pending:
        """Return the prediction that waits under an id.

        Raises
        ------
        UnknownIdError
            If none does, any more.
        AlreadyLabelledError
            If it has had its label.
        """
        entry = self._find(identifier)
        if entry is None:
            raise UnknownIdError("no prediction waits under this id: it was never made, or has expired", "id")
        return _unlabelled(entry).pending

    def label(self, identifier: str) -> None:
        """Note that a prediction has had its label, if it is still there."""
        if (entry := self._entries.get(identifier)) is not None:
            self._labelled += not entry.labelled
            self._entries[identifier] = _Entry(entry.pending._replace(x=None), entry.digest, labelled=True)

    def copy(self) -> PendingPredictions:
        """Return what waits now, which takes a fraction of the time of a `dump`."""
        twin = PendingPredictions(self._limit, self._clock)
        twin._entries, twin._labelled = self._entries.copy(), self._labelled
        return twin

    def dump(self) -> list[Any]:
        """Return everything, as JSON can hold it."""
        return [
            [name, event_codec.pack(entry.pending), entry.digest.hex(), entry.labelled]
            for name, entry in self._entries.items()
        ]

    def load(self, dumped: Iterable[Any]) -> None:
        """Take over what `dump` returned."""
        for name, packed, digest, labelled in dumped:
            self._entries[name] = _Entry(event_codec.unpack(packed), bytes.fromhex(digest), labelled)
            self._labelled += labelled

    def _find(self, identifier: str) -> _Entry | None:
        now = self._clock()
        while self._entries and next(iter(self._entries.values())).pending.expires <= now:
            self._drop_oldest()
        entry = self._entries.get(identifier)
        # One behind others that were promised more time, before the setting changed, may be over as well.
        return None if entry is None or entry.pending.expires <= now else entry

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._labelled -= entry.labelled


def _unlabelled(entry: _Entry) -> _Entry:
    if entry.labelled:
        raise AlreadyLabelledError("the prediction under this id has had its label", "id")
    return entry
