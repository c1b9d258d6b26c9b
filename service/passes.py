"""Passes of the event loop, shared out among those who have much to do."""

from __future__ import annotations

import asyncio

#: Samples that are decoded, checked or predicted in a slice of work: so many take 0.1 to 0.2 ms.
SLICE = 16


class Passes:
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
