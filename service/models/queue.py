"""What waits for the writer of a model, and how much of it may."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from ..errors import QueueFullError
from .validation import Request

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
class Capacity:
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


class JobQueue:
    """The jobs of one writer, in order: each waits, is taken, and is answered, whatever ends the writer.

    Parameters
    ----------
    size : int
        Items that may wait, those taken included.
    group_size : int
        Items that are taken together at most.
    """

    def __init__(self, size: int, group_size: int) -> None:
        self._room = Capacity(size)
        self._group_size = group_size
        self._waiting: deque[Job] = deque()
        self._taken: deque[Job] = deque()
        self._bell = asyncio.Event()

    @property
    def items(self) -> int:
        """How many items are not answered."""
        return self._room.taken

    @property
    def exclusive(self) -> bool:
        """Whether what is next has its turn alone."""
        return isinstance(self._waiting[0].items[0], Exclusive)

    async def enter(self, item: Request) -> Any:
        """Return what comes of an item, or raise it; raises `QueueFullError` if there is no room."""
        self._room.enter()
        return await self._add_one(item)

    async def insist(self, item: Exclusive) -> Any:
        """Return what comes of an item, for which there is always room, or raise it."""
        self._room.take(1)
        return await self._add_one(item)

    async def room(self) -> int:
        """Return for how many items of a stream there is room, as soon as there is any."""
        return min(await self._room.wait_for_share(), self._group_size)

    def add(self, items: Sequence[Request]) -> Outcomes:
        """Queue items for which `room` said that there is room."""
        self._room.take(len(items))
        return self._add(items)

    async def _add_one(self, item: Request | Exclusive) -> Any:
        [outcome] = await self._add([item])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _add(self, items: Sequence[Request | Exclusive]) -> Outcomes:
        job = Job(items, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._bell.set()
        return job.outcomes

    async def wait(self, over: Callable[[], bool]) -> bool:
        """Wait until a job does, and return True; or until it is over and `ring` tells so."""
        while not (self._waiting or over()):
            self._bell.clear()
            await self._bell.wait()
        return bool(self._waiting)

    def ring(self) -> None:
        """Let `wait` see whether it is over."""
        self._bell.set()

    def take(self) -> list[Job]:
        """Take the oldest jobs, of as many items as a group may have, but at least one job."""
        group = [self._waiting.popleft()]
        left = self._group_size - len(group[0].items)
        while self._waiting and not (self.exclusive or isinstance(group[0].items[0], Exclusive)):
            left -= len(self._waiting[0].items)
            if left < 0:
                break
            group.append(self._waiting.popleft())
        self._taken += group
        return group

    def answer(self, outcomes: Sequence[Any]) -> Job:
        """Answer the oldest job that is taken, and return it."""
        job = self._taken.popleft()
        self._room.free(len(job.items))
        settle(job.outcomes, list(outcomes))
        return job

    def abandon(self, error: Callable[[], Exception]) -> None:
        """Answer all jobs with an error."""
        self._taken += self._waiting
        self._waiting.clear()
        while self._taken:
            self.answer([error() for _ in self._taken[0].items])


def settle(future: asyncio.Future[T], result: T) -> None:
    """Answer whoever waits for a future, unless it was cancelled: they are gone."""
    if not future.done():
        future.set_result(result)
