"""Report of learning a stream: numbers of samples, scores, and the reasons of refusals."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from bnp_online.client.bulk import KEPT
from bnp_online.client.schemas import Task

from .output import CommandError

#: Number of predictions in the score of a progress bar.
_LATEST = 1000


@dataclass
class Report:
    """Result of learning a stream.

    Attributes
    ----------
    task : {"classification", "regression"}
        Task of the model.
    learned, refused : int
        Numbers of samples.
    refusals : list of str
        The first refusals, at most `KEPT`.
    seconds : float
        Duration.
    metrics : dict
        Prequential scores.
    """

    task: Task
    learned: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    seconds: float = 0.0
    metrics: dict[str, float | None] = field(default_factory=dict)
    #: First row and number of rows, by the reason of a refusal.
    _reasons: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Hits (0 or 1) or absolute errors of the latest predictions.
    _latest: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def refuse(self, number: int, reason: str) -> None:
        """Count a row that was not learned; the reason is a predicate, such as "has no target"."""
        self.refused += 1
        if len(self.refusals) < KEPT:
            self.refusals.append(f"row {number} {reason}")
        first, count = self._reasons.get(reason, (number, 0))
        if count or len(self._reasons) < KEPT:
            self._reasons[reason] = (first, count + 1)

    def count(self, y: Any, prediction: Any) -> None:
        """Count a learned sample, with its prediction: None if there was none."""
        self.learned += 1
        if prediction is not None:
            hit = self.task == "classification"
            self._latest.append(float(y == prediction) if hit else abs(y - prediction))

    def score(self) -> str:
        """Return the score of the latest predictions, as a text."""
        if not self._latest:
            return ""
        name = "accuracy" if self.task == "classification" else "MAE"
        return f"{name} {sum(self._latest) / len(self._latest):.4g} (last {len(self._latest):,})"

    def require_learned(self) -> None:
        """Raise `CommandError` if no sample was learned."""
        if not self.learned:
            reason = self.refused_rows(1)[0] if self.refused else "the file has no rows"
            raise CommandError(f"No sample was learned: {reason}")

    def refused_rows(self, most: int) -> list[str]:
        """Return a line for each of the first reasons of refusals: its first row, and its number of rows."""
        shown = list(self._reasons.items())[:most]
        lines = [
            f"row {first} {reason}{f' (and {count - 1:,} more)' if count > 1 else ''}"
            for reason, (first, count) in shown
        ]
        rest = self.refused - sum(count for _, (_, count) in shown)
        return [*lines, f"{rest:,} more rows: --json lists reasons"] if rest else lines

    def result(self) -> dict[str, Any]:
        """Return the result as a command prints it."""
        return {
            "learned": self.learned,
            "refused": self.refused,
            "seconds": self.seconds,
            "samples_per_second": self.learned / max(self.seconds, 1e-9),
            "metrics": self.metrics,
        }
