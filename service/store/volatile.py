"""A log that numbers the events and keeps none: the state goes with the process."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from service.store.base import Event


class VolatileLog:
    """An `EventLog` for a server whose state lives in memory.

    Examples
    --------
    >>> log = VolatileLog()
    >>> log.append("default", [Event("learn", {"a": 1.0}, "cat", 1.0)])
    1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def append(self, model: str, events: Sequence[Event]) -> int:
        """Give numbers to a group of events."""
        with self._lock:
            self._last += len(events)
            return self._last
