"""uvicorn's configuration, and its HTTP protocol with limits for connections and heads of requests.

uvicorn waits forever for the head of a request, accepts a head of any length, and reads the rest of a refused
body forever. Here these have a time limit, and a head has a maximum length. `service.http.requests.read_body`
limits the body of a request that is being served.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import TooManyConnectionsError
from ..settings import Settings
from .connection import EXTENSION, Connection
from .requests import ARRIVED
from .responses import error_response

LONGEST_HEAD = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _JoinedTransport:
    """Transport that joins the head of a response with the beginning of its body: one write, one packet.

    uvicorn writes them separately, which takes 10 of the 130 µs of a small request.

    Parameters
    ----------
    transport : asyncio.Transport
        Transport of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self._begun = False
        self.close, self.is_closing = transport.close, transport.is_closing

    def write(self, data: bytes) -> None:
        """Write a part of a response."""
        if self._begun or data == _CONTINUE:
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._begun = True
            self._transport.write(self._head + data)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, and a `Connection` in the scope of each request.

    Notes
    -----
    A timer runs while the server waits for the head of a request or for the rest of a body that no route
    reads. It never starts for a request that arrives in one piece, nor for a stream.
    """

    max_connections: ClassVar[int]
    receive_timeout: ClassVar[float]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._in_body = False
        self._progress = False  # whether the received bytes include more than a part of a head
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Start the timer for the first head; refuse all requests of a connection beyond the limit."""
        super().connection_made(transport)
        self._connection = Connection(transport)
        if len(self.connections) > 2 * self.max_connections:
            transport.abort()
            return
        if len(self.connections) > self.max_connections:
            self.app = _refuse
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes, and start or stop the timer."""
        self._progress = self._in_body
        super().data_received(data)
        running = self.cycle is not None and not self.cycle.response_complete
        if running:
            self._stop_timer()
        else:
            self._start_timer()
        if not self._progress:
            self._head += len(data)
            if self._head > LONGEST_HEAD and not self.transport.is_closing():
                self._refuse_head(running)

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"connection": self._connection}}

    def on_headers_complete(self) -> None:
        """End the head of a request."""
        self._in_body = self._progress = True
        self._head = 0
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before and self.scope["method"] != "HEAD":  # a response without a body
            self.cycle.transport = _JoinedTransport(self.transport)  # type: ignore[assignment]  # it uses these methods only

    def on_message_complete(self) -> None:
        """End the body: the route need not wait for more of it."""
        self._in_body = False
        self.scope[ARRIVED] = True  # type: ignore[literal-required]  # a key of our own, as ASGI allows
        super().on_message_complete()

    def shutdown(self) -> None:
        """Start the shutdown; the server calls this for each connection."""
        super().shutdown()
        self._connection.stop()

    def _refuse_head(self, running: bool) -> None:
        if running:  # the response to an earlier request is being sent: a second one would mix with it
            self.transport.close()
        else:
            self.send_400_response("The head of the request is too long.")

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.receive_timeout, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration for an application; `logging` is configured separately."""

    class Limited(Protocol):
        max_connections = settings.max_connections
        receive_timeout = settings.receive_timeout

    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Limited,
        ws="none",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,  # the server writes its own, without paths and queries
        server_header=False,
        proxy_headers=False,  # no check depends on the address that a proxy reports
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = TooManyConnectionsError("too many connections are open (BNP_MAX_CONNECTIONS): try again later")
    await error_response(scope, error)(scope, receive, send)
