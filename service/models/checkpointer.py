"""Keeps checkpoints of one model, and removes what is no longer needed for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from ..errors import StorageError
from ..settings import Settings
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Checkpoints
from . import snapshot
from .hosted import HostedModel

_logger = logging.getLogger(__name__)


class Checkpointer:
    """Takes a checkpoint every so many steps: the state in the model's turn, the rest in a thread.

    Parameters
    ----------
    history : History
        Of the model.
    checkpoints : Checkpoints
        Of all models.
    settings : Settings
        How often, and how much is kept.
    executor : Executor
        With one thread, so that what is done here is done in order.
    report : callable
        Called with each checkpoint that was kept, in that thread.

    Attributes
    ----------
    paused : bool
        While True nothing is kept: the model includes samples that were forgotten.
    """

    def __init__(
        self,
        history: History,
        checkpoints: Checkpoints,
        settings: Settings,
        executor: Executor,
        report: Callable[[Checkpoint], None],
    ) -> None:
        self._history = history
        self._checkpoints = checkpoints
        self._settings = settings
        self._executor = executor
        self._report = report
        self._saving: Future[Checkpoint] | None = None
        self._kept_step = self._kept_sequence = 0
        self.paused = False

    def begin(self, model: HostedModel) -> None:
        """Count steps from where a model is."""
        self._kept_step, self._kept_sequence = model.step, model.sequence

    def due(self, model: HostedModel) -> bool:
        """Return whether it is time to take a checkpoint."""
        due = abs(model.step - self._kept_step) >= self._settings.checkpoint_every
        return due and not self.paused and (self._saving is None or self._saving.done())

    def keep(self, model: HostedModel) -> None:
        """Take a checkpoint, and log it if that fails."""
        self.take(model).add_done_callback(_report)

    def take(self, model: HostedModel) -> Future[Checkpoint]:
        """Take a checkpoint now, in the model's turn. The future is done once it is on the disk."""
        self.begin(model)
        where = (model.sequence, model.step, self._history.log.head)
        branch = self._history.branch
        self._saving = self._executor.submit(self._save, branch, where, snapshot.taking(model))
        return self._saving

    def changed(self, model: HostedModel) -> bool:
        """Return whether a model has moved since the last checkpoint, and may be kept."""
        return not self.paused and model.sequence != self._kept_sequence

    def list(self) -> list[Checkpoint]:
        """Return what is kept, the newest first."""
        return self._checkpoints.list(self._history.model)

    def purge(self) -> None:
        """Remove checkpoints that include forgotten samples, and every trace of these from the log."""
        for kept in self._history.tainted(self.list()):
            self._checkpoints.delete(kept)
        self._history.log.erase()

    def drop(self) -> None:
        """Remove all checkpoints."""
        self._checkpoints.drop(self._history.model)

    def _save(
        self, branch: int, where: tuple[int, int, int], state: Callable[[], dict[str, Any]]
    ) -> Checkpoint:
        seq, step, head = where
        kept = self._checkpoints.save(self._history.model, branch, seq, step, head, state())
        self._report(kept)
        self._retain()
        return kept

    def _retain(self) -> None:
        """Remove the oldest checkpoints beyond the limit, and samples that no kept one needs."""
        settings, kept = self._settings, self.list()
        for old in kept[settings.keep_checkpoints :]:
            self._checkpoints.delete(old)
        oldest = kept[: settings.keep_checkpoints][-1]
        age = settings.retain_seconds
        since = 0.0 if age is None else self._history.log.now() - age
        self._history.log.prune(self._history.model, oldest.seq + 1, settings.retain_events, since)


def _report(saving: Future[Checkpoint]) -> None:
    """Log why a checkpoint was not kept; the next one is tried when it is due."""
    error = saving.exception()
    if isinstance(error, StorageError):
        _logger.error("no checkpoint was kept: %s", error)
    elif error is not None:
        _logger.critical("no checkpoint was kept", exc_info=error)
