"""For operators: health and metrics."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from .. import errors, schemas
from ..auth.guard import GuardedRoute
from ..auth.scopes import needs
from ..http.requests import json_response
from ..models.metrics import scrape
from ..models.registry import catalog_of
from ..models.worker import Learner
from .openapi import error_responses, operation_id

_logger = logging.getLogger(__name__)

router = APIRouter(tags=["operations"], generate_unique_id_function=operation_id, route_class=GuardedRoute)


@router.get("/health/live", summary="Is it alive", response_model=schemas.Health)
@needs(None)
async def live(request: Request) -> Response:
    """Answer, which is all that it takes to be alive."""
    return json_response({"status": "alive"})


@router.get(
    "/health/ready",
    summary="Is it ready",
    response_model=schemas.Health,
    responses=error_responses(errors.NotReadyError),
)
@needs(None)
async def ready(request: Request) -> Response:
    """Ask every model's writer for a sign of life, and the event log whether it can be written."""
    catalog = catalog_of(request.scope)
    try:
        await catalog.probe()
    except errors.StorageError as error:
        raise errors.NotReadyError(error.message) from None
    await asyncio.gather(*(_probe(learner, catalog.settings.ready_timeout) for learner in catalog))
    return json_response({"status": "ready"})


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
@needs("read", whole_server=True)
async def metrics(request: Request) -> Response:
    """Return all metrics in Prometheus' text format."""
    text = await scrape(request.app.state.registry, catalog_of(request.scope))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _probe(learner: Learner, timeout: float) -> None:
    reason = await _what_is_wrong(learner, timeout)
    if reason is not None:
        # The route needs no key, so its answer names no model.
        _logger.warning("Not ready: %s", reason)
        raise errors.NotReadyError("a model does not answer; the log says which and why")


async def _what_is_wrong(learner: Learner, timeout: float) -> str | None:
    name = learner.model.name
    if learner.poisoned:
        return f"the state of model {name!r} is being brought back"
    try:
        async with asyncio.timeout(timeout):
            await learner.reads.ask(lambda model: model.step)
    except TimeoutError:
        return f"model {name!r} did not answer within {timeout:g} s"
    except (errors.ModelFailedError, errors.QueueFullError, errors.ShuttingDownError) as error:
        return error.message
    except errors.UnknownModelError:
        return None  # deleted meanwhile: nothing that could be unready
    return None


ROUTES = router.routes
