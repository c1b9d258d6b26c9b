"""Readiness of the server: the log can be written, and every model answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from ..errors import (
    ModelFailedError,
    NotReadyError,
    QueueFullError,
    ShuttingDownError,
    StorageError,
    UnknownModelError,
)
from ..storage.interfaces import EventLog
from .worker import Worker

#: Seconds from the start of a check to the start of the next one, at least.
INTERVAL = 1.0

_logger = logging.getLogger(__name__)


def _ready() -> None:
    """Find no fault: there is no cluster."""


class Readiness:
    """Checks for callers without a key. All callers share one check, and its result for a second.

    A check writes to the log. A write that hangs blocks one thread, which has no other work, and the next
    checks wait for the same write.

    Parameters
    ----------
    log : EventLog
        Log of all models.
    thread : Executor
        Writes to the log.
    workers : callable
        Returns the workers of all models.
    timeout : float
        Seconds after which a check fails.
    """

    def __init__(
        self, log: EventLog, thread: Executor, workers: Callable[[], Iterable[Worker]], timeout: float
    ) -> None:
        self._log = log
        self._thread = thread
        self._workers = workers
        self._timeout = timeout
        self._check: asyncio.Task[str | None] | None = None
        self._next = 0.0
        self._write: asyncio.Future[None] | None = None
        self._fault: str | None = None
        #: Returns why the process is not ready in its cluster; None if it is.
        self.in_cluster: Callable[[], str | None] = _ready

    async def require(self) -> None:
        """Return if the server is ready.

        Raises
        ------
        NotReadyError
            If the log cannot be written, or if a model does not answer. The message does not name the model.
        """
        now = time.monotonic()
        if self._check is None or (self._check.done() and now >= self._next):
            self._next = now + INTERVAL
            self._check = asyncio.create_task(self._find_fault())
        fault = await asyncio.shield(self._check)
        if fault is not None:
            raise NotReadyError(fault)

    async def _find_fault(self) -> str | None:
        busy = [self._fault_of(worker) for worker in self._workers() if not worker.idle]
        in_log, *in_models = await asyncio.gather(self._fault_of_log(), *busy)
        reasons = [reason for reason in in_models if reason is not None]
        fault = in_log or self.in_cluster()
        self._report(fault or "; ".join(reasons[:3]) or None)
        return fault or ("a model does not answer: see the log of the server" if reasons else None)

    def _report(self, fault: str | None) -> None:
        """Log a change: the access log has no health checks."""
        if fault == self._fault:
            return
        if fault is None:
            _logger.info("Ready again")
        else:
            _logger.warning("Not ready: %s", fault)
        self._fault = fault

    async def _fault_of_log(self) -> str | None:
        if self._write is None or self._write.done():
            self._write = asyncio.get_running_loop().run_in_executor(self._thread, self._log.probe)
        try:
            await asyncio.wait_for(asyncio.shield(self._write), self._timeout)
        except TimeoutError:
            return f"the log did not answer within {self._timeout:g} s"
        except StorageError as error:
            return error.message
        return None

    async def _fault_of(self, worker: Worker) -> str | None:
        name = worker.model.name
        if worker.diverged:
            return f"model {name!r} is being restored"
        try:
            async with asyncio.timeout(self._timeout):
                await worker.ask(lambda model: model.step, short=True)
        except TimeoutError:
            return f"model {name!r} did not answer within {self._timeout:g} s"
        except (ModelFailedError, NotReadyError, QueueFullError, ShuttingDownError) as error:
            return error.message
        except UnknownModelError:
            return None  # deleted meanwhile
        return None
