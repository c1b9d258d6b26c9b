"""``predict``: predictions of a file, by a model in a file or at a server, as CSV or NDJSON."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bnp_online.client import Client, ServerError
from bnp_online.errors import NonFiniteStateError, SampleError

from ..telemetry.progress import progress
from .options import (
    DEFAULT_MODEL,
    Key,
    Load,
    Model,
    SampleFile,
    Url,
    connected,
    reads_samples,
)
from .output import CommandError, Sink, note, written
from .prediction_output import CsvOutput, JsonOutput, Output, Prediction

if TYPE_CHECKING:
    from bnp_online.files import Row

    from .learners import Estimator

#: Largest number of unknown features that are named.
_NAMED = 10
#: End of the name of a column that the model computes.
_DERIVED = re.compile(r" \((count|log|evidence \d+(, wide)?)\)$")


@dataclass(frozen=True)
class Predictor:
    """Model that predicts.

    Attributes
    ----------
    predict : callable
        Takes rows, and yields each with its prediction, in order.
    classes : tuple of str
        Names of the classes, as in JSON; empty for a regression.
    features : frozenset of str
        Columns of the model; a string feature has a column ``name=value`` for each value.
    fields : frozenset of str
        Its features with words, or with more values than columns.
    """

    predict: Callable[[Iterable[Row]], Iterator[tuple[Row, Prediction]]]
    classes: tuple[str, ...]
    features: frozenset[str]
    fields: frozenset[str]


@reads_samples
def predict(
    source: SampleFile,
    load: Load = None,
    url: Url = None,
    model: Model = None,
    key: Key = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the predictions.")] = None,
    output_format: Annotated[
        Literal["csv", "ndjson"] | None,
        typer.Option(help="Default: csv for an output file .csv, otherwise ndjson."),
    ] = None,
    with_input: Annotated[bool, typer.Option("--with-input", help="Write the row of the file too.")] = False,
    identifier: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="Write this column of the file too.")
    ] = None,
) -> None:
    """Predict each sample of a file, in order: one line per row of the file. The model does not change.

    A line of NDJSON has the `prediction` and, for a classification, the `probabilities` of the classes; with
    --id an `id`, and with --with-input the row as `input`. CSV has the columns `prediction`,
    `probability_CLASS` for each class, and those of the row. The line of an invalid row has an `error`.
    """
    if (url is None) == (load is None):
        raise CommandError("Which model should predict? Give --load FILE, or --url of a server.", 2)
    if url is None and model is not None:
        raise CommandError("--model is the name of a model of a server: give --url in place of --load.", 2)
    as_csv = (
        output_format == "csv" if output_format else output is not None and output.suffix.lower() == ".csv"
    )
    with (
        sink_of(output) as sink,
        _predictor(load, url, key, model or DEFAULT_MODEL) as predictor,
        source.rows(labelled=False, features=predictor.features, fields=predictor.fields) as rows,
        progress(f"predicting {source.name}", None, fraction=lambda: rows.fraction) as done,
    ):
        writer = CsvOutput if as_csv else JsonOutput
        invalid = _write(rows, predictor, writer(sink, predictor.classes, with_input, identifier), done)
    refuse_invalid(invalid)


def refuse_invalid(count: int) -> None:
    """Raise `CommandError` if rows were invalid."""
    if count:
        raise CommandError(
            "1 row is invalid: its line in the output gives the reason"
            if count == 1
            else f"{count:,} rows are invalid: their lines in the output give the reasons"
        )


def _write(rows: Iterable[Row], predictor: Predictor, output: Output, done: Callable[[int], None]) -> int:
    """Write a prediction for each row, report unknown features, and return the number of invalid rows."""
    unknown, invalid = Unknown(predictor.features, predictor.fields), 0
    for n, (row, prediction) in enumerate(predictor.predict(rows), 1):
        if row.error is None:
            unknown.add(row.x)
        invalid += prediction.error is not None
        output.write(row, prediction)
        done(n)
    unknown.report()
    return invalid


class Unknown:
    """Names of features that a model does not know.

    Parameters
    ----------
    columns : set of str
        Columns of the model.
    fields : set of str
        Its features with words, or with more values than columns. Counts are a field ``PREFIX*``, and rare
        numbers the field ``*``.

    Attributes
    ----------
    learned : list of str
        Names of features that the model knows.
    names : list of str
        Unknown names in the samples so far, about the first ten.
    any_known : bool
        Whether a sample had a known feature.
    """

    def __init__(self, columns: frozenset[str], fields: frozenset[str] = frozenset()) -> None:
        from bnp_online.files import string_features  # late: it takes a tenth of a second

        strings = string_features(columns) | fields
        self._known = strings | columns
        self._prefixes = tuple(name[:-1] for name in fields if name.endswith("*"))
        self.learned = sorted(
            strings | {name for name in columns if "=" not in name and not _DERIVED.search(name)}
        )
        self.names: list[str] = []
        self.any_known = False

    def add(self, x: Any) -> None:
        """Take in the features of a sample."""
        if isinstance(x, dict) and self._known:
            unknown = {name for name in x.keys() - self._known if not name.startswith(self._prefixes)}
            self.any_known = self.any_known or len(unknown) < len(x)
            if unknown and len(self.names) <= _NAMED:
                self.names += sorted(map(str, unknown.difference(self.names)))

    def report(self) -> None:
        """Name the unknown features.

        Raises
        ------
        CommandError
            If no feature is known.
        """
        if self.names and not self.any_known:
            raise CommandError(
                f"The model knows no column of the file: it learned {_listed(self.learned)}; "
                "give the file the columns that the model learned"
            )
        if self.names:
            note(f"The model does not know, and does not use: {_listed(self.names)}.")


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


@contextlib.contextmanager
def sink_of(output: Path | None) -> Iterator[Sink]:
    """Yield the output of a command: a file, or the standard output."""
    if output is None:
        yield Sink(sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        with written(output) as file:
            yield file


@contextlib.contextmanager
def _predictor(load: Path | None, url: str | None, key: str | None, model: str) -> Iterator[Predictor]:
    if url is not None:
        with connected(url, key) as client:
            described = client.describe(model)
            classes = tuple(map(_name, described.classes))
            fields = frozenset((*described.spec.text, *described.fields))
            yield Predictor(partial(_remote, client, model), classes, frozenset(described.features), fields)
    elif load is not None:
        from .learners import load_estimator  # late: torch

        estimator = load_estimator(load)
        classes = tuple(map(_name, getattr(estimator, "labels", ())))
        fields = frozenset((*estimator.text, *estimator.fields))
        yield Predictor(partial(_local, estimator), classes, frozenset(estimator.feature_names), fields)


def _local(estimator: Estimator, rows: Iterable[Row]) -> Iterator[tuple[Row, Prediction]]:
    for row in rows:
        if row.error is not None:
            yield row, Prediction(error=row.error)
            continue
        try:
            value, by_class = estimator.predict(row.x)
        except (SampleError, NonFiniteStateError) as error:
            yield row, Prediction(error=f"is invalid: {error}")
        else:
            yield row, Prediction(value, {_name(label): p for label, p in by_class.items()})


def _remote(client: Client, model: str, rows: Iterable[Row]) -> Iterator[tuple[Row, Prediction]]:
    waiting: deque[Row] = deque()

    def samples() -> Iterator[Any]:
        for row in rows:
            waiting.append(row)
            if row.error is None:
                yield row.x

    for answer in client.predict_many(samples(), model=model):
        while (row := waiting.popleft()).error is not None:
            yield row, Prediction(error=row.error)
        if isinstance(answer, ServerError):
            yield row, Prediction(error=f"is invalid: {answer.message}")
        else:
            yield row, Prediction(answer.prediction, answer.probabilities or {})
    for row in waiting:
        yield row, Prediction(error=row.error)


def _name(label: Any) -> str:
    """Return a label as the server writes it in a key of JSON."""
    return label if isinstance(label, str) else json.dumps(label)
