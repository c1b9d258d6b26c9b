"""Routes of models: list, create, describe, delete."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from .. import schemas
from ..auth.scopes import JSON, needs
from ..errors import Layer, RequestError
from ..http.content import without_mark
from ..http.requests import Shape, read_body, read_fields, read_model
from ..http.responses import json_response
from ..ingest.ingest import ingest_of
from ..models import report
from ..models.access import models_of
from ..models.marks import located
from ..telemetry.metrics import HttpMetrics
from .openapi import ApiRoute

#: Fields of a sample to explain, and the layers that read it.
_EVIDENCE = Shape.of(schemas.EvidenceBody)
_SAMPLE = (Layer.FIELDS, Layer.FEATURES, Layer.SAMPLE)

router = APIRouter(tags=["models"], route_class=ApiRoute)


@router.get("/models", summary="List models", response_model=schemas.ModelList)
@needs("read")
async def list_models(request: Request) -> Response:
    """List all models, in order of creation."""
    return json_response({"models": [each._asdict() for each in models_of(request.scope).summaries()]})


@router.post("/models", summary="Create a model", status_code=201, response_model=schemas.ModelDescription)
@needs("admin", Layer.CREATION, Layer.READ, Layer.WRITE, takes=(JSON,), body=schemas.ModelSpec)
async def create_model(request: Request) -> Response:
    """Create a model from a JSON specification; features and classes come from the data.

    A missing name is that of the default model, as in all routes: `default`.
    """
    spec = await read_model(request, schemas.ModelSpec)
    worker = await models_of(request.scope).create(spec)
    described = report.describe(worker.model)  # nothing used it yet
    ingest = ingest_of(request.scope).report(spec.name)
    return json_response({**described, "upgrade": None, "state": worker.state, "ingest": ingest}, 201)


@router.get("/models/{m}", summary="Describe a model", response_model=schemas.ModelDescription)
@needs("read", Layer.MODEL, Layer.READ)
async def get_model(request: Request, m: str) -> Response:
    """Return the specification and the current state of a model."""
    return json_response(await description(request, m))


@router.delete(
    "/models/{m}",
    summary="Delete a model",
    status_code=204,
    responses={202: {"model": schemas.DeleteAnswer, "description": "Deleted, and erased later"}},
)
@needs("admin", Layer.MODEL, Layer.EXCLUSIVE, Layer.WRITE)
async def delete_model(request: Request, m: str) -> Response:
    """Delete a model and all that it learned; requests that wait for it are refused.

    Responds with 204 when its data is erased from the disk. Responds with 202 if the model is deleted but its
    data cannot be erased now, for example because the disk is full. The server then tries again.
    """
    if await models_of(request.scope).delete(m):
        return Response(status_code=204)
    return json_response({"model": m, "erased": False}, 202)


@router.get("/models/{m}/metrics", summary="Score a model", response_model=schemas.Scores)
@needs("read", Layer.MODEL, Layer.READ)
async def get_metrics(request: Request, m: str) -> Response:
    """Return the prequential metrics: each sample was predicted before it was learned."""
    worker = await models_of(request.scope).get(m)
    return json_response(await worker.ask(report.scores))


@router.get("/models/{m}/dashboard", summary="Watch a model", response_model=schemas.Dashboard)
@needs("read", Layer.MODEL, Layer.READ)
async def get_dashboard(request: Request, m: str) -> Response:
    """Return what the dashboard shows of a model, at one moment between two steps."""
    registry = models_of(request.scope)
    worker = await registry.get(m)
    shown = await worker.ask(report.dashboard)
    shown.update(registry.operations_of(worker).status, queue=worker.queue_depth)
    shown["time"] = time.monotonic()
    shown["latency"] = _latency(request) if request.scope["caller"].models is None else None
    return json_response(shown)


@router.get("/overview", summary="Watch all models", response_model=schemas.Overview)
@needs("read")
async def get_overview(request: Request) -> Response:
    """Return the scores, drifts and leading experts of all models. It loads no stored model."""
    models, rows = models_of(request.scope), []
    workers = {worker.model.name: worker for worker in models}
    for each in models.summaries():
        row = {
            **each._asdict(),
            "recent": None,
            "sparkline": [],
            "drift_marks": [],
            "drifts": None,
            "shares": None,
        }
        if each.name in workers:
            with contextlib.suppress(RequestError):  # deleted or stored meanwhile, or diverged
                row |= await workers[each.name].ask(report.overview)
        rows.append(row)
    return json_response({"time": time.monotonic(), "models": rows})


@router.get("/models/{m}/history", summary="Scores and marks over time", response_model=schemas.ModelHistory)
@needs("read", Layer.MODEL, Layer.READ, Layer.STORAGE)
async def get_history(
    request: Request,
    m: str,
    points: Annotated[
        int | None, Query(description="Greatest number of points: neighbours are merged.", ge=1, le=10_000)
    ] = None,
) -> Response:
    """Return the prequential scores over all of a model's life, and its drifts, actions and changes.

    The points are dense for the latest steps, and sparser by powers of two before. Each has the scores of the
    predictions since the point before. They are part of the model: they come back after a restart, a rollback
    and an unlearning, as if the samples had been learned in one run. An import begins them anew.
    """
    models = models_of(request.scope)
    operations, worker = await models.observed(m), await models.get(m)
    step, history, shares = await worker.ask(
        lambda model: (model.step, model.history.copy(), model.shares.report())
    )
    marks, whole = await operations.marks(), await asyncio.to_thread(history.report, None)
    shown = whole if points is None else await asyncio.to_thread(history.report, points)
    drifts = [{"kind": "drift", "step": at, "time": time} for at, time in history.drifts]
    placed = sorted(located(marks, whole) + drifts, key=lambda mark: mark["time"])
    task = worker.model.spec.task
    return json_response(
        {"model": m, "task": task, "model_step": step, **shown, "experts": shares, "marks": placed}
    )


def _latency(request: Request) -> dict[str, Any]:
    """Return the latency histograms, which cover all models."""
    metrics: HttpMetrics = request.app.state.http_metrics
    found = {
        name: dict(of(route, f"/models/{{m}}{route}"))
        for kind, of in (("", metrics.latency), ("_streams", metrics.stream_latency))
        for route, name in (("/learn", f"learn{kind}"), ("/predict", f"predict{kind}"))
    }
    bounds = sorted({bound for counts in found.values() for bound in counts})
    return {
        "seconds": bounds,
        **{name: [counts.get(bound, 0) for bound in bounds] for name, counts in found.items()},
    }


@router.post(
    "/models/{m}/evidence",
    summary="Explain the strings and words of a sample",
    response_model=schemas.EvidenceAnswer,
    tags=["predicting"],
)
@needs("predict", *_SAMPLE, Layer.MODEL, Layer.READ, takes=(JSON,), body=schemas.EvidenceBody)
async def get_evidence(request: Request, m: str) -> Response:
    """Return which strings and words of a sample speak for which class, by the samples that had them.

    The list is empty until a feature has more values than columns, or words (`fields` of the model).
    """
    models = models_of(request.scope)
    raw = await read_body(request.scope, request.receive, models.settings.max_body_bytes)
    body = read_fields(without_mark(raw), _EVIDENCE, models.settings)
    return json_response(await (await models.get(m)).ask(partial(report.evidence, x=body["x"])))


@router.get("/models/{m}/fingerprint", summary="Fingerprint a model", response_model=schemas.Fingerprint)
@needs("read", Layer.MODEL, Layer.READ, Layer.SHADOW)
async def get_fingerprint(
    request: Request,
    m: str,
    shadow: Annotated[str | None, Query(description="Name of a shadow, which may be behind.")] = None,
) -> Response:
    """Return digests of all that learning changes, of a model or of a shadow: equal digests, equal states."""
    worker = await models_of(request.scope).get(m)
    return json_response(await worker.ask(partial(report.fingerprint, shadow=shadow)))


async def description(request: Request, name: str) -> dict[str, Any]:
    """Return the specification and the current state of a model."""
    models = models_of(request.scope)
    worker, operations = await models.get(name), await models.observed(name)
    described = await worker.ask(report.describe)
    return {**described, **operations.status, "ingest": ingest_of(request.scope).report(name)}


ROUTES = router.routes
