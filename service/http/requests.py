"""HTTP requests: head, bounded body, JSON, and checks of fields.

The hot routes use this module in place of FastAPI's body parsing, which costs several times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import jiter
import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from ..errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    InvalidIdError,
    InvalidSpecError,
    InvalidTypeError,
    MissingFieldError,
    StringTooLongError,
    TooManyFeaturesError,
    UnknownFieldError,
)
from ..problems import first_problem
from ..schemas import MAX_ID_LENGTH
from ..settings import Settings
from .content import JSON, Gunzip, without_mark
from .json_errors import not_json

HEADERS = "bnp.headers"
"""Key of the ASGI scope for the headers by name, once `headers_of` has read them."""

BODY = "bnp.body"
"""Key of the ASGI scope for the body, if the whole body has arrived before the application asks for it."""

M = TypeVar("M", bound=BaseModel)

#: Errors of a body of which the first is described.
_MOST_ERRORS = 1000


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers of a request by lower-case name; of a repeated header the first, as in Starlette.

    Every check and every use of a header reads it here, so that both see the same value.

    Examples
    --------
    >>> headers_of({"headers": [(b"host", b"a"), (b"host", b"b")]})[b"host"]
    b'a'
    """
    found = scope.get(HEADERS)
    if found is None:
        found = scope[HEADERS] = dict(reversed(scope["headers"]))
    return cast(Mapping[bytes, bytes], found)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a request.

    Raises
    ------
    BodyTooLargeError
        As soon as more than `limit` bytes were announced, received or decompressed.
    BodyTimeoutError
        If the body is incomplete after `BNP_RECEIVE_TIMEOUT` seconds.
    ClientDisconnect
        If the client ended the connection before the whole body was received.
    InvalidEncodingError
        If the body cannot be decompressed.
    """
    if (body := scope.get(BODY)) is not None and type(receive) is not Gunzip:  # the common case
        if len(body) > limit:
            raise _too_large(limit)
        return cast(bytes, body)
    seconds: float = scope["app"].state.settings.receive_timeout
    try:
        async with asyncio.timeout(seconds):
            return await _read(scope, receive, limit)
    except TimeoutError:
        raise BodyTimeoutError(
            f"the body was not complete after {seconds:g} s (BNP_RECEIVE_TIMEOUT)"
        ) from None


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    announced = 0 if type(receive) is Gunzip else int(headers_of(scope).get(b"content-length", 0))
    chunks: list[bytes] = []
    size, more = 0, announced <= limit
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise incomplete_body()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = size <= limit and message.get("more_body", False)
    if max(announced, size) > limit:
        raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is longer than {limit} bytes (BNP_MAX_BODY_BYTES)")


def incomplete_body() -> ClientDisconnect:
    """Return the error for a body that the client did not send completely."""
    return ClientDisconnect("the connection ended before the whole body was received: send the request again")


def decode(raw: bytes, sample: str = "x", part: str = "body") -> Any:
    """Return the JSON value in `raw`; an object whose field `sample` has plain values is decoded faster.

    `part` names the bytes in messages: ``"body"`` or ``"line"``.

    Raises
    ------
    InvalidJsonError
        Also for NaN and Infinity, for nesting deeper than 200, and for strings that are not Unicode.
    DuplicateKeyError
        If an object contains a key twice.

    Notes
    -----
    A number beyond the range of float64 becomes infinity; the checks of a sample refuse it. An integer
    beyond 64 bits may become the nearest float.

    Examples
    --------
    >>> decode(b'{"x": {"a": 1.5}}')
    {'x': {'a': 1.5}}
    """
    # A decoder that checks for duplicate keys is three times as slow (10 µs instead of 3.5 for 64 features).
    # For an `x` of plain values it is enough to count: each key has a colon, so with as many colons as there
    # are keys in the result, no key was dropped as a duplicate. A bracket may begin deeper nesting.
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None  # or a number beyond float64, which is valid JSON
    if (
        type(body) is dict
        and type(x := body.get(sample)) is dict
        and raw.count(b":") == len(body) + len(x)
        and b"[" not in raw
    ):
        return body
    return _decode_strictly(raw, part)


def _decode_strictly(raw: bytes, part: str) -> Any:
    try:
        return jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise not_json(raw, str(error), part) from None


def decode_items(raw: bytes, sample: str) -> list[Any]:
    """Return the items of the JSON array in `raw`, each as `decode` returns it; raises as `decode`."""
    try:
        items = orjson.loads(raw)
    except orjson.JSONDecodeError:
        items = None
    if type(items) is list and raw.count(b"[") == 1 and raw.count(b":") == _count_keys(items, sample):
        return items
    value: list[Any] = _decode_strictly(raw, "body")
    return value


def _count_keys(items: list[Any], sample: str) -> int:
    """Return the number of keys in items and their samples; -1 if there is another item."""
    count = 0
    for item in items:
        if type(item) is not dict or type(x := item.get(sample)) is not dict:
            return -1
        count += len(item) + len(x)
    return count


#: What a part of a request must be, instead of an object.
_NOT_AN_OBJECT = {
    "body": "the body must be a JSON object",
    "line": f"a line must be a JSON object: send an array with Content-Type: {JSON}",
    "item": "an item of the array must be a JSON object",
    "message": "a message must be a JSON object: send one sample in each",
}
_NAMES = {
    dict: "an object",
    list: "nested lists",
    bool: "a boolean",
    float: "a number",
    str: "a string",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Fields of a JSON body and their types, for checks that cost less than pydantic's.

    Attributes
    ----------
    fields : dict of str to tuple of type
        For each field the types that the JSON decoder may return.
    required : tuple of str
        Names of the required fields.
    x, y, id : str
        Names of the features, the target and the id; empty if the body has none.
    """

    fields: Mapping[str, tuple[type, ...]]
    required: tuple[str, ...]
    x: str = ""
    y: str = ""
    id: str = ""

    @classmethod
    def of(cls, model: type[BaseModel]) -> Shape:
        """Return the shape of the bodies that a pydantic model accepts.

        Examples
        --------
        >>> from service.schemas import LabelBody
        >>> Shape.of(LabelBody).required
        ('id', 'y')
        """
        fields = {name: _types(field.annotation) for name, field in model.model_fields.items()}
        required = tuple(name for name, field in model.model_fields.items() if field.is_required())
        return cls(
            fields,
            required,
            next((name for name, types in fields.items() if dict in types), ""),
            next((name for name in required if bool in fields[name]), ""),
            next((name for name in ("id", "identifier") if name in fields), ""),
        )


def _types(annotation: Any) -> tuple[type, ...]:
    """Return the types of the values that JSON decodes to for an annotation."""
    origin = get_origin(annotation) or annotation
    if origin is Annotated:
        return _types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(dict.fromkeys(each for part in get_args(annotation) for each in _types(part)))
    return (int, float) if origin is float else (origin,)


def read_fields(raw: bytes, shape: Shape, settings: Settings, part: str = "body") -> dict[str, Any]:
    """Return the JSON object in `raw` if it has the given shape; raises as `decode` and `check`."""
    body = check(decode(raw, shape.x, part), shape, settings, part)
    # In fewer bytes no string can be too long, and no list can have too many strings.
    if len(raw) > min(settings.max_string_length, settings.max_features):
        _check_lengths(body, shape, settings)
    return body


def check_fields(fields: dict[str, Any], shape: Shape, settings: Settings, part: str) -> dict[str, Any]:
    """Return decoded fields if they have the given shape; raises as `check`."""
    body = check(fields, shape, settings, part)
    _check_lengths(body, shape, settings)
    return body


def read_item(item: Any, shape: Shape, settings: Settings) -> dict[str, Any]:
    """Return an item of an array if it has the given shape; raises as `check`."""
    return check_fields(item, shape, settings, "item")


def check(body: Any, shape: Shape, settings: Settings, part: str = "body") -> dict[str, Any]:
    """Return `body` if it has the given shape; the model checks the values of the features itself.

    Raises
    ------
    InvalidTypeError, UnknownFieldError, MissingFieldError, InvalidIdError, TooManyFeaturesError
        With the name of the field.
    """
    if type(body) is not dict:
        raise InvalidTypeError(_NOT_AN_OBJECT[part])
    for name, value in body.items():
        types = shape.fields.get(name)
        if types is None:
            known = ", ".join(shape.fields)
            raise UnknownFieldError(f"{name[:80]!r} is not a field of this route; it has {known}", name)
        if type(value) not in types:
            *first, last = (text for kind, text in _NAMES.items() if kind in types)
            expected = f"{', '.join(first)} or {last}" if first else last
            raise InvalidTypeError(f"{name} must be {expected}", name)
    for name in shape.required:
        if name not in body:
            raise MissingFieldError(f"{name} is missing", name)
    if (identifier := body.get(shape.id)) is not None and not 0 < len(identifier) <= MAX_ID_LENGTH:
        raise InvalidIdError(f"{shape.id} must have 1 to {MAX_ID_LENGTH} characters", shape.id)
    x = body.get(shape.x)
    if type(x) is dict and len(x) > settings.max_features:
        raise TooManyFeaturesError(
            f"{shape.x} has {len(x)} features; the limit is {settings.max_features} (BNP_MAX_FEATURES)",
            shape.x,
        )
    return body


def _check_lengths(body: dict[str, Any], shape: Shape, settings: Settings) -> None:
    """Refuse strings and lists that a model would have to store; it refuses lists of other values itself."""
    x, y, longest = body.get(shape.x), body.get(shape.y), settings.max_string_length
    if type(y) is str and len(y) > longest:
        raise StringTooLongError(f"a label has at most {longest} characters (BNP_MAX_STRING_LENGTH)", shape.y)
    if type(x) is not dict or not x:
        return
    # One pass of C code each over names and types; a loop here would cost as much as all other checks.
    kinds = {*map(type, x.values())}
    if max(map(len, x)) > longest or str in kinds or list in kinds:
        for name, value in x.items():
            strings = [name, *value] if type(value) is list else [name, value]
            if any(type(each) is str and len(each) > longest for each in strings):
                raise StringTooLongError(
                    f"names and values have at most {longest} characters (BNP_MAX_STRING_LENGTH): send a "
                    "longer text as a list of its words",
                    f"{shape.x}.{name}",
                )
    if list in kinds:
        count = len(x) + sum(len(value) for value in x.values() if type(value) is list)
        if count > settings.max_features:
            raise TooManyFeaturesError(
                f"{shape.x} has {count} features and strings in lists; the limit is {settings.max_features} "
                "(BNP_MAX_FEATURES)",
                shape.x,
            )


async def read_model(request: Request, model: type[M]) -> M:
    """Return the body of a request as a pydantic model.

    Raises
    ------
    InvalidJsonError, DuplicateKeyError, BodyTooLargeError, BodyTimeoutError
        If the body cannot be read or decoded.
    InvalidSpecError
        If a field is invalid or missing; with its name.
    """
    limit = request.app.state.settings.max_body_bytes
    raw = without_mark(await read_body(request.scope, request.receive, limit))
    return as_model(raw, model)


def as_model(raw: bytes, model: type[M]) -> M:
    """Return JSON as a pydantic model; raises as `read_model`."""
    decode(raw)  # pydantic accepts duplicate keys
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        if (count := error.error_count()) > _MOST_ERRORS:  # their description would take seconds
            raise InvalidSpecError(f"the body has {count} invalid or unknown values") from None
        raise InvalidSpecError(*first_problem(error, model)) from None
