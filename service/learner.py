"""The single writer of a model: one thread that takes what waits, keeps the order, and answers.

The event loop only puts jobs into queues and awaits futures. The thread takes reads (predictions and
questions) first, then a bounded group of samples; between the samples of a group it looks for reads again, so
that none waits longer than one step. All see the model between two steps, never half of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar, cast

from service.errors import (
    REFUSALS,
    ModelFailedError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
    UnknownModelError,
)
from service.hosted import Answer, HostedModel, Label, Learn

T = TypeVar("T")
Read: TypeAlias = Callable[[HostedModel], Any]
Future: TypeAlias = "asyncio.Future[Any]"

_logger = logging.getLogger(__name__)


class Learner:
    """The thread of a model, and the two queues before it.

    Must be made on a running event loop, which is the one it answers to.

    Parameters
    ----------
    model : HostedModel
        From now on only this thread touches it, except for reading its counters.
    queue_size : int
        Jobs that may wait in each queue.
    group_size : int
        Jobs of a kind that are done and answered together at most.
    """

    def __init__(self, model: HostedModel, queue_size: int, group_size: int) -> None:
        self.model = model
        self._queue_size = queue_size
        self._group_size = group_size
        self._loop = asyncio.get_running_loop()
        # The loop appends on the right. The thread takes from the left, and only once it has an answer:
        # whatever ends the thread, all that is not answered is still here.
        self._reads: deque[tuple[Read, Future]] = deque()
        self._writes: deque[tuple[Learn | Label, Future]] = deque()
        self._bell = threading.Condition(threading.Lock())
        self._refusal: Callable[[], RequestError] | None = None
        self._discarded = False
        self._thread = threading.Thread(target=self._run, name=f"learner-{model.name}", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether the thread ended with an error that nobody foresaw."""
        return self._refusal == self._failure

    @property
    def queue_depth(self) -> int:
        """How many jobs wait."""
        return len(self._reads) + len(self._writes)

    async def ask(self, read: Callable[[HostedModel], T]) -> T:
        """Return what `read` makes of the model between two steps; it must not make it learn."""
        return cast(T, await self._submit(self._reads, read))

    async def learn(self, request: Learn | Label) -> Answer:
        """Learn a sample; returns once it is logged and applied."""
        return cast(Answer, await self._submit(self._writes, request))

    async def close(self) -> None:
        """Answer all that waits, refuse what comes later, and end the thread."""
        await self._stop(lambda: ShuttingDownError("the server is shutting down"))

    async def discard(self) -> None:
        """End the thread after the group in hand; all that waits learns that the model is gone."""
        name = self.model.name
        await self._stop(lambda: UnknownModelError(f"model {name!r} was deleted", "model"), discard=True)

    def _submit(self, queue: deque[tuple[Any, Future]], job: Any) -> Future:
        future = self._loop.create_future()
        with self._bell:
            if self._refusal is not None:
                raise self._refusal()
            if len(queue) >= self._queue_size:
                raise QueueFullError(f"{len(queue)} requests wait for {self.model.name!r}: try again later")
            queue.append((job, future))
            self._bell.notify()
        return future

    async def _stop(self, refusal: Callable[[], RequestError], discard: bool = False) -> None:
        with self._bell:
            self._refusal = self._refusal or refusal
            self._discarded = discard
            self._bell.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while self._wait():
                self._answer_reads()
                self._learn_group()
        finally:
            # Reached by an unforeseen error too, which then goes on to `threading.excepthook`.
            self._abandon()

    def _wait(self) -> bool:
        """Wait for jobs; return False when the thread is to end."""
        with self._bell:
            while not (self._reads or self._writes or self._refusal):
                self._bell.wait()
            return bool(self._reads or self._writes) and not self._discarded

    def _answer_reads(self) -> None:
        if waiting := self._next(self._reads):
            self._reply((future, self._attempt(read)) for read, future in waiting)
            _drop(self._reads, len(waiting))

    def _next(self, queue: deque[T]) -> list[T]:
        if self._discarded:
            return []
        # By index: a deque that the loop appends to meanwhile cannot be iterated.
        return [queue[i] for i in range(min(len(queue), self._group_size))]

    def _attempt(self, read: Read) -> Any:
        try:
            return read(self.model)
        except REFUSALS as error:
            return error

    def _learn_group(self) -> None:
        if not (waiting := self._next(self._writes)):
            return
        outcomes = []
        for outcome in self.model.learn([request for request, _ in waiting]):
            outcomes.append(outcome)
            self._answer_reads()
        self._reply(zip((future for _, future in waiting), outcomes, strict=True))
        _drop(self._writes, len(waiting))

    def _reply(self, outcomes: Iterable[tuple[Future, Any]]) -> None:
        """Answer many futures by waking the event loop once."""
        answers = list(outcomes)
        with contextlib.suppress(RuntimeError):  # a closed loop: the server was killed, nobody waits
            self._loop.call_soon_threadsafe(_deliver, answers)

    def _abandon(self) -> None:
        with self._bell:
            if self._refusal is None:
                self._refusal = self._failure
                _logger.critical("the writer of model %r ended with an error", self.model.name)
            refusal = self._refusal
        left = [future for _, future in (*self._reads, *self._writes)]
        self._reply((future, refusal()) for future in left)
        self._reads.clear()
        self._writes.clear()

    def _failure(self) -> RequestError:
        return ModelFailedError(f"model {self.model.name!r} failed, the log says why: delete it", "model")


def _drop(queue: deque[Any], count: int) -> None:
    for _ in range(count):
        queue.popleft()


def _deliver(answers: list[tuple[Future, Any]]) -> None:
    for future, outcome in answers:
        if future.done():  # cancelled: whoever asked is gone
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
