"""Whose turn it is to touch a model: one thing at a time, on the event loop if it is short.

How many samples are learned in one call.

Passes of the event loop, shared out among those who have much to do.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class ModelAccess:
    """Runs what touches one model, so that each sees it as the last one left it.

    To hand a step of a small network to another thread, and its result back, takes ten times as long as the
    step: so what is short is done at once. What may be long would keep every other request waiting: it is
    done in a thread of the model's own, which is started when it is first needed.

    Parameters
    ----------
    name : str
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._taken = asyncio.Lock()  # whoever waits longest has the next turn
        self._thread = ThreadPoolExecutor(1, name)

    async def run(self, do: Callable[[], T], *, short: bool = False) -> T:
        """Return what `do` returns, once it has had its turn; what it raises is raised.

        Parameters
        ----------
        do : callable
            Takes no argument. In the thread it goes on to its end, and keeps the turn until then, even if
            whoever waits for it is cancelled.
        short : bool
            Whether the event loop can wait for it.
        """
        if not short:
            return await asyncio.shield(asyncio.create_task(self._run_in_thread(do)))
        if not self._taken.locked():
            return do()
        async with self._taken:
            return do()

    async def _run_in_thread(self, do: Callable[[], T]) -> T:
        async with self._taken:
            return await asyncio.get_running_loop().run_in_executor(self._thread, do)

    async def close(self) -> None:
        """Wait for the turn that is taken to end, and end the thread."""
        async with self._taken:
            self._thread.shutdown(wait=False)


#: A quarter of the millisecond that other requests may wait: they wait for two calls, and each can take twice
#: what is expected.
CALL_SECONDS = 0.00025

_SHORTEST = 1e-7
_RISE = 1.1


class CallLength:
    """Follows the time that a sample takes, and tells how many fit into one call.

    It has a say in when things happen, never in what: samples learned in one call leave the bits that a loop
    over them leaves. Other threads can only lengthen what is measured, so the estimate falls at once and
    rises slowly.

    Parameters
    ----------
    seconds : float
        How long a call may take, about.

    Examples
    --------
    >>> pace = Pace(seconds=0.001)
    >>> pace.samples, pace.short
    (1, False)
    >>> pace.note(4, 0.0004)
    >>> pace.samples, pace.short
    (10, True)
    >>> pace.note(10, 0.02)  # something else ran meanwhile
    >>> pace.samples
    9
    """

    def __init__(self, seconds: float = CALL_SECONDS) -> None:
        self._seconds = seconds
        self._by_sample = math.inf

    @property
    def short(self) -> bool:
        """Whether a call of one sample is known to take no longer than a call may."""
        return self._by_sample <= self._seconds

    @property
    def samples(self) -> int:
        """How many samples the next call takes, at least one."""
        return max(1, round(self._seconds / self._by_sample))

    def note(self, samples: int, seconds: float) -> None:
        """Take into account how long a call took."""
        self._by_sample = min(max(seconds / samples, _SHORTEST), self._by_sample * _RISE)


#: Samples that are decoded, checked or predicted in a slice of work: so many take 0.1 to 0.2 ms.
SLICE = 16


class FairTurns:
    """Lets one of those who wait here go on in each pass of the event loop, in the order in which they came.

    Work on many samples is done in slices. A request that arrives needs two passes to be read and answered:
    if every stream and every model ran a slice in each of them, a prediction would wait for all of those.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()  # whoever waits longest is next

    async def next(self) -> None:
        """Wait for a pass in which nobody else who waits here goes on."""
        async with self._lock:
            await asyncio.sleep(0)
