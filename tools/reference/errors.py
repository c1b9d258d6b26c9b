"""Reference page of errors, from the table in `service.errors`."""

from __future__ import annotations

import re
from collections import defaultdict
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect

from bnp_online.errors import SampleError
from service.errors import HTTP_CODES, TABLE, Row
from tools.reference.markdown import document, table

_INTRODUCTION = """\
# Errors

Every error is `{"error": {"code": "unknown_model", "message": "…", "field": "model"}}`. `code` is for
programs, `message` is for people, and `field` names the part of the request at fault (or is null). A refused
request changes nothing. Where the last column has a number, the response has the header `Retry-After` with
that many seconds; the [client](../how-to/send-samples.md#the-python-clients) repeats such a request
automatically. In a stream, an error contains the number of its line: `{"error": {…}, "line": 2}`.
"""
_OF_HTTP = {
    "not_found": "The path does not exist.",
    "method_not_allowed": "The path does not support this method.",
}
_UNEXPECTED = "An unexpected error. The log has its traceback, without the content of the request."
#: Errors of the framework.
_FOREIGN: dict[type[Exception], str] = {
    ClientDisconnect: "The client disconnected before it had sent the whole body.",
    RequestValidationError: "A parameter in the path or the query is invalid.",
}


def page() -> str:
    """Return the page of all codes, by status."""
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    retries: dict[tuple[int, str], int | None] = {}
    for error, row in TABLE.items():
        for code in _codes(row):
            found[row.status, code].append(_meaning(error))
            retries[row.status, code] = row.retry_after
    for status, code in HTTP_CODES.items():
        found[status, code].append(_OF_HTTP[code])
    sections = []
    for status in sorted({status for status, _ in found}):
        rows = [
            (f"`{code}`", " ".join(dict.fromkeys(meanings)), str(retries.get((of, code)) or ""))
            for (of, code), meanings in sorted(found.items())
            if of == status
        ]
        title = f"## {status} {HTTPStatus(status).phrase}"
        sections += [title, table(["code", "what is wrong", "retry after, s"], rows)]
    return document(_INTRODUCTION, *sections)


def _codes(row: Row) -> list[str]:
    """Return the code of a row; a sample's error carries its own, which its class lists."""
    listed = (SampleError.__doc__ or "").partition("code : str")[2].partition("field : str")[0]
    return [row.code] if row.code else re.findall(r'``"(\w+)"``', listed)


def _meaning(error: type[Exception]) -> str:
    if TABLE[error].code == "internal_error":
        return _UNEXPECTED
    return _FOREIGN.get(error) or (error.__doc__ or "").strip().partition("\n\n")[0]
