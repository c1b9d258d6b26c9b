"""From raw bytes to checked bodies, and from answers to bytes.

The hot routes come here instead of to pydantic: an idiomatic FastAPI body costs several times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jiter
import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    DuplicateKeyError,
    InvalidIdError,
    InvalidJsonError,
    InvalidTypeError,
    MissingFieldError,
    StringTooLongError,
    TooManyFeaturesError,
    UnknownFieldError,
)
from service.schemas import MAX_ID_LENGTH
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Kind:
    """The JSON types that a field may have, as the decoder gives them, and their names for people."""

    types: tuple[type, ...]
    expected: str


ARRIVED = "bnp.arrived"
"""Key of the ASGI scope that the protocol sets once the whole request is here."""

FEATURES = Kind((dict, list), "an object, or nested lists")
TARGET = Kind((bool, int, float, str), "a boolean, a number or a string")
TEXT = Kind((str,), "a string")
# A client that has no id to send often sends null: it stands for an absent field.
OPTIONAL_TEXT = Kind((str, type(None)), "a string")
OPTIONAL_NUMBER = Kind((int, float, type(None)), "a number")


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a body."""

    fields: Mapping[str, Kind]
    required: tuple[str, ...]


LEARN = Shape(
    {"x": FEATURES, "y": TARGET, "model": OPTIONAL_TEXT, "id": OPTIONAL_TEXT, "w": OPTIONAL_NUMBER},
    ("x", "y"),
)
LABEL = Shape({"id": TEXT, "y": TARGET, "model": OPTIONAL_TEXT}, ("id", "y"))
PREDICT = Shape({"x": FEATURES, "model": OPTIONAL_TEXT, "id": OPTIONAL_TEXT}, ("x",))


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises
    ------
    BodyTooLargeError
        As soon as more than `limit` bytes were announced or have come.
    BodyTimeoutError
        If it has not come in time.
    """
    if ARRIVED in request.scope:  # most often; a timer costs more than everything else here
        return await _read(request, limit)
    seconds: float = request.app.state.settings.receive_timeout
    try:
        async with asyncio.timeout(seconds):
            return await _read(request, limit)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not come within {seconds:g} s (BNP_RECEIVE_TIMEOUT)") from None


async def _read(request: Request, limit: int) -> bytes:
    size = int(request.headers.get("content-length", 0))
    chunks: list[bytes] = []
    if size <= limit:
        size = 0
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                break
    if size > limit:
        raise BodyTooLargeError(f"the body is longer than {limit} bytes (BNP_MAX_BODY_BYTES)")
    return b"".join(chunks)


def decode(raw: bytes) -> Any:
    """Return the JSON value in `raw`.

    Raises
    ------
    InvalidJsonError
        Also for NaN and Infinity, for nesting deeper than 200, and for strings that are not Unicode.
    DuplicateKeyError
        If an object has a key twice: to keep one of them would be to guess.

    Notes
    -----
    A number beyond the range of float64 becomes infinity: whoever takes it checks that it is finite.

    Examples
    --------
    >>> decode(b'{"x": {"a": 1.5}}')
    {'x': {'a': 1.5}}
    """
    try:
        return jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        message = str(error)
        if message.startswith("Detected duplicate key"):
            raise DuplicateKeyError(message) from None
        raise InvalidJsonError(f"the body is not JSON: {message}") from None


def check(body: Any, shape: Shape, settings: Settings) -> dict[str, Any]:
    """Return `body` if its fields are those of `shape`; what is in them is for the model to judge.

    Raises
    ------
    InvalidTypeError, UnknownFieldError, MissingFieldError, InvalidIdError, TooManyFeaturesError
        Naming the field.
    """
    if type(body) is not dict:
        raise InvalidTypeError("the body must be a JSON object")
    for name, value in body.items():
        kind = shape.fields.get(name)
        if kind is None:
            known = ", ".join(shape.fields)
            raise UnknownFieldError(f"{name[:80]!r} is not a field of this route; it has {known}", name)
        if type(value) not in kind.types:
            raise InvalidTypeError(f"{name} must be {kind.expected}", name)
    for name in shape.required:
        if name not in body:
            raise MissingFieldError(f"{name} is missing", name)
    if (identifier := body.get("id")) is not None and not 0 < len(identifier) <= MAX_ID_LENGTH:
        raise InvalidIdError(f"id must have 1 to {MAX_ID_LENGTH} characters", "id")
    x = body.get("x")
    if type(x) is dict and len(x) > settings.max_features:
        raise TooManyFeaturesError(
            f"x has {len(x)} features, but this server takes {settings.max_features} (BNP_MAX_FEATURES)", "x"
        )
    _check_lengths(x, body.get("y"), settings.max_string_length)
    return body


def _check_lengths(x: Any, y: Any, longest: int) -> None:
    """Refuse strings that a model would have to keep; those in nested lists it refuses itself."""
    if type(y) is str and len(y) > longest:
        raise StringTooLongError(f"a label has at most {longest} characters (BNP_MAX_STRING_LENGTH)", "y")
    if type(x) is not dict or not x:
        return
    # One pass of C code each over names and types; a loop here would cost as much as all other checks.
    if max(map(len, x)) > longest or str in map(type, x.values()):
        for name, value in x.items():
            if len(name) > longest or (type(value) is str and len(value) > longest):
                raise StringTooLongError(
                    f"names and values have at most {longest} characters (BNP_MAX_STRING_LENGTH)", f"x.{name}"
                )


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer; floats read back to the last bit, non-finite ones are null.

    Keys that are booleans or integers are written as JSON writes them as values.
    """
    return Response(
        orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS), status, headers, media_type="application/json"
    )


async def read_checked(request: Request, shape: Shape, settings: Settings) -> dict[str, Any]:
    """Read, decode and check the body of a request; raises as these three do."""
    return check(decode(await read_body(request, settings.max_body_bytes)), shape, settings)
