"""Streams of events and metrics, by the River API Spec: lines ``label: {json}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response

from ...auth.scopes import needs
from ...errors import RequestError
from ...http.responses import encode_line
from ...models.feed import FeedEvent
from ..openapi import ApiRoute
from ..sse import EventStream

#: Events that change the metrics of a model.
_SCORED = ("learn", "label", "rollback", "import")
_STREAMED: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}

router = APIRouter(tags=["River API Spec"], route_class=ApiRoute)


class _Events(EventStream):
    """Events as lines ``kind: {json}``; an empty line opens the stream, and is its sign of life."""

    media_type = "text/plain"
    opening: ClassVar[bytes] = b"\n"
    alive: ClassVar[bytes] = b"\n"

    async def written(self, events: Sequence[FeedEvent]) -> bytes:
        """Return the encoded events."""
        return b"".join(_line(event.kind, event.data) for event in events)

    def notice(self, reason: str, message: str) -> bytes:
        """Return an encoded notice about the stream itself."""
        return _line("notice", {"reason": reason, "message": message})


class _Metrics(_Events):
    """Metrics of each model that learned, as lines ``model: {json}``."""

    async def written(self, events: Sequence[FeedEvent]) -> bytes:
        """Return the current metrics, once per model however many events there are."""
        names = dict.fromkeys(event.model for event in events if event.kind in _SCORED)
        return b"".join([await self._metrics(name) for name in names])

    async def _metrics(self, name: str) -> bytes:
        try:
            worker = await self.models.get(name)
            return _line(name, await worker.ask(lambda model: model.score.cumulative()))
        except RequestError:  # deleted meanwhile, or its queue is full: the next event asks again
            return b""


def _line(label: str, value: Any) -> bytes:
    return label.encode() + b": " + encode_line(value)


@router.get("/api/stream/events/", summary="Listen to events (River)", **_STREAMED)
@needs("read")
async def river_stream_events(request: Request) -> Response:
    """Stream events as lines `kind: {json}`, with the kinds and the content of `GET /events`."""
    return _Events(request.scope)


@router.get("/api/stream/metrics/", summary="Listen to metrics (River)", **_STREAMED)
@needs("read")
async def river_stream_metrics(request: Request) -> Response:
    """Stream the metrics of each model as lines `model: {json}` whenever they change."""
    return _Metrics(request.scope)


ROUTES = router.routes
