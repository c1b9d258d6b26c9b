"""Endpoints that take a sample and do nothing, for comparison with the server.

``python -m benchmarks.serving.endpoints idiomatic`` or ``bare`` serves one on a free port, with the uvicorn
configuration of the server.
"""

from __future__ import annotations

import logging
import sys

import orjson
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from service.http.uvicorn_protocol import uvicorn_config
from service.settings import Settings


class Sample(BaseModel):
    """A body of ``/learn`` or ``/predict``."""

    x: dict[str, float]
    y: int | None = None


class Answer(BaseModel):
    """An answer of ``/learn``."""

    model: str
    step: int
    prediction: int
    loss: float
    duplicate: bool


_ANSWER = Answer(model="default", step=1042, prediction=1, loss=0.31, duplicate=False)

idiomatic = FastAPI()


@idiomatic.post("/learn")
@idiomatic.post("/predict")
async def take(sample: Sample) -> Answer:
    """Validate a sample in the idiomatic way."""
    return _ANSWER


async def _take_bare(request: Request) -> Response:
    orjson.loads(await request.body())
    return Response(orjson.dumps(_ANSWER.model_dump()), media_type="application/json")


bare = Starlette(routes=[Route(path, _take_bare, methods=["POST"]) for path in ("/learn", "/predict")])

RIVALS: dict[str, ASGIApp] = {"idiomatic": idiomatic, "bare": bare}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    uvicorn.Server(uvicorn_config(RIVALS[sys.argv[1]], Settings(port=0))).run()
