"""Predicting, which changes no model."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

import bnp_online.errors as library
from service import errors, schemas
from service.admission import Predict
from service.catalog import catalog_of
from service.hot import HotRoute
from service.openapi import Operation
from service.wire import PREDICT, read_checked, respond


async def predict(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict a sample; with an `id` the prediction is kept for its label.

    The same `id` with the same `x` again answers the prediction that is kept, not a new one.
    """
    catalog = catalog_of(scope)
    body = await read_checked(scope, receive, PREDICT, catalog.settings)
    learner = catalog.get(body.get("model"))
    x, identifier = body["x"], body.get("id")
    if identifier is not None:
        await respond(send, await learner.learn(Predict(x, identifier)))
    else:
        await respond(send, await learner.ask(lambda model: model.predict(x)))


ROUTES = [
    HotRoute(
        "/predict",
        predict,
        Operation(
            "Predict one sample",
            "predicting",
            schemas.PredictBody,
            schemas.PredictAnswer,
            (
                errors.InvalidJsonError,
                errors.DuplicateKeyError,
                errors.UnknownModelError,
                errors.IdConflictError,
                errors.AlreadyLabelledError,
                errors.BodyTooLargeError,
                errors.InvalidTypeError,
                errors.MissingFieldError,
                errors.UnknownFieldError,
                errors.InvalidIdError,
                errors.TooManyFeaturesError,
                library.SampleError,
                library.NonFiniteStateError,
                errors.QueueFullError,
                errors.ModelFailedError,
            ),
        ),
    ),
]
