"""Predicting, which changes no model."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

import bnp_online.errors as library
from service import errors, schemas
from service.access import JSON, needs
from service.catalog import catalog_of
from service.openapi import DocumentedRoute, Operation
from service.wire import PREDICT, json_response, read_checked


@needs("predict", takes=(JSON,))
async def predict(request: Request) -> Response:
    """Predict a sample; with an `id` the prediction is kept for its label.

    The same `id` with the same `x` again answers the prediction that is kept, not a new one.
    """
    catalog = catalog_of(request)
    body = await read_checked(request, PREDICT, catalog.settings)
    x, identifier = body["x"], body.get("id")
    return json_response(await catalog.get(body.get("model")).ask(lambda model: model.predict(x, identifier)))


ROUTES = [
    DocumentedRoute(
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
