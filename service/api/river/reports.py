"""Server and model reports, by the River API Spec: information, metrics, times, token."""

from __future__ import annotations

import base64
import binascii
from typing import Any, get_args

from fastapi import APIRouter, Request, Response

from bnp_online import __version__

from ... import errors
from ...auth.scopes import JSON, needs
from ...errors import Layer
from ...http.content import without_mark
from ...http.requests import Shape, check, headers_of, read_body, read_fields
from ...http.responses import json_response
from ...models.access import models_of
from ...models.queue import Latency
from ...models.worker import Worker
from ..openapi import ApiRoute
from . import schemas

_MODEL = Shape.of(schemas.RiverForm)
_ASKED: dict[str, Any] = {
    "openapi_extra": {
        "parameters": [{"name": "model", "in": "query", "required": True, "schema": {"type": "string"}}]
    }
}
_UNITS = (("m", 60 * 10**9), ("s", 10**9), ("ms", 10**6), ("μs", 10**3), ("ns", 1))

router = APIRouter(tags=["River API Spec"], route_class=ApiRoute)


@router.get("/api/", summary="Describe the server (River)", response_model=schemas.RiverInfo)
@needs(None)
async def river_info(request: Request) -> Response:
    """Return the status of the server, and the version of the spec that it implements."""
    return json_response(
        {
            "id": "bnp-online",
            "name": request.app.title,
            "description": request.app.description,
            "status": "running",
            "version": "1.0.0",
            "server_version": __version__,
            "flavors": get_args(schemas.Flavor),
        }
    )


@router.get(
    "/api/metrics/", summary="Score a model (River)", response_model=dict[str, float | None], **_ASKED
)
@needs("read", Layer.FIELDS, Layer.MODEL, Layer.READ, takes=(JSON,))
async def river_metrics(request: Request) -> Response:
    """Return the cumulative prequential metrics by name; a JSON body may name the model instead."""
    return json_response(await (await _asked(request)).ask(lambda model: model.score.cumulative()))


@router.get("/api/stats/", summary="Time a model (River)", response_model=schemas.RiverStats, **_ASKED)
@needs("read", Layer.FIELDS, Layer.MODEL, takes=(JSON,))
async def river_stats(request: Request) -> Response:
    """Return the response times of the model; a JSON body may name it instead."""
    worker = await _asked(request)
    return json_response({"learn": _times(worker.learn_latency), "predict": _times(worker.predict_latency)})


async def _asked(request: Request) -> Worker:
    """Return the model that a GET request names in its body, as River's client does, or in its query."""
    registry = models_of(request.scope)
    raw = without_mark(await read_body(request.scope, request.receive, registry.settings.max_body_bytes))
    query = dict(request.query_params)
    if not raw:
        return await registry.get(check(query, _MODEL, registry.settings)["model"])
    name = read_fields(raw, _MODEL, registry.settings)["model"]
    if query.get("model", name) != name:
        raise errors.RequestError("the query names a model, and the body another: omit one of them", "model")
    return await registry.get(name)


def _times(latency: Latency) -> dict[str, Any]:
    mean, recent = round(latency.mean * 1e9), round(latency.recent * 1e9)
    return {
        "n_calls": latency.calls,
        "mean_duration": mean,
        "mean_duration_human": _for_people(mean),
        "ewm_duration": recent,
        "ewm_duration_human": _for_people(recent),
    }


def _for_people(nanoseconds: int) -> str:
    """Return a duration with units.

    Examples
    --------
    >>> _for_people(2_000_301), _for_people(0)
    ('2ms301ns', '0ns')
    """
    words = ""
    for unit, size in _UNITS:
        count, nanoseconds = divmod(nanoseconds, size)
        words += f"{count}{unit}" if count else ""
    return words or "0ns"


@router.get(
    "/api/auth/token/",
    summary="Exchange a key for a token (River)",
    response_model=schemas.RiverToken,
    openapi_extra={
        "parameters": [
            {"name": "Authorization", "in": "header", "required": True, "schema": {"type": "string"}}
        ]
    },
)
@needs(None, Layer.TOKEN)
async def river_token(request: Request) -> Response:
    """Return the token of Basic credentials with any user and an API key as the password: the key itself."""
    secret = _password(headers_of(request.scope).get(b"authorization", b""))
    request.app.state.guard.find(secret)
    return json_response({"token": secret.decode("latin-1")}, headers={"cache-control": "no-store"})


def _password(header: bytes) -> bytes:
    kind, _, encoded = header.partition(b" ")
    try:
        if kind.lower() == b"basic":
            return base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        pass  # not Basic credentials
    raise errors.UnauthorizedError("send Basic credentials with any user and an API key as the password")


ROUTES = router.routes
