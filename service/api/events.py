"""What happens in the models, as it happens."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from .. import errors
from ..auth.guard import Door, GuardedRoute
from ..auth.scopes import access_of, needs
from ..http.requests import headers_of
from ..models.registry import catalog_of
from .openapi import error_responses, operation_id
from .sse import EventStream

router = APIRouter(tags=["operations"], generate_unique_id_function=operation_id, route_class=GuardedRoute)


@router.get(
    "/events",
    summary="Listen to what happens",
    response_class=Response,
    responses={
        200: {"content": {EventStream.media_type: {"schema": {"type": "string"}}}},
        **error_responses(errors.UnknownModelError),
    },
)
@needs("read")
async def listen(request: Request, model: str | None = None) -> Response:
    """Tell, as Server-Sent Events, what happens in one model, or in all that the key is for.

    `learn`, `label` and `predict` tell how many were added since the last such event (labels count as learned
    too), up to twenty times a second; `checkpoint`, `rollback` and `drift` come one by one. `Last-Event-ID`
    brings what was missed meanwhile, as far as it is kept; a `notice` says when it is not, and why a stream
    ends. A client that does not read is dropped.
    """
    catalog, scope = catalog_of(request.scope), request.scope
    after = request.headers.get("last-event-id")
    door: Door = request.app.state.door

    def check() -> None:
        door.admit(headers_of(scope), access_of(listen))

    return EventStream(
        catalog.feed, lambda: catalog.listen(model, after), check, catalog.settings.stream_timeout
    )


ROUTES = router.routes
