"""Predictions of a model, and questions about it: they wait for nothing but the step that is being taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from ..errors import REFUSALS
from .hosted import Answer, HostedModel, Outcome
from .latency import Latency
from .queue import Capacity, Outcomes
from .scheduling import SLICE, CallLength, FairTurns, ModelAccess

T = TypeVar("T")
Asked: TypeAlias = tuple[Any, float | None]
"""A sample, and the level of the interval that is asked for with its prediction, if any."""
Look: TypeAlias = Callable[[Callable[[HostedModel], Any]], Any]
"""Returns what a function makes of the model as it is, or raises why nobody may see it now."""


class Reads:
    """What only looks at a model.

    Parameters
    ----------
    turns : Turns
        Of the model.
    fair_turns : FairTurns
        Of the server.
    require_open : callable
        Raises what refuses all requests, if anything does.
    look : callable
        Gives access to the model.
    room : Room
        How many may wait.
    group_size : int
        Predictions of a stream that are queued together at most.

    Attributes
    ----------
    durations : Durations
        Of predictions, those included that are kept for their label.
    """

    def __init__(
        self,
        turns: ModelAccess,
        fair_turns: FairTurns,
        require_open: Callable[[], None],
        look: Look,
        room: Capacity,
        group_size: int,
    ) -> None:
        self._access = turns
        self._fair_turns = fair_turns
        self._require_open = require_open
        self._look = look
        self._room = room
        self._group_size = group_size
        self._call_length = CallLength()
        self.latency = Latency()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._room.taken

    @property
    def short(self) -> bool:
        """Whether the event loop can wait for a prediction."""
        return self._call_length.short

    async def ask(self, read: Callable[[HostedModel], T]) -> T:
        """Return what `read` makes of the model between two steps; it must not make it learn."""
        self._require_open()
        with self._room.place():
            answer: T = await self._access.run(partial(self._look, read))
            return answer

    async def predict(self, x: Any, level: float | None = None) -> Answer:
        """Return a prediction, with an interval if a level is given, made between two steps."""
        self._require_open()
        with self._room.place():
            return await self._predict((x, level))

    async def queue(self, samples: Sequence[Asked]) -> tuple[int, Outcomes]:
        """Queue many predictions at once, and wait until there is room for at least one.

        Returns
        -------
        int
            How many of them are queued: the first ones for which there is room.
        Future
            For each of those in order its answer, or what refused it.
        """
        count = min(len(samples), await self._room.wait_for_share(), self._group_size)
        self._require_open()
        self._room.take(count)
        return count, asyncio.create_task(self._predict_all(samples[:count]))

    async def _predict_all(self, samples: Sequence[Asked]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            for i, asked in enumerate(samples):
                if i % SLICE == 0:
                    await self._fair_turns.next()
                try:
                    outcomes.append(await self._predict(asked))
                except REFUSALS as error:
                    outcomes.append(error)
        finally:
            self._room.free(len(samples))
        return outcomes

    async def _predict(self, asked: Asked) -> Answer:
        start = time.perf_counter()
        read = partial(self._look, partial(self._timed, asked))
        answer: Answer = await self._access.run(read, short=self._call_length.short)
        self.latency.note(time.perf_counter() - start)
        return answer

    def _timed(self, asked: Asked, model: HostedModel) -> Answer:
        x, level = asked
        start = time.perf_counter()
        answer = model.predict(x, level=level)
        self._call_length.note(1, time.perf_counter() - start)
        return answer
