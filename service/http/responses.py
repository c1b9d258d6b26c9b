"""HTTP responses: JSON, and the envelopes of errors.

Every error response is made here, for an error of a route, of the guard, of the router or of the protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from bnp_online.errors import SampleError

from ..errors import (
    HTTP_CODES,
    OutOfDescriptorsError,
    RequestError,
    code_of,
    is_out_of_descriptors,
    row,
)
from ..problems import explain
from .requests import headers_of

RIVER = "/api/"
"""Prefix of the paths of the River API Spec."""

_HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PREFIX = re.compile(rb"(/[A-Za-z0-9._~-]+){1,8}")
_LONGEST = 500  # characters: messages and fields quote names of the client, which have any length


encode = partial(orjson.dumps, option=orjson.OPT_NON_STR_KEYS)
"""Returns JSON; floats are written with all their bits, non-finite floats as null.

Keys that are booleans or integers are written as JSON writes such values.
"""
encode_line = partial(orjson.dumps, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
"""Returns JSON as `encode` does, with a line break at the end."""


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response for Starlette to send."""
    return Response(encode(content), status, headers, media_type="application/json")


def error_response(scope: Scope, error: Exception) -> Response:
    """Return the response to a request that raised an error, in the envelope that its client expects.

    Examples
    --------
    >>> from service.errors import UnknownIdError
    >>> error_response({"path": "/api/label/"}, UnknownIdError("no such id", "identifier")).body
    b'{"message":"no such id"}'
    """
    status, body, headers = envelope(error)
    if is_open_inference(scope["path"]):
        return json_response(_inference_error(body["error"]), status, headers)
    if not is_river(scope["path"]):
        return json_response(body, status, headers)
    if status == 401:
        headers["www-authenticate"] = f'Bearer realm="{address(scope)}/api/auth/token/",service="bnp-online"'
    return json_response({"message": body["error"]["message"]}, status, headers)


def envelope(error: Exception) -> tuple[int, dict[str, dict[str, object]], dict[str, str]]:
    """Return the status, body and headers of the response to an error, in the envelope of the native routes.

    Examples
    --------
    >>> from service.errors import UnknownIdError
    >>> envelope(UnknownIdError("no such id", "id"))
    (404, {'error': {'code': 'unknown_id', 'message': 'no such id', 'field': 'id'}}, {})
    """
    if isinstance(error, HTTPException):
        code = HTTP_CODES.get(error.status_code, "http_error")
        return error.status_code, _body(code, str(error.detail), None), dict(error.headers or {})
    if isinstance(error, RequestValidationError):  # a parameter of the path or the query
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][1:]))
        error = RequestError(explain(first, field), field)
    if is_out_of_descriptors(error):
        error = OutOfDescriptorsError(
            "too many files are open: raise the limit of the server, or try again later"
        )
    found = row(type(error))
    headers = {**found.headers, **getattr(error, "headers", {})}
    if found.retry_after is not None:
        headers["retry-after"] = str(found.retry_after)
    # The text of an unexpected error may quote data: it belongs in the log only.
    if found.status == 500:
        message = "internal error: see the log of the server"
    else:
        message = error.in_json() if isinstance(error, SampleError) else str(error)
    return found.status, _body(code_of(error), message, getattr(error, "field", None)), headers


def _body(code: str, message: str, field: str | None) -> dict[str, dict[str, object]]:
    return {"error": {"code": code, "message": message[:_LONGEST], "field": field and field[:_LONGEST]}}


def _inference_error(error: dict[str, object]) -> dict[str, object]:
    return {"error": error["message"], "code": error["code"], "field": error["field"]}


def is_river(path: str) -> bool:
    """Return whether a path belongs to the River API Spec, whether or not it exists.

    Examples
    --------
    >>> is_river("/api"), is_river("/api/nowhere"), is_river("/apiary")
    (True, True, False)
    """
    return path.startswith(RIVER) or path == RIVER[:-1]


def is_open_inference(path: str) -> bool:
    """Return whether a path belongs to the Open Inference Protocol, whether or not it exists.

    Examples
    --------
    >>> is_open_inference("/v2"), is_open_inference("/v2/nowhere"), is_open_inference("/v20")
    (True, True, False)
    """
    return path.startswith("/v2/") or path == "/v2"


def address(scope: Scope) -> str:
    """Return the address under which the client reached the server, empty if the Host header is malformed.

    A proxy that terminates TLS reports it in X-Forwarded-Proto, and a sub-path in X-Forwarded-Prefix.
    Trusting these headers is safe: they can only make the client send its key over https, to the same host.
    """
    headers = headers_of(scope)
    host = headers.get(b"host", b"")
    if _HOST.fullmatch(host) is None:
        return ""
    secure = headers.get(b"x-forwarded-proto", b"").strip().lower() == b"https"
    prefix = headers.get(b"x-forwarded-prefix", b"").rstrip(b"/")
    path = prefix.decode() if _PREFIX.fullmatch(prefix) else ""
    return f"{'https' if secure else scope.get('scheme', 'http')}://{host.decode()}{path}"
