"""Streams of strings, words and ids by name, in their order: files and generated ones."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from bnp_online.engines.base import Task
from bnp_online.words import words

from ..common.streams import Sample, Stream
from . import generated

#: The text of a stream of texts.
TEXT = "text"


class Samples(Sequence[Sample]):
    """Sequence that makes each sample on access, with new strings, as they come from a network or a file.

    A string that was looked up before keeps its hash, and is found faster.

    Parameters
    ----------
    count : int
        Number of samples.
    make : callable of (int)
        Returns a sample.
    """

    def __init__(self, count: int, make: Callable[[int], Sample]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> Sample: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Sample]: ...

    def __getitem__(self, i: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(i, slice):
            return [self._make(j) for j in range(*i.indices(self._count))]
        return self._make(range(self._count)[i])

    def __iter__(self) -> Iterator[Sample]:
        return map(self._make, range(self._count))


def _labelled_text(positive: str, line: str) -> Sample:
    label, _, text = line.partition("\t")
    return {TEXT: text}, label == positive


def _spam(line: str) -> Sample:
    return _labelled_text("spam", line)


def _review(line: str) -> Sample:
    return _labelled_text("1", line)


_CRITEO_NUMBERS, _CRITEO_FIELDS = 13, 26


def _criteo(line: str) -> Sample:
    """Return a line of the Criteo click log: the label, 13 numbers, 26 strings; what is empty is missing."""
    label, *values = line.split("\t")
    numbers, fields = values[:_CRITEO_NUMBERS], values[_CRITEO_NUMBERS:]
    x: dict[str, Any] = {f"I{i}": float(value) for i, value in enumerate(numbers, start=1) if value}
    return x | {f"C{i}": value for i, value in enumerate(fields, start=1) if value}, label == "1"


def _avazu(header: Sequence[str], line: str) -> Sample:
    """Return a line of the Avazu click log: every column is a string, also the id of the request."""
    x: dict[str, Any] = dict(zip(header, next(csv.reader([line])), strict=True))
    return x, x.pop("click") == "1"


@dataclass(frozen=True)
class File:
    """Stream of a file, a line a sample.

    Attributes
    ----------
    name : str
        Name of the file.
    about : str
        What it contains.
    parse : callable of (str)
        Returns the sample of a line; with `header`, of (columns, line).
    texts : tuple of str
        Features that are texts.
    header : bool
        Whether the first line contains the names of the columns.
    """

    name: str
    about: str
    parse: Callable[..., Sample]
    texts: tuple[str, ...] = ()
    header: bool = False


#: Streams of files by name.
FILES = {
    "sms": File("sms.tsv.gz", "SMS Spam Collection: messages, spam or not", _spam, (TEXT,)),
    "reviews": File("reviews.tsv.gz", "sentences of film reviews, for or against", _review, (TEXT,)),
    "avazu": File("avazu.csv.gz", "clicks: 23 fields, one of them an id", _avazu, header=True),
    "criteo": File("criteo.tsv.gz", "clicks: 26 fields and 13 numbers", _criteo),
}
#: All streams, in the order of the tables.
NAMES = (*FILES, *generated.STREAMS)


def place(name: str, facts: Mapping[str, Any]) -> int:
    """Return the place of a stream in the tables."""
    return NAMES.index(name)


def load(name: str, limit: int | None = None, data_dir: Path | None = None) -> Stream:
    """Return a stream.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    limit : int
        Keep this many samples at most, from the start.
    data_dir : path
        Folder with the `FILES`, or with a folder ``sparse`` that contains them.

    Raises
    ------
    ValueError
        If the stream needs `data_dir`, and it is None or lacks the file.
    """
    if name in FILES:
        return _of_file(name, FILES[name], limit, data_dir)
    about = generated.STREAMS[name]
    draw = about.draw()
    count = min(len(draw.targets), limit or len(draw.targets))
    best = float(np.mean(draw.losses[:count]))
    values = sum(len(np.unique(of[:count])) for of in draw.fields.values())
    values += sum(len({word for text in of[:count] for word in words(text)}) for of in draw.texts.values())
    facts = _facts(about.task, values, len(draw.numbers))
    facts["best"] = round(math.sqrt(best) if about.task == "regression" else best, 6)
    samples = Samples(count, lambda i: (draw.features(i), draw.targets[i]))
    return Stream(name, about.task, "generated", samples, texts=tuple(draw.texts), facts=facts)


def _facts(task: Task, values: int, numbers: int) -> dict[str, Any]:
    metric = "LogLoss" if task == "classification" else "RMSE"
    return {"metric": metric, "values": values, "numbers": numbers}


def find(name: str, data_dir: Path | None) -> Path | None:
    """Return the file of a stream; None if it is not there."""
    folders = [] if data_dir is None else [data_dir / "sparse", data_dir]
    paths = (folder / FILES[name].name for folder in folders)
    return next((path for path in paths if path.exists()), None)


def _of_file(name: str, about: File, limit: int | None, data_dir: Path | None) -> Stream:
    path = find(name, data_dir)
    if path is None:
        raise ValueError(f"{name} needs a folder with {about.name}")
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        lines = [line.rstrip("\r\n") for line in file]
    header = next(csv.reader([lines.pop(0)])) if about.header else None
    lines = lines[:limit]

    def make(i: int) -> Sample:
        return about.parse(lines[i]) if header is None else about.parse(header, lines[i])

    samples = Samples(len(lines), make)
    found: set[tuple[str, str]] = set()
    for x, _ in samples:
        for key, value in x.items():
            if isinstance(value, str):
                found |= {(key, word) for word in words(value)} if key in about.texts else {(key, value)}
    numbers = len({key for x, _ in samples for key, value in x.items() if not isinstance(value, str)})
    facts = _facts("classification", len(found), numbers)
    source = f"{path.name}: {about.about}"
    return Stream(name, "classification", source, samples, texts=about.texts, facts=facts)
