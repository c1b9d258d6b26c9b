"""Route of the topics from which a model learns."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from .. import schemas
from ..auth.scopes import JSON, needs
from ..errors import Layer
from ..http.requests import read_model
from ..http.responses import json_response
from ..ingest.ingest import ingest_of
from ..models.access import models_of
from .openapi import ApiRoute

router = APIRouter(tags=["models"], route_class=ApiRoute)


@router.post(
    "/models/{m}/ingest", summary="Change the position in a topic", response_model=schemas.IngestReport
)
@needs(
    "admin", Layer.MODEL, Layer.SOURCE, Layer.READ, Layer.WRITE, takes=(JSON,), body=schemas.IngestPosition
)
async def move(request: Request, m: str) -> Response:
    """Let a partition from which the model learns go on from a position (`BNP_INGEST`).

    A partition stops with the state `log_gap` if its broker has removed messages before they were learned:
    no message is skipped without this request. A position before the stored one lets the model learn
    messages again.
    """
    position = await read_model(request, schemas.IngestPosition)
    await models_of(request.scope).operations(m)  # may this key change the model?
    ingest = ingest_of(request.scope)
    await ingest.resume(m, position.topic, position.partition, position.position)
    return json_response({"ingest": ingest.report(m)})


ROUTES = router.routes
