"""What a writer puts into the event log, while it goes on with other things."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import StorageError
from ..storage.event_codec import dumps
from ..storage.history import History
from ..storage.interfaces import Event
from ..storage.log_writer import LogWriter
from .hosted import Applied, HostedModel
from .queue import Job, settle
from .validation import Entry, PredictionEvent, SampleEvent

Logging: TypeAlias = "asyncio.Future[int | StorageError]"
"""The number of the last event, once all are kept, or why none is."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Group:
    """Requests that were admitted together, and are being logged.

    Attributes
    ----------
    jobs : sequence of Job
        Whose they are.
    entries : list
        What is to be done for each of them.
    logging : Future or None
        None if none of them is an event.
    """

    jobs: Sequence[Job]
    entries: list[Entry]
    logging: Logging | None

    async def logged(self) -> StorageError | None:
        """Wait until the events are logged, and number them; if they cannot be, refuse them, and say why."""
        if self.logging is None:
            return None
        outcome = await self.logging
        events = [entry for entry in self.entries if isinstance(entry, SampleEvent | PredictionEvent)]
        if isinstance(outcome, StorageError):
            for entry in events:
                entry.refuse(outcome)
            self.entries = [
                outcome if isinstance(entry, SampleEvent | PredictionEvent) else entry
                for entry in self.entries
            ]
            return outcome
        for seq, entry in enumerate(events, outcome - len(events) + 1):
            entry.seq = seq
        return None


class Journal:
    """Notes in the log what is about to happen to one model, and what came of it.

    Parameters
    ----------
    history : History
        Of the model.
    log_writer : LogWriter
        Writes the log.
    """

    def __init__(self, history: History, log_writer: LogWriter) -> None:
        self._history = history
        self._log_writer = log_writer

    def group(self, jobs: Sequence[Job], entries: list[Entry]) -> Group:
        """Have what was admitted logged."""
        events = [entry.event for entry in entries if isinstance(entry, SampleEvent | PredictionEvent)]
        return Group(jobs, entries, self._append(events) if events else None)

    def _append(self, events: Sequence[Event]) -> Logging:
        loop = asyncio.get_running_loop()
        kept: Logging = loop.create_future()

        def done(outcome: int | StorageError) -> None:
            with contextlib.suppress(RuntimeError):  # a closed loop: the server was killed, nobody waits
                loop.call_soon_threadsafe(settle, kept, outcome)

        self._log_writer.submit(self._history.group(events), done)
        return kept

    async def correct(self, applied: Applied) -> None:
        """Note what came out otherwise than was expected when it was logged."""
        if not applied.surprising:
            return
        try:
            await asyncio.to_thread(self._history.log.correct, applied.refused, applied.steps)
        except StorageError as error:  # a restart would find out by itself
            _logger.warning("a refusal could not be noted in the log: %s", error)

    async def note_actions(self, model: HostedModel) -> None:
        """Note what was done about drifts."""
        if noted := model.acted[:]:
            outcome = await self._append([Event("action", dumps(done)) for done in noted])
            if isinstance(outcome, StorageError):  # the next group tries again
                _logger.warning("an action could not be noted in the log: %s", outcome)
            else:
                del model.acted[: len(noted)]
