"""Lines read by the exact path: as the server decodes and checks a line of a stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnp_online import SampleError
from bnp_online.blocks import Parsed, Templates, padded
from bnp_online.values import check_features, check_label, check_number, check_weight
from service.errors import RequestError
from service.http.requests import Shape, read_fields
from service.schemas import LearnBody
from service.settings import Settings

_SHAPE, _SETTINGS = Shape.of(LearnBody), Settings()


def bits(value: float) -> bytes:
    """Return the bits of a float64; one value for all NaN."""
    return b"nan" if value != value else struct.pack("<d", value)


@dataclass(frozen=True)
class Reading:
    """What a line means: bits of numbers, None for a missing value, and strings by feature."""

    x: Mapping[str, bytes | str]
    y: Any
    kind: type
    w: bytes
    id: str | None
    model: str | None


def decode(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line; None if it is refused."""
    try:
        return read_fields(line, _SHAPE, _SETTINGS, "line")
    except RequestError:
        return None


def reading(fields: Mapping[str, Any] | None, *, regression: bool = False) -> Reading | None:
    """Return what the fields of a line mean; None if the sample is refused."""
    if fields is None:
        return None
    try:
        checked = check_features(fields["x"])
        y: Any = (check_number if regression else check_label)(fields["y"])
        w = check_weight(1.0 if fields.get("w") is None else fields["w"])
    except SampleError:
        return None
    x: dict[str, bytes | str] = {name: bits(float("nan")) for name in checked.missing}
    for column, value in checked.values.items():
        x |= {column: bits(value)} if isinstance(column, str) else {str(column[0]): str(column[1])}
    y = bits(y) if regression else y
    return Reading(x, y, type(y), bits(w), fields.get("id"), fields.get("model"))


def parsed_reading(
    templates: Templates,
    columns: Mapping[str, int],
    buffer: NDArray[np.uint8],
    parsed: Parsed,
    i: int,
    *,
    regression: bool = False,
) -> Reading:
    """Return what a parsed line means; a feature with the value 0 may also be absent."""
    x: dict[str, bytes | str] = {name: bits(parsed.rows[i, column]) for name, column in columns.items()}
    for (name, values), code in zip(templates.strings.items(), parsed.strings[i].tolist(), strict=False):
        if code >= 0:
            x[name] = values[code]
    label, model, (start, end) = int(parsed.labels[i]), int(parsed.models[i]), parsed.ids[i].tolist()
    y: Any = bits(parsed.targets[i]) if regression else templates.labels[label]
    return Reading(
        x,
        y,
        type(y),
        bits(parsed.weights[i]),
        None if start < 0 else buffer[start:end].tobytes().decode(),
        None if model < 0 else templates.models[model],
    )


def with_absent(found: Reading, columns: Mapping[str, int]) -> Reading:
    """Return a reading in which absent numbers are 0, as in a row."""
    x = dict.fromkeys(columns, bits(0.0)) | dict(found.x)
    return Reading(x, found.y, found.kind, found.w, found.id, found.model)


@dataclass
class Stream:
    """Reader of a stream of lines: by templates where they fit, and by the exact path elsewhere.

    Attributes
    ----------
    parsed : int
        Lines that were parsed by templates.
    """

    templates: Templates
    columns: Mapping[str, int]
    regression: bool = False
    learns: bool = True
    parsed: int = 0

    def read(self, data: bytes, most: int = 256) -> Iterator[Reading | None]:
        """Yield what each line means; each line has a line feed."""
        buffer, at = padded(data), 0
        while at < len(data):
            parsed = self.templates.parse(buffer, at, most=most)
            for i in range(parsed.count):
                self.parsed += 1
                yield parsed_reading(
                    self.templates, self.columns, buffer, parsed, i, regression=self.regression
                )
            at = parsed.end
            if parsed.count == most or at == len(data):
                continue
            end = data.index(b"\n", at)
            line = data[at:end]
            fields = decode(line)
            found = reading(fields, regression=self.regression)
            yield None if found is None else with_absent(found, self.columns)
            if found is not None and fields is not None and self.learns:
                self.templates.learn(line, fields)
            at = end + 1


def exact_readings(
    data: bytes, columns: Mapping[str, int], *, regression: bool = False
) -> list[Reading | None]:
    """Return what each line means by the exact path alone."""
    found = (reading(decode(line), regression=regression) for line in data.split(b"\n")[:-1])
    return [None if each is None else with_absent(each, columns) for each in found]
