"""Rows of NDJSON: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .delimited import InvalidRow
from .source import FileError


class _RepeatedKeyError(Exception):
    """A JSON object has a key twice."""


def read_json_lines(lines: Iterator[str]) -> Iterator[dict[str, Any] | InvalidRow]:
    """Yield the object of each line; empty lines are skipped.

    Raises
    ------
    FileError
        If the file is one JSON document, not one per line.
    """
    first = True
    for line in lines:
        line = line.removeprefix("\ufeff")  # files with byte order marks may have been joined
        if line.isspace():
            continue
        row = _parsed(line)
        if first and not isinstance(row, dict) and line.lstrip()[:1] in ("[", "{") and _document(line):
            raise FileError(
                "is one JSON document: write one object per line, for example with jq -c '.[]', or in pandas "
                "with to_json(orient='records', lines=True)"
            )
        first = False
        yield row


def _parsed(line: str) -> dict[str, Any] | InvalidRow:
    try:
        row = _DECODER.decode(line)
        if line.count(":") != _keys(row):  # a key is there twice, or a string has a colon
            row = _UNIQUE.decode(line)
    except _RepeatedKeyError as error:
        return InvalidRow(f"has the key {error.args[0]!r} twice: rename or remove one of them", {})
    except ValueError as error:
        return InvalidRow(f"is not JSON: {error}", {})
    except RecursionError:
        return InvalidRow("is not a sample: it is nested too deeply", {})
    return row if isinstance(row, dict) else InvalidRow("is not a JSON object", {})


def _keys(row: Any) -> int:
    """Return the number of keys of an object and of the objects in it."""
    if not isinstance(row, dict):
        return -1
    return len(row) + sum(len(value) for value in row.values() if isinstance(value, dict))


def _document(line: str) -> bool:
    """Return whether a line starts a document of several lines, or is an array."""
    return line.strip() in ("[", "{") or line.lstrip().startswith(("[{", "[ {"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return value


def _constant(word: str) -> float | None:
    """Return the number of a word that JSON does not have; NaN is a missing value."""
    return None if word == "NaN" else float(word)


_DECODER = json.JSONDecoder(parse_constant=_constant)
_UNIQUE = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
