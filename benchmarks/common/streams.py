"""Data streams by name, in their order: real ones of packages and files, and generated ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from river import datasets
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn ships no types

from bnp_online.engines.base import Task

from . import generated
from .generated import AUTOCORRELATED, DRIFTING, GROUPS, LENGTH, STATIONARY
from .generated import Sample as Sample

Array: TypeAlias = NDArray[np.float64]

#: Forms of input; some rivals try both.
STANDARDIZED, RAW = "standardized", "raw"


@dataclass(frozen=True, eq=False)
class Stream:
    """Data stream in memory.

    Attributes
    ----------
    name : str
        Name in the tables.
    task : {"classification", "regression"}
        Prediction task.
    source : str
        Origin of the data.
    samples : sequence of (dict, target)
        In order.
    pixels : array of shape (N, n), or None
        The features of an image stream, for models that take arrays.
    group : str
        One of `GROUPS` for a file of ``DIR/streams`` and a generated stream; empty for one of `NAMES`.
    origin : {"", "files", "generated"}
        Where a stream with a group comes from.
    texts : tuple of str
        Features that are texts.
    facts : dict
        Further facts for `describe`.
    """

    name: str
    task: Task
    source: str
    samples: Sequence[Sample]
    pixels: NDArray[np.uint8] | None = None
    group: str = ""
    origin: Literal["", "files", "generated"] = ""
    texts: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> list[Any]:
        """The target of each sample."""
        return [y for _, y in self.samples]

    @property
    def labels(self) -> list[Any]:
        """Classes in order of arrival."""
        return list(dict.fromkeys(self.targets))

    def numeric(self) -> Stream:
        """Return the stream with a column of 0 and 1 for each value of a string feature."""
        if self.pixels is not None:
            return self
        encoded = [({k: v for item in x.items() for k, v in _columns(item)}, y) for x, y in self.samples]
        names = list(dict.fromkeys(name for x, _ in encoded for name in x))
        filled = [({name: x.get(name, 0.0) for name in names}, y) for x, y in encoded]
        return Stream(self.name, self.task, self.source, filled)

    def matrix(self) -> Array:
        """Return the features of `numeric`, a row a sample."""
        if self.pixels is not None:
            return self.pixels.astype(np.float64)
        return np.array([list(x.values()) for x, _ in self.numeric().samples], dtype=np.float64)

    def describe(self) -> dict[str, Any]:
        """Return task, source and sizes as JSON."""
        facts: dict[str, Any] = {"task": self.task, "source": self.source, "samples": len(self.samples)}
        facts["features"] = len(self.samples[0][0])
        if self.task == "classification":
            facts["classes"] = len(self.labels)
        if self.group:
            facts |= {"group": self.group, "origin": self.origin}
        return facts | dict(self.facts)


def _columns(item: tuple[str, Any]) -> list[tuple[str, float]]:
    name, value = item
    return [(f"{name}={value}", 1.0)] if isinstance(value, str) else [(name, float(value))]


class _Images(Sequence[Sample]):
    """Sequence of image samples that makes each dict on access (20,000 dicts of 784 pixels take 0.7 GB)."""

    def __init__(self, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self._labels: list[int] = labels.tolist()
        self._names = [f"pixel{i}" for i in range(pixels.shape[1])]

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, i: int) -> Sample: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Sample]: ...

    def __getitem__(self, i: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(i, slice):
            return _Images(self._pixels[i], np.array(self._labels[i], dtype=np.uint8))
        return dict(zip(self._names, self._pixels[i].tolist(), strict=True)), self._labels[i]

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def _digits() -> Iterable[Sample]:
    images, labels = load_digits(return_X_y=True)
    for image, label in zip(images.tolist(), labels.tolist(), strict=True):
        yield {f"pixel{i}": value for i, value in enumerate(image)}, label


@dataclass(frozen=True)
class _Entry:
    task: Task
    source: str
    samples: Callable[[], Iterable[Sample]]
    limit: int | None = None


_ENTRIES: dict[str, _Entry] = {
    "digits": _Entry("classification", "sklearn.datasets.load_digits", _digits),
    "Phishing": _Entry("classification", "river.datasets.Phishing", datasets.Phishing),
    "Bananas": _Entry("classification", "river.datasets.Bananas", datasets.Bananas),
    "ImageSegments": _Entry("classification", "river.datasets.ImageSegments", datasets.ImageSegments),
    "Shuttle": _Entry("classification", "river.datasets.Shuttle", datasets.Shuttle, 10_000),
    "TrumpApproval": _Entry("regression", "river.datasets.TrumpApproval", datasets.TrumpApproval),
    "ChickWeights": _Entry("regression", "river.datasets.ChickWeights", datasets.ChickWeights),
}
_IMAGE_LIMIT = 20_000

#: Files of the streams that no package contains; each holds x_train (N, 28, 28) and y_train (N,), uint8.
FILES = {"MNIST": "mnist.npz", "Fashion-MNIST": "fashion_mnist.npz"}
#: Real streams in the order of the tables. To add one, add an entry above.
NAMES = ("digits", "Phishing", "Bananas", "ImageSegments", "Shuttle", *FILES, "TrumpApproval", "ChickWeights")


#: Seed of the generated streams that `load` returns.
GENERATOR_SEED = 0
_GROUP_BY_LETTER = {"a": AUTOCORRELATED, "d": DRIFTING}


def files(data_dir: Path | None) -> dict[str, Path]:
    """Return the files ``NAME.npz`` with arrays X (N, n) and y (N,), in a folder or its ``streams``."""
    folders = [] if data_dir is None else [data_dir / "streams", data_dir]
    paths = [path for folder in folders for path in sorted(folder.glob("*.npz"))]
    return {path.stem: path for path in paths if _is_stream(path)}


def _is_stream(path: Path) -> bool:
    with np.load(path) as arrays:
        return {"X", "y"} <= set(arrays.files)


def names(data_dir: Path | None = None) -> list[str]:
    """Return every name that `load` knows: `NAMES`, those of `files`, and those of the generated streams."""
    return [*NAMES, *files(data_dir), *generated.STREAMS]


def place(name: str, facts: Mapping[str, Any]) -> tuple[int, int, str, str, str]:
    """Return the place of a stream in the tables: `NAMES`, then by group, task and origin.

    Parameters
    ----------
    name : str
        Name of the stream.
    facts : dict
        `Stream.describe` of it.
    """
    if name in NAMES:
        return NAMES.index(name), 0, "", "", ""
    return len(NAMES), GROUPS.index(facts["group"]), facts["task"], facts["origin"], name


def load(name: str, limit: int | None = None, data_dir: Path | None = None) -> Stream:
    """Return a stream.

    Parameters
    ----------
    name : str
        One of `names`.
    limit : int
        Keep this many samples at most, from the start.
    data_dir : path
        Where the `FILES` and the `files` are.

    Raises
    ------
    ValueError
        If the stream needs `data_dir`, and it is None or lacks the file.
    """
    if name in FILES:
        if data_dir is None:
            raise ValueError(f"{name} needs a folder with {FILES[name]}")
        return _images(name, data_dir / FILES[name], min(_IMAGE_LIMIT, limit or _IMAGE_LIMIT))
    if name in generated.STREAMS:
        return _generated(name, min(LENGTH, limit or LENGTH))
    if name not in _ENTRIES:
        return _of_file(name, limit, files(data_dir))
    entry = _ENTRIES[name]
    stop = min((n for n in (entry.limit, limit) if n is not None), default=None)
    return Stream(name, entry.task, entry.source, list(itertools.islice(entry.samples(), stop)))


def _generated(name: str, limit: int) -> Stream:
    about = generated.STREAMS[name]
    samples = list(itertools.islice(about.samples(GENERATOR_SEED), limit))
    source = f"generated, seed {GENERATOR_SEED}"
    return Stream(name, about.task, source, samples, group=about.group, origin="generated")


def _of_file(name: str, limit: int | None, paths: Mapping[str, Path]) -> Stream:
    """Return a stream of a file: classes if y contains integers; the group is the first part of its name.

    ``a_`` or ``ra_`` marks autocorrelated streams, ``d_`` or ``rd_`` drifting ones.
    """
    if name not in paths:
        raise ValueError(f"{name} needs a folder with {name}.npz")
    with np.load(paths[name]) as arrays:
        X, y = arrays["X"][:limit], arrays["y"][:limit]
    task: Task = "regression" if y.dtype.kind == "f" else "classification"
    group = _GROUP_BY_LETTER.get(name.partition("_")[0][-1:], STATIONARY)
    return Stream(name, task, paths[name].name, list(generated.rows((X, y))), group=group, origin="files")


def _images(name: str, path: Path, limit: int) -> Stream:
    with np.load(path) as arrays:
        images, labels = arrays["x_train"][:limit], arrays["y_train"][:limit]
    pixels = images.reshape(len(images), -1)
    source = f"{path.name}: the first {len(labels):,} of the training set"
    return Stream(name, "classification", source, _Images(pixels, labels), pixels)
