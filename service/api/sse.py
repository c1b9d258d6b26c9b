"""Server-Sent Events: an answer that goes on for as long as its client listens.

It ends when the client leaves, when the server shuts down, when the client's key is taken away, and when the
client does not read: then what waits for it is dropped, and it is told so once it does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..errors import RequestError
from ..http.connection import connection_of
from ..http.requests import encode
from ..models.feed import Event, Feed, Listener

#: Seconds after which an idle stream says that it is alive; the key is looked at again as often.
HEARTBEAT = 15.0
#: Milliseconds after which a client that was cut off comes back.
_RETRY = 1000


class EventStream(Response):
    """The answer to `GET /events`; a subclass may write it otherwise.

    Parameters
    ----------
    feed : Feed
        What happens.
    listen : callable
        Returns a context with the listener.
    check : callable
        Raises `RequestError` once the client may listen no longer.
    timeout : float
        Seconds in which the client must read something.

    Attributes
    ----------
    opening, alive : bytes
        What is sent first, and what is sent when there has been nothing to send for long; neither is empty.
    """

    media_type = "text/event-stream"
    opening: ClassVar[bytes] = b"retry: %d\n\n" % _RETRY
    alive: ClassVar[bytes] = b": alive\n\n"

    def __init__(
        self,
        feed: Feed,
        listen: Callable[[], contextlib.AbstractContextManager[Listener]],
        check: Callable[[], None],
        timeout: float,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._listen = listen
        self._check = check
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there is a reason to end."""
        connection = connection_of(scope)
        with self._listen() as listener:
            watching = asyncio.create_task(_watch(receive, listener))
            connection.on_stop(listener.end)
            try:
                head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await self._send(send, head)
                await self._send_events(send, listener)
            except TimeoutError:
                connection.abort()
            finally:
                connection.on_stop(None)
                watching.cancel()
                await asyncio.wait([watching])

    async def _send_events(self, send: Send, listener: Listener) -> None:
        clock = asyncio.get_running_loop()
        block, checked, more = self.opening, clock.time(), True
        if listener.missed:
            block += self.notice(
                "missed", "some events since the last one that you had are not kept any more"
            )
        while True:
            await self._send(send, {"type": "http.response.body", "body": block, "more_body": more})
            if not more:
                return
            events = await listener.take(HEARTBEAT)
            block = await self.written(events)
            refusal = None
            if clock.time() - checked >= HEARTBEAT:
                checked, refusal = clock.time(), self._refusal()
            if listener.slow:
                block += self.notice(
                    "slow", "you did not read: come again with the id of the last event you had"
                )
            elif listener.over:
                block += self.notice("shutting_down", "the server is shutting down: come again")
            elif refusal is not None:
                block += self.notice("refused", refusal)
            more = not listener.over and refusal is None
            block = block or self.alive

    async def written(self, events: Sequence[Event]) -> bytes:
        """Return events as they go over the wire."""
        return b"".join(_block(e.kind, e.data, self._feed.identifier(e)) for e in events)

    def notice(self, reason: str, message: str) -> bytes:
        """Return word of something that is about the stream itself."""
        return _block("notice", {"reason": reason, "message": message})

    def _refusal(self) -> str | None:
        """Return why the client may listen no longer."""
        try:
            self._check()
        except RequestError as error:
            return error.message
        return None

    async def _send(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._timeout):
            await send(message)


async def _watch(receive: Receive, listener: Listener) -> None:
    """End a listener once its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.end()


def _block(kind: str, data: Any, identifier: str | None = None) -> bytes:
    """Return an event as it goes over the wire; JSON has no line break in it."""
    first = b"" if identifier is None else b"id: %b\n" % identifier.encode()
    return b"%bevent: %b\ndata: %b\n\n" % (first, kind.encode(), encode(data))
