"""Exceptions of the client.

::

    ClientError
    ├── NoAnswerError             no answer within `patience`
    ├── UnexpectedAnswerError     an answer that is not from this server
    ├── SharedModelError          a clone of an estimator that would learn into the same model
    └── ServerError               a refused request: status, code, message, field
        ├── InvalidRequestError       an invalid request (400, 405, 408, 413, 415, 422)
        │   ├── InvalidSampleError        an invalid sample (also a `bnp_online.SampleError`)
        │   ├── InvalidSpecError          an invalid specification of a model
        │   └── InvalidFileError          a file that is not a model
        ├── AccessError               (401, 403)
        │   ├── UnauthorizedError         a missing, unknown or expired key
        │   └── ForbiddenError            a key without the scope, or for other models
        ├── NotFoundError             (404, 410)
        │   ├── UnknownModelError
        │   ├── UnknownIdError
        │   ├── UnknownCheckpointError
        │   ├── UnknownShadowError
        │   └── NotKeptError              a state before the oldest one that is kept
        ├── ConflictError             (409)
        │   ├── ModelExistsError
        │   ├── ShadowExistsError
        │   ├── AlreadyLabelledError
        │   ├── IdConflictError           an id that another sample has
        │   └── IdForgottenError          an id whose sample was unlearned
        └── UnavailableError          the server cannot process it now (421, 429, 503)
            ├── QueueFullError
            ├── WrongNodeError            a model of another node, which does not answer for it
            └── StorageError

The class follows from the ``code`` in the response; a code that this version does not know, from the status.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import SampleError


class ClientError(Exception):
    """Base of the exceptions of the client."""


class NoAnswerError(ClientError):
    """No answer within `patience`; whether the server processed the request is unknown."""


class UnexpectedAnswerError(ClientError):
    """Answer that is not one of this server's API."""


class SharedModelError(ClientError):
    """Clone or copy of an estimator with a given model: both would learn into that model."""


class ServerError(ClientError):
    """Request that the server refused, or that the client did not send; it changed nothing.

    Attributes
    ----------
    status : int
        HTTP status; 0 for a line of a stream, and for a sample that the client did not send.
    code : str
        Error code, for programs.
    message : str
        Reason and remedy.
    field : str or None
        Invalid part of the request.
    row : int or None
        Number of the sample, from 0, in a call with many samples.
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, row: int | None = None
    ) -> None:
        Exception.__init__(self, status, code, message, field, row)  # `SampleError` has other arguments
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.row = row

    def __str__(self) -> str:
        return self.message if self.row is None else f"row {self.row}: {self.message}"


class InvalidRequestError(ServerError):
    """Invalid or too large request."""


class InvalidSampleError(InvalidRequestError, SampleError):
    """Invalid sample: the server refused it, or the client did not send it."""

    field: str
    row: int | None


class InvalidSpecError(InvalidRequestError):
    """Invalid specification of a model, or invalid change of it."""


class InvalidFileError(InvalidRequestError):
    """File that is not a model, or is damaged."""


class AccessError(ServerError):
    """Access denied."""


class UnauthorizedError(AccessError):
    """Missing, unknown or expired key."""


class ForbiddenError(AccessError):
    """Key without the scope, or for other models."""


class NotFoundError(ServerError):
    """Unknown object."""


class UnknownModelError(NotFoundError):
    """Unknown model."""


class UnknownIdError(NotFoundError):
    """Unknown id of a prediction or sample."""


class UnknownCheckpointError(NotFoundError):
    """Unknown step or checkpoint."""


class UnknownShadowError(NotFoundError):
    """Unknown shadow of a model."""


class NotKeptError(NotFoundError):
    """State before the oldest one that is kept."""


class ConflictError(ServerError):
    """Conflict with the state of the server."""


class ModelExistsError(ConflictError):
    """Name of an existing model."""


class ShadowExistsError(ConflictError):
    """Name of an existing shadow, or of the champion."""


class AlreadyLabelledError(ConflictError):
    """Second label for a prediction; an earlier attempt with a lost response may have sent the first."""


class IdConflictError(ConflictError):
    """Id that another sample has."""


class IdForgottenError(ConflictError):
    """Id whose sample was unlearned."""


class UnavailableError(ServerError):
    """Server that cannot process the request now."""


class QueueFullError(UnavailableError):
    """Full queue of the model."""


class WrongNodeError(UnavailableError):
    """Model of another node of the cluster, whose address is unknown, or which does not own it either."""


class StorageError(UnavailableError):
    """Full or failing disk of the server."""


#: Codes of each class, separated by spaces.
_CODES: dict[type[ServerError], str] = {
    InvalidRequestError: (
        "invalid_json duplicate_key client_disconnected body_timeout stream_timeout body_too_large "
        "unsupported_media_type unsupported_encoding invalid_encoding method_not_allowed invalid_request "
        "invalid_table invalid_type missing_field unknown_field invalid_id"
    ),
    InvalidSampleError: (
        "invalid_feature non_finite_feature wrong_shape invalid_label non_finite_label label_type "
        "too_many_classes too_many_features string_too_long invalid_weight invalid_level non_finite_state "
        "unknown_class invalid_row"
    ),
    InvalidSpecError: "invalid_spec unsupported_layer",
    InvalidFileError: "invalid_checkpoint invalid_state",
    AccessError: "unknown_host foreign_origin",
    UnauthorizedError: "unauthorized",
    ForbiddenError: "forbidden",
    NotFoundError: "not_found unknown_source",
    UnknownModelError: "unknown_model",
    UnknownIdError: "unknown_id",
    UnknownCheckpointError: "unknown_checkpoint",
    UnknownShadowError: "unknown_shadow",
    NotKeptError: "not_kept",
    ConflictError: "too_many_models rebuilding log_gap too_many_shadows shadow_failed",
    ModelExistsError: "model_exists",
    ShadowExistsError: "shadow_exists",
    AlreadyLabelledError: "already_labelled",
    IdConflictError: "id_conflict",
    IdForgottenError: "id_forgotten",
    UnavailableError: (
        "model_failed shutting_down too_many_connections not_ready out_of_descriptors not_there_yet "
        "too_stale position_moved device_memory_full device_failed"
    ),
    WrongNodeError: "wrong_node",
    QueueFullError: "queue_full",
    StorageError: "storage_full storage_failed outcome_unknown not_owner",
}
_STATUSES: dict[type[ServerError], tuple[int, ...]] = {
    InvalidRequestError: (400, 405, 408, 413, 415, 422),
    AccessError: (401, 403),
    NotFoundError: (404, 410),
    ConflictError: (409,),
    WrongNodeError: (421,),
    UnavailableError: (429, 502, 503, 504),
}
_BY_CODE = {code: cls for cls, codes in _CODES.items() for code in codes.split()}
_BY_STATUS = {status: cls for cls, statuses in _STATUSES.items() for status in statuses}


def server_error(status: int, body: Any) -> ServerError:
    """Return the error in the body of a response.

    Raises
    ------
    UnexpectedAnswerError
        If the body is not an error of this API.

    Examples
    --------
    >>> server_error(429, {"error": {"code": "queue_full", "message": "later", "field": None}})
    QueueFullError(429, 'queue_full', 'later', None, None)
    """
    try:
        code, message = str(body["error"]["code"]), str(body["error"]["message"])
        field = body["error"].get("field")
    except (TypeError, KeyError, AttributeError):
        raise UnexpectedAnswerError(f"the answer with status {status} is not one of this API") from None
    cls = _BY_CODE.get(code) or _BY_STATUS.get(status, ServerError)
    return cls(status, code, message, field)


@contextmanager
def unsendable() -> Iterator[None]:
    """Raise the `SampleError` of the block as an `InvalidSampleError`."""
    try:
        yield
    except SampleError as error:
        message = f"{error.field}: {error.message}"
        raise InvalidSampleError(0, error.code, message, error.field, error.row) from None
