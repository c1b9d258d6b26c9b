"""What a contestant is, and what one run of it gives."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bnp_online.evaluation.prequential import Learner, prequential

from ..common.streams import Stream

#: What is chosen in hindsight, by name: a learning rate, a form of input, …
Setting: TypeAlias = Mapping[str, Any]
#: Is called from time to time with the number of samples learned.
Tick: TypeAlias = Callable[[int], None]

_MANY_FEATURES = 500


@dataclass(frozen=True)
class Run:
    """What one pass over a stream gave.

    Attributes
    ----------
    metrics : dict of str to float, or None
        As `PrequentialMetrics` computes them; None if the model diverged.
    seconds : float
        Time spent in predicting and learning.
    """

    metrics: dict[str, float] | None
    seconds: float


Runner: TypeAlias = Callable[[Stream, int, Setting, Tick], Run]


@dataclass(frozen=True)
class Contestant:
    """A model that takes part.

    Attributes
    ----------
    name : str
        What tables call it.
    about : str
        What it is, in one line.
    run : callable of (stream, seed, setting, tick)
        One pass over a stream, from an untrained model.
    packages : tuple of str
        Distributions whose versions have a say in its results.
    grid : dict of str to tuple
        What is tried for each name in a setting; the best combination on a stream counts, in hindsight.
    slow : dict
        What is not tried on a stream of hundreds of features.
    seeded : bool
        Whether a seed makes a difference.
    ours : bool
        Whether it is this library's.
    """

    name: str
    about: str
    run: Runner
    packages: tuple[str, ...]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    slow: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True
    ours: bool = False

    def settings(self, features: int) -> list[Setting]:
        """Return every setting to try on a stream of so many features; one without any name if untuned."""
        tried: list[Setting] = [
            dict(zip(self.grid, chosen, strict=True)) for chosen in itertools.product(*self.grid.values())
        ]
        if features <= _MANY_FEATURES:
            return tried
        return [setting for setting in tried if not setting.items() & self.slow.items()]

    def at_edge(self, setting: Setting) -> bool:
        """Return whether the learning rate is the lowest or highest tried: a wider grid might do better."""
        rates = self.grid.get("rate", ())
        return len(rates) > 1 and setting["rate"] in (rates[0], rates[-1])


def run_samples(model: Learner, stream: Stream, samples: Iterable[tuple[Any, Any]], tick: Tick) -> Run:
    """Run a model over a stream's samples in a form that was prepared for it.

    The first sample is learned and not scored: before it there is nothing to know.
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
