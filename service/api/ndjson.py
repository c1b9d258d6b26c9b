"""NDJSON streams: one line of response for each line of the body, in order, while the body arrives.

`LineStream` serves a request with two coroutines. The reader splits the body into lines, decodes them in
batches, and queues them at the models. It waits while too many batches are unanswered or a queue is full. TCP
flow control then slows the client down. The writer awaits the outcomes of each batch and sends its answers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ..auth.scopes import NDJSON
from ..errors import (
    BodyTooLargeError,
    InvalidEncodingError,
    RequestError,
    ShuttingDownError,
    StreamTimeoutError,
)
from ..http.connection import connection_of
from ..http.content import is_blank
from ..http.requests import incomplete_body
from ..http.responses import encode_line, envelope
from ..models.queue import Capacity
from ..models.scheduling import FairTurns
from ..models.worker import Worker
from ..settings import Settings
from .batch import Batch, Queue, Take

T = TypeVar("T")

#: Batches that may be unanswered: one is learned, one is sent, and two wait.
_BATCHES = 4


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
        self._size = 0

    def feed(self, chunk: bytes, last: bool = False) -> Iterator[Line]:
        """Yield the lines that end in a chunk; the last line needs no line break."""
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            raw = self._end(chunk[start:stop])
            start = stop + 1
            if raw is None or not is_blank(raw):
                yield Line(self._number, raw)
        self._begin(chunk[start:])
        if last and ((raw := self._end(b"")) is None or not is_blank(raw)):
            yield Line(self._number, raw)

    def _begin(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._begun += part
        else:
            self._begun.clear()

    def _end(self, part: bytes) -> bytes | None:
        """Return the line that ends with `part`; None if it is too long."""
        self._number += 1
        if not self._size:
            return part if len(part) <= self._limit else None
        self._begin(part)
        raw = bytes(self._begun) if self._size <= self._limit else None
        self._begun.clear()
        self._size = 0
        return raw


def _size(lines: Sequence[Line]) -> int:
    """Return the number of bytes of lines."""
    return sum(len(line.raw or b"") for line in lines)


def _answer(lines: Sequence[Line], position: int, outcome: Any) -> bytes:
    """Return the answer to the line at a position."""
    if isinstance(outcome, Exception):
        return error_line(outcome, lines[position].number)
    return encode_line(outcome)


def error_line(error: Exception, number: int) -> bytes:
    """Return the answer to a line that was refused."""
    _, body, _ = envelope(error)
    return encode_line({**body, "line": number})


class LineStream(Generic[T]):
    """A request with an NDJSON body.

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
        Decoder of a line, and queue of decoded lines; see `Take` and `Queue`.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: Settings,
        fair_turns: FairTurns,
        bodies: Capacity,
        take: Take[bytes, T],
        queue: Queue[T],
    ) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._fair_turns = fair_turns
        self._bodies = bodies
        self._take = take
        self._queue = queue
        self._connection = connection_of(scope)
        self._batches: asyncio.Queue[Batch[Line, T] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_BATCHES)
        self._started = False
        self._more = True
        self._line = 0  # number of the last line in a batch
        self._end: RequestError | ClientDisconnect | None = None

    async def run(self) -> None:
        """Answer all lines; an error line ends the response if the body is incomplete.

        Raises
        ------
        ClientDisconnect, InvalidEncodingError
            If the body ends early, or cannot be decompressed, before the first answer.
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
        splitter, size = LineSplitter(self._settings.max_body_bytes), self._settings.group_size
        while self._more:
            chunk = await self._read_chunk()
            complete = splitter.feed(chunk, last=not self._more)
            while some := list(itertools.islice(complete, size)):
                await self._room.acquire()
                await self._queue_batch(some)

    async def _read_chunk(self) -> bytes:
        patience = self._settings.stream_timeout
        try:
            async with asyncio.timeout(patience):
                received = await self._receive()
        except TimeoutError:
            message = f"the client sent nothing for {patience:g} s (BNP_STREAM_TIMEOUT)"
            raise StreamTimeoutError(message) from None
        if received["type"] == "http.disconnect":
            raise incomplete_body()
        self._more = received.get("more_body", False)
        chunk: bytes = received.get("body", b"")
        return chunk

    async def _queue_batch(self, lines: Sequence[Line]) -> None:
        batch: Batch[Line, T] = Batch(lines, self._fair_turns, "line")
        await self._bodies.wait_for_share()
        self._bodies.taken += _size(lines)
        try:
            await batch.queue(self._take_line, self._queue)
        finally:  # also when the reader is cancelled: queued lines are learned and must be answered
            self._line = lines[-1].number
            self._batches.put_nowait(batch)

    def _take_line(self, line: Line) -> tuple[Worker, T]:
        if line.raw is None:
            raise BodyTooLargeError("the line is longer than a body may be (BNP_MAX_BODY_BYTES)")
        return self._take(line.raw)

    async def _write_answers(self) -> None:
        while (batch := await self._batches.get()) is not None:
            try:
                answers = await batch.answers(partial(_answer, batch.items))
            finally:
                self._bodies.free(_size(batch.items))
            await self._send_body(b"".join(answers))
            self._room.release()

    def _free_batches(self) -> None:
        """Release the capacity of batches that nobody answers, because the stream failed."""
        while not self._batches.empty():
            if (batch := self._batches.get_nowait()) is not None:
                self._bodies.free(_size(batch.items))

    async def _write_end(self) -> None:
        if self._end is not None:
            if isinstance(self._end, ClientDisconnect | InvalidEncodingError) and not self._started:
                raise self._end
            self._connection.close_after_response()
            await self._send_body(error_line(self._end, self._line + 1))
        await self._send_body(b"", more=False)

    async def _send_body(self, body: bytes, more: bool = True) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", NDJSON.encode())]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
