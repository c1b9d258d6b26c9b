"""Log writer: one thread commits the events of all models. One commit contains all waiting events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from ..errors import PositionMovedError, StorageError, StorageFailedError
from ..telemetry.metrics import LogMetrics
from .interfaces import EventLog, Group

Logged: TypeAlias = "asyncio.Future[int | StorageError]"
"""The number of the last event of a group, once it is on the disk, or the error that refused it."""

#: Groups that one commit takes at most, and about how many bytes.
_LARGEST, _LARGEST_BYTES = 256, 2**23
#: Most groups of one sample whose results are set in one pass of the event loop, and number of samples after
#: which no larger group follows. Each result starts the application of its group. Other requests get a turn
#: between two passes.
_AT_ONCE, _SAMPLES = 8, 32

_logger = logging.getLogger(__name__)


class LogWriter:
    """Commits groups of events in the order of their submission.

    Parameters
    ----------
    log : EventLog
        The log of all models.
    metrics : LogMetrics
        Takes the duration of commits and the number of failures.
    """

    def __init__(self, log: EventLog, metrics: LogMetrics) -> None:
        self._log = log
        self._metrics = metrics
        self._waiting: deque[tuple[Group, Logged]] = deque()
        self._changed = threading.Condition()
        self._closing = self._waking = False
        self._wanted = False  # whether the groups that wait are to be committed
        # Results to set, on the event loop: of groups of one sample, and of larger ones with their sizes.
        self._small: deque[tuple[Logged, int | StorageError]] = deque()
        self._large: deque[tuple[Logged, int | StorageError, int]] = deque()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, group: Group, *, wake: bool = True) -> Logged:
        """Queue a group; return the future of its commit, on the running event loop.

        Parameters
        ----------
        group : Group
            The group.
        wake : bool
            Whether to commit it soon. If not, `wake` must follow: many groups take less time in one commit.
        """
        loop = asyncio.get_running_loop()
        logged: Logged = loop.create_future()
        with self._changed:
            if not self._closing:
                self._waiting.append((group, logged))
                if wake:
                    self._wake_in_next_pass(loop)
                return logged
        logged.set_result(StorageFailedError("the event log is closed"))
        return logged

    def wake(self) -> None:
        """Commit all groups that wait."""
        self._wake_in_next_pass(asyncio.get_running_loop())

    def _wake_in_next_pass(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the thread in the next pass of the event loop: groups of one pass are one commit."""
        if not self._waking:
            self._waking = True
            loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Wake the thread."""
        self._waking = False
        with self._changed:
            self._wanted = bool(self._waiting)
            self._changed.notify()

    def close(self) -> None:
        """Commit the groups that wait, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        taken: list[tuple[Group, Logged]] = []
        try:
            while taken := self._take():
                self._resolve(taken, self._commit([group for group, _ in taken]))
                taken = []
        finally:
            # Reached after an unexpected error too; `threading.excepthook` reports it.
            with self._changed:
                self._closing = True
                taken += self._waiting
            error = StorageFailedError("the thread that writes the event log has ended")
            self._resolve(taken, [error] * len(taken))

    def _take(self) -> list[tuple[Group, Logged]]:
        with self._changed:
            while not (self._wanted or self._closing):
                self._changed.wait()
            taken: list[tuple[Group, Logged]] = []
            size = 0
            while self._waiting and len(taken) < _LARGEST and size < _LARGEST_BYTES:
                taken.append(self._waiting.popleft())
                for event in taken[-1][0].events:
                    size += event.size
            self._wanted = bool(self._waiting)
            return taken

    def _commit(self, groups: list[Group]) -> Sequence[int | StorageError]:
        outcomes: Sequence[int | StorageError]
        start = time.perf_counter()
        try:
            outcomes = self._log.append(groups)
        except PositionMovedError as error:
            return self._commit_others(groups, error)
        except StorageError as error:
            outcomes = [error] * len(groups)
            self._metrics.failures.inc()
        else:
            self._metrics.commits.observe(time.perf_counter() - start)
        self._report(outcomes[0])
        return outcomes

    def _commit_others(
        self, groups: Sequence[Group], error: PositionMovedError
    ) -> Sequence[int | StorageError]:
        """Commit the groups that the error does not name."""
        rest = [i for i in range(len(groups)) if i not in error.groups]
        done = self._commit([groups[i] for i in rest]) if rest else ()
        outcomes: list[int | StorageError] = [error] * len(groups)
        for i, outcome in zip(rest, done, strict=True):
            outcomes[i] = outcome
        return outcomes

    def _report(self, outcome: int | StorageError) -> None:
        """Log the first failure of a series, and its end: there may be thousands of failures per second."""
        failing = isinstance(outcome, StorageError)
        if failing and not self._failing:
            _logger.error("the event log cannot be written, so no model learns: %s", outcome)
        elif self._failing and not failing:
            _logger.warning("the event log can be written again")
        self._failing = failing

    def _resolve(self, taken: Sequence[tuple[Group, Logged]], outcomes: Sequence[int | StorageError]) -> None:
        """Set the results of groups on the event loop, from the thread."""
        if taken:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing awaits the futures
                taken[0][1].get_loop().call_soon_threadsafe(self._add_results, taken, outcomes)

    def _add_results(
        self, taken: Sequence[tuple[Group, Logged]], outcomes: Sequence[int | StorageError]
    ) -> None:
        idle = not (self._small or self._large)
        for (group, logged), outcome in zip(taken, outcomes, strict=True):
            samples = sum(event.samples for event in group.events)
            if samples > 1:
                self._large.append((logged, outcome, samples))
            else:
                self._small.append((logged, outcome))
        if idle:
            self._set_results()

    def _set_results(self) -> None:
        """Set some results now, and the others in later passes of the event loop.

        Groups of one sample, such as single requests, do not wait for the larger ones of streams.
        """
        count = 0
        while self._small and count < _AT_ONCE:
            _set(*self._small.popleft())
            count += 1
        while self._large and count < _SAMPLES:
            logged, outcome, samples = self._large.popleft()
            _set(logged, outcome)
            count += samples
        if self._small or self._large:
            asyncio.get_running_loop().call_soon(self._set_results)


def _set(logged: Logged, outcome: int | StorageError) -> None:
    if not logged.done():
        logged.set_result(outcome)
