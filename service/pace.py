"""How many samples one call of the estimator takes."""

from __future__ import annotations

#: Half of the millisecond that a prediction may wait for a call: a step can take twice what is expected.
CALL_SECONDS = 0.0005

_FORGET = 0.2
_SHORTEST = 1e-7


class Pace:
    """Follows the time that a sample takes, and tells how many fit into one call.

    It has a say in when things happen, never in what: samples learned in one call leave the bits that a loop
    over them leaves.

    Parameters
    ----------
    seconds : float
        How long a call may take, about.

    Examples
    --------
    >>> pace = Pace(seconds=0.001)
    >>> pace.samples
    1
    >>> for _ in range(50):
    ...     pace.note(4, 0.0004)
    >>> pace.samples
    10
    """

    def __init__(self, seconds: float = CALL_SECONDS) -> None:
        self._seconds = seconds
        self._by_sample = seconds

    @property
    def samples(self) -> int:
        """How many samples the next call takes, at least one."""
        return max(1, round(self._seconds / self._by_sample))

    def note(self, samples: int, seconds: float) -> None:
        """Take into account how long a call took."""
        measured = max(seconds / samples, _SHORTEST)
        self._by_sample += _FORGET * (measured - self._by_sample)
