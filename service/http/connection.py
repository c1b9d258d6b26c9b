"""Connection of a request: forced disconnection, and notice of a shutdown.

ASGI offers neither. A client that does not read can only be disconnected by force, and a long stream must end
when the server shuts down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Scope

EXTENSION = "bnp.connection"


class Connection:
    """Connection of a request.

    Parameters
    ----------
    transport : asyncio.Transport, optional
        None under the protocol of another server; `close` and `abort` then do nothing.
    """

    def __init__(self, transport: asyncio.Transport | None = None) -> None:
        self._transport = transport
        self._stopping = False
        self._callback: Callable[[], Any] | None = None

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

    def close(self) -> None:
        """Close the connection after all sent data was transmitted."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def connection_of(scope: Scope) -> Connection:
    """Return the connection of a request."""
    found = scope.get("extensions", {}).get(EXTENSION, {}).get("connection")
    return found if isinstance(found, Connection) else Connection()
