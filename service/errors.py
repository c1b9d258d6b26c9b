"""Every error that the server answers, and the one table that gives each its status and code.

To add one: a class (here or in the library), and a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import bnp_online.errors as library

_LONGEST = 500  # a field's name comes from the client, and an answer should not grow with it


class RequestError(Exception):
    """A request that cannot be granted; it has changed nothing.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    field : str, optional
        The part of the request at fault.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidJsonError(RequestError):
    """The body is not JSON."""


class DuplicateKeyError(RequestError):
    """An object in the body has a key twice."""


class InvalidTypeError(RequestError):
    """A field, or the body itself, is of another JSON type than it must be."""


class MissingFieldError(RequestError):
    """A field that must be there is not."""


class UnknownFieldError(RequestError):
    """A field has a name that the route does not know."""


class InvalidIdError(RequestError):
    """An id is empty or too long."""


class InvalidSpecError(RequestError):
    """A model cannot be made from this spec."""


class TooManyFeaturesError(RequestError):
    """One sample has more features than the server takes."""


class BodyTooLargeError(RequestError):
    """The body is longer than the server takes."""


class BodyTimeoutError(RequestError):
    """The body did not arrive in time."""


class UnsupportedMediaTypeError(RequestError):
    """The body is of a type that the route does not take."""


class PickledModelError(RequestError):
    """A model came pickled, as the River API Spec has it: to load one is to run whatever is in it."""

    def __init__(self, message: str) -> None:
        super().__init__(
            "a pickled model is never loaded here. Send the spec of a model as JSON with the header "
            'Content-Type: application/json, as in {"hidden": [64, 64], "seed": 7}; /docs lists its fields'
            f" ({message})"
        )


class StringTooLongError(RequestError):
    """A feature's name, a string value, or a label is longer than the server takes."""


class UnauthorizedError(RequestError):
    """The request has no key, or one that is unknown or has expired."""


class ForbiddenError(RequestError):
    """The key does not allow this."""


class UnknownHostError(RequestError):
    """A server without keys was reached under a name that is not its own, as DNS rebinding does."""


class ForeignOriginError(RequestError):
    """A web page of another origin called a server without keys."""


class TooManyConnectionsError(RequestError):
    """As many connections are open as may be."""


class UnknownModelError(RequestError):
    """There is no model of this name, or it was deleted while the request waited."""


class ModelExistsError(RequestError):
    """A model of this name is there."""


class TooManyModelsError(RequestError):
    """The server has as many models as it may."""


class UnknownIdError(RequestError):
    """No prediction waits for its label under this id: never made, expired, or pushed out by newer ones."""


class AlreadyLabelledError(RequestError):
    """The prediction under this id has had its label."""


class IdConflictError(RequestError):
    """The id was used with another body."""


class UnknownCheckpointError(RequestError):
    """There is no such step or checkpoint to go back to."""


class NotKeptError(RequestError):
    """What is asked for lies further back than what is kept."""


class ForgottenIdError(RequestError):
    """The sample of this id was unlearned."""


class RebuildingError(RequestError):
    """The model is being rebuilt without forgotten samples."""


class QueueFullError(RequestError):
    """As many requests wait for the model as may."""


class StreamTimeoutError(RequestError):
    """The client of a stream sent nothing for too long."""


class ModelFailedError(RequestError):
    """The model's writer ended with an error that nobody foresaw; its state is not to be trusted."""


class ShuttingDownError(RequestError):
    """The server is about to end."""


class NotReadyError(RequestError):
    """A model does not answer."""


class StorageError(RequestError):
    """What must be kept before it is done was not kept; nothing was done."""


class StorageFullError(StorageError):
    """There is no room."""


class StorageFailedError(StorageError):
    """The store cannot be read or written."""


class DamagedEventError(Exception):
    """An event of the log is not as it was written.

    Parameters
    ----------
    seq : int
        Its number.
    """

    def __init__(self, seq: int) -> None:
        super().__init__(
            f"event {seq} of the log is damaged. To go on without it, which loses what it taught: "
            f"python -m service.cli.repair --skip {seq}"
        )
        self.seq = seq


REFUSALS = (RequestError, library.SampleError, library.NonFiniteStateError, library.ConfigurationError)
"""What refuses one request and leaves the model as it was; all else that its writer raises ends that."""


@dataclass(frozen=True, slots=True)
class Row:
    """How an error is answered.

    Attributes
    ----------
    status : int
        HTTP status.
    code : str or None
        A word for programs; None where the error carries its own.
    retry_after : int or None
        Seconds after which to try again.
    headers : mapping of str to str
        Further headers.
    """

    status: int
    code: str | None
    retry_after: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


TABLE: dict[type[Exception], Row] = {
    InvalidJsonError: Row(400, "invalid_json"),
    DuplicateKeyError: Row(400, "duplicate_key"),
    PickledModelError: Row(400, "pickled_model"),
    ClientDisconnect: Row(400, "client_disconnected"),
    UnauthorizedError: Row(401, "unauthorized", headers={"www-authenticate": 'Bearer realm="bnp-online"'}),
    ForbiddenError: Row(403, "forbidden"),
    UnknownHostError: Row(403, "unknown_host"),
    ForeignOriginError: Row(403, "foreign_origin"),
    UnknownModelError: Row(404, "unknown_model"),
    UnknownIdError: Row(404, "unknown_id"),
    UnknownCheckpointError: Row(404, "unknown_checkpoint"),
    BodyTimeoutError: Row(408, "body_timeout", headers={"connection": "close"}),
    StreamTimeoutError: Row(408, "stream_timeout"),
    AlreadyLabelledError: Row(409, "already_labelled"),
    IdConflictError: Row(409, "id_conflict"),
    ForgottenIdError: Row(409, "id_forgotten"),
    ModelExistsError: Row(409, "model_exists"),
    RebuildingError: Row(409, "rebuilding", retry_after=1),
    TooManyModelsError: Row(409, "too_many_models"),
    NotKeptError: Row(410, "not_kept"),
    BodyTooLargeError: Row(413, "body_too_large"),
    UnsupportedMediaTypeError: Row(415, "unsupported_media_type"),
    RequestError: Row(422, "invalid_request"),
    RequestValidationError: Row(422, "invalid_request"),
    InvalidTypeError: Row(422, "invalid_type"),
    MissingFieldError: Row(422, "missing_field"),
    UnknownFieldError: Row(422, "unknown_field"),
    InvalidIdError: Row(422, "invalid_id"),
    InvalidSpecError: Row(422, "invalid_spec"),
    TooManyFeaturesError: Row(422, "too_many_features"),
    StringTooLongError: Row(422, "string_too_long"),
    library.SampleError: Row(422, None),
    library.NonFiniteStateError: Row(422, "non_finite_state"),
    library.ConfigurationError: Row(422, "invalid_spec"),
    library.UnsupportedLayerError: Row(422, "unsupported_layer"),
    library.StateError: Row(422, "invalid_state"),
    library.CheckpointError: Row(422, "invalid_checkpoint"),
    QueueFullError: Row(429, "queue_full", retry_after=1),
    library.UnobservedLayerError: Row(500, "internal_error"),
    library.BNPError: Row(500, "internal_error"),
    Exception: Row(500, "internal_error"),
    StorageFullError: Row(503, "storage_full", retry_after=5),
    StorageFailedError: Row(503, "storage_failed", retry_after=5),
    StorageError: Row(503, "storage_failed", retry_after=5),
    ModelFailedError: Row(503, "model_failed", retry_after=30),
    ShuttingDownError: Row(503, "shutting_down", retry_after=5),
    TooManyConnectionsError: Row(503, "too_many_connections", retry_after=1, headers={"connection": "close"}),
    NotReadyError: Row(503, "not_ready", retry_after=1),
}

HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
"""Codes of the errors that the framework raises by status alone."""


def row(error: type[Exception]) -> Row:
    """Return the row of an error's class, or of the nearest class above it.

    Examples
    --------
    >>> row(QueueFullError).status
    429
    """
    return next(TABLE[cls] for cls in error.__mro__ if cls in TABLE)


def code_of(error: Exception) -> str:
    """Return the word for programs that an error is answered with.

    Examples
    --------
    >>> code_of(library.SampleError("non_finite_feature", "x.a", "is not finite"))
    'non_finite_feature'
    """
    return error.code if isinstance(error, library.SampleError) else str(row(type(error)).code)


def envelope(error: Exception) -> tuple[int, dict[str, dict[str, object]], dict[str, str]]:
    """Return the status, body and headers that answer an error.

    Examples
    --------
    >>> envelope(UnknownIdError("no such id", "id"))
    (404, {'error': {'code': 'unknown_id', 'message': 'no such id', 'field': 'id'}}, {})
    """
    if isinstance(error, HTTPException):
        code = HTTP_CODES.get(error.status_code, "http_error")
        return error.status_code, _body(code, str(error.detail), None), dict(error.headers or {})
    if isinstance(error, RequestValidationError):  # of a parameter in the path or the query
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][1:]))
        error = RequestError(f"{field}: {first['msg']}", field)
    found, code = row(type(error)), code_of(error)
    headers = dict(found.headers)
    if found.retry_after is not None:
        headers["retry-after"] = str(found.retry_after)
    # What an unforeseen error says is for the log, not for strangers.
    message = "the server failed; its log says why" if found.status == 500 else str(error)
    return found.status, _body(code, message, getattr(error, "field", None)), headers


def _body(code: str, message: str, field: str | None) -> dict[str, dict[str, object]]:
    return {"error": {"code": code, "message": message[:_LONGEST], "field": field and field[:_LONGEST]}}
