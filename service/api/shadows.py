"""Routes of shadows: create, compare, delete and promote challengers of a model."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from .. import schemas
from ..auth.scopes import JSON, needs
from ..errors import Layer
from ..http.requests import read_model
from ..http.responses import json_response
from ..models.access import models_of
from .openapi import ApiRoute

#: Layers of a change of a whole model.
_CHANGE = (Layer.MODEL, Layer.EXCLUSIVE, Layer.WRITE, Layer.REBUILDING)

router = APIRouter(tags=["models"], route_class=ApiRoute)


@router.get("/models/{m}/shadows", summary="Compare shadows", response_model=schemas.ShadowList)
@needs("read", Layer.MODEL, Layer.READ)
async def list_shadows(request: Request, m: str) -> Response:
    """List the shadows of a model, and their comparisons with the model on the same samples.

    A shadow is `better` or `worse` once the interval of the difference excludes 0. The intervals hold at all
    times together, so that they may be read after each sample.
    """
    return json_response(await (await models_of(request.scope).observed(m)).shadows())


@router.post(
    "/models/{m}/shadows",
    summary="Create a shadow",
    status_code=201,
    response_model=schemas.ShadowAnswer,
)
@needs("admin", *_CHANGE, Layer.SHADOW_CREATION, takes=(JSON,), body=schemas.ShadowSpec)
async def create_shadow(request: Request, m: str) -> Response:
    """Create a shadow from a JSON specification, as for `POST /models`, but with a required name: its own.

    It learns the samples that the model learns from now on, and never answers. Its task and its `input_shape`
    are those of the model.
    """
    spec = (await read_model(request, schemas.ShadowSpec)).of_model()
    return json_response(await (await models_of(request.scope).operations(m)).add_shadow(spec), 201)


@router.delete("/models/{m}/shadows/{name}", summary="Delete a shadow", status_code=204)
@needs("admin", *_CHANGE, Layer.SHADOW)
async def delete_shadow(request: Request, m: str, name: str) -> Response:
    """Delete a shadow. The log keeps its events, so that a rollback to before restores it."""
    await (await models_of(request.scope).operations(m)).delete_shadow(name)
    return Response(status_code=204)


@router.post("/models/{m}/promote", summary="Promote a shadow", response_model=schemas.PromoteAnswer)
@needs("admin", *_CHANGE, Layer.PROMOTION, takes=(JSON,), body=schemas.PromoteBody)
async def promote(request: Request, m: str) -> Response:
    """Let a shadow and the model change places, once the shadow has all samples of the model.

    The model answers and learns meanwhile. The former champion stays as a shadow, so that its promotion
    reverts this one. All comparisons begin anew. A promotion cancels an upgrade.
    """
    body = await read_model(request, schemas.PromoteBody)
    return json_response(await (await models_of(request.scope).operations(m)).promote(body.shadow))


ROUTES = router.routes
