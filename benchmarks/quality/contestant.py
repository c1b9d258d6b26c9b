"""Contestants of the quality benchmark, and the result of a run."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bnp_online.engines.base import Task
from bnp_online.evaluation.prequential import Learner, prequential

from ..common.streams import Stream

#: Values by name that are chosen in hindsight: a learning rate, a form of input, …
Setting: TypeAlias = Mapping[str, Any]
#: Progress callback; takes the number of learned samples.
Tick: TypeAlias = Callable[[int], None]

_MANY_FEATURES = 500


@dataclass(frozen=True)
class Run:
    """Result of one pass over a stream.

    Attributes
    ----------
    metrics : dict of str to float, or None
        Metrics of `PrequentialMetrics`; None if the model diverged.
    seconds : float
        Time of predicting and learning.
    """

    metrics: dict[str, float] | None
    seconds: float


Runner: TypeAlias = Callable[[Stream, int, Setting, Tick], Run]


@dataclass(frozen=True)
class Contestant:
    """Model that the benchmark compares.

    Attributes
    ----------
    name : str
        Name in the tables.
    about : str
        Description in one line.
    run : callable of (stream, seed, setting, tick)
        One pass over a stream, from an untrained model.
    packages : tuple of str
        Distributions whose versions affect the results.
    grid : dict of str to tuple
        Values to try for each name of a setting. The best combination on a stream counts, in hindsight.
    slow : dict
        Values that are skipped on a stream of hundreds of features.
    tasks : tuple of {"classification", "regression"}
        Streams that it can learn.
    most : int or None
        Greatest length of a stream, in samples times classes; None if it learns any in acceptable time.
    seeded : bool
        Whether the result depends on a seed.
    ours : bool
        Whether it belongs to this library.
    """

    name: str
    about: str
    run: Runner
    packages: tuple[str, ...]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    slow: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ("classification", "regression")
    most: int | None = None
    seeded: bool = True
    ours: bool = False

    def settings(self, facts: Mapping[str, Any]) -> list[Setting]:
        """Return all settings for a stream: an empty one if untuned, none if it does not learn the stream.

        Parameters
        ----------
        facts : dict
            `Stream.describe` of the stream.
        """
        if facts["task"] not in self.tasks:
            return []
        if self.most is not None and facts["samples"] * facts.get("classes", 1) > self.most:
            return []
        tried: list[Setting] = [
            dict(zip(self.grid, chosen, strict=True)) for chosen in itertools.product(*self.grid.values())
        ]
        if facts["features"] <= _MANY_FEATURES:
            return tried
        return [setting for setting in tried if not setting.items() & self.slow.items()]

    def at_edge(self, setting: Setting) -> bool:
        """Return whether the learning rate is at an end of the grid: a wider one might be better."""
        rates = self.grid.get("rate", ())
        return len(rates) > 1 and setting["rate"] in (rates[0], rates[-1])


def run_samples(model: Learner, stream: Stream, samples: Iterable[tuple[Any, Any]], tick: Tick) -> Run:
    """Run a model over prepared samples of a stream.

    The first sample is learned and not scored.
    """

    def progress(n: int) -> None:
        if n % 100 == 0:
            tick(n)

    rest = iter(samples)
    x, y = next(rest)
    start = time.perf_counter()
    model.learn_one(x, y)
    first = time.perf_counter() - start
    result = prequential(rest, model, stream.task, progress=progress)
    finite = all(math.isfinite(value) for value in result.metrics.values())
    return Run(result.metrics if finite else None, first + result.seconds)
