"""What the server, and each model, tells of itself, in the words of the River API Spec."""

from __future__ import annotations

import base64
import binascii
from typing import Any, get_args

from fastapi import APIRouter, Request, Response

from bnp_online import __version__

from ... import errors
from ...auth.guard import Door, GuardedRoute
from ...auth.scopes import JSON, needs
from ...http.requests import TEXT, Shape, check, headers_of, json_response, read_body, read_fields
from ...models import report
from ...models.latency import Durations
from ...models.registry import catalog_of
from ...models.worker import Learner
from ..openapi import error_responses, operation_id
from . import schemas

_ASK = Shape({"model": TEXT}, ("model",))
_ASKED: dict[str, Any] = {
    "responses": error_responses(
        errors.InvalidJsonError,
        errors.DuplicateKeyError,
        errors.UnknownModelError,
        errors.BodyTooLargeError,
        errors.InvalidTypeError,
        errors.MissingFieldError,
        errors.UnknownFieldError,
        errors.QueueFullError,
        errors.ModelFailedError,
        errors.ShuttingDownError,
    ),
    "openapi_extra": {
        "parameters": [{"name": "model", "in": "query", "required": True, "schema": {"type": "string"}}]
    },
}
_UNITS = (("m", 60 * 10**9), ("s", 10**9), ("ms", 10**6), ("μs", 10**3), ("ns", 1))

router = APIRouter(
    tags=["River API Spec"], generate_unique_id_function=operation_id, route_class=GuardedRoute
)


@router.get("/api/", summary="What is this server (River)", response_model=schemas.RiverInfo)
@needs(None)
async def river_info(request: Request) -> Response:
    """Tell that the server is running, and which version of the spec it speaks."""
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
@needs("read", takes=(JSON,))
async def river_metrics(request: Request) -> Response:
    """Return the prequential metrics by name, cumulative; the model may be named in a JSON body instead."""
    return json_response(await (await _asked(request)).reads.ask(report.totals))


@router.get("/api/stats/", summary="Time a model (River)", response_model=schemas.RiverStats, **_ASKED)
@needs("read", takes=(JSON,))
async def river_stats(request: Request) -> Response:
    """Tell how long the model took to answer; it may be named in a JSON body instead."""
    learner = await _asked(request)
    return json_response({"learn": _times(learner.durations), "predict": _times(learner.reads.durations)})


async def _asked(request: Request) -> Learner:
    """Return the model that a GET names: in its body, as the client does, or in its query, as HTTP has it."""
    catalog = catalog_of(request.scope)
    raw = await read_body(request.scope, request.receive, catalog.settings.max_body_bytes)
    if raw:
        body = read_fields(raw, _ASK, catalog.settings)
    else:
        body = check(dict(request.query_params), _ASK, catalog.settings)
    return catalog.get(body["model"])


def _times(durations: Durations) -> dict[str, Any]:
    mean, recent = round(durations.mean * 1e9), round(durations.recent * 1e9)
    return {
        "n_calls": durations.calls,
        "mean_duration": mean,
        "mean_duration_human": _for_people(mean),
        "ewm_duration": recent,
        "ewm_duration_human": _for_people(recent),
    }


def _for_people(nanoseconds: int) -> str:
    """Return a time in words.

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
    summary="Get a token for a key (River)",
    response_model=schemas.RiverToken,
    responses=error_responses(errors.UnauthorizedError),
    openapi_extra={
        "parameters": [
            {"name": "Authorization", "in": "header", "required": True, "schema": {"type": "string"}}
        ]
    },
)
@needs(None)
async def river_token(request: Request) -> Response:
    """Answer Basic credentials, any user and a key as the password, with the key: it is its own token."""
    secret = _password(headers_of(request.scope).get(b"authorization", b""))
    door: Door = request.app.state.door
    door.find(secret)
    return json_response({"token": secret.decode("latin-1")}, headers={"cache-control": "no-store"})


def _password(header: bytes) -> bytes:
    kind, _, encoded = header.partition(b" ")
    try:
        if kind.lower() == b"basic":
            return base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        pass  # then there is none either
    raise errors.UnauthorizedError("send Basic credentials: any user, and an API key as the password")


ROUTES = router.routes
