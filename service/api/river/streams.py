"""What happens, as it happens, in lines ``label: {json}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response

from ...auth.guard import Door, GuardedRoute
from ...auth.scopes import access_of, needs
from ...errors import RequestError
from ...http.requests import encode_line, headers_of
from ...models import report
from ...models.feed import Event
from ...models.registry import catalog_of
from ..openapi import operation_id
from ..sse import EventStream

#: What changes a model's metrics.
_SCORED = ("learn", "label", "rollback")
_STREAMED: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}

router = APIRouter(
    tags=["River API Spec"], generate_unique_id_function=operation_id, route_class=GuardedRoute
)


class _Events(EventStream):
    """Events, each as a line ``kind: {json}``; an empty line begins the answer, and says that it is alive."""

    media_type = "text/plain"
    opening: ClassVar[bytes] = b"\n"
    alive: ClassVar[bytes] = b"\n"

    def __init__(self, request: Request) -> None:
        scope = request.scope
        self._catalog = catalog = catalog_of(scope)
        door: Door = request.app.state.door

        def check() -> None:
            door.admit(headers_of(scope), access_of(scope["endpoint"]))

        super().__init__(
            catalog.feed, lambda: catalog.listen(None, None), check, catalog.settings.stream_timeout
        )

    async def written(self, events: Sequence[Event]) -> bytes:
        """Return events as lines."""
        return b"".join(_line(event.kind, event.data) for event in events)

    def notice(self, reason: str, message: str) -> bytes:
        """Return a line about the stream itself."""
        return _line("notice", {"reason": reason, "message": message})


class _Metrics(_Events):
    """The metrics of each model that something happened in, as a line ``model: {json}``."""

    async def written(self, events: Sequence[Event]) -> bytes:
        """Return the metrics as they are now: once a model, however many events there are."""
        names = dict.fromkeys(event.model for event in events if event.kind in _SCORED)
        return b"".join([await self._metrics(name) for name in names])

    async def _metrics(self, name: str) -> bytes:
        try:
            return _line(name, await self._catalog.get(name).reads.ask(report.totals))
        except RequestError:  # deleted meanwhile, or there is no room to ask: the next event asks again
            return b""


def _line(label: str, value: Any) -> bytes:
    return label.encode() + b": " + encode_line(value)


@router.get("/api/stream/events/", summary="Listen to what happens (River)", **_STREAMED)
@needs("read")
async def river_stream_events(request: Request) -> Response:
    """Tell what happens, a line `kind: {json}` each; kinds and content are those of `GET /events`."""
    return _Events(request)


@router.get("/api/stream/metrics/", summary="Listen to the metrics (River)", **_STREAMED)
@needs("read")
async def river_stream_metrics(request: Request) -> Response:
    """Tell a model's metrics whenever they have changed, in a line `model: {json}`."""
    return _Metrics(request)


ROUTES = router.routes
