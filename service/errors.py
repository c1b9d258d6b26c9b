"""Errors of the server: their HTTP status and code, and the layer of a request that raises each.

A new error needs a class (here or in the library), a row in `TABLE`, and a place in `Layer`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect

import bnp_online.errors as library

OWNER = "BNP-Owner"
"""Header of a response with the address of the process that owns the model."""


class RequestError(Exception):
    """A request that was refused and changed nothing.

    Parameters
    ----------
    message : str
        What is wrong and how to correct it.
    field : str, optional
        The part of the request at fault.

    Attributes
    ----------
    headers : mapping of str to str
        Headers of the response, beside those of the class in `TABLE`.
    """

    headers: Mapping[str, str] = {}

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidJsonError(RequestError):
    """The body is not JSON."""


class DuplicateKeyError(RequestError):
    """An object in the body contains the same key twice."""


class InvalidTableError(RequestError):
    """The header of a table, or its schema, is invalid: no row was processed."""


class InvalidRowError(RequestError):
    """A row of a table is no sample."""


class InvalidTypeError(RequestError):
    """The body or one of its fields has the wrong JSON type."""


class MissingFieldError(RequestError):
    """A required field is missing."""


class UnknownFieldError(RequestError):
    """The body has a field, or the query a parameter, that the route does not define."""


class InvalidIdError(RequestError):
    """An id is empty or too long."""


class InvalidSpecError(RequestError):
    """The model specification, or another JSON body of an administrative route, is invalid."""


class TooManyFeaturesError(RequestError):
    """A sample has more features than the server allows."""


class BodyTooLargeError(RequestError):
    """The body is larger than the server allows."""


class BodyTimeoutError(RequestError):
    """The body did not arrive within the time limit."""


class UnsupportedMediaTypeError(RequestError):
    """The route does not accept the media type of the body."""


class UnsupportedEncodingError(RequestError):
    """The body is compressed with another method than gzip."""


class InvalidEncodingError(RequestError):
    """The body is not valid gzip, or is incomplete."""


class PickledModelError(RequestError):
    """A pickled model, as the River API Spec sends it: unpickling would execute code of the client."""

    def __init__(self, message: str) -> None:
        super().__init__(
            "pickled models are not accepted. Send a model specification as JSON with the header "
            'Content-Type: application/json, as in {"hidden": [64, 64], "seed": 7}; /docs lists its fields'
            f" ({message})"
        )


class StringTooLongError(RequestError):
    """A feature name, a string value or a label is longer than the server allows."""


class UnauthorizedError(RequestError):
    """The request has no API key, or its key is unknown or expired."""


class ForbiddenError(RequestError):
    """The API key does not permit this request."""


class UnknownHostError(RequestError):
    """The Host header does not name this machine, and the server has no API keys (DNS rebinding)."""


class ForeignOriginError(RequestError):
    """A web page of another origin sent the request, and the server has no API keys."""


class TooManyConnectionsError(RequestError):
    """The maximum number of connections is open."""


class OutOfDescriptorsError(RequestError):
    """The server, or its machine, has reached its limit of open files."""


class UnknownModelError(RequestError):
    """No model has this name, or it was deleted while the request waited."""


class ModelExistsError(RequestError):
    """A model with this name exists."""


class TooManyModelsError(RequestError):
    """The maximum number of models exists."""


class UnknownShadowError(RequestError):
    """The model has no shadow with this name."""


class ShadowExistsError(RequestError):
    """The model has a shadow with this name, or its champion has it."""


class ShadowFailedError(RequestError):
    """The shadow no longer learns, so that it cannot be promoted."""


class TooManyShadowsError(RequestError):
    """The model has the maximum number of shadows."""


class UnknownIdError(RequestError):
    """No pending prediction has this id: it was never made, it expired, or newer predictions replaced it."""


class AlreadyLabelledError(RequestError):
    """The prediction with this id already has its label."""


class IdConflictError(RequestError):
    """The id was already used with another body."""


class UnknownCheckpointError(RequestError):
    """The step or the checkpoint is not available."""


class NotKeptError(RequestError):
    """The requested part of the history is no longer kept."""


class ForgottenIdError(RequestError):
    """The sample with this id was unlearned."""


class RebuildingError(RequestError):
    """The model is being rebuilt without forgotten samples."""


class QueueFullError(RequestError):
    """The queue of the model is full."""


class BatchRefusedError(RequestError):
    """A message is not learned yet, since another one of its batch is refused."""


class StreamTimeoutError(RequestError):
    """The client of a stream sent nothing within the time limit."""


class ModelFailedError(RequestError):
    """The writer of the model ended with an unexpected error: its state may be inconsistent."""


class DeviceFailedError(RequestError):
    """The GPU of a model failed: the server ends, and continues from the log after its next start."""


class ShuttingDownError(RequestError):
    """The server is shutting down."""


class NotReadyError(RequestError):
    """A model or the event log does not answer."""


class WrongNodeError(RequestError):
    """Another process of the cluster owns the model; the header `BNP-Owner` has its address.

    Parameters
    ----------
    model : str
        Name of the model.
    node : str
        Name of the owner.
    address : str or None
        URL of the owner; None if it has none (`BNP_ADDRESS`).
    """

    def __init__(self, model: str, node: str, address: str | None) -> None:
        where = f"send the request to {address}" if address else "BNP_ADDRESS of that node is not set"
        super().__init__(f"node {node!r} owns the model {model!r:.80}: {where}", "model")
        self.headers = {} if address is None else {OWNER: address}


class NotThereYetError(RequestError):
    """The model has not yet learned the step that the header `BNP-Min-Step` requires."""


class TooStaleError(RequestError):
    """The replica lags behind the log by more than `BNP_MAX_STALENESS`."""


class NotInMemoryError(NotReadyError):
    """The model was removed from memory since the request found it."""


class StorageError(RequestError):
    """The event log or a checkpoint could not be written or read; the request changed nothing."""


class StorageFullError(StorageError):
    """The disk is full."""


class StorageFailedError(StorageError):
    """The storage cannot be read or written."""


class IncompleteLogError(StorageFailedError):
    """The event log lacks events that are known to exist, or cannot be read at all."""


class OutcomeUnknownError(StorageError):
    """The connection to the log was lost during a commit, and whether the log has the events is unknown."""


class LogGapError(RequestError):
    """Messages of a topic were removed before they were learned."""


class UnknownSourceError(RequestError):
    """The model does not learn from such a partition."""


class PositionMovedError(StorageError):
    """The stored position of a partition is not the expected one: another consumer has moved it.

    Parameters
    ----------
    groups : sequence of int
        Indices of the groups that expected other positions. No group was written.
    """

    def __init__(self, groups: Sequence[int] = ()) -> None:
        super().__init__(
            "another consumer has moved the position of the partition: its messages are not learned"
        )
        self.groups = groups


class NotOwnerError(StorageFailedError):
    """Another process may own the shard of the model: this one does not."""


class OwnershipLostError(NotOwnerError):
    """Writes to the log by a process that must end: it continues from the log after a start."""


class FencedError(OwnershipLostError):
    """Another process has claimed a shard that this one owned."""


class LogWentBackError(OwnershipLostError):
    """The log lacks events that this process committed, for example after a change to another server."""


class LogAheadError(OwnershipLostError):
    """The log has events that this process has not applied: a commit whose outcome was unknown succeeded."""


class DamagedEventError(Exception):
    """A damaged event in the log, or a run of which no event can be read.

    Parameters
    ----------
    model, seq : int
        Number of the model, and number of the event or of the last one.
    first : int, optional
        Number of the first event, if several are damaged.
    """

    def __init__(self, model: int, seq: int, first: int | None = None) -> None:
        which = f"event {seq} of model {model} in the log is damaged. To continue without it"
        if first is not None:
            which = (
                f"events {first} to {seq} of model {model} in the log are damaged. To continue without them"
            )
        super().__init__(
            f"{which} and lose what the model learned from it: bnp-online repair --skip {model}:{seq}"
        )
        self.model, self.seq = model, seq


REFUSALS = (
    RequestError,
    library.SampleError,
    library.NonFiniteStateError,
    library.ConfigurationError,
    library.DeviceMemoryError,
)
"""Errors that refuse one request and leave the model unchanged; any other error ends the writer."""


@dataclass(frozen=True, slots=True)
class Row:
    """HTTP response of an error class.

    Attributes
    ----------
    status : int
        HTTP status.
    code : str or None
        Error code, for programs; None where the exception carries its own.
    retry_after : int or None
        Seconds after which the client may retry.
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
    InvalidEncodingError: Row(400, "invalid_encoding"),
    PickledModelError: Row(400, "pickled_model"),
    ClientDisconnect: Row(400, "client_disconnected"),
    UnauthorizedError: Row(401, "unauthorized", headers={"www-authenticate": 'Bearer realm="bnp-online"'}),
    ForbiddenError: Row(403, "forbidden"),
    UnknownHostError: Row(403, "unknown_host"),
    ForeignOriginError: Row(403, "foreign_origin"),
    UnknownModelError: Row(404, "unknown_model"),
    UnknownIdError: Row(404, "unknown_id"),
    UnknownCheckpointError: Row(404, "unknown_checkpoint"),
    UnknownShadowError: Row(404, "unknown_shadow"),
    BodyTimeoutError: Row(408, "body_timeout", headers={"connection": "close"}),
    StreamTimeoutError: Row(408, "stream_timeout"),
    AlreadyLabelledError: Row(409, "already_labelled"),
    IdConflictError: Row(409, "id_conflict"),
    ForgottenIdError: Row(409, "id_forgotten"),
    ModelExistsError: Row(409, "model_exists"),
    RebuildingError: Row(409, "rebuilding", retry_after=1),
    TooManyModelsError: Row(409, "too_many_models"),
    ShadowExistsError: Row(409, "shadow_exists"),
    ShadowFailedError: Row(409, "shadow_failed"),
    TooManyShadowsError: Row(409, "too_many_shadows"),
    UnknownSourceError: Row(404, "unknown_source"),
    LogGapError: Row(409, "log_gap"),
    BatchRefusedError: Row(422, "batch_refused"),
    NotKeptError: Row(410, "not_kept"),
    BodyTooLargeError: Row(413, "body_too_large"),
    UnsupportedMediaTypeError: Row(415, "unsupported_media_type"),
    # RFC 9110, section 12.5.3: the encodings that a server accepts.
    UnsupportedEncodingError: Row(415, "unsupported_encoding", headers={"accept-encoding": "gzip"}),
    WrongNodeError: Row(421, "wrong_node"),
    RequestError: Row(422, "invalid_request"),
    RequestValidationError: Row(422, "invalid_request"),
    InvalidTableError: Row(422, "invalid_table"),
    InvalidRowError: Row(422, "invalid_row"),
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
    library.BackboneError: Row(422, "invalid_spec"),
    library.UnsupportedLayerError: Row(422, "unsupported_layer"),
    library.StateError: Row(422, "invalid_state"),
    library.CheckpointError: Row(422, "invalid_checkpoint"),
    QueueFullError: Row(429, "queue_full", retry_after=1),
    library.UnobservedLayerError: Row(500, "internal_error"),
    library.BNPError: Row(500, "internal_error"),
    Exception: Row(500, "internal_error"),
    StorageFullError: Row(503, "storage_full", retry_after=5),
    StorageFailedError: Row(503, "storage_failed", retry_after=5),
    IncompleteLogError: Row(503, "storage_failed", retry_after=5),
    StorageError: Row(503, "storage_failed", retry_after=5),
    OutcomeUnknownError: Row(503, "outcome_unknown", retry_after=5),
    PositionMovedError: Row(503, "position_moved", retry_after=1),
    NotOwnerError: Row(503, "not_owner", retry_after=1),
    OwnershipLostError: Row(503, "not_owner", retry_after=1),
    FencedError: Row(503, "not_owner", retry_after=1),
    LogWentBackError: Row(503, "not_owner", retry_after=1),
    LogAheadError: Row(503, "not_owner", retry_after=1),
    ModelFailedError: Row(503, "model_failed", retry_after=30),
    library.DeviceMemoryError: Row(503, "device_memory_full", retry_after=5),
    library.DeviceLostError: Row(503, "device_failed", retry_after=5),
    DeviceFailedError: Row(503, "device_failed", retry_after=5),
    ShuttingDownError: Row(503, "shutting_down", retry_after=5),
    TooManyConnectionsError: Row(503, "too_many_connections", retry_after=1, headers={"connection": "close"}),
    NotReadyError: Row(503, "not_ready", retry_after=1),
    NotThereYetError: Row(503, "not_there_yet", retry_after=1),
    TooStaleError: Row(503, "too_stale", retry_after=1),
    NotInMemoryError: Row(503, "not_ready", retry_after=1),
    OutOfDescriptorsError: Row(503, "out_of_descriptors", retry_after=1),
}


class Layer(Enum):
    """A layer that a request passes through, with the errors that it may raise.

    The OpenAPI document lists the errors of a route from its layers (`service.api.openapi`).
    """

    HOST = (UnknownHostError, ForeignOriginError)
    KEY = (UnauthorizedError, ForbiddenError)
    #: Parameters of the query.
    QUERY = (UnknownFieldError, RequestError)
    BODY = (BodyTimeoutError, BodyTooLargeError, UnsupportedEncodingError, InvalidEncodingError)
    JSON = (InvalidJsonError, DuplicateKeyError)
    FORM = (DuplicateKeyError, MissingFieldError, UnknownFieldError)
    TABLE = (RequestError, InvalidTableError, InvalidRowError)
    FIELDS = (InvalidTypeError, MissingFieldError, UnknownFieldError)
    IDENTIFIER = (InvalidIdError,)
    FEATURES = (TooManyFeaturesError, StringTooLongError)
    TARGET = (StringTooLongError,)
    SPEC = (InvalidSpecError,)
    PARAMETERS = (RequestValidationError,)
    TOKEN = (UnauthorizedError,)
    #: Lookup of a model by its name.
    MODEL = (UnknownModelError, WrongNodeError, NotOwnerError)
    #: Creation of a model.
    CREATION = (ModelExistsError, TooManyModelsError, library.DeviceMemoryError)
    #: A question that the model answers between two samples.
    READ = (
        QueueFullError,
        NotReadyError,
        TooStaleError,
        ModelFailedError,
        ShuttingDownError,
        library.DeviceMemoryError,
        DeviceFailedError,
    )
    #: The step that a prediction must have seen.
    STEP = (RequestError, NotThereYetError)
    #: The name of the model in the path, in a header and in the body.
    NAMES = (RequestError,)
    #: The predictive interval of a regression model.
    INTERVAL = (library.ConfigurationError,)
    #: A sample, a label or a kept prediction, in the queue of the writer and in the log.
    WRITER = (
        library.SampleError,
        library.NonFiniteStateError,
        QueueFullError,
        ModelFailedError,
        ShuttingDownError,
        StorageFullError,
        StorageFailedError,
        OutcomeUnknownError,
        NotOwnerError,
        library.DeviceMemoryError,
        DeviceFailedError,
    )
    #: A sample that is read, and changes nothing.
    SAMPLE = (library.SampleError,)
    #: An explanation of the prediction for a sample.
    EXPLANATION = (library.SampleError, library.NonFiniteStateError)
    #: The id of a sample, which makes the request safe to repeat.
    SAMPLE_ID = (IdConflictError, ForgottenIdError)
    #: The id of a prediction that is kept for its label.
    PREDICTION_ID = (IdConflictError, AlreadyLabelledError)
    #: The id of a kept prediction, for its label.
    LABEL = (UnknownIdError,)
    LABELLED = (AlreadyLabelledError,)
    #: A change of the whole model, between two groups of samples.
    EXCLUSIVE = (ModelFailedError, ShuttingDownError, library.DeviceMemoryError, DeviceFailedError)
    #: A write to the event log or of a checkpoint.
    WRITE = (StorageFullError, StorageFailedError, OutcomeUnknownError, NotOwnerError)
    #: A read from the event log or of the checkpoints.
    STORAGE = (StorageFailedError,)
    #: Partition of a topic from which a model learns.
    SOURCE = (UnknownSourceError, PositionMovedError)
    REBUILDING = (RebuildingError,)
    ROLLBACK = (UnknownCheckpointError, NotKeptError)
    UNLEARNING = (UnknownIdError, NotKeptError)
    SHADOW = (UnknownShadowError,)
    SHADOW_CREATION = (ShadowExistsError, TooManyShadowsError, InvalidSpecError, library.ConfigurationError)
    PROMOTION = (UnknownShadowError, ShadowFailedError, NotKeptError)
    UPGRADE = (InvalidSpecError, NotKeptError)
    IMPORT = (InvalidSpecError, library.CheckpointError, library.StateError)
    PROBE = (NotReadyError,)
    OWNER = (NotOwnerError,)
    STALENESS = (TooStaleError,)


HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
"""Codes of the errors that Starlette raises with a status alone."""


def row(error: type[Exception]) -> Row:
    """Return the row of an error class, or of its nearest base class in the table.

    Examples
    --------
    >>> row(QueueFullError).status
    429
    """
    return next(TABLE[cls] for cls in error.__mro__ if cls in TABLE)


def is_out_of_descriptors(error: BaseException | None) -> bool:
    """Return whether an error says that no further file can be opened.

    Examples
    --------
    >>> is_out_of_descriptors(OSError(errno.EMFILE, "Too many open files"))
    True
    """
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def code_of(error: Exception) -> str:
    """Return the code of an error.

    Examples
    --------
    >>> code_of(library.SampleError("non_finite_feature", "x.a", "is not finite"))
    'non_finite_feature'
    """
    return error.code if isinstance(error, library.SampleError) else str(row(type(error)).code)
