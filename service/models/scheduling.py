"""Scheduling: exclusive access to a model, the length of a call, and fair turns on the event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from types import coroutine
from typing import Any, TypeVar

import numpy as np

from bnp_online.values import Flag

from .threads import Threads

T = TypeVar("T")

#: Seconds that a call on the event loop takes at most, about. A request waits for two calls, each of which
#: can take twice as long as expected, and should wait at most a millisecond.
CALL_SECONDS = 0.00025
#: Samples that are decoded, checked or predicted before other requests get a turn. They take 0.1 to 0.2 ms.
SLICE = 16

_SHORTEST = 1e-7
_RISE = 1.1


class ModelAccess:
    """Serialises access to one model. Short operations run on the event loop, long ones in a thread.

    Handing a step of a small network to another thread takes ten times as long as the step. A long operation
    on the event loop delays all other requests.

    Parameters
    ----------
    threads : Threads
        Threads of all models.

    Attributes
    ----------
    locked : callable
        Returns whether an operation runs. If not, the event loop may run a short one without `run`.
    waiting : Flag
        Number of operations that wait for the running one, in an array that compiled code reads.
    """

    def __init__(self, threads: Threads) -> None:
        self._lock = asyncio.Lock()  # first come, first served
        self.locked = self._lock.locked
        self.threads = threads
        self.waiting: Flag = np.zeros(1, np.int64)

    async def run(
        self, operation: Callable[[], T], *, short: bool = False, pool: Executor | None = None
    ) -> T:
        """Run an operation when no other one runs; return its result or raise its error.

        Parameters
        ----------
        operation : callable
            Function without arguments. In the thread it runs to its end, also if the caller is cancelled.
        short : bool
            Whether to run it on the event loop.
        pool : Executor, optional
            Threads for a long operation, by default those for steps.
        """
        if not short:
            running = self._run_in_thread(operation, pool or self.threads.steps)
            return await asyncio.shield(asyncio.create_task(running))
        if not self.locked():
            return operation()
        await self._acquire()
        try:
            return operation()
        finally:
            self._lock.release()

    async def _run_in_thread(self, operation: Callable[[], T], pool: Executor) -> T:
        await self._acquire()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, operation)
        finally:
            self._lock.release()

    async def _acquire(self) -> None:
        self.waiting[0] += 1
        try:
            await self._lock.acquire()
        finally:
            self.waiting[0] -= 1

    async def close(self) -> None:
        """Wait for the running operation."""
        await self._acquire()
        self._lock.release()


class EagerTask:
    """Work that starts when it is woken: up to its first wait on the event loop, and then in a task.

    Most work never waits, and then costs a tenth of a task. Construct it on a running event loop.

    Parameters
    ----------
    work : callable
        Coroutine function. It does all work there is, and returns without a wait after it looked for more.
        Before its first wait it has no current task: it cannot use `asyncio.timeout` there.
    failed : callable
        Called after an unexpected error, which the exception handler of the event loop reports.

    Attributes
    ----------
    context : Context
        Context variables of the work: none of a request.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[], None]) -> None:
        self._work = work
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self.context = Context()
        self._busy = self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self._started: Coroutine[Any, Any, None]  # of the task

    @property
    def busy(self) -> bool:
        """Whether the work is running, or about to start."""
        return self._busy

    def wake(self) -> None:
        """Start in the next pass of the event loop, unless the work is running."""
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._begin, context=self.context)

    def start(self, _: object = None) -> None:
        """Start now, unless the work is running; as a callback of a future, in `context`."""
        if not self._busy:
            self._busy = True
            self._begin()

    def _begin(self) -> None:
        if self._stopped:
            return
        coroutine = self._work()
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            self._busy = False
        except BaseException:
            self._failed()
            raise
        else:
            self._started = coroutine
            self._task = self._loop.create_task(self._finish(coroutine, awaited), context=self.context)
            self._task.add_done_callback(self._report)

    async def _finish(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        """Run the rest of the work."""
        await _rest(coroutine, awaited)
        self._busy, self._task = False, None

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed()
            message = {"message": "the writer of a model ended", "exception": error, "task": task}
            self._loop.call_exception_handler(message)

    async def stop(self) -> None:
        """Cancel the work, and never start again."""
        self._stopped = self._busy = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._started.close()  # the task may not have begun


@coroutine
def _rest(started: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Run a coroutine that waits to its end; `awaited` is what it yielded to the event loop."""
    while True:
        try:
            resume = partial(started.send, (yield awaited))
        except BaseException as error:  # noqa: BLE001 (of the future, or a cancellation: the coroutine gets it)
            resume = partial(started.throw, error)
        try:
            awaited = resume()
        except StopIteration:
            return


class CallLength:
    """Number of samples that fit into one call, from the time that earlier calls took.

    The number has no effect on the state: one call gives the same bits as a loop over its samples. Other
    threads can only lengthen a measurement, so the estimate falls at once and rises slowly.

    Parameters
    ----------
    seconds : float
        Time that a call may take, about.

    Attributes
    ----------
    short : bool
        Whether a call with one sample takes at most `seconds`.
    samples : int
        Number of samples for the next call, ≥ 1.

    Examples
    --------
    >>> length = CallLength(seconds=0.001)
    >>> length.samples, length.short
    (1, False)
    >>> length.add(4, 0.0004)
    >>> length.samples, length.short
    (10, True)
    >>> length.add(10, 0.02)  # another thread ran meanwhile
    >>> length.samples
    9
    """

    __slots__ = ("_by_sample", "_seconds", "samples", "short")

    def __init__(self, seconds: float = CALL_SECONDS) -> None:
        self._seconds = seconds
        self._by_sample = math.inf
        self.short = False
        self.samples = 1

    def add(self, samples: int, seconds: float, longest: float | None = None) -> None:
        """Update the estimate after a call.

        Parameters
        ----------
        samples : int
            Number of its samples.
        seconds : float
            Its duration.
        longest : float, optional
            Time that a call may take, about, of a model that waits for a GPU. Its calls are never short: the
            event loop would wait too.
        """
        self._by_sample = by_sample = min(max(seconds / samples, _SHORTEST), self._by_sample * _RISE)
        self.short = longest is None and by_sample <= self._seconds
        self.samples = max(1, round((longest or self._seconds) / by_sample))

    def forget(self) -> None:
        """Begin anew: another model took the place of the one that was measured."""
        self._by_sample, self.short, self.samples = math.inf, False, 1


class FairTurns:
    """Turns of long tasks: in each pass of the event loop, one task runs a slice, in order of arrival.

    A new request needs two passes to be read and answered. Without turns, every stream and every model would
    run a slice in each of these passes, and the request would wait for all of them.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()  # first come, first served

    async def next(self) -> None:
        """Wait for a pass of the event loop in which no other task runs a slice."""
        async with self._lock:
            await asyncio.sleep(0)
