"""Scalars of a line: where each value is, and what it is part of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_BLANK = rb"[ \t\r]*"
_STRING = rb'"(?:[^"\\]|\\.)*"'
_OBJECT = re.compile(_BLANK + rb"\{" + _BLANK)
_CLOSE = re.compile(rb"\}")
_NEXT = re.compile(_BLANK + rb"([,}])" + _BLANK)
_END = re.compile(_BLANK + rb"\Z")
#: A name with a value and the sign behind it, or with the beginning of an object.
_MEMBER = re.compile(
    rb"(%b)%b:%b(?:(%b|[-+.\w]+)%b([,}])|\{)%b" % (_STRING, _BLANK, _BLANK, _STRING, _BLANK, _BLANK)
)
#: Parts of a sample that are one value.
_PARTS = ("y", "w", "id", "model")


class NoTemplateError(Exception):
    """A line has a form of which no template can be made."""


class Fields(NamedTuple):
    """Names of the fields of a line.

    Attributes
    ----------
    features : str or None
        Object with the features; None if they are beside the other fields.
    target, weight, id, model : str or None
        Fields with one value; None if there is no such field.
    """

    features: str | None = "x"
    target: str | None = "y"
    weight: str | None = "w"
    id: str | None = "id"
    model: str | None = "model"

    def part(self, name: str) -> str:
        """Return the part of a sample that a field is: ``"x"``, ``"y"``, ``"w"``, ``"id"`` or ``"model"``.

        Raises
        ------
        NoTemplateError
            If it is none.
        """
        for part, field in zip(_PARTS, self[1:], strict=True):
            if field == name:
                return part
        if self.features is None:
            return "x"
        raise NoTemplateError(f"{name!r:.80} is no field of a sample")


class Scalar(NamedTuple):
    """Value in a line.

    Attributes
    ----------
    part : str
        Part of the sample: ``"x"``, ``"y"``, ``"w"``, ``"id"`` or ``"model"``; empty for a cell that is none.
    name : str
        Name of the feature; empty for other parts.
    start, end : int
        Position of its bytes, with quotation marks.
    """

    part: str
    name: str
    start: int
    end: int


def json_scalars(line: bytes, fields: Fields) -> list[Scalar]:
    """Return the values of a valid JSON object in their order.

    Raises
    ------
    NoTemplateError, ValueError
        If the line has lists, other objects or other fields, or is not JSON.
    """
    reader = _JsonReader(line, fields)
    reader.take(_OBJECT)
    scalars = [*reader.members()]
    reader.take(_END)
    return scalars


class _JsonReader:
    """Reader of the values of a JSON object, from left to right."""

    def __init__(self, line: bytes, fields: Fields) -> None:
        self._line = line
        self._fields = fields
        self._at = 0

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """Read on behind a pattern.

        Raises
        ------
        NoTemplateError
            If the line goes on otherwise.
        """
        found = pattern.match(self._line, self._at)
        if found is None:
            raise NoTemplateError(f"byte {self._at + 1} of the line is not as expected")
        self._at = found.end()
        return found

    def members(self, *, nested: bool = False) -> Iterator[Scalar]:
        """Yield the values of an object behind its bracket, and of the object with the features in it."""
        if _CLOSE.match(self._line, self._at) is not None:
            self.take(_CLOSE)
            return
        more = True
        while more:
            found = self.take(_MEMBER)
            name = _name(found[1])
            if found[2] is not None:
                part = "x" if nested else self._fields.part(name)
                yield Scalar(part, name if part == "x" else "", *found.span(2))
            elif nested or name != self._fields.features:
                raise NoTemplateError(f"{name!r:.80} is an object")
            else:
                yield from self.members(nested=True)
                found = self.take(_NEXT)
            more = found[found.lastindex or 0] == b","


def _name(text: bytes) -> str:
    """Return the name in a text with quotation marks."""
    return str(json.loads(text.decode())) if b"\\" in text else text[1:-1].decode()


def cell_scalars(line: bytes, fields: Fields, header: Sequence[str | None], separator: bytes) -> list[Scalar]:
    """Return the cells of a row of CSV, without the spaces around them.

    Raises
    ------
    NoTemplateError
        If there are more or fewer cells than names, or a cell has a quotation mark inside.
    """
    sign = re.escape(separator)
    cell = re.compile(rb' *("[^"\r\n]*"|[^"\r\n' + sign + rb"]*?) *(" + sign + rb"|\r?\Z)")
    scalars, at, more = list[Scalar](), 0, True
    while more:
        found = cell.match(line, at)
        if found is None or len(scalars) == len(header):
            raise NoTemplateError(f"byte {at + 1} of the row is not as expected")
        name, at, more = header[len(scalars)], found.end(), found[2] == separator
        part = "" if name is None else fields.part(name)
        scalars.append(Scalar(part, name if name and part == "x" else "", *found.span(1)))
    if len(scalars) < len(header):
        raise NoTemplateError(f"the row has {len(scalars)} cells, the header {len(header)}")
    return scalars
