"""Predicting, which changes no model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

from starlette.types import Receive, Scope, Send

import bnp_online.errors as library
from service import errors, schemas
from service.access import JSON, NDJSON, needs
from service.admission import Predict
from service.catalog import catalog_of
from service.hot import HotRoute
from service.jobs import Outcomes
from service.learner import Learner, Read
from service.openapi import Operation
from service.streams import LineStream, is_ndjson
from service.wire import PREDICT, check, decode, read_body, respond


@needs("predict", takes=(JSON, NDJSON))
async def predict(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict a sample; with an `id` the prediction is kept for its label.

    The same `id` with the same `x` again answers the prediction that is kept, not a new one. As
    `application/x-ndjson` it takes a sample a line and answers a line for each; see `POST /learn`.
    """
    catalog = catalog_of(scope)
    settings = catalog.settings

    def take(raw: bytes) -> tuple[Learner, Read | Predict]:
        body = check(decode(raw), PREDICT, settings)
        x, identifier = body["x"], body.get("id")
        what = Predict(x, identifier) if identifier is not None else lambda model: model.predict(x)
        return catalog.get(body.get("model")), what

    if is_ndjson(scope):
        await LineStream(scope, receive, send, settings, take, _queue).run()
    else:
        learner, what = take(await read_body(scope, receive, settings.max_body_bytes))
        await respond(send, await (learner.learn(what) if isinstance(what, Predict) else learner.ask(what)))


async def _queue(learner: Learner, items: Sequence[Read | Predict]) -> tuple[int, Outcomes]:
    """Queue the first items that are of one kind: what is kept for its label is logged, the rest is not."""
    kept, read = (list(itertools.takewhile(is_one, items)) for is_one in (_is_kept, _is_read))
    if kept:
        return await learner.queue_samples(cast(list[Predict], kept))
    return await learner.queue_reads(cast(list[Read], read))


def _is_kept(item: Read | Predict) -> bool:
    return isinstance(item, Predict)


def _is_read(item: Read | Predict) -> bool:
    return not isinstance(item, Predict)


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
                errors.ShuttingDownError,
                errors.StorageFullError,
                errors.StorageError,
            ),
            lines=True,
        ),
    ),
]
