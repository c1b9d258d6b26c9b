"""The models: list, make, look at, delete."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from .. import errors, schemas
from ..auth.guard import GuardedRoute
from ..auth.scopes import JSON, needs
from ..http.requests import json_response, read_model
from ..models import report
from ..models.registry import catalog_of
from ..models.worker import Learner
from ..telemetry.metrics import HttpMetrics
from .openapi import DocumentedRoute, Operation, error_responses, operation_id

_ASKED = (
    errors.UnknownModelError,
    errors.QueueFullError,
    errors.ModelFailedError,
    errors.ShuttingDownError,
)
_ABSENT = error_responses(*_ASKED)

router = APIRouter(tags=["models"], generate_unique_id_function=operation_id, route_class=GuardedRoute)


@router.get("/models", summary="List the models", response_model=schemas.ModelList)
@needs("read")
async def list_models(request: Request) -> Response:
    """List all models, in the order in which they were made."""
    return json_response(
        {
            "models": [
                {
                    "name": learner.model.name,
                    "task": learner.model.spec.task,
                    "step": learner.model.step,
                    "state": learner.state,
                }
                for learner in catalog_of(request.scope)
            ]
        }
    )


@needs("admin", takes=(JSON,))
async def create_model(request: Request) -> Response:
    """Make a model from a JSON spec; features and classes come from the data."""
    catalog = catalog_of(request.scope)
    spec = await read_model(request, schemas.ModelSpec)
    learner = await catalog.create(spec)
    return json_response(await description(learner), 201)


@router.get(
    "/models/{m}", summary="Look at a model", response_model=schemas.ModelDescription, responses=_ABSENT
)
@needs("read")
async def get_model(request: Request, m: str) -> Response:
    """Tell what the model was told to be, and what it became."""
    return json_response(await description(catalog_of(request.scope).get(m)))


@router.delete(
    "/models/{m}",
    summary="Delete a model",
    status_code=204,
    responses=error_responses(*_ASKED, errors.StorageFullError, errors.StorageError),
)
@needs("admin")
async def delete_model(request: Request, m: str) -> Response:
    """Delete a model and every trace of what it learned, in its turn; what waits behind it is refused."""
    await catalog_of(request.scope).delete(m)
    return Response(status_code=204)


@router.get("/models/{m}/metrics", summary="Score a model", response_model=schemas.Scores, responses=_ABSENT)
@needs("read")
async def get_metrics(request: Request, m: str) -> Response:
    """Tell how good the predictions were: each was made before its sample was learned."""
    return json_response(await catalog_of(request.scope).get(m).reads.ask(report.scores))


@router.get(
    "/models/{m}/dashboard",
    summary="Watch a model",
    response_model=schemas.Dashboard,
    responses=error_responses(*_ASKED, RequestValidationError),
)
@needs("read")
async def get_dashboard(
    request: Request,
    m: str,
    history: Annotated[bool, Query(description="Tell how the scores came to be as well.")] = False,
) -> Response:
    """Tell all that the page at `/` shows of a model, of one moment between two steps."""
    catalog = catalog_of(request.scope)
    learner = catalog.get(m)
    shown = await learner.reads.ask(report.dashboard)
    shown["state"], shown["queue"] = learner.state, learner.queue_depth
    shown["time"] = time.monotonic()
    shown["latency"] = _latency(request) if request.scope["caller"].models is None else None
    shown["drift"] = catalog.feed.recent("drift", m)
    shown["history"] = catalog.past.of(learner) if history else None
    return json_response(shown)


def _latency(request: Request) -> dict[str, Any]:
    """Return the distribution of the times of answers; it is of all models together."""
    metrics: HttpMetrics = request.app.state.http_metrics
    learn, predict = (dict(metrics.durations(route)) for route in ("/learn", "/predict"))
    bounds = sorted(learn | predict)
    return {
        "seconds": bounds,
        "learn": [learn.get(bound, 0) for bound in bounds],
        "predict": [predict.get(bound, 0) for bound in bounds],
    }


@router.get(
    "/models/{m}/fingerprint",
    summary="Fingerprint a model",
    response_model=schemas.Fingerprint,
    responses=_ABSENT,
)
@needs("read")
async def get_fingerprint(request: Request, m: str) -> Response:
    """Digest all that learning changes: equal digests, equal states."""
    return json_response(await catalog_of(request.scope).get(m).reads.ask(report.fingerprint))


async def description(learner: Learner) -> dict[str, Any]:
    """Return what a model was told to be, and what it became."""
    return {**await learner.reads.ask(report.describe), "state": learner.state}


ROUTES = [
    *router.routes,
    DocumentedRoute(
        "/models",
        create_model,
        Operation(
            "Make a model",
            "models",
            schemas.ModelSpec,
            schemas.ModelDescription,
            (
                errors.InvalidJsonError,
                errors.DuplicateKeyError,
                errors.ModelExistsError,
                errors.TooManyModelsError,
                errors.BodyTooLargeError,
                errors.InvalidSpecError,
                errors.ShuttingDownError,
                errors.StorageFullError,
                errors.StorageError,
            ),
            status=201,
        ),
    ),
]
