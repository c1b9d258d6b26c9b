"""Learning: a sample with its label, or the label of an earlier prediction."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

import bnp_online.errors as library
from service import errors, schemas
from service.access import JSON, needs
from service.catalog import catalog_of
from service.hosted import Label, Learn
from service.openapi import DocumentedRoute, Operation
from service.wire import LABEL, LEARN, json_response, read_checked

_SHARED = (
    errors.InvalidJsonError,
    errors.DuplicateKeyError,
    errors.UnknownModelError,
    errors.BodyTooLargeError,
    errors.InvalidTypeError,
    errors.MissingFieldError,
    errors.UnknownFieldError,
    errors.InvalidIdError,
    library.SampleError,
    library.NonFiniteStateError,
    errors.QueueFullError,
    errors.ModelFailedError,
)


@needs("learn", takes=(JSON,))
async def learn(request: Request) -> Response:
    """Predict a sample, score the prediction, learn the sample, and answer once all that is done.

    With an `id` the request is safe to repeat: the same body changes nothing and answers the original step.
    """
    catalog = catalog_of(request)
    body = await read_checked(request, LEARN, catalog.settings)
    learner = catalog.get(body.get("model"))
    weight = 1.0 if body.get("w") is None else body["w"]
    return json_response(await learner.learn(Learn(body["x"], body["y"], weight, body.get("id"))))


@needs("learn", takes=(JSON,))
async def label(request: Request) -> Response:
    """Learn the label of an earlier prediction, which is scored as it was given at the time."""
    catalog = catalog_of(request)
    body = await read_checked(request, LABEL, catalog.settings)
    learner = catalog.get(body.get("model"))
    return json_response(await learner.learn(Label(body["id"], body["y"])))


ROUTES = [
    DocumentedRoute(
        "/learn",
        learn,
        Operation(
            "Learn one sample",
            "learning",
            schemas.LearnBody,
            schemas.LearnAnswer,
            (*_SHARED, errors.TooManyFeaturesError, errors.IdConflictError),
        ),
    ),
    DocumentedRoute(
        "/label",
        label,
        Operation(
            "Label an earlier prediction",
            "learning",
            schemas.LabelBody,
            schemas.LearnAnswer,
            (*_SHARED, errors.UnknownIdError, errors.AlreadyLabelledError),
        ),
    ),
]
