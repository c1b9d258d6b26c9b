"""Administration of a model: checkpoints, rollback, unlearning, export, import, limits."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bnp_online.parameters import LATEST_LEARNER

from .. import schemas
from ..auth.scopes import BYTES, JSON, needs
from ..errors import Layer
from ..http.requests import read_body, read_model
from ..http.responses import json_response
from ..ingest.ingest import ingest_of
from ..models.access import Models, models_of
from ..storage import event_codec
from ..storage.interfaces import Checkpoint, Header
from .openapi import FILE, ApiRoute

#: Layers of a change of a whole model.
_CHANGE = (Layer.MODEL, Layer.EXCLUSIVE, Layer.WRITE)

router = APIRouter(tags=["models"], route_class=ApiRoute)


@router.get(
    "/models/{m}/checkpoints",
    summary="List checkpoints",
    response_model=schemas.CheckpointList,
)
@needs("admin", Layer.MODEL, Layer.STORAGE)
async def list_checkpoints(request: Request, m: str) -> Response:
    """List the stored checkpoints, the newest first."""
    kept = await (await models_of(request.scope).observed(m)).checkpoints()
    return json_response({"checkpoints": [_checkpoint(each, current) for each, current in kept]})


@router.post(
    "/models/{m}/checkpoints",
    summary="Take a checkpoint",
    status_code=201,
    response_model=schemas.CheckpointAnswer,
)
@needs("admin", *_CHANGE, Layer.REBUILDING)
async def take_checkpoint(request: Request, m: str) -> Response:
    """Write a checkpoint of the current state, and respond once it is on the disk."""
    operations = await models_of(request.scope).operations(m)
    return json_response(_checkpoint(await operations.checkpoint(), True), 201)


@router.post(
    "/models/{m}/rollback",
    summary="Return to an earlier state",
    response_model=schemas.RollbackAnswer,
)
@needs("admin", *_CHANGE, Layer.ROLLBACK, takes=(JSON,), body=schemas.RollbackBody)
async def roll_back(request: Request, m: str) -> Response:
    """Return exactly to a step or a checkpoint, and start a new branch of the model's history."""
    body = await read_model(request, schemas.RollbackBody)
    step, branch = await (await models_of(request.scope).operations(m)).roll_back(body.step, body.checkpoint)
    return json_response({"model": m, "step": step, "branch": branch})


@router.post(
    "/models/{m}/forget",
    summary="Unlearn samples",
    status_code=202,
    response_model=schemas.ForgetAnswer,
)
@needs("admin", *_CHANGE, Layer.UNLEARNING, takes=(JSON,), body=schemas.ForgetBody)
async def forget(request: Request, m: str) -> Response:
    """Unlearn samples by their ids: the log drops them at once, the model once it is rebuilt without them.

    The model keeps serving and learning; its `state` is `rebuilding` until then. The ids are not learned
    again.
    """
    body = await read_model(request, schemas.ForgetBody)
    operations = await models_of(request.scope).operations(m)
    gone = await operations.forget(body.ids)
    return json_response({"model": m, "forgotten": gone, "rebuilding": operations.rebuilding}, 202)


@router.post(
    "/models/{m}/upgrade",
    summary="Upgrade a model",
    status_code=202,
    response_model=schemas.UpgradeAnswer,
)
@needs("admin", *_CHANGE, Layer.UPGRADE)
async def upgrade(
    request: Request,
    m: str,
    kept: Annotated[
        bool, Query(description="Relearn the samples that the log has, although it lacks earlier ones.")
    ] = False,
) -> Response:
    """Relearn the samples in the log with the latest generation of the learner, as a new model would.

    The model keeps serving and learning; its `state` is `rebuilding`, and `upgrade` tells the progress. Then
    the relearned model takes its place. A rollback or an import cancels the upgrade. A rollback to a step
    before the end of the upgrade restores the model as it was.
    """
    operations = await models_of(request.scope).operations(m)
    rebuilding = await operations.upgrade(kept=kept)
    return json_response({"model": m, "learner": LATEST_LEARNER, "rebuilding": rebuilding}, 202)


@router.get(
    "/models/{m}/branches",
    summary="List branches",
    response_model=schemas.BranchList,
)
@needs("read", Layer.MODEL)
async def list_branches(request: Request, m: str) -> Response:
    """List the branches of a model's history; each rollback adds one, and the last is the current one."""
    branches = await (await models_of(request.scope).observed(m)).branches()
    return json_response({"branches": [asdict(branch) for branch in branches]})


@router.get(
    "/models/{m}/events",
    summary="List logged events",
    response_model=schemas.EventList,
)
@needs("admin", Layer.MODEL, Layer.STORAGE)
async def list_events(
    request: Request,
    m: str,
    branch: schemas.Count | None = None,
    after: schemas.Count = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List the logged events of a model without their samples: of a branch, or of the current history."""
    events = await (await models_of(request.scope).observed(m)).events(branch, after, limit)
    return json_response({"events": [_event(event) for event in events]})


@router.get(
    "/models/{m}/sample",
    summary="Show the latest sample",
    response_model=schemas.LatestSample,
)
@needs("admin", Layer.MODEL, Layer.STORAGE)
async def latest_sample(request: Request, m: str) -> Response:
    """Return the sample that the model learned last, for example to change it and predict the result."""
    return json_response({"model": m, **await (await models_of(request.scope).observed(m)).latest_sample()})


@router.get(
    "/models/{m}/export",
    summary="Export a model",
    response_class=Response,
    responses={200: FILE},
)
@needs("admin", Layer.MODEL, Layer.READ)
async def export_model(request: Request, m: str) -> Response:
    """Return the model as a safetensors file, which `bnp_online.load` reads."""
    return await download(models_of(request.scope), m)


async def download(models: Models, name: str) -> Response:
    """Return a model as a file to download."""
    body = await (await models.observed(name)).export()
    disposition = f'attachment; filename="{name}.safetensors"'
    return Response(body, media_type=BYTES, headers={"content-disposition": disposition})


@router.put(
    "/models/{m}/import",
    summary="Import a model",
    response_model=schemas.ModelDescription,
)
@needs("admin", Layer.CREATION, Layer.EXCLUSIVE, Layer.WRITE, Layer.READ, Layer.IMPORT, takes=(BYTES,))
async def import_model(request: Request, m: schemas.ModelName) -> Response:
    """Replace the model by that of a file, which export or `save` in Python wrote, or create it.

    Its specification becomes that of the file; its prequential metrics start again.
    """
    registry = models_of(request.scope)
    body = await read_body(request.scope, request.receive, registry.settings.max_import_bytes)
    described = await registry.import_(m, body)
    return json_response({**described, "ingest": ingest_of(request.scope).report(m)})


@router.patch(
    "/models/{m}",
    summary="Change the limits or the drift setting of a model",
    response_model=schemas.ModelDescription,
)
@needs("admin", *_CHANGE, Layer.READ, takes=(JSON,), body=schemas.ModelPatch)
async def patch_model(request: Request, m: str) -> Response:
    """Change the settings that may change on a live model."""
    changes = await read_model(request, schemas.ModelPatch)
    described = await (await models_of(request.scope).operations(m)).patch(changes)
    return json_response({**described, "ingest": ingest_of(request.scope).report(m)})


def _checkpoint(kept: Checkpoint, current: bool) -> dict[str, Any]:
    return {
        "checkpoint": kept.name,
        "step": kept.step,
        "time": _time(kept.time),
        "bytes": kept.size,
        "current": current,
    }


def _event(event: Header) -> dict[str, Any]:
    return {
        "sequence": event.seq,
        "branch": event.branch,
        "kind": event.kind,
        "step": event.step if event.action is None else event_codec.loads(event.action)["step"],
        "id": event.id,
        "time": _time(event.time),
        "refused": event.refused,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


ROUTES = router.routes
