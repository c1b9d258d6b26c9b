"""Learning: a sample with its label, or the label of an earlier prediction."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

import bnp_online.errors as library

from .. import errors, schemas
from ..auth.scopes import JSON, NDJSON, needs
from ..http.requests import LABEL, LEARN, read_body, read_fields, respond
from ..models.registry import catalog_of
from ..models.validation import Label, Learn
from ..models.worker import Learner
from .fast_path import HotRoute
from .ndjson import LineStream, is_ndjson
from .openapi import Operation

#: Why a sample may be refused, whoever sends it.
REFUSED = (
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
    errors.ShuttingDownError,
    errors.StorageFullError,
    errors.StorageError,
)


@needs("learn", takes=(JSON, NDJSON))
async def learn(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict a sample, score the prediction, learn the sample, and answer once all that is done.

    With an `id` the request is safe to repeat: the same body changes nothing and answers the original step.
    As `application/x-ndjson` it takes a sample a line, learns them one at a time in order, and answers a line
    for each, in order, while the body is still coming in. A line that cannot be learned is answered by an
    error with its number (from 1; blank lines count, and have no answer), and learning goes on.
    """
    catalog = catalog_of(scope)
    settings = catalog.settings

    def take(raw: bytes) -> tuple[Learner, Learn]:
        body = read_fields(raw, LEARN, settings)
        weight = body.get("w")
        request = Learn(body["x"], body["y"], 1.0 if weight is None else weight, body.get("id"), raw)
        return catalog.get(body.get("model")), request

    if is_ndjson(scope):
        await LineStream(scope, receive, send, settings, catalog.passes, take, Learner.queue_samples).run()
    else:
        learner, request = take(await read_body(scope, receive, settings.max_body_bytes))
        await respond(send, await learner.learn(request))


@needs("learn", takes=(JSON,))
async def label(scope: Scope, receive: Receive, send: Send) -> None:
    """Learn the label of an earlier prediction, which is scored as it was given at the time."""
    catalog = catalog_of(scope)
    raw = await read_body(scope, receive, catalog.settings.max_body_bytes)
    body = read_fields(raw, LABEL, catalog.settings)
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
            (*REFUSED, errors.TooManyFeaturesError, errors.IdConflictError, errors.ForgottenIdError),
            lines=True,
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
            (*REFUSED, errors.UnknownIdError, errors.AlreadyLabelledError),
        ),
    ),
]
