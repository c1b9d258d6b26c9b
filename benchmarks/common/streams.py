"""Real data streams by name, in their given order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from river import datasets
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn ships no types

from bnp_online.engines.base import Task

Features: TypeAlias = dict[str, Any]
Sample: TypeAlias = tuple[Features, Any]
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
    """

    name: str
    task: Task
    source: str
    samples: Sequence[Sample]
    pixels: NDArray[np.uint8] | None = None

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
        return facts


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
#: Every name that `load` knows, in the order of the tables. To add a stream, add an entry above.
NAMES = ("digits", "Phishing", "Bananas", "ImageSegments", "Shuttle", *FILES, "TrumpApproval", "ChickWeights")


def load(name: str, limit: int | None = None, data_dir: Path | None = None) -> Stream:
    """Return a stream.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    limit : int
        Keep this many samples at most, from the start.
    data_dir : path
        Where the `FILES` are.

    Raises
    ------
    ValueError
        If the stream needs `data_dir` and it is None.
    """
    if name in FILES:
        if data_dir is None:
            raise ValueError(f"{name} needs a folder with {FILES[name]}")
        return _images(name, data_dir / FILES[name], min(_IMAGE_LIMIT, limit or _IMAGE_LIMIT))
    entry = _ENTRIES[name]
    stop = min((n for n in (entry.limit, limit) if n is not None), default=None)
    return Stream(name, entry.task, entry.source, list(itertools.islice(entry.samples(), stop)))


def _images(name: str, path: Path, limit: int) -> Stream:
    with np.load(path) as arrays:
        images, labels = arrays["x_train"][:limit], arrays["y_train"][:limit]
    pixels = images.reshape(len(images), -1)
    source = f"{path.name}: the first {len(labels):,} of the training set"
    return Stream(name, "classification", source, _Images(pixels, labels), pixels)
