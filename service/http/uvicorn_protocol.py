"""HTTP/1.1 protocol for uvicorn's server, and uvicorn's configuration.

uvicorn's own protocol waits forever for a head and for a client that does not read, accepts a head of any
length, stores any number of requests of one connection, skips the body of a request that asks for another
protocol, and leaves a half-closed client without an answer. These rules concern the order in which bytes are
parsed and answered, which a subclass cannot change; `Protocol` replaces it. `service.http.requests.read_body`
limits the body of a request that is being served.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from functools import lru_cache
from typing import Any, ClassVar

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from ..errors import TooManyConnectionsError
from ..settings import Settings
from .connection import EXTENSION, Connection
from .exchange import Exchange, status_line
from .lane import DATA, Lane, LaneRequest
from .request_parser import LONGEST_HEAD, InvalidRequestError, RequestParser
from .responses import error_response

#: Bytes of a body that are stored for the application before the server stops reading.
_MOST_UNREAD = 65_536
#: Seconds in which a client may go on sending after the last response; the rest of a body may take as long as
#: a body, unless the connection is beyond the limit. Closing a socket with unread bytes resets the
#: connection, and the client would lose the response.
_LINGER = 2.0

_logger = logging.getLogger(__name__)


class Protocol(asyncio.Protocol):
    """One connection: its bytes become requests, which are answered one after another.

    Parameters
    ----------
    config : uvicorn.Config
        Configuration with the application.
    server_state : uvicorn.server.ServerState
        The server's connections and tasks.
    app_state : dict
        State of the lifespan.

    Notes
    -----
    The connection is not read while a request waits for an earlier one. So a client that sends requests
    without reading the answers costs a limited amount of memory.
    """

    max_connections: ClassVar[int]
    receive_timeout: ClassVar[float]
    send_timeout: ClassVar[float]
    lane: ClassVar[Lane[Any] | None]

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app: ASGIApp = config.loaded_app
        self._loop = asyncio.get_running_loop() if _loop is None else _loop
        self._server_state = server_state
        self._app_state = app_state
        self._idle_timeout = config.timeout_keep_alive
        self._interval = min(self.receive_timeout, self.send_timeout, self._idle_timeout) / 4
        self._parser = RequestParser(self._begin)
        self._current: Exchange | LaneRequest | None = None  # the request that is served
        self._latest: Exchange | None = None  # the request that was received last by the parser
        self._waiting: deque[Exchange] = deque()
        self._unparsed = b""
        self._held = b""  # bytes that are neither parsed nor offered: the rest of the request is to come
        self._begun = b""  # bytes of a request whose body is being received
        self._since = 0.0  # time of the bytes that are offered
        self._fault = ""  # why the rest of the bytes is not parsed
        self._paused = self._ended = self._lingering = False
        self._deadline = math.inf
        self._lane = self.lane

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio's stubs have the base class
        """Start the time limit for the first head; refuse all requests of a connection beyond the limit."""
        self._transport = transport
        self._connection = Connection(transport)
        self._extensions = {EXTENSION: {"connection": self._connection}}
        self._server = transport.get_extra_info("sockname")
        self._client = transport.get_extra_info("peername")
        connections = self._server_state.connections
        connections.add(self)  # type: ignore[arg-type]  # typed as uvicorn's own protocols
        self._limit(self.receive_timeout)
        self._check_time_limits()
        if len(connections) > 2 * self.max_connections:
            transport.abort()
        elif len(connections) > self.max_connections:
            self._app, self._lane = _refuse, None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the requests."""
        self._timer.cancel()
        self._release()
        self._server_state.connections.discard(self)
        for exchange in (self._current, self._arriving):
            if exchange is not None:
                exchange.abandon()
        self._waiting.clear()
        self._unparsed = b""
        self._connection.resume_writing()
        del self._parser  # it refers to this object

    def eof_received(self) -> bool:
        """Note that the client sends nothing more; return whether an answer is still to be sent."""
        self._release()
        self._ended = True
        for exchange in (self._current, self._arriving):
            if exchange is not None:
                exchange.end_request()
        return self._current is not None

    def shutdown(self) -> None:
        """Start the shutdown; the server calls this for each connection."""
        self._release()
        self._connection.stop()
        if self._current is None:
            self._transport.close()
        else:
            self._current.keep_alive = False

    def pause_writing(self) -> None:
        """Let the response wait for the client."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Let the response go on."""
        self._connection.resume_writing()

    def _limit(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds

    def _check_time_limits(self) -> None:
        """Close the connection of a client that has not sent, or has not read, for too long."""
        self._release()
        now = self._loop.time()
        self._timer = self._loop.call_later(self._interval, self._check_time_limits)
        if self._connection.stalled(now, self.send_timeout):
            self._transport.abort()
        elif self._connection.is_sending:  # the client is still reading the last response
            self._deadline = max(self._deadline, now + self._idle_timeout)
        elif now >= self._deadline:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse bytes, unless a request waits."""
        if self._lingering or self._fault or self._transport.is_closing():
            return
        if type(self._current) is LaneRequest:
            self._unparsed += data
            self._control_reading()
        elif self._current is not None or self._parser.in_head or self._arriving is not None:
            begun, self._begun = self._begun, b""
            self._unparsed += data
            self._parse()
            if begun:
                self._show(begun + data)
        else:
            self._offer(data)

    def _offer(self, data: bytes) -> None:
        """Offer bytes between two requests to the lane, and parse them if it declines.

        Many clients send the head and the body one after the other. So the head is held until the next bytes
        come.
        """
        lane, held, self._held = self._lane, self._held, b""
        if lane is None or not self._connection.writable:
            self._parse_first(held + data)
            return
        if held:
            data = held + data
        else:
            self._since = time.perf_counter()
        head = lane.find(data)
        if head is not None and len(data) < head.size and not held:
            self._held = data
            self._limit(self.receive_timeout)
        elif (
            head is not None
            and len(data) == head.size
            and (request := lane.take(self, data, head, self._since)) is not None
        ):
            self._current = request
            self._deadline = math.inf
        else:
            self._parse_first(data)

    def _release(self) -> None:
        """Parse what was held."""
        if self._held:
            held, self._held = self._held, b""
            self._parse_first(held)

    def _parse_first(self, data: bytes) -> None:
        """Parse the first bytes after a request."""
        self._unparsed, before = data, self._latest
        self._parse()
        if self._latest is not before:
            self._show(data)

    def _show(self, data: bytes) -> None:
        """Show the bytes of a request to the application, if they are all that came."""
        exchange = self._latest
        if exchange is None or exchange is not self._current or self._unparsed or self._parser.in_head:
            return
        if exchange.arrived and exchange.keep_alive:
            exchange.scope[DATA] = data
        elif not exchange.arrived and len(data) <= LONGEST_HEAD and self._lane is not None:
            self._begun = data

    def respond(self, request: LaneRequest, status: int, headers: bytes, body: bytes) -> None:
        """Send the response to a request in the lane, and go on with the next request."""
        if request.lost:
            return
        common = _common(tuple(self._server_state.default_headers))
        end = b"\r\n" if request.keep_alive else b"connection: close\r\n\r\n"
        self._transport.write(b"".join((status_line(status), common, headers, end, body)))
        self._finish(request)

    def decline(self, request: LaneRequest) -> None:
        """Serve a request that was in the lane on the ordinary path."""
        if request.lost:
            return
        self._current, rest, self._unparsed = None, self._unparsed, b""
        self._parse_first(request.data)
        if self._current is not None:
            self._current.keep_alive &= request.keep_alive
            if self._ended:
                self._current.end_request()
        self._unparsed += rest
        self._parse()

    def _parse(self) -> None:
        """Parse bytes until a request waits, and keep the rest."""
        parser = self._parser
        parser.stopped = bool(self._waiting)
        received = self._arriving, parser.in_head
        data, self._unparsed = self._unparsed, b""
        try:
            self._unparsed = parser.feed(data)
        except InvalidRequestError as error:
            self._fault = str(error)
            self._refuse_rest()
        else:
            if self._current is None and received != (self._arriving, parser.in_head):
                self._await_client()
        self._control_reading()

    @property
    def _arriving(self) -> Exchange | None:
        """The request whose body is being received."""
        return None if self._latest is None or self._latest.arrived else self._latest

    def _control_reading(self) -> None:
        """Stop reading while a request waits, or while much of a body is unread; go on afterwards."""
        full = self._latest is not None and self._latest.unread > _MOST_UNREAD
        pause = not self._lingering and (full or bool(self._waiting or self._unparsed or self._fault))
        if pause is self._paused or self._ended or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _begin(self, scope: Scope, keep_alive: bool, expects_continue: bool) -> Exchange:
        """Serve a request, or let it wait."""
        scope["client"] = self._client
        scope["server"] = self._server
        scope["state"] = self._app_state.copy()
        scope["extensions"] = self._extensions
        self._latest = exchange = Exchange(
            scope,
            self._connection,
            keep_alive,
            expects_continue,
            self._server_state.default_headers,
            self._transport.write,
            self._control_reading,
            self._finish,
        )
        if self._current is None:
            self._serve(exchange)
        else:
            self._waiting.append(exchange)
            self._parser.stopped = True
        return exchange

    def _serve(self, exchange: Exchange) -> None:
        self._current = exchange
        self._deadline = math.inf
        running = self._app(exchange.scope, exchange.receive, exchange.send)
        task: asyncio.Task[None] = self._loop.create_task(running)  # type: ignore[arg-type]  # a coroutine
        tasks = self._server_state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(exchange.end)

    def _await_client(self) -> None:
        """Start the time limit for the rest of a request, or for the next one."""
        late = self._arriving is not None or self._parser.in_head
        self._limit(self.receive_timeout if late else self._idle_timeout)

    def _finish(self, exchange: Exchange | LaneRequest) -> None:
        """Go on after a response: with the next request, or with the end of the connection."""
        self._server_state.total_requests += 1
        self._current = None
        if self._transport.is_closing():
            return
        last, self._connection.last = self._connection.last, False
        if not exchange.keep_alive or (last and not exchange.arrived):
            self._close()
        elif self._waiting:
            self._serve(self._waiting.popleft())
            self._parse()
        elif self._fault:
            self._send_fault()
        elif self._ended:
            self._transport.close()
        else:
            self._await_client()
            if self._unparsed:  # what came while a request was in the lane
                self._parse()
            else:
                self._control_reading()

    def _refuse_rest(self) -> None:
        """Refuse the bytes that cannot be parsed, once the requests before them are answered."""
        _logger.info("a client sent bytes that are not valid HTTP")
        broken, self._latest = self._arriving, None
        if broken is not None and broken.complete:
            self._close()
        elif broken is not None and broken.started:  # the response itself ends with an error
            broken.end_request()
        else:
            if broken is not None:
                broken.abandon()
                if broken is self._current:
                    self._current = None
                else:
                    self._waiting.remove(broken)
            if self._current is None:
                self._send_fault()

    def _send_fault(self) -> None:
        message = self._fault.encode()
        head = _common(tuple(self._server_state.default_headers))
        self._transport.write(
            b"HTTP/1.1 400 Bad Request\r\n%bcontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (head, len(message), message)
        )
        self._close()

    def _close(self) -> None:
        """Close the connection after the last response; until the client ends it, discard what it sends."""
        sending = self._arriving is not None or self._parser.in_head or self._fault or self._unparsed
        if self._ended or not sending:
            self._transport.close()
            return
        self._lingering = True
        self._unparsed = b""
        self._waiting.clear()
        waits = self._arriving is not None and self._app is not _refuse
        self._limit(self.receive_timeout if waits else _LINGER)
        self._transport.write_eof()
        self._control_reading()


@lru_cache(2)  # they have the date, and change once a second
def _common(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Return the headers of every response as bytes."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def uvicorn_config(app: ASGIApp, settings: Settings, lane: Lane[Any] | None = None) -> uvicorn.Config:
    """Return uvicorn's configuration for an application; `logging` is configured separately."""

    class Limited(Protocol):
        max_connections = settings.max_connections
        receive_timeout = settings.receive_timeout
        send_timeout = settings.stream_timeout

    Limited.lane = lane
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
