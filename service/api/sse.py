"""Server-Sent Events: a response that lasts as long as its client listens.

It ends when the client disconnects, when the server shuts down, and when the client's key is revoked. It also
ends when the client does not read: its events are dropped, and a notice says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..auth.guard import Guard
from ..errors import RequestError
from ..http.connection import connection_of
from ..http.requests import headers_of
from ..http.responses import encode
from ..models.access import models_of
from ..models.feed import FeedEvent, Listener
from ..telemetry.middleware import STREAM

#: Seconds between signs of life on an idle stream, and between two checks of the key.
HEARTBEAT = 15.0
#: Milliseconds after which a disconnected client reconnects.
_RETRY = 1000


class EventStream(Response):
    """The response of `GET /events`; subclasses have other formats.

    Parameters
    ----------
    scope : Scope
        ASGI scope of the request.
    model : str, optional
        Name of the model; by default all models that the key covers.
    after : str, optional
        Id of the last event that the client received.

    Attributes
    ----------
    opening, alive : bytes
        Beginning of the stream, and sign of life of an idle stream; neither is empty.
    """

    media_type = "text/event-stream"
    opening: ClassVar[bytes] = b"retry: %d\n\n" % _RETRY
    alive: ClassVar[bytes] = b": alive\n\n"

    def __init__(self, scope: Scope, model: str | None = None, after: str | None = None) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.models = models_of(scope)
        self._scope = scope
        self._model = model
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the stream ends; none in answer to HEAD."""
        connection = connection_of(scope)
        scope[STREAM] = True
        with self.models.listen(self._model, self._after) as listener:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            watching = asyncio.create_task(_watch(receive, listener))
            connection.on_stop(listener.end)
            try:
                head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(head)
                await self._send_events(send, listener)
            finally:
                connection.on_stop(None)
                watching.cancel()
                await asyncio.wait([watching])

    async def _send_events(self, send: Send, listener: Listener) -> None:
        clock = asyncio.get_running_loop()
        block, checked, more = self.opening, clock.time(), True
        if listener.missed:
            block += self.notice("missed", "some events since the last one you received are no longer kept")
        while True:
            await send({"type": "http.response.body", "body": block, "more_body": more})
            if not more:
                return
            events = await listener.take(HEARTBEAT)
            block = await self.written(events)
            refusal = None
            if clock.time() - checked >= HEARTBEAT:
                checked, refusal = clock.time(), self._refusal()
            if listener.slow:
                block += self.notice(
                    "slow", "you did not read: reconnect with the id of the last event you received"
                )
            elif listener.over:
                block += self.notice("shutting_down", "the server is shutting down: reconnect")
            elif refusal is not None:
                block += self.notice("refused", refusal)
            more = not listener.over and refusal is None
            block = block or self.alive

    async def written(self, events: Sequence[FeedEvent]) -> bytes:
        """Return the encoded events."""
        return b"".join(_block(e.kind, e.data, self.models.feed.identifier(e)) for e in events)

    def notice(self, reason: str, message: str) -> bytes:
        """Return an encoded notice about the stream itself."""
        return _block("notice", {"reason": reason, "message": message})

    def _refusal(self) -> str | None:
        """Return why the client is no longer authorized, None if it is."""
        guard: Guard = self._scope["app"].state.guard
        try:
            guard.admit(headers_of(self._scope), self._scope["route"].access)
        except RequestError as error:
            return error.message
        return None


async def _watch(receive: Receive, listener: Listener) -> None:
    """End a listener when its client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.end()


def _block(kind: str, data: Any, identifier: str | None = None) -> bytes:
    """Return an encoded event; its JSON contains no line break."""
    first = b"" if identifier is None else b"id: %b\n" % identifier.encode()
    return b"%bevent: %b\ndata: %b\n\n" % (first, kind.encode(), encode(data))
