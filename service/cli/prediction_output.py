"""Output of ``predict``: a line of CSV or NDJSON per row of the input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .options import nearest
from .output import CommandError, Sink, note

if TYPE_CHECKING:
    from bnp_online.files import Row


@dataclass(frozen=True)
class Prediction:
    """Prediction for a row, or the reason why there is none: a predicate of the row."""

    value: Any = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """By the name of the class, as in JSON."""
    error: str | None = None


class Output(Protocol):
    """Writes predictions, one per row of the input."""

    def write(self, row: Row, prediction: Prediction) -> None:
        """Write a prediction."""


class JsonOutput:
    """Predictions as NDJSON."""

    def __init__(self, sink: Sink, classes: Sequence[str], with_input: bool, identifier: str | None) -> None:
        self._sink = sink
        self._with_input = with_input
        self._identifier = identifier

    def write(self, row: Row, prediction: Prediction) -> None:
        """Write a prediction as a line."""
        line: dict[str, Any] = {}
        if self._identifier is not None:
            line["id"] = _identifier(row, self._identifier)
        if self._with_input:
            line["input"] = row.source
        if prediction.error is not None:
            line["error"] = f"row {row.number} {prediction.error}"
        else:
            line["prediction"] = prediction.value
            if prediction.probabilities:
                line["probabilities"] = prediction.probabilities
        self._sink.write(json.dumps(line, default=str).encode() + b"\n")


class CsvOutput:
    """Predictions as CSV: columns of the input, ``prediction``, ``probability_CLASS``, and ``error``.

    A name that a column of the input has gets a number: ``prediction_2``.
    """

    def __init__(self, sink: Sink, classes: Sequence[str], with_input: bool, identifier: str | None) -> None:
        self._sink = sink
        self._classes = classes
        self._with_input = with_input
        self._identifier = identifier
        self._columns: list[str] | None = None
        self._known: set[str] = set()  # the columns, and names that were reported
        self._text = io.StringIO()
        self._csv = csv.writer(self._text, lineterminator="\n")

    def write(self, row: Row, prediction: Prediction) -> None:
        """Write a prediction as a line; before the first one, the header."""
        if self._columns is None:
            self._columns = self._of_input(row)
            self._known = {*self._columns}
            names = ["prediction", *(f"probability_{name}" for name in self._classes), "error"]
            self._line([*self._columns, *_distinct(names, self._columns)])
        elif self._with_input and (further := row.source.keys() - self._known):
            self._known |= further
            listed = ", ".join(map(repr, sorted(map(str, further))))
            note(
                f"row {row.number} has {listed}, which the first row lacks: the output has no such column; "
                "--output-format ndjson writes it"
            )
        if self._identifier is not None:
            _identifier(row, self._identifier)
        self._line(
            [
                *(_cell(row.source.get(name)) for name in self._columns),
                _cell(prediction.value),
                *(_cell(prediction.probabilities.get(name)) for name in self._classes),
                prediction.error or "",
            ]
        )

    def _of_input(self, row: Row) -> list[str]:
        columns = [] if self._identifier is None else [self._identifier]
        return columns + [name for name in row.source if name not in columns] if self._with_input else columns

    def _line(self, cells: Sequence[Any]) -> None:
        self._csv.writerow(cells)
        self._sink.write(self._text.getvalue().encode("utf-8", "backslashreplace"))
        self._text.seek(0)
        self._text.truncate()


def _identifier(row: Row, column: str) -> Any:
    """Return the value of a column of the file; an invalid row may lack it."""
    if column not in row.source and row.error is None:
        hint = nearest(column, list(map(str, row.source)))
        raise CommandError(
            f"Row {row.number} has no column {column!r} for --id: {hint or 'check the name'}", 2
        )
    return row.source.get(column)


def _distinct(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Return names with a number after each that is taken."""
    used, distinct = set(taken), []
    for name in names:
        number, free = 1, name
        while free in used:
            number += 1
            free = f"{name}_{number}"
        used.add(free)
        distinct.append(free)
    return distinct


def _cell(value: Any) -> Any:
    """Return a value as the cell of a CSV file."""
    if isinstance(value, bool | dict | list):
        return json.dumps(value)
    return "" if value is None else value
