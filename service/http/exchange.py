"""One request and its response: the functions `receive` and `send` of ASGI."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache

from starlette.types import Message, Scope

from ..errors import is_out_of_descriptors
from .connection import Connection
from .requests import BODY, headers_of

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Bytes up to which a part of the body is joined with the head of the response: one write, one packet.
_JOINED = 65_536
#: Bytes of a body whose rest is received after its answer, so that the connection stays open.
_SHORT_BODY = 65_536

_logger = logging.getLogger(__name__)


class _Framing(Enum):
    """What marks the end of the body of a response."""

    NO_BODY, LENGTH, CHUNKS, CLOSE = range(4)


class Exchange:
    """A request and its response.

    Parameters
    ----------
    scope : Scope
        ASGI scope of the request.
    connection : Connection
        Connection of the request.
    keep_alive : bool
        Whether the connection stays open after the response.
    expects_continue : bool
        Whether the client waits for ``100 Continue`` before it sends the body.
    common_headers : list of (bytes, bytes)
        Headers of every response.
    write : callable
        Sends bytes.
    on_read : callable
        Called after the application has read a part of the body.
    on_complete : callable
        Called with the exchange after the response is complete.

    Attributes
    ----------
    keep_alive : bool
        Whether the connection stays open after the response.
    arrived : bool
        Whether the whole request has been received.
    started, complete : bool
        Whether the application has started, and completed, the response.
    unread : int
        Number of received bytes of the body that the application has not read.
    """

    __slots__ = (
        "_body",
        "_common_headers",
        "_connection",
        "_ended",
        "_expects_continue",
        "_framing",
        "_head",
        "_left",
        "_lost",
        "_new",
        "_on_complete",
        "_on_read",
        "_reading",
        "_wake",
        "_write",
        "arrived",
        "complete",
        "keep_alive",
        "scope",
        "started",
        "unread",
    )

    def __init__(
        self,
        scope: Scope,
        connection: Connection,
        keep_alive: bool,
        expects_continue: bool,
        common_headers: list[tuple[bytes, bytes]],
        write: Callable[[bytes], object],
        on_read: Callable[[], None],
        on_complete: Callable[[Exchange], None],
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.arrived = self.started = self.complete = False
        self.unread = 0
        self._connection = connection
        self._expects_continue = expects_continue
        self._common_headers = common_headers
        self._write = write
        self._on_read = on_read
        self._on_complete = on_complete
        self._body: list[bytes] = []
        self._reading = False  # whether the application has asked for the body
        self._new = False  # whether the application has not received the latest part of the request
        self._ended = False  # whether the client sends nothing more
        self._lost = False  # whether the client receives nothing more
        self._wake: asyncio.Event | None = None  # of a waiting `receive`
        self._head = b""  # of the response, until it is written
        self._framing = _Framing.CLOSE
        self._left = 0  # bytes of the body of the response that are not sent, if its head announces them

    def add_body(self, part: bytes, last: bool) -> None:
        """Add a part of the body."""
        if last:
            self.arrived = True
            self._expects_continue = False
            if not self._reading:
                self.scope[BODY] = b"".join([*self._body, part]) if self._body else part
        if part and not self.complete:
            self._body.append(part)
            self.unread += len(part)
        self._new = True
        if self._wake is not None:
            self._wake.set()

    def end_request(self) -> None:
        """Note that the client sends nothing more: a request that has not arrived is incomplete."""
        self._ended = True
        if not self.arrived:
            self.keep_alive = False
        if self._wake is not None:
            self._wake.set()

    def abandon(self) -> None:
        """Note that the client receives nothing more: the rest of the response is discarded."""
        self._ended = self._lost = True
        self._new = False
        if self._wake is not None:
            self._wake.set()

    async def receive(self) -> Message:
        """Return the next part of the body, or the notice that the client sends nothing more."""
        self._reading = True
        if self._expects_continue:
            self._expects_continue = False
            self._write(_CONTINUE)
        while not (self._new or self._ended or self.complete):
            self._wake = self._wake or asyncio.Event()
            self._wake.clear()
            await self._wake.wait()
        if self.complete or not self._new:
            return {"type": "http.disconnect"}
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self.unread = 0
        self._new = False
        self._on_read()
        return {"type": "http.request", "body": body, "more_body": not self.arrived}

    async def send(self, message: Message) -> None:
        """Send the head, or a part of the body, of the response; wait while the client does not read."""
        if not self._connection.writable:
            await self._connection.drain()
        if self._lost:
            return
        if not self.started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"a response begins with http.response.start, not {message['type']}")
            self.started = True
            self._head = self._encode_head(message["status"], message.get("headers", ()))
            return
        if self.complete:
            raise RuntimeError("the response is complete")
        more: bool = message.get("more_body", False)
        self._send(self._encode_body(message.get("body", b""), more))
        if not more:
            self.complete = True
            self._body, self.unread = [], 0
            if self._wake is not None:
                self._wake.set()
            self._on_complete(self)

    def _encode_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        if self._expects_continue:  # the client may send the body or leave it out: what follows is unclear
            self.keep_alive = False
        if self._connection.last:
            self.keep_alive = False
        lines = [status_line(status)]
        for name, value in (*self._common_headers, *headers):
            if name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            if name == b"content-length":
                self._framing, self._left = _Framing.LENGTH, int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        if self.scope["method"] == "HEAD" or status in (204, 304):
            self._framing = _Framing.NO_BODY
        elif self._framing is not _Framing.LENGTH:
            if self.scope["http_version"] == "1.1":
                self._framing = _Framing.CHUNKS
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if (
            self._framing in (_Framing.LENGTH, _Framing.NO_BODY)
            and not self.arrived
            and not self._ends_soon()
        ):
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
            raise RuntimeError("a header contains a line break or a null character")
        return head + b"\r\n"

    def _ends_soon(self) -> bool:
        """Return whether the unread rest of the body is known to be short.

        Then the connection can stay open. A longer rest may take longer than the server waits.
        """
        announced = headers_of(self.scope).get(b"content-length")
        return announced is not None and int(announced) <= _SHORT_BODY

    def _encode_body(self, part: bytes, more: bool) -> bytes:
        if self._framing is _Framing.NO_BODY:
            return b""
        if self._framing is _Framing.CHUNKS:
            chunk = b"%x\r\n%b\r\n" % (len(part), part) if part else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._framing is _Framing.LENGTH:
            self._left -= len(part)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body of the response has another length than its head announced")
        return part

    def _send(self, data: bytes) -> None:
        """Write a part of the body, and the head before it if it is not written."""
        head, self._head = self._head, b""
        if len(data) <= _JOINED:
            self._write(head + data)
        else:
            self._write(head)
            self._write(data)

    def end(self, task: asyncio.Task[None]) -> None:
        """Log an unexpected error of the application, and end a response that it left incomplete."""
        error = None if task.cancelled() else task.exception()
        if is_out_of_descriptors(error):
            _logger.error("a request failed: too many open files")
        elif error is not None:
            _logger.error("a request failed with an unexpected error", exc_info=error)
        if self.complete or self._lost:
            return
        if error is None and not task.cancelled():
            _logger.error("a request was left without a complete response")
        if self.started:
            self._connection.close()
        else:
            self.started = self.complete = True
            self.keep_alive = False
            self._write(self._encode_head(500, [(b"content-length", b"0")]))
            self._on_complete(self)


@cache
def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()
