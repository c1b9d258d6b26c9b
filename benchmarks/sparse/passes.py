"""One pass of a model over a stream, with the processor time that the model takes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from bnp_online.evaluation.prequential import PrequentialMetrics

from ..common.streams import Sample, Stream
from ..quality.contestant import Run, Setting, Tick

#: Number of samples between two readings of the processor's clock.
BLOCK = 100
#: Samples that a model of its own learns before the first pass in a process: compilation does not count.
WARM_UP = 400


class Model(Protocol):
    """Model that predicts a sample, and then learns it."""

    def step(self, x: Any, y: Any) -> Any:
        """Return probabilities by label, or a number, from before the sample is learned."""


#: Function of (stream, seed, setting) that returns an untrained model.
Make: TypeAlias = Callable[[Stream, int, Setting], Model]
#: Function that yields the samples of a stream in the form that a model takes.
Form: TypeAlias = Callable[[Stream], Iterable[tuple[Any, Any]]]


def blocks(samples: Iterable[Sample], size: int = BLOCK) -> Iterator[list[Sample]]:
    """Yield the samples in lists of `size`; the last one may be shorter."""
    rest = iter(samples)
    while block := list(itertools.islice(rest, size)):
        yield block


def steps(model: Model, samples: Sequence[tuple[Any, Any]]) -> tuple[list[Any], float]:
    """Return the predictions of samples, and the processor time of predicting and learning in seconds."""
    start = time.process_time()
    answers = [model.step(x, y) for x, y in samples]
    return answers, time.process_time() - start


def run_model(make: Make, form: Form, stream: Stream, seed: int, setting: Setting, tick: Tick) -> Run:
    """Run an untrained model over a stream, and score the prediction of each sample.

    A classifier without a prediction, as before the first sample, is scored with equal probabilities for all
    classes. A regressor without one is not scored. The time does not include the form of the samples.

    Parameters
    ----------
    make, form : callable
        The model, and its form of the samples.
    stream : Stream
        The stream.
    seed : int
        Seed of the model.
    setting : dict
        Setting of the model.
    tick : callable
        Progress callback; takes the number of learned samples.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        steps(make(stream, seed, setting), list(itertools.islice(form(stream), WARM_UP)))
    model, scores = make(stream, seed, setting), PrequentialMetrics(stream.task)
    classification = stream.task == "classification"
    labels = stream.labels if classification else []
    equal = {label: 1.0 / len(labels) for label in labels}
    seconds, n = 0.0, 0
    for block in blocks(form(stream)):
        with np.errstate(over="ignore", invalid="ignore"):  # a rival that diverges
            answers, of_block = steps(model, block)
        seconds += of_block
        for (_, y), answer in zip(block, answers, strict=True):
            if classification:
                probabilities = answer or equal
                scores.update(y, max(probabilities, key=probabilities.__getitem__), probabilities)
            elif n:
                scores.update(y, answer)
            n += 1
        tick(n)
    metrics = scores.cumulative()
    known = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
    return Run(known if len(known) == len(metrics) else None, seconds)
