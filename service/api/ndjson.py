"""From chunks of bytes, cut anywhere, to lines of bounded length.

Lines of a stream that are decoded, queued and answered together.

Streams of lines: JSON in, an answer line for each, in order, while the body is still coming in.

Two coroutines run at a time. The reader takes what the client sends, decodes it, and queues it at the models;
it waits while too much is unanswered or a queue is full, and TCP makes the client wait. The writer awaits
what became of each line, and sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ..auth.scopes import NDJSON
from ..errors import (
    REFUSALS,
    BodyTooLargeError,
    RequestError,
    ShuttingDownError,
    StreamTimeoutError,
    envelope,
)
from ..http.connection import connection_of
from ..http.requests import encode_line, headers_of, media_type
from ..models.queue import Outcomes
from ..models.scheduling import SLICE, Passes
from ..models.worker import Learner
from ..settings import Settings


class Line(NamedTuple):
    """A line that is not blank.

    Attributes
    ----------
    number : int
        From 1; blank lines count.
    raw : bytes or None
        Without its end; None if it was too long.
    """

    number: int
    raw: bytes | None


class Lines:
    r"""Splits a stream into lines, and keeps no more of it than the beginning of one.

    Parameters
    ----------
    limit : int
        Bytes of the longest line; of a longer one nothing is kept.

    Examples
    --------
    >>> lines = Lines(limit=3)
    >>> list(lines.feed(b"1\n\n2"))
    [Line(number=1, raw=b'1')]
    >>> list(lines.feed(b"2\n3333", last=True))
    [Line(number=3, raw=b'22'), Line(number=4, raw=None)]
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._number = 0
        self._begun = bytearray()
        self._size = 0

    def feed(self, chunk: bytes, last: bool = False) -> Iterator[Line]:
        """Yield the lines that end in this chunk; after the last chunk a line needs no end."""
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            raw = self._end(chunk[start:stop])
            start = stop + 1
            if raw is None or raw.strip():
                yield Line(self._number, raw)
        self._begin(chunk[start:])
        if last and ((raw := self._end(b"")) is None or raw.strip()):
            yield Line(self._number, raw)

    def _begin(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._begun += part
        else:
            self._begun.clear()

    def _end(self, part: bytes) -> bytes | None:
        """Return the line that ends with `part`, None if it is too long."""
        self._number += 1
        if not self._size:
            return part if len(part) <= self._limit else None
        self._begin(part)
        raw = bytes(self._begun) if self._size <= self._limit else None
        self._begun.clear()
        self._size = 0
        return raw


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


#: Batches that may be unanswered: one is learned, one is sent, and the rest bridges the time in between.
_BATCHES = 4
#: Seconds that a client has to stop sending when the server ends its stream; what still comes is dropped.
_LINGER = 2.0


class _UnreadError(Exception):
    """The client has not read for too long."""


def is_ndjson(scope: Scope) -> bool:
    """Whether the body of a request is a stream of lines."""
    return media_type(headers_of(scope)) == NDJSON


class LineStream(Generic[T]):
    """One request with a body of lines.

    Parameters
    ----------
    scope, receive, send
        The request.
    settings : Settings
        The limits.
    passes : Passes
        Of the server.
    take, queue : callable
        What a line asks for, and where that waits.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: Settings,
        passes: Passes,
        take: Take[T],
        queue: Queue[T],
    ) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._passes = passes
        self._take = take
        self._queue = queue
        self._connection = connection_of(scope)
        self._batches: asyncio.Queue[Batch[T] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_BATCHES)
        self._started = False
        self._more = True
        self._line = 0  # the last that is in a batch
        self._end: RequestError | ClientDisconnect | None = None

    async def run(self) -> None:
        """Answer all lines; returns when that is done, or the client has gone.

        Raises
        ------
        ClientDisconnect
            If it left before the first answer.
        """
        reader, unread = asyncio.create_task(self._read()), False
        try:
            await self._write_answers()
            await reader  # if it failed, the answer must not look complete
            await self._write_end()
        except _UnreadError:
            unread = True
        finally:
            self._connection.on_stop(None)
            reader.cancel()
            await asyncio.wait([reader])
        if unread:
            self._connection.abort()
            await self._drop(until_gone=True)

    async def _read(self) -> None:
        """Read and queue until there is nothing more to read, for whatever reason."""
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
        lines, size = Lines(self._settings.max_body_bytes), self._settings.group_size
        while self._more:
            chunk = await self._read_chunk()
            complete = lines.feed(chunk, last=not self._more)
            while some := list(itertools.islice(complete, size)):
                await self._room.acquire()
                await self._queue_batch(some)

    async def _read_chunk(self) -> bytes:
        patience = self._settings.stream_timeout
        try:
            async with asyncio.timeout(patience):
                message = await self._receive()
        except TimeoutError:
            raise StreamTimeoutError(f"nothing came for {patience:g} s (BNP_STREAM_TIMEOUT)") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def _queue_batch(self, lines: Sequence[Line]) -> None:
        batch: Batch[T] = Batch(lines, self._passes)
        try:
            await batch.queue(self._take, self._queue)
        finally:  # when the reader is stopped in the middle, too: what was queued will be learned
            self._line = lines[-1].number
            self._batches.put_nowait(batch)

    async def _write_answers(self) -> None:
        while (batch := await self._batches.get()) is not None:
            await self._send_body(await batch.answer())
            self._room.release()

    async def _write_end(self) -> None:
        if isinstance(self._end, ClientDisconnect):
            if not self._started:
                raise self._end
        elif self._end is not None:
            await self._send_body(error_line(self._end, self._line + 1))
            # To close what still has bytes to read would take the last answers with it.
            await self._drop(until_gone=False)
            await self._send_body(b"", more=False)
            self._connection.close()
        else:
            await self._send_body(b"", more=False)

    async def _send_body(self, body: bytes, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._settings.stream_timeout):
                if not self._started:
                    self._started = True
                    headers = [(b"content-type", NDJSON.encode())]
                    await self._send({"type": "http.response.start", "status": 200, "headers": headers})
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise _UnreadError from None

    async def _drop(self, *, until_gone: bool) -> None:
        """Read on, and make nothing of it, until the body ends or the client has gone."""
        with contextlib.suppress(TimeoutError, StreamTimeoutError, ClientDisconnect):
            async with asyncio.timeout(_LINGER):
                while self._more or until_gone:
                    await self._read_chunk()
