"""Learning, predicting and labelling, in the words of the River API Spec."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.types import Receive, Scope, Send

from ... import errors
from ...auth.scopes import JSON, needs
from ...http.requests import FEATURES, OPTIONAL_TEXT, TARGET, TEXT, Shape, read_body, read_fields, respond
from ...models.hosted import Answer
from ...models.registry import Models, catalog_of
from ...models.validation import Label, Learn, Predict
from ...models.worker import Learner
from ..fast_path import HotRoute
from ..learn import REFUSED
from ..openapi import Operation
from . import schemas

LEARN = Shape(
    {"model": TEXT, "features": FEATURES, "ground_truth": TARGET, "identifier": OPTIONAL_TEXT},
    ("model", "features", "ground_truth"),
    x="features",
    y="ground_truth",
    id="identifier",
)
PREDICT = Shape(
    {"model": TEXT, "features": FEATURES, "identifier": OPTIONAL_TEXT},
    ("model", "features"),
    x="features",
    id="identifier",
)
LABEL = Shape(
    {"model": TEXT, "identifier": TEXT, "label": TARGET},
    ("model", "identifier", "label"),
    y="label",
    id="identifier",
)


@needs("learn", takes=(JSON,))
async def river_learn(scope: Scope, receive: Receive, send: Send) -> None:
    """Learn a sample, as `POST /learn` does.

    The `identifier` of a prediction that waits for its label stands for that: its features are learned, as
    they were, and the prediction is scored. Any other identifier is the `id` of the sample.
    """
    catalog = catalog_of(scope)
    body = await _read(scope, receive, LEARN, catalog)
    learner = catalog.get(body["model"])
    await _learn(learner, body["features"], body["ground_truth"], body.get("identifier"))
    await respond(send, "Successful learn.", 201)


async def _learn(learner: Learner, x: Any, y: Any, identifier: str | None) -> Answer:
    if identifier is not None:
        try:
            return await learner.learn(Label(identifier, y))
        except errors.UnknownIdError:
            pass  # no prediction waits under it: it is the sample's own
    return await learner.learn(Learn(x, y, id=identifier))


@needs("predict", takes=(JSON,))
async def river_predict(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict a sample, and keep the prediction for its label, as `POST /predict` does with an `id`."""
    catalog = catalog_of(scope)
    body = await _read(scope, receive, PREDICT, catalog)
    learner, identifier = catalog.get(body["model"]), body.get("identifier")
    if identifier is None:
        identifier = str(uuid.uuid4())
    given = await learner.learn(Predict(body["features"], identifier))
    prediction = given.get("probabilities", given["prediction"])
    await respond(
        send, {"model": learner.model.name, "prediction": prediction, "identifier": identifier}, 201
    )


@needs("learn", takes=(JSON,))
async def river_label(scope: Scope, receive: Receive, send: Send) -> None:
    """Learn the label of an earlier prediction, as `POST /label` does."""
    catalog = catalog_of(scope)
    body = await _read(scope, receive, LABEL, catalog)
    await catalog.get(body["model"]).learn(Label(body["identifier"], body["label"]))
    await respond(send, "Successful label.")


async def _read(scope: Scope, receive: Receive, shape: Shape, catalog: Models) -> dict[str, Any]:
    raw = await read_body(scope, receive, catalog.settings.max_body_bytes)
    return read_fields(raw, shape, catalog.settings)


_SHARED = (*REFUSED, errors.AlreadyLabelledError)
_TAG = "River API Spec"
ROUTES = [
    HotRoute(
        "/api/learn/",
        river_learn,
        Operation(
            "Learn one sample (River)",
            _TAG,
            schemas.RiverLearnBody,
            schemas.RiverDone,
            (*_SHARED, errors.TooManyFeaturesError, errors.IdConflictError, errors.ForgottenIdError),
            status=201,
        ),
    ),
    HotRoute(
        "/api/predict/",
        river_predict,
        Operation(
            "Predict one sample (River)",
            _TAG,
            schemas.RiverPredictBody,
            schemas.RiverPrediction,
            (*_SHARED, errors.TooManyFeaturesError, errors.IdConflictError),
            status=201,
        ),
    ),
    HotRoute(
        "/api/label/",
        river_label,
        Operation(
            "Label an earlier prediction (River)",
            _TAG,
            schemas.RiverLabelBody,
            schemas.RiverDone,
            (*_SHARED, errors.UnknownIdError),
        ),
    ),
]
