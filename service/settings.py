"""Settings of the server, from environment variables with the prefix ``BNP_``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from .problems import explain
from .schemas import DEFAULT_MODEL, ModelSpec


def _split(value: Any) -> Any:
    return [word for word in value.replace(",", " ").split() if word] if isinstance(value, str) else value


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if value != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https") or "*" in value:
        raise ValueError("an origin must be http(s)://host or http(s)://host:port, without path or wildcard")
    return value.lower()


Positive: TypeAlias = Annotated[int, Field(ge=1)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Words: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origin: TypeAlias = Annotated[str, AfterValidator(_origin)]
Origins: TypeAlias = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Settings of the server.

    Examples
    --------
    >>> Settings(port=9000).port
    9000
    """

    model_config = SettingsConfigDict(env_prefix="BNP_", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 for any free port."""
    data_dir: Path = Path("data")
    """Folder of the event log and the checkpoints, for one server at a time."""
    durability: Literal["full", "relaxed"] = "full"
    """full: a response is sent after its sample has been flushed to disk. relaxed: after it has been written
    to the operating system; a failure of the machine or its power may lose the latest samples, a killed
    server loses none.
    """
    checkpoint_every: Positive = 10_000
    """Events (samples, labels and stored predictions) between two checkpoints of a model. A start replays at
    most that many per model, and those that were logged while the last checkpoint was being written.
    """
    checkpoint_bytes: Positive = 2**26
    """Size of the events between two checkpoints of a model, in bytes."""
    keep_checkpoints: Positive = 5
    """Number of checkpoints kept per model."""
    retain_events: int = Field(default=1_000_000, ge=0)
    """Samples kept per model before its oldest checkpoint, for ids and unlearning."""
    retain_bytes: int = Field(default=2**30, ge=0)
    """Size of these samples per model, in bytes of the log. Pending predictions and imports count too."""
    retain_seconds: Seconds | None = None
    """Maximum age of samples before the oldest checkpoint, in seconds."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """Lowest level of log messages."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the models."""
    default_model: Annotated[ModelSpec, NoDecode] = ModelSpec()
    """Specification of the model `default` in a new data folder, as JSON for `POST /models`."""
    max_models: Positive = 64
    """Maximum number of models."""
    max_features: Positive = 4096
    """Maximum number of features of a sample, with the strings in its lists, and of columns of a model."""
    max_values: int = Field(default=2**20, ge=32, le=2**24)
    """Maximum number of values of strings and words that a model keeps; the least recently used ones make
    room. A value takes about 150 bytes for two classes, and 16 bytes for each further class.
    """
    max_classes: int = Field(default=1024, ge=2)
    """Maximum number of classes of a model."""
    max_parameters: Positive = 100_000_000
    """Maximum number of weights and biases of a model, all members together."""
    max_body_bytes: Positive = 2**20
    """Maximum size of a request body, or of a line of a stream, in bytes."""
    max_import_bytes: Positive = 2**28
    """Maximum size of a model to import, in bytes."""
    queue_size: Positive = 1024
    """Maximum number of samples that wait for one model, for learning and for reading each; further requests
    get 429. A stream waits, and uses at most half of the queue.
    """
    queue_bytes: Positive = 2**26
    """Maximum size of the samples that wait, for all models together, in bytes of JSON; further requests get
    429. A stream waits, and uses at most half. In memory a sample takes up to eight times as much.
    """
    group_size: Positive = 256
    """Maximum number of samples logged and learned as one group."""
    max_pending: Positive = 10_000
    """Maximum number of predictions that wait for their label, per model; the oldest are dropped."""
    max_pending_bytes: Positive = 2**26
    """Maximum size of these predictions, per model, in bytes of their events and of what the experts of the
    model predicted; the oldest are dropped, and before them what their experts predicted.
    """
    label_ttl: Seconds = 86_400.0
    """Seconds for which a prediction waits for its label."""
    stream_timeout: Seconds = 60.0
    """Seconds after which a stream ends if its client does not send, and a connection if its client does not
    read a response. A client that reads slowly is not disconnected.
    """
    ready_timeout: Seconds = 2.0
    """Seconds within which the log and each model must answer a check of `/health/ready`."""
    shutdown_timeout: Positive = 30
    """Seconds that running requests have to finish when the server stops."""

    # Access, limits of one client, and the log.
    api_keys: SecretStr | None = None
    """API keys, as `NAME SCOPES KEY`, separated by `;`. KEY may be a hash."""
    keys_file: Path | None = None
    """File of hashed API keys, read again on SIGHUP; default: `keys` in the data folder, if it exists."""
    make_key: bool = False
    """Whether a server without keys creates one at its start, prints it once, and stores its hash in the file
    `keys` of the data folder.
    """
    allowed_hosts: Words = ()
    """Host names, in addition to those of this machine, in requests to a server without keys, for example
    behind a proxy; separated by commas.
    """
    cors_origins: Origins = ()
    """Origins (`https://host:port`) whose pages may call the server; separated by commas."""
    max_string_length: Positive = 1024
    """Maximum length of a feature name, a string value or a label."""
    max_connections: Positive = 1000
    """Maximum number of connections; a request on another one gets 503."""
    receive_timeout: Seconds = 30.0
    """Seconds within which the head of a request must arrive, and then its body."""
    log_format: Literal["text", "json"] = "text"
    """Format of the log on standard error."""

    @field_validator("default_model", mode="before")
    @classmethod
    def _read_spec(cls, value: Any) -> Any:
        # The strict schema accepts an array for a tuple in JSON only, not as a Python list.
        return ModelSpec.model_validate_json(value) if isinstance(value, str) else value

    @field_validator("default_model")
    @classmethod
    def _keep_name(cls, value: ModelSpec) -> ModelSpec:
        if value.name != DEFAULT_MODEL:
            raise ValueError(f'"name" must be "{DEFAULT_MODEL}", or left out')
        return value


def read_settings() -> Settings:
    """Return the settings; an invalid setting ends the program with exit code 2 and a message."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            setting, *inner = map(str, problem["loc"])
            name = f"BNP_{setting.upper()}"
            of_a_spec = setting == "default_model" and inner
            text = f"{name}: {explain(problem, '.'.join(inner))}" if of_a_spec else explain(problem, name)
            about = " ".join((Settings.model_fields[setting].description or "").split())
            print(f"{text}. {about}", file=sys.stderr)
    except SettingsError as error:
        print(error, file=sys.stderr)
    sys.exit(2)
