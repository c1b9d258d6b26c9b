"""The models, in the words of the River API Spec: make, list, look at, download, delete."""

from __future__ import annotations

import re
import secrets
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from ... import errors
from ... import schemas as native
from ...auth.guard import GuardedRoute
from ...auth.scopes import BYTES, FORM, JSON, needs
from ...http.requests import TEXT, Shape, check, json_response, read_body, read_model
from ...models.registry import catalog_of
from ..models import description
from ..openapi import error_responses, operation_id
from ..state import download
from . import schemas

_ABSENT = (
    errors.UnknownModelError,
    errors.QueueFullError,
    errors.ModelFailedError,
    errors.ShuttingDownError,
)
_MAKING: dict[str, Any] = {
    "status_code": 201,
    "response_model": schemas.RiverName,
    "responses": error_responses(
        errors.InvalidJsonError,
        errors.DuplicateKeyError,
        errors.PickledModelError,
        errors.ModelExistsError,
        errors.TooManyModelsError,
        errors.BodyTooLargeError,
        errors.InvalidSpecError,
        errors.ShuttingDownError,
        errors.StorageFullError,
        errors.StorageError,
    ),
    "openapi_extra": {
        "requestBody": {"required": True, "content": {JSON: {"schema": schemas.spec_schema()}}}
    },
}
_FORM = Shape({"model": TEXT}, ("model",))

router = APIRouter(
    tags=["River API Spec"], route_class=GuardedRoute, generate_unique_id_function=operation_id
)


@router.post("/api/model/{flavor}/", summary="Make a model under a made name (River)", **_MAKING)
@needs("admin", takes=(JSON,), otherwise=errors.PickledModelError)
async def river_create(request: Request, flavor: schemas.Flavor) -> Response:
    """Make a model from a JSON spec, as `POST /models` does; a name is made if the spec has none.

    A pickled model is refused. The flavor says what is predicted: a model of the flavor `binary` takes two
    classes and no more.
    """
    return await _create(request, flavor, None)


@router.post("/api/model/{flavor}/{m}/", summary="Make a model (River)", **_MAKING)
@needs("admin", takes=(JSON,), otherwise=errors.PickledModelError)
async def river_create_named(request: Request, flavor: schemas.Flavor, m: str) -> Response:
    """Make a model of this name from a JSON spec, as `POST /models` does; a pickled model is refused."""
    return await _create(request, flavor, m)


async def _create(request: Request, flavor: schemas.Flavor, name: str | None) -> Response:
    spec = _completed(await read_model(request, native.ModelSpec), flavor, name)
    learner = await catalog_of(request.scope).create(spec)
    return json_response({"name": learner.model.name}, 201)


def _completed(spec: native.ModelSpec, flavor: schemas.Flavor, name: str | None) -> native.ModelSpec:
    """Return a spec with what the path says; what it says itself must agree."""
    said: dict[str, Any] = {"task": "regression" if flavor == "regression" else "classification"}
    if name is not None:
        said["name"] = name
    if flavor == "binary":
        said["max_classes"] = 2
    for field, value in said.items():
        if field in spec.model_fields_set and getattr(spec, field) not in (value, None):
            raise errors.InvalidSpecError(f"{field} is {value!r:.80} by the path: leave it out", field)
    if "name" not in {*said, *spec.model_fields_set}:
        said["name"] = f"{flavor}-{secrets.token_hex(4)}"
    if re.fullmatch(native.NAME_PATTERN, said.get("name", spec.name)) is None:
        raise errors.InvalidSpecError(
            "name must have 1 to 64 letters, digits, and . _ -, and begin with a letter or a digit", "name"
        )
    return spec.model_copy(update=said)


@router.get("/api/models/", summary="List the models (River)", response_model=schemas.RiverNames)
@needs("read")
async def river_list(request: Request) -> Response:
    """List the names of all models, in the order in which they were made."""
    return json_response({"models": [learner.model.name for learner in catalog_of(request.scope)]})


@router.get(
    "/api/model/{m}/",
    summary="Look at a model (River)",
    response_model=native.ModelDescription,
    responses=error_responses(*_ABSENT),
)
@needs("read")
async def river_get(request: Request, m: str) -> Response:
    """Tell what the model was told to be, and what it became, as `GET /models/{m}` does."""
    return json_response(await description(catalog_of(request.scope).get(m)))


@router.get(
    "/api/model/download/{m}/",
    summary="Download a model (River)",
    response_class=Response,
    responses={200: {"content": {BYTES: {}}}, **error_responses(*_ABSENT)},
)
@needs("admin")
async def river_download(request: Request, m: str) -> Response:
    """Return the model as one safetensors file, never pickled: `bnp_online.load` reads it."""
    return await download(catalog_of(request.scope).get(m))


@router.delete(
    "/api/model/",
    summary="Delete a model (River)",
    response_model=schemas.RiverDone,
    responses=error_responses(
        *_ABSENT,
        errors.DuplicateKeyError,
        errors.BodyTooLargeError,
        errors.MissingFieldError,
        errors.UnknownFieldError,
        errors.StorageFullError,
        errors.StorageError,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {FORM: {"schema": schemas.RiverForm.model_json_schema()}},
        }
    },
)
@needs("admin", takes=(FORM,))
async def river_delete(request: Request) -> Response:
    """Delete the model that a form names, and every trace of what it learned."""
    catalog = catalog_of(request.scope)
    raw = await read_body(request.scope, request.receive, catalog.settings.max_body_bytes)
    pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise errors.DuplicateKeyError("a field of the form stands twice")
    await catalog.delete(check(fields, _FORM, catalog.settings)["model"])
    return json_response("Successful delete.")


ROUTES = router.routes
