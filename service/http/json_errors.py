"""Errors of bodies that are not JSON: each names the mistake and the remedy where it is a known one."""

from __future__ import annotations

import math

import jiter

from ..errors import DuplicateKeyError, InvalidJsonError, RequestError
from .content import JSON, NDJSON


def not_json(raw: bytes, message: str, part: str) -> RequestError:
    """Return the error for bytes that are not JSON.

    Parameters
    ----------
    raw : bytes
        The bytes.
    message : str
        Message of the decoder.
    part : str
        Name of the bytes: ``"body"`` or ``"line"``.
    """
    if message.startswith("Detected duplicate key"):
        return DuplicateKeyError(message)
    field = None
    if not raw.strip():
        message = "it is empty"
    elif raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:4]:
        message = "it is in UTF-16 or UTF-32: send it in UTF-8"
    elif b"NaN" in raw or b"Infinity" in raw:
        field = _first_non_finite(raw)
        message = f"{field} is NaN or infinite" if field else message
        message += "; JSON has no NaN and no Infinity: send null for a missing value"
    elif part == "line" and message.startswith("EOF"):
        message += f"; a line of {NDJSON} has a whole JSON value: send others with Content-Type: {JSON}"
    elif part == "body" and message.startswith("trailing characters") and _has_lines(raw):
        message += f"; send one JSON value per line with Content-Type: {NDJSON}"
    return InvalidJsonError(f"the {part} is not valid JSON: {message}", field)


def _has_lines(raw: bytes) -> bool:
    """Return whether the first line is a JSON value and another one follows."""
    line, _, rest = raw.strip().partition(b"\n")
    try:
        jiter.from_json(line)
    except ValueError:
        return False
    return bool(rest)


def _first_non_finite(raw: bytes) -> str | None:
    """Return the name of the first field that is NaN or infinite; None if there is none."""
    try:
        value = jiter.from_json(raw)
    except ValueError:
        return None
    waiting = [("", value)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return name or None
        if isinstance(value, list):
            waiting += reversed([(f"{name}[{i}]", each) for i, each in enumerate(value)])
        elif isinstance(value, dict):
            prefix = f"{name}." if name else ""
            waiting += reversed([(f"{prefix}{key}", each) for key, each in value.items()])
    return None
