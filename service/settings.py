"""Settings of the server, from environment variables with the prefix ``BNP_``."""

from __future__ import annotations

import difflib
import itertools
import re
import socket
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from .problems import explain, first_of
from .schemas import DEFAULT_MODEL, Device, ModelSpec
from .source_urls import SourceUrl, parse_all


def _split(value: Any) -> Any:
    return [word for word in value.replace(",", " ").split() if word] if isinstance(value, str) else value


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if value != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https") or "*" in value:
        raise ValueError("an origin must be http(s)://host or http(s)://host:port, without path or wildcard")
    return value.lower()


def _postgres(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("the store must be a URL postgresql://user:password@host/database")
    return value


def _sources(value: Any) -> Any:
    return parse_all(value.split()) if isinstance(value, str) else value


def is_installed(module: str) -> bool:
    """Return whether a module can be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of its package
        return False


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or value.rstrip("/") != f"{parts.scheme}://{parts.netloc}":
        raise ValueError("the address must be a URL http(s)://host:port, without a path")
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError("the address must have a host, and no user or password")
    return value.rstrip("/")


def _node(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", value):
        raise ValueError("a name of a node has letters, digits and . _ : - only")
    return value


def _shards(value: Any) -> Any:
    """Return the numbers in ``0-63`` or ``0,3,5-7``."""
    if not isinstance(value, str) or value.strip() == "auto":
        return value
    found: set[int] = set()
    for word in _split(value):
        first, dash, last = word.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ValueError(f'"auto", or numbers and ranges such as 0-31,40; {word!r:.40} is neither')
        found.update(range(int(first), min(int(last or first), _MOST_SHARDS) + 1))
    if not found or max(found) >= _MOST_SHARDS:
        raise ValueError(f"shards have numbers from 0 to {_MOST_SHARDS - 1}, the lower one of a range first")
    return tuple(sorted(found))


#: More than any cluster has.
_MOST_SHARDS = 65_536

#: Variables that are no settings of the server: the key of clients.
_OTHERS = {"BNP_API_KEY"}
#: Similarity to the name of a setting, above which a variable is taken for it.
_SIMILAR = 0.85

Positive: TypeAlias = Annotated[int, Field(ge=1)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Words: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origin: TypeAlias = Annotated[str, AfterValidator(_origin)]
Origins: TypeAlias = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)]


Sources: TypeAlias = Annotated[tuple[SourceUrl, ...], NoDecode, BeforeValidator(_sources)]
Shards: TypeAlias = Annotated[Literal["auto"] | tuple[int, ...], NoDecode, BeforeValidator(_shards)]


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
    store: Annotated[SecretStr, AfterValidator(_postgres)] | None = None
    """Event log in PostgreSQL, as `postgresql://user:password@host/database`, also with several hosts;
    default: SQLite in the data folder. Needs the extra `cluster`.
    """
    ingest: Sources = Field(default=(), repr=False)  # URLs may have passwords
    """Topics from which models learn, each as `kafka://host:9092/topic?model=NAME` or
    `nats://host:4222/stream?model=NAME`; separated by spaces.
    """
    checkpoints: str | None = None
    """Folder that all machines share, or URL (`s3://bucket/folder`), of the checkpoints of a store in
    PostgreSQL; default: in PostgreSQL too.
    """
    role: Literal["owner", "standby", "replica"] = "owner"
    """What this process does in a cluster (`BNP_STORE`). owner: it learns and predicts. standby: it answers
    predictions from the log, and becomes the owner of shards whose owner fails. replica: it only answers
    predictions.
    """
    shards: Shards = "auto"
    """Shards of a cluster that this process may own, as `0-31` or `0,3,5-7`; auto: all."""
    node: Annotated[str, AfterValidator(_node)] = Field(
        default_factory=lambda data: f"{socket.gethostname()}:{data.get('port', 0)}",
        min_length=1,
        max_length=100,
    )
    """Name of this process in a cluster; default: host name and port. Each process has its own: a second one
    with the same name does not start.
    """
    address: Annotated[str, AfterValidator(_url)] | None = None
    """URL at which clients and the other processes of a cluster reach this one, as `http://host:port`."""
    takeover_after: Seconds = 10.0
    """Seconds after which a standby takes the shards of an owner that is connected but does not answer. An
    owner that cannot reach the store stops answering after as long.
    """
    max_staleness: Seconds = 5.0
    """Seconds by which the predictions of a standby or replica may lag behind the log; beyond them it answers
    503 `too_stale`.
    """
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
    device: Device = "auto"
    """Device of the models whose specification has none: `auto`, `cpu`, `cuda`, or a GPU by its number
    (`cuda:1`)."""
    threads: int = Field(default=1, ge=1, le=256)
    """Number of threads that learn one model, for mixtures of large networks; the results have the same bits
    whatever the number.
    """
    backbones: Path | None = None
    """Folder of the frozen backbones that specifications name (`backbone`), files of `save_backbone`."""
    default_model: Annotated[ModelSpec, NoDecode] = ModelSpec()
    """Specification of the model `default` in a new data folder, as JSON for `POST /models`."""
    max_models: Positive = 64
    """Maximum number of models."""
    models_in_memory: Positive | None = None
    """Maximum number of models in memory; default: all. Beyond it, the least recently used model gets a
    checkpoint and is removed from memory. The next request to it loads it again.
    """
    max_shadows: int = Field(default=3, ge=0)
    """Maximum number of shadows of a model. Each takes the memory of a model of its specification."""
    shadow_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the time of a busy model that its shadows may take, all together. A model waits longer only
    for a shadow that is more than a million events behind.
    """
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
    traces: bool = False
    """Export spans of requests and of groups of samples to a collector of OpenTelemetry. Needs the extra
    `traces`. The variables `OTEL_…` configure the exporter, such as `OTEL_EXPORTER_OTLP_ENDPOINT`.
    """

    @field_validator("traces")
    @classmethod
    def _require_packages(cls, value: bool) -> bool:
        if value and not is_installed("opentelemetry.exporter.otlp.proto.http"):
            raise ValueError("BNP_TRACES needs OpenTelemetry: pip install 'bnp-online[traces]'")
        return value

    @field_validator("checkpoints")
    @classmethod
    def _require_store(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("store") is None:
            raise ValueError("BNP_CHECKPOINTS needs BNP_STORE: a data folder has its own checkpoints")
        return value

    @field_validator("role")
    @classmethod
    def _require_cluster(cls, value: str, info: ValidationInfo) -> str:
        if value != "owner" and info.data.get("store") is None:
            raise ValueError(f"the role {value} needs BNP_STORE: a data folder has one process, its owner")
        return value

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


def misspelt_settings(names: Iterable[str]) -> list[str]:
    """Return a message for each name that is almost that of a setting: it has no effect.

    Examples
    --------
    >>> misspelt_settings(["BNP_STOER", "BNP_STORE", "BNP_API_KEY", "PATH"])
    ['BNP_STOER is not a setting: did you mean BNP_STORE?']
    """
    known = {f"BNP_{name.upper()}" for name in Settings.model_fields}
    near = {
        name: difflib.get_close_matches(name, known, 1, _SIMILAR)
        for name in sorted({*names} - known - _OTHERS)
        if name.startswith("BNP_")
    }
    return [f"{name} is not a setting: did you mean {found[0]}?" for name, found in near.items() if found]


def read_settings() -> Settings:
    """Return the settings; an invalid setting ends the program with exit code 2 and a message."""
    try:
        return Settings()
    except ValidationError as error:
        for setting, of_setting in itertools.groupby(
            error.errors(include_url=False), key=lambda problem: str(problem["loc"][0])
        ):
            problems = list(of_setting)
            if problems[0]["type"] == "default_factory_not_called":
                continue  # a default that depends on a setting that is invalid
            name = f"BNP_{setting.upper()}"
            text = explain(problems[0], name)
            if setting == "default_model" and len(problems[0]["loc"]) > 1:
                for problem in problems:
                    problem["loc"] = problem["loc"][1:]
                text = f"{name}: {first_of(problems, ModelSpec)[0]}"
            about = " ".join((Settings.model_fields[setting].description or "").split())
            print(f"{text}. {about}", file=sys.stderr)
    except SettingsError as error:
        print(error, file=sys.stderr)
    sys.exit(2)
