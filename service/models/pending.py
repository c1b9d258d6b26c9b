"""Pending predictions: they wait for their label, limited in number, in bytes and in time."""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
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
        Maximum number of predictions, and of bytes of their events and of what their experts predicted. What
        the experts predicted is dropped first, then the predictions; the oldest first.
    lifetime : float
        Seconds before a new prediction expires.
    clock : callable
        Time in seconds. It must not go back, also after a restart.

    Notes
    -----
    A new prediction drops what had expired when it was made, and what is beyond the limits. The limits do not
    depend on the machine, and the clock drops nothing in between. So a replay drops the same.
    """

    def __init__(self, limit: int, size: int, lifetime: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._size = size
        self._lifetime = lifetime
        self._clock = clock
        self._entries: OrderedDict[str, _Stored] = OrderedDict()
        self._labelled = 0  # number of labelled entries
        self._experts: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = self._expert_bytes = 0

    def __len__(self) -> int:
        """Return the number of predictions without a label.

        Expired ones count until the next prediction.
        """
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
        if not event_codec.is_digest(entry.digest, x):
            raise IdConflictError("this id was used for a prediction with another x", "id")
        return event_codec.decode_pending(_unlabelled(entry).body).answer

    def add(
        self, identifier: str, body: bytes, prediction: event_codec.Pending, experts: bytes | None = None
    ) -> None:
        """Add a prediction: the body of its event, its content, and what its experts predicted."""
        made = prediction.expires - self._lifetime
        while self._entries and next(iter(self._entries.values())).expires <= made:
            self._drop(next(iter(self._entries)))
        if identifier in self._entries:  # an expired one, made with another lifetime
            self._drop(identifier)
        self._put(identifier, _Stored(body, event_codec.digest(prediction.x), prediction.expires))
        self._put_experts(identifier, experts)
        self._drop_excess()

    def experts(self, identifier: str) -> bytes | None:
        """Return what the experts of a prediction predicted, if it is kept."""
        return self._experts.get(identifier)

    @property
    def all_experts(self) -> dict[str, bytes]:
        """What the experts of all predictions predicted, as far as it is kept, by id."""
        return dict(self._experts)

    def replace_experts(self, experts: Mapping[str, bytes]) -> None:
        """Replace what the experts predicted, by id, of all predictions."""
        self._experts, self._expert_bytes = OrderedDict(), 0
        for identifier in [each for each in self._entries if each in experts]:
            self._put_experts(identifier, experts[identifier])
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
            self._drop_experts(identifier)

    def copy(self) -> PendingPredictions:
        """Return a copy, in a fraction of the time of `dump`."""
        twin = PendingPredictions(self._limit, self._size, self._lifetime, self._clock)
        twin._entries, twin._labelled = self._entries.copy(), self._labelled
        twin._experts = self._experts.copy()
        twin._bytes, twin._expert_bytes = self._bytes, self._expert_bytes
        return twin

    def dump(self) -> list[Any]:
        """Return all entries as a value for `event_codec.dumps`."""
        dumped: list[Any] = []
        for name, entry in self._entries.items():
            experts = self._experts.get(name)
            kept = [] if experts is None else [base64.b64encode(experts).decode()]
            dumped.append([name, entry.body, entry.digest.hex(), entry.labelled, *kept])
        return dumped

    def load(self, dumped: Iterable[Any]) -> None:
        """Load the entries from `dump`."""
        for name, packed, digest, labelled, *experts in dumped:
            entry = _Stored(event_codec.dumps(packed), bytes.fromhex(digest), packed[2])
            self._put(name, _labelled(entry) if labelled else entry)
            self._put_experts(name, base64.b64decode(experts[0]) if experts else None)
        self._drop_excess()

    def _put(self, identifier: str, entry: _Stored) -> None:
        if (former := self._entries.get(identifier)) is not None:
            self._uncount(former)
        self._entries[identifier] = entry
        self._labelled += entry.labelled
        self._bytes += len(entry.body)

    def _put_experts(self, identifier: str, experts: bytes | None) -> None:
        if experts is not None:
            self._experts[identifier] = experts
            self._expert_bytes += len(experts)

    def _drop_experts(self, identifier: str) -> None:
        self._expert_bytes -= len(self._experts.pop(identifier, b""))

    def _uncount(self, entry: _Stored) -> None:
        self._labelled -= entry.labelled
        self._bytes -= len(entry.body)

    def _find(self, identifier: str) -> _Stored | None:
        entry = self._entries.get(identifier)
        return None if entry is None or entry.expires <= self._clock() else entry

    def _drop_excess(self) -> None:
        while len(self._entries) > self._limit or self._bytes > self._size:
            self._drop(next(iter(self._entries)))
        while self._bytes + self._expert_bytes > self._size:
            self._drop_experts(next(iter(self._experts)))

    def _drop(self, identifier: str) -> None:
        self._uncount(self._entries.pop(identifier))
        self._drop_experts(identifier)


def _labelled(entry: _Stored) -> _Stored:
    """Return the mark that the prediction has its label."""
    body = event_codec.encode_pending(event_codec.Pending(None, {}, entry.expires))
    return _Stored(body, entry.digest, entry.expires, labelled=True)


def _unlabelled(entry: _Stored) -> _Stored:
    if entry.labelled:
        raise AlreadyLabelledError("the prediction with this id has its label", "id")
    return entry
