"""Losses of a model by event, until they are compared with those of another model."""

from __future__ import annotations

import base64
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Loss(NamedTuple):
    """Scores of the prediction for a sample that was learned.

    Attributes
    ----------
    seq : int
        Number of the event.
    score : float
        1.0 if the predicted label is right, else 0.0; the absolute error of a regression.
    loss : float
        Loss in nats, or squared error; NaN without a prediction.
    target : float
        Target of a regression; 0.0 for a classification.
    """

    seq: int
    score: float
    loss: float
    target: float


class Ledger:
    """One row for each sample that a model learned, in order of the events. A row takes 32 bytes.

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.add(7, 1.0, 0.25)
    >>> ledger.add(9, 0.0, None)
    >>> [row.seq for row in ledger.rows()], ledger.has(7), ledger.has(8)
    ([7, 9], True, False)
    """

    def __init__(self) -> None:
        self._seqs = array("q")
        self._values = array("d")  # score, loss and target of each row

    def __len__(self) -> int:
        return len(self._seqs)

    def add(self, seq: int, score: float, loss: float | None, target: float = 0.0) -> None:
        """Add a row; `loss` is None without a prediction."""
        self._seqs.append(seq)
        self._values.extend((score, math.nan if loss is None else loss, target))

    def add_many(
        self, first: int, scores: Sequence[float], losses: Sequence[float], targets: Sequence[float]
    ) -> None:
        """Add rows of consecutive events."""
        self._seqs.extend(range(first, first + len(losses)))
        for row in zip(scores, losses, targets, strict=True):
            self._values.extend(row)

    def has(self, seq: int) -> bool:
        """Return whether there is a row of an event."""
        at = bisect_left(self._seqs, seq)
        return at < len(self._seqs) and self._seqs[at] == seq

    def find(self, seq: int) -> Loss | None:
        """Return the row of an event."""
        at = bisect_left(self._seqs, seq)
        return self._row(at) if at < len(self._seqs) and self._seqs[at] == seq else None

    def rows(self) -> Iterator[Loss]:
        """Return all rows."""
        return map(self._row, range(len(self._seqs)))

    def _row(self, at: int) -> Loss:
        return Loss(self._seqs[at], *self._values[3 * at : 3 * at + 3])

    def count(self, first: int, last: int) -> int:
        """Return the number of rows with ``first <= seq <= last``."""
        return bisect_right(self._seqs, last) - bisect_left(self._seqs, first)

    def drop_until(self, seq: int) -> None:
        """Remove the rows of an event and all before."""
        at = bisect_right(self._seqs, seq)
        del self._seqs[:at], self._values[: 3 * at]

    def drop_after(self, seq: int) -> None:
        """Remove the rows of all events after an event."""
        at = bisect_right(self._seqs, seq)
        del self._seqs[at:], self._values[3 * at :]

    def copy(self) -> Ledger:
        """Return a copy."""
        twin = Ledger()
        twin._seqs, twin._values = self._seqs[:], self._values[:]
        return twin

    def state_dict(self) -> dict[str, str]:
        """Return the state, as JSON."""
        parts = {"seqs": self._seqs.tobytes(), "values": self._values.tobytes()}
        return {name: base64.b64encode(part).decode() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Load a state from `state_dict`."""
        self._seqs, self._values = array("q"), array("d")
        self._seqs.frombytes(base64.b64decode(state["seqs"]))
        self._values.frombytes(base64.b64decode(state["values"]))
