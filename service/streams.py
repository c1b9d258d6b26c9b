"""Streams of lines: JSON in, an answer line for each, in order, while the body is still coming in.

Two coroutines run at a time. The reader takes what the client sends, decodes it, and queues it at the models;
it waits while too much is unanswered or a queue is full, and TCP makes the client wait. The writer awaits
what became of each line, and sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Generic, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.access import NDJSON
from service.batches import Batch, Queue, Take, error_line
from service.connection import connection_of
from service.errors import RequestError, ShuttingDownError, StreamTimeoutError
from service.headers import headers_of, media_type
from service.lines import Line, Lines
from service.passes import Passes
from service.settings import Settings

T = TypeVar("T")

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
