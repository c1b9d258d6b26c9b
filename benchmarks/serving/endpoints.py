"""What the server is compared with: endpoints that take a sample as it does, and do nothing with it.

``python -m benchmarks.http_rivals idiomatic`` or ``bare`` serves one on any free port, with the same uvicorn.
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
    """Validate a sample, as most people would write it."""
    return _ANSWER


async def _take_bare(request: Request) -> Response:
    orjson.loads(await request.body())
    return Response(orjson.dumps(_ANSWER.model_dump()), media_type="application/json")


bare = Starlette(routes=[Route(path, _take_bare, methods=["POST"]) for path in ("/learn", "/predict")])

RIVALS: dict[str, ASGIApp] = {"idiomatic": idiomatic, "bare": bare}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    uvicorn.Server(uvicorn_config(RIVALS[sys.argv[1]], Settings(port=0))).run()
