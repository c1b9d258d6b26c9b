"""Whose turn it is to touch a model: one thing at a time, on the event loop if it is short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Turns:
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
