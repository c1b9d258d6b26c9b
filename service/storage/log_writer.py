"""The thread that writes the event log: what waits, of all models, is one commit."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..errors import StorageError, StorageFailedError
from ..telemetry.metrics import LogMetrics
from .interfaces import EventLog, Group

Done: TypeAlias = Callable[[int | StorageError], None]
"""Called, in the thread of the log writer, with the number of a group's last event, or why it is not kept."""

#: Groups that one commit takes at most.
_LARGEST = 256

_logger = logging.getLogger(__name__)


class LogWriter:
    """Commits groups of events in the order in which they come; whoever waits for one can do other things.

    Parameters
    ----------
    log : EventLog
        Where to.
    metrics : LogMetrics
        Where commits are timed and counted.
    """

    def __init__(self, log: EventLog, metrics: LogMetrics) -> None:
        self._log = log
        self._metrics = metrics
        self._waiting: deque[tuple[Group, Done]] = deque()
        self._bell = threading.Condition()
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, group: Group, done: Done) -> None:
        """Queue a group; `done` is called once it is kept, or is not."""
        with self._bell:
            if not self._closing:
                self._waiting.append((group, done))
                self._bell.notify()
                return
        done(StorageFailedError("the event log is closed"))

    def close(self) -> None:
        """Commit what waits, and end the thread."""
        with self._bell:
            self._closing = True
            self._bell.notify()
        self._thread.join()

    def _run(self) -> None:
        taken: list[tuple[Group, Done]] = []
        try:
            while taken := self._take():
                outcomes = self._commit([group for group, _ in taken])
                for (_, done), outcome in zip(taken, outcomes, strict=True):
                    done(outcome)
                taken = []
        finally:
            # Reached by an unforeseen error too, which then goes on to `threading.excepthook`.
            with self._bell:
                self._closing = True
                taken += self._waiting
            for _, done in taken:
                done(StorageFailedError("the thread that writes the event log has ended"))

    def _take(self) -> list[tuple[Group, Done]]:
        with self._bell:
            while not (self._waiting or self._closing):
                self._bell.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _LARGEST))]

    def _commit(self, groups: list[Group]) -> Sequence[int | StorageError]:
        outcomes: Sequence[int | StorageError]
        start = time.perf_counter()
        try:
            outcomes = self._log.append(groups)
        except StorageError as error:
            outcomes = [error] * len(groups)
            self._metrics.failures.inc()
        else:
            self._metrics.commits.observe(time.perf_counter() - start)
        self._report(outcomes[0])
        return outcomes

    def _report(self, outcome: int | StorageError) -> None:
        """Log when trouble begins and ends: in between it may come thousands of times a second."""
        failing = isinstance(outcome, StorageError)
        if failing and not self._failing:
            _logger.error("nothing can be learned: %s", outcome)
        elif self._failing and not failing:
            _logger.warning("the event log takes events again")
        self._failing = failing
