"""Predicting, which changes no model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

import bnp_online.errors as library

from .. import errors, schemas
from ..auth.scopes import JSON, NDJSON, needs
from ..http.requests import PREDICT, read_body, read_fields, respond
from ..models.queue import Outcomes
from ..models.registry import catalog_of
from ..models.validation import Predict
from ..models.worker import Learner
from .fast_path import HotRoute
from .ndjson import LineStream, is_ndjson
from .openapi import Operation


class Asked(NamedTuple):
    """A sample to predict; with an id the prediction is kept for its label."""

    x: Any
    id: str | None
    interval: float | None


@needs("predict", takes=(JSON, NDJSON))
async def predict(scope: Scope, receive: Receive, send: Send) -> None:
    """Predict a sample; with an `id` the prediction is kept for its label.

    The same `id` with the same `x` again answers the prediction that is kept, not a new one. With an
    `interval`, such as 0.9, a regression that was made with `intervals` answers where the target should be.
    As `application/x-ndjson` it takes a sample a line and answers a line for each; see `POST /learn`.
    """
    catalog = catalog_of(scope)
    settings = catalog.settings

    def take(raw: bytes) -> tuple[Learner, Asked]:
        body = read_fields(raw, PREDICT, settings)
        return catalog.get(body.get("model")), Asked(body["x"], body.get("id"), _level(body))

    if is_ndjson(scope):
        await LineStream(scope, receive, send, settings, catalog.passes, take, _queue).run()
    else:
        learner, (x, identifier, level) = take(await read_body(scope, receive, settings.max_body_bytes))
        await respond(
            send,
            await (
                learner.reads.predict(x, level)
                if identifier is None
                else learner.learn(Predict(x, identifier, level))
            ),
        )


def _level(body: dict[str, Any]) -> float | None:
    """Return the level of the interval that a body asks for."""
    level: float | None = body.get("interval")
    if level is not None and not 0.0 < level < 1.0:
        raise library.SampleError("invalid_level", "interval", f"{level!r:.40} is not between 0 and 1")
    return level


async def _queue(learner: Learner, asked: Sequence[Asked]) -> tuple[int, Outcomes]:
    """Queue the first ones that are of one kind: what is kept for its label is logged, the rest is not."""
    kept, xs = asked[0].id is not None, list[Any]()
    for one in itertools.takewhile(lambda one: (one.id is not None) == kept, asked):
        xs.append((one.x, one.interval) if one.id is None else Predict(one.x, one.id, one.interval))
    return await (learner.queue_samples(xs) if kept else learner.reads.queue(xs))


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
                library.ConfigurationError,
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
