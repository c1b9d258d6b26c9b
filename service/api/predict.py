"""The route that predicts; no prediction changes a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import bnp_online.errors as library

from .. import schemas
from ..auth.scopes import ARROW, CSV, JSON, NDJSON, needs
from ..blocks import Block
from ..errors import Layer
from ..models.hosted import Answer
from ..models.queue import Outcomes
from ..models.validation import Predict
from ..models.worker import Asked, Explained, Worker
from .fast_path import FastRequest, HotRoute


def _asked(request: FastRequest[schemas.PredictBody]) -> Asked | Predict:
    """Return what to predict; with an id the prediction is kept for its label."""
    body = request.fields
    level: float | None = body.get("interval")
    if level is not None and not 0.0 < level < 1.0:
        raise library.SampleError("invalid_level", "interval", "{level} is not between 0 and 1", level=level)
    novelty, identifier = bool(body.get("novelty")), body.get("id")
    if identifier is None:
        return Asked(body["x"], level, novelty)
    return Predict(body["x"], identifier, level, novelty)


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
    With `"novelty": true` the answer has the `novelty` of the sample: the share of ordinary samples that are
    at least as unusual.
    `unknown` lists the features of `x` that the prediction ignores, because the model has never learned the
    name or the string value; at most 100.
    The header `BNP-Step` of the response tells how many samples the model had learned. With the header
    `BNP-Min-Step` the model has learned that many, or the answer is 503 `not_there_yet`.
    As `application/x-ndjson` the body has one sample per line, each answered by a line, as an array up to
    1,000 samples, and as `text/csv` a header and one sample per line; see `POST /learn`. The column that the
    parameter `target` names is ignored.
    """
    asked = _asked(request)
    return await (request.worker.predict(asked) if isinstance(asked, Asked) else request.worker.learn(asked))


async def _queue(worker: Worker, asked: Sequence[Asked | Predict] | Block) -> tuple[int, Outcomes]:
    """Queue the first samples of one kind: predictions to keep are logged, others are not."""
    if isinstance(asked, Block):
        return await worker.queue_predictions(asked)
    _, first = next(itertools.groupby(asked, type))
    some: list[Any] = [*first]
    return await (
        worker.queue_predictions(some) if isinstance(some[0], Asked) else worker.queue_samples(some)
    )


def _to_explain(request: FastRequest[schemas.ExplainBody]) -> Explained:
    return Explained(request.fields["x"], request.fields.get("label"))


@needs("predict", Layer.EXPLANATION, Layer.READ, takes=(JSON, NDJSON))
async def explain(request: FastRequest[schemas.ExplainBody]) -> Answer:
    """Return how much each feature moved the prediction for a sample, against its running mean.

    `baseline` plus the sum of the `contributions` is `output`: the log odds of the class `label`, or the
    predicted number of a regression. It is the predicted class, or that of the request. `baseline` is the
    output with all features missing. A feature of the model that is not in `x` counts as 0, as for a
    prediction. The contributions of a model with an input shape are nested lists of this shape.
    As `application/x-ndjson` the body has one sample per line, and as an array up to 1,000 samples.
    """
    return await request.worker.explain(_to_explain(request))


ROUTES = [
    HotRoute(
        path,
        predict,
        summary=f"Predict one sample{where}",
        tags=["predicting"],
        response_model=schemas.PredictAnswer,
        many=(_asked, _queue),
        reads=True,
        blocks=True,
    )
    for path, where in (("/predict", ""), ("/models/{m}/predict", " (model in the path)"))
] + [
    HotRoute(
        path,
        explain,
        summary=f"Explain one prediction{where}",
        tags=["predicting"],
        response_model=schemas.ExplainAnswer,
        many=(_to_explain, Worker.queue_explanations),
        reads=True,
    )
    for path, where in (("/explain", ""), ("/models/{m}/explain", " (model in the path)"))
]
