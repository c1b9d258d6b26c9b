"""Learning: a sample with its label, or the label of an earlier prediction."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

import bnp_online.errors as library
from service import errors, schemas
from service.admission import Label, Learn
from service.catalog import catalog_of
from service.hot import HotRoute
from service.openapi import Operation
from service.wire import LABEL, LEARN, read_checked, respond

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


async def learn(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict a sample, score the prediction, learn the sample, and answer once all that is done.

    With an `id` the request is safe to repeat: the same body changes nothing and answers the original step.
    """
    catalog = catalog_of(scope)
    body = await read_checked(scope, receive, LEARN, catalog.settings)
    learner = catalog.get(body.get("model"))
    weight = 1.0 if body.get("w") is None else body["w"]
    await respond(send, await learner.learn(Learn(body["x"], body["y"], weight, body.get("id"))))


async def label(scope: Scope, receive: Receive, send: Send) -> None:
    """Learn the label of an earlier prediction, which is scored as it was given at the time."""
    catalog = catalog_of(scope)
    body = await read_checked(scope, receive, LABEL, catalog.settings)
    learner = catalog.get(body.get("model"))
    await respond(send, await learner.learn(Label(body["id"], body["y"])))


ROUTES = [
    HotRoute(
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
    HotRoute(
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
