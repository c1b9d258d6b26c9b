"""Parameters of the reader that concern no single cell, and the format of the file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from .source import FileError, Source
from .targets import LabelType, Task

Format: TypeAlias = Literal["csv", "tsv", "ndjson", "parquet", "arrow"]
Dates: TypeAlias = Literal["raw", "calendar", "drop"]

_SUFFIXES: dict[str, Format] = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
}
_COMPRESSED = frozenset({".gz", ".gzip", ".zst", ".zstd"})
_MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}


class Choices(NamedTuple):
    """Parameters of `read_samples` that concern no single cell."""

    target: str | None
    labelled: bool
    format: Format | None
    sep: str | None
    drop: frozenset[str]
    labels: LabelType | None
    encoding: str | None
    task: Task

    def check(self, decimal: str, dates: str) -> None:
        """Refuse parameters that have no meaning."""
        if self.target is not None and self.target in self.drop:
            raise FileError(f"--target and --drop both name {self.target!r}: the target is no feature")
        if self.sep is not None and (len(self.sep) != 1 or self.sep in '"\r\n'):
            raise FileError(f"--sep {self.sep!r}: a separator is one character; \\t is a tab")
        for option, value, allowed in (
            ("decimal", decimal, (".", ",")),
            ("dates", dates, get_args(Dates)),
            ("labels", self.labels, (None, *get_args(LabelType))),
            ("task", self.task, get_args(Task)),
            ("format", self.format, (None, *get_args(Format))),
        ):
            if value not in allowed:
                raise FileError(f"--{option} {value}: choose {', '.join(word for word in allowed if word)}")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError:
                raise FileError(
                    f"--encoding {self.encoding}: there is no such encoding; frequent ones are utf-8, "
                    "utf-16, latin-1 and cp1252"
                ) from None


def nearest(name: str, names: list[str]) -> str:
    """Return the words that name the columns, the most similar first."""
    lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.strip().lower(), lower, 1)
    said = f": is {lower[near[0]]!r} meant?" if near else "."
    shown = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
    return f"{said} The columns are {shown}"


def format_of(source: Source, given: Format | None) -> Format:
    """Return the format by the content of the file, and for text by its suffix."""
    if not source.head:
        raise FileError("is empty")
    found = next((form for magic, form in _MAGIC.items() if source.head.startswith(magic)), None)
    if given is not None:
        if found != (given if given in _MAGIC.values() else None):
            what = f"is a file of the format {found}" if found else f"is not of the format {given}"
            raise FileError(f"{what}: leave out --format {given}")
        return given
    if found is not None:
        return found
    suffixes = [suffix.lower() for suffix in Path(source.name).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    start = source.head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if start.startswith(b'{"') or (start[:1] in (b"{", b"[") and suffix not in (".csv", ".tsv", ".tab")):
        return "ndjson"
    return _SUFFIXES.get(suffix, "csv")
