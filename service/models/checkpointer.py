"""Checkpointer: schedule of the checkpoints of a model, and retention of checkpoints and events."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from bnp_online.errors import StateError

from ..errors import StorageError
from ..settings import Settings
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Checkpoints
from . import snapshot
from .hosted import HostedModel, Replay

#: Seconds until a checkpoint that could not be written is due again.
_PAUSE = 10.0

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
    events, bytes : int
        Number and size of the events in the log since the newest checkpoint: what a start would replay.
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
        self._retry_at = 0.0
        self._counting = threading.Lock()  # the event loop and the executor count
        self.events = self.bytes = 0
        self.paused = False
        self._correcting = threading.Lock()
        self._refused, self._steps = dict[int, str](), dict[int, int]()  # that the log could not take
        self._holders = 0  # operations that depend on old checkpoints and samples
        self._needed = dict[str, int]()  # by checkpoint: the event after which it needs the log

    @property
    def unlearning(self) -> bool:
        """Whether the model still includes unlearned samples, or their data may still be on the disk."""
        return self.paused or self._unerased(self._history.model)

    def begin(self, replay: Replay) -> None:
        """Count from a replay: the model consists of a checkpoint and the events of the replay."""
        with self._counting:
            self.events, self.bytes = replay.events, replay.bytes

    def add(self, events: int, size: int) -> None:
        """Count logged events, and their size in bytes."""
        with self._counting:
            self.events += events
            self.bytes += size

    def pause(self) -> None:
        """Take no checkpoint: the model includes unlearned samples. A rebuild records all steps anew."""
        self.paused = True
        self._steps = {}

    def correct(self, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
        """Record refusals and steps in the log (`EventLog.correct`), with those of calls that failed.

        No checkpoint is written before that: a start from it would not find them again.

        Raises
        ------
        StorageError
            If the log cannot be written.
        """
        with self._correcting:
            self._refused.update(refused)
            if not self.paused:
                self._steps.update(steps)
            if self._refused or self._steps:
                self._history.correct(self._refused, self._steps)
                self._refused, self._steps = {}, {}

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due. After an error the next one is due some seconds later."""
        if self.events < self._settings.checkpoint_every and self.bytes < self._settings.checkpoint_bytes:
            return False
        free = self._saving is None or self._saving.done()
        return free and not self.paused and time.monotonic() >= self._retry_at

    def keep(self, model: HostedModel) -> None:
        """Take a checkpoint; an error is logged."""
        self.take(model).add_done_callback(_report)

    def take(self, model: HostedModel, executor: Executor | None = None) -> Future[Checkpoint]:
        """Take a checkpoint, with exclusive access. The future is done once it is on the disk.

        Another executor may write it if no other checkpoint of the model is being written.
        """
        with self._counting:
            counted = self.events, self.bytes
            self.events = self.bytes = 0
        where = (model.sequence, model.step, self._history.head)
        branch = self._history.branch
        state = snapshot.taking(model)
        saving = (executor or self._executor).submit(self._save, branch, where, state)
        saving.add_done_callback(partial(self._saved, counted))
        self._saving = saving
        return saving

    def _saved(self, counted: tuple[int, int], saving: Future[Checkpoint]) -> None:
        """Count the events again if the checkpoint was not written."""
        if saving.cancelled() or saving.exception() is not None:
            self.add(*counted)
            self._retry_at = time.monotonic() + _PAUSE

    async def written(self) -> None:
        """Wait until no checkpoint is being written."""
        if self._saving is not None:
            await asyncio.wait([asyncio.wrap_future(self._saving)])

    @property
    def changed(self) -> bool:
        """Whether a model has changed since its newest checkpoint, and may take one."""
        return self.events > 0 and not self.paused

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
        log = self._history.log
        self.correct({}, {})
        log.flush()  # no checkpoint is ahead of the log on the disk
        signed = snapshot.sign(state(), log.checksum(self._history.model, seq))
        kept = self._checkpoints.save(self._history.model, branch, seq, step, head, signed)
        self._needed[kept.name] = snapshot.earliest(signed)
        self._report(kept)
        try:
            self._retain()
        except StorageError as error:  # the checkpoint is on the disk; the next one removes what is too old
            _logger.warning("cannot remove old checkpoints and samples now: %s", error)
        return kept

    def _retain(self) -> None:
        """Remove the oldest checkpoints beyond the limit, and the samples that no other checkpoint needs.

        Checkpoints that cannot restore the model are of other branches or include forgotten samples. They are
        the first to go, and the samples after the newest usable checkpoint stay. So do the samples that an
        upgrade relearns.
        """
        if self._holders:
            return
        upgrading = self._history.upgrading  # first: another thread may complete it now
        settings, found = self._settings, self.list()
        if not self._history.states(found):
            return  # a start needs the samples
        usable = self._history.available(found)
        kept = [*usable, *(each for each in found if each not in usable)][: settings.keep_checkpoints]
        for old in set(found).difference(kept):
            self._checkpoints.delete(old)
            self._needed.pop(old.name, None)
        oldest = self._needs(usable[: settings.keep_checkpoints][-1])
        first = oldest + 1 if upgrading is None else min(oldest, upgrading.after) + 1
        age = settings.retain_seconds
        since = 0.0 if age is None else self._history.log.now() - age
        self._history.log.prune(
            self._history.model, first, settings.retain_events, settings.retain_bytes, since
        )

    def _needs(self, kept: Checkpoint) -> int:
        """Return the event after which a checkpoint needs the log: shadows may lag behind their champion."""
        if kept.name not in self._needed:
            self._needed[kept.name] = kept.seq
            if self._history.log.changes(self._history.model, "shadow"):  # of an earlier process
                with suppress(StateError, OSError):  # no start uses a damaged one
                    self._needed[kept.name] = snapshot.earliest(self._checkpoints.load(kept))
        return self._needed[kept.name]

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
