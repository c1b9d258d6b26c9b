"""Threads of the server, in pools of fixed size that all models share. All of them start with the server.

A pool that starts its threads on demand fails at the system's limit on threads: `ThreadPoolExecutor.submit`
queues the call before it starts the thread, and raises after that.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from typing import Final, TypeVar

T = TypeVar("T")

#: Threads for the log and the checkpoints. They wait for the disk, and for the locks of the log.
_STORAGE: Final = 8


class Threads:
    """Pools of threads. A call in a pool never waits for another call in a pool.

    Attributes
    ----------
    steps : Executor
        Steps, predictions and other reads of networks that are too large for the event loop. A model has at
        most one call here, and the calls run in order of arrival, so that models get equal shares.
    storage : Executor
        Reads and writes of the log and the checkpoints, and operations on a whole model. It is also the
        default executor of the event loop.
    maintenance : Executor
        Calls that may take minutes: replays of the log, and erasure.
    upgrades : Executor
        Upgrades of models, which may take hours. It has one thread, so that they leave processors to others.
    checkpoints : Executor
        Writes of checkpoints. It has one thread, which keeps their order.
    probe : Executor
        Checks of readiness. It has one thread, which a disk that hangs may block.

    Raises
    ------
    RuntimeError
        If a thread cannot be started.
    """

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        with ExitStack() as pools:  # ends the threads if a later pool cannot start
            self.steps = _start(pools, min(32, cores + 4), "steps")
            self.storage = _start(pools, _STORAGE, "storage")
            self.maintenance = _start(pools, min(8, max(2, cores // 2)), "maintenance")
            self.upgrades = _start(pools, 1, "upgrades")
            self.checkpoints = _start(pools, 1, "checkpoints")
            self.probe = _start(pools, 1, "probe")
            pools.pop_all()

    async def maintain(self, call: Callable[[], T]) -> T:
        """Return the result of a call that may take minutes, in the context of the caller."""
        return await _run(self.maintenance, call)

    async def relearn(self, call: Callable[[], T]) -> T:
        """Return the result of a call that relearns samples for an upgrade, in the context of the caller."""
        return await _run(self.upgrades, call)

    def close(self) -> None:
        """Wait for all calls, except for a probe, and end the threads."""
        self.probe.shutdown(wait=False)
        for pool in (self.steps, self.storage, self.maintenance, self.upgrades, self.checkpoints):
            pool.shutdown()


async def _run(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    run = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: run(call))


def _start(pools: ExitStack, size: int, name: str) -> ThreadPoolExecutor:
    """Return a pool of which all threads run."""
    pool, started = pools.enter_context(ThreadPoolExecutor(size, name)), threading.Barrier(size)
    try:
        for call in [pool.submit(started.wait) for _ in range(size)]:
            call.result()
    except RuntimeError as error:  # of the thread that could not start
        started.abort()
        raise RuntimeError(
            f"the system refuses to start {size} threads ({name}): raise the limit on processes and threads, "
            "for example `ulimit -u`, or `pids_limit` of a container"
        ) from error
    return pool
