"""Models, by the River API Spec: create, list, describe, download, delete."""

from __future__ import annotations

import re
import secrets
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from ... import errors
from ... import schemas as native
from ...auth.scopes import FORM, JSON, needs
from ...errors import Layer
from ...http.requests import Shape, check, read_body, read_model
from ...http.responses import json_response
from ...models.access import models_of
from ..models import description
from ..openapi import FILE, ApiRoute
from ..state import download
from . import schemas

_CREATES: dict[str, Any] = {"status_code": 201, "response_model": schemas.RiverName}
_CREATION = needs(
    "admin",
    Layer.CREATION,
    Layer.EXCLUSIVE,
    Layer.WRITE,
    takes=(JSON,),
    body=schemas.RiverModelSpec,
    otherwise=errors.PickledModelError,
)
_FORM = Shape.of(schemas.RiverForm)

router = APIRouter(tags=["River API Spec"], route_class=ApiRoute)


@router.post("/api/model/{flavor}/", summary="Create a model with a generated name (River)", **_CREATES)
@_CREATION
async def river_create(request: Request, flavor: schemas.Flavor) -> Response:
    """Create a model from a JSON specification, as `POST /models` does; a missing name is generated.

    A pickled model is refused. The flavor sets the task; a `binary` model has at most two classes.
    """
    return await _create(request, flavor, None)


@router.post("/api/model/{flavor}/{m}/", summary="Create a model (River)", **_CREATES)
@_CREATION
async def river_create_named(request: Request, flavor: schemas.Flavor, m: str) -> Response:
    """Create a model with this name from a JSON specification, as `POST /models` does."""
    return await _create(request, flavor, m)


async def _create(request: Request, flavor: schemas.Flavor, name: str | None) -> Response:
    spec = _completed(await read_model(request, native.ModelSpec), flavor, name)
    worker = await models_of(request.scope).create(spec)
    return json_response({"name": worker.model.name}, 201)


def _completed(spec: native.ModelSpec, flavor: schemas.Flavor, name: str | None) -> native.ModelSpec:
    """Return a specification with the values that follow from the path, which its own must not contradict."""
    said: dict[str, Any] = {"task": "regression" if flavor == "regression" else "classification"}
    if name is not None:
        said["name"] = name
    if flavor == "binary":
        said["max_classes"] = 2
    for field, value in said.items():
        if field in spec.model_fields_set and getattr(spec, field) not in (value, None):
            raise errors.InvalidSpecError(f"{field} is {value!r:.80} by the path: omit it", field)
    if "name" not in {*said, *spec.model_fields_set}:
        said["name"] = f"{flavor}-{secrets.token_hex(4)}"
    if re.fullmatch(native.NAME_PATTERN, said.get("name", spec.name)) is None:
        raise errors.InvalidSpecError(
            "name must have 1 to 64 letters, digits, and . _ -, and start with a letter or a digit", "name"
        )
    return spec.model_copy(update=said)


@router.get("/api/models/", summary="List models (River)", response_model=schemas.RiverNames)
@needs("read")
async def river_list(request: Request) -> Response:
    """List the names of all models, in order of creation."""
    return json_response({"models": [each.name for each in models_of(request.scope).summaries()]})


@router.get("/api/model/{m}/", summary="Describe a model (River)", response_model=native.ModelDescription)
@needs("read", Layer.MODEL, Layer.READ)
async def river_get(request: Request, m: str) -> Response:
    """Return the specification and the current state of a model, as `GET /models/{m}` does."""
    return json_response(await description(request, m))


@router.get(
    "/api/model/download/{m}/",
    summary="Download a model (River)",
    response_class=Response,
    responses={200: FILE},
)
@needs("admin", Layer.MODEL, Layer.READ)
async def river_download(request: Request, m: str) -> Response:
    """Return the model as a safetensors file, never pickled, which `bnp_online.load` reads."""
    return await download(models_of(request.scope), m)


@router.delete(
    "/api/model/",
    summary="Delete a model (River)",
    response_model=schemas.RiverDone,
    responses={202: {"model": schemas.RiverDone, "description": "Deleted, and erased later"}},
)
@needs("admin", Layer.MODEL, Layer.EXCLUSIVE, Layer.WRITE, takes=(FORM,), body=schemas.RiverForm)
async def river_delete(request: Request) -> Response:
    """Delete the model that a form names, and all that it learned."""
    registry = models_of(request.scope)
    raw = await read_body(request.scope, request.receive, registry.settings.max_body_bytes)
    pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise errors.DuplicateKeyError("the form contains a field twice")
    erased = await registry.delete(check(fields, _FORM, registry.settings)["model"])
    return json_response("Successful delete.", 200 if erased else 202)


ROUTES = router.routes
