"""NDJSON streams: one line of response for each line of the body, in order, while the body arrives.

`LineStream` serves a request with two coroutines. The reader splits the body into lines, decodes them in
batches, and queues them at the models. It waits while too many batches are unanswered or a queue is full. TCP
flow control then slows the client down. The writer awaits the outcomes of each batch and sends its answers.

The lines of a batch are grouped by model. A stream for many models has large batches, so that each model gets
several lines at once: a line in a group of 16 takes a third to a fifth of the time of a line alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import ceil
from typing import Any, Generic, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from ..auth.scopes import NDJSON
from ..errors import (
    BodyTooLargeError,
    InvalidEncodingError,
    InvalidTableError,
    RequestError,
    ShuttingDownError,
    StreamTimeoutError,
)
from ..http.connection import connection_of
from ..http.requests import incomplete_body
from ..http.responses import encode_line, envelope
from ..models.queue import Capacity
from ..models.scheduling import FairTurns
from ..settings import Settings
from ..telemetry.metrics import HttpMetrics
from ..telemetry.middleware import STREAM
from .batch import Batch, Queue, Take

T = TypeVar("T")

#: Batches that may be unanswered: one is learned, one is sent, and two wait.
_BATCHES = 4
#: Most lines of a batch for many models, all of which are in memory; about how many bytes, of lines and of
#: answers; and which share of the bytes that may wait.
_MOST_LINES, _LARGEST, _SHARE = 2**14, 2**21, 8
#: Seconds without a further part of the body after which a batch is complete.
_PAUSE = 0.002
#: Seconds for which a batch is gathered if no earlier one waits: its first line is answered that much later.
_GATHERING = 0.02


#: Errors of a whole body: without an answer before them, they are the response.
_EARLY = (ClientDisconnect, InvalidEncodingError, InvalidTableError, BodyTooLargeError)


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
        self._answer_size = 1.0  # bytes, on average in the last batch
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
        in_memory = min(_MOST_LINES, self._settings.models_in_memory or _MOST_LINES)
        while self._more:
            chunk = await self._read_chunk()
            if wanted > least:
                chunk = await self._gather(chunk, wanted)
                if chunk.count(b"\n") < wanted // 2:  # the client waits, or is slow
                    wanted = max(least, wanted // 2)
            for items in self._split(chunk, not self._more):
                start = 0
                while (rest := len(items) - start) > 0:
                    # Parts of equal size: the last few lines are no batch of their own.
                    size = wanted if wanted == least else ceil(rest / ceil(rest / wanted))
                    await self._room.acquire()
                    batch = await self._queue_batch(items[start : start + size])
                    few = batch.wanted > size  # then there may be more models than it has
                    most = min(in_memory, int(_LARGEST / self._answer_size))
                    wanted = max(least, min(most, max(wanted, batch.wanted) if few else batch.wanted))
                    start += size

    async def _gather(self, chunk: bytes, lines: int) -> bytes:
        """Return a part of the body and the parts that follow without a pause, up to a number of lines."""
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
            self._answer_size = max(1.0, sum(map(len, answers)) / len(answers))
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
