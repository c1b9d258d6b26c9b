"""Predictions of a model, and questions about it: they wait for nothing but the step that is being taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from ..errors import REFUSALS
from .hosted import Answer, HostedModel, Outcome
from .latency import Durations
from .queue import Outcomes, Room
from .scheduling import SLICE, Pace, Passes, Turns

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
    passes : Passes
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
        turns: Turns,
        passes: Passes,
        require_open: Callable[[], None],
        look: Look,
        room: Room,
        group_size: int,
    ) -> None:
        self._turns = turns
        self._passes = passes
        self._require_open = require_open
        self._look = look
        self._room = room
        self._group_size = group_size
        self._pace = Pace()
        self.durations = Durations()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._room.taken

    @property
    def short(self) -> bool:
        """Whether the event loop can wait for a prediction."""
        return self._pace.short

    async def ask(self, read: Callable[[HostedModel], T]) -> T:
        """Return what `read` makes of the model between two steps; it must not make it learn."""
        self._require_open()
        with self._room.place():
            answer: T = await self._turns.run(partial(self._look, read))
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
                    await self._passes.next()
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
        answer: Answer = await self._turns.run(read, short=self._pace.short)
        self.durations.note(time.perf_counter() - start)
        return answer

    def _timed(self, asked: Asked, model: HostedModel) -> Answer:
        x, level = asked
        start = time.perf_counter()
        answer = model.predict(x, level=level)
        self._pace.note(1, time.perf_counter() - start)
        return answer
