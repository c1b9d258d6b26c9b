"""Batches of items of one request: decoded, queued at their models, and answered in order.

The items are the lines of a stream, or those of an array.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from ..errors import REFUSALS, RequestError, ShuttingDownError
from ..models.queue import Outcomes
from ..models.scheduling import SLICE, FairTurns
from ..models.worker import Worker

Item = TypeVar("Item")
T = TypeVar("T")

Take: TypeAlias = Callable[[Item], tuple[Worker, T]]
"""Decodes an item into the model that it names and the entry to queue there; may raise one of `REFUSALS`."""
Queue: TypeAlias = Callable[[Worker, Sequence[T]], Awaitable[tuple[int, Outcomes]]]
"""Queues the first of several entries once the queue has room; returns how many, and their outcomes."""

#: Items that are encoded before other requests may run.
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
    """

    def __init__(self, items: Sequence[Item], fair_turns: FairTurns, what: str) -> None:
        self.items = items
        self._fair_turns = fair_turns
        # The outcome of items that are not queued when the request stops: they are not learned.
        late = ShuttingDownError(f"the server is shutting down: send this {what} again")
        self._outcomes: list[Any] = [late] * len(items)
        self._queued: list[tuple[Sequence[int], Outcomes]] = []

    async def queue(self, take: Take[Item, T], queue: Queue[T]) -> None:
        """Decode the items, and queue them at their models, in order for each model."""
        for worker, (positions, entries) in (await self._decode(take)).items():
            await self._queue_at(worker, positions, entries, queue)

    async def _decode(self, take: Take[Item, T]) -> dict[Worker, tuple[list[int], list[T]]]:
        """Return the entries to queue at each model, and the positions of their items."""
        by_worker: defaultdict[Worker, tuple[list[int], list[T]]] = defaultdict(lambda: ([], []))
        for i, item in enumerate(self.items):
            if i % SLICE == 0:
                await self._fair_turns.next()
            try:
                worker, entry = take(item)
            except REFUSALS as error:
                self._outcomes[i] = error
            else:
                positions, entries = by_worker[worker]
                positions.append(i)
                entries.append(entry)
        return by_worker

    async def _queue_at(
        self, worker: Worker, positions: Sequence[int], entries: Sequence[T], queue: Queue[T]
    ) -> None:
        while entries:
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
            Encodes the outcome of the item at a position.
        """
        for positions, outcomes in self._queued:
            for i, outcome in zip(positions, await outcomes, strict=True):
                self._outcomes[i] = outcome
        answers: list[bytes] = []
        for i, outcome in enumerate(self._outcomes):
            if i % _ANSWERS == 0:
                await self._fair_turns.next()
            answers.append(encode(i, outcome))
        return answers
