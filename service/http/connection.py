"""Connection of a request: flow control of the response, end of the connection, and notice of a shutdown.

ASGI offers none of them to an application. A long stream must end when the server shuts down, and the
connection must end with a response that leaves a part of the request unanswered.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from starlette.types import Scope

EXTENSION = "bnp.connection"

#: Option of a socket with the state of its TCP connection (Linux), and the position of the number of bytes
#: that the client has acknowledged.
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_ACKNOWLEDGED = slice(120, 128)


class Connection:
    """Connection of a request.

    Parameters
    ----------
    transport : asyncio.Transport, optional
        None under the protocol of another server; the connection can then not be closed.

    Attributes
    ----------
    last : bool
        Whether the connection is closed after the response that is being sent, unless the whole request has
        been received by then. A response that begins later announces the close.
    writable : bool
        Whether the transport has room for more data.
    """

    def __init__(self, transport: asyncio.Transport | None = None) -> None:
        self._transport = transport
        self.last = False
        self.writable = True
        self._stopping = False
        self._callback: Callable[[], Any] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._buffered = self._acknowledged = 0
        self._moved = 0.0  # time of the latest progress

    def on_stop(self, callback: Callable[[], Any] | None) -> None:
        """Set a callback for the start of a shutdown; it is called at once if the shutdown has started."""
        self._callback = callback
        if self._stopping and callback is not None:
            callback()

    def stop(self) -> None:
        """Start the shutdown: call the callback."""
        self._stopping = True
        if self._callback is not None:
            self._callback()

    def close_after_response(self) -> None:
        """Close the connection after the response that is being sent; see `last`."""
        self.last = True

    def close(self) -> None:
        """Close the connection after all sent data was transmitted."""
        if self._transport is not None:
            self._transport.close()

    async def drain(self) -> None:
        """Wait until the transport has room for more data, or until the connection is closed."""
        await self._writable.wait()

    def pause_writing(self) -> None:
        """Let `drain` wait."""
        self.writable = False
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `drain` return."""
        self.writable = True
        self._writable.set()

    @property
    def is_sending(self) -> bool:
        """Whether data waits for the client."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def stalled(self, now: float, patience: float) -> bool:
        """Return whether data has waited for the client for `patience` seconds without any progress.

        Progress is an acknowledgement of the client's system, which follows when the client reads. Other
        systems than Linux do not report it; there it is data that left the buffer of the transport.
        """
        buffered = 0 if self._transport is None else self._transport.get_write_buffer_size()
        acknowledged = self._read_acknowledged() if buffered else 0
        if not buffered or buffered < self._buffered or acknowledged != self._acknowledged:
            self._moved = now
        self._buffered, self._acknowledged = buffered, acknowledged
        return now - self._moved >= patience

    def _read_acknowledged(self) -> int:
        found = None if self._transport is None else self._transport.get_extra_info("socket")
        if _TCP_INFO is None or found is None or found.fileno() < 0:
            return 0
        return int.from_bytes(found.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)[_ACKNOWLEDGED], "little")


def connection_of(scope: Scope) -> Connection:
    """Return the connection of a request."""
    found = scope.get("extensions", {}).get(EXTENSION, {}).get("connection")
    return found if isinstance(found, Connection) else Connection()
