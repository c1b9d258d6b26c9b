"""What waits for the writer of a model, and how much of it may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from service.admission import Request
from service.errors import QueueFullError

T = TypeVar("T")
Outcomes: TypeAlias = "asyncio.Future[list[Any]]"
"""For each item of a job what came of it, an error where it was refused."""


@dataclass(frozen=True, slots=True)
class Exclusive:
    """Something to do to a model between two groups of samples."""

    do: Callable[[], Any]


@dataclass(slots=True)
class Job:
    """What is queued and answered together: one item for a request, many for lines of a stream."""

    items: Sequence[Request | Exclusive]
    outcomes: Outcomes
    start: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class Room:
    """How many items may wait for a model, and how many do.

    Attributes
    ----------
    limit : int
        How many may.
    taken : int
        How many do.
    """

    limit: int
    taken: int = 0
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def share(self) -> int:
        """For how many items of a stream there is room: streams leave a half to those who are refused."""
        return self.limit - self.limit // 2 - self.taken

    async def wait_for_share(self) -> int:
        """Return for how many items of a stream there is room, as soon as there is any."""
        while self.share <= 0:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self.share

    def enter(self) -> None:
        """Take a place; raises `QueueFullError` if there is none."""
        if self.taken >= self.limit:
            raise QueueFullError(f"{self.taken} requests wait for this model: try again later")
        self.taken += 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for the block; raises as `enter`."""
        self.enter()
        try:
            yield
        finally:
            self.free(1)

    def take(self, count: int) -> None:
        """Count items that wait from now on."""
        self.taken += count

    def free(self, count: int) -> None:
        """Count items that wait no longer, and wake those who wait for room."""
        self.taken -= count
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            settle(waiter, None)


def settle(future: asyncio.Future[T], result: T) -> None:
    """Answer whoever waits for a future, unless it was cancelled: they are gone."""
    if not future.done():
        future.set_result(result)
