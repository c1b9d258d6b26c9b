"""Consumer of one topic for one model: reads messages and queues them at the model, with their positions.

The messages of a partition are queued in batches, in order, several ahead. Each batch expects the position
that the batch before it stores. So a batch whose predecessor failed is refused too, and nothing is skipped.
After any failure the consumer starts again from the stored positions.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from .. import schemas
from ..errors import (
    REFUSALS,
    BatchRefusedError,
    BodyTooLargeError,
    LogGapError,
    NotOwnerError,
    NotReadyError,
    RequestError,
    UnknownModelError,
    UnknownSourceError,
    WrongNodeError,
    code_of,
    row,
)
from ..http.content import without_mark
from ..http.requests import Shape, read_fields
from ..models.queue import Capacity, Outcomes
from ..models.scheduling import SLICE, FairTurns
from ..models.validation import Learn
from ..models.worker import Worker, report_error
from ..settings import Settings
from ..source_urls import SourceUrl
from ..storage.interfaces import Advance
from ..telemetry.audit import audit
from .source import Bounds, End, Gap, Item, Message, Source, SourceError

#: Batches that may be unanswered: one is learned, one is logged, and two wait.
_BATCHES = 4
#: Seconds between two attempts after a failure: they double, from the first value to the second.
_SHORTEST, _LONGEST = 0.1, 5.0
#: Seconds between two looks at the bounds of the partitions, for new ones and for those that do not go on.
_REFRESH = 15.0
#: Seconds between two reports of the positions to the broker.
_REPORT = 1.0
_SHAPE = Shape.of(schemas.LearnBody)
#: Errors of a model that this process does not have, and seconds until it is looked for again.
_ELSEWHERE, _LOOK = (UnknownModelError, NotOwnerError, NotReadyError, WrongNodeError), 0.5
#: Those of a model that another process owns.
_OWNED = (NotOwnerError, WrongNodeError)

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Partition:
    """State of a partition.

    Attributes
    ----------
    next : int
        Stored position.
    queued : int
        Position after the messages that are queued.
    lag : int
        Number of messages after the stored position, as far as it is known.
    gap : LogGapError or None
        Error by which the partition stopped.
    messages, refused
        Numbers of messages learned, and of refused ones by error code, since the start of the server.
    """

    next: int = 0
    queued: int = 0
    lag: int = 0
    gap: LogGapError | None = None
    messages: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Models(NamedTuple):
    """Models of a server.

    Attributes
    ----------
    load : callable
        Returns the worker of a model by its name; raises as `Registry.load`.
    owned : callable
        Returns the number of a model by its name; raises as `Registry.owned`.
    """

    load: Callable[[str], Awaitable[Worker]]
    owned: Callable[[str], int]


class Decoded(NamedTuple):
    """A message, and its sample; None for a message that is skipped."""

    message: Message
    sample: Learn | None


@dataclass(slots=True)
class _Batch:
    """Messages of a partition that are queued together.

    Attributes
    ----------
    partition : int
        Number of the partition.
    messages : sequence of Decoded
        The messages.
    before, next : int
        Positions before and after them.
    outcomes : Future
        Outcome of each message that has a sample.
    """

    partition: int
    messages: Sequence[Decoded]
    before: int
    next: int
    outcomes: Outcomes


class Consumer:
    """Lets one model learn from one topic, until it is closed.

    Parameters
    ----------
    url : SourceUrl
        The topic and the model.
    source : Source
        Messages of the topic.
    models : Models
        Models of the server.
    settings : Settings
        Limits of samples.
    bodies : Capacity
        The server's, for bytes of requests.
    fair_turns : FairTurns
        The server's, which shares the event loop among requests.

    Attributes
    ----------
    partitions : dict of int to Partition
        State of each partition.
    fault : str or None
        Why no partition goes on; None if they do.
    elsewhere : bool
        Whether another process owns the model, and learns from the topic.
    """

    def __init__(
        self,
        url: SourceUrl,
        source: Source,
        models: Models,
        settings: Settings,
        bodies: Capacity,
        fair_turns: FairTurns,
    ) -> None:
        self.url = url
        self.partitions: dict[int, Partition] = {}
        self.fault: str | None = "it has not started yet"
        self.elsewhere = False
        self._source = source
        self._models = models
        self._number = 0  # of the model, which another one of the same name may replace
        self._settings = settings
        self._bodies = bodies
        self._fair_turns = fair_turns
        self._batches: deque[_Batch] = deque()
        self._done: set[tuple[int, int]] = set()  # refused messages after the stored position
        self._again = asyncio.Event()
        self._changing = asyncio.Lock()
        self._refresh_at = self._report_at = 0.0
        self._reported: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to consume, in a task, or try again now."""
        self._again.set()
        if self._task is None or self._task.done():
            # A request that starts it again does not give it its context variables.
            self._task = asyncio.create_task(self._run(), context=Context())
            self._task.add_done_callback(self._report_end)

    def _report_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.fault = "it failed: see the log of the server"
            report_error(task)

    async def close(self) -> None:
        """Stop. What is queued is learned, and its positions are stored."""
        async with self._changing:
            await self._end()
            await self._source.close()

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._drain()

    async def _run(self) -> None:
        pause = _SHORTEST
        while True:
            began = time.monotonic()
            try:
                await self._consume()
            except (SourceError, RequestError) as error:
                self.elsewhere = isinstance(error, _OWNED)
                self._tell(str(error), logging.INFO if isinstance(error, _ELSEWHERE) else logging.WARNING)
                if isinstance(error, _ELSEWHERE):
                    pause = _LOOK
            await self._drain()
            if time.monotonic() - began > 2 * _LONGEST:
                pause = _SHORTEST
            self._again.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._again.wait()
            except TimeoutError:
                pause = min(2 * pause, _LONGEST)

    def _tell(self, fault: str | None, level: int = logging.INFO) -> None:
        """Log a new fault, and its end."""
        if fault is not None and fault != self.fault:
            _logger.log(level, "model %r does not learn from %s: %s", self.url.model, self.url.topic, fault)
        elif fault is None and self.fault is not None:
            _logger.info("model %r learns from %s", self.url.model, self.url.topic)
        self.fault = fault

    async def _consume(self) -> None:
        """Queue messages until something fails."""
        await self._begin()
        self._tell(None)
        while True:
            if self._models.owned(self.url.model) != self._number:
                raise UnknownModelError("the model was created anew", "model")
            now = time.monotonic()
            if now >= self._refresh_at:
                await self._refresh(now)
            items = await self._source.read()
            for partition, some in itertools.groupby(items, key=attrgetter("partition")):
                if (state := self.partitions.get(partition)) is not None and state.gap is None:
                    await self._take(partition, state, [*some])
            await self._settle(0 if not items else _BATCHES)
            if now >= self._report_at:
                await self._report(now)

    async def _begin(self) -> None:
        """Connect, and assign the partitions from the stored positions."""
        self._models.owned(self.url.model)
        self.elsewhere = False
        worker = await self._find()
        if worker.history.model != self._number:
            self._number = worker.history.model
            self._done.clear()
        await self._source.open()
        bounds = await self._source.bounds()
        await self._place(worker, bounds)
        await self._assign()
        self._refresh_at = time.monotonic() + _REFRESH

    async def _find(self) -> Worker:
        return await self._models.load(self.url.model)

    async def _place(self, worker: Worker, bounds: Mapping[int, Bounds]) -> None:
        """Read the stored position of each partition; a new one gets its first position."""
        history, topic = worker.history, self.url.topic
        positions = await asyncio.to_thread(history.log.positions, history.model)
        stored = {each.partition: each.next for each in positions if each.topic == topic}
        latest = self.url.start == "latest" and not stored  # later, a new partition is read from its start
        begin = {n: each.end if latest else each.first for n, each in bounds.items() if n not in stored}
        if begin:
            advances = [Advance(topic, n, None, position) for n, position in begin.items()]
            await _stored(worker, advances)
        for number, each in bounds.items():
            state = self.partitions.setdefault(number, Partition())
            state.next = state.queued = {**stored, **begin}[number]
            state.lag = max(0, each.end - state.next)
            gap = self._gap(number, state.next, each)
            if str(gap) != str(state.gap):
                self._stop(state, gap)

    def _stop(self, state: Partition, gap: LogGapError | None) -> None:
        """Stop a partition, or let it go on."""
        state.gap = gap
        if gap is not None:
            _logger.error("model %r stopped: %s", self.url.model, gap)

    def _gap(self, number: int, position: int, bounds: Bounds) -> LogGapError | None:
        """Return the error of a partition if the broker does not have its next messages."""
        if position < bounds.first:
            lost = f"the messages before {bounds.first} were removed before they were learned"
        elif position > bounds.end:
            lost = f"the partition ends at {bounds.end}: it was truncated, or the topic was created anew"
        else:
            return None
        return LogGapError(
            f"partition {number} of {self.url.topic} is to go on from position {position}, and {lost}. "
            f"To go on from another position: POST /models/{self.url.model}/ingest",
            "position",
        )

    async def _assign(self) -> None:
        await self._source.assign({n: each.next for n, each in self.partitions.items() if each.gap is None})

    async def _refresh(self, now: float) -> None:
        """Look for new partitions, and for the lag of those that stopped."""
        self._refresh_at = now + _REFRESH
        bounds = await self._source.bounds()
        if bounds.keys() - self.partitions.keys():
            await self._drain()
            await self._begin()
        for number, state in self.partitions.items():
            if state.gap is not None and number in bounds:
                state.lag = max(0, bounds[number].end - state.next)

    async def _report(self, now: float) -> None:
        self._report_at = now + _REPORT
        moved = {n: each.next for n, each in self.partitions.items() if self._reported.get(n) != each.next}
        await self._source.report(moved)
        self._reported |= moved

    async def _take(self, partition: int, state: Partition, items: Sequence[Item]) -> None:
        """Queue the messages of a partition, and take note of a gap or of the end."""
        messages = [item for item in items if isinstance(item, Message) and item.position >= state.queued]
        if messages:
            await self._queue(partition, state, await self._decode(messages))
        last = items[-1]
        if isinstance(last, End) and last.position > state.queued:
            await self._queue_batch(partition, state, [], last.position)
        elif isinstance(last, Gap):
            await self._settle(0)
            if (gap := self._gap(partition, state.next, last.bounds)) is None:
                raise SourceError(f"the broker refused position {state.next} of partition {partition}")
            self._stop(state, gap)

    async def _decode(self, messages: Sequence[Message]) -> list[Decoded]:
        """Return the samples of messages. Refused messages are in the dead-letter topic afterwards."""
        decoded = []
        for i, message in enumerate(messages):
            if i % SLICE == 0:
                await self._fair_turns.next()
            sample = None
            if message.value is not None and (message.partition, message.position) not in self._done:
                try:
                    sample = self._read(message.value)
                except REFUSALS as error:
                    await self._refuse(message, error)
            decoded.append(Decoded(message, sample))
        return decoded

    def _read(self, value: bytes) -> Learn:
        if len(value) > self._settings.max_body_bytes:
            raise BodyTooLargeError("the message is longer than a body may be (BNP_MAX_BODY_BYTES)")
        raw = without_mark(value)
        fields = read_fields(raw, _SHAPE, self._settings, "message")
        if fields.get("model") not in (None, self.url.model):
            raise RequestError(f"the message is for another model than {self.url.model!r}", "model")
        weight = fields.get("w")
        return Learn(fields["x"], fields["y"], 1.0 if weight is None else weight, fields.get("id"), raw)

    async def _refuse(self, message: Message, error: Exception) -> None:
        """Log a refused message, count it, and send it to the dead-letter topic."""
        code = code_of(error)
        where = {"topic": self.url.topic, "partition": message.partition, "position": message.position}
        if self.url.dead is not None:
            await self._source.send(self.url.dead, message, code, str(error))
        self._done.add((message.partition, message.position))
        self.partitions[message.partition].refused[code] += 1
        audit("message refused", self.url.model, level=logging.WARNING, **where, code=code)

    async def _queue(self, partition: int, state: Partition, messages: Sequence[Decoded]) -> None:
        while messages:
            worker = await self._find()
            await self._bodies.wait_for_share()
            share = await worker.wait_for_share(len(messages))
            some, messages = messages[:share], messages[share:]
            await self._queue_batch(partition, state, some, some[-1].message.position + 1, worker)

    async def _queue_batch(
        self,
        partition: int,
        state: Partition,
        messages: Sequence[Decoded],
        position: int,
        worker: Worker | None = None,
    ) -> None:
        """Queue messages with the position after them."""
        worker = worker or await self._find()
        samples = [each.sample for each in messages if each.sample is not None]
        advances = [Advance(self.url.topic, partition, state.queued, position)]
        outcomes = worker.queue_messages(samples, advances, whole=self.url.dead is not None)
        size = sum(len(each.message.value or b"") for each in messages)
        self._bodies.taken += size
        outcomes.add_done_callback(lambda _: self._bodies.free(size))
        self._batches.append(_Batch(partition, messages, state.queued, position, outcomes))
        state.queued = position
        await self._settle(_BATCHES)

    async def _settle(self, most: int) -> None:
        """Wait until at most some batches are not answered, and take note of the answers."""
        while self._batches and (len(self._batches) > most or self._batches[0].outcomes.done()):
            batch = self._batches[0]
            outcomes = await asyncio.shield(batch.outcomes)
            self._batches.popleft()
            for outcome in outcomes:
                if isinstance(outcome, Exception) and _is_of_all(outcome):
                    raise outcome
            state, refused = self.partitions[batch.partition], _refused(batch, outcomes)
            if any(isinstance(each, BatchRefusedError) for each in outcomes):
                await self._requeue(batch, state, refused)
                continue
            state.next = batch.next
            state.lag = batch.messages[-1].message.after if batch.messages else 0
            state.messages += len(outcomes) - len(refused) if batch.messages else 0
            self._done = {each for each in self._done if each[0] != batch.partition or each[1] >= batch.next}
            for message, error in refused:
                await self._refuse(message, error)

    async def _requeue(
        self, batch: _Batch, state: Partition, refused: Sequence[tuple[Message, Exception]]
    ) -> None:
        """Queue the messages of a batch without the refused ones, and of the batches after it."""
        for message, error in refused:
            await self._refuse(message, error)
        later = [each for each in self._batches if each.partition == batch.partition]
        for each in later:
            await asyncio.wait([each.outcomes])  # refused, as they expect another position
            self._batches.remove(each)
        state.queued = batch.before
        gone = {message.position for message, _ in refused}
        for each in (batch, *later):
            messages = [d._replace(sample=None) if d.message.position in gone else d for d in each.messages]
            if messages:
                await self._queue(batch.partition, state, messages)
            elif each.next > state.queued:
                await self._queue_batch(batch.partition, state, [], each.next)

    async def _drain(self) -> None:
        """Wait for the batches that are queued; the stored positions tell which of them were learned."""
        if self._batches:
            await asyncio.wait([each.outcomes for each in self._batches])
        self._batches.clear()

    async def resume(self, partition: int, position: int) -> None:
        """Store another position of a partition, and start again from it.

        Raises
        ------
        UnknownSourceError
            If there is no such partition.
        PositionMovedError, StorageError
            If the position cannot be stored.
        """
        async with self._changing:
            if partition not in self.partitions:
                raise UnknownSourceError(f"{self.url.topic} has no partition {partition}", "partition")
            await self._end()
            try:
                before = await self._move(partition, position)
            finally:
                self._done.clear()
                self.start()
        where: dict[str, Any] = {"topic": self.url.topic, "partition": partition}
        audit("position changed", self.url.model, **where, position=position, before=before)

    async def _move(self, partition: int, position: int) -> int | None:
        worker, topic = await self._find(), self.url.topic
        history = worker.history
        positions = await asyncio.to_thread(history.log.positions, history.model)
        before = next((each.next for each in positions if each[:2] == (topic, partition)), None)
        await _stored(worker, [Advance(topic, partition, before, position)])
        state = self.partitions[partition]
        state.lag = max(0, state.lag + state.next - position)
        state.next = state.queued = position
        state.gap = None  # unless `_place` finds another one
        return before

    def report(self) -> list[dict[str, Any]]:
        """Return the state of each partition, for the description of the model."""
        common = {"topic": self.url.topic}
        if not self.partitions:
            unknown = {**dict.fromkeys(("partition", "position", "lag")), "learned": 0, "refused": 0}
            return [{**common, **unknown, "state": "waiting", "reason": self.fault}]
        return [
            {
                **common,
                "partition": number,
                "position": each.next,
                "lag": each.lag,
                "learned": each.messages,
                "refused": each.refused.total(),
                "state": "log_gap" if each.gap else "waiting" if self.fault else "running",
                "reason": str(each.gap) if each.gap else self.fault,
            }
            for number, each in sorted(self.partitions.items())
        ]


def _is_of_all(error: Exception) -> bool:
    """Return whether an error is not about one message: nothing of its batch was learned.

    Examples
    --------
    >>> from service.errors import IdConflictError, StorageFullError
    >>> _is_of_all(StorageFullError("the disk is full")), _is_of_all(IdConflictError("used", "id"))
    (True, False)
    """
    return isinstance(error, _ELSEWHERE) or row(type(error)).status in (429, 500, 503)


def _refused(batch: _Batch, outcomes: Sequence[Any]) -> list[tuple[Message, Exception]]:
    """Return the messages of a batch that were refused, and why."""
    samples = [each.message for each in batch.messages if each.sample is not None]
    return [
        (message, outcome)
        for message, outcome in zip(samples, outcomes, strict=False)
        if isinstance(outcome, Exception) and not isinstance(outcome, BatchRefusedError)
    ]


async def _stored(worker: Worker, advances: Sequence[Advance]) -> None:
    """Store positions; raises as `Worker.queue_messages`, or the error of the commit."""
    [outcome] = await worker.queue_messages([], advances)
    if isinstance(outcome, Exception):
        raise outcome
