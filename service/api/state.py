"""A model as a whole: checkpoints, rollback, unlearning, export and import, limits."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from bnp_online.errors import CheckpointError, StateError

from .. import errors, schemas
from ..auth.guard import GuardedRoute
from ..auth.scopes import BYTES, JSON, needs
from ..http.requests import json_response, read_body, read_model
from ..models.operations import export
from ..models.registry import catalog_of
from ..models.worker import Learner
from ..storage import event_codec
from ..storage.interfaces import Checkpoint, Record
from .models import description
from .openapi import error_responses, operation_id, request_body

_ABSENT = (
    errors.UnknownModelError,
    errors.QueueFullError,
    errors.ModelFailedError,
    errors.ShuttingDownError,
    errors.StorageError,
)
_BODY = (errors.InvalidJsonError, errors.DuplicateKeyError, errors.BodyTooLargeError, errors.InvalidSpecError)
_STORED = (errors.StorageFullError,)

router = APIRouter(tags=["models"], route_class=GuardedRoute, generate_unique_id_function=operation_id)


@router.get(
    "/models/{m}/checkpoints",
    summary="List checkpoints",
    response_model=schemas.CheckpointList,
    responses=error_responses(*_ABSENT),
)
@needs("admin")
async def list_checkpoints(request: Request, m: str) -> Response:
    """List the checkpoints that are kept, the newest first."""
    kept = await catalog_of(request.scope).maintenance(m).checkpoints()
    return json_response({"checkpoints": [_checkpoint(each, current) for each, current in kept]})


@router.post(
    "/models/{m}/checkpoints",
    summary="Take a checkpoint",
    status_code=201,
    response_model=schemas.CheckpointAnswer,
    responses=error_responses(*_ABSENT, *_STORED, errors.RebuildingError),
)
@needs("admin")
async def take_checkpoint(request: Request, m: str) -> Response:
    """Keep the state as it is, and answer once it is on the disk."""
    return json_response(_checkpoint(await catalog_of(request.scope).maintenance(m).checkpoint(), True), 201)


@router.post(
    "/models/{m}/rollback",
    summary="Go back to an earlier state",
    response_model=schemas.RollbackAnswer,
    responses=error_responses(*_ABSENT, *_BODY, *_STORED, errors.UnknownCheckpointError, errors.NotKeptError),
    openapi_extra=request_body(schemas.RollbackBody),
)
@needs("admin", takes=(JSON,))
async def roll_back(request: Request, m: str) -> Response:
    """Go back to a step or a checkpoint, exactly; what follows is a new branch of the model's history."""
    body = await read_model(request, schemas.RollbackBody)
    model = await catalog_of(request.scope).maintenance(m).roll_back(body.step, body.checkpoint)
    branch = catalog_of(request.scope).get(m).history.branch
    return json_response({"model": m, "step": model.step, "branch": branch})


@router.post(
    "/models/{m}/forget",
    summary="Unlearn samples",
    status_code=202,
    response_model=schemas.ForgetAnswer,
    responses=error_responses(*_ABSENT, *_BODY, *_STORED, errors.UnknownIdError, errors.NotKeptError),
    openapi_extra=request_body(schemas.ForgetBody),
)
@needs("admin", takes=(JSON,))
async def forget(request: Request, m: str) -> Response:
    """Unlearn samples by their ids: they are out of the log at once, and out of the model once it is rebuilt.

    The model serves and learns meanwhile; its `state` says when that is done. The ids are not learned again.
    """
    body = await read_model(request, schemas.ForgetBody)
    maintenance = catalog_of(request.scope).maintenance(m)
    gone = await maintenance.forget(body.ids)
    return json_response({"model": m, "forgotten": gone, "rebuilding": maintenance.rebuilding}, 202)


@router.get(
    "/models/{m}/branches",
    summary="List branches",
    response_model=schemas.BranchList,
    responses=error_responses(*_ABSENT),
)
@needs("read")
async def list_branches(request: Request, m: str) -> Response:
    """List the branches of a model's history, one more for each rollback; the last is the one that counts."""
    branches = await catalog_of(request.scope).maintenance(m).branches()
    return json_response({"branches": [asdict(branch) for branch in branches]})


@router.get(
    "/models/{m}/events",
    summary="List logged events",
    response_model=schemas.EventList,
    responses=error_responses(*_ABSENT, RequestValidationError),
)
@needs("admin")
async def list_events(
    request: Request,
    m: str,
    branch: schemas.Count | None = None,
    after: schemas.Count = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List what is logged of a model, without the samples themselves: of one branch, or what counts."""
    records = await catalog_of(request.scope).maintenance(m).events(branch, after, limit)
    return json_response({"events": [_event(record) for record in records]})


@router.get(
    "/models/{m}/export",
    summary="Export a model",
    response_class=Response,
    responses={200: {"content": {BYTES: {}}}, **error_responses(*_ABSENT)},
)
@needs("admin")
async def export_model(request: Request, m: str) -> Response:
    """Return the model as one safetensors file, which `bnp_online.load` reads."""
    return await download(catalog_of(request.scope).get(m))


async def download(learner: Learner) -> Response:
    """Return a model as a file to keep."""
    body = await learner.reads.ask(export)
    name = f'attachment; filename="{learner.model.name}.safetensors"'
    return Response(body, media_type=BYTES, headers={"content-disposition": name})


@router.put(
    "/models/{m}/import",
    summary="Import a model",
    response_model=schemas.ModelDescription,
    responses=error_responses(
        *_ABSENT, *_STORED, errors.BodyTooLargeError, errors.InvalidSpecError, CheckpointError, StateError
    ),
    openapi_extra={"requestBody": {"required": True, "content": {BYTES: {}}}},
)
@needs("admin", takes=(BYTES,))
async def import_model(request: Request, m: str) -> Response:
    """Put the model in a file, as export or `save` in Python wrote it, in the place of this one.

    Its spec becomes that of the file; its prequential metrics begin anew.
    """
    catalog = catalog_of(request.scope)
    body = await read_body(request.scope, request.receive, catalog.settings.max_import_bytes)
    await catalog.maintenance(m).import_(body)
    return json_response(await description(catalog.get(m)))


@router.patch(
    "/models/{m}",
    summary="Change a model's limits, or how it is watched for drift",
    response_model=schemas.ModelDescription,
    responses=error_responses(*_ABSENT, *_BODY, *_STORED),
    openapi_extra=request_body(schemas.ModelPatch),
)
@needs("admin", takes=(JSON,))
async def patch_model(request: Request, m: str) -> Response:
    """Change what may change while a model lives."""
    changes = await read_model(request, schemas.ModelPatch)
    await catalog_of(request.scope).maintenance(m).patch(changes)
    return json_response(await description(catalog_of(request.scope).get(m)))


def _checkpoint(kept: Checkpoint, current: bool) -> dict[str, Any]:
    return {
        "checkpoint": kept.name,
        "step": kept.step,
        "time": _time(kept.time),
        "bytes": kept.size,
        "current": current,
    }


def _event(record: Record) -> dict[str, Any]:
    event = record.event
    step = event_codec.loads(event.body)["step"] if event.kind == "action" else event.step
    return {
        "sequence": record.seq,
        "branch": record.branch,
        "kind": event.kind,
        "step": step,
        "id": event.id,
        "time": _time(record.time),
        "refused": record.refused,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


ROUTES = router.routes
