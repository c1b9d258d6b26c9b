"""For operators: health and metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse

from service import errors, schemas
from service.catalog import catalog_of
from service.learner import Learner
from service.openapi import error_responses, operation_id
from service.wire import json_response

router = APIRouter(tags=["operations"], generate_unique_id_function=operation_id)


@router.get("/health/live", summary="Is it alive", response_model=schemas.Health)
async def live(request: Request) -> Response:
    """Answer, which is all that it takes to be alive."""
    return json_response({"status": "alive"})


@router.get(
    "/health/ready",
    summary="Is it ready",
    response_model=schemas.Health,
    responses=error_responses(errors.NotReadyError),
)
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
async def metrics(request: Request) -> Response:
    """Return all metrics in Prometheus' text format."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


async def _probe(learner: Learner, timeout: float) -> None:
    name = learner.model.name
    if learner.poisoned:
        raise errors.NotReadyError(f"the state of model {name!r} is being brought back", "model")
    try:
        async with asyncio.timeout(timeout):
            await learner.ask(lambda model: model.step)
    except TimeoutError:
        raise errors.NotReadyError(f"model {name!r} did not answer within {timeout:g} s", "model") from None
    except (errors.ModelFailedError, errors.QueueFullError, errors.ShuttingDownError) as error:
        raise errors.NotReadyError(error.message, "model") from None
    except errors.UnknownModelError:
        return  # deleted meanwhile: nothing that could be unready


ROUTES = router.routes
