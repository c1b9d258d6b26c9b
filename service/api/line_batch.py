"""Batches of lines: grouped by model, and read as blocks where they are like earlier lines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from bnp_online.learner import OnlineLearner
from bnp_online.lines import Lines

from ..blocks import Block, BlockLines
from ..models.scheduling import SLICE, FairTurns
from ..models.validation import Learn, samples_of
from ..models.worker import Uses, Worker
from .batch import Batch, Part, Parts, Take
from .line_splitter import Line, LineGroup

T = TypeVar("T")

#: Lines of each model in a large batch.
_LINES_OF_MODEL = 16
#: Fewest lines of a model in a batch of which a template is made. In a stream for thousands of models, most
#: have one line, and a template for each would take longer than it saves.
_FEWEST = 4
#: Lines whose model is searched for before other requests may run.
_SEARCHED = 128


class Reader(Protocol):
    """Reader of blocks from lines, as `LineReader`."""

    def model_of(self, line: bytes) -> str | None:
        """Return the name of the model that a line seems to have, None without one."""

    def note(self, owner: object, learner: OnlineLearner, line: bytes, fields: Mapping[str, Any]) -> None:
        """Take a template from a line that was read on the exact path."""

    def open(self, owner: object, lines: Sequence[bytes]) -> BlockLines | None:
        """Return the lines of a model, to read blocks from them; None if there is no template."""


class LineBatch(Batch[Line, T]):
    """A batch of lines. Those that are like earlier ones are read as blocks.

    Parameters
    ----------
    items, fair_turns
        As for `Batch`.
    reader : Reader
        Reader of blocks.
    find : callable
        Returns the worker of a name in a line, or of a line without one; None if the line itself must tell.
    """

    def __init__(
        self,
        items: LineGroup,
        fair_turns: FairTurns,
        reader: Reader,
        find: Callable[[str | None], Awaitable[Worker | None]],
    ) -> None:
        super().__init__(items, fair_turns, "line")
        self._lines = items
        self._reader = reader
        self._find = find

    async def _decode(self, take: Take[Line, T], used: Uses) -> Parts[T]:
        parts = await self._decode_lines(take, used)
        # A model whose calls are long, or which is new, uses a thread: many lines of it would delay others.
        self.wanted = _LINES_OF_MODEL * sum(map(self._is_short, parts))
        return parts

    def _is_short(self, worker: Worker) -> bool:
        """Return whether a line of a model takes a short call, on the event loop."""
        raise NotImplementedError

    async def _decode_lines(self, take: Take[Line, T], used: Uses) -> Parts[T]:
        lines = self._lines.lines
        if self._lines.long:
            return await super()._decode(take, used)
        parts: Parts[T] = {}
        mixed, name, end = set[Worker](), self._reader.model_of(lines[0]), 0
        if (worker := await self._find(name)) is not None:
            used.add(worker)
            parts[worker] = []
            # Most often all lines are of one model. Only lines that are not read in blocks are asked for it.
            end = await self._decode_group(worker, range(len(lines)), take, parts, used, mixed, name)
        groups, alone = await self._by_model(end, used)
        for other, positions in groups.items():
            parts.setdefault(other, [])
            if len(positions) >= _FEWEST:
                await self._decode_group(other, positions, take, parts, used, mixed)
            else:
                alone += [(i, other) for i in positions]
        await self._take_each(alone, take, parts, used, mixed)
        for each in mixed:  # a line was of another model than it seemed to be
            parts[each] = self._in_order(parts[each])
        return parts

    async def _take_each(
        self,
        some: Sequence[tuple[int, Worker | None]],
        take: Take[Line, T],
        parts: Parts[T],
        used: Uses,
        mixed: set[Worker],
    ) -> None:
        """Decode lines alone, each with the model that it seems to be of; see `_decode_group`."""
        for count, (i, worker) in enumerate(some):
            if count % SLICE == 0:
                await self._fair_turns.next()
            taken = await self._take(take, i, self.items[i], parts, used)
            if taken is not None and taken[0] is not worker:
                mixed.add(taken[0])

    async def _by_model(
        self, first: int, used: Uses
    ) -> tuple[dict[Worker, list[int]], list[tuple[int, Worker | None]]]:
        """Return the positions of the lines of each model, and of those that must be looked up.

        The models stay in memory until `used` is closed: each from now on, since the next one may need room.
        """
        workers: dict[str | None, Worker | None] = {}
        groups: dict[Worker, list[int]] = {}
        unknown: list[tuple[int, Worker | None]] = []
        lines = self._lines.lines
        for i in range(first, len(lines)):
            if (i - first) % _SEARCHED == 0:
                await self._fair_turns.next()
            name = self._reader.model_of(lines[i])
            if name not in workers:
                workers[name] = await self._find(name)
            if (worker := workers[name]) is None:
                unknown.append((i, None))
                continue
            if worker not in groups:
                used.add(worker)
                groups[worker] = []
            groups[worker].append(i)
        return groups, unknown

    async def _decode_group(
        self,
        worker: Worker,
        positions: Sequence[int],
        take: Take[Line, T],
        parts: Parts[T],
        used: Uses,
        mixed: set[Worker],
        *only: str | None,
    ) -> int:
        """Decode the lines of one model.

        Parameters
        ----------
        worker : Worker
            The model.
        positions : sequence of int
            Positions of the lines.
        take, parts, used
            As for `Batch`.
        mixed : set of Worker
            Gets the models that other lines turned out to be of.
        *only : str or None
            Name of the model in its lines: the group ends at a line with another one.

        Returns
        -------
        int
            Number of decoded lines.
        """
        lines = self._lines.lines
        if len(positions) < len(lines):
            lines = Lines.of(lines[i] for i in positions)
        source, i, exact, named = self._reader.open(worker, lines), 0, 0, any(only)
        while i < len(lines):
            block = None if source is None else source.read(worker.model.estimator, i, named=named)
            if block is not None:
                parts[worker].append((positions[i : i + len(block)], block))
                i += len(block)
                await self._fair_turns.next()
                continue
            if only and self._reader.model_of(lines[i]) != only[0]:
                break
            if exact % SLICE == 0:
                await self._fair_turns.next()
            taken = await self._take(take, positions[i], self.items[positions[i]], parts, used)
            if taken is not None:
                self._note(*taken, lines[i])
                source = source or self._reader.open(worker, lines)
                if taken[0] is not worker:
                    mixed.add(taken[0])
            exact += 1
            i += 1
        return i

    def _note(self, worker: Worker, entry: T, line: bytes) -> None:
        """Take a template from a line that was read on the exact path."""
        raise NotImplementedError

    def _in_order(self, parts: Sequence[Part[T]]) -> list[Part[T]]:
        """Return the parts of a model in the order of their positions, if the order matters."""
        return [*parts]


class SampleBatch(LineBatch[Learn]):
    """A batch of lines with samples to learn."""

    def _is_short(self, worker: Worker) -> bool:
        return worker.learns_in_short_calls

    def _note(self, worker: Worker, entry: Learn, line: bytes) -> None:
        fields = {"x": entry.x, "y": entry.y, "w": entry.w, "id": entry.id, "model": worker.model.name}
        self._reader.note(worker, worker.model.estimator, line, fields)

    def _in_order(self, parts: Sequence[Part[Learn]]) -> list[Part[Learn]]:
        """Return the samples of parts in the order of their positions, each alone."""
        found: list[tuple[int, Learn]] = []
        for positions, entries in parts:
            samples = samples_of(entries) if isinstance(entries, Block) else entries
            found += zip(positions, samples, strict=True)
        found.sort(key=lambda each: each[0])
        return [([i for i, _ in found], [sample for _, sample in found])]


class PredictionBatch(LineBatch[Any]):
    """A batch of lines with samples to predict, which change no model."""

    def _is_short(self, worker: Worker) -> bool:
        return worker.predicts_in_short_calls

    def _note(self, worker: Worker, entry: Any, line: bytes) -> None:
        fields = {"x": entry.x, "model": worker.model.name}
        self._reader.note(worker, worker.model.estimator, line, fields)
