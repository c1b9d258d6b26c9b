"""Routes for operators: health and Prometheus metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .. import schemas
from ..auth.scopes import needs
from ..errors import Layer
from ..http.responses import json_response
from ..ingest.ingest import ingest_of
from ..models.access import models_of
from ..models.cluster import cluster_of
from ..models.metrics import scrape
from .openapi import ApiRoute

router = APIRouter(tags=["operations"], route_class=ApiRoute)


@router.get("/health/live", summary="Liveness", response_model=schemas.Health)
@needs(None)
async def live(request: Request) -> Response:
    """Respond, which shows that the event loop runs."""
    return json_response({"status": "alive"})


@router.get("/health/ready", summary="Readiness", response_model=schemas.Health)
@needs(None, Layer.PROBE)
async def ready(request: Request) -> Response:
    """Check that the event log can be written and that every model answers, at most once per second."""
    await models_of(request.scope).readiness.require()
    details = []
    if stopped := ingest_of(request.scope).stopped:
        details.append(
            f"{stopped} partitions of topics stopped, because messages are missing: see GET /models/NAME"
        )
    if failed := cluster_of(request.scope).failed():
        details.append(f"{len(failed)} models cannot be served by this node: see GET /cluster")
    return json_response({"status": "ready", **({"detail": "; ".join(details)} if details else {})})


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@needs("read", whole_server=True, any_query=True)
async def metrics(request: Request) -> Response:
    """Return all metrics in the text format of Prometheus."""
    state = request.app.state
    text = await scrape(state.registry, models_of(request.scope), state.store_metrics)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


ROUTES = router.routes
