"""Jobs that wait for the thread of a model: the event loop fills a backlog, the thread empties it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Outcomes: TypeAlias = "asyncio.Future[list[Any]]"
"""For each item of a job what came of it, an error where it was refused; never an error itself."""


@dataclass(slots=True)
class Job(Generic[T]):
    """What is queued and answered together: one item for a request, many for lines of a stream."""

    items: Sequence[T]
    outcomes: Outcomes


@dataclass(slots=True)
class Backlog(Generic[T]):
    """The jobs of one kind that wait for a model.

    Attributes
    ----------
    limit : int
        How many items may wait.
    waiting : int
        How many do. Only the event loop counts, so that none of its coroutines ever sees room that is gone.
    jobs : deque of Job
        The loop appends on the right. The thread takes from the left, and only once it has an answer:
        whatever ends the thread, all that is not answered is still here.
    """

    limit: int
    waiting: int = 0
    jobs: deque[Job[T]] = field(default_factory=deque)
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def room(self) -> int:
        """For how many items there is room."""
        return self.limit - self.waiting

    @property
    def share(self) -> int:
        """For how many items of a stream there is room: streams leave a half to those who are refused."""
        return self.room - self.limit // 2

    async def wait_for_share(self) -> int:
        """Return for how many items of a stream there is room, as soon as there is any."""
        while self.share <= 0:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self.share

    def add(self, job: Job[T]) -> None:
        """Append a job; called by the loop."""
        self.waiting += len(job.items)
        self.jobs.append(job)

    def first(self, size: int) -> list[Job[T]]:
        """Return the oldest jobs, of `size` items together at most but at least one job; for the thread."""
        taken: list[Job[T]] = []
        # By index: a deque that the loop appends to meanwhile cannot be iterated.
        for i in range(len(self.jobs)):
            job = self.jobs[i]
            size -= len(job.items)
            if taken and size < 0:
                break
            taken.append(job)
        return taken

    def drop(self, count: int) -> None:
        """Forget the oldest jobs; for the thread."""
        for _ in range(count):
            self.jobs.popleft()

    def deliver(self, answers: list[tuple[Job[T], list[Any]]]) -> None:
        """Answer jobs, and wake those who wait for room; called by the loop."""
        for job, outcomes in answers:
            self.waiting -= len(job.items)
            if not job.outcomes.done():  # cancelled: whoever asked is gone
                job.outcomes.set_result(outcomes)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
