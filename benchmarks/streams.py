"""Named streams of real data, in the order in which they are given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from river import datasets
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn ships no types

from bnp_online.engines.base import Task

Features: TypeAlias = dict[str, Any]
SampleList: TypeAlias = list[tuple[Features, Any]]


@dataclass(frozen=True, eq=False)
class Stream:
    """A stream that fits in memory.

    Attributes
    ----------
    name : str
        What tables call it.
    task : {"classification", "regression"}
        What there is to predict.
    source : str
        Where it is from.
    samples : list of (dict, target)
        In order.
    """

    name: str
    task: Task
    source: str
    samples: SampleList

    @property
    def metric(self) -> str:
        """The one metric that tables show: ``"Accuracy"`` (higher is better) or ``"MAE"`` (lower is)."""
        return "Accuracy" if self.task == "classification" else "MAE"

    @property
    def labels(self) -> list[Any]:
        """Classes in order of arrival."""
        return list(dict.fromkeys(y for _, y in self.samples))

    def numeric(self) -> Stream:
        """Return the stream with a column of 0 and 1 for each value of a string feature."""
        encoded = [({k: v for item in x.items() for k, v in _columns(item)}, y) for x, y in self.samples]
        names = list(dict.fromkeys(name for x, _ in encoded for name in x))
        filled: SampleList = [({name: x.get(name, 0.0) for name in names}, y) for x, y in encoded]
        return Stream(self.name, self.task, self.source, filled)

    def describe(self) -> dict[str, Any]:
        """Return what a reader must know about it, as JSON."""
        facts = {"task": self.task, "source": self.source, "samples": len(self.samples)}
        facts["features"] = len(self.samples[0][0])
        if self.task == "classification":
            facts["classes"] = len(self.labels)
        return facts


def _columns(item: tuple[str, Any]) -> list[tuple[str, float]]:
    name, value = item
    return [(f"{name}={value}", 1.0)] if isinstance(value, str) else [(name, float(value))]


def _digits() -> Iterable[tuple[Features, Any]]:
    images, labels = load_digits(return_X_y=True)
    for image, label in zip(images.tolist(), labels.tolist(), strict=True):
        yield {f"pixel{i}": value for i, value in enumerate(image)}, label


@dataclass(frozen=True)
class _Entry:
    task: Task
    source: str
    samples: Callable[[], Iterable[tuple[Features, Any]]]
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

#: Every name that `load` knows. To add a stream, add an entry above.
NAMES = tuple(_ENTRIES)


def load(name: str, limit: int | None = None) -> Stream:
    """Return a stream.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    limit : int
        Keep this many samples at most, from the start.
    """
    entry = _ENTRIES[name]
    stop = min((n for n in (entry.limit, limit) if n is not None), default=None)
    return Stream(name, entry.task, entry.source, list(itertools.islice(entry.samples(), stop)))
