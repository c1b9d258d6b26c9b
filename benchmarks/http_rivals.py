"""What the server is compared with: endpoints that take a sample as it does, and do nothing with it."""

from __future__ import annotations

import orjson
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


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
