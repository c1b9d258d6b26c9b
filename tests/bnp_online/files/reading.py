"""Read a text or a file with the public function, for the tests of this folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

from bnp_online.files import Row, read_samples


class Read:
    """Rows of a file, and the notices."""

    def __init__(
        self, file: str | bytes | Path | IO[bytes], target: str | None = "y", **options: Any
    ) -> None:
        self.notices: list[str] = []
        if isinstance(file, str | bytes):
            file = io.BytesIO(file.encode() if isinstance(file, str) else file)
        with read_samples(file, target, notice=self.notices.append, **options) as rows:
            self.rows: list[Row] = list(rows)
            self.fraction = rows.fraction

    @property
    def x(self) -> list[Any]:
        return [row.x for row in self.rows]

    @property
    def y(self) -> list[Any]:
        return [row.y for row in self.rows]

    @property
    def errors(self) -> dict[int, str]:
        return {row.number: row.error for row in self.rows if row.error is not None}


def column(cells: list[str], name: str = "a", **options: Any) -> list[Any]:
    """The features of a column of CSV with these cells."""
    text = f"{name};y\n" + "".join(f"{cell};1\n" for cell in cells)
    read = Read(text, sep=";", **options)
    assert not read.errors
    return [x[name] for x in read.x]
