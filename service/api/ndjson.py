"""NDJSON streams: one line of response for each line of the body, in order, while the body arrives.

`LineStream` serves a request with two coroutines. The reader splits the body into lines, decodes them in
batches, and queues them at the models. It waits while too many batches are unanswered or a queue is full. TCP
flow control then slows the client down. The writer awaits the outcomes of each batch and sends its answers.

The lines of a batch are grouped by model. A stream for many models has large batches, so that each model gets
several lines at once: a group takes about as long as twelve lines in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, overload

import numpy as np
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from bnp_online.learner import OnlineLearner
from bnp_online.lines import Lines

from ..auth.scopes import NDJSON
from ..blocks import Block, BlockLines
from ..errors import (
    BodyTooLargeError,
    InvalidEncodingError,
    InvalidTableError,
    RequestError,
    ShuttingDownError,
    StreamTimeoutError,
)
from ..http.connection import connection_of
from ..http.content import is_blank
from ..http.requests import incomplete_body
from ..http.responses import encode_line, envelope
from ..models.queue import Capacity
from ..models.scheduling import SLICE, FairTurns
from ..models.validation import Learn, samples_of
from ..models.worker import Uses, Worker
from ..settings import Settings
from ..telemetry.metrics import HttpMetrics
from ..telemetry.middleware import STREAM
from .batch import Batch, Part, Parts, Queue, Take

T = TypeVar("T")

_SPACE = ord(" ")
#: Fewest lines of a model in a batch of which a template is made. In a stream for thousands of models, most
#: have one line, and a template for each would take longer than it saves.
_FEWEST = 4
#: Lines whose model is searched for before other requests may run.
_SEARCHED = 128
#: First byte of a byte order mark.
_MARK = 0xEF
#: Batches that may be unanswered: one is learned, one is sent, and two wait.
_BATCHES = 4
#: Lines of each model that a batch is to have, if the client sends so many without a pause.
_LINES_OF_MODEL = 16
#: Most lines of a batch for many models, all of which are in memory; about how many bytes, and which share of
#: the bytes that may wait.
_MOST_LINES, _LARGEST, _SHARE = 2**15, 2**21, 8
#: Seconds without a further part of the body after which a batch is complete.
_PAUSE = 0.002
#: Seconds for which a batch is gathered if no earlier one waits: its first line is answered that much later.
_GATHERING = 0.02


#: Errors of a whole body: without an answer before them, they are the response.
_EARLY = (ClientDisconnect, InvalidEncodingError, InvalidTableError, BodyTooLargeError)


class Line(NamedTuple):
    """A line of the body that is not blank.

    Attributes
    ----------
    number : int
        Number from 1; blank lines count.
    raw : bytes or None
        The line without its line break; None if it is too long.
    """

    number: int
    raw: bytes | None


class LineGroup(Sequence[Line]):
    """Lines of a body, in order.

    Parameters
    ----------
    lines : Lines
        The lines; those that are too long are empty.
    numbers : sequence of int
        Their numbers.
    long : collection of int
        Numbers of those that are too long.
    """

    def __init__(self, lines: Lines, numbers: Sequence[int], long: Collection[int] = ()) -> None:
        self.lines = lines
        self.numbers = numbers
        self.long = long

    @property
    def size(self) -> int:
        """Bytes of the lines."""
        return self.lines.size

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, part: int) -> Line: ...
    @overload
    def __getitem__(self, part: slice) -> LineGroup: ...
    def __getitem__(self, part: int | slice) -> Line | LineGroup:
        if isinstance(part, slice):
            return LineGroup(self.lines[part], self.numbers[part], self.long)
        number = self.numbers[part]
        return Line(number, None if number in self.long else self.lines[part])


class LineSplitter:
    r"""Splitter of a stream of chunks into lines; it stores at most the beginning of one line.

    Parameters
    ----------
    limit : int
        Maximum length of a line in bytes; longer lines are not stored.

    Examples
    --------
    >>> splitter = LineSplitter(limit=3)
    >>> list(splitter.feed(b"1\n\n2"))
    [Line(number=1, raw=b'1')]
    >>> list(splitter.feed(b"2\n3333", last=True))
    [Line(number=3, raw=b'22'), Line(number=4, raw=None)]
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._number = 0
        self._begun = bytearray()
        self._size = 0  # of the line that has begun; it is not stored if it is too long

    def feed(self, chunk: bytes, last: bool = False) -> LineGroup:
        """Return the lines that end in a chunk; the last line needs no line break."""
        cut = len(chunk) if last else chunk.rfind(b"\n") + 1
        ended, rest = chunk[:cut], chunk[cut:]
        long = self._size > self._limit and (cut > 0 or last)
        if long:
            ended = ended[ended.find(b"\n") :] if b"\n" in ended else b"\n"
        elif cut or last:
            ended = bytes(self._begun) + ended
            if ended and ended[-1:] != b"\n":
                ended += b"\n"
        if cut or last:
            self._begun.clear()
            self._size = 0
        self._begin(rest)
        return self._split(ended, long)

    def split(self, chunk: bytes, last: bool) -> Iterator[LineGroup]:
        """Yield the lines that end in a chunk, for `LineStream`."""
        yield self.feed(chunk, last)

    def _begin(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._begun += part
        else:
            self._begun.clear()

    def _split(self, text: bytes, long: bool) -> LineGroup:
        """Return the lines of a text that are not blank; the first one stands for a line that is too long."""
        sizes = np.array([*map(len, text.split(b"\n"))][:-1], np.int64)
        lines = Lines(text, [0, *np.cumsum(sizes + 1).tolist()])
        numbers = range(self._number + 1, self._number + 1 + len(lines))
        self._number += len(lines)
        begins = np.frombuffer(text, np.uint8)[lines.bounds[:-1]]
        if not long and sizes.max(initial=0) <= self._limit and ((begins > _SPACE) & (begins < _MARK)).all():
            return LineGroup(lines, numbers)
        kept = dict[int, bytes | None]()
        for number, raw in zip(numbers, lines, strict=True):
            if (long and number == numbers[0]) or len(raw) > self._limit:
                kept[number] = None
            elif not is_blank(raw):
                kept[number] = raw
        too_long = {number for number, raw in kept.items() if raw is None}
        return LineGroup(Lines.of(raw or b"" for raw in kept.values()), [*kept], too_long)


class Reader(Protocol):
    """Reader of blocks from lines, as `LineReader`."""

    def model_of(self, line: bytes) -> str | None:
        """Return the name of the model that a line seems to have, None without one."""

    def note(self, owner: object, learner: OnlineLearner, line: bytes, fields: Mapping[str, Any]) -> None:
        """Take a template from a line that was read on the exact path."""

    def open(self, owner: object, lines: Sequence[bytes]) -> BlockLines | None:
        """Return the lines of a model, to read blocks from them; None if there is no template."""


class Items(Protocol):
    """Items of a body, in order: `LineGroup`, or rows of a table."""

    @property
    def numbers(self) -> Sequence[int]:
        """Number of each item, for messages."""

    @property
    def size(self) -> int:
        """Bytes of the items."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: Any) -> Any: ...


class Output:
    """Form of a response: lines of JSON.

    Attributes
    ----------
    media_type : str
        Its media type.
    """

    media_type = NDJSON

    def encode(self, answers: Sequence[bytes]) -> bytes:
        """Return answers, each a line of JSON, in this form."""
        return b"".join(answers)

    def end(self) -> bytes:
        """Return what ends the response."""
        return b""


_LINES_OF_JSON = Output()


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
        self.wanted = _LINES_OF_MODEL * len(parts)
        return parts

    async def _decode_lines(self, take: Take[Line, T], used: Uses) -> Parts[T]:
        lines = self._lines.lines
        name = self._reader.model_of(lines[0])
        worker = None if self._lines.long else await self._find(name)
        if worker is None:
            return await super()._decode(take, used)
        used.add(worker)
        parts: Parts[T] = {worker: []}
        mixed = set[Worker]()
        # Most often all lines are of one model. Only lines that are not read in blocks are asked for it.
        end = await self._decode_group(worker, range(len(lines)), take, parts, used, mixed, name)
        while end < len(lines):
            groups, begin, few = await self._by_model(end, used), end, list[tuple[int, Worker]]()
            for other, positions in groups.items():
                parts.setdefault(other, [])
                if len(positions) >= _FEWEST:
                    await self._decode_group(other, positions, take, parts, used, mixed)
                else:
                    few += [(i, other) for i in positions]
                end += len(positions)
            await self._take_each(few, take, parts, used, mixed)
            if end == begin:  # its model must be looked up
                await self._take(take, end, self._lines[end], parts, used)
                end += 1
        for each in mixed:  # a line was of another model than it seemed to be
            parts[each] = self._in_order(parts[each])
        return parts

    async def _take_each(
        self,
        some: Sequence[tuple[int, Worker]],
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

    async def _by_model(self, first: int, used: Uses) -> dict[Worker, list[int]]:
        """Return the positions of the lines of each model, up to a line that must be looked up.

        The models stay in memory until `used` is closed: each from now on, since the next one may need room.
        """
        workers: dict[str | None, Worker | None] = {}
        groups: dict[Worker, list[int]] = {}
        for i, line in enumerate(self._lines.lines[first:], first):
            if (i - first) % _SEARCHED == 0:
                await self._fair_turns.next()
            name = self._reader.model_of(line)
            if name not in workers:
                workers[name] = await self._find(name)
            if (worker := workers[name]) is None:
                break
            if worker not in groups:
                used.add(worker)
                groups[worker] = []
            groups[worker].append(i)
        return groups

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

    def _note(self, worker: Worker, entry: Any, line: bytes) -> None:
        fields = {"x": entry.x, "model": worker.model.name}
        self._reader.note(worker, worker.model.estimator, line, fields)


def error_line(error: Exception, number: int, what: str = "line") -> bytes:
    """Return the answer to an item that was refused: a line or a row."""
    _, body, _ = envelope(error)
    return encode_line({**body, what: number})


def _plain_batch(items: Any, fair_turns: FairTurns) -> Batch[Any, Any]:
    return Batch(items, fair_turns, "line")


class LineStream(Generic[T]):
    """A request whose body is a stream of items, such as lines.

    Parameters
    ----------
    scope, receive, send
        The ASGI request.
    settings : Settings
        Limits.
    fair_turns : FairTurns
        The server's, which shares the event loop among requests.
    bodies : Capacity
        The server's, for bytes of requests.
    take, queue : callable
        Decoder of an item, and queue of decoded items; see `Take` and `Queue`.
    split : callable
        Returns the items that end in a chunk of the body, which may be the last one.
    head : callable, optional
        Returns further headers of the response, when the first answer is sent.
    batch : callable
        Makes a batch of items.
    output : Output
        Form of the response.
    what : {"line", "row"}
        What an item is.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: Settings,
        fair_turns: FairTurns,
        bodies: Capacity,
        take: Take[Any, T],
        queue: Queue,
        split: Callable[[bytes, bool], Iterable[Items]],
        head: Callable[[], Iterable[tuple[bytes, bytes]]] | None = None,
        batch: Callable[[Any, FairTurns], Batch[Any, T]] = _plain_batch,
        output: Output = _LINES_OF_JSON,
        what: str = "line",
    ) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._fair_turns = fair_turns
        self._bodies = bodies
        self._take = take
        self._queue = queue
        self._split = split
        self._head = head
        self._batch = batch
        self._output = output
        self._what = what
        self._connection = connection_of(scope)
        scope[STREAM] = True
        metrics: HttpMetrics = scope["app"].state.http_metrics
        self._durations = metrics.part(scope["route"].path)
        self._batches: asyncio.Queue[tuple[Batch[Any, T], Items, float] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_BATCHES)
        self._next: asyncio.Task[Message] | None = None  # receives the next part of the body
        self._started = False
        self._more = True
        self._last = 0  # number of the last item in a batch
        self._end: RequestError | ClientDisconnect | None = None

    async def run(self) -> None:
        """Answer all lines; an error line ends the response if the body is incomplete.

        Raises
        ------
        ClientDisconnect, InvalidEncodingError, InvalidTableError, BodyTooLargeError
            If the body ends early, cannot be decompressed, or is no table, before the first answer.
        """
        reader = asyncio.create_task(self._read())
        try:
            await self._write_answers()
            await reader  # if it failed, the response must not look complete
            await self._write_end()
        finally:
            self._connection.on_stop(None)
            reader.cancel()
            await asyncio.wait([reader])
            if self._next is not None:
                self._next.cancel()
                await asyncio.gather(self._next, return_exceptions=True)
            self._free_batches()

    async def _read(self) -> None:
        """Read and queue lines until the body ends, the client disconnects, or the server shuts down."""
        if (this := asyncio.current_task()) is not None:
            self._connection.on_stop(this.cancel)
        try:
            await self._read_lines()
        except asyncio.CancelledError:
            self._end = ShuttingDownError("the server is shutting down: send this line and the rest again")
        except (RequestError, ClientDisconnect) as error:
            self._end = error
        finally:
            self._batches.put_nowait(None)

    async def _read_lines(self) -> None:
        least = wanted = self._settings.group_size
        half = min(_MOST_LINES, self._settings.models_in_memory or _MOST_LINES) // 2
        while self._more:
            chunk = await self._read_chunk()
            if wanted > least:
                chunk = await self._gather(chunk, wanted)
            for items in self._split(chunk, not self._more):
                start = 0
                while start < len(items):
                    # If it is gathered, the last few of its lines are no batch of their own.
                    stop = start + (wanted if wanted == least else 2 * wanted)
                    await self._room.acquire()
                    batch = await self._queue_batch(items[start:stop])
                    if batch.wanted > len(batch.items):  # there may be more models than it has
                        wanted = max(wanted, min(batch.wanted, half))
                    else:
                        wanted = max(least, batch.wanted)
                    start = stop

    async def _gather(self, chunk: bytes, lines: int) -> bytes:
        """Return a part of the body, and those that follow without a pause, up to a number of lines."""
        chunks, count, size, waiting = [chunk], chunk.count(b"\n"), len(chunk), self._bodies
        until = time.monotonic() + _GATHERING
        largest = min(_LARGEST, self._settings.queue_bytes // _SHARE)
        try:
            while self._more and count < lines and size < largest and waiting.has_share:
                if (self._batches.empty() and time.monotonic() > until) or not await self._has_arrived():
                    break
                chunks.append(chunk := await self._read_chunk())
                count += chunk.count(b"\n")
                size += len(chunk)
                waiting.taken += len(chunk)
        finally:
            waiting.free(size - len(chunks[0]))
        return b"".join(chunks)

    async def _has_arrived(self) -> bool:
        """Return whether a further part of the body arrives without a pause."""
        self._next = self._next or asyncio.create_task(self._receive_next())
        await asyncio.wait([self._next], timeout=_PAUSE)
        if not self._next.done() or self._next.exception() is not None:
            return False
        kind: str = self._next.result()["type"]
        return kind == "http.request"

    async def _receive_next(self) -> Message:
        return await self._receive()

    async def _read_chunk(self) -> bytes:
        patience = self._settings.stream_timeout
        try:
            async with asyncio.timeout(patience):
                received = await (self._receive() if self._next is None else self._next)
        except TimeoutError:
            message = f"the client sent nothing for {patience:g} s (BNP_STREAM_TIMEOUT)"
            raise StreamTimeoutError(message) from None
        finally:
            self._next = None
        if received["type"] == "http.disconnect":
            raise incomplete_body()
        self._more = received.get("more_body", False)
        chunk: bytes = received.get("body", b"")
        return chunk

    async def _queue_batch(self, items: Items) -> Batch[Any, T]:
        batch, start = self._batch(items, self._fair_turns), time.perf_counter()
        await self._bodies.wait_for_share()
        self._bodies.taken += items.size
        try:
            await batch.queue(self._take, self._queue)
        finally:  # also when the reader is cancelled: queued items are learned and must be answered
            self._last = items.numbers[-1]
            self._batches.put_nowait((batch, items, start))
        return batch

    def _answer(self, items: Items, position: int, outcome: Any) -> bytes:
        """Return the answer to the item at a position."""
        if isinstance(outcome, Exception):
            return error_line(outcome, items.numbers[position], self._what)
        return encode_line(outcome)

    async def _write_answers(self) -> None:
        while (queued := await self._batches.get()) is not None:
            batch, items, start = queued
            try:
                answers = await batch.answers(partial(self._answer, items))
            finally:
                self._bodies.free(items.size)
            self._durations.observe(time.perf_counter() - start)
            await self._send_body(self._output.encode(answers))
            self._room.release()

    def _free_batches(self) -> None:
        """Release the capacity of batches that nobody answers, because the stream failed."""
        while not self._batches.empty():
            if (queued := self._batches.get_nowait()) is not None:
                self._bodies.free(queued[1].size)

    async def _write_end(self) -> None:
        if self._end is not None:
            if isinstance(self._end, _EARLY) and not self._started:
                raise self._end
            self._connection.close_after_response()
            await self._send_body(self._output.encode([error_line(self._end, self._last + 1, self._what)]))
        await self._send_body(self._output.end(), more=False)

    async def _send_body(self, body: bytes, more: bool = True) -> None:
        if not self._started:
            self._started = True
            headers = [
                (b"content-type", self._output.media_type.encode()),
                *(self._head() if self._head else ()),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
