"""How long a model takes to answer, for `GET /api/stats/`."""

from __future__ import annotations

#: How much the latest call counts in the exponentially weighted mean.
_FADING = 0.3


class Latency:
    """Counts calls and averages how long they took, in constant space.

    Attributes
    ----------
    calls : int
        How many.
    recent : float
        Exponentially weighted mean, in seconds.

    Examples
    --------
    >>> durations = Durations()
    >>> durations.note(0.5)
    >>> durations.note(0.2, calls=2)  # two that were answered together
    >>> durations.calls, round(durations.mean, 6)
    (3, 0.3)
    """

    __slots__ = ("_total", "calls", "recent")

    def __init__(self) -> None:
        self.calls = 0
        self.recent = 0.0
        self._total = 0.0

    @property
    def mean(self) -> float:
        """Seconds that a call took on average; 0 without any."""
        return self._total / self.calls if self.calls else 0.0

    def note(self, seconds: float, calls: int = 1) -> None:
        """Take into account how long some calls took, each of them."""
        kept = (1 - _FADING) ** calls if self.calls else 0.0
        self.recent = kept * self.recent + (1 - kept) * seconds
        self.calls += calls
        self._total += calls * seconds
