"""How much of the server one connection, and all of them together, may take.

uvicorn waits without end for the head of a request, takes a head of any length, and reads without end what is
left of a body that was refused. Here the client has a time limit for all of that and a head has a longest
length. The body of a request that is being served is the route's concern (`service.http.requests.read_body`).
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import TooManyConnectionsError
from ..settings import Settings
from .connection import EXTENSION, Connection
from .requests import ARRIVED, json_response
from .responses import refusal

LONGEST_HEAD = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Whole:
    """Keeps the head of an answer back until its body begins: together they are one write, and one packet.

    ASGI has it so; uvicorn writes twice, which takes 10 of the 130 µs that a small request takes.

    Parameters
    ----------
    transport : asyncio.Transport
        Of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self._begun = False
        self.close, self.is_closing = transport.close, transport.is_closing

    def write(self, data: bytes) -> None:
        """Write what uvicorn writes of one answer."""
        if self._begun or data == _CONTINUE:
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._begun = True
            self._transport.write(self._head + data)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, which `protocol` sets, and a `Connection` in the scope of each request.

    Notes
    -----
    A timer runs while the client owes something: the head of a request, or the rest of a body that nobody
    waits for. A request that arrives at once never starts one, and neither does a stream, whose route reads
    its body for as long as there is one.
    """

    max_connections: ClassVar[int]
    receive_timeout: ClassVar[float]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._owing: asyncio.TimerHandle | None = None
        self._in_body = False
        self._progress = False  # whether the bytes in hand are more than a piece of a head
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Start the time for the first head; beyond the limit every answer is that there are too many."""
        super().connection_made(transport)
        self._connection = Connection(transport)
        if len(self.connections) > 2 * self.max_connections:
            transport.abort()
            return
        if len(self.connections) > self.max_connections:
            self.app = _refuse
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and see what the client still owes."""
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
        """Begin with a request."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"connection": self._connection}}

    def on_headers_complete(self) -> None:
        """Note that what follows is a body."""
        self._in_body = self._progress = True
        self._head = 0
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before and self.scope["method"] != "HEAD":  # an answer without a body
            self.cycle.transport = _Whole(self.transport)  # type: ignore[assignment]  # all that it uses of it

    def on_message_complete(self) -> None:
        """Tell the route that nothing of the body is left to wait for."""
        self._in_body = False
        self.scope[ARRIVED] = True  # type: ignore[literal-required]  # a key of our own, as ASGI allows
        super().on_message_complete()

    def shutdown(self) -> None:
        """Begin to shut down: called by the server for each connection."""
        super().shutdown()
        self._connection.stop()

    def _refuse_head(self, running: bool) -> None:
        if running:  # the answer to an earlier request is on its way: it would be mixed up with this one
            self.transport.close()
        else:
            self.send_400_response("The head of the request is too long.")

    def _start_timer(self) -> None:
        if self._owing is None:
            self._owing = self.loop.call_later(self.receive_timeout, self._give_up)

    def _stop_timer(self) -> None:
        if self._owing is not None:
            self._owing.cancel()
            self._owing = None

    def _give_up(self) -> None:
        self._owing = None
        if not self.transport.is_closing():
            self.transport.close()


def protocol(settings: Settings) -> type[Protocol]:
    """Return the protocol with the limits of the settings."""

    class Limited(Protocol):
        max_connections = settings.max_connections
        receive_timeout = settings.receive_timeout

    return Limited


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = TooManyConnectionsError("too many connections are open (BNP_MAX_CONNECTIONS): try again later")
    status, body, headers = refusal(scope, error)
    await json_response(body, status, headers)(scope, receive, send)
