"""Routes for operators: health and Prometheus metrics."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .. import errors, schemas
from ..auth.scopes import needs
from ..errors import Layer
from ..http.responses import json_response
from ..models.metrics import scrape
from ..models.registry import models_of
from ..models.worker import Worker
from .openapi import ApiRoute

_logger = logging.getLogger(__name__)

router = APIRouter(tags=["operations"], route_class=ApiRoute)


@router.get("/health/live", summary="Liveness", response_model=schemas.Health)
@needs(None)
async def live(request: Request) -> Response:
    """Respond, which shows that the event loop runs."""
    return json_response({"status": "alive"})


@router.get("/health/ready", summary="Readiness", response_model=schemas.Health)
@needs(None, Layer.PROBE)
async def ready(request: Request) -> Response:
    """Check that the event log can be written and that every model answers."""
    registry = models_of(request.scope)
    try:
        await registry.probe()
    except errors.StorageError as error:
        raise errors.NotReadyError(error.message) from None
    await asyncio.gather(*(_probe(worker, registry.settings.ready_timeout) for worker in registry))
    return json_response({"status": "ready"})


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@needs("read", whole_server=True)
async def metrics(request: Request) -> Response:
    """Return all metrics in the text format of Prometheus."""
    text = await scrape(request.app.state.registry, models_of(request.scope))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _probe(worker: Worker, timeout: float) -> None:
    reason = await _fault(worker, timeout)
    if reason is not None:
        # The route needs no key, so its response must not name a model.
        _logger.warning("Not ready: %s", reason)
        raise errors.NotReadyError("a model does not answer: see the log of the server")


async def _fault(worker: Worker, timeout: float) -> str | None:
    name = worker.model.name
    if worker.diverged:
        return f"model {name!r} is being restored"
    try:
        async with asyncio.timeout(timeout):
            await worker.ask(lambda model: model.step)
    except TimeoutError:
        return f"model {name!r} did not answer within {timeout:g} s"
    except (errors.ModelFailedError, errors.QueueFullError, errors.ShuttingDownError) as error:
        return error.message
    except errors.UnknownModelError:
        return None  # deleted meanwhile
    return None


ROUTES = router.routes
