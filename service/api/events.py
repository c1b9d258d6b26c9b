"""The route of live events."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ..auth.scopes import needs
from ..errors import Layer
from .openapi import ApiRoute
from .sse import EventStream

router = APIRouter(tags=["operations"], route_class=ApiRoute)


@router.get(
    "/events",
    summary="Listen to events",
    response_class=Response,
    responses={200: {"content": {EventStream.media_type: {"schema": {"type": "string"}}}}},
)
@needs("read", Layer.MODEL)
async def listen(request: Request, model: str | None = None) -> Response:
    """Stream the events of one model, or of all models that the key covers, as Server-Sent Events.

    `learn`, `label` and `predict` carry the number of such requests since the last event of that kind, up to
    twenty times a second; a label counts as learned, too. `drift`, `action`, `checkpoint`, `rollback`,
    `unlearning`, `upgrade`, `import` and `promotion` are sent one by one: they are the marks of
    `GET /models/{m}/history`. `Last-Event-ID` requests the events since that one, as far as they are kept. A
    `notice` reports missed events, and why a stream ends. A client that does not read is disconnected.
    """
    return EventStream(request.scope, model, request.headers.get("last-event-id"))


ROUTES = router.routes
