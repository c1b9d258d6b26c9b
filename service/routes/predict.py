"""Predicting, which changes no model."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

import bnp_online.errors as library
from service import errors, schemas
from service.catalog import catalog_of
from service.hot import HotRoute
from service.learner import Learner, Read
from service.openapi import Operation
from service.streams import LineStream, is_ndjson
from service.wire import PREDICT, check, decode, read_body, respond


async def predict(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict a sample; with an `id` the prediction is kept for its label.

    The same `id` with the same `x` again answers the prediction that is kept, not a new one. As
    `application/x-ndjson` it takes a sample a line and answers a line for each; see `POST /learn`.
    """
    catalog = catalog_of(scope)
    settings = catalog.settings

    def take(raw: bytes) -> tuple[Learner, Read]:
        body = check(decode(raw), PREDICT, settings)
        x, identifier = body["x"], body.get("id")
        return catalog.get(body.get("model")), lambda model: model.predict(x, identifier)

    if is_ndjson(scope):
        await LineStream(scope, receive, send, settings, take, Learner.queue_reads).run()
    else:
        learner, read = take(await read_body(scope, receive, settings.max_body_bytes))
        await respond(send, await learner.ask(read))


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
            lines=True,
        ),
    ),
]
