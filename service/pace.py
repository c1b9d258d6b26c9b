"""How many samples are learned in one call."""

from __future__ import annotations

import math

#: A quarter of the millisecond that other requests may wait: they wait for two calls, and each can take twice
#: what is expected.
CALL_SECONDS = 0.00025

_SHORTEST = 1e-7
_RISE = 1.1


class Pace:
    """Follows the time that a sample takes, and tells how many fit into one call.

    It has a say in when things happen, never in what: samples learned in one call leave the bits that a loop
    over them leaves. Other threads can only lengthen what is measured, so the estimate falls at once and
    rises slowly.

    Parameters
    ----------
    seconds : float
        How long a call may take, about.

    Examples
    --------
    >>> pace = Pace(seconds=0.001)
    >>> pace.samples, pace.short
    (1, False)
    >>> pace.note(4, 0.0004)
    >>> pace.samples, pace.short
    (10, True)
    >>> pace.note(10, 0.02)  # something else ran meanwhile
    >>> pace.samples
    9
    """

    def __init__(self, seconds: float = CALL_SECONDS) -> None:
        self._seconds = seconds
        self._by_sample = math.inf

    @property
    def short(self) -> bool:
        """Whether a call of one sample is known to take no longer than a call may."""
        return self._by_sample <= self._seconds

    @property
    def samples(self) -> int:
        """How many samples the next call takes, at least one."""
        return max(1, round(self._seconds / self._by_sample))

    def note(self, samples: int, seconds: float) -> None:
        """Take into account how long a call took."""
        self._by_sample = min(max(seconds / samples, _SHORTEST), self._by_sample * _RISE)
