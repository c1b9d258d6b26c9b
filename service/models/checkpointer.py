"""Checkpointer: schedule of the checkpoints of a model, and retention of checkpoints and events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from typing import Any

from ..errors import StorageError
from ..settings import Settings
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Checkpoints
from . import snapshot
from .hosted import HostedModel

_logger = logging.getLogger(__name__)


class Checkpointer:
    """Takes checkpoints of one model. The state is copied with exclusive access, and written by a thread.

    Parameters
    ----------
    history : History
        History of the model.
    checkpoints : Checkpoints
        Checkpoints of all models.
    settings : Settings
        Interval and retention.
    executor : Executor
        Executor with one thread, which keeps the order.
    report : callable
        Called in that thread with each checkpoint.
    unerased : callable
        Returns whether removed data of a model, by number, may still be on the disk.

    Attributes
    ----------
    every : int
        Number of steps between two checkpoints.
    step, sequence : int
        Step and last event of the latest checkpoint, or of the state at the start.
    paused : bool
        True while the model includes unlearned samples: no checkpoint is taken.
    """

    def __init__(
        self,
        history: History,
        checkpoints: Checkpoints,
        settings: Settings,
        executor: Executor,
        report: Callable[[Checkpoint], None],
        unerased: Callable[[int], bool] = lambda model: False,
    ) -> None:
        self._history = history
        self._checkpoints = checkpoints
        self._settings = settings
        self._executor = executor
        self._report = report
        self._unerased = unerased
        self._saving: Future[Checkpoint] | None = None
        self.every = settings.checkpoint_every
        self.step = self.sequence = 0
        self.paused = False
        self._holders = 0  # operations that depend on old checkpoints and samples

    @property
    def unlearning(self) -> bool:
        """Whether the model still includes unlearned samples, or their data may still be on the disk."""
        return self.paused or self._unerased(self._history.model)

    def begin(self, model: HostedModel) -> None:
        """Count steps from the state of a model."""
        self.step, self.sequence = model.step, model.sequence

    def due(self, model: HostedModel) -> bool:
        """Return whether a checkpoint is due."""
        due = abs(model.step - self.step) >= self.every
        return due and not self.paused and (self._saving is None or self._saving.done())

    def keep(self, model: HostedModel) -> None:
        """Take a checkpoint; an error is logged."""
        self.take(model).add_done_callback(_report)

    def take(self, model: HostedModel) -> Future[Checkpoint]:
        """Take a checkpoint, with exclusive access. The future is done once it is on the disk."""
        self.begin(model)
        where = (model.sequence, model.step, self._history.log.head)
        branch = self._history.branch
        self._saving = self._executor.submit(self._save, branch, where, snapshot.taking(model))
        return self._saving

    def changed(self, model: HostedModel) -> bool:
        """Return whether a model has changed since the latest checkpoint, and may take one."""
        return not self.paused and model.sequence != self.sequence

    def list(self) -> list[Checkpoint]:
        """Return the checkpoints of the model, newest first."""
        return self._checkpoints.list(self._history.model)

    def purge(self) -> None:
        """Remove checkpoints that include unlearned samples."""
        for kept in self._history.tainted(self.list()):
            self._checkpoints.delete(kept)

    def _save(
        self, branch: int, where: tuple[int, int, int], state: Callable[[], dict[str, Any]]
    ) -> Checkpoint:
        seq, step, head = where
        kept = self._checkpoints.save(self._history.model, branch, seq, step, head, state())
        self._report(kept)
        try:
            self._retain()
        except StorageError as error:  # the checkpoint is on the disk; the next one removes what is too old
            _logger.warning("cannot remove old checkpoints and samples now: %s", error)
        return kept

    def _retain(self) -> None:
        """Remove the oldest checkpoints beyond the limit, and the samples that no other checkpoint needs.

        Checkpoints that cannot restore the model are of other branches or include forgotten samples. They are
        the first to go, and the samples after the newest usable checkpoint stay.
        """
        if self._holders:
            return
        settings, found = self._settings, self.list()
        usable = self._history.states(found)
        if not usable:
            return
        kept = [*usable, *(each for each in found if each not in usable)][: settings.keep_checkpoints]
        for old in set(found).difference(kept):
            self._checkpoints.delete(old)
        oldest = usable[: settings.keep_checkpoints][-1]
        age = settings.retain_seconds
        since = 0.0 if age is None else self._history.log.now() - age
        self._history.log.prune(
            self._history.model, oldest.seq + 1, settings.retain_events, settings.retain_bytes, since
        )

    @asynccontextmanager
    async def retaining_all(self) -> AsyncIterator[None]:
        """Remove no checkpoint and no sample during the block: an operation depends on them.

        The next checkpoint after the block removes them.
        """
        self._holders += 1
        try:
            # The executor keeps the order: afterwards no earlier checkpoint is being written.
            await asyncio.wrap_future(self._executor.submit(lambda: None))
            yield
        finally:
            self._holders -= 1


def _report(saving: Future[Checkpoint]) -> None:
    """Log the error of a checkpoint; the next one is taken when it is due."""
    error = saving.exception()
    if isinstance(error, StorageError):
        _logger.error("cannot write a checkpoint: %s", error)
    elif error is not None:
        _logger.critical("cannot write a checkpoint", exc_info=error)
