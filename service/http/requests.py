"""The headers of a request, looked up in one way by all that look.

Where a header stands twice, the guard must not check the one while a route uses the other.

From raw bytes to checked bodies, and from answers to bytes.

The hot routes come here instead of to pydantic: an idiomatic FastAPI body costs several times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast, get_args

import jiter
import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    DuplicateKeyError,
    InvalidIdError,
    InvalidJsonError,
    InvalidSpecError,
    InvalidTypeError,
    MissingFieldError,
    StringTooLongError,
    TooManyFeaturesError,
    UnknownFieldError,
)
from ..schemas import MAX_ID_LENGTH
from ..settings import Settings

_KEY = "bnp.headers"


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers by their names in lower case; of those that stand twice the first, as in Starlette.

    Examples
    --------
    >>> headers_of({"headers": [(b"host", b"a"), (b"host", b"b")]})[b"host"]
    b'a'
    """
    found = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = dict(reversed(scope["headers"]))
    return cast(Mapping[bytes, bytes], found)


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """Return the type of a body, without its parameters.

    Examples
    --------
    >>> media_type({b"content-type": b"Application/JSON; charset=utf-8"})
    'application/json'
    """
    return _media_type(headers.get(b"content-type", b""))


@lru_cache(32)  # clients send the same ones again and again
def _media_type(header: bytes) -> str:
    return header.partition(b";")[0].strip().lower().decode("latin-1")


M = TypeVar("M", bound=BaseModel)


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
    """The fields of a body, and what it calls those that are looked into."""

    fields: Mapping[str, Kind]
    required: tuple[str, ...]
    x: str = "x"
    y: str = "y"
    id: str = "id"


LEARN = Shape(
    {"x": FEATURES, "y": TARGET, "model": OPTIONAL_TEXT, "id": OPTIONAL_TEXT, "w": OPTIONAL_NUMBER},
    ("x", "y"),
)
LABEL = Shape({"id": TEXT, "y": TARGET, "model": OPTIONAL_TEXT}, ("id", "y"))
PREDICT = Shape(
    {"x": FEATURES, "model": OPTIONAL_TEXT, "id": OPTIONAL_TEXT, "interval": OPTIONAL_NUMBER}, ("x",)
)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a request.

    Raises
    ------
    BodyTooLargeError
        As soon as more than `limit` bytes were announced or have come.
    BodyTimeoutError
        If it has not come in time.
    ClientDisconnect
        If the client has left.
    """
    if ARRIVED in scope:  # most often; a timer costs more than everything else here
        return await _read(scope, receive, limit)
    seconds: float = scope["app"].state.settings.receive_timeout
    try:
        async with asyncio.timeout(seconds):
            return await _read(scope, receive, limit)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not come within {seconds:g} s (BNP_RECEIVE_TIMEOUT)") from None


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    announced = int(headers_of(scope).get(b"content-length", 0))
    chunks: list[bytes] = []
    size, more = 0, announced <= limit
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = size <= limit and message.get("more_body", False)
    if max(announced, size) > limit:
        raise BodyTooLargeError(f"the body is longer than {limit} bytes (BNP_MAX_BODY_BYTES)")
    return b"".join(chunks)


def decode(raw: bytes, sample: str = "x") -> Any:
    """Return the JSON value in `raw`; what has a `sample` of plain values is read fast.

    Raises
    ------
    InvalidJsonError
        Also for NaN and Infinity, for nesting deeper than 200, and for strings that are not Unicode.
    DuplicateKeyError
        If an object has a key twice: to keep one of them would be to guess.

    Notes
    -----
    A number beyond the range of float64 becomes infinity: whoever takes it checks that it is finite. An
    integer beyond 64 bits may come as the float next to it.

    Examples
    --------
    >>> decode(b'{"x": {"a": 1.5}}')
    {'x': {'a': 1.5}}
    """
    # To check for duplicate keys makes a decoder three times as slow (10 µs instead of 3.5 for 64 features).
    # For an `x` of plain values counting does: a key takes a colon, so as many colons as there are keys in
    # the end leave none for a second one of the same name. A bracket may be the first of too many.
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None  # or a number beyond float64, which is JSON
    if (
        type(body) is dict
        and type(x := body.get(sample)) is dict
        and raw.count(b":") == len(body) + len(x)
        and b"[" not in raw
    ):
        return body
    try:
        return jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        message = str(error)
        if message.startswith("Detected duplicate key"):
            raise DuplicateKeyError(message) from None
        raise InvalidJsonError(f"this is not JSON: {message}") from None


def read_fields(raw: bytes, shape: Shape, settings: Settings) -> dict[str, Any]:
    """Return the JSON object in `raw` if its fields are those of `shape`; raises as `decode` and `check`."""
    body = check(decode(raw, shape.x), shape, settings)
    if len(raw) > settings.max_string_length:  # else no string in it is too long either
        _check_lengths(body, shape, settings.max_string_length)
    return body


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
    if (identifier := body.get(shape.id)) is not None and not 0 < len(identifier) <= MAX_ID_LENGTH:
        raise InvalidIdError(f"{shape.id} must have 1 to {MAX_ID_LENGTH} characters", shape.id)
    x = body.get(shape.x)
    if type(x) is dict and len(x) > settings.max_features:
        raise TooManyFeaturesError(
            f"{shape.x} has {len(x)} features, but this server takes {settings.max_features} "
            "(BNP_MAX_FEATURES)",
            shape.x,
        )
    return body


def _check_lengths(body: dict[str, Any], shape: Shape, longest: int) -> None:
    """Refuse strings that a model would have to keep; those in nested lists it refuses itself."""
    x, y = body.get(shape.x), body.get(shape.y)
    if type(y) is str and len(y) > longest:
        raise StringTooLongError(f"a label has at most {longest} characters (BNP_MAX_STRING_LENGTH)", shape.y)
    if type(x) is not dict or not x:
        return
    # One pass of C code each over names and types; a loop here would cost as much as all other checks.
    if max(map(len, x)) > longest or str in map(type, x.values()):
        for name, value in x.items():
            if len(name) > longest or (type(value) is str and len(value) > longest):
                raise StringTooLongError(
                    f"names and values have at most {longest} characters (BNP_MAX_STRING_LENGTH)",
                    f"{shape.x}.{name}",
                )


async def read_model(request: Request, model: type[M]) -> M:
    """Return the body of a request as a pydantic model.

    Raises
    ------
    InvalidJsonError, DuplicateKeyError, BodyTooLargeError
        It is no JSON that is taken here.
    RequestError
        A field is wrong, or missing; named.
    """
    raw = await read_body(request.scope, request.receive, request.app.state.settings.max_body_bytes)
    decode(raw)  # refuses what pydantic lets pass: a key that stands twice
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Names of the types of a union stand in the location too: they say nothing to the client.
        start, *rest = first["loc"] or ("",)
        named = _holds_model(model, start)
        where = [start, *(part for part in rest if named or isinstance(part, int))]
        field = ".".join(map(str, where)) or None
        message = f"{field}: {first['msg']}" if field else first["msg"]
        raise InvalidSpecError(message, field) from None


def _holds_model(model: type[BaseModel], name: Any) -> bool:
    """Return whether a field of `model` holds a model, or None."""
    field = model.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def encode(content: Any) -> bytes:
    """Return JSON; floats read back to the last bit, non-finite ones are null.

    Keys that are booleans or integers are written as JSON writes them as values.
    """
    return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)


def encode_line(content: Any) -> bytes:
    """Return JSON as `encode` does, and the end of a line."""
    return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)


async def respond(
    send: Send, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """Answer a request with JSON."""
    body = encode(content)
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    raw += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer for Starlette to send."""
    return Response(encode(content), status, headers, media_type="application/json")
