"""The settings of the server, each read from an environment variable with the prefix ``BNP_``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from .schemas import DEFAULT_MODEL, ModelSpec


def _split(value: Any) -> Any:
    return [word for word in value.replace(",", " ").split() if word] if isinstance(value, str) else value


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if value != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https") or "*" in value:
        raise ValueError("an origin is http(s)://host or http(s)://host:port, without a path or wildcard")
    return value.lower()


Words: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origin: TypeAlias = Annotated[str, AfterValidator(_origin)]
Origins: TypeAlias = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """What an operator may choose; every field's description is its documentation.

    Examples
    --------
    >>> Settings(port=9000).port
    9000
    """

    model_config = SettingsConfigDict(env_prefix="BNP_", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    data_dir: Path = Field(
        default=Path("data"),
        description="Folder for the event log and the checkpoints; one server at a time uses it.",
    )
    durability: Literal["full", "relaxed"] = Field(
        default="full",
        description="full: what was answered is on the disk. relaxed: it is with the system, which loses the "
        "latest if the machine fails or loses power, and nothing if the server is killed.",
    )
    checkpoint_every: int = Field(
        default=10_000,
        ge=1,
        description="Steps between two checkpoints of a model; a start replays that many.",
    )
    keep_checkpoints: int = Field(default=5, ge=1, description="How many checkpoints each model keeps.")
    retain_events: int = Field(
        default=1_000_000,
        ge=0,
        description="Samples before its oldest checkpoint that a model keeps: for ids and unlearning.",
    )
    retain_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Those that are older go nevertheless.",
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        default="info", description="How much the server logs."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where models compute.")
    default_model: Annotated[ModelSpec, NoDecode] = Field(
        default=ModelSpec(),
        description="JSON spec of the model that is there from the start, as `POST /models` takes it.",
    )
    max_models: int = Field(default=64, ge=1, description="Most models at one time.")
    max_features: int = Field(
        default=4096, ge=1, description="Most features in one sample, and in a model's spec."
    )
    max_classes: int = Field(default=1024, ge=2, description="Most classes in a model's spec.")
    max_parameters: int = Field(
        default=100_000_000,
        ge=1,
        description="Most weights and biases that a model may come to have, all its copies together.",
    )
    max_body_bytes: int = Field(
        default=2**20, ge=1, description="Largest request body, or line of a stream, in bytes."
    )
    max_import_bytes: int = Field(default=2**28, ge=1, description="Largest model to import, in bytes.")
    queue_size: int = Field(
        default=1024,
        ge=1,
        description="Samples that may wait for one model, to learn and to read each; beyond: 429. A stream "
        "waits, and leaves half of the places to single requests.",
    )
    group_size: int = Field(
        default=256, ge=1, description="Most waiting samples that are logged and learned as one group."
    )
    max_pending: int = Field(
        default=10_000,
        ge=1,
        description="Predictions that each model keeps for their label; the oldest go first.",
    )
    label_ttl: float = Field(
        default=86_400.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a prediction waits for its label.",
    )
    stream_timeout: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds in which the client of a stream must send something, and read something; "
        "beyond: it is disconnected.",
    )
    ready_timeout: float = Field(
        default=2.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds in which each model must answer `/health/ready`.",
    )
    shutdown_timeout: int = Field(
        default=30, ge=1, description="Seconds that running requests get to finish at the end."
    )

    # Who may come in, how much of the server one client may take, and what is written about it.
    api_keys: SecretStr | None = Field(
        default=None,
        description="API keys: `NAME SCOPES KEY`, several separated by `;`; KEY may be its hash.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of hashed API keys, read again on SIGHUP; by default `keys` in the data folder, "
        "if it is there.",
    )
    make_key: bool = Field(
        default=False,
        description="Whether a server without any key makes one when it starts, prints it once, and keeps "
        "its hash in the file `keys` of the data folder.",
    )
    allowed_hosts: Words = Field(
        default=(),
        description="Host names, beside those of this machine, under which a server without keys may be "
        "reached, as by a proxy; separated by commas.",
    )
    cors_origins: Origins = Field(
        default=(),
        description="Origins (`https://host:port`) whose pages may call the server; separated by commas.",
    )
    max_string_length: int = Field(
        default=1024, ge=1, description="Most characters in a feature's name, a string value, or a label."
    )
    max_connections: int = Field(
        default=1000, ge=1, description="Most connections at one time; a request on a further one gets 503."
    )
    receive_timeout: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds in which the head of a request must arrive, and then again its body.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="How a line of the log is written, to stderr."
    )

    @field_validator("default_model", mode="before")
    @classmethod
    def _read_spec(cls, value: Any) -> Any:
        # The spec is strict, and an array is a tuple only while it is JSON, not once it is a list.
        return ModelSpec.model_validate_json(value) if isinstance(value, str) else value

    @field_validator("default_model")
    @classmethod
    def _keep_name(cls, value: ModelSpec) -> ModelSpec:
        if value.name != DEFAULT_MODEL:
            raise ValueError(f'its name is "{DEFAULT_MODEL}": leave "name" out')
        return value


def read_settings() -> Settings:
    """Return the settings; a wrong one ends the program with exit code 2, its name and what is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = "_".join(["BNP", *(str(part).upper() for part in problem["loc"][:1])])
            print(f"{name}: {problem['msg']}", file=sys.stderr)
    except SettingsError as error:
        print(error, file=sys.stderr)
    sys.exit(2)
