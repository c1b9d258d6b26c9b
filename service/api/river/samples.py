"""Learning, predicting and labelling, by the River API Spec."""

from __future__ import annotations

import uuid
from typing import Any

from ... import errors
from ...auth.scopes import JSON, needs
from ...errors import Layer
from ...models.validation import Label, Learn, Predict
from ..fast_path import FastRequest, HotRoute
from . import schemas


@needs("learn", Layer.WRITER, Layer.SAMPLE_ID, Layer.LABELLED, takes=(JSON,))
async def river_learn(request: FastRequest[schemas.RiverLearnBody]) -> str:
    """Learn a sample, as `POST /learn` does.

    If the `identifier` is that of a kept prediction, the request labels it: the features of the prediction
    are learned, and the prediction is scored. Any other identifier is the `id` of the sample.
    """
    body, worker, done = request.fields, request.worker, "Successful learn."
    x, y, identifier = body["features"], body["ground_truth"], body.get("identifier")
    if identifier is not None:
        try:
            await worker.learn(Label(identifier, y))
        except errors.UnknownIdError:
            pass  # no kept prediction: it is the id of the sample
        else:
            return done
    await worker.learn(Learn(x, y, id=identifier))
    return done


@needs("predict", Layer.WRITER, Layer.READ, Layer.PREDICTION_ID, takes=(JSON,))
async def river_predict(request: FastRequest[schemas.RiverPredictBody]) -> dict[str, Any]:
    """Predict a sample, and keep the prediction for its label, as `POST /predict` does with an `id`."""
    body, worker = request.fields, request.worker
    identifier = body.get("identifier")
    if identifier is None:
        identifier = str(uuid.uuid4())
    answer = await worker.learn(Predict(body["features"], identifier))
    prediction = answer.get("probabilities", answer["prediction"])
    return {"model": worker.model.name, "prediction": prediction, "identifier": identifier}


@needs("learn", Layer.WRITER, Layer.LABEL, Layer.LABELLED, takes=(JSON,))
async def river_label(request: FastRequest[schemas.RiverLabelBody]) -> str:
    """Learn the label of an earlier prediction, as `POST /label` does."""
    await request.worker.learn(Label(request.fields["identifier"], request.fields["label"]))
    return "Successful label."


_TAGS = ["River API Spec"]
ROUTES = [
    HotRoute(
        "/api/learn/",
        river_learn,
        summary="Learn one sample (River)",
        tags=_TAGS,
        response_model=schemas.RiverDone,
        status_code=201,
    ),
    HotRoute(
        "/api/predict/",
        river_predict,
        summary="Predict one sample (River)",
        tags=_TAGS,
        response_model=schemas.RiverPrediction,
        status_code=201,
    ),
    HotRoute(
        "/api/label/",
        river_label,
        summary="Label an earlier prediction (River)",
        tags=_TAGS,
        response_model=schemas.RiverDone,
    ),
]
