"""Batches of items of one request: decoded, queued at their models, and answered in order.

The items are the lines of a stream, or those of an array.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from ..blocks import Block
from ..errors import REFUSALS, RequestError, ShuttingDownError
from ..models.queue import Outcomes
from ..models.scheduling import SLICE, FairTurns
from ..models.worker import Uses, Worker

Item = TypeVar("Item")
T = TypeVar("T")

Part: TypeAlias = "tuple[Sequence[int], list[T] | Block]"
"""Positions of items in the batch, and their entries."""
Parts: TypeAlias = "dict[Worker, list[Part[T]]]"
"""What is queued at each model, in order."""
Take: TypeAlias = Callable[[Item], Awaitable[tuple[Worker, T]]]
"""Decodes an item into the model that it names and the entry to queue there; may raise one of `REFUSALS`."""
Queue: TypeAlias = Callable[[Worker, Any], Awaitable[tuple[int, Outcomes]]]
"""Queues the first of several entries, or of a block; returns how many, and their outcomes."""

#: Models whose items are queued before other requests may run.
_GROUPS = 4
#: Answers, or groups of them, that are put in order or encoded before other requests may run.
_ANSWERS = 64


class Batch(Generic[Item, T]):
    """A batch of items with the outcome of each: an answer or an error.

    Parameters
    ----------
    items : sequence
        The items.
    fair_turns : FairTurns
        The server's, which shares the event loop among requests.
    what : str
        Name of an item, for messages.

    Attributes
    ----------
    wanted : int
        Number of items that the next batch should have, so that each model gets enough at once.
    """

    wanted = 0

    def __init__(self, items: Sequence[Item], fair_turns: FairTurns, what: str) -> None:
        self.items = items
        self._fair_turns = fair_turns
        # The outcome of items that are not queued when the request stops: they are not learned.
        late = ShuttingDownError(f"the server is shutting down: send this {what} again")
        self._outcomes: list[Any] = [late] * len(items)
        self._queued: list[tuple[Sequence[int], Outcomes]] = []

    async def queue(self, take: Take[Item, T], queue: Queue) -> None:
        """Decode the items, and queue them at their models, in order for each model."""
        with Uses() as used:
            decoded = await self._decode(take, used)
            await self._take_at_once(decoded)
            for count, (worker, parts) in enumerate(decoded.items(), 1):
                for positions, entries in parts:
                    await self._queue_at(worker, positions, entries, queue)
                if count % _GROUPS == 0:
                    await self._fair_turns.next()

    async def _take_at_once(self, decoded: Parts[T]) -> None:
        """Queue the samples that are the only ones of their model, and take them out; one commit has them."""
        taken: Worker | None = None
        try:
            for worker, parts in [*decoded.items()]:
                if len(parts) != 1 or len(parts[0][1]) != 1:
                    continue
                [(positions, entries)] = parts
                outcomes = worker.take_at_once(entries, wake=False)
                if outcomes is None:
                    continue
                taken = worker
                self._queued.append((positions, outcomes))
                del decoded[worker]
                if len(self._queued) % SLICE == 0:
                    await self._fair_turns.next()
        finally:
            if taken is not None:
                taken.commit()

    async def _decode(self, take: Take[Item, T], used: Uses) -> Parts[T]:
        """Return the entries to queue at each model, and the positions of their items.

        The models stay in memory until `used` is closed.
        """
        parts: Parts[T] = {}
        for i, item in enumerate(self.items):
            if i % SLICE == 0:
                await self._fair_turns.next()
            await self._take(take, i, item, parts, used)
        return parts

    async def _take(
        self, take: Take[Item, T], i: int, item: Item, parts: Parts[T], used: Uses
    ) -> tuple[Worker, T] | None:
        """Decode one item; return the model and the entry, None if the item is refused."""
        try:
            worker, entry = await take(item)
        except REFUSALS as error:
            self._outcomes[i] = error
            return None
        if worker not in parts:
            used.add(worker)
            parts[worker] = []
        some = parts[worker]
        if not some or isinstance(some[-1][1], Block):
            some.append(([], []))
        positions, entries = some[-1]
        cast(list[int], positions).append(i)
        cast(list[T], entries).append(entry)
        return worker, entry

    async def _queue_at(
        self, worker: Worker, positions: Sequence[int], entries: Sequence[T] | Block, queue: Queue
    ) -> None:
        while positions:
            try:
                count, outcomes = await queue(worker, entries)
            except RequestError as refusal:
                for i in positions:
                    self._outcomes[i] = refusal
                return
            self._queued.append((positions[:count], outcomes))
            positions, entries = positions[count:], entries[count:]

    async def answers(self, encode: Callable[[int, Any], bytes]) -> list[bytes]:
        """Return the encoded outcomes of the items, in order, once all are known.

        Parameters
        ----------
        encode : callable
            Encodes the outcome of the item at a position, unless it is encoded.
        """
        found = self._outcomes
        for count, (positions, outcomes) in enumerate(self._queued, 1):
            if count % _ANSWERS == 0:
                await self._fair_turns.next()
            if isinstance(positions, range):
                found[positions.start : positions.stop] = await outcomes
            else:
                for i, outcome in zip(positions, await outcomes, strict=True):
                    found[i] = outcome
        answers: list[bytes] = []
        for start in range(0, len(found), _ANSWERS):
            await self._fair_turns.next()
            some = found[start : start + _ANSWERS]
            if {*map(type, some)} == {bytes}:
                answers += some
            else:
                answers += [
                    each if isinstance(each, bytes) else encode(i, each) for i, each in enumerate(some, start)
                ]
        return answers
