"""The models: list, make, look at, delete."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from service import errors, schemas
from service.access import JSON, needs
from service.catalog import catalog_of
from service.guard import GuardedRoute
from service.hosted import HostedModel
from service.openapi import DocumentedRoute, Operation, error_responses, operation_id
from service.wire import decode, json_response, read_body

_ABSENT = error_responses(errors.UnknownModelError, errors.QueueFullError, errors.ModelFailedError)

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
                    "state": "failed" if learner.failed else "ready",
                }
                for learner in catalog_of(request)
            ]
        }
    )


@needs("admin", takes=(JSON,))
async def create_model(request: Request) -> Response:
    """Make a model from a JSON spec; features and classes come from the data."""
    catalog = catalog_of(request)
    raw = await read_body(request, catalog.settings.max_body_bytes)
    decode(raw)  # refuses what pydantic lets pass: a key that stands twice
    learner = await catalog.create(_spec(raw))
    return json_response(await learner.ask(HostedModel.describe), 201)


@router.get(
    "/models/{m}", summary="Look at a model", response_model=schemas.ModelDescription, responses=_ABSENT
)
@needs("read")
async def get_model(request: Request, m: str) -> Response:
    """Tell what the model was told to be, and what it became."""
    return json_response(await catalog_of(request).get(m).ask(HostedModel.describe))


@router.delete("/models/{m}", summary="Delete a model", status_code=204, responses=_ABSENT)
@needs("admin")
async def delete_model(request: Request, m: str) -> Response:
    """Delete a model and all that it knows; requests that wait for it are refused."""
    await catalog_of(request).delete(m)
    return Response(status_code=204)


@router.get("/models/{m}/metrics", summary="Score a model", response_model=schemas.Scores, responses=_ABSENT)
@needs("read")
async def get_metrics(request: Request, m: str) -> Response:
    """Tell how good the predictions were: each was made before its sample was learned."""
    return json_response(await catalog_of(request).get(m).ask(HostedModel.report))


@router.get(
    "/models/{m}/fingerprint",
    summary="Fingerprint a model",
    response_model=schemas.Fingerprint,
    responses=_ABSENT,
)
@needs("read")
async def get_fingerprint(request: Request, m: str) -> Response:
    """Digest all that learning changes: equal digests, equal states."""
    return json_response(await catalog_of(request).get(m).ask(HostedModel.fingerprint))


def _spec(raw: bytes) -> schemas.ModelSpec:
    try:
        return schemas.ModelSpec.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Names of the types of a union stand in the location too: they say nothing to the client.
        where = [*first["loc"][:1], *(part for part in first["loc"][1:] if isinstance(part, int))]
        field = ".".join(map(str, where)) or None
        message = f"{field}: {first['msg']}" if field else first["msg"]
        raise errors.InvalidSpecError(message, field) from None


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
            ),
            status=201,
        ),
    ),
]
