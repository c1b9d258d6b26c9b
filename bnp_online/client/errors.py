"""What a client raises.

::

    ClientError
    ├── NoAnswerError             no server answers, or not in time, and patience is at its end
    ├── UnexpectedAnswerError     what answers is not this server
    └── ServerError               the server refused, and changed nothing: status, code, message, field
        ├── InvalidRequestError       a request that it does not understand (400, 408, 413, 415, 422, and 405)
        │   ├── InvalidSampleError        a sample that cannot be learned or predicted
        │   ├── InvalidSpecError          a model that cannot be made
        │   └── InvalidFileError          a file that is no model
        ├── AccessError               (401, 403)
        │   ├── UnauthorizedError         no key, or one that is unknown or has expired
        │   └── ForbiddenError            the key does not allow it
        ├── NotFoundError             (404, 410)
        │   ├── UnknownModelError
        │   ├── UnknownIdError
        │   ├── UnknownCheckpointError
        │   └── NotKeptError              it lies further back than what is kept
        ├── ConflictError             (409)
        │   ├── ModelExistsError
        │   ├── AlreadyLabelledError
        │   ├── IdConflictError           the id was used with another sample
        │   └── IdForgottenError          the sample of the id was unlearned
        └── UnavailableError          it cannot just now, and patience is at its end (429, 503)
            ├── QueueFullError
            └── StorageError

The class follows from the server's code, `service.errors.TABLE`; a later server's new code gets that of its
status.
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base of every error that a client raises on purpose."""


class NoAnswerError(ClientError):
    """No server answers, or not in time, and patience is at its end; whether it did anything is unknown."""


class UnexpectedAnswerError(ClientError):
    """What answers is not this server: its answer cannot be read."""


class ServerError(ClientError):
    """The server refused a request, which changed nothing.

    Attributes
    ----------
    status : int
        HTTP status; 0 for a line of a stream, which has none.
    code : str
        The server's word for programs.
    message : str
        What is wrong and what to do.
    field : str or None
        The part of the request at fault.
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(status, code, message, field)
        self.status = status
        self.code = code
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


class InvalidRequestError(ServerError):
    """A request that the server does not understand, or that is too large."""


class InvalidSampleError(InvalidRequestError):
    """A sample that cannot be learned or predicted."""


class InvalidSpecError(InvalidRequestError):
    """A model that cannot be made, or changed in this way."""


class InvalidFileError(InvalidRequestError):
    """A file that is no model, or is damaged."""


class AccessError(ServerError):
    """The server does not let this client do that."""


class UnauthorizedError(AccessError):
    """There is no key, or it is unknown or has expired."""


class ForbiddenError(AccessError):
    """The key does not allow it."""


class NotFoundError(ServerError):
    """There is no such thing."""


class UnknownModelError(NotFoundError):
    """There is no model of this name."""


class UnknownIdError(NotFoundError):
    """No prediction waits for its label under this id, or no sample has it."""


class UnknownCheckpointError(NotFoundError):
    """There is no such step or checkpoint to go back to."""


class NotKeptError(NotFoundError):
    """What is asked for lies further back than what is kept."""


class ConflictError(ServerError):
    """It does not go with what is there."""


class ModelExistsError(ConflictError):
    """A model of this name is there."""


class AlreadyLabelledError(ConflictError):
    """The prediction under this id has had its label: from an attempt whose answer was lost, it may be."""


class IdConflictError(ConflictError):
    """The id was used with another sample."""


class IdForgottenError(ConflictError):
    """The sample of this id was unlearned."""


class UnavailableError(ServerError):
    """The server cannot do it just now, and patience is at its end."""


class QueueFullError(UnavailableError):
    """As many requests wait for the model as may."""


class StorageError(UnavailableError):
    """The server's disk is full, or fails."""


_CODES: dict[type[ServerError], tuple[str, ...]] = {
    InvalidRequestError: (
        "invalid_json",
        "duplicate_key",
        "client_disconnected",
        "body_timeout",
        "stream_timeout",
        "body_too_large",
        "unsupported_media_type",
        "method_not_allowed",
        "invalid_request",
        "invalid_type",
        "missing_field",
        "unknown_field",
        "invalid_id",
    ),
    InvalidSampleError: (
        "invalid_feature",
        "non_finite_feature",
        "wrong_shape",
        "invalid_label",
        "non_finite_label",
        "label_type",
        "too_many_classes",
        "too_many_features",
        "string_too_long",
        "invalid_weight",
        "non_finite_state",
    ),
    InvalidSpecError: ("invalid_spec", "unsupported_layer"),
    InvalidFileError: ("invalid_checkpoint", "invalid_state"),
    AccessError: ("unknown_host", "foreign_origin"),
    UnauthorizedError: ("unauthorized",),
    ForbiddenError: ("forbidden",),
    NotFoundError: ("not_found",),
    UnknownModelError: ("unknown_model",),
    UnknownIdError: ("unknown_id",),
    UnknownCheckpointError: ("unknown_checkpoint",),
    NotKeptError: ("not_kept",),
    ConflictError: ("too_many_models", "rebuilding"),
    ModelExistsError: ("model_exists",),
    AlreadyLabelledError: ("already_labelled",),
    IdConflictError: ("id_conflict",),
    IdForgottenError: ("id_forgotten",),
    UnavailableError: ("model_failed", "shutting_down", "too_many_connections", "not_ready"),
    QueueFullError: ("queue_full",),
    StorageError: ("storage_full", "storage_failed"),
}
_STATUSES: dict[type[ServerError], tuple[int, ...]] = {
    InvalidRequestError: (400, 405, 408, 413, 415, 422),
    AccessError: (401, 403),
    NotFoundError: (404, 410),
    ConflictError: (409,),
    UnavailableError: (429, 502, 503, 504),
}
_BY_CODE = {code: cls for cls, codes in _CODES.items() for code in codes}
_BY_STATUS = {status: cls for cls, statuses in _STATUSES.items() for status in statuses}


def server_error(status: int, body: Any) -> ServerError:
    """Return the error that a server's body of an error stands for.

    Raises
    ------
    UnexpectedAnswerError
        If it is none.

    Examples
    --------
    >>> server_error(429, {"error": {"code": "queue_full", "message": "later", "field": None}})
    QueueFullError(429, 'queue_full', 'later', None)
    """
    try:
        code, message = str(body["error"]["code"]), str(body["error"]["message"])
        field = body["error"].get("field")
    except (TypeError, KeyError, AttributeError):
        raise UnexpectedAnswerError(f"status {status} and a body that is none of this server's") from None
    cls = _BY_CODE.get(code) or _BY_STATUS.get(status, ServerError)
    return cls(status, code, message, field)
