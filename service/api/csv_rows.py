"""Bodies of CSV: a header, then one sample per line.

The parameters of the query name the columns that are no features. Each line becomes the JSON that means the
same; from there on it is a line of NDJSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from bnp_online.files import FileError, Known, Roles, RowReader
from bnp_online.learner import OnlineLearner

from ..blocks import BlockLines, Cells, LineReader
from ..errors import InvalidRowError, InvalidTableError, RequestError
from ..http.content import without_mark
from ..http.requests import Shape, check_fields
from ..models.hosted import HostedModel
from ..settings import Settings
from .line_splitter import LineGroup, LineSplitter


def roles_of(named: Mapping[str, str], *, labelled: bool) -> Roles:
    """Return the columns that the query of a request names.

    Parameters
    ----------
    named : mapping of str to str
        Parameters of the query: ``target``, ``id`` or ``weight``.
    labelled : bool
        Whether a target is required.

    Raises
    ------
    RequestError
        If the name of a column is empty, or there is no target.
    """
    for name, column in named.items():
        if not column:
            raise RequestError(f"{name} must be the name of a column", name)
    if labelled and "target" not in named:
        raise RequestError(
            "the column with the target is unknown: name it in the query, as in ?target=y", "target"
        )
    return Roles(**named)


def known_by(learner: Any) -> Known:
    """Return what a model knows of the columns of a table."""
    labels = () if learner.task == "regression" else learner.labels
    return Known(learner.task, labels, learner.feature_names, [*learner.fields], learner.text)


class CsvRows:
    """Rows of one body of CSV.

    Parameters
    ----------
    roles : Roles
        Columns that are no features.
    shape : Shape
        Shape of a sample.
    settings : Settings
        Limits.
    lines : LineReader
        The server's, for samples to learn or to predict.
    model : HostedModel
        The model that learns or predicts them.
    """

    def __init__(
        self, roles: Roles, shape: Shape, settings: Settings, lines: LineReader, model: HostedModel
    ) -> None:
        self._roles = roles
        self._shape = shape
        self._settings = settings
        self._lines = lines
        self._model = model
        self._reader: RowReader | None = None
        self._split = LineSplitter(settings.max_body_bytes).feed

    def split(self, chunk: bytes, last: bool) -> Iterator[LineGroup]:
        """Yield the lines behind the header that end in a chunk.

        Raises
        ------
        InvalidTableError
            If there is no header, or a column is missing.
        """
        lines = self._split(chunk, last)
        if self._reader is None and len(lines):
            self._begin(lines[0].raw)
            lines = lines[1:]
        if self._reader is None and last:
            raise InvalidTableError("the body is empty: begin it with the names of the columns", "header")
        yield lines

    def _begin(self, header: bytes | None) -> None:
        model = self._model
        if header is None:
            raise InvalidTableError("the header is longer than a body may be (BNP_MAX_BODY_BYTES)", "header")
        names = header.count(b",") + 1
        if names > (most := self._settings.max_features + len(self._roles)):
            raise InvalidTableError(
                f"the header has {names} columns; the limit is {most} (BNP_MAX_FEATURES)", "header"
            )
        try:
            self._reader = RowReader(
                without_mark(header).decode(),
                self._roles,
                known_by(model.estimator),
                labelled=bool(self._shape.y),
            )
        except UnicodeDecodeError:
            raise InvalidTableError("the header is not in UTF-8: send CSV in UTF-8", "header") from None
        except FileError as error:
            raise InvalidTableError(f"the header {error}", "header") from None

    def read(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the fields of a line, and the line as JSON.

        Raises
        ------
        InvalidRowError
            If it is no row, or has no target.
        RequestError
            As `service.http.requests.read_fields`.
        """
        assert self._reader is not None  # noqa: S101 (the stream begins with the header)
        try:
            found = self._reader.read(line.decode())
        except UnicodeDecodeError:
            raise InvalidRowError("the line is not in UTF-8: send CSV in UTF-8") from None
        if not isinstance(found, dict):
            raise InvalidRowError(f"the line {found.reason}")
        fields = {name: value for name, value in found.items() if name in self._shape.fields}
        return check_fields(fields, self._shape, self._settings, "line"), orjson.dumps(fields)

    # As of `LineReader`, for `SampleBatch`

    def model_of(self, line: bytes) -> None:
        """Return the name of the model in a line: there is none."""

    def note(self, owner: object, learner: OnlineLearner, line: bytes, fields: Mapping[str, Any]) -> None:
        """Take a template from a line, if the types of all columns are known."""
        if (cells := self._cells()) is not None:
            self._lines.note(owner, learner, line, fields, cells)

    def open(self, owner: object, lines: Sequence[bytes]) -> BlockLines | None:
        """Return the lines of the model, to read blocks from them; None if there is no template."""
        cells = self._cells()
        return None if cells is None else self._lines.open(owner, lines, cells)

    def _cells(self) -> Cells | None:
        assert self._reader is not None  # noqa: S101 (as above)
        names, kinds, roles = tuple(self._reader.names), self._reader.kinds, self._roles
        if not self._shape.y:
            if roles.id is not None:
                return None  # the predictions are kept
            names, roles = (
                tuple(name if kind else None for name, kind in zip(names, kinds, strict=True)),
                Roles(),
            )
        return None if "other" in kinds else Cells(names, kinds, roles)
