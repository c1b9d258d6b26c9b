"""The route that predicts; no prediction changes a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import bnp_online.errors as library

from .. import schemas
from ..auth.scopes import ARROW, CSV, JSON, NDJSON, needs
from ..blocks import Block
from ..errors import Layer
from ..models.hosted import Answer
from ..models.queue import Outcomes
from ..models.validation import Predict
from ..models.worker import Worker
from .fast_path import FastRequest, HotRoute


class Asked(NamedTuple):
    """A sample to predict; with an id the prediction is kept for its label."""

    x: Any
    id: str | None
    interval: float | None


def _asked(request: FastRequest[schemas.PredictBody]) -> Asked:
    body = request.fields
    level: float | None = body.get("interval")
    if level is not None and not 0.0 < level < 1.0:
        raise library.SampleError("invalid_level", "interval", "{level} is not between 0 and 1", level=level)
    return Asked(body["x"], body.get("id"), level)


@needs(
    "predict",
    Layer.WRITER,
    Layer.READ,
    Layer.INTERVAL,
    Layer.PREDICTION_ID,
    Layer.TABLE,
    takes=(JSON, NDJSON, CSV, ARROW),
)
async def predict(request: FastRequest[schemas.PredictBody]) -> Answer:
    """Predict a sample; with an `id` the prediction is kept for its label.

    A repeated `id` with the same `x` returns the kept prediction, not a new one. With an `interval` such as
    0.9, a regression model that was created with `intervals` returns a predictive interval of that coverage.
    `unknown` lists the features of `x` that the prediction ignores, because the model has never learned the
    name or the string value; at most 100.
    The header `BNP-Step` of the response tells how many samples the model had learned. With the header
    `BNP-Min-Step` the model has learned that many, or the answer is 503 `not_there_yet`.
    As `application/x-ndjson` the body has one sample per line, each answered by a line, as an array up to
    1,000 samples, and as `text/csv` a header and one sample per line; see `POST /learn`. The column that the
    parameter `target` names is ignored.
    """
    x, identifier, level = _asked(request)
    if identifier is None:
        return await request.worker.predict(x, level)
    return await request.worker.learn(Predict(x, identifier, level))


async def _queue(worker: Worker, asked: Sequence[Asked] | Block) -> tuple[int, Outcomes]:
    """Queue the first samples of one kind: predictions to keep are logged, others are not."""
    if isinstance(asked, Block):
        return await worker.queue_predictions(asked)
    kept, xs = asked[0].id is not None, list[Any]()
    for one in itertools.takewhile(lambda one: (one.id is not None) == kept, asked):
        xs.append((one.x, one.interval) if one.id is None else Predict(one.x, one.id, one.interval))
    return await (worker.queue_samples(xs) if kept else worker.queue_predictions(xs))


ROUTES = [
    HotRoute(
        path,
        predict,
        summary=f"Predict one sample{where}",
        tags=["predicting"],
        response_model=schemas.PredictAnswer,
        many=(_asked, _queue),
        reads=True,
    )
    for path, where in (("/predict", ""), ("/models/{m}/predict", " (model in the path)"))
]
