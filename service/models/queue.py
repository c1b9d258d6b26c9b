"""Queue of a model: jobs in order, a limit on the number of waiting samples, and latencies."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from ..blocks import Block
from ..errors import QueueFullError
from ..storage.interfaces import Advance
from ..telemetry.traces import current_span
from .validation import Request, Requests

T = TypeVar("T")
Outcomes: TypeAlias = "asyncio.Future[list[Any]]"
"""For each request of a job its answer, encoded if it is `bytes`, or the error that refused it."""

#: Weight of the latest call in `Latency.recent`.
_NEW_WEIGHT = 0.3


@dataclass(slots=True)
class Job:
    """Requests that are queued and answered together, or one operation on the whole model.

    Attributes
    ----------
    requests : sequence of Request, or Block
        One for a request, many for lines of a stream, none for an operation.
    outcomes : Future
        Its result is a list of outcomes: one per request or sample, or the outcome of the operation.
    operation : callable or None
        Called between two groups of samples.
    advances : sequence of Advance
        Positions that change with the commit of the requests.
    whole : bool
        Whether no request is taken if one is refused before the commit; see `BatchRefusedError`.
    span : SpanContext or None
        Span of the request, for OpenTelemetry.
    start : float
        Time at which the job was queued, in seconds of `time.perf_counter`.
    size : int
        Number of outcomes.
    parts : sequence of Request or Block
        The requests, and a block as one.
    alone : bool
        Whether the job is taken without others.
    """

    requests: Requests
    outcomes: Outcomes
    operation: Callable[[], Any] | None = None
    advances: Sequence[Advance] = ()
    whole: bool = False
    span: Any = None
    start: float = field(default_factory=time.perf_counter)
    size: int = field(init=False)
    parts: Sequence[Request | Block] = field(init=False)
    alone: bool = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.requests) or 1
        self.parts = [self.requests] if isinstance(self.requests, Block) else self.requests
        self.alone = self.operation is not None or bool(self.advances)


@dataclass(slots=True)
class Capacity:
    """Limit on the items that wait for a model, or on the bytes of all requests.

    Attributes
    ----------
    limit : int
        Number of items that may wait.
    taken : int
        Number of items that wait.
    """

    limit: int
    taken: int = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served
    _freed: asyncio.Future[None] | None = None  # done once capacity was released

    async def wait_for_share(self, wanted: int = 1) -> int:
        """Wait until a stream may queue items, and return how many.

        Streams use at most half of the capacity. The other half is for single requests, which cannot wait for
        capacity. A stream waits for as many places as it wants, or for an eighth of the capacity: items in
        small groups cost several times as much.
        """
        enough = max(1, min(wanted, self.limit // 8))
        async with self._turn:
            while (share := self.limit - self.limit // 2 - self.taken) < enough:
                self._freed = asyncio.get_running_loop().create_future()
                await self._freed
            return share

    @property
    def has_share(self) -> bool:
        """Whether a stream may queue an item without waiting."""
        return not self._turn.locked() and self.taken < self.limit - self.limit // 2

    def enter(self) -> None:
        """Count one more item.

        Raises
        ------
        QueueFullError
            If `limit` items wait.
        """
        if self.taken >= self.limit:
            raise QueueFullError(f"{self.taken} requests wait for this model: try again later")
        self.taken += 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count one more item for the block; raises as `enter`."""
        self.enter()
        try:
            yield
        finally:
            self.free(1)

    def free(self, count: int) -> None:
        """Release the capacity of items, and wake the stream that waits for capacity."""
        self.taken -= count
        if self._freed is not None:
            settle(self._freed, None)
            self._freed = None


class JobQueue:
    """Jobs of one model, in order. Every job is answered, also if the writer fails.

    Parameters
    ----------
    size : int
        Number of items that may wait, including the items that are being learned.
    group_size : int
        Largest number of items that are taken together.

    Attributes
    ----------
    waiting : deque of Job
        Jobs that are not taken, oldest first.
    closed : bool
        Whether no further job follows.
    on_change : callable
        Called after a job was queued, and after the queue was closed.
    """

    def __init__(self, size: int, group_size: int) -> None:
        self._capacity = Capacity(size)
        self._group_size = group_size
        self.waiting: deque[Job] = deque()
        self._taken: deque[Job] = deque()
        self.closed = False
        self.on_change: Callable[[], None] = _do_nothing

    @property
    def items(self) -> int:
        """Number of items that are not answered."""
        return self._capacity.taken

    @property
    def operation_is_next(self) -> bool:
        """Whether the next job is an operation."""
        return self.waiting[0].operation is not None

    def add_request(self, request: Request) -> Outcomes:
        """Queue one request.

        Raises
        ------
        QueueFullError
            If there is no capacity.
        """
        self._capacity.enter()
        return self._add((request,))

    def reserve(self) -> None:
        """Take capacity for one request of `add_reserved`; raises as `add_request`."""
        self._capacity.enter()

    def release(self, count: int) -> None:
        """Give back capacity that was reserved and is not used."""
        self._capacity.free(count)

    def add_reserved(self, requests: Requests) -> Outcomes:
        """Queue requests for which capacity was reserved."""
        return self._add(requests)

    def add_operation(self, operation: Callable[[], Any]) -> Outcomes:
        """Queue an operation. It needs no capacity."""
        self._capacity.taken += 1
        return self._add((), operation)

    async def wait_for_share(self, wanted: int = 1) -> int:
        """Wait until a stream may queue requests, and return how many; see `Capacity`."""
        return min(await self._capacity.wait_for_share(min(wanted, self._group_size)), self._group_size)

    def add_requests(self, requests: Requests) -> Outcomes:
        """Queue requests of a stream, at most as many as `wait_for_share` returned."""
        self._capacity.taken += len(requests)
        return self._add(requests)

    def add_messages(
        self, requests: Sequence[Request], advances: Sequence[Advance], *, whole: bool
    ) -> Outcomes:
        """Queue the requests of messages, or none, with the positions after them; as `add_requests`."""
        self._capacity.taken += len(requests) or 1
        return self._add(requests, advances=advances, whole=whole)

    def take_at_once(self, request: Request, *, reserved: bool) -> Job | None:
        """Return the job of a request of a stream as taken; None if others wait.

        Parameters
        ----------
        request : Request
            The request.
        reserved : bool
            Whether capacity was reserved for it.
        """
        if self.waiting or self.closed or not (reserved or self._capacity.has_share):
            return None
        self._capacity.taken += not reserved
        outcomes: Outcomes = asyncio.get_running_loop().create_future()
        job = Job((request,), outcomes, span=current_span())
        self._taken.append(job)
        return job

    def _add(
        self,
        requests: Requests,
        operation: Callable[[], Any] | None = None,
        advances: Sequence[Advance] = (),
        whole: bool = False,
    ) -> Outcomes:
        outcomes: Outcomes = asyncio.get_running_loop().create_future()
        self.waiting.append(Job(requests, outcomes, operation, advances, whole, current_span()))
        self.on_change()
        return outcomes

    def close(self) -> None:
        """Tell that no further job follows."""
        self.closed = True
        self.on_change()

    def take(self) -> list[Job]:
        """Take the next job alone if it must be, or the next ones, up to the size of a group."""
        jobs = [self.waiting.popleft()]
        left = self._group_size - jobs[0].size
        while self.waiting and not jobs[0].alone and not self.waiting[0].alone:
            left -= self.waiting[0].size
            if left < 0:
                break
            jobs.append(self.waiting.popleft())
        self._taken += jobs
        return jobs

    def answer(self, outcomes: Sequence[Any]) -> Job:
        """Answer the oldest job that was taken, and return it."""
        job = self._taken.popleft()
        self._capacity.free(job.size)
        settle(job.outcomes, list(outcomes))
        return job

    def refuse_waiting(self, error: Callable[[], Exception]) -> None:
        """Answer all jobs that are not taken with an error."""
        while self.waiting:
            job = self.waiting.popleft()
            self._capacity.free(job.size)
            settle(job.outcomes, [error() for _ in range(job.size)])

    def abandon(self, error: Callable[[], Exception]) -> None:
        """Answer all jobs with an error."""
        self._taken += self.waiting
        self.waiting.clear()
        while self._taken:
            self.answer([error() for _ in range(self._taken[0].size)])


class Latency:
    """Number and mean duration of calls, in constant space.

    Attributes
    ----------
    calls : int
        Number of calls.
    recent : float
        Exponentially weighted mean of their durations, in seconds.

    Examples
    --------
    >>> latency = Latency()
    >>> latency.add(0.5)
    >>> latency.add(0.2, calls=2)  # two that were answered together
    >>> latency.calls, round(latency.mean, 6)
    (3, 0.3)
    """

    __slots__ = ("_total", "calls", "recent")

    def __init__(self) -> None:
        self.calls = 0
        self.recent = 0.0
        self._total = 0.0

    @property
    def mean(self) -> float:
        """Mean duration in seconds; 0 without calls."""
        return self._total / self.calls if self.calls else 0.0

    def add(self, seconds: float, calls: int = 1) -> None:
        """Count calls that took some seconds each."""
        kept = (1 - _NEW_WEIGHT) ** calls if self.calls else 0.0
        self.recent = kept * self.recent + (1 - kept) * seconds
        self.calls += calls
        self._total += calls * seconds


def _do_nothing() -> None:
    """Take the place of a callback."""


def settle(future: asyncio.Future[T], result: T) -> None:
    """Set the result of a future, unless the client has disconnected and cancelled it."""
    if not future.done():
        future.set_result(result)
