"""What becomes of the connection that a request came by.

ASGI has no word for either: a client that reads nothing can only be disconnected by force, and who answers a
long stream must hear that the server is about to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Scope

EXTENSION = "bnp.connection"


class Connection:
    """The connection that a request came by.

    Parameters
    ----------
    transport : asyncio.Transport, optional
        None under another server's protocol: the connection is never closed from here, then.
    """

    def __init__(self, transport: asyncio.Transport | None = None) -> None:
        self._transport = transport
        self._stopping = False
        self._callback: Callable[[], Any] | None = None

    def on_stop(self, callback: Callable[[], Any] | None) -> None:
        """Call back once the server begins to shut down, or at once if it has."""
        self._callback = callback
        if self._stopping and callback is not None:
            callback()

    def stop(self) -> None:
        """Tell the application that the server begins to shut down."""
        self._stopping = True
        if self._callback is not None:
            self._callback()

    def close(self) -> None:
        """Close the connection once all that was sent has been read."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def connection_of(scope: Scope) -> Connection:
    """Return the connection that a request came by."""
    found = scope.get("extensions", {}).get(EXTENSION, {}).get("connection")
    return found if isinstance(found, Connection) else Connection()
