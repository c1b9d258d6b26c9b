"""Lines of a stream that are decoded, queued and answered together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from service.errors import REFUSALS, BodyTooLargeError, RequestError, ShuttingDownError, envelope
from service.jobs import Outcomes
from service.learner import Learner
from service.lines import Line
from service.passes import SLICE, Passes
from service.wire import encode_line

T = TypeVar("T")

#: Lines that are answered before other requests have a turn.
_ANSWERS = 64

Take: TypeAlias = Callable[[bytes], tuple[Learner, T]]
"""Decodes a line: which model it is for, and what to queue there; it may raise one of `REFUSALS`."""
Queue: TypeAlias = Callable[[Learner, Sequence[T]], Awaitable[tuple[int, Outcomes]]]
"""Queues the first of many items, as soon as there is room, and returns how many."""


class Batch(Generic[T]):
    """Some lines, and for each what became of it: an answer or an error.

    Parameters
    ----------
    lines : sequence of Line
        At most as many as a model learns as one group.
    passes : Passes
        Of the server.
    """

    def __init__(self, lines: Sequence[Line], passes: Passes) -> None:
        self._lines = lines
        self._passes = passes
        # What nobody queued when the stream was stopped was not learned.
        late = ShuttingDownError("the server is shutting down: send this line again")
        self._outcomes: list[Any] = [late] * len(lines)
        self._queued: list[tuple[Sequence[int], Outcomes]] = []

    async def queue(self, take: Take[T], queue: Queue[T]) -> None:
        """Decode the lines, and queue them at their models: at each in order, once there is room."""
        for learner, (positions, items) in (await self._decode(take)).items():
            await self._queue_at(learner, positions, items, queue)

    async def _decode(self, take: Take[T]) -> dict[Learner, tuple[list[int], list[T]]]:
        """Return what is to be queued at each model, and for which lines."""
        by_learner: defaultdict[Learner, tuple[list[int], list[T]]] = defaultdict(lambda: ([], []))
        for i, line in enumerate(self._lines):
            if i % SLICE == 0:
                await self._passes.next()
            try:
                if line.raw is None:
                    raise BodyTooLargeError("the line is longer than a body may be (BNP_MAX_BODY_BYTES)")
                learner, item = take(line.raw)
            except REFUSALS as error:
                self._outcomes[i] = error
            else:
                positions, items = by_learner[learner]
                positions.append(i)
                items.append(item)
        return by_learner

    async def _queue_at(
        self, learner: Learner, positions: Sequence[int], items: Sequence[T], queue: Queue[T]
    ) -> None:
        while items:
            try:
                count, outcomes = await queue(learner, items)
            except RequestError as refusal:
                for i in positions:
                    self._outcomes[i] = refusal
                return
            self._queued.append((positions[:count], outcomes))
            positions, items = positions[count:], items[count:]

    async def answer(self) -> bytes:
        """Return a line for each line, in order, once all that is queued is done."""
        for positions, outcomes in self._queued:
            for i, outcome in zip(positions, await outcomes, strict=True):
                self._outcomes[i] = outcome
        answers: list[bytes] = []
        for start in range(0, len(self._lines), _ANSWERS):
            await self._passes.next()
            some = slice(start, start + _ANSWERS)
            answers += map(_answer_line, self._lines[some], self._outcomes[some])
        return b"".join(answers)


def _answer_line(line: Line, outcome: Any) -> bytes:
    if isinstance(outcome, Exception):
        return error_line(outcome, line.number)
    return encode_line(outcome)


def error_line(error: Exception, number: int) -> bytes:
    """Return the line that answers a line of this number with an error."""
    _, body, _ = envelope(error)
    return encode_line({**body, "line": number})
