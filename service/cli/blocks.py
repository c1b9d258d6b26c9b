"""Blocks of a file: lines that are like earlier ones, read and learned together in this process."""

from __future__ import annotations

from typing import Any, TypeAlias

import bnp_online as bnp
from bnp_online.blocks import Fields, padded
from bnp_online.files import LineForm, Row, Samples
from bnp_online.learner import BlockReader
from bnp_online.values import SampleRows

Estimator: TypeAlias = bnp.BNPClassifier | bnp.BNPRegressor

#: Fewest and most lines that are read at once.
_FEWEST, _MOST = 2, 256
_MAX_LINE, _MAX_ID = 2**20, 128


class FileBlocks:
    """Reader of a file by templates of lines that were read as rows.

    Parameters
    ----------
    rows : Samples
        The file.
    estimator : BNPClassifier or BNPRegressor
        The model.
    """

    def __init__(self, rows: Samples, estimator: Estimator) -> None:
        self._rows = rows
        self._estimator = estimator
        self._form: LineForm | None = None
        self._reader: BlockReader | None = None
        self._most = _MOST

    def read(self) -> SampleRows | None:
        """Return the samples of the next lines; None if the next line must be read as a row.

        The caller skips the lines of those that it learns.
        """
        if self._reader is None or self._rows.line_form != self._form:
            return None
        lines = self._rows.ahead(self._most)
        if len(lines) < _FEWEST:
            return None
        text = "\n".join([line.rstrip("\r\n") for line in lines]) + "\n"
        found = self._reader.read(self._estimator, padded(text.encode()), 0, len(lines))
        count = 0 if found is None else len(found.lines)
        # What ends a block early may do so at every line: then only few lines are parsed in vain.
        self._most = min(_MOST, 4 * self._most) if count == len(lines) else max(_FEWEST, 2 * count)
        return None if found is None else found.rows

    def note(self, row: Row) -> None:
        """Take a template from the line of the latest row, which was learned."""
        line, form = self._rows.line, self._rows.line_form
        if line is None or form is None:
            return
        if self._reader is None or form != self._form:
            fields = Fields(form.features, form.target, form.weight, form.id, None)
            options: dict[str, Any] = {}
            if form.header is not None:
                options = {"header": form.header, "separator": form.sep, "numbers": form.numbers}
            self._form = form
            self._reader = BlockReader(max_line=_MAX_LINE, max_id=_MAX_ID, fields=fields, **options)
        decoded = {"x": row.x, "y": row.y, "w": row.w, "id": row.id}
        self._reader.note(self._estimator, line.rstrip("\r\n").encode(), decoded)
