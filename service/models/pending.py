"""Pending predictions: they wait for their label, limited in number, in bytes and in time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import AlreadyLabelledError, IdConflictError, UnknownIdError
from ..storage import event_codec


@dataclass(frozen=True, slots=True)
class _Stored:
    """A pending prediction, or the mark that an id was labelled.

    Attributes
    ----------
    body : bytes
        Body of its event. Decoded, it would take several times the memory.
    digest : bytes
        Digest of its sample.
    expires : float
        Time at which it expires.
    labelled : bool
        Whether it has its label. `body` is then the answer to no request.
    """

    body: bytes
    digest: bytes
    expires: float
    labelled: bool = False


class PendingPredictions:
    """Pending predictions of one model, by id.

    Parameters
    ----------
    limit, size : int
        Maximum number of predictions, and of bytes of their events. The oldest are dropped first. The limits
        do not depend on the machine, so a replay drops the same predictions.
    clock : callable
        Time in seconds. It must not go back, also after a restart.
    """

    def __init__(self, limit: int, size: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._size = size
        self._clock = clock
        self._entries: OrderedDict[str, _Stored] = OrderedDict()
        self._labelled = 0  # number of labelled entries
        self._bytes = 0

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
        return event_codec.decode_pending(_unlabelled(entry).body).answer

    def add(self, identifier: str, body: bytes, prediction: event_codec.Pending) -> None:
        """Add a prediction, given the body of its event and its content."""
        self._put(identifier, _Stored(body, event_codec.digest(prediction.x), prediction.expires))
        self._drop_excess()

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
        return event_codec.decode_pending(_unlabelled(entry).body)

    def label(self, identifier: str) -> None:
        """Mark a prediction as labelled, if it still exists."""
        if (entry := self._entries.get(identifier)) is not None:
            self._put(identifier, _labelled(entry))

    def copy(self) -> PendingPredictions:
        """Return a copy, in a fraction of the time of `dump`."""
        twin = PendingPredictions(self._limit, self._size, self._clock)
        twin._entries, twin._labelled = self._entries.copy(), self._labelled
        twin._bytes = self._bytes
        return twin

    def dump(self) -> list[Any]:
        """Return all entries as a value for `event_codec.dumps`."""
        return [
            [name, entry.body, entry.digest.hex(), entry.labelled] for name, entry in self._entries.items()
        ]

    def load(self, dumped: Iterable[Any]) -> None:
        """Load the entries from `dump`."""
        for name, packed, digest, labelled in dumped:
            entry = _Stored(event_codec.dumps(packed), bytes.fromhex(digest), packed[2])
            self._put(name, _labelled(entry) if labelled else entry)
        self._drop_excess()

    def _put(self, identifier: str, entry: _Stored) -> None:
        if (former := self._entries.get(identifier)) is not None:
            self._uncount(former)
        self._entries[identifier] = entry
        self._labelled += entry.labelled
        self._bytes += len(entry.body)

    def _uncount(self, entry: _Stored) -> None:
        self._labelled -= entry.labelled
        self._bytes -= len(entry.body)

    def _find(self, identifier: str) -> _Stored | None:
        now = self._clock()
        while self._entries and next(iter(self._entries.values())).expires <= now:
            self._drop_oldest()
        entry = self._entries.get(identifier)
        # After a change of the setting, a later entry may expire before an earlier one.
        return None if entry is None or entry.expires <= now else entry

    def _drop_excess(self) -> None:
        while len(self._entries) > self._limit or self._bytes > self._size:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._uncount(entry)


def _labelled(entry: _Stored) -> _Stored:
    """Return the mark that the prediction has its label."""
    body = event_codec.encode_pending(event_codec.Pending(None, {}, entry.expires))
    return _Stored(body, entry.digest, entry.expires, labelled=True)


def _unlabelled(entry: _Stored) -> _Stored:
    if entry.labelled:
        raise AlreadyLabelledError("the prediction with this id has its label", "id")
    return entry
