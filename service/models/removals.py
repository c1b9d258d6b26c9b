"""Completion of removals of data: deletion of checkpoints, and erasure of removed events from the disk.

A removal is committed before it arrives here, so it can no longer be refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from ..errors import DamagedEventError, StorageError
from ..storage.interfaces import EventLog

#: Seconds between two attempts after a failure: they double, from the first value to the second.
_SHORTEST, _LONGEST = 1.0, 60.0
#: Seconds between two erasures of events that retention removed.
_PERIOD = 300.0

_logger = logging.getLogger(__name__)


class Removals:
    """Completes removals, and tries again in the background if the disk is full or the log is in use.

    A start of the server completes what a killed server left. Construct it on a running event loop.

    Parameters
    ----------
    log : EventLog
        Log of all models.
    executor : Executor
        Executor of the checkpoints: a checkpoint that is being written is complete before it is deleted.
    """

    def __init__(self, log: EventLog, executor: Executor) -> None:
        self._log = log
        self._executor = executor
        #: By model: deletes files. Each waits for its completion.
        self._waiting: dict[int, Callable[[], None]] = {}
        self._closing = False
        self._failed = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.resume()

    def resume(self) -> None:
        """Erase what an earlier process could not."""
        if self._log.unerased:
            self.add(0, _nothing)
            self._failed.set()

    def waits(self, model: int) -> bool:
        """Return whether removed data of a model may still be on the disk."""
        return model in self._waiting

    def add(self, model: int, delete: Callable[[], None]) -> None:
        """Add a committed removal, for `complete`; any thread may call this.

        Parameters
        ----------
        model : int
            Number of the model.
        delete : callable
            Deletes the files with removed data, in the thread of the executor. May be called again.
        """
        self._waiting[model] = partial(delete)  # an object of its own, also for the same function

    async def complete(self, model: int) -> bool:
        """Complete the removal of a model; return False if this failed and is tried again later."""
        while delete := self._waiting.get(model):  # again, if more was removed meanwhile
            if not await self._try(model, delete):
                return False
        return True

    async def close(self) -> None:
        """Stop trying. The next start completes what is left."""
        self._closing = True
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _try(self, model: int, delete: Callable[[], None]) -> bool:
        if self._closing:
            return False
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._finish, delete)
        except (StorageError, DamagedEventError) as error:
            if not self._failed.is_set():
                _logger.warning("cannot erase removed data now, trying again: %s", error)
            self._failed.set()
            return False
        if self._waiting.get(model) is delete:
            del self._waiting[model]
        if self._failed.is_set() and not self._waiting:
            _logger.info("all removed data is erased")
            self._failed.clear()
        return True

    def _finish(self, delete: Callable[[], None]) -> None:
        delete()
        self._log.erase()

    async def _run(self) -> None:
        pause = _SHORTEST
        while True:
            try:
                await asyncio.wait_for(self._failed.wait(), _PERIOD)
            except TimeoutError:
                self.add(0, _nothing)
                await self.complete(0)
                continue
            await asyncio.sleep(pause)
            for model, delete in [*self._waiting.items()]:
                await self._try(model, delete)
            pause = min(2 * pause, _LONGEST) if self._failed.is_set() else _SHORTEST


def _nothing() -> None:
    """Delete no file: events alone were removed."""
